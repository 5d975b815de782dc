//! What a run will do, decided before anything is changed: `wink run` then does it, `--dry-run` and `wink explain` say it.
//!
//! All three go through the same questions in the same order, so that what is said is what happens.

use std::sync::Arc;

use wink_platform::unix::{identity, machine, probe};
use wink_store::{RecordHead, Store};

use crate::config::{Config, Own, Transport};
use crate::engine::lookup::{Found, Judged, Miss};
use crate::engine::own::{Standing, left, standing};
use crate::engine::restore::{NoPlan, Plan};
use crate::engine::session::too_few_descriptors;
use crate::engine::tree::Tree;
use crate::engine::{Engine, Task};
use crate::outer;
use crate::package::excluded;
use crate::progress::doing;
use crate::report::{Class, Difference, Status};

/// Why a run inside another one is a plain part of it.
const INSIDE_ANOTHER: &str = "inside another task, which sees and records all of it";

/// Why the cache takes no part in a task, where that is known before it is opened.
pub fn barred(task: &Task) -> Option<(Class, String)> {
    // Where the outer task cannot be asked, nobody can say what a file of its view is known by, nor whether it is still the same.
    if let Some(Err(error)) = outer::of_run(&task.workspace).map(|outer| outer.answers()) {
        return Some((Class::Nested, format!("{INSIDE_ANOTHER}; {}", crate::explain(&error))));
    }
    if crate::engine::detect::snapshot::is_inside() {
        let reason = "it runs inside a task that is not watched (--detect snapshot or glob)";
        return Some((Class::Nested, reason.to_owned()));
    }
    if task.settings.uncached {
        return Some((Class::Excluded, "the configuration says not to cache this command (cache = false)".to_owned()));
    }
    if let Some(name) = excluded(&task.cwd, &task.workspace, &task.settings.exclude_packages) {
        let reason = format!("the package {name} is excluded from caching (exclude_packages)");
        return Some((Class::Excluded, reason));
    }
    // Before descriptors are asked about: all of them lead into it.
    if task.workspace.parent().is_none() {
        return Some((Class::NotWatched, "the workspace is the whole file system; run it in a project".to_owned()));
    }
    let handed = identity::handed_descriptor(&task.workspace, &task.argv)?;
    let reason = format!("{handed} was handed to the command, and nobody sees what comes and goes there");
    Some((Class::NotWatched, reason))
}

/// Opens the store, and finds the mount that the workspace lies in.
pub fn open(task: &mut Task, config: &Config, use_daemon: bool) -> anyhow::Result<Arc<Store>> {
    let dir = config.store_dir()?;
    // Through a view neither the locks nor the shared memory of a database would reach the others who use it.
    anyhow::ensure!(outer::around(dir).is_none(), "{INSIDE_ANOTHER}; the cache {} lies in its view", dir.display());
    if use_daemon && outer::of_run(&task.workspace).is_none() {
        task.mount = crate::command::mount::find(dir, &task.workspace)?;
    }
    Ok(Arc::new(Store::open(dir)?))
}

/// What came of a lookup.
pub enum Decision {
    /// A record holds, and can be restored.
    Hit(Box<Hit>),
    /// The command is to run.
    Miss(Box<Found>),
}

/// A record that holds.
pub struct Hit {
    /// Its head.
    pub head: RecordHead,
    /// How many observations it has.
    pub observations: u64,
    /// What restoring takes.
    pub plan: Plan,
}

/// Looks the task up. Of a record that holds and cannot be restored the reason is told: then it is a miss.
pub fn decide(engine: &Engine<'_>, tree: &mut Tree<'_>, standing: &Standing) -> anyhow::Result<Decision> {
    let _doing = doing("reading inputs", None);
    let mut found = engine.lookup(tree, standing)?;
    let Some((head, observations)) = found.hit.take() else { return Ok(Decision::Miss(Box::new(found))) };
    found.difference = None;
    found.reason = match engine.plan_restore(&head, tree, standing) {
        Ok(plan) => return Ok(Decision::Hit(Box::new(Hit { head, observations, plan }))),
        Err(NoPlan::Damage(error)) => {
            if !engine.task.only_asked {
                engine.store.drop_record(&head.id)?;
            }
            found.class = Class::Damaged;
            format!("a damaged record was dropped: {error}")
        }
        Err(NoPlan::OtherLinks(path)) => {
            found.class = Class::HardLinks;
            format!("{path} has got other names (hard links)")
        }
        Err(NoPlan::NotKept(path)) => {
            found.class = Class::NotRestored;
            format!("a hit would remove {path}, which an earlier run left and the cache does not hold any more")
        }
        Err(NoPlan::Failed(error)) => return Err(error),
    };
    Ok(Decision::Miss(Box::new(found)))
}

/// What stands in the workspace of earlier runs.
pub fn own_outputs(engine: &Engine<'_>, tree: &mut Tree<'_>) -> anyhow::Result<Standing> {
    let _doing = doing("reading earlier outputs", None);
    Ok(match engine.task.settings.own {
        Own::Observe => Standing::default(),
        Own::Carry | Own::Hide => standing(&left(engine.store, &engine.task.keys.own)?, engine.workspace(), tree)?,
    })
}

/// What `wink run` would do.
#[derive(Default)]
pub struct Foreseen {
    /// Hit, miss, or why not even that.
    pub status: Status,
    /// None of a hit.
    pub reason: Option<String>,
    /// What differs from the nearest record.
    pub difference: Option<Difference>,
    /// The record that holds.
    pub hit: Option<(RecordHead, u64)>,
    /// Every record of the task, if they were asked for; the one that would be restored first, then last used first.
    pub candidates: Vec<Judged>,
    /// How many outputs a hit would give.
    pub outputs: u64,
}

impl Foreseen {
    fn uncached(reason: String) -> Foreseen {
        Foreseen { reason: Some(reason), ..Foreseen::default() }
    }
}

/// Says what `wink run` would do with the task, and changes nothing. With `all`, every record of the task is judged.
/// `unread`: why records are not looked up at all.
pub fn foresee(task: &mut Task, config: &Config, use_daemon: bool, unread: Option<&str>, all: bool) -> Foreseen {
    task.only_asked = true;
    let foreseen = look(task, config, use_daemon, unread, all);
    let foreseen = foreseen.unwrap_or_else(|error| Foreseen::uncached(crate::explain(&error)));
    match foreseen.status {
        // A hit needs no view.
        Status::Miss => match no_view(task) {
            Some(reason) => Foreseen { status: Status::Uncached, reason: Some(reason), ..foreseen },
            None => foreseen,
        },
        _ => foreseen,
    }
}

fn look(
    task: &mut Task,
    config: &Config,
    use_daemon: bool,
    unread: Option<&str>,
    all: bool,
) -> anyhow::Result<Foreseen> {
    let first =
        |reason: &str| Foreseen { status: Status::Miss, reason: Some(reason.to_owned()), ..Foreseen::default() };
    // Looking must not make one.
    if !config.store_dir()?.try_exists().unwrap_or(true) {
        return Ok(first(unread.unwrap_or("first run")));
    }
    let store = open(task, config, use_daemon)?;
    if let Some(notice) = store.notice() {
        crate::complain(&notice);
    }
    if let Some(reason) = unread {
        return Ok(first(reason));
    }
    let _hold = store.hold()?;
    let engine = Engine { store: &store, task, unheld: false };
    let mut tree = Tree::new(&store, task.mount.as_ref())?;
    let standing = own_outputs(&engine, &mut tree)?;
    let mut foreseen = match decide(&engine, &mut tree, &standing)? {
        Decision::Hit(hit) => Foreseen {
            status: Status::Hit,
            outputs: hit.plan.outputs(),
            hit: Some((hit.head, hit.observations)),
            ..Foreseen::default()
        },
        Decision::Miss(found) => Foreseen { difference: found.difference, ..first(&found.reason) },
    };
    if all {
        foreseen.candidates = engine.judge_all(&mut tree, &standing)?;
        // The one that a lookup found, and that cannot be restored.
        let spoilt = foreseen.candidates.iter_mut().find(|one| one.verdict.is_ok() && foreseen.hit.is_none());
        if let (Some(spoilt), Some(reason)) = (spoilt, &foreseen.reason) {
            spoilt.verdict = Err(Miss { reason: reason.clone(), difference: None });
        }
        let chosen = foreseen.hit.as_ref().map(|(head, _)| head.id);
        foreseen.candidates.sort_by_key(|candidate| Some(candidate.head.id) != chosen);
    }
    Ok(foreseen)
}

/// Why a command could not run in a view here.
fn no_view(task: &Task) -> Option<String> {
    if identity::is_read_only(&task.workspace) {
        return Some("the workspace is read-only".to_owned());
    }
    let unserved = || {
        let reason = machine::no_uring().filter(|_| task.settings.transport == Transport::Uring)?;
        Some(format!("the view cannot be served: FUSE over io_uring is not to be had: {reason}"))
    };
    too_few_descriptors()
        .or_else(|| probe::view_available(&task.workspace).err().map(|error| error.to_string()))
        .or_else(unserved)
}

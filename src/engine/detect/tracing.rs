//! Tracing: the command runs in a view of the file tree, which sees every path that it asks for.
//!
//! Nothing that it writes is in the workspace before it has ended; earlier outputs are shown or hidden by the view (DESIGN §3.4).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;

use wink_fs::attr::{Kind, Time};
use wink_fs::view::Newer;
use wink_fs::zone::join;
use wink_platform::unix::detach;
use wink_platform::unix::mounts::is_dead;
use wink_platform::unix::task::{Finished, Spawn};
use wink_store::Captured;
use wink_store::{Entry, Observation, Output};

use super::{Attempt, Detect, Ended};
use crate::command::run::INSIDE;
use crate::config::Own;
use crate::engine::Engine;
use crate::engine::capture::{Carried, Harvest, Yield};
use crate::engine::own::{Standing, is_history, is_kept, is_stored, standing};
use crate::engine::publish::Deed;
use crate::engine::session::{Outcome, Ran};
use crate::engine::tree::Tree;
use crate::engine::turn::Turn;

/// See the module.
pub struct Tracing;

impl Detect for Tracing {
    fn run<'s>(&self, engine: &Engine<'s>, standing: &Standing, tree: &mut Tree<'s>) -> anyhow::Result<Attempt> {
        let task = engine.task;
        let Shown { carried, hidden, newer } = shown(engine, standing, tree)?;
        let mut environment: Vec<(OsString, OsString)> =
            task.environment.iter().map(|(name, value)| (name.clone(), task.shown(value))).collect();
        let argv: Vec<OsString> = task.argv.iter().map(|word| task.shown(word)).collect();
        environment.push((INSIDE.into(), "1".into()));
        let spawn = Spawn { argv: &argv, env: environment, cwd: None, ..task.spawn() };
        Ok(match engine.run_in_view(hidden.paths.clone(), newer, spawn)? {
            Outcome::Ran(ran) => {
                let leftovers = Standing::default();
                Attempt::Ran(Box::new(Viewed { carried, hidden, leftovers, ran: *ran }))
            }
            Outcome::NoView(reason) => Attempt::NoView(reason),
        })
    }
}

/// A run in a view.
struct Viewed {
    carried: Option<Carried>,
    hidden: Standing,
    /// Those that were hidden and are to go.
    leftovers: Standing,
    ran: Ran,
}

impl Ended for Viewed {
    fn finished(&mut self) -> &mut Finished {
        &mut self.ran.finished
    }

    fn harvest<'s>(&mut self, engine: &Engine<'s>, tree: &mut Tree<'s>) -> anyhow::Result<Harvest> {
        let ran = &mut self.ran;
        let view = ran.view.inner();
        let run = Yield {
            delta: view.delta().map_err(|status| anyhow::anyhow!("cannot tell what the command changed: {status}"))?,
            sights: ran.view.recorder().take(),
            notes: view.notes(),
            printed: Captured { pieces: ran.finished.pieces.clone() },
            carried: self.carried.take(),
            hidden: &self.hidden,
            zones: &ran.zones,
            unnoted: &ran.unnoted,
            backing: view.backing().real(),
            live: !ran.finished.survivors.is_empty(),
            in_place: false,
        };
        let doing = crate::progress::doing("recording what it read and wrote", None);
        let mut harvest = engine.capture(run, tree);
        drop(doing);
        if let Some(doubt) = ran.doubt.take() {
            harvest.doubts.insert(0, doubt);
        }
        // A run that failed made nothing in their place: what an earlier one left may still be of use to somebody.
        if ran.finished.outcome.exit_code() == 0 {
            self.leftovers = still_standing(engine, &self.hidden, tree);
            let left = |path: &&Vec<u8>| !self.leftovers.outputs.contains_key(*path);
            if let Some(path) = self.hidden.outputs.keys().find(left) {
                harvest.doubts.push(format!("{} changed while the command ran", String::from_utf8_lossy(path)));
            }
            harvest.left_behind = leave_behind(engine, &mut self.leftovers, &harvest);
        }
        Ok(harvest)
    }

    fn publish<'s>(
        &mut self,
        engine: &Engine<'s>,
        harvest: &mut Harvest,
        tree: &mut Tree<'s>,
        turn: Option<&Turn>,
    ) -> anyhow::Result<()> {
        let task = engine.task;
        let mut published = engine.publish(harvest, &self.leftovers, tree, turn);
        if published.is_err() {
            // The daemon may have died half-way, or something was short for a moment.
            if task.mount.as_ref().is_some_and(|mount| is_dead(&mount.root)) {
                let _ = crate::command::mount::revive(&task.workspace);
            }
            if let Some(turn) = turn {
                turn.sweep(&task.workspace);
            }
            published = engine.publish(harvest, &self.leftovers, tree, turn);
            if let (Err(_), Some(turn)) = (&published, turn) {
                turn.leave();
            }
        }
        if !self.ran.finished.survivors.is_empty() {
            self.ran.published = std::mem::take(&mut harvest.deeds);
        }
        published
    }

    /// The view stays until the last of them has gone, and what they wrote meanwhile is published then.
    fn stay(self: Box<Self>, engine: &Engine<'_>) {
        let mut ran = self.ran;
        if let Some(rest) = ran.finished.rest.take() {
            rest.pass_on();
        }
        // Whoever reads what the command printed has all of it, and shall not wait for what outlived it. Failing costs that wait.
        let _ = detach::let_go_of_streams();
        if let Some(serving) = ran.serving.take() {
            // The kernel drops the mount with its last process.
            let _ = serving.wait();
        }
        let published = std::mem::take(&mut ran.published);
        let publish = || -> anyhow::Result<()> {
            let turn = Turn::take(engine.store, &engine.task.workspace)?;
            let hold = engine.store.hold();
            let engine = &Engine { unheld: hold.is_err(), ..*engine };
            let view = ran.view.inner();
            let mut tree = Tree::new(engine.store, engine.task.mount.as_ref())?;
            let run = Yield {
                delta: view.delta().map_err(|status| anyhow::anyhow!("{status}"))?,
                sights: HashMap::new(),
                notes: view.notes(),
                printed: Captured::default(),
                carried: None,
                hidden: &Standing::default(),
                zones: &ran.zones,
                unnoted: &ran.unnoted,
                backing: view.backing().real(),
                live: false,
                in_place: false,
            };
            let mut harvest = engine.capture(run, &mut tree);
            // What was published when the command ended is the user's by now.
            harvest.deeds.retain(|deed| !published.iter().any(|done| done.path() == deed.path() && done.is_like(deed)));
            let replaced: HashSet<Vec<u8>> =
                harvest.deeds.iter().filter(|deed| !deed.is_set_aside()).map(|deed| deed.path().to_vec()).collect();
            harvest.deeds.retain(|deed| !deed.is_set_aside() || replaced.contains(deed.path()));
            engine.publish(&mut harvest, &Standing::default(), &mut tree, Some(&turn))
        };
        if let Err(error) = publish() {
            crate::complain(&format!(
                "what outlived the command wrote files that could not be published: {}",
                crate::explain(&error)
            ));
        }
    }
}

/// Which own outputs the command is shown, and which are hidden.
struct Shown {
    carried: Option<Carried>,
    hidden: Standing,
    /// What must look new to a command that is shown some.
    newer: Option<Newer>,
}

/// Takes out of `leftovers` what must stay: files that the command did not make again and whose bytes are nowhere else, and the directories that
/// they are in.
fn leave_behind(engine: &Engine<'_>, leftovers: &mut Standing, harvest: &Harvest) -> BTreeMap<Vec<u8>, Output> {
    let made: HashSet<&[u8]> = harvest.deeds.iter().map(Deed::path).collect();
    let stays = |path: &[u8], output: &Output| !made.contains(path) && !is_kept(engine.store, output);
    let staying: BTreeMap<Vec<u8>, Output> = leftovers
        .outputs
        .iter()
        .filter(|(path, output)| stays(path, output))
        .map(|(path, output)| (path.clone(), output.clone()))
        .collect();
    for path in staying.keys() {
        let dirs = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end]);
        for gone in dirs.chain([path.as_slice()]) {
            leftovers.outputs.remove(gone);
            leftovers.paths.remove(&join(engine.workspace(), gone));
        }
    }
    staying
}

/// Those own outputs that still stand untouched after the run. What somebody edited meanwhile is theirs.
fn still_standing(engine: &Engine<'_>, hidden: &Standing, tree: &mut Tree<'_>) -> Standing {
    let left = hidden.outputs.iter().map(|(path, output)| (path.clone(), vec![output.clone()])).collect();
    // When that cannot be told, nothing is removed.
    standing(&left, engine.workspace(), tree).unwrap_or_default()
}

/// §3.4: if all that the previous run here left stands untouched, the command sees it; else it runs as from clean.
fn shown(engine: &Engine<'_>, standing: &Standing, tree: &mut Tree<'_>) -> anyhow::Result<Shown> {
    let all_hidden = || Shown {
        carried: None,
        hidden: Standing { outputs: standing.outputs.clone(), paths: standing.paths.clone() },
        newer: None,
    };
    if engine.task.settings.own != Own::Carry {
        return Ok(all_hidden());
    }
    let Some(mut carried) = previous(engine)? else {
        return Ok(all_hidden());
    };
    let mut untouched = |path: &[u8], output: &Output| match (standing.outputs.get(path), output) {
        (Some(Output::Dir { .. }), Output::Dir { .. }) => true,
        (Some(there), left) => there == left,
        // Somebody else's file in it makes a directory theirs, and takes nothing away from what was left.
        (None, Output::Dir { .. }) => {
            matches!(tree.attr(&join(engine.workspace(), path)), Ok(Some(attr)) if attr.kind == Kind::Dir)
        }
        (None, _) => false,
    };
    // What another task of ours has rewritten (tools that share one output directory) makes nobody start over: it is an input
    // like any other from now on.
    let touched: Vec<Vec<u8>> = carried
        .outputs
        .iter()
        .filter(|(path, output)| !untouched(path, output))
        .map(|(path, _)| path.clone())
        .collect();
    for path in touched {
        if !is_stored(engine.store, &join(engine.workspace(), &path), tree) {
            return Ok(all_hidden());
        }
        carried.outputs.remove(&path);
        carried.lent.push(join(engine.workspace(), &path));
    }
    // A directory in which somebody else's files lie too is not this task's alone any more. As an own output it would be recorded as absent,
    // which it is not here from now on, and the record would never hold.
    let shared: Vec<Vec<u8>> = carried
        .outputs
        .iter()
        .filter(|(path, output)| matches!(output, Output::Dir { .. }) && !standing.outputs.contains_key(*path))
        .map(|(path, _)| path.clone())
        .collect();
    for path in shared {
        carried.outputs.remove(&path);
        carried.lent.push(join(engine.workspace(), &path));
    }
    let mut hidden = Standing::default();
    for (path, output) in &standing.outputs {
        if !carried.outputs.contains_key(path) {
            hidden.paths.insert(join(engine.workspace(), path));
            hidden.outputs.insert(path.clone(), output.clone());
        }
    }
    match changed_inputs(engine, &carried, standing, tree) {
        Some(newer) => Ok(Shown { carried: Some(carried), hidden, newer: Some(newer) }),
        None => Ok(all_hidden()),
    }
}

fn previous(engine: &Engine<'_>) -> anyhow::Result<Option<Carried>> {
    let store = engine.store;
    let Some(id) = store.last(engine.workspace(), &engine.task.keys.own)? else {
        return Ok(None);
    };
    let Some(head) = store.head(&id)? else {
        return Ok(None);
    };
    let loaded = store.manifest(&head.manifest).and_then(|manifest| Ok((manifest, store.trace(&head.fingerprint)?)));
    let (manifest, trace) = match loaded {
        Ok(loaded) => loaded,
        Err(error) if error.is_damage() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let gone = |entry: &&Entry| entry.output == Output::Removed;
    let consumed = manifest.entries.iter().filter(gone).map(|entry| join(engine.workspace(), &entry.path)).collect();
    let outputs: BTreeMap<Vec<u8>, Output> = manifest
        .entries
        .into_iter()
        .filter(|entry| !entry.modified && entry.output != Output::Removed && !is_history(&entry.path))
        .map(|entry| (entry.path, entry.output))
        .collect();
    Ok((!outputs.is_empty()).then_some(Carried { head, trace, outputs, consumed, lent: Vec::new() }))
}

/// What must look new to a command that is shown outputs of an earlier run: whatever that run did not see just so. `None` if something
/// it saw is gone: most commands never ask for what is gone, so the result could not be told from a stale one.
fn changed_inputs(engine: &Engine<'_>, carried: &Carried, standing: &Standing, tree: &mut Tree<'_>) -> Option<Newer> {
    let mut but: HashSet<Vec<u8>> = carried.outputs.keys().map(|path| join(engine.workspace(), path)).collect();
    for (path, seen) in &carried.trace.seen {
        let absolute = crate::engine::lookup::slashed(engine.task.roots.absolute(path));
        match engine.present(path, &seen.fact, tree, standing) {
            Ok(present) if present == seen.fact => {
                but.insert(absolute);
            }
            Ok(Observation::Absent) if !carried.consumed.contains(&absolute) => return None,
            _ => {}
        }
    }
    Some(Newer { least: Time::now(), but })
}

//! A miss: the command runs in its view, what it left is published, and recorded unless there is a doubt.
//!
//! This is the engine process (`wink_platform::unix::front`): it must announce an exit code whatever happens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use wink_fs::attr::{Kind, Time};
use wink_fs::view::Newer;
use wink_fs::zone::join;
use wink_platform::unix::front::Announcer;
use wink_platform::unix::mounts::is_dead;
use wink_platform::unix::task::Spawn;
use wink_store::Digest;
use wink_store::{Captured, Record, RecordHead, RecordId};
use wink_store::{Entry, Observation, Output};
use wink_store::{Store, StoreError};

use super::{Asked, INSIDE, Missed, native, not_started};
use crate::config::Own;
use crate::engine::capture::{Carried, Harvest, Yield};
use crate::engine::own::{Standing, is_history, is_stored, standing};
use crate::engine::publish::{Deed, lock};
use crate::engine::session::{Outcome, Ran};
use crate::engine::tree::Tree;
use crate::engine::{Engine, Task, now_ms};
use crate::report::{Report, Status};

/// How many survivors are named in the one line.
const NAMED_MAX: usize = 3;

/// Everything the engine process does.
pub fn engine(asked: &Asked, task: &Task, store: &Path, missed: Missed, announcer: Announcer) {
    let code = match Store::open(store).map(Arc::new).context("the cache cannot be opened") {
        Ok(store) => match run(asked, &Engine { store: &store, task }, missed) {
            Ok(Done { report, ran }) => {
                let code = asked.deliver(report);
                match ran {
                    Some(ran) => {
                        return stay(&Engine { store: &store, task }, *ran, announcer, code);
                    }
                    None => code,
                }
            }
            Err(Trouble::BeforeTheCommand(error)) => fall_back(asked, task, &error),
            Err(Trouble::AfterTheCommand { error, code }) => {
                let report = Report {
                    reason: Some(crate::explain(&error)),
                    // What it left may be lost: that is no success.
                    exit_code: if code == 0 { crate::cli::EXIT_OWN_FAILURE } else { code },
                    task_key: Some(task.keys.task.0.to_string()),
                    ..Report::default()
                };
                asked.deliver(report)
            }
        },
        Err(error) => fall_back(asked, task, &error),
    };
    announcer.ended(code);
}

fn fall_back(asked: &Asked, task: &Task, error: &anyhow::Error) -> i32 {
    native::run(asked, task, crate::explain(error)).unwrap_or_else(|error| {
        crate::complain(&crate::explain(&error));
        crate::cli::EXIT_OWN_FAILURE
    })
}

/// Failures, by whether the command has run: it must run once, not twice and not never.
enum Trouble {
    BeforeTheCommand(anyhow::Error),
    AfterTheCommand { error: anyhow::Error, code: i32 },
}

struct Done {
    report: Report,
    /// Set if processes outlived the command.
    ran: Option<Box<Ran>>,
}

/// Which own outputs the command is shown, and which are hidden.
struct Shown {
    carried: Option<Carried>,
    hidden: Standing,
    /// What must look new to a command that is shown some.
    newer: Option<Newer>,
}

fn run(asked: &Asked, engine: &Engine<'_>, missed: Missed) -> Result<Done, Trouble> {
    let task = engine.task;
    let mut tree = Tree::new(engine.store, task.mount.as_ref()).map_err(Trouble::BeforeTheCommand)?;
    let shown = shown(engine, &missed.standing, &mut tree).map_err(Trouble::BeforeTheCommand)?;
    let Shown { carried, hidden, newer } = shown;
    let mut environment: Vec<(OsString, OsString)> =
        task.environment.iter().map(|(name, value)| (name.clone(), task.shown(value))).collect();
    let argv: Vec<OsString> = task.argv.iter().map(|word| task.shown(word)).collect();
    environment.push((INSIDE.into(), "1".into()));
    let spawn = Spawn { argv: &argv, env: environment, cwd: None, ..native::spawn(task) };
    let outcome = engine.run_in_view(hidden.paths.clone(), newer, spawn).map_err(Trouble::BeforeTheCommand)?;
    let mut ran = match outcome {
        Outcome::Ran(ran) => ran,
        Outcome::NoView(reason) => return Err(Trouble::BeforeTheCommand(anyhow::anyhow!(reason))),
    };
    if let Some(trouble) = not_started(&ran.finished.outcome, &task.argv) {
        crate::complain(&trouble);
    }
    let code = ran.finished.outcome.exit_code();
    after(asked, engine, missed, Before { carried, hidden, tree }, &mut ran)
        .map(|report| Done { report, ran: (!ran.finished.survivors.is_empty()).then_some(ran) })
        .map_err(|error| Trouble::AfterTheCommand { error, code })
}

/// What was known before the command ran.
struct Before<'s> {
    carried: Option<Carried>,
    hidden: Standing,
    tree: Tree<'s>,
}

fn after(
    asked: &Asked,
    engine: &Engine<'_>,
    missed: Missed,
    before: Before<'_>,
    ran: &mut Ran,
) -> anyhow::Result<Report> {
    let (task, store) = (engine.task, engine.store);
    let code = ran.finished.outcome.exit_code();
    let store_began = asked.elapsed_ms();
    let mut report = Report {
        status: Status::Uncached,
        task_key: Some(task.keys.task.0.to_string()),
        exit_code: code,
        command_ms: ran.finished.wall.as_millis() as u64,
        lookup_ms: missed.lookup_ms,
        first_difference: missed.found.difference,
        ..Report::default()
    };
    let Before { carried, hidden, mut tree } = before;
    // Its daemon may have died while the command ran; if nothing brings it back, publishing says why.
    if task.mount.is_some() {
        let _ = crate::command::mount::revive(&task.workspace);
    }
    // One publishes at a time: what is checked against the workspace must still be so when it is written. Without the lock (a
    // full disk) it is published all the same, and not recorded.
    let turn = lock(store, engine.workspace());
    let view = ran.view.inner();
    let run = Yield {
        delta: view.delta().map_err(|status| anyhow::anyhow!("cannot tell what the command changed: {status}"))?,
        sights: ran.view.recorder().take(),
        notes: view.notes(),
        printed: Captured { pieces: std::mem::take(&mut ran.finished.pieces) },
        carried,
        hidden: hidden.paths.clone(),
        zones: &ran.zones,
        unnoted: &ran.unnoted,
        backing: view.backing().real(),
        live: !ran.finished.survivors.is_empty(),
    };
    let printed = run.printed.clone();
    let mut harvest = engine.capture(run, &mut tree);
    if let Err(error) = &turn {
        harvest.doubts.push(format!("the workspace could not be locked: {error}"));
    }
    // A run that failed made nothing in their place: what an earlier one left may still be of use to somebody.
    let leftovers = if code == 0 { still_standing(engine, &hidden, &mut tree) } else { Standing::default() };
    if code == 0
        && let Some(path) = hidden.outputs.keys().find(|path| !leftovers.outputs.contains_key(*path))
    {
        harvest.doubts.push(format!("{} changed while the command ran", String::from_utf8_lossy(path)));
    }
    let mut published = engine.publish(&harvest, &leftovers, &mut tree);
    // The daemon may have died half-way. What was written is written again; only what was set aside cannot be twice.
    if let (Err(_), Some(mount)) = (&published, &task.mount)
        && is_dead(&mount.root)
        && !harvest.deeds.iter().any(Deed::is_set_aside)
        && crate::command::mount::revive(&task.workspace).is_ok()
    {
        published = engine.publish(&harvest, &leftovers, &mut tree);
    }
    if !ran.finished.survivors.is_empty() {
        ran.published = std::mem::take(&mut harvest.deeds);
    }
    tree.save();
    drop(tree);

    // What could not be written must be said, whatever else is in doubt: it is not there, as it would be without wink.
    let unpublished = published.err().map(|error| format!("{error:#}")).or_else(|| harvest.lost.clone());
    let unpublished = unpublished.map(|what| format!("not everything could be published: {what}"));
    if unpublished.is_some() && code == 0 {
        // A success that left half of its files would be taken for a whole one.
        report.exit_code = crate::cli::EXIT_OWN_FAILURE;
    }
    let why_not = unpublished.or_else(|| why_not(asked, task, &harvest, ran));
    let usable = why_not.is_none();
    report.observations = harvest.trace.seen.len() as u64;
    report.outputs = harvest.manifest.entries.iter().filter(|entry| entry.output != Output::Removed).count() as u64;
    report.bound_to_root = harvest.bound_workspace;
    let tainted = harvest.tainted;
    let mended = harvest.changed_ignored.as_deref().map(|path| String::from_utf8_lossy(path).into_owned());
    if asked.args.policy().local.write {
        let listings = std::mem::take(&mut harvest.listings);
        let record = record(task, harvest, printed, code, report.command_ms, usable);
        report.output_bytes = record.head.output_bytes;
        let fingerprint = record.head.fingerprint;
        let kept = keep(engine, record, asked.args.force, tainted);
        if !listings.is_empty() && kept.is_ok() {
            // They only explain.
            let _ = store.keep_names(&fingerprint, listings);
        }
        match kept {
            Ok(id) => report.record = usable.then(|| id.0.to_string()),
            Err(error) => report.reason = Some(format!("the result cannot be stored: {error}")),
        }
    }
    // What runs left that were killed: nobody else looks for it. Failing is harmless: the next run tries again.
    let _ = store.sweep_staging();
    report.store_ms = asked.elapsed_ms() - store_began;
    report.reason = report.reason.or(why_not);
    if report.reason.is_none() {
        report.status = Status::Miss;
        report.reason = Some(match mended {
            Some(path) => format!(
                "{}; it changed the ignored file {path}, which wink did not make: reusable only from the same state; remove it and run again",
                missed.found.reason
            ),
            None => missed.found.reason,
        });
    }
    Ok(report)
}

/// Those own outputs that still stand untouched after the run. What somebody edited meanwhile is theirs.
fn still_standing(engine: &Engine<'_>, hidden: &Standing, tree: &mut Tree<'_>) -> Standing {
    let left = hidden.outputs.iter().map(|(path, output)| (path.clone(), vec![output.clone()])).collect();
    // When that cannot be told, nothing is removed.
    standing(&left, engine.workspace(), tree).unwrap_or_default()
}

/// Stores the record, and that its outputs stand in the workspace. Returns the record that holds for these inputs from now on.
fn keep(engine: &Engine<'_>, mut record: Record, replace: bool, tainted: bool) -> Result<RecordId, StoreError> {
    let store = engine.store;
    let winner = store.insert(&record, replace)?;
    if winner != record.head.id {
        // Somebody else was first with another result for the same inputs. Theirs is what lookups find; ours is what stands
        // in this workspace, and must be known as left by this task.
        record.head.usable = false;
        store.insert(&record, false)?;
    }
    engine.remember_key()?;
    if tainted {
        store.forget_last(engine.workspace(), &engine.task.keys.own)?;
    } else {
        store.set_last(engine.workspace(), &engine.task.keys.own, &record.head.id, now_ms())?;
    }
    Ok(winner)
}

/// Why a run must not be recorded.
fn why_not(asked: &Asked, task: &Task, harvest: &Harvest, ran: &Ran) -> Option<String> {
    let finished = &ran.finished;
    let code = finished.outcome.exit_code();
    if let Some(signal) = finished.interrupted {
        return Some(format!("interrupted by signal {signal}"));
    }
    if !finished.survivors.is_empty() {
        let names: Vec<String> = finished
            .survivors
            .iter()
            .take(NAMED_MAX)
            .map(|process| format!("{} ({})", process.name, process.pid))
            .collect();
        let more = finished.survivors.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Some(format!("processes outlived the command: {}{more}", names.join(", ")));
    }
    if let wink_platform::unix::task::Outcome::Signalled(signal) = finished.outcome {
        return Some(format!("the command was killed by signal {signal}"));
    }
    let may_fail = task.settings.cache_failures && !matches!(code, 126 | 127);
    if code != 0 && !may_fail {
        return Some(format!("the command failed (exit code {code})"));
    }
    if !finished.complete {
        return Some("not all of its output could be captured".to_owned());
    }
    if let Some(doubt) = ran.doubt.as_ref().or(harvest.doubts.first()) {
        return Some(doubt.clone());
    }
    (!asked.args.policy().local.write).then(|| "the cache is not written".to_owned())
}

fn record(task: &Task, harvest: Harvest, printed: Captured, code: i32, command_ms: u64, usable: bool) -> Record {
    let nothing = Digest([0; 32]);
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    let mut record = Record {
        head: RecordHead {
            id: RecordId(nothing),
            task_key: task.keys.task,
            own_key: task.keys.own,
            usable,
            fingerprint: nothing,
            manifest: nothing,
            exit_code: code,
            command_ms,
            created_ms: now_ms(),
            bound_workspace: harvest.bound_workspace.then(|| bytes(&task.workspace)),
            bound_home: task.home.as_deref().filter(|_| harvest.bound_home).map(bytes),
            depth: task.roots.depth(),
            output_bytes: 0,
        },
        trace: harvest.trace,
        outputs: harvest.manifest,
        times: harvest.times,
        captured: printed,
        argv: task.argv.iter().map(|word| word.as_encoded_bytes().to_vec()).collect(),
    };
    record.seal();
    record
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

/// Processes outlived the command: the view stays until the last of them has gone, and what they wrote meanwhile is published then.
fn stay(engine: &Engine<'_>, mut ran: Ran, announcer: Announcer, code: i32) {
    announcer.stays(code);
    if let Some(rest) = ran.finished.rest.take() {
        rest.pass_on();
    }
    if let Some(serving) = ran.serving.take() {
        // The kernel drops the mount with its last process.
        let _ = serving.wait();
    }
    let published = std::mem::take(&mut ran.published);
    let publish = || -> anyhow::Result<()> {
        let _turn = lock(engine.store, engine.workspace())?;
        let view = ran.view.inner();
        let mut tree = Tree::new(engine.store, engine.task.mount.as_ref())?;
        let run = Yield {
            delta: view.delta().map_err(|status| anyhow::anyhow!("{status}"))?,
            sights: HashMap::new(),
            notes: view.notes(),
            printed: Captured::default(),
            carried: None,
            hidden: HashSet::new(),
            zones: &ran.zones,
            unnoted: &ran.unnoted,
            backing: view.backing().real(),
            live: false,
        };
        let mut harvest = engine.capture(run, &mut tree);
        // What was published when the command ended is the user's by now.
        harvest.deeds.retain(|deed| !published.iter().any(|done| done.path() == deed.path() && done.is_like(deed)));
        let replaced: HashSet<Vec<u8>> =
            harvest.deeds.iter().filter(|deed| !deed.is_set_aside()).map(|deed| deed.path().to_vec()).collect();
        harvest.deeds.retain(|deed| !deed.is_set_aside() || replaced.contains(deed.path()));
        engine.publish(&harvest, &Standing::default(), &mut tree)
    };
    if let Err(error) = publish() {
        crate::complain(&format!(
            "what outlived the command wrote files that could not be published: {}",
            crate::explain(&error)
        ));
    }
}

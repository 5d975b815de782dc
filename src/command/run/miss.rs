//! A miss: the command runs, what it left is published, and recorded unless there is a doubt.
//!
//! This is the engine process (`wink_platform::unix::front`): it must announce an exit code whatever happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use wink_platform::unix::front::Announcer;
use wink_platform::unix::stdin;
use wink_platform::unix::task::{Finished, Outcome};
use wink_store::{Captured, Digest, Output, Record, RecordHead, RecordId};
use wink_store::{Store, StoreError};

use super::{Asked, Missed, Why, count, native, not_started};
use crate::command::cache::prune::{is_tending_due, start_tending};
use crate::engine::capture::Harvest;
use crate::engine::detect::{Attempt, Ended};
use crate::engine::own::disown;
use crate::engine::tree::Tree;
use crate::engine::turn::Turn;
use crate::engine::{Engine, Input, Task, now_ms};
use crate::outer;
use crate::report::{Class, Report, Status};

/// How many survivors are named in the one line.
const NAMED_MAX: usize = 3;

/// Everything the engine process does.
pub fn engine(asked: &Asked, task: &Task, dir: &Path, missed: Missed, announcer: Announcer) {
    let code = match Store::open(dir).map(Arc::new).context("the cache cannot be opened") {
        Ok(store) => match run(asked, &Engine { store: &store, task, unheld: false }, missed) {
            Ok(Done { report, outlived }) => {
                let code = asked.deliver(report);
                let tend = is_to_be_tended(asked, task, &store);
                if tend || outlived.is_some() {
                    // Whoever waits for the command waits for nothing of this.
                    announcer.stays(code);
                    if tend {
                        // What fails here the next miss tries again.
                        let _ = start_tending(&store, asked.limits);
                    }
                    if let Some(ended) = outlived {
                        ended.stay(&Engine { store: &store, task, unheld: false });
                    }
                    return;
                }
                code
            }
            Err(Trouble::BeforeTheCommand(error)) => {
                let why = Why { class: Class::NotWatched, reason: crate::explain(&error), store: Some(dir) };
                fall_back(asked, task, why)
            }
            Err(Trouble::AfterTheCommand { error, code }) => {
                let report = Report {
                    reason: Some(crate::explain(&error)),
                    class: Class::NotPublished,
                    // What it left may be lost: that is no success.
                    exit_code: if code == 0 { crate::cli::EXIT_OWN_FAILURE } else { code },
                    task_key: Some(task.keys.task.0.to_string()),
                    ..Report::default()
                };
                let _ = store.count(&count::counted(asked, task, &report));
                asked.deliver(report)
            }
        },
        Err(error) => {
            fall_back(asked, task, Why { class: Class::NoCache, reason: crate::explain(&error), store: None })
        }
    };
    announcer.ended(code);
}

/// Something was stored: if there is too much by now, or it is time, that is looked after in the background. Not from within another task,
/// whose process it would be.
fn is_to_be_tended(asked: &Asked, task: &Task, store: &Store) -> bool {
    outer::of_run(&task.workspace).is_none() && is_tending_due(store, asked.limits).unwrap_or(false)
}

fn fall_back(asked: &Asked, task: &Task, why: Why<'_>) -> i32 {
    native::run(asked, task, why).unwrap_or_else(|error| {
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
    outlived: Option<Box<dyn Ended>>,
}

fn run(asked: &Asked, engine: &Engine<'_>, missed: Missed) -> Result<Done, Trouble> {
    let task = engine.task;
    let mut tree = Tree::new(engine.store, task.mount.as_ref()).map_err(Trouble::BeforeTheCommand)?;
    let watch = (task.stdin == Input::Callers).then(stdin::Watch::start);
    let attempt = task.detect.run(engine, &missed.standing, &mut tree).map_err(Trouble::BeforeTheCommand)?;
    let mut ended = match attempt {
        Attempt::Ran(ended) => ended,
        Attempt::NoView(reason) => return Err(Trouble::BeforeTheCommand(anyhow::anyhow!(reason))),
    };
    if let Some(trouble) = not_started(&ended.finished().outcome, &task.argv) {
        crate::complain(&trouble);
    }
    let code = ended.finished().outcome.exit_code();
    let read = match watch {
        Some(Ok(watch)) => watch.was_read().then(|| "the command read its standard input".to_owned()),
        Some(Err(error)) => Some(format!("nobody sees whether the command read its standard input: {error}")),
        None => None,
    };
    let store_began = asked.elapsed_ms();
    match after(asked, engine, missed, read, tree, ended.as_mut()) {
        Ok(mut report) => {
            let outlived = !ended.finished().survivors.is_empty();
            let outlived = outlived.then_some(ended);
            // Closing what the command made is part of it.
            report.store_ms = asked.elapsed_ms() - store_began;
            Ok(Done { report, outlived })
        }
        Err(error) => Err(Trouble::AfterTheCommand { error, code }),
    }
}

fn after<'s>(
    asked: &Asked,
    engine: &Engine<'s>,
    missed: Missed,
    read: Option<String>,
    mut tree: Tree<'s>,
    ended: &mut dyn Ended,
) -> anyhow::Result<Report> {
    let (task, store) = (engine.task, engine.store);
    let code = ended.finished().outcome.exit_code();
    let store_began = asked.elapsed_ms();
    let mut report = Report {
        status: Status::Uncached,
        task_key: Some(task.keys.task.0.to_string()),
        exit_code: code,
        command_ms: ended.finished().wall.as_millis() as u64,
        lookup_ms: missed.lookup_ms,
        first_difference: missed.found.difference,
        ..Report::default()
    };
    // Its daemon may have died while the command ran; if nothing brings it back, publishing says why.
    if task.mount.is_some() {
        let _ = crate::command::mount::revive(&task.workspace);
    }
    // One publishes at a time: what is checked against the workspace must still be so when it is written. Without the lock (a
    // full disk) it is published all the same, and not recorded.
    let turn = Turn::take(store, &task.workspace);
    // What is stored now stays until it is published and recorded. Without that it is published past the cache.
    let hold = store.hold();
    let engine = &Engine { unheld: hold.is_err(), ..*engine };
    let mut harvest = ended.harvest(engine, &mut tree)?;
    let printed = Captured { pieces: std::mem::take(&mut ended.finished().pieces) };
    harvest.doubts.extend(read);
    if let Err(error) = &turn {
        harvest.doubts.push(format!("the workspace could not be locked: {error}"));
    }
    if let Err(error) = &hold {
        harvest.doubts.push(error.to_string());
    }
    let published = ended.publish(engine, &mut harvest, &mut tree, turn.as_ref().ok());
    tree.save();
    drop(tree);

    // What could not be written must be said, whatever else is in doubt: it is not there, as it would be without wink.
    let unpublished = published.err().map(|error| format!("{error:#}")).or_else(|| harvest.lost.clone());
    let unpublished =
        unpublished.map(|what| (Class::NotPublished, format!("not everything could be published: {what}")));
    if unpublished.is_some() && code == 0 {
        // A success that left half of its files would be taken for a whole one.
        report.exit_code = crate::cli::EXIT_OWN_FAILURE;
    }
    let why_not = unpublished.or_else(|| why_not(asked, task, &harvest, ended.finished()));
    let usable = why_not.is_none();
    report.observations = harvest.trace.seen.len() as u64;
    report.outputs = harvest.manifest.entries.iter().filter(|entry| entry.output != Output::Removed).count() as u64;
    report.bound_to_root = harvest.bound_workspace;
    let tainted = harvest.tainted;
    let left_behind = std::mem::take(&mut harvest.left_behind);
    let mended = harvest.changed_ignored.as_deref().map(|path| String::from_utf8_lossy(path).into_owned());
    if asked.args.policy().local.write && hold.is_ok() {
        let listings = std::mem::take(&mut harvest.listings);
        let record = record(task, harvest, printed, code, report.command_ms, usable);
        report.output_bytes = record.head.output_bytes;
        let fingerprint = record.head.fingerprint;
        let kept = keep(engine, record, asked.args.force, tainted);
        if !listings.is_empty() && kept.is_ok() {
            // They only explain.
            let _ = store.keep_names(&fingerprint, listings);
        }
        if kept.is_ok() {
            // Else the next run finds them as this one did.
            let _ = disown(store, &task.keys.own, &left_behind);
        }
        match kept {
            Ok(id) => report.record = usable.then(|| id.0.to_string()),
            Err(error) => {
                report.reason = Some(format!("the result cannot be stored: {error}"));
                report.class = Class::NotStored;
            }
        }
    }
    drop(hold);
    // What runs left that were killed: nobody else looks for it. Failing is harmless: the next run tries again.
    let _ = store.sweep_staging();
    if report.reason.is_none()
        && let Some((class, reason)) = why_not
    {
        (report.class, report.reason) = (class, Some(reason));
    }
    if report.reason.is_none() {
        report.class = missed.found.class;
        report.status = Status::Miss;
        report.reason = Some(match mended {
            Some(path) => format!(
                "{}; it changed the ignored file {path}, which wink did not make: reusable only from the same state; remove it and run again",
                missed.found.reason
            ),
            None => missed.found.reason + &stay(&left_behind),
        });
    }
    report.store_ms = asked.elapsed_ms() - store_began;
    let _ = store.count(&count::counted(asked, task, &report));
    Ok(report)
}

/// What is said of outputs of earlier runs that were not removed.
fn stay(left_behind: &BTreeMap<Vec<u8>, Output>) -> String {
    let Some(first) = left_behind.keys().next() else { return String::new() };
    let more = match left_behind.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let path = String::from_utf8_lossy(first);
    format!("; {path}{more} of an earlier run stays, since the cache does not hold it any more")
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
fn why_not(asked: &Asked, task: &Task, harvest: &Harvest, finished: &Finished) -> Option<(Class, String)> {
    let code = finished.outcome.exit_code();
    if let Some(signal) = finished.interrupted {
        return Some((Class::Interrupted, format!("interrupted by signal {signal}")));
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
        return Some((Class::Survivors, format!("processes outlived the command: {}{more}", names.join(", "))));
    }
    if let Outcome::Signalled(signal) = finished.outcome {
        return Some((Class::Interrupted, format!("the command was killed by signal {signal}")));
    }
    let may_fail = task.settings.cache_failures && !matches!(code, 126 | 127);
    if code != 0 && !may_fail {
        return Some((Class::Failed, format!("the command failed (exit code {code})")));
    }
    if !finished.complete {
        return Some((Class::Doubt, "not all of its output could be captured".to_owned()));
    }
    if let Some(doubt) = harvest.doubts.first() {
        let class = if harvest.wrote_outside { Class::OutsideWrite } else { Class::Doubt };
        return Some((class, doubt.clone()));
    }
    (!asked.args.policy().local.write).then(|| (Class::NotStored, "the cache is not written".to_owned()))
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

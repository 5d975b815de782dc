//! `wink run`: look up, restore or run, record, report.
//!
//! Whatever goes wrong with the cache, the command runs; whatever is in doubt about the run, it is not recorded. Only what keeps wink from
//! even starting the command (a mistaken flag, a mistaken configuration) ends without running it.

pub mod again;
mod count;
pub mod decide;
mod miss;
mod native;
mod prepare;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wink_platform::unix::front::{self, Ending};
use wink_platform::unix::identity;
use wink_platform::unix::mounts::is_dead;
use wink_store::Store;

use crate::cli::RunArgs;
use crate::config::{Config, Size};
use crate::engine::lookup::Found;
use crate::engine::own::Standing;
use crate::engine::restore::replay;
use crate::engine::tree::Tree;
use crate::engine::turn::Turn;
use crate::engine::{Engine, Task};
pub use crate::environment::INSIDE;
use crate::outer;
use crate::report::{Class, Report, Status};

use native::Why;

use decide::{Decision, Hit, barred, decide, foresee, own_outputs};
pub use prepare::prepare;

/// What one invocation was asked for, and when.
pub struct Asked {
    /// The flags.
    pub args: RunArgs,
    /// When wink began.
    pub began: Instant,
    /// How large the cache may become, and how long an entry may be unused.
    pub limits: (Option<Size>, Option<Duration>),
}

impl Asked {
    /// Milliseconds since wink began.
    pub fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Why records are not looked up.
    fn unread(&self) -> Option<&'static str> {
        match (self.args.force, self.args.policy().local.read) {
            (true, _) => Some("--force"),
            (_, false) => Some("the cache is not read"),
            _ => None,
        }
    }

    /// Says how it went.
    pub fn deliver(&self, mut report: Report) -> i32 {
        report.total_ms = self.elapsed_ms();
        report.dry_run = self.args.dry_run;
        let code = report.exit_code;
        if let Err(error) = report.deliver(self.args.quiet, self.args.json.as_deref()) {
            crate::complain(&crate::explain(&error));
        }
        code
    }
}

/// Runs the subcommand; returns the exit code.
pub fn run(args: RunArgs) -> anyhow::Result<i32> {
    let began = Instant::now();
    let (mut task, config) = prepare(&args.task, args.quiet)?;
    task.quiet &= !args.as_shell;
    let asked = Asked { args, began, limits: (config.max_size.value, config.max_age.value) };
    let policy = asked.args.policy();
    let switched_off = asked.args.no_cache || !(policy.local.read || policy.local.write);
    if switched_off {
        let reason = "the cache is switched off".to_owned();
        return natively(&asked, &task, Why { class: Class::NoCache, reason, store: None });
    }
    let dir = config.store_dir().ok().filter(|dir| outer::around(dir).is_none());
    if let Some((class, reason)) = barred(&task) {
        let dir = dir.filter(|_| !outer::of_run(&task.workspace).is_some_and(outer::Outer::is_apart));
        return natively(&asked, &task, Why { class, reason, store: dir });
    }
    if asked.args.dry_run {
        return Ok(foretell(&asked, &mut task, &config));
    }
    let store = match decide::open(&mut task, &config, !asked.args.task.no_daemon) {
        Ok(store) => store,
        Err(error) => return natively(&asked, &task, no_cache(&error, dir)),
    };
    if let Some(notice) = store.notice().filter(|_| !asked.args.quiet) {
        crate::complain(&notice);
    }
    match cached(&asked, &task, store) {
        Ok(code) => Ok(code),
        Err(error) => {
            // If that is because the mount's daemon has died, the command must not meet the dead mount.
            if task.mount.is_some() {
                let _ = super::mount::revive(&task.workspace);
            }
            natively(&asked, &task, no_cache(&error, dir))
        }
    }
}

fn no_cache<'a>(error: &anyhow::Error, store: Option<&'a Path>) -> Why<'a> {
    Why { class: Class::NoCache, reason: crate::explain(error), store }
}

/// `--dry-run`: says what would happen.
fn foretell(asked: &Asked, task: &mut Task, config: &Config) -> i32 {
    let foreseen = foresee(task, config, !asked.args.task.no_daemon, asked.unread(), false);
    let mut report = Report {
        status: foreseen.status,
        reason: foreseen.reason,
        first_difference: foreseen.difference,
        task_key: Some(task.keys.task.0.to_string()),
        lookup_ms: asked.elapsed_ms(),
        outputs: foreseen.outputs,
        ..Report::default()
    };
    if let Some((head, observations)) = foreseen.hit {
        report.record = Some(head.id.0.to_string());
        report.command_ms = head.command_ms;
        report.observations = observations;
        report.output_bytes = head.output_bytes;
        report.bound_to_root = head.bound_workspace.is_some();
    }
    asked.deliver(report)
}

/// Runs the command without a view, in a process of its own all the same: what a signal means is told apart there.
fn natively(asked: &Asked, task: &Task, why: Why<'_>) -> anyhow::Result<i32> {
    let run = |why: Why<'_>| native::run(asked, task, why);
    let apart = front::split(|announcer| {
        let code = run(why.clone()).unwrap_or_else(|error| {
            crate::complain(&crate::explain(&error));
            crate::cli::EXIT_OWN_FAILURE
        });
        announcer.ended(code);
    });
    match apart {
        Ok(Ending::Code(code)) => Ok(code),
        Ok(Ending::Lost) => Ok(lost(asked)),
        Ok(Ending::BeforeTheCommand) | Err(_) => run(why),
    }
}

/// What a lookup in this process tells the engine process of a miss.
pub struct Missed {
    /// Why it is a miss.
    pub found: Found,
    /// Own outputs that stand.
    pub standing: Standing,
    /// How long the lookup took.
    pub lookup_ms: u64,
}

fn cached(asked: &Asked, task: &Task, store: Arc<Store>) -> anyhow::Result<i32> {
    Turn::clear_up(&store, &task.workspace);
    // From here to the end of restoring no pruning takes away what is found. It must not be held while a command runs.
    let hold = store.hold()?;
    let engine = Engine { store: &store, task, unheld: false };
    let mut tree = Tree::new(&store, task.mount.as_ref())?;
    let standing = own_outputs(&engine, &mut tree)?;
    let decision = match asked.unread() {
        Some(reason) => Decision::Miss(Box::new(Found::none(Class::NotAsked, reason))),
        None => decide(&engine, &mut tree, &standing)?,
    };
    let lookup_ms = asked.elapsed_ms();
    let Hit { head, observations, plan } = match decision {
        Decision::Hit(hit) => *hit,
        Decision::Miss(found) => {
            tree.save();
            drop((tree, hold));
            return missed(asked, task, store, Missed { found: *found, standing, lookup_ms });
        }
    };
    let mut report = Report {
        status: Status::Hit,
        task_key: Some(task.keys.task.0.to_string()),
        record: Some(head.id.0.to_string()),
        exit_code: head.exit_code,
        command_ms: head.command_ms,
        lookup_ms,
        observations,
        outputs: plan.outputs(),
        output_bytes: head.output_bytes,
        bound_to_root: head.bound_workspace.is_some(),
        ..Report::default()
    };
    let captured = store.captured(&head.id)?;
    let blobs = store.dir().as_os_str().as_encoded_bytes();
    let is_input = |path: &[u8]| !standing.contains(path) && !path.starts_with(blobs);
    let newest = tree.newest(is_input).unwrap_or_default();
    report.restored_as = match engine.restore(&plan, newest) {
        Ok(restored_as) => restored_as,
        // What is half restored is hidden from the command: it runs as from clean.
        Err(error) => {
            if task.mount.as_ref().is_some_and(|mount| is_dead(&mount.root)) {
                let _ = super::mount::revive(&task.workspace);
            }
            Turn::clear_up(&store, &task.workspace);
            tree.start_over()?;
            let reason = format!("the outputs could not be restored: {error:#}");
            let found = Found::none(Class::NotRestored, &reason);
            let standing = own_outputs(&engine, &mut tree)?;
            drop((tree, hold));
            return missed(asked, task, store, Missed { found, standing, lookup_ms });
        }
    };
    report.restore_ms = asked.elapsed_ms() - lookup_ms;
    replay(&captured);
    // What is remembered for the next run is no reason to spoil this one.
    let run = count::counted(asked, task, &report);
    let _ = store.hit(&wink_store::Hit { record: &head.id, own_key: &task.keys.own, run });
    tree.save();
    Ok(asked.deliver(report))
}

/// Runs the command in the engine process.
fn missed(asked: &Asked, task: &Task, store: Arc<Store>, missed: Missed) -> anyhow::Result<i32> {
    if identity::is_read_only(&task.workspace) {
        // In a view the command could write, and what it wrote would be lost.
        let dir = store.dir().to_owned();
        drop(store);
        let reason = "the workspace is read-only".to_owned();
        return natively(asked, task, Why { class: Class::NotWatched, reason, store: Some(&dir) });
    }
    let dir: PathBuf = store.dir().to_owned();
    // A database connection must not cross a fork: the engine opens its own.
    drop(store);
    match front::split(|announcer| miss::engine(asked, task, &dir, missed, announcer))? {
        Ending::Code(code) => Ok(code),
        Ending::Lost => Ok(lost(asked)),
        Ending::BeforeTheCommand => {
            let reason =
                "the part of wink that serves a command ended before the command began; is there enough memory?";
            natively(asked, task, Why { class: Class::NotWatched, reason: reason.to_owned(), store: Some(&dir) })
        }
    }
}

/// The engine is gone, and with it the command: it may have done anything or nothing, so it is not run again.
fn lost(asked: &Asked) -> i32 {
    let reason = "the part of wink that serves the command was killed; the command was killed with it";
    asked.deliver(Report::failed(reason, crate::cli::EXIT_OWN_FAILURE))
}

impl Found {
    fn none(class: Class, reason: &str) -> Found {
        Found { hit: None, difference: None, reason: reason.to_owned(), class, damage: None }
    }
}

/// What wink adds to a command that could not be started, since there is no shell to say it.
pub fn not_started(outcome: &wink_platform::unix::task::Outcome, argv: &[OsString]) -> Option<String> {
    use wink_platform::unix::task::Outcome;
    let name = argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match outcome {
        Outcome::NotFound => Some(format!("{name}: command not found")),
        Outcome::NotExecutable(errno) => {
            Some(format!("{name}: cannot be executed: {}", std::io::Error::from_raw_os_error(*errno)))
        }
        _ => None,
    }
}

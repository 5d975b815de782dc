//! `wink run`: look up, restore or run, record, report.
//!
//! Whatever goes wrong with the cache, the command runs; whatever is in doubt about the run, it is not recorded. Only what keeps wink from
//! even starting the command (a mistaken flag, a mistaken configuration) ends without running it.

mod miss;
mod native;

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use wink_platform::unix::{front, identity, probe};
use wink_store::Digest;
use wink_store::Store;

use crate::cli::RunArgs;
use crate::config::{Config, Own};
use crate::engine::lookup::Found;
use crate::engine::own::{Standing, left, standing};
use crate::engine::restore::{NoPlan, replay};
use crate::engine::tree::Tree;
use crate::engine::{Engine, Task, now_ms};
use crate::environment;
use crate::key::{KeyInput, Keys, Platform};
use crate::report::{Report, Status};
use crate::roots::Roots;
use crate::workspace;

/// Set in a task's environment: a `wink run` that finds it knows that an outer one already watches.
pub const INSIDE: &str = "WINK_INSIDE";

/// What one invocation was asked for, and when.
pub struct Asked {
    /// The flags.
    pub args: RunArgs,
    /// When wink began.
    pub began: Instant,
}

impl Asked {
    /// Milliseconds since wink began.
    pub fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
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
    let asked = Asked { args, began: Instant::now() };
    let (mut task, config) = prepare(&asked)?;
    let policy = asked.args.policy();
    let inside = std::env::var_os(INSIDE).is_some();
    if inside || asked.args.no_cache || !(policy.local.read || policy.local.write) {
        let reason =
            if inside { "inside another task, which sees and records all of it" } else { "the cache is switched off" };
        return natively(&asked, &task, reason.to_owned());
    }
    if let Some(handed) = identity::handed_descriptor(&task.workspace, &task.argv) {
        return natively(
            &asked,
            &task,
            format!("{handed} was handed to the command, and nobody sees what comes and goes there"),
        );
    }
    if task.workspace.parent().is_none() {
        return natively(&asked, &task, "the workspace is the whole file system; run it in a project".to_owned());
    }
    let opened = config.store_dir().and_then(|dir| {
        if !asked.args.no_daemon {
            task.mount = super::mount::find(dir, &task.workspace)?;
        }
        Ok(Arc::new(Store::open(dir)?))
    });
    let store = match opened {
        Ok(store) => store,
        Err(error) => return natively(&asked, &task, crate::explain(&error)),
    };
    if let Some(notice) = store.notice().filter(|_| !asked.args.quiet) {
        crate::complain(&notice);
    }
    match cached(&asked, &task, store) {
        Ok(code) => Ok(code),
        Err(error) => natively(&asked, &task, crate::explain(&error)),
    }
}

/// Runs the command without a view, in a process of its own all the same: what a signal means is told apart there.
fn natively(asked: &Asked, task: &Task, reason: String) -> anyhow::Result<i32> {
    let run = |reason: String| native::run(asked, task, reason);
    let apart = front::split(|announcer| {
        let code = run(reason.clone()).unwrap_or_else(|error| {
            crate::complain(&crate::explain(&error));
            crate::cli::EXIT_OWN_FAILURE
        });
        announcer.ended(code);
    });
    match apart {
        Ok(code) => Ok(code.unwrap_or_else(|| lost(asked))),
        Err(_) => run(reason),
    }
}

fn prepare(asked: &Asked) -> anyhow::Result<(Task, Config)> {
    let args = &asked.args;
    let current = std::env::current_dir().context("the current directory cannot be read; does it still exist?")?;
    let cwd = args.cwd.as_ref().map_or_else(|| current.clone(), |dir| current.join(dir));
    super::mount::revive(&cwd)?;
    let cwd = cwd.canonicalize().with_context(|| format!("cannot enter {}", cwd.display()))?;
    // A home of `/` (some containers) would name everything.
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok()).filter(|home| home.parent().is_some());
    let workspace = workspace::find(&cwd, home.as_deref())?.root;
    let config = Config::load(&workspace, std::env::vars_os())?;
    if !args.quiet {
        config.notices.iter().for_each(|notice| crate::complain(notice));
    }
    let argv = args.command.clone();
    let words: Vec<&[u8]> = argv.iter().map(|word| word.as_encoded_bytes()).collect();
    let mut settings = config.for_task(&words);
    args.apply(&mut settings);
    if let Some(canonical) = &settings.canonical_root {
        let possible = canonical.components().count() == 2 || canonical.is_dir();
        anyhow::ensure!(
            possible,
            "canonical_root {} can only be directly below / or an existing directory",
            canonical.display()
        );
    }
    let roots = Roots::new(&workspace, home.as_deref());
    let stdin = match args.stdin {
        true => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
            Some(bytes)
        }
        false => None,
    };
    let environments = environment::divide(std::env::vars_os(), &settings.env);
    let mut extras = declared_inputs(&workspace, &settings.input)?;
    if settings.scope == crate::config::Scope::Workspace {
        extras.extend(executable(&argv, &cwd));
    }
    // A shell takes the way it came by from PWD and hands it on: unless it is the plain one, it decides.
    if let Some(way) = std::env::var_os("PWD")
        .map(PathBuf::from)
        .filter(|way| *way != cwd && way.canonicalize().is_ok_and(|real| real == cwd))
    {
        extras.push(("PWD".to_owned(), roots.substitute(way.as_os_str().as_encoded_bytes())));
    }
    // What these take out of the trace or the outputs makes another record.
    for (name, list) in [("ignore", &settings.ignore), ("scratch", &settings.scratch), ("output", &settings.output)] {
        extras.extend(list.iter().map(|glob| (name.to_owned(), glob.clone().into_bytes())));
    }
    if let Some(canonical) = &settings.canonical_root {
        extras.push(("canonical_root".to_owned(), canonical.as_os_str().as_encoded_bytes().to_vec()));
    }
    let keys = Keys::new(
        &KeyInput {
            argv: &argv,
            cwd: &relative_cwd(&cwd, &workspace),
            environment: &environments.key,
            stdin: stdin.as_deref().map(Digest::of),
            umask: probe::umask().unwrap_or(0o022),
            platform: Platform::here(identity::effective_ids().0 == 0),
            scope: settings.scope,
            extras: &extras,
            own: settings.own,
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal: std::io::stderr().is_terminal(),
        },
        &roots,
    );
    let environment = environments.task;
    let task = Task { workspace, home, cwd, argv, environment, stdin, keys, settings, roots, mount: None };
    Ok((task, config))
}

/// The current directory relative to the workspace; outside it, the absolute one.
fn relative_cwd(cwd: &Path, workspace: &Path) -> Vec<u8> {
    cwd.strip_prefix(workspace).unwrap_or(cwd).as_os_str().as_encoded_bytes().to_vec()
}

/// Declared inputs decide before the command runs: names and contents of every file that matches.
fn declared_inputs(workspace: &Path, globs: &[String]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    if globs.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in ignore::WalkBuilder::new(workspace).standard_filters(false).sort_by_file_name(Ord::cmp).build() {
        // What cannot be looked into is the same for the command; it decides by being so.
        let Ok(entry) = entry else {
            found.push(("unreadable".to_owned(), Vec::new()));
            continue;
        };
        let relative = entry.path().strip_prefix(workspace).unwrap_or(entry.path()).as_os_str().as_encoded_bytes();
        if entry.file_type().is_some_and(|kind| kind.is_file())
            && globs.iter().any(|glob| crate::config::matches_glob(glob, relative))
        {
            let hashed =
                std::fs::File::open(entry.path()).and_then(|mut file| crate::engine::tree::hash(&mut file, &[]));
            let digest = hashed.map_or_else(|_| Vec::new(), |hashed| hashed.digest.0.to_vec());
            found.push((String::from_utf8_lossy(relative).into_owned(), digest));
        }
    }
    Ok(found)
}

/// In workspace scope nothing outside is watched, so the program itself is part of the key.
fn executable(argv: &[OsString], cwd: &Path) -> Option<(String, Vec<u8>)> {
    let program = Path::new(argv.first()?);
    let found = if program.components().count() > 1 {
        cwd.join(program)
    } else {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| cwd.join(dir).join(program)).find(|path| path.is_file())?
    };
    let mut file = std::fs::File::open(&found).ok()?;
    let digest = crate::engine::tree::hash(&mut file, &[]).ok()?.digest;
    Some(("program".to_owned(), digest.0.to_vec()))
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
    let engine = Engine { store: &store, task };
    let mut tree = Tree::new(&store, task.mount.as_ref())?;
    let standing = own_outputs(&engine, &mut tree)?;
    let mut found = match (asked.args.force, asked.args.policy().local.read) {
        (true, _) => Found::not_asked("--force"),
        (_, false) => Found::not_asked("the cache is not read"),
        _ => engine.lookup(&mut tree, &standing)?,
    };
    let lookup_ms = asked.elapsed_ms();
    if let Some((head, observations)) = found.hit.take() {
        match engine.plan_restore(&head, &mut tree, &standing) {
            Ok(plan) => {
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
                if asked.args.dry_run {
                    report.exit_code = 0;
                    return Ok(asked.deliver(report));
                }
                let captured = store.captured(&head.id)?;
                let blobs = store.dir().as_os_str().as_encoded_bytes();
                let is_input = |path: &[u8]| !standing.contains(path) && !path.starts_with(blobs);
                let newest = tree.newest(is_input).unwrap_or_default();
                report.restored_as = match engine.restore(&plan, newest) {
                    Ok(restored_as) => restored_as,
                    // What is half restored is hidden from the command: it runs as from clean.
                    Err(error) => {
                        tree.start_over()?;
                        let found = Found::not_asked(&format!("the outputs could not be restored: {error:#}"));
                        let standing = own_outputs(&engine, &mut tree)?;
                        drop(tree);
                        return missed(asked, task, store, Missed { found, standing, lookup_ms });
                    }
                };
                report.restore_ms = asked.elapsed_ms() - lookup_ms;
                replay(&captured);
                // What is remembered for the next run is no reason to spoil this one.
                let _ = store.touch(&head.id, now_ms());
                let _ = store.set_last(engine.workspace(), &task.keys.own, &head.id, now_ms());
                tree.save();
                return Ok(asked.deliver(report));
            }
            Err(NoPlan::Damage(error)) => {
                store.drop_record(&head.id)?;
                found.reason = format!("a damaged record was dropped: {error}");
                found.difference = None;
            }
            Err(NoPlan::OtherLinks(path)) => {
                found.reason = format!("{path} has got other names (hard links)");
                found.difference = None;
            }
            Err(NoPlan::Failed(error)) => return Err(error),
        }
    }
    let missed = Missed { found, standing, lookup_ms };
    if asked.args.dry_run {
        let report = Report {
            status: Status::Miss,
            reason: Some(missed.found.reason),
            first_difference: missed.found.difference,
            task_key: Some(task.keys.task.0.to_string()),
            lookup_ms,
            ..Report::default()
        };
        return Ok(asked.deliver(report));
    }
    tree.save();
    drop(tree);
    self::missed(asked, task, store, missed)
}

fn own_outputs(engine: &Engine<'_>, tree: &mut Tree<'_>) -> anyhow::Result<Standing> {
    Ok(match engine.task.settings.own {
        Own::Observe => Standing::default(),
        Own::Carry | Own::Hide => standing(&left(engine.store, &engine.task.keys.own)?, engine.workspace(), tree)?,
    })
}

/// Runs the command in the engine process.
fn missed(asked: &Asked, task: &Task, store: Arc<Store>, missed: Missed) -> anyhow::Result<i32> {
    if identity::is_read_only(&task.workspace) {
        // In a view the command could write, and what it wrote would be lost.
        drop(store);
        return natively(asked, task, "the workspace is read-only".to_owned());
    }
    let dir: PathBuf = store.dir().to_owned();
    // A database connection must not cross a fork: the engine opens its own.
    drop(store);
    let code = front::split(|announcer| miss::engine(asked, task, &dir, missed, announcer))?;
    Ok(code.unwrap_or_else(|| lost(asked)))
}

/// The engine is gone, and with it the command: it may have done anything or nothing, so it is not run again.
fn lost(asked: &Asked) -> i32 {
    let reason = "the part of wink that serves the command was killed; the command was killed with it";
    asked.deliver(Report::failed(reason, crate::cli::EXIT_OWN_FAILURE))
}

impl Found {
    fn not_asked(reason: &str) -> Found {
        Found { hit: None, difference: None, reason: reason.to_owned(), damage: None }
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

//! From flags, configuration and surroundings to a task: everything that is known before a command runs.
//!
//! `wink run` and `wink explain` both begin here, so that they speak of the same task.

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use wink_platform::unix::{identity, probe, stdin};
use wink_store::Digest;

use crate::cli::TaskArgs;
use crate::config::{Config, Scope, Settings};
use crate::engine::detect::tracing::Tracing;
use crate::engine::{Input, Task};
use crate::environment;
use crate::key::{Flags, KeyInput, Keys, Platform};
use crate::roots::Roots;
use crate::workspace;

/// What a key calls the way to the current directory.
pub const WAY: &str = "PWD";
/// What a key calls what the caller's standard input is.
pub const STANDARD_INPUT: &str = "standard input";

/// The task that the flags name, and the configuration of its workspace.
pub fn prepare(args: &TaskArgs, quiet: bool) -> anyhow::Result<(Task, Config)> {
    let current = std::env::current_dir().context("the current directory cannot be read; does it still exist?")?;
    let cwd = args.cwd.as_ref().map_or_else(|| current.clone(), |dir| current.join(dir));
    match prepare_in(&cwd, args, quiet) {
        // The daemon of the mount may have died meanwhile. Nothing has been read from standard input by then: it comes after the configuration.
        Err(_) if crate::command::mount::is_within_dead(&cwd) => prepare_in(&cwd, args, quiet),
        prepared => prepared,
    }
}

fn prepare_in(cwd: &Path, args: &TaskArgs, quiet: bool) -> anyhow::Result<(Task, Config)> {
    crate::command::mount::revive(cwd)?;
    let cwd = cwd.canonicalize().with_context(|| format!("cannot enter {}", cwd.display()))?;
    // A home of `/` (some containers) would name everything.
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok()).filter(|home| home.parent().is_some());
    let workspace = workspace::find(&cwd, home.as_deref())?.root;
    let config = Config::load(&workspace, std::env::vars_os())?;
    if !quiet {
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
    let stdin = match (args.stdin, args.callers_stdin) {
        (true, _) => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
            Input::Bytes(bytes)
        }
        (false, None | Some(stdin::Kind::Empty)) => Input::Empty,
        (false, Some(_)) => Input::Callers,
    };
    let environments = environment::divide(std::env::vars_os(), &settings.env);
    // A shell takes the way it came by from PWD and hands it on: unless it is the plain one, it decides.
    let way = std::env::var_os("PWD")
        .map(PathBuf::from)
        .filter(|way| *way != cwd && way.canonicalize().is_ok_and(|real| real == cwd))
        .map(|way| roots.substitute(way.as_os_str().as_encoded_bytes()));
    // Programs ask what it is before they read it, or instead.
    let kind = args.callers_stdin.filter(|_| stdin == Input::Callers);
    let place = Place { workspace: &workspace, cwd: &cwd, path: std::env::var_os("PATH") };
    let extras = place.extras(&argv, &settings, way, kind)?;
    let mut keys = Keys::new(
        &KeyInput {
            argv: &argv,
            cwd: &relative_cwd(&cwd, &workspace),
            environment: &environments.key,
            stdin: if let Input::Bytes(bytes) = &stdin { Some(Digest::of(bytes)) } else { None },
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
    keys.parts.flags = Flags {
        env: args.env.clone(),
        pass_env: args.pass_env.clone(),
        input: args.input.clone(),
        output: args.output.clone(),
    };
    let environment = environments.task;
    let task = Task {
        workspace,
        home,
        cwd,
        argv,
        environment,
        stdin,
        keys,
        settings,
        roots,
        detect: Box::new(Tracing),
        mount: None,
        only_asked: false,
        quiet,
    };
    Ok((task, config))
}

/// Where a command is to run.
pub struct Place<'a> {
    /// Absolute, canonical.
    pub workspace: &'a Path,
    /// Absolute, canonical.
    pub cwd: &'a Path,
    /// The variable `PATH` that the command has.
    pub path: Option<OsString>,
}

impl Place<'_> {
    /// What decides besides words, variables and the like. `way` is the one to the current directory if it is not the plain one, `stdin` what
    /// standard input is if it is the caller's.
    pub fn extras(
        &self,
        argv: &[OsString],
        settings: &Settings,
        way: Option<Vec<u8>>,
        stdin: Option<stdin::Kind>,
    ) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut extras = declared_inputs(self.workspace, &settings.input)?;
        if settings.scope == Scope::Workspace {
            extras.extend(self.executable(argv));
        }
        extras.extend(way.map(|way| (WAY.to_owned(), way)));
        extras.extend(stdin.map(|kind| (STANDARD_INPUT.to_owned(), format!("{kind:?}").into_bytes())));
        // What these take out of the trace or the outputs makes another record.
        for (name, list) in [("ignore", &settings.ignore), ("scratch", &settings.scratch), ("output", &settings.output)]
        {
            extras.extend(list.iter().map(|glob| (name.to_owned(), glob.clone().into_bytes())));
        }
        if let Some(canonical) = &settings.canonical_root {
            extras.push(("canonical_root".to_owned(), canonical.as_os_str().as_encoded_bytes().to_vec()));
        }
        Ok(extras)
    }

    /// In workspace scope nothing outside is watched, so the program itself is part of the key.
    fn executable(&self, argv: &[OsString]) -> Option<(String, Vec<u8>)> {
        let program = Path::new(argv.first()?);
        let found = if program.components().count() > 1 {
            self.cwd.join(program)
        } else {
            let path = self.path.as_ref()?;
            std::env::split_paths(path).map(|dir| self.cwd.join(dir).join(program)).find(|path| path.is_file())?
        };
        let mut file = std::fs::File::open(&found).ok()?;
        let digest = crate::engine::tree::hash(&mut file, &[]).ok()?.digest;
        Some(("program".to_owned(), digest.0.to_vec()))
    }
}

/// The current directory relative to the workspace; outside it, the absolute one.
pub fn relative_cwd(cwd: &Path, workspace: &Path) -> Vec<u8> {
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

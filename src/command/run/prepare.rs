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
use crate::config::{Config, Detect, Scope, Settings};
use crate::engine::detect::snapshot::Snapshot;
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
    let mut instead = None;
    if settings.detect == Detect::Auto {
        instead = probe::fuse_available().and_then(|()| probe::namespaces_available()).err();
        settings.detect = if instead.is_none() { Detect::Trace } else { Detect::Snapshot };
    }
    anyhow::ensure!(
        settings.detect != Detect::Glob || !(settings.input.is_empty() && settings.output.is_empty()),
        "--detect glob finds nothing by itself: name inputs (--input GLOB), outputs (--output GLOB) or both"
    );
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
    let watching = settings.detect;
    let place = Place { workspace: &workspace, cwd: &cwd, path: std::env::var_os("PATH") };
    let extras = place.extras(&settings, way, kind);
    let contents = place.contents(&argv, &settings)?;
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
            contents: &contents,
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
        detect: strategy(watching, instead),
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
        settings: &Settings,
        way: Option<Vec<u8>>,
        stdin: Option<stdin::Kind>,
    ) -> Vec<(String, Vec<u8>)> {
        let mut extras = Vec::new();
        // A record of a weaker way of finding out is none for who asks for a stronger one.
        match settings.detect {
            Detect::Snapshot => extras.push(("detect".to_owned(), b"snapshot".to_vec())),
            Detect::Glob => extras.push(("detect".to_owned(), b"glob".to_vec())),
            Detect::Trace | Detect::Auto => {}
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
        extras
    }

    /// The contents that decide before the command runs: of declared inputs, and of programs that nobody watches.
    pub fn contents(&self, argv: &[OsString], settings: &Settings) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut contents = declared_inputs(self.workspace, &settings.input)?;
        match settings.detect {
            Detect::Snapshot | Detect::Glob => contents.extend(self.unwatched(argv)),
            _ if settings.scope == Scope::Workspace => contents.extend(self.executable(argv)),
            _ => {}
        }
        Ok(contents)
    }

    /// In workspace scope nothing outside is watched, so the program itself is part of the key.
    fn executable(&self, argv: &[OsString]) -> Option<(String, Vec<u8>)> {
        Some(("program".to_owned(), digest_of(&self.found(Path::new(argv.first()?))?)?))
    }

    fn found(&self, program: &Path) -> Option<PathBuf> {
        if program.components().count() > 1 {
            return Some(self.cwd.join(program));
        }
        let path = self.path.as_ref()?;
        std::env::split_paths(path).map(|dir| self.cwd.join(dir).join(program)).find(|path| path.is_file())
    }

    /// What stands for the world outside a workspace that nobody watches: the program, those that run it if it is a script, and what is installed.
    fn unwatched(&self, argv: &[OsString]) -> Vec<(String, Vec<u8>)> {
        let mut extras = Vec::new();
        let mut next = argv.first().map(PathBuf::from);
        for _ in 0..INTERPRETERS_MAX {
            let Some(path) = next.take().and_then(|program| self.found(&program)) else { break };
            let Some(digest) = digest_of(&path) else { break };
            extras.push(("program".to_owned(), digest));
            next = interpreter(&path);
        }
        let installed = INSTALLED.iter().filter_map(|list| Some(("installed".to_owned(), digest_of(Path::new(list))?)));
        extras.extend(installed);
        extras
    }
}

/// A script may be run by another script; Linux follows four of them.
const INTERPRETERS_MAX: usize = 5;
/// Where package managers of systems write down what is installed: dpkg, apk, rpm and pacman's nearest equivalent.
const INSTALLED: [&str; 5] = [
    "/var/lib/dpkg/status",
    "/lib/apk/db/installed",
    "/var/lib/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/var/log/pacman.log",
];

fn digest_of(path: &Path) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(path).ok()?;
    Some(crate::engine::tree::hash(&mut file, &[]).ok()?.digest.0.to_vec())
}

/// Who runs a script, by its first line: of `#!/usr/bin/env node` that is `node`.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut start = [0; 256];
    let length = std::fs::File::open(path).ok()?.read(&mut start).ok()?;
    let line = start[..length].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let program = words.next()?;
    let named = words.find(|word| !word.starts_with('-') && !word.contains('='));
    Some(PathBuf::from(if program.ends_with("/env") { named? } else { program }))
}

fn strategy(detect: Detect, instead: Option<String>) -> Box<dyn crate::engine::detect::Detect> {
    match detect {
        Detect::Snapshot => Box::new(Snapshot { globs: false, instead }),
        Detect::Glob => Box::new(Snapshot { globs: true, instead }),
        Detect::Trace | Detect::Auto => Box::new(Tracing),
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

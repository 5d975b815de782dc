//! The configuration keys: their types, defaults and meaning, and what they come to for one task.
//!
//! Every value remembers where it came from. [`Config::for_task`] merges by strength of the origin first, and by nearness second:
//! a `[[task]]` table wins over general keys of its own file and of weaker ones, and never over a stronger file or a variable.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wink_platform::unix::fuse;

use super::pattern::matches;
use super::units::Size;

/// Which part of the file tree is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything, toolchain and system headers too.
    #[default]
    System,
    /// The workspace alone: cheaper, and blind to a new compiler.
    Workspace,
}

/// How inputs and outputs are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Detect {
    /// By watching what the command asks for.
    #[default]
    Trace,
    /// By comparing the workspace before and after.
    Snapshot,
    /// By the globs of `--input` and `--output` alone.
    Glob,
    /// By watching where that is possible, else by comparing.
    Auto,
}

/// What becomes of the outputs of earlier runs when the command runs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Own {
    /// The command sees them if they all stand untouched; else it runs as from clean.
    #[default]
    Carry,
    /// The command never sees them.
    Hide,
    /// They are inputs like any other file.
    Observe,
}

/// Which environment variables reach the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EnvMode {
    /// All of them.
    #[default]
    Loose,
    /// A short list and those that are named.
    Strict,
}

/// How the kernel's requests reach those who serve views and mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// By io_uring where it is to be had, else through the device.
    #[default]
    Auto,
    /// Through the device.
    Classic,
    /// By io_uring, or not at all.
    Uring,
}

impl From<Transport> for fuse::Transport {
    fn from(transport: Transport) -> fuse::Transport {
        match transport {
            Transport::Auto => fuse::Transport::Auto,
            Transport::Classic => fuse::Transport::Classic,
            Transport::Uring => fuse::Transport::Uring,
        }
    }
}

/// Where a value came from, weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// The user's file.
    User(PathBuf),
    /// The workspace's file.
    Workspace(PathBuf),
    /// An environment variable.
    Environment(String),
}

impl Origin {
    /// How strong it is: equal for all variables.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::User(_) => 1,
            Origin::Workspace(_) => 2,
            Origin::Environment(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(out, "default"),
            Origin::User(path) | Origin::Workspace(path) => write!(out, "{}", path.display()),
            Origin::Environment(name) => write!(out, "{name}"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    fn built_in(value: T) -> Sourced<T> {
        Sourced { value, origin: Origin::Default }
    }
}

/// Default of `max_size`: what a laptop spares without noticing.
pub const DEFAULT_MAX_SIZE: u64 = 10_000_000_000;
/// Default of `max_age`: a month without use.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store is; none if there is no home to put it in.
    pub cache_dir: Sourced<Option<PathBuf>>,
    /// Largest size of the store; none is no limit.
    pub max_size: Sourced<Option<Size>>,
    /// How long an unused record is kept; none is for ever.
    pub max_age: Sourced<Option<Duration>>,
    /// Re-hash blobs before they are restored.
    pub verify_integrity: Sourced<bool>,
    /// Packages whose tasks are never cached.
    pub exclude_packages: Sourced<Vec<String>>,
    /// Store failed runs too.
    pub cache_failures: Sourced<bool>,
    /// Which part of the file tree is watched.
    pub scope: Sourced<Scope>,
    /// How inputs and outputs are found.
    pub detect: Sourced<Detect>,
    /// What becomes of own outputs on a miss.
    pub own: Sourced<Own>,
    /// Where the view shows the workspace.
    pub canonical_root: Sourced<Option<PathBuf>>,
    /// `env.mode`.
    pub env_mode: Sourced<EnvMode>,
    /// `env.pass`: handed to the command, not in the key.
    pub env_pass: Sourced<Vec<String>>,
    /// `env.include`: handed to the command and in the key, whatever else is said.
    pub env_include: Sourced<Vec<String>>,
    /// Globs of the workspace that are neither inputs nor outputs.
    pub ignore: Sourced<Vec<String>>,
    /// More directories of tool caches.
    pub scratch: Sourced<Vec<String>>,
    /// How requests come.
    pub transport: Sourced<Transport>,
    /// The `[[task]]` tables, weakest first.
    pub tasks: Vec<Sourced<Task>>,
    /// Things worth a line to the user that are no errors.
    pub notices: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cache_dir: Sourced::built_in(None),
            max_size: Sourced::built_in(Some(Size::Bytes(DEFAULT_MAX_SIZE))),
            max_age: Sourced::built_in(Some(DEFAULT_MAX_AGE)),
            verify_integrity: Sourced::built_in(false),
            exclude_packages: Sourced::built_in(Vec::new()),
            cache_failures: Sourced::built_in(false),
            scope: Sourced::built_in(Scope::default()),
            detect: Sourced::built_in(Detect::default()),
            own: Sourced::built_in(Own::default()),
            canonical_root: Sourced::built_in(None),
            env_mode: Sourced::built_in(EnvMode::default()),
            env_pass: Sourced::built_in(Vec::new()),
            env_include: Sourced::built_in(Vec::new()),
            ignore: Sourced::built_in(Vec::new()),
            scratch: Sourced::built_in(Vec::new()),
            transport: Sourced::built_in(Transport::default()),
            tasks: Vec::new(),
            notices: Vec::new(),
        }
    }
}

/// One `[[task]]` table: overrides for the commands that `pattern` matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Glob over the command line, its words joined by one space.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Whether these commands are cached at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// Overrides `scope`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Overrides `detect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect: Option<Detect>,
    /// Overrides `own`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
    /// Overrides `cache_failures`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_failures: Option<bool>,
    /// Overrides `env.*`.
    #[serde(skip_serializing_if = "TaskEnv::is_empty")]
    pub env: TaskEnv,
    /// Files that are inputs in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Vec<String>>,
    /// Files that are the outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Vec<String>>,
}

/// The `env` table of a [`Task`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskEnv {
    /// Overrides `env.mode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<EnvMode>,
    /// Overrides `env.pass`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<Vec<String>>,
    /// Overrides `env.include`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include: Option<Vec<String>>,
}

impl TaskEnv {
    fn is_empty(&self) -> bool {
        *self == TaskEnv::default()
    }
}

/// What one task runs with, everything merged but the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The task is never cached.
    pub uncached: bool,
    /// Which part of the file tree is watched.
    pub scope: Scope,
    /// How inputs and outputs are found.
    pub detect: Detect,
    /// What becomes of own outputs on a miss.
    pub own: Own,
    /// Store failed runs too.
    pub cache_failures: bool,
    /// Re-hash blobs before they are restored.
    pub verify_integrity: bool,
    /// Packages whose tasks are never cached, globs.
    pub exclude_packages: Vec<String>,
    /// Where the view shows the workspace.
    pub canonical_root: Option<PathBuf>,
    /// Which variables the command sees, and which are in the key.
    pub env: EnvSettings,
    /// Globs of the workspace that are neither inputs nor outputs.
    pub ignore: Vec<String>,
    /// More directories of tool caches.
    pub scratch: Vec<String>,
    /// How requests to the view come.
    pub transport: Transport,
    /// Files that are inputs in any case.
    pub input: Vec<String>,
    /// Files that are the outputs.
    pub output: Vec<String>,
}

/// The environment part of [`Settings`]. Names may be globs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvSettings {
    /// What reaches the command when nothing is said.
    pub mode: EnvMode,
    /// Handed to the command, not in the key.
    pub pass: Vec<String>,
    /// Handed to the command and in the key.
    pub include: Vec<String>,
}

impl Config {
    /// Where the store is.
    pub fn store_dir(&self) -> anyhow::Result<&std::path::Path> {
        self.cache_dir.value.as_deref().ok_or_else(|| {
            anyhow::anyhow!("there is no place for the cache: HOME is not set; set WINK_CACHE_DIR to a directory")
        })
    }

    /// The settings of one task: general keys, and the tables that match its words.
    pub fn for_task<W: AsRef<[u8]>>(&self, argv: &[W]) -> Settings {
        let line: Vec<&[u8]> = argv.iter().map(AsRef::as_ref).collect();
        let line = line.join(&b' ');
        let tasks: Vec<&Sourced<Task>> =
            self.tasks.iter().filter(|task| matches(task.value.pattern.as_bytes(), &line)).collect();
        Settings {
            uncached: tasks.iter().filter_map(|task| task.value.cache).next_back() == Some(false),
            scope: merge(&self.scope, &tasks, |task| task.scope.as_ref()),
            detect: merge(&self.detect, &tasks, |task| task.detect.as_ref()),
            own: merge(&self.own, &tasks, |task| task.own.as_ref()),
            cache_failures: merge(&self.cache_failures, &tasks, |task| task.cache_failures.as_ref()),
            verify_integrity: self.verify_integrity.value,
            exclude_packages: self.exclude_packages.value.clone(),
            canonical_root: self.canonical_root.value.clone(),
            env: EnvSettings {
                mode: merge(&self.env_mode, &tasks, |task| task.env.mode.as_ref()),
                pass: merge(&self.env_pass, &tasks, |task| task.env.pass.as_ref()),
                include: merge(&self.env_include, &tasks, |task| task.env.include.as_ref()),
            },
            ignore: self.ignore.value.clone(),
            scratch: self.scratch.value.clone(),
            transport: self.transport.value,
            input: last(&tasks, |task| task.input.as_ref()),
            output: last(&tasks, |task| task.output.as_ref()),
        }
    }
}

/// The last table that says something, unless the general value has a stronger origin.
fn merge<T: Clone>(general: &Sourced<T>, tasks: &[&Sourced<Task>], pick: impl Fn(&Task) -> Option<&T>) -> T {
    let strong = |task: &&&Sourced<Task>| task.origin.rank() >= general.origin.rank();
    let picked = tasks.iter().filter(strong).filter_map(|task| pick(&task.value)).next_back();
    picked.unwrap_or(&general.value).clone()
}

/// The last table that says something.
fn last(tasks: &[&Sourced<Task>], pick: impl Fn(&Task) -> Option<&Vec<String>>) -> Vec<String> {
    tasks.iter().filter_map(|task| pick(&task.value)).next_back().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(origin: Origin, task: Task) -> Sourced<Task> {
        Sourced { value: task, origin }
    }

    #[test]
    fn tables_override_only_what_is_not_stronger() {
        let file = || Origin::Workspace("w/wink.toml".into());
        let mut config = Config { own: Sourced { value: Own::Observe, origin: file() }, ..Config::default() };
        let pattern = "npm run *".to_owned();
        let hide = Task { pattern, own: Some(Own::Hide), scope: Some(Scope::Workspace), ..Task::default() };
        config.tasks = vec![task(file(), hide.clone())];
        let settings = config.for_task(&["npm", "run", "build"]);
        assert_eq!((settings.own, settings.scope), (Own::Hide, Scope::Workspace));
        assert_eq!(config.for_task(&["npm", "test"]).own, Own::Observe);

        config.own = Sourced { value: Own::Carry, origin: Origin::Environment("WINK_OWN".into()) };
        assert_eq!(config.for_task(&["npm", "run", "build"]).own, Own::Carry);

        config.own = Sourced { value: Own::Observe, origin: file() };
        config.tasks = vec![task(Origin::User("u".into()), hide)];
        assert_eq!(config.for_task(&["npm", "run", "build"]).own, Own::Observe);
    }

    #[test]
    fn later_tables_win_field_by_field() {
        let all = |change: Task| task(Origin::User("u".into()), Task { pattern: "*".into(), ..change });
        let tasks = vec![
            all(Task { cache_failures: Some(true), output: Some(vec!["a".into()]), ..Task::default() }),
            all(Task { output: Some(vec!["b".into()]), ..Task::default() }),
        ];
        let settings = Config { tasks, ..Config::default() }.for_task(&["x"]);
        assert!(settings.cache_failures);
        assert_eq!(settings.output, ["b"]);
    }
}

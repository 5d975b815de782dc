//! The command line: what `wink` accepts, and the errors for what it does not.
//!
//! Everything after `--` belongs to the command and is never looked at. Without `--` the command begins at the first word that is
//! not a flag, and everything behind it belongs to the command too. A usage error of `wink run` exits with 125, as `env` and
//! `timeout` do, so that it cannot be taken for an exit code of the command; the other subcommands use 2.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueHint};
use wink_platform::unix::stdin;

use crate::command::cache::CacheCommand;
use crate::command::daemon::DaemonCommand;
use crate::command::doctor::DoctorArgs;
use crate::command::mount::{MaterializeArgs, MountArgs, UnmountArgs};
use crate::config::{Detect, Own, Scope, Settings};

/// Exit code of `wink run` when wink itself failed before the command could run.
pub const EXIT_OWN_FAILURE: i32 = 125;
/// Exit code of a usage error of any other subcommand.
pub const EXIT_USAGE: i32 = 2;
/// Exit code of any other failure of a subcommand that runs nothing.
pub const EXIT_FAILURE: i32 = 1;

/// Run any command once, and never again for the same inputs.
#[derive(Debug, Parser)]
#[command(name = "wink", version, arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command, or bring back what it left if its inputs are unchanged
    Run(Box<RunArgs>),
    /// Say whether a command would be a hit or a miss, and why; run and change nothing
    Explain(Box<ExplainArgs>),
    /// A shell, for programs that ask for one: each `wink sh -c LINE` is a task; without -c it is the real shell
    #[command(override_usage = "wink sh [OPTIONS] -c LINE [NAME [ARGUMENT…]]")]
    Sh {
        /// As of sh
        #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show the inputs and outputs of a record, compare two, or write a page about all tasks of the workspace
    Trace(TraceArgs),
    /// Serve a working tree through wink: what hits restore appears in it without being copied
    Mount(MountArgs),
    /// Stop serving a working tree; what is real stays, views wait for the next mount
    Unmount(UnmountArgs),
    /// Say what is mounted, and where views wait for the next mount
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Turn views into real files, mounted or not
    Materialize(MaterializeArgs),
    /// The process that serves mounted working trees
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Look at the cache and take care of it
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say what this machine, this cache and this configuration allow, what a lack costs and how to mend it
    Doctor(DoctorArgs),
    /// Print the manual page, or write a page for each subcommand into a directory
    Man {
        /// The directory
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
}

/// `wink config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON Schema of wink.toml and wink.json, for editors
    Schema,
    /// Print every key, its value and where the value came from
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `wink trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Print JSON
    #[arg(long, conflicts_with = "html")]
    pub json: bool,
    /// Write one page about the tasks of this workspace to FILE, to be looked at in a browser; - is standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,
    /// The record, by the first digits of its name [default: the last run in this workspace]; two are compared
    #[arg(value_name = "RECORD", num_args = 0..=2, value_hint = ValueHint::Other)]
    pub records: Vec<String>,
    /// Print the records that could be named, for completion
    #[arg(long, hide = true)]
    pub names: bool,
}

/// `wink run`.
#[derive(Clone, Debug, Default, Args)]
#[command(override_usage = "wink run [OPTIONS] -- COMMAND…")]
pub struct RunArgs {
    /// Which caches to read (r) and write (w), e.g. local:rw,remote:r; one that is not named is not used
    #[arg(long, value_name = "local:rw,remote:r", conflicts_with = "no_cache")]
    pub cache: Option<CachePolicy>,
    /// Run the command without reading or writing any cache
    #[arg(long)]
    pub no_cache: bool,
    /// Run the command even if a record holds, and replace that record
    #[arg(long)]
    pub force: bool,
    /// Say what would happen; run and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write what happened to FILE as one JSON object
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Print nothing of wink's own
    #[arg(long)]
    pub quiet: bool,
    /// Nor what runs inside have to say: not so for a shell, whose commands may call wink themselves.
    #[arg(skip)]
    pub as_shell: bool,
    /// What is to run.
    #[command(flatten)]
    pub task: TaskArgs,
}

/// `wink explain`.
#[derive(Clone, Debug, Default, Args)]
#[command(override_usage = "wink explain [OPTIONS] -- COMMAND…")]
pub struct ExplainArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What would run.
    #[command(flatten)]
    pub task: TaskArgs,
}

/// A command, and the flags that decide which task it is.
#[derive(Clone, Debug, Default, Args)]
pub struct TaskArgs {
    /// Run the command in DIR
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cwd: Option<PathBuf>,
    /// Let the value of this environment variable decide, even if it is normally ignored
    #[arg(long, value_name = "NAME")]
    pub env: Vec<String>,
    /// Hand this environment variable to the command, but do not let its value decide
    #[arg(long, value_name = "NAME")]
    pub pass_env: Vec<String>,
    /// Files that are inputs whether or not the command reads them
    #[arg(long, value_name = "GLOB")]
    pub input: Vec<String>,
    /// Files that are the outputs
    #[arg(long, value_name = "GLOB")]
    pub output: Vec<String>,
    /// What becomes of the outputs of earlier runs when the command runs again
    #[arg(long)]
    pub own: Option<Own>,
    /// Which part of the file tree is watched
    #[arg(long)]
    pub scope: Option<Scope>,
    /// How inputs and outputs are found [default: trace]
    #[arg(long)]
    pub detect: Option<Detect>,
    /// Hand standard input to the command; its bytes decide too
    #[arg(long)]
    pub stdin: bool,
    /// The command has this process' standard input, whatever that is (`wink sh`).
    #[arg(skip)]
    pub callers_stdin: Option<stdin::Kind>,
    /// Do not use the daemon: in a mounted tree, write outputs as real files through the mount
    #[arg(long)]
    pub no_daemon: bool,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// What may be done with one cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Look up records.
    pub read: bool,
    /// Store records.
    pub write: bool,
}

impl Access {
    const ALL: Access = Access { read: true, write: true };
}

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Access, String> {
        let (read, write) = match text {
            "" | "none" => (false, false),
            "r" => (true, false),
            "w" => (false, true),
            "rw" | "wr" => (true, true),
            _ => return Err(format!("\"{text}\" is not one of r, w, rw, none")),
        };
        Ok(Access { read, write })
    }
}

/// Which caches a run reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePolicy {
    /// The cache on this machine.
    pub local: Access,
    /// A shared one.
    pub remote: Access,
}

impl Default for CachePolicy {
    fn default() -> CachePolicy {
        CachePolicy { local: Access::ALL, remote: Access::ALL }
    }
}

impl FromStr for CachePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<CachePolicy, String> {
        let mut seen = [None, None];
        for part in text.split(',') {
            let (name, access) =
                part.split_once(':').ok_or_else(|| format!("\"{part}\" is not of the form local:rw or remote:r"))?;
            let slot = match name {
                "local" => &mut seen[0],
                "remote" => &mut seen[1],
                _ => {
                    return Err(format!("there is no cache named \"{name}\"; the caches are local and remote"));
                }
            };
            if slot.replace(access.parse()?).is_some() {
                return Err(format!("\"{name}\" is given twice"));
            }
        }
        let [local, remote] = seen.map(Option::unwrap_or_default);
        Ok(CachePolicy { local, remote })
    }
}

impl RunArgs {
    /// Which caches this run reads and writes, all flags considered.
    pub fn policy(&self) -> CachePolicy {
        let mut policy = match self.no_cache {
            true => CachePolicy { local: Access::default(), remote: Access::default() },
            false => self.cache.unwrap_or_default(),
        };
        if self.force {
            policy.local.read = false;
            policy.remote.read = false;
        }
        policy
    }

    /// What the user asked for and will not get; one line, without a prefix.
    pub fn notice(&self) -> Option<&'static str> {
        let remote = self.cache.is_some_and(|policy| policy.remote != Access::default());
        remote.then_some("no remote cache is configured: remote in --cache has no effect")
    }
}

impl TaskArgs {
    /// Applies the flags, which are stronger than every file and variable. `--env`, `--pass-env`, `--input` and `--output` add.
    pub fn apply(&self, settings: &mut Settings) {
        settings.own = self.own.unwrap_or(settings.own);
        settings.scope = self.scope.unwrap_or(settings.scope);
        settings.detect = self.detect.unwrap_or(settings.detect);
        settings.env.include.extend_from_slice(&self.env);
        settings.env.pass.extend_from_slice(&self.pass_env);
        // What is said last wins: a name that the command line passes is no longer included by a file.
        settings.env.include.retain(|name| self.env.contains(name) || !self.pass_env.contains(name));
        settings.input.extend_from_slice(&self.input);
        settings.output.extend_from_slice(&self.output);
    }
}

/// Why there is nothing to run: a usage error, or a request for help.
#[derive(Debug)]
pub struct Refusal {
    /// What to print.
    pub text: String,
    /// The exit code; 0 for help and version, which go to standard output.
    pub exit_code: i32,
}

/// What the program of this name is: `wink sh`.
const SHELL_NAME: &str = "wink-sh";

/// The words for the shell, if it is called as one. None of them is wink's: neither is looked at before the shell's own are told apart.
fn shell_words(words: &[OsString]) -> Option<&[OsString]> {
    let (program, rest) = words.split_first()?;
    if std::path::Path::new(program).file_name()?.as_encoded_bytes().ends_with(SHELL_NAME.as_bytes()) {
        return Some(rest);
    }
    let (first, rest) = rest.split_first()?;
    // `wink sh --help` asks wink.
    (first == "sh" && rest.first().is_none_or(|word| word != "--help")).then_some(rest)
}

/// Parses a command line, its first word being the program.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Refusal> {
    let words: Vec<OsString> = words.into_iter().collect();
    if let Some(args) = shell_words(&words) {
        return Ok(Cli { command: Command::Sh { args: args.to_vec() } });
    }
    let of_run = words.get(1).is_some_and(|word| word == "run");
    let usage = if of_run { EXIT_OWN_FAILURE } else { EXIT_USAGE };
    let cli = Cli::try_parse_from(&words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal { text: error.to_string(), exit_code: 0 },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Refusal { text: error.to_string(), exit_code: usage },
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            Refusal { text: format!("wink: {}\n", text.trim_end()), exit_code: usage }
        }
    })?;
    match &cli.command {
        Command::Run(args) if args.task.command.is_empty() => Err(Refusal {
            text: "wink: no command to run\n\nWrite it after two dashes, for example: wink run -- make all\n"
                .to_owned(),
            exit_code: usage,
        }),
        Command::Explain(args) if args.task.command.is_empty() => Err(Refusal {
            text: "wink: no command to explain\n\nWrite it after two dashes, for example: wink explain -- make all\n"
                .to_owned(),
            exit_code: usage,
        }),
        _ => Ok(cli),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &[&str]) -> Result<RunArgs, Refusal> {
        let words = ["wink", "run"].iter().chain(line).map(OsString::from);
        match parse(words)?.command {
            Command::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    fn words(args: &RunArgs) -> Vec<&str> {
        args.task.command.iter().map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_the_dashes_is_the_commands() {
        let args = run(&["--quiet", "--", "make", "--force", "--", "-j2", "--quiet"]).unwrap();
        assert_eq!(words(&args), ["make", "--force", "--", "-j2", "--quiet"]);
        assert!(args.quiet && !args.force);
        let args = run(&["--", "--odd-name", "x"]).unwrap();
        assert_eq!(words(&args), ["--odd-name", "x"]);
    }

    #[test]
    fn the_dashes_may_be_left_out() {
        let args = run(&["--env", "CC", "make", "--force", "-j2", "--", "x"]).unwrap();
        assert_eq!(words(&args), ["make", "--force", "-j2", "--", "x"]);
        assert!(!args.force);
        assert_eq!(args.task.env, ["CC"]);
    }

    #[test]
    fn usage_errors_of_run_exit_125_and_others_2() {
        for line in [&["--bogus", "--", "true"][..], &[], &["--"], &["--own", "keep", "--", "true"], &["--cwd"]] {
            let refusal = run(line).unwrap_err();
            assert_eq!(refusal.exit_code, EXIT_OWN_FAILURE, "{line:?}");
            assert!(refusal.text.starts_with("wink: "), "{}", refusal.text);
        }
        for line in
            [&["wink", "trace", "--bogus"][..], &["wink", "bogus"], &["wink"], &["wink", "cache"], &["wink", "explain"]]
        {
            assert_eq!(parse(line.iter().map(OsString::from)).unwrap_err().exit_code, EXIT_USAGE, "{line:?}");
        }
        assert_eq!(run(&["--help"]).unwrap_err().exit_code, 0);
        assert_eq!(parse(["wink", "--version"].map(OsString::from)).unwrap_err().exit_code, 0);
    }

    #[test]
    fn cache_grammar() {
        let policy = |text: &str| text.parse::<CachePolicy>();
        let none = Access::default();
        assert_eq!(policy("local:rw,remote:r").unwrap().remote, Access { read: true, write: false });
        assert_eq!(
            policy("local:w").unwrap(),
            CachePolicy { local: Access { read: false, write: true }, remote: none }
        );
        assert_eq!(policy("local:,remote:none").unwrap(), CachePolicy { local: none, remote: none });
        for bad in ["", "local", "local:x", "disk:rw", "local:r,local:w", "local:r,"] {
            assert!(policy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_shape_the_policy() {
        assert_eq!(run(&["--", "x"]).unwrap().policy(), CachePolicy::default());
        assert_eq!(run(&["--no-cache", "--", "x"]).unwrap().policy().local, Access::default());
        let forced = run(&["--force", "--", "x"]).unwrap().policy();
        assert_eq!(forced.local, Access { read: false, write: true });
        assert!(run(&["--no-cache", "--cache=local:r", "--", "x"]).is_err());
        assert!(run(&["--cache=local:rw,remote:r", "--", "x"]).unwrap().notice().is_some());
        assert!(run(&["--cache=local:rw", "--", "x"]).unwrap().notice().is_none());
        assert_eq!(run(&["--detect", "glob", "x"]).unwrap().task.detect, Some(Detect::Glob));
    }
}

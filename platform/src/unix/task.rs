//! Running a command to its end: started inside a view, its output passed through and captured, signals forwarded to it, and
//! whoever outlives it named.
//!
//! One thread does all of it, in one poll loop (`relay`). That thread must live as long as the command: the kernel kills the
//! command when the thread that started it ends.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::capture::{Source, set_nonblocking};
use super::child::Plan;
use super::enter::Inside;
use super::relay::{Feed, Relay};
use super::signals::Watch;
use super::survivors::Kin;

pub use super::capture::CAPTURE_BYTES_MAX;
pub use super::relay::Rest;
pub use super::survivors::Survivor;
pub use wink_store::record::Stream;

/// What to run, and how.
pub struct Spawn<'a> {
    /// The command and its arguments. A name without a slash is looked for in `env`'s `PATH`, as the view shows it.
    pub argv: &'a [OsString],
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory; `None` is this process' own, or the view's.
    pub cwd: Option<PathBuf>,
    /// What it reads from standard input.
    pub stdin: Stdin,
    /// The view to enter before.
    pub inside: Option<Inside>,
    /// Its umask, if not this process' own.
    pub umask: Option<u32>,
    /// Capture its output without passing it through.
    pub quiet: bool,
    /// Standard output and standard error are pipes, even if this process' own are terminals.
    pub piped: [bool; 2],
}

/// What a command reads from standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing.
    Null,
    /// What this process would.
    Inherit,
    /// These bytes, through a pipe.
    Bytes(Vec<u8>),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It does not exist.
    NotFound,
    /// It exists, but could not be executed: this errno.
    NotExecutable(i32),
}

impl Outcome {
    /// The exit code with which a shell reports it.
    pub fn exit_code(self) -> i32 {
        match self {
            Outcome::Exited(code) => code,
            Outcome::Signalled(signal) => 128 + signal,
            Outcome::NotFound => 127,
            Outcome::NotExecutable(_) => 126,
        }
    }
}

/// All about a command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// Its output, in order.
    pub pieces: Vec<(Stream, Vec<u8>)>,
    /// Whether `pieces` is all of it. Not so if it was larger than [`CAPTURE_BYTES_MAX`], if nobody took what was passed
    /// through (a closed pipe), or if survivors may still write.
    pub complete: bool,
    /// Descendants that are still alive, with the whole families they founded.
    pub survivors: Vec<Survivor>,
    /// Streams that survivors (or processes that were handed a descriptor) hold open. When it is dropped, their next write
    /// fails with SIGPIPE; [`Rest::pass_on`] serves them to the end.
    pub rest: Option<Rest>,
    /// From start to end.
    pub wall: Duration,
    /// The first signal that told this process to end meanwhile. It did not: the caller should, once it has cleaned up.
    pub interrupted: Option<i32>,
}

/// Runs the command to its end. Unless `quiet`, its output is passed through to this process' stdout and stderr as it comes;
/// it is captured in any case. `on_started` is called with the command's process number once it is being executed.
///
/// An error means that the command was never executed, by no fault of its own: pipes, `fork`, the working directory, or the
/// view (then [`super::enter::Door`] knows more).
pub fn run(spawn: Spawn<'_>, on_started: impl FnOnce(i32)) -> io::Result<Finished> {
    let plan = Plan::new(spawn.argv, spawn.env, spawn.cwd.as_deref(), spawn.inside, spawn.umask)?;
    let watch = Watch::start()?;
    let mut kin = Kin::new();
    let (feed, stdin) = stdin(spawn.stdin)?;
    let (stdout, command_stdout) = Source::new(rustix::stdio::stdout(), spawn.piped[0])?;
    let (stderr, command_stderr) = Source::new(rustix::stdio::stderr(), spawn.piped[1])?;

    let started = Instant::now();
    let inherited = rustix::stdio::stdin();
    let streams = [stdin.as_ref().map_or(inherited, AsFd::as_fd), command_stdout.as_fd(), command_stderr.as_fd()];
    let (pid, report) = plan.start(streams)?;
    kin.started(pid.as_raw_nonzero().get());
    // The command's ends must be the command's alone, or the end of its output would never be seen.
    drop((stdin, command_stdout, command_stderr));

    let relay = Relay::new(pid, &watch, kin, report, [stdout, stderr], feed, spawn.quiet)?;
    relay.run(started, on_started)
}

fn stdin(stdin: Stdin) -> io::Result<(Option<Feed>, Option<OwnedFd>)> {
    match stdin {
        Stdin::Inherit => Ok((None, None)),
        Stdin::Null => {
            let null = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            Ok((None, Some(null)))
        }
        Stdin::Bytes(bytes) => {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            set_nonblocking(&writer)?;
            Ok((Some(Feed { writer, bytes, done: 0 }), Some(reader)))
        }
    }
}

//! `fusermount3`, the set-user-ID program that mounts and unmounts FUSE filesystems for ordinary users.
//!
//! The descriptor of a mounted device comes back over a socket whose number the environment variable `_FUSE_COMMFD` tells. It is
//! never waited for longer than [`PATIENCE`].

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::control::{receive_some, wait_readable};

/// It takes milliseconds; a machine that swaps may take seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const PROGRAM: &str = "fusermount3";

/// Why it did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is not installed, or not found in `PATH`.
    Missing,
    /// It said this.
    Said(String),
    /// It could not be run or heard.
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::NotFound => Refusal::Missing,
            _ => Refusal::Failed(error),
        }
    }
}

/// Mounts over `dir`; returns the device.
pub(crate) fn mount(dir: &Path, options: &str) -> Result<OwnedFd, Refusal> {
    let (ours, its) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)?;
    let mut command = Command::new(PROGRAM);
    command.args([OsStr::new("-o"), OsStr::new(options), OsStr::new("--"), dir.as_os_str()]);
    command.env("_FUSE_COMMFD", its.as_raw_fd().to_string());
    let inherited = its.as_raw_fd();
    // SAFETY: the closure makes one system call, on a descriptor that is open as long as the command's child is being made.
    unsafe { command.pre_exec(move || keep_at_exec(inherited)) };
    run(command)?;
    // It has ended well, so the descriptor is there.
    let received = receive_some(&ours, &mut [0], Some(Instant::now() + PATIENCE))?;
    received.descriptors.into_iter().next().ok_or_else(|| Refusal::Said(String::from("it sent no descriptor")))
}

/// Unmounts `dir`.
pub(crate) fn unmount(dir: &Path, lazily: bool) -> Result<(), Refusal> {
    let mut command = Command::new(PROGRAM);
    command.arg(if lazily { "-uz" } else { "-u" }).arg("--").arg(dir);
    run(command)
}

fn keep_at_exec(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: a plain system call on a number; a descriptor that is not open is an error.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn run(mut command: Command) -> Result<(), Refusal> {
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let heard = match child.stderr.take() {
        Some(stderr) => listen(stderr),
        None => Ok(String::new()),
    };
    if heard.is_err() {
        // It may have ended just now; then there is nothing to kill.
        let _ = child.kill();
    }
    let ended = child.wait()?;
    let said = heard?;
    if ended.success() {
        Ok(())
    } else {
        Err(Refusal::Said(said.trim().trim_start_matches("fusermount3: ").to_owned()))
    }
}

/// All it says, until it ends.
fn listen(mut stderr: ChildStderr) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        wait_readable(&stderr, Some(end))?;
        match stderr.read(&mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&said).into_owned()),
            read => said.extend_from_slice(&buffer[..read]),
        }
    }
}

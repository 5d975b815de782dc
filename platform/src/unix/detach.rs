//! Starting a program that outlives its starter and holds nothing of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};

/// The first descriptor that is no standard stream.
const FIRST_OTHER: libc::c_uint = 3;

/// Starts `program` (an absolute path) as a daemon: in a session of its own, in `/`, its output going to `log`, no other descriptor
/// open, all signals as by default, and no child of this process. Returns when it runs; an error says why it does not.
///
/// If this process is a subreaper (it runs commands), it becomes the daemon's parent all the same.
pub fn spawn_detached(
    program: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    log: File,
) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: the closure makes only async-signal-safe calls.
    unsafe { command.pre_exec(|| detach()) };
    // The child ends as soon as it has its own child, which then runs the program; the report of a failed `exec` comes from there.
    command.spawn()?.wait()?;
    Ok(())
}

/// # Safety
/// Only in the child of a `fork`, before `exec`.
unsafe fn detach() -> io::Result<()> {
    // SAFETY: plain async-signal-safe calls; the parent of the second fork ends without running anything of this process.
    unsafe {
        if libc::setsid() == -1 {
            return Err(io::Error::last_os_error());
        }
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            _ => libc::_exit(0),
        }
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL); // KILL and STOP cannot be anything else.
        }
        // Not closed here and now: the pipe over which a failed `exec` is reported is among them.
        let marked = libc::syscall(
            libc::SYS_close_range,
            FIRST_OTHER,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        );
        if marked == -1 {
            // Before Linux 5.11.
            for descriptor in FIRST_OTHER.cast_signed()..=libc::sysconf(libc::_SC_OPEN_MAX) as libc::c_int {
                libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
    Ok(())
}

/// Gives up this process' standard streams unless they are terminals, so that nobody who reads from them waits for this process to end.
pub fn let_go_of_streams() -> io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    if !rustix::termios::isatty(rustix::stdio::stdin()) {
        rustix::stdio::dup2_stdin(&null)?;
    }
    if !rustix::termios::isatty(rustix::stdio::stdout()) {
        rustix::stdio::dup2_stdout(&null)?;
    }
    if !rustix::termios::isatty(rustix::stdio::stderr()) {
        rustix::stdio::dup2_stderr(&null)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_detached_program_holds_nothing_of_its_starter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
        // Asked one by one: listing them would open another one.
        let script = "pwd; readlink /proc/self/fd/0; \
                      for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do if [ -e /proc/$$/fd/$n ]; then printf '%s ' $n; fi; done; echo; cut -d' ' -f6 /proc/$$/stat; \
                      grep SigIgn /proc/$$/status; echo $1 >&2";
        let log = File::create(&path).unwrap();
        // SAFETY: nothing in this program uses the signal.
        unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
        spawn_detached(Path::new("/bin/sh"), ["-c", script, "sh", "argument"], log).unwrap();
        drop(writer);
        assert_eq!(rustix::io::read(&reader, &mut [0]), Ok(0), "the pipe was inherited");
        let end = Instant::now() + Duration::from_secs(20);
        let text = loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("argument") || Instant::now() > end {
                break text;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["/", "/dev/null"], "{text}");
        assert_eq!(lines[2].trim(), "0 1 2", "{text}");
        // The session is named after the process in between, which has been reaped.
        let session: i32 = lines[3].parse().unwrap();
        // By a plain call: 0 where our own session began in a process namespace further out, as in a container.
        // SAFETY: it only asks.
        assert_ne!(session, unsafe { libc::getsid(0) });
        assert!(!Path::new("/proc").join(session.to_string()).exists(), "{text}");
        // The C library keeps its own signals, 32 and 33, from being reset.
        let ignored = u64::from_str_radix(lines[4].trim_start_matches("SigIgn:").trim(), 16).unwrap();
        assert_eq!(ignored & !(0b11 << 31), 0, "{text}");
    }

    #[test]
    fn a_program_that_cannot_be_started_is_told() {
        let log = tempfile::tempfile().unwrap();
        let failed = spawn_detached(Path::new("/no/such/program"), [""; 0], log).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::NotFound);
    }
}

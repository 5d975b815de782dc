//! The command's own process between `fork` and `exec`.
//!
//! The parent prepares everything that needs memory: the paths that `PATH` offers, argument and environment vectors. The
//! child, a copy of one thread of a process with many, makes nothing but system calls. The search of `PATH` happens there,
//! after the view was entered, so that the view sees it.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::process::{Pid, Rlimit};

use super::descriptors::original_limit;
use super::enter::Inside;
use super::front::command_begins;
use super::signals::{WATCHED, ignored_before};

/// Where a command is looked for without `PATH`, as the C library does.
const PATH_DEFAULT: &str = "/bin:/usr/bin";
/// What runs a script that does not say what it is to be run by.
const SHELL: &std::ffi::CStr = c"/bin/sh";

/// The first byte of the child's report: which part failed. Nothing at all is success.
pub(crate) const FAILED_SETUP: u8 = 1;
pub(crate) const FAILED_EXEC: u8 = 2;
pub(crate) const REPORT_BYTES: usize = 5;

/// Everything the child needs.
pub(crate) struct Plan {
    /// Paths to try, in order.
    candidates: Vec<CString>,
    /// Whether they come from `PATH`, or are the one path that was named.
    searched: bool,
    argv: Vec<CString>,
    envp: Vec<CString>,
    cwd: Option<CString>,
    inside: Option<Inside>,
    umask: Option<u32>,
    limit: Option<Rlimit>,
}

impl Plan {
    pub(crate) fn new(
        argv: &[OsString],
        env: Vec<(OsString, OsString)>,
        cwd: Option<&Path>,
        inside: Option<Inside>,
        umask: Option<u32>,
    ) -> io::Result<Plan> {
        let program = argv.first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command given"))?;
        let search = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        Ok(Plan {
            candidates: candidates(program, search)?,
            searched: !program.is_empty() && !program.as_bytes().contains(&b'/'),
            argv: argv.iter().map(|word| Ok(CString::new(word.as_bytes())?)).collect::<io::Result<_>>()?,
            envp: env
                .into_iter()
                .map(|(name, value)| {
                    let mut line = name.into_vec();
                    line.push(b'=');
                    line.extend_from_slice(value.as_bytes());
                    Ok(CString::new(line)?)
                })
                .collect::<io::Result<_>>()?,
            cwd: cwd.map(|cwd| CString::new(cwd.as_os_str().as_bytes())).transpose()?,
            inside,
            umask,
            limit: original_limit(),
        })
    }

    /// Starts the command with these as its standard streams. The returned pipe ends when the command runs, or says what
    /// kept it from running. The plan, and with it the parent's copy of the entrance, is gone afterwards.
    pub(crate) fn start(self, streams: [BorrowedFd<'_>; 3]) -> io::Result<(Pid, OwnedFd)> {
        let (report, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut pointers = Vec::with_capacity(self.argv.len() + 2);
        // A script without an interpreter line is run as `sh path arguments…`: room for one word more.
        pointers.extend(self.argv.iter().map(|word| word.as_ptr()));
        pointers.push(std::ptr::null());
        let mut script = vec![SHELL.as_ptr(), std::ptr::null()];
        script.extend(&pointers[1..]);
        let mut envp: Vec<_> = self.envp.iter().map(|line| line.as_ptr()).collect();
        envp.push(std::ptr::null());
        let ignored = ignored_before();
        let parent = std::process::id();

        // A signal between `fork` and the child's own dispositions must wait, not run this process' handlers there.
        let blocked = BlockedSignals::all();
        // SAFETY: the child continues in `become_command`, which makes only async-signal-safe calls and never returns.
        let forked = unsafe { libc::fork() };
        if forked == 0 {
            let child = Child {
                plan: &self,
                streams: streams.map(|stream| stream.as_raw_fd()),
                report: writer.as_raw_fd(),
                argv: &pointers,
                script: &mut script,
                envp: &envp,
                ignored: &ignored,
                parent,
            };
            // SAFETY: this is the child of a fork, with one thread.
            unsafe { child.become_command() }
        }
        let failed = io::Error::last_os_error();
        drop(blocked);
        match Pid::from_raw(forked).filter(|_| forked > 0) {
            Some(pid) => Ok((pid, report)),
            None => Err(failed),
        }
    }
}

/// The paths under which `program` may be found.
fn candidates(program: &OsStr, search: Option<&OsStr>) -> io::Result<Vec<CString>> {
    let program = program.as_bytes();
    if program.is_empty() || program.contains(&b'/') {
        return Ok(vec![CString::new(program)?]);
    }
    let search = search.unwrap_or(OsStr::new(PATH_DEFAULT)).as_bytes();
    search
        .split(|&byte| byte == b':')
        .map(|directory| {
            // An empty part of PATH is the working directory.
            let mut path = directory.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(program);
            Ok(CString::new(path)?)
        })
        .collect()
}

/// All signals blocked for this thread until dropped.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn all() -> BlockedSignals {
        // SAFETY: all-zero is a valid set; both calls fill valid sets of this stack frame and cannot fail.
        unsafe {
            let mut every: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut every);
            libc::pthread_sigmask(libc::SIG_SETMASK, &every, &mut old);
            BlockedSignals(old)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was this thread's mask before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

struct Child<'a> {
    plan: &'a Plan,
    streams: [RawFd; 3],
    report: RawFd,
    argv: &'a [*const libc::c_char],
    script: &'a mut [*const libc::c_char],
    envp: &'a [*const libc::c_char],
    ignored: &'a [bool; WATCHED.len()],
    parent: u32,
}

impl Child<'_> {
    /// # Safety
    /// Only in the child of a `fork`, which has one thread and shares no locks with the parent's others.
    unsafe fn become_command(mut self) -> ! {
        // SAFETY: as promised by the caller.
        let (part, errno) = match unsafe { self.set_up() } {
            Err(errno) => (FAILED_SETUP, errno),
            // SAFETY: as promised by the caller.
            Ok(()) => (FAILED_EXEC, unsafe { self.exec() }),
        };
        let mut message = [part; REPORT_BYTES];
        message[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: plain system calls on a descriptor and a buffer of this process; `_exit` runs no destructors.
        unsafe {
            libc::write(self.report, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    }

    /// # Safety
    /// As [`Child::become_command`].
    unsafe fn set_up(&self) -> Result<(), i32> {
        // SAFETY: plain async-signal-safe calls with values of this process.
        unsafe {
            for (number, signal) in WATCHED.into_iter().enumerate() {
                libc::signal(signal, if self.ignored[number] { libc::SIG_IGN } else { libc::SIG_DFL });
            }
            // The Rust runtime ignores it; programs expect to end when nobody reads them any more.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            for (target, source) in self.streams.into_iter().enumerate() {
                let target = target as RawFd;
                // Duplicating a descriptor onto itself would leave it marked close-on-exec.
                let done =
                    if source == target { libc::fcntl(target, libc::F_SETFD, 0) } else { libc::dup2(source, target) };
                if done == -1 {
                    return Err(errno());
                }
            }
            if let Some(umask) = self.plan.umask {
                libc::umask(umask & 0o777);
            }
        }
        if let Some(limit) = &self.plan.limit {
            let limit = Rlimit { current: limit.current, maximum: limit.maximum };
            // Lowering a soft limit cannot fail; if it did, the command would merely see a larger one.
            let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
        }
        self.die_with_parent()?;
        if let Some(inside) = &self.plan.inside {
            // SAFETY: this is the one call, in a single-threaded child before exec.
            unsafe { inside.enter() }.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
            // Once more: the kernel forgets it at some changes of credentials, and a user namespace is one.
            self.die_with_parent()?;
        }
        if let Some(cwd) = &self.plan.cwd {
            rustix::process::chdir(&**cwd).map_err(rustix::io::Errno::raw_os_error)?;
        }
        Ok(())
    }

    /// If wink is killed, no half-run task is left, nor one that waits for a view which nobody serves any more.
    fn die_with_parent(&self) -> Result<(), i32> {
        let kill = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(kill).map_err(rustix::io::Errno::raw_os_error)?;
        // It may have died before that.
        // SAFETY: no preconditions.
        if unsafe { libc::getppid() }.cast_unsigned() == self.parent { Ok(()) } else { Err(libc::ESRCH) }
    }

    /// Tries the candidates as `execvp` does; returns only with the reason why none could be run.
    ///
    /// # Safety
    /// As [`Child::become_command`].
    unsafe fn exec(&mut self) -> i32 {
        let mut reason = libc::ENOENT;
        command_begins();
        for candidate in &self.plan.candidates {
            // SAFETY: path and vectors are NUL-terminated and live in the parent's prepared memory, of which this is a copy.
            unsafe { libc::execve(candidate.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
            let failed = errno();
            if failed == libc::ENOEXEC {
                if let Some(slot) = self.script.get_mut(1) {
                    *slot = candidate.as_ptr();
                }
                // SAFETY: as above.
                unsafe { libc::execve(SHELL.as_ptr(), self.script.as_ptr(), self.envp.as_ptr()) };
                return libc::ENOEXEC;
            }
            if !self.plan.searched {
                return failed;
            }
            match failed {
                // A file that may not be run: a later one may do, else this is the reason. But directories of that name, and
                // parts of PATH that may not be looked into, are passed over, as shells do.
                libc::EACCES if is_file(candidate) => reason = libc::EACCES,
                libc::EACCES | libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                libc::ELOOP | libc::ENAMETOOLONG => {}
                other => return other,
            }
        }
        reason
    }
}

fn is_file(path: &std::ffi::CStr) -> bool {
    let kind = |stat: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(stat.st_mode);
    rustix::fs::stat(path).is_ok_and(|stat| kind(stat) == rustix::fs::FileType::RegularFile)
}

fn errno() -> i32 {
    super::attr::last_errno().raw_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_searched_as_the_c_library_does() {
        let paths = |program: &str, search: Option<&str>| -> Vec<String> {
            let found = candidates(OsStr::new(program), search.map(OsStr::new)).unwrap();
            found.into_iter().map(|path| path.into_string().unwrap()).collect()
        };
        assert_eq!(paths("cc", Some("/a::/b/")), ["/a/cc", "cc", "/b//cc"]);
        assert_eq!(paths("./cc", Some("/a")), ["./cc"]);
        assert_eq!(paths("cc", None), ["/bin/cc", "/usr/bin/cc"]);
        assert_eq!(paths("", Some("/a")), [""]);
    }
}

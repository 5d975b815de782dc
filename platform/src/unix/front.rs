//! The two processes of a miss: the *front*, whom the caller knows and waits for, and the *engine*, which serves the view.
//!
//! A view must go on working for as long as any process of the task lives, and the caller must get the exit code as soon as the command
//! itself has ended. So the engine is a process of its own: it announces the exit code when all is published, and stays behind only if
//! processes outlived the command.
//!
//! Signals: what the terminal sends reaches front, engine and command alike (one process group). What somebody sends to the front alone
//! is passed on to the engine. If the front is killed, the kernel kills the engine, and with it the command: nothing is published.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::Signal;

/// The process to which the front passes signals on.
static ENGINE: AtomicI32 = AtomicI32::new(0);

/// The signals that end a program and that people and programs send to one.
const PASSED_ON: [libc::c_int; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// What the engine tells the front: whether it ends too, and the exit code.
const MESSAGE_BYTES: usize = 5;
const ENDS: u8 = 0;
const STAYS: u8 = 1;

/// The engine's way of telling the front that the command has ended.
pub struct Announcer {
    pipe: File,
}

impl Announcer {
    /// Lets the front end with `code`, now that the engine has nothing more to do.
    pub fn ended(self, code: i32) {
        self.announce(code, ENDS);
    }

    /// Lets the front end with `code`. The engine stays behind on its own.
    pub fn stays(self, code: i32) {
        // The front's end must no longer end the engine: processes of the task still need it.
        let _ = rustix::process::set_parent_process_death_signal(None);
        self.announce(code, STAYS);
    }

    fn announce(mut self, code: i32, what: u8) {
        let mut message = [what; MESSAGE_BYTES];
        message[1..].copy_from_slice(&code.to_le_bytes());
        // If the front is gone, nobody wants the code.
        let _ = self.pipe.write_all(&message);
    }
}

/// Runs `engine` in a child process and returns the code that it announces. To be called while the process has one thread.
pub fn split(engine: impl FnOnce(Announcer)) -> io::Result<i32> {
    let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let front = rustix::process::getpid();
    // SAFETY: the process has a single thread (the caller's promise), so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read);
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            // The front may have died before the line above.
            if rustix::process::getppid() == Some(front) {
                let run = std::panic::AssertUnwindSafe(|| engine(Announcer { pipe: File::from(write) }));
                let _ = std::panic::catch_unwind(run);
            }
            // SAFETY: ends this process; nothing of the parent's is flushed or run twice.
            unsafe { libc::_exit(0) }
        }
        engine => {
            drop(write);
            ENGINE.store(engine, Ordering::SeqCst);
            pass_signals_on();
            let mut message = [0; MESSAGE_BYTES];
            let announced = File::from(read).read_exact(&mut message);
            let [what, code @ ..] = message;
            if announced.is_err() || what == ENDS {
                // So that nothing of this run is left when the caller goes on.
                let _ = rustix::process::waitpid(
                    rustix::process::Pid::from_raw(engine),
                    rustix::process::WaitOptions::empty(),
                );
            }
            match announced {
                Ok(()) => Ok(i32::from_le_bytes(code)),
                Err(_) => Err(io::Error::other("the part of wink that serves the command ended unexpectedly")),
            }
        }
    }
}

fn pass_signals_on() {
    for signal in PASSED_ON {
        // SAFETY: zeroed is a valid sigaction; the handler only makes calls that are safe in a signal handler.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN {
                // Ignored by the caller's wish (`nohup`): stays so.
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = pass_on as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

extern "C" fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler.
    let code = unsafe { (*info).si_code };
    // Positive: from the kernel, that is the terminal, which has told the whole process group.
    if code <= 0 {
        // SAFETY: kill(2) is safe in a signal handler and touches no memory.
        unsafe { libc::kill(ENGINE.load(Ordering::SeqCst), signal) };
    }
}

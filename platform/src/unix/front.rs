//! The two processes of a run: the *front*, whom the caller knows and waits for, and the *engine*, which serves the view.
//!
//! A view must go on working for as long as any process of the task lives, and the caller must get the exit code as soon as the command
//! itself has ended. So the engine is a process of its own: it announces the exit code when all is published, and stays behind only if
//! processes outlived the command.
//!
//! Signals: what the terminal sends reaches front, engine and command alike (one process group), and so does what somebody sends to
//! the whole group. What somebody sends to the front alone is passed on. The two are told apart by whether the engine got the signal
//! too: nobody sends to the engine alone. If the front is killed, the kernel kills the engine, and with it the command: nothing is published.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

/// The signals that end a program and that people and programs send to one.
const PASSED_ON: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// How long the front waits for the engine to have got a signal too: far longer than a kernel takes to deliver to a group.
const GROUP_DELAY: Duration = Duration::from_millis(25);
/// What the engine tells the front: whether it ends too, and the exit code.
const MESSAGE_BYTES: usize = 5;
const ENDS: u8 = 0;
const STAYS: u8 = 1;

/// What front, engine and command share.
#[repr(C)]
struct Shared {
    /// Bit n is set when the engine got signal n from somebody other than the front.
    got: AtomicU32,
    /// Not 0 once a command is about to be executed.
    begun: AtomicU32,
}

/// In the engine: the front's process number; 0 elsewhere.
static FRONT: AtomicI32 = AtomicI32::new(0);
/// Null where there is no engine.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
/// In the front: where the handler writes the signals that arrive.
static ARRIVED: AtomicI32 = AtomicI32::new(-1);

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

/// How an engine came to its end, as the front sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It announced this exit code.
    Code(i32),
    /// It ended without a word before any command was executed.
    BeforeTheCommand,
    /// It ended without a word, and a command with it.
    Lost,
}

/// Runs `engine` in a child process. An error means that nothing was run. To be called while the process has one thread.
pub fn split(engine: impl FnOnce(Announcer)) -> io::Result<Ending> {
    let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (signals, arrived) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // SAFETY: a fresh mapping at an address of the kernel's choice, large enough for what is shared, never unmapped.
    let shared = unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), size_of::<Shared>(), protection, MapFlags::SHARED)?
    };
    SHARED.store(shared.cast(), Ordering::SeqCst);
    let front = rustix::process::getpid();
    // SAFETY: the process has a single thread (the caller's promise), so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop((read, signals, arrived));
            FRONT.store(front.as_raw_nonzero().get(), Ordering::SeqCst);
            // Outside the time in which a command runs, when they are its own, these must not stop the engine half-way.
            handle(pass_over);
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
            ARRIVED.store(arrived.as_raw_fd(), Ordering::SeqCst);
            handle(note_arrival);
            let code = wait(engine, read, &signals);
            ARRIVED.store(-1, Ordering::SeqCst);
            // The command's process holds the pipe until it is executed, so by now it either was or never will be.
            let begun = self::shared().is_some_and(|shared| shared.begun.load(Ordering::SeqCst) != 0);
            Ok(match code {
                Some(code) => Ending::Code(code),
                None if begun => Ending::Lost,
                None => Ending::BeforeTheCommand,
            })
        }
    }
}

/// Waits for the engine's word, passing signals on meanwhile.
fn wait(engine: libc::c_int, word: OwnedFd, signals: &OwnedFd) -> Option<i32> {
    loop {
        let mut fds = [PollFd::new(&word, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
        if !fds[0].revents().is_empty() {
            break;
        }
        let mut signal = [0; 1];
        while rustix::io::read(signals.as_fd(), &mut signal).is_ok_and(|count| count == 1) {
            std::thread::sleep(GROUP_DELAY);
            if !engine_got(signal[0])
                && let (Some(engine), Some(signal)) = (Pid::from_raw(engine), Signal::from_named_raw(signal[0].into()))
            {
                let _ = rustix::process::kill_process(engine, signal);
            }
        }
    }
    let mut message = [0; MESSAGE_BYTES];
    let announced = File::from(word).read_exact(&mut message);
    let [what, code @ ..] = message;
    if announced.is_err() || what == ENDS {
        // So that nothing of this run is left when the caller goes on.
        let _ = rustix::process::waitpid(Pid::from_raw(engine), WaitOptions::empty());
    }
    announced.is_ok().then(|| i32::from_le_bytes(code))
}

fn shared() -> Option<&'static Shared> {
    // SAFETY: null, or the mapping of `split`, which is aligned to a page, zeroed and never unmapped.
    unsafe { SHARED.load(Ordering::SeqCst).as_ref() }
}

/// To be called by a command's process when it is about to be executed. Async-signal-safe.
pub(crate) fn command_begins() {
    if let Some(shared) = shared() {
        shared.begun.store(1, Ordering::SeqCst);
    }
}

/// Whether the engine got the signal too; forgets it.
fn engine_got(signal: u8) -> bool {
    let bit = 1 << (u32::from(signal) & 31);
    shared().is_some_and(|shared| shared.got.fetch_and(!bit, Ordering::SeqCst) & bit != 0)
}

/// To be called by every handler of these signals in the engine: whether the command must be told. Async-signal-safe.
///
/// A signal from a process other than the front went to the whole group, so the command has it already; outside an engine (a command that
/// this process runs itself) whoever sends, sends to us alone.
pub(crate) fn is_for_command(signal: libc::c_int, code: libc::c_int, sender: libc::pid_t) -> bool {
    let front = FRONT.load(Ordering::SeqCst);
    // Positive: from the kernel, that is the terminal, which has told the whole process group.
    let sent = code <= 0;
    if front == 0 || sender == front {
        return sent;
    }
    if sent && let Some(shared) = shared() {
        shared.got.fetch_or(1 << (signal.cast_unsigned() & 31), Ordering::SeqCst);
    }
    false
}

fn handle(handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)) {
    for signal in PASSED_ON {
        // SAFETY: zeroed is a valid sigaction; the handlers only make calls that are safe in a signal handler.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN {
                // Ignored by the caller's wish (`nohup`): stays so.
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// In the front: from the terminal, everybody has it; from a process, to be looked into.
extern "C" fn note_arrival(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler.
    let sent = unsafe { (*info).si_code } <= 0;
    let pipe = ARRIVED.load(Ordering::SeqCst);
    if sent && pipe != -1 {
        let byte = signal as u8;
        // SAFETY: write(2) is safe in a signal handler; errno is put back.
        unsafe {
            let errno = *libc::__errno_location();
            libc::write(pipe, (&raw const byte).cast(), 1);
            *libc::__errno_location() = errno;
        }
    }
}

/// In the engine while no command runs: only noted.
extern "C" fn pass_over(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler; a sent signal names its sender.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    is_for_command(signal, code, sender);
}

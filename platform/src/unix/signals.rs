//! Signals as events of a poll loop, while a command runs.
//!
//! Other threads of this process (those that serve the view) run with every signal unblocked, so a `signalfd` would not get
//! them: handlers are needed. A handler writes the signal's number and origin into a pipe of each active `Watch`. Those
//! pipes are never closed, only reused: a handler on another thread may be about to write.
//!
//! Signals that were ignored when the watch began (`nohup`, background jobs of a plain shell) stay ignored, here and in the
//! command. When the last watch ends, the old dispositions return.
//!
//! Lock order: `SHARED` is a leaf; the handler takes no lock.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use parking_lot::Mutex;
use rustix::pipe::PipeFlags;

use super::front;

/// The signals that a running command is looked after with.
pub(crate) const WATCHED: [i32; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGWINCH, libc::SIGCHLD];

/// Watches at a time: one for each command that runs; more than a few are only ever started by tests.
const WATCHES_MAX: usize = 32;
/// Signal number and whether the command must be told, as the handler writes them.
const EVENT_BYTES: usize = 8;

static SLOTS: [Slot; WATCHES_MAX] = [const { Slot::new() }; WATCHES_MAX];
static SHARED: Mutex<Shared> = Mutex::new(Shared { watches: 0, old: [const { None }; WATCHED.len()] });
/// In a child between `fork` and `exec` this is not its own number.
static OWNER: AtomicI32 = AtomicI32::new(0);

struct Slot {
    taken: AtomicBool,
    /// The pipe's writing end while the watch is on, else -1.
    writer: AtomicI32,
    pipe: OnceLock<(OwnedFd, OwnedFd)>,
}

impl Slot {
    const fn new() -> Slot {
        Slot { taken: AtomicBool::new(false), writer: AtomicI32::new(-1), pipe: OnceLock::new() }
    }
}

struct Shared {
    watches: usize,
    /// What to restore, for each of [`WATCHED`] that is handled.
    old: [Option<libc::sigaction>; WATCHED.len()],
}

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Its number.
    pub(crate) signal: i32,
    /// Whether a process sent it to us alone, rather than the terminal or somebody to the whole group: then the command lacks it.
    pub(crate) sent: bool,
}

/// Receives [`WATCHED`] signals until it is dropped.
pub(crate) struct Watch {
    slot: &'static Slot,
}

impl Watch {
    pub(crate) fn start() -> io::Result<Watch> {
        let slot = SLOTS
            .iter()
            .find(|slot| !slot.taken.swap(true, Ordering::AcqRel))
            .ok_or_else(|| io::Error::other("too many commands at a time in one process"))?;
        let watch = Watch { slot };
        if slot.pipe.get().is_none() {
            let made = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            // Only the taker of a slot gets here, so it cannot be set already.
            let _ = slot.pipe.set(made);
        }
        while watch.next().is_some() {} // Whatever a late handler wrote for the watch before.
        let mut shared = SHARED.lock();
        if let Some((_, writer)) = slot.pipe.get() {
            slot.writer.store(writer.as_raw_fd(), Ordering::Release);
        }
        shared.watches += 1;
        if shared.watches == 1 {
            OWNER.store(std::process::id().cast_signed(), Ordering::Release);
            shared.install();
        }
        Ok(watch)
    }

    /// Readable when a signal has arrived.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'static>> {
        use std::os::fd::AsFd;
        self.slot.pipe.get().map(|(reader, _)| reader.as_fd())
    }

    /// The next signal, if one is there.
    pub(crate) fn next(&self) -> Option<Arrived> {
        let mut event = [0; EVENT_BYTES];
        loop {
            match rustix::io::read(self.fd()?, &mut event) {
                // Writes of this size are whole or not at all, and so are reads.
                Ok(EVENT_BYTES) => break,
                Err(rustix::io::Errno::INTR) => {}
                _ => return None,
            }
        }
        let [a, b, c, d, sent @ ..] = event;
        Some(Arrived { signal: i32::from_ne_bytes([a, b, c, d]), sent: i32::from_ne_bytes(sent) != 0 })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.slot.writer.swap(-1, Ordering::AcqRel) != -1 {
            let mut shared = SHARED.lock();
            shared.watches -= 1;
            if shared.watches == 0 {
                shared.restore();
            }
        }
        self.slot.taken.store(false, Ordering::Release);
    }
}

/// Which of [`WATCHED`] were ignored before the watch began: the command starts with those ignored and all others default.
pub(crate) fn ignored_before() -> [bool; WATCHED.len()] {
    let shared = SHARED.lock();
    let mut ignored = [false; WATCHED.len()];
    for (number, signal) in WATCHED.into_iter().enumerate() {
        ignored[number] = match &shared.old[number] {
            Some(old) => old.sa_sigaction == libc::SIG_IGN,
            None => current(signal).is_some_and(|now| now.sa_sigaction == libc::SIG_IGN),
        };
    }
    ignored
}

fn current(signal: i32) -> Option<libc::sigaction> {
    // SAFETY: all-zero is a valid sigaction; the call only fills it in.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action asks for the present one, which is written to a valid place.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut now) };
    (asked == 0).then_some(now)
}

impl Shared {
    fn install(&mut self) {
        for (number, signal) in WATCHED.into_iter().enumerate() {
            let Some(now) = current(signal) else { continue };
            // An ignored SIGCHLD must be handled all the same: the kernel would reap the command unseen.
            if now.sa_sigaction == libc::SIG_IGN && signal != libc::SIGCHLD {
                continue;
            }
            // SAFETY: all-zero is a valid sigaction.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = handle as *const () as libc::sighandler_t;
            // RESTART: system calls of other threads go on as if nothing had happened.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            // SAFETY: the handler makes only async-signal-safe calls and touches only atomics.
            if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } == 0 {
                self.old[number] = Some(now);
            }
        }
    }

    fn restore(&mut self) {
        for (number, signal) in WATCHED.into_iter().enumerate() {
            if let Some(old) = self.old[number].take() {
                // SAFETY: it was in force before, so it is a valid action.
                unsafe { libc::sigaction(signal, &old, std::ptr::null_mut()) };
            }
        }
    }
}

/// The handler. Runs on any thread, at any moment.
extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: errno is the calling thread's own; it is put back below, since the interrupted code may be looking at it.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: getpid has no preconditions and is async-signal-safe.
    if unsafe { libc::getpid() } == OWNER.load(Ordering::Acquire) {
        // SAFETY: the kernel passes valid information to a handler installed with SA_SIGINFO.
        let (code, sender) = unsafe { info.as_ref().map_or((libc::SI_USER, 0), |info| (info.si_code, info.si_pid())) };
        let sent = i32::from(front::is_for_command(signal, code, sender));
        let mut event = [0; EVENT_BYTES];
        event[..4].copy_from_slice(&signal.to_ne_bytes());
        event[4..].copy_from_slice(&sent.to_ne_bytes());
        for slot in &SLOTS {
            let writer = slot.writer.load(Ordering::Acquire);
            if writer != -1 {
                // SAFETY: the descriptor belongs to a pipe that is never closed; a full pipe loses the event, not the loop.
                unsafe { libc::write(writer, event.as_ptr().cast(), event.len()) };
            }
        }
    } else {
        // A child that has not yet put its dispositions in order: the signal means what it means by default, and comes again
        // when this handler returns, since it is blocked until then.
        // SAFETY: both calls are async-signal-safe.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sees_signals_and_who_sent_them() {
        let watch = Watch::start().unwrap();
        // WINCH: ignored by default, so other tests in this process do not care.
        // SAFETY: the handler is installed; the signal goes to this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGWINCH) };
        let mut seen = None;
        for _ in 0..1000 {
            seen = watch.next().filter(|arrived| arrived.signal == libc::SIGWINCH);
            if seen.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(seen, Some(Arrived { signal: libc::SIGWINCH, sent: true }));
    }
}

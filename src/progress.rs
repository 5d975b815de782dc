//! A line on the terminal about work that takes longer than a second: what is being done, how far it is.
//!
//! Only where standard error is a terminal that can overwrite a line, and not with `--quiet` ([`allow`]). Whoever works reports what is done; the
//! line is written from there, so there is no thread that a fork could lose. It is taken away before anything else is said.
//!
//! Lock order: the one lock here is a leaf; nothing is called while it is held but writing to standard error.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::report::{colours_for, count, human_bytes, thousands};

/// Shorter work is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the line changes: faster nobody reads.
const PACE: Duration = Duration::from_millis(100);

static ALLOWED: AtomicBool = AtomicBool::new(false);
static NOW: Mutex<Option<Work>> = Mutex::new(None);

/// Work under way.
struct Work {
    what: &'static str,
    /// How many files there are, if that is known.
    total: Option<u64>,
    began: Instant,
    files: u64,
    bytes: u64,
    /// When the line was written last.
    shown: Option<Instant>,
}

impl Work {
    fn new(what: &'static str, total: Option<u64>, began: Instant) -> Work {
        Work { what, total, began, files: 0, bytes: 0, shown: None }
    }

    /// The line to be written now, if it is time for one.
    fn line(&mut self, now: Instant) -> Option<String> {
        let due = match self.shown {
            None => now.duration_since(self.began) >= PATIENCE,
            Some(shown) => now.duration_since(shown) >= PACE,
        };
        if !due {
            return None;
        }
        self.shown = Some(now);
        let seconds = now.duration_since(self.began).as_secs();
        let mut parts = vec![format!("wink: {}", self.what)];
        match self.total {
            Some(total) => parts.push(format!("{} of {}", thousands(self.files), count(total, "file"))),
            None if self.files > 0 => parts.push(count(self.files, "file")),
            None => {}
        }
        if self.bytes > 0 {
            parts.push(human_bytes(self.bytes));
        }
        parts.push(format!("{} s", thousands(seconds)));
        Some(parts.join(" · "))
    }
}

/// Allows lines, if standard error is a terminal that understands them. Until then nothing is ever written.
pub fn allow() {
    let able = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    // Inside a task standard error is what that task prints: it is kept and replayed.
    let inside = std::env::var_os(crate::environment::INSIDE).is_some();
    ALLOWED.store(able && !inside && std::io::stderr().is_terminal(), Ordering::Relaxed);
}

/// Until this is dropped, something is being done.
#[must_use]
pub struct Doing(());

/// Says that something is being done now; `total` files, if that is known.
pub fn doing(what: &'static str, total: Option<u64>) -> Doing {
    if ALLOWED.load(Ordering::Relaxed) {
        *now() = Some(Work::new(what, total, Instant::now()));
    }
    Doing(())
}

impl Drop for Doing {
    fn drop(&mut self) {
        if ALLOWED.load(Ordering::Relaxed) {
            wipe(now().take());
        }
    }
}

/// Takes the line away, since something else is about to be said.
pub fn clear() {
    if ALLOWED.load(Ordering::Relaxed)
        && let Some(work) = now().as_mut()
    {
        wipe(Some(Work { shown: work.shown.take(), ..Work::new(work.what, None, work.began) }));
    }
}

/// Says that of something so much is done, of so much; 0 if that is not known. What is being done may change on the way.
pub fn at(what: &'static str, files: u64, total: u64) {
    if !ALLOWED.load(Ordering::Relaxed) {
        return;
    }
    if let Some(work) = now().as_mut() {
        (work.what, work.files, work.total) = (what, files, (total > 0).then_some(total));
    }
    done(0, 0);
}

/// Reports work that is done, from whatever thread.
pub fn done(files: u64, bytes: u64) {
    if !ALLOWED.load(Ordering::Relaxed) {
        return;
    }
    if let Some(work) = now().as_mut() {
        work.files += files;
        work.bytes += bytes;
        if let Some(line) = work.line(Instant::now()) {
            let dimmed = colours_for(&std::io::stderr());
            let (dim, plain) = if dimmed { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            let _ = std::io::stderr().write_all(format!("\r{dim}{line}{plain}\x1b[K").as_bytes());
        }
    }
}

/// Does something of which only the duration can be told, such as waiting for the daemon: the line counts the seconds.
pub fn waiting<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let (over, ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let doing = doing(what, None);
        if ALLOWED.load(Ordering::Relaxed) {
            scope.spawn(move || {
                while ended.recv_timeout(PACE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    done(0, 0);
                }
            });
        }
        let result = work();
        drop(over);
        drop(doing);
        result
    })
}

fn now() -> MutexGuard<'static, Option<Work>> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wipe(work: Option<Work>) {
    if work.is_some_and(|work| work.shown.is_some()) {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_after_a_second_and_then_ten_times_a_second() {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let mut work = Work::new("reading inputs", None, began);
        assert_eq!(work.line(after(999)), None);
        (work.files, work.bytes) = (34, 1_234_567);
        assert_eq!(work.line(after(1000)).as_deref(), Some("wink: reading inputs · 34 files · 1.2 MB · 1 s"));
        assert_eq!(work.line(after(1050)), None);
        assert!(work.line(after(1100)).is_some());
        let mut work = Work::new("restoring outputs", Some(10_000), began);
        work.files = 1234;
        assert_eq!(work.line(after(2500)).as_deref(), Some("wink: restoring outputs · 1,234 of 10,000 files · 2 s"));
        let mut work = Work::new("making views real", None, began);
        assert_eq!(work.line(after(61_000)).as_deref(), Some("wink: making views real · 61 s"));
    }

    #[test]
    fn nothing_is_written_where_nobody_allowed_it() {
        let work = doing("testing", None);
        done(1, 1);
        assert!(now().is_none());
        clear();
        drop(work);
        assert_eq!(waiting("testing", || 7), 7);
    }
}

//! Progress of work that takes longer than a moment: one line on a terminal, rewritten in place, and nothing anywhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::report::thousands;

/// How long work takes before it is worth a line.
const SILENT: Duration = Duration::from_secs(1);
/// How often the line is written.
const EVERY: Duration = Duration::from_millis(100);

/// A line on standard error, if that is a terminal that can rewrite one. It goes when this is dropped.
pub struct Progress {
    began: Instant,
    /// When the line was written last; `None`: it is never written.
    written: Mutex<Option<Instant>>,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Progress {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let began = Instant::now();
        let written = (std::io::stderr().is_terminal() && !dumb).then_some(began);
        Progress { began, written: Mutex::new(written) }
    }

    /// So much is done, of so much; of what cannot be counted it is only said that it goes on.
    pub fn show(&self, what: &str, done: u64, all: u64) {
        let mut written = self.written.lock();
        let Some(last) = *written else { return };
        if self.began.elapsed() < SILENT || last.elapsed() < EVERY {
            return;
        }
        *written = Some(Instant::now());
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(what, done, all));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written.lock().is_some_and(|written| written > self.began) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, all: u64) -> String {
    match (done * 100).checked_div(all) {
        Some(percent) => format!("wink: {what}: {} of {} ({percent} %)", thousands(done), thousands(all)),
        None => format!("wink: {what} …"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counted_is_not() {
        assert_eq!(line("removing files", 1500, 3000), "wink: removing files: 1,500 of 3,000 (50 %)");
        assert_eq!(line("looking", 0, 0), "wink: looking …");
    }
}

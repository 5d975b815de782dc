//! The poll loop beside a running command: output, input, signals, its start and its end.
//!
//! Order of output: see `capture`. Passing output on may block for as long as its reader likes; signals are looked after
//! meanwhile, and once this process was told to end and the command has ended, output that nobody takes is dropped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use wink_store::record::Stream;

use super::capture::{Capture, READ_BYTES, Read, Source};
use super::child::{FAILED_EXEC, FAILED_SETUP, REPORT_BYTES};
use super::signals::Watch;
use super::survivors::Kin;
use super::task::{Finished, Outcome};

/// How long processes may take to follow the command into its end before they count as survivors.
const GRACE: Duration = Duration::from_millis(50);
/// The first pause between two looks at them; it doubles.
const FIRST_LOOK: Duration = Duration::from_micros(500);
/// Orphans that nobody waits for are reaped after this long.
const REAP_AFTER: Duration = Duration::from_secs(1);
/// Writes of this size to a pipe that is ready do not block.
const PASS_BYTES: usize = 4096;
/// Reads of a stream that survivors hold open, after the command's end: more than a pipe can hold.
const LAST_READS_MAX: usize = 64;
const EVENTS: usize = 8;

const STDOUT: u64 = 0;
const STDERR: u64 = 1;
const SIGNALS: u64 = 2;
const REPORT: u64 = 3;
const FEED: u64 = 4;

/// Bytes on their way to the command's standard input.
pub(crate) struct Feed {
    pub(crate) writer: OwnedFd,
    pub(crate) bytes: Vec<u8>,
    pub(crate) done: usize,
}

/// What the child said before it became the command.
enum Start {
    /// Nothing yet.
    Waiting(OwnedFd),
    /// It runs.
    Running,
    /// The step that failed, and how.
    Failed(u8, i32),
}

pub(crate) struct Relay<'a> {
    pid: Pid,
    watch: &'a Watch,
    kin: Kin,
    start: Start,
    sources: [Option<Source>; 2],
    feed: Option<Feed>,
    quiet: bool,
    poll: OwnedFd,
    buffer: Vec<u8>,
    capture: Capture,
    ended: Option<WaitStatus>,
    interrupted: Option<i32>,
}

impl<'a> Relay<'a> {
    pub(crate) fn new(
        pid: Pid,
        watch: &'a Watch,
        kin: Kin,
        report: OwnedFd,
        sources: [Source; 2],
        feed: Option<Feed>,
        quiet: bool,
    ) -> io::Result<Relay<'a>> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        let relay = Relay {
            pid,
            watch,
            kin,
            start: Start::Waiting(report),
            sources: sources.map(Some),
            feed,
            quiet,
            poll,
            buffer: vec![0; READ_BYTES],
            capture: Capture::default(),
            ended: None,
            interrupted: None,
        };
        for (token, source) in [STDOUT, STDERR].into_iter().zip(relay.sources.iter().flatten()) {
            let mode = if source.by_edge() { EventFlags::IN | EventFlags::ET } else { EventFlags::IN };
            epoll::add(&relay.poll, source, EventData::new_u64(token), mode)?;
        }
        if let Start::Waiting(report) = &relay.start {
            epoll::add(&relay.poll, report, EventData::new_u64(REPORT), EventFlags::IN)?;
        }
        if let Some(signals) = watch.fd() {
            epoll::add(&relay.poll, signals, EventData::new_u64(SIGNALS), EventFlags::IN)?;
        }
        if let Some(feed) = &relay.feed {
            epoll::add(&relay.poll, &feed.writer, EventData::new_u64(FEED), EventFlags::OUT)?;
        }
        Ok(relay)
    }

    /// Looks after the command until it has ended and its output is complete, or held open by survivors only.
    pub(crate) fn run(mut self, started: Instant, on_started: impl FnOnce(i32)) -> io::Result<Finished> {
        let mut on_started = Some(on_started);
        let mut reap_at: Option<Instant> = None;
        let mut look_after = FIRST_LOOK;
        let mut wall = Duration::ZERO;
        let mut deadline: Option<Instant> = None;
        // Streams that may have more to read without a new report.
        let mut ready = [false; 2];
        loop {
            if self.ended.is_some() {
                let deadline = *deadline.get_or_insert_with(|| {
                    wall = started.elapsed();
                    self.kin.ended();
                    Instant::now() + GRACE
                });
                let silent = self.sources.iter().all(Option::is_none);
                if (silent && self.kin.living().is_empty()) || Instant::now() >= deadline {
                    break;
                }
            }
            let timeout = if ready.contains(&true) {
                Some(Duration::ZERO)
            } else if deadline.is_some() || self.ended.is_some() {
                look_after = (look_after * 2).min(GRACE);
                Some(look_after)
            } else {
                reap_at.map(|at| at.saturating_duration_since(Instant::now()))
            };
            let mut events = Vec::with_capacity(EVENTS);
            let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap_or_default());
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in events {
                match event.data.u64() {
                    token @ (STDOUT | STDERR) => {
                        let (this, other) = (token as usize, 1 - token as usize);
                        // What waits in the other stream was written before this one became readable, more likely than not.
                        if ready[other] {
                            self.read_out(other)?;
                            ready[other] = false;
                        }
                        let flags = event.flags; // A copy: the kernel's structure is packed.
                        let closed = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                        ready[this] = if closed { !self.read_out(this)? } else { self.read_once(this)? };
                    }
                    SIGNALS => {
                        self.take_signals();
                        if reap_at.is_none() && self.ended.is_none() {
                            reap_at = Some(Instant::now() + REAP_AFTER);
                        }
                    }
                    REPORT => {
                        self.take_report();
                        if let (Start::Running, Some(on_started)) = (&self.start, on_started.take()) {
                            on_started(self.pid.as_raw_nonzero().get());
                        }
                    }
                    FEED => self.feed(),
                    _ => {}
                }
            }
            for (stream, ready) in ready.iter_mut().enumerate() {
                if *ready {
                    *ready = self.read_once(stream)?;
                }
            }
            if reap_at.is_some_and(|at| Instant::now() >= at) {
                reap_at = self.kin.reap_stale().then(|| Instant::now() + REAP_AFTER);
            }
        }
        self.finish(wall)
    }

    fn finish(mut self, wall: Duration) -> io::Result<Finished> {
        // Held open by others: whatever is there now is the command's, or theirs; what comes later is not waited for.
        for stream in 0..2 {
            for _ in 0..LAST_READS_MAX {
                if self.sources[stream].is_none() || !self.read_once(stream)? {
                    break;
                }
            }
        }
        self.take_report(); // A child killed before it could report anything.
        let outcome = match (&self.start, self.ended) {
            (Start::Failed(FAILED_EXEC, libc::ENOENT), _) => Outcome::NotFound,
            (Start::Failed(FAILED_EXEC, errno), _) => Outcome::NotExecutable(*errno),
            (Start::Failed(FAILED_SETUP, errno), _) => return Err(io::Error::from_raw_os_error(*errno)),
            (_, Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Outcome::Exited(code),
                (None, Some(signal)) => Outcome::Signalled(signal),
                (None, None) => return Err(io::Error::other("the command ended in no way that is known")),
            },
            (_, None) => return Err(io::Error::other("the command was waited for by somebody else")),
        };
        let [stdout, stderr] = self.sources;
        let open: Vec<_> = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)]
            .into_iter()
            .filter_map(|(stream, source)| source.map(|source| (stream, source)))
            .collect();
        Ok(Finished {
            outcome,
            complete: !self.capture.lost && open.is_empty(),
            pieces: self.capture.pieces,
            survivors: self.kin.survivors(),
            rest: (!open.is_empty()).then_some(Rest { open, quiet: self.quiet }),
            wall,
            interrupted: self.interrupted,
        })
    }

    /// Reads everything there is; whether the stream has ended.
    fn read_out(&mut self, stream: usize) -> io::Result<bool> {
        for _ in 0..LAST_READS_MAX {
            if !self.read_once(stream)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads and passes on one piece; whether to read again without waiting for a report.
    fn read_once(&mut self, stream: usize) -> io::Result<bool> {
        let Some(source) = &mut self.sources[stream] else { return Ok(false) };
        let mut buffer = std::mem::take(&mut self.buffer);
        let again = match source.read(&mut buffer) {
            Ok(Read::Bytes(length)) => {
                let bytes = &buffer[..length];
                let again = source.in_bulk() || !source.by_edge() || self.ended.is_some();
                self.capture.push(name(stream), bytes);
                if !self.quiet && !self.pass(stream, bytes) {
                    // As if the command wrote there itself: nobody reads its output any more.
                    self.close(stream);
                    self.capture.lost = true;
                }
                Ok(again)
            }
            Ok(Read::Empty) => Ok(false),
            Ok(Read::End) => {
                self.close(stream);
                Ok(false)
            }
            Err(error) => Err(error),
        };
        self.buffer = buffer;
        again
    }

    fn close(&mut self, stream: usize) {
        if let Some(source) = self.sources[stream].take() {
            let _ = epoll::delete(&self.poll, &source);
        }
    }

    /// Writes to this process' own stream; `false` when nobody takes it any more.
    fn pass(&mut self, stream: usize, bytes: &[u8]) -> bool {
        let own = real(stream);
        let Some(signals) = self.watch.fd() else { return write_out(own, bytes) };
        let mut done = 0;
        while done < bytes.len() {
            let (writable, signalled) = {
                let mut fds =
                    [PollFd::from_borrowed_fd(own, PollFlags::OUT), PollFd::from_borrowed_fd(signals, PollFlags::IN)];
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) => (!fds[0].revents().is_empty(), !fds[1].revents().is_empty()),
                    Err(Errno::INTR) => (false, true),
                    Err(_) => return false,
                }
            };
            if signalled {
                self.take_signals();
            }
            if writable {
                let end = bytes.len().min(done + PASS_BYTES);
                match rustix::io::write(own, &bytes[done..end]) {
                    Ok(written) => done += written,
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(_) => return false,
                }
            } else if self.interrupted.is_some() && self.ended.is_some() {
                return false;
            }
        }
        true
    }

    fn take_signals(&mut self) {
        while let Some(arrived) = self.watch.next() {
            match arrived.signal {
                libc::SIGCHLD => {}
                libc::SIGWINCH => {
                    let mut followed = false;
                    for (stream, source) in self.sources.iter().enumerate() {
                        if let Some(source) = source.as_ref().filter(|source| source.is_terminal()) {
                            source.follow_size(real(stream));
                            followed = true;
                        }
                    }
                    // The terminal told the command too, perhaps before its own terminals had the new size: tell it again.
                    if followed || arrived.sent {
                        self.forward(arrived.signal);
                    }
                }
                signal => {
                    self.interrupted.get_or_insert(signal);
                    if arrived.sent {
                        self.forward(signal);
                    }
                }
            }
        }
        // Asked after every signal, not only SIGCHLD: one could have been lost in a flood of others.
        if self.ended.is_none()
            && let Ok(Some((_, status))) = rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG)
        {
            self.ended = Some(status);
        }
    }

    fn forward(&self, signal: i32) {
        // Not after it was waited for: the number may be somebody else's by then.
        if self.ended.is_none()
            && let Some(signal) = Signal::from_named_raw(signal)
        {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    fn take_report(&mut self) {
        let Start::Waiting(report) = &self.start else { return };
        let mut message = [0; REPORT_BYTES];
        let read = loop {
            match rustix::io::read(report, &mut message) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        let _ = epoll::delete(&self.poll, report);
        let [part, errno @ ..] = message;
        self.start = match read {
            Ok(REPORT_BYTES) => Start::Failed(part, i32::from_ne_bytes(errno)),
            _ => Start::Running,
        };
    }

    fn feed(&mut self) {
        let Some(feed) = &mut self.feed else { return };
        let over = match rustix::io::write(&feed.writer, &feed.bytes[feed.done..]) {
            Ok(written) => {
                feed.done += written;
                feed.done == feed.bytes.len()
            }
            Err(Errno::INTR | Errno::AGAIN) => false,
            // EPIPE: the command does not read all of its input, which is its right.
            Err(_) => true,
        };
        if over && let Some(feed) = self.feed.take() {
            let _ = epoll::delete(&self.poll, &feed.writer);
        }
    }
}

/// Streams that others hold open after the command's end.
pub struct Rest {
    open: Vec<(Stream, Source)>,
    quiet: bool,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.open.iter().map(|(stream, _)| stream)).finish()
    }
}

impl Rest {
    /// Passes on what still comes until nobody can write any more. Blocks for as long as that takes.
    pub fn pass_on(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        while !self.open.is_empty() {
            let mut fds: Vec<_> = self.open.iter().map(|(_, source)| PollFd::new(source, PollFlags::IN)).collect();
            if rustix::event::poll(&mut fds, None).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
            let quiet = self.quiet;
            self.open.retain_mut(|(stream, source)| match source.read(&mut buffer) {
                Ok(Read::Bytes(length)) => quiet || write_out(real(*stream as usize), &buffer[..length]),
                Ok(Read::Empty) => true,
                Ok(Read::End) | Err(_) => false,
            });
        }
    }
}

fn name(stream: usize) -> Stream {
    if stream == STDOUT as usize { Stream::Stdout } else { Stream::Stderr }
}

fn real(stream: usize) -> BorrowedFd<'static> {
    if stream == STDOUT as usize { rustix::stdio::stdout() } else { rustix::stdio::stderr() }
}

fn write_out(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

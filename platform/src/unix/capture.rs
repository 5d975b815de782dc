//! The command's output streams: where the command writes, and how that is read in the order in which it was written.
//!
//! Two pipes do not tell which was written first, once both hold something. So each pipe holds a single packet
//! (`O_DIRECT`, one page): a command that writes to one stream, then the other, then the first again waits there until the
//! first packet has been read, and the kernel reports the pipes in the order in which they became readable (edge-triggered
//! epoll keeps a queue). That costs a wake-up per write, which is no loss for lines, but is for bulk data; a stream of
//! nothing but full pages gets the usual room until it pauses.
//!
//! A stream that is a terminal gets a pseudo-terminal of its own. Those have no packets; there the order is as good as the
//! reader is fast.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, OutputModes};
use wink_store::record::Stream;

/// The most output that is kept in memory for a record. More is passed through, but cannot be replayed.
pub const CAPTURE_BYTES_MAX: usize = 256 << 20;
/// So many full packets in a row are bulk data.
const BULK_PACKETS: u32 = 16;
/// The room of a pipe for bulk data: the kernel's default.
const BULK_BYTES: usize = 64 * 1024;
/// One read.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// What has been captured so far.
#[derive(Default)]
pub(crate) struct Capture {
    pub(crate) pieces: Vec<(Stream, Vec<u8>)>,
    bytes: usize,
    /// Some output is not in `pieces`.
    pub(crate) lost: bool,
}

impl Capture {
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if self.lost || self.bytes + bytes.len() > CAPTURE_BYTES_MAX {
            // A record with holes is worth nothing: give the memory back.
            self.lost = true;
            self.pieces.clear();
            return;
        }
        self.bytes += bytes.len();
        match self.pieces.last_mut() {
            Some((last, piece)) if *last == stream => piece.extend_from_slice(bytes),
            _ => self.pieces.push((stream, bytes.to_vec())),
        }
    }
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing at present.
    Empty,
    /// Nothing ever again.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One packet at a time; `full` of them in a row were full.
    Packets { full: u32 },
    /// Room for many; `full` if the last one was.
    Bulk { full: bool },
    /// A pipe without packets, or a terminal.
    Plain,
}

/// The reading end of one stream.
pub(crate) struct Source {
    pub(crate) reader: OwnedFd,
    mode: Mode,
    terminal: bool,
    page: usize,
}

impl Source {
    /// A stream for the command in place of `real`, a terminal if that is one and it is not to be `piped`: the end for reading, and the
    /// command's.
    pub(crate) fn new(real: BorrowedFd<'_>, piped: bool) -> io::Result<(Source, OwnedFd)> {
        if !piped && rustix::termios::isatty(real) { Source::terminal(real) } else { Source::pipe() }
    }

    fn pipe() -> io::Result<(Source, OwnedFd)> {
        let page = rustix::param::page_size();
        let (reader, writer, mode) = match rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT) {
            Ok((reader, writer)) => match rustix::pipe::fcntl_setpipe_size(&reader, page) {
                Ok(size) if size == page => (reader, writer, Mode::Packets { full: 0 }),
                _ => (reader, writer, Mode::Plain),
            },
            Err(_) => {
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                (reader, writer, Mode::Plain)
            }
        };
        set_nonblocking(&reader)?;
        Ok((Source { reader, mode, terminal: false, page }, writer))
    }

    fn terminal(real: BorrowedFd<'_>) -> io::Result<(Source, OwnedFd)> {
        let reader = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&reader)?;
        rustix::pty::unlockpt(&reader)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let writer = match rustix::pty::ioctl_tiocgptpeer(&reader, flags) {
            Ok(writer) => writer,
            Err(_) => {
                let path = rustix::pty::ptsname(&reader, Vec::new())?;
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, rustix::fs::Mode::empty())?
            }
        };
        // The real terminal does the output processing, once, when the bytes are passed on (or replayed).
        let mut settings = rustix::termios::tcgetattr(real).or_else(|_| rustix::termios::tcgetattr(&writer))?;
        settings.output_modes.remove(OutputModes::OPOST);
        settings.local_modes.remove(LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK | LocalModes::ECHONL);
        rustix::termios::tcsetattr(&writer, OptionalActions::Now, &settings)?;
        set_nonblocking(&reader)?;
        let source = Source { reader, mode: Mode::Plain, terminal: true, page: 0 };
        source.follow_size(real);
        Ok((source, writer))
    }

    /// Whether epoll must report it once per packet, rather than as long as there is something.
    pub(crate) fn by_edge(&self) -> bool {
        self.mode != Mode::Plain
    }

    /// Whether more may be waiting after a read, without a new report.
    pub(crate) fn in_bulk(&self) -> bool {
        matches!(self.mode, Mode::Bulk { .. })
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Gives the pseudo-terminal the size of the real one.
    pub(crate) fn follow_size(&self, real: BorrowedFd<'_>) {
        if self.terminal
            && let Ok(size) = rustix::termios::tcgetwinsize(real)
        {
            // A terminal without a size is no reason to fail.
            let _ = rustix::termios::tcsetwinsize(&self.reader, size);
        }
    }

    /// Reads once.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        let read = loop {
            match rustix::io::read(&self.reader, &mut *buffer) {
                Ok(0) => break Read::End,
                Ok(read) => break Read::Bytes(read),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break Read::Empty,
                // How a pseudo-terminal says that its other side is closed.
                Err(Errno::IO) if self.terminal => break Read::End,
                Err(errno) => return Err(errno.into()),
            }
        };
        self.adapt(&read);
        Ok(read)
    }

    fn adapt(&mut self, read: &Read) {
        self.mode = match (self.mode, read) {
            (Mode::Packets { full }, Read::Bytes(bytes)) if *bytes == self.page => {
                let full = full + 1;
                let grow = full >= BULK_PACKETS && rustix::pipe::fcntl_setpipe_size(&self.reader, BULK_BYTES).is_ok();
                if grow { Mode::Bulk { full: true } } else { Mode::Packets { full: full.min(BULK_PACKETS) } }
            }
            (Mode::Packets { .. }, Read::Bytes(_)) => Mode::Packets { full: 0 },
            (Mode::Bulk { .. }, Read::Bytes(bytes)) => Mode::Bulk { full: *bytes == self.page },
            // The pipe is empty after a piece that was no bulk: back to one packet. Refused if it has filled up since.
            (Mode::Bulk { full: false }, Read::Empty)
                if rustix::pipe::fcntl_setpipe_size(&self.reader, self.page).is_ok_and(|size| size == self.page) =>
            {
                Mode::Packets { full: 0 }
            }
            (mode, _) => mode,
        };
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

pub(crate) fn set_nonblocking(descriptor: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&descriptor)?;
    Ok(rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_one_stream_become_one() {
        let mut capture = Capture::default();
        capture.push(Stream::Stdout, b"a");
        capture.push(Stream::Stdout, b"b");
        capture.push(Stream::Stderr, b"c");
        assert_eq!(capture.pieces, [(Stream::Stdout, b"ab".to_vec()), (Stream::Stderr, b"c".to_vec())]);
    }

    #[test]
    fn a_stream_of_full_pages_gets_room_and_loses_it_again() {
        let (mut source, writer) = Source::pipe().unwrap();
        if !source.by_edge() {
            return; // No packets here.
        }
        let page = vec![b'x'; source.page];
        let mut buffer = vec![0; READ_BYTES];
        for _ in 0..BULK_PACKETS {
            rustix::io::write(&writer, &page).unwrap();
            assert_eq!(source.read(&mut buffer).unwrap(), Read::Bytes(page.len()));
        }
        assert!(source.in_bulk());
        rustix::io::write(&writer, &page).unwrap();
        rustix::io::write(&writer, b"end").unwrap();
        assert_eq!(source.read(&mut buffer).unwrap(), Read::Bytes(page.len()));
        assert_eq!(source.read(&mut buffer).unwrap(), Read::Bytes(3));
        assert_eq!(source.read(&mut buffer).unwrap(), Read::Empty);
        assert!(!source.in_bulk());
        drop(writer);
        assert_eq!(source.read(&mut buffer).unwrap(), Read::End);
    }
}

//! Standard input that is handed on as it is: what it is, and whether anything was taken from it.
//!
//! The kernel tells of each read of a terminal or pipe by inotify. So a command may have the caller's input, and all is well as long as it
//! does not read it. Where the kernel does not tell (sockets, mapped files), it is not to be relied on.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;

use super::real_file::magic_link;

/// Room for the event of one watch, which has no name.
const EVENT_BYTES: usize = 256;
/// The device that is always empty: `/dev/null` (`null(4)`).
const NULL: (u32, u32) = (1, 3);

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is nothing to be read, and there never will be.
    Empty,
    /// A terminal.
    Terminal,
    /// A pipe that somebody may still write to, or in which something is left.
    Pipe,
    /// Something that can be read without notice: in words.
    Unseen(&'static str),
}

/// What this process' standard input is.
pub fn kind() -> Kind {
    kind_of(rustix::stdio::stdin())
}

fn kind_of(stdin: BorrowedFd<'_>) -> Kind {
    let Ok(stat) = rustix::fs::fstat(stdin) else { return Kind::Empty };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if rustix::termios::isatty(stdin) => Kind::Terminal,
        FileType::CharacterDevice => match (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) {
            NULL => Kind::Empty,
            _ => Kind::Unseen("a device"),
        },
        FileType::RegularFile => {
            let at = rustix::fs::seek(stdin, SeekFrom::Current(0));
            if at.is_ok_and(|at| at >= stat.st_size.cast_unsigned()) { Kind::Empty } else { Kind::Unseen("a file") }
        }
        FileType::Fifo if is_at_end(stdin) => Kind::Empty,
        FileType::Fifo if tells_of_pipes() => Kind::Pipe,
        FileType::Fifo => Kind::Unseen("a pipe"),
        FileType::Socket => Kind::Unseen("a socket"),
        _ => Kind::Unseen("no file, pipe or terminal"),
    }
}

/// Whether a pipe is empty and nobody can write to it any more.
fn is_at_end(pipe: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(pipe, PollFlags::IN)];
    let now = Timespec::default();
    rustix::event::poll(&mut asked, Some(&now)).is_ok()
        && asked[0].revents().contains(PollFlags::HUP)
        && !asked[0].revents().contains(PollFlags::IN)
}

/// Whether this kernel tells of reads of pipes: tried with one of our own.
fn tells_of_pipes() -> bool {
    let try_it = || -> io::Result<bool> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let watch = watch(reader.as_fd())?;
        rustix::io::write(&writer, b"x")?;
        rustix::io::read(&reader, &mut [0; 1])?;
        Ok(has_event(&watch))
    };
    try_it().unwrap_or(false)
}

fn watch(of: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, magic_link(of), WatchFlags::ACCESS)?;
    Ok(watch)
}

fn has_event(watch: &OwnedFd) -> bool {
    let mut room = [MaybeUninit::uninit(); EVENT_BYTES];
    !matches!(inotify::Reader::new(watch, &mut room).next(), Err(Errno::AGAIN))
}

/// Notices whether anybody reads this process' standard input.
#[derive(Debug)]
pub struct Watch {
    events: OwnedFd,
    stdin: File,
}

impl Watch {
    /// From now on.
    pub fn start() -> io::Result<Watch> {
        let stdin = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
        Ok(Watch { events: watch(stdin.as_fd())?, stdin })
    }

    /// Whether something was read, or the end may have been.
    pub fn was_read(&self) -> bool {
        has_event(&self.events) || is_at_end(self.stdin.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn kinds() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(kind_of(null.as_fd()), Kind::Empty);
        assert_eq!(kind_of(File::open("/dev/zero").unwrap().as_fd()), Kind::Unseen("a device"));
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(kind_of(file.as_fd()), Kind::Empty);
        file.write_all(b"x").unwrap();
        assert_eq!(kind_of(file.as_fd()), Kind::Empty, "at its end");
        rustix::fs::seek(&file, SeekFrom::Start(0)).unwrap();
        assert_eq!(kind_of(file.as_fd()), Kind::Unseen("a file"));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(kind_of(socket.as_fd()), Kind::Unseen("a socket"));
    }

    #[test]
    fn pipes() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let expected = if tells_of_pipes() { Kind::Pipe } else { Kind::Unseen("a pipe") };
        assert_eq!(kind_of(reader.as_fd()), expected);
        rustix::io::write(&writer, b"xy").unwrap();
        let events = watch(reader.as_fd()).unwrap();
        let watch = Watch { events, stdin: reader.try_clone().unwrap().into() };
        assert!(!watch.was_read());
        drop(writer);
        assert_eq!(kind_of(reader.as_fd()), expected, "something is left in it");
        assert!(!watch.was_read());
        rustix::io::read(&reader, &mut [0; 2]).unwrap();
        assert!(watch.was_read());
        assert_eq!(kind_of(reader.as_fd()), Kind::Empty);
        assert!(watch.was_read(), "and its end may have been");
    }
}

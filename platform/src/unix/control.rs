//! The control socket of the daemon: messages with open files between processes of one user.
//!
//! A message is its length (four bytes, little-endian) and its bytes; descriptors travel with the first of them. The socket may have a
//! path longer than `sockaddr_un` holds, since it is reached through its directory's descriptor. One thread at a time may send, and
//! one receive.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::real_file::magic_link;

/// The longest message: the environment and the arguments of a command fit many times over.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Descriptors that one message may carry.
const DESCRIPTORS_MAX: usize = 4;
const LENGTH_BYTES: usize = 4;
/// How long the rest of a message may take to follow, piece by piece, where its beginning is waited for without end.
const REST_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket that others connect to.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One end of a connection.
#[derive(Debug)]
pub struct Peer(OwnedFd);

/// Listens at `path`, whose directory must exist; the socket is this user's alone. A socket there that nobody listens on is
/// replaced; one that somebody does is [`io::ErrorKind::AddrInUse`].
pub fn listen(path: &Path) -> io::Result<Listener> {
    let place = Place::new(path)?;
    // Two that start at once must not each take the other's new socket for a stale one.
    rustix::fs::flock(&place.dir, FlockOperation::LockExclusive)?;
    match place.connect() {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(Errno::NOENT) => {}
        // So says the kernel of other files, too.
        Err(Errno::CONNREFUSED) if place.is_socket()? => {
            rustix::fs::unlinkat(&place.dir, &place.name, AtFlags::empty())?;
        }
        Err(errno) => return Err(errno.into()),
    }
    let socket = socket()?;
    rustix::net::bind(&socket, &place.address()?)?;
    // Before `listen`, nobody can connect.
    rustix::fs::chmodat(&place.dir, &place.name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Listener(socket))
}

/// Connects to the socket at `path`. [`io::ErrorKind::NotFound`] and [`io::ErrorKind::ConnectionRefused`] say that nobody listens.
pub fn connect(path: &Path) -> io::Result<Peer> {
    let peer = Peer(Place::new(path)?.connect()?);
    if !peer.is_own()? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the control socket belongs to another user"));
    }
    Ok(peer)
}

impl Listener {
    /// Waits for the next connection of this user; those of others are closed.
    pub fn accept(&self) -> io::Result<Peer> {
        loop {
            match rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let peer = Peer(socket);
                    if peer.is_own()? {
                        return Ok(peer);
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Peer {
    /// Two ends of one connection.
    pub fn pair() -> io::Result<(Peer, Peer)> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Peer(one), Peer(other)))
    }

    fn is_own(&self) -> io::Result<bool> {
        Ok(rustix::net::sockopt::socket_peercred(&self.0)?.uid == rustix::process::geteuid())
    }

    /// Sends a message of at most 64 MB with at most 4 descriptors; waits while the other end is behind.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the message is too long, or has too many descriptors",
            ));
        }
        let length = (bytes.len() as u32).to_le_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::INVAL.into());
        }
        let mut sent = 0;
        while sent < LENGTH_BYTES + bytes.len() {
            let parts = [
                IoSlice::new(&length[sent.min(LENGTH_BYTES)..]),
                IoSlice::new(&bytes[sent.saturating_sub(LENGTH_BYTES)..]),
            ];
            match rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    sent += count;
                    ancillary.clear();
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sends bytes that need be no message, until the other end has enough of them.
    pub(super) fn send_raw(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// The next message and what came with it; `None` when the other end has closed. [`io::ErrorKind::TimedOut`] if none begins within
    /// `timeout`; then one can be waited for again. The rest of one must follow as fast (without a timeout: within 30 seconds), or the
    /// connection is of no use any more.
    pub fn receive(&self, timeout: Option<Duration>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut descriptors = Vec::new();
        let mut length = [0; LENGTH_BYTES];
        if self.fill(&mut length[..1], timeout, &mut descriptors)? == 0 {
            return Ok(None);
        }
        let timeout = Some(timeout.unwrap_or(REST_TIMEOUT));
        self.fill_rest(&mut length[1..], timeout, &mut descriptors)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long to be one"));
        }
        let mut bytes = vec![0; length];
        self.fill_rest(&mut bytes, timeout, &mut descriptors)?;
        Ok(Some((bytes, descriptors)))
    }

    /// Receives something; returns how much, 0 at the end.
    fn fill(&self, buffer: &mut [u8], timeout: Option<Duration>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let received = receive_some(&self.0, buffer, end)?;
        descriptors.extend(received.descriptors);
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(too_many_descriptors());
        }
        Ok(received.bytes)
    }

    fn fill_rest(
        &self,
        mut buffer: &mut [u8],
        timeout: Option<Duration>,
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<()> {
        while !buffer.is_empty() {
            let received = match self.fill(buffer, timeout, descriptors) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => 0,
                received => received?,
            };
            if received == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a message stopped in the middle"));
            }
            buffer = &mut buffer[received..];
        }
        Ok(())
    }
}

/// Where a socket is: its directory, and its name there.
struct Place {
    dir: OwnedFd,
    name: OsString,
}

impl Place {
    fn new(path: &Path) -> io::Result<Place> {
        let name =
            path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no name for a socket"))?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let dir = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Place { dir, name: name.to_owned() })
    }

    fn address(&self) -> rustix::io::Result<SocketAddrUnix> {
        SocketAddrUnix::new(Path::new(&magic_link(&self.dir)).join(&self.name))
    }

    fn is_socket(&self) -> rustix::io::Result<bool> {
        let stat = rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
    }

    fn connect(&self) -> rustix::io::Result<OwnedFd> {
        let socket = socket()?;
        rustix::net::connect(&socket, &self.address()?)?;
        Ok(socket)
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// What one call has received.
pub(crate) struct Received {
    /// How many; 0 at the end.
    pub(crate) bytes: usize,
    /// Closed when this process runs a program.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Receives as much as is there, waiting until `end` for the first of it.
pub(crate) fn receive_some(socket: &OwnedFd, buffer: &mut [u8], end: Option<Instant>) -> io::Result<Received> {
    wait_readable(socket, end)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let into = &mut [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            descriptors.extend(some);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(too_many_descriptors());
    }
    Ok(Received { bytes: received.bytes, descriptors })
}

fn too_many_descriptors() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message has too many descriptors")
}

/// Waits until there is something to read, or the other end has closed; [`io::ErrorKind::TimedOut`] at `end`.
pub(crate) fn wait_readable(from: impl AsFd, end: Option<Instant>) -> io::Result<()> {
    loop {
        let left = end.map(|end| Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default());
        match rustix::event::poll(&mut [PollFd::new(&from, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;

//! The first request of a mount: what the kernel offers, what is taken of it, and who serves.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::request::split;
use super::wire::{
    InHeader, InitIn, InitInMore, InitOut, MAJOR, MINOR, MINOR_LEAST, OUT_HEADER, Opcode, OutHeader, init,
};

/// Requests of one kind (readahead, release) that may wait at once; the default of 12 is meant for slow networks.
const BACKGROUND_MAX: u16 = 64;
/// From so many waiting ones on the kernel takes the mount for busy.
const BACKGROUND_MANY: u16 = BACKGROUND_MAX / 4 * 3;
/// The most bytes one request may move.
pub(super) const MOVE_MAX: u32 = 1 << 20;
/// How many file systems may lie over each other. A working tree over the store's, which may be an overlay itself; a task's view only over
/// one that lies over none, so that the task can still lay an overlay over what it sees (the kernel allows two).
const STACK_DEPTH_OF_TREE: u32 = 2;
const STACK_DEPTH_OF_VIEW: u32 = 1;
/// Enough for every first request there is.
const FIRST_MAX: usize = 8192;

/// What the kernel offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    header: InHeader,
    asked: InitIn,
    flags: u64,
}

/// What is taken of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The kernel may be lent files.
    pub lends: bool,
    /// The kernel lists directories without opening them, once that is refused with ENOSYS, and keeps the names (Linux 5.1). Not in a task's view,
    /// which must see each listing.
    pub opens_itself: bool,
    /// The kernel can be told to forget all names at once, those that it was told are not there among them.
    pub forgets_names: bool,
}

/// The minor version with [`super::wire::notify::INC_EPOCH`].
const MINOR_OF_EPOCHS: u32 = 44;

/// Receives the first request on a mounted device.
pub(super) fn receive(device: &OwnedFd) -> io::Result<Offer> {
    let mut message = vec![0; FIRST_MAX];
    loop {
        let length = match rustix::io::read(device, &mut message[..]) {
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            read => read?,
        };
        let (header, fixed, more) = split(&message[..length]).ok_or(Errno::PROTO)?;
        let (asked, _) = InitIn::read_from_prefix(fixed).map_err(|_| Errno::PROTO)?;
        if Opcode::from_number(header.opcode) != Some(Opcode::Init) {
            return Err(Errno::PROTO.into());
        }
        if asked.major > MAJOR {
            // It asks again, as we can.
            reply(device, &header, Ok(&InitOut { major: MAJOR, minor: MINOR, ..nothing() }))?;
            continue;
        }
        if (asked.major, asked.minor) < (MAJOR, MINOR_LEAST) {
            reply(device, &header, Err(Errno::PROTO))?;
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "this kernel's FUSE is too old ({}.{}): Linux 4.18 or later is needed",
                    asked.major, asked.minor
                ),
            ));
        }
        return Ok(Offer { header, asked, flags: offered(&asked, more) });
    }
}

fn offered(asked: &InitIn, more: &[u8]) -> u64 {
    let flags = u64::from(asked.flags);
    match InitInMore::read_from_prefix(more) {
        Ok((more, _)) if flags & init::EXT != 0 => flags | u64::from(more.flags2) << 32,
        _ => flags,
    }
}

impl Offer {
    /// Whether requests may come through a ring.
    pub fn has_ring(&self) -> bool {
        self.flags & init::OVER_IO_URING != 0
    }

    /// Answers. From now on the kernel hands out requests.
    pub fn accept(&self, device: &OwnedFd, working_tree: bool, ring: bool) -> io::Result<Terms> {
        let (terms, out) = self.agree(working_tree, ring);
        reply(device, &self.header, Ok(&out))?;
        Ok(terms)
    }

    /// What is wanted of what is offered. Each is an economy, none a need: a kernel that lacks one works the longer way.
    fn agree(&self, working_tree: bool, ring: bool) -> (Terms, InitOut) {
        let mut wanted = init::ASYNC_READ
            | init::BIG_WRITES
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::MAX_PAGES
            | init::CACHE_SYMLINKS
            | init::PASSTHROUGH
            | init::EXT;
        if working_tree {
            // Else the kernel asks for the attribute `security.capability` before every write, not only before the first after it has
            // asked for the others.
            wanted |= init::HANDLE_KILLPRIV_V2;
        } else {
            // Not for a working tree: opened for reading, a program that is running would be cut before the kernel refuses that.
            wanted |= init::ATOMIC_O_TRUNC;
        }
        if ring {
            wanted |= init::OVER_IO_URING;
        }
        let flags = self.flags & wanted;
        let terms = Terms {
            lends: flags & init::PASSTHROUGH != 0,
            forgets_names: self.asked.minor.min(MINOR) >= MINOR_OF_EPOCHS,
            opens_itself: working_tree && self.flags & init::NO_OPENDIR_SUPPORT != 0,
        };
        let page = rustix::param::page_size() as u32;
        let out = InitOut {
            major: MAJOR,
            minor: MINOR.min(self.asked.minor),
            max_readahead: self.asked.max_readahead,
            flags: flags as u32,
            max_background: BACKGROUND_MAX,
            congestion_threshold: BACKGROUND_MANY,
            max_write: MOVE_MAX,
            time_gran: 1,
            max_pages: u16::try_from(MOVE_MAX.div_ceil(page)).unwrap_or(u16::MAX),
            flags2: (flags >> 32) as u32,
            max_stack_depth: match (terms.lends, working_tree) {
                (false, _) => 0,
                (true, true) => STACK_DEPTH_OF_TREE,
                (true, false) => STACK_DEPTH_OF_VIEW,
            },
            ..nothing()
        };
        (terms, out)
    }
}

fn nothing() -> InitOut {
    InitOut::new_zeroed()
}

fn reply(device: &OwnedFd, to: &InHeader, answer: Result<&InitOut, Errno>) -> io::Result<()> {
    let body = answer.map_or(&[][..], |out| out.as_bytes());
    let error = answer.err().map_or(0, |errno| -errno.raw_os_error());
    let header = OutHeader { len: (OUT_HEADER + body.len()) as u32, error, unique: to.unique };
    rustix::io::write(device, &[header.as_bytes(), body].concat())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(minor: u32, flags: u64) -> Offer {
        let asked = InitIn { major: MAJOR, minor, max_readahead: 131_072, flags: flags as u32 };
        Offer { header: InHeader::new_zeroed(), asked, flags }
    }

    #[test]
    fn only_what_is_offered_is_taken() {
        let (terms, out) = offer(31, 0).agree(true, true);
        assert!(!terms.lends);
        assert_eq!((out.flags, out.flags2, out.minor, out.max_stack_depth), (0, 0, 31, 0));
        let all = offer(99, u64::MAX);
        let (terms, out) = all.agree(true, true);
        assert!(terms.lends);
        assert_eq!((out.minor, out.max_stack_depth), (MINOR, STACK_DEPTH_OF_TREE));
        assert_eq!(u64::from(out.flags2) << 32, init::PASSTHROUGH | init::OVER_IO_URING);
        assert_eq!(out.flags & init::ATOMIC_O_TRUNC as u32, 0);
        let (terms, out) = all.agree(false, false);
        assert!(terms.lends);
        assert_eq!((out.max_stack_depth, u64::from(out.flags2) << 32), (STACK_DEPTH_OF_VIEW, init::PASSTHROUGH));
        assert!(out.flags & init::ATOMIC_O_TRUNC as u32 != 0);
    }

    #[test]
    fn the_upper_half_of_an_offer_counts_where_it_is_meant() {
        let asked = |flags| InitIn { major: MAJOR, minor: 40, max_readahead: 0, flags };
        let more = InitInMore { flags2: 1, unused: [0; 11] };
        let ext = init::EXT as u32;
        assert_eq!(offered(&asked(ext), more.as_bytes()), 1 << 32 | init::EXT);
        assert_eq!(offered(&asked(1), more.as_bytes()), 1);
        assert_eq!(offered(&asked(ext), &[]), init::EXT, "cut short");
    }
}

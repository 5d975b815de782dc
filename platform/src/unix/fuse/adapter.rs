//! One request, one call, one answer, whichever way the request came. Nothing is decided here.
//!
//! A panic is answered like a failure, and ends the mount: what it left half done in the filesystem nobody knows.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::io::Errno;
use wink_fs::vfs::Vfs;

use super::answer::{Answer, errno, write_names};
use super::lent::Lent;
use super::listings::Listings;
use super::request::Request;
use super::wire::{InHeader, OUT_HEADER, Opcode, OutHeader, ReadIn};

/// See the module.
pub(super) struct Adapter<V> {
    pub vfs: Arc<V>,
    pub working_tree: bool,
    /// The kernel need not ask to open a directory.
    pub opens_itself: bool,
    /// What is not there may be told for long: the kernel can be made to forget it, or nobody else can make it.
    pub lasting_absence: bool,
    pub listings: Listings,
    pub lent: Lent,
}

/// What a request carries besides its arguments of fixed size.
pub(super) enum Rest<'a> {
    /// In a place of its own.
    Apart(&'a [u8]),
    /// So many bytes at the start of the room for the answer, which overwrites them.
    InRoom(usize),
}

/// An answer that is ready to be sent.
#[derive(Debug)]
pub(super) struct Ready {
    pub header: OutHeader,
    /// How many bytes of the room follow the header.
    pub bytes: usize,
    /// Something panicked.
    pub broken: bool,
}

impl<V: Vfs> Adapter<V>
where
    V::File: AsFd,
{
    /// Does what is asked and puts the answer into `room`; `None` if the kernel wants none.
    pub fn serve(&self, header: InHeader, fixed: &[u8], rest: Rest<'_>, room: &mut [u8]) -> Option<Ready> {
        let served = catch_unwind(AssertUnwindSafe(|| self.answer_into(header, fixed, rest, room)));
        let (answer, broken) = match served {
            Ok(answer) => (answer, false),
            Err(_) => (Some(Err(Errno::IO)), true),
        };
        let (error, bytes) = match answer? {
            Ok(bytes) => (0, bytes),
            Err(errno) => (-errno.raw_os_error(), 0),
        };
        let header = OutHeader { len: (OUT_HEADER + bytes) as u32, error, unique: header.unique };
        Some(Ready { header, bytes, broken })
    }

    fn answer_into(
        &self,
        header: InHeader,
        fixed: &[u8],
        rest: Rest<'_>,
        room: &mut [u8],
    ) -> Option<Result<usize, Errno>> {
        let opcode = Opcode::from_number(header.opcode);
        if let Some(Opcode::Read | Opcode::Readdir) = opcode {
            let request = Request::new(header, fixed, &[]);
            return Some(self.fill(&request, opcode == Some(Opcode::Read), room));
        }
        let rest = match rest {
            Rest::Apart(rest) => rest,
            Rest::InRoom(length) => &room[..length.min(room.len())],
        };
        match self.answer(opcode, &Request::new(header, fixed, rest)) {
            Ok(Answer::Silence) => None,
            answer => Some(answer.and_then(|answer| answer.write(room))),
        }
    }

    /// Bytes and names go straight to where they are wanted.
    fn fill(&self, request: &Request<'_>, is_file: bool, room: &mut [u8]) -> Result<usize, Errno> {
        let ReadIn { fh, offset, size, .. } = request.args()?;
        let size = (size as usize).min(room.len());
        let room = &mut room[..size];
        if is_file {
            return self.vfs.read(request.node(), offset, room).map_err(errno);
        }
        // What is not opened has no handle.
        let (node, is_start) = (request.node(), offset == 0);
        let list = || self.vfs.list(request.caller(), node).map(|listed| listed.items);
        if fh != 0 {
            return Ok(write_names(&self.listings.by_handle(fh, is_start, list).map_err(errno)?, offset, room));
        }
        let items = self.listings.by_node(node, is_start, list).map_err(errno)?;
        let written = write_names(&items, offset, room);
        if written == 0 {
            self.listings.finish(node);
        }
        Ok(written)
    }
}

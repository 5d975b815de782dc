//! One request, one call, one answer, whichever way the request came. Nothing is decided here.
//!
//! A panic is answered like a failure, and ends the mount: what it left half done in the filesystem nobody knows.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use wink_fs::vfs::{ListItem, Vfs};

use super::answer::{Answer, errno, write_names};
use super::lent::Lent;
use super::request::Request;
use super::wire::{InHeader, OUT_HEADER, Opcode, OutHeader, ReadIn};
use wink_fs::status::Status;

/// See the module.
pub(super) struct Adapter<V> {
    pub vfs: Arc<V>,
    pub working_tree: bool,
    pub listings: Listings,
    pub lent: Lent,
}

/// Open directories: the names as they were when each was read from the start; `None` before that. Lock order: a leaf.
#[derive(Default)]
pub(super) struct Listings {
    open: Mutex<HashMap<u64, Option<Arc<Vec<ListItem>>>>>,
    last: AtomicU64,
}

impl Listings {
    /// A handle for another one.
    pub fn open(&self) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(handle, None);
        handle
    }

    /// Forgets it.
    pub fn release(&self, handle: u64) {
        self.open.lock().remove(&handle);
    }

    fn get(&self, handle: u64) -> Option<Arc<Vec<ListItem>>> {
        self.open.lock().get(&handle).cloned().flatten()
    }

    fn put(&self, handle: u64, items: &Arc<Vec<ListItem>>) {
        self.open.lock().insert(handle, Some(items.clone()));
    }
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
        let items = self.listing(request, fh, offset == 0).map_err(errno)?;
        Ok(write_names(&items, offset, room))
    }

    fn listing(&self, request: &Request<'_>, handle: u64, fresh: bool) -> Result<Arc<Vec<ListItem>>, Status> {
        if !fresh && let Some(items) = self.listings.get(handle) {
            return Ok(items);
        }
        let items = Arc::new(self.vfs.list(request.caller(), request.node())?.items);
        self.listings.put(handle, &items);
        Ok(items)
    }
}

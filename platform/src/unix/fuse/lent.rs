//! Files that the kernel reads by itself: passthrough to a descriptor it was lent (Linux 6.9, needs CAP_SYS_ADMIN in the first namespace).
//!
//! A node is open either in this way or in the ordinary one, never both at once, and all its handles use one registered descriptor: the
//! kernel fails what mixes them. Lock order: the one lock is held around opening, and so comes before those of the filesystem.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use wink_fs::status::Status;
use wink_fs::vfs::{NodeId, OpenHow, Vfs};

use super::answer::errno;
use super::device::Device;
use super::wire::{OpenOut, fopen};

/// The handle of a file whose bytes the kernel asks for.
const ASKED: u64 = 0;
/// The handle of one that it reads by itself.
const LENT: u64 = 1;

/// What was lent.
pub(super) struct Lent {
    device: Arc<Device>,
    possible: AtomicBool,
    nodes: Mutex<HashMap<NodeId, Loan>>,
}

struct Loan {
    device: Arc<Device>,
    number: i32,
    handles: u32,
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Of a mount that has ended nothing is left to take back.
        let _ = self.device.take_back(self.number);
    }
}

/// The answer to an ordinary open.
pub(super) fn asked(keep_pages: bool) -> OpenOut {
    let keep = if keep_pages { fopen::KEEP_CACHE } else { 0 };
    OpenOut { fh: ASKED, open_flags: fopen::NOFLUSH | keep, backing_id: 0 }
}

impl Lent {
    /// Nothing. `possible`: the kernel agreed.
    pub fn new(device: Arc<Device>, possible: bool) -> Lent {
        Lent { device, possible: AtomicBool::new(possible), nodes: Mutex::default() }
    }

    /// Opens a node by `open` and answers, lending the file's descriptor where the filesystem does and the kernel takes it.
    pub fn open<V: Vfs>(
        &self,
        vfs: &V,
        id: NodeId,
        how: OpenHow,
        open: impl FnOnce() -> Result<bool, Status>,
    ) -> Result<OpenOut, Errno>
    where
        V::File: AsFd,
    {
        if !self.possible.load(Ordering::Relaxed) {
            return open().map(asked).map_err(errno);
        }
        let mut nodes = self.nodes.lock();
        if (how.write || how.truncate) && nodes.contains_key(&id) {
            return Err(errno(vfs.part(id).err().unwrap_or(Status::Stale)));
        }
        let keep_pages = open().map_err(errno)?;
        if !nodes.contains_key(&id)
            && !how.write
            && !how.truncate
            && let Some(file) = vfs.lends(id)
        {
            match self.device.lend((*file).as_fd()) {
                Ok(number) => drop(nodes.insert(id, Loan { device: self.device.clone(), number, handles: 0 })),
                // Not this file: its file system lies over others.
                Err(Errno::LOOP) => {}
                // Not for this process: it is not asked again.
                Err(_) => self.possible.store(false, Ordering::Relaxed),
            }
        }
        Ok(match nodes.get_mut(&id) {
            Some(loan) => {
                loan.handles += 1;
                // It keeps no pages of its own for it, and refuses to be told that it may.
                let open_flags = fopen::NOFLUSH | fopen::PASSTHROUGH;
                OpenOut { fh: LENT, open_flags, backing_id: loan.number }
            }
            None => asked(keep_pages),
        })
    }

    /// Makes way for a change of the bytes by name; whether the request must be answered [`Status::Stale`] for that.
    pub fn must_part<V: Vfs>(&self, vfs: &V, id: NodeId) -> Result<bool, Status> {
        let nodes = self.nodes.lock();
        if nodes.contains_key(&id) { vfs.part(id).map(|()| true) } else { Ok(false) }
    }

    /// A handle was closed.
    pub fn release(&self, id: NodeId, handle: u64) {
        if handle != LENT {
            return;
        }
        let mut nodes = self.nodes.lock();
        if let Some(loan) = nodes.get_mut(&id) {
            loan.handles = loan.handles.saturating_sub(1);
            if loan.handles == 0 {
                nodes.remove(&id);
            }
        }
    }
}

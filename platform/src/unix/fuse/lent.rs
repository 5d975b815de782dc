//! Files that the kernel reads by itself: passthrough to a descriptor it was lent (Linux 6.9, needs CAP_SYS_ADMIN in the first namespace).
//!
//! A node is open either in this way or in the ordinary one, never both at once, and all its handles use one registered descriptor: the
//! kernel fails what mixes them. Lock order: the one lock is held around opening, and so comes before those of the filesystem.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, FileHandle, InitFlags, KernelConfig, ReplyOpen};
use parking_lot::Mutex;
use wink_fs::status::Status;
use wink_fs::vfs::{NodeId, OpenHow, Vfs};

use super::encode::{errno, open_flags};

/// The handle of a file whose bytes the kernel asks for.
pub(super) const ASKED: FileHandle = FileHandle(0);
/// The handle of one that it reads by itself.
const LENT: FileHandle = FileHandle(1);
/// How many file systems may lie over each other: this one over the store's, which may be an overlay itself.
const STACK_DEPTH: u32 = 2;

/// What was lent.
#[derive(Default)]
pub(super) struct Lent {
    possible: AtomicBool,
    nodes: Mutex<HashMap<NodeId, Loan>>,
}

struct Loan {
    backing: BackingId,
    handles: u32,
}

impl Lent {
    /// Asks the kernel for leave, once.
    pub fn offer(&self, config: &mut KernelConfig) {
        let granted = config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH)
            && config.set_max_stack_depth(STACK_DEPTH).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        self.possible.store(granted, Ordering::Relaxed);
    }

    /// Opens a node by `open` and answers, lending the file's descriptor where the filesystem does and the kernel takes it.
    pub fn open<V: Vfs>(
        &self,
        vfs: &V,
        id: NodeId,
        how: OpenHow,
        reply: ReplyOpen,
        open: impl FnOnce() -> Result<bool, Status>,
    ) where
        V::File: AsFd,
    {
        if !self.possible.load(Ordering::Relaxed) {
            return match open() {
                Ok(keep_pages) => reply.opened(ASKED, open_flags(keep_pages)),
                Err(status) => reply.error(errno(status)),
            };
        }
        let mut nodes = self.nodes.lock();
        if (how.write || how.truncate) && nodes.contains_key(&id) {
            return reply.error(errno(vfs.part(id).err().unwrap_or(Status::Stale)));
        }
        let keep_pages = match open() {
            Ok(keep_pages) => keep_pages,
            Err(status) => return reply.error(errno(status)),
        };
        if !nodes.contains_key(&id)
            && !how.write
            && !how.truncate
            && let Some(file) = vfs.lends(id)
        {
            match reply.open_backing(&*file) {
                Ok(backing) => drop(nodes.insert(id, Loan { backing, handles: 0 })),
                // Not for this process: it is not asked again.
                Err(_) => self.possible.store(false, Ordering::Relaxed),
            }
        }
        match nodes.get_mut(&id) {
            Some(loan) => {
                loan.handles += 1;
                // It keeps no pages of its own for it, and refuses to be told that it may.
                reply.opened_passthrough(LENT, open_flags(false), &loan.backing);
            }
            None => reply.opened(ASKED, open_flags(keep_pages)),
        }
    }

    /// Makes way for a change of the bytes by name; whether the request must be answered [`Status::Stale`] for that.
    pub fn must_part<V: Vfs>(&self, vfs: &V, id: NodeId) -> Result<bool, Status> {
        let nodes = self.nodes.lock();
        if nodes.contains_key(&id) { vfs.part(id).map(|()| true) } else { Ok(false) }
    }

    /// A handle was closed.
    pub fn release(&self, id: NodeId, handle: FileHandle) {
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

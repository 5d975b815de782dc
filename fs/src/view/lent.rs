//! Large files of the tree beneath that the kernel may read by itself (passthrough), and what happens when one is to be changed.
//!
//! Compilers and interpreters map libraries of 100 MB and more, through a fresh view each time; lent, they come from the pages that the
//! real file has in memory already, and no byte is copied.
//!
//! Once the task changes a file of the workspace, its bytes are others than those that were lent. Who has it open goes on reading the old ones
//! then, as with overlayfs, which a program that reads a file while another writes it in place would notice. So of the workspace only
//! programs and libraries (files with an execute bit) are lent: those are replaced, not written to. Outside the workspace a
//! change goes to the real file, and readers see it.

use super::{Guard, OpenFile, View};
use crate::backing::{Backing, Result};
use crate::node::{Body, Bytes, Child, FileBody, Node};
use crate::status::Status;
use crate::vfs::NodeId;
use crate::zone::Zone;

/// Smaller files are read faster through the kernel's own pages than lent: registering one costs more than a few requests.
const LENT_BYTES_MIN: u64 = 1 << 20;
const EXECUTE_BITS: u32 = 0o111;

impl<B: Backing> View<B> {
    /// The descriptor of a file that was just opened for reading, if the kernel may do that by itself. All who have a file open read
    /// it in one way, so only the first decides.
    pub(super) fn lent(&self, id: NodeId) -> Option<OpenFile<B>> {
        let guard = self.lock();
        let node = guard.node(id).ok()?;
        let Body::File(FileBody { bytes: Bytes::Lower, open, writable: false, handles: 1, .. }) = &node.body else {
            return None;
        };
        let attr = &node.lower.as_ref()?.attr;
        let is_replaced_whole = node.zone != Zone::Task || attr.mode & EXECUTE_BITS != 0;
        open.clone().filter(|_| is_replaced_whole && attr.size >= LENT_BYTES_MIN)
    }

    /// Gives the names of a lent file to another node, whose bytes may be changed.
    pub(super) fn part_from(&self, id: NodeId) -> Result<()> {
        let mut guard = self.lock();
        let names = guard.node(id)?.names.clone();
        if names.is_empty() {
            return Err(Status::Stale);
        }
        if guard.node(id)?.zone == Zone::Task {
            return guard.stand_in(id);
        }
        // Looked at again, it is the same real file.
        guard.table().replace(id, None);
        for (parent, name) in names {
            guard.forget_name(parent, &name);
        }
        Ok(())
    }
}

impl<B: Backing> Guard<'_, B> {
    /// Puts a new node in the place of a file of the workspace that has not been changed.
    fn stand_in(&mut self, id: NodeId) -> Result<()> {
        let new = self.table().fresh();
        let node = self.node_mut(id)?;
        if !matches!(node.body, Body::File(FileBody { bytes: Bytes::Lower, .. })) {
            return Err(Status::Stale);
        }
        let body = FileBody { bytes: Bytes::Lower, open: None, writable: false, handles: 0, pages: None };
        let names = std::mem::take(&mut node.names);
        let loaded = node.loaded;
        // Names that nobody looked at yet are the other's.
        node.loaded = u32::MAX;
        let other = Node {
            id: new,
            zone: node.zone,
            kind: node.kind,
            body: Body::File(body),
            lower: node.lower.clone(),
            names: names.clone(),
            over: node.over,
            base: node.base,
            lookups: 0,
            loaded,
        };
        self.table().replace(id, Some(new));
        self.table().insert(other);
        for (parent, name) in names {
            let dir = self.node_mut(parent)?.dir_mut().ok_or(Status::NotDir)?;
            if let Some(Child::Node { id, .. }) = dir.children.get_mut(&name) {
                *id = new;
            }
        }
        Ok(())
    }
}

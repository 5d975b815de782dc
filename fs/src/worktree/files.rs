//! Opening files, and their bytes.
//!
//! A node has at most one open descriptor, whoever opened it and however often, so that all handles see the same bytes. It is opened for
//! reading, replaced by one for writing when somebody first wants to write, and closed with the last handle.

use std::sync::Arc;

use super::attrs::is_absence;
use super::table::stamp;
use super::{Guard, WorkTree};
use crate::attr::{Attr, Kind};
use crate::backing::{Access, Backing, BackingFile, Result};
use crate::status::Status;
use crate::vfs::{Caller, NodeId, OpenHow};

/// Smaller files are read faster through the kernel's own pages than lent: registering one costs more than a few requests.
const LENT_BYTES_MIN: u64 = 1 << 20;

/// A descriptor that handles share.
type OpenFile<B> = Arc<<B as Backing>::File>;

impl<B: Backing> WorkTree<B> {
    /// The descriptor of an open file.
    pub(super) fn opened(&self, id: NodeId) -> Result<OpenFile<B>> {
        let guard = self.lock();
        let file = guard.table.node(id)?.file().ok_or(Status::Invalid)?;
        file.open.clone().ok_or(Status::Stale)
    }

    /// The bytes of something virtual, which are never written to, where they are many enough to be worth the bookkeeping.
    pub(super) fn lent(&self, id: NodeId) -> Option<OpenFile<B>> {
        let guard = self.lock();
        let node = guard.table.node(id).ok()?;
        let file =
            node.file().filter(|file| !file.writable && node.is_virtual() && node.last.size >= LENT_BYTES_MIN)?;
        file.open.clone()
    }

    /// Makes a file real, under another node than the one that lends its bytes, which stays for those who have it open.
    pub(super) fn part_from(&self, id: NodeId) -> Result<()> {
        let mut guard = self.lock();
        let (dir, name, _) = guard.place(id)?;
        drop(self.backing.open(&dir, &name, Access::ReadWrite)?);
        for (parent, name) in guard.table.node(id)?.names.clone() {
            guard.table.take_name(parent, &name);
        }
        guard.table.lost(id);
        Ok(())
    }

    /// Changes the bytes of a file without holding the lock.
    pub(super) fn write_with<T>(&self, id: NodeId, write: impl FnOnce(&B::File) -> Result<T>) -> Result<T> {
        let file = self.lock().writable(id)?;
        let before = file.attr()?;
        let written = write(&file);
        let mut guard = self.lock();
        if let Ok(after) = file.attr() {
            guard.changed(id, &before, &after);
        }
        guard.close_if_idle(id);
        written
    }

    /// The last handle closes the descriptor. A removed file can be asked for its attributes a last time then.
    pub(super) fn release_handle(&self, id: NodeId) {
        let mut guard = self.lock();
        let Ok(node) = guard.table.node_mut(id) else { return };
        if let Some(attr) = node.own_descriptor().and_then(|open| open.attr().ok()) {
            node.last = attr;
        }
        if let Some(file) = node.file_mut() {
            file.handles = file.handles.saturating_sub(1);
        }
        guard.close_if_idle(id);
        guard.table.drop_if_unused(id);
    }
}

impl<B: Backing> Guard<'_, B> {
    /// Opens a file for one more handle. Returns whether the kernel's pages of it are still good.
    pub(super) fn open(&mut self, caller: Caller, id: NodeId, how: OpenHow) -> Result<bool> {
        match self.table.node(id)?.last.kind {
            Kind::File => {}
            Kind::Dir => return Err(Status::IsDir),
            Kind::Link => return Err(Status::Loop),
            _ => return Err(Status::NoData),
        }
        let before = self.open_for(id, how)?;
        let after = if how.truncate {
            let cut = self.cut(caller, id, 0).and_then(|()| self.look(id));
            if cut.is_err() {
                self.close_if_idle(id);
            }
            cut?
        } else {
            before
        };
        let file = self.table.file_mut(id)?;
        file.handles += 1;
        let unchanged = file.pages == Some(stamp(&before));
        file.pages = Some(stamp(&after));
        Ok(unchanged)
    }

    /// Makes sure there is a descriptor fit for `how`. Returns the file's attributes.
    fn open_for(&mut self, id: NodeId, how: OpenHow) -> Result<Attr> {
        // A name that others took away is no way to the file, though it be open; what was removed through the mount lives on.
        if self.table.node(id)?.file().is_some_and(|file| file.open.is_some()) && !self.table.node(id)?.names.is_empty()
        {
            self.place(id)?;
        }
        if how.write || how.truncate {
            self.writable(id)?;
        } else if self.table.file_mut(id)?.open.is_none() {
            let (file, _) = self.open_by_name(id, Access::Read)?;
            self.table.file_mut(id)?.open = Some(file);
        }
        self.look(id)
    }

    /// The file's descriptor, fit for writing.
    pub(super) fn writable(&mut self, id: NodeId) -> Result<OpenFile<B>> {
        let file = self.table.file_mut(id)?;
        if let Some(open) = file.open.as_ref().filter(|_| file.writable) {
            return Ok(open.clone());
        }
        let open = match self.open_by_name(id, Access::ReadWrite) {
            Ok((open, attr)) => {
                self.table.saw(id, attr)?;
                open
            }
            // The descriptor of something virtual must not be used to write what it lends.
            Err(Status::Stale) => self.table.node(id)?.own_descriptor().ok_or(Status::Stale)?.reopen_writable()?.into(),
            Err(status) => return Err(status),
        };
        let file = self.table.file_mut(id)?;
        file.writable = true;
        file.open = Some(open.clone());
        Ok(open)
    }

    /// Opens the node's object by one of its names, and returns its attributes; [`Status::Stale`] if it stands under none.
    fn open_by_name(&mut self, id: NodeId, access: Access) -> Result<(OpenFile<B>, Attr)> {
        if self.table.node(id)?.is_virtual() {
            let (dir, name, attr) = self.place(id)?;
            let file = self.tree.backing.open(&dir, &name, access)?;
            return Ok(match access {
                Access::ReadWrite => {
                    let attr = file.attr()?;
                    (file.into(), attr)
                }
                Access::Read => (file.into(), attr),
            });
        }
        for (parent, name) in self.table.node(id)?.names.clone() {
            let Ok(dir) = self.table.handle(parent) else { continue };
            match self.tree.backing.open(&dir, &name, access) {
                Ok(file) => {
                    let (attr, last) = (file.attr()?, &self.table.node(id)?.last);
                    if (attr.dev, attr.ino) == (last.dev, last.ino) {
                        return Ok((file.into(), attr));
                    }
                }
                Err(Status::IsDir | Status::Loop | Status::NoData) => {}
                Err(status) if is_absence(status) => {}
                Err(status) => return Err(status),
            }
        }
        Err(Status::Stale)
    }

    /// Closes a descriptor that no handle needs.
    pub(super) fn close_if_idle(&mut self, id: NodeId) {
        if let Ok(file) = self.table.file_mut(id)
            && file.handles == 0
        {
            (file.open, file.writable) = (None, false);
        }
    }
}

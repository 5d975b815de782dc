//! Where a node stands now, what its attributes are, and changing them.

use super::Guard;
use super::table::stamp;
use crate::attr::{Attr, Kind, SetAttr, Time};
use crate::backing::{Access, Backing, BackingFile, Result};
use crate::name::Name;
use crate::status::Status;
use crate::vfs::{Caller, Entry, NodeId, TOP};

const SET_USER_ID: u32 = 0o4000;
/// On a directory: what is made in it gets its group (`inode(7)`).
pub(super) const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// Whether a failure to reach a name says that the name is not there (any more).
pub(super) fn is_absence(status: Status) -> bool {
    matches!(status, Status::NotFound | Status::NotDir | Status::Stale)
}

impl<B: Backing> Guard<'_, B> {
    /// What stands under a name now. What was known there and is not there any more loses the name.
    pub(super) fn stands(&mut self, parent: NodeId, name: &Name) -> Result<Option<Attr>> {
        let dir = self.table.handle(parent)?;
        let found = match self.tree.backing.attr(&dir, name) {
            Ok(attr) => Some(attr),
            Err(Status::NotFound | Status::NotDir) => None,
            Err(status) => return Err(status),
        };
        if let Some(id) = self.table.child(parent, name) {
            match found {
                Some(attr) if self.table.node(id)?.is(&attr) => self.met(id, &dir, name, attr)?,
                _ => {
                    self.table.take_name(parent, name);
                    self.table.drop_if_unused(id);
                }
            }
        }
        Ok(found)
    }

    /// The node's object was found under a name, perhaps made real meanwhile: then its descriptor is of what it was before.
    pub(super) fn met(&mut self, id: NodeId, dir: &B::Dir, name: &Name, attr: Attr) -> Result<()> {
        let node = self.table.node(id)?;
        let became_real = node.is_virtual() && attr.dev != 0;
        if became_real && node.file().is_some_and(|file| file.open.is_some()) {
            let file = self.tree.backing.open(dir, name, Access::Read)?;
            let found = file.attr()?;
            if (found.dev, found.ino) != (attr.dev, attr.ino) {
                return Err(Status::Stale);
            }
            self.table.file_mut(id)?.open = Some(file.into());
        }
        self.table.saw(id, attr)
    }

    /// A place where the node's object stands, and its attributes there; [`Status::Stale`] if it stands nowhere it is known to.
    pub(super) fn place(&mut self, id: NodeId) -> Result<(B::Dir, Name, Attr)> {
        for (parent, name) in self.table.node(id)?.names.clone() {
            let Ok(dir) = self.table.handle(parent) else { continue };
            match self.tree.backing.attr(&dir, &name) {
                Ok(attr) if self.table.node(id)?.is(&attr) => {
                    self.met(id, &dir, &name, attr)?;
                    return Ok((dir, name, attr));
                }
                Ok(_) => {}
                Err(status) if is_absence(status) => {}
                Err(status) => return Err(status),
            }
        }
        Err(Status::Stale)
    }

    /// The attributes a node has now. What was removed and is not open keeps its last ones.
    pub(super) fn look(&mut self, id: NodeId) -> Result<Attr> {
        if id == TOP {
            let attr = self.tree.backing.dir_attr(&self.table.handle(TOP)?)?;
            self.table.saw(TOP, attr)?;
            return Ok(attr);
        }
        if let Some(open) = self.table.node(id)?.own_descriptor() {
            let attr = open.attr()?;
            self.table.saw(id, attr)?;
            return Ok(attr);
        }
        match self.place(id) {
            Ok((_, _, attr)) => Ok(attr),
            Err(Status::Stale) => {
                let last = &mut self.table.node_mut(id)?.last;
                last.nlink = 0;
                Ok(*last)
            }
            Err(status) => Err(status),
        }
    }

    /// The node as an answer shows it.
    pub(super) fn entry(&mut self, id: NodeId) -> Result<Entry> {
        let attr = self.look(id)?;
        Ok(self.shown(id, attr))
    }

    /// The answer that hands the node out: the kernel holds one more reference.
    pub(super) fn hand_out(&mut self, id: NodeId, attr: Attr) -> Result<Entry> {
        self.table.node_mut(id)?.lookups += 1;
        Ok(self.shown(id, attr))
    }

    fn shown(&self, id: NodeId, attr: Attr) -> Entry {
        // Another name of the file may lie outside the mount, where nobody sees it change.
        let lasting = self.tree.is_lasting() && (attr.kind == Kind::Dir || attr.nlink <= 1);
        Entry { id, attr: Attr { ino: id.0, ..attr }, lasting }
    }

    /// Something was changed through the mount: what the kernel keeps of the file is as good as it was before.
    pub(super) fn changed(&mut self, id: NodeId, before: &Attr, after: &Attr) {
        if let Ok(file) = self.table.file_mut(id) {
            file.pages = file.pages.filter(|pages| *pages == stamp(before)).map(|_| stamp(after));
        }
    }

    /// `setattr`. Times last: everything before touches them.
    pub(super) fn set_attr(&mut self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<Entry> {
        let before = self.look(id)?;
        let times = SetAttr { atime: change.atime, mtime: change.mtime, ..SetAttr::default() };
        let others = SetAttr { size: None, atime: None, mtime: None, ..*change };
        self.apply(id, &others)?;
        if let Some(size) = change.size {
            match before.kind {
                Kind::File => {}
                Kind::Dir => return Err(Status::IsDir),
                _ => return Err(Status::Invalid),
            }
            self.cut(caller, id, size)?;
        }
        self.apply(id, &times)?;
        let entry = self.entry(id)?;
        let after = self.table.node(id)?.last;
        self.changed(id, &before, &after);
        self.close_if_idle(id);
        Ok(entry)
    }

    /// Truncates or extends; as for any write, a caller without privileges takes the privilege bits away.
    pub(super) fn cut(&mut self, caller: Caller, id: NodeId, size: u64) -> Result<()> {
        let node = self.table.node(id)?;
        if size == 0 && node.is_virtual() && node.file().is_some_and(|file| file.handles == 0) {
            // Nobody can tell that it becomes another file, and its bytes need not be copied to be cut off. The kernel looks again.
            let (dir, name, _) = self.place(id)?;
            self.tree.backing.set_attr(&dir, &name, &SetAttr { size: Some(0), ..SetAttr::default() })?;
            return Err(Status::Stale);
        }
        self.writable(id)?.truncate(size)?;
        if caller.uid != 0 { self.drop_privilege_bits(id) } else { Ok(()) }
    }

    /// `write(2)` by somebody without privileges: set-user-ID goes, and set-group-ID where it is no mere mark for locking.
    pub(super) fn drop_privilege_bits(&mut self, id: NodeId) -> Result<()> {
        let mode = self.look(id)?.mode;
        let group = if mode & GROUP_EXECUTE != 0 { SET_GROUP_ID } else { 0 };
        let kept = mode & !(SET_USER_ID | group);
        if kept == mode {
            return Ok(());
        }
        self.apply(id, &SetAttr { mode: Some(kept), ..SetAttr::default() })
    }

    /// Changes all but the size, by descriptor where there is one: the name may be gone.
    fn apply(&mut self, id: NodeId, change: &SetAttr) -> Result<()> {
        if *change == SetAttr::default() {
            return Ok(());
        }
        if id == TOP {
            return self.tree.backing.set_dir_attr(&self.table.handle(TOP)?, change);
        }
        if let Some(open) = self.table.node(id)?.own_descriptor() {
            return open.set_attr(change);
        }
        match self.place(id) {
            Ok((dir, name, _)) => {
                self.tree.backing.set_attr(&dir, &name, change)?;
                self.reread(id, &dir, &name)
            }
            // Removed, yet somebody is still in it or holds it: nothing else knows its attributes any more.
            Err(Status::Stale) => {
                let last = &mut self.table.node_mut(id)?.last;
                last.mode = change.mode.unwrap_or(last.mode);
                last.uid = change.uid.unwrap_or(last.uid);
                last.gid = change.gid.unwrap_or(last.gid);
                last.atime = change.atime.unwrap_or(last.atime);
                last.mtime = change.mtime.unwrap_or(last.mtime);
                last.ctime = Time::now();
                Ok(())
            }
            Err(status) => Err(status),
        }
    }

    /// After a change that makes something virtual real, under the name where the change was made.
    pub(super) fn reread(&mut self, id: NodeId, dir: &B::Dir, name: &Name) -> Result<()> {
        if self.table.node(id)?.is_virtual() {
            let attr = self.tree.backing.attr(dir, name)?;
            self.met(id, dir, name, attr)?;
        }
        Ok(())
    }
}

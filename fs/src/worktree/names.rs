//! Finding, making, moving and removing names.

use super::attrs::SET_GROUP_ID;
use super::{Guard, WorkTree};
use crate::attr::{Attr, Kind, SetAttr};
use crate::backing::{Backing, BackingFile, RenameMode, Result};
use crate::name::Name;
use crate::status::Status;
use crate::vfs::{Caller, Entry, NodeId};

/// The bits beyond `rwxrwxrwx`.
const SPECIAL_BITS: u32 = 0o7000;

/// What to make.
#[derive(Clone, Copy)]
pub(super) enum Making<'a> {
    /// A regular file, to be opened.
    File { mode: u32 },
    /// A file, pipe, socket or device.
    Node { kind: Kind, mode: u32, rdev: u64 },
    /// A directory.
    Dir { mode: u32 },
    /// A symbolic link.
    Link { target: &'a [u8] },
}

impl Making<'_> {
    /// The mode to make it with while it still belongs to this process, and the one to set when it does not: nothing may run with this
    /// process' privileges in between. A directory's bits lend none, and its set-group-ID bit may be inherited.
    fn modes(self) -> (Self, Option<u32>) {
        match self {
            Making::File { mode } if mode & SPECIAL_BITS != 0 => {
                (Making::File { mode: mode & !SPECIAL_BITS }, Some(mode))
            }
            Making::Node { kind, mode, rdev } if mode & SPECIAL_BITS != 0 => {
                (Making::Node { kind, mode: mode & !SPECIAL_BITS, rdev }, Some(mode))
            }
            plain => (plain, None),
        }
    }
}

impl<B: Backing> WorkTree<B> {
    /// Whom a thing made by `caller` in a directory is to be given to; `None` if it is right as it is.
    fn owner_to_set(&self, caller: Caller, above: &Attr) -> Option<SetAttr> {
        let gid = if above.mode & SET_GROUP_ID != 0 { None } else { Some(caller.gid) };
        let right = caller.uid == self.own_ids.0 && gid.is_none_or(|gid| gid == self.own_ids.1);
        (self.privileged && !right).then_some(SetAttr { uid: Some(caller.uid), gid, ..SetAttr::default() })
    }
}

impl<B: Backing> Guard<'_, B> {
    /// The node of what stands under a name, known or new.
    pub(super) fn find(&mut self, parent: NodeId, name: &Name) -> Result<Option<(NodeId, Attr)>> {
        let Some(attr) = self.stands(parent, name)? else { return Ok(None) };
        let id = match self.table.child(parent, name) {
            Some(id) => id,
            None => self.enter(parent, name, attr)?,
        };
        Ok(Some((id, attr)))
    }

    /// Puts what stands under a name that is not known into the table.
    fn enter(&mut self, parent: NodeId, name: &Name, attr: Attr) -> Result<NodeId> {
        let known = match self.table.find(&attr) {
            // A directory has one place only: it moved, unless it is still there (and this is another mount of it). So has what is
            // virtual: a number that is there twice is that of two things of equal content and time, not of two names.
            Some(id) if attr.kind == Kind::Dir || attr.dev == 0 => self.take_if_moved(id)?.then_some(id),
            other => other,
        };
        let id = match known {
            Some(id) => {
                self.table.saw(id, attr)?;
                id
            }
            None => {
                let dir = self.table.handle(parent)?;
                self.table.add(attr, (attr.kind == Kind::Dir).then(|| self.tree.backing.child(&dir, name)))
            }
        };
        self.table.put_name(parent, name, id)?;
        if known.is_some() {
            self.table.follow(&self.tree.backing, id)?;
        }
        Ok(id)
    }

    fn take_if_moved(&mut self, id: NodeId) -> Result<bool> {
        match self.place(id) {
            Ok(_) => Ok(false),
            Err(Status::Stale) => {
                if let Some((above, old)) = self.table.node(id)?.names.first().cloned() {
                    self.table.take_name(above, &old);
                    self.table.drop_if_unused(above);
                }
                Ok(true)
            }
            Err(status) => Err(status),
        }
    }

    /// Makes something new under a name that must be free. A file stays open, for [`Guard::open`] or to be closed.
    pub(super) fn make(&mut self, caller: Caller, parent: NodeId, name: &Name, making: Making<'_>) -> Result<Entry> {
        let dir = self.table.handle(parent)?;
        let owner = self.tree.owner_to_set(caller, &self.tree.backing.dir_attr(&dir)?);
        let (at_first, mode) = if owner.is_some() { making.modes() } else { (making, None) };
        let backing = &self.tree.backing;
        let mut made = None;
        match at_first {
            Making::File { mode } => made = Some(backing.create(&dir, name, mode)?),
            Making::Node { kind, mode, rdev } => backing.make_node(&dir, name, kind, mode, rdev)?,
            Making::Dir { mode } => backing.make_dir(&dir, name, mode)?,
            Making::Link { target } => backing.make_link(&dir, name, target)?,
        }
        let settled = owner.map_or(Ok(()), |owner| {
            let settle = |change: &SetAttr| match &made {
                Some(file) => file.set_attr(change),
                None => backing.set_attr(&dir, name, change),
            };
            settle(&owner)?;
            mode.map_or(Ok(()), |mode| settle(&SetAttr { mode: Some(mode), ..SetAttr::default() }))
        });
        if let Err(status) = settled {
            // Nobody has seen it. Should this fail too, the first failure says more.
            let _ = match making {
                Making::Dir { .. } => backing.remove_dir(&dir, name),
                _ => backing.remove_file(&dir, name),
            };
            return Err(status);
        }
        let (id, attr) = self.find(parent, name)?.ok_or(Status::NotFound)?;
        if let Some(file) = made {
            let body = self.table.file_mut(id)?;
            (body.open, body.writable) = (Some(file.into()), true);
        }
        self.hand_out(id, attr)
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, parent: NodeId, name: &Name, is_dir: bool) -> Result<()> {
        let dir = self.table.handle(parent)?;
        let before = self.stands(parent, name)?.ok_or(Status::NotFound)?;
        if is_dir {
            self.tree.backing.remove_dir(&dir, name)?;
        } else {
            self.tree.backing.remove_file(&dir, name)?;
        }
        self.removed(parent, name, &before);
        Ok(())
    }

    /// A name went, with what stood there if that was its last one.
    fn removed(&mut self, parent: NodeId, name: &Name, before: &Attr) {
        let Some(id) = self.table.take_name(parent, name) else { return };
        let left_somewhere = before.kind != Kind::Dir && before.nlink > 1;
        if !left_somewhere {
            self.table.lost(id);
        }
        let children = self.table.children(id);
        for below in children {
            // Others emptied the directory.
            if let Some(id) = self.table.take_name(id, &below) {
                self.table.drop_if_unused(id);
            }
        }
        self.settle(id, before);
        self.table.drop_if_unused(id);
    }

    /// After its names changed: what the kernel keeps of its bytes is still good, though its ctime is another.
    fn settle(&mut self, id: NodeId, before: &Attr) {
        // The change is done: a failure to look at it is for who looks next.
        if let Ok(after) = self.look(id) {
            self.changed(id, before, &after);
        }
    }

    /// Gives a file another name.
    pub(super) fn hard_link(&mut self, id: NodeId, to: NodeId, to_name: &Name) -> Result<Entry> {
        let to_dir = self.table.handle(to)?;
        let (dir, name, before) = match self.place(id) {
            // link(2): what was removed stays removed.
            Err(Status::Stale) => return Err(Status::NotFound),
            found => found?,
        };
        self.tree.backing.hard_link(&dir, &name, &to_dir, to_name)?;
        let attr = self.tree.backing.attr(&to_dir, to_name)?;
        self.met(id, &to_dir, to_name, attr)?;
        if let Some(other) = self.table.take_name(to, to_name) {
            self.table.drop_if_unused(other);
        }
        self.table.put_name(to, to_name, id)?;
        self.changed(id, &before, &attr);
        self.hand_out(id, attr)
    }

    /// `renameat2(2)`.
    pub(super) fn rename(&mut self, from: (NodeId, &Name), to: (NodeId, &Name), mode: RenameMode) -> Result<()> {
        let (dir, to_dir) = (self.table.handle(from.0)?, self.table.handle(to.0)?);
        let moved = self.stands(from.0, from.1)?.ok_or(Status::NotFound)?;
        let replaced = self.stands(to.0, to.1)?;
        self.tree.backing.rename(&dir, from.1, &to_dir, to.1, mode)?;
        if replaced.is_some_and(|other| other.dev != 0 && (other.dev, other.ino) == (moved.dev, moved.ino)) {
            // rename(2): two names of one file: nothing happens.
            return Ok(());
        }
        let exchanged = replaced.filter(|_| mode == RenameMode::Exchange);
        let other = exchanged.and_then(|_| self.table.take_name(to.0, to.1));
        if let (None, Some(replaced)) = (other, &replaced) {
            self.removed(to.0, to.1, replaced);
        }
        // Both are without a name for a moment; neither is dropped before it has its new one.
        let node = self.table.take_name(from.0, from.1);
        if let Some(id) = node {
            self.arrive(id, to, &moved)?;
        }
        if let (Some(id), Some(before)) = (other, exchanged) {
            self.arrive(id, from, &before)?;
        }
        Ok(())
    }

    /// A node stands in a new place, where it may have become real.
    fn arrive(&mut self, id: NodeId, to: (NodeId, &Name), before: &Attr) -> Result<()> {
        self.table.put_name(to.0, to.1, id)?;
        self.table.follow(&self.tree.backing, id)?;
        let dir = self.table.handle(to.0)?;
        let _ = self.reread(id, &dir, to.1); // As in `settle`.
        self.settle(id, before);
        Ok(())
    }
}

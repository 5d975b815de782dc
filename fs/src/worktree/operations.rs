//! The door into a mounted tree: each operation of [`Vfs`], handed on to where it is done.

use std::sync::Arc;

use super::names::Making;
use super::{Guard, WorkTree};
use crate::attr::{Kind, SetAttr};
use crate::backing::{Backing, BackingFile, RenameMode, Result, Seek, Space, Want, XattrMode};
use crate::name::Name;
use crate::vfs::{Caller, Entry, ListItem, Listed, Looked, NodeId, OpenHow, Revealed, TOP, Vfs};

impl<B: Backing> WorkTree<B> {
    /// Changes extended attributes of a node, which makes it real.
    fn change_xattr(&self, id: NodeId, change: impl FnOnce(&B::Dir, Option<&Name>) -> Result<()>) -> Result<()> {
        let mut guard = self.lock();
        let (dir, name) = guard.attributed(id)?;
        let before = guard.look(id)?;
        change(&dir, name.as_ref())?;
        if let Some(name) = &name {
            guard.reread(id, &dir, name)?;
        }
        let after = guard.look(id)?;
        guard.changed(id, &before, &after);
        Ok(())
    }
}

impl<B: Backing> Guard<'_, B> {
    /// Where the extended attributes of a node are: by name in a directory, or the top itself.
    fn attributed(&mut self, id: NodeId) -> Result<(B::Dir, Option<Name>)> {
        if id == TOP {
            return Ok((self.table.handle(TOP)?, None));
        }
        let (dir, name, _) = self.place(id)?;
        Ok((dir, Some(name)))
    }
}

impl<B: Backing> Vfs for WorkTree<B> {
    type File = B::File;

    fn lookup(&self, _caller: Caller, parent: NodeId, name: &[u8]) -> Result<Looked> {
        let mut guard = self.lock();
        let lasting = self.is_lasting();
        let found = if name == b"." || name == b".." {
            let id = if name == b"." { parent } else { guard.table.above(parent)? };
            Some((id, guard.look(id)?))
        } else {
            guard.find(parent, &Name::new(name)?)?
        };
        let entry = found.map(|(id, attr)| guard.hand_out(id, attr)).transpose()?;
        Ok(Looked { entry, lasting, sighting: None })
    }

    fn forget(&self, id: NodeId, count: u64) {
        let mut guard = self.lock();
        if let Ok(node) = guard.table.node_mut(id) {
            node.lookups = node.lookups.saturating_sub(count);
            guard.table.drop_if_unused(id);
        }
    }

    fn attr(&self, id: NodeId) -> Result<Entry> {
        self.lock().entry(id)
    }

    fn set_attr(&self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<Entry> {
        self.lock().set_attr(caller, id, change)
    }

    fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        let (dir, name, _) = self.lock().place(id)?;
        self.backing.read_link(&dir, &name)
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u64,
    ) -> Result<Entry> {
        self.lock().make(caller, parent, &Name::new(name)?, Making::Node { kind, mode, rdev })
    }

    fn make_dir(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32) -> Result<Entry> {
        self.lock().make(caller, parent, &Name::new(name)?, Making::Dir { mode })
    }

    fn make_link(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        self.lock().make(caller, parent, &Name::new(name)?, Making::Link { target })
    }

    fn remove_file(&self, _caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.lock().remove(parent, &Name::new(name)?, false)
    }

    fn remove_dir(&self, _caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.lock().remove(parent, &Name::new(name)?, true)
    }

    fn rename(
        &self,
        _caller: Caller,
        parent: NodeId,
        name: &[u8],
        to_parent: NodeId,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.lock().rename((parent, &Name::new(name)?), (to_parent, &Name::new(to_name)?), mode)
    }

    fn hard_link(&self, _caller: Caller, id: NodeId, to_parent: NodeId, to_name: &[u8]) -> Result<Entry> {
        self.lock().hard_link(id, to_parent, &Name::new(to_name)?)
    }

    fn open(&self, caller: Caller, id: NodeId, how: OpenHow) -> Result<bool> {
        self.lock().open(caller, id, how)
    }

    fn create(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32, how: OpenHow) -> Result<(Entry, bool)> {
        let mut guard = self.lock();
        let entry = guard.make(caller, parent, &Name::new(name)?, Making::File { mode })?;
        match guard.open(caller, entry.id, OpenHow { truncate: false, ..how }) {
            Ok(keep_pages) => Ok((entry, keep_pages)),
            Err(status) => {
                guard.close_if_idle(entry.id);
                drop(guard);
                self.forget(entry.id, 1); // The kernel never hears of it.
                Err(status)
            }
        }
    }

    fn lends(&self, id: NodeId) -> Option<Arc<B::File>> {
        self.lent(id)
    }

    fn part(&self, id: NodeId) -> Result<()> {
        self.part_from(id)
    }

    fn release(&self, id: NodeId) {
        self.release_handle(id);
    }

    fn read(&self, id: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.opened(id)?.read_at(buffer, offset)
    }

    fn write(&self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_with(id, |file| file.write_at(bytes, offset))
    }

    fn sync(&self, id: NodeId, data_only: bool) -> Result<()> {
        self.opened(id)?.sync(data_only)
    }

    fn allocate(&self, id: NodeId, offset: u64, length: u64, mode: i32) -> Result<()> {
        self.write_with(id, |file| file.allocate(offset, length, mode))
    }

    fn seek(&self, id: NodeId, offset: u64, what: Seek) -> Result<u64> {
        self.opened(id)?.seek(offset, what)
    }

    fn copy_range(&self, from: NodeId, from_offset: u64, to: NodeId, to_offset: u64, length: u64) -> Result<u64> {
        // The target first: what makes it writable may make `from` real, if they are one file.
        self.write_with(to, |target| target.copy_from(&*self.opened(from)?, from_offset, to_offset, length))
    }

    fn list(&self, _caller: Caller, id: NodeId) -> Result<Listed> {
        let dir = self.lock().table.handle(id)?;
        self.note_listing(id, &dir);
        let entries = self.backing.list(&dir)?;
        let guard = self.lock();
        let dot = |name: &[u8], id: NodeId| ListItem { name: name.to_vec(), kind: Kind::Dir, ino: id.0 };
        let mut items = vec![dot(b".", id), dot(b"..", guard.table.above(id)?)];
        items.extend(entries.into_iter().map(|entry| ListItem {
            ino: guard.table.listed_number(id, &entry.name, entry.ino),
            name: entry.name.as_bytes().to_vec(),
            kind: entry.kind,
        }));
        Ok(Listed { items, revealed: None })
    }

    fn contents(&self, _parent: NodeId, _name: &[u8]) -> Option<Revealed> {
        None
    }

    fn space(&self, id: NodeId) -> Result<Space> {
        let dir = {
            let guard = self.lock();
            let holder = if guard.table.node(id)?.last.kind == Kind::Dir { id } else { guard.table.above(id)? };
            guard.table.handle(holder).unwrap_or_else(|_| self.backing.root())
        };
        self.backing.space(&dir)
    }

    fn sync_dir(&self, id: NodeId) -> Result<()> {
        let dir = self.lock().table.handle(id)?;
        self.backing.sync_dir(&dir)
    }

    fn drop_privilege_bits(&self, id: NodeId) -> Result<()> {
        self.lock().drop_privilege_bits(id)
    }

    fn get_xattr(&self, id: NodeId, key: &[u8]) -> Result<Vec<u8>> {
        let (dir, name) = self.lock().attributed(id)?;
        self.backing.get_xattr(&dir, name.as_ref(), key)
    }

    fn list_xattrs(&self, id: NodeId) -> Result<Vec<Vec<u8>>> {
        let (dir, name) = self.lock().attributed(id)?;
        self.backing.list_xattrs(&dir, name.as_ref())
    }

    fn set_xattr(&self, id: NodeId, key: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.change_xattr(id, |dir, name| self.backing.set_xattr(dir, name, key, value, mode))
    }

    fn remove_xattr(&self, id: NodeId, key: &[u8]) -> Result<()> {
        self.change_xattr(id, |dir, name| self.backing.remove_xattr(dir, name, key))
    }

    fn permits(&self, _caller: Caller, _id: NodeId, _want: Want) -> Result<()> {
        Ok(())
    }
}

//! The door into a view: each operation of [`Vfs`], handed on to where it is done.

use std::sync::Arc;

use super::{View, names};
use crate::attr::{Kind, SetAttr};
use crate::backing::{Backing, RenameMode, Result, Seek, Space, Want};
use crate::name::Name;
use crate::node::{Body, DirBody, Lower};
use crate::status::Status;
use crate::vfs::{Caller, Entry, ListItem, Listed, Looked, NodeId, OpenHow, Revealed, TOP, Vfs};

impl<B: Backing> Vfs for View<B> {
    type File = B::File;

    fn lookup(&self, _caller: Caller, parent: NodeId, name: &[u8]) -> Result<Looked> {
        let mut guard = self.lock();
        let parent_zone = guard.node(parent)?.zone;
        if name == b"." || name == b".." {
            let id = if name == b"." { parent } else { guard.node(parent)?.names.first().map_or(TOP, |(dir, _)| *dir) };
            return Ok(Looked { entry: Some(guard.hand_out(id)?), lasting: true, sighting: None });
        }
        let name = Name::new(name)?;
        guard.check(parent, Want { read: false, write: false, execute: true })?;
        let (found, sighting) = guard.child(parent, &name)?;
        let Some(id) = found else {
            return Ok(Looked { entry: None, lasting: parent_zone.is_lasting(), sighting });
        };
        Ok(Looked { entry: Some(guard.hand_out(id)?), lasting: true, sighting })
    }

    fn forget(&self, id: NodeId, count: u64) {
        let mut guard = self.lock();
        if let Ok(node) = guard.node_mut(id) {
            node.lookups = node.lookups.saturating_sub(count);
            guard.drop_if_unused(id);
        }
    }

    fn attr(&self, id: NodeId) -> Result<Entry> {
        let mut guard = self.lock();
        guard.refresh(id)?;
        guard.entry(id)
    }

    fn set_attr(&self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<Entry> {
        self.change_attr(caller, id, change)
    }

    fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        let guard = self.lock();
        let node = guard.node(id)?;
        match (&node.body, &node.lower) {
            (Body::Link(Some(target)), _) => Ok(target.clone()),
            (Body::Link(None), Some(Lower { dir: Some(dir), name: Some(name), .. })) => {
                self.backing.read_link(dir, name)
            }
            _ => Err(Status::Invalid),
        }
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
        let entry = self.make(caller, parent, name, names::Making::Node { kind, mode, rdev })?;
        // Nobody opened it, so nobody will close it.
        self.lock().close_if_idle(entry.id);
        Ok(entry)
    }

    fn make_dir(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32) -> Result<Entry> {
        self.make(caller, parent, name, names::Making::Dir { mode })
    }

    fn make_link(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        self.make(caller, parent, name, names::Making::Link { target })
    }

    fn remove_file(&self, _caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, false)
    }

    fn remove_dir(&self, _caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, true)
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
        self.add_link(id, to_parent, to_name)
    }

    fn open(&self, _caller: Caller, id: NodeId, how: OpenHow) -> Result<bool> {
        self.open_file(id, how)
    }

    fn create(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32, how: OpenHow) -> Result<(Entry, bool)> {
        let entry = self.make(caller, parent, name, names::Making::Node { kind: Kind::File, mode, rdev: 0 })?;
        match self.open_created(entry.id, how) {
            Ok(keep) => Ok((entry, keep)),
            Err(status) => {
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
        self.release_file(id);
    }

    fn read(&self, id: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.read_file(id, offset, buffer)
    }

    fn write(&self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_file(id, offset, bytes)
    }

    fn sync(&self, id: NodeId, data_only: bool) -> Result<()> {
        self.sync_file(id, data_only)
    }

    fn allocate(&self, id: NodeId, offset: u64, length: u64, mode: i32) -> Result<()> {
        self.allocate_file(id, offset, length, mode)
    }

    fn seek(&self, id: NodeId, offset: u64, what: Seek) -> Result<u64> {
        self.seek_file(id, offset, what)
    }

    fn copy_range(&self, from: NodeId, from_offset: u64, to: NodeId, to_offset: u64, length: u64) -> Result<u64> {
        self.copy_between(from, from_offset, to, to_offset, length)
    }

    fn list(&self, _caller: Caller, id: NodeId) -> Result<Listed> {
        let mut guard = self.lock();
        guard.check(id, Want { read: true, write: false, execute: false })?;
        let above = guard.node(id)?.names.first().map_or(TOP, |(dir, _)| *dir);
        let (mut names, revealed) = guard.merged(id)?;
        let dot = |name: &[u8], id: NodeId| ListItem { name: name.to_vec(), kind: Kind::Dir, ino: id.0 };
        let mut items = vec![dot(b".", id), dot(b"..", above)];
        items.append(&mut names);
        Ok(Listed { items, revealed })
    }

    fn contents(&self, parent: NodeId, name: &[u8]) -> Option<Revealed> {
        let mut guard = self.lock();
        let id = guard.child(parent, &Name::new(name).ok()?).ok()?.0?;
        if guard.node(id).ok()?.kind != Kind::Dir {
            return None;
        }
        guard.merged(id).ok()?.1
    }

    fn space(&self, id: NodeId) -> Result<Space> {
        let handle = {
            let guard = self.lock();
            let mut at = guard.node(id)?;
            loop {
                match (&at.body, &at.lower) {
                    (Body::Dir(DirBody { handle: Some(handle), .. }), _) => break handle.clone(),
                    (_, Some(Lower { dir: Some(dir), .. })) => break dir.clone(),
                    _ => match at.names.first() {
                        Some((above, _)) => at = guard.node(*above)?,
                        None => break self.backing.root(),
                    },
                }
            }
        };
        self.backing.space(&handle)
    }

    fn permits(&self, _caller: Caller, id: NodeId, want: Want) -> Result<()> {
        self.lock().check(id, want)
    }
}

//! The operations of a served tree.

use super::{Guard, WorkTree};
use crate::attr::{Kind, SetAttr};
use crate::backing::{Backing, BackingFile, RenameMode, Result, Seek, Space, Want, XattrMode};
use crate::name::Name;
use crate::status::Status;
use crate::vfs::{Caller, Entry, ListItem, Listed, Looked, NodeId, OpenHow, Revealed, TOP, Vfs};

/// The mode with which a file is made that is about to be given to its maker: nobody else's meanwhile.
const PRIVATE: u32 = 0o600;

impl<B: Backing> Guard<'_, B> {
    /// Hands out what was just made under a name, given to its maker first; what cannot be given away goes again.
    fn made(&mut self, caller: Caller, parent: NodeId, name: &Name, mode: Option<u32>) -> Result<Entry> {
        let dir = self.nodes.dir(parent)?.clone();
        if let Some(owner) = self.owner(caller, parent)? {
            let given = self.tree.backing.set_attr(&dir, name, &SetAttr { mode, ..owner });
            if let Err(status) = given {
                let _ = self.tree.backing.remove_file(&dir, name).or_else(|_| self.tree.backing.remove_dir(&dir, name));
                return Err(status);
            }
        }
        let id = self.find(parent, name)?;
        self.hand_out(id)
    }

    /// Where extended attributes are asked for: the top has no name.
    fn xattr_place(&self, id: NodeId) -> Result<(B::Dir, Option<Name>)> {
        if id == TOP {
            return Ok((self.nodes.dir(TOP)?.clone(), None));
        }
        self.place(id).map(|(dir, name)| (dir, Some(name)))
    }
}

impl<B: Backing> Vfs for WorkTree<B> {
    fn lookup(&self, _: Caller, parent: NodeId, name: &[u8]) -> Result<Looked> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        let entry = match guard.find(parent, &name) {
            Ok(id) => Some(guard.hand_out(id)?),
            Err(Status::NotFound | Status::NotDir) => None,
            Err(status) => return Err(status),
        };
        Ok(Looked { entry, lasting: self.is_lasting(), sighting: None })
    }

    fn forget(&self, id: NodeId, count: u64) {
        let mut guard = self.lock();
        if let Ok(node) = guard.nodes.get_mut(id) {
            node.lookups = node.lookups.saturating_sub(count);
            guard.nodes.drop_if_unused(id);
        }
    }

    fn attr(&self, id: NodeId) -> Result<Entry> {
        let mut guard = self.lock();
        guard.refresh(id)?;
        guard.entry(id)
    }

    fn set_attr(&self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<Entry> {
        let mut guard = self.lock();
        if let Some(size) = change.size {
            let node = guard.nodes.get(id)?;
            match node.attr.kind {
                Kind::File => {}
                Kind::Dir => return Err(Status::IsDir),
                _ => return Err(Status::Invalid),
            }
            if node.handles > 0 {
                guard.opened(id, true)?.truncate(size)?;
            } else {
                guard.set_attr_beneath(id, &SetAttr { size: Some(size), ..SetAttr::default() })?;
            }
            guard.drop_privileges(caller, id)?;
        }
        let rest = SetAttr { size: None, ..*change };
        if rest != SetAttr::default() {
            guard.set_attr_beneath(id, &rest)?;
        }
        guard.refresh(id)?;
        guard.entry(id)
    }

    fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        let (dir, name) = self.lock().place(id)?;
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
        let name = Name::new(name)?;
        let mut guard = self.lock();
        let dir = guard.nodes.dir(parent)?.clone();
        let first = if guard.owner(caller, parent)?.is_some() { PRIVATE } else { mode };
        self.backing.make_node(&dir, &name, kind, first, rdev)?;
        guard.made(caller, parent, &name, Some(mode))
    }

    fn make_dir(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32) -> Result<Entry> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        let dir = guard.nodes.dir(parent)?.clone();
        self.backing.make_dir(&dir, &name, mode)?;
        guard.made(caller, parent, &name, None)
    }

    fn make_link(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        let dir = guard.nodes.dir(parent)?.clone();
        self.backing.make_link(&dir, &name, target)?;
        guard.made(caller, parent, &name, None)
    }

    fn remove_file(&self, _: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        let dir = guard.nodes.dir(parent)?.clone();
        self.backing.remove_file(&dir, &name)?;
        guard.nodes.gone(parent, &name);
        Ok(())
    }

    fn remove_dir(&self, _: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        let dir = guard.nodes.dir(parent)?.clone();
        self.backing.remove_dir(&dir, &name)?;
        guard.nodes.gone(parent, &name);
        Ok(())
    }

    fn rename(
        &self,
        _: Caller,
        parent: NodeId,
        name: &[u8],
        to_parent: NodeId,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let (name, to_name) = (Name::new(name)?, Name::new(to_name)?);
        let mut guard = self.lock();
        let (from, to) = (guard.nodes.dir(parent)?.clone(), guard.nodes.dir(to_parent)?.clone());
        self.backing.rename(&from, &name, &to, &to_name, mode)?;
        let exchange = mode == RenameMode::Exchange;
        guard.nodes.moved(&self.backing, (parent, &name), (to_parent, &to_name), exchange)?;
        // A view that could not be moved as one is real by now.
        for (parent, name) in [(to_parent, &to_name), (parent, &name)] {
            if let Some(id) = guard.nodes.child(parent, name) {
                guard.refresh(id)?;
            }
        }
        Ok(())
    }

    fn hard_link(&self, _: Caller, id: NodeId, to_parent: NodeId, to_name: &[u8]) -> Result<Entry> {
        let to_name = Name::new(to_name)?;
        let mut guard = self.lock();
        let (from, name) = guard.place(id).map_err(|_| Status::NotFound)?;
        let to = guard.nodes.dir(to_parent)?.clone();
        self.backing.hard_link(&from, &name, &to, &to_name)?;
        // A view was made real by it: its new number must be known before its second name is met.
        guard.refresh(id)?;
        let found = guard.find(to_parent, &to_name)?;
        guard.hand_out(found)
    }

    fn open(&self, caller: Caller, id: NodeId, how: OpenHow) -> Result<bool> {
        self.lock().open(caller, id, how)
    }

    fn create(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32, how: OpenHow) -> Result<(Entry, bool)> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        let dir = guard.nodes.dir(parent)?.clone();
        let first = if guard.owner(caller, parent)?.is_some() { PRIVATE } else { mode };
        let file = self.backing.create(&dir, &name, first)?;
        let entry = guard.made(caller, parent, &name, Some(mode))?;
        let node = guard.nodes.get_mut(entry.id)?;
        (node.open, node.writable) = (Some(file.into()), true);
        let keep = guard.open(caller, entry.id, OpenHow { truncate: false, ..how })?;
        Ok((entry, keep))
    }

    fn release(&self, id: NodeId) {
        self.lock().release(id);
    }

    fn read(&self, id: NodeId, offset: u64, size: usize) -> Result<Vec<u8>> {
        let file = self.lock().opened(id, false)?;
        let mut buffer = vec![0; size];
        let count = file.read_at(&mut buffer, offset)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    fn write(&self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.lock().opened(id, true)?;
        file.write_at(bytes, offset)
    }

    fn sync(&self, id: NodeId, data_only: bool) -> Result<()> {
        let file = self.lock().opened(id, false)?;
        file.sync(data_only)
    }

    fn allocate(&self, id: NodeId, offset: u64, length: u64, mode: i32) -> Result<()> {
        let file = self.lock().opened(id, true)?;
        file.allocate(offset, length, mode)
    }

    fn seek(&self, id: NodeId, offset: u64, what: Seek) -> Result<u64> {
        let file = self.lock().opened(id, false)?;
        file.seek(offset, what)
    }

    fn copy_range(&self, from: NodeId, from_offset: u64, to: NodeId, to_offset: u64, length: u64) -> Result<u64> {
        // The target first: it may be the same file, and become another descriptor by that.
        let (target, source) = {
            let mut guard = self.lock();
            (guard.opened(to, true)?, guard.opened(from, false)?)
        };
        target.copy_from(&source, from_offset, to_offset, length)
    }

    fn list(&self, _: Caller, id: NodeId) -> Result<Listed> {
        let guard = self.lock();
        let node = guard.nodes.get(id)?;
        let above = node.names.last().map_or(id, |(parent, _)| *parent);
        let dots = [(&b"."[..], id), (b"..", above)];
        let mut items: Vec<ListItem> =
            dots.map(|(name, id)| ListItem { name: name.to_vec(), kind: Kind::Dir, ino: id.0 }).into();
        for entry in self.backing.list(guard.nodes.dir(id)?)? {
            let known = guard.nodes.child(id, &entry.name).or_else(|| guard.nodes.of_ino(entry.ino));
            let ino = known.map_or(entry.ino, |id| id.0);
            items.push(ListItem { name: entry.name.as_bytes().to_vec(), kind: entry.kind, ino });
        }
        Ok(Listed { items, revealed: None })
    }

    fn contents(&self, _: NodeId, _: &[u8]) -> Option<Revealed> {
        None
    }

    fn space(&self, _: NodeId) -> Result<Space> {
        self.backing.space(&self.backing.root())
    }

    fn sync_dir(&self, id: NodeId) -> Result<()> {
        let dir = self.lock().nodes.dir(id)?.clone();
        self.backing.sync_dir(&dir)
    }

    fn drop_privilege_bits(&self, id: NodeId) -> Result<()> {
        // Asked for at every write of an ordinary user.
        self.lock().drop_privileges(Caller { uid: u32::MAX, gid: u32::MAX }, id)
    }

    fn get_xattr(&self, id: NodeId, key: &[u8]) -> Result<Vec<u8>> {
        let (dir, name) = self.lock().xattr_place(id)?;
        self.backing.get_xattr(&dir, name.as_ref(), key)
    }

    fn list_xattrs(&self, id: NodeId) -> Result<Vec<Vec<u8>>> {
        let (dir, name) = self.lock().xattr_place(id)?;
        self.backing.list_xattrs(&dir, name.as_ref())
    }

    fn set_xattr(&self, id: NodeId, key: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let mut guard = self.lock();
        let (dir, name) = guard.xattr_place(id)?;
        self.backing.set_xattr(&dir, name.as_ref(), key, value, mode)?;
        guard.refresh(id)
    }

    fn remove_xattr(&self, id: NodeId, key: &[u8]) -> Result<()> {
        let mut guard = self.lock();
        let (dir, name) = guard.xattr_place(id)?;
        self.backing.remove_xattr(&dir, name.as_ref(), key)?;
        guard.refresh(id)
    }

    fn permits(&self, _: Caller, _: NodeId, _: Want) -> Result<()> {
        Ok(())
    }
}

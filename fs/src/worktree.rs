//! A working tree served read-write: every operation is done on the tree beneath at once, nothing is recorded, nothing masked. What
//! `wink mount` serves; the tree beneath is [`crate::layered::Layered`] there.
//!
//! Invariants:
//! - A node keeps its [`NodeId`] for life: the inode number beneath where that is free, so that programs which remember inode numbers
//!   agree before and after a remount. It stays when the tree beneath makes a virtual file real, which changes what it is there.
//! - A file with several names is one node. A node that lost its names lives on as long as the kernel refers to it.
//! - Who may do what is the kernel's business (`default_permissions`); what a caller makes belongs to the caller.
//!
//! Lock order: one lock around the nodes. The tree beneath is asked under it for names and attributes; bytes are moved without it.

mod nodes;
mod operations;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::attr::SetAttr;
use crate::backing::{Backing, BackingFile, Result};
use crate::name::Name;
use crate::status::Status;
use crate::vfs::{Caller, Entry, NodeId, OpenHow, TOP};
use nodes::Nodes;

/// What must go when somebody without privileges writes to a file (`write(2)`, `chown(2)`).
const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// See the module.
pub struct WorkTree<B: Backing> {
    backing: B,
    own_ids: (u32, u32),
    lasting: AtomicBool,
    nodes: Mutex<Nodes<B>>,
}

impl<B: Backing> WorkTree<B> {
    /// Serves `backing`. `own_ids` are this process' user and group.
    pub fn new(backing: B, own_ids: (u32, u32)) -> Result<WorkTree<B>> {
        let root = backing.root();
        let attr = backing.dir_attr(&root)?;
        let nodes = Mutex::new(Nodes::new(root, attr));
        Ok(WorkTree { backing, own_ids, lasting: AtomicBool::new(false), nodes })
    }

    /// The tree beneath.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// Whether the kernel may keep answers until it is told otherwise: only if nobody changes the tree past this one.
    pub fn set_lasting(&self, lasting: bool) {
        self.lasting.store(lasting, Ordering::Relaxed);
    }

    /// How many nodes the kernel knows.
    pub fn node_count(&self) -> usize {
        self.nodes.lock().len()
    }

    /// Changes the tree beneath at these paths (relative to the top), past the kernel, which must be told: returns the names that it may
    /// remember for them, each with its directory.
    pub fn change(&self, paths: &[Vec<u8>], act: impl FnOnce(&B) -> Result<()>) -> Result<Vec<(NodeId, Vec<u8>)>> {
        let nodes = self.nodes.lock();
        act(&self.backing)?;
        let mut stale: Vec<(NodeId, Vec<u8>)> = paths.iter().filter_map(|path| nodes.nearest(path)).collect();
        stale.sort();
        stale.dedup();
        Ok(stale)
    }

    fn lock(&self) -> Guard<'_, B> {
        Guard { tree: self, nodes: self.nodes.lock() }
    }

    fn is_lasting(&self) -> bool {
        self.lasting.load(Ordering::Relaxed)
    }
}

/// The nodes, locked, together with what is needed to load more.
struct Guard<'t, B: Backing> {
    tree: &'t WorkTree<B>,
    nodes: MutexGuard<'t, Nodes<B>>,
}

impl<B: Backing> Guard<'_, B> {
    /// Finds what stands under a name now.
    fn find(&mut self, parent: NodeId, name: &Name) -> Result<NodeId> {
        let dir = self.nodes.dir(parent)?.clone();
        match self.tree.backing.attr(&dir, name) {
            Ok(attr) => self.nodes.stands(&self.tree.backing, parent, name, attr),
            Err(status) => {
                if matches!(status, Status::NotFound | Status::NotDir) {
                    self.nodes.gone(parent, name);
                }
                Err(status)
            }
        }
    }

    /// Asks the tree beneath for a node's attributes. What has lost its names is asked by its open file, else it keeps the last known ones.
    fn refresh(&mut self, id: NodeId) -> Result<()> {
        let backing = &self.tree.backing;
        if id == TOP {
            let attr = backing.dir_attr(self.nodes.dir(TOP)?)?;
            self.nodes.get_mut(id)?.attr = attr;
            return Ok(());
        }
        while let Some((parent, name)) = self.nodes.get(id)?.names.last().cloned() {
            let dir = self.nodes.dir(parent)?.clone();
            match backing.attr(&dir, &name) {
                Ok(attr) if self.nodes.stands(backing, parent, &name, attr)? == id => return Ok(()),
                // Somebody else took the name, past this mount.
                Ok(_) => self.nodes.unname(id, parent, &name),
                Err(Status::NotFound | Status::NotDir) => self.nodes.gone(parent, &name),
                Err(status) => return Err(status),
            }
        }
        let node = self.nodes.get_mut(id)?;
        match node.open.as_ref().filter(|_| !node.is_virtual()).map(|file| file.attr()) {
            Some(Ok(attr)) => node.attr = attr,
            _ => node.attr.nlink = 0,
        }
        Ok(())
    }

    /// Where a node lies beneath: its directory and its name there.
    fn place(&self, id: NodeId) -> Result<(B::Dir, Name)> {
        let (parent, name) = self.nodes.get(id)?.names.last().cloned().ok_or(Status::Stale)?;
        Ok((self.nodes.dir(parent)?.clone(), name))
    }

    fn entry(&self, id: NodeId) -> Result<Entry> {
        let mut attr = self.nodes.get(id)?.attr;
        attr.ino = id.0;
        Ok(Entry { id, attr, lasting: self.tree.is_lasting() })
    }

    /// The answer that hands the node out: the kernel holds one more reference.
    fn hand_out(&mut self, id: NodeId) -> Result<Entry> {
        let entry = self.entry(id)?;
        self.nodes.get_mut(id)?.lookups += 1;
        Ok(entry)
    }

    /// What to change so that what `caller` made in a directory is the caller's; `None` if it is already.
    fn owner(&self, caller: Caller, parent: NodeId) -> Result<Option<SetAttr>> {
        if self.tree.own_ids.0 != 0 || (caller.uid, caller.gid) == self.tree.own_ids {
            return Ok(None);
        }
        // In a set-group-ID directory the group is the directory's, and given already (`inode(7)`).
        let inherits = self.tree.backing.dir_attr(self.nodes.dir(parent)?)?.mode & SET_GROUP_ID != 0;
        let gid = (!inherits).then_some(caller.gid);
        Ok(Some(SetAttr { uid: Some(caller.uid), gid, ..SetAttr::default() }))
    }

    /// The file's open descriptor; opened now if it is not, or not for writing.
    fn opened(&mut self, id: NodeId, writable: bool) -> Result<Arc<B::File>> {
        let node = self.nodes.get(id)?;
        if let Some(open) = node.open.clone().filter(|_| node.writable || !writable) {
            return Ok(open);
        }
        let access = if writable { crate::backing::Access::ReadWrite } else { crate::backing::Access::Read };
        let file = match (node.names.is_empty(), &node.open) {
            // A view's descriptor is the blob's own: never to be written to.
            (true, Some(open)) if !node.is_virtual() => open.reopen_writable()?,
            (true, _) => return Err(Status::Stale),
            (false, _) => {
                let (dir, name) = self.place(id)?;
                let file = self.tree.backing.open(&dir, &name, access)?;
                // Opening for writing makes a view real; otherwise it must be the file that the kernel asked for.
                self.refresh(id)?;
                file
            }
        };
        let node = self.nodes.get_mut(id)?;
        if !node.is_virtual() && file.attr().is_ok_and(|attr| (attr.dev, attr.ino) != node.real) {
            return Err(Status::Stale);
        }
        let file = Arc::new(file);
        (node.open, node.writable) = (Some(file.clone()), writable);
        Ok(file)
    }

    fn open(&mut self, caller: Caller, id: NodeId, how: OpenHow) -> Result<bool> {
        let file = self.opened(id, how.write || how.truncate)?;
        if how.truncate {
            file.truncate(0)?;
            self.drop_privileges(caller, id)?;
        }
        // A view's blob never changes; any other file may have been changed by others since its pages were read.
        let node = self.nodes.get_mut(id)?;
        if !node.is_virtual() {
            node.attr = file.attr()?;
        }
        let stamp = Some((node.attr.size, node.attr.mtime, node.attr.ctime));
        let unchanged = node.pages == stamp;
        node.pages = stamp;
        node.handles += 1;
        Ok(unchanged)
    }

    fn release(&mut self, id: NodeId) {
        let Ok(node) = self.nodes.get_mut(id) else { return };
        node.handles = node.handles.saturating_sub(1);
        if node.handles == 0
            && let Some(file) = node.open.take()
        {
            // What was changed through this mount is what the kernel's pages hold.
            if node.writable
                && let Ok(attr) = file.attr()
            {
                node.pages = Some((attr.size, attr.mtime, attr.ctime));
            }
            node.writable = false;
        }
        self.nodes.drop_if_unused(id);
    }

    /// Somebody without privileges changed the bytes.
    fn drop_privileges(&mut self, caller: Caller, id: NodeId) -> Result<()> {
        let mode = self.nodes.get(id)?.attr.mode;
        let group = if mode & GROUP_EXECUTE != 0 { SET_GROUP_ID } else { 0 };
        let wanted = mode & !(SET_USER_ID | group);
        if caller.uid == 0 || wanted == mode {
            return Ok(());
        }
        self.set_attr_beneath(id, &SetAttr { mode: Some(wanted), ..SetAttr::default() })?;
        self.refresh(id)
    }

    fn set_attr_beneath(&mut self, id: NodeId, change: &SetAttr) -> Result<()> {
        let backing = &self.tree.backing;
        if id == TOP {
            return backing.set_dir_attr(self.nodes.dir(TOP)?, change);
        }
        let node = self.nodes.get(id)?;
        match (node.names.is_empty(), &node.open) {
            (false, _) => {
                let (dir, name) = self.place(id)?;
                backing.set_attr(&dir, &name, change)
            }
            (true, Some(open)) if !node.is_virtual() => open.set_attr(change),
            // Removed, and nobody has it open: there is nothing left to change.
            (true, _) => Err(Status::Stale),
        }
    }
}

//! The nodes of a mounted tree, under which names they are known, and which objects of the backing they stand for.
//!
//! Invariants: a name in a directory's `children` and the pair in the child's `names` come and go together; a directory has at most one
//! name; a node is kept while the kernel refers to it, it is open, or nodes below it are kept. So a kernel that has forgotten
//! everything leaves the top alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::attr::{Attr, Kind, Time};
use crate::backing::{Backing, Result};
use crate::name::Name;
use crate::node::FRESH_IDS;
use crate::status::Status;
use crate::vfs::{NodeId, TOP};

/// What tells whether the bytes of a file changed: size, mtime, ctime.
pub(super) type Stamp = (u64, Time, Time);

pub(super) fn stamp(attr: &Attr) -> Stamp {
    (attr.size, attr.mtime, attr.ctime)
}

/// A directory.
pub(super) struct DirBody<B: Backing> {
    pub(super) handle: B::Dir,
    /// The names the kernel may know.
    pub(super) children: BTreeMap<Name, NodeId>,
}

/// A regular file.
pub(super) struct FileBody<B: Backing> {
    /// The one descriptor all handles share.
    pub(super) open: Option<Arc<B::File>>,
    /// `open` allows writing.
    pub(super) writable: bool,
    /// How many open handles the kernel has.
    pub(super) handles: u32,
    /// The file as it was when last opened or changed through the mount: as long as it stays so, the kernel's pages are good.
    pub(super) pages: Option<Stamp>,
}

/// What a node is.
pub(super) enum Body<B: Backing> {
    Dir(DirBody<B>),
    File(FileBody<B>),
    /// A link, pipe, socket or device.
    Other,
}

/// One node.
pub(super) struct Node<B: Backing> {
    pub(super) body: Body<B>,
    /// As last seen in the backing, whose device and inode number say which object this is.
    pub(super) last: Attr,
    /// Where it stood when last seen. Empty once removed.
    pub(super) names: Vec<(NodeId, Name)>,
    /// References the kernel holds.
    pub(super) lookups: u64,
}

impl<B: Backing> Node<B> {
    pub(super) fn file(&self) -> Option<&FileBody<B>> {
        match &self.body {
            Body::File(file) => Some(file),
            _ => None,
        }
    }

    pub(super) fn file_mut(&mut self) -> Option<&mut FileBody<B>> {
        match &mut self.body {
            Body::File(file) => Some(file),
            _ => None,
        }
    }

    fn dir_mut(&mut self) -> Option<&mut DirBody<B>> {
        match &mut self.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// Whether the backing keeps it only in its books, without an inode.
    pub(super) fn is_virtual(&self) -> bool {
        self.last.dev == 0
    }

    /// The descriptor, if it is the object's own: what is virtual lends its bytes from elsewhere.
    pub(super) fn own_descriptor(&self) -> Option<&Arc<B::File>> {
        self.file()?.open.as_ref().filter(|_| !self.is_virtual())
    }

    /// Whether `attr`, found under one of its names, is this node's object: the same one, or the real one that a virtual one became, bytes
    /// and time kept.
    pub(super) fn is(&self, attr: &Attr) -> bool {
        if self.last.kind != attr.kind {
            return false;
        }
        let became_real = || {
            self.is_virtual()
                && attr.dev != 0
                && (attr.kind == Kind::Dir || (attr.size, attr.mtime) == (self.last.size, self.last.mtime))
        };
        (self.last.dev, self.last.ino) == (attr.dev, attr.ino) || became_real()
    }
}

/// All nodes.
pub(super) struct Table<B: Backing> {
    nodes: HashMap<NodeId, Node<B>>,
    /// By device and inode number; removed objects left out, whose numbers may be given out again.
    by_identity: HashMap<(u64, u64), NodeId>,
    main_dev: u64,
    next_fresh: u64,
}

impl<B: Backing> Table<B> {
    pub(super) fn new(attr: Attr, root: B::Dir) -> Table<B> {
        let body = Body::Dir(DirBody { handle: root, children: BTreeMap::new() });
        let top = Node { body, last: attr, names: Vec::new(), lookups: 1 };
        Table {
            nodes: HashMap::from([(TOP, top)]),
            by_identity: HashMap::new(),
            main_dev: attr.dev,
            next_fresh: FRESH_IDS,
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn open_count(&self) -> usize {
        self.nodes.values().filter_map(Node::file).filter(|file| file.handles > 0).count()
    }

    pub(super) fn node(&self, id: NodeId) -> Result<&Node<B>> {
        self.nodes.get(&id).ok_or(Status::Stale)
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node<B>> {
        self.nodes.get_mut(&id).ok_or(Status::Stale)
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> Result<&mut FileBody<B>> {
        self.node_mut(id)?.file_mut().ok_or(Status::Invalid)
    }

    /// The handle of a directory; one that was removed has no names any more, though programs may still be in it.
    pub(super) fn handle(&self, id: NodeId) -> Result<B::Dir> {
        let node = self.node(id)?;
        match &node.body {
            Body::Dir(_) if id != TOP && node.names.is_empty() => Err(Status::NotFound),
            Body::Dir(dir) => Ok(dir.handle.clone()),
            _ => Err(Status::NotDir),
        }
    }

    /// The node known under a name.
    pub(super) fn child(&self, parent: NodeId, name: &Name) -> Option<NodeId> {
        match &self.nodes.get(&parent)?.body {
            Body::Dir(dir) => dir.children.get(name).copied(),
            _ => None,
        }
    }

    /// The names known in a directory; none in anything else.
    pub(super) fn children(&self, id: NodeId) -> Vec<Name> {
        match self.nodes.get(&id).map(|node| &node.body) {
            Some(Body::Dir(dir)) => dir.children.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// The directory that holds a node; the top for the top and for what was removed.
    pub(super) fn above(&self, id: NodeId) -> Result<NodeId> {
        Ok(self.node(id)?.names.first().map_or(TOP, |(parent, _)| *parent))
    }

    /// The node known for the object of `attr`.
    pub(super) fn find(&self, attr: &Attr) -> Option<NodeId> {
        let id = *self.by_identity.get(&(attr.dev, attr.ino))?;
        self.nodes.get(&id).filter(|node| node.last.kind == attr.kind).map(|_| id)
    }

    /// The number a listing gives an object of which it knows only the inode number.
    pub(super) fn listed_number(&self, parent: NodeId, name: &Name, ino: u64) -> u64 {
        let here = self.child(parent, name).filter(|id| self.nodes.get(id).is_some_and(|node| node.last.ino == ino));
        here.or_else(|| self.by_identity.get(&(self.main_dev, ino)).copied()).map_or(ino, |id| id.0)
    }

    /// A node for an object that has none: under its inode number where that is free, so that programs which remember inode numbers, as
    /// git does, agree with the tree beneath.
    pub(super) fn add(&mut self, attr: Attr, handle: Option<B::Dir>) -> NodeId {
        let wanted = NodeId(attr.ino);
        let is_ours = attr.dev == self.main_dev || attr.dev == 0;
        let id = if is_ours && (2..FRESH_IDS).contains(&attr.ino) && !self.nodes.contains_key(&wanted) {
            wanted
        } else {
            self.next_fresh += 1;
            NodeId(self.next_fresh - 1)
        };
        let body = match (attr.kind, handle) {
            (Kind::Dir, Some(handle)) => Body::Dir(DirBody { handle, children: BTreeMap::new() }),
            (Kind::File, _) => Body::File(FileBody { open: None, writable: false, handles: 0, pages: None }),
            _ => Body::Other,
        };
        self.nodes.insert(id, Node { body, last: attr, names: Vec::new(), lookups: 0 });
        self.by_identity.entry((attr.dev, attr.ino)).or_insert(id);
        id
    }

    /// What the backing says of the node now, perhaps under another identity.
    pub(super) fn saw(&mut self, id: NodeId, attr: Attr) -> Result<()> {
        let node = self.node_mut(id)?;
        let before = std::mem::replace(&mut node.last, attr);
        if (before.dev, before.ino) != (attr.dev, attr.ino) && id != TOP {
            self.drop_identity(id, &before);
            self.by_identity.insert((attr.dev, attr.ino), id);
        }
        Ok(())
    }

    /// The node's object is gone: its number may be given to another one.
    pub(super) fn lost(&mut self, id: NodeId) {
        if let Some(last) = self.nodes.get(&id).map(|node| node.last) {
            self.drop_identity(id, &last);
        }
    }

    fn drop_identity(&mut self, id: NodeId, attr: &Attr) {
        if self.by_identity.get(&(attr.dev, attr.ino)) == Some(&id) {
            self.by_identity.remove(&(attr.dev, attr.ino));
        }
    }

    /// Puts a node under a name, in place of whatever was known there.
    pub(super) fn put_name(&mut self, parent: NodeId, name: &Name, id: NodeId) -> Result<()> {
        self.take_name(parent, name);
        self.node_mut(parent)?.dir_mut().ok_or(Status::NotDir)?.children.insert(name.clone(), id);
        self.node_mut(id)?.names.push((parent, name.clone()));
        Ok(())
    }

    /// Takes the node from a name; it is not dropped yet.
    pub(super) fn take_name(&mut self, parent: NodeId, name: &Name) -> Option<NodeId> {
        let id = self.nodes.get_mut(&parent)?.dir_mut()?.children.remove(name)?;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.names.retain(|(dir, named)| (*dir, named) != (parent, name));
        }
        Some(id)
    }

    /// After a directory moved: it and all below it get new handles.
    pub(super) fn follow(&mut self, backing: &B, id: NodeId) -> Result<()> {
        let mut work = vec![id];
        while let Some(id) = work.pop() {
            let node = self.node(id)?;
            let (Body::Dir(_), Some((parent, name))) = (&node.body, node.names.first()) else { continue };
            let handle = backing.child(&self.handle(*parent)?, name);
            if let Some(dir) = self.node_mut(id)?.dir_mut() {
                dir.handle = handle;
                work.extend(dir.children.values());
            }
        }
        Ok(())
    }

    /// Drops a node that nothing refers to any more, and directories above it that were kept for it.
    pub(super) fn drop_if_unused(&mut self, id: NodeId) {
        let mut work = vec![id];
        while let Some(id) = work.pop() {
            let Some(node) = self.nodes.get(&id) else { continue };
            let in_use = match &node.body {
                Body::Dir(dir) => !dir.children.is_empty(),
                Body::File(file) => file.handles > 0,
                Body::Other => false,
            };
            if in_use || node.lookups > 0 || id == TOP {
                continue;
            }
            self.lost(id);
            let Some(node) = self.nodes.remove(&id) else { continue };
            for (parent, name) in node.names {
                if let Some(dir) = self.nodes.get_mut(&parent).and_then(Node::dir_mut) {
                    dir.children.remove(&name);
                }
                work.push(parent);
            }
        }
    }
}

//! The nodes of a served tree: what the kernel refers to, and where it lies beneath.
//!
//! A directory stays as long as a name in it is known: the kernel may forget a directory and what is in it in any order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::attr::{Attr, Kind, Time};
use crate::backing::{Backing, Result};
use crate::name::Name;
use crate::node::FRESH_IDS;
use crate::status::Status;
use crate::vfs::{NodeId, TOP};

/// One node.
pub(super) struct Node<B: Backing> {
    /// What it is beneath: device and inode number. Device 0 is virtual.
    pub real: (u64, u64),
    /// Its attributes when last asked for.
    pub attr: Attr,
    /// Its names: directory and name. Empty once removed.
    pub names: Vec<(NodeId, Name)>,
    /// A directory's handle beneath and the names in it that are known.
    pub dir: Option<(B::Dir, BTreeMap<Name, NodeId>)>,
    /// Shared by all handles of a file.
    pub open: Option<Arc<B::File>>,
    /// `open` allows writing.
    pub writable: bool,
    /// How many open handles the kernel has.
    pub handles: u32,
    /// References the kernel holds.
    pub lookups: u64,
    /// Size, mtime and ctime for which the kernel's pages are right.
    pub pages: Option<(u64, Time, Time)>,
}

impl<B: Backing> Node<B> {
    /// Whether only a layer has it.
    pub fn is_virtual(&self) -> bool {
        self.real.0 == 0
    }
}

/// All nodes.
pub(super) struct Nodes<B: Backing> {
    nodes: HashMap<NodeId, Node<B>>,
    by_real: HashMap<(u64, u64), NodeId>,
    main_dev: u64,
    next_fresh: u64,
}

impl<B: Backing> Nodes<B> {
    pub fn new(root: B::Dir, attr: Attr) -> Nodes<B> {
        let mut nodes = Nodes {
            nodes: HashMap::new(),
            by_real: HashMap::from([((attr.dev, attr.ino), TOP)]),
            main_dev: attr.dev,
            next_fresh: FRESH_IDS,
        };
        let mut top = fresh_node(attr);
        (top.dir, top.lookups) = (Some((root, BTreeMap::new())), 1);
        nodes.nodes.insert(TOP, top);
        nodes
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn get(&self, id: NodeId) -> Result<&Node<B>> {
        self.nodes.get(&id).ok_or(Status::Stale)
    }

    pub fn get_mut(&mut self, id: NodeId) -> Result<&mut Node<B>> {
        self.nodes.get_mut(&id).ok_or(Status::Stale)
    }

    /// A directory's handle beneath.
    pub fn dir(&self, id: NodeId) -> Result<&B::Dir> {
        self.get(id)?.dir.as_ref().map(|(handle, _)| handle).ok_or(Status::NotDir)
    }

    /// The node known under a name.
    pub fn child(&self, parent: NodeId, name: &Name) -> Option<NodeId> {
        self.nodes.get(&parent)?.dir.as_ref()?.1.get(name).copied()
    }

    /// The node whose number is that of an inode on the tree's own device.
    pub fn of_ino(&self, ino: u64) -> Option<NodeId> {
        self.by_real.get(&(self.main_dev, ino)).copied()
    }

    /// Something with these attributes stands under a name: the node for it, known or new.
    pub fn stands(&mut self, backing: &B, parent: NodeId, name: &Name, attr: Attr) -> Result<NodeId> {
        let real = (attr.dev, attr.ino);
        if let Some(known) = self.child(parent, name) {
            let node = self.get(known)?;
            // A view that was made real is what it was.
            let made_real = node.is_virtual() && attr.dev != 0 && !self.by_real.contains_key(&real);
            if node.attr.kind == attr.kind && (node.real == real || made_real) {
                let was = node.real;
                if made_real {
                    self.by_real.remove(&was);
                    self.by_real.insert(real, known);
                }
                let node = self.get_mut(known)?;
                (node.real, node.attr) = (real, attr);
                return Ok(known);
            }
            self.unname(known, parent, name);
        }
        let shared = self
            .by_real
            .get(&real)
            .copied()
            .filter(|id| *id != TOP && self.nodes.get(id).is_some_and(|node| node.attr.kind == attr.kind));
        let id = match shared {
            Some(id) => id,
            None => {
                let id = self.number_for(&attr);
                self.by_real.insert(real, id);
                self.nodes.insert(id, fresh_node(attr));
                id
            }
        };
        if attr.kind == Kind::Dir {
            // A directory has one place: it was moved past this mount if it had another.
            for (above, named) in std::mem::take(&mut self.get_mut(id)?.names) {
                self.forget_child(above, &named);
            }
        }
        self.get_mut(id)?.attr = attr;
        self.put(backing, parent, name, id)?;
        Ok(id)
    }

    /// Gives a node a name, free by now, and a directory the handle that goes with it.
    fn put(&mut self, backing: &B, parent: NodeId, name: &Name, id: NodeId) -> Result<()> {
        let above = self.get_mut(parent)?.dir.as_mut().ok_or(Status::NotDir)?;
        above.1.insert(name.clone(), id);
        let handle = backing.child(&above.0, name);
        let node = self.get_mut(id)?;
        node.names.push((parent, name.clone()));
        if node.attr.kind == Kind::Dir {
            self.rehang(backing, id, handle);
        }
        Ok(())
    }

    /// A directory lies elsewhere beneath: so does all that is in it.
    fn rehang(&mut self, backing: &B, id: NodeId, handle: B::Dir) {
        let mut work = vec![(id, handle)];
        while let Some((id, handle)) = work.pop() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if node.attr.kind != Kind::Dir {
                continue;
            }
            let names = node.dir.take().map(|(_, names)| names).unwrap_or_default();
            for (name, below) in &names {
                work.push((*below, backing.child(&handle, name)));
            }
            node.dir = Some((handle, names));
        }
    }

    /// A name is gone beneath, whoever removed it.
    pub fn gone(&mut self, parent: NodeId, name: &Name) {
        if let Some(id) = self.child(parent, name) {
            self.unname(id, parent, name);
        }
    }

    /// Takes a name from a node. The last one takes its inode number along, which may be given out again.
    pub fn unname(&mut self, id: NodeId, parent: NodeId, name: &Name) {
        self.forget_child(parent, name);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.names.retain(|(dir, named)| (*dir, named) != (parent, name));
        node.attr.nlink = node.attr.nlink.saturating_sub(1);
        let gone = node.names.is_empty() && (node.attr.kind == Kind::Dir || node.attr.nlink == 0);
        let real = node.real;
        if gone && self.by_real.get(&real) == Some(&id) {
            self.by_real.remove(&real);
        }
        self.drop_if_unused(id);
    }

    fn forget_child(&mut self, parent: NodeId, name: &Name) {
        if let Some((_, names)) = self.nodes.get_mut(&parent).and_then(|node| node.dir.as_mut()) {
            names.remove(name);
        }
        self.drop_if_unused(parent);
    }

    /// After a rename beneath.
    pub fn moved(
        &mut self,
        backing: &B,
        (from_dir, from): (NodeId, &Name),
        (to_dir, to): (NodeId, &Name),
        exchange: bool,
    ) -> Result<()> {
        let moved = self.child(from_dir, from);
        let other = self.child(to_dir, to);
        // Neither may be dropped while it has no name.
        for id in [moved, other].into_iter().flatten() {
            self.get_mut(id)?.lookups += 1;
        }
        for (id, dir, name) in [(moved, from_dir, from), (other, to_dir, to)] {
            let Some(id) = id else { continue };
            if exchange || Some(id) == moved {
                self.forget_child(dir, name);
                self.get_mut(id)?.names.retain(|(at, named)| (*at, named) != (dir, name));
            } else {
                self.unname(id, dir, name);
            }
        }
        if let Some(id) = moved {
            self.put(backing, to_dir, to, id)?;
        }
        if let Some(id) = other.filter(|_| exchange) {
            self.put(backing, from_dir, from, id)?;
        }
        for id in [moved, other].into_iter().flatten() {
            self.get_mut(id)?.lookups -= 1;
            self.drop_if_unused(id);
        }
        Ok(())
    }

    /// The deepest known directory on the way to a path, and the next name on that way.
    pub fn nearest(&self, path: &[u8]) -> Option<(NodeId, Vec<u8>)> {
        let mut at = TOP;
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).peekable();
        loop {
            let part = parts.next()?;
            let below = Name::new(part).ok().and_then(|name| self.child(at, &name));
            match below.filter(|id| self.nodes.get(id).is_some_and(|node| node.dir.is_some())) {
                Some(id) if parts.peek().is_some() => at = id,
                _ => return Some((at, part.to_vec())),
            }
        }
    }

    /// Drops a node that nothing refers to, and the directories that only it kept.
    pub fn drop_if_unused(&mut self, id: NodeId) {
        let mut work = vec![id];
        while let Some(id) = work.pop() {
            let Some(node) = self.nodes.get(&id) else { continue };
            let holds = node.dir.as_ref().is_some_and(|(_, names)| !names.is_empty());
            if id == TOP || node.lookups > 0 || node.handles > 0 || holds {
                continue;
            }
            let Some(node) = self.nodes.remove(&id) else { continue };
            if self.by_real.get(&node.real) == Some(&id) {
                self.by_real.remove(&node.real);
            }
            for (parent, name) in node.names {
                if let Some((_, names)) = self.nodes.get_mut(&parent).and_then(|node| node.dir.as_mut()) {
                    names.remove(&name);
                }
                work.push(parent);
            }
        }
    }

    fn number_for(&mut self, attr: &Attr) -> NodeId {
        let wanted = NodeId(attr.ino);
        let same_tree = attr.dev == self.main_dev || attr.dev == 0;
        if same_tree && (2..FRESH_IDS).contains(&attr.ino) && !self.nodes.contains_key(&wanted) {
            return wanted;
        }
        self.next_fresh += 1;
        NodeId(self.next_fresh)
    }
}

fn fresh_node<B: Backing>(attr: Attr) -> Node<B> {
    Node {
        real: (attr.dev, attr.ino),
        attr,
        names: Vec::new(),
        dir: None,
        open: None,
        writable: false,
        handles: 0,
        lookups: 0,
        pages: None,
    }
}

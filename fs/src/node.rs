//! The nodes of a view: what each one is, what lies beneath it, and what the task made of it.
//!
//! Identity: a node keeps its [`NodeId`] for life. It is the real inode number where that is free (so that programs which remember inode
//! numbers, as git does, agree with the real tree), else one from [`FRESH_IDS`]. Names of one real file with several links share
//! a node; directories never share one, since a kernel allows a directory only one place.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::attr::{Attr, Kind, Time};
use crate::backing::{Backing, StagedId};
use crate::name::Name;
use crate::vfs::NodeId;
use crate::zone::Zone;

/// Numbers of nodes that have no free real inode number start here; no file system in use counts its inodes this far.
pub const FRESH_IDS: u64 = 1 << 52;

/// Where a node lies in the tree beneath, as it was when first seen.
pub struct Lower<B: Backing> {
    /// The directory that holds it; `None` for the top.
    pub dir: Option<B::Dir>,
    /// Its name there; `None` for the top.
    pub name: Option<Name>,
    /// Absolute path.
    pub path: Arc<[u8]>,
    /// Its attributes when it was first seen.
    pub attr: Attr,
}

impl<B: Backing> Clone for Lower<B> {
    fn clone(&self) -> Self {
        Lower { dir: self.dir.clone(), name: self.name.clone(), path: self.path.clone(), attr: self.attr }
    }
}

/// A name in a directory of the view that has been looked at or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// A node stands there. `covers`: the tree beneath has something under this name in this directory.
    Node {
        /// Which.
        id: NodeId,
        /// Whether the tree beneath has that name too.
        covers: bool,
    },
    /// The task removed what the tree beneath has there.
    Whiteout,
}

/// A directory.
pub struct DirBody<B: Backing> {
    /// Its handle in the tree beneath; `None` if the task made it.
    pub handle: Option<B::Dir>,
    /// Names looked at or changed so far.
    pub children: BTreeMap<Name, Child>,
    /// The task added, removed or renamed a name in it.
    pub changed: bool,
}

/// Where the bytes of a file are.
pub enum Bytes {
    /// In the tree beneath, untouched.
    Lower,
    /// In a staged file.
    Staged(StagedId),
}

/// A regular file.
pub struct FileBody<B: Backing> {
    /// Where its bytes are.
    pub bytes: Bytes,
    /// Kept open while in use, and longer while descriptors are plenty.
    pub open: Option<Arc<B::File>>,
    /// `open` allows writing.
    pub writable: bool,
    /// How many open handles the kernel has.
    pub handles: u32,
    /// Size, mtime and ctime of the real file when it was last opened: as long as they stay, so may the pages the kernel keeps.
    pub pages: Option<(u64, Time, Time)>,
}

/// What a node is.
pub enum Body<B: Backing> {
    /// Directory.
    Dir(DirBody<B>),
    /// Regular file.
    File(FileBody<B>),
    /// Symbolic link; the target if the task made it.
    Link(Option<Vec<u8>>),
    /// Pipe, socket or device.
    Special,
}

/// Attributes the task set, over those of the bytes or of the tree beneath.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of the bytes.
    pub mtime: Option<Time>,
    /// Last change of anything.
    pub ctime: Option<Time>,
}

impl Over {
    /// Lays these over `attr`.
    pub fn apply(&self, attr: &mut Attr) {
        attr.mode = self.mode.unwrap_or(attr.mode);
        attr.uid = self.uid.unwrap_or(attr.uid);
        attr.gid = self.gid.unwrap_or(attr.gid);
        attr.atime = self.atime.unwrap_or(attr.atime);
        attr.mtime = self.mtime.unwrap_or(attr.mtime);
        attr.ctime = self.ctime.unwrap_or(attr.ctime);
    }
}

/// One node.
pub struct Node<B: Backing> {
    /// Its number.
    pub id: NodeId,
    /// What happens to writes.
    pub zone: Zone,
    /// What it is.
    pub kind: Kind,
    /// Its state by kind.
    pub body: Body<B>,
    /// What lies beneath; `None` if the task made it.
    pub lower: Option<Lower<B>>,
    /// Its names in the view: parent and name. Empty once removed.
    pub names: Vec<(NodeId, Name)>,
    /// What the task set.
    pub over: Over,
    /// For nodes without anything beneath: their attributes (kind, mode, owner, times).
    pub base: Attr,
    /// References the kernel holds.
    pub lookups: u64,
    /// How many names of the real file were seen beneath, whatever became of them; all others are out of sight.
    pub loaded: u32,
}

impl<B: Backing> Node<B> {
    /// The node as a directory.
    pub fn dir(&self) -> Option<&DirBody<B>> {
        match &self.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// The node as a directory, to change it.
    pub fn dir_mut(&mut self) -> Option<&mut DirBody<B>> {
        match &mut self.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// The node as a file, to change it.
    pub fn file_mut(&mut self) -> Option<&mut FileBody<B>> {
        match &mut self.body {
            Body::File(file) => Some(file),
            _ => None,
        }
    }

    /// How many names of the real file nobody looked at yet.
    pub fn names_out_of_sight(&self) -> u32 {
        match &self.lower {
            Some(Lower { attr, .. }) if self.kind != Kind::Dir => attr.nlink.saturating_sub(self.loaded),
            _ => 0,
        }
    }

    /// Whether a name that was not looked at yet will have to show what the task made of this file, and how many names it lost.
    pub fn is_awaited(&self) -> bool {
        self.zone == Zone::Task && self.names_out_of_sight() > 0
    }

    /// Whether the task gave a file bytes of its own or attributes other than beneath, or made the node. A changed link count
    /// alone (its ctime) is none.
    pub fn is_changed(&self) -> bool {
        let Some(Lower { attr, .. }) = &self.lower else { return true };
        let mut now = *attr;
        Over { ctime: None, ..self.over }.apply(&mut now);
        now != *attr || matches!(&self.body, Body::File(FileBody { bytes: Bytes::Staged(_), .. }))
    }
}

/// All nodes of a view.
pub struct Table<B: Backing> {
    nodes: HashMap<NodeId, Node<B>>,
    /// Real files seen so far, by zone, device and inode number.
    by_real: HashMap<(Zone, u64, u64), NodeId>,
    main_dev: u64,
    next_fresh: u64,
}

impl<B: Backing> Table<B> {
    /// An empty table; inode numbers of device `main_dev` become node numbers.
    pub fn new(main_dev: u64) -> Table<B> {
        Table { nodes: HashMap::new(), by_real: HashMap::new(), main_dev, next_fresh: FRESH_IDS }
    }

    /// A node by its number.
    pub fn get(&self, id: NodeId) -> Option<&Node<B>> {
        self.nodes.get(&id)
    }

    /// A node by its number, to change it.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node<B>> {
        self.nodes.get_mut(&id)
    }

    /// Adds a node under its own number.
    pub fn insert(&mut self, node: Node<B>) {
        self.nodes.insert(node.id, node);
    }

    /// Drops a node.
    pub fn remove(&mut self, id: NodeId) -> Option<Node<B>> {
        let node = self.nodes.remove(&id)?;
        if let Some(lower) = &node.lower {
            let real = (node.zone, lower.attr.dev, lower.attr.ino);
            if self.by_real.get(&real) == Some(&id) {
                self.by_real.remove(&real);
            }
        }
        Some(node)
    }

    /// The node that already stands for the real file of `attr`: only files with several names share one.
    pub fn shared(&self, zone: Zone, attr: &Attr) -> Option<NodeId> {
        if attr.kind == Kind::Dir || attr.nlink < 2 {
            return None;
        }
        let id = *self.by_real.get(&(zone, attr.dev, attr.ino))?;
        let node = self.nodes.get(&id)?;
        (node.kind == attr.kind).then_some(id)
    }

    /// A number for a real file first seen now.
    pub fn number_for(&mut self, zone: Zone, attr: &Attr) -> NodeId {
        let wanted = NodeId(attr.ino);
        let id = if attr.dev == self.main_dev && (2..FRESH_IDS).contains(&attr.ino) && !self.nodes.contains_key(&wanted)
        {
            wanted
        } else {
            self.fresh()
        };
        // The latest stands for it: an older one with this number was removed, and the number given out again.
        self.by_real.insert((zone, attr.dev, attr.ino), id);
        id
    }

    /// A number for a node that the task makes.
    pub fn fresh(&mut self) -> NodeId {
        let id = NodeId(self.next_fresh);
        self.next_fresh += 1;
        id
    }

    /// Lets another node stand for a real file, and for its names that nobody looked at yet.
    pub fn replace(&mut self, id: NodeId, by: Option<NodeId>) {
        let Some(Node { zone, lower: Some(lower), .. }) = self.nodes.get(&id) else { return };
        let real = (*zone, lower.attr.dev, lower.attr.ino);
        if self.by_real.get(&real) == Some(&id) {
            match by {
                Some(by) => drop(self.by_real.insert(real, by)),
                None => drop(self.by_real.remove(&real)),
            }
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

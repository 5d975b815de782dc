//! A mounted working tree: a backing served read-write. Every operation is done on the backing at once; nothing is recorded, masked or
//! kept back.
//!
//! Invariants:
//! - A node stands for one object of the backing, told by device and inode number, and keeps its [`NodeId`] for life, also when the
//!   backing gives the object another identity because it makes something virtual (device 0) real.
//! - A file is used by its open descriptor or by one of its names, and by a name only after what stands there was found to be the
//!   node's object. So nothing that took a name meanwhile is ever taken for what was there before.
//! - The descriptor of something virtual is for reading alone: its attributes are asked for and changed by name.
//! - Who may do what is the kernel's decision (`default_permissions`), by the attributes it was given.
//!
//! Locks: one, over the table of nodes. It is held while the backing is asked for attributes, opens a file or changes names, so that names
//! and table agree; reading, writing, copying, allocating, seeking and syncing are done without it, and so is listing.
//!
//! The table is in `table`, operations on names in `names`, on bytes in `files`, attributes in `attrs`.

mod attrs;
mod files;
mod names;
mod operations;
mod table;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::table::Table;
use crate::attr::{Kind, Time};
use crate::backing::{Backing, Result};
use crate::name::Name;
use crate::sync::{Mutex, MutexGuard};
use crate::vfs::{NodeId, TOP};

/// See the module.
pub struct WorkTree<B: Backing> {
    backing: B,
    own_ids: (u32, u32),
    privileged: bool,
    lasting: AtomicBool,
    table: Mutex<Table<B>>,
    /// Directories that were listed when they had changed just before, while others could change them. Lock order: a leaf.
    hasty: Mutex<HashSet<NodeId>>,
}

/// How long the clock that stamps a directory may stand still: as for files (`View`).
const CLOCK_TICK: Duration = Duration::from_millis(20);

impl<B: Backing> WorkTree<B> {
    /// Serves `backing`. `own_ids`: this process' user and group. `privileged`: it may give files away, so what callers make is
    /// theirs. Fails if the top cannot be looked at.
    pub fn new(backing: B, own_ids: (u32, u32), privileged: bool) -> Result<WorkTree<B>> {
        let root = backing.root();
        let table = Mutex::new(Table::new(backing.dir_attr(&root)?, root));
        Ok(WorkTree { backing, own_ids, privileged, lasting: AtomicBool::new(false), table, hasty: Mutex::default() })
    }

    /// The tree beneath.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// Runs `act`, which may change the backing, while no request looks at or changes names; `act` must not ask for anything through the
    /// mount. `paths` says which paths changed, relative to the top. Returns what the kernel must forget: for each path the deepest
    /// directory on the way that it may know, and the name in it. If `act` fails half-way, its outcome must tell what it did.
    pub fn change<T>(
        &self,
        act: impl FnOnce(&B) -> T,
        paths: impl FnOnce(&T) -> Vec<Vec<u8>>,
    ) -> (T, Vec<(NodeId, Vec<u8>)>) {
        let mut guard = self.lock();
        let done = act(&self.backing);
        let mut forget = BTreeSet::new();
        let mut checked = HashSet::new();
        for path in paths(&done) {
            forget.extend(guard.known_on_the_way(&path, &mut checked));
        }
        (done, forget.into_iter().collect())
    }

    /// Whether the kernel may keep answers, since nobody else changes the tree, or only briefly (as it is at first). Returns how it was. Answers that
    /// were given before stay as they were: the kernel must be told to forget them.
    pub fn set_lasting(&self, lasting: bool) -> bool {
        self.lasting.swap(lasting, Ordering::SeqCst)
    }

    /// All nodes the kernel may know, and their names.
    pub fn known(&self) -> (Vec<NodeId>, Vec<(NodeId, Name)>) {
        let guard = self.lock();
        let nodes = guard.table.ids().collect();
        let names = guard.table.ids().flat_map(|id| guard.table.node(id).map_or(&[][..], |node| &node.names)).cloned();
        (nodes, names.collect())
    }

    /// Directories whose names the kernel must forget: they were listed so soon after a change that somebody who goes past the mount could change
    /// them again without another time to show for it.
    pub fn take_hasty(&self) -> HashSet<NodeId> {
        std::mem::take(&mut *self.hasty.lock())
    }

    /// Notes a directory that is about to be listed, if that is hasty.
    fn note_listing(&self, id: NodeId, dir: &B::Dir) {
        if self.is_lasting() {
            return;
        }
        let Ok(attr) = self.backing.dir_attr(dir) else { return };
        let age = Time::now().0.saturating_sub(attr.mtime.0.max(attr.ctime.0));
        if u64::try_from(age).is_ok_and(|age| Duration::from_nanos(age) < CLOCK_TICK) || age < 0 {
            self.hasty.lock().insert(id);
        }
    }

    /// How many nodes the kernel knows, the top among them.
    pub fn node_count(&self) -> usize {
        self.lock().table.len()
    }

    /// How many files somebody has open.
    pub fn open_count(&self) -> usize {
        self.lock().table.open_count()
    }

    fn is_lasting(&self) -> bool {
        self.lasting.load(Ordering::Relaxed)
    }

    fn lock(&self) -> Guard<'_, B> {
        Guard { tree: self, table: self.table.lock() }
    }
}

/// The nodes, locked, together with what is needed to find more.
struct Guard<'t, B: Backing> {
    tree: &'t WorkTree<B>,
    table: MutexGuard<'t, Table<B>>,
}

impl<B: Backing> Guard<'_, B> {
    /// The deepest directory on the way to `path` that the kernel may know, and the name in it; `None` for the top. `checked` holds the
    /// directories that were found in their places.
    fn known_on_the_way(&mut self, path: &[u8], checked: &mut HashSet<NodeId>) -> Option<(NodeId, Vec<u8>)> {
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).peekable();
        let mut at = TOP;
        while let Some(part) = names.next() {
            let name = Name::new(part).ok()?;
            let below = self.table.child(at, &name).filter(|_| names.peek().is_some());
            match below {
                Some(id) if self.is_directory_still(at, &name, id, checked) => at = id,
                _ => return Some((at, part.to_vec())),
            }
        }
        None
    }

    fn is_directory_still(&mut self, parent: NodeId, name: &Name, id: NodeId, checked: &mut HashSet<NodeId>) -> bool {
        if checked.contains(&id) {
            return true;
        }
        let stands = matches!(self.stands(parent, name), Ok(Some(attr)) if attr.kind == Kind::Dir)
            && self.table.child(parent, name) == Some(id);
        if stands {
            checked.insert(id);
        }
        stands
    }
}

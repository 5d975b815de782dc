//! The view in which a task runs: upper over real tree, own outputs hidden or shown.
//!
//! Invariants:
//! - Inside [`Zone::Task`] the real tree is never changed; everything the task does is in the table of nodes and in staged files.
//! - A node's `lower` never changes inside [`Zone::Task`]: it is where the node lay in the snapshot, wherever the task moves it.
//! - A directory's attributes are masked (constant times, size and link count) until the task changes the directory, so that they reveal
//!   nothing beyond its existence (`docs/SEMANTICS.md`, "Directories").
//!
//! Operations on names are in `names`, on bytes in `files`, attributes and permissions in `attrs`, renames in `crate::rename`.

mod attrs;
mod beneath;
mod files;
mod lent;
mod names;
mod operations;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::attr::{Attr, Kind, Time};
use crate::backing::{Backing, Result};
use crate::name::Name;
use crate::node::{Body, Bytes, Child, DirBody, FileBody, Lower, Node, Over, Table};
use crate::status::Status;
use crate::sync::{Mutex, MutexGuard};
use crate::vfs::{ListItem, NodeId, Revealed, Sighting, TOP};
use crate::zone::{Zone, Zones, join};

pub use beneath::Beneath;

/// The time every unchanged directory shows: 9 September 2001, older than any output, newer than the epoch that some
/// programs take for "unset".
const MASKED_TIME: Time = Time(1_000_000_000 * 1_000_000_000);
/// The size every unchanged directory shows.
const MASKED_SIZE: u64 = 4096;
/// The link count of directories: 1 tells `find` and `fts` not to count subdirectories by it.
const DIR_LINKS: u32 = 1;

/// How many ticks to wait for a file that somebody keeps writing; then it counts as it is, and as changed at the end.
const TICKS_MAX: u32 = 3;

/// Who decides whether a caller may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// The kernel, by the attributes it was given (`default_permissions`).
    Kernel,
    /// The view, by what the real tree allows this process, which runs as the same user as the task.
    View,
}

/// When a task is shown outputs of an earlier run: everything that is not known to be as that run saw it looks at least as new as this
/// run, so that programs that decide by times cannot take an old output for a new one.
#[derive(Clone, Debug, Default)]
pub struct Newer {
    /// The least modification time.
    pub least: Time,
    /// Absolute paths that keep their own time: the outputs themselves, and inputs that have not changed.
    pub but: HashSet<Vec<u8>>,
}

/// How a view is set up.
#[derive(Debug)]
pub struct Setup {
    /// Absolute path of the top.
    pub top: Vec<u8>,
    /// What happens where.
    pub zones: Zones,
    /// Absolute paths that the task does not see: own outputs of earlier runs.
    pub hidden: HashSet<Vec<u8>>,
    /// What must look new; `None` if the task is shown no outputs of an earlier run.
    pub newer: Option<Newer>,
    /// Empty directories that exist only in the view, by name, in the top: mount points.
    pub made_up: Vec<Name>,
    /// Absolute paths outside the workspace whose making is not noted: directories on the way to tool caches.
    pub unnoted: HashSet<Vec<u8>>,
    /// How long the clock that stamps files of the workspace may stand still.
    pub clock_tick: Duration,
    /// A device whose files get another ctime with each change, so that no tick need be waited for.
    pub strict_dev: Option<u64>,
    /// Who checks permissions.
    pub checks: Checks,
    /// Group numbers that the view shows as the caller's own, since the caller's namespace cannot name them.
    pub shown_as_own_group: Vec<u32>,
    /// How many descriptors may stay open for files that are not in use.
    pub idle_files_max: usize,
}

/// See the module.
pub struct View<B: Backing> {
    backing: B,
    setup: Setup,
    own_ids: (u32, u32),
    state: Mutex<State<B>>,
    notes: Mutex<Notes>,
    /// How often a staged file moved to where there is room.
    spills: AtomicU64,
}

struct State<B: Backing> {
    table: Table<B>,
    idle_files: usize,
}

/// What the view noticed that the answer to a request cannot say.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// The first path outside the workspace that was changed, and how many changes there were.
    pub outside: Option<(Vec<u8>, u64)>,
    /// The first path whose other names were out of sight when it was changed.
    pub split_link: Option<Vec<u8>>,
}

impl<B: Backing> View<B> {
    /// A view of `backing`. `own_ids` are this process' user and group.
    pub fn new(backing: B, setup: Setup, own_ids: (u32, u32)) -> Result<View<B>> {
        let root = backing.root();
        let attr = backing.dir_attr(&root)?;
        let mut table = Table::new(attr.dev);
        let mut children = BTreeMap::new();
        for name in &setup.made_up {
            if backing.attr(&root, name) == Err(Status::NotFound) {
                let id = table.fresh();
                let mut base = attr;
                base.mode = 0o755;
                base.ino = id.0;
                table.insert(Node {
                    id,
                    zone: Zone::Scratch,
                    kind: Kind::Dir,
                    body: Body::Dir(DirBody { handle: None, children: BTreeMap::new(), changed: false }),
                    lower: None,
                    names: vec![(TOP, name.clone())],
                    over: Over::default(),
                    base,
                    lookups: 0,
                    loaded: 0,
                });
                children.insert(name.clone(), Child::Node { id, covers: false });
            }
        }
        table.insert(Node {
            id: TOP,
            zone: setup.zones.of(&setup.top),
            kind: Kind::Dir,
            body: Body::Dir(DirBody { handle: Some(root), children, changed: false }),
            lower: Some(Lower { dir: None, name: None, path: setup.top.as_slice().into(), attr }),
            names: Vec::new(),
            over: Over::default(),
            base: attr,
            lookups: 1,
            loaded: 0,
        });
        let state = Mutex::new(State { table, idle_files: 0 });
        Ok(View { backing, setup, own_ids, state, notes: Mutex::new(Notes::default()), spills: AtomicU64::new(0) })
    }

    /// The tree beneath.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// What was noticed so far.
    pub fn notes(&self) -> Notes {
        self.notes.lock().clone()
    }

    /// How many nodes the view knows.
    pub fn node_count(&self) -> usize {
        self.state.lock().table.len()
    }

    pub(crate) fn zones(&self) -> &Zones {
        &self.setup.zones
    }

    pub(crate) fn lock(&self) -> Guard<'_, B> {
        Guard { view: self, state: self.state.lock() }
    }

    pub(crate) fn note_outside(&self, zone: Zone, path: &[u8]) {
        if matches!(zone, Zone::Outside | Zone::Settled) {
            let mut notes = self.notes.lock();
            match &mut notes.outside {
                Some((_, count)) => *count += 1,
                none => *none = Some((path.to_vec(), 1)),
            }
        }
    }
}

/// The nodes of a view, locked, together with what is needed to load more.
pub(crate) struct Guard<'v, B: Backing> {
    pub(crate) view: &'v View<B>,
    state: MutexGuard<'v, State<B>>,
}

impl<B: Backing> Guard<'_, B> {
    pub(crate) fn table(&mut self) -> &mut Table<B> {
        &mut self.state.table
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<&Node<B>> {
        self.state.table.get(id).ok_or(Status::Stale)
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node<B>> {
        self.state.table.get_mut(id).ok_or(Status::Stale)
    }

    pub(crate) fn dir(&self, id: NodeId) -> Result<&DirBody<B>> {
        self.node(id)?.dir().ok_or(Status::NotDir)
    }

    /// Whether own outputs of earlier runs hide this path of the tree beneath.
    pub(crate) fn is_hidden(&self, path: &[u8]) -> bool {
        !self.view.setup.hidden.is_empty() && self.view.setup.hidden.contains(path)
    }

    /// What stands under `name` in the directory: known, or loaded from the tree beneath now. The sighting tells what the
    /// tree beneath was asked.
    pub(crate) fn child(&mut self, parent: NodeId, name: &Name) -> Result<(Option<NodeId>, Option<Sighting>)> {
        let node = self.node(parent)?;
        let dir = node.dir().ok_or(Status::NotDir)?;
        match dir.children.get(name) {
            Some(Child::Whiteout) => return Ok((None, None)),
            Some(Child::Node { id, .. }) if !self.must_ask_again(*id) => return Ok((Some(*id), None)),
            _ => {}
        }
        let (Some(handle), Some(lower)) = (dir.handle.clone(), &node.lower) else {
            return Ok((None, None));
        };
        let path = join(&lower.path, name.as_bytes());
        let zone = self.view.setup.zones.of_child(node.zone, &path);
        if self.is_hidden(&path) {
            return Ok((None, zone.is_observed().then_some(Sighting { path, attr: None })));
        }
        match self.view.backing.attr(&handle, name) {
            Ok(attr) => {
                let attr = self.at_rest(zone, &handle, name, attr)?;
                let sighting = Sighting { path: path.clone(), attr: Some(attr) };
                let id = self.load(parent, name, &handle, path, zone, attr)?;
                Ok((Some(id), zone.is_observed().then_some(sighting)))
            }
            Err(Status::NotFound | Status::NotDir) => {
                self.forget_name(parent, name);
                Ok((None, zone.is_observed().then_some(Sighting { path, attr: None })))
            }
            Err(status) => Err(status),
        }
    }

    /// Waits until a file that has changed just now can no longer change unseen: file systems stamp files with the time of the last
    /// tick of a clock, so a second change within the same tick would leave the same stamp.
    fn at_rest(&self, zone: Zone, handle: &B::Dir, name: &Name, mut attr: Attr) -> Result<Attr> {
        let tick = self.view.setup.clock_tick;
        let is_strict = self.view.setup.strict_dev == Some(attr.dev);
        if tick.is_zero() || is_strict || zone != Zone::Task || attr.kind != Kind::File {
            return Ok(attr);
        }
        for _ in 0..TICKS_MAX {
            let age = Time::now().0.saturating_sub(attr.ctime.0);
            match u64::try_from(age).map(Duration::from_nanos) {
                Ok(age) if age < tick => std::thread::sleep(tick - age),
                // At rest, or stamped by a clock that is ahead of ours.
                _ => return Ok(attr),
            }
            attr = self.view.backing.attr(handle, name)?;
        }
        Ok(attr)
    }

    /// Outside the workspace others may change the tree while the task runs: such a node is looked at again whenever the
    /// kernel asks.
    fn must_ask_again(&self, id: NodeId) -> bool {
        self.state.table.get(id).is_none_or(|node| !node.zone.is_lasting() && node.lower.is_some())
    }

    /// Drops a name that the tree beneath no longer has.
    fn forget_name(&mut self, parent: NodeId, name: &Name) {
        let Some(dir) = self.state.table.get_mut(parent).and_then(Node::dir_mut) else { return };
        if let Some(Child::Node { id, .. }) = dir.children.remove(name) {
            self.unname(id, parent, name);
        }
    }

    /// Takes one name from a node, and the node itself if nothing holds it any more.
    pub(crate) fn unname(&mut self, id: NodeId, parent: NodeId, name: &Name) {
        if let Some(node) = self.state.table.get_mut(id) {
            node.names.retain(|(dir, named)| (*dir, named) != (parent, name));
            self.find_again(id);
            self.drop_if_unused(id);
        }
    }

    /// Outside the workspace a file that lost a name must be reached by one of those left.
    fn find_again(&mut self, id: NodeId) {
        let Some(node) = self.state.table.get(id) else { return };
        let (false, Some((parent, name))) =
            (node.zone == Zone::Task || node.kind == Kind::Dir, node.names.first().cloned())
        else {
            return;
        };
        let Some(above) = self.state.table.get(parent) else { return };
        let (Some(handle), Some(beneath)) = (above.dir().and_then(|dir| dir.handle.clone()), &above.lower) else {
            return;
        };
        let path = join(&beneath.path, name.as_bytes()).into();
        if let Some(lower) = self.state.table.get_mut(id).and_then(|node| node.lower.as_mut()) {
            *lower = Lower { dir: Some(handle), name: Some(name), path, attr: lower.attr };
        }
    }

    pub(crate) fn drop_if_unused(&mut self, id: NodeId) {
        let mut work = vec![id];
        while let Some(id) = work.pop() {
            let Some(node) = self.state.table.get(id) else { continue };
            let in_use = matches!(&node.body, Body::File(file) if file.handles > 0);
            if !node.names.is_empty() || node.lookups > 0 || in_use || id == TOP {
                continue;
            }
            if node.is_awaited() {
                let file = self.state.table.get_mut(id).and_then(Node::file_mut);
                if file.and_then(|file| file.open.take()).is_some() {
                    self.state.idle_files = self.state.idle_files.saturating_sub(1);
                }
                continue;
            }
            match self.state.table.remove(id).map(|node| node.body) {
                Some(Body::File(file)) => {
                    if file.open.is_some() {
                        self.state.idle_files = self.state.idle_files.saturating_sub(1);
                    }
                    if let Bytes::Staged(staged) = file.bytes {
                        self.discard(staged);
                    }
                }
                // Names are left only in a directory that others removed in the real tree.
                Some(Body::Dir(dir)) => {
                    for (name, child) in dir.children {
                        let Child::Node { id: below, .. } = child else { continue };
                        if let Some(node) = self.state.table.get_mut(below) {
                            node.names.retain(|(dir, named)| (*dir, named) != (id, &name));
                            self.find_again(below);
                            work.push(below);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The node for a name of the tree beneath that was just looked at.
    fn load(
        &mut self,
        parent: NodeId,
        name: &Name,
        handle: &B::Dir,
        path: Vec<u8>,
        zone: Zone,
        attr: Attr,
    ) -> Result<NodeId> {
        let known = match self.dir(parent)?.children.get(name) {
            Some(Child::Node { id, .. }) => Some(*id),
            _ => None,
        };
        if let Some(id) = known {
            // Only outside the workspace: the same object as before, or another one that took its place.
            let same = self.state.table.get(id).and_then(|node| node.lower.as_ref()).is_some_and(|lower| {
                (lower.attr.dev, lower.attr.ino, lower.attr.kind) == (attr.dev, attr.ino, attr.kind)
            });
            if same {
                if let Some(lower) = self.node_mut(id)?.lower.as_mut() {
                    lower.attr = attr;
                }
                return Ok(id);
            }
            self.forget_name(parent, name);
        }
        let id = match self.state.table.shared(zone, &attr) {
            Some(id) => id,
            None => {
                let id = self.state.table.number_for(zone, &attr);
                let body = match attr.kind {
                    Kind::Dir => Body::Dir(DirBody {
                        handle: Some(self.view.backing.child(handle, name)),
                        children: BTreeMap::new(),
                        changed: false,
                    }),
                    Kind::File => Body::File(FileBody {
                        bytes: Bytes::Lower,
                        open: None,
                        writable: false,
                        handles: 0,
                        pages: None,
                    }),
                    Kind::Link => Body::Link(None),
                    _ => Body::Special,
                };
                let lower = Lower { dir: Some(handle.clone()), name: Some(name.clone()), path: path.into(), attr };
                self.state.table.insert(Node {
                    id,
                    zone,
                    kind: attr.kind,
                    body,
                    lower: Some(lower),
                    names: Vec::new(),
                    over: Over::default(),
                    base: attr,
                    lookups: 0,
                    loaded: 0,
                });
                id
            }
        };
        let node = self.node_mut(id)?;
        node.names.push((parent, name.clone()));
        node.loaded += 1;
        if node.names.len() == 1 && node.loaded > 1 {
            // All names it had were removed since.
            self.find_again(id);
        }
        let dir = self.node_mut(parent)?.dir_mut().ok_or(Status::NotDir)?;
        dir.children.insert(name.clone(), Child::Node { id, covers: true });
        Ok(id)
    }

    /// All names the directory shows, merged.
    pub(crate) fn merged(&mut self, id: NodeId) -> Result<(Vec<ListItem>, Option<Revealed>)> {
        let node = self.node(id)?;
        let dir = node.dir().ok_or(Status::NotDir)?;
        let mut items = Vec::new();
        let mut revealed = None;
        let mut stands = HashSet::new();
        if let (Some(handle), Some(lower)) = (&dir.handle, &node.lower) {
            let mut names = Vec::new();
            for entry in self.view.backing.list(handle)? {
                if self.is_hidden(&join(&lower.path, entry.name.as_bytes())) {
                    continue;
                }
                names.push((entry.name.as_bytes().to_vec(), entry.kind));
                if node.zone != Zone::Task {
                    stands.insert(entry.name.clone());
                }
                if !dir.children.contains_key(&entry.name) {
                    items.push(ListItem { name: entry.name.as_bytes().to_vec(), kind: entry.kind, ino: entry.ino });
                }
            }
            revealed = node.zone.is_observed().then(|| Revealed { path: lower.path.to_vec(), names });
        }
        for (name, child) in &dir.children {
            let Child::Node { id, covers } = child else { continue };
            // Outside the workspace others may have removed it since it was looked at.
            let gone = *covers && node.zone != Zone::Task && !stands.contains(name);
            if let (false, Some(node)) = (gone, self.state.table.get(*id)) {
                items.push(ListItem { name: name.as_bytes().to_vec(), kind: node.kind, ino: id.0 });
            }
        }
        Ok((items, revealed))
    }
}

/// Shared handles of open files.
pub(crate) type OpenFile<B> = Arc<<B as Backing>::File>;

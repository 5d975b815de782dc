//! A real tree and, over one directory of it, a layer: together one tree, whose virtual part becomes real as soon as anybody changes it.
//!
//! Rules:
//! - What is real wins: an entry of the layer shows only where the real directory has nothing of that name. Where both have a
//!   directory, it shows the names of both.
//! - An entry below which nothing leads shows nothing: on the way to it there are directories of the layer, at their start a real one.
//! - There are no whiteouts. What is removed goes for real; what the layer has beneath a real thing goes before it, so that nothing
//!   comes back ([`crate::backing::Backing::remove_file`]).
//! - An entry is made real before it changes (`real`): its bytes are put in place whole under its name, then it leaves the layer. A
//!   process that dies in between leaves both, and real wins. Blobs are only ever opened for reading.
//! - A virtual directory that is made real stays in the layer as well, merged with it, and goes when it is removed.
//!
//! A step of the layer is logged before it takes effect in memory: see [`Shelf::log`].
//!
//! Locks, in this order: `Mount::changes`, held by whoever changes names in the mounted tree, also while bytes are copied to make an entry
//! real; `Mount::layer`, held for single questions and for one logging with its change, never while the real tree is asked or bytes
//! move. Questions take only the second. Calls of the real tree and of the shelf may come under the first.
//!
//! A directory's handle goes by its path: who renames a directory takes new handles of what is in it.

mod backing;
mod names;
mod real;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wink_store::{Digest, Pack, Step};

use crate::attr::{Attr, Kind, SetAttr, Time};
use crate::backing::{Backing, Result};
use crate::layer::{Layer, Virtual, above};
use crate::name::Name;
use crate::status::Status;
use crate::sync::{Mutex, RwLock};

/// What a layer needs of the store.
pub trait Shelf<F>: Send + Sync + 'static {
    /// A pack; [`Status::Io`] when it is gone or damaged.
    fn pack(&self, digest: &Digest) -> Result<Arc<Pack>>;
    /// A blob of `size` bytes, opened for reading.
    fn blob(&self, digest: &Digest, size: u64) -> Result<F>;
    /// Writes steps to the layer's log, all or none; [`Status::ReadOnly`] where the layer is only read.
    fn log(&self, steps: &[Step]) -> Result<()>;
}

/// The size that a virtual directory shows.
const DIR_BYTES: u64 = 4096;
/// The link count of a directory that has virtual names: not to be taken for a number of subdirectories. That of a file is the same.
const DIR_LINKS: u32 = 1;

/// See the module.
pub struct Layered<B: Backing> {
    real: B,
    mount: Option<Mount<B>>,
}

/// The directory with a layer.
struct Mount<B: Backing> {
    /// Its names from the root of the real tree.
    at: Vec<Name>,
    lower: B::Dir,
    /// Where in the mount the tree starts, if the mount's root is that of the real tree.
    start: Box<[u8]>,
    shelf: Arc<dyn Shelf<B::File>>,
    /// Whom virtual entries belong to.
    owner: (u32, u32),
    changes: Mutex<()>,
    layer: RwLock<Layer>,
    /// How often the layer changed. Who asks the real tree first and the layer then must ask again if it changed in between: what became
    /// real at that moment is in neither answer.
    turns: AtomicU64,
}

/// A directory of a layered tree: by its real handle, whether or not anything real is there.
#[derive(Clone)]
pub struct LayeredDir<D>(Arc<Place<D>>);

struct Place<D> {
    real: D,
    position: Position,
}

/// Where a directory is, seen from the mount.
#[derive(Clone)]
enum Position {
    /// Above it; how many of its names lead here.
    Above(usize),
    /// In it, at that path from its root.
    Inside(Box<[u8]>),
    Elsewhere,
}

impl<D> LayeredDir<D> {
    fn new(real: D, position: Position) -> LayeredDir<D> {
        LayeredDir(Arc::new(Place { real, position }))
    }

    fn real(&self) -> &D {
        &self.0.real
    }

    /// Its path from the mount's root, if it is in the mount.
    fn path(&self) -> Option<&[u8]> {
        match &self.0.position {
            Position::Inside(path) => Some(path),
            _ => None,
        }
    }
}

/// What stands under a name.
enum Found {
    Real(Attr),
    Virtual(Virtual),
    Nothing,
}

impl Found {
    fn kind(&self) -> Option<Kind> {
        match self {
            Found::Real(attr) => Some(attr.kind),
            Found::Virtual(entry) => entry.kind(),
            Found::Nothing => None,
        }
    }
}

/// The last name of a path.
fn last(path: &[u8]) -> Result<Name> {
    Name::new(path.rsplit(|&byte| byte == b'/').next().unwrap_or_default())
}

impl<B: Backing> Mount<B> {
    fn has(&self, path: &[u8]) -> bool {
        self.layer.read().get(path).is_some()
    }

    fn attr(&self, entry: &Virtual) -> Attr {
        let (kind, size, mode, mtime, ino) = match entry {
            Virtual::File { size, mode, mtime, ino, .. } => (Kind::File, *size, *mode, *mtime, *ino),
            Virtual::Link { target, mtime, ino } => (Kind::Link, target.len() as u64, 0o777, *mtime, *ino),
            Virtual::Dir { mode, mtime, ino } => (Kind::Dir, DIR_BYTES, *mode, *mtime, *ino),
            Virtual::Way => (Kind::Dir, 0, 0, Time::default(), 0),
        };
        let (uid, gid) = self.owner;
        let blocks = if kind == Kind::File { size.div_ceil(512) } else { 0 };
        let (atime, ctime) = (mtime, mtime);
        Attr { kind, dev: 0, ino, size, blocks, mode, nlink: DIR_LINKS, uid, gid, rdev: 0, atime, mtime, ctime }
    }

    /// Logs steps that attach nothing, and does them.
    fn change(&self, steps: &[Step]) -> Result<()> {
        let mut layer = self.layer.write();
        self.shelf.log(steps)?;
        self.turns.fetch_add(1, Ordering::Relaxed);
        steps.iter().try_for_each(|step| layer.apply(step, &|_| Err(Status::Io)))
    }

    fn remove(&self, path: &[u8]) -> Result<()> {
        self.change(&[Step::Remove { path: path.to_vec() }])
    }
}

impl<B: Backing> Layered<B> {
    /// No layer: all is as in `real`.
    pub fn plain(real: B) -> Layered<B> {
        Layered { real, mount: None }
    }

    /// The tree of `real` with the directory `at` (names from its root; none: the root itself) replaced by the directory `lower` and what
    /// `layer` shows over it. Virtual entries belong to `owner` (user, group).
    pub fn new(
        real: B,
        at: Vec<Name>,
        lower: B::Dir,
        layer: Layer,
        shelf: Arc<dyn Shelf<B::File>>,
        owner: (u32, u32),
    ) -> Layered<B> {
        let (changes, layer, turns) = (Mutex::default(), RwLock::new(layer), AtomicU64::new(0));
        Layered { real, mount: Some(Mount { at, lower, start: Box::default(), shelf, owner, changes, layer, turns }) }
    }

    /// The directory at a path from the mount's root is the root of the tree; for a mount that is one itself.
    #[must_use]
    pub fn starting_at(mut self, path: &[u8]) -> Layered<B> {
        if let Some(mount) = &mut self.mount {
            mount.start = path.into();
        }
        self
    }

    /// The real tree.
    pub fn real(&self) -> &B {
        &self.real
    }

    /// Digest of the file `name` in `dir` if it is virtual.
    pub fn origin(&self, dir: &LayeredDir<B::Dir>, name: &Name) -> Result<Option<Digest>> {
        match self.find(dir, name)? {
            Found::Virtual(Virtual::File { digest, .. }) => Ok(Some(digest)),
            _ => Ok(None),
        }
    }

    /// The directory at a path from the mount's root (without a layer: from the root), whatever is there; fails if its names can be nowhere.
    pub fn dir_at(&self, path: &[u8]) -> Result<LayeredDir<B::Dir>> {
        let top = match &self.mount {
            Some(mount) => LayeredDir::new(mount.lower.clone(), Position::Inside(Box::default())),
            None => self.root(),
        };
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(top, |dir, name| Ok(self.child(&dir, &Name::new(name)?)))
    }

    /// Logs steps and does them: all, or none if a pack is not to be had ([`Status::Io`]) or they cannot be logged. What is real stays
    /// as it is and wins: whoever wants to see what appears removes it first ([`Layered::remove_at`]).
    pub fn apply(&self, steps: &[Step]) -> Result<()> {
        let mount = self.mount.as_ref().ok_or(Status::Unsupported)?;
        let mut packs = HashMap::new();
        for step in steps {
            if let Step::Attach { pack, .. } = step {
                packs.insert(*pack, mount.shelf.pack(pack)?);
            }
        }
        let _changes = mount.changes.lock();
        {
            let mut layer = mount.layer.write();
            mount.shelf.log(steps)?;
            mount.turns.fetch_add(1, Ordering::Relaxed);
            for step in steps {
                layer.apply(step, &|digest| packs.get(digest).cloned().ok_or(Status::Io))?;
            }
        }
        for step in steps {
            match step {
                Step::Attach { at, .. } => self.touched(mount, at),
                Step::Put { path, .. } | Step::Remove { path } => self.touched(mount, above(path)),
                Step::Move { from, to } => [from, to].iter().for_each(|path| self.touched(mount, above(path))),
            }
        }
        Ok(())
    }

    /// Whether the layer has anything at a path from the mount's root, be it only a way or out of sight.
    pub fn has_layer_at(&self, path: &[u8]) -> bool {
        self.mount.as_ref().is_some_and(|mount| mount.has(path))
    }

    /// Whether the layer has anything below a path from the mount's root.
    pub fn has_layer_below(&self, path: &[u8]) -> bool {
        self.mount.as_ref().is_some_and(|mount| mount.layer.read().has_below(path))
    }

    /// Whether the layer shows nothing.
    pub fn is_empty(&self) -> bool {
        self.mount.as_ref().is_none_or(|mount| mount.layer.read().is_empty())
    }

    /// The layer's files with their blobs and sizes, by their paths from the mount's root; also those that something real hides.
    pub fn files(&self) -> Vec<(Vec<u8>, Digest, u64)> {
        self.mount.as_ref().map(|mount| mount.layer.read().files()).unwrap_or_default()
    }

    /// How many files the layer has, and how many bytes they hold.
    pub fn count(&self) -> (u64, u64) {
        self.mount.as_ref().map_or((0, 0), |mount| mount.layer.read().count())
    }

    /// The shortest list of steps that makes the layer as it is now. Runs `write` with it while nothing is logged, so that it can
    /// take the log's place.
    pub fn compact<T>(&self, write: impl FnOnce(&[Step]) -> T) -> T {
        match &self.mount {
            Some(mount) => {
                let _changes = mount.changes.lock();
                let steps = mount.layer.read().steps();
                write(&steps)
            }
            None => write(&[]),
        }
    }

    /// Whether `name` in `dir` is the mount's root.
    fn is_top(&self, dir: &LayeredDir<B::Dir>, name: &Name) -> bool {
        match (&self.mount, &dir.0.position) {
            (Some(mount), Position::Above(known)) => mount.at.len() == known + 1 && mount.at[*known] == *name,
            _ => false,
        }
    }

    /// Where the real tree is to be asked about `name` in `dir`, or `dir` itself: about the mount's root by its own handle.
    fn beneath<'a>(&'a self, dir: &'a LayeredDir<B::Dir>, name: Option<&'a Name>) -> (&'a B::Dir, Option<&'a Name>) {
        match (&self.mount, name) {
            (Some(mount), Some(name)) if self.is_top(dir, name) => (&mount.lower, None),
            _ => (dir.real(), name),
        }
    }

    /// The mount, and the path of `name` in `dir` (or of `dir` itself) in it.
    fn inside(&self, dir: &LayeredDir<B::Dir>, name: Option<&Name>) -> Option<(&Mount<B>, Vec<u8>)> {
        let (mount, path) = (self.mount.as_ref()?, dir.path()?);
        let path = match name {
            Some(name) if path.is_empty() => name.as_bytes().to_vec(),
            Some(name) => [path, name.as_bytes()].join(b"/".as_slice()),
            None => path.to_vec(),
        };
        Some((mount, path))
    }

    /// What the layer shows at `path`, where nothing real is.
    fn shown(&self, mount: &Mount<B>, path: &[u8]) -> Result<Option<Virtual>> {
        let (entry, ground) = {
            let layer = mount.layer.read();
            match layer.get(path) {
                None | Some(Virtual::Way) => return Ok(None),
                Some(entry) => (entry, layer.ground(above(path))),
            }
        };
        // A real thing that is no directory on the way would have been found instead of nothing.
        if ground > 0 {
            match self.real.dir_attr(self.dir_at(&path[..ground])?.real()) {
                Ok(_) => {}
                Err(Status::NotFound | Status::NotDir) => return Ok(None),
                Err(status) => return Err(status),
            }
        }
        Ok(Some(entry))
    }

    /// What the real tree answers to `ask`; where it has nothing of that name, what `answer` says of what the layer shows.
    fn or_virtual<T>(
        &self,
        dir: &LayeredDir<B::Dir>,
        name: Option<&Name>,
        ask: impl Fn() -> Result<T>,
        answer: impl FnOnce(&Mount<B>, Virtual) -> Result<T>,
    ) -> Result<T> {
        loop {
            let turn = self.turn();
            let real = ask();
            let (Err(Status::NotFound), Some((mount, path))) = (&real, self.inside(dir, name)) else { return real };
            match self.shown(mount, &path)? {
                Some(entry) if name.is_none() && entry.kind() != Some(Kind::Dir) => return Err(Status::NotDir),
                Some(entry) => return answer(mount, entry),
                None if turn == self.turn() => return real,
                None => {}
            }
        }
    }

    /// How often the layer has changed so far.
    fn turn(&self) -> u64 {
        self.mount.as_ref().map_or(0, |mount| mount.turns.load(Ordering::Relaxed))
    }

    fn find(&self, dir: &LayeredDir<B::Dir>, name: &Name) -> Result<Found> {
        let ask = || match self.beneath(dir, Some(name)) {
            (dir, Some(name)) => self.real.attr(dir, name).map(Found::Real),
            (dir, None) => self.real.dir_attr(dir).map(Found::Real),
        };
        match self.or_virtual(dir, Some(name), ask, |_, entry| Ok(Found::Virtual(entry))) {
            Err(Status::NotFound) => Ok(Found::Nothing),
            found => found,
        }
    }

    /// Says that virtual names of a directory changed, as the file system would have done: its time changes, also where it is real.
    fn touched(&self, mount: &Mount<B>, path: &[u8]) {
        let now = Time::now();
        mount.layer.write().touch(path, now);
        if let Ok(dir) = self.dir_at(path) {
            // Somebody else's directory keeps its time; there is none where it is virtual.
            let _ = self.real.set_dir_attr(dir.real(), &SetAttr { mtime: Some(now), ..SetAttr::default() });
        }
    }
}

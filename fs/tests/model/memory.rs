//! A tree in memory that answers as a real one does, and fails on purpose.
//!
//! A directory handle here keeps nothing open: it is found again by its names at every use, and is stale once another directory stands
//! there. That is the worst a real backing may do (see `wink-platform`, `backing`), so a view that works here relies on nothing more.
//! Nothing is ever freed: open files keep their bytes by the inode's number.

#[path = "memory/file.rs"]
mod file;
#[path = "memory/paths.rs"]
mod paths;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use wink_fs::attr::{Attr, Kind, SetAttr, Time};
use wink_fs::backing::{Access, Backing, DirEntry, Placing, RenameMode, Result, Space, StagedId, Want, XattrMode};
use wink_fs::name::Name;
use wink_fs::status::Status;

use super::Mutex;

/// The inode number of the top. Not 1, which is the number of every view's top.
const ROOT: u64 = 2;
/// The device all lies on.
const DEVICE: u64 = 7;
/// The first tick of the clock: far in the past, so that a time taken from the real clock stands out.
const EPOCH: i64 = 1_100_000_000_000_000_000;
/// How far the clock moves with each change.
const TICK: i64 = 1_000_000;
/// Owner of everything.
pub const OWNER: (u32, u32) = (1000, 1000);

#[derive(Clone, Debug)]
struct Inode {
    attr: Attr,
    bytes: Vec<u8>,
    names: BTreeMap<Name, u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Default)]
struct Tree {
    inodes: HashMap<u64, Inode>,
    staged: BTreeMap<u64, u64>,
    next: u64,
    ticks: i64,
    /// The clock stands still.
    stopped: bool,
    /// Calls until the fault, and what it says.
    fault: Option<(u64, Status)>,
    /// Whether it stays so.
    lasting: bool,
    faulted: bool,
}

/// See the module. Clones share the tree.
#[derive(Clone)]
pub struct Memory {
    tree: Arc<Mutex<Tree>>,
    root: MemoryDir,
}

/// A directory by its names from the top.
#[derive(Clone)]
pub struct MemoryDir(Arc<Handle>);

struct Handle {
    above: Option<(MemoryDir, Name)>,
    /// What it was when first used.
    identity: OnceLock<u64>,
}

/// An open file.
pub struct MemoryFile {
    tree: Arc<Mutex<Tree>>,
    ino: u64,
    writable: bool,
}

/// What stands at a path, as far as programs care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub kind: Kind,
    /// 0 for links, whose mode nobody can change.
    pub mode: u32,
    /// Bytes of a file, target of a link.
    pub bytes: Vec<u8>,
}

/// A whole tree by absolute path, the top left out.
pub type Snapshot = BTreeMap<String, Shown>;

impl Tree {
    fn enter(&mut self) -> Result<()> {
        match &mut self.fault {
            Some((0, status)) => {
                let status = *status;
                if !self.lasting {
                    self.fault = None;
                }
                self.faulted = true;
                Err(status)
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn now(&mut self) -> Time {
        self.ticks += i64::from(!self.stopped);
        Time(EPOCH + self.ticks * TICK)
    }

    fn inode(&self, ino: u64) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Status::Stale)
    }

    fn inode_mut(&mut self, ino: u64) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(Status::Stale)
    }

    fn dir(&self, dir: &MemoryDir) -> Result<u64> {
        let ino = match &dir.0.above {
            None => ROOT,
            Some((above, name)) => {
                let above = self.dir(above)?;
                self.find(above, name)?
            }
        };
        if self.inode(ino)?.attr.kind != Kind::Dir {
            return Err(Status::NotDir);
        }
        if *dir.0.identity.get_or_init(|| ino) != ino {
            return Err(Status::Stale);
        }
        Ok(ino)
    }

    fn find(&self, dir: u64, name: &Name) -> Result<u64> {
        self.inode(dir)?.names.get(name).copied().ok_or(Status::NotFound)
    }

    fn free(&self, dir: u64, name: &Name) -> Result<()> {
        if self.inode(dir)?.names.contains_key(name) { Err(Status::Exists) } else { Ok(()) }
    }

    fn make(&mut self, kind: Kind, mode: u32) -> u64 {
        let now = self.now();
        self.next += 1;
        let ino = self.next + ROOT;
        let attr = Attr {
            kind,
            dev: DEVICE,
            ino,
            size: 0,
            blocks: 0,
            mode,
            nlink: 0,
            uid: OWNER.0,
            gid: OWNER.1,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
        };
        self.inodes.insert(ino, Inode { attr, bytes: Vec::new(), names: BTreeMap::new(), xattrs: BTreeMap::new() });
        ino
    }

    fn put(&mut self, dir: u64, name: &Name, ino: u64) -> Result<()> {
        let now = self.now();
        let above = self.inode_mut(dir)?;
        above.names.insert(name.clone(), ino);
        (above.attr.mtime, above.attr.ctime) = (now, now);
        let inode = self.inode_mut(ino)?;
        inode.attr.nlink += 1;
        inode.attr.ctime = now;
        Ok(())
    }

    fn take(&mut self, dir: u64, name: &Name) -> Result<u64> {
        let now = self.now();
        let above = self.inode_mut(dir)?;
        let ino = above.names.remove(name).ok_or(Status::NotFound)?;
        (above.attr.mtime, above.attr.ctime) = (now, now);
        let inode = self.inode_mut(ino)?;
        inode.attr.nlink -= 1;
        inode.attr.ctime = now;
        Ok(ino)
    }

    fn wrote(&mut self, ino: u64) -> Result<()> {
        let now = self.now();
        let inode = self.inode_mut(ino)?;
        inode.attr.size = inode.bytes.len() as u64;
        inode.attr.blocks = inode.attr.size.div_ceil(512);
        (inode.attr.mtime, inode.attr.ctime) = (now, now);
        Ok(())
    }

    fn change(&mut self, ino: u64, change: &SetAttr) -> Result<()> {
        let now = self.now();
        let attr = &mut self.inode_mut(ino)?.attr;
        attr.mode = change.mode.unwrap_or(attr.mode);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.atime = change.atime.unwrap_or(attr.atime);
        attr.mtime = change.mtime.unwrap_or(attr.mtime);
        attr.ctime = now;
        Ok(())
    }

    /// The inode of `name` in `dir`, or of `dir` itself.
    fn named(&self, dir: &MemoryDir, name: Option<&Name>) -> Result<u64> {
        let dir = self.dir(dir)?;
        name.map_or(Ok(dir), |name| self.find(dir, name))
    }

    fn is_within(&self, dir: u64, top: u64) -> bool {
        dir == top
            || self.inodes.get(&top).is_some_and(|inode| {
                inode.names.values().any(|&below| {
                    self.inodes.get(&below).is_some_and(|inode| inode.attr.kind == Kind::Dir)
                        && self.is_within(dir, below)
                })
            })
    }
}

impl Memory {
    /// An empty tree.
    pub fn new() -> Memory {
        let mut tree = Tree::default();
        let ino = tree.make(Kind::Dir, 0o755);
        if let Some(mut top) = tree.inodes.remove(&ino) {
            top.attr.ino = ROOT;
            tree.inodes.insert(ROOT, top);
        }
        tree.next = 0;
        let root = MemoryDir(Arc::new(Handle { above: None, identity: OnceLock::new() }));
        Memory { tree: Arc::new(Mutex::new(tree)), root }
    }

    /// Stamps everything from now on with one time, as a file system does within one tick of its clock.
    pub fn stop_clock(&self) {
        self.tree.lock().stopped = true;
    }

    /// The `nth` call from now on (0: the next) fails.
    pub fn fail(&self, nth: u64, status: Status) {
        let mut tree = self.tree.lock();
        (tree.fault, tree.faulted, tree.lasting) = (Some((nth, status)), false, false);
    }

    /// The same, and all calls after it.
    pub fn fail_from(&self, nth: u64, status: Status) {
        self.fail(nth, status);
        self.tree.lock().lasting = true;
    }

    /// No call fails from now on. Returns whether one did.
    pub fn heal(&self) -> bool {
        let mut tree = self.tree.lock();
        tree.fault = None;
        tree.faulted
    }

    fn opened(&self, ino: u64, writable: bool) -> MemoryFile {
        MemoryFile { tree: self.tree.clone(), ino, writable }
    }
}

impl Backing for Memory {
    type Dir = MemoryDir;
    type File = MemoryFile;

    fn root(&self) -> MemoryDir {
        self.root.clone()
    }

    fn child(&self, dir: &MemoryDir, name: &Name) -> MemoryDir {
        MemoryDir(Arc::new(Handle { above: Some((dir.clone(), name.clone())), identity: OnceLock::new() }))
    }

    fn dir_attr(&self, dir: &MemoryDir) -> Result<Attr> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let ino = tree.dir(dir)?;
        Ok(tree.inode(ino)?.attr)
    }

    fn attr(&self, dir: &MemoryDir, name: &Name) -> Result<Attr> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        Ok(tree.inode(tree.find(dir, name)?)?.attr)
    }

    fn list(&self, dir: &MemoryDir) -> Result<Vec<DirEntry>> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        let names = tree.inode(dir)?.names.clone();
        // Backwards: a listing is in no order.
        names
            .into_iter()
            .rev()
            .map(|(name, ino)| Ok(DirEntry { name, kind: tree.inode(ino)?.attr.kind, ino }))
            .collect()
    }

    fn read_link(&self, dir: &MemoryDir, name: &Name) -> Result<Vec<u8>> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        let inode = tree.inode(tree.find(dir, name)?)?;
        if inode.attr.kind == Kind::Link { Ok(inode.bytes.clone()) } else { Err(Status::Invalid) }
    }

    fn open(&self, dir: &MemoryDir, name: &Name, access: Access) -> Result<MemoryFile> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        let ino = tree.find(dir, name)?;
        match tree.inode(ino)?.attr.kind {
            Kind::File => Ok(self.opened(ino, access == Access::ReadWrite)),
            Kind::Dir => Err(Status::IsDir),
            Kind::Link => Err(Status::Loop),
            _ => Err(Status::NoData),
        }
    }

    fn permits(&self, dir: &MemoryDir, name: Option<&Name>, want: Want) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        let ino = name.map_or(Ok(dir), |name| tree.find(dir, name))?;
        let mode = tree.inode(ino)?.attr.mode >> 6;
        let refused = want.read && mode & 4 == 0 || want.write && mode & 2 == 0 || want.execute && mode & 1 == 0;
        if refused { Err(Status::Access) } else { Ok(()) }
    }

    fn space(&self, _dir: &MemoryDir) -> Result<Space> {
        Ok(Space::default())
    }

    fn create(&self, dir: &MemoryDir, name: &Name, mode: u32) -> Result<MemoryFile> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        tree.free(dir, name)?;
        let ino = tree.make(Kind::File, mode);
        tree.put(dir, name, ino)?;
        Ok(self.opened(ino, true))
    }

    fn make_dir(&self, dir: &MemoryDir, name: &Name, mode: u32) -> Result<()> {
        self.make_node(dir, name, Kind::Dir, mode, 0)
    }

    fn make_link(&self, dir: &MemoryDir, name: &Name, target: &[u8]) -> Result<()> {
        self.make_node(dir, name, Kind::Link, 0o777, 0)?;
        let mut tree = self.tree.lock();
        let dir = tree.dir(dir)?;
        let ino = tree.find(dir, name)?;
        let inode = tree.inode_mut(ino)?;
        inode.bytes = target.to_vec();
        inode.attr.size = target.len() as u64;
        Ok(())
    }

    fn make_node(&self, dir: &MemoryDir, name: &Name, kind: Kind, mode: u32, rdev: u64) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        tree.free(dir, name)?;
        let ino = tree.make(kind, mode);
        tree.inode_mut(ino)?.attr.rdev = rdev;
        tree.put(dir, name, ino)
    }

    fn hard_link(&self, dir: &MemoryDir, name: &Name, to_dir: &MemoryDir, to_name: &Name) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let (dir, to_dir) = (tree.dir(dir)?, tree.dir(to_dir)?);
        let ino = tree.find(dir, name)?;
        tree.free(to_dir, to_name)?;
        if tree.inode(ino)?.attr.kind == Kind::Dir {
            return Err(Status::NotPermitted);
        }
        tree.put(to_dir, to_name, ino)
    }

    fn remove_file(&self, dir: &MemoryDir, name: &Name) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        let ino = tree.find(dir, name)?;
        if tree.inode(ino)?.attr.kind == Kind::Dir {
            return Err(Status::IsDir);
        }
        tree.take(dir, name).map(drop)
    }

    fn remove_dir(&self, dir: &MemoryDir, name: &Name) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        let ino = tree.find(dir, name)?;
        let inode = tree.inode(ino)?;
        if inode.attr.kind != Kind::Dir {
            return Err(Status::NotDir);
        }
        if !inode.names.is_empty() {
            return Err(Status::NotEmpty);
        }
        tree.take(dir, name).map(drop)
    }

    fn rename(&self, dir: &MemoryDir, name: &Name, to_dir: &MemoryDir, to_name: &Name, mode: RenameMode) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let (dir, to_dir) = (tree.dir(dir)?, tree.dir(to_dir)?);
        let moved = tree.find(dir, name)?;
        let other = tree.inode(to_dir)?.names.get(to_name).copied();
        match (mode, other) {
            (RenameMode::NoReplace, Some(_)) => return Err(Status::Exists),
            (RenameMode::Exchange, None) => return Err(Status::NotFound),
            _ => {}
        }
        if tree.is_within(to_dir, moved) {
            return Err(Status::Invalid);
        }
        if let Some(other) = other {
            if tree.inode(other)?.attr.kind == Kind::Dir && tree.is_within(dir, other) {
                return Err(if mode == RenameMode::Exchange { Status::Invalid } else { Status::NotEmpty });
            }
            if other == moved {
                return Ok(());
            }
            if mode == RenameMode::Exchange {
                tree.take(dir, name)?;
                tree.take(to_dir, to_name)?;
                tree.put(dir, name, other)?;
                return tree.put(to_dir, to_name, moved);
            }
            let (moved, other) = (tree.inode(moved)?, tree.inode(other)?);
            match (moved.attr.kind == Kind::Dir, other.attr.kind == Kind::Dir) {
                (true, false) => return Err(Status::NotDir),
                (false, true) => return Err(Status::IsDir),
                (true, true) if !other.names.is_empty() => return Err(Status::NotEmpty),
                _ => {}
            }
            tree.take(to_dir, to_name)?;
        }
        tree.take(dir, name)?;
        tree.put(to_dir, to_name, moved)
    }

    fn set_attr(&self, dir: &MemoryDir, name: &Name, change: &SetAttr) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        let ino = tree.find(dir, name)?;
        tree.change(ino, change)
    }

    fn set_dir_attr(&self, dir: &MemoryDir, change: &SetAttr) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let ino = tree.dir(dir)?;
        tree.change(ino, change)
    }

    fn place(&self, dir: &MemoryDir, name: &Name, bytes: &MemoryFile, attr: &Placing) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let dir = tree.dir(dir)?;
        if tree.inode(dir)?.attr.mode & 0o200 == 0 {
            // Asked of nothing else here: wink itself does this, not a program whose kernel has checked.
            return Err(Status::Access);
        }
        tree.free(dir, name)?;
        let ino = tree.make(Kind::File, attr.mode);
        tree.inode_mut(ino)?.bytes = tree.inode(bytes.ino)?.bytes.clone();
        tree.wrote(ino)?;
        let (uid, gid) = attr.owner.unwrap_or(OWNER);
        let mtime = Some(attr.mtime);
        tree.change(ino, &SetAttr { uid: Some(uid), gid: Some(gid), mtime, ..SetAttr::default() })?;
        tree.put(dir, name, ino)
    }

    fn sync_dir(&self, dir: &MemoryDir) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        tree.dir(dir).map(drop)
    }

    fn get_xattr(&self, dir: &MemoryDir, name: Option<&Name>, key: &[u8]) -> Result<Vec<u8>> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        tree.inode(tree.named(dir, name)?)?.xattrs.get(key).cloned().ok_or(Status::NoAttribute)
    }

    fn list_xattrs(&self, dir: &MemoryDir, name: Option<&Name>) -> Result<Vec<Vec<u8>>> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        Ok(tree.inode(tree.named(dir, name)?)?.xattrs.keys().cloned().collect())
    }

    fn set_xattr(&self, dir: &MemoryDir, name: Option<&Name>, key: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let ino = tree.named(dir, name)?;
        let xattrs = &mut tree.inode_mut(ino)?.xattrs;
        match (mode, xattrs.contains_key(key)) {
            (XattrMode::Create, true) => return Err(Status::Exists),
            (XattrMode::Replace, false) => return Err(Status::NoAttribute),
            _ => drop(xattrs.insert(key.to_vec(), value.to_vec())),
        }
        Ok(())
    }

    fn remove_xattr(&self, dir: &MemoryDir, name: Option<&Name>, key: &[u8]) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let ino = tree.named(dir, name)?;
        tree.inode_mut(ino)?.xattrs.remove(key).map(drop).ok_or(Status::NoAttribute)
    }

    fn stage(&self) -> Result<(StagedId, MemoryFile)> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let ino = tree.make(Kind::File, 0o600);
        tree.staged.insert(ino, ino);
        Ok((StagedId(ino), self.opened(ino, true)))
    }

    fn stage_elsewhere(&self) -> Result<(StagedId, MemoryFile)> {
        self.stage()
    }

    fn open_staged(&self, id: StagedId) -> Result<MemoryFile> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let ino = *tree.staged.get(&id.0).ok_or(Status::NotFound)?;
        Ok(self.opened(ino, true))
    }

    fn remove_staged(&self, id: StagedId) -> Result<()> {
        // Never fails on purpose: a staged file that cannot be removed goes away with its directory.
        self.tree.lock().staged.remove(&id.0).map(drop).ok_or(Status::NotFound)
    }
}

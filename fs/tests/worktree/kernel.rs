//! A kernel that keeps nothing: every path is looked up name by name, and forgotten afterwards.

use wink_fs::attr::{Attr, Kind, SetAttr};
use wink_fs::backing::{Backing, RenameMode, Result};
use wink_fs::status::Status;
use wink_fs::vfs::{Caller, NodeId, OpenHow, TOP, Vfs};
use wink_fs::worktree::WorkTree;

use crate::memory::OWNER;

/// Who asks.
pub const CALLER: Caller = Caller { uid: OWNER.0, gid: OWNER.1 };

/// For reading and writing.
pub const BOTH: OpenHow = OpenHow { read: true, write: true, truncate: false };
/// For reading.
pub const READ: OpenHow = OpenHow { read: true, write: false, truncate: false };

/// Serves a backing to its owner.
pub fn tree<B: Backing>(backing: B) -> WorkTree<B> {
    WorkTree::new(backing, OWNER, true).expect("the top is there")
}

/// The nodes on the way to a place, referred to until they are forgotten.
struct Way<'t, B: Backing>(&'t WorkTree<B>, Vec<NodeId>);

impl<B: Backing> Drop for Way<'_, B> {
    fn drop(&mut self) {
        for id in &self.1 {
            self.0.forget(*id, 1);
        }
    }
}

impl<B: Backing> Way<'_, B> {
    fn step(&mut self, parent: NodeId, name: &str) -> Result<NodeId> {
        let entry = self.0.lookup(CALLER, parent, name.as_bytes())?.entry.ok_or(Status::NotFound)?;
        self.1.push(entry.id);
        Ok(entry.id)
    }
}

fn parent<'t, 'p, B: Backing>(tree: &'t WorkTree<B>, path: &'p str) -> Result<(Way<'t, B>, NodeId, &'p str)> {
    let mut way = Way(tree, Vec::new());
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at = TOP;
    for part in above.split('/').filter(|part| !part.is_empty()) {
        at = way.step(at, part)?;
        if tree.attr(at)?.attr.kind != Kind::Dir {
            return Err(Status::NotDir);
        }
    }
    Ok((way, at, name))
}

/// Calls `act` with the node at a path.
pub fn at<B: Backing, T>(tree: &WorkTree<B>, path: &str, act: impl FnOnce(NodeId) -> Result<T>) -> Result<T> {
    let (mut way, above, name) = parent(tree, path)?;
    let id = way.step(above, name)?;
    act(id)
}

/// Calls `act` with the directory and name of a path.
pub fn beside<B: Backing, T>(
    tree: &WorkTree<B>,
    path: &str,
    act: impl FnOnce(NodeId, &[u8]) -> Result<T>,
) -> Result<T> {
    let (_way, above, name) = parent(tree, path)?;
    act(above, name.as_bytes())
}

/// `stat(2)`.
pub fn stat<B: Backing>(tree: &WorkTree<B>, path: &str) -> Result<Attr> {
    at(tree, path, |id| Ok(tree.attr(id)?.attr))
}

/// Makes a file and closes it.
pub fn create<B: Backing>(tree: &WorkTree<B>, path: &str, mode: u32) -> Result<()> {
    beside(tree, path, |above, name| {
        let (entry, _) = tree.create(CALLER, above, name, mode, BOTH)?;
        tree.release(entry.id);
        tree.forget(entry.id, 1);
        Ok(())
    })
}

/// Opens, writes at the start, closes.
pub fn write<B: Backing>(tree: &WorkTree<B>, path: &str, bytes: &[u8], truncate: bool) -> Result<()> {
    at(tree, path, |id| {
        tree.open(CALLER, id, OpenHow { truncate, ..BOTH })?;
        let written = tree.write(id, 0, bytes);
        tree.release(id);
        written
    })
}

/// Opens, reads everything, closes.
pub fn read<B: Backing>(tree: &WorkTree<B>, path: &str) -> Result<Vec<u8>> {
    at(tree, path, |id| {
        tree.open(CALLER, id, READ)?;
        let bytes = bytes(tree, id, 1 << 16);
        tree.release(id);
        bytes
    })
}

/// The first bytes of an open file.
pub fn bytes<B: Backing>(tree: &WorkTree<B>, id: NodeId, size: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; size];
    let count = tree.read(id, 0, &mut buffer)?;
    buffer.truncate(count);
    Ok(buffer)
}

/// Opens a file and leaves it open: the kernel keeps its reference too.
pub fn hold<B: Backing>(tree: &WorkTree<B>, path: &str, how: OpenHow) -> Result<NodeId> {
    at(tree, path, |id| {
        tree.open(CALLER, id, how)?;
        Ok(id)
    })
}

/// `chmod(2)`.
pub fn chmod<B: Backing>(tree: &WorkTree<B>, path: &str, mode: u32) -> Result<()> {
    at(tree, path, |id| tree.set_attr(CALLER, id, &SetAttr { mode: Some(mode), ..SetAttr::default() }).map(drop))
}

/// `link(2)`.
pub fn link<B: Backing>(tree: &WorkTree<B>, path: &str, to: &str) -> Result<()> {
    beside(tree, path, |_, _| {
        beside(tree, to, |above, name| {
            at(tree, path, |id| {
                let entry = tree.hard_link(CALLER, id, above, name)?;
                tree.forget(entry.id, 1);
                Ok(())
            })
        })
    })
}

/// `renameat2(2)`.
pub fn rename<B: Backing>(tree: &WorkTree<B>, path: &str, to: &str, mode: RenameMode) -> Result<()> {
    beside(tree, path, |dir, name| {
        beside(tree, to, |to_dir, to_name| tree.rename(CALLER, dir, name, to_dir, to_name, mode))
    })
}

/// `mkdir(2)`.
pub fn mkdir<B: Backing>(tree: &WorkTree<B>, path: &str, mode: u32) -> Result<()> {
    beside(tree, path, |above, name| {
        let entry = tree.make_dir(CALLER, above, name, mode)?;
        tree.forget(entry.id, 1);
        Ok(())
    })
}

/// `symlink(2)`.
pub fn symlink<B: Backing>(tree: &WorkTree<B>, path: &str, target: &[u8]) -> Result<()> {
    beside(tree, path, |above, name| {
        let entry = tree.make_link(CALLER, above, name, target)?;
        tree.forget(entry.id, 1);
        Ok(())
    })
}

/// `unlink(2)`.
pub fn unlink<B: Backing>(tree: &WorkTree<B>, path: &str) -> Result<()> {
    beside(tree, path, |above, name| tree.remove_file(CALLER, above, name))
}

/// `rmdir(2)`.
pub fn rmdir<B: Backing>(tree: &WorkTree<B>, path: &str) -> Result<()> {
    beside(tree, path, |above, name| tree.remove_dir(CALLER, above, name))
}

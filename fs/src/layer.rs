//! The layer of a mounted tree: what it shows besides the real files, in memory.
//!
//! One sorted map from paths to nodes. A directory of an attached pack in which nothing else is and nothing changed is a single
//! node, `Node::Shared`: a pointer into the pack, whatever is below it. A change in it turns it, level by level on the way to the
//! change, into nodes of their own (`change`); looking leaves it as it is.
//!
//! Invariants: nothing is below a `Shared` node, a file or a link; every node is there because a step put it there, ways are not
//! stored (a way is a path that is no entry and has entries below), so a way goes with the last thing below it.
//!
//! Inode numbers are made of where, when and as what an entry first appeared: the same after every replay of the same steps, kept
//! when it moves, in `2^51..2^52` and so apart from what file systems and views number. A directory keeps its number when another
//! appears in its place.
//!
//! A layer knows no clock: replayed, it shows directories with the times they appeared with, whatever was removed from them since;
//! while it is in use its owner says when a directory changed ([`Layer::touch`]).

mod change;
mod compact;
#[cfg(test)]
#[path = "layer_tests.rs"]
mod layer_tests;
mod source;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use wink_store::{Digest, Output};

use crate::attr::{Kind, Time};
use crate::name::Name;
use source::{Source, bounds, join};

/// The lowest inode number; a digest adds less than as much to it.
const NUMBERS: u64 = 1 << 51;

/// What stands at a path of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Virtual {
    /// A regular file.
    File {
        /// The blob with its bytes.
        digest: Digest,
        /// Size in bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
        /// Last change.
        mtime: Time,
        /// Inode number.
        ino: u64,
    },
    /// A symbolic link.
    Link {
        /// Its target.
        target: Arc<[u8]>,
        /// Last change.
        mtime: Time,
        /// Inode number.
        ino: u64,
    },
    /// A directory.
    Dir {
        /// Permission bits.
        mode: u32,
        /// Last change.
        mtime: Time,
        /// Inode number.
        ino: u64,
    },
    /// Only a way to things below: shows nothing by itself (they are seen where a real directory stands here).
    Way,
}

impl Virtual {
    /// What it shows as; `None` for a way.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Virtual::File { .. } => Some(Kind::File),
            Virtual::Link { .. } => Some(Kind::Link),
            Virtual::Dir { .. } => Some(Kind::Dir),
            Virtual::Way => None,
        }
    }

    /// Its inode number; 0 for a way.
    pub fn ino(&self) -> u64 {
        match self {
            Virtual::File { ino, .. } | Virtual::Link { ino, .. } | Virtual::Dir { ino, .. } => *ino,
            Virtual::Way => 0,
        }
    }
}

/// An entry with what a step would say of it.
#[derive(Clone, Debug)]
struct Shown {
    entry: Virtual,
    /// When it appeared; differs from its time where a directory changed since.
    born: Time,
}

impl Shown {
    /// What appears at `path`; `None` for a removal, which no pack holds.
    fn new(path: &[u8], output: &Output, mtime: Time) -> Option<Shown> {
        let what: &[u8] = match output {
            Output::File { digest, .. } => &digest.0,
            Output::Link { target } => target,
            Output::Dir { .. } => b"",
            Output::Removed => return None,
        };
        let digest = Digest::of(&[path, b"\0", &mtime.0.to_le_bytes(), what].concat());
        let low = u64::from_le_bytes(std::array::from_fn(|index| digest.0[index]));
        let ino = NUMBERS + low % NUMBERS;
        let entry = match output {
            Output::File { digest, size, mode } => {
                Virtual::File { digest: *digest, size: *size, mode: *mode, mtime, ino }
            }
            Output::Link { target } => Virtual::Link { target: target.as_slice().into(), mtime, ino },
            Output::Dir { mode } => Virtual::Dir { mode: *mode, mtime, ino },
            Output::Removed => return None,
        };
        Some(Shown { entry, born: mtime })
    }

    /// Whether a step would say the same of both.
    fn is(&self, other: &Shown) -> bool {
        match (&self.entry, &other.entry) {
            (Virtual::Dir { mode: one, .. }, Virtual::Dir { mode: two, .. }) => one == two && self.born == other.born,
            (one, two) => one == two,
        }
    }
}

/// What the map holds.
#[derive(Clone, Debug)]
enum Node {
    /// One entry. A directory: what is below it are nodes of their own.
    Own { shown: Shown, source: Option<Arc<Source>> },
    /// A directory (or a way) with all that the pack has below its directory `dir`.
    Shared { shown: Option<Shown>, source: Arc<Source>, dir: Box<[u8]> },
}

impl Node {
    fn shown(&self) -> Option<&Shown> {
        match self {
            Node::Own { shown, .. } => Some(shown),
            Node::Shared { shown, .. } => shown.as_ref(),
        }
    }

    fn is_dir(&self) -> bool {
        match self {
            Node::Own { shown, .. } => shown.entry.kind() == Some(Kind::Dir),
            Node::Shared { .. } => true,
        }
    }
}

/// See the module. All paths are relative to the mount's root, names joined by `/`; the empty one is the root.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// How many packs were attached.
    attached: u64,
}

/// `path` and the directories above it, the deepest first, without the root's empty path unless it is `path`.
fn upward(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| path.iter().rposition(|&byte| byte == b'/').map(|slash| &path[..slash]))
}

/// The directory above; that of the root is the root.
pub(crate) fn above(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(b"", |slash| &path[..slash])
}

/// Whether `path` is `top` or below it.
pub(crate) fn is_within(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b'/'))
}

impl Layer {
    /// An empty one.
    pub fn new() -> Layer {
        Layer::default()
    }

    /// Whether it shows nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes below `path`.
    fn range(&self, path: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Node)> {
        let (first, end) = bounds(path);
        self.nodes.range((Bound::Included(first), end.map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// The pointer that stands for `path` (at it or above it), and where in its pack that is.
    fn pointer(&self, path: &[u8]) -> Option<(&Vec<u8>, &Arc<Source>, Vec<u8>)> {
        let root: &[u8] = b"";
        let (at, node) = upward(path).chain([root]).find_map(|at| self.nodes.get_key_value(at))?;
        let Node::Shared { source, dir, .. } = node else { return None };
        let rest = path.get(at.len()..)?;
        Some((at, source, join(dir, rest.strip_prefix(b"/").unwrap_or(rest))))
    }

    fn shown(&self, path: &[u8]) -> Option<Shown> {
        if let Some(node) = self.nodes.get(path) {
            return node.shown().cloned();
        }
        let (_, source, inside) = self.pointer(path)?;
        source.shown(source.entry(&inside)?)
    }

    /// Whether anything is below `path`.
    pub(crate) fn has_below(&self, path: &[u8]) -> bool {
        self.range(path).next().is_some()
            || self.pointer(path).is_some_and(|(_, source, inside)| !source.run(&inside).is_empty())
    }

    /// What stands at `path`.
    pub fn get(&self, path: &[u8]) -> Option<Virtual> {
        match self.shown(path) {
            Some(shown) => Some(shown.entry),
            None => self.has_below(path).then_some(Virtual::Way),
        }
    }

    /// The names directly below `path` with their kinds and inode numbers. Ways are left out: they show nothing.
    pub fn list(&self, path: &[u8]) -> Vec<(Name, Kind, u64)> {
        let mut names = Vec::new();
        let mut add = |name: &[u8], entry: &Virtual| {
            // A name that no file system can hold is nowhere to be seen.
            if let (Some(kind), Ok(name)) = (entry.kind(), Name::new(name)) {
                names.push((name, kind, entry.ino()));
            }
        };
        if let Some((_, source, inside)) = self.pointer(path) {
            for below in source.below(&inside) {
                if let Some(shown) = below.entry.and_then(|entry| source.shown(entry)) {
                    add(below.name, &shown.entry);
                }
            }
            return names;
        }
        let start = if path.is_empty() { 0 } else { path.len() + 1 };
        let (mut from, end) = bounds(path);
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        while let Some((at, node)) = self.nodes.range((Bound::Included(from), end.clone())).next() {
            let rest = &at[start..];
            from = match rest.iter().position(|&byte| byte == b'/') {
                None => {
                    if let Some(shown) = node.shown() {
                        add(rest, &shown.entry);
                    }
                    [at.as_slice(), b"\0"].concat()
                }
                // All that is below a directory, or way, is skipped at once.
                Some(slash) => [&at[..start + slash], b"0"].concat(),
            };
        }
        names
    }

    /// All that stands at and below `path`, a directory before what it holds; ways left out.
    pub fn walk(&self, path: &[u8]) -> Vec<(Vec<u8>, Virtual)> {
        let mut all = Vec::new();
        all.extend(self.shown(path).map(|shown| (path.to_vec(), shown.entry)));
        if let Some((_, source, inside)) = self.pointer(path) {
            all.extend(source.walk(path, &inside));
        }
        for (at, node) in self.range(path) {
            all.extend(node.shown().map(|shown| (at.clone(), shown.entry.clone())));
            if let Node::Shared { source, dir, .. } = node {
                all.extend(source.walk(at, dir));
            }
        }
        all
    }

    /// Its files with their blobs and sizes.
    pub fn files(&self) -> Vec<(Vec<u8>, Digest, u64)> {
        let file = |(path, entry)| match entry {
            Virtual::File { digest, size, .. } => Some((path, digest, size)),
            _ => None,
        };
        self.walk(b"").into_iter().filter_map(file).collect()
    }

    /// How many files it shows, and how many bytes they have.
    pub fn count(&self) -> (u64, u64) {
        self.walk(b"").iter().fold((0, 0), |(files, bytes), (_, entry)| match entry {
            Virtual::File { size, .. } => (files + 1, bytes.saturating_add(*size)),
            _ => (files, bytes),
        })
    }

    /// How many bytes of `path` lead to the deepest place, at it or above it, that shows only where a real directory stands: a way or the
    /// root. All from there down to `path` are directories of the layer.
    pub(crate) fn ground(&self, path: &[u8]) -> usize {
        let own = |path: &[u8]| match self.nodes.get(path) {
            Some(node) => node.is_dir() && node.shown().is_some(),
            None => self.pointer(path).is_some_and(|(_, source, inside)| {
                source.entry(&inside).is_some_and(|entry| matches!(entry.output, Output::Dir { .. }))
            }),
        };
        upward(path).find(|path| !own(path)).map_or(0, <[u8]>::len)
    }
}

//! What a run left behind: the delta of the workspace, a Merkle tree of directories.
//!
//! In memory a [`Manifest`] is the flat sorted list; stored, each directory is one node named by its digest, so that equal
//! subtrees of different records are stored once and can be compared by one digest.

mod output;
mod tree;

use crate::digest::Digest;

pub use output::DEPTH_MAX;
pub(crate) use output::{check_list, check_path};
pub use tree::Tree;
pub(crate) use tree::node_refs;

/// What is at one path after the run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Output {
    /// A regular file.
    File {
        /// The blob with its bytes.
        digest: Digest,
        /// Size in bytes.
        size: u64,
        /// Permission bits (`0o7777`).
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Its target, as the task wrote it.
        target: Vec<u8>,
    },
    /// A directory that the task made.
    Dir {
        /// Permission bits (`0o7777`).
        mode: u32,
    },
    /// Something that was there before and which the task removed.
    Removed,
}

/// One path of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Relative to the workspace: names joined by `/` (see [`crate::path::is_relative`]), never empty.
    pub path: Vec<u8>,
    /// What is there.
    pub output: Output,
    /// The path held somebody else's content before the run: such an entry is never an own output. Always set on `Removed`.
    pub modified: bool,
}

/// All outputs of one run, sorted by path (byte order of the whole path), each path once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The outputs.
    pub entries: Vec<Entry>,
}

//! What a task saw: one [`Observation`] per path, of the tree as it was before the task's own writes.
//!
//! The stored form is canonical (sorted by path, prefix-compressed): equal traces have equal bytes, and their digest is the
//! fingerprint of a record.

mod encoding;

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::path::TreePath;

pub use encoding::{LISTED_DIR, LISTED_FILE, LISTED_LINK, LISTED_OTHER, Walk, Walked, listing_digest};
pub(crate) use encoding::{decode_listing, encode_listing};

/// One fact about one path. See `docs/SEMANTICS.md` for which request yields which fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Observation {
    /// Nothing has that name.
    Absent,
    /// A directory, walked through or asked for its attributes, not listed.
    Dir {
        /// Permission bits (`0o7777`), of the workspace, the home and what is above them the owner's alone: another clone may lie in a
        /// directory that others may read, or not.
        mode: u32,
    },
    /// A directory, and the names and kinds in it.
    Listing {
        /// Digest of the sorted names and kinds.
        digest: Digest,
        /// Permission bits, as for [`Observation::Dir`].
        mode: u32,
    },
    /// A regular file.
    File {
        /// Digest of its bytes.
        digest: Digest,
        /// Permission bits (`0o7777`).
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Its target, with the workspace's and the home's absolute prefix replaced by symbolic ones.
        target: Vec<u8>,
    },
    /// Something whose content is no plain fact: a device, a socket, a pipe, or a file that cannot be read.
    Opaque {
        /// Its kind.
        kind: OpaqueKind,
        /// Permission bits (`0o7777`).
        mode: u32,
    },
}

/// The kinds of [`Observation::Opaque`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OpaqueKind {
    /// A regular file that may not be read by this user.
    Unreadable,
    /// A device node.
    Device,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// An observation and whether it was made on an own output (then it is stored as what is there when own outputs are hidden:
/// [`Observation::Absent`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The fact.
    pub fact: Observation,
    /// The path held an own output of an earlier run of the same task, which this run was allowed to see.
    pub own: bool,
}

/// All observations of one run, folded per path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The facts in canonical order.
    pub seen: BTreeMap<TreePath, Seen>,
}

//! What can go wrong in the store, said for people: what happened, to which path, and what to do about it.
//!
//! Two classes matter to callers ([`StoreError::is_damage`]): damage means that an entry cannot be used and the task must run
//! (a miss); everything else means that the store cannot be used now (the task runs uncached, with the reason said).
//! "Cannot read" is never taken for "damaged": a full descriptor table must not empty the cache.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::record::RecordId;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Disk {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The cache directory is something else.
    #[error("{} is not a directory; move it away or choose another cache directory", path.display())]
    NotADirectory {
        /// The cache directory.
        path: PathBuf,
    },
    /// A directory of the cache is a link, or something else: what is written or swept there could be anybody's files.
    #[error("{} is no directory of the cache's own; remove it, or choose another cache directory", path.display())]
    NoOwnDirectory {
        /// What is in the place of the directory.
        path: PathBuf,
    },
    /// The cache directory belongs to another user.
    #[error(
        "the cache directory {} belongs to user {owner}, but this is user {user}; \
         choose another cache directory, or have its owner give it to you", path.display()
    )]
    ForeignOwner {
        /// The cache directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Others could plant entries in the cache directory.
    #[error(
        "the cache directory {} can be written by other users (mode {mode:04o}); \
         run `chmod go-w` on it after making sure that nobody else has put anything there", path.display()
    )]
    WritableByOthers {
        /// The cache directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The cache was written by a newer program.
    #[error(
        "the cache {} was written by a newer version ({found}, this one knows {known}); \
         update the program, or choose another cache directory", path.display()
    )]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this program knows.
        known: String,
    },
    /// The index is in use and stayed so.
    #[error("the cache index {} stayed locked by another process for {waited_s} seconds; try again when it is done", path.display())]
    Busy {
        /// The index or its lock.
        path: PathBuf,
        /// How long this process waited.
        waited_s: u64,
    },
    /// Pruning did not let go of the store.
    #[error(
        "the cache {} is being pruned, and that did not let go for {waited_s} seconds; \
         is a `wink cache` command stopped somewhere?", path.display()
    )]
    Pruning {
        /// The cache directory.
        path: PathBuf,
        /// How long this process waited.
        waited_s: u64,
    },
    /// Another process prunes the store.
    #[error("another process is pruning the cache {}; try again when it is done", path.display())]
    PrunedElsewhere {
        /// The cache directory.
        path: PathBuf,
    },
    /// Another process may change what a mounted tree shows, and there can be only one.
    #[error("another process keeps what {} shows (its daemon, or a command that just ends); try again when it is done", root.display())]
    LayerInUse {
        /// The root of the mount.
        root: PathBuf,
    },
    /// The index could not be read or written, though nothing says that it is damaged.
    #[error("cannot use the cache index {}: {detail}; check free space and permissions there", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What the database said.
        detail: String,
    },
    /// The index is damaged.
    #[error("the cache index {} is damaged ({detail}); the next run sets it aside and starts a new one, no files are lost", path.display())]
    DamagedIndex {
        /// The index.
        path: PathBuf,
        /// What the database said.
        detail: String,
    },
    /// A record, or a part of it, is missing or does not match its digest.
    #[error("cache entry {} is damaged ({what}: {detail}); the command has to run again", id.0.short())]
    DamagedRecord {
        /// The record, or the digest of the part when only that is known.
        id: RecordId,
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A stored file is gone.
    #[error("stored file {} is missing; the command that made it has to run again", digest.short())]
    MissingBlob {
        /// Its digest.
        digest: Digest,
    },
    /// A stored file does not hold the bytes that its name promises.
    #[error("stored file {} is damaged ({detail}); the command that made it has to run again", digest.short())]
    DamagedBlob {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        detail: String,
    },
    /// A result that the store could not give back exactly, and so does not take.
    #[error("this result cannot be cached: {detail}")]
    Unstorable {
        /// Why.
        detail: String,
    },
}

impl StoreError {
    /// Whether the entry in question cannot be used, now or later: a miss, not a failure of the store.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            StoreError::DamagedIndex { .. }
                | StoreError::DamagedRecord { .. }
                | StoreError::MissingBlob { .. }
                | StoreError::DamagedBlob { .. }
        )
    }

    /// Wraps what the system said; made to be used with `map_err`.
    pub(crate) fn disk(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Disk { doing, path, source }
    }

    /// A damaged part that is known by its digest only.
    pub(crate) fn damaged_part(digest: &Digest, what: &'static str, detail: impl ToString) -> StoreError {
        StoreError::DamagedRecord { id: RecordId(*digest), what, detail: detail.to_string() }
    }
}

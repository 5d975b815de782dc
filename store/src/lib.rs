//! The content-addressed store of wink: blobs, manifests, traces, records and their index, packs and layers. It never knows
//! that a file system is served from it, prints nothing and reads no environment.
//!
//! # On disk
//!
//! ```text
//! <store>/                     0700, owned by the user; anything else is refused
//!   format                     version and features, text
//!   blobs/ab/cdef…             bytes named by their BLAKE3 digest, 0444, never written to again
//!   staging/                   files of running tasks; one directory with a lock file per run
//!   quarantine/                damaged blobs, indexes and layers, for people to look at
//!   stamps/<digest>             what files looked like when a record last held in a workspace: only a hint
//!   layers/<digest>/           what one mounted tree shows besides its real files: `root`, `log`, `lock`
//!   locks/<digest>             the program's own: held while a run publishes into one workspace
//!   index.sqlite               records, traces, trees, what stands in which workspace, the digest cache (WAL)
//!   index.lock                 held while the index is opened, made or set aside
//!   gc.lock                      held by runs that rely on what is stored, shared; by pruning, alone
//!   prune.lock                   held by the one process that prunes
//!   index.damaged              a reader met damage: the next opening checks the whole index
//! ```
//!
//! # Durability
//!
//! - A blob gets its name by rename, after its bytes were written, and is not fsynced. A record is committed only after all its
//!   blobs are in place. So a process that dies at any instant leaves whole blobs and whole records.
//! - A machine that stops may lose bytes of recent blobs. A record carries the boot under which its blobs were written; its
//!   first use in another boot hashes them once (module `durable`). Damage is a miss, never a wrong output.
//! - The index commits without waiting for the disk: a stop of the machine may lose the last records, not the index.
//! - A layer is appended to without waiting for the disk, too; whoever promises more asks for it ([`Store::sync`]).
//! - Losing the index loses hits, never files: it is set aside and started anew, with one line said ([`Store::notice`]).
//!
//! # Locks
//!
//! One mutex per [`Store`], around the index connection, never held while blobs are read or written. Between processes: SQLite's
//! own locks for the index, `index.lock` around opening it, one lock file per staging directory and per layer, and rename for
//! blobs. No two of them are ever waited for together, except that `index.lock` is held while SQLite's are taken; never the
//! other way. The lock of a layer is not waited for at all.

#![forbid(unsafe_code)]

mod blob;
mod codec;
#[doc(hidden)]
pub mod decoders;
mod digest;
mod disk;
mod durable;
mod error;
#[cfg(test)]
mod fault_tests;
mod format;
mod gc;
mod index;
pub mod layer;
pub mod manifest;
pub mod pack;
pub mod path;
pub mod record;
mod schema;
pub mod seam;
mod staging;
mod stamps;
mod survey;
pub mod trace;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

pub use codec::{DecodeError, EXPANDED_BYTES_MAX, PATH_BYTES_MAX, PATHS_MAX, TARGET_BYTES_MAX};
pub use digest::{Digest, NotADigest};
pub use error::StoreError;
pub use format::FORMAT_VERSION;
pub use gc::{Hold, Limits, Pruned, World};
pub use index::{
    CachedDigest, FileId, FileStamp, HEADS_MAX, Hit, INLINE_BYTES_MAX, NAMES_BYTES_MAX, Names, Outcome, RunCounted,
    Runs, damaged_trace,
};
pub use layer::{LayerLog, Step};
pub use manifest::{Entry, Manifest, Output, Tree};
pub use pack::{Pack, Packed};
pub use path::{NotATreePath, Root, TreePath};
pub use record::{Captured, OwnKey, Record, RecordHead, RecordId, Stream, TaskKey};
pub use schema::SCHEMA_VERSION;
pub use staging::Staging;
pub use survey::{Listed, Sizes};
pub use trace::{Observation, OpaqueKind, Seen, Trace, Walk, listing_digest};
pub use verify::{Flaw, Part, Verified};

/// Whether there is a store in `dir`. Opening makes one where there is none.
pub fn exists(dir: &Path) -> bool {
    format::is_there(dir)
}

/// An open store. All methods take `&self`; threads may share one.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    connection: Mutex<rusqlite::Connection>,
    notice: Option<String>,
    /// The name of the time since this machine was started, where the system has one.
    boot: Option<String>,
    /// Bytes of blobs that this process placed and has not yet counted.
    placed: AtomicU64,
    /// When that was, by today's clock.
    booted_at_s: Option<i64>,
}

impl Store {
    /// Opens the store in `dir`, making it when needed.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        format::prepare(dir)?;
        let (connection, notice) = schema::open(dir)?;
        Ok(Store {
            dir: dir.to_owned(),
            connection: Mutex::new(connection),
            notice,
            boot: disk::boot_id(),
            placed: AtomicU64::new(0),
            booted_at_s: disk::booted_at_s(),
        })
    }

    /// The directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the user should know about how opening went: one line, or nothing.
    pub fn notice(&self) -> Option<String> {
        self.notice.clone()
    }

    /// What is wrong with the index, if a quick look finds anything; changes nothing.
    pub fn index_flaw(&self) -> Result<Option<String>, StoreError> {
        schema::quick_flaw(&self.dir, &*self.index()?)
    }

    /// Opens a file in the directory that locks something of the program's own, making it when needed. `name` may have one directory
    /// before it. Whatever was planted there, nothing elsewhere is opened or made.
    pub fn open_lock_file(&self, name: &Path) -> Result<std::fs::File, StoreError> {
        let path = self.way_to(name)?;
        disk::open_lock(&path).map_err(StoreError::disk("open", &path))
    }

    /// The same for a file that is written at its end only.
    pub fn open_log_file(&self, name: &Path) -> Result<std::fs::File, StoreError> {
        let path = self.way_to(name)?;
        disk::open_append(&path).map_err(StoreError::disk("open", &path))
    }

    /// The path of something in the store, whose directory is made.
    fn way_to(&self, name: &Path) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(name);
        if let Some(dir) = path.parent().filter(|dir| *dir != self.dir) {
            disk::make_dir(dir).map_err(StoreError::disk("make the directory", dir))?;
        }
        Ok(path)
    }

    /// Bytes that may still be written on the disk of the store.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        disk::free_bytes(&self.dir).map_err(StoreError::disk("ask for free space of", &self.dir))
    }
}

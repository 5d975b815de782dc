//! The persistent digest cache: the digest of a file of the real tree, as long as its stamp has not changed.
//!
//! Only a cache: whoever asks compares the stamp, and decides by `hashed_at_ns` whether a file that changed at the very
//! moment of hashing may be trusted.

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Row, params};

use crate::Store;
use crate::digest::Digest;
use crate::error::StoreError;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// Which state of which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i64,
}

impl FileStamp {
    /// The file, whatever its state.
    pub fn id(&self) -> FileId {
        FileId { dev: self.dev, ino: self.ino }
    }
}

/// A digest that was computed earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedDigest {
    /// The state of the file then.
    pub stamp: FileStamp,
    /// The digest of its bytes.
    pub digest: Digest,
    /// When hashing began, nanoseconds since the epoch.
    pub hashed_at_ns: i64,
}

impl Store {
    /// What is known of each of these files, in their order.
    pub fn digests_get(&self, files: &[FileId]) -> Result<Vec<Option<CachedDigest>>, StoreError> {
        let index = self.index()?;
        let read = || -> Result<Vec<Option<CachedDigest>>, rusqlite::Error> {
            // One read transaction: one snapshot, and the file lock is taken once.
            let snapshot = index.unchecked_transaction()?;
            let mut query = snapshot.prepare_cached(
                "SELECT size, mtime_ns, ctime_ns, digest, hashed_at_ns FROM digests WHERE dev = ?1 AND ino = ?2",
            )?;
            files
                .iter()
                .map(|file| {
                    let key = params![file.dev as i64, file.ino as i64];
                    Ok(query.query_row(key, |row| read_row(row, file)).optional()?.flatten())
                })
                .collect()
        };
        read().map_err(|error| self.index_error(error))
    }

    /// Remembers digests: stamp, digest and when hashing began. One transaction.
    pub fn digests_put(&self, digests: &[(FileStamp, Digest, i64)]) -> Result<(), StoreError> {
        if digests.is_empty() {
            return Ok(());
        }
        self.change(|change| {
            let mut write = change.prepare_cached(
                "INSERT OR REPLACE INTO digests (dev, ino, size, mtime_ns, ctime_ns, digest, hashed_at_ns) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for (stamp, digest, hashed_at_ns) in digests {
                write.execute(params![
                    stamp.dev as i64,
                    stamp.ino as i64,
                    stamp.size as i64,
                    stamp.mtime_ns,
                    stamp.ctime_ns,
                    &digest.0[..],
                    hashed_at_ns
                ])?;
            }
            Ok(())
        })
    }
}

/// A row whose values are of other types is no answer.
fn read_row(row: &Row<'_>, file: &FileId) -> Result<Option<CachedDigest>, rusqlite::Error> {
    Ok(match (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?, row.get_ref(3)?, row.get_ref(4)?) {
        (
            ValueRef::Integer(size),
            ValueRef::Integer(mtime_ns),
            ValueRef::Integer(ctime_ns),
            ValueRef::Blob(digest),
            ValueRef::Integer(hashed_at_ns),
        ) => digest.try_into().ok().map(|digest| CachedDigest {
            stamp: FileStamp { dev: file.dev, ino: file.ino, size: size as u64, mtime_ns, ctime_ns },
            digest: Digest(digest),
            hashed_at_ns,
        }),
        _ => None,
    })
}

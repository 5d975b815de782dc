//! What is in the store, and how large it is.
//!
//! The size of the cache ([`Sizes::total`]) is what limits are held against: the bytes of the blobs, and what usable records hold in the
//! index. What is kept only to know what runs left, free pages, the log of the index and the digest cache do not count.

use std::io;
use std::path::PathBuf;

use rusqlite::types::ValueRef;

use crate::digest::Digest;
use crate::disk::{self, Facts};
use crate::error::StoreError;
use crate::index::{HEAD, names, read_head};
use crate::record::RecordHead;
use crate::record::encoding::{decode_argv, details_digest};
use crate::{Store, format, schema};

/// How large the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Usable records.
    pub entries: u64,
    /// Records that are only kept to know what runs left.
    pub kept: u64,
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Bytes that usable records hold in the index: inputs, printed output, times.
    pub entry_bytes: u64,
    /// What the blobs take on the disk.
    pub blob_disk_bytes: u64,
    /// What the index takes there, its log too.
    pub index_disk_bytes: u64,
    /// What is in quarantine.
    pub quarantine_disk_bytes: u64,
}

impl Sizes {
    /// The size of the cache: see the module.
    pub fn total(&self) -> u64 {
        self.blob_bytes + self.entry_bytes
    }

    /// What the store takes on the disk.
    pub fn disk(&self) -> u64 {
        self.blob_disk_bytes + self.index_disk_bytes + self.quarantine_disk_bytes
    }
}

/// A record with what is only of interest for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The record.
    pub head: RecordHead,
    /// The command; none if that part is damaged.
    pub argv: Option<Vec<Vec<u8>>>,
    /// When it was used last, milliseconds since the epoch.
    pub used_ms: u64,
    /// How often it was a hit.
    pub hits: u64,
    /// Workspaces in which its outputs stood last.
    pub workspaces: Vec<Vec<u8>>,
}

impl Store {
    /// Measures the store. Looks at every blob.
    pub fn sizes(&self) -> Result<Sizes, StoreError> {
        let mut sizes = Sizes::default();
        for (_, facts) in self.blobs()? {
            sizes.blobs += 1;
            sizes.blob_bytes += facts.size;
            sizes.blob_disk_bytes += facts.disk_bytes;
        }
        for path in schema::index_files(self.dir()) {
            sizes.index_disk_bytes += look(&path)?.map_or(0, |facts| facts.disk_bytes);
        }
        for path in self.quarantined()? {
            sizes.quarantine_disk_bytes += look(&path)?.map_or(0, |facts| facts.disk_bytes);
        }
        let index = self.index()?;
        let number = |sql: &str| index.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        let mut read = || -> Result<(), rusqlite::Error> {
            sizes.entries = number("SELECT count(*) FROM records WHERE usable = 1")?;
            sizes.kept = number("SELECT count(*) FROM records WHERE usable <> 1")?;
            sizes.entry_bytes = number(
                "SELECT ifnull(sum(length(times) + length(argv) + ifnull(length(captured), 0)), 0) FROM records WHERE usable = 1",
            )? + number(
                "SELECT ifnull(sum(length(bytes)), 0) FROM traces \
                 WHERE fingerprint IN (SELECT fingerprint FROM records WHERE usable = 1)",
            )?;
            if names::are_there(&index)? {
                sizes.entry_bytes += number(
                    "SELECT ifnull(sum(length(bytes)), 0) FROM names \
                     WHERE fingerprint IN (SELECT fingerprint FROM records WHERE usable = 1)",
                )?;
            }
            Ok(())
        };
        read().map_err(|error| self.index_error(error))?;
        Ok(sizes)
    }

    /// All records, last used first.
    pub fn listed(&self) -> Result<Vec<Listed>, StoreError> {
        let index = self.index()?;
        let read = || -> Result<Vec<Listed>, rusqlite::Error> {
            let snapshot = index.unchecked_transaction()?;
            let mut standing =
                snapshot.prepare_cached("SELECT workspace FROM last WHERE record_id = ?1 ORDER BY workspace")?;
            let mut query = snapshot.prepare_cached(&format!(
                "SELECT {HEAD}, ifnull(uses.used_ms, records.used_ms) AS used, ifnull(hits, 0), times, argv \
                 FROM records LEFT JOIN uses USING (turn) ORDER BY used DESC, turn DESC"
            ))?;
            let mut rows = query.query([])?;
            let mut listed = Vec::new();
            while let Some(row) = rows.next()? {
                let Ok(checked) = read_head(row)? else { continue };
                let number =
                    |column| Ok::<u64, rusqlite::Error>(row.get_ref(column)?.as_i64().unwrap_or(0).cast_unsigned());
                let argv = match (row.get_ref(19)?, row.get_ref(20)?) {
                    (ValueRef::Blob(times), ValueRef::Blob(argv)) if details_digest(times, argv) == checked.details => {
                        decode_argv(argv).ok()
                    }
                    _ => None,
                };
                let workspaces = standing
                    .query_map([&checked.head.id.0.0[..]], |row| row.get::<_, Vec<u8>>(0))?
                    .collect::<Result<_, _>>()?;
                listed.push(Listed { head: checked.head, argv, used_ms: number(17)?, hits: number(18)?, workspaces });
            }
            Ok(listed)
        };
        read().map_err(|error| self.index_error(error))
    }

    /// Every blob there is. What is no file, or has a name that is no digest, is none, and nothing is looked at through a link.
    pub(crate) fn blobs(&self) -> Result<Vec<(Digest, Facts)>, StoreError> {
        let mut found = Vec::new();
        let all = self.dir().join(format::BLOBS);
        for shelf in disk::list(&all).map_err(StoreError::disk("list", &all))? {
            let Some(first) = shelf.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            if !look(&shelf)?.is_some_and(|facts| facts.is_dir) {
                continue;
            }
            for path in disk::list(&shelf).map_err(StoreError::disk("list", &shelf))? {
                let rest = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let Ok(digest) = format!("{first}{rest}").parse() else { continue };
                // One that has gone meanwhile is none.
                found.extend(look(&path)?.filter(|facts| facts.is_file).map(|facts| (digest, facts)));
            }
        }
        Ok(found)
    }

    /// What lies in quarantine.
    pub(crate) fn quarantined(&self) -> Result<Vec<PathBuf>, StoreError> {
        let shelf = self.dir().join(format::QUARANTINE);
        disk::list(&shelf).map_err(StoreError::disk("list", &shelf))
    }
}

fn look(path: &std::path::Path) -> Result<Option<Facts>, StoreError> {
    match disk::stat(path) {
        Ok(facts) => Ok(Some(facts)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::disk("read the attributes of", path)(error)),
    }
}

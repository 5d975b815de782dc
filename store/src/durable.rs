//! Durability without waiting for the disk at every blob.
//!
//! Blobs are renamed into place without fsync: for the 753 outputs of one compiler run that would cost seconds. While the
//! machine runs, the page cache makes that safe: no process can die so that a renamed file reads as anything but what was
//! written. Only a stop of the machine can lose bytes. So a record remembers under which boot its blobs were written; the first
//! use in another boot hashes them once ([`Store::ensure_durable`]), and from then on the record counts as durable.
//!
//! A record that names a blob which lay there before this boot, unproven, is stored without a boot: it is checked as well.

use rusqlite::{OptionalExtension, params};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::gone;
use crate::manifest::Output;
use crate::record::{RecordHead, RecordId};
use crate::{Store, disk};

/// A blob that changed this long before the machine was started may still be one that was written just before it stopped, as
/// today's clock tells it.
const CLOCK_DOUBT_S: i64 = 3600;

impl Store {
    /// Makes sure that the blobs of a record have survived: nothing to do for a record of this boot or one that was checked
    /// before. Otherwise all of them are hashed once. If one is missing or damaged, it is quarantined, the record is retired
    /// (unusable, but what it left in workspaces stays known), and the damage is returned: a miss.
    pub fn ensure_durable(&self, head: &RecordHead) -> Result<(), StoreError> {
        if self.is_proven(head)? {
            return Ok(());
        }
        match self.check_blobs(head) {
            Ok(()) => {}
            Err(error) if error.is_damage() => {
                if let StoreError::DamagedBlob { digest, .. } = error {
                    self.quarantine(&digest)?;
                }
                self.retire(&head.id)?;
                return Err(error);
            }
            // Unable to look is no proof of damage: the entry stays for a better day.
            Err(error) => return Err(error),
        }
        self.change(|change| {
            change.prepare_cached("UPDATE records SET durable = 1 WHERE id = ?1")?.execute([&head.id.0.0[..]]).map(drop)
        })
    }

    /// The same question, for somebody who only asks: nothing is moved, retired or remembered.
    pub fn is_durable(&self, head: &RecordHead) -> Result<(), StoreError> {
        if self.is_proven(head)? { Ok(()) } else { self.check_blobs(head) }
    }

    fn is_proven(&self, head: &RecordHead) -> Result<bool, StoreError> {
        let (boot, durable) = self.written_under(&head.id)?.ok_or_else(|| gone(&head.id))?;
        Ok(durable || self.boot.as_ref() == Some(&boot))
    }

    fn check_blobs(&self, head: &RecordHead) -> Result<(), StoreError> {
        let mut digests: Vec<Digest> = self
            .manifest(&head.manifest)?
            .entries
            .iter()
            .filter_map(|entry| match entry.output {
                Output::File { digest, .. } => Some(digest),
                _ => None,
            })
            .chain(self.captured_blob(&head.id)?)
            .collect();
        digests.sort_unstable();
        digests.dedup();
        for digest in digests {
            let (file, facts) = self.verified_blob(&digest)?;
            // One that was written again since the machine was started is good in memory, but perhaps not on the disk; and
            // from now on nobody will look again.
            if self.booted_at_s.is_none_or(|booted| facts.ctime_s >= booted - CLOCK_DOUBT_S) {
                let path = self.blob_path(&digest);
                disk::sync(&file).map_err(StoreError::disk("write to disk", path))?;
            }
        }
        Ok(())
    }

    /// The blob of a record's captured output, if it is one.
    fn captured_blob(&self, id: &RecordId) -> Result<Option<Digest>, StoreError> {
        let row = self.row(id)?.ok_or_else(|| gone(id))?;
        let index = self.index()?;
        let inline = index
            .prepare_cached("SELECT captured IS NOT NULL FROM records WHERE id = ?1")
            .and_then(|mut query| query.query_row([&id.0.0[..]], |row| row.get::<_, bool>(0)).optional())
            .map_err(|error| self.index_error(error))?
            .ok_or_else(|| gone(id))?;
        Ok((!inline).then_some(row.captured))
    }

    /// Under which boot a record was written, and whether it was checked since.
    fn written_under(&self, id: &RecordId) -> Result<Option<(String, bool)>, StoreError> {
        let index = self.index()?;
        index
            .prepare_cached("SELECT boot, durable FROM records WHERE id = ?1")
            .and_then(|mut query| {
                // A value of another type is no boot: then the blobs are checked.
                query
                    .query_row(params![&id.0.0[..]], |row| {
                        Ok((row.get_ref(0)?.as_str().unwrap_or_default().to_owned(), row.get_ref(1)?.as_i64() == Ok(1)))
                    })
                    .optional()
            })
            .map_err(|error| self.index_error(error))
    }

    /// A blob must be there, with this size. Says whether it was placed since the machine was started.
    pub(crate) fn expect_blob(&self, digest: &Digest, size: Option<u64>) -> Result<bool, StoreError> {
        let facts = self.blob_facts(digest)?.ok_or(StoreError::MissingBlob { digest: *digest })?;
        if !facts.is_file {
            return Err(StoreError::DamagedBlob { digest: *digest, detail: "it is not a regular file".to_owned() });
        }
        if let Some(size) = size.filter(|&size| size != facts.size) {
            let detail = format!("it has {} bytes instead of {size}", facts.size);
            return Err(StoreError::DamagedBlob { digest: *digest, detail });
        }
        Ok(self.booted_at_s.is_some_and(|booted| facts.ctime_s > booted))
    }
}

//! Writing, demoting and removing records.
//!
//! Invariants: a record is committed only when every blob it names is in place with the right size; it is committed whole, in
//! one transaction, with its trace and its tree nodes; per task key, fingerprint, bindings and depth at most one record is
//! usable. Readers see all of it or nothing.
//!
//! Nothing that still explains what lies in a workspace is forgotten: a record that is replaced, or found to have damaged
//! blobs, stays as an unusable one while some workspace shows its outputs, since otherwise they would count as somebody
//! else's files.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::uses::use_record;
use super::{meta, row_by_id};
use crate::Store;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::{Output, Tree};
use crate::record::encoding::{details_digest, encode_argv, encode_times};
use crate::record::{Record, RecordHead, RecordId};

/// Captured output up to this size lies in the index, where reading it costs no open; beyond it a blob is cheaper.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// A record in the form in which it is stored.
struct Prepared<'a> {
    head: &'a RecordHead,
    trace: Vec<u8>,
    tree: Tree,
    times: Vec<u8>,
    argv: Vec<u8>,
    captured: Vec<u8>,
    captured_digest: Digest,
    /// The boot whose page cache vouches for the blobs; empty when one of them may be older.
    boot: String,
}

impl Prepared<'_> {
    /// What the index grows by, if all of it is new.
    fn row_bytes(&self) -> u64 {
        let inline = if self.captured.len() <= INLINE_BYTES_MAX { self.captured.len() } else { 0 };
        (self.trace.len() + self.times.len() + self.argv.len() + inline) as u64
    }
}

impl Store {
    /// Stores a sealed record, whose blobs must be in place. If a usable record of the same task key, fingerprint, bindings
    /// and depth is there, the first one wins and its identity is returned; with `replace` the new one takes its place.
    pub fn insert(&self, record: &Record, replace: bool) -> Result<RecordId, StoreError> {
        let prepared = self.prepare(record)?;
        let placed = self.placed.swap(0, Ordering::Relaxed);
        self.change(|change| {
            let id = insert(change, &prepared, replace)?;
            meta::add(change, meta::ADDED, placed + prepared.row_bytes())?;
            Ok(id)
        })
    }

    /// Checks a record and does everything that needs no lock.
    fn prepare<'a>(&self, record: &'a Record) -> Result<Prepared<'a>, StoreError> {
        record.check()?;
        let (trace, tree, captured) = (record.trace.encode(), record.outputs.to_tree(), record.captured.encode());
        let captured_digest = Digest::of(&captured);
        let head = &record.head;
        let sealed = head.fingerprint == Digest::of(&trace)
            && head.manifest == tree.root
            && head.output_bytes == record.outputs.output_bytes()
            && head.id == head.identity(&captured_digest);
        if !sealed {
            return Err(StoreError::Unstorable { detail: "it was changed after it was sealed".to_owned() });
        }
        if captured.len() > INLINE_BYTES_MAX && head.usable {
            self.put(&captured)?;
        }
        // One that is of no use needs no blobs: it only tells what it left.
        let mut young = self.boot.is_some() && head.usable;
        let mut known = HashSet::new();
        for entry in record.outputs.entries.iter().filter(|_| head.usable) {
            if let Output::File { digest, size, .. } = entry.output
                && known.insert((digest, size))
            {
                young &= self.expect_blob(&digest, Some(size))?;
            }
        }
        if captured.len() > INLINE_BYTES_MAX && head.usable {
            young &= self.expect_blob(&captured_digest, Some(captured.len() as u64))?;
        }
        let boot = self.boot.clone().filter(|_| young).unwrap_or_default();
        let (times, argv) = (encode_times(&record.times), encode_argv(&record.argv));
        Ok(Prepared { head, trace, tree, times, argv, captured, captured_digest, boot })
    }

    /// Makes a record unusable, but keeps the knowledge of what it left behind.
    pub fn retire(&self, id: &RecordId) -> Result<(), StoreError> {
        self.change(|change| match row_by_id(change, id)? {
            Some(Ok(row)) if row.head.usable => demote(change, &row.head),
            Some(Ok(_)) | None => Ok(()),
            Some(Err(_)) => remove(change, id),
        })
    }

    /// Removes a record, and that any workspace shows its outputs.
    pub fn drop_record(&self, id: &RecordId) -> Result<(), StoreError> {
        self.change(|change| remove(change, id))
    }

    /// One transaction.
    pub(crate) fn change<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let mut index = self.index()?;
        let said = |error| self.index_error(error);
        // Immediate: a transaction that reads first and writes later cannot wait for another writer.
        let change = index.transaction_with_behavior(TransactionBehavior::Immediate).map_err(said)?;
        let result = work(&change).map_err(said)?;
        self.index_gate()?;
        change.commit().map_err(said)?;
        Ok(result)
    }
}

fn insert(change: &Connection, new: &Prepared<'_>, replace: bool) -> Result<RecordId, rusqlite::Error> {
    let head = new.head;
    // The same result again: it has the same identity, and what differs (when, how long) is worth a row only if it was
    // asked for, or if the old one cannot be used.
    match row_by_id(change, &head.id)? {
        Some(Ok(old)) if (old.head.usable && !head.usable) || (old.head.usable == head.usable && !replace) => {
            write_parts(change, new)?;
            // Some of its blobs may have been gone and be new now: whatever was proven of them is void.
            change
                .prepare_cached("UPDATE records SET boot = ?2, durable = 0 WHERE id = ?1")?
                .execute(params![&head.id.0.0[..], new.boot])?;
            use_record(change, &head.id, head.created_ms, 0)?;
            return Ok(head.id);
        }
        Some(_) => delete_row(change, &head.id)?,
        None => {}
    }
    if head.usable {
        for twin in twins(change, head)? {
            match row_by_id(change, &twin)? {
                Some(Ok(old)) if replace => retire_or_remove(change, &old.head)?,
                Some(Ok(old)) => {
                    use_record(change, &twin, head.created_ms, 0)?;
                    return Ok(old.head.id);
                }
                Some(Err(_)) => remove(change, &twin)?,
                None => {}
            }
        }
    }
    write_parts(change, new)?;
    write_row(change, new)?;
    Ok(head.id)
}

/// The usable records that a lookup could not tell from `head`.
fn twins(change: &Connection, head: &RecordHead) -> Result<Vec<RecordId>, rusqlite::Error> {
    let mut query = change.prepare_cached(
        "SELECT id FROM records WHERE task_key = ?1 AND fingerprint = ?2 AND bound_workspace IS ?3 AND bound_home IS ?4 \
         AND depth = ?5 AND usable = 1",
    )?;
    let key = params![
        &head.task_key.0.0[..],
        &head.fingerprint.0[..],
        head.bound_workspace,
        head.bound_home,
        i64::from(head.depth)
    ];
    let ids = query.query_map(key, |row| row.get::<_, [u8; 32]>(0))?;
    ids.map(|id| id.map(|id| RecordId(Digest(id)))).collect()
}

/// Rows are overwritten when their bytes differ: what was there under this digest is then damaged, and is healed so.
fn write_parts(change: &Connection, new: &Prepared<'_>) -> Result<(), rusqlite::Error> {
    change
        .prepare_cached(
            "INSERT INTO traces (fingerprint, bytes) VALUES (?1, ?2) \
             ON CONFLICT (fingerprint) DO UPDATE SET bytes = excluded.bytes WHERE bytes IS NOT excluded.bytes",
        )?
        .execute(params![&new.head.fingerprint.0[..], new.trace])?;
    let mut node = change.prepare_cached(
        "INSERT INTO trees (digest, bytes) VALUES (?1, ?2) \
         ON CONFLICT (digest) DO UPDATE SET bytes = excluded.bytes WHERE bytes IS NOT excluded.bytes",
    )?;
    for (digest, bytes) in &new.tree.nodes {
        node.execute(params![&digest.0[..], bytes])?;
    }
    Ok(())
}

fn write_row(change: &Connection, new: &Prepared<'_>) -> Result<(), rusqlite::Error> {
    let head = new.head;
    let inline = (new.captured.len() <= INLINE_BYTES_MAX).then_some(&new.captured);
    change
        .prepare_cached(
            "INSERT INTO records (id, task_key, own_key, usable, fingerprint, manifest, exit_code, command_ms, created_ms, \
             bound_workspace, bound_home, depth, output_bytes, used_ms, boot, durable, captured_digest, details_digest, \
             seal, times, argv, captured) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?9, ?14, 0, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params![
            &head.id.0.0[..],
            &head.task_key.0.0[..],
            &head.own_key.0.0[..],
            head.usable,
            &head.fingerprint.0[..],
            &head.manifest.0[..],
            head.exit_code,
            head.command_ms as i64,
            head.created_ms as i64,
            head.bound_workspace,
            head.bound_home,
            i64::from(head.depth),
            head.output_bytes as i64,
            new.boot,
            &new.captured_digest.0[..],
            &details_digest(&new.times, &new.argv).0[..],
            &head.seal(&new.captured_digest, &new.times, &new.argv).0[..],
            new.times,
            new.argv,
            inline,
        ])
        .map(drop)
}

/// Takes a record out of use; the row goes too unless a workspace still shows its outputs.
fn retire_or_remove(change: &Connection, head: &RecordHead) -> Result<(), rusqlite::Error> {
    let shown = change
        .prepare_cached("SELECT 1 FROM last WHERE record_id = ?1 LIMIT 1")?
        .query_row([&head.id.0.0[..]], |_| Ok(()))
        .optional()?;
    match shown {
        Some(()) => demote(change, head),
        None => remove(change, &head.id),
    }
}

pub(crate) fn demote(change: &Connection, head: &RecordHead) -> Result<(), rusqlite::Error> {
    let Some(Ok(row)) = row_by_id(change, &head.id)? else { return Ok(()) };
    let unusable = RecordHead { usable: false, ..row.head };
    let seal = unusable.seal_with(&row.captured, &row.details);
    change
        .prepare_cached("UPDATE records SET usable = 0, seal = ?2 WHERE id = ?1")?
        .execute(params![&unusable.id.0.0[..], &seal.0[..]])
        .map(drop)
}

pub(crate) fn remove(change: &Connection, id: &RecordId) -> Result<(), rusqlite::Error> {
    delete_row(change, id)?;
    change.prepare_cached("DELETE FROM last WHERE record_id = ?1")?.execute([&id.0.0[..]]).map(drop)
}

fn delete_row(change: &Connection, id: &RecordId) -> Result<(), rusqlite::Error> {
    change
        .prepare_cached("DELETE FROM uses WHERE turn = (SELECT turn FROM records WHERE id = ?1)")?
        .execute([&id.0.0[..]])?;
    change.prepare_cached("DELETE FROM records WHERE id = ?1")?.execute([&id.0.0[..]]).map(drop)
}

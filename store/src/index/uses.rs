//! When records were last used, and how often.

use rusqlite::{Connection, params};

use super::last::set_last;
use super::runs::{RunCounted, count};
use crate::Store;
use crate::error::StoreError;
use crate::record::{OwnKey, RecordId};

/// A hit, when everything is in place.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// The record.
    pub record: &'a RecordId,
    /// The key of its own outputs.
    pub own_key: &'a OwnKey,
    /// How it is counted.
    pub run: RunCounted<'a>,
}

impl Store {
    /// Remembers that a record was used now, that its outputs stand in the workspace, and that this was a hit: all that a hit writes
    /// to the index, in one transaction.
    pub fn hit(&self, hit: &Hit<'_>) -> Result<(), StoreError> {
        let now_ms = hit.run.at_ms;
        self.change(|change| {
            use_record(change, hit.record, now_ms, 1)?;
            set_last(change, hit.run.workspace, hit.own_key, hit.record, now_ms)?;
            count(change, &hit.run)
        })
    }

    /// Remembers that a record was used now.
    pub fn touch(&self, id: &RecordId, now_ms: u64) -> Result<(), StoreError> {
        self.change(|change| use_record(change, id, now_ms, 0))
    }
}

/// Never to an earlier time, and nothing of a record that has gone.
pub(super) fn use_record(change: &Connection, id: &RecordId, now_ms: u64, hits: u32) -> Result<(), rusqlite::Error> {
    change
        .prepare_cached(
            "INSERT INTO uses (turn, used_ms, hits) \
             SELECT turn, max(used_ms, ?2), ?3 FROM records WHERE id = ?1 \
             ON CONFLICT (turn) DO UPDATE SET used_ms = max(uses.used_ms, ?2), hits = hits + ?3",
        )?
        .execute(params![&id.0.0[..], now_ms as i64, hits])
        .map(drop)
}

//! Which record's outputs stand in which workspace.

use rusqlite::{Connection, OptionalExtension, Params, params};

use crate::Store;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::record::{OwnKey, RecordId};

/// A hit that changes nothing is written down this often at most.
const SAME_MS: u64 = 60 * 60 * 1000;

impl Store {
    /// Remembers that the outputs of `record` stand in `workspace` now.
    pub fn set_last(&self, workspace: &[u8], key: &OwnKey, record: &RecordId, now_ms: u64) -> Result<(), StoreError> {
        self.change(|change| set_last(change, workspace, key, record, now_ms))
    }

    /// Forgets which outputs stand in `workspace` for this key: the next run there starts from clean.
    pub fn forget_last(&self, workspace: &[u8], key: &OwnKey) -> Result<(), StoreError> {
        self.change(|change| {
            change
                .prepare_cached("DELETE FROM last WHERE workspace = ?1 AND own_key = ?2")?
                .execute(params![workspace, &key.0.0[..]])
                .map(drop)
        })
    }

    /// The record whose outputs stand in `workspace` for this key.
    pub fn last(&self, workspace: &[u8], key: &OwnKey) -> Result<Option<RecordId>, StoreError> {
        let sql = "SELECT record_id FROM last WHERE workspace = ?1 AND own_key = ?2";
        self.last_by(sql, params![workspace, &key.0.0[..]])
    }

    /// The record that was run or restored in `workspace` most recently.
    pub fn last_run(&self, workspace: &[u8]) -> Result<Option<RecordId>, StoreError> {
        let sql = "SELECT record_id FROM last WHERE workspace = ?1 ORDER BY turn DESC LIMIT 1";
        self.last_by(sql, params![workspace])
    }

    /// The records whose outputs stand in `workspace`, one per own key, the one used last first.
    pub fn last_runs(&self, workspace: &[u8]) -> Result<Vec<RecordId>, StoreError> {
        let index = self.index()?;
        let found = index
            .prepare_cached("SELECT record_id FROM last WHERE workspace = ?1 ORDER BY turn DESC")
            .and_then(|mut query| {
                query.query_map([workspace], |row| row.get::<_, [u8; 32]>(0))?.collect::<Result<Vec<_>, _>>()
            });
        found
            .map(|ids| ids.into_iter().map(|id| RecordId(Digest(id))).collect())
            .map_err(|error| self.index_error(error))
    }

    /// The workspaces in which a record's outputs stand, latest first.
    pub fn standing_in(&self, record: &RecordId) -> Result<Vec<Vec<u8>>, StoreError> {
        let index = self.index()?;
        let found = index
            .prepare_cached("SELECT workspace FROM last WHERE record_id = ?1 ORDER BY at_ms DESC, workspace")
            .and_then(|mut query| {
                query.query_map([&record.0.0[..]], |row| row.get::<_, Vec<u8>>(0))?.collect::<Result<Vec<_>, _>>()
            });
        found.map_err(|error| self.index_error(error))
    }

    fn last_by(&self, sql: &str, params: impl Params) -> Result<Option<RecordId>, StoreError> {
        let index = self.index()?;
        let found = index.prepare_cached(sql).and_then(|mut query| {
            query
                .query_row(params, |row| Ok(row.get_ref(0)?.as_blob().ok().and_then(|id| id.try_into().ok())))
                .optional()
        });
        // A value that is no identity is no answer: then nothing is known to stand there.
        found.map(|id| id.flatten().map(|id| RecordId(Digest(id)))).map_err(|error| self.index_error(error))
    }
}

pub(super) fn set_last(
    change: &Connection,
    workspace: &[u8],
    key: &OwnKey,
    record: &RecordId,
    now_ms: u64,
) -> Result<(), rusqlite::Error> {
    // The same command again and again says nothing new.
    let same = change
        .prepare_cached(
            "SELECT 1 FROM last WHERE workspace = ?1 AND own_key = ?2 AND record_id = ?3 AND at_ms BETWEEN ?4 AND ?5 \
             AND turn = (SELECT max(turn) FROM last WHERE workspace = ?1)",
        )?
        .exists(params![
            workspace,
            &key.0.0[..],
            &record.0.0[..],
            now_ms.saturating_sub(SAME_MS) as i64,
            now_ms as i64
        ])?;
    if same {
        return Ok(());
    }
    // `turn` orders what happened within one millisecond, or while the clock was set back.
    change
        .prepare_cached(
            "INSERT OR REPLACE INTO last (workspace, own_key, record_id, at_ms, turn) \
             VALUES (?1, ?2, ?3, ?4, (SELECT ifnull(max(turn), 0) + 1 FROM last WHERE workspace = ?1))",
        )?
        .execute(params![workspace, &key.0.0[..], &record.0.0[..], now_ms as i64])
        .map(drop)
}

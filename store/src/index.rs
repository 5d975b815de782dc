//! Reading records from the index.
//!
//! Invariants: a row is used only when its seal matches, a trace or tree node only when it has the digest it is stored under;
//! anything else is [`StoreError::DamagedRecord`]. So a flipped bit or a swapped page costs a hit and never gives a wrong one.
//!
//! Lock order: the connection's mutex is the only lock; it is never held while blobs are read or written.

mod digests;
pub(crate) mod insert;
mod keys;
mod last;
pub(crate) mod meta;
pub(crate) mod names;
mod runs;
mod uses;

use std::sync::{MutexGuard, PoisonError};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use crate::codec::DecodeError;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::Manifest;
use crate::record::encoding::{decode_argv, decode_times, details_digest};
use crate::record::{Captured, OwnKey, Record, RecordHead, RecordId, TaskKey};
use crate::seam::{self, Place};
use crate::trace::Trace;
use crate::{Store, schema};

pub use digests::{CachedDigest, FileId, FileStamp};
pub use insert::INLINE_BYTES_MAX;
pub use names::{NAMES_BYTES_MAX, Names};
pub use runs::{Outcome, RunCounted, Runs};
pub use uses::Hit;

/// How many heads one question gives at most; a task with more live variants than this gains nothing from the oldest.
pub const HEADS_MAX: usize = 4096;

/// The columns of a head, in the order in which [`read_head`] takes them.
pub(crate) const HEAD: &str = "id, task_key, own_key, usable, fingerprint, manifest, exit_code, command_ms, created_ms, \
     bound_workspace, bound_home, depth, output_bytes, captured_digest, details_digest, seal, turn";

/// A row of `records` that has been checked.
pub(crate) struct CheckedRow {
    pub head: RecordHead,
    pub captured: Digest,
    pub details: Digest,
}

/// A row that is there, but not usable as it is.
pub(crate) struct BadRow {
    turn: i64,
}

impl Store {
    /// The connection. A thread that panicked while it held the lock left no half transaction: dropping one rolls it back.
    pub(crate) fn index(&self) -> Result<MutexGuard<'_, Connection>, StoreError> {
        self.index_gate()?;
        Ok(self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Passed before whatever touches the index.
    pub(crate) fn index_gate(&self) -> Result<(), StoreError> {
        seam::gate(Place::Store, seam::Step::Index).map_err(StoreError::disk("use", schema::index_path(self.dir())))
    }

    /// Says an error of the index, and remembers damage for the next opening.
    pub(crate) fn index_error(&self, error: rusqlite::Error) -> StoreError {
        if schema::is_suspect(&error) {
            schema::mark_damaged(self.dir());
        }
        schema::convert(&schema::index_path(self.dir()), error)
    }

    /// The usable records of a task, most recently used first.
    pub fn candidates(&self, key: &TaskKey) -> Result<Vec<RecordHead>, StoreError> {
        let sql = format!(
            "SELECT {HEAD} FROM records LEFT JOIN uses USING (turn) WHERE task_key = ?1 AND usable = 1 \
             ORDER BY ifnull(uses.used_ms, records.used_ms) DESC, turn DESC LIMIT {HEADS_MAX}"
        );
        self.heads(&sql, [&key.0.0[..]])
    }

    /// All records that share own outputs, usable or not, newest first.
    pub fn heads_of_owner(&self, key: &OwnKey) -> Result<Vec<RecordHead>, StoreError> {
        let sql = format!(
            "SELECT {HEAD} FROM records WHERE own_key = ?1 ORDER BY created_ms DESC, turn DESC LIMIT {HEADS_MAX}"
        );
        self.heads(&sql, [&key.0.0[..]])
    }

    /// The head of a record.
    pub fn head(&self, id: &RecordId) -> Result<Option<RecordHead>, StoreError> {
        Ok(self.row(id)?.map(|row| row.head))
    }

    /// The records whose identity begins with the hexadecimal digits `hex`, newest first; none when it has other characters.
    pub fn find_by_prefix(&self, hex: &str) -> Result<Vec<RecordHead>, StoreError> {
        let bound = |fill: char| format!("{hex:\u{0}<64}").replace('\0', &fill.to_string()).parse::<Digest>();
        let (Ok(low), Ok(high)) = (bound('0'), bound('f')) else {
            return Ok(Vec::new());
        };
        let sql = format!(
            "SELECT {HEAD} FROM records WHERE id BETWEEN ?1 AND ?2 ORDER BY created_ms DESC, turn DESC LIMIT {HEADS_MAX}"
        );
        self.heads(&sql, [&low.0[..], &high.0[..]])
    }

    /// The trace with this fingerprint.
    pub fn trace(&self, fingerprint: &Digest) -> Result<Trace, StoreError> {
        Trace::decode(&self.trace_bytes(fingerprint)?).map_err(|error| damaged_trace(fingerprint, error))
    }

    /// The encoded trace with this fingerprint, for [`Walk`](crate::Walk).
    pub fn trace_bytes(&self, fingerprint: &Digest) -> Result<Vec<u8>, StoreError> {
        let bytes = self.part("SELECT bytes FROM traces WHERE fingerprint = ?1", fingerprint)?;
        let bytes = bytes.ok_or_else(|| StoreError::damaged_part(fingerprint, "list of inputs", "it is missing"))?;
        if Digest::of(&bytes) != *fingerprint {
            return Err(damaged_trace(fingerprint, DecodeError::Digest));
        }
        Ok(bytes)
    }

    /// The manifest whose root node has this digest.
    pub fn manifest(&self, root: &Digest) -> Result<Manifest, StoreError> {
        Manifest::from_tree(*root, |digest| {
            self.part("SELECT bytes FROM trees WHERE digest = ?1", digest)?
                .ok_or_else(|| StoreError::damaged_part(digest, "list of outputs", "it is missing"))
        })
    }

    /// A whole record.
    pub fn record(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let Some(head) = self.head(id)? else { return Ok(None) };
        let outputs = self.manifest(&head.manifest)?;
        let times = self.times(id)?;
        if times.len() != outputs.entries.len() {
            return Err(damaged(id, "times", "there are more or fewer than outputs"));
        }
        Ok(Some(Record {
            trace: self.trace(&head.fingerprint)?,
            outputs,
            times,
            captured: self.captured(id)?,
            argv: self.argv(id)?,
            head,
        }))
    }

    /// What the command printed.
    pub fn captured(&self, id: &RecordId) -> Result<Captured, StoreError> {
        let row = self.row(id)?.ok_or_else(|| gone(id))?;
        let inline = {
            let index = self.index()?;
            column(&index, "SELECT captured FROM records WHERE id = ?1", &id.0)
                .map_err(|error| self.index_error(error))?
        };
        let bytes = match inline {
            Some(bytes) if Digest::of(&bytes) != row.captured => {
                return Err(damaged(id, "output", DecodeError::Digest));
            }
            Some(bytes) => bytes,
            None => self.blob_bytes(&row.captured)?,
        };
        Captured::decode(&bytes).map_err(|error| damaged(id, "output", error))
    }

    /// The relative times of the outputs; see [`Record::times`].
    pub fn times(&self, id: &RecordId) -> Result<Vec<u64>, StoreError> {
        let (times, _) = self.details(id)?;
        decode_times(&times).map_err(|error| damaged(id, "times", error))
    }

    /// The command, for people.
    pub fn argv(&self, id: &RecordId) -> Result<Vec<Vec<u8>>, StoreError> {
        let (_, argv) = self.details(id)?;
        decode_argv(&argv).map_err(|error| damaged(id, "command", error))
    }

    /// The encoded times and command of a record, checked.
    fn details(&self, id: &RecordId) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        let row = self.row(id)?.ok_or_else(|| gone(id))?;
        let found = {
            let index = self.index()?;
            index
                .prepare_cached("SELECT times, argv FROM records WHERE id = ?1")
                .and_then(|mut query| {
                    query.query_row([&id.0.0[..]], |row| Ok((bytes(row, 0)?, bytes(row, 1)?))).optional()
                })
                .map_err(|error| self.index_error(error))?
        };
        match found {
            Some((Some(times), Some(argv))) if details_digest(&times, &argv) == row.details => Ok((times, argv)),
            Some(_) => Err(damaged(id, "times and command", DecodeError::Digest)),
            None => Err(gone(id)),
        }
    }

    /// One checked row.
    pub(crate) fn row(&self, id: &RecordId) -> Result<Option<CheckedRow>, StoreError> {
        let index = self.index()?;
        match row_by_id(&index, id).map_err(|error| self.index_error(error))? {
            None => Ok(None),
            Some(Ok(row)) => Ok(Some(row)),
            Some(Err(_)) => Err(damaged(id, "row", DecodeError::Digest)),
        }
    }

    /// The checked heads that a query gives. Damaged rows among them are left out and removed.
    fn heads(&self, sql: &str, params: impl Params) -> Result<Vec<RecordHead>, StoreError> {
        let index = self.index()?;
        let read = || -> Result<(Vec<RecordHead>, Vec<BadRow>), rusqlite::Error> {
            let mut query = index.prepare_cached(sql)?;
            let (mut heads, mut bad) = (Vec::new(), Vec::new());
            for row in query.query_map(params, read_head)? {
                match row? {
                    Ok(row) => heads.push(row.head),
                    Err(row) => bad.push(row),
                }
            }
            Ok((heads, bad))
        };
        let (heads, bad) = read().map_err(|error| self.index_error(error))?;
        for row in bad {
            // Best effort: a row that stays is left out again.
            let _ = index.execute("DELETE FROM records WHERE turn = ?1", [row.turn]);
        }
        Ok(heads)
    }

    fn part(&self, sql: &str, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        column(&*self.index()?, sql, digest).map_err(|error| self.index_error(error))
    }
}

/// A list of inputs that cannot be read.
pub fn damaged_trace(fingerprint: &Digest, error: DecodeError) -> StoreError {
    StoreError::damaged_part(fingerprint, "list of inputs", error)
}

pub(crate) fn damaged(id: &RecordId, what: &'static str, detail: impl ToString) -> StoreError {
    StoreError::DamagedRecord { id: *id, what, detail: detail.to_string() }
}

/// Somebody removed the record since its head was read.
pub(crate) fn gone(id: &RecordId) -> StoreError {
    damaged(id, "row", "it has been removed")
}

pub(crate) fn row_by_id(
    index: &Connection,
    id: &RecordId,
) -> Result<Option<Result<CheckedRow, BadRow>>, rusqlite::Error> {
    index
        .prepare_cached(&format!("SELECT {HEAD} FROM records WHERE id = ?1"))?
        .query_row([&id.0.0[..]], read_head)
        .optional()
}

/// One byte-string column of one row; `None` when the row is missing or the column empty.
fn column(index: &Connection, sql: &str, key: &Digest) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    Ok(index.prepare_cached(sql)?.query_row([&key.0[..]], |row| bytes(row, 0)).optional()?.flatten())
}

/// A column as bytes; `None` for anything that is not a byte string.
fn bytes(row: &Row<'_>, column: usize) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    Ok(match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        _ => None,
    })
}

/// Takes a row apart and checks its seal. No type is trusted: SQLite columns hold whatever their pages say.
pub(crate) fn read_head(row: &Row<'_>) -> Result<Result<CheckedRow, BadRow>, rusqlite::Error> {
    let turn = match row.get_ref(16)? {
        ValueRef::Integer(turn) => turn,
        _ => 0,
    };
    Ok(parse_head(row)?.ok_or(BadRow { turn }))
}

pub(crate) fn parse_head(row: &Row<'_>) -> Result<Option<CheckedRow>, rusqlite::Error> {
    let mut columns = Columns { row, good: true };
    let head = RecordHead {
        id: RecordId(columns.digest(0)?),
        task_key: TaskKey(columns.digest(1)?),
        own_key: OwnKey(columns.digest(2)?),
        usable: columns.integer(3)? != 0,
        fingerprint: columns.digest(4)?,
        manifest: columns.digest(5)?,
        exit_code: columns.number(6)?,
        command_ms: columns.integer(7)? as u64,
        created_ms: columns.integer(8)? as u64,
        bound_workspace: columns.optional(9)?,
        bound_home: columns.optional(10)?,
        depth: columns.number(11)?,
        output_bytes: columns.integer(12)? as u64,
    };
    let (captured, details, seal) = (columns.digest(13)?, columns.digest(14)?, columns.digest(15)?);
    let good = columns.good && head.identity(&captured) == head.id && head.seal_with(&captured, &details) == seal;
    Ok(good.then_some(CheckedRow { head, captured, details }))
}

/// Reads typed columns; a value of another type gives a placeholder and spoils the row.
struct Columns<'a, 'row> {
    row: &'a Row<'row>,
    good: bool,
}

impl Columns<'_, '_> {
    fn digest(&mut self, column: usize) -> Result<Digest, rusqlite::Error> {
        let found = match self.row.get_ref(column)? {
            ValueRef::Blob(bytes) => bytes.try_into().ok(),
            _ => None,
        };
        self.good &= found.is_some();
        Ok(Digest(found.unwrap_or_default()))
    }

    fn optional(&mut self, column: usize) -> Result<Option<Vec<u8>>, rusqlite::Error> {
        Ok(match self.row.get_ref(column)? {
            ValueRef::Blob(bytes) => Some(bytes.to_vec()),
            ValueRef::Null => None,
            _ => {
                self.good = false;
                None
            }
        })
    }

    fn integer(&mut self, column: usize) -> Result<i64, rusqlite::Error> {
        let found = match self.row.get_ref(column)? {
            ValueRef::Integer(value) => Some(value),
            _ => None,
        };
        self.good &= found.is_some();
        Ok(found.unwrap_or_default())
    }

    fn number<N: TryFrom<i64> + Default>(&mut self, column: usize) -> Result<N, rusqlite::Error> {
        let found = N::try_from(self.integer(column)?).ok();
        self.good &= found.is_some();
        Ok(found.unwrap_or_default())
    }
}

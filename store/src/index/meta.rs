//! Numbers about the whole store.

use rusqlite::{Connection, OptionalExtension, params};

/// When the store was pruned last, milliseconds since the epoch.
pub(crate) const PRUNED_MS: &str = "pruned_ms";
/// When it is to be pruned next, however small it is.
pub(crate) const DUE_MS: &str = "prune_due_ms";
/// Before when pruning again is of no use, however large it is.
pub(crate) const RETRY_MS: &str = "prune_retry_ms";
/// Its size after that.
pub(crate) const SIZE: &str = "size";
/// What was added since.
pub(crate) const ADDED: &str = "added";

/// A number; a value of another type is none.
pub(crate) fn get(index: &Connection, name: &str) -> Result<Option<u64>, rusqlite::Error> {
    let found = index
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| Ok(row.get_ref(0)?.as_i64().ok()))
        .optional()?;
    Ok(found.flatten().map(i64::cast_unsigned))
}

pub(crate) fn set(index: &Connection, name: &str, value: u64) -> Result<(), rusqlite::Error> {
    index
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value.cast_signed()])
        .map(drop)
}

/// Makes a number larger.
pub(crate) fn add(index: &Connection, name: &str, more: u64) -> Result<(), rusqlite::Error> {
    let now = get(index, name)?.unwrap_or(0);
    set(index, name, now.saturating_add(more))
}

//! What the task keys used in a workspace were made of, so that a key that was never seen before can be explained by the nearest
//! one that was. Only an explanation: nothing is decided by it.

use rusqlite::{OptionalExtension, params};

use crate::Store;
use crate::error::StoreError;
use crate::record::TaskKey;

/// How many keys of a workspace are remembered; more would make every first run of a command slower to explain.
const KEYS_MAX: u32 = 256;

impl Store {
    /// Remembers what a task key was made of, in the caller's own encoding.
    pub fn remember_key(&self, workspace: &[u8], key: &TaskKey, parts: &[u8]) -> Result<(), StoreError> {
        self.change(|change| {
            change
                .prepare_cached(
                    "INSERT OR REPLACE INTO keys (workspace, task_key, parts, turn) \
                     VALUES (?1, ?2, ?3, (SELECT ifnull(max(turn), 0) + 1 FROM keys WHERE workspace = ?1))",
                )?
                .execute(params![workspace, &key.0.0[..], parts])?;
            change
                .prepare_cached(
                    "DELETE FROM keys WHERE workspace = ?1 AND turn <= (SELECT max(turn) FROM keys WHERE workspace = ?1) - ?2",
                )?
                .execute(params![workspace, KEYS_MAX])
                .map(drop)
        })
    }

    /// What a task key was made of, if some workspace remembers it.
    pub fn key_parts(&self, key: &TaskKey) -> Result<Option<Vec<u8>>, StoreError> {
        let index = self.index()?;
        index
            .prepare_cached("SELECT parts FROM keys WHERE task_key = ?1 LIMIT 1")
            .and_then(|mut query| query.query_row(params![&key.0.0[..]], |row| row.get(0)).optional())
            .map_err(|error| self.index_error(error))
    }

    /// The same as one workspace remembers it.
    pub fn key_parts_in(&self, workspace: &[u8], key: &TaskKey) -> Result<Option<Vec<u8>>, StoreError> {
        let index = self.index()?;
        index
            .prepare_cached("SELECT parts FROM keys WHERE workspace = ?1 AND task_key = ?2")
            .and_then(|mut query| query.query_row(params![workspace, &key.0.0[..]], |row| row.get(0)).optional())
            .map_err(|error| self.index_error(error))
    }

    /// What the keys used in a workspace were made of, latest first.
    pub fn recent_keys(&self, workspace: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let index = self.index()?;
        let found = index.prepare_cached("SELECT parts FROM keys WHERE workspace = ?1 ORDER BY turn DESC").and_then(
            |mut query| {
                query.query_map(params![workspace], |row| row.get::<_, Vec<u8>>(0))?.collect::<Result<Vec<_>, _>>()
            },
        );
        found.map_err(|error| self.index_error(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn the_latest_come_first_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for number in 0..KEYS_MAX + 10 {
            let parts = number.to_le_bytes();
            store.remember_key(b"/ws", &TaskKey(Digest::of(&parts)), &parts).unwrap();
        }
        store.remember_key(b"/other", &TaskKey(Digest::of(b"x")), b"x").unwrap();
        let recent = store.recent_keys(b"/ws").unwrap();
        assert_eq!(recent.len(), KEYS_MAX as usize);
        assert_eq!(recent[0], (KEYS_MAX + 9).to_le_bytes());
        assert_eq!(store.recent_keys(b"/other").unwrap(), [b"x".to_vec()]);
        assert_eq!(store.key_parts(&TaskKey(Digest::of(b"x"))).unwrap().as_deref(), Some(&b"x"[..]));
        assert_eq!(store.key_parts(&TaskKey(Digest::of(b"y"))).unwrap(), None);
        let of = |workspace: &[u8]| store.key_parts_in(workspace, &TaskKey(Digest::of(b"x"))).unwrap();
        assert_eq!((of(b"/other").as_deref(), of(b"/ws")), (Some(&b"x"[..]), None));
    }
}

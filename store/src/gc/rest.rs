//! What is left over from workspaces that are gone, from damage and from dead runs.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::{DAY_MS, GONE_MS, Limits, World};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::layer::read_root;
use crate::{Store, disk, schema};

/// How long a damaged thing is kept for people to look at.
const QUARANTINE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How long the digest of a file is believed to be of use; computing it again once in a while costs little.
const DIGEST_NS: u64 = 90 * DAY_MS * 1_000_000;
/// How many digests are kept in any case: those of the largest trees that we know of, three times.
const DIGESTS_MAX: u32 = 1_000_000;
/// How long it takes until a lock whose workspace is unknown is nobody's.
const LOCK_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How much of the index must be empty to write it anew, in bytes and as a part.
const EMPTY_BYTES_MIN: i64 = 16 * 1024 * 1024;
const EMPTY_PART_MIN: i64 = 2;
/// How long writing it anew waits for others.
const SOON: Duration = Duration::from_millis(200);

const LOCKS: &str = "locks";

impl Store {
    /// Forgets workspaces that have been gone for long, and what layers of such would show.
    pub(super) fn forget_gone(&self, limits: &Limits, world: &dyn World, now_ms: u64) -> Result<(), StoreError> {
        let grace_ms = if limits.everything { 0 } else { GONE_MS };
        let known = {
            let index = self.index()?;
            workspaces(&index).map_err(|error| self.index_error(error))?
        };
        let long_ago = |at_ms: u64| now_ms.saturating_sub(at_ms) >= grace_ms;
        for (workspace, at_ms) in known {
            if !workspace.is_empty() && long_ago(at_ms) && world.is_gone(&workspace) {
                self.change(|change| forget(change, &workspace))?;
            }
        }
        for layer in self.layers()? {
            let path = self.layer_log(&layer);
            let Ok(facts) = disk::stat(&path) else { continue };
            let at_ms = facts.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let Some(root) = read_root(&self.layer_dir(&layer))?.filter(|root| Digest::of(root) == layer) else {
                continue;
            };
            if facts.size > 0 && long_ago(at_ms) && world.is_gone(&root) {
                match self.open_layer(&root) {
                    Ok((mut log, _)) => log.rewrite(&[])?,
                    Err(StoreError::LayerInUse { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Removes everything else that is of no use any more.
    pub(super) fn tidy(&self, limits: &Limits, damaged: &[i64], now_ms: u64) -> Result<(), StoreError> {
        let old_ns = (now_ms * 1_000_000).saturating_sub(DIGEST_NS).cast_signed();
        self.change(|change| {
            for turn in damaged {
                change.prepare_cached("DELETE FROM records WHERE turn = ?1")?.execute([turn])?;
            }
            change.execute("DELETE FROM last WHERE record_id NOT IN (SELECT id FROM records)", [])?;
            change.execute("DELETE FROM uses WHERE turn NOT IN (SELECT turn FROM records)", [])?;
            if limits.everything {
                change.execute("DELETE FROM keys", [])?;
                change.execute("DELETE FROM digests", [])?;
            }
            change.execute("DELETE FROM digests WHERE hashed_at_ns < ?1", [old_ns])?;
            change.execute(
                "DELETE FROM digests WHERE hashed_at_ns < \
                 (SELECT hashed_at_ns FROM digests ORDER BY hashed_at_ns DESC LIMIT 1 OFFSET ?1)",
                [DIGESTS_MAX],
            )?;
            Ok(())
        })?;
        for path in self.quarantined()? {
            let Ok(facts) = disk::stat(&path) else { continue };
            if is_older(facts.changed(), QUARANTINE) || limits.everything {
                let removed = if facts.is_dir { disk::remove_tree(&path) } else { disk::unlink(&path) };
                removed.map_err(StoreError::disk("remove", &path))?;
            }
        }
        if limits.everything {
            self.drop_stamps()?;
        }
        self.remove_locks()?;
        self.sweep_staging()?;
        self.compact(limits.everything);
        Ok(())
    }

    /// Removes the locks of workspaces that are not known any more.
    fn remove_locks(&self) -> Result<(), StoreError> {
        let known: HashSet<String> = {
            let index = self.index()?;
            let known = workspaces(&index).map_err(|error| self.index_error(error))?;
            known.iter().map(|(workspace, _)| Digest::of(workspace).to_string()).collect()
        };
        let shelf = self.dir().join(LOCKS);
        if !disk::stat(&shelf).is_ok_and(|facts| facts.is_dir) {
            return Ok(());
        }
        for path in disk::list(&shelf).map_err(StoreError::disk("list", &shelf))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let aged = disk::stat(&path).is_ok_and(|facts| is_older(facts.changed(), LOCK_AGE));
            if known.contains(name) || name.parse::<Digest>().is_err() || !aged {
                continue;
            }
            // Who waits for it sees that it has no name any more, and makes another one.
            let lock = disk::open_lock(&path).map_err(StoreError::disk("open", &path))?;
            if disk::try_lock(&lock, true).map_err(StoreError::disk("lock", &path))? {
                disk::unlink(&path).map_err(StoreError::disk("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Gives pages of the index back that are empty. Best effort: whoever uses the index goes first.
    fn compact(&self, always: bool) {
        let Ok(index) = self.index() else { return };
        let pragma =
            |name: &str| index.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap_or(0);
        let (empty, all, page) = (pragma("freelist_count"), pragma("page_count"), pragma("page_size"));
        let worth_it = empty * page > EMPTY_BYTES_MIN && empty * EMPTY_PART_MIN > all;
        if always || worth_it {
            let _ = index.busy_timeout(SOON);
            let _ = index.execute_batch("VACUUM");
            let _ = index.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            let _ = index.busy_timeout(schema::BUSY);
        }
    }
}

/// Every workspace that is known, and when something was last known of it.
fn workspaces(index: &Connection) -> Result<Vec<(Vec<u8>, u64)>, rusqlite::Error> {
    let mut query = index.prepare(
        "SELECT workspace, max(at_ms) FROM (SELECT workspace, at_ms FROM last \
         UNION ALL SELECT workspace, last_ms FROM runs UNION ALL SELECT workspace, 0 FROM keys) GROUP BY workspace",
    )?;
    let rows = query.query_map([], |row| {
        Ok((
            row.get_ref(0)?.as_blob().unwrap_or_default().to_vec(),
            row.get_ref(1)?.as_i64().unwrap_or(0).cast_unsigned(),
        ))
    })?;
    rows.collect()
}

/// What was counted there stays counted, under no name.
fn forget(change: &Connection, workspace: &[u8]) -> Result<(), rusqlite::Error> {
    change.execute("DELETE FROM last WHERE workspace = ?1", params![workspace])?;
    change.execute("DELETE FROM keys WHERE workspace = ?1", params![workspace])?;
    change.execute(
        "INSERT INTO runs (workspace, outcome, reason, runs, lookup_us, work_us, command_ms, saved_us, last_ms) \
         SELECT x'', outcome, reason, runs, lookup_us, work_us, command_ms, saved_us, last_ms FROM runs WHERE workspace = ?1 \
         ON CONFLICT (workspace, outcome, reason) DO UPDATE SET runs = runs + excluded.runs, \
         lookup_us = lookup_us + excluded.lookup_us, work_us = work_us + excluded.work_us, \
         command_ms = command_ms + excluded.command_ms, saved_us = saved_us + excluded.saved_us, \
         last_ms = max(last_ms, excluded.last_ms)",
        params![workspace],
    )?;
    change.execute("DELETE FROM runs WHERE workspace = ?1", params![workspace]).map(drop)
}

fn is_older(at: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(at).is_ok_and(|since| since > age)
}

//! Removing, in short batches, each alone with the store and after a look at what has come since the decision.
//!
//! Rows go before the blobs that only they need, and are committed before. Whoever dies in between leaves blobs that nobody needs, or files in
//! staging: the next pruning, or the next sweep, finds them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use super::World;
use super::hold::Alone;
use super::marks::{LayerStamps, Marks, Nodes, standing};
use crate::blob::unique_name;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::insert::{demote, remove};
use crate::index::{HEAD, read_head, row_by_id};
use crate::{Store, disk, format, schema};

/// How long one batch keeps others waiting; a blob or a row more may be under way.
const BATCH: Duration = Duration::from_millis(20);
/// How long others have between two batches: longer than they take to look for the lock again (`disk::LOCK_POLL`).
const PAUSE: Duration = Duration::from_millis(6);
/// How much the clock is believed to jump.
const CLOCK_DOUBT_MS: u64 = 60_000;
/// Rows that one transaction removes.
const ROWS: usize = 100;

/// What has come since the marks were taken.
#[derive(Default)]
struct Spared {
    blobs: HashSet<Digest>,
    traces: HashSet<Digest>,
    trees: HashSet<Digest>,
}

/// Removes what was decided.
pub(super) struct Sweep<'s> {
    store: &'s Store,
    /// The index that was read: another one may have taken its place.
    index: u64,
    /// SQLite's count of what others have committed.
    version: i64,
    layers: LayerStamps,
    turn: i64,
    since_ms: u64,
    patience: Duration,
    /// When others were let in last.
    released: Instant,
    spared: Spared,
}

/// A record that goes.
pub(super) struct Leaving {
    pub turn: i64,
    pub used_ms: u64,
    /// Lookups may use it until it goes.
    pub usable: bool,
    /// It stays as one that only tells what it left.
    pub remembered: bool,
}

impl<'s> Sweep<'s> {
    /// To be called before the marks are taken.
    pub fn begin(store: &'s Store, patience: Duration) -> Result<Sweep<'s>, StoreError> {
        let index = inode(store)?;
        let version = store.data_version()?;
        let layers = store.layer_stamps()?;
        let since_ms = disk::now_ms().saturating_sub(CLOCK_DOUBT_MS);
        Ok(Sweep {
            store,
            index,
            version,
            layers,
            turn: 0,
            since_ms,
            patience,
            released: Instant::now(),
            spared: Spared::default(),
        })
    }

    /// The marks hold what was there until this turn.
    pub fn marked(&mut self, marks: &Marks) {
        self.turn = marks.turn;
    }

    /// Waits until nobody relies on the store; `None` if somebody always does.
    fn alone(&mut self) -> Result<Option<Alone>, StoreError> {
        std::thread::sleep(PAUSE.saturating_sub(self.released.elapsed()));
        let Some(alone) = self.store.alone(self.patience)? else { return Ok(None) };
        if inode(self.store)? != self.index {
            // It was damaged and set aside: nothing is known of what the new one needs.
            let detail = "it was set aside while the cache was pruned".to_owned();
            return Err(StoreError::Index { path: schema::index_path(self.store.dir()), detail });
        }
        let version = self.store.data_version()?;
        if version != self.version {
            self.version = version;
            let index = self.store.index()?;
            self.turn =
                self.spared.read(&index, self.turn, self.since_ms).map_err(|error| self.store.index_error(error))?;
        }
        let layers = self.store.layer_stamps()?;
        if layers != self.layers {
            self.spared.blobs.extend(self.store.pinned()?);
            self.layers = layers;
        }
        Ok(Some(alone))
    }

    fn release(&mut self, alone: Alone) {
        drop(alone);
        self.released = Instant::now();
    }

    /// Takes records out of use, unless they were used since. Says which of them went; `false` if it had to give up.
    pub fn evict(&mut self, leaving: &[Leaving], gone: &mut HashSet<i64>) -> Result<bool, StoreError> {
        for some in leaving.chunks(ROWS) {
            let Some(alone) = self.alone()? else { return Ok(false) };
            let went = self.store.change(|change| {
                let mut went = Vec::new();
                for record in some {
                    if evict(change, record)? {
                        went.push(record.turn);
                    }
                }
                Ok(went)
            })?;
            gone.extend(went);
            self.release(alone);
        }
        Ok(true)
    }

    /// Removes blobs; `false` if it had to give up.
    pub fn blobs(&mut self, garbage: &[Digest], world: &dyn World) -> Result<bool, StoreError> {
        let mut todo = garbage.iter();
        loop {
            world.progress("removing files", (garbage.len() - todo.len()) as u64, garbage.len() as u64);
            let Some(alone) = self.alone()? else { return Ok(false) };
            let (began, mut trash) = (Instant::now(), Vec::new());
            let mut failed = None;
            let done = loop {
                let Some(digest) = todo.next() else { break true };
                if self.spared.blobs.contains(digest) {
                    continue;
                }
                match self.store.take_away(digest) {
                    Ok(found) => trash.extend(found),
                    Err(error) => {
                        failed = Some(error);
                        break true;
                    }
                }
                if began.elapsed() > BATCH {
                    break false;
                }
            };
            // Nobody waits while the blocks of large files are given back.
            self.release(alone);
            for path in trash {
                disk::unlink(&path).map_err(StoreError::disk("remove", &path))?;
            }
            match failed {
                Some(error) => return Err(error),
                None if done => return Ok(true),
                None => {}
            }
        }
    }

    /// Removes traces and tree nodes that no record needs; `false` if it had to give up.
    pub fn parts(&mut self, marks: &mut Marks, gone: &HashSet<i64>) -> Result<bool, StoreError> {
        let (traces, trees) = {
            let index = self.store.index()?;
            unneeded(&index, marks, gone).map_err(|error| self.store.index_error(error))?
        };
        for (table, key, unneeded) in [("traces", "fingerprint", traces), ("trees", "digest", trees)] {
            let sql = format!("DELETE FROM {table} WHERE {key} = ?1");
            for some in unneeded.chunks(ROWS) {
                let Some(alone) = self.alone()? else { return Ok(false) };
                let spared = if table == "traces" { &self.spared.traces } else { &self.spared.trees };
                self.store.change(|change| {
                    for digest in some.iter().filter(|digest| !spared.contains(*digest)) {
                        change.prepare_cached(&sql)?.execute([&digest.0[..]])?;
                    }
                    Ok(())
                })?;
                self.release(alone);
            }
        }
        Ok(true)
    }
}

impl Spared {
    /// Notes what records need that came after `turn`, and the traces of those that were used since: the outputs of one that is of no use
    /// may stand somewhere by now. Gives the last turn.
    fn read(&mut self, index: &Connection, turn: i64, since_ms: u64) -> Result<i64, rusqlite::Error> {
        let mut nodes = Nodes::default();
        let mut last = turn;
        let mut query =
            index.prepare_cached(&format!("SELECT {HEAD}, captured IS NOT NULL FROM records WHERE turn > ?1"))?;
        let mut rows = query.query([turn])?;
        while let Some(row) = rows.next()? {
            last = last.max(row.get(16)?);
            let Ok(checked) = read_head(row)? else { continue };
            self.traces.insert(checked.head.fingerprint);
            nodes.reach(index, &checked.head.manifest, &mut self.trees)?;
            if checked.head.usable {
                self.blobs.extend(nodes.blobs(index, &checked.head.manifest)?.unwrap_or_default());
                self.blobs.extend((!row.get::<_, bool>(17)?).then_some(checked.captured));
            }
        }
        let mut used =
            index.prepare_cached("SELECT fingerprint FROM records JOIN uses USING (turn) WHERE uses.used_ms >= ?1")?;
        let rows = used.query_map([since_ms.cast_signed()], |row| {
            Ok(row.get_ref(0)?.as_blob().ok().and_then(|bytes| bytes.try_into().ok()))
        })?;
        for fingerprint in rows {
            self.traces.extend(fingerprint?.map(Digest));
        }
        Ok(last)
    }
}

/// Whether it went; one that was used, changed or removed meanwhile does not.
fn evict(change: &Connection, record: &Leaving) -> Result<bool, rusqlite::Error> {
    let found = change
        .prepare_cached(&format!(
            "SELECT {HEAD}, ifnull(uses.used_ms, records.used_ms), EXISTS (SELECT 1 FROM last WHERE record_id = records.id) \
             FROM records LEFT JOIN uses USING (turn) WHERE turn = ?1"
        ))?
        .query_row(params![record.turn], |row| {
            let used_ms = row.get_ref(17)?.as_i64().unwrap_or(0).cast_unsigned();
            Ok((read_head(row)?.ok(), used_ms, row.get::<_, bool>(18)?))
        })
        .optional()?;
    let Some((Some(checked), used_ms, stands)) = found else { return Ok(false) };
    if used_ms != record.used_ms {
        return Ok(false);
    }
    match record.remembered || stands {
        true => demote(change, &checked.head)?,
        false => remove(change, &checked.head.id)?,
    }
    Ok(true)
}

/// Traces that no usable record has and none whose outputs stand somewhere; tree nodes that no record has.
fn unneeded(
    index: &Connection,
    marks: &mut Marks,
    gone: &HashSet<i64>,
) -> Result<(Vec<Digest>, Vec<Digest>), rusqlite::Error> {
    let (mut traces, mut trees) = (HashSet::new(), HashSet::new());
    let snapshot = index.unchecked_transaction()?;
    for standing in standing(&snapshot)? {
        if let Some(Ok(row)) = row_by_id(&snapshot, &standing.record)? {
            traces.insert(row.head.fingerprint);
        }
    }
    let Marks { entries, nodes, .. } = marks;
    for entry in entries.iter() {
        let evicted = gone.contains(&entry.turn);
        if evicted && row_by_id(&snapshot, &entry.head.id)?.is_none() {
            continue;
        }
        nodes.reach(&snapshot, &entry.head.manifest, &mut trees)?;
        if entry.head.usable && !evicted {
            traces.insert(entry.head.fingerprint);
        }
    }
    let absent = |sql: &str, needed: &HashSet<Digest>| -> Result<Vec<Digest>, rusqlite::Error> {
        let mut query = snapshot.prepare(sql)?;
        let rows = query.query_map([], |row| Ok(row.get_ref(0)?.as_blob().ok().and_then(|key| key.try_into().ok())))?;
        let keys = rows.filter_map(Result::transpose).map(|key| key.map(Digest));
        keys.filter(|key| !key.as_ref().is_ok_and(|key| needed.contains(key))).collect()
    };
    Ok((absent("SELECT fingerprint FROM traces", &traces)?, absent("SELECT digest FROM trees", &trees)?))
}

fn inode(store: &Store) -> Result<u64, StoreError> {
    let path = schema::index_path(store.dir());
    Ok(disk::stat(&path).map_err(StoreError::disk("read the attributes of", path))?.inode)
}

impl Store {
    fn data_version(&self) -> Result<i64, StoreError> {
        let index = self.index()?;
        index.query_row("PRAGMA data_version", [], |row| row.get(0)).map_err(|error| self.index_error(error))
    }

    /// Moves a blob to staging; says where it is now. One that is gone is fine.
    fn take_away(&self, digest: &Digest) -> Result<Option<PathBuf>, StoreError> {
        let (path, aside) = (self.blob_path(digest), self.dir().join(format::STAGING).join(unique_name("gone")));
        match disk::rename(&path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::disk("remove", path)(error)),
        }
    }
}

//! Pruning: what is too old, too much, or needed by nobody goes.
//!
//! ```text
//! marks    all records, which blobs, traces and tree nodes each needs, what layers show, what lies on the disk
//! choose   which records go: those of no use, too old, least recently used
//! sweep    in short batches, alone with the store (`gc.lock`), each after a look at what has come since: rows, then blobs, then parts
//! rest     what is left over from workspaces that are gone, from damage, from dead runs; old digests
//! ```
//! Invariants:
//! - A record whose outputs may stand in some workspace is never forgotten, only made unusable: its manifest still tells which files there
//!   are own outputs. Unusable records need no blobs.
//! - What a layer may show is never removed.
//! - Nothing is removed that a run has found or placed since it began to hold the store ([`Hold`]).
//! - At any instant at most blobs, traces and nodes are there that nobody needs; never a usable record without them.
//!
//! One process prunes at a time (`prune.lock`, never waited for).

mod choose;
mod hold;
mod marks;
mod rest;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::time::Duration;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::meta;
use crate::manifest::{Manifest, Output};
use crate::{Store, disk};

use choose::choose;
pub use hold::Hold;
use marks::{Entry, Marks};
use sweep::{Leaving, Sweep};

const LOCK: &str = "prune.lock";

/// How long a workspace may be gone before it is forgotten: a disk may be unplugged for a while.
const GONE_MS: u64 = 30 * DAY_MS;
/// How often a store is pruned at least.
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long to leave a store alone that cannot be made smaller.
const RETRY_MS: u64 = 10 * 60 * 1000;

/// What may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest size of the cache ([`crate::Sizes::total`]).
    pub max_bytes: Option<u64>,
    /// How small to make it, if it is larger than that; so small as just to fit if nothing is said.
    pub aim_bytes: Option<u64>,
    /// How long a record may be unused.
    pub max_age_ms: Option<u64>,
    /// Nothing may stay but what layers show, and what tells own outputs.
    pub everything: bool,
    /// How long to wait, each time, for others to be done with what they do.
    pub patience: Duration,
    /// Looking takes as long as it likes: see [`World::step_back`].
    pub unhurried: bool,
}

impl Default for Limits {
    /// No limits: what nobody needs goes.
    fn default() -> Limits {
        Limits {
            max_bytes: None,
            aim_bytes: None,
            max_age_ms: None,
            everything: false,
            patience: Duration::from_secs(20),
            unhurried: false,
        }
    }
}

/// What pruning asks of the world outside of the store, and tells it.
pub trait World: Sync {
    /// Whether it is certain that nothing is at an absolute path.
    fn is_gone(&self, path: &[u8]) -> bool;

    /// Whether this output may stand at a path of a workspace: when in doubt, it does.
    fn stands(&self, workspace: &[u8], path: &[u8], output: &Output) -> bool;

    /// Called in a thread that looks and holds no lock: what removes must not be slower than those who wait for it.
    fn step_back(&self) {}

    /// Something is done, of so much.
    fn progress(&self, _what: &'static str, _done: u64, _all: u64) {}
}

/// What pruning came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Usable records that went, or would.
    pub entries: u64,
    /// Bytes that the cache shrank by, or would.
    pub bytes: u64,
    /// Usable records that are left.
    pub entries_left: u64,
    /// The size of the cache now, or then.
    pub bytes_left: u64,
    /// Bytes that stay in any case, since layers show them.
    pub bytes_shown: u64,
    /// Others used the store all the time: not all was done.
    pub gave_up: bool,
}

impl Store {
    /// Prunes; with `dry_run` only says what would go. [`StoreError::PrunedElsewhere`] if another process is at it.
    pub fn prune(&self, limits: &Limits, world: &dyn World, dry_run: bool) -> Result<Pruned, StoreError> {
        let _one = self.prune_lock()?;
        let now_ms = disk::now_ms();
        if !dry_run {
            self.forget_gone(limits, world, now_ms)?;
        }
        world.progress("looking at the cache", 0, 0);
        let mut sweep = Sweep::begin(self, limits.patience)?;
        let mut marks = match limits.unhurried {
            true => self.marks_apart(world)?,
            false => Marks::take(self)?,
        };
        sweep.marked(&marks);
        let choice = choose(&marks, limits, now_ms);
        let shown = (0..marks.blobs.len()).filter(|blob| marks.pinned[*blob]).map(|blob| marks.size(blob as u32));
        let mut pruned = Pruned {
            entries: choice.evicted.len() as u64,
            bytes: choice.size_before - choice.size_after,
            entries_left: choice.entries_after,
            bytes_left: choice.size_after,
            bytes_shown: shown.sum(),
            gave_up: false,
        };
        if dry_run {
            return Ok(pruned);
        }
        let mut gone = HashSet::new();
        let leaving = self.leaving(&marks, &choice.evicted, world)?;
        let mut whole = sweep.evict(&leaving, &mut gone)?;
        let live = live(&marks, &gone);
        let garbage = marks.blobs.iter().zip(&marks.sizes).zip(&live);
        let garbage: Vec<Digest> =
            garbage.filter(|((_, size), live)| size.is_some() && !**live).map(|((digest, _), _)| *digest).collect();
        if whole {
            whole = sweep.blobs(&garbage, world)?;
        }
        if whole {
            whole = sweep.parts(&mut marks, &gone)?;
        }
        if !whole {
            // Said as it is: some of what was to go is still there.
            let sizes = self.sizes()?;
            pruned.bytes = choice.size_before.saturating_sub(sizes.total());
            (pruned.entries_left, pruned.bytes_left, pruned.gave_up) = (sizes.entries, sizes.total(), true);
            pruned.entries =
                leaving.iter().filter(|leaving| leaving.usable && gone.contains(&leaving.turn)).count() as u64;
        }
        self.tidy(limits, &marks.damaged, now_ms)?;
        self.remember_pruned(&pruned, limits, marks.added, now_ms)?;
        Ok(pruned)
    }

    fn marks_apart(&self, world: &dyn World) -> Result<Marks, StoreError> {
        let look = || {
            world.step_back();
            Marks::take(self)
        };
        let looked = std::thread::scope(|scope| scope.spawn(look).join());
        looked.unwrap_or_else(|_| {
            let source = std::io::Error::other("the thread that looked at it stopped");
            Err(StoreError::Disk { doing: "look at", path: self.dir().to_owned(), source })
        })
    }

    /// Which records have to go, and which of them must be remembered.
    fn leaving(&self, marks: &Marks, evicted: &[usize], world: &dyn World) -> Result<Vec<Leaving>, StoreError> {
        let unusable = (0..marks.entries.len()).filter(|at| !marks.entries[*at].head.usable);
        let mut known = Known::of(marks);
        let mut leaving = Vec::new();
        for at in evicted.iter().copied().chain(unusable) {
            let entry = &marks.entries[at];
            let remembered = self.is_remembered(entry, &mut known, world)?;
            if entry.head.usable || !remembered {
                let (turn, used_ms, usable) = (entry.turn, entry.used_ms, entry.head.usable);
                leaving.push(Leaving { turn, used_ms, usable, remembered });
            }
        }
        Ok(leaving)
    }

    /// Whether what a record left may stand somewhere, and nothing else tells so.
    fn is_remembered(&self, entry: &Entry, known: &mut Known<'_>, world: &dyn World) -> Result<bool, StoreError> {
        if known.standing.contains(&entry.head.id.0) {
            return Ok(true);
        }
        let Some(places) = known.places.get(&entry.head.own_key.0) else { return Ok(false) };
        let Some(manifest) = self.readable(&entry.head.manifest)? else { return Ok(false) };
        for (workspace, last) in places {
            // What stands there as the last run left it is told by that one's record.
            let root = last.and_then(|last| known.manifests.get(&last));
            if root == Some(&entry.head.manifest) {
                continue;
            }
            if known.told.as_ref().map(|(told, _)| told) != root {
                known.told = match root {
                    Some(root) => self.readable(root)?.map(|told| (*root, outputs(told))),
                    None => None,
                };
            }
            let told = known.told.as_ref().map(|(_, told)| told);
            let stands = manifest.entries.iter().any(|entry| {
                let file = matches!(entry.output, Output::File { .. } | Output::Link { .. });
                let is_told = || told.is_some_and(|told| told.get(&entry.path) == Some(&entry.output));
                file && !entry.modified && !is_told() && world.stands(workspace, &entry.path, &entry.output)
            });
            if stands {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn readable(&self, root: &Digest) -> Result<Option<Manifest>, StoreError> {
        match self.manifest(root) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// When the store was pruned last, milliseconds since the epoch.
    pub fn last_pruned(&self) -> Result<Option<u64>, StoreError> {
        meta::get(&*self.index()?, meta::PRUNED_MS).map_err(|error| self.index_error(error))
    }

    /// Whether it is time to prune: a day after the last time, or when the store seems to have outgrown its limit. Looks at no blob, and
    /// so may be wrong by what was removed or recorded twice.
    pub fn should_prune(&self, max_bytes: Option<u64>, now_ms: u64) -> Result<bool, StoreError> {
        let index = self.index()?;
        let number = |name| meta::get(&index, name);
        let look = || -> Result<bool, rusqlite::Error> {
            if number(meta::DUE_MS)?.is_none_or(|due_ms| now_ms >= due_ms) {
                return Ok(true);
            }
            let size = number(meta::SIZE)?.unwrap_or(0).saturating_add(number(meta::ADDED)?.unwrap_or(0));
            let over = max_bytes.is_some_and(|max| size > max);
            Ok(over && number(meta::RETRY_MS)?.is_none_or(|retry_ms| now_ms >= retry_ms))
        };
        look().map_err(|error| self.index_error(error))
    }

    /// Whether a process is pruning now.
    pub fn is_being_pruned(&self) -> bool {
        matches!(self.prune_lock(), Err(StoreError::PrunedElsewhere { .. }))
    }

    fn prune_lock(&self) -> Result<File, StoreError> {
        let path = self.dir().join(LOCK);
        let lock = disk::open_lock(&path).map_err(StoreError::disk("open", &path))?;
        match disk::try_lock(&lock, true).map_err(StoreError::disk("lock", &path))? {
            true => Ok(lock),
            false => Err(StoreError::PrunedElsewhere { path: self.dir().to_owned() }),
        }
    }

    fn remember_pruned(&self, pruned: &Pruned, limits: &Limits, counted: u64, now_ms: u64) -> Result<(), StoreError> {
        let over = limits.max_bytes.is_some_and(|max| pruned.bytes_left > max);
        self.change(|change| {
            let added = meta::get(change, meta::ADDED)?.unwrap_or(0);
            meta::set(change, meta::ADDED, added.saturating_sub(counted))?;
            meta::set(change, meta::SIZE, pruned.bytes_left)?;
            meta::set(change, meta::PRUNED_MS, now_ms)?;
            meta::set(change, meta::DUE_MS, now_ms + DAY_MS)?;
            meta::set(change, meta::RETRY_MS, if over { now_ms + RETRY_MS } else { 0 })
        })
    }
}

/// Which blobs are needed when these records are gone.
fn live(marks: &Marks, gone: &HashSet<i64>) -> Vec<bool> {
    let mut live = marks.pinned.clone();
    for entry in marks.entries.iter().filter(|entry| entry.head.usable && !gone.contains(&entry.turn)) {
        for blob in entry.blobs.iter().flat_map(|blobs| blobs.iter()) {
            live[*blob as usize] = true;
        }
    }
    live
}

/// What stands where, arranged for asking.
struct Known<'m> {
    /// Records whose outputs stand somewhere.
    standing: HashSet<Digest>,
    /// Where a task ran, by its own key: the workspaces, and whose outputs stand there if that is known.
    places: HashMap<Digest, HashMap<&'m [u8], Option<Digest>>>,
    /// Manifests of the records that stand.
    manifests: HashMap<Digest, Digest>,
    /// The one of them that was read last.
    told: Option<(Digest, HashMap<Vec<u8>, Output>)>,
}

impl<'m> Known<'m> {
    fn of(marks: &'m Marks) -> Known<'m> {
        let standing: HashSet<Digest> = marks.standing.iter().map(|standing| standing.record.0).collect();
        let mut places = HashMap::<Digest, HashMap<&[u8], Option<Digest>>>::new();
        // Of a run after which the next one starts from clean only the key is known.
        let mut ran = HashMap::<&Digest, Vec<&[u8]>>::new();
        for (workspace, key) in &marks.ran {
            ran.entry(&key.0).or_default().push(workspace);
        }
        for entry in &marks.entries {
            for workspace in ran.get(&entry.head.task_key.0).into_iter().flatten() {
                places.entry(entry.head.own_key.0).or_default().entry(workspace).or_default();
            }
        }
        for place in &marks.standing {
            places.entry(place.own_key.0).or_default().insert(&place.workspace, Some(place.record.0));
        }
        let stands = |entry: &&Entry| standing.contains(&entry.head.id.0);
        let manifests =
            marks.entries.iter().filter(stands).map(|entry| (entry.head.id.0, entry.head.manifest)).collect();
        Known { standing, places, manifests, told: None }
    }
}

fn outputs(manifest: Manifest) -> HashMap<Vec<u8>, Output> {
    manifest.entries.into_iter().map(|entry| (entry.path, entry.output)).collect()
}

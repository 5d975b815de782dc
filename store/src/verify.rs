//! Verification: everything that is stored is read and compared with what its name or its seal says.
//!
//! Blobs that are no longer what their name says go to quarantine if that is asked for, and records that miss a blob or a part are taken out of use: so
//! damage is a miss. Which files a layer shows of lost blobs, who knows layers adds; nothing here can bring bytes back.
//! No pruning takes anything away meanwhile ([`Store::hold`]); runs go on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::row_by_id;
use crate::manifest::Output;
use crate::record::{RecordHead, RecordId};
use crate::{Store, schema};

/// More threads than this only wait for the disk.
const THREADS_MAX: usize = 8;

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The index as a whole.
    Index,
    /// A record.
    Record,
    /// A blob.
    Blob,
    /// What a mounted tree shows.
    Layer,
}

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// What it is.
    pub part: Part,
    /// Which: the digest of a blob or of a record, the path of a mounted tree, the path of the index.
    pub name: String,
    /// What is wrong with it, in words.
    pub detail: String,
    /// Whether it can do no harm and costs no more than a miss from now on.
    pub repaired: bool,
    /// Of a mounted tree: the files it is about, relative to it.
    pub files: Vec<Vec<u8>>,
}

/// What verifying came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were read.
    pub records: u64,
    /// Layers that were read.
    pub layers: u64,
    /// What is damaged, by kind and name.
    pub flaws: Vec<Flaw>,
}

impl Verified {
    /// How much damage is left.
    pub fn unrepaired(&self) -> usize {
        self.flaws.iter().filter(|flaw| !flaw.repaired).count()
    }

    fn note(&mut self, part: Part, name: String, detail: impl ToString, repaired: bool) {
        self.flaws.push(Flaw { part, name, detail: detail.to_string(), repaired, files: Vec::new() });
    }
}

impl Store {
    /// Reads everything and says what is damaged; with `repair` that is put out of the way. `progress` hears how many blobs of how many are
    /// hashed, from several threads.
    ///
    /// After the index itself was repaired the store must be opened again: only then it is set aside.
    pub fn verify(&self, repair: bool, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Verified, StoreError> {
        let _hold = self.hold()?;
        let mut verified = Verified::default();
        let lost = self.verify_blobs(&mut verified, repair, progress)?;
        let index = schema::index_path(self.dir()).display().to_string();
        let flaw = {
            let connection = self.index()?;
            schema::flaw(self.dir(), &connection)?
        };
        match flaw {
            Some(detail) => {
                if repair {
                    schema::mark_damaged(self.dir());
                }
                verified.note(Part::Index, index, detail, repair);
            }
            None => match self.verify_records(&mut verified, &lost, repair) {
                Err(error) if error.is_damage() => {
                    if repair {
                        schema::mark_damaged(self.dir());
                    }
                    verified.note(Part::Index, index, error, repair);
                }
                done => done?,
            },
        }
        self.read_layers(&mut verified)?;
        verified.flaws.sort_by(|one, other| (one.part, &one.name).cmp(&(other.part, &other.name)));
        Ok(verified)
    }

    /// Hashes every blob; gives those that are not what their name says.
    fn verify_blobs(
        &self,
        verified: &mut Verified,
        repair: bool,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<HashSet<Digest>, StoreError> {
        let blobs = self.blobs()?;
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let found: Mutex<BTreeMap<Digest, Result<(), StoreError>>> = Mutex::default();
        let work = || {
            while let Some((digest, _)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let checked = self.verify_blob(digest);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, blobs.len() as u64);
                if checked.is_err() {
                    found.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, checked);
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        verified.blobs = blobs.len() as u64;
        verified.bytes = blobs.iter().map(|(_, facts)| facts.size).sum();
        let mut lost = HashSet::new();
        for (digest, checked) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match checked {
                // Somebody else put it out of the way meanwhile.
                Ok(()) | Err(StoreError::MissingBlob { .. }) => {}
                Err(StoreError::DamagedBlob { detail, .. }) => {
                    if repair {
                        self.quarantine(&digest)?;
                    }
                    lost.insert(digest);
                    verified.note(Part::Blob, digest.to_string(), detail, repair);
                }
                // No descriptors, no permission: that says nothing about the blob.
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }

    /// Reads every record with all its parts.
    fn verify_records(&self, verified: &mut Verified, lost: &HashSet<Digest>, repair: bool) -> Result<(), StoreError> {
        let ids: Vec<RecordId> = {
            let index = self.index()?;
            let read = || -> Result<Vec<RecordId>, rusqlite::Error> {
                let mut query = index.prepare("SELECT id FROM records ORDER BY turn")?;
                let rows = query.query_map([], |row| {
                    Ok(row.get_ref(0)?.as_blob().ok().and_then(|id| id.try_into().ok()).map(|id| RecordId(Digest(id))))
                })?;
                Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
            };
            read().map_err(|error| self.index_error(error))?
        };
        for id in ids {
            let checked = {
                let index = self.index()?;
                row_by_id(&index, &id).map_err(|error| self.index_error(error))?
            };
            // One that a run replaced meanwhile is none.
            let Some(checked) = checked else { continue };
            verified.records += 1;
            let name = id.0.to_string();
            let Ok(row) = checked else {
                if repair {
                    self.retire(&id)?;
                }
                verified.note(Part::Record, name, "its row has changed", repair);
                continue;
            };
            match self.verify_record(&row.head, lost) {
                Ok(()) => {}
                Err(error) if error.is_damage() => {
                    if repair {
                        // What it left in workspaces stays known as long as that can be read.
                        match self.manifest(&row.head.manifest) {
                            Ok(_) => self.retire(&id)?,
                            Err(error) if error.is_damage() => self.drop_record(&id)?,
                            Err(error) => return Err(error),
                        }
                    }
                    verified.note(Part::Record, name, error, repair);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn verify_record(&self, head: &RecordHead, lost: &HashSet<Digest>) -> Result<(), StoreError> {
        if !head.usable {
            // Kept only to know what it left: its blobs may be gone.
            return self.manifest(&head.manifest).map(drop);
        }
        let Some(record) = self.record(&head.id)? else { return Ok(()) };
        for entry in &record.outputs.entries {
            if let Output::File { digest, size, .. } = &entry.output {
                if lost.contains(digest) {
                    return Err(StoreError::DamagedBlob {
                        digest: *digest,
                        detail: "its bytes have changed".to_owned(),
                    });
                }
                self.expect_blob(digest, Some(*size))?;
            }
        }
        Ok(())
    }

    /// The layers alone.
    pub fn verify_layers(&self) -> Result<Verified, StoreError> {
        let _hold = self.hold()?;
        let mut verified = Verified::default();
        self.read_layers(&mut verified)?;
        Ok(verified)
    }

    /// Reads every layer. Which files it shows only who knows layers can tell.
    fn read_layers(&self, verified: &mut Verified) -> Result<(), StoreError> {
        for layer in self.layers()? {
            verified.layers += 1;
            let name = self.layer_name(&layer)?;
            if self.is_layer_damaged(&layer)? {
                // Whoever opens it for changing sets the damaged end aside.
                verified.note(
                    Part::Layer,
                    name.clone(),
                    "its list is damaged; `wink mount` sets the damaged end aside",
                    false,
                );
            }
            let gone = self.lost_packs(&layer)?;
            if gone > 0 {
                let lists = if gone == 1 { "a list".to_owned() } else { format!("{gone} lists") };
                let detail = format!("{lists} of what it shows cannot be read; its commands make that again");
                verified.note(Part::Layer, name, detail, false);
            }
        }
        Ok(())
    }
}

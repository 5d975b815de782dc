//! What a layer needs of the store: packs and blobs by digest, and its log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use wink_fs::attr::Time;
use wink_fs::backing::{BackingFile, Result};
use wink_fs::layered::Shelf;
use wink_fs::status::Status;
use wink_platform::unix::real_file::RealFile;
use wink_store::{Digest, FileStamp, LayerLog, Pack, Step, Store, StoreError};

use crate::engine::tree::{is_known, stamp};

/// See [`Shelf`].
pub struct StoreShelf {
    store: Arc<Store>,
    /// Packs that some part of a layer still holds: each is decoded once.
    packs: Mutex<HashMap<Digest, Weak<Pack>>>,
    /// `None` for a reader of a layer that somebody else may be changing.
    log: Option<Mutex<LayerLog>>,
    /// Blobs that were found to hold what their names say, as they were then.
    sound: Mutex<HashMap<Digest, FileStamp>>,
    /// How many records the log had when it was last written anew.
    least: AtomicU64,
}

impl StoreShelf {
    /// For a snapshot of a layer.
    pub fn reader(store: Arc<Store>) -> StoreShelf {
        StoreShelf::new(store, None)
    }

    /// For the one who changes the layer.
    pub fn writer(store: Arc<Store>, log: LayerLog) -> StoreShelf {
        StoreShelf::new(store, Some(log))
    }

    fn new(store: Arc<Store>, log: Option<LayerLog>) -> StoreShelf {
        let (packs, sound, least) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        StoreShelf { store, packs, log: log.map(Mutex::new), sound, least }
    }

    /// Whether an open blob holds what its name says: known from the last time unless its stamp has changed since.
    fn check(&self, digest: &Digest, file: &RealFile) -> Result<()> {
        let stamp = stamp(&file.attr()?);
        if self.sound.lock().get(digest) == Some(&stamp) {
            return Ok(());
        }
        let cached = self.store.digests_get(&[stamp.id()]).ok().and_then(|mut found| found.pop().flatten());
        let known = cached.is_some_and(|cached| is_known(&cached, &stamp) && cached.digest == *digest);
        if !known {
            self.store.verify_blob(digest).map_err(|error| {
                // Out of the way, so that the next run makes a good one. Without descriptors or memory nothing is known of it.
                if error.is_damage() {
                    let _ = self.store.quarantine(digest);
                }
                status(&error)
            })?;
            let _ = self.store.digests_put(&[(stamp, *digest, Time::now().0)]);
        }
        self.sound.lock().insert(*digest, stamp);
        Ok(())
    }

    /// Whether the log has grown so much since it was last written anew that every run, which reads it all, would notice.
    pub fn is_long(&self) -> bool {
        let Some(log) = &self.log else { return false };
        log.lock().records() > self.least.load(Ordering::Relaxed) + GROWTH_MAX
    }

    /// Stores every pack again that is held: one that is damaged is replaced.
    pub fn mend(&self) -> std::result::Result<(), StoreError> {
        let held: Vec<Arc<Pack>> = self.packs.lock().values().filter_map(Weak::upgrade).collect();
        held.iter().try_for_each(|pack| self.store.put_pack(pack).map(drop))
    }

    /// Writes the log anew if these steps, which say all of it, are fewer.
    pub fn settle(&self, steps: &[Step]) -> std::result::Result<(), StoreError> {
        match &self.log {
            Some(log) if log.lock().steps() > steps.len() as u64 => self.compact(steps),
            _ => Ok(()),
        }
    }

    /// Writes the log anew: these steps say all of it.
    pub fn compact(&self, steps: &[Step]) -> std::result::Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        // The blobs that it names first: it is durable itself.
        self.store.sync()?;
        let mut log = log.lock();
        log.rewrite(steps)?;
        self.least.store(log.records(), Ordering::Relaxed);
        Ok(())
    }
}

/// So many records are read in a millisecond or two.
const GROWTH_MAX: u64 = 2000;

impl Shelf<RealFile> for StoreShelf {
    fn pack(&self, digest: &Digest) -> Result<Arc<Pack>> {
        let mut packs = self.packs.lock();
        if let Some(known) = packs.get(digest).and_then(Weak::upgrade) {
            return Ok(known);
        }
        // A disk that failed once is asked once more: views that go out of sight need a run to come back. Damage is told once.
        let pack = self.store.pack(digest).or_else(|_| self.store.pack(digest));
        let pack = Arc::new(pack.map_err(|error| status(&error))?);
        packs.retain(|_, pack| pack.strong_count() > 0);
        packs.insert(*digest, Arc::downgrade(&pack));
        Ok(pack)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<RealFile> {
        let file = self.store.open_blob_sized(digest, size).map(RealFile::from).map_err(|error| {
            if error.is_damage() {
                let _ = self.store.quarantine(digest);
            }
            status(&error)
        })?;
        self.check(digest, &file)?;
        Ok(file)
    }

    fn log(&self, steps: &[Step]) -> Result<()> {
        let log = self.log.as_ref().ok_or(Status::ReadOnly)?;
        log.lock().append(steps).map_err(|error| status(&error))
    }
}

/// What a program in the mount is told: the disk's own reason where there is one. The rest is said here.
fn status(error: &StoreError) -> Status {
    crate::complain(&error.to_string());
    match error {
        StoreError::Disk { source, .. } => wink_platform::errno::from_io(source),
        _ => Status::Io,
    }
}

//! What a layer needs of the store: packs and blobs by digest, and its log.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use wink_fs::backing::Result;
use wink_fs::layered::Shelf;
use wink_fs::status::Status;
use wink_platform::unix::real_file::RealFile;
use wink_store::{Digest, LayerLog, Pack, Step, Store, StoreError};

/// See [`Shelf`].
pub struct StoreShelf {
    store: Arc<Store>,
    /// Packs that some part of a layer still holds: each is decoded once.
    packs: Mutex<HashMap<Digest, Weak<Pack>>>,
    /// `None` for a reader of a layer that somebody else may be changing.
    log: Option<Mutex<LayerLog>>,
}

impl StoreShelf {
    /// For a snapshot of a layer.
    pub fn reader(store: Arc<Store>) -> StoreShelf {
        StoreShelf { store, packs: Mutex::default(), log: None }
    }

    /// For the one who changes the layer.
    pub fn writer(store: Arc<Store>, log: LayerLog) -> StoreShelf {
        StoreShelf { store, packs: Mutex::default(), log: Some(Mutex::new(log)) }
    }

    /// Writes the log anew, if it has grown to several times what it says.
    pub fn compact(&self, steps: &[Step]) -> std::result::Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut log = log.lock();
        if log.records() > COMPACT_FACTOR * steps.len() as u64 + COMPACT_LEAST {
            log.rewrite(steps)?;
        }
        Ok(())
    }
}

/// How many records per step that is left make a log worth writing anew.
const COMPACT_FACTOR: u64 = 4;
/// Below this many records nothing is gained.
const COMPACT_LEAST: u64 = 1000;

impl Shelf<RealFile> for StoreShelf {
    fn pack(&self, digest: &Digest) -> Result<Arc<Pack>> {
        let mut packs = self.packs.lock();
        if let Some(known) = packs.get(digest).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let pack = Arc::new(self.store.pack(digest).map_err(|error| status(&error))?);
        packs.retain(|_, pack| pack.strong_count() > 0);
        packs.insert(*digest, Arc::downgrade(&pack));
        Ok(pack)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<RealFile> {
        self.store.open_blob_sized(digest, size).map(RealFile::from).map_err(|error| status(&error))
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

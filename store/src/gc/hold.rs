//! `gc.lock`: who relies on what is stored holds it shared, who removes holds it alone.
//!
//! A run holds it from its lookup to the end of restoring, and from capturing to the end of publishing; never while its command runs. What
//! it found or placed in that time stays. Pruning takes it for moments only, in which it looks again at what has changed since it decided.
//!
//! Lock order: it comes before the index and before a layer's lock, and after the lock of a workspace. Nobody waits for it without end:
//! a pruning process may have been stopped. It must be dropped before a process is forked off that outlives its work.

use std::fs::File;
use std::time::Duration;

use crate::error::StoreError;
use crate::{Store, disk};

/// How long a run waits; pruning takes milliseconds.
const HOLD_PATIENCE: Duration = Duration::from_secs(5);

const LOCK: &str = "gc.lock";

/// As long as it lives nothing is removed from the store but what is damaged.
#[derive(Debug)]
pub struct Hold {
    // Held, not read: closing it releases the lock.
    _lock: File,
}

/// As long as it lives nobody else relies on what is stored.
#[derive(Debug)]
pub(super) struct Alone {
    _lock: File,
}

impl Store {
    /// Keeps everything that is stored from being pruned as long as the answer lives.
    pub fn hold(&self) -> Result<Hold, StoreError> {
        match self.gc_lock(false, HOLD_PATIENCE)? {
            Some(lock) => Ok(Hold { _lock: lock }),
            None => Err(StoreError::Pruning { path: self.dir().to_owned(), waited_s: HOLD_PATIENCE.as_secs() }),
        }
    }

    /// Waits until nobody holds the store; `None` if somebody always does.
    pub(super) fn alone(&self, patience: Duration) -> Result<Option<Alone>, StoreError> {
        Ok(self.gc_lock(true, patience)?.map(|lock| Alone { _lock: lock }))
    }

    fn gc_lock(&self, exclusive: bool, patience: Duration) -> Result<Option<File>, StoreError> {
        let path = self.dir().join(LOCK);
        let lock = disk::open_lock(&path).map_err(StoreError::disk("open", &path))?;
        let locked = disk::lock_within(&lock, exclusive, patience).map_err(StoreError::disk("lock", &path))?;
        Ok(locked.then_some(lock))
    }
}

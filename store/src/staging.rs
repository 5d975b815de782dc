//! Staging: where a running task's files grow before they become blobs, on the same file system, so that storing is a rename.
//!
//! ```text
//! staging/run-<pid>-<ms>-<n>/        one per run, 0700, removed when the run is over
//! staging/run-<pid>-<ms>-<n>.lock    held (flock) as long as the run lives
//! staging/put-<pid>-<ms>-<n>         small things on their way, unlocked, gone in milliseconds
//! ```
//! Lock discipline: the lock file is made and locked before its directory is made, and removed after it is gone. So a
//! directory without a held lock belongs to nobody, and whoever gets the lock may remove it. A process that locked a file
//! which a sweep had just removed sees that it has no name any more, and starts over.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::blob::unique_name;
use crate::error::StoreError;
use crate::{Store, disk, format};

/// How long an unlocked file may be on its way before it counts as abandoned: writing it takes far less.
const ON_ITS_WAY: Duration = Duration::from_secs(3600);

/// How often making a staging directory is tried again when a sweep interferes.
const TRIES: usize = 16;

/// A directory for the files of one run, removed with all that is left in it when dropped.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    // Held, not read: closing it releases the lock.
    _lock: File,
}

impl Staging {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Failing is harmless: the lock is released in any case, and the next sweep removes what is left.
        if disk::remove_tree(&self.dir).is_ok() {
            let _ = disk::unlink(&self.lock_path);
        }
    }
}

impl Store {
    /// Makes a staging directory for one run.
    pub fn staging(&self) -> io::Result<Staging> {
        let shelf = self.dir().join(format::STAGING);
        for _ in 0..TRIES {
            let name = unique_name("run");
            let lock_path = shelf.join(format!("{name}.lock"));
            let lock = disk::open_lock(&lock_path)?;
            if !disk::try_lock(&lock, true)? || !disk::has_name(&lock)? {
                continue;
            }
            let staging = Staging { dir: shelf.join(name), lock_path, _lock: lock };
            disk::make_new_dir(&staging.dir)?;
            return Ok(staging);
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    }

    /// Removes what dead processes left in staging; says how many runs and files that were.
    pub fn sweep_staging(&self) -> Result<usize, StoreError> {
        let shelf = self.dir().join(format::STAGING);
        let mut swept = 0;
        for path in disk::list(&shelf).map_err(StoreError::disk("list", &shelf))? {
            // One stubborn leftover must not keep the others.
            swept += usize::from(sweep(&path).unwrap_or(false));
        }
        Ok(swept)
    }
}

/// Removes one leftover, if it is one.
fn sweep(path: &Path) -> io::Result<bool> {
    let facts = disk::stat(path)?;
    if facts.is_dir {
        // Its lock file sorts right behind it; a directory that has none is nobody's.
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        return sweep_run(path, Path::new(&lock_path));
    }
    if path.extension() == Some(OsStr::new("lock")) {
        return sweep_run(&path.with_extension(""), path).map(|_| false);
    }
    let age = SystemTime::now().duration_since(facts.modified).unwrap_or_default();
    if age < ON_ITS_WAY {
        return Ok(false);
    }
    disk::unlink(path).map(|()| true)
}

fn sweep_run(dir: &Path, lock_path: &Path) -> io::Result<bool> {
    let lock = disk::open_lock(lock_path)?;
    if !disk::try_lock(&lock, true)? {
        return Ok(false);
    }
    // Another sweep may have been faster; then the name may already be somebody's again.
    if !disk::has_name(&lock)? {
        return Ok(false);
    }
    disk::remove_tree(dir)?;
    disk::unlink(lock_path)?;
    Ok(true)
}

//! Blobs: files named by the digest of their bytes, at `blobs/ab/cdef…`, mode 0444, raw, so that they can be mapped, cloned
//! and passed through.
//!
//! Invariants: a blob appears under its name at once and whole (rename); a name that has a good blob is never given another
//! file; nobody opens a blob for writing. No lock is taken: the file system's rename decides who was first.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::disk::{self, Facts};
use crate::error::StoreError;
use crate::{Store, format};

/// How often placing a blob is tried again when somebody else changes the same name meanwhile.
const PLACE_TRIES: usize = 8;

/// Names what this process makes; together with the process id unique on this machine.
static TURN: AtomicU64 = AtomicU64::new(0);

/// A name that no other thread or living process uses.
pub(crate) fn unique_name(kind: &str) -> String {
    // The time keeps apart processes that had the same id, one after the other.
    format!("{kind}-{}-{}-{}", std::process::id(), disk::now_ms(), TURN.fetch_add(1, Ordering::Relaxed))
}

impl Store {
    /// Where the blob `digest` is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let mut path = self.dir().join(format::BLOBS);
        path.push(&name[..2]);
        path.push(&name[2..]);
        path
    }

    /// Moves a finished file, whose bytes have the digest `digest`, from a staging directory of this store to its place.
    /// If the blob is there already, the staging file is removed. The caller has hashed the file and no longer writes to it.
    pub fn adopt(&self, path_in_staging: &Path, digest: &Digest) -> Result<(), StoreError> {
        let facts = disk::stat(path_in_staging).map_err(StoreError::disk("read the attributes of", path_in_staging))?;
        if !facts.is_file {
            let detail = format!("{} is not a regular file", path_in_staging.display());
            return Err(StoreError::Unstorable { detail });
        }
        disk::set_mode(path_in_staging, 0o444).map_err(StoreError::disk("set the mode of", path_in_staging))?;
        let place = self.blob_path(digest);
        let refused = |source| StoreError::Disk { doing: "store a file as", path: place.clone(), source };
        for _ in 0..PLACE_TRIES {
            if let Some(shelf) = place.parent() {
                self.make_shelf(shelf)?;
            }
            match disk::rename_new(path_in_staging, &place) {
                Ok(()) => {
                    self.placed.fetch_add(facts.size, Ordering::Relaxed);
                    return Ok(());
                }
                // Somebody removed the empty directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.blob_facts(digest)? {
                    // The new record will rely on it, and what the run made is about to be published from it.
                    Some(found) if found.is_file && found.size == facts.size && self.is_sound(digest)? => {
                        return disk::unlink(path_in_staging)
                            .map_err(StoreError::disk("remove the staging file", path_in_staging));
                    }
                    Some(_) => self.quarantine(digest)?,
                    None => {}
                },
                Err(error) => return Err(refused(error)),
            }
        }
        Err(refused(io::Error::from(io::ErrorKind::ResourceBusy)))
    }

    /// Makes a directory of `blobs`. What else has its name, a link to elsewhere above all, goes to quarantine.
    fn make_shelf(&self, shelf: &Path) -> Result<(), StoreError> {
        match disk::stat(shelf) {
            Ok(facts) if facts.is_dir => return Ok(()),
            Ok(_) => {
                let aside = self.dir().join(format::QUARANTINE).join(unique_name("shelf"));
                disk::rename(shelf, &aside).map_err(StoreError::disk("move to quarantine", shelf))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::disk("read the attributes of", shelf)(error)),
        }
        disk::make_dir(shelf).map_err(StoreError::disk("make the directory", shelf))
    }

    /// Stores `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let facts = self.blob_facts(&digest)?;
        if facts.is_some_and(|found| found.is_file && found.size == bytes.len() as u64) && self.is_sound(&digest)? {
            return Ok(digest);
        }
        let path = self.dir().join(format::STAGING).join(unique_name("put"));
        let mut file = disk::create_new(&path).map_err(StoreError::disk("create", &path))?;
        let stored = disk::write(&mut file, bytes)
            .map_err(StoreError::disk("write", &path))
            .and_then(|()| self.adopt(&path, &digest));
        if stored.is_err() {
            // Best effort: what stays behind is swept later.
            let _ = disk::unlink(&path);
        }
        stored.map(|()| digest)
    }

    /// Opens a blob for reading. Cheap signs of damage are seen here: no file, or an empty one under another name than that
    /// of no bytes, which is what an unclean stop of the machine leaves. The bytes are not hashed.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let (file, facts) = self.open_blob_facts(digest)?;
        if facts.size == 0 && *digest != Digest::of(b"") {
            return Err(StoreError::DamagedBlob { digest: *digest, detail: "it is empty".to_owned() });
        }
        Ok(file)
    }

    /// As [`Store::open_blob`], when the size is known: a blob of another size is damaged.
    pub fn open_blob_sized(&self, digest: &Digest, size: u64) -> Result<File, StoreError> {
        let (file, facts) = self.open_blob_facts(digest)?;
        if facts.size != size {
            let detail = format!("it has {} bytes instead of {size}", facts.size);
            return Err(StoreError::DamagedBlob { digest: *digest, detail });
        }
        Ok(file)
    }

    fn open_blob_facts(&self, digest: &Digest) -> Result<(File, Facts), StoreError> {
        let path = self.blob_path(digest);
        let file = disk::open_read(&path).map_err(|error| self.blob_error(digest, "open", error))?;
        let facts = disk::stat_open(&file).map_err(|error| self.blob_error(digest, "read the attributes of", error))?;
        if !facts.is_file {
            return Err(StoreError::DamagedBlob { digest: *digest, detail: "it is not a regular file".to_owned() });
        }
        Ok((file, facts))
    }

    /// Hashes a blob and compares.
    pub fn verify_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.verified_blob(digest).map(drop)
    }

    /// Whether a blob holds what its name says. What keeps that from being told (no descriptors) is no damage.
    fn is_sound(&self, digest: &Digest) -> Result<bool, StoreError> {
        match self.verify_blob(digest) {
            Ok(()) => Ok(true),
            Err(StoreError::MissingBlob { .. } | StoreError::DamagedBlob { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Hashes a blob, compares, and gives the file that was hashed.
    pub(crate) fn verified_blob(&self, digest: &Digest) -> Result<(File, Facts), StoreError> {
        let (mut file, facts) = self.open_blob_facts(digest)?;
        let found = disk::hash(&mut file).map_err(|error| self.blob_error(digest, "read", error))?;
        if found != *digest {
            let detail = format!("its bytes have the digest {}", found.short());
            return Err(StoreError::DamagedBlob { digest: *digest, detail });
        }
        Ok((file, facts))
    }

    /// The bytes of a blob, checked.
    pub(crate) fn blob_bytes(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut file = self.open_blob(digest)?;
        let bytes = disk::read(&mut file, u64::MAX).map_err(|error| self.blob_error(digest, "read", error))?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::DamagedBlob { digest: *digest, detail: "its bytes have changed".to_owned() });
        }
        Ok(bytes)
    }

    /// Moves a blob out of the way, to `quarantine/`, for people to look at. One that is gone is fine.
    pub fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        let aside = self.dir().join(format::QUARANTINE).join(unique_name(&digest.to_string()));
        match disk::rename(&path, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Disk { doing: "move to quarantine", path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// What is at a blob's place, if anything.
    pub(crate) fn blob_facts(&self, digest: &Digest) -> Result<Option<Facts>, StoreError> {
        match disk::stat(&self.blob_path(digest)) {
            Ok(facts) => Ok(Some(facts)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.blob_error(digest, "read the attributes of", error)),
        }
    }

    /// Tells damage from trouble: a missing file, a link or directory in its place and a bad sector are damage to this one
    /// blob; anything else (no descriptors, no permission) says nothing about it.
    fn blob_error(&self, digest: &Digest, doing: &'static str, error: io::Error) -> StoreError {
        let errno = rustix::io::Errno::from_io_error(&error);
        match errno {
            Some(rustix::io::Errno::NOENT) => StoreError::MissingBlob { digest: *digest },
            Some(
                rustix::io::Errno::IO | rustix::io::Errno::LOOP | rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO,
            ) => StoreError::DamagedBlob { digest: *digest, detail: error.to_string() },
            _ => StoreError::Disk { doing, path: self.blob_path(digest), source: error },
        }
    }
}

//! Stamps: what the files of a record's inputs looked like when all its observations were last found to hold in one workspace, so that
//! the next lookup there compares stamps and asks the index for no digest.
//!
//! ```text
//! stamps/<key>     key: whatever decides what a stamp vouches for, in the caller's own digest
//! file    = "wX1" stamp* check        check: digest of (key, header and stamps)
//! stamp   = device inode size mtime ctime, eight bytes each, low byte first; all zero: nothing is known
//! ```
//! Only a hint: a file that is missing, cut or damaged is none. There are at most [`FILES_MAX`]; the oldest go first.

use std::path::PathBuf;

use crate::blob::unique_name;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::FileStamp;
use crate::{Store, disk, format};

const HEADER: &[u8] = b"wX1";
const STAMP_BYTES: usize = 40;
const CHECK_BYTES: usize = 32;

/// How many lists of stamps are kept; one more removes the older half.
const FILES_MAX: usize = 1024;

impl FileStamp {
    /// What stands for "nothing is known": no file has inode 0 on device 0.
    pub const UNKNOWN: FileStamp = FileStamp { dev: 0, ino: 0, size: 0, mtime_ns: 0, ctime_ns: 0 };
}

impl Store {
    /// The stamps kept under `key`, in the order in which they were given.
    pub fn stamps(&self, key: &Digest) -> Option<Vec<FileStamp>> {
        let bytes =
            disk::open_read(&self.stamps_path(key)).and_then(|mut file| disk::read(&mut file, u64::MAX)).ok()?;
        let (listed, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
        let stamps = listed.strip_prefix(HEADER)?;
        if check_of(key, listed).0 != check || stamps.len() % STAMP_BYTES != 0 {
            return None;
        }
        Some(stamps.chunks_exact(STAMP_BYTES).map(read_stamp).collect())
    }

    /// Keeps stamps under `key`, in place of any that are there.
    pub fn keep_stamps(&self, key: &Digest, stamps: &[FileStamp]) -> Result<(), StoreError> {
        let shelf = self.dir().join(format::STAMPS);
        disk::make_dir(&shelf).map_err(StoreError::disk("make the directory", &shelf))?;
        let mut bytes = Vec::with_capacity(HEADER.len() + stamps.len() * STAMP_BYTES + CHECK_BYTES);
        bytes.extend_from_slice(HEADER);
        for FileStamp { dev, ino, size, mtime_ns, ctime_ns } in stamps {
            for number in [*dev, *ino, *size, *mtime_ns as u64, *ctime_ns as u64] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        let check = check_of(key, &bytes);
        bytes.extend_from_slice(&check.0);
        let (place, aside) = (self.stamps_path(key), self.dir().join(format::STAGING).join(unique_name("stamps")));
        let is_new = disk::stat(&place).is_err();
        let written = disk::create_new(&aside)
            .and_then(|mut file| disk::write(&mut file, &bytes))
            .and_then(|()| disk::rename(&aside, &place));
        if written.is_err() {
            // Best effort: what stays behind is swept later.
            let _ = disk::unlink(&aside);
        }
        written.map_err(StoreError::disk("write", &place))?;
        if is_new { self.thin_out_stamps() } else { Ok(()) }
    }

    /// Forgets them all.
    pub(crate) fn drop_stamps(&self) -> Result<(), StoreError> {
        let shelf = self.dir().join(format::STAMPS);
        disk::remove_tree(&shelf).map_err(StoreError::disk("remove", &shelf))
    }

    fn thin_out_stamps(&self) -> Result<(), StoreError> {
        let shelf = self.dir().join(format::STAMPS);
        let failed = StoreError::disk("list", &shelf);
        let paths = disk::list(&shelf).map_err(failed)?;
        if paths.len() <= FILES_MAX {
            return Ok(());
        }
        // One that has gone meanwhile is gone.
        let mut dated: Vec<_> =
            paths.into_iter().filter_map(|path| Some((disk::stat(&path).ok()?.modified, path))).collect();
        dated.sort();
        for (_, path) in &dated[..dated.len() / 2] {
            disk::unlink(path).map_err(StoreError::disk("remove", path))?;
        }
        Ok(())
    }

    fn stamps_path(&self, key: &Digest) -> PathBuf {
        self.dir().join(format::STAMPS).join(key.to_string())
    }
}

fn check_of(key: &Digest, listed: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.0);
    hasher.update(listed);
    hasher.finalize().into()
}

fn read_stamp(bytes: &[u8]) -> FileStamp {
    let number = |index: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_le_bytes(number)
    };
    FileStamp {
        dev: number(0),
        ino: number(1),
        size: number(2),
        mtime_ns: number(3) as i64,
        ctime_ns: number(4) as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> FileStamp {
        FileStamp { dev: 1, ino: number, size: u64::MAX, mtime_ns: -5, ctime_ns: i64::MAX }
    }

    #[test]
    fn they_come_back_as_they_were_and_not_under_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (key, other) = (Digest::of(b"key"), Digest::of(b"other"));
        assert_eq!(store.stamps(&key), None);
        let stamps = [stamp(1), FileStamp::UNKNOWN, stamp(3)];
        store.keep_stamps(&key, &stamps).unwrap();
        assert_eq!(store.stamps(&key).as_deref(), Some(&stamps[..]));
        std::fs::copy(store.stamps_path(&key), store.stamps_path(&other)).unwrap();
        assert_eq!(store.stamps(&other), None);
        store.keep_stamps(&key, &stamps[..1]).unwrap();
        assert_eq!(store.stamps(&key).as_deref(), Some(&stamps[..1]));
    }

    #[test]
    fn a_damaged_list_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Digest::of(b"key");
        store.keep_stamps(&key, &[stamp(1), stamp(2)]).unwrap();
        let whole = std::fs::read(store.stamps_path(&key)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(store.stamps_path(&key), &damaged).unwrap();
            assert_eq!(store.stamps(&key), None, "byte {at} flipped");
            std::fs::write(store.stamps_path(&key), &whole[..at]).unwrap();
            assert_eq!(store.stamps(&key), None, "cut to {at} bytes");
        }
    }

    #[test]
    fn there_are_never_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for number in 0..=FILES_MAX as u64 {
            store.keep_stamps(&Digest::of(&number.to_le_bytes()), &[stamp(number)]).unwrap();
        }
        let left = std::fs::read_dir(dir.path().join(format::STAMPS)).unwrap().count();
        assert!((1..=FILES_MAX).contains(&left), "{left}");
        assert!(store.stamps(&Digest::of(&(FILES_MAX as u64).to_le_bytes())).is_some(), "the latest stays");
    }
}

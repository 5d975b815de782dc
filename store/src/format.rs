//! The names in the store directory, the `format` file, and whether the directory may be used at all.
//!
//! `format` is text: `wink store 1`, then one line `feature NAME` for everything that an older program must know to read the
//! store. It is written once, durably, before anything else; a version or a feature unknown to this program is refused.

use std::io;
use std::path::Path;

use crate::blob::unique_name;
use crate::disk;
use crate::error::StoreError;

/// The version of the layout.
pub const FORMAT_VERSION: u32 = 1;

/// Features that a store can have and this program knows. None yet.
const FEATURES_KNOWN: &[&str] = &[];

/// The file is a few lines; more is not ours.
const FORMAT_BYTES_MAX: u64 = 64 * 1024;

pub(crate) const BLOBS: &str = "blobs";
pub(crate) const STAGING: &str = "staging";
pub(crate) const QUARANTINE: &str = "quarantine";
pub(crate) const LAYERS: &str = "layers";
pub(crate) const STAMPS: &str = "stamps";
const FORMAT: &str = "format";

/// Whether there is a store in `dir`, of whatever version.
pub(crate) fn is_there(dir: &Path) -> bool {
    disk::stat(&dir.join(FORMAT)).is_ok_and(|found| found.is_file)
}

/// Makes the directory when needed, checks whose it is and which format it has.
pub(crate) fn prepare(dir: &Path) -> Result<(), StoreError> {
    // The common case first: everything is there.
    let facts = match disk::stat_target(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk::make_parents(dir).map_err(StoreError::disk("make the directories above", dir))?;
            disk::make_dir(dir).map_err(StoreError::disk("make the cache directory", dir))?;
            disk::stat_target(dir)
        }
        result => result,
    }
    .map_err(StoreError::disk("read the attributes of", dir))?;
    if !facts.is_dir {
        return Err(StoreError::NotADirectory { path: dir.to_owned() });
    }
    if facts.owner != disk::user() {
        return Err(StoreError::ForeignOwner { path: dir.to_owned(), owner: facts.owner, user: disk::user() });
    }
    if facts.mode & 0o022 != 0 {
        return Err(StoreError::WritableByOthers { path: dir.to_owned(), mode: facts.mode });
    }
    let is_new = check_format(dir)?;
    for name in [BLOBS, STAGING, QUARANTINE, LAYERS] {
        let path = dir.join(name);
        match disk::make_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(StoreError::NoOwnDirectory { path });
            }
            made => made.map_err(StoreError::disk("make the directory", &path))?,
        }
    }
    if is_new {
        disk::scatter(&dir.join(STAGING));
    }
    Ok(())
}

/// Whether the store is new.
fn check_format(dir: &Path) -> Result<bool, StoreError> {
    let path = dir.join(FORMAT);
    let text = match disk::open_read(&path).and_then(|mut file| disk::read(&mut file, FORMAT_BYTES_MAX)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        result => result.map_err(StoreError::disk("read", &path))?,
    };
    // Empty is what an unclean stop leaves of a file; a newer format would say so.
    if text.is_empty() {
        return write_format(dir).map(|()| true);
    }
    check_text(&text).map(|()| false).map_err(|found| StoreError::NewerFormat {
        path,
        found,
        known: format!("wink store {FORMAT_VERSION}"),
    })
}

/// Whether this program knows all that the text says; else the line that it does not know.
pub(crate) fn check_text(text: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    match first.strip_prefix("wink store ").and_then(|version| version.parse::<u32>().ok()) {
        Some(version) if version <= FORMAT_VERSION => {}
        _ => return Err(first.to_owned()),
    }
    let unknown = |line: &&str| line.strip_prefix("feature ").is_none_or(|name| !FEATURES_KNOWN.contains(&name));
    lines.filter(|line| !line.is_empty()).find(unknown).map_or(Ok(()), |line| Err(line.to_owned()))
}

/// Written aside and renamed, so that nobody reads half a line.
fn write_format(dir: &Path) -> Result<(), StoreError> {
    let (path, aside) = (dir.join(FORMAT), dir.join(unique_name(FORMAT)));
    let written = disk::create_new(&aside).and_then(|mut file| {
        disk::write(&mut file, format!("wink store {FORMAT_VERSION}\n").as_bytes())?;
        disk::sync(&file)?;
        disk::rename(&aside, &path)?;
        disk::sync_dir(dir)
    });
    if written.is_err() {
        let _ = disk::unlink(&aside);
    }
    written.map_err(StoreError::disk("write", &path))
}

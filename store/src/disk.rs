//! The one file that touches the disk (the database does its own part).
//!
//! Every function is one step of the protocol described in the crate header, named after what it does to the tree, and begins
//! with [`gate`]: there a test makes the n-th step fail, or ends the process (module `seam`). Nothing here decides anything; nothing
//! elsewhere calls the system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, RenameFlags};

use crate::digest::Digest;
use crate::seam::{self, Place, Step};

/// How much is read at a time when hashing: large enough for the hash to run at full speed, small enough for the cache.
const HASH_CHUNK_BYTES: usize = 256 * 1024;

/// How often a lock held by another process is tried again.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Passed before every step.
#[cfg_attr(any(test, debug_assertions), track_caller)]
fn gate(step: Step) -> io::Result<()> {
    seam::gate(Place::Store, step)
}

/// What the store needs to know of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub is_file: bool,
    pub is_dir: bool,
    pub inode: u64,
    pub size: u64,
    /// What it takes on the disk.
    pub disk_bytes: u64,
    pub mode: u32,
    pub owner: u32,
    pub ctime_s: i64,
    pub modified: SystemTime,
}

impl Facts {
    /// When it got its name, bytes or attributes last.
    pub fn changed(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.ctime_s.max(0).unsigned_abs())
    }
}

impl From<fs::Metadata> for Facts {
    fn from(found: fs::Metadata) -> Facts {
        Facts {
            is_file: found.is_file(),
            is_dir: found.is_dir(),
            inode: found.ino(),
            size: found.len(),
            disk_bytes: found.blocks().saturating_mul(512),
            mode: found.mode() & 0o7777,
            owner: found.uid(),
            ctime_s: found.ctime(),
            modified: found.modified().unwrap_or(UNIX_EPOCH),
        }
    }
}

/// The attributes of what `path` names itself.
pub(crate) fn stat(path: &Path) -> io::Result<Facts> {
    gate(Step::Stat)?;
    fs::symlink_metadata(path).map(Facts::from)
}

/// The attributes of what `path` leads to: the cache directory may be a link to a larger disk.
pub(crate) fn stat_target(path: &Path) -> io::Result<Facts> {
    gate(Step::Stat)?;
    fs::metadata(path).map(Facts::from)
}

/// The attributes of an open file.
pub(crate) fn stat_open(file: &File) -> io::Result<Facts> {
    gate(Step::Stat)?;
    file.metadata().map(Facts::from)
}

/// Makes a directory that only its owner can enter; one that is already there is fine. What is there must be one itself: a link could
/// lead to somebody's files ([`io::ErrorKind::NotADirectory`]).
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    gate(Step::MakeDir)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match stat(path)?.is_dir {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        },
        result => result,
    }
}

/// Makes a directory that must not be there yet.
pub(crate) fn make_new_dir(path: &Path) -> io::Result<()> {
    gate(Step::MakeDir)?;
    DirBuilder::new().mode(0o700).create(path)
}

/// Asks ext4 to put each directory made in this one somewhere else on the disk, as it does in the top directory (`chattr +T`), so that what is
/// created in one does not have to search past what was just removed in another: without a journal ext4 gives no removed inode out again for
/// minutes, and looks at each of them whenever it creates a file beside. Other file systems refuse, and need no such thing; best effort, and
/// so without a gate.
pub(crate) fn scatter(dir: &Path) {
    #[cfg(target_os = "linux")]
    if let Ok(dir) = open_read(dir)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&dir)
    {
        let _ = rustix::fs::ioctl_setflags(&dir, flags | rustix::fs::IFlags::TOPDIR);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = dir;
}

/// Makes the directories that lead to `path`, as other programs do.
pub(crate) fn make_parents(path: &Path) -> io::Result<()> {
    gate(Step::MakeDir)?;
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Opens a stored file; a symbolic link in its place is refused, and a pipe does not block.
pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    gate(Step::Open)?;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Makes a file that must not be there yet.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    gate(Step::Create)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a lock file, making it when needed. A link in its place is refused.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    gate(Step::Create)?;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits() as i32);
    options.open(path)
}

/// Opens a log, making it when needed: read from its beginning, written at its end only. A link in its place is refused.
pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    gate(Step::Create)?;
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

/// Takes the lock if nobody else holds it.
pub(crate) fn try_lock(file: &File, exclusive: bool) -> io::Result<bool> {
    gate(Step::Lock)?;
    let operation =
        if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock, waiting no longer than `patience`: a stopped process must not stop everybody. Says whether it got it.
pub(crate) fn lock_within(file: &File, exclusive: bool, patience: Duration) -> io::Result<bool> {
    let started = Instant::now();
    while !try_lock(file, exclusive)? {
        if started.elapsed() >= patience {
            return Ok(false);
        }
        thread::sleep(LOCK_POLL);
    }
    Ok(true)
}

/// Whether an open file still has a name. A lock file may be removed between being opened and being locked.
pub(crate) fn has_name(file: &File) -> io::Result<bool> {
    gate(Step::Stat)?;
    file.metadata().map(|found| found.nlink() > 0)
}

/// Writes all bytes. When that fails, some of them may have been written.
pub(crate) fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    if seam::is_next(Place::Store, Step::Write) {
        file.write_all(&bytes[..bytes.len() / 2])?;
    }
    gate(Step::Write)?;
    file.write_all(bytes)
}

/// Cuts a file off after `length` bytes.
pub(crate) fn truncate(file: &File, length: u64) -> io::Result<()> {
    gate(Step::Write)?;
    file.set_len(length)
}

/// Reads at most `limit` bytes of a file.
pub(crate) fn read(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    gate(Step::Read)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The digest of what an open file holds, from where it stands to its end.
pub(crate) fn hash(file: &mut File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; HASH_CHUNK_BYTES];
    loop {
        gate(Step::Read)?;
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(length) => {
                hasher.update(&chunk[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sets the permission bits of a path that is no link.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    gate(Step::SetMode)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Moves a file, replacing what has that name.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    gate(Step::Rename)?;
    fs::rename(from, to)
}

/// Moves a file to a name that nothing has: of several that try, the first wins and the others get `AlreadyExists`.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    gate(Step::Rename)?;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot: a hard link is as atomic, it only takes two steps.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        result => result.map_err(io::Error::from),
    }
}

/// Removes a name; one that is gone already is fine.
pub(crate) fn unlink(path: &Path) -> io::Result<()> {
    gate(Step::Unlink)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes a directory and all that is in it; one that is gone already is fine.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    gate(Step::Unlink)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The paths in a directory, sorted.
pub(crate) fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    gate(Step::Read)?;
    let mut paths = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

/// Waits until a file's bytes are on the disk.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    gate(Step::Sync)?;
    file.sync_all()
}

/// Waits until the names of a directory are on the disk.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    gate(Step::Sync)?;
    File::open(path)?.sync_all()
}

/// Waits until everything that was written to the file system of `path` is on the disk.
pub(crate) fn sync_file_system(path: &Path) -> io::Result<()> {
    gate(Step::Sync)?;
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Bytes that this user may still write on the disk of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    gate(Step::Stat)?;
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The user this process acts for.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A name for the time since this machine was started; `None` where the system has none (then nothing counts as written
/// since the start, and everything is checked before its first use).
pub(crate) fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// When this machine was started, in seconds since the epoch, by today's clock.
pub(crate) fn booted_at_s() -> Option<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let up: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(now.as_secs() as i64 - up as i64)
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

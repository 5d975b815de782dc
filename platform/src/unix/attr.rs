//! Attributes between `stat(2)` and [`Attr`], and changing them by name without ever following a symbolic link.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::{Errno, Result};
use wink_fs::attr::{Attr, Kind, Time};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// `utimensat(2)`: leave this time as it is.
const UTIME_OMIT: i64 = 0x3fff_fffe;

/// `st_mode` split: what it is; unknown bits count as a device node, which nothing of wink opens.
pub(crate) fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Link,
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::CharDevice,
    }
}

#[allow(clippy::unnecessary_cast, reason = "the field types differ between architectures")]
pub(crate) fn attr_of(stat: &Stat) -> Attr {
    let time = |seconds: i64, nanos: i64| Time(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos));
    Attr {
        kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
        dev: stat.st_dev as u64,
        ino: stat.st_ino as u64,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        mode: stat.st_mode & 0o7777,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u64,
        atime: time(stat.st_atime as i64, stat.st_atime_nsec as i64),
        mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    }
}

/// Both times for `utimensat(2)`; `None` leaves one as it is.
pub(crate) fn timestamps(atime: Option<Time>, mtime: Option<Time>) -> Timestamps {
    let spec = |time: Option<Time>| match time {
        Some(Time(nanos)) => {
            Timespec { tv_sec: nanos.div_euclid(NANOS_PER_SECOND), tv_nsec: nanos.rem_euclid(NANOS_PER_SECOND) as _ }
        }
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
    };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

pub(crate) fn mode_bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// An owner as rustix wants it. The value -1 means "leave" to the kernel, so it can never be asked for.
pub(crate) fn owner(uid: Option<u32>, gid: Option<u32>) -> Result<(Option<Uid>, Option<Gid>)> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}

/// Whether `fchmodat2(2)` (Linux 6.6) was found missing.
static NO_FCHMODAT2: AtomicBool = AtomicBool::new(false);

/// Changes the mode of `name` itself. A symbolic link has none: `EOPNOTSUPP`, as the kernel says.
pub(crate) fn chmod_at(dir: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    const SYS_FCHMODAT2: libc::c_long = 452;
    let dir = dir.as_fd();
    if !NO_FCHMODAT2.load(Ordering::Relaxed) {
        // SAFETY: a plain system call; the descriptor is borrowed and `name` is a NUL-terminated string, both for its length.
        let done = unsafe {
            libc::syscall(
                SYS_FCHMODAT2,
                dir.as_raw_fd(),
                name.as_ptr(),
                libc::c_uint::from(mode_bits(mode).as_raw_mode()),
                libc::AT_SYMLINK_NOFOLLOW,
            )
        };
        if done == 0 {
            return Ok(());
        }
        let errno = last_errno();
        // Old container filters answer EPERM to calls they do not know: the older way will tell whether that was meant.
        if errno != Errno::NOSYS && errno != Errno::PERM {
            return Err(errno);
        }
        if errno == Errno::NOSYS {
            NO_FCHMODAT2.store(true, Ordering::Relaxed);
        }
    }
    let node = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode);
    if kind == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    // fchmod(2) refuses O_PATH descriptors; the magic link of /proc leads to exactly this inode.
    let magic = format!("/proc/self/fd/{}", node.as_raw_fd());
    rustix::fs::chmodat(rustix::fs::CWD, magic.as_str(), mode_bits(mode), AtFlags::empty())
}

/// Gives a name that was just made exactly `mode`, whatever the umask took away. The set-group-ID bit that a directory
/// inherits from its parent is the file system's business and stays.
pub(crate) fn settle_mode(dir: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    let dir = dir.as_fd();
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match mode_to_settle(&stat, mode) {
        Some(wanted) => chmod_at(dir, name, wanted),
        None => Ok(()),
    }
}

/// The mode still to be set on something just made with `mode`, if any. Asking is far cheaper than a needless change.
pub(crate) fn mode_to_settle(stat: &Stat, mode: u32) -> Option<u32> {
    let inherited =
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { stat.st_mode & 0o2000 } else { 0 };
    let wanted = (mode & 0o7777) | inherited;
    (stat.st_mode & 0o7777 != wanted).then_some(wanted)
}

/// The calling thread's errno.
pub(crate) fn last_errno() -> Errno {
    // SAFETY: the address that libc returns is the calling thread's own errno, valid for its life.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

//! Looking at many paths at once: one `statx(2)` each, on a few threads where there are many.
//!
//! (`IORING_OP_STATX` always goes to a kernel thread of its own, so a ring makes this slower, not faster.)

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use wink_fs::attr::{Kind, Time};

use super::attr::kind_of;

/// Paths per thread below which starting one costs more than it brings.
const PATHS_PER_THREAD: usize = 2048;
/// More threads than this only wait for each other.
const THREADS_MAX: usize = 8;

/// File systems of which it is known that a directory's times change whenever a name in it comes, goes or gets another meaning.
pub(super) const STAMP_THEIR_NAMES: [u32; 6] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs, over one of these as a rule
];

/// What one look told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Something is there; a symbolic link is not followed.
    There(Glance),
    /// Nothing is.
    Absent,
    /// That cannot be told.
    Failed,
}

/// The attributes by which facts and stamps are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the bytes.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Encrypted: which names a directory has depends on keys too.
    pub encrypted: bool,
}

/// Absolute paths, packed. Of some the end alone is asked for, beneath a directory.
#[derive(Debug, Default)]
pub struct PathList {
    bytes: Vec<u8>,
    /// Where each ends, behind its NUL, and how much of it is skipped.
    ends: Vec<(usize, usize)>,
}

impl PathList {
    /// Adds a path; its number, from 0. If `skip` is not 0, what follows so many bytes is asked for beneath a directory. `None` for one
    /// that no file system has, since it holds a NUL.
    pub fn push(&mut self, path: &[u8], skip: usize) -> Option<usize> {
        if path.contains(&0) {
            return None;
        }
        self.bytes.extend_from_slice(path);
        self.bytes.push(0);
        self.ends.push((self.bytes.len(), skip.min(path.len())));
        Some(self.ends.len() - 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them, whole.
    pub fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends[index].0 - 1]
    }

    /// How much of one is skipped.
    pub fn skip(&self, index: usize) -> usize {
        self.ends[index].1
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before].0)
    }

    /// What is asked for; the directory beneath which that is may be meant itself.
    fn asked(&self, index: usize) -> Option<&CStr> {
        let (end, skip) = self.ends[index];
        let asked = CStr::from_bytes_with_nul(&self.bytes[self.start(index) + skip..end]).ok()?;
        Some(if skip > 0 && asked.is_empty() { c"." } else { asked })
    }
}

/// Looks at those of the paths that are numbered in `which`, each once, in no order. `beneath` is where skipped paths go on.
pub fn look_at_all(beneath: Option<BorrowedFd<'_>>, paths: &PathList, which: &[usize]) -> Vec<Look> {
    let beneath = beneath.unwrap_or(CWD);
    let mut looks = vec![Look::Failed; which.len()];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (which.len() / PATHS_PER_THREAD).clamp(1, cores.min(THREADS_MAX));
    let part = which.len().div_ceil(threads).max(1);
    let look = |(which, looks): (&[usize], &mut [Look])| {
        for (index, look) in which.iter().zip(looks) {
            *look = paths.asked(*index).map_or(Look::Failed, |path| look_at(beneath, path));
        }
    };
    if threads == 1 {
        look((which, &mut looks));
        return looks;
    }
    std::thread::scope(|scope| {
        let mut parts = which.chunks(part).zip(looks.chunks_mut(part));
        let first = parts.next();
        for part in parts {
            scope.spawn(move || look(part));
        }
        first.map(look);
    });
    looks
}

fn look_at(dir: BorrowedFd<'_>, path: &CStr) -> Look {
    // NO_AUTOMOUNT: asking what a name is must not mount anything.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(dir.as_fd(), path, flags, StatxFlags::BASIC_STATS) {
        Ok(found) => Look::There(glance(&found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Look::Absent,
        Err(_) => Look::Failed,
    }
}

fn glance(found: &Statx) -> Glance {
    let time = |seconds: i64, nanos: u32| Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos.into()));
    let mode = u32::from(found.stx_mode);
    Glance {
        kind: kind_of(FileType::from_raw_mode(mode)),
        mode: mode & 0o7777,
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        size: found.stx_size,
        mtime: time(found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        ctime: time(found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        encrypted: found.stx_attributes.contains(StatxAttributes::ENCRYPTED),
    }
}

/// Whether a directory's times tell that no name in it has changed.
pub fn stamps_its_names(dir: &[u8]) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|found| STAMP_THEIR_NAMES.contains(&(found.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn many_paths_are_seen_as_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "bytes").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let mut paths = PathList::default();
        assert_eq!(paths.push(b"/with\0nul", 0), None);
        let names = ["file", "link", "none", "file/below", "."];
        let below = dir.path().as_os_str().len() + 1;
        for number in 0..PATHS_PER_THREAD * 3 {
            let path = dir.path().join(names[number % names.len()]);
            paths.push(path.as_os_str().as_bytes(), if number % 2 == 0 { below } else { 0 }).unwrap();
        }
        let open = std::fs::File::open(dir.path()).unwrap();
        let looks = look_at_all(Some(open.as_fd()), &paths, &Vec::from_iter(0..paths.len()));
        let metadata = std::fs::symlink_metadata(dir.path().join("file")).unwrap();
        for (number, look) in looks.into_iter().enumerate() {
            let kind = match look {
                Look::There(glance) => Some(glance.kind),
                Look::Absent => None,
                Look::Failed => panic!("{number}"),
            };
            let expected = [Some(Kind::File), Some(Kind::Link), None, None, Some(Kind::Dir)][number % names.len()];
            assert_eq!(kind, expected, "{number}");
            if let (Look::There(glance), 0) = (look, number % names.len()) {
                let ctime = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
                assert_eq!((glance.dev, glance.ino, glance.size), (metadata.dev(), metadata.ino(), 5));
                assert_eq!((glance.ctime, glance.mode), (Time(ctime), metadata.mode() & 0o7777));
            }
        }
    }

    #[test]
    fn a_directory_of_a_known_file_system_changes_with_its_names() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!stamps_its_names(b"/proc"));
        if !stamps_its_names(dir.path().as_os_str().as_bytes()) {
            return println!("skipped: the temporary directory is on a file system that nothing is known of");
        }
        let stamp = || {
            let mut paths = PathList::default();
            paths.push(dir.path().as_os_str().as_bytes(), 0).unwrap();
            // Longer than a tick of the clock by which file systems stamp.
            std::thread::sleep(std::time::Duration::from_millis(25));
            look_at_all(None, &paths, &[0]).remove(0)
        };
        let path = |name: &str| dir.path().join(name);
        let mut before = stamp();
        let changes: [(&str, &dyn Fn()); 5] = [
            ("created", &|| std::fs::write(path("file"), "").unwrap()),
            ("renamed", &|| std::fs::rename(path("file"), path("other")).unwrap()),
            ("linked", &|| std::fs::hard_link(path("other"), path("second")).unwrap()),
            ("removed", &|| std::fs::remove_file(path("other")).unwrap()),
            ("time set back", &|| {
                std::fs::create_dir(path("dir")).unwrap();
                let old = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
                std::fs::File::open(dir.path()).unwrap().set_times(old).unwrap();
            }),
        ];
        for (what, change) in changes {
            change();
            let now = stamp();
            assert_ne!(now, before, "{what}");
            before = now;
        }
    }
}

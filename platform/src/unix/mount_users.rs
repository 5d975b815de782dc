//! Which processes use a mount, or stand in the directory beneath it.
//!
//! Nothing here asks the server of a mount, which may be gone or be this very process: device numbers come from `statx` with
//! `AT_STATX_DONT_SYNC`. Processes that this user may not look into are passed over.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::survivors::name;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name, as the kernel knows it (15 bytes at most).
    pub name: String,
}

/// The processes that keep the mount with this device number in use: by a working or root directory, an open or a mapped file.
pub fn users(dev: u64) -> Vec<Process> {
    processes(|process| places(process).iter().any(|place| device(place) == Some(dev)) || maps(process, dev))
}

/// The other processes that stand in `dir`, or have files of it open, as it is beneath the mount: in the tree of `lower`, a descriptor
/// of that directory from before it was covered. What they do there bypasses the mount.
pub fn standing_beneath(dir: &Path, lower: &OwnedFd) -> Vec<Process> {
    let Ok(stat) = rustix::fs::fstat(lower) else { return Vec::new() };
    let own = Path::new("/proc").join(std::process::id().to_string());
    processes(|process| {
        process != own
            && places(process).iter().any(|place| {
                fs::read_link(place).is_ok_and(|at| at.starts_with(dir)) && device(place) == Some(stat.st_dev)
            })
    })
}

/// Those of all processes (directories of `/proc`) that are `wanted`, by number.
fn processes(wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            wanted(&entry.path()).then(|| Process { pid, name: name(pid) })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The magic links of a process.
fn places(process: &Path) -> Vec<PathBuf> {
    let mut places: Vec<_> = ["cwd", "root", "exe"].map(|link| process.join(link)).into();
    if let Ok(open) = fs::read_dir(process.join("fd")) {
        places.extend(open.flatten().map(|entry| entry.path()));
    }
    places
}

fn device(place: &Path) -> Option<u64> {
    let stat = rustix::fs::statx(CWD, place, AtFlags::STATX_DONT_SYNC, StatxFlags::empty()).ok()?;
    Some(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

fn maps(process: &Path, dev: u64) -> bool {
    let Ok(file) = fs::File::open(process.join("maps")) else { return false };
    BufReader::new(file).split(b'\n').map_while(Result::ok).any(|line| mapped_device(&line) == Some(dev))
}

/// One line: `ADDRESSES RIGHTS OFFSET MAJOR:MINOR INODE PATH`, the numbers hexadecimal.
pub(super) fn mapped_device(line: &[u8]) -> Option<u64> {
    let field = OsStr::from_bytes(line.split(|&byte| byte == b' ').nth(3)?).to_str()?;
    let (major, minor) = field.split_once(':')?;
    Some(rustix::fs::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn mapped_files_tell_their_device() {
        let line = b"7f0a4c000000-7f0a4c021000 r-xp 00000000 fe:1a 131 /usr/lib/a b.so";
        assert_eq!(mapped_device(line), Some(rustix::fs::makedev(0xfe, 0x1a)));
        assert_eq!(mapped_device(b""), None);
        let own = rustix::fs::stat("/proc/self/exe").unwrap().st_dev;
        assert!(users(own).iter().any(|process| process.pid == std::process::id().cast_signed()));
    }

    #[test]
    fn who_stands_in_a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        let lower = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(standing_beneath(dir.path(), &lower), []);
        let mut child = Command::new("cat").current_dir(&below).stdin(Stdio::piped()).spawn().unwrap();
        let found = standing_beneath(dir.path(), &lower);
        let beside = standing_beneath(&dir.path().join("bel"), &lower);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(found, [Process { pid: child.id().cast_signed(), name: String::from("cat") }]);
        assert_eq!(beside, []);
    }
}

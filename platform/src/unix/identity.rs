//! Who this process is, and what it may do.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Effective user and group.
pub fn effective_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Groups besides the effective one.
pub fn supplementary_groups() -> Vec<u32> {
    rustix::process::getgroups()
        .map_or_else(|_| Vec::new(), |groups| groups.into_iter().map(|group| group.as_raw()).collect())
}

/// Whether the file system of a path is mounted read-only.
pub fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|space| space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Makes the file system of `root` hand over what programs wrote through mapped memory, and tells whether it still answers.
pub fn write_back(root: &OwnedFd) -> io::Result<()> {
    rustix::fs::syncfs(root.as_fd())?;
    rustix::fs::fstatvfs(root)?;
    Ok(())
}

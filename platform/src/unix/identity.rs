//! Who this process is, and what it may do.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

/// Effective user and group.
pub fn effective_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Groups besides the effective one.
pub fn supplementary_groups() -> Vec<u32> {
    rustix::process::getgroups()
        .map_or_else(|_| Vec::new(), |groups| groups.into_iter().map(|group| group.as_raw()).collect())
}

/// Whether names in a directory may be made and removed.
pub fn is_writable(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    rustix::fs::accessat(CWD, &path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// Makes the file system of `root` hand over what programs wrote through mapped memory, and tells whether it still answers.
pub fn write_back(root: &OwnedFd) -> io::Result<()> {
    rustix::fs::syncfs(root.as_fd())?;
    rustix::fs::fstatvfs(root)?;
    Ok(())
}

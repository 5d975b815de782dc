//! Who this process is, and what it may do.

use std::ffi::OsString;
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

/// The first descriptor besides the standard ones that a command would inherit and is meant to use, in words: one that its words name
/// (`/dev/fd/63`, a shell's process substitution), or a file of the workspace. A view does not see what passes through it.
///
/// Others are not counted: terminals, editors and build tools leak files and pipes of their own into everything that they start.
pub fn handed_descriptor(workspace: &Path, words: &[OsString]) -> Option<String> {
    for entry in std::fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if number <= 2 {
            continue;
        }
        // SAFETY: only asked about, never closed; a number that is not open answers EBADF.
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let inherited =
            rustix::io::fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(rustix::io::FdFlags::CLOEXEC));
        let leads_to = std::fs::read_link(entry.path()).unwrap_or_default();
        let names = [format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")];
        let named = words.iter().any(|word| names.iter().any(|name| word.to_string_lossy().contains(name.as_str())));
        if inherited && (named || leads_to.starts_with(workspace)) {
            return Some(format!("descriptor {number} ({})", leads_to.display()));
        }
    }
    None
}

/// Whether the file system of a path is mounted read-only.
pub fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|space| space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Whether this process may make something in a directory.
pub fn may_write(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Bytes that this user may still write on the disk of a path.
pub fn free_bytes(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|space| space.f_bavail.saturating_mul(space.f_frsize))
}

/// Bytes that the disk of a path has.
pub fn disk_bytes(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|space| space.f_blocks.saturating_mul(space.f_frsize))
}

/// Makes the file system of `root` hand over what programs wrote through mapped memory, and tells whether it still answers.
pub fn write_back(root: &OwnedFd) -> io::Result<()> {
    rustix::fs::syncfs(root.as_fd())?;
    rustix::fs::fstatvfs(root)?;
    Ok(())
}

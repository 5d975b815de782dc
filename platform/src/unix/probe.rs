//! What this machine allows, and a few facts about this process that the standard library does not tell.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::enter::{self, EnterError, Scope, Stage, View};

/// Room for one entry of the user database; directory services have long ones.
const PASSWD_BYTES: usize = 16 * 1024;
/// How long mounting may take; it takes about a millisecond.
const TRY_TIMEOUT: Duration = Duration::from_secs(20);
/// The bit of `CAP_SYS_ADMIN` in `/proc/self/status`.
const CAP_SYS_ADMIN: u32 = 21;

/// What this machine allows this user.
#[derive(Clone, Debug)]
pub struct Caps {
    /// Whether `/dev/fuse` can be opened, or why not and what to do.
    pub fuse_device: Result<(), String>,
    /// Whether a private mount namespace can be had, or why not and what to do.
    pub namespaces: Result<(), String>,
    /// Whether this process has `CAP_SYS_ADMIN`, which FUSE passthrough needs (in the initial user namespace).
    pub admin: bool,
    /// The kernel's release.
    pub kernel: String,
}

/// Asks for all of it. Starts a short-lived child to try out namespaces.
pub fn caps() -> Caps {
    Caps { fuse_device: fuse_available(), namespaces: namespaces_available(), admin: has_admin(), kernel: kernel() }
}

/// The kernel's release.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether `/dev/fuse` can be opened, or why not and what to do.
pub fn fuse_available() -> Result<(), String> {
    match rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        // Something else may lie there: sandboxes cover devices with /dev/null.
        Ok(device) if rustix::fs::fstat(&device).is_ok_and(|found| found.st_rdev == FUSE_DEVICE) => Ok(()),
        Ok(_) => Err(failure(Stage::OpenDevice, libc::ENXIO)),
        Err(errno) => Err(failure(Stage::OpenDevice, errno.raw_os_error())),
    }
}

/// The character device 10, 229 (`Documentation/admin-guide/devices.txt`).
const FUSE_DEVICE: u64 = libc::makedev(10, 229);

/// Whether a mount namespace of one's own can be had, with a user namespace if need be, or why not and what to do.
pub fn namespaces_available() -> Result<(), String> {
    // SAFETY: the child makes two system calls at most and exits without running anything of this process.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: plain system calls in a single-threaded child; `_exit` runs no destructors.
        unsafe {
            let errno = if libc::unshare(libc::CLONE_NEWNS) == 0
                || libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUSER) == 0
            {
                0
            } else {
                *libc::__errno_location()
            };
            libc::_exit(errno)
        }
    }
    let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(format!("no child process could be started: {}", io::Error::last_os_error()));
    };
    let status = loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => break status.exit_status(),
            _ => break None,
        }
    };
    match status {
        Some(0) => Ok(()),
        Some(errno) => Err(failure(Stage::UserNamespace, errno)),
        None => Err(String::from("the child process that tried it out was killed")),
    }
}

/// Whether a FUSE file system can be mounted over `dir` (any directory that exists) in namespaces of one's own, or which step of it
/// failed. Tried out in a short-lived child; nobody else ever sees the mount.
pub fn view_available(dir: &Path) -> Result<(), EnterError> {
    let failed = |error: io::Error| EnterError::Socket(error.raw_os_error().unwrap_or(libc::EINVAL));
    let view = View {
        mountpoint: dir.to_owned(),
        scope: Scope::Workspace(dir.to_owned()),
        cwd: PathBuf::from("/"),
        options: String::new(),
        asked_at: None,
    };
    let (inside, door) = enter::prepare(&view).map_err(failed)?;
    // SAFETY: the child makes raw system calls only, and exits without running anything of this process.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: between `fork` and exit, in a process with one thread, once.
        unsafe {
            let _ = inside.enter();
            libc::_exit(0)
        }
    }
    if pid < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    drop(inside);
    // Nobody serves it: as soon as the device is closed, whatever the child still asks fails.
    let received = door.receive(TRY_TIMEOUT).map(drop);
    drop(door);
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        while matches!(rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()), Err(Errno::INTR)) {}
    }
    received
}

fn failure(stage: Stage, errno: i32) -> String {
    EnterError::Failed { stage, errno, path: None }.to_string()
}

/// Whether this process has `CAP_SYS_ADMIN`.
pub(crate) fn has_admin() -> bool {
    status_line("CapEff:")
        .and_then(|text| u64::from_str_radix(&text, 16).ok())
        .is_some_and(|effective| effective >> CAP_SYS_ADMIN & 1 == 1)
}

/// This process' umask. Read from `/proc`: the system call could only tell it by changing it, for all threads.
pub fn umask() -> Option<u32> {
    status_line("Umask:").and_then(|text| u32::from_str_radix(&text, 8).ok())
}

fn status_line(key: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)).map(|text| text.trim().to_owned())
}

/// Identifies this run of the kernel; what was true of inode numbers and processes before a reboot need not be after it.
pub fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// The home directory of a user by the user database: for when `HOME` is not set.
pub fn home_dir_from_passwd(uid: u32) -> Option<PathBuf> {
    let mut buffer = vec![0; PASSWD_BYTES];
    let mut found = std::ptr::null_mut();
    // SAFETY: all-zero is a valid passwd: null pointers.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are to live objects of this stack frame, and the length is the buffer's own.
    let failed = unsafe { libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) };
    if failed != 0 || found.is_null() || entry.pw_dir.is_null() {
        return None;
    }
    // SAFETY: on success the field points to a NUL-terminated string inside `buffer`, which lives on.
    let home = unsafe { CStr::from_ptr(entry.pw_dir) };
    Some(PathBuf::from(OsStr::from_bytes(home.to_bytes()))).filter(|home| home.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_told() {
        assert!(umask().is_some_and(|umask| umask <= 0o777));
        assert_eq!(boot_id().map(|id| id.len()), Some(36));
        assert!(home_dir_from_passwd(0).is_some_and(|home| home.is_absolute()));
        assert_eq!(home_dir_from_passwd(4_000_000_001), None);
        assert!(caps().kernel.contains('.'));
        let dir = tempfile::tempdir().unwrap();
        let possible = caps().fuse_device.is_ok() && caps().namespaces.is_ok();
        assert!(!possible || view_available(dir.path()).is_ok(), "{:?}", view_available(dir.path()));
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is mounted here");
    }
}

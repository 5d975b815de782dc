//! What this machine offers beyond what a view needs, for who asks why something is slow: shared blocks, the faster ways to talk to the kernel,
//! `pivot_root`. Everything is tried out or read, nothing is guessed from versions alone, and nothing that is visible is left behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::copy;
use super::probe;

/// The first kernel with FUSE passthrough, and the first with FUSE over io_uring.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);
const URING_SINCE: (u32, u32) = (6, 14);

/// Whether files of two directories can share blocks, tried with nameless files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflink {
    /// They can.
    Works,
    /// The file systems cannot, or not with each other.
    Refused,
    /// Nameless files cannot be made in one of them: nobody knows.
    Unknown,
}

/// Tries to make a file in `to` that shares the blocks of one in `from`.
pub fn reflink(from: &Path, to: &Path) -> Reflink {
    let nameless =
        |dir: &Path| rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    let (Ok(source), Ok(target)) = (nameless(from), nameless(to)) else { return Reflink::Unknown };
    if rustix::io::write(&source, &[b'x'; 4096]).is_err() {
        return Reflink::Unknown;
    }
    match copy::reflink(&source, &target) {
        Ok(true) => Reflink::Works,
        Ok(false) => Reflink::Refused,
        Err(_) => Reflink::Unknown,
    }
}

/// What the kernel calls the file system of a path: by the table of mounts, the longest that leads to it.
pub fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let table = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut best: Option<(usize, String)> = None;
    for line in table.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(dir), Some(kind)) = (fields.next(), fields.next()) else { continue };
        let dir = PathBuf::from(dir.replace("\\040", " "));
        let length = dir.as_os_str().len();
        // Of two at one place the later one covers the other.
        if path.starts_with(&dir) && best.as_ref().is_none_or(|(longest, _)| length >= *longest) {
            best = Some((length, kind.to_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

/// Why the kernel cannot read large files of a view by itself (FUSE passthrough); `None` if it can.
pub fn no_passthrough() -> Option<String> {
    if !is_kernel_at_least(PASSTHROUGH_SINCE) {
        return Some(format!("it came with Linux {}.{}", PASSTHROUGH_SINCE.0, PASSTHROUGH_SINCE.1));
    }
    if !probe::has_admin() || !is_initial_user_namespace() {
        return Some("the kernel lends files only to root outside of user namespaces".to_owned());
    }
    None
}

/// Why FUSE cannot go over io_uring; `None` if it can.
pub fn no_uring() -> Option<String> {
    if !is_kernel_at_least(URING_SINCE) {
        return Some(format!("it came with Linux {}.{}", URING_SINCE.0, URING_SINCE.1));
    }
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    match read("/sys/module/fuse/parameters/enable_uring").as_deref() {
        Some("Y" | "1") => {}
        // In the words in which a view says it.
        Some(_) => return Some("the kernel does not offer it (module parameter enable_uring of fuse)".to_owned()),
        None => return Some("this kernel was built without it (CONFIG_FUSE_IO_URING)".to_owned()),
    }
    match read("/proc/sys/kernel/io_uring_disabled").as_deref() {
        None | Some("0") => None,
        Some("1") if probe::has_admin() => None,
        Some(value) => Some(format!("the sysctl kernel.io_uring_disabled is {value}")),
    }
}

/// Whether a process here can make another directory its root the way views do (`pivot_root`), or the system's error. Where it cannot, a view
/// is entered by `chroot`.
pub fn pivot_available(dir: &Path) -> io::Result<()> {
    let dir = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes())?;
    // SAFETY: the child makes raw system calls on memory made before, and exits without running anything of this process.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above; all pointers are to NUL-terminated strings that live on.
        unsafe {
            let own =
                libc::unshare(libc::CLONE_NEWNS) == 0 || libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUSER) == 0;
            let none = std::ptr::null();
            let done = own
                && libc::mount(none, c"/".as_ptr(), none, libc::MS_PRIVATE | libc::MS_REC, none.cast()) == 0
                && libc::mount(c"none".as_ptr(), dir.as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()) == 0
                && libc::chdir(dir.as_ptr()) == 0
                && libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) == 0;
            libc::_exit(if done { 0 } else { *libc::__errno_location() })
        }
    }
    let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(io::Error::last_os_error());
    };
    loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => {
                return match status.exit_status() {
                    Some(0) => Ok(()),
                    Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => Err(io::Error::other("the child process that tried it out was killed")),
                };
            }
            Ok(None) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The program of that name in `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn is_kernel_at_least(least: (u32, u32)) -> bool {
    version(&probe::kernel()).is_some_and(|version| version >= least)
}

/// `6.18.3-arch1` → (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn is_initial_user_namespace() -> bool {
    let whole = format!("0 0 {}", u32::MAX);
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>().join(" ") == whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(version("6.9.0"), Some((6, 9)));
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.4-generic"), Some((5, 4)));
        assert_eq!(version("six"), None);
        assert!((6, 18) > (6, 9));
    }

    #[test]
    fn trying_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let _ = reflink(dir.path(), dir.path());
        assert_eq!(reflink(dir.path(), &dir.path().join("none")), Reflink::Unknown);
        if probe::namespaces_available().is_ok() {
            let _ = pivot_available(dir.path());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(file_system(dir.path()).is_some_and(|kind| !kind.is_empty()));
        assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
        assert_eq!(program("no-such-program-anywhere"), None);
        assert!(program("sh").is_some());
    }
}

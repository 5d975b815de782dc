//! Mounting a working tree over its own directory, and unmounting it: by the kernel's own calls where this process may, else through
//! `fusermount3`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::fusermount::{self, Refusal};
use super::mounts::TYPE;

/// Why a directory could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// This user may mount only through a program that is not there.
    #[error(
        "{} cannot be mounted: fusermount3, which mounts for ordinary users, is not in PATH; install the package fuse3, \
         or use `wink mount --private -- SHELL`", .0.display()
    )]
    NoFusermount(PathBuf),
    /// That program would not.
    #[error(
        "{} cannot be mounted: fusermount3 said: {said}; {}", .dir.display(), remedy_of_fusermount(.said)
    )]
    Refused {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        said: String,
    },
    /// The device could not be opened.
    #[error(
        "/dev/fuse cannot be opened: {0}; load the fuse module (modprobe fuse), or start the container with --device /dev/fuse"
    )]
    Device(#[source] io::Error),
    /// The kernel would not mount.
    #[error("{} cannot be mounted: {source}; {}", .dir.display(), remedy(.source))]
    Failed {
        /// The directory.
        dir: PathBuf,
        /// How.
        source: io::Error,
    },
}

/// Why a directory could not be unmounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Somebody has something open in it, or stands in it.
    #[error("{} is in use; end the processes that use it, or unmount it lazily", .0.display())]
    Busy(PathBuf),
    /// Nothing is mounted there.
    #[error("nothing is mounted at {}; `wink status` lists what is", .0.display())]
    NotMounted(PathBuf),
    /// This user may unmount only through a program that is not there.
    #[error(
        "{} cannot be unmounted: fusermount3, which does so for ordinary users, is not in PATH; install the package fuse3",
        .0.display()
    )]
    NoFusermount(PathBuf),
    /// That program would not.
    #[error("{} cannot be unmounted: fusermount3 said: {said}; unmount it as the user who mounted it", .dir.display())]
    Refused {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        said: String,
    },
    /// The kernel would not.
    #[error("{} cannot be unmounted: {source}; unmount it as the user who mounted it", .dir.display())]
    Failed {
        /// The directory.
        dir: PathBuf,
        /// How.
        source: io::Error,
    },
}

fn remedy_of_fusermount(said: &str) -> &'static str {
    if said.contains("/dev/fuse") {
        "let this user read and write /dev/fuse (mode 0666)"
    } else {
        "see /etc/fuse.conf and that the directory is yours, or use `wink mount --private -- SHELL`"
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "name a directory that exists",
        io::ErrorKind::PermissionDenied => {
            "a security policy forbids mounting: start the container with --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
        }
        _ => "docs/TROUBLESHOOTING.md says what a mount needs of a machine",
    }
}

/// Mounts over `dir`, for all users if this is root, else for this one; returns the device. Serve it at once: until then whoever
/// looks into `dir` waits. Permissions are the kernel's to check.
pub fn mount_over(dir: &Path) -> Result<OwnedFd, MountError> {
    match mount_directly(dir) {
        Err(MountError::Failed { source, .. } | MountError::Device(source))
            if source.kind() == io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {}
        done => return done,
    }
    let dir = dir.to_owned();
    let options = "default_permissions,fsname=wink,subtype=wink,nosuid,nodev";
    fusermount::mount(&dir, options).map_err(|refusal| match refusal {
        Refusal::Missing => MountError::NoFusermount(dir),
        Refusal::Said(said) => MountError::Refused { dir, said },
        Refusal::Failed(source) => MountError::Failed { dir, source },
    })
}

/// The directory as it lies beneath: to be opened before it is mounted over.
pub fn open_beneath(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

fn mount_directly(dir: &Path) -> Result<OwnedFd, MountError> {
    let failed = |errno: Errno| MountError::Failed { dir: dir.to_owned(), source: errno.into() };
    let device = rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::Device(errno.into()))?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // As restricted as what it covers: a set-user-ID file on a `nosuid` mount must not gain by being seen through this one.
    let covered = rustix::fs::statvfs(dir).map_err(failed)?.f_flag;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::NOSUID, !uid.is_root() || covered.contains(StatVfsMountFlags::NOSUID));
    flags.set(MountFlags::NODEV, !uid.is_root() || covered.contains(StatVfsMountFlags::NODEV));
    flags.set(MountFlags::NOEXEC, covered.contains(StatVfsMountFlags::NOEXEC));
    flags.set(MountFlags::RDONLY, covered.contains(StatVfsMountFlags::RDONLY));
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        uid.as_raw(),
        gid.as_raw(),
        if uid.is_root() { ",allow_other" } else { "" }
    );
    let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    rustix::mount::mount(c"wink", dir, TYPE, flags, &*options).map_err(failed)?;
    Ok(device)
}

/// Unmounts `dir`. Lazily: also if it is in use; it is gone from the tree then, and ends with its last user.
pub fn unmount(dir: &Path, lazily: bool) -> Result<(), UnmountError> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazily);
    let unmounted = rustix::mount::unmount(dir, flags);
    let dir = dir.to_owned();
    match unmounted {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(UnmountError::Busy(dir)),
        Err(Errno::INVAL | Errno::NOENT) => Err(UnmountError::NotMounted(dir)),
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {
            fusermount::unmount(&dir, lazily).map_err(|refusal| match refusal {
                Refusal::Missing => UnmountError::NoFusermount(dir),
                Refusal::Said(said) if said.contains("resource busy") => UnmountError::Busy(dir),
                Refusal::Said(said) if said.contains("not found in") => UnmountError::NotMounted(dir),
                Refusal::Said(said) => UnmountError::Refused { dir, said },
                Refusal::Failed(source) => UnmountError::Failed { dir, source },
            })
        }
        Err(errno) => Err(UnmountError::Failed { dir, source: errno.into() }),
    }
}

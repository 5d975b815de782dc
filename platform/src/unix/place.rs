//! Putting outputs into the real workspace.
//!
//! Every path is relative to the workspace root, whose descriptor was opened once, and is resolved by the kernel with
//! `RESOLVE_BENEATH` and without following any symbolic link: nothing that stands in the workspace can lead a write out of
//! it. A file appears whole or not at all: its bytes are written to a nameless file, which is then linked into place, or
//! renamed over what stood there. Descriptors of parent directories are kept for a while; a `Placer` is made for one
//! publication and dropped after it, so that no directory that was moved meanwhile is written to.
//!
//! All methods take `&self` and may run on many threads. Lock order: the one lock is a leaf.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use wink_fs::attr::{Attr, Time};
use wink_fs::status::Status;
use wink_store::seam::{Place, Step, gate};

use super::attr::{attr_of, chmod_at, mode_bits, owner as owner_of, settle_mode, timestamps};
use super::whole::{self, TEMPORARY_NAMES_TRIED, Temporary, WholeFiles, is_temporary};
use crate::errno::from_io;

/// Parent directories whose descriptors are kept: a publication walks the tree in order, so few are in use at a time.
const PARENTS_KEPT: usize = 256;
const PARENT: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// What is added to the name of somebody's file that would otherwise be overwritten.
const SET_ASIDE: &str = ".wink-saved";

/// The `number`-th name (from 1) under which a file is set aside.
pub fn aside_name(rel: &[u8], number: u32) -> Vec<u8> {
    let number = if number > 1 { number.to_string() } else { String::new() };
    [rel, SET_ASIDE.as_bytes(), number.as_bytes()].concat()
}

/// Whether a name is one under which a [`Placer`] makes what it then renames into its place.
pub fn is_temporary_name(name: &[u8]) -> bool {
    is_temporary(name)
}

/// How a file got its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It shares the blocks of its source.
    Reflink,
    /// Its bytes were copied.
    Copy,
}

/// Writes into one workspace, and nowhere else.
pub struct Placer {
    root: Arc<OwnedFd>,
    parents: Mutex<HashMap<Box<[u8]>, Arc<OwnedFd>>>,
    whole: WholeFiles,
    /// `openat2(2)` is missing or filtered.
    no_openat2: AtomicBool,
}

/// A path taken apart: the parent's descriptor and the last name. The root is its own `.`.
struct Spot {
    parent: Arc<OwnedFd>,
    name: CString,
}

impl Placer {
    /// A placer for the workspace at `root`.
    pub fn new(root: &Path) -> io::Result<Placer> {
        gate(Place::Tree, Step::Open)?;
        let root = rustix::fs::open(root, PARENT.difference(OFlags::NOFOLLOW), Mode::empty())?;
        Ok(Placer {
            root: Arc::new(root),
            parents: Mutex::default(),
            whole: WholeFiles::default(),
            no_openat2: AtomicBool::new(false),
        })
    }

    /// Puts a regular file with all the bytes of `source` at `rel`, in place of any file or link that stands there. A crash
    /// leaves the old one or the whole new one. A directory at `rel` is an error.
    pub fn place_file(
        &self,
        rel: &[u8],
        source: &File,
        mode: u32,
        mtime: Time,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Placed> {
        self.at(rel, |spot| {
            let file = self.whole.make(&spot.parent, source, mode, mtime, owner)?;
            let placed = file.placed;
            file.replace(&spot.name)?;
            Ok(placed)
        })
    }

    /// Puts a symbolic link at `rel`, in place of any file or link that stands there. A directory at `rel` is an error.
    pub fn place_link(&self, rel: &[u8], target: &[u8], mtime: Time) -> io::Result<()> {
        self.at(rel, |spot| {
            let parent = &spot.parent;
            gate(Place::Tree, Step::Create)?;
            let temporary = Temporary::make(parent, |name| rustix::fs::symlinkat(target, parent, name))?.1;
            gate(Place::Tree, Step::SetMode)?;
            rustix::fs::utimensat(parent, temporary.name(), &timestamps(None, Some(mtime)), AtFlags::SYMLINK_NOFOLLOW)?;
            temporary.replace(parent, &spot.name)
        })
    }

    /// Makes the directory `rel`, or takes the one that stands there, and gives it `mode`. Its parent must exist.
    pub fn make_dir(&self, rel: &[u8], mode: u32) -> io::Result<()> {
        self.at(rel, |spot| {
            gate(Place::Tree, Step::MakeDir)?;
            match rustix::fs::mkdirat(&spot.parent, &*spot.name, mode_bits(mode)) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    let stat = rustix::fs::statat(&spot.parent, &*spot.name, AtFlags::SYMLINK_NOFOLLOW)?;
                    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                        return Err(Errno::EXIST.into());
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
            gate(Place::Tree, Step::SetMode)?;
            Ok(settle_mode(&spot.parent, &spot.name, mode)?)
        })
    }

    /// Removes from the directory `rel` what processes left there that were killed while they placed something, and what this one could not remove
    /// then. An error is what may be better another time; where nobody may look, or where there is no directory, there is nothing to do.
    pub fn sweep(&self, rel: &[u8]) -> io::Result<()> {
        let swept = match rel {
            [] => whole::sweep(&self.root),
            rel => split(rel).and_then(|_| self.open_beneath(rel)).and_then(|dir| whole::sweep(&dir)),
        };
        match swept {
            Err(error)
                if !matches!(
                    from_io(&error),
                    Status::Io | Status::NoMemory | Status::TooManyOpen | Status::NoSpace | Status::Quota
                ) =>
            {
                Ok(())
            }
            swept => swept,
        }
    }

    /// Sets the time of last change of whatever is at `rel`, a link's own.
    pub fn set_times(&self, rel: &[u8], mtime: Time) -> io::Result<()> {
        self.at(rel, |spot| {
            let times = timestamps(None, Some(mtime));
            gate(Place::Tree, Step::SetMode)?;
            Ok(rustix::fs::utimensat(&spot.parent, &*spot.name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
        })
    }

    /// Sets the permission bits of a file or directory; a symbolic link has none and is an error.
    pub fn set_mode(&self, rel: &[u8], mode: u32) -> io::Result<()> {
        self.at(rel, |spot| {
            gate(Place::Tree, Step::SetMode)?;
            Ok(chmod_at(&spot.parent, &spot.name, mode)?)
        })
    }

    /// Renames what is at `rel` to the first free name of [`aside_name`], and returns that name.
    pub fn set_aside(&self, rel: &[u8]) -> io::Result<Vec<u8>> {
        for number in 1..TEMPORARY_NAMES_TRIED {
            let aside = aside_name(rel, number);
            let (_, name) = split(&aside)?;
            let renamed = self.at(rel, |spot| {
                let flags = RenameFlags::NOREPLACE;
                gate(Place::Tree, Step::Rename)?;
                Ok(rustix::fs::renameat_with(&spot.parent, &*spot.name, &spot.parent, &*name, flags)?)
            });
            match renamed {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                renamed => return renamed.map(|()| aside),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many files have been set aside"))
    }

    /// Sets owner and group of whatever is at `rel`, a link's own.
    pub fn set_owner(&self, rel: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = owner_of(Some(uid), Some(gid))?;
        self.at(rel, |spot| {
            gate(Place::Tree, Step::SetMode)?;
            Ok(rustix::fs::chownat(&spot.parent, &*spot.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
        })
    }

    /// Removes a name that is not a directory.
    pub fn remove_file(&self, rel: &[u8]) -> io::Result<()> {
        self.at(rel, |spot| {
            gate(Place::Tree, Step::Unlink)?;
            Ok(rustix::fs::unlinkat(&spot.parent, &*spot.name, AtFlags::empty())?)
        })
    }

    /// Removes the directory `rel` if it is empty; `false` if it still holds names.
    pub fn remove_dir(&self, rel: &[u8]) -> io::Result<bool> {
        let removed = self.at(rel, |spot| {
            gate(Place::Tree, Step::Unlink)?;
            match rustix::fs::unlinkat(&spot.parent, &*spot.name, AtFlags::REMOVEDIR) {
                Ok(()) => Ok(true),
                Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        })?;
        if removed {
            // A new directory of that name is not the one whose descriptor is kept.
            self.parents.lock().retain(|path, _| !is_at_or_below(path, rel));
        }
        Ok(removed)
    }

    /// Attributes of what is at `rel`, a link's own; `None` if nothing is. A symbolic link on the way is an error.
    pub fn stat(&self, rel: &[u8]) -> io::Result<Option<Attr>> {
        let stat = self.at(rel, |spot| {
            gate(Place::Tree, Step::Stat)?;
            Ok(rustix::fs::statat(&spot.parent, &*spot.name, AtFlags::SYMLINK_NOFOLLOW)?)
        });
        match stat {
            Ok(stat) => Ok(Some(attr_of(&stat))),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Target of the symbolic link at `rel`.
    pub fn read_link(&self, rel: &[u8]) -> io::Result<Vec<u8>> {
        self.at(rel, |spot| {
            gate(Place::Tree, Step::Read)?;
            Ok(rustix::fs::readlinkat(&spot.parent, &*spot.name, Vec::new())?.into_bytes())
        })
    }

    /// Opens the regular file at `rel` for reading; anything else is an error.
    pub fn open_read(&self, rel: &[u8]) -> io::Result<File> {
        self.at(rel, |spot| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            gate(Place::Tree, Step::Open)?;
            let file = rustix::fs::openat(&spot.parent, &*spot.name, flags, Mode::empty())?;
            match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
                FileType::RegularFile => Ok(File::from(file)),
                FileType::Directory => Err(Errno::ISDIR.into()),
                _ => Err(Errno::NXIO.into()),
            }
        })
    }

    /// Makes everything on the workspace's file system durable: for callers that want placed files to survive a power cut.
    /// (Without it, only a crash of this process is provided for: syncing each file would cost more than the restore.)
    pub fn sync(&self) -> io::Result<()> {
        let open = rustix::fs::openat(&self.root, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(rustix::fs::syncfs(open)?)
    }

    /// Runs `act` at `rel`; once more without the kept descriptors if there are too few.
    fn at<T>(&self, rel: &[u8], act: impl Fn(&Spot) -> io::Result<T>) -> io::Result<T> {
        match self.at_kept(rel, &act) {
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                self.parents.lock().clear();
                self.at_kept(rel, &act)
            }
            result => result,
        }
    }

    /// Runs `act` at `rel`; once more with a freshly looked up parent if the kept one turns out to be gone.
    fn at_kept<T>(&self, rel: &[u8], act: impl Fn(&Spot) -> io::Result<T>) -> io::Result<T> {
        let (parent, name) = split(rel)?;
        let kept = self.parents.lock().get(parent).cloned();
        let Some(kept) = kept else { return act(&self.spot(parent, name)?) };
        let result = act(&Spot { parent: kept.clone(), name: name.clone() });
        let removed = |dir: &OwnedFd| rustix::fs::fstat(dir).is_ok_and(|stat| stat.st_nlink == 0);
        match result {
            // Most calls say ENOENT in a removed directory, but not all on all file systems.
            Err(_) if removed(&kept) => {
                self.parents.lock().remove(parent);
                act(&self.spot(parent, name)?)
            }
            result => result,
        }
    }

    fn spot(&self, parent: &[u8], name: CString) -> io::Result<Spot> {
        if parent.is_empty() {
            return Ok(Spot { parent: self.root.clone(), name });
        }
        let opened = Arc::new(self.open_beneath(parent)?);
        let mut parents = self.parents.lock();
        if parents.len() >= PARENTS_KEPT {
            parents.clear();
        }
        parents.insert(parent.into(), opened.clone());
        Ok(Spot { parent: opened, name })
    }

    fn open_beneath(&self, rel: &[u8]) -> io::Result<OwnedFd> {
        gate(Place::Tree, Step::Open)?;
        if !self.no_openat2.load(Ordering::Relaxed) {
            // Without NOFOLLOW a link as the last name is reported as what it is, ELOOP; NO_SYMLINKS refuses it all the same.
            let flags = PARENT.difference(OFlags::NOFOLLOW);
            match rustix::fs::openat2(&self.root, rel, flags, Mode::empty(), BENEATH) {
                // EPERM: container filters that do not know the call. Whether it was meant, the walk will tell.
                Err(Errno::NOSYS | Errno::PERM) => self.no_openat2.store(true, Ordering::Relaxed),
                // Longer than PATH_MAX, or raced with a rename: the walk copes.
                Err(Errno::NAMETOOLONG | Errno::AGAIN) => {}
                opened => return Ok(opened?),
            }
        }
        let mut current = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for name in rel.split(|&byte| byte == b'/') {
            current = match rustix::fs::openat(&current, name, PARENT, Mode::empty()) {
                Err(Errno::NOTDIR) if is_link(&current, name) => return Err(Errno::LOOP.into()),
                opened => opened?,
            };
        }
        Ok(current)
    }
}

/// Parent and last name of a path. Each component must be a plain name; the empty path is the root itself.
fn split(rel: &[u8]) -> io::Result<(&[u8], CString)> {
    if rel.is_empty() {
        return Ok((rel, c".".to_owned()));
    }
    if rel.split(|&byte| byte == b'/').any(|part| part.is_empty() || part == b"." || part == b"..") {
        return Err(Errno::INVAL.into());
    }
    let (parent, name) = match rel.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&rel[..slash], &rel[slash + 1..]),
        None => (&rel[..0], rel),
    };
    Ok((parent, CString::new(name)?))
}

fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || dir.is_empty())
}

fn is_link(dir: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;

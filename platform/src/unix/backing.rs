//! The real tree beneath a view, reached only relative to directory descriptors: no path is ever longer than one name, so a
//! tree may be deeper than `PATH_MAX`, and no symbolic link is followed.
//!
//! Directories are [`RealDir`]s: see there for what becomes of a handle when its directory moves.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Access as AccessBits, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use wink_fs::attr::{Attr, Kind, SetAttr};
use wink_fs::backing::{Access, Backing, DirEntry, Placing, RenameMode, Result, Space, StagedId, Want, XattrMode};
use wink_fs::name::Name;
use wink_fs::status::Status;
use wink_store::seam::{self, Place, Step};

use super::attr::{attr_of, chmod_at, kind_of, mode_bits, mode_to_settle, owner, settle_mode, timestamps};
use super::descriptors::{Pool, budget};
use super::real_dir::{DIRECTORY, RealDir};
use super::real_file::{RealFile, magic_link};
use super::whole::WholeFiles;
use super::xattr::Bearer;
use crate::errno::{from_io, from_rustix};

/// How a file is opened, whatever for. Non-blocking, so that a pipe that took a file's name meanwhile cannot hang a request.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// Room for the names of one `getdents64`: the size of glibc's own buffer.
const LISTING_BYTES: usize = 32 * 1024;

/// The tree beneath, rooted anywhere.
pub struct RealBacking {
    root: RealDir,
    staging: Option<Staging>,
    spill: Option<Spill>,
}

/// Where staged files go when the staging directory's disk is full: nameless files on another file system, which vanish with this
/// process whatever happens.
struct Spill {
    directory: OwnedFd,
    files: Mutex<HashMap<StagedId, OwnedFd>>,
}

struct Staging {
    directory: OwnedFd,
    path: PathBuf,
    next: AtomicU64,
}

impl RealBacking {
    /// The tree at `top`; `staging`, if given, is an existing directory, best on the file system of the store.
    pub fn new(top: &Path, staging: Option<&Path>) -> io::Result<RealBacking> {
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let open = rustix::fs::open(top, flags, Mode::empty())?;
        let root = RealDir::kept(open, Arc::new(Pool::new(budget())));
        let staging = match staging {
            Some(path) => Some(Staging {
                directory: rustix::fs::open(path, flags, Mode::empty())?,
                path: path.to_owned(),
                // Two processes that share the directory start far apart; O_EXCL settles the rest.
                next: AtomicU64::new(u64::from(std::process::id()) << 32),
            }),
            None => None,
        };
        Ok(RealBacking { root, staging, spill: None })
    }

    /// Lets staged files go to the file system of `directory` when that of the staging directory is full.
    pub fn with_spill(mut self, directory: &Path) -> io::Result<RealBacking> {
        let directory = rustix::fs::open(directory, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
        self.spill = Some(Spill { directory, files: Mutex::default() });
        Ok(self)
    }

    /// A directory that is open already, in the tree or elsewhere; like the top's, its descriptor is never given up.
    pub fn dir_from(&self, open: OwnedFd) -> RealDir {
        RealDir::kept(open, self.root.pool().clone())
    }

    /// Where a staged file lies, to be moved into the store.
    pub fn staged_path(&self, id: StagedId) -> Result<PathBuf> {
        use std::os::fd::AsRawFd;
        if let Some(file) = self.spill.as_ref().and_then(|spill| spill.files.lock().get(&id).map(AsRawFd::as_raw_fd)) {
            return Ok(PathBuf::from(format!("/proc/self/fd/{file}")));
        }
        Ok(self.staging()?.path.join(id.0.to_string()))
    }

    fn staging(&self) -> Result<&Staging> {
        self.staging.as_ref().ok_or(Status::Unsupported)
    }
}

impl Backing for RealBacking {
    type Dir = RealDir;
    type File = RealFile;

    fn root(&self) -> RealDir {
        self.root.clone()
    }

    fn child(&self, dir: &RealDir, name: &Name) -> RealDir {
        dir.below(name)
    }

    fn dir_attr(&self, dir: &RealDir) -> Result<Attr> {
        rustix::fs::fstat(dir.fd()?).map(|stat| attr_of(&stat)).map_err(from_rustix)
    }

    fn attr(&self, dir: &RealDir, name: &Name) -> Result<Attr> {
        // NO_AUTOMOUNT: asking what a name is must not mount anything.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        rustix::fs::statat(dir.fd()?, name.as_bytes(), flags).map(|stat| attr_of(&stat)).map_err(from_rustix)
    }

    fn list(&self, dir: &RealDir) -> Result<Vec<DirEntry>> {
        let dir = dir.fd()?;
        let open = open_listing(&dir).map_err(from_rustix)?;
        let mut entries = Vec::new();
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut listing = rustix::fs::RawDir::new(&open, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(from_rustix)?;
            // `.` and `..` are no valid names, nor is anything else a broken file system may say.
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    match rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => kind_of(FileType::from_raw_mode(stat.st_mode)),
                        Err(_) => continue, // Removed since.
                    }
                }
                known => kind_of(known),
            };
            entries.push(DirEntry { name, kind, ino: entry.ino() });
        }
        Ok(entries)
    }

    fn read_link(&self, dir: &RealDir, name: &Name) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(dir.fd()?, name.as_bytes(), Vec::new()).map(CString::into_bytes).map_err(from_rustix)
    }

    fn open(&self, dir: &RealDir, name: &Name, access: Access) -> Result<RealFile> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        open_regular(&*dir.fd()?, name.as_bytes(), flags)
    }

    fn permits(&self, dir: &RealDir, name: Option<&Name>, want: Want) -> Result<()> {
        let mut bits = AccessBits::empty();
        bits.set(AccessBits::READ_OK, want.read);
        bits.set(AccessBits::WRITE_OK, want.write);
        bits.set(AccessBits::EXEC_OK, want.execute);
        let fd = dir.fd()?;
        // A directory is asked through its parent where it has one: "." inside it would need leave to pass through it.
        let (fd, name) = match (name, dir.place()) {
            (Some(name), _) => (fd, name.as_bytes()),
            (None, Some((parent, own))) if same_directory(&fd, &*parent.fd()?, own) => (parent.fd()?, own.as_bytes()),
            (None, _) => (fd, b".".as_slice()),
        };
        rustix::fs::accessat(fd, name, bits, AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW).map_err(from_rustix)
    }

    fn space(&self, dir: &RealDir) -> Result<Space> {
        let stat = rustix::fs::fstatvfs(dir.fd()?).map_err(from_rustix)?;
        Ok(Space {
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            block_size: u32::try_from(stat.f_bsize).unwrap_or(u32::MAX),
            fragment_size: u32::try_from(stat.f_frsize).unwrap_or(u32::MAX),
            name_max: u32::try_from(stat.f_namemax).unwrap_or(u32::MAX),
        })
    }

    fn create(&self, dir: &RealDir, name: &Name, mode: u32) -> Result<RealFile> {
        gate(Place::Tree, Step::Create)?;
        create_regular(&*dir.fd()?, name.as_bytes(), mode).map_err(from_rustix)
    }

    fn make_dir(&self, dir: &RealDir, name: &Name, mode: u32) -> Result<()> {
        gate(Place::Tree, Step::MakeDir)?;
        let fd = dir.fd()?;
        with_c_name(name, |name| {
            rustix::fs::mkdirat(&fd, name, mode_bits(mode))?;
            settle_mode(&fd, name, mode)
        })
    }

    fn make_link(&self, dir: &RealDir, name: &Name, target: &[u8]) -> Result<()> {
        gate(Place::Tree, Step::Create)?;
        rustix::fs::symlinkat(target, dir.fd()?, name.as_bytes()).map_err(from_rustix)
    }

    fn make_node(&self, dir: &RealDir, name: &Name, kind: Kind, mode: u32, rdev: u64) -> Result<()> {
        let kind = match kind {
            Kind::File => FileType::RegularFile,
            Kind::Pipe => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Dir | Kind::Link => return Err(Status::Invalid),
        };
        let fd = dir.fd()?;
        with_c_name(name, |name| {
            rustix::fs::mknodat(&fd, name, kind, mode_bits(mode), rdev)?;
            settle_mode(&fd, name, mode)
        })
    }

    fn hard_link(&self, dir: &RealDir, name: &Name, to_dir: &RealDir, to_name: &Name) -> Result<()> {
        gate(Place::Tree, Step::Create)?;
        rustix::fs::linkat(dir.fd()?, name.as_bytes(), to_dir.fd()?, to_name.as_bytes(), AtFlags::empty())
            .map_err(from_rustix)
    }

    fn remove_file(&self, dir: &RealDir, name: &Name) -> Result<()> {
        gate(Place::Tree, Step::Unlink)?;
        rustix::fs::unlinkat(dir.fd()?, name.as_bytes(), AtFlags::empty()).map_err(from_rustix)
    }

    fn remove_dir(&self, dir: &RealDir, name: &Name) -> Result<()> {
        gate(Place::Tree, Step::Unlink)?;
        rustix::fs::unlinkat(dir.fd()?, name.as_bytes(), AtFlags::REMOVEDIR).map_err(from_rustix)
    }

    fn rename(&self, dir: &RealDir, name: &Name, to_dir: &RealDir, to_name: &Name, mode: RenameMode) -> Result<()> {
        gate(Place::Tree, Step::Rename)?;
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        rustix::fs::renameat_with(dir.fd()?, name.as_bytes(), to_dir.fd()?, to_name.as_bytes(), flags)
            .map_err(from_rustix)
    }

    fn set_attr(&self, dir: &RealDir, name: &Name, change: &SetAttr) -> Result<()> {
        gate(Place::Tree, Step::SetMode)?;
        let fd = dir.fd()?;
        if let Some(size) = change.size {
            let file = open_regular(&fd, name.as_bytes(), OFlags::WRONLY)?;
            rustix::fs::ftruncate(&file, size).map_err(from_rustix)?;
        }
        with_c_name(name, |name| {
            // The order matters: see `RealFile::set_attr`.
            if change.uid.is_some() || change.gid.is_some() {
                let (uid, gid) = owner(change.uid, change.gid)?;
                rustix::fs::chownat(&fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if let Some(mode) = change.mode {
                chmod_at(&fd, name, mode)?;
            }
            if change.atime.is_some() || change.mtime.is_some() {
                let times = timestamps(change.atime, change.mtime);
                rustix::fs::utimensat(&fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(())
        })
    }

    fn set_dir_attr(&self, dir: &RealDir, change: &SetAttr) -> Result<()> {
        gate(Place::Tree, Step::SetMode)?;
        if change.size.is_some() {
            return Err(Status::IsDir);
        }
        let fd = dir.fd()?;
        // Nothing but a path does for all three with an O_PATH descriptor.
        apply_to_path(&magic_link(&fd), change).map_err(from_rustix)
    }

    fn place(&self, dir: &RealDir, name: &Name, bytes: &RealFile, attr: &Placing) -> Result<()> {
        let fd = dir.fd()?;
        let name = CString::new(name.as_bytes()).map_err(|_| Status::Invalid)?;
        // Nothing is remembered of what the file system cannot do: the tree may span several.
        let file = WholeFiles::default().make(&fd, bytes.as_file(), attr.mode, attr.mtime, attr.owner);
        file.and_then(|file| file.take(&name)).map_err(|error| from_io(&error))
    }

    fn sync_dir(&self, dir: &RealDir) -> Result<()> {
        gate(Place::Tree, Step::Sync)?;
        open_listing(&*dir.fd()?).and_then(rustix::fs::fsync).map_err(from_rustix)
    }

    fn get_xattr(&self, dir: &RealDir, name: Option<&Name>, key: &[u8]) -> Result<Vec<u8>> {
        let fd = dir.fd()?;
        Bearer::new(&fd, name).get(key).map_err(from_rustix)
    }

    fn list_xattrs(&self, dir: &RealDir, name: Option<&Name>) -> Result<Vec<Vec<u8>>> {
        let fd = dir.fd()?;
        Bearer::new(&fd, name).list().map_err(from_rustix)
    }

    fn set_xattr(&self, dir: &RealDir, name: Option<&Name>, key: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let fd = dir.fd()?;
        Bearer::new(&fd, name).set(key, value, mode).map_err(from_rustix)
    }

    fn remove_xattr(&self, dir: &RealDir, name: Option<&Name>, key: &[u8]) -> Result<()> {
        let fd = dir.fd()?;
        Bearer::new(&fd, name).remove(key).map_err(from_rustix)
    }

    fn stage(&self) -> Result<(StagedId, RealFile)> {
        gate(Place::Store, Step::Create)?;
        let staging = self.staging()?;
        loop {
            let id = StagedId(staging.next.fetch_add(1, Ordering::Relaxed));
            match create_regular(&staging.directory, id.0.to_string().as_bytes(), 0o600) {
                Err(Errno::EXIST) => {}
                created => return created.map(|file| (id, file)).map_err(from_rustix),
            }
        }
    }

    fn stage_elsewhere(&self) -> Result<(StagedId, RealFile)> {
        gate(Place::Tree, Step::Create)?;
        let (spill, staging) = (self.spill.as_ref().ok_or(Status::NoSpace)?, self.staging()?);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&spill.directory, c".", flags, mode_bits(0o600)).map_err(from_rustix)?;
        let kept = rustix::io::fcntl_dupfd_cloexec(&file, 0).map_err(from_rustix)?;
        let id = StagedId(staging.next.fetch_add(1, Ordering::Relaxed));
        spill.files.lock().insert(id, kept);
        Ok((id, file.into()))
    }

    fn open_staged(&self, id: StagedId) -> Result<RealFile> {
        gate(Place::Store, Step::Open)?;
        if let Some(spill) = &self.spill
            && let Some(file) = spill.files.lock().get(&id)
        {
            return rustix::io::fcntl_dupfd_cloexec(file, 0).map(RealFile::from).map_err(from_rustix);
        }
        open_regular(&self.staging()?.directory, id.0.to_string().as_bytes(), OFlags::RDWR)
    }

    fn remove_staged(&self, id: StagedId) -> Result<()> {
        gate(Place::Store, Step::Unlink)?;
        if self.spill.as_ref().is_some_and(|spill| spill.files.lock().remove(&id).is_some()) {
            return Ok(());
        }
        rustix::fs::unlinkat(&self.staging()?.directory, id.0.to_string(), AtFlags::empty()).map_err(from_rustix)
    }
}

/// Passed before whatever changes the tree, and before what is done with staged files.
#[cfg_attr(debug_assertions, track_caller)]
fn gate(place: Place, step: Step) -> Result<()> {
    seam::gate(place, step).map_err(|error| from_io(&error))
}

/// Runs `act` with the name as the kernel wants it, for calls that need it more than once.
fn with_c_name(name: &Name, act: impl FnOnce(&CStr) -> rustix::io::Result<()>) -> Result<()> {
    let name = CString::new(name.as_bytes()).map_err(|_| Status::Invalid)?;
    act(&name).map_err(from_rustix)
}

/// Opens a directory for listing. Through `.` first; a directory that may be read but not passed through is reached by the
/// magic link of its descriptor, which asks for no more than the listing itself.
fn open_listing(dir: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, c".", flags, Mode::empty()) {
        Err(Errno::ACCESS) => rustix::fs::open(magic_link(dir), flags, Mode::empty()),
        other => other,
    }
}

/// Changes all but the size of what a magic link leads to. The order matters: see `RealFile::set_attr`.
fn apply_to_path(path: &str, change: &SetAttr) -> rustix::io::Result<()> {
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = owner(change.uid, change.gid)?;
        rustix::fs::chownat(CWD, path, uid, gid, AtFlags::empty())?;
    }
    if let Some(mode) = change.mode {
        rustix::fs::chmodat(CWD, path, mode_bits(mode), AtFlags::empty())?;
    }
    if change.atime.is_some() || change.mtime.is_some() {
        rustix::fs::utimensat(CWD, path, &timestamps(change.atime, change.mtime), AtFlags::empty())?;
    }
    Ok(())
}

/// Whether `name` in `parent` still is the open directory `dir`.
fn same_directory(dir: &OwnedFd, parent: &OwnedFd, name: &Name) -> bool {
    let named = rustix::fs::statat(parent, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW);
    matches!((rustix::fs::fstat(dir), named), (Ok(one), Ok(two)) if (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino))
}

/// Opens a regular file, and nothing else: opening a pipe or a device does things.
fn open_regular(dir: &OwnedFd, name: &[u8], access: OFlags) -> Result<RealFile> {
    let flags = FILE | access;
    // NOATIME: wink's reading on a task's behalf shall not look like use. Only the owner may ask for it.
    let opened = match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        // A lease is being broken; only regular files have those, so waiting for it is what a native open does.
        Err(Errno::AGAIN) => rustix::fs::openat(dir, name, flags.difference(OFlags::NONBLOCK), Mode::empty()),
        other => other,
    };
    let file = opened.map_err(from_rustix)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(from_rustix)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        FileType::Directory => Err(Status::IsDir),
        _ => Err(Status::NoData), // ENXIO: what opening a socket says.
    }
}

fn create_regular(dir: &OwnedFd, name: &[u8], mode: u32) -> rustix::io::Result<RealFile> {
    let flags = FILE.difference(OFlags::NONBLOCK) | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(dir, name, flags, mode_bits(mode))?;
    if let Some(wanted) = mode_to_settle(&rustix::fs::fstat(&file)?, mode) {
        rustix::fs::fchmod(&file, mode_bits(wanted))?;
    }
    Ok(file.into())
}

#[cfg(test)]
#[path = "backing_tests.rs"]
mod tests;

//! An open file of the real tree or of the staging area.
//!
//! All access is by explicit offset, so one descriptor serves any number of threads. (`seek` moves the descriptor's own
//! position, which nothing else looks at.)

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use wink_fs::attr::{Attr, SetAttr};
use wink_fs::backing::{BackingFile, Result, Seek};

use super::attr::{attr_of, mode_bits, owner, timestamps};
use super::copy;
use crate::errno::{from_io, from_rustix};

/// An open file; see [`BackingFile`].
#[derive(Debug)]
pub struct RealFile(File);

impl RealFile {
    /// The standard library's view of it.
    pub fn as_file(&self) -> &File {
        &self.0
    }

    /// Gives up the wrapper.
    pub fn into_file(self) -> File {
        self.0
    }
}

impl From<File> for RealFile {
    fn from(file: File) -> RealFile {
        RealFile(file)
    }
}

impl From<OwnedFd> for RealFile {
    fn from(descriptor: OwnedFd) -> RealFile {
        RealFile(descriptor.into())
    }
}

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for RealFile {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl BackingFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        copy::read_full(self.as_fd(), buffer, offset).map_err(|error| from_io(&error))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        copy::write_all(self.as_fd(), bytes, offset).map_err(|error| from_io(&error))
    }

    fn truncate(&self, size: u64) -> Result<()> {
        rustix::fs::ftruncate(self, size).map_err(from_rustix)
    }

    fn allocate(&self, offset: u64, length: u64, mode: i32) -> Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        loop {
            match rustix::fs::fallocate(self, mode, offset, length) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map_err(from_rustix),
            }
        }
    }

    fn seek(&self, offset: u64, what: Seek) -> Result<u64> {
        let target = match what {
            Seek::Data => SeekFrom::Data(offset),
            Seek::Hole => SeekFrom::Hole(offset),
        };
        rustix::fs::seek(self, target).map_err(from_rustix)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        if data_only { rustix::fs::fdatasync(self) } else { rustix::fs::fsync(self) }.map_err(from_rustix)
    }

    fn attr(&self) -> Result<Attr> {
        rustix::fs::fstat(self).map(|stat| attr_of(&stat)).map_err(from_rustix)
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        apply(self, change).map_err(from_rustix)
    }

    fn copy_from(&self, from: &Self, from_offset: u64, offset: u64, length: u64) -> Result<u64> {
        copy::copy_range(from.as_fd(), from_offset, self.as_fd(), offset, length).map_err(|error| from_io(&error))
    }

    fn clone_all(&self, from: &Self) -> Result<()> {
        match copy::reflink(from, self) {
            Ok(true) => Ok(()),
            Ok(false) => copy::copy_sparse(&from.0, &self.0).map_err(|error| from_io(&error)),
            Err(error) => Err(from_io(&error)),
        }
    }

    fn reopen_writable(&self) -> Result<RealFile> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::open(magic_link(self), flags, Mode::empty()).map(RealFile::from).map_err(from_rustix)
    }
}

/// The path that leads to exactly what a descriptor of this process is open on, also an `O_PATH` one, whatever its name is by now.
pub(crate) fn magic_link(open: impl AsFd) -> String {
    format!("/proc/self/fd/{}", open.as_fd().as_raw_fd())
}

/// Owner before mode: a change of owner takes the set-user-ID bits away. Times last: everything before touches them.
fn apply(file: &RealFile, change: &SetAttr) -> rustix::io::Result<()> {
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = owner(change.uid, change.gid)?;
        rustix::fs::fchown(file, uid, gid)?;
    }
    if let Some(mode) = change.mode {
        rustix::fs::fchmod(file, mode_bits(mode))?;
    }
    if change.atime.is_some() || change.mtime.is_some() {
        rustix::fs::futimens(file, &timestamps(change.atime, change.mtime))?;
    }
    Ok(())
}

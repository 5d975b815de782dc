//! What the filesystem needs from the tree beneath it: the real one (`wink-platform`), one in memory, or one that fails on
//! purpose (tests).
//!
//! All names are relative to directory handles; nothing here follows a symbolic link.

use crate::attr::{Attr, Kind, SetAttr, Time};
use crate::name::Name;
use crate::status::Status;

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, Status>;

/// How a file of the real tree is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    ReadWrite,
}

/// What a caller wants to do with an object of the real tree: the bits of `access(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Read a file, list a directory.
    pub read: bool,
    /// Write a file, change the names of a directory.
    pub write: bool,
    /// Execute a file, pass through a directory.
    pub execute: bool,
}

/// How a rename treats what stands at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail if anything is there.
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// How setting an extended attribute treats one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Sets it, there or not.
    Set,
    /// Fails if it is there.
    Create,
    /// Fails if it is not.
    Replace,
}

/// The attributes of a file that is put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placing {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group; `None`: this process'.
    pub owner: Option<(u32, u32)>,
    /// Last change of the bytes.
    pub mtime: Time,
}

/// One name of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Its inode number.
    pub ino: u64,
}

/// Which bytes [`BackingFile::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is stored.
    Data,
    /// The next byte that is not.
    Hole,
}

/// An open file of the real tree or of the staging area. All methods may run at once.
pub trait BackingFile: Send + Sync + 'static {
    /// Reads at `offset`; short only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Sets the size.
    fn truncate(&self, size: u64) -> Result<()>;
    /// `fallocate(2)` with its raw mode bits.
    fn allocate(&self, offset: u64, length: u64, mode: i32) -> Result<()>;
    /// The next data or hole at or after `offset`; [`Status::NoData`] where there is none.
    fn seek(&self, offset: u64, what: Seek) -> Result<u64>;
    /// Makes bytes (and attributes unless `data_only`) durable.
    fn sync(&self, data_only: bool) -> Result<()>;
    /// Current attributes.
    fn attr(&self) -> Result<Attr>;
    /// Changes attributes; size is not among them (see [`BackingFile::truncate`]).
    fn set_attr(&self, change: &SetAttr) -> Result<()>;
    /// Copies up to `length` bytes from another file of the same backing, sharing blocks where the file system can; returns
    /// how many. 0 at the end of `from`.
    fn copy_from(&self, from: &Self, from_offset: u64, offset: u64, length: u64) -> Result<u64>;
    /// Makes this (empty) file a copy of all of `from`, holes kept, blocks shared where the file system can.
    fn clone_all(&self, from: &Self) -> Result<()>;
    /// The same file for reading and writing, whatever its name is by now.
    fn reopen_writable(&self) -> Result<Self>
    where
        Self: Sized,
    {
        Err(Status::Unsupported)
    }
}

/// The tree beneath. `Dir` is a cheap handle of a directory that stays usable when descriptors run short.
pub trait Backing: Send + Sync + 'static {
    /// A directory of the tree.
    type Dir: Clone + Send + Sync + 'static;
    /// An open file.
    type File: BackingFile;

    /// The top of the tree.
    fn root(&self) -> Self::Dir;
    /// The directory `name` in `dir`; does not touch the disk before it is used.
    fn child(&self, dir: &Self::Dir, name: &Name) -> Self::Dir;
    /// Attributes of a directory.
    fn dir_attr(&self, dir: &Self::Dir) -> Result<Attr>;
    /// Attributes of `name` in `dir`, a symbolic link's own.
    fn attr(&self, dir: &Self::Dir, name: &Name) -> Result<Attr>;
    /// All names but `.` and `..`, unsorted.
    fn list(&self, dir: &Self::Dir) -> Result<Vec<DirEntry>>;
    /// Target of a symbolic link.
    fn read_link(&self, dir: &Self::Dir, name: &Name) -> Result<Vec<u8>>;
    /// Opens a regular file.
    fn open(&self, dir: &Self::Dir, name: &Name, access: Access) -> Result<Self::File>;
    /// Whether this process may do that to `name` in `dir` (or to `dir` itself if `None`), by its effective identity.
    fn permits(&self, dir: &Self::Dir, name: Option<&Name>, want: Want) -> Result<()>;
    /// Size and room of the file system, for `statfs`.
    fn space(&self, dir: &Self::Dir) -> Result<Space>;

    /// Creates a regular file that must not exist, mode exactly as given.
    fn create(&self, dir: &Self::Dir, name: &Name, mode: u32) -> Result<Self::File>;
    /// Makes a directory, mode exactly as given.
    fn make_dir(&self, dir: &Self::Dir, name: &Name, mode: u32) -> Result<()>;
    /// Makes a symbolic link.
    fn make_link(&self, dir: &Self::Dir, name: &Name, target: &[u8]) -> Result<()>;
    /// Makes a pipe, socket or device, mode exactly as given.
    fn make_node(&self, dir: &Self::Dir, name: &Name, kind: Kind, mode: u32, rdev: u64) -> Result<()>;
    /// Gives an existing file a second name.
    fn hard_link(&self, dir: &Self::Dir, name: &Name, to_dir: &Self::Dir, to_name: &Name) -> Result<()>;
    /// Removes a name that is not a directory.
    fn remove_file(&self, dir: &Self::Dir, name: &Name) -> Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Self::Dir, name: &Name) -> Result<()>;
    /// Renames.
    fn rename(&self, dir: &Self::Dir, name: &Name, to_dir: &Self::Dir, to_name: &Name, mode: RenameMode) -> Result<()>;
    /// Changes attributes of `name` in `dir` without following it; a size change opens and truncates.
    fn set_attr(&self, dir: &Self::Dir, name: &Name, change: &SetAttr) -> Result<()>;

    /// Changes attributes of a directory itself.
    fn set_dir_attr(&self, _dir: &Self::Dir, _change: &SetAttr) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// Puts a copy of all of `bytes` under a free name, whole or not at all; blocks shared where the file system can.
    fn place(&self, _dir: &Self::Dir, _name: &Name, _bytes: &Self::File, _attr: &Placing) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// Makes the names of a directory durable.
    fn sync_dir(&self, _dir: &Self::Dir) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// An extended attribute of `name` in `dir`, or of `dir` itself; a symbolic link's own.
    fn get_xattr(&self, _dir: &Self::Dir, _name: Option<&Name>, _key: &[u8]) -> Result<Vec<u8>> {
        Err(Status::Unsupported)
    }
    /// The names of all extended attributes.
    fn list_xattrs(&self, _dir: &Self::Dir, _name: Option<&Name>) -> Result<Vec<Vec<u8>>> {
        Err(Status::Unsupported)
    }
    /// Sets an extended attribute.
    fn set_xattr(
        &self,
        _dir: &Self::Dir,
        _name: Option<&Name>,
        _key: &[u8],
        _value: &[u8],
        _mode: XattrMode,
    ) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// Removes an extended attribute.
    fn remove_xattr(&self, _dir: &Self::Dir, _name: Option<&Name>, _key: &[u8]) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// A new empty file in the staging area, open for reading and writing.
    fn stage(&self) -> Result<(StagedId, Self::File)>;
    /// As [`Backing::stage`] on another file system, for when the staging area is full: a task must not fail because the cache is.
    fn stage_elsewhere(&self) -> Result<(StagedId, Self::File)> {
        Err(Status::NoSpace)
    }
    /// Opens a staged file again.
    fn open_staged(&self, id: StagedId) -> Result<Self::File>;
    /// Removes a staged file.
    fn remove_staged(&self, id: StagedId) -> Result<()>;
}

/// A file of the staging area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StagedId(pub u64);

/// The fields of `statvfs(3)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of statvfs(3) under their own names")]
pub struct Space {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_size: u32,
    pub fragment_size: u32,
    pub name_max: u32,
}

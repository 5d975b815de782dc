//! One method per operation: the only door into the filesystem. Adapters decode a kernel's request, call one of these, and
//! encode the answer.

use std::sync::Arc;

use crate::attr::{Attr, Kind, SetAttr};
use crate::backing::{RenameMode, Result, Seek, Space, Want, XattrMode};
use crate::status::Status;

/// What the kernel knows a node by; 1 is the top of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// The top of the tree.
pub const TOP: NodeId = NodeId(1);

/// Who is asking.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// A node as an answer shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub id: NodeId,
    /// Its attributes.
    pub attr: Attr,
    /// Whether the kernel may keep this answer until the view says otherwise.
    pub lasting: bool,
}

/// What an answer reveals of the tree beneath: the path there, and what stands at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Absolute path in the tree beneath.
    pub path: Vec<u8>,
    /// Its attributes; `None` if nothing is there.
    pub attr: Option<Attr>,
}

/// The answer to a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The node, or nothing has that name.
    pub entry: Option<Entry>,
    /// Whether the kernel may keep a "nothing there".
    pub lasting: bool,
    /// What it reveals; `None` if the answer comes from the upper.
    pub sighting: Option<Sighting>,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Cut to nothing first.
    pub truncate: bool,
}

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListItem {
    /// The name, or `.` or `..`.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub ino: u64,
}

/// Names and what they are.
pub type Names = Vec<(Vec<u8>, Kind)>;

/// What a listing reveals of the tree beneath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revealed {
    /// Absolute path of the directory there.
    pub path: Vec<u8>,
    /// The names and kinds there: own changes and hidden names left out.
    pub names: Names,
}

/// A listing, and what it reveals.
#[derive(Clone, Debug)]
pub struct Listed {
    /// All names, `.` and `..` first.
    pub items: Vec<ListItem>,
    /// `None` if the directory has nothing beneath it.
    pub revealed: Option<Revealed>,
}

/// The operations.
pub trait Vfs: Send + Sync + 'static {
    /// An open file beneath.
    type File: Send + Sync + 'static;
    /// Finds `name` in a directory; the kernel holds one more reference to what it finds.
    fn lookup(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<Looked>;
    /// The kernel dropped `count` references.
    fn forget(&self, id: NodeId, count: u64);
    /// Attributes.
    fn attr(&self, id: NodeId) -> Result<Entry>;
    /// Changes attributes.
    fn set_attr(&self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<Entry>;
    /// Target of a symbolic link.
    fn read_link(&self, id: NodeId) -> Result<Vec<u8>>;
    /// Makes a file (not opened), pipe, socket or device.
    fn make_node(&self, caller: Caller, parent: NodeId, name: &[u8], kind: Kind, mode: u32, rdev: u64)
    -> Result<Entry>;
    /// Makes a directory.
    fn make_dir(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32) -> Result<Entry>;
    /// Makes a symbolic link.
    fn make_link(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry>;
    /// Removes a name that is not a directory.
    fn remove_file(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<()>;
    /// Renames.
    fn rename(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        to_parent: NodeId,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()>;
    /// Gives a file another name.
    fn hard_link(&self, caller: Caller, id: NodeId, to_parent: NodeId, to_name: &[u8]) -> Result<Entry>;
    /// Opens a file. Returns whether the kernel may keep pages of it from earlier opens.
    fn open(&self, caller: Caller, id: NodeId, how: OpenHow) -> Result<bool>;
    /// Creates and opens a file that must not exist.
    fn create(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32, how: OpenHow) -> Result<(Entry, bool)>;
    /// An open file whose bytes cannot change, for the kernel to read by itself from now on; `None` if it is to ask for them.
    fn lends(&self, _id: NodeId) -> Option<Arc<Self::File>> {
        None
    }
    /// Somebody is about to change a file that the kernel reads by itself, which it could not notice: the file's names shall lead to
    /// another node. The request is then to be answered [`Status::Stale`], upon which the kernel looks the name up again.
    fn part(&self, _id: NodeId) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// An open file was closed for good.
    fn release(&self, id: NodeId);
    /// Fills `buffer` as far as there are bytes; returns how many.
    fn read(&self, id: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    /// Writes all of `bytes`.
    fn write(&self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes a file durable.
    fn sync(&self, id: NodeId, data_only: bool) -> Result<()>;
    /// `fallocate(2)`.
    fn allocate(&self, id: NodeId, offset: u64, length: u64, mode: i32) -> Result<()>;
    /// `lseek(2)` for data or hole.
    fn seek(&self, id: NodeId, offset: u64, what: Seek) -> Result<u64>;
    /// `copy_file_range(2)`.
    fn copy_range(&self, from: NodeId, from_offset: u64, to: NodeId, to_offset: u64, length: u64) -> Result<u64>;
    /// The names of a directory.
    fn list(&self, caller: Caller, id: NodeId) -> Result<Listed>;
    /// What the outcome of an operation reveals that depends on whether the directory `name` is empty; `None` if it is no directory
    /// or has nothing beneath it.
    fn contents(&self, parent: NodeId, name: &[u8]) -> Option<Revealed>;
    /// Size and room.
    fn space(&self, id: NodeId) -> Result<Space>;
    /// Makes the names of a directory durable.
    fn sync_dir(&self, _id: NodeId) -> Result<()> {
        Ok(())
    }
    /// Somebody without privileges writes to the file: its set-user-ID and set-group-ID bits go (`write(2)`).
    fn drop_privilege_bits(&self, _id: NodeId) -> Result<()> {
        Ok(())
    }
    /// An extended attribute.
    fn get_xattr(&self, _id: NodeId, _key: &[u8]) -> Result<Vec<u8>> {
        Err(Status::Unsupported)
    }
    /// The names of all extended attributes.
    fn list_xattrs(&self, _id: NodeId) -> Result<Vec<Vec<u8>>> {
        Err(Status::Unsupported)
    }
    /// Sets an extended attribute.
    fn set_xattr(&self, _id: NodeId, _key: &[u8], _value: &[u8], _mode: XattrMode) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// Removes an extended attribute.
    fn remove_xattr(&self, _id: NodeId, _key: &[u8]) -> Result<()> {
        Err(Status::Unsupported)
    }
    /// `access(2)`, where the kernel leaves it to us.
    fn permits(&self, caller: Caller, id: NodeId, want: Want) -> Result<()>;
}

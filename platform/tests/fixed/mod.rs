//! A tree that never changes.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use wink_fs::attr::{Attr, Kind, SetAttr, Time};
use wink_fs::backing::{RenameMode, Result, Seek, Space, Want};
use wink_fs::status::Status;
use wink_fs::vfs::{Caller, Entry, ListItem, Listed, Looked, NodeId, OpenHow, Revealed, Vfs};

/// What a path holds.
pub enum Holds {
    Dir,
    Link(Vec<u8>),
    File(Vec<u8>),
}

struct Node {
    parent: u64,
    name: OsString,
    holds: Holds,
}

/// See the module; node N is at place N - 1.
pub struct Fixed(Vec<Node>);

impl Fixed {
    pub fn new() -> Fixed {
        Fixed(vec![Node { parent: 0, name: OsString::new(), holds: Holds::Dir }])
    }

    pub fn add(&mut self, path: &Path, holds: Holds) {
        let mut holds = Some(holds);
        let parts: Vec<_> = path.iter().filter(|part| *part != "/").collect();
        let mut parent = 1;
        for (number, name) in parts.iter().enumerate() {
            parent = match self.find(parent, name) {
                Some(ino) => ino,
                None => {
                    let last = number + 1 == parts.len();
                    let holds = if last { holds.take().unwrap() } else { Holds::Dir };
                    self.0.push(Node { parent, name: name.to_os_string(), holds });
                    self.0.len() as u64
                }
            };
        }
    }

    fn find(&self, parent: u64, name: &OsStr) -> Option<u64> {
        self.0.iter().position(|node| node.parent == parent && node.name == name).map(|place| place as u64 + 1)
    }

    fn node(&self, id: NodeId) -> Result<&Node> {
        usize::try_from(id.0).ok().and_then(|id| self.0.get(id.checked_sub(1)?)).ok_or(Status::NotFound)
    }

    fn kind(&self, id: NodeId) -> Result<Kind> {
        Ok(match self.node(id)?.holds {
            Holds::Dir => Kind::Dir,
            Holds::Link(_) => Kind::Link,
            Holds::File(_) => Kind::File,
        })
    }

    fn bytes(&self, id: NodeId) -> Result<&[u8]> {
        match &self.node(id)?.holds {
            Holds::Dir => Ok(&[]),
            Holds::Link(bytes) | Holds::File(bytes) => Ok(bytes),
        }
    }
}

impl Vfs for Fixed {
    type File = std::fs::File;

    fn lookup(&self, _: Caller, parent: NodeId, name: &[u8]) -> Result<Looked> {
        let entry = self.find(parent.0, OsStr::from_bytes(name)).map(|id| self.attr(NodeId(id))).transpose()?;
        Ok(Looked { entry, lasting: true, sighting: None })
    }

    fn forget(&self, _: NodeId, _: u64) {}

    fn attr(&self, id: NodeId) -> Result<Entry> {
        let mode = match self.kind(id)? {
            Kind::Dir => 0o755,
            Kind::Link => 0o777,
            _ => 0o644,
        };
        let then = Time(0);
        let attr = Attr {
            kind: self.kind(id)?,
            dev: 0,
            ino: id.0,
            size: self.bytes(id)?.len() as u64,
            blocks: 0,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            atime: then,
            mtime: then,
            ctime: then,
        };
        Ok(Entry { id, attr, lasting: true })
    }

    fn set_attr(&self, _: Caller, _: NodeId, _: &SetAttr) -> Result<Entry> {
        Err(Status::ReadOnly)
    }

    fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        self.bytes(id).map(<[u8]>::to_vec)
    }

    fn make_node(&self, _: Caller, _: NodeId, _: &[u8], _: Kind, _: u32, _: u64) -> Result<Entry> {
        Err(Status::ReadOnly)
    }

    fn make_dir(&self, _: Caller, _: NodeId, _: &[u8], _: u32) -> Result<Entry> {
        Err(Status::ReadOnly)
    }

    fn make_link(&self, _: Caller, _: NodeId, _: &[u8], _: &[u8]) -> Result<Entry> {
        Err(Status::ReadOnly)
    }

    fn remove_file(&self, _: Caller, _: NodeId, _: &[u8]) -> Result<()> {
        Err(Status::ReadOnly)
    }

    fn remove_dir(&self, _: Caller, _: NodeId, _: &[u8]) -> Result<()> {
        Err(Status::ReadOnly)
    }

    fn rename(&self, _: Caller, _: NodeId, _: &[u8], _: NodeId, _: &[u8], _: RenameMode) -> Result<()> {
        Err(Status::ReadOnly)
    }

    fn hard_link(&self, _: Caller, _: NodeId, _: NodeId, _: &[u8]) -> Result<Entry> {
        Err(Status::ReadOnly)
    }

    fn open(&self, _: Caller, id: NodeId, _: OpenHow) -> Result<bool> {
        self.node(id).map(|_| true)
    }

    fn create(&self, _: Caller, _: NodeId, _: &[u8], _: u32, _: OpenHow) -> Result<(Entry, bool)> {
        Err(Status::ReadOnly)
    }

    fn release(&self, _: NodeId) {}

    fn read(&self, id: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let wanted = self.bytes(id)?.get(offset as usize..).unwrap_or_default();
        let count = wanted.len().min(buffer.len());
        buffer[..count].copy_from_slice(&wanted[..count]);
        Ok(count)
    }

    fn write(&self, _: NodeId, _: u64, _: &[u8]) -> Result<()> {
        Err(Status::ReadOnly)
    }

    fn sync(&self, _: NodeId, _: bool) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, _: NodeId, _: u64, _: u64, _: i32) -> Result<()> {
        Err(Status::ReadOnly)
    }

    fn seek(&self, _: NodeId, _: u64, _: Seek) -> Result<u64> {
        Err(Status::Unsupported)
    }

    fn copy_range(&self, _: NodeId, _: u64, _: NodeId, _: u64, _: u64) -> Result<u64> {
        Err(Status::ReadOnly)
    }

    fn list(&self, _: Caller, id: NodeId) -> Result<Listed> {
        let below = self.0.iter().enumerate().filter(|(_, node)| node.parent == id.0);
        let items = below.map(|(place, node)| {
            let ino = place as u64 + 1;
            Ok(ListItem { name: node.name.as_bytes().to_vec(), kind: self.kind(NodeId(ino))?, ino })
        });
        Ok(Listed { items: items.collect::<Result<_>>()?, revealed: None })
    }

    fn contents(&self, _: NodeId, _: &[u8]) -> Option<Revealed> {
        None
    }

    fn space(&self, _: NodeId) -> Result<Space> {
        Ok(Space::default())
    }

    fn permits(&self, _: Caller, _: NodeId, _: Want) -> Result<()> {
        Ok(())
    }
}

//! A tree of one file, which counts what it is asked.

pub mod inside;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use wink_fs::attr::{Attr, Kind, SetAttr, Time};
use wink_fs::backing::{RenameMode, Result, Seek, Space, Want, XattrMode};
use wink_fs::status::Status;
use wink_fs::vfs::{Caller, Entry, ListItem, Listed, Looked, NodeId, OpenHow, Revealed, TOP, Vfs};

/// The file.
pub const FILE: NodeId = NodeId(2);

/// The name that it cannot be asked for without breaking.
pub const BROKEN: &[u8] = b"broken";

/// The tree; its answers hold until the kernel is told otherwise.
pub struct OneFile {
    /// The file's.
    pub bytes: Mutex<Vec<u8>>,
    /// Whether it has no name.
    pub hidden: AtomicBool,
    /// How often privilege bits were to be dropped.
    pub dropped: AtomicUsize,
    /// How often the directory was to be made durable.
    pub synced: AtomicUsize,
    /// How often extended attributes were asked for.
    pub asked: AtomicUsize,
    /// How many references to the file were dropped.
    pub forgotten: AtomicUsize,
    /// How often the directory was listed.
    pub listed: AtomicUsize,
    xattrs: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl OneFile {
    pub fn new() -> OneFile {
        OneFile {
            bytes: Mutex::new(b"bytes".to_vec()),
            hidden: AtomicBool::new(false),
            dropped: AtomicUsize::new(0),
            synced: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
            listed: AtomicUsize::new(0),
            xattrs: Mutex::default(),
        }
    }

    fn entry(&self, id: NodeId) -> Entry {
        let (kind, mode, size) = match id {
            TOP => (Kind::Dir, 0o755, 0),
            _ => (Kind::File, 0o666, self.bytes.lock().unwrap().len() as u64),
        };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let then = Time(0);
        let attr = Attr {
            kind,
            dev: 0,
            ino: id.0,
            size,
            blocks: 0,
            mode,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            atime: then,
            mtime: then,
            ctime: then,
        };
        Entry { id, attr, lasting: true }
    }
}

fn known(key: &[u8]) -> Result<()> {
    if key.starts_with(b"strange.") { Err(Status::Unsupported) } else { Ok(()) }
}

impl Vfs for OneFile {
    type File = std::fs::File;

    fn lookup(&self, _: Caller, _: NodeId, name: &[u8]) -> Result<Looked> {
        assert_ne!(name, BROKEN);
        let found = name == b"file" && !self.hidden.load(Ordering::Relaxed);
        Ok(Looked { entry: found.then(|| self.entry(FILE)), lasting: true, sighting: None })
    }

    fn forget(&self, id: NodeId, count: u64) {
        if id == FILE {
            self.forgotten.fetch_add(count as usize, Ordering::Relaxed);
        }
    }

    fn attr(&self, id: NodeId) -> Result<Entry> {
        Ok(self.entry(id))
    }

    fn set_attr(&self, _: Caller, id: NodeId, _: &SetAttr) -> Result<Entry> {
        Ok(self.entry(id))
    }

    fn read_link(&self, _: NodeId) -> Result<Vec<u8>> {
        Err(Status::Invalid)
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

    fn open(&self, _: Caller, _: NodeId, _: OpenHow) -> Result<bool> {
        Ok(true)
    }

    fn create(&self, _: Caller, _: NodeId, _: &[u8], _: u32, _: OpenHow) -> Result<(Entry, bool)> {
        Err(Status::ReadOnly)
    }

    fn release(&self, _: NodeId) {}

    fn read(&self, _: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let wanted = bytes.get(offset as usize..).unwrap_or_default();
        let count = wanted.len().min(buffer.len());
        buffer[..count].copy_from_slice(&wanted[..count]);
        Ok(count)
    }

    fn write(&self, _: NodeId, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut all = self.bytes.lock().unwrap();
        all.truncate(offset as usize);
        all.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, _: NodeId, _: bool) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, _: NodeId, _: u64, _: u64, _: i32) -> Result<()> {
        Ok(())
    }

    fn seek(&self, _: NodeId, _: u64, _: Seek) -> Result<u64> {
        Err(Status::NoData)
    }

    fn copy_range(&self, _: NodeId, _: u64, _: NodeId, _: u64, _: u64) -> Result<u64> {
        Err(Status::Unsupported)
    }

    fn list(&self, _: Caller, _: NodeId) -> Result<Listed> {
        self.listed.fetch_add(1, Ordering::Relaxed);
        let file = ListItem { name: b"file".to_vec(), kind: Kind::File, ino: FILE.0 };
        let items = if self.hidden.load(Ordering::Relaxed) { Vec::new() } else { vec![file] };
        Ok(Listed { items, revealed: None })
    }

    fn contents(&self, _: NodeId, _: &[u8]) -> Option<Revealed> {
        None
    }

    fn space(&self, _: NodeId) -> Result<Space> {
        Ok(Space::default())
    }

    fn sync_dir(&self, id: NodeId) -> Result<()> {
        assert_eq!(id, TOP);
        self.synced.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn drop_privilege_bits(&self, id: NodeId) -> Result<()> {
        assert_eq!(id, FILE);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn get_xattr(&self, _: NodeId, key: &[u8]) -> Result<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        known(key)?;
        self.xattrs.lock().unwrap().get(key).cloned().ok_or(Status::NoAttribute)
    }

    fn list_xattrs(&self, _: NodeId) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs.lock().unwrap().keys().cloned().collect())
    }

    fn set_xattr(&self, _: NodeId, key: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        known(key)?;
        let mut xattrs = self.xattrs.lock().unwrap();
        match (mode, xattrs.contains_key(key)) {
            (XattrMode::Create, true) => Err(Status::Exists),
            (XattrMode::Replace, false) => Err(Status::NoAttribute),
            _ => {
                xattrs.insert(key.to_vec(), value.to_vec());
                Ok(())
            }
        }
    }

    fn remove_xattr(&self, _: NodeId, key: &[u8]) -> Result<()> {
        self.xattrs.lock().unwrap().remove(key).map(drop).ok_or(Status::NoAttribute)
    }

    fn permits(&self, _: Caller, _: NodeId, _: Want) -> Result<()> {
        Ok(())
    }
}

//! Requests of the kernel to a mounted tree. They come from the kernel alone, but the names and bytes in them from anybody.

use std::sync::Arc;

use wink_fs::attr::{Attr, Kind, SetAttr, Time};
use wink_fs::backing::{RenameMode, Result, Seek, Space, Want, XattrMode};
use wink_fs::status::Status;
use wink_fs::vfs::{Caller, Entry, ListItem, Listed, Looked, NodeId, OpenHow, Revealed, Vfs};
use wink_platform::unix::decoders;

/// The head of a request: how long it is, what is asked, by what number, of which node, by whom.
const HEAD_BYTES: usize = 40;

/// A tree in which everything is there and everything works.
struct Anything;

fn named(name: &[u8]) {
    assert!(!name.contains(&0), "NUL in {name:?}");
}

fn entry(id: NodeId) -> Entry {
    let then = Time(i64::MIN);
    let attr = Attr {
        kind: Kind::File,
        dev: 0,
        ino: id.0,
        size: u64::MAX,
        blocks: 0,
        mode: u32::MAX,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: u64::MAX,
        atime: then,
        mtime: then,
        ctime: then,
    };
    Entry { id, attr, lasting: true }
}

impl Vfs for Anything {
    type File = std::fs::File;

    fn lookup(&self, _: Caller, parent: NodeId, name: &[u8]) -> Result<Looked> {
        named(name);
        Ok(Looked { entry: (!name.is_empty()).then(|| entry(parent)), lasting: false, sighting: None })
    }
    fn forget(&self, _: NodeId, _: u64) {}
    fn attr(&self, id: NodeId) -> Result<Entry> {
        Ok(entry(id))
    }
    fn set_attr(&self, _: Caller, id: NodeId, change: &SetAttr) -> Result<Entry> {
        assert!(change.mode.is_none_or(|mode| mode <= 0o7777));
        Ok(entry(id))
    }
    fn read_link(&self, _: NodeId) -> Result<Vec<u8>> {
        Ok(b"target".to_vec())
    }
    fn make_node(&self, _: Caller, parent: NodeId, name: &[u8], _: Kind, _: u32, _: u64) -> Result<Entry> {
        named(name);
        Ok(entry(parent))
    }
    fn make_dir(&self, _: Caller, parent: NodeId, name: &[u8], _: u32) -> Result<Entry> {
        named(name);
        Ok(entry(parent))
    }
    fn make_link(&self, _: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        named(name);
        named(target);
        Ok(entry(parent))
    }
    fn remove_file(&self, _: Caller, _: NodeId, name: &[u8]) -> Result<()> {
        named(name);
        Ok(())
    }
    fn remove_dir(&self, _: Caller, _: NodeId, name: &[u8]) -> Result<()> {
        named(name);
        Ok(())
    }
    fn rename(&self, _: Caller, _: NodeId, name: &[u8], _: NodeId, to: &[u8], _: RenameMode) -> Result<()> {
        named(name);
        named(to);
        Ok(())
    }
    fn hard_link(&self, _: Caller, id: NodeId, _: NodeId, name: &[u8]) -> Result<Entry> {
        named(name);
        Ok(entry(id))
    }
    fn open(&self, _: Caller, _: NodeId, how: OpenHow) -> Result<bool> {
        assert!(how.read || how.write);
        Ok(true)
    }
    fn create(&self, _: Caller, parent: NodeId, name: &[u8], _: u32, _: OpenHow) -> Result<(Entry, bool)> {
        named(name);
        Ok((entry(parent), false))
    }
    fn release(&self, _: NodeId) {}
    fn read(&self, _: NodeId, _: u64, buffer: &mut [u8]) -> Result<usize> {
        buffer.fill(7);
        Ok(buffer.len())
    }
    fn write(&self, _: NodeId, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn sync(&self, _: NodeId, _: bool) -> Result<()> {
        Ok(())
    }
    fn allocate(&self, _: NodeId, _: u64, _: u64, _: i32) -> Result<()> {
        Ok(())
    }
    fn seek(&self, _: NodeId, offset: u64, _: Seek) -> Result<u64> {
        Ok(offset)
    }
    fn copy_range(&self, _: NodeId, _: u64, _: NodeId, _: u64, length: u64) -> Result<u64> {
        Ok(length)
    }
    fn list(&self, _: Caller, id: NodeId) -> Result<Listed> {
        let item = |name: &[u8]| ListItem { name: name.to_vec(), kind: Kind::Dir, ino: id.0 };
        Ok(Listed { items: vec![item(b"."), item(&[b'n'; 255])], revealed: None })
    }
    fn contents(&self, _: NodeId, _: &[u8]) -> Option<Revealed> {
        None
    }
    fn space(&self, _: NodeId) -> Result<Space> {
        Ok(Space::default())
    }
    fn get_xattr(&self, _: NodeId, key: &[u8]) -> Result<Vec<u8>> {
        named(key);
        Ok(vec![7; 100])
    }
    fn set_xattr(&self, _: NodeId, key: &[u8], _: &[u8], _: XattrMode) -> Result<()> {
        named(key);
        Err(Status::NoSpace)
    }
    fn permits(&self, _: Caller, _: NodeId, _: Want) -> Result<()> {
        Ok(())
    }
}

/// The length in the head is made true: the kernel's is.
pub fn request(bytes: &[u8]) -> bool {
    let mut message = bytes.to_vec();
    if let Some(length) = message.get_mut(..4) {
        length.copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
    }
    let Some(answer) = decoders::request(&Arc::new(Anything), &message) else { return false };
    let number = |at: usize| u32::from_ne_bytes(answer[at..at + 4].try_into().unwrap());
    assert_eq!(number(0) as usize, answer.len());
    assert_eq!(answer[8..16], message[8..16], "answers another request");
    let error = number(4).cast_signed();
    assert!((-4095..=0).contains(&error) && (error == 0 || answer.len() == 16));
    error == 0
}

fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
    let head = [(HEAD_BYTES + body.len()) as u32, opcode, 7, 0, 1, 0, 1000, 1000, 1, 0];
    let head = head.iter().flat_map(|number: &u32| number.to_ne_bytes());
    head.chain(body.iter().copied()).collect()
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    const LOOKUP: u32 = 1;
    const SYMLINK: u32 = 6;
    const READ: u32 = 15;
    const WRITE: u32 = 16;
    const SETXATTR: u32 = 21;
    const READDIR: u32 = 28;
    const CREATE: u32 = 35;
    const BATCH_FORGET: u32 = 42;
    const RENAME2: u32 = 45;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let with = |fixed: &[u32], rest: &[u8]| [&words(fixed), rest].concat();
    let reading = [0, 0, 0, 0, 4096, 0, 0, 0, 0, 0];
    vec![
        message(LOOKUP, b"name\0"),
        message(SYMLINK, b"name\0../target\0"),
        message(READ, &words(&reading)),
        message(READDIR, &words(&reading)),
        message(WRITE, &with(&[0, 0, 0, 0, 5, 0, 0, 0, 0, 0], b"bytes")),
        message(SETXATTR, &with(&[5, 0], b"user.key\0value")),
        message(CREATE, &with(&[0o101, 0o100_644, 0o022, 0], b"new\0")),
        message(BATCH_FORGET, &words(&[2, 0, 2, 0, 1, 0, 3, 0, 1, 0])),
        message(RENAME2, &with(&[1, 0, 2, 0], b"old\0new\0")),
    ]
}

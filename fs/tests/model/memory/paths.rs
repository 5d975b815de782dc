//! A tree in memory by absolute paths: how tests fill it and look at it.

use std::collections::BTreeMap;

use wink_fs::attr::{Attr, Kind};
use wink_fs::backing::{Access, Backing, BackingFile, Result, StagedId};
use wink_fs::name::Name;
use wink_fs::status::Status;

use super::{Memory, MemoryDir, ROOT, Shown, Snapshot};

impl Memory {
    /// How many staged files there are.
    pub fn staged_count(&self) -> usize {
        self.tree.lock().staged.len()
    }

    /// All bytes of a staged file.
    pub fn staged_bytes(&self, id: StagedId) -> Option<Vec<u8>> {
        let tree = self.tree.lock();
        let ino = tree.staged.get(&id.0)?;
        tree.inodes.get(ino).map(|inode| inode.bytes.clone())
    }

    /// The directory and name of an absolute path.
    pub fn place(&self, path: &str) -> Result<(MemoryDir, Name)> {
        let mut dir = self.root();
        let mut parts = path.trim_start_matches('/').split('/').peekable();
        while let Some(part) = parts.next() {
            let name = Name::new(part.as_bytes())?;
            if parts.peek().is_none() {
                return Ok((dir, name));
            }
            dir = self.child(&dir, &name);
        }
        Err(Status::Invalid)
    }

    /// Makes a directory.
    pub fn dir(&self, path: &str, mode: u32) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.make_dir(&dir, &name, mode)
    }

    /// Makes a file, or replaces its bytes.
    pub fn file(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let file = match self.create(&dir, &name, mode) {
            Err(Status::Exists) => self.open(&dir, &name, Access::ReadWrite)?,
            made => made?,
        };
        file.truncate(0)?;
        file.write_at(bytes, 0)
    }

    /// Makes a symbolic link.
    pub fn link(&self, path: &str, target: &[u8]) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.make_link(&dir, &name, target)
    }

    /// Gives a file another name.
    pub fn alias(&self, path: &str, to: &str) -> Result<()> {
        let ((dir, name), (to_dir, to_name)) = (self.place(path)?, self.place(to)?);
        self.hard_link(&dir, &name, &to_dir, &to_name)
    }

    /// Attributes of a path.
    pub fn look(&self, path: &str) -> Result<Attr> {
        let (dir, name) = self.place(path)?;
        self.attr(&dir, &name)
    }

    /// Everything, the top left out.
    pub fn snapshot(&self) -> Snapshot {
        let tree = self.tree.lock();
        let mut all = Snapshot::new();
        let mut work = vec![(String::new(), ROOT)];
        while let Some((path, ino)) = work.pop() {
            let Some(inode) = tree.inodes.get(&ino) else { continue };
            if ino != ROOT {
                let mode = if inode.attr.kind == Kind::Link { 0 } else { inode.attr.mode };
                all.insert(path.clone(), Shown { kind: inode.attr.kind, mode, bytes: inode.bytes.clone() });
            }
            for (name, below) in &inode.names {
                work.push((format!("{path}/{}", String::from_utf8_lossy(name.as_bytes())), *below));
            }
        }
        all
    }

    /// As [`Memory::snapshot`], with all attributes but times of access.
    pub fn attributes(&self) -> BTreeMap<String, Attr> {
        let paths: Vec<String> = self.snapshot().into_keys().collect();
        paths.into_iter().filter_map(|path| self.look(&path).ok().map(|attr| (path, attr))).collect()
    }
}

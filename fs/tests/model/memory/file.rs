//! Open files of a tree in memory.

use wink_fs::attr::{Attr, SetAttr};
use wink_fs::backing::{BackingFile, Result, Seek};
use wink_fs::status::Status;

use super::MemoryFile;

impl MemoryFile {
    fn writable(&self) -> Result<()> {
        // What the kernel says of a descriptor that was opened for reading: no view may ever see it.
        if self.writable { Ok(()) } else { Err(Status::ReadOnly) }
    }
}

impl BackingFile for MemoryFile {
    fn reopen_writable(&self) -> Result<MemoryFile> {
        Ok(MemoryFile { tree: self.tree.clone(), ino: self.ino, writable: true })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let bytes = &tree.inode(self.ino)?.bytes;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        self.writable()?;
        if new.is_empty() {
            return Ok(());
        }
        let bytes = &mut tree.inode_mut(self.ino)?.bytes;
        let (start, end) = (offset as usize, offset as usize + new.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(new);
        tree.wrote(self.ino)
    }

    fn truncate(&self, size: u64) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        self.writable()?;
        tree.inode_mut(self.ino)?.bytes.resize(size as usize, 0);
        tree.wrote(self.ino)
    }

    fn allocate(&self, offset: u64, length: u64, _mode: i32) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        self.writable()?;
        let bytes = &mut tree.inode_mut(self.ino)?.bytes;
        let end = bytes.len().max((offset + length) as usize);
        bytes.resize(end, 0);
        tree.wrote(self.ino)
    }

    fn seek(&self, offset: u64, what: Seek) -> Result<u64> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        let size = tree.inode(self.ino)?.attr.size;
        match what {
            _ if offset >= size => Err(Status::NoData),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        self.tree.lock().enter()
    }

    fn attr(&self) -> Result<Attr> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        Ok(tree.inode(self.ino)?.attr)
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        tree.change(self.ino, change)
    }

    fn copy_from(&self, from: &Self, from_offset: u64, offset: u64, length: u64) -> Result<u64> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        self.writable()?;
        let (start, target) = (from_offset as usize, offset as usize);
        let source = tree.inode(from.ino)?.bytes.get(start..).unwrap_or_default();
        let piece = source[..source.len().min(length as usize)].to_vec();
        if self.ino == from.ino && start < target + piece.len() && target < start + piece.len() {
            return Err(Status::Invalid);
        }
        if piece.is_empty() {
            return Ok(0);
        }
        let end = target + piece.len();
        let bytes = &mut tree.inode_mut(self.ino)?.bytes;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[target..end].copy_from_slice(&piece);
        tree.wrote(self.ino)?;
        Ok(piece.len() as u64)
    }

    fn clone_all(&self, from: &Self) -> Result<()> {
        let mut tree = self.tree.lock();
        tree.enter()?;
        self.writable()?;
        tree.inode_mut(self.ino)?.bytes = tree.inode(from.ino)?.bytes.clone();
        tree.wrote(self.ino)
    }
}

//! A kernel with several threads: each counts the references it was given and the files it has open, and gives all of them back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::attr::Kind;
use crate::backing::{RenameMode, Result};
use crate::memory::OWNER;
use crate::status::Status;
use crate::vfs::{Caller, Entry, NodeId, OpenHow, TOP, Vfs};

/// Who asks.
pub(super) const CALLER: Caller = Caller { uid: OWNER.0, gid: OWNER.1 };
/// For reading and writing.
pub(super) const BOTH: OpenHow = OpenHow { read: true, write: true, truncate: false };
/// For reading.
pub(super) const READ: OpenHow = OpenHow { read: true, write: false, truncate: false };
/// More than any file of a model holds.
const READ_ALL: usize = 4096;

/// One thread of a kernel.
pub(super) struct Kernel<V> {
    pub(super) vfs: Arc<V>,
    held: HashMap<NodeId, u64>,
    open: Vec<NodeId>,
}

impl<V: Vfs> Kernel<V> {
    pub(super) fn new(vfs: &Arc<V>) -> Kernel<V> {
        Kernel { vfs: vfs.clone(), held: HashMap::new(), open: Vec::new() }
    }

    fn hold(&mut self, entry: &Entry) -> NodeId {
        *self.held.entry(entry.id).or_default() += 1;
        entry.id
    }

    /// What a name is; the reference is kept.
    pub(super) fn look(&mut self, parent: NodeId, name: &str) -> Result<Option<Entry>> {
        let entry = self.vfs.lookup(CALLER, parent, name.as_bytes())?.entry;
        if let Some(entry) = &entry {
            self.hold(entry);
        }
        Ok(entry)
    }

    /// The directory at a path.
    pub(super) fn dir(&mut self, path: &str) -> Result<NodeId> {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(TOP, |at, name| Ok(self.look(at, name)?.ok_or(Status::NotFound)?.id))
    }

    /// Makes a file and leaves it open.
    pub(super) fn create(&mut self, parent: NodeId, name: &str) -> Result<NodeId> {
        let (entry, _) = self.vfs.create(CALLER, parent, name.as_bytes(), 0o644, BOTH)?;
        self.open.push(entry.id);
        Ok(self.hold(&entry))
    }

    pub(super) fn make_dir(&mut self, parent: NodeId, name: &str) -> Result<NodeId> {
        let entry = self.vfs.make_dir(CALLER, parent, name.as_bytes(), 0o755)?;
        Ok(self.hold(&entry))
    }

    pub(super) fn link(&mut self, id: NodeId, parent: NodeId, name: &str) -> Result<NodeId> {
        let entry = self.vfs.hard_link(CALLER, id, parent, name.as_bytes())?;
        Ok(self.hold(&entry))
    }

    pub(super) fn rename(&mut self, from: (NodeId, &str), to: (NodeId, &str), mode: RenameMode) -> Result<()> {
        self.vfs.rename(CALLER, from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode)
    }

    pub(super) fn open(&mut self, id: NodeId, how: OpenHow) -> Result<()> {
        self.vfs.open(CALLER, id, how)?;
        self.open.push(id);
        Ok(())
    }

    /// Closes the file opened last.
    pub(super) fn close(&mut self) {
        if let Some(id) = self.open.pop() {
            self.vfs.release(id);
        }
    }

    /// All bytes of a file, opened for that.
    pub(super) fn read(&mut self, id: NodeId) -> Result<Vec<u8>> {
        self.open(id, READ)?;
        let mut bytes = vec![0; READ_ALL];
        let read = self.vfs.read(id, 0, &mut bytes);
        self.close();
        bytes.truncate(read?);
        Ok(bytes)
    }

    /// Replaces the first bytes of a file, opened for that.
    pub(super) fn write(&mut self, id: NodeId, bytes: &[u8]) -> Result<()> {
        self.open(id, BOTH)?;
        let written = self.vfs.write(id, 0, bytes);
        self.close();
        written
    }

    /// The names in a directory, `.` and `..` left out.
    pub(super) fn names(&mut self, dir: NodeId) -> Result<Vec<String>> {
        let items = self.vfs.list(CALLER, dir)?.items.into_iter();
        let mut names: Vec<String> = items.map(|item| String::from_utf8_lossy(&item.name).into_owned()).collect();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }

    /// Gives one node back, if it is not open.
    pub(super) fn forget(&mut self, id: NodeId) {
        if !self.open.contains(&id)
            && let Some(count) = self.held.remove(&id)
        {
            self.vfs.forget(id, count);
        }
    }

    /// Gives everything back.
    pub(super) fn end(mut self) {
        while !self.open.is_empty() {
            self.close();
        }
        for (id, count) in std::mem::take(&mut self.held) {
            self.vfs.forget(id, count);
        }
    }

    /// Everything below a directory: directories as `/`, files by their bytes, links by their targets. Listings must agree with lookups.
    pub(super) fn walk(&mut self, path: &str, all: &mut BTreeMap<String, Vec<u8>>) {
        let dir = self.dir(path).expect("a directory");
        for name in self.names(dir).expect("a listing") {
            let entry =
                self.look(dir, &name).expect("an answer").unwrap_or_else(|| panic!("{name} is listed and not there"));
            let path = format!("{path}/{name}");
            let bytes = match entry.attr.kind {
                Kind::Dir => b"/".to_vec(),
                Kind::File => self.read(entry.id).unwrap_or_else(|status| panic!("{path}: {status}")),
                _ => self.vfs.read_link(entry.id).expect("a target"),
            };
            if entry.attr.kind == Kind::Dir {
                self.walk(&path, all);
            }
            assert!(all.insert(path, bytes).is_none(), "{name} is listed twice");
        }
    }
}

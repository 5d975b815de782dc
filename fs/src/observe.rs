//! Recording as a decorator: [`Observed`] passes every operation on and notes what the answers reveal; nothing inside the view knows
//! of it.
//!
//! What is noted is the path beneath and its attributes at that moment. The facts themselves (contents, link targets) are read when the run
//! has ended, and count only if the attributes are still the same (`docs/SEMANTICS.md`, "A stable tree").
//!
//! A kernel asks for every name it has not asked for before (a lookup) and for every listing, so these two suffice: whatever a
//! program does with a file (stat, open, execute, map, change, remove), a lookup of its name came first.

use std::collections::HashMap;
use std::sync::Arc;

use crate::attr::{Attr, Kind, SetAttr};
use crate::backing::{RenameMode, Result, Seek, Space, Want};
use crate::sync::Mutex;
use crate::vfs::{Caller, Entry, Listed, Looked, Names, NodeId, OpenHow, Revealed, Sighting, Vfs};

/// What was seen of one path, first answer first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Attributes; `None`: nothing was there.
    pub attr: Option<Attr>,
    /// Names and kinds, if it was listed.
    pub names: Option<Names>,
    /// A later answer differed: somebody else changed it while the task ran.
    pub unsteady: bool,
}

/// All that was seen, by absolute path beneath.
#[derive(Debug, Default)]
pub struct Recorder {
    seen: Mutex<HashMap<Vec<u8>, Sight>>,
}

impl Recorder {
    /// Notes what a lookup revealed.
    pub fn saw(&self, sighting: &Sighting) {
        let mut seen = self.seen.lock();
        match seen.get_mut(&sighting.path) {
            // Listed before it was looked at: it was a directory.
            Some(Sight { attr: attr @ None, names: Some(_), .. })
                if sighting.attr.is_some_and(|now| now.kind == Kind::Dir) =>
            {
                *attr = sighting.attr;
            }
            Some(sight) => {
                if !same(sight.attr.as_ref(), sighting.attr.as_ref()) {
                    sight.unsteady = true;
                }
            }
            None => {
                let sight = Sight { attr: sighting.attr, names: None, unsteady: false };
                seen.insert(sighting.path.clone(), sight);
            }
        }
    }

    /// Notes what a listing revealed.
    pub fn listed(&self, revealed: Revealed) {
        let Revealed { path, mut names } = revealed;
        names.sort();
        let mut seen = self.seen.lock();
        match seen.get_mut(&path) {
            Some(Sight { names: Some(before), unsteady, .. }) => *unsteady |= *before != names,
            Some(sight) => sight.names = Some(names),
            None => {
                let sight = Sight { attr: None, names: Some(names), unsteady: false };
                seen.insert(path, sight);
            }
        }
    }

    /// Hands out all that was seen and starts afresh.
    pub fn take(&self) -> HashMap<Vec<u8>, Sight> {
        std::mem::take(&mut self.seen.lock())
    }

    /// Forgets all that was seen so far: what wink itself looked up while it set the view up.
    pub fn clear(&self) {
        self.seen.lock().clear();
    }
}

/// Whether two answers about one path tell the same. Directories reveal their mode and that they are there.
pub fn same(before: Option<&Attr>, after: Option<&Attr>) -> bool {
    match (before, after) {
        (None, None) => true,
        (Some(before), Some(after)) if before.kind == Kind::Dir => (after.kind, after.mode) == (Kind::Dir, before.mode),
        (Some(before), Some(after)) => {
            let stamp = |attr: &Attr| (attr.kind, attr.dev, attr.ino, attr.size, attr.mode, attr.mtime, attr.ctime);
            stamp(before) == stamp(after)
        }
        _ => false,
    }
}

/// A filesystem whose answers are noted.
pub struct Observed<V> {
    inner: V,
    recorder: Recorder,
}

impl<V: Vfs> Observed<V> {
    /// Notes the answers of `inner`.
    pub fn new(inner: V) -> Observed<V> {
        Observed { inner, recorder: Recorder::default() }
    }

    /// What is beneath the decorator.
    pub fn inner(&self) -> &V {
        &self.inner
    }

    /// Whether a directory may be removed or replaced tells whether it is empty.
    fn saw_contents(&self, parent: NodeId, name: &[u8]) {
        if let Some(revealed) = self.inner.contents(parent, name) {
            self.recorder.listed(revealed);
        }
    }

    /// What was seen.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}

impl<V: Vfs> Vfs for Observed<V> {
    type File = V::File;

    fn lookup(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<Looked> {
        let looked = self.inner.lookup(caller, parent, name)?;
        if let Some(sighting) = &looked.sighting {
            self.recorder.saw(sighting);
        }
        Ok(looked)
    }

    fn list(&self, caller: Caller, id: NodeId) -> Result<Listed> {
        let mut listed = self.inner.list(caller, id)?;
        if let Some(revealed) = listed.revealed.take() {
            self.recorder.listed(revealed);
        }
        Ok(listed)
    }

    fn forget(&self, id: NodeId, count: u64) {
        self.inner.forget(id, count);
    }

    fn attr(&self, id: NodeId) -> Result<Entry> {
        self.inner.attr(id)
    }

    fn set_attr(&self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<Entry> {
        self.inner.set_attr(caller, id, change)
    }

    fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        self.inner.read_link(id)
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u64,
    ) -> Result<Entry> {
        self.inner.make_node(caller, parent, name, kind, mode, rdev)
    }

    fn make_dir(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32) -> Result<Entry> {
        self.inner.make_dir(caller, parent, name, mode)
    }

    fn make_link(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        self.inner.make_link(caller, parent, name, target)
    }

    fn remove_file(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.inner.remove_file(caller, parent, name)
    }

    fn remove_dir(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.saw_contents(parent, name);
        self.inner.remove_dir(caller, parent, name)
    }

    fn rename(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        to_parent: NodeId,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        if mode == RenameMode::Replace {
            self.saw_contents(to_parent, to_name);
        }
        self.inner.rename(caller, parent, name, to_parent, to_name, mode)
    }

    fn hard_link(&self, caller: Caller, id: NodeId, to_parent: NodeId, to_name: &[u8]) -> Result<Entry> {
        self.inner.hard_link(caller, id, to_parent, to_name)
    }

    fn open(&self, caller: Caller, id: NodeId, how: OpenHow) -> Result<bool> {
        self.inner.open(caller, id, how)
    }

    fn create(&self, caller: Caller, parent: NodeId, name: &[u8], mode: u32, how: OpenHow) -> Result<(Entry, bool)> {
        self.inner.create(caller, parent, name, mode, how)
    }

    fn lends(&self, id: NodeId) -> Option<Arc<V::File>> {
        self.inner.lends(id)
    }

    fn part(&self, id: NodeId) -> Result<()> {
        self.inner.part(id)
    }

    fn release(&self, id: NodeId) {
        self.inner.release(id);
    }

    fn read(&self, id: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.inner.read(id, offset, buffer)
    }

    fn write(&self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.inner.write(id, offset, bytes)
    }

    fn sync(&self, id: NodeId, data_only: bool) -> Result<()> {
        self.inner.sync(id, data_only)
    }

    fn allocate(&self, id: NodeId, offset: u64, length: u64, mode: i32) -> Result<()> {
        self.inner.allocate(id, offset, length, mode)
    }

    fn seek(&self, id: NodeId, offset: u64, what: Seek) -> Result<u64> {
        self.inner.seek(id, offset, what)
    }

    fn copy_range(&self, from: NodeId, from_offset: u64, to: NodeId, to_offset: u64, length: u64) -> Result<u64> {
        self.inner.copy_range(from, from_offset, to, to_offset, length)
    }

    fn contents(&self, parent: NodeId, name: &[u8]) -> Option<Revealed> {
        self.inner.contents(parent, name)
    }

    fn space(&self, id: NodeId) -> Result<Space> {
        self.inner.space(id)
    }

    fn permits(&self, caller: Caller, id: NodeId, want: Want) -> Result<()> {
        self.inner.permits(caller, id, want)
    }
}

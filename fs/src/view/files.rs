//! Opening files, and their bytes.
//!
//! A node has at most one open descriptor, whoever opened it and however often: all handles see the same bytes, before and
//! after a copy-up. It stays open after the last close while descriptors are plenty, so that a header that is included a thousand
//! times is opened once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Guard, OpenFile, View};
use crate::attr::{Attr, Kind, SetAttr, Time};
use crate::backing::{Access, Backing, BackingFile, Result, Seek, StagedId, Want};
use crate::name::Name;
use crate::node::{Body, Bytes, FileBody, Node};
use crate::status::Status;
use crate::vfs::{NodeId, OpenHow};
use crate::zone::Zone;

impl<B: Backing> View<B> {
    pub(super) fn open_file(&self, id: NodeId, how: OpenHow) -> Result<bool> {
        let mut guard = self.lock();
        guard.check(id, Want { read: how.read, write: how.write || how.truncate, execute: false })?;
        self.open_checked(&mut guard, id, how)
    }

    /// The creator may write what it made whatever the mode says (`open(2)`), so nothing is checked. Nor is it cut: it is empty, and ext4
    /// writes a file that was cut to disk as soon as it is closed, which costs more than all else that is done to a small one.
    pub(super) fn open_created(&self, id: NodeId, how: OpenHow) -> Result<bool> {
        self.open_checked(&mut self.lock(), id, OpenHow { write: how.write || how.truncate, truncate: false, ..how })
    }

    fn open_checked(&self, guard: &mut Guard<'_, B>, id: NodeId, how: OpenHow) -> Result<bool> {
        match guard.node(id)?.kind {
            Kind::File => {}
            Kind::Dir => return Err(Status::IsDir),
            Kind::Link => return Err(Status::Loop),
            _ => return Err(Status::NoData),
        }
        if how.write || how.truncate {
            let size = how.truncate.then_some(0);
            guard.writable(id, size)?;
        } else {
            guard.open(id)?;
        }
        let lasting = guard.node(id)?.zone.is_lasting();
        if !lasting {
            guard.refresh(id)?;
        }
        let node = guard.node_mut(id)?;
        let stamp = node.lower.as_ref().map(|lower| (lower.attr.size, lower.attr.mtime, lower.attr.ctime));
        let Some(file) = node.file_mut() else { return Err(Status::Stale) };
        file.handles += 1;
        let unchanged = file.pages == stamp;
        file.pages = stamp;
        Ok(lasting || unchanged)
    }

    pub(super) fn release_file(&self, id: NodeId) {
        let mut guard = self.lock();
        let Some(file) = guard.table().get_mut(id).and_then(Node::file_mut) else { return };
        file.handles = file.handles.saturating_sub(1);
        guard.close_if_idle(id);
        guard.drop_if_unused(id);
    }

    fn opened(&self, id: NodeId) -> Result<OpenFile<B>> {
        self.lock().open(id)
    }

    fn opened_for_writing(&self, id: NodeId) -> Result<OpenFile<B>> {
        let mut guard = self.lock();
        let file = guard.writable(id, None)?;
        let node = guard.node(id)?;
        if node.zone != Zone::Task {
            let (zone, path) = (node.zone, node.lower.as_ref().map(|lower| lower.path.clone()));
            self.note_outside(zone, path.as_deref().unwrap_or_default());
        }
        Ok(file)
    }

    /// Writes to a file; if the staging area is full or fails, the file moves elsewhere first.
    fn with_room<T>(&self, id: NodeId, write: impl Fn(&B::File) -> Result<T>) -> Result<T> {
        loop {
            let spills = self.spills.load(Ordering::SeqCst);
            let file = self.opened_for_writing(id)?;
            match write(&file) {
                Err(full @ (Status::NoSpace | Status::Quota | Status::Io)) => {
                    let elsewhere = self.lock().spill(id, &file).map_err(|_| full)?;
                    return write(&elsewhere).inspect(|_| self.lock().note_change(id));
                }
                // Bytes are written without the lock. A file that moved meanwhile may have been copied before these came.
                Ok(_) if spills != self.spills.load(Ordering::SeqCst) => {}
                written => return written.inspect(|_| self.lock().note_change(id)),
            }
        }
    }

    pub(super) fn truncate_file(&self, id: NodeId, size: u64) -> Result<()> {
        let mut guard = self.lock();
        match &guard.node(id)?.body {
            // Whoever has it open for writing may cut it whatever the mode says by now (`ftruncate(2)`).
            Body::File(file) if file.handles > 0 && file.writable => {}
            Body::File(_) => guard.check(id, Want { read: false, write: true, execute: false })?,
            Body::Dir(_) => return Err(Status::IsDir),
            _ => return Err(Status::Invalid),
        }
        guard.writable(id, Some(size)).map(drop)
    }

    pub(super) fn read_file(&self, id: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.opened(id)?.read_at(buffer, offset)
    }

    pub(super) fn write_file(&self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.with_room(id, |file| file.write_at(bytes, offset))
    }

    pub(super) fn sync_file(&self, id: NodeId, data_only: bool) -> Result<()> {
        // What is staged becomes durable when the run is published; until then nobody can rely on it.
        let outside = {
            let guard = self.lock();
            match guard.node(id)? {
                node if node.zone == Zone::Task => None,
                node => match &node.body {
                    Body::File(file) => file.open.clone(),
                    _ => None,
                },
            }
        };
        outside.map_or(Ok(()), |file| file.sync(data_only))
    }

    pub(super) fn allocate_file(&self, id: NodeId, offset: u64, length: u64, mode: i32) -> Result<()> {
        self.with_room(id, |file| file.allocate(offset, length, mode))
    }

    pub(super) fn seek_file(&self, id: NodeId, offset: u64, what: Seek) -> Result<u64> {
        self.opened(id)?.seek(offset, what)
    }

    pub(super) fn copy_between(
        &self,
        from: NodeId,
        from_offset: u64,
        to: NodeId,
        to_offset: u64,
        length: u64,
    ) -> Result<u64> {
        // The target first: its copy-up may be what makes `from`, if they are one file, writable too.
        self.opened_for_writing(to)?;
        let source = self.opened(from)?;
        self.with_room(to, |target| target.copy_from(&source, from_offset, to_offset, length))
    }
}

impl<B: Backing> Guard<'_, B> {
    /// The file's open descriptor, opened now if it is not.
    fn open(&mut self, id: NodeId) -> Result<OpenFile<B>> {
        let node = self.node(id)?;
        let Body::File(FileBody { bytes, open, .. }) = &node.body else { return Err(Status::Invalid) };
        if let Some(open) = open {
            return Ok(open.clone());
        }
        let (file, writable) = match bytes {
            Bytes::Staged(staged) => (self.view.backing.open_staged(*staged)?, true),
            Bytes::Lower => {
                let (dir, name) = self.lower_name(id)?;
                (self.view.backing.open(dir, name, Access::Read)?, false)
            }
        };
        self.keep_open(id, file.into(), writable)
    }

    /// Closes a file that nobody has open when too many such are kept.
    pub(super) fn close_if_idle(&mut self, id: NodeId) {
        let over_budget = self.state.idle_files > self.view.setup.idle_files_max;
        let Some(file) = self.table().get_mut(id).and_then(Node::file_mut) else { return };
        if file.handles == 0 && over_budget && file.open.take().is_some() {
            self.state.idle_files = self.state.idle_files.saturating_sub(1);
        }
    }

    /// Where the file lies in the tree beneath, to open it by name.
    fn lower_name(&self, id: NodeId) -> Result<(&B::Dir, &Name)> {
        let node = self.node(id)?;
        let lower = node.lower.as_ref().ok_or(Status::Stale)?;
        if node.zone != Zone::Task && node.names.is_empty() {
            // Removed there, and perhaps another file's name by now.
            return Err(Status::Stale);
        }
        lower.dir.as_ref().zip(lower.name.as_ref()).ok_or(Status::Stale)
    }

    pub(super) fn keep_open(&mut self, id: NodeId, file: OpenFile<B>, writable: bool) -> Result<OpenFile<B>> {
        let body = self.node_mut(id)?.file_mut().ok_or(Status::Invalid)?;
        body.writable = writable;
        if body.open.replace(file.clone()).is_none() {
            self.state.idle_files += 1;
        }
        Ok(file)
    }

    /// The file's descriptor, fit for writing: inside the workspace after a copy-up. With `size` the file is cut or extended
    /// to it, and bytes beyond it are never copied.
    pub(crate) fn writable(&mut self, id: NodeId, size: Option<u64>) -> Result<OpenFile<B>> {
        let node = self.node(id)?;
        let Body::File(body) = &node.body else { return Err(Status::Invalid) };
        let ready = body.open.clone().filter(|_| body.writable);
        let file = match (ready, node.zone, &body.bytes) {
            (Some(open), ..) => open,
            (None, Zone::Task, Bytes::Lower) => {
                self.copy_up(id, size)?;
                let open = self.open(id)?;
                if size == Some(0) {
                    // It was made empty: see `open_created`.
                    return Ok(open);
                }
                open
            }
            (None, Zone::Task, Bytes::Staged(_)) => self.open(id)?,
            (None, ..) => {
                let (dir, name) = self.lower_name(id)?;
                let file = self.view.backing.open(dir, name, Access::ReadWrite)?;
                self.keep_open(id, file.into(), true)?
            }
        };
        if let Some(size) = size {
            file.truncate(size)?;
            self.note_change(id);
            let node = self.node(id)?;
            if let (true, Some(lower)) = (node.zone != Zone::Task, &node.lower) {
                self.view.note_outside(node.zone, &lower.path);
            }
        }
        Ok(file)
    }

    /// Gives a file of the workspace that has just changed a ctime that it never had before: the clock of the file system on which it is
    /// staged may have stood still since the change before.
    pub(crate) fn note_change(&mut self, id: NodeId) {
        if let Ok(node) = self.node_mut(id)
            && node.zone == Zone::Task
        {
            let last = node.over.ctime.unwrap_or_default();
            node.over.ctime = Some(Time::now().max(Time(last.0 + 1)));
        }
    }

    /// A new staged file: elsewhere if the staging area is full, or whatever else is wrong with it.
    pub(super) fn stage(&self) -> Result<(StagedId, B::File)> {
        let backing = &self.view.backing;
        backing.stage().or_else(|status| backing.stage_elsewhere().map_err(|_| status))
    }

    /// Moves a staged file to where there is room, unless somebody else just did.
    fn spill(&mut self, id: NodeId, full: &OpenFile<B>) -> Result<OpenFile<B>> {
        let Body::File(FileBody { bytes: Bytes::Staged(old), open, .. }) = &self.node(id)?.body else {
            return Err(Status::NoSpace);
        };
        let old = *old;
        if let Some(open) = open.clone().filter(|open| !Arc::ptr_eq(open, full)) {
            return Ok(open);
        }
        let times = full.attr()?;
        let (staged, file) = self.view.backing.stage_elsewhere()?;
        // Before the bytes are copied: see `with_room`.
        self.view.spills.fetch_add(1, Ordering::SeqCst);
        if let Err(status) = fill(&file, full, &times) {
            self.discard(staged);
            return Err(status);
        }
        if let Some(body) = self.node_mut(id)?.file_mut() {
            body.bytes = Bytes::Staged(staged);
        }
        let file = self.keep_open(id, file.into(), true)?;
        self.discard(old);
        Ok(file)
    }

    /// Names of a changed file that are never looked at keep what it was when the run is published: that is noted, for then the result
    /// is not what a run without wink gives.
    pub(super) fn note_split_link(&self, id: NodeId) -> Result<()> {
        let node = self.node(id)?;
        if let (true, Some(lower)) = (node.names_out_of_sight() > 0, &node.lower) {
            self.view.notes.lock().split_link.get_or_insert_with(|| lower.path.to_vec());
        }
        Ok(())
    }

    /// Removes a staged file that no node refers to.
    pub(super) fn discard(&self, staged: StagedId) {
        // It can only be left behind in the run's own staging directory, which goes away with the run.
        let _ = self.view.backing.remove_staged(staged);
    }

    /// A staged copy of `source`, with the times it shows.
    fn stage_copy(&self, source: &B::File, shown: &Attr) -> Result<(StagedId, B::File)> {
        let (staged, file) = self.stage()?;
        let Err(status) = fill(&file, source, shown) else { return Ok((staged, file)) };
        self.discard(staged);
        let (staged, file) = self.view.backing.stage_elsewhere().map_err(|_| status)?;
        match fill(&file, source, shown) {
            Ok(()) => Ok((staged, file)),
            Err(_) => {
                self.discard(staged);
                Err(status)
            }
        }
    }

    /// Gives a file of the tree beneath bytes of its own. Until all that can fail is done nothing changes.
    fn copy_up(&mut self, id: NodeId, size: Option<u64>) -> Result<()> {
        let shown = self.attr(id)?;
        let (staged, file) = if size == Some(0) {
            self.stage()?
        } else {
            let source = self.open(id)?;
            self.stage_copy(&source, &shown)?
        };
        self.note_split_link(id)?;
        let node = self.node_mut(id)?;
        (node.over.atime, node.over.mtime) = (None, None);
        if let Some(body) = node.file_mut() {
            body.bytes = Bytes::Staged(staged);
        }
        self.keep_open(id, file.into(), true).map(drop)
    }
}

/// Makes `file` a copy of `source`. It keeps the times too: opening a file for writing changes nothing yet.
fn fill<F: BackingFile>(file: &F, source: &F, shown: &Attr) -> Result<()> {
    file.clone_all(source)?;
    file.set_attr(&SetAttr { atime: Some(shown.atime), mtime: Some(shown.mtime), ..SetAttr::default() })
}

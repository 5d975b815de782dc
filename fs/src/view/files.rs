//! Opening files, and their bytes.
//!
//! A node has at most one open descriptor, whoever opened it and however often: all handles see the same bytes, before and
//! after a copy-up. It stays open after the last close while descriptors are plenty, so that a header that is included a thousand
//! times is opened once.

use super::{Guard, OpenFile, View};
use crate::attr::Kind;
use crate::backing::{Access, Backing, BackingFile, Result, Seek, Want};
use crate::node::{Body, Bytes, FileBody};
use crate::status::Status;
use crate::vfs::{NodeId, OpenHow};
use crate::zone::Zone;

impl<B: Backing> View<B> {
    pub(super) fn open_file(&self, id: NodeId, how: OpenHow) -> Result<bool> {
        let mut guard = self.lock();
        guard.check(id, Want { read: how.read, write: how.write || how.truncate, execute: false })?;
        self.open_checked(&mut guard, id, how)
    }

    /// The creator may write what it made whatever the mode says (`open(2)`), so nothing is checked.
    pub(super) fn open_created(&self, id: NodeId, how: OpenHow) -> Result<bool> {
        self.open_checked(&mut self.lock(), id, how)
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
        let keep = guard.node(id)?.zone.is_lasting();
        if let Some(file) = guard.node_mut(id)?.file_mut() {
            file.handles += 1;
        }
        Ok(keep)
    }

    pub(super) fn release_file(&self, id: NodeId) {
        let mut guard = self.lock();
        let over_budget = guard.state.idle_files > self.setup.idle_files_max;
        let Ok(node) = guard.node_mut(id) else { return };
        let Some(file) = node.file_mut() else { return };
        file.handles = file.handles.saturating_sub(1);
        if file.handles == 0 && over_budget && file.open.take().is_some() {
            guard.state.idle_files -= 1;
        }
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

    pub(super) fn truncate_file(&self, id: NodeId, size: u64) -> Result<()> {
        let mut guard = self.lock();
        if guard.node(id)?.kind != Kind::File {
            return Err(Status::Invalid);
        }
        guard.check(id, Want { read: false, write: true, execute: false })?;
        guard.writable(id, Some(size)).map(drop)
    }

    pub(super) fn read_file(&self, id: NodeId, offset: u64, size: usize) -> Result<Vec<u8>> {
        let file = self.opened(id)?;
        let mut buffer = vec![0; size];
        let count = file.read_at(&mut buffer, offset)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    pub(super) fn write_file(&self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.opened_for_writing(id)?.write_at(bytes, offset)
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
        self.opened_for_writing(id)?.allocate(offset, length, mode)
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
        let target = self.opened_for_writing(to)?;
        let source = self.opened(from)?;
        target.copy_from(&source, from_offset, to_offset, length)
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
                let lower = node.lower.as_ref().ok_or(Status::Stale)?;
                let (dir, name) = lower.dir.as_ref().zip(lower.name.as_ref()).ok_or(Status::Stale)?;
                (self.view.backing.open(dir, name, Access::Read)?, false)
            }
        };
        self.keep_open(id, file.into(), writable)
    }

    fn keep_open(&mut self, id: NodeId, file: OpenFile<B>, writable: bool) -> Result<OpenFile<B>> {
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
                self.open(id)?
            }
            (None, Zone::Task, Bytes::Staged(_)) => self.open(id)?,
            (None, ..) => {
                let lower = node.lower.as_ref().ok_or(Status::Stale)?;
                let (dir, name) = lower.dir.as_ref().zip(lower.name.as_ref()).ok_or(Status::Stale)?;
                let file = self.view.backing.open(dir, name, Access::ReadWrite)?;
                self.keep_open(id, file.into(), true)?
            }
        };
        if let Some(size) = size {
            file.truncate(size)?;
            let node = self.node(id)?;
            if let (true, Some(lower)) = (node.zone != Zone::Task, &node.lower) {
                self.view.note_outside(node.zone, &lower.path);
            }
        }
        Ok(file)
    }

    /// Gives a file of the tree beneath bytes of its own. Names of the same file that were not looked at yet keep the old bytes:
    /// that is noted, for then the result is not what a run without wink gives.
    fn copy_up(&mut self, id: NodeId, size: Option<u64>) -> Result<()> {
        let node = self.node(id)?;
        let lower = node.lower.as_ref().ok_or(Status::Stale)?;
        let (mode, path, links, names) = (lower.attr.mode, lower.path.clone(), lower.attr.nlink, node.names.len());
        let (staged, file) = self.view.backing.stage()?;
        if size != Some(0) {
            let source = self.open(id)?;
            if let Err(status) = file.clone_all(&source) {
                self.view.backing.remove_staged(staged)?;
                return Err(status);
            }
        }
        if links as usize > names {
            self.view.notes.lock().split_link.get_or_insert_with(|| path.to_vec());
        }
        let node = self.node_mut(id)?;
        node.over.mode.get_or_insert(mode);
        let (atime, mtime) = (node.over.atime.take(), node.over.mtime.take());
        if let Some(body) = node.file_mut() {
            body.bytes = Bytes::Staged(staged);
        }
        let times = crate::attr::SetAttr { atime, mtime, ..Default::default() };
        if times != crate::attr::SetAttr::default() {
            file.set_attr(&times)?;
        }
        self.keep_open(id, file.into(), true).map(drop)
    }
}

//! What a node's attributes are, and who may do what with it.

use super::{Checks, DIR_LINKS, Guard, MASKED_SIZE, MASKED_TIME};
use crate::attr::{Attr, Time};
use crate::backing::{Backing, BackingFile, Result, Want};
use crate::node::{Body, Bytes, DirBody, FileBody, Lower, Node};
use crate::status::Status;
use crate::vfs::{Entry, NodeId, TOP};
use crate::zone::Zone;

impl<B: Backing> Guard<'_, B> {
    /// The attributes a node shows.
    pub(crate) fn attr(&self, id: NodeId) -> Result<Attr> {
        let node = self.node(id)?;
        let mut attr = match (&node.body, &node.lower) {
            (Body::File(FileBody { bytes: Bytes::Staged(staged), open, .. }), _) => {
                let bytes = match open {
                    Some(file) => file.attr()?,
                    None => self.view.backing.open_staged(*staged)?.attr()?,
                };
                let mut attr = node.lower.as_ref().map_or(node.base, |lower| lower.attr);
                attr.size = bytes.size;
                attr.blocks = bytes.blocks;
                attr.atime = bytes.atime;
                attr.mtime = bytes.mtime;
                attr.ctime = bytes.ctime;
                attr
            }
            (_, Some(lower)) => self.lower_attr(node, lower)?,
            (_, None) => node.base,
        };
        if let (Body::Dir(dir), true, true) = (&node.body, node.lower.is_some(), node.zone.is_observed()) {
            // Inside the workspace what the task changes is laid over the mask: not even then do the real times show.
            if node.zone == Zone::Task || !dir.changed {
                let raised = node.lower.as_ref().and_then(|lower| self.raised(node, lower));
                let time = raised.unwrap_or(MASKED_TIME);
                (attr.atime, attr.mtime, attr.ctime) = (MASKED_TIME, time, time);
            }
        }
        let bytes_ctime = attr.ctime;
        node.over.apply(&mut attr);
        attr.ctime = attr.ctime.max(bytes_ctime);
        attr.ino = id.0;
        match &node.body {
            Body::Dir(_) => (attr.size, attr.blocks, attr.nlink) = (MASKED_SIZE, MASKED_SIZE / 512, DIR_LINKS),
            body => attr.nlink = links(node, body, &attr),
        }
        if self.view.setup.shown_as_own_group.contains(&attr.gid) {
            attr.gid = self.view.own_ids.1;
        }
        Ok(attr)
    }

    fn lower_attr(&self, node: &Node<B>, lower: &Lower<B>) -> Result<Attr> {
        let mut attr = lower.attr;
        if let Some(least) = self.raised(node, lower) {
            attr.mtime = attr.mtime.max(least);
        }
        Ok(attr)
    }

    /// The least modification time that what lies beneath a node shows, if it must look new.
    fn raised(&self, node: &Node<B>, lower: &Lower<B>) -> Option<Time> {
        let newer = self.view.setup.newer.as_ref()?;
        (node.zone.is_observed() && !newer.but.contains(&*lower.path)).then_some(newer.least)
    }

    /// Asks the tree beneath for the attributes of what is written through. What was removed meanwhile and is not open keeps its
    /// last ones.
    pub(crate) fn refresh(&mut self, id: NodeId) -> Result<()> {
        let node = self.node(id)?;
        let (true, Some(lower)) = (node.zone != Zone::Task, &node.lower) else { return Ok(()) };
        let fresh = match (&node.body, &lower.dir, &lower.name) {
            (Body::File(FileBody { open: Some(file), .. }), ..) => file.attr(),
            (_, Some(dir), Some(name)) => self.view.backing.attr(dir, name),
            _ => return Ok(()),
        };
        if let (Ok(fresh), Some(lower)) = (fresh, self.node_mut(id)?.lower.as_mut())
            // Another file may have taken the name meanwhile: that one has a node of its own.
            && (fresh.dev, fresh.ino) == (lower.attr.dev, lower.attr.ino)
        {
            lower.attr = fresh;
        }
        Ok(())
    }

    /// The answer that hands the node out: the kernel holds one more reference, unless there is no answer.
    pub(crate) fn hand_out(&mut self, id: NodeId) -> Result<Entry> {
        let entry = self.entry(id)?;
        self.node_mut(id)?.lookups += 1;
        Ok(entry)
    }

    pub(crate) fn entry(&self, id: NodeId) -> Result<Entry> {
        Ok(Entry { id, attr: self.attr(id)?, lasting: self.node(id)?.zone.is_lasting() })
    }

    /// Whether this process, which runs as the task's user, may do that to the node.
    pub(crate) fn check(&self, id: NodeId, want: Want) -> Result<()> {
        if self.view.setup.checks == Checks::Kernel {
            return Ok(());
        }
        let node = self.node(id)?;
        match &node.lower {
            Some(lower) if node.over.mode.is_none() => {
                let backing = &self.view.backing;
                match (&node.body, &lower.dir, &lower.name) {
                    (Body::Dir(DirBody { handle: Some(handle), .. }), ..) => backing.permits(handle, None, want),
                    (_, Some(dir), Some(name)) => backing.permits(dir, Some(name), want),
                    _ => Ok(()),
                }
            }
            _ => {
                let mode = node.over.mode.unwrap_or(node.base.mode) >> 6;
                let refused =
                    want.read && mode & 4 == 0 || want.write && mode & 2 == 0 || want.execute && mode & 1 == 0;
                if refused { Err(Status::Access) } else { Ok(()) }
            }
        }
    }

    /// Whether names in the directory may be changed.
    pub(crate) fn check_names(&self, parent: NodeId) -> Result<()> {
        self.check(parent, Want { read: false, write: true, execute: true })
    }

    /// A directory that was removed takes no names any more, though programs may still be in it.
    pub(crate) fn check_alive(&self, dir: NodeId) -> Result<()> {
        if dir != TOP && self.node(dir)?.names.is_empty() { Err(Status::NotFound) } else { Ok(()) }
    }

    /// The task changed a name in the directory.
    pub(crate) fn touch_dir(&mut self, id: NodeId) -> Result<()> {
        let node = self.node_mut(id)?;
        if node.zone == Zone::Task || node.lower.is_none() {
            let now = Time::now();
            node.over.mtime = Some(now);
            node.over.ctime = Some(now);
        }
        if let Some(dir) = node.dir_mut() {
            dir.changed = true;
        }
        Ok(())
    }
}

/// How many names a file has: in the upper those in the view, and those beneath that nobody looked at yet.
fn links<B: Backing>(node: &Node<B>, body: &Body<B>, attr: &Attr) -> u32 {
    let names = u32::try_from(node.names.len()).unwrap_or(u32::MAX);
    match (&node.lower, body) {
        (None, _) => names,
        (Some(_), _) if node.zone == Zone::Task => node.names_out_of_sight().saturating_add(names),
        (_, Body::File(FileBody { open: Some(_), .. })) => attr.nlink,
        _ if names == 0 => 0,
        _ => attr.nlink,
    }
}

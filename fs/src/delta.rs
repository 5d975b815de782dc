//! What a task made of its workspace: the difference between what the view shows and the tree beneath, path by path.
//!
//! Removals are spelled out: a directory that was removed or replaced yields one [`Change::Removed`] for everything that was seen in it, so
//! that nothing the task never saw is removed with it when the change is carried out elsewhere. What earlier own outputs hide is not
//! part of the difference.

use std::collections::BTreeMap;

use crate::attr::{Attr, Kind};
use crate::backing::{Backing, Result, StagedId};
use crate::name::Name;
use crate::node::{Body, Bytes, Child, Over};
use crate::status::Status;
use crate::vfs::{NodeId, Revealed, TOP};
use crate::view::{Guard, View};
use crate::zone::{Zone, join};

/// Where the bytes of a changed file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a staged file.
    Staged(StagedId),
    /// In the tree beneath at this absolute path: a file the task renamed, or whose attributes alone it changed.
    Beneath(Vec<u8>),
}

/// What stands at a path after the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A regular file.
    File {
        /// Its bytes.
        source: Source,
        /// Its attributes.
        attr: Attr,
    },
    /// A symbolic link.
    Link {
        /// Its target.
        target: Vec<u8>,
        /// Its attributes.
        attr: Attr,
    },
    /// A directory that the task made, or whose attributes it changed.
    Dir {
        /// Its attributes.
        attr: Attr,
    },
    /// A pipe, socket or device: never an output.
    Special {
        /// What it is.
        kind: Kind,
    },
    /// Nothing any more.
    Removed,
}

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Absolute path.
    pub path: Vec<u8>,
    /// What stands there now.
    pub change: Change,
    /// What the task found there in the tree beneath, if anything: then this is a change of somebody else's file.
    pub before: Option<Kind>,
}

/// All that a task changed.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// The changed paths, sorted: parents before what is in them.
    pub changes: Vec<Changed>,
    /// Directories that the task moved. What they hold is part of the result, whether
    /// the task looked at it or not.
    pub moved: Vec<Revealed>,
}

impl<B: Backing> View<B> {
    /// All changes of the workspace, parents before what is in them.
    pub fn delta(&self) -> Result<Delta> {
        let mut walk = Walk { guard: self.lock(), changes: BTreeMap::new(), moved: Vec::new() };
        let roots = walk.guard.task_roots();
        for (id, path) in roots {
            walk.native(id, &path)?;
        }
        let changes =
            walk.changes.into_iter().map(|(path, (change, before))| Changed { path, change, before }).collect();
        Ok(Delta { changes, moved: walk.moved })
    }
}

impl<B: Backing> Guard<'_, B> {
    /// Directories at which a [`Zone::Task`] begins.
    fn task_roots(&mut self) -> Vec<(NodeId, Vec<u8>)> {
        let mut roots = Vec::new();
        let mut work = vec![TOP];
        while let Some(id) = work.pop() {
            let Ok(node) = self.node(id) else { continue };
            if let (Zone::Task, Some(lower)) = (node.zone, &node.lower) {
                roots.push((id, lower.path.to_vec()));
                continue;
            }
            if let Some(dir) = node.dir() {
                work.extend(dir.children.values().filter_map(|child| match child {
                    Child::Node { id, .. } => Some(*id),
                    Child::Whiteout => None,
                }));
            }
        }
        roots
    }
}

struct Walk<'v, B: Backing> {
    guard: Guard<'v, B>,
    changes: BTreeMap<Vec<u8>, (Change, Option<Kind>)>,
    moved: Vec<Revealed>,
}

impl<B: Backing> Walk<'_, B> {
    /// A directory that stands where it stood: only the names that the task touched.
    fn native(&mut self, id: NodeId, path: &[u8]) -> Result<()> {
        let children: Vec<(Name, Child)> =
            self.guard.dir(id)?.children.iter().map(|(name, child)| (name.clone(), *child)).collect();
        for (name, child) in children {
            let at = join(path, name.as_bytes());
            match child {
                Child::Whiteout => self.beneath_removed(id, &name, &at)?,
                Child::Node { id: node, covers } => {
                    let shown = self.guard.node(node)?;
                    if shown.zone != Zone::Task && shown.lower.is_none() {
                        continue; // Made up by the view itself: a mount point.
                    }
                    if self.stands_at(node, &at)? {
                        self.unmoved(node, at)?;
                        continue;
                    }
                    let before = if covers { self.beneath_kind(id, &name)? } else { None };
                    if before == Some(Kind::Dir) {
                        self.beneath_removed(id, &name, &at)?;
                        if self.guard.node(node)?.kind == Kind::Dir {
                            // The directory itself is replaced, not removed.
                            self.changes.remove(&at);
                        }
                    }
                    self.created(node, at, before)?;
                }
            }
        }
        Ok(())
    }

    fn stands_at(&self, id: NodeId, path: &[u8]) -> Result<bool> {
        let node = self.guard.node(id)?;
        // A file with several names has one `lower`; all its names that are known stand where they stood unless made by the task.
        Ok(node.lower.as_ref().is_some_and(|lower| *lower.path == *path)
            || (node.kind != Kind::Dir && self.is_other_link(id, path)?))
    }

    /// Whether `path` beneath is another name of the same real file.
    fn is_other_link(&self, id: NodeId, path: &[u8]) -> Result<bool> {
        let node = self.guard.node(id)?;
        let Some(lower) = &node.lower else { return Ok(false) };
        if lower.attr.nlink < 2 || self.guard.is_hidden(path) {
            return Ok(false);
        }
        for (parent, name) in &node.names {
            let above = self.guard.node(*parent)?;
            let (Some(dir), Some(beneath)) = (above.dir().and_then(|dir| dir.handle.as_ref()), &above.lower) else {
                continue;
            };
            if join(&beneath.path, name.as_bytes()) == path {
                let there = self.guard.view.backing().attr(dir, name);
                return Ok(there.is_ok_and(|attr| (attr.dev, attr.ino) == (lower.attr.dev, lower.attr.ino)));
            }
        }
        Ok(false)
    }

    /// What the view shows beneath `name`, own outputs hidden.
    fn beneath_kind(&self, parent: NodeId, name: &Name) -> Result<Option<Kind>> {
        let node = self.guard.node(parent)?;
        let (Some(handle), Some(lower)) = (node.dir().and_then(|dir| dir.handle.clone()), &node.lower) else {
            return Ok(None);
        };
        if self.guard.is_hidden(&join(&lower.path, name.as_bytes())) {
            return Ok(None);
        }
        match self.guard.view.backing().attr(&handle, name) {
            Ok(attr) => Ok(Some(attr.kind)),
            Err(Status::NotFound | Status::NotDir) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Everything that the tree beneath has at and below a name is gone.
    fn beneath_removed(&mut self, parent: NodeId, name: &Name, at: &[u8]) -> Result<()> {
        let node = self.guard.node(parent)?;
        let (Some(dir), Some(lower)) = (node.dir().and_then(|dir| dir.handle.clone()), node.lower.clone()) else {
            return Ok(());
        };
        let beneath = join(&lower.path, name.as_bytes());
        let Some(kind) = self.beneath_kind(parent, name)? else { return Ok(()) };
        let mut work = vec![(dir, name.clone(), beneath, at.to_vec(), kind)];
        while let Some((dir, name, beneath, at, kind)) = work.pop() {
            if kind == Kind::Dir {
                let own = self.guard.view.backing().child(&dir, &name);
                for entry in self.guard.view.backing().list(&own)? {
                    let below = join(&beneath, entry.name.as_bytes());
                    if !self.guard.is_hidden(&below) {
                        let at = join(&at, entry.name.as_bytes());
                        work.push((own.clone(), entry.name, below, at, entry.kind));
                    }
                }
            }
            self.changes.insert(at, (Change::Removed, Some(kind)));
        }
        Ok(())
    }

    /// A node at its old place: changed in place, or a directory to look into.
    fn unmoved(&mut self, id: NodeId, path: Vec<u8>) -> Result<()> {
        let node = self.guard.node(id)?;
        let kind = node.kind;
        match kind {
            Kind::Dir => {
                let over = Over { mode: node.over.mode, uid: node.over.uid, gid: node.over.gid, ..Over::default() };
                let mut now = node.base;
                over.apply(&mut now);
                if now != node.base {
                    let attr = self.guard.attr(id)?;
                    self.changes.insert(path.clone(), (Change::Dir { attr }, Some(kind)));
                }
                self.native(id, &path)
            }
            _ if node.is_changed() => self.leaf(id, path, Some(kind)),
            _ => Ok(()),
        }
    }

    /// A node where the task put it, with all that is in it.
    fn created(&mut self, id: NodeId, path: Vec<u8>, before: Option<Kind>) -> Result<()> {
        if self.stands_at(id, &path)? {
            // Moved away and back again, or its directory was: as if it had never gone.
            self.forget_below(&path);
            return self.unmoved(id, path);
        }
        if self.guard.node(id)?.kind != Kind::Dir {
            return self.leaf(id, path, before);
        }
        let attr = self.guard.attr(id)?;
        self.changes.insert(path.clone(), (Change::Dir { attr }, before));
        let (items, revealed) = self.guard.merged(id)?;
        self.moved.extend(revealed);
        for item in items {
            let name = Name::new(&item.name)?;
            let at = join(&path, &item.name);
            if let Some(child) = self.guard.child(id, &name)?.0 {
                // What was removed with a replaced directory stands again under the same name.
                let before = self.changes.remove(&at).and_then(|(_, before)| before);
                self.created(child, at, before)?;
            }
        }
        Ok(())
    }

    /// Takes back what was said of a path and of all below it.
    fn forget_below(&mut self, path: &[u8]) {
        let below = join(path, b"");
        self.changes.remove(path);
        let gone: Vec<Vec<u8>> = self
            .changes
            .range(below.clone()..)
            .map(|(at, _)| at)
            .take_while(|at| at.starts_with(&below))
            .cloned()
            .collect();
        for at in gone {
            self.changes.remove(&at);
        }
    }

    fn leaf(&mut self, id: NodeId, path: Vec<u8>, before: Option<Kind>) -> Result<()> {
        let attr = self.guard.attr(id)?;
        let node = self.guard.node(id)?;
        let change = match (&node.body, &node.lower) {
            (Body::File(file), lower) => {
                let source = match (&file.bytes, lower) {
                    (Bytes::Staged(staged), _) => Source::Staged(*staged),
                    (Bytes::Lower, Some(lower)) => Source::Beneath(lower.path.to_vec()),
                    (Bytes::Lower, None) => return Err(Status::Io),
                };
                Change::File { source, attr }
            }
            (Body::Link(Some(target)), _) => Change::Link { target: target.clone(), attr },
            (Body::Link(None), Some(lower)) => {
                let (dir, name) = lower.dir.as_ref().zip(lower.name.as_ref()).ok_or(Status::Io)?;
                Change::Link { target: self.guard.view.backing().read_link(dir, name)?, attr }
            }
            _ => Change::Special { kind: node.kind },
        };
        self.changes.insert(path, (change, before));
        Ok(())
    }
}

//! Making and removing names.

use std::collections::BTreeMap;

use super::{Guard, View};
use crate::attr::{Attr, Kind, SetAttr, Time};
use crate::backing::{Backing, BackingFile, Result};
use crate::name::Name;
use crate::node::{Body, Bytes, Child, DirBody, FileBody, Node, Over};
use crate::status::Status;
use crate::vfs::{Caller, Entry, NodeId};
use crate::zone::{Zone, join};

/// Set-group-ID on a directory: what is made in it gets its group (`inode(7)`).
const SET_GROUP_ID: u32 = 0o2000;
const SET_USER_ID: u32 = 0o4000;

/// What to make.
pub(super) enum Making<'a> {
    Node { kind: Kind, mode: u32, rdev: u64 },
    Dir { mode: u32 },
    Link { target: &'a [u8] },
}

impl<B: Backing> View<B> {
    /// Makes something new under a name that must be free.
    pub(super) fn make(&self, caller: Caller, parent: NodeId, name: &[u8], making: Making<'_>) -> Result<Entry> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        guard.check_names(parent)?;
        guard.check_alive(parent)?;
        if guard.child(parent, &name)?.0.is_some() {
            return Err(Status::Exists);
        }
        let id = if guard.is_upper(parent)? {
            guard.make_upper(caller, parent, &name, making)?
        } else {
            guard.make_through(caller, parent, &name, making)?
        };
        guard.touch_dir(parent)?;
        guard.hand_out(id)
    }

    /// Removes a name.
    pub(super) fn remove(&self, parent: NodeId, name: &[u8], dir: bool) -> Result<()> {
        let name = Name::new(name)?;
        let mut guard = self.lock();
        guard.check_names(parent)?;
        let id = guard.child(parent, &name)?.0.ok_or(Status::NotFound)?;
        match (guard.node(id)?.kind == Kind::Dir, dir) {
            (true, false) => return Err(Status::IsDir),
            (false, true) => return Err(Status::NotDir),
            _ => {}
        }
        if guard.is_upper(parent)? {
            if dir && !guard.merged(id)?.0.is_empty() {
                return Err(Status::NotEmpty);
            }
        } else {
            if guard.is_upper_node(id)? {
                // Where the workspace begins, or a mount point: as busy as any of those.
                return Err(Status::Busy);
            }
            let handle = guard.dir(parent)?.handle.clone().ok_or(Status::Stale)?;
            if dir {
                self.backing.remove_dir(&handle, &name)?;
            } else {
                self.backing.remove_file(&handle, &name)?;
            }
            let (zone, path) = guard.place(parent, &name)?;
            self.note_outside(zone, &path);
        }
        guard.take_name(parent, &name)?;
        guard.touch_dir(parent)
    }

    /// Gives a file another name.
    pub(super) fn add_link(&self, id: NodeId, to_parent: NodeId, to_name: &[u8]) -> Result<Entry> {
        let to_name = Name::new(to_name)?;
        let mut guard = self.lock();
        guard.check_names(to_parent)?;
        guard.check_alive(to_parent)?;
        if guard.child(to_parent, &to_name)?.0.is_some() {
            return Err(Status::Exists);
        }
        let node = guard.node(id)?;
        if node.kind == Kind::Dir {
            return Err(Status::NotPermitted);
        }
        if node.names.is_empty() {
            // link(2): what was removed stays removed.
            return Err(Status::NotFound);
        }
        let upper = guard.is_upper(to_parent)?;
        if upper != guard.is_upper_node(id)? {
            return Err(Status::CrossDevice);
        }
        if !upper {
            let node = guard.node(id)?;
            let (from_dir, from_name) = node.names.first().cloned().ok_or(Status::NotFound)?;
            let from = guard.dir(from_dir)?.handle.clone().ok_or(Status::Stale)?;
            let to = guard.dir(to_parent)?.handle.clone().ok_or(Status::Stale)?;
            self.backing.hard_link(&from, &from_name, &to, &to_name)?;
            let (zone, path) = guard.place(to_parent, &to_name)?;
            self.note_outside(zone, &path);
        }
        guard.put_name(to_parent, &to_name, id)?;
        if upper {
            guard.node_mut(id)?.over.ctime = Some(Time::now());
        }
        guard.touch_dir(to_parent)?;
        guard.refresh(id)?;
        guard.hand_out(id)
    }

    /// `setattr`: everything but the size is laid over; the size goes to the bytes.
    pub(super) fn change_attr(&self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<Entry> {
        if let Some(size) = change.size {
            self.truncate_file(id, size)?;
        }
        let rest = SetAttr { size: None, ..*change };
        let mut guard = self.lock();
        if rest != SetAttr::default() {
            guard.check_owner(caller, id, &rest)?;
            if guard.is_upper_node(id)? {
                guard.lay_over(id, &rest)?;
            } else {
                let node = guard.node(id)?;
                let (zone, lower) = (node.zone, node.lower.as_ref().ok_or(Status::Stale)?);
                let (dir, name) = lower.dir.as_ref().zip(lower.name.as_ref()).ok_or(Status::NotPermitted)?;
                match &node.body {
                    // By descriptor while there is one: the name may be gone, or another file's by now.
                    Body::File(FileBody { open: Some(open), .. }) => open.set_attr(&rest)?,
                    _ if node.names.is_empty() => return Err(Status::Stale),
                    _ => self.backing.set_attr(dir, name, &rest)?,
                }
                self.note_outside(zone, &lower.path);
            }
        }
        guard.close_if_idle(id);
        guard.refresh(id)?;
        guard.entry(id)
    }
}

impl<B: Backing> Guard<'_, B> {
    /// Whether names made in the directory belong to the upper.
    pub(crate) fn is_upper(&self, parent: NodeId) -> Result<bool> {
        let node = self.node(parent)?;
        Ok(node.zone == Zone::Task || node.lower.is_none())
    }

    /// Whether changes of the node belong to the upper.
    pub(crate) fn is_upper_node(&self, id: NodeId) -> Result<bool> {
        self.is_upper(id)
    }

    /// Zone and absolute path of a name, as it lies in the tree beneath.
    pub(crate) fn place(&self, parent: NodeId, name: &Name) -> Result<(Zone, Vec<u8>)> {
        let node = self.node(parent)?;
        let path = node.lower.as_ref().map_or_else(Vec::new, |lower| join(&lower.path, name.as_bytes()));
        Ok((self.view.setup.zones.of_child(node.zone, &path), path))
    }

    fn make_upper(&mut self, caller: Caller, parent: NodeId, name: &Name, making: Making<'_>) -> Result<NodeId> {
        let above = self.attr(parent)?;
        let inherits = above.mode & SET_GROUP_ID != 0;
        let now = Time::now();
        let (kind, mode, rdev, body) = match making {
            Making::Dir { mode } => {
                let mode = if inherits { mode | SET_GROUP_ID } else { mode };
                let dir = DirBody { handle: None, children: BTreeMap::new(), changed: true };
                (Kind::Dir, mode, 0, Body::Dir(dir))
            }
            Making::Link { target } => (Kind::Link, 0o777, 0, Body::Link(Some(target.to_vec()))),
            Making::Node { kind: Kind::File, mode, .. } => {
                let (staged, file) = self.stage()?;
                let bytes = Bytes::Staged(staged);
                self.state.idle_files += 1;
                let file = FileBody { bytes, open: Some(file.into()), writable: true, handles: 0, pages: None };
                (Kind::File, mode, 0, Body::File(file))
            }
            Making::Node { kind, mode, rdev } => (kind, mode, rdev, Body::Special),
        };
        let size = match &body {
            Body::Link(Some(target)) => target.len() as u64,
            _ => 0,
        };
        let zone = self.node(parent)?.zone;
        let id = self.table().fresh();
        let base = Attr {
            kind,
            dev: 0,
            ino: id.0,
            size,
            blocks: 0,
            mode: mode & 0o7777,
            nlink: 1,
            uid: caller.uid,
            gid: if inherits { above.gid } else { caller.gid },
            rdev,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let over = Over::default();
        self.table().insert(Node {
            id,
            zone,
            kind,
            body,
            lower: None,
            names: Vec::new(),
            over,
            base,
            lookups: 0,
            loaded: 0,
        });
        self.put_name(parent, name, id)?;
        Ok(id)
    }

    fn make_through(&mut self, caller: Caller, parent: NodeId, name: &Name, making: Making<'_>) -> Result<NodeId> {
        let backing = &self.view.backing;
        let handle = self.dir(parent)?.handle.clone().ok_or(Status::Stale)?;
        let is_dir = matches!(making, Making::Dir { .. });
        let mut made = None;
        match making {
            Making::Dir { mode } => backing.make_dir(&handle, name, mode)?,
            Making::Link { target } => backing.make_link(&handle, name, target)?,
            Making::Node { kind: Kind::File, mode, .. } => made = Some(backing.create(&handle, name, mode)?),
            Making::Node { kind, mode, rdev } => backing.make_node(&handle, name, kind, mode, rdev)?,
        }
        let above = backing.dir_attr(&handle)?;
        let gid = if above.mode & SET_GROUP_ID != 0 { above.gid } else { caller.gid };
        if (caller.uid, gid) != self.view.own_ids {
            // A privileged wink serving a task that gave up its privileges: the file belongs to who made it.
            let owner = SetAttr { uid: Some(caller.uid), gid: Some(gid), ..SetAttr::default() };
            backing.set_attr(&handle, name, &owner)?;
        }
        let (zone, path) = self.place(parent, name)?;
        if !(is_dir && self.view.setup.unnoted.contains(&path)) {
            self.view.note_outside(zone, &path);
        }
        let (id, _) = self.child(parent, name)?;
        let id = id.ok_or(Status::NotFound)?;
        if let Some(open) = made
            && let Some(file) = self.node_mut(id)?.file_mut()
        {
            (file.open, file.writable) = (Some(open.into()), true);
            self.state.idle_files += 1;
        }
        Ok(id)
    }

    /// Puts a node under a name that shows nothing now.
    pub(crate) fn put_name(&mut self, parent: NodeId, name: &Name, id: NodeId) -> Result<()> {
        let upper = self.is_upper(parent)?;
        let dir = self.node_mut(parent)?.dir_mut().ok_or(Status::NotDir)?;
        let covers = match dir.children.get(name) {
            Some(Child::Whiteout) => true,
            Some(Child::Node { covers, .. }) => *covers,
            None => !upper,
        };
        dir.children.insert(name.clone(), Child::Node { id, covers });
        self.node_mut(id)?.names.push((parent, name.clone()));
        Ok(())
    }

    /// Takes the node from a name, leaving a whiteout where the tree beneath has something.
    pub(crate) fn take_name(&mut self, parent: NodeId, name: &Name) -> Result<NodeId> {
        let upper = self.is_upper(parent)?;
        let dir = self.node_mut(parent)?.dir_mut().ok_or(Status::NotDir)?;
        let Some(Child::Node { id, covers }) = dir.children.remove(name) else { return Err(Status::NotFound) };
        if covers && upper {
            dir.children.insert(name.clone(), Child::Whiteout);
        }
        if upper && let Ok(node) = self.node_mut(id) {
            node.over.ctime = Some(Time::now());
        }
        self.unname(id, parent, name);
        Ok(id)
    }

    /// Without the kernel's checks: only the owner changes mode, owner and chosen times.
    fn check_owner(&self, caller: Caller, id: NodeId, change: &SetAttr) -> Result<()> {
        if self.view.setup.checks == super::Checks::Kernel || caller.uid == 0 {
            return Ok(());
        }
        let attr = self.attr(id)?;
        if attr.uid != caller.uid {
            let only_times = change.mode.is_none() && change.uid.is_none() && change.gid.is_none();
            if only_times {
                let want = crate::backing::Want { read: false, write: true, execute: false };
                return self.check(id, want).map_err(|_| Status::NotPermitted);
            }
            return Err(Status::NotPermitted);
        }
        if change.uid.is_some_and(|uid| uid != attr.uid) {
            return Err(Status::NotPermitted);
        }
        Ok(())
    }

    fn lay_over(&mut self, id: NodeId, change: &SetAttr) -> Result<()> {
        if change.atime.is_some() || change.mtime.is_some() {
            // Times of staged bytes live with the bytes, since writing moves them.
            let staged = match &self.node(id)?.body {
                Body::File(FileBody { bytes: Bytes::Staged(staged), open, .. }) => Some((*staged, open.clone())),
                _ => None,
            };
            let times = SetAttr { atime: change.atime, mtime: change.mtime, ..SetAttr::default() };
            match staged {
                Some((_, Some(open))) => open.set_attr(&times)?,
                Some((staged, None)) => self.view.backing.open_staged(staged)?.set_attr(&times)?,
                None => {
                    let over = &mut self.node_mut(id)?.over;
                    over.atime = change.atime.or(over.atime);
                    over.mtime = change.mtime.or(over.mtime);
                }
            }
        }
        if change.mode.or(change.uid).or(change.gid).is_some() {
            self.note_split_link(id)?; // Times are nobody's output.
        }
        let node = self.node_mut(id)?;
        node.over.mode = change.mode.map(|mode| mode & 0o7777).or(node.over.mode);
        node.over.uid = change.uid.or(node.over.uid);
        node.over.gid = change.gid.or(node.over.gid);
        if (change.uid.is_some() || change.gid.is_some()) && change.mode.is_none() && node.kind == Kind::File {
            // chown(2): the privilege bits do not survive a change of owner.
            let mode = node.over.mode.unwrap_or(node.lower.as_ref().map_or(node.base, |lower| lower.attr).mode);
            let group = if mode & 0o010 != 0 { SET_GROUP_ID } else { 0 };
            node.over.mode = Some(mode & !(SET_USER_ID | group));
        }
        node.over.ctime = Some(Time::now());
        Ok(())
    }
}

//! Renaming: the hard cases in one place.
//!
//! Inside the workspace a rename moves a node from one name to another in the table; what lies beneath it stays where it is and moves along by
//! reference, so renaming a directory of a million files is one step. Outside it is done in the real tree at once.
//! Between the two there is no rename: [`Status::CrossDevice`], upon which `mv` and every portable program copies.

use crate::attr::{Kind, Time};
use crate::backing::{Backing, RenameMode, Result};
use crate::name::Name;
use crate::node::{Child, Lower};
use crate::status::Status;
use crate::vfs::{NodeId, TOP};
use crate::view::Guard;
use crate::zone::join;

type Place<'a> = (NodeId, &'a Name);

impl<B: Backing> Guard<'_, B> {
    /// `renameat2(2)`.
    pub(crate) fn rename(&mut self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<()> {
        for dir in [from.0, to.0] {
            self.check_names(dir)?;
            self.check_alive(dir)?;
        }
        let moved = self.child(from.0, from.1)?.0.ok_or(Status::NotFound)?;
        let replaced = self.child(to.0, to.1)?.0;
        match (mode, replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(Status::Exists),
            (RenameMode::Exchange, None) => return Err(Status::NotFound),
            _ => {}
        }
        if self.is_within(to.0, moved)? {
            return Err(Status::Invalid);
        }
        if let Some(other) = replaced
            && self.is_within(from.0, other)?
        {
            return Err(if mode == RenameMode::Exchange { Status::Invalid } else { Status::NotEmpty });
        }
        if replaced == Some(moved) {
            // rename(2): two names of one file: nothing happens.
            return Ok(());
        }
        let upper = self.is_upper(from.0)?;
        if upper != self.is_upper(to.0)? {
            return Err(Status::CrossDevice);
        }
        self.check_movable(moved, upper)?;
        if let Some(other) = replaced {
            self.check_movable(other, upper)?;
            if mode != RenameMode::Exchange {
                self.check_replaceable(moved, other, upper)?;
            }
        }
        if !upper {
            self.rename_beneath(from, to, mode)?;
        }
        match (mode, replaced) {
            (RenameMode::Exchange, Some(other)) => {
                self.swap(from, moved, to, other)?;
                self.follow(other, from, upper)?;
            }
            (_, replaced) => {
                if replaced.is_some() {
                    self.take_name(to.0, to.1)?;
                }
                // The node must not be dropped while it has no name.
                self.node_mut(moved)?.lookups += 1;
                self.take_name(from.0, from.1)?;
                self.put_name(to.0, to.1, moved)?;
                self.node_mut(moved)?.lookups -= 1;
            }
        }
        self.follow(moved, to, upper)?;
        self.touch_dir(from.0)?;
        self.touch_dir(to.0)
    }

    /// Only what lies on one side of the border as a whole can be moved there: neither the workspace nor what holds it.
    fn check_movable(&self, id: NodeId, upper: bool) -> Result<()> {
        let node = self.node(id)?;
        let mixed = match &node.lower {
            Some(lower) if node.kind == Kind::Dir => self.view.zones().is_mixed_below(node.zone, &lower.path),
            _ => false,
        };
        if mixed || upper != self.is_upper_node(id)? { Err(Status::CrossDevice) } else { Ok(()) }
    }

    fn check_replaceable(&mut self, moved: NodeId, other: NodeId, upper: bool) -> Result<()> {
        match (self.node(moved)?.kind == Kind::Dir, self.node(other)?.kind == Kind::Dir) {
            (true, false) => Err(Status::NotDir),
            (false, true) => Err(Status::IsDir),
            (true, true) if upper && !self.merged(other)?.0.is_empty() => Err(Status::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Whether directory `dir` is `node` or lies below it.
    fn is_within(&self, dir: NodeId, node: NodeId) -> Result<bool> {
        let mut at = dir;
        while at != node {
            match self.node(at)?.names.first() {
                Some((above, _)) if at != TOP => at = *above,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn rename_beneath(&mut self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<()> {
        let dir = self.dir(from.0)?.handle.clone().ok_or(Status::Stale)?;
        let to_dir = self.dir(to.0)?.handle.clone().ok_or(Status::Stale)?;
        self.view.backing().rename(&dir, from.1, &to_dir, to.1, mode)?;
        for (parent, name) in [from, to] {
            let (zone, path) = self.place(parent, name)?;
            self.view.note_outside(zone, &path);
        }
        Ok(())
    }

    fn swap(&mut self, from: Place<'_>, moved: NodeId, to: Place<'_>, other: NodeId) -> Result<()> {
        for (place, id) in [(from, other), (to, moved)] {
            let dir = self.node_mut(place.0)?.dir_mut().ok_or(Status::NotDir)?;
            if let Some(Child::Node { id: standing, .. }) = dir.children.get_mut(place.1) {
                *standing = id;
            }
        }
        for (id, old, new) in [(moved, from, to), (other, to, from)] {
            for (dir, name) in &mut self.node_mut(id)?.names {
                if (*dir, &*name) == (old.0, old.1) {
                    (*dir, *name) = (new.0, new.1.clone());
                    break;
                }
            }
        }
        Ok(())
    }

    /// After a rename in the real tree the node and all below it lie elsewhere there. In the upper nothing moves beneath.
    fn follow(&mut self, id: NodeId, to: Place<'_>, upper: bool) -> Result<()> {
        if upper {
            let node = self.node_mut(id)?;
            node.over.ctime = Some(Time::now());
            return Ok(());
        }
        let handle = self.dir(to.0)?.handle.clone().ok_or(Status::Stale)?;
        let above = self.node(to.0)?.lower.as_ref().map(|lower| lower.path.clone()).ok_or(Status::Stale)?;
        let mut work = vec![(id, handle, above, to.1.clone())];
        while let Some((id, dir, above, name)) = work.pop() {
            let path = join(&above, name.as_bytes());
            let own = self.view.backing().child(&dir, &name);
            let node = self.node_mut(id)?;
            let Some(attr) = node.lower.as_ref().map(|lower| lower.attr) else { continue };
            node.lower = Some(Lower { dir: Some(dir), name: Some(name), path: path.as_slice().into(), attr });
            if let Some(body) = node.dir_mut() {
                body.handle = Some(own.clone());
                for (name, child) in &body.children {
                    if let Child::Node { id, .. } = child {
                        work.push((*id, own.clone(), path.as_slice().into(), name.clone()));
                    }
                }
            }
        }
        Ok(())
    }
}

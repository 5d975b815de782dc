//! Changes of names: what takes a free one, what gives one up, and renames, the careful part.
//!
//! A rename that only the layer is concerned with is one record of its log. Any other is one rename in the real tree, which decides;
//! around it the layer is brought in line, in an order in which a process may die at any point without losing a file or bringing an
//! old one back:
//! - Before: what moves out of a virtual file or link is real, and nothing of the layer hides behind a real thing that moves away.
//! - After: what the layer had under the new name goes. Until then the real thing hides it.
//! - A real directory with virtual things in it: they move in the layer after the rename. Death in between leaves them under the old
//!   name, in a virtual directory or (where the layer had no directory of its own there) out of sight; what is real has moved.
//! - A virtual directory onto an empty real one: that goes first. Death in between leaves the source where it was and nothing at the target.
//! - An exchange makes both sides real as a whole first.

use wink_store::Step;

use crate::attr::Kind;
use crate::backing::{Backing, RenameMode, Result};
use crate::layer::{above, is_within};
use crate::layered::{Found, Layered, LayeredDir, Mount};
use crate::name::Name;
use crate::status::Status;

/// A directory, and a name in it.
type Spot<'a, D> = (&'a LayeredDir<D>, &'a Name);

impl<B: Backing> Layered<B> {
    /// Puts something real under a name that must be free.
    pub(super) fn add<T>(&self, dir: &LayeredDir<B::Dir>, name: &Name, act: impl Fn() -> Result<T>) -> Result<T> {
        let Some((mount, path)) = self.inside(dir, Some(name)) else { return act() };
        let _changes = mount.changes.lock();
        self.clear(mount, &path, (dir, name))?;
        self.adding(dir, act)
    }

    /// Fails if a name is taken; what the layer has there out of sight goes, or a new directory would show it.
    fn clear(&self, mount: &Mount<B>, path: &[u8], spot: Spot<'_, B::Dir>) -> Result<()> {
        if !mount.has(path) {
            // The real tree says whether it is taken.
            return Ok(());
        }
        match self.find(spot.0, spot.1)? {
            Found::Nothing => mount.remove(path),
            _ => Err(Status::Exists),
        }
    }

    /// Gives a file another name; a virtual one is made real.
    pub(super) fn link(&self, from: Spot<'_, B::Dir>, to: Spot<'_, B::Dir>) -> Result<()> {
        let act = || self.real.hard_link(from.0.real(), from.1, to.0.real(), to.1);
        let Some(mount) = &self.mount else { return act() };
        let _changes = mount.changes.lock();
        let source = self.find(from.0, from.1)?;
        if matches!(source, Found::Nothing) {
            return Err(Status::NotFound);
        }
        if !matches!(self.find(to.0, to.1)?, Found::Nothing) {
            return Err(Status::Exists);
        }
        if source.kind() == Some(Kind::Dir) {
            return Err(Status::NotPermitted);
        }
        if let Some((mount, path)) = self.inside(to.0, Some(to.1)) {
            self.clear(mount, &path, to)?;
        }
        if let Some((mount, path)) = self.inside(from.0, Some(from.1)) {
            self.realize_at(mount, &path)?;
        }
        self.adding(to.0, act)
    }

    /// Removes a name that is not a directory.
    pub(super) fn unlink(&self, dir: &LayeredDir<B::Dir>, name: &Name) -> Result<()> {
        let act = || self.real.remove_file(dir.real(), name);
        let Some((mount, path)) = self.inside(dir, Some(name)) else { return act() };
        let _changes = mount.changes.lock();
        if !mount.has(&path) {
            return act();
        }
        let found = self.find(dir, name)?;
        match found {
            Found::Nothing => Err(Status::NotFound),
            _ if found.kind() == Some(Kind::Dir) => Err(Status::IsDir),
            Found::Real(_) => {
                mount.remove(&path)?;
                act()
            }
            Found::Virtual(_) => {
                mount.remove(&path)?;
                self.touched(mount, above(&path));
                Ok(())
            }
        }
    }

    /// Removes an empty directory.
    pub(super) fn unlink_dir(&self, dir: &LayeredDir<B::Dir>, name: &Name) -> Result<()> {
        let act = || self.real.remove_dir(dir.real(), name);
        if self.is_top(dir, name) {
            return Err(Status::Busy);
        }
        let Some((mount, path)) = self.inside(dir, Some(name)) else { return act() };
        let _changes = mount.changes.lock();
        if !mount.has(&path) {
            return act();
        }
        let found = self.find(dir, name)?;
        match found.kind() {
            None => return Err(Status::NotFound),
            Some(Kind::Dir) => {}
            Some(_) => return Err(Status::NotDir),
        }
        if !self.list(&self.child(dir, name))?.is_empty() {
            return Err(Status::NotEmpty);
        }
        mount.remove(&path)?;
        match found {
            Found::Real(_) => act(),
            _ => {
                self.touched(mount, above(&path));
                Ok(())
            }
        }
    }

    /// Removes what stands at a path from the mount's root, real or virtual; a directory only if nothing is in it: `false` if there is.
    /// Nothing there is as good.
    pub fn remove_at(&self, path: &[u8]) -> Result<bool> {
        let (dir, name) = (self.dir_at(above(path))?, super::last(path)?);
        let removed = match self.find(&dir, &name) {
            Ok(Found::Nothing) | Err(Status::NotDir) => return Ok(true),
            Ok(found) if found.kind() == Some(Kind::Dir) => self.unlink_dir(&dir, &name),
            Ok(_) => self.unlink(&dir, &name),
            Err(status) => Err(status),
        };
        match removed {
            Ok(()) | Err(Status::NotFound) => Ok(true),
            Err(Status::NotEmpty) => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// `renameat2(2)`; see the module.
    pub(super) fn shift(&self, from: Spot<'_, B::Dir>, to: Spot<'_, B::Dir>, mode: RenameMode) -> Result<()> {
        let real = || self.real.rename(from.0.real(), from.1, to.0.real(), to.1, mode);
        if self.is_top(from.0, from.1) || self.is_top(to.0, to.1) {
            return Err(Status::Busy);
        }
        let (old, new) = (self.inside(from.0, Some(from.1)), self.inside(to.0, Some(to.1)));
        let Some((mount, _)) = old.as_ref().or(new.as_ref()) else { return real() };
        let (old, new) = (old.as_ref().map(|(_, path)| path.as_slice()), new.as_ref().map(|(_, path)| path.as_slice()));
        let _changes = mount.changes.lock();
        let has = |path: Option<&[u8]>| path.is_some_and(|path| mount.has(path));
        if !has(old) && !has(new) {
            return self.adding(to.0, real);
        }
        let (source, target) = (self.find(from.0, from.1)?, self.find(to.0, to.1)?);
        if old.is_some() && old == new && source.kind().is_some() && mode != RenameMode::NoReplace {
            return Ok(());
        }
        self.check_rename(&source, &target, (old, new), to, mode)?;
        if mode == RenameMode::Exchange {
            [old, new].into_iter().flatten().try_for_each(|path| self.settle(mount, path))?;
            return real();
        }
        let source_is_dir = source.kind() == Some(Kind::Dir);
        match (&source, new) {
            (Found::Virtual(_), Some(new)) if source_is_dir || !matches!(target, Found::Real(_)) => {
                if matches!(target, Found::Real(_)) {
                    self.real.remove_dir(to.0.real(), to.1)?;
                }
                let old = old.unwrap_or_default();
                mount.change(&self.moving(mount, Some(old), new))?;
                self.touched(mount, above(old));
                self.touched(mount, above(new));
                return Ok(());
            }
            // Nothing of the layer leaves the mount, and no virtual file takes a real one's place.
            (Found::Virtual(_), _) => self.settle(mount, old.unwrap_or_default())?,
            (_, None) if source_is_dir => self.settle(mount, old.unwrap_or_default())?,
            _ if !source_is_dir => old.map_or(Ok(()), |old| self.forget(mount, old))?,
            _ => {}
        }
        if let (Found::Nothing, Some(new)) = (&target, new) {
            self.forget(mount, new)?;
        }
        self.adding(to.0, real)?;
        let Some(new) = new else { return Ok(()) };
        let moved = old.filter(|old| source_is_dir && mount.has(old));
        let steps = self.moving(mount, moved, new);
        if steps.is_empty() {
            return Ok(());
        }
        match mount.change(&steps) {
            Err(status) if moved.is_some() => {
                // As before, as far as that is possible: what an empty directory at the target was is gone.
                self.real.rename(to.0.real(), to.1, from.0.real(), from.1, RenameMode::NoReplace)?;
                Err(status)
            }
            // What could not be taken from the layer is hidden by what stands there now.
            _ => Ok(()),
        }
    }

    /// The steps by which the layer's part of a rename is done.
    fn moving(&self, mount: &Mount<B>, old: Option<&[u8]>, new: &[u8]) -> Vec<Step> {
        let gone = mount.has(new).then(|| Step::Remove { path: new.to_vec() });
        let moved = old.map(|old| Step::Move { from: old.to_vec(), to: new.to_vec() });
        gone.into_iter().chain(moved).collect()
    }

    /// The rules of rename(2), where the real tree alone cannot know.
    fn check_rename(
        &self,
        source: &Found,
        target: &Found,
        (old, new): (Option<&[u8]>, Option<&[u8]>),
        to: Spot<'_, B::Dir>,
        mode: RenameMode,
    ) -> Result<()> {
        let Some(kind) = source.kind() else { return Err(Status::NotFound) };
        let other = target.kind();
        match (mode, other) {
            (RenameMode::NoReplace, Some(_)) => return Err(Status::Exists),
            (RenameMode::Exchange, None) => return Err(Status::NotFound),
            _ => {}
        }
        // Where a virtual thing goes there is a directory, too.
        self.dir_attr(to.0)?;
        if let (Some(old), Some(new)) = (old, new) {
            if kind == Kind::Dir && is_within(new, old) {
                return Err(Status::Invalid);
            }
            if other == Some(Kind::Dir) && is_within(old, new) {
                return Err(if mode == RenameMode::Exchange { Status::Invalid } else { Status::NotEmpty });
            }
        }
        if mode == RenameMode::Exchange {
            return Ok(());
        }
        match (kind == Kind::Dir, other) {
            (true, Some(Kind::Dir)) if !self.list(&self.child(to.0, to.1))?.is_empty() => Err(Status::NotEmpty),
            (true, Some(Kind::Dir)) | (_, None) => Ok(()),
            (true, Some(_)) => Err(Status::NotDir),
            (false, Some(Kind::Dir)) => Err(Status::IsDir),
            (false, Some(_)) => Ok(()),
        }
    }
}

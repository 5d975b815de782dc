//! Making virtual entries real. All of it under `Mount::changes`.

use crate::attr::{SetAttr, Time};
use crate::backing::{Backing, Placing, Result};
use crate::layer::{Virtual, above};
use crate::layered::{Found, Layered, LayeredDir, Mount, last};
use crate::name::Name;
use crate::status::Status;

impl<B: Backing> Layered<B> {
    /// Makes everything virtual at and below a path from the mount's root real; returns how many files. When it fails, what was made
    /// real stays so.
    pub fn materialize(&self, path: &[u8]) -> Result<u64> {
        let Some(mount) = &self.mount else { return Ok(0) };
        let mut files = 0;
        loop {
            // Let go between entries: others may change names while this copies a large tree.
            let pending = {
                let _changes = mount.changes.lock();
                let pending = self.pending(mount, path)?;
                if pending.is_empty() {
                    self.forget(mount, path)?;
                    return Ok(files);
                }
                pending
            };
            for path in pending {
                let _changes = mount.changes.lock();
                files += u64::from(matches!(self.make_real(mount, &path)?, Some(Virtual::File { .. })));
            }
        }
    }

    /// As [`Layered::materialize`], in one go.
    pub(super) fn settle(&self, mount: &Mount<B>, path: &[u8]) -> Result<()> {
        for path in self.pending(mount, path)? {
            self.make_real(mount, &path)?;
        }
        self.forget(mount, path)
    }

    /// Takes what is at and below a path from the layer, if anything: all that shows there is real.
    pub(super) fn forget(&self, mount: &Mount<B>, path: &[u8]) -> Result<()> {
        let any = if path.is_empty() { !mount.layer.read().is_empty() } else { mount.has(path) };
        if any { mount.remove(path) } else { Ok(()) }
    }

    /// What shows at and below `path` and is not real.
    fn pending(&self, mount: &Mount<B>, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = mount.layer.read().walk(path);
        let mut pending = Vec::new();
        let mut dir: Option<(Vec<u8>, LayeredDir<B::Dir>)> = None;
        for (path, _) in all {
            // One handle for all neighbours: it keeps the directory open.
            let parent = above(&path);
            let handle = match dir.take() {
                Some((known, handle)) if known == parent => handle,
                _ => self.dir_at(parent)?,
            };
            match self.find(&handle, &last(&path)?) {
                Ok(Found::Virtual(_)) => pending.push(path.clone()),
                Ok(_) | Err(Status::NotDir) => {}
                Err(status) => return Err(status),
            }
            dir = Some((parent.to_vec(), handle));
        }
        Ok(pending)
    }

    /// Makes what the layer shows at `path` real; returns it. It stays in the layer, behind what is real now.
    pub(super) fn make_real(&self, mount: &Mount<B>, path: &[u8]) -> Result<Option<Virtual>> {
        if path.is_empty() {
            return Ok(None);
        }
        let parent = self.dir_at(above(path))?;
        let name = last(path)?;
        let entry = match self.find(&parent, &name) {
            Ok(Found::Virtual(entry)) => entry,
            // Others put a file where a directory on the way was.
            Ok(_) | Err(Status::NotDir) => return Ok(None),
            Err(status) => return Err(status),
        };
        self.make_dirs(mount, above(path))?;
        let dir = parent.real();
        let made = match &entry {
            Virtual::File { digest, size, mode, mtime, .. } => {
                let blob = mount.shelf.blob(digest, *size)?;
                let attr = Placing { mode: *mode, owner: Some(mount.owner), mtime: *mtime };
                self.writing(dir, || self.real.place(dir, &name, &blob, &attr))
            }
            Virtual::Link { target, mtime, .. } => self
                .writing(dir, || self.real.make_link(dir, &name, target))
                .and_then(|()| self.give(mount, dir, &name, Some(*mtime))),
            Virtual::Dir { .. } | Virtual::Way => self.make_dirs(mount, path),
        };
        match made {
            // Somebody put something there in the real tree just now: it wins.
            Ok(()) | Err(Status::Exists) => Ok(Some(entry)),
            Err(status) => Err(status),
        }
    }

    /// Makes one entry real and takes it from the layer, before it changes. Whether there was one.
    pub(super) fn realize(&self, dir: &LayeredDir<B::Dir>, name: Option<&Name>) -> Result<bool> {
        let Some((mount, path)) = self.inside(dir, name) else { return Ok(false) };
        let _changes = mount.changes.lock();
        self.realize_at(mount, &path)
    }

    /// Makes a virtual file real without its bytes, which are about to be cut off: they need not be there any more.
    pub(super) fn realize_empty(&self, dir: &LayeredDir<B::Dir>, name: &Name) -> Result<()> {
        let Some((mount, path)) = self.inside(dir, Some(name)) else { return Ok(()) };
        let _changes = mount.changes.lock();
        let Found::Virtual(Virtual::File { mode, .. }) = self.find(dir, name)? else { return Ok(()) };
        self.make_dirs(mount, above(&path))?;
        let real = dir.real();
        self.writing(real, || self.real.create(real, name, mode).map(drop))?;
        self.give(mount, real, name, None)?;
        // Giving it away takes these bits.
        self.real.set_attr(real, name, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        mount.remove(&path)
    }

    pub(super) fn realize_at(&self, mount: &Mount<B>, path: &[u8]) -> Result<bool> {
        match self.make_real(mount, path)? {
            Some(Virtual::Dir { .. } | Virtual::Way) => Ok(true),
            Some(_) => mount.remove(path).map(|()| true),
            None => Ok(false),
        }
    }

    /// Makes the directories of the layer that lead to `path` real, and the one at `path`.
    fn make_dirs(&self, mount: &Mount<B>, path: &[u8]) -> Result<()> {
        let ground = mount.layer.read().ground(path);
        let ends = (ground + 1..=path.len()).filter(|&end| path.get(end).is_none_or(|&byte| byte == b'/'));
        for end in ends {
            let path = &path[..end];
            let Some(Virtual::Dir { mode, .. }) = mount.layer.read().get(path) else { continue };
            let (parent, name) = (self.dir_at(above(path))?, last(path)?);
            let parent = parent.real();
            match self.writing(parent, || self.real.make_dir(parent, &name, mode)) {
                Ok(()) => self.give(mount, parent, &name, None)?,
                Err(Status::Exists) => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }

    fn give(&self, mount: &Mount<B>, dir: &B::Dir, name: &Name, mtime: Option<Time>) -> Result<()> {
        let (uid, gid) = mount.owner;
        self.real.set_attr(dir, name, &SetAttr { uid: Some(uid), gid: Some(gid), mtime, ..SetAttr::default() })
    }

    /// Adds a name to `dir`, also where its mode forbids that: what is shown there already is no new name.
    fn writing(&self, dir: &B::Dir, act: impl Fn() -> Result<()>) -> Result<()> {
        let with_mode = |mode| self.real.set_dir_attr(dir, &SetAttr { mode: Some(mode), ..SetAttr::default() });
        match act() {
            Err(Status::Access) => {
                let mode = self.real.dir_attr(dir)?.mode;
                with_mode(mode | 0o300)?;
                let done = act();
                with_mode(mode)?;
                done
            }
            done => done,
        }
    }

    /// Does what adds a name to `dir`, which is made real first where it is not.
    pub(super) fn adding<T>(&self, dir: &LayeredDir<B::Dir>, act: impl Fn() -> Result<T>) -> Result<T> {
        let done = act();
        let (Err(Status::NotFound), Some((mount, path))) = (&done, self.inside(dir, None)) else { return done };
        if self.realize_at(mount, &path)? { act() } else { done }
    }
}

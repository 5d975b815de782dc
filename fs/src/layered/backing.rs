//! A layered tree as a [`Backing`]: the real tree's answer, and where it has nothing, the layer's.

use std::collections::HashSet;

use crate::attr::{Attr, Kind, SetAttr};
use crate::backing::{Access, Backing, DirEntry, Placing, RenameMode, Result, Space, StagedId, Want, XattrMode};
use crate::layer::Virtual;
use crate::layered::{DIR_LINKS, Layered, LayeredDir, Position};
use crate::name::Name;
use crate::status::Status;

impl<B: Backing> Layered<B> {
    /// A real directory in which the layer has names does not count its subdirectories by its links: those of the layer are not among them.
    fn linked(&self, dir: &LayeredDir<B::Dir>, name: Option<&Name>, attr: Attr) -> Attr {
        let mixed = attr.kind == Kind::Dir
            && self.inside(dir, name).is_some_and(|(mount, path)| mount.layer.read().has_below(&path));
        Attr { nlink: if mixed { DIR_LINKS } else { attr.nlink }, ..attr }
    }

    /// Changes something of an object; a virtual one is made real first.
    fn changing<T>(
        &self,
        dir: &LayeredDir<B::Dir>,
        name: Option<&Name>,
        act: impl Fn(&B::Dir, Option<&Name>) -> Result<T>,
    ) -> Result<T> {
        let (real, real_name) = self.beneath(dir, name);
        let done = act(real, real_name);
        match done {
            Err(Status::NotFound) if self.realize(dir, name)? => act(real, real_name),
            done => done,
        }
    }
}

impl<B: Backing> Backing for Layered<B> {
    type Dir = LayeredDir<B::Dir>;
    type File = B::File;

    fn root(&self) -> Self::Dir {
        match &self.mount {
            Some(mount) if mount.at.is_empty() => {
                let top = LayeredDir::new(mount.lower.clone(), Position::Inside(Box::default()));
                let names = mount.start.split(|&byte| byte == b'/').filter_map(|name| Name::new(name).ok());
                names.fold(top, |dir, name| self.child(&dir, &name))
            }
            Some(_) => LayeredDir::new(self.real.root(), Position::Above(0)),
            None => LayeredDir::new(self.real.root(), Position::Elsewhere),
        }
    }

    fn child(&self, dir: &Self::Dir, name: &Name) -> Self::Dir {
        if let Some((_, path)) = self.inside(dir, Some(name)) {
            return LayeredDir::new(self.real.child(dir.real(), name), Position::Inside(path.into()));
        }
        match (&self.mount, &dir.0.position) {
            (Some(mount), _) if self.is_top(dir, name) => {
                LayeredDir::new(mount.lower.clone(), Position::Inside(Box::default()))
            }
            (Some(mount), Position::Above(known)) if mount.at[*known] == *name => {
                LayeredDir::new(self.real.child(dir.real(), name), Position::Above(known + 1))
            }
            _ => LayeredDir::new(self.real.child(dir.real(), name), Position::Elsewhere),
        }
    }

    fn dir_attr(&self, dir: &Self::Dir) -> Result<Attr> {
        let ask = || self.real.dir_attr(dir.real()).map(|attr| self.linked(dir, None, attr));
        self.or_virtual(dir, None, ask, |mount, entry| Ok(mount.attr(&entry)))
    }

    fn attr(&self, dir: &Self::Dir, name: &Name) -> Result<Attr> {
        let ask = || {
            let attr = match self.beneath(dir, Some(name)) {
                (dir, Some(name)) => self.real.attr(dir, name),
                (dir, None) => self.real.dir_attr(dir),
            }?;
            Ok(self.linked(dir, Some(name), attr))
        };
        self.or_virtual(dir, Some(name), ask, |mount, entry| Ok(mount.attr(&entry)))
    }

    fn list(&self, dir: &Self::Dir) -> Result<Vec<DirEntry>> {
        let (mut entries, more) = loop {
            let turn = self.turn();
            let entries = self.or_virtual(dir, None, || self.real.list(dir.real()), |_, _| Ok(Vec::new()))?;
            let Some((mount, path)) = self.inside(dir, None) else { return Ok(entries) };
            let more = mount.layer.read().list(&path);
            if turn == self.turn() {
                break (entries, more);
            }
        };
        if !more.is_empty() {
            let real: HashSet<Name> = entries.iter().map(|entry| entry.name.clone()).collect();
            let more = more.into_iter().filter(|(name, ..)| !real.contains(name));
            entries.extend(more.map(|(name, kind, ino)| DirEntry { name, kind, ino }));
        }
        Ok(entries)
    }

    fn read_link(&self, dir: &Self::Dir, name: &Name) -> Result<Vec<u8>> {
        self.or_virtual(
            dir,
            Some(name),
            || self.real.read_link(dir.real(), name),
            |_, entry| match entry {
                Virtual::Link { target, .. } => Ok(target.to_vec()),
                _ => Err(Status::Invalid),
            },
        )
    }

    fn open(&self, dir: &Self::Dir, name: &Name, access: Access) -> Result<B::File> {
        let writable = |_: &B::Dir, _: Option<&Name>| self.real.open(dir.real(), name, access);
        let ask = || self.real.open(dir.real(), name, access);
        self.or_virtual(dir, Some(name), ask, |mount, entry| match entry {
            Virtual::File { digest, size, .. } if access == Access::Read => mount.shelf.blob(&digest, size),
            Virtual::File { .. } => self.changing(dir, Some(name), writable),
            Virtual::Link { .. } => Err(Status::Loop),
            Virtual::Dir { .. } | Virtual::Way => Err(Status::IsDir),
        })
    }

    fn permits(&self, dir: &Self::Dir, name: Option<&Name>, want: Want) -> Result<()> {
        let (real, real_name) = self.beneath(dir, name);
        self.or_virtual(
            dir,
            name,
            || self.real.permits(real, real_name, want),
            |mount, entry| {
                let mode = mount.attr(&entry).mode >> 6;
                let refused =
                    want.read && mode & 4 == 0 || want.write && mode & 2 == 0 || want.execute && mode & 1 == 0;
                if refused { Err(Status::Access) } else { Ok(()) }
            },
        )
    }

    fn space(&self, dir: &Self::Dir) -> Result<Space> {
        self.or_virtual(dir, None, || self.real.space(dir.real()), |mount, _| self.real.space(&mount.lower))
    }

    fn create(&self, dir: &Self::Dir, name: &Name, mode: u32) -> Result<B::File> {
        self.add(dir, name, || self.real.create(dir.real(), name, mode))
    }

    fn make_dir(&self, dir: &Self::Dir, name: &Name, mode: u32) -> Result<()> {
        self.add(dir, name, || self.real.make_dir(dir.real(), name, mode))
    }

    fn make_link(&self, dir: &Self::Dir, name: &Name, target: &[u8]) -> Result<()> {
        self.add(dir, name, || self.real.make_link(dir.real(), name, target))
    }

    fn make_node(&self, dir: &Self::Dir, name: &Name, kind: Kind, mode: u32, rdev: u64) -> Result<()> {
        self.add(dir, name, || self.real.make_node(dir.real(), name, kind, mode, rdev))
    }

    fn place(&self, dir: &Self::Dir, name: &Name, bytes: &B::File, attr: &Placing) -> Result<()> {
        self.add(dir, name, || self.real.place(dir.real(), name, bytes, attr))
    }

    fn hard_link(&self, dir: &Self::Dir, name: &Name, to_dir: &Self::Dir, to_name: &Name) -> Result<()> {
        self.link((dir, name), (to_dir, to_name))
    }

    fn remove_file(&self, dir: &Self::Dir, name: &Name) -> Result<()> {
        self.unlink(dir, name)
    }

    fn remove_dir(&self, dir: &Self::Dir, name: &Name) -> Result<()> {
        self.unlink_dir(dir, name)
    }

    fn rename(&self, dir: &Self::Dir, name: &Name, to_dir: &Self::Dir, to_name: &Name, mode: RenameMode) -> Result<()> {
        self.shift((dir, name), (to_dir, to_name), mode)
    }

    fn set_attr(&self, dir: &Self::Dir, name: &Name, change: &SetAttr) -> Result<()> {
        if change.size == Some(0) {
            self.realize_empty(dir, name)?;
        }
        self.changing(dir, Some(name), |dir, name| match name {
            Some(name) => self.real.set_attr(dir, name, change),
            None => self.real.set_dir_attr(dir, change),
        })
    }

    fn set_dir_attr(&self, dir: &Self::Dir, change: &SetAttr) -> Result<()> {
        self.changing(dir, None, |dir, _| self.real.set_dir_attr(dir, change))
    }

    fn sync_dir(&self, dir: &Self::Dir) -> Result<()> {
        // What the layer shows is durable as its log is.
        self.or_virtual(dir, None, || self.real.sync_dir(dir.real()), |_, _| Ok(()))
    }

    fn get_xattr(&self, dir: &Self::Dir, name: Option<&Name>, key: &[u8]) -> Result<Vec<u8>> {
        let (real, real_name) = self.beneath(dir, name);
        self.or_virtual(dir, name, || self.real.get_xattr(real, real_name, key), |_, _| Err(Status::NoAttribute))
    }

    fn list_xattrs(&self, dir: &Self::Dir, name: Option<&Name>) -> Result<Vec<Vec<u8>>> {
        let (real, real_name) = self.beneath(dir, name);
        self.or_virtual(dir, name, || self.real.list_xattrs(real, real_name), |_, _| Ok(Vec::new()))
    }

    fn set_xattr(&self, dir: &Self::Dir, name: Option<&Name>, key: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.changing(dir, name, |dir, name| self.real.set_xattr(dir, name, key, value, mode))
    }

    fn remove_xattr(&self, dir: &Self::Dir, name: Option<&Name>, key: &[u8]) -> Result<()> {
        self.changing(dir, name, |dir, name| self.real.remove_xattr(dir, name, key))
    }

    fn stage(&self) -> Result<(StagedId, B::File)> {
        self.real.stage()
    }

    fn stage_elsewhere(&self) -> Result<(StagedId, B::File)> {
        self.real.stage_elsewhere()
    }

    fn open_staged(&self, id: StagedId) -> Result<B::File> {
        self.real.open_staged(id)
    }

    fn remove_staged(&self, id: StagedId) -> Result<()> {
        self.real.remove_staged(id)
    }
}

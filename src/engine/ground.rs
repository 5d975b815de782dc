//! Where facts of the tree are read: by path, except that a mounted working tree is read from the real directory beneath and its layer,
//! never through the mount.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use anyhow::Context;
use wink_fs::attr::{Attr, Kind};
use wink_fs::backing::{Access, Backing};
use wink_fs::layered::Layered;
use wink_fs::name::Name;
use wink_platform::unix::backing::RealBacking;
use wink_store::{Digest, Store};

use super::tree::{list, look, os};
use crate::mounted::{Mount, error};

type Dir = <Layered<RealBacking> as Backing>::Dir;

/// See the module.
pub struct Ground<'m> {
    mounted: Option<Mounted<'m>>,
}

struct Mounted<'m> {
    mount: &'m Mount,
    tree: Layered<RealBacking>,
    /// Directories by their path relative to the mount.
    dirs: HashMap<Vec<u8>, Dir>,
}

/// A place in a mount: a directory and a name in it; no name for the top.
type Spot = (Dir, Option<Name>);

impl<'m> Ground<'m> {
    /// The tree as it is now; `mount` is what the workspace lies in.
    pub fn new(store: &Arc<Store>, mount: Option<&'m Mount>) -> anyhow::Result<Ground<'m>> {
        let mounted = match mount {
            Some(mount) => {
                mount.write_back().context("the mount does not answer")?;
                Some(Mounted { mount, tree: mount.snapshot(store, None)?, dirs: HashMap::new() })
            }
            None => None,
        };
        Ok(Ground { mounted })
    }

    /// Whether the layer of the mount has anything at a path, shown or not: if not, the real directory beneath decides alone.
    pub fn has_layer_at(&self, path: &[u8]) -> bool {
        self.layer(path).is_some_and(|(tree, relative)| tree.has_layer_at(relative))
    }

    /// Whether it has anything below a path.
    pub fn has_layer_below(&self, path: &[u8]) -> bool {
        self.layer(path).is_some_and(|(tree, relative)| tree.has_layer_below(relative))
    }

    fn layer<'p>(&self, path: &'p [u8]) -> Option<(&Layered<RealBacking>, &'p [u8])> {
        let Mounted { mount, tree, .. } = self.mounted.as_ref()?;
        mount.relative(path).map(|relative| (tree, relative))
    }

    /// Whether a path means what it says, and nothing in a mount.
    pub fn is_plain(&self, path: &[u8]) -> bool {
        self.mounted.as_ref().is_none_or(|mounted| mounted.mount.relative(path).is_none())
    }

    /// Attributes of a path, a symbolic link's own; `None` if nothing is there.
    pub fn look(&mut self, path: &[u8]) -> io::Result<Option<Attr>> {
        let Some((tree, spot)) = self.spot(path)? else { return look(path) };
        let found = match &spot {
            (dir, Some(name)) => tree.attr(dir, name),
            (dir, None) => tree.dir_attr(dir),
        };
        match found.map_err(error) {
            Ok(attr) => Ok(Some(attr)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Names and kinds of a directory, unsorted.
    pub fn list(&mut self, path: &[u8]) -> io::Result<Vec<(Vec<u8>, Kind)>> {
        let Some((tree, (dir, name))) = self.spot(path)? else { return list(path) };
        let dir = name.map_or_else(|| dir.clone(), |name| tree.child(&dir, &name));
        let entries = tree.list(&dir).map_err(error)?;
        Ok(entries.into_iter().map(|entry| (entry.name.as_bytes().to_vec(), entry.kind)).collect())
    }

    /// Target of a symbolic link.
    pub fn read_link(&mut self, path: &[u8]) -> io::Result<Vec<u8>> {
        match self.spot(path)? {
            Some((tree, (dir, Some(name)))) => tree.read_link(&dir, &name).map_err(error),
            _ => Ok(std::fs::read_link(os(path))?.into_os_string().into_vec()),
        }
    }

    /// Opens a file for reading.
    pub fn open(&mut self, path: &[u8]) -> io::Result<File> {
        match self.spot(path)? {
            Some((tree, (dir, Some(name)))) => Ok(tree.open(&dir, &name, Access::Read).map_err(error)?.into_file()),
            _ => File::open(os(path)),
        }
    }

    /// The blob that a file is a view of.
    pub fn origin(&mut self, path: &[u8]) -> io::Result<Option<Digest>> {
        match self.spot(path)? {
            Some((tree, (dir, Some(name)))) => tree.origin(&dir, &name).map_err(error),
            _ => Ok(None),
        }
    }

    fn spot(&mut self, path: &[u8]) -> io::Result<Option<(&Layered<RealBacking>, Spot)>> {
        let Some(Mounted { mount, tree, dirs }) = &mut self.mounted else { return Ok(None) };
        let Some(relative) = mount.relative(path) else { return Ok(None) };
        let (parent, name) = match relative.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&relative[..slash], &relative[slash + 1..]),
            None => (&relative[..0], relative),
        };
        let dir = match dirs.get(parent) {
            Some(dir) => dir.clone(),
            None => {
                let dir = tree.dir_at(parent).map_err(error)?;
                dirs.insert(parent.to_vec(), dir.clone());
                dir
            }
        };
        let name = if name.is_empty() { None } else { Some(Name::new(name).map_err(error)?) };
        Ok(Some((tree, (dir, name))))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn without_a_mount_paths_are_paths() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "bytes").unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let mut ground = Ground::new(&store, None).unwrap();
        let file = dir.path().join("file");
        let file = file.as_os_str().as_bytes();
        assert_eq!(ground.look(file).unwrap().unwrap().size, 5);
        assert_eq!(ground.origin(file).unwrap(), None);
    }
}

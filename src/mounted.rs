//! A directory that `wink mount` serves: the real tree beneath the mount, and the layer of restored outputs over it.
//!
//! Only the daemon changes a layer. A task works on a snapshot of it, over the same real directory, reached by its descriptor: its requests
//! never come back through the mount.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use wink_fs::layer::Layer;
use wink_fs::layered::{Layered, Shelf};
use wink_fs::name::Name;
use wink_fs::status::Status;
use wink_fs::zone::join;
use wink_platform::errno::to_errno;
use wink_platform::unix::backing::RealBacking;
use wink_platform::unix::identity;
use wink_store::{Digest, Step, Store};

use crate::daemon::client::Client;
use crate::daemon::protocol::Request;
use crate::shelf::StoreShelf;

/// A served directory as a task knows it.
#[derive(Debug)]
pub struct Mount {
    /// Absolute path of the directory.
    pub root: PathBuf,
    /// The real directory beneath the mount.
    pub lower: OwnedFd,
}

impl Mount {
    /// The real directory beneath, as a path that leads there and not into the mount, as long as this process lives.
    pub fn beneath(&self) -> PathBuf {
        magic(&self.lower)
    }

    /// Makes the kernel hand over what programs wrote through mapped memory of the mount: who looks beneath it would not see that.
    pub fn write_back(&self) -> io::Result<()> {
        let device = |file: &File| file.metadata().map(|data| data.dev());
        let lower = File::from(self.lower.try_clone()?);
        let Ok(top) = File::open(&self.root) else { return Ok(()) };
        let written = device(&top).and_then(|top_is_on| {
            // Else it is not mounted.
            if top_is_on == device(&lower)? { Ok(()) } else { identity::write_back(&top.into()) }
        });
        // Of a daemon that has died nothing is held back any more, also if that happens just now.
        let has_died =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted);
        written.or_else(|error| if has_died(&error) { Ok(()) } else { Err(error) })
    }

    /// Where a path of the served tree lies relative to its top; `None` for every other path.
    pub fn relative<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let rest = path.strip_prefix(self.root.as_os_str().as_bytes())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
    }

    /// The whole file tree with the served directory as it shows now: the real one beneath with its layer.
    pub fn snapshot(&self, store: &Arc<Store>, staging: Option<&Path>) -> anyhow::Result<Layered<RealBacking>> {
        let (layer, shelf) = self.layer(store)?;
        let real = RealBacking::new(Path::new("/"), staging)?.with_spill(&self.beneath())?;
        let lower = real.dir_from(self.lower.try_clone()?);
        let names = self.root.components().skip(1).map(|part| Name::new(part.as_os_str().as_bytes()));
        let at = names.collect::<Result<Vec<Name>, Status>>().map_err(error)?;
        Ok(Layered::new(real, at, lower, layer, shelf, identity::effective_ids()))
    }

    /// What the mount shows besides its real files. If a pack is damaged the daemon, which may know it by heart, is asked to mend it, or
    /// else to log what it really shows.
    fn layer(&self, store: &Arc<Store>) -> anyhow::Result<(Layer, Arc<StoreShelf>)> {
        let root = self.root.as_os_str().as_bytes();
        let read = || -> anyhow::Result<(Layer, Arc<StoreShelf>)> {
            let shelf = Arc::new(StoreShelf::reader(store.clone()));
            let layer = replay(&store.read_layer(root)?, &shelf, |lost| anyhow::bail!("{lost}"))?;
            Ok((layer, shelf))
        };
        read().or_else(|error| {
            let mended = Client::connect(store.dir())?.do_it(&Request::Mend { root: root.to_vec() }, &[]);
            mended.map_err(|_| error)?;
            read()
        })
    }

    /// The directory at a path below the mount (or the mount itself) as a tree of its own, as it shows now.
    pub fn snapshot_below(
        &self,
        at: &[u8],
        store: &Arc<Store>,
        staging: &Path,
    ) -> anyhow::Result<Layered<RealBacking>> {
        let (layer, shelf) = self.layer(store)?;
        let beneath = self.beneath();
        let real = RealBacking::new(&beneath, Some(staging))?.with_spill(&beneath)?;
        let lower = real.dir_from(self.lower.try_clone()?);
        Ok(Layered::new(real, Vec::new(), lower, layer, shelf, identity::effective_ids()).starting_at(at))
    }

    /// The served directory itself with a layer that may be changed.
    pub fn writable(&self, shelf: Arc<StoreShelf>, layer: Layer) -> io::Result<Layered<RealBacking>> {
        let real = RealBacking::new(&self.beneath(), None)?;
        let lower = real.dir_from(self.lower.try_clone()?);
        Ok(Layered::new(real, Vec::new(), lower, layer, shelf, identity::effective_ids()))
    }
}

/// A path below the directory `at` of a mount, relative to the mount as `at` is; the empty one is the mount itself.
pub fn below(at: &[u8], path: &[u8]) -> Vec<u8> {
    if at.is_empty() { path.to_vec() } else { join(at, path) }
}

/// The layer that these steps make. What of it cannot be shown, since its pack is damaged or gone, is told to `lost`. An error is what says nothing
/// about the packs: without descriptors or memory nothing must go out of sight.
pub fn replay(
    steps: &[Step],
    shelf: &StoreShelf,
    lost: impl Fn(String) -> anyhow::Result<()>,
) -> anyhow::Result<Layer> {
    let mut layer = Layer::new();
    for step in steps {
        match layer.apply(step, &|digest| shelf.pack(digest)) {
            Ok(_) => {}
            Err(status @ Status::Io) => {
                lost(format!("outputs restored earlier cannot be shown: {status}; run their commands again"))?;
            }
            Err(status) => return Err(error(status)).context("cannot read what was restored earlier"),
        }
    }
    Ok(layer)
}

/// Those of these files whose bytes the store has lost, and that are among `paths`.
pub fn lost_among(store: &Store, files: Vec<(Vec<u8>, Digest, u64)>, paths: &HashSet<Vec<u8>>) -> Vec<Vec<u8>> {
    let is_lost =
        |digest: &Digest, size: u64| store.open_blob_sized(digest, size).is_err_and(|error| error.is_damage());
    let lost = |(path, digest, size)| (paths.contains(&path) && is_lost(&digest, size)).then_some(path);
    files.into_iter().filter_map(lost).collect()
}

/// A failure of the file system as the standard library tells it.
pub fn error(status: Status) -> io::Error {
    io::Error::from_raw_os_error(to_errno(status))
}

fn magic(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

//! What layers show, before anything is removed: it stays, so no more of it should be named than still shows.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use wink_store::{Digest, Output, Step, Store, StoreError};

use crate::command::mount::{daemon_status, make_real_in};
use crate::daemon::client::Client;
use crate::daemon::protocol::{Request, Text};
use crate::engine::tree::os;
use crate::mounted::{below, lost_among, replay};
use crate::shelf::StoreShelf;

/// Has every layer say in its log just what it shows: the log of one that was used for a while names much that has been replaced since.
pub fn settle(store: &Arc<Store>) -> anyhow::Result<()> {
    let served: Vec<PathBuf> = match daemon_status(store.dir())? {
        Some(status) => status.mounts.into_iter().map(|mount| PathBuf::from(mount.dir)).collect(),
        None => Vec::new(),
    };
    let lost = store.has_lost_packs()?;
    for root in served {
        if lost {
            let request = Request::Mend { root: root.as_os_str().as_bytes().to_vec() };
            let _ = Client::connect(store.dir()).and_then(|client| client.do_it(&request, &[]));
        }
        let request = Request::Settle { root: root.as_os_str().as_bytes().to_vec() };
        // One that was unmounted just now is met below.
        let _ = Client::connect(store.dir()).and_then(|client| client.do_it(&request, &[]));
    }
    for root in store.layer_roots()? {
        let (mut log, steps) = match store.open_layer(&root) {
            Ok(opened) => opened,
            // It is served, here or where this process cannot see it.
            Err(StoreError::LayerInUse { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let shelf = StoreShelf::reader(store.clone());
        // What cannot be shown may be mended yet: then the log stays as it is.
        if let Ok(layer) = replay(&steps, &shelf, |lost| anyhow::bail!("{lost}")) {
            let anew = layer.steps();
            if (anew.len() as u64) < log.steps() {
                store.sync()?;
                log.rewrite(&anew)?;
            }
        }
    }
    Ok(())
}

/// Mounted and waiting trees that show files of the cache, and how many each.
pub fn showing(store: &Arc<Store>) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut showing = Vec::new();
    for root in store.layer_roots()? {
        let layer =
            replay(&store.read_layer(&root)?, &StoreShelf::reader(store.clone()), |_| Ok::<(), anyhow::Error>(()))?;
        let (files, _) = layer.count();
        // Where nothing is any more, nothing can show.
        if files > 0 && os(&root).symlink_metadata().is_ok() {
            showing.push((os(&root).to_owned(), files));
        }
    }
    Ok(showing)
}

/// Views of one tree whose bytes are lost.
pub struct Lost {
    /// The tree.
    pub root: Vec<u8>,
    /// The views, relative to it, with the blobs that they are of.
    pub files: Vec<(Vec<u8>, Digest)>,
}

/// Views whose blobs are gone, or among these damaged ones.
pub fn lost(store: &Arc<Store>, damaged: &HashSet<Digest>) -> anyhow::Result<Vec<Lost>> {
    let mut all = Vec::new();
    for root in store.layer_roots()? {
        let layer =
            replay(&store.read_layer(&root)?, &StoreShelf::reader(store.clone()), |_| Ok::<(), anyhow::Error>(()))?;
        let mut files = Vec::new();
        for (path, digest, size) in layer.files() {
            let is_lost = match store.open_blob_sized(&digest, size) {
                Ok(_) => damaged.contains(&digest),
                Err(error) if error.is_damage() => true,
                Err(error) => return Err(error.into()),
            };
            if is_lost {
                files.push((path, digest));
            }
        }
        if !files.is_empty() {
            all.push(Lost { root, files });
        }
    }
    Ok(all)
}

/// Takes out of a tree those lost views that a command is known to make: it finds nothing in their places then, and makes them again when it runs
/// next. The others stay, since their names are nowhere else: a view that was renamed, say. Nothing real goes. Returns those that stay.
pub fn drop_lost(store: &Arc<Store>, lost: &Lost) -> anyhow::Result<Vec<Vec<u8>>> {
    let made = made_in(store, &lost.root)?;
    let (go, stay): (Vec<_>, Vec<_>) = lost.files.iter().cloned().partition(|file| made.contains(file));
    let paths: HashSet<Vec<u8>> = go.into_iter().map(|(path, _)| path).collect();
    if !paths.is_empty() {
        let request = Request::DropLost { root: lost.root.clone(), paths: paths.iter().cloned().map(Text).collect() };
        match store.open_layer(&lost.root) {
            Ok((mut log, steps)) => {
                let shelf = StoreShelf::reader(store.clone());
                let layer = replay(&steps, &shelf, |_| Ok::<(), anyhow::Error>(()))?;
                let gone = lost_among(store, layer.files(), &paths);
                let steps: Vec<Step> = gone.into_iter().map(|path| Step::Remove { path }).collect();
                log.append(&steps)?;
            }
            Err(StoreError::LayerInUse { .. }) => {
                Client::connect(store.dir()).and_then(|client| client.do_it(&request, &[]))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(stay.into_iter().map(|(path, _)| path).collect())
}

/// Outputs of the runs whose outputs stand in a tree, or in workspaces inside it: paths relative to it, and blobs.
fn made_in(store: &Store, root: &[u8]) -> anyhow::Result<HashSet<(Vec<u8>, Digest)>> {
    let mut made = HashSet::new();
    for entry in store.listed()? {
        let inside = entry.workspaces.iter().filter_map(|place| match place.strip_prefix(root)? {
            [] => Some(&[][..]),
            [b'/', inside @ ..] => Some(inside),
            _ => None,
        });
        let inside: Vec<&[u8]> = inside.collect();
        if inside.is_empty() {
            continue;
        }
        let manifest = match store.manifest(&entry.head.manifest) {
            Ok(manifest) => manifest,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error.into()),
        };
        for output in manifest.entries.into_iter().filter(|output| !output.modified) {
            if let Output::File { digest, .. } = output.output {
                made.extend(inside.iter().map(|place| (below(place, &output.path), digest)));
            }
        }
    }
    Ok(made)
}

/// Makes all that a tree shows of the cache real.
pub fn make_all_real(store: &Store, root: &Path) -> anyhow::Result<u64> {
    make_real_in(store.dir(), root).with_context(|| format!("cannot make the views in {} real", root.display()))
}

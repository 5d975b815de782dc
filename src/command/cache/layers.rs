//! What layers show, before anything is removed: it stays, so no more of it should be named than still shows.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use wink_store::{Store, StoreError};

use crate::command::mount::{daemon_status, make_real_in};
use crate::daemon::client::Client;
use crate::daemon::protocol::Request;
use crate::engine::tree::os;
use crate::mounted::replay;
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

/// Makes all that a tree shows of the cache real.
pub fn make_all_real(store: &Store, root: &Path) -> anyhow::Result<u64> {
    make_real_in(store.dir(), root).with_context(|| format!("cannot make the views in {} real", root.display()))
}

//! One mount: a directory, its layer, and the threads that answer the kernel.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use wink_fs::layered::{Layered, Shelf};
use wink_fs::vfs::NodeId;
use wink_fs::worktree::WorkTree;
use wink_platform::unix::backing::RealBacking;
use wink_platform::unix::fuse::{Forgetter, Serve, Serving, Transport, serve};
use wink_platform::unix::identity;
use wink_platform::unix::mount_users::standing_beneath;
use wink_platform::unix::mount_ways::{is_open_elsewhere, is_shared};
use wink_store::{Digest, LayerLog, Step, Store, StoreError};

use super::protocol::{Attached, MountStatus};
use crate::mounted::{Mount, below, error, lost_among, replay};
use crate::shelf::StoreShelf;

/// Threads that answer requests of one mount.
const THREADS: usize = 4;
/// How often it is looked whether somebody still stands in the real directory beneath, or reaches it by another way.
const BENEATH_POLL: Duration = Duration::from_secs(2);
/// How often the kernel is told to forget everything when others begin to change the tree: answers may have been on the way the first time.
const FORGET_ROUNDS: u8 = 2;
/// How often it is looked whether somebody does so again.
const ALONE_POLL: Duration = Duration::from_secs(10);

/// How long a layer may be in use by who is about to let go of it: a daemon that was killed, a request that is being answered, pruning.
const LET_GO: Duration = Duration::from_secs(5);
/// How often that is tried.
const LET_GO_POLL: Duration = Duration::from_millis(5);

/// See the module.
pub struct Served {
    mount: Mount,
    private: bool,
    dev: AtomicU64,
    tree: Arc<WorkTree<Layered<RealBacking>>>,
    shelf: Arc<StoreShelf>,
    forgetter: Forgetter,
    /// How often the kernel is still to be told to forget everything.
    forgetting: AtomicU8,
}

fn open_layer(store: &Store, root: &[u8]) -> Result<(LayerLog, Vec<Step>), StoreError> {
    let began = Instant::now();
    loop {
        match store.open_layer(root) {
            Err(StoreError::LayerInUse { .. }) if began.elapsed() < LET_GO => std::thread::sleep(LET_GO_POLL),
            opened => return opened,
        }
    }
}

impl Served {
    /// Serves the directory `mount` on `device`, with the layer that the store has for it.
    pub fn start(
        store: &Arc<Store>,
        mount: Mount,
        device: OwnedFd,
        private: bool,
        transport: Transport,
    ) -> anyhow::Result<(Arc<Served>, Serving)> {
        let (log, steps) = open_layer(store, mount.root.as_os_str().as_bytes())?;
        if let Some(notice) = log.notice() {
            crate::complain(notice);
        }
        let shelf = Arc::new(StoreShelf::writer(store.clone(), log));
        let layer = replay(&steps, &shelf, |lost| {
            crate::complain(&lost);
            Ok(())
        })?;
        let layered = mount.writable(shelf.clone(), layer)?;
        let ids = identity::effective_ids();
        let tree = WorkTree::new(layered, ids, ids.0 == 0).map_err(error)?;
        let tree = Arc::new(tree);
        let serving = serve(tree.clone(), device, Serve { transport, threads: THREADS, working_tree: true })?;
        let forgetter = serving.forgetter();
        let dev = AtomicU64::new(0);
        Ok((Arc::new(Served { mount, private, dev, tree, shelf, forgetter, forgetting: AtomicU8::new(0) }), serving))
    }

    /// The directory.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The kernel's number for the mount.
    pub fn dev(&self) -> u64 {
        self.dev.load(Ordering::Relaxed)
    }

    /// The client has learned the number. From now on it can be told who goes past the mount.
    pub fn mounted(self: &Arc<Self>, dev: u64) {
        if self.dev.swap(dev, Ordering::Relaxed) == dev {
            return;
        }
        let served = Arc::downgrade(self);
        // While somebody stands in the real directory beneath, what they change there must show: the kernel keeps answers only briefly.
        std::thread::spawn(move || {
            // Looking takes a while on a busy machine, and whoever mounts again needs the layer, which goes with the last who holds this.
            let ways = || {
                let served = served.upgrade()?;
                Some((served.mount.root.clone(), served.mount.lower.try_clone()))
            };
            while let Some((root, lower)) = ways() {
                let alone = lower.is_ok_and(|lower| !is_shared(&lower) && standing_beneath(&root, &lower).is_empty())
                    && !is_open_elsewhere(&root, dev);
                if let Some(served) = served.upgrade() {
                    served.let_others(!alone);
                }
                std::thread::sleep(if alone { ALONE_POLL } else { BENEATH_POLL });
            }
        });
    }

    /// Whether others may change the real directory. If they begin to, the kernel forgets what it was told to keep; as long as they may, also the
    /// names of directories that were listed within one tick of a change.
    fn let_others(&self, others: bool) {
        if self.tree.set_lasting(!others) && others {
            self.forgetting.store(FORGET_ROUNDS, Ordering::Relaxed);
        }
        let left = self.forgetting.load(Ordering::Relaxed);
        if others && left > 0 {
            self.forgetting.store(left - 1, Ordering::Relaxed);
            let (nodes, names) = self.tree.known();
            if self.forgetter.forget_names().is_err() {
                names.iter().for_each(|(parent, name)| drop(self.forgetter.invalidate(*parent, name.as_bytes())));
            }
            nodes.iter().for_each(|node| drop(self.forgetter.invalidate_node(*node)));
        }
        for dir in self.tree.take_hasty() {
            let _: io::Result<()> = self.forgetter.invalidate_node(dir);
        }
    }

    /// Removes paths, then shows a pack.
    pub fn attach(&self, remove: &[Vec<u8>], pack: Option<&Attached>) -> anyhow::Result<u64> {
        let mut changed = remove.to_vec();
        let mut steps = Vec::new();
        if let Some(Attached { at, pack, first_ns, step_ns }) = pack {
            let pack: Digest = pack.parse().map_err(|_| anyhow!("{pack} is no digest"))?;
            let shown = self.shelf.pack(&pack).map_err(error)?;
            changed.extend(shown.entries.iter().map(|entry| below(at, &entry.path)));
            steps.push(Step::Attach { at: at.clone(), pack, first_ns: *first_ns, step_ns: *step_ns });
        }
        let count = changed.len() as u64;
        let act = |layered: &Layered<RealBacking>| {
            for path in remove {
                layered.remove_at(path)?;
            }
            layered.apply(&steps)
        };
        // Also what was done before something failed must be forgotten.
        let (done, stale) = self.tree.change(act, |_| changed);
        self.forget(&stale);
        done.map_err(error).with_context(|| format!("cannot change what {} shows", self.mount.root.display()))?;
        self.compact();
        Ok(count)
    }

    /// Shows no more of these views those whose bytes the store has lost; returns how many. Nothing real goes.
    pub fn drop_lost(&self, store: &Store, paths: &HashSet<Vec<u8>>) -> anyhow::Result<u64> {
        let act = |layered: &Layered<RealBacking>| {
            let lost = lost_among(store, layered.files(), paths);
            let steps: Vec<Step> = lost.iter().map(|path| Step::Remove { path: path.clone() }).collect();
            (layered.apply(&steps), lost)
        };
        let ((done, lost), stale) = self.tree.change(act, |(_, lost)| lost.clone());
        self.forget(&stale);
        done.map_err(error).with_context(|| format!("cannot change what {} shows", self.mount.root.display()))?;
        Ok(lost.len() as u64)
    }

    /// Makes every view at and below a path real; returns how many files that were.
    pub fn materialize(&self, path: &[u8]) -> anyhow::Result<u64> {
        self.tree.backing().materialize(path).map_err(error).with_context(|| {
            format!("cannot make the views in {} real", self.mount.root.join(crate::engine::tree::os(path)).display())
        })
    }

    /// What there is to say of it.
    pub fn status(&self) -> MountStatus {
        let (view_files, view_bytes) = self.tree.backing().count();
        MountStatus {
            dir: self.mount.root.to_string_lossy().into_owned(),
            private: self.private,
            dev: self.dev(),
            view_files,
            view_bytes,
            nodes: self.tree.node_count() as u64,
            open_files: self.tree.open_count() as u64,
            lent_files: self.forgetter.lent(),
        }
    }

    /// Stores again the packs that it shows, and writes the log anew: without what was lost before it was mounted.
    pub fn mend(&self) -> anyhow::Result<u64> {
        self.shelf.mend()?;
        self.tree.backing().compact(|steps| self.shelf.compact(steps))?;
        Ok(0)
    }

    /// Has the log name nothing that does not show any more.
    pub fn settle(&self) -> anyhow::Result<u64> {
        self.tree.backing().compact(|steps| self.shelf.settle(steps))?;
        Ok(0)
    }

    /// The log is written anew if it has grown.
    pub fn compact(&self) {
        if !self.shelf.is_long() {
            return;
        }
        if let Err(error) = self.tree.backing().compact(|steps| self.shelf.compact(steps)) {
            crate::complain(&format!("{error}"));
        }
    }

    fn forget(&self, stale: &[(NodeId, Vec<u8>)]) {
        for (parent, name) in stale {
            // A kernel that has dropped the mount has forgotten everything.
            let _: io::Result<()> = self.forgetter.invalidate(*parent, name);
            // The names that it was told are there.
            let _: io::Result<()> = self.forgetter.invalidate_node(*parent);
        }
    }
}

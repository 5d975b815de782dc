//! The daemon's life: it listens, serves what it is asked to, and ends when there has been nothing to serve for a while.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use wink_platform::unix::control::{self, Peer};
use wink_store::Store;

use super::protocol::{Reply, Request, Status};
use super::served::Served;
use super::{LOCK, SOCKET};
use crate::config::Transport;
use crate::engine::tree::os;
use crate::mounted::Mount;

/// How long a daemon without mounts waits for work.
const IDLE: Duration = Duration::from_secs(60);
/// How often it looks whether it is idle.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// How often what layers show is made durable, if anything was attached.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// How long a mount may take from being served to being told its number.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often that is looked for.
const SETTLE_POLL: Duration = Duration::from_millis(1);

/// How long a mount that has gone where the client is may live on elsewhere before mounting it again is refused.
const STRAY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const STRAY_POLL: Duration = Duration::from_millis(10);

/// How many may speak at once: far more than there are runs, far fewer than threads and descriptors.
const CONNECTIONS_MAX: usize = 512;
/// How long to wait when no connection can be taken at all: no descriptors, no memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

struct Daemon {
    store: Arc<Store>,
    mounts: Mutex<BTreeMap<PathBuf, Arc<Served>>>,
    /// Set, under the lock of `mounts`, when it has been decided to end: from then on nothing new is taken on.
    ending: AtomicBool,
    began: Instant,
    /// Held by everyone it speaks with.
    talks: Arc<()>,
    /// When it last had something to do, and whether anything was attached since the last sync.
    busy: Mutex<(Instant, bool)>,
}

/// Runs the daemon of the store in `dir` until it is stopped or idle.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let store = Arc::new(Store::open(dir)?);
    let lock = store.open_lock_file(Path::new(LOCK))?;
    if lock.try_lock().is_err() {
        // Another one was faster; whoever started this one finds that.
        return Ok(());
    }
    wink_platform::unix::raise_descriptor_limit();
    let socket = dir.join(SOCKET);
    let listener = control::listen(&socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    let daemon = Arc::new(Daemon {
        store,
        mounts: Mutex::default(),
        ending: AtomicBool::new(false),
        began: Instant::now(),
        talks: Arc::default(),
        busy: Mutex::new((Instant::now(), false)),
    });
    std::thread::spawn({
        let (daemon, socket) = (daemon.clone(), socket.clone());
        move || daemon.watch(&socket)
    });
    loop {
        match listener.accept() {
            Ok(peer) => daemon.hear(peer),
            // A stranger, or one who went away at once, is nobody's failure. But what is missing now would be missing again at once.
            Err(_) => std::thread::sleep(ACCEPT_AGAIN),
        }
    }
}

impl Daemon {
    /// Speaks with a client in a thread of its own. One too many is hung up on, and so is one for whom there is no thread.
    fn hear(self: &Arc<Self>, peer: Peer) {
        let talk = self.talks.clone();
        if Arc::strong_count(&talk) > CONNECTIONS_MAX + 1 {
            return;
        }
        let daemon = self.clone();
        let heard = std::thread::Builder::new().name("wink-talk".into()).spawn(move || {
            daemon.serve(&peer);
            drop(talk);
        });
        drop(heard);
    }

    /// Ends an idle daemon, and syncs a busy one.
    fn watch(&self, socket: &Path) {
        let mut synced = Instant::now();
        loop {
            std::thread::sleep(IDLE_POLL);
            let unsynced = {
                let mut busy = self.busy.lock();
                let due = busy.1 && synced.elapsed() > SYNC_EVERY;
                if due {
                    busy.1 = false;
                }
                due
            };
            if unsynced {
                // What a layer shows must still be there after a power cut.
                if let Err(error) = self.store.sync() {
                    crate::complain(&format!("{error}"));
                }
                synced = Instant::now();
            }
            let idle = self.busy.lock().0.elapsed() > IDLE;
            let mounts = self.mounts.lock();
            if idle && mounts.is_empty() {
                self.ending.store(true, Ordering::SeqCst);
                end(socket);
            }
        }
    }

    fn serve(self: Arc<Self>, peer: &Peer) {
        while let Ok(Some((bytes, descriptors))) = peer.receive(None) {
            self.busy.lock().0 = Instant::now();
            let stop = matches!(serde_json::from_slice(&bytes), Ok(Request::Stop));
            let mut handed = Vec::new();
            let answer = match serde_json::from_slice(&bytes) {
                Ok(request) => self.answer(request, descriptors, &mut handed),
                Err(_) => Err(anyhow::anyhow!("the daemon is of another version; run `wink daemon stop`")),
            };
            let is_done = answer.is_ok();
            if stop && is_done {
                // Before it is said: who is told that it has stopped must not find it again.
                let _ = std::fs::remove_file(self.store.dir().join(SOCKET));
            }
            let reply = answer.unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
            let Ok(bytes) = serde_json::to_vec(&reply) else { return };
            let lower = handed.iter().map(|served: &Arc<Served>| served.mount().lower.as_fd()).collect::<Vec<_>>();
            if peer.send(&bytes, &lower).is_err() {
                return;
            }
            if stop && is_done {
                end(&self.store.dir().join(SOCKET));
            }
        }
    }

    fn answer(
        self: &Arc<Self>,
        request: Request,
        descriptors: Vec<std::os::fd::OwnedFd>,
        handed: &mut Vec<Arc<Served>>,
    ) -> anyhow::Result<Reply> {
        if self.ending.load(Ordering::SeqCst) {
            return Ok(Reply::Ending);
        }
        Ok(match request {
            Request::Status => Reply::Status(self.status()),
            Request::Mount { root, private, transport } => {
                let Ok([device, lower]) = <[_; 2]>::try_from(descriptors) else {
                    bail!("a mount needs its device and the directory beneath");
                };
                let root = os(&root).to_owned();
                match self.mount(Mount { root, lower }, device, private, transport)? {
                    true => Reply::Done(0),
                    false => Reply::Ending,
                }
            }
            Request::Mounted { root, dev } => {
                self.mounted(&root)?.mounted(dev);
                Reply::Done(0)
            }
            Request::Find { dev } => match self.find(dev) {
                Some(served) => {
                    let root = served.mount().root.as_os_str().as_bytes().to_vec();
                    handed.push(served);
                    Reply::Found { root }
                }
                None => Reply::NotMounted,
            },
            Request::Attach { root, remove, pack } => {
                let remove: Vec<Vec<u8>> = remove.into_iter().map(|path| path.0).collect();
                // The client may be gone before the layer says that the pack is needed.
                let _hold = self.store.hold()?;
                let done = self.mounted(&root)?.attach(&remove, pack.as_ref())?;
                self.busy.lock().1 = true;
                Reply::Done(done)
            }
            Request::Settle { root } => Reply::Done(self.mounted(&root)?.settle()?),
            Request::Mend { root } => {
                let _hold = self.store.hold()?;
                Reply::Done(self.mounted(&root)?.mend()?)
            }
            Request::DropLost { root, paths } => {
                let paths = paths.into_iter().map(|path| path.0).collect();
                Reply::Done(self.mounted(&root)?.drop_lost(&self.store, &paths)?)
            }
            Request::Materialize { root, path } => Reply::Done(self.mounted(&root)?.materialize(&path)?),
            Request::Stop => {
                let mounts = self.mounts.lock();
                if let Some(dir) = mounts.keys().next() {
                    bail!("{} is mounted; unmount it first: `wink unmount {0}`", dir.display());
                }
                self.ending.store(true, Ordering::SeqCst);
                Reply::Done(0)
            }
        })
    }

    /// The mount with this number. One that was mounted just now, and whose number its client is about to tell, is waited for.
    fn find(&self, dev: u64) -> Option<Arc<Served>> {
        let asked = Instant::now();
        loop {
            let mounts = self.mounts.lock();
            let found = mounts.values().find(|served| served.dev() == dev).cloned();
            let settled = mounts.values().all(|served| served.dev() != 0);
            drop(mounts);
            if found.is_some() || settled || asked.elapsed() > SETTLE_TIMEOUT {
                return found;
            }
            std::thread::sleep(SETTLE_POLL);
        }
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: self.began.elapsed().as_millis() as u64,
            mounts: self.mounts.lock().values().map(|served| served.status()).collect(),
        }
    }

    fn mounted(&self, root: &[u8]) -> anyhow::Result<Arc<Served>> {
        let root = os(root);
        let served = self.mounts.lock().get(root).cloned();
        served.with_context(|| format!("{} is not mounted", root.display()))
    }

    /// Serves a mount; `false` if the daemon is about to end instead.
    fn mount(
        self: &Arc<Self>,
        mount: Mount,
        device: std::os::fd::OwnedFd,
        private: bool,
        transport: Transport,
    ) -> anyhow::Result<bool> {
        let root = mount.root.clone();
        let asked = Instant::now();
        let mut mounts = self.mounts.lock();
        while mounts.contains_key(&root) {
            // Unmounted where the client is, but a namespace that copied it has it still: a task's view, for as long as the task runs.
            if asked.elapsed() > STRAY_TIMEOUT {
                bail!("{} is still mounted in another mount namespace; a command may be running there", root.display());
            }
            drop(mounts);
            std::thread::sleep(STRAY_POLL);
            mounts = self.mounts.lock();
        }
        if self.ending.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let (served, serving) = Served::start(&self.store, mount, device, private, transport.into())?;
        mounts.insert(root.clone(), served.clone());
        drop(mounts);
        if !private {
            // Also if the client that should tell is gone by now.
            let (served, root) = (Arc::downgrade(&served), root.clone());
            std::thread::spawn(move || {
                if let (Ok(data), Some(served)) = (std::fs::metadata(&root), served.upgrade()) {
                    served.mounted(data.dev());
                }
            });
        }
        let daemon = self.clone();
        std::thread::spawn(move || {
            // Until somebody unmounts it.
            let _ = serving.wait();
            served.compact();
            // Whoever mounts it again needs the layer, which goes with the last of these.
            drop(served);
            daemon.mounts.lock().remove(&root);
            daemon.busy.lock().0 = Instant::now();
        });
        Ok(true)
    }
}

/// Ends the process: nothing is mounted, so nothing is left to be done. The lock goes with it.
fn end(socket: &Path) -> ! {
    let _ = std::fs::remove_file(socket);
    std::process::exit(0)
}

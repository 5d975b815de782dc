//! Serving a mounted device, and telling the kernel what to forget.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{BackgroundSession, Config, INodeNo, Notifier, Session, SessionACL};
use wink_fs::vfs::{NodeId, Vfs};

use super::Adapter;

/// How a filesystem is served.
#[derive(Clone, Copy, Debug)]
pub struct Serve {
    /// Threads that answer requests; at least one.
    pub threads: usize,
    /// Whether it is a mounted working tree, with extended attributes and set-user-ID bits that writes take away, rather than a
    /// task's view, which has neither.
    pub working_tree: bool,
}

/// A filesystem that is being served, until the kernel drops the mount; dropping this value does not end it.
pub struct Serving {
    session: BackgroundSession,
}

impl Serving {
    /// Waits until the kernel has dropped the mount, whoever unmounted it.
    pub fn wait(self) -> io::Result<()> {
        self.session.join()
    }

    /// Whether the kernel has dropped the mount (or the threads that serve it have failed).
    pub fn is_ended(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// What makes the kernel forget answers; it keeps the device open, so let go of it when the mount has ended.
    pub fn forgetter(&self) -> Forgetter {
        Forgetter(self.session.notifier())
    }
}

/// Makes the kernel forget answers it was given. Usable from any thread, but never while holding a lock that a request may wait
/// for: the kernel waits for requests under way in the same directory first.
#[derive(Clone, Debug)]
pub struct Forgetter(Notifier);

impl Forgetter {
    /// The kernel looks `name` up again. Not having known it is fine.
    pub fn invalidate(&self, parent: NodeId, name: &[u8]) -> io::Result<()> {
        self.0.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name))
    }

    /// The kernel asks for attributes and bytes again. Not having known the node is fine.
    pub fn invalidate_node(&self, id: NodeId) -> io::Result<()> {
        // From 0, a length of 0 is all.
        self.0.inval_inode(INodeNo(id.0), 0, 0)
    }
}

/// Answers the requests that arrive on `device`, an open `/dev/fuse` that has been mounted.
pub fn serve<V: Vfs>(vfs: Arc<V>, device: OwnedFd, how: Serve) -> io::Result<Serving>
where
    V::File: AsFd,
{
    let mut config = Config::default();
    config.n_threads = Some(how.threads.max(1));
    config.clone_fd = how.threads > 1;
    let session = Session::from_fd(Adapter::new(vfs, how.working_tree), device, SessionACL::All, config)?;
    Ok(Serving { session: session.spawn()? })
}

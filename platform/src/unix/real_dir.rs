//! Handles of directories of the real tree.
//!
//! A [`RealDir`] knows its parent and its name and opens an `O_PATH` descriptor when it is first needed. Only so many are
//! kept (see `descriptors`); one that was given up is opened again through the chain of parents. On that way the names are
//! looked up anew: if the directory was renamed or replaced in the real tree meanwhile, the handle is stale, which is found
//! out by its inode number and reported as [`Status::Stale`] (or [`Status::NotFound`]). A handle that still holds its
//! descriptor follows its directory through renames, as descriptors do. After renaming a directory itself, the filesystem
//! should make a new handle with [`Backing::child`](wink_fs::backing::Backing::child).
//!
//! Lock order: a handle's descriptor lock is a leaf; the pool's queue lock is never held together with it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use wink_fs::backing::Result;
use wink_fs::name::Name;
use wink_fs::status::Status;

use super::descriptors::{Holder, Pool};
use crate::errno::from_rustix;

/// How a kept directory is opened: as a place to start lookups from, needing no permission on it.
pub(crate) const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of the real tree; cheap to clone.
#[derive(Clone)]
pub struct RealDir(Arc<Node>);

pub(crate) struct Node {
    /// `None` for one whose descriptor is never given up.
    place: Option<(RealDir, Name)>,
    descriptor: Mutex<Descriptor>,
    pool: Arc<Pool<Node>>,
}

#[derive(Default)]
struct Descriptor {
    open: Option<Arc<OwnedFd>>,
    /// Device and inode of a descriptor that was given up, to be found again.
    identity: Option<(u64, u64)>,
}

impl Holder for Node {
    fn give_up(&self) -> Option<Arc<OwnedFd>> {
        let mut descriptor = self.descriptor.lock();
        let open = descriptor.open.take()?;
        if let Ok(stat) = rustix::fs::fstat(&open) {
            descriptor.identity = Some((stat.st_dev, stat.st_ino));
        }
        Some(open)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.place.is_some() && self.descriptor.get_mut().open.is_some() {
            self.pool.closed();
        }
        // Ancestors that only this handle kept alive go in a loop: recursion would overflow the stack in a deep tree.
        let mut above = self.place.take().map(|(parent, _)| parent.0);
        while let Some(mut node) = above.take().and_then(Arc::into_inner) {
            above = node.place.take().map(|(parent, _)| parent.0);
            if above.is_some() && node.descriptor.get_mut().open.is_some() {
                self.pool.closed();
            }
        }
    }
}

impl RealDir {
    /// A handle whose descriptor is never given up.
    pub(crate) fn kept(open: OwnedFd, pool: Arc<Pool<Node>>) -> RealDir {
        let descriptor = Mutex::new(Descriptor { open: Some(Arc::new(open)), identity: None });
        RealDir(Arc::new(Node { place: None, descriptor, pool }))
    }

    /// The directory `name` in this one; not opened yet.
    pub(crate) fn below(&self, name: &Name) -> RealDir {
        let place = Some((self.clone(), name.clone()));
        RealDir(Arc::new(Node { place, descriptor: Mutex::default(), pool: self.0.pool.clone() }))
    }

    /// Parent and name; `None` for a kept one.
    pub(crate) fn place(&self) -> Option<&(RealDir, Name)> {
        self.0.place.as_ref()
    }

    pub(crate) fn pool(&self) -> &Arc<Pool<Node>> {
        &self.0.pool
    }

    /// The directory's descriptor, opened if it is not.
    pub(crate) fn fd(&self) -> Result<Arc<OwnedFd>> {
        if let Some(open) = &self.0.descriptor.lock().open {
            return Ok(open.clone());
        }
        // Up to the nearest ancestor that is open (the top always is), then down again.
        let mut closed = vec![self];
        let mut current = loop {
            let Some((parent, _)) = &closed[closed.len() - 1].0.place else { return Err(Status::Stale) };
            if let Some(open) = &parent.0.descriptor.lock().open {
                break open.clone();
            }
            closed.push(parent);
        };
        while let Some(dir) = closed.pop() {
            current = dir.open_below(&current)?;
        }
        Ok(current)
    }

    fn open_below(&self, parent: &OwnedFd) -> Result<Arc<OwnedFd>> {
        let node = &self.0;
        let Some((_, name)) = &node.place else { return Err(Status::Stale) };
        let opened = match rustix::fs::openat(parent, name.as_bytes(), DIRECTORY, Mode::empty()) {
            Err(Errno::MFILE | Errno::NFILE) if node.pool.shed_half() > 0 => {
                rustix::fs::openat(parent, name.as_bytes(), DIRECTORY, Mode::empty())
            }
            other => other,
        };
        let opened = Arc::new(opened.map_err(from_rustix)?);
        {
            let mut descriptor = node.descriptor.lock();
            if let Some(open) = &descriptor.open {
                return Ok(open.clone()); // Another thread was faster; this one's descriptor closes.
            }
            if let Some(identity) = descriptor.identity {
                let stat = rustix::fs::fstat(&opened).map_err(from_rustix)?;
                if (stat.st_dev, stat.st_ino) != identity {
                    return Err(Status::Stale);
                }
            }
            descriptor.open = Some(opened.clone());
        }
        node.pool.opened(node);
        Ok(opened)
    }
}

//! What stands behind a node, for a task that runs inside this one and takes the view for a plain tree.
//!
//! A view shows a file with the attributes it had when it was first seen, whatever becomes of the real one. So the stamps that it shows do not
//! tell whether the bytes are still the same, nor are its device and inode numbers good for remembering a file by. This does.

use super::View;
use crate::attr::Attr;
use crate::backing::{Backing, BackingFile, Result};
use crate::name::Name;
use crate::node::{Body, Bytes, FileBody};
use crate::observe::same;
use crate::status::Status;
use crate::vfs::NodeId;
use crate::zone::Zone;

/// See the module.
#[derive(Clone, Debug)]
pub struct Beneath<D> {
    /// What the view shows of the node.
    pub shown: Attr,
    /// What holds its bytes, as it is now: the file beneath, or a staged one.
    pub real: Attr,
    /// Nobody but the task has changed it since the view first saw it.
    pub steady: bool,
    /// Changes of it stay in the upper. Each gives a file a ctime that it never had before.
    pub upper: bool,
    /// Where `real` lies; `None` if it is staged or made by the task, or is the top.
    pub place: Option<(D, Name)>,
}

impl<B: Backing> View<B> {
    /// See the module.
    pub fn beneath(&self, id: NodeId) -> Result<Beneath<B::Dir>> {
        let mut guard = self.lock();
        guard.refresh(id)?;
        let (shown, node) = (guard.attr(id)?, guard.node(id)?);
        let upper = node.zone == Zone::Task;
        if let Body::File(FileBody { bytes: Bytes::Staged(staged), open, .. }) = &node.body {
            let real = match open {
                Some(file) => file.attr()?,
                None => self.backing.open_staged(*staged)?.attr()?,
            };
            return Ok(Beneath { shown, real, steady: true, upper, place: None });
        }
        let Some(lower) = &node.lower else {
            return Ok(Beneath { shown, real: node.base, steady: true, upper, place: None });
        };
        let place = lower.dir.clone().zip(lower.name.clone());
        let now = match &place {
            Some((dir, name)) => self.backing.attr(dir, name),
            None => Ok(lower.attr),
        };
        match now {
            Ok(real) => Ok(Beneath { shown, real, steady: same(Some(&lower.attr), Some(&real)), upper, place }),
            Err(Status::NotFound | Status::NotDir | Status::Stale) => {
                Ok(Beneath { shown, real: lower.attr, steady: false, upper, place })
            }
            Err(status) => Err(status),
        }
    }
}

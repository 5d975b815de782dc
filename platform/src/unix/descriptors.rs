//! How many descriptors this process may use, and which directory handles may keep one.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The part of the descriptor limit that kept directories may use; the rest is for open files, which cannot be reopened.
const KEPT_SHARE: u64 = 4;
/// Below this, walking back down a deep tree would cost more than the descriptors are worth.
const KEPT_MIN: usize = 64;
/// Above this, more kept directories do not make anything faster.
const KEPT_MAX: usize = 65_536;

static ORIGINAL_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of open descriptors to the hard one, once; returns the limit now in force. Commands that are
/// started by this crate get the original limit back: some programs size tables by it, or loop up to it.
pub fn raise_descriptor_limit() -> u64 {
    let original = ORIGINAL_LIMIT.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        // Refused: the old limit stays, and the budget below adapts to it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        limit
    });
    getrlimit(Resource::Nofile).current.or(original.maximum).unwrap_or(u64::MAX)
}

/// The limit to give back to commands, if it was ever raised.
pub(crate) fn original_limit() -> Option<Rlimit> {
    ORIGINAL_LIMIT.get().map(|limit| Rlimit { current: limit.current, maximum: limit.maximum })
}

/// How many directory descriptors to keep under the present limit.
pub(crate) fn budget() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / KEPT_SHARE).unwrap_or(KEPT_MAX).clamp(KEPT_MIN, KEPT_MAX)
}

/// Something that holds a descriptor it can do without.
pub(crate) trait Holder {
    /// Gives the descriptor up. The caller drops it outside all locks.
    fn give_up(&self) -> Option<Arc<OwnedFd>>;
}

/// The descriptors kept by holders of one kind, oldest first.
///
/// Lock order: the queue's lock is never held while a holder's own lock is taken.
pub(crate) struct Pool<H> {
    budget: usize,
    kept: AtomicUsize,
    queue: Mutex<VecDeque<Weak<H>>>,
}

impl<H: Holder> Pool<H> {
    pub(crate) fn new(budget: usize) -> Pool<H> {
        Pool { budget, kept: AtomicUsize::new(0), queue: Mutex::new(VecDeque::new()) }
    }

    /// Notes that `holder` has just opened its descriptor; takes the oldest ones away when there are too many.
    pub(crate) fn opened(&self, holder: &Arc<H>) {
        let kept = self.kept.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut queue = self.queue.lock();
            queue.push_back(Arc::downgrade(holder));
            // Holders that died leave their place behind; sweep before those outnumber the living.
            if queue.len() > 2 * self.budget {
                queue.retain(|waiting| waiting.strong_count() > 0);
            }
        }
        if kept > self.budget {
            self.shed(kept - self.budget);
        }
    }

    /// Notes that a holder has closed its descriptor by itself.
    pub(crate) fn closed(&self) {
        self.kept.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes away up to `count` descriptors, oldest first; returns how many.
    pub(crate) fn shed(&self, count: usize) -> usize {
        let mut taken = 0;
        while taken < count {
            let Some(oldest) = self.queue.lock().pop_front() else { break };
            let Some(holder) = oldest.upgrade() else { continue };
            if let Some(descriptor) = holder.give_up() {
                self.closed();
                taken += 1;
                drop(descriptor);
            }
        }
        taken
    }

    /// Takes away half of what is kept: this process has run out of descriptors.
    pub(crate) fn shed_half(&self) -> usize {
        self.shed(self.kept.load(Ordering::Relaxed).div_ceil(2))
    }

    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }
}

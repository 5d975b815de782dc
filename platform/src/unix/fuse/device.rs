//! The open `/dev/fuse` of a mount: everything but reading requests.
//!
//! The kernel takes a mount for dead when the last descriptor of its device is closed. So this one is closed as soon as nobody answers any
//! more, whoever still holds the value: who asks then gets an error, and does not wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::wire::{BackingMap, OUT_HEADER, OutHeader};

const CLONE: libc::Ioctl = libc::_IOR::<u32>(b'\xe5' as u32, 0);
const BACKING_OPEN: libc::Ioctl = libc::_IOW::<BackingMap>(b'\xe5' as u32, 1);
const BACKING_CLOSE: libc::Ioctl = libc::_IOW::<u32>(b'\xe5' as u32, 2);

/// See the module. Lock order: a leaf, held for one call at most.
#[derive(Debug)]
pub(super) struct Device {
    descriptor: RwLock<Option<Arc<OwnedFd>>>,
    /// How many files the kernel was lent and has not given back.
    lent: AtomicU64,
}

impl Device {
    /// Of an open device.
    pub fn new(descriptor: OwnedFd) -> Device {
        Device { descriptor: RwLock::new(Some(Arc::new(descriptor))), lent: AtomicU64::new(0) }
    }

    /// Of no device.
    pub fn closed() -> Device {
        Device { descriptor: RwLock::new(None), lent: AtomicU64::new(0) }
    }

    /// The descriptor; whoever holds it keeps the mount alive.
    pub fn descriptor(&self) -> Result<Arc<OwnedFd>, Errno> {
        self.descriptor.read().clone().ok_or(Errno::NODEV)
    }

    /// Lets go of it.
    pub fn close(&self) {
        drop(self.descriptor.write().take());
    }

    /// Another open device of the same mount, with a queue of its own for what is being answered. Where there is none to be had, the one
    /// device: it does too.
    pub fn another(&self) -> Result<Arc<OwnedFd>, Errno> {
        let first = self.descriptor()?;
        let cloned = rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).and_then(|other| {
            let number = first.as_raw_fd().cast_unsigned();
            ioctl(&other, CLONE, (&raw const number).cast()).map(|_| other)
        });
        Ok(cloned.map_or(first, Arc::new))
    }

    /// Registers a file that the kernel may read by itself; returns its number.
    pub fn lend(&self, file: BorrowedFd<'_>) -> Result<i32, Errno> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        let number = ioctl(&self.descriptor()?, BACKING_OPEN, (&raw const map).cast())?;
        self.lent.fetch_add(1, Ordering::Relaxed);
        Ok(number)
    }

    /// How many files are lent.
    pub fn lent(&self) -> u64 {
        self.lent.load(Ordering::Relaxed)
    }

    /// Ends what [`Device::lend`] began. The kernel goes on for those who have it open.
    pub fn take_back(&self, number: i32) -> Result<(), Errno> {
        self.lent.fetch_sub(1, Ordering::Relaxed);
        ioctl(&self.descriptor()?, BACKING_CLOSE, (&raw const number).cast()).map(drop)
    }

    /// Tells the kernel something that it did not ask.
    pub fn notify(&self, what: i32, parts: &[&[u8]]) -> io::Result<()> {
        let mut message = vec![0; OUT_HEADER];
        parts.iter().for_each(|part| message.extend_from_slice(part));
        let header = OutHeader { len: message.len() as u32, error: what, unique: 0 };
        message[..OUT_HEADER].copy_from_slice(header.as_bytes());
        let descriptor = self.descriptor()?;
        loop {
            match rustix::io::write(&descriptor, &message) {
                // It does not know what it should forget.
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::INTR) => {}
                written => return Ok(written.map(drop)?),
            }
        }
    }
}

/// `argument` must point to what the request takes.
fn ioctl(device: &impl AsFd, request: libc::Ioctl, argument: *const libc::c_void) -> Result<i32, Errno> {
    // SAFETY: the three requests of this file read from the argument alone, and it is a live value of the type they take.
    match unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request, argument) } {
        -1 => Err(super::super::attr::last_errno()),
        done => Ok(done),
    }
}

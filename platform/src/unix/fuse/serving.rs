//! Serving a mounted device, and telling the kernel what to forget.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;

use wink_fs::vfs::{NodeId, Vfs};
use zerocopy::IntoBytes;

use super::adapter::Adapter;
use super::classic;
use super::crew::Crew;
use super::device::Device;
use super::init;
use super::lent::Lent;
use super::listings::Listings;
use super::ring::Ring;
use super::wire::{NotifyInvalEntry, NotifyInvalInode, notify};

/// How requests come and answers go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// By io_uring where it is to be had, else through the device.
    #[default]
    Auto,
    /// Through the device.
    Classic,
    /// By io_uring; if it is not to be had, that is a failure.
    Uring,
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(word: &str) -> Result<Transport, String> {
        match word {
            "auto" => Ok(Transport::Auto),
            "classic" => Ok(Transport::Classic),
            "uring" => Ok(Transport::Uring),
            _ => Err(format!("{word} is no transport: auto, classic or uring is")),
        }
    }
}

/// How a filesystem is served.
#[derive(Clone, Copy, Debug)]
pub struct Serve {
    /// How requests come.
    pub transport: Transport,
    /// Threads that answer requests which come through the device; at least one.
    pub threads: usize,
    /// Whether it is a mounted working tree, with extended attributes and set-user-ID bits that writes take away, rather than a
    /// task's view, which has neither.
    pub working_tree: bool,
}

/// A filesystem that is being served, until the kernel drops the mount; dropping this value does not end it.
#[derive(Debug)]
pub struct Serving {
    threads: Vec<JoinHandle<io::Result<()>>>,
    device: Arc<Device>,
    transport: Transport,
}

impl Serving {
    /// Waits until the kernel has dropped the mount, whoever unmounted it.
    pub fn wait(self) -> io::Result<()> {
        let mut ended = Ok(());
        for thread in self.threads {
            let served = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that served it panicked")));
            ended = ended.and(served);
        }
        ended
    }

    /// Whether the kernel has dropped the mount (or the threads that serve it have failed).
    pub fn is_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// What was taken: [`Transport::Classic`] or [`Transport::Uring`].
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What makes the kernel forget answers.
    pub fn forgetter(&self) -> Forgetter {
        Forgetter(self.device.clone())
    }
}

/// Makes the kernel forget answers it was given. Usable from any thread, but never while holding a lock that a request may wait
/// for: the kernel waits for requests under way in the same directory first.
#[derive(Clone, Debug)]
pub struct Forgetter(Arc<Device>);

impl Forgetter {
    /// The kernel looks `name` up again. Not having known it is fine.
    pub fn invalidate(&self, parent: NodeId, name: &[u8]) -> io::Result<()> {
        let head = NotifyInvalEntry { parent: parent.0, namelen: name.len() as u32, flags: 0 };
        self.0.notify(notify::INVAL_ENTRY, &[head.as_bytes(), name, &[0]])
    }

    /// How many files the kernel was lent, to read them by itself.
    pub fn lent(&self) -> u64 {
        self.0.lent()
    }

    /// The kernel looks all names up again, also those that it was told are not there. It knows how to since Linux 6.16; elsewhere it is not told
    /// for long that a name of a working tree is not there.
    pub fn forget_names(&self) -> io::Result<()> {
        self.0.notify(notify::INC_EPOCH, &[])
    }

    /// The kernel asks for attributes and bytes again. Not having known the node is fine.
    pub fn invalidate_node(&self, id: NodeId) -> io::Result<()> {
        // From 0, a length of 0 is all.
        let all = NotifyInvalInode { ino: id.0, off: 0, len: 0 };
        self.0.notify(notify::INVAL_INODE, &[all.as_bytes()])
    }
}

/// Answers the requests of a mount; `device` is an open `/dev/fuse` that has been mounted.
pub fn serve<V: Vfs>(vfs: Arc<V>, device: OwnedFd, how: Serve) -> io::Result<Serving>
where
    V::File: AsFd,
{
    let offer = init::receive(&device)?;
    let device = Arc::new(Device::new(device));
    let crew = Crew::new(device.clone());
    let ring = match how.transport {
        Transport::Classic => None,
        _ if offer.has_ring() => Some(Ring::prepare(&crew)),
        _ => Some(Err(io::Error::other("the kernel does not offer it (module parameter enable_uring of fuse)"))),
    };
    let ring = match ring {
        Some(Err(error)) if how.transport == Transport::Uring => {
            return Err(io::Error::new(error.kind(), format!("FUSE over io_uring is not to be had: {error}")));
        }
        ring => ring.and_then(Result::ok),
    };
    let descriptor = device.descriptor()?;
    let terms = offer.accept(&descriptor, how.working_tree, ring.is_some())?;
    drop(descriptor);
    let lent = Lent::new(device.clone(), terms.lends);
    let adapter = Arc::new(Adapter {
        vfs,
        working_tree: how.working_tree,
        opens_itself: terms.opens_itself,
        lasting_absence: terms.forgets_names || !how.working_tree,
        listings: Listings::default(),
        lent,
    });
    // With the ring only what is to be forgotten comes through the device.
    let (transport, count) =
        if ring.is_some() { (Transport::Uring, 1) } else { (Transport::Classic, how.threads.max(1)) };
    let mut threads = ring.map_or_else(Vec::new, |ring| ring.begin(&adapter));
    for number in 0..count {
        let adapter = adapter.clone();
        match crew.start("wink-fuse", move |crew, device| classic::serve(&adapter, crew, device)) {
            Ok(thread) => threads.push(thread),
            // Fewer do too; none at all does not.
            Err(error) if number == 0 => {
                crew.end();
                return Err(error);
            }
            Err(_) => break,
        }
    }
    Ok(Serving { threads, device, transport })
}

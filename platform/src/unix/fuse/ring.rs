//! The transport of newer kernels (Linux 6.14, module parameter `enable_uring`): requests and answers through io_uring.
//!
//! A thread lends the kernel a room for each request it can take at a time. The kernel puts a request there and completes the thread's
//! command; the thread puts the answer into the same room and commands to take it and to bring the next: one system call a request. The first
//! request of a mount, what is to be forgotten, interruptions and notifications still go through the device.
//!
//! Once the kernel has been told that the ring serves, it waits for every queue to be registered and asks nobody else. So all that can fail
//! is done before ([`Ring::prepare`]), and a thread that fails afterwards ends the mount.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use wink_fs::vfs::Vfs;
use zerocopy::{FromBytes, IntoBytes};

use super::adapter::{Adapter, Rest};
use super::crew::Crew;
use super::init::MOVE_MAX;
use super::stations::{Station, stations};
use super::wire::{InHeader, OUT_HEADER, Opcode, RingCommand, RingEntry, ring};

/// A room: the kernel's headers, and behind them what a request carries or its answer is.
const HEAD_BYTES: usize = 4096;
const ROOM_BYTES: usize = HEAD_BYTES + MOVE_MAX as usize;

type Queue = IoUring<squeue::Entry128, cqueue::Entry>;

/// What [`Ring::prepare`] made: threads that wait to be told to begin.
pub(super) struct Ring<V> {
    threads: Vec<Waiting<V>>,
}

struct Waiting<V> {
    begin: Sender<Arc<Adapter<V>>>,
    thread: JoinHandle<io::Result<()>>,
}

impl<V: Vfs> Ring<V>
where
    V::File: std::os::fd::AsFd,
{
    /// Makes ready all that serving takes. If it fails, or its value is dropped, nothing has happened.
    pub fn prepare(crew: &Arc<Crew>) -> io::Result<Ring<V>> {
        let device = crew.device().descriptor()?;
        may_command(&device)?;
        let (said, heard) = channel();
        let mut ring = Ring { threads: Vec::new() };
        for station in stations()? {
            let (begin, beginning) = channel();
            let (crew, device, said) = (crew.clone(), device.clone(), said.clone());
            let thread = std::thread::Builder::new().name(String::from("wink-ring"));
            let thread = thread.spawn(move || stand_by(&crew, &device, &station, &said, &beginning))?;
            ring.threads.push(Waiting { begin, thread });
        }
        drop(said);
        for _ in &ring.threads {
            heard.recv().map_err(io::Error::other)??;
        }
        Ok(ring)
    }

    /// Serves. The kernel has been told.
    pub fn begin(self, adapter: &Arc<Adapter<V>>) -> Vec<JoinHandle<io::Result<()>>> {
        let begun = self.threads.into_iter().map(|Waiting { begin, thread }| {
            // A thread that is gone has called off all others.
            let _ = begin.send(adapter.clone());
            thread
        });
        begun.collect()
    }
}

/// Whether the device takes commands from this process at all: a policy may forbid it. Through a ring of ordinary size, which FUSE refuses.
fn may_command(device: &OwnedFd) -> io::Result<()> {
    let mut probe = IoUring::new(1)?;
    let command = opcode::UringCmd16::new(types::Fd(device.as_raw_fd()), ring::REGISTER).build();
    // SAFETY: the command refers to no memory, and the device is open until it is complete.
    unsafe { probe.submission().push(&command) }.map_err(io::Error::other)?;
    probe.submit_and_wait(1)?;
    match probe.completion().next().map(|completion| -completion.result()) {
        Some(libc::EINVAL) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("no answer")),
    }
}

/// The life of a thread.
fn stand_by<V: Vfs>(
    crew: &Crew,
    device: &Arc<OwnedFd>,
    station: &Station,
    said: &Sender<io::Result<()>>,
    beginning: &Receiver<Arc<Adapter<V>>>,
) -> io::Result<()>
where
    V::File: std::os::fd::AsFd,
{
    let place = station.settle().and_then(|()| Place::new(device, station));
    let (place, ready) = place.map_or_else(|error| (None, Err(error)), |place| (Some(place), Ok(())));
    // If nobody hears it, nothing is to begin.
    let _ = said.send(ready);
    let (Some(mut place), Ok(adapter)) = (place, beginning.recv()) else { return Ok(()) };
    crew.enlist(|| {
        let served = place.serve(&adapter, crew);
        if served.is_ok() && !crew.is_stopping() {
            place.give_back();
        }
        served
    })
}

/// A thread's rooms and its ring.
struct Place {
    ring: Queue,
    memory: NonNull<u8>,
    rooms: Vec<Room>,
}

/// What the kernel has been lent for one request at a time.
struct Room {
    queue: u16,
    /// Read by the kernel while it registers.
    parts: [libc::iovec; 2],
    /// By which the kernel knows the request that is in it.
    commit: u64,
    is_registered: bool,
}

impl Place {
    fn new(device: &OwnedFd, station: &Station) -> io::Result<Place> {
        let count = station.queues.len();
        let entries = count.next_power_of_two() as u32;
        let ring: Queue = IoUring::builder().dontfork().setup_single_issuer().setup_defer_taskrun().build(entries)?;
        ring.submitter().register_files(&[device.as_raw_fd()])?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let memory = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), count * ROOM_BYTES, protection, MapFlags::PRIVATE)?
        };
        // SAFETY: all of the mapping, and nothing else. A forked child has no use for it; if it gets it, that costs time.
        let _ = unsafe { rustix::mm::madvise(memory, count * ROOM_BYTES, Advice::LinuxDontFork) };
        let memory = NonNull::new(memory.cast::<u8>()).ok_or_else(|| io::Error::other("no memory"))?;
        let rooms = station.queues.iter().enumerate().map(|(number, queue)| {
            // SAFETY: within the mapping.
            let start = unsafe { memory.add(number * ROOM_BYTES) };
            // SAFETY: as above.
            let body = unsafe { start.add(HEAD_BYTES) };
            let part = |start: NonNull<u8>, iov_len| libc::iovec { iov_base: start.as_ptr().cast(), iov_len };
            let parts = [part(start, HEAD_BYTES), part(body, MOVE_MAX as usize)];
            Room { queue: *queue, parts, commit: 0, is_registered: false }
        });
        Ok(Place { ring, memory, rooms: rooms.collect() })
    }

    /// Serves until the kernel drops the mount, or somebody asks to stop.
    fn serve<V: Vfs>(&mut self, adapter: &Adapter<V>, crew: &Crew) -> io::Result<()>
    where
        V::File: std::os::fd::AsFd,
    {
        for number in 0..self.rooms.len() {
            self.command(number)?;
        }
        let mut left = self.rooms.len();
        while left > 0 {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                submitted => drop(submitted?),
            }
            if crew.is_stopping() {
                return Ok(());
            }
            while let Some(completion) = { self.ring.completion().next() } {
                let number = completion.user_data() as usize;
                match -completion.result() {
                    0 => {
                        let broken = self.answer(number, adapter)?;
                        self.command(number)?;
                        // Who asked does not wait for whoever comes next.
                        if broken || !self.ring.completion().is_empty() {
                            self.ring.submit()?;
                        }
                        if broken {
                            return Err(io::Error::other("a request could not be answered"));
                        }
                    }
                    libc::EAGAIN | libc::EINTR => self.command(number)?,
                    libc::ENOTCONN | libc::ECONNABORTED => left -= 1,
                    errno => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
        Ok(())
    }

    /// Answers the request in a room; whether something broke.
    fn answer<V: Vfs>(&mut self, number: usize, adapter: &Adapter<V>) -> io::Result<bool>
    where
        V::File: std::os::fd::AsFd,
    {
        let room = self.rooms.get_mut(number).ok_or_else(|| io::Error::other("a room that was never lent"))?;
        room.is_registered = true;
        // SAFETY: within the mapping, which lives as long as this value; the kernel leaves a room alone from the completion of a command to the
        // submission of the next, and this thread has no other reference to it.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.memory.add(number * ROOM_BYTES).as_ptr(), ROOM_BYTES) };
        let (head, body) = bytes.split_at_mut(HEAD_BYTES);
        let (front, entry) = head.split_at_mut(ring::ENTRY_AT);
        let (in_out, fixed) = front.split_at_mut(ring::FIXED_AT);
        let cut_short = || io::Error::from_raw_os_error(libc::EPROTO);
        let (header, _) = InHeader::read_from_prefix(in_out).map_err(|_| cut_short())?;
        let (mut asked, _) = RingEntry::read_from_prefix(entry).map_err(|_| cut_short())?;
        room.commit = asked.commit_id;
        let rest = Rest::InRoom(asked.payload_size as usize);
        let known = Opcode::from_number(header.opcode).map_or(0, Opcode::fixed_bytes).min(fixed.len());
        let ready = adapter.serve(header, &fixed[..known], rest, body);
        let (bytes, broken) = match &ready {
            Some(ready) => {
                in_out[..OUT_HEADER].copy_from_slice(ready.header.as_bytes());
                (ready.bytes, ready.broken)
            }
            // Never asked through the ring; but a room must come back.
            None => return Err(cut_short()),
        };
        asked.payload_size = bytes as u32;
        asked.write_to_prefix(entry).map_err(|_| cut_short())?;
        Ok(broken)
    }

    /// Commands the kernel to take the answer in a room, if there is one, and to bring a request. Submitted later.
    fn command(&mut self, number: usize) -> io::Result<()> {
        let room = self.rooms.get(number).ok_or_else(|| io::Error::other("a room that was never lent"))?;
        let mut words = [0; 80];
        let about = RingCommand { flags: 0, commit_id: room.commit, queue: room.queue, padding: [0; 6] };
        words[..size_of::<RingCommand>()].copy_from_slice(about.as_bytes());
        let what = if room.is_registered { ring::COMMIT_AND_FETCH } else { ring::REGISTER };
        let command = opcode::UringCmd80::new(types::Fixed(0), what).cmd(words);
        let command = command.addr(Some(room.parts.as_ptr().addr() as u64)).build().user_data(number as u64);
        // SAFETY: the command names memory of this value, which outlives the ring, or is never freed.
        let pushed = unsafe { self.ring.submission().push(&two_parts(command)) };
        pushed.map_err(io::Error::other)
    }

    /// Frees the rooms, for the kernel has given all of them back. Elsewise they stay: it may still be writing there.
    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.rooms).len() * ROOM_BYTES;
        // SAFETY: mapped by `new` with this size; nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.memory.as_ptr().cast(), bytes) };
    }
}

/// Says that the address of a command is that of two parts: the crate has no word for it.
fn two_parts(mut command: squeue::Entry128) -> squeue::Entry128 {
    const LENGTH_AT: usize = 24;
    // SAFETY: an entry is a `struct io_uring_sqe` of 128 bytes, plain numbers, with the 32 bits of `len` there.
    unsafe { (&raw mut command).cast::<u8>().add(LENGTH_AT).cast::<u32>().write(2) };
    command
}

//! The transport that every kernel has: a thread reads a request from the device, and writes the answer to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use wink_fs::vfs::Vfs;
use zerocopy::IntoBytes;

use super::adapter::{Adapter, Rest};
use super::crew::Crew;
use super::device::Device;
use super::init::MOVE_MAX;
use super::lent::Lent;
use super::listings::Listings;
use super::request::split;
use super::wire::OUT_HEADER;

/// What comes before the bytes to be written, and names.
const HEAD_MAX: usize = 4096;

/// Answers a message in `answer`; returns how long that is, and whether something broke. `None`: no answer is wanted.
fn answer<V: Vfs>(adapter: &Adapter<V>, message: &[u8], answer: &mut [u8]) -> Result<Option<(usize, bool)>, Errno>
where
    V::File: AsFd,
{
    let (header, fixed, rest) = split(message).ok_or(Errno::PROTO)?;
    let (head, room) = answer.split_at_mut(OUT_HEADER);
    let Some(ready) = adapter.serve(header, fixed, Rest::Apart(rest), room) else { return Ok(None) };
    head.copy_from_slice(ready.header.as_bytes());
    Ok(Some((OUT_HEADER + ready.bytes, ready.broken)))
}

/// Answers one message, without a device.
pub(crate) fn answer_one<V: Vfs>(vfs: &Arc<V>, message: &[u8]) -> Option<Vec<u8>>
where
    V::File: AsFd,
{
    let lent = Lent::new(Arc::new(Device::closed()), false);
    let adapter = Adapter {
        vfs: vfs.clone(),
        working_tree: true,
        opens_itself: true,
        lasting_absence: true,
        listings: Listings::default(),
        lent,
    };
    let mut room = vec![0; OUT_HEADER + MOVE_MAX as usize];
    let (length, broken) = answer(&adapter, message, &mut room).ok()??;
    assert!(!broken);
    room.truncate(length);
    Some(room)
}

/// Serves until the kernel drops the mount, or somebody asks to stop.
pub(super) fn serve<V: Vfs>(adapter: &Adapter<V>, crew: &Crew, device: &OwnedFd) -> io::Result<()>
where
    V::File: AsFd,
{
    // The kernel's pages of zeroes, until they are used.
    let mut message = vec![0; HEAD_MAX + MOVE_MAX as usize];
    let mut room = vec![0; OUT_HEADER + MOVE_MAX as usize];
    while !crew.is_stopping() {
        let length = match rustix::io::read(device, &mut message[..]) {
            // Interrupted before it could be read, or called off.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
            // The mount has ended. The second while that is being done, if there was a request left that nobody waits for.
            Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(()),
            read => read?,
        };
        let Some((length, broken)) = answer(adapter, &message[..length], &mut room)? else { continue };
        match rustix::io::write(device, &room[..length]) {
            // Nobody waits for it any more; or the mount is gone, as the next request will tell.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(errno.into()),
        }
        if broken {
            return Err(io::Error::other("a request could not be answered"));
        }
    }
    Ok(())
}

//! Doors to readers of what the kernel and the other end of a socket say, for those who feed them hostile bytes (`fuzz/`). No part of the
//! interface.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wink_fs::vfs::Vfs;

use super::control::Peer;

/// One mount of a table: device number, directory of its file system, where it is, and the user if it is one of wink's.
pub type Mounted = (u64, PathBuf, PathBuf, Option<u32>);

/// What a request of the kernel is answered with: the whole message, as it would be written to the device.
pub fn request<V: Vfs>(vfs: &Arc<V>, message: &[u8]) -> Option<Vec<u8>>
where
    V::File: AsFd,
{
    super::fuse::answer_one(vfs, message)
}

/// As `/proc/PID/mountinfo` is read.
pub fn mount_table(table: &[u8]) -> Vec<Mounted> {
    super::mounts::lines(table).into_iter().map(|line| (line.dev, line.root, line.dir, line.wink)).collect()
}

/// The device number in a line of `/proc/PID/maps`.
pub fn mapped_device(line: &[u8]) -> Option<u64> {
    super::mount_users::mapped_device(line)
}

/// A field of `/proc/PID/stat`, counted behind the name.
pub fn stat_field(stat: &[u8], number: usize) -> Option<String> {
    super::survivors::field_of(stat, number)
}

/// The messages in what the other end of the control socket sent before it hung up, and how the last one went wrong, if it did.
pub fn messages(sent: &[u8]) -> io::Result<(Vec<Vec<u8>>, Option<io::ErrorKind>)> {
    let (ours, theirs) = Peer::pair()?;
    let mut messages = Vec::new();
    let failed = std::thread::scope(|scope| {
        // More than a socket holds may have been sent.
        scope.spawn(move || theirs.send_raw(sent));
        loop {
            match ours.receive(Some(Duration::from_secs(60))) {
                Ok(Some((message, _))) => messages.push(message),
                Ok(None) => return None,
                // Hung up here: whoever still sends must not wait.
                Err(error) => {
                    drop(ours);
                    return Some(error.kind());
                }
            }
        }
    });
    Ok((messages, failed))
}

//! Between the kernel's words and the filesystem's, and putting an answer together.

use std::time::Duration;

use rustix::io::Errno;
use wink_fs::attr::{Attr, Kind, Time};
use wink_fs::backing::{Space, XattrMode};
use wink_fs::status::Status;
use wink_fs::vfs::{Entry, ListItem, OpenHow};
use zerocopy::{FromZeros, IntoBytes};

use super::wire::{self, AttrOut, CreateOut, Dirent, EntryOut, GetxattrOut, LseekOut, OpenOut, StatfsOut, WriteOut};
use crate::errno::to_errno;

/// How long the kernel keeps what may change behind its back.
const BRIEF: Duration = Duration::from_secs(1);
/// How long it keeps what only the view changes: longer than any task runs.
const LASTING: Duration = Duration::from_secs(30 * 24 * 3600);
/// The type bits of a mode (`inode(7)`).
const TYPE_BITS: u32 = libc::S_IFMT;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// What a request is answered with, if it succeeds.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing at all: the kernel does not wait.
    Silence,
    /// That it is done.
    Done,
    /// A node.
    Entry(EntryOut),
    /// Attributes.
    Attr(AttrOut),
    /// A node, and a handle of it.
    Created(CreateOut),
    /// A handle.
    Opened(OpenOut),
    /// How much was written.
    Written(WriteOut),
    /// Size and room.
    Space(StatfsOut),
    /// A place in a file.
    Offset(LseekOut),
    /// How long a value is.
    Length(GetxattrOut),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Answer {
    /// Writes it to the start of `room`; returns its length.
    pub fn write(&self, room: &mut [u8]) -> Result<usize, Errno> {
        let bytes = match self {
            Answer::Silence | Answer::Done => &[],
            Answer::Entry(out) => out.as_bytes(),
            Answer::Attr(out) => out.as_bytes(),
            Answer::Created(out) => out.as_bytes(),
            Answer::Opened(out) => out.as_bytes(),
            Answer::Written(out) => out.as_bytes(),
            Answer::Space(out) => out.as_bytes(),
            Answer::Offset(out) => out.as_bytes(),
            Answer::Length(out) => out.as_bytes(),
            Answer::Bytes(bytes) => bytes,
        };
        room.get_mut(..bytes.len()).ok_or(Errno::RANGE)?.copy_from_slice(bytes);
        Ok(bytes.len())
    }

    /// A node that was found or made.
    pub fn entry(entry: &Entry) -> Answer {
        Answer::Entry(entry_out(entry))
    }

    /// That a name stands for nothing, which the kernel may remember.
    pub fn nothing(lasting: bool) -> Answer {
        let mut out = EntryOut::new_zeroed();
        (out.entry_valid, out.attr_valid) = (keep(lasting), keep(lasting));
        Answer::Entry(out)
    }

    /// Attributes.
    pub fn attr(entry: &Entry) -> Answer {
        let attr = attr_out(&entry.attr, entry.id.0);
        Answer::Attr(AttrOut { attr_valid: keep(entry.lasting), attr_valid_nsec: 0, dummy: 0, attr })
    }

    /// A file that was made and opened.
    pub fn created(entry: &Entry, open: OpenOut) -> Answer {
        Answer::Created(CreateOut { entry: entry_out(entry), open })
    }

    /// How much was written or copied.
    pub fn written(size: u64) -> Answer {
        Answer::Written(WriteOut { size: u32::try_from(size).unwrap_or(u32::MAX), padding: 0 })
    }

    /// Size and room.
    pub fn space(space: &Space) -> Answer {
        Answer::Space(StatfsOut {
            blocks: space.blocks,
            bfree: space.blocks_free,
            bavail: space.blocks_available,
            files: space.files,
            ffree: space.files_free,
            bsize: space.block_size,
            namelen: space.name_max,
            frsize: space.fragment_size,
            padding: 0,
            spare: [0; 6],
        })
    }

    /// A value, or how long it is if no room was offered.
    pub fn value(bytes: Vec<u8>, room: u32) -> Result<Answer, Errno> {
        match u32::try_from(bytes.len()) {
            Ok(size) if room == 0 => Ok(Answer::Length(GetxattrOut { size, padding: 0 })),
            Ok(size) if size <= room => Ok(Answer::Bytes(bytes)),
            _ => Err(Errno::RANGE),
        }
    }
}

/// The errno of a failure.
pub(super) fn errno(status: Status) -> Errno {
    Errno::from_raw_os_error(to_errno(status))
}

fn keep(lasting: bool) -> u64 {
    if lasting { LASTING } else { BRIEF }.as_secs()
}

fn entry_out(entry: &Entry) -> EntryOut {
    EntryOut {
        nodeid: entry.id.0,
        generation: 0,
        entry_valid: keep(entry.lasting),
        attr_valid: keep(entry.lasting),
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr: attr_out(&entry.attr, entry.id.0),
    }
}

fn attr_out(attr: &Attr, ino: u64) -> wire::Attr {
    let (atime, mtime, ctime) = (parts(attr.atime), parts(attr.mtime), parts(attr.ctime));
    wire::Attr {
        ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: atime.0,
        mtime: mtime.0,
        ctime: ctime.0,
        atimensec: atime.1,
        mtimensec: mtime.1,
        ctimensec: ctime.1,
        mode: type_bits(attr.kind) | attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

/// Seconds, which may be negative, and nanoseconds, which may not.
fn parts(time: Time) -> (i64, u32) {
    (time.0.div_euclid(NANOS_PER_SECOND), time.0.rem_euclid(NANOS_PER_SECOND) as u32)
}

/// A time of a request.
pub(super) fn time(seconds: i64, nanos: u32) -> Time {
    Time(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos.into()))
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Dir => libc::S_IFDIR,
        Kind::Link => libc::S_IFLNK,
        Kind::Pipe => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}

/// What `mknod(2)` is to make.
pub(super) fn kind_of_mode(mode: u32) -> Result<Kind, Status> {
    Ok(match mode & TYPE_BITS {
        0 | libc::S_IFREG => Kind::File,
        libc::S_IFIFO => Kind::Pipe,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice,
        libc::S_IFBLK => Kind::BlockDevice,
        _ => return Err(Status::Invalid),
    })
}

/// How `open(2)` was called.
pub(super) fn open_how(flags: u32) -> OpenHow {
    let flags = flags.cast_signed();
    let access = flags & libc::O_ACCMODE;
    OpenHow { read: access != libc::O_WRONLY, write: access != libc::O_RDONLY, truncate: flags & libc::O_TRUNC != 0 }
}

/// The mode of `setxattr(2)`.
pub(super) fn xattr_mode(flags: u32) -> Result<XattrMode, Status> {
    match flags.cast_signed() {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Status::Invalid),
    }
}

/// A name of a listing, and its place there, by which reading is gone on with.
#[derive(Debug)]
pub(super) struct Placed {
    pub item: ListItem,
    pub place: u64,
}

/// Writes as many names as fit of those behind `place`; returns how many bytes. Places rise.
pub(super) fn write_names(items: &[Placed], place: u64, room: &mut [u8]) -> usize {
    let mut used = 0;
    for Placed { item, place } in &items[items.partition_point(|one| one.place <= place)..] {
        let bare = size_of::<Dirent>() + item.name.len();
        let Some(record) = room.get_mut(used..used + bare.next_multiple_of(8)) else { break };
        let head =
            Dirent { ino: item.ino, off: *place, namelen: item.name.len() as u32, kind: type_bits(item.kind) >> 12 };
        record[..size_of::<Dirent>()].copy_from_slice(head.as_bytes());
        record[size_of::<Dirent>()..bare].copy_from_slice(&item.name);
        record[bare..].fill(0);
        used += record.len();
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_have_positive_nanoseconds() {
        for nanos in [0, 1, -1, 1_500_000_000, -1_500_000_000, i64::from(i32::MIN) * NANOS_PER_SECOND] {
            let (seconds, part) = parts(Time(nanos));
            assert_eq!(time(seconds, part), Time(nanos));
            assert!(part < 1_000_000_000);
        }
        assert_eq!(parts(Time(-1)), (-1, 999_999_999));
    }

    #[test]
    fn names_are_written_whole_or_not_at_all() {
        let item =
            |name: &[u8], place| Placed { item: ListItem { name: name.to_vec(), kind: Kind::Dir, ino: 9 }, place };
        let items = [item(b".", 1), item(b"12345678", 2), item(b"123456789", 3)];
        let mut room = [0xff; 100];
        assert_eq!(write_names(&items, 0, &mut room), 32 + 32);
        let (length, kind) = (1u32.to_ne_bytes(), 4u32.to_ne_bytes());
        assert_eq!((&room[24..32], &room[16..24]), (&b".\0\0\0\0\0\0\0"[..], &[length, kind].concat()[..]));
        assert_eq!(room[64], 0xff, "nothing is written behind");
        assert_eq!(write_names(&items, 2, &mut room), 40);
        assert_eq!((&room[8..16], room[32]), (&3u64.to_ne_bytes()[..], b'9'));
        assert_eq!((write_names(&items, 3, &mut room), write_names(&items, 0, &mut room[..31])), (0, 0));
    }

    #[test]
    fn values_fit_or_say_how_long_they_are() {
        let written = |room| Answer::value(b"abc".to_vec(), room).and_then(|answer| answer.write(&mut [0; 8]));
        assert_eq!((written(0), written(3), written(2)), (Ok(8), Ok(3), Err(Errno::RANGE)));
        assert_eq!(Answer::Bytes(vec![0; 9]).write(&mut [0; 8]), Err(Errno::RANGE));
    }
}

//! Between the kernel's words and the filesystem's.

use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileType, FopenFlags, Generation, INodeNo, OpenAccMode, OpenFlags, ReplyAttr, ReplyEmpty,
    ReplyEntry, ReplyXattr, Request, TimeOrNow,
};
use wink_fs::attr::{Attr, Kind, Time};
use wink_fs::backing::XattrMode;
use wink_fs::status::Status;
use wink_fs::vfs::{Caller, Entry, NodeId, OpenHow};

use crate::errno::to_errno;

/// How long the kernel keeps what may change behind its back.
const BRIEF: Duration = Duration::from_secs(1);
/// How long it keeps what only the view changes: longer than any task runs.
const LASTING: Duration = Duration::from_secs(30 * 24 * 3600);
/// The type bits of a mode (`inode(7)`).
const TYPE_BITS: u32 = libc::S_IFMT;

pub(super) fn errno(status: Status) -> Errno {
    Errno::from_i32(to_errno(status))
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

pub(super) fn keep(lasting: bool) -> &'static Duration {
    if lasting { &LASTING } else { &BRIEF }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Link => FileType::Symlink,
        Kind::Pipe => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

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

pub(super) fn file_attr(attr: &Attr, id: NodeId) -> FileAttr {
    FileAttr {
        ino: INodeNo(id.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn time(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::SpecificTime(time) => time.into(),
        TimeOrNow::Now => Time::now(),
    }
}

pub(super) fn open_how(flags: i32) -> OpenHow {
    let access = OpenFlags(flags).acc_mode();
    OpenHow {
        read: access != OpenAccMode::O_WRONLY,
        write: access != OpenAccMode::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
    }
}

pub(super) fn open_flags(keep_pages: bool) -> FopenFlags {
    let flags = FopenFlags::FOPEN_NOFLUSH;
    if keep_pages { flags | FopenFlags::FOPEN_KEEP_CACHE } else { flags }
}

pub(super) fn reply_entry(result: Result<Entry, Status>, reply: ReplyEntry) {
    match result {
        Ok(entry) => reply.entry(keep(entry.lasting), &file_attr(&entry.attr, entry.id), Generation(0)),
        Err(status) => reply.error(errno(status)),
    }
}

pub(super) fn reply_attr(result: Result<Entry, Status>, reply: ReplyAttr) {
    match result {
        Ok(entry) => reply.attr(keep(entry.lasting), &file_attr(&entry.attr, entry.id)),
        Err(status) => reply.error(errno(status)),
    }
}

pub(super) fn reply_empty(result: Result<(), Status>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(status) => reply.error(errno(status)),
    }
}

/// The mode of `setxattr(2)`.
pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, Status> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Status::Invalid),
    }
}

/// Answers with bytes, or with how many there are if no room was offered.
pub(super) fn reply_xattr(bytes: &[u8], room: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if room == 0 => reply.size(length),
        Ok(length) if length <= room => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

/// What a lookup of nothing answers: a node number of 0 and no attributes.
pub(super) static NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
    flags: 0,
};

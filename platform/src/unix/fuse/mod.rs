//! The FUSE adapter: decode a request, make one call, encode the answer. Nothing is decided here.
//!
//! How long the kernel may keep an answer follows from the answer itself (`lasting`): inside a task's view nobody but the view changes
//! anything, so it may keep names, absences and attributes for good; outside the workspace others may, so it asks again after a
//! second. Listings come without attributes (no readdirplus): an attribute handed out unasked would hide a lookup, and a
//! lookup is what tells that a file was asked for.

mod encode;
mod lent;
mod serving;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use wink_fs::attr::SetAttr;
use wink_fs::backing::{RenameMode, Seek, Want};
use wink_fs::status::Status;
use wink_fs::vfs::{ListItem, NodeId, Vfs};

use encode::{
    NOTHING, caller, errno, file_attr, file_type, keep, kind_of_mode, open_flags, open_how, reply_attr, reply_empty,
    reply_entry, reply_xattr, time, xattr_mode,
};
use lent::{ASKED, Lent};
pub use serving::{Forgetter, Serve, Serving, serve};

/// Requests of one kind (readahead, release) that may wait at once; the default of 12 is meant for slow networks.
const BACKGROUND_MAX: u16 = 64;
struct Adapter<V> {
    vfs: Arc<V>,
    working_tree: bool,
    listings: Mutex<HashMap<u64, Listing>>,
    next_listing: AtomicU64,
    lent: Lent,
}

/// An open directory: the names as they were when it was read from the start.
type Listing = Option<Arc<Vec<ListItem>>>;

impl<V: Vfs> Adapter<V>
where
    V::File: AsFd,
{
    fn new(vfs: Arc<V>, working_tree: bool) -> Adapter<V> {
        let (listings, next_listing) = (Mutex::default(), AtomicU64::new(1));
        Adapter { vfs, working_tree, listings, next_listing, lent: Lent::default() }
    }

    /// The errno of a failed request for extended attributes. A task view has none at all: after ENOSYS the kernel never asks
    /// again, which spares one request before each write. A working tree has those of the tree beneath, and that may refuse
    /// one kind of them only.
    fn xattr_errno(&self, status: Status) -> Errno {
        if status == Status::Unsupported && !self.working_tree { Errno::ENOSYS } else { errno(status) }
    }

    fn drop_privilege_bits(&self, id: NodeId, drops: bool) -> Result<(), Status> {
        if drops { self.vfs.drop_privilege_bits(id) } else { Ok(()) }
    }

    /// Whether a change of bytes takes privilege bits away, for requests that do not say so themselves: a kernel that leaves the
    /// bits of written files to us leaves these to us as well.
    fn drops_bits(&self, request: &Request) -> bool {
        self.working_tree && request.uid() != 0
    }

    fn reply_changed_xattr(&self, result: Result<(), Status>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(status) => reply.error(self.xattr_errno(status)),
        }
    }

    fn listing(
        &self,
        request: &Request,
        id: INodeNo,
        handle: FileHandle,
        fresh: bool,
    ) -> Result<Arc<Vec<ListItem>>, Status> {
        if !fresh && let Some(Some(items)) = self.listings.lock().get(&handle.0) {
            return Ok(items.clone());
        }
        let items = Arc::new(self.vfs.list(caller(request), NodeId(id.0))?.items);
        self.listings.lock().insert(handle.0, Some(items.clone()));
        Ok(items)
    }
}

impl<V: Vfs> Filesystem for Adapter<V>
where
    V::File: AsFd,
{
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_CACHE_SYMLINKS | InitFlags::FUSE_ASYNC_DIO;
        if self.working_tree {
            // Else the kernel asks for the attribute `security.capability` before every write, not only before the first after it has
            // asked for the others.
            wanted |= InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        } else {
            // Not for a working tree: opened for reading, a program that is running would be cut before the kernel refuses that.
            wanted |= InitFlags::FUSE_ATOMIC_O_TRUNC;
        }
        // Each is an economy, none a need: a kernel that lacks one works the longer way.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_background(BACKGROUND_MAX);
        if self.working_tree {
            self.lent.offer(config);
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.vfs.lookup(caller(request), NodeId(parent.0), name.as_bytes()) {
            Ok(looked) => match looked.entry {
                Some(entry) => reply_entry(Ok(entry), reply),
                // Node 0: nothing there, and the kernel may remember that.
                None => reply.entry(keep(looked.lasting), &NOTHING, Generation(0)),
            },
            Err(status) => reply.error(errno(status)),
        }
    }

    fn forget(&self, _request: &Request, id: INodeNo, count: u64) {
        self.vfs.forget(NodeId(id.0), count);
    }

    fn getattr(&self, _request: &Request, id: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(self.vfs.attr(NodeId(id.0)), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        id: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time),
            mtime: mtime.map(time),
        };
        let id = NodeId(id.0);
        match if change.size.is_some() { self.lent.must_part(&*self.vfs, id) } else { Ok(false) } {
            Ok(false) => reply_attr(self.vfs.set_attr(caller(request), id, &change), reply),
            Ok(true) => reply.error(errno(Status::Stale)),
            Err(status) => reply.error(errno(status)),
        }
    }

    fn readlink(&self, _request: &Request, id: INodeNo, reply: ReplyData) {
        match self.vfs.read_link(NodeId(id.0)) {
            Ok(target) => reply.data(&target),
            Err(status) => reply.error(errno(status)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = kind_of_mode(mode).and_then(|kind| {
            let mode = mode & 0o7777 & !umask;
            self.vfs.make_node(caller(request), NodeId(parent.0), name.as_bytes(), kind, mode, rdev.into())
        });
        reply_entry(made, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mode = mode & 0o7777 & !umask;
        reply_entry(self.vfs.make_dir(caller(request), NodeId(parent.0), name.as_bytes(), mode), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.vfs.remove_file(caller(request), NodeId(parent.0), name.as_bytes()), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.vfs.remove_dir(caller(request), NodeId(parent.0), name.as_bytes()), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        reply_entry(self.vfs.make_link(caller(request), NodeId(parent.0), name.as_bytes(), target), reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(errno(Status::Invalid));
        };
        let (name, to_name) = (name.as_bytes(), to_name.as_bytes());
        reply_empty(
            self.vfs.rename(caller(request), NodeId(parent.0), name, NodeId(to_parent.0), to_name, mode),
            reply,
        );
    }

    fn link(&self, request: &Request, id: INodeNo, to_parent: INodeNo, to_name: &OsStr, reply: ReplyEntry) {
        reply_entry(self.vfs.hard_link(caller(request), NodeId(id.0), NodeId(to_parent.0), to_name.as_bytes()), reply);
    }

    fn open(&self, request: &Request, id: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (id, how) = (NodeId(id.0), open_how(flags.0));
        self.lent.open(&*self.vfs, id, how, reply, || self.vfs.open(caller(request), id, how));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = mode & 0o7777 & !umask;
        match self.vfs.create(caller(request), NodeId(parent.0), name.as_bytes(), mode, open_how(flags)) {
            Ok((entry, keep_pages)) => reply.created(
                keep(entry.lasting),
                &file_attr(&entry.attr, entry.id),
                Generation(0),
                ASKED,
                open_flags(keep_pages),
            ),
            Err(status) => reply.error(errno(status)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.vfs.read(NodeId(id.0), offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(status) => reply.error(errno(status)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let id = NodeId(id.0);
        let drops = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.drop_privilege_bits(id, drops).and_then(|()| self.vfs.write(id, offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(status) => reply.error(errno(status)),
        }
    }

    fn flush(&self, _request: &Request, _id: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        id: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.lent.release(NodeId(id.0), handle);
        self.vfs.release(NodeId(id.0));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, id: INodeNo, _handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        reply_empty(self.vfs.sync(NodeId(id.0), data_only), reply);
    }

    fn opendir(&self, request: &Request, id: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let want = Want { read: true, write: false, execute: false };
        match self.vfs.permits(caller(request), NodeId(id.0), want) {
            Ok(()) => {
                let handle = self.next_listing.fetch_add(1, Ordering::Relaxed);
                self.listings.lock().insert(handle, None);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(status) => reply.error(errno(status)),
        }
    }

    fn readdir(&self, request: &Request, id: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.listing(request, id, handle, offset == 0) {
            Ok(items) => {
                for (index, item) in items.iter().enumerate().skip(offset as usize) {
                    let name = OsStr::from_bytes(&item.name);
                    if reply.add(INodeNo(item.ino), index as u64 + 1, file_type(item.kind), name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(status) => reply.error(errno(status)),
        }
    }

    fn releasedir(&self, _request: &Request, _id: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, id: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        reply_empty(self.vfs.sync_dir(NodeId(id.0)), reply);
    }

    fn getxattr(&self, _request: &Request, id: INodeNo, key: &OsStr, room: u32, reply: ReplyXattr) {
        match self.vfs.get_xattr(NodeId(id.0), key.as_bytes()) {
            Ok(value) => reply_xattr(&value, room, reply),
            Err(status) => reply.error(self.xattr_errno(status)),
        }
    }

    fn listxattr(&self, _request: &Request, id: INodeNo, room: u32, reply: ReplyXattr) {
        match self.vfs.list_xattrs(NodeId(id.0)) {
            Ok(keys) => {
                let list: Vec<u8> = keys.into_iter().flat_map(|key| key.into_iter().chain([0])).collect();
                reply_xattr(&list, room, reply);
            }
            Err(status) => reply.error(self.xattr_errno(status)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        id: INodeNo,
        key: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let set = xattr_mode(flags).and_then(|mode| self.vfs.set_xattr(NodeId(id.0), key.as_bytes(), value, mode));
        self.reply_changed_xattr(set, reply);
    }

    fn removexattr(&self, _request: &Request, id: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        self.reply_changed_xattr(self.vfs.remove_xattr(NodeId(id.0), key.as_bytes()), reply);
    }

    fn statfs(&self, _request: &Request, id: INodeNo, reply: ReplyStatfs) {
        match self.vfs.space(NodeId(id.0)) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.blocks_free,
                space.blocks_available,
                space.files,
                space.files_free,
                space.block_size,
                space.name_max,
                space.fragment_size,
            ),
            Err(status) => reply.error(errno(status)),
        }
    }

    fn access(&self, request: &Request, id: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let want = Want {
            read: mask.contains(AccessFlags::R_OK),
            write: mask.contains(AccessFlags::W_OK),
            execute: mask.contains(AccessFlags::X_OK),
        };
        reply_empty(self.vfs.permits(caller(request), NodeId(id.0), want), reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let id = NodeId(id.0);
        let dropped = self.drop_privilege_bits(id, self.drops_bits(request));
        reply_empty(dropped.and_then(|()| self.vfs.allocate(id, offset, length, mode)), reply);
    }

    fn lseek(&self, _request: &Request, id: INodeNo, _handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = match (u64::try_from(offset), whence) {
            (Err(_), _) => Err(Status::NoData),
            (Ok(offset), libc::SEEK_DATA) => self.vfs.seek(NodeId(id.0), offset, Seek::Data),
            (Ok(offset), libc::SEEK_HOLE) => self.vfs.seek(NodeId(id.0), offset, Seek::Hole),
            _ => Err(Status::Invalid),
        };
        match found {
            Ok(offset) => reply.offset(offset as i64),
            Err(status) => reply.error(errno(status)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits; a caller that asked for more asks again.
        let length = length.min(1 << 30);
        let (from, to) = (NodeId(from.0), NodeId(to.0));
        let dropped = self.drop_privilege_bits(to, self.drops_bits(request));
        match dropped.and_then(|()| self.vfs.copy_range(from, from_offset, to, to_offset, length)) {
            Ok(copied) => reply.written(copied as u32),
            Err(status) => reply.error(errno(status)),
        }
    }
}

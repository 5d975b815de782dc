//! What each request means: its arguments, the one call, the kind of its answer.

use std::os::fd::AsFd;

use rustix::io::Errno;
use wink_fs::attr::{SetAttr, Time};
use wink_fs::backing::{RenameMode, Seek, Want};
use wink_fs::status::Status;
use wink_fs::vfs::{NodeId, Vfs};

use super::adapter::Adapter;
use super::answer::{Answer, errno, kind_of_mode, open_how, time, xattr_mode};
use super::lent::asked;
use super::request::Request;
use super::wire::{
    AccessIn, CopyFileRangeIn, CreateIn, FSYNC_DATA, FallocateIn, ForgetIn, FsyncIn, GetxattrIn, LinkIn, LseekIn,
    LseekOut, MkdirIn, MknodIn, Opcode, OpenIn, OpenOut, ReleaseIn, Rename2In, RenameIn, SetattrIn, SetxattrIn,
    WRITE_KILL_SUIDGID, WriteIn, fattr,
};

type Answered = Result<Answer, Errno>;

/// The answer to a copy has 32 bits; a caller that asked for more asks again.
const COPY_MAX: u64 = 1 << 30;

fn done(result: Result<(), Status>) -> Answered {
    result.map(|()| Answer::Done).map_err(errno)
}

impl<V: Vfs> Adapter<V>
where
    V::File: AsFd,
{
    /// Does what is asked, but for what [`Adapter::serve`] does itself.
    pub(super) fn answer(&self, opcode: Option<Opcode>, request: &Request<'_>) -> Answered {
        // What is not answered is not asked again: locks are the kernel's own, and closing is no news.
        let Some(opcode) = opcode else { return Err(Errno::NOSYS) };
        match opcode {
            Opcode::Lookup => self.lookup(request),
            Opcode::Forget => self.forget(request),
            Opcode::BatchForget => self.forget_many(request),
            Opcode::Getattr => self.vfs.attr(request.node()).map(|entry| Answer::attr(&entry)).map_err(errno),
            Opcode::Setattr => self.set_attr(request),
            Opcode::Readlink => self.vfs.read_link(request.node()).map(Answer::Bytes).map_err(errno),
            Opcode::Mknod | Opcode::Mkdir | Opcode::Symlink | Opcode::Link => self.make(opcode, request),
            Opcode::Unlink => done(self.vfs.remove_file(request.caller(), request.node(), request.name()?)),
            Opcode::Rmdir => done(self.vfs.remove_dir(request.caller(), request.node(), request.name()?)),
            Opcode::Rename | Opcode::Rename2 => self.rename(opcode, request),
            Opcode::Open => self.open(request),
            Opcode::Create => self.create(request),
            Opcode::Release => self.release(request),
            Opcode::Write => self.write(request),
            Opcode::Fsync => {
                let args: FsyncIn = request.args()?;
                done(self.vfs.sync(request.node(), args.fsync_flags & FSYNC_DATA != 0))
            }
            Opcode::Fsyncdir => done(self.vfs.sync_dir(request.node())),
            Opcode::Opendir => self.open_dir(request),
            Opcode::Releasedir => {
                self.listings.release(request.args::<ReleaseIn>()?.fh);
                Ok(Answer::Done)
            }
            Opcode::Getxattr | Opcode::Listxattr => self.get_xattr(opcode, request),
            Opcode::Setxattr | Opcode::Removexattr => self.change_xattr(opcode, request),
            Opcode::Statfs => self.vfs.space(request.node()).map(|space| Answer::space(&space)).map_err(errno),
            Opcode::Access => {
                let mask = request.args::<AccessIn>()?.mask.cast_signed();
                let want = Want {
                    read: mask & libc::R_OK != 0,
                    write: mask & libc::W_OK != 0,
                    execute: mask & libc::X_OK != 0,
                };
                done(self.vfs.permits(request.caller(), request.node(), want))
            }
            Opcode::Fallocate => self.allocate(request),
            Opcode::Lseek => self.seek(request),
            Opcode::CopyFileRange => self.copy_range(request),
            Opcode::Destroy => Ok(Answer::Done),
            // Whatever waits is answered soon.
            Opcode::Interrupt | Opcode::Flush => Err(Errno::NOSYS),
            Opcode::Init | Opcode::Read | Opcode::Readdir => Err(Errno::PROTO),
        }
    }

    fn lookup(&self, request: &Request<'_>) -> Answered {
        let looked = self.vfs.lookup(request.caller(), request.node(), request.name()?).map_err(errno)?;
        Ok(looked.entry.map_or(Answer::nothing(looked.lasting && self.lasting_absence), |entry| Answer::entry(&entry)))
    }

    fn forget(&self, request: &Request<'_>) -> Answered {
        if let Ok(ForgetIn { nlookup }) = request.args() {
            self.vfs.forget(request.node(), nlookup);
        }
        Ok(Answer::Silence)
    }

    fn forget_many(&self, request: &Request<'_>) -> Answered {
        request.forgets().for_each(|one| self.vfs.forget(NodeId(one.nodeid), one.nlookup));
        Ok(Answer::Silence)
    }

    fn set_attr(&self, request: &Request<'_>) -> Answered {
        let args: SetattrIn = request.args()?;
        let has = |bit: u32| args.valid & bit != 0;
        let changed =
            |bit, now, (seconds, nanos)| has(bit).then(|| if has(now) { Time::now() } else { time(seconds, nanos) });
        let change = SetAttr {
            mode: has(fattr::MODE).then_some(args.mode & 0o7777),
            uid: has(fattr::UID).then_some(args.uid),
            gid: has(fattr::GID).then_some(args.gid),
            size: has(fattr::SIZE).then_some(args.size),
            atime: changed(fattr::ATIME, fattr::ATIME_NOW, (args.atime, args.atimensec)),
            mtime: changed(fattr::MTIME, fattr::MTIME_NOW, (args.mtime, args.mtimensec)),
        };
        let id = request.node();
        if change.size.is_some() && self.lent.must_part(&*self.vfs, id).map_err(errno)? {
            return Err(errno(Status::Stale));
        }
        self.vfs.set_attr(request.caller(), id, &change).map(|entry| Answer::attr(&entry)).map_err(errno)
    }

    fn make(&self, opcode: Opcode, request: &Request<'_>) -> Answered {
        let (caller, parent) = (request.caller(), request.node());
        let made = match opcode {
            Opcode::Mknod => {
                let args: MknodIn = request.args()?;
                let mode = args.mode & 0o7777 & !args.umask;
                let name = request.name()?;
                kind_of_mode(args.mode)
                    .and_then(|kind| self.vfs.make_node(caller, parent, name, kind, mode, args.rdev.into()))
            }
            Opcode::Mkdir => {
                let args: MkdirIn = request.args()?;
                self.vfs.make_dir(caller, parent, request.name()?, args.mode & 0o7777 & !args.umask)
            }
            Opcode::Symlink => {
                let (name, target) = request.names()?;
                self.vfs.make_link(caller, parent, name, target)
            }
            _ => {
                let LinkIn { oldnodeid } = request.args()?;
                self.vfs.hard_link(caller, NodeId(oldnodeid), parent, request.name()?)
            }
        };
        made.map(|entry| Answer::entry(&entry)).map_err(errno)
    }

    fn rename(&self, opcode: Opcode, request: &Request<'_>) -> Answered {
        let (to_parent, flags) = match opcode {
            Opcode::Rename => (request.args::<RenameIn>()?.newdir, 0),
            _ => {
                let args: Rename2In = request.args()?;
                (args.newdir, args.flags)
            }
        };
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(errno(Status::Invalid)),
        };
        let (name, to_name) = request.names()?;
        done(self.vfs.rename(request.caller(), request.node(), name, NodeId(to_parent), to_name, mode))
    }

    fn open(&self, request: &Request<'_>) -> Answered {
        let (id, how) = (request.node(), open_how(request.args::<OpenIn>()?.flags));
        self.lent.open(&*self.vfs, id, how, || self.vfs.open(request.caller(), id, how)).map(Answer::Opened)
    }

    fn create(&self, request: &Request<'_>) -> Answered {
        let args: CreateIn = request.args()?;
        let (mode, how) = (args.mode & 0o7777 & !args.umask, open_how(args.flags));
        let made = self.vfs.create(request.caller(), request.node(), request.name()?, mode, how);
        made.map(|(entry, keep_pages)| Answer::created(&entry, asked(keep_pages))).map_err(errno)
    }

    fn release(&self, request: &Request<'_>) -> Answered {
        self.lent.release(request.node(), request.args::<ReleaseIn>()?.fh);
        self.vfs.release(request.node());
        Ok(Answer::Done)
    }

    fn write(&self, request: &Request<'_>) -> Answered {
        let args: WriteIn = request.args()?;
        let (id, bytes) = (request.node(), request.data(args.size)?);
        let written = self
            .drop_privilege_bits(id, args.write_flags & WRITE_KILL_SUIDGID != 0)
            .and_then(|()| self.vfs.write(id, args.offset, bytes));
        written.map(|()| Answer::written(args.size.into())).map_err(errno)
    }

    fn open_dir(&self, request: &Request<'_>) -> Answered {
        if self.opens_itself {
            return Err(Errno::NOSYS);
        }
        let want = Want { read: true, write: false, execute: false };
        self.vfs.permits(request.caller(), request.node(), want).map_err(errno)?;
        Ok(Answer::Opened(OpenOut { fh: self.listings.open(), open_flags: 0, backing_id: 0 }))
    }

    fn get_xattr(&self, opcode: Opcode, request: &Request<'_>) -> Answered {
        let (id, room) = (request.node(), request.args::<GetxattrIn>()?.size);
        let value = if opcode == Opcode::Getxattr {
            self.vfs.get_xattr(id, request.name()?)
        } else {
            let keys = self.vfs.list_xattrs(id);
            keys.map(|keys| keys.into_iter().flat_map(|key| key.into_iter().chain([0])).collect())
        };
        Answer::value(value.map_err(|status| self.xattr_errno(status))?, room)
    }

    fn change_xattr(&self, opcode: Opcode, request: &Request<'_>) -> Answered {
        let id = request.node();
        let changed = if opcode == Opcode::Setxattr {
            let args: SetxattrIn = request.args()?;
            let (key, rest) = request.name_and_rest()?;
            let value = rest.get(..args.size as usize).ok_or(Errno::INVAL)?;
            xattr_mode(args.flags).and_then(|mode| self.vfs.set_xattr(id, key, value, mode))
        } else {
            self.vfs.remove_xattr(id, request.name()?)
        };
        changed.map(|()| Answer::Done).map_err(|status| self.xattr_errno(status))
    }

    /// The errno of a failed request for extended attributes. A task view has none at all: after ENOSYS the kernel never asks
    /// again, which spares one request before each write. A working tree has those of the tree beneath, and that may refuse
    /// one kind of them only.
    fn xattr_errno(&self, status: Status) -> Errno {
        if status == Status::Unsupported && !self.working_tree { Errno::NOSYS } else { errno(status) }
    }

    fn drop_privilege_bits(&self, id: NodeId, drops: bool) -> Result<(), Status> {
        if drops { self.vfs.drop_privilege_bits(id) } else { Ok(()) }
    }

    /// Whether a change of bytes takes privilege bits away, for requests that do not say so themselves: a kernel that leaves the
    /// bits of written files to us leaves these to us as well.
    fn drops_bits(&self, request: &Request<'_>) -> bool {
        self.working_tree && request.header.uid != 0
    }

    fn allocate(&self, request: &Request<'_>) -> Answered {
        let (id, args) = (request.node(), request.args::<FallocateIn>()?);
        let dropped = self.drop_privilege_bits(id, self.drops_bits(request));
        done(dropped.and_then(|()| self.vfs.allocate(id, args.offset, args.length, args.mode.cast_signed())))
    }

    fn seek(&self, request: &Request<'_>) -> Answered {
        let args: LseekIn = request.args()?;
        let found = match args.whence.cast_signed() {
            _ if args.offset > i64::MAX as u64 => Err(Status::NoData),
            libc::SEEK_DATA => self.vfs.seek(request.node(), args.offset, Seek::Data),
            libc::SEEK_HOLE => self.vfs.seek(request.node(), args.offset, Seek::Hole),
            _ => Err(Status::Invalid),
        };
        found.map(|offset| Answer::Offset(LseekOut { offset })).map_err(errno)
    }

    fn copy_range(&self, request: &Request<'_>) -> Answered {
        let args: CopyFileRangeIn = request.args()?;
        let (from, to) = (request.node(), NodeId(args.nodeid_out));
        let dropped = self.drop_privilege_bits(to, self.drops_bits(request));
        let copied =
            dropped.and_then(|()| self.vfs.copy_range(from, args.off_in, to, args.off_out, args.len.min(COPY_MAX)));
        copied.map(Answer::written).map_err(errno)
    }
}

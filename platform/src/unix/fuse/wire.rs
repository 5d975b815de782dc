//! The kernel's words: what is laid out how in requests and answers (`include/uapi/linux/fuse.h`, protocol 7.45). Nothing here acts.
//!
//! All numbers are of the machine's own byte order, all structures padded to eight bytes, none has a gap.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version spoken here; an older kernel speaks less.
pub const MAJOR: u32 = 7;
pub const MINOR: u32 = 45;
/// What every kernel with unprivileged mounts (Linux 4.18) speaks; before it some structures were shorter.
pub const MINOR_LEAST: u32 = 27;

/// Declares a structure of the interface.
macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind,)* }
    )*};
}

/// Declares the requests: number, and what the fixed part of its arguments is.
macro_rules! requests {
    ($($name:ident = $number:literal $fixed:ty;)*) => {
        /// What is asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Opcode { $($name = $number,)* }

        impl Opcode {
            /// `None` for what is not understood here.
            pub fn from_number(number: u32) -> Option<Opcode> {
                match number {
                    $($number => Some(Opcode::$name),)*
                    _ => None,
                }
            }

            /// How many bytes of arguments come before names and data.
            pub fn fixed_bytes(self) -> usize {
                match self {
                    $(Opcode::$name => size_of::<$fixed>(),)*
                }
            }
        }
    };
}

requests! {
    Lookup = 1 ();
    Forget = 2 ForgetIn;
    Getattr = 3 GetattrIn;
    Setattr = 4 SetattrIn;
    Readlink = 5 ();
    Symlink = 6 ();
    Mknod = 8 MknodIn;
    Mkdir = 9 MkdirIn;
    Unlink = 10 ();
    Rmdir = 11 ();
    Rename = 12 RenameIn;
    Link = 13 LinkIn;
    Open = 14 OpenIn;
    Read = 15 ReadIn;
    Write = 16 WriteIn;
    Statfs = 17 ();
    Release = 18 ReleaseIn;
    Fsync = 20 FsyncIn;
    Setxattr = 21 SetxattrIn;
    Getxattr = 22 GetxattrIn;
    Listxattr = 23 GetxattrIn;
    Removexattr = 24 ();
    Flush = 25 FlushIn;
    Init = 26 InitIn;
    Opendir = 27 OpenIn;
    Readdir = 28 ReadIn;
    Releasedir = 29 ReleaseIn;
    Fsyncdir = 30 FsyncIn;
    Access = 34 AccessIn;
    Create = 35 CreateIn;
    Interrupt = 36 InterruptIn;
    Destroy = 38 ();
    BatchForget = 42 BatchForgetIn;
    Fallocate = 43 FallocateIn;
    Rename2 = 45 Rename2In;
    Lseek = 46 LseekIn;
    CopyFileRange = 47 CopyFileRangeIn;
}

/// Before every answer.
pub const OUT_HEADER: usize = size_of::<OutHeader>();

layout! {
    InHeader {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        extensions: u16,
        padding: u16,
    }
    OutHeader {
        len: u32,
        error: i32,
        unique: u64,
    }

    InitIn {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    }
    /// Behind [`InitIn`] if [`init::EXT`] is among its flags.
    InitInMore {
        flags2: u32,
        unused: [u32; 11],
    }
    InitOut {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }

    Attr {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: i64,
        mtime: i64,
        ctime: i64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }
    EntryOut {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }
    AttrOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: Attr,
    }
    OpenOut {
        fh: u64,
        open_flags: u32,
        backing_id: i32,
    }
    /// To a request to create: what was made, and its handle.
    CreateOut {
        entry: EntryOut,
        open: OpenOut,
    }
    WriteOut {
        size: u32,
        padding: u32,
    }
    StatfsOut {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }
    GetxattrOut {
        size: u32,
        padding: u32,
    }
    LseekOut {
        offset: u64,
    }
    /// The name follows, filled up to eight bytes.
    Dirent {
        ino: u64,
        off: u64,
        namelen: u32,
        kind: u32,
    }

    ForgetIn {
        nlookup: u64,
    }
    /// So many [`ForgetOne`] follow.
    BatchForgetIn {
        count: u32,
        dummy: u32,
    }
    ForgetOne {
        nodeid: u64,
        nlookup: u64,
    }
    GetattrIn {
        flags: u32,
        dummy: u32,
        fh: u64,
    }
    SetattrIn {
        valid: u32,
        padding: u32,
        fh: u64,
        size: u64,
        lock_owner: u64,
        atime: i64,
        mtime: i64,
        ctime: i64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        unused4: u32,
        uid: u32,
        gid: u32,
        unused5: u32,
    }
    MknodIn {
        mode: u32,
        rdev: u32,
        umask: u32,
        padding: u32,
    }
    MkdirIn {
        mode: u32,
        umask: u32,
    }
    RenameIn {
        newdir: u64,
    }
    Rename2In {
        newdir: u64,
        flags: u32,
        padding: u32,
    }
    LinkIn {
        oldnodeid: u64,
    }
    OpenIn {
        flags: u32,
        open_flags: u32,
    }
    CreateIn {
        flags: u32,
        mode: u32,
        umask: u32,
        open_flags: u32,
    }
    ReleaseIn {
        fh: u64,
        flags: u32,
        release_flags: u32,
        lock_owner: u64,
    }
    FlushIn {
        fh: u64,
        unused: u32,
        padding: u32,
        lock_owner: u64,
    }
    ReadIn {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    WriteIn {
        fh: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    FsyncIn {
        fh: u64,
        fsync_flags: u32,
        padding: u32,
    }
    /// As it is where `FUSE_SETXATTR_EXT` was not asked for.
    SetxattrIn {
        size: u32,
        flags: u32,
    }
    GetxattrIn {
        size: u32,
        padding: u32,
    }
    AccessIn {
        mask: u32,
        padding: u32,
    }
    InterruptIn {
        unique: u64,
    }
    FallocateIn {
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
        padding: u32,
    }
    LseekIn {
        fh: u64,
        offset: u64,
        whence: u32,
        padding: u32,
    }
    CopyFileRangeIn {
        fh_in: u64,
        off_in: u64,
        nodeid_out: u64,
        fh_out: u64,
        off_out: u64,
        len: u64,
        flags: u64,
    }

    NotifyInvalInode {
        ino: u64,
        off: i64,
        len: i64,
    }
    /// The name follows, with a zero behind it.
    NotifyInvalEntry {
        parent: u64,
        namelen: u32,
        flags: u32,
    }
    BackingMap {
        fd: i32,
        flags: u32,
        padding: u64,
    }

    /// In a room of the ring: how much is behind the headers, and by what to answer.
    RingEntry {
        flags: u64,
        commit_id: u64,
        payload_size: u32,
        padding: u32,
        reserved: u64,
    }
    /// In a command of the ring.
    RingCommand {
        flags: u64,
        commit_id: u64,
        queue: u16,
        padding: [u8; 6],
    }
}

/// Bits of [`InitIn::flags`]; from 32 on of `flags2`.
pub mod init {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const EXT: u64 = 1 << 30;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const OVER_IO_URING: u64 = 1 << 41;
}

/// Bits of [`SetattrIn::valid`].
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// Bits of [`OpenOut::open_flags`].
pub mod fopen {
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PASSTHROUGH: u32 = 1 << 7;
}

/// Bit of [`FsyncIn::fsync_flags`]: the bytes alone.
pub const FSYNC_DATA: u32 = 1 << 0;
/// Bit of [`WriteIn::write_flags`]: privilege bits go.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// The ring: its commands, and what is where in a room's headers.
pub mod ring {
    pub const REGISTER: u32 = 1;
    pub const COMMIT_AND_FETCH: u32 = 2;
    /// Behind the head of a request or an answer.
    pub const FIXED_AT: usize = 128;
    /// Behind the arguments of fixed size.
    pub const ENTRY_AT: usize = 256;
}

/// In place of an error of an answer that nobody asked for.
pub mod notify {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    /// All names (minor version 44, Linux 6.16).
    pub const INC_EPOCH: i32 = 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        let sizes = [
            (size_of::<InHeader>(), 40),
            (size_of::<OutHeader>(), 16),
            (size_of::<InitIn>() + size_of::<InitInMore>(), 64),
            (size_of::<InitOut>(), 64),
            (size_of::<Attr>(), 88),
            (size_of::<EntryOut>(), 128),
            (size_of::<AttrOut>(), 104),
            (size_of::<CreateOut>(), 144),
            (size_of::<StatfsOut>(), 80),
            (size_of::<Dirent>(), 24),
            (size_of::<SetattrIn>(), 88),
            (size_of::<ReadIn>(), 40),
            (size_of::<WriteIn>(), 40),
            (size_of::<CopyFileRangeIn>(), 56),
            (size_of::<BackingMap>(), 16),
            (size_of::<RingEntry>(), 32),
            (size_of::<RingCommand>(), 24),
        ];
        for (number, (have, want)) in sizes.into_iter().enumerate() {
            assert_eq!(have, want, "structure {number}");
        }
    }

    #[test]
    fn every_opcode_is_found_by_its_number() {
        let known = (0..100).filter_map(|number| Some((number, Opcode::from_number(number)? as u32)));
        assert!(known.clone().all(|(number, found)| number == found));
        assert_eq!(known.count(), 37);
        assert_eq!((Opcode::Lookup.fixed_bytes(), Opcode::Setattr.fixed_bytes()), (0, 88));
    }
}

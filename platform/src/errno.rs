//! The one table between [`Status`] and `errno`. Both directions are generated from the same lines, so they cannot disagree;
//! a new `Status` without a line does not compile.

use std::io;

use wink_fs::status::Status;

/// `Status = errno to answer [| other errnos that mean the same]`.
macro_rules! table {
    ($($status:ident = $errno:ident $(| $alias:ident)*;)*) => {
        /// The errno with which a request that failed like this is answered.
        pub fn to_errno(status: Status) -> i32 {
            match status {
                $(Status::$status => libc::$errno,)*
            }
        }

        /// What an errno of the real tree means; one that says nothing about files is an input/output error.
        pub fn from_errno(errno: i32) -> Status {
            match errno {
                $(libc::$errno $(| libc::$alias)* => Status::$status,)*
                _ => Status::Io,
            }
        }
    };
}

table! {
    NotFound = ENOENT;
    Exists = EEXIST;
    NotDir = ENOTDIR;
    IsDir = EISDIR;
    NotEmpty = ENOTEMPTY;
    Access = EACCES;
    NotPermitted = EPERM;
    CrossDevice = EXDEV;
    Invalid = EINVAL;
    NameTooLong = ENAMETOOLONG;
    Loop = ELOOP;
    // ENOSYS is never answered: the kernel would stop asking for good. ENODEV comes from devices without a driver.
    Unsupported = EOPNOTSUPP | ENOSYS | ENOTTY | ENODEV;
    NoSpace = ENOSPC;
    Quota = EDQUOT;
    ReadOnly = EROFS;
    TooBig = EFBIG | EOVERFLOW;
    TooManyLinks = EMLINK;
    TooManyOpen = EMFILE | ENFILE;
    NoMemory = ENOMEM;
    Busy = EBUSY | EAGAIN;
    TextBusy = ETXTBSY;
    NoData = ENXIO;
    NoAttribute = ENODATA;
    Stale = ESTALE;
    Io = EIO;
}

/// [`from_errno`] of an error of the standard library; one that carries no errno goes by its kind.
pub fn from_io(error: &io::Error) -> Status {
    if let Some(errno) = error.raw_os_error() {
        return from_errno(errno);
    }
    match error.kind() {
        io::ErrorKind::NotFound => Status::NotFound,
        io::ErrorKind::AlreadyExists => Status::Exists,
        io::ErrorKind::PermissionDenied => Status::Access,
        io::ErrorKind::InvalidInput => Status::Invalid,
        io::ErrorKind::Unsupported => Status::Unsupported,
        io::ErrorKind::OutOfMemory => Status::NoMemory,
        _ => Status::Io,
    }
}

/// [`from_errno`] of an error of a direct system call.
pub(crate) fn from_rustix(error: rustix::io::Errno) -> Status {
    from_errno(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_the_round_trip() {
        let mut seen = 0;
        for errno in 1..200 {
            let status = from_errno(errno);
            if to_errno(status) == errno {
                seen += 1;
            }
            assert_eq!(from_errno(to_errno(status)), status, "errno {errno}");
        }
        assert_eq!(seen, 25, "one errno for each status");
    }

    #[test]
    fn unknown_errors_are_input_output_errors() {
        assert_eq!(from_errno(100_000), Status::Io);
        assert_eq!(from_io(&io::Error::other("no number")), Status::Io);
        assert_eq!(from_io(&io::Error::from_raw_os_error(libc::ENOSYS)), Status::Unsupported);
    }
}

//! The closed set of ways in which an operation of the filesystem can fail. Each platform maps it to its own numbers in one
//! place (`wink-platform`, `errno`).

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Status {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDir,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDir,
    /// The directory still holds names.
    #[error("directory not empty")]
    NotEmpty,
    /// Permission bits forbid it.
    #[error("permission denied")]
    Access,
    /// Only a privileged process may.
    #[error("operation not permitted")]
    NotPermitted,
    /// Between two trees that share no storage.
    #[error("cross-device link")]
    CrossDevice,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// A name is too long.
    #[error("file name too long")]
    NameTooLong,
    /// Too many symbolic links on the way.
    #[error("too many levels of symbolic links")]
    Loop,
    /// Not available here.
    #[error("operation not supported")]
    Unsupported,
    /// The device is full.
    #[error("no space left on device")]
    NoSpace,
    /// The user's share of the device is full.
    #[error("disk quota exceeded")]
    Quota,
    /// The file system is read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// Larger than a file may be.
    #[error("file too large")]
    TooBig,
    /// Too many links to one file.
    #[error("too many links")]
    TooManyLinks,
    /// Out of descriptors.
    #[error("too many open files")]
    TooManyOpen,
    /// Out of memory.
    #[error("out of memory")]
    NoMemory,
    /// In use.
    #[error("device or resource busy")]
    Busy,
    /// An executable that is running may not be written.
    #[error("text file busy")]
    TextBusy,
    /// No data or hole beyond that offset.
    #[error("no such device or address")]
    NoData,
    /// There is no extended attribute of that name.
    #[error("no data available")]
    NoAttribute,
    /// The node is gone.
    #[error("stale file handle")]
    Stale,
    /// The disk failed.
    #[error("input/output error")]
    Io,
}

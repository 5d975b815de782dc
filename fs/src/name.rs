//! One component of a path, validated at the door: never empty, `.`, `..`, no `/`, no NUL, at most 255 bytes.

use std::fmt;

use crate::status::Status;

/// The longest name in bytes: `NAME_MAX` of every file system wink serves.
pub const NAME_BYTES_MAX: usize = 255;

/// A valid name of a directory entry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks `bytes`; a name that is too long is told apart from one that can never exist.
    pub fn new(bytes: &[u8]) -> Result<Name, Status> {
        if bytes.len() > NAME_BYTES_MAX {
            return Err(Status::NameTooLong);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(Status::Invalid);
        }
        Ok(Name(bytes.into()))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

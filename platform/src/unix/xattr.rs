//! Extended attributes by directory handle and name, without following a symbolic link.
//!
//! The kernel's calls want a path: `/proc/self/fd/N` leads to exactly the directory of a descriptor, also an `O_PATH` one, and one
//! name more from there is looked up as `openat` would.

use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use rustix::fs::{getxattr, listxattr, removexattr, setxattr};
use rustix::io::{Errno, Result};
use wink_fs::backing::XattrMode;
use wink_fs::name::Name;

use super::real_file::magic_link;

/// Most values fit; asking for the size first would be a call more for each.
const USUAL_BYTES: usize = 256;
/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`: no value and no list is longer.
const LONGEST_BYTES: usize = 64 * 1024;

/// What the attributes belong to.
pub(crate) struct Bearer {
    path: Vec<u8>,
    /// Whether the path is a magic link, to be followed, rather than a name in a directory.
    magic: bool,
}

impl Bearer {
    /// `name` in `dir`, or `dir` itself. The descriptor must stay open as long as this is used.
    pub(crate) fn new(dir: impl AsFd, name: Option<&Name>) -> Bearer {
        let mut path = magic_link(dir).into_bytes();
        if let Some(name) = name {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        Bearer { path, magic: name.is_none() }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Vec<u8>> {
        let path = &*self.path;
        growing(|buffer| if self.magic { getxattr(path, key, buffer) } else { lgetxattr(path, key, buffer) })
    }

    pub(crate) fn list(&self) -> Result<Vec<Vec<u8>>> {
        let path = &*self.path;
        let names = growing(|buffer| if self.magic { listxattr(path, buffer) } else { llistxattr(path, buffer) })?;
        Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    pub(crate) fn set(&self, key: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let flags = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        let path = &*self.path;
        if self.magic { setxattr(path, key, value, flags) } else { lsetxattr(path, key, value, flags) }
    }

    pub(crate) fn remove(&self, key: &[u8]) -> Result<()> {
        if self.magic { removexattr(&*self.path, key) } else { lremovexattr(&*self.path, key) }
    }
}

/// Reads with a buffer of the usual size, then with the largest.
fn growing(read: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; USUAL_BYTES];
    let length = match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LONGEST_BYTES, 0);
            read(&mut buffer)?
        }
        read => read?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

//! Paths as records name them: relative to a symbolic root, so that a record made in one clone, by one user, on one machine
//! can hold in another.
//!
//! Invariant: the relative part is a sequence of names joined by `/`, none of them empty, `.` or `..`, no NUL anywhere. A decoder
//! that meets anything else refuses it ([`TreePath::new`]), so that no stored byte can name a place outside its root.

use std::fmt;

/// Where a relative path starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    /// The workspace.
    Workspace,
    /// The n-th directory above the workspace (1 is its parent). What a task finds beside its workspace moves with the
    /// workspace: another clone has other neighbours.
    Above(u16),
    /// The home directory of the user.
    Home,
    /// The root of the system.
    System,
}

/// A path below a symbolic root; the empty relative part is the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath {
    root: Root,
    relative: Box<[u8]>,
}

/// Bytes that are not a relative path of plain names.
#[derive(Debug, thiserror::Error)]
#[error("not a path below a root: {0:?}")]
pub struct NotATreePath(String);

impl TreePath {
    /// A path below `root`; refuses empty names, `.`, `..` and NUL.
    pub fn new(root: Root, relative: &[u8]) -> Result<TreePath, NotATreePath> {
        if is_relative(relative) {
            Ok(TreePath { root, relative: relative.into() })
        } else {
            Err(NotATreePath(String::from_utf8_lossy(relative).into_owned()))
        }
    }

    /// The symbolic root.
    pub fn root(&self) -> Root {
        self.root
    }

    /// The names below the root, joined by `/`.
    pub fn relative(&self) -> &[u8] {
        &self.relative
    }
}

/// Whether `relative` is a sequence of plain names joined by `/` (or empty).
pub fn is_relative(relative: &[u8]) -> bool {
    relative.is_empty()
        || (!relative.contains(&0)
            && relative.split(|&byte| byte == b'/').all(|name| !name.is_empty() && name != b"." && name != b".."))
}

impl fmt::Display for TreePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.root {
            Root::Workspace => write!(out, "ws:")?,
            Root::Above(level) => write!(out, "up{level}:")?,
            Root::Home => write!(out, "home:")?,
            Root::System => write!(out, "sys:")?,
        }
        write!(out, "{}", String::from_utf8_lossy(&self.relative))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

//! The virtual filesystem of wink: a plain library that never names FUSE or WinFsp.
//!
//! The story of one request: the kernel calls an adapter (`wink-platform`), which decodes it and calls one method of
//! [`vfs::Vfs`]. For a task that is [`observe::Observed`], which notes what the answer revealed of the tree as it was before the task
//! ([`observe::Recorder`]), around [`view::View`], which answers: from the upper (what this task wrote, [`node`]), else from the
//! real tree ([`backing::Backing`]). The answer, or a [`status::Status`], goes back the same way.
//!
//! Inside the workspace a view writes to its upper and leaves the real tree alone; what it would change there is asked for at
//! the end ([`delta`]). Outside the workspace writes go through to the real tree at once, and are noted.
//!
//! A mounted tree has a layer of virtual entries over its real files ([`layer`]); [`layered::Layered`] makes one tree of both, a
//! [`backing::Backing`] like the real one, so that a view over it need not know.
//!
//! Locks: one for the nodes of a view (`View::state`), one for the recorder. Neither is held while the other is taken, and no
//! bytes are read or written under them, save those of a copy-up. Those of a layered tree come after them.
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as wink_fs;

pub mod attr;
pub mod backing;
pub mod delta;
#[cfg(test)]
#[path = "../tests/layered/desk.rs"]
#[allow(dead_code, reason = "shared with the tests of layered trees, which use all of it")]
mod desk;
pub mod layer;
pub mod layered;
#[cfg(test)]
#[path = "../tests/model/memory.rs"]
#[allow(dead_code, reason = "shared with the tests of the view, which use all of it")]
mod memory;
#[cfg(test)]
mod models;
pub mod name;
pub mod node;
pub mod observe;
mod rename;
pub mod status;
mod sync;
pub mod vfs;
pub mod view;
pub mod worktree;
pub mod zone;

#[cfg(test)]
use sync::Mutex;

//! Linux: the real tree by directory handles, publishing into a workspace, views by namespaces, running commands.

mod attr;
pub mod backing;
mod capture;
mod child;
pub mod control;
mod copy;
#[doc(hidden)]
pub mod decoders;
mod descriptors;
pub mod detach;
pub mod enter;
mod enter_error;
pub mod front;
pub mod fuse;
mod fusermount;
pub mod glance;
pub mod identity;
pub mod machine;
pub mod mount;
pub mod mount_users;
pub mod mount_ways;
pub mod mounts;
pub mod place;
pub mod priority;
pub mod probe;
pub mod real_dir;
pub mod real_file;
mod relay;
mod signals;
pub mod stdin;
mod survivors;
pub mod task;
mod whole;
mod xattr;

pub use descriptors::raise_descriptor_limit;

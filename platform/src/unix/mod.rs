//! Linux: the real tree by directory handles, publishing into a workspace, views by namespaces, running commands.

mod attr;
pub mod backing;
mod capture;
mod child;
mod copy;
mod descriptors;
pub mod enter;
mod enter_error;
pub mod front;
pub mod fuse;
pub mod identity;
pub mod place;
pub mod probe;
pub mod real_file;
mod relay;
mod signals;
mod survivors;
pub mod task;

pub use descriptors::raise_descriptor_limit;

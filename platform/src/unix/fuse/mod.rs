//! The FUSE adapter: take a request apart, make one call, put the answer together. Nothing is decided here.
//!
//! How long the kernel may keep an answer follows from the answer itself (`lasting`): inside a task's view nobody but the view changes
//! anything, so it may keep names, absences and attributes for good; outside the workspace others may, so it asks again after a
//! second. Listings come without attributes (no readdirplus): an attribute handed out unasked would hide a lookup, and a
//! lookup is what tells that a file was asked for.
//!
//! `wire` is the kernel's interface, `request` and `answer` read and write it, `adapter` and `operations` are between the two. `classic`
//! and `ring` bring requests and take answers away, with the threads of `crew`; `init` decides which of them.

mod adapter;
mod answer;
mod classic;
mod crew;
mod device;
mod init;
mod lent;
mod listings;
mod operations;
mod request;
mod ring;
mod serving;
mod stations;
mod wire;

pub(super) use classic::answer_one;
pub use serving::{Forgetter, Serve, Serving, Transport, serve};

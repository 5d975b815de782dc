//! The view checked without a kernel: against a reference model under random operations, and by the hard cases one by one.
//!
//! [`memory`] is the tree beneath, [`reference`] says what POSIX would answer, [`kernel`] asks the view as a kernel does, [`plan`]
//! makes up operations, [`properties`] compares. `PROPTEST_CASES` says how many cases each property tries.

mod beneath;
mod cases;
mod kernel;
mod lent;
mod memory;
mod plan;
mod properties;
mod reference;

// What the memory locks with; the models of the crate itself give it another one.
use parking_lot::Mutex;

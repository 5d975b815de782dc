//! The mounted tree checked without a kernel: random operations on it and beneath it against the same operations on a plain backing
//! ([`properties`]), and hard cases one by one ([`cases`]), some over a backing that makes files real when they are changed ([`virtual_files`]).

mod cases;
mod kernel;
#[path = "../model/memory.rs"]
#[allow(dead_code, reason = "shared with the tests of the view, which use all of it")]
mod memory;
mod properties;
mod virtual_files;

// What the memory locks with; the models of the crate itself give it another one.
use parking_lot::Mutex;

//! A layer over a real tree: case by case, and under random operations against a tree in which all of it is real.
//!
//! [`desk`] is the shelf and what tests ask of a layered tree; [`cases`] are the rules one by one, [`renames`] the renames and what a crash
//! leaves of them; [`properties`] compares. `PROPTEST_CASES` says how many cases each property tries.

mod cases;
mod desk;
#[allow(dead_code, reason = "shared with the tests of the view, which use more of it")]
#[path = "../model/memory.rs"]
mod memory;
mod properties;
mod renames;

// What the memory locks with; the models of the crate itself give it another one.
use parking_lot::Mutex;

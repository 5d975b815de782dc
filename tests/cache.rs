//! `wink cache`: what it says and what it does.

mod common;

#[path = "cache/cleaning.rs"]
mod cleaning;
#[path = "cache/pruning.rs"]
mod pruning;
#[path = "cache/rerunning.rs"]
mod rerunning;
#[path = "cache/statistics.rs"]
mod statistics;
#[path = "cache/together.rs"]
mod together;
#[path = "cache/verifying.rs"]
mod verifying;

use common::World;
use serde_json::Value;

/// `wink` with these arguments in the workspace, and nothing on standard error.
fn wink(world: &World, args: &[&str]) -> String {
    let run = world.call().wink(args);
    assert_eq!((run.code, run.err().as_str()), (0, ""), "{run:?}");
    run.out()
}

/// The object that it prints.
fn object(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&wink(world, args)).unwrap()
}

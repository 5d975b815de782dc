//! Models of what threads do to this crate at once: the very code, under a scheduler that draws at each lock, and at each call of the tree
//! beneath, which thread goes on (crate shuttle). It finds what waits for ever, and whatever the models themselves ask of every order.
//!
//! `WINK_MODEL_SCHEDULES=N` draws so many orders per model, `WINK_MODEL_SEED=N` others. A failure prints its schedule.

mod kernel;
mod layered;
mod orders;
mod view;
mod worktree;

use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// How many orders per model when nothing else is asked for.
const SCHEDULES: usize = 200;
/// How many times the second scheduler takes the turn from the thread it prefers: most mistakes need one or two.
const DEPTH: usize = 3;
/// Far more than any model here needs to lock.
const STACK_BYTES: usize = 1 << 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs `model` in many orders: half of them by chance, half with few changes of turn at chosen moments.
fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let schedules = number("WINK_MODEL_SCHEDULES").map_or(SCHEDULES, |schedules| schedules as usize);
    let seed = number("WINK_MODEL_SEED").unwrap_or(1);
    let model = Arc::new(model);
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    let half = schedules.div_ceil(2);
    let (one, two) = (model.clone(), model);
    Runner::new(RandomScheduler::new_from_seed(seed, half), config.clone()).run(move || one());
    Runner::new(PctScheduler::new_from_seed(seed, DEPTH, half), config).run(move || two());
    println!("figure: schedules, {name} = {}", 2 * half);
}

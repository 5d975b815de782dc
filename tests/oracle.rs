//! The oracle: random histories in small random worlds, plain and mounted. After each step the world must equal its twin, in which each
//! run of a task is a native one: byte for byte, mode for mode, stdout and stderr and exit code.
//!
//! All depends on the seed alone. What fails is shrunk and printed as a line for `tests/oracle/kept.jsonl`, whose cases are played first.
//! See `docs/TESTING.md`, "The oracle".

mod common;
#[path = "oracle/edits.rs"]
mod edits;
#[path = "oracle/play.rs"]
mod play;
#[path = "oracle/project.rs"]
mod project;
#[path = "oracle/random.rs"]
mod random;
#[path = "oracle/scripts.rs"]
mod scripts;
#[path = "oracle/shrink.rs"]
mod shrink;
#[path = "oracle/steps.rs"]
mod steps;
#[path = "oracle/twin.rs"]
mod twin;

use std::time::{Duration, Instant};

use play::{Counts, play};
use steps::{Case, case};

/// Steps per mode when nothing else is asked for.
const STEPS: usize = 400;
/// Steps per history: enough to come back to earlier states, few enough to shrink.
const HISTORY: usize = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn check(case: &Case, counts: &mut Counts) {
    match play(case) {
        Ok(played) => counts.add(&played),
        Err(first) => {
            let (least, last) = shrink::shrink(case, first);
            panic!(
                "seed {}, {}: {} of {} steps are enough\nstep {}: {}\nkeep it as a line of tests/oracle/kept.jsonl:\n{}\n",
                case.seed,
                if case.mounted { "mounted" } else { "plain" },
                least.steps.len(),
                case.steps.len(),
                last.step,
                last.what,
                serde_json::to_string(&least).unwrap()
            );
        }
    }
}

fn histories(mounted: bool) {
    let first = number("WINK_ORACLE_SEED").unwrap_or(1);
    let steps = number("WINK_ORACLE_STEPS").map_or(STEPS, |steps| steps as usize);
    let until = number("WINK_ORACLE_MINUTES").map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let mut counts = Counts::default();
    for seed in first.. {
        let done = match until {
            Some(until) => Instant::now() >= until,
            None => counts.steps >= steps,
        };
        if done {
            break;
        }
        check(&case(seed, mounted, HISTORY), &mut counts);
    }
    report(mounted, &counts);
    // Nothing would be shown by histories in which nothing comes back.
    assert!(counts.hits * 10 > counts.runs && counts.misses > 0, "{counts:?}");
}

fn report(mounted: bool, counts: &Counts) {
    let Counts { steps, runs, hits, misses, uncached, blobs } = counts;
    let mode = if mounted { "mounted" } else { "plain" };
    common::figure(&format!("oracle steps, {mode}"), steps);
    println!("{mode}: {steps} steps, {runs} runs: {hits} hits, {misses} misses; {blobs} blobs are sound; uncached:");
    let mut uncached: Vec<_> = uncached.iter().collect();
    uncached.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (reason, count) in uncached.into_iter().take(5) {
        println!("  {count} {reason}");
    }
}

#[test]
fn histories_in_a_plain_directory() {
    histories(false);
}

#[test]
fn histories_in_a_mounted_tree() {
    histories(true);
}

#[test]
fn what_failed_once() {
    let mut counts = Counts::default();
    for line in include_str!("oracle/kept.jsonl").lines().filter(|line| line.starts_with('{')) {
        let kept: Case = serde_json::from_str(line).unwrap();
        check(&kept, &mut counts);
    }
}

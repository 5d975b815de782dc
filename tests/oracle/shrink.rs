//! Shrinking: steps are left out while the case still fails.

use std::time::{Duration, Instant};

use super::play::{Disagreement, play};
use super::steps::Case;

/// Longer than this nobody waits for a shorter case.
const PATIENCE: Duration = Duration::from_secs(100);

/// The shortest case found that fails, and how.
pub fn shrink(case: &Case, first: Disagreement) -> (Case, Disagreement) {
    let began = Instant::now();
    let mut least = case.clone();
    least.steps.truncate(first.step + 1);
    let mut last = first;
    let mut size = least.steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < least.steps.len() {
            if began.elapsed() > PATIENCE {
                return (least, last);
            }
            let mut fewer = least.clone();
            fewer.steps.drain(at..(at + size).min(least.steps.len()));
            match play(&fewer) {
                Err(failed) => {
                    fewer.steps.truncate(failed.step + 1);
                    (least, last) = (fewer, failed);
                }
                Ok(_) => at += size,
            }
        }
        size /= 2;
    }
    (least, last)
}

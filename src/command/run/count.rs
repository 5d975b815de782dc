//! Counting runs in the index of the cache: best effort, and never a reason to fail.

use std::path::Path;

use wink_store::{Outcome, RunCounted, Store};

use super::Asked;
use crate::engine::{Task, now_ms};
use crate::report::{Report, Status};

/// How a run is counted, as far as it is known by now.
pub fn counted<'a>(asked: &Asked, task: &'a Task, report: &Report) -> RunCounted<'a> {
    let total_us = u64::try_from(asked.began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (outcome, work_us, saved_us) = match report.status {
        Status::Hit => {
            let work_us = total_us.saturating_sub(report.lookup_ms * 1000);
            (Outcome::Hit, work_us, (report.command_ms * 1000).saturating_sub(total_us))
        }
        Status::Miss => (Outcome::Miss, report.store_ms * 1000, 0),
        Status::Uncached => (Outcome::Uncached, report.store_ms * 1000, 0),
    };
    RunCounted {
        workspace: task.workspace.as_os_str().as_encoded_bytes(),
        outcome,
        reason: report.class.name(),
        lookup_us: report.lookup_ms * 1000,
        work_us,
        command_ms: report.command_ms,
        saved_us,
        at_ms: now_ms(),
    }
}

/// Counts a run in which the cache had no part, if there is a cache. None is made for this.
pub fn uncached(asked: &Asked, task: &Task, report: &Report, dir: &Path) {
    if wink_store::exists(dir)
        && let Ok(store) = Store::open(dir)
    {
        let _ = store.count(&counted(asked, task, report));
    }
}

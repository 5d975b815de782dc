//! Running the command without a view, when the cache cannot or shall not take part: exactly as without wink, and one line that says why.

use std::path::Path;

use anyhow::Context;
use wink_platform::unix::task;

use super::{Asked, count, not_started};
use crate::engine::Task;
use crate::report::{Class, Report, Status};

/// Why the cache has no part in a run.
#[derive(Clone, Debug)]
pub struct Why<'a> {
    /// Which kind of reason it is.
    pub class: Class,
    /// The reason, for people.
    pub reason: String,
    /// The cache in which the run is counted.
    pub store: Option<&'a Path>,
}

/// Runs the command and reports it as uncached.
pub fn run(asked: &Asked, task: &Task, why: Why<'_>) -> anyhow::Result<i32> {
    let mut report = Report {
        status: Status::Uncached,
        reason: Some(why.reason),
        class: why.class,
        task_key: Some(task.keys.task.0.to_string()),
        ..Report::default()
    };
    if asked.args.dry_run {
        return Ok(asked.deliver(report));
    }
    let finished = task::run(task.spawn(), |_| ()).with_context(|| "cannot start the command")?;
    if let Some(trouble) = not_started(&finished.outcome, &task.argv) {
        crate::complain(&trouble);
    }
    report.exit_code = finished.outcome.exit_code();
    report.command_ms = finished.wall.as_millis() as u64;
    if let Some(store) = why.store {
        count::uncached(asked, task, &report, store);
    }
    Ok(asked.deliver(report))
}

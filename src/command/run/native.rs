//! Running the command without a view, when the cache cannot or shall not take part: exactly as without wink, and one line that says why.

use anyhow::Context;
use wink_platform::unix::task;

use super::{Asked, not_started};
use crate::engine::Task;
use crate::report::{Report, Status};

/// Runs the command and reports it as uncached.
pub fn run(asked: &Asked, task: &Task, reason: String) -> anyhow::Result<i32> {
    let mut report = Report {
        status: Status::Uncached,
        reason: Some(reason),
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
    Ok(asked.deliver(report))
}

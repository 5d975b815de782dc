//! `wink explain`: whether a command would be a hit or a miss, and why; it runs nothing and changes nothing.

use std::fmt::Write as _;

use serde::Serialize;

use super::run::decide::{Foreseen, barred, foresee};
use super::run::prepare;
use crate::cli::ExplainArgs;
use crate::engine::lookup::Judged;
use crate::engine::now_ms;
use crate::report::{Difference, Status, ago, count, human_bytes, human_ms, one_line};

/// How many digits of a record's name people are shown.
const SHORT: usize = 8;
/// How many records people are shown; programs get all.
const SHOWN_MAX: usize = 10;

/// The object of `--json`; `status`, `reason`, `first_difference` and `candidates` are a contract.
#[derive(Debug, Serialize)]
struct Document<'a> {
    status: Status,
    /// Why it is not a hit; null for a hit.
    reason: Option<&'a str>,
    first_difference: Option<&'a Difference>,
    task_key: String,
    /// The record that holds.
    record: Option<String>,
    candidates: Vec<Candidate<'a>>,
}

/// One record of this task.
#[derive(Debug, Serialize)]
struct Candidate<'a> {
    record: String,
    /// When it was made, milliseconds since the epoch.
    created_ms: u64,
    /// How long the command ran.
    command_ms: u64,
    exit_code: i32,
    /// Workspaces in which its outputs stood last, as far as is known.
    workspaces: Vec<String>,
    /// The only workspace in which it holds, if an output names its place.
    bound_workspace: Option<String>,
    output_bytes: u64,
    /// Whether every observation holds now.
    holds: bool,
    /// How many observations it has; null where they were not all looked at.
    observations: Option<u64>,
    /// Why it does not hold.
    reason: Option<&'a str>,
    first_difference: Option<&'a Difference>,
}

/// Runs the subcommand; what it returns is printed.
pub fn run(args: &ExplainArgs) -> anyhow::Result<String> {
    let (mut task, config) = prepare(&args.task, false)?;
    let foreseen = match barred(&task) {
        Some((_, reason)) => Foreseen { reason: Some(reason), ..Foreseen::default() },
        None => foresee(&mut task, &config, !args.task.no_daemon, None, true),
    };
    if args.json {
        let mut text = serde_json::to_string_pretty(&document(&foreseen, task.keys.task.0.to_string()))?;
        text.push('\n');
        Ok(text)
    } else {
        Ok(people(&foreseen, &task.workspace.to_string_lossy(), now_ms()))
    }
}

fn document(foreseen: &Foreseen, task_key: String) -> Document<'_> {
    Document {
        status: foreseen.status,
        reason: foreseen.reason.as_deref(),
        first_difference: foreseen.difference.as_ref(),
        task_key,
        record: foreseen.hit.as_ref().map(|(head, _)| head.id.0.to_string()),
        candidates: foreseen.candidates.iter().map(candidate).collect(),
    }
}

fn candidate(judged: &Judged) -> Candidate<'_> {
    let Judged { head, verdict, workspaces } = judged;
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let miss = verdict.as_ref().err();
    Candidate {
        record: head.id.0.to_string(),
        created_ms: head.created_ms,
        command_ms: head.command_ms,
        exit_code: head.exit_code,
        workspaces: workspaces.iter().map(text).collect(),
        bound_workspace: head.bound_workspace.as_ref().map(text),
        output_bytes: head.output_bytes,
        holds: verdict.is_ok(),
        observations: verdict.as_ref().ok().copied(),
        reason: miss.map(|miss| miss.reason.as_str()),
        first_difference: miss.and_then(|miss| miss.difference.as_ref()),
    }
}

/// The form for people: the answer, then the records of the task, one a line.
fn people(foreseen: &Foreseen, workspace: &str, now_ms: u64) -> String {
    let mut out = String::new();
    let reason = one_line(foreseen.reason.as_deref().unwrap_or_default());
    let _ = match (foreseen.status, &foreseen.hit) {
        (Status::Hit, Some((head, observations))) => writeln!(
            out,
            "hit: the record {} holds: {} as recorded, {} ({}), ran {}",
            short(&head.id.0.to_string()),
            count(*observations, "input"),
            count(foreseen.outputs, "output"),
            human_bytes(head.output_bytes),
            human_ms(head.command_ms)
        ),
        (Status::Hit, None) => writeln!(out, "hit"),
        (Status::Miss, _) => writeln!(out, "miss: {reason}"),
        (Status::Uncached, _) => writeln!(out, "not cached: {reason}"),
    };
    if let Some(Difference { path, recorded, present }) = &foreseen.difference {
        let _ = writeln!(out, "  path      {}", one_line(path));
        let _ = writeln!(out, "  recorded  {}", one_line(recorded));
        let _ = writeln!(out, "  present   {}", one_line(present));
    }
    let candidates = &foreseen.candidates;
    if candidates.is_empty() {
        return out;
    }
    let _ = writeln!(out, "\n{} of this command", count(candidates.len() as u64, "record"));
    for Judged { head, verdict, workspaces } in candidates.iter().take(SHOWN_MAX) {
        let made = ago(now_ms.saturating_sub(head.created_ms));
        let stands = match workspaces.as_slice() {
            [] => String::new(),
            all if all.iter().any(|place| place == workspace.as_bytes()) => ", stands here".to_owned(),
            [first, ..] => format!(", stands in {}", one_line(&String::from_utf8_lossy(first))),
        };
        let verdict = match verdict {
            Ok(observations) => format!("holds: {} as recorded", count(*observations, "input")),
            Err(miss) => one_line(&miss.reason),
        };
        let _ = writeln!(out, "  {}  {verdict}  (made {made}{stands})", short(&head.id.0.to_string()));
    }
    if let Some(more) = candidates.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        let _ = writeln!(out, "  and {more} more; --json lists all");
    }
    out
}

fn short(name: &str) -> &str {
    name.get(..SHORT).unwrap_or(name)
}

//! `wink trace A B`: what differs between two records: their keys, what they saw, what they left.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;
use wink_store::{Names, Observation, Output, Record, RecordId, TreePath};

use super::{Archive, command};
use crate::engine::difference::{NameDifference, describe, of_names};
use crate::engine::lookup::slashed;
use crate::engine::now_ms;
use crate::key::KeyParts;
use crate::report::{ago, count, human_bytes, human_ms, one_line};

/// Both records and what differs; all lists are empty if nothing does.
#[derive(Debug, Serialize)]
struct Comparison {
    a: Side,
    b: Side,
    /// What differs in the keys, in words; null if that is not known any more.
    key: Option<Vec<String>>,
    inputs: Vec<Line>,
    outputs: Vec<Line>,
    /// Whether both printed the same.
    same_output: bool,
}

#[derive(Debug, Serialize)]
struct Side {
    record: String,
    command: String,
    created_ms: u64,
    command_ms: u64,
    exit_code: i32,
    inputs: usize,
    outputs: usize,
}

/// One path that differs; null where a record says nothing of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    path: String,
    a: Option<String>,
    b: Option<String>,
}

/// Compares two records.
pub fn run(archive: &Archive, one: &RecordId, other: &RecordId, json: bool) -> anyhow::Result<String> {
    let (one, other) = (archive.record(one)?, archive.record(other)?);
    let comparison = Comparison {
        a: side(&one),
        b: side(&other),
        key: keys(archive, &one, &other)?,
        inputs: inputs(archive, &one, &other),
        outputs: outputs(&one, &other),
        same_output: one.captured == other.captured,
    };
    if json {
        return Ok(format!("{}\n", serde_json::to_string_pretty(&comparison)?));
    }
    Ok(people(&comparison, now_ms()))
}

fn side(record: &Record) -> Side {
    Side {
        record: record.head.id.0.to_string(),
        command: command(record),
        created_ms: record.head.created_ms,
        command_ms: record.head.command_ms,
        exit_code: record.head.exit_code,
        inputs: record.trace.seen.len(),
        outputs: record.outputs.entries.len(),
    }
}

fn keys(archive: &Archive, one: &Record, other: &Record) -> anyhow::Result<Option<Vec<String>>> {
    if one.head.task_key == other.head.task_key {
        return Ok(Some(Vec::new()));
    }
    let parts = |record: &Record| -> anyhow::Result<Option<KeyParts>> {
        let stored = archive.store.key_parts(&record.head.task_key)?;
        Ok(stored.and_then(|stored| serde_json::from_slice(&stored).ok()))
    };
    let (Some(one), Some(other)) = (parts(one)?, parts(other)?) else { return Ok(None) };
    Ok(Some(other.differences(&one).into_iter().map(|difference| difference.text).collect()))
}

fn inputs(archive: &Archive, one: &Record, other: &Record) -> Vec<Line> {
    let roots = archive.roots(one);
    let names = |record: &Record| archive.store.names(&record.head.fingerprint).unwrap_or_default();
    let (then, now) = (names(one), names(other));
    let paths: BTreeSet<&TreePath> = one.trace.seen.keys().chain(other.trace.seen.keys()).collect();
    let mut lines = Vec::new();
    for path in paths {
        let (before, after) = (one.trace.seen.get(path), other.trace.seen.get(path));
        if before == after {
            continue;
        }
        let said = |seen: Option<&wink_store::Seen>| {
            let own = |seen: &wink_store::Seen| if seen.own { ", own output" } else { "" };
            seen.map(|seen| format!("{}{}", describe(&seen.fact), own(seen)))
        };
        let (mut a, mut b) = (said(before), said(after));
        if let Some(names) = before.zip(after).and_then(|(one, other)| listing(&one.fact, &other.fact, &then, &now)) {
            a.iter_mut().for_each(|text| text.push_str(&names.then()));
            b.iter_mut().for_each(|text| text.push_str(&names.now()));
        }
        let absolute = String::from_utf8_lossy(&slashed(roots.absolute(path))).into_owned();
        lines.push(Line { path: absolute, a, b });
    }
    lines
}

/// What differs between two listings whose names are known.
fn listing(
    one: &Observation,
    other: &Observation,
    then: &[(wink_store::Digest, Names)],
    now: &[(wink_store::Digest, Names)],
) -> Option<NameDifference> {
    let (Observation::Listing { digest: one, .. }, Observation::Listing { digest: other, .. }) = (one, other) else {
        return None;
    };
    let names = |all: &[(wink_store::Digest, Names)], digest| {
        all.iter().find(|(known, _)| known == digest).map(|(_, names)| names.clone())
    };
    of_names(&names(then, one)?, &names(now, other)?)
}

fn outputs(one: &Record, other: &Record) -> Vec<Line> {
    let map = |record: &Record| -> std::collections::BTreeMap<Vec<u8>, Output> {
        record.outputs.entries.iter().map(|entry| (entry.path.clone(), entry.output.clone())).collect()
    };
    let (then, now) = (map(one), map(other));
    let paths: BTreeSet<&Vec<u8>> = then.keys().chain(now.keys()).collect();
    let changed = paths.into_iter().filter(|path| then.get(*path) != now.get(*path));
    changed
        .map(|path| Line {
            path: String::from_utf8_lossy(path).into_owned(),
            a: then.get(path).map(left),
            b: now.get(path).map(left),
        })
        .collect()
}

fn left(output: &Output) -> String {
    match output {
        Output::File { digest, size, mode } => {
            format!("file {} mode {mode:04o}, {}", digest.short(), human_bytes(*size))
        }
        Output::Link { target } => format!("link to {}", String::from_utf8_lossy(target)),
        Output::Dir { mode } => format!("directory mode {mode:04o}"),
        Output::Removed => "removed".to_owned(),
    }
}

fn people(found: &Comparison, now_ms: u64) -> String {
    let mut out = String::new();
    for (letter, side) in [("A", &found.a), ("B", &found.b)] {
        let _ = writeln!(
            out,
            "{letter}  {}  {}  (made {}, ran {}, exit code {})",
            side.record.get(..8).unwrap_or(&side.record),
            side.command,
            ago(now_ms.saturating_sub(side.created_ms)),
            human_ms(side.command_ms),
            side.exit_code
        );
    }
    let _ = match &found.key {
        None => writeln!(out, "\nthe keys differ; what they were made of is not known any more"),
        Some(differences) if differences.is_empty() => writeln!(out, "\nthe keys are the same"),
        Some(differences) => writeln!(out, "\nthe keys differ: {}", one_line(&differences.join("; "))),
    };
    for (what, lines, of) in [
        ("input", &found.inputs, found.a.inputs.max(found.b.inputs)),
        ("output", &found.outputs, found.a.outputs.max(found.b.outputs)),
    ] {
        if lines.is_empty() {
            let _ = writeln!(out, "\nno {what} differs ({} compared)", of);
            continue;
        }
        let verb = if lines.len() == 1 { "differs" } else { "differ" };
        let _ = writeln!(out, "\n{} {verb}", count(lines.len() as u64, what));
        for Line { path, a, b } in lines {
            let path = one_line(path);
            let _ = match (a, b) {
                (Some(a), Some(b)) => writeln!(out, "  {path}  {} → {}", one_line(a), one_line(b)),
                (Some(a), None) => writeln!(out, "  {path}  only in A: {}", one_line(a)),
                (None, b) => writeln!(out, "  {path}  only in B: {}", one_line(b.as_deref().unwrap_or_default())),
            };
        }
    }
    let _ = writeln!(
        out,
        "\n{}",
        if found.same_output { "both printed the same" } else { "they printed different output" }
    );
    out
}

//! `wink trace`: what a record's run read and what it left.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use wink_store::{Observation, OpaqueKind, Output, Record, RecordId, Root, Store, TreePath};

use crate::cli::TraceArgs;
use crate::config::Config;
use crate::report::{count, human_bytes, human_ms, one_line};
use crate::roots::Roots;
use crate::workspace;

/// The shortest beginning of a record's name that is looked up.
const PREFIX_MIN: usize = 4;

/// The object of `--json`; its fields and kinds are a contract.
#[derive(Debug, Serialize)]
struct Document {
    inputs: Vec<Item>,
    outputs: Vec<Item>,
    removed: Vec<String>,
}

/// One input or output.
#[derive(Debug, Serialize)]
struct Item {
    /// Absolute; bytes that are no UTF-8 are shown as replacement characters.
    path: String,
    /// `file`, `dir`, `link`, `absent` or `listing`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Permission bits, of outputs that have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
}

/// Runs the subcommand; what it returns is printed.
pub fn run(args: &TraceArgs) -> anyhow::Result<String> {
    let cwd = std::env::current_dir().context("the current directory cannot be read; does it still exist?")?;
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    let workspace = workspace::find(&cwd, home.as_deref())?;
    let config = Config::load(&workspace.root, std::env::vars_os())?;
    let dir = config.store_dir()?;
    anyhow::ensure!(dir.is_dir(), "nothing is cached yet: {} does not exist", dir.display());
    let store = Store::open(dir)?;
    let id = match &args.record {
        Some(prefix) => by_prefix(&store, prefix)?,
        None => store
            .last_run(workspace.root.as_os_str().as_encoded_bytes())?
            .with_context(|| format!("no run is known in {}; name a record", workspace.root.display()))?,
    };
    let record = store.record(&id)?;
    let record = record.with_context(|| format!("the record {} is no longer in the cache", id.0.short()))?;
    // A record that is bound to a place is shown there, any other as it applies here.
    let bound = record.head.bound_workspace.as_deref().map(|path| String::from_utf8_lossy(path).into_owned());
    let root = bound.as_deref().map_or(workspace.root.as_path(), Path::new);
    let roots = Roots::new(root, home.as_deref());
    if args.json {
        let mut text = serde_json::to_string_pretty(&document(&record, &roots))?;
        text.push('\n');
        Ok(text)
    } else {
        Ok(people(&record, &roots))
    }
}

/// The one record whose name begins so.
fn by_prefix(store: &Store, prefix: &str) -> anyhow::Result<RecordId> {
    let prefix = prefix.to_ascii_lowercase();
    if prefix.len() < PREFIX_MIN || !prefix.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        bail!("\"{prefix}\" is not the name of a record; give at least its first {PREFIX_MIN} digits (0-9, a-f)");
    }
    let heads = store.find_by_prefix(&prefix)?;
    match heads.as_slice() {
        [] => bail!("no record begins with {prefix}; it may have been removed to make room"),
        [one] => Ok(one.id),
        several => bail!("{} begin with {prefix}; give more digits", count(several.len() as u64, "record")),
    }
}

/// The name of a fact, and its digest.
fn fact(observation: &Observation) -> (&'static str, Option<String>) {
    match observation {
        Observation::Absent => ("absent", None),
        Observation::Dir { .. } => ("dir", None),
        Observation::Listing { digest, .. } => ("listing", Some(digest.to_string())),
        Observation::File { digest, .. } => ("file", Some(digest.to_string())),
        Observation::Link { .. } => ("link", None),
        // Of a file that cannot be read, or a device, only that it is there is known.
        Observation::Opaque { .. } => ("file", None),
    }
}

fn document(record: &Record, roots: &Roots) -> Document {
    let shown = |path: &TreePath| String::from_utf8_lossy(&roots.absolute(path)).into_owned();
    let inputs = record.trace.seen.iter().map(|(path, seen)| {
        let (kind, digest) = fact(&seen.fact);
        Item { path: shown(path), kind, digest, mode: None }
    });
    let inputs = inputs.collect();
    let (mut outputs, mut removed) = (Vec::new(), Vec::new());
    for entry in &record.outputs.entries {
        let Ok(path) = TreePath::new(Root::Workspace, &entry.path) else {
            continue;
        };
        let path = shown(&path);
        match &entry.output {
            Output::File { digest, mode, .. } => {
                outputs.push(Item { path, kind: "file", digest: Some(digest.to_string()), mode: Some(*mode) });
            }
            Output::Link { .. } => outputs.push(Item { path, kind: "link", digest: None, mode: None }),
            Output::Dir { mode } => outputs.push(Item { path, kind: "dir", digest: None, mode: Some(*mode) }),
            Output::Removed => removed.push(path),
        }
    }
    Document { inputs, outputs, removed }
}

/// The form for people: inputs by root, then outputs, then sums.
fn people(record: &Record, roots: &Roots) -> String {
    let mut out = String::new();
    let head = &record.head;
    let words: Vec<_> = record.argv.iter().map(|word| String::from_utf8_lossy(word)).collect();
    let _ = writeln!(out, "record {}: {}", head.id.0.short(), one_line(&words.join(" ")));
    let _ = writeln!(
        out,
        "exit code {}, ran {}{}",
        head.exit_code,
        human_ms(head.command_ms),
        if head.usable { "" } else { ", not reusable" }
    );

    let mut groups: BTreeMap<Root, Vec<String>> = BTreeMap::new();
    for (path, seen) in &record.trace.seen {
        let kind = match &seen.fact {
            Observation::Opaque { kind: OpaqueKind::Unreadable, .. } => "unreadable",
            Observation::Opaque { .. } => "special",
            other => fact(other).0,
        };
        let own = if seen.own { "  (own output)" } else { "" };
        let name = if path.relative().is_empty() { ".".into() } else { String::from_utf8_lossy(path.relative()) };
        groups.entry(path.root()).or_default().push(format!("  {kind:<10} {}{own}", one_line(&name)));
    }
    for (root, lines) in &groups {
        let place = TreePath::new(*root, b"").map(|path| roots.absolute(&path)).unwrap_or_default();
        let what = match root {
            Root::Workspace => "the workspace",
            Root::Above(_) => "above the workspace",
            Root::Home => "the home directory",
            Root::System => "the system",
        };
        let place = one_line(&String::from_utf8_lossy(&place));
        let _ = writeln!(out, "\n{} in {what}, {place}", count(lines.len() as u64, "input"));
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
    }

    let outputs = &record.outputs.entries;
    let _ = writeln!(out, "\n{}, {}", count(outputs.len() as u64, "output"), human_bytes(head.output_bytes));
    for entry in outputs {
        let name = one_line(&String::from_utf8_lossy(&entry.path));
        let line = match &entry.output {
            Output::File { size, mode, .. } => {
                format!("file       {name}  {mode:04o}  {}", human_bytes(*size))
            }
            Output::Link { target } => format!("link       {name} -> {}", one_line(&String::from_utf8_lossy(target))),
            Output::Dir { mode } => format!("dir        {name}  {mode:04o}"),
            Output::Removed => format!("removed    {name}"),
        };
        let modified =
            if entry.modified && entry.output != Output::Removed { "  (held something else before)" } else { "" };
        let _ = writeln!(out, "  {line}{modified}");
    }
    out
}

#[cfg(test)]
mod tests {
    use wink_store::{Captured, OwnKey, RecordHead, TaskKey};
    use wink_store::{Digest, Entry, Manifest, Seen, Trace};

    use super::*;

    fn record() -> Record {
        let digest = Digest::of(b"x");
        let facts = [
            (Root::Workspace, b"src/a.c".as_slice(), Observation::File { digest, mode: 0o644 }),
            (Root::Workspace, b"", Observation::Listing { digest, mode: 0o755 }),
            (Root::Home, b".rc", Observation::Absent),
            (Root::System, b"usr", Observation::Dir { mode: 0o755 }),
            (Root::System, b"bin", Observation::Link { target: b"usr/bin".to_vec() }),
            (Root::System, b"secret", Observation::Opaque { kind: OpaqueKind::Unreadable, mode: 0 }),
        ];
        let seen =
            facts.into_iter().map(|(root, path, fact)| (TreePath::new(root, path).unwrap(), Seen { fact, own: false }));
        let entry = |path: &[u8], output| Entry { path: path.to_vec(), modified: output == Output::Removed, output };
        let entries = vec![
            entry(b"dist", Output::Dir { mode: 0o755 }),
            entry(b"dist/a\xff.o", Output::File { digest, size: 1234, mode: 0o644 }),
            entry(b"dist/l", Output::Link { target: b"a.o".to_vec() }),
            entry(b"old", Output::Removed),
        ];
        Record {
            head: RecordHead {
                id: RecordId(digest),
                task_key: TaskKey(digest),
                own_key: OwnKey(digest),
                usable: true,
                fingerprint: digest,
                manifest: digest,
                exit_code: 0,
                command_ms: 1200,
                created_ms: 0,
                bound_workspace: None,
                bound_home: None,
                depth: 2,
                output_bytes: 1234,
            },
            trace: Trace { seen: seen.collect() },
            outputs: Manifest { entries },
            times: vec![0; 4],
            captured: Captured::default(),
            argv: vec![b"cc".to_vec(), b"a.c".to_vec()],
        }
    }

    #[test]
    fn json_has_absolute_paths_and_the_agreed_kinds() {
        let roots = Roots::new(Path::new("/w/p"), Some(Path::new("/h")));
        let value = serde_json::to_value(document(&record(), &roots)).unwrap();
        let list = |field: &str| -> Vec<(String, String)> {
            let items = value[field].as_array().unwrap().iter();
            items
                .map(|item| (item["path"].as_str().unwrap().to_owned(), item["kind"].as_str().unwrap().to_owned()))
                .collect()
        };
        let own =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        let wanted = [
            ("/w/p", "listing"),
            ("/w/p/src/a.c", "file"),
            ("/h/.rc", "absent"),
            ("/bin", "link"),
            ("/secret", "file"),
            ("/usr", "dir"),
        ];
        assert_eq!(list("inputs"), own(&wanted));
        let wanted = [("/w/p/dist", "dir"), ("/w/p/dist/a\u{fffd}.o", "file"), ("/w/p/dist/l", "link")];
        assert_eq!(list("outputs"), own(&wanted));
        assert_eq!(value["removed"], serde_json::json!(["/w/p/old"]));
        assert_eq!(value["outputs"][1]["mode"], 0o644);
        assert!(value["inputs"][4].get("digest").is_none());
    }

    #[test]
    fn people_see_groups_and_sums() {
        let text = people(&record(), &Roots::new(Path::new("/w/p"), Some(Path::new("/h"))));
        for part in [
            ": cc a.c\n",
            "exit code 0, ran 1.2 s\n",
            "2 inputs in the workspace, /w/p\n",
            "1 input in the home directory, /h\n",
            "  unreadable secret\n",
            "4 outputs, 1.2 kB\n",
            "dist/a\u{fffd}.o  0644  1.2 kB\n",
            "removed    old\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}

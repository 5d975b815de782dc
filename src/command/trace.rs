//! `wink trace`: what a record's run read and what it left, what differs between two records, and a page about all tasks of a workspace.

mod compare;
mod page;
mod tree;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::Serialize;
use wink_store::{Digest, Observation, Output, Record, RecordId, Root, Store, TreePath};

use crate::cli::TraceArgs;
use crate::config::Config;
use crate::engine::lookup::slashed;
use crate::engine::now_ms;
use crate::engine::tree::Tree;
use crate::mounted::Mount;
use crate::report::{ago, count, human_bytes, human_ms, one_line};
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

/// A store, seen from a workspace.
struct Archive {
    store: Arc<Store>,
    workspace: PathBuf,
    home: Option<PathBuf>,
    mount: Option<Mount>,
}

/// Runs the subcommand; what it returns is printed.
pub fn run(args: &TraceArgs) -> anyhow::Result<String> {
    let archive = Archive::open()?;
    if args.names {
        return names(&archive);
    }
    let named = args.records.iter().map(|prefix| by_prefix(&archive.store, prefix));
    let named: Vec<RecordId> = named.collect::<anyhow::Result<_>>()?;
    if let Some(file) = &args.html {
        let page = page::write(&archive, &named)?;
        if file == Path::new("-") {
            return Ok(page);
        }
        return crate::report::replace(file, page.as_bytes())
            .map(|()| String::new())
            .with_context(|| format!("cannot write the page to {}", file.display()));
    }
    let id = match named.as_slice() {
        [one, other] => return compare::run(&archive, one, other, args.json),
        [one] => *one,
        _ => archive
            .store
            .last_run(archive.workspace.as_os_str().as_encoded_bytes())?
            .with_context(|| format!("no run is known in {}; name a record", archive.workspace.display()))?,
    };
    let record = archive.record(&id)?;
    let roots = archive.roots(&record);
    if args.json {
        let mut text = serde_json::to_string_pretty(&document(&record, &roots))?;
        text.push('\n');
        Ok(text)
    } else {
        let sizes = archive.sizes(std::slice::from_ref(&record))?;
        Ok(people(&record, &roots, &sizes, now_ms()))
    }
}

impl Archive {
    fn open() -> anyhow::Result<Archive> {
        let cwd = std::env::current_dir().context("the current directory cannot be read; does it still exist?")?;
        let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
        let workspace = workspace::find(&cwd, home.as_deref())?.root;
        let config = Config::load(&workspace, std::env::vars_os())?;
        let dir = config.store_dir()?;
        anyhow::ensure!(dir.is_dir(), "nothing is cached yet: {} does not exist", dir.display());
        // Only sizes depend on it.
        let mount = super::mount::find(dir, &workspace).ok().flatten();
        Ok(Archive { store: Arc::new(Store::open(dir)?), workspace, home, mount })
    }

    fn record(&self, id: &RecordId) -> anyhow::Result<Record> {
        let record = self.store.record(id)?;
        record.with_context(|| format!("the record {} is no longer in the cache", id.0.short()))
    }

    /// A record that is bound to a place is shown there, any other as it applies here.
    fn roots(&self, record: &Record) -> Roots {
        let bound = record.head.bound_workspace.as_deref().map(crate::engine::tree::os);
        Roots::new(bound.unwrap_or(&self.workspace), self.home.as_deref())
    }

    /// The sizes of input files, as far as they are known without reading any: of those that still are as recorded, and of blobs.
    fn sizes(&self, records: &[Record]) -> anyhow::Result<HashMap<Digest, u64>> {
        let mut files: HashMap<Vec<u8>, Digest> = HashMap::new();
        for record in records {
            let roots = self.roots(record);
            for (path, seen) in &record.trace.seen {
                if let Observation::File { digest, .. } = seen.fact {
                    files.insert(slashed(roots.absolute(path)), digest);
                }
            }
        }
        let mut tree = Tree::new(&self.store, self.mount.as_ref())?;
        tree.expect(files.keys().cloned());
        let mut sizes = HashMap::new();
        for (path, digest) in &files {
            let known = tree.known(path).filter(|(found, _)| found == digest).map(|(_, size)| size);
            let blob = || self.store.blob_path(digest).metadata().ok().map(|data| data.len());
            if let Some(size) = known.or_else(blob) {
                sizes.insert(*digest, size);
            }
        }
        Ok(sizes)
    }
}

/// The records of the workspace's tasks, one a line: its first digits, a tab, its command.
fn names(archive: &Archive) -> anyhow::Result<String> {
    let mut out = String::new();
    for id in archive.store.last_runs(archive.workspace.as_os_str().as_encoded_bytes())? {
        let words = archive.store.argv(&id).unwrap_or_default();
        let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let _ = writeln!(out, "{}\t{}", id.0.short(), one_line(&words.join(" ")));
    }
    Ok(out)
}

/// The one record whose name begins so.
fn by_prefix(store: &Store, prefix: &str) -> anyhow::Result<RecordId> {
    let prefix = prefix.to_ascii_lowercase();
    if prefix.len() < PREFIX_MIN || !prefix.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        bail!("\"{prefix}\" is not the name of a record; give at least its first 4 digits (0-9, a-f)");
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

/// The command of a record, as one line.
fn command(record: &Record) -> String {
    let words: Vec<_> = record.argv.iter().map(|word| String::from_utf8_lossy(word)).collect();
    one_line(&words.join(" "))
}

/// What people call the place that a root is.
fn place(root: Root) -> &'static str {
    match root {
        Root::Workspace => "the workspace",
        Root::Above(_) => "above the workspace",
        Root::Home => "the home directory",
        Root::System => "the system",
    }
}

/// The form for people: inputs as one tree for each root, then outputs as a tree.
fn people(record: &Record, roots: &Roots, sizes: &HashMap<Digest, u64>, now_ms: u64) -> String {
    let mut out = String::new();
    let head = &record.head;
    let _ = writeln!(out, "record {}: {}", head.id.0.short(), command(record));
    let _ = writeln!(
        out,
        "exit code {}, ran {}, made {}{}",
        head.exit_code,
        human_ms(head.command_ms),
        ago(now_ms.saturating_sub(head.created_ms)),
        if head.usable { "" } else { ", not reusable" }
    );
    for (root, branch) in tree::of_inputs(&record.trace, sizes) {
        let top = TreePath::new(root, b"").map(|path| roots.absolute(&path)).unwrap_or_default();
        let top = one_line(&String::from_utf8_lossy(&slashed(top)));
        let sum = branch.size().map(|bytes| format!(", {}", human_bytes(bytes))).unwrap_or_default();
        let _ = writeln!(out, "\n{} in {}{sum}", count(branch.facts(), "input"), place(root));
        branch.draw(&top, &mut out);
    }
    let outputs = record.outputs.entries.len() as u64;
    let _ = writeln!(out, "\n{}, {}", count(outputs, "output"), human_bytes(head.output_bytes));
    if outputs > 0 {
        let top = TreePath::new(Root::Workspace, b"").map(|path| roots.absolute(&path)).unwrap_or_default();
        tree::of_outputs(&record.outputs).draw(&one_line(&String::from_utf8_lossy(&top)), &mut out);
    }
    out
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;

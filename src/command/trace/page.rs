//! `wink trace --html`: one self-contained page about the tasks of a workspace: what each read and wrote, which feeds which.
//!
//! All data is one block of JSON in which no `<` occurs, so that no name can end it; the page's script puts it into the document as text, never
//! as markup. A path and what was seen of it stand once, however many tasks saw it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use wink_store::{Digest, Observation, OpaqueKind, Output, Record, RecordId, Root, TreePath};

use super::{Archive, command, place};
use crate::engine::lookup::slashed;
use crate::engine::now_ms;
use crate::key::KeyParts;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the script reads.
#[derive(Debug, Default, Serialize)]
struct Data {
    version: &'static str,
    workspace: String,
    made_ms: u64,
    /// The four roots and whatever lies below: the parent's number (-1 for a root) and the name.
    nodes: Vec<(i64, String)>,
    /// What roots are called, by node.
    places: Vec<(usize, &'static str)>,
    /// Node, kind (a letter), size, digest, and what else there is to say.
    facts: Vec<(usize, char, Option<u64>, String, String)>,
    tasks: Vec<Task>,
    edges: Vec<Edge>,
}

#[derive(Debug, Serialize)]
struct Task {
    record: String,
    command: String,
    /// Relative to the workspace; null if it is not known any more.
    cwd: Option<String>,
    exit_code: i32,
    ran_ms: u64,
    created_ms: u64,
    usable: bool,
    bound: bool,
    output_bytes: u64,
    /// Numbers of facts, ascending, each as the distance from the one before.
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    /// Those of the outputs whose paths held something else before.
    modified: Vec<usize>,
}

/// One task reads what another left.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Edge {
    from: usize,
    to: usize,
    /// How many paths the later one read as the earlier one left them.
    fresh: usize,
    /// How many it read in another state.
    stale: usize,
}

/// The page about these records, or about the last one of each task of the workspace.
pub fn write(archive: &Archive, named: &[RecordId]) -> anyhow::Result<String> {
    let ids = match named {
        [] => archive.store.last_runs(archive.workspace.as_os_str().as_encoded_bytes())?,
        named => named.to_vec(),
    };
    let mut records = Vec::new();
    for id in ids {
        match archive.store.record(&id) {
            Ok(record) => records.extend(record),
            // One that cannot be read is left out: the page is about those that can.
            Err(error) if error.is_damage() => crate::complain(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::ensure!(!records.is_empty(), "no run is known in {}; name a record", archive.workspace.display());
    Ok(render(&data(archive, &records)?))
}

fn data(archive: &Archive, records: &[Record]) -> anyhow::Result<Data> {
    let sizes = archive.sizes(records)?;
    let mut book = Book::default();
    let mut tasks = Vec::new();
    for record in records {
        let roots = archive.roots(record);
        let parts = archive.store.key_parts(&record.head.task_key)?;
        let parts = parts.and_then(|parts| serde_json::from_slice::<KeyParts>(&parts).ok());
        let inputs = record.trace.seen.iter().map(|(path, seen)| {
            let top = TreePath::new(path.root(), b"").map(|top| slashed(roots.absolute(&top))).unwrap_or_default();
            let node = book.node(path.root(), &top, path.relative());
            let (kind, digest, note) = seen_as(&seen.fact);
            let size = digest.and_then(|digest| sizes.get(&digest).copied());
            book.fact(node, kind, size, digest, note)
        });
        let inputs: BTreeSet<usize> = inputs.collect();
        let top = TreePath::new(Root::Workspace, b"").map(|top| slashed(roots.absolute(&top))).unwrap_or_default();
        let (mut outputs, mut modified) = (BTreeSet::new(), BTreeSet::new());
        for entry in &record.outputs.entries {
            let node = book.node(Root::Workspace, &top, &entry.path);
            let fact = match &entry.output {
                Output::File { digest, size, mode } => {
                    book.fact(node, 'f', Some(*size), Some(*digest), format!("mode {mode:04o}"))
                }
                Output::Link { target } => book.fact(node, 'l', None, None, text(target)),
                Output::Dir { mode } => book.fact(node, 'd', None, None, format!("mode {mode:04o}")),
                Output::Removed => book.fact(node, 'r', None, None, String::new()),
            };
            outputs.insert(fact);
            if entry.modified {
                modified.insert(fact);
            }
        }
        let head = &record.head;
        tasks.push(Task {
            record: head.id.0.to_string(),
            command: command(record),
            cwd: parts.map(|parts| parts.cwd),
            exit_code: head.exit_code,
            ran_ms: head.command_ms,
            created_ms: head.created_ms,
            usable: head.usable,
            bound: head.bound_workspace.is_some(),
            output_bytes: head.output_bytes,
            inputs: distances(&inputs),
            outputs: distances(&outputs),
            modified: distances(&modified),
        });
    }
    Ok(Data {
        version: env!("CARGO_PKG_VERSION"),
        workspace: text(archive.workspace.as_os_str().as_encoded_bytes()),
        made_ms: now_ms(),
        nodes: book.nodes,
        places: book.places,
        facts: book.facts,
        tasks,
        edges: edges(records),
    })
}

/// Paths and facts, each once.
#[derive(Default)]
struct Book {
    nodes: Vec<(i64, String)>,
    places: Vec<(usize, &'static str)>,
    facts: Vec<(usize, char, Option<u64>, String, String)>,
    node_numbers: HashMap<(i64, Vec<u8>), usize>,
    fact_numbers: HashMap<(usize, char, Option<Digest>, String), usize>,
}

impl Book {
    fn node(&mut self, root: Root, top: &[u8], relative: &[u8]) -> usize {
        // Two roots may be at one place (a workspace directly below the home); they stay apart.
        let mark = [top, b"\0", format!("{root:?}").as_bytes()].concat();
        let mut at = match self.node_numbers.get(&(-1, mark.clone())) {
            Some(number) => *number,
            None => {
                let number = self.push(-1, mark, text(top));
                self.places.push((number, place(root)));
                number
            }
        };
        for name in relative.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = match self.node_numbers.get(&(at as i64, name.to_vec())) {
                Some(number) => *number,
                None => self.push(at as i64, name.to_vec(), text(name)),
            };
        }
        at
    }

    fn push(&mut self, parent: i64, key: Vec<u8>, name: String) -> usize {
        let number = self.nodes.len();
        self.nodes.push((parent, name));
        self.node_numbers.insert((parent, key), number);
        number
    }

    fn fact(&mut self, node: usize, kind: char, size: Option<u64>, digest: Option<Digest>, note: String) -> usize {
        let key = (node, kind, digest, note.clone());
        *self.fact_numbers.entry(key).or_insert_with(|| {
            let digest = digest.map(|digest| digest.short()).unwrap_or_default();
            self.facts.push((node, kind, size, digest, note));
            self.facts.len() - 1
        })
    }
}

/// The letter of a fact, its digest, and what else there is to say.
fn seen_as(fact: &Observation) -> (char, Option<Digest>, String) {
    match fact {
        Observation::Absent => ('a', None, String::new()),
        Observation::Dir { .. } => ('d', None, String::new()),
        Observation::Listing { digest, .. } => ('n', Some(*digest), String::new()),
        Observation::File { digest, mode } => ('f', Some(*digest), format!("mode {mode:04o}")),
        Observation::Link { target } => {
            ('l', None, text(target).replace("\u{fffd}W", "(workspace)").replace("\u{fffd}H", "(home)"))
        }
        Observation::Opaque { kind: OpaqueKind::Unreadable, .. } => ('u', None, String::new()),
        Observation::Opaque { .. } => ('o', None, String::new()),
    }
}

/// Bytes as text that neither steers a terminal nor turns the direction of a line around.
fn text(bytes: &[u8]) -> String {
    let turns =
        |letter: char| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|letter| if letter.is_control() || turns(letter) { '\u{fffd}' } else { letter }).collect()
}

fn distances(numbers: &BTreeSet<usize>) -> Vec<usize> {
    let mut before = 0;
    numbers.iter().map(|number| number - std::mem::replace(&mut before, *number)).collect()
}

/// Which task reads files or links that another one left.
fn edges(records: &[Record]) -> Vec<Edge> {
    let mut makers: HashMap<&[u8], Vec<(usize, &Output)>> = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        for entry in &record.outputs.entries {
            if matches!(entry.output, Output::File { .. } | Output::Link { .. }) {
                makers.entry(&entry.path).or_default().push((number, &entry.output));
            }
        }
    }
    let mut found: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
    for (to, record) in records.iter().enumerate() {
        for (path, seen) in record.trace.seen.iter().filter(|(path, _)| path.root() == Root::Workspace) {
            for (from, output) in makers.get(path.relative()).into_iter().flatten().filter(|(from, _)| *from != to) {
                let (fresh, stale) = found.entry((*from, to)).or_default();
                match (&seen.fact, output) {
                    (Observation::File { digest, .. }, Output::File { digest: left, .. }) if digest == left => {
                        *fresh += 1
                    }
                    (Observation::Link { target }, Output::Link { target: left }) if target == left => *fresh += 1,
                    (Observation::File { .. } | Observation::Link { .. }, _) => *stale += 1,
                    _ => {}
                }
            }
        }
    }
    let edges = found.into_iter().filter(|(_, (fresh, stale))| fresh + stale > 0);
    edges.map(|((from, to), (fresh, stale))| Edge { from, to, fresh, stale }).collect()
}

fn render(data: &Data) -> String {
    let json = serde_json::to_string(data).unwrap_or_default().replace('<', "\\u003c");
    // In this order: what the data holds is not searched for marks.
    TEMPLATE.replacen("/*STYLE*/", STYLE, 1).replacen("/*SCRIPT*/", SCRIPT, 1).replacen("/*DATA*/", &json, 1)
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;

//! The stored form of a manifest: a Merkle tree with one node per directory, named by the digest of its bytes.
//!
//! ```text
//! node    = "wM1" names:count name*              names ascend by bytes
//! name    = name:string tag payload [child]      tag = kind (+ 0x80 modified) (+ 0x20 cleared when a child node follows)
//! kinds   : f: digest size mode · l: target · d: mode · r: nothing · p: nothing (a directory on the way, not an output)
//! child   = digest of the node below             only with d, r and p; always with p
//! ```
//! A letter in upper case has a child. Canonical as traces are; equal subtrees are one node. A reader trusts no byte: each
//! node must hash to its name, and paths, depth, counts and the total that shared nodes expand to are limited.

use std::collections::HashSet;

use super::output::{DEPTH_MAX, check_list, tree_order};
use super::{Entry, Manifest, Output};
use crate::codec::{Budget, DecodeError, PATH_BYTES_MAX, PATHS_MAX, Reader, Writer, check_name};
use crate::digest::Digest;
use crate::error::StoreError;

const HEADER: &[u8] = b"wM1";
const MODIFIED: u8 = 0x80;

/// Letters are lower case without a child and upper case with one.
const CHILDLESS: u8 = 0x20;

/// The smallest name: a length, one byte, a tag.
const NAME_BYTES_MIN: usize = 3;

/// A manifest as nodes, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The digest of the root node.
    pub root: Digest,
    /// Every distinct node, children before parents.
    pub nodes: Vec<(Digest, Vec<u8>)>,
}

/// A directory under construction: its names so far, and how it hangs in the directory above.
struct Open<'a> {
    name: &'a [u8],
    entry: Option<&'a Entry>,
    names: Vec<(&'a [u8], Option<&'a Entry>, Option<Digest>)>,
}

impl Manifest {
    /// The manifest as a tree of nodes.
    pub fn to_tree(&self) -> Tree {
        // Path order is not tree order: `a-b` comes before `a/b`, but after the directory `a` is done.
        let mut sorted: Vec<&Entry> = self.entries.iter().collect();
        sorted.sort_by(|one, two| tree_order(&one.path, &two.path));

        let mut builder = TreeBuilder { nodes: Vec::new(), known: HashSet::new() };
        let mut stack = vec![Open { name: b"", entry: None, names: Vec::new() }];
        for entry in sorted {
            let mut names: Vec<&[u8]> = entry.path.split(|&byte| byte == b'/').collect();
            let last = names.pop().unwrap_or_default();
            let shared = stack[1..].iter().zip(&names).take_while(|(open, name)| open.name == **name).count();
            builder.close(&mut stack, shared + 1);
            for &name in &names[shared..] {
                // The directory's own entry, if it has one, came just before and still hangs above as a childless name.
                let above = stack.last_mut().map(|open| &mut open.names);
                let own = above.and_then(|above| above.pop_if(|(before, ..)| *before == name));
                stack.push(Open { name, entry: own.and_then(|(_, entry, _)| entry), names: Vec::new() });
            }
            if let Some(open) = stack.last_mut() {
                open.names.push((last, Some(entry), None));
            }
        }
        builder.close(&mut stack, 1);
        let root = builder.node(&stack[0].names);
        Tree { root, nodes: builder.nodes }
    }

    /// Reads a tree back. `fetch` gives the bytes of a node; they are checked against their digest here.
    pub fn from_tree(
        root: Digest,
        mut fetch: impl FnMut(&Digest) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Manifest, StoreError> {
        let mut manifest = Manifest::default();
        let mut budget = Budget::new();
        let mut pending = vec![(Vec::new(), root, 0)];
        while let Some((prefix, digest, depth)) = pending.pop() {
            let bytes = fetch(&digest)?;
            let damaged = |error: DecodeError| StoreError::damaged_part(&digest, "list of outputs", error);
            if Digest::of(&bytes) != digest {
                return Err(damaged(DecodeError::Digest));
            }
            read_node(&bytes, &prefix, depth, &mut budget, &mut manifest.entries, &mut pending).map_err(damaged)?;
        }
        manifest.entries.sort_unstable_by(|one, two| one.path.cmp(&two.path));
        manifest.check().map_err(|error| StoreError::damaged_part(&root, "list of outputs", error))?;
        Ok(manifest)
    }

    /// Whether the entries are what a manifest promises: sorted, plain relative paths, each once; nothing below a file or a
    /// link, nothing but removals below a removal; removals marked as modified; permission bits and targets possible.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.entries.iter().any(|entry| entry.output == Output::Removed && !entry.modified) {
            return Err(DecodeError::Kind);
        }
        check_list(self.entries.iter().map(|entry| (entry.path.as_slice(), &entry.output)))
    }

    /// Total bytes of the files.
    pub fn output_bytes(&self) -> u64 {
        let size = |entry: &Entry| if let Output::File { size, .. } = entry.output { size } else { 0 };
        self.entries.iter().map(size).fold(0, u64::saturating_add)
    }
}

struct TreeBuilder {
    nodes: Vec<(Digest, Vec<u8>)>,
    known: HashSet<Digest>,
}

impl TreeBuilder {
    /// Finishes the innermost directories until `keep` are open.
    fn close(&mut self, stack: &mut Vec<Open<'_>>, keep: usize) {
        while stack.len() > keep {
            let Some(done) = stack.pop() else { return };
            let digest = self.node(&done.names);
            if let Some(above) = stack.last_mut() {
                above.names.push((done.name, done.entry, Some(digest)));
            }
        }
    }

    /// Encodes one directory.
    fn node(&mut self, names: &[(&[u8], Option<&Entry>, Option<Digest>)]) -> Digest {
        let mut out = Writer::new(HEADER);
        out.count(names.len());
        for (name, entry, child) in names {
            out.string(name);
            write_name(&mut out, *entry, child.as_ref());
        }
        let bytes = out.finish();
        let digest = Digest::of(&bytes);
        if self.known.insert(digest) {
            self.nodes.push((digest, bytes));
        }
        digest
    }
}

fn write_name(out: &mut Writer, entry: Option<&Entry>, child: Option<&Digest>) {
    let kind = entry.map_or(b'p', |entry| entry.output.letter());
    let case = if child.is_some() { 0 } else { CHILDLESS };
    let modified = if entry.is_some_and(|entry| entry.modified) { MODIFIED } else { 0 };
    out.byte((kind & !CHILDLESS) | case | modified);
    if let Some(entry) = entry {
        entry.output.write(out);
    }
    if let Some(child) = child {
        out.digest(child);
    }
}

/// The blobs that one node names, and the nodes below it.
pub(crate) fn node_refs(bytes: &[u8]) -> Result<(Vec<Digest>, Vec<Digest>), DecodeError> {
    let (mut entries, mut pending) = (Vec::new(), Vec::new());
    read_node(bytes, b"", 0, &mut Budget::new(), &mut entries, &mut pending)?;
    let blobs = entries.iter().filter_map(|entry| match entry.output {
        Output::File { digest, .. } => Some(digest),
        _ => None,
    });
    Ok((blobs.collect(), pending.into_iter().map(|(_, digest, _)| digest).collect()))
}

/// Reads one node: its outputs go to `entries`, the directories below it to `pending`.
fn read_node(
    bytes: &[u8],
    prefix: &[u8],
    depth: usize,
    budget: &mut Budget,
    entries: &mut Vec<Entry>,
    pending: &mut Vec<(Vec<u8>, Digest, usize)>,
) -> Result<(), DecodeError> {
    // A shared node is work every time it is met, so its bytes count every time.
    budget.spend(bytes.len())?;
    let mut input = Reader::new(bytes, HEADER)?;
    let names = input.count(NAME_BYTES_MIN, PATHS_MAX)?;
    // Only the root may be empty: an empty node below it would be a second spelling of nothing.
    if depth >= DEPTH_MAX || (names == 0 && depth > 0) {
        return Err(DecodeError::Shape);
    }
    let mut before: &[u8] = b"";
    for _ in 0..names {
        let name = input.string(PATH_BYTES_MAX)?;
        check_name(name)?;
        if name <= before {
            return Err(DecodeError::Order);
        }
        before = name;
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        budget.spend(path.len())?;
        if path.len() > PATH_BYTES_MAX || entries.len() >= PATHS_MAX {
            return Err(DecodeError::TooLarge);
        }
        let tag = input.byte()?;
        let (modified, has_child) = (tag & MODIFIED != 0, tag & CHILDLESS == 0);
        let output = match (tag & !MODIFIED) | CHILDLESS {
            b'p' if has_child && !modified => None,
            letter => Some(Output::read(&mut input, letter)?),
        };
        if has_child {
            if matches!(output, Some(Output::File { .. } | Output::Link { .. })) {
                return Err(DecodeError::Shape);
            }
            pending.push((path.clone(), input.digest()?, depth + 1));
        }
        entries.extend(output.map(|output| Entry { path, output, modified }));
    }
    input.finish()
}

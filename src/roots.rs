//! Symbolic roots: how absolute paths of this machine become paths of a record, and back.
//!
//! A record made in one clone may be used in another only if the program would have asked the same questions there. It asks for
//! paths that it got in three ways: relative to the workspace (these move with it), through `$HOME` (these move with the home),
//! and as plain absolute paths (these stay). The absolute path alone does not tell which way was taken, so [`Roots::classify`]
//! decides by what else was asked:
//!
//! - At or below the workspace: it moves with the workspace.
//! - Beside or above the workspace, sharing an ancestor with it (`/`, which is everybody's ancestor, does not count): reached by
//!   walking up or through `..`, and named by how far up ([`Root::Above`]): another clone has other neighbours.
//! - If that shared ancestor also leads to the home, `~/.name` is taken as reached through `$HOME`, unless the same name was
//!   looked for in a directory between the ancestor and the workspace: then the program was walking up.
//! - A path beside the workspace may also have been named in full. Records hold both readings ([`Roots::fixed`]).
//!
//! The assumption under all this (equivariance): a program behaves differently in another place only because of what it finds
//! there, or because of paths in its arguments and environment, which are in the key ([`Roots::substitute`]).
//!
//! An upward walk in a deeper workspace visits more directories than the record knows of: [`Roots::extra_probes`].

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use wink_store::{Observation, Trace};
use wink_store::{Root, TreePath};

/// What stands for the workspace and the home in substituted bytes; no argument or variable can hold a NUL.
const WORKSPACE_MARK: &[u8] = b"\0W";
const HOME_MARK: &[u8] = b"\0H";
/// What a NUL of the input becomes, so that no input can imitate a marker.
const NUL_MARK: &[u8] = b"\0N";

/// Where a record with these paths holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// In every clone.
    #[default]
    Anywhere,
    /// Only in a workspace at this absolute path.
    Here,
}

/// What else must hold before a record from a shallower workspace may be used here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Absolute paths of this machine at which nothing may be.
    pub absent: Vec<Vec<u8>>,
}

/// The symbolic roots of one run.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Absolute, without a slash at the end; empty for `/`.
    workspace: Vec<u8>,
    /// As `workspace`; a home of `/` would name everything and counts as none.
    home: Option<Vec<u8>>,
    /// Where the first n names of `workspace` end, for n = 0, 1, ….
    ends: Vec<usize>,
}

impl Roots {
    /// The roots of a workspace and a home, both canonical and absolute.
    pub fn new(workspace: &Path, home: Option<&Path>) -> Roots {
        let plain = |path: &Path| normal(path.as_os_str().as_encoded_bytes());
        let workspace = plain(workspace);
        let slashes = workspace.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let ends = slashes.chain([workspace.len()]).collect::<BTreeSet<_>>().into_iter().collect();
        Roots { workspace, home: home.map(plain).filter(|home| !home.is_empty()), ends }
    }

    /// How many names the workspace's path has.
    pub fn depth(&self) -> u16 {
        u16::try_from(self.ends.len() - 1).unwrap_or(u16::MAX)
    }

    /// The directory `level` steps above the workspace; empty for `/`, where it stops.
    fn ancestor(&self, level: usize) -> &[u8] {
        &self.workspace[..self.ends[(self.ends.len() - 1).saturating_sub(level)]]
    }

    /// Whether a path is the workspace, the home, or a directory above one of them.
    pub fn is_on_the_way(&self, path: &[u8]) -> bool {
        let path = normal(path);
        let leads = |to: &[u8]| below(to, &path).is_some();
        leads(&self.workspace) || self.home.as_deref().is_some_and(leads)
    }

    /// The symbolic path of every observed absolute path of one run, in the same order, and whether the record must be bound.
    /// It needs all of them at once: what else was looked for decides what a path meant.
    pub fn classify(&self, paths: &[&[u8]]) -> (Vec<TreePath>, Bound) {
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| normal(path)).collect();
        let observed: HashSet<&[u8]> = paths.iter().map(Vec::as_slice).collect();
        // In a workspace of `/` nothing is outside, so nothing can be told apart.
        let bound = if self.workspace.is_empty() { Bound::Here } else { Bound::Anywhere };
        let classified = paths.iter().map(|path| self.classify_one(path, &observed)).collect();
        (classified, bound)
    }

    fn classify_one(&self, path: &[u8], observed: &HashSet<&[u8]>) -> TreePath {
        if let Some(relative) = below(path, &self.workspace) {
            return tree(Root::Workspace, relative);
        }
        let fixed = path.strip_prefix(b"/").unwrap_or(path);
        let of_home = self.home.as_deref().and_then(|home| below(path, home));
        let levels = 1..self.ends.len() - 1;
        let shared = levels
            .map(|level| (level, self.ancestor(level)))
            .find_map(|(level, ancestor)| below(path, ancestor).map(|relative| (level, ancestor, relative)));
        let Some((level, ancestor, relative)) = shared else {
            return match of_home {
                Some(relative) => tree(Root::Home, relative),
                None => tree(Root::System, fixed),
            };
        };
        let leads_home = self.home.as_deref().is_some_and(|home| below(home, ancestor).is_some());
        if let (true, Some(in_home)) = (leads_home, of_home)
            && in_home.starts_with(b".")
            && !self.looked_for(first_name(relative), level, observed)
        {
            return tree(Root::Home, in_home);
        }
        tree(Root::Above(u16::try_from(level).unwrap_or(u16::MAX)), relative)
    }

    /// Whether `name` was asked for in the workspace or in a directory less than `level` above it.
    fn looked_for(&self, name: &[u8], level: usize, observed: &HashSet<&[u8]>) -> bool {
        (0..level).any(|lower| observed.contains([self.ancestor(lower), b"/", name].concat().as_slice()))
    }

    /// The other reading of a path that [`Roots::classify`] took for a neighbour of the workspace: the same place as a fixed one.
    /// A program that finds nothing through `$HOME` or a fixed path leaves the same trace as one that walks up, but elsewhere the
    /// two look in different places; who records `Absent` under both names is right in both cases.
    pub fn fixed(&self, path: &TreePath) -> Option<TreePath> {
        let Root::Above(_) = path.root() else {
            return None;
        };
        let absolute = normal(&self.absolute(path));
        match self.home.as_deref().and_then(|home| below(&absolute, home)) {
            Some(relative) => TreePath::new(Root::Home, relative).ok(),
            None => TreePath::new(Root::System, absolute.strip_prefix(b"/").unwrap_or_default()).ok(),
        }
    }

    /// The absolute path for the present workspace and home. Above `/` there is only `/`. Without a home, a path below it becomes
    /// one that no file system accepts (it holds a NUL), so that nothing there can be seen, nor found absent.
    pub fn absolute(&self, path: &TreePath) -> Vec<u8> {
        let root = self.place(path.root());
        match path.relative() {
            b"" if root.is_empty() => b"/".to_vec(),
            b"" => root.to_vec(),
            relative => [root, b"/", relative].concat(),
        }
    }

    /// Where a root is for the present workspace and home, without a slash at the end; see [`Roots::absolute`].
    pub fn place(&self, root: Root) -> &[u8] {
        match root {
            Root::Workspace => &self.workspace,
            Root::Above(level) => self.ancestor(usize::from(level)),
            Root::Home => self.home.as_deref().unwrap_or(b"/\0no home"),
            Root::System => b"",
        }
    }

    /// Replaces the absolute paths of the workspace and the home in an argument, a variable or a link target by markers. A path
    /// must end where a name ends, and start where a path starts: in `/work` neither `/work2` nor `src/work` is meant, but the
    /// `/work` of `-I/work/include` is.
    pub fn substitute(&self, bytes: &[u8]) -> Vec<u8> {
        let mut prefixes: Vec<(&[u8], &[u8])> = Vec::with_capacity(2);
        if !self.workspace.is_empty() {
            prefixes.push((&self.workspace, WORKSPACE_MARK));
        }
        if let Some(home) = &self.home {
            prefixes.push((home, HOME_MARK));
        }
        // The longer one first: if one lies in the other, the inner one is meant.
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let rest = &bytes[at..];
            let ends = |prefix: &[u8]| rest.starts_with(prefix) && !rest.get(prefix.len()).is_some_and(is_name_byte);
            let found = prefixes.iter().find(|(prefix, _)| ends(prefix)).filter(|_| path_starts(&bytes[..at]));
            match (found, byte) {
                (Some((prefix, mark)), _) => {
                    out.extend_from_slice(mark);
                    at += prefix.len();
                }
                (None, 0) => {
                    out.extend_from_slice(NUL_MARK);
                    at += 1;
                }
                (None, byte) => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        out
    }

    /// The opposite of [`Roots::substitute`], with the workspace at another place.
    pub fn restore(&self, substituted: &[u8], workspace: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(substituted.len());
        let mut rest = substituted;
        while let Some(&byte) = rest.first() {
            let marks =
                [(WORKSPACE_MARK, workspace), (HOME_MARK, self.home.as_deref().unwrap_or_default()), (NUL_MARK, b"\0")];
            match marks.into_iter().find(|(mark, _)| rest.starts_with(mark)) {
                Some((mark, place)) => {
                    out.extend_from_slice(place);
                    rest = &rest[mark.len()..];
                }
                None => {
                    out.push(byte);
                    rest = &rest[1..];
                }
            }
        }
        out
    }

    /// What else must be absent here before a record from a workspace of `recorded_depth` names may be used.
    ///
    /// An upward walk asks in every directory from the workspace to `/`. The record knows the answers of its own ancestors, counted
    /// from the workspace up, and of `/`; a deeper workspace has ancestors in between that the walk would ask too. A name was
    /// looked for by a walk if it was found absent in `/`, or asked for in `/` after it was absent in the topmost ancestor.
    pub fn extra_probes(&self, recorded_depth: u16, trace: &Trace) -> Extra {
        if recorded_depth == 0 || self.depth() <= recorded_depth {
            return Extra::default();
        }
        let mut absent: Vec<Vec<u8>> = Vec::new();
        // A walk that stops at the home, or anywhere below `/`: a name that was looked for in the workspace or beside it and in a
        // directory above, and found in none of them, is looked for everywhere in between here.
        let mut highest: std::collections::BTreeMap<&[u8], (u16, bool)> = std::collections::BTreeMap::new();
        for (path, seen) in &trace.seen {
            let level = match path.root() {
                Root::Workspace => 0,
                Root::Above(level) => level,
                Root::Home | Root::System => continue,
            };
            let name = path.relative();
            if !name.is_empty() && !name.contains(&b'/') {
                let known = highest.entry(name).or_insert((level, true));
                *known = (known.0.max(level), known.1 && seen.fact == Observation::Absent);
            }
        }
        for (name, (level, all_absent)) in highest {
            let walked = level > 0 && all_absent;
            for above in (usize::from(level) + 1..usize::from(self.depth())).filter(|_| walked) {
                absent.push([self.ancestor(above), b"/", name].concat());
            }
        }
        let top = if recorded_depth == 1 { Root::Workspace } else { Root::Above(recorded_depth - 1) };
        let absent_at_top = |name: &[u8]| {
            let path = TreePath::new(top, name).ok();
            let seen = path.and_then(|path| trace.seen.get(&path));
            seen.is_some_and(|seen| seen.fact == Observation::Absent)
        };
        let walked = trace.seen.keys().any(|path| matches!(path.root(), Root::Above(_)) && !path.relative().is_empty());
        let mut names = BTreeSet::new();
        for (path, seen) in trace.seen.iter().filter(|(path, _)| path.root() == Root::System) {
            let name = path.relative();
            let in_root = !name.is_empty() && !name.contains(&b'/') && seen.fact == Observation::Absent;
            if (walked && in_root) || (!name.is_empty() && absent_at_top(name)) {
                names.insert(name);
            }
        }
        let between = usize::from(recorded_depth)..usize::from(self.depth());
        absent.extend(
            between.flat_map(|level| names.iter().map(move |name| [self.ancestor(level), b"/", name].concat())),
        );
        absent.sort();
        absent.dedup();
        Extra { absent }
    }
}

/// `path` without repeated or trailing slashes and `.`, and with `..` resolved by name; empty for `/`.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => _ = names.pop(),
            name => names.push(name),
        }
    }
    names.iter().flat_map(|name| [b"/".as_slice(), name]).collect::<Vec<_>>().concat()
}

/// A path of plain names, which `normal` made; a NUL in it, which no file system hands out, is replaced.
fn tree(root: Root, relative: &[u8]) -> TreePath {
    let without_nul: Vec<u8> = relative.iter().map(|&byte| if byte == 0 { b'?' } else { byte }).collect();
    match TreePath::new(root, &without_nul) {
        Ok(path) => path,
        Err(error) => unreachable!("{error}"),
    }
}

/// The part of `path` below `dir`, both normal; empty if they are equal.
fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(dir)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

fn first_name(relative: &[u8]) -> &[u8] {
    relative.split(|byte| *byte == b'/').next().unwrap_or_default()
}

fn is_name_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// Whether a path can start behind `before`: not in the middle of another one, unless what stands there is a flag (`-I`).
fn path_starts(before: &[u8]) -> bool {
    let start = before.iter().rposition(|byte| !is_name_byte(byte)).map_or(0, |at| at + 1);
    let (outside, name) = before.split_at(start);
    name.is_empty() || (name.starts_with(b"-") && outside.last() != Some(&b'/'))
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;

//! A directory tree as data: every name with its kind, its mode and its bytes (or link target), never its times.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How many differences are printed before the rest is only counted.
const SHOWN: usize = 30;

/// One name of a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: &'static str,
    pub mode: u32,
    pub bytes: Vec<u8>,
}

/// Relative path to entry.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Everything below `dir`, `.git` at the top apart.
pub fn snapshot(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(dir, Path::new(""), &mut tree);
    tree
}

fn walk(top: &Path, relative: &Path, tree: &mut Tree) {
    let dir = top.join(relative);
    let names = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for name in names {
        let name = name.unwrap();
        let path = relative.join(name.file_name());
        if path == Path::new(".git") {
            continue;
        }
        let full = top.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        let kind = meta.file_type();
        let (kind, bytes) = if kind.is_dir() {
            ("dir", Vec::new())
        } else if kind.is_symlink() {
            ("link", fs::read_link(&full).unwrap().into_os_string().into_vec())
        } else if kind.is_file() {
            ("file", fs::read(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display())))
        } else if kind.is_fifo() {
            ("fifo", Vec::new())
        } else if kind.is_socket() {
            ("socket", Vec::new())
        } else {
            ("device", Vec::new())
        };
        let mode = if kind == "link" { 0 } else { meta.permissions().mode() & 0o7777 };
        tree.insert(path.clone(), Entry { kind, mode, bytes });
        if kind == "dir" {
            walk(top, &path, tree);
        }
    }
}

/// Line by line what differs; empty when nothing does.
pub fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let mut paths: Vec<_> = left.keys().chain(right.keys()).collect();
    paths.sort();
    paths.dedup();
    let one = |path: &PathBuf| match (left.get(path), right.get(path)) {
        (Some(a), Some(b)) if a == b => None,
        (Some(a), Some(b)) => Some(format!("  {}: {} != {}", path.display(), show(a), show(b))),
        (Some(a), None) => Some(format!("- {}: {}", path.display(), show(a))),
        (None, Some(b)) => Some(format!("+ {}: {}", path.display(), show(b))),
        (None, None) => None,
    };
    paths.into_iter().filter_map(one).collect()
}

fn show(entry: &Entry) -> String {
    let head = String::from_utf8_lossy(&entry.bytes[..entry.bytes.len().min(60)]);
    format!("{} {:o} {} bytes {head:?}", entry.kind, entry.mode, entry.bytes.len())
}

/// Panics with the differences; `expected` is the left side (`-`: missing, `+`: too much).
#[track_caller]
pub fn assert_same(expected: &Tree, found: &Tree, when: &str) {
    let lines = differences(expected, found);
    if lines.is_empty() {
        return;
    }
    let shown = lines.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
    panic!("{when}: {} of {} paths differ\n{shown}", lines.len(), expected.len());
}

/// What was added or changed between two states of one directory.
pub fn changed(before: &Tree, after: &Tree) -> Vec<PathBuf> {
    after.iter().filter(|(path, entry)| before.get(*path) != Some(entry)).map(|(path, _)| path.clone()).collect()
}

/// Makes a directory hold exactly this.
pub fn lay_out(dir: &Path, tree: &Tree) {
    fs::create_dir_all(dir).unwrap();
    for (path, entry) in tree {
        let path = dir.join(path);
        match entry.kind {
            "dir" => fs::create_dir(&path).unwrap(),
            "link" => std::os::unix::fs::symlink(String::from_utf8_lossy(&entry.bytes).as_ref(), &path).unwrap(),
            _ => fs::write(&path, &entry.bytes).unwrap(),
        }
        if entry.kind != "link" {
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).unwrap();
        }
    }
}

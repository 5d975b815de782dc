//! What people do to files, twice: to the twin in memory, and for real to the world. Whether a step applies is decided by the twin.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::steps::{Step, Way};
use crate::common::tree::{Entry, Tree};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn file(bytes: Vec<u8>, mode: u32) -> Entry {
    Entry { kind: "file", mode, bytes }
}

fn dir() -> Entry {
    Entry { kind: "dir", mode: 0o755, bytes: Vec::new() }
}

fn kind(tree: &Tree, path: &Path) -> Option<&'static str> {
    if path.as_os_str().is_empty() {
        return Some("dir");
    }
    tree.get(path).map(|entry| entry.kind)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Makes the directories above a path, if nothing else is in their places.
fn make_way(tree: &mut Tree, ws: &Path, path: &Path) -> bool {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|part| !part.as_os_str().is_empty()).collect();
    above.reverse();
    if above.iter().any(|part| !matches!(kind(tree, part), None | Some("dir"))) {
        return false;
    }
    for part in above {
        if kind(tree, part).is_none() {
            fs::create_dir(ws.join(part)).unwrap();
            tree.insert(part.to_path_buf(), dir());
        }
    }
    true
}

/// `rm -rf`.
pub fn remove(tree: &mut Tree, ws: &Path, path: &Path) {
    match kind(tree, path) {
        None => return,
        Some("dir") => fs::remove_dir_all(ws.join(path)).unwrap(),
        Some(_) => fs::remove_file(ws.join(path)).unwrap(),
    }
    tree.retain(|below, _| !below.starts_with(path));
}

fn put(tree: &mut Tree, ws: &Path, path: &Path, entry: &Entry) {
    remove(tree, ws, path);
    let real = ws.join(path);
    match entry.kind {
        "dir" => fs::create_dir(&real).unwrap(),
        "link" => std::os::unix::fs::symlink(String::from_utf8_lossy(&entry.bytes).as_ref(), &real).unwrap(),
        _ => fs::write(&real, &entry.bytes).unwrap(),
    }
    if entry.kind != "link" {
        fs::set_permissions(&real, fs::Permissions::from_mode(entry.mode)).unwrap();
    }
    tree.insert(path.to_path_buf(), entry.clone());
}

/// Makes the tree be this one, touching what differs only: what a switch of branches does.
pub fn become_tree(tree: &mut Tree, ws: &Path, wanted: &Tree, area: impl Fn(&Path) -> bool) {
    let gone: Vec<PathBuf> = tree.keys().filter(|path| area(path) && !wanted.contains_key(*path)).cloned().collect();
    for path in gone {
        remove(tree, ws, &path);
    }
    for (path, entry) in wanted {
        let same = tree.get(path).is_some_and(|there| there == entry || (there.kind, entry.kind) == ("dir", "dir"));
        if !same {
            put(tree, ws, path, entry);
        }
    }
}

fn set_time(path: &Path, old: bool) {
    let now = SystemTime::now();
    let file = fs::File::open(path).unwrap();
    file.set_modified(if old { now - DAY } else { now }).unwrap();
}

/// Carries out a step that changes files. Others are not for here.
pub fn edit(tree: &mut Tree, ws: &Path, step: &Step) {
    match step {
        Step::Edit { path, text, times, way } => {
            let path = Path::new(path);
            let there = kind(tree, path);
            let fits = matches!((there, way), (None | Some("file"), _) | (Some("link"), Way::Replace));
            if !fits || !make_way(tree, ws, path) {
                return;
            }
            let bytes = text.repeat(*times).into_bytes();
            let real = ws.join(path);
            if *way == Way::Replace {
                let new = real.with_extension("new~");
                fs::write(&new, &bytes).unwrap();
                fs::rename(&new, &real).unwrap();
                tree.insert(path.to_path_buf(), file(bytes, 0o644));
                return;
            }
            fs::write(&real, &bytes).unwrap();
            if *way == Way::Old {
                set_time(&real, true);
            }
            let mode = tree.get(path).map_or(0o644, |entry| entry.mode);
            tree.insert(path.to_path_buf(), file(bytes, mode));
        }
        Step::Delete { path } => remove(tree, ws, Path::new(path)),
        Step::Rename { from, to } => {
            let (from, to) = (Path::new(from), Path::new(to));
            let fits = match (kind(tree, from), kind(tree, to)) {
                (Some(_), None) => kind(tree, parent(to)) == Some("dir"),
                (Some("file" | "link"), Some("file" | "link")) => true,
                _ => false,
            };
            if !fits || from == to || to.starts_with(from) {
                return;
            }
            fs::rename(ws.join(from), ws.join(to)).unwrap();
            let moved: Vec<PathBuf> = tree.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in moved {
                let entry = tree.remove(&path).unwrap();
                let rest = path.strip_prefix(from).unwrap();
                let path = if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) };
                tree.insert(path, entry);
            }
        }
        Step::Chmod { path, mode } => {
            if let Some(entry) = tree.get_mut(Path::new(path)).filter(|entry| entry.kind == "file") {
                fs::set_permissions(ws.join(path), fs::Permissions::from_mode(*mode)).unwrap();
                entry.mode = *mode;
            }
        }
        Step::Touch { path, old } if kind(tree, Path::new(path)) == Some("file") => set_time(&ws.join(path), *old),
        Step::MakeDir { path } => {
            let path = Path::new(path);
            match kind(tree, path) {
                Some("dir") => put(tree, ws, path, &file(b"was a directory\n".to_vec(), 0o644)),
                _ if make_way(tree, ws, path) => {
                    put(tree, ws, path, &dir());
                    put(tree, ws, &path.join("inside.txt"), &file(b"inside\n".to_vec(), 0o644));
                }
                _ => {}
            }
        }
        Step::Link { path, target } => {
            let path = Path::new(path);
            if kind(tree, path) != Some("dir") && make_way(tree, ws, path) {
                put(tree, ws, path, &Entry { kind: "link", mode: 0, bytes: target.clone().into_bytes() });
            }
        }
        _ => {}
    }
}

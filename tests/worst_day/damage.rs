//! Damage to every kind of stored byte: whatever was done to the store, the next run gives the right tree.

use std::fs;
use std::path::{Path, PathBuf};

use super::build::calm;
use crate::common::mounted::mount;
use crate::common::{Run, World, assert_same, snapshot};

/// What can be damaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Blob,
    Pack,
    Index,
    Wal,
    Log,
    Root,
    Format,
    Locks,
    Socket,
    DaemonLog,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damage {
    Flip,
    Empty,
    Half,
    Delete,
    Directory,
    /// With another of its kind; of what there is one of, with nothing.
    Swap,
    /// Of an older program, or a newer one: the file that says so.
    Older,
    Newer,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tree {
    Plain,
    Mounted,
    /// Unmounted, the daemon stopped, and mounted again.
    Asleep,
}

const KINDS: [Kind; 10] = [
    Kind::Blob,
    Kind::Pack,
    Kind::Index,
    Kind::Wal,
    Kind::Log,
    Kind::Root,
    Kind::Format,
    Kind::Locks,
    Kind::Socket,
    Kind::DaemonLog,
];
const DAMAGES: [Damage; 8] = [
    Damage::Flip,
    Damage::Empty,
    Damage::Half,
    Damage::Delete,
    Damage::Directory,
    Damage::Swap,
    Damage::Older,
    Damage::Newer,
];

fn files(dir: &Path) -> Vec<PathBuf> {
    if !dir.exists() {
        return Vec::new();
    }
    snapshot(dir).into_iter().filter(|(_, entry)| entry.kind == "file").map(|(path, _)| dir.join(path)).collect()
}

/// The files of a kind.
pub fn stored(world: &World, kind: Kind) -> Vec<PathBuf> {
    let is_pack = |path: &PathBuf| fs::read(path).unwrap().starts_with(b"wP1");
    let blobs = files(&world.store.join("blobs")).into_iter();
    let layers = files(&world.store.join("layers")).into_iter();
    let named = |name: &str| vec![world.store.join(name)];
    let found = match kind {
        Kind::Blob => blobs.filter(|path| !is_pack(path)).collect(),
        Kind::Pack => blobs.filter(is_pack).collect(),
        Kind::Log => layers.filter(|path| path.ends_with("log")).collect(),
        Kind::Root => layers.filter(|path| path.ends_with("root")).collect(),
        Kind::Locks => files(&world.store.join("locks")),
        Kind::Index => named("index.sqlite"),
        Kind::Wal => named("index.sqlite-wal"),
        Kind::Format => named("format"),
        Kind::Socket => named("daemon.sock"),
        Kind::DaemonLog => named("daemon.log"),
    };
    found.into_iter().filter(|path: &PathBuf| path.symlink_metadata().is_ok()).collect()
}

/// Damages all of them.
pub fn spoil(paths: &[PathBuf], damage: Damage) {
    if damage == Damage::Swap {
        let contents: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        for (path, bytes) in paths.iter().zip(contents.iter().cycle().skip(1)) {
            fs::write(path, bytes).unwrap();
        }
        return;
    }
    for path in paths {
        let mut bytes = fs::read(path).unwrap_or_default();
        let middle = bytes.len() / 2;
        match damage {
            Damage::Flip => match bytes.get_mut(middle) {
                Some(byte) => *byte ^= 0x40,
                None => bytes.push(b'x'),
            },
            Damage::Empty => bytes.clear(),
            Damage::Half => bytes.truncate(middle),
            Damage::Older => bytes = b"wink store 0\n".to_vec(),
            Damage::Newer => bytes = b"wink store 99\n".to_vec(),
            Damage::Delete | Damage::Directory | Damage::Swap => {}
        }
        match damage {
            Damage::Delete => fs::remove_file(path).unwrap(),
            Damage::Directory => {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }
            // As root the mode of a blob does not matter.
            _ => fs::write(path, &bytes).unwrap(),
        }
    }
}

pub const LINE: &str =
    "mkdir -p out/deep/er && cat src/a > out/a && cat src/a src/b > out/deep/er/ab && ln -sf a out/link && echo built";

pub fn edit(world: &World, version: u32) {
    world.write("src/a", format!("alpha {version}\n").repeat(900));
    world.write("src/b", format!("beta {version}\n").repeat(500));
}

/// Runs it and looks at everything it left.
fn build(world: &World, version: u32, when: &str) -> Run {
    let run = world.run(&["/bin/sh", "-c", LINE]);
    assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{when}: {run:?}");
    calm(&run, 2);
    let a = format!("alpha {version}\n").repeat(900);
    let b = format!("beta {version}\n").repeat(500);
    assert!(world.text("src/a") == a && world.text("src/b") == b, "{when}: sources");
    assert!(world.text("out/a") == a && world.text("out/link") == a, "{when}: {run:?}");
    assert!(world.text("out/deep/er/ab") == a + &b, "{when}: {run:?}");
    let names: Vec<PathBuf> = world.tree().into_keys().collect();
    let expected =
        ["out", "out/a", "out/deep", "out/deep/er", "out/deep/er/ab", "out/link", "src", "src/a", "src/b", "wink.toml"];
    assert_eq!(names, expected.map(PathBuf::from), "{when}: {run:?}");
    run
}

fn wink(world: &World, args: &[&str], when: &str) -> Run {
    let run = world.call().dir("/").wink(args);
    calm(&run, 1);
    assert!(run.code <= 1, "{when}: {run:?}");
    run
}

fn case(tree: Tree, kind: Kind, damage: Damage) -> Option<String> {
    let when = format!("{tree:?} {kind:?} {damage:?}");
    let world = World::new("damage");
    let root = world.ws.to_str().unwrap();
    edit(&world, 1);
    if tree != Tree::Plain {
        mount(&world);
    }
    build(&world, 1, &when);
    if tree == Tree::Asleep {
        wink(&world, &["unmount", root], &when);
        assert_eq!(wink(&world, &["daemon", "stop"], &when).code, 0, "{when}");
    }
    let mut paths = stored(&world, kind);
    if kind == Kind::Socket && tree != Tree::Plain {
        paths = vec![world.store.join("daemon.sock")];
        if tree == Tree::Mounted {
            // The daemon still listens at it, by another name.
            fs::rename(&paths[0], world.root.join("socket")).unwrap();
            fs::write(&paths[0], "a file").unwrap();
        } else {
            fs::write(&paths[0], "a file").unwrap();
        }
    }
    let is_of_format = matches!(damage, Damage::Older | Damage::Newer);
    if paths.is_empty() || damage == Damage::Swap && paths.len() < 2 || is_of_format && kind != Kind::Format {
        return None;
    }
    spoil(&paths, damage);
    let mut said = String::new();
    if tree == Tree::Asleep {
        let run = wink(&world, &["mount", root], &when);
        if run.code != 0 {
            assert_eq!(run.lines().len(), 1, "{when}: says why: {run:?}");
            said = format!(" (not mounted: {})", run.err().trim());
        }
    }
    wink(&world, &["status"], &when);
    let first = build(&world, 1, &format!("{when}, first"));
    world.remove("out");
    let second = build(&world, 1, &format!("{when}, second"));
    wink(&world, &["status"], &when);
    edit(&world, 2);
    let third = build(&world, 2, &format!("{when}, edited"));
    world.remove("out");
    let last = build(&world, 2, &format!("{when}, last"));
    // All but what wink must not touch, or cannot do without, is mended by then.
    let stays = damage == Damage::Directory
        && !matches!(kind, Kind::Blob | Kind::Pack | Kind::Root | Kind::Socket | Kind::DaemonLog);
    if !stays && kind != Kind::Format {
        last.hit();
    }
    let before = world.tree();
    if kind == Kind::Socket && tree == Tree::Mounted {
        let _ = fs::remove_dir(&paths[0]);
        let _ = fs::remove_file(&paths[0]);
        fs::rename(world.root.join("socket"), &paths[0]).unwrap();
        assert_same(&before, &world.tree(), &when);
    }
    if tree != Tree::Plain && said.is_empty() {
        // Without its index or its log nothing can be made real; what was shown goes out of sight then, not before.
        let may_fail = matches!(kind, Kind::Index | Kind::Wal | Kind::Format | Kind::Log);
        let run = wink(&world, &["unmount", "--materialize", root], &when);
        assert!(run.code == 0 || may_fail && run.lines().len() == 1, "{when}: {run:?}");
        assert_same(&before, &world.tree(), &when);
    }
    let statuses = [&first, &second, &third, &last].map(Run::status).join(" ");
    Some(format!("{when}: {statuses}{said}"))
}

fn all(tree: Tree) {
    let mut done = 0;
    for kind in KINDS {
        for damage in DAMAGES {
            if let Some(line) = case(tree, kind, damage) {
                println!("{line}");
                done += 1;
            }
        }
    }
    crate::common::figure(&format!("damages, {tree:?}"), done);
    assert!(done > 20, "only {done} damages were done");
}

#[test]
fn no_damage_gives_a_wrong_tree() {
    all(Tree::Plain);
}

#[test]
fn no_damage_gives_a_wrong_tree_that_is_mounted() {
    all(Tree::Mounted);
}

#[test]
fn no_damage_gives_a_wrong_tree_that_is_mounted_later() {
    all(Tree::Asleep);
}

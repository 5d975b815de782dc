//! The properties: like a tree in which everything attached is a real file, after every operation, every replay and every compaction; and
//! an operation that breaks off loses nothing and brings nothing back.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use wink_fs::attr::{Kind, SetAttr};
use wink_fs::backing::{Access, Backing, BackingFile, RenameMode, Result, XattrMode};
use wink_fs::name::Name;
use wink_fs::status::Status;
use wink_store::{Output, Step};

use crate::desk::{self, Desk, Scene, Walk, layered, name, walk};
use crate::memory::{Memory, MemoryFile};

/// Few names, so that paths meet; some sort between a directory and what it holds.
const NAMES: [&str; 4] = ["a", "a-", "a0", "b"];
const DEPTH_MAX: usize = 3;
/// Cases of an everyday run, unless `PROPTEST_CASES` says otherwise: some seconds.
const CASES: u32 = 200;
/// Calls of the real tree that an operation makes at most: one of them may fail.
const CALLS_MAX: u64 = 30;

#[derive(Clone, Debug)]
enum Op {
    Attach { at: String, entries: Vec<(String, u8)> },
    Create(String, u8),
    Write(String, u8),
    Link(String),
    MakeDir(String),
    Remove(String),
    RemoveDir(String),
    Rename(String, String, RenameMode),
    HardLink(String, String),
    Mode(String, u8),
    Xattr(String),
    Materialize(String),
    Compact,
    Reopen,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..=DEPTH_MAX).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let at = prop_oneof![Just(String::new()), path()];
    let mode = prop::sample::select(&[RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][..]);
    prop_oneof![
        6 => (at, prop::collection::vec((path(), any::<u8>()), 1..6)).prop_map(|(at, entries)| Op::Attach { at, entries }),
        2 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::Create(path, byte)),
        2 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::Write(path, byte)),
        1 => path().prop_map(Op::Link),
        2 => path().prop_map(Op::MakeDir),
        3 => path().prop_map(Op::Remove),
        2 => path().prop_map(Op::RemoveDir),
        6 => (path(), path(), mode).prop_map(|(from, to, mode)| Op::Rename(from, to, mode)),
        2 => (path(), path()).prop_map(|(from, to)| Op::HardLink(from, to)),
        1 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::Mode(path, byte)),
        1 => path().prop_map(Op::Xattr),
        1 => path().prop_map(Op::Materialize),
        1 => Just(Op::Compact),
        1 => Just(Op::Reopen),
    ]
}

/// The directory and name of a path, found as a kernel does.
fn resolve<B: Backing>(tree: &B, path: &str) -> Result<(B::Dir, Name)> {
    let mut dir = tree.child(&tree.root(), &name("w"));
    let mut names = path.split('/').peekable();
    while let Some(part) = names.next() {
        let part = name(part);
        if names.peek().is_none() {
            return Ok((dir, part));
        }
        if tree.attr(&dir, &part)?.kind != Kind::Dir {
            return Err(Status::NotDir);
        }
        dir = tree.child(&dir, &part);
    }
    Err(Status::Invalid)
}

fn kind<B: Backing>(tree: &B, path: &str) -> Option<Kind> {
    let (dir, name) = resolve(tree, path).ok()?;
    tree.attr(&dir, &name).ok().map(|attr| attr.kind)
}

/// One operation that both know.
fn run<B: Backing<File = MemoryFile>>(tree: &B, op: &Op) -> Result<()> {
    match op {
        Op::Create(path, byte) => {
            let (dir, name) = resolve(tree, path)?;
            tree.create(&dir, &name, 0o600 + u32::from(byte % 8)).map(drop)
        }
        Op::Write(path, byte) => {
            let (dir, name) = resolve(tree, path)?;
            tree.open(&dir, &name, Access::ReadWrite)?.write_at(&[*byte], 1)
        }
        Op::Link(path) => {
            let (dir, name) = resolve(tree, path)?;
            tree.make_link(&dir, &name, path.as_bytes())
        }
        Op::MakeDir(path) => {
            let (dir, name) = resolve(tree, path)?;
            tree.make_dir(&dir, &name, 0o711)
        }
        Op::Remove(path) => {
            let (dir, name) = resolve(tree, path)?;
            tree.remove_file(&dir, &name)
        }
        Op::RemoveDir(path) => {
            let (dir, name) = resolve(tree, path)?;
            tree.remove_dir(&dir, &name)
        }
        Op::Rename(from, to, mode) => {
            let ((dir, name), (to_dir, to_name)) = (resolve(tree, from)?, resolve(tree, to)?);
            tree.rename(&dir, &name, &to_dir, &to_name, *mode)
        }
        Op::HardLink(from, to) => {
            let ((dir, name), (to_dir, to_name)) = (resolve(tree, from)?, resolve(tree, to)?);
            tree.hard_link(&dir, &name, &to_dir, &to_name)
        }
        Op::Mode(path, byte) => {
            let (dir, name) = resolve(tree, path)?;
            tree.set_attr(&dir, &name, &SetAttr { mode: Some(0o700 + u32::from(byte % 64)), ..SetAttr::default() })
        }
        Op::Xattr(path) => {
            let (dir, name) = resolve(tree, path)?;
            tree.set_xattr(&dir, Some(&name), b"user.key", path.as_bytes(), XattrMode::Set)
        }
        Op::Attach { .. } | Op::Materialize(_) | Op::Compact | Op::Reopen => Ok(()),
    }
}

/// What can be attached of `entries` to a tree as `model` is: with all directories that are missing, in the model's eyes; and how the model
/// looks then. Whatever is in the way is removed from both, if it can be.
fn attach(
    scene: &Scene,
    model: &Memory,
    at: &str,
    entries: &[(String, u8)],
) -> std::result::Result<Vec<(String, Output)>, TestCaseError> {
    if !at.is_empty() && kind(model, at) != Some(Kind::Dir) {
        return Ok(Vec::new());
    }
    let whole = |path: &str| if at.is_empty() { path.to_owned() } else { format!("{at}/{path}") };
    let mut pack: Vec<(String, Output)> = Vec::new();
    for (path, byte) in entries {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for part in ends.map(|end| &path[..end]) {
            let full = whole(part);
            let stands = kind(model, &full);
            if part.len() < path.len() && stands == Some(Kind::Dir) {
                continue;
            }
            let output = match byte % 4 {
                _ if part.len() < path.len() => desk::dir(part).1,
                0 => desk::link(part, path).1,
                1 => desk::dir(part).1,
                _ => desk::file(part, &[*byte; 3]).1,
            };
            if stands == Some(Kind::Dir) && matches!(output, Output::Dir { .. }) {
                continue;
            }
            if pack.iter().any(|(other, _)| other.starts_with(part)) {
                // The pack itself may have something there by now.
                break;
            }
            let removed = match stands {
                None => Ok(()),
                Some(Kind::Dir) => run(model, &Op::RemoveDir(full.clone())),
                Some(_) => run(model, &Op::Remove(full.clone())),
            };
            prop_assert_eq!(scene.tree.remove_at(full.as_bytes()), Ok(removed.is_ok()));
            if removed.is_err() {
                break;
            }
            let (dir, name) = resolve(model, &full).expect("its directory stands");
            match &output {
                Output::File { mode, .. } => {
                    scene.desk.blob(&[*byte; 3]);
                    let file = model.create(&dir, &name, *mode).expect("creating");
                    file.write_at(&[*byte; 3], 0).expect("writing");
                }
                Output::Link { target } => model.make_link(&dir, &name, target).expect("linking"),
                Output::Dir { mode } => model.make_dir(&dir, &name, *mode).expect("making"),
                Output::Removed => unreachable!("never made"),
            }
            pack.push((part.to_owned(), output));
        }
    }
    Ok(pack)
}

/// Does one operation on both, without faults.
fn step(scene: &mut Scene, model: &Memory, op: &Op) -> std::result::Result<(), TestCaseError> {
    match op {
        Op::Attach { at, entries } => {
            let pack = attach(scene, model, at, entries)?;
            let step = scene.desk.attach(at, pack);
            prop_assert_eq!(scene.tree.apply(&[step]), Ok(()));
        }
        Op::Materialize(path) => {
            scene.tree.materialize(path.as_bytes()).expect("making real");
        }
        Op::Compact => {
            let desk = scene.desk.clone();
            scene.tree.compact(|steps| *desk.log.lock() = steps.to_vec());
        }
        Op::Reopen => scene.tree = scene.reopened(),
        op => prop_assert_eq!(run(&scene.tree, op), run(model, op), "{:?}", op),
    }
    Ok(())
}

fn start() -> (Scene, Memory) {
    let model = Memory::new();
    model.dir("/w", 0o755).expect("the workspace");
    (Scene::new(), model)
}

/// What an operation that broke off may have left: at each path what was or what should be, all that was to stay, and every file's
/// bytes somewhere.
fn torn(left: &Walk, before: &Walk, after: &Walk) -> std::result::Result<(), TestCaseError> {
    let alike = |one: Option<&desk::Shown>, two: Option<&desk::Shown>| match (one, two) {
        (Some(one), Some(two)) => (one.kind, &one.bytes, one.mode) == (two.kind, &two.bytes, two.mode),
        (one, two) => one.is_none() && two.is_none(),
    };
    for (path, shown) in left {
        let known = alike(Some(shown), before.get(path)) || alike(Some(shown), after.get(path));
        prop_assert!(known, "{} shows {:?}: neither {:?} nor {:?}", path, shown, before.get(path), after.get(path));
    }
    for (path, shown) in before {
        if alike(Some(shown), after.get(path)) {
            prop_assert!(alike(Some(shown), left.get(path)), "{} is lost", path);
        }
        let kept = |walk: &Walk| walk.values().any(|other| other.kind == shown.kind && other.bytes == shown.bytes);
        prop_assert!(shown.kind == Kind::Dir || !kept(after) || kept(left), "the bytes of {} are lost", path);
    }
    Ok(())
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    config.max_shrink_iters = 20_000;
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions")));
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_layered_tree_is_like_a_real_one(ops in prop::collection::vec(op(), 1..30)) {
        let (mut scene, model) = start();
        for op in &ops {
            step(&mut scene, &model, op)?;
            prop_assert_eq!(scene.walk(), walk(&model), "after {:?}", op);
        }
        let before = walk(&model);
        scene.tree.materialize(b"").expect("making real");
        prop_assert_eq!(walk(&scene.memory), before);
        prop_assert!(scene.tree.is_empty());
    }

    #[test]
    fn an_operation_that_breaks_off_loses_nothing(
        ops in prop::collection::vec(op(), 1..15),
        last in op(),
        nth in 0..CALLS_MAX,
        logs in prop::option::of(0..2_usize),
    ) {
        let (mut scene, model) = start();
        for op in &ops {
            step(&mut scene, &model, op)?;
        }
        let before = walk(&model);
        *scene.desk.patience.lock() = logs;
        // With the log full, nothing fails but the log.
        if logs.is_none() {
            scene.memory.fail(nth, Status::Io);
        }
        match &last {
            Op::Materialize(path) => drop(scene.tree.materialize(path.as_bytes())),
            op => {
                let done = run(&scene.tree, op);
                let expected = run(&model, op);
                prop_assert!(done == expected || done.is_err(), "{:?}", done);
            }
        }
        scene.memory.heal();
        *scene.desk.patience.lock() = None;
        let after = walk(&model);
        torn(&walk(&scene.tree), &before, &after)?;
        torn(&walk(&scene.reopened()), &before, &after)?;
        scene.desk.check_blobs();
    }
}

#[test]
fn steps_that_attach_and_remove_are_one() {
    let scene = Scene::new();
    let desk: &Desk = &scene.desk;
    desk.blob(b"one");
    let steps = [desk.attach("", [desk::file("a", b"one")]), Step::Move { from: b"a".to_vec(), to: b"b".to_vec() }];
    scene.tree.apply(&steps).expect("applying");
    assert_eq!(scene.walk().into_keys().collect::<Vec<_>>(), ["/b"]);
    assert_eq!(walk(&layered(&scene.memory, desk, desk.replay(&steps))).len(), 1);
}

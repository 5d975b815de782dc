//! Renames between what is real, virtual, both and nothing, and what is left where they break off.

use wink_fs::backing::{Backing, RenameMode, Result};
use wink_fs::status::Status;

use crate::cases::scene;
use crate::desk::{Scene, Walk, dir, file};

fn rename(scene: &Scene, from: &str, to: &str, mode: RenameMode) -> Result<()> {
    let ((from_dir, from), (to_dir, to)) = (scene.spot(from), scene.spot(to));
    scene.tree.rename(&from_dir, &from, &to_dir, &to, mode)
}

/// `before` with everything at and below one path under another.
fn moved(mut before: Walk, from: &str, to: &str) -> Walk {
    let is_within =
        |path: &str, top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    before.retain(|path, _| !is_within(path, to));
    before
        .into_iter()
        .map(
            |(path, shown)| {
                if is_within(&path, from) { (format!("{to}{}", &path[from.len()..]), shown) } else { (path, shown) }
            },
        )
        .collect()
}

/// Renames and compares; whether what was renamed is real then.
fn check(scene: &Scene, from: &str, to: &str) -> bool {
    let before = scene.walk();
    rename(scene, from, to, RenameMode::Replace).unwrap_or_else(|status| panic!("{from} to {to}: {status}"));
    assert_eq!(scene.walk(), moved(before, &format!("/{from}"), &format!("/{to}")), "{from} to {to}");
    scene.is_real(to)
}

#[test]
fn what_is_only_virtual_stays_virtual() {
    let scene = scene();
    let number = scene.attr("gen/deep/x").unwrap().ino;
    let logged = scene.desk.log.lock().len();
    assert!(!check(&scene, "gen/deep/x", "out/x"), "a file");
    assert!(!check(&scene, "out/link", "src/link"), "a link");
    assert!(!check(&scene, "gen", "src/gen"), "a directory");
    assert!(!check(&scene, "out/x", "out/v"), "a file over a virtual one");
    assert_eq!(scene.attr("out/v").unwrap().ino, number);
    assert_eq!(scene.desk.log.lock().len(), logged + 5, "one step each, and one that removes");
    scene.attach("", [dir("empty")], &[]);
    assert!(!check(&scene, "src/gen", "empty"), "over an empty directory of the layer");
    scene.tree.make_dir(&scene.tree.dir_at(b"").unwrap(), &scene.spot("bare").1, 0o700).unwrap();
    assert!(!check(&scene, "empty", "bare"), "and over a real one");
}

#[test]
fn real_over_virtual_and_virtual_over_real() {
    let scene = scene();
    assert!(check(&scene, "src/a", "out/v"));
    assert!(check(&scene, "gen/deep/x", "out/v"));
    scene.remove("out/v").unwrap();
    assert_eq!(scene.attr("out/v").err(), Some(Status::NotFound), "and nothing comes back");
    // A real file that hides a virtual one moves away.
    assert!(check(&scene, "out/real", "src/real"));
    assert_eq!(scene.attr("out/real").err(), Some(Status::NotFound));
    // Into a directory that is not real yet.
    assert!(check(&scene, "src/real", "gen/deep/real"));
}

#[test]
fn directories_with_both_in_them() {
    let scene = scene();
    assert!(check(&scene, "out", "gen/deep/out"), "into a virtual directory");
    assert!(!scene.is_real("gen/deep/out/v") && scene.is_real("gen/deep/out/real"));
    assert!(check(&scene, "gen", "src/gen"), "merged ones");
    scene.attach("", [dir("empty")], &[]);
    assert!(check(&scene, "src", "empty"), "over an empty one");
    scene.tree.make_dir(&scene.tree.dir_at(b"").unwrap(), &scene.spot("src").1, 0o700).unwrap();
    assert!(check(&scene, "empty", "src"));
}

#[test]
fn what_rename_refuses() {
    let scene = scene();
    let before = scene.walk();
    use RenameMode::{Exchange, NoReplace, Replace};
    for (from, to, mode, status) in [
        ("none", "out/v", Replace, Status::NotFound),
        ("out/v", "none/x", Replace, Status::NotFound),
        ("out/real", "out/v", NoReplace, Status::Exists),
        ("out/v", "out/real", NoReplace, Status::Exists),
        ("out/v", "out/v", NoReplace, Status::Exists),
        ("out/v", "none", Exchange, Status::NotFound),
        ("gen", "gen/deep/new", Replace, Status::Invalid),
        ("gen/deep", "gen", Replace, Status::NotEmpty),
        ("gen/deep", "gen", Exchange, Status::Invalid),
        ("out/v", "gen", Replace, Status::IsDir),
        ("gen", "out/v", Replace, Status::NotDir),
        ("src", "gen", Replace, Status::NotEmpty),
        ("gen", "out", Replace, Status::NotEmpty),
        ("gen", "src", Replace, Status::NotEmpty),
    ] {
        assert_eq!(rename(&scene, from, to, mode), Err(status), "{from} to {to}");
        assert_eq!(scene.walk(), before, "{from} to {to}");
    }
    assert_eq!((rename(&scene, "out/v", "out/v", Replace), rename(&scene, "gen", "gen", Exchange)), (Ok(()), Ok(())));
    assert_eq!(scene.walk(), before);
}

#[test]
fn an_exchange_swaps_everything() {
    let scene = scene();
    let before = scene.walk();
    rename(&scene, "out", "gen", RenameMode::Exchange).unwrap();
    let there = moved(moved(moved(before, "/out", "/third"), "/gen", "/out"), "/third", "/gen");
    let swapped: Walk = there;
    assert_eq!(scene.walk(), swapped);
    rename(&scene, "src/a", "out/deep/x", RenameMode::Exchange).unwrap();
    assert_eq!(
        (scene.read("src/a").unwrap(), scene.read("out/deep/x").unwrap()),
        (b"deep".to_vec(), b"source".to_vec())
    );
    scene.walk();
}

#[test]
fn nothing_of_the_layer_leaves_the_mount() {
    let scene = scene();
    let blobs = scene.tree.child(&scene.tree.root(), &scene.spot("blobs").1);
    for (path, to) in [("out/v", "v"), ("gen", "gen"), ("out", "out")] {
        let ((dir, name), to) = (scene.spot(path), scene.spot(to).1);
        scene.tree.rename(&dir, &name, &blobs, &to, RenameMode::Replace).unwrap();
    }
    for (path, bytes) in [("v", b"virtual".as_slice()), ("gen/deep/x", b"deep"), ("out/real", b"real")] {
        assert_eq!(scene.memory.snapshot()[&format!("/blobs/{path}")].bytes, bytes);
    }
    assert!(scene.tree.is_empty());
    // And back, over something virtual.
    scene.attach("", [file("v", b"deep")], &[]);
    let ((dir, name), from) = (scene.spot("v"), scene.spot("v").1);
    scene.tree.rename(&blobs, &from, &dir, &name, RenameMode::Replace).unwrap();
    assert_eq!((scene.read("v").unwrap(), scene.tree.is_empty()), (b"virtual".to_vec(), true));
}

#[test]
fn a_log_that_fails_in_the_middle() {
    let scene = scene();
    let before = scene.walk();
    *scene.desk.patience.lock() = Some(0);
    assert_eq!(rename(&scene, "out", "gen/deep/new", RenameMode::Replace), Err(Status::NoSpace));
    assert_eq!(scene.walk(), before, "the real part is back");
    rename(&scene, "src/a", "out/v", RenameMode::Replace).unwrap();
    assert_eq!(scene.walk(), moved(before, "/src/a", "/out/v"), "what is left in the layer is hidden");
}

#[test]
fn a_directory_moved_to_where_something_is_out_of_sight() {
    for patience in 0..2 {
        let scene = scene();
        let top = scene.memory.child(&scene.memory.root(), &scene.spot("w").1);
        let out = scene.memory.child(&top, &scene.spot("out").1);
        // Behind the mount's back: what is virtual in it shows no more.
        scene.memory.remove_file(&out, &scene.spot("real").1).unwrap();
        scene.memory.remove_dir(&top, &scene.spot("out").1).unwrap();
        let before = scene.walk();
        *scene.desk.patience.lock() = Some(patience);
        match rename(&scene, "src", "out", RenameMode::Replace) {
            Ok(()) => assert_eq!(scene.walk(), moved(before, "/src", "/out")),
            Err(status) => assert_eq!((status, scene.walk(), patience), (Status::NoSpace, before, 0)),
        }
    }
}

//! The rules one by one.

use wink_fs::attr::{Kind, SetAttr};
use wink_fs::backing::{Access, Backing, BackingFile, Want, XattrMode};
use wink_fs::layered::Layered;
use wink_fs::status::Status;
use wink_store::{Digest, Step};

use crate::desk::{ATTACHED, Scene, dir, file, link, name, walk};
use crate::memory::OWNER;

/// `/w` with a real `src/a` and `out/real`, and virtual `out/v`, `out/link`, `gen/deep/x` over it.
pub fn scene() -> Scene {
    let scene = Scene::new();
    scene.memory.dir("/w/src", 0o755).unwrap();
    scene.memory.file("/w/src/a", b"source", 0o644).unwrap();
    scene.memory.dir("/w/out", 0o755).unwrap();
    scene.memory.file("/w/out/real", b"real", 0o644).unwrap();
    scene.attach(
        "",
        [
            file("out/v", b"virtual"),
            file("out/real", b"hidden"),
            link("out/link", "v"),
            dir("gen"),
            dir("gen/deep"),
            file("gen/deep/x", b"deep"),
        ],
        &[b"virtual", b"hidden", b"deep"],
    );
    scene
}

#[test]
fn real_wins_and_directories_show_both() {
    let scene = scene();
    assert_eq!(scene.names("").unwrap(), ["gen", "out", "src"]);
    assert_eq!(scene.names("out").unwrap(), ["link", "real", "v"]);
    assert_eq!(scene.read("out/real").unwrap(), b"real");
    assert_eq!(scene.read("out/v").unwrap(), b"virtual");
    assert_eq!(scene.read("gen/deep/x").unwrap(), b"deep");
    let walked = scene.walk();
    assert_eq!(walked["/out/link"].bytes, b"v");
    assert_eq!(walked["/gen/deep"].mode, 0o750);
    assert!(!scene.is_real("gen") && !scene.is_real("out/v"), "looking makes nothing real");
    assert_eq!(scene.tree.count(), (3, 17));
}

#[test]
fn what_a_virtual_entry_says_of_itself() {
    let scene = scene();
    let attr = scene.attr("out/v").unwrap();
    assert_eq!((attr.dev, attr.nlink, attr.size, attr.blocks, attr.mode), (0, 1, 7, 1, 0o640));
    assert_eq!((attr.uid, attr.gid), OWNER);
    assert!(attr.mtime >= ATTACHED && attr.mtime == attr.ctime && attr.mtime == attr.atime);
    let (out, v) = scene.spot("out/v");
    assert_eq!(scene.tree.origin(&out, &v), Ok(Some(Digest::of(b"virtual"))));
    assert_eq!(scene.tree.origin(&out, &name("real")), Ok(None));
    assert_eq!(scene.tree.get_xattr(&out, Some(&v), b"user.k"), Err(Status::NoAttribute));
    assert_eq!(scene.tree.list_xattrs(&out, Some(&v)), Ok(vec![]));
    let want = |write, execute| Want { read: true, write, execute };
    assert_eq!(scene.tree.permits(&out, Some(&v), want(true, false)), Ok(()));
    assert_eq!(scene.tree.permits(&out, Some(&v), want(false, true)), Err(Status::Access));
    assert_eq!(scene.tree.open(&out, &name("link"), Access::Read).err(), Some(Status::Loop));
    assert_eq!(scene.tree.read_link(&out, &v), Err(Status::Invalid));
    let (top, gen_name) = scene.spot("gen");
    assert_eq!(scene.tree.open(&top, &gen_name, Access::ReadWrite).err(), Some(Status::IsDir));
    assert_eq!(scene.tree.list(&scene.tree.child(&out, &v)).err(), Some(Status::NotDir));
    assert_eq!(scene.tree.dir_attr(&scene.tree.child(&top, &gen_name)).unwrap().ino, scene.attr("gen").unwrap().ino);
    assert_eq!(scene.tree.space(&scene.tree.child(&top, &gen_name)), scene.memory.space(&scene.memory.root()));
    assert_eq!(scene.tree.sync_dir(&scene.tree.child(&top, &gen_name)), Ok(()));
}

#[test]
fn an_open_blob_cannot_be_written() {
    let scene = scene();
    let (out, v) = scene.spot("out/v");
    let open = scene.tree.open(&out, &v, Access::Read).unwrap();
    assert_eq!(open.write_at(b"x", 0), Err(Status::ReadOnly));
    scene.walk();
}

#[test]
fn writing_makes_real_what_is_written() {
    let scene = scene();
    let mtime = scene.attr("gen/deep/x").unwrap().mtime;
    let before = scene.walk();
    let (deep, x) = scene.spot("gen/deep/x");
    drop(scene.tree.open(&deep, &x, Access::ReadWrite).unwrap());
    assert_eq!(scene.walk(), before, "nothing changed yet");
    let attr = scene.memory.look("/w/gen/deep/x").unwrap();
    assert_eq!((attr.mtime, attr.mode, (attr.uid, attr.gid)), (mtime, 0o640, OWNER));
    assert!(!scene.is_real("out/v"));
    scene.write("gen/deep/x", b"new").unwrap();
    let mut expected = before;
    expected.get_mut("/gen/deep/x").unwrap().bytes = b"new".to_vec();
    assert_eq!(scene.walk(), expected);
    // It left the layer: removed, it is gone.
    scene.remove("gen/deep/x").unwrap();
    expected.remove("/gen/deep/x");
    assert_eq!(scene.walk(), expected);
}

#[test]
fn each_kind_of_change_makes_real_first() {
    let scene = scene();
    let mode = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    let (out, v) = scene.spot("out/v");
    scene.tree.set_attr(&out, &v, &mode).unwrap();
    assert_eq!(scene.memory.look("/w/out/v").unwrap().mode, 0o700);
    scene.tree.set_attr(&out, &name("link"), &SetAttr { mtime: Some(ATTACHED), ..SetAttr::default() }).unwrap();
    assert_eq!(scene.memory.look("/w/out/link").unwrap().mtime, ATTACHED);
    scene.tree.set_dir_attr(&scene.tree.dir_at(b"gen").unwrap(), &mode).unwrap();
    assert_eq!(scene.memory.look("/w/gen").unwrap().mode, 0o700);
    assert!(!scene.is_real("gen/deep"));
    let (deep, x) = scene.spot("gen/deep/x");
    scene.tree.set_xattr(&deep, Some(&x), b"user.k", b"value", XattrMode::Set).unwrap();
    assert!(scene.is_real("gen/deep/x"));
    assert_eq!(scene.tree.get_xattr(&deep, Some(&x), b"user.k").unwrap(), b"value");
    let walked = scene.walk();
    assert_eq!((walked["/out/v"].mode, walked["/gen"].mode, walked["/gen/deep"].mode), (0o700, 0o700, 0o750));
}

#[test]
fn a_hard_link_of_a_virtual_file_is_one_of_a_real_one() {
    let scene = scene();
    let ((out, v), (deep, y)) = (scene.spot("out/v"), scene.spot("gen/deep/y"));
    assert_eq!(scene.tree.hard_link(&out, &v, &out, &name("link")), Err(Status::Exists));
    assert!(!scene.is_real("out/v"));
    scene.tree.hard_link(&out, &v, &deep, &y).unwrap();
    let walked = scene.walk();
    assert_eq!((walked["/gen/deep/y"].nlink, walked["/out/v"].nlink), (2, 2));
    let (top, gen_name) = scene.spot("gen");
    assert_eq!(scene.tree.hard_link(&top, &gen_name, &top, &name("n")), Err(Status::NotPermitted));
}

#[test]
fn a_name_is_free_only_if_it_is_free_in_both() {
    let scene = scene();
    for path in ["out/v", "out/real", "out/link", "gen"] {
        let (dir, name) = scene.spot(path);
        assert_eq!(scene.tree.create(&dir, &name, 0o644).err(), Some(Status::Exists), "{path}");
        assert_eq!(scene.tree.make_dir(&dir, &name, 0o755), Err(Status::Exists), "{path}");
        assert_eq!(scene.tree.make_link(&dir, &name, b"t"), Err(Status::Exists), "{path}");
        assert_eq!(scene.tree.make_node(&dir, &name, Kind::Pipe, 0o644, 0), Err(Status::Exists), "{path}");
    }
    let (deep, new) = scene.spot("gen/deep/new");
    scene.tree.create(&deep, &new, 0o600).unwrap().write_at(b"new", 0).unwrap();
    assert!(scene.is_real("gen/deep/new"), "in directories that became real for it");
    assert_eq!(
        (scene.memory.look("/w/gen").unwrap().mode, scene.memory.look("/w/gen/deep").unwrap().mode),
        (0o750, 0o750)
    );
    assert_eq!(scene.names("gen/deep").unwrap(), ["new", "x"]);
    let (none, name) = scene.spot("none/x");
    assert_eq!(scene.tree.create(&none, &name, 0o600).err(), Some(Status::NotFound));
    scene.walk();
}

#[test]
fn what_is_removed_stays_removed() {
    let scene = scene();
    scene.remove("out/v").unwrap();
    scene.remove("out/real").unwrap();
    assert_eq!(scene.names("out").unwrap(), ["link"], "what hid behind the real file is gone with it");
    assert_eq!(scene.remove_dir("out"), Err(Status::NotEmpty));
    scene.remove("out/link").unwrap();
    scene.remove_dir("out").unwrap();
    assert_eq!(
        (scene.remove("gen"), scene.remove_dir("gen"), scene.remove_dir("gen/deep")),
        (Err(Status::IsDir), Err(Status::NotEmpty), Err(Status::NotEmpty))
    );
    assert_eq!(
        (scene.remove_dir("gen/deep/x"), scene.remove("gen/none")),
        (Err(Status::NotDir), Err(Status::NotFound))
    );
    // Merged: real and virtual, with something real in it, then something virtual, then nothing.
    let (deep, new) = scene.spot("gen/deep/new");
    drop(scene.tree.create(&deep, &new, 0o600).unwrap());
    scene.remove("gen/deep/x").unwrap();
    assert_eq!(scene.remove_dir("gen/deep"), Err(Status::NotEmpty));
    scene.remove("gen/deep/new").unwrap();
    scene.remove_dir("gen/deep").unwrap();
    scene.remove_dir("gen").unwrap();
    assert_eq!(scene.walk().into_keys().collect::<Vec<_>>(), ["/src", "/src/a"]);
    assert!(scene.tree.is_empty());
}

#[test]
fn changes_of_names_show_in_the_times_of_directories() {
    let scene = scene();
    let before = [scene.attr("out").unwrap().mtime, scene.attr("gen/deep").unwrap().mtime];
    scene.remove("out/v").unwrap();
    scene.remove("gen/deep/x").unwrap();
    assert!(scene.attr("out").unwrap().mtime > before[0], "a real one");
    assert!(scene.attr("gen/deep").unwrap().mtime > before[1], "a virtual one");
}

#[test]
fn removing_by_path() {
    let scene = scene();
    for (path, gone) in [
        ("gen", false),
        ("out/v", true),
        ("out/real", true),
        ("none/x", true),
        ("src/a/x", true),
        ("gen/deep/x", true),
        ("gen/deep", true),
        ("gen", true),
        ("out", false),
    ] {
        assert_eq!(scene.tree.remove_at(path.as_bytes()), Ok(gone), "{path}");
    }
    assert_eq!(scene.walk().into_keys().collect::<Vec<_>>(), ["/out", "/out/link", "/src", "/src/a"]);
}

#[test]
fn materializing_changes_nothing_that_shows() {
    let scene = scene();
    let before = scene.walk();
    assert_eq!(scene.tree.materialize(b"gen/deep"), Ok(1));
    assert_eq!(scene.walk(), before);
    assert_eq!(scene.tree.materialize(b"src"), Ok(0));
    assert_eq!(scene.tree.materialize(b""), Ok(1));
    assert_eq!(scene.walk(), before);
    assert!(scene.tree.is_empty(), "the hidden one is not made real, and is gone");
    assert_eq!(walk(&scene.memory), before);
}

#[test]
fn materializing_into_a_directory_that_forbids_writing() {
    let scene = scene();
    scene.attach("", [dir("ro"), file("ro/x", b"deep")], &[]);
    scene
        .tree
        .set_dir_attr(&scene.tree.dir_at(b"ro").unwrap(), &SetAttr { mode: Some(0o555), ..SetAttr::default() })
        .unwrap();
    assert_eq!(scene.tree.materialize(b"ro"), Ok(1));
    assert_eq!((scene.memory.look("/w/ro").unwrap().mode, scene.is_real("ro/x")), (0o555, true));
}

#[test]
fn nothing_shows_where_nothing_leads_to_it() {
    let scene = scene();
    // Somebody removes the real directory behind the mount's back.
    let (_, out) = scene.spot("out");
    let top = scene.memory.child(&scene.memory.root(), &name("w"));
    scene.memory.remove_file(&scene.memory.child(&top, &out), &name("real")).unwrap();
    scene.memory.remove_dir(&top, &out).unwrap();
    assert_eq!((scene.attr("out").err(), scene.attr("out/v").err()), (Some(Status::NotFound), Some(Status::NotFound)));
    assert_eq!(scene.names("out"), Err(Status::NotFound));
    assert_eq!(scene.write("out/v", b"x"), Err(Status::NotFound));
    // A new directory of that name is empty.
    let (dir, name) = scene.spot("out");
    scene.tree.make_dir(&dir, &name, 0o755).unwrap();
    assert_eq!(scene.names("out").unwrap(), [""; 0]);
    scene.walk();
}

#[test]
fn a_layer_that_cannot_be_logged_does_not_change() {
    let scene = scene();
    let before = scene.walk();
    *scene.desk.patience.lock() = Some(0);
    assert_eq!(
        (scene.remove("out/v"), scene.remove("out/real"), scene.remove_dir("gen/deep")),
        (Err(Status::NoSpace), Err(Status::NoSpace), Err(Status::NotEmpty))
    );
    assert_eq!(scene.tree.apply(&[scene.desk.attach("", [dir("new")])]), Err(Status::NoSpace));
    assert_eq!(
        scene.tree.apply(&[Step::Attach { at: vec![], pack: Digest::of(b"none"), first_ns: 0, step_ns: 0 }]),
        Err(Status::Io)
    );
    assert_eq!(scene.walk(), before);
    // Made real, it hides the entry that could not be taken out.
    assert_eq!(scene.write("out/v", b"x"), Err(Status::NoSpace));
    assert_eq!(scene.walk(), before);
    assert!(scene.is_real("out/v"));
    scene.write("out/v", b"x").unwrap();
    assert_eq!(scene.read("out/v").unwrap(), b"x");
}

#[test]
fn the_mount_in_a_larger_tree() {
    let scene = scene();
    let tree = &scene.tree;
    let (root, w) = (tree.root(), name("w"));
    assert_eq!(tree.attr(&root, &w), tree.dir_attr(&tree.child(&root, &w)));
    assert_eq!(tree.open(&root, &w, Access::Read).err(), Some(Status::IsDir));
    assert_eq!((tree.remove_dir(&root, &w), tree.remove_file(&root, &w)), (Err(Status::Busy), Err(Status::IsDir)));
    let mode = SetAttr { mode: Some(0o711), ..SetAttr::default() };
    tree.set_attr(&root, &w, &mode).unwrap();
    assert_eq!(scene.memory.look("/w").unwrap().mode, 0o711);
    let elsewhere = tree.child(&root, &name("blobs"));
    assert!(tree.list(&elsewhere).unwrap().len() == 3 && tree.materialize(b"none") == Ok(0));
    let plain = Layered::plain(scene.memory.clone());
    assert_eq!(walk(&plain), walk(&scene.memory));
    assert!(plain.is_empty() && plain.apply(&[]).is_err());
}

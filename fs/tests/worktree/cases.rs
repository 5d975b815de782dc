//! Hard cases, one by one.

use wink_fs::attr::{SetAttr, Time};
use wink_fs::backing::{Access, Backing, BackingFile, RenameMode};
use wink_fs::status::Status;
use wink_fs::vfs::{Caller, TOP, Vfs};

use crate::kernel::{self, BOTH, CALLER, READ};
use crate::memory::Memory;

fn file(path: &str, bytes: &[u8]) -> Memory {
    let memory = Memory::new();
    memory.file(path, bytes, 0o644).expect("makes a file");
    memory
}

#[test]
fn names_of_one_file_share_a_node() {
    let tree = kernel::tree(file("a", b"x"));
    kernel::link(&tree, "a", "b").expect("links");
    let id = kernel::hold(&tree, "a", READ).expect("opens");
    assert_eq!(kernel::at(&tree, "b", Ok), Ok(id));
    assert_eq!(kernel::stat(&tree, "b").map(|attr| attr.nlink), Ok(2));
    kernel::rename(&tree, "a", "b", RenameMode::Replace).expect("does nothing");
    assert_eq!(kernel::stat(&tree, "a").map(|attr| attr.nlink), Ok(2));
    kernel::unlink(&tree, "a").expect("unlinks");
    assert_eq!(tree.attr(id).map(|entry| entry.attr.nlink), Ok(1));
    tree.release(id);
}

#[test]
fn a_rename_between_names_of_one_file_leaves_both() {
    let tree = kernel::tree(file("a", b"x"));
    kernel::link(&tree, "a", "b").expect("links");
    let look = |name: &[u8]| tree.lookup(CALLER, TOP, name).expect("answers").entry.expect("is there").id;
    let id = look(b"a");
    assert_eq!(look(b"b"), id);
    kernel::rename(&tree, "a", "b", RenameMode::Replace).expect("does nothing");
    // A kernel that still holds both names does not look them up again.
    kernel::unlink(&tree, "b").expect("unlinks");
    assert_eq!(tree.attr(id).map(|entry| entry.attr.nlink), Ok(1));
    tree.forget(id, 2);
    assert_eq!(tree.node_count(), 1);
}

#[test]
fn what_took_a_name_beneath_is_another_node() {
    let tree = kernel::tree(file("a", b"old"));
    let old = tree.lookup(CALLER, TOP, b"a").expect("answers").entry.expect("is there").id;
    let (dir, name) = tree.backing().place("a").expect("is a path");
    tree.backing().remove_file(&dir, &name).expect("removes");
    tree.backing().file("a", b"new", 0o600).expect("makes");
    assert_eq!(tree.open(CALLER, old, READ), Err(Status::Stale));
    assert_eq!(tree.attr(old).map(|entry| (entry.attr.nlink, entry.attr.mode)), Ok((0, 0o644)));
    let change = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(tree.set_attr(CALLER, old, &change), Err(Status::Stale));
    assert_ne!(kernel::at(&tree, "a", Ok), Ok(old));
    assert_eq!(kernel::read(&tree, "a"), Ok(b"new".to_vec()));
    tree.forget(old, 1);
    assert_eq!(tree.node_count(), 1);
}

#[test]
fn children_follow_a_renamed_directory() {
    let memory = Memory::new();
    for dir in ["a", "a/b", "c"] {
        memory.dir(dir, 0o755).expect("makes a directory");
    }
    memory.file("a/b/f", b"x", 0o644).expect("makes a file");
    let tree = kernel::tree(memory);
    let held = kernel::beside(&tree, "a/b/f", |dir, name| tree.lookup(CALLER, dir, name));
    let id = held.expect("answers").entry.expect("is there").id;
    kernel::rename(&tree, "a", "c/d", RenameMode::Replace).expect("renames");
    tree.open(CALLER, id, BOTH).expect("opens by its new path");
    tree.write(id, 0, b"y").expect("writes");
    tree.release(id);
    assert_eq!(kernel::read(&tree, "c/d/b/f"), Ok(b"y".to_vec()));
    tree.forget(id, 1);
    assert_eq!(tree.node_count(), 1);
}

#[test]
fn pages_stay_good_only_while_nobody_else_changes_the_file() {
    let tree = kernel::tree(file("a", b"x"));
    let open = || kernel::at(&tree, "a", |id| Ok((id, tree.open(CALLER, id, BOTH)?)));
    let (id, keep) = open().expect("opens");
    assert!(!keep, "nothing is known of it yet");
    tree.write(id, 0, b"y").expect("writes");
    kernel::link(&tree, "a", "b").expect("links");
    kernel::rename(&tree, "b", "c", RenameMode::Replace).expect("renames");
    kernel::chmod(&tree, "a", 0o600).expect("changes the mode");
    assert_eq!(open(), Ok((id, true)), "all changes came through the mount");
    let (dir, name) = tree.backing().place("a").expect("is a path");
    let beneath = tree.backing().open(&dir, &name, Access::ReadWrite).expect("opens");
    beneath.write_at(b"z", 0).expect("writes");
    assert_eq!(open(), Ok((id, false)));
    for _ in 0..3 {
        tree.release(id);
    }
    assert_eq!((tree.node_count(), tree.open_count()), (1, 0));
}

#[test]
fn what_a_caller_makes_is_theirs() {
    let tree = kernel::tree(Memory::new());
    let caller = Caller { uid: 7, gid: 8 };
    let (made, _) = tree.create(caller, TOP, b"a", 0o4755, BOTH).expect("creates");
    assert_eq!((made.attr.uid, made.attr.gid, made.attr.mode), (7, 8, 0o4755));
    assert_eq!(tree.backing().look("a").map(|attr| (attr.uid, attr.gid, attr.mode)), Ok((7, 8, 0o4755)));
    tree.backing().dir("d", 0o2777).expect("makes a directory");
    let above = kernel::stat(&tree, "d").expect("is there").gid;
    let made = kernel::beside(&tree, "d/e", |dir, name| tree.make_link(caller, dir, name, b"x")).expect("links");
    assert_eq!((made.attr.uid, made.attr.gid), (7, above), "a set-group-ID directory gives its group");
}

#[test]
fn truncating_without_privileges_takes_the_privilege_bits() {
    for (uid, mode, left) in [(7, 0o6755, 0o755), (7, 0o2644, 0o2644), (0, 0o6755, 0o6755)] {
        let memory = Memory::new();
        memory.file("a", b"x", mode).expect("makes a file");
        let tree = kernel::tree(memory);
        let change = SetAttr { size: Some(0), ..SetAttr::default() };
        let entry = kernel::at(&tree, "a", |id| tree.set_attr(Caller { uid, gid: 0 }, id, &change));
        assert_eq!(entry.map(|entry| (entry.attr.mode, entry.attr.size)), Ok((left, 0)), "{uid} {mode:o}");
    }
}

#[test]
fn a_change_says_what_to_forget() {
    let memory = Memory::new();
    for dir in ["a", "a/b", "c"] {
        memory.dir(dir, 0o755).expect("makes a directory");
    }
    let tree = kernel::tree(memory);
    let a = tree.lookup(CALLER, TOP, b"a").expect("answers").entry.expect("is there").id;
    let paths = ["a/new", "a/b/deep/er", "a/b/deep/est", "c/x", "nowhere"];
    let (made, forget) = tree.change(
        |memory| memory.file("a/new", b"x", 0o644),
        |_| paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
    );
    assert_eq!(made, Ok(()));
    let expected = [(TOP, "c"), (TOP, "nowhere"), (a, "b"), (a, "new")];
    assert_eq!(forget, expected.map(|(id, name)| (id, name.as_bytes().to_vec())));
    let (_, forget) = tree.change(
        |memory| memory.remove_dir(&memory.root(), &memory.place("c").expect("a path").1),
        |_| vec![b"c".to_vec()],
    );
    assert_eq!(forget, [(TOP, b"c".to_vec())]);
}

#[test]
fn lasting_is_as_it_was_said() {
    let tree = kernel::tree(file("a", b"x"));
    let mut before = false;
    for lasting in [false, true, false] {
        assert_eq!(tree.set_lasting(lasting), before);
        before = lasting;
        let looked = tree.lookup(CALLER, TOP, b"a").expect("answers");
        assert_eq!((looked.lasting, looked.entry.map(|entry| entry.lasting)), (lasting, Some(lasting)));
    }
}

#[test]
fn what_has_another_name_is_not_kept_for_long() {
    // That name may lie outside the mount.
    let tree = kernel::tree(file("a", b"x"));
    tree.set_lasting(true);
    let lasting = || tree.lookup(CALLER, TOP, b"a").expect("answers").entry.map(|entry| entry.lasting);
    assert_eq!(lasting(), Some(true));
    kernel::link(&tree, "a", "b").expect("links");
    assert_eq!(lasting(), Some(false));
}

#[test]
fn a_listing_within_a_tick_of_a_change_is_not_kept_while_others_change_the_tree() {
    let tree = kernel::tree(file("a", b"x"));
    let listed = |lasting| {
        tree.set_lasting(lasting);
        tree.list(CALLER, TOP).expect("lists");
        tree.take_hasty().contains(&TOP)
    };
    assert!(!listed(false), "at rest");
    let now = SetAttr { mtime: Some(Time::now()), ..SetAttr::default() };
    tree.set_attr(CALLER, TOP, &now).expect("sets a time");
    assert!(!listed(true), "nobody else changes it");
    assert!(listed(false));
    assert!(tree.take_hasty().is_empty(), "said once");
}

#[test]
fn all_that_the_kernel_may_know_is_known() {
    let tree = kernel::tree(file("a", b"x"));
    let a = tree.lookup(CALLER, TOP, b"a").expect("answers").entry.expect("is there").id;
    let (mut nodes, names) = tree.known();
    nodes.sort();
    let mut expected = vec![TOP, a];
    expected.sort();
    assert_eq!((nodes, names.len()), (expected, 1));
    assert_eq!((names[0].0, names[0].1.as_bytes()), (TOP, &b"a"[..]));
}

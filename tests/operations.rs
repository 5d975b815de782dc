//! Every filesystem operation inside a view: the tree it leaves equals the native twin's, and a hit restores the same tree.
//! The operations themselves are functions of `fixtures/operations.py`, which also checks what it sees while running.

mod common;

use std::fs;

use common::operations::{names, prepare, script, without_special};
use common::{World, assert_same, copy_tree, strs, tools};

fn check(operation: &str) {
    let python = need!(tools::python());
    let world = World::new(&format!("op-{operation}"));
    prepare(&world.ws, operation);
    let command = world.counted(&format!("{python} -I -B {} {operation}", script().display()));
    let pristine = world.root.join("pristine");
    copy_tree(&world.ws, &pristine);
    let before = world.tree();

    let (native, expected) = world.native(&strs(&command));
    assert_eq!(native.code, 0, "the operation itself is wrong here: {native:?}");
    let expected = without_special(expected);
    let first = world.run(&strs(&command));
    first.miss();
    assert_eq!(first.out(), native.out());
    assert_eq!(world.count(), 1);
    assert_same(&expected, &without_special(world.tree()), "after the run");

    // From the same sources without any output: a hit that makes the same tree.
    let reset = || {
        fs::remove_dir_all(&world.ws).unwrap();
        copy_tree(&pristine, &world.ws);
    };
    reset();
    let hit = world.run(&strs(&command));
    hit.hit();
    assert_eq!(hit.out(), native.out());
    assert_same(&expected, &without_special(world.tree()), "after a hit");
    // Where no source was touched: a hit with everything in place, and with the outputs deleted by hand.
    if before.iter().all(|(path, entry)| expected.get(path) == Some(entry)) {
        world.run(&strs(&command)).hit();
        assert_same(&expected, &without_special(world.tree()), "after a hit with all in place");
        for path in expected.keys().rev().filter(|path| !before.contains_key(*path)) {
            let full = world.ws.join(path);
            if expected[path].kind == "dir" { fs::remove_dir(full).unwrap() } else { fs::remove_file(full).unwrap() }
        }
        world.run(&strs(&command)).hit();
        assert_same(&expected, &without_special(world.tree()), "after deleting the outputs");
    }
    assert_eq!(world.count(), 1, "only the first run executed");
}

macro_rules! operations {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        /// No function of the script is forgotten here.
        #[test]
        fn every_operation_is_tested() {
            let tested = [$(stringify!($name)),*];
            for name in names() {
                assert!(tested.contains(&name.as_str()), "{name} is not tested");
            }
        }
    };
}

operations! {
    create overwrite append truncate mmap_shared mmap_private
    rename_file rename_open rename_dir rename_dir_over rename_noreplace rename_exchange
    hard_link symlinks unlink rmdir remove_tree mkdir_p chmod utimens
    allocate punch_hole copy_range sparse tmpfile fifo unix_socket special_left_behind
    unlinked_open open_while_replaced append_by_two readdir_deleting deep_paths odd_names
    large_files many_files directories_look_right locks
}

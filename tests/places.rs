//! Records travel: between clones at other places, past neighbours that differ, and with the place written into outputs or not.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{World, copy_tree, strs};

/// A copy of the workspace's sources at another place of the same world.
fn clone_at(world: &World, place: &str) -> PathBuf {
    let at = world.root.join(place);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    copy_tree(&world.ws, &at);
    at
}

const NAMES_ITS_PLACE: [&str; 3] = ["/bin/sh", "-c", "pwd > where; cat source.txt >> where"];

#[test]
fn an_output_that_names_the_workspace_holds_only_there() {
    let world = World::new("bound");
    world.write("source.txt", "text\n");
    let clone = clone_at(&world, "clone");
    let run = world.run(&NAMES_ITS_PLACE);
    run.miss();
    assert_eq!(run.json["bound_to_root"], true);
    world.call().dir(&clone).run(&NAMES_ITS_PLACE).miss();
    assert_eq!(fs::read_to_string(clone.join("where")).unwrap(), format!("{}\ntext\n", clone.display()));
    world.remove("where");
    world.run(&NAMES_ITS_PLACE).hit();
    assert_eq!(world.text("where"), format!("{}\ntext\n", world.ws.display()));
}

#[test]
fn with_a_canonical_root_nothing_binds() {
    let world = World::new("canonical");
    world.write("wink.toml", "canonical_root = \"/wink-canonical\"\n");
    world.write("source.txt", "text\n");
    let clone = clone_at(&world, "deeper/by/far/clone");
    let run = world.run(&NAMES_ITS_PLACE);
    run.miss();
    assert_eq!(run.json["bound_to_root"], false);
    assert_eq!(world.text("where"), "/wink-canonical\ntext\n");
    world.call().dir(&clone).run(&NAMES_ITS_PLACE).hit();
    assert_eq!(fs::read_to_string(clone.join("where")).unwrap(), "/wink-canonical\ntext\n");
    assert!(!Path::new("/wink-canonical").exists(), "it is there in the view only");
    // The command's own words and variables are told the same place; the trace speaks of the real one.
    let script = format!("echo {0}/a $PLACE; cat {0}/source.txt > {0}/copy", world.ws.display());
    let line = ["/bin/sh", "-c", &script];
    let run = world.call().env("PLACE", world.ws.join("b")).run(&line);
    run.miss();
    assert_eq!(run.out(), "/wink-canonical/a /wink-canonical/b\n");
    assert_eq!(world.text("copy"), "text\n");
    assert!(world.trace().inputs.contains_key(&world.ws.join("source.txt")));
}

#[test]
fn a_neighbour_is_an_input_that_moves_with_the_workspace() {
    let world = World::tracked("neighbour");
    fs::write(world.root.join("shared.txt"), "here\n").unwrap();
    let command = world.counted("cat ../shared.txt > copy");
    let command = strs(&command);
    let clone = clone_at(&world, "elsewhere/clone");
    fs::write(world.root.join("elsewhere/shared.txt"), "there\n").unwrap();
    world.run(&command).miss();
    world.call().dir(&clone).run(&command).miss_naming(world.root.join("elsewhere/shared.txt"));
    assert_eq!(fs::read_to_string(clone.join("copy")).unwrap(), "there\n");
    fs::write(world.root.join("elsewhere/shared.txt"), "here\n").unwrap();
    world.call().dir(&clone).run(&command).hit();
    assert_eq!(fs::read_to_string(clone.join("copy")).unwrap(), "here\n");
    assert_eq!(world.count(), 2);
}

#[test]
fn a_walk_upwards_is_followed_in_deeper_clones() {
    // What lies between the root and a workspace below /var may be meant as such: a record that walked there stays there.
    let plain = |path: &PathBuf| !["/tmp", "/var", "/run"].iter().any(|tree| path.starts_with(tree));
    let bases = [Some(env!("CARGO_TARGET_TMPDIR").into()), std::env::home_dir(), Some("/".into())];
    let base = bases.into_iter().flatten().find(plain).unwrap();
    let world = World::below(&base, "walk");
    let walk = "d=$PWD; while :; do if [ -e \"$d/marker\" ]; then echo found > result; exit; fi; [ \"$d\" = / ] && break; d=${d%/*}; d=${d:-/}; done; echo none > result";
    let command = world.counted(walk);
    let command = strs(&command);
    let clone = clone_at(&world, "a/b/clone");
    world.run(&command).miss();
    assert_eq!(world.text("result"), "none\n");
    world.call().dir(&clone).run(&command).hit();
    // A directory that the shallower clone has no counterpart of.
    fs::write(world.root.join("a/marker"), "").unwrap();
    world.call().dir(&clone).run(&command).miss();
    assert_eq!(fs::read_to_string(clone.join("result")).unwrap(), "found\n");
    world.run(&command).hit();
}

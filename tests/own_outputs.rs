//! Own outputs are not inputs (DESIGN §3.4), case by case.

mod common;

use std::fs;

use common::{Run, World, assert_same, strs, tree};

/// A compiler in miniature: one output per source, incremental (an output newer than nothing but equal in stamp is kept),
/// and a list of what it rebuilt, on stdout.
const COMPILER: &str = r#"
mkdir -p dist
for f in src/*.txt; do
  o="dist/$(basename "$f" .txt).out"
  sum=$(cksum < "$f")
  if [ -e "$o" ] && [ -e state ] && grep -qxF "$f $sum" state; then continue; fi
  tr a-z A-Z < "$f" > "$o"; echo "built $f"
done
for f in src/*.txt; do echo "$f $(cksum < "$f")"; done > state.new
mv state.new state
"#;

fn project(name: &str) -> (World, Vec<String>) {
    let world = World::git(name, "dist/\nstate\n");
    world.script("compile.sh", format!("#!/bin/sh\nset -e\n{COMPILER}"));
    for name in ["one", "two"] {
        world.write(format!("src/{name}.txt"), format!("{name}\n"));
    }
    let command = world.counted("./compile.sh");
    (world, command)
}

fn run(world: &World, command: &[String]) -> Run {
    world.run(&strs(command))
}

#[test]
fn carry_shows_the_previous_outputs() {
    let (world, command) = project("carry");
    run(&world, &command).miss();
    world.write("src/two.txt", "changed\n");
    let second = run(&world, &command);
    second.miss();
    assert_eq!(second.out(), "built src/two.txt\n", "incremental compilers stay incremental");
    assert_eq!(world.text("dist/two.out"), "CHANGED\n");
    assert_eq!(world.text("dist/one.out"), "ONE\n");
    // The record holds the carried entries too.
    let built = world.tree();
    world.remove("dist");
    world.remove("state");
    run(&world, &command).hit();
    assert_same(&built, &world.tree(), "carried outputs belong to the new record");
    let outputs = world.trace().outputs;
    assert!(outputs.contains_key(&world.ws.join("dist/one.out")), "{outputs:?}");
}

#[test]
fn a_missing_own_output_makes_a_clean_run() {
    let (world, command) = project("missing");
    world.write("src/zero.txt", "zero\n");
    run(&world, &command).miss();
    world.write("src/two.txt", "changed\n");
    world.remove("dist/one.out");
    let second = run(&world, &command);
    second.miss();
    assert_eq!(
        second.out(),
        "built src/one.txt\nbuilt src/two.txt\nbuilt src/zero.txt\n",
        "the untouched outputs are hidden too"
    );
    assert_eq!(world.text("dist/one.out"), "ONE\n");
}

#[test]
fn an_edited_output_becomes_somebody_elses() {
    let (world, command) = project("edited");
    run(&world, &command).miss();
    world.write("dist/one.out", "edited by hand\n");
    let second = run(&world, &command);
    assert_ne!(second.status(), "hit", "a hit would have to overwrite the edit: {second:?}");
    assert!(second.names("one.out"), "{second:?}");
    second.exits(0);
    // Now a foreign input like any other: changed once more, it must miss again.
    world.write("dist/one.out", "edited again\n");
    let third = run(&world, &command);
    assert_ne!(third.status(), "hit", "{third:?}");
}

/// Records may be kept longer than blobs.
#[test]
fn a_hidden_output_is_known_although_its_bytes_are_stored_no_more() {
    let world = World::new("own-evicted");
    world.write("source", "first\n");
    let command = ["/bin/sh", "-c", "cat source > out"];
    world.call().flags(&["--own", "hide"]).run(&command).miss();
    std::fs::remove_dir_all(world.store.join("blobs")).unwrap();
    std::fs::create_dir(world.store.join("blobs")).unwrap();
    world.write("source", "second\n");
    world.call().flags(&["--own", "hide"]).run(&command).miss();
    assert_eq!(world.text("out"), "second\n");
    assert!(!world.has("out.wink-saved"));
}

#[test]
fn hide_always_runs_clean() {
    let (world, command) = project("hide");
    let hide = |world: &World| world.call().flags(&["--own", "hide"]).run(&strs(&command));
    hide(&world).miss();
    world.write("src/two.txt", "changed\n");
    let second = hide(&world);
    second.miss();
    assert_eq!(second.out(), "built src/one.txt\nbuilt src/two.txt\n");
    let built = world.tree();
    world.remove("dist");
    hide(&world).hit();
    assert_same(&built, &world.tree(), "dist deleted, state kept");
    world.write("src/two.txt", "two\n");
    hide(&world).hit();
}

#[test]
fn observe_makes_them_inputs() {
    let world = World::new("observe");
    let command = world.counted("n=$(cat state 2>/dev/null || echo 0); echo $((n + 1)) > state");
    let observe = || world.call().flags(&["--own", "observe"]).run(&strs(&command));
    observe().exits(0);
    assert_eq!(world.text("state"), "1\n");
    let second = observe();
    assert_ne!(second.status(), "hit", "its own output is an input now: {second:?}");
    assert_eq!(world.text("state"), "2\n");
    world.remove("state");
    observe().hit();
    assert_eq!(world.text("state"), "1\n", "from the absent state");
}

#[test]
fn the_config_file_chooses_too() {
    let world = World::new("own-config");
    world.write("wink.toml", "own = \"observe\"\n");
    let command = world.counted("n=$(cat state 2>/dev/null || echo 0); echo $((n + 1)) > state");
    run(&world, &command).exits(0);
    assert_ne!(run(&world, &command).status(), "hit");
    assert_eq!(world.text("state"), "2\n");
}

#[test]
fn a_then_b_then_a() {
    let (world, command) = project("aba");
    run(&world, &command).miss();
    let a = world.tree();
    world.write("src/two.txt", "other\n");
    world.write("src/three.txt", "three\n");
    run(&world, &command).miss();
    let b = world.tree();
    assert!(world.has("dist/three.out"));

    world.write("src/two.txt", "two\n");
    world.remove("src/three.txt");
    run(&world, &command).hit();
    assert_same(&a, &world.tree(), "A again: three.out belongs to another record of the same key and is gone");
    world.write("src/two.txt", "other\n");
    world.write("src/three.txt", "three\n");
    run(&world, &command).hit();
    assert_same(&b, &world.tree(), "B again");
    assert_eq!(world.count(), 2);
}

#[test]
fn outputs_of_another_record_that_were_edited_stay() {
    let (world, command) = project("aba-edited");
    run(&world, &command).miss();
    world.write("src/three.txt", "three\n");
    run(&world, &command).miss();
    world.remove("src/three.txt");
    world.write("dist/three.out", "edited by hand\n");
    run(&world, &command).exits(0);
    assert_eq!(world.text("dist/three.out"), "edited by hand\n", "nothing that is not in the store is ever removed");
}

#[test]
fn a_foreign_file_where_an_output_would_go() {
    let (world, command) = project("foreign");
    run(&world, &command).miss();
    world.remove("dist");
    world.remove("state");
    world.write("dist/one.out", "mine\n");
    let second = run(&world, &command);
    assert_ne!(second.status(), "hit", "a hit never overwrites a foreign file: {second:?}");
    assert!(second.names("one.out") || second.names("dist"), "{second:?}");
    // The command itself may overwrite it, and did: that is what it does natively.
    assert_eq!(world.text("dist/one.out"), "ONE\n");
    // A directory or a link in the way is foreign as well.
    world.remove("dist");
    world.remove("state");
    let elsewhere = world.write(world.root.join("elsewhere/keep"), "keep\n");
    std::os::unix::fs::symlink(elsewhere.parent().unwrap(), world.ws.join("dist")).unwrap();
    let third = run(&world, &command);
    assert_ne!(third.status(), "hit", "{third:?}");
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "keep\n");
}

#[test]
fn dist_built_without_wink_is_modified_never_removed() {
    let (world, command) = project("premade");
    let native = world.call().native(&["./compile.sh"]);
    assert_eq!(native.code, 0);
    world.write("dist/notes.md", "kept by a person\n");
    world.write("src/two.txt", "changed\n");
    let first = run(&world, &command);
    first.exits(0);
    assert_eq!(first.out(), "built src/two.txt\n", "what was there before is visible");
    assert_eq!(world.text("dist/two.out"), "CHANGED\n");
    // Whatever follows, files that wink did not make stay.
    world.write("src/two.txt", "again\n");
    run(&world, &command).exits(0);
    world.write("src/two.txt", "changed\n");
    run(&world, &command).exits(0);
    assert_eq!(world.text("dist/one.out"), "ONE\n");
    assert_eq!(world.text("dist/two.out"), "CHANGED\n");
    assert_eq!(world.text("dist/notes.md"), "kept by a person\n");
}

/// Reusable only from that same state, and it says so.
#[test]
fn foreign_state_that_is_read_and_rewritten() {
    let world = World::git("foreign-state", "state\n");
    world.write("state", "5\n");
    let command = world.counted("n=$(cat state); echo $((n + 1)) > state");
    let first = run(&world, &command);
    first.exits(0);
    assert!(first.err().contains("state") || first.reason().contains("state"), "says which file: {first:?}");
    let second = run(&world, &command);
    assert_ne!(second.status(), "hit", "{second:?}");
    assert_eq!(world.text("state"), "7\n");
    world.write("state", "5\n");
    let third = run(&world, &command);
    if third.status() == "hit" {
        assert_eq!(world.count(), 2);
    }
    assert_eq!(world.text("state"), "6\n", "from the same state the same result");
}

#[test]
fn what_a_failed_run_left_is_no_input() {
    let world = World::new("leftovers");
    world.write("source.txt", "bad\n");
    let command = world.counted("[ -e report ] && echo leftover; cat source.txt > report; grep -q good source.txt");
    let failed = run(&world, &command);
    failed.exits(1);
    assert_eq!(world.text("report"), "bad\n", "published all the same");
    world.write("source.txt", "good\n");
    run(&world, &command).exits(0);
    let good = world.tree();
    world.write("source.txt", "bad\n");
    run(&world, &command).exits(1);
    world.write("source.txt", "good\n");
    let again = run(&world, &command);
    again.hit();
    assert_same(&good, &world.tree(), "the failed run's report is replaced: it is no foreign file");
    world.remove("report");
    run(&world, &command).hit();
    assert_same(&good, &world.tree(), "and from a clean tree");
}

#[test]
fn names_of_own_outputs_are_left_out_of_listings() {
    let world = World::new("own-listing");
    world.write("in.txt", "in\n");
    let command = world.counted("ls > names.log; cp in.txt made.txt");
    run(&world, &command).miss();
    let first = world.tree();
    assert!(!world.text("names.log").contains("made.txt"));
    run(&world, &command).hit();
    assert_same(&first, &world.tree(), "its own new names change no listing it made");
    world.remove("made.txt");
    run(&world, &command).hit();
    assert_same(&first, &world.tree(), "nor does a missing one");
    world.write("other.txt", "");
    run(&world, &command).miss_naming(&world.ws);
}

/// Two commands, two keys: the output of one is an ordinary input of the other.
#[test]
fn outputs_of_one_task_are_inputs_of_another() {
    let world = World::new("chain");
    world.write("source.txt", "a\n");
    let first = world.counted("tr a-z A-Z < source.txt > middle");
    let second = world.counted("cat middle middle > end");
    run(&world, &first).miss();
    run(&world, &second).miss();
    world.write("source.txt", "b\n");
    run(&world, &first).miss();
    run(&world, &second).miss_naming(world.ws.join("middle"));
    assert_eq!(world.text("end"), "B\nB\n");
    world.write("source.txt", "a\n");
    run(&world, &first).hit();
    run(&world, &second).hit();
    assert_eq!(world.text("end"), "A\nA\n");
    let all = world.tree();
    world.remove("middle");
    run(&world, &first).hit();
    assert_same(&all, &world.tree(), "middle is back");
    assert!(tree::differences(&all, &world.tree()).is_empty());
    assert_eq!(world.count(), 4);
}

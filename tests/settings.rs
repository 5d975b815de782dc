//! What flags and settings change, and what happens around one run: `ignore`, `--output`, the scope, kept failures, a carried
//! run that cannot be recorded, times on a hit, edits during a run.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{World, contains, strs, wait_for};

fn sh(line: &str) -> [&str; 3] {
    ["/bin/sh", "-c", line]
}

fn mtime(path: impl AsRef<Path>) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn set_mtime(path: impl AsRef<Path>, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn ignored_files_are_neither_inputs_nor_outputs() {
    let world = World::new("ignore");
    world.write("wink.toml", "ignore = [\"*.log\", \"generated\"]\n");
    for path in ["list/a", "list/noise.log", "generated/deep/b"] {
        world.write(path, "1\n");
    }
    let command = world.counted("cat list/noise.log generated/deep/b > /dev/null; ls list > made; echo x > made.log");
    let command = strs(&command);
    world.run(&command).miss();
    assert!(world.has("made.log"), "what is ignored is published all the same");
    let trace = world.trace();
    let all: Vec<_> = trace.inputs.keys().chain(trace.outputs.keys()).collect();
    let ignored =
        |path: &Path| path.extension().is_some_and(|end| end == "log") || path.starts_with(world.ws.join("generated"));
    assert!(!all.iter().any(|path| ignored(path)), "{trace:?}");

    world.write("list/noise.log", "2\n");
    world.write("generated/deep/b", "2\n");
    world.run(&command).hit();
    world.write("list/more.log", "");
    world.run(&command).hit();
    world.remove("list/noise.log");
    world.remove("generated");
    world.run(&command).hit();
    world.remove("made");
    world.remove("made.log");
    world.run(&command).hit();
    assert!(world.has("made") && !world.has("made.log"), "what is ignored is not restored");
    assert_eq!(world.count(), 1);

    world.write("list/b", "");
    world.run(&command).miss_naming(world.ws.join("list"));
    world.write("wink.toml", "ignore = [\"*.log\"]\n");
    let other = world.run(&command);
    other.miss();
    assert_eq!(other.reason(), "the setting ignore changed", "the list is in the key: {other:?}");
}

#[test]
fn declared_outputs_are_all_that_is_recorded() {
    let world = World::new("output");
    let command = world.counted("mkdir -p dist; echo made > dist/made; echo side > side");
    let run = || world.call().flags(&["--output", "dist/**"]).run(&strs(&command));
    run().miss();
    assert_eq!(
        (world.text("dist/made").as_str(), world.text("side").as_str()),
        ("made\n", "side\n"),
        "all is published"
    );
    let outputs = world.trace().outputs;
    assert!(outputs.contains_key(&world.ws.join("dist/made")), "{outputs:?}");
    assert!(!outputs.contains_key(&world.ws.join("side")), "{outputs:?}");
    // What was not declared is somebody else's from now on.
    run().miss_naming(world.ws.join("side"));
    world.remove("dist");
    world.remove("side");
    run().hit();
    assert!(world.has("dist/made") && !world.has("side"), "the record holds no more than was declared");
    assert_eq!(world.count(), 2);
}

#[test]
fn workspace_scope_watches_the_workspace_and_the_program() {
    let world = World::tracked("scope");
    let outside = world.write(world.root.join("outside.txt"), "1\n");
    let tool =
        world.script(world.root.join("tool"), "#!/bin/sh\ncat ../outside.txt source.txt > out\necho x > ../written\n");
    let tool = tool.to_str().unwrap();
    for (turn, flags) in [["--scope", "workspace"].as_slice(), &[]].into_iter().enumerate() {
        if flags.is_empty() {
            world.write("wink.toml", "scope = \"workspace\"\n");
        }
        let run = || world.call().flags(flags).run(&[tool]);
        fs::write(&outside, format!("{turn}\n")).unwrap();
        world.write("source.txt", format!("text {turn}\n"));
        run().miss();
        let built = format!("{turn}\ntext {turn}\n");
        assert_eq!(world.text("out"), built);
        assert!(world.root.join("written").exists(), "writes outside go through and are not noted");
        let inputs = world.trace().inputs;
        assert!(inputs.contains_key(&world.ws.join("source.txt")), "{inputs:?}");
        assert!(inputs.keys().all(|path| path.starts_with(&world.ws)), "{inputs:?}");

        fs::write(&outside, "changed\n").unwrap();
        world.remove("out");
        run().hit();
        assert_eq!(world.text("out"), built, "a file outside is no input");
        world.write("source.txt", format!("again {turn}\n"));
        run().miss_naming(world.ws.join("source.txt"));
    }
    fs::write(tool, "#!/bin/sh\ncat source.txt > out\n").unwrap();
    fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
    let run = world.run(&[tool]);
    run.miss();
    assert_eq!(run.reason(), "the program changed", "the program is in the key: {run:?}");
}

#[test]
fn failures_are_kept_if_that_is_wanted() {
    let world = World::new("failures");
    world.write("source.txt", "text\n");
    let command = world.counted("cat source.txt > log; echo out; echo broken >&2; exit 3");
    let command = strs(&command);
    world.write("wink.toml", "cache_failures = true\n");
    world.run(&command).is("miss").exits(3);
    world.remove("log");
    let hit = || {
        let run = world.run(&command);
        run.is("hit").exits(3);
        assert_eq!((run.out().as_str(), run.command_err().as_str()), ("out\n", "broken\n"));
        assert_eq!(world.text("log"), "text\n");
    };
    hit();
    assert_eq!(world.count(), 1);
    world.write("wink.toml", "");
    let run = world.run(&command);
    run.uncached().exits(3);
    assert_eq!(run.reason(), "the command failed (exit code 3)");
    assert_eq!(world.count(), 2, "a kept failure is for those who ask for it");
    world.write("wink.toml", "cache_failures = true\n");
    world.remove("log");
    hit();
    // 126 and 127 tell of the command itself.
    for _ in 0..2 {
        world.run(&sh("exit 127")).uncached().exits(127);
    }
}

/// The second run keeps `out` without looking at `in`: nobody can say that it is right.
#[test]
fn a_kept_output_of_a_changed_input_is_not_recorded() {
    let world = World::new("tainted");
    let command = world.counted("[ -e out ] || cp in out");
    let command = strs(&command);
    world.write("in", "1\n");
    world.run(&command).miss();
    world.write("in", "2\n");
    let second = world.run(&command);
    second.uncached().exits(0);
    assert!(
        second.reason().contains("kept although in has changed since; the next run starts from clean"),
        "{second:?}"
    );
    assert_eq!(world.text("out"), "1\n", "published as the command left it");
    let third = world.run(&command);
    third.miss();
    assert_eq!(world.text("out"), "2\n", "from clean");
    world.remove("out");
    world.run(&command).hit();
    assert_eq!(world.text("out"), "2\n");
    assert_eq!(world.count(), 3);
}

#[test]
fn a_hit_keeps_the_time_of_what_is_right_and_makes_the_rest_newer_than_every_input() {
    let world = World::new("times");
    world.write("in", "text\n");
    let command = sh("cp in kept; cp in gone");
    world.run(&command).miss();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    set_mtime(world.ws.join("kept"), long_ago);
    world.remove("gone");
    // Newer than the outputs are in the record.
    std::thread::sleep(Duration::from_millis(50));
    let touched = SystemTime::now();
    set_mtime(world.ws.join("in"), touched);
    world.run(&command).hit();
    assert_eq!(mtime(world.ws.join("kept")), long_ago, "it held the right bytes");
    let gone = mtime(world.ws.join("gone"));
    assert!(gone > touched, "{gone:?} is not newer than {touched:?}");
    assert!(gone <= SystemTime::now(), "{gone:?} is in the future");
}

/// What the command read is no longer there when facts are taken.
#[test]
fn an_input_edited_during_the_run_is_published_and_not_recorded() {
    let world = World::new("edited-input");
    world.write("in", "old\n");
    let (go, on) = (world.untracked.join("read"), world.untracked.join("edited"));
    let line = format!("cat in > out; : > {}; until [ -e {} ]; do sleep 0.01; done", go.display(), on.display());
    let running = world.call().start(&sh(&line));
    wait_for(&go);
    world.write("in", "new\n");
    fs::write(&on, "").unwrap();
    let run = running.finish();
    run.uncached().exits(0);
    assert_eq!(run.reason(), "in changed while the command ran");
    assert_eq!((world.text("out").as_str(), world.text("in").as_str()), ("old\n", "new\n"));
    world.run(&sh(&line)).miss();
    assert_eq!(world.text("out"), "new\n");
}

/// A file system stamps with the time of the last tick of a clock: until it has passed, another change would leave the same stamp.
#[test]
fn a_file_that_has_just_changed_is_waited_for_and_recorded() {
    const TICK: Duration = Duration::from_millis(20);
    let world = World::new("racy");
    let (go, on) = (world.untracked.join("ready"), world.untracked.join("written"));
    // No program is started between the change and the first look at the file.
    let line =
        format!(": > {}; until [ -e {} ]; do :; done; read -r text < in; echo $text > out", go.display(), on.display());
    let running = world.call().start(&sh(&line));
    wait_for(&go);
    world.write("in", "text\n");
    fs::write(&on, "").unwrap();
    running.finish().miss();
    assert_eq!(world.text("out"), "text\n");
    // Times of the workspace may lag behind by a tick of the kernel (4 ms, rarely 10).
    let between = mtime(world.ws.join("out")).duration_since(mtime(world.ws.join("in"))).unwrap();
    assert!(between + Duration::from_millis(10) >= TICK, "read after {between:?}");
    world.run(&sh(&line)).hit();
    world.write("in", "other\n");
    world.run(&sh(&line)).miss_naming(world.ws.join("in"));
}

/// Starts a command that leaves something, lets the user do theirs meanwhile, and ends it.
fn meanwhile(world: &World, line: &str, theirs: impl FnOnce()) -> common::Run {
    let (go, on) = (world.untracked.join("left"), world.untracked.join("meanwhile"));
    let line = format!("{line}; : > {}; until [ -e {} ]; do sleep 0.01; done", go.display(), on.display());
    let running = world.call().start(&sh(&line));
    wait_for(&go);
    theirs();
    fs::write(&on, "").unwrap();
    running.finish()
}

#[track_caller]
fn keeps_theirs(world: &World, run: &common::Run) {
    assert!(
        world.tree().values().any(|entry| contains(&entry.bytes, b"theirs")),
        "it is nowhere: {:?} {run:?}",
        world.tree().keys()
    );
    run.uncached();
}

#[test]
fn what_somebody_else_saved_is_set_aside() {
    let world = World::new("aside");
    world.write("in", "old\n");
    let run = meanwhile(&world, "echo new > in; echo made > made", || {
        world.write("in", "theirs\n");
        world.write("in.wink-saved", "saved earlier\n");
        world.write("made", "theirs too\n");
    });
    keeps_theirs(&world, &run);
    assert_eq!((world.text("in").as_str(), world.text("made").as_str()), ("new\n", "made\n"));
    assert_eq!(world.text("in.wink-saved"), "saved earlier\n");
    assert_eq!(world.text("in.wink-saved2"), "theirs\n");
    assert_eq!(world.text("made.wink-saved"), "theirs too\n");
}

#[test]
fn what_somebody_else_saved_is_not_removed() {
    let world = World::new("not-removed");
    world.write("in", "old\n");
    let run = meanwhile(&world, "cat in > out; rm in", || drop(world.write("in", "theirs\n")));
    keeps_theirs(&world, &run);
    assert_eq!(run.reason(), "in changed while the command ran, and was not removed");
}

#[test]
fn the_name_of_what_is_set_aside_is_told() {
    let world = World::new("aside-name");
    world.write("in", "old\n");
    world.write("in.wink-saved", "saved earlier\n");
    let run = meanwhile(&world, "echo new > in", || drop(world.write("in", "theirs\n")));
    assert_eq!(world.text("in.wink-saved2"), "theirs\n");
    assert!(run.reason().ends_with("in.wink-saved2"), "{run:?}");
}

#[test]
fn a_file_saved_where_a_directory_is_made_is_not_lost() {
    let world = World::new("aside-dir");
    let run = meanwhile(&world, "mkdir out; echo made > out/made", || drop(world.write("out", "theirs\n")));
    keeps_theirs(&world, &run);
}

#[test]
fn a_file_saved_in_a_directory_that_is_made_is_not_lost() {
    let world = World::new("aside-in-dir");
    let run = meanwhile(&world, "mkdir out; echo made > out/made", || drop(world.write("out/made", "theirs\n")));
    keeps_theirs(&world, &run);
}

#[test]
fn a_change_of_group_is_published_and_not_recorded() {
    need!(common::tools::root());
    let world = World::new("group");
    let command = sh("echo x > made; chgrp 1234 made");
    for turn in ["first", "again"] {
        world.run(&command).exits(0);
        assert_eq!(fs::metadata(world.ws.join("made")).unwrap().gid(), 1234, "{turn}");
        world.remove("made");
    }
}

/// An earlier output that the command is shown and takes away.
#[test]
fn a_shown_output_edited_while_it_is_removed_is_not_lost() {
    let world = World::new("aside-shown");
    let line = "case $(cat in) in 1) echo made > out;; 2) rm out;; esac";
    world.write("in", "1\n");
    meanwhile(&world, line, || {}).miss();
    again(&world);
    world.write("in", "2\n");
    let run = meanwhile(&world, line, || drop(world.write("out", "theirs\n")));
    keeps_theirs(&world, &run);
}

/// An earlier output that the command is not shown; with `3` in `in` it does not make it again.
fn hidden_and_edited(input: &str) {
    let world = World::new("aside-hidden");
    let line = "cat in > other; case $(cat in) in 3) ;; *) cat in > out;; esac";
    world.write("in", "1\n");
    meanwhile(&world, line, || {}).miss();
    again(&world);
    world.remove("other");
    world.write("in", input);
    let run = meanwhile(&world, line, || drop(world.write("out", "theirs\n")));
    keeps_theirs(&world, &run);
}

#[test]
fn a_hidden_output_edited_while_it_is_made_again_is_not_lost() {
    hidden_and_edited("2\n");
}

#[test]
fn a_hidden_output_edited_while_it_is_not_made_again_is_not_lost() {
    hidden_and_edited("3\n");
}

/// Before the same line is run by [`meanwhile`] once more.
fn again(world: &World) {
    for name in ["left", "meanwhile"] {
        fs::remove_file(world.untracked.join(name)).unwrap();
    }
}

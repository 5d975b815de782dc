//! The mounted working tree under stress: what was found by trying to break it.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::mounted::{kill_daemon, mount};
use common::{World, strs, tools, wait_for};

/// A command that waits, once it has read its input, until [`go`] is called.
fn waiting(world: &World) -> Vec<String> {
    world.write("source", "text\n");
    world.write("kept", "old\n");
    world.counted(&format!(
        "mkdir -p dist && cat source > dist/copy && echo new >> kept; while [ ! -e {} ]; do sleep 0.01; done",
        world.untracked.join("go").display()
    ))
}

fn go(world: &World) {
    fs::write(world.untracked.join("go"), "").unwrap();
}

#[test]
fn two_views_of_equal_bytes_and_time_are_two_files() {
    let world = World::new("review-twins");
    let source = world.write("source", "text\n");
    let done = Command::new("touch").args(["-d", "@1000000000"]).arg(&source).status().unwrap();
    assert!(done.success());
    let command = world.counted("mkdir -p dist && cp -p source dist/copy");
    mount(&world);
    world.run(&strs(&command)).miss();
    fs::rename(world.ws.join("dist"), world.ws.join("kept")).unwrap();
    // The same path, bytes and time once more.
    world.call().flags(&["--force"]).run(&strs(&command)).miss();
    let number = |path: &str| fs::metadata(world.ws.join(path)).unwrap().ino();
    assert_ne!(number("dist/copy"), number("kept/copy"));
    fs::write(world.ws.join("dist/copy"), "changed\n").unwrap();
    assert_eq!((world.text("dist/copy").as_str(), world.text("kept/copy").as_str()), ("changed\n", "text\n"));
    fs::write(world.ws.join("kept/copy"), "other\n").unwrap();
    world.remove("dist");
    assert_eq!(world.text("kept/copy"), "other\n");
}

#[test]
fn one_view_replaces_another_of_equal_bytes_and_time() {
    let world = World::new("review-replaced");
    let source = world.write("source", "text\n");
    let done = Command::new("touch").args(["-d", "@1000000000"]).arg(&source).status().unwrap();
    assert!(done.success());
    let command = world.counted("mkdir -p dist && cp -p source dist/copy");
    mount(&world);
    world.run(&strs(&command)).miss();
    fs::rename(world.ws.join("dist/copy"), world.ws.join("kept")).unwrap();
    world.call().flags(&["--force"]).run(&strs(&command)).miss();
    assert_eq!((world.text("dist/copy"), world.text("kept")), ("text\n".to_owned(), "text\n".to_owned()));
    fs::rename(world.ws.join("dist/copy"), world.ws.join("kept")).unwrap();
    assert!(!world.has("dist/copy"), "it was renamed");
    assert_eq!(world.text("kept"), "text\n");
    fs::write(world.ws.join("kept"), "changed\n").unwrap();
    assert_eq!(world.text("kept"), "changed\n");
}

#[test]
fn what_is_written_through_mapped_memory_is_an_input() {
    let python = need!(tools::python());
    let world = World::new("review-mapped");
    world.write("data", "first\n");
    let command = world.counted("cat data");
    mount(&world);
    world.run(&strs(&command)).miss();
    let script = "import mmap, sys\nf = open('data', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[0:5] = b'other'\n\
                  open(sys.argv[1], 'w')\nsys.stdin.read()";
    let ready = world.untracked.join("ready");
    let mut writer = Command::new(python)
        .args(["-c", script, ready.to_str().unwrap()])
        .current_dir(&world.ws)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&ready);
    let run = world.run(&strs(&command));
    drop(writer.stdin.take());
    writer.wait().unwrap();
    assert_eq!(run.out(), "other\n");
    run.miss_naming("data");
}

#[test]
fn a_daemon_that_dies_while_a_command_runs_costs_nothing() {
    let world = World::new("review-dies");
    let command = waiting(&world);
    mount(&world);
    let running = world.call().start(&strs(&command));
    wait_for(&world.counter());
    kill_daemon(&world);
    go(&world);
    let run = running.finish();
    assert_eq!(run.code, 0, "{run:?}");
    run.miss();
    assert_eq!((world.text("dist/copy"), world.text("kept")), ("text\n".to_owned(), "old\nnew\n".to_owned()));
    let status = world.call().wink(&["status"]);
    assert!(status.out().contains("1 file in it is a view"), "{status:?}");
}

#[test]
fn outputs_of_a_command_whose_mount_went_away_are_real_files() {
    let world = World::new("review-unmounted");
    let command = waiting(&world);
    mount(&world);
    let running = world.call().dir("/").flags(&["--cwd", world.ws.to_str().unwrap()]).start(&strs(&command));
    wait_for(&world.counter());
    let unmounted = world.call().dir("/").wink(&["unmount", world.ws.to_str().unwrap()]);
    go(&world);
    let run = running.finish();
    assert_eq!((run.code, unmounted.code), (0, 0), "{run:?} {unmounted:?}");
    assert_eq!((world.text("dist/copy"), world.text("kept")), ("text\n".to_owned(), "old\nnew\n".to_owned()));
    mount(&world);
    assert_eq!((world.text("dist/copy"), world.text("kept")), ("text\n".to_owned(), "old\nnew\n".to_owned()));
}

#[test]
fn many_commands_bring_a_mount_back_at_once() {
    let world = World::new("review-revived");
    world.write("source", "text\n");
    let command = world.counted("mkdir -p dist && cat source > dist/copy");
    mount(&world);
    world.run(&strs(&command)).miss();
    for round in 0..3 {
        kill_daemon(&world);
        let ws = world.ws.to_str().unwrap();
        let all: Vec<_> = (0..8).map(|_| world.call().dir("/").flags(&["--cwd", ws]).start(&strs(&command))).collect();
        for run in all.into_iter().map(|running| running.finish()) {
            assert_eq!(run.code, 0, "round {round}: {run:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert_eq!(mounts.lines().filter(|line| line.contains(ws)).count(), 1, "{mounts}");
        assert_eq!(world.text("dist/copy"), "text\n");
    }
}

#[test]
fn a_tree_is_mounted_once_however_many_ask() {
    let world = World::new("review-at-once");
    world.write("source", "text\n");
    let ws = world.ws.to_str().unwrap();
    for round in 0..4 {
        let start = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_wink"));
            command.args(["mount", ws]).current_dir("/").env("WINK_CACHE_DIR", &world.store).env("HOME", &world.home);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let all: Vec<_> = (0..4).map(|_| start()).collect();
        let mut mounted = 0;
        for one in all {
            let done = one.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() || said.contains("mounted already"), "round {round}: {said}");
            mounted += usize::from(done.status.success());
        }
        assert_eq!(mounted, 1, "round {round}");
        assert_eq!(world.text("source"), "text\n");
        let run = world.call().dir("/").wink(&["unmount", ws]);
        assert_eq!(run.code, 0, "round {round}: {run:?}");
    }
}

#[test]
fn a_mount_seen_at_another_path_is_a_plain_tree() {
    need!(tools::root());
    let world = World::new("review-bound");
    world.write("source", "text\n");
    let command = world.counted("mkdir -p dist && cat source > dist/copy");
    mount(&world);
    let other = world.root.join("other");
    fs::create_dir(&other).unwrap();
    let bound = Command::new("mount").arg("--bind").args([&world.ws, &other]).status().unwrap();
    assert!(bound.success());
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    world.call().dir(&other).run(&strs(&command)).exits(0).miss();
    assert_eq!((text(&other.join("dist/copy")), world.text("dist/copy")), ("text\n".to_owned(), "text\n".to_owned()));
    world.remove("dist");
    world.call().dir(&other).run(&strs(&command)).hit();
    assert_eq!((text(&other.join("dist/copy")), world.text("dist/copy")), ("text\n".to_owned(), "text\n".to_owned()));
}

#[test]
fn the_view_of_a_workspace_alone_lies_beneath_the_mount_too() {
    for below in ["", "sub"] {
        let world = World::new("review-scope");
        world.write(Path::new(below).join("source"), "text\n");
        world.write(Path::new(below).join("wink.toml"), "");
        let dir = world.ws.join(below);
        let scope = ["--scope", "workspace"];
        let first = world.counted("mkdir -p dist && cat source > dist/copy");
        let second = world.counted("cat dist/copy > last");
        mount(&world);
        for command in [&first, &second] {
            world.call().dir(&dir).flags(&scope).run(&strs(command)).miss();
        }
        for path in ["dist", "last"] {
            world.remove(dir.join(path));
        }
        for command in [&first, &second] {
            let run = world.call().dir(&dir).flags(&scope).run(&strs(command));
            run.hit();
            assert_eq!(run.json["restored_as"], "views");
        }
        assert_eq!((world.count(), world.text(dir.join("last"))), (2, "text\n".to_owned()));
    }
}

#[test]
fn a_full_store_costs_no_output() {
    need!(tools::root());
    let world = World::new("review-full");
    fs::create_dir(&world.store).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=700", "none"]).arg(&world.store).status();
    assert!(mounted.unwrap().success());
    world.write("source", "text\n");
    mount(&world);
    // The index and the log of the layer are there.
    world.run(&strs(&world.counted("cat source > first"))).miss();
    let mut fill = fs::File::create(world.store.join("fill")).unwrap();
    let (block, mut filled) = ([0; 4096], 0);
    while filled < 2048 && std::io::Write::write_all(&mut fill, &block).is_ok() {
        filled += 1;
    }
    assert!(filled < 2048, "it never became full");
    let command = world.counted("mkdir -p dist/deep && cat source > dist/copy && cat source > dist/deep/copy");
    let run = world.run(&strs(&command));
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!((world.text("dist/copy"), world.text("dist/deep/copy")), ("text\n".to_owned(), "text\n".to_owned()));
    // Its socket is out of reach as soon as the store is unmounted.
    fs::remove_file(world.store.join("fill")).unwrap();
    for words in [&["unmount", world.ws.to_str().unwrap()][..], &["daemon", "stop"]] {
        let run = world.call().dir("/").wink(words);
        assert_eq!(run.code, 0, "{run:?}");
    }
}

//! Hosts without FUSE: `--detect snapshot`, `--detect glob`, and falling back to the first where it was asked for (`detect = "auto"`).

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{Call, Run, World, assert_same, strs, tools, wait_for};

/// `out/all` from `src/*`, an empty directory, a link, a program.
const BUILD: &str = "mkdir -p out/empty; cat src/* > out/all; ln -sf all out/link; echo '#!/bin/sh' > out/run; chmod +x out/run; echo built";

fn world(name: &str) -> (World, Vec<String>) {
    let world = World::new(name);
    world.write("src/a", "a\n");
    world.write("src/b", "b\n");
    let command = world.counted(BUILD);
    (world, command)
}

fn snapshot(world: &World, command: &[String]) -> Run {
    world.call().flags(&["--detect", "snapshot"]).run(&strs(command))
}

/// Where `/dev/fuse` is of no use.
fn without_fuse<'w>(world: &'w World) -> Call<'w> {
    world.call().under(&["unshare", "-m", "/bin/sh", "-ec", "mount --bind /dev/null /dev/fuse; exec \"$@\"", "sh"])
}

#[test]
fn a_snapshot_finds_inputs_and_outputs() {
    let (world, command) = world("snapshot");
    let (native, expected) = world.native(&strs(&command));
    let first = snapshot(&world, &command);
    first.miss();
    assert_eq!(first.out(), native.out());
    assert_same(&expected, &world.tree(), "after a miss");
    for outputs_stand in [true, false] {
        if !outputs_stand {
            fs::remove_dir_all(world.ws.join("out")).unwrap();
        }
        let hit = snapshot(&world, &command);
        hit.hit();
        assert_eq!(hit.out(), native.out());
        assert_same(&expected, &world.tree(), "after a hit");
    }
    world.write("src/a", "another\n");
    snapshot(&world, &command).miss_naming("src/a");
    assert_eq!(world.text("out/all"), "another\nb\n");
    world.write("src/a", "a\n");
    snapshot(&world, &command).hit();
    assert_same(&expected, &world.tree(), "as it was");
    world.write("src/c", "c\n");
    snapshot(&world, &command).miss();
    assert_eq!(world.text("out/all"), "a\nb\nc\n");
    assert_eq!(world.count(), 3, "three misses");
}

#[test]
fn another_clone_hits() {
    let (world, command) = world("snapshot-clones");
    snapshot(&world, &command).miss();
    let clone = world.root.join("clone");
    for (path, text) in [("src/a", "a\n"), ("src/b", "b\n"), ("wink.toml", "")] {
        fs::create_dir_all(clone.join(path).parent().unwrap()).unwrap();
        fs::write(clone.join(path), text).unwrap();
    }
    world.call().dir(&clone).flags(&["--detect", "snapshot"]).run(&strs(&command)).hit();
    assert_eq!(fs::read_to_string(clone.join("out/all")).unwrap(), "a\nb\n");
    assert_eq!(fs::metadata(clone.join("out/run")).unwrap().permissions().mode() & 0o777, 0o755);
}

/// Ignored by git or not: what lies in the workspace may have been read.
#[test]
fn what_git_ignores_is_an_input_too() {
    let world = World::git("snapshot-ignored", "node_modules\n.env\n");
    world.write("node_modules/tool/index.js", "one\n");
    world.write(".env", "SECRET=1\n");
    let command = world.counted("cat node_modules/tool/index.js .env > out");
    snapshot(&world, &command).miss();
    snapshot(&world, &command).hit();
    world.write(".env", "SECRET=2\n");
    snapshot(&world, &command).miss_naming(".env");
    world.write("node_modules/tool/index.js", "two\n");
    snapshot(&world, &command).miss_naming("node_modules/tool/index.js");
    assert_eq!(world.text("out"), "two\nSECRET=2\n");
    // What version control does is nobody's input.
    world.write(".git/description", "another\n");
    snapshot(&world, &command).hit();
}

#[test]
fn a_weaker_record_is_none_for_who_asks_for_a_stronger_one() {
    let (world, command) = world("snapshot-trace");
    snapshot(&world, &command).miss();
    fs::remove_dir_all(world.ws.join("out")).unwrap();
    world.run(&strs(&command)).miss();
    fs::remove_dir_all(world.ws.join("out")).unwrap();
    snapshot(&world, &command).hit();
    world.call().flags(&["--detect", "glob", "--output", "out/**"]).run(&strs(&command)).uncached();
    assert_eq!(world.count(), 3);
}

#[test]
fn each_run_is_one_from_clean_and_a_failed_one_brings_back_what_was() {
    let (world, _) = world("snapshot-clean");
    // It does nothing if there is something already, as an incremental tool.
    let line = "if [ -e out/all ]; then echo stale; else mkdir -p out; cat src/* > out/all; fi; ! grep -q fail src/a";
    let command = world.counted(line);
    snapshot(&world, &command).miss();
    world.write("src/a", "new\n");
    let second = snapshot(&world, &command);
    second.miss();
    assert_eq!((second.out(), world.text("out/all")), (String::new(), "new\nb\n".to_owned()));
    world.write("src/a", "fail\n");
    let failed = snapshot(&world, &command);
    failed.exits(1).uncached();
    assert_eq!(world.text("out/all"), "fail\nb\n", "it had made that before it failed");
    // One that fails at once makes nothing.
    world.write("src/a", "a\n");
    snapshot(&world, &command).hit();
    let broken = world.counted("exit 4");
    snapshot(&world, &broken).exits(4);
    assert_eq!(world.text("out/all"), "a\nb\n");
    let late = world.counted("[ ! -e src/fail ] || exit 5; mkdir late; echo late > late/file; ln -s file late/link");
    snapshot(&world, &late).miss();
    let expected = world.tree();
    world.write("src/fail", "");
    snapshot(&world, &late).exits(5);
    world.remove("src/fail");
    assert_same(&expected, &world.tree(), "what an earlier run left is back");
    snapshot(&world, &late).hit();
}

#[test]
fn a_change_of_what_was_there_is_not_recorded() {
    for (name, line) in [
        ("snapshot-append", "echo more >> src/a"),
        ("snapshot-remove", "rm src/a"),
        ("snapshot-mode", "chmod 755 src/a"),
        ("snapshot-replace", "cp src/a src/new; mv src/new src/a"),
        ("snapshot-dir", "chmod 700 src"),
    ] {
        let (world, _) = world(name);
        let command = world.counted(line);
        let run = snapshot(&world, &command);
        run.uncached().exits(0);
        assert!(run.reason().contains("src"), "{run:?}");
        snapshot(&world, &command);
        assert_eq!(world.count(), 2);
    }
}

#[test]
fn two_at_once_are_not_taken_for_one() {
    let (world, _) = world("snapshot-two");
    let (held, go) = (world.untracked.join("held"), world.untracked.join("go"));
    let line =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.01; done; echo one > one", held.display(), go.display());
    let slow = world.call().flags(&["--detect", "snapshot"]).start(&["/bin/sh", "-c", &line]);
    wait_for(&held);
    let other = snapshot(&world, &["/bin/sh", "-c", "echo two > two"].map(str::to_owned));
    other.uncached().exits(0);
    assert!(other.reason().contains("another command runs in this workspace"), "{other:?}");
    // One that is watched may run beside it, and then the slow one cannot be told apart.
    world.run(&["/bin/sh", "-c", "echo three > three"]).miss();
    fs::write(&go, "").unwrap();
    let slow = slow.finish();
    slow.uncached().exits(0);
    assert!(slow.reason().contains("another task"), "{slow:?}");
    assert_eq!(
        (world.text("one"), world.text("two"), world.text("three")),
        ("one\n".into(), "two\n".into(), "three\n".into())
    );
}

#[test]
fn what_runs_inside_is_part_of_it() {
    let (world, _) = world("snapshot-nested");
    let wink = env!("CARGO_BIN_EXE_wink");
    let command = world.counted(&format!("{wink} run -- /bin/sh -c 'cat src/* > inner'"));
    let first = snapshot(&world, &command);
    first.miss();
    assert!(first.err().contains("inside a task that is not watched"), "{first:?}");
    fs::remove_file(world.ws.join("inner")).unwrap();
    snapshot(&world, &command).hit();
    assert_eq!(world.text("inner"), "a\nb\n");
}

#[test]
fn globs_say_what_counts() {
    let (world, _) = world("glob");
    let command = world.counted("mkdir -p out; cat src/a > out/a; echo junk > junk");
    let run =
        || world.call().flags(&["--detect", "glob", "--input", "src/a", "--output", "out/**"]).run(&strs(&command));
    run().miss();
    world.remove("junk");
    fs::remove_dir_all(world.ws.join("out")).unwrap();
    world.write("src/b", "of no interest\n");
    run().hit();
    assert_eq!((world.text("out/a"), world.has("junk")), ("a\n".to_owned(), false));
    world.write("src/a", "new\n");
    run().miss();
    assert_eq!(world.text("out/a"), "new\n");
    // Nobody knows who made it.
    world.write("out/foreign", "x\n");
    world.write("src/a", "newer\n");
    let doubtful = run();
    doubtful.uncached();
    assert!(doubtful.reason().contains("out/foreign"), "{doubtful:?}");
    let nothing = world.call().flags(&["--detect", "glob"]).run(&strs(&command));
    nothing.exits(125);
    assert!(nothing.err().contains("--input"), "{nothing:?}");
}

#[test]
fn a_table_of_the_configuration_says_it_too() {
    let (world, _) = world("glob-table");
    let command = world.counted("mkdir -p out; cat src/a > out/a; echo junk > junk");
    world.write(
        "wink.toml",
        "[[task]]\nmatch = \"*junk*\"\ndetect = \"glob\"\ninput = [\"src/a\"]\noutput = [\"out/**\"]\n",
    );
    world.run(&strs(&command)).miss();
    world.write("src/b", "of no interest\n");
    world.run(&strs(&command)).hit();
    assert_eq!(world.count(), 1);
}

#[test]
fn without_fuse_it_is_done_for_who_asked() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let (world, command) = world("auto");
    // Nobody gets what is weaker without asking.
    without_fuse(&world).run(&strs(&command)).uncached().exits(0);
    fs::remove_dir_all(world.ws.join("out")).unwrap();
    let run = || without_fuse(&world).env("WINK_DETECT", "auto").run(&strs(&command));
    let first = run();
    first.miss();
    assert!(first.err().contains("comparing the workspace before and after"), "{first:?}");
    fs::remove_dir_all(world.ws.join("out")).unwrap();
    let hit = run();
    hit.hit();
    assert_eq!(hit.lines().len(), 1, "{hit:?}");
    assert_eq!((world.text("out/all"), world.count()), ("a\nb\n".to_owned(), 2));
    // Where there is a view it is taken.
    fs::remove_dir_all(world.ws.join("out")).unwrap();
    world.call().env("WINK_DETECT", "auto").run(&strs(&command)).miss();
}

#[test]
fn a_new_program_or_interpreter_is_seen() {
    let (world, _) = world("snapshot-program");
    let tools: PathBuf = world.untracked.join("bin");
    fs::create_dir_all(&tools).unwrap();
    let program = |name: &str, text: &str| {
        fs::write(tools.join(name), text).unwrap();
        fs::set_permissions(tools.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    };
    program("inner", "#!/bin/sh\ncat src/a > made; echo one >> made\n");
    program("tool", &format!("#!{}\n", tools.join("inner").display()));
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let run = || world.call().env("PATH", &path).flags(&["--detect", "snapshot"]).run(&["tool"]);
    run().miss();
    run().hit();
    program("inner", "#!/bin/sh\ncat src/a > made; echo two >> made\n");
    run().miss();
    assert_eq!(world.text("made"), "a\ntwo\n");
    program("tool", "#!/bin/sh\necho three > made\n");
    run().miss();
    assert_eq!(world.text("made"), "three\n");
}

//! The one thing nobody forgives: a hit that gives what the command would not give now, and files of the user that are lost. Each test
//! is named after what must not happen; where that can be told, the judge is a native run in a twin of the workspace.
//!
//! From a review with fresh eyes: the first three sections (`wrong hits`, `lost files`, `wrong all the same`) held what failed when it
//! was written or shortly before, the last what withstood.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::{Call, Run, World, assert_same, copy_tree, tools, wait_for};

const NOBODY: u32 = 65_534;

/// Gives a file a time long before any output, as `cp -p`, `tar x` and package managers do.
fn old(path: impl AsRef<Path>) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn sh(line: &str) -> [&str; 3] {
    ["/bin/sh", "-c", line]
}

/// Runs the command natively in a twin and through wink: the workspace must come out the same. What make says of its own work is no
/// part of it.
#[track_caller]
fn as_native(world: &World, command: &[&str], what: &str) -> Run {
    let (native, tree) = world.native(command);
    let run = world.run(command);
    assert_eq!(run.code, native.code, "{what}: {run:?}\nnatively: {native:?}");
    assert_same(&tree, &world.tree(), what);
    run
}

fn need_make() -> Result<(), String> {
    tools::which("make").map(drop)
}

/// A world in which an ordinary user may open /dev/fuse, and how calls become that user's.
struct Ordinary {
    world: World,
    line: String,
}

impl Ordinary {
    fn new(name: &str) -> Result<Ordinary, String> {
        tools::root().and(tools::unshare(&["-m"]))?;
        let world = World::tracked(name);
        chmod(&world.untracked, 0o777);
        fs::copy(env!("CARGO_BIN_EXE_wink"), world.root.join("wink")).unwrap();
        fs::create_dir(&world.store).unwrap();
        chmod(&world.store, 0o700);
        let device = world.untracked.join("fuse");
        let line = tools::as_ordinary_user(&device, NOBODY);
        let ordinary = Ordinary { world, line };
        if ordinary.call().native(&sh(": <> /dev/fuse")).code != 0 {
            return Err("a bind-mounted /dev/fuse does not behave here".to_owned());
        }
        Ok(ordinary)
    }

    fn call(&self) -> Call<'_> {
        for path in [&self.world.root, &self.world.ws, &self.world.home, &self.world.store] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(self.world.root.join("json"), Some(NOBODY), Some(NOBODY)).unwrap();
        let under = ["unshare", "-m", "/bin/sh", "-c", &self.line, "sh"];
        self.world.call().program(self.world.root.join("wink")).under(&under)
    }

    fn run(&self, line: &str) -> Run {
        self.call().run(&sh(line))
    }

    fn owned(&self, path: &str) -> std::path::PathBuf {
        let path = self.world.ws.join(path);
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        path
    }
}

// ---- wrong hits ------------------------------------------------------------------------------------------------------

/// `changed_inputs` knows of files and absences only: a link led elsewhere is no newer, so make keeps the old output.
#[test]
fn make_is_not_fooled_by_a_link_that_leads_elsewhere() {
    need!(need_make());
    let world = World::new("carry-link");
    world.write("Makefile", "out: current/in\n\tcp current/in out\n");
    for version in ["one", "two"] {
        old(world.write(format!("{version}/in"), version));
    }
    symlink("one", world.ws.join("current")).unwrap();
    world.run(&["make"]).miss();
    world.remove("current");
    symlink("two", world.ws.join("current")).unwrap();
    world.run(&["make"]).exits(0);
    world.remove("out");
    as_native(&world, &["make"], "without the output, after the link was led elsewhere");
    assert_eq!(world.text("out"), "two");
}

/// As above, with a name that appeared in a directory the task lists.
#[test]
fn make_is_not_fooled_by_a_new_source_with_an_old_time() {
    need!(need_make());
    let world = World::new("carry-new");
    world.write("Makefile", "out: $(sort $(wildcard *.txt))\n\tcat $^ > out\n");
    old(world.write("a.txt", "a\n"));
    world.run(&["make"]).miss();
    old(world.write("b.txt", "b\n"));
    world.run(&["make"]).exits(0);
    world.remove("out");
    as_native(&world, &["make"], "without the output, after a source came with an old time");
    assert_eq!(world.text("out"), "a\nb\n");
}

/// As above, outside the workspace: a package manager installs another header with the old time of its build.
#[test]
fn make_is_not_fooled_by_a_changed_file_outside_with_an_old_time() {
    need!(need_make());
    let world = World::tracked("carry-outside");
    let header = world.root.join("header");
    fs::write(&header, "one").unwrap();
    old(&header);
    world.write("Makefile", "out: ../header\n\tcp ../header out\n");
    world.run(&["make"]).miss();
    fs::write(&header, "two").unwrap();
    old(&header);
    world.run(&["make"]).exits(0);
    world.remove("out");
    as_native(&world, &["make"], "without the output, after a header outside changed");
    assert_eq!(world.text("out"), "two");
}

/// What an incremental tool makes of old outputs that it saw is no result of a run that finds none.
#[test]
#[ignore = "fails; documented as the price of carry: SEMANTICS, ADR 0006"]
fn a_result_of_old_outputs_is_not_given_to_a_clean_workspace() {
    let world = World::new("carry-stale");
    let command = sh("[ -e out ] || cp in out; cat in");
    world.write("in", "1\n");
    world.run(&command).miss();
    world.write("in", "2\n");
    world.run(&command).exits(0);
    world.remove("out");
    as_native(&world, &command, "without the output");
    assert_eq!(world.text("out"), "2\n");
}

/// Old outputs that a run was merely shown are no outputs of its own (bundles with a digest in their name).
#[test]
#[ignore = "fails; documented as the price of carry: SEMANTICS, ADR 0006"]
fn outputs_of_an_older_source_do_not_come_to_a_clean_clone() {
    let world = World::new("carry-union");
    let command = sh("mkdir -p dist && cp in dist/app.$(cat in).js");
    let clone = world.root.join("clone");
    copy_tree(&world.ws, &clone);
    world.write("in", "A");
    world.run(&command).miss();
    world.write("in", "B");
    world.run(&command).exits(0);
    fs::write(clone.join("in"), "B").unwrap();
    world.call().dir(&clone).run(&command).exits(0);
    assert!(clone.join("dist/app.B.js").exists());
    assert!(!clone.join("dist/app.A.js").exists(), "nothing in this clone was ever A");
}

/// A mode of a directory decides what stat and tar say.
#[test]
fn the_mode_of_a_directory_counts() {
    let world = World::new("dir-mode");
    let dir = world.ws.join("dir");
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o755);
    let command = sh("stat -c %a dir > out");
    world.run(&command).miss();
    chmod(&dir, 0o700);
    as_native(&world, &command, "after chmod of a directory");
    assert_eq!(world.text("out"), "700\n");
}

/// What could not be listed, entered or written to for want of permission can be later.
#[test]
fn a_directory_that_becomes_accessible_counts() {
    for (before, after, line) in [
        (0o000, 0o755, "ls dir > out 2>&1; true"),
        (0o000, 0o755, "cat dir/file > out 2>&1; true"),
        (0o555, 0o755, "touch dir/new 2> /dev/null && echo could > out || echo could not > out"),
        (0o755, 0o555, "test -w dir && echo writable > out || echo not > out"),
    ] {
        let ordinary = need!(Ordinary::new("dir-access"));
        let world = &ordinary.world;
        world.write("dir/file", "text\n");
        let dir = ordinary.owned("dir");
        ordinary.owned("dir/file");
        chmod(&dir, before);
        ordinary.run(line).exits(0);
        let first = world.text("out");
        chmod(&dir, after);
        ordinary.run(line).exits(0);
        assert_ne!(world.text("out"), first, "{line}: mode {before:o}, then {after:o}");
    }
}

/// A descriptor of the caller leads around the view.
#[test]
fn what_is_read_through_an_inherited_descriptor_counts() {
    let world = World::new("descriptor");
    world.write("in", "1\n");
    let run = || world.call().under(&["/bin/sh", "-c", "exec \"$@\" 3< in", "sh"]).run(&sh("cat <&3 > out"));
    run().exits(0);
    assert_eq!(world.text("out"), "1\n");
    world.write("in", "2\n");
    run().exits(0);
    assert_eq!(world.text("out"), "2\n");
}

/// `wink run -- diff <(sort a) b`.
#[test]
fn process_substitution_counts() {
    let bash = need!(tools::which("bash")).to_str().unwrap().to_owned();
    let world = World::new("substitution");
    world.write("a", "1\n");
    world.write("b", "1\n");
    let run = || world.call().under(&[&bash, "-c", "exec \"$@\" <(sort a) b", "bash"]).run(&["diff"]);
    run().exits(0);
    world.write("a", "2\n");
    run().exits(1);
}

/// The same for writes: on a hit nothing reaches the descriptor.
#[test]
#[ignore = "fails; documented: a descriptor that leads out of the workspace cannot be told from one that a terminal or an editor leaks"]
fn what_is_written_to_an_inherited_descriptor_is_not_lost() {
    let world = World::new("descriptor-write");
    let log = world.root.join("log");
    let line = format!("exec \"$@\" 3> {}", log.display());
    for _ in 0..2 {
        world.call().under(&["/bin/sh", "-c", &line, "sh"]).run(&sh("echo text >&3")).exits(0);
        assert_eq!(fs::read_to_string(&log).unwrap(), "text\n");
    }
}

/// A shell takes its idea of where it is from PWD, which names the way that was taken there.
#[test]
fn the_way_to_a_clone_is_not_taken_for_another() {
    let world = World::tracked("pwd");
    let clone = |name: &str| {
        let (ws, link) = (world.root.join(name).join("ws"), world.root.join(name).join("link"));
        fs::create_dir_all(&ws).unwrap();
        fs::write(ws.join("wink.toml"), "").unwrap();
        symlink("ws", &link).unwrap();
        link
    };
    for link in [clone("one"), clone("two")] {
        world.call().dir(&link).env("PWD", &link).run(&sh("pwd > out")).exits(0);
        let written = fs::read_to_string(link.join("out")).unwrap();
        assert!(
            [link.clone(), link.canonicalize().unwrap()].iter().any(|place| written.trim() == place.to_str().unwrap())
        );
    }
}

/// Configuration that is looked for upwards until the home: a deeper clone has directories in between.
#[test]
fn a_walk_up_to_the_home_asks_everywhere_in_between() {
    let world = World::tracked("walk-home");
    let walk = "d=$(pwd -P); r=none; while :; do if [ -e \"$d/marker\" ]; then r=found; break; fi; \
                [ \"$d\" = \"$HOME\" ] && break; d=${d%/*}; done; echo $r > out";
    let [shallow, deep] = ["ws", "a/b/ws"].map(|path| {
        let ws = world.home.join(path);
        fs::create_dir_all(&ws).unwrap();
        fs::write(ws.join("wink.toml"), "").unwrap();
        ws
    });
    world.call().dir(&shallow).run(&sh(walk)).miss();
    fs::write(world.home.join("a/marker"), "").unwrap();
    world.call().dir(&deep).run(&sh(walk)).exits(0);
    assert_eq!(fs::read_to_string(deep.join("out")).unwrap(), "found\n");
}

/// A file beside the workspace that is named by its full path is the same file for every clone.
#[test]
fn a_full_path_beside_the_workspace_stays_where_it_is() {
    let world = World::tracked("full-path");
    let [one, two] = ["one", "two"].map(|name| world.root.join(name));
    fs::create_dir_all(one.join("ws")).unwrap();
    fs::write(one.join("ws/wink.toml"), "").unwrap();
    fs::write(one.join("settings"), "1\n").unwrap();
    fs::write(one.join("ws/script"), format!("cat {}/settings > out\n", one.display())).unwrap();
    copy_tree(&one, &two);
    world.call().dir(one.join("ws")).run(&["/bin/sh", "script"]).miss();
    fs::write(one.join("settings"), "2\n").unwrap();
    world.call().dir(two.join("ws")).run(&["/bin/sh", "script"]).exits(0);
    assert_eq!(fs::read_to_string(two.join("ws/out")).unwrap(), "2\n");
}

/// Writes through a mapping that is dirty already leave no trace in the stamp: a digest of such a file must not be trusted.
#[test]
#[ignore = "fails; documented as an assumption: nothing short of writing the file back to disk tells"]
fn a_file_that_is_written_through_a_mapping_counts() {
    let python = need!(tools::which("python3")).to_str().unwrap().to_owned();
    let world = World::new("mapping");
    world.write("in", [b'a'; 4096]);
    let (go, on) = (world.untracked.join("first"), world.untracked.join("second"));
    let script = format!(
        "import mmap, os, time\nf = open('in', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[0:1] = b'X'\nopen('{}', 'w')\n\
         while not os.path.exists('{}'): time.sleep(0.01)\nm[0:1] = b'Y'\nm.flush()\n",
        go.display(),
        on.display()
    );
    let mut writer = Command::new(python).args(["-c", &script]).current_dir(&world.ws).spawn().unwrap();
    wait_for(&go);
    std::thread::sleep(Duration::from_millis(100));
    let command = sh("head -c 3 in > out");
    world.run(&command).exits(0);
    fs::write(&on, "").unwrap();
    writer.wait().unwrap();
    as_native(&world, &command, "after a write through a mapping");
    assert_eq!(world.text("out"), "Yaa");
}

// ---- lost files ------------------------------------------------------------------------------------------------------

/// When the last survivor has gone, what the command wrote at its time must not be written a second time.
#[test]
fn survivors_do_not_bring_old_outputs_back() {
    let world = World::new("survivors");
    world.write("source", "mine\n");
    world.write("moved", "mine\n");
    // The engine keeps the caller's streams for the survivors, so the end of the call is the end of the last of them.
    let running =
        world.call().start(&sh("echo formatted > source; echo x > out; mv moved away; (sleep 2) > /dev/null 2>&1 &"));
    wait_for(&world.ws.join("away"));
    std::thread::sleep(Duration::from_millis(300));
    for name in ["source", "out", "moved", "away"] {
        world.write(name, "edited by the user\n");
    }
    running.finish().uncached();
    for name in ["source", "out", "moved", "away"] {
        assert!(world.has(name), "{name} is gone");
        assert_eq!(world.text(name), "edited by the user\n", "{name}");
    }
}

/// What somebody saved while the command ran must not be overwritten without a copy.
#[test]
fn an_edit_during_the_run_is_not_lost() {
    let world = World::new("edit-during");
    world.write("source", "a\n");
    let (go, on) = (world.untracked.join("written"), world.untracked.join("edited"));
    let line =
        format!("sed -i s/a/b/ source; : > {}; while [ ! -e {} ]; do sleep 0.01; done", go.display(), on.display());
    let running = world.call().start(&sh(&line));
    wait_for(&go);
    world.write("source", "edited by the user\n");
    world.write("other", "x");
    fs::write(&on, "").unwrap();
    let run = running.finish();
    let kept = world.tree().values().any(|entry| common::contains(&entry.bytes, b"edited by the user"));
    assert!(kept, "natively the edit stands; here it is nowhere: {run:?}");
}

/// A hit that cannot be carried out must leave the inputs that the command would have removed.
#[test]
fn a_restore_that_fails_does_not_remove_inputs() {
    let world = World::new("restore-fails");
    let packed = world.write("packed", "precious\n");
    let command = sh("head -c 3000000 /dev/zero > unpacked; cat packed >> unpacked; rm packed");
    world.run(&command).miss();
    world.remove("unpacked");
    fs::write(&packed, "precious\n").unwrap();
    // Where a file may not grow that large, as on a full disk.
    let run = world.call().under(&["/bin/sh", "-c", "ulimit -f 2000; exec \"$@\"", "sh"]).run(&command);
    assert!(world.has("unpacked") || world.has("packed"), "both are gone: {run:?}");
}

/// The same, killed half-way.
#[test]
fn a_killed_restore_does_not_remove_inputs() {
    let world = World::new("restore-killed");
    world.write("packed", "precious\n");
    let command = sh("for i in $(seq 2000); do echo $i > out$i; done; rm packed");
    world.run(&command).miss();
    for number in 1..=2000 {
        world.remove(format!("out{number}"));
    }
    world.write("packed", "precious\n");
    let running = world.call().start(&command);
    let began = std::time::Instant::now();
    while world.has("packed") && began.elapsed() < Duration::from_secs(30) {}
    running.signal_group("KILL");
    running.finish();
    let all = (1..=2000).all(|number| world.has(format!("out{number}")));
    assert!(all || world.has("packed"), "the input was removed before the outputs were there");
}

// ---- wrong all the same ----------------------------------------------------------------------------------------------

/// A target that depends on a directory: a new name in it makes it newer.
#[test]
fn make_sees_that_a_directory_has_a_new_name() {
    need!(need_make());
    let world = World::new("dir-time");
    world.write("Makefile", "out: list\n\tls list > out\n");
    world.write("list/a", "");
    world.run(&["make"]).miss();
    std::thread::sleep(Duration::from_millis(20));
    world.write("list/b", "");
    as_native(&world, &["make"], "after a name appeared in a directory");
    assert_eq!(world.text("out"), "a\nb\n");
}

/// Outputs in a directory without write permission, for a user whom that stops.
#[test]
fn a_directory_that_may_not_be_written_to_is_restored() {
    let ordinary = need!(Ordinary::new("read-only-dir"));
    let (world, line) = (&ordinary.world, "mkdir dir && echo text > dir/file && chmod 555 dir");
    ordinary.run(line).miss();
    chmod(world.ws.join("dir"), 0o755);
    world.remove("dir");
    let run = ordinary.run(line);
    run.hit();
    assert_eq!(world.text("dir/file"), "text\n");
    assert_eq!(fs::metadata(world.ws.join("dir")).unwrap().mode() & 0o777, 0o555);
}

#[test]
fn a_directory_in_the_place_of_a_link_is_published() {
    let world = World::new("link-to-dir");
    world.write("real/a", "x");
    symlink("real", world.ws.join("out")).unwrap();
    as_native(&world, &sh("rm -rf out; mkdir out; echo text > out/file"), "a directory in the place of a link");
}

#[test]
fn a_change_of_owner_is_published_and_restored() {
    need!(tools::root());
    let world = World::new("owner");
    let owner = |path: &str| fs::metadata(world.ws.join(path)).unwrap().uid();
    world.write("there", "x");
    let there = sh("chown 1234 there");
    world.run(&there).exits(0);
    assert_eq!(owner("there"), 1234, "a file that was there");
    let made = sh("echo x > made; chown 1234 made");
    world.run(&made).exits(0);
    assert_eq!(owner("made"), 1234, "a new file");
    world.remove("made");
    world.run(&made).exits(0);
    assert_eq!(owner("made"), 1234, "a new file, restored");
}

/// A file that got a second name since the record: a write in place changes both.
#[test]
fn a_hit_changes_all_names_of_a_file() {
    let world = World::new("hit-hard-link");
    let command = sh("echo 2 > a");
    world.write("a", "1\n");
    world.run(&command).miss();
    world.write("a", "1\n");
    fs::hard_link(world.ws.join("a"), world.ws.join("b")).unwrap();
    let run = world.run(&command);
    assert!(world.text("b") == "2\n" || run.status() != "hit", "natively both are 2: {run:?}");
}

/// What wink cannot restore it must not call a success that it may repeat.
#[test]
#[ignore = "fails; by design: pipes and sockets are no outputs (SEMANTICS)"]
fn a_pipe_is_made_or_the_run_is_not_recorded() {
    let world = World::new("fifo");
    let command = ["mkfifo", "pipe"];
    world.run(&command).exits(0);
    if world.has("pipe") {
        world.remove("pipe");
    }
    let again = world.run(&command);
    assert!(world.has("pipe") || again.status() != "hit", "{again:?}");
}

// ---- what withstood --------------------------------------------------------------------------------------------------

/// Every shape that one path can take, there and back.
#[test]
fn one_path_in_every_shape() {
    let world = World::new("shapes");
    let command = sh(
        "if [ -L x ]; then readlink x; elif [ -d x ]; then ls x; elif [ -f x ]; then cat x; else echo none; fi > out 2>&1",
    );
    let shapes: [(&str, &dyn Fn()); 7] = [
        ("nothing", &|| {}),
        ("a file", &|| drop(world.write("x", "text\n"))),
        ("an empty directory", &|| fs::create_dir(world.ws.join("x")).unwrap()),
        ("a directory", &|| drop(world.write("x/a", ""))),
        ("another directory", &|| drop(world.write("x/b", ""))),
        ("a dangling link", &|| symlink("nowhere", world.ws.join("x")).unwrap()),
        ("a loop", &|| symlink("x", world.ws.join("x")).unwrap()),
    ];
    for round in ["first", "second"] {
        for (name, make) in shapes.iter().chain(shapes.iter().rev()) {
            make();
            as_native(&world, &command, &format!("{round} round: {name}"));
            if world.has("x") {
                world.remove("x");
            }
        }
    }
}

/// Branches switched with old and new times, in each way of treating own outputs that promises a clean result.
#[test]
fn branches_and_make() {
    need!(need_make());
    for own in ["carry", "hide"] {
        let world = World::new("branches");
        world.write("Makefile", "out: middle\n\tcp middle out\nmiddle: in\n\tcp in middle\n");
        for (number, branch) in ["A", "B", "A", "C", "B", "A", "C"].into_iter().enumerate() {
            let path = world.write("in", branch);
            if number % 2 == 1 {
                old(path);
            }
            world.call().flags(&["--own", own]).run(&["make"]).exits(0);
            assert_eq!((world.text("middle").as_str(), world.text("out").as_str()), (branch, branch), "{own} {number}");
        }
    }
}

/// A source that shadows another, and one that goes: make does not see it, wink must not pass it on.
#[test]
fn sources_that_appear_or_go_unseen_by_make_are_not_recorded() {
    need!(need_make());
    let world = World::new("shadow");
    world.write("Makefile", "out: in\n\tcat first in 2> /dev/null > out || true\n");
    world.write("in", "in\n");
    world.run(&["make"]).miss();
    world.write("first", "first\n");
    world.run(&["make"]).exits(0);
    world.remove("out");
    as_native(&world, &["make"], "without the output");
    world.remove("first");
    world.run(&["make"]).exits(0);
    world.remove("out");
    as_native(&world, &["make"], "without the output, again");
}

/// A directory that the task moves as a whole: names deep inside count, though it looked at none of them.
#[test]
fn what_is_moved_unseen_counts() {
    let world = World::new("moved");
    let command = ["mv", "dir", "away"];
    let set = |files: &[(&str, &str)]| {
        for name in ["dir", "away"] {
            if world.has(name) {
                world.remove(name);
            }
        }
        files.iter().for_each(|(path, bytes)| drop(world.write(path, bytes)));
    };
    for files in [
        [("dir/deep/er/a", "1")].as_slice(),
        &[("dir/deep/er/a", "2")],
        &[("dir/deep/er/a", "1"), ("dir/deep/er/b", "1")],
        &[("dir/deep/er/a", "1")],
    ] {
        set(files);
        as_native(&world, &command, &format!("{files:?}"));
    }
}

/// A program that appears earlier in PATH, one that may no longer be executed, and a library found earlier.
#[test]
fn earlier_in_the_search_path() {
    let world = World::new("path");
    world.script("late/tool", "#!/bin/sh\necho late\n");
    fs::create_dir(world.ws.join("early")).unwrap();
    let path = format!("{0}/early:{0}/late:/usr/bin:/bin", world.ws.display());
    let out = || world.call().env("PATH", &path).run(&["tool"]).exits(0).out();
    assert_eq!(out(), "late\n");
    world.script("early/tool", "#!/bin/sh\necho early\n");
    assert_eq!(out(), "early\n");
    chmod(world.ws.join("early/tool"), 0o644);
    assert_eq!(out(), "late\n");
    world.remove("early/tool");
    assert_eq!(out(), "late\n");
}

/// Somebody else's files where outputs would go are never overwritten by a hit; a link leads no write out of the workspace.
#[test]
fn foreign_things_at_the_place_of_outputs() {
    let world = World::new("foreign");
    let outside = world.root.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "precious\n").unwrap();
    let command = sh("[ -e out ] && exit 0; mkdir out && echo text > out/file");
    world.run(&command).miss();
    world.remove("out");
    symlink(&outside, world.ws.join("out")).unwrap();
    as_native(&world, &command, "a link in the place of an output");
    world.remove("out");
    world.write("out", "theirs\n");
    as_native(&world, &command, "a file in the place of an output directory");
    world.remove("out");
    world.write("out/theirs", "theirs\n");
    as_native(&world, &command, "a directory with somebody else's file");
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "precious\n");
}

/// Killed while it publishes: every file is whole, nothing is removed, and the next run gives the right result.
#[test]
fn killed_while_publishing() {
    let world = World::new("publish-killed");
    world.write("in", "text\n");
    let command = sh("for i in $(seq 1500); do echo $i > out$i; done; rm in");
    let running = world.call().start(&command);
    wait_for(&world.ws.join("out1"));
    running.signal_group("KILL");
    running.finish();
    std::thread::sleep(Duration::from_millis(300));
    let mut present = 0;
    for number in 1..=1500 {
        if world.has(format!("out{number}")) {
            assert_eq!(world.text(format!("out{number}")), format!("{number}\n"));
            present += 1;
        }
    }
    assert!(present == 1500 || world.has("in"), "removed before all was there ({present})");
    if world.has("in") {
        as_native(&world, &command, "after a kill");
    }
}

/// Names that are no text, holes, and bytes changed through a mapping.
#[test]
fn strange_names_and_bytes() {
    let python = need!(tools::which("python3")).to_str().unwrap().to_owned();
    let world = World::new("strange");
    let script = "import mmap\nn = b'x\\xff\\ny'\nf = open(n, 'w+b')\nf.truncate(50000)\nm = mmap.mmap(f.fileno(), 0)\n\
                  m[40000:40003] = b'XYZ'\nm.close()\nopen(b'in', 'r+b').write(b'!')\n";
    for _ in 0..2 {
        world.write("in", "text");
        as_native(&world, &[&python, "-c", script], "a mapped file with a strange name");
        world.call().native(&sh("rm -f x*"));
    }
}

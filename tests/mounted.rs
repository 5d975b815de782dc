//! The mounted working tree through the command line: restored outputs are views of blobs, everything else is the real tree, and nothing
//! a daemon's death can take away.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::mounted::{kill_daemon, mount, unmount, unmount_with};
use common::{World, assert_same, snapshot, strs, tools};

/// Far above what a dead mount may take to answer.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Far above how long the kernel keeps answers while others may change the tree.
const IN_THE_END: Duration = Duration::from_secs(20);

/// What the real directory holds while it is not covered.
fn beneath(world: &World, look: impl FnOnce(&Path)) {
    unmount(world);
    look(&world.ws);
    mount(world);
}

fn sources(world: &World) -> Vec<String> {
    world.write("src/a.txt", "alpha\n");
    world.write("src/b.txt", "beta\n");
    world.counted(
        "mkdir -p dist/deep && cat src/a.txt > dist/a && cat src/b.txt > dist/deep/b && ln -sf deep/b dist/link && echo done",
    )
}

#[test]
fn a_hit_is_shown_and_not_copied() {
    let world = World::new("mounted-hit");
    let command = sources(&world);
    let (_, expected) = world.native(&strs(&command));
    mount(&world);
    let first = world.run(&strs(&command));
    first.miss();
    assert_same(&expected, &world.tree(), "after a miss");
    fs::remove_dir_all(world.ws.join("dist")).unwrap();
    let hit = world.run(&strs(&command));
    hit.hit();
    assert_eq!(hit.json["restored_as"], "views");
    assert_eq!(hit.out(), first.out());
    assert_same(&expected, &world.tree(), "after a hit");
    assert_eq!(world.count(), 1);
    beneath(&world, |ws| assert!(!ws.join("dist").exists(), "nothing was written"));
    assert_same(&expected, &world.tree(), "after mounting again");
    world.run(&strs(&command)).hit();
    assert_eq!(world.count(), 1);
    let said = unmount_with(&world, &["--materialize"]);
    assert!(said.contains("real files"), "{said}");
    assert_same(&expected, &world.tree(), "made real");
    world.run(&strs(&command)).hit();
    assert_eq!(world.count(), 1, "what was made real is as good");
}

#[test]
fn a_task_that_sees_only_the_workspace_hits_too() {
    let world = World::new("mounted-scope");
    let command = sources(&world);
    mount(&world);
    let run = || world.call().flags(&["--scope", "workspace"]).run(&strs(&command));
    run().miss();
    let expected = world.tree();
    fs::remove_dir_all(world.ws.join("dist")).unwrap();
    run().hit();
    assert_same(&expected, &world.tree(), "after a hit");
    world.write("src/a.txt", "another\n");
    run().miss_naming("src/a.txt");
    assert_eq!(world.text("dist/a"), "another\n");
    assert_eq!(world.count(), 2);
}

#[test]
fn a_mount_shows_the_real_tree_and_writes_to_it() {
    let world = World::new("mounted-through");
    world.write("kept.txt", "kept\n");
    mount(&world);
    world.write("made/new.txt", "new\n");
    fs::rename(world.ws.join("kept.txt"), world.ws.join("made/moved.txt")).unwrap();
    let through = world.tree();
    beneath(&world, |ws| assert_same(&through, &snapshot(ws), "beneath the mount"));
}

#[test]
fn whatever_is_done_to_a_view_no_blob_changes() {
    let python = need!(tools::python());
    let world = World::new("mounted-views");
    let names: Vec<String> = (0..14).map(|number| format!("f{number}")).collect();
    let line = format!(
        "mkdir -p out/sub && for f in {}; do echo content-$f > out/$f; done; echo x > out/sub/x",
        names.join(" ")
    );
    let command = world.counted(&line);
    mount(&world);
    world.run(&strs(&command)).miss();
    let blobs = world.blobs_are_sound();
    // Another process reads on while the first one writes; both see one file.
    let script = world.write(
        "abuse.py",
        r#"
import mmap, os, subprocess, sys
reader = open("out/f0")
other = subprocess.Popen([sys.executable, "-c", "import sys; f=open('out/f0'); sys.stdin.read(); f.seek(0); print(f.read(), end='')"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
open("out/f0", "a").write("more\n")
assert reader.read() == "content-f0\nmore\n", "an open file shows what is written"
seen, _ = other.communicate("go")
assert seen in ("content-f0\nmore\n",), seen
os.truncate("out/f1", 3)
with open("out/f2", "r+b") as f:
    with mmap.mmap(f.fileno(), 0) as m:
        m[0:7] = b"CONTENT"; m.flush()
os.chmod("out/f3", 0o755)
os.rename("out/f4", "out/renamed")
os.link("out/f5", "out/linked")
os.unlink("out/f6")
os.utime("out/f7", (1, 1))
os.rename("out/f8", "out/f9")
os.rename("out/sub", "sub-moved")
open("out/f10", "w").write("anew\n")
os.link("out/linked", "out/linked-again")
open("out/linked-again", "a").write("through a link\n")
os.symlink("f11", "out/soft"); open("out/soft", "a").write("through a soft link\n")
fd = os.open("out/f12", os.O_RDWR); os.posix_fallocate(fd, 0, 100); os.close(fd)
os.mkdir("out/f13.d"); os.rename("out/f13", "out/f13.d/f13")
assert open("out/f13.d/f13").read() == "content-f13\n"
"#,
    );
    let run = world.call().native(&[&python, script.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(world.blobs_are_sound(), blobs, "no blob was changed, made or removed");
    let expect = BTreeMap::from([
        ("out/f0", "content-f0\nmore\n"),
        ("out/f1", "con"),
        ("out/f2", "CONTENT-f2\n"),
        ("out/f3", "content-f3\n"),
        ("out/renamed", "content-f4\n"),
        ("out/f5", "content-f5\nthrough a link\n"),
        ("out/f7", "content-f7\n"),
        ("out/f9", "content-f8\n"),
        ("sub-moved/x", "x\n"),
        ("out/f10", "anew\n"),
        ("out/linked", "content-f5\nthrough a link\n"),
        ("out/f11", "content-f11\nthrough a soft link\n"),
        ("out/f13.d/f13", "content-f13\n"),
    ]);
    let check = |when: &str| {
        for (path, content) in &expect {
            assert_eq!(&world.text(path), content, "{path}, {when}");
        }
        for gone in ["out/f4", "out/f6", "out/f8", "out/sub", "out/f13"] {
            assert!(!world.has(gone), "{gone}, {when}");
        }
        assert_eq!(fs::metadata(world.ws.join("out/f3")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(world.ws.join("out/f5")).unwrap().nlink(), 3);
        assert_eq!(fs::metadata(world.ws.join("out/f7")).unwrap().mtime(), 1);
    };
    check("at once");
    beneath(&world, |_| ());
    check("after mounting again");
}

#[test]
fn a_killed_daemon_takes_nothing_along() {
    let world = World::new("mounted-killed");
    let command = sources(&world);
    mount(&world);
    world.run(&strs(&command)).miss();
    world.write("mine.txt", "mine\n");
    let expected = world.tree();
    // Somebody waits for an answer at this moment, again and again.
    let mut load = Command::new("/bin/sh")
        .args(["-c", "while cat src/a.txt dist/a && ls dist && echo x > scratch; do :; done; exit 7"])
        .current_dir(&world.ws)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let killed = Instant::now();
    kill_daemon(&world);
    while load.try_wait().unwrap().is_none() {
        assert!(killed.elapsed() < AT_ONCE, "who asked must not wait");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(fs::read(world.ws.join("mine.txt")).is_err(), "nobody serves it");
    // Any command in it brings it back.
    let run = world.call().wink(&["status"]);
    assert_eq!(run.code, 0, "{run:?}");
    fs::remove_file(world.ws.join("scratch")).unwrap();
    assert_same(&expected, &world.tree(), "after coming back");
    world.run(&strs(&command)).hit();
    assert_eq!(world.count(), 1);
}

#[test]
fn a_remount_changes_no_number() {
    let world = World::git("mounted-numbers", "dist\n");
    let command = sources(&world);
    mount(&world);
    world.run(&strs(&command)).miss();
    // What is as young as the index itself is read again by git (racy, as it says).
    std::thread::sleep(Duration::from_millis(1100));
    for words in [&["add", "-A"][..], &["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]] {
        let run = world.call().native(&[&["git"], words].concat());
        assert_eq!(run.code, 0, "{run:?}");
    }
    let numbers = || -> BTreeMap<PathBuf, (u64, i64, i64, i64, i64)> {
        let paths = world.tree().into_keys();
        let stat = |path: PathBuf| {
            let data = fs::symlink_metadata(world.ws.join(&path)).unwrap();
            (path, (data.ino(), data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()))
        };
        // Reading a directory may set its atime only.
        paths.map(stat).collect()
    };
    let before = numbers();
    beneath(&world, |_| ());
    assert_eq!(before, numbers());
    let strace = need!(tools::strace());
    let log = world.root.join("git.strace");
    let strace = [strace.to_str().unwrap(), "-f", "-e", "trace=open,openat", "-o", log.to_str().unwrap()];
    let run = world.call().under(&strace).native(&["git", "status", "--porcelain"]);
    assert_eq!((run.code, run.out()), (0, String::new()), "{run:?}");
    let opened = fs::read_to_string(&log).unwrap();
    assert!(!opened.contains("a.txt") && !opened.contains("b.txt"), "git read nothing again: {opened}");
}

#[test]
fn branches_back_and_forth_are_hits() {
    let world = World::git("mounted-branches", "dist\n");
    let build =
        world.counted("rm -rf dist && mkdir dist && for f in src/*; do tr a-z A-Z < $f > dist/$(basename $f); done");
    let git = |words: &[&str]| {
        let run = world.call().native(&[&["git", "-c", "user.name=x", "-c", "user.email=x@y"], words].concat());
        assert_eq!(run.code, 0, "{run:?}");
    };
    for number in 0..20 {
        world.write(format!("src/common{number}"), format!("common {number}\n"));
    }
    git(&["add", "-A"]);
    git(&["commit", "-qm", "one"]);
    git(&["branch", "-M", "master"]);
    git(&["switch", "-qc", "other"]);
    fs::remove_file(world.ws.join("src/common3")).unwrap();
    world.write("src/common5", "different\n");
    world.write("src/extra", "only here\n");
    git(&["add", "-A"]);
    git(&["commit", "-qm", "two"]);
    let clean = |branch: &str| {
        let dir = world.root.join(format!("clean-{branch}"));
        git(&["worktree", "add", "-q", "--detach", dir.to_str().unwrap(), branch]);
        let run = world.call().dir(&dir).native(&strs(&build));
        assert_eq!(run.code, 0, "{run:?}");
        let mut tree = snapshot(&dir);
        tree.retain(|path, _| path != Path::new(".git"));
        tree
    };
    git(&["switch", "-q", "--detach"]);
    let expected = [clean("master"), clean("other")];
    let _ = fs::remove_file(world.counter());
    mount(&world);
    for turn in 0..20 {
        let branch = turn % 2;
        git(&["switch", "-q", ["master", "other"][branch]]);
        let run = world.run(&strs(&build));
        if turn < 2 {
            run.miss()
        } else {
            run.hit()
        };
        assert_same(&expected[branch], &world.tree(), &format!("turn {turn}"));
    }
    assert_eq!(world.count(), 2);
    world.blobs_are_sound();
}

#[test]
fn views_can_be_made_real_one_by_one_and_without_a_mount() {
    let world = World::new("mounted-real");
    let command = sources(&world);
    mount(&world);
    world.run(&strs(&command)).miss();
    let expected = world.tree();
    let run = world.call().wink(&["materialize", "dist/a"]);
    assert_eq!((run.code, run.out().as_str()), (0, "1 view is a real file now\n"), "{run:?}");
    assert_same(&expected, &world.tree(), "one is real");
    let said = unmount(&world);
    assert!(said.contains("out of sight"), "{said}");
    assert!(world.has("dist/a") && !world.has("dist/deep"));
    let run = world.call().wink(&["materialize"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_same(&expected, &world.tree(), "all are real");
    // Other tests' mounts may be dead at this moment, and are said to be.
    let status = world.call().wink(&["status"]);
    assert!(!status.out().contains(world.ws.to_str().unwrap()), "{status:?}");
}

#[test]
fn a_mount_in_use_stays_and_says_who_uses_it() {
    let world = World::new("mounted-busy");
    world.write("file", "x");
    mount(&world);
    let mut user = Command::new("sleep").arg("60").current_dir(&world.ws).spawn().unwrap();
    let run = world.call().dir("/").wink(&["unmount", world.ws.to_str().unwrap()]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err().contains("sleep") && run.err().contains(&user.id().to_string()), "{run:?}");
    user.kill().unwrap();
    user.wait().unwrap();
    unmount(&world);
}

#[test]
fn a_shell_of_ones_own_needs_nothing() {
    need!(tools::root().and(tools::unshare(&["-m"])).and(tools::which("setpriv").map(drop)));
    let world = World::new("mounted-private");
    let command = sources(&world);
    let done = Command::new("chown").args(["-R", "65534:65534"]).arg(&world.root).arg(&world.untracked).status();
    assert!(done.unwrap().success());
    // A device that everybody may open, and nothing else that root has.
    let device = world.untracked.join("fuse");
    let setup = format!(
        "mknod -m 666 {0} c 10 229; chmod 666 {0}; mount --bind {0} /dev/fuse; \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"",
        device.display()
    );
    let user = ["unshare", "-m", "/bin/sh", "-ec", &setup, "sh"];
    let wink = env!("CARGO_BIN_EXE_wink");
    let line = format!("{wink} run -- {} && rm -r dist && {wink} run -- {0} && cat dist/deep/b", quoted(&command));
    let run = world.call().under(&user).wink(&["mount", "--private", "--", "/bin/sh", "-c", &line]);
    fs::remove_file(&device).unwrap();
    let stopped = world.call().dir("/").under(&user[..]).wink(&["daemon", "stop"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out().ends_with("beta\n") && run.err().contains("restored as views"), "{run:?}");
    assert!(!world.has("dist"), "out of sight when the shell has ended");
    assert_eq!(stopped.code, 0, "{stopped:?}");
}

fn quoted(command: &[String]) -> String {
    command.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_daemon_starts_says_and_stops() {
    let world = World::new("mounted-daemon");
    let daemon = |verb: &str| world.call().wink(&["daemon", verb, "--json"]);
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(json(&daemon("status").stdout)["running"], false);
    assert_eq!(json(&daemon("start").stdout)["running"], true);
    let first = json(&daemon("status").stdout);
    assert_eq!(json(&daemon("start").stdout)["pid"], first["pid"], "one is enough");
    assert!(first["uptime_ms"].is_u64() && first["mounts"].as_array().unwrap().is_empty());
    mount(&world);
    let refused = world.call().wink(&["daemon", "stop"]);
    assert!(refused.code == 1 && refused.err().contains("unmount"), "{refused:?}");
    unmount(&world);
    assert_eq!(json(&daemon("stop").stdout)["stopped"], true);
    assert_eq!(json(&daemon("stop").stdout)["stopped"], false);
}

/// What is handed to a daemon that has just agreed to end would go with it.
#[test]
fn mounting_while_the_daemon_is_stopped_works() {
    let world = World::new("mounted-stopped");
    world.write("file", "x");
    for round in 0..12 {
        world.call().wink(&["daemon", "start"]);
        let stopping = world.call().dir("/").start_wink(&["daemon", "stop"]);
        // Not at the same point of its end each time.
        std::thread::sleep(Duration::from_millis(round / 2));
        mount(&world);
        let stopped = stopping.finish();
        assert!(matches!(stopped.code, 0 | 1), "round {round}: {stopped:?}");
        assert_eq!(world.text("file"), "x", "round {round}: {stopped:?}");
        unmount(&world);
    }
}

#[test]
fn what_cannot_be_mounted_is_refused() {
    let world = World::new("mounted-refused");
    let refused = |dir: &Path, reason: &str| {
        let run = world.call().dir("/").wink(&["mount", dir.to_str().unwrap()]);
        assert!(run.code == 1 && run.err().contains(reason), "{run:?}");
    };
    refused(Path::new("/"), "whole file system");
    refused(&world.root, "cannot be served from itself");
    fs::create_dir(world.ws.join("below")).unwrap();
    mount(&world);
    refused(&world.ws, "mounted already");
    refused(&world.ws.join("below"), "which is mounted");
}

#[test]
fn files_are_locked_and_watched_through_the_mount() {
    let python = need!(tools::python());
    let world = World::new("mounted-locks");
    world.write("file", "x");
    mount(&world);
    let script = world.write(
        "check.py",
        r#"
import ctypes, fcntl, os, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(0o4000)
assert libc.inotify_add_watch(watch, b".", 0x2 | 0x100 | 0x200) >= 0
one = open("file", "r+")
fcntl.flock(one, fcntl.LOCK_EX)
probe = "import fcntl,sys\nf=open('file','r+')\ntry: fcntl.%s(f, fcntl.LOCK_EX|fcntl.LOCK_NB)\nexcept OSError: sys.exit(3)"
assert subprocess.call([sys.executable, "-c", probe % "flock"]) == 3
fcntl.flock(one, fcntl.LOCK_UN)
fcntl.lockf(one, fcntl.LOCK_EX)
assert subprocess.call([sys.executable, "-c", probe % "lockf"]) == 3
one.write("changed"); one.flush()
os.mkdir("made"); os.rmdir("made")
events = os.read(watch, 4096)
names = []
while events:
    _, mask, _, length = struct.unpack("iIII", events[:16])
    names.append((mask & 0xfff, events[16:16 + length].rstrip(b"\0"))); events = events[16 + length:]
assert (0x2, b"file") in names and (0x100, b"made") in names and (0x200, b"made") in names, names
import errno, shutil, time
shutil.copy(shutil.which("sleep"), "sleeper")
size = os.path.getsize("sleeper")
sleeper = subprocess.Popen(["./sleeper", "60"])
while open(f"/proc/{sleeper.pid}/comm").read() != "sleeper\n":
    time.sleep(0.01)
for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC):
    try:
        os.open("sleeper", flags)
        raise AssertionError(f"a running program was opened with {flags}")
    except OSError as error:
        assert error.errno == errno.ETXTBSY, error
assert os.path.getsize("sleeper") == size and sleeper.poll() is None
sleeper.kill(); sleeper.wait()
try:
    os.setxattr("file", "user.colour", b"red")
except OSError as error:
    print("no xattrs here:", error)
else:
    assert os.getxattr("file", "user.colour") == b"red" and os.listxattr("file") == ["user.colour"]
    os.removexattr("file", "user.colour")
    assert os.listxattr("file") == []
"#,
    );
    let run = world.call().native(&[&python, script.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn programs_run_from_the_mount_and_large_files_are_whole() {
    let world = World::new("mounted-large");
    let big: Vec<u8> = (0..9_000_000u32).flat_map(|number| number.to_le_bytes()).collect();
    world.write("big", &big);
    let command = world.counted("cp big copy && cp /bin/true tool");
    mount(&world);
    world.run(&strs(&command)).miss();
    assert!(world.read("copy") == big);
    let run = world.call().native(&["./tool"]);
    assert_eq!(run.code, 0, "{run:?}");
    // Somebody has it open, and reads on, while others change it: by descriptor, by name, and once more.
    let mut file = fs::File::open(world.ws.join("copy")).unwrap();
    let mut head = [0; 4096];
    file.read_exact(&mut head).unwrap();
    let mut writer = fs::File::options().append(true).open(world.ws.join("copy")).unwrap();
    writer.write_all(b"tail").unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    let whole = [&head[..], &rest[..]].concat();
    assert!(whole == big || whole == [&big[..], b"tail"].concat(), "one file or the other");
    assert!(world.read("copy") == [&big[..], b"tail"].concat());
    fs::remove_file(world.ws.join("copy")).unwrap();
    world.run(&strs(&command)).hit();
    let reader = fs::File::open(world.ws.join("copy")).unwrap();
    fs::set_permissions(world.ws.join("copy"), fs::Permissions::from_mode(0o600)).unwrap();
    let shorter = fs::File::options().write(true).open(world.ws.join("copy")).unwrap();
    shorter.set_len(10).unwrap();
    assert!(world.read("copy") == big[..10]);
    assert_eq!(fs::metadata(world.ws.join("copy")).unwrap().permissions().mode() & 0o777, 0o600);
    drop((reader, shorter));
    assert!(world.read("copy") == big[..10]);
    world.blobs_are_sound();
}

#[test]
fn a_damaged_blob_is_an_error_and_never_other_bytes() {
    let world = World::new("mounted-damage");
    let command = sources(&world);
    mount(&world);
    world.run(&strs(&command)).miss();
    let expected = world.tree();
    let digest = blake3::hash(b"beta\n").to_hex().to_string();
    let blob = world.store.join("blobs").join(&digest[..2]).join(&digest[2..]);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, "gone\n").unwrap();
    let found = fs::read(world.ws.join("dist/deep/b"));
    // What the kernel still holds of it is right; it must not read on.
    assert!(found.as_ref().map_or(true, |bytes| bytes == b"beta\n"), "{found:?}");
    beneath(&world, |_| ());
    assert!(fs::read(world.ws.join("dist/deep/b")).is_err());
    world.run(&strs(&command)).exits(0);
    assert_same(&expected, &world.tree(), "brought back");
    world.blobs_are_sound();
}

#[test]
fn what_other_machines_may_do_beneath_shows() {
    // A file system of which nothing is known stands for one that is shared; who changes it comes and goes unseen.
    let ready = tools::root().and_then(|()| tools::unshare(&["-m"]).map(drop));
    if let Err(why) = ready {
        return tools::skip(&why);
    }
    let world = World::new("mounted-shared");
    let ws = world.ws.to_str().unwrap();
    let done = Command::new("mount").args(["-t", "ramfs", "none", ws]).status().unwrap();
    assert!(done.success());
    world.write("wink.toml", "");
    world.write("file", "old\n");
    world.write("dir/old", "");
    mount(&world);
    let shows = || {
        let names: Vec<_> =
            fs::read_dir(world.ws.join("dir")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        (fs::metadata(world.ws.join("file")).unwrap().len(), world.text("file"), names.len(), world.has("new"))
    };
    // So long that the daemon has looked whether it is alone, and what was told for a second before was asked again.
    for _ in 0..50 {
        assert_eq!(shows(), (4, "old\n".into(), 1, false));
        std::thread::sleep(Duration::from_millis(50));
    }
    let line = format!("umount {ws} && cd {ws} && echo longer > file && touch dir/more new");
    assert!(Command::new("unshare").args(["-m", "/bin/sh", "-c", &line]).status().unwrap().success());
    let began = Instant::now();
    while shows() != (7, "longer\n".into(), 2, true) {
        assert!(began.elapsed() < IN_THE_END, "{:?}", shows());
        std::thread::sleep(Duration::from_millis(50));
    }
    unmount(&world);
}

#[test]
fn what_others_do_beneath_shows() {
    let world = World::new("mounted-others");
    world.write("dir/old", "old\n");
    let held = fs::File::open(&world.ws).unwrap();
    mount(&world);
    let beneath = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())).join("dir");
    let dir = world.ws.join("dir");
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let in_the_end = |expected: &[&str]| {
        let began = Instant::now();
        while names() != expected
            || ["old", "new", "newer"].iter().any(|name| dir.join(name).exists() != expected.contains(name))
        {
            assert!(began.elapsed() < IN_THE_END, "{:?} is shown instead of {expected:?}", names());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    in_the_end(&["old"]);
    // Twice within one tick of the clock that stamps the directory, and listed in between.
    fs::write(beneath.join("new"), "new\n").unwrap();
    let _ = names();
    fs::write(beneath.join("newer"), "newer\n").unwrap();
    in_the_end(&["new", "newer", "old"]);
    fs::remove_file(beneath.join("old")).unwrap();
    in_the_end(&["new", "newer"]);
    drop(held);
    unmount(&world);
}

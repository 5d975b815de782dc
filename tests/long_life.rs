//! Long life: what is opened, shown, lent and remembered comes back to where it began, however long a tree is mounted and worked in.
//!
//! Seconds in the gate; `WINK_LIFE_MINUTES=N` goes on for so long. Counters are those that `wink daemon status --json` tells and the kernel
//! keeps of the daemon. They are compared at quiet points, when everything in the tree has been removed: then the kernel has nothing to
//! remember either.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use common::mounted::{mount, unmount};
use common::{World, figure, long_life, strs};

/// What a round runs: many small outputs, one that the kernel is lent.
const LINE: &str = "mkdir -p out/a out/b out/c; i=0; while [ $i -lt 24 ]; do cat in > out/a/$i; echo $i > out/b/$i; i=$((i+1)); done; \
    head -c 2000000 /dev/zero > out/c/large; ln -sf a/1 out/link; echo built";
/// Rounds of the short form.
const ROUNDS: usize = 6;
/// A mount is renewed after so many rounds.
const REMOUNT: usize = 4;
/// Versions of the source, so that there are hits and misses.
const VERSIONS: usize = 3;
/// The kernel tells what it forgets when it comes to it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The top, and the files that are left.
const NODES_LEFT: u64 = 3;
/// What an allocator may keep for later: threads have arenas of their own.
const MEMORY_KB_MAX: u64 = 24 * 1024;

/// What the daemon holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    nodes: u64,
    open_files: u64,
    lent_files: u64,
    views: u64,
    descriptors: usize,
    mounts: usize,
}

fn status(world: &World) -> serde_json::Value {
    let run = world.call().dir("/").wink(&["daemon", "status", "--json"]);
    serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

fn of_process(pid: u64, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn held(world: &World) -> Held {
    let status = status(world);
    let pid = status["pid"].as_u64().unwrap();
    let mounts = status["mounts"].as_array().unwrap();
    let sum = |key: &str| mounts.iter().map(|mount| mount[key].as_u64().unwrap()).sum();
    let targets = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    // The connection that asked may still be open.
    let kept = targets.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| !to.starts_with("socket:")));
    Held {
        nodes: sum("nodes"),
        open_files: sum("open_files"),
        lent_files: sum("lent_files"),
        views: sum("view_files"),
        descriptors: kept.count(),
        mounts: mounts.len(),
    }
}

/// Empties the tree, and waits until the daemon holds what it held at first; fails with what it still holds.
fn quiet(world: &World, first: Option<&Held>) -> Held {
    for entry in fs::read_dir(&world.ws).unwrap().map(|entry| entry.unwrap().path()) {
        if !entry.ends_with("wink.toml") && !entry.ends_with("in") {
            fs::remove_dir_all(&entry).or_else(|_| fs::remove_file(&entry)).unwrap();
        }
    }
    let began = Instant::now();
    loop {
        let now = held(world);
        let settled = now.nodes <= NODES_LEFT && first.is_none_or(|first| now.descriptors <= first.descriptors);
        if settled && (now.open_files, now.lent_files, now.views) == (0, 0, 0) {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "held when nothing is left: {now:?}\nat first: {first:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What people and programs do to outputs.
fn work(dir: &Path, turn: usize) {
    let path = |name: &str| dir.join(name);
    for sub in ["a", "b"] {
        for entry in fs::read_dir(path(sub)).unwrap().map(|entry| entry.unwrap().path()) {
            fs::read(entry).unwrap();
        }
    }
    // Two at once have the large one open, one of them for longer than its name.
    let mut large = fs::File::open(path("c/large")).unwrap();
    let mut again = fs::File::open(path("c/large")).unwrap();
    let mut some = [0; 4096];
    large.read_exact(&mut some).unwrap();
    again.seek(SeekFrom::Start(1_000_000)).unwrap();
    again.read_exact(&mut some).unwrap();
    drop(again);
    fs::remove_file(path("c/large")).unwrap();
    large.read_exact(&mut some).unwrap();
    drop(large);
    // A view that is written to, one that is cut, one that gets another name, one that another takes the place of.
    fs::File::options().append(true).open(path("a/0")).unwrap().write_all(b"more").unwrap();
    fs::write(path("a/1"), "other").unwrap();
    // Of the round before, if that was left.
    let _ = fs::remove_file(path("linked"));
    fs::hard_link(path("a/2"), path("linked")).unwrap();
    fs::rename(path("a/3"), path("a/4")).unwrap();
    fs::rename(path("b"), path("moved")).unwrap();
    fs::rename(path("moved"), path("b")).unwrap();
    fs::metadata(path("link")).unwrap();
    // Names that come and go.
    let deep = path(&format!("new/{turn}/deep/down"));
    fs::create_dir_all(&deep).unwrap();
    for number in 0..10 {
        fs::write(deep.join(number.to_string()), "x").unwrap();
        assert!(!deep.join(format!("none{number}")).exists());
    }
    let kept = fs::File::open(deep.join("5")).unwrap();
    fs::remove_dir_all(path("new")).unwrap();
    assert_eq!(kept.metadata().unwrap().len(), 1);
    for number in 10..16 {
        fs::remove_file(path(&format!("a/{number}"))).unwrap();
    }
}

fn build(world: &World, command: &[String], turn: usize, counts: &mut BTreeMap<String, u64>) {
    world.write("in", format!("version {}\n", turn % VERSIONS).repeat(50));
    let run = world.run(&strs(command));
    assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{run:?}");
    *counts.entry(run.status().to_owned()).or_default() += 1;
    assert_eq!(fs::read_to_string(world.ws.join("out/b/23")).unwrap(), "23\n");
    assert_eq!(fs::read(world.ws.join("out/a/7")).unwrap(), world.read("in"));
}

#[test]
fn a_mounted_tree_comes_back_to_where_it_began() {
    let until = long_life().map(|long| Instant::now() + long);
    let world = World::new("life");
    let command: Vec<String> = ["/bin/sh", "-ec", LINE].map(str::to_owned).into();
    mount(&world);
    let (mut counts, mut turn) = (BTreeMap::new(), 0);
    let mut round = |world: &World, counts: &mut _| {
        turn += 1;
        build(world, &command, turn, counts);
        // What the run left is looked at, worked on, and sometimes left for the next run to find.
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|_| assert!(fs::read_dir(world.ws.join("out/a")).unwrap().count() > 0)));
            work(&world.ws.join("out"), turn);
        });
        if turn % 2 == 0 {
            fs::remove_dir_all(world.ws.join("out")).unwrap();
        }
        if turn % 3 == 0 {
            let run = world.call().wink(&["materialize", "."]);
            assert_eq!(run.code, 0, "{run:?}");
        }
        if turn % REMOUNT == 0 {
            unmount(world);
            // A namespace that copied it, that of a view which is just going, may have it a moment longer.
            let began = Instant::now();
            while held(world).mounts > 0 {
                assert!(began.elapsed() < PATIENCE, "{:?}", held(world));
                std::thread::sleep(Duration::from_millis(20));
            }
            mount(world);
        }
        turn
    };
    // Once all that is made only once has been made.
    for _ in 0..REMOUNT {
        round(&world, &mut counts);
    }
    let first = quiet(&world, None);
    let pid = status(&world)["pid"].as_u64().unwrap();
    let (memory, threads) = (of_process(pid, "VmRSS:"), of_process(pid, "Threads:"));
    let mut rounds = 0;
    let mut most = memory;
    loop {
        (0..ROUNDS).for_each(|_| rounds = round(&world, &mut counts));
        let now = quiet(&world, Some(&first));
        let memory_now = of_process(pid, "VmRSS:");
        most = most.max(memory_now);
        println!("{rounds} rounds: {memory_now} kB, {now:?}");
        assert!(
            memory_now <= memory + MEMORY_KB_MAX,
            "{memory_now} kB after {rounds} rounds, {memory} kB at first: {now:?}"
        );
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    assert_eq!(status(&world)["pid"].as_u64(), Some(pid), "it is still the same daemon");
    if until.is_some() {
        // Threads that look after a mount notice its end when they look again.
        let began = Instant::now();
        while of_process(pid, "Threads:") > threads + 1 {
            assert!(began.elapsed() < PATIENCE, "{} threads, {threads} at first", of_process(pid, "Threads:"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    assert!(counts.get("hit").is_some_and(|hits| *hits > 0) && counts.contains_key("miss"), "{counts:?}");
    figure("rounds in a mounted tree", rounds);
    figure("memory of the daemon at first, kB", memory);
    figure("memory of the daemon at most, kB", most);
    unmount(&world);
    world.blobs_are_sound();
}

/// A long series of runs without a mount leaves records and nothing else.
#[test]
fn runs_leave_nothing_behind() {
    let until = long_life().map(|long| Instant::now() + long / 2);
    let world = World::new("series");
    let command: Vec<String> = ["/bin/sh", "-ec", LINE].map(str::to_owned).into();
    let mounts = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(world.root.to_str().unwrap())).count()
    };
    let names = |dir: &str| fs::read_dir(world.store.join(dir)).map_or(0, |entries| entries.count());
    let (mut counts, mut turn) = (BTreeMap::new(), 0);
    let mut blobs = None;
    loop {
        for _ in 0..ROUNDS {
            turn += 1;
            build(&world, &command, turn, &mut counts);
            if turn % 2 == 0 {
                fs::remove_dir_all(world.ws.join("out")).unwrap();
            }
        }
        assert_eq!((names("staging"), names("quarantine"), mounts()), (0, 0, 0), "after {turn} runs");
        assert_eq!(names("locks"), 1);
        // All versions were seen: nothing new is stored any more.
        let now = world.blobs_are_sound();
        assert_eq!(*blobs.get_or_insert(now), now, "after {turn} runs");
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    assert!(counts.get("hit").is_some_and(|hits| *hits > 0), "{counts:?}");
    figure("runs in a series", turn);
}

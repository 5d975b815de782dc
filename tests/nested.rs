//! Runs within runs (DESIGN §3.12): the inner one is a task of its own, and all it saw and left counts for the outer one too.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Run, World, assert_same, copy_tree, mounted, operations, strs, tools, tree, wait_for};
use serde_json::Value;

const WINK: &str = env!("CARGO_BIN_EXE_wink");
const USER: u32 = 4242;

/// A world, and inner runs in it that say how they went.
struct Nest {
    world: World,
    wink: PathBuf,
}

impl Nest {
    fn new(name: &str) -> Nest {
        Nest::of(World::new(name))
    }

    fn of(world: World) -> Nest {
        Nest { world, wink: WINK.into() }
    }

    /// A shell word: `wink run` of a line, which leaves a mark and its report below /tmp.
    fn inner(&self, name: &str, flags: &str, line: &str) -> String {
        let (dir, wink) = (self.world.untracked.display(), self.wink.display());
        format!("{wink} run --json {dir}/{name}.json {flags} -- /bin/sh -c 'printf x >> {dir}/{name}.ran; {line}'")
    }

    /// What the last inner run of this name reported.
    fn told(&self, name: &str) -> Value {
        let path = self.world.untracked.join(format!("{name}.json"));
        let told = serde_json::from_slice(&fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        fs::remove_file(path).unwrap();
        told.unwrap()
    }

    #[track_caller]
    fn was(&self, name: &str, status: &str) -> Value {
        let told = self.told(name);
        assert_eq!(told["status"], status, "{name}: {told:#}");
        told
    }

    /// How often its line ran.
    fn times(&self, name: &str) -> usize {
        fs::read(self.world.untracked.join(format!("{name}.ran"))).map_or(0, |bytes| bytes.len())
    }

    fn outer(&self, line: &str) -> Run {
        self.world.run(&["/bin/sh", "-c", line])
    }
}

#[test]
fn inner_hits_inside_an_outer_miss() {
    let nest = Nest::new("nested-hits");
    let world = &nest.world;
    world.write("one.txt", "1\n");
    world.write("two.txt", "2\n");
    let first = nest.inner("one", "", "cat one.txt > one.out; echo made one");
    let second = nest.inner("two", "", "cat one.out two.txt > two.out; echo made two >&2");
    let line = format!("{first} && {second} && cat two.out");
    let run = nest.outer(&line);
    run.miss();
    assert_eq!((run.out().as_str(), run.command_err().as_str()), ("made one\n1\n2\n", "made two\n"));
    nest.was("one", "miss");
    nest.was("two", "miss");
    let lines = run.lines();
    assert_eq!(lines.len(), 3, "each run has its line: {run:?}");
    let trace = world.trace();
    for input in ["one.txt", "two.txt"] {
        assert!(trace.inputs.contains_key(&world.ws.join(input)), "{input}: {trace:?}");
    }
    for output in ["one.out", "two.out"] {
        assert!(trace.outputs.contains_key(&world.ws.join(output)), "{output}: {trace:?}");
    }
    let odd: Vec<_> = trace.inputs.keys().filter(|path| path.to_str().unwrap().contains("/.wink-")).collect();
    assert!(odd.is_empty(), "names of wink's own: {odd:?}");

    // The outer one is a hit: nothing runs, and what is replayed tells of no inner run.
    world.remove("one.out");
    world.remove("two.out");
    let again = nest.outer(&line);
    again.hit();
    assert_eq!((again.out(), again.command_err()), (run.out(), run.command_err()));
    assert_eq!(again.lines().len(), 1, "{again:?}");
    assert_eq!((world.text("two.out").as_str(), nest.times("one"), nest.times("two")), ("1\n2\n", 1, 1));

    // An input of the second: the first is a hit inside an outer miss, which names it.
    world.write("two.txt", "22\n");
    let third = nest.outer(&line);
    third.miss_naming(world.ws.join("two.txt"));
    assert_eq!(third.out(), "made one\n1\n22\n");
    nest.was("one", "hit");
    nest.was("two", "miss");
    assert_eq!((nest.times("one"), nest.times("two")), (1, 2));

    // What they left is wanted from clean: both are hits, and their files are the outer one's outputs.
    for path in ["one.out", "two.out"] {
        world.remove(path);
    }
    let other = nest.outer(&format!("{line}; echo other"));
    other.miss();
    nest.was("one", "hit");
    nest.was("two", "hit");
    assert_eq!((other.out().as_str(), nest.times("two")), ("made one\n1\n22\nother\n", 2));
    assert_eq!(world.trace().outputs.len(), 2);
    assert_eq!(world.text("two.out"), "1\n22\n");
    world.blobs_are_sound();
}

#[test]
fn records_are_the_same_inside_and_outside() {
    let nest = Nest::new("nested-same");
    let world = &nest.world;
    world.write("in.txt", "1\n");
    let inner = nest.inner("inner", "", "cat in.txt > inner.out; ls > names");
    nest.outer(&format!("{inner}; echo a > outer.out")).miss();
    let made = nest.was("inner", "miss");
    assert_eq!(nest.times("inner"), 1);
    // From outside: what the outer run left besides is not as it was.
    world.remove("outer.out");
    let alone = world.call().native(&["/bin/sh", "-c", &inner]);
    assert_eq!(alone.code, 0, "{alone:?}");
    assert_eq!(nest.was("inner", "hit")["record"], made["record"]);
    // And the other way round.
    world.write("in.txt", "2\n");
    world.call().native(&["/bin/sh", "-c", &inner]);
    let made = nest.was("inner", "miss");
    nest.outer(&format!("{inner}; echo a > outer.out")).miss();
    assert_eq!(nest.was("inner", "hit")["record"], made["record"]);
    assert_eq!(nest.times("inner"), 2);
}

/// What the outer command wrote before counts by what it is, and by nothing else.
#[test]
fn what_the_outer_task_wrote_counts_by_its_content() {
    let nest = Nest::new("nested-content");
    let world = &nest.world;
    let inner = nest.inner("inner", "", "cat gen.txt > inner.out");
    let line = |text: &str, more: &str| format!("echo {text} > gen.txt; {inner}; echo {more}");
    for (text, more, status, times) in
        [("a", "1", "miss", 1), ("a", "2", "hit", 1), ("b", "3", "miss", 2), ("a", "4", "hit", 2), ("b", "5", "hit", 2)]
    {
        nest.outer(&line(text, more)).miss();
        nest.was("inner", status);
        assert_eq!((nest.times("inner"), world.text("inner.out")), (times, format!("{text}\n")), "{more}");
    }
    // Written twice within one tick of the clock, with the same size: what is read last counts.
    let twice = format!("for n in 1 2 3 4 5 6 7 8; do echo $n > gen.txt; {inner}; cat inner.out; done");
    let run = nest.outer(&twice);
    run.miss();
    assert_eq!(run.out(), "1\n2\n3\n4\n5\n6\n7\n8\n");
    assert_eq!(nest.was("inner", "miss")["reason"], "gen.txt changed");
    let again = nest.outer(&format!("{twice}; echo again"));
    again.miss();
    assert_eq!(again.out(), "1\n2\n3\n4\n5\n6\n7\n8\nagain\n");
    nest.was("inner", "hit");
    assert_eq!(nest.times("inner"), 2 + 8);
}

/// A view goes on showing a file as it was when it was first seen, so an inner run cannot see by itself that somebody has changed it.
#[test]
fn an_edit_from_outside_is_seen_through_every_view() {
    for depth in [1, 2] {
        let nest = Nest::new("nested-edit");
        let world = &nest.world;
        world.write("in.txt", "old\n");
        let (there, go) = (world.untracked.join("there"), world.untracked.join("go"));
        let wait = format!(
            "cat in.txt > inner.out; : > {}; n=0; while [ ! -e {} ] && [ $n -lt 3000 ]; do sleep 0.02; n=$((n+1)); done",
            there.display(),
            go.display()
        );
        let inner = nest.inner("inner", "", &wait);
        let middle = match depth {
            1 => inner.clone(),
            _ => format!("{WINK} run -- /bin/sh -c \"cat in.txt > /dev/null; {}\"", inner.replace('$', "\\$")),
        };
        let running = world.call().start(&["/bin/sh", "-c", &format!("cat in.txt > /dev/null; {middle}")]);
        wait_for(&there);
        // In place: the view reads the file itself.
        fs::write(world.ws.join("in.txt"), "new\n").unwrap();
        fs::write(&go, "").unwrap();
        let run = running.finish();
        run.uncached();
        let told = nest.was("inner", "uncached");
        assert_eq!(told["reason"], "in.txt changed while the command ran", "depth {depth}");
        assert_eq!(world.text("inner.out"), "old\n");
        // Nobody takes that for what the new file gives.
        let run = world.call().native(&["/bin/sh", "-c", &inner]);
        assert_eq!(run.code, 0, "{run:?}");
        nest.was("inner", "miss");
        assert_eq!(world.text("inner.out"), "new\n");
    }
}

#[test]
fn three_deep() {
    let nest = Nest::new("nested-deep");
    let world = &nest.world;
    world.write("in.txt", "1\n");
    let third = nest.inner("third", "", "cat in.txt > third.out; echo third");
    let second = nest.inner("second", "", &format!("{}; cat third.out > second.out", third.replace('\'', "\"")));
    let line = format!("{second}; cat second.out > first.out");
    let run = nest.outer(&line);
    run.miss();
    assert_eq!(run.out(), "third\n");
    nest.was("second", "miss");
    nest.was("third", "miss");
    assert_eq!(run.lines().len(), 3, "the lines of all reach the terminal: {run:?}");
    for path in ["third.out", "second.out", "first.out"] {
        assert_eq!(world.text(path), "1\n", "{path}");
        world.remove(path);
    }
    nest.outer(&line).hit();
    assert_eq!(world.text("first.out"), "1\n");
    // The middle one anew: the innermost is a hit.
    let other = nest.inner("second", "", &format!("{}; cat third.out > other.out", third.replace('\'', "\"")));
    nest.outer(&other).miss();
    nest.was("second", "miss");
    nest.was("third", "hit");
    assert_eq!((world.text("other.out").as_str(), nest.times("third")), ("1\n", 1));
    world.write("in.txt", "2\n");
    nest.outer(&line).miss_naming(world.ws.join("in.txt"));
    assert_eq!((world.text("first.out").as_str(), nest.times("third")), ("2\n", 2));
}

/// An inner run in a workspace below the outer one's.
#[test]
fn a_workspace_within_the_workspace() {
    let nest = Nest::new("nested-below");
    let world = &nest.world;
    world.write("package/wink.toml", "");
    world.write("package/src.txt", "1\n");
    world.write("common.txt", "c\n");
    let inner = nest.inner("inner", "--cwd package", "cat src.txt ../common.txt > out");
    let line = format!("{inner}; cat package/out > all");
    nest.outer(&line).miss();
    nest.was("inner", "miss");
    assert_eq!(world.text("all"), "1\nc\n");
    world.remove("all");
    world.remove("package/out");
    nest.outer(&line).hit();
    assert_eq!(world.text("package/out"), "1\nc\n");
    world.remove("package/out");
    nest.outer(&format!("{line}; echo")).miss();
    nest.was("inner", "hit");
    world.write("common.txt", "d\n");
    nest.outer(&line).miss_naming(world.ws.join("common.txt"));
    assert_eq!(nest.was("inner", "miss")["first_difference"]["path"], world.ws.join("common.txt").to_str().unwrap());
    assert_eq!(world.text("all"), "1\nd\n");
}

/// An inner run elsewhere writes outside the outer one's workspace: at once, and the outer one is not recorded.
#[test]
fn a_workspace_beside_the_workspace() {
    let nest = Nest::of(World::tracked("nested-beside"));
    let world = &nest.world;
    world.write("../beside/wink.toml", "");
    world.write("../beside/src.txt", "1\n");
    let inner = nest.inner("inner", "--cwd ../beside", "cat src.txt > out; rm out; cat src.txt > out");
    let run = nest.outer(&inner);
    run.uncached();
    assert!(run.reason().starts_with("the command wrote outside the workspace"), "{run:?}");
    nest.was("inner", "miss");
    assert_eq!(world.text("../beside/out"), "1\n");
    nest.outer(&inner);
    nest.was("inner", "hit");
}

#[test]
fn an_inner_run_that_fails() {
    let nest = Nest::new("nested-fails");
    let world = &nest.world;
    world.write("in.txt", "1\n");
    let inner = nest.inner("inner", "", "cat in.txt > log; echo said >&2; exit 7");
    let run = nest.outer(&format!("{inner}; echo code $?"));
    run.miss();
    assert_eq!((run.out().as_str(), run.command_err().as_str()), ("code 7\n", "said\n"));
    let told = nest.was("inner", "uncached");
    assert_eq!((told["exit_code"].as_i64(), &told["reason"]), (Some(7), &"the command failed (exit code 7)".into()));
    assert_eq!(world.text("log"), "1\n", "people need its logs");
    nest.outer(&format!("{inner}; echo code $?")).hit();
    assert_eq!(nest.outer(&inner).uncached().code, 7);
    assert_eq!(nest.times("inner"), 2);
}

/// What earlier inner runs left is hidden from the outer command or shown to it, as if it had made that itself.
#[test]
fn outputs_of_inner_runs_are_the_outer_ones_own() {
    for own in ["carry", "hide"] {
        let nest = Nest::new("nested-own");
        let world = &nest.world;
        for (path, text) in [("a.txt", "a\n"), ("b.txt", "b\n"), ("flag", "1\n")] {
            world.write(path, text);
        }
        let one = nest.inner("one", "", "mkdir -p dist; cat a.txt > dist/a; ln -sf a dist/link; chmod 750 dist/a");
        let two = nest.inner("two", "", "mkdir -p dist; cat b.txt > dist/b");
        let line = format!("cat flag; {one}; {two}; ls dist > names");
        let outer = || world.call().flags(&["--own", own]).run(&["/bin/sh", "-c", &line]);
        outer().miss();
        let whole = world.tree();
        for change in ["dist/a", "dist", "names"] {
            world.remove(change);
            outer().hit();
            assert_same(&whole, &world.tree(), change);
        }
        nest.told("one");
        nest.told("two");
        // An inner run's input, and back.
        world.write("a.txt", "aa\n");
        outer().miss_naming(world.ws.join("a.txt"));
        nest.was("one", "miss");
        nest.was("two", "hit");
        assert_eq!((world.text("dist/a").as_str(), world.text("names").as_str()), ("aa\n", "a\nb\nlink\n"));
        world.write("a.txt", "a\n");
        outer().hit();
        assert_same(&whole, &world.tree(), "and back");
        // An input of the outer one alone, from clean.
        world.remove("dist");
        world.write("flag", "2\n");
        outer().miss_naming(world.ws.join("flag"));
        nest.was("one", "hit");
        nest.was("two", "hit");
        assert_eq!((nest.times("one"), nest.times("two")), (2, 1));
        assert_eq!(world.text("names"), "a\nb\nlink\n");
        world.write("flag", "1\n");
        outer().hit();
        assert_same(&whole, &world.tree(), "at the end");
    }
}

#[test]
fn many_at_once() {
    let nest = Nest::new("nested-many");
    let world = &nest.world;
    let mut line = String::new();
    for number in 0..12 {
        world.write(format!("in{number}"), format!("{number}\n"));
        let inner = nest.inner(&format!("n{number}"), "", &format!("cat in{number} > out{number}"));
        line.push_str(&format!("{inner} & "));
    }
    line.push_str("wait; cat out0 out11 > all");
    nest.outer(&line).miss();
    let statuses: Vec<Value> = (0..12).map(|number| nest.was(&format!("n{number}"), "miss")).collect();
    assert_eq!(statuses.len(), 12);
    assert_eq!(world.text("all"), "0\n11\n");
    for number in 0..12 {
        world.remove(format!("out{number}"));
    }
    world.write("in5", "five\n");
    nest.outer(&line).miss_naming(world.ws.join("in5"));
    for number in 0..12 {
        nest.was(&format!("n{number}"), if number == 5 { "miss" } else { "hit" });
        assert_eq!(nest.times(&format!("n{number}")), if number == 5 { 2 } else { 1 });
    }
    assert_eq!(world.text("out5"), "five\n");
    world.blobs_are_sound();
}

/// The digests that are kept for later runs are all of files on disk: a view's device number is given out again to the next view.
#[test]
fn no_digest_is_kept_by_what_a_view_shows() {
    let python = need!(tools::python());
    let nest = Nest::new("nested-digests");
    let world = &nest.world;
    for number in 0..3 {
        world.write("in.txt", format!("{number}\n"));
        let inner = nest.inner("inner", "", "cat in.txt gen > inner.out");
        nest.outer(&format!("echo {number} > gen; {inner}; {}", nest.inner("second", "", "cat inner.out > more")))
            .miss();
        std::thread::sleep(Duration::from_millis(50));
    }
    let ask = "import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute('SELECT DISTINCT dev FROM digests'): print(row[0])";
    let run = world.call().native(&[&python, "-c", ask, world.store.join("index.sqlite").to_str().unwrap()]);
    let kept: Vec<u64> = run.out().lines().map(|line| line.parse().unwrap()).collect();
    let disks: Vec<u64> =
        ["/", "/usr/bin/env"].map(PathBuf::from).iter().chain([&world.ws, &world.store]).map(device).collect();
    assert!(!kept.is_empty() && kept.iter().all(|dev| disks.contains(dev)), "{kept:?} {disks:?}");
}

fn device(path: &PathBuf) -> u64 {
    fs::metadata(path).unwrap().dev()
}

/// The mounts tell that a run is inside another one, not the environment.
#[test]
fn an_emptied_environment_changes_nothing() {
    let nest = Nest::new("nested-env");
    let world = &nest.world;
    world.write("in.txt", "1\n");
    let env = format!("env -i PATH=\"$PATH\" WINK_CACHE_DIR={}", world.store.display());
    let line = format!("{env} {}", nest.inner("inner", "", "cat in.txt > inner.out"));
    let run = nest.outer(&line);
    run.miss();
    nest.was("inner", "miss");
    world.remove("inner.out");
    nest.outer(&format!("{line}; echo")).miss();
    nest.was("inner", "hit");
    assert_eq!(world.text("inner.out"), "1\n");
}

/// What makes an inner run a plain part of the outer one, and that it says so.
#[test]
fn what_makes_an_inner_run_a_plain_part() {
    let nest = Nest::new("nested-plain");
    let world = &nest.world;
    world.write("in.txt", "1\n");
    let inner = |flags: &str| nest.inner("inner", flags, "cat in.txt > inner.out");
    let inside = format!("WINK_CACHE_DIR={}/cache {}", world.ws.display(), inner(""));
    nest.outer(&inside).miss();
    let told = nest.was("inner", "uncached");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.starts_with("inside another task") && reason.contains("lies in its view"), "{reason}");
    assert_eq!(world.text("inner.out"), "1\n");
    assert!(!world.has("cache"));

    nest.outer(&inner("--no-cache")).miss();
    assert_eq!(nest.was("inner", "uncached")["reason"], "the cache is switched off");
    // Another cache that can be reached works as well.
    let other = format!("WINK_CACHE_DIR={}/cache {}", world.untracked.display(), inner(""));
    nest.outer(&other).miss();
    nest.was("inner", "miss");
    nest.outer(&format!("{other}; echo")).miss();
    nest.was("inner", "hit");
    assert_eq!(nest.times("inner"), 3);
}

/// With `--quiet` nothing is said, by the outer run not for the inner ones either. A report that an inner run writes into the workspace is
/// an output like any.
#[test]
fn what_inner_runs_say() {
    let nest = Nest::new("nested-say");
    let world = &nest.world;
    let inner = nest.inner("inner", "", "echo x > inner.out");
    let line = format!("{inner}; {WINK} run --json report.json -- /bin/sh -c 'echo y > other.out'");
    let run = world.call().flags(&["--quiet"]).run(&["/bin/sh", "-c", &line]);
    run.miss();
    assert_eq!((run.err().as_str(), run.out().as_str()), ("", ""));
    let quiet = nest.inner("inner", "--quiet", "echo x > inner.out");
    assert_eq!(nest.outer(&quiet).lines().len(), 1);
    let report: Value = serde_json::from_slice(&world.read("report.json")).unwrap();
    assert_eq!(report["status"], "miss");
    assert!(world.call().flags(&["--quiet"]).run(&["/bin/sh", "-c", &line]).hit().lines().is_empty());
}

#[test]
fn an_interrupt_reaches_the_innermost_command_once() {
    let nest = Nest::new("nested-signal");
    let world = &nest.world;
    let there = world.untracked.join("there");
    let trap = format!(
        "trap \"echo got >> {0}/got; exit 3\" INT; : > {1}; n=0; while [ $n -lt 3000 ]; do sleep 0.02; n=$((n+1)); done",
        world.untracked.display(),
        there.display()
    );
    let inner = nest.inner("inner", "", &trap);
    let line = format!("trap 'exit 4' INT; {inner}; echo went on > never");
    let running = world.call().start(&["/bin/sh", "-c", &line]);
    wait_for(&there);
    running.signal_group("INT");
    let run = running.finish();
    run.uncached();
    assert!(run.reason().contains("interrupted by signal 2"), "{run:?}");
    assert_eq!(fs::read_to_string(world.untracked.join("got")).unwrap(), "got\n");
    let told = nest.was("inner", "uncached");
    assert!(told["reason"].as_str().unwrap().contains("interrupted by signal 2"), "{told:#}");
    assert!(!world.has("never"));
}

#[test]
fn a_survivor_of_an_inner_run_outlives_both() {
    let nest = Nest::new("nested-survivor");
    let world = &nest.world;
    let end = world.untracked.join("end");
    let stays = format!(
        "(n=0; while [ ! -e {0} ] && [ $n -lt 3000 ]; do sleep 0.02; n=$((n+1)); done; echo late > late.out) > /dev/null 2>&1 & \
         echo early > early.out",
        end.display()
    );
    let mut running = world.call().start(&["/bin/sh", "-c", &nest.inner("inner", "", &stays)]);
    let began = Instant::now();
    while !running.has_ended() {
        assert!(began.elapsed() < Duration::from_secs(60), "the run waits for what outlives it");
        std::thread::sleep(Duration::from_millis(10));
    }
    let run = running.finish();
    run.uncached();
    assert!(run.reason().starts_with("processes outlived the command"), "{run:?}");
    let told = nest.was("inner", "uncached");
    assert!(told["reason"].as_str().unwrap().starts_with("processes outlived the command"), "{told:#}");
    assert_eq!(world.text("early.out"), "early\n");
    fs::write(end, "").unwrap();
    // It keeps both views, and what it leaves comes out through both.
    wait_for(&world.ws.join("late.out"));
}

#[test]
fn other_ways_to_run_the_outer_task() {
    let nest = Nest::new("nested-ways");
    let world = &nest.world;
    world.write("in.txt", "1\n");
    let inner = nest.inner("inner", "", "cat in.txt > inner.out; pwd");
    // A view of the workspace alone.
    let scoped = |line: &str| world.call().flags(&["--scope", "workspace"]).run(&["/bin/sh", "-c", line]);
    scoped(&inner).miss();
    nest.was("inner", "miss");
    world.remove("inner.out");
    scoped(&format!("{inner}; echo")).miss();
    nest.was("inner", "hit");
    assert_eq!(world.text("inner.out"), "1\n");
    world.write("in.txt", "2\n");
    scoped(&inner).miss_naming(world.ws.join("in.txt"));
    nest.was("inner", "miss");
    // And an inner one of that kind.
    let narrow = nest.inner("narrow", "--scope workspace", "cat in.txt > narrow.out");
    nest.outer(&narrow).miss();
    nest.was("narrow", "miss");
    world.remove("narrow.out");
    nest.outer(&format!("{narrow}; echo")).miss();
    nest.was("narrow", "hit");
    assert_eq!(world.text("narrow.out"), "2\n");

    // At a canonical place, which is another task.
    world.remove("inner.out");
    world.write("wink.toml", "canonical_root = \"/wink-canonical\"\n");
    let run = nest.outer(&inner);
    run.miss();
    assert_eq!(run.out(), "/wink-canonical\n");
    nest.was("inner", "miss");
    world.remove("inner.out");
    let run = nest.outer(&format!("{inner}; echo"));
    run.miss();
    assert_eq!(run.out(), "/wink-canonical\n\n");
    nest.was("inner", "hit");
    assert_eq!(world.text("inner.out"), "2\n");
}

#[test]
fn in_a_mounted_tree() {
    let nest = Nest::of(World::tracked("nested-mounted"));
    let world = &nest.world;
    world.write("in.txt", "1\n");
    let inner = nest.inner("inner", "", "mkdir -p dist; cat in.txt > dist/inner.out");
    let line = format!("{inner}; cat dist/inner.out > outer.out");
    mounted::mount(world);
    nest.outer(&line).miss();
    nest.was("inner", "miss");
    // Now they are views of blobs; an inner run that reads one knows it by its blob.
    let reads = nest.inner("reads", "", "cat dist/inner.out > copy");
    nest.outer(&reads).miss();
    nest.was("reads", "miss");
    nest.outer(&format!("{reads}; {inner}; echo")).miss();
    nest.was("reads", "hit");
    nest.was("inner", "hit");
    world.remove("dist");
    nest.outer(&line).hit();
    assert_eq!(world.text("dist/inner.out"), "1\n");
    world.write("in.txt", "2\n");
    nest.outer(&line).miss_naming(world.ws.join("in.txt"));
    nest.was("inner", "miss");
    assert_eq!(world.text("outer.out"), "2\n");
    world.blobs_are_sound();
}

#[test]
fn as_an_ordinary_user() {
    need!(tools::root().and(tools::unshare(&["-m"])).and(tools::which("setpriv").map(drop)));
    let mut nest = Nest::new("nested-user");
    // Where the tests were built, an ordinary user may not look.
    nest.wink = nest.world.root.join("wink");
    let world = &nest.world;
    fs::copy(WINK, &nest.wink).unwrap();
    world.write("in.txt", "1\n");
    for dir in [&world.root, &world.untracked] {
        let owner = format!("{USER}:{USER}");
        let done = Command::new("chown").args(["-R", &owner]).arg(dir).status().unwrap();
        assert!(done.success());
    }
    let device = world.root.join("fuse");
    let setup = tools::as_ordinary_user(&device, USER);
    let call = || world.call().program(&nest.wink).under(&["unshare", "-m", "/bin/sh", "-ec", &setup, "sh"]);
    if call().native(&["/bin/sh", "-c", ": <> /dev/fuse"]).code != 0 {
        return tools::skip("a bind-mounted /dev/fuse does not behave here");
    }
    let as_user = |line: &str| call().run(&["/bin/sh", "-c", line]);
    let inner = nest.inner("inner", "", "cat in.txt /etc/hostname > inner.out; ls -ld / /etc in.txt");
    let line = format!("{inner}; cat inner.out");
    let run = as_user(&line);
    run.miss();
    nest.was("inner", "miss");
    world.remove("inner.out");
    as_user(&format!("{line}; echo")).miss();
    nest.was("inner", "hit");
    assert_eq!(nest.times("inner"), 1);
    let deep = nest.inner("deep", "", &format!("{}; cat inner.out > deep.out", inner.replace('\'', "\"")));
    as_user(&deep).miss();
    nest.was("deep", "miss");
    nest.was("inner", "hit");
    world.write("in.txt", "2\n");
    as_user(&deep).miss_naming(world.ws.join("in.txt"));
    assert!(world.text("deep.out").starts_with("2\n"));
}

/// Whatever is done in an inner run, and in one inside that, is as it is natively.
#[test]
fn every_operation_in_an_inner_run() {
    let python = need!(tools::python());
    let world = World::new("nested-operations");
    let names = operations::names();
    for name in &names {
        operations::prepare(&world.ws.join(name), name);
    }
    let pristine = world.root.join("pristine");
    copy_tree(&world.ws, &pristine);
    let each = format!("(cd $name && {python} -I -B {} $name) || exit 1", operations::script().display());
    // All of them deeper still would say little more, and take long.
    let few = ["mmap_shared", "rename_exchange", "rename_dir_over", "hard_link", "remove_tree", "append_by_two"];
    for (depth, names) in [(1, names), (2, few.map(str::to_owned).into())] {
        fs::remove_dir_all(&world.ws).unwrap();
        copy_tree(&pristine, &world.ws);
        let line = format!("for name in {}; do {each}; done", names.join(" "));
        let (native, expected) = world.native(&["/bin/sh", "-c", &line]);
        assert_eq!(native.code, 0, "{native:?}");
        let wrap: Vec<&str> = [WINK, "run", "--"].repeat(depth);
        let run = world.run(&[&wrap[..], &["/bin/sh", "-c", &line]].concat());
        assert_eq!((run.code, run.out()), (0, native.out()), "{run:?}");
        let trees = [expected, world.tree()].map(operations::without_special);
        assert_same(&trees[0], &trees[1], &format!("{depth} deep"));
    }
}

#[test]
fn a_real_build() {
    let world = World::new("nested-make");
    let line = need!(common::fixtures::lua(&world));
    let (native, expected) = world.native(&["/bin/sh", "-c", &line]);
    let inner = ["/bin/sh", "-c", &format!("{WINK} run -- {line}")].map(str::to_owned);
    let run = world.run(&strs(&inner));
    run.miss();
    assert_eq!(run.out(), native.out());
    assert_same(&expected, &world.tree(), "an inner run");
    for path in tree::changed(&common::tree::Tree::new(), &expected) {
        if path.extension().is_some_and(|end| end == "o") {
            world.remove(&path);
        }
    }
    let again = [inner[0].clone(), inner[1].clone(), format!("{}; echo again", inner[2])];
    let run = world.run(&strs(&again));
    run.miss();
    assert!(run.lines()[0].starts_with("wink: hit"), "{run:?}");
    assert_same(&expected, &world.tree(), "an inner hit");
}

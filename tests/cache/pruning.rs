//! `wink cache prune`, and pruning in the background.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{World, simple, strs};
use crate::{object, wink};

/// A shell line in the workspace.
fn sh(line: &str) -> Vec<String> {
    ["/bin/sh", "-ec", line].map(str::to_owned).to_vec()
}

/// A command that makes a file of 100,000 bytes.
fn large(name: &str) -> Vec<String> {
    sh(&format!("head -c 100000 /dev/zero | tr '\\0' {name} > {name}"))
}

fn stats(world: &World) -> Value {
    object(world, &["cache", "stats", "--json"])
}

#[test]
fn the_least_recently_used_go_and_the_rest_are_hits() {
    let world = World::new("prune");
    let commands = ["a", "b", "c"].map(large);
    for command in &commands {
        world.run(&strs(command)).miss();
    }
    world.run(&strs(&commands[0])).hit();
    let before = stats(&world);
    assert!(before["total_size"].as_u64().unwrap() > 300_000, "{before:#}");

    let told = object(&world, &["cache", "prune", "250kB", "--dry-run", "--json"]);
    assert_eq!(
        (&told["dry_run"], &told["freed_entries"], &told["total_entries"]),
        (&json!(true), &json!(1), &json!(2))
    );
    assert_eq!(stats(&world)["total_size"], before["total_size"]);
    let line = wink(&world, &["cache", "prune", "250kB", "--dry-run"]);
    assert!(line.starts_with("would free 1 entry and 10") && line.contains(" in 2 entries would be left"), "{line}");

    let done = object(&world, &["cache", "prune", "250kB", "--json"]);
    for key in ["freed_entries", "freed_bytes", "total_entries", "total_size"] {
        assert_eq!(done[key], told[key], "{key}");
    }
    let after = stats(&world);
    assert_eq!((&after["total_entries"], &after["total_size"]), (&done["total_entries"], &done["total_size"]));
    assert!(after["total_size"].as_u64().unwrap() <= 250_000 && after["last_pruned"].is_u64(), "{after:#}");
    for name in ["a", "c"] {
        world.remove(name);
    }
    world.run(&strs(&commands[0])).hit();
    world.run(&strs(&commands[2])).hit();
    world.run(&strs(&commands[1])).miss();
    assert_eq!(world.text("b"), "b".repeat(100_000));
    world.blobs_are_sound();
}

#[test]
fn own_outputs_are_known_when_their_entry_has_gone() {
    let (world, command) = simple("prune-own");
    world.run(&strs(&command)).miss();
    wink(&world, &["cache", "prune", "0"]);
    assert_eq!((stats(&world)["total_size"].as_u64(), world.blobs_are_sound()), (Some(0), 0));
    // Were it somebody else's file now, it would be an input, and no record would hold when it has changed.
    world.run(&strs(&command)).miss();
    world.write("source.txt", "other\n");
    world.run(&strs(&command)).miss();
    assert_eq!(world.text("out"), "other\n");
    world.write("source.txt", "text\n");
    world.run(&strs(&command)).hit();
    assert_eq!(world.text("out"), "text\n");
    world.remove("out");
    world.run(&strs(&command)).hit();
    assert_eq!(world.count(), 3);
}

#[test]
fn what_is_carried_is_stored_again() {
    let world = World::new("prune-carry");
    world.write("source", "one\n");
    let command = sh("test -e kept || echo made once > kept; cat source > out");
    world.run(&strs(&command)).miss();
    wink(&world, &["cache", "prune", "0"]);
    world.write("source", "two\n");
    world.run(&strs(&command)).miss();
    world.remove("kept");
    world.remove("out");
    world.run(&strs(&command)).hit();
    assert_eq!((world.text("kept"), world.text("out")), ("made once\n".into(), "two\n".into()));
    world.blobs_are_sound();
}

/// What two runs of one command left; the one of which more stands is not in the cache any more.
fn a_pruned_entry_that_stands(world: &World, own: &str) -> Vec<String> {
    world.write("wink.toml", format!("own = \"{own}\"\n"));
    let command = sh("mkdir -p dist; cp in dist/out; if [ -e more ]; then cat more > dist/more; fi");
    world.write("in", "one\n");
    world.write("more", "m".repeat(100_000));
    world.run(&strs(&command)).miss();
    world.write("in", "two\n");
    world.remove("more");
    world.remove("dist");
    world.run(&strs(&command)).miss();
    assert!(!world.has("dist/more"));
    // As the first run left it.
    world.write("dist/more", "m".repeat(100_000));
    world.write("dist/out", "one\n");
    assert_eq!(object(world, &["cache", "prune", "50kB", "--json"])["freed_entries"], 1);
    command
}

#[test]
fn what_the_cache_does_not_hold_any_more_is_not_removed() {
    let world = World::new("prune-stays");
    let command = a_pruned_entry_that_stands(&world, "hide");
    let run = world.run(&strs(&command));
    run.miss();
    let reason = "a hit would remove dist/more, which an earlier run left and the cache does not hold any more; \
                  dist/more of an earlier run stays, since the cache does not hold it any more";
    assert_eq!(run.reason(), reason);
    assert_eq!((world.text("dist/out"), world.text("dist/more").len()), ("two\n".into(), 100_000));
    // It is somebody else's now: an input where anybody looks, and never removed. The command does not look at it, but makes its directory.
    let run = world.run(&strs(&command));
    run.miss();
    assert!(run.reason().starts_with("dist appeared"), "{run:?}");
    world.run(&strs(&command)).hit();
    world.write("in", "one\n");
    world.run(&strs(&command)).miss();
    world.write("in", "two\n");
    world.run(&strs(&command)).hit();
    assert_eq!((world.text("dist/out"), world.text("dist/more").len()), ("two\n".into(), 100_000));
    // Without it everything is as it was.
    world.remove("dist");
    world.run(&strs(&command)).hit();
    assert_eq!((world.text("dist/out"), world.has("dist/more")), ("two\n".into(), false));
}

#[test]
fn what_is_asked_before_says_so_too() {
    let world = World::new("prune-stays-asked");
    let command = a_pruned_entry_that_stands(&world, "carry");
    let told = wink(&world, &[&["explain", "--"], &strs(&command)[..]].concat());
    assert!(told.starts_with("miss: a hit would remove dist/more, which an earlier run left"), "{told}");
    world.run(&strs(&command)).miss();
    assert_eq!(world.text("dist/out"), "two\n");
    assert_eq!(world.text("dist/more").len(), 100_000);
    world.run(&strs(&command)).exits(0);
    assert_eq!((world.text("dist/out"), world.text("dist/more").len()), ("two\n".into(), 100_000));
    for _ in 0..2 {
        world.run(&strs(&command)).exits(0);
    }
    world.run(&strs(&command)).hit();
    world.blobs_are_sound();
}

#[test]
fn nothing_to_prune() {
    let world = World::new("prune-none");
    let told = wink(&world, &["cache", "prune", "1GB"]);
    assert_eq!(told, "freed 0 entries and 0 bytes; 0 bytes in 0 entries are left\n");
    assert!(!world.store.exists());
    let wrong = world.call().wink(&["cache", "prune", "much"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err().contains("is not a size; write for example 10GB"), "{wrong:?}");
}

/// Waits until the store is as small as it should be.
fn until(world: &World, largest: u64, what: &str) -> Value {
    let began = Instant::now();
    loop {
        let stats = stats(world);
        if stats["total_size"].as_u64().unwrap() <= largest && stats["last_pruned"].is_u64() {
            return stats;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {stats:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_cache_that_outgrows_its_limit_is_pruned_in_the_background() {
    let world = World::new("prune-behind");
    let limited = |command: &[String]| world.call().env("WINK_MAX_SIZE", "250kB").run(&strs(command));
    let commands = ["a", "b", "c", "d"].map(large);
    for command in &commands[..2] {
        limited(command).miss();
    }
    assert_eq!(stats(&world)["last_pruned"], Value::Null, "there is room");
    limited(&commands[2]).miss();
    let pruned = until(&world, 225_000, "after the third");
    assert_eq!(pruned["total_entries"], 2);
    world.remove("c");
    limited(&commands[2]).hit();
    // A hit starts nothing, whatever the limit.
    world.call().env("WINK_MAX_SIZE", "1").run(&strs(&commands[1])).hit();
    assert_eq!(stats(&world)["last_pruned"], pruned["last_pruned"]);
    limited(&commands[3]).miss();
    until(&world, 225_000, "after the fourth");
    assert_eq!(std::fs::read(world.store.join("prune.log")).unwrap(), b"");
    // It is over when the lock is free; the directory must not go before.
    let lock = std::fs::File::open(world.store.join("prune.lock")).unwrap();
    lock.lock().unwrap();
}

#[test]
fn a_share_of_the_disk_is_a_limit_too() {
    let world = World::new("prune-share");
    world.write("wink.toml", "max_size = \"0.01%\"\n");
    let shown = object(&world, &["config", "show", "--json"]);
    assert_eq!(shown["max_size"]["value"], "0.01%");
    let run = world.run(&strs(&large("a")));
    run.miss();
    let told = stats(&world);
    assert!(told["max_size"].as_u64().unwrap() > 0, "{told:#}");
    assert_eq!(object(&world, &["cache", "prune", "100%", "--json"])["freed_entries"], 0);
    assert_eq!(object(&world, &["cache", "prune", "0%", "--json"])["freed_entries"], 1);
}

/// As a pruning process that was stopped in the middle of a batch does.
fn stopped_pruning(world: &World) -> std::fs::File {
    let lock =
        std::fs::File::options().create(true).truncate(false).write(true).open(world.store.join("gc.lock")).unwrap();
    lock.lock().unwrap();
    lock
}

#[test]
fn pruning_that_was_stopped_keeps_nobody_from_running() {
    let before = || {
        let (world, command) = simple("prune-stopped");
        world.run(&strs(&command)).miss();
        let lock = stopped_pruning(&world);
        let run = world.run(&strs(&command));
        run.uncached().exits(0);
        assert!(run.reason().contains("is being pruned, and that did not let go for 5 seconds"), "{run:?}");
        assert_eq!((run.out().as_str(), world.count()), ("printed\n", 2));
        drop(lock);
        world.run(&strs(&command)).hit();
    };
    let after = || {
        let (world, _) = simple("prune-stopped-late");
        let line =
            format!("touch {}; sleep 1; cat source.txt > out; mkdir d; ln -s ../out d/link", world.counter().display());
        let command = sh(&line);
        let running = world.call().start(&strs(&command));
        crate::common::wait_for(&world.counter());
        let lock = stopped_pruning(&world);
        let run = running.finish();
        run.uncached().exits(0);
        assert!(run.reason().contains("the cache is being pruned, and that does not let go"), "{run:?}");
        assert_eq!((world.text("out").as_str(), world.text("d/link").as_str()), ("text\n", "text\n"));
        // Nothing that is published came from where it could have been taken away.
        assert_eq!(world.blobs_are_sound(), 0);
        drop(lock);
    };
    std::thread::scope(|scope| {
        let both = [scope.spawn(before), scope.spawn(after)];
        assert!(both.into_iter().map(std::thread::ScopedJoinHandle::join).all(|ended| ended.is_ok()));
    });
}

//! Fifty at once on one store: the same task and others, in a plain clone, another one, and a mounted one; once with pruning to almost nothing
//! and verification all the while.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::build::{build, built, command, edit, rounds};
use crate::common::mounted::{mount, unmount};
use crate::common::{Running, World, assert_same, snapshot, strs};

/// Runs in each of three clones.
const EACH: usize = 17;
/// Tasks of a clone that are not the build.
const OTHERS: usize = EACH / 2;
/// Less than one build leaves.
const ALMOST_NOTHING: &str = "64K";

/// Another task of the same clone.
fn other(number: usize) -> Vec<String> {
    let line =
        format!("mkdir -p more{number}; cat src/0{number} src/1{number} > more{number}/both; echo other {number}");
    ["/bin/sh", "-ec", &line].map(str::to_owned).to_vec()
}

#[test]
fn a_crowd_agrees() {
    crowd("crowd", true, |_, meet| meet());
}

#[test]
fn a_crowd_agrees_while_all_is_pruned_and_verified() {
    crowd("crowd-pruned", false, |world, meet| {
        let over = AtomicBool::new(false);
        let done = [AtomicUsize::new(0), AtomicUsize::new(0)];
        std::thread::scope(|scope| {
            let cares: [&[&str]; 2] = [&["cache", "prune", ALMOST_NOTHING], &["cache", "verify"]];
            for (args, done) in cares.into_iter().zip(&done) {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let run = world.call().dir("/").wink(args);
                        assert_eq!(run.code, 0, "{run:?}");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // Also if it panics: nobody may wait for the others then.
            let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meet));
            over.store(true, Ordering::Relaxed);
            if let Err(panic) = met {
                std::panic::resume_unwind(panic);
            }
        });
        assert!(done.iter().all(|done| done.load(Ordering::Relaxed) > 0), "{done:?}");
    });
}

/// `keeps`: what is stored stays. `beside` lets the crowd meet, and does something else meanwhile.
fn crowd(name: &str, keeps: bool, beside: impl Fn(&World, &dyn Fn())) {
    for round in 1..=rounds(1) {
        let world = World::new(name);
        let clones: Vec<PathBuf> = vec![world.ws.clone(), world.root.join("plain/one"), world.root.join("plain/two")];
        for dir in &clones {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(dir.join("wink.toml"), "").unwrap();
            edit(dir, round);
        }
        mount(&world);
        // Half of each clone's runs are the build, the others are five tasks of their own.
        let start = |number: usize| -> (usize, Running) {
            let dir = &clones[number % clones.len()];
            let task = number / clones.len();
            let task = if task.is_multiple_of(2) { command() } else { other(task / 2) };
            (number, world.call().dir(dir).start(&strs(&task)))
        };
        beside(&world, &|| {
            let running: Vec<_> = (0..EACH * clones.len()).map(start).collect();
            for (number, run) in running {
                let run = run.finish();
                assert_eq!(run.code, 0, "{number}: {run:?}");
                assert!(run.out() == "built\n" || run.out().starts_with("other "), "{number}: {run:?}");
            }
        });
        let mut records = Vec::new();
        for dir in &clones {
            for number in 0..OTHERS {
                let text = [format!("src/0{number}"), format!("src/1{number}")]
                    .map(|name| std::fs::read(dir.join(name)).unwrap());
                assert!(
                    std::fs::read(dir.join(format!("more{number}/both"))).unwrap() == text.concat(),
                    "{number} in {}",
                    dir.display()
                );
            }
            let mut tree = snapshot(dir);
            tree.retain(|path, _| !path.to_str().unwrap().starts_with("more"));
            assert_same(&built(round), &tree, &format!("in {}", dir.display()));
            for number in 0..OTHERS {
                std::fs::remove_dir_all(dir.join(format!("more{number}"))).unwrap();
            }
            if !keeps {
                // What was pruned is made once more.
                build(&world, dir, round, "afterwards");
                (0..OTHERS).for_each(|number| drop(world.call().dir(dir).run(&strs(&other(number)))));
                for number in 0..OTHERS {
                    std::fs::remove_dir_all(dir.join(format!("more{number}"))).unwrap();
                }
            }
            let last = build(&world, dir, round, "in the end");
            last.hit();
            records.push(last.json["record"].clone());
            for number in 0..OTHERS {
                world.call().dir(dir).run(&strs(&other(number))).hit();
            }
        }
        assert!(
            records.iter().all(|record| record.is_string() && *record == records[0]),
            "one record wins: {records:?}"
        );
        world.blobs_are_sound();
        crate::common::figure(
            &format!("crowd, {name}"),
            format!("{} runs at once, {round} rounds", EACH * clones.len()),
        );
        unmount(&world);
    }
}

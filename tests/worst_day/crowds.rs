//! Thirty at once on one store: the same task and others, in a plain clone, another one, and a mounted one.

use std::path::PathBuf;

use super::build::{build, built, command, edit, rounds};
use crate::common::mounted::{mount, unmount};
use crate::common::{Running, World, assert_same, snapshot, strs};

const EACH: usize = 10;

/// Another task of the same clone.
fn other(number: usize) -> Vec<String> {
    let line =
        format!("mkdir -p more{number}; cat src/0{number} src/1{number} > more{number}/both; echo other {number}");
    ["/bin/sh", "-ec", &line].map(str::to_owned).to_vec()
}

#[test]
fn a_crowd_agrees() {
    for round in 1..=rounds(1) {
        let world = World::new("crowd");
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
        let running: Vec<_> = (0..EACH * clones.len()).map(start).collect();
        for (number, run) in running {
            let run = run.finish();
            assert_eq!(run.code, 0, "{number}: {run:?}");
            assert!(run.out() == "built\n" || run.out().starts_with("other "), "{number}: {run:?}");
        }
        let mut records = Vec::new();
        for dir in &clones {
            for number in 0..EACH / 2 {
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
            for number in 0..EACH / 2 {
                std::fs::remove_dir_all(dir.join(format!("more{number}"))).unwrap();
            }
            let last = build(&world, dir, round, "afterwards");
            last.hit();
            records.push(last.json["record"].clone());
            for number in 0..EACH / 2 {
                world.call().dir(dir).run(&strs(&other(number))).hit();
            }
        }
        assert!(
            records.iter().all(|record| record.is_string() && *record == records[0]),
            "one record wins: {records:?}"
        );
        world.blobs_are_sound();
        unmount(&world);
    }
}

//! `kill -9` at random moments: of all of a run, of its front alone, of the daemon, of the daemon and the run.

use std::fs;
use std::time::Duration;

use super::build::{self, Dice, calm, nobody_is_left, ready, staging_is_swept, whole};
use crate::common::mounted::{kill_daemon, mount, unmount};
use crate::common::{World, strs};

const MOMENT_MS: u64 = 300;

fn is_served(world: &World) -> bool {
    let said = world.call().dir("/").wink(&["daemon", "status", "--json"]).out();
    serde_json::from_str::<serde_json::Value>(&said).unwrap()["running"] == true
}

fn kill(is_mounted: bool, salt: u64, default: u64) {
    let mut dice = Dice::new(salt);
    if !is_mounted {
        build::check_model(&World::new("kills-model"));
    }
    let world = ready(if is_mounted { "kills-mounted" } else { "kills" }, is_mounted);
    let (mut last, mut newest) = (1, 1);
    let rounds = build::rounds(default);
    for round in 0..rounds {
        // Half of them have never been built, the others are hits.
        let version = if dice.below(2) == 0 { newest + 1 } else { 1 + dice.below(newest) };
        newest = newest.max(version);
        build::edit(&world.ws, version);
        if dice.below(3) == 0 {
            fs::remove_dir_all(world.ws.join("out")).unwrap();
        }
        let run = world.call().start(&strs(&build::command()));
        let moment = dice.below(MOMENT_MS);
        std::thread::sleep(Duration::from_millis(moment));
        let whom = dice.below(if is_mounted { 4 } else { 2 });
        match whom {
            0 => run.signal_group("KILL"),
            1 => run.signal("KILL"),
            _ => {
                kill_daemon(&world);
                if whom == 3 {
                    run.signal_group("KILL");
                }
            }
        }
        let run = run.finish();
        let when = format!("round {round}, victim {whom}, version {last} to {version}, after {moment} ms: {run:?}");
        nobody_is_left(&world);
        if whom >= 2 {
            // Nobody can go there any more, until some command is meant for it.
            let back = world.call().dir("/").flags(&["--cwd", world.ws.to_str().unwrap()]).run(&["/bin/true"]);
            assert_eq!(back.code, 0, "{when}: {back:?}");
            calm(&back, 2);
            if whom == 3 && !is_served(&world) {
                // It was killed while it brought the mount back: the dead one was out of the way, and the new one not there yet.
                mount(&world);
            }
        }
        if whom == 2 {
            assert_eq!(run.code, 0, "the daemon's death costs no build: {when}");
        }
        whole(&world, &[last, version], &when);
        build::build(&world, &world.ws, version, &format!("after {when}"));
        last = version;
    }
    staging_is_swept(&world, || {
        build::edit(&world.ws, newest + 1);
        build::build(&world, &world.ws, newest + 1, "at last").miss();
    });
    world.blobs_are_sound();
    crate::common::figure(if is_mounted { "kills, mounted" } else { "kills, plain" }, rounds);
    if is_mounted {
        unmount(&world);
    }
    nobody_is_left(&world);
}

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    kill(false, 1, 24);
}

#[test]
fn a_kill_at_any_moment_loses_nothing_in_a_mounted_tree() {
    kill(true, 2, 14);
}

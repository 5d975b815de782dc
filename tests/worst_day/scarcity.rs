//! Not enough of anything: the task runs as natively, with the right tree, and says no more than it must.

use super::build::{built, calm, check_model, command, edit};
use crate::common::{Run, World, assert_same, strs, tools};
use crate::need;

/// `sh -c line` in a mount namespace of its own; `$@` is the call.
fn inside(line: &str) -> Vec<&str> {
    vec!["unshare", "-m", "/bin/sh", "-ec", line, "sh"]
}

fn fine(world: &World, run: &Run, when: &str) {
    assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{when}: {run:?}");
    calm(run, 2);
    assert_same(&built(1), &world.tree(), when);
}

#[test]
fn a_store_on_a_small_disk() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let mut statuses = Vec::new();
    for kilobytes in [16, 64, 160, 400, 640, 800, 1000, 1300, 100_000] {
        let world = World::new("small-disk");
        edit(&world.ws, 1);
        std::fs::create_dir(&world.store).unwrap();
        // Twice in the same store, which goes with the namespace.
        let line = format!(
            "mount -t tmpfs -o size={kilobytes}k,mode=700 none {}; \"$@\" > /dev/null; exec \"$@\"",
            world.store.display()
        );
        let run = world.call().under(&inside(&line)).run(&strs(&command()));
        assert!(run.lines().len() <= 4, "{run:?}");
        assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{kilobytes} kB: {run:?}");
        assert_same(&built(1), &world.tree(), &format!("{kilobytes} kB"));
        statuses.push(run.status().to_owned());
    }
    assert!(statuses[0] == "uncached" && statuses.last().unwrap() == "hit", "{statuses:?}");
}

#[test]
fn a_mounted_tree_whose_store_is_full() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let world = World::new("full-mounted");
    edit(&world.ws, 1);
    std::fs::create_dir(&world.store).unwrap();
    let wink = env!("CARGO_BIN_EXE_wink");
    let line = format!(
        "mount -t tmpfs -o size=1500k,mode=700 none {store}; {wink} mount {ws} > /dev/null
         head -c 4000000 /dev/zero > {store}/ballast || true
         cd {ws}; \"$@\" > /dev/null; rm -r out; \"$@\"; status=$?
         find . -type f | sort | xargs md5sum; cd /; {wink} unmount {ws} > /dev/null; {wink} daemon stop > /dev/null; exit $status",
        store = world.store.display(),
        ws = world.ws.display()
    );
    let run = world.call().under(&inside(&line)).run(&strs(&command()));
    assert_eq!(run.code, 0, "{run:?}");
    edit(&world.ws, 1);
    let (native, _) =
        world.native(&["/bin/sh", "-ec", &format!("{}; find . -type f | sort | xargs md5sum", command()[2])]);
    assert_eq!(run.out(), native.out(), "{run:?}");
}

#[test]
fn a_store_that_cannot_be_written() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let world = World::new("readonly-store");
    edit(&world.ws, 1);
    let line = format!("mount --bind {0} {0}; mount -o remount,bind,ro {0}; exec \"$@\"", world.store.display());
    std::fs::create_dir(&world.store).unwrap();
    for recorded in [false, true] {
        for turn in 0..2 {
            let run = world.call().under(&inside(&line)).run(&strs(&command()));
            fine(&world, &run, &format!("recorded: {recorded}, turn {turn}"));
            world.remove("out");
        }
        fine(&world, &world.run(&strs(&command())), "as ever");
    }
}

fn limited(limits: &[&str]) {
    for limit in limits {
        let world = World::new("scarce");
        edit(&world.ws, 1);
        let line = format!("ulimit {limit}; exec \"$@\"");
        for turn in 0..3 {
            let run = world.call().under(&["/bin/sh", "-c", &line, "sh"]).run(&strs(&command()));
            fine(&world, &run, &format!("{limit}, turn {turn}"));
            world.remove("out");
        }
    }
}

#[test]
fn few_descriptors_and_little_memory() {
    check_model(&World::new("scarce-model"));
    limited(&["-n 24", "-n 40", "-n 64", "-n 256", "-v 150000", "-v 250000", "-v 400000"]);
    // Where the buffers of a view cannot be had at all.
    limited(&["-v 40000", "-v 60000", "-v 90000"]);
}

//! Every call to the disk of a short operation in turn: it fails, once or from then on, or the process ends there as by `kill -9`. Afterwards the
//! user's files are old or new, each whole; the next runs give the whole tree; the store is sound.
//!
//! Which call is met is told to the program by a plan (`wink_store::seam`), which only debug builds have. The gate tries a few calls,
//! `WINK_WORST_EVERY=N` every N-th.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::build::{calm, nobody_is_left};
use crate::common::mounted::{mount, unmount};
use crate::common::tree::Entry;
use crate::common::{Run, Tree, World, assert_same, copy_tree, lay_out, snapshot};

/// Calls per operation and kind of fault, unless more are asked for.
const SAMPLE: u64 = 2;
/// More calls than any operation here makes.
const MANY: u64 = 2000;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOMEM: i32 = 12;
const ERRNOS: [i32; 5] = [ENOSPC, EIO, EDQUOT, EMFILE, ENOMEM];

/// Makes, rewrites, moves, removes, turns a directory into a file and a file into a directory, and changes a mode. Run again on what it left, it
/// leaves the same.
const LINE: &str = "rm -rf out old was inbox/one; mkdir -p out/deep/er out/empty was; cat src/a > out/a; cat src/a src/b > out/deep/er/ab; \
    cp out/a out/deep/tool; chmod 755 out/deep/tool src/mode; ln -s a out/link; : > out/none; \
    sort src/list > src/list.new; mv src/list.new src/list; tr a-z A-Z < src/rest > rest; cat rest > src/rest; rm rest; \
    echo file > old; echo inside > was/in; echo built; echo said >&2";

/// What fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    /// Of the calls to the store.
    Store,
    /// Of those to the user's tree.
    Tree,
}

/// The state in which the operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is in the store: there is none.
    First,
    /// The outputs of an earlier version stand.
    Again,
    /// The sources are as in an earlier version: a hit that replaces everything.
    Hit,
}

fn edit(world: &World, version: u32) {
    world.write("src/a", format!("alpha {version}\n").repeat(300));
    world.write("src/b", "beta\n".repeat(20_000));
    world.write("src/list", format!("z\na {version}\nm\n").repeat(40));
    world.write("src/rest", format!("rest {version}\n"));
    world.write("inbox/one", "one\n");
    let mode = world.write("src/mode", "mode\n");
    fs::set_permissions(mode, fs::Permissions::from_mode(0o644)).unwrap();
    for path in ["old", "was"] {
        if world.has(path) {
            world.remove(path);
        }
    }
    world.write("old/file", "old\n");
    world.write("was", "was\n");
}

/// With which error a call fails, and whether it stays so.
fn manner(number: u64) -> (i32, &'static str) {
    (ERRNOS[number as usize % ERRNOS.len()], if (number / 5).is_multiple_of(2) { "on" } else { "once" })
}

/// What became of a plan.
enum Met {
    /// It was carried out there.
    At(String),
    /// There were only so many calls.
    Beyond(u64),
}

/// A world that is put back before each fault.
struct Ground {
    world: World,
    is_mounted: bool,
    /// The trees before and after the operation.
    old: Tree,
    new: Tree,
}

const COMMAND: [&str; 3] = ["/bin/sh", "-ec", LINE];

impl Ground {
    fn new(state: State, is_mounted: bool) -> Ground {
        let world = World::new("every");
        let faults = world.root.join("faults");
        fs::create_dir(&faults).unwrap();
        if is_mounted {
            mount(&world);
        }
        let versions: &[u32] = match state {
            State::First => &[],
            State::Again => &[1],
            State::Hit => &[2, 1],
        };
        for version in versions {
            edit(&world, *version);
            world.call().env("WINKFS_FAULTS", &faults).run(&COMMAND).miss();
        }
        edit(&world, 2);
        let old = world.tree();
        if is_mounted {
            unmount(&world);
            assert_eq!(world.call().dir("/").wink(&["daemon", "stop"]).code, 0);
        }
        let saved = world.root.join("saved");
        fs::create_dir(&saved).unwrap();
        fs::create_dir_all(&world.store).unwrap();
        fs::set_permissions(&world.store, fs::Permissions::from_mode(0o700)).unwrap();
        for (dir, name) in [(&world.ws, "ws"), (&world.store, "store")] {
            copy_tree(dir, &saved.join(name));
        }
        let mut ground = Ground { world, is_mounted, old, new: Tree::new() };
        ground.new = ground.twin();
        ground.reset();
        ground.run().exits(0).is(if state == State::Hit { "hit" } else { "miss" });
        ground
    }

    /// What the command makes of the old tree natively.
    fn twin(&self) -> Tree {
        let dir = self.world.root.join("twin");
        lay_out(&dir, &self.old);
        let run = self.world.call().dir(&dir).native(&COMMAND);
        assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{run:?}");
        snapshot(&dir)
    }

    fn reset(&self) {
        let world = &self.world;
        if self.is_mounted {
            self.put_to_sleep();
        }
        for (dir, name) in [(&world.ws, "ws"), (&world.store, "store")] {
            fs::remove_dir_all(dir).unwrap();
            copy_tree(&world.root.join("saved").join(name), dir);
        }
        if self.is_mounted {
            let run = self.armed().dir("/").wink(&["mount", world.ws.to_str().unwrap()]);
            assert_eq!(run.code, 0, "{run:?}");
        }
    }

    /// Unmounts, if it is mounted, and stops the daemon, if there is one.
    fn put_to_sleep(&self) {
        let world = &self.world;
        let unmounted = world.call().dir("/").wink(&["unmount", world.ws.to_str().unwrap()]);
        assert!(unmounted.code == 0 || unmounted.err().contains("is not mounted"), "{unmounted:?}");
        if world.store.join("daemon.sock").exists() {
            let stopped = world.call().dir("/").wink(&["daemon", "stop"]);
            assert!(stopped.code == 0 || stopped.err().contains("no daemon"), "{stopped:?}");
        }
    }

    fn faults(&self) -> PathBuf {
        self.world.root.join("faults")
    }

    fn armed(&self) -> crate::common::Call<'_> {
        self.world.call().env("WINKFS_FAULTS", self.faults())
    }

    fn run(&self) -> Run {
        self.armed().run(&COMMAND)
    }

    /// Lets a process of `role` meet the fault at its `number`-th call.
    fn plan(&self, role: &str, number: u64, fault: Fault) {
        let (errno, how) = if number == MANY { (EIO, "once") } else { manner(number) };
        let text = match fault {
            Fault::Kill => format!("{number} kill once all"),
            Fault::Store => format!("{number} {errno} {how} store"),
            Fault::Tree => format!("{number} {errno} {how} tree"),
        };
        fs::write(self.faults().join(role), text).unwrap();
    }

    /// Takes the plan back; says what became of it.
    fn met(&self, role: &str) -> Met {
        let path = |what: &str| self.faults().join(format!("{role}{what}"));
        let fired = fs::read_to_string(path(".fired"));
        let calls = fs::metadata(path(".calls")).map_or(0, |calls| calls.len());
        for what in ["", ".fired", ".calls"] {
            let _ = fs::remove_file(path(what));
        }
        fired.map_or(Met::Beyond(calls), |text| Met::At(text.trim().replace('\n', ", then ")))
    }

    /// Each path is as it was or as it is to be, whole; what is in both is there.
    fn is_whole(&self, when: &str) {
        let mut found = self.world.tree();
        // Cleared away before the next run looks at anything.
        found.retain(|path, _| !path.file_name().unwrap().to_str().unwrap().starts_with(".wink-"));
        for (path, entry) in &found {
            let known = [self.old.get(path), self.new.get(path)];
            let is = |known: &Entry| known == entry || (known.kind, entry.kind) == ("dir", "dir");
            assert!(
                known.iter().flatten().any(|known| is(known)),
                "{when}: {} is neither old nor new: {} {:o}, {} bytes",
                path.display(),
                entry.kind,
                entry.mode,
                entry.bytes.len()
            );
        }
        for (path, entry) in &self.old {
            // What is removed, and what makes way for something of another kind, may be gone already.
            let stays = self.new.get(path).is_some_and(|new| (new.kind == "dir") == (entry.kind == "dir"));
            assert!(!stays || found.contains_key(path), "{when}: {} is gone", path.display());
        }
        // What is removed stays until everything new is in place.
        if !found.contains_key(Path::new("inbox/one")) {
            let missing = |(path, entry): &(&PathBuf, &Entry)| found.get(*path) != Some(entry) && entry.kind != "dir";
            let missing: Vec<_> = self.new.iter().filter(missing).map(|(path, _)| path.display()).collect();
            assert!(missing.is_empty(), "{when}: inbox/one is gone, but not yet there: {missing:?}");
        }
    }

    /// After the fault: all is well as soon as the command runs again.
    fn recovers(&self, when: &str) {
        let world = &self.world;
        nobody_is_left(world);
        let good = |run: &Run, which: &str| {
            assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{when}, {which}: {run:?}");
            assert_eq!(run.command_err(), "said\n", "{when}, {which}: {run:?}");
            calm(run, 2);
            assert_same(&self.new, &world.tree(), &format!("{when}, {which}: {run:?}"));
        };
        good(&self.run(), "the next run");
        world.remove("out");
        good(&self.run(), "without outputs");
        world.blobs_are_sound();
        nobody_is_left(world);
    }
}

/// Tries an operation with a fault at each of its calls; it says where the fault was met, or that it was not, and how many calls were made.
fn every(name: &str, fault: Fault, mut at: impl FnMut(u64) -> Met) {
    let stride = std::env::var("WINK_WORST_EVERY").ok().and_then(|text| text.parse().ok());
    let Met::Beyond(count) = at(MANY) else { panic!("{name}: more than {MANY} calls") };
    let stride: u64 = stride.unwrap_or((count / SAMPLE).max(1));
    let (mut done, mut failed) = (0, Vec::new());
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    // An error that few calls can end with is met by fewer.
    for number in (0..count).step_by(stride as usize) {
        match catch_unwind(AssertUnwindSafe(|| at(number))) {
            Ok(Met::At(place)) => *places.entry(place).or_default() += 1,
            Ok(Met::Beyond(_)) => continue,
            Err(panic) => failed.push(*panic.downcast::<String>().unwrap_or_default()),
        }
        done += 1;
    }
    crate::common::figure(
        &format!("faults, {name}, {fault:?}"),
        format!("{done} at {} places, of {count} calls", places.len()),
    );
    assert!(failed.is_empty(), "{} of {done} faults:\n{}", failed.len(), failed.join("\n\n"));
    assert!(done > 0, "{name}: no calls");
}

/// `wink run`, with the faults of a process of `role`.
fn run(state: State, is_mounted: bool, role: &str, fault: Fault) {
    let ground = Ground::new(state, is_mounted);
    let name = format!("{state:?}, {}, {role}", if is_mounted { "mounted" } else { "plain" });
    every(&name, fault, |number| {
        ground.reset();
        ground.plan(role, number, fault);
        let run = ground.run();
        let place = match ground.met(role) {
            Met::At(place) => place,
            beyond => return beyond,
        };
        let when = format!("{name}, {fault:?} at call {number} ({place}, {:?}): {run:?}", manner(number));
        assert!(!run.err().contains("panicked"), "{when}");
        match fault {
            // Whoever lives on has it made good.
            Fault::Kill if role == "daemon" => {
                assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{when}");
                assert_same(&ground.new, &ground.world.tree(), &when);
            }
            // The engine ended before the command began: then it ran without.
            Fault::Kill if run.code == 0 => {
                assert_same(&ground.new, &ground.world.tree(), &when);
                assert!(run.reason().contains("before the command began"), "{when}");
            }
            Fault::Kill => {
                assert!(run.code == 137 || run.code == 125, "{when}");
                nobody_is_left(&ground.world);
                ground.is_whole(&when);
            }
            // Where the tree cannot be written, or the bytes that belong there cannot be read back, that is said. All else may fail in the cache as it
            // likes: the command does what it does natively.
            Fault::Store | Fault::Tree => {
                calm(&run, 2);
                ground.is_whole(&when);
                let (errno, how) = manner(number);
                let is_hard = how == "on" && (fault == Fault::Tree || ![ENOSPC, EDQUOT].contains(&errno));
                if !(is_hard && run.code == 125 && run.lines().len() == 1) {
                    assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{when}");
                    assert_eq!(run.command_err(), "said\n", "{when}");
                    assert_same(&ground.new, &ground.world.tree(), &when);
                }
            }
        }
        ground.recovers(&when);
        Met::At(place)
    });
}

/// `wink materialize`: by the daemon, or without one.
fn materialize(is_mounted: bool, fault: Fault) {
    let ground = Ground::new(State::Again, true);
    let world = &ground.world;
    let root = world.ws.to_str().unwrap();
    let role = if is_mounted { "daemon" } else { "materialize" };
    every(&format!("materialize, {role}"), fault, |number| {
        ground.reset();
        if !is_mounted {
            unmount(world);
        }
        ground.plan(role, number, fault);
        let run = ground.armed().dir("/").wink(&["materialize", root]);
        let place = match ground.met(role) {
            Met::At(place) => place,
            beyond => return beyond,
        };
        let when = format!("materialize, {fault:?} at call {number} ({place}, {:?}): {run:?}", manner(number));
        assert!([0, 1, 137].contains(&run.code), "{when}");
        calm(&run, 2);
        mount_again(&ground, &when);
        if fault == Fault::Store && manner(number).0 == EIO {
            // A blob that could not be read counts as damaged: its view shows again when its command has run.
            ground.recovers(&when);
            return Met::At(place);
        }
        // What shows does not change by it, whether it comes to its end or not.
        assert_same(&ground.old, &world.tree(), &when);
        let run = ground.armed().dir("/").wink(&["materialize", root]);
        assert_eq!(run.code, 0, "{when}, again: {run:?}");
        assert_same(&ground.old, &world.tree(), &when);
        unmount(world);
        assert_same(&ground.old, &world.tree(), &format!("beneath: {when}"));
        mount_again(&ground, &when);
        ground.recovers(&when);
        Met::At(place)
    });
}

/// Mounted or not, alive or not: it is mounted now.
fn mount_again(ground: &Ground, when: &str) {
    let root = ground.world.ws.to_str().unwrap();
    let run = ground.armed().dir("/").wink(&["mount", root]);
    assert!(run.code == 0 || run.err().contains("is mounted already"), "{when}: {run:?}");
}

/// `wink mount`, of a tree that has views.
fn mounts(role: &str, fault: Fault) {
    let ground = Ground::new(State::Again, true);
    let world = &ground.world;
    every(&format!("mount, {role}"), fault, |number| {
        ground.reset();
        ground.put_to_sleep();
        ground.plan(role, number, fault);
        let run = ground.armed().dir("/").wink(&["mount", world.ws.to_str().unwrap()]);
        let place = match ground.met(role) {
            Met::At(place) => place,
            beyond => return beyond,
        };
        let when = format!("mount, {fault:?} of {role} at call {number} ({place}, {:?}): {run:?}", manner(number));
        assert!([0, 1, 137].contains(&run.code), "{when}");
        calm(&run, 2);
        mount_again(&ground, &when);
        assert_same(&ground.old, &world.tree(), &when);
        ground.recovers(&when);
        Met::At(place)
    });
}

/// One test for each kind of fault that an operation can meet.
macro_rules! each {
    ($($name:ident: $run:expr, $($fault:ident)+;)*) => {
        $(mod $name {
            use super::*;
            $(each!(@ $fault $run);)+
        })*
    };
    (@ Kill $run:expr) => {
        #[test]
        fn killed() {
            $run(Fault::Kill);
        }
    };
    (@ Store $run:expr) => {
        #[test]
        fn the_store_fails() {
            $run(Fault::Store);
        }
    };
    (@ Tree $run:expr) => {
        #[test]
        fn the_tree_fails() {
            $run(Fault::Tree);
        }
    };
}

each! {
    a_first_run: |fault| run(State::First, false, "run", fault), Kill Store Tree;
    a_run_over_earlier_outputs: |fault| run(State::Again, false, "run", fault), Kill Store Tree;
    a_hit: |fault| run(State::Hit, false, "run", fault), Kill Store Tree;
    a_first_run_in_a_mounted_tree: |fault| run(State::First, true, "run", fault), Kill Store Tree;
    a_run_over_views: |fault| run(State::Again, true, "run", fault), Kill Store Tree;
    a_hit_that_attaches: |fault| run(State::Hit, true, "run", fault), Kill Store Tree;
    the_daemon_of_a_run: |fault| run(State::Again, true, "daemon", fault), Kill Store Tree;
    the_daemon_of_a_hit: |fault| run(State::Hit, true, "daemon", fault), Kill Store Tree;
    the_daemon_that_makes_views_real: |fault| materialize(true, fault), Kill Store Tree;
    who_makes_views_real_without_a_daemon: |fault| materialize(false, fault), Kill Store Tree;
    a_daemon_that_begins_to_serve: |fault| mounts("daemon", fault), Kill Store;
    who_mounts: |fault| mounts("mount", fault), Kill Store;
}

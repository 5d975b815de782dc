//! Pruning to almost nothing, in a loop, beside ten builds in three clones, one of them mounted: no build notices.
//!
//! `WINK_GC_ROUNDS=N` makes it that long.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::mounted::{mount, unmount};
use crate::common::{Tree, World, assert_same, snapshot, strs};

const BUILDS: usize = 10;
const FILES: usize = 12;

/// One build of its own: reads its source and the common one, leaves a dozen files.
fn build(number: usize) -> Vec<String> {
    let line = format!(
        "mkdir -p out{number}/deep; for i in $(seq {FILES}); do \
         cat src/{number} src/common > out{number}/deep/$i; echo $i >> out{number}/deep/$i; done; \
         tr a-z A-Z < src/{number} > out{number}/upper; echo built {number}"
    );
    ["/bin/sh", "-ec", &line].map(str::to_owned).to_vec()
}

fn source(number: usize, version: u64) -> String {
    format!("build {number} in version {version}\n").repeat(300)
}

fn edit(dir: &Path, number: usize, version: u64) {
    let path = dir.join(format!("src/{number}"));
    if fs::read_to_string(&path).ok().as_deref() != Some(&source(number, version)) {
        fs::write(&path, source(number, version)).unwrap();
    }
}

/// What a build leaves natively.
fn built(number: usize, version: u64) -> Vec<(String, String)> {
    let (own, common) = (source(number, version), "common\n");
    let files = (1..=FILES).map(|i| (format!("deep/{i}"), format!("{own}{common}{i}\n")));
    files.chain([("upper".to_owned(), own.to_uppercase())]).collect()
}

fn check(dir: &Path, number: usize, version: u64, when: &str) {
    let found = snapshot(&dir.join(format!("out{number}")));
    let files = found.values().filter(|entry| entry.kind == "file").count();
    assert_eq!(files, FILES + 1, "{when}: {:?}", found.keys());
    for (path, text) in built(number, version) {
        let entry = found.get(Path::new(&path)).unwrap_or_else(|| panic!("{when}: {path} is not there"));
        assert!(entry.bytes == text.as_bytes(), "{when}: {path} is another");
    }
}

#[test]
fn pruning_beside_builds_loses_nothing() {
    let rounds: u64 = std::env::var("WINK_GC_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let world = World::new("gc-together");
    let clones: Vec<PathBuf> = vec![world.ws.clone(), world.root.join("plain/one"), world.root.join("plain/two")];
    for dir in &clones {
        fs::create_dir_all(dir.join("src")).unwrap();
        fs::write(dir.join("wink.toml"), "").unwrap();
        fs::write(dir.join("src/common"), "common\n").unwrap();
        (0..BUILDS).for_each(|number| edit(dir, number, 0));
    }
    // The model is what the command does without wink.
    let (run, tree) = world.native(&strs(&build(3)));
    assert_eq!(run.code, 0, "{run:?}");
    let model: Tree = tree
        .into_iter()
        .filter_map(|(path, entry)| Some((path.strip_prefix("out3").ok()?.to_owned(), entry)))
        .collect();
    for (path, text) in built(3, 0) {
        assert!(model[Path::new(&path)].bytes == text.as_bytes(), "{path}");
    }
    mount(&world);

    let (over, pruned, hits, misses) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |number: usize| {
        let dir = &clones[number % clones.len()];
        for round in 0..rounds {
            // Back and forth, so that some are hits, in this clone or in another one.
            let version = [0, 1, 0, 2][(round as usize + number) % 4];
            edit(dir, number, version);
            for again in ["at first", "again"] {
                let when = format!("build {number} in {}, round {round}, {again}", dir.display());
                let run = world.call().dir(dir).run(&strs(&build(number)));
                assert_eq!((run.code, run.out()), (0, format!("built {number}\n")), "{when}: {run:?}");
                match run.status() {
                    "hit" => hits.fetch_add(1, Ordering::Relaxed),
                    "miss" => misses.fetch_add(1, Ordering::Relaxed),
                    _ => panic!("{when}: {run:?}"),
                };
                check(dir, number, version, &when);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..BUILDS).map(|number| scope.spawn(move || work(number))).collect();
        scope.spawn(|| {
            for size in ["0", "100kB", "0", "20kB"].iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let run = world.call().dir("/").wink(&["cache", "prune", size]);
                assert_eq!(run.code, 0, "{run:?}");
                pruned.fetch_add(1, Ordering::Relaxed);
            }
        });
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    println!(
        "figures: pruned {} times beside {} hits and {} misses",
        pruned.load(Ordering::Relaxed),
        hits.load(Ordering::Relaxed),
        misses.load(Ordering::Relaxed)
    );
    assert!(pruned.load(Ordering::Relaxed) > 0 && misses.load(Ordering::Relaxed) > 0);
    world.blobs_are_sound();
    // In peace again, everything is a hit at once, and what there is is right.
    for number in 0..BUILDS {
        let dir = &clones[number % clones.len()];
        edit(dir, number, 1);
        world.call().dir(dir).run(&strs(&build(number)));
        fs::remove_dir_all(dir.join(format!("out{number}"))).unwrap();
        world.call().dir(dir).run(&strs(&build(number))).hit();
        check(dir, number, 1, "in peace");
    }
    let shown = snapshot(&world.ws);
    unmount(&world);
    mount(&world);
    assert_same(&shown, &snapshot(&world.ws), "mounted again");
    unmount(&world);
    world.blobs_are_sound();
}

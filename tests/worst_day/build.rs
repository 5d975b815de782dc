//! The build that has the bad days: 20 sources, 40 outputs in nested directories, and what a store must look like afterwards.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::common::tree::Entry;
use crate::common::{Run, Tree, World, assert_same, mounted, snapshot, strs};

const SOURCES: u64 = 20;
/// Sources that differ from version to version; one of them goes into half of the outputs.
const CHANGING: u64 = 4;
/// Unlocked things in staging count as abandoned after an hour.
const LONG_AGO: Duration = Duration::from_secs(7200);
/// Far above what a killed process takes to disappear.
const GONE: Duration = Duration::from_secs(20);

const LINE: &str = "i=0; for f in src/*; do n=${f#src/}; mkdir -p out/up/$((i%4))/$((i%3)) out/both/$((i%5)); \
    tr a-z A-Z < $f > out/up/$((i%4))/$((i%3))/$n; cat $f src/00 $f > out/both/$((i%5))/$n; i=$((i+1)); done; echo built";

/// How many rounds, unless asked for otherwise.
pub fn rounds(default: u64) -> u64 {
    std::env::var("WINK_WORST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Splitmix64: the same seed, the same day.
pub struct Dice(u64);

impl Dice {
    pub fn new(salt: u64) -> Dice {
        let seed = std::env::var("WINK_WORST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
        println!("WINK_WORST_SEED={seed}");
        Dice(seed ^ salt << 32)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn text(number: u64, version: u64) -> String {
    let version = if number < CHANGING { version } else { 0 };
    format!("source {number} of version {version}\n").repeat(40 + 60 * number as usize)
}

/// Writes the sources of a version.
pub fn edit(dir: &Path, version: u64) {
    fs::create_dir_all(dir.join("src")).unwrap();
    for number in 0..SOURCES {
        let (path, text) = (dir.join(format!("src/{number:02}")), text(number, version));
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            fs::write(&path, text).unwrap();
        }
    }
}

pub fn command() -> Vec<String> {
    ["/bin/sh", "-ec", LINE].map(str::to_owned).to_vec()
}

/// What the workspace holds after building a version.
pub fn built(version: u64) -> Tree {
    let mut tree = Tree::new();
    let mut put = |path: String, text: String| {
        for dir in Path::new(&path).ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
            tree.insert(dir.to_owned(), Entry { kind: "dir", mode: 0o755, bytes: Vec::new() });
        }
        tree.insert(path.into(), Entry { kind: "file", mode: 0o644, bytes: text.into_bytes() });
    };
    put("wink.toml".into(), String::new());
    for number in 0..SOURCES {
        let text = text(number, version);
        put(format!("out/up/{}/{}/{number:02}", number % 4, number % 3), text.to_uppercase());
        put(format!("out/both/{}/{number:02}", number % 5), [&*text, &self::text(0, version), &text].concat());
        put(format!("src/{number:02}"), text);
    }
    tree
}

/// The model is what the command does without wink.
pub fn check_model(world: &World) {
    edit(&world.ws, 1);
    let (run, tree) = world.native(&strs(&command()));
    assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{run:?}");
    assert_same(&tree, &built(1), "the model against a native run");
}

/// Runs the build and checks that it is whole.
pub fn build(world: &World, dir: &Path, version: u64, when: &str) -> Run {
    let run = world.call().dir(dir).run(&strs(&command()));
    assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{when}: {run:?}");
    calm(&run, 2);
    assert_same(&built(version), &snapshot(dir), &format!("{when}: {run:?}"));
    run
}

/// At most so many lines, and none of a panic.
#[track_caller]
pub fn calm(run: &Run, lines: usize) {
    let err = run.err();
    assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{run:?}");
    assert!(run.lines().len() <= lines, "more than {lines} lines: {run:?}");
}

/// Whether files of the build are whole: each as in one of these versions. What must never change is as in the last.
pub fn whole(world: &World, versions: &[u64], when: &str) {
    let trees: Vec<Tree> = versions.iter().map(|version| built(*version)).collect();
    let now = trees.last().unwrap();
    let found = world.tree();
    for (path, entry) in &found {
        let known: Vec<&Entry> = trees.iter().filter_map(|tree| tree.get(path)).collect();
        // Who is killed may leave a temporary name, which the next run there clears away: `build` looks.
        let is_temporary = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".wink-"));
        if known.is_empty() && is_temporary {
            continue;
        }
        assert!(!known.is_empty(), "{when}: {} was left ({} bytes)", path.display(), entry.bytes.len());
        assert!(known.contains(&entry), "{when}: {} is neither old nor new", path.display());
    }
    for (path, entry) in now.iter().filter(|(path, _)| !path.starts_with("out")) {
        assert!(found.get(path) == Some(entry), "{when}: {} is another", path.display());
    }
}

/// After a run that had something to record, nothing of the dead is left in staging, once it is old enough.
pub fn staging_is_swept(world: &World, sweep: impl FnOnce()) {
    let staging = world.store.join("staging");
    for path in fs::read_dir(&staging).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_file() && path.extension().is_none() {
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - LONG_AGO).unwrap();
        }
    }
    sweep();
    let left: Vec<PathBuf> = fs::read_dir(&staging).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left in staging: {left:?}");
}

/// Waits until no process of the world is left but its daemon.
pub fn nobody_is_left(world: &World) {
    let began = Instant::now();
    loop {
        let left = processes(world);
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < GONE, "still there: {left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes(world: &World) -> Vec<String> {
    let mark = [b"WINK_CACHE_DIR=", world.store.as_os_str().as_bytes()].concat();
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environ) = fs::read(entry.path().join("environ")) else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let daemon = words.windows(13).any(|part| part == b"daemon\0serve\0");
        if environ.split(|&byte| byte == 0).any(|word| word == mark) && !daemon {
            left.push(format!("{} {}", entry.path().display(), String::from_utf8_lossy(&words).replace('\0', " ")));
        }
    }
    left
}

/// A world with the first version built, mounted or not.
pub fn ready(name: &str, is_mounted: bool) -> World {
    let world = World::new(name);
    edit(&world.ws, 1);
    if is_mounted {
        mounted::mount(&world);
    }
    build(&world, &world.ws, 1, "at first");
    world
}

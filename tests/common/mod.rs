//! What every integration test shares: a `World` (a workspace, a private store, a private home, all in one temporary
//! directory), and `Call`, one invocation of `wink` or of the same command without it.
//!
//! Invariants: nothing outlives a `World` (mounts are detached, directories removed on drop); only processes that a `Call`
//! started are ever signalled, by their own process group; the environment of a call is built from nothing, never inherited.
//! `WINK_TEST_DIR` chooses where worlds live; `WINK_TEST_REQUIRE=1` turns a skipped test into a failed one.
#![allow(dead_code, unused_imports)]

pub mod call;
pub mod elf;
pub mod fixtures;
pub mod mounted;
pub mod operations;
pub mod page;
pub mod strace;
pub mod tools;
pub mod tree;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use call::{Call, Run, Running};
pub use tree::{Tree, assert_same, lay_out, snapshot};

/// A workspace and all that belongs to it.
pub struct World {
    pub root: PathBuf,
    pub ws: PathBuf,
    pub home: PathBuf,
    pub store: PathBuf,
    /// A directory below /tmp: wink never tracks it, so a command can leave proof there that it ran.
    pub untracked: PathBuf,
    calls: AtomicU32,
}

impl World {
    /// A world in the temporary directory (or `WINK_TEST_DIR`).
    pub fn new(name: &str) -> World {
        World::below(&base().unwrap_or_else(std::env::temp_dir), name)
    }

    /// A world whose home and neighbours are tracked: not below /tmp.
    pub fn tracked(name: &str) -> World {
        World::below(&base().unwrap_or_else(|| PathBuf::from("/var/tmp")), name)
    }

    /// A world in a directory.
    pub fn below(base: &Path, name: &str) -> World {
        let make = |base: &Path, what: &str| {
            let dir = tempfile::Builder::new().prefix(&format!("wink-{name}-{what}")).tempdir_in(base);
            let dir = dir.expect("temporary directory").keep();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
            dir.canonicalize().unwrap()
        };
        let root = make(base, "");
        let world = World {
            ws: root.join("ws"),
            home: root.join("home"),
            store: root.join("store"),
            untracked: make(Path::new("/tmp"), "untracked-"),
            calls: AtomicU32::new(0),
            root,
        };
        for dir in [&world.ws, &world.home, &world.root.join("json")] {
            fs::create_dir_all(dir).unwrap();
        }
        world.write("wink.toml", "");
        world
    }

    /// The same, but the workspace is a git work tree with this `.gitignore` instead of holding a `wink.toml`.
    pub fn git(name: &str, ignored: &str) -> World {
        let world = World::new(name);
        fs::remove_file(world.ws.join("wink.toml")).unwrap();
        let done = world.call().native(&["git", "init", "-q"]);
        assert_eq!(done.code, 0, "git init: {done:?}");
        world.write(".gitignore", ignored);
        world
    }

    /// Writes a file below the workspace, with its directories; an absolute path stays what it is.
    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.ws.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The same, executable.
    pub fn script(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(path, bytes);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let path = self.ws.join(path);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn text(&self, path: impl AsRef<Path>) -> String {
        String::from_utf8(self.read(path)).unwrap()
    }

    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.ws.join(path).symlink_metadata().is_ok()
    }

    pub fn remove(&self, path: impl AsRef<Path>) {
        let path = self.ws.join(path);
        match path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
            meta if meta.is_dir() => fs::remove_dir_all(&path).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
    }

    pub fn tree(&self) -> Tree {
        snapshot(&self.ws)
    }

    pub fn call(&self) -> Call<'_> {
        Call::new(self, self.environment())
    }

    /// `wink run -- command` in the workspace.
    pub fn run(&self, command: &[&str]) -> Run {
        self.call().run(command)
    }

    /// Runs the command without wink in a twin of the workspace *at the same path* (the real one steps aside meanwhile), so
    /// that even outputs that hold absolute paths must come out equal. Returns the run and the tree it left.
    pub fn native(&self, command: &[&str]) -> (Run, Tree) {
        self.twin(|call| call, command)
    }

    /// The same, the call shaped first: below `strace …`, with another environment.
    pub fn twin<'w>(&'w self, shape: impl FnOnce(Call<'w>) -> Call<'w>, command: &[&str]) -> (Run, Tree) {
        let aside = [self.root.join("ws.aside"), self.root.join("home.aside")];
        for (real, aside) in [&self.ws, &self.home].into_iter().zip(&aside) {
            fs::rename(real, aside).unwrap();
            copy_tree(aside, real);
        }
        let run = shape(self.call()).native(command);
        let tree = self.tree();
        for (real, aside) in [&self.ws, &self.home].into_iter().zip(&aside) {
            fs::remove_dir_all(real).unwrap();
            fs::rename(aside, real).unwrap();
        }
        let _ = fs::remove_file(self.counter());
        (run, tree)
    }

    /// `["/bin/sh", "-c", …]` for a shell line that first leaves a mark outside of everything tracked.
    pub fn counted(&self, line: &str) -> Vec<String> {
        let line = format!("echo ran >> {}; {line}", self.counter().display());
        vec!["/bin/sh".into(), "-c".into(), line]
    }

    pub fn counter(&self) -> PathBuf {
        self.untracked.join("ran")
    }

    /// How often a `counted` command ran.
    pub fn count(&self) -> usize {
        fs::read(self.counter()).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// How many blobs the store has, if every one still holds what its name says.
    pub fn check_blobs(&self) -> Result<usize, String> {
        let shelves = self.store.join("blobs");
        let shelves = fs::read_dir(&shelves).map_err(|error| format!("{}: {error}", shelves.display()))?;
        let mut count = 0;
        for shelf in shelves {
            let shelf = shelf.unwrap().path();
            for blob in fs::read_dir(&shelf).unwrap() {
                let blob = blob.unwrap().path();
                let name = format!("{}{}", shelf.file_name().unwrap().display(), blob.file_name().unwrap().display());
                if blake3::hash(&fs::read(&blob).unwrap()).to_hex().as_str() != name {
                    return Err(format!("the blob {} was changed", blob.display()));
                }
                count += 1;
            }
        }
        Ok(count)
    }

    /// The same for tests that need nothing said.
    #[track_caller]
    pub fn blobs_are_sound(&self) -> usize {
        self.check_blobs().unwrap()
    }

    /// What `wink trace --json` says about the last run: path to kind.
    pub fn trace(&self) -> Trace {
        let run = self.call().wink(&["trace", "--json"]);
        assert_eq!(run.code, 0, "wink trace: {run:?}");
        let json: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:?}"));
        let paths = |key: &str| -> BTreeMap<PathBuf, String> {
            let list = json[key].as_array().unwrap_or_else(|| panic!("no `{key}` in {json}"));
            list.iter()
                .map(|entry| {
                    let path = entry["path"].as_str().or(entry.as_str()).expect("path");
                    (PathBuf::from(path), entry["kind"].as_str().unwrap_or("removed").to_owned())
                })
                .collect()
        };
        Trace { inputs: paths("inputs"), outputs: paths("outputs"), removed: paths("removed") }
    }

    fn environment(&self) -> BTreeMap<OsString, OsString> {
        let pairs: [(&str, OsString); 7] = [
            ("PATH", tools::path()),
            ("HOME", self.home.clone().into()),
            ("WINK_CACHE_DIR", self.store.clone().into()),
            ("LANG", "C.UTF-8".into()),
            ("USER", "tester".into()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ];
        pairs.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut below: Vec<_> = points.filter(|point| point.starts_with(&self.root)).collect();
        below.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
        for point in below {
            let _ = Command::new("umount").arg("-l").arg(point).status();
        }
        // It notices within moments that its mounts have gone.
        for _ in 0..100 {
            if !self.store.join("daemon.sock").exists() || self.call().dir("/").wink(&["daemon", "stop"]).code == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if std::thread::panicking() && std::env::var_os("WINK_TEST_KEEP").is_some() {
            println!("kept: {} {}", self.root.display(), self.untracked.display());
            return;
        }
        for dir in [&self.root, &self.untracked] {
            if fs::remove_dir_all(dir).is_err() {
                let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(dir).status();
                let _ = fs::remove_dir_all(dir);
            }
        }
    }
}

/// The last run's trace: absolute path to kind.
#[derive(Debug)]
pub struct Trace {
    pub inputs: BTreeMap<PathBuf, String>,
    pub outputs: BTreeMap<PathBuf, String>,
    pub removed: BTreeMap<PathBuf, String>,
}

/// `cp -a`: the copy of a clone keeps modes, links and times.
pub fn copy_tree(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success(), "cp -a {} {}", from.display(), to.display());
}

/// `&[String]` as the `&[&str]` that calls take.
pub fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Whether `needle` occurs in `bytes`.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(bytes, needle).is_some()
}

/// Whether anything below `tree` holds this path in its bytes: then a record must be bound to it.
pub fn holds(tree: &Tree, path: &Path) -> bool {
    tree.values().any(|entry| contains(&entry.bytes, path.as_os_str().as_bytes()))
}

fn base() -> Option<PathBuf> {
    let base = PathBuf::from(std::env::var_os("WINK_TEST_DIR")?);
    fs::create_dir_all(&base).unwrap();
    Some(base)
}

/// A workspace with one counted command that reads, writes and prints.
pub fn simple(name: &str) -> (World, Vec<String>) {
    let world = World::new(name);
    world.write("source.txt", "text\n");
    let command = world.counted("cat source.txt > out && echo printed");
    (world, command)
}

/// Prints a figure for the table of promises (docs/TESTING.md): what was counted, and how much of it this run did.
pub fn figure(what: &str, value: impl std::fmt::Display) {
    println!("figure: {what} = {value}");
}

/// For how long tests of long life shall go on, if for long (`WINK_LIFE_MINUTES`).
pub fn long_life() -> Option<Duration> {
    let minutes = std::env::var("WINK_LIFE_MINUTES").ok()?;
    let minutes: u64 = minutes.parse().unwrap_or_else(|_| panic!("WINK_LIFE_MINUTES is no number: {minutes}"));
    Some(Duration::from_secs(60 * minutes))
}

/// Waits until there is such a file.
pub fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

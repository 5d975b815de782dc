//! What every integration test shares: a `World` (a workspace, a private store, a private home, all in one temporary
//! directory), and `Call`, one invocation of `wink` or of the same command without it.
//!
//! Invariants: nothing outlives a `World` (mounts are detached, directories removed on drop); only processes that a `Call`
//! started are ever signalled, by their own process group; the environment of a call is built from nothing, never inherited.
//! `WINK_TEST_DIR` chooses where worlds live; `WINK_TEST_REQUIRE=1` turns a skipped test into a failed one.
#![allow(dead_code, unused_imports)]

pub mod elf;
pub mod fixtures;
pub mod strace;
pub mod tools;
pub mod tree;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use tree::{Tree, assert_same, snapshot};

/// Far above what any test project needs on two cores; a hang is a failure, not a stuck gate.
const PATIENCE: Duration = Duration::from_secs(180);

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

    fn below(base: &Path, name: &str) -> World {
        let make = |base: &Path, what: &str| {
            let dir = tempfile::Builder::new()
                .prefix(&format!("wink-{name}-{what}"))
                .tempdir_in(base);
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
        match path
            .symlink_metadata()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        {
            meta if meta.is_dir() => fs::remove_dir_all(&path).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
    }

    pub fn tree(&self) -> Tree {
        snapshot(&self.ws)
    }

    pub fn call(&self) -> Call<'_> {
        Call {
            world: self,
            dir: self.ws.clone(),
            env: self.environment(),
            stdin: None,
            under: Vec::new(),
            flags: Vec::new(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_wink")),
        }
    }

    /// `wink run -- command` in the workspace.
    pub fn run(&self, command: &[&str]) -> Run {
        self.call().run(command)
    }

    /// Runs the command without wink in a twin of the workspace *at the same path* (the real one steps aside meanwhile), so
    /// that even outputs that hold absolute paths must come out equal. Returns the run and the tree it left.
    pub fn native(&self, command: &[&str]) -> (Run, Tree) {
        self.native_under(&[], command)
    }

    /// The same below another program (`strace …`).
    pub fn native_under(&self, under: &[&str], command: &[&str]) -> (Run, Tree) {
        let aside = [self.root.join("ws.aside"), self.root.join("home.aside")];
        for (real, aside) in [&self.ws, &self.home].into_iter().zip(&aside) {
            fs::rename(real, aside).unwrap();
            copy_tree(aside, real);
        }
        let run = self.call().under(under).native(command);
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
        fs::read(self.counter()).map_or(0, |bytes| {
            bytes.iter().filter(|&&byte| byte == b'\n').count()
        })
    }

    /// What `wink trace --json` says about the last run: path to kind.
    pub fn trace(&self) -> Trace {
        let run = self.call().wink(&["trace", "--json"]);
        assert_eq!(run.code, 0, "wink trace: {run:?}");
        let json: Value =
            serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:?}"));
        let paths = |key: &str| -> BTreeMap<PathBuf, String> {
            let list = json[key]
                .as_array()
                .unwrap_or_else(|| panic!("no `{key}` in {json}"));
            list.iter()
                .map(|entry| {
                    let path = entry["path"].as_str().or(entry.as_str()).expect("path");
                    (
                        PathBuf::from(path),
                        entry["kind"].as_str().unwrap_or("removed").to_owned(),
                    )
                })
                .collect()
        };
        Trace {
            inputs: paths("inputs"),
            outputs: paths("outputs"),
            removed: paths("removed"),
        }
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
        pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from);
        let mut below: Vec<_> = points
            .filter(|point| point.starts_with(&self.root))
            .collect();
        below.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
        for point in below {
            let _ = Command::new("umount").arg("-l").arg(point).status();
        }
        if std::thread::panicking() && std::env::var_os("WINK_TEST_KEEP").is_some() {
            println!("kept: {} {}", self.root.display(), self.untracked.display());
            return;
        }
        for dir in [&self.root, &self.untracked] {
            if fs::remove_dir_all(dir).is_err() {
                let _ = Command::new("chmod")
                    .args(["-R", "u+rwX"])
                    .arg(dir)
                    .status();
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

/// One invocation, to be shaped before it starts.
pub struct Call<'w> {
    world: &'w World,
    dir: PathBuf,
    env: BTreeMap<OsString, OsString>,
    stdin: Option<Vec<u8>>,
    under: Vec<String>,
    flags: Vec<String>,
    program: PathBuf,
}

impl Call<'_> {
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = self.world.ws.join(dir);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.into(), value.as_ref().into());
        self
    }

    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Some(bytes.as_ref().to_vec());
        self
    }

    /// Another program that starts this one: `unshare -m …`.
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// Flags of `wink run`.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self
    }

    /// Another copy of the binary.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// `wink run --json FILE flags -- command`, to its end.
    pub fn run(self, command: &[&str]) -> Run {
        self.start(command).finish()
    }

    pub fn start(self, command: &[&str]) -> Running {
        let number = self.world.calls.fetch_add(1, Ordering::Relaxed);
        let json = self.world.root.join(format!("json/{number}"));
        let mut args = vec![
            self.program.clone().into_os_string(),
            "run".into(),
            "--json".into(),
        ];
        args.push(json.clone().into());
        args.extend(self.flags.iter().map(OsString::from));
        args.push("--".into());
        args.extend(command.iter().map(OsString::from));
        self.spawn(args, json)
    }

    /// `wink` with exactly these arguments.
    pub fn wink(self, args: &[&str]) -> Run {
        let mut all = vec![self.program.clone().into_os_string()];
        all.extend(args.iter().map(OsString::from));
        self.spawn(all, PathBuf::new()).finish()
    }

    /// The command itself.
    pub fn native(self, command: &[&str]) -> Run {
        self.spawn(command.iter().map(OsString::from).collect(), PathBuf::new())
            .finish()
    }

    fn spawn(self, args: Vec<OsString>, json: PathBuf) -> Running {
        let all: Vec<OsString> = self.under.iter().map(OsString::from).chain(args).collect();
        let mut command = Command::new(&all[0]);
        command
            .args(&all[1..])
            .current_dir(&self.dir)
            .env_clear()
            .envs(&self.env)
            .process_group(0);
        command.stdin(if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{all:?}: {error}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // The other end may never read: that is its right.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = drain(child.stdout.take().unwrap());
        let stderr = drain(child.stderr.take().unwrap());
        Running {
            args: all,
            child,
            stdout,
            stderr,
            json,
        }
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// A started call.
pub struct Running {
    args: Vec<OsString>,
    child: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    json: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal as a terminal would: to the whole process group.
    pub fn signal_group(&self, signal: &str) {
        signal_to(signal, &format!("-{}", self.child.id()));
    }

    /// Sends a signal to the first process only.
    pub fn signal(&self, signal: &str) {
        signal_to(signal, &self.child.id().to_string());
    }

    pub fn finish(mut self) -> Run {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                self.signal_group("KILL");
                let _ = self.child.wait();
                panic!("still running after {PATIENCE:?}: {:?}", self.args);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let json = fs::read(&self.json)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Run {
            args: self.args,
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout.join().unwrap(),
            stderr: self.stderr.join().unwrap(),
            json: json.unwrap_or(Value::Null),
        }
    }
}

fn signal_to(signal: &str, target: &str) {
    let done = Command::new("/bin/kill")
        .args([format!("-{signal}").as_str(), "--", target])
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "kill -{signal} {target}"
    );
}

/// What a call left.
pub struct Run {
    pub args: Vec<OsString>,
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub json: Value,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clip =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(3000)]).into_owned();
        writeln!(out, "\n$ {:?}\nexit {}", self.args, self.code)?;
        writeln!(
            out,
            "--- stdout\n{}\n--- stderr\n{}",
            clip(&self.stdout),
            clip(&self.stderr)
        )?;
        write!(out, "--- json\n{:#}", self.json)
    }
}

impl Run {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The command's own stderr: without wink's one line (which must be one).
    pub fn command_err(&self) -> String {
        self.err()
            .lines()
            .filter(|line| !line.starts_with("wink:"))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// wink's own lines.
    pub fn lines(&self) -> Vec<String> {
        self.err()
            .lines()
            .filter(|line| line.starts_with("wink:"))
            .map(str::to_owned)
            .collect()
    }

    pub fn status(&self) -> &str {
        self.json["status"].as_str().unwrap_or("none")
    }

    pub fn reason(&self) -> String {
        self.json["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// `first_difference.path`, if there is one.
    pub fn difference(&self) -> Option<PathBuf> {
        self.json["first_difference"]["path"]
            .as_str()
            .map(PathBuf::from)
    }

    /// Whether the first difference or the reason names this.
    pub fn names(&self, what: &str) -> bool {
        self.reason().contains(what)
            || self.json["first_difference"].as_object().is_some_and(|_| {
                self.json["first_difference"]["path"]
                    .as_str()
                    .is_some_and(|path| path.contains(what))
            })
    }

    #[track_caller]
    pub fn is(&self, status: &str) -> &Run {
        assert_eq!(self.status(), status, "expected `{status}`: {self:?}");
        self
    }

    #[track_caller]
    pub fn hit(&self) -> &Run {
        self.is("hit").exits(0)
    }

    #[track_caller]
    pub fn miss(&self) -> &Run {
        self.is("miss").exits(0)
    }

    #[track_caller]
    pub fn uncached(&self) -> &Run {
        self.is("uncached");
        assert!(
            !self.reason().is_empty(),
            "uncached without a reason: {self:?}"
        );
        self
    }

    #[track_caller]
    pub fn exits(&self, code: i32) -> &Run {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// A miss whose difference names this path.
    #[track_caller]
    pub fn miss_naming(&self, path: impl AsRef<Path>) -> &Run {
        self.is("miss");
        let path = path.as_ref().to_str().unwrap();
        assert!(self.names(path), "the miss does not name {path}: {self:?}");
        self
    }
}

/// `cp -a`: the copy of a clone keeps modes, links and times.
pub fn copy_tree(from: &Path, to: &Path) {
    let done = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
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
    tree.values()
        .any(|entry| contains(&entry.bytes, path.as_os_str().as_bytes()))
}

fn base() -> Option<PathBuf> {
    let base = PathBuf::from(std::env::var_os("WINK_TEST_DIR")?);
    fs::create_dir_all(&base).unwrap();
    Some(base)
}

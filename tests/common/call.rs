//! One invocation of `wink` or of the same command without it: shaped, started, finished, judged.
//!
//! A call runs in a process group of its own, with an environment built from nothing; only that group is ever signalled.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::World;

/// Far above what any test project needs on two cores; a hang is a failure, not a stuck gate.
const PATIENCE: Duration = Duration::from_secs(180);

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

impl<'w> Call<'w> {
    /// In the workspace, with exactly this environment.
    pub fn new(world: &'w World, env: BTreeMap<OsString, OsString>) -> Call<'w> {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_wink"));
        Call { world, dir: world.ws.clone(), env, stdin: None, under: Vec::new(), flags: Vec::new(), program }
    }

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
        let mut args = vec![self.program.clone().into_os_string(), "run".into(), "--json".into()];
        args.push(json.clone().into());
        args.extend(self.flags.iter().map(OsString::from));
        args.push("--".into());
        args.extend(command.iter().map(OsString::from));
        self.spawn(args, json)
    }

    /// `wink` with exactly these arguments.
    pub fn wink(self, args: &[&str]) -> Run {
        self.start_wink(args).finish()
    }

    pub fn start_wink(self, args: &[&str]) -> Running {
        let mut all = vec![self.program.clone().into_os_string()];
        all.extend(args.iter().map(OsString::from));
        self.spawn(all, PathBuf::new())
    }

    /// The command itself.
    pub fn native(self, command: &[&str]) -> Run {
        self.spawn(command.iter().map(OsString::from).collect(), PathBuf::new()).finish()
    }

    fn spawn(self, args: Vec<OsString>, json: PathBuf) -> Running {
        let all: Vec<OsString> = self.under.iter().map(OsString::from).chain(args).collect();
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).current_dir(&self.dir).env_clear().envs(&self.env).process_group(0);
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{all:?}: {error}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // The other end may never read: that is its right.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = drain(child.stdout.take().unwrap());
        let stderr = drain(child.stderr.take().unwrap());
        Running { args: all, child, stdout, stderr, json }
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

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
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
        let json = fs::read(&self.json).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Run {
            args: self.args,
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout.join().unwrap(),
            stderr: self.stderr.join().unwrap(),
            json: json.unwrap_or(Value::Null),
        }
    }
}

fn signal_to(signal: &str, target: &str) {
    let done = Command::new("/bin/kill").args([format!("-{signal}").as_str(), "--", target]).status();
    assert!(done.is_ok_and(|status| status.success()), "kill -{signal} {target}");
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
        let clip = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(3000)]).into_owned();
        writeln!(out, "\n$ {:?}\nexit {}", self.args, self.code)?;
        writeln!(out, "--- stdout\n{}\n--- stderr\n{}", clip(&self.stdout), clip(&self.stderr))?;
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
        self.err().lines().filter(|line| !line.starts_with("wink:")).map(|line| format!("{line}\n")).collect()
    }

    /// wink's own lines.
    pub fn lines(&self) -> Vec<String> {
        self.err().lines().filter(|line| line.starts_with("wink:")).map(str::to_owned).collect()
    }

    pub fn status(&self) -> &str {
        self.json["status"].as_str().unwrap_or("none")
    }

    pub fn reason(&self) -> String {
        self.json["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// `first_difference.path`, if there is one.
    pub fn difference(&self) -> Option<PathBuf> {
        self.json["first_difference"]["path"].as_str().map(PathBuf::from)
    }

    /// Whether the first difference or the reason names this.
    pub fn names(&self, what: &str) -> bool {
        self.reason().contains(what)
            || self.json["first_difference"]
                .as_object()
                .is_some_and(|_| self.json["first_difference"]["path"].as_str().is_some_and(|path| path.contains(what)))
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
        assert!(!self.reason().is_empty(), "uncached without a reason: {self:?}");
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

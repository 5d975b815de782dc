//! The second witness: reads a log of `strace -f -y` and says what each process asked of the file tree before the command
//! itself had changed the place.
//!
//! Paths are resolved as the kernel did: relative to the directory of the descriptor that `-y` shows, or to the cwd of that
//! process (followed through chdir, fchdir and fork), name by name through links and `..`. A path is `made` from the moment at
//! which the command created, removed or renamed it: what is asked after that is the command's own business.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::elf;

/// What strace must be asked for; `%file` alone misses listings and the calls that make a cwd.
pub const CALLS: &str = "trace=%file,getdents64,fchdir,clone,clone3,fork,vfork";

/// One call that ended, its pieces put together.
#[derive(Debug, PartialEq)]
pub struct Call {
    pub pid: u32,
    pub name: String,
    pub args: Vec<String>,
    pub result: String,
}

/// How a path was asked for; the strongest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// Only walked through on the way to something else, or written to: may be in a trace, need not be.
    Passed,
    /// Found absent.
    Absent,
    /// Attributes or access rights; a file, or a directory.
    Stat,
    /// A symbolic link, read or followed.
    Link,
    /// Opened for reading, or executed.
    Opened,
    /// Its names were read.
    Listed,
}

/// Everything asked, by absolute path.
#[derive(Debug, Default)]
pub struct Seen {
    pub asked: BTreeMap<PathBuf, BTreeSet<Asked>>,
    /// Created, removed or renamed by the command.
    pub made: BTreeSet<PathBuf>,
    /// How often a name was created exclusively, by directory: temporary names are drawn anew in every run.
    pub exclusive: BTreeMap<PathBuf, usize>,
}

/// Joins `<unfinished ...>` with `<... resumed>` and splits calls into arguments.
pub fn parse(log: &str) -> Vec<Call> {
    let mut halves: HashMap<(u32, String), String> = HashMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((pid, rest)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let Ok(pid) = pid.parse() else { continue };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(rest) = rest.strip_prefix("<... ") {
            let Some((name, tail)) = rest.split_once(" resumed>") else {
                continue;
            };
            if let Some(head) = halves.remove(&(pid, name.to_owned())) {
                calls.extend(split(pid, &format!("{head}{tail}")));
            }
        } else if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            let name = head.split('(').next().unwrap_or_default();
            halves.insert((pid, name.to_owned()), head.to_owned());
        } else {
            calls.extend(split(pid, rest));
        }
    }
    // A call that never resumed: an exec whose process ended, an exit. An unfinished exec is a failed one.
    calls
}

/// `name(a, "b", {c, d}) = result`.
fn split(pid: u32, text: &str) -> Option<Call> {
    let open = text.find('(')?;
    let (mut args, mut current, mut depth) = (Vec::new(), String::new(), 0usize);
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    let mut end = None;
    let mut previous = ' ';
    for (at, letter) in text.char_indices().skip_while(|&(at, _)| at <= open) {
        let plain = !quoted && !angle;
        match letter {
            _ if quoted && escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !angle => quoted = !quoted,
            // `3</some/path>`: parentheses and commas of a name are no syntax. A `<` after a blank is an operator.
            '<' if plain && !previous.is_whitespace() => angle = true,
            '>' if angle => angle = false,
            '(' | '[' | '{' if plain => depth += 1,
            ')' if plain && depth == 0 => {
                end = Some(at);
                break;
            }
            ')' | ']' | '}' if plain => depth = depth.saturating_sub(1),
            ',' if plain && depth == 0 => {
                args.push(std::mem::take(&mut current).trim().to_owned());
                previous = letter;
                continue;
            }
            _ => {}
        }
        previous = letter;
        current.push(letter);
    }
    let end = end?;
    args.push(current.trim().to_owned());
    let result = text[end + 1..].trim_start().strip_prefix('=')?.trim().to_owned();
    Some(Call { pid, name: text[..open].to_owned(), args, result })
}

/// The bytes of a quoted argument.
fn unquote(arg: &str) -> Option<PathBuf> {
    let inner = arg.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < inner.len() {
        let byte = inner[at];
        at += 1;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let code = *inner.get(at)?;
        at += 1;
        bytes.push(match code {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'v' => 11,
            b'f' => 12,
            b'x' => {
                let value = u8::from_str_radix(std::str::from_utf8(inner.get(at..at + 2)?).ok()?, 16).ok()?;
                at += 2;
                value
            }
            b'0'..=b'7' => {
                let mut value = u32::from(code - b'0');
                for _ in 0..2 {
                    match inner.get(at) {
                        Some(&digit @ b'0'..=b'7') => (value, at) = (value * 8 + u32::from(digit - b'0'), at + 1),
                        _ => break,
                    }
                }
                value as u8
            }
            other => other,
        });
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// `3</a/b>` or `AT_FDCWD</a/b>`.
fn annotated(arg: &str) -> Option<PathBuf> {
    let (_, rest) = arg.split_once('<')?;
    let path = rest.strip_suffix('>')?;
    let path = path.strip_suffix(">(deleted)").or(path.strip_suffix("(deleted)")).unwrap_or(path);
    // A name with odd bytes is escaped as in a quoted argument.
    path.starts_with('/').then(|| unquote(&format!("\"{path}\""))).flatten()
}

/// Reads the calls of one command that was started in `cwd`.
pub fn witness(calls: &[Call], cwd: &Path) -> Seen {
    let mut seen = Seen::default();
    let mut cwds: HashMap<u32, PathBuf> = HashMap::new();
    // A child's first calls may stand in the log before its parent's fork returns: who forked whom is read first.
    let forks = calls.iter().filter(|call| matches!(call.name.as_str(), "clone" | "clone3" | "fork" | "vfork"));
    let parents: HashMap<u32, u32> =
        forks.filter_map(|call| Some((call.result.split(' ').next()?.parse().ok()?, call.pid))).collect();
    for call in calls {
        let here = cwds.get(&call.pid).cloned().unwrap_or_else(|| {
            let mut lineage = std::iter::successors(parents.get(&call.pid), |pid| parents.get(pid)).take(100);
            lineage.find_map(|pid| cwds.get(pid)).cloned().unwrap_or_else(|| cwd.to_path_buf())
        });
        cwds.entry(call.pid).or_insert_with(|| here.clone());
        match call.name.as_str() {
            "clone" | "clone3" | "fork" | "vfork" => {}
            "chdir" | "fchdir" if call.result.starts_with('0') => {
                let target = match call.name.as_str() {
                    "chdir" => unquote(&call.args[0]).map(|path| here.join(path)),
                    _ => annotated(&call.args[0]),
                };
                if let Some(target) = target {
                    let real = seen.walk(&target, true);
                    cwds.insert(call.pid, real);
                }
            }
            _ => seen.call(call, &here),
        }
    }
    seen
}

impl Seen {
    /// A name that was made only because nothing had it: it may be a random one.
    fn drawn(&mut self, path: &Path, made: bool) {
        if made {
            let parent = self.walk(path.parent().unwrap_or(path), true);
            *self.exclusive.entry(parent).or_default() += 1;
        }
    }

    fn call(&mut self, call: &Call, here: &Path) {
        let ok = !call.result.starts_with("-1") && !call.result.starts_with('?');
        // readlink of what is no link: the answer is its kind.
        let linked = if call.result.contains("EINVAL") { Asked::Stat } else { Asked::Link };
        let absent = call.result.contains("ENOENT") || call.result.contains("ENOTDIR");
        let args = &call.args;
        let has = |flag: &str| args.iter().any(|arg| arg.split('|').any(|part| part == flag));
        let path = |directory: Option<usize>, at: usize| -> Option<PathBuf> {
            let name = unquote(args.get(at)?)?;
            let base = match directory {
                Some(at) => annotated(args.get(at)?).unwrap_or_else(|| here.to_path_buf()),
                None => here.to_path_buf(),
            };
            // An empty name is about the descriptor itself, and that was opened before.
            (!name.as_os_str().is_empty()).then(|| base.join(name))
        };
        match call.name.as_str() {
            "open" | "openat" | "creat" => {
                let at = usize::from(call.name == "openat");
                let Some(path) = path((at == 1).then_some(0), at) else {
                    return;
                };
                let writes = call.name == "creat" || has("O_CREAT") || has("O_TRUNC");
                if has("O_TMPFILE") {
                    self.walk(&path, true);
                } else if ok && writes {
                    self.drawn(&path, has("O_EXCL"));
                    self.make(&path, !has("O_EXCL"));
                } else {
                    let how = if has("O_DIRECTORY") || has("O_PATH") { Asked::Stat } else { Asked::Opened };
                    self.ask(&path, how, absent, !has("O_NOFOLLOW"));
                }
            }
            "execve" | "execveat" => {
                let at = usize::from(call.name == "execveat");
                let Some(path) = path((at == 1).then_some(0), at) else {
                    return;
                };
                let mut real = self.ask(&path, Asked::Opened, absent, true);
                // A script's interpreter is a program with its own; nobody nests deeper than this.
                for _ in 0..if ok { 5 } else { 0 } {
                    let Some(next) = elf::interpreter(&real) else {
                        break;
                    };
                    real = self.ask(&here.join(next), Asked::Opened, false, true);
                }
            }
            "getdents64" => {
                if let Some(path) = annotated(&args[0]) {
                    self.note(&path, Asked::Listed);
                }
            }
            "stat" | "access" => {
                if let Some(p) = path(None, 0) {
                    self.ask(&p, Asked::Stat, absent, true);
                }
            }
            "lstat" => {
                if let Some(p) = path(None, 0) {
                    self.ask(&p, Asked::Stat, absent, false);
                }
            }
            "newfstatat" | "statx" | "faccessat" | "faccessat2" => {
                let follow = !has("AT_SYMLINK_NOFOLLOW");
                if let Some(p) = path(Some(0), 1) {
                    self.ask(&p, Asked::Stat, absent, follow);
                }
            }
            "readlink" => {
                if let Some(p) = path(None, 0) {
                    self.ask(&p, linked, absent, false);
                }
            }
            "readlinkat" => {
                if let Some(p) = path(Some(0), 1) {
                    self.ask(&p, linked, absent, false);
                }
            }
            "mkdir" | "unlink" | "rmdir" => {
                if let Some(p) = path(None, 0) {
                    self.drawn(&p, ok && call.name == "mkdir");
                    self.change(&p, ok, absent);
                }
            }
            "mkdirat" | "unlinkat" | "mknodat" => {
                if let Some(p) = path(Some(0), 1) {
                    self.drawn(&p, ok && call.name == "mkdirat");
                    self.change(&p, ok, absent);
                }
            }
            "symlink" => {
                if let Some(p) = path(None, 1) {
                    self.change(&p, ok, absent);
                }
            }
            "symlinkat" => {
                if let Some(p) = path(Some(1), 2) {
                    self.change(&p, ok, absent);
                }
            }
            "rename" | "link" => {
                for at in [0, 1] {
                    if let Some(p) = path(None, at) {
                        self.change(&p, ok, absent);
                    }
                }
            }
            "renameat" | "renameat2" | "linkat" => {
                for at in [0, 2] {
                    if let Some(p) = path(Some(at), at + 1) {
                        self.change(&p, ok, absent);
                    }
                }
            }
            // Changes attributes, asks nothing whose answer it sees; getcwd, statfs: no fact of the tree.
            _ => {
                for arg in 0..args.len() {
                    if let Some(path) = path(arg.checked_sub(1), arg).filter(|p| p.is_absolute()) {
                        self.walk(&path, true);
                    }
                }
            }
        }
    }

    /// Notes a question about `path`; returns where it led.
    fn ask(&mut self, path: &Path, how: Asked, absent: bool, follow: bool) -> PathBuf {
        let real = self.walk(path, follow);
        self.note(&real, if absent { Asked::Absent } else { how });
        real
    }

    /// Something that exists only because the command wants it from now on.
    fn make(&mut self, path: &Path, follow: bool) {
        let real = self.walk(path, follow);
        self.asked.entry(real.clone()).or_default().insert(Asked::Passed);
        self.made.insert(real);
    }

    fn change(&mut self, path: &Path, ok: bool, absent: bool) {
        let real = self.walk(path, false);
        match ok {
            true => {
                self.asked.entry(real.clone()).or_default().insert(Asked::Passed);
                self.made.insert(real);
            }
            // EEXIST tells that there is something, ENOENT that there is not: both are allowed, only the second is owed.
            false => self.note(&real, if absent { Asked::Absent } else { Asked::Passed }),
        }
    }

    fn note(&mut self, path: &Path, how: Asked) {
        let own = self.is_made(path);
        self.asked.entry(path.to_path_buf()).or_default().insert(if own { Asked::Passed } else { how });
    }

    fn is_made(&self, path: &Path) -> bool {
        path.ancestors().any(|part| self.made.contains(part))
    }

    /// Resolves name by name, noting every link and directory on the way.
    fn walk(&mut self, path: &Path, follow: bool) -> PathBuf {
        let mut todo: Vec<OsString> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
        let trailing = path.as_os_str().as_bytes().ends_with(b"/");
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match Path::new(&name).components().next() {
                Some(Component::RootDir) => real = PathBuf::from("/"),
                Some(Component::ParentDir) => drop(real.pop()),
                Some(Component::Normal(name)) => {
                    real.push(name);
                    // The kernel stops at the first name that is not there; what the command made (and the twin that is gone
                    // by now held) was there.
                    let there = real.symlink_metadata().is_ok() || self.is_made(&real);
                    if !there && !todo.is_empty() {
                        return real;
                    }
                    let target = std::fs::read_link(&real).ok().filter(|_| follow || trailing || !todo.is_empty());
                    match target {
                        Some(target) if links < 40 => {
                            links += 1;
                            self.note(&real, Asked::Link);
                            real.pop();
                            todo.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
                        }
                        _ => drop(self.asked.entry(real.clone()).or_default().insert(Asked::Passed)),
                    }
                }
                _ => {}
            }
        }
        real
    }
}

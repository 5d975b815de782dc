//! Small worlds: source files, and tasks put together from ingredients. A task is a script of `/bin/sh` or python that names nothing but
//! paths relative to the workspace, so that its twin elsewhere does and prints the same.
//!
//! Every task owns a few names (`outN`, `tN.out`, `shared/tN-…`); what it may read is known to the oracle ([`Task::reads`]).

use std::collections::BTreeMap;

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::random::Random;

/// Lines that files are made of. Two of them decide what tasks do.
pub const WORDS: [&str; 6] = ["alpha", "beta", "gamma", "delta", "extra", "fail"];
/// Source files that a task may read; not all are there.
pub const SOURCES: [&str; 9] = [
    "src/a.txt",
    "src/b.txt",
    "src/c.txt",
    "src/d.txt",
    "src/link.txt",
    "src/sub/x.txt",
    "src/sub/y.txt",
    "opt/flag",
    "conf.txt",
];
/// Source directories.
pub const DIRS: [&str; 4] = ["src", "src/sub", "opt", "inbox"];
/// What the compiler reads: the first header is looked for in two directories.
pub const COMPILED: [&str; 5] = ["csrc/main.c", "csrc/util.c", "inc1/first.h", "inc2/first.h", "inc2/second.h"];

/// A world before anything has happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Project {
    pub files: BTreeMap<String, Source>,
    pub tasks: Vec<Task>,
}

/// Something in the source tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Source {
    File { text: String, times: usize },
    Link { target: String },
}

/// What a run of a task may be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Clears its outputs first: it always equals a clean run.
    Pure,
    /// Leaves, overwrites or reads earlier outputs: a clean run, or one beside what the last run left.
    Carry,
    /// Decides by times: its files always equal a clean run's, what it prints need not.
    Times,
}

/// A task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub number: usize,
    pub python: bool,
    /// `set -e`.
    pub strict: bool,
    pub class: Class,
    pub ops: Vec<Op>,
    /// Before which ingredient it can be held.
    pub pause: usize,
}

/// How far a task looks into a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// A link's target as text.
    Link,
    Itself,
    Names,
    Files,
}

/// What is done to the bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum How {
    Plain,
    Upper,
    Sort,
    Count,
}

/// One ingredient.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Op {
    Clean { paths: Vec<String> },
    Cat { from: Vec<String>, to: String, how: How },
    Each { dir: String, to: String, how: How },
    Exists { path: String, to: String },
    Executable { path: String, to: String },
    ReadLink { path: String, to: String },
    List { dir: String, to: String },
    SoftLink { target: String, to: String },
    HardLink { from: String, to: String },
    Mode { path: String, mode: u32 },
    EmptyDir { path: String },
    EmptyFile { path: String },
    Print { from: String },
    FailIf { path: String, word: String, code: i32 },
    Only { path: String, word: String, to: String },
    Rename { from: String, to: String },
    Consume { from: String, to: String },
    Format { path: String },
    Append { from: String, to: String },
    Incremental { dir: String, to: String, state: String },
    Newer { dir: String, to: String },
    Compile { to: String },
}

impl Op {
    /// The places that it reads.
    fn reads(&self) -> Vec<&str> {
        match self {
            Op::Cat { from, .. } => from.iter().map(String::as_str).collect(),
            Op::Each { dir: path, .. }
            | Op::List { dir: path, .. }
            | Op::Incremental { dir: path, .. }
            | Op::Newer { dir: path, .. }
            | Op::Exists { path, .. }
            | Op::Executable { path, .. }
            | Op::ReadLink { path, .. }
            | Op::Print { from: path }
            | Op::FailIf { path, .. }
            | Op::Only { path, .. }
            | Op::Consume { from: path, .. }
            | Op::Append { from: path, .. }
            | Op::Format { path } => vec![path],
            Op::Compile { .. } => vec!["csrc", "inc1", "inc2"],
            _ => Vec::new(),
        }
    }
}

impl Task {
    /// Every name that is this task's to write.
    pub fn names(number: usize) -> Vec<String> {
        let shared = (0..3).map(|file| format!("shared/t{number}-{file}"));
        [format!("out{number}"), format!("t{number}.out")].into_iter().chain(shared).collect()
    }

    /// Where its script is.
    pub fn script(&self) -> String {
        format!("tools/t{}.{}", self.number, if self.python { "py" } else { "sh" })
    }

    /// How it is started.
    pub fn line(&self) -> String {
        let python = if self.python { "/usr/bin/python3 -IS " } else { "/bin/sh " };
        format!("exec {python}{}", self.script())
    }

    /// Paths of others that it may look at.
    pub fn reads(&self) -> Vec<&str> {
        self.ops.iter().flat_map(Op::reads).collect()
    }

    /// How far it looks into a place that it reads.
    pub fn depth(&self, read: &str) -> Depth {
        let is = |op: &Op| match op {
            Op::Each { dir, .. } | Op::Incremental { dir, .. } | Op::Newer { dir, .. } if dir == read => Depth::Files,
            Op::List { dir, .. } if dir == read => Depth::Names,
            Op::Compile { .. } if ["csrc", "inc1", "inc2"].contains(&read) => Depth::Files,
            Op::ReadLink { .. } => Depth::Link,
            _ => Depth::Itself,
        };
        self.ops.iter().filter(|op| op.reads().contains(&read)).map(is).max().unwrap_or(Depth::Itself)
    }

    /// Whether it looks into a file of a directory that it reads: a compiler only into sources and headers.
    pub fn looks_into(&self, dir: &str, file: &Path) -> bool {
        let all = |op: &Op| !matches!(op, Op::Compile { .. }) && op.reads().contains(&dir);
        self.ops.iter().any(all) || file.extension().is_some_and(|kind| kind == "c" || kind == "h")
    }

    /// Whether it changes what is not its own: such a task never runs beside others.
    pub fn meddles(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Format { .. } | Op::Consume { .. }))
    }

    /// Whether these two may run at once without one seeing what the other does.
    pub fn is_apart_from(&self, other: &Task) -> bool {
        let sees = |one: &Task, other: &Task| {
            let names = Task::names(other.number);
            // Who lists the directory sees it come.
            let meets = |read: &str, name: &str| within(read, name) || within(name, read) || read == "shared";
            one.reads().iter().any(|read| names.iter().any(|name| meets(read, name)))
        };
        self.number != other.number && !self.meddles() && !other.meddles() && !sees(self, other) && !sees(other, self)
    }
}

/// Whether `path` is `dir` or in it.
pub fn within(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A few lines, seldom many.
pub fn text(random: &mut Random) -> (String, usize) {
    let mut text = String::new();
    for _ in 0..random.below(5) {
        // The word that makes tasks fail is not in every file.
        let word = match random.weighted(&[30, 30, 30, 20, 20, 4]) {
            at if at < WORDS.len() => WORDS[at],
            _ => WORDS[0],
        };
        text.push_str(word);
        text.push('\n');
    }
    let times = if random.percent(4) { 12_000 } else { 1 };
    (text, times)
}

/// A world.
pub fn project(random: &mut Random) -> Project {
    let mut files = BTreeMap::new();
    let mut put = |path: &str, random: &mut Random| {
        let (text, times) = text(random);
        files.insert(path.to_owned(), Source::File { text, times });
    };
    for path in SOURCES.iter().filter(|path| **path != "src/link.txt") {
        if random.percent(70) || *path == "src/a.txt" {
            put(path, random);
        }
    }
    put("inbox/one.txt", random);
    put("inbox/two.txt", random);
    let target = (*random.pick(&["a.txt", "sub/x.txt", "nowhere"])).to_owned();
    files.insert("src/link.txt".to_owned(), Source::Link { target });
    let count = 2 + random.below(4);
    let mut tasks = Vec::new();
    for number in 0..count {
        tasks.push(task(random, number));
    }
    if tasks.iter().any(|task: &Task| task.ops.iter().any(|op| matches!(op, Op::Compile { .. }))) {
        for path in COMPILED.into_iter().filter(|path| *path != "inc1/first.h") {
            files.insert(path.to_owned(), Source::File { text: c_text(path, 1), times: 1 });
        }
    }
    Project { files, tasks }
}

/// One of the compiler's files.
pub fn c_text(path: &str, value: usize) -> String {
    match path {
        "csrc/main.c" => {
            format!("#include \"first.h\"\nint util(void);\nint main(void) {{ return FIRST + util() + {value}; }}\n")
        }
        "csrc/util.c" => format!("#include \"second.h\"\nint util(void) {{ return SECOND * {value}; }}\n"),
        "inc2/second.h" => format!("#define SECOND {value}\n"),
        _ => format!("#define FIRST {value}\n"),
    }
}

/// A task with this number; its outputs bear it.
pub fn task(random: &mut Random, number: usize) -> Task {
    let class = [Class::Pure, Class::Carry, Class::Times][random.weighted(&[55, 30, 15])];
    variant(random, number, class, random_python(number))
}

/// Which language a task is in follows from its number: its command line stays when its script changes.
fn random_python(number: usize) -> bool {
    number % 3 == 2
}

/// Another task of the same number and class.
pub fn variant(random: &mut Random, number: usize, class: Class, python: bool) -> Task {
    let mut readable: Vec<String> = SOURCES.iter().map(|path| (*path).to_owned()).collect();
    let mut dirs: Vec<String> = DIRS.iter().map(|path| (*path).to_owned()).collect();
    for earlier in 0..number {
        readable.extend([0, 1].map(|file| format!("out{earlier}/f{file}")));
        readable.extend([
            format!("out{earlier}/deep/er/f2"),
            format!("t{earlier}.out"),
            format!("shared/t{earlier}-0"),
        ]);
        dirs.extend([format!("out{earlier}"), format!("out{earlier}/each")]);
    }
    let mut ops = Vec::new();
    if random.percent(25) {
        ops.push(Op::FailIf {
            path: random.pick(&readable).clone(),
            word: "fail".into(),
            code: 1 + random.below(9) as i32,
        });
    }
    let python = python && class != Class::Times;
    match class {
        Class::Times => ops.push(Op::Newer { dir: random.pick(&dirs).clone(), to: format!("out{number}") }),
        Class::Pure | Class::Carry => {
            if class == Class::Pure {
                ops.push(Op::Clean { paths: Task::names(number) });
            }
            for _ in 0..1 + random.below(5) {
                ingredient(random, number, class, python, &readable, &dirs, &mut ops);
            }
        }
    }
    let pause = random.below(ops.len() + 1);
    Task { number, python, strict: random.percent(30), class, ops, pause }
}

fn ingredient(
    random: &mut Random,
    number: usize,
    class: Class,
    python: bool,
    readable: &[String],
    dirs: &[String],
    ops: &mut Vec<Op>,
) {
    let to = match random.below(8) {
        0..=2 => format!("out{number}/f{}", random.below(2)),
        3 => format!("out{number}/deep/er/f2"),
        4 | 5 => format!("shared/t{number}-{}", random.below(2)),
        6 => format!("t{number}.out"),
        _ => format!("out{number}/f3"),
    };
    let path = random.pick(readable).clone();
    let dir = random.pick(dirs).clone();
    let how = *random.pick(&[How::Plain, How::Upper, How::Sort, How::Count]);
    let word = (*random.pick(&["extra", "alpha", "fail"])).to_owned();
    let made: Vec<String> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Cat { to, .. } | Op::Exists { to, .. } | Op::List { to, .. } => Some(to.clone()),
            _ => None,
        })
        .collect();
    let own = made.first().cloned();
    match (random.weighted(&[30, 12, 8, 6, 6, 8, 6, 4, 8, 4, 4, 10, 6, 5, 5, 3, 4, 10, 8, 5]), own) {
        (1, _) => ops.push(Op::Each { dir, to: format!("out{number}/each"), how }),
        (2, _) => ops.push(Op::Exists { path, to }),
        (3, _) => ops.push(Op::Executable { path, to }),
        (4, _) => ops.push(Op::ReadLink { path: "src/link.txt".into(), to }),
        (5, _) => ops.push(Op::List { dir, to }),
        (6, _) => {
            let target = (*random.pick(&["f0", "../src/a.txt", "../src", "missing"])).to_owned();
            ops.push(Op::SoftLink { target, to: format!("out{number}/soft") });
        }
        (7, Some(from)) => ops.push(Op::HardLink { from, to: format!("out{number}/hard") }),
        (8, Some(path)) => ops.push(Op::Mode { path, mode: *random.pick(&[0o755, 0o600, 0o444]) }),
        (9, _) => ops.push(Op::EmptyDir { path: format!("out{number}/empty/dir") }),
        (10, _) => ops.push(Op::EmptyFile { path: to }),
        (11, _) => ops.push(Op::Print { from: path }),
        (12, _) => ops.push(Op::FailIf { path, word: "fail".into(), code: 1 + random.below(9) as i32 }),
        (13, _) => ops.push(Op::Only { path, word, to: format!("out{number}/only") }),
        (14, Some(from)) => ops.push(Op::Rename { from, to: format!("out{number}/renamed") }),
        (15, _) => {
            let from = (*random.pick(&["inbox/one.txt", "inbox/two.txt"])).to_owned();
            ops.push(Op::Consume { from, to });
        }
        (16, _) => ops.push(Op::Format { path: (*random.pick(&["src/b.txt", "src/sub/y.txt", "conf.txt"])).into() }),
        (17, _) if class == Class::Carry => ops.push(Op::Append { from: path, to: format!("out{number}/log") }),
        (18, _) if class == Class::Carry && !python => {
            let state = format!("shared/t{number}-2");
            ops.push(Op::Incremental { dir, to: format!("out{number}/inc"), state });
        }
        (19, _) if !python => ops.push(Op::Compile { to: format!("out{number}/bin") }),
        _ => {
            let from = (0..1 + random.below(3)).map(|_| random.pick(readable).clone()).collect();
            ops.push(Op::Cat { from, to, how });
        }
    }
}

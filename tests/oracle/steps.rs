//! Histories: what people and tools do to a world, step by step. A step that has nothing to work on (an edit below a file) does nothing;
//! so any selection of a history's steps is a history, which is what makes shrinking simple.

use serde::{Deserialize, Serialize};

use super::project::{COMPILED, DIRS, Project, SOURCES, Task, c_text, project, text, variant};
use super::random::Random;

/// A world and what happens in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    pub seed: u64,
    pub mounted: bool,
    pub project: Project,
    pub steps: Vec<Step>,
}

/// How a file gets its new bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    InPlace,
    Replace,
    /// In place, and then it looks old.
    Old,
}

/// One thing that happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Step {
    Run { task: usize },
    Force { task: usize },
    Hide { task: usize },
    Together { tasks: Vec<usize> },
    Interrupt { task: usize, signal: String },
    Edit { path: String, text: String, times: usize, way: Way },
    Delete { path: String },
    Rename { from: String, to: String },
    Chmod { path: String, mode: u32 },
    Touch { path: String, old: bool },
    MakeDir { path: String },
    Link { path: String, target: String },
    Save,
    Checkout { saved: usize },
    Tool { task: Task },
    Remount { real: bool },
    Materialize { path: Option<String> },
    KillDaemon,
}

/// The case of a seed.
pub fn case(seed: u64, mounted: bool, count: usize) -> Case {
    let mut random = Random::new(seed);
    let project = project(&mut random);
    let mut steps = vec![Step::Save];
    // Most runs find something to restore only if there was a first one.
    steps.extend((0..project.tasks.len()).map(|task| Step::Run { task }));
    while steps.len() < count {
        let task = random.below(project.tasks.len());
        let next = step(&mut random, &project, task, mounted);
        // What happened to a task's files is seen when it runs.
        let then = !matches!(next, Step::Run { .. } | Step::Save) && random.percent(60);
        steps.push(next);
        if then {
            steps.push(Step::Run { task });
        }
    }
    Case { seed, mounted, project, steps }
}

fn step(random: &mut Random, project: &Project, task: usize, mounted: bool) -> Step {
    let source = || SOURCES.iter().chain(&["inbox/one.txt", "inbox/two.txt", "src/new0.txt", "src/sub/new1.txt"]);
    let sources: Vec<&str> = source().copied().collect();
    let path = (*random.pick(&sources)).to_owned();
    let output = output(random, task);
    let way = *random.pick(&[Way::InPlace, Way::InPlace, Way::Replace, Way::Old]);
    let weights = [16, 3, 3, 6, 4, 16, 4, 3, 2, 2, 1, 1, 3, 8, 14, 4, 3, 3, 3, if mounted { 6 } else { 0 }];
    match random.weighted(&weights) {
        0 => Step::Run { task },
        1 => Step::Force { task },
        2 => Step::Hide { task },
        3 => together(random, project),
        4 => {
            let signal = (*random.pick(&["KILL", "TERM", "KILL"])).to_owned();
            Step::Interrupt { task, signal }
        }
        5 => {
            let (text, times) = text(random);
            let read = project.tasks[task].reads();
            let path = match random.below(4) {
                0 | 1 if !read.is_empty() => {
                    let read = *random.pick(&read);
                    let is_dir = !read.contains('.') && !read.contains("/f") && !read.contains("shared");
                    if is_dir { format!("{read}/new{}.txt", random.below(3)) } else { read.to_owned() }
                }
                2 => format!("{}/new{}.txt", random.pick(&["src", "src/sub", "out0", "inbox"]), random.below(3)),
                _ => path,
            };
            Step::Edit { path, text, times, way }
        }
        6 => Step::Delete { path },
        7 => Step::Rename { from: path, to: (*random.pick(&sources)).to_owned() },
        8 => Step::Chmod { path, mode: *random.pick(&[0o644, 0o755, 0o600]) },
        9 => Step::Touch { path, old: random.percent(50) },
        10 => Step::MakeDir { path },
        11 => Step::Link { path, target: (*random.pick(&["a.txt", "sub/x.txt", "nowhere", "../conf.txt"])).to_owned() },
        12 => Step::Save,
        13 => Step::Checkout { saved: random.below(4) },
        14 => Step::Delete { path: output },
        15 => {
            let (text, times) = text(random);
            Step::Edit { path: output, text, times, way }
        }
        16 => Step::Chmod { path: output, mode: *random.pick(&[0o644, 0o755, 0o600]) },
        17 => {
            let old = &project.tasks[task];
            Step::Tool { task: variant(random, task, old.class, old.python) }
        }
        18 => {
            let path = *random.pick(&COMPILED);
            match random.percent(25) {
                true => Step::Rename { from: (*random.pick(&DIRS)).to_owned(), to: (*random.pick(&DIRS)).to_owned() },
                false => Step::Edit { path: path.to_owned(), text: c_text(path, 1 + random.below(3)), times: 1, way },
            }
        }
        _ => match random.below(5) {
            0 | 1 => Step::Remount { real: false },
            2 => Step::Remount { real: true },
            3 => Step::Materialize { path: random.percent(60).then_some(output) },
            _ => Step::KillDaemon,
        },
    }
}

fn output(random: &mut Random, task: usize) -> String {
    let names =
        ["", "/f0", "/f1", "/deep", "/deep/er/f2", "/each", "/each/a.txt.o", "/inc", "/a.txt.o", "/log", "/bin"];
    match random.below(10) {
        6..=9 => format!("out{task}"),
        0 => "shared".to_owned(),
        1 => format!("shared/t{task}-{}", random.below(3)),
        2 => format!("t{task}.out"),
        _ => format!("out{task}{}", random.pick(&names)),
    }
}

fn together(random: &mut Random, project: &Project) -> Step {
    let mut tasks: Vec<usize> = Vec::new();
    for _ in 0..project.tasks.len() {
        let task = random.below(project.tasks.len());
        if !tasks.contains(&task) {
            tasks.push(task);
        }
    }
    Step::Together { tasks }
}

//! Plays a history: every step is done to the world and to its twin, and after each the two must be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::edits;
use super::project::{Class, Source, Task};
use super::scripts::render;
use super::steps::{Case, Step};
use super::twin::{Candidate, Said, Twin};
use crate::common::tree::{Entry, Tree, differences};
use crate::common::{Call, Run, World};

/// Differences that are shown.
const SHOWN: usize = 8;

/// What happened, counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub steps: usize,
    pub runs: usize,
    pub hits: usize,
    pub misses: usize,
    pub uncached: BTreeMap<String, usize>,
    pub blobs: usize,
}

impl Counts {
    /// Both together.
    pub fn add(&mut self, other: &Counts) {
        self.steps += other.steps;
        self.runs += other.runs;
        self.hits += other.hits;
        self.misses += other.misses;
        self.blobs += other.blobs;
        for (reason, count) in &other.uncached {
            *self.uncached.entry(reason.clone()).or_default() += count;
        }
    }
}

/// Where and how the world and its twin differ.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The step's index, and what it was.
    pub step: usize,
    pub what: String,
}

/// Plays a case to its end or to the first disagreement.
pub fn play(case: &Case) -> Result<Counts, Disagreement> {
    let mut at = 0;
    // What cannot be examined any more (a dead mount) is a disagreement like any other.
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut player = Player::new(case);
        for (number, step) in case.steps.iter().enumerate() {
            at = number;
            player.counts.steps += 1;
            player.step(step).map_err(|what| format!("{step:?}\n{what}"))?;
        }
        player.check_blobs()?;
        Ok(player.counts.clone())
    }));
    let failed = |what: String| Disagreement { step: at, what };
    match played {
        Ok(result) => result.map_err(failed),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(failed(format!("{:?}\npanicked: {}", case.steps[at], text.unwrap_or_default())))
        }
    }
}

struct Player {
    world: World,
    twin: Twin,
    tasks: Vec<Task>,
    counts: Counts,
    /// Every path that ever was.
    ever: BTreeSet<PathBuf>,
}

/// One finished run of a task, and what the twin says to it.
struct Ran {
    task: Task,
    run: Run,
    candidates: Vec<Candidate>,
    times: usize,
}

impl Player {
    fn new(case: &Case) -> Player {
        // Not below /tmp: its mounts are handed on to every view, and cannot go while one of them is there.
        let world = World::tracked("oracle");
        let player = Player {
            world,
            twin: Twin::default(),
            tasks: case.project.tasks.clone(),
            counts: Counts::default(),
            ever: BTreeSet::new(),
        };
        let mut player = player;
        for (path, source) in &case.project.files {
            match source {
                Source::File { text, times } => drop(player.world.write(path, text.repeat(*times))),
                Source::Link { target } => {
                    let path = player.world.ws.join(path);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::os::unix::fs::symlink(target, path).unwrap();
                }
            }
        }
        for task in player.tasks.clone() {
            player.world.write(task.script(), player.script(&task));
        }
        player.twin.tree = player.world.tree();
        if case.mounted {
            player.wink(&["mount"]).unwrap();
        }
        player
    }

    fn hold(&self) -> PathBuf {
        self.world.untracked.join("hold")
    }

    fn script(&self, task: &Task) -> String {
        render(task, self.hold().to_str().unwrap())
    }

    fn counter(&self, task: usize) -> PathBuf {
        self.world.untracked.join(format!("ran{task}"))
    }

    fn times(&self, task: usize) -> usize {
        fs::read(self.counter(task)).map_or(0, |bytes| bytes.len())
    }

    fn command(&self, task: &Task) -> [String; 3] {
        // One byte for each time that it runs.
        let line = format!("printf x >> {}; {}", self.counter(task.number).display(), task.line());
        ["/bin/sh".into(), "-c".into(), line]
    }

    /// `wink` about the workspace, from outside of it.
    fn wink(&self, args: &[&str]) -> Result<String, String> {
        let args = [args, &[self.world.ws.to_str().unwrap()]].concat();
        let run = self.world.call().dir("/").wink(&args);
        if run.code == 0 { Ok(run.out()) } else { Err(format!("{run:?}")) }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Run { task } => self.run(&[*task], &[]),
            Step::Force { task } => self.run(&[*task], &["--force"]),
            Step::Hide { task } => self.run(&[*task], &["--own", "hide"]),
            Step::Together { tasks } => {
                let mut apart: Vec<usize> = Vec::new();
                for task in tasks {
                    if apart.iter().all(|other| self.tasks[*other].is_apart_from(&self.tasks[*task])) {
                        apart.push(*task);
                    }
                }
                self.run(&apart, &[])
            }
            Step::Interrupt { task, signal } => self.interrupt(*task, signal),
            Step::Save => {
                let mut tree = self.twin.tree.clone();
                tree.retain(|path, _| is_source(path));
                self.twin.saved.push((tree, self.tasks.clone()));
                Ok(())
            }
            Step::Checkout { saved } => {
                if let Some((tree, tasks)) = self.twin.saved.get(*saved).cloned() {
                    edits::become_tree(&mut self.twin.tree, &self.world.ws, &tree, is_source);
                    self.tasks = tasks;
                }
                self.same()
            }
            Step::Tool { task } => {
                let path = task.script();
                let text = self.script(task);
                let edit = Step::Edit { path, text, times: 1, way: super::steps::Way::Replace };
                edits::edit(&mut self.twin.tree, &self.world.ws, &edit);
                self.tasks[task.number] = task.clone();
                self.same()
            }
            Step::Remount { real } => {
                let flags: &[&str] = if *real { &["unmount", "--materialize"] } else { &["unmount"] };
                self.wink(flags)?;
                self.wink(&["mount"])?;
                self.same()
            }
            Step::Materialize { path } => {
                let path = path.iter().filter(|path| self.twin.tree.contains_key(Path::new(path)));
                let args: Vec<&str> = ["materialize"].into_iter().chain(path.map(String::as_str)).collect();
                let run = self.world.call().wink(&args);
                if run.code != 0 {
                    return Err(format!("{run:?}"));
                }
                self.same()
            }
            Step::KillDaemon => {
                let run = self.world.call().wink(&["daemon", "status", "--json"]);
                let status: serde_json::Value =
                    serde_json::from_slice(&run.stdout).map_err(|e| format!("{e}: {run:?}"))?;
                let pid = status["pid"].as_u64().ok_or("no daemon")?.to_string();
                let killed = std::process::Command::new("/bin/kill").args(["-KILL", &pid]).status();
                assert!(killed.is_ok_and(|status| status.success()));
                let run = self.world.call().wink(&["status"]);
                if run.code != 0 {
                    return Err(format!("{run:?}"));
                }
                self.same()
            }
            other => {
                edits::edit(&mut self.twin.tree, &self.world.ws, other);
                self.same()
            }
        }
    }

    fn same(&mut self) -> Result<(), String> {
        compare(&self.twin.tree, &self.world.tree())?;
        self.ask_by_name()
    }

    /// Asks for every path that there ever was: what the kernel keeps of answers, also of "there is nothing", must be true.
    fn ask_by_name(&mut self) -> Result<(), String> {
        self.ever.extend(self.twin.tree.keys().cloned());
        for path in &self.ever {
            let size = |entry: &Entry| if entry.kind == "file" { Some(entry.bytes.len() as u64) } else { None };
            let wanted = self.twin.tree.get(path).map(size);
            let found = fs::symlink_metadata(self.world.ws.join(path)).ok();
            let found = found.map(|data| data.is_file().then_some(data.len()));
            if wanted != found {
                return Err(format!("{}, asked for by name: {found:?}, not {wanted:?}", path.display()));
            }
        }
        Ok(())
    }

    fn call(&self, flags: &[&str]) -> Call<'_> {
        self.world.call().flags(flags)
    }

    fn run(&mut self, tasks: &[usize], flags: &[&str]) -> Result<(), String> {
        let hide = flags.contains(&"hide");
        let mut ran = Vec::new();
        let tasks: Vec<Task> = tasks.iter().map(|task| self.tasks[*task].clone()).collect();
        for task in &tasks {
            let candidates = self.twin.candidates(&self.world, task, hide, false);
            ran.push((task.clone(), candidates, self.times(task.number)));
        }
        let started: Vec<_> = ran
            .into_iter()
            .map(|(task, candidates, times)| {
                let command = self.command(&task);
                let running = self.call(flags).start(&command.each_ref().map(String::as_str));
                (task, candidates, times, running)
            })
            .collect();
        let ran = started
            .into_iter()
            .map(|(task, candidates, times, running)| Ran { task, run: running.finish(), candidates, times })
            .collect();
        self.judge(ran)
    }

    /// Judges runs that have ended.
    fn judge(&mut self, ran: Vec<Ran>) -> Result<(), String> {
        let before = self.twin.tree.clone();
        let now = self.world.tree();
        let mut expected = before.clone();
        let mut chosen = Vec::new();
        for Ran { task, run, mut candidates, times } in ran {
            self.counts.runs += 1;
            let again = self.times(task.number) - times;
            let good = match run.status() {
                "hit" => {
                    self.counts.hits += 1;
                    if again != 0 {
                        return Err(format!("a hit, and the command ran: {run:?}"));
                    }
                    candidates.truncate(1);
                    if task.class != Class::Pure {
                        candidates.extend(self.twin.recorded(&task));
                    }
                    true
                }
                status @ ("miss" | "uncached") => {
                    if status == "miss" {
                        self.counts.misses += 1;
                    } else {
                        *self.counts.uncached.entry(kind_of_reason(&run.reason())).or_default() += 1;
                    }
                    if again != 1 {
                        return Err(format!("the command ran {again} times: {run:?}"));
                    }
                    status == "miss"
                }
                _ => return Err(format!("no status: {run:?}")),
            };
            let unknown = task.class == Class::Times && self.is_foreign_in(&task, &candidates[0].base);
            if unknown {
                let own = |path: &Path| path.starts_with(format!("out{}", task.number));
                expected.retain(|path, _| !own(path));
                expected.extend(
                    now.iter().filter(|(path, _)| own(path)).map(|(path, entry)| (path.clone(), entry.clone())),
                );
                chosen.push((task, None, good));
                continue;
            }
            let mut why = String::new();
            let fits = candidates.into_iter().find(|candidate| match fits(&task, &run, candidate, &before, &now) {
                Ok(()) => true,
                Err(what) => {
                    why.push_str(&format!("not {}: {what}\n", candidate.name));
                    false
                }
            });
            let Some(candidate) = fits else {
                let script = self.script(&task);
                return Err(format!("{why}{run:?}\n--- {}\n{script}", task.script()));
            };
            for (path, entry) in &candidate.tree {
                if before.get(path) != Some(entry) {
                    expected.insert(path.clone(), entry.clone());
                }
            }
            expected.retain(|path, _| candidate.tree.contains_key(path) || !before.contains_key(path));
            chosen.push((task, Some(candidate), good));
        }
        compare(&expected, &now)?;
        for (task, candidate, good) in chosen {
            match candidate {
                Some(candidate) => self.twin.ran(&task, &candidate, good),
                None => self.twin.adopt(&task, &now),
            }
        }
        self.twin.tree = now;
        self.ask_by_name()
    }

    /// Whether the output directory of a task that decides by times holds somebody else's files: their times count, and the twin has
    /// none.
    fn is_foreign_in(&self, task: &Task, base: &Tree) -> bool {
        let out = PathBuf::from(format!("out{}", task.number));
        base.iter().any(|(path, entry)| path.starts_with(&out) && (*path != out || entry.kind != "dir"))
    }

    fn interrupt(&mut self, number: usize, signal: &str) -> Result<(), String> {
        let task = self.tasks[number].clone();
        let (hold, held) = (self.hold(), self.world.untracked.join("held"));
        fs::write(&hold, "exit 143\n").unwrap();
        let stopped = self.twin.candidates(&self.world, &task, false, true);
        fs::remove_file(&hold).unwrap();
        let whole = self.twin.candidates(&self.world, &task, false, false);
        fs::write(&hold, format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 60\n", held.display())).unwrap();
        let times = self.times(number);
        let command = self.command(&task);
        let mut running = self.call(&[]).start(&command.each_ref().map(String::as_str));
        while !held.exists() && !running.has_ended() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let was_held = held.exists();
        if was_held {
            running.signal_group(signal);
        }
        let run = running.finish();
        fs::remove_file(&hold).unwrap();
        if !was_held {
            return self.judge(vec![Ran { task, run, candidates: whole, times }]);
        }
        self.counts.runs += 1;
        let pid = fs::read_to_string(&held).unwrap();
        fs::remove_file(&held).unwrap();
        for turn in 0.. {
            if !Path::new("/proc").join(pid.trim()).exists() {
                break;
            }
            if turn > 1000 {
                return Err(format!("the command ({}) outlived the signal: {run:?}", pid.trim()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        *self.counts.uncached.entry(format!("killed by {signal}")).or_default() += 1;
        if signal == "KILL" {
            return self.same().map_err(|what| format!("something was published\n{what}"));
        }
        if run.code != 143 {
            return Err(format!("ended otherwise: {run:?}"));
        }
        let now = self.world.tree();
        let mut why = String::new();
        for candidate in stopped {
            match compare(&candidate.tree, &now) {
                Ok(()) => {
                    self.twin.ran(&task, &candidate, false);
                    self.twin.tree = now;
                    return self.ask_by_name();
                }
                Err(what) => why.push_str(&format!("not {}: {what}\n", candidate.name)),
            }
        }
        Err(format!("{why}{run:?}\n--- {}\n{}", task.script(), self.script(&task)))
    }

    /// Every blob of the store still holds what its name says.
    fn check_blobs(&mut self) -> Result<(), String> {
        if self.world.store.join("blobs").exists() {
            self.counts.blobs += self.world.check_blobs()?;
        }
        Ok(())
    }
}

/// Whether the run may have had this result; `before` and `now` are the whole world.
fn fits(task: &Task, run: &Run, candidate: &Candidate, before: &Tree, now: &Tree) -> Result<(), String> {
    let normal = |text: &str| text.lines().map(|line| format!("{line}\n")).collect::<String>();
    let said = Said { code: run.code, stdout: run.out(), stderr: run.command_err() };
    let wanted = Said { stderr: normal(&candidate.said.stderr), ..candidate.said.clone() };
    let quieter = Said { stdout: wanted.stdout.clone(), ..said.clone() };
    let by_times =
        task.class == Class::Times && said.stdout.lines().all(|line| wanted.stdout.lines().any(|l| l == line));
    if said != wanted && !(by_times && quieter == wanted) {
        return Err(format!("it said {said:?}, not {wanted:?}"));
    }
    // Only what this result changes is looked at: others may have run at the same time.
    let touched = |tree: &Tree| -> Tree {
        let changed = |path: &PathBuf| before.get(path) != candidate.tree.get(path) || belongs(task, path);
        tree.iter().filter(|(path, _)| changed(path)).map(|(path, entry)| (path.clone(), entry.clone())).collect()
    };
    compare(&touched(&candidate.tree), &touched(now))
}

fn belongs(task: &Task, path: &Path) -> bool {
    Task::names(task.number).iter().any(|name| path.starts_with(name))
}

fn compare(expected: &Tree, now: &Tree) -> Result<(), String> {
    let lines = differences(expected, now);
    match lines.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{} paths differ (-: missing, +: too much)\n{}",
            lines.len(),
            lines[..lines.len().min(SHOWN)].join("\n")
        )),
    }
}

fn is_source(path: &Path) -> bool {
    let top = path.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
    ["src", "opt", "inbox", "conf.txt", "csrc", "inc1", "inc2", "tools"].contains(&top)
}

/// A reason without the paths that it names.
fn kind_of_reason(reason: &str) -> String {
    let plain = |word: &&str| !word.contains('/') && !word.contains('.');
    reason.split(' ').filter(plain).take(7).collect::<Vec<_>>().join(" ")
}

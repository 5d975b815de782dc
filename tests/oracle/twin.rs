//! The twin: what the world must be, in memory. A run of a task in it is a native run in a fresh directory with the twin's files, from
//! which the task's own outputs have been taken away (`docs/SEMANTICS.md`, "Own outputs"); for tools that may see them, also one
//! beside what the last run left, under the conditions that SEMANTICS gives.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::project::{Class, Depth, Task};
use crate::common::World;
use crate::common::tree::{Entry, Tree, lay_out, snapshot};

/// How many possibilities are followed.
const POSSIBILITIES: usize = 4;

/// What a command said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A result that a run may have.
#[derive(Clone)]
pub struct Candidate {
    pub name: &'static str,
    /// The whole world afterwards.
    pub tree: Tree,
    pub said: Said,
    /// What the run itself made where nothing was.
    pub made: BTreeMap<PathBuf, Entry>,
    /// What was there, its own, and shown to it.
    pub shown: BTreeSet<PathBuf>,
    /// Without the task's own outputs: the world that it ran in.
    pub base: Tree,
}

/// What a run did to the world around it: what was there, and what it left.
type Change = BTreeMap<PathBuf, (Option<Entry>, Option<Entry>)>;

/// What is known about one task.
#[derive(Default)]
struct Known {
    /// Each state that some run left, path by path.
    left: BTreeMap<PathBuf, Vec<Entry>>,
    /// What the last run here left. Of a run that failed nobody can tell whether it was shown what earlier ones left: then there are
    /// several possibilities.
    last: Vec<BTreeMap<PathBuf, Entry>>,
    /// What it read then, if it succeeded.
    seen: BTreeSet<PathBuf>,
    /// Earlier results, by what the task could see.
    results: HashMap<Vec<u8>, Vec<(Change, Said)>>,
}

/// See the module.
#[derive(Default)]
pub struct Twin {
    pub tree: Tree,
    pub saved: Vec<(Tree, Vec<Task>)>,
    known: BTreeMap<usize, Known>,
    /// Bytes that some run has left: who finds them in place of its own output takes them for another task's.
    stored: HashSet<Vec<u8>>,
}

impl Twin {
    /// What the task may leave and say now. The first is the clean run.
    pub fn candidates(&mut self, world: &World, task: &Task, hide: bool, held: bool) -> Vec<Candidate> {
        let own = self.standing(task.number);
        let base = without(&self.tree, &own);
        let mut candidates =
            vec![native(world, "clean", task, base.clone(), base.clone(), &self.only(&own), BTreeSet::new())];
        let failed = candidates[0].said.code != 0 || held;
        // A run that failed half-way may have cleared away what it was shown, or not have come so far.
        if hide || (task.class == Class::Pure && !failed) {
            return candidates;
        }
        for last in self.carried(task, &own) {
            let shown: BTreeSet<PathBuf> = own.iter().filter(|path| last.contains_key(*path)).cloned().collect();
            // A directory in which something is shown is there.
            let is_way = |path: &PathBuf| shown.iter().any(|shown| shown.starts_with(path));
            let hidden: BTreeSet<PathBuf> = own.iter().filter(|path| !is_way(path)).cloned().collect();
            let tree = without(&self.tree, &hidden);
            candidates.push(native(world, "carried", task, tree, base.clone(), &self.only(&hidden), shown));
        }
        candidates
    }

    /// Results that a record of an earlier run may give: for those that equal no clean run.
    pub fn recorded(&mut self, task: &Task) -> Vec<Candidate> {
        let own = self.standing(task.number);
        let base = without(&self.tree, &own);
        let key = self.key(task, &base);
        let known = self.known.entry(task.number).or_default();
        let results = known.results.get(&key).cloned().unwrap_or_default();
        let candidate = |(change, said): (Change, Said)| {
            let mut tree = base.clone();
            let mut made = BTreeMap::new();
            for (path, (_, entry)) in change {
                match entry {
                    Some(entry) => {
                        if !base.contains_key(&path) {
                            made.insert(path.clone(), entry.clone());
                        }
                        for part in path.ancestors().skip(1).filter(|part| !part.as_os_str().is_empty()) {
                            // There from elsewhere at that time, made by the run if not.
                            if !tree.contains_key(part) {
                                let dir = Entry { kind: "dir", mode: 0o755, bytes: Vec::new() };
                                made.insert(part.to_path_buf(), dir.clone());
                                tree.insert(part.to_path_buf(), dir);
                            }
                        }
                        tree.insert(path, entry);
                    }
                    None => drop(tree.remove(&path)),
                }
            }
            let base = base.clone();
            Candidate { name: "recorded", tree, said, made, shown: BTreeSet::new(), base }
        };
        // It replaces or removes nothing but what it did then.
        let same = |(path, (before, _)): (&PathBuf, &(Option<Entry>, Option<Entry>))| base.get(path) == before.as_ref();
        results.into_iter().filter(|(change, _)| change.iter().all(same)).map(candidate).collect()
    }

    /// The task has run, with this result.
    pub fn ran(&mut self, task: &Task, candidate: &Candidate, good: bool) {
        let key = self.key(task, &candidate.base);
        // What it removed itself is not missed later.
        let mut seen = self.seen(task, &candidate.base);
        // A run that failed may not have come so far as to read it.
        seen.retain(|path| good && candidate.tree.contains_key(path));
        let change = difference(&candidate.base, &candidate.tree);
        self.stored.extend(
            change
                .values()
                .filter_map(|(_, left)| left.as_ref())
                .filter(|entry| entry.kind == "file")
                .map(|entry| entry.bytes.clone()),
        );
        let known = self.known.entry(task.number).or_default();
        let mut last = candidate.made.clone();
        for path in &candidate.shown {
            if let Some(entry) = candidate.tree.get(path) {
                last.insert(path.clone(), entry.clone());
            }
        }
        for (path, entry) in &last {
            let states = known.left.entry(path.clone()).or_default();
            if !states.contains(entry) {
                states.push(entry.clone());
            }
        }
        let earlier = std::mem::replace(&mut known.last, vec![last.clone()]);
        for mut with in earlier.into_iter().filter(|_| !good) {
            with.retain(|path, entry| candidate.tree.get(path) == Some(entry));
            with.extend(last.clone());
            if !known.last.contains(&with) && known.last.len() < POSSIBILITIES {
                known.last.push(with);
            }
        }
        match candidate.shown.is_empty() {
            true => known.seen = seen,
            false => known.seen.extend(seen),
        }
        if good {
            let results = known.results.entry(key).or_default();
            results.push((change, candidate.said.clone()));
        }
    }

    /// The task was interrupted, or nobody can tell what it does: what stands now is taken as it is.
    pub fn adopt(&mut self, task: &Task, tree: &Tree) {
        let base = without(&self.tree, &self.standing(task.number));
        let mut made = BTreeMap::new();
        for (path, entry) in tree {
            // What else is new was made by another task beside it.
            let is_its =
                Task::names(task.number).iter().any(|name| path.starts_with(name) || Path::new(name).starts_with(path));
            if is_its && !base.contains_key(path) {
                made.insert(path.clone(), entry.clone());
            }
        }
        let said = Said { code: 1, stdout: String::new(), stderr: String::new() };
        let candidate = Candidate { name: "adopted", tree: tree.clone(), said, made, shown: BTreeSet::new(), base };
        self.ran(task, &candidate, false);
    }

    /// Own outputs that stand as some run left them.
    pub fn standing(&self, task: usize) -> BTreeSet<PathBuf> {
        let mut standing = BTreeSet::new();
        let Some(known) = self.known.get(&task) else { return standing };
        for (path, states) in known.left.iter().rev() {
            let Some(there) = self.tree.get(path) else { continue };
            let own = match there.kind {
                "dir" => {
                    let inside =
                        || self.tree.range(path.clone()..).skip(1).take_while(|(below, _)| below.starts_with(path));
                    states.iter().any(|state| state.kind == "dir")
                        && inside().all(|(below, _)| standing.contains(below))
                }
                _ => states.contains(there),
            };
            if own {
                standing.insert(path.clone());
            }
        }
        standing
    }

    fn only(&self, paths: &BTreeSet<PathBuf>) -> Tree {
        paths.iter().filter_map(|path| Some((path.clone(), self.tree.get(path)?.clone()))).collect()
    }

    /// What the last run left, if the task may be shown it: all of it stands, or another task has rewritten it; and nothing that the
    /// last run read is gone.
    fn carried(&self, task: &Task, own: &BTreeSet<PathBuf>) -> Vec<BTreeMap<PathBuf, Entry>> {
        let Some(known) = self.known.get(&task.number) else { return Vec::new() };
        let untouched = |(path, left): (&PathBuf, &Entry)| match self.tree.get(path) {
            Some(there) if there.kind == "dir" => left.kind == "dir",
            Some(there) => {
                (own.contains(path) && there == left) || (there.kind == "file" && self.stored.contains(&there.bytes))
            }
            None => false,
        };
        if known.seen.iter().any(|path| !self.tree.contains_key(path)) {
            return Vec::new();
        }
        known.last.iter().filter(|last| !last.is_empty() && last.iter().all(untouched)).cloned().collect()
    }

    /// Everything that the task can see of others, as bytes.
    fn key(&self, task: &Task, base: &Tree) -> Vec<u8> {
        let mut key = format!("{:?}", task.ops).into_bytes();
        for path in self.seen(task, base) {
            let entry = &base[&path];
            key.extend(format!("\0{}\0{}\0{:o}\0", path.display(), entry.kind, entry.mode).bytes());
            key.extend(&entry.bytes);
        }
        for dir in task.reads().into_iter().filter(|read| task.depth(read) == Depth::Names) {
            for path in children(base, Path::new(dir)) {
                key.extend(format!("\0{}\0{}", path.display(), base[path].kind).bytes());
            }
        }
        blake3::hash(&key).as_bytes().to_vec()
    }

    /// What it reads.
    fn seen(&self, task: &Task, base: &Tree) -> BTreeSet<PathBuf> {
        let mut places: Vec<PathBuf> = Vec::new();
        let mut seen = BTreeSet::new();
        for read in task.reads() {
            match task.depth(read) {
                Depth::Link => drop(base.contains_key(Path::new(read)) && seen.insert(PathBuf::from(read))),
                depth => {
                    places.push(PathBuf::from(read));
                    if depth == Depth::Files {
                        let looked = children(base, Path::new(read)).filter(|path| task.looks_into(read, path));
                        places.extend(looked.cloned());
                    }
                }
            }
        }
        while let Some(place) = places.pop() {
            if let Some(entry) = base.get(&place)
                && seen.insert(place.clone())
                && entry.kind == "link"
            {
                let target = String::from_utf8_lossy(&entry.bytes).into_owned();
                places.push(plain(&place.parent().unwrap().join(target)));
            }
        }
        seen
    }
}

fn children<'t>(tree: &'t Tree, dir: &'t Path) -> impl Iterator<Item = &'t PathBuf> {
    let below = tree.range(dir.to_path_buf()..).map(|(path, _)| path).take_while(move |path| path.starts_with(dir));
    below.filter(move |path| path.parent() == Some(dir))
}

fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// A tree without these.
pub fn without(tree: &Tree, paths: &BTreeSet<PathBuf>) -> Tree {
    tree.iter().filter(|(path, _)| !paths.contains(*path)).map(|(path, entry)| (path.clone(), entry.clone())).collect()
}

fn difference(before: &Tree, after: &Tree) -> Change {
    let paths = before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path));
    paths.map(|path| (path.clone(), (before.get(path).cloned(), after.get(path).cloned()))).collect()
}

/// Runs the task's command in a directory that holds `tree`. `hidden` comes back if it fails, as far as nothing has taken its place.
fn native(
    world: &World,
    name: &'static str,
    task: &Task,
    tree: Tree,
    base: Tree,
    hidden: &Tree,
    shown: BTreeSet<PathBuf>,
) -> Candidate {
    let dir = world.root.join("twin");
    let _ = fs::remove_dir_all(&dir);
    lay_out(&dir, &tree);
    let run = world.call().dir(&dir).native(&["/bin/sh", "-c", &task.line()]);
    let mut after = snapshot(&dir);
    let made: BTreeMap<PathBuf, Entry> = after
        .iter()
        .filter(|(path, _)| !tree.contains_key(*path))
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect();
    let said = Said { code: run.code, stdout: run.out(), stderr: run.err() };
    if said.code != 0 {
        for (path, entry) in hidden {
            // A directory that the command removed stays if something that it was not shown is in it.
            let above = |path: &Path| -> Vec<PathBuf> {
                path.ancestors().skip(1).filter(|part| !part.as_os_str().is_empty()).map(Path::to_path_buf).collect()
            };
            let has_place = above(path).iter().all(|part| after.get(part).is_none_or(|entry| entry.kind == "dir"));
            if has_place && !after.contains_key(path) {
                for part in above(path) {
                    if let Some(dir) = tree.get(&part).or(hidden.get(&part)).filter(|_| !after.contains_key(&part)) {
                        after.insert(part, dir.clone());
                    }
                }
                after.insert(path.clone(), entry.clone());
            }
        }
    }
    Candidate { name, tree: after, said, made, shown, base }
}

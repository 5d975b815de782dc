//! Whether a record's observations all hold now: the quick way.
//!
//! Each observation is told by the stamp that its file had when the record last held in this workspace, and names that were absent or
//! listed by the stamp of their directory: a name comes, goes or means something else only with a new time of its directory (on file
//! systems of which that is known, see `wink_platform::unix::glance`). What no stamp tells is examined as ever, through [`Tree`].
//!
//! Invariants: it says yes only where [`Engine::present`] would give every recorded fact; what it cannot tell, or finds changed, is left
//! to the careful way, which also says what it is. Stamps are kept only of what had been at rest for [`REST`] before anything was
//! examined, and of a directory only if none of its names was hidden: what is hidden today may not be tomorrow.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use wink_fs::attr::{Kind, Time};
use wink_platform::unix::glance::{Glance, Look, PathList, look_at_all, stamps_its_names};
use wink_store::{DecodeError, Digest, FileStamp, Observation, RecordHead, Root, Walk};

use super::Engine;
use super::own::Standing;
use super::tree::{REST, Tree, VIRTUAL, stamp};
use crate::outer;

/// New stamps are written once they spare this many examinations, or this share of all.
const WORTH_WRITING: usize = 64;

/// How many files are hashed at once before the first of them is compared: one that differs ends it all.
const HASHED_AHEAD: usize = 256;

/// What is asked about one path.
enum Question {
    Absent { dir: usize },
    File { digest: Digest, mode: u32, stamp: usize },
    Link { target: Vec<u8>, stamp: usize },
    Dir { dir: usize, mode: u32 },
    Listing { dir: usize, digest: Digest, mode: u32 },
    Other { fact: Observation },
}

/// Everything a trace asks, in its order.
#[derive(Default)]
struct Plan {
    /// One path per question.
    paths: PathList,
    questions: Vec<Question>,
    dirs: Dirs,
    /// How many files and links there are, asked for or not.
    files: usize,
    observations: u64,
}

/// Directories that were looked at, or in which names were absent, each once.
#[derive(Default)]
struct Dirs {
    paths: PathList,
    numbers: HashMap<Box<[u8]>, usize>,
    latest: usize,
    facts: Vec<DirFacts>,
}

#[derive(Clone, Copy, Default)]
struct DirFacts {
    /// How many examinations its stamp spares.
    worth: usize,
    /// A name in it is hidden: its stamp vouches for nothing.
    hides: bool,
}

impl Dirs {
    fn number(&mut self, path: &[u8], skip: usize) -> Option<usize> {
        // Neighbours in a trace lie in one directory as a rule.
        if self.latest < self.paths.len() && self.paths.get(self.latest) == path {
            return Some(self.latest);
        }
        self.latest = match self.numbers.get(path) {
            Some(number) => *number,
            None => {
                let number = self.paths.push(path, skip.min(path.len()))?;
                self.numbers.insert(path.into(), number);
                self.facts.push(DirFacts::default());
                number
            }
        };
        Some(self.latest)
    }
}

/// What was found so far.
struct Findings {
    /// For files and links, then for directories.
    stamps: Vec<FileStamp>,
    /// How many examinations the new ones among them spare.
    worth: usize,
    /// Questions that no stamp answers.
    open: Vec<usize>,
    /// Directories whose stamps would vouch for more than was recorded.
    mute: HashSet<usize>,
}

impl Engine<'_> {
    /// How many observations an encoded trace has, if all hold. `None`: one does not, or that cannot be told here.
    pub fn holds(
        &self,
        head: &RecordHead,
        trace: &[u8],
        tree: &mut Tree<'_>,
        standing: &Standing,
    ) -> Result<Option<u64>, DecodeError> {
        if outer::of_run(&self.task.workspace).is_some() {
            // A view shows files as it first saw them, under a device number that is given out again: its stamps vouch for nothing.
            return Ok(None);
        }
        let began = Time::now();
        let Some(plan) = self.plan(trace, standing)? else { return Ok(None) };
        let key = self.stamps_key(head);
        let count = plan.files + plan.dirs.paths.len();
        let kept = self.store.stamps(&key).filter(|stamps| stamps.len() == count);
        let stamps = kept.unwrap_or_else(|| vec![FileStamp::UNKNOWN; count]);
        let mut findings = Findings { stamps, worth: 0, open: Vec::new(), mute: HashSet::new() };
        let looks = look_at_all(self.lower(), &plan.dirs.paths, &Vec::from_iter(0..plan.dirs.paths.len()));
        let holds = self.by_stamps(&plan, &looks, &mut findings, tree, standing).is_some()
            && self.examined(&plan, &mut findings, began, tree, standing).is_some();
        if !holds {
            return Ok(None);
        }
        note_dirs(&plan, &looks, &mut findings, began);
        let worth_writing = findings.worth >= WORTH_WRITING || findings.worth * WORTH_WRITING > count;
        if worth_writing && !self.task.only_asked {
            // Only a hint: without it the next lookup takes longer.
            let _ = self.store.keep_stamps(&key, &findings.stamps);
        }
        Ok(Some(plan.observations))
    }

    /// What decides what stamps vouch for: the facts, where they were asked for, and what was left out.
    fn stamps_key(&self, head: &RecordHead) -> Digest {
        let mut bytes = [head.task_key.0.0, head.fingerprint.0].concat();
        for place in [self.task.roots.place(Root::Workspace), self.task.roots.place(Root::Home)] {
            bytes.extend_from_slice(&(place.len() as u64).to_le_bytes());
            bytes.extend_from_slice(place);
        }
        Digest::of(&bytes)
    }

    /// The real directory beneath the mount that the workspace lies in.
    fn lower(&self) -> Option<BorrowedFd<'_>> {
        self.task.mount.as_ref().map(|mount| mount.lower.as_fd())
    }

    /// How many bytes of a path lead to the mount: what follows is asked beneath it.
    fn skipped(&self, path: &[u8]) -> usize {
        let relative = self.task.mount.as_ref().and_then(|mount| mount.relative(path));
        relative.map_or(0, |relative| path.len() - relative.len())
    }

    fn plan(&self, trace: &[u8], standing: &Standing) -> Result<Option<Plan>, DecodeError> {
        let mut plan = Plan::default();
        let mut walk = Walk::new(trace)?;
        let (mut path, mut gone): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        while let Some((root, relative, seen)) = walk.next()? {
            plan.observations += 1;
            path.clear();
            path.extend_from_slice(self.task.roots.place(root));
            if !relative.is_empty() || path.is_empty() {
                path.push(b'/');
                path.extend_from_slice(relative);
            }
            let is_absent = seen.fact == Observation::Absent;
            // Below what is not there, nothing is: hidden directories hold nothing but what is hidden.
            if !gone.is_empty() && path.strip_prefix(&gone[..]).is_some_and(|rest| rest.first() == Some(&b'/')) {
                if !is_absent {
                    return Ok(None);
                }
                continue;
            }
            let skip = self.skipped(&path);
            let question = match seen.fact {
                Observation::Absent => {
                    gone.clone_from(&path);
                    let Some(dir) = plan.dirs.number(above(&path), skip) else { return Ok(None) };
                    plan.dirs.facts[dir].worth += 1;
                    Question::Absent { dir }
                }
                Observation::File { digest, mode } => Question::File { digest, mode, stamp: plan.files },
                Observation::Link { target } => Question::Link { target, stamp: plan.files },
                Observation::Dir { mode } => match plan.dirs.number(&path, skip) {
                    Some(dir) => Question::Dir { dir, mode },
                    None => return Ok(None),
                },
                Observation::Listing { digest, mode } => match plan.dirs.number(&path, skip) {
                    Some(dir) => {
                        plan.dirs.facts[dir].worth += 1;
                        Question::Listing { dir, digest, mode }
                    }
                    None => return Ok(None),
                },
                fact @ Observation::Opaque { .. } => Question::Other { fact },
            };
            plan.files += usize::from(matches!(question, Question::File { .. } | Question::Link { .. }));
            if root == Root::Workspace && self.is_hidden(&path, standing) {
                // What is ignored is not recorded; a record from before that was said is for the careful way.
                let Question::Absent { dir } = question else { return Ok(None) };
                if self.is_ignored(&path) {
                    return Ok(None);
                }
                plan.dirs.facts[dir].hides = true;
                continue;
            }
            if plan.paths.push(&path, skip).is_none() {
                return Ok(None);
            }
            plan.questions.push(question);
        }
        Ok(Some(plan))
    }

    /// Answers by stamps what they answer; `None` if something has certainly changed.
    fn by_stamps(
        &self,
        plan: &Plan,
        dirs: &[Look],
        findings: &mut Findings,
        tree: &mut Tree<'_>,
        standing: &Standing,
    ) -> Option<()> {
        let unchanged: Vec<bool> = dirs
            .iter()
            .zip(&findings.stamps[plan.files..])
            .map(|(look, kept)| matches!(look, Look::There(glance) if dir_stamp(glance) == *kept))
            .collect();
        let with_own: HashSet<&[u8]> = standing.paths.iter().map(|path| above(path)).collect();
        let mut ask = Vec::new();
        for (number, question) in plan.questions.iter().enumerate() {
            let path = plan.paths.get(number);
            let (dir, mode) = match question {
                Question::Absent { dir } if unchanged[*dir] && !tree.ground().has_layer_at(path) => continue,
                Question::Other { .. } => {
                    findings.open.push(number);
                    continue;
                }
                Question::Absent { .. } | Question::File { .. } | Question::Link { .. } => {
                    ask.push(number);
                    continue;
                }
                Question::Dir { dir, mode } | Question::Listing { dir, mode, .. } => (*dir, *mode),
            };
            match dirs[dir] {
                Look::There(glance) if glance.kind == Kind::Dir && self.is_mode(path, glance.mode, mode) => {
                    let is_listed = matches!(question, Question::Listing { .. });
                    if is_listed && (!unchanged[dir] || with_own.contains(&path) || tree.ground().has_layer_below(path))
                    {
                        findings.open.push(number);
                    }
                }
                Look::Absent if plan.paths.skip(number) > 0 => findings.open.push(number),
                _ => return None,
            }
        }
        for (number, look) in ask.iter().copied().zip(look_at_all(self.lower(), &plan.paths, &ask)) {
            match (&plan.questions[number], look) {
                (Question::Absent { .. }, Look::Absent) if !tree.ground().has_layer_at(plan.paths.get(number)) => {}
                (Question::File { mode, stamp, .. }, Look::There(glance))
                    if glance.kind == Kind::File && glance.mode == *mode =>
                {
                    if file_stamp(&glance) == findings.stamps[*stamp] {
                        tree.examined(glance.mtime);
                    } else {
                        findings.open.push(number);
                    }
                }
                (Question::Link { stamp, .. }, Look::There(glance)) if glance.kind == Kind::Link => {
                    if file_stamp(&glance) != findings.stamps[*stamp] {
                        findings.open.push(number);
                    }
                }
                // What the real directory beneath a mount has not, its layer may show.
                (_, Look::Absent) if plan.paths.skip(number) > 0 => findings.open.push(number),
                _ => return None,
            }
        }
        Some(())
    }

    /// Examines what no stamp answered; `None` if something has changed.
    fn examined(
        &self,
        plan: &Plan,
        findings: &mut Findings,
        began: Time,
        tree: &mut Tree<'_>,
        standing: &Standing,
    ) -> Option<()> {
        let open = std::mem::take(&mut findings.open);
        for (at, number) in open.iter().copied().enumerate() {
            if at % HASHED_AHEAD == 0 {
                let ahead = open[at..].iter().take(HASHED_AHEAD);
                let files = ahead.filter(|number| matches!(plan.questions[**number], Question::File { .. }));
                let files = files.map(|number| plan.paths.get(*number));
                tree.expect(files.clone().map(<[u8]>::to_vec));
                tree.hash_ahead(files);
            }
            let question = &plan.questions[number];
            let path = plan.paths.get(number);
            let hid = Cell::new(false);
            let hides = |path: &[u8]| {
                let hidden = self.is_hidden(path, standing);
                hid.set(hid.get() || hidden);
                hidden
            };
            let fact = match question {
                Question::Absent { .. } => Observation::Absent,
                Question::File { digest, mode, .. } => Observation::File { digest: *digest, mode: *mode },
                Question::Link { target, .. } => Observation::Link { target: target.clone() },
                Question::Dir { mode, .. } => Observation::Dir { mode: *mode },
                Question::Listing { digest, mode, .. } => Observation::Listing { digest: *digest, mode: *mode },
                Question::Other { fact } => fact.clone(),
            };
            let listed = matches!(question, Question::Listing { .. });
            if tree.fact(path, listed, &self.task.roots, hides).ok()? != fact {
                return None;
            }
            match question {
                Question::File { stamp: at, .. } | Question::Link { stamp: at, .. } => {
                    let attr = tree.attr(path).ok()??;
                    if attr.dev != VIRTUAL && began.0 - attr.ctime.0 > REST {
                        findings.stamps[*at] = stamp(&attr);
                        findings.worth += 1;
                    }
                }
                Question::Listing { dir, .. } if hid.get() || tree.ground().has_layer_below(path) => {
                    findings.stamps[plan.files + dir] = FileStamp::UNKNOWN;
                    findings.mute.insert(*dir);
                }
                _ => {}
            }
        }
        Some(())
    }

    fn is_mode(&self, path: &[u8], mode: u32, recorded: u32) -> bool {
        mode == recorded || (self.task.roots.is_on_the_way(path) && mode & 0o700 == recorded)
    }
}

/// Keeps the stamps of directories in which everything was as recorded.
fn note_dirs(plan: &Plan, looks: &[Look], findings: &mut Findings, began: Time) {
    let mut known: HashMap<u64, bool> = HashMap::new();
    for (dir, (look, facts)) in looks.iter().zip(&plan.dirs.facts).enumerate() {
        let Look::There(glance) = look else { continue };
        let at = plan.files + dir;
        let tells = facts.worth > 0 && !facts.hides && !findings.mute.contains(&dir);
        let is_new = dir_stamp(glance) != findings.stamps[at];
        if tells
            && is_new
            && glance.kind == Kind::Dir
            && !glance.encrypted
            && began.0 - glance.ctime.0 > REST
            && *known.entry(glance.dev).or_insert_with(|| stamps_its_names(plan.dirs.paths.get(dir)))
        {
            findings.stamps[at] = dir_stamp(glance);
            findings.worth += facts.worth;
        }
    }
}

/// The directory that a path lies in.
fn above(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0).max(1)]
}

fn file_stamp(glance: &Glance) -> FileStamp {
    let Glance { dev, ino, size, mtime, ctime, .. } = *glance;
    FileStamp { dev, ino, size, mtime_ns: mtime.0, ctime_ns: ctime.0 }
}

/// The size of a directory means nothing.
fn dir_stamp(glance: &Glance) -> FileStamp {
    FileStamp { size: 0, ..file_stamp(glance) }
}

//! Lookup: from the task key to the first record whose every observation holds now.
//!
//! The present state is compared with own outputs hidden, since records are made that way: an own output counts as absent, and its
//! name is left out of listings. So an observation of an own output holds where the path is absent or holds what any run of the task left,
//! and somebody else's file at the place of an output is a difference like any other.

use std::io;

use wink_fs::zone::join;
use wink_store::RecordHead;
use wink_store::StoreError;
use wink_store::{Observation, Trace, damaged_trace};
use wink_store::{Root, TreePath};

use super::Engine;
use super::difference::{self, describe};
use super::own::Standing;
use super::tree::{Tree, letters, look};
use crate::config::{Own, matches_glob};
use crate::key::{KeyParts, PartDifference};
use crate::report::{Class, Difference};

/// What a lookup found.
pub struct Found {
    /// The record that holds, and how many observations it has.
    pub hit: Option<(RecordHead, u64)>,
    /// Why the nearest record does not hold.
    pub difference: Option<Difference>,
    /// Why nothing was found, for people.
    pub reason: String,
    /// Which kind of reason that is.
    pub class: Class,
    /// Damage that was met on the way, in one line.
    pub damage: Option<String>,
}

/// Why one record does not hold.
pub struct Miss {
    /// For people.
    pub reason: String,
    /// What differs, if it is one path.
    pub difference: Option<Difference>,
}

/// What trying a record comes to, before it is put into words.
enum Verdict {
    /// Every observation holds; how many there are.
    Holds(u64),
    /// It is no record for here.
    Elsewhere(Miss),
    /// The first observation that does not hold.
    Differs { path: TreePath, recorded: Observation, present: io::Result<Observation> },
}

/// One record of a task, and whether it holds now.
pub struct Judged {
    /// The record.
    pub head: RecordHead,
    /// How many observations it has, or the first thing that keeps it from being used.
    pub verdict: Result<u64, Miss>,
    /// Workspaces in which its outputs stood last, by their absolute paths.
    pub workspaces: Vec<Vec<u8>>,
}

impl Engine<'_> {
    /// Tries every candidate.
    pub fn lookup(&self, tree: &mut Tree<'_>, standing: &Standing) -> Result<Found, StoreError> {
        let candidates = self.candidates()?;
        let (reason, class) = ("first run".to_owned(), Class::FirstRun);
        let mut found = Found { hit: None, difference: None, reason, class, damage: None };
        let workspace = self.workspace();
        if candidates.is_empty() {
            let (class, Miss { reason, difference }) = self.explain_key()?;
            return Ok(Found { reason, class, difference, ..found });
        }
        let nearest = self.store.last(workspace, &self.task.keys.own)?;
        let mut explained = false;
        for head in candidates {
            match self.try_record(&head, tree, standing) {
                Ok(Verdict::Holds(observations)) => {
                    found.hit = Some((head, observations));
                    return Ok(found);
                }
                // The record of this workspace's last run tells best what changed; failing that, the one used last.
                Ok(differs) if nearest == Some(head.id) || !explained => {
                    explained = true;
                    if let Err(miss) = self.say(&head, differs, tree, standing) {
                        (found.reason, found.difference) = (miss.reason, miss.difference);
                        found.class = if found.difference.is_some() { Class::InputChanged } else { Class::Elsewhere };
                    }
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    if !self.task.only_asked {
                        self.store.drop_record(&head.id)?;
                    }
                    found.reason = "a damaged record was dropped".to_owned();
                    found.class = Class::Damaged;
                    found.damage = Some(format!("a damaged record was dropped: {error}"));
                    explained = true;
                }
                Err(error) => return Err(error),
            }
        }
        if nearest.is_none() && !self.ran_here()? {
            found.reason = format!("first run here; compared with another workspace: {}", found.reason);
        }
        Ok(found)
    }

    /// The records of the task that may be used at all, last used first.
    fn candidates(&self) -> Result<Vec<RecordHead>, StoreError> {
        let mut candidates = self.store.candidates(&self.task.keys.task)?;
        // Records of failures are for those who asked for them.
        candidates.retain(|head| head.exit_code == 0 || self.task.settings.cache_failures);
        Ok(candidates)
    }

    /// Whether one record holds now.
    pub fn judge(&self, head: &RecordHead, tree: &mut Tree<'_>, standing: &Standing) -> Result<u64, Miss> {
        match self.try_record(head, tree, standing) {
            Ok(verdict) => self.say(head, verdict, tree, standing),
            Err(error) => Err(Miss { reason: error.to_string(), difference: None }),
        }
    }

    /// Every candidate with its own verdict.
    pub fn judge_all(&self, tree: &mut Tree<'_>, standing: &Standing) -> Result<Vec<Judged>, StoreError> {
        let judge = |head: RecordHead| {
            let verdict = match self.try_record(&head, tree, standing) {
                Err(error) if error.is_damage() => {
                    Err(Miss { reason: format!("it is damaged: {error}"), difference: None })
                }
                verdict => self.say(&head, verdict?, tree, standing),
            };
            let workspaces = self.store.standing_in(&head.id)?;
            Ok(Judged { head, verdict, workspaces })
        };
        self.candidates()?.into_iter().map(judge).collect()
    }

    /// Why no record has this task key: what it differs in from the key of an earlier run of the command here. Of several earlier keys the
    /// nearest is told: of the same directory if possible, with the fewest differences, the latest.
    fn explain_key(&self) -> Result<(Class, Miss), StoreError> {
        let parts = &self.task.keys.parts;
        let told = |reason: &str| (Class::FirstRun, Miss { reason: reason.to_owned(), difference: None });
        let mut other_arguments = false;
        let mut nearest: Option<((bool, usize), Vec<PartDifference>)> = None;
        for earlier in self.store.recent_keys(self.workspace())? {
            // Parts of another version of wink explain nothing.
            let Ok(earlier) = serde_json::from_slice::<KeyParts>(&earlier) else { continue };
            if earlier.argv != parts.argv {
                other_arguments |= earlier.argv.first() == parts.argv.first() && earlier.cwd == parts.cwd;
                continue;
            }
            let differences = parts.differences(&earlier);
            if differences.is_empty() {
                return Ok(told("no earlier run left a record"));
            }
            let distance = (earlier.cwd != parts.cwd, differences.len());
            if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
                nearest = Some((distance, differences));
            }
        }
        let Some((_, differences)) = nearest else {
            return Ok(told(if other_arguments { "first run with this command line" } else { "first run" }));
        };
        let more = match differences.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let [first, ..] = differences.as_slice() else { return Ok(told("first run")) };
        let difference = first.file.as_ref().map(|(path, recorded, present)| Difference {
            path: show(&join(self.workspace(), path.as_bytes())),
            recorded: recorded.clone().unwrap_or_else(|| "absent".to_owned()),
            present: present.clone().unwrap_or_else(|| "absent".to_owned()),
        });
        Ok((Class::KeyChanged, Miss { reason: format!("{}{more}", first.text), difference }))
    }

    /// Whether a run with this task key took place in this workspace.
    fn ran_here(&self) -> Result<bool, StoreError> {
        let parts = &self.task.keys.parts;
        let recent = self.store.recent_keys(self.workspace())?;
        let same = |earlier: KeyParts| parts.differences(&earlier).is_empty();
        Ok(recent.iter().any(|earlier| serde_json::from_slice(earlier).is_ok_and(same)))
    }

    /// Remembers the task key for such explanations.
    pub fn remember_key(&self) -> Result<(), StoreError> {
        let parts = serde_json::to_vec(&self.task.keys.parts).unwrap_or_default();
        self.store.remember_key(self.workspace(), &self.task.keys.task, &parts)
    }

    /// Whether the configuration takes an absolute path out of what is seen and recorded.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        let ignore = &self.task.settings.ignore;
        let below = || path.strip_prefix(self.workspace())?.strip_prefix(b"/");
        !ignore.is_empty() && below().is_some_and(|path| ignore.iter().any(|glob| matches_glob(glob, path)))
    }

    /// The workspace's absolute path as bytes.
    pub fn workspace(&self) -> &[u8] {
        self.task.workspace.as_os_str().as_encoded_bytes()
    }

    fn try_record(&self, head: &RecordHead, tree: &mut Tree<'_>, standing: &Standing) -> Result<Verdict, StoreError> {
        let elsewhere = |what: &str, path: &[u8]| {
            let reason = format!("the recorded outputs name their {what} {}", String::from_utf8_lossy(path));
            Verdict::Elsewhere(Miss { reason, difference: None })
        };
        if let Some(bound) = head.bound_workspace.as_deref().filter(|bound| *bound != self.workspace()) {
            return Ok(elsewhere("workspace", bound));
        }
        let home = self.task.home.as_ref().map(|home| home.as_os_str().as_encoded_bytes());
        if let Some(bound) = head.bound_home.as_deref().filter(|bound| home != Some(*bound)) {
            return Ok(elsewhere("home", bound));
        }
        let bytes = self.store.trace_bytes(&head.fingerprint)?;
        let damaged = |error| damaged_trace(&head.fingerprint, error);
        let decode = || Trace::decode(&bytes).map_err(damaged);
        if self.task.roots.depth() > head.depth {
            for path in self.task.roots.extra_probes(head.depth, &decode()?).absent {
                if !matches!(look(&path), Ok(None)) {
                    let difference =
                        Difference { path: show(&path), recorded: "absent".to_owned(), present: "present".to_owned() };
                    let reason = format!("{} appeared", difference.path);
                    return Ok(Verdict::Elsewhere(Miss { reason, difference: Some(difference) }));
                }
            }
        }
        let observations = match self.holds(head, &bytes, tree, standing).map_err(damaged)? {
            Some(observations) => observations,
            None => {
                let trace = decode()?;
                if let Some((path, recorded, present)) = self.first_difference(&trace, tree, standing) {
                    return Ok(Verdict::Differs { path, recorded, present });
                }
                trace.seen.len() as u64
            }
        };
        match self.task.only_asked {
            true => self.store.is_durable(head)?,
            false => self.store.ensure_durable(head)?,
        }
        Ok(Verdict::Holds(observations))
    }

    /// The first observation that does not hold. Cheap facts are asked before contents, so that most misses cost no hashing.
    fn first_difference(
        &self,
        trace: &Trace,
        tree: &mut Tree<'_>,
        standing: &Standing,
    ) -> Option<(TreePath, Observation, Result<Observation, io::Error>)> {
        let reads = |fact: &Observation| matches!(fact, Observation::File { .. } | Observation::Listing { .. });
        for contents in [false, true] {
            if contents {
                let files = trace.seen.iter().filter(|(_, seen)| matches!(seen.fact, Observation::File { .. }));
                tree.expect(files.map(|(path, _)| slashed(self.task.roots.absolute(path))));
            }
            for (path, seen) in trace.seen.iter().filter(|(_, seen)| reads(&seen.fact) == contents) {
                let present = self.present(path, &seen.fact, tree, standing);
                if !present.as_ref().is_ok_and(|present| *present == seen.fact) {
                    return Some((path.clone(), seen.fact.clone(), present));
                }
            }
        }
        None
    }

    /// What stands at a path now, own outputs hidden; as a listing if `like` is one.
    pub fn present(
        &self,
        path: &TreePath,
        like: &Observation,
        tree: &mut Tree<'_>,
        standing: &Standing,
    ) -> io::Result<Observation> {
        let absolute = slashed(self.task.roots.absolute(path));
        let hidden = |path: &[u8]| self.is_hidden(path, standing);
        if path.root() == Root::Workspace && hidden(&absolute) {
            return Ok(Observation::Absent);
        }
        let listing = matches!(like, Observation::Listing { .. });
        tree.fact(&absolute, listing, &self.task.roots, hidden)
    }

    /// Whether a lookup leaves an absolute path out: an own output, or what is ignored.
    pub fn is_hidden(&self, path: &[u8], standing: &Standing) -> bool {
        (self.task.settings.own != Own::Observe && standing.contains(path)) || self.is_ignored(path)
    }

    /// A verdict in words.
    fn say(&self, head: &RecordHead, verdict: Verdict, tree: &mut Tree<'_>, standing: &Standing) -> Result<u64, Miss> {
        let (path, recorded, present) = match verdict {
            Verdict::Holds(observations) => return Ok(observations),
            Verdict::Elsewhere(miss) => return Err(miss),
            Verdict::Differs { path, recorded, present } => (path, recorded, present),
        };
        let absolute = slashed(self.task.roots.absolute(&path));
        let place = match path.root() {
            Root::Workspace => show(path.relative()),
            _ => show(&absolute),
        };
        let names = match (&recorded, &present) {
            (Observation::Listing { digest, .. }, Ok(Observation::Listing { digest: now, .. })) if digest != now => {
                let then = self.store.names(&head.fingerprint).unwrap_or_default();
                let then = then.into_iter().find(|(known, _)| known == digest);
                let now = tree.ground().list(&absolute).map(|mut now| {
                    now.retain(|(name, _)| !self.is_hidden(&join(&absolute, name), standing));
                    letters(now)
                });
                then.zip(now.ok()).and_then(|((_, then), now)| difference::of_names(&then, &now))
            }
            _ => None,
        };
        let reason = difference::reason(&place, &recorded, &present, names.as_ref());
        let mut difference = Difference {
            path: show(&absolute),
            recorded: describe(&recorded),
            present: present.as_ref().map_or_else(|error| error.to_string(), describe),
        };
        if let Some(names) = names {
            difference.recorded.push_str(&names.then());
            difference.present.push_str(&names.now());
        }
        Err(Miss { reason, difference: Some(difference) })
    }
}

/// `/` comes back from the symbolic form without its slash.
pub fn slashed(path: Vec<u8>) -> Vec<u8> {
    if path.is_empty() { b"/".to_vec() } else { path }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

//! Capture: from what a command saw and left to a record, and to the list of deeds that bring its outputs into the workspace.
//!
//! Facts are read from the real tree now, after the command ended and before anything is published: they are the facts the command
//! saw, provided that nothing changed meanwhile. That is checked path by path; on any doubt the result is published all the same
//! and not recorded.

mod files;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use wink_fs::attr::{Attr, Kind, Time};
use wink_fs::backing::StagedId;
use wink_fs::delta::{Change, Changed, Delta};
use wink_fs::observe::{Sight, same};
use wink_fs::vfs::Revealed;
use wink_fs::view::Notes;
use wink_fs::zone::{Zones, join};
use wink_platform::unix::backing::RealBacking;
use wink_platform::unix::place::is_temporary_name;
use wink_store::Digest;
use wink_store::TreePath;
use wink_store::{Captured, RecordHead, Stream};
use wink_store::{Entry, Manifest, Output};
use wink_store::{Names, Observation, Seen, Trace, listing_digest};

use super::Engine;
use super::own::{Standing, is_stored};
use super::places::is_tracked;
use super::publish::Deed;
use super::tree::{Tree, dir_mode, letters, os};
use crate::config::matches_glob;
use crate::roots::Bound;

/// What an earlier run left and this one was shown.
pub struct Carried {
    /// That run's record.
    pub head: RecordHead,
    /// What it saw.
    pub trace: Trace,
    /// Its own outputs that stood untouched when this run began.
    pub outputs: BTreeMap<Vec<u8>, Output>,
    /// Absolute paths of inputs that it removed.
    pub consumed: HashSet<Vec<u8>>,
    /// Absolute paths of those that another task had rewritten, and of directories that others share: inputs from now on.
    pub lent: Vec<Vec<u8>>,
}

/// Everything a run in a view yields.
pub struct Yield<'a> {
    /// What the command changed.
    pub delta: Delta,
    /// What it saw.
    pub sights: HashMap<Vec<u8>, Sight>,
    /// What the view noticed besides.
    pub notes: Notes,
    /// What it printed.
    pub printed: Captured,
    /// Own outputs that it was shown.
    pub carried: Option<Carried>,
    /// Own outputs that it was not shown.
    pub hidden: &'a Standing,
    /// What happened where.
    pub zones: &'a Zones,
    /// Directories on the way to tool caches.
    pub unnoted: &'a HashSet<Vec<u8>>,
    /// Where the bytes it wrote are.
    pub backing: &'a RealBacking,
    /// Processes are still at work in the view: staged files must stay where they are.
    pub live: bool,
    /// What it wrote stands in the workspace already.
    pub in_place: bool,
}

/// What capturing makes of it.
#[derive(Default)]
pub struct Harvest {
    /// What the command saw.
    pub trace: Trace,
    /// The names behind its listings.
    pub listings: Vec<Names>,
    /// What it left.
    pub manifest: Manifest,
    /// See [`wink_store::Record::times`].
    pub times: Vec<u64>,
    /// An output names the workspace.
    pub bound_workspace: bool,
    /// An output names the home.
    pub bound_home: bool,
    /// What brings the outputs into the workspace.
    pub deeds: Vec<Deed>,
    /// What the command left and can be neither stored nor published.
    pub lost: Option<String>,
    /// Why this must not be recorded; empty if it may.
    pub doubts: Vec<String>,
    /// The command wrote outside the workspace.
    pub wrote_outside: bool,
    /// The result depends on the state of earlier outputs: the next run must start from clean.
    pub tainted: bool,
    /// Outputs of earlier runs that stay, since their bytes are nowhere else: from now on they are somebody else's.
    pub left_behind: BTreeMap<Vec<u8>, Output>,
    /// The first ignored file of somebody else's that the command changed.
    pub changed_ignored: Option<Vec<u8>>,
}

struct Capture<'a, 's> {
    engine: &'a Engine<'s>,
    run: Yield<'a>,
    tree: &'a mut Tree<'s>,
    out: Harvest,
    entries: BTreeMap<Vec<u8>, (Entry, Time)>,
    /// Absolute paths of outputs and what is there after the run.
    left: HashMap<Vec<u8>, Output>,
    /// Directories that the command moved: what is in them went with them, looked at or not.
    moved: HashSet<Vec<u8>>,
    /// Relative paths that held what some run had published.
    ours: HashSet<Vec<u8>>,
    /// Staged files that are blobs by now: a file with several names is met once for each.
    adopted: HashMap<StagedId, (Digest, u64)>,
}

/// What stood in a place that the command changed.
struct Stood {
    /// The place, relative to the workspace.
    relative: Vec<u8>,
    /// Somebody else's thing stood there when the command began.
    modified: bool,
    /// The command had looked at it.
    was_seen: bool,
    /// Somebody else saved a file there since.
    theirs: bool,
}

impl<'s> Engine<'s> {
    /// See the module.
    ///
    /// It cannot fail: what goes wrong becomes a doubt, and the rest is published.
    pub fn capture(&self, run: Yield<'_>, tree: &mut Tree<'s>) -> Harvest {
        let again = tree.start_over();
        let mut capture = Capture {
            ours: HashSet::new(),
            moved: run.delta.moved.iter().map(|dir| dir.path.clone()).collect(),
            engine: self,
            run,
            tree,
            out: Harvest::default(),
            entries: BTreeMap::new(),
            left: HashMap::new(),
            adopted: HashMap::new(),
        };
        if let Err(error) = again {
            capture.out.doubts.push(format!("the workspace cannot be examined: {error:#}"));
        }
        let changes = std::mem::take(&mut capture.run.delta.changes);
        // What stood there is told before the first new file is in the store: what the command copied is not taken for stored by that.
        let stood: Vec<_> = changes.iter().map(|changed| capture.stood(changed)).collect();
        capture.adopt_all(&changes);
        for (changed, stood) in changes.into_iter().zip(stood) {
            let shown = String::from_utf8_lossy(&changed.path).into_owned();
            if let Err(error) = stood.and_then(|stood| capture.change(changed, stood)) {
                capture.out.lost.get_or_insert(format!("{shown}: {error:#}"));
            }
        }
        capture.printed();
        for failed in [capture.trace().err(), capture.carry().err()].into_iter().flatten() {
            capture.out.doubts.push(format!("what the command saw cannot be told: {failed:#}"));
        }
        capture.notes();
        capture.finish()
    }
}

impl Capture<'_, '_> {
    fn is_shown(&self, relative: &[u8]) -> bool {
        self.run.carried.as_ref().is_some_and(|carried| carried.outputs.contains_key(relative))
    }

    fn is_shown_path(&self, path: &[u8]) -> bool {
        self.relative(path).is_some_and(|relative| self.is_shown(relative))
    }

    fn relative<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        path.strip_prefix(self.engine.workspace())?.strip_prefix(b"/")
    }

    /// Whether the configuration takes a path out of what is seen and recorded.
    fn is_ignored(&self, relative: &[u8]) -> bool {
        self.engine.task.settings.ignore.iter().any(|glob| matches_glob(glob, relative))
    }

    fn is_output(&self, relative: &[u8]) -> bool {
        let declared = &self.engine.task.settings.output;
        !self.is_ignored(relative) && (declared.is_empty() || declared.iter().any(|glob| matches_glob(glob, relative)))
    }

    /// What stood in a place that the command changed. `None` outside the workspace.
    fn stood(&mut self, changed: &Changed) -> anyhow::Result<Option<Stood>> {
        let Changed { path, before, .. } = changed;
        let Some(relative) = self.relative(path).map(<[u8]>::to_vec) else { return Ok(None) };
        let modified = before.is_some() && !self.is_shown(&relative);
        let parent = path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash]);
        let moved = parent.is_some_and(|parent| self.moved.contains(parent));
        let was_seen = moved || self.run.sights.contains_key(path);
        if modified && is_stored(self.engine.store, path, self.tree) {
            self.ours.insert(relative.clone());
        }
        let theirs = !self.run.in_place && self.is_edited(path, *before)?;
        Ok(Some(Stood { relative, modified, was_seen, theirs }))
    }

    fn change(&mut self, changed: Changed, stood: Option<Stood>) -> anyhow::Result<()> {
        let Changed { path, change, before } = changed;
        let Some(Stood { relative, modified, was_seen, theirs }) = stood else { return Ok(()) };
        if theirs && !matches!(change, Change::Removed) {
            self.set_aside(&path, &relative);
        }
        self.check_owner(&path, &change, before)?;
        if modified {
            // Whatever stood there and was not ours is an input: a hit may only ever replace exactly that.
            self.ensure_seen(&path)?;
        }
        let (output, mtime) = match change {
            // Pipes and sockets serve the processes that made them; they are no outputs.
            Change::Special { .. } => return Ok(()),
            Change::Removed if theirs || (modified && !was_seen) => {
                // Somebody put it there, or changed it, while the command ran: it stays.
                self.out
                    .doubts
                    .push(format!("{} changed while the command ran, and was not removed", self.shown(&path)));
                return Ok(());
            }
            Change::Removed => {
                self.out.deeds.push(Deed::Remove { path: relative.clone(), dir: before == Some(Kind::Dir) });
                if !modified {
                    return Ok(());
                }
                (Output::Removed, Time::default())
            }
            Change::Dir { attr } => {
                self.out.deeds.push(Deed::Dir { path: relative.clone(), mode: attr.mode, owner: owner(&attr) });
                (Output::Dir { mode: attr.mode }, attr.mtime)
            }
            Change::Link { target, attr } => {
                self.search(&target);
                self.out.deeds.push(Deed::Link { path: relative.clone(), target: target.clone(), mtime: attr.mtime });
                (Output::Link { target }, attr.mtime)
            }
            Change::File { source, attr } => match self.file(&path, &relative, source, &attr, before.is_some())? {
                Some(output) => (output, attr.mtime),
                None => return Ok(()),
            },
        };
        self.left.insert(path, output.clone());
        if self.is_output(&relative) {
            self.entries.insert(relative.clone(), (Entry { path: relative, output, modified }, mtime));
        }
        Ok(())
    }

    fn printed(&mut self) {
        for wanted in [Stream::Stdout, Stream::Stderr] {
            let pieces = self.run.printed.pieces.iter().filter(|(stream, _)| *stream == wanted);
            let bytes: Vec<u8> = pieces.flat_map(|(_, bytes)| bytes.iter().copied()).collect();
            self.search(&bytes);
        }
    }

    /// A path that counts as seen whether or not the kernel asked for it.
    fn ensure_seen(&mut self, path: &[u8]) -> io::Result<()> {
        if !self.run.sights.contains_key(path) {
            let attr = self.tree.attr(path)?;
            self.run.sights.insert(path.to_vec(), Sight { attr, names: None, unsteady: false });
        }
        Ok(())
    }

    fn trace(&mut self) -> anyhow::Result<()> {
        // Whether the command looked at them or not, the result stands beside just these.
        for path in self.run.carried.as_ref().map(|carried| carried.lent.clone()).unwrap_or_default() {
            self.ensure_seen(&path)?;
        }
        for Revealed { path, names } in std::mem::take(&mut self.run.delta.moved) {
            self.ensure_seen(&path)?;
            if let Some(sight) = self.run.sights.get_mut(&path) {
                sight.names.get_or_insert_with(|| {
                    let mut names = names;
                    names.sort();
                    names
                });
            }
        }
        let mut sights: Vec<(Vec<u8>, Sight)> = std::mem::take(&mut self.run.sights).into_iter().collect();
        sights.retain(|(path, _)| {
            is_tracked(self.run.zones, path) && !self.relative(path).is_some_and(|relative| self.is_ignored(relative))
        });
        // A tool that found no place for its cache and made one: nothing of it is in the result.
        sights.retain(|(path, sight)| {
            let made = sight.attr.is_none() && sight.names.is_none() && self.run.unnoted.contains(path);
            !(made && os(path).is_dir())
        });
        // Names under which runs inside this one made what they put in place.
        sights.retain(|(path, sight)| sight.attr.is_some() || !is_temporary(path));
        sights.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.tree.expect(sights.iter().map(|(path, _)| path.clone()));
        let files = sights.iter().filter(|(_, sight)| sight.attr.is_some_and(|attr| attr.kind == Kind::File));
        self.tree.hash_ahead(files.map(|(path, _)| path.as_slice()));
        let mut facts = Vec::with_capacity(sights.len());
        for (path, sight) in &sights {
            match self.fact(path, sight) {
                Ok(Some(seen)) => facts.push((path.as_slice(), seen)),
                Ok(None) => self.out.doubts.push(format!("{} changed while the command ran", self.shown(path))),
                Err(error) => self.out.doubts.push(format!("{} cannot be examined: {error}", self.shown(path))),
            }
        }
        let paths: Vec<&[u8]> = facts.iter().map(|(path, _)| *path).collect();
        let (classified, bound) = self.engine.task.roots.classify(&paths);
        self.out.bound_workspace |= bound == Bound::Here;
        for (path, (_, seen)) in classified.into_iter().zip(&facts) {
            // A neighbour may have been named by its full path, in some file that the command read: then it is that very file,
            // also for another clone. Both readings must hold.
            if !path.relative().is_empty()
                && let Some(fixed) = self.engine.task.roots.fixed(&path)
            {
                self.out.trace.seen.insert(fixed, seen.clone());
            }
            self.out.trace.seen.insert(path, seen.clone());
        }
        Ok(())
    }

    fn shown(&self, path: &[u8]) -> String {
        String::from_utf8_lossy(self.relative(path).unwrap_or(path)).into_owned()
    }

    /// The fact behind a sight, if it is still so.
    fn fact(&mut self, path: &[u8], sight: &Sight) -> io::Result<Option<Seen>> {
        if self.run.hidden.paths.contains(path) {
            return Ok(Some(Seen { fact: Observation::Absent, own: true }));
        }
        let own = self.is_shown_path(path);
        let attr = self.tree.attr(path)?;
        let known = sight.attr.is_some() || sight.names.is_none();
        if sight.unsteady || (known && !same(sight.attr.as_ref(), attr.as_ref())) {
            // Another run of the same task may have published the very same output meanwhile.
            let twin = sight.attr.is_none() && self.is_left(path)?;
            return Ok(twin.then_some(Seen { fact: Observation::Absent, own }));
        }
        // A view of an outer task goes on showing what it first saw.
        if let Some(attr) = attr.filter(|attr| matches!(attr.kind, Kind::File | Kind::Link))
            && !self.tree.is_steady(&attr)
        {
            return Ok(None);
        }
        if own {
            return Ok(Some(Seen { fact: Observation::Absent, own }));
        }
        if let (Some(names), Some(Kind::Dir)) = (&sight.names, attr.map(|attr| attr.kind)) {
            let mut now = self.tree.ground().list(path)?;
            let is_own = |name: &[u8]| {
                let path = join(path, name);
                self.is_shown_path(&path) || self.engine.is_ignored(&path)
            };
            let seen: Vec<(Vec<u8>, Kind)> = names.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
            now.retain(|(name, _)| !is_own(name) && !self.run.hidden.paths.contains(&join(path, name)));
            now.sort();
            if now != seen && !self.is_twin_listing(path, &now, &seen)? {
                return Ok(None);
            }
            let mode = attr.map_or(0, |attr| dir_mode(path, &attr, &self.engine.task.roots));
            let mut names = letters(seen);
            let digest = listing_digest(&mut names);
            self.out.listings.push(names);
            return Ok(Some(Seen { fact: Observation::Listing { digest, mode }, own }));
        }
        let fact = self.tree.fact(path, false, &self.engine.task.roots, |_| false)?;
        Ok(Some(Seen { fact, own }))
    }

    /// Whether the path holds now what this run left there.
    fn is_left(&mut self, path: &[u8]) -> io::Result<bool> {
        let Some(output) = self.left.get(path).cloned() else { return Ok(false) };
        let Some(attr) = self.tree.attr(path)? else { return Ok(false) };
        Ok(match output {
            Output::File { digest, .. } => attr.kind == Kind::File && self.tree.digest(path, &attr)? == digest,
            Output::Dir { .. } => attr.kind == Kind::Dir,
            Output::Link { .. } => attr.kind == Kind::Link,
            Output::Removed => false,
        })
    }

    /// Whether a listing differs only by outputs that another run of the same task has just published.
    fn is_twin_listing(&mut self, dir: &[u8], now: &[(Vec<u8>, Kind)], seen: &[(Vec<u8>, Kind)]) -> io::Result<bool> {
        for name in seen {
            if !now.contains(name) {
                return Ok(false);
            }
        }
        for name in now {
            if !seen.contains(name) && !self.is_left(&join(dir, &name.0))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What earlier runs left, was shown and still stands belongs to the result, and so does what those runs saw.
    fn carry(&mut self) -> anyhow::Result<()> {
        let Some(carried) = self.run.carried.take() else { return Ok(()) };
        let removed: HashSet<Vec<u8>> = self
            .out
            .deeds
            .iter()
            .filter_map(|deed| match deed {
                Deed::Remove { path, .. } => Some(path.clone()),
                _ => None,
            })
            .collect();
        let mut stale = None;
        for (relative, output) in &carried.outputs {
            let path = join(self.engine.workspace(), relative);
            if self.entries.contains_key(relative) || removed.contains(relative) {
                continue;
            }
            let Some(attr) = self.tree.attr(&path)? else {
                stale.get_or_insert_with(|| self.shown(&path));
                continue;
            };
            if let Output::File { digest, .. } = output
                && let Err(error) = self.store_again(&path, digest)
            {
                self.out.doubts.push(format!("{} cannot be stored: {error:#}", self.shown(&path)));
            }
            let entry = Entry { path: relative.clone(), output: output.clone(), modified: false };
            self.entries.insert(relative.clone(), (entry, attr.mtime));
        }
        self.out.bound_workspace |= carried.head.bound_workspace.is_some();
        self.out.bound_home |= carried.head.bound_home.is_some();
        let standing = Standing {
            paths: carried
                .outputs
                .keys()
                .map(|relative| join(self.engine.workspace(), relative))
                .chain(self.run.hidden.paths.iter().cloned())
                .collect(),
            outputs: BTreeMap::new(),
        };
        // They only explain: without them the earlier listings have no names.
        let listings = self.engine.store.names(&carried.head.fingerprint).unwrap_or_default();
        self.out.listings.extend(listings.into_iter().map(|(_, names)| names));
        let earlier: Vec<(TreePath, Seen)> =
            carried.trace.seen.into_iter().filter(|(path, _)| !self.out.trace.seen.contains_key(path)).collect();
        for (path, seen) in earlier {
            let present = self.engine.present(&path, &seen.fact, self.tree, &standing)?;
            if present != seen.fact {
                stale.get_or_insert_with(|| self.shown(&self.engine.task.roots.absolute(&path)));
            }
            self.out.trace.seen.insert(path, seen);
        }
        if let Some(path) = stale {
            self.out.tainted = true;
            self.out.doubts.push(format!(
                "outputs of an earlier run were kept although {path} has changed since; the next run starts from clean"
            ));
        }
        Ok(())
    }

    fn notes(&mut self) {
        self.out.wrote_outside = self.run.notes.outside.is_some();
        if let Some((path, count)) = &self.run.notes.outside {
            let more = match count - 1 {
                0 => String::new(),
                1 => " (and 1 more change)".to_owned(),
                more => format!(" (and {more} more changes)"),
            };
            self.out
                .doubts
                .insert(0, format!("the command wrote outside the workspace: {}{more}", String::from_utf8_lossy(path)));
        }
        if let Some(path) = &self.run.notes.split_link {
            self.out
                .doubts
                .push(format!("the command changed {}, which has other names (hard links)", self.shown(path)));
        }
    }

    fn finish(mut self) -> Harvest {
        let entries = std::mem::take(&mut self.entries);
        let oldest = entries.values().map(|(_, mtime)| mtime.0).filter(|mtime| *mtime != 0).min().unwrap_or(0);
        let replaces = |path: &[u8]| {
            matches!(entries.get(path), Some((Entry { output: Output::File { .. } | Output::Link { .. }, .. }, _)))
        };
        let slashes = |path: &[u8]| {
            path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).collect::<Vec<_>>()
        };
        // Where a file took a directory's place, what was in the directory went with it.
        let implied: HashSet<Vec<u8>> = entries
            .iter()
            .filter(|(path, (entry, _))| {
                entry.output == Output::Removed && slashes(path).into_iter().any(|end| replaces(&path[..end]))
            })
            .map(|(path, _)| path.clone())
            .collect();
        for (relative, (entry, mtime)) in entries {
            if implied.contains(&relative) {
                continue;
            }
            if entry.modified
                && matches!(entry.output, Output::File { .. })
                && !self.ours.contains(&relative)
                && self.out.changed_ignored.is_none()
                && self.is_git_ignored(&relative, &entry)
            {
                self.out.changed_ignored = Some(relative);
            }
            self.out.times.push(u64::try_from(mtime.0 - oldest).unwrap_or(0));
            self.out.manifest.entries.push(entry);
        }
        self.out
    }

    fn is_git_ignored(&self, relative: &[u8], entry: &Entry) -> bool {
        let is_dir = matches!(entry.output, Output::Dir { .. });
        let root = &self.engine.task.workspace;
        let mut builder = ignore::gitignore::GitignoreBuilder::new(root);
        let mut at = root.clone();
        let parent = os(relative).parent().map(std::path::Path::to_owned).unwrap_or_default();
        builder.add(at.join(".gitignore"));
        for name in parent.components() {
            at.push(name);
            builder.add(at.join(".gitignore"));
        }
        builder.build().is_ok_and(|rules| rules.matched_path_or_any_parents(os(relative), is_dir).is_ignore())
    }
}

/// Whether a path has a name that only wink looks for.
fn is_temporary(path: &[u8]) -> bool {
    path.rsplit(|byte| *byte == b'/').next().is_some_and(is_temporary_name)
}

/// Owner to set on a published file: only a privileged wink can, and only what a task that changed its user left needs it.
fn owner(attr: &Attr) -> Option<(u32, u32)> {
    Some((attr.uid, attr.gid))
}

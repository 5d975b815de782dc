//! Restore: a record's outputs into the workspace, and its printed output to the terminal.
//!
//! A file that already holds the right bytes is left alone, time and all. The others get times that are newer than every input,
//! keep their order, and are not in the future, so that programs that decide by times find everything up to date.
//! Every blob that is needed is checked before the first file is touched: a damaged one turns the hit into a miss.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use anyhow::Context;
use wink_fs::attr::{Attr, Kind, Time};
use wink_fs::zone::join;
use wink_platform::unix::identity;
use wink_platform::unix::place::{Placed, Placer};
use wink_store::{Captured, Digest, RecordHead, StoreError, Stream};
use wink_store::{Entry, Manifest, Output};

use super::Engine;
use super::attach::{Clock, Piece};
use super::own::{Standing, is_kept};
use super::publish::gone;
use super::tree::{Tree, VIRTUAL, os};
use super::turn::Turn;
use crate::mounted::Mount;
use crate::progress::{doing, done};
use crate::report::RestoredAs;

/// Threads that place files: the disk and the kernel do most of the work.
const THREADS_MAX: usize = 8;
/// Files per thread below which starting one costs more than it brings.
const FILES_PER_THREAD: usize = 32;

/// How long a hit waits for who else changes the workspace.
const PATIENCE: Duration = Duration::from_secs(5);

/// What restoring takes, decided before anything is touched.
pub struct Plan {
    manifest: Manifest,
    times: Vec<u64>,
    /// Entries that must be placed, by index.
    place: Vec<usize>,
    /// Paths at and below which something of another kind is to be placed, deepest first, and whether each is a directory.
    in_the_way: Vec<(Vec<u8>, bool)>,
    /// Other paths that must go, likewise.
    remove: Vec<(Vec<u8>, bool)>,
    /// Real files that stand where views are to appear: the real would hide them.
    covering: Vec<Vec<u8>>,
    /// Directories that stand and need only their mode, by index.
    standing_dirs: BTreeSet<usize>,
}

/// Why there is no plan.
pub enum NoPlan {
    /// Something stored is damaged: a miss.
    Damage(StoreError),
    /// A file to be changed has other names.
    OtherLinks(String),
    /// A file of another run would go, and its bytes are nowhere else.
    NotKept(String),
    /// Something else failed.
    Failed(anyhow::Error),
}

impl From<StoreError> for NoPlan {
    fn from(error: StoreError) -> NoPlan {
        if error.is_damage() { NoPlan::Damage(error) } else { NoPlan::Failed(error.into()) }
    }
}

impl From<io::Error> for NoPlan {
    fn from(error: io::Error) -> NoPlan {
        NoPlan::Failed(error.into())
    }
}

impl Engine<'_> {
    /// Decides what a hit has to do, and checks every blob it needs.
    pub fn plan_restore(&self, head: &RecordHead, tree: &mut Tree<'_>, standing: &Standing) -> Result<Plan, NoPlan> {
        let manifest = self.store.manifest(&head.manifest)?;
        let times = self.store.times(&head.id)?;
        let mut plan = Plan {
            manifest,
            times,
            place: Vec::new(),
            in_the_way: Vec::new(),
            remove: Vec::new(),
            covering: Vec::new(),
            standing_dirs: BTreeSet::new(),
        };
        let mut kept = BTreeSet::new();
        let mut needed = Vec::new();
        for (index, entry) in plan.manifest.entries.iter().enumerate() {
            let absolute = join(self.workspace(), &entry.path);
            let attr = tree.attr(&absolute)?;
            if entry.output == Output::Removed {
                if let Some(attr) = attr {
                    plan.remove.push((entry.path.clone(), attr.kind == Kind::Dir));
                }
                continue;
            }
            kept.insert(entry.path.as_slice());
            if let Some(attr) =
                attr.filter(|attr| (attr.kind == Kind::Dir) != matches!(entry.output, Output::Dir { .. }))
            {
                // The observations hold, so all that is in it is what the recorded run saw and replaced.
                collect_tree(tree, &absolute, &entry.path, attr.kind, &mut plan.in_the_way)?;
            }
            if entry.modified && attr.is_some_and(|attr| attr.kind == Kind::File && attr.nlink > 1) {
                // The command would change every name of the file; a file put in place changes one.
                let path = os(&entry.path).display().to_string();
                return Err(NoPlan::OtherLinks(path));
            }
            if !stands(entry, &absolute, attr.as_ref(), tree)? {
                if let Output::File { digest, size, .. } = &entry.output {
                    needed.push((*digest, *size));
                }
                match attr {
                    Some(Attr { kind: Kind::Dir, .. }) if matches!(entry.output, Output::Dir { .. }) => {
                        plan.standing_dirs.insert(index);
                    }
                    Some(Attr { dev, .. }) if dev != VIRTUAL && !entry.modified => {
                        plan.covering.push(entry.path.clone());
                    }
                    _ => {}
                }
                plan.place.push(index);
            }
        }
        self.check_blobs(&needed, tree)?;
        for (path, output) in &standing.outputs {
            if !kept.contains(path.as_slice()) && self.task.settings.own != crate::config::Own::Observe {
                if !is_kept(self.store, output) {
                    return Err(NoPlan::NotKept(os(path).display().to_string()));
                }
                plan.remove.push((path.clone(), matches!(output, Output::Dir { .. })));
            }
        }
        for paths in [&mut plan.in_the_way, &mut plan.remove] {
            paths.sort_by(|one, other| other.cmp(one));
            paths.dedup();
        }
        Ok(plan)
    }

    /// Whether blobs hold what their names say. Their digests are known from the last time unless their stamps changed.
    fn check_blobs(&self, needed: &[(Digest, u64)], tree: &mut Tree<'_>) -> Result<(), StoreError> {
        let path = |digest: &Digest| self.store.blob_path(digest).into_os_string().into_vec();
        tree.expect(needed.iter().map(|(digest, _)| path(digest)));
        for (digest, size) in needed {
            let path = path(digest);
            let sound = match tree.attr(&path) {
                Ok(Some(attr)) if attr.kind == Kind::File && attr.size == *size => {
                    !self.task.settings.verify_integrity
                        && tree.digest(&path, &attr).is_ok_and(|found| found == *digest)
                }
                _ => false,
            };
            if !sound {
                // Says which kind of damage it is, if it is any.
                self.store.open_blob_sized(digest, *size).and_then(|_| self.store.verify_blob(digest)).inspect_err(
                    |error| {
                        if error.is_damage() && !self.task.only_asked {
                            let _ = self.store.quarantine(digest);
                        }
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Carries the plan out.
    pub fn restore(&self, plan: &Plan, newest_input: Time) -> anyhow::Result<RestoredAs> {
        if plan.place.is_empty() && plan.remove.is_empty() && plan.in_the_way.is_empty() {
            return Ok(RestoredAs::None);
        }
        // Who does not get the turn goes on without: only what would be left if this process were killed is not found then.
        let turn = Turn::take_within(self.store, &self.task.workspace, PATIENCE).ok();
        if let Some(turn) = &turn {
            turn.note(plan.place.iter().map(|index| plan.manifest.entries[*index].path.as_slice()));
        }
        let restored = self.restore_all(plan, newest_input);
        if let (Err(_), Some(turn)) = (&restored, &turn) {
            turn.leave();
        }
        restored
    }

    fn restore_all(&self, plan: &Plan, newest_input: Time) -> anyhow::Result<RestoredAs> {
        if let Some(mount) = &self.task.mount {
            self.restore_as_views(mount, plan, newest_input)?;
            return Ok(RestoredAs::Views);
        }
        let placer = self.placer()?;
        // First only what stands in the way: an input that the command consumed goes when its output is there.
        plan.in_the_way.iter().try_for_each(|path| remove(&placer, path))?;
        let placed = self.place_all(&placer, plan, &plan.place, newest_input)?;
        plan.remove.iter().try_for_each(|path| remove(&placer, path))?;
        Ok(match placed {
            (0, 0) => RestoredAs::None,
            (_, 0) => RestoredAs::Reflinks,
            _ => RestoredAs::Copies,
        })
    }

    /// Everything that is the task's own appears as views; what changed somebody else's file is written through the mount.
    fn restore_as_views(&self, mount: &Mount, plan: &Plan, newest_input: Time) -> anyhow::Result<()> {
        let entries = &plan.manifest.entries;
        let is_view = |index: &usize| !entries[*index].modified && !plan.standing_dirs.contains(index);
        let (views, real): (Vec<usize>, Vec<usize>) = plan.place.iter().partition(|index| is_view(index));
        let times = Spread::new(plan, &views, newest_input);
        let pieces = views.iter().map(|index| {
            let Entry { path, output, .. } = entries[*index].clone();
            Piece { path, output, rank: times.rank(*index) }
        });
        let in_the_way = plan.in_the_way.iter().map(|(path, _)| path);
        let mut first: Vec<Vec<u8>> = in_the_way.chain(&plan.covering).cloned().collect();
        // A directory in place of somebody's file is real, and comes before the views in it: these need a directory to show in.
        let is_new_dir =
            |index: &usize| matches!(entries[*index].output, Output::Dir { .. }) && !plan.standing_dirs.contains(index);
        let new_dirs: Vec<usize> = real.iter().copied().filter(is_new_dir).collect();
        if !new_dirs.is_empty() {
            self.attach(mount, &first, Vec::new(), times.clock)?;
            self.place_all(&self.placer()?, plan, &new_dirs, newest_input)?;
            first.clear();
        }
        self.attach(mount, &first, pieces.collect(), times.clock)?;
        if !real.is_empty() {
            self.place_all(&self.placer()?, plan, &real, newest_input)?;
        }
        let last: Vec<Vec<u8>> = plan.remove.iter().map(|(path, _)| path.clone()).collect();
        self.attach(mount, &last, Vec::new(), times.clock)
    }

    fn placer(&self) -> anyhow::Result<Placer> {
        let root = &self.task.workspace;
        Placer::new(root).with_context(|| format!("cannot open the workspace {}", root.display()))
    }

    /// Places entries by index; returns how many files were reflinked and how many copied.
    fn place_all(
        &self,
        placer: &Placer,
        plan: &Plan,
        which: &[usize],
        newest_input: Time,
    ) -> anyhow::Result<(usize, usize)> {
        let entries = &plan.manifest.entries;
        let (dirs, files): (Vec<usize>, Vec<usize>) =
            which.iter().copied().partition(|index| matches!(entries[*index].output, Output::Dir { .. }));
        // A directory without write permission gets its mode once it is filled.
        for index in &dirs {
            if let Output::Dir { mode } = entries[*index].output {
                let path = &entries[*index].path;
                placer
                    .make_dir(path, mode | 0o700)
                    .with_context(|| format!("cannot make the directory {}", os(path).display()))?;
            }
        }
        let times = Spread::new(plan, &files, newest_input);
        let _doing = doing("restoring outputs", Some(files.len() as u64));
        let place = |index: &usize| -> anyhow::Result<Option<Placed>> {
            let entry = &entries[*index];
            let placed = self
                .place(placer, entry, times.time(*index))
                .with_context(|| format!("cannot write {}", os(&entry.path).display()))?;
            done(1, if let Output::File { size, .. } = entry.output { size } else { 0 });
            Ok(placed)
        };
        let placed = in_parallel(&files, &place)?;
        for index in dirs.iter().rev() {
            if let Output::Dir { mode } = entries[*index].output.clone()
                && mode & 0o700 != 0o700
            {
                let path = &entries[*index].path;
                placer.set_mode(path, mode).with_context(|| format!("cannot write {}", os(path).display()))?;
            }
        }
        Ok(placed)
    }

    fn place(&self, placer: &Placer, entry: &Entry, mtime: Time) -> anyhow::Result<Option<Placed>> {
        match &entry.output {
            Output::File { digest, size, mode } => {
                let blob: File = self.store.open_blob_sized(digest, *size)?;
                // A privileged user's hit must not take somebody's file from them.
                let own = identity::effective_ids();
                let there = placer.stat(&entry.path)?.map(|attr| (attr.uid, attr.gid));
                let owner = there.filter(|there| own.0 == 0 && *there != own);
                Ok(Some(placer.place_file(&entry.path, &blob, *mode, mtime, owner)?))
            }
            Output::Link { target } => {
                placer.place_link(&entry.path, target, mtime)?;
                Ok(None)
            }
            Output::Dir { .. } | Output::Removed => Ok(None),
        }
    }
}

impl Plan {
    /// How many outputs the record has, removals not counted.
    pub fn outputs(&self) -> u64 {
        self.manifest.entries.iter().filter(|entry| entry.output != Output::Removed).count() as u64
    }
}

/// A path and everything below it.
fn collect_tree(
    tree: &mut Tree<'_>,
    absolute: &[u8],
    relative: &[u8],
    kind: Kind,
    into: &mut Vec<(Vec<u8>, bool)>,
) -> io::Result<()> {
    into.push((relative.to_vec(), kind == Kind::Dir));
    if kind == Kind::Dir {
        for (name, kind) in tree.ground().list(absolute)? {
            collect_tree(tree, &join(absolute, &name), &join(relative, &name), kind, into)?;
        }
    }
    Ok(())
}

/// Whether the path already is as the entry says.
fn stands(entry: &Entry, absolute: &[u8], attr: Option<&Attr>, tree: &mut Tree<'_>) -> io::Result<bool> {
    let Some(attr) = attr else { return Ok(false) };
    Ok(match &entry.output {
        Output::File { digest, size, mode } => {
            attr.kind == Kind::File
                && (attr.size, attr.mode) == (*size, *mode)
                && tree.digest(absolute, attr)? == *digest
        }
        Output::Link { target } => attr.kind == Kind::Link && tree.ground().read_link(absolute)? == *target,
        Output::Dir { mode } => attr.kind == Kind::Dir && attr.mode == *mode,
        Output::Removed => false,
    })
}

/// Modification times for the placed files: in the order of the record, all after the newest input if the clock allows, none after now.
struct Spread {
    ranks: BTreeMap<usize, u64>,
    clock: Clock,
}

impl Spread {
    fn new(plan: &Plan, which: &[usize], newest_input: Time) -> Spread {
        let recorded = |index: &usize| plan.times.get(*index).copied().unwrap_or(u64::MAX);
        let distinct: BTreeSet<u64> = which.iter().map(recorded).collect();
        let order: BTreeMap<u64, u64> = distinct.into_iter().zip(1..).collect();
        let now = Time::now();
        // One microsecond apart (some file systems count no finer), closer if the newest input leaves less room.
        let room = (now.0 - newest_input.0).max(0);
        let step = (room / (order.len() as i64 + 1)).clamp(1, 1_000);
        let first = Time(now.0 - step * order.len() as i64);
        let ranks = which.iter().map(|index| (*index, order.get(&recorded(index)).copied().unwrap_or(1))).collect();
        Spread { ranks, clock: Clock { first, step } }
    }

    fn rank(&self, index: usize) -> u64 {
        self.ranks.get(&index).copied().unwrap_or(1)
    }

    fn time(&self, index: usize) -> Time {
        Time(self.clock.first.0 + self.clock.step * self.rank(index) as i64)
    }
}

/// Runs `work` over all items on a few threads; returns how many were reflinked and how many copied.
fn in_parallel(
    items: &[usize],
    work: &(impl Fn(&usize) -> anyhow::Result<Option<Placed>> + Sync),
) -> anyhow::Result<(usize, usize)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (items.len() / FILES_PER_THREAD).clamp(1, cores.min(THREADS_MAX));
    let run = |items: &[usize]| -> anyhow::Result<(usize, usize)> {
        let mut counts = (0, 0);
        for item in items {
            match work(item)? {
                Some(Placed::Reflink) => counts.0 += 1,
                Some(Placed::Copy) => counts.1 += 1,
                None => {}
            }
        }
        Ok(counts)
    };
    if threads == 1 {
        return run(items);
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            items.chunks(items.len().div_ceil(threads)).map(|part| scope.spawn(move || run(part))).collect();
        let mut total = (0, 0);
        for part in parts {
            let (reflinked, copied) =
                part.join().map_err(|_| anyhow::anyhow!("a thread that placed files stopped"))??;
            total = (total.0 + reflinked, total.1 + copied);
        }
        Ok(total)
    })
}

fn remove(placer: &Placer, (path, is_dir): &(Vec<u8>, bool)) -> anyhow::Result<()> {
    let removed = if *is_dir { placer.remove_dir(path).map(drop) } else { placer.remove_file(path) };
    removed.or_else(gone).with_context(|| format!("cannot remove {}", os(path).display()))
}

/// Prints captured output again, each piece to its stream, in order. A reader that has gone away is not our failure.
pub fn replay(captured: &Captured) {
    let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
    for (stream, bytes) in &captured.pieces {
        let written = match stream {
            Stream::Stdout => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            Stream::Stderr => stderr.write_all(bytes),
        };
        if written.is_err() {
            return;
        }
    }
}

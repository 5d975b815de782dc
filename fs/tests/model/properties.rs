//! The properties: like the reference model after every operation, exact in what changed, sound in what was seen, tidy at the end.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;
use wink_fs::attr::{Kind, SetAttr, Time};
use wink_fs::backing::Backing;
use wink_fs::delta::{Change, Delta, Source};
use wink_fs::observe::Observed;
use wink_fs::status::Status;
use wink_fs::vfs::{Revealed, Vfs};
use wink_fs::view::{Checks, Setup, View};
use wink_fs::zone::{Zone, Zones};

use crate::kernel::Kernel;
use crate::memory::{Memory, OWNER, Shown, Snapshot};
use crate::plan::{Answer, Draft, NAMES, Op, Seed, drafts, grow, seeds};
use crate::reference::{Model, above, is_within};

/// Cases of an everyday run, unless `PROPTEST_CASES` says otherwise: some seconds.
const CASES: u32 = 400;
/// Calls of the tree beneath that an operation makes at most: one of them may fail.
const CALLS_MAX: u64 = 12;

fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    config.max_shrink_iters = 20_000;
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions")));
    config
}

/// A view of everything, in one zone.
pub fn setup_of(zone: Zone, hidden: &BTreeSet<String>, idle: usize) -> Setup {
    Setup {
        top: b"/".to_vec(),
        zones: Zones::new(zone),
        hidden: hidden.iter().map(|path| path.clone().into_bytes()).collect(),
        newer: None,
        made_up: Vec::new(),
        unnoted: HashSet::new(),
        clock_tick: std::time::Duration::ZERO,
        strict_dev: None,
        checks: Checks::Kernel,
        shown_as_own_group: Vec::new(),
        idle_files_max: idle,
    }
}

/// A view of all of `memory`.
pub fn view_of(memory: &Memory, zone: Zone, hidden: &BTreeSet<String>, idle: usize) -> View<Memory> {
    View::new(memory.clone(), setup_of(zone, hidden, idle), OWNER).expect("a view of memory")
}

/// Absolute path as text, the top as "".
fn text(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path).into_owned();
    if text == "/" { String::new() } else { text }
}

/// The chosen paths, and all below each.
fn closed_downward(memory: &Memory, picks: &[Index]) -> BTreeSet<String> {
    let paths: Vec<String> = memory.snapshot().into_keys().collect();
    if paths.is_empty() {
        return BTreeSet::new();
    }
    let tops: Vec<&String> = picks.iter().map(|pick| &paths[pick.index(paths.len())]).collect();
    paths.iter().filter(|path| tops.iter().any(|top| is_within(path, top))).cloned().collect()
}

fn without(mut snapshot: Snapshot, hidden: &BTreeSet<String>) -> Snapshot {
    snapshot.retain(|path, _| !hidden.contains(path));
    snapshot
}

/// Compares all that the view shows with the model.
fn differs<V: Vfs>(kernel: &mut Kernel<'_, V>, model: &Model, count_links: bool) -> Result<(), String> {
    let walked = kernel.walk().map_err(|status| format!("the walk failed: {status}"))?;
    let shown: Snapshot = walked.iter().map(|(path, walked)| (path.clone(), walked.shown.clone())).collect();
    let expected = model.snapshot();
    if shown != expected {
        return Err(format!("the view shows\n{shown:#?}\nand should show\n{expected:#?}"));
    }
    for (path, walked) in &walked {
        let thing = model.tree[path];
        if walked.attr.kind == Kind::Dir {
            continue;
        }
        if let Some(mtime) = model.things[thing].mtime
            && walked.attr.mtime != mtime
        {
            return Err(format!("{path} changed at {:?} and shows {:?}", mtime, walked.attr.mtime));
        }
        if count_links && walked.attr.nlink as usize != model.names_of(thing) {
            return Err(format!("{path} has {} names and shows {}", model.names_of(thing), walked.attr.nlink));
        }
    }
    Ok(())
}

/// The changes by path, with their bytes; staged files are told by their bytes alone.
fn resolved(delta: &Delta, memory: &Memory, lower: &Snapshot) -> BTreeMap<String, (Option<Shown>, Option<Kind>)> {
    let shown = |change: &Change| match change {
        Change::File { source: Source::Staged(id), attr } => {
            let bytes = memory.staged_bytes(*id).expect("a staged file of the delta");
            Some(Shown { kind: Kind::File, mode: attr.mode, bytes })
        }
        Change::File { source: Source::Beneath(path), attr } => {
            let bytes = lower[&text(path)].bytes.clone();
            Some(Shown { kind: Kind::File, mode: attr.mode, bytes })
        }
        Change::Link { target, .. } => Some(Shown { kind: Kind::Link, mode: 0, bytes: target.clone() }),
        Change::Dir { attr } => Some(Shown { kind: Kind::Dir, mode: attr.mode, bytes: Vec::new() }),
        Change::Special { kind } => Some(Shown { kind: *kind, mode: 0, bytes: Vec::new() }),
        Change::Removed => None,
    };
    delta.changes.iter().map(|changed| (text(&changed.path), (shown(&changed.change), changed.before))).collect()
}

/// The delta turns what stood beneath into what the view shows, and says no more than that.
fn check_delta(delta: &Delta, memory: &Memory, lower: &Snapshot, origin: &Model, model: &Model) -> Result<(), String> {
    let changes = resolved(delta, memory, lower);
    if changes.len() != delta.changes.len() || !delta.changes.is_sorted_by_key(|changed| &changed.path) {
        return Err("a path is named twice, or out of order".to_owned());
    }
    let mut result = lower.clone();
    for (path, (shown, before)) in &changes {
        if *before != lower.get(path).map(|shown| shown.kind) {
            return Err(format!("before {path}: says {before:?}, stood {:?}", lower.get(path)));
        }
        let (now, then) = (model.tree.get(path), origin.tree.get(path));
        if now == then && now.is_none_or(|&thing| !model.things[thing].touched && origin.names_of(thing) == 1) {
            return Err(format!("{path} is unchanged and in the delta"));
        }
        match shown {
            None if result.remove(path).is_none() => return Err(format!("{path} removed and never there")),
            None => {}
            Some(shown) => {
                result.insert(path.clone(), shown.clone());
            }
        }
    }
    // The mode of a special file is nobody's output.
    let plain = |mut snapshot: Snapshot| {
        snapshot.values_mut().filter(|shown| shown.kind == Kind::Pipe).for_each(|shown| shown.mode = 0);
        snapshot
    };
    let (result, expected) = (plain(result), plain(model.snapshot()));
    if result != expected {
        return Err(format!("the delta {changes:#?} gives\n{result:#?}\nand should give\n{expected:#?}"));
    }
    for changed in &delta.changes {
        if let Change::File { attr, .. } = &changed.change
            && let Some(mtime) = model.things[model.tree[&text(&changed.path)]].mtime
            && attr.mtime != mtime
        {
            return Err(format!("delta: {} changed at {mtime:?}, not {:?}", text(&changed.path), attr.mtime));
        }
    }
    for Revealed { path, names } in &delta.moved {
        let dir = text(path);
        let mut names: Vec<String> = names.iter().map(|(name, _)| text(name)).collect();
        names.sort();
        let stood: Vec<String> =
            lower.keys().filter(|path| above(path) == dir).map(|path| path[dir.len() + 1..].to_owned()).collect();
        if names != stood {
            return Err(format!("moved {dir}: {names:?}, but there stood {stood:?}"));
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Case {
    seeds: Vec<Seed>,
    hidden: Vec<Index>,
    drafts: Vec<Draft>,
    zone: Zone,
    /// Forget names at once.
    hasty: bool,
    /// Compare everything after every operation (and so look everything up).
    watch: bool,
    idle: usize,
    /// At which operation which call fails, and how.
    fault: Option<(Index, u64, Status)>,
}

fn case() -> impl Strategy<Value = Case> {
    let zone = prop_oneof![3 => Just(Zone::Task), 1 => Just(Zone::Outside), 1 => Just(Zone::Settled)];
    let hidden = prop::collection::vec(any::<Index>(), 0..3);
    let idle = prop::sample::select(vec![0, 3, 1000]);
    let fault = prop::option::weighted(
        0.3,
        (any::<Index>(), 0..CALLS_MAX, prop::sample::select(vec![Status::Io, Status::NoSpace])),
    );
    (seeds(), hidden, drafts(1..40), zone, any::<bool>(), any::<bool>(), idle, fault).prop_map(
        |(seeds, hidden, drafts, zone, hasty, watch, idle, fault)| {
            let task = zone == Zone::Task;
            let hidden = if task { hidden } else { Vec::new() };
            Case { seeds, hidden, drafts, zone, hasty, watch, idle, fault: fault.filter(|_| task) }
        },
    )
}

fn run(case: &Case) -> Result<(), String> {
    let memory = grow(&case.seeds);
    let hidden = closed_downward(&memory, &case.hidden);
    let attributes = memory.attributes();
    let lower = without(memory.snapshot(), &hidden);
    let origin = Model::of(&memory, &hidden);
    let mut model = origin.clone();
    let view = view_of(&memory, case.zone, &hidden, case.idle);
    let mut kernel = Kernel::new(&view, case.hasty);
    // A file with a hidden name is kept for good: the view cannot know that nobody will ever ask for that name.
    let tidy = !hidden.iter().any(|path| memory.look(path).is_ok_and(|attr| attr.nlink > 1 && attr.kind != Kind::Dir));
    let count_links = case.watch && hidden.is_empty();
    let mut log: Vec<Op> = Vec::new();
    let at = |log: &[Op], lower: &Snapshot, what: String| {
        format!("{what}\nlower {:?}\nhidden {hidden:?}\nafter {log:#?}", lower.keys().collect::<Vec<_>>())
    };
    if case.watch {
        differs(&mut kernel, &model, count_links).map_err(|what| at(&log, &lower, what))?;
    }
    for (nth, draft) in case.drafts.iter().enumerate() {
        let op = draft.settle(&model);
        log.push(op.clone());
        if let Some((when, call, status)) = &case.fault
            && when.index(case.drafts.len()) == nth
        {
            memory.fail(*call, *status);
        }
        let answer = kernel.apply(&op);
        let failed = memory.heal() && matches!(answer, Err(Status::Io | Status::NoSpace));
        let before = model.clone();
        let expected = model.apply(&op);
        if failed {
            // Done or not done, nothing between; and what was to be opened is not.
            let after = model.clone();
            model = before.clone();
            for (thing, after) in model.things.iter_mut().zip(&after.things) {
                thing.touched |= after.touched;
            }
            if differs(&mut kernel, &model, false).is_err() {
                model = Model { held: before.held, ..after };
                differs(&mut kernel, &model, false)
                    .map_err(|what| at(&log, &lower, format!("failed in between: {what}")))?;
            }
        } else if matches!(op, Op::HardLinkOpen { .. }) && (&answer, expected.is_ok()) == (&Err(Status::NotFound), true)
        {
            // A view knows of a file only the names that were looked at: an open one whose last known name is gone gets no new one, though
            // it may have others (SEMANTICS, "Hard links").
            model = before;
        } else if answer != expected {
            return Err(at(&log, &lower, format!("the view says {answer:?} and should say {expected:?}")));
        }
        if case.watch {
            differs(&mut kernel, &model, count_links).map_err(|what| at(&log, &lower, what))?;
        }
    }
    differs(&mut kernel, &model, count_links).map_err(|what| at(&log, &lower, what))?;
    kernel.leave();
    differs(&mut kernel, &model, count_links).map_err(|what| at(&log, &lower, what))?;
    kernel.forget();
    if tidy && view.node_count() != model.reachable() + 1 {
        return Err(at(&log, &lower, format!("{} nodes for {} things", view.node_count(), model.reachable() + 1)));
    }
    if case.zone == Zone::Task {
        if memory.attributes() != attributes {
            return Err(at(&log, &lower, "the lower tree changed".to_owned()));
        }
        let delta = view.delta().map_err(|status| at(&log, &lower, format!("delta: {status}")))?;
        check_delta(&delta, &memory, &lower, &origin, &model).map_err(|what| at(&log, &lower, what))?;
        let staged: BTreeSet<_> = delta
            .changes
            .iter()
            .filter_map(|changed| match &changed.change {
                Change::File { source: Source::Staged(id), .. } => Some(*id),
                _ => None,
            })
            .collect();
        if tidy && staged.len() != memory.staged_count() {
            let what = format!("{} staged files, {} in the delta", memory.staged_count(), staged.len());
            return Err(at(&log, &lower, what));
        }
    } else {
        let stands = memory.snapshot();
        if stands != model.snapshot() {
            return Err(at(&log, &lower, format!("the real tree is {stands:#?}")));
        }
    }
    raze(&mut kernel, &model).map_err(|what| at(&log, &lower, what))?;
    if tidy && (view.node_count(), memory.staged_count()) != (1, 0) {
        let what = format!("{} nodes and {} staged files left", view.node_count(), memory.staged_count());
        return Err(at(&log, &lower, what));
    }
    Ok(())
}

/// Removes everything.
fn raze<V: Vfs>(kernel: &mut Kernel<'_, V>, model: &Model) -> Result<(), String> {
    for (path, &thing) in model.tree.iter().rev() {
        let path = path.clone();
        let op = if model.things[thing].kind == Kind::Dir { Op::RemoveDir(path) } else { Op::RemoveFile(path) };
        kernel.apply(&op).map_err(|status| format!("{op:?}: {status}"))?;
    }
    kernel.forget();
    Ok(())
}

/// What a run of operations says and leaves.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    answers: Vec<Result<Answer, Status>>,
    changes: BTreeMap<String, (Option<Shown>, Option<Kind>)>,
    moved: BTreeMap<String, BTreeSet<(Vec<u8>, Kind)>>,
}

/// What a run revealed: paths asked for, and directories listed.
#[derive(Debug, Default)]
struct Seen {
    asked: BTreeSet<String>,
    listed: BTreeSet<String>,
}

/// Runs operations unwatched. `None` where the run would not be recorded: links were split, or the real tree was changed.
fn tell(memory: &Memory, zone: Zone, ops: &[Op]) -> Option<(Told, Seen)> {
    let lower = memory.snapshot();
    let observed = Observed::new(view_of(memory, zone, &BTreeSet::new(), 3));
    let mut kernel = Kernel::new(&observed, false);
    let answers = ops.iter().map(|op| kernel.apply(op)).collect();
    let view = observed.inner();
    if view.notes().split_link.is_some() || view.notes().outside.is_some() {
        return None;
    }
    let mut revealed = Seen::default();
    for (path, sight) in observed.recorder().take() {
        assert!(!sight.unsteady || zone != Zone::Task, "{} is unsteady", text(&path));
        if sight.names.is_some() {
            revealed.listed.insert(text(&path));
        }
        revealed.asked.insert(text(&path));
    }
    let delta = view.delta().expect("a delta");
    for changed in &delta.changes {
        // These count as inputs whether they were asked for or not: see `delta` and the engine's capture.
        if changed.before.is_some() {
            revealed.asked.insert(text(&changed.path));
        }
        if let Change::File { source: Source::Beneath(path), .. } = &changed.change {
            revealed.asked.insert(text(path));
        }
    }
    let mut moved = BTreeMap::new();
    for Revealed { path, names } in &delta.moved {
        revealed.asked.insert(text(path));
        revealed.listed.insert(text(path));
        moved.insert(text(path), names.iter().cloned().collect());
    }
    Some((Told { answers, changes: resolved(&delta, memory, &lower), moved }, revealed))
}

/// Changes something of the lower tree that a run did not see.
fn disturb(memory: &Memory, revealed: &Seen, which: &Index, bytes: &[u8]) -> Option<String> {
    let tree = memory.snapshot();
    let unseen = |path: &str| !revealed.asked.contains(path);
    let mut ways: Vec<(u8, String)> = Vec::new();
    for (path, shown) in &tree {
        let ino = memory.look(path).ok()?.ino;
        let free = unseen(path) && !revealed.listed.contains(above(path));
        let all_unseen = tree.keys().all(|other| memory.look(other).is_ok_and(|attr| attr.ino != ino) || unseen(other));
        match shown.kind {
            Kind::File => {
                ways.push((0, path.clone()));
                if all_unseen {
                    ways.push((1, path.clone()));
                }
            }
            Kind::Dir => ways.extend(NAMES.iter().map(|name| (3, format!("{path}/{name}")))),
            _ => {}
        }
        let below = tree.keys().any(|other| other != path && is_within(other, path));
        if free && !below {
            ways.push((2, path.clone()));
        }
    }
    ways.extend(NAMES.iter().map(|name| (3, format!("/{name}"))));
    ways.retain(|(way, path)| {
        *way != 3 || (!tree.contains_key(path) && unseen(path) && !revealed.listed.contains(above(path)))
    });
    if ways.is_empty() {
        return None;
    }
    let (way, path) = &ways[which.index(ways.len())];
    let (dir, name) = memory.place(path).ok()?;
    let done = match way {
        // A file that was seen keeps its bytes; its times are not recorded.
        0 => memory.set_attr(&dir, &name, &SetAttr { mtime: Some(Time(bytes.len() as i64)), ..SetAttr::default() }),
        1 => memory.file(path, bytes, 0o644),
        2 if tree[path].kind == Kind::Dir => memory.remove_dir(&dir, &name),
        2 => memory.remove_file(&dir, &name),
        _ if bytes.len().is_multiple_of(2) => memory.file(path, bytes, 0o644),
        _ => memory.dir(path, 0o755),
    };
    done.ok().map(|()| format!("{way} {path}"))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_view_is_a_posix_tree(case in case()) {
        if let Err(what) = run(&case) {
            prop_assert!(false, "{}", what);
        }
    }

    #[test]
    fn what_was_not_seen_does_not_matter(
        seeds in seeds(),
        drafts in drafts(1..24),
        outside in prop::bool::weighted(0.2),
        disturbances in prop::collection::vec((any::<Index>(), prop::collection::vec(any::<u8>(), 0..5)), 1..12),
    ) {
        let zone = if outside { Zone::Outside } else { Zone::Task };
        // The operations are settled against the model, so that they fit the tree they were first run in.
        let mut model = Model::of(&grow(&seeds), &BTreeSet::new());
        let mut ops = Vec::new();
        for draft in &drafts {
            let op = draft.settle(&model);
            let _ = model.apply(&op);
            ops.push(op);
        }
        let (first, second) = (grow(&seeds), grow(&seeds));
        if let Some((told, revealed)) = tell(&first, zone, &ops) {
            let done: Vec<String> = disturbances
                .iter()
                .filter_map(|(which, bytes)| disturb(&second, &revealed, which, bytes))
                .collect();
            match tell(&second, zone, &ops) {
                Some((again, _)) => prop_assert_eq!(
                    &again, &told, "after {:?}\nops {:#?}\nrevealed {:?}\ntree {:?}", done, ops, revealed, second.snapshot().keys()
                ),
                // A name that came or went beside a changed file is the one thing besides the sights that is noted.
                None => prop_assert!(true),
            }
        }
    }
}

//! Without a view: outputs are what is new in the workspace when the command has ended.
//!
//! For hosts that cannot mount. The command runs in the workspace itself, after the outputs of earlier runs of the same task were taken away, so that
//! every run is one from clean; if it fails they come back. Inputs are all files that lie in the workspace when it begins (`snapshot`), or those
//! that were named (`glob`); outside the workspace the program, its interpreter and the lists of installed packages are in the key
//! (`command::run::prepare`), and nothing else is seen. That is why nobody gets this without asking for it (ADR 0014).
//!
//! Whatever cannot be told from a difference of two moments is a doubt: a file that was there and is another or gone, other runs in the
//! workspace at the same time.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use wink_fs::attr::{Attr, Kind, Time};
use wink_fs::backing::{Backing, BackingFile};
use wink_fs::delta::{Change, Changed, Delta, Source};
use wink_fs::observe::Sight;
use wink_fs::vfs::Names;
use wink_fs::view::Notes;
use wink_fs::zone::{Zones, join};
use wink_platform::unix::backing::RealBacking;
use wink_platform::unix::place::Placer;
use wink_platform::unix::real_file::RealFile;
use wink_platform::unix::task::{self, Finished};
use wink_store::{Captured, Output, Staging};

use super::{Attempt, Detect, Ended};
use crate::config::{Own, matches_glob};
use crate::engine::Engine;
use crate::engine::capture::{Harvest, Yield};
use crate::engine::own::{Standing, is_history, is_kept};
use crate::engine::places::{is_tracked, on_the_way, scratch, zones};
use crate::engine::tree::{Tree, look, os};
use crate::engine::turn::{Alone, Turn};
use crate::environment::UNWATCHED;

/// More names than this are not compared: the command itself would be slower than what it would save.
const NAMES_MAX: usize = 500_000;
/// Kernels before 6.13 stamp files by a clock that ticks every 1 to 10 ms; doubled to be safe.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// See the module.
pub struct Snapshot {
    /// Only what `--input` and `--output` name counts.
    pub globs: bool,
    /// Why there is no view, if one was wanted.
    pub instead: Option<String>,
}

impl Detect for Snapshot {
    fn run<'s>(&self, engine: &Engine<'s>, standing: &Standing, _tree: &mut Tree<'s>) -> anyhow::Result<Attempt> {
        let task = engine.task;
        let root = &task.workspace;
        if task.mount.is_some() {
            return Ok(Attempt::NoView("in a mounted tree only tracing tells what a command does".to_owned()));
        }
        let alone = Alone::take(engine.store, root).with_context(|| format!("cannot lock {}", root.display()))?;
        let Some(alone) = alone else {
            let reason =
                "another command runs in this workspace, and without a view nobody can tell whose files are whose";
            return Ok(Attempt::NoView(reason.to_owned()));
        };
        let scratch = scratch(task, engine.store.dir());
        let (zones, unnoted) = (zones(task, &scratch), on_the_way(&scratch));
        let staging = engine.store.staging().context("cannot make a staging directory in the cache")?;
        let placer = Placer::new(root).with_context(|| format!("cannot open the workspace {}", root.display()))?;
        let mut removed = Removed { standing: Standing::default(), times: HashMap::new(), placer };
        if task.settings.own != Own::Observe {
            removed.take_away(engine, standing)?;
        }
        let survey = |engine: &Engine<'_>| {
            Survey::take(engine, &zones).with_context(|| format!("cannot list {}", root.display()))
        };
        let begin = || -> anyhow::Result<(Survey, Finished)> {
            let mut before = survey(engine)?;
            if before.is_fresh() {
                // What changes again within this tick of the clock would look the same.
                std::thread::sleep(CLOCK_TICK);
                before = survey(engine)?;
            }
            if let Some(why) = self.instead.as_ref().filter(|_| !task.quiet) {
                crate::complain(&format!(
                    "{why}; inputs and outputs are found by comparing the workspace before and after"
                ));
            }
            let mut spawn = task.spawn();
            spawn.env.push((UNWATCHED.into(), "1".into()));
            Ok((before, task::run(spawn, |_| ()).context("cannot start the command")?))
        };
        let (before, finished) = match begin() {
            Ok(begun) => begun,
            Err(error) => {
                removed.bring_back(engine)?;
                return Err(error);
            }
        };
        Ok(Attempt::Ran(Box::new(Compared {
            globs: self.globs,
            before,
            finished,
            removed,
            zones,
            unnoted,
            staging,
            alone,
        })))
    }
}

/// A run between two surveys.
struct Compared {
    globs: bool,
    before: Survey,
    finished: Finished,
    removed: Removed,
    zones: Zones,
    unnoted: std::collections::HashSet<Vec<u8>>,
    staging: Staging,
    alone: Alone,
}

impl Ended for Compared {
    fn finished(&mut self) -> &mut Finished {
        &mut self.finished
    }

    fn harvest<'s>(&mut self, engine: &Engine<'s>, tree: &mut Tree<'s>) -> anyhow::Result<Harvest> {
        let mut doubts = Vec::new();
        if self.alone.was_disturbed() {
            doubts.push("another task changed this workspace while the command ran".to_owned());
        }
        let after = Survey::take(engine, &self.zones)
            .with_context(|| format!("cannot list {}", engine.task.workspace.display()))?;
        let real = RealBacking::new(&engine.task.workspace, Some(self.staging.path()))
            .context("cannot open the staging directory")?;
        let mut changes = Vec::new();
        for (path, attr) in &after.attrs {
            match self.before.attrs.get(path) {
                None => {
                    let change = created(path, attr, &real);
                    let change = change.with_context(|| format!("cannot read {}", os(path).display()))?;
                    changes.push(Changed { path: path.clone(), change, before: None });
                }
                Some(old) if is_as_it_was(old, attr) || !self.counts(engine, path) => {}
                Some(_) => doubts.push(doubt(engine, path, "was changed")),
            }
        }
        let gone = self.before.attrs.keys().find(|path| !after.attrs.contains_key(*path) && self.counts(engine, path));
        doubts.extend(gone.map(|path| doubt(engine, path, "was removed")));
        if self.globs {
            doubts.extend(self.in_the_way(engine));
        }
        let live = !self.finished.survivors.is_empty();
        let run = Yield {
            delta: Delta { changes, moved: Vec::new() },
            sights: if self.globs { HashMap::new() } else { self.before.sights() },
            notes: Notes::default(),
            printed: Captured { pieces: self.finished.pieces.clone() },
            carried: None,
            hidden: &self.removed.standing,
            zones: &self.zones,
            unnoted: &self.unnoted,
            backing: &real,
            live,
            in_place: true,
        };
        let mut harvest = engine.capture(run, tree);
        harvest.deeds.clear();
        doubts.append(&mut harvest.doubts);
        harvest.doubts = doubts;
        Ok(harvest)
    }

    fn publish<'s>(
        &mut self,
        engine: &Engine<'s>,
        _harvest: &mut Harvest,
        _tree: &mut Tree<'s>,
        _turn: Option<&Turn>,
    ) -> anyhow::Result<()> {
        // All that the command left stands already. One that failed made nothing in place of what was taken away.
        if self.finished.outcome.exit_code() == 0 { Ok(()) } else { self.removed.bring_back(engine) }
    }

    fn stay(self: Box<Self>, _engine: &Engine<'_>) {
        if let Some(rest) = self.finished.rest {
            rest.pass_on();
        }
    }
}

impl Compared {
    /// Whether it matters what becomes of a path: where globs decide, of those that they name.
    fn counts(&self, engine: &Engine<'_>, path: &[u8]) -> bool {
        let settings = &engine.task.settings;
        let relative =
            path.strip_prefix(engine.workspace()).and_then(|rest| rest.strip_prefix(b"/")).unwrap_or_default();
        let mut named = settings.input.iter().chain(&settings.output);
        !self.globs || named.any(|glob| matches_glob(glob, relative))
    }

    /// What stood where a declared output goes, and is not known as one of an earlier run: nobody can tell whether the command would have made it.
    fn in_the_way(&self, engine: &Engine<'_>) -> Option<String> {
        let outputs = &engine.task.settings.output;
        let is_output = |path: &&Vec<u8>| {
            let relative = path.strip_prefix(engine.workspace()).and_then(|rest| rest.strip_prefix(b"/"));
            relative.is_some_and(|relative| outputs.iter().any(|glob| matches_glob(glob, relative)))
        };
        let mut files = self.before.attrs.iter().filter(|(_, attr)| attr.kind != Kind::Dir).map(|(path, _)| path);
        let path = files.find(is_output)?;
        let shown = String::from_utf8_lossy(path).into_owned();
        Some(format!("{shown} was there before the command began; remove it once, so that it is known as an output"))
    }
}

fn doubt(engine: &Engine<'_>, path: &[u8], what: &str) -> String {
    let relative = path.strip_prefix(engine.workspace()).and_then(|rest| rest.strip_prefix(b"/")).unwrap_or(path);
    let shown = String::from_utf8_lossy(relative);
    format!("{shown}, which was there before, {what}; only tracing can tell what came of that")
}

fn is_as_it_was(old: &Attr, now: &Attr) -> bool {
    if old.kind == Kind::Dir {
        return (now.kind, now.mode, now.uid, now.gid) == (Kind::Dir, old.mode, old.uid, old.gid);
    }
    let facts = |attr: &Attr| (attr.kind, attr.dev, attr.ino, attr.size, attr.mode, attr.mtime, attr.ctime);
    facts(old) == facts(now)
}

/// What the command made where nothing was. A file is copied into staging: a blob must not be a file that others may write to.
fn created(path: &[u8], attr: &Attr, real: &RealBacking) -> anyhow::Result<Change> {
    Ok(match attr.kind {
        Kind::File => {
            let source = RealFile::from(std::fs::File::open(os(path))?);
            let failed = |status| anyhow::anyhow!("{status}");
            let (staged, copy) = real.stage().map_err(failed)?;
            copy.clone_all(&source).map_err(failed)?;
            Change::File { source: Source::Staged(staged), attr: *attr }
        }
        Kind::Dir => Change::Dir { attr: *attr },
        Kind::Link => {
            let target = std::fs::read_link(os(path))?.into_os_string().into_encoded_bytes();
            Change::Link { target, attr: *attr }
        }
        kind => Change::Special { kind },
    })
}

/// Own outputs of earlier runs that were taken away.
struct Removed {
    standing: Standing,
    times: HashMap<Vec<u8>, Time>,
    placer: Placer,
}

impl Removed {
    /// Takes away what stands, if all of it can be brought back.
    fn take_away(&mut self, engine: &Engine<'_>, standing: &Standing) -> anyhow::Result<()> {
        if !standing.outputs.values().all(|output| is_kept(engine.store, output)) {
            return Ok(());
        }
        for (path, output) in standing.outputs.iter().rev() {
            let absolute = join(engine.workspace(), path);
            let mtime = look(&absolute)?.map(|attr| attr.mtime);
            let gone = match output {
                Output::Dir { .. } => self.placer.remove_dir(path),
                _ => self.placer.remove_file(path).map(|()| true),
            };
            match gone {
                Ok(true) => {
                    self.standing.outputs.insert(path.clone(), output.clone());
                    self.standing.paths.insert(absolute);
                    self.times.extend(mtime.map(|mtime| (path.clone(), mtime)));
                }
                // Something else is in it.
                Ok(false) => {}
                Err(error) => {
                    let error = anyhow::Error::from(error).context(format!("cannot remove {}", os(path).display()));
                    return self.bring_back(engine).and(Err(error));
                }
            }
        }
        Ok(())
    }

    /// Puts back what was taken away, where nothing else stands by now.
    fn bring_back(&self, engine: &Engine<'_>) -> anyhow::Result<()> {
        for (path, output) in &self.standing.outputs {
            if look(&join(engine.workspace(), path))?.is_some() {
                continue;
            }
            let mtime = self.times.get(path).copied().unwrap_or_else(Time::now);
            let placed = match output {
                Output::File { digest, size, mode } => {
                    let source = engine.store.open_blob_sized(digest, *size)?;
                    self.placer.place_file(path, &source, *mode, mtime, None).map(drop)
                }
                Output::Link { target } => self.placer.place_link(path, target, mtime),
                Output::Dir { mode } => self.placer.make_dir(path, *mode),
                Output::Removed => Ok(()),
            };
            placed.with_context(|| format!("cannot put {} back", os(path).display()))?;
        }
        Ok(())
    }
}

/// All that lies in a workspace at one moment, by absolute path. Version control's own directories, caches of tools and what the configuration
/// ignores are left out.
struct Survey {
    attrs: BTreeMap<Vec<u8>, Attr>,
    /// The names of each directory, sorted, with those that are left out.
    names: HashMap<Vec<u8>, Names>,
}

impl Survey {
    fn take(engine: &Engine<'_>, zones: &Zones) -> anyhow::Result<Survey> {
        let root = engine.workspace();
        let mut survey = Survey { attrs: BTreeMap::new(), names: HashMap::new() };
        let mut dirs = vec![root.to_vec()];
        if let Some(attr) = look(root)? {
            survey.attrs.insert(root.to_vec(), attr);
        }
        while let Some(dir) = dirs.pop() {
            let mut names = crate::engine::tree::list(&dir)?;
            names.sort();
            for (name, _) in &names {
                let path = join(&dir, name);
                let relative = path.strip_prefix(root).and_then(|rest| rest.strip_prefix(b"/")).unwrap_or_default();
                if is_history(relative) || engine.is_ignored(&path) || !is_tracked(zones, &path) {
                    continue;
                }
                // One that went meanwhile was somebody else's, and is missed later.
                let Some(attr) = look(&path)? else { continue };
                if attr.kind == Kind::Dir {
                    dirs.push(path.clone());
                }
                survey.attrs.insert(path, attr);
                anyhow::ensure!(survey.attrs.len() <= NAMES_MAX, "it holds more than {NAMES_MAX} files");
            }
            survey.names.insert(dir, names);
        }
        Ok(survey)
    }

    /// Whether something changed so recently that a second change might not show.
    fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let then = i128::try_from(now.saturating_sub(CLOCK_TICK).as_nanos()).unwrap_or(i128::MAX);
        self.attrs.values().any(|attr| i128::from(attr.ctime.0) > then)
    }

    /// As if a command had looked at all of it.
    fn sights(&self) -> HashMap<Vec<u8>, Sight> {
        let sight = |(path, attr): (&Vec<u8>, &Attr)| {
            let names = self.names.get(path).cloned();
            (path.clone(), Sight { attr: Some(*attr), names, unsteady: false })
        };
        self.attrs.iter().map(sight).collect()
    }
}

/// Whether this process runs inside a task that nobody watches.
pub fn is_inside() -> bool {
    std::env::var_os(UNWATCHED).is_some()
}

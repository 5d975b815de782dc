//! One run of the command in its view.
//!
//! The child process enters its namespaces and mounts the view; this process serves it from then on, on threads of its own. When
//! the command has ended the view is asked to write back what programs changed through mapped memory, and whether it is still the
//! view: if the mount died meanwhile, what was seen is not all that happened.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use wink_fs::layered::Layered;
use wink_fs::name::Name;
use wink_fs::observe::Observed;
use wink_fs::view::{Checks, Newer, Setup, View};
use wink_fs::zone::{Zone, Zones};
use wink_platform::unix::backing::RealBacking;
use wink_platform::unix::enter::{self, Door};
use wink_platform::unix::fuse::{Serve, Serving, Transport, serve};
use wink_platform::unix::identity;
use wink_platform::unix::task::{self, Finished, Spawn};
use wink_store::Staging;
use wink_store::seam::{Place, Step, gate};

use super::places::{UNTRACKED, on_the_way, scratch, watched, zones};
use super::publish::Deed;
use super::{Engine, answering};
use crate::config::Scope;
use crate::outer;

/// How long the child may take to mount the view; it takes about a millisecond.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(20);
/// Threads that answer requests: a second one, so that a long copy does not hold up everything else.
const THREADS: usize = 2;
/// Kernels before 6.13 stamp files by a clock that ticks every 1 to 10 ms (`CONFIG_HZ`); doubled to be safe.
const CLOCK_TICK: Duration = Duration::from_millis(20);
/// Descriptors left for everything but files of the view.
const DESCRIPTORS_SPARED: u64 = 256;
/// Address space that serving a view takes: a buffer of 16 MiB for each thread and one to begin with, stacks, and room for nodes. Where less is
/// to be had, an allocation that fails would end the run in the middle.
const MEMORY_SPARED: usize = 80 << 20;

/// The view type of a run.
pub type TaskView = Observed<View<Layered<RealBacking>>>;

/// A run that took place.
pub struct Ran {
    /// How it ended and what it printed.
    pub finished: Finished,
    /// The view, still there.
    pub view: Arc<TaskView>,
    /// What happens where.
    pub zones: Zones,
    /// Directories on the way to tool caches.
    pub unnoted: HashSet<Vec<u8>>,
    /// Why what was seen may not be all.
    pub doubt: Option<String>,
    /// What was published when the command ended, kept if processes outlived it.
    pub published: Vec<Deed>,
    /// Keeps the view served; to be held as long as any process of the task lives.
    pub serving: Option<Serving>,
    /// Holds the staged files.
    #[allow(dead_code, reason = "held for its end: dropping it removes the directory")]
    pub staging: Staging,
}

/// What became of a run.
pub enum Outcome {
    /// The command ran in its view.
    Ran(Box<Ran>),
    /// There is no view to be had, for this reason; nothing was run.
    NoView(String),
}

impl Engine<'_> {
    /// Runs the command in a view that hides `hidden` and makes all but what `newer` excepts look new.
    pub fn run_in_view(
        &self,
        hidden: HashSet<Vec<u8>>,
        newer: Option<Newer>,
        spawn: Spawn<'_>,
    ) -> anyhow::Result<Outcome> {
        let staging = self.store.staging().context("cannot make a staging directory in the cache")?;
        let (mountpoint, files) = (staging.path().join("view"), staging.path().join("files"));
        let asked_at = staging.path().join("ask");
        gate(Place::Store, Step::MakeDir)?;
        std::fs::create_dir(&mountpoint).context("cannot make a mount point in the cache")?;
        gate(Place::Store, Step::MakeDir)?;
        std::fs::create_dir(&files).context("cannot make a staging directory in the cache")?;
        let scratch = scratch(self.task, self.store.dir());
        if let Some(reason) = too_few_descriptors() {
            return Ok(Outcome::NoView(reason));
        }
        let descriptors = wink_platform::unix::raise_descriptor_limit();
        if Vec::<u8>::new().try_reserve_exact(MEMORY_SPARED).is_err() {
            return Ok(Outcome::NoView(format!("a view needs {} MB of memory", MEMORY_SPARED >> 20)));
        }
        let (top, zones, scope) = match self.task.settings.scope {
            Scope::System => (PathBuf::from("/"), zones(self.task, &scratch), self.system_scope(&scratch)),
            Scope::Workspace => {
                let mut zones = Zones::new(Zone::Task);
                for path in scratch.iter().filter(|path| path.starts_with(&self.task.workspace)) {
                    zones.set(path.as_os_str().as_bytes(), Zone::Scratch);
                }
                let scope = enter::Scope::Workspace(self.task.workspace.clone());
                (self.task.workspace.clone(), zones, scope)
            }
        };
        let unnoted = on_the_way(&scratch);
        let ids = identity::effective_ids();
        let privileged = ids.0 == 0;
        let backing = self.beneath(&top, &files).context("cannot open the file tree")?;
        let setup = Setup {
            top: top.as_os_str().as_bytes().to_vec(),
            zones: zones.clone(),
            hidden,
            newer,
            made_up: self.task.canonical_root().and_then(made_up).into_iter().collect(),
            unnoted: unnoted.clone(),
            clock_tick: CLOCK_TICK,
            strict_dev: strict_dev(&self.task.workspace),
            checks: if privileged { Checks::Kernel } else { Checks::View },
            shown_as_own_group: if privileged { Vec::new() } else { identity::supplementary_groups() },
            idle_files_max: usize::try_from(descriptors.saturating_sub(DESCRIPTORS_SPARED) / 2).unwrap_or(0),
        };
        let view = View::new(backing, setup, ids).map_err(|status| anyhow!("cannot set up the view: {status}"))?;
        let view = Arc::new(Observed::new(view));
        let options = if privileged { "default_permissions" } else { "" };
        let manner = answering::Manner { quiet: self.task.quiet, apart: self.task.only_asked };
        answering::start(&view, &asked_at, manner).context("cannot make a socket in the cache")?;
        let entrance = enter::View {
            mountpoint,
            scope,
            cwd: self.task.shown_cwd(),
            options: options.to_owned(),
            asked_at: Some(asked_at),
        };
        let (inside, door) = match enter::prepare(&entrance) {
            Ok(sides) => sides,
            Err(error) => return Ok(Outcome::NoView(format!("the view cannot be prepared: {error}"))),
        };
        let server = std::thread::spawn({
            let view = view.clone();
            let transport = self.task.settings.transport.into();
            move || welcome(view, door, transport)
        });
        let finished = task::run(Spawn { inside: Some(inside), ..spawn }, |_| ());
        let welcomed = server.join().map_err(|_| anyhow!("the thread that serves the view stopped"))?;
        let (serving, root) = match welcomed {
            Ok(welcomed) => welcomed,
            Err(reason) => return Ok(Outcome::NoView(reason)),
        };
        let finished = finished.context("cannot start the command")?;
        let doubt = match identity::write_back(&root) {
            Ok(()) => None,
            Err(error) => Some(format!("the view in which the command ran went away: {error}")),
        };
        drop(root);
        Ok(Outcome::Ran(Box::new(Ran {
            finished,
            view,
            zones,
            unnoted,
            published: Vec::new(),
            doubt,
            serving: Some(serving),
            staging,
        })))
    }

    /// What lies beneath the view: in a mounted tree the real directory and its layer, not the mount.
    fn beneath(&self, top: &Path, files: &Path) -> anyhow::Result<Layered<RealBacking>> {
        match &self.task.mount {
            Some(mount) if top.parent().is_none() => mount.snapshot(self.store, Some(files)),
            Some(mount) => {
                let at = mount.relative(top.as_os_str().as_bytes()).context("the workspace lies in no mount")?;
                mount.snapshot_below(at, self.store, files)
            }
            None => {
                let real = RealBacking::new(top, Some(files))?.with_spill(&self.task.workspace)?;
                Ok(Layered::plain(real))
            }
        }
    }

    fn system_scope(&self, scratch: &[PathBuf]) -> enter::Scope {
        let untracked = |path: &Path| UNTRACKED.iter().any(|tree| path.starts_with(tree));
        let mut bind: Vec<PathBuf> = UNTRACKED.iter().map(PathBuf::from).collect();
        let inner = |path: &&PathBuf| path.starts_with(&self.task.workspace);
        // What lies in an untracked tree comes along with it.
        bind.extend(scratch.iter().filter(|path| path.is_dir() && !untracked(path) && !inner(path)).cloned());
        let workspace = &self.task.workspace;
        let around = watched(self.task).filter(|path| untracked(path));
        let mut from_view: Vec<_> = around.map(|path| (path.to_owned(), path.to_owned())).collect();
        if untracked(workspace) {
            from_view.push((workspace.clone(), workspace.clone()));
        }
        if let Some(canonical) = self.task.canonical_root() {
            from_view.push((workspace.clone(), canonical.to_owned()));
        }
        enter::Scope::System { bind, from_view }
    }
}

/// Why there can be no view: the command would meet its limit of open files, and fail where it would not without.
pub fn too_few_descriptors() -> Option<String> {
    let descriptors = wink_platform::unix::raise_descriptor_limit();
    (descriptors < DESCRIPTORS_SPARED)
        .then(|| format!("a view needs {DESCRIPTORS_SPARED} open files, {descriptors} are allowed"))
}

/// The device of a workspace in which files never keep their ctime when they change: it lies in that of an outer task.
fn strict_dev(workspace: &Path) -> Option<u64> {
    let outer = outer::around(workspace)?;
    let nodes = outer.nodes(&[workspace.metadata().ok()?.ino()]).ok()?;
    nodes.first().copied().flatten().is_some_and(|node| node.strict).then(|| outer.dev())
}

/// The name in the top of the view at which a workspace is to be shown, if it is directly there; deeper ones must exist.
fn made_up(canonical: &Path) -> Option<Name> {
    let mut names = canonical.components().skip(1);
    let name = names.next()?.as_os_str().as_bytes();
    names.next().is_none().then(|| Name::new(name).ok()).flatten()
}

/// Serves the view that the child mounts, and returns its root when the child is inside.
fn welcome(view: Arc<TaskView>, door: Door, transport: Transport) -> Result<(Serving, OwnedFd), String> {
    let device = door.receive(MOUNT_TIMEOUT).map_err(|error| error.to_string())?;
    let how = Serve { transport, threads: THREADS, working_tree: false };
    let serving = serve(view.clone(), device, how).map_err(|error| format!("the view cannot be served: {error}"))?;
    let root = door.entered().map_err(|error| error.to_string())?;
    Ok((serving, root))
}

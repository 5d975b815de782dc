//! The single checks, from the kernel up.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use wink_platform::unix::machine::{self, Reflink};
use wink_platform::unix::{identity, probe};
use wink_store::Store;

use super::{Check, Here};
use crate::config::Transport;
use crate::engine::session::too_few_descriptors;
use crate::report::human_bytes;
use crate::workspace::Because;

/// With less room than this a single build may fill the disk.
const FREE_LEAST: u64 = 1_000_000_000;

/// All of them.
pub fn all(here: &Here) -> Vec<Check> {
    let mut checks = vec![kernel(), fuse_device(), namespaces()];
    // Where a mount is tried out, unseen by anybody: over `/` it would tell nothing.
    let aside = std::env::temp_dir();
    let place = if here.workspace.parent().is_some() { &here.workspace } else { &aside };
    checks.push(view(place, checks.iter().all(|check| check.outcome == super::Outcome::Ok)));
    checks.extend([pivot_root(&aside), open_files(), passthrough(), io_uring(here), fusermount()]);
    checks.push(workspace(here));
    checks.extend(configuration(here));
    if let Some(store) = &here.store {
        checks.extend(cache(store));
        checks.extend(disks(&here.workspace, store));
        checks.push(daemon(store));
    }
    checks
}

fn kernel() -> Check {
    Check::ok("kernel", format!("Linux {} on {}", probe::kernel(), std::env::consts::ARCH))
}

/// A message that ends with its remedy, as the failures of entering a view do.
fn required(name: &'static str, found: &str, result: Result<(), String>) -> Check {
    match result {
        Ok(()) => Check::ok(name, found),
        Err(message) => match message.split_once("; ") {
            Some((what, mend)) => Check::fail(name, what, mend),
            None => Check::fail(name, message, ""),
        },
    }
}

fn fuse_device() -> Check {
    required("fuse", "/dev/fuse can be opened for reading and writing", probe::fuse_available())
}

fn namespaces() -> Check {
    let found = match identity::effective_ids().0 {
        0 => "a private mount namespace can be had",
        _ => "private user and mount namespaces can be had",
    };
    required("namespaces", found, probe::namespaces_available())
}

/// Only where its parts are there: else their own lines say what is missing.
fn view(place: &Path, possible: bool) -> Check {
    if !possible {
        return Check::fail("view", "not tried, since something it needs is missing", "see above");
    }
    let tried = probe::view_available(place).map_err(|error| error.to_string());
    required("view", "a view can be mounted", tried)
}

fn pivot_root(dir: &Path) -> Check {
    match machine::pivot_available(dir) {
        Ok(()) => Check::ok("pivot_root", "a view can become the root directory of a command"),
        Err(error) => Check::lack(
            "pivot_root",
            error.to_string(),
            "views are entered by chroot, inside which nobody can make user namespaces: browsers and bubblewrap fail there",
            "run wink outside of a chroot and of the initial ramfs, or with --scope workspace",
        ),
    }
}

fn open_files() -> Check {
    match too_few_descriptors() {
        None => Check::ok("open files", format!("{} are allowed", wink_platform::unix::raise_descriptor_limit())),
        Some(reason) => Check::fail("open files", reason, "raise the limit: ulimit -n 4096"),
    }
}

fn passthrough() -> Check {
    match machine::no_passthrough() {
        None => Check::ok("passthrough", "the kernel reads and writes large files of views by itself"),
        Some(reason) => Check::lack(
            "passthrough",
            reason,
            "large files (programs of 100 MB, archives) go through wink: slower on first reading",
            "Linux 6.9 or newer, and wink run as root; nothing to do for an ordinary user",
        ),
    }
}

fn io_uring(here: &Here) -> Check {
    const MEND: &str = "as root: echo Y > /sys/module/fuse/parameters/enable_uring (Linux 6.14 or newer), sysctl kernel.io_uring_disabled=0";
    let insisted = here.config.as_ref().is_ok_and(|config| config.transport.value == Transport::Uring);
    match machine::no_uring() {
        None => Check::ok("io_uring", "this kernel offers FUSE over io_uring"),
        Some(reason) if insisted => Check::fail("io_uring", reason, &format!("transport = \"auto\"; or, {MEND}")),
        Some(reason) => {
            Check::lack("io_uring", reason, "requests to views go over /dev/fuse, which costs more each", MEND)
        }
    }
}

fn fusermount() -> Check {
    let root = identity::effective_ids().0 == 0;
    match machine::program("fusermount3") {
        Some(path) => Check::ok("fusermount3", path.display().to_string()),
        None if root => Check::ok("fusermount3", "not installed; root needs none"),
        None => Check::lack(
            "fusermount3",
            "not in PATH",
            "wink mount works only with --private; wink run needs none",
            "install the package fuse3",
        ),
    }
}

fn workspace(here: &Here) -> Check {
    let root = here.workspace.display();
    if here.workspace.parent().is_none() {
        return Check::fail("workspace", "it is the whole file system", "run wink in a project");
    }
    if identity::is_read_only(&here.workspace) {
        return Check::fail("workspace", format!("{root} is mounted read-only"), "mount it for writing");
    }
    let because = match here.because {
        Because::Config => "it holds wink.toml or wink.json",
        Because::Git => "it is the top of a git work tree",
        Because::CurrentDirectory => {
            "it is the current directory; an empty wink.toml at the top of the project makes that the workspace"
        }
    };
    Check::ok("workspace", format!("{root}: {because}"))
}

fn configuration(here: &Here) -> Vec<Check> {
    let config = match &here.config {
        Ok(config) => config,
        Err(error) => {
            let mut check = Check::fail("configuration", crate::explain(error), "correct it: docs/CONFIGURATION.md");
            check.costs = Some("wink run ends with exit code 125 and runs nothing".to_owned());
            return vec![check];
        }
    };
    let mut checks: Vec<Check> = config
        .notices
        .iter()
        .map(|notice| Check::lack("configuration", notice.clone(), "the variable configures nothing", ""))
        .collect();
    if let Err(error) = config.store_dir() {
        checks.push(Check::fail("cache", crate::explain(&error), ""));
    }
    if checks.is_empty() {
        checks.push(Check::ok("configuration", "no mistakes; wink config show tells each value"));
    }
    checks
}

/// Whether the cache can be used, without making one.
fn cache(dir: &Path) -> Vec<Check> {
    if !dir.try_exists().unwrap_or(true) {
        let above = dir.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
        return vec![match identity::may_write(above) {
            true => Check::ok("cache", format!("{} does not exist yet; the first run makes it", dir.display())),
            false => Check::fail(
                "cache",
                format!("{} does not exist, and cannot be made: {} is not writable", dir.display(), above.display()),
                "set cache_dir or WINK_CACHE_DIR to another place",
            ),
        }];
    }
    let store = match Store::open(dir) {
        Ok(store) => store,
        Err(error) => return vec![required("cache", "", Err(error.to_string()))],
    };
    let mut checks = vec![Check::ok("cache", format!("{} can be used", dir.display()))];
    if let Some(notice) = store.notice() {
        checks.push(Check::lack("index", notice, "hits are lost once; the commands make the entries anew", ""));
    }
    checks.push(match store.index_flaw() {
        Ok(None) => Check::ok("index", "no damage found"),
        Ok(Some(flaw)) => Check::lack(
            "index",
            flaw,
            "some hits may be lost, never a file",
            "the next run that meets the damage starts a new index",
        ),
        Err(error) => Check::fail("index", error.to_string(), ""),
    });
    checks
}

fn disks(workspace: &Path, store: &Path) -> Vec<Check> {
    let there = store.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let kind = |path: &Path| machine::file_system(path).unwrap_or_else(|| "unknown".to_owned());
    let device = |path: &Path| path.metadata().map(|data| data.dev()).ok();
    let mut checks = Vec::new();
    match identity::free_bytes(there) {
        Some(free) if free < FREE_LEAST => checks.push(Check::lack(
            "room",
            format!("{} are free on the disk of the cache", human_bytes(free)),
            "results that do not fit are published and not cached",
            "make room, or set cache_dir or WINK_CACHE_DIR to another disk",
        )),
        Some(free) => {
            checks.push(Check::ok("room", format!("{} are free on the disk of the cache", human_bytes(free))))
        }
        None => {}
    }
    let kinds = format!("workspace on {}, cache on {}", kind(workspace), kind(there));
    // In a mounted tree outputs are views and nothing is copied.
    let mounted = kind(workspace) == "fuse.wink";
    checks.push(match machine::reflink(there, workspace) {
        Reflink::Works => Check::ok("reflink", format!("outputs share their blocks with the cache ({kinds})")),
        _ if mounted => Check::ok("reflink", "not needed: the workspace is mounted, outputs are views"),
        Reflink::Refused if device(workspace) != device(there) => Check::lack(
            "reflink",
            format!("the cache lies on another disk ({kinds})"),
            "a hit copies the bytes of what it restores, and a miss what it publishes",
            "put the cache on the same disk, XFS or Btrfs (cache_dir), or use wink mount: then nothing is copied",
        ),
        Reflink::Refused => Check::lack(
            "reflink",
            format!("this file system cannot share blocks ({kinds})"),
            "a hit copies the bytes of what it restores",
            "keep workspace and cache on XFS or Btrfs, or use wink mount: then nothing is copied",
        ),
        Reflink::Unknown => Check::lack(
            "reflink",
            format!("it cannot be tried out ({kinds})"),
            "perhaps a hit copies the bytes of what it restores",
            "",
        ),
    });
    checks
}

fn daemon(store: &Path) -> Check {
    match crate::command::mount::daemon_status(store) {
        Ok(None) => Check::ok("daemon", "not running; wink mount starts it, wink run needs none"),
        Ok(Some(status)) if status.version != env!("CARGO_PKG_VERSION") => Check::lack(
            "daemon",
            format!("process {} is of version {}", status.pid, status.version),
            "mounted trees are served by the older program",
            "unmount everything, then wink daemon stop",
        ),
        Ok(Some(status)) => {
            let mounts = match status.mounts.as_slice() {
                [] => "nothing is mounted".to_owned(),
                [one] => format!("{} is mounted", one.dir),
                several => format!("{} directories are mounted", several.len()),
            };
            Check::ok("daemon", format!("process {} runs, {mounts}", status.pid))
        }
        Err(error) => Check::lack(
            "daemon",
            crate::explain(&error),
            "mounted trees may not answer, and runs in them are uncached",
            "wink daemon stop, or end the process; daemon.log in the cache may tell why",
        ),
    }
}

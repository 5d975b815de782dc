//! Which parts of the system a task's view treats in which way: untracked trees, tool caches, system directories.
//!
//! The lists are published in `docs/ENVIRONMENT.md`.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use wink_fs::zone::{Zone, Zones};

use super::Task;
use crate::outer;

/// Trees of the running system, not of files: the real ones, untracked. A workspace below one of them is tracked all the same, and so is
/// that of an outer task.
pub const UNTRACKED: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// Directories that only the system's own package manager changes, so that the kernel may keep what it was told of them.
const SETTLED: [&str; 10] = ["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix"];

/// Toolchains in the home directory, which only their managers change.
const SETTLED_IN_HOME: [&str; 14] = [
    ".rustup/toolchains",
    ".cargo/bin",
    ".nvm/versions",
    ".volta/tools",
    ".pyenv/versions",
    ".pyenv/shims",
    ".rbenv/versions",
    ".asdf/installs",
    ".local/share/mise/installs",
    ".sdkman/candidates",
    ".local/bin",
    ".local/lib",
    ".bun/bin",
    ".deno/bin",
];

/// Caches of tools in the home directory: their content is decided by what the tool checks itself (lock files, digests), never by
/// what lies there.
const SCRATCH_IN_HOME: [&str; 23] = [
    ".cache",
    ".npm",
    ".yarn/cache",
    ".yarn/berry/cache",
    ".pnpm-store",
    ".local/share/pnpm/store",
    ".bun/install/cache",
    ".cargo/registry",
    ".cargo/git",
    ".cargo/.package-cache",
    ".cargo/.package-cache-mutate",
    ".cargo/.global-cache",
    ".cargo/.global-cache-journal",
    ".rustup/tmp",
    ".rustup/downloads",
    "go/pkg/mod",
    ".gradle/caches",
    ".gradle/daemon",
    ".m2/repository",
    ".nuget/packages",
    ".ccache",
    ".pip/cache",
    ".local/state",
];

/// Caches of the system.
const SCRATCH_OF_SYSTEM: [&str; 2] = ["/var/tmp", "/var/cache"];

/// Directories of tool caches named by the variables with which tools are told of them.
const SCRATCH_BY_VARIABLE: [(&str, &[&str]); 6] = [
    ("XDG_CACHE_HOME", &[""]),
    (
        "CARGO_HOME",
        &["registry", "git", ".package-cache", ".package-cache-mutate", ".global-cache", ".global-cache-journal"],
    ),
    ("npm_config_cache", &[""]),
    ("GOCACHE", &[""]),
    ("GOMODCACHE", &[""]),
    ("CCACHE_DIR", &[""]),
];

/// All tool caches of a task, absolute.
pub fn scratch(task: &Task, store: &Path) -> Vec<PathBuf> {
    let mut scratch: Vec<PathBuf> = SCRATCH_OF_SYSTEM.iter().map(PathBuf::from).collect();
    scratch.push(store.to_owned());
    if let Some(home) = &task.home {
        scratch.extend(SCRATCH_IN_HOME.iter().map(|name| home.join(name)));
    }
    for (variable, names) in SCRATCH_BY_VARIABLE {
        let Some((_, dir)) = task.environment.iter().find(|(name, _)| name == variable) else { continue };
        let dir = Path::new(dir);
        if dir.is_absolute() {
            scratch.extend(names.iter().map(|name| if name.is_empty() { dir.to_owned() } else { dir.join(name) }));
        }
    }
    for configured in &task.settings.scratch {
        let path = match (configured.strip_prefix("~/"), &task.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => task.workspace.join(configured),
        };
        scratch.push(path);
    }
    // A cache reached through a link is where the link leads; and a workspace is never a cache.
    let mut scratch: Vec<PathBuf> = scratch
        .into_iter()
        .map(|path| path.canonicalize().unwrap_or(path))
        .filter(|path| !task.workspace.starts_with(path))
        .collect();
    scratch.sort();
    scratch.dedup();
    scratch
}

/// Directories above tool caches: a tool that makes its cache makes these first.
pub fn on_the_way(scratch: &[PathBuf]) -> HashSet<Vec<u8>> {
    let above = scratch.iter().flat_map(|path| path.ancestors().skip(1));
    above.map(|path| path.as_os_str().as_bytes().to_vec()).collect()
}

/// What happens where.
pub fn zones(task: &Task, scratch: &[PathBuf]) -> Zones {
    let mut zones = Zones::new(Zone::Outside);
    for path in SETTLED {
        zones.set(path.as_bytes(), Zone::Settled);
    }
    for path in task.home.iter().flat_map(|home| SETTLED_IN_HOME.map(|name| home.join(name))) {
        zones.set(path.as_os_str().as_bytes(), Zone::Settled);
    }
    for path in UNTRACKED {
        zones.set(path.as_bytes(), Zone::Scratch);
    }
    for path in scratch {
        zones.set(path.as_os_str().as_bytes(), Zone::Scratch);
    }
    for path in watched(task) {
        zones.set(path.as_os_str().as_bytes(), Zone::Outside);
    }
    zones.set(task.workspace.as_os_str().as_bytes(), Zone::Task);
    zones
}

/// What an outer task watches around this one's workspace, though it may lie in an untracked tree.
pub fn watched(task: &Task) -> impl Iterator<Item = &'static Path> {
    outer::watched().filter(|dir| !dir.starts_with(&task.workspace))
}

/// Whether observations of an absolute path count: not those of untracked trees and tool caches.
pub fn is_tracked(zones: &Zones, path: &[u8]) -> bool {
    zones.of(path) != Zone::Scratch
}

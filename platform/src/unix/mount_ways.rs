//! Whether the real directory beneath a mount can be reached past it: by a bind mount, or in a mount namespace that does not have the mount.
//!
//! Namespaces whose processes this user may not look into are passed over: nobody else can tell what they see.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::glance::STAMP_THEIR_NAMES;
use super::mounts::{Line, lines};

/// Whether somebody may change the directory whom nobody here sees: another machine, or whoever serves it. So it is wherever it does not lie on one of the
/// file systems that are known to be this machine's own.
pub fn is_shared(dir: impl AsFd) -> bool {
    !rustix::fs::fstatfs(dir).is_ok_and(|found| STAMP_THEIR_NAMES.contains(&(found.f_type as u32)))
}

/// Whether there is another way to the directory beneath the mount with device number `dev` at `dir`.
pub fn is_open_elsewhere(dir: &Path, dev: u64) -> bool {
    let Ok(own) = table(Path::new("/proc/self")) else { return true };
    let holder = own.iter().filter(|line| line.dev != dev && dir.starts_with(&line.dir));
    // The last of equal ones covers the others.
    let Some(holder) = holder.max_by_key(|line| line.dir.as_os_str().len()) else { return true };
    let Ok(rest) = dir.strip_prefix(&holder.dir) else { return true };
    let beneath = (holder.dev, join(&holder.root, rest));
    if has_way(&own, &beneath, dev) {
        return true;
    }
    let mut seen: HashSet<PathBuf> = fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else { return false };
        // One that ended meanwhile opens nothing.
        seen.insert(namespace) && table(&process.path()).is_ok_and(|lines| has_way(&lines, &beneath, dev))
    })
}

/// Whether one of a namespace's mounts shows the directory (device, path on it) or a part of it, uncovered by the mount.
fn has_way(table: &[Line], (beneath_dev, beneath): &(u64, PathBuf), dev: u64) -> bool {
    let covered: Vec<&PathBuf> = table.iter().filter(|line| line.dev == dev).map(|line| &line.dir).collect();
    table.iter().filter(|line| line.dev == *beneath_dev).any(|line| match beneath.strip_prefix(&line.root) {
        Ok(rest) => {
            let shown = join(&line.dir, rest);
            !covered.iter().any(|dir| **dir == shown)
        }
        Err(_) => line.root.starts_with(beneath),
    })
}

fn join(dir: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { dir.to_owned() } else { dir.join(rest) }
}

fn table(process: &Path) -> std::io::Result<Vec<Line>> {
    Ok(lines(&fs::read(process.join("mountinfo"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(dev: u64, root: &str, dir: &str) -> Line {
        Line { dev, root: root.into(), dir: dir.into(), wink: None, task: None }
    }

    #[test]
    fn only_known_file_systems_are_this_machines_own() {
        assert!(is_shared(fs::File::open("/proc").unwrap()));
        assert!(!is_shared(fs::File::open("/dev/shm").unwrap()), "tmpfs");
    }

    #[test]
    fn what_is_covered_is_no_way() {
        let beneath = (1, PathBuf::from("/home/u/p"));
        let way = |table: &[Line]| has_way(table, &beneath, 9);
        let (disk, mount) = (line(1, "/", "/"), line(9, "/", "/home/u/p"));
        assert!(!way(&[disk.clone(), mount.clone()]));
        assert!(way(std::slice::from_ref(&disk)), "a namespace without the mount");
        assert!(way(&[disk.clone(), mount.clone(), line(1, "/home", "/mnt/h")]), "a bind mount of what holds it");
        assert!(way(&[disk.clone(), mount.clone(), line(1, "/home/u/p/src", "/app")]), "one of a part of it");
        assert!(!way(&[disk, mount, line(1, "/home/u/other", "/app"), line(2, "/", "/tmp")]), "neither is of it");
    }
}

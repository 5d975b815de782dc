//! Which part of the tree a path lies in, and what that means for writes and for observing.

use std::collections::BTreeMap;

/// What happens to the paths of one part of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zone {
    /// The workspace: writes go to the upper, everything is observed.
    Task,
    /// Outside the workspace: writes go through to the real file and are noted, everything is observed.
    Outside,
    /// As [`Zone::Outside`], and so rarely changed that the kernel may keep what it was told: system directories.
    Settled,
    /// A tool's own cache: writes go through, nothing is observed or noted.
    Scratch,
}

impl Zone {
    /// Whether answers from here are observations.
    pub fn is_observed(self) -> bool {
        self != Zone::Scratch
    }

    /// Whether the kernel may keep answers until it is told otherwise: nobody but the view changes what it shows there.
    pub fn is_lasting(self) -> bool {
        matches!(self, Zone::Task | Zone::Settled)
    }
}

/// Zones by absolute path; the longest prefix decides.
#[derive(Clone, Debug)]
pub struct Zones {
    outermost: Zone,
    roots: BTreeMap<Vec<u8>, Zone>,
}

impl Zones {
    /// Everything is `outermost` except what is set with [`Zones::set`].
    pub fn new(outermost: Zone) -> Zones {
        Zones { outermost, roots: BTreeMap::new() }
    }

    /// The tree at `path` (absolute, no trailing slash) is `zone`, unless a longer path says otherwise.
    pub fn set(&mut self, path: &[u8], zone: Zone) {
        self.roots.insert(path.to_vec(), zone);
    }

    /// The zone of the top of the tree.
    pub fn outermost(&self) -> Zone {
        self.outermost
    }

    /// The zone of `path`, whose parent lies in `parent`.
    pub fn of_child(&self, parent: Zone, path: &[u8]) -> Zone {
        self.roots.get(path).copied().unwrap_or(parent)
    }

    /// Whether, below `path`, writes go another way (to the upper, or through) than in `zone`.
    pub fn is_mixed_below(&self, zone: Zone, path: &[u8]) -> bool {
        let below = join(path, b"");
        let roots = self.roots.range(below.clone()..).take_while(|(root, _)| root.starts_with(&below));
        roots.into_iter().any(|(_, other)| (*other == Zone::Task) != (zone == Zone::Task))
    }

    /// The zone of any absolute path.
    pub fn of(&self, path: &[u8]) -> Zone {
        let mut end = path.len();
        loop {
            if let Some(zone) = self.roots.get(&path[..end]) {
                return *zone;
            }
            match path[..end].iter().rposition(|&byte| byte == b'/') {
                Some(slash) if slash > 0 => end = slash,
                _ => return self.outermost,
            }
        }
    }
}

/// The absolute path of `name` in the directory `dir` (absolute).
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if dir != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let mut zones = Zones::new(Zone::Outside);
        zones.set(b"/usr", Zone::Settled);
        zones.set(b"/home/u/.cache", Zone::Scratch);
        zones.set(b"/home/u/ws", Zone::Task);
        for (path, zone) in [
            (&b"/"[..], Zone::Outside),
            (b"/usr/bin/cc", Zone::Settled),
            (b"/usrlocal", Zone::Outside),
            (b"/home/u/.cache/x/y", Zone::Scratch),
            (b"/home/u/ws", Zone::Task),
            (b"/home/u/ws/a", Zone::Task),
            (b"/home/u", Zone::Outside),
        ] {
            assert_eq!(zones.of(path), zone, "{}", String::from_utf8_lossy(path));
        }
    }
}

//! Where entries come from: an attached pack, and questions to its sorted list.
//!
//! What stands below directory `d` of a pack is the run of entries from `d/` to before `d0` (`0` follows `/`), found by binary search.
//! That run is sorted by whole paths, so between `d/a` and `d/a/x` there may be `d/a-b`.

use std::ops::Range;
use std::sync::Arc;

use wink_store::{Digest, Output, Pack, Packed};

use super::{Shown, Virtual};
use crate::attr::Time;

/// One attaching of one pack.
#[derive(Debug)]
pub(super) struct Source {
    /// How many were attached before.
    pub order: u64,
    /// The pack's blob.
    pub digest: Digest,
    /// The pack.
    pub pack: Arc<Pack>,
    /// Where it was attached.
    pub at: Box<[u8]>,
    /// The time of an entry of rank 0.
    pub first_ns: i64,
    /// What each rank adds to it.
    pub step_ns: i64,
}

/// A name directly below a directory of a pack.
pub(super) struct Below<'a> {
    pub name: &'a [u8],
    /// Its entry; `None`: just a way.
    pub entry: Option<&'a Packed>,
    /// Whether the pack has anything below it.
    pub is_way: bool,
}

/// `name` below `dir`, both relative; either may be empty.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.is_empty() || name.is_empty() { b"" } else { b"/" };
    [dir, slash, name].concat()
}

/// The first path below `dir`, and the first after all that are below it (`None`: there is none after them).
pub(super) fn bounds(dir: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    // The top itself is the empty path, before all that are below it.
    if dir.is_empty() { (vec![0], None) } else { ([dir, b"/"].concat(), Some([dir, b"0"].concat())) }
}

impl Source {
    /// Whether both are the same attaching, as a replay would repeat it.
    pub fn is(&self, other: &Source) -> bool {
        (self.digest, &self.at, self.first_ns, self.step_ns) == (other.digest, &other.at, other.first_ns, other.step_ns)
    }

    /// The entries below `dir`.
    pub fn run(&self, dir: &[u8]) -> Range<usize> {
        let (first, end) = bounds(dir);
        let place = |path: &[u8]| self.pack.entries.partition_point(|entry| entry.path.as_slice() < path);
        place(&first)..end.map_or(self.pack.entries.len(), |end| place(&end))
    }

    /// The entry at exactly `path`.
    pub fn entry(&self, path: &[u8]) -> Option<&Packed> {
        let found = self.pack.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path));
        found.ok().map(|index| &self.pack.entries[index])
    }

    /// Each name directly below `dir`, once.
    pub fn below(&self, dir: &[u8]) -> Vec<Below<'_>> {
        let start = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let (mut names, mut run) = (Vec::new(), self.run(dir));
        while !run.is_empty() {
            let entry = &self.pack.entries[run.start];
            let rest = &entry.path[start..];
            match rest.iter().position(|&byte| byte == b'/') {
                None => {
                    let is_way = matches!(entry.output, Output::Dir { .. }) && !self.run(&entry.path).is_empty();
                    names.push(Below { name: rest, entry: Some(entry), is_way });
                    run.start += 1;
                }
                Some(end) => {
                    let path = &entry.path[..start + end];
                    // One with an entry of its own was met before, or is no name but a mistake of the pack.
                    if self.entry(path).is_none() {
                        names.push(Below { name: &rest[..end], entry: None, is_way: true });
                    }
                    run.start = self.run(path).end;
                }
            }
        }
        names
    }

    /// What an entry shows.
    pub fn shown(&self, entry: &Packed) -> Option<Shown> {
        let mtime = Time(
            self.first_ns.saturating_add(self.step_ns.saturating_mul(i64::try_from(entry.rank).unwrap_or(i64::MAX))),
        );
        Shown::new(&join(&self.at, &entry.path), &entry.output, mtime)
    }

    /// What all entries below `dir` show, as if `dir` were `at`.
    pub fn walk(&self, at: &[u8], dir: &[u8]) -> impl Iterator<Item = (Vec<u8>, Virtual)> {
        let start = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let run = self.pack.entries[self.run(dir)].iter();
        run.filter_map(move |entry| Some((join(at, &entry.path[start..]), self.shown(entry)?.entry)))
    }
}

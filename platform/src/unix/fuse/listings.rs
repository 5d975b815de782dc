//! Reading directories piece by piece.
//!
//! A task's view has handles: the names are those at the time when the handle was read from the start, and a place in them is a number.
//!
//! A working tree has none: its kernel does not even ask to open a directory, and keeps the names it was told until it changes the directory or is
//! told to forget. A place in a listing is then the digest of the name before it, so that who goes on reading finds the place again in any later
//! listing too: no name that stays is left out or told twice.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wink_fs::status::Status;
use wink_fs::vfs::{ListItem, NodeId};

use super::answer::Placed;

/// The kernel takes places for signed numbers.
const PLACE_MAX: u64 = i64::MAX as u64;
/// `.` and `..` come first.
const DOTS: u64 = 2;
/// How many listings are kept for those who have not read them to the end. Who comes back later costs another look.
const UNFINISHED_MAX: usize = 32;

type Listing = Arc<Vec<Placed>>;

/// See the module. Lock order: leaves.
#[derive(Default)]
pub(super) struct Listings {
    open: Mutex<HashMap<u64, Option<Listing>>>,
    last: AtomicU64,
    unfinished: Mutex<VecDeque<(NodeId, Listing)>>,
}

impl Listings {
    /// A handle for another open directory.
    pub fn open(&self) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(handle, None);
        handle
    }

    /// Forgets it.
    pub fn release(&self, handle: u64) {
        self.open.lock().remove(&handle);
    }

    /// The names of an open directory.
    pub fn by_handle(
        &self,
        handle: u64,
        is_start: bool,
        list: impl FnOnce() -> Result<Vec<ListItem>, Status>,
    ) -> Result<Listing, Status> {
        if !is_start && let Some(items) = self.open.lock().get(&handle).cloned().flatten() {
            return Ok(items);
        }
        let places = 1..;
        let items: Listing =
            Arc::new(list()?.into_iter().zip(places).map(|(item, place)| Placed { item, place }).collect());
        self.open.lock().insert(handle, Some(items.clone()));
        Ok(items)
    }

    /// The names of a directory that has no handle.
    pub fn by_node(
        &self,
        node: NodeId,
        is_start: bool,
        list: impl FnOnce() -> Result<Vec<ListItem>, Status>,
    ) -> Result<Listing, Status> {
        if !is_start && let Some((_, items)) = self.unfinished.lock().iter().find(|(of, _)| *of == node) {
            return Ok(items.clone());
        }
        let items: Listing = Arc::new(placed_by_name(list()?));
        let mut unfinished = self.unfinished.lock();
        unfinished.retain(|(of, _)| *of != node);
        unfinished.push_back((node, items.clone()));
        if unfinished.len() > UNFINISHED_MAX {
            unfinished.pop_front();
        }
        Ok(items)
    }

    /// A listing of [`Listings::by_node`] was read to the end.
    pub fn finish(&self, node: NodeId) {
        self.unfinished.lock().retain(|(of, _)| *of != node);
    }
}

/// Each name gets a place of its own: the same in every listing of a directory, whatever else is in it (unless two digests are the same, once in
/// 2^63 pairs; then the one behind moves up).
fn placed_by_name(items: Vec<ListItem>) -> Vec<Placed> {
    let mut placed: Vec<Placed> = items
        .into_iter()
        .map(|item| {
            let place = match &item.name[..] {
                b"." => 1,
                b".." => DOTS,
                name => place_of(name),
            };
            Placed { item, place }
        })
        .collect();
    placed.sort_unstable_by(|one, other| (one.place, &one.item.name).cmp(&(other.place, &other.item.name)));
    let mut last = 0;
    for one in &mut placed {
        one.place = one.place.max(last + 1);
        last = one.place;
    }
    placed
}

fn place_of(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // Room for those that move up.
    let (low, high) = (DOTS + 1, PLACE_MAX - u64::from(u32::MAX));
    low + hasher.finish() % (high - low)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wink_fs::attr::Kind;

    use super::*;

    fn items(names: &[String]) -> Vec<ListItem> {
        let dots = [".", ".."].into_iter().map(str::to_owned);
        let names = dots.chain(names.iter().cloned());
        names.map(|name| ListItem { name: name.into_bytes(), kind: Kind::File, ino: 7 }).collect()
    }

    /// Reads on from `place`, `count` names at a time, with another listing each time.
    fn read_on(listings: &[Vec<String>], count: usize) -> Vec<String> {
        let (mut place, mut seen) = (0, Vec::new());
        for names in listings.iter().cycle() {
            let placed = placed_by_name(items(names));
            let rest: Vec<_> = placed.iter().filter(|one| one.place > place).take(count).collect();
            let Some(last) = rest.last() else { return seen };
            place = last.place;
            seen.extend(rest.iter().map(|one| String::from_utf8(one.item.name.clone()).unwrap()));
        }
        seen
    }

    #[test]
    fn who_reads_on_misses_nothing_that_stays_and_sees_nothing_twice() {
        let staying: Vec<String> = (0..500).map(|number| format!("stays{number}")).collect();
        let with = |more: &str| {
            let others = (0..300).map(|number| format!("{more}{number}"));
            staying.iter().cloned().chain(others).collect::<Vec<_>>()
        };
        let seen = read_on(&[with("one"), staying.clone(), with("other")], 7);
        let distinct: BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "twice");
        assert!(staying.iter().all(|name| distinct.contains(name)), "left out");
        assert_eq!(seen[..2], [".", ".."]);
    }

    #[test]
    fn a_start_looks_again_and_the_rest_is_of_the_same_listing() {
        let listings = Listings::default();
        let (node, none) = (NodeId(9), || Err(Status::Io));
        let first = listings.by_node(node, true, || Ok(items(&["a".to_owned()]))).unwrap();
        assert_eq!(first.len(), 3);
        assert!(Arc::ptr_eq(&first, &listings.by_node(node, false, none).unwrap()));
        assert!(listings.by_node(node, true, none).is_err());
        listings.finish(node);
        assert!(listings.by_node(node, false, none).is_err(), "read to the end");
        let handle = listings.open();
        let first = listings.by_handle(handle, true, || Ok(items(&[]))).unwrap();
        assert!(Arc::ptr_eq(&first, &listings.by_handle(handle, false, none).unwrap()));
        listings.release(handle);
        assert!(listings.by_handle(handle, false, none).is_err());
    }

    #[test]
    fn what_nobody_reads_to_the_end_is_not_kept_for_ever() {
        let listings = Listings::default();
        for number in 0..2 * UNFINISHED_MAX as u64 {
            listings.by_node(NodeId(number), true, || Ok(items(&[]))).unwrap();
        }
        assert_eq!(listings.unfinished.lock().len(), UNFINISHED_MAX);
    }
}

//! Which records have to go: a pure decision.
//!
//! Those that were not used for too long, then the least recently used until the rest fits. What a layer may show counts, and does not go.

use super::Limits;
use super::marks::Marks;

/// The decision.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Usable records that go, by their place in [`Marks::entries`], least recently used first.
    pub evicted: Vec<usize>,
    /// What is there before, and what is left: see [`crate::Sizes::total`].
    pub size_before: u64,
    pub size_after: u64,
    /// Usable records that are left.
    pub entries_after: u64,
}

/// How often each thing is needed.
struct Needs {
    blobs: Vec<u32>,
    traces: std::collections::HashMap<crate::Digest, u32>,
}

pub(super) fn choose(marks: &Marks, limits: &Limits, now_ms: u64) -> Choice {
    let mut usable: Vec<usize> = (0..marks.entries.len()).filter(|at| marks.entries[*at].head.usable).collect();
    usable.sort_by_key(|at| (marks.entries[*at].used_ms, marks.entries[*at].turn));
    let mut needs = Needs { blobs: vec![0; marks.blobs.len()], traces: Default::default() };
    let mut size: u64 = 0;
    for (blob, need) in needs.blobs.iter_mut().enumerate() {
        if marks.pinned[blob] {
            // It never becomes unneeded.
            *need = 1;
            size += marks.size(blob as u32);
        }
    }
    for at in &usable {
        size += add(marks, &mut needs, *at);
    }
    // What nobody needs goes in any case; before that it counts.
    let garbage = (0..marks.blobs.len()).filter(|blob| needs.blobs[*blob] == 0).map(|blob| marks.size(blob as u32));
    let mut choice = Choice { size_before: size + garbage.sum::<u64>(), ..Choice::default() };
    let most = match limits.max_bytes {
        Some(max) if size > max => Some(limits.aim_bytes.unwrap_or(max).min(max)),
        _ => None,
    };
    for at in &usable {
        let entry = &marks.entries[*at];
        let idle_ms = now_ms.saturating_sub(entry.used_ms);
        let useless = entry.blobs.is_none();
        let expired = limits.max_age_ms.is_some_and(|age| idle_ms > age);
        let over = most.is_some_and(|most| size > most);
        if limits.everything || useless || expired || over {
            size -= take(marks, &mut needs, *at);
            choice.evicted.push(*at);
        }
    }
    choice.size_after = size;
    choice.entries_after = (usable.len() - choice.evicted.len()) as u64;
    choice
}

/// What the store grows by with a record.
fn add(marks: &Marks, needs: &mut Needs, at: usize) -> u64 {
    let entry = &marks.entries[at];
    let mut grown = entry.row_bytes;
    for blob in entry.blobs.iter().flat_map(|blobs| blobs.iter()) {
        let need = &mut needs.blobs[*blob as usize];
        if *need == 0 {
            grown += marks.size(*blob);
        }
        *need += 1;
    }
    let need = needs.traces.entry(entry.head.fingerprint).or_default();
    if *need == 0 {
        grown += marks.traces.get(&entry.head.fingerprint).copied().unwrap_or(0);
    }
    *need += 1;
    grown
}

/// What it shrinks by without it.
fn take(marks: &Marks, needs: &mut Needs, at: usize) -> u64 {
    let entry = &marks.entries[at];
    let mut shrunk = entry.row_bytes;
    for blob in entry.blobs.iter().flat_map(|blobs| blobs.iter()) {
        let need = &mut needs.blobs[*blob as usize];
        *need -= 1;
        if *need == 0 {
            shrunk += marks.size(*blob);
        }
    }
    if let Some(need) = needs.traces.get_mut(&entry.head.fingerprint) {
        *need -= 1;
        if *need == 0 {
            shrunk += marks.traces.get(&entry.head.fingerprint).copied().unwrap_or(0);
        }
    }
    shrunk
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::marks::{Entry, Nodes};
    use super::*;
    use crate::{Digest, OwnKey, RecordHead, RecordId, TaskKey};

    fn entry(turn: i64, used_ms: u64, trace: &[u8], blobs: &[u32]) -> Entry {
        let zero = Digest([0; 32]);
        let head = RecordHead {
            id: RecordId(Digest::of(&turn.to_le_bytes())),
            task_key: TaskKey(zero),
            own_key: OwnKey(zero),
            usable: true,
            fingerprint: Digest::of(trace),
            manifest: zero,
            exit_code: 0,
            command_ms: 0,
            created_ms: 0,
            bound_workspace: None,
            bound_home: None,
            depth: 0,
            output_bytes: 0,
        };
        Entry { turn, head, used_ms, row_bytes: 1, blobs: Some(blobs.into()) }
    }

    /// Blobs of 100, 200, 300 … bytes; the traces "a" and "b" of 10 each.
    fn marks(entries: Vec<Entry>, blobs: usize, pinned: &[usize]) -> Marks {
        Marks {
            turn: 9,
            added: 0,
            entries,
            standing: Vec::new(),
            ran: Vec::new(),
            damaged: Vec::new(),
            traces: HashMap::from([(Digest::of(b"a"), 10), (Digest::of(b"b"), 10)]),
            blobs: (0..blobs).map(|blob| Digest::of(&[blob as u8])).collect(),
            sizes: (1..=blobs as u64).map(|blob| Some(100 * blob)).collect(),
            pinned: (0..blobs).map(|blob| pinned.contains(&blob)).collect(),
            nodes: Nodes::default(),
        }
    }

    fn limits(max_bytes: Option<u64>, max_age_ms: Option<u64>) -> Limits {
        Limits { max_bytes, max_age_ms, ..Limits::default() }
    }

    #[test]
    fn the_least_recently_used_go_until_the_rest_fits() {
        let marks = marks(vec![entry(1, 50, b"a", &[0]), entry(2, 10, b"a", &[1]), entry(3, 30, b"b", &[2])], 3, &[]);
        let all = choose(&marks, &limits(None, None), 100);
        assert_eq!((all.evicted.len(), all.size_before, all.size_after, all.entries_after), (0, 623, 623, 3));
        assert_eq!(choose(&marks, &limits(Some(623), None), 100).evicted.len(), 0);
        let one = choose(&marks, &limits(Some(622), None), 100);
        assert_eq!((one.evicted.as_slice(), one.size_after), (&[1][..], 422));
        let two = choose(&marks, &limits(Some(421), None), 100);
        assert_eq!((two.evicted.as_slice(), two.size_after), (&[1, 2][..], 111));
        let aiming = Limits { aim_bytes: Some(300), ..limits(Some(622), None) };
        assert_eq!(
            choose(&marks, &aiming, 100).evicted,
            [1, 2],
            "once it is too large it is made smaller than it must be"
        );
        assert_eq!(choose(&marks, &Limits { max_bytes: Some(623), ..aiming }, 100).evicted.len(), 0);
        assert_eq!(choose(&marks, &limits(Some(0), None), 100).size_after, 0);
        assert_eq!(choose(&marks, &Limits { everything: true, ..limits(None, None) }, 100).entries_after, 0);
    }

    #[test]
    fn what_was_not_used_for_too_long_goes_in_any_case() {
        let marks = marks(vec![entry(1, 50, b"a", &[0]), entry(2, 10, b"a", &[1])], 2, &[]);
        let choice = choose(&marks, &limits(None, Some(60)), 100);
        assert_eq!(choice.evicted, [1]);
        // A clock that was set back makes nothing old.
        assert_eq!(choose(&marks, &limits(None, Some(60)), 5).evicted.len(), 0);
    }

    #[test]
    fn what_is_shared_or_shown_is_freed_by_nobody_alone() {
        let entries = || vec![entry(1, 10, b"a", &[0, 1]), entry(2, 20, b"a", &[1, 2]), entry(3, 30, b"b", &[2])];
        let shared = marks(entries(), 3, &[]);
        let choice = choose(&shared, &limits(Some(522), None), 100);
        assert_eq!((choice.evicted.as_slice(), choice.size_after), (&[0][..], 522));
        let shown = marks(entries(), 3, &[1, 2]);
        let choice = choose(&shown, &limits(Some(0), None), 100);
        assert_eq!((choice.evicted.len(), choice.size_after), (3, 500), "what is shown stays, whatever the limit");
    }

    #[test]
    fn what_is_of_no_use_goes_and_garbage_counts_before() {
        let mut broken = entry(1, 99, b"a", &[]);
        broken.blobs = None;
        let marks = marks(vec![broken, entry(2, 10, b"b", &[0])], 2, &[]);
        let choice = choose(&marks, &limits(None, None), 100);
        assert_eq!((choice.evicted.as_slice(), choice.size_before, choice.size_after), (&[0][..], 322, 111));
    }
}

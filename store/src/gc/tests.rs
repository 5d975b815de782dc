//! What comes between the decision and the removal, step by step; and every disk step fails in turn.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::sweep::{Leaving, Sweep};
use super::{Limits, World, live};
use crate::gc::marks::Marks;
use crate::manifest::Output;
use crate::seam;
use crate::{
    Captured, Digest, Entry, Manifest, OwnKey, Pack, Packed, Record, RecordHead, RecordId, Step, Store, StoreError,
    Stream, TaskKey, Trace,
};

/// More steps than pruning the stores of these tests has.
const STEPS_MAX: usize = 400;

struct Nowhere;

impl World for Nowhere {
    fn is_gone(&self, _: &[u8]) -> bool {
        false
    }

    fn stands(&self, _: &[u8], _: &[u8], _: &Output) -> bool {
        false
    }
}

fn stored(store: &Store, task: &str, content: &[u8]) -> Record {
    let digest = store.put(content).unwrap();
    let (zero, key) = (Digest([0; 32]), Digest::of(task.as_bytes()));
    let output = Output::File { digest, size: content.len() as u64, mode: 0o644 };
    let mut record = Record {
        head: RecordHead {
            id: RecordId(zero),
            task_key: TaskKey(key),
            own_key: OwnKey(key),
            usable: true,
            fingerprint: zero,
            manifest: zero,
            exit_code: 0,
            command_ms: 1,
            created_ms: 1,
            bound_workspace: None,
            bound_home: None,
            depth: 1,
            output_bytes: 0,
        },
        trace: Trace::default(),
        outputs: Manifest { entries: vec![Entry { path: b"out".to_vec(), output, modified: false }] },
        times: vec![0],
        captured: Captured { pieces: vec![(Stream::Stdout, content.repeat(100_000))] },
        argv: Vec::new(),
    };
    record.seal();
    store.insert(&record, false).unwrap();
    record
}

fn show(store: &Store, root: &[u8], content: &[u8]) -> Digest {
    let digest = store.put(content).unwrap();
    let output = Output::File { digest, size: content.len() as u64, mode: 0o644 };
    let pack = store.put_pack(&Pack { entries: vec![Packed { path: b"view".to_vec(), output, rank: 0 }] }).unwrap();
    let (mut log, _) = store.open_layer(root).unwrap();
    log.append(&[Step::Attach { at: Vec::new(), pack, first_ns: 0, step_ns: 1 }]).unwrap();
    digest
}

fn begun(store: &Store) -> (Sweep<'_>, Marks) {
    let mut sweep = Sweep::begin(store, Limits::default().patience).unwrap();
    let marks = Marks::take(store).unwrap();
    sweep.marked(&marks);
    (sweep, marks)
}

fn garbage(marks: &Marks, gone: &HashSet<i64>) -> Vec<Digest> {
    let live = live(marks, gone);
    marks.blobs.iter().zip(live).filter(|(_, live)| !live).map(|(digest, _)| *digest).collect()
}

fn all(marks: &Marks) -> Vec<Leaving> {
    let leaving = |entry: &super::Entry| Leaving {
        turn: entry.turn,
        used_ms: entry.used_ms,
        usable: entry.head.usable,
        remembered: false,
    };
    marks.entries.iter().map(leaving).collect()
}

#[test]
fn what_was_used_since_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (one, two) = (stored(&store, "1", b"one"), stored(&store, "2", b"two"));
    let (mut sweep, marks) = begun(&store);
    Store::open(dir.path()).unwrap().touch(&one.head.id, 50).unwrap();
    let mut gone = HashSet::new();
    assert!(sweep.evict(&all(&marks), &mut gone).unwrap());
    assert_eq!(gone.len(), 1);
    assert!(sweep.blobs(&garbage(&marks, &gone), &Nowhere).unwrap());
    assert_eq!(store.record(&one.head.id).unwrap().unwrap(), one);
    store.verify_blob(&Digest::of(b"one")).unwrap();
    assert_eq!(store.record(&two.head.id).unwrap(), None);
    assert!(matches!(store.verify_blob(&Digest::of(b"two")), Err(StoreError::MissingBlob { .. })));
}

#[test]
fn what_was_stored_or_shown_since_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let one = stored(&store, "1", b"one");
    for content in [&b"two"[..], b"three", b"nobody's"] {
        store.put(content).unwrap();
    }
    let (mut sweep, mut marks) = begun(&store);
    let other = Store::open(dir.path()).unwrap();
    // Their blobs lay there, and nobody needed them.
    let two = stored(&other, "2", b"two");
    show(&other, b"/ws", b"three");
    // The same record again: it has its old place in time.
    let again = stored(&other, "1", b"one");
    assert_eq!(again, one);
    let gone = HashSet::new();
    assert!(sweep.blobs(&garbage(&marks, &gone), &Nowhere).unwrap());
    assert!(sweep.parts(&mut marks, &gone).unwrap());
    for record in [&one, &two] {
        assert_eq!(store.record(&record.head.id).unwrap().as_ref(), Some(record));
        store.captured(&record.head.id).unwrap();
    }
    for content in [&b"one"[..], b"two", b"three"] {
        store.verify_blob(&Digest::of(content)).unwrap();
    }
    assert!(matches!(store.verify_blob(&Digest::of(b"nobody's")), Err(StoreError::MissingBlob { .. })));
    for digest in store.pinned().unwrap() {
        store.verify_blob(&digest).unwrap();
    }
}

#[test]
fn parts_of_what_came_since_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let one = stored(&store, "1", b"one");
    store.drop_record(&one.head.id).unwrap();
    let (mut sweep, mut marks) = begun(&store);
    let again = stored(&Store::open(dir.path()).unwrap(), "1", b"one");
    assert!(sweep.parts(&mut marks, &HashSet::new()).unwrap());
    assert_eq!(store.record(&again.head.id).unwrap().unwrap(), again);
}

#[test]
fn another_index_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    stored(&store, "1", b"one");
    let (mut sweep, marks) = begun(&store);
    for suffix in ["", "-wal", "-shm"] {
        fs::rename(dir.path().join(format!("index.sqlite{suffix}")), dir.path().join(format!("old{suffix}"))).unwrap();
    }
    let other = Store::open(dir.path()).unwrap();
    let kept = stored(&other, "2", b"one");
    let error = sweep.evict(&all(&marks), &mut HashSet::new()).unwrap_err();
    assert!(matches!(error, StoreError::Index { .. }), "{error}");
    assert!(sweep.blobs(&[Digest::of(b"one")], &Nowhere).is_err());
    assert_eq!(other.record(&kept.head.id).unwrap().unwrap(), kept);
    other.verify_blob(&Digest::of(b"one")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Whatever step fails, and all that follow: what stays is whole, and the next pruning does the rest.
#[test]
fn any_step_may_fail() {
    let template = tempfile::tempdir().unwrap();
    let store = Store::open(template.path()).unwrap();
    let records = ["1", "2", "3"].map(|name| stored(&store, name, name.as_bytes()));
    store.set_last(b"/ws", &records[0].head.own_key, &records[0].head.id, 1).unwrap();
    store.touch(&records[2].head.id, 99).unwrap();
    store.put(b"nobody's").unwrap();
    let view = show(&store, b"/ws", b"view");
    drop(store);
    // One of the three with what it printed, and the view.
    let limits = Limits { max_bytes: Some(150_000), ..Limits::default() };
    for count in 0..STEPS_MAX {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        copy(template.path(), &dir);
        let store = Store::open(&dir).unwrap();
        let (result, failed) = seam::after(count, || store.prune(&limits, &Nowhere, false));
        assert!(failed || result.is_ok(), "step {count}: {result:?}");
        if let Err(error) = &result {
            assert!(!error.is_damage(), "step {count}: a full disk is no damage: {error}");
        }
        check(&dir, &records, &view, &format!("after step {count} failed"));
        let pruned = Store::open(&dir).unwrap().prune(&limits, &Nowhere, false).unwrap();
        assert_eq!((pruned.entries_left, pruned.gave_up), (1, false), "step {count}");
        check(&dir, &records, &view, &format!("when it went on after step {count}"));
        // A file and its printed output; a view and its pack.
        assert_eq!(Store::open(&dir).unwrap().sizes().unwrap().blobs, 4, "step {count}");
        if !failed {
            assert!(count > 20, "the steps are counted");
            return;
        }
    }
    panic!("more steps than expected");
}

/// Usable records are whole, the last one is among them, the first one's outputs are known, and the view is there.
fn check(dir: &Path, records: &[Record; 3], view: &Digest, when: &str) {
    let store = Store::open(dir).unwrap();
    assert_eq!(store.notice(), None);
    let usable: Vec<_> = store.listed().unwrap().into_iter().filter(|listed| listed.head.usable).collect();
    assert!(usable.iter().any(|listed| listed.head.id == records[2].head.id), "{when}");
    for listed in usable {
        let record = store.record(&listed.head.id).unwrap().unwrap();
        assert!(records.contains(&record), "{when}");
        for entry in &record.outputs.entries {
            let Output::File { digest, .. } = &entry.output else { continue };
            store.verify_blob(digest).unwrap();
        }
    }
    assert_eq!(store.manifest(&records[0].head.manifest).unwrap(), records[0].outputs, "{when}");
    store.verify_blob(view).unwrap();
}

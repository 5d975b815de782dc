//! Counting, measuring, listing; and an index of version 1 is brought up to date without losing anything.

mod support;

use std::path::Path;

use support::{adopt, file, key, open, own, record, stored};
use wink_store::{Digest, Hit, Outcome, RecordId, RunCounted, Runs, Store};

/// What version 1 made, word for word.
const VERSION_1: &str = include_str!("support/version1.sql");

fn run<'a>(workspace: &'a [u8], outcome: Outcome, reason: &'a str, at_ms: u64) -> RunCounted<'a> {
    RunCounted { workspace, outcome, reason, lookup_us: 10, work_us: 100, command_ms: 1000, saved_us: 0, at_ms }
}

fn hit(store: &Store, record: &RecordId, at_ms: u64) {
    let run = RunCounted { saved_us: 5, ..run(b"/ws", Outcome::Hit, "", at_ms) };
    store.hit(&Hit { record, own_key: &own("task"), run }).unwrap();
}

fn counted(store: &Store) -> Vec<(Vec<u8>, Outcome, String, u64)> {
    let mut all: Vec<_> = store
        .counted()
        .unwrap()
        .into_iter()
        .map(|Runs { workspace, outcome, reason, runs, .. }| (workspace, outcome, reason, runs))
        .collect();
    all.sort();
    all
}

#[test]
fn a_hit_is_remembered_in_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (stored(&store, "task", &[b"1"]).head.id, stored(&store, "other", &[b"2"]).head.id);
    store.set_last(b"/ws", &own("other"), &two, 2_000).unwrap();
    hit(&store, &one, 5_000);
    hit(&store, &one, 4_000);
    assert_eq!(store.last(b"/ws", &own("task")).unwrap(), Some(one));
    assert_eq!(store.last_run(b"/ws").unwrap(), Some(one));
    let runs = store.counted().unwrap();
    let expected = Runs {
        workspace: b"/ws".to_vec(),
        outcome: Outcome::Hit,
        reason: String::new(),
        runs: 2,
        lookup_us: 20,
        work_us: 200,
        command_ms: 2000,
        saved_us: 10,
        last_ms: 5_000,
    };
    assert_eq!(runs, [expected]);
    let listed = store.listed().unwrap();
    assert_eq!(
        listed.iter().map(|listed| (listed.head.id, listed.used_ms, listed.hits)).collect::<Vec<_>>(),
        [(one, 5_000, 2), (two, 1_000, 0)]
    );
    assert_eq!(listed[0].workspaces, [b"/ws".to_vec()]);
    assert_eq!(listed[0].argv.as_deref(), Some(&[b"cc".to_vec(), b"main.c".to_vec()][..]));
    // A hit on something else, and back: the latest is the last run, however short ago.
    store.set_last(b"/ws", &own("other"), &two, 5_000).unwrap();
    hit(&store, &one, 5_000);
    assert_eq!(store.last_run(b"/ws").unwrap(), Some(one));
}

#[test]
fn runs_are_counted_by_place_outcome_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (workspace, outcome, reason) in [
        (b"/a", Outcome::Miss, "first"),
        (b"/a", Outcome::Miss, "first"),
        (b"/a", Outcome::Uncached, "failed"),
        (b"/b", Outcome::Miss, "first"),
    ] {
        store.count(&run(workspace, outcome, reason, 1)).unwrap();
    }
    let all = counted(&store);
    assert_eq!(
        all,
        [
            (b"/a".to_vec(), Outcome::Miss, "first".to_owned(), 2),
            (b"/a".to_vec(), Outcome::Uncached, "failed".to_owned(), 1),
            (b"/b".to_vec(), Outcome::Miss, "first".to_owned(), 1),
        ]
    );
    store.reset_counts(Some(b"/a")).unwrap();
    assert_eq!(counted(&store), all[2..]);
    store.reset_counts(None).unwrap();
    assert_eq!(counted(&store), []);
}

#[test]
fn the_size_is_that_of_blobs_and_usable_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.sizes().unwrap().total(), 0);
    let first = stored(&store, "task", &[&[b'x'; 10_000]]);
    let sizes = store.sizes().unwrap();
    assert_eq!((sizes.entries, sizes.kept, sizes.blobs, sizes.blob_bytes), (1, 0, 1, 10_000));
    assert!(sizes.entry_bytes > 20 && sizes.blob_disk_bytes >= 10_000 && sizes.index_disk_bytes > 0, "{sizes:?}");
    store.retire(&first.head.id).unwrap();
    let sizes = store.sizes().unwrap();
    assert_eq!((sizes.entries, sizes.kept, sizes.blobs, sizes.entry_bytes), (0, 1, 1, 0));
    store.quarantine(&Digest::of(&[b'x'; 10_000])).unwrap();
    let sizes = store.sizes().unwrap();
    assert_eq!((sizes.total(), sizes.blobs), (0, 0));
    assert!(sizes.quarantine_disk_bytes > 0);
}

/// Makes the index what it would be if version 1 had written it.
fn as_version_1(dir: &Path) {
    let path = dir.join("store/index.sqlite");
    let old = rusqlite::Connection::open(&path).unwrap();
    for table in ["meta", "records", "traces", "trees", "last", "keys", "digests"] {
        old.execute_batch(&format!("ALTER TABLE {table} RENAME TO old_{table}")).unwrap();
    }
    old.execute_batch("DROP INDEX records_by_task; DROP INDEX records_by_owner; DROP INDEX last_by_record").unwrap();
    old.execute_batch(VERSION_1).unwrap();
    for table in ["meta", "records", "traces", "trees", "last", "keys", "digests"] {
        old.execute_batch(&format!("INSERT INTO {table} SELECT * FROM old_{table}; DROP TABLE old_{table}")).unwrap();
    }
    old.execute_batch("DROP TABLE uses; DROP TABLE runs; PRAGMA user_version = 1; VACUUM").unwrap();
}

#[test]
fn an_index_of_version_1_keeps_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let make = |input: &[u8], at_ms| {
        adopt(&store, input);
        let mut record = record("task", input, vec![file("out", input)]);
        record.head.created_ms = at_ms;
        record.seal();
        store.insert(&record, false).unwrap();
        record
    };
    let (one, two) = (make(b"1", 10), make(b"2", 20));
    store.set_last(b"/ws", &own("task"), &one.head.id, 1).unwrap();
    store.remember_key(b"/ws", &key("task"), b"parts").unwrap();
    drop(store);
    as_version_1(dir.path());

    // A program of version 1 has the index open all the time.
    let old = rusqlite::Connection::open(dir.path().join("store/index.sqlite")).unwrap();
    old.execute_batch("UPDATE records SET used_ms = 30 WHERE created_ms = 10").unwrap();
    let store = open(dir.path());
    assert_eq!(store.notice(), None);
    let ids = |store: &Store| store.candidates(&key("task")).unwrap().iter().map(|head| head.id).collect::<Vec<_>>();
    assert_eq!(ids(&store), [one.head.id, two.head.id], "by what version 1 wrote of their use");
    for record in [&one, &two] {
        assert_eq!(store.record(&record.head.id).unwrap().unwrap(), *record);
    }
    assert_eq!(store.last(b"/ws", &own("task")).unwrap(), Some(one.head.id));
    assert_eq!(store.recent_keys(b"/ws").unwrap(), [b"parts".to_vec()]);
    assert_eq!(counted(&store), []);
    hit(&store, &two.head.id, 40);
    assert_eq!(ids(&store), [two.head.id, one.head.id]);
    old.execute_batch("UPDATE records SET used_ms = 50 WHERE created_ms = 20").unwrap();
    hit(&store, &one.head.id, 45);
    assert_eq!(ids(&store), [one.head.id, two.head.id]);
    assert_eq!(open(dir.path()).notice(), None, "it is brought up to date once");
}

#[test]
fn an_index_of_version_1_without_its_tables_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    as_version_1(dir.path());
    let index = rusqlite::Connection::open(dir.path().join("store/index.sqlite")).unwrap();
    index.execute_batch("DROP TABLE trees").unwrap();
    drop(index);
    let store = open(dir.path());
    assert!(store.notice().unwrap().contains("damaged"));
    stored(&store, "task", &[b"one"]);
    assert_eq!(open(dir.path()).notice(), None);
}

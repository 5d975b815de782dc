//! Records in the index: what is stored comes back, who wins, what is refused, and that damage is seen.

mod support;

use proptest::prelude::*;
use support::{adopt, file, key, open, own, record, stored};
use wink_store::{
    Captured, Digest, FileStamp, Manifest, Output, Record, RecordHead, RecordId, Store, StoreError, Stream,
};

fn sql(dir: &std::path::Path, text: &str) {
    rusqlite::Connection::open(dir.join("store/index.sqlite")).unwrap().execute_batch(text).unwrap();
}

fn ids(heads: Vec<RecordHead>) -> Vec<RecordId> {
    heads.into_iter().map(|head| head.id).collect()
}

/// Another result of the same task from the same inputs.
fn variant(store: &Store, task: &str, content: &[u8]) -> Record {
    adopt(store, content);
    record(task, b"input", vec![file("out", content)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_record_round_trips(
        trace in support::trace(),
        outputs in support::manifest(),
        captured in support::captured(),
        numbers in any::<(i32, u64, u64, u16, bool)>(),
        bound in any::<(Option<Vec<u8>>, Option<Vec<u8>>)>(),
        argv in proptest::collection::vec(any::<Vec<u8>>(), 0..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut outputs = outputs;
        for (turn, entry) in outputs.entries.iter_mut().enumerate() {
            if let Output::File { digest, size, .. } = &mut entry.output {
                let bytes = turn.to_le_bytes();
                *digest = adopt(&store, &bytes);
                *size = bytes.len() as u64;
            }
        }
        let mut record = record("task", b"", Vec::new());
        record.times = (0..outputs.entries.len() as u64).map(|turn| turn.wrapping_mul(u64::MAX / 7)).collect();
        (record.trace, record.outputs, record.captured, record.argv) = (trace, outputs, captured, argv);
        let (exit_code, command_ms, created_ms, depth, usable) = numbers;
        let (bound_workspace, bound_home) = bound;
        let (task_key, own_key) = (record.head.task_key, record.head.own_key);
        record.head = RecordHead {
            task_key, own_key, exit_code, command_ms, created_ms, depth, usable, bound_workspace, bound_home, ..record.head
        };
        record.seal();
        let id = store.insert(&record, false).unwrap();
        prop_assert_eq!(id, record.head.id);
        prop_assert_eq!(store.record(&id).unwrap().unwrap(), record);
    }
}

#[test]
fn large_output_of_a_command_is_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut record = variant(&store, "task", b"x");
    record.captured = Captured { pieces: vec![(Stream::Stdout, vec![b'y'; 100_000])] };
    record.seal();
    let id = store.insert(&record, false).unwrap();
    assert_eq!(store.captured(&id).unwrap(), record.captured);
    std::fs::remove_file(store.blob_path(&Digest::of(&record.captured.encode()))).unwrap();
    assert!(matches!(store.captured(&id), Err(StoreError::MissingBlob { .. })));
}

#[test]
fn blobs_come_before_their_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let missing = record("task", b"input", vec![file("out", b"never stored")]);
    assert!(matches!(store.insert(&missing, false), Err(StoreError::MissingBlob { .. })));
    let mut wrong = variant(&store, "task", b"stored");
    wrong.outputs.entries[0].output = Output::File { digest: Digest::of(b"stored"), size: 7, mode: 0o644 };
    wrong.seal();
    assert!(matches!(store.insert(&wrong, false), Err(StoreError::DamagedBlob { .. })));
    assert!(store.candidates(&key("task")).unwrap().is_empty());
}

#[test]
fn what_could_not_be_read_back_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = |change: fn(&mut Record), seal: bool| {
        let mut record = variant(&store, "task", b"x");
        change(&mut record);
        if seal {
            record.seal();
        }
        let error = store.insert(&record, false).unwrap_err();
        assert!(matches!(error, StoreError::Unstorable { .. }), "{error}");
    };
    refused(|record| record.times.clear(), true);
    refused(|record| record.head.exit_code = 1, false);
    refused(|record| record.outputs.entries[0].path = b"../out".to_vec(), true);
    refused(|record| record.outputs = Manifest { entries: vec![record.outputs.entries[0].clone(); 2] }, true);
}

#[test]
fn the_first_of_two_results_wins_unless_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (variant(&store, "task", b"1"), variant(&store, "task", b"2"));
    assert_eq!(store.insert(&one, false).unwrap(), one.head.id);
    assert_eq!(store.insert(&two, false).unwrap(), one.head.id);
    assert_eq!(ids(store.candidates(&key("task")).unwrap()), [one.head.id]);
    assert_eq!(store.insert(&two, true).unwrap(), two.head.id);
    assert_eq!(ids(store.candidates(&key("task")).unwrap()), [two.head.id]);
    assert_eq!(store.head(&one.head.id).unwrap(), None);
}

#[test]
fn records_bound_elsewhere_stand_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = variant(&store, "task", b"1");
    let change = |change: fn(&mut RecordHead)| {
        let mut record = base.clone();
        change(&mut record.head);
        record.seal();
        store.insert(&record, false).unwrap()
    };
    change(|_| {});
    change(|head| head.bound_workspace = Some(b"/a".to_vec()));
    change(|head| head.bound_workspace = Some(b"/b".to_vec()));
    change(|head| head.bound_home = Some(b"/a".to_vec()));
    change(|head| head.depth = 7);
    assert_eq!(store.candidates(&key("task")).unwrap().len(), 5);
}

#[test]
fn a_replaced_record_stays_known_where_its_outputs_stand() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (variant(&store, "task", b"1"), variant(&store, "task", b"2"));
    store.insert(&one, false).unwrap();
    store.set_last(b"/ws", &own("task"), &one.head.id, 1).unwrap();
    store.insert(&two, true).unwrap();
    assert_eq!(ids(store.candidates(&key("task")).unwrap()), [two.head.id]);
    assert_eq!(ids(store.heads_of_owner(&own("task")).unwrap()), [two.head.id, one.head.id]);
    let old = store.record(&one.head.id).unwrap().unwrap();
    assert!(!old.head.usable);
    assert_eq!(old.outputs, one.outputs);
}

#[test]
fn an_unusable_record_is_known_but_no_candidate_until_it_proves_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let good = variant(&store, "task", b"1");
    let mut failed = good.clone();
    failed.head.usable = false;
    failed.seal();
    assert_eq!(failed.head.id, good.head.id);
    store.insert(&failed, false).unwrap();
    assert!(store.candidates(&key("task")).unwrap().is_empty());
    assert_eq!(store.heads_of_owner(&own("task")).unwrap().len(), 1);
    store.insert(&good, false).unwrap();
    assert_eq!(store.candidates(&key("task")).unwrap().len(), 1);
    // Never the other way round.
    store.insert(&failed, true).unwrap();
    assert_eq!(store.candidates(&key("task")).unwrap().len(), 1);
    store.retire(&good.head.id).unwrap();
    assert!(store.candidates(&key("task")).unwrap().is_empty());
    assert_eq!(store.record(&good.head.id).unwrap().unwrap(), failed);
}

#[test]
fn candidates_come_by_last_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let make = |input: &[u8], created_ms| {
        let mut record = record("task", input, Vec::new());
        record.head.created_ms = created_ms;
        record.seal();
        store.insert(&record, false).unwrap()
    };
    let (one, two, three) = (make(b"1", 10), make(b"2", 20), make(b"3", 20));
    assert_eq!(ids(store.candidates(&key("task")).unwrap()), [three, two, one]);
    store.touch(&one, 30).unwrap();
    store.touch(&three, 5).unwrap();
    assert_eq!(ids(store.candidates(&key("task")).unwrap()), [one, three, two]);
    assert_eq!(ids(store.heads_of_owner(&own("task")).unwrap()), [three, two, one]);
}

#[test]
fn records_are_found_by_the_first_digits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = stored(&store, "task", &[b"x"]).head.id;
    let hex = id.0.to_string();
    for length in [0, 1, 7, 8, 63, 64] {
        assert_eq!(ids(store.find_by_prefix(&hex[..length]).unwrap()), [id], "{length}");
    }
    let other = if hex.starts_with('0') { "1" } else { "0" };
    for none in [other, "xyz", "é", "-", &format!("{hex}0")] {
        assert!(store.find_by_prefix(none).unwrap().is_empty(), "{none}");
    }
}

#[test]
fn workspaces_remember_what_stands_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (stored(&store, "1", &[b"1"]).head.id, stored(&store, "2", &[b"2"]).head.id);
    assert_eq!(store.last(b"/ws", &own("1")).unwrap(), None);
    assert_eq!(store.last_run(b"/ws").unwrap(), None);
    store.set_last(b"/ws", &own("1"), &one, 50).unwrap();
    // The clock was set back: still the later call.
    store.set_last(b"/ws", &own("2"), &two, 40).unwrap();
    assert_eq!(store.last(b"/ws", &own("1")).unwrap(), Some(one));
    assert_eq!(store.last_run(b"/ws").unwrap(), Some(two));
    assert_eq!(store.last_run(b"/other").unwrap(), None);
    store.set_last(b"/ws", &own("1"), &two, 40).unwrap();
    assert_eq!(store.last(b"/ws", &own("1")).unwrap(), Some(two));
    store.drop_record(&two).unwrap();
    assert_eq!(store.last(b"/ws", &own("1")).unwrap(), None);
    assert_eq!(store.record(&two).unwrap(), None);
}

#[test]
fn digests_of_files_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stamp = |ino| FileStamp { dev: u64::MAX, ino, size: u64::MAX - 1, mtime_ns: -5, ctime_ns: i64::MAX };
    store.digests_put(&[(stamp(1), Digest::of(b"1"), 7), (stamp(u64::MAX), Digest::of(b"2"), 8)]).unwrap();
    store.digests_put(&[(stamp(1), Digest::of(b"3"), 9)]).unwrap();
    let found = store.digests_get(&[stamp(2).id(), stamp(1).id(), stamp(u64::MAX).id()]).unwrap();
    assert_eq!(found[0], None);
    let one = found[1].unwrap();
    assert_eq!((one.stamp, one.digest, one.hashed_at_ns), (stamp(1), Digest::of(b"3"), 9));
    assert_eq!(found[2].unwrap().digest, Digest::of(b"2"));
}

/// Whatever a page of the index may say instead: a miss, and storing again mends it.
#[test]
fn damaged_rows_are_seen_and_mended() {
    let menu = [
        "UPDATE traces SET bytes = zeroblob(10)",
        "UPDATE traces SET bytes = 'text'",
        "DELETE FROM traces",
        "UPDATE trees SET bytes = zeroblob(10)",
        "DELETE FROM trees",
        "UPDATE records SET exit_code = 1",
        "UPDATE records SET exit_code = 'x'",
        "UPDATE records SET usable = 2, exit_code = 99999999999",
        "UPDATE records SET task_key = zeroblob(32)",
        "UPDATE records SET own_key = zeroblob(32)",
        "UPDATE records SET depth = 3",
        "UPDATE records SET times = zeroblob(3)",
        "UPDATE records SET argv = 7",
        "UPDATE records SET captured = zeroblob(3)",
        "UPDATE records SET captured = NULL",
        "UPDATE records SET bound_workspace = x'2f'",
        "UPDATE records SET seal = zeroblob(32)",
        "UPDATE records SET id = zeroblob(31)",
    ];
    for damage in menu {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let record = stored(&store, "task", &[b"x"]);
        sql(dir.path(), damage);
        match store.record(&record.head.id) {
            Err(error) => assert!(error.is_damage(), "{damage}: {error}"),
            Ok(found) => assert_eq!(found, None, "{damage}"),
        }
        let usable: Vec<_> = store.candidates(&key("task")).unwrap();
        assert!(usable.iter().all(|head| *head == record.head), "{damage}");
        store.drop_record(&record.head.id).unwrap();
        store.insert(&record, false).unwrap();
        assert_eq!(store.record(&record.head.id).unwrap().unwrap(), record, "{damage}");
    }
}

#[test]
fn swapped_rows_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (stored(&store, "1", &[b"1"]), stored(&store, "2", &[b"2"]));
    sql(
        dir.path(),
        "UPDATE records SET captured = x'00', id = CASE turn WHEN 1 THEN x'01' ELSE x'02' END; \
         UPDATE records SET task_key = (SELECT task_key FROM records AS other WHERE other.turn <> records.turn)",
    );
    assert!(store.candidates(&one.head.task_key).unwrap().is_empty());
    assert!(store.candidates(&two.head.task_key).unwrap().is_empty());
}

//! Tests that need the inside of the store: every disk step fails in turn, and the time of the boot is set.
//!
//! After each failed step the store still opens, keeps its older record whole, and can do the work again.

use std::fs;
use std::path::Path;

use crate::seam;
use crate::{
    Captured, Digest, Entry, Manifest, Output, OwnKey, Pack, Packed, Record, RecordHead, RecordId, Step, Store,
    StoreError, Stream, TaskKey, Trace,
};

/// More steps than any operation here has.
const STEPS_MAX: usize = 200;

fn sample(content: &[u8]) -> Record {
    let digest = Digest::of(content);
    let output = Output::File { digest, size: content.len() as u64, mode: 0o755 };
    let zero = Digest([0; 32]);
    let mut record = Record {
        head: RecordHead {
            id: RecordId(zero),
            task_key: TaskKey(digest),
            own_key: OwnKey(digest),
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
    record
}

/// All that a run does to the store.
fn run(dir: &Path, content: &[u8]) -> Result<(), StoreError> {
    let store = Store::open(dir)?;
    let staging = store.staging().map_err(StoreError::disk("make", dir))?;
    let path = staging.path().join("file");
    fs::write(&path, content).map_err(StoreError::disk("write", &path))?;
    store.adopt(&path, &Digest::of(content))?;
    let record = sample(content);
    store.insert(&record, true)?;
    store.ensure_durable(&record.head)?;
    store.sweep_staging().map(drop)
}

fn check(dir: &Path, content: &[u8]) {
    let (store, record) = (Store::open(dir).unwrap(), sample(content));
    assert_eq!(store.notice(), None);
    assert_eq!(store.record(&record.head.id).unwrap().unwrap(), record);
    store.verify_blob(&Digest::of(content)).unwrap();
}

#[test]
fn any_step_may_fail() {
    for count in 0..STEPS_MAX {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        let (result, failed) = seam::after(count, || run(&dir, b"first"));
        assert!(failed || result.is_ok(), "step {count}: {result:?}");
        if let Err(error) = result {
            assert!(!error.is_damage(), "step {count}: a full disk is no damage: {error}");
        }
        run(&dir, b"first").unwrap();
        check(&dir, b"first");

        // Once more with a record that must survive.
        let (_, failed_again) = seam::after(count, || run(&dir, b"second"));
        check(&dir, b"first");
        run(&dir, b"second").unwrap();
        check(&dir, b"first");
        check(&dir, b"second");
        if !failed && !failed_again {
            assert!(count > 20, "the steps are counted");
            return;
        }
    }
    panic!("more steps than expected");
}

const ROOT: &[u8] = b"/ws";

fn put(name: &str) -> Step {
    Step::Put { path: name.into(), output: Output::Dir { mode: 0o755 }, mtime_ns: 1 }
}

/// Changes a layer in every way; says in `done` which steps the log holds for certain.
fn change_layer(store: &Store, done: &mut Vec<Step>) -> Result<(), StoreError> {
    let output = Output::Dir { mode: 0o755 };
    let pack = store.put_pack(&Pack { entries: vec![Packed { path: b"d".to_vec(), output, rank: 0 }] })?;
    let (mut log, steps) = store.open_layer(ROOT)?;
    assert_eq!(steps, *done);
    for step in [Step::Attach { at: Vec::new(), pack, first_ns: 1, step_ns: 1 }, put("a"), put("b")] {
        log.append(std::slice::from_ref(&step))?;
        done.push(step);
    }
    log.rewrite(done)?;
    log.append(&[put("c")])?;
    done.push(put("c"));
    store.pinned()?;
    store.layer_roots()?;
    store.sync()
}

#[test]
fn any_step_on_a_layer_may_fail() {
    for count in 0..STEPS_MAX {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut done = Vec::new();
        let (result, failed) = seam::after(count, || change_layer(&store, &mut done));
        assert!(failed || result.is_ok(), "step {count}: {result:?}");
        assert_eq!(store.read_layer(ROOT).unwrap(), done, "step {count}: for a reader");
        let (mut log, steps) = store.open_layer(ROOT).unwrap();
        assert_eq!((&steps, log.notice()), (&done, None), "step {count}: a full disk is no damage");
        log.append(&[put("z")]).unwrap();
        assert_eq!(store.read_layer(ROOT).unwrap().len(), done.len() + 1, "step {count}");
        if !failed {
            assert!(count > 20, "the steps are counted");
            return;
        }
    }
    panic!("more steps than expected");
}

/// The disk fills up in the middle of a record, or just after it, and has room again later: the same handle goes on.
#[test]
fn a_log_goes_on_after_a_full_disk() {
    for count in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let (mut log, _) = store.open_layer(ROOT).unwrap();
        log.append(&[put("a")]).unwrap();
        let length = log.bytes();
        let (appended, _) = seam::after(0, || log.append(&[put("b")]));
        assert!(appended.is_err());
        assert_eq!((log.records(), log.bytes()), (1, length));
        assert_eq!(store.read_layer(ROOT).unwrap(), [put("a")]);
        let (rewritten, _) = seam::after(count, || log.rewrite(&[put("a")]));
        assert_eq!(rewritten.is_ok(), count == 5, "step {count}: {rewritten:?}");
        log.append(&[put("c")]).unwrap();
        assert_eq!(store.read_layer(ROOT).unwrap(), [put("a"), put("c")], "step {count}");
        drop(log);
        let (log, steps) = store.open_layer(ROOT).unwrap();
        assert_eq!((steps, log.notice()), (vec![put("a"), put("c")], None));
    }
}

/// Damage is not cut off before it was set aside.
#[test]
fn damage_is_set_aside_whole_or_stays() {
    for count in 0..STEPS_MAX {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        drop(store.open_layer(ROOT).unwrap());
        let path = dir.path().join(format!("store/layers/{}/log", Digest::of(ROOT)));
        let damage = [0; 100];
        fs::write(&path, damage).unwrap();
        let (result, _) = seam::after(count, || store.open_layer(ROOT));
        let quarantine = fs::read_dir(dir.path().join("store/quarantine")).unwrap();
        let aside = quarantine.filter(|entry| entry.as_ref().unwrap().metadata().unwrap().len() == 100).count();
        assert!(aside == 1 || fs::read(&path).unwrap() == damage, "step {count}");
        if let Ok((log, steps)) = result {
            assert!(log.notice().is_some() && steps.is_empty());
            assert!(count > 8, "the steps are counted");
            return;
        }
    }
    panic!("more steps than expected");
}

/// A blob that lay there before this boot was never proven: the record that takes it over is checked before its first use.
#[test]
fn an_older_blob_is_not_vouched_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("store")).unwrap();
    let digest = store.put(b"content").unwrap();
    store.booted_at_s = Some(i64::MAX);
    let record = sample(b"content");
    store.insert(&record, false).unwrap();
    let path = store.blob_path(&digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"c0ntent").unwrap();
    let error = store.ensure_durable(&record.head).unwrap_err();
    assert!(matches!(error, StoreError::DamagedBlob { .. }), "{error}");
}

/// Where the system names no boot, every record is checked once.
#[test]
fn without_a_boot_everything_is_checked_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("store")).unwrap();
    (store.boot, store.booted_at_s) = (None, None);
    store.put(b"content").unwrap();
    let record = sample(b"content");
    store.insert(&record, false).unwrap();
    store.ensure_durable(&record.head).unwrap();
    store.quarantine(&Digest::of(b"content")).unwrap();
    store.ensure_durable(&record.head).unwrap();
}

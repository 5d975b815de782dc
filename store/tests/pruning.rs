//! Pruning: what goes, what stays, and that nothing is taken from under anybody.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use support::{adopt, file, key, open, own, record};
use wink_store::{
    Captured, Digest, FileStamp, Hit, Limits, Outcome, Output, Pack, Packed, Record, RecordHead, RecordId, RunCounted,
    Step, Store, StoreError, Stream, World,
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A world in which these paths are gone, and these files stand in every workspace.
#[derive(Default)]
struct Told {
    gone: HashSet<Vec<u8>>,
    standing: HashSet<(Vec<u8>, Output)>,
}

impl World for Told {
    fn is_gone(&self, path: &[u8]) -> bool {
        self.gone.contains(path)
    }

    fn stands(&self, _workspace: &[u8], path: &[u8], output: &Output) -> bool {
        self.standing.contains(&(path.to_vec(), output.clone()))
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A record of `task` with these outputs, used at a time.
fn used(store: &Store, task: &str, contents: &[&[u8]], used_ms: u64) -> Record {
    let entry = |(index, bytes): (usize, &&[u8])| {
        adopt(store, bytes);
        file(&format!("out/{index:04}"), bytes)
    };
    let mut record = record(task, contents.concat().as_slice(), contents.iter().enumerate().map(entry).collect());
    record.head.created_ms = used_ms;
    record.seal();
    store.insert(&record, false).unwrap();
    record
}

fn whole(store: &Store, records: &[&Record]) {
    for record in records {
        assert_eq!(store.record(&record.head.id).unwrap().as_ref(), Some(*record));
        for entry in &record.outputs.entries {
            if let Output::File { digest, .. } = &entry.output {
                store.verify_blob(digest).unwrap();
            }
        }
    }
}

fn blobs(store: &Store) -> usize {
    store.sizes().unwrap().blobs as usize
}

fn prune(store: &Store, limits: Limits) -> wink_store::Pruned {
    prune_in(store, limits, &Told::default())
}

/// What a dry run says is what then happens.
fn prune_in(store: &Store, limits: Limits, world: &Told) -> wink_store::Pruned {
    let before = store.sizes().unwrap();
    let told = store.prune(&limits, world, true).unwrap();
    assert_eq!(store.sizes().unwrap(), before, "a dry run changes nothing");
    let pruned = store.prune(&limits, world, false).unwrap();
    assert_eq!(pruned, told);
    let after = store.sizes().unwrap();
    assert_eq!((after.entries, after.total()), (pruned.entries_left, pruned.bytes_left), "{after:?}");
    assert_eq!(pruned.entries, before.entries - after.entries);
    pruned
}

fn max(bytes: u64) -> Limits {
    Limits { max_bytes: Some(bytes), ..Limits::default() }
}

#[test]
fn the_least_recently_used_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (a, b, c) = (vec![b'a'; 10_000], vec![b'b'; 10_000], vec![b'c'; 10_000]);
    let one = used(&store, "1", &[&a, &b], 1_000);
    let two = used(&store, "2", &[&b, &c], 2_000);
    let three = used(&store, "3", &[b"small"], 3_000);
    store.touch(&one.head.id, 4_000).unwrap();
    assert_eq!(prune(&store, max(1 << 40)).entries, 0);
    whole(&store, &[&one, &two, &three]);
    let pruned = prune(&store, max(25_000));
    assert_eq!(pruned.entries, 1);
    assert!(pruned.bytes > 10_000 && pruned.bytes < 11_000, "only what nobody else needs is freed: {pruned:?}");
    whole(&store, &[&one, &three]);
    assert_eq!((store.record(&two.head.id).unwrap(), blobs(&store)), (None, 3));
    prune(&store, max(0));
    assert_eq!((store.sizes().unwrap().total(), blobs(&store)), (0, 0));
    assert!(store.last_pruned().unwrap().is_some());
}

#[test]
fn what_was_not_used_for_long_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let old = used(&store, "1", &[b"one"], now_ms() - 40 * DAY_MS);
    let young = used(&store, "2", &[b"two"], now_ms() - 20 * DAY_MS);
    let again = used(&store, "3", &[b"three"], now_ms() - 40 * DAY_MS);
    store.touch(&again.head.id, now_ms()).unwrap();
    let limits = Limits { max_age_ms: Some(30 * DAY_MS), ..Limits::default() };
    assert_eq!(prune(&store, limits).entries, 1);
    assert_eq!(store.record(&old.head.id).unwrap(), None);
    whole(&store, &[&young, &again]);
}

#[test]
fn what_nobody_needs_goes_and_what_lies_beside_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut kept = used(&store, "1", &[b"one"], 1_000);
    kept.captured = Captured { pieces: vec![(Stream::Stdout, vec![b'y'; 100_000])] };
    kept.seal();
    store.insert(&kept, true).unwrap();
    store.keep_names(&kept.head.fingerprint, vec![vec![(b"name".to_vec(), b'f')]]).unwrap();
    adopt(&store, b"of a run that was not recorded");
    let mut failed = used(&store, "2", &[b"of a run that failed"], 1_000);
    store.retire(&failed.head.id).unwrap();
    failed.head.usable = false;
    fs::write(dir.path().join("store/blobs/notes"), "of a person").unwrap();
    fs::create_dir(dir.path().join("store/blobs/xy")).unwrap();
    fs::write(dir.path().join("store/blobs/xy/notes"), "of a person").unwrap();
    let index = rusqlite::Connection::open(dir.path().join("store/index.sqlite")).unwrap();
    let count = |table: &str| {
        index.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count("records"), count("traces"), count("trees")), (2, 2, 4));
    prune(&store, Limits::default());
    whole(&store, &[&kept]);
    assert_eq!(blobs(&store), 2);
    assert_eq!((count("records"), count("traces"), count("trees"), count("uses")), (1, 1, 2, 0));
    assert_eq!(store.names(&kept.head.fingerprint).unwrap().len(), 1);
    assert!(dir.path().join("store/blobs/xy/notes").exists() && dir.path().join("store/blobs/notes").exists());
    assert_eq!(fs::read_dir(dir.path().join("store/staging")).unwrap().count(), 0);
}

#[test]
fn a_damaged_record_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (good, bad, lost) =
        (used(&store, "1", &[b"1"], 1_000), used(&store, "2", &[b"2"], 1_000), used(&store, "3", &[b"3"], 1_000));
    let index = rusqlite::Connection::open(dir.path().join("store/index.sqlite")).unwrap();
    index.execute("UPDATE records SET exit_code = 7 WHERE id = ?1", [&bad.head.id.0.0[..]]).unwrap();
    index.execute("DELETE FROM trees WHERE digest = ?1", [&lost.head.manifest.0[..]]).unwrap();
    store.prune(&Limits::default(), &Told::default(), false).unwrap();
    whole(&store, &[&good]);
    assert_eq!(store.listed().unwrap().len(), 1);
    assert_eq!(blobs(&store), 1);
}

fn heads(store: &Store, task: &str) -> Vec<RecordHead> {
    store.heads_of_owner(&own(task)).unwrap()
}

#[test]
fn own_outputs_stay_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let last = used(&store, "task", &[b"last"], 1_000);
    let stands = used(&store, "task", &[b"last", b"stands"], 900);
    let nowhere = used(&store, "task", &[b"nowhere"], 800);
    let elsewhere = used(&store, "other", &[b"stands too"], 700);
    store.set_last(b"/ws", &own("task"), &last.head.id, now_ms()).unwrap();
    let output = |record: &Record, at: usize| {
        let entry = &record.outputs.entries[at];
        (entry.path.clone(), entry.output.clone())
    };
    let world = Told { standing: [output(&stands, 1), output(&elsewhere, 0)].into(), ..Told::default() };
    for _ in 0..2 {
        prune_in(&store, max(0), &world);
        assert_eq!((blobs(&store), store.sizes().unwrap().total()), (0, 0), "their files may go");
        let known: Vec<RecordId> = heads(&store, "task").iter().map(|head| head.id).collect();
        assert_eq!(known, [last.head.id, stands.head.id]);
        for record in [&last, &stands] {
            assert_eq!(store.manifest(&record.head.manifest).unwrap(), record.outputs);
            assert!(!store.head(&record.head.id).unwrap().unwrap().usable);
        }
        assert_eq!(store.trace(&last.head.fingerprint).unwrap(), last.trace, "the next run may carry");
        assert_eq!(store.last(b"/ws", &own("task")).unwrap(), Some(last.head.id));
        assert_eq!(store.record(&nowhere.head.id).unwrap(), None);
        assert_eq!(heads(&store, "other"), [], "it ran in no workspace that is known");
    }
    // Made again, it is as good as ever.
    adopt(&store, b"last");
    store.insert(&last, false).unwrap();
    whole(&store, &[&last]);
    // As soon as nothing of it stands any more it is forgotten.
    prune_in(&store, Limits::default(), &Told::default());
    assert_eq!(heads(&store, "task").len(), 1);
}

/// After a tainted run nothing is known to stand, and the next one starts from clean: it must know what to hide.
#[test]
fn own_outputs_of_a_tainted_run_stay_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tainted = used(&store, "task", &[b"stale"], 1_000);
    store.retire(&tainted.head.id).unwrap();
    store.remember_key(b"/ws", &key("task"), b"parts").unwrap();
    let entry = &tainted.outputs.entries[0];
    let world = Told { standing: [(entry.path.clone(), entry.output.clone())].into(), ..Told::default() };
    prune_in(&store, Limits::default(), &world);
    assert_eq!(heads(&store, "task").len(), 1);
    prune_in(&store, Limits::default(), &Told::default());
    assert_eq!(heads(&store, "task").len(), 0);
}

/// Moves a file's times back.
fn make_old(path: &Path, days: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60)).unwrap();
}

#[test]
fn a_workspace_is_forgotten_when_it_has_been_gone_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let long_ago = now_ms() - 31 * DAY_MS;
    let record = used(&store, "task", &[b"1"], now_ms());
    for (workspace, at_ms) in [(&b"/gone"[..], long_ago), (b"/there", long_ago), (b"/unplugged", now_ms())] {
        store.remember_key(workspace, &key("task"), b"parts").unwrap();
        store.set_last(workspace, &own("task"), &record.head.id, at_ms).unwrap();
        let run = RunCounted {
            workspace,
            outcome: Outcome::Miss,
            reason: "first_run",
            lookup_us: 1,
            work_us: 2,
            command_ms: 3,
            saved_us: 0,
            at_ms,
        };
        store.count(&run).unwrap();
    }
    let world = Told { gone: [b"/gone".to_vec(), b"/unplugged".to_vec()].into(), ..Told::default() };
    prune_in(&store, Limits::default(), &world);
    let last = |workspace: &[u8]| store.last(workspace, &own("task")).unwrap();
    assert_eq!(
        (last(b"/gone"), last(b"/there"), last(b"/unplugged")),
        (None, Some(record.head.id), Some(record.head.id))
    );
    assert!(store.recent_keys(b"/gone").unwrap().is_empty() && !store.recent_keys(b"/there").unwrap().is_empty());
    let mut counted: Vec<_> = store.counted().unwrap().into_iter().map(|runs| (runs.workspace, runs.runs)).collect();
    counted.sort();
    assert_eq!(counted, [(b"".to_vec(), 1), (b"/there".to_vec(), 1), (b"/unplugged".to_vec(), 1)]);
    // Cleaning waits for nobody.
    store.prune(&Limits { everything: true, ..Limits::default() }, &world, false).unwrap();
    assert_eq!((last(b"/there"), last(b"/unplugged")), (Some(record.head.id), None));
}

fn shown(store: &Store, root: &[u8], bytes: &[u8]) -> Digest {
    let digest = adopt(store, bytes);
    let output = Output::File { digest, size: bytes.len() as u64, mode: 0o644 };
    let pack = store.put_pack(&Pack { entries: vec![Packed { path: b"view".to_vec(), output, rank: 0 }] }).unwrap();
    let (mut log, _) = store.open_layer(root).unwrap();
    log.append(&[Step::Attach { at: Vec::new(), pack, first_ns: 0, step_ns: 1 }]).unwrap();
    digest
}

#[test]
fn what_a_layer_shows_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let record = used(&store, "task", &[b"view", b"other"], 1_000);
    let digest = shown(&store, b"/ws", b"view");
    for limits in [max(0), Limits { everything: true, ..Limits::default() }] {
        let pruned = prune(&store, limits);
        assert_eq!((pruned.bytes_shown > 4, pruned.bytes_left), (true, pruned.bytes_shown));
        store.verify_blob(&digest).unwrap();
        assert_eq!((blobs(&store), store.pinned().unwrap().len()), (2, 2), "a file and its pack");
    }
    assert_eq!(store.head(&record.head.id).unwrap(), None);

    // Gone for long, nobody can show it any more.
    let world = Told { gone: [b"/ws".to_vec()].into(), ..Told::default() };
    prune_in(&store, max(0), &world);
    store.verify_blob(&digest).unwrap();
    make_old(&dir.path().join(format!("store/layers/{}/log", Digest::of(b"/ws"))), 31);
    let (log, _) = store.open_layer(b"/ws").unwrap();
    prune_in(&store, max(0), &world);
    store.verify_blob(&digest).unwrap();
    drop(log);
    store.prune(&max(0), &world, false).unwrap();
    assert_eq!((blobs(&store), store.read_layer(b"/ws").unwrap()), (0, Vec::new()));
}

#[test]
fn leftovers_go_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stamp = |ino| FileStamp { dev: 1, ino, size: 1, mtime_ns: 1, ctime_ns: 1 };
    let now_ns = (now_ms() * 1_000_000) as i64;
    store.digests_put(&[(stamp(1), Digest::of(b"1"), now_ns), (stamp(2), Digest::of(b"2"), 1)]).unwrap();
    let damaged = adopt(&store, b"damaged");
    store.quarantine(&damaged).unwrap();
    let locks = dir.path().join("store/locks");
    fs::create_dir(&locks).unwrap();
    fs::write(locks.join(Digest::of(b"/nobody").to_string()), "").unwrap();
    fs::write(locks.join("else"), "").unwrap();
    prune(&store, Limits::default());
    let known = store.digests_get(&[stamp(1).id(), stamp(2).id()]).unwrap();
    assert!(known[0].is_some() && known[1].is_none());
    assert!(store.sizes().unwrap().quarantine_disk_bytes > 0);
    assert_eq!(fs::read_dir(&locks).unwrap().count(), 2, "too young to tell");
    store.prune(&Limits { everything: true, ..Limits::default() }, &Told::default(), false).unwrap();
    assert_eq!(store.digests_get(&[stamp(1).id()]).unwrap(), [None]);
    assert_eq!(store.sizes().unwrap().quarantine_disk_bytes, 0);
}

#[test]
fn who_holds_the_store_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let record = used(&store, "task", &[b"1"], 1_000);
    let (hold, another) = (store.hold().unwrap(), open(dir.path()).hold().unwrap());
    let hasty = Limits { patience: Duration::from_millis(30), ..max(0) };
    let pruned = store.prune(&hasty, &Told::default(), false).unwrap();
    assert!(pruned.gave_up);
    assert_eq!((pruned.entries, pruned.bytes, pruned.entries_left), (0, 0, 1));
    whole(&store, &[&record]);
    drop(hold);
    assert!(store.prune(&hasty, &Told::default(), false).unwrap().gave_up);
    drop(another);
    assert!(!store.prune(&hasty, &Told::default(), false).unwrap().gave_up);
    assert_eq!(store.sizes().unwrap().total(), 0);
}

#[test]
fn two_do_not_prune_at_once() {
    struct Curious<'s>(&'s Store, AtomicBool);
    impl World for Curious<'_> {
        fn is_gone(&self, _: &[u8]) -> bool {
            false
        }
        fn stands(&self, _: &[u8], _: &[u8], _: &Output) -> bool {
            false
        }
        fn progress(&self, _: &str, _: u64, _: u64) {
            assert!(self.0.is_being_pruned());
            let again = self.0.prune(&Limits::default(), &Told::default(), false);
            assert!(matches!(again, Err(StoreError::PrunedElsewhere { .. })), "{again:?}");
            self.1.store(true, Ordering::Relaxed);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let world = Curious(&store, AtomicBool::new(false));
    store.prune(&Limits::default(), &world, false).unwrap();
    assert!(world.1.into_inner() && !store.is_being_pruned());
}

#[test]
fn it_is_time_after_a_day_or_when_the_limit_is_passed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let due = |max: u64| store.should_prune(Some(max), now_ms()).unwrap();
    assert!(!due(0), "there is nothing in it");
    used(&store, "1", &[&[b'x'; 10_000]], now_ms());
    assert!(due(9_000) && !due(20_000));
    used(&store, "2", &[&[b'x'; 10_000]], now_ms());
    assert!(!due(20_000), "what was there before is not counted twice");
    assert!(!store.should_prune(None, now_ms()).unwrap());
    assert!(store.should_prune(None, now_ms() + DAY_MS + 1).unwrap());
    prune(&store, max(11_000));
    assert!(!due(11_000) && due(1_000));
    used(&store, "3", &[&[b'y'; 10_000]], now_ms());
    assert!(due(11_000));
    // What cannot be made smaller is left alone for a while.
    shown(&store, b"/ws", &[b'z'; 10_000]);
    prune(&store, max(5_000));
    assert!(!due(5_000) && store.should_prune(Some(5_000), now_ms() + DAY_MS / 24).unwrap());
}

/// Threads that store and use records in every order while others prune to nothing: under its hold nobody loses what it found or placed.
#[test]
fn nothing_is_taken_from_under_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let rounds: u64 = std::env::var("WINK_GC_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let path = dir.path();
    let over = AtomicBool::new(false);
    let contents: Vec<Vec<u8>> = (0..8u8).map(|number| vec![number; 2_000]).collect();
    let work = |thread: u64| {
        let store = open(path);
        let mut dice = thread + 1;
        for _ in 0..rounds {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick: Vec<&[u8]> = contents
                .iter()
                .enumerate()
                .filter(|(bit, _)| dice >> (32 + bit) & 1 == 1)
                .map(|(_, c)| &c[..])
                .collect();
            let task = format!("task {}", dice >> 61);
            let _hold = store.hold().unwrap();
            let found = store.candidates(&key(&task)).unwrap();
            if let Some(head) = found.first().filter(|_| dice >> 50 & 1 == 1) {
                // A hit.
                let record = store.record(&head.id).unwrap().expect("it was found under this hold");
                whole(&store, &[&record]);
                let run = RunCounted {
                    workspace: b"/ws",
                    outcome: Outcome::Hit,
                    reason: "",
                    lookup_us: 0,
                    work_us: 0,
                    command_ms: 0,
                    saved_us: 0,
                    at_ms: now_ms(),
                };
                store.hit(&Hit { record: &head.id, own_key: &own(&task), run }).unwrap();
            } else {
                // A miss: what is found there already must stay as well.
                let record = used(&store, &task, &pick, now_ms());
                for bytes in &pick {
                    store.verify_blob(&Digest::of(bytes)).unwrap();
                }
                if thread == 0 {
                    shown(&store, b"/ws", &dice.to_le_bytes());
                }
                let winner = store.head(&record.head.id).unwrap();
                assert!(winner.is_some() || !store.candidates(&key(&task)).unwrap().is_empty());
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|thread| scope.spawn(move || work(thread))).collect();
        for limit in [0, 5_000] {
            scope.spawn({
                let over = &over;
                move || {
                    let store = open(path);
                    while !over.load(Ordering::Relaxed) {
                        match store.prune(&max(limit), &Told::default(), false) {
                            Ok(_) | Err(StoreError::PrunedElsewhere { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    let store = open(path);
    for listed in store.listed().unwrap().iter().filter(|listed| listed.head.usable) {
        let record = store.record(&listed.head.id).unwrap().unwrap();
        whole(&store, &[&record]);
    }
    for step in store.read_layer(b"/ws").unwrap() {
        let Step::Attach { pack, .. } = step else { continue };
        assert_eq!(store.pack(&pack).unwrap().entries.len(), 1);
    }
    for digest in store.pinned().unwrap() {
        store.verify_blob(&digest).unwrap();
    }
    let pruned = store.prune(&max(0), &Told::default(), false).unwrap();
    assert_eq!(pruned.bytes_left, pruned.bytes_shown);
}

//! Layers: what was logged comes back, however the log ends or is damaged, and only one may change it at a time.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use support::open;
use wink_store::{Digest, LayerLog, Output, Pack, Packed, Step, Store, StoreError};

const ROOT: &[u8] = b"/home/me/pro\xffject";
const CHILD_DIR: &str = "STORE_TEST_LAYER_DIR";

fn remove(path: &str) -> Step {
    Step::Remove { path: path.into() }
}

fn output(bytes: &[u8]) -> Output {
    Output::File { digest: Digest::of(bytes), size: bytes.len() as u64, mode: 0o644 }
}

fn put(path: &str, bytes: &[u8]) -> Step {
    Step::Put { path: path.into(), output: output(bytes), mtime_ns: -1 }
}

fn attach(pack: Digest) -> Step {
    Step::Attach { at: Vec::new(), pack, first_ns: 1_700_000_000_000_000_000, step_ns: 1_000 }
}

fn pack(contents: &[&[u8]]) -> Pack {
    let packed = |(rank, bytes): (u64, &&[u8])| Packed {
        path: format!("out/{rank:04}").into_bytes(),
        output: output(bytes),
        rank,
    };
    Pack { entries: (0..).zip(contents).map(packed).collect() }
}

fn dir(store: &Store) -> PathBuf {
    store.dir().join("layers").join(Digest::of(ROOT).to_string())
}

fn reopen(store: &Store) -> (LayerLog, Vec<Step>) {
    store.open_layer(ROOT).unwrap()
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// A log of three records, where each of them ends, and all of its steps with the number of the record that holds them.
fn three_records(store: &Store) -> (Vec<u8>, Vec<usize>, Vec<(usize, Step)>) {
    let records = [
        vec![attach(Digest::of(b"pack")), put("a/b", b"x")],
        vec![Step::Move { from: b"a/b".to_vec(), to: b"c".to_vec() }],
        vec![remove("c"), put("c", b"y")],
    ];
    let (mut log, _) = reopen(store);
    let ends = records.iter().map(|steps| {
        log.append(steps).unwrap();
        usize::try_from(log.bytes()).unwrap()
    });
    let ends = ends.collect();
    let steps = records.iter().enumerate().flat_map(|(at, steps)| steps.iter().map(move |step| (at, step.clone())));
    (fs::read(dir(store).join("log")).unwrap(), ends, steps.collect())
}

fn first(steps: &[(usize, Step)], records: usize) -> Vec<Step> {
    steps.iter().filter(|(at, _)| *at < records).map(|(_, step)| step.clone()).collect()
}

#[test]
fn a_layer_starts_empty_and_keeps_what_is_appended() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    assert_eq!(store.read_layer(ROOT).unwrap(), []);
    assert_eq!(files(&store.dir().join("layers")), 0, "reading makes nothing");

    let (mut log, steps) = reopen(&store);
    assert_eq!((steps, log.records(), log.bytes(), log.notice()), (vec![], 0, 0, None));
    log.append(&[]).unwrap();
    assert_eq!(log.records(), 0);
    assert_eq!(store.layer_roots().unwrap(), Vec::<Vec<u8>>::new(), "it has no step");
    log.append(&[put("a", b"x"), remove("b")]).unwrap();
    log.append(&[remove("")]).unwrap();
    let all = [put("a", b"x"), remove("b"), remove("")];
    assert_eq!(store.read_layer(ROOT).unwrap(), all);
    assert_eq!(store.layer_roots().unwrap(), [ROOT]);
    let size = fs::metadata(dir(&store).join("log")).unwrap().len();
    assert_eq!((log.records(), log.bytes()), (2, size));

    drop(log);
    let (log, steps) = reopen(&store);
    assert_eq!((&steps[..], log.records(), log.bytes(), log.notice()), (&all[..], 2, size, None));
    assert_eq!(store.read_layer(b"/home/me").unwrap(), [], "another layer");
    store.sync().unwrap();
}

#[test]
fn a_rewritten_log_can_be_appended_to() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (mut log, _) = reopen(&store);
    for turn in 0..50 {
        log.append(&[put("a", format!("{turn}").as_bytes())]).unwrap();
    }
    let before = log.bytes();
    log.rewrite(&[put("a", b"49")]).unwrap();
    assert!(log.bytes() < before && log.records() == 1);
    log.append(&[remove("b")]).unwrap();
    assert_eq!(store.read_layer(ROOT).unwrap(), [put("a", b"49"), remove("b")]);

    let many: Vec<Step> = (0..1_000).map(|turn| remove(&format!("{turn}"))).collect();
    log.rewrite(&many).unwrap();
    assert!(log.records() > 1, "damage to one record is not the loss of all");
    drop(log);
    assert_eq!(reopen(&store).1, many);
    reopen(&store).0.rewrite(&[]).unwrap();
    assert_eq!(store.layer_roots().unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(files(&store.dir().join("staging")), 0);
}

#[test]
fn steps_that_cannot_be_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (mut log, _) = reopen(&store);
    let bad = [
        remove("../a"),
        remove("/a"),
        Step::Move { from: b"a".to_vec(), to: b"b/".to_vec() },
        Step::Put { path: b"a".to_vec(), output: Output::Removed, mtime_ns: 0 },
        Step::Put { path: b"a".to_vec(), output: Output::Link { target: Vec::new() }, mtime_ns: 0 },
        Step::Put { path: b"a".to_vec(), output: Output::Dir { mode: 0o10_000 }, mtime_ns: 0 },
        Step::Attach { at: b".".to_vec(), pack: Digest::of(b""), first_ns: 0, step_ns: 0 },
    ];
    for step in bad {
        for error in [log.append(&[remove("fine"), step.clone()]), log.rewrite(std::slice::from_ref(&step))] {
            assert!(matches!(error, Err(StoreError::Unstorable { .. })), "{step:?}: {error:?}");
        }
    }
    assert_eq!(store.read_layer(ROOT).unwrap(), []);
    let twice = Pack { entries: [pack(&[b"x"]).entries, pack(&[b"y"]).entries].concat() };
    assert!(matches!(store.put_pack(&twice), Err(StoreError::Unstorable { .. })));
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_was_torn() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (bytes, ends, steps) = three_records(&store);
    let path = dir(&store).join("log");
    for length in 0..=bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let whole = ends.iter().filter(|&&end| end <= length).count();
        let expected = first(&steps, whole);
        assert_eq!(store.read_layer(ROOT).unwrap(), expected, "{length}");
        assert_eq!(fs::metadata(&path).unwrap().len(), length as u64, "a reader changes nothing");

        let (mut log, found) = reopen(&store);
        assert_eq!((&found, log.records(), log.notice()), (&expected, whole as u64, None), "{length}");
        log.append(&[remove("z")]).unwrap();
        assert_eq!(store.read_layer(ROOT).unwrap(), [expected, vec![remove("z")]].concat(), "{length}");
    }
    assert_eq!(files(&store.dir().join("quarantine")), 0);
}

#[test]
fn a_flipped_bit_costs_its_record_and_the_ones_behind_it() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (bytes, ends, steps) = three_records(&store);
    let path = dir(&store).join("log");
    for at in 0..bytes.len() {
        let expected = first(&steps, ends.iter().filter(|&&end| end <= at).count());
        let mut damaged = bytes.clone();
        for bits in [0xff, 1 << (at % 8)] {
            damaged[at] = bytes[at] ^ bits;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(store.read_layer(ROOT).unwrap(), expected, "byte {at}, bits {bits:x}");
        }
        let (mut log, found) = reopen(&store);
        assert_eq!(found, expected, "byte {at}");
        let notice = log.notice().expect("a notice").to_owned();
        assert!(notice.contains("/home/me/pro") && notice.contains("quarantine"), "{notice}");
        log.append(&[remove("z")]).unwrap();
        drop(log);
        let (log, found) = reopen(&store);
        assert_eq!((found, log.notice()), ([expected, vec![remove("z")]].concat(), None), "byte {at}: mended");
    }
    let quarantine = store.dir().join("quarantine");
    assert_eq!(files(&quarantine), bytes.len());
    let kept = fs::read_dir(&quarantine).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap().len());
    assert_eq!(kept.max(), Some(bytes.len()), "damage at the very beginning sets everything aside");
}

#[test]
fn records_of_another_place_are_not_believed() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (bytes, ends, steps) = three_records(&store);
    let path = dir(&store).join("log");
    // A record that is missing, and one that is there twice: each is whole in itself.
    fs::write(&path, [&bytes[..ends[0]], &bytes[ends[1]..]].concat()).unwrap();
    assert_eq!(store.read_layer(ROOT).unwrap(), first(&steps, 1));
    fs::write(&path, [&bytes[..ends[1]], &bytes[ends[0]..]].concat()).unwrap();
    assert_eq!(store.read_layer(ROOT).unwrap(), first(&steps, 2));
    drop(store.open_layer(b"/other").unwrap());
    fs::copy(&path, store.dir().join(format!("layers/{}/log", Digest::of(b"/other")))).unwrap();
    assert_eq!(store.read_layer(b"/other").unwrap(), []);
}

/// Well-formed in every other way: the right chain, the right lengths.
#[test]
fn planted_names_are_not_believed() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    drop(reopen(&store));
    let string = |bytes: &[u8]| [&[bytes.len() as u8], bytes].concat();
    let plant = |step: &[u8]| {
        let steps = [&b"wY1\x01"[..], step].concat();
        let length = steps.len() as u32;
        let check = Digest::of(&[&Digest::of(ROOT).0[..], &steps].concat());
        let record = [&length.to_le_bytes()[..], &(!length).to_le_bytes(), &steps, &check.0].concat();
        fs::write(dir(&store).join("log"), record).unwrap();
        store.read_layer(ROOT).unwrap()
    };
    assert_eq!(plant(&[&b"r"[..], &string(b"a/b")].concat()), [remove("a/b")]);
    assert_eq!(plant(&[&b"m"[..], &string(b"a"), &string(b"b")].concat()).len(), 1);
    assert_eq!(plant(&[&b"p"[..], &string(b"a"), b"d\xed\x03\x00"].concat()).len(), 1);
    assert_eq!(plant(&[&b"a"[..], &string(b"a"), &Digest::of(b"pack").0, b"\x00\x00"].concat()).len(), 1);
    for path in [&b"/"[..], b"/etc/passwd", b"..", b"../a", b"a/../../b", b"a/..", b".", b"a//b", b"a/", b"a\0b"] {
        let name = string(path);
        let good = string(b"good");
        let planted = [
            [&b"r"[..], &name].concat(),
            [&b"m"[..], &good, &name].concat(),
            [&b"m"[..], &name, &good].concat(),
            [&b"p"[..], &name, b"d\xed\x03\x00"].concat(),
            [&b"a"[..], &name, &Digest::of(b"pack").0, b"\x00\x00"].concat(),
        ];
        for step in planted {
            assert_eq!(plant(&step), [], "{path:?} in {step:?}");
        }
    }
}

#[test]
fn a_lost_root_comes_back() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    reopen(&store).0.append(&[put("a", b"x")]).unwrap();
    fs::write(dir(&store).join("root"), b"").unwrap();
    fs::write(store.dir().join("layers/notes"), b"of somebody else").unwrap();
    assert_eq!(store.layer_roots().unwrap(), Vec::<Vec<u8>>::new());
    assert!(store.pinned().unwrap().contains(&Digest::of(b"x")), "it is still pinned");
    drop(reopen(&store));
    assert_eq!(store.layer_roots().unwrap(), [ROOT]);
}

#[test]
fn everything_that_a_layer_may_show_is_pinned() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let shown = store.put_pack(&pack(&[b"one", b"two"])).unwrap();
    let moved = store.put_pack(&pack(&[b"three"])).unwrap();
    let lost = store.put_pack(&pack(&[b"four"])).unwrap();
    store.quarantine(&lost).unwrap();
    reopen(&store).0.append(&[attach(shown), attach(shown), attach(lost), put("a", b"five")]).unwrap();
    let (mut other, _) = store.open_layer(b"/other").unwrap();
    let link = Output::Link { target: b"t".to_vec() };
    other
        .append(&[attach(moved), Step::Put { path: b"l".to_vec(), output: link, mtime_ns: 0 }, remove("out")])
        .unwrap();
    let contents = [&b"one"[..], b"two", b"three", b"five"].map(Digest::of);
    assert_eq!(store.pinned().unwrap(), HashSet::from_iter([shown, moved, lost].into_iter().chain(contents)));
    other.rewrite(&[]).unwrap();
    assert!(!store.pinned().unwrap().contains(&moved), "no longer");
}

#[test]
fn a_pack_is_read_checked_and_a_damaged_one_mended() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let sample = pack(&[b"one", b"two"]);
    let digest = store.put_pack(&sample).unwrap();
    assert_eq!(store.pack(&digest).unwrap(), sample);
    let path = store.blob_path(&digest);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    assert!(matches!(store.pack(&digest), Err(StoreError::DamagedBlob { .. })));
    assert_eq!(store.put_pack(&sample).unwrap(), digest);
    assert_eq!(store.pack(&digest).unwrap(), sample);
    let other = store.put(b"no pack").unwrap();
    assert!(matches!(store.pack(&other), Err(StoreError::DamagedBlob { .. })));
    assert!(matches!(store.pack(&Digest::of(b"?")), Err(StoreError::MissingBlob { .. })));
}

#[test]
fn a_second_handle_is_refused_and_may_read() {
    let temp = tempfile::tempdir().unwrap();
    let (store, other) = (open(temp.path()), open(temp.path()));
    let (mut log, _) = reopen(&store);
    log.append(&[remove("a")]).unwrap();
    let error = other.open_layer(ROOT).unwrap_err();
    assert!(matches!(&error, StoreError::LayerInUse { .. }), "{error}");
    assert!(error.to_string().contains("/home/me/pro") && !error.is_damage(), "{error}");
    assert_eq!(other.read_layer(ROOT).unwrap(), [remove("a")]);
    drop(other.open_layer(b"/other").unwrap());
    drop(log);
    assert_eq!(reopen(&other).1, [remove("a")]);
}

/// Not a test by itself: the process that has the layer in the next one, until somebody kills it.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = open(Path::new(&dir));
    let (mut log, _) = reopen(&store);
    log.append(&[remove("by the child")]).unwrap();
    println!("\nopened");
    // The other end is never written to: this waits for the death of either.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_killed_process_leaves_its_layer_to_the_next() {
    let temp = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD_DIR, temp.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "opened"));
    let store = open(temp.path());
    assert!(matches!(store.open_layer(ROOT), Err(StoreError::LayerInUse { .. })));
    assert_eq!(store.read_layer(ROOT).unwrap(), [remove("by the child")]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(reopen(&store).1, [remove("by the child")]);
}

#[test]
fn readers_see_the_old_log_or_the_new_one() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (mut log, _) = reopen(&store);
    let steps = |from: usize, to: usize| -> Vec<Step> { (from..to).map(|turn| remove(&format!("{turn}"))).collect() };
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for turn in 0..200 {
                log.append(&steps(turn, turn + 1)).unwrap();
                if turn % 10 == 9 {
                    log.rewrite(&steps(0, turn + 1)).unwrap();
                }
            }
        });
        let mut before = 0;
        while !writer.is_finished() {
            let found = store.read_layer(ROOT).unwrap();
            assert!(found.len() >= before, "what was shown once stays");
            assert_eq!(found, steps(0, found.len()));
            before = found.len();
        }
    });
    assert_eq!(store.read_layer(ROOT).unwrap(), steps(0, 200));
}

proptest! {
    // Each case makes a store.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_steps_come_back(records in proptest::collection::vec(proptest::collection::vec(support::step(), 1..8), 0..8)) {
        let temp = tempfile::tempdir().unwrap();
        let store = open(temp.path());
        let (mut log, _) = reopen(&store);
        records.iter().for_each(|steps| log.append(steps).unwrap());
        let all = records.concat();
        prop_assert_eq!(&store.read_layer(ROOT).unwrap(), &all);
        log.rewrite(&all).unwrap();
        drop(log);
        prop_assert_eq!(&reopen(&store).1, &all);
    }
}

/// What is in people's caches: a change of these bytes is a change of the format.
#[test]
fn the_bytes_of_a_log_are_stable() {
    let temp = tempfile::tempdir().unwrap();
    let (bytes, ..) = three_records(&open(temp.path()));
    assert_eq!(Digest::of(&bytes).to_string(), "d3553086f80aeccdc7591d373c0f571caa4c4c64211304601606bbec6ad3a155");
}

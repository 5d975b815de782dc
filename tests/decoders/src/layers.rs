//! Packs, logs of layers, and a layer that does what a hostile log says.

use std::sync::Arc;

use wink_fs::layer::{Layer, Virtual};
use wink_fs::status::Status;
use wink_store::{Digest, Output, Pack, Packed, Step, decoders};

use crate::assert_stays_inside;
use crate::bytes::{Pieces, piece};

pub fn pack(bytes: &[u8]) -> bool {
    let Ok(pack) = Pack::decode(bytes) else { return false };
    assert_eq!(pack.encode(), bytes, "written again as other bytes");
    for entry in &pack.entries {
        assert_stays_inside(&entry.path);
        assert!(!entry.path.is_empty() && entry.output != Output::Removed);
    }
    true
}

fn packs() -> [Pack; 3] {
    let file = Output::File { digest: Digest::of(b"a"), size: 1, mode: 0o644 };
    let dir = Output::Dir { mode: 0o755 };
    let link = Output::Link { target: b"../a".to_vec() };
    let pack = |entries: &[(&str, &Output)]| {
        let packed = |((path, output), rank): (&(&str, &Output), u64)| Packed {
            path: (*path).into(),
            output: (*output).clone(),
            rank,
        };
        Pack { entries: entries.iter().zip(0..).map(packed).collect() }
    };
    [
        pack(&[("a", &file)]),
        pack(&[("o", &dir), ("o-", &file), ("o/x", &dir), ("o/x/1", &file), ("o/y/2", &file), ("o/z", &link)]),
        pack(&[("a/b/c", &file), ("a/d", &dir), ("b", &link)]),
    ]
}

pub fn pack_seeds() -> Vec<Vec<u8>> {
    packs().iter().map(Pack::encode).chain([Pack::default().encode()]).collect()
}

fn check_step(step: &Step) {
    match step {
        Step::Attach { at: path, .. } | Step::Put { path, .. } | Step::Remove { path } => assert_stays_inside(path),
        Step::Move { from, to } => {
            assert_stays_inside(from);
            assert_stays_inside(to);
        }
    }
}

fn layer_name() -> Digest {
    Digest::of(b"/ws")
}

/// A whole log as it is on the disk.
pub fn log(bytes: &[u8]) -> bool {
    let (steps, length, damaged) = decoders::read_log(bytes, &layer_name());
    assert!(length <= bytes.len());
    steps.iter().for_each(check_step);
    // What was read is a beginning that stands for itself; what follows it is damage, or an end that is too short.
    let again = decoders::read_log(&bytes[..length], &layer_name());
    assert_eq!(again, (steps.clone(), length, false));
    if !steps.is_empty() {
        assert!(decoders::read_log(bytes, &Digest::of(b"/other")).0.is_empty(), "the log of another layer is believed");
    }
    length == bytes.len() && !damaged
}

pub fn log_seeds() -> Vec<Vec<u8>> {
    let all = some_steps();
    let one = decoders::write_log_record(&layer_name(), &all[..2]).unwrap();
    let check = Digest(one[one.len() - 32..].try_into().unwrap());
    let two = decoders::write_log_record(&check, &all[2..]).unwrap();
    vec![[one.clone(), two].concat(), one, Vec::new()]
}

/// The steps of one record, which vouches for them.
pub fn steps(bytes: &[u8]) -> bool {
    let framed = decoders::frame_log_record(&layer_name(), bytes);
    let (steps, length, damaged) = decoders::read_log(&framed, &layer_name());
    if damaged {
        assert!(steps.is_empty() && length == 0);
        return false;
    }
    assert_eq!(length, framed.len());
    steps.iter().for_each(check_step);
    assert_eq!(decoders::write_log_record(&layer_name(), &steps), Ok(framed), "written again as other bytes");
    true
}

fn some_steps() -> Vec<Step> {
    let [one, two, three] = packs().map(|pack| Digest::of(&pack.encode()));
    let put = |path: &str, output| Step::Put { path: path.into(), output, mtime_ns: -5 };
    vec![
        Step::Attach { at: Vec::new(), pack: two, first_ns: 1 << 60, step_ns: 10 },
        put("o/x/new", Output::Dir { mode: 0o700 }),
        Step::Move { from: "o/x".into(), to: "p".into() },
        Step::Attach { at: b"p".to_vec(), pack: one, first_ns: -1, step_ns: i64::MAX },
        Step::Remove { path: "o/y".into() },
        Step::Attach { at: b"o/y/2".to_vec(), pack: three, first_ns: 0, step_ns: 0 },
        Step::Move { from: "o".into(), to: "o/deeper".into() },
        put("p/a", Output::Link { target: b"/etc/passwd".to_vec() }),
        Step::Remove { path: Vec::new() },
    ]
}

pub fn steps_seeds() -> Vec<Vec<u8>> {
    let payload = |steps: &[Step]| {
        let record = decoders::write_log_record(&layer_name(), steps).unwrap();
        record[8..record.len() - 32].to_vec()
    };
    let all = some_steps();
    vec![payload(&all), payload(&all[..1]), payload(&[])]
}

/// The input is a pack, then the steps of a record. What a layer shows after them is made of plain names, and is what the steps that it
/// gives when asked to say itself again show.
pub fn layer(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    let mut known: Vec<Arc<Pack>> = packs().map(Arc::new).into();
    known.extend(Pack::decode(pieces.string()).ok().map(Arc::new));
    let framed = decoders::frame_log_record(&layer_name(), pieces.0);
    let (steps, ..) = decoders::read_log(&framed, &layer_name());
    // A digest that mutation spoiled still means one of them.
    let find = |digest: &Digest| match known.iter().find(|pack| Digest::of(&pack.encode()) == *digest) {
        Some(pack) => Ok(pack.clone()),
        None if digest.0[0] == 0xff => Err(Status::Io),
        None => Ok(known[usize::from(digest.0[0]) % known.len()].clone()),
    };
    let mut layer = Layer::new();
    for step in steps.iter().take(256) {
        let before = layer.walk(b"").len();
        if layer.apply(step, &find).is_err() {
            assert_eq!(layer.walk(b"").len(), before, "a step that failed changed something");
        }
        // An attached pack may be attached again and again.
        if before > 20_000 {
            break;
        }
    }
    let shown = layer.walk(b"");
    for (path, entry) in &shown {
        assert_stays_inside(path);
        assert!(*entry != Virtual::Way && layer.get(path).as_ref() == Some(entry), "{path:?}");
    }
    let mut again = Layer::new();
    layer.steps().iter().for_each(|step| again.apply(step, &find).unwrap());
    let plain = |layer: &Layer| -> Vec<_> {
        let shown = layer.walk(b"").into_iter().map(|(path, entry)| (path, without_number(entry)));
        // A walk promises only that a directory comes before what it holds.
        shown.collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
    };
    assert_eq!(plain(&again), plain(&layer), "said again it shows something else");
    !steps.is_empty()
}

/// Numbers of what moved may differ.
fn without_number(entry: Virtual) -> Virtual {
    match entry {
        Virtual::File { digest, size, mode, mtime, .. } => Virtual::File { digest, size, mode, mtime, ino: 0 },
        Virtual::Link { target, mtime, .. } => Virtual::Link { target, mtime, ino: 0 },
        Virtual::Dir { mode, mtime, .. } => Virtual::Dir { mode, mtime, ino: 0 },
        Virtual::Way => Virtual::Way,
    }
}

pub fn layer_seeds() -> Vec<Vec<u8>> {
    let [.., pack] = packs();
    steps_seeds().into_iter().map(|steps| [piece(&pack.encode()), steps].concat()).collect()
}

//! What the tests of the store share: sample records, and strategies that make any record the store promises to keep.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use wink_store::{
    Captured, Digest, Entry, Manifest, Observation, OpaqueKind, Output, OwnKey, Pack, Packed, Record, RecordHead,
    RecordId, Root, Seen, Step, Store, Stream, TaskKey, Trace, TreePath,
};

pub fn open(dir: &Path) -> Store {
    Store::open(&dir.join("store")).expect("the store opens")
}

/// Puts `bytes` into the store the way a run does: through a staging file.
pub fn adopt(store: &Store, bytes: &[u8]) -> Digest {
    let staging = store.staging().expect("staging");
    let path = staging.path().join("file");
    std::fs::write(&path, bytes).expect("a staging file");
    let digest = Digest::of(bytes);
    store.adopt(&path, &digest).expect("adopt");
    digest
}

pub fn file(path: &str, bytes: &[u8]) -> Entry {
    let output = Output::File { digest: Digest::of(bytes), size: bytes.len() as u64, mode: 0o644 };
    Entry { path: path.into(), output, modified: false }
}

pub fn key(name: &str) -> TaskKey {
    TaskKey(Digest::of(name.as_bytes()))
}

pub fn own(name: &str) -> OwnKey {
    OwnKey(Digest::of(name.as_bytes()))
}

/// A sealed record of task `task` that read `input` and wrote `outputs`.
pub fn record(task: &str, input: &[u8], outputs: Vec<Entry>) -> Record {
    let seen = Seen { fact: Observation::File { digest: Digest::of(input), mode: 0o644 }, own: false };
    let path = TreePath::new(Root::Workspace, b"src/main.c").expect("a path");
    let mut record = Record {
        head: RecordHead {
            id: RecordId(Digest([0; 32])),
            task_key: key(task),
            own_key: own(task),
            usable: true,
            fingerprint: Digest([0; 32]),
            manifest: Digest([0; 32]),
            exit_code: 0,
            command_ms: 1234,
            created_ms: 1_000,
            bound_workspace: None,
            bound_home: None,
            depth: 2,
            output_bytes: 0,
        },
        trace: Trace { seen: [(path, seen)].into() },
        times: (0..outputs.len() as u64).collect(),
        outputs: Manifest { entries: outputs },
        captured: Captured { pieces: vec![(Stream::Stdout, b"hello\n".to_vec()), (Stream::Stderr, b"oh".to_vec())] },
        argv: vec![b"cc".to_vec(), b"main.c".to_vec()],
    };
    record.seal();
    record
}

/// Stores the blobs `contents` and a record of `task` with one output for each.
pub fn stored(store: &Store, task: &str, contents: &[&[u8]]) -> Record {
    let entry = |(index, bytes): (usize, &&[u8])| {
        store.put(bytes).expect("put");
        file(&format!("out/{index:04}"), bytes)
    };
    let record = record(task, b"input", contents.iter().enumerate().map(entry).collect());
    store.insert(&record, false).expect("insert");
    record
}

pub fn name() -> impl Strategy<Value = Vec<u8>> {
    // Few letters, around the slash in byte order, so that prefixes and awkward neighbours are common.
    vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'-'), Just(b'0'), Just(1), Just(0xff)], 1..4)
}

pub fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(name(), 1..5).prop_map(|names| names.join(&b'/'))
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn mode() -> impl Strategy<Value = u32> {
    0..=0o7777u32
}

fn root() -> impl Strategy<Value = Root> {
    prop_oneof![Just(Root::Workspace), (1..4u16).prop_map(Root::Above), Just(Root::Home), Just(Root::System)]
}

fn fact() -> impl Strategy<Value = Observation> {
    let kind = prop_oneof![
        Just(OpaqueKind::Unreadable),
        Just(OpaqueKind::Device),
        Just(OpaqueKind::Pipe),
        Just(OpaqueKind::Socket)
    ];
    prop_oneof![
        Just(Observation::Absent),
        (0..=0o7777u32).prop_map(|mode| Observation::Dir { mode }),
        (digest(), 0..=0o7777u32).prop_map(|(digest, mode)| Observation::Listing { digest, mode }),
        (digest(), mode()).prop_map(|(digest, mode)| Observation::File { digest, mode }),
        vec(any::<u8>(), 0..20).prop_map(|target| Observation::Link { target }),
        (kind, mode()).prop_map(|(kind, mode)| Observation::Opaque { kind, mode }),
    ]
}

pub fn trace() -> impl Strategy<Value = Trace> {
    let relative = prop_oneof![1 => Just(Vec::new()), 20 => path()];
    let path = (root(), relative).prop_map(|(root, relative)| TreePath::new(root, &relative).expect("a path"));
    let seen = (fact(), any::<bool>()).prop_map(|(fact, own)| Seen { fact, own });
    btree_map(path, seen, 0..40).prop_map(|seen| Trace { seen })
}

fn output() -> impl Strategy<Value = Output> {
    prop_oneof![
        (digest(), any::<u64>(), mode()).prop_map(|(digest, size, mode)| Output::File { digest, size, mode }),
        vec(1..=255u8, 1..20).prop_map(|target| Output::Link { target }),
        mode().prop_map(|mode| Output::Dir { mode }),
        Just(Output::Removed),
    ]
}

pub fn manifest() -> impl Strategy<Value = Manifest> {
    btree_map(path(), (output(), any::<bool>()), 0..40).prop_map(|paths| {
        let mut manifest = Manifest::default();
        for (path, (output, modified)) in paths {
            let modified = modified || output == Output::Removed;
            manifest.entries.push(Entry { path, output, modified });
            // What cannot be (something below a file) is left out.
            if manifest.check().is_err() {
                manifest.entries.pop();
            }
        }
        manifest
    })
}

pub fn pack() -> impl Strategy<Value = Pack> {
    (manifest(), any::<u64>()).prop_map(|(manifest, rank)| {
        let shown = manifest.entries.into_iter().filter(|entry| entry.output != Output::Removed);
        let packed = |(index, entry): (u64, Entry)| Packed {
            path: entry.path,
            output: entry.output,
            rank: rank.wrapping_mul(index),
        };
        Pack { entries: (0..).zip(shown).map(packed).collect() }
    })
}

pub fn step() -> impl Strategy<Value = Step> {
    let shown = output().prop_filter("shows nothing", |output| *output != Output::Removed);
    prop_oneof![
        (prop_oneof![Just(Vec::new()), path()], digest(), any::<i64>(), any::<i64>())
            .prop_map(|(at, pack, first_ns, step_ns)| Step::Attach { at, pack, first_ns, step_ns }),
        (path(), shown, any::<i64>()).prop_map(|(path, output, mtime_ns)| Step::Put { path, output, mtime_ns }),
        path().prop_map(|path| Step::Remove { path }),
        (path(), path()).prop_map(|(from, to)| Step::Move { from, to }),
    ]
}

pub fn captured() -> impl Strategy<Value = Captured> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    vec((stream, vec(any::<u8>(), 0..50)), 0..10).prop_map(|pieces| Captured { pieces })
}

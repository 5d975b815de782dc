//! What the index holds: traces, manifests, rows of records and their parts, and the file `format`.

use std::collections::HashMap;

use wink_store::decoders::{self, Column, HEAD_COLUMNS, Rows};
use wink_store::{
    Captured, Digest, Entry, Manifest, Observation, OpaqueKind, Output, OwnKey, RecordHead, RecordId, Root, Seen,
    StoreError, Stream, TaskKey, Trace, TreePath,
};

use crate::assert_stays_inside;
use crate::bytes::{Pieces, piece};

pub fn trace(bytes: &[u8]) -> bool {
    let Ok(trace) = Trace::decode(bytes) else { return false };
    assert_eq!(trace.encode(), bytes, "written again as other bytes");
    assert_eq!(trace.fingerprint(), Digest::of(bytes));
    for (path, seen) in &trace.seen {
        assert_stays_inside(path.relative());
        match seen.fact {
            Observation::Dir { mode }
            | Observation::Listing { mode, .. }
            | Observation::File { mode, .. }
            | Observation::Opaque { mode, .. } => assert!(mode <= 0o7777),
            Observation::Absent | Observation::Link { .. } => {}
        }
    }
    true
}

pub fn trace_seeds() -> Vec<Vec<u8>> {
    let path = |root, relative: &str| TreePath::new(root, relative.as_bytes()).unwrap();
    let seen = |fact| Seen { fact, own: false };
    let digest = Digest::of(b"a");
    let all = [
        (path(Root::Workspace, ""), seen(Observation::Listing { digest, mode: 0o700 })),
        (path(Root::Workspace, "src/a.c"), seen(Observation::File { digest, mode: 0o644 })),
        (path(Root::Workspace, "src/a.h"), Seen { fact: Observation::Absent, own: true }),
        (path(Root::Workspace, "src/b"), seen(Observation::Link { target: b"\0W/src/a.c".to_vec() })),
        (path(Root::Above(1), "beside"), seen(Observation::Absent)),
        (path(Root::Above(300), ""), seen(Observation::Dir { mode: 0o700 })),
        (path(Root::Home, ".config"), seen(Observation::Opaque { kind: OpaqueKind::Unreadable, mode: 0 })),
        (path(Root::System, "dev/null"), seen(Observation::Opaque { kind: OpaqueKind::Device, mode: 0o666 })),
        (path(Root::System, "usr/lib"), seen(Observation::Dir { mode: 0o755 })),
    ];
    let few = all[1..3].iter().cloned().collect();
    vec![Trace { seen: all.into() }.encode(), Trace { seen: few }.encode(), Trace::default().encode()]
}

/// The input is a list of nodes, those below first; 32 equal bytes `n` in a node are replaced by the digest of the n-th one, so that
/// mutations keep a tree. The last one is the root.
pub fn manifest(bytes: &[u8]) -> bool {
    let (mut pieces, mut digests, mut nodes) = (Pieces(bytes), Vec::new(), HashMap::new());
    while !pieces.is_empty() && digests.len() < 64 {
        let node = linked(pieces.string(), &digests);
        let digest = Digest::of(&node);
        digests.push(digest);
        nodes.insert(digest, node);
    }
    let Some(root) = digests.last() else { return false };
    let fetch = |digest: &Digest| nodes.get(digest).cloned().ok_or(StoreError::MissingBlob { digest: *digest });
    // Whoever hands out other bytes under the same name is not believed, whatever they are.
    let lie = |_: &Digest| Ok([&nodes[root][..], b" "].concat());
    assert!(Manifest::from_tree(*root, lie).is_err());
    let Ok(manifest) = Manifest::from_tree(*root, fetch) else { return false };
    manifest.check().unwrap();
    assert_eq!(manifest.to_tree().root, *root, "written again under another name");
    for entry in &manifest.entries {
        assert_stays_inside(&entry.path);
    }
    let _ = manifest.output_bytes();
    true
}

fn linked(node: &[u8], digests: &[Digest]) -> Vec<u8> {
    let (mut node, mut at) = (node.to_vec(), 0);
    while at + 32 <= node.len() {
        let first = node[at];
        match digests.get(usize::from(first)) {
            Some(digest) if node[at..at + 32].iter().all(|byte| *byte == first) => {
                node[at..at + 32].copy_from_slice(&digest.0);
                at += 32;
            }
            _ => at += 1,
        }
    }
    node
}

pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let entry = |path: &str, output, modified| Entry { path: path.into(), output, modified };
    let file = |path: &str| entry(path, Output::File { digest: Digest::of(b"a"), size: 1, mode: 0o644 }, false);
    let link = |path: &str| entry(path, Output::Link { target: b"../a".to_vec() }, true);
    let dir = |path: &str| entry(path, Output::Dir { mode: 0o755 }, false);
    let removed = |path: &str| entry(path, Output::Removed, true);
    let lists = [
        vec![file("a")],
        vec![removed("a"), removed("a/b"), dir("b"), file("b-c"), file("b/c"), link("b/d"), dir("e")],
        vec![file("1/x/y"), file("2/x/y"), file("3/4/5/6")],
        vec![],
    ];
    let spelled = |entries: Vec<Entry>| -> Vec<u8> {
        let tree = Manifest { entries }.to_tree();
        let mut all = Vec::new();
        for (_, bytes) in &tree.nodes {
            let mut node = bytes.clone();
            for (number, (digest, _)) in tree.nodes.iter().enumerate() {
                while let Some(at) = node.windows(32).position(|some| some == digest.0) {
                    node[at..at + 32].fill(number as u8);
                }
            }
            all.extend(piece(&node));
        }
        all
    };
    lists.into_iter().map(spelled).collect()
}

pub fn captured(bytes: &[u8]) -> bool {
    let Ok(captured) = Captured::decode(bytes) else { return false };
    assert_eq!(captured.encode(), bytes, "written again as other bytes");
    true
}

pub fn captured_seeds() -> Vec<Vec<u8>> {
    let pieces = vec![(Stream::Stdout, b"hello\n".to_vec()), (Stream::Stderr, vec![0; 300]), (Stream::Stdout, vec![])];
    vec![Captured { pieces }.encode(), Captured::default().encode()]
}

pub fn times(bytes: &[u8]) -> bool {
    let Ok(times) = decoders::read_times(bytes) else { return false };
    assert_eq!(decoders::write_times(&times), bytes, "written again as other bytes");
    true
}

pub fn times_seeds() -> Vec<Vec<u8>> {
    vec![decoders::write_times(&[0, 1, 127, 128, 1 << 40, u64::MAX]), decoders::write_times(&[])]
}

pub fn argv(bytes: &[u8]) -> bool {
    let Ok(argv) = decoders::read_argv(bytes) else { return false };
    assert_eq!(decoders::write_argv(&argv), bytes, "written again as other bytes");
    true
}

pub fn argv_seeds() -> Vec<Vec<u8>> {
    let words = ["cc", "-c", "", "main.c"].map(|word| word.as_bytes().to_vec());
    vec![decoders::write_argv(&words), decoders::write_argv(&[])]
}

pub fn format(bytes: &[u8]) -> bool {
    match decoders::read_format(bytes) {
        Ok(()) => true,
        // It goes into one line of an error.
        Err(line) => {
            assert!(!line.contains('\n'));
            false
        }
    }
}

pub fn format_seeds() -> Vec<Vec<u8>> {
    vec![b"wink store 1\n".to_vec(), b"wink store 1\nfeature none-yet\n".to_vec(), b"wink store 2\n".to_vec()]
}

/// The first byte chooses: a row of whatever columns, or a sealed row of whatever values with one column exchanged.
pub fn row(bytes: &[u8]) -> bool {
    thread_local!(static ROWS: Rows = Rows::new().unwrap());
    let mut pieces = Pieces(bytes);
    let read = |columns: &[Column; HEAD_COLUMNS]| ROWS.with(|rows| rows.read(columns)).unwrap();
    if pieces.byte() == 0 {
        let columns = std::array::from_fn(|_| column(&mut pieces));
        let head = read(&columns);
        // Nobody who does not know the sealed values can make one up: it would take a collision.
        return head.is_some();
    }
    let (head, captured, details) = head(&mut pieces);
    let sealed = decoders::write_row(&head, &captured, &details);
    let Some(found) = read(&sealed) else { panic!("a sealed row is refused: {sealed:?}") };
    assert_eq!(found, RecordHead { id: found.id, ..head }, "read as another head");
    // All but the last, by which rows are only ordered.
    let number = usize::from(pieces.byte()) % (HEAD_COLUMNS - 1);
    let mut changed = sealed.clone();
    changed[number] = column(&mut pieces);
    if changed[number] != sealed[number] && read(&changed).is_some_and(|changed| changed != found) {
        panic!("column {number} is not sealed: {changed:?}");
    }
    true
}

fn column(pieces: &mut Pieces<'_>) -> Column {
    match pieces.byte() % 6 {
        0 => Column::Null,
        1 => Column::Integer(pieces.number() as i64),
        // Not every pattern is one that SQLite keeps.
        2 => Column::Real(f64::from(pieces.number() as u32)),
        3 => Column::Text(String::from_utf8_lossy(pieces.string()).into_owned()),
        4 => Column::Bytes(digest(pieces).0.to_vec()),
        _ => Column::Bytes(pieces.string().to_vec()),
    }
}

fn digest(pieces: &mut Pieces<'_>) -> Digest {
    Digest([pieces.byte(); 32])
}

fn head(pieces: &mut Pieces<'_>) -> (RecordHead, Digest, Digest) {
    let bound = |pieces: &mut Pieces<'_>| (pieces.byte() % 2 == 1).then(|| pieces.string().to_vec());
    let head = RecordHead {
        id: RecordId(Digest([0; 32])),
        task_key: TaskKey(digest(pieces)),
        own_key: OwnKey(digest(pieces)),
        usable: pieces.byte() % 2 == 1,
        fingerprint: digest(pieces),
        manifest: digest(pieces),
        exit_code: pieces.number() as i32,
        command_ms: pieces.number(),
        created_ms: pieces.number(),
        bound_workspace: bound(pieces),
        bound_home: bound(pieces),
        depth: pieces.number() as u16,
        output_bytes: pieces.number(),
    };
    (head, digest(pieces), digest(pieces))
}

pub fn row_seeds() -> Vec<Vec<u8>> {
    let numbers = |count: u8| (0..count).collect::<Vec<u8>>();
    vec![
        [vec![1], numbers(60), piece(b"/work/repo"), numbers(90)].concat(),
        [vec![1], numbers(150)].concat(),
        [vec![0], (0..40).flat_map(|number| [number % 6, number]).collect()].concat(),
    ]
}

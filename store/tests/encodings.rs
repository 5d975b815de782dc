//! Encodings: what goes in comes out, equal things have equal bytes, and no bytes whatever make a decoder panic or accept a
//! path that leads out of its root.

mod support;

use std::collections::HashMap;

use proptest::prelude::*;
use wink_store::{
    Captured, DecodeError, Digest, Entry, Manifest, Observation, Output, Pack, Packed, Root, Seen, StoreError, Trace,
    Tree, TreePath, listing_digest,
};

fn read_back(tree: &Tree) -> Result<Manifest, StoreError> {
    let nodes: HashMap<&Digest, &Vec<u8>> = tree.nodes.iter().map(|(digest, bytes)| (digest, bytes)).collect();
    Manifest::from_tree(tree.root, |digest| {
        nodes.get(digest).map(|bytes| bytes.to_vec()).ok_or(StoreError::MissingBlob { digest: *digest })
    })
}

/// Reads bytes as a root node, under their true digest, with the other nodes of `tree` below it.
fn read_as_root(bytes: &[u8], tree: &Tree) -> Result<Manifest, StoreError> {
    let root = Digest::of(bytes);
    let mut nodes = tree.nodes.clone();
    nodes.push((root, bytes.to_vec()));
    read_back(&Tree { root, nodes })
}

/// Every truncation, every single-byte change to a handful of values, and some insertions.
fn mutations(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let cut = (0..bytes.len()).map(|end| bytes[..end].to_vec());
    let flipped = (0..bytes.len()).flat_map(move |at| {
        [0x01, 0x20, 0x80, 0xff].into_iter().map(move |bits| {
            let mut changed = bytes.to_vec();
            changed[at] ^= bits;
            changed
        })
    });
    let longer = (0..=bytes.len()).map(|at| [&bytes[..at], b"/", &bytes[at..]].concat());
    cut.chain(flipped).chain(longer)
}

proptest! {
    #[test]
    fn traces_round_trip(trace in support::trace()) {
        let bytes = trace.encode();
        prop_assert_eq!(Trace::decode(&bytes).unwrap(), trace);
    }

    #[test]
    fn manifests_round_trip(manifest in support::manifest()) {
        prop_assert_eq!(read_back(&manifest.to_tree()).unwrap(), manifest);
    }

    #[test]
    fn captured_output_round_trips(captured in support::captured()) {
        prop_assert_eq!(Captured::decode(&captured.encode()).unwrap(), captured);
    }

    #[test]
    fn packs_round_trip(pack in support::pack()) {
        prop_assert_eq!(Pack::decode(&pack.encode()).unwrap(), pack);
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200), header in 0..4usize) {
        let bytes = [[&b"wT1"[..], b"wM1", b"wC1", b"wP1"][header], &noise].concat();
        let _ = Trace::decode(&bytes);
        let _ = Pack::decode(&bytes);
        let _ = Captured::decode(&bytes);
        let _ = read_as_root(&bytes, &Manifest::default().to_tree());
    }
}

proptest! {
    // Each case tries thousands of inputs.
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// Whatever decodes is canonical: it encodes to the very bytes it came from.
    #[test]
    fn damaged_traces_are_refused_or_canonical(trace in support::trace()) {
        for bytes in mutations(&trace.encode()) {
            if let Ok(read) = Trace::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }

    #[test]
    fn damaged_manifests_are_refused_or_canonical(manifest in support::manifest()) {
        let tree = manifest.to_tree();
        let (_, root) = tree.nodes.last().unwrap();
        for bytes in mutations(root) {
            if let Ok(read) = read_as_root(&bytes, &tree) {
                prop_assert_eq!(read.to_tree().root, Digest::of(&bytes));
            }
        }
    }

    #[test]
    fn damaged_packs_are_refused_or_canonical(pack in support::pack()) {
        for bytes in mutations(&pack.encode()) {
            if let Ok(read) = Pack::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }

    #[test]
    fn damaged_output_is_refused_or_canonical(captured in support::captured()) {
        for bytes in mutations(&captured.encode()) {
            if let Ok(read) = Captured::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}

fn trace_bytes(groups: &[u8]) -> Vec<u8> {
    [b"wT1", groups].concat()
}

#[test]
fn traces_refuse_hostile_paths() {
    let one = |path: &[u8]| trace_bytes(&[&[1, 0, 1, 0, path.len() as u8], path, b"a"].concat());
    Trace::decode(&one(b"a/b")).unwrap();
    for path in [&b"/etc"[..], b"..", b"a/../b", b"a//b", b"a/", b"./a", b"a\0b"] {
        assert_eq!(Trace::decode(&one(path)), Err(DecodeError::Path), "{path:?}");
    }
    // A `..` of which neither path spells out both dots.
    assert_eq!(Trace::decode(&trace_bytes(b"\x01\x00\x02\x00\x04a/.-a\x03\x01.a")), Err(DecodeError::Path));
}

#[test]
fn traces_refuse_disorder_and_second_spellings() {
    let order = Err(DecodeError::Order);
    assert_eq!(Trace::decode(&trace_bytes(b"\x01\x00\x02\x00\x01ba\x00\x01aa")), order, "descending");
    assert_eq!(Trace::decode(&trace_bytes(b"\x01\x00\x02\x00\x01aa\x01\x00a")), order, "twice");
    assert_eq!(Trace::decode(&trace_bytes(b"\x01\x00\x02\x00\x01aa\x00\x02aba")), order, "prefix spelled out");
    // `d` and the mode 0o755.
    Trace::decode(&trace_bytes(b"\x02\x00\x01\x00\x00d\xed\x03\x03\x01\x00\x00d\xed\x03")).unwrap();
    let descending = b"\x02\x03\x01\x00\x00d\xed\x03\x00\x01\x00\x00d\xed\x03";
    assert_eq!(Trace::decode(&trace_bytes(descending)), order, "roots descend");
    assert_eq!(Trace::decode(&trace_bytes(b"\x01\x00\x00")), order, "an empty group");
    assert_eq!(
        Trace::decode(&trace_bytes(b"\x01\x01\x00\x01\x00\x00d\xed\x03")),
        Err(DecodeError::Number),
        "zero levels above"
    );
    let mode = |bytes: &[u8]| Trace::decode(&trace_bytes(&[b"\x01\x00\x01\x00\x00d", bytes].concat()));
    assert_eq!(mode(b"\xed\x83\x00"), Err(DecodeError::Number), "a mode in more bytes than it needs");
    assert_eq!(mode(b"\x80\x20"), Err(DecodeError::Number), "a mode beyond 0o7777");
    assert_eq!(Trace::decode(&trace_bytes(b"\x00\x00")), Err(DecodeError::Trailing));
    assert_eq!(Trace::decode(b"wT2\x00"), Err(DecodeError::Header));
    assert_eq!(
        Trace::decode(&trace_bytes(b"\x01\x00\xff\xff\xff\x7f\x00\x00d\xed\x03")),
        Err(DecodeError::TooLarge),
        "a huge count"
    );
}

#[test]
fn manifests_refuse_what_cannot_be() {
    let refused = |entries: Vec<Entry>| Manifest { entries }.check().unwrap_err();
    let file = |path: &str| support::file(path, b"x");
    let dir = |path: &str| Entry { output: Output::Dir { mode: 0o755 }, ..file(path) };
    let removed = |path: &str| Entry { output: Output::Removed, modified: true, ..file(path) };
    assert_eq!(refused(vec![file("a"), file("a-b"), file("a/b")]), DecodeError::Shape, "below a file");
    assert_eq!(refused(vec![removed("a"), file("a/b")]), DecodeError::Shape, "below a removal");
    assert_eq!(refused(vec![file("b"), file("a")]), DecodeError::Order);
    assert_eq!(refused(vec![file("a"), file("a")]), DecodeError::Order);
    assert_eq!(refused(vec![file("")]), DecodeError::Path);
    assert_eq!(refused(vec![file("../a")]), DecodeError::Path);
    assert_eq!(refused(vec![Entry { modified: false, ..removed("a") }]), DecodeError::Kind);
    assert_eq!(refused(vec![file(&"a/".repeat(5000)[..9999])]), DecodeError::TooLarge, "too deep");
    Manifest { entries: vec![removed("a"), removed("a/b"), dir("b"), file("b-c"), file("b/c")] }.check().unwrap();
}

#[test]
fn packs_refuse_what_cannot_be() {
    let refused = |paths: &[(&str, Output)]| {
        let packed = |(path, output): &(&str, Output)| Packed { path: (*path).into(), output: output.clone(), rank: 0 };
        Pack::decode(&Pack { entries: paths.iter().map(packed).collect() }.encode()).unwrap_err()
    };
    let dir = Output::Dir { mode: 0o755 };
    let link = Output::Link { target: b"t".to_vec() };
    assert_eq!(refused(&[("a", link.clone()), ("a-b", dir.clone()), ("a/b", dir.clone())]), DecodeError::Shape);
    assert_eq!(refused(&[("b", dir.clone()), ("a", dir.clone())]), DecodeError::Order);
    assert_eq!(refused(&[("a", dir.clone()), ("a", dir.clone())]), DecodeError::Order);
    assert_eq!(refused(&[("a/..", dir.clone())]), DecodeError::Path);
    assert_eq!(refused(&[("/a", dir.clone())]), DecodeError::Path);
    assert_eq!(refused(&[("..", dir.clone())]), DecodeError::Path);
    assert_eq!(refused(&[("a\0b", dir.clone())]), DecodeError::Path);
    assert_eq!(refused(&[("a", Output::Removed), ("b", dir.clone())]), DecodeError::Kind);
    assert_eq!(refused(&[("a", Output::Dir { mode: 0o10000 })]), DecodeError::Number);
    assert_eq!(refused(&[("a", Output::Link { target: b"a\0b".to_vec() })]), DecodeError::Path);
    // The empty path: the directory itself is no entry.
    assert_eq!(Pack::decode(b"wP1\x01\x00\x00d\xed\x03\x00"), Err(DecodeError::Path));
}

#[test]
fn shared_nodes_cannot_expand_without_end() {
    // Forty levels, each holding the next one twice: 2^40 files from a few kilobytes.
    let leaf = Manifest { entries: vec![support::file("a", b"x")] }.to_tree();
    let mut nodes = leaf.nodes.clone();
    let mut below = leaf.root;
    for _ in 0..40 {
        // Long names, so that the limit is met soon.
        let name = |letter| [&[100], &[letter; 100][..], b"P", &below.0].concat();
        let bytes = [&b"wM1\x02"[..], &name(b'a'), &name(b'b')].concat();
        below = Digest::of(&bytes);
        nodes.push((below, bytes));
    }
    let error = read_back(&Tree { root: below, nodes }).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn deep_manifests_need_no_deep_stack() {
    let path = vec![b"d".to_vec(); 4000].join(&b'/');
    let manifest = Manifest { entries: vec![Entry { path, ..support::file("x", b"x") }] };
    assert_eq!(read_back(&manifest.to_tree()).unwrap(), manifest);
}

#[test]
fn a_node_under_a_false_name_is_refused() {
    let tree = Manifest { entries: vec![support::file("a/b", b"x")] }.to_tree();
    let other = Manifest { entries: vec![support::file("c", b"x")] }.to_tree();
    let error = Manifest::from_tree(tree.root, |_| Ok(other.nodes[0].1.clone())).unwrap_err();
    assert!(matches!(error, StoreError::DamagedRecord { .. }), "{error}");
}

#[test]
fn equal_subtrees_are_one_node() {
    let files = |dir: &str| vec![support::file(&format!("{dir}/1"), b"1"), support::file(&format!("{dir}/2"), b"2")];
    let tree = Manifest { entries: [files("a"), files("b")].concat() }.to_tree();
    assert_eq!(tree.nodes.len(), 2, "the root and one directory");
}

#[test]
fn listings_do_not_depend_on_order_and_do_on_kinds() {
    let listing = |entries: &[(&str, u8)]| listing_digest(&mut entries.to_vec());
    assert_eq!(listing(&[("a", b'f'), ("b", b'd')]), listing(&[("b", b'd'), ("a", b'f')]));
    assert_ne!(listing(&[("a", b'f')]), listing(&[("a", b'd')]));
    assert_ne!(listing(&[("ab", b'f')]), listing(&[("a", b'b'), ("f", b'f')]));
}

/// Digests name what is on people's disks: these values never change within one format.
#[test]
fn digests_are_stable() {
    let path = |root, relative: &[u8]| TreePath::new(root, relative).unwrap();
    let seen = |fact, own| Seen { fact, own };
    let trace = Trace {
        seen: [
            (
                path(Root::Workspace, b"src/a.c"),
                seen(Observation::File { digest: Digest::of(b"a"), mode: 0o644 }, false),
            ),
            (path(Root::Workspace, b"src/a.h"), seen(Observation::Absent, true)),
            (path(Root::Above(2), b""), seen(Observation::Dir { mode: 0o700 }, false)),
            (path(Root::Home, b".config"), seen(Observation::Listing { digest: Digest::of(b"l"), mode: 0o755 }, false)),
            (path(Root::System, b"lib"), seen(Observation::Link { target: b"usr/lib".to_vec() }, false)),
        ]
        .into(),
    };
    let record = support::record("task", b"input", vec![support::file("out/a", b"1"), support::file("out/b", b"2")]);
    let packed = Pack {
        entries: (record.outputs.entries.iter().zip(1..))
            .map(|(entry, rank)| Packed { path: entry.path.clone(), output: entry.output.clone(), rank })
            .collect(),
    };
    let pinned = [
        ("bytes", Digest::of(b"wink"), "f2003f9cc2c92a0592de9fd9c53cc72fd930bf512908379140ebab32ba8c50e4"),
        ("trace", trace.fingerprint(), "8c794e913c5c15adab9f61b4558e9b2b755cbea4f5db1a3e1ffd4790c0a8b7e3"),
        (
            "empty trace",
            Trace::default().fingerprint(),
            "a5913289b8cdd1af0ce50ffdcb89a15cf6b05c78cef85198ed2fe2e67825a21d",
        ),
        ("manifest", record.head.manifest, "2e3ad867eafac514fe22ee47fd7de939c5bdd0722cc4291d756672df44c4a6d1"),
        (
            "empty manifest",
            Manifest::default().to_tree().root,
            "d9555447a4b4b9ff060d38c7b7bde9bb6437aed54f632af81573a8cddce9b17e",
        ),
        (
            "captured",
            Digest::of(&record.captured.encode()),
            "7239d76e586310f17071869b22a4dd6450923cde406cc124be038e128519fa6a",
        ),
        ("pack", Digest::of(&packed.encode()), "6e04e4dd87ef9b5010d9b07a7fb5e68e7315b268154a1e86e715fd4724129898"),
        ("record", record.head.id.0, "63e16ec0674da6a4e2e5f6a8442574fa047d10359ef551a5766b035cc174f6ff"),
        (
            "listing",
            listing_digest(&mut [("b", b'd'), ("a", b'f')]),
            "540ba5c9f0cabb90e0af5235785ed6c56cb9e8c7f932aa785553a81b258e38cd",
        ),
    ];
    let found: Vec<String> = pinned.iter().map(|(what, digest, _)| format!("{what} {digest}")).collect();
    let expected: Vec<String> = pinned.iter().map(|(what, _, text)| format!("{what} {text}")).collect();
    assert_eq!(found, expected);
}

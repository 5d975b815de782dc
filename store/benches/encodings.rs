//! Reading and writing what a hit reads: traces, manifests, stamps. `cargo bench -p wink-store`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use wink_store::{Digest, Entry, FileStamp, Manifest, Observation, Output, Root, Seen, Store, Trace, TreePath, Walk};

/// A third files, two thirds absent names, a hundred per directory.
fn trace(size: usize) -> Trace {
    let mut trace = Trace::default();
    for number in 0..size {
        let path = format!("src/part-{}/{}/name-{number}.h", number / 10_000, number / 100);
        let fact = match number % 3 {
            0 => Observation::File { digest: Digest::of(&number.to_le_bytes()), mode: 0o644 },
            _ => Observation::Absent,
        };
        trace.seen.insert(TreePath::new(Root::Workspace, path.as_bytes()).unwrap(), Seen { fact, own: false });
    }
    trace
}

fn manifest(size: usize) -> Manifest {
    let mut entries: Vec<Entry> = (0..size)
        .map(|number| Entry {
            path: format!("dist/{:04}/{number:06}.js", number / 100).into_bytes(),
            output: Output::File { digest: Digest::of(&number.to_le_bytes()), size: 1000, mode: 0o644 },
            modified: false,
        })
        .collect();
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Manifest { entries }
}

fn encodings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("trace");
    for size in [1_000, 30_000, 100_000] {
        let trace = trace(size);
        let bytes = trace.encode();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_with_input(BenchmarkId::new("encode", size), &trace, |bench, trace| bench.iter(|| trace.encode()));
        group.bench_with_input(BenchmarkId::new("decode", size), &bytes, |bench, bytes| {
            bench.iter(|| Trace::decode(bytes).unwrap());
        });
        group.bench_with_input(BenchmarkId::new("walk", size), &bytes, |bench, bytes| {
            bench.iter(|| {
                let mut walk = Walk::new(bytes).unwrap();
                while let Some(entry) = walk.next().unwrap() {
                    black_box(entry);
                }
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("manifest");
    for size in [1_000, 10_000] {
        let manifest = manifest(size);
        let tree = manifest.to_tree();
        let node = |digest: &Digest| tree.nodes.iter().find(|(known, _)| known == digest).unwrap().1.clone();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("encode", size), |bench| bench.iter(|| manifest.to_tree()));
        group.bench_function(BenchmarkId::new("decode", size), |bench| {
            bench.iter(|| {
                Manifest::from_tree(tree.root, |digest| Ok::<_, wink_store::StoreError>(node(digest))).unwrap()
            });
        });
    }
    group.finish();
}

fn stamps(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let stamps: Vec<FileStamp> =
        (0..10_000).map(|ino| FileStamp { dev: 1, ino, size: 1, mtime_ns: 1, ctime_ns: 1 }).collect();
    let key = Digest::of(b"key");
    store.keep_stamps(&key, &stamps).unwrap();
    criterion.bench_function("stamps/read/10000", |bench| bench.iter(|| store.stamps(&key).unwrap()));
    criterion.bench_function("store/open", |bench| bench.iter(|| Store::open(dir.path()).unwrap()));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encodings(&mut criterion);
    stamps(&mut criterion);
    criterion.final_summary();
}

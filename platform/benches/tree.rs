//! Looking at many paths, and putting many files in place. `cargo bench -p wink-platform`.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use wink_fs::attr::Time;
use wink_platform::unix::glance::{PathList, look_at_all};
use wink_platform::unix::place::Placer;

fn looking(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = PathList::default();
    for number in 0..30_000 {
        let parent = dir.path().join((number / 300).to_string());
        std::fs::create_dir_all(&parent).unwrap();
        let path = parent.join(number.to_string());
        // A third is there.
        if number % 3 == 0 {
            std::fs::write(&path, "bytes").unwrap();
        }
        paths.push(path.as_os_str().as_bytes(), 0).unwrap();
    }
    let mut group = criterion.benchmark_group("look");
    for size in [1_000, 30_000] {
        let which: Vec<usize> = (0..size).collect();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &which, |bench, which| {
            bench.iter(|| look_at_all(None, &paths, which));
        });
    }
    group.finish();
}

fn placing(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut group = criterion.benchmark_group("place");
    for size in [1_000, 100_000] {
        let mut source = tempfile::tempfile_in(dir.path()).unwrap();
        source.write_all(&vec![7; size]).unwrap();
        group.throughput(Throughput::Bytes(size as u64));
        let make = || tempfile::tempdir_in(dir.path()).unwrap();
        let place = |at: tempfile::TempDir| {
            let placer = Placer::new(at.path()).unwrap();
            for number in 0..100 {
                placer.place_file(format!("{number}").as_bytes(), &source, 0o644, Time(7), None).unwrap();
            }
            at
        };
        group.bench_function(BenchmarkId::new("100 files", size), |bench| {
            bench.iter_batched(make, place, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    looking(&mut criterion);
    placing(&mut criterion);
    criterion.final_summary();
}

//! The everyday half of fuzzing: every kept input, the seeds, and mutations of both, drawn from a seed, through every decoder.
//!
//! `WINK_FUZZ_CASES=N` draws so many per decoder, `WINK_FUZZ_SEED=N` others, `WINK_FUZZ_WRITE=1` writes the seeds into the corpus. A case
//! that fails is written to `fuzz/corpus/<target>/failed-…`: keep it there.
//!
//! Memory is counted for the whole process, so the tests here take turns.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cap::Cap;
use wink_decoders::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// Mutated inputs per decoder when nothing else is asked for.
const CASES: usize = 400;
/// The longest input that mutation makes.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// What decoding may take besides what the input explains: buffers, a database in memory, a thread.
const MEMORY_FIXED: usize = 64 << 20;
/// How much an input of that size explains: a prefix of a path may be repeated for each entry, so it is the square, up to the limit of
/// `docs/STORE_FORMAT.md`, and some hundred bytes for each entry of a few bytes.
fn explained(bytes: usize) -> usize {
    500 * bytes + (bytes * bytes).min(2 * wink_store::EXPANDED_BYTES_MAX)
}

static TURN: Mutex<()> = Mutex::new(());

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name)
}

/// The kept inputs, by name.
fn kept(target: &Target) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(corpus(target)) else { return Vec::new() };
    let mut kept: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    kept.sort();
    kept
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Decodes; keeps what fails. Whether it was accepted.
fn decode(target: &Target, what: &str, bytes: &[u8]) -> bool {
    let most = ALLOCATOR.allocated() + MEMORY_FIXED + explained(bytes.len());
    // Beyond this the allocator refuses, which ends the process: say before what it was.
    ALLOCATOR.set_limit(most).unwrap();
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    done.unwrap_or_else(|_| {
        let path = corpus(target).join(format!("failed-{}", wink_store::Digest::of(bytes).short()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        panic!("{} fails on {what}; kept as {}", target.name, path.display())
    })
}

#[test]
fn every_decoder_has_a_corpus_that_it_accepts() {
    let _turn = TURN.lock();
    let mut inputs = 0;
    for target in TARGETS {
        if number("WINK_FUZZ_WRITE").is_some() {
            fs::create_dir_all(corpus(target)).unwrap();
            for (index, seed) in (target.seeds)().iter().enumerate() {
                fs::write(corpus(target).join(format!("seed-{index}")), seed).unwrap();
            }
        }
        let kept = kept(target);
        assert!(!kept.is_empty(), "{} has no corpus: run this test with WINK_FUZZ_WRITE=1", target.name);
        let accepted = kept.iter().filter(|(name, bytes)| decode(target, name, bytes)).count();
        assert!(accepted > 0, "{} accepts nothing of its corpus: has the encoding changed?", target.name);
        let first = (target.seeds)().iter().filter(|seed| decode(target, "a seed", seed)).count();
        assert!(first > 0, "{} accepts none of its seeds", target.name);
        inputs += kept.len();
    }
    println!("figure: fuzz inputs kept = {inputs}");
}

#[test]
fn every_program_of_fuzz_is_a_decoder_and_the_other_way_round() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/targets");
    let mut programs: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    programs.sort();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(programs, names);
}

#[test]
fn mutated_inputs_break_no_promise() {
    let _turn = TURN.lock();
    let cases = number("WINK_FUZZ_CASES").map_or(CASES, |cases| cases as usize);
    let seed = number("WINK_FUZZ_SEED").unwrap_or(1);
    let (mut all, mut accepted) = (0, 0);
    for target in TARGETS {
        let mut pool: Vec<Vec<u8>> = kept(target).into_iter().map(|(_, bytes)| bytes).collect();
        pool.extend((target.seeds)());
        pool.push(Vec::new());
        let mut random = Random(seed ^ wink_store::Digest::of(target.name.as_bytes()).0[0] as u64);
        let mut good = 0;
        for case in 0..cases {
            let mut bytes = random.pick(&pool).clone();
            for _ in 0..1 + random.below(4) {
                mutate(&mut bytes, &pool, &mut random);
            }
            bytes.truncate(INPUT_BYTES_MAX);
            let is_good = decode(target, &format!("case {case} of seed {seed}"), &bytes);
            good += usize::from(is_good);
            // What is accepted leads further in.
            if is_good && pool.len() < 500 {
                pool.push(bytes);
            }
        }
        println!("{}: {cases} cases, {good} accepted", target.name);
        all += cases;
        accepted += good;
    }
    println!("figure: fuzz cases = {all}");
    assert!(accepted * 100 > all, "hardly anything was accepted: {accepted} of {all}");
}

/// Numbers that are the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Numbers as the encodings spell them, around their limits, and hostile names.
const PIECES: [&[u8]; 16] = [
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0x03],
    &[0x80, 0x00],
    &[0xff, 0x3f],
    b"..",
    b"../..",
    b"/",
    b"\0",
    b"//",
    b"./",
    b".git",
    b"*",
    "\u{fffd}\u{10ffff}".as_bytes(),
];

fn mutate(bytes: &mut Vec<u8>, pool: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(32)).min(bytes.len());
    let other = random.pick(pool);
    let from = random.below(other.len() + 1);
    let to = (from + random.below(64)).min(other.len());
    match random.below(10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xff }),
        3 => drop(bytes.drain(at..end)),
        4 => drop(bytes.splice(at..at, random.pick(&PIECES).iter().copied())),
        5 => drop(bytes.splice(at..end, random.pick(&PIECES).iter().copied())),
        6 => drop(bytes.splice(at..at, other[from..to].iter().copied())),
        7 => drop(bytes.splice(at..end, other[from..to].iter().copied())),
        8 => {
            let repeated = bytes[at..end].repeat(1 + random.below(8));
            bytes.splice(at..at, repeated);
        }
        _ => bytes.truncate(at),
    }
}

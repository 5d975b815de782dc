//! What a layer is made of: pointers and what splits them, numbers, and the shortest way to say it again.

use super::*;
use crate::backing::Result;
use crate::status::Status;
use wink_store::{Pack, Packed, Step};

fn file(path: &str) -> (String, Output) {
    (path.to_owned(), Output::File { digest: Digest::of(path.as_bytes()), size: path.len() as u64, mode: 0o644 })
}

fn dir(path: &str) -> (String, Output) {
    (path.to_owned(), Output::Dir { mode: 0o755 })
}

fn pack(entries: impl IntoIterator<Item = (String, Output)>) -> Arc<Pack> {
    let mut entries: Vec<Packed> =
        entries.into_iter().map(|(path, output)| Packed { path: path.into_bytes(), output, rank: 0 }).collect();
    entries.sort_by(|one, two| one.path.cmp(&two.path));
    entries.iter_mut().enumerate().for_each(|(rank, entry)| entry.rank = rank as u64);
    Arc::new(Pack { entries })
}

/// 10,000 files in a directory.
fn large() -> Arc<Pack> {
    pack((0..10_000).map(|index| file(&format!("out/f{index}"))).chain([dir("out")]))
}

struct Packs(Vec<Arc<Pack>>);

impl Packs {
    fn digest(index: usize) -> Digest {
        Digest([index as u8; 32])
    }

    fn attach(index: usize, at: &str, first_ns: i64) -> Step {
        Step::Attach { at: at.into(), pack: Packs::digest(index), first_ns, step_ns: 10 }
    }

    fn find(&self, digest: &Digest) -> Result<Arc<Pack>> {
        (0..self.0.len())
            .find(|&index| Packs::digest(index) == *digest)
            .map(|index| self.0[index].clone())
            .ok_or(Status::Io)
    }

    fn replay(&self, steps: &[Step]) -> Layer {
        let mut layer = Layer::new();
        steps.iter().for_each(|step| layer.apply(step, &|digest| self.find(digest)).unwrap());
        layer
    }

    /// Compacts; what comes out must show the same.
    fn compacted(&self, layer: &Layer) -> Vec<Step> {
        let steps = layer.steps();
        assert_eq!(self.replay(&steps).walk(b""), layer.walk(b""), "{steps:?}");
        steps
    }
}

fn remove(path: &str) -> Step {
    Step::Remove { path: path.into() }
}

fn shift(from: &str, to: &str) -> Step {
    Step::Move { from: from.into(), to: to.into() }
}

fn put(path: &str, output: Output) -> Step {
    Step::Put { path: path.into(), output, mtime_ns: 5 }
}

fn names(layer: &Layer, path: &str) -> Vec<String> {
    let names = layer.list(path.as_bytes());
    names.into_iter().map(|(name, ..)| String::from_utf8(name.as_bytes().to_vec()).unwrap()).collect()
}

fn pointers(layer: &Layer) -> usize {
    layer.nodes.values().filter(|node| matches!(node, Node::Shared { .. })).count()
}

#[test]
fn a_directory_of_a_pack_is_one_pointer_however_it_is_looked_at() {
    let packs = Packs(vec![large()]);
    let layer = packs.replay(&[put("beside", file("beside").1), Packs::attach(0, "", 100)]);
    assert_eq!((layer.nodes.len(), pointers(&layer)), (2, 1));
    assert_eq!(layer.list(b"out").len(), 10_000);
    assert_eq!(layer.walk(b"").len(), 10_002);
    assert_eq!(layer.count().0, 10_001);
    let Some(Virtual::File { digest, mtime, .. }) = layer.get(b"out/f7777") else { panic!("not there") };
    let rank = packs.0[0].entries.iter().position(|entry| entry.path == b"out/f7777").unwrap();
    assert_eq!((digest, mtime), (Digest::of(b"out/f7777"), Time(100 + 10 * rank as i64)));
    assert_eq!((layer.get(b"out/none"), layer.get(b"out/f1/x"), layer.get(b"ou")), (None, None, None));
    assert_eq!((layer.nodes.len(), pointers(&layer)), (2, 1));
}

#[test]
fn an_empty_layer_points_at_the_pack_itself() {
    let packs = Packs(vec![pack([file("a/b/c"), file("a/d")])]);
    let layer = packs.replay(&[Packs::attach(0, "", 0)]);
    assert_eq!((layer.nodes.len(), pointers(&layer)), (1, 1));
    assert_eq!(
        (layer.get(b""), layer.get(b"a"), layer.get(b"a/b")),
        (Some(Virtual::Way), Some(Virtual::Way), Some(Virtual::Way))
    );
    assert!(names(&layer, "").is_empty(), "a way shows nothing");
    assert_eq!(names(&layer, "a"), ["d"]);
    assert_eq!(layer.ground(b"a/b"), 3);
}

#[test]
fn a_change_splits_only_what_is_on_the_way() {
    let packs =
        Packs(vec![pack([dir("o"), dir("o/x"), file("o/x/1"), dir("o/y"), file("o/y/1"), file("o/y/2"), file("o/z")])]);
    let mut layer = packs.replay(&[Packs::attach(0, "at", 0)]);
    let before = layer.walk(b"");
    layer.apply(&remove("at/o/y/1"), &|_| Err(Status::Io)).unwrap();
    assert!(matches!(layer.nodes.get(b"at/o/x".as_slice()), Some(Node::Shared { .. })));
    assert_eq!(pointers(&layer), 1);
    let mut after = before.clone();
    after.retain(|(path, _)| path != b"at/o/y/1");
    let sorted = |mut all: Vec<(Vec<u8>, Virtual)>| {
        all.sort_by(|one, two| one.0.cmp(&two.0));
        all
    };
    assert_eq!(sorted(layer.walk(b"")), sorted(after), "the rest stays as it was, numbers and times too");
}

#[test]
fn names_that_sort_between_a_directory_and_what_it_holds() {
    let packs =
        Packs(vec![pack([dir("d"), file("d-x"), file("d/a"), file("d.y"), file("d0"), file("e/f"), file("e-")])]);
    let mut layer = packs.replay(&[Packs::attach(0, "", 0)]);
    let expected = ["d", "d-x", "d.y", "d0", "e-"];
    assert_eq!(names(&layer, ""), expected);
    layer.split(b"");
    assert_eq!(names(&layer, ""), expected);
    assert_eq!((names(&layer, "d"), names(&layer, "e")), (vec!["a".to_owned()], vec!["f".to_owned()]));
    layer.apply(&remove("d"), &|_| Err(Status::Io)).unwrap();
    assert_eq!(names(&layer, ""), &expected[1..]);
}

#[test]
fn packs_merge_directory_by_directory() {
    let other = [
        dir("out"),
        file("out/new"),
        (("out/f1").to_owned(), Output::Link { target: b"new".to_vec() }),
        dir("out/f2"),
        file("out/f2/below"),
    ];
    let packs = Packs(vec![
        pack([dir("out"), file("out/f1"), file("out/f2"), dir("out/sub"), file("out/sub/x"), file("out/f3")]),
        pack(other),
    ]);
    let mut layer = packs.replay(&[Packs::attach(0, "", 0)]);
    let number = layer.get(b"out").unwrap().ino();
    layer.apply(&Packs::attach(1, "", 1000), &|digest| packs.find(digest)).unwrap();
    assert_eq!(names(&layer, "out"), ["f1", "f2", "f3", "new", "sub"]);
    assert!(matches!(layer.get(b"out/f1"), Some(Virtual::Link { .. })));
    assert!(matches!(layer.get(b"out/f2/below"), Some(Virtual::File { .. })));
    assert_eq!(layer.get(b"out").unwrap().ino(), number, "a directory stays the one it is");
    assert!(matches!(layer.nodes.get(b"out/sub".as_slice()), Some(Node::Shared { .. })), "untouched");
    // A file in place of a directory takes all of it away.
    layer.apply(&put("out", file("out").1), &|_| Err(Status::Io)).unwrap();
    assert_eq!(layer.walk(b"").len(), 1);
}

#[test]
fn numbers_stay_and_are_unique() {
    let packs = Packs(vec![pack([dir("o"), file("o/a"), file("o/b")])]);
    let steps = [Packs::attach(0, "p", 0), Packs::attach(0, "q", 0), shift("p/o", "r"), Packs::attach(0, "p", 1)];
    let layer = packs.replay(&steps);
    let first = packs.replay(&steps[..1]);
    assert_eq!(layer.get(b"r/a").unwrap().ino(), first.get(b"p/o/a").unwrap().ino());
    let mut numbers: Vec<u64> = layer.walk(b"").iter().map(|(_, entry)| entry.ino()).collect();
    assert!(numbers.iter().all(|number| (1 << 51..1 << 52).contains(number)));
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 9);
    packs.compacted(&layer);
}

#[test]
fn ways_go_with_the_last_thing_below_them() {
    let packs = Packs(vec![pack([file("a/b/c")])]);
    for layer in [packs.replay(&[Packs::attach(0, "x", 0)]), packs.replay(&[put("x/a/b/c", file("c").1)])] {
        let mut layer = layer;
        assert_eq!(layer.get(b"x/a"), Some(Virtual::Way));
        layer.apply(&remove("x/a/b/c"), &|_| Err(Status::Io)).unwrap();
        assert!(layer.is_empty() && layer.get(b"x").is_none());
    }
}

#[test]
fn steps_that_make_no_sense_do_nothing() {
    let packs = Packs(vec![pack([dir("o"), file("o/a")])]);
    let mut layer = packs.replay(&[Packs::attach(0, "", 0)]);
    let before = layer.walk(b"");
    for step in [
        remove("none"),
        remove("o/a/x"),
        shift("none", "x"),
        shift("o", "o/a"),
        shift("o", "o"),
        shift("o/a", "o"),
        shift("o", ""),
        put("", dir("").1),
    ] {
        layer.apply(&step, &|_| Err(Status::Io)).unwrap();
        assert_eq!(layer.walk(b""), before, "{step:?}");
    }
    assert_eq!(layer.apply(&Packs::attach(9, "", 0), &|digest| packs.find(digest)), Err(Status::Io));
    assert_eq!(layer.walk(b""), before);
}

#[test]
fn a_touched_directory_has_its_own_time_again_after_a_replay() {
    let packs = Packs(vec![pack([dir("o"), file("o/a")])]);
    let mut layer = packs.replay(&[Packs::attach(0, "", 7)]);
    let before = layer.get(b"o");
    layer.split(b"");
    layer.touch(b"o", Time(99));
    assert!(matches!(layer.get(b"o"), Some(Virtual::Dir { mtime: Time(99), .. })));
    assert_eq!(packs.replay(&layer.steps()).get(b"o"), before);
}

#[test]
fn compaction_says_packs_as_packs() {
    let packs = Packs(vec![large(), pack([dir("lib"), file("lib/x"), dir("lib/deep"), file("lib/deep/y")])]);
    let all = [Packs::attach(0, "", 0), Packs::attach(1, "", 1)];
    assert_eq!(packs.compacted(&packs.replay(&all)), all);
    // Gone, come, moved: what led here is forgotten.
    let mut steps = all.to_vec();
    steps.extend([put("t", file("t").1), remove("t"), remove("out/f1"), shift("lib", "usr"), remove("none")]);
    let layer = packs.replay(&steps);
    assert_eq!(
        packs.compacted(&layer),
        [&all[..1], &[Packs::attach(1, "", 1), shift("lib", "usr"), remove("out/f1")]].concat()
    );
    // Hardly anything left.
    steps.extend((2..9_999).map(|index| remove(&format!("out/f{index}"))));
    let layer = packs.replay(&steps);
    assert_eq!(packs.compacted(&layer).len(), 2 + 3, "one pack with its move, a directory and two files");
    steps.push(remove(""));
    assert_eq!(packs.compacted(&packs.replay(&steps)), []);
}

#[test]
fn compaction_of_a_directory_that_became_a_way() {
    // By a log that was cut: files of a directory that nobody made, beside a pack that makes it.
    let packs = Packs(vec![pack([dir("o"), file("o/a"), file("o/b"), file("o/c")])]);
    let steps = [Packs::attach(0, "", 0), shift("o/a", "k"), remove("o"), shift("k", "o/a"), put("o/b/x", file("x").1)];
    packs.compacted(&packs.replay(&steps));
}

#[test]
fn removing_the_root_removes_all() {
    let packs = Packs(vec![pack([dir("d"), file("d/a"), dir("d/e"), file("d/e/b"), file("f")])]);
    let attach = Packs::attach(0, "", 0);
    for between in [&[][..], &[remove("d/a")], &[remove("d/e/b"), remove("f")]] {
        let layer = packs.replay(&[std::slice::from_ref(&attach), between, &[remove("")]].concat());
        assert!(layer.is_empty(), "{between:?}: {:?}", layer.walk(b""));
    }
}

//! Stores that somebody else filled: records and lists that vouch for themselves and lie, directories that lead elsewhere. Whatever they
//! hold, nothing outside of the workspace changes, and the command's own outputs come out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use wink_store::{Digest, Store, TaskKey, decoders};

use super::build::calm;
use crate::common::mounted::{mount, unmount};
use crate::common::{Run, Tree, World, assert_same, figure, snapshot, strs};

/// Reads one file, makes two.
const LINE: &str = "mkdir -p out; cat in > out/file; echo more > beside; echo done";

/// A world with one record, whose outputs are gone from the workspace so that a hit would bring them back; and what lies beside it.
struct Planted {
    world: World,
    command: Vec<String>,
    index: rusqlite::Connection,
    outside: PathBuf,
    clean: Tree,
    before: Tree,
}

impl Planted {
    fn new(name: &str) -> Planted {
        let world = World::new(name);
        world.write("in", "input\n");
        let outside = world.root.join("outside");
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(outside.join("file"), "theirs").unwrap();
        fs::write(outside.join("deep/file"), "theirs").unwrap();
        let command = world.counted(LINE);
        let (_, clean) = world.native(&strs(&command));
        world.run(&strs(&command)).miss();
        let index = rusqlite::Connection::open(world.store.join("index.sqlite")).unwrap();
        let planted = Planted { before: snapshot(&outside), world, command, index, outside, clean };
        planted.clear();
        planted
    }

    fn clear(&self) {
        for name in ["out", "beside"] {
            let path = self.world.ws.join(name);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }

    fn one<T: rusqlite::types::FromSql>(&self, column: &str) -> T {
        let sql = format!("SELECT {column} FROM records ORDER BY turn DESC LIMIT 1");
        self.index.query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    fn digest(&self, column: &str) -> Digest {
        Digest(self.one::<Vec<u8>>(column).try_into().unwrap())
    }

    /// Makes the record say something else, sealed as a record of wink is.
    fn reseal(&self, change: impl FnOnce(&mut wink_store::RecordHead), captured: Digest, details: Digest) {
        let store = Store::open(&self.world.store).unwrap();
        let key = TaskKey(self.digest("task_key"));
        let mut head = store.candidates(&key).unwrap().remove(0);
        let old = head.id;
        change(&mut head);
        let columns = decoders::write_row(&head, &captured, &details);
        let bytes = |column: &decoders::Column| match column {
            decoders::Column::Bytes(bytes) => bytes.clone(),
            other => panic!("{other:?}"),
        };
        let sql = "UPDATE records SET id = ?1, fingerprint = ?2, manifest = ?3, captured_digest = ?4, details_digest = ?5, seal = ?6 \
                   WHERE id = ?7";
        let values = [&columns[0], &columns[4], &columns[5], &columns[13], &columns[14], &columns[15]].map(bytes);
        let [id, fingerprint, manifest, captured, details, seal] = values;
        let changed = self
            .index
            .execute(sql, rusqlite::params![id, fingerprint, manifest, captured, details, seal, &old.0.0[..]])
            .unwrap();
        assert_eq!(changed, 1);
        self.index.execute("UPDATE last SET record_id = ?1", [id]).unwrap();
    }

    fn node(&self, name: Digest, bytes: &[u8]) {
        self.index
            .execute("INSERT OR REPLACE INTO trees VALUES (?1, ?2)", rusqlite::params![&name.0[..], bytes])
            .unwrap();
    }

    /// The record's outputs are these nodes, the root last.
    fn outputs(&self, nodes: &[Vec<u8>]) {
        nodes.iter().for_each(|bytes| self.node(Digest::of(bytes), bytes));
        let root = Digest::of(nodes.last().unwrap());
        self.reseal(|head| head.manifest = root, self.digest("captured_digest"), self.digest("details_digest"));
    }

    /// Its inputs are these bytes.
    fn inputs(&self, trace: &[u8]) {
        let fingerprint = Digest::of(trace);
        let values = rusqlite::params![&fingerprint.0[..], trace];
        self.index.execute("INSERT OR REPLACE INTO traces VALUES (?1, ?2)", values).unwrap();
        self.reseal(
            |head| head.fingerprint = fingerprint,
            self.digest("captured_digest"),
            self.digest("details_digest"),
        );
    }

    /// What it printed is these bytes.
    fn printed(&self, bytes: &[u8]) {
        self.index.execute("UPDATE records SET captured = ?1", [bytes]).unwrap();
        self.reseal(|_| {}, Digest::of(bytes), self.digest("details_digest"));
    }

    #[track_caller]
    fn outside_is_untouched(&self, when: &str) {
        assert_same(&self.before, &snapshot(&self.outside), when);
        for name in ["file", "outside", "evil"] {
            assert!(!self.world.root.join(name).is_file(), "{when}: {name} was made beside the workspace");
        }
    }

    /// The next run is none the worse for it: not a hit, and whole.
    #[track_caller]
    fn run(&self, when: &str) -> Run {
        let run = self.world.run(&strs(&self.command));
        assert_eq!((run.code, run.out().as_str()), (0, "done\n"), "{when}: {run:?}");
        assert_ne!(run.status(), "hit", "{when}: {run:?}");
        calm(&run, 2);
        assert_same(&self.clean, &self.world.tree(), when);
        self.outside_is_untouched(when);
        run
    }
}

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A node of a list of outputs: names with what follows each.
fn node(names: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let names_bytes = names.iter().flat_map(|(name, rest)| [string(name), rest.clone()].concat());
    [b"wM1".to_vec(), number(names.len() as u64), names_bytes.collect()].concat()
}

/// What follows the name of a file that holds "input\n", as `out/file` does.
fn file() -> Vec<u8> {
    [b"f".to_vec(), Digest::of(b"input\n").0.to_vec(), number(6), number(0o644)].concat()
}

fn below(letter: &[u8], child: &[u8]) -> Vec<u8> {
    [letter, &Digest::of(child).0].concat()
}

#[test]
fn lists_of_outputs_lead_nowhere() {
    let leaf = node(&[(b"evil", file())]);
    let dir = |child: &[u8]| [b"D".to_vec(), number(0o755), Digest::of(child).0.to_vec()].concat();
    let link = |target: &[u8]| [b"l".to_vec(), string(target)].concat();
    let link_with_child = [b"L".to_vec(), string(b"../outside"), Digest::of(&leaf).0.to_vec()].concat();
    let file_with_child = [&b"F"[..], &file()[1..], &Digest::of(&leaf).0].concat();
    // Forty levels that hold the next one twice: 2^40 files.
    let bomb: Vec<Vec<u8>> = std::iter::successors(Some(leaf.clone()), |last| {
        Some(node(&[(&[b'a'; 100], below(b"P", last)), (&[b'b'; 100], below(b"P", last))]))
    })
    .take(40)
    .collect();
    let deep: Vec<Vec<u8>> =
        std::iter::successors(Some(leaf.clone()), |last| Some(node(&[(b"d", below(b"P", last))]))).take(5000).collect();
    let huge = |count: u64| [b"wM1".to_vec(), number(count), vec![0; 10]].concat();
    let size = |size: u64| [b"f".to_vec(), Digest::of(b"input\n").0.to_vec(), number(size), number(0o644)].concat();
    let lists: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("a name that leads up", vec![leaf.clone(), node(&[(b"..", below(b"P", &leaf))])]),
        ("a directory that is this one", vec![leaf.clone(), node(&[(b".", below(b"P", &leaf))])]),
        ("a name with a way up in it", vec![node(&[(b"../evil", file())])]),
        ("an absolute name", vec![node(&[(b"/evil", file())])]),
        ("no name", vec![node(&[(b"", file())])]),
        ("a NUL", vec![node(&[(b"out\0", file())])]),
        ("something below a link", vec![leaf.clone(), node(&[(b"out", link_with_child)])]),
        ("something below a file", vec![leaf.clone(), node(&[(b"out", file_with_child)])]),
        (
            "a link and a directory of one name",
            vec![leaf.clone(), node(&[(b"out", link(b"../outside")), (b"out", dir(&leaf))])],
        ),
        ("an empty target", vec![node(&[(b"out", link(b""))])]),
        ("a target with a NUL", vec![node(&[(b"out", link(b"a\0b"))])]),
        ("permissions that do not exist", vec![node(&[(b"d", [b"d".to_vec(), number(0o100_000)].concat())])]),
        ("a kind that does not exist", vec![node(&[(b"d", b"z".to_vec())])]),
        ("names out of order", vec![node(&[(b"b", file()), (b"a", file())])]),
        ("a great many names", vec![huge(1 << 40)]),
        ("more names than a number holds", vec![huge(u64::MAX)]),
        ("more than there can be", bomb),
        ("deeper than there can be", deep),
        ("a list that is not there", vec![node(&[(b"d", below(b"P", b"nowhere"))])]),
        ("a file that is as large as can be", vec![node(&[(b"evil", size(u64::MAX))])]),
        ("nothing at all", vec![Vec::new()]),
    ];
    let planted = Planted::new("outputs");
    for (what, nodes) in &lists {
        planted.clear();
        planted.outputs(nodes);
        planted.run(what);
    }
    // A list that holds itself can only stand under a false name.
    planted.clear();
    let name = Digest([7; 32]);
    planted.node(name, &node(&[(b"d", [&b"P"[..], &name.0].concat())]));
    planted.reseal(|head| head.manifest = name, planted.digest("captured_digest"), planted.digest("details_digest"));
    planted.run("a circle");
    figure("planted lists of outputs", lists.len() + 1);
    // And that all this could have been a hit is shown by what is not hostile.
    planted.clear();
    planted.world.run(&strs(&planted.command)).hit();
}

#[test]
fn inputs_and_output_of_a_command_are_not_believed() {
    let planted = Planted::new("inputs");
    let trace = |groups: &[u8]| [b"wT1", groups].concat();
    let one = |path: &[u8]| trace(&[&[1, 0, 1, 0], &string(path)[..], b"a"].concat());
    let traces: Vec<(&str, Vec<u8>)> = vec![
        ("a way up", one(b"../outside/file")),
        ("an absolute path", one(b"/etc/passwd")),
        ("a NUL", one(b"a\0b")),
        ("a great many groups", trace(&number(u64::MAX))),
        ("a great many entries", trace(&[vec![1, 0], number(1 << 40), vec![0; 9]].concat())),
        ("a path longer than its bytes", trace(&[vec![1, 0, 1, 0], number(1 << 20), b"a".to_vec()].concat())),
        ("another version", b"wT9\0".to_vec()),
        ("nothing at all", Vec::new()),
        ("a file that is not as it says", trace(&[&[1, 0, 1, 0, 2][..], b"inf", &[9; 32], &number(0o644)].concat())),
    ];
    for (what, trace) in &traces {
        planted.clear();
        planted.inputs(trace);
        planted.run(what);
    }
    let printed: Vec<(&str, Vec<u8>)> = vec![
        ("a stream that does not exist", b"wC1\x01\x07\x01x".to_vec()),
        ("a great many pieces", [b"wC1".to_vec(), number(u64::MAX)].concat()),
        ("a piece longer than its bytes", [b"wC1\x01\x00".to_vec(), number(1 << 40)].concat()),
        ("nothing at all", Vec::new()),
    ];
    for (what, bytes) in &printed {
        planted.clear();
        planted.printed(bytes);
        planted.run(what);
    }
    // Times and command are checked by one digest.
    for (what, column) in [("times", "times"), ("a command", "argv")] {
        planted.clear();
        planted
            .index
            .execute(&format!("UPDATE records SET {column} = ?1"), [[&b"wN1"[..], &number(u64::MAX)].concat()])
            .unwrap();
        planted.run(what);
    }
    // Columns of other types than they were declared with.
    for column in ["id", "usable", "exit_code", "depth", "seal", "manifest", "bound_workspace"] {
        planted.clear();
        planted.index.execute(&format!("UPDATE records SET {column} = 'text\u{1}' WHERE usable = 1 AND turn = (SELECT max(turn) FROM records)"), []).unwrap();
        planted.run(column);
    }
    figure("planted inputs, outputs and rows", traces.len() + printed.len() + 9);
}

/// A link to the outside where a directory of outputs goes, made between two runs, and while a run restores.
#[test]
fn nothing_is_restored_through_a_link() {
    let planted = Planted::new("through");
    // What is at `out` is somebody else's: not a hit, and natively the command writes where the link leads.
    symlink("../outside/deep", planted.world.ws.join("out")).unwrap();
    let run = planted.world.run(&strs(&planted.command));
    assert_eq!(run.code, 0, "{run:?}");
    assert_ne!(run.status(), "hit", "{run:?}");
    fs::write(planted.outside.join("deep/file"), "theirs").unwrap();
    planted.outside_is_untouched("after a run through a link");
    fs::remove_file(planted.world.ws.join("out")).unwrap();

    // Exchanged all the time while hits restore. A miss may write there as the command does natively: only hits are judged.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (out, aside) = (planted.world.ws.join("out"), planted.world.root.join("link"));
    symlink(planted.outside.join("deep"), &aside).unwrap();
    let (mut hits, mut rounds) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // The link stands there for moments only.
                if fs::rename(&aside, &out).is_ok() {
                    let _ = fs::rename(&out, &aside);
                }
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        });
        while rounds < 60 && hits < 15 {
            rounds += 1;
            let _ = fs::remove_dir_all(&out);
            let _ = fs::remove_file(planted.world.ws.join("beside"));
            let run = planted.world.run(&strs(&planted.command));
            if run.json["status"] == "hit" {
                hits += 1;
                assert_eq!(fs::read(planted.outside.join("deep/file")).unwrap(), b"theirs", "{run:?}");
            }
            fs::write(planted.outside.join("deep/file"), "theirs").unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    figure("hits beside a link that comes and goes", hits);
    planted.outside_is_untouched("after hits beside a link");
}

#[test]
fn views_are_not_made_real_through_a_link() {
    let planted = Planted::new("views");
    mount(&planted.world);
    planted.world.run(&strs(&planted.command)).hit();
    unmount(&planted.world);
    // Where the views were, there is now a link to the outside.
    symlink("../outside/deep", planted.world.ws.join("out")).unwrap();
    let run = planted.world.call().wink(&["materialize", "."]);
    calm(&run, 2);
    planted.outside_is_untouched("made real without a mount");
    mount(&planted.world);
    let run = planted.world.call().wink(&["materialize", "out"]);
    calm(&run, 2);
    planted.outside_is_untouched("made real in a mount");
    assert_eq!(fs::read(planted.world.ws.join("out/file")).unwrap(), b"theirs", "what is real wins");
    unmount(&planted.world);
    planted.outside_is_untouched("after all");
}

/// Lists of views under their true names in a log that vouches for itself.
#[test]
fn planted_views_lead_nowhere() {
    let planted = Planted::new("layer");
    let pack = |entries: &[&[u8]]| {
        let entries_bytes = entries.iter().flat_map(|path| [vec![0], string(path), file(), vec![0]].concat());
        [b"wP1".to_vec(), number(entries.len() as u64), entries_bytes.collect()].concat()
    };
    let packs: Vec<Vec<u8>> = vec![
        pack(&[b"../outside/evil"]),
        pack(&[b"/evil"]),
        pack(&[b"a/../../evil"]),
        pack(&[b"a\0"]),
        pack(&[b"b", b"a"]),
        [b"wP1".to_vec(), number(1 << 40)].concat(),
    ];
    let root = planted.world.ws.to_str().unwrap().as_bytes().to_vec();
    for bytes in &packs {
        let store = Store::open(&planted.world.store).unwrap();
        let digest = store.put(bytes).unwrap();
        let (mut log, _) = store.open_layer(&root).unwrap();
        let attach = wink_store::Step::Attach { at: Vec::new(), pack: digest, first_ns: 1, step_ns: 1 };
        log.append(&[attach]).unwrap();
        // What the log itself cannot hold.
        assert!(log.append(&[wink_store::Step::Remove { path: b"../outside".to_vec() }]).is_err());
        drop((log, store));
        let run = planted.world.call().dir("/").wink(&["mount", planted.world.ws.to_str().unwrap()]);
        calm(&run, 2);
        if run.code == 0 {
            assert_eq!(planted.world.call().wink(&["materialize", "."]).code, 0);
            unmount(&planted.world);
        }
        planted.outside_is_untouched("with planted views");
        let layer = planted.world.store.join("layers").join(Digest::of(&root).to_string());
        fs::remove_dir_all(layer).unwrap();
        planted.clear();
    }
    planted.world.run(&strs(&planted.command)).hit();
    figure("planted lists of views", packs.len());
}

/// A store that came out of an archive: this user's, but its directories lead elsewhere.
#[test]
fn directories_of_the_store_lead_nowhere() {
    let parts = [
        "blobs",
        "staging",
        "quarantine",
        "layers",
        "locks",
        "index.lock",
        "index.sqlite",
        "daemon.log",
        "daemon.lock",
        "daemon.sock",
    ];
    for part in parts {
        let planted = Planted::new("leads");
        let place = planted.world.store.join(part);
        let _ = fs::remove_dir_all(&place).or_else(|_| fs::remove_file(&place));
        let is_dir = ["blobs", "staging", "quarantine", "layers", "locks"].contains(&part);
        // A directory with something in it; a file that is there; one that could be made.
        let targets: &[&Path] =
            if is_dir { &[&planted.outside] } else { &[&planted.outside.join("file"), &planted.outside.join("evil")] };
        for target in targets {
            let _ = fs::remove_file(&place);
            symlink(target, &place).unwrap();
            planted.clear();
            let run = planted.world.run(&strs(&planted.command));
            assert_eq!((run.code, run.out().as_str()), (0, "done\n"), "{part}: {run:?}");
            calm(&run, 2);
            assert_same(&planted.clean, &planted.world.tree(), part);
            let mounted = planted.world.call().dir("/").wink(&["mount", planted.world.ws.to_str().unwrap()]);
            calm(&mounted, 2);
            if mounted.code == 0 {
                unmount(&planted.world);
            }
            planted.world.call().dir("/").wink(&["daemon", "stop"]);
            planted.outside_is_untouched(part);
        }
    }
}

#[test]
fn a_store_that_others_may_write_is_not_used() {
    let planted = Planted::new("writable");
    fs::set_permissions(&planted.world.store, fs::Permissions::from_mode(0o777)).unwrap();
    let run = planted.run("others may write");
    assert!(run.err().contains("can be written by other users"), "{run:?}");
    fs::set_permissions(&planted.world.store, fs::Permissions::from_mode(0o700)).unwrap();
}

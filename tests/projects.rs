//! Real projects through their whole life: native and `wink run` leave the same tree, the second run is a hit that executes
//! nothing, an edit is a miss that names the file, undoing it hits, deleted outputs come back, and a clone hits what another
//! clone built.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Tree, World, assert_same, copy_tree, fixtures, holds, snapshot, strs, tree};

/// One project under test and what was seen of it.
struct Life {
    world: World,
    command: Vec<String>,
    /// The sources, untouched by any run.
    pristine: PathBuf,
    before: Tree,
}

impl Life {
    fn new(world: World, line: &str) -> Life {
        let pristine = world.root.join("pristine");
        copy_tree(&world.ws, &pristine);
        Life { command: world.counted(line), before: world.tree(), pristine, world }
    }

    fn run(&self) -> Run {
        self.world.run(&strs(&self.command))
    }

    /// Runs where this must miss, after a native twin from the same state; both must agree in everything.
    fn miss_like_native(&self, when: &str) -> Run {
        let count = self.world.count();
        let (native, expected) = self.world.native(&strs(&self.command));
        self.rewind_count(count);
        let run = self.run();
        run.is("miss").exits(native.code);
        assert_eq!(self.world.count(), count + 1, "{when}: a miss runs the command once");
        assert_eq!(run.out(), native.out(), "{when}: stdout");
        assert_eq!(run.command_err(), native.err(), "{when}: stderr");
        assert_same(&expected, &self.world.tree(), when);
        run
    }

    fn rewind_count(&self, count: usize) {
        fs::write(self.world.counter(), "ran\n".repeat(count)).unwrap();
    }

    fn hit(&self, expected: &Tree, when: &str) -> Run {
        let count = self.world.count();
        let run = self.run();
        run.hit();
        assert_eq!(self.world.count(), count, "{when}: a hit executes nothing");
        assert_same(expected, &self.world.tree(), when);
        run
    }

    /// The whole life; `edited` is a source file and its other content.
    fn live(&self, edited: &str, other: impl AsRef<[u8]>) {
        let first = self.miss_like_native("first run");
        let built = self.world.tree();
        let bound = holds(&tree_of_outputs(&self.before, &built), &self.world.ws);
        assert_eq!(first.json["bound_to_root"], bound, "bound_to_root: {first:?}");

        let again = self.hit(&built, "second run");
        assert_eq!(again.out(), first.out(), "replayed stdout");
        assert_eq!(again.command_err(), first.command_err(), "replayed stderr");

        let original = self.world.has(edited).then(|| self.world.read(edited));
        self.world.write(edited, other);
        self.miss_like_native("after an edit").miss_naming(self.world.ws.join(edited));
        let rebuilt = self.world.tree();
        self.hit(&rebuilt, "after the edit, again");

        match original {
            Some(bytes) => drop(self.world.write(edited, bytes)),
            None => self.world.remove(edited),
        }
        self.hit(&built, "edit undone");

        self.delete_outputs();
        assert_same(&self.before, &self.world.tree(), "deleting the outputs leaves the sources");
        let restored = self.hit(&built, "outputs deleted");
        assert_eq!(restored.out(), first.out(), "replayed stdout");

        for clone in ["clone-b", "deep/er/clone-c"] {
            self.clone_hits(clone, &built, bound);
        }
    }

    fn clone_hits(&self, name: &str, built: &Tree, bound: bool) {
        let dir = self.world.root.join(name);
        fs::create_dir_all(dir.parent().unwrap()).unwrap();
        copy_tree(&self.pristine, &dir);
        let count = self.world.count();
        let run = self.world.call().dir(&dir).run(&strs(&self.command));
        if bound {
            run.miss();
            return;
        }
        run.hit();
        assert_eq!(self.world.count(), count, "{name}: a hit executes nothing");
        assert_same(built, &snapshot(&dir), name);
    }

    fn delete_outputs(&self) {
        let now = self.world.tree();
        for path in now.keys().rev().filter(|path| !self.before.contains_key(*path)) {
            let full = self.world.ws.join(path);
            match now[path].kind {
                "dir" => fs::remove_dir(&full).unwrap(),
                _ => fs::remove_file(&full).unwrap(),
            }
        }
    }
}

fn tree_of_outputs(before: &Tree, after: &Tree) -> Tree {
    tree::changed(before, after).into_iter().map(|path| (path.clone(), after[&path].clone())).collect()
}

/// The text of a file with one thing replaced, which must be there.
fn replaced(path: &Path, from: &str, to: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no `{from}`", path.display());
    text.replacen(from, to, 1)
}

#[test]
fn lua_by_make() {
    let world = World::new("lua");
    let line = need!(fixtures::lua(&world));
    let edited = replaced(&world.ws.join("lvm.c"), "MAXTAGLOOP\t2000", "MAXTAGLOOP\t1999");
    let life = Life::new(world, &line);
    life.live("lvm.c", edited);
    life.world.write("hello.lua", "print(6 * 7)");
    let lua = life.world.call().native(&["./lua", "hello.lua"]);
    assert_eq!(lua.out(), "42\n", "the restored binary runs: {lua:?}");
    // After a hit the user's own make finds nothing to do: restored outputs are newer than every input.
    let make = life.world.call().native(&["make", "-q"]);
    assert_eq!(make.code, 0, "make -q after a hit: {make:?}");
}

/// make alone is fooled by a header that changed but kept an old time. wink compares bytes, and what it hands to a clean clone
/// must be what a clean build of those sources gives.
#[test]
fn lua_after_a_header_changed_behind_its_time() {
    let world = World::new("lua-old-header");
    let line = need!(fixtures::lua(&world));
    let life = Life::new(world, &line);
    life.run().miss();
    let header = life.world.ws.join("llimits.h");
    let edited = replaced(&header, "#define LUAI_MAXCCALLS\t\t200", "#define LUAI_MAXCCALLS\t\t190");
    fs::write(&header, &edited).unwrap();
    let touched = life.world.call().native(&["touch", "-d", "2001-02-03 04:05:06", "llimits.h"]);
    assert_eq!(touched.code, 0);
    life.run().miss_naming(&header);
    let here = life.world.tree();
    life.hit(&here, "again with the old header time");

    let clean = life.world.root.join("clone-clean");
    copy_tree(&life.pristine, &clean);
    fs::write(clean.join("llimits.h"), &edited).unwrap();
    let expected = {
        let twin = life.world.root.join("native-clean");
        copy_tree(&clean, &twin);
        let run = life.world.call().dir(&twin).native(&strs(&life.command));
        assert_eq!(run.code, 0, "{run:?}");
        snapshot(&twin)
    };
    life.world.call().dir(&clean).run(&strs(&life.command)).exits(0);
    assert_same(&expected, &snapshot(&clean), "a clean clone with the edited header gets a clean build");
}

#[test]
fn typescript_incremental() {
    let world = World::git("ts", "dist/\n*.tsbuildinfo\nnode_modules\n");
    let line = need!(fixtures::typescript(&world));
    let life = Life::new(world, &line);
    life.live("src/m3.ts", "export const value: number = 33;\n");
}

/// Four other tools cache an empty success here (research/task-caches.md §4.1).
#[test]
fn typescript_dist_deleted_buildinfo_kept() {
    let world = World::git("ts-trap", "dist/\n*.tsbuildinfo\nnode_modules\n");
    let line = need!(fixtures::typescript(&world));
    let life = Life::new(world, &line);
    life.run().miss();
    let built = life.world.tree();
    assert!(built.contains_key(Path::new("tsconfig.tsbuildinfo")), "the trap needs the buildinfo outside dist");
    assert!(built.keys().filter(|path| path.starts_with("dist")).count() > 20);

    life.world.remove("dist");
    life.hit(&built, "dist deleted, buildinfo kept");

    // The same with something edited: a miss must rebuild all of dist, though tsc alone would emit one file.
    life.world.write("src/m0.ts", "export const value: number = 5;\n");
    life.world.remove("dist");
    life.run().miss();
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&life.world.tree()), names(&built), "every output is back after a miss");

    // And forced: the run is real, its result still whole.
    life.world.remove("dist");
    life.world.call().flags(&["--force"]).run(&strs(&life.command)).exits(0);
    assert_eq!(names(&life.world.tree()), names(&built), "every output is back after --force");
}

#[test]
fn cargo_project() {
    let world = World::new("cargo");
    let line = need!(fixtures::cargo(&world));
    Life::new(world, &line).live("stamp.txt", "second\n");
}

#[test]
fn python_glob_sees_files_come_and_go() {
    let world = World::new("glob");
    let line = need!(fixtures::python_glob(&world));
    let life = Life::new(world, &line);
    life.live("data/sub/c.txt", "40\n");

    let built = life.world.tree();
    let added = life.world.write("data/sub/new.txt", "7\n");
    let run = life.miss_like_native("a file was added");
    assert!(run.names(added.parent().unwrap().to_str().unwrap()), "names the listing: {run:?}");
    assert!(life.world.text("build/sum.txt").starts_with("5 "));
    fs::remove_file(&added).unwrap();
    life.hit(&built, "the added file is gone again");

    life.world.write("data/extra.cfg", "");
    life.miss_like_native("a probed name appeared");
}

#[test]
fn shell_pipeline() {
    let world = World::new("pipeline");
    let line = need!(fixtures::pipeline(&world));
    let life = Life::new(world, &line);
    life.live("words/two.txt", "kiwi\nplum\n");
    assert!(!life.world.has("out.new") && !life.world.has("all.tmp"), "temporary names are no outputs");
    let trace = life.world.trace();
    assert!(!trace.inputs.contains_key(&life.world.ws.join("unused/notes.txt")));
}

#[test]
fn static_binary_reading_by_mmap() {
    let world = World::new("static");
    let line = need!(fixtures::static_reader(&world));
    Life::new(world, &line).live("input/big.bin", vec![7u8; 150_000]);
}

#[test]
fn formatter_that_rewrites_its_sources_converges() {
    let world = World::new("formatter");
    for name in ["a", "b"] {
        world.write(format!("src/{name}.txt"), "one \t\ntwo  \n");
    }
    let life = Life::new(world, "sed -i 's/[ \\t]*$//' src/*.txt && echo formatted");
    life.miss_like_native("unformatted sources");
    assert_eq!(life.world.text("src/a.txt"), "one\ntwo\n");
    let formatted = life.world.tree();
    // The sources are now others than those the record saw: at most one more run.
    life.run().exits(0);
    assert_same(&formatted, &life.world.tree(), "formatting twice changes nothing");
    life.hit(&formatted, "formatted sources");
    life.hit(&formatted, "formatted sources, again");

    // The same unformatted state once more: the record of the first run applies to it.
    life.world.write("src/a.txt", "one \t\ntwo  \n");
    life.world.write("src/b.txt", "one \t\ntwo  \n");
    life.hit(&formatted, "the unformatted state again");
    life.world.write("src/b.txt", "three \n");
    // Two records: what differs from the one is a.txt, from the other b.txt.
    life.miss_like_native("other unformatted sources").miss_naming("src/");
    assert_eq!(life.world.text("src/b.txt"), "three\n");
}

#[test]
fn task_that_reads_its_own_previous_output() {
    let world = World::new("incremental");
    world.write("source.txt", "A\n");
    let line = "n=$(cat state 2>/dev/null || echo 0); echo $((n + 1)) > state; cat source.txt >> log";
    let life = Life::new(world, line);
    life.miss_like_native("first");
    let first = life.world.tree();
    assert_eq!(life.world.text("state"), "1\n");
    // Its own output is no input: nothing it depends on has changed.
    life.hit(&first, "nothing changed");

    life.world.write("source.txt", "B\n");
    life.miss_like_native("carried state").miss_naming(life.world.ws.join("source.txt"));
    let second = life.world.tree();
    assert_eq!(life.world.text("state"), "2\n", "the previous run's outputs are visible to the next");
    assert_eq!(life.world.text("log"), "A\nB\n");
    life.hit(&second, "nothing changed since the second");
    life.world.write("source.txt", "A\n");
    life.hit(&first, "back to A");
    life.world.write("source.txt", "B\n");
    life.hit(&second, "and to B");
    life.delete_outputs();
    life.hit(&second, "outputs deleted");
}

#[test]
fn task_that_lists_a_directory() {
    let world = World::new("listing");
    for name in ["x", "y"] {
        world.write(format!("list/{name}"), name);
    }
    world.write("unlisted/z", "z");
    let life = Life::new(world, "ls list > names; [ -e config ] && cat config; :");
    life.live("config", "the name that was looked for\n");
    let built = life.world.tree();
    let added = life.world.write("list/a", "");
    life.run().miss_naming(life.world.ws.join("list"));
    assert_eq!(life.world.text("names"), "a\nx\ny\n");
    fs::remove_file(added).unwrap();
    life.hit(&built, "the listing is as it was");
    // A listing holds names and kinds, neither contents nor anything of other directories.
    life.world.write("list/x", "other bytes");
    life.world.write("unlisted/more", "");
    life.run().hit();
    fs::remove_file(life.world.ws.join("list/x")).unwrap();
    fs::create_dir(life.world.ws.join("list/x")).unwrap();
    life.run().miss_naming(life.world.ws.join("list"));
}

#[test]
fn links_modes_and_empty_directories_are_outputs() {
    let world = World::new("kinds");
    world.write("source.txt", "text\n");
    let line = "rm -rf out && mkdir -p out/empty out/private && chmod 700 out/private && cp source.txt out/tool && chmod 755 out/tool && \
                cp source.txt out/secret && chmod 600 out/secret && ln -s tool out/link && ln -s /nowhere/at/all out/dangling && \
                ln -s ../out out/private/loop && : > out/zero && chmod 444 out/zero && ln out/tool out/hard";
    let life = Life::new(world, line);
    life.live("source.txt", "other text\n");
    let built = life.world.tree();
    let entry = |path: &str| &built[Path::new(path)];
    assert_eq!((entry("out/empty").kind, entry("out/private").mode), ("dir", 0o700));
    assert_eq!((entry("out/tool").mode, entry("out/secret").mode, entry("out/zero").mode), (0o755, 0o600, 0o444));
    assert_eq!(entry("out/dangling").bytes, b"/nowhere/at/all");
    life.world.remove("out/zero");
    fs::remove_dir(life.world.ws.join("out/empty")).unwrap();
    life.hit(&built, "part of the outputs deleted");
}

#[test]
fn failing_command_publishes_and_is_not_recorded() {
    let world = World::new("failing");
    world.write("source.txt", "text\n");
    let life = Life::new(world, "cat source.txt > log; echo broken >&2; exit 3");
    for turn in 1..=2 {
        let run = life.run();
        run.exits(3);
        assert_ne!(run.status(), "hit", "turn {turn}: {run:?}");
        assert_eq!(run.json["exit_code"], 3);
        assert_eq!(run.command_err(), "broken\n");
        assert_eq!(life.world.count(), turn, "it runs every time");
        assert_eq!(life.world.text("log"), "text\n", "people need its logs");
    }
}

#[test]
fn a_task_that_removes_and_renames_sources() {
    let world = World::new("removes");
    world.write("old/a.txt", "a\n");
    world.write("old/sub/b.txt", "b\n");
    world.write("gone.txt", "gone\n");
    let life = Life::new(world, "[ -d old ] || exit 0; mv old new; rm gone.txt; cat new/sub/b.txt > got");
    life.miss_like_native("first");
    let after = life.world.tree();
    assert!(!life.world.has("old") && !life.world.has("gone.txt"));
    life.run().exits(0);
    assert_same(&after, &life.world.tree(), "second run");
    let clone = life.world.root.join("clone-b");
    copy_tree(&life.pristine, &clone);
    life.world.call().dir(&clone).run(&strs(&life.command)).hit();
    assert_same(&after, &snapshot(&clone), "removals and renames happen in the clone too");
}

#[test]
fn two_different_tasks_at_once() {
    let world = World::new("at-once");
    world.write("source.txt", "text\n");
    let command =
        |name: &str| world.counted(&format!("mkdir -p {name}; sleep 0.5; cat source.txt > {name}/out; echo {name}"));
    let (left, right) = (command("left"), command("right"));
    let running = [world.call().start(&strs(&left)), world.call().start(&strs(&right))];
    let runs = running.map(common::Running::finish);
    for (run, name) in runs.iter().zip(["left", "right"]) {
        run.miss();
        assert_eq!(run.out(), format!("{name}\n"));
        assert_eq!(world.text(format!("{name}/out")), "text\n");
    }
    assert_eq!(world.count(), 2);
    for command in [&left, &right] {
        world.run(&strs(command)).hit();
    }
    assert_eq!(world.count(), 2);
}

#[test]
fn the_same_task_twice_at_once() {
    let world = World::new("twice");
    world.write("source.txt", "text\n");
    let command = world.counted("sleep 0.5; cat source.txt > out; echo same");
    let running = [world.call().start(&strs(&command)), world.call().start(&strs(&command))];
    for run in running.map(common::Running::finish) {
        run.exits(0);
        assert_eq!(run.out(), "same\n");
        assert!(["miss", "hit"].contains(&run.status()), "equal bytes are no conflict: {run:?}");
    }
    assert!((1..=2).contains(&world.count()), "ran {} times", world.count());
    assert_eq!(world.text("out"), "text\n");
    let count = world.count();
    world.run(&strs(&command)).hit();
    assert_eq!(world.count(), count);
}

/// DESIGN §3.11: different bytes at one path from two running tasks are reported, the later is not recorded.
#[test]
fn two_tasks_that_publish_different_bytes_to_one_path() {
    let world = World::new("conflict");
    let command = |text: &str, pause: &str| world.counted(&format!("echo {text} > out; sleep {pause}"));
    let (early, late) = (command("early", "0.4"), command("late", "1.2"));
    let running = [world.call().start(&strs(&early)), world.call().start(&strs(&late))];
    let [first, second] = running.map(common::Running::finish);
    first.miss();
    second.uncached().exits(0);
    let named = |word: &str| word.trim_matches(|c: char| c.is_ascii_punctuation()).rsplit('/').next() == Some("out");
    assert!(second.reason().split_whitespace().any(named), "names the path: {second:?}");
    let out = world.text("out");
    assert!(out == "late\n" || out == "early\n", "one of them whole: {out:?}");
}

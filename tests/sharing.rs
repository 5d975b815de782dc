//! Tasks that share a directory, and histories that outlive every run: found by using wink all day.

mod common;

use common::{World, strs, tools};

fn sh(line: &str) -> [&str; 3] {
    ["/bin/sh", "-c", line]
}

/// An object that a run wrote first is part of a commit by the time another record of the same command holds.
#[test]
fn objects_of_a_history_are_never_taken_away() {
    let git = need!(tools::which("git")).to_str().unwrap().to_owned();
    let world = World::git("history", "");
    let native = |args: &[&str]| {
        let config = ["-c", "user.name=n", "-c", "user.email=n@example.org"];
        world.call().native(&[&[git.as_str()], config.as_slice(), args].concat())
    };
    for content in ["1\n", "2\n", "1\n"] {
        world.write("f", content);
        world.run(&[&git, "hash-object", "-w", "f"]).exits(0);
        assert_eq!(native(&["add", "f"]).code, 0);
        assert_eq!(native(&["commit", "-q", "--allow-empty", "-m", "x"]).code, 0);
    }
    let check = native(&["fsck", "--strict"]);
    assert_eq!(check.code, 0, "{check:?}");
    assert_eq!(native(&["cat-file", "-p", "HEAD~1:f"]).out(), "2\n");
}

/// Two tasks keep one file up to date between them, as `cargo build` and `cargo clippy` do in `target`.
#[test]
fn a_file_rewritten_by_another_task_makes_nobody_start_over() {
    let world = World::new("shared");
    world.write("in", "1\n");
    world.write("other", "1\n");
    // Slow work is done once and kept; the shared file names whoever came last.
    let build = world.counted("mkdir -p target; echo build > target/info; [ -e target/slow ] || { echo slow; echo slow > target/slow; }; cat in > target/out");
    let build = strs(&build);
    let lint = sh("mkdir -p target; echo lint > target/info; cat other > target/lint");
    assert!(world.run(&build).out().contains("slow"));
    world.run(&lint).exits(0);
    assert_eq!(world.text("target/info"), "lint\n");
    world.write("in", "2\n");
    let again = world.run(&build);
    again.exits(0);
    assert!(!again.out().contains("slow"), "what stood was thrown away: {again:?}");
    assert_eq!((world.text("target/out"), world.text("target/lint")), ("2\n".to_owned(), "1\n".to_owned()));
}

/// Two tasks that fill one directory run in turn: once each has seen the other's files, nothing runs without an edit.
#[test]
fn tasks_that_share_a_directory_hit_in_turn() {
    let world = World::new("shared-turns");
    world.write("in", "1\n");
    let build = world.counted("mkdir -p target/deps && cat in > target/deps/build && cp in target/build");
    let build = strs(&build);
    let lint = sh("mkdir -p target/deps && cat in > target/deps/lint");
    for version in ["1\n", "2\n"] {
        world.write("in", version);
        for _ in 0..2 {
            world.run(&build).exits(0);
            world.run(&lint).exits(0);
        }
        let ran = world.count();
        world.run(&build).hit();
        world.run(&lint).hit();
        world.run(&build).hit();
        assert_eq!(world.count(), ran);
        for file in ["deps/build", "deps/lint", "build"] {
            assert_eq!(world.text(format!("target/{file}")), version, "{file}");
        }
    }
}

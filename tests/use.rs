//! The examples of `docs/USE.md`, run as they stand there.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::page::{Item, file, section, shown};
use common::{World, copy_tree, tools};

const PAGE: &str = "USE.md";

/// A world in whose path are `wink` and `wink-sh`, the latter as the page says.
fn world(name: &str) -> (World, std::ffi::OsString) {
    let world = World::new(name);
    fs::remove_file(world.ws.join("wink.toml")).unwrap();
    let bin = world.home.join(".local/bin");
    fs::create_dir_all(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_wink"), bin.join("wink")).unwrap();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(PAGE)).unwrap();
    let link = page.lines().find(|line| line.starts_with("ln -s")).unwrap();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&tools::path()))).unwrap();
    let made = world.call().env("PATH", &path).native(&["/bin/sh", "-c", link]);
    assert_eq!(made.code, 0, "{made:?}");
    (world, path)
}

/// Writes the files of a section, runs its commands one after the other, and compares what they print.
fn play(name: &str, title: &str) {
    play_with(name, title, None);
}

/// The same with another directory in the path.
fn play_with(name: &str, title: &str, more: Option<&Path>) {
    let (world, path) = world(name);
    let path = std::env::join_paths(std::env::split_paths(&path).chain(more.map(Path::to_path_buf))).unwrap();
    let general = section(PAGE, "# Use where people work");
    world.write("wink.toml", file(&general, "wink.toml"));
    // Variables that a block exports hold for the commands behind it.
    let mut exported = String::new();
    for item in section(PAGE, title) {
        match item {
            Item::File { name, text } => drop(world.write(name, text)),
            Item::Commands(commands) => {
                for (command, expected) in commands {
                    if command.starts_with("export ") {
                        exported = format!("{exported}{command}; ");
                        continue;
                    }
                    let line = format!("{exported}exec 2>&1; {command}");
                    let run = world.call().env("PATH", &path).native(&["/bin/sh", "-c", &line]);
                    let mut said: Vec<String> = run.out().lines().map(shown).collect();
                    let mut expected = expected;
                    assert_eq!(run.code, 0, "$ {command}\n{run:?}");
                    if command.contains("-j") || command.starts_with("wink run -- make") {
                        // In which order those that run at once come is nobody's to say.
                        said.sort();
                        expected.sort();
                    }
                    assert_eq!(said, expected, "$ {command}\n{run:?}");
                }
            }
        }
    }
}

#[test]
fn npm_scripts() {
    need!(tools::npm());
    play("use-npm", "npm scripts");
}

#[test]
fn make() {
    need!(tools::make());
    play("use-make", "make");
}

#[test]
fn cargo() {
    need!(tools::cargo());
    play("use-cargo", "cargo");
}

#[test]
fn just() {
    let just = need!(tools::just());
    play_with("use-just", "just", just.parent());
}

/// Two jobs on two machines, with nothing but the cached directory in common.
#[test]
fn github_actions() {
    let items = section(PAGE, "GitHub Actions");
    let workflow = file(&items, ".github/workflows/build.yml");
    let value = |key: &str| {
        let line = workflow.lines().find_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
    };
    let (kept, command) = (value("path:"), value("run:"));
    let mut saved: Option<std::path::PathBuf> = None;
    let mut worlds = Vec::new();
    for (job, expected) in ["wink: miss (first run)", "wink: hit"].into_iter().enumerate() {
        let (world, path) = world(&format!("use-actions-{job}"));
        world.write("in.txt", "words\n");
        world.write("build.sh", file(&items, "build.sh"));
        world.write("wink.toml", "");
        let cache = world.ws.join(&kept);
        if let Some(saved) = &saved {
            copy_tree(saved, &cache);
        }
        let dir = value("WINK_CACHE_DIR:").replace("${{ github.workspace }}", world.ws.to_str().unwrap());
        let call = world.call().env("PATH", &path).env("WINK_CACHE_DIR", dir);
        let run = call.native(&["/bin/sh", "-c", &command]);
        assert_eq!((run.code, shown(run.err().trim_end()).as_str()), (0, expected), "{run:?}");
        assert_eq!(world.text("out.txt"), "WORDS\n");
        saved = Some(cache.canonicalize().unwrap());
        worlds.push(world);
    }
}

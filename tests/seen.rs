//! What people see: whole output of every command that prints, kept in `tests/snapshots/` with what changes from run to run replaced.
//!
//! A change on purpose: `INSTA_UPDATE=always cargo test --test seen`, and read the difference before it is committed.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Call, Run, World, mounted, snapshot};

/// What was typed and what came of it, one after the other.
struct Screen<'w> {
    world: &'w World,
    text: String,
}

impl<'w> Screen<'w> {
    fn new(world: &'w World) -> Screen<'w> {
        Screen { world, text: String::new() }
    }

    fn wink(&mut self, args: &[&str]) -> &mut Self {
        self.call(self.world.call(), args)
    }

    fn call(&mut self, call: Call<'_>, args: &[&str]) -> &mut Self {
        let quoted = args.iter().map(|arg| match arg.contains([' ', '>', ';', '$']) {
            true => format!("'{arg}'"),
            false => (*arg).to_owned(),
        });
        let Run { code, stdout, stderr, .. } = call.wink(args);
        self.text += &format!("$ wink {}\n", quoted.collect::<Vec<_>>().join(" "));
        self.text += &String::from_utf8_lossy(&stdout);
        for line in String::from_utf8_lossy(&stderr).lines() {
            self.text += &format!("stderr: {line}\n");
        }
        if code != 0 {
            self.text += &format!("exit code {code}\n");
        }
        self.text.push('\n');
        self
    }

    /// Something that happens in between.
    fn then(&mut self, what: &str, act: impl FnOnce(&World)) -> &mut Self {
        act(self.world);
        self.text += &format!("# {what}\n\n");
        self
    }

    /// Compares with what is kept, under the name.
    #[track_caller]
    fn shows(&self, name: &str) {
        let World { ws, home, store, untracked, root, .. } = self.world;
        let mut text = self.text.clone();
        let places =
            [(ws, "/WORKSPACE"), (home, "/HOME"), (store, "/CACHE"), (untracked, "/UNTRACKED"), (root, "/ROOT")];
        for (path, shown) in places {
            text = text.replace(path.to_str().unwrap(), shown);
        }
        // Others on this machine may mount something too.
        let is_status = |line: &str| line.contains(" mounted by a daemon ") || line.contains(" lost its daemon");
        let others = |line: &&str| !is_status(line) || line.starts_with("/WORKSPACE");
        let text: String = text.lines().filter(others).flat_map(|line| [line, "\n"]).collect();
        let mut settings = insta::Settings::clone_current();
        for (volatile, shown) in [
            (r"\b[0-9a-f]{64}\b", "[DIGEST]"),
            (r"\b[0-9a-f]{16}\b", "[DIGEST]"),
            (r"\b[0-9a-f]{8}\b", "[RECORD]"),
            (r"\b\d+(\.\d+)? (ms|s|min)\b( ago)?", "[TIME]"),
            (r"\bjust now\b", "[TIME]"),
            (r"\bpid \d+\b", "pid [PID]"),
            (r#""(\w+_ms|created|used|last_run|last_pruned)": \d+"#, r#""$1": "[TIME]""#),
            (r#""(disk_size|index_size|total_size|freed_bytes|max_size)": \d+"#, r#""$1": "[SIZE]""#),
            (r"\b\d+(\.\d+)? (bytes|kB|MB|GB)( on the disk| of it the index)", "[SIZE]$3"),
            (
                r"\b\d+(\.\d+)? (bytes|kB)( in \d+ entr| of 10\.0 GB| of them show|; 0 bytes in 0|; \[SIZE\])",
                "[SIZE]$3",
            ),
            (r"(entry|entries) and \d+(\.\d+)? (bytes|kB);", "$1 and [SIZE];"),
            // Whether it was any depends on the machine.
            (r" \(saved \[TIME\]\)", ""),
            (r"restored as (copies|reflinks)", "restored as [COPIES]"),
            // Widths of columns follow from the above.
            (r"  +", "  "),
        ] {
            settings.add_filter(volatile, shown);
        }
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, text));
    }
}

/// A workspace of which only the workspace is watched: what a machine has besides is not counted.
fn world(name: &str) -> World {
    let world = World::new(name);
    world.write("wink.toml", "scope = \"workspace\"\n");
    world
}

fn sh(line: &str) -> [&str; 5] {
    ["run", "--", "/bin/sh", "-c", line]
}

#[test]
fn the_lines_of_runs() {
    // Its home is watched too.
    let world = World::tracked("seen-run");
    world.write("wink.toml", "scope = \"workspace\"\n");
    world.write("in", "1\n");
    let outside = format!("echo x > {}/outside; cat in > out", world.home.display());
    let mut screen = Screen::new(&world);
    screen.wink(&sh("cat in > out; echo printed; echo complained >&2"));
    screen.wink(&sh("cat in > out; echo printed; echo complained >&2"));
    screen.then("out is removed", |world| world.remove("out"));
    screen.wink(&sh("cat in > out; echo printed; echo complained >&2"));
    screen.then("in is changed", |world| drop(world.write("in", "2\n")));
    screen.wink(&sh("cat in > out; echo printed; echo complained >&2"));
    screen.call(world.call().env("NODE_ENV", "test"), &sh("cat in > out; echo printed; echo complained >&2"));
    screen.then("out is edited", |world| drop(world.write("out", "mine\n")));
    screen.wink(&sh("cat in > out; echo printed; echo complained >&2"));
    screen.wink(&["run", "--force", "--", "/bin/sh", "-c", "cat in > other"]);
    screen.wink(&["run", "--dry-run", "--", "/bin/sh", "-c", "cat in > other"]);
    screen.wink(&["run", "--quiet", "--", "/bin/sh", "-c", "cat in > other"]);
    screen.wink(&["run", "--no-cache", "--", "/bin/sh", "-c", "cat in"]);
    screen.wink(&["run", "--cache=local:r,remote:r", "--", "/bin/sh", "-c", "echo x > third"]);
    screen.wink(&sh("cat in > out; exit 3"));
    screen.wink(&sh("kill -9 $$"));
    screen.wink(&["run", "--scope", "system", "--", "/bin/sh", "-c", &outside]);
    screen.wink(&["run", "--", "no-such-command"]);
    screen.wink(&["run", "--", "./in"]);
    screen.wink(&["run"]);
    screen.wink(&["run", "--bogus", "--", "x"]);
    screen.wink(&["run", "--cwd", "nowhere", "--", "x"]);
    screen.shows("run");
}

#[test]
fn explanations_and_traces() {
    let world = world("seen-explain");
    world.write("in", "1\n");
    world.write("src/a", "a\n");
    let line = "cat in src/a > out; mkdir -p dist/deep; ls src > dist/deep/names; rm -f dist/link; ln -s ../in dist/link; test ! -e missing";
    let command = ["--", "/bin/sh", "-c", line];
    let (explain, run) = ([&["explain"], &command[..]].concat(), [&["run"], &command[..]].concat());
    let mut screen = Screen::new(&world);
    screen
        .wink(&explain)
        .wink(&["trace"])
        .wink(&run)
        .wink(&explain)
        .wink(&[&["explain", "--json"], &command[..]].concat());
    screen.wink(&["trace"]).wink(&["trace", "--json"]);
    screen.then("src/b appears", |world| drop(world.write("src/b", "b\n")));
    screen.wink(&explain);
    screen.then("src/a is changed", |world| drop(world.write("src/a", "other\n")));
    screen.wink(&explain).wink(&run);
    screen.call(world.call().env("NODE_ENV", "test"), &explain);
    screen.wink(&["trace", "zzzz"]).wink(&["trace", "0000"]);
    let listed: serde_json::Value =
        serde_json::from_slice(&world.call().wink(&["cache", "ls", "--json"]).stdout).unwrap();
    let names: Vec<&str> =
        listed["entries"].as_array().unwrap().iter().map(|entry| &entry["record"].as_str().unwrap()[..8]).collect();
    screen.wink(&["trace", names[1], names[0]]);
    screen.shows("explain");
}

#[test]
fn the_configuration() {
    let world = world("seen-config");
    let mut screen = Screen::new(&world);
    screen.wink(&["config", "show"]);
    screen.then("some keys are set", |world| {
        world.write("wink.toml", "max_size = \"5GB\"\nexcludePackages = [\"a\"]\n[env]\npass = [\"TOKEN\"]\n[[task]]\nmatch = \"make*\"\nown = \"hide\"\n");
    });
    screen.call(world.call().env("WINK_OWN", "observe").env("WINK_SCOP", "x"), &["config", "show"]);
    screen.then("a mistake", |world| drop(world.write("wink.toml", "maxsize = 1\n")));
    screen.wink(&["config", "show"]).wink(&["run", "--", "true"]);
    screen.then("another", |world| drop(world.write("wink.toml", "max_size = \"much\"\n")));
    screen.wink(&["cache", "stats"]);
    screen.shows("config");
}

#[test]
fn the_doctor() {
    let world = world("seen-doctor");
    let mut screen = Screen::new(&world);
    screen.wink(&["doctor"]);
    screen.then("a mistake in the configuration", |world| drop(world.write("wink.toml", "scope = \"moon\"\n")));
    screen.wink(&["doctor"]);
    // What the machine is like is not what is looked at here.
    let machine = [
        "kernel",
        "fuse",
        "namespaces",
        "view",
        "pivot_root",
        "open files",
        "passthrough",
        "io_uring",
        "fusermount3",
        "room",
        "reflink",
    ];
    let mut lines = Vec::new();
    for line in screen.text.lines() {
        let name = line.get(6..).unwrap_or_default();
        match machine.iter().find(|known| name.starts_with(&format!("{known} "))) {
            Some(known) => lines.push(format!("[…]  {known}  […]")),
            None if line.starts_with("  ") && lines.last().is_some_and(|last: &String| last.starts_with("[…]")) => {}
            None => lines.push(line.to_owned()),
        }
    }
    screen.text = lines.join("\n") + "\n";
    screen.shows("doctor");
}

#[test]
fn the_cache() {
    let world = world("seen-cache");
    world.write("in", "1\n");
    let mut screen = Screen::new(&world);
    for args in [&["stats"][..], &["ls"], &["prune"], &["verify"], &["clean", "--yes"], &["dir"]] {
        screen.wink(&[&["cache"], args].concat());
    }
    screen.then("two tasks run, one of them twice; one fails", |world| {
        world.run(&["/bin/sh", "-c", "cat in > out"]).miss();
        world.run(&["/bin/sh", "-c", "cat in > out"]).hit();
        world.run(&["/bin/sh", "-c", "head -c 1000 /dev/zero > zeros"]).miss();
        world.run(&["/bin/sh", "-c", "exit 1"]).uncached();
    });
    for args in [&["stats"][..], &["stats", "--json"], &["ls"], &["ls", "--all"], &["ls", "--json"]] {
        screen.wink(&[&["cache"], args].concat());
    }
    for args in [&["prune", "--dry-run", "100"][..], &["prune", "much"], &["prune"], &["verify"], &["verify", "--json"]]
    {
        screen.wink(&[&["cache"], args].concat());
    }
    screen.then("the bytes of out change in the cache", |world| {
        let blob = snapshot(&world.store.join("blobs")).into_iter().find(|(_, entry)| entry.bytes == b"1\n").unwrap().0;
        let blob = world.store.join("blobs").join(blob);
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(blob, "2\n").unwrap();
    });
    for args in [&["verify"][..], &["verify", "--json"], &["verify", "--repair"], &["verify"], &["clean"]] {
        screen.wink(&[&["cache"], args].concat());
    }
    screen.wink(&["cache", "clean", "--yes"]);
    screen.wink(&["cache", "stats"]);
    screen.shows("cache");
}

#[test]
fn running_again() {
    let world = world("seen-rerun");
    world.write("in", "1\n");
    let turn = world.untracked.join("turn");
    let differs = format!("echo x >> {turn}; cat in; wc -l < {turn} > lines", turn = turn.display());
    let mut screen = Screen::new(&world);
    screen.wink(&["cache", "verify", "--rerun", "3"]);
    screen.then("three tasks run, and the input of one changes", |world| {
        world.run(&["/bin/sh", "-c", "cat in > out"]).miss();
        world.write("in", "2\n");
        world.run(&["/bin/sh", "-c", "echo same > same"]).miss();
        world.run(&["/bin/sh", "-c", &differs]).miss();
    });
    screen.wink(&["cache", "verify", "--rerun", "3"]).wink(&["cache", "verify", "--rerun", "0"]);
    screen.shows("rerun");
}

#[test]
fn mounted_trees() {
    let world = world("seen-mounted");
    world.write("in", "1\n");
    let mut screen = Screen::new(&world);
    mounted::mount(&world);
    screen.then("the workspace is mounted", |_| ());
    screen.wink(&sh("mkdir -p dist; cat in > dist/a; cat in > dist/b"));
    screen.then("dist is removed", |world| world.remove("dist"));
    screen.wink(&sh("mkdir -p dist; cat in > dist/a; cat in > dist/b"));
    screen.wink(&["status"]).wink(&["mount"]).wink(&["cache", "prune", "0"]).wink(&["cache", "clean", "--yes"]);
    screen.wink(&["materialize", "dist/a"]);
    screen.then("it is not mounted any more", |world| drop(mounted::unmount(world)));
    screen.wink(&["status"]).wink(&["unmount"]).wink(&["cache", "verify"]);
    screen.shows("mounted");
}

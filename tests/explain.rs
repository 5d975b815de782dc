//! `wink explain`: what it says is what `wink run` then does, in every situation, and saying it changes nothing.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use common::mounted::{kill_daemon, mount};
use common::{Call, Run, World, copy_tree, simple, snapshot, strs, tools};

/// What `wink explain --json` says, in a call shaped like the run that it speaks of.
fn explain(call: Call<'_>, flags: &[&str], command: &[&str]) -> Value {
    let run = call.wink(&[&["explain", "--json"], flags, &["--"], command].concat());
    assert_eq!(run.code, 0, "{run:?}");
    serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

/// Explains, checks that nothing changed by it, runs, and compares. Returns both.
#[track_caller]
fn agrees<'w>(
    world: &'w World,
    shape: impl Fn(Call<'w>) -> Call<'w>,
    flags: &[&str],
    command: &[&str],
) -> (Value, Run) {
    let look = || (snapshot(&world.ws), world.store.exists(), world.count(), blobs(&world.store));
    let before = look();
    let said = explain(shape(world.call()), flags, command);
    let again = explain(shape(world.call()), flags, command);
    assert!(look() == before, "explaining changed something");
    assert_eq!(without_times(&said), without_times(&again), "asked twice");
    let dry = shape(world.call()).flags(&[flags, &["--dry-run"]].concat()).run(command);
    assert!(look() == before, "--dry-run changed something");
    let run = shape(world.call()).flags(flags).run(command);
    for told in [&dry, &run] {
        for field in ["status", "reason", "first_difference", "task_key"] {
            assert_eq!(said[field], told.json[field], "{field} of {said:#} and {told:?}");
        }
    }
    if said["status"] == "hit" {
        assert_eq!(said["record"], run.json["record"], "{said:#}");
        assert_eq!(said["candidates"][0]["record"], said["record"], "{said:#}");
        assert_eq!(said["candidates"][0]["holds"], true);
    } else {
        assert!(said["record"].is_null(), "{said:#}");
        let none = said["candidates"].as_array().unwrap().iter().all(|candidate| candidate["holds"] == false);
        assert!(none, "{said:#}");
    }
    (said, run)
}

/// Names and sizes of everything in the store that is no bookkeeping of SQLite's.
fn blobs(store: &Path) -> Vec<(String, u64)> {
    if !store.is_dir() {
        return Vec::new();
    }
    let all = snapshot(store);
    let kept = all.iter().filter(|(path, _)| path.starts_with("blobs") || path.starts_with("quarantine"));
    kept.map(|(path, entry)| (path.display().to_string(), entry.bytes.len() as u64)).collect()
}

fn without_times(said: &Value) -> Value {
    let mut said = said.clone();
    said.as_object_mut().unwrap().remove("lookup_ms");
    said
}

fn plain(call: Call<'_>) -> Call<'_> {
    call
}

#[test]
fn from_nothing_to_hits_and_back() {
    let (world, command) = simple("explain");
    let command = strs(&command);
    let (said, _) = agrees(&world, plain, &[], &command);
    assert_eq!((&said["status"], &said["reason"]), (&"miss".into(), &"first run".into()));
    assert_eq!(said["candidates"], serde_json::json!([]));

    let (said, _) = agrees(&world, plain, &[], &command);
    assert_eq!(said["status"], "hit");
    assert!(said["reason"].is_null() && said["first_difference"].is_null());
    let [candidate] = said["candidates"].as_array().unwrap().as_slice() else { panic!("{said:#}") };
    assert_eq!(candidate["workspaces"], serde_json::json!([world.ws]));
    assert!(candidate["created_ms"].as_u64().unwrap() > 1_600_000_000_000, "{candidate}");
    assert!(candidate["observations"].as_u64().unwrap() > 3, "{candidate}");

    world.remove("out");
    agrees(&world, plain, &[], &command).1.hit();

    world.write("source.txt", "edited\n");
    let (said, run) = agrees(&world, plain, &[], &command);
    run.miss();
    assert_eq!(said["reason"], "source.txt changed");
    assert_eq!(said["first_difference"]["path"], world.ws.join("source.txt").to_str().unwrap());
    assert_eq!(said["candidates"][0]["first_difference"], said["first_difference"]);

    world.write("source.txt", "text\n");
    let (said, run) = agrees(&world, plain, &[], &command);
    run.hit();
    assert_eq!(said["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(said["candidates"][1]["reason"], "source.txt changed");

    world.write("out", "somebody else's\n");
    agrees(&world, plain, &[], &command).1.miss_naming("out");
    world.remove("out");
    world.write("out", "text\n");
    agrees(&world, plain, &[], &command).1.exits(0);
    world.remove("source.txt");
    agrees_on_status(&world, &command, "source.txt is gone");
}

/// For commands that then fail, which nobody can foresee.
#[track_caller]
fn agrees_on_status(world: &World, command: &[&str], reason: &str) {
    let said = explain(world.call(), &[], command);
    assert_eq!((&said["status"], &said["reason"]), (&"miss".into(), &reason.into()), "{said:#}");
    assert_ne!(world.run(command).status(), "hit");
}

#[test]
fn everything_that_shapes_the_key() {
    let (world, command) = simple("explain-key");
    let command = strs(&command);
    world.write("sub/in.json", "{}");
    for flags in [
        &["--own", "hide"][..],
        &["--own", "observe"],
        &["--scope", "workspace"],
        &["--pass-env", "USER"],
        &["--input", "**/*.json"],
        &["--output", "out"],
    ] {
        agrees(&world, plain, flags, &command).1.miss();
        // Left by another task, and so an input of the next.
        world.remove("out");
        agrees(&world, plain, flags, &command).1.hit();
        world.remove("out");
    }
    world.write("sub/in.json", "[]");
    agrees(&world, plain, &["--input", "**/*.json"], &command).1.miss();
    agrees(&world, |call| call.stdin("typed"), &["--stdin"], &["/bin/cat"]).1.miss();
    agrees(&world, |call| call.stdin("typed"), &["--stdin"], &["/bin/cat"]).1.hit();
    agrees(&world, |call| call.stdin("other"), &["--stdin"], &["/bin/cat"]).1.miss();
    agrees(&world, plain, &[], &command);
    let (said, run) = agrees(&world, |call| call.env("NODE_ENV", "production"), &[], &command);
    run.miss();
    assert!(said["reason"].as_str().unwrap().contains("NODE_ENV"), "{said:#}");
    agrees(&world, |call| call.dir("sub"), &[], &["/bin/cat", "in.json"]).1.miss();
    agrees(&world, plain, &["--cwd", "sub"], &["/bin/cat", "in.json"]).1.hit();
    agrees(&world, plain, &[], &["/bin/cat", "source.txt"]).1.miss();
    agrees(&world, plain, &[], &["/bin/cat", "source.txt", "source.txt"]).1.miss();
}

#[test]
fn settings_of_the_workspace() {
    let world = World::new("explain-config");
    world.write("source.txt", "text\n");
    let fails = ["/bin/sh", "-c", "cat source.txt; exit 3"];
    agrees_on_status(&world, &fails, "first run");
    let said = explain(world.call(), &[], &fails);
    assert_eq!(said["reason"], world.call().flags(&["--dry-run"]).run(&fails).json["reason"]);
    world.write("wink.toml", "cache_failures = true\n");
    agrees(&world, plain, &[], &fails).1.is("miss").exits(3);
    agrees(&world, plain, &[], &fails).1.is("hit").exits(3);
    world.write("wink.toml", "");
    assert_eq!(explain(world.call(), &[], &fails)["status"], "miss");

    world.write("wink.toml", "canonical_root = \"/wink-canonical\"\n");
    let names_it = ["/bin/sh", "-c", "pwd > out"];
    agrees(&world, plain, &[], &names_it).1.miss();
    agrees(&world, plain, &[], &names_it).1.hit();
    world.remove("out");
    // A miss where the kernel offers it, uncached where it does not: either way what the run then shows.
    world.write("wink.toml", "transport = \"uring\"\n");
    agrees(&world, plain, &[], &["/bin/sh", "-c", "cat source.txt > copy"]);
    world.write("wink.toml", "ignore = [\"noise\"]\n");
    agrees(&world, plain, &[], &names_it).1.miss();
    world.write("noise", "x");
    agrees(&world, plain, &[], &names_it).1.hit();
}

#[test]
fn another_clone_and_another_store() {
    let (world, command) = simple("explain-clone");
    let command = strs(&command);
    world.run(&command).miss();
    let bound = ["/bin/sh", "-c", "pwd > where"];
    world.run(&bound).miss();
    let other = world.root.join("other");
    copy_tree(&world.ws, &other);
    fs::remove_file(other.join("out")).unwrap();
    fs::remove_file(other.join("where")).unwrap();
    assert_eq!(
        explain(world.call().dir("../other"), &[], &command)["candidates"][0]["workspaces"][0],
        world.ws.to_str().unwrap()
    );
    agrees(&world, |call| call.dir("../other"), &[], &command).1.hit();
    let (said, run) = agrees(&world, |call| call.dir("../other"), &[], &bound);
    run.miss();
    assert!(said["reason"].as_str().unwrap().contains("the recorded outputs name their workspace"), "{said:#}");
    assert_eq!(said["candidates"][0]["bound_workspace"], world.ws.to_str().unwrap());

    let (world, command) = simple("explain-no-store");
    fs::write(&world.store, "a file").unwrap();
    agrees(&world, plain, &[], &strs(&command)).1.uncached();
}

#[test]
fn what_keeps_the_cache_out_of_it() {
    let (world, command) = simple("explain-uncached");
    let command = strs(&command);
    let handed = ["/bin/sh", "-c", "exec \"$@\" 3< source.txt", "sh"];
    agrees(&world, |call| call.under(&handed), &[], &["/bin/cat", "/dev/fd/3"]).1.uncached();
    world.run(&command);
    fs::set_permissions(&world.store, fs::Permissions::from_mode(0o777)).unwrap();
    agrees(&world, plain, &[], &command).1.uncached();
}

#[test]
fn no_view_to_be_had() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let (world, command) = simple("explain-no-view");
    let command = strs(&command);
    let useless = ["unshare", "-m", "/bin/sh", "-ec", "mount --bind /dev/null /dev/fuse; exec \"$@\"", "sh"];
    let read_only = format!("mount --bind {0} {0}; mount -o remount,ro,bind {0}; exec \"$@\"", world.ws.display());
    let read_only = ["unshare", "-m", "/bin/sh", "-ec", &read_only, "sh"];
    for under in [&useless, &read_only] {
        let said = explain(world.call().under(under), &[], &["/bin/true"]);
        let run = world.call().under(under).run(&["/bin/true"]);
        run.uncached();
        assert_eq!((&said["status"], &said["reason"]), (&"uncached".into(), &run.json["reason"]), "{run:?}");
    }
    world.run(&command).miss();
    assert_eq!(explain(world.call().under(&useless), &[], &command)["status"], "hit", "a hit needs no view");
}

#[test]
fn damage_and_hard_links() {
    let (world, command) = simple("explain-damage");
    let command = strs(&command);
    world.run(&command).miss();
    world.remove("out");
    for (path, entry) in snapshot(&world.store.join("blobs")) {
        if entry.kind == "file" {
            let blob = world.store.join("blobs").join(path);
            fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&blob, vec![b'?'; entry.bytes.len()]).unwrap();
        }
    }
    let (said, run) = agrees(&world, plain, &[], &command);
    run.miss();
    assert!(said["reason"].as_str().unwrap().starts_with("a damaged record was dropped"), "{said:#}");

    let world = World::new("explain-links");
    world.write("text", "one\n");
    let command = ["/bin/sh", "-c", "echo two >> text"];
    world.run(&command).miss();
    world.write("text", "one\n");
    agrees(&world, plain, &[], &command).1.hit();
    world.write("text", "one\n");
    fs::hard_link(world.ws.join("text"), world.ws.join("name")).unwrap();
    let said = explain(world.call(), &[], &command);
    assert_eq!(said["reason"], "text has got other names (hard links)", "{said:#}");
    assert_eq!(said["candidates"].as_array().unwrap().iter().filter(|one| one["holds"] == true).count(), 0);
    let dry = world.call().flags(&["--dry-run"]).run(&command);
    assert_eq!((dry.status(), dry.reason().as_str()), ("miss", "text has got other names (hard links)"));
    world.run(&command).uncached();
}

#[test]
fn in_a_mounted_tree() {
    let (world, command) = simple("explain-mounted");
    let command = strs(&command);
    mount(&world);
    agrees(&world, plain, &[], &command).1.miss();
    world.remove("out");
    agrees(&world, plain, &[], &command).1.hit();
    agrees(&world, plain, &[], &command).1.hit();
    world.write("source.txt", "edited\n");
    agrees(&world, plain, &[], &command).1.miss_naming("source.txt");
    agrees(&world, plain, &["--own", "hide"], &command).1.miss();
    kill_daemon(&world);
    let ws = world.ws.to_str().unwrap();
    let said = explain(world.call().dir("/"), &["--cwd", ws], &command);
    assert_eq!(said["status"], "hit", "the mount is brought back first: {said:#}");
    agrees(&world, plain, &["--no-daemon"], &command).1.hit();
}

#[test]
fn usage() {
    let world = World::new("explain-usage");
    let run = world.call().wink(&["explain"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err().contains("no command to explain"), "{run:?}");
    assert_eq!(
        world.call().wink(&["explain", "--force", "--", "true"]).code,
        2,
        "not a flag that decides which task it is"
    );
}

/// After a miss the one line names what changed, not just where.
#[test]
fn the_line_names_the_first_difference() {
    let world = World::new("names");
    world.write("src/a.ts", "a\n");
    world.write("src/b.ts", "b\n");
    let tool = world.script(
        "tool",
        "#!/bin/sh\nls src > /dev/null\nls . > /dev/null\ncat src/a.ts lib/foo/package.json 2> /dev/null\ntrue\n",
    );
    let command = [tool.to_str().unwrap()];
    let shaped = |shape: &dyn Fn(Call<'_>) -> Call<'_>| {
        let run = shape(world.call()).run(&command);
        run.miss();
        run
    };
    let plain = || world.run(&command);
    plain().miss();

    world.write("src/new.c", "");
    let run = plain();
    assert_eq!(run.reason(), "src: new.c appeared", "{run:?}");
    let difference = &run.json["first_difference"];
    assert_eq!(difference["path"], world.ws.join("src").to_str().unwrap());
    assert!(difference["recorded"].as_str().unwrap().ends_with(", without new.c"), "{difference}");
    assert!(difference["present"].as_str().unwrap().ends_with(", with new.c"), "{difference}");
    assert!(run.err().contains("(src: new.c appeared)"), "{run:?}");
    world.remove("src/b.ts");
    assert_eq!(plain().reason(), "src: b.ts is gone");
    world.write("top", "");
    assert_eq!(plain().reason(), "the workspace: top appeared");
    world.write("src/a.ts", "edited\n");
    assert_eq!(plain().reason(), "src/a.ts changed");
    world.write("lib/foo/package.json", "{}");
    assert_eq!(plain().reason(), "lib appeared");
    world.remove("lib/foo/package.json");
    assert_eq!(plain().reason(), "lib/foo/package.json is gone");
    world.write("lib/foo/package.json", "{ }");
    assert_eq!(plain().reason(), "lib/foo/package.json appeared");
    world.script("tool", "#!/bin/sh\ncat src/a.ts\n");
    assert_eq!(plain().reason(), "tool changed");

    let with = |pairs: &'static [(&str, &str)]| {
        shaped(&move |call| pairs.iter().fold(call, |call, (name, value)| call.env(name, value))).reason()
    };
    assert_eq!(with(&[("NODE_ENV", "development")]), "NODE_ENV: not set → development");
    assert_eq!(with(&[("NODE_ENV", "production")]), "NODE_ENV: development → production");
    assert_eq!(with(&[("NODE_ENV", "production"), ("TOKEN", "hunter2")]), "the environment variable TOKEN appeared");
    assert_eq!(with(&[("NODE_ENV", "production"), ("TOKEN", "other")]), "the environment variable TOKEN changed");
    assert_eq!(with(&[("NODE_ENV", "test"), ("TOKEN", "other")]), "NODE_ENV: production → test");
    assert_eq!(with(&[("LANG", "de_DE.UTF-8"), ("USER", "me")]), "LANG: C.UTF-8 → de_DE.UTF-8, and 1 more");
    let run = shaped(&|call| call.dir("src").flags(&["--cwd", ".."]).env("PATH", "/opt/tools:/usr/bin:/bin"));
    assert!(run.reason().starts_with("PATH: "), "{run:?}");
    let index = fs::read(world.store.join("index.sqlite")).unwrap();
    let log = fs::read(world.store.join("index.sqlite-wal")).unwrap();
    assert!(
        !common::contains(&index, b"hunter2") && !common::contains(&log, b"hunter2"),
        "no value of a secret is kept"
    );

    let declared = || world.call().flags(&["--input", "/a.json"]).run(&command);
    world.write("a.json", "1");
    assert_eq!(declared().reason(), "the declared input a.json appeared");
    world.write("a.json", "2");
    let run = declared();
    assert_eq!(run.reason(), "the declared input a.json changed");
    assert_eq!(run.difference(), Some(world.ws.join("a.json")));
    assert_eq!(
        world.call().flags(&["--own", "hide"]).run(&command).reason(),
        "what becomes of earlier outputs: carry → hide"
    );
    let echo = ["/bin/echo", "x"];
    assert_eq!(world.run(&echo).reason(), "first run");
    assert_eq!(world.call().dir("src").run(&echo).reason(), "the current directory: . → src");
    assert_eq!(world.run(&["/bin/echo", "y"]).reason(), "first run with this command line");
}

//! `wink cache verify --rerun N`: which tasks are reproducible, and nothing changes by asking.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::object;
use crate::common::{Call, Run, World, mounted, snapshot, strs, tools};

/// What the index holds that a run would change, table by table.
fn index(world: &World) -> BTreeMap<&'static str, Vec<String>> {
    let connection = rusqlite::Connection::open(world.store.join("index.sqlite")).unwrap();
    let rows = |table: &'static str| {
        // Some are made when they are first needed.
        let Ok(mut query) = connection.prepare(&format!("SELECT * FROM {table}")) else { return (table, Vec::new()) };
        let columns = query.column_count();
        let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
            (0..columns)
                .map(|at| Ok(format!("{:?}", row.get_ref(at)?)))
                .collect::<rusqlite::Result<Vec<_>>>()
                .map(|row| row.join("|"))
        };
        let mut rows: Vec<String> = query.query_map([], row).unwrap().map(Result::unwrap).collect();
        rows.sort();
        (table, rows)
    };
    ["records", "traces", "trees", "last", "keys", "names", "uses", "runs", "meta"].into_iter().map(rows).collect()
}

/// Runs the tasks again and checks that nothing else came of it.
fn rerun(world: &World, call: Call<'_>, number: &str) -> (i32, Value) {
    let state = || (world.tree(), snapshot(&world.store.join("blobs")), index(world));
    let before = state();
    let run = call.wink(&["cache", "verify", "--json", "--rerun", number]);
    let (tree, blobs, rows) = state();
    crate::common::assert_same(&before.0, &tree, "running again changed the workspace");
    crate::common::assert_same(&before.1, &blobs, "running again stored something");
    assert_eq!(before.2, rows, "running again was noted in the index");
    assert_eq!(run.err(), "", "{run:?}");
    let staged = fs::read_dir(world.store.join("staging")).unwrap().count();
    assert_eq!(staged, 0, "running again left something in staging");
    let object: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    (run.code, object["rerun"].clone())
}

fn task<'v>(rerun: &'v Value, record: &Run) -> &'v Value {
    let tasks = rerun["tasks"].as_array().unwrap();
    let record = &record.json["record"];
    tasks.iter().find(|task| task["record"] == *record).unwrap_or_else(|| panic!("no {record} in {rerun:#}"))
}

/// The first difference: name, kind, offset.
fn first(task: &Value) -> (&str, &str, Option<u64>) {
    let first = &task["differences"][0];
    (first["name"].as_str().unwrap_or("?"), first["what"].as_str().unwrap_or("?"), first["offset"].as_u64())
}

fn sh(line: &str) -> [&str; 3] {
    ["/bin/sh", "-c", line]
}

/// A shell word that is another number each time: the command counts in a place that nobody watches.
fn turn(world: &World, name: &str) -> String {
    let at = world.untracked.join(name);
    format!("$(n=$(cat {at} 2>/dev/null || echo 0); echo $((n + 1)) > {at}; echo $((n % 8)))", at = at.display())
}

#[test]
fn what_is_not_reproducible_is_named() {
    let world = World::new("rerun");
    let turn = |name| turn(&world, name);
    world.write("in", "1\n");
    let run = |line: &str| {
        let run = world.run(&sh(line));
        run.miss();
        run
    };
    let same = run("cat in > same; mkdir -p dir/sub; ln -sf in dir/link; echo said; echo complained >&2");
    let bytes = run(&format!("printf 'number %s\\n' {} > bytes; cp bytes later", turn("bytes")));
    let longer =
        run(&format!("for i in 1 2 3; do echo $i; done > longer; [ {} = 1 ] || echo 4 >> longer", turn("longer")));
    let printed = run(&format!("echo hello; echo {}; cat in > beside", turn("printed")));
    let complained = run(&format!("echo {} >&2", turn("complained")));
    let mode = run(&format!("echo x > mode; chmod 64{} mode", turn("mode")));
    let link = run(&format!("ln -s to-{} link", turn("link")));
    let named = run(&format!("echo x > name-{}", turn("named")));
    let (code, rerun) = rerun(&world, world.call(), "20");
    assert_eq!((code, rerun["same"].as_u64(), rerun["different"].as_u64()), (3, Some(1), Some(7)), "{rerun:#}");
    assert_eq!(task(&rerun, &same)["outcome"], "same", "{rerun:#}");
    for (run, wanted) in [
        (&bytes, ("bytes", "bytes", Some(7))),
        (&longer, ("longer", "bytes", Some(6))),
        (&printed, ("stdout", "printed", Some(6))),
        (&complained, ("stderr", "printed", Some(0))),
        (&mode, ("mode", "mode", None)),
        (&link, ("link", "target", None)),
    ] {
        let task = task(&rerun, run);
        assert_eq!((task["outcome"].as_str(), first(task)), (Some("different"), wanted), "{task:#}");
    }
    assert_eq!(task(&rerun, &bytes)["differences"].as_array().unwrap().len(), 2);
    let named: Vec<&str> = task(&rerun, &named)["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["what"].as_str().unwrap())
        .collect();
    assert_eq!(named, ["missing", "appeared"], "{rerun:#}");

    // For people, and the N that were used last.
    let run = world.call().wink(&["cache", "verify", "--rerun", "1"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.out().contains("ran 1 recorded task again: 1 is not reproducible\n"), "{run:?}");
    assert!(run.out().contains("\n    only the recorded run wrote name-"), "{run:?}");
    world.run(&sh("cat in > same; mkdir -p dir/sub; ln -sf in dir/link; echo said; echo complained >&2")).hit();
    let run = world.call().wink(&["cache", "verify", "--rerun", "1"]);
    assert_eq!((run.code, run.out().contains("each gave what was recorded")), (0, true), "{run:?}");
}

#[test]
fn damage_is_told_from_what_is_not_reproducible() {
    let world = World::new("rerun-damage");
    world.run(&sh(&format!("echo {} > out", turn(&world, "turn")))).miss();
    let other = world.run(&sh("echo other > other"));
    let blob = snapshot(&world.store.join("blobs")).into_iter().find(|(_, entry)| entry.bytes == b"other\n").unwrap().0;
    fs::remove_file(world.store.join("blobs").join(blob)).unwrap();
    let run = world.call().wink(&["cache", "verify", "--json", "--rerun", "5"]);
    let json: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((run.code, json["rerun"]["different"].as_u64()), (1, Some(1)), "{json:#}");
    assert_eq!(task(&json["rerun"], &other)["outcome"], "same", "its digest is known: {json:#}");
    for bad in ["0", "-1", "x"] {
        assert_eq!(world.call().wink(&["cache", "verify", "--rerun", bad]).code, 2);
    }
}

#[test]
fn what_is_not_as_it_was_is_passed_over() {
    let world = World::new("rerun-skipped");
    world.write("in", "1\n");
    world.write("gone/in", "1\n");
    world.write("declared", "1\n");
    let changed = world.run(&sh("cat in > changed"));
    let elsewhere = world.call().dir(world.ws.join("gone")).run(&sh("cat in > ../elsewhere"));
    let variable = world.call().env("SECRET", "a").run(&sh("echo $SECRET > variable"));
    let known = world.call().env("NODE_ENV", "test").run(&sh("echo $NODE_ENV > known"));
    let added = world.run(&sh("echo ${ADDED:-none} > added"));
    let input = world.call().flags(&["--stdin"]).stdin("x").run(&sh("cat > read"));
    let passed =
        world.call().flags(&["--pass-env", "TOKEN"]).env("TOKEN", "t").run(&sh("echo ${TOKEN:-none} > passed"));
    let declared =
        world.call().flags(&["--output", "kept", "--input", "declared"]).run(&sh("echo x > kept; echo $$ > lost"));
    let umask = world.run(&["/bin/sh", "-c", "umask 077; echo x > masked"]);
    for run in [&changed, &elsewhere, &variable, &known, &added, &input, &passed, &declared, &umask] {
        run.miss();
    }
    for path in ["in", "declared"] {
        world.write(path, "2\n");
    }
    world.remove("gone");
    let ask = || world.call().env("TOKEN", "t").env("ADDED", "x");
    let (code, again) = rerun(&world, ask(), "20");
    assert_eq!(code, 0, "{again:#}");
    let reason = |run: &Run| task(&again, run)["reason"].as_str().map(str::to_owned).unwrap_or_default();
    assert_eq!(reason(&changed), "in changed");
    assert!(reason(&elsewhere).contains("its directory"), "{again:#}");
    assert_eq!(reason(&variable), "the environment variable SECRET is gone");
    assert_eq!(reason(&input), "what it read from standard input is not kept");
    assert_eq!(reason(&declared), "the declared input declared changed");
    for run in [&known, &added, &passed, &umask] {
        assert_eq!(task(&again, run)["outcome"], "same", "{again:#}");
    }
    assert_eq!((again["same"].as_u64(), again["skipped"].as_u64()), (Some(4), Some(5)), "{again:#}");
    for path in ["in", "declared"] {
        world.write(path, "1\n");
    }
    // What was not declared is nobody's output, and an input by now.
    world.remove("lost");
    let (_, again) = rerun(&world, ask().env("SECRET", "a"), "20");
    for run in [&changed, &variable, &declared] {
        assert_eq!(task(&again, run)["outcome"], "same", "{again:#}");
    }
    // What was passed over does not count.
    world.write("in", "2\n");
    world.run(&sh("cat in > other")).miss();
    world.write("in", "3\n");
    let (_, again) = rerun(&world, ask(), "1");
    assert_eq!(
        (again["same"].as_u64(), again["skipped"].as_u64().is_some_and(|n| n > 0)),
        (Some(1), true),
        "{again:#}"
    );
}

#[test]
fn a_result_that_only_a_chain_of_runs_gives_is_not_reproducible() {
    let world = World::new("rerun-chain");
    world.write("in", "1\n");
    let line = sh("cat in >> log");
    world.run(&line).miss();
    world.write("in", "2\n");
    let second = world.run(&line);
    second.miss();
    assert_eq!(world.text("log"), "1\n2\n");
    let (code, again) = rerun(&world, world.call(), "5");
    assert_eq!((code, first(task(&again, &second))), (3, ("log", "bytes", Some(0))), "{again:#}");
}

#[test]
fn runs_inside_leave_nothing() {
    let world = World::new("rerun-inside");
    world.write("in", "1\n");
    let wink = env!("CARGO_BIN_EXE_wink");
    let line = format!("{wink} run -- /bin/sh -c 'cat in > inner; echo inner said'; {wink} sh -c 'cat inner > outer'");
    let outer = world.run(&sh(&line));
    outer.miss();
    let (code, again) = rerun(&world, world.call(), "5");
    assert_eq!((code, task(&again, &outer)["outcome"].as_str()), (0, Some("same")), "{again:#}");
    // Nor can it be asked from there.
    let run = world.run(&[wink, "cache", "verify", "--rerun", "1"]);
    assert!(run.err().contains("cannot be run again inside another task"), "{run:?}");
}

#[test]
fn by_the_way_that_it_was_started() {
    let world = World::new("rerun-way");
    let link = world.root.join("link");
    std::os::unix::fs::symlink(&world.ws, &link).unwrap();
    fs::create_dir(world.ws.join("sub")).unwrap();
    let there = |dir: &str| {
        let dir = link.join(dir);
        world.call().dir(&dir).env("PWD", &dir)
    };
    let run = there("sub").run(&sh("pwd > way; echo $PWD"));
    run.miss();
    let (code, again) = rerun(&world, there(""), "5");
    assert_eq!((code, task(&again, &run)["outcome"].as_str()), (0, Some("same")), "{again:#}");
    let (_, again) = rerun(&world, world.call(), "5");
    assert_eq!(task(&again, &run)["reason"], "it was started by another way to its directory (PWD)");
}

#[test]
fn what_make_starts_is_run_again_from_anywhere() {
    let ready = tools::make();
    if let Err(why) = ready {
        return tools::skip(&why);
    }
    let world = World::new("rerun-make");
    let shell = world.root.join("wink-sh");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_wink"), &shell).unwrap();
    world.write("in", "1\n");
    world.write("Makefile", format!("SHELL = {}\nout: in\n\tcat in > out; echo made\n", shell.display()));
    assert_eq!(world.call().native(&["make", "-s"]).out(), "made\n");
    let (code, again) = rerun(&world, world.call(), "5");
    assert_eq!((code, again["same"].as_u64()), (0, Some(1)), "{again:#}");
}

#[test]
fn an_edit_meanwhile_is_not_the_tasks_fault() {
    let world = World::new("rerun-edit");
    world.write("in", "1\n");
    let mark = world.untracked.join("runs");
    let line = format!("touch {mark}; while [ -e {mark} ]; do sleep 0.05; done; cat in > out", mark = mark.display());
    let goes_on = || {
        crate::common::wait_for(&mark);
        fs::remove_file(&mark).unwrap();
    };
    let running = world.call().start(&sh(&line));
    goes_on();
    let run = running.finish();
    run.miss();
    let running = world.call().start_wink(&["cache", "verify", "--json", "--rerun", "1"]);
    crate::common::wait_for(&mark);
    world.write("in", "2\n");
    goes_on();
    let ended = running.finish();
    let again: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let again = &again["rerun"];
    assert_eq!((ended.code, task(again, &run)["reason"].as_str()), (0, Some("in changed while it ran")), "{again:#}");
}

#[test]
fn a_signal_ends_it() {
    let world = World::new("rerun-signal");
    let mark = world.untracked.join("runs");
    let line =
        format!("touch {}; while [ -e {} ]; do sleep 0.05; done; echo y > other", mark.display(), mark.display());
    let running = world.call().start(&sh(&line));
    crate::common::wait_for(&mark);
    fs::remove_file(&mark).unwrap();
    running.finish().miss();
    let again = world.call().start_wink(&["cache", "verify", "--rerun", "2"]);
    crate::common::wait_for(&mark);
    again.signal_group("INT");
    let ended = again.finish();
    assert_eq!(ended.code, 130, "{ended:?}");
    assert!(ended.err().contains("interrupted by signal 2"), "{ended:?}");
    assert_eq!(fs::read_dir(world.store.join("staging")).unwrap().count(), 0);
}

#[test]
fn a_mounted_tree_stays_as_it_is() {
    let world = World::new("rerun-mounted");
    world.write("in", "1\n");
    mounted::mount(&world);
    let command = world.counted("mkdir -p out && cat in > out/a && cp out/a out/b");
    let run = world.run(&strs(&command));
    run.miss();
    let (code, again) = rerun(&world, world.call(), "5");
    assert_eq!((code, task(&again, &run)["outcome"].as_str(), world.count()), (0, Some("same"), 2), "{again:#}");
    world.run(&strs(&command)).hit();
    mounted::unmount(&world);
}

#[test]
fn a_cache_without_tasks_of_this_workspace() {
    let world = World::new("rerun-none");
    assert_eq!(object(&world, &["cache", "verify", "--json", "--rerun", "3"])["rerun"], Value::Null);
    world.run(&["/bin/sh", "-c", "exit 3"]).exits(3);
    let run = world.call().wink(&["cache", "verify", "--rerun", "3"]);
    assert_eq!((run.code, run.out().contains("no recorded task of")), (0, true), "{run:?}");
}

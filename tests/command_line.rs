//! The contract of the command line: exit codes, streams, flags, signals, and what is said about bad usage and bad config.

mod common;

use std::fs;

use common::{World, simple, strs, tools, wait_for};

#[test]
fn exit_codes() {
    let world = World::new("codes");
    let sh = |line: &str| world.run(&["/bin/sh", "-c", line]);
    assert_eq!(sh("exit 0").code, 0);
    assert_eq!(sh("exit 3").code, 3);
    assert_eq!(sh("exit 125").code, 125);
    assert_eq!(sh("exit 255").code, 255);
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("INT", 130)] {
        let run = sh(&format!("kill -{signal} $$"));
        assert_eq!(run.code, code, "{signal}: {run:?}");
        assert_ne!(run.status(), "hit");
    }
    assert_eq!(world.run(&["no-such-command-anywhere"]).code, 127);
    assert_eq!(world.run(&["./no/such/path"]).code, 127);
    world.write("not-executable", "#!/bin/sh\n");
    assert_eq!(world.run(&["./not-executable"]).code, 126);
    assert_eq!(world.run(&["./"]).code, 126);
}

#[test]
fn stdin_is_empty_unless_asked_for() {
    let world = World::new("stdin");
    let plain = |bytes: &str| world.call().stdin(bytes).run(&["/bin/cat"]);
    let first = plain("typed");
    first.miss();
    assert_eq!(first.out(), "", "stdin is empty");
    plain("something else").hit();

    let keyed = |bytes: &[u8]| world.call().stdin(bytes).flags(&["--stdin"]).run(&["/bin/cat"]);
    for bytes in [&b"one"[..], b"two", b"", &vec![b'x'; 300_000]] {
        let run = keyed(bytes);
        run.exits(0);
        assert_eq!(run.stdout, bytes);
        let again = keyed(bytes);
        again.hit();
        assert_eq!(again.stdout, bytes);
    }
    assert_eq!(keyed(b"one").hit().stdout, b"one");
}

#[test]
fn streams_are_replayed_to_where_they_went_in_order() {
    let world = World::new("streams");
    let script = r#"for i in 1 2 3; do echo "out $i"; sleep 0.05; echo "err $i" >&2; sleep 0.05; done
                    printf 'no newline \000\377\033[1m'; sleep 0.05; printf 'partial' >&2"#;
    world.write("talk.sh", script);
    let command = ["/bin/sh", "talk.sh"];
    let native = world.call().native(&command);
    let quiet = || world.call().flags(&["--quiet"]).run(&command);
    for status in ["miss", "hit"] {
        let run = quiet();
        run.is(status);
        assert_eq!(run.stdout, native.stdout, "{status}: stdout");
        assert_eq!(run.stderr, native.stderr, "{status}: stderr");
    }
    // Both into one pipe: the order itself.
    let both = ["/bin/sh", "-c", "exec \"$@\" 2>&1", "sh"];
    let native = world.call().under(&both).native(&command);
    world.write("talk.sh", format!("{script}\n"));
    for status in ["miss", "hit"] {
        let run = world.call().under(&both).flags(&["--quiet"]).run(&command);
        run.is(status);
        assert_eq!(run.out(), native.out(), "{status}: order");
    }
}

#[test]
fn five_megabytes_of_output() {
    let world = World::new("flood");
    let line = "i=0; while [ $i -lt 50 ]; do head -c 100000 /dev/zero | tr '\\0' \"$((i % 10))\"; i=$((i + 1)); done; \
                head -c 1000000 /dev/zero >&2";
    let native = world.call().native(&["/bin/sh", "-c", line]);
    assert_eq!((native.stdout.len(), native.stderr.len()), (5_000_000, 1_000_000));
    for status in ["miss", "hit"] {
        let run = world.call().flags(&["--quiet"]).run(&["/bin/sh", "-c", line]);
        run.is(status).exits(0);
        assert!(run.stdout == native.stdout, "{status}: stdout differs");
        assert!(run.stderr == native.stderr, "{status}: stderr differs");
    }
}

#[test]
fn unknown_usage_is_125_and_says_what() {
    let world = World::new("usage");
    let none = world.call().wink(&["run"]);
    assert_eq!(none.code, 125, "{none:?}");
    assert!(none.err().to_lowercase().contains("command"), "{none:?}");
    assert_eq!(world.call().wink(&["run", "--"]).code, 125);
    let marker = world.root.join("marker");
    let touch = ["run", "--forse", "--", "/bin/touch", marker.to_str().unwrap()];
    let unknown = world.call().wink(&touch);
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(unknown.err().contains("--forse") && unknown.err().contains("--force"), "{unknown:?}");
    assert!(!marker.exists(), "an unknown flag runs nothing");
    let nowhere = world.call().flags(&["--cwd", "/no/such/dir"]).run(&["/bin/true"]);
    assert_eq!(nowhere.code, 125, "{nowhere:?}");
    assert!(nowhere.err().contains("/no/such/dir"), "{nowhere:?}");
    // Flags after `--` belong to the command.
    let echo = world.run(&["/bin/echo", "--force", "--quiet"]);
    assert_eq!(echo.out(), "--force --quiet\n");
}

#[test]
fn a_typo_in_the_config_names_the_key_and_the_nearest() {
    for (file, text, wrong, right) in [
        ("wink.toml", "canonical_rot = \"/w\"\n", "canonical_rot", "canonical_root"),
        ("wink.toml", "[env]\nmod = \"strict\"\n", "mod", "mode"),
        ("wink.json", "{ \"cacheFailure\": true }", "cacheFailure", "cacheFailures"),
    ] {
        let world = World::new("typo");
        world.remove("wink.toml");
        world.write(file, text);
        let command = world.counted("echo printed");
        let run = world.run(&strs(&command));
        assert_eq!(run.code, 125, "{run:?}");
        let named = |word: &str| run.err().split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word);
        assert!(named(wrong), "names the key: {run:?}");
        assert!(named(right) || run.err().contains("cache_failures"), "names the nearest: {run:?}");
        assert!(run.err().contains(file), "names the file: {run:?}");
        assert_eq!(world.count(), 0);
    }
    let world = World::new("broken-config");
    world.write("wink.toml", "own = [unclosed\n");
    assert_eq!(world.run(&["/bin/true"]).code, 125);
    world.write("wink.toml", "own = \"cary\"\n");
    let run = world.run(&["/bin/true"]);
    assert_eq!(run.code, 125, "{run:?}");
    assert!(run.err().contains("cary") && run.err().contains("carry"), "{run:?}");
}

#[test]
fn flags_of_run() {
    let (world, command) = simple("flags");
    let with = |flags: &[&str]| world.call().flags(flags).run(&strs(&command));
    let dry = with(&["--dry-run"]);
    dry.exits(0);
    assert_eq!(dry.status(), "miss");
    assert_eq!(world.count(), 0, "--dry-run executes nothing");
    assert!(!world.has("out"));

    let off = with(&["--no-cache"]);
    off.uncached().exits(0);
    with(&["--no-cache"]).uncached();
    assert_eq!(world.count(), 2, "--no-cache always runs");
    world.remove("out");

    with(&[]).miss();
    assert_eq!(world.count(), 3, "and recorded nothing");
    world.remove("out");
    let dry = with(&["--dry-run"]);
    assert_eq!(dry.status(), "hit");
    assert!(!world.has("out"), "--dry-run restores nothing");
    let force = with(&["--force"]);
    force.miss();
    assert_eq!(world.count(), 4, "--force runs again");
    with(&[]).hit();

    let loud = with(&[]);
    assert_eq!(loud.lines().len(), 1, "one line: {loud:?}");
    assert!(loud.lines()[0].starts_with("wink: hit "), "{loud:?}");
    let quiet = with(&["--quiet"]);
    quiet.hit();
    assert_eq!(quiet.err(), "");
    assert_eq!(quiet.out(), "printed\n", "the command's own output is replayed all the same");

    world.write("sub/file.txt", "in sub\n");
    let there = world.call().flags(&["--cwd", "sub"]).run(&["/bin/cat", "file.txt"]);
    there.miss();
    assert_eq!(there.out(), "in sub\n");
    world.call().dir("sub").run(&["/bin/cat", "file.txt"]).hit();
}

#[test]
fn interrupt_reaches_the_command_and_nothing_is_recorded() {
    let python = need!(tools::python());
    for whole_group in [true, false] {
        let world = World::new("interrupt");
        let ready = world.untracked.join("ready");
        let got = world.untracked.join("got");
        let script = "import signal, sys, time\n\
            def stop(*_):\n    open(sys.argv[2], 'a').write('got\\n'); sys.exit(7)\n\
            signal.signal(signal.SIGINT, stop); signal.signal(signal.SIGTERM, stop)\n\
            open('partial', 'w').write('x')\nopen(sys.argv[1], 'w').close()\ntime.sleep(60)\n";
        world.write("wait.py", script);
        let command = [&python, "wait.py", ready.to_str().unwrap(), got.to_str().unwrap()];
        let running = world.call().start(&command);
        wait_for(&ready);
        match whole_group {
            true => running.signal_group("INT"),
            false => running.signal("TERM"),
        }
        let run = running.finish();
        assert_eq!(fs::read_to_string(&got).unwrap(), "got\n", "the command got the signal, once: {run:?}");
        assert_eq!(run.code, 7, "its own exit code: {run:?}");
        assert_ne!(run.status(), "hit");
        let dry = world.call().flags(&["--dry-run"]).run(&command);
        assert_eq!(dry.status(), "miss", "nothing was recorded: {dry:?}");
    }
}

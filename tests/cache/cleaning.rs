//! `wink cache clean`.

use serde_json::json;

use crate::common::mounted::{mount, unmount};
use crate::common::{simple, strs, tools};
use crate::{need, object, wink};

#[test]
fn it_wants_to_be_told_that_it_is_meant() {
    let (world, command) = simple("clean");
    world.run(&strs(&command)).miss();
    let refused = world.call().wink(&["cache", "clean"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err().contains("; add --yes if that is meant"), "{refused:?}");
    world.run(&strs(&command)).hit();
    let line = wink(&world, &["cache", "clean", "--yes"]);
    assert!(line.starts_with("removed 1 entry, ") && !line.contains("left"), "{line}");
    assert_eq!(world.blobs_are_sound(), 0);
    let stats = object(&world, &["cache", "stats", "--json"]);
    assert_eq!((&stats["total_entries"], &stats["total_size"], &stats["hit_count"]), (&json!(0), &json!(0), &json!(1)));
    assert_eq!(world.text("out"), "text\n");
    world.run(&strs(&command)).miss();
    world.run(&strs(&command)).hit();
    assert_eq!(object(&world, &["cache", "clean", "--yes", "--json"])["freed_entries"], 1);
}

#[test]
fn it_asks_on_a_terminal() {
    let python = need!(tools::python());
    let (world, command) = simple("clean-asks");
    world.run(&strs(&command)).miss();
    let ask = |answer: &str| {
        let script = format!(
            "import os, pty, sys\n\
             pid, fd = pty.fork()\n\
             if pid == 0: os.execv({wink:?}, [{wink:?}, 'cache', 'clean'])\n\
             seen = b''\n\
             while b'[y/N]' not in seen: seen += os.read(fd, 1000)\n\
             os.write(fd, {answer:?}.encode() + b'\\n')\n\
             try:\n\
             \x20 while True:\n\
             \x20   more = os.read(fd, 1000)\n\
             \x20   if not more: break\n\
             \x20   seen += more\n\
             except OSError: pass\n\
             sys.stdout.buffer.write(seen)\n\
             sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n",
            wink = env!("CARGO_BIN_EXE_wink"),
        );
        world.call().native(&[&python, "-c", &script])
    };
    let no = ask("no");
    assert_eq!(no.code, 1, "{no:?}");
    assert!(no.out().contains("Remove the one entry (") && no.out().contains("nothing was removed"), "{no:?}");
    world.run(&strs(&command)).hit();
    let yes = ask("y");
    assert_eq!(yes.code, 0, "{yes:?}");
    assert_eq!(world.blobs_are_sound(), 0);
}

#[test]
fn what_a_tree_shows_stays_unless_it_is_made_real() {
    let (world, command) = simple("clean-mounted");
    mount(&world);
    world.run(&strs(&command)).miss();
    assert_eq!(world.text("out"), "text\n");
    for is_mounted in [true, false] {
        if !is_mounted {
            unmount(&world);
        }
        let refused = world.call().dir("/").wink(&["cache", "clean", "--yes"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(
            refused.err().contains("1 file in ") && refused.err().contains(" is a view of the cache; "),
            "{refused:?}"
        );
    }
    mount(&world);
    // Pruning leaves it alone, without a question.
    let pruned = object(&world, &["cache", "prune", "0", "--json"]);
    assert!(pruned["shown_bytes"].as_u64().unwrap() >= 5 && pruned["total_entries"] == 0, "{pruned:#}");
    assert_eq!(world.text("out"), "text\n");
    let cleaned = object(&world, &["cache", "clean", "--yes", "--materialize", "--json"]);
    assert_eq!((&cleaned["materialized"], &cleaned["total_size"]), (&json!(1), &json!(0)), "{cleaned:#}");
    assert_eq!((world.text("out").as_str(), world.blobs_are_sound()), ("text\n", 0));
    unmount(&world);
    assert_eq!(world.text("out"), "text\n");
}

/// What a layer showed once and does not any more holds nothing back.
#[test]
fn what_a_tree_does_not_show_any_more_goes() {
    let (world, command) = simple("clean-layers");
    mount(&world);
    for version in ["one\n", "two\n", "three\n"] {
        world.write("source.txt", version);
        world.run(&strs(&command)).miss();
    }
    assert!(world.blobs_are_sound() > 2);
    wink(&world, &["cache", "prune", "0"]);
    assert_eq!((world.blobs_are_sound(), world.text("out").as_str()), (1, "three\n"), "one file needs no pack");
    unmount(&world);
    mount(&world);
    assert_eq!(world.text("out"), "three\n");
    unmount(&world);
}

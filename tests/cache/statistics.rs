//! `wink cache stats` and `wink cache ls`.

use serde_json::{Value, json};

use crate::common::{World, simple, strs};
use crate::{object, wink};

#[test]
fn a_cache_that_is_not_there_has_nothing_and_is_not_made() {
    let world = World::new("no-cache");
    let stats = object(&world, &["cache", "stats", "--json"]);
    for key in
        ["total_entries", "total_size", "hit_count", "miss_count", "avg_restore_ms", "avg_store_ms", "time_saved_ms"]
    {
        assert_eq!(stats[key], 0, "{key}");
    }
    assert_eq!(stats["last_pruned"], Value::Null);
    assert_eq!(object(&world, &["cache", "ls", "--json"]), json!({ "entries": [] }));
    assert_eq!(wink(&world, &["cache", "ls"]), "the cache has no entries\n");
    assert!(!world.store.exists());
}

#[test]
fn runs_are_counted_with_their_reasons() {
    // Not below /tmp: there a write outside the workspace is not watched.
    let world = World::tracked("counting");
    world.write("source.txt", "text\n");
    let command = world.counted("cat source.txt > out && echo printed");
    let slow = world.counted("cat source.txt > slow; sleep 0.3");
    world.run(&strs(&command)).miss();
    world.run(&strs(&command)).hit();
    world.write("source.txt", "other\n");
    world.run(&strs(&command)).miss();
    world.call().flags(&["--force"]).run(&strs(&command)).miss();
    world.run(&["/bin/sh", "-c", "exit 3"]).uncached();
    world.call().flags(&["--no-cache"]).run(&strs(&command)).uncached();
    let outside = format!("echo x > {}", world.home.join("x").display());
    world.run(&["/bin/sh", "-c", &outside]).uncached();
    world.run(&strs(&slow)).miss();
    world.call().env("OPTIMISE", "1").run(&strs(&command)).miss();
    std::fs::remove_file(world.ws.join("slow")).unwrap();
    world.run(&strs(&slow)).hit();

    let stats = object(&world, &["cache", "stats", "--json"]);
    assert_eq!((&stats["hit_count"], &stats["miss_count"]), (&json!(2), &json!(5)), "{stats:#}");
    let missed = &stats["by_reason"]["miss"];
    assert_eq!(*missed, json!({ "first_run": 2, "key_changed": 1, "input_changed": 1, "not_asked": 1 }), "{stats:#}");
    let uncached = &stats["by_reason"]["uncached"];
    assert_eq!(*uncached, json!({ "failed": 1, "outside_write": 1 }), "without the one that asked for no cache");
    assert_eq!(stats["total_entries"], 4);
    assert!(stats["total_size"].as_u64().unwrap() >= 10);
    assert!(stats["time_saved_ms"].as_u64().unwrap() >= 100, "{stats:#}");
    for key in ["avg_restore_ms", "avg_store_ms", "avg_lookup_ms", "disk_size"] {
        assert!(stats[key].is_u64(), "{key}: {stats:#}");
    }
    assert_eq!(stats["workspaces"][0]["workspace"], world.ws.to_str().unwrap());
    assert_eq!(stats["workspaces"][0]["hit_count"], 2);

    let table = wink(&world, &["cache", "stats"]);
    for line in ["entries      4\n", "hits         2 (", "misses       5: 2 first run, ", "last pruned  never\n"] {
        assert!(table.contains(line), "{line:?} is not in\n{table}");
    }
    let metrics = wink(&world, &["cache", "stats", "--format", "prometheus"]);
    let labels = format!("{{workspace=\"{}\"", world.ws.display());
    for line in [
        "wink_cache_entries 4\n".to_owned(),
        format!("wink_hits_total{labels}}} 2\n"),
        format!("wink_misses_total{labels},reason=\"input_changed\"}} 1\n"),
        "# TYPE wink_saved_seconds_total counter\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line:?} is not in\n{metrics}");
    }
}

#[test]
fn workspaces_are_counted_apart() {
    let (world, command) = simple("apart");
    let other = world.root.join("other");
    crate::common::copy_tree(&world.ws, &other);
    world.run(&strs(&command)).miss();
    world.call().dir(&other).run(&strs(&command)).hit();
    let all = object(&world, &["cache", "stats", "--json"]);
    assert_eq!((&all["hit_count"], &all["miss_count"]), (&json!(1), &json!(1)));
    let here = object(&world, &["cache", "stats", "--json", "--workspace"]);
    assert_eq!((&here["hit_count"], &here["miss_count"]), (&json!(0), &json!(1)));
    assert_eq!(here["total_entries"], 1);

    let reset = object(&world, &["cache", "stats", "--json", "--workspace", "--reset"]);
    assert_eq!(reset["miss_count"], 1, "what there was is said once more");
    let all = object(&world, &["cache", "stats", "--json"]);
    assert_eq!((&all["hit_count"], &all["miss_count"], &all["total_entries"]), (&json!(1), &json!(0), &json!(1)));
    object(&world, &["cache", "stats", "--json", "--reset"]);
    assert_eq!(object(&world, &["cache", "stats", "--json"])["hit_count"], 0);
}

#[test]
fn entries_are_listed_with_what_people_ask_for() {
    let (world, command) = simple("listing");
    let run = world.run(&strs(&command));
    run.miss();
    world.run(&strs(&command)).hit();
    world.run(&["/bin/sh", "-c", "echo more > more; exit 1"]).uncached();
    let listed = object(&world, &["cache", "ls", "--json"]);
    let [entry] = listed["entries"].as_array().unwrap().as_slice() else { panic!("{listed:#}") };
    assert_eq!(entry["record"], run.json["record"]);
    assert_eq!(entry["command"], json!(command));
    assert_eq!(entry["workspaces"], json!([world.ws.to_str().unwrap()]));
    assert_eq!((&entry["hits"], &entry["size"], &entry["exit_code"]), (&json!(1), &json!(5), &json!(0)));
    assert!(entry["used"].as_u64() >= entry["created"].as_u64());
    let table = wink(&world, &["cache", "ls"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("RECORD ") && lines[1].starts_with(&run.json["record"].as_str().unwrap()[..8]));
    assert!(lines[1].contains("5 bytes") && lines[1].contains("cat source.txt"), "{table}");
    let all = object(&world, &["cache", "ls", "--all", "--json"]);
    assert_eq!(all["entries"].as_array().unwrap().len(), 2, "{all:#}");
}

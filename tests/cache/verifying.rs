//! `wink cache verify`: damage is found, said with an exit code, and becomes a miss.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{object, wink};
use crate::common::{World, mounted, snapshot, strs};

fn blobs(world: &World) -> Vec<PathBuf> {
    let dir = world.store.join("blobs");
    snapshot(&dir).into_iter().filter(|(_, entry)| entry.kind == "file").map(|(path, _)| dir.join(path)).collect()
}

fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Its exit code and its object.
fn verify(world: &World, flags: &[&str]) -> (i32, Value) {
    let run = world.call().wink(&[&["cache", "verify", "--json"], flags].concat());
    (run.code, serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}")))
}

#[test]
fn a_damaged_blob_is_found_put_away_and_made_again() {
    let world = World::new("verify-blob");
    world.write("in", "1\n");
    let command = world.counted("cat in > out; cat in in > twice");
    world.run(&strs(&command)).miss();
    let sound = object(&world, &["cache", "verify", "--json"]);
    assert_eq!(
        (sound["blobs"].as_u64(), sound["records"].as_u64(), sound["unrepaired"].as_u64()),
        (Some(2), Some(1), Some(0))
    );
    assert!(wink(&world, &["cache", "verify"]).contains("nothing is damaged"));

    spoil(&blobs(&world)[0]);
    let (code, found) = verify(&world, &[]);
    let kinds: Vec<&str> =
        found["damage"].as_array().unwrap().iter().map(|flaw| flaw["kind"].as_str().unwrap()).collect();
    assert_eq!((code, kinds), (1, vec!["record", "blob"]), "{found:#}");
    assert_eq!(verify(&world, &[]).0, 1, "looking alone mends nothing");
    let (code, mended) = verify(&world, &["--repair"]);
    assert_eq!((code, mended["unrepaired"].as_u64()), (0, Some(0)), "{mended:#}");
    assert_eq!(verify(&world, &[]).1["damage"], serde_json::json!([]));

    for path in ["out", "twice"] {
        world.remove(path);
    }
    world.run(&strs(&command)).exits(0);
    assert_eq!((world.text("out").as_str(), world.text("twice").as_str(), world.count()), ("1\n", "1\n1\n", 2));
    world.run(&strs(&command)).hit();
    world.blobs_are_sound();
}

#[test]
fn a_lost_blob_and_a_damaged_index_are_found() {
    let world = World::new("verify-index");
    world.write("in", "1\n");
    let command = world.counted("cat in > out");
    world.run(&strs(&command)).miss();
    fs::remove_file(&blobs(&world)[0]).unwrap();
    let (code, found) = verify(&world, &[]);
    assert_eq!((code, found["damage"][0]["kind"].as_str()), (1, Some("record")), "{found:#}");
    assert_eq!(verify(&world, &["--repair"]).0, 0);
    world.remove("out");
    world.run(&strs(&command)).exits(0);
    world.run(&strs(&command)).hit();

    let index = world.store.join("index.sqlite");
    let mut bytes = fs::read(&index).unwrap();
    let page = 4096;
    for at in (page..bytes.len()).step_by(page) {
        bytes[at..at + 64].fill(0xa5);
    }
    fs::write(&index, bytes).unwrap();
    let _ = fs::remove_file(world.store.join("index.sqlite-wal"));
    let run = world.call().wink(&["cache", "verify", "--repair"]);
    assert!(run.code <= 1 && run.lines().len() <= 1, "{run:?}");
    let run = world.call().wink(&["cache", "verify"]);
    assert_eq!(run.code, 0, "{run:?}");
    world.remove("out");
    world.run(&strs(&command)).exits(0);
    assert_eq!(world.text("out"), "1\n");
}

#[test]
fn what_a_mounted_tree_shows_is_looked_for() {
    let world = World::new("verify-layer");
    world.write("in", "1\n");
    mounted::mount(&world);
    let command = world.counted("mkdir -p out && cat in > out/a");
    world.run(&strs(&command)).miss();
    assert_eq!(verify(&world, &[]).0, 0);
    let shown = blobs(&world).into_iter().find(|path| fs::read(path).unwrap() == b"1\n").unwrap();
    fs::remove_file(&shown).unwrap();
    let (code, found) = verify(&world, &[]);
    assert_eq!((code, layer(&found)["name"].as_str()), (1, world.ws.to_str()), "{found:#}");
    assert_eq!(layer(&found)["files"], serde_json::json!(["out/a"]), "{found:#}");
    assert!(layer(&found)["detail"].as_str().unwrap().starts_with("the bytes of out/a are lost; its command makes"));
    assert_eq!(fs::read_dir(world.ws.join("out")).unwrap().count(), 1, "looking alone changes nothing");
    // A pack that the daemon still knows is stored again.
    let pack = blobs(&world).into_iter().find(|path| fs::read(path).unwrap().starts_with(b"wP1")).unwrap();
    spoil(&pack);
    let (_, found) = verify(&world, &["--repair"]);
    assert!(found["damage"].as_array().unwrap().iter().any(|flaw| flaw["kind"] == "blob"), "{found:#}");
    assert!(fs::read(&pack).unwrap().starts_with(b"wP1"), "{found:#}");
    // It is no file that cannot be read any more, but none; and as the line says its command makes it again.
    assert!(!world.has("out/a") && world.has("out"));
    world.run(&strs(&command)).exits(0);
    assert_eq!(world.text("out/a"), "1\n");
    assert_eq!(verify(&world, &[]).0, 0);
    mounted::unmount(&world);
}

fn layer(found: &Value) -> &Value {
    found["damage"].as_array().unwrap().iter().find(|flaw| flaw["kind"] == "layer").unwrap()
}

#[test]
fn a_lost_view_goes_only_where_its_command_makes_it_again() {
    for mounted in [true, false] {
        let world = World::new("verify-lost");
        mounted::mount(&world);
        let command =
            world.counted("mkdir -p out && echo kept > out/kept && echo moved > out/moved && echo real > out/real");
        world.run(&strs(&command)).miss();
        fs::rename(world.ws.join("out/moved"), world.ws.join("elsewhere")).unwrap();
        // Real files are nobody's view, whatever the cache has lost.
        let made_real = world.call().wink(&["materialize", "out/real"]);
        assert_eq!(made_real.code, 0, "{made_real:?}");
        if !mounted {
            mounted::unmount(&world);
        }
        for blob in blobs(&world).into_iter().filter(|path| !fs::read(path).unwrap().starts_with(b"wP1")) {
            fs::remove_file(blob).unwrap();
        }
        let (code, found) = verify(&world, &["--repair"]);
        assert_eq!((code, layer(&found)["repaired"].as_bool()), (1, Some(false)), "{found:#}");
        assert_eq!(layer(&found)["files"], serde_json::json!(["elsewhere", "out/kept"]), "{found:#}");
        assert!(
            layer(&found)["detail"].as_str().unwrap().starts_with("the bytes of elsewhere are lost, and no command"),
            "{found:#}"
        );
        if !mounted {
            mounted::mount(&world);
        }
        assert!(world.has("elsewhere") && !world.has("out/kept"), "mounted: {mounted}");
        assert_eq!(world.text("out/real"), "real\n");
        // The same bytes bring it back, also where no command is known.
        world.run(&strs(&command)).exits(0);
        assert_eq!((world.text("elsewhere"), world.text("out/kept")), ("moved\n".into(), "kept\n".into()));
        assert_eq!(verify(&world, &[]).0, 0);
        mounted::unmount(&world);
    }
}

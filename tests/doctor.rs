//! `wink doctor`: it says that runs can be cached exactly where they can, and of each lack what it costs and how to mend it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use common::mounted::mount;
use common::{Call, World, simple, strs, tools};

/// What `wink doctor --json` says, and its exit code.
fn doctor(call: Call<'_>) -> (Value, i32) {
    let run = call.wink(&["doctor", "--json"]);
    let said = serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    (said, run.code)
}

/// The checks by name.
fn checks(said: &Value) -> BTreeMap<&str, &Value> {
    said["checks"].as_array().unwrap().iter().map(|check| (check["name"].as_str().unwrap(), check)).collect()
}

/// The verdict is what a run then shows, and every lack says what it costs.
#[track_caller]
fn agrees<'w>(world: &'w World, shape: impl Fn(Call<'w>) -> Call<'w>, command: &[String]) -> Value {
    let store_was_there = world.store.exists();
    let (said, code) = doctor(shape(world.call()));
    assert_eq!(world.store.exists(), store_was_there, "looking made a cache");
    assert_eq!(said["ok"] == true, code == 0, "{said:#}");
    assert!(code == 0 || code == 1, "{said:#}");
    for check in said["checks"].as_array().unwrap() {
        assert_eq!(check["outcome"] == "ok", check["costs"].is_null(), "{check}");
    }
    let run = shape(world.call()).run(&strs(command));
    assert_eq!(code == 0, matches!(run.status(), "miss" | "hit"), "{said:#} {run:?}");
    said
}

#[test]
fn where_all_is_well() {
    let (world, command) = simple("doctor");
    let said = agrees(&world, |call| call, &command);
    let found = checks(&said);
    let names = [
        "cache",
        "configuration",
        "daemon",
        "fuse",
        "fusermount3",
        "io_uring",
        "kernel",
        "namespaces",
        "open files",
        "passthrough",
        "pivot_root",
        "reflink",
        "room",
        "view",
        "workspace",
    ];
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), names);
    assert_eq!(said["workspace"], world.ws.to_str().unwrap());
    assert_eq!(said["cache_dir"], world.store.to_str().unwrap());
    assert!(found["cache"]["found"].as_str().unwrap().ends_with("does not exist yet; the first run makes it"));
    let said = agrees(&world, |call| call, &command);
    let found = checks(&said);
    assert!(found["cache"]["found"].as_str().unwrap().ends_with("can be used"));
    assert_eq!(found["index"]["found"], "no damage found");
    mount(&world);
    let said = agrees(&world, |call| call, &command);
    let found = checks(&said);
    assert!(found["daemon"]["found"].as_str().unwrap().ends_with(&format!("{} is mounted", world.ws.display())));
    assert_eq!(found["reflink"]["outcome"], "ok", "views need none: {said:#}");

    let run = world.call().wink(&["doctor"]);
    assert_eq!(run.code, 0, "{run:?}");
    let text = run.out();
    assert!(text.starts_with("ok    kernel         Linux "), "{text}");
    assert!(
        text.contains(&format!("ok    workspace      {}: it holds wink.toml or wink.json\n", world.ws.display())),
        "{text}"
    );
    assert!(text.ends_with("\nruns can be cached here\n") && !text.contains('\x1b'), "{text}");
}

#[test]
fn what_the_machine_lacks() {
    need!(tools::root().and(tools::unshare(&["-m"])).and(tools::unshare(&["-U", "-r"])));
    let (world, command) = simple("doctor-machine");
    let under = |line: &'static str| ["unshare", "-m", "/bin/sh", "-ec", line, "sh"];
    let useless = under("mount --bind /dev/null /dev/fuse; exec \"$@\"");
    let said = agrees(&world, |call| call.under(&useless), &command);
    let found = checks(&said);
    assert_eq!((&found["fuse"]["outcome"], &found["view"]["outcome"]), (&"fail".into(), &"fail".into()), "{said:#}");
    assert!(found["fuse"]["found"].as_str().unwrap().starts_with("opening /dev/fuse failed"), "{said:#}");

    let gone = under(
        "d=$(mktemp -d); mount -t tmpfs none $d; mkdir $d/pts $d/shm
         for n in null zero full random urandom tty; do : > $d/$n; mount --bind /dev/$n $d/$n; done
         mount --move $d /dev; rmdir $d; [ ! -e /dev/fuse ]; exec \"$@\"",
    );
    let said = agrees(&world, |call| call.under(&gone), &command);
    let fuse = checks(&said)["fuse"];
    assert_eq!(fuse["outcome"], "fail", "{said:#}");
    assert!(fuse["mend"].as_str().unwrap().contains("modprobe fuse"), "{said:#}");

    let forbidden = [
        "unshare",
        "-U",
        "-r",
        "/bin/sh",
        "-ec",
        "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_mnt_namespaces; exec \"$@\"",
        "sh",
    ];
    let said = agrees(&world, |call| call.under(&forbidden), &command);
    assert_eq!(checks(&said)["namespaces"]["outcome"], "fail", "{said:#}");

    let few = ["/bin/sh", "-c", "ulimit -n 100; exec \"$@\"", "sh"];
    let said = agrees(&world, |call| call.under(&few), &command);
    assert_eq!(checks(&said)["open files"]["outcome"], "fail", "{said:#}");

    let read_only = format!("mount --bind {0} {0}; mount -o remount,ro,bind {0}; exec \"$@\"", world.ws.display());
    let read_only = ["unshare", "-m", "/bin/sh", "-ec", &read_only, "sh"];
    let (said, code) = doctor(world.call().under(&read_only));
    assert_eq!((code, &checks(&said)["workspace"]["outcome"]), (1, &"fail".into()), "{said:#}");
}

#[test]
fn what_is_wrong_with_the_cache() {
    let (world, command) = simple("doctor-cache");
    fs::write(&world.store, "a file").unwrap();
    let said = agrees(&world, |call| call, &command);
    assert!(checks(&said)["cache"]["found"].as_str().unwrap().contains("is not a directory"), "{said:#}");
    fs::remove_file(&world.store).unwrap();
    world.run(&strs(&command)).miss();
    fs::set_permissions(&world.store, fs::Permissions::from_mode(0o777)).unwrap();
    let said = agrees(&world, |call| call, &command);
    let cache = checks(&said)["cache"];
    assert!(cache["found"].as_str().unwrap().contains("can be written by other users"), "{said:#}");
    assert!(!cache["mend"].as_str().unwrap().is_empty());
    fs::set_permissions(&world.store, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(world.store.join("format"), "wink store 99\n").unwrap();
    let said = agrees(&world, |call| call, &command);
    assert!(checks(&said)["cache"]["mend"].as_str().unwrap().contains("update"), "{said:#}");
    let (said, code) = doctor(world.call().env("WINK_CACHE_DIR", "").env("HOME", ""));
    assert_eq!((code, &checks(&said)["cache"]["outcome"]), (1, &"fail".into()), "{said:#}");
}

#[test]
fn what_is_wrong_with_the_configuration() {
    let (world, command) = simple("doctor-config");
    let said = agrees(&world, |call| call.env("WINK_SCOPES", "system"), &command);
    let found = checks(&said);
    assert_eq!(found["configuration"]["outcome"], "lack");
    assert_eq!(found["configuration"]["found"], "WINK_SCOPES is not used; did you mean WINK_SCOPE?");
    world.write("wink.toml", "transport = \"uring\"\n");
    agrees(&world, |call| call, &command);
    world.write("wink.toml", "own = \"hid\"\n");
    let (said, code) = doctor(world.call());
    assert_eq!(code, 1);
    let found = checks(&said)["configuration"]["found"].as_str().unwrap().to_owned();
    assert!(found.contains("wink.toml:1: \"own\" cannot be \"hid\""), "{found}");
    assert_eq!(world.run(&strs(&command)).code, 125);
    assert_eq!(doctor(world.call().dir("/")).1, 1, "the whole file system is no workspace");
}

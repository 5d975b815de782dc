//! Mounting the workspace of a `World`, and its daemon.

use std::process::Command;

use super::World;

/// `wink mount`.
pub fn mount(world: &World) {
    let run = world.call().dir("/").wink(&["mount", world.ws.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{run:?}");
}

/// `wink unmount`; returns what it says.
pub fn unmount(world: &World) -> String {
    unmount_with(world, &[])
}

/// The same with flags.
pub fn unmount_with(world: &World, flags: &[&str]) -> String {
    let run = world.call().dir("/").wink(&[&["unmount", world.ws.to_str().unwrap()], flags].concat());
    assert_eq!(run.code, 0, "{run:?}");
    run.out()
}

/// Kills the daemon of the world's cache, as nothing should.
pub fn kill_daemon(world: &World) {
    let status = world.call().dir("/").wink(&["daemon", "status", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let pid = said["pid"].as_u64().unwrap_or_else(|| panic!("no daemon to kill: {status:?}")).to_string();
    assert!(Command::new("/bin/kill").args(["-KILL", &pid]).status().unwrap().success());
}

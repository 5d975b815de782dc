//! Mounting the workspace of a `World`.

use super::World;

/// `wink mount`.
pub fn mount(world: &World) {
    let run = world.call().dir("/").wink(&["mount", world.ws.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{run:?}");
}

/// `wink unmount`; returns what it says.
pub fn unmount(world: &World) -> String {
    let run = world.call().dir("/").wink(&["unmount", world.ws.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{run:?}");
    run.out()
}

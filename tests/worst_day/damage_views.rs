//! Views whose blobs are damaged while they are shown: whoever reads them makes no record that could give wrong bytes later.

use std::fs;

use super::build::calm;
use super::damage::{Damage, Kind, LINE, edit, spoil, stored};
use crate::common::World;
use crate::common::mounted::{mount, unmount};

const READ: [&str; 3] =
    ["/bin/sh", "-c", "mkdir -p read && cat out/a > read/a && cat out/deep/er/ab > read/ab && echo read"];

fn case(damage: Damage, is_seen: bool) {
    let when = format!("{damage:?}, seen before: {is_seen}");
    let world = World::new("damage-views");
    edit(&world, 1);
    mount(&world);
    world.run(&["/bin/sh", "-c", LINE]).miss();
    let good = (world.read("src/a"), [world.read("src/a"), world.read("src/b")].concat());
    if is_seen {
        // By now the kernel knows the bytes, and wink the digests.
        assert_eq!((world.read("out/a"), world.read("out/deep/er/ab")), good);
        world.run(&["/bin/sh", "-c", "cat out/a out/deep/er/ab | wc -c"]).miss();
    }
    spoil(&stored(&world, Kind::Blob), damage);
    // It may fail, and it may show what is there: what it makes of that must never be taken for more.
    let read = world.run(&READ);
    calm(&read, 2);
    let is_good = |world: &World| {
        fs::read(world.ws.join("read/a")).ok().as_ref() == Some(&good.0)
            && fs::read(world.ws.join("read/ab")).ok().as_ref() == Some(&good.1)
    };
    assert!(read.code != 0 || read.status() != "hit" || is_good(&world), "{when}: {read:?}");
    // The build brings back what it made; then what reads it gives what it gives natively.
    world.run(&["/bin/sh", "-c", LINE]).exits(0);
    assert_eq!((world.read("out/a"), world.read("out/deep/er/ab")), good, "{when}: brought back");
    for turn in 0..2 {
        let again = world.run(&READ);
        assert_eq!((again.code, again.out().as_str()), (0, "read\n"), "{when}, turn {turn}: {again:?}");
        assert!(is_good(&world), "{when}, turn {turn}: {again:?}");
        world.remove("read");
    }
    unmount(&world);
}

#[test]
fn a_damaged_view_makes_no_wrong_record() {
    for damage in [Damage::Flip, Damage::Empty, Damage::Half, Damage::Delete, Damage::Directory, Damage::Swap] {
        for is_seen in [false, true] {
            case(damage, is_seen);
        }
    }
}

//! What stands behind the nodes of a view, told to a task that runs inside.

use std::collections::BTreeSet;

use wink_fs::attr::{Attr, Kind, SetAttr, Time};
use wink_fs::backing::{Access, Backing, BackingFile, RenameMode};
use wink_fs::status::Status;
use wink_fs::vfs::{NodeId, OpenHow, TOP, Vfs};
use wink_fs::view::{Beneath, View};
use wink_fs::zone::Zone;

use crate::kernel::{CALLER, Kernel};
use crate::memory::{Memory, MemoryDir};
use crate::plan::Op;
use crate::properties::view_of;

const WRITE: OpenHow = OpenHow { read: false, write: true, truncate: false };

fn tree() -> Memory {
    let memory = Memory::new();
    memory.dir("/d", 0o755).unwrap();
    memory.file("/d/f", b"f", 0o644).unwrap();
    memory.link("/l", b"d/f").unwrap();
    memory
}

fn view(memory: &Memory, zone: Zone) -> View<Memory> {
    view_of(memory, zone, &BTreeSet::new(), 8)
}

fn node(view: &View<Memory>, path: &str) -> (NodeId, Beneath<MemoryDir>) {
    let mut kernel = Kernel::new(view, true);
    let id = kernel.walk_to(path).unwrap();
    (id, view.beneath(id).unwrap())
}

fn stamp(attr: &Attr) -> (u64, u64, u64, Time, Time) {
    (attr.dev, attr.ino, attr.size, attr.mtime, attr.ctime)
}

fn write_beneath(memory: &Memory, path: &str, bytes: &[u8]) {
    let (dir, name) = memory.place(path).unwrap();
    memory.open(&dir, &name, Access::ReadWrite).unwrap().write_at(bytes, 0).unwrap();
}

fn remove_beneath(memory: &Memory, path: &str) {
    let (dir, name) = memory.place(path).unwrap();
    memory.remove_file(&dir, &name).unwrap();
}

#[test]
fn an_untouched_file_is_the_one_beneath() {
    for zone in [Zone::Task, Zone::Outside, Zone::Settled] {
        let memory = tree();
        let view = view(&memory, zone);
        let (_, found) = node(&view, "/d/f");
        assert!(found.steady && found.upper == (zone == Zone::Task), "{zone:?}");
        let (dir, name) = found.place.unwrap();
        assert_eq!(stamp(&found.real), stamp(&memory.attr(&dir, &name).unwrap()));
        assert_eq!(found.shown.size, 1);
    }
}

#[test]
fn what_somebody_else_changed_is_not_steady() {
    for path in ["/d/f", "/l"] {
        let memory = tree();
        let view = view(&memory, Zone::Task);
        let (id, before) = node(&view, path);
        assert!(before.steady);
        match path {
            "/l" => {
                remove_beneath(&memory, path);
                memory.link("/l", b"d/x").unwrap();
            }
            _ => write_beneath(&memory, path, b"F"),
        }
        let after = view.beneath(id).unwrap();
        assert!(!after.steady, "{path}");
        assert_eq!(stamp(&after.shown), stamp(&before.shown), "the view goes on showing what it saw: {path}");
        remove_beneath(&memory, path);
        assert!(!view.beneath(id).unwrap().steady, "{path} is gone");
    }
}

#[test]
fn what_the_task_wrote_is_what_it_staged() {
    let memory = tree();
    let view = view(&memory, Zone::Task);
    let (id, beneath) = node(&view, "/d/f");
    view.open(CALLER, id, WRITE).unwrap();
    view.write(id, 0, b"new").unwrap();
    let staged = view.beneath(id).unwrap();
    assert!(staged.steady && staged.place.is_none());
    assert_ne!(stamp(&staged.real).1, stamp(&beneath.real).1);
    assert_eq!((staged.real.size, staged.shown.size), (3, 3));
    // What becomes of the file beneath is nothing to it any more.
    write_beneath(&memory, "/d/f", b"other");
    assert!(view.beneath(id).unwrap().steady);
    // Made by the task: no bytes beneath, and nobody else can change it.
    let mut kernel = Kernel::new(&view, true);
    kernel.apply(&Op::Make { path: "/n".into(), kind: Kind::Dir, mode: 0o755 }).unwrap();
    let (_, made) = node(&view, "/n");
    assert!(made.steady && made.place.is_none());
    assert_eq!(view.beneath(NodeId(u64::MAX)).err(), Some(Status::Stale));
    assert!(view.beneath(TOP).unwrap().steady);
}

#[test]
fn a_moved_file_is_where_it_lay() {
    let memory = tree();
    let view = view(&memory, Zone::Task);
    let mut kernel = Kernel::new(&view, true);
    let id = kernel.walk_to("/d/f").unwrap();
    kernel.apply(&Op::Rename { from: "/d".into(), to: "/e".into(), mode: RenameMode::Replace }).unwrap();
    assert!(view.beneath(id).unwrap().steady);
    write_beneath(&memory, "/d/f", b"F");
    assert!(!view.beneath(id).unwrap().steady);
}

/// A tick of a file system's clock is long: within it many changes get one stamp.
#[test]
fn each_change_gives_a_file_of_the_workspace_another_ctime() {
    let memory = tree();
    memory.stop_clock();
    let view = view(&memory, Zone::Task);
    let (id, _) = node(&view, "/d/f");
    view.open(CALLER, id, WRITE).unwrap();
    let mut last = view.attr(id).unwrap().attr.ctime;
    let size = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    for step in 0..40 {
        match step % 4 {
            0 => view.write(id, 0, &[step]).unwrap(),
            1 => drop(view.set_attr(CALLER, id, &size(0)).unwrap()),
            2 => view.write(id, 0, b"same").unwrap(),
            _ => drop(view.set_attr(CALLER, id, &size(4)).unwrap()),
        }
        let now = view.attr(id).unwrap().attr.ctime;
        assert!(now > last, "step {step}");
        last = now;
    }
}

//! Large files that the kernel reads by itself, and what becomes of them when somebody changes one.

use std::collections::BTreeSet;

use wink_fs::backing::{Access, Backing, BackingFile};
use wink_fs::delta::{Change, Source};
use wink_fs::status::Status;
use wink_fs::vfs::{NodeId, OpenHow, Vfs};
use wink_fs::view::View;
use wink_fs::zone::Zone;

use crate::kernel::{CALLER, Kernel};
use crate::memory::Memory;
use crate::properties::view_of;

const READ: OpenHow = OpenHow { read: true, write: false, truncate: false };
const WRITE: OpenHow = OpenHow { read: false, write: true, truncate: false };
const LARGE: usize = 1 << 20;

fn tree() -> Memory {
    let memory = Memory::new();
    memory.file("/tool", &[7; LARGE], 0o755).unwrap();
    memory.file("/data", &[7; LARGE], 0o644).unwrap();
    memory.file("/small", &[7; LARGE - 1], 0o755).unwrap();
    memory.alias("/tool", "/other").unwrap();
    memory
}

fn view(memory: &Memory, zone: Zone) -> View<Memory> {
    view_of(memory, zone, &BTreeSet::new(), 0)
}

fn is_lent(view: &View<Memory>, id: NodeId, how: OpenHow) -> bool {
    view.open(CALLER, id, how).unwrap();
    let lent = view.lends(id).is_some();
    view.release(id);
    lent
}

fn first(view: &View<Memory>, id: NodeId) -> u8 {
    let mut byte = [0];
    assert_eq!(view.read(id, 0, &mut byte), Ok(1));
    byte[0]
}

fn beneath(memory: &Memory) -> u8 {
    let (dir, name) = memory.place("/tool").unwrap();
    let mut byte = [0];
    memory.open(&dir, &name, Access::Read).unwrap().read_at(&mut byte, 0).unwrap();
    byte[0]
}

#[test]
fn of_the_workspace_only_large_programs_are_lent() {
    let memory = tree();
    let inside = view(&memory, Zone::Task);
    let mut kernel = Kernel::new(&inside, false);
    let lent = ["/tool", "/data", "/small"].map(|path| is_lent(&inside, kernel.walk_to(path).unwrap(), READ));
    assert_eq!(lent, [true, false, false]);
    let around = view(&memory, Zone::Outside);
    let mut kernel = Kernel::new(&around, false);
    let lent = ["/tool", "/data", "/small"].map(|path| is_lent(&around, kernel.walk_to(path).unwrap(), READ));
    assert_eq!(lent, [true, true, false]);
}

#[test]
fn what_is_open_in_another_way_is_not_lent() {
    let memory = tree();
    let view = view(&memory, Zone::Task);
    let tool = Kernel::new(&view, false).walk_to("/tool").unwrap();
    view.open(CALLER, tool, READ).unwrap();
    view.open(CALLER, tool, READ).unwrap();
    assert!(view.lends(tool).is_none(), "the first decides");
    view.release(tool);
    view.release(tool);
    assert!(!is_lent(&view, tool, WRITE));
    assert!(!is_lent(&view, tool, READ), "it has bytes of its own now");
}

#[test]
fn a_lent_program_that_is_changed_gets_another_node_by_all_its_names() {
    let memory = tree();
    let view = view(&memory, Zone::Task);
    let mut kernel = Kernel::new(&view, false);
    let old = kernel.walk_to("/tool").unwrap();
    view.open(CALLER, old, READ).unwrap();
    assert!(view.lends(old).is_some());

    view.part(old).unwrap();
    assert_eq!(view.part(old), Err(Status::Stale), "no name leads there any more");
    let new = kernel.walk_to("/tool").unwrap();
    assert_ne!(new, old);
    // This one is looked at for the first time.
    assert_eq!(kernel.walk_to("/other"), Ok(new));
    view.open(CALLER, new, WRITE).unwrap();
    view.write(new, 0, b"!").unwrap();
    view.release(new);
    assert_eq!((first(&view, old), first(&view, new)), (7, b'!'));
    assert_eq!(beneath(&memory), 7, "the tree beneath is never changed");

    view.release(old);
    let changed: Vec<_> = view.delta().unwrap().changes;
    let paths: Vec<_> = changed.iter().map(|changed| String::from_utf8_lossy(&changed.path).into_owned()).collect();
    assert_eq!(paths, ["/other", "/tool"]);
    for change in &changed {
        assert!(matches!(change.change, Change::File { source: Source::Staged(_), .. }), "{change:?}");
    }
    assert!(view.notes().split_link.is_none());
}

#[test]
fn a_lent_file_outside_is_the_same_real_file_under_another_node() {
    let memory = tree();
    let view = view(&memory, Zone::Outside);
    let mut kernel = Kernel::new(&view, false);
    let old = kernel.walk_to("/tool").unwrap();
    view.open(CALLER, old, READ).unwrap();
    view.part(old).unwrap();
    let new = kernel.walk_to("/tool").unwrap();
    assert_ne!(new, old);
    assert_eq!(kernel.walk_to("/other"), Ok(new));
    view.open(CALLER, new, WRITE).unwrap();
    view.write(new, 0, b"!").unwrap();
    assert_eq!((first(&view, old), first(&view, new)), (b'!', b'!'));
    assert_eq!(beneath(&memory), b'!');
}

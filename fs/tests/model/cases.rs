//! The hard cases, one by one, and those that no path leads to: working directories that were removed, the border of the workspace,
//! what others do to the real tree meanwhile.

use std::collections::{BTreeSet, HashSet};

use wink_fs::attr::{Kind, SetAttr, Time};
use wink_fs::backing::{Backing, RenameMode, Want};
use wink_fs::delta::{Change, Source};
use wink_fs::observe::Observed;
use wink_fs::status::Status;
use wink_fs::vfs::{NodeId, OpenHow, TOP, Vfs};
use wink_fs::view::{Checks, Setup, View};
use wink_fs::zone::{Zone, Zones};

use crate::kernel::{CALLER, Kernel};
use crate::memory::{Memory, OWNER};
use crate::plan::{Answer, Op};
use crate::properties::{setup_of, view_of};

const WRITE: OpenHow = OpenHow { read: false, write: true, truncate: false };
const READ: OpenHow = OpenHow { read: true, write: false, truncate: false };
const TRUNCATE: OpenHow = OpenHow { read: false, write: true, truncate: true };
/// The time an unchanged directory shows.
const MASKED: Time = Time(1_000_000_000_000_000_000);

fn task(memory: &Memory) -> View<Memory> {
    view_of(memory, Zone::Task, &BTreeSet::new(), 0)
}

fn outside(memory: &Memory) -> View<Memory> {
    view_of(memory, Zone::Outside, &BTreeSet::new(), 0)
}

fn with(memory: &Memory, change: impl FnOnce(&mut Setup)) -> View<Memory> {
    let mut setup = setup_of(Zone::Task, &BTreeSet::new(), 0);
    change(&mut setup);
    View::new(memory.clone(), setup, OWNER).unwrap()
}

/// `/d/f` and `/d/e/g`, and a file `/x`.
fn tree() -> Memory {
    let memory = Memory::new();
    memory.dir("/d", 0o755).unwrap();
    memory.dir("/d/e", 0o755).unwrap();
    memory.file("/d/f", b"f", 0o755).unwrap();
    memory.file("/d/e/g", b"gg", 0o644).unwrap();
    memory.file("/x", b"xxx", 0o600).unwrap();
    memory
}

fn rename(from: &str, to: &str, mode: RenameMode) -> Op {
    Op::Rename { from: from.to_owned(), to: to.to_owned(), mode }
}

fn make_dir(path: &str) -> Op {
    Op::Make { path: path.to_owned(), kind: Kind::Dir, mode: 0o755 }
}

fn remove_file(path: &str) -> Op {
    Op::RemoveFile(path.to_owned())
}

fn remove_dir(path: &str) -> Op {
    Op::RemoveDir(path.to_owned())
}

fn hard_link(from: &str, to: &str) -> Op {
    Op::HardLink { from: from.to_owned(), to: to.to_owned() }
}

impl<V: Vfs> Kernel<'_, V> {
    #[track_caller]
    fn all(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op).unwrap_or_else(|status| panic!("{op:?}: {status}"));
        }
    }

    #[track_caller]
    fn put(&mut self, path: &str, bytes: &[u8], how: OpenHow) {
        let id = self.walk_to(path).unwrap();
        self.vfs.open(CALLER, id, how).unwrap();
        self.vfs.write(id, 0, bytes).unwrap();
        self.vfs.release(id);
    }

    #[track_caller]
    fn create(&mut self, path: &str, bytes: &[u8]) {
        self.all(&[Op::Make { path: path.to_owned(), kind: Kind::File, mode: 0o644 }]);
        self.put(path, bytes, WRITE);
    }

    #[track_caller]
    fn get(&mut self, path: &str) -> Vec<u8> {
        let id = self.walk_to(path).unwrap();
        self.bytes(id).unwrap()
    }

    #[track_caller]
    fn listing(&mut self, path: &str) -> Vec<String> {
        let id = self.walk_to(path).unwrap();
        self.names(id).unwrap().into_iter().map(|(name, _)| name).collect()
    }
}

/// The changed paths: `+` stands there now, `-` removed, `~` stood there before.
fn changes(view: &View<Memory>) -> Vec<String> {
    let shown = view.delta().unwrap().changes.into_iter().map(|changed| {
        let sign = match (&changed.change, changed.before) {
            (Change::Removed, _) => '-',
            (_, None) => '+',
            _ => '~',
        };
        format!("{sign}{}", String::from_utf8_lossy(&changed.path))
    });
    shown.collect()
}

#[test]
fn below_a_renamed_lower_directory_everything_is_reached() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.all(&[rename("/d", "/n", RenameMode::Replace)]);
    assert_eq!(kernel.get("/n/e/g"), b"gg");
    assert_eq!(kernel.walk_to("/d"), Err(Status::NotFound));
    kernel.put("/n/f", b"F", WRITE);
    kernel.all(&[remove_file("/n/e/g")]);
    kernel.create("/n/e/h", b"h");
    assert_eq!(changes(&view), ["-/d", "-/d/e", "-/d/e/g", "-/d/f", "+/n", "+/n/e", "+/n/e/h", "+/n/f"]);
    let moved: Vec<_> = view.delta().unwrap().moved.into_iter().map(|moved| moved.path).collect();
    assert_eq!(moved, [b"/d".to_vec(), b"/d/e".to_vec()]);
}

#[test]
fn a_directory_made_anew_shows_nothing_of_the_old_one() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.all(&[remove_file("/d/e/g"), remove_dir("/d/e"), remove_file("/d/f"), remove_dir("/d"), make_dir("/d")]);
    assert_eq!(kernel.listing("/d"), [""; 0]);
    assert_eq!(kernel.walk_to("/d/f"), Err(Status::NotFound));
    kernel.create("/d/f", b"new");
    kernel.all(&[make_dir("/d/e")]);
    assert_eq!(kernel.walk_to("/d/e/g"), Err(Status::NotFound));
    assert_eq!(kernel.get("/d/f"), b"new");
    assert_eq!(changes(&view), ["~/d", "~/d/e", "-/d/e/g", "~/d/f"]);
}

#[test]
fn a_file_renamed_over_a_lower_file_replaces_it() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.create("/tmp", b"new");
    kernel.all(&[rename("/tmp", "/x", RenameMode::Replace)]);
    assert_eq!(kernel.get("/x"), b"new");
    assert_eq!(changes(&view), ["~/x"]);
    kernel.all(&[remove_file("/x")]);
    assert_eq!(changes(&view), ["-/x"]);
    assert_eq!(memory.staged_count(), 0);
}

#[test]
fn a_lower_directory_and_a_new_file_change_places() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.create("/new", b"new");
    kernel.all(&[rename("/d", "/new", RenameMode::Exchange)]);
    assert_eq!(kernel.get("/d"), b"new");
    assert_eq!(kernel.get("/new/e/g"), b"gg");
    assert_eq!(changes(&view), ["~/d", "-/d/e", "-/d/e/g", "-/d/f", "+/new", "+/new/e", "+/new/e/g", "+/new/f"]);
    kernel.all(&[rename("/d", "/new", RenameMode::Exchange), remove_file("/new")]);
    assert_eq!(changes(&view), [""; 0]);
}

#[test]
fn both_names_of_a_lower_file_show_what_was_written() {
    let memory = tree();
    memory.alias("/x", "/d/y").unwrap();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, false);
    let (one, two) = (kernel.walk_to("/x").unwrap(), kernel.walk_to("/d/y").unwrap());
    assert_eq!(one, two);
    kernel.put("/x", b"new", WRITE);
    assert_eq!(kernel.get("/d/y"), b"new");
    assert_eq!(view.notes().split_link, None);
    assert_eq!(changes(&view), ["~/d/y", "~/x"]);
}

#[test]
fn a_name_out_of_sight_makes_a_write_doubtful() {
    for added in [false, true] {
        let memory = tree();
        memory.alias("/x", "/d/y").unwrap();
        let view = task(&memory);
        let mut kernel = Kernel::new(&view, false);
        if added {
            // A name the task added itself does not stand in for the one it never saw.
            kernel.all(&[hard_link("/x", "/z")]);
            assert_eq!(kernel.attr("/z").unwrap().nlink, 3);
        }
        kernel.put("/x", b"new", WRITE);
        assert_eq!(view.notes().split_link, Some(b"/x".to_vec()));
    }
}

#[test]
fn a_directory_does_not_go_into_itself_nor_replace_what_holds_it() {
    let memory = tree();
    for view in [task(&memory), outside(&memory)] {
        let mut kernel = Kernel::new(&view, true);
        for (from, to, mode, says) in [
            ("/d", "/d/n", RenameMode::Replace, Status::Invalid),
            ("/d", "/d/e/n", RenameMode::Replace, Status::Invalid),
            ("/d", "/d/e", RenameMode::Exchange, Status::Invalid),
            ("/d/e", "/d", RenameMode::Exchange, Status::Invalid),
            ("/d/e/g", "/d", RenameMode::Replace, Status::NotEmpty),
        ] {
            assert_eq!(kernel.apply(&rename(from, to, mode)), Err(says), "{from} {to}");
        }
    }
}

#[test]
fn an_open_file_keeps_its_bytes_when_its_name_goes() {
    let memory = tree();
    for view in [task(&memory), outside(&memory)] {
        let mut kernel = Kernel::new(&view, true);
        kernel.all(&[Op::Open { path: "/x".into(), how: OpenHow { read: true, ..WRITE } }, remove_file("/x")]);
        kernel.create("/x", b"another");
        kernel.all(&[Op::Write { slot: 0, offset: 1, bytes: b"Y".to_vec() }, Op::ModeOpen { slot: 0, mode: 0o400 }]);
        let read = kernel.apply(&Op::Read { slot: 0, offset: 0, size: 9 });
        assert_eq!(read, Ok(Answer::Bytes(b"xYx".to_vec())));
        assert_eq!(kernel.apply(&Op::HardLinkOpen { slot: 0, to: "/z".into() }), Err(Status::NotFound));
        assert_eq!((kernel.get("/x"), kernel.attr("/x").unwrap().mode), (b"another".to_vec(), 0o644));
        kernel.leave();
    }
    assert_eq!(memory.snapshot()["/x"].bytes, b"another");
    assert_eq!(memory.staged_count(), 1);
}

#[test]
fn a_copy_keeps_mode_bytes_and_times() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    let before = kernel.attr("/d/f").unwrap();
    let id = kernel.walk_to("/d/f").unwrap();
    view.open(CALLER, id, WRITE).unwrap();
    let opened = view.attr(id).unwrap().attr;
    assert_eq!((opened.mode, opened.size, opened.mtime), (0o755, 1, before.mtime));
    view.write(id, 3, b"!").unwrap();
    view.release(id);
    assert_eq!(kernel.get("/d/f"), b"f\0\0!");
    assert_ne!(kernel.attr("/d/f").unwrap().mtime, before.mtime);
    kernel.put("/x", b"y", TRUNCATE);
    assert_eq!((kernel.get("/x"), kernel.attr("/x").unwrap().mode), (b"y".to_vec(), 0o600));
    assert_eq!(memory.snapshot()["/x"].bytes, b"xxx");
}

#[test]
fn a_directory_shows_no_real_times_size_or_links() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    let masked = kernel.attr("/d").unwrap();
    assert_eq!((masked.atime, masked.mtime, masked.ctime, masked.nlink), (MASKED, MASKED, MASKED, 1));
    kernel.put("/d/f", b"new bytes change no directory", WRITE);
    assert_eq!(kernel.attr("/d").unwrap().mtime, MASKED);
    kernel.create("/d/new", b"");
    let changed = kernel.attr("/d").unwrap();
    assert!(changed.mtime > MASKED && changed.ctime > MASKED);
    assert_eq!((changed.atime, changed.size, changed.nlink), (MASKED, masked.size, 1));
    // Neither does a change of attributes let the real times through.
    kernel.all(&[Op::Mode { path: "/d/e".into(), mode: 0o700 }]);
    let changed = kernel.attr("/d/e").unwrap();
    assert_eq!((changed.mode, changed.atime, changed.mtime), (0o700, MASKED, MASKED));
    assert!(changed.ctime > MASKED);
}

#[test]
fn newer_raises_the_modification_time_and_nothing_else() {
    let memory = tree();
    let least = Time(memory.look("/x").unwrap().mtime.0 + 5);
    let view = with(&memory, |setup| {
        setup.newer = Some(wink_fs::view::Newer { least, but: HashSet::from([b"/d/f".to_vec()]) });
    });
    let mut kernel = Kernel::new(&view, true);
    let (real, shown) = (memory.look("/x").unwrap(), kernel.attr("/x").unwrap());
    assert_eq!((shown.mtime, shown.ctime, shown.size, shown.mode), (least, real.ctime, 3, 0o600));
    assert_eq!(kernel.attr("/d/f").unwrap().mtime, memory.look("/d/f").unwrap().mtime);
    kernel.all(&[rename("/x", "/y", RenameMode::Replace)]);
    assert_eq!(kernel.attr("/y").unwrap().mtime, least);
    let id = kernel.walk_to("/y").unwrap();
    view.open(CALLER, id, WRITE).unwrap();
    assert_eq!(view.attr(id).unwrap().attr.mtime, least);
    kernel.all(&[Op::Times { path: "/y".into(), mtime: Time(7) }]);
    assert_eq!(kernel.attr("/y").unwrap().mtime, Time(7));
}

#[test]
fn ranges_of_one_file_are_copied_within_it() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    let both = OpenHow { read: true, ..WRITE };
    kernel.all(&[Op::Open { path: "/x".into(), how: READ }, Op::Open { path: "/x".into(), how: both }]);
    let copy = |to_offset, length| Op::Copy { from: 0, from_offset: 0, to: 1, to_offset, length };
    assert_eq!(kernel.apply(&copy(3, 9)), Ok(Answer::Count(3)));
    assert_eq!(kernel.apply(&copy(1, 2)), Err(Status::Invalid));
    assert_eq!(kernel.get("/x"), b"xxxxxx");
    assert_eq!(memory.snapshot()["/x"].bytes, b"xxx");
}

#[test]
fn a_removed_directory_takes_no_names() {
    let memory = tree();
    memory.dir("/gone", 0o755).unwrap();
    for view in [task(&memory), outside(&memory)] {
        let mut kernel = Kernel::new(&view, false);
        if kernel.walk_to("/gone").is_err() {
            kernel.all(&[make_dir("/gone")]);
        }
        let gone = kernel.walk_to("/gone").unwrap();
        let x = kernel.walk_to("/x").unwrap();
        kernel.all(&[remove_dir("/gone")]);
        let not_found = Some(Status::NotFound);
        assert_eq!(view.make_dir(CALLER, gone, b"n", 0o755).err(), not_found);
        assert_eq!(view.hard_link(CALLER, x, gone, b"n").err(), not_found);
        assert_eq!(view.rename(CALLER, TOP, b"x", gone, b"n", RenameMode::Replace).err(), not_found);
        assert_eq!(kernel.names(gone).unwrap_or_default(), []);
        assert_eq!(kernel.get("/x"), b"xxx");
        kernel.leave();
    }
}

/// The way git puts an object in place: a link, then the temporary name goes.
#[test]
fn outside_a_file_is_reached_by_the_names_it_has_left() {
    let memory = tree();
    let view = outside(&memory);
    let mut kernel = Kernel::new(&view, false);
    kernel.create("/tmp", b"object");
    kernel.all(&[hard_link("/tmp", "/object"), remove_file("/tmp")]);
    kernel.create("/tmp", b"next");
    assert_eq!(kernel.get("/object"), b"object");
    kernel.all(&[Op::Mode { path: "/object".into(), mode: 0o444 }]);
    assert_eq!(memory.look("/object").unwrap().mode, 0o444);
    assert_eq!(kernel.attr("/object").unwrap().nlink, 1);
    assert_eq!(memory.look("/tmp").unwrap().mode, 0o644);
}

#[test]
fn outside_the_view_follows_what_others_do() {
    let memory = tree();
    let view = outside(&memory);
    let mut kernel = Kernel::new(&view, false);
    assert_eq!(kernel.listing("/d"), ["e", "f"]);
    assert_eq!(kernel.get("/d/e/g"), b"gg");
    let (dir, name) = memory.place("/d/f").unwrap();
    memory.remove_file(&dir, &name).unwrap();
    memory.file("/d/h", b"h", 0o644).unwrap();
    assert_eq!(kernel.listing("/d"), ["e", "h"]);
    assert_eq!(kernel.walk_to("/d/f"), Err(Status::NotFound));
    // A directory that others removed takes the nodes below it along.
    for path in ["/d/e/g", "/d/e"] {
        let (dir, name) = memory.place(path).unwrap();
        memory.remove_file(&dir, &name).or_else(|_| memory.remove_dir(&dir, &name)).unwrap();
    }
    assert_eq!(kernel.walk_to("/d/e"), Err(Status::NotFound));
    kernel.leave();
    assert_eq!(kernel.walk_to("/d/h").map(|_| view.node_count()), Ok(3));
}

/// `/w` is the workspace.
fn bordered(memory: &Memory) -> View<Memory> {
    with(memory, |setup| {
        setup.zones = Zones::new(Zone::Outside);
        setup.zones.set(b"/o/w", Zone::Task);
    })
}

fn border() -> Memory {
    let memory = tree();
    memory.dir("/o", 0o755).unwrap();
    memory.dir("/o/w", 0o755).unwrap();
    memory
}

#[test]
fn nothing_crosses_the_border_of_the_workspace_in_one_step() {
    let memory = border();
    let view = bordered(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.create("/o/w/new", b"new");
    let crossing = Err(Status::CrossDevice);
    for op in [
        rename("/x", "/o/w/x", RenameMode::Replace),
        rename("/o/w/new", "/new", RenameMode::Replace),
        rename("/x", "/o/w/new", RenameMode::Exchange),
        rename("/o/w", "/w", RenameMode::Replace),
        rename("/o", "/p", RenameMode::Replace),
        rename("/d", "/o/w", RenameMode::Replace),
        hard_link("/x", "/o/w/x"),
        hard_link("/o/w/new", "/x2"),
    ] {
        assert_eq!(kernel.apply(&op), crossing, "{op:?}");
    }
    // Beneath it is empty, and still it holds what the task wrote.
    assert_eq!(kernel.apply(&remove_dir("/o/w")), Err(Status::Busy));
    assert_eq!(kernel.get("/o/w/new"), b"new");
    assert_eq!(changes(&view), ["+/o/w/new"]);
    assert_eq!(view.notes().outside, None);
    kernel.all(&[rename("/d", "/o/d", RenameMode::Replace)]);
    assert_eq!(view.notes().outside, Some((b"/d".to_vec(), 2)));
    assert_eq!(kernel.get("/o/d/e/g"), b"gg");
}

#[test]
fn made_up_directories_are_neither_changes_nor_removable() {
    let memory = border();
    let name = wink_fs::name::Name::new(b"proc").unwrap();
    let made_up = |setup: &mut Setup| setup.made_up = vec![name.clone()];
    let view = with(&memory, |setup| {
        setup.zones = Zones::new(Zone::Outside);
        made_up(setup);
    });
    let mut kernel = Kernel::new(&view, true);
    assert_eq!(kernel.apply(&remove_dir("/proc")), Err(Status::Busy));
    assert!(kernel.listing("").contains(&"proc".to_owned()));
    let view = with(&memory, made_up);
    assert_eq!(changes(&view), [""; 0]);
}

#[test]
fn whether_a_directory_is_empty_is_seen_when_it_is_removed_or_replaced() {
    for op in [remove_dir("/e"), rename("/d", "/e", RenameMode::Replace)] {
        let memory = tree();
        memory.dir("/e", 0o755).unwrap();
        let observed = Observed::new(task(&memory));
        Kernel::new(&observed, true).all(&[op]);
        let sights = observed.recorder().take();
        assert_eq!(sights[b"/e".as_slice()].names, Some(Vec::new()));
    }
}

#[test]
fn a_directory_listed_before_it_is_looked_at_is_steady() {
    let observed = Observed::new(task(&tree()));
    let mut kernel = Kernel::new(&observed, true);
    let id = kernel.look(TOP, "d").unwrap().unwrap().id;
    observed.recorder().clear();
    kernel.names(id).unwrap();
    let outside = Observed::new(outside(&tree()));
    let mut kernel = Kernel::new(&outside, false);
    let id = kernel.look(TOP, "d").unwrap().unwrap().id;
    outside.recorder().clear();
    kernel.names(id).unwrap();
    kernel.look(TOP, "d").unwrap();
    assert!(!outside.recorder().take()[b"/d".as_slice()].unsteady);
}

#[test]
fn the_maker_of_a_read_only_file_may_still_cut_it() {
    let memory = tree();
    let view = with(&memory, |setup| setup.checks = Checks::View);
    let (entry, _) = view.create(CALLER, TOP, b"n", 0o444, WRITE).unwrap();
    view.write(entry.id, 0, b"abc").unwrap();
    let cut = SetAttr { size: Some(1), ..SetAttr::default() };
    assert_eq!(view.set_attr(CALLER, entry.id, &cut).unwrap().attr.size, 1);
    view.release(entry.id);
    assert_eq!(view.set_attr(CALLER, entry.id, &cut).err(), Some(Status::Access));
    assert_eq!(view.open(CALLER, entry.id, WRITE).err(), Some(Status::Access));
    let want = Want { read: true, write: false, execute: false };
    assert_eq!(view.permits(CALLER, entry.id, want), Ok(()));
}

#[test]
fn attributes_set_to_what_they_were_are_no_change() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.all(&[Op::Mode { path: "/d".into(), mode: 0o755 }, Op::Mode { path: "/x".into(), mode: 0o600 }]);
    assert_eq!(changes(&view), [""; 0]);
    kernel.all(&[Op::Mode { path: "/d".into(), mode: 0o700 }, Op::Times { path: "/x".into(), mtime: Time(9) }]);
    assert_eq!(changes(&view), ["~/d", "~/x"]);
    let delta = view.delta().unwrap();
    let Change::File { source, attr } = &delta.changes[1].change else { panic!("{delta:?}") };
    assert_eq!((source, attr.mtime), (&Source::Beneath(b"/x".to_vec()), Time(9)));
}

#[test]
fn a_second_name_of_a_lower_link_or_hidden_file_is_told_apart() {
    let memory = tree();
    memory.link("/l", b"to").unwrap();
    memory.alias("/l", "/m").unwrap();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, false);
    kernel.walk_to("/l").unwrap();
    kernel.walk_to("/m").unwrap();
    assert_eq!(changes(&view), [""; 0]);
    // Hidden, `/m` is no name of anything: the task may make it one.
    let view = view_of(&memory, Zone::Task, &BTreeSet::from(["/m".to_owned()]), 0);
    let mut kernel = Kernel::new(&view, false);
    kernel.all(&[hard_link("/l", "/m")]);
    assert_eq!(changes(&view), ["+/m"]);
}

#[test]
fn a_failed_copy_leaves_nothing_behind() {
    // Calls of an open for writing: open beneath, stage, copy, set times.
    for call in 0..4 {
        let memory = tree();
        let view = task(&memory);
        let mut kernel = Kernel::new(&view, true);
        let id = kernel.look(TOP, "x").unwrap().unwrap().id;
        memory.fail_from(call, Status::Io);
        assert_eq!(view.open(CALLER, id, WRITE).err(), Some(Status::Io), "call {call}");
        memory.heal();
        assert_eq!(memory.staged_count(), 0);
        assert_eq!(changes(&view), [""; 0]);
        kernel.put("/x", b"abc", WRITE);
        assert_eq!(kernel.get("/x"), b"abc");
    }
}

#[test]
fn a_file_moves_where_there_is_room() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.create("/n", b"first");
    let id = kernel.look(TOP, "n").unwrap().unwrap().id;
    view.open(CALLER, id, WRITE).unwrap();
    memory.fail(0, Status::NoSpace);
    view.write(id, 5, b" second").unwrap();
    assert_eq!((kernel.get("/n"), memory.staged_count()), (b"first second".to_vec(), 1));
    // A copy that does not fit goes elsewhere as a whole: the third call is the copying.
    let id: NodeId = kernel.look(TOP, "x").unwrap().unwrap().id;
    memory.fail(2, Status::NoSpace);
    view.open(CALLER, id, WRITE).unwrap();
    assert_eq!((kernel.get("/x"), memory.staged_count()), (b"xxx".to_vec(), 2));
}

#[test]
fn what_the_staging_area_cannot_do_is_done_elsewhere() {
    // Staging, copying and setting times; before them the file is opened.
    for call in 1..4 {
        let memory = tree();
        let view = task(&memory);
        let mut kernel = Kernel::new(&view, true);
        let id = kernel.look(TOP, "x").unwrap().unwrap().id;
        memory.fail(call, Status::Io);
        view.open(CALLER, id, WRITE).unwrap();
        assert!(memory.heal(), "call {call}");
        assert_eq!((kernel.get("/x"), memory.staged_count()), (b"xxx".to_vec(), 1), "call {call}");
    }
}

#[test]
fn a_name_seen_late_shows_what_was_done_by_another_that_is_gone() {
    let memory = tree();
    memory.alias("/x", "/d/y").unwrap();
    memory.alias("/d/f", "/h").unwrap();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.put("/x", b"new", WRITE);
    kernel.all(&[remove_file("/x"), Op::Mode { path: "/h".into(), mode: 0o600 }, remove_file("/h")]);
    assert_eq!(kernel.get("/d/y"), b"new");
    let (y, f) = (kernel.attr("/d/y").unwrap(), kernel.attr("/d/f").unwrap());
    assert_eq!((y.nlink, f.nlink, f.mode), (1, 1, 0o600));
    assert_eq!(changes(&view), ["~/d/f", "~/d/y", "-/h", "-/x"]);
    kernel.all(&[remove_file("/d/y")]);
    assert_eq!(memory.staged_count(), 0);
}

#[test]
fn what_moves_away_and_back_into_a_directory_made_anew_is_unchanged() {
    let memory = tree();
    let view = task(&memory);
    let mut kernel = Kernel::new(&view, true);
    kernel.all(&[rename("/d/e", "/e", RenameMode::Replace), remove_file("/d/f"), remove_dir("/d"), make_dir("/d")]);
    kernel.all(&[rename("/e", "/d/e", RenameMode::Replace)]);
    assert_eq!(kernel.get("/d/e/g"), b"gg");
    assert_eq!(changes(&view), ["~/d", "-/d/f"]);
}

//! A mounted tree without a layer: names from several threads, files that are opened and closed while their names change, and somebody
//! who changes the tree beneath.

use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};

use super::explore;
use super::kernel::{BOTH, Kernel, READ};
use super::orders::{Answer, World, at_once, draw};
use crate::backing::{Backing, RenameMode};
use crate::memory::{Memory, OWNER};
use crate::status::Status;
use crate::vfs::{TOP, Vfs};
use crate::worktree::WorkTree;

const NAMES: [&str; 3] = ["a", "b", "e"];

/// `a` and `d/a` are files, `d` and `e` directories.
fn memory() -> Memory {
    let memory = Memory::new();
    for dir in ["d", "e"] {
        memory.dir(dir, 0o755).expect("a directory");
    }
    for file in ["a", "d/a"] {
        memory.file(file, file.as_bytes(), 0o644).expect("a file");
    }
    memory
}

struct Plain(Arc<WorkTree<Memory>>);

impl World for Plain {
    type Fs = WorkTree<Memory>;

    fn new() -> Plain {
        Plain(Arc::new(WorkTree::new(memory(), OWNER, true).expect("a tree")))
    }

    fn vfs(&self) -> &Arc<WorkTree<Memory>> {
        &self.0
    }

    fn own(&self, _what: u8) -> Answer {
        Ok(String::new())
    }

    fn check(&self) {
        assert_eq!((self.0.node_count(), self.0.open_count()), (1, 0), "something was not given back");
    }
}

#[test]
fn names_change_as_if_one_after_the_other() {
    explore("names of a mounted tree", || {
        let threads = thread_rng().gen_range(2..=3);
        let plan = |_| (0..if threads == 2 { 3 } else { 2 }).map(|_| draw(&NAMES, (0, 0))).collect();
        at_once::<Plain>((0..threads).map(plan).collect());
    });
}

/// What may be said of a name that others take away.
fn is_expected(status: Status) -> bool {
    matches!(
        status,
        Status::NotFound
            | Status::Exists
            | Status::Stale
            | Status::NotDir
            | Status::IsDir
            | Status::NotEmpty
            | Status::Invalid
            | Status::NotPermitted
    )
}

fn allow<T>(done: Result<T, Status>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(status) => {
            assert!(is_expected(status), "{status:?}");
            None
        }
    }
}

/// One step of a kernel thread that keeps what it was given for a while.
fn step<V: Vfs>(kernel: &mut Kernel<V>) {
    let mut random = thread_rng();
    let mut pick = || NAMES[random.gen_range(0..NAMES.len())];
    let (name, other) = (pick(), pick());
    let dir = if random.gen_bool(0.5) { allow(kernel.dir("d")).unwrap_or(TOP) } else { TOP };
    let found = allow(kernel.look(dir, name)).flatten().map(|entry| entry.id);
    match (random.gen_range(0..10), found) {
        (0, _) => drop(allow(kernel.create(dir, name))),
        (1, Some(id)) => drop(allow(kernel.open(id, READ))),
        (2, Some(id)) => drop(allow(kernel.open(id, BOTH))),
        (3, Some(id)) => drop(allow(kernel.write(id, name.as_bytes()))),
        (4, Some(id)) => drop(allow(kernel.read(id))),
        (5, Some(id)) => drop(allow(kernel.link(id, TOP, other))),
        (6, _) => drop(allow(kernel.vfs.remove_file(super::kernel::CALLER, dir, name.as_bytes()))),
        (7, _) => drop(allow(kernel.rename((dir, name), (TOP, other), RenameMode::Replace))),
        (8, Some(id)) => kernel.forget(id),
        _ => kernel.close(),
    }
}

#[test]
fn all_is_given_back_whatever_is_done_at_once() {
    explore("handles of a mounted tree", || {
        let world = Plain::new();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let tree = world.0.clone();
                shuttle::thread::spawn(move || {
                    let mut kernel = Kernel::new(&tree);
                    (0..6).for_each(|_| step(&mut kernel));
                    kernel.end();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
        world.check();
        Kernel::new(&world.0).walk("", &mut Default::default());
    });
}

/// Somebody who goes past the mount.
fn meddle(memory: &Memory) {
    let mut random = thread_rng();
    let mut pick = || ["a", "b", "d/a", "d/b", "e"][random.gen_range(0..5)];
    let (path, other) = (pick(), pick());
    let Ok((dir, name)) = memory.place(path) else { return };
    let Ok((to_dir, to_name)) = memory.place(other) else { return };
    match random.gen_range(0..5) {
        0 => drop(memory.file(path, b"theirs", 0o600)),
        1 => drop(memory.remove_file(&dir, &name)),
        2 => drop(memory.rename(&dir, &name, &to_dir, &to_name, RenameMode::Replace)),
        3 => drop(memory.make_dir(&dir, &name, 0o700)),
        _ => drop(memory.remove_dir(&dir, &name)),
    }
}

#[test]
fn all_is_given_back_though_others_change_the_tree_beneath() {
    explore("a tree that changes beneath its mount", || {
        let world = Plain::new();
        let mut threads: Vec<_> = (0..2)
            .map(|_| {
                let tree = world.0.clone();
                shuttle::thread::spawn(move || {
                    let mut kernel = Kernel::new(&tree);
                    (0..6).for_each(|_| step(&mut kernel));
                    kernel.end();
                })
            })
            .collect();
        let tree = world.0.clone();
        threads.push(shuttle::thread::spawn(move || (0..6).for_each(|_| meddle(tree.backing()))));
        threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
        world.check();
        // What is there now is what shows.
        let mut shown = Default::default();
        let mut kernel = Kernel::new(&world.0);
        kernel.walk("", &mut shown);
        kernel.end();
        let real = world.0.backing().snapshot();
        let shown: Vec<String> = shown.into_keys().collect();
        assert_eq!(shown, real.into_keys().collect::<Vec<_>>());
    });
}

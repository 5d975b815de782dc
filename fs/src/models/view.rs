//! A task's view, observed, with several threads of the task at once: its names and files, what is noted of them, and that the tree
//! beneath stays as it is.

use std::collections::HashSet;
use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};

use super::explore;
use super::kernel::{BOTH, Kernel};
use super::orders::{Answer, World, at_once, draw};
use crate::memory::{Memory, OWNER, Snapshot};
use crate::observe::Observed;
use crate::vfs::{TOP, Vfs};
use crate::view::{Checks, Setup, View};
use crate::zone::{Zone, Zones};

const NAMES: [&str; 3] = ["a", "b", "e"];

struct Task {
    view: Arc<Observed<View<Memory>>>,
    before: Snapshot,
}

impl World for Task {
    type Fs = Observed<View<Memory>>;

    fn new() -> Task {
        let memory = Memory::new();
        ["d", "e"].iter().for_each(|dir| memory.dir(dir, 0o755).expect("a directory"));
        ["a", "d/a"].iter().for_each(|file| memory.file(file, file.as_bytes(), 0o644).expect("a file"));
        let setup = Setup {
            top: b"/".to_vec(),
            zones: Zones::new(Zone::Task),
            hidden: HashSet::new(),
            newer: None,
            made_up: Vec::new(),
            unnoted: HashSet::new(),
            clock_tick: std::time::Duration::ZERO,
            strict_dev: None,
            checks: Checks::Kernel,
            shown_as_own_group: Vec::new(),
            idle_files_max: 1,
        };
        let before = memory.snapshot();
        Task { view: Arc::new(Observed::new(View::new(memory, setup, OWNER).expect("a view"))), before }
    }

    fn vfs(&self) -> &Arc<Observed<View<Memory>>> {
        &self.view
    }

    /// Writes to a file, opened for that.
    fn own(&self, what: u8) -> Answer {
        let text = |status: crate::status::Status| format!("{status:?}");
        let mut kernel = Kernel::new(&self.view);
        let found = kernel.look(TOP, NAMES[usize::from(what)]).map_err(text);
        let written = match found {
            Ok(Some(entry)) => kernel.write(entry.id, &[b'0' + what]).map(|()| String::new()).map_err(text),
            Ok(None) => Ok("nothing".to_owned()),
            Err(status) => Err(status),
        };
        kernel.end();
        written
    }

    fn check(&self) {
        let memory = self.view.inner().backing();
        assert_eq!(memory.snapshot(), self.before, "a task changed the tree beneath");
        for (path, sight) in self.view.recorder().take() {
            let path = String::from_utf8_lossy(&path).into_owned();
            assert!(!sight.unsteady, "{path}: nobody else changes anything");
            let known = self.before.get(&path).map(|shown| shown.kind);
            if path != "/" && sight.names.is_none() {
                assert_eq!(sight.attr.map(|attr| attr.kind), known, "{path}: not as it was");
            }
        }
    }
}

#[test]
fn a_task_with_threads_is_like_one_without() {
    explore("names of a task's view", || {
        let threads = thread_rng().gen_range(2..=3);
        let plan = |_| (0..if threads == 2 { 3 } else { 2 }).map(|_| draw(&NAMES, (0, 0))).collect();
        at_once::<Task>((0..threads).map(plan).collect());
    });
}

/// What a thread was told of the tree beneath is noted when it is told, also if another thread asked first.
#[test]
fn whatever_is_told_is_noted() {
    explore("what is noted of a task", || {
        let task = Arc::new(Task::new());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let task = task.clone();
                shuttle::thread::spawn(move || {
                    let mut kernel = Kernel::new(&task.view);
                    let mut told = Vec::new();
                    for _ in 0..3 {
                        let name = NAMES[thread_rng().gen_range(0..NAMES.len())];
                        kernel.look(TOP, name).expect("an answer");
                        told.push(format!("/{name}"));
                        if thread_rng().gen_bool(0.3) {
                            kernel.names(TOP).expect("a listing");
                            told.push("/".to_owned());
                        }
                    }
                    kernel.end();
                    told
                })
            })
            .collect();
        let told: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect();
        let seen = task.view.recorder().take();
        for path in told {
            assert!(seen.contains_key(path.as_bytes()), "{path} was told and not noted: {:?}", seen.keys());
        }
    });
}

/// Files that are written, truncated by opening, removed and closed at once: the last one out closes, nothing is lost before.
#[test]
fn files_of_a_task_are_used_at_once() {
    explore("files of a task", || {
        let task = Arc::new(Task::new());
        let threads: Vec<_> = (0..3_u8)
            .map(|number| {
                let task = task.clone();
                shuttle::thread::spawn(move || {
                    let mut kernel = Kernel::new(&task.view);
                    let Some(entry) = kernel.look(TOP, "a").expect("an answer") else { return kernel.end() };
                    kernel.open(entry.id, BOTH).expect("a file that was found opens, though its name go");
                    kernel.vfs.write(entry.id, u64::from(number), &[b'0' + number]).expect("writes");
                    if number == 0 {
                        kernel.vfs.remove_file(super::kernel::CALLER, TOP, b"a").expect("removes");
                    }
                    let mut bytes = [0; 100];
                    kernel.vfs.read(entry.id, 0, &mut bytes).expect("reads");
                    assert_eq!(bytes.get(usize::from(number)), Some(&(b'0' + number)), "what was written is there");
                    kernel.end();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
        let mut kernel = Kernel::new(&task.view);
        assert!(kernel.look(TOP, "a").expect("an answer").is_none(), "it was removed");
        kernel.end();
        assert_eq!(task.view.inner().backing().staged_count(), 0, "the bytes of a file that nobody can reach any more");
        task.check();
    });
}

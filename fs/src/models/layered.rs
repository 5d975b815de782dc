//! A mounted tree with a layer: views appear, are made real, are changed and moved, all at once. Making something real changes nothing that
//! shows, at no moment.

use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};

use super::explore;
use super::orders::{Answer, World, at_once, draw};
use crate::backing::Backing;
use crate::desk::{Desk, dir, file, link, name};
use crate::layer::Layer;
use crate::layered::Layered;
use crate::memory::{Memory, OWNER};
use crate::worktree::WorkTree;

const NAMES: [&str; 3] = ["a", "b", "e"];

/// A mounted tree: `d` is real and has a view `a` and a directory of views `e`; `b` is a view, `a` real.
struct Mounted {
    tree: Arc<WorkTree<Layered<Memory>>>,
    desk: Desk,
}

impl World for Mounted {
    type Fs = WorkTree<Layered<Memory>>;

    fn new() -> Mounted {
        let memory = Memory::new();
        memory.dir("d", 0o755).expect("a directory");
        memory.file("a", b"real", 0o644).expect("a file");
        let desk = Desk::new(&memory);
        ["view", "more"].iter().for_each(|bytes| desk.blob(bytes.as_bytes()));
        let root = memory.root();
        let layered = Layered::new(memory, Vec::new(), root, Layer::new(), Arc::new(desk.clone()), OWNER);
        let views = [file("d/a", b"view"), dir("d/e"), file("d/e/x", b"more"), file("b", b"view"), link("d/l", "a")];
        layered.apply(&[desk.attach("", views)]).expect("views");
        Mounted { tree: Arc::new(WorkTree::new(layered, OWNER, true).expect("a tree")), desk }
    }

    fn vfs(&self) -> &Arc<WorkTree<Layered<Memory>>> {
        &self.tree
    }

    fn own(&self, what: u8) -> Answer {
        let text = |status: crate::status::Status| format!("{status:?}");
        match what {
            // As the daemon does when a hit is shown: what stands in the way goes first.
            0 => {
                let steps = [self.desk.attach("d", [file("b", b"more"), file("e/y", b"view")])];
                let act = |layered: &Layered<Memory>| {
                    layered.remove_at(b"d/b")?;
                    layered.apply(&steps)
                };
                let (done, _) = self.tree.change(act, |_| vec![b"d/b".to_vec(), b"d/e/y".to_vec()]);
                done.map(|()| String::new()).map_err(text)
            }
            // Beside everything else.
            1 => self.tree.backing().materialize(b"").map(|_| String::new()).map_err(text),
            2 => self.tree.backing().materialize(b"d/a").map(|_| String::new()).map_err(text),
            _ => {
                self.tree.backing().compact(|_| ());
                Ok(String::new())
            }
        }
    }

    fn check(&self) {
        assert_eq!((self.tree.node_count(), self.tree.open_count()), (1, 0), "something was not given back");
        self.desk.check_blobs();
        // The log says what the layer is.
        let replayed = self.desk.replay(&self.desk.log.lock().clone());
        assert_eq!(self.tree.backing().count(), replayed.count());
    }
}

#[test]
fn views_change_as_if_one_after_the_other() {
    explore("names, views and what makes them real", || {
        let threads = thread_rng().gen_range(2..=3);
        let plan = |_| (0..if threads == 2 { 3 } else { 2 }).map(|_| draw(&NAMES, (4, 3))).collect();
        at_once::<Mounted>((0..threads).map(plan).collect());
    });
}

/// Whoever looks while everything is made real sees all of it.
#[test]
fn making_real_hides_nothing() {
    explore("looking while views are made real", || {
        let world = Arc::new(Mounted::new());
        let other = world.clone();
        let making = shuttle::thread::spawn(move || drop(other.own(1)));
        let layered = world.tree.backing();
        let top = layered.dir_at(b"").expect("the top");
        let inner = layered.dir_at(b"d").expect("a directory");
        for _ in 0..2 {
            assert!(layered.attr(&top, &name("b")).is_ok(), "a view that was being made real was not there");
            assert!(layered.attr(&inner, &name("a")).is_ok(), "a view that was being made real was not there");
            let names = layered.list(&inner).expect("a listing");
            assert_eq!(names.len(), 3, "a listing while views were made real: {names:?}");
            assert!(
                layered.open(&inner, &name("a"), crate::backing::Access::Read).is_ok(),
                "a view was not to be opened"
            );
            assert!(layered.read_link(&inner, &name("l")).is_ok(), "a link was not to be read");
        }
        making.join().expect("a thread");
    });
}

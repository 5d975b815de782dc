//! Whether what several threads did is what some order of it, one after the other, does.

use std::collections::BTreeMap;
use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};

use super::kernel::Kernel;
use crate::backing::RenameMode;
use crate::sync::Mutex;
use crate::vfs::{NodeId, Vfs};

/// Where and under which name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// 0: the top, 1: the directory `d` in it.
    pub(super) dir: usize,
    pub(super) name: &'static str,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Create(Spot),
    MakeDir(Spot),
    Look(Spot),
    List(usize),
    Remove(Spot),
    RemoveDir(Spot),
    Rename(Spot, Spot, RenameMode),
    /// What only some worlds know.
    Own(u8),
}

/// What it answered: the status if it failed.
pub(super) type Answer = Result<String, String>;

/// A tree that operations are done to.
pub(super) trait World: Send + Sync + 'static {
    type Fs: Vfs;
    fn new() -> Self;
    fn vfs(&self) -> &Arc<Self::Fs>;
    /// Does an [`Op::Own`].
    fn own(&self, what: u8) -> Answer;
    /// After all references were given back.
    fn check(&self);
}

fn spot(names: &[&'static str]) -> Spot {
    let mut random = thread_rng();
    Spot { dir: random.gen_range(0..2), name: names[random.gen_range(0..names.len())] }
}

/// Draws an operation; one in `own.1` is the world's own, of `own.0` kinds.
pub(super) fn draw(names: &[&'static str], own: (u8, u32)) -> Op {
    let mut random = thread_rng();
    if own.0 > 0 && random.gen_range(0..own.1) == 0 {
        return Op::Own(random.gen_range(0..own.0));
    }
    match random.gen_range(0..9) {
        0 => Op::Create(spot(names)),
        1 => Op::MakeDir(spot(names)),
        2 | 3 => Op::Look(spot(names)),
        4 => Op::List(random.gen_range(0..2)),
        5 => Op::Remove(spot(names)),
        6 => Op::RemoveDir(spot(names)),
        7 => Op::Rename(spot(names), spot(names), RenameMode::Replace),
        _ => Op::Rename(spot(names), spot(names), RenameMode::Exchange),
    }
}

fn act<W: World>(world: &W, kernel: &mut Kernel<W::Fs>, dirs: &[NodeId; 2], op: Op) -> Answer {
    let text = |status: crate::status::Status| format!("{status:?}");
    match op {
        Op::Create(at) => kernel.create(dirs[at.dir], at.name).map(|_| String::new()).map_err(text),
        Op::MakeDir(at) => kernel.make_dir(dirs[at.dir], at.name).map(|_| String::new()).map_err(text),
        Op::Look(at) => {
            let found = kernel.look(dirs[at.dir], at.name).map_err(text)?;
            Ok(found.map_or_else(String::new, |entry| format!("{:?} of {}", entry.attr.kind, entry.attr.size)))
        }
        Op::List(dir) => kernel.names(dirs[dir]).map(|names| names.join(" ")).map_err(text),
        Op::Remove(at) => {
            let name = at.name.as_bytes();
            kernel.vfs.remove_file(super::kernel::CALLER, dirs[at.dir], name).map(|()| String::new()).map_err(text)
        }
        Op::RemoveDir(at) => {
            let name = at.name.as_bytes();
            kernel.vfs.remove_dir(super::kernel::CALLER, dirs[at.dir], name).map(|()| String::new()).map_err(text)
        }
        Op::Rename(from, to, mode) => kernel
            .rename((dirs[from.dir], from.name), (dirs[to.dir], to.name), mode)
            .map(|()| String::new())
            .map_err(text),
        Op::Own(what) => world.own(what),
    }
}

type Tree = BTreeMap<String, Vec<u8>>;

fn readable(tree: &Tree) -> Vec<String> {
    tree.iter().map(|(path, bytes)| format!("{path}={}", String::from_utf8_lossy(bytes))).collect()
}

/// The tree in the end; everything is given back then.
fn end<W: World>(world: &W, kernel: Kernel<W::Fs>) -> Tree {
    kernel.end();
    let mut walker = Kernel::new(world.vfs());
    let mut tree = Tree::new();
    walker.walk("", &mut tree);
    walker.end();
    world.check();
    tree
}

fn dirs<W: World>(kernel: &mut Kernel<W::Fs>) -> [NodeId; 2] {
    [crate::vfs::TOP, kernel.dir("d").expect("a directory")]
}

/// One after the other, in a fresh world.
fn in_order<W: World>(plans: &[Vec<Op>], order: &[usize]) -> (Vec<Vec<Answer>>, Tree) {
    let world = W::new();
    let mut kernel = Kernel::new(world.vfs());
    let dirs = dirs::<W>(&mut kernel);
    let mut answers: Vec<Vec<Answer>> = vec![Vec::new(); plans.len()];
    for &thread in order {
        let op = plans[thread][answers[thread].len()];
        let answer = act(&world, &mut kernel, &dirs, op);
        answers[thread].push(answer);
    }
    let tree = end(&world, kernel);
    (answers, tree)
}

/// All orders that keep each thread's own.
fn orders(left: &mut Vec<usize>, order: &mut Vec<usize>, found: &mut dyn FnMut(&[usize]) -> bool) -> bool {
    if left.iter().all(|left| *left == 0) {
        return found(order);
    }
    for thread in 0..left.len() {
        if left[thread] > 0 {
            left[thread] -= 1;
            order.push(thread);
            let done = orders(left, order, found);
            order.pop();
            left[thread] += 1;
            if done {
                return true;
            }
        }
    }
    false
}

/// Does the plans at once, and then looks for an order of them that gives the same answers and the same tree.
pub(super) fn at_once<W: World>(plans: Vec<Vec<Op>>) {
    let world = Arc::new(W::new());
    let done = Arc::new(Mutex::new(Vec::new()));
    let plans = Arc::new(plans);
    let threads: Vec<_> = (0..plans.len())
        .map(|thread| {
            let (world, done, plans) = (world.clone(), done.clone(), plans.clone());
            shuttle::thread::spawn(move || {
                let mut kernel = Kernel::new(world.vfs());
                let dirs = dirs::<W>(&mut kernel);
                let mut answers = Vec::new();
                for op in &plans[thread] {
                    answers.push(act(&*world, &mut kernel, &dirs, *op));
                    done.lock().push(thread);
                }
                (answers, kernel)
            })
        })
        .collect();
    let mut answers = Vec::new();
    let mut kernels = Vec::new();
    for thread in threads {
        let (answer, kernel) = thread.join().expect("a thread");
        answers.push(answer);
        kernels.push(kernel);
    }
    kernels.into_iter().for_each(Kernel::end);
    let tree = end(&*world, Kernel::new(world.vfs()));
    let mut tried = Vec::new();
    let mut is_it = |order: &[usize]| {
        let found = in_order::<W>(&plans, order);
        let same = found.0 == answers && found.1 == tree;
        if !same && tried.len() < 3 {
            tried.push(found);
        }
        same
    };
    // The order in which they were done is mostly the one.
    let finished = done.lock().clone();
    if is_it(&finished) {
        return;
    }
    let mut left: Vec<usize> = plans.iter().map(Vec::len).collect();
    assert!(
        orders(&mut left, &mut Vec::new(), &mut is_it),
        "no order of these gives that\nplans: {plans:?}\nanswers: {answers:?}\ntree: {:?}\nin the order in which they ended: {:?}",
        readable(&tree),
        tried.first().map(|(answers, tree)| (answers, readable(tree)))
    );
}

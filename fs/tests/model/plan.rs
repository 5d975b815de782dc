//! Operations, and how they are made up: half of them aim at what stands there, so that most do something.

use proptest::prelude::*;
use proptest::sample::Index;
use wink_fs::attr::{Kind, Time};
use wink_fs::backing::RenameMode;
use wink_fs::vfs::OpenHow;

use crate::memory::Memory;
use crate::reference::Model;

/// Few names, so that paths meet.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// How deep made-up paths go; renames go deeper.
const DEPTH_MAX: usize = 3;
/// Explicit times set by a plan: neither the clock of the memory nor that of the machine ever says these.
const PLAN_TIME: i64 = 1_300_000_000_000_000_000;

/// What an operation answers, as far as a program may rely on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Looked { kind: Kind, mode: u32, size: u64 },
    Names(Vec<(String, Kind)>),
    Bytes(Vec<u8>),
    Count(u64),
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Op {
    Look(String),
    List(String),
    ReadLink(String),
    Make {
        path: String,
        kind: Kind,
        mode: u32,
    },
    MakeLink {
        path: String,
        target: Vec<u8>,
    },
    Create {
        path: String,
        mode: u32,
        how: OpenHow,
    },
    Open {
        path: String,
        how: OpenHow,
    },
    Read {
        slot: usize,
        offset: u64,
        size: usize,
    },
    Write {
        slot: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    Copy {
        from: usize,
        from_offset: u64,
        to: usize,
        to_offset: u64,
        length: u64,
    },
    Close {
        slot: usize,
    },
    Resize {
        path: String,
        size: u64,
    },
    ResizeOpen {
        slot: usize,
        size: u64,
    },
    Mode {
        path: String,
        mode: u32,
    },
    ModeOpen {
        slot: usize,
        mode: u32,
    },
    Times {
        path: String,
        mtime: Time,
    },
    Rename {
        from: String,
        to: String,
        mode: RenameMode,
    },
    HardLink {
        from: String,
        to: String,
    },
    HardLinkOpen {
        slot: usize,
        to: String,
    },
    RemoveFile(String),
    RemoveDir(String),
    /// The kernel drops all names it remembers.
    Forget,
}

/// A path, still open.
#[derive(Clone, Debug)]
pub enum Pick {
    /// One that stands there.
    Standing(Index),
    /// A name in a directory that stands there.
    In(Index, &'static str),
    /// Any.
    Any(String),
}

/// An operation, still open: which, where, and what with.
#[derive(Clone, Debug)]
pub struct Draft {
    what: u8,
    one: Pick,
    two: Pick,
    slot: Index,
    other_slot: Index,
    number: u8,
    second: u8,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..=DEPTH_MAX)
        .prop_map(|names| names.iter().map(|name| format!("/{name}")).collect())
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        3 => any::<Index>().prop_map(Pick::Standing),
        3 => (any::<Index>(), prop::sample::select(&NAMES[..])).prop_map(|(dir, name)| Pick::In(dir, name)),
        1 => path().prop_map(Pick::Any),
    ]
}

/// Some operations.
pub fn drafts(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Draft>> {
    let draft = (0..64u8, pick(), pick(), any::<Index>(), any::<Index>(), any::<u8>(), any::<u8>()).prop_map(
        |(what, one, two, slot, other_slot, number, second)| Draft { what, one, two, slot, other_slot, number, second },
    );
    prop::collection::vec(draft, count)
}

fn chosen(pick: &Pick, model: &Model) -> String {
    let nth =
        |paths: Vec<&String>, index: &Index| paths.get(index.index(paths.len().max(1))).map(|path| (*path).clone());
    match pick {
        Pick::Standing(index) => nth(model.tree.keys().collect(), index).unwrap_or_else(|| "/a".to_owned()),
        Pick::In(index, name) => {
            let top = String::new();
            let dirs = model.tree.iter().filter(|(_, thing)| model.things[**thing].kind == Kind::Dir);
            let dirs = std::iter::once(&top).chain(dirs.map(|(path, _)| path)).collect();
            format!("{}/{name}", nth(dirs, index).unwrap_or_default())
        }
        Pick::Any(path) => path.clone(),
    }
}

impl Draft {
    /// The operation it stands for, given what stands in the tree.
    pub fn settle(&self, model: &Model) -> Op {
        let (number, second) = (u64::from(self.number), u64::from(self.second));
        let path = chosen(&self.one, model);
        let mode = [0o644, 0o755, 0o600, 0o400][self.number as usize % 4];
        let dir_mode = [0o755, 0o700][self.number as usize % 2];
        let write = OpenHow { read: second % 3 != 0, write: true, truncate: number % 3 == 0 };
        let slot = |index: &Index, fits: &dyn Fn(bool, bool) -> bool| {
            let open: Vec<usize> = (0..model.held.len())
                .filter(|&slot| model.held[slot].is_some_and(|held| fits(held.read, held.write)))
                .collect();
            open.get(index.index(open.len().max(1))).copied()
        };
        let readable = slot(&self.slot, &|read, _| read);
        let writable = slot(&self.other_slot, &|_, write| write);
        let any_slot = slot(&self.slot, &|_, _| true);
        let (offset, size) = (number % 12, second % 12);
        let look = Op::Look(path.clone());
        match self.what {
            0..=2 => look,
            3..=5 => Op::List(if number % 8 == 0 { String::new() } else { path }),
            6 => Op::ReadLink(path),
            7 => Op::Make { path, kind: if number % 2 == 0 { Kind::File } else { Kind::Pipe }, mode },
            8..=12 => Op::Make { path, kind: Kind::Dir, mode: dir_mode },
            13..=14 => Op::MakeLink { path, target: vec![b'a' + self.number % 3; 1 + self.second as usize % 4] },
            15..=19 => Op::Create { path, mode, how: OpenHow { truncate: false, ..write } },
            20..=24 => Op::Open { path, how: write },
            25..=26 => Op::Open { path, how: OpenHow { read: true, write: false, truncate: false } },
            27..=28 => readable.map_or(look, |slot| Op::Read { slot, offset, size: size as usize }),
            29..=33 => {
                writable.map_or(look, |slot| Op::Write { slot, offset, bytes: vec![self.second; 1 + size as usize] })
            }
            34 => readable.zip(writable).map_or(look, |(from, to)| Op::Copy {
                from,
                from_offset: number % 5,
                to,
                to_offset: second % 9,
                length: 1 + number / 32,
            }),
            35..=37 => any_slot.map_or(look, |slot| Op::Close { slot }),
            38 => Op::Resize { path, size: offset },
            39 => writable.map_or(look, |slot| Op::ResizeOpen { slot, size: offset }),
            40..=41 => Op::Mode { path, mode: if number % 2 == 0 { mode } else { dir_mode } },
            42 => any_slot.map_or(look, |slot| Op::ModeOpen { slot, mode }),
            43 => Op::Times { path, mtime: Time(PLAN_TIME + i64::from(self.number)) },
            44..=51 => {
                let mode = match number % 6 {
                    0 => RenameMode::NoReplace,
                    1 | 2 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                Op::Rename { from: path, to: chosen(&self.two, model), mode }
            }
            52..=53 => Op::HardLink { from: path, to: chosen(&self.two, model) },
            54 => any_slot.map_or(look, |slot| Op::HardLinkOpen { slot, to: path }),
            55..=58 => Op::RemoveFile(path),
            59..=61 => Op::RemoveDir(path),
            _ => Op::Forget,
        }
    }
}

/// What the lower tree holds, in the order in which it is made; what cannot be made is left out.
#[derive(Clone, Debug)]
pub struct Seed {
    path: String,
    what: u8,
    bytes: Vec<u8>,
    source: Index,
}

/// Some things of a lower tree.
pub fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let seed = (path(), 0..10u8, prop::collection::vec(b'0'..=b'9', 0..8), any::<Index>())
        .prop_map(|(path, what, bytes, source)| Seed { path, what, bytes, source });
    prop::collection::vec(seed, 0..14)
}

/// The lower tree.
pub fn grow(seeds: &[Seed]) -> Memory {
    let memory = Memory::new();
    for Seed { path, what, bytes, source } in seeds {
        for (slash, _) in path.match_indices('/').skip(1) {
            // Already there, or in the way of what follows: either is fine.
            let _ = memory.dir(&path[..slash], 0o755);
        }
        let made = match what {
            0..=2 => memory.dir(path, if bytes.len() % 2 == 0 { 0o755 } else { 0o700 }),
            3 => memory.link(path, b"a/b"),
            4..=5 => {
                let files: Vec<String> = memory
                    .snapshot()
                    .into_iter()
                    .filter(|(_, shown)| shown.kind != Kind::Dir)
                    .map(|(path, _)| path)
                    .collect();
                match files.get(source.index(files.len().max(1))) {
                    Some(file) => memory.alias(file, path),
                    None => Ok(()),
                }
            }
            _ if memory.look(path).is_ok() => Ok(()),
            _ => memory.file(path, bytes, if bytes.len() % 3 == 0 { 0o755 } else { 0o644 }),
        };
        // Taken, or below a file: left out.
        let _ = made;
    }
    memory
}

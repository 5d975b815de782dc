//! What a plain POSIX tree answers: a map of paths to things, and nothing clever.

use std::collections::{BTreeMap, BTreeSet};

use wink_fs::attr::{Kind, Time};
use wink_fs::backing::RenameMode;
use wink_fs::status::Status;

use crate::memory::{Memory, Shown, Snapshot};
use crate::plan::{Answer, Op};

/// What a name stands for; names of one file share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    pub kind: Kind,
    pub mode: u32,
    pub bytes: Vec<u8>,
    /// When the bytes changed last, where that can be told: not after a write, which happens at some "now".
    pub mtime: Option<Time>,
    /// The task opened it for writing or changed an attribute: it may be among the changes though nothing differs.
    pub touched: bool,
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub thing: usize,
    pub read: bool,
    pub write: bool,
}

/// The tree. The top is "" and always there.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub tree: BTreeMap<String, usize>,
    pub things: Vec<Thing>,
    pub held: Vec<Option<Held>>,
}

/// The directory part of a path.
pub fn above(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..slash])
}

/// Whether `path` is `top` or lies below it.
pub fn is_within(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Model {
    /// What stands in `memory`, without the hidden paths.
    pub fn of(memory: &Memory, hidden: &BTreeSet<String>) -> Model {
        let mut model = Model::default();
        let mut known = BTreeMap::new();
        for (path, shown) in memory.snapshot() {
            let Ok(attr) = memory.look(&path) else { continue };
            if hidden.contains(&path) {
                continue;
            }
            let thing = *known.entry(attr.ino).or_insert_with(|| {
                let Shown { kind, mode, bytes } = shown;
                model.things.push(Thing { kind, mode, bytes, mtime: Some(attr.mtime), touched: false });
                model.things.len() - 1
            });
            model.tree.insert(path, thing);
        }
        model
    }

    /// The tree as programs see it.
    pub fn snapshot(&self) -> Snapshot {
        self.tree
            .iter()
            .map(|(path, &thing)| {
                let Thing { kind, mode, bytes, .. } = &self.things[thing];
                let mode = if *kind == Kind::Link { 0 } else { *mode };
                (path.clone(), Shown { kind: *kind, mode, bytes: bytes.clone() })
            })
            .collect()
    }

    /// How many names a thing has.
    pub fn names_of(&self, thing: usize) -> usize {
        self.tree.values().filter(|&&other| other == thing).count()
    }

    /// How many things can be reached by a name.
    pub fn reachable(&self) -> usize {
        self.tree.values().collect::<BTreeSet<_>>().len()
    }

    /// Names in a directory.
    pub fn below(&self, dir: &str) -> Vec<(String, Kind)> {
        self.tree
            .iter()
            .filter(|(path, _)| above(path) == dir && path.len() > dir.len())
            .map(|(path, &thing)| (path[dir.len() + 1..].to_owned(), self.things[thing].kind))
            .collect()
    }

    fn get(&self, path: &str) -> Result<usize, Status> {
        self.parent(path)?;
        self.tree.get(path).copied().ok_or(Status::NotFound)
    }

    fn parent(&self, path: &str) -> Result<(), Status> {
        let dir = above(path);
        if dir.is_empty() {
            return Ok(());
        }
        match self.things[self.get(dir)?].kind {
            Kind::Dir => Ok(()),
            _ => Err(Status::NotDir),
        }
    }

    fn free(&self, path: &str) -> Result<(), Status> {
        self.parent(path)?;
        if self.tree.contains_key(path) { Err(Status::Exists) } else { Ok(()) }
    }

    fn make(&mut self, path: &str, kind: Kind, mode: u32, bytes: &[u8]) -> Result<usize, Status> {
        self.free(path)?;
        self.things.push(Thing { kind, mode, bytes: bytes.to_vec(), mtime: None, touched: true });
        self.tree.insert(path.to_owned(), self.things.len() - 1);
        Ok(self.things.len() - 1)
    }

    fn look(&self, thing: usize) -> Answer {
        let thing = &self.things[thing];
        let size = if thing.kind == Kind::Dir { 0 } else { thing.bytes.len() as u64 };
        let mode = if thing.kind == Kind::Link { 0 } else { thing.mode };
        Answer::Looked { kind: thing.kind, mode, size }
    }

    fn file(&self, thing: usize) -> Result<(), Status> {
        match self.things[thing].kind {
            Kind::File => Ok(()),
            Kind::Dir => Err(Status::IsDir),
            _ => Err(Status::Invalid),
        }
    }

    fn resize(&mut self, thing: usize, size: u64) -> Result<Answer, Status> {
        self.file(thing)?;
        let thing = &mut self.things[thing];
        thing.bytes.resize(size as usize, 0);
        (thing.mtime, thing.touched) = (None, true);
        Ok(Answer::Done)
    }

    fn write(&mut self, thing: usize, offset: u64, bytes: &[u8]) {
        let thing = &mut self.things[thing];
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if thing.bytes.len() < end {
            thing.bytes.resize(end, 0);
        }
        thing.bytes[start..end].copy_from_slice(bytes);
        (thing.mtime, thing.touched) = (None, true);
    }

    fn slot(&self, slot: usize) -> Held {
        // Plans name only slots that are open.
        self.held[slot].expect("an open slot")
    }

    /// Carries an operation out.
    pub fn apply(&mut self, op: &Op) -> Result<Answer, Status> {
        match op {
            Op::Look(path) => Ok(self.look(self.get(path)?)),
            Op::List(path) => {
                if !path.is_empty() && self.things[self.get(path)?].kind != Kind::Dir {
                    return Err(Status::NotDir);
                }
                Ok(Answer::Names(self.below(path)))
            }
            Op::ReadLink(path) => match &self.things[self.get(path)?] {
                Thing { kind: Kind::Link, bytes, .. } => Ok(Answer::Bytes(bytes.clone())),
                _ => Err(Status::Invalid),
            },
            Op::Make { path, kind, mode } => {
                let thing = self.make(path, *kind, *mode, b"")?;
                Ok(self.look(thing))
            }
            Op::MakeLink { path, target } => {
                let thing = self.make(path, Kind::Link, 0o777, target)?;
                Ok(self.look(thing))
            }
            Op::Create { path, mode, how } => {
                let thing = self.make(path, Kind::File, *mode, b"")?;
                self.held.push(Some(Held { thing, read: how.read, write: how.write }));
                Ok(self.look(thing))
            }
            Op::Open { path, how } => {
                let thing = self.get(path)?;
                match self.things[thing].kind {
                    Kind::File => {}
                    Kind::Dir => return Err(Status::IsDir),
                    Kind::Link => return Err(Status::Loop),
                    _ => return Err(Status::NoData),
                }
                if how.truncate {
                    self.resize(thing, 0)?;
                }
                self.things[thing].touched |= how.write;
                self.held.push(Some(Held { thing, read: how.read, write: how.write }));
                Ok(Answer::Done)
            }
            Op::Read { slot, offset, size } => {
                let bytes = &self.things[self.slot(*slot).thing].bytes;
                let rest = bytes.get(*offset as usize..).unwrap_or_default();
                Ok(Answer::Bytes(rest[..rest.len().min(*size)].to_vec()))
            }
            Op::Write { slot, offset, bytes } => {
                self.write(self.slot(*slot).thing, *offset, bytes);
                Ok(Answer::Done)
            }
            Op::Copy { from, from_offset, to, to_offset, length } => {
                let (from, to) = (self.slot(*from).thing, self.slot(*to).thing);
                let rest = self.things[from].bytes.get(*from_offset as usize..).unwrap_or_default();
                let piece = rest[..rest.len().min(*length as usize)].to_vec();
                let size = piece.len() as u64;
                if from == to && *from_offset < to_offset + size && *to_offset < from_offset + size {
                    return Err(Status::Invalid);
                }
                if !piece.is_empty() {
                    self.write(to, *to_offset, &piece);
                }
                Ok(Answer::Count(size))
            }
            Op::Close { slot } => {
                self.held[*slot] = None;
                Ok(Answer::Done)
            }
            Op::Resize { path, size } => {
                let thing = self.get(path)?;
                self.resize(thing, *size)
            }
            Op::ResizeOpen { slot, size } => self.resize(self.slot(*slot).thing, *size),
            Op::Mode { path, mode } => {
                let thing = self.get(path)?;
                let thing = &mut self.things[thing];
                (thing.mode, thing.touched) = (*mode, true);
                Ok(Answer::Done)
            }
            Op::ModeOpen { slot, mode } => {
                let thing = self.slot(*slot).thing;
                let thing = &mut self.things[thing];
                (thing.mode, thing.touched) = (*mode, true);
                Ok(Answer::Done)
            }
            Op::Times { path, mtime } => {
                let thing = self.get(path)?;
                let thing = &mut self.things[thing];
                (thing.mtime, thing.touched) = (Some(*mtime), true);
                Ok(Answer::Done)
            }
            Op::Rename { from, to, mode } => self.rename(from, to, *mode),
            Op::HardLink { from, to } => {
                let thing = self.get(from)?;
                self.free(to)?;
                if self.things[thing].kind == Kind::Dir {
                    return Err(Status::NotPermitted);
                }
                self.tree.insert(to.clone(), thing);
                Ok(self.look(thing))
            }
            Op::HardLinkOpen { slot, to } => {
                let thing = self.slot(*slot).thing;
                self.free(to)?;
                if self.names_of(thing) == 0 {
                    return Err(Status::NotFound);
                }
                self.tree.insert(to.clone(), thing);
                Ok(self.look(thing))
            }
            Op::RemoveFile(path) => {
                if self.things[self.get(path)?].kind == Kind::Dir {
                    return Err(Status::IsDir);
                }
                self.tree.remove(path);
                Ok(Answer::Done)
            }
            Op::RemoveDir(path) => {
                if self.things[self.get(path)?].kind != Kind::Dir {
                    return Err(Status::NotDir);
                }
                if !self.below(path).is_empty() {
                    return Err(Status::NotEmpty);
                }
                self.tree.remove(path);
                Ok(Answer::Done)
            }
            Op::Forget => Ok(Answer::Done),
        }
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Result<Answer, Status> {
        // Both directories are looked up before either name (`renameat2`).
        self.parent(from)?;
        self.parent(to)?;
        let moved = self.get(from)?;
        let other = self.tree.get(to).copied();
        match (mode, other) {
            (RenameMode::NoReplace, Some(_)) => return Err(Status::Exists),
            (RenameMode::Exchange, None) => return Err(Status::NotFound),
            _ => {}
        }
        if above(to) == from || is_within(above(to), from) {
            return Err(Status::Invalid);
        }
        if is_within(above(from), to) {
            return Err(if mode == RenameMode::Exchange { Status::Invalid } else { Status::NotEmpty });
        }
        if other == Some(moved) {
            return Ok(Answer::Done);
        }
        if let (Some(other), false) = (other, mode == RenameMode::Exchange) {
            match (self.things[moved].kind == Kind::Dir, self.things[other].kind == Kind::Dir) {
                (true, false) => return Err(Status::NotDir),
                (false, true) => return Err(Status::IsDir),
                (true, true) if !self.below(to).is_empty() => return Err(Status::NotEmpty),
                _ => {}
            }
        }
        let taken = self.cut(from);
        let given = self.cut(to);
        self.paste(to, taken);
        if mode == RenameMode::Exchange {
            self.paste(from, given);
        }
        Ok(Answer::Done)
    }

    fn cut(&mut self, top: &str) -> Vec<(String, usize)> {
        let paths: Vec<String> = self.tree.keys().filter(|path| is_within(path, top)).cloned().collect();
        paths
            .into_iter()
            .filter_map(|path| self.tree.remove(&path).map(|thing| (path[top.len()..].to_owned(), thing)))
            .collect()
    }

    fn paste(&mut self, top: &str, things: Vec<(String, usize)>) {
        self.tree.extend(things.into_iter().map(|(rest, thing)| (format!("{top}{rest}"), thing)));
    }
}

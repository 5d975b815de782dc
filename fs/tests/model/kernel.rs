//! Asks a filesystem as a kernel does: names are looked up one by one, also those about to be made or removed; what was looked up is
//! held, and forgotten at once or later.

use std::collections::{BTreeMap, HashMap};

use wink_fs::attr::{Attr, Kind, SetAttr};
use wink_fs::status::Status;
use wink_fs::vfs::{Caller, Entry, NodeId, OpenHow, TOP, Vfs};

use crate::memory::{OWNER, Shown};
use crate::plan::{Answer, NAMES, Op};

/// Who asks.
pub const CALLER: Caller = Caller { uid: OWNER.0, gid: OWNER.1 };
/// More than any file of a plan holds.
const READ_ALL: usize = 4096;

type Result<T> = std::result::Result<T, Status>;

fn read(vfs: &impl Vfs, id: NodeId, offset: u64, size: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; size];
    let count = vfs.read(id, offset, &mut buffer)?;
    buffer.truncate(count);
    Ok(buffer)
}

/// What a walk saw at a path.
#[derive(Clone, Debug)]
pub struct Walked {
    pub shown: Shown,
    pub attr: Attr,
}

/// See the module.
pub struct Kernel<'v, V> {
    pub vfs: &'v V,
    /// Forget each name right after the operation.
    pub hasty: bool,
    held: HashMap<NodeId, u64>,
    slots: Vec<Option<NodeId>>,
}

impl<'v, V: Vfs> Kernel<'v, V> {
    pub fn new(vfs: &'v V, hasty: bool) -> Kernel<'v, V> {
        Kernel { vfs, hasty, held: HashMap::new(), slots: Vec::new() }
    }

    fn hold(&mut self, id: NodeId) -> NodeId {
        *self.held.entry(id).or_default() += 1;
        id
    }

    /// Looks a name up.
    pub fn look(&mut self, dir: NodeId, name: &str) -> Result<Option<Entry>> {
        let entry = self.vfs.lookup(CALLER, dir, name.as_bytes())?.entry;
        if let Some(entry) = &entry {
            self.hold(entry.id);
        }
        Ok(entry)
    }

    /// Walks to a path; "" is the top.
    pub fn walk_to(&mut self, path: &str) -> Result<NodeId> {
        let mut at = TOP;
        for name in path.split('/').skip(1) {
            at = self.look(at, name)?.ok_or(Status::NotFound)?.id;
        }
        Ok(at)
    }

    /// Attributes of a path.
    pub fn attr(&mut self, path: &str) -> Result<Attr> {
        let id = self.walk_to(path)?;
        Ok(self.vfs.attr(id)?.attr)
    }

    /// The directory of a path, and the name in it, looked up too.
    fn door<'p>(&mut self, path: &'p str) -> Result<(NodeId, &'p str, Option<Entry>)> {
        let (dir, name) = path.rsplit_once('/').ok_or(Status::Invalid)?;
        let dir = self.walk_to(dir)?;
        let there = self.look(dir, name)?;
        Ok((dir, name, there))
    }

    /// Drops all names, keeping open files.
    pub fn forget(&mut self) {
        for (id, count) in std::mem::take(&mut self.held) {
            self.vfs.forget(id, count);
        }
    }

    /// Closes everything and drops all names.
    pub fn leave(&mut self) {
        for id in std::mem::take(&mut self.slots).into_iter().flatten() {
            self.vfs.release(id);
            self.vfs.forget(id, 1);
        }
        self.forget();
    }

    fn opened(&mut self, id: NodeId) {
        // An open file holds its node, whatever becomes of the names.
        if let Some(count) = self.held.get_mut(&id) {
            *count -= 1;
        }
        self.held.retain(|_, count| *count > 0);
        self.slots.push(Some(id));
    }

    fn slot(&self, slot: usize) -> Result<NodeId> {
        self.slots.get(slot).copied().flatten().ok_or(Status::Invalid)
    }

    fn made(&mut self, entry: Entry) -> Answer {
        self.hold(entry.id);
        looked(&entry.attr)
    }

    /// Carries an operation out.
    pub fn apply(&mut self, op: &Op) -> Result<Answer> {
        let answer = self.carry_out(op);
        if self.hasty {
            self.forget();
        }
        answer
    }

    fn carry_out(&mut self, op: &Op) -> Result<Answer> {
        let vfs = self.vfs;
        match op {
            Op::Look(path) => {
                let id = self.walk_to(path)?;
                Ok(looked(&vfs.attr(id)?.attr))
            }
            Op::List(path) => {
                let id = self.walk_to(path)?;
                Ok(Answer::Names(self.names(id)?))
            }
            Op::ReadLink(path) => {
                let id = self.walk_to(path)?;
                Ok(Answer::Bytes(vfs.read_link(id)?))
            }
            Op::Make { path, kind, mode } => {
                let (dir, name, _) = self.door(path)?;
                let entry = match kind {
                    Kind::Dir => vfs.make_dir(CALLER, dir, name.as_bytes(), *mode)?,
                    _ => vfs.make_node(CALLER, dir, name.as_bytes(), *kind, *mode, 0)?,
                };
                Ok(self.made(entry))
            }
            Op::MakeLink { path, target } => {
                let (dir, name, _) = self.door(path)?;
                let entry = vfs.make_link(CALLER, dir, name.as_bytes(), target)?;
                Ok(self.made(entry))
            }
            Op::Create { path, mode, how } => {
                let (dir, name, _) = self.door(path)?;
                let (entry, _) = vfs.create(CALLER, dir, name.as_bytes(), *mode, *how)?;
                let id = entry.id;
                let answer = self.made(entry);
                self.opened(id);
                Ok(answer)
            }
            Op::Open { path, how } => {
                let id = self.walk_to(path)?;
                vfs.open(CALLER, id, *how)?;
                self.opened(id);
                Ok(Answer::Done)
            }
            Op::Read { slot, offset, size } => Ok(Answer::Bytes(read(vfs, self.slot(*slot)?, *offset, *size)?)),
            Op::Write { slot, offset, bytes } => {
                vfs.write(self.slot(*slot)?, *offset, bytes)?;
                Ok(Answer::Done)
            }
            Op::Copy { from, from_offset, to, to_offset, length } => {
                let (from, to) = (self.slot(*from)?, self.slot(*to)?);
                Ok(Answer::Count(vfs.copy_range(from, *from_offset, to, *to_offset, *length)?))
            }
            Op::Close { slot } => {
                let id = self.slot(*slot)?;
                self.slots[*slot] = None;
                vfs.release(id);
                self.hold(id);
                Ok(Answer::Done)
            }
            Op::Resize { path, size } => {
                let id = self.walk_to(path)?;
                self.change(id, SetAttr { size: Some(*size), ..SetAttr::default() })
            }
            Op::ResizeOpen { slot, size } => {
                let id = self.slot(*slot)?;
                self.change(id, SetAttr { size: Some(*size), ..SetAttr::default() })
            }
            Op::Mode { path, mode } => {
                let id = self.walk_to(path)?;
                self.change(id, SetAttr { mode: Some(*mode), ..SetAttr::default() })
            }
            Op::ModeOpen { slot, mode } => {
                let id = self.slot(*slot)?;
                self.change(id, SetAttr { mode: Some(*mode), ..SetAttr::default() })
            }
            Op::Times { path, mtime } => {
                let id = self.walk_to(path)?;
                self.change(id, SetAttr { mtime: Some(*mtime), ..SetAttr::default() })
            }
            Op::Rename { from, to, mode } => {
                let split = |path: &str| path.rsplit_once('/').map(|(dir, _)| dir.to_owned()).ok_or(Status::Invalid);
                let (from_dir, to_dir) = (split(from)?, split(to)?);
                self.need_dir(&from_dir)?;
                self.need_dir(&to_dir)?;
                let (dir, name, _) = self.door(from)?;
                let (to_dir, to_name, _) = self.door(to)?;
                vfs.rename(CALLER, dir, name.as_bytes(), to_dir, to_name.as_bytes(), *mode)?;
                Ok(Answer::Done)
            }
            Op::HardLink { from, to } => {
                let id = self.walk_to(from)?;
                let (dir, name, _) = self.door(to)?;
                let entry = vfs.hard_link(CALLER, id, dir, name.as_bytes())?;
                Ok(self.made(entry))
            }
            Op::HardLinkOpen { slot, to } => {
                let id = self.slot(*slot)?;
                let (dir, name, _) = self.door(to)?;
                let entry = vfs.hard_link(CALLER, id, dir, name.as_bytes())?;
                Ok(self.made(entry))
            }
            Op::RemoveFile(path) => {
                let (dir, name, _) = self.door(path)?;
                vfs.remove_file(CALLER, dir, name.as_bytes())?;
                Ok(Answer::Done)
            }
            Op::RemoveDir(path) => {
                let (dir, name, _) = self.door(path)?;
                vfs.remove_dir(CALLER, dir, name.as_bytes())?;
                Ok(Answer::Done)
            }
            Op::Forget => {
                self.forget();
                Ok(Answer::Done)
            }
        }
    }

    fn need_dir(&mut self, path: &str) -> Result<()> {
        let id = self.walk_to(path)?;
        if self.vfs.attr(id)?.attr.kind == Kind::Dir { Ok(()) } else { Err(Status::NotDir) }
    }

    fn change(&mut self, id: NodeId, change: SetAttr) -> Result<Answer> {
        self.vfs.set_attr(CALLER, id, &change)?;
        Ok(Answer::Done)
    }

    /// Names and kinds in a directory, sorted.
    pub fn names(&mut self, id: NodeId) -> Result<Vec<(String, Kind)>> {
        let listed = self.vfs.list(CALLER, id)?;
        let mut names: Vec<(String, Kind)> = listed
            .items
            .iter()
            .filter(|item| item.name != b"." && item.name != b"..")
            .map(|item| (String::from_utf8_lossy(&item.name).into_owned(), item.kind))
            .collect();
        names.sort();
        Ok(names)
    }

    /// All bytes of a file.
    pub fn bytes(&mut self, id: NodeId) -> Result<Vec<u8>> {
        self.vfs.open(CALLER, id, OpenHow { read: true, write: false, truncate: false })?;
        let bytes = read(self.vfs, id, 0, READ_ALL);
        self.vfs.release(id);
        bytes
    }

    /// Everything, once by listing and once by asking for every name there may be; panics where the two differ.
    pub fn walk(&mut self) -> Result<BTreeMap<String, Walked>> {
        let mut all = BTreeMap::new();
        let mut work = vec![(String::new(), TOP)];
        while let Some((path, dir)) = work.pop() {
            let listed = self.vfs.list(CALLER, dir)?;
            let mut found = Vec::new();
            for name in NAMES {
                let Some(entry) = self.look(dir, name)? else { continue };
                found.push((name.to_owned(), entry.attr.kind));
                let numbers: Vec<u64> =
                    listed.items.iter().filter(|item| item.name == name.as_bytes()).map(|item| item.ino).collect();
                assert_eq!(numbers.len(), 1, "{path}/{name} is listed {} times", numbers.len());
                let at = format!("{path}/{name}");
                let attr = self.vfs.attr(entry.id)?.attr;
                let bytes = match attr.kind {
                    Kind::File => self.bytes(entry.id)?,
                    Kind::Link => self.vfs.read_link(entry.id)?,
                    _ => Vec::new(),
                };
                if matches!(attr.kind, Kind::File | Kind::Link) {
                    assert_eq!(attr.size, bytes.len() as u64, "size of {at}");
                }
                assert_eq!(attr.ino, entry.id.0, "number of {at}");
                let mode = if attr.kind == Kind::Link { 0 } else { attr.mode };
                all.insert(at.clone(), Walked { shown: Shown { kind: attr.kind, mode, bytes }, attr });
                if attr.kind == Kind::Dir {
                    work.push((at, entry.id));
                }
            }
            assert_eq!(self.names(dir)?, found, "listing of {path:?} against its names");
        }
        if self.hasty {
            self.forget();
        }
        Ok(all)
    }
}

fn looked(attr: &Attr) -> Answer {
    let size = if attr.kind == Kind::Dir { 0 } else { attr.size };
    let mode = if attr.kind == Kind::Link { 0 } else { attr.mode };
    Answer::Looked { kind: attr.kind, mode, size }
}

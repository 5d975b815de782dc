//! A layered tree at `/w` of a memory, with its blobs at `/blobs` of the same, its log, and a way to look at all of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use wink_fs::attr::{Attr, Kind, Time};
use wink_fs::backing::{Access, Backing, BackingFile, Result};
use wink_fs::layer::Layer;
use wink_fs::layered::{Layered, LayeredDir, Shelf};
use wink_fs::name::Name;
use wink_fs::status::Status;
use wink_store::{Digest, Output, Pack, Packed, Step};

use crate::memory::{Memory, MemoryDir, MemoryFile, OWNER};

/// The shelf. Clones share it.
#[derive(Clone)]
pub struct Desk {
    memory: Memory,
    packs: Arc<Mutex<HashMap<Digest, Arc<Pack>>>>,
    pub log: Arc<Mutex<Vec<Step>>>,
    /// How many more logs are taken; `None`: all.
    pub patience: Arc<Mutex<Option<usize>>>,
}

/// What stands at a path, as far as programs care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub kind: Kind,
    /// 0 for links, whose mode nobody can change.
    pub mode: u32,
    /// Names of a file, 0 for a directory.
    pub nlink: u32,
    pub bytes: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub type Walk = BTreeMap<String, Shown>;

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub fn file(path: &str, bytes: &[u8]) -> (String, Output) {
    (path.to_owned(), Output::File { digest: Digest::of(bytes), size: bytes.len() as u64, mode: 0o640 })
}

pub fn dir(path: &str) -> (String, Output) {
    (path.to_owned(), Output::Dir { mode: 0o750 })
}

pub fn link(path: &str, target: &str) -> (String, Output) {
    (path.to_owned(), Output::Link { target: target.as_bytes().to_vec() })
}

impl Desk {
    pub fn new(memory: &Memory) -> Desk {
        memory.dir("/blobs", 0o700).expect("a place for blobs");
        Desk { memory: memory.clone(), packs: Arc::default(), log: Arc::default(), patience: Arc::default() }
    }

    pub fn blob(&self, bytes: &[u8]) {
        let path = format!("/blobs/{}", Digest::of(bytes));
        if self.memory.look(&path).is_err() {
            self.memory.file(&path, bytes, 0o444).expect("a blob");
        }
    }

    /// The step that attaches these at `at`.
    pub fn attach(&self, at: &str, entries: impl IntoIterator<Item = (String, Output)>) -> Step {
        let entries = entries.into_iter().map(|(path, output)| Packed { path: path.into_bytes(), output, rank: 0 });
        let mut pack = Pack { entries: entries.collect() };
        pack.entries.sort_by(|one, two| one.path.cmp(&two.path));
        pack.entries.iter_mut().enumerate().for_each(|(rank, entry)| entry.rank = rank as u64);
        let digest = Digest::of(format!("{pack:?}").as_bytes());
        self.packs.lock().insert(digest, Arc::new(pack));
        let first_ns = 1_200_000_000_000_000_000 + self.log.lock().len() as i64 * 1_000;
        Step::Attach { at: at.into(), pack: digest, first_ns, step_ns: 1 }
    }

    /// The layer that the log makes.
    pub fn replay(&self, steps: &[Step]) -> Layer {
        let mut layer = Layer::new();
        for step in steps {
            layer.apply(step, &|digest| Shelf::<MemoryFile>::pack(self, digest)).expect("a step of the log");
        }
        layer
    }

    /// All blobs still are what they are called, with the mode they had.
    pub fn check_blobs(&self) {
        for (path, shown) in self.memory.snapshot() {
            if let Some(digest) = path.strip_prefix("/blobs/") {
                assert_eq!(
                    (digest, shown.mode),
                    (Digest::of(&shown.bytes).to_string().as_str(), 0o444),
                    "a changed blob"
                );
            }
        }
    }
}

impl Shelf<MemoryFile> for Desk {
    fn pack(&self, digest: &Digest) -> Result<Arc<Pack>> {
        self.packs.lock().get(digest).cloned().ok_or(Status::Io)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<MemoryFile> {
        let (dir, name) = self.memory.place(&format!("/blobs/{digest}"))?;
        let file = self.memory.open(&dir, &name, Access::Read).map_err(|_| Status::Io)?;
        if file.attr()?.size == size { Ok(file) } else { Err(Status::Io) }
    }

    fn log(&self, steps: &[Step]) -> Result<()> {
        match &mut *self.patience.lock() {
            Some(0) => return Err(Status::NoSpace),
            Some(left) => *left -= 1,
            None => {}
        }
        self.log.lock().extend_from_slice(steps);
        Ok(())
    }
}

/// A layered tree with all that it stands on.
pub struct Scene {
    pub memory: Memory,
    pub desk: Desk,
    pub tree: Layered<Memory>,
}

/// Over the real directory `/w` of `memory`.
pub fn layered(memory: &Memory, desk: &Desk, layer: Layer) -> Layered<Memory> {
    let lower = memory.child(&memory.root(), &name("w"));
    Layered::new(memory.clone(), vec![name("w")], lower, layer, Arc::new(desk.clone()), OWNER)
}

impl Scene {
    pub fn new() -> Scene {
        let memory = Memory::new();
        let desk = Desk::new(&memory);
        memory.dir("/w", 0o755).expect("the workspace");
        let tree = layered(&memory, &desk, Layer::new());
        Scene { memory, desk, tree }
    }

    /// Attaches at the mount's root or below; files are (path, bytes).
    pub fn attach(&self, at: &str, entries: impl IntoIterator<Item = (String, Output)>, blobs: &[&[u8]]) {
        blobs.iter().for_each(|bytes| self.desk.blob(bytes));
        self.tree.apply(&[self.desk.attach(at, entries)]).expect("attaching");
    }

    /// As after a crash, or the next mount.
    pub fn reopened(&self) -> Layered<Memory> {
        let steps = self.desk.log.lock().clone();
        layered(&self.memory, &self.desk, self.desk.replay(&steps))
    }

    /// Everything shown, after checking that it would be shown again after a replay, and after one of the compacted log.
    pub fn walk(&self) -> Walk {
        let shown = walk(&self.tree);
        assert_eq!(walk(&self.reopened()), shown, "after a replay of\n{:#?}", self.desk.log.lock());
        let steps = self.tree.compact(<[Step]>::to_vec);
        assert_eq!(
            walk(&layered(&self.memory, &self.desk, self.desk.replay(&steps))),
            shown,
            "compacted to {steps:#?}"
        );
        self.desk.check_blobs();
        shown
    }

    /// Whether something real is there.
    pub fn is_real(&self, path: &str) -> bool {
        self.memory.look(&format!("/w/{path}")).is_ok()
    }

    /// The directory and name of a path from the mount's root.
    pub fn spot(&self, path: &str) -> (LayeredDir<MemoryDir>, Name) {
        let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
        (self.tree.dir_at(above.as_bytes()).expect("a path"), name(last))
    }

    pub fn attr(&self, path: &str) -> Result<Attr> {
        let (dir, name) = self.spot(path);
        self.tree.attr(&dir, &name)
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let (dir, name) = self.spot(path);
        bytes(&self.tree.open(&dir, &name, Access::Read)?)
    }

    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let (dir, name) = self.spot(path);
        let file = self.tree.open(&dir, &name, Access::ReadWrite)?;
        file.truncate(0)?;
        file.write_at(bytes, 0)
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        let (dir, name) = self.spot(path);
        self.tree.remove_file(&dir, &name)
    }

    pub fn remove_dir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.spot(path);
        self.tree.remove_dir(&dir, &name)
    }

    pub fn names(&self, path: &str) -> Result<Vec<String>> {
        let entries = self.tree.list(&self.tree.dir_at(path.as_bytes())?)?;
        let mut names: Vec<String> =
            entries.iter().map(|entry| String::from_utf8_lossy(entry.name.as_bytes()).into_owned()).collect();
        names.sort();
        Ok(names)
    }
}

pub fn bytes(file: &MemoryFile) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 100];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Everything below `/w`, asked for as a kernel would; checks on the way that listings agree with attributes.
pub fn walk<B: Backing<File = MemoryFile>>(tree: &B) -> Walk {
    let mut all = Walk::new();
    let mut work = vec![(String::new(), tree.child(&tree.root(), &name("w")))];
    while let Some((path, dir)) = work.pop() {
        let entries = tree.list(&dir).unwrap_or_else(|status| panic!("a listing of {path:?}: {status}"));
        for entry in entries {
            let path = format!("{path}/{}", String::from_utf8_lossy(entry.name.as_bytes()));
            let attr = tree.attr(&dir, &entry.name).unwrap_or_else(|status| panic!("{path}: {status}"));
            assert_eq!((entry.kind, entry.ino), (attr.kind, attr.ino), "{path}: the listing against the attributes");
            let mut shown =
                Shown { kind: attr.kind, mode: attr.mode, nlink: attr.nlink, bytes: vec![], xattrs: vec![] };
            for key in tree.list_xattrs(&dir, Some(&entry.name)).expect("attributes") {
                let value = tree.get_xattr(&dir, Some(&entry.name), &key).expect("an attribute");
                shown.xattrs.push((key, value));
            }
            match attr.kind {
                Kind::File => {
                    let file = tree.open(&dir, &entry.name, Access::Read).expect("opening");
                    shown.bytes = bytes(&file).expect("reading");
                    assert_eq!(attr.size, shown.bytes.len() as u64, "{path}: its size");
                }
                Kind::Link => {
                    shown.mode = 0;
                    shown.bytes = tree.read_link(&dir, &entry.name).expect("a target");
                    assert_eq!(attr.size, shown.bytes.len() as u64, "{path}: its size");
                }
                _ => {}
            }
            if attr.kind == Kind::Dir {
                shown.nlink = 0;
                work.push((path.clone(), tree.child(&dir, &entry.name)));
            }
            assert!(all.insert(path.clone(), shown).is_none(), "{path} is listed twice");
        }
    }
    all
}

/// When pack entries say they changed, at the earliest.
pub const ATTACHED: Time = Time(1_200_000_000_000_000_000);

//! Over a backing that shows some files without having them: each becomes another, real file when it is changed.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use wink_fs::attr::{Attr, SetAttr};
use wink_fs::backing::{Access, Backing, DirEntry, RenameMode, Result, Space, StagedId, Want};
use wink_fs::name::Name;
use wink_fs::status::Status;
use wink_fs::vfs::{TOP, Vfs};

use crate::kernel::{self, BOTH, CALLER, READ};
use crate::memory::{Memory, MemoryDir, MemoryFile};

/// Where the number of a virtual file starts.
const VIRTUAL_INO: u64 = 1 << 51;

/// A tree in which the top shows virtual files, whose bytes lie in a second tree that nothing may change.
struct Shelved {
    real: Memory,
    blobs: Memory,
    shown: Mutex<BTreeMap<Name, u64>>,
}

impl Shelved {
    fn with(name: &str, bytes: &[u8]) -> Shelved {
        let blobs = Memory::new();
        blobs.file(name, bytes, 0o444).expect("makes a blob");
        let name = Name::new(name.as_bytes()).expect("is a name");
        Shelved { real: Memory::new(), blobs, shown: Mutex::new(BTreeMap::from([(name, VIRTUAL_INO + 5)])) }
    }

    fn is_shown(&self, dir: &MemoryDir, name: &Name) -> Option<u64> {
        if self.real.attr(dir, name).is_ok() { None } else { self.shown.lock().get(name).copied() }
    }

    fn make_real(&self, dir: &MemoryDir, name: &Name) -> Result<()> {
        if self.is_shown(dir, name).is_none() {
            return Ok(());
        }
        let was = self.attr(dir, name)?;
        let file = self.real.create(dir, name, was.mode)?;
        let blob = self.blobs.open(&self.blobs.root(), name, Access::Read)?;
        wink_fs::backing::BackingFile::clone_all(&file, &blob)?;
        let times = SetAttr { mtime: Some(was.mtime), ..SetAttr::default() };
        self.real.set_attr(dir, name, &times)?;
        self.shown.lock().remove(name);
        Ok(())
    }
}

impl Backing for Shelved {
    type Dir = MemoryDir;
    type File = MemoryFile;

    fn root(&self) -> MemoryDir {
        self.real.root()
    }
    fn child(&self, dir: &MemoryDir, name: &Name) -> MemoryDir {
        self.real.child(dir, name)
    }
    fn dir_attr(&self, dir: &MemoryDir) -> Result<Attr> {
        self.real.dir_attr(dir)
    }
    fn attr(&self, dir: &MemoryDir, name: &Name) -> Result<Attr> {
        match self.is_shown(dir, name) {
            Some(ino) => {
                let blob = self.blobs.attr(&self.blobs.root(), name)?;
                Ok(Attr { dev: 0, ino, mode: 0o644, ..blob })
            }
            None => self.real.attr(dir, name),
        }
    }
    fn list(&self, dir: &MemoryDir) -> Result<Vec<DirEntry>> {
        self.real.list(dir)
    }
    fn read_link(&self, dir: &MemoryDir, name: &Name) -> Result<Vec<u8>> {
        self.real.read_link(dir, name)
    }
    fn open(&self, dir: &MemoryDir, name: &Name, access: Access) -> Result<MemoryFile> {
        if access == Access::Read && self.is_shown(dir, name).is_some() {
            return self.blobs.open(&self.blobs.root(), name, Access::Read);
        }
        self.make_real(dir, name)?;
        self.real.open(dir, name, access)
    }
    fn permits(&self, dir: &MemoryDir, name: Option<&Name>, want: Want) -> Result<()> {
        self.real.permits(dir, name, want)
    }
    fn space(&self, dir: &MemoryDir) -> Result<Space> {
        self.real.space(dir)
    }
    fn create(&self, dir: &MemoryDir, name: &Name, mode: u32) -> Result<MemoryFile> {
        self.real.create(dir, name, mode)
    }
    fn make_dir(&self, dir: &MemoryDir, name: &Name, mode: u32) -> Result<()> {
        self.real.make_dir(dir, name, mode)
    }
    fn make_link(&self, dir: &MemoryDir, name: &Name, target: &[u8]) -> Result<()> {
        self.real.make_link(dir, name, target)
    }
    fn make_node(&self, dir: &MemoryDir, name: &Name, kind: wink_fs::attr::Kind, mode: u32, rdev: u64) -> Result<()> {
        self.real.make_node(dir, name, kind, mode, rdev)
    }
    fn hard_link(&self, dir: &MemoryDir, name: &Name, to_dir: &MemoryDir, to_name: &Name) -> Result<()> {
        self.make_real(dir, name)?;
        self.real.hard_link(dir, name, to_dir, to_name)
    }
    fn remove_file(&self, dir: &MemoryDir, name: &Name) -> Result<()> {
        if self.is_shown(dir, name).is_some() {
            self.shown.lock().remove(name);
            return Ok(());
        }
        self.real.remove_file(dir, name)
    }
    fn remove_dir(&self, dir: &MemoryDir, name: &Name) -> Result<()> {
        self.real.remove_dir(dir, name)
    }
    fn rename(&self, dir: &MemoryDir, name: &Name, to_dir: &MemoryDir, to_name: &Name, mode: RenameMode) -> Result<()> {
        self.make_real(dir, name)?;
        self.real.rename(dir, name, to_dir, to_name, mode)
    }
    fn set_attr(&self, dir: &MemoryDir, name: &Name, change: &SetAttr) -> Result<()> {
        self.make_real(dir, name)?;
        self.real.set_attr(dir, name, change)
    }
    fn stage(&self) -> Result<(StagedId, MemoryFile)> {
        Err(Status::Unsupported)
    }
    fn open_staged(&self, _id: StagedId) -> Result<MemoryFile> {
        Err(Status::Unsupported)
    }
    fn remove_staged(&self, _id: StagedId) -> Result<()> {
        Err(Status::Unsupported)
    }
}

/// What makes it real; each must leave the node the kernel knows, and the handle that is open.
#[test]
fn a_node_keeps_its_number_when_it_becomes_real() {
    type Act = fn(&wink_fs::worktree::WorkTree<Shelved>) -> Result<()>;
    let acts: [(&str, &str, &[u8], Act); 4] = [
        ("written", "a", b"new", |tree| kernel::write(tree, "a", b"new", true)),
        ("chmod", "a", b"old", |tree| kernel::chmod(tree, "a", 0o600)),
        ("linked", "b", b"old", |tree| kernel::link(tree, "a", "b")),
        ("renamed", "b", b"old", |tree| kernel::rename(tree, "a", "b", RenameMode::Replace)),
    ];
    for (what, now, bytes, act) in acts {
        let tree = kernel::tree(Shelved::with("a", b"old"));
        let blobs = tree.backing().blobs.attributes();
        let id = tree.lookup(CALLER, TOP, b"a").expect("answers").entry.expect("is shown").id;
        assert_eq!(id.0, VIRTUAL_INO + 5, "{what}");
        tree.open(CALLER, id, READ).expect("opens");
        act(&tree).expect(what);
        assert!(tree.backing().real.look(now).is_ok(), "{what}: made real");
        assert_eq!(kernel::at(&tree, now, Ok), Ok(id), "{what}");
        kernel::chmod(&tree, now, 0o640).expect("changes the mode");
        assert_eq!(tree.backing().real.look(now).map(|attr| attr.mode), Ok(0o640), "{what}: of the real file");
        kernel::write(&tree, now, bytes, true).expect("writes");
        assert_eq!(kernel::bytes(&tree, id, 10), Ok(bytes.to_vec()), "{what}: open handles see what is written");
        assert_eq!(tree.backing().blobs.attributes(), blobs, "{what}: the blob is untouched");
        tree.release(id);
        tree.forget(id, 1);
        assert_eq!((tree.node_count(), tree.open_count()), (1, 0), "{what}");
    }
}

#[test]
fn a_removed_virtual_file_lives_on_and_its_blob_is_left_alone() {
    let tree = kernel::tree(Shelved::with("a", b"old"));
    let blobs = tree.backing().blobs.attributes();
    let id = kernel::hold(&tree, "a", READ).expect("opens");
    kernel::unlink(&tree, "a").expect("unlinks");
    assert_eq!(kernel::bytes(&tree, id, 10), Ok(b"old".to_vec()));
    let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let attr = tree.set_attr(CALLER, id, &change).expect("changes the mode").attr;
    assert_eq!((attr.nlink, attr.mode), (0, 0o600));
    assert_eq!(tree.write(id, 0, b"new"), Err(Status::Stale), "nothing of it can be written");
    assert_eq!(tree.open(CALLER, id, BOTH), Err(Status::Stale));
    assert_eq!(tree.backing().blobs.attributes(), blobs);
    tree.release(id);
    assert_eq!(tree.node_count(), 1);
}

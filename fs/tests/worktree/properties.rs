//! Random operations, through the mount and beneath it: the mount must answer as a plain backing does to which the same is done,
//! and leave the same tree. Some nodes stay referred to, some files stay open, whatever becomes of their names.

use proptest::prelude::*;
use wink_fs::attr::{Attr, SetAttr};
use wink_fs::backing::{Access, Backing, BackingFile, RenameMode, Result};
use wink_fs::vfs::{NodeId, Vfs};
use wink_fs::worktree::WorkTree;

use crate::kernel;
use crate::memory::{Memory, MemoryFile};

#[derive(Clone, Debug)]
enum Step {
    Create(String, u32),
    Mkdir(String),
    Symlink(String),
    Write(String, Vec<u8>, bool),
    Chmod(String, u32),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, RenameMode),
    Link(String, String),
    /// Opens a file and keeps it open, for writing too or only for reading.
    Hold(String, bool),
    WriteHeld(usize, Vec<u8>),
    ChmodHeld(usize, u32),
    Close(usize),
    /// The kernel keeps a reference to what it looked up until the end.
    Refer(String),
    UnlinkBeneath(String),
    RenameBeneath(String, String, RenameMode),
    WriteBeneath(String, Vec<u8>),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn mode() -> impl Strategy<Value = RenameMode> {
    prop::sample::select(vec![RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange])
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..6)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (path(), 0u32..0o1000).prop_map(|(path, mode)| Step::Create(path, mode)),
        4 => path().prop_map(Step::Mkdir),
        1 => path().prop_map(Step::Symlink),
        3 => (path(), bytes(), any::<bool>()).prop_map(|(path, bytes, cut)| Step::Write(path, bytes, cut)),
        2 => (path(), 0u32..0o1000).prop_map(|(path, mode)| Step::Chmod(path, mode)),
        2 => path().prop_map(Step::Unlink),
        1 => path().prop_map(Step::Rmdir),
        5 => (path(), path(), mode()).prop_map(|(from, to, mode)| Step::Rename(from, to, mode)),
        3 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        3 => (path(), any::<bool>()).prop_map(|(path, write)| Step::Hold(path, write)),
        3 => (any::<usize>(), bytes()).prop_map(|(which, bytes)| Step::WriteHeld(which, bytes)),
        1 => (any::<usize>(), 0u32..0o1000).prop_map(|(which, mode)| Step::ChmodHeld(which, mode)),
        1 => any::<usize>().prop_map(Step::Close),
        3 => path().prop_map(Step::Refer),
        1 => path().prop_map(Step::UnlinkBeneath),
        2 => (path(), path(), mode()).prop_map(|(from, to, mode)| Step::RenameBeneath(from, to, mode)),
        1 => (path(), bytes()).prop_map(|(path, bytes)| Step::WriteBeneath(path, bytes)),
    ]
}

/// A file open on both sides.
struct Held {
    id: NodeId,
    file: MemoryFile,
    writable: bool,
}

struct Both {
    tree: WorkTree<Memory>,
    plain: Memory,
    held: Vec<Held>,
    referred: Vec<NodeId>,
}

/// What both sides must agree on; times and numbers are each side's own.
fn facts(attr: &Attr) -> impl PartialEq + std::fmt::Debug + use<> {
    (attr.kind, attr.mode, attr.size, attr.nlink, attr.uid, attr.gid)
}

fn rename_in(memory: &Memory, from: &str, to: &str, mode: RenameMode) -> Result<()> {
    let ((dir, name), (to_dir, to_name)) = (memory.place(from)?, memory.place(to)?);
    memory.rename(&dir, &name, &to_dir, &to_name, mode)
}

fn unlink_in(memory: &Memory, path: &str) -> Result<()> {
    let (dir, name) = memory.place(path)?;
    memory.remove_file(&dir, &name)
}

fn write_in(memory: &Memory, path: &str, bytes: &[u8], truncate: bool) -> Result<()> {
    let (dir, name) = memory.place(path)?;
    let file = memory.open(&dir, &name, Access::ReadWrite)?;
    if truncate {
        file.truncate(0)?;
    }
    file.write_at(bytes, 0)
}

impl Both {
    /// Does one step on both sides and returns both outcomes.
    fn run(&mut self, step: &Step) -> (Result<()>, Result<()>) {
        let (tree, plain) = (&self.tree, &self.plain);
        match step {
            Step::Create(path, mode) => {
                let made = plain.place(path).and_then(|(dir, name)| plain.create(&dir, &name, *mode).map(drop));
                (kernel::create(tree, path, *mode), made)
            }
            Step::Mkdir(path) => (kernel::mkdir(tree, path, 0o755), plain.dir(path, 0o755)),
            Step::Symlink(path) => (kernel::symlink(tree, path, b"a"), plain.link(path, b"a")),
            Step::Write(path, bytes, cut) => {
                (kernel::write(tree, path, bytes, *cut), write_in(plain, path, bytes, *cut))
            }
            Step::Chmod(path, mode) => {
                let change = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                let done = plain.place(path).and_then(|(dir, name)| plain.set_attr(&dir, &name, &change));
                (kernel::chmod(tree, path, *mode), done)
            }
            Step::Unlink(path) => (kernel::unlink(tree, path), unlink_in(plain, path)),
            Step::Rmdir(path) => {
                let done = plain.place(path).and_then(|(dir, name)| plain.remove_dir(&dir, &name));
                (kernel::rmdir(tree, path), done)
            }
            Step::Rename(from, to, mode) => (kernel::rename(tree, from, to, *mode), rename_in(plain, from, to, *mode)),
            Step::Link(from, to) => (kernel::link(tree, from, to), plain.alias(from, to)),
            Step::Hold(path, writable) => {
                let (how, access) =
                    if *writable { (kernel::BOTH, Access::ReadWrite) } else { (kernel::READ, Access::Read) };
                let one = kernel::hold(tree, path, how);
                let two = plain.place(path).and_then(|(dir, name)| plain.open(&dir, &name, access));
                match (one, two) {
                    (Ok(id), Ok(file)) => {
                        self.held.push(Held { id, file, writable: *writable });
                        (Ok(()), Ok(()))
                    }
                    (one, two) => (one.map(drop), two.map(drop)),
                }
            }
            Step::WriteHeld(which, bytes) => match self.pick(*which) {
                Some(held) if held.writable => (tree.write(held.id, 1, bytes), held.file.write_at(bytes, 1)),
                _ => (Ok(()), Ok(())),
            },
            Step::ChmodHeld(which, mode) => match self.pick(*which) {
                Some(held) => {
                    let change = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                    (tree.set_attr(kernel::CALLER, held.id, &change).map(drop), held.file.set_attr(&change))
                }
                None => (Ok(()), Ok(())),
            },
            Step::Close(which) => {
                if !self.held.is_empty() {
                    let held = self.held.swap_remove(which % self.held.len());
                    self.tree.release(held.id);
                }
                (Ok(()), Ok(()))
            }
            Step::Refer(path) => {
                let found = kernel::beside(tree, path, |above, name| tree.lookup(kernel::CALLER, above, name));
                if let Ok(Some(entry)) = found.map(|looked| looked.entry) {
                    self.referred.push(entry.id);
                }
                (Ok(()), Ok(()))
            }
            Step::UnlinkBeneath(path) => (unlink_in(tree.backing(), path), unlink_in(plain, path)),
            Step::RenameBeneath(from, to, mode) => {
                (rename_in(tree.backing(), from, to, *mode), rename_in(plain, from, to, *mode))
            }
            Step::WriteBeneath(path, bytes) => {
                (write_in(tree.backing(), path, bytes, true), write_in(plain, path, bytes, true))
            }
        }
    }

    fn pick(&self, which: usize) -> Option<&Held> {
        self.held.get(which.checked_rem(self.held.len())?)
    }

    fn compare(&self) -> std::result::Result<(), TestCaseError> {
        let all = self.plain.snapshot();
        prop_assert_eq!(&self.tree.backing().snapshot(), &all);
        for (path, shown) in all {
            let path = path.trim_start_matches('/');
            let attr = kernel::stat(&self.tree, path);
            let plain = self.plain.look(path);
            prop_assert_eq!(attr.as_ref().map(facts), plain.as_ref().map(facts), "{}", path);
            if shown.kind == wink_fs::attr::Kind::File {
                prop_assert_eq!(kernel::read(&self.tree, path), Ok(shown.bytes), "{}", path);
            }
        }
        for held in &self.held {
            let mut buffer = vec![0; 1 << 10];
            let count = held.file.read_at(&mut buffer, 0);
            let count = count.map(|count| buffer[..count].to_vec());
            prop_assert_eq!(kernel::bytes(&self.tree, held.id, 1 << 10), count);
            let attr = self.tree.attr(held.id).map(|entry| facts(&entry.attr));
            prop_assert_eq!(attr, held.file.attr().map(|attr| facts(&attr)));
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_mount_is_as_good_as_what_it_serves(steps in prop::collection::vec(step(), 1..50)) {
        let mut both =
            Both { tree: kernel::tree(Memory::new()), plain: Memory::new(), held: Vec::new(), referred: Vec::new() };
        for step in &steps {
            let (served, plain) = both.run(step);
            prop_assert_eq!(served, plain, "{:?}", step);
            both.compare()?;
        }
        for held in std::mem::take(&mut both.held) {
            both.tree.release(held.id);
        }
        for id in std::mem::take(&mut both.referred) {
            both.tree.forget(id, 1);
        }
        prop_assert_eq!((both.tree.node_count(), both.tree.open_count()), (1, 0), "all is forgotten");
    }
}

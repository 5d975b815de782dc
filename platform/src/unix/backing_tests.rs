//! Tests of the real tree as a backing.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use wink_fs::attr::Time;
use wink_fs::backing::BackingFile;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn backing() -> (tempfile::TempDir, RealBacking) {
    let dir = tempfile::tempdir().unwrap();
    let (tree, staging) = (dir.path().join("tree"), dir.path().join("staging"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::create_dir(&staging).unwrap();
    let backing = RealBacking::new(&tree, Some(&staging)).unwrap();
    (dir, backing)
}

/// A backing that keeps hardly any descriptors.
fn with_budget(top: &Path, budget: usize) -> RealBacking {
    let mut backing = RealBacking::new(top, None).unwrap();
    let open = rustix::fs::open(top, DIRECTORY, Mode::empty()).unwrap();
    backing.root = RealDir::kept(open, Arc::new(Pool::new(budget)));
    backing
}

#[test]
fn modes_are_exact_whatever_the_umask() {
    let (_dir, backing) = backing();
    let root = backing.root();
    drop(backing.create(&root, &name("file"), 0o777).unwrap());
    backing.make_dir(&root, &name("dir"), 0o777).unwrap();
    backing.make_node(&root, &name("pipe"), Kind::Pipe, 0o666, 0).unwrap();
    let mode = |of: &str| backing.attr(&root, &name(of)).unwrap().mode;
    assert_eq!((mode("file"), mode("dir"), mode("pipe")), (0o777, 0o777, 0o666));
    assert_eq!(backing.create(&root, &name("file"), 0o600).unwrap_err(), Status::Exists);
}

#[test]
fn links_are_never_followed() {
    let (dir, backing) = backing();
    let root = backing.root();
    std::fs::write(dir.path().join("outside"), "secret").unwrap();
    symlink(dir.path(), dir.path().join("tree/up")).unwrap();
    symlink(dir.path().join("outside"), dir.path().join("tree/file")).unwrap();
    assert_eq!(backing.open(&root, &name("file"), Access::Read).unwrap_err(), Status::Loop);
    assert_eq!(backing.attr(&root, &name("file")).unwrap().kind, Kind::Link);
    let up = backing.child(&root, &name("up"));
    assert_eq!(backing.attr(&up, &name("outside")).unwrap_err(), Status::NotDir);
    let before = std::fs::metadata(dir.path().join("outside")).unwrap();
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(backing.set_attr(&root, &name("file"), &mode), Err(Status::Unsupported));
    let times = SetAttr { mtime: Some(Time(1_500_000_000)), ..SetAttr::default() };
    backing.set_attr(&root, &name("file"), &times).unwrap();
    assert_eq!(backing.attr(&root, &name("file")).unwrap().mtime, Time(1_500_000_000));
    let after = std::fs::metadata(dir.path().join("outside")).unwrap();
    assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()));
    assert_eq!(backing.read_link(&root, &name("up")).unwrap(), dir.path().as_os_str().as_encoded_bytes());
}

#[test]
fn attributes_change_and_times_before_the_epoch_hold() {
    let (dir, backing) = backing();
    let root = backing.root();
    std::fs::write(dir.path().join("tree/file"), "0123456789").unwrap();
    let change = SetAttr {
        mode: Some(0o4750),
        size: Some(4),
        atime: Some(Time(-1_500_000_001)),
        mtime: Some(Time(7)),
        ..SetAttr::default()
    };
    backing.set_attr(&root, &name("file"), &change).unwrap();
    let attr = backing.attr(&root, &name("file")).unwrap();
    assert_eq!((attr.mode, attr.size, attr.atime, attr.mtime), (0o4750, 4, Time(-1_500_000_001), Time(7)));
    let file = backing.open(&root, &name("file"), Access::ReadWrite).unwrap();
    file.set_attr(&SetAttr { mode: Some(0o600), mtime: Some(Time(9)), ..SetAttr::default() }).unwrap();
    assert_eq!((file.attr().unwrap().mode, file.attr().unwrap().mtime), (0o600, Time(9)));
}

#[test]
fn pipes_and_sockets_are_not_opened() {
    let (_dir, backing) = backing();
    let root = backing.root();
    backing.make_node(&root, &name("pipe"), Kind::Pipe, 0o600, 0).unwrap();
    backing.make_node(&root, &name("socket"), Kind::Socket, 0o600, 0).unwrap();
    backing.make_dir(&root, &name("dir"), 0o700).unwrap();
    assert_eq!(backing.open(&root, &name("pipe"), Access::Read).unwrap_err(), Status::NoData);
    assert_eq!(backing.open(&root, &name("socket"), Access::Read).unwrap_err(), Status::NoData);
    assert_eq!(backing.open(&root, &name("dir"), Access::Read).unwrap_err(), Status::IsDir);
    assert_eq!(backing.open(&root, &name("dir"), Access::ReadWrite).unwrap_err(), Status::IsDir);
    let mut listed = backing.list(&root).unwrap();
    listed.sort_by(|one, two| one.name.cmp(&two.name));
    let kinds: Vec<_> = listed.into_iter().map(|entry| (entry.name, entry.kind)).collect();
    assert_eq!(kinds, [(name("dir"), Kind::Dir), (name("pipe"), Kind::Pipe), (name("socket"), Kind::Socket)]);
}

#[test]
fn a_tree_deeper_than_any_path_works_with_few_descriptors() {
    const DEPTH: usize = 400; // Times 31 bytes: more than three times PATH_MAX.
    let (dir, _) = backing();
    let backing = with_budget(&dir.path().join("tree"), 8);
    let long = name("a-directory-name-of-some-length");
    let mut dirs = vec![backing.root()];
    for depth in 0..DEPTH {
        backing.make_dir(&dirs[depth], &long, 0o700).unwrap();
        dirs.push(backing.child(&dirs[depth], &long));
    }
    let bottom = dirs.last().unwrap();
    drop(backing.create(bottom, &name("file"), 0o600).unwrap());
    assert!(backing.root.pool().kept() <= 8, "{}", backing.root.pool().kept());
    assert_eq!(backing.list(bottom).unwrap().len(), 1);
    assert_eq!(backing.list(&dirs[3]).unwrap().len(), 1);
    assert!(backing.permits(&dirs[200], None, Want { read: true, write: true, execute: true }).is_ok());
    backing.remove_file(bottom, &name("file")).unwrap();
    for depth in (0..DEPTH).rev() {
        backing.remove_dir(&dirs[depth], &long).unwrap();
    }
    drop(dirs);
    assert_eq!(backing.root.pool().kept(), 0);
}

#[test]
fn a_chain_of_handles_is_dropped_without_recursion() {
    let (_dir, backing) = backing();
    let step = name("d");
    let mut dir = backing.root();
    for _ in 0..300_000 {
        dir = backing.child(&dir, &step);
    }
    drop(dir);
}

#[test]
fn a_replaced_directory_is_stale_when_it_is_opened_again() {
    let (dir, _) = backing();
    let top = dir.path().join("tree");
    let backing = with_budget(&top, 1);
    for made in ["one", "two", "three"] {
        std::fs::create_dir(top.join(made)).unwrap();
    }
    let root = backing.root();
    let (one, two) = (backing.child(&root, &name("one")), backing.child(&root, &name("two")));
    let inode = backing.dir_attr(&one).unwrap().ino;
    std::fs::rename(top.join("one"), top.join("moved")).unwrap();
    assert_eq!(backing.dir_attr(&one).unwrap().ino, inode, "an open one follows its directory");
    backing.dir_attr(&two).unwrap();
    assert_eq!(backing.dir_attr(&one).unwrap_err(), Status::NotFound);
    std::fs::rename(top.join("three"), top.join("one")).unwrap();
    assert_eq!(backing.dir_attr(&one).unwrap_err(), Status::Stale);
}

#[test]
fn staged_files_are_private_and_found_again() {
    let (_dir, backing) = backing();
    let (id, file) = backing.stage().unwrap();
    let (other, _) = backing.stage().unwrap();
    assert_ne!(id, other);
    file.write_at(b"staged", 3).unwrap();
    assert_eq!(file.attr().unwrap().mode, 0o600);
    let again = backing.open_staged(id).unwrap();
    let mut bytes = [1; 16];
    assert_eq!(again.read_at(&mut bytes, 0).unwrap(), 9);
    assert_eq!(&bytes[..9], b"\0\0\0staged");
    assert_eq!(std::fs::metadata(backing.staged_path(id).unwrap()).unwrap().len(), 9);
    backing.remove_staged(id).unwrap();
    assert_eq!(backing.open_staged(id).unwrap_err(), Status::NotFound);
    let without = RealBacking::new(Path::new("/"), None).unwrap();
    assert_eq!(without.stage().unwrap_err(), Status::Unsupported);
}

#[test]
fn copies_have_the_same_bytes_and_holes() {
    let (_dir, backing) = backing();
    let (_, from) = backing.stage().unwrap();
    from.write_at(b"begin", 0).unwrap();
    from.write_at(b"end", 4 << 20).unwrap();
    from.truncate(6 << 20).unwrap();
    let (_, to) = backing.stage().unwrap();
    to.clone_all(&from).unwrap();
    assert!(super::super::copy::same_bytes(from.as_file(), to.as_file()).unwrap());
    assert_eq!(to.seek(1 << 20, wink_fs::backing::Seek::Data).unwrap(), 4 << 20);
    assert_eq!(to.seek(6 << 20, wink_fs::backing::Seek::Data).unwrap_err(), Status::NoData);
    assert_eq!(to.copy_from(&from, 4 << 20, 10, 3).unwrap(), 3);
    let mut bytes = [0; 3];
    to.read_at(&mut bytes, 10).unwrap();
    assert_eq!(&bytes, b"end");
    to.allocate(0, 1 << 20, 0).unwrap();
    to.sync(true).unwrap();
}

#[test]
fn renames_and_links_and_space() {
    let (_dir, backing) = backing();
    let root = backing.root();
    drop(backing.create(&root, &name("a"), 0o600).unwrap());
    drop(backing.create(&root, &name("b"), 0o644).unwrap());
    let rename = |mode| backing.rename(&root, &name("a"), &root, &name("b"), mode);
    assert_eq!(rename(RenameMode::NoReplace), Err(Status::Exists));
    rename(RenameMode::Exchange).unwrap();
    assert_eq!(backing.attr(&root, &name("b")).unwrap().mode, 0o600);
    rename(RenameMode::Replace).unwrap();
    assert_eq!(backing.attr(&root, &name("a")).unwrap_err(), Status::NotFound);
    backing.hard_link(&root, &name("b"), &root, &name("c")).unwrap();
    assert_eq!(backing.attr(&root, &name("c")).unwrap().nlink, 2);
    backing.make_link(&root, &name("l"), b"target").unwrap();
    assert_eq!(backing.remove_dir(&root, &name("b")), Err(Status::NotDir));
    backing.make_dir(&root, &name("d"), 0o700).unwrap();
    assert_eq!(backing.remove_file(&root, &name("d")), Err(Status::IsDir));
    assert!(backing.space(&root).unwrap().blocks > 0);
    std::fs::set_permissions(_dir.path().join("tree/b"), PermissionsExt::from_mode(0o600)).unwrap();
    let want = Want { read: false, write: false, execute: true };
    assert_eq!(backing.permits(&root, Some(&name("b")), want), Err(Status::Access));
}

#[test]
fn a_directory_itself_changes_also_an_open_one_from_elsewhere() {
    let (dir, backing) = backing();
    let (tree, elsewhere) = (dir.path().join("tree"), dir.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    let open = rustix::fs::open(&elsewhere, DIRECTORY, Mode::empty()).unwrap();
    let change = SetAttr { mode: Some(0o2750), mtime: Some(Time(7)), ..SetAttr::default() };
    for (handle, path) in [(backing.root(), tree), (backing.dir_from(open), elsewhere.clone())] {
        backing.set_dir_attr(&handle, &change).unwrap();
        let stat = std::fs::metadata(path).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o2750, 0, 7));
        let size = SetAttr { size: Some(0), ..SetAttr::default() };
        assert_eq!(backing.set_dir_attr(&handle, &size), Err(Status::IsDir));
        backing.sync_dir(&handle).unwrap();
        drop(backing.create(&handle, &name("file"), 0o600).unwrap());
    }
    assert!(elsewhere.join("file").exists());
    assert_eq!(backing.root.pool().kept(), 0, "kept ones do not count");
}

#[test]
fn files_are_placed_whole_where_nothing_is() {
    let (dir, backing) = backing();
    let root = backing.root();
    let (_, bytes) = backing.stage().unwrap();
    bytes.write_at(b"the bytes", 0).unwrap();
    let attr = Placing { mode: 0o4755, owner: None, mtime: Time(1_500_000_001) };
    backing.place(&root, &name("file"), &bytes, &attr).unwrap();
    let placed = backing.attr(&root, &name("file")).unwrap();
    assert_eq!((placed.mode, placed.mtime, placed.nlink), (0o4755, Time(1_500_000_001), 1));
    assert_eq!(std::fs::read(dir.path().join("tree/file")).unwrap(), b"the bytes");
    bytes.write_at(b"THE", 0).unwrap();
    assert_eq!(std::fs::read(dir.path().join("tree/file")).unwrap(), b"the bytes", "it is a copy");
    backing.make_link(&root, &name("link"), b"nowhere").unwrap();
    backing.make_dir(&root, &name("dir"), 0o700).unwrap();
    for taken in ["file", "link", "dir"] {
        assert_eq!(backing.place(&root, &name(taken), &bytes, &attr), Err(Status::Exists));
    }
    let missing = backing.child(&root, &name("missing"));
    assert_eq!(backing.place(&missing, &name("file"), &bytes, &attr), Err(Status::NotFound));
    assert_eq!(backing.list(&root).unwrap().len(), 3, "nothing else is left");
}

#[test]
fn a_file_is_opened_again_for_writing_when_its_name_is_gone() {
    let (dir, backing) = backing();
    let root = backing.root();
    std::fs::write(dir.path().join("tree/file"), "old").unwrap();
    let reader = backing.open(&root, &name("file"), Access::Read).unwrap();
    backing.remove_file(&root, &name("file")).unwrap();
    assert!(reader.write_at(b"new", 0).is_err());
    reader.reopen_writable().unwrap().write_at(b"new", 0).unwrap();
    let mut bytes = [0; 3];
    reader.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"new");
}

#[test]
fn extended_attributes_of_files_directories_and_links_themselves() {
    let (dir, backing) = backing();
    let root = backing.root();
    drop(backing.create(&root, &name("file"), 0o600).unwrap());
    backing.make_dir(&root, &name("dir"), 0o700).unwrap();
    symlink(dir.path().join("tree/file"), dir.path().join("tree/link")).unwrap();
    let inner = backing.child(&root, &name("dir"));
    let (file, key, long) = (name("file"), b"user.key".as_slice(), vec![7; 1000]);
    if backing.set_xattr(&root, Some(&file), key, b"", XattrMode::Replace) == Err(Status::Unsupported) {
        println!("skipped: the file system has no extended attributes");
        return;
    }
    for (dir, name) in [(&root, Some(&file)), (&inner, None), (&root, None)] {
        assert_eq!(backing.get_xattr(dir, name, key), Err(Status::NoAttribute));
        assert_eq!(backing.set_xattr(dir, name, key, b"", XattrMode::Replace), Err(Status::NoAttribute));
        backing.set_xattr(dir, name, key, b"one", XattrMode::Create).unwrap();
        assert_eq!(backing.set_xattr(dir, name, key, b"two", XattrMode::Create), Err(Status::Exists));
        assert_eq!(backing.get_xattr(dir, name, key).unwrap(), b"one");
        backing.set_xattr(dir, name, key, &long, XattrMode::Replace).unwrap();
        backing.set_xattr(dir, name, b"user.empty", b"", XattrMode::Set).unwrap();
        assert_eq!(backing.get_xattr(dir, name, key).unwrap(), long);
        assert_eq!(backing.get_xattr(dir, name, b"user.empty").unwrap(), b"");
        let mut keys = backing.list_xattrs(dir, name).unwrap();
        keys.retain(|key| key.starts_with(b"user."));
        keys.sort();
        assert_eq!(keys, [b"user.empty".to_vec(), key.to_vec()]);
        backing.remove_xattr(dir, name, key).unwrap();
        assert_eq!(backing.remove_xattr(dir, name, key), Err(Status::NoAttribute));
    }
    // A link cannot have one of this kind; following it would.
    let link = name("link");
    assert_eq!(backing.set_xattr(&root, Some(&link), key, b"x", XattrMode::Set), Err(Status::NotPermitted));
    assert_eq!(backing.get_xattr(&root, Some(&link), b"user.empty"), Err(Status::NoAttribute));
}

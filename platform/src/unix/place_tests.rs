//! Tests of publishing into a workspace.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use wink_fs::attr::Kind;

use super::*;

const THEN: Time = Time(1_600_000_000_123_456_789);

fn workspace() -> (tempfile::TempDir, Placer, File) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("workspace");
    std::fs::create_dir(&root).unwrap();
    let placer = Placer::new(&root).unwrap();
    let source = tempfile::tempfile().unwrap();
    source.write_all_at(b"the bytes", 0).unwrap();
    (dir, placer, source)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_are_placed_whole_with_mode_and_time() {
    let (dir, placer, source) = workspace();
    let root = dir.path().join("workspace");
    for nameless in [true, false] {
        placer.whole.no_nameless.store(!nameless, Ordering::Relaxed);
        for _ in 0..2 {
            placer.place_file(b"file", &source, 0o777, THEN, None).unwrap();
            let stat = std::fs::metadata(root.join("file")).unwrap();
            assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o777, 1_600_000_000, 123_456_789));
            assert_eq!(std::fs::read(root.join("file")).unwrap(), b"the bytes");
        }
        std::fs::remove_file(root.join("file")).unwrap();
        symlink("/etc/passwd", root.join("file")).unwrap();
    }
    placer.place_file(b"file", &source, 0o600, THEN, None).unwrap();
    assert_eq!(placer.stat(b"file").unwrap().unwrap().kind, Kind::File, "a link is replaced, not followed");
    assert_eq!(names(&root), ["file"], "no temporary names are left");
}

#[test]
fn a_directory_is_never_replaced() {
    let (dir, placer, source) = workspace();
    placer.make_dir(b"dir", 0o755).unwrap();
    for nameless in [true, false] {
        placer.whole.no_nameless.store(!nameless, Ordering::Relaxed);
        let error = placer.place_file(b"dir", &source, 0o644, THEN, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
    }
    assert!(placer.place_link(b"dir", b"target", THEN).is_err());
    assert!(placer.place_file(b"", &source, 0o644, THEN, None).is_err());
    assert_eq!(names(&dir.path().join("workspace")), ["dir"]);
}

#[test]
fn nothing_leaves_the_workspace() {
    let (dir, placer, source) = workspace();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, dir.path().join("workspace/planted")).unwrap();
    symlink("../outside", dir.path().join("workspace/relative")).unwrap();
    for walk in [false, true] {
        placer.no_openat2.store(walk, Ordering::Relaxed);
        for rel in [b"planted/file".as_slice(), b"relative/file"] {
            let error = placer.place_file(rel, &source, 0o644, THEN, None).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
            assert!(placer.stat(rel).is_err() && placer.open_read(rel).is_err());
            assert!(placer.make_dir(rel, 0o755).is_err() && placer.place_link(rel, b"x", THEN).is_err());
        }
    }
    for rel in [b"../outside/file".as_slice(), b"/etc/file", b"a//b", b"./a", b"a/..", b"a/", b"nul\0"] {
        assert_eq!(placer.make_dir(rel, 0o755).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{rel:?}");
    }
    assert!(names(&outside).is_empty());
    // The link itself may be replaced or removed.
    placer.remove_file(b"planted").unwrap();
    placer.place_link(b"relative", b"elsewhere", THEN).unwrap();
    assert_eq!(placer.read_link(b"relative").unwrap(), b"elsewhere");
    assert_eq!(placer.stat(b"relative").unwrap().unwrap().mtime, THEN);
}

#[test]
fn directories_are_made_taken_and_removed_when_empty() {
    let (_dir, placer, source) = workspace();
    placer.make_dir(b"a", 0o700).unwrap();
    placer.make_dir(b"a", 0o777).unwrap();
    assert_eq!(placer.stat(b"a").unwrap().unwrap().mode, 0o777);
    placer.make_dir(b"a/b", 0o755).unwrap();
    placer.place_file(b"a/b/file", &source, 0o644, THEN, None).unwrap();
    assert!(!placer.remove_dir(b"a/b").unwrap());
    placer.remove_file(b"a/b/file").unwrap();
    assert!(placer.remove_dir(b"a/b").unwrap());
    assert_eq!(placer.stat(b"a/b/file").unwrap(), None);
    assert_eq!(placer.remove_dir(b"a/b").unwrap_err().kind(), io::ErrorKind::NotFound);
    // The kept descriptor of the old directory does not get in the way of the new one.
    placer.make_dir(b"a/b", 0o755).unwrap();
    placer.place_file(b"a/b/file", &source, 0o644, THEN, None).unwrap();
    assert!(placer.make_dir(b"a/b/file", 0o755).is_err());
}

#[test]
fn a_parent_replaced_by_others_is_looked_up_again() {
    let (dir, placer, source) = workspace();
    placer.make_dir(b"a", 0o755).unwrap();
    placer.place_file(b"a/one", &source, 0o644, THEN, None).unwrap();
    std::fs::remove_dir_all(dir.path().join("workspace/a")).unwrap();
    std::fs::create_dir(dir.path().join("workspace/a")).unwrap();
    placer.place_file(b"a/two", &source, 0o644, THEN, None).unwrap();
    assert_eq!(names(&dir.path().join("workspace/a")), ["two"]);
}

#[test]
fn times_modes_and_reading() {
    let (dir, placer, source) = workspace();
    placer.place_file(b"file", &source, 0o644, THEN, None).unwrap();
    placer.set_mode(b"file", 0o4711).unwrap();
    placer.set_times(b"file", Time(-1)).unwrap();
    let attr = placer.stat(b"file").unwrap().unwrap();
    assert_eq!((attr.mode, attr.mtime), (0o4711, Time(-1)));
    assert_eq!(placer.open_read(b"file").unwrap().metadata().unwrap().len(), 9);
    placer.place_link(b"link", b"file", THEN).unwrap();
    assert!(placer.open_read(b"link").is_err() && placer.set_mode(b"link", 0o600).is_err());
    assert_eq!(placer.stat(b"").unwrap().unwrap().kind, Kind::Dir);
    placer.set_mode(b"", 0o750).unwrap();
    let mode = std::fs::metadata(dir.path().join("workspace")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
}

#[test]
fn many_threads_place_at_once() {
    let (dir, placer, source) = workspace();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (placer, source) = (&placer, &source);
            scope.spawn(move || {
                for number in 0..300 {
                    let directory = format!("d{}", number % 10);
                    placer.make_dir(directory.as_bytes(), 0o755).unwrap();
                    let shared = format!("{directory}/shared");
                    placer.place_file(shared.as_bytes(), source, 0o644, THEN, None).unwrap();
                    let own = format!("{directory}/t{thread}-{number}");
                    placer.place_file(own.as_bytes(), source, 0o644, THEN, None).unwrap();
                }
            });
        }
    });
    let total: usize = (0..10).map(|number| names(&dir.path().join(format!("workspace/d{number}"))).len()).sum();
    assert_eq!(total, 10 + 4 * 300);
}

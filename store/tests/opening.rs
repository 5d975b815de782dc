//! Opening a store: whose directory is accepted, which format, and what becomes of a damaged index.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use support::{adopt, key, open, stored};
use wink_store::{Digest, Store, StoreError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_store_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/down/store");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.notice(), None);
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("index.sqlite")), 0o600);
    assert_eq!(fs::read_to_string(path.join("format")).unwrap(), "wink store 1\n");
    for name in ["blobs", "staging", "quarantine", "layers"] {
        assert_eq!(mode(&path.join(name)), 0o700, "{name}");
    }
}

#[test]
fn opening_again_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let record = stored(&open(dir.path()), "task", &[b"one"]);
    let store = open(dir.path());
    assert_eq!(store.record(&record.head.id).unwrap().unwrap(), record);
    assert_eq!(store.notice(), None);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    for bits in [0o770, 0o702, 0o1777] {
        fs::set_permissions(dir.path().join("store"), fs::Permissions::from_mode(bits)).unwrap();
        let error = Store::open(&dir.path().join("store")).unwrap_err();
        assert!(matches!(error, StoreError::WritableByOthers { .. }), "{error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    }
    fs::set_permissions(dir.path().join("store"), fs::Permissions::from_mode(0o755)).unwrap();
    open(dir.path());
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    if chown(dir.path().join("store"), Some(12345), None).is_err() {
        println!("skipped: only a privileged user can give a directory away");
        return;
    }
    let error = Store::open(&dir.path().join("store")).unwrap_err();
    assert!(matches!(error, StoreError::ForeignOwner { owner: 12345, .. }), "{error}");
}

#[test]
fn a_file_in_its_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store"), b"").unwrap();
    assert!(matches!(Store::open(&dir.path().join("store")), Err(StoreError::NotADirectory { .. })));
}

/// A store that came from elsewhere (an archive, another machine) may hold links to anything of this user's.
#[test]
fn nothing_of_the_store_leads_elsewhere() {
    for part in ["blobs", "staging", "quarantine", "layers"] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let precious = dir.path().join("precious");
        fs::create_dir_all(precious.join("work")).unwrap();
        fs::write(precious.join("work/file"), b"precious").unwrap();
        let part = dir.path().join("store").join(part);
        fs::remove_dir_all(&part).unwrap();
        symlink(&precious, &part).unwrap();
        let error = Store::open(&dir.path().join("store")).unwrap_err();
        assert!(matches!(&error, StoreError::NoOwnDirectory { path } if *path == part), "{error}");
        assert_eq!(fs::read(precious.join("work/file")).unwrap(), b"precious");
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, elsewhere) = (dir.path().join("store"), dir.path().join("elsewhere"));
    // A lock is not made through a link, an index is not used through one.
    for lock in ["index.lock", "index.sqlite"] {
        drop(open(dir.path()));
        let _ = fs::remove_file(store.join(lock));
        symlink(&elsewhere, store.join(lock)).unwrap();
        let opened = Store::open(&store);
        assert_eq!(opened.is_ok(), lock == "index.sqlite", "{opened:?}");
        assert!(!elsewhere.exists(), "{lock}");
        fs::remove_file(store.join(lock)).unwrap();
    }
    // A directory of blobs is put aside, and what it led to is left alone.
    let store = open(dir.path());
    fs::create_dir(&elsewhere).unwrap();
    let shelf = store.blob_path(&Digest::of(b"bytes")).parent().unwrap().to_owned();
    symlink(&elsewhere, &shelf).unwrap();
    let digest = store.put(b"bytes").unwrap();
    store.verify_blob(&digest).unwrap();
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert!(shelf.symlink_metadata().unwrap().is_dir());
    // A layer is neither made nor appended to elsewhere.
    let layer = store.dir().join("layers").join(Digest::of(b"/ws").to_string());
    symlink(&elsewhere, &layer).unwrap();
    assert!(matches!(store.open_layer(b"/ws"), Err(StoreError::NoOwnDirectory { .. })));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let format = dir.path().join("store/format");
    for text in ["wink store 2\n", "wink store 1\nfeature chunks\n", "something else\n", "wink store 1\nnoise\n"] {
        fs::write(&format, text).unwrap();
        let error = Store::open(&dir.path().join("store")).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { .. }), "{text:?}: {error}");
        assert!(error.to_string().contains("newer version"), "{error}");
    }
    // What an unclean stop leaves is mended.
    fs::write(&format, "").unwrap();
    open(dir.path());
    assert_eq!(fs::read_to_string(&format).unwrap(), "wink store 1\n");
}

#[test]
fn a_newer_index_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let index = dir.path().join("store/index.sqlite");
    rusqlite::Connection::open(&index).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&dir.path().join("store")).unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { .. }), "{error}");
    assert!(index.exists());
}

/// Closes the store's index so that all is in one file, as after a long time.
fn settle(dir: &Path) -> std::path::PathBuf {
    let index = dir.join("store/index.sqlite");
    let connection = rusqlite::Connection::open(&index).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    index
}

/// The damage that machines do. After each, at the latest after one failed question, the store works again.
#[test]
fn a_damaged_index_is_set_aside() {
    type Damage = fn(&mut Vec<u8>);
    let menu: [(&str, Damage); 8] = [
        ("noise", |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x5a)),
        ("header", |bytes| bytes[..16].fill(b'x')),
        ("first page", |bytes| bytes[100..4096].fill(0xff)),
        ("half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("tail", |bytes| bytes.truncate(bytes.len() - 1000)),
        ("one page", |bytes| bytes.truncate(4096)),
        ("empty", Vec::clear),
        ("body", |bytes| bytes[4096..].fill(0xa5)),
    ];
    for (what, damage) in menu {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<Vec<u8>> = (0..200).map(|turn| format!("content {turn}").into_bytes()).collect();
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let record = stored(&open(dir.path()), "task", &contents);
        let index = settle(dir.path());
        let mut bytes = fs::read(&index).unwrap();
        damage(&mut bytes);
        fs::write(&index, bytes).unwrap();

        let mut noticed = None;
        for turn in 0..3 {
            let store = open(dir.path());
            noticed = noticed.or(store.notice());
            let answers = [
                store.candidates(&key("task")).map(drop),
                store.record(&record.head.id).map(drop),
                store.insert(&record, false).map(drop),
            ];
            if let Some(error) = answers.into_iter().find_map(Result::err) {
                assert!(turn == 0, "{what}: still failing: {error}");
                assert!(error.is_damage(), "{what}: {error}");
                continue;
            }
            assert_eq!(store.record(&record.head.id).unwrap().unwrap(), record, "{what}");
        }
        let aside = fs::read_dir(dir.path().join("store/quarantine")).unwrap().count();
        assert_eq!(noticed.is_some(), aside > 0, "{what}");
        // An empty index is a new one, and a cut tail may have held nothing.
        assert!(noticed.is_some() || ["empty", "tail"].contains(&what), "{what}: not noticed");
        if let Some(line) = noticed {
            assert!(line.contains("no files are lost") && !line.contains('\n'), "{line}");
        }
    }
}

#[test]
fn an_index_of_something_else_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let index = dir.path().join("store/index.sqlite");
    rusqlite::Connection::open(&index).unwrap().execute_batch("DROP TABLE records").unwrap();
    let store = open(dir.path());
    assert!(store.notice().unwrap().contains("damaged"));
    stored(&store, "task", &[b"one"]);
    assert_eq!(open(dir.path()).notice(), None);
}

#[test]
fn a_false_alarm_costs_a_check_and_no_hits() {
    let dir = tempfile::tempdir().unwrap();
    let record = stored(&open(dir.path()), "task", &[b"one"]);
    fs::write(dir.path().join("store/index.damaged"), b"").unwrap();
    let store = open(dir.path());
    assert_eq!(store.notice(), None);
    assert!(store.head(&record.head.id).unwrap().is_some());
    assert!(!dir.path().join("store/index.damaged").exists());
}

#[test]
fn a_lost_index_loses_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let digest = adopt(&store, b"kept");
    drop(store);
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = fs::remove_file(dir.path().join("store").join(name));
    }
    open(dir.path()).verify_blob(&digest).unwrap();
}

//! Blobs and staging: placed once, never overwritten, damage told apart from trouble, nothing left behind.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use support::{adopt, open};
use wink_store::{Digest, StoreError};

#[test]
fn a_blob_is_read_only_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let digest = adopt(&store, b"bytes");
    let hex = digest.to_string();
    let path = store.blob_path(&digest);
    assert!(path.ends_with(format!("blobs/{}/{}", &hex[..2], &hex[2..])));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o444);
    let mut bytes = Vec::new();
    store.open_blob(&digest).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"bytes");
    store.verify_blob(&digest).unwrap();
    assert_eq!(store.put(b"bytes").unwrap(), digest);
    assert_eq!(store.put(b"others").unwrap(), Digest::of(b"others"));
    store.open_blob(&store.put(b"").unwrap()).unwrap();
    assert_eq!(fs::read_dir(store.dir().join("staging")).unwrap().count(), 0);
}

#[test]
fn a_good_blob_is_not_replaced() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let digest = adopt(&store, b"bytes");
    let before = fs::metadata(store.blob_path(&digest)).unwrap().ino();
    let staging = store.staging().unwrap();
    let again = staging.path().join("again");
    fs::write(&again, b"bytes").unwrap();
    store.adopt(&again, &digest).unwrap();
    assert!(!again.exists());
    assert_eq!(fs::metadata(store.blob_path(&digest)).unwrap().ino(), before);
}

#[test]
fn a_blob_of_another_size_is_set_aside_for_the_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let digest = adopt(&store, b"bytes");
    fs::remove_file(store.blob_path(&digest)).unwrap();
    fs::write(store.blob_path(&digest), b"").unwrap();
    adopt(&store, b"bytes");
    store.verify_blob(&digest).unwrap();
    assert_eq!(fs::read_dir(store.dir().join("quarantine")).unwrap().count(), 1);
}

/// What a run made is published from the blob: one of other bytes, which was there before, must not be taken for it.
#[test]
fn a_blob_with_other_bytes_is_set_aside_for_the_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for is_adopted in [true, false] {
        let path = store.blob_path(&adopt(&store, b"bytes"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"bytez").unwrap();
        if is_adopted {
            adopt(&store, b"bytes");
        } else {
            store.put(b"bytes").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"bytes");
    }
}

#[test]
fn damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let digest = adopt(&store, b"bytes");
    let path = store.blob_path(&digest);
    let damaged = |error: StoreError| assert!(matches!(error, StoreError::DamagedBlob { .. }), "{error}");
    let missing = |error: StoreError| assert!(matches!(error, StoreError::MissingBlob { .. }), "{error}");

    let replace = |bytes: &[u8]| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    replace(b"bytez");
    store.open_blob(&digest).unwrap();
    damaged(store.verify_blob(&digest).unwrap_err());
    replace(b"byte");
    damaged(store.open_blob_sized(&digest, 5).unwrap_err());
    replace(b"");
    damaged(store.open_blob(&digest).unwrap_err());
    fs::remove_file(&path).unwrap();
    missing(store.open_blob(&digest).unwrap_err());
    missing(store.verify_blob(&Digest::of(b"no such shelf")).unwrap_err());
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    damaged(store.open_blob(&digest).unwrap_err());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    damaged(store.verify_blob(&digest).unwrap_err());
    store.quarantine(&digest).unwrap();
    store.quarantine(&digest).unwrap();
    missing(store.open_blob(&digest).unwrap_err());
    adopt(&store, b"bytes");
    store.verify_blob(&digest).unwrap();
}

#[test]
fn only_regular_files_become_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let staging = store.staging().unwrap();
    let link = staging.path().join("link");
    std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
    assert!(matches!(store.adopt(&link, &Digest::of(b"x")), Err(StoreError::Unstorable { .. })));
    assert!(matches!(store.adopt(staging.path(), &Digest::of(b"x")), Err(StoreError::Unstorable { .. })));
}

#[test]
fn many_threads_may_store_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open(dir.path()), open(dir.path())];
    thread::scope(|scope| {
        for turn in 0..8 {
            let store = &stores[turn % 2];
            scope.spawn(move || {
                let staging = store.staging().unwrap();
                for number in 0..50u8 {
                    let path = staging.path().join(number.to_string());
                    fs::write(&path, [number; 100]).unwrap();
                    store.adopt(&path, &Digest::of(&[number; 100])).unwrap();
                    store.put(&[number; 200]).unwrap();
                }
                assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
            });
        }
    });
    for number in 0..50u8 {
        stores[0].verify_blob(&Digest::of(&[number; 100])).unwrap();
        stores[0].verify_blob(&Digest::of(&[number; 200])).unwrap();
    }
    assert_eq!(fs::read_dir(stores[0].dir().join("quarantine")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(stores[0].dir().join("staging")).unwrap().count(), 0);
}

#[test]
fn staging_is_private_and_goes_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let staging = store.staging().unwrap();
    assert_eq!(fs::metadata(staging.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    fs::create_dir_all(staging.path().join("a/b")).unwrap();
    fs::write(staging.path().join("a/b/c"), b"x").unwrap();
    drop(staging);
    assert_eq!(fs::read_dir(store.dir().join("staging")).unwrap().count(), 0);
}

#[test]
fn sweeping_takes_only_what_nobody_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let live = store.staging().unwrap();
    fs::write(live.path().join("file"), b"x").unwrap();
    let shelf = store.dir().join("staging");
    fs::create_dir(shelf.join("run-1-2-3")).unwrap();
    fs::write(shelf.join("run-1-2-3/file"), b"x").unwrap();
    fs::write(shelf.join("run-1-2-3.lock"), b"").unwrap();
    fs::create_dir(shelf.join("run-without-a-lock")).unwrap();
    fs::write(shelf.join("run-4-5-6.lock"), b"").unwrap();
    fs::write(shelf.join("put-fresh"), b"").unwrap();
    let old = fs::File::create(shelf.join("put-old")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(store.sweep_staging().unwrap(), 3);
    assert!(live.path().join("file").exists());
    drop(live);
    let left: Vec<_> = fs::read_dir(&shelf).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["put-fresh"]);
}

#[test]
fn sweeping_and_starting_runs_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                store.sweep_staging().unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let staging = store.staging().unwrap();
                    let path = staging.path().join("file");
                    fs::write(&path, b"x").unwrap();
                    assert!(path.exists());
                }
            });
        }
    });
}

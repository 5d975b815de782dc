//! What a stop of the machine may have cost is found before it is used, once.

mod support;

use std::fs;

use support::{adopt, file, key, open, record};
use wink_store::{Captured, Digest, Record, Store, StoreError, Stream};

/// As if the machine had been started again since everything in the store was written.
fn reboot(store: &Store) {
    let index = rusqlite::Connection::open(store.dir().join("index.sqlite")).unwrap();
    index.execute("UPDATE records SET boot = 'an earlier one' WHERE boot <> ''", []).unwrap();
}

fn sample(store: &Store) -> Record {
    let mut record = record("task", b"input", vec![file("a", b"one"), file("b", b"two"), file("c", b"one")]);
    adopt(store, b"one");
    adopt(store, b"two");
    record.captured = Captured { pieces: vec![(Stream::Stderr, vec![b'e'; 70_000])] };
    record.seal();
    store.insert(&record, false).unwrap();
    record
}

fn overwrite(store: &Store, digest: &Digest, bytes: &[u8]) {
    let path = store.blob_path(digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

#[test]
fn within_a_boot_nothing_is_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let record = sample(&store);
    overwrite(&store, &Digest::of(b"one"), b"0ne");
    store.ensure_durable(&record.head).unwrap();
}

#[test]
fn good_blobs_are_hashed_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let record = sample(&store);
    reboot(&store);
    store.ensure_durable(&record.head).unwrap();
    reboot(&store);
    overwrite(&store, &Digest::of(b"one"), b"0ne");
    store.ensure_durable(&record.head).unwrap();
}

#[test]
fn damage_becomes_a_miss() {
    type Damage = fn(&Store, &Digest);
    let menu: [(&str, Damage); 4] = [
        ("flipped", |store, digest| {
            let mut bytes = fs::read(store.blob_path(digest)).unwrap();
            bytes[0] ^= 1;
            overwrite(store, digest, &bytes);
        }),
        ("truncated", |store, digest| {
            let bytes = fs::read(store.blob_path(digest)).unwrap();
            overwrite(store, digest, &bytes[..bytes.len() - 1]);
        }),
        ("emptied", |store, digest| overwrite(store, digest, b"")),
        ("missing", |store, digest| fs::remove_file(store.blob_path(digest)).unwrap()),
    ];
    for (what, damage) in menu {
        for captured in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let record = sample(&store);
            let digest = if captured { Digest::of(&record.captured.encode()) } else { Digest::of(b"two") };
            reboot(&store);
            damage(&store, &digest);
            let error = store.ensure_durable(&record.head).unwrap_err();
            match error {
                StoreError::MissingBlob { digest: found } => assert_eq!((what, found), ("missing", digest)),
                StoreError::DamagedBlob { digest: found, .. } => assert_eq!(found, digest, "{what}"),
                error => panic!("{what}: {error}"),
            }
            assert!(store.candidates(&key("task")).unwrap().is_empty(), "{what}");
            let aside = fs::read_dir(store.dir().join("quarantine")).unwrap().count();
            assert_eq!(aside, usize::from(what != "missing"), "{what}");
            // What it left in workspaces stays known, and running again makes it good.
            assert_eq!(store.manifest(&record.head.manifest).unwrap(), record.outputs);
            assert_eq!(sample(&store), record);
            assert_eq!(store.candidates(&key("task")).unwrap().len(), 1, "{what}");
            store.ensure_durable(&record.head).unwrap();
        }
    }
}

#[test]
fn a_removed_record_cannot_be_made_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let record = sample(&store);
    store.drop_record(&record.head.id).unwrap();
    assert!(store.ensure_durable(&record.head).unwrap_err().is_damage());
}

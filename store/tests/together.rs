//! Several threads and processes on one store.

mod support;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use support::{adopt, file, key, open, own, record};
use wink_store::{RecordId, Store};

const CHILD_DIR: &str = "STORE_TEST_CHILD_DIR";
const CHILD_TURN: &str = "STORE_TEST_CHILD_TURN";
const TASKS: usize = 20;

/// Every writer brings its own result for the same inputs.
fn insert_all(store: &Store, writer: usize) -> Vec<RecordId> {
    let one = |task: usize| {
        let bytes = format!("result of {task} by {writer}").into_bytes();
        adopt(store, &bytes);
        let record = record(&format!("task {task}"), b"input", vec![file("out", &bytes)]);
        let id = store.insert(&record, false).unwrap();
        store.set_last(b"/ws", &own("task"), &id, 1).unwrap();
        store.touch(&id, 2).unwrap();
        id
    };
    (0..TASKS).map(one).collect()
}

fn check(store: &Store) {
    for task in 0..TASKS {
        let found = store.candidates(&key(&format!("task {task}"))).unwrap();
        assert_eq!(found.len(), 1, "task {task}");
        store.record(&found[0].id).unwrap().unwrap();
    }
}

#[test]
fn of_many_threads_the_first_wins() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open(dir.path()), open(dir.path())];
    let winners: HashSet<Vec<RecordId>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..6)
            .map(|writer| {
                scope.spawn({
                    let store = &stores[writer % 2];
                    move || insert_all(store, writer)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(winners.len(), 1, "everybody was told the same winners");
    check(&stores[0]);
}

/// Not a test by itself: what each process of the next test does.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let turn = std::env::var(CHILD_TURN).unwrap().parse().unwrap();
    insert_all(&open(&PathBuf::from(dir)), turn);
}

#[test]
fn of_many_processes_the_first_wins() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody has made the store yet: they also race for that.
    let children: Vec<_> = (0..4)
        .map(|turn| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child"])
                .env(CHILD_DIR, dir.path())
                .env(CHILD_TURN, turn.to_string())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let store = open(dir.path());
    assert_eq!(store.notice(), None);
    check(&store);
}

#[test]
fn of_many_that_meet_a_damaged_index_one_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("store/index.sqlite{suffix}")));
    }
    std::fs::write(dir.path().join("store/index.sqlite"), [7; 10_000]).unwrap();
    let notices: usize = thread::scope(|scope| {
        let openers: Vec<_> = (0..6)
            .map(|writer| {
                let dir = dir.path();
                scope.spawn(move || {
                    let store = open(dir);
                    insert_all(&store, writer);
                    usize::from(store.notice().is_some())
                })
            })
            .collect();
        openers.into_iter().map(|opener| opener.join().unwrap()).sum()
    });
    assert_eq!(notices, 1);
    check(&open(dir.path()));
}

#[test]
fn a_store_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Store>();
}

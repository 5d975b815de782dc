//! Tests of the forms of one record; the record is also the sample of other tests.

use wink_store::{Captured, OpaqueKind, OwnKey, RecordHead, TaskKey};
use wink_store::{Digest, Entry, Manifest, Seen, Trace};

use super::*;

pub fn record() -> Record {
    let digest = Digest::of(b"x");
    let facts = [
        (Root::Workspace, b"src/a.c".as_slice(), Observation::File { digest, mode: 0o644 }),
        (Root::Workspace, b"", Observation::Listing { digest, mode: 0o755 }),
        (Root::Home, b".rc", Observation::Absent),
        (Root::System, b"usr", Observation::Dir { mode: 0o755 }),
        (Root::System, b"bin", Observation::Link { target: b"usr/bin".to_vec() }),
        (Root::System, b"secret", Observation::Opaque { kind: OpaqueKind::Unreadable, mode: 0 }),
    ];
    let seen =
        facts.into_iter().map(|(root, path, fact)| (TreePath::new(root, path).unwrap(), Seen { fact, own: false }));
    let entry = |path: &[u8], output| Entry { path: path.to_vec(), modified: output == Output::Removed, output };
    let entries = vec![
        entry(b"dist", Output::Dir { mode: 0o755 }),
        entry(b"dist/a\xff.o", Output::File { digest, size: 1234, mode: 0o644 }),
        entry(b"dist/l", Output::Link { target: b"a.o".to_vec() }),
        entry(b"old", Output::Removed),
    ];
    Record {
        head: RecordHead {
            id: RecordId(digest),
            task_key: TaskKey(digest),
            own_key: OwnKey(digest),
            usable: true,
            fingerprint: digest,
            manifest: digest,
            exit_code: 0,
            command_ms: 1200,
            created_ms: 0,
            bound_workspace: None,
            bound_home: None,
            depth: 2,
            output_bytes: 1234,
        },
        trace: Trace { seen: seen.collect() },
        outputs: Manifest { entries },
        times: vec![0; 4],
        captured: Captured::default(),
        argv: vec![b"cc".to_vec(), b"a.c".to_vec()],
    }
}

#[test]
fn json_has_absolute_paths_and_the_agreed_kinds() {
    let roots = Roots::new(Path::new("/w/p"), Some(Path::new("/h")));
    let value = serde_json::to_value(document(&record(), &roots)).unwrap();
    let list = |field: &str| -> Vec<(String, String)> {
        let items = value[field].as_array().unwrap().iter();
        items
            .map(|item| (item["path"].as_str().unwrap().to_owned(), item["kind"].as_str().unwrap().to_owned()))
            .collect()
    };
    let own =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    let wanted = [
        ("/w/p", "listing"),
        ("/w/p/src/a.c", "file"),
        ("/h/.rc", "absent"),
        ("/bin", "link"),
        ("/secret", "file"),
        ("/usr", "dir"),
    ];
    assert_eq!(list("inputs"), own(&wanted));
    let wanted = [("/w/p/dist", "dir"), ("/w/p/dist/a\u{fffd}.o", "file"), ("/w/p/dist/l", "link")];
    assert_eq!(list("outputs"), own(&wanted));
    assert_eq!(value["removed"], serde_json::json!(["/w/p/old"]));
    assert_eq!(value["outputs"][1]["mode"], 0o644);
    assert!(value["inputs"][4].get("digest").is_none());
}

#[test]
fn people_see_trees_and_sums() {
    let sizes = HashMap::from([(Digest::of(b"x"), 34)]);
    let text = people(&record(), &Roots::new(Path::new("/w/p"), Some(Path::new("/h"))), &sizes, 300_000);
    let wanted = format!(
        "record {}: cc a.c
exit code 0, ran 1.2 s, made 5 min ago

2 inputs in the workspace, 34 bytes
/w/p/  listed
└── src/a.c  34 bytes

1 input in the home directory
/h/
└── .rc  absent

3 inputs in the system
/
├── bin  -> usr/bin
├── secret  unreadable
└── usr/

4 outputs, 1.2 kB
/w/p/
├── dist/  0755
│   ├── a�.o  1.2 kB, 0644
│   └── l  -> a.o
└── old  removed
",
        Digest::of(b"x").short()
    );
    assert_eq!(text, wanted);
}

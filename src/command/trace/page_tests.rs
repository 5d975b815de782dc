//! Tests of the page's data. What a browser makes of it is tested in `tests/trace.rs`.

use wink_store::{Entry, Seen};

use super::super::tests::record;
use super::*;

/// A record that reads `inputs` and leaves `outputs`: paths with the bytes that are there.
fn task(inputs: &[(&str, &str)], outputs: &[(&str, &str)]) -> Record {
    let mut task = record();
    let seen = inputs.iter().map(|(path, bytes)| {
        let fact = Observation::File { digest: Digest::of(bytes.as_bytes()), mode: 0o644 };
        (TreePath::new(Root::Workspace, path.as_bytes()).unwrap(), Seen { fact, own: false })
    });
    task.trace.seen = seen.collect();
    let entry = |(path, bytes): &(&str, &str)| Entry {
        path: path.as_bytes().to_vec(),
        modified: false,
        output: Output::File { digest: Digest::of(bytes.as_bytes()), size: bytes.len() as u64, mode: 0o644 },
    };
    task.outputs.entries = outputs.iter().map(entry).collect();
    task
}

#[test]
fn an_edge_leads_from_who_left_a_file_to_who_read_it() {
    let records = [
        task(&[("a.c", "x")], &[("a.o", "1"), ("b.o", "2")]),
        task(&[("a.o", "1"), ("b.o", "older")], &[("prog", "3")]),
        task(&[("prog", "3"), ("b.o", "2"), ("own", "4")], &[("own", "4")]),
    ];
    let wanted = [
        Edge { from: 0, to: 1, fresh: 1, stale: 1 },
        Edge { from: 0, to: 2, fresh: 1, stale: 0 },
        Edge { from: 1, to: 2, fresh: 1, stale: 0 },
    ];
    assert_eq!(edges(&records), wanted, "and none to oneself");
}

#[test]
fn paths_and_facts_stand_once() {
    let mut book = Book::default();
    let node = |book: &mut Book, path: &[u8]| book.node(Root::Workspace, b"/w", path);
    let (one, again, other) = (node(&mut book, b"a/b"), node(&mut book, b"a/b"), node(&mut book, b"a\xff/b"));
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert_eq!(book.node(Root::System, b"/w", b"a/b"), 7, "another root, though at the same place");
    assert_eq!(book.places.len(), 2);
    let digest = Some(Digest::of(b"x"));
    let fact = book.fact(one, 'f', None, digest, String::new());
    assert_eq!(book.fact(one, 'f', None, digest, String::new()), fact);
    assert_ne!(book.fact(one, 'f', None, Some(Digest::of(b"y")), String::new()), fact);
    assert_eq!(distances(&BTreeSet::from([3, 4, 9])), [3, 1, 5]);
}

#[test]
fn no_name_ends_the_data() {
    let hostile = "</script><script>alert(1)</script>\"'&\u{202e}\u{1b}[2J<!--/*DATA*/";
    let data = Data {
        workspace: text(hostile.as_bytes()),
        nodes: vec![(-1, text(hostile.as_bytes())), (0, text(b"\xff\xfe"))],
        ..Data::default()
    };
    let page = render(&data);
    assert_eq!(page.matches("</script>").count(), 2, "the two of the template");
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}'), "nothing steers");
    let json = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let read: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(read["workspace"], "</script><script>alert(1)</script>\"'&\u{fffd}\u{fffd}[2J<!--/*DATA*/");
    assert_eq!(read["nodes"][1][1], "\u{fffd}\u{fffd}");
    for mark in ["/*STYLE*/", "/*SCRIPT*/"] {
        assert!(!page.contains(mark), "{mark}");
    }
}

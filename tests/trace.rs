//! `wink trace`: the tree of one record, what differs between two, and the page, also as a real browser shows it.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use common::{Run, World, tools};

fn trace(world: &World, args: &[&str]) -> String {
    let run = world.call().wink(&[&["trace"], args].concat());
    assert_eq!(run.code, 0, "{run:?}");
    run.out()
}

fn record(run: &Run) -> String {
    run.json["record"].as_str().unwrap_or_else(|| panic!("no record: {run:?}")).to_owned()
}

/// The lines below the one that begins so, up to an empty one.
fn section<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    text.lines().skip_while(|line| !line.starts_with(start)).take_while(|line| !line.is_empty()).collect()
}

#[test]
fn a_record_is_a_tree_with_sizes() {
    let world = World::new("trace");
    world.write("src/a.txt", "twelve bytes");
    world.write("src/deep/er/b.txt", vec![b'x'; 2000]);
    std::os::unix::fs::symlink("a.txt", world.ws.join("src/link")).unwrap();
    let line = "cat src/a.txt src/link src/deep/er/b.txt src/none; mkdir -p dist; ls src; ln -s a dist/l; cat src/a.txt > dist/a";
    world.run(&["/bin/sh", "-c", line]).miss();
    let text = trace(&world, &[]);
    assert!(text.starts_with("record ") && text.contains(&format!(": /bin/sh -c {line}\nexit code 0, ran ")), "{text}");
    let ws = world.ws.display();
    let inputs = section(&text, "9 inputs in the workspace, 2.0 kB");
    let wanted = format!(
        "9 inputs in the workspace, 2.0 kB
{ws}/
├── dist  absent
└── src/  listed
    ├── a.txt  12 bytes
    ├── deep/er/b.txt  2.0 kB
    ├── link  -> a.txt
    └── none  absent"
    );
    assert_eq!(inputs.join("\n"), wanted, "{text}");
    let outputs = section(&text, "3 outputs, 12 bytes").join("\n");
    assert_eq!(
        outputs,
        format!("3 outputs, 12 bytes\n{ws}/\n└── dist/  0755\n    ├── a  12 bytes, 0644\n    └── l  -> a"),
        "{text}"
    );
    assert!(text.contains(" inputs in the system, "), "{text}");

    // Of what has changed since and is in no blob, the size is not known; nothing is read for it.
    world.write("src/deep/er/b.txt", "other");
    let text = trace(&world, &[]);
    assert!(text.contains("9 inputs in the workspace, 12 bytes\n") && text.contains("├── deep/er/b.txt\n"), "{text}");
}

#[test]
fn two_records_are_compared() {
    let world = World::new("trace-two");
    world.write("src/a.txt", "one\n");
    let command = ["/bin/sh", "-c", "ls src; cat src/a.txt > out; [ ! -e extra ] || cat extra > more"];
    let first = record(world.run(&command).miss());
    world.write("src/a.txt", "other\n");
    world.write("src/b.txt", "");
    world.write("extra", "x");
    world.remove("out");
    let second = record(world.call().env("NODE_ENV", "test").run(&command).miss());
    let third = record(world.call().env("NODE_ENV", "test").flags(&["--force"]).run(&command).miss());

    let text = trace(&world, &[&first[..12], &second[..12]]);
    let ws = world.ws.display();
    assert!(text.starts_with(&format!("A  {}  /bin/sh -c ls src;", &first[..8])), "{text}");
    assert!(text.contains("\nthe keys differ: NODE_ENV: not set → test\n"), "{text}");
    let inputs = section(&text, "4 inputs differ").join("\n");
    for part in [
        &format!("  {ws}/extra  absent → file "),
        &format!("  {ws}/src/a.txt  file "),
        &format!("  {ws}/src  names "),
        ", without b.txt → names ",
        ", with b.txt",
    ] {
        assert!(inputs.contains(part), "{part:?} in {text}");
    }
    let outputs = section(&text, "2 outputs differ").join("\n");
    assert!(outputs.contains("  more  only in B: file ") && outputs.contains("  out  file "), "{text}");
    assert!(text.ends_with("\nthey printed different output\n"), "{text}");

    let json: Value = serde_json::from_str(&trace(&world, &["--json", &first, &second])).unwrap();
    assert_eq!(json["key"], serde_json::json!(["NODE_ENV: not set → test"]));
    assert_eq!(json["outputs"][0]["path"], "more");
    assert!(json["outputs"][0]["a"].is_null() && json["outputs"][0]["b"].is_string(), "{json:#}");
    assert_eq!((&json["a"]["record"], &json["b"]["record"]), (&first.as_str().into(), &second.as_str().into()));

    let same = trace(&world, &[&second, &third]);
    assert!(same.contains("the keys are the same") && same.contains("no output differs"), "{same}");
    assert!(same.ends_with("both printed the same\n"), "{same}");
    let run = world.call().wink(&["trace", &first, "ffffffff"]);
    assert!(run.code == 1 && run.err().contains("no record begins with ffffffff"), "{run:?}");
    assert_eq!(world.call().wink(&["trace", "a", "b", "c"]).code, 2);
}

/// Names that try to end the data, or the element that they are shown in.
const HOSTILE: [&[u8]; 6] = [
    b"</script><img src=x onerror=alert(1)>",
    b"quotes\"'&amp;`${1}`.txt",
    b"\xff\xfe not UTF-8",
    b"line\nbreak",
    "turned \u{202e}around".as_bytes(),
    b"<!-- --> ]]>",
];

/// A workspace with hostile names and three tasks, one fed by another; returns the page.
fn hostile(world: &World) -> String {
    for name in HOSTILE {
        world.write(
            Path::new("src").join(OsStr::from_bytes(
                &name.iter().map(|&byte| if byte == b'/' { b'_' } else { byte }).collect::<Vec<_>>(),
            )),
            "x",
        );
    }
    world.run(&["/bin/sh", "-c", "cat src/* > all; : \"</script><script>alert(2)</script>\""]).miss();
    world.run(&["/bin/sh", "-c", "wc -c all > size"]).miss();
    world.run(&["/bin/sh", "-c", "echo nothing; exit 3"]);
    let file = world.root.join("page.html");
    assert_eq!(trace(world, &["--html", file.to_str().unwrap()]), "");
    let page = fs::read_to_string(file).unwrap();
    let printed = trace(world, &["--html", "-"]);
    assert!(printed.len().abs_diff(page.len()) < 8, "the same on standard output, but for the time");
    page
}

/// Panics unless every element that is opened is closed, in order.
fn is_well_formed(page: &str) {
    const EMPTY: [&str; 3] = ["meta", "input", "link"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page.strip_prefix("<!doctype html>").expect("a doctype");
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split(|letter: char| !letter.is_alphanumeric()).next().unwrap();
        if let Some(closing) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closing), "closed out of order");
        } else if !EMPTY.contains(&name) {
            open.push(name.to_owned());
            // Their content is no markup.
            if ["script", "style"].contains(&name) {
                rest = &rest[rest.find(&format!("</{name}>")).expect("it is closed")..];
            }
        }
    }
    assert_eq!(open, Vec::<String>::new(), "left open");
}

#[test]
fn the_page_holds_its_data_whatever_the_names() {
    let world = World::new("trace-page");
    let page = hostile(&world);
    is_well_formed(&page);
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["workspace"], world.ws.to_str().unwrap());
    let tasks = data["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 3);
    assert!(tasks.iter().any(|task| task["exit_code"] == 3 && task["usable"] == false), "a failed run too");
    let names: Vec<&str> = data["nodes"].as_array().unwrap().iter().map(|node| node[1].as_str().unwrap()).collect();
    for name in [
        "<_script><img src=x onerror=alert(1)>",
        "quotes\"'&amp;`${1}`.txt",
        "\u{fffd}\u{fffd} not UTF-8",
        "line\u{fffd}break",
        "turned \u{fffd}around",
    ] {
        assert!(names.contains(&name), "{name:?} in {names:?}");
    }
    let edges = data["edges"].as_array().unwrap();
    assert_eq!(edges.len(), 1, "{edges:?}");
    let command = |number: &Value| tasks[number.as_u64().unwrap() as usize]["command"].as_str().unwrap().to_owned();
    assert!(
        command(&edges[0]["from"]).contains("cat src/*") && command(&edges[0]["to"]).contains("wc -c"),
        "{edges:?}"
    );
    // Nothing is loaded from anywhere.
    for load in ["http:", "https:", "src=\"", "href=", "@import", "url("] {
        let found = page.replace("http://www.w3.org/2000/svg", "").replace("url(#arrow)", "");
        assert!(!found.contains(load), "{load}");
    }
}

/// What the browser makes of the page: its document, after the script has run.
fn browse(chromium: &Path, world: &World, hash: &str) -> String {
    let profile = world.root.join("profile");
    let run = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ])
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}/page.html{hash}", world.root.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let document = String::from_utf8(run.stdout).unwrap();
    assert!(
        document.contains("data-ready=\"3\""),
        "the script did not come to its end ({}): {document:.2000}",
        run.status
    );
    assert!(!document.contains("data-error"), "the script failed: {document:.2000}");
    document
}

#[test]
fn a_browser_shows_the_page() {
    let chromium = need!(tools::chromium());
    let world = World::new("trace-browser");
    hostile(&world);
    let all = browse(&chromium, &world, "");
    assert_eq!(all.matches("class=\"task\"").count(), 3, "all tasks are listed");
    assert_eq!(all.matches("class=\"edge\"").count(), 1, "one feeds another");
    assert!(all.contains("exit code 3"));
    let record = trace(&world, &["--json"]);
    assert!(record.contains("inputs"));
    let data = fs::read_to_string(world.root.join("page.html")).unwrap();
    let data: Value =
        serde_json::from_str(data.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap()).unwrap();
    let first =
        data["tasks"].as_array().unwrap().iter().find(|task| task["command"].as_str().unwrap().contains("cat src/*"));
    let chosen = browse(&chromium, &world, &format!("#task={}", first.unwrap()["record"].as_str().unwrap()));
    let shown = chosen.split("</script>").last().unwrap_or_default();
    assert!(shown.is_empty() || !shown.contains("<img"), "no name became an element");
    let body = chosen.split("id=\"data\"").next().unwrap();
    assert!(body.contains("&lt;_script&gt;&lt;img src=x onerror=alert(1)&gt;"), "{body}");
    assert!(!body.contains("<img"), "no name became an element");
    assert!(body.contains("What it read and wrote") && body.contains("1 file: all"), "{body}");
    let searched = browse(&chromium, &world, "#q=quotes");
    assert_eq!(searched.matches("class=\"task\"").count(), 1, "one task has such a path");
    assert_eq!(browse(&chromium, &world, "#q=no-such-thing").matches("class=\"task\"").count(), 0);
}

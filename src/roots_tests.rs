//! Tests of the symbolic roots.

use super::*;
use wink_store::Seen;

fn roots(workspace: &str, home: &str) -> Roots {
    Roots::new(Path::new(workspace), (!home.is_empty()).then_some(Path::new(home)))
}

/// The symbolic forms, and whether the record is bound.
fn classify(roots: &Roots, paths: &[&str]) -> (Vec<String>, bool) {
    let bytes: Vec<&[u8]> = paths.iter().map(|path| path.as_bytes()).collect();
    let (trees, bound) = roots.classify(&bytes);
    (trees.iter().map(ToString::to_string).collect(), bound == Bound::Here)
}

#[track_caller]
fn check(roots: &Roots, bound: bool, pairs: &[(&str, &str)]) {
    let (paths, wanted): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
    let (found, is_bound) = classify(roots, &paths);
    assert_eq!(found, wanted);
    assert_eq!(is_bound, bound);
    // Unless clamped, back is where it came from.
    for (tree, path) in
        roots.classify(&paths.iter().map(|path| path.as_bytes()).collect::<Vec<_>>()).0.iter().zip(paths)
    {
        assert_eq!(String::from_utf8(roots.absolute(tree)).unwrap(), path);
    }
}

#[test]
fn workspace_neighbours_home_and_system() {
    check(
        &roots("/work/team/main", "/home/u"),
        false,
        &[
            ("/work/team/main", "ws:"),
            ("/work/team/main/a/b", "ws:a/b"),
            ("/work/team/main2/a", "up1:main2/a"),
            ("/work/team", "up1:"),
            ("/work", "up2:"),
            ("/work/x", "up2:x"),
            ("/", "sys:"),
            ("/usr/bin/cc", "sys:usr/bin/cc"),
            ("/home/u", "home:"),
            ("/home/u/.cargo/bin/cargo", "home:.cargo/bin/cargo"),
            ("/home/other/x", "sys:home/other/x"),
            ("/worker", "sys:worker"),
        ],
    );
}

#[test]
fn below_the_home_dotted_names_are_the_homes() {
    let roots = roots("/home/u/src/p", "/home/u");
    check(
        &roots,
        false,
        &[
            ("/home/u", "up2:"),
            ("/home/u/.npmrc", "home:.npmrc"),
            ("/home/u/.cargo/config", "home:.cargo/config"),
            ("/home/u/node_modules", "up2:node_modules"),
            ("/home/u/src/.npmrc", "up1:.npmrc"),
            ("/home", "up3:"),
            ("/home/v/.npmrc", "up3:v/.npmrc"),
        ]
        .iter()
        // `.npmrc` one level up would be a walk: it is asked for in the next test.
        .filter(|(path, _)| *path != "/home/u/src/.npmrc")
        .copied()
        .collect::<Vec<_>>(),
    );
    for witness in ["/home/u/src/p/.cargo", "/home/u/src/.cargo"] {
        let (found, bound) = classify(&roots, &[witness, "/home/u/.cargo/config", "/home/u/.npmrc"]);
        assert_eq!(found[1..], ["up2:.cargo/config", "home:.npmrc"], "{witness}");
        assert!(!bound);
    }
}

#[test]
fn a_home_beside_the_workspace() {
    let roots = roots("/home/shared/p", "/home/alice");
    check(
        &roots,
        false,
        &[
            ("/home/alice/.config/x", "home:.config/x"),
            ("/home/alice/bin", "up2:alice/bin"),
            ("/home/shared/x", "up1:x"),
        ],
    );
    // A walk up would have to ask for `alice` on its way.
    let (found, _) = classify(&roots, &["/home/shared/alice", "/home/alice/.config/x"]);
    assert_eq!(found[1], "up2:alice/.config/x");
}

#[test]
fn what_is_beside_the_workspace_is_named_from_it_wherever_it_lies() {
    let beside = [("/opt/build/p/x", "ws:x"), ("/opt/java/bin", "up2:java/bin"), ("/opt/build", "up1:")];
    check(&roots("/opt/build/p", ""), false, &beside);
    check(&roots("/opt/build/p", ""), false, &[("/opt/build/p/x", "ws:x"), ("/usr/bin", "sys:usr/bin")]);
    check(&roots("/libx/p", ""), false, &[("/libx/q", "up1:q")]);
    let tmp = roots("/var/tmp/a/p", "");
    check(&tmp, false, &[("/var", "up3:"), ("/var/tmp", "up2:"), ("/var/tmp/x", "up2:x")]);
    check(&tmp, false, &[("/var/lib/x", "up3:lib/x")]);
}

#[test]
fn odd_roots() {
    check(&roots("/", "/"), true, &[("/", "ws:"), ("/usr", "ws:usr")]);
    assert_eq!(roots("/", "").depth(), 0);
    check(&roots("/w", "/"), false, &[("/w/x", "ws:x"), ("/x", "sys:x"), ("/", "sys:")]);
    assert_eq!(roots("/w", "").depth(), 1);
    // A home inside the workspace is part of it.
    check(&roots("/w/p", "/w/p/home"), false, &[("/w/p/home/.x", "ws:home/.x")]);
    assert_eq!(classify(&roots("/w/p", ""), &["/w//p/./a/../b/"]).0, ["ws:b"]);
}

#[test]
fn above_the_root_is_the_root() {
    let path = |level, relative: &str| TreePath::new(Root::Above(level), relative.as_bytes()).unwrap();
    let roots = roots("/a/b", "");
    for (level, relative, wanted) in [(1, "x", "/a/x"), (2, "x", "/x"), (9, "x", "/x"), (9, "", "/"), (1, "", "/a")] {
        assert_eq!(String::from_utf8(roots.absolute(&path(level, relative))).unwrap(), wanted);
    }
    let home = TreePath::new(Root::Home, b"x").unwrap();
    assert!(roots.absolute(&home).contains(&0));
}

#[test]
fn the_other_reading_of_a_neighbour() {
    let roots = roots("/home/u/src/p", "/home/u");
    let fixed = |level, relative: &str| {
        roots.fixed(&TreePath::new(Root::Above(level), relative.as_bytes()).unwrap()).map(|path| path.to_string())
    };
    assert_eq!(fixed(2, "go/bin").as_deref(), Some("home:go/bin"));
    assert_eq!(fixed(3, "v").as_deref(), Some("sys:home/v"));
    assert_eq!(roots.fixed(&TreePath::new(Root::Workspace, b"x").unwrap()), None);
}

#[test]
fn substitution() {
    let roots = roots("/work/repo", "/home/u");
    let shown = |text: &str| String::from_utf8(roots.substitute(text.as_bytes())).unwrap().replace('\0', "@");
    for (text, wanted) in [
        ("/work/repo", "@W"),
        ("/work/repo/a", "@W/a"),
        ("/work/repo2 /work/repo-x /work/repo.d", "/work/repo2 /work/repo-x /work/repo.d"),
        ("PATH=/work/repo/bin:/home/u/bin:/usr", "PATH=@W/bin:@H/bin:/usr"),
        ("-I/work/repo/include -isystem/home/u", "-I@W/include -isystem@H"),
        ("file:///work/repo/x", "file://@W/x"),
        ("src/work/repo /x/work/repo", "src/work/repo /x/work/repo"),
        ("\"/work/repo\",'/home/u'", "\"@W\",'@H'"),
        ("@/work/repo", "@@W"),
        ("", ""),
    ] {
        assert_eq!(shown(text), wanted);
    }
    assert_eq!(roots.substitute(b"a\0W"), b"a\0NW");
    let inner = super::Roots::new(Path::new("/home/u/p"), Some(Path::new("/home/u")));
    assert_eq!(inner.substitute(b"/home/u/p:/home/u/q"), b"\0W:\0H/q");
    assert_eq!(super::Roots::new(Path::new("/"), None).substitute(b"/usr"), b"/usr");
}

fn trace(facts: &[(Root, &str, Observation)]) -> Trace {
    let seen = facts.iter().map(|(root, relative, fact)| {
        (TreePath::new(*root, relative.as_bytes()).unwrap(), Seen { fact: fact.clone(), own: false })
    });
    Trace { seen: seen.collect() }
}

fn extra(roots: &Roots, depth: u16, trace: &Trace) -> Vec<String> {
    let mut absent = roots.extra_probes(depth, trace).absent;
    absent.sort_by_key(|path| std::cmp::Reverse(path.len()));
    absent.into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
}

#[test]
fn a_deeper_workspace_asks_more() {
    use Observation::Absent;
    const DIR: Observation = Observation::Dir { mode: 0o755 };
    let deep = roots("/a/b/c/d", "");
    let walk = trace(&[
        (Root::Workspace, "node_modules", DIR),
        (Root::Above(1), "node_modules", Absent),
        (Root::System, "node_modules", Absent),
        (Root::System, "usr", DIR),
        (Root::System, "usr/no", Absent),
    ]);
    assert_eq!(extra(&deep, 2, &walk), ["/a/b/node_modules", "/a/node_modules"]);
    assert_eq!(extra(&deep, 3, &walk), ["/a/node_modules"]);
    assert!(extra(&deep, 4, &walk).is_empty());
    assert!(extra(&deep, 6, &walk).is_empty());

    // Found in `/` after it was absent everywhere below.
    let found = trace(&[(Root::Above(1), ".rc/x", Absent), (Root::System, ".rc/x", DIR), (Root::System, ".rc", DIR)]);
    assert_eq!(extra(&deep, 2, &found), ["/a/b/.rc/x", "/a/.rc/x"]);
    // A workspace directly below `/` has no ancestors to tell of.
    let shallow = trace(&[(Root::Workspace, "n", Absent), (Root::System, "n", Absent), (Root::System, "m", Absent)]);
    assert_eq!(extra(&deep, 1, &shallow), ["/a/b/c/n", "/a/b/n", "/a/n"]);
    // A walk that stops below `/`, at the home: what was looked for from the workspace up is looked for in between too.
    let home = trace(&[(Root::Workspace, "rc", Absent), (Root::Above(1), "rc", Absent), (Root::Home, "rc", Absent)]);
    assert_eq!(extra(&deep, 2, &home), ["/a/b/rc", "/a/rc"]);
    let stopped = trace(&[(Root::Workspace, "rc", Absent), (Root::Above(1), "rc", DIR)]);
    assert!(extra(&deep, 2, &stopped).is_empty());
    // Nothing went up.
    let plain = trace(&[(Root::Above(1), "", DIR), (Root::System, "n", Absent), (Root::Workspace, "m", Absent)]);
    assert!(extra(&deep, 2, &plain).is_empty());
}

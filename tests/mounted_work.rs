//! Real work in a mounted working tree: every file operation, packages, builds and version control do there what they do in a plain
//! directory, natively and as tasks; so do large files and odd names; and an ordinary user mounts through `fusermount3`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::mounted::{mount, unmount};
use common::operations::{self, without_special};
use common::{Tree, World, assert_same, copy_tree, fixtures, snapshot, strs, tools};

/// Seconds since 1970 that lie before every test run; what is older was set by hand.
const LONG_AGO: i64 = 1_600_000_000;
const USER: &str = "65534";

/// What a `Tree` does not say: link count, size, owner, group, and a time that was set or kept.
fn facts(top: &Path, tree: &Tree) -> BTreeMap<PathBuf, String> {
    let fact = |path: &PathBuf| {
        let data = fs::symlink_metadata(top.join(path)).unwrap();
        let (links, size) = if data.is_dir() { (0, 0) } else { (data.nlink(), data.size()) };
        let time = (data.mtime() < LONG_AGO).then(|| (data.mtime(), data.mtime_nsec()));
        (path.clone(), format!("{links} links, {size} bytes, {}:{}, {time:?}", data.uid(), data.gid()))
    };
    tree.keys().map(fact).collect()
}

/// A directory that an operation starts from, all of it old.
fn template(world: &World, operation: &str) -> PathBuf {
    let template = world.root.join(format!("template-{operation}"));
    operations::prepare(&template, operation);
    let touch = ["-exec", "touch", "-h", "-d", "@1500000000", "{}", "+"];
    let run = world.call().dir(&template).native(&[&["find", "."][..], &touch].concat());
    assert_eq!(run.code, 0, "{run:?}");
    template
}

#[test]
fn every_operation_is_the_same_in_the_mount() {
    let python = need!(tools::python());
    let script = operations::script();
    let world = World::new("work-native");
    let plain = world.root.join("plain");
    fs::create_dir(&plain).unwrap();
    mount(&world);
    for operation in operations::names() {
        let template = template(&world, &operation);
        let [expected, found] = [plain.join(&operation), world.ws.join(&operation)].map(|dir| {
            copy_tree(&template, &dir);
            let run = world.call().dir(&dir).native(&[&python, "-I", "-B", script.to_str().unwrap(), &operation]);
            assert_eq!(run.code, 0, "{}: {run:?}", dir.display());
            let tree = snapshot(&dir);
            (run.out(), run.err(), facts(&dir, &tree), tree)
        });
        assert_same(&expected.3, &found.3, &operation);
        assert_eq!((expected.0, expected.1), (found.0, found.1), "{operation}");
        assert_eq!(expected.2, found.2, "{operation}");
    }
    let through = world.tree();
    let seen = facts(&world.ws, &through);
    unmount(&world);
    assert_same(&through, &world.tree(), "beneath the mount");
    assert_eq!(seen, facts(&world.ws, &through), "beneath the mount");
}

#[test]
fn every_operation_is_a_task_in_the_mount() {
    let python = need!(tools::python());
    let world = World::new("work-tasks");
    let plain = world.root.join("plain");
    fs::create_dir(&plain).unwrap();
    mount(&world);
    for (turn, operation) in operations::names().into_iter().enumerate() {
        let template = template(&world, &operation);
        let before = without_special(snapshot(&template));
        let line = format!("{python} -I -B {} {operation}", operations::script().display());
        let twin = plain.join(&operation);
        copy_tree(&template, &twin);
        let native = world.call().dir(&twin).native(&["/bin/sh", "-c", &line]);
        assert_eq!(native.code, 0, "{native:?}");
        let expected = without_special(snapshot(&twin));

        let dir = world.ws.join(&operation);
        let command = world.counted(&line);
        let run = || world.call().dir(&dir).run(&strs(&command));
        copy_tree(&template, &dir);
        let first = run();
        first.miss();
        assert_eq!((first.out(), first.command_err()), (native.out(), native.err()), "{operation}");
        assert_same(&expected, &without_special(snapshot(&dir)), &format!("{operation}: after the run"));

        fs::remove_dir_all(&dir).unwrap();
        copy_tree(&template, &dir);
        let hit = run();
        hit.hit();
        assert_eq!(hit.json["restored_as"], "views", "{operation}");
        assert_eq!(hit.out(), native.out(), "{operation}");
        assert_same(&expected, &without_special(snapshot(&dir)), &format!("{operation}: after a hit"));
        // Where no source was touched, the hit repeats: with everything in place, and without any output.
        if before.iter().all(|(path, entry)| expected.get(path) == Some(entry)) {
            run().hit();
            for path in expected.keys().rev().filter(|path| !before.contains_key(*path)) {
                let full = dir.join(path);
                if expected[path].kind == "dir" {
                    fs::remove_dir(full).unwrap()
                } else {
                    fs::remove_file(full).unwrap()
                }
            }
            run().hit();
            assert_same(
                &expected,
                &without_special(snapshot(&dir)),
                &format!("{operation}: after deleting the outputs"),
            );
        }
        assert_eq!(world.count(), turn + 1, "{operation}: only the first run executed");
    }
}

/// One build natively beside the mount and in it, then as a task: the same output and tree each time; the hit shows views. All that it
/// made is removed in between. What `volatile` names is not compared. The world stays mounted.
fn native_then_task(world: &World, line: &str, volatile: fn(&Path) -> bool) {
    let command = world.counted(line);
    let kept = |mut tree: Tree| {
        tree.retain(|path, _| !volatile(path));
        tree
    };
    let before = world.tree();
    let (native, expected) = world.native(&strs(&command));
    assert_eq!(native.code, 0, "{native:?}");
    let is_new = |path: &Path| !path.as_os_str().is_empty() && !before.contains_key(path);
    let tops = expected.keys().filter(|path| is_new(path) && !path.parent().is_some_and(is_new));
    let tops: Vec<PathBuf> = tops.cloned().collect();
    assert!(!tops.is_empty(), "it makes something");
    let remove = || {
        tops.iter().for_each(|path| world.remove(path));
        assert_same(&before, &world.tree(), "nothing is left of it");
    };
    let expected = kept(expected);
    mount(world);
    let inside = world.call().native(&strs(&command));
    assert_eq!((inside.code, inside.out(), inside.err()), (0, native.out(), native.err()));
    assert_same(&expected, &kept(world.tree()), "natively in the mount");
    remove();
    let first = world.run(&strs(&command));
    first.miss();
    assert_eq!((first.out(), first.command_err()), (native.out(), native.err()));
    assert_same(&expected, &kept(world.tree()), "after a miss");
    remove();
    let hit = world.run(&strs(&command));
    hit.hit();
    assert_eq!(hit.json["restored_as"], "views", "{hit:?}");
    assert_eq!((hit.out(), hit.command_err()), (native.out(), native.err()));
    assert_same(&expected, &kept(world.tree()), "after a hit");
    assert_eq!(world.count(), 2, "in the mount, once natively and once as a task");
}

/// A node project with two dependencies and a test of them; the caches of npm and pnpm in the home.
fn node_project(world: &World) -> Result<PathBuf, String> {
    let packages = tools::packages()?;
    for (from, to) in [("npm", ".npm"), ("store", ".local/share/pnpm/store")] {
        fs::create_dir_all(world.home.join(to).parent().unwrap()).unwrap();
        copy_tree(&packages.join(from), &world.home.join(to));
    }
    for name in ["package.json", "package-lock.json", "pnpm-lock.yaml"] {
        world.write(name, fs::read(packages.join("project").join(name)).unwrap());
    }
    world.write(
        "test/main.test.js",
        "const test = require('node:test'), assert = require('node:assert');\n\
         test('ms', () => assert.equal(require('ms')('2 days'), 172800000));\n\
         test('semver', () => assert.ok(require('semver').satisfies('1.2.3', '^1.0.0')));\n",
    );
    world.write("main.js", "console.log(require('ms')(60000), require('semver').inc('1.2.3', 'minor'));\n");
    Ok(packages.join("tool/node_modules/pnpm/bin/pnpm.cjs"))
}

const NODE_TESTS: &str = "node --test --test-reporter=dot && node_modules/.bin/semver -i minor 1.2.3 && node main.js";

#[test]
fn npm_installs_and_tests_run() {
    let world = World::new("work-npm");
    need!(node_project(&world));
    fs::remove_file(world.ws.join("package-lock.json")).unwrap();
    // Without a lock file: npm resolves, and writes one.
    let install = "npm install --offline --silent --no-audit --no-fund";
    native_then_task(&world, &format!("{install} && {NODE_TESTS}"), |_| false);
    let tree = world.tree();
    assert!(tree.contains_key(Path::new("package-lock.json")) && tree.len() > 50, "{} paths", tree.len());

    world.remove("node_modules");
    let ci = world.counted("npm ci --offline --silent --no-audit --no-fund");
    world.run(&strs(&ci)).miss();
    assert_same(&tree, &world.tree(), "npm ci");
    world.remove("node_modules");
    let hit = world.run(&strs(&ci));
    hit.hit();
    assert_eq!(hit.json["restored_as"], "views");
    assert_same(&tree, &world.tree(), "npm ci, a hit");
    let run = world.call().native(&["node", "main.js"]);
    assert_eq!((run.code, run.out().as_str()), (0, "1m 1.3.0\n"), "{run:?}");
    // npm works on with what a hit has brought.
    let run = world.call().native(&["npm", "uninstall", "--offline", "--silent", "--no-audit", "--no-fund", "semver"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(world.has("node_modules/ms/index.js") && !world.has("node_modules/semver"));
}

#[test]
fn pnpm_installs_and_tests_run() {
    let world = World::new("work-pnpm");
    let pnpm = need!(node_project(&world));
    let install = format!(
        "node {} install --offline --frozen-lockfile --silent --store-dir {}",
        pnpm.display(),
        world.home.join(".local/share/pnpm/store").display()
    );
    // It notes when it was called.
    let volatile = |path: &Path| path.ends_with(".modules.yaml") || path.ends_with(".pnpm-workspace-state.json");
    native_then_task(&world, &format!("{install} && {NODE_TESTS}"), volatile);
    let run = world.call().native(&["node", "main.js"]);
    assert_eq!((run.code, run.out().as_str()), (0, "1m 1.3.0\n"), "{run:?}");
}

#[test]
fn typescript_builds_through_npx() {
    let world = World::git("work-npx", "dist/\n*.tsbuildinfo\nnode_modules\n");
    need!(fixtures::typescript(&world));
    world.write(world.home.join(".npmrc"), "update-notifier = false\n");
    native_then_task(&world, "npx --offline tsc -p .", |_| false);
    let run = world.call().native(&["node", "-p", "require('./dist/deep').value"]);
    assert_eq!((run.code, run.out().as_str()), (0, "29\n"), "{run:?}");
}

#[test]
fn cargo_builds() {
    let world = World::new("work-cargo");
    let line = need!(fixtures::cargo(&world));
    native_then_task(&world, &line, |_| false);
    let run = world.call().native(&["./target/debug/small"]);
    assert_eq!((run.code, run.out().as_str()), (0, "42 first\n"), "{run:?}");
    // The user's own cargo finds nothing to do, and then what was edited.
    let line = line.replace("-q", "-v").replace("&& ./target/debug/small", "2>&1");
    let run = world.call().native(&["/bin/sh", "-c", &line]);
    assert!(run.code == 0 && run.out().contains("Fresh small") && !run.out().contains("Compiling"), "{run:?}");
    world.write("src/main.rs", "fn main() {\n    println!(\"edited\");\n}\n");
    let run = world.call().native(&["/bin/sh", "-c", &format!("{line} && ./target/debug/small")]);
    assert!(run.code == 0 && run.out().ends_with("edited\n"), "{run:?}");
}

#[test]
fn make_builds() {
    let world = World::new("work-make");
    let line = need!(fixtures::lua(&world));
    native_then_task(&world, &line, |_| false);
    let make = world.call().native(&["make", "-q"]);
    assert_eq!(make.code, 0, "make has nothing to do: {make:?}");
    world.write("lvm.c", [world.read("lvm.c"), b"\n/* edited */\n".to_vec()].concat());
    assert_eq!(world.call().native(&["make", "-q"]).code, 1, "and sees an edit");
    assert_eq!(world.call().native(&["make", "-s"]).code, 0);
    world.write("hello.lua", "print(6 * 7)");
    assert_eq!(world.call().native(&["./lua", "hello.lua"]).out(), "42\n");
}

#[test]
fn git_works() {
    let world = World::new("work-git");
    let config = "[user]\nname = x\nemail = x@y\n[init]\ndefaultBranch = main\n[gc]\nauto = 0\n[pack]\nthreads = 1\n";
    world.write(world.home.join(".gitconfig"), config);
    let script = r#"set -e
export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
git init -q origin && cd origin
for n in 1 2 3 4 5; do mkdir -p d$n; for f in a b c d e f; do echo $n $f > d$n/$f; done; git add -A; git commit -qm "commit $n"; done
cd .. && git clone -q origin clone && cd clone
git switch -qc side HEAD~2
echo side > side.txt; echo changed > d1/a; ln -s d1/a soft; chmod +x d1/b; git add -A; git commit -qm side
git mv d2 moved; git rm -q d3/a; git commit -qm moved
git rebase -q main
git worktree add -q ../tree -b other main
(cd ../tree && echo tree > tree.txt && git add -A && git commit -qm tree && git rebase -q side)
git stash list; echo dirty > d1/c; git stash -q; git stash pop -q; git checkout -q -- d1/c
git gc -q --prune=now
git fsck --full --strict 2>&1
git status --porcelain --branch; git -C ../tree status --porcelain
git log --all --format='%H %T %s' --date-order; git worktree list --porcelain; git count-objects -v | grep -v size
git worktree remove ../tree
git push -q origin side && git -C ../origin log -1 --format=%H side
"#;
    world.write("work.sh", script);
    // An index holds inode numbers and times.
    let volatile = |tree: &mut Tree| tree.retain(|path, _| !path.ends_with("index"));
    let (native, mut expected) = world.native(&["/bin/sh", "work.sh"]);
    assert_eq!(native.code, 0, "{native:?}");
    mount(&world);
    let inside = world.call().native(&["/bin/sh", "work.sh"]);
    assert_eq!((inside.code, inside.out(), inside.err()), (0, native.out(), native.err()));
    let mut found = world.tree();
    volatile(&mut expected);
    volatile(&mut found);
    assert!(expected.keys().any(|path| path.extension().is_some_and(|extension| extension == "pack")));
    assert_same(&expected, &found, "in the mount");
    unmount(&world);
    let mut beneath = world.tree();
    volatile(&mut beneath);
    assert_same(&expected, &beneath, "beneath the mount");
    let clone = world.call().dir("clone").native(&["git", "status", "--porcelain"]);
    assert_eq!((clone.code, clone.out().as_str()), (0, ""), "{clone:?}");
}

#[test]
fn large_sparse_mapped_and_oddly_named_files() {
    let python = need!(tools::python());
    let world = World::new("work-large");
    let script = tools::tests().join("fixtures/large.py");
    let plain = world.root.join("plain");
    let inside = world.ws.join("inside");
    let large = |dir: &Path, what: &str| {
        let run = world.call().dir(dir).native(&[&python, "-I", "-B", script.to_str().unwrap(), what]);
        assert_eq!(run.code, 0, "{}: {run:?}", dir.display());
        run.out()
    };
    mount(&world);
    let [expected, through] = [&plain, &inside].map(|dir| {
        fs::create_dir(dir).unwrap();
        large(dir, "make");
        large(dir, "look")
    });
    assert!(expected.contains("sparse stays sparse: True"), "{expected}");
    assert_eq!(expected, through);
    unmount(&world);
    assert_eq!(expected, large(&inside, "look"), "beneath the mount");
}

/// A world that belongs to an ordinary user, in a mount namespace with a device that everybody may open; and how to get there.
fn ordinary(name: &str) -> (World, PathBuf, String) {
    let world = World::new(name);
    world.write("src/a.txt", "alpha\n");
    let program = world.root.join("wink");
    fs::copy(env!("CARGO_BIN_EXE_wink"), &program).unwrap();
    let owned =
        Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).args([&world.root, &world.untracked]).status();
    assert!(owned.unwrap().success());
    let setup = format!(
        "mknod -m 666 {0} c 10 229; chmod 666 {0}; mount --bind {0} /dev/fuse; rm {0}; \
         exec setpriv --reuid={USER} --regid={USER} --clear-groups \"$@\"",
        world.untracked.join("fuse").display()
    );
    (world, program, setup)
}

#[test]
fn an_ordinary_user_mounts_through_fusermount() {
    need!(tools::root().and(tools::unshare(&["-m"])).and(tools::which("setpriv").map(drop)));
    need!(tools::fusermount());
    let (world, program, setup) = ordinary("work-user");
    let command = "mkdir -p dist/deep && tr a-z A-Z < src/a.txt > dist/deep/b && cp /bin/true dist/tool && ln -s b dist/deep/link";
    // Its daemon and mount live in a namespace that no other process sees: they must end with it.
    let script = format!(
        r#"set -e
export PATH={bin}:$PATH
leave() {{ cd /; wink unmount {ws} > /dev/null 2>&1 || umount -l {ws} || :; wink daemon stop > /dev/null 2>&1 || :; }}
trap leave EXIT
wink mount {ws} > /dev/null
cd {ws}
grep -c ' {ws} .* - fuse.* .*user_id={USER}' /proc/self/mountinfo
echo mine > mine.txt; mv mine.txt moved.txt; ln moved.txt linked.txt; chmod 640 moved.txt
wink run -- /bin/sh -c '{command}'
rm -r dist
wink run -- /bin/sh -c '{command}' 2>&1
cat dist/deep/link; dist/tool
stat -c '%u:%g %a %h' moved.txt dist/deep/b
! cat secret 2> /dev/null
echo more >> dist/deep/b
cd /
wink unmount --materialize {ws} > /dev/null
cat {ws}/dist/deep/b
wink daemon stop > /dev/null
grep -c ' {ws} ' /proc/self/mountinfo || :
"#,
        bin = program.parent().unwrap().display(),
        ws = world.ws.display(),
    );
    let secret = world.write("secret", "of somebody else\n");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let under = ["unshare", "-m", "/bin/sh", "-ec", &setup, "sh"];
    let run = world.call().dir("/").under(&under).native(&["/bin/sh", "-c", &script]);
    assert_eq!(run.code, 0, "{run:?}");
    let out = run.out();
    let (head, tail) = out.split_once("ALPHA\n").expect("the hit's output");
    assert!(head.starts_with("1\n") && head.contains("restored as views"), "{run:?}");
    let owner = format!("{USER}:{USER}");
    assert_eq!(tail, format!("{owner} 640 2\n{owner} 644 1\nALPHA\nmore\n0\n"), "{run:?}");
    assert_eq!(world.text("dist/deep/b"), "ALPHA\nmore\n", "made real");
    assert_eq!(fs::metadata(world.ws.join("dist/tool")).unwrap().uid().to_string(), USER);
    assert_eq!(world.text("linked.txt"), "mine\n");
}

#[test]
fn without_fusermount_the_package_is_named() {
    need!(tools::root().and(tools::unshare(&["-m"])).and(tools::which("setpriv").map(drop)));
    let (world, program, setup) = ordinary("work-bare");
    let script = format!(
        "PATH=/nowhere; {0} mount {1}; code=$?; {0} daemon stop > /dev/null; exit $code",
        program.display(),
        world.ws.display()
    );
    let under = ["unshare", "-m", "/bin/sh", "-ec", &setup, "sh"];
    let run = world.call().dir("/").under(&under).native(&["/bin/sh", "-c", &script]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err().contains("fusermount3") && run.err().contains("install the package fuse3"), "{run:?}");
    assert_eq!(world.text("src/a.txt"), "alpha\n", "and nothing covers the directory");
}

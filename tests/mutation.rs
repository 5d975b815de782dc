//! Soundness by mutation: for a recorded task every observed fact is changed in turn, driven by the trace itself, and every
//! change must miss and name itself; what was not observed may change freely.
//!
//! `--dry-run` decides without executing, so the one record stays the one candidate; the last word is a real run each.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::{Call, Run, World, tools};

const SCRIPT: &str = r#"
import glob, os, subprocess, sys
outside = sys.argv[1]
os.makedirs("out", exist_ok=True)
result = [open("data/read.txt").read(), str(os.stat("data/stat.txt").st_size), os.readlink("link")]
result += [open("dirlink/inner.txt").read(), open("walk/deep/leaf.txt").read(), open("empty.txt").read()]
result += [str(os.path.exists("missing")), str(os.path.exists("data/sub/missing")), str(sorted(os.listdir("list")))]
result += [subprocess.run(["./tool.sh"], capture_output=True, text=True).stdout]
result += [open(outside + "/config").read(), str(os.path.exists(outside + "/absent")), str(sorted(os.listdir(outside + "/dir")))]
result += [open(os.path.expanduser("~/.toolrc")).read(), os.environ.get("MUTANT_VALUE", "")]
open("out/result", "w").write("\n".join(result))
print("done")
"#;

/// A recorded task with one fact of every kind.
struct Subject {
    world: World,
    outside: PathBuf,
    command: Vec<String>,
}

impl Subject {
    fn new(name: &str) -> Result<Subject, String> {
        let world = World::tracked(name);
        let python = tools::python()?;
        let outside = world.root.join("outside");
        world.write("task.py", SCRIPT);
        for file in ["data/read.txt", "data/stat.txt", "data/unread.txt", "walk/deep/leaf.txt", "real/inner.txt"] {
            world.write(file, format!("{file}\n"));
        }
        world.write("empty.txt", "");
        world.write("unlisted/some.txt", "some");
        for name in ["a", "b"] {
            world.write(format!("list/{name}"), name);
            world.write(outside.join("dir").join(name), name);
        }
        fs::create_dir(world.ws.join("list/sub")).unwrap();
        world.write(outside.join("config"), "config\n");
        world.write(world.home.join(".toolrc"), "rc\n");
        world.script("tool.sh", "#!/bin/sh\ncat data/read.txt\n");
        symlink("real/inner.txt", world.ws.join("link")).unwrap();
        symlink("real", world.ws.join("dirlink")).unwrap();
        // Isolated (-I): else python lists the directory of the script itself, in search of modules.
        let line = format!("{python} -I -B task.py {}", outside.display());
        let command = world.counted(&line);
        let subject = Subject { world, outside, command };
        let first = subject.real(subject.call());
        first.miss();
        // What has just changed is not trusted to keep its stamp.
        std::thread::sleep(std::time::Duration::from_millis(30));
        subject.real(subject.call()).hit();
        // What follows is told by stamps where they tell it, and must be noticed all the same.
        assert_eq!(
            fs::read_dir(subject.world.store.join("stamps")).map_or(0, Iterator::count),
            1,
            "no stamps are kept"
        );
        Ok(subject)
    }

    fn call(&self) -> Call<'_> {
        self.world.call().env("MUTANT_VALUE", "one")
    }

    fn real(&self, call: Call) -> Run {
        call.run(&common::strs(&self.command))
    }

    fn dry(&self, call: Call) -> Run {
        let count = self.world.count();
        let run = call.flags(&["--dry-run"]).run(&common::strs(&self.command));
        assert_eq!(self.world.count(), count, "--dry-run executed: {run:?}");
        run
    }

    /// Changes a fact, wants a miss that names `path`; changes it back, wants a hit.
    fn must_miss(&self, what: &str, path: &Path, change: impl FnOnce(), undo: impl FnOnce()) {
        change();
        let run = self.dry(self.call());
        assert_eq!(run.status(), "miss", "{what} of {} was not noticed: {run:?}", path.display());
        let difference =
            run.difference().unwrap_or_else(|| panic!("{what} of {}: no difference: {run:?}", path.display()));
        // What is below a path that went away or came is the same change.
        let same = difference.starts_with(path) || path.starts_with(&difference);
        assert!(same, "{what} of {} was blamed on {}: {run:?}", path.display(), difference.display());
        undo();
        let run = self.dry(self.call());
        assert_eq!(run.status(), "hit", "{what} of {} undone: {run:?}", path.display());
    }

    fn must_hit(&self, what: &str, change: impl FnOnce()) {
        change();
        let run = self.dry(self.call());
        assert_eq!(run.status(), "hit", "{what} was never observed: {run:?}");
    }

    /// Below the workspace or one of the private places outside of it, and nothing of the task's own.
    fn private(&self, path: &Path) -> bool {
        let below = |top: &Path| path.starts_with(top) && path != top;
        below(&self.world.ws) && !path.starts_with(self.world.ws.join("out"))
            || below(&self.outside)
            || path == self.world.home.join(".toolrc")
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn every_observed_fact_counts() {
    let subject = need!(Subject::new("mutation"));
    let trace = subject.world.trace();
    let facts: Vec<_> = trace.inputs.iter().filter(|(path, _)| subject.private(path)).collect();
    let aside = subject.world.root.join("aside");
    let mut kinds = std::collections::BTreeMap::new();
    for (path, kind) in &facts {
        *kinds.entry(kind.as_str()).or_insert(0) += 1;
        let path = path.as_path();
        let hide = || fs::rename(path, &aside).unwrap();
        let show = || fs::rename(&aside, path).unwrap();
        match kind.as_str() {
            "file" => {
                let (bytes, bits) = (fs::read(path).unwrap(), mode(path));
                let longer = [bytes.as_slice(), b"#\n"].concat();
                subject.must_miss(
                    "content",
                    path,
                    || fs::write(path, longer).unwrap(),
                    || fs::write(path, &bytes).unwrap(),
                );
                if !bytes.is_empty() {
                    // Equal length and the old time: only reading shows it (or the ctime).
                    let time = fs::metadata(path).unwrap().modified().unwrap();
                    let keep_time = || fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
                    let mut flipped = bytes.clone();
                    flipped[0] ^= 1;
                    let change = || {
                        fs::write(path, flipped).unwrap();
                        keep_time();
                    };
                    let undo = || {
                        fs::write(path, &bytes).unwrap();
                        keep_time();
                    };
                    subject.must_miss("one bit, same size and time,", path, change, undo);
                }
                subject.must_miss("exec bit", path, || chmod(path, bits ^ 0o111), || chmod(path, bits));
                subject.must_miss("presence", path, hide, show);
                let become_dir = || {
                    hide();
                    fs::create_dir(path).unwrap();
                };
                let become_file = || {
                    fs::remove_dir(path).unwrap();
                    show();
                };
                subject.must_miss("kind", path, become_dir, become_file);
            }
            "absent" => {
                // A name below something absent would need its parents first: they have facts of their own.
                if path.parent().unwrap().is_dir() && !path.exists() {
                    subject.must_miss(
                        "absence",
                        path,
                        || fs::write(path, "").unwrap(),
                        || fs::remove_file(path).unwrap(),
                    );
                    let make = || fs::create_dir(path).unwrap();
                    subject.must_miss("absence (a directory)", path, make, || fs::remove_dir(path).unwrap());
                    let link = || symlink("/nowhere", path).unwrap();
                    subject.must_miss("absence (a dangling link)", path, link, || fs::remove_file(path).unwrap());
                }
            }
            "listing" => {
                let new = path.join("new-name");
                subject.must_miss("listing", path, || fs::write(&new, "").unwrap(), || fs::remove_file(&new).unwrap());
                let old = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).find(|entry| entry.is_file());
                let old = old.unwrap_or_else(|| panic!("{} lists no file", path.display()));
                let away = || fs::rename(&old, &aside).unwrap();
                let back = || fs::rename(&aside, &old).unwrap();
                subject.must_miss("listing (one name less)", path, away, back);
                let as_dir = || {
                    away();
                    fs::create_dir(&old).unwrap();
                };
                let as_file = || {
                    fs::remove_dir(&old).unwrap();
                    back();
                };
                subject.must_miss("listing (a file became a directory)", path, as_dir, as_file);
            }
            "dir" => {
                subject.must_miss("presence", path, hide, show);
                let as_link = || {
                    hide();
                    symlink(&aside, path).unwrap();
                };
                let as_dir = || {
                    fs::remove_file(path).unwrap();
                    show();
                };
                subject.must_miss("kind (a link to the same directory)", path, as_link, as_dir);
            }
            "link" => {
                let target = fs::read_link(path).unwrap();
                let retarget = |to: &Path| {
                    fs::remove_file(path).unwrap();
                    symlink(to, path).unwrap();
                };
                // The same place by another name: equal contents, another answer to readlink.
                let detour = Path::new("./").join(&target);
                let detour = PathBuf::from(format!(".//{}", detour.display()));
                subject.must_miss("target", path, || retarget(&detour), || retarget(&target));
            }
            other => panic!("unknown kind {other} of {}", path.display()),
        }
    }
    for (kind, least) in [("file", 9), ("absent", 3), ("listing", 2), ("dir", 4), ("link", 2)] {
        let found = kinds.get(kind).copied().unwrap_or(0);
        assert!(found >= least, "only {found} facts of kind {kind} in {facts:?}");
    }
    subject.real(subject.call()).hit();
}

#[test]
fn every_part_of_the_key_counts() {
    let subject = need!(Subject::new("key"));
    let must_miss = |what: &str, run: &Run, named: &[&str]| {
        assert_eq!(run.status(), "miss", "{what} was not noticed: {run:?}");
        assert!(!run.reason().is_empty(), "{what}: a miss without a reason: {run:?}");
        let named_one = named.is_empty() || named.iter().any(|name| run.names(name));
        assert!(named_one, "{what} is not named (one of {named:?}): {run:?}");
    };
    let run = subject.dry(subject.call().env("MUTANT_VALUE", "two"));
    must_miss("a variable's value", &run, &["MUTANT_VALUE"]);
    let run = subject.dry(subject.world.call());
    must_miss("a variable's absence", &run, &["MUTANT_VALUE"]);
    let run = subject.dry(subject.call().env("MUTANT_NEW", ""));
    must_miss("a new, empty variable", &run, &["MUTANT_NEW"]);
    let run = subject.dry(subject.call().env("PATH", "/usr/bin:/bin:/none"));
    must_miss("PATH", &run, &["PATH"]);
    must_miss("cwd", &subject.dry(subject.call().dir("data")), &[]);
    let umask = ["/bin/sh", "-c", "umask 077; exec \"$@\"", "sh"];
    must_miss("umask", &subject.dry(subject.call().under(&umask)), &[]);

    let mut longer = subject.command.clone();
    longer.push("more".into());
    let run = subject.call().flags(&["--dry-run"]).run(&common::strs(&longer));
    must_miss("argv", &run, &[]);
    // Arguments are a list, not a joined string.
    let printf = |args: &[&str]| subject.call().run(&[&["/usr/bin/printf", "%s,%s\n"], args].concat());
    printf(&["a b", "c"]).miss();
    printf(&["a", "b c"]).miss();
    printf(&["a b", "c"]).hit();
    subject.real(subject.call()).hit();
}

#[test]
fn what_was_not_observed_does_not_count() {
    let subject = need!(Subject::new("free"));
    let ws = &subject.world.ws;
    let touch = |path: &Path| {
        let file = fs::File::open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000)).unwrap();
    };
    subject.must_hit("an unread file", || drop(subject.world.write("data/unread.txt", "other")));
    subject.must_hit("a removed unread file", || subject.world.remove("data/unread.txt"));
    subject.must_hit("the mtime of a file that was read", || touch(&ws.join("data/read.txt")));
    subject.must_hit("the mtime of a file that was stat'ed", || touch(&ws.join("data/stat.txt")));
    subject.must_hit("the mtime of a directory", || touch(&ws.join("walk/deep")));
    subject.must_hit("a new name in an unlisted directory", || drop(subject.world.write("unlisted/new", "")));
    subject.must_hit("a new name beside the sources", || drop(subject.world.write("beside", "")));
    subject.must_hit("a new name in a directory that was walked through", || {
        drop(subject.world.write("walk/deep/new", ""))
    });
    subject.must_hit("the content of a listed, unread file", || drop(subject.world.write("list/a", "other")));
    subject.must_hit("a file written anew with its old bytes", || {
        let path = ws.join("data/read.txt");
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    });
    subject.must_hit("something in the home", || drop(subject.world.write(subject.world.home.join("notes"), "")));
    subject.must_hit("an unread file outside", || drop(subject.world.write(subject.outside.join("unread"), "")));
    for name in ["SSH_AUTH_SOCK", "SSH_CONNECTION", "TERM", "TERM_PROGRAM", "TMUX", "SHLVL", "PWD", "OLDPWD"] {
        let run = subject.dry(subject.call().env(name, "something else"));
        assert_eq!(run.status(), "hit", "{name} is volatile: {run:?}");
    }
    subject.real(subject.call()).hit();
    assert_eq!(subject.world.count(), 1, "nothing but the first run executed");
}

/// A path, how it changes, and how it changes back.
type Change<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn());

/// The same by real runs: what comes out after each change is what a native run gives, never the old result.
#[test]
fn a_changed_fact_gives_the_changed_result() {
    let subject = need!(Subject::new("real"));
    let result = || subject.world.text("out/result");
    let before = result();
    let changes: [Change; 4] = [
        ("data/read.txt", &|| drop(subject.world.write("data/read.txt", "changed\n")), &|| {
            drop(subject.world.write("data/read.txt", "data/read.txt\n"))
        }),
        ("missing", &|| drop(subject.world.write("missing", "")), &|| subject.world.remove("missing")),
        ("list", &|| drop(subject.world.write("list/c", "")), &|| subject.world.remove("list/c")),
        ("tool.sh", &|| drop(subject.world.script("tool.sh", "#!/bin/sh\necho other\n")), &|| {
            drop(subject.world.script("tool.sh", "#!/bin/sh\ncat data/read.txt\n"))
        }),
    ];
    for (path, change, undo) in changes {
        change();
        // Which of several records the difference is told of is open here; the dry runs above name every fact.
        subject.real(subject.call()).miss();
        assert_ne!(result(), before, "{path}");
        let (_, native) = subject.world.twin(|call| call.env("MUTANT_VALUE", "one"), &common::strs(&subject.command));
        common::assert_same(&native, &subject.world.tree(), path);
        undo();
        subject.real(subject.call()).hit();
        assert_eq!(result(), before, "{path} undone");
    }
    let run = subject.real(subject.call().env("MUTANT_VALUE", "two"));
    run.miss();
    assert!(result().ends_with("two"));
    // The other key's result stands in the place of ours, a foreign file for us: hit or miss, the bytes must be right.
    subject.real(subject.call()).exits(0);
    assert_eq!(result(), before);
}

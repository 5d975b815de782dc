//! Exactness against a second witness: what `strace` sees the same command ask of the file tree, wink's trace has, with the
//! same kind of fact; and nothing is in the trace that was never asked for.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::strace::{self, Asked, Seen};
use common::{Trace, World, fixtures, tools};

/// What both witnesses leave out: the untracked trees (the workspace below one of them apart) and known tool caches.
fn untracked(world: &World, path: &Path) -> bool {
    if path.starts_with(&world.ws) {
        return path.starts_with(world.ws.join(".git"));
    }
    ["/proc", "/sys", "/dev", "/run", "/tmp"].iter().any(|top| path.starts_with(top))
        || [".cache", ".npm", ".cargo"].iter().any(|cache| path.starts_with(world.home.join(cache)))
        || path.starts_with(&world.store)
        || path == Path::new("/")
}

/// What strace says of a command, run natively in a twin at the same path; `None` with a printed reason without strace.
fn strace_of(world: &World, command: &[&str]) -> Result<Seen, String> {
    let strace = tools::strace()?;
    let log = world.untracked.join("strace.log");
    let (program, log_name) = (strace.to_str().unwrap(), log.to_str().unwrap());
    let under = [program, "-f", "-y", "-s", "8192", "-o", log_name, "-e", strace::CALLS, "-e", "signal=none"];
    let (run, _) = world.twin(|call| call.under(&under), command);
    if run.err().contains("ptrace") && run.err().contains("not permitted") {
        return Err("ptrace is not permitted here".into());
    }
    assert_eq!(run.code, 0, "{run:?}");
    let log = fs::read(&log).unwrap();
    let calls = strace::parse(&String::from_utf8_lossy(&log));
    assert!(calls.iter().any(|call| call.name == "execve"), "strace saw no exec");
    Ok(strace::witness(&calls, &world.ws))
}

/// Whether the trace accounts for a question, and if not, why.
fn owed(trace: &Trace, path: &Path, how: Asked) -> Option<String> {
    if trace.outputs.contains_key(path) || trace.removed.contains_key(path) {
        return None;
    }
    let kind = trace.inputs.get(path).map(String::as_str);
    let right = match (how, kind) {
        (Asked::Passed, _) => true,
        // Below something absent (or something that is no directory) the kernel never asks.
        (Asked::Absent, None) => path
            .ancestors()
            .skip(1)
            .any(|part| trace.inputs.get(part).is_some_and(|kind| ["absent", "file"].contains(&kind.as_str()))),
        (Asked::Absent, Some(kind)) => kind == "absent",
        (Asked::Stat, kind) => kind.is_some_and(|kind| kind != "absent"),
        (Asked::Link, kind) => kind == Some("link"),
        // A directory can be opened and left unread.
        (Asked::Opened, kind) => kind.is_some_and(|kind| kind != "absent" && kind != "link"),
        (Asked::Listed, kind) => kind == Some("listing"),
    };
    (!right).then(|| format!("{}: strace saw {how:?}, the trace has {kind:?}", path.display()))
}

fn compare(world: &World, seen: &Seen, trace: &Trace) {
    assert!(!trace.inputs.is_empty(), "an empty trace");
    let asked = seen.asked.iter().filter(|(path, _)| !untracked(world, path));
    let missing: Vec<String> =
        asked.flat_map(|(path, hows)| hows.iter().filter_map(|&how| owed(trace, path, how))).collect();

    let known: BTreeSet<&Path> = seen.asked.keys().flat_map(|path| path.ancestors()).collect();
    // mkstemp's names differ between the two runs: as many strangers may be absent in a directory as were drawn there.
    let mut drawn = seen.exclusive.clone();
    let mut random = |path: &Path, kind: &str| {
        let left = path.parent().and_then(|parent| drawn.get_mut(parent)).filter(|left| kind == "absent" && **left > 0);
        left.map(|left| *left -= 1).is_some()
    };
    let extra: Vec<String> = trace
        .inputs
        .iter()
        .filter(|(path, kind)| !known.contains(path.as_path()) && !untracked(world, path) && !random(path, kind))
        .map(|(path, kind)| format!("{}: in the trace as {kind}, strace never saw it", path.display()))
        .collect();
    // Passing through is no reason for more than knowing that a directory is there (or that a link leads on).
    let stronger: Vec<String> = trace
        .inputs
        .iter()
        .filter(|(path, kind)| {
            !untracked(world, path) && ["file", "listing"].contains(&kind.as_str()) && only_passed(seen, path)
        })
        .map(|(path, kind)| format!("{}: {kind} in the trace, but nobody opened or asked for it", path.display()))
        .collect();
    let all = [missing, extra, stronger].concat();
    let shown = all.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(all.is_empty(), "{} differences between strace and the trace:\n{shown}", all.len());
}

fn only_passed(seen: &Seen, path: &Path) -> bool {
    let created = seen.made.contains(path);
    !created && seen.asked.get(path).is_none_or(|hows| hows.iter().all(|&how| how == Asked::Passed))
}

fn agree(world: World, line: &str) {
    // An absolute interpreter: the search for it along PATH would be wink's, not the command's.
    let command = ["/bin/sh", "-c", line];
    let seen = need!(strace_of(&world, &command));
    world.run(&command).miss();
    compare(&world, &seen, &world.trace());
}

#[test]
fn lua_by_make() {
    let world = World::tracked("w-lua");
    let line = need!(fixtures::lua(&world));
    agree(world, &line.replace("-j2", "-j1"));
}

#[test]
fn python_glob() {
    let world = World::tracked("w-glob");
    let line = need!(fixtures::python_glob(&world));
    agree(world, &line);
}

#[test]
fn shell_pipeline() {
    let world = World::tracked("w-pipeline");
    let line = need!(fixtures::pipeline(&world));
    agree(world, &line);
}

#[test]
fn typescript() {
    let world = World::tracked("w-ts");
    let line = need!(fixtures::typescript(&world));
    agree(world, &line);
}

#[test]
fn static_binary() {
    let world = World::tracked("w-static");
    let line = need!(fixtures::static_reader(&world));
    agree(world, &format!("exec {line}"));
}

#[test]
fn cargo_project() {
    let world = World::tracked("w-cargo");
    let line = need!(fixtures::cargo(&world));
    agree(world, &line.replace("cargo build", "cargo build -j1"));
}

/// Links in every place: on the way, last, dangling, in a loop, followed or not, out of the workspace and back.
#[test]
fn links_everywhere() {
    let world = World::tracked("w-links");
    let python = need!(tools::python());
    world.write("real/dir/file.txt", "text\n");
    for (target, link) in [
        ("real", "by-name"),
        ("by-name/dir", "chain"),
        ("nowhere", "dangling"),
        ("loop-b", "loop-a"),
        ("loop-a", "loop-b"),
        ("real/dir/file.txt", "to-file"),
    ] {
        std::os::unix::fs::symlink(target, world.ws.join(link)).unwrap();
    }
    std::os::unix::fs::symlink(&world.ws, world.root.join("back")).unwrap();
    let script = r#"
import os
open("chain/file.txt").read(); open("to-file").read(); os.lstat("to-file"); os.readlink("dangling")
open("../back/real/dir/../dir/file.txt").read()
for name in ("dangling", "loop-a", "to-file/below", "nothing/at/all", "real/dir/none"):
    try: os.stat(name)
    except OSError: pass
os.chdir("by-name/dir"); open("../../real/dir/file.txt").read(); os.listdir(".."); os.access("file.txt", os.X_OK)
fd = os.open("..", os.O_RDONLY); os.stat("dir/file.txt", dir_fd=fd); os.listdir(fd)
if os.fork() == 0:
    os.chdir("/"); os.stat("etc/passwd"); os._exit(0)
os.wait()
os.stat("file.txt")
"#;
    world.write("ask.py", script);
    let line = format!("exec {python} ask.py");
    // The first witness must itself be right: what this script asks is known.
    let seen = need!(strace_of(&world, &["/bin/sh", "-c", &line]));
    for (path, how) in [
        ("by-name", Asked::Link),
        ("chain", Asked::Link),
        ("dangling", Asked::Link),
        ("nowhere", Asked::Absent),
        ("to-file", Asked::Stat),
        ("real/dir/file.txt", Asked::Opened),
        ("real/dir/none", Asked::Absent),
        ("nothing", Asked::Absent),
        ("real", Asked::Listed),
        ("../back", Asked::Link),
        ("/etc/passwd", Asked::Stat),
    ] {
        let path = match path.strip_prefix("../") {
            Some(name) => world.root.join(name),
            None => world.ws.join(path),
        };
        let hows = seen.asked.get(&path);
        assert!(hows.is_some_and(|hows| hows.contains(&how)), "strace of {}: {hows:?}", path.display());
    }
    agree(world, &line);
}

/// The witness itself can be wrong: a made-up log with every shape that matters.
#[test]
fn the_parser_reads_what_strace_writes() {
    let log = concat!(
        "10 execve(\"/bin/sh\", [\"sh\", \"-c\", \"a, b) = 1\"], 0x7f /* 3 vars */) = 0\n",
        "10 openat(AT_FDCWD</>, \"odd, (name\\\") \\303\\244\\n\", O_RDONLY <unfinished ...>\n",
        "11 newfstatat(3</w/a\\76(b, c>, \"\", {st_mode=S_IFREG|0644, st_size=1, ...}, AT_EMPTY_PATH) = 0\n",
        "10 <... openat resumed>)             = -1 ENOENT (No such file or directory)\n",
        "10 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---\n",
        "10 vfork( <unfinished ...>\n",
        "12 chdir(\"/w/sub\")                     = 0\n",
        "10 <... vfork resumed>)              = 12\n",
        "10 +++ exited with 0 +++\n",
    );
    let calls = strace::parse(log);
    let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["execve", "newfstatat", "openat", "chdir", "vfork"]);
    assert_eq!(calls[0].args.len(), 3);
    assert_eq!(calls[2].args[1], "\"odd, (name\\\") \\303\\244\\n\"");
    let seen = strace::witness(&calls, Path::new("/"));
    let odd = PathBuf::from("/odd, (name\") ä\n");
    assert!(seen.asked[&odd].contains(&Asked::Absent), "{seen:?}");
}

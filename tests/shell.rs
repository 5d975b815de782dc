//! `wink sh`: the shell that make, npm and just are given, in which each line is a task.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{Call, Run, World, assert_same, fixtures, tools};

const WINK: &str = env!("CARGO_BIN_EXE_wink");

/// A pseudo-terminal for standard input, in which this is typed once the file is there; exits with the command's code.
const TYPED: &str = r#"
import os, pty, sys, time
typed, there, command = sys.argv[1], sys.argv[2], sys.argv[3:]
pid, master = pty.fork()
if pid == 0:
    null = os.open('/dev/null', os.O_WRONLY)
    os.dup2(null, 1); os.dup2(null, 2)
    os.execvp(command[0], command)
while typed and not os.path.exists(there): time.sleep(0.01)
os.write(master, typed.encode())
while True:
    try:
        if not os.read(master, 65536): break
    except OSError: break
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

struct Shell {
    world: World,
    /// `wink-sh`.
    path: PathBuf,
}

impl Shell {
    fn new(name: &str) -> Shell {
        let world = World::new(name);
        let path = world.root.join("wink-sh");
        symlink(WINK, &path).unwrap();
        Shell { world, path }
    }

    fn word(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// A call in which each line says how it went.
    fn call(&self) -> Call<'_> {
        self.world.call().env("WINK_SHELL_LINES", "1")
    }

    fn line(&self, line: &str) -> Run {
        self.call().native(&[self.word(), "-c", line])
    }

    /// A shell line that leaves a mark each time it runs.
    fn marked(&self, name: &str, line: &str) -> String {
        format!("printf x >> {}; {line}", self.mark(name).display())
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.world.untracked.join(name)
    }

    fn times(&self, name: &str) -> usize {
        fs::read(self.mark(name)).map_or(0, |bytes| bytes.len())
    }
}

/// What wink's lines of a run say: `miss`, `hit`, `not`.
fn went(run: &Run) -> Vec<String> {
    run.lines()
        .iter()
        .map(|line| line.split([' ', ':']).filter(|word| !word.is_empty()).nth(1).unwrap().to_owned())
        .collect()
}

#[test]
fn a_line_is_a_task_and_nothing_is_said() {
    let shell = Shell::new("sh-line");
    let world = &shell.world;
    world.write("in.txt", "1\n");
    let line = shell.marked("ran", "cat in.txt > out; echo printed; echo warned >&2");
    for words in [&["sh", "-c"][..], &["sh", "-ec"]] {
        let before = shell.times("ran");
        for _ in 0..2 {
            let run = world.call().wink(&[words, &[&line]].concat());
            assert_eq!((run.code, run.out().as_str(), run.err().as_str()), (0, "printed\n", "warned\n"), "{run:?}");
        }
        assert_eq!(shell.times("ran"), before + 1, "{words:?}");
    }
    // By its name, which is how most programs can be given it; a record is one for both.
    let run = shell.line(&line);
    assert_eq!(went(&run), ["hit"], "{run:?}");
    world.write("in.txt", "2\n");
    assert_eq!(went(&shell.line(&line)), ["miss"]);
    assert_eq!(world.text("out"), "2\n");
}

#[test]
fn words_and_exit_codes_are_the_shells() {
    let shell = Shell::new("sh-words");
    let world = &shell.world;
    world.write("script.sh", "echo script $# $1; cat; exit 5\n");
    for words in [
        &["-c", "echo $0 $1 $2", "name", "one", "two three"][..],
        &["-c", "exit 3"],
        &["-ec", "false; echo not reached"],
        &["-euc", "echo $no_such_variable"],
        &["-uc", "echo $0"],
        &["-c", "no_such_command_at_all"],
        &["-c", "./script.sh"],
        &["-c", "kill -9 $$"],
        &["-c", "echo unfinished ("],
        &["-c"],
        &["-c", "--", "echo dashes"],
        &["-e", "-c", "echo two options"],
        &["script.sh", "argument"],
        &["-e", "script.sh"],
        &["no-such-script"],
        &["-s", "one"],
    ] {
        for stdin in ["", "echo from stdin $1\n"] {
            let native = world.call().stdin(stdin).native(&[&["/bin/sh"], words].concat());
            for turn in ["first", "second"] {
                let run = world.call().stdin(stdin).native(&[&[shell.word()], words].concat());
                assert_eq!(
                    (run.code, run.out(), run.err()),
                    (native.code, native.out(), native.err()),
                    "{words:?}, {turn}: {run:?}"
                );
            }
        }
    }
}

#[test]
fn another_real_shell() {
    let shell = Shell::new("sh-real");
    let Ok(bash) = tools::which("bash") else { return tools::skip("no bash") };
    let words = ["-o", "pipefail", "-ec", "false | true; echo not reached"];
    let run =
        |shell_name: &str| shell.call().env("WINK_SHELL", shell_name).native(&[&[shell.word()], &words[..]].concat());
    for name in [bash.to_str().unwrap(), "bash"] {
        assert_eq!(run(name).code, 1);
    }
    assert_eq!(
        shell.world.call().env("WINK_SHELL", "bash").native(&[shell.word(), "-c", "echo ${BASH_VERSION:+yes}"]).out(),
        "yes\n"
    );
    for itself in [shell.word(), WINK] {
        let run = run(itself);
        assert_eq!((run.code, run.err().as_str()), (125, "wink: WINK_SHELL is wink itself; set it to a real shell\n"));
    }
    let run = shell.call().env("WINK_SHELL", "/no/such/shell").native(&[shell.word(), "script"]);
    assert_eq!(run.code, 127, "{run:?}");
}

/// A line has its caller's standard input. Whether it reads it is seen; then it is not recorded.
#[test]
fn standard_input_is_handed_on_and_watched() {
    let shell = Shell::new("sh-stdin");
    let world = &shell.world;
    let reads = shell.marked("reads", "cat > got");
    let leaves = shell.marked("leaves", "echo x > left");
    for (number, text) in ["one\n", "two\n"].into_iter().enumerate() {
        let run = shell.call().stdin(text).native(&[shell.word(), "-c", &reads]);
        assert_eq!(went(&run), ["not"], "{run:?}");
        assert!(run.err().contains("the command read its standard input"), "{run:?}");
        assert_eq!((world.text("got").as_str(), shell.times("reads")), (text, number + 1));
        // Two lines share the input: what the first leaves, the second finds.
        let both = format!("{} -c '{leaves}'; cat", shell.word());
        let run = shell.call().stdin(text).native(&["/bin/sh", "-c", &both]);
        assert_eq!(run.out(), text, "{run:?}");
    }
    assert_eq!(shell.times("leaves"), 1, "a hit, since it reads nothing");
    // A part of it, the rest for the next.
    let first = format!("{} -c 'read first; echo $first > first'; cat", shell.word());
    for text in ["one\ntwo\n", "three\nfour\n"] {
        let run = shell.call().stdin(text).native(&["/bin/sh", "-c", &first]);
        assert_eq!(went(&run), ["not"], "{run:?}");
        assert_eq!(format!("{}{}", world.text("first"), run.out()), text, "{run:?}");
    }
    // Nothing to be read: as empty as `wink run` makes it. That is another task, and what others left is none of its own.
    world.remove("got");
    let run = shell.line(&reads);
    assert_eq!(went(&run), ["miss"]);
    assert_eq!(went(&shell.line(&reads)), ["hit"]);
    let closed = shell.call().native(&["/bin/sh", "-c", &format!("{} -c '{reads}' <&-", shell.word())]);
    assert_eq!(went(&closed), ["hit"], "{closed:?}");
    assert_eq!(world.text("got"), "");
    // A file could be read without notice.
    world.write("file", "from a file\n");
    let from_file = format!("{} -c '{reads}' < file", shell.word());
    let run = shell.call().native(&["/bin/sh", "-c", &from_file]);
    assert_eq!(went(&run), ["not"], "{run:?}");
    assert_eq!(world.text("got"), "from a file\n");
    world.remove("got");
    let run = shell.call().env("WINK_SHELL_STDIN", "empty").native(&["/bin/sh", "-c", &from_file]);
    assert_eq!((went(&run), world.text("got").as_str()), (vec!["hit".to_owned()], ""), "{run:?}");
}

#[test]
fn a_terminal_is_handed_on_and_watched() {
    let python = need!(tools::python());
    let shell = Shell::new("sh-terminal");
    let world = &shell.world;
    let script = world.root.join("typed.py");
    fs::write(&script, TYPED).unwrap();
    let there = world.untracked.join("there");
    let run = |typed: &str, line: &str| {
        let script = script.to_str().unwrap();
        world.call().native(&[&python, script, typed, there.to_str().unwrap(), shell.word(), "-c", line])
    };
    let quiet = shell.marked("quiet", "[ -t 0 ] && echo terminal > out");
    for _ in 0..2 {
        assert_eq!(run("", &quiet).code, 0);
    }
    assert_eq!((shell.times("quiet"), world.text("out").as_str()), (1, "terminal\n"));
    let asks = shell
        .marked("asks", &format!("[ -t 0 ] || exit 9; : > {}; read answer; echo $answer > answer", there.display()));
    for (number, typed) in ["yes\n", "no\n"].into_iter().enumerate() {
        assert_eq!(run(typed, &asks).code, 0);
        assert_eq!((world.text("answer").as_str(), shell.times("asks")), (typed, number + 1));
        fs::remove_file(&there).unwrap();
    }
}

#[test]
fn what_is_never_cached() {
    let shell = Shell::new("sh-never");
    let world = &shell.world;
    let line = shell.marked("ran", "echo x > out");
    for (name, value) in
        [("WINK_SHELL_CACHE", "off"), ("npm_lifecycle_event", "dev"), ("npm_lifecycle_event", "build:watch")]
    {
        let before = shell.times("ran");
        for _ in 0..2 {
            let run = shell.call().env(name, value).native(&[shell.word(), "-c", &line]);
            assert_eq!(went(&run), ["not"], "{run:?}");
        }
        assert_eq!(shell.times("ran"), before + 2, "{name}={value}");
    }
    let run = shell.call().env("npm_lifecycle_event", "build").native(&[shell.word(), "-c", &line]);
    assert_eq!(went(&run), ["miss"]);
    world.write("wink.toml", "[[task]]\nmatch = \"*echo x*\"\ncache = false\n");
    for _ in 0..2 {
        let before = shell.times("ran");
        let run = shell.call().stdin("input\n").native(&[shell.word(), "-c", &line]);
        assert_eq!(went(&run), ["not"]);
        assert!(run.err().contains("cache = false"), "{run:?}");
        assert_eq!(shell.times("ran"), before + 1);
    }
    world.run(&["/bin/sh", "-c", &line]).uncached();
}

const MAKEFILE: &str = "\
.PHONY: all lint
all: prog lint
prog: one.o two.o
\tcat one.o two.o > $@
%.o: %.c common.h
\tprintf x >> MARK/$*; cat $< common.h > $@
lint:
\t@printf x >> MARK/lint; cat one.c > /dev/null; echo lint is clean
";

#[test]
fn recipes_of_make_are_tasks() {
    need!(tools::make());
    let shell = Shell::new("sh-make");
    let world = &shell.world;
    world.write("Makefile", MAKEFILE.replace("MARK", world.untracked.to_str().unwrap()));
    for (path, text) in [("one.c", "1\n"), ("two.c", "2\n"), ("common.h", "h\n")] {
        world.write(path, text);
    }
    let make = |flags: &[&str]| {
        let assigned = format!("SHELL={}", shell.word());
        shell.call().native(&[&["make", &assigned], flags].concat())
    };
    let times = || ["one", "two", "lint"].map(|name| shell.times(name));
    let run = make(&[]);
    assert_eq!((run.code, went(&run)), (0, vec!["miss".to_owned(); 4]), "{run:?}");
    assert!(run.out().ends_with("lint is clean\n"), "{run:?}");
    // What only prints is replayed.
    let run = make(&[]);
    assert_eq!(went(&run), ["hit"], "{run:?}");
    assert!(run.out().ends_with("lint is clean\n"));
    assert_eq!(times(), [1, 1, 1]);
    // From clean, and with any number of jobs.
    for flags in [&["-j4"][..], &["-j2", "-k"], &["-B", "-j3"]] {
        for path in ["one.o", "two.o", "prog"] {
            world.remove(path);
        }
        let run = make(flags);
        assert_eq!(run.code, 0, "{run:?}");
        if flags.len() == 1 {
            assert_eq!(went(&run), ["hit"; 4], "how many jobs run at once decides nothing: {run:?}");
            assert_eq!(times(), [1, 1, 1]);
        }
        assert_eq!(world.text("prog"), "1\nh\n2\nh\n");
    }
    world.write("two.c", "22\n");
    world.remove("two.o");
    let before = times();
    assert_eq!(make(&[]).code, 0);
    assert_eq!(times(), [before[0], before[1] + 1, before[2]]);
    assert_eq!(world.text("prog"), "1\nh\n22\nh\n");
}

#[test]
fn a_real_build_by_make() {
    let shell = Shell::new("sh-lua");
    let world = &shell.world;
    need!(fixtures::lua(world));
    let make = ["make", "-s", "-j2"];
    let (native, expected) = world.native(&make);
    let shelled = |world: &World| {
        let assigned = format!("SHELL={}", shell.word());
        world.call().env("WINK_SHELL_LINES", "1").native(&[&make[..], &[&assigned]].concat())
    };
    let run = shelled(world);
    assert_eq!((run.code, run.out()), (0, native.out()), "{run:?}");
    assert_same(&expected, &world.tree(), "each recipe a task");
    let recipes = went(&run).len();
    assert!(recipes > 30 && went(&run).iter().all(|how| how == "miss"), "{run:?}");
    let clean = || expected.keys().filter(|path| is_output(path)).for_each(|path| world.remove(path));
    clean();
    let run = shelled(world);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(went(&run), vec!["hit"; recipes], "{run:?}");
    assert_same(&expected, &world.tree(), "each recipe a hit");
    // All of it as one task, in which recipes are tasks.
    clean();
    let assigned = format!("SHELL={}", shell.word());
    let whole = |more: &str| {
        let line = format!("make -s -j2 {assigned} {more}");
        world.call().env("WINK_SHELL_LINES", "1").run(&["/bin/sh", "-c", &line])
    };
    whole("").miss();
    assert_same(&expected, &world.tree(), "recipes in a task");
    clean();
    whole("").hit();
    assert_same(&expected, &world.tree(), "the whole a hit");
    let source = world.text("lapi.c");
    world.write("lapi.c", format!("{source}\n/* edited */\n"));
    clean();
    let run = whole("");
    run.miss_naming(world.ws.join("lapi.c"));
    let ran = went(&run).iter().filter(|how| *how == "miss").count();
    assert!(ran <= 5, "only what depends on the edited file: {run:?}");
    assert_eq!(went(&run).iter().filter(|how| *how == "not").count(), 0, "{run:?}");
}

fn is_output(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "o" || end == "a") || path.file_name().is_some_and(|name| name == "lua")
}

#[test]
fn scripts_of_npm_are_tasks() {
    need!(tools::npm());
    let shell = Shell::new("sh-npm");
    let world = &shell.world;
    let mark = |name: &str| format!("printf x >> {}", shell.mark(name).display());
    let package = serde_json::json!({ "name": "small", "version": "1.0.0", "private": true, "scripts": {
        "build": format!("{}; cat in.txt > out.txt", mark("build")),
        "all": "npm run build && echo all",
        "dev": format!("{}; echo serving", mark("dev")),
        "fail": "exit 3",
    }});
    world.write("package.json", package.to_string());
    world.write(".npmrc", format!("script-shell={}\nupdate-notifier=false\n", shell.word()));
    world.write("in.txt", "1\n");
    let npm = |script: &str| shell.call().native(&["npm", "run", "--silent", script]);
    assert_eq!(went(&npm("build")), ["miss"]);
    world.remove("out.txt");
    let run = npm("build");
    assert_eq!((went(&run), world.text("out.txt").as_str()), (vec!["hit".to_owned()], "1\n"), "{run:?}");
    assert_eq!(shell.times("build"), 1);
    // A script within a script: the inner one is a hit inside an outer miss, then the outer one hits.
    let run = npm("all");
    assert_eq!((run.code, run.out().as_str()), (0, "all\n"), "{run:?}");
    let run = npm("all");
    assert_eq!(went(&run), ["hit"], "{run:?}");
    for times in 1..3 {
        let run = npm("dev");
        assert_eq!(
            (run.out().as_str(), went(&run), shell.times("dev")),
            ("serving\n", vec!["not".to_owned()], times),
            "{run:?}"
        );
    }
    assert_eq!(npm("fail").code, 3);
}

#[test]
fn recipes_of_just_are_tasks() {
    let just = need!(tools::just());
    let shell = Shell::new("sh-just");
    let world = &shell.world;
    let justfile = format!(
        "set shell := [\"{}\", \"-cu\"]\nbuild:\n    printf x >> {}; cat in.txt > out.txt\n    @echo built\n",
        shell.word(),
        shell.mark("build").display()
    );
    world.write("justfile", justfile);
    world.write("in.txt", "1\n");
    for how in ["miss", "hit"] {
        let run = shell.call().native(&[just.to_str().unwrap(), "build"]);
        assert_eq!((run.code, run.out().as_str()), (0, "built\n"), "{run:?}");
        assert_eq!(went(&run), [how, how], "{run:?}");
    }
    assert_eq!((shell.times("build"), world.text("out.txt").as_str()), (1, "1\n"));
}

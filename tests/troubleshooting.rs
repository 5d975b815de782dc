//! `docs/TROUBLESHOOTING.md` quotes what is really said: every message occurs in the sources, piece by piece, and many are made here.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, World, mounted, strs};

/// What stands on the page for something that changes.
const CHANGING: &[&str] = &[
    "…",
    "NAME",
    "PATH",
    "OLD",
    "NEW",
    "DIRECTORY",
    "DIR",
    "WHERE",
    "PID",
    "REASON",
    "STEP",
    "REMEDY",
    "FILE",
    "LINE",
    "COMMAND",
    "N",
    "M",
];

/// Messages of others, passed on.
const OF_OTHERS: &[&str] = &[
    // clap
    "unexpected argument '…' found",
    // the system
    "cannot mount DIR: No such file or directory …",
    "Transport endpoint is not connected",
    // fusermount3
    "… fusermount3 said: user has no write access to mountpoint …",
    "… fusermount3 said: failed to open /dev/fuse: …",
];

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TROUBLESHOOTING.md")).unwrap()
}

/// The messages: what stands in the first column of the tables as code, and the first words of sections that are messages.
fn messages(page: &str) -> Vec<String> {
    let mut messages = Vec::new();
    for line in page.lines() {
        let cell = match line.strip_prefix("| ") {
            Some(row) => {
                let end = row.match_indices(" | ").map(|(at, _)| at).find(|at| !row[..*at].ends_with('\\'));
                &row[..end.unwrap_or(row.len())]
            }
            None if line.starts_with("`not cached") || line.starts_with("`miss ") => line,
            None => continue,
        };
        messages.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    messages
}

/// The parts of a message that do not change.
fn pieces(message: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let begins = pieces.last().is_none_or(|piece| !piece.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        let word = |name: &str| !rest[name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let changing =
            CHANGING.iter().filter(|name| rest.starts_with(**name) && (**name == "…" || (begins && word(name))));
        match changing.max_by_key(|name| name.len()) {
            Some(name) => {
                pieces.push(String::new());
                rest = &rest[name.len()..];
            }
            None => {
                pieces.last_mut().unwrap().push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    pieces.retain(|piece| piece.chars().filter(|c| c.is_alphabetic()).count() >= 2);
    pieces
}

/// All string literals of the program, whatever is put into them left out.
fn literals() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["src", "fs/src", "store/src", "platform/src"].iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => dirs.push(path),
                Some(end) if end == "rs" && !path.to_str().unwrap().ends_with("_tests.rs") => files.push(path),
                _ => {}
            }
        }
    }
    let mut literals = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        // What tests expect is no message.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code: String =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
        literals.extend(strings(&code));
    }
    literals
}

/// The string literals of some code.
fn strings(code: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(next) = chars.next() {
        match next {
            // The character '"' and its like.
            '\'' => {
                let ahead: String = chars.clone().take(3).collect();
                let skip = if ahead.starts_with("\\") && ahead.ends_with('\'') {
                    3
                } else if ahead.chars().nth(1) == Some('\'') {
                    2
                } else {
                    0
                };
                for _ in 0..skip {
                    chars.next();
                }
            }
            '"' => {
                let mut string = String::new();
                while let Some(next) = chars.next() {
                    match next {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('\n') => while chars.next_if(|next| next.is_whitespace()).is_some() {},
                            Some('n') => string.push('\n'),
                            Some(other) => string.push(other),
                            None => break,
                        },
                        '{' if chars.peek() != Some(&'{') => {
                            while chars.next().is_some_and(|next| next != '}') {}
                            string.push('\0');
                        }
                        other => string.push(other),
                    }
                }
                strings.push(string);
            }
            _ => {}
        }
    }
    strings
}

/// Without what stands between pieces.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ':' | ';' | ',' | '.' | '"' | '?' | '\0'))
}

/// Whether a piece is one literal's, or put together of up to three: each of two words at least, or a whole literal by itself.
fn is_said(piece: &str, literals: &[String]) -> bool {
    let words: Vec<&str> = bare(piece).split(' ').collect();
    let from_one = |from: usize, to: usize| {
        let text = words[from..to].join(" ");
        let text = bare(&text);
        // A number may be put in.
        let put = |word: &&str| if word.bytes().all(|byte| byte.is_ascii_digit()) { "\0" } else { *word }.to_owned();
        let numbered = words[from..to].iter().map(put).collect::<Vec<_>>().join(" ");
        let numbered = numbered.trim_end_matches([';', ',', ':']);
        let whole = |literal: &String| literal.split('\0').any(|part| bare(part) == text);
        literals
            .iter()
            .any(|literal| (to - from > 1 && (literal.contains(text) || literal.contains(numbered))) || whole(literal))
    };
    // How many literals the words so far take.
    let mut fewest = vec![Some(0)];
    for to in 1..=words.len() {
        let best = (0..to).filter(|from| fewest[*from].is_some_and(|n| n < 3) && from_one(*from, to));
        let best = best.filter_map(|from| fewest[from]).min();
        fewest.push(best.map(|n: i32| n + 1));
    }
    fewest[words.len()].is_some()
}

#[test]
fn every_message_occurs_in_the_sources() {
    let literals = literals();
    let page = page();
    let mut missing = Vec::new();
    let mut known = BTreeSet::new();
    for message in messages(&page) {
        if let Some(other) = OF_OTHERS.iter().find(|other| **other == message) {
            known.insert(*other);
            continue;
        }
        for piece in pieces(&message) {
            if !is_said(&piece, &literals) {
                missing.push(format!("`{message}`: nobody says \"{}\"", bare(&piece)));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert_eq!(known.len(), OF_OTHERS.len(), "a message of others is not on the page any more: {known:?}");
}

#[test]
fn messages_are_taken_apart() {
    let all = |message: &str| pieces(message).join("|");
    assert_eq!(all("the environment variable NAME changed"), "the environment variable | changed");
    assert_eq!(all("PATH has NAMES, and N more"), " has NAMES, and | more");
    assert_eq!(strings("say(\"a {b} \\\n   c\", 'x', '\"', \"d\\\"e\")"), ["a \0 c", "d\"e"]);
    let literals = strings("\"the outputs name their {}; run\", \"workspace\", \"the work is done\"");
    assert!(is_said("the outputs name their workspace; run", &literals));
    assert!(!is_said("the outputs name their home", &literals) && !is_said("the work", &strings("\"work\"")));
    let quoted = messages("| `a`, `b` (`c` \\| x) | `no` |\n`not cached: REASON`\n");
    assert_eq!(quoted, ["a", "b", "c", "not cached: REASON"]);
}

/// The page quotes the message, and this is how it reads.
#[track_caller]
fn says(page: &[String], run: &Run, message: &str) {
    assert!(page.iter().any(|quoted| quoted == message), "`{message}` is not on the page");
    let text = format!("{}{}", run.out(), run.err());
    let mut rest = text.as_str();
    for piece in pieces(message) {
        let piece = piece.trim();
        let at = rest.find(piece).unwrap_or_else(|| panic!("`{message}`: no \"{piece}\" in {run:?}"));
        rest = &rest[at + piece.len()..];
    }
}

#[test]
fn messages_of_runs_are_made() {
    let world = World::tracked("trouble-run");
    let page = messages(&page());
    let says = |run: &Run, message: &str| says(&page, run, message);
    let sh = |line: &str| world.run(&["/bin/sh", "-c", line]);
    world.write("in", "1\n");
    says(&sh("cat in > out"), "first run");
    says(&sh("cat in > out; true"), "first run with this command line");
    world.write("in", "2\n");
    says(&sh("cat in > out"), "PATH changed");
    world.write("out", "mine\n");
    says(&sh("cat in > out"), "PATH appeared");
    let with = |name: &str, value: &str| world.call().env(name, value).run(&["/bin/sh", "-c", "cat in > out"]);
    says(&with("NODE_ENV", "test"), "NAME: OLD → NEW");
    says(&with("SECRET", "x"), "… appeared");
    says(&sh("ls > names"), "first run with this command line");
    world.write("more", "");
    says(&sh("ls > names"), "the workspace: NAME appeared");
    says(&sh("exit 3"), "the command failed (exit code N)");
    says(&world.call().wink(&["explain", "--", "/bin/sh", "-c", "exit 3"]), "no earlier run left a record");
    says(&sh("kill -9 $$"), "the command was killed by signal N");
    says(&sh("sleep 2 & true"), "processes outlived the command: NAME (PID)…");
    says(&sh(&format!("echo x > {}/outside", world.home.display())), "the command wrote outside the workspace: PATH…");
    says(&world.run(&["no-such-command"]), "NAME: command not found");
    says(&world.run(&["./in"]), "NAME: cannot be executed: …");
    let flags = |flags: &[&str]| world.call().flags(flags).run(&["/bin/sh", "-c", "cat in > flagged"]);
    says(&flags(&["--cache=local:r"]), "the cache is not written");
    says(&flags(&["--force"]), "--force");
    says(&flags(&["--no-cache"]), "the cache is switched off");
    says(&flags(&["--cache=local:w"]), "the cache is not read");
    says(&flags(&["--cache=remote:r,local:rw"]), "no remote cache is configured: remote in --cache has no effect");
    says(&flags(&["--bogus"]), "unexpected argument '…' found");
    says(&flags(&["--cwd", "nowhere"]), "cannot enter …");
    let changed = "not cached: PATH, which was there before, was changed; only tracing can tell what came of that";
    let append = ["/bin/sh", "-c", "echo >> in"];
    says(&world.call().flags(&["--detect", "snapshot"]).run(&append), changed);
    says(&world.call().wink(&["run"]), "no command to run");
    says(&world.call().wink(&["explain"]), "no command to explain");
    says(&world.call().env("WINK_SCOP", "x").run(&["true"]), "… is not used; did you mean …?");
    says(&world.call().dir("/").run(&["true"]), "the workspace is the whole file system; run it in a project");
    world.write("wink.json", "{}");
    says(&sh("true"), "there are both … and …; keep one of them");
    world.remove("wink.json");
    world.write("wink.toml", "ignore = [\"x\"]\n");
    says(&sh("cat in > out"), "the setting NAME changed");
    world.write("wink.toml", "maxsize = 1\n");
    says(&sh("true"), "FILE:LINE: unknown key \"…\"; did you mean \"…\"?");
    world.write("wink.toml", "canonical_root = \"/a/b/c\"\n");
    says(&sh("true"), "canonical_root PATH can only be directly below / or an existing directory");
    world.write("wink.toml", "[[task]]\nmatch = \"/bin/sh*\"\ncache = false\n");
    says(&sh("true"), "the configuration says not to cache this command (cache = false)");
    world.write("wink.toml", "exclude_packages = [\"it\"]\n");
    world.write("package.json", "{\"name\": \"it\"}");
    says(&sh("true"), "the package NAME is excluded from caching (exclude_packages)");
}

#[test]
fn messages_about_the_cache_are_made() {
    let world = World::new("trouble-cache");
    let page = messages(&page());
    let wink = |args: &[&str]| world.call().wink(args);
    let says = |run: &Run, message: &str| says(&page, run, message);
    says(&wink(&["trace"]), "nothing is cached yet: … does not exist");
    let command = world.counted("mkdir -p out && echo x > out/a && echo y > out/b");
    mounted::mount(&world);
    world.run(&strs(&command)).miss();
    says(&wink(&["trace", "zzzz"]), "\"…\" is not the name of a record; give at least its first 4 digits (0-9, a-f)");
    says(&wink(&["trace", "0000"]), "no record begins with …; it may have been removed to make room");
    says(&wink(&["mount"]), "… is mounted already");
    says(&wink(&["mount", "/"]), "the whole file system cannot be mounted over itself; choose a project");
    says(&wink(&["mount", "nowhere"]), "cannot mount DIR: No such file or directory …");
    says(&wink(&["mount", "/etc/passwd"]), "… is not a directory");
    says(&wink(&["daemon", "stop"]), "DIR is mounted; unmount it first: …");
    says(&wink(&["cache", "prune", "0"]), "…; N of them show in mounted or waiting trees and stay");
    says(&wink(&["cache", "clean", "--yes"]), "N files in DIR are views of the cache; …");
    // From within, by who stands there only because it was started there.
    says(&wink(&["unmount"]), "…; N views are out of sight until the next …");
    says(&wink(&["unmount"]), "… is not mounted");
    says(
        &wink(&["materialize", "/usr"]),
        "cannot make … real: it lies in no directory that was ever mounted with the cache …",
    );
    says(&wink(&["cache", "clean", "--materialize"]), "this removes everything in …; add --yes if that is meant");
    says(&wink(&["cache", "prune", "much"]), "\"…\" is not a size; write for example 10GB, …");
    let blobs = common::snapshot(&world.store.join("blobs"));
    let blob = blobs.keys().find(|path| blobs[*path].kind == "file").unwrap();
    fs::remove_file(world.store.join("blobs").join(blob)).unwrap();
    fs::write(world.store.join("blobs").join(blob), "other").unwrap();
    says(&wink(&["cache", "verify"]), "N damaged; …");
    fs::write(world.store.join("format"), "wink store 9\n").unwrap();
    says(&wink(&["cache", "stats"]), "the cache … was written by a newer version (…)");
    fs::remove_dir_all(&world.store).unwrap();
    fs::write(&world.store, "").unwrap();
    says(&world.run(&["true"]), "… is not a directory; move it away or choose another cache directory");
    fs::remove_file(&world.store).unwrap();
}

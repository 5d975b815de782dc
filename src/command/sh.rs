//! `wink sh`: a shell for programs that ask for one (make's `SHELL`, npm's `script-shell`, just). Each `-c LINE` is a task of its own, run by
//! the real shell with the very same words. Whatever is no such line, or must not be cached, the real shell gets as it is.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use wink_platform::unix::stdin;

use crate::cli::{EXIT_OWN_FAILURE, RunArgs, TaskArgs};

/// Names the real shell.
const SHELL: &str = "WINK_SHELL";
/// `off`: nothing is cached.
const CACHE: &str = "WINK_SHELL_CACHE";
/// `empty`: commands read nothing, and get an empty standard input where nobody would see whether they do.
const STDIN: &str = "WINK_SHELL_STDIN";
/// `1`: each command's line is shown.
const LINES: &str = "WINK_SHELL_LINES";
/// The real shell if none is named: what make and npm use.
const DEFAULT: &str = "/bin/sh";
/// Where npm says which script it runs.
const NPM_SCRIPT: &str = "npm_lifecycle_event";

/// Parts of names of npm scripts that run until they are stopped, or act on the world outside.
const NEVER: [&str; 11] =
    ["start", "stop", "restart", "dev", "serve", "watch", "preview", "deploy", "publish", "release", "version"];

/// Runs the shell; returns its exit code.
pub fn sh(args: Vec<OsString>) -> i32 {
    let shell = variable(SHELL).unwrap_or_else(|| DEFAULT.into());
    if is_wink(&shell) {
        crate::complain(&format!("{SHELL} is wink itself; set it to a real shell"));
        return EXIT_OWN_FAILURE;
    }
    let kind = match (stdin::kind(), variable(STDIN).is_some_and(|value| value == "empty")) {
        (stdin::Kind::Unseen(_), true) => stdin::Kind::Empty,
        (kind, _) => kind,
    };
    let shows = variable(LINES).is_some_and(|value| value != "0");
    match why_not(&args, kind) {
        Some(reason) => {
            if let Some(reason) = reason.filter(|_| shows) {
                crate::complain(&format!("not cached: {reason}"));
            }
            hand_over(&shell, &args)
        }
        None => {
            let command = [shell].into_iter().chain(args).collect();
            let task = TaskArgs { command, callers_stdin: Some(kind), ..TaskArgs::default() };
            crate::run(RunArgs { quiet: !shows, as_shell: true, task, ..RunArgs::default() })
        }
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Why the real shell is to have these words as they are: for people, or because they are no line at all.
fn why_not(args: &[OsString], stdin: stdin::Kind) -> Option<Option<String>> {
    let Some(asked) = Asked::of(args) else { return Some(None) };
    if asked.interactive {
        return Some(Some("the shell is interactive".to_owned()));
    }
    if variable(CACHE).is_some_and(|value| value == "off") {
        return Some(Some(format!("{CACHE} is off")));
    }
    if let Some(name) = variable(NPM_SCRIPT).filter(|name| never(&name.to_string_lossy())) {
        return Some(Some(format!("npm calls it {}", name.to_string_lossy())));
    }
    if let stdin::Kind::Unseen(what) = stdin {
        return Some(Some(format!(
            "its standard input is {what}, and nobody sees whether it is read; {STDIN}=empty makes it empty"
        )));
    }
    None
}

/// What a shell's words ask for, if that is to run a line.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    interactive: bool,
}

impl Asked {
    fn of(args: &[OsString]) -> Option<Asked> {
        let (mut has_line, mut interactive) = (false, false);
        let mut words = args.iter().map(|word| word.as_encoded_bytes());
        while let Some(word) = words.next() {
            match word {
                b"--" | b"-" => return (has_line && words.next().is_some()).then_some(Asked { interactive }),
                // Long options, of bash; two of them have a value.
                [b'-', b'-', ..] => {
                    if matches!(word, b"--rcfile" | b"--init-file") {
                        words.next();
                    }
                }
                [sign @ (b'-' | b'+'), letters @ ..] => {
                    has_line |= *sign == b'-' && letters.contains(&b'c');
                    interactive |= *sign == b'-' && letters.contains(&b'i');
                    // Each of these has a value.
                    let valued = letters.iter().filter(|letter| matches!(letter, b'o' | b'O')).count();
                    words.by_ref().take(valued).for_each(drop);
                }
                _ => return has_line.then_some(Asked { interactive }),
            }
        }
        None
    }
}

/// Whether a script of npm is one that is never cached, by a part of its name: `dev`, `build:watch`, `predeploy`.
fn never(script: &str) -> bool {
    script.split(|letter: char| !letter.is_alphanumeric()).any(|part| {
        let bare = part.strip_prefix("pre").or_else(|| part.strip_prefix("post")).unwrap_or(part);
        NEVER.contains(&part) || NEVER.contains(&bare)
    })
}

/// Becomes the real shell.
fn hand_over(shell: &OsStr, args: &[OsString]) -> i32 {
    let error = Command::new(shell).args(args).exec();
    crate::complain(&format!("{}: cannot be executed: {error}", shell.to_string_lossy()));
    if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
}

/// Whether a program is this one: a shell that calls itself would never end.
fn is_wink(shell: &OsStr) -> bool {
    let named = Path::new(shell);
    let found = match named.components().count() {
        1 => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join(named))
            .find(|path| path.is_file()),
        _ => Some(PathBuf::from(named)),
    };
    let real = |path: PathBuf| path.canonicalize().ok();
    found.and_then(real).is_some_and(|found| std::env::current_exe().ok().and_then(real) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<bool> {
        let words: Vec<OsString> = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        Asked::of(&words).map(|asked| asked.interactive)
    }

    #[test]
    fn lines_are_told_from_scripts() {
        for line in ["-c x", "-ec x", "-euc x", "-e -u -c x", "-c -- x", "-euo pipefail -c x", "-c -e x", "+e -c x"] {
            assert_eq!(asked(line), Some(false), "{line}");
        }
        for line in ["-o pipefail -ec x name arg", "--norc -c x", "--rcfile f -c x", "-O extglob -c x", "-cu x"] {
            assert_eq!(asked(line), Some(false), "{line}");
        }
        for line in
            ["", "script", "script -c x", "-e script -c x", "-c", "-o pipefail", "-s", "- -c x", "-- -c", "+c x"]
        {
            assert_eq!(asked(line), None, "{line}");
        }
        assert_eq!(asked("-o c script"), None, "c is the value of -o");
        assert_eq!(asked("-ic x"), Some(true));
        assert_eq!(asked("-i -c x"), Some(true));
    }

    #[test]
    fn scripts_that_run_on_or_act_outside_are_known_by_name() {
        for name in ["dev", "start", "predeploy", "postpublish", "build:watch", "watch-css", "docs:dev", "version"] {
            assert!(never(name), "{name}");
        }
        for name in ["build", "test", "prepare", "prebuild", "developer", "conversion", "lint:fix", "starter", ""] {
            assert!(!never(name), "{name}");
        }
    }
}

//! Which variables reach the command, and which are in the key.
//!
//! A variable that the command can see is in the key. The exceptions: the published list below, what the user passes
//! (`env.pass`, `--pass-env`), and the variables that configure wink itself. Nobody can watch a program read its environment, so the
//! list is short: only what changes from terminal to terminal and what builds do not put into their output. A test keeps
//! `docs/ENVIRONMENT.md` equal to it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use crate::config::pattern::matches;
use crate::config::{EnvMode, EnvSettings};

/// Variables that are ignored together, and why.
#[derive(Debug)]
pub struct Group {
    /// Why their values do not decide.
    #[allow(dead_code, reason = "for readers; a test holds docs/ENVIRONMENT.md to it")]
    pub reason: &'static str,
    /// Globs over names.
    pub names: &'static [&'static str],
}

/// The volatile variables: handed to the command, not in the key.
pub const VOLATILE: &[Group] = &[
    Group { reason: "the connection one is logged in by", names: &["SSH_*"] },
    Group {
        reason: "the terminal: whether output goes to one is in the key",
        names: &[
            "TERM*",
            "COLORTERM",
            "COLORFGBG",
            "COLUMNS",
            "LINES",
            "WINDOWID",
            "GPG_*TTY*",
            "MAKE_TERMOUT",
            "MAKE_TERMERR",
        ],
    },
    Group { reason: "terminal multiplexers", names: &["TMUX*", "STY", "ZELLIJ*"] },
    Group {
        reason: "which terminal emulator or editor terminal it is",
        names: &[
            "ALACRITTY_*",
            "GHOSTTY_*",
            "GNOME_TERMINAL_*",
            "ITERM_*",
            "KITTY_*",
            "KONSOLE_*",
            "LC_TERMINAL",
            "LC_TERMINAL_VERSION",
            "TILIX_ID",
            "VSCODE_GIT_*",
            "VSCODE_INJECTION",
            "VSCODE_IPC_*",
            "VTE_VERSION",
            "WEZTERM_*",
            "WT_PROFILE_ID",
            "WT_SESSION",
            "XTERM_*",
        ],
    },
    Group { reason: "the shell's own state; the directory is in the key", names: &["PWD", "OLDPWD", "SHLVL", "_"] },
    Group {
        reason: "the interactive shell's prompt and history",
        names: &[
            "PS1",
            "PS2",
            "PROMPT_COMMAND",
            "HISTFILE",
            "HISTSIZE",
            "HISTFILESIZE",
            "HISTCONTROL",
            "SHELL_SESSION_ID",
        ],
    },
    Group {
        reason: "the desktop session",
        names: &[
            "DISPLAY",
            "WAYLAND_DISPLAY",
            "XAUTHORITY",
            "XDG_SESSION_*",
            "XDG_RUNTIME_DIR",
            "XDG_SEAT",
            "XDG_VTNR",
            "XDG_ACTIVATION_TOKEN",
            "DBUS_SESSION_BUS_ADDRESS",
            "DESKTOP_STARTUP_ID",
            "SESSION_MANAGER",
            "WINDOWPATH",
        ],
    },
    Group {
        reason: "what systemd tells a service about this one start",
        names: &["INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MANAGERPID", "MEMORY_PRESSURE_*"],
    },
];

/// Variables whose values are kept in plain text in the cache, so that a miss can say what changed. No secret belongs into one of these;
/// of every other variable only the digest is kept.
pub const TOLD: &[&str] = &[
    "PATH",
    "NODE_ENV",
    "BABEL_ENV",
    "CI",
    "DEBUG",
    "VERBOSE",
    "V",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "SOURCE_DATE_EPOCH",
    "USER",
    "LOGNAME",
    "HOME",
    "HOSTNAME",
    "SHELL",
    "EDITOR",
    "TMPDIR",
    "CC",
    "CXX",
    "AR",
    "LD",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "RUSTFLAGS",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "RUSTUP_TOOLCHAIN",
    "CARGO_INCREMENTAL",
    "CARGO_TERM_COLOR",
    "GOOS",
    "GOARCH",
    "GOFLAGS",
    "CGO_ENABLED",
    "JAVA_HOME",
    "PYTHONHASHSEED",
    "PYTHONDONTWRITEBYTECODE",
    "VIRTUAL_ENV",
    "INIT_CWD",
    "npm_command",
    "npm_lifecycle_event",
    "npm_package_name",
    "npm_package_version",
    "npm_config_user_agent",
    "npm_execpath",
    "npm_node_execpath",
    "npm_lifecycle_script",
    "npm_package_json",
    "npm_config_cache",
    "npm_config_global_prefix",
    "npm_config_globalconfig",
    "npm_config_init_module",
    "npm_config_local_prefix",
    "npm_config_node_gyp",
    "npm_config_noproxy",
    "npm_config_npm_version",
    "npm_config_prefix",
    "npm_config_userconfig",
    "NODE",
    "COLOR",
    "GITHUB_ACTIONS",
    "GITHUB_EVENT_NAME",
    "GITHUB_JOB",
    "GITHUB_REF",
    "GITHUB_REPOSITORY",
    "GITHUB_RUN_ATTEMPT",
    "GITHUB_RUN_ID",
    "GITHUB_RUN_NUMBER",
    "GITHUB_SHA",
    "GITHUB_WORKFLOW",
    "RUNNER_OS",
];

/// Set in a task's environment: a `wink run` that finds it knows that an outer one already watches.
pub const INSIDE: &str = "WINK_INSIDE";

/// Set for commands that run without a view and are cached all the same: what runs inside one cannot be told from it.
pub const UNWATCHED: &str = "WINK_UNWATCHED";

/// What reaches the command with `env.mode = "strict"`, besides what is named.
pub const STRICT_BASE: &[&str] =
    &["HOME", "USER", "LOGNAME", "PATH", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TERM", "PWD"];

/// wink's own variables, by the configuration's list: any other of such a name belongs to somebody else, and counts.
fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| crate::config::is_variable(name) || name == INSIDE || name == UNWATCHED)
}

/// The two environments of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environments {
    /// What the command gets, in the order of the caller.
    pub task: Vec<(OsString, OsString)>,
    /// What is in the key, sorted by name.
    pub key: Vec<(OsString, OsString)>,
}

/// Divides the caller's variables.
pub fn divide(variables: impl IntoIterator<Item = (OsString, OsString)>, settings: &EnvSettings) -> Environments {
    let mut out = Environments::default();
    for (name, value) in variables {
        let ours = is_ours(&name);
        let included = is_any(&name, &settings.include);
        let passed = is_any(&name, &settings.pass);
        // wink's own variables reach the command in any case: it may call wink.
        if settings.mode == EnvMode::Strict && !(ours || included || passed || is_any(&name, STRICT_BASE)) {
            continue;
        }
        if !ours && (included || !(passed || is_volatile(&name))) {
            out.key.push((name.clone(), what_decides(&name, &value)));
        }
        out.task.push((name, value));
    }
    // By name alone: of two of one name a shell takes the last, so their order counts.
    out.key.sort_by(|(one, _), (other, _)| one.cmp(other));
    out
}

/// Variables in which `make` and its like hand on how many jobs may run at once, and where the places for them are.
const JOBS: &[&str] = &["MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"];

/// The part of a value that decides. Of the job server nothing does: its pipes have other numbers each time, and how many jobs run at once
/// is not what the result of one of them depends on.
fn what_decides(name: &OsStr, value: &OsStr) -> OsString {
    if !JOBS.iter().any(|jobs| name == *jobs) {
        return value.to_owned();
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut words = value.as_encoded_bytes().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word == b"--" {
            // Definitions of variables follow.
            kept.push(word);
            kept.extend(words);
            break;
        }
        if !is_about_jobs(word) {
            kept.push(word);
        }
    }
    OsString::from_vec(kept.join(&b' '))
}

/// `-j4`, `-j`, `--jobs=4`, `--jobserver-auth=3,4`, `--jobserver-auth=fifo:/tmp/GMfifo1`, `--sync-mutex=…`.
fn is_about_jobs(word: &[u8]) -> bool {
    let jobs = word.strip_prefix(b"-j").is_some_and(|number| number.iter().all(u8::is_ascii_digit));
    let long: [&[u8]; 4] = [b"--jobs", b"--jobserver-", b"--sync-mutex=", b"--jobserver="];
    jobs || long.iter().any(|prefix| word.starts_with(prefix))
}

/// Whether a variable is on the published list.
pub fn is_volatile(name: &OsStr) -> bool {
    VOLATILE.iter().any(|group| is_any(name, group.names))
}

/// Whether the value of a variable may be kept in plain text.
pub fn is_told(name: &OsStr) -> bool {
    is_any(name, TOLD)
}

fn is_any<P: AsRef<str>>(name: &OsStr, patterns: &[P]) -> bool {
    patterns.iter().any(|pattern| matches(pattern.as_ref().as_bytes(), name.as_encoded_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[(OsString, OsString)]) -> Vec<&str> {
        list.iter().map(|(name, _)| name.to_str().unwrap()).collect()
    }

    fn split(list: &[&str], settings: &EnvSettings) -> Environments {
        divide(list.iter().map(|name| (OsString::from(name), OsString::from("value"))), settings)
    }

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn loose_passes_all_and_leaves_volatile_out_of_the_key() {
        let all = ["USER", "SSH_TTY", "GPG_TTY", "_", "PS1", "WINK_SCOPE", "CC", "MEMORY_PRESSURE_WATCH", "TERM"];
        let both = split(&all, &EnvSettings::default());
        assert_eq!(names(&both.task), all);
        assert_eq!(names(&both.key), ["CC", "USER"]);
    }

    #[test]
    fn the_job_server_does_not_decide() {
        let decides = |value: &str| what_decides("MAKEFLAGS".as_ref(), value.as_ref()).into_string().unwrap();
        for (value, kept) in [
            ("", ""),
            (" -j4 --jobserver-auth=3,4", ""),
            ("ks -j --jobserver-auth=fifo:/tmp/GMfifo12 --sync-mutex=fnm:/tmp/GM2", "ks"),
            ("--jobserver-fds=3,4 -j", ""),
            ("k -j8 --jobserver-auth=3,4 -Otarget -- -j3 A=b\\ c", "k -Otarget -- -j3 A=b\\ c"),
            ("--jobs=3 --just-print", "--just-print"),
            ("-jx", "-jx"),
        ] {
            assert_eq!(decides(value), kept, "{value}");
        }
        assert_eq!(what_decides("CFLAGS".as_ref(), "-j4  x".as_ref()), "-j4  x");
    }

    #[test]
    fn pass_and_include() {
        let settings = EnvSettings {
            pass: owned(&["CC", "X_*"]),
            include: owned(&["TERM", "WINK_SCOPE", "X_1"]),
            ..EnvSettings::default()
        };
        let both = split(&["TERM", "CC", "WINK_SCOPE", "X_1", "X_2", "A"], &settings);
        assert_eq!(names(&both.task).len(), 6);
        assert_eq!(names(&both.key), ["A", "TERM", "X_1"]);
    }

    #[test]
    fn strict_strips() {
        let settings = EnvSettings { mode: EnvMode::Strict, pass: owned(&["TOKEN"]), include: owned(&["NODE_*"]) };
        let both = split(&["PATH", "LC_ALL", "TOKEN", "NODE_ENV", "CC", "SSH_TTY", "WINK_OWN", "TERM"], &settings);
        assert_eq!(names(&both.task), ["PATH", "LC_ALL", "TOKEN", "NODE_ENV", "WINK_OWN", "TERM"]);
        assert_eq!(names(&both.key), ["LC_ALL", "NODE_ENV", "PATH"]);
    }

    #[test]
    fn nothing_that_builds_embed_is_volatile() {
        for name in [
            "USER",
            "LOGNAME",
            "HOME",
            "HOSTNAME",
            "CI",
            "GITHUB_SHA",
            "GITHUB_ACTIONS",
            "BUILD_NUMBER",
            "PATH",
            "LANG",
            "LC_ALL",
            "TZ",
            "SOURCE_DATE_EPOCH",
            "NODE_ENV",
            "NO_COLOR",
            "FORCE_COLOR",
            "CC",
            "CFLAGS",
            "MAKEFLAGS",
            "RUSTFLAGS",
            "XDG_CACHE_HOME",
            "XDG_DATA_DIRS",
            "TMPDIR",
            "EDITOR",
            "PS4",
        ] {
            assert!(!is_volatile(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn no_secret_is_told() {
        for name in ["NPM_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "PGPASSWORD", "LC"] {
            assert!(!is_told(OsStr::new(name)), "{name}");
        }
        assert!(is_told(OsStr::new("LC_ALL")) && is_told(OsStr::new("NODE_ENV")));
    }

    #[test]
    fn the_page_lists_what_the_code_does() {
        let page = include_str!("../docs/ENVIRONMENT.md");
        let section = |title: &str| {
            let body = page.split(&format!("## {title}\n")).nth(1).expect(title);
            body.split("\n## ").next().unwrap_or_default()
        };
        let rows = section("Volatile variables").lines().filter_map(|line| line.strip_prefix("| `"));
        let listed: Vec<String> = rows.map(|row| format!("| `{row}")).collect();
        let wanted: Vec<String> = VOLATILE
            .iter()
            .map(|group| {
                let names: Vec<String> = group.names.iter().map(|name| format!("`{name}`")).collect();
                format!("| {} | {} |", names.join(" "), group.reason)
            })
            .collect();
        assert_eq!(listed, wanted);
        let told: Vec<String> = TOLD.iter().map(|name| format!("`{name}`")).collect();
        assert!(section("Values that are kept").contains(&told.join(" ")), "{}", told.join(" "));
        let base: Vec<String> = STRICT_BASE.iter().map(|name| format!("`{name}`")).collect();
        assert!(section("Strict mode").contains(&base.join(" ")), "{}", base.join(" "));
    }
}

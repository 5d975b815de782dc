//! The keys of a task: what is known before it runs.
//!
//! Each part is hashed alone, then all of them in a fixed order; every item is preceded by its length, so that no two inputs have
//! the same encoding. [`KeyParts`] keeps the digests of the parts (an environment holds secrets) and the values of a few variables that
//! never do: two of them tell which variable or argument differs (`difference.rs`).
//!
//! Whether stdout and stderr are terminals changes how output looks, so it is in the task key; it is not in the own key, because
//! what a command leaves in the workspace belongs to it either way.

mod difference;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};
use wink_store::{Digest, OwnKey, TaskKey};

use crate::config::{Own, Scope};
use crate::environment::is_told;
use crate::roots::Roots;

pub use difference::PartDifference;

/// Version of the encoding and of what a record means. A new one makes every older record unreachable.
pub const KEY_VERSION: u32 = 1;

/// The kind of machine and user a task runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Operating system.
    pub os: &'static str,
    /// Processor architecture.
    pub architecture: &'static str,
    /// The user may do everything: permissions do not stop it.
    pub superuser: bool,
}

impl Platform {
    /// This machine, with whether the effective user is the superuser.
    pub fn here(superuser: bool) -> Platform {
        Platform { os: std::env::consts::OS, architecture: std::env::consts::ARCH, superuser }
    }
}

/// Everything that is known before a task runs.
#[derive(Clone, Debug)]
pub struct KeyInput<'a> {
    /// The command and its arguments.
    pub argv: &'a [OsString],
    /// The current directory relative to the workspace, names joined by `/`.
    pub cwd: &'a [u8],
    /// The variables that count ([`crate::environment::Environments::key`]).
    pub environment: &'a [(OsString, OsString)],
    /// Digest of standard input, unless it is empty by decree.
    pub stdin: Option<Digest>,
    /// Permission bits that new files do not get.
    pub umask: u32,
    /// The machine.
    pub platform: Platform,
    /// Which part of the file tree is watched.
    pub scope: Scope,
    /// What else was declared: a name and its bytes.
    pub extras: &'a [(String, Vec<u8>)],
    /// Contents that decide before the command runs. They tell records apart and not whose outputs those are: what a command left for other
    /// contents is its own all the same.
    pub contents: &'a [(String, Vec<u8>)],
    /// What becomes of earlier outputs: a record of a run that was shown some is none for who asked for clean runs.
    pub own: Own,
    /// Standard output is a terminal.
    pub stdout_terminal: bool,
    /// Standard error is a terminal.
    pub stderr_terminal: bool,
}

/// Digests of the parts of a key, as hexadecimal digits, to find out later what differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyParts {
    /// `KEY_VERSION`.
    pub version: u32,
    /// One per argument.
    pub argv: Vec<String>,
    /// The current directory.
    pub cwd: String,
    /// One per variable, by name.
    pub environment: BTreeMap<String, String>,
    /// Standard input.
    pub stdin: Option<String>,
    /// The umask.
    pub umask: u32,
    /// Operating system, architecture and superuser.
    pub platform: String,
    /// Which part of the file tree is watched.
    pub scope: String,
    /// One per declared extra.
    pub extras: Vec<(String, String)>,
    /// What becomes of earlier outputs; not kept where it is what it always was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<String>,
    /// Whether stdout and stderr are terminals.
    pub terminals: (bool, bool),
    /// The flags that shaped the key and cannot be read from its digests, so that the task can be run again.
    #[serde(default, skip_serializing_if = "Flags::is_none")]
    pub flags: Flags,
    /// Values of variables on the list `environment::TOLD`, as they are. They explain; the key is made of the digests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
}

/// Flags of the command line that are in no configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    /// `--env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `--pass-env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    /// `--input`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<String>,
    /// `--output`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

impl Flags {
    fn is_none(&self) -> bool {
        *self == Flags::default()
    }
}

/// The longest value that is kept: a long `PATH`.
const VALUE_BYTES_MAX: usize = 4096;

/// The keys of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The identity under which records are found.
    pub task: TaskKey,
    /// The identity under which runs share their own outputs.
    pub own: OwnKey,
    /// What they are made of.
    pub parts: KeyParts,
}

impl Keys {
    /// The keys of a task in a workspace.
    pub fn new(input: &KeyInput<'_>, roots: &Roots) -> Keys {
        let symbolic = |value: &OsString| roots.substitute(value.as_encoded_bytes());
        let mut hash = Encoder::new();
        let mut argv = Vec::with_capacity(input.argv.len());
        hash.number("argv", input.argv.len() as u64);
        for argument in input.argv {
            argv.push(hash.item("argument", &symbolic(argument)));
        }
        hash.item("cwd", input.cwd);

        let mut variables: Vec<&(OsString, OsString)> = input.environment.iter().collect();
        variables.sort_by(|one, other| one.0.cmp(&other.0));
        let (mut environment, mut values) = (BTreeMap::new(), BTreeMap::new());
        hash.number("environment", variables.len() as u64);
        for (name, value) in variables {
            hash.item("name", name.as_encoded_bytes());
            let digest = hash.item("value", &symbolic(value));
            if let (true, Some(name), Some(value)) = (is_told(name), name.to_str(), value.to_str())
                && value.len() <= VALUE_BYTES_MAX
            {
                values.insert(name.to_owned(), value.to_owned());
            }
            environment.insert(name.to_string_lossy().into_owned(), digest);
        }

        hash.number("stdin", u64::from(input.stdin.is_some()));
        let stdin = input.stdin.map(|digest| hash.item("bytes", &digest.0));
        hash.number("umask", u64::from(input.umask));
        let Platform { os, architecture, superuser } = &input.platform;
        let platform = format!("{os} {architecture}{}", if *superuser { " superuser" } else { "" });
        hash.item("platform", platform.as_bytes());
        let scope = match input.scope {
            Scope::System => "system",
            Scope::Workspace => "workspace",
        };
        hash.item("scope", scope.as_bytes());
        hash.number("extras", input.extras.len() as u64);
        let mut extras = Vec::with_capacity(input.extras.len() + input.contents.len());
        for (name, bytes) in input.extras {
            hash.item("name", name.as_bytes());
            extras.push((name.clone(), hash.item("extra", bytes)));
        }

        let own = OwnKey(hash.digest("own"));
        let earlier = match input.own {
            Own::Carry => None,
            Own::Hide => Some("hide".to_owned()),
            Own::Observe => Some("observe".to_owned()),
        };
        if let Some(earlier) = &earlier {
            hash.item("earlier outputs", earlier.as_bytes());
        }
        if !input.contents.is_empty() {
            hash.number("contents", input.contents.len() as u64);
        }
        for (name, bytes) in input.contents {
            hash.item("name", name.as_bytes());
            extras.push((name.clone(), hash.item("content", bytes)));
        }
        hash.number("stdout", u64::from(input.stdout_terminal));
        hash.number("stderr", u64::from(input.stderr_terminal));
        let task = TaskKey(hash.digest("task"));
        let parts = KeyParts {
            version: KEY_VERSION,
            argv,
            cwd: String::from_utf8_lossy(input.cwd).into_owned(),
            environment,
            stdin,
            umask: input.umask,
            platform,
            scope: scope.to_owned(),
            extras,
            own: earlier,
            terminals: (input.stdout_terminal, input.stderr_terminal),
            flags: Flags::default(),
            values,
        };
        Keys { task, own, parts }
    }
}

/// The digest under which a key keeps an argument or a variable's value.
pub fn part(roots: &Roots, value: &OsStr) -> String {
    Digest::of(&roots.substitute(value.as_encoded_bytes())).to_string()
}

/// Hashes a sequence of labelled items, each preceded by its length.
struct Encoder(blake3::Hasher);

impl Encoder {
    fn new() -> Encoder {
        let mut encoder = Encoder(blake3::Hasher::new());
        encoder.bytes(b"wink task key");
        encoder.number("version", u64::from(KEY_VERSION));
        encoder
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn number(&mut self, label: &str, number: u64) {
        self.bytes(label.as_bytes());
        self.0.update(&number.to_le_bytes());
    }

    /// Adds the digest of `bytes` and returns it.
    fn item(&mut self, label: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        self.bytes(label.as_bytes());
        self.0.update(&digest.0);
        digest.to_string()
    }

    /// The digest of everything so far, for one purpose.
    fn digest(&self, purpose: &str) -> Digest {
        let mut copy = Encoder(self.0.clone());
        copy.bytes(purpose.as_bytes());
        copy.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn roots(workspace: &str) -> Roots {
        Roots::new(Path::new(workspace), Some(Path::new("/home/u")))
    }

    fn input<'a>(argv: &'a [OsString], environment: &'a [(OsString, OsString)]) -> KeyInput<'a> {
        KeyInput {
            argv,
            cwd: b"sub",
            environment,
            stdin: None,
            umask: 0o22,
            platform: Platform { os: "linux", architecture: "x86_64", superuser: false },
            scope: Scope::System,
            extras: &[],
            contents: &[],
            own: Own::Carry,
            stdout_terminal: false,
            stderr_terminal: false,
        }
    }

    #[test]
    fn the_place_of_the_clone_does_not_matter() {
        let of = |root: &str| {
            let argv = words(&["cc", &format!("-I{root}/include")]);
            let environment = pairs(&[("PATH", &format!("{root}/bin:/home/u/bin:/usr/bin")), ("A", "b")]);
            Keys::new(&input(&argv, &environment), &roots(root))
        };
        let (here, there) = (of("/work/a"), of("/elsewhere/deep/b"));
        assert_eq!((here.task, here.own), (there.task, there.own));
        assert!(here.parts.differences(&there.parts).is_empty());
    }

    #[test]
    fn every_part_matters_and_is_named() {
        let argv = words(&["cc", "x"]);
        let environment = pairs(&[("A", "b")]);
        let base = input(&argv, &environment);
        let key = |input: &KeyInput<'_>| Keys::new(input, &roots("/w/p"));
        let (other_argv, other_environment) = (words(&["cc", "y"]), pairs(&[("A", "c")]));
        let extras = [("input".to_owned(), b"x".to_vec())];
        let variants = [
            (KeyInput { argv: &other_argv, ..base.clone() }, "command line"),
            (KeyInput { cwd: b"", ..base.clone() }, "current directory"),
            (KeyInput { environment: &other_environment, ..base.clone() }, "variable A"),
            (KeyInput { stdin: Some(Digest::of(b"")), ..base.clone() }, "standard input"),
            (KeyInput { umask: 0o77, ..base.clone() }, "umask"),
            (KeyInput { platform: Platform { superuser: true, ..base.platform.clone() }, ..base.clone() }, "rights"),
            (KeyInput { scope: Scope::Workspace, ..base.clone() }, "scope"),
            (KeyInput { extras: &extras, ..base.clone() }, "input"),
        ];
        let mut seen = vec![key(&base)];
        for (variant, named) in &variants {
            let keys = key(variant);
            assert!(seen.iter().all(|other| other.task != keys.task && other.own != keys.own), "{named}");
            let difference = keys.parts.differences(&seen[0].parts);
            assert!(difference[0].text.contains(named), "{named}: {}", difference[0].text);
            seen.push(keys);
        }
        assert!(key(&base).parts.differences(&seen[0].parts).is_empty());
    }

    #[test]
    fn terminals_are_in_the_task_key_alone() {
        let argv = words(&["ls"]);
        let (plain, terminal) = (input(&argv, &[]), KeyInput { stdout_terminal: true, ..input(&argv, &[]) });
        let (plain, terminal) = (Keys::new(&plain, &roots("/w/p")), Keys::new(&terminal, &roots("/w/p")));
        assert_ne!(plain.task, terminal.task);
        assert_eq!(plain.own, terminal.own);
    }

    #[test]
    fn what_becomes_of_earlier_outputs_is_in_the_task_key_alone() {
        let argv = words(&["ls"]);
        let keys = |own| Keys::new(&KeyInput { own, ..input(&argv, &[]) }, &roots("/w/p"));
        let [carry, hide, observe] = [Own::Carry, Own::Hide, Own::Observe].map(keys);
        assert!(carry.task != hide.task && hide.task != observe.task && carry.task != observe.task);
        assert!(carry.own == hide.own && hide.own == observe.own);
    }

    #[test]
    fn boundaries_between_words_matter() {
        let key = |argv: &[&str], environment: &[(&str, &str)]| {
            Keys::new(&input(&words(argv), &pairs(environment)), &roots("/w/p")).task
        };
        assert_ne!(key(&["a", "b"], &[]), key(&["a b"], &[]));
        assert_ne!(key(&["ab", ""], &[]), key(&["a", "b"], &[]));
        assert_ne!(key(&["a"], &[("x", "yz")]), key(&["a"], &[("xy", "z")]));
        assert_eq!(key(&["a"], &[("x", "1"), ("y", "2")]), key(&["a"], &[("y", "2"), ("x", "1")]));
    }

    #[test]
    fn parts_hold_no_values_and_survive_storage() {
        let environment = pairs(&[("TOKEN", "hunter2")]);
        let argv = words(&["cc"]);
        let parts = Keys::new(&input(&argv, &environment), &roots("/w/p")).parts;
        let text = serde_json::to_string(&parts).unwrap();
        assert!(text.contains("TOKEN") && !text.contains("hunter2"));
        // An index that an older version wrote knows no values.
        let mut older = serde_json::to_value(&parts).unwrap();
        older.as_object_mut().unwrap().remove("values");
        assert!(parts.differences(&serde_json::from_value(older).unwrap()).is_empty());
        assert_eq!(serde_json::from_str::<KeyParts>(&text).unwrap(), parts);
    }

    #[test]
    fn the_encoding_is_stable() {
        let environment = pairs(&[("A", "b")]);
        let argv = words(&["cc", "x"]);
        let keys = Keys::new(&input(&argv, &environment), &roots("/w/p"));
        // Whoever changes the encoding raises KEY_VERSION, and then this.
        assert_eq!(keys.task.0.to_string(), PINNED);
    }

    const PINNED: &str = "e2b13c83822428972b24b4e35b4d877151cc04698917f7434018208914e320c4";
}

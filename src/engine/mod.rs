//! The engine: everything between "what was asked" and "what happened" for one task.
//!
//! ```text
//! lookup    task key → candidates → the first whose every observation holds now (`holds`: the quick way to see that)
//! restore   a record's outputs into the workspace, its output to the terminal
//! detect    the strategies: how inputs and outputs are found
//! session   the view in which the command runs on a miss
//! capture   what it saw and left → trace, manifest, blobs
//! publish   what it left → the workspace
//! again     a recorded task once more, only to be compared
//! ```
//! [`answering`] serves runs that take place inside this one. [`tree`] tells what the real tree holds now, [`own`] what in it earlier runs of the same task left.

pub mod again;
pub mod answering;
pub mod attach;
pub mod capture;
pub mod detect;
pub mod difference;
pub mod ground;
pub mod holds;
pub mod lookup;
pub mod own;
mod parallel;
pub mod places;
pub mod publish;
pub mod restore;
pub mod session;
pub mod tree;
pub mod turn;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wink_platform::unix::task::{Spawn, Stdin};
use wink_store::Store;

use crate::config::{Scope, Settings};
use crate::key::Keys;
use crate::mounted::Mount;
use crate::roots::Roots;

/// One task: what was asked, and where.
pub struct Task {
    /// Absolute, canonical.
    pub workspace: PathBuf,
    /// The home directory, canonical.
    pub home: Option<PathBuf>,
    /// Absolute, canonical; at or below the workspace, or anywhere if that is what was asked.
    pub cwd: PathBuf,
    /// The command and its arguments.
    pub argv: Vec<std::ffi::OsString>,
    /// What the command sees.
    pub environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    /// Its standard input.
    pub stdin: Input,
    /// Its keys, and what they are made of.
    pub keys: Keys,
    /// How it is to be run.
    pub settings: Settings,
    /// Symbolic roots.
    pub roots: Roots,
    /// How its inputs and outputs are found.
    pub detect: Box<dyn detect::Detect>,
    /// The mount that the workspace lies in.
    pub mount: Option<Mount>,
    /// Somebody asks what would happen, or has a run only to compare it: nothing stored may change.
    pub only_asked: bool,
    /// Nothing of wink's own is printed, nor what runs inside this one have to say of themselves.
    pub quiet: bool,
}

/// What a command reads from standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    Empty,
    /// These bytes, which are in the key.
    Bytes(Vec<u8>),
    /// What this process would. If anything of it is read, the run is not recorded.
    Callers,
}

impl Task {
    /// Where the workspace lies relative to its mount.
    pub fn in_mount(&self) -> Option<(&Mount, &[u8])> {
        let mount = self.mount.as_ref()?;
        Some((mount, mount.relative(self.workspace.as_os_str().as_bytes())?))
    }

    /// The command as it is started natively.
    pub fn spawn(&self) -> Spawn<'_> {
        Spawn {
            argv: &self.argv,
            env: self.environment.clone(),
            cwd: Some(self.cwd.clone()),
            stdin: match &self.stdin {
                Input::Empty => Stdin::Null,
                Input::Bytes(bytes) => Stdin::Bytes(bytes.clone()),
                Input::Callers => Stdin::Inherit,
            },
            inside: None,
            umask: None,
            quiet: false,
            piped: [false; 2],
        }
    }

    /// Where the view shows the workspace besides its real place, if that is configured. Only a view of the whole system can.
    pub fn canonical_root(&self) -> Option<&Path> {
        self.settings.canonical_root.as_deref().filter(|_| self.settings.scope == Scope::System)
    }

    /// The current directory as the command sees it.
    pub fn shown_cwd(&self) -> PathBuf {
        match (self.canonical_root(), self.cwd.strip_prefix(&self.workspace)) {
            (Some(canonical), Ok(relative)) => canonical.join(relative),
            _ => self.cwd.clone(),
        }
    }

    /// An argument or a variable's value as the command sees it: with the workspace where the view shows it.
    pub fn shown(&self, value: &OsStr) -> OsString {
        match self.canonical_root() {
            Some(canonical) => {
                let moved = self.roots.substitute(value.as_bytes());
                OsString::from_vec(self.roots.restore(&moved, canonical.as_os_str().as_bytes()))
            }
            None => value.to_owned(),
        }
    }
}

/// A task and the store it is looked up in.
pub struct Engine<'s> {
    /// The store.
    pub store: &'s Arc<Store>,
    /// The task.
    pub task: &'s Task,
    /// Pruning might take away what is stored now: nothing new may rely on it.
    pub unheld: bool,
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}

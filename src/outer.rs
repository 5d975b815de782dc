//! The task in whose view this process runs, if it runs in one: `wink run` inside `wink run`.
//!
//! To an inner run the outer view is a plain tree: it looks, restores and publishes there like anywhere, and the outer run sees all of it. Two
//! things a plain tree would tell it a view does not, and so the process that serves the view is asked for them: by which stamp the bytes of
//! a file may be remembered (a view has a device number that the next view gets again), and whether somebody outside has changed a file since
//! the view first saw it (a view goes on showing what it saw). See `docs/adr/0011-nested-runs.md`.
//!
//! Which view that is, and where to ask, the kernel's table of mounts says: it holds whatever became of the environment.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use wink_platform::unix::mounts::{TaskView, is_diskless, task_views};
use wink_platform::unix::{control, identity};
use wink_store::{Digest, FileStamp};

use crate::environment::INSIDE;

/// How long an answer may take: it asks no disk but for attributes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Nodes of one question: an answer stays far below the longest message.
const IDS_MAX: usize = 10_000;

/// What is asked. Both ends are the same program: another version is answered [`Answer::OtherVersion`], and asks no further.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// Version of the program that asks.
    pub version: String,
    /// What about.
    pub about: About,
}

/// See [`Question`].
#[derive(Debug, Serialize, Deserialize)]
pub enum About {
    /// Nodes of the view, by the inode number that it shows of them.
    Nodes(Vec<u64>),
    /// A line for the person who watches the outermost run: not part of what the task printed.
    Line(String),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`About::Nodes`], in their order; `None` for one that the view does not know.
    Nodes(Vec<Option<Node>>),
    /// The line has been passed on.
    Done,
    /// The outer task runs only to be compared: nothing of it is kept, nor of what runs in it.
    Apart,
    /// Another version of wink serves the view.
    OtherVersion,
}

/// What stands behind a node of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Size, modification time and change time as the view shows them now.
    pub shown: (u64, i64, i64),
    /// The file that holds its bytes.
    pub bytes: Bytes,
    /// Nobody outside has changed it since the view first saw it.
    pub steady: bool,
    /// It lies in the task's workspace: each change gives a file another ctime.
    pub strict: bool,
}

/// Where a file's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bytes {
    /// In a file with this stamp: device, inode, size, mtime, ctime.
    File(u64, u64, u64, i64, i64),
    /// In this blob.
    Blob([u8; 32]),
    /// Not to be told.
    Unknown,
}

impl Bytes {
    /// In a file with this stamp.
    pub fn at(stamp: FileStamp) -> Bytes {
        Bytes::File(stamp.dev, stamp.ino, stamp.size, stamp.mtime_ns, stamp.ctime_ns)
    }

    /// The stamp, if it is a file.
    pub fn stamp(self) -> Option<FileStamp> {
        match self {
            Bytes::File(dev, ino, size, mtime_ns, ctime_ns) => Some(FileStamp { dev, ino, size, mtime_ns, ctime_ns }),
            _ => None,
        }
    }

    /// The blob, if it is one.
    pub fn blob(self) -> Option<Digest> {
        match self {
            Bytes::Blob(digest) => Some(Digest(digest)),
            _ => None,
        }
    }
}

/// The view of an outer task.
#[derive(Debug)]
pub struct Outer {
    view: TaskView,
}

/// The views that this process sees, asked for once: nobody enters one later.
fn views() -> &'static [Outer] {
    static VIEWS: OnceLock<Vec<Outer>> = OnceLock::new();
    VIEWS.get_or_init(|| {
        let views = task_views().unwrap_or_default();
        views.into_iter().map(|view| Outer { view }).collect()
    })
}

/// The outer view that files with this device number lie in.
pub fn of(dev: u64) -> Option<&'static Outer> {
    if is_diskless(dev) { views().iter().find(|outer| outer.view.dev == dev) } else { None }
}

/// The outer view that a path lies in, or its nearest directory that exists.
pub fn around(path: &Path) -> Option<&'static Outer> {
    path.ancestors().find_map(|path| path.metadata().ok()).and_then(|data| of(data.dev()))
}

/// The outer view in which a run in this workspace takes place.
pub fn of_run(workspace: &Path) -> Option<&'static Outer> {
    around(workspace).or_else(|| around(Path::new("/")))
}

/// Makes the kernel hand over what programs wrote through mapped memory of outer views: who asks what serves them would not see that.
pub fn write_back() -> io::Result<()> {
    views().iter().try_for_each(|outer| {
        for dir in &outer.view.dirs {
            let top = File::open(dir)?;
            // Else it is covered by something.
            if top.metadata()?.dev() == outer.view.dev {
                return identity::write_back(&top.into());
            }
        }
        Ok(())
    })
}

/// Directories that outer tasks watch wherever they lie.
pub fn watched() -> impl Iterator<Item = &'static Path> {
    views().iter().flat_map(|outer| &outer.view.dirs).map(PathBuf::as_path).filter(|dir| dir.parent().is_some())
}

impl Outer {
    /// The device number of what is in it.
    pub fn dev(&self) -> u64 {
        self.view.dev
    }

    /// What stands behind nodes of the view, in their order.
    pub fn nodes(&self, ids: &[u64]) -> anyhow::Result<Vec<Option<Node>>> {
        let mut nodes = Vec::with_capacity(ids.len());
        for some in ids.chunks(IDS_MAX) {
            match self.ask(About::Nodes(some.to_vec()))? {
                Answer::Nodes(found) if found.len() == some.len() => nodes.extend(found),
                _ => bail!("the outer task answered something else"),
            }
        }
        Ok(nodes)
    }

    /// Whether it answers, and runs in it may leave something in a cache.
    pub fn answers(&self) -> anyhow::Result<()> {
        match self.ask(About::Nodes(Vec::new()))? {
            Answer::Apart => bail!("the outer task runs only to be compared"),
            _ => Ok(()),
        }
    }

    /// Whether nothing that runs in it may leave anything in a cache.
    pub fn is_apart(&self) -> bool {
        matches!(self.ask(About::Nodes(Vec::new())), Ok(Answer::Apart))
    }

    /// Hands a line to the person who watches; whether that went.
    pub fn say(&self, line: &str) -> bool {
        matches!(self.ask(About::Line(line.to_owned())), Ok(Answer::Done))
    }

    fn ask(&self, about: About) -> anyhow::Result<Answer> {
        let question = Question { version: env!("CARGO_PKG_VERSION").to_owned(), about };
        let peer = control::connect(&self.view.socket).context("the outer task cannot be asked")?;
        peer.send(&serde_json::to_vec(&question)?, &[]).context("the outer task cannot be asked")?;
        let answer = peer.receive(Some(ANSWER_TIMEOUT)).context("the outer task does not answer")?;
        let (bytes, _) = answer.context("the outer task does not answer")?;
        match serde_json::from_slice(&bytes) {
            Ok(Answer::OtherVersion) | Err(_) => bail!("another version of wink runs the outer task"),
            Ok(answer) => Ok(answer),
        }
    }
}

/// Hands wink's own line to the person who watches the outermost run. `false`: there is no outer run, or it cannot be asked.
pub fn say(line: &str) -> bool {
    let inside = std::env::var_os(INSIDE).is_some() || around(Path::new("/")).is_some();
    // The last to be mounted is the innermost: it is what captures the output of this process.
    inside && views().last().is_some_and(|outer| outer.say(line))
}

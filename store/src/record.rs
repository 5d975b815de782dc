//! One cache entry: what was known before the run, what the run saw, and what it left.

pub(crate) mod encoding;

use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::trace::Trace;

/// What is known before running: digest of argv, cwd, environment, stdin, umask, platform and declared extras.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey(pub Digest);

/// The identity under which runs share their own outputs: the task key without what only changes how output looks
/// (whether stdout and stderr are terminals).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnKey(pub Digest);

/// The identity of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(pub Digest);

/// To which stream a piece of captured output went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What the command printed, in the order in which it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Pieces; neighbours may be of the same stream.
    pub pieces: Vec<(Stream, Vec<u8>)>,
}

/// The small part of a record: enough to decide whether its trace is worth loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Its identity: digest over task key, fingerprint, manifest, captured output, exit code, bindings and depth.
    pub id: RecordId,
    /// The task key.
    pub task_key: TaskKey,
    /// The key of its own outputs.
    pub own_key: OwnKey,
    /// Whether lookups may use it. A failed or uncached run leaves a record too, so that what it left in the workspace is
    /// known as own output, but nobody ever hits it.
    pub usable: bool,
    /// Digest of the canonical trace.
    pub fingerprint: Digest,
    /// Digest of the manifest's root node.
    pub manifest: Digest,
    /// The command's exit code.
    pub exit_code: i32,
    /// How long the command ran, milliseconds.
    pub command_ms: u64,
    /// When the record was made, milliseconds since the epoch.
    pub created_ms: u64,
    /// The absolute workspace root, if it occurs in an output: then the record holds only there.
    pub bound_workspace: Option<Vec<u8>>,
    /// The absolute home, if it occurs in an output.
    pub bound_home: Option<Vec<u8>>,
    /// How many names the absolute workspace root had (`/work/repo`: 2): decides what [`crate::path::Root::Above`] reached.
    pub depth: u16,
    /// Total bytes of the manifest's files.
    pub output_bytes: u64,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The small part. `id`, `fingerprint`, `manifest` and `output_bytes` are computed by [`Record::seal`].
    pub head: RecordHead,
    /// What the run saw.
    pub trace: Trace,
    /// What it left.
    pub outputs: Manifest,
    /// For each entry of `outputs`, in order: nanoseconds between the oldest and this entry's modification time. A hit
    /// gives the restored files times in this order.
    pub times: Vec<u64>,
    /// What it printed.
    pub captured: Captured,
    /// The command, for people.
    pub argv: Vec<Vec<u8>>,
}

//! Attach: outputs appear in a mounted working tree as views of blobs. Nothing is copied; what is sent to the daemon is one digest.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use anyhow::Context;
use wink_fs::attr::Time;
use wink_store::{Output, Pack, Packed};

use super::Engine;
use crate::daemon::client::Client;
use crate::daemon::protocol::{Attached, Reply, Request, Text};
use crate::mounted::{Mount, below};

/// When the views of one attachment were last changed: `first + rank × step`.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Time of rank 0.
    pub first: Time,
    /// Nanoseconds per rank.
    pub step: i64,
}

/// One view.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Relative to the workspace.
    pub path: Vec<u8>,
    /// What it shows.
    pub output: Output,
    /// Its place in the order of times.
    pub rank: u64,
}

impl Engine<'_> {
    /// Whether the workspace still is what the daemon serves there: it may have been unmounted while the command ran.
    pub fn is_served(&self, mount: &Mount) -> bool {
        let ask = || -> anyhow::Result<bool> {
            let dev = std::fs::metadata(&self.task.workspace)?.dev();
            let (reply, _) = Client::connect(self.store.dir())?.ask(&Request::Find { dev }, &[])?;
            Ok(matches!(reply, Reply::Found { root } if root == mount.root.as_os_str().as_bytes()))
        };
        ask().unwrap_or(false)
    }

    /// Removes paths (relative to the workspace, deepest first) and shows `pieces`.
    pub fn attach(&self, mount: &Mount, remove: &[Vec<u8>], pieces: Vec<Piece>, clock: Clock) -> anyhow::Result<()> {
        if remove.is_empty() && pieces.is_empty() {
            return Ok(());
        }
        let (_, at) = self.task.in_mount().context("the workspace lies in no mount")?;
        let pack = match pieces.is_empty() {
            true => None,
            false => {
                let mut entries: Vec<Packed> =
                    pieces.into_iter().map(|Piece { path, output, rank }| Packed { path, output, rank }).collect();
                entries.sort_by(|one, other| one.path.cmp(&other.path));
                let pack = self.store.put_pack(&Pack { entries })?.to_string();
                Some(Attached { at: at.to_vec(), pack, first_ns: clock.first.0, step_ns: clock.step })
            }
        };
        let request = Request::Attach {
            root: mount.root.as_os_str().as_bytes().to_vec(),
            remove: remove.iter().map(|path| Text(below(at, path))).collect(),
            pack,
        };
        Client::connect(self.store.dir())?.do_it(&request, &[]).map(drop)
    }
}

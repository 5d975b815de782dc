//! Turns: who changes a workspace does so alone, and what somebody left there who was killed at it is cleared away.
//!
//! While files are placed, the lock file names the directories in which that happens: there a killed process may leave a temporary name. A lock file that
//! names some although nobody holds it is such a process's legacy. Pruning removes the lock files of workspaces that nobody knows any more, while it holds
//! them: whoever gets the lock on a file that has no name asks again.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use wink_platform::unix::place::Placer;
use wink_store::seam::{Place, Step, gate};
use wink_store::{Digest, Store};

/// How often a turn is asked for again by who does not wait for ever.
const POLL: Duration = Duration::from_millis(2);

/// More than the directories of any task; a lock file may hold anything by now.
const NOTED_BYTES_MAX: u64 = 64 << 20;

/// Held while a workspace is changed.
pub struct Turn {
    file: File,
    /// Something failed, and perhaps the clearing away too: whoever comes next looks again.
    is_unclean: Cell<bool>,
}

impl Turn {
    /// Waits for the workspace's turn.
    pub fn take(store: &Store, workspace: &Path) -> io::Result<Turn> {
        loop {
            let file = open(store, workspace)?;
            file.lock()?;
            if has_name(&file)? {
                return Ok(Turn::begin(file, workspace));
            }
        }
    }

    /// The same, but only so long: somebody may have been stopped in the middle of it.
    pub fn take_within(store: &Store, workspace: &Path, patience: Duration) -> io::Result<Turn> {
        let began = Instant::now();
        loop {
            let file = open(store, workspace)?;
            match file.try_lock() {
                Ok(()) if has_name(&file)? => return Ok(Turn::begin(file, workspace)),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if began.elapsed() < patience => std::thread::sleep(POLL),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Clears away what was left by who had the last turn, if that was killed. What cannot be told or done now is left for later.
    pub fn clear_up(store: &Store, workspace: &Path) {
        let is_left = || {
            std::fs::symlink_metadata(store.dir().join(name(workspace)))
                .is_ok_and(|found| found.is_file() && found.len() > 0)
        };
        if is_left()
            && let Ok(file) = open(store, workspace)
            && file.try_lock().is_ok()
            && has_name(&file).unwrap_or(false)
        {
            drop(Turn::begin(file, workspace));
        }
    }

    fn begin(file: File, workspace: &Path) -> Turn {
        let turn = Turn { file, is_unclean: Cell::new(false) };
        turn.sweep(workspace);
        turn
    }

    /// Clears away what was left where files were about to be placed, by others or by this process.
    pub fn sweep(&self, workspace: &Path) {
        let mut noted = Vec::new();
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| file.take(NOTED_BYTES_MAX).read_to_end(&mut noted));
        let swept = match read {
            Ok(0) => Ok(()),
            Ok(_) => Placer::new(workspace)
                .and_then(|placer| noted.split(|byte| *byte == 0).try_for_each(|dir| placer.sweep(dir))),
            Err(error) => Err(error),
        };
        if swept.is_err() {
            self.leave();
        }
    }

    /// Leaves it to the next turn to clear away what may have been left.
    pub fn leave(&self) {
        self.is_unclean.set(true);
    }

    /// Notes where files are about to be placed, by the paths that they get. Without it (a full disk) they are placed all the same.
    pub fn note<'p>(&self, paths: impl Iterator<Item = &'p [u8]>) {
        let above =
            |path: &'p [u8]| path.iter().rposition(|byte| *byte == b'/').map_or(&path[..0], |slash| &path[..slash]);
        let dirs: BTreeSet<&[u8]> = paths.map(above).collect();
        let noted: Vec<u8> = dirs.into_iter().flat_map(|dir| dir.iter().copied().chain([0])).collect();
        let write = || -> io::Result<()> {
            gate(Place::Store, Step::Write)?;
            if !self.is_unclean.get() {
                self.file.set_len(0)?;
            }
            (&self.file).write_all(&noted)
        };
        let _ = write();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_unclean.get() {
            let _ = gate(Place::Store, Step::Write).and_then(|()| self.file.set_len(0));
        }
    }
}

/// Held by a command that runs in the workspace itself: two of them could not be told apart.
pub struct Alone {
    #[allow(dead_code, reason = "held for its end: closing it gives the workspace free")]
    file: File,
    turns: PathBuf,
    /// When somebody had the last turn.
    last: Option<SystemTime>,
}

impl Alone {
    /// `None`: another one runs there.
    pub fn take(store: &Store, workspace: &Path) -> io::Result<Option<Alone>> {
        let turns = store.dir().join(name(workspace));
        // So that it is there to tell when somebody had a turn.
        drop(open(store, workspace)?);
        let own =
            Path::new("locks").join(Digest::of(&[workspace.as_os_str().as_bytes(), b"\0alone"].concat()).to_string());
        loop {
            let file = store.open_log_file(&own).map_err(io::Error::other)?;
            match file.try_lock() {
                Ok(()) if has_name(&file)? => {
                    let last = last_turn(&turns);
                    return Ok(Some(Alone { file, turns, last }));
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Whether somebody else had a turn to change the workspace since. To be asked before anything is written under a turn of one's own.
    pub fn was_disturbed(&self) -> bool {
        last_turn(&self.turns) != self.last
    }
}

/// Who ends a turn cuts its file.
fn last_turn(turns: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(turns).and_then(|found| found.modified()).ok()
}

/// Whether pruning has left the lock where the next one looks for it.
fn has_name(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
}

fn name(workspace: &Path) -> PathBuf {
    Path::new("locks").join(Digest::of(workspace.as_os_str().as_bytes()).to_string())
}

fn open(store: &Store, workspace: &Path) -> io::Result<File> {
    store.open_log_file(&name(workspace)).map_err(io::Error::other)
}

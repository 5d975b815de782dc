//! Publish: what a run left in its view, into the real workspace.
//!
//! New files are in place whole or not at all; nothing is removed unless everything new is in place; nothing takes the place of what should have
//! been set aside and was not. Publishing what has been published already changes nothing, so it may be tried again. Runs that publish into one
//! workspace take turns (`turn`).

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use wink_fs::attr::{Kind, Time};
use wink_fs::status::Status;
use wink_fs::zone::join;
use wink_platform::errno::from_io;
use wink_platform::unix::place::Placer;
use wink_store::Digest;
use wink_store::Output;
use wink_store::seam::{Place, Step, gate};

use super::Engine;
use super::attach::{Clock, Piece};
use super::capture::Harvest;
use super::own::Standing;
use super::tree::{Tree, VIRTUAL, os};
use super::turn::Turn;
use crate::mounted::Mount;

/// Deeds per thread below which starting one costs more than it brings.
const DEEDS_PER_THREAD: usize = 32;

/// Where the bytes of a file to be published are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// In the store.
    Blob {
        /// The blob.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// In a file that could not be stored.
    At(PathBuf),
}

/// One change of the workspace; paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Put a file there.
    File {
        /// Where.
        path: Vec<u8>,
        /// Its bytes.
        bytes: Bytes,
        /// Permission bits.
        mode: u32,
        /// Modification time.
        mtime: Time,
        /// Owner and group.
        owner: Option<(u32, u32)>,
    },
    /// The bytes are there already; set mode and time.
    Attributes {
        /// Where.
        path: Vec<u8>,
        /// Permission bits, if they change.
        mode: Option<u32>,
        /// Modification time.
        mtime: Time,
        /// Owner and group, if they change.
        owner: Option<(u32, u32)>,
    },
    /// Keep what stands there under another name.
    SetAside {
        /// Where.
        path: Vec<u8>,
    },
    /// Only the time changed.
    Times {
        /// Where.
        path: Vec<u8>,
        /// Modification time.
        mtime: Time,
    },
    /// Put a symbolic link there.
    Link {
        /// Where.
        path: Vec<u8>,
        /// Its target.
        target: Vec<u8>,
        /// Modification time.
        mtime: Time,
    },
    /// Make a directory, or set its mode.
    Dir {
        /// Where.
        path: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner and group.
        owner: Option<(u32, u32)>,
    },
    /// Remove it.
    Remove {
        /// Where.
        path: Vec<u8>,
        /// It is a directory.
        dir: bool,
    },
}

impl Deed {
    /// Whether carrying this out and the other leaves the same there.
    pub fn is_like(&self, other: &Deed) -> bool {
        match (self, other) {
            // What is moved or linked away is read again at the end, when other bytes may stand there.
            (Deed::File { mtime, mode, .. }, Deed::File { mtime: then, mode: was, .. }) => (mtime, mode) == (then, was),
            (
                Deed::File { .. } | Deed::Attributes { .. } | Deed::Times { .. },
                Deed::Attributes { .. } | Deed::Times { .. },
            ) => true,
            _ => self == other,
        }
    }

    /// Whether it only makes room for another.
    pub fn is_set_aside(&self) -> bool {
        matches!(self, Deed::SetAside { .. })
    }

    /// Where it is carried out.
    pub fn path(&self) -> &[u8] {
        match self {
            Deed::File { path, .. }
            | Deed::Attributes { path, .. }
            | Deed::Times { path, .. }
            | Deed::SetAside { path }
            | Deed::Link { path, .. }
            | Deed::Dir { path, .. }
            | Deed::Remove { path, .. } => path,
        }
    }
}

impl Engine<'_> {
    /// Carries out what a run did, and removes own outputs of earlier runs that were hidden and not made again. The caller has the turn, if it
    /// was to be had.
    pub fn publish(
        &self,
        harvest: &mut Harvest,
        hidden: &Standing,
        tree: &mut Tree<'_>,
        turn: Option<&Turn>,
    ) -> anyhow::Result<()> {
        let root = &self.task.workspace;
        let placer = Placer::new(root).with_context(|| format!("cannot open the workspace {}", root.display()))?;
        // What somebody saved meanwhile is out of the way before anything else happens, and only once.
        while let Some(at) = harvest.deeds.iter().position(Deed::is_set_aside) {
            self.deed(&placer, &harvest.deeds[at])?;
            harvest.deeds.remove(at);
        }
        let harvest = &*harvest;
        // What is not mounted any more gets real files.
        let (views, deeds) = match self.task.mount.as_ref().filter(|mount| self.is_served(mount)) {
            Some(mount) => {
                let (views, rest) = Views::split(self, harvest, tree);
                (Some((mount, views)), rest)
            }
            None => (None, harvest.deeds.clone()),
        };
        let deeds = &deeds[..];
        let made: HashSet<&[u8]> = harvest.deeds.iter().map(Deed::path).collect();
        let leftovers: Vec<Deed> = hidden
            .outputs
            .iter()
            .filter(|(path, _)| !made.contains(path.as_slice()))
            .map(|(path, output)| Deed::Remove {
                path: path.clone(),
                dir: matches!(output, wink_store::Output::Dir { .. }),
            })
            .collect();
        if harvest.deeds.is_empty() && leftovers.is_empty() {
            return Ok(());
        }
        if let Some(turn) = turn {
            let is_placed = |deed: &&Deed| matches!(deed, Deed::File { .. } | Deed::Link { .. });
            turn.note(harvest.deeds.iter().filter(is_placed).map(Deed::path));
        }
        let mut removals: Vec<&Deed> =
            deeds.iter().chain(&leftovers).filter(|deed| matches!(deed, Deed::Remove { .. })).collect();
        // A file that makes way for a directory, or the other way round, must go first; the rest goes last, deepest first.
        removals.sort_by(|one, other| other.path().cmp(one.path()));
        let mut failures = Failures::default();
        let replaced: HashSet<&[u8]> = conflicts(deeds, &placer)?;
        for deed in removals.iter().filter(|deed| is_within(deed.path(), &replaced)) {
            failures.note(self.deed(&placer, deed));
        }
        for path in &replaced {
            failures.note(clear(&placer, path).with_context(|| format!("cannot replace {}", os(path).display())));
        }
        let (dirs, mut rest): (Vec<&Deed>, Vec<&Deed>) = deeds
            .iter()
            .filter(|deed| !matches!(deed, Deed::Remove { .. }))
            .partition(|deed| matches!(deed, Deed::Dir { .. }));
        let mut dirs = make_dirs(&placer, dirs, &mut failures);
        let mut unshown = Vec::new();
        if let Some((mount, mut views)) = views {
            unshown = std::mem::take(&mut views.deeds);
            if views.attach(self, mount).is_ok() {
                unshown.clear();
            }
        }
        // What cannot be shown, since the store is full or the daemon has died, is made real.
        let (more_dirs, more): (Vec<&Deed>, Vec<&Deed>) =
            unshown.iter().partition(|deed| matches!(deed, Deed::Dir { .. }));
        dirs.extend(make_dirs(&placer, more_dirs, &mut failures));
        rest.extend(more);
        // Directories are there by now, and no two deeds touch one path: the order of the rest is free.
        let threads =
            std::thread::available_parallelism().map_or(1, usize::from).min(rest.len() / DEEDS_PER_THREAD + 1);
        std::thread::scope(|scope| {
            let carry_out = |deeds: &[&Deed]| -> Vec<anyhow::Error> {
                deeds.iter().filter_map(|deed| self.deed(&placer, deed).err()).collect()
            };
            let parts: Vec<_> = rest
                .chunks(rest.len().div_ceil(threads).max(1))
                .map(|part| scope.spawn(move || carry_out(part)))
                .collect();
            for part in parts {
                let failed =
                    part.join().unwrap_or_else(|_| vec![anyhow::anyhow!("a thread that published files stopped")]);
                for error in failed {
                    failures.note(Err(error));
                }
            }
        });
        for deed in dirs.iter().rev() {
            failures.note(self.deed(&placer, deed));
        }
        // What the command moved is there by its new name, or it stays where it was.
        let is_all_there = failures.first.is_none();
        for deed in removals.iter().filter(|deed| is_all_there && !is_within(deed.path(), &replaced)) {
            failures.note(self.deed(&placer, deed));
        }
        failures.first.map_or(Ok(()), Err)
    }

    fn deed(&self, placer: &Placer, deed: &Deed) -> anyhow::Result<()> {
        let own_ids = wink_platform::unix::identity::effective_ids();
        let foreign = |owner: Option<(u32, u32)>| owner.filter(|owner| own_ids.0 == 0 && *owner != own_ids);
        match deed {
            Deed::File { path, bytes, mode, mtime, owner } => {
                let source = match bytes {
                    Bytes::Blob { digest, size } => self.store.open_blob_sized(digest, *size)?,
                    Bytes::At(path) => gate(Place::Store, Step::Open).and_then(|()| File::open(path))?,
                };
                placer.place_file(path, &source, *mode, *mtime, foreign(*owner)).map(drop)
            }
            Deed::Attributes { path, mode, mtime, owner } => owner
                .filter(|_| own_ids.0 == 0)
                .map_or(Ok(()), |(uid, gid)| placer.set_owner(path, uid, gid))
                .and_then(|()| mode.map_or(Ok(()), |mode| placer.set_mode(path, mode)))
                .and_then(|()| placer.set_times(path, *mtime)),
            Deed::SetAside { path } => placer.set_aside(path).map(drop),
            Deed::Times { path, mtime } => placer.set_times(path, *mtime),
            Deed::Link { path, target, mtime } => placer.place_link(path, target, *mtime),
            Deed::Dir { path, mode, owner } => match foreign(*owner) {
                Some((uid, gid)) => placer.set_owner(path, uid, gid).and_then(|()| placer.set_mode(path, *mode)),
                None => placer.set_mode(path, *mode),
            },
            Deed::Remove { path, dir: true } => match placer.remove_dir(path) {
                // Somebody put something there that the run never saw: it stays.
                Ok(_) => Ok(()),
                Err(error) => gone(error),
            },
            Deed::Remove { path, dir: false } => placer.remove_file(path).or_else(gone),
        }
        .with_context(|| format!("cannot write {}", os(deed.path()).display()))
    }
}

/// What a run in a mounted tree made of its own: it appears as views, and is not written at all.
struct Views {
    pieces: Vec<(Piece, Time)>,
    /// Real files in their places.
    covering: Vec<Vec<u8>>,
    /// What makes real files of them instead.
    deeds: Vec<Deed>,
}

impl Views {
    /// Tells views from what must be written through the mount: what changes somebody else's file, what could not be stored, what
    /// belongs to another user, and whatever is done to a directory that is there.
    fn split(engine: &Engine<'_>, harvest: &Harvest, tree: &mut Tree<'_>) -> (Views, Vec<Deed>) {
        let own: HashSet<&[u8]> = harvest
            .manifest
            .entries
            .iter()
            .filter(|entry| !entry.modified)
            .map(|entry| entry.path.as_slice())
            .collect();
        let ids = wink_platform::unix::identity::effective_ids();
        let mut views = Views { pieces: Vec::new(), covering: Vec::new(), deeds: Vec::new() };
        let mut rest = Vec::new();
        for deed in &harvest.deeds {
            let path = deed.path();
            let there = tree.attr(&join(engine.workspace(), path)).ok().flatten();
            let is_view = there.is_some_and(|there| there.dev == VIRTUAL);
            let shown = match deed {
                Deed::File { bytes: Bytes::Blob { digest, size }, mode, mtime, owner, .. }
                    if owner.is_none_or(|owner| owner == ids) =>
                {
                    Some((Output::File { digest: *digest, size: *size, mode: *mode }, *mtime))
                }
                Deed::Link { target, mtime, .. } => Some((Output::Link { target: target.clone() }, *mtime)),
                Deed::Dir { mode, owner, .. } if there.is_none() && owner.is_none_or(|owner| owner == ids) => {
                    Some((Output::Dir { mode: *mode }, Time::now()))
                }
                _ => None,
            };
            // Where somebody else put a file meanwhile it is set aside first, by name: not here.
            let conflict = there.is_some_and(|there| there.kind == Kind::Dir);
            match shown {
                Some((output, mtime)) if !conflict && (own.contains(path) || is_view) => {
                    if there.is_some() && !is_view {
                        views.covering.push(path.to_vec());
                    }
                    views.deeds.push(deed.clone());
                    views.pieces.push((Piece { path: path.to_vec(), output, rank: 0 }, mtime));
                }
                _ => rest.push(deed.clone()),
            }
        }
        (views, rest)
    }

    fn attach(mut self, engine: &Engine<'_>, mount: &Mount) -> anyhow::Result<()> {
        let first = self.pieces.iter().map(|(_, mtime)| *mtime).min().unwrap_or_default();
        for (piece, mtime) in &mut self.pieces {
            piece.rank = mtime.0.abs_diff(first.0);
        }
        let pieces = self.pieces.into_iter().map(|(piece, _)| piece).collect();
        engine.attach(mount, &self.covering, pieces, Clock { first, step: 1 })
    }
}

/// Parents sort before what is in them. A directory without write permission gets its mode once it is filled. Those that are there then.
fn make_dirs<'d>(placer: &Placer, dirs: Vec<&'d Deed>, failures: &mut Failures) -> Vec<&'d Deed> {
    let is_made = |deed: &&Deed| match deed {
        Deed::Dir { path, mode, .. } => {
            let made = placer.make_dir(path, mode | 0o700);
            failures.note(made.with_context(|| format!("cannot make the directory {}", os(path).display())))
        }
        _ => false,
    };
    dirs.into_iter().filter(is_made).collect()
}

/// One file that cannot be published must not keep the others from it.
#[derive(Default)]
struct Failures {
    first: Option<anyhow::Error>,
}

impl Failures {
    /// Whether it went well.
    fn note(&mut self, result: anyhow::Result<()>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                self.first.get_or_insert(error);
                false
            }
        }
    }
}

/// Paths at which a directory must make way for something else or the other way round.
fn conflicts<'d>(deeds: &'d [Deed], placer: &Placer) -> anyhow::Result<HashSet<&'d [u8]>> {
    let mut conflicts = HashSet::new();
    for deed in deeds {
        let wants_dir = match deed {
            Deed::Dir { .. } => true,
            Deed::File { .. } | Deed::Link { .. } => false,
            _ => continue,
        };
        let there = match placer.stat(deed.path()) {
            // Below a link, or below a file: nothing is there, and what is in the way is a conflict of its own.
            Err(error) if matches!(from_io(&error), Status::Loop | Status::Access | Status::NotPermitted) => None,
            there => there.with_context(|| format!("cannot look at {}", os(deed.path()).display()))?,
        };
        if there.is_some_and(|there| (there.kind == Kind::Dir) != wants_dir) {
            conflicts.insert(deed.path());
        }
    }
    Ok(conflicts)
}

fn is_within(path: &[u8], roots: &HashSet<&[u8]>) -> bool {
    let parts = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
    parts.chain([path]).any(|prefix| roots.contains(prefix))
}

fn clear(placer: &Placer, path: &[u8]) -> io::Result<()> {
    match placer.stat(path)? {
        None => Ok(()),
        Some(attr) if attr.kind == Kind::Dir => {
            if placer.remove_dir(path)? {
                Ok(())
            } else {
                Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "somebody else's files are in it"))
            }
        }
        Some(_) => placer.remove_file(path),
    }
}

/// What is not there any more needs no removing; nor does what would lie below something that is no directory by now.
pub fn gone(error: io::Error) -> io::Result<()> {
    match from_io(&error) {
        Status::NotFound | Status::NotDir | Status::Loop => Ok(()),
        _ => Err(error),
    }
}

//! The files of a capture: stored as blobs, and kept apart from what somebody else saved in their places meanwhile.

use std::fs::File;
use std::io;
use std::path::Path;

use wink_fs::attr::{Attr, Kind};
use wink_fs::backing::{Backing, BackingFile, StagedId};
use wink_fs::delta::{Change, Changed, Source};
use wink_fs::observe::same;
use wink_fs::zone::join;
use wink_platform::unix::identity;
use wink_platform::unix::place::aside_name;
use wink_platform::unix::real_file::RealFile;
use wink_store::seam::{Place, Step, gate};
use wink_store::{Digest, Output, Store};

use super::{Capture, owner};
use crate::engine::parallel::in_parallel;
use crate::engine::publish::{Bytes, Deed};
use crate::engine::tree::{Hashed, VIRTUAL, hash_sized, look, os};

/// How many names are tried to tell where a file is set aside.
const ASIDE_TOLD_MAX: usize = 100;

impl Capture<'_, '_> {
    /// Whether somebody else saved a file in this place while the command ran, and its bytes are nowhere but there. What wink itself left
    /// or another run published is in the store.
    pub(super) fn is_edited(&mut self, path: &[u8], before: Option<Kind>) -> io::Result<bool> {
        let seen = match self.run.sights.get(path) {
            Some(sight) => sight.attr,
            // Below a directory that the command made nobody asked what is there: nothing was.
            None if before.is_none() => None,
            None => return Ok(false),
        };
        let Some(now) = self.tree.ground().look(path).ok().flatten().filter(|now| now.kind == Kind::File) else {
            return Ok(false);
        };
        if same(seen.as_ref(), Some(&now)) {
            return Ok(false);
        }
        let digest = self.tree.digest(path, &now)?;
        // An earlier output that the command was not shown is known although its bytes may be stored no more.
        let left = self.relative(path).and_then(|relative| self.run.hidden.outputs.get(relative));
        if matches!(left, Some(Output::File { digest: left, .. }) if *left == digest) {
            return Ok(false);
        }
        Ok(!self.engine.store.blob_path(&digest).exists())
    }

    /// Two wrote one file: what the command wrote takes the place, as the later of the two would natively, and theirs is kept.
    pub(super) fn set_aside(&mut self, path: &[u8], relative: &[u8]) {
        self.out.deeds.push(Deed::SetAside { path: relative.to_vec() });
        let shown = self.shown(path);
        let aside = (1..).map(|number| aside_name(relative, number));
        let workspace = self.engine.workspace();
        let ground = self.tree.ground();
        let free = |name: &Vec<u8>| !matches!(ground.look(&join(workspace, name)), Ok(Some(_)));
        let aside = aside.take(ASIDE_TOLD_MAX).find(free).unwrap_or_default();
        let aside = String::from_utf8_lossy(&aside).into_owned();
        let told = format!("{shown} was changed by somebody else while the command ran: their file is kept as {aside}");
        self.out.doubts.insert(0, told);
    }

    /// Owners are published and not recorded: a result that depends on them is not repeated.
    pub(super) fn check_owner(&mut self, path: &[u8], change: &Change, before: Option<Kind>) -> io::Result<()> {
        let (Change::File { attr, .. } | Change::Dir { attr } | Change::Link { attr, .. }) = change else {
            return Ok(());
        };
        let there = if before.is_some() { self.tree.attr(path)? } else { None };
        let own = identity::effective_ids();
        let expected = match there {
            Some(there) => attr.uid == there.uid && attr.gid == there.gid,
            None => attr.uid == own.0 && (attr.gid == own.1 || attr.gid == self.group_above(path)?),
        };
        if !expected {
            self.out.doubts.push(format!("the command changed the owner or group of {}", self.shown(path)));
        }
        Ok(())
    }

    /// The group of the nearest directory above that was there before: files may get theirs from it.
    fn group_above(&mut self, path: &[u8]) -> io::Result<u32> {
        let mut at = path;
        while let Some(slash) = at.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0) {
            at = &at[..slash];
            if let Some(attr) = self.tree.attr(at)? {
                return Ok(attr.gid);
            }
        }
        Ok(identity::effective_ids().1)
    }

    /// Stores a changed file. `None` if nothing but its times changed. `stood`: the view found something in this very place.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        relative: &[u8],
        source: Source,
        attr: &Attr,
        stood: bool,
    ) -> anyhow::Result<Option<Output>> {
        // Only what the view found in this very place: with links on the way the path may lead elsewhere now.
        let beneath = if stood { self.tree.attr(path)?.filter(|beneath| beneath.kind == Kind::File) } else { None };
        let stored = match &source {
            Source::Staged(staged) => self.adopt_staged(*staged),
            Source::Beneath(from) if from == path && beneath.is_some_and(|beneath| beneath.mode == attr.mode) => {
                if let Some(beneath) = beneath.filter(|beneath| beneath.dev == VIRTUAL) {
                    // A view gets its new time by being shown anew: setting it would make it a real file.
                    let bytes = Bytes::Blob { digest: self.tree.digest(path, &beneath)?, size: beneath.size };
                    let (path, owner) = (relative.to_vec(), owner(attr));
                    self.out.deeds.push(Deed::File { path, bytes, mode: attr.mode, mtime: attr.mtime, owner });
                } else if beneath.is_some_and(|beneath| (beneath.uid, beneath.gid) != (attr.uid, attr.gid)) {
                    let (path, owner) = (relative.to_vec(), owner(attr));
                    self.out.deeds.push(Deed::Attributes { path, mode: Some(attr.mode), mtime: attr.mtime, owner });
                } else {
                    self.out.deeds.push(Deed::Times { path: relative.to_vec(), mtime: attr.mtime });
                }
                return Ok(None);
            }
            Source::Beneath(from) => {
                self.ensure_seen(from)?;
                self.tree.ground().open(from).map_err(anyhow::Error::from).and_then(|file| self.adopt_copy(file.into()))
            }
        };
        let (digest, size) = match stored {
            Ok(stored) => stored,
            Err(error) => {
                // The store failed, the command did not: its file reaches the workspace all the same.
                self.out.doubts.push(format!("{} cannot be stored: {error:#}", self.shown(path)));
                let bytes = match source {
                    Source::Staged(staged) => Bytes::At(self.run.backing.staged_path(staged)?),
                    Source::Beneath(from) => Bytes::At(os(&from).to_owned()),
                };
                let path = relative.to_vec();
                self.out.deeds.push(Deed::File { path, bytes, mode: attr.mode, mtime: attr.mtime, owner: owner(attr) });
                return Ok(None);
            }
        };
        let same_bytes = match &beneath {
            Some(beneath) => beneath.size == size && self.tree.digest(path, beneath).is_ok_and(|old| old == digest),
            None => false,
        };
        self.out.deeds.push(match beneath {
            Some(beneath) if same_bytes && beneath.dev != VIRTUAL => {
                let mode = (beneath.mode != attr.mode).then_some(attr.mode);
                let owner = owner(attr).filter(|owner| *owner != (beneath.uid, beneath.gid));
                Deed::Attributes { path: relative.to_vec(), mode, mtime: attr.mtime, owner }
            }
            _ => {
                let bytes = Bytes::Blob { digest, size };
                Deed::File { path: relative.to_vec(), bytes, mode: attr.mode, mtime: attr.mtime, owner: owner(attr) }
            }
        });
        Ok(Some(Output::File { digest, size, mode: attr.mode }))
    }

    /// Makes blobs of all staged files at once, on several threads. What fails is tried again alone, and told then.
    pub(super) fn adopt_all(&mut self, changes: &[Changed]) {
        let keep = self.keeps();
        if self.run.live || self.engine.unheld {
            return;
        }
        let mut staged: Vec<StagedId> = changes
            .iter()
            .filter_map(|changed| match changed.change {
                Change::File { source: Source::Staged(staged), .. } => Some(staged),
                _ => None,
            })
            .collect();
        staged.sort_unstable();
        staged.dedup();
        let (workspace, home) = (self.engine.workspace().to_vec(), self.home());
        let needles: Vec<&[u8]> = [workspace.as_slice()].into_iter().chain(home.as_deref()).collect();
        let (store, backing) = (self.engine.store, self.run.backing);
        let adopted = in_parallel(&staged, |staged| {
            let path = backing.staged_path(*staged)?;
            adopt(store, &path, &needles, keep)
        });
        for (staged, adopted) in staged.into_iter().zip(adopted) {
            if let Ok(adopted) = adopted {
                let stored = self.adopted(adopted);
                self.adopted.insert(staged, stored);
            }
        }
    }

    fn adopt_staged(&mut self, staged: StagedId) -> anyhow::Result<(Digest, u64)> {
        if let Some(known) = self.adopted.get(&staged) {
            return Ok(*known);
        }
        let stored = if self.run.live {
            // A blob must never change again, and whoever still runs may hold the staged file open.
            self.adopt_copy(self.run.backing.open_staged(staged)?)?
        } else {
            self.adopt_one(&self.run.backing.staged_path(staged)?)?
        };
        self.adopted.insert(staged, stored);
        Ok(stored)
    }

    fn adopt_one(&mut self, staged: &Path) -> anyhow::Result<(Digest, u64)> {
        anyhow::ensure!(!self.engine.unheld, "the cache is being pruned, and that does not let go");
        let (workspace, home) = (self.engine.workspace().to_vec(), self.home());
        let needles: Vec<&[u8]> = [workspace.as_slice()].into_iter().chain(home.as_deref()).collect();
        let adopted = adopt(self.engine.store, staged, &needles, self.keeps())?;
        Ok(self.adopted(adopted))
    }

    fn adopted(&mut self, adopted: Adopted) -> (Digest, u64) {
        let Adopted { hashed, size, blob } = adopted;
        self.out.bound_workspace |= hashed.found[0];
        self.out.bound_home |= hashed.found.get(1).copied().unwrap_or(false);
        if let Some(attr) = blob {
            self.tree.learn(&attr, hashed.digest);
        }
        (hashed.digest, size)
    }

    /// Makes a blob of a copy of a file.
    fn adopt_copy(&mut self, source: RealFile) -> anyhow::Result<(Digest, u64)> {
        let (staged, copy) = self.run.backing.stage()?;
        copy.clone_all(&source)?;
        drop(copy);
        self.adopt_one(&self.run.backing.staged_path(staged)?)
    }

    /// Makes sure that the store has what an untouched output of an earlier run holds: pruning may have taken it.
    pub(super) fn store_again(&mut self, path: &[u8], digest: &Digest) -> anyhow::Result<()> {
        if self.engine.store.blob_path(digest).exists() {
            return Ok(());
        }
        let file = self.tree.ground().open(path)?;
        let (stored, _) = self.adopt_copy(file.into())?;
        anyhow::ensure!(stored == *digest, "it changed while the command ran");
        Ok(())
    }

    /// Whether what the command left is to be stored at all.
    fn keeps(&self) -> bool {
        !self.engine.task.only_asked
    }

    fn home(&self) -> Option<Vec<u8>> {
        self.engine.task.home.as_ref().map(|home| home.as_os_str().as_encoded_bytes().to_vec())
    }

    pub(super) fn search(&mut self, bytes: &[u8]) {
        let finds = |needle: &[u8]| memchr::memmem::find(bytes, needle).is_some();
        self.out.bound_workspace |= finds(self.engine.workspace());
        self.out.bound_home |= self.home().is_some_and(|home| finds(&home));
    }
}

/// A staged file that is a blob by now.
struct Adopted {
    hashed: Hashed,
    size: u64,
    blob: Option<Attr>,
}

/// Makes a blob of a staged file: hash and rename. Or, without `keep`, only tells which it would be.
fn adopt(store: &Store, staged: &Path, needles: &[&[u8]], keep: bool) -> anyhow::Result<Adopted> {
    gate(Place::Store, Step::Open)?;
    let mut file = File::open(staged)?;
    let size = file.metadata()?.len();
    let hashed = hash_sized(&mut file, usize::try_from(size).unwrap_or(usize::MAX), needles)?;
    if !keep {
        return Ok(Adopted { hashed, size, blob: None });
    }
    store.adopt(staged, &hashed.digest)?;
    let blob = look(store.blob_path(&hashed.digest).as_os_str().as_encoded_bytes())?;
    Ok(Adopted { hashed, size, blob })
}

//! Layers: what mounted trees show besides the real files, as logs of steps.
//!
//! ```text
//! layers/<digest of the mount root's path>/root   the path, raw bytes
//! layers/<…>/log                                  records of steps (see `encoding`), appended to, now and then rewritten
//! layers/<…>/lock                                 held (flock) by whoever may append; never removed
//! ```
//! Invariants: a record is one write, whole or absent after a crash; a log is replaced by rename, so that a reader, who takes
//! no lock, sees the old one or the new one. Steps are believed as far as the checks hold and not beyond: after damage less is
//! shown, never something else.
//!
//! Lock discipline: the lock is never waited for, so that it may be taken under any other.

pub(crate) mod encoding;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::blob::unique_name;
use crate::codec::PATH_BYTES_MAX;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::Output;
use crate::{Store, disk, format};

/// How many steps a rewritten log has per record, so that damage to one costs few.
const REWRITTEN_STEPS: usize = 256;

/// One change of a layer. Paths are relative to the mount's root; times are nanoseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of a pack appears below a directory, each path in place of whatever virtual thing stood there (directories merge).
    Attach {
        /// The directory; empty for the root.
        at: Vec<u8>,
        /// The pack.
        pack: Digest,
        /// The time of an entry is `first_ns + step_ns * rank`.
        first_ns: i64,
        /// How far apart the times of two ranks are.
        step_ns: i64,
    },
    /// One entry appears.
    Put {
        /// Where.
        path: Vec<u8>,
        /// What; never [`Output::Removed`].
        output: Output,
        /// Its time.
        mtime_ns: i64,
    },
    /// An entry and all below it go.
    Remove {
        /// Which; the empty path is everything.
        path: Vec<u8>,
    },
    /// An entry and all below it move to a path where nothing virtual is.
    Move {
        /// From here.
        from: Vec<u8>,
        /// To there.
        to: Vec<u8>,
    },
}

/// A layer's log, open for changing it: there is one at a time, in all processes.
#[derive(Debug)]
pub struct LayerLog {
    store: PathBuf,
    dir: PathBuf,
    layer: Digest,
    file: File,
    records: u64,
    steps: u64,
    bytes: u64,
    last_check: Digest,
    /// Part of a record that could not be written may stand at the end.
    torn: bool,
    notice: Option<String>,
    // Held, not read: closing it releases the lock.
    _lock: File,
}

impl Store {
    /// Opens the layer of the tree mounted at `root` (its absolute path) for changing it, making it when needed; also gives its
    /// steps in order. [`StoreError::LayerInUse`] if another process, or another handle of this one, has it. A record that was
    /// never finished is cut off. Damage, and all that follows it, is set aside, which [`LayerLog::notice`] says.
    pub fn open_layer(&self, root: &[u8]) -> Result<(LayerLog, Vec<Step>), StoreError> {
        let layer = Digest::of(root);
        let dir = self.layer_dir(&layer);
        match disk::make_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(StoreError::NoOwnDirectory { path: dir });
            }
            made => made.map_err(StoreError::disk("make the directory", &dir))?,
        }
        let lock_path = dir.join("lock");
        let lock = disk::open_lock(&lock_path).map_err(StoreError::disk("open", &lock_path))?;
        if !disk::try_lock(&lock, true).map_err(StoreError::disk("lock", &lock_path))? {
            return Err(StoreError::LayerInUse { root: OsStr::from_bytes(root).into() });
        }
        let root_path = dir.join("root");
        if read_root(&dir)?.as_deref() != Some(root) {
            replace(self.dir(), &root_path, root).map_err(StoreError::disk("write", &root_path))?;
        }

        let path = self.layer_log(&layer);
        let mut file = disk::open_append(&path).map_err(StoreError::disk("open", &path))?;
        let bytes = disk::read(&mut file, u64::MAX).map_err(StoreError::disk("read", &path))?;
        let log = encoding::read_log(&bytes, &layer);
        let notice = match &bytes[log.length..] {
            damage if log.damaged => Some(self.set_aside(&layer, root, damage)?),
            _ => None,
        };
        let mut opened = LayerLog {
            store: self.dir().to_owned(),
            dir,
            layer,
            file,
            records: log.records,
            steps: log.steps.len() as u64,
            bytes: log.length as u64,
            last_check: log.last_check,
            torn: log.length < bytes.len(),
            notice,
            _lock: lock,
        };
        opened.cut_torn_end()?;
        Ok((opened, log.steps))
    }

    /// The steps of the layer of `root` as they are now, none if there is no layer. Takes no lock: a record that is being
    /// appended, and what follows damage, is left out.
    pub fn read_layer(&self, root: &[u8]) -> Result<Vec<Step>, StoreError> {
        self.steps_of(&Digest::of(root))
    }

    /// The roots of all layers that have a step.
    pub fn layer_roots(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut roots = Vec::new();
        for layer in self.layers()? {
            if !self.steps_of(&layer)?.is_empty() {
                // One whose root was lost has it again as soon as it is opened.
                roots.extend(read_root(&self.layer_dir(&layer))?.filter(|root| Digest::of(root) == layer));
            }
        }
        Ok(roots)
    }

    /// Every blob that a layer shows or may show again: packs, what is in them, single files. Whoever removes blobs keeps these,
    /// and also young ones: a record that is being appended at this moment may be missed.
    pub fn pinned(&self) -> Result<HashSet<Digest>, StoreError> {
        let mut pinned = HashSet::new();
        for layer in self.layers()? {
            self.pin(&layer, &mut pinned)?;
        }
        Ok(pinned)
    }

    fn pin(&self, layer: &Digest, pinned: &mut HashSet<Digest>) -> Result<(), StoreError> {
        for step in self.steps_of(layer)? {
            match step {
                // A pack may be attached many times.
                Step::Attach { pack, .. } if pinned.insert(pack) => match self.pack(&pack) {
                    Ok(pack) => pinned.extend(pack.entries.iter().filter_map(|entry| blob(&entry.output))),
                    // Nobody can show what it named.
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                },
                Step::Put { output, .. } => pinned.extend(blob(&output)),
                Step::Attach { .. } | Step::Remove { .. } | Step::Move { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether the log of a layer holds what no writer left there.
    pub(crate) fn is_layer_damaged(&self, layer: &Digest) -> Result<bool, StoreError> {
        let bytes = read_if_there(&self.layer_log(layer), u64::MAX)?.unwrap_or_default();
        Ok(encoding::read_log(&bytes, layer).damaged)
    }

    /// The path of the tree that a layer belongs to; its digest where that is lost.
    pub(crate) fn layer_name(&self, layer: &Digest) -> Result<String, StoreError> {
        let root = read_root(&self.layer_dir(layer))?.filter(|root| Digest::of(root) == *layer);
        Ok(root.map_or_else(|| layer.to_string(), |root| String::from_utf8_lossy(&root).into_owned()))
    }

    /// Whether a layer attaches a pack that cannot be read.
    pub fn has_lost_packs(&self) -> Result<bool, StoreError> {
        for layer in self.layers()? {
            if self.lost_packs(&layer)? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many packs a layer attaches that cannot be read.
    pub(crate) fn lost_packs(&self, layer: &Digest) -> Result<usize, StoreError> {
        let mut lost = HashSet::new();
        for step in self.steps_of(layer)? {
            let Step::Attach { pack, .. } = step else { continue };
            match self.pack(&pack) {
                Ok(_) => {}
                Err(error) if error.is_damage() => drop(lost.insert(pack)),
                Err(error) => return Err(error),
            }
        }
        Ok(lost.len())
    }

    pub(crate) fn layer_dir(&self, layer: &Digest) -> PathBuf {
        self.dir().join(format::LAYERS).join(layer.to_string())
    }

    pub(crate) fn layer_log(&self, layer: &Digest) -> PathBuf {
        self.layer_dir(layer).join("log")
    }

    /// All layers; names that are none are somebody else's.
    pub(crate) fn layers(&self) -> Result<Vec<Digest>, StoreError> {
        let shelf = self.dir().join(format::LAYERS);
        let paths = disk::list(&shelf).map_err(StoreError::disk("list", &shelf))?;
        Ok(paths.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }

    fn steps_of(&self, layer: &Digest) -> Result<Vec<Step>, StoreError> {
        let bytes = read_if_there(&self.layer_log(layer), u64::MAX)?.unwrap_or_default();
        Ok(encoding::read_log(&bytes, layer).steps)
    }

    /// Copies the damaged end of a log to quarantine; says so for people.
    fn set_aside(&self, layer: &Digest, root: &[u8], damage: &[u8]) -> Result<String, StoreError> {
        let aside = self.dir().join(format::QUARANTINE).join(unique_name(&format!("layer-{layer}")));
        let copied = disk::create_new(&aside).and_then(|mut file| {
            disk::write(&mut file, damage)?;
            disk::sync(&file)
        });
        if copied.is_err() {
            let _ = disk::unlink(&aside);
        }
        copied.map_err(StoreError::disk("set a damaged part of a layer aside as", &aside))?;
        Ok(format!(
            "some of what {} showed is lost: its list was damaged (the rest of it is in {}); run the commands that made it again",
            String::from_utf8_lossy(root),
            aside.display()
        ))
    }
}

impl LayerLog {
    /// Appends steps as one record: all of them or none, also after a crash, and also when this fails (then the log is as
    /// before). It does not wait for the disk: see [`Store::sync`].
    pub fn append(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        if steps.is_empty() {
            return Ok(());
        }
        let (record, check) = encoding::write_record(&self.last_check, steps).map_err(unstorable)?;
        self.cut_torn_end()?;
        if let Err(error) = disk::write(&mut self.file, &record) {
            self.torn = true;
            // If that fails as well, readers leave the torn end out, and the next call tries again.
            let _ = self.cut_torn_end();
            return Err(StoreError::disk("append to", self.path())(error));
        }
        self.records += 1;
        self.steps += steps.len() as u64;
        self.bytes += record.len() as u64;
        self.last_check = check;
        Ok(())
    }

    /// Replaces the log by one that holds just `steps`, durably; when this fails, it holds the old steps or the new ones. What
    /// `steps` names should be durable before ([`Store::sync`]).
    pub fn rewrite(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        let (mut bytes, mut records, mut last_check) = (Vec::new(), 0, self.layer);
        for some in steps.chunks(REWRITTEN_STEPS) {
            let (record, check) = encoding::write_record(&last_check, some).map_err(unstorable)?;
            bytes.extend_from_slice(&record);
            records += 1;
            last_check = check;
        }
        self.file = replace(&self.store, &self.path(), &bytes).map_err(StoreError::disk("replace", self.path()))?;
        (self.records, self.bytes, self.last_check, self.torn) = (records, bytes.len() as u64, last_check, false);
        self.steps = steps.len() as u64;
        disk::sync_dir(&self.dir).map_err(StoreError::disk("write to disk the names in", &self.dir))
    }

    /// How many records there are.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How many steps are in them.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the user should know about how opening went: one line, or nothing.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    fn path(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn cut_torn_end(&mut self) -> Result<(), StoreError> {
        if self.torn {
            disk::truncate(&self.file, self.bytes).map_err(StoreError::disk("shorten", self.path()))?;
            self.torn = false;
        }
        Ok(())
    }
}

fn unstorable(error: crate::DecodeError) -> StoreError {
    StoreError::Unstorable { detail: format!("the mounted tree cannot show it: {error}") }
}

fn blob(output: &Output) -> Option<Digest> {
    if let Output::File { digest, .. } = output { Some(*digest) } else { None }
}

/// The root that a layer's directory names, if it names any.
pub(crate) fn read_root(dir: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    read_if_there(&dir.join("root"), PATH_BYTES_MAX as u64)
}

fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    match disk::open_read(path).and_then(|mut file| disk::read(&mut file, limit)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::disk("read", path)(error)),
    }
}

/// Gives a file whole new contents: written in staging, where leftovers are swept, and renamed. Gives the file, for appending.
fn replace(store: &Path, path: &Path, bytes: &[u8]) -> io::Result<File> {
    let aside = store.join(format::STAGING).join(unique_name("put"));
    let replaced = disk::open_append(&aside).and_then(|mut file| {
        disk::write(&mut file, bytes)?;
        disk::sync(&file)?;
        disk::rename(&aside, path)?;
        Ok(file)
    });
    if replaced.is_err() {
        let _ = disk::unlink(&aside);
    }
    replaced
}

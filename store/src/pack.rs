//! Packs: lists of things that a layer shows, stored as blobs, so that showing thousands of files costs one short step.
//!
//! ```text
//! pack    = "wP1" entries:count entry*           entries ascend by path
//! entry   = shared:number suffix:string tag …    path = first `shared` bytes of the path before + suffix
//! tag …   = as in a manifest node (f, l, d), then rank:number
//! ```
//! Canonical as traces are: equal packs are one blob. Nothing is below a file or a link; a parent that is no entry is just a
//! way. Unlike other blobs, one that is there already is hashed before it is relied on: no record vouches for a pack.

use crate::codec::{Budget, DecodeError, PATHS_MAX, Reader, Writer};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::{Output, check_list};
use crate::{Store, disk};

const HEADER: &[u8] = b"wP1";

/// The smallest entry: no shared byte, a suffix of one byte, a directory's letter and mode, a rank.
const ENTRY_BYTES_MIN: usize = 6;

/// One thing that a layer shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packed {
    /// Relative to the directory where the pack is attached: names joined by `/`, never empty.
    pub path: Vec<u8>,
    /// What is there; never [`Output::Removed`].
    pub output: Output,
    /// Its place in the order in which things were made: the time it shows follows from it (see [`crate::Step::Attach`]).
    pub rank: u64,
}

/// What one step attaches, sorted by path (byte order of the whole path), each path once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pack {
    /// The things.
    pub entries: Vec<Packed>,
}

impl Pack {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(HEADER);
        out.count(self.entries.len());
        let mut before: &[u8] = b"";
        for entry in &self.entries {
            out.path_after(before, &entry.path);
            out.byte(entry.output.letter());
            entry.output.write(&mut out);
            out.number(entry.rank);
            before = &entry.path;
        }
        out.finish()
    }

    /// Reads canonical bytes back.
    pub fn decode(bytes: &[u8]) -> Result<Pack, DecodeError> {
        let mut input = Reader::new(bytes, HEADER)?;
        let mut budget = Budget::new();
        let mut pack = Pack::default();
        let mut path = Vec::new();
        for index in 0..input.count(ENTRY_BYTES_MIN, PATHS_MAX)? {
            input.next_path(&mut path, index == 0)?;
            budget.spend(path.len())?;
            let letter = input.byte()?;
            let output = Output::read(&mut input, letter)?;
            let rank = input.number()?;
            pack.entries.push(Packed { path: path.clone(), output, rank });
        }
        input.finish()?;
        pack.check()?;
        Ok(pack)
    }

    /// Whether it is what a pack promises; what is not could not be read back.
    fn check(&self) -> Result<(), DecodeError> {
        let mut budget = Budget::new();
        self.entries.iter().try_for_each(|entry| budget.spend(entry.path.len()))?;
        if self.entries.iter().any(|entry| entry.output == Output::Removed) {
            return Err(DecodeError::Kind);
        }
        check_list(self.entries.iter().map(|entry| (entry.path.as_slice(), &entry.output)))
    }
}

impl Store {
    /// Stores a pack; one that is no proper pack is refused ([`StoreError::Unstorable`]). A damaged blob in its place is set
    /// aside and replaced.
    pub fn put_pack(&self, pack: &Pack) -> Result<Digest, StoreError> {
        pack.check()
            .map_err(|error| StoreError::Unstorable { detail: format!("its files cannot be listed: {error}") })?;
        let bytes = pack.encode();
        let digest = Digest::of(&bytes);
        match self.verify_blob(&digest) {
            Ok(()) => return Ok(digest),
            Err(StoreError::MissingBlob { .. }) => {}
            Err(StoreError::DamagedBlob { .. }) => self.quarantine(&digest)?,
            Err(error) => return Err(error),
        }
        self.put(&bytes)
    }

    /// Reads a pack, checked: [`StoreError::MissingBlob`] or [`StoreError::DamagedBlob`] when it cannot be used any more.
    pub fn pack(&self, digest: &Digest) -> Result<Pack, StoreError> {
        Pack::decode(&self.blob_bytes(digest)?)
            .map_err(|error| StoreError::DamagedBlob { digest: *digest, detail: error.to_string() })
    }

    /// Makes everything that was written to the store's file system so far durable. Until then a stop of the machine may cost
    /// the newest blobs and the newest steps of a layer.
    pub fn sync(&self) -> Result<(), StoreError> {
        disk::sync_file_system(self.dir()).map_err(StoreError::disk("write to disk what is in", self.dir()))
    }
}

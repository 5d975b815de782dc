//! What the real tree holds now: each path examined at most once, contents by digest through the persistent digest cache.
//!
//! A cached digest counts only if the file's stamp (device, inode, size, mtime, ctime) is the same and the file had been at rest for
//! [`REST`] when it was hashed: a file that changes again within one tick of its clock keeps its stamp.
//!
//! In the view of an outer task a file has no stamp by which it could be remembered: that of what holds its bytes is asked for ([`outer`]).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use memchr::memmem::Finder;
use wink_fs::attr::{Attr, Kind, Time};
use wink_store::Digest;
use wink_store::{CachedDigest, FileId, FileStamp};
use wink_store::{Names, Store};
use wink_store::{Observation, OpaqueKind, listing_digest};

use super::ground::Ground;
use super::parallel::in_parallel;
use crate::mounted::Mount;
use crate::outer::{self, Node, Outer};
use crate::roots::Roots;

/// File systems stamp files with the time of the last timer tick: at most 10 ms old (`CONFIG_HZ=100`), doubled to be safe.
pub const REST: i64 = 20_000_000;
/// Read size when hashing: large enough for BLAKE3's widest vectors, small enough for the cache.
const CHUNK: usize = 256 * 1024;

/// The device of what only a layer shows.
pub const VIRTUAL: u64 = 0;

/// What a view is taken to hold whose blob is gone: no file of a task is this one.
const LOST: &[u8] = b"wink: the stored file of this view is gone";

/// See the module.
pub struct Tree<'s> {
    store: &'s Arc<Store>,
    mount: Option<&'s Mount>,
    ground: Ground<'s>,
    attrs: HashMap<Vec<u8>, Option<Attr>>,
    digests: HashMap<Vec<u8>, Digest>,
    /// What the cache knows of files that are about to be asked for.
    expected: HashMap<FileId, CachedDigest>,
    /// What stands behind files of outer views, by device and inode number.
    nodes: HashMap<(u64, u64), Option<Node>>,
    learned: Vec<(FileStamp, Digest, i64)>,
    /// The newest modification time among inputs that were looked at elsewhere.
    newest_elsewhere: Option<Time>,
}

impl<'s> Tree<'s> {
    /// Nothing examined yet. `mount` is what the workspace lies in.
    pub fn new(store: &'s Arc<Store>, mount: Option<&'s Mount>) -> anyhow::Result<Tree<'s>> {
        outer::write_back().context("the outer task's view does not answer")?;
        let ground = Ground::new(store, mount)?;
        Ok(Tree {
            store,
            mount,
            ground,
            attrs: HashMap::new(),
            digests: HashMap::new(),
            expected: HashMap::new(),
            nodes: HashMap::new(),
            learned: Vec::new(),
            newest_elsewhere: None,
        })
    }

    /// Where everything is read.
    pub fn ground(&mut self) -> &mut Ground<'s> {
        &mut self.ground
    }

    /// Attributes of a path, a symbolic link's own; `None` if nothing is there.
    pub fn attr(&mut self, path: &[u8]) -> io::Result<Option<Attr>> {
        if let Some(known) = self.attrs.get(path) {
            return Ok(*known);
        }
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&path[..0], |slash| &path[..slash]);
        // Below what is not there, nothing is: a thousand names in a directory that is gone are one question.
        let attr = match self.attrs.get(parent) {
            Some(None) => None,
            _ => self.ground.look(path)?,
        };
        if attr.is_none() && !parent.is_empty() && !self.attrs.contains_key(parent) {
            self.attr(parent)?;
        }
        self.attrs.insert(path.to_vec(), attr);
        Ok(attr)
    }

    /// Asks the cache for the digests of files at once that are about to be asked for one by one.
    pub fn expect(&mut self, paths: impl Iterator<Item = Vec<u8>>) {
        let mut attrs = Vec::new();
        for path in paths {
            if let Ok(Some(attr)) = self.attr(&path)
                && matches!(attr.kind, Kind::File | Kind::Link)
                && attr.dev != VIRTUAL
                && !self.digests.contains_key(&path)
            {
                attrs.push(attr);
            }
        }
        self.ask_outer(&attrs);
        attrs.retain(|attr| attr.kind == Kind::File);
        let files: Vec<FileId> = attrs.iter().filter_map(|attr| Some(self.known_by(attr).stamp()?.id())).collect();
        let known = self.store.digests_get(&files).unwrap_or_default();
        self.expected.extend(known.into_iter().flatten().map(|known| (known.stamp.id(), known)));
    }

    /// The digest of a regular file.
    pub fn digest(&mut self, path: &[u8], attr: &Attr) -> io::Result<Digest> {
        if let Some(known) = self.digests.get(path) {
            return Ok(*known);
        }
        let origin = if attr.dev == VIRTUAL { self.ground.origin(path)? } else { self.known_by(attr).blob() };
        if let Some(origin) = origin {
            // What a view shows is what the blob holds: its own stamp tells whether that is still what its name says.
            let blob = self.store.blob_path(&origin);
            let blob = blob.as_os_str().as_bytes();
            let digest = match look(blob)? {
                Some(attr) if attr.kind == Kind::File => self.digest(blob, &attr)?,
                // It cannot be read any more: it holds nothing that anybody made.
                _ => Digest::of(LOST),
            };
            self.digests.insert(path.to_vec(), digest);
            return Ok(digest);
        }
        let stamp = self.known_by(attr).stamp();
        let cached = stamp.and_then(|stamp| {
            self.expected.get(&stamp.id()).copied().or_else(|| {
                let found = self.store.digests_get(&[stamp.id()]);
                found.ok().and_then(|mut found| found.pop().flatten())
            })
        });
        let digest = match (cached, stamp) {
            (Some(cached), Some(stamp)) if is_known(&cached, &stamp) => cached.digest,
            _ => {
                let began = Time::now().0;
                let size = usize::try_from(attr.size).unwrap_or(usize::MAX);
                let digest = hash_sized(&mut self.ground.open(path)?, size, &[])?.digest;
                if self.ground.look(path)?.is_none_or(|now| self::stamp(&now) != self::stamp(attr)) {
                    // These may be the bytes of before, of after, or some of both.
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it changed while it was read"));
                }
                self.learned.extend(stamp.map(|stamp| (stamp, digest, began)));
                digest
            }
        };
        self.digests.insert(path.to_vec(), digest);
        Ok(digest)
    }

    /// Asks outer tasks at once for what stands behind files of their views.
    fn ask_outer(&mut self, attrs: &[Attr]) {
        let mut asked: Vec<(&'static Outer, Vec<u64>)> = Vec::new();
        for attr in attrs {
            let Some(outer) = outer::of(attr.dev) else { continue };
            if self.nodes.contains_key(&(attr.dev, attr.ino)) {
                continue;
            }
            match asked.iter_mut().find(|(other, _)| other.dev() == outer.dev()) {
                Some((_, ids)) => ids.push(attr.ino),
                None => asked.push((outer, vec![attr.ino])),
            }
        }
        for (outer, ids) in asked {
            // Nothing is known of what could not be asked for: it is read, and no run that saw it is recorded.
            let nodes = outer.nodes(&ids).unwrap_or_else(|_| vec![None; ids.len()]);
            self.nodes.extend(ids.into_iter().map(|ino| (outer.dev(), ino)).zip(nodes));
        }
    }

    /// What stands behind a file of an outer view, if that still shows it so and nobody outside has changed it.
    fn node(&mut self, attr: &Attr) -> Option<Node> {
        self.ask_outer(&[*attr]);
        let node = self.nodes.get(&(attr.dev, attr.ino)).copied().flatten()?;
        (node.steady && node.shown == (attr.size, attr.mtime.0, attr.ctime.0)).then_some(node)
    }

    /// By what the bytes of a file may be remembered.
    fn known_by(&mut self, attr: &Attr) -> outer::Bytes {
        match outer::of(attr.dev) {
            None => outer::Bytes::at(stamp(attr)),
            Some(_) => self.node(attr).map_or(outer::Bytes::Unknown, |node| node.bytes),
        }
    }

    /// Whether a file or link is, behind the view that shows it, what it was when that view first saw it. True where there is no view.
    pub fn is_steady(&mut self, attr: &Attr) -> bool {
        outer::of(attr.dev).is_none() || self.node(attr).is_some()
    }

    /// Digest and size of a regular file, if they are known without reading it.
    pub fn known(&mut self, path: &[u8]) -> Option<(Digest, u64)> {
        let attr = self.attr(path).ok()?.filter(|attr| attr.kind == Kind::File)?;
        if attr.dev == VIRTUAL {
            return Some((self.ground.origin(path).ok()??, attr.size));
        }
        let stamp = stamp(&attr);
        let cached = self.expected.get(&stamp.id()).filter(|cached| is_known(cached, &stamp))?;
        Some((cached.digest, attr.size))
    }

    /// Hashes those of the files at once, on several threads, of which neither the cache ([`Tree::expect`]) nor an outer task knows the
    /// digest. What fails is met again when it is asked for.
    pub fn hash_ahead<'p>(&mut self, paths: impl Iterator<Item = &'p [u8]>) {
        let mut unknown = Vec::new();
        for path in paths {
            if let Ok(Some(attr)) = self.attr(path)
                && attr.kind == Kind::File
                && attr.dev != VIRTUAL
                && outer::of(attr.dev).is_none()
                && self.ground.is_plain(path)
                && !self.digests.contains_key(path)
            {
                let stamp = stamp(&attr);
                if !self.expected.get(&stamp.id()).is_some_and(|cached| is_known(cached, &stamp)) {
                    unknown.push((path, stamp));
                }
            }
        }
        let hashed = in_parallel(&unknown, |(path, before)| -> io::Result<Option<(Digest, i64)>> {
            let began = Time::now().0;
            let size = usize::try_from(before.size).unwrap_or(usize::MAX);
            let digest = hash_sized(&mut File::open(os(path))?, size, &[])?.digest;
            // Else these may be the bytes of before, of after, or some of both.
            Ok(look(path)?.is_some_and(|now| stamp(&now) == *before).then_some((digest, began)))
        });
        for ((path, stamp), hashed) in unknown.into_iter().zip(hashed) {
            if let Ok(Some((digest, began))) = hashed {
                self.digests.insert(path.to_vec(), digest);
                self.learned.push((stamp, digest, began));
            }
        }
    }

    /// Remembers the digest of a blob that wink itself has just made: nobody writes to it any more, so it is at rest at once.
    pub fn learn(&mut self, attr: &Attr, digest: Digest) {
        self.learned.push((stamp(attr), digest, Time::now().0.max(attr.ctime.0 + REST + 1)));
    }

    /// The fact about a path, with the names in `hides` left out of a listing.
    pub fn fact(
        &mut self,
        path: &[u8],
        listing: bool,
        roots: &Roots,
        hides: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Observation> {
        let Some(attr) = self.attr(path)? else { return Ok(Observation::Absent) };
        Ok(match attr.kind {
            Kind::Dir if listing => {
                let mut names = self.ground.list(path)?;
                names.retain(|(name, _)| !hides(&wink_fs::zone::join(path, name)));
                Observation::Listing { digest: digest_of_names(names), mode: dir_mode(path, &attr, roots) }
            }
            Kind::Dir => Observation::Dir { mode: dir_mode(path, &attr, roots) },
            Kind::File => match self.digest(path, &attr) {
                Ok(digest) => Observation::File { digest, mode: attr.mode },
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Observation::Opaque { kind: OpaqueKind::Unreadable, mode: attr.mode }
                }
                Err(error) => return Err(error),
            },
            Kind::Link => Observation::Link { target: roots.substitute(&self.ground.read_link(path)?) },
            Kind::Pipe => Observation::Opaque { kind: OpaqueKind::Pipe, mode: attr.mode },
            Kind::Socket => Observation::Opaque { kind: OpaqueKind::Socket, mode: attr.mode },
            Kind::CharDevice | Kind::BlockDevice => Observation::Opaque { kind: OpaqueKind::Device, mode: attr.mode },
        })
    }

    /// The newest modification time among the examined files that `counts`.
    pub fn newest(&self, counts: impl Fn(&[u8]) -> bool) -> Option<Time> {
        let files = self.attrs.iter().filter_map(|(path, attr)| Some((path, attr.as_ref()?)));
        let here = files.filter(|(path, attr)| attr.kind == Kind::File && counts(path)).map(|(_, attr)| attr.mtime);
        here.chain(self.newest_elsewhere).max()
    }

    /// Counts a file among those that [`Tree::newest`] tells of, though it was not asked for here.
    pub fn examined(&mut self, mtime: Time) {
        self.newest_elsewhere = self.newest_elsewhere.max(Some(mtime));
    }

    /// Forgets everything that was examined, but not what was learned: for looking again after a command ran.
    pub fn start_over(&mut self) -> anyhow::Result<()> {
        self.attrs.clear();
        self.digests.clear();
        self.expected.clear();
        self.newest_elsewhere = None;
        self.nodes.clear();
        outer::write_back().context("the outer task's view does not answer")?;
        self.ground = Ground::new(self.store, self.mount)?;
        Ok(())
    }

    /// Keeps the digests computed so far for later runs. Losing them costs time, nothing else.
    pub fn save(&mut self) {
        if !self.learned.is_empty() {
            let _ = self.store.digests_put(&self.learned);
            self.learned.clear();
        }
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        self.save();
    }
}

/// A path as the standard library wants it.
pub fn os(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Whether what the cache knows is of just this state of the file.
pub fn is_known(cached: &CachedDigest, stamp: &FileStamp) -> bool {
    cached.stamp == *stamp && cached.hashed_at_ns - stamp.ctime_ns > REST
}

/// What tells one state of a file from another.
pub fn stamp(attr: &Attr) -> FileStamp {
    FileStamp { dev: attr.dev, ino: attr.ino, size: attr.size, mtime_ns: attr.mtime.0, ctime_ns: attr.ctime.0 }
}

/// Attributes of a path now.
pub fn look(path: &[u8]) -> io::Result<Option<Attr>> {
    match std::fs::symlink_metadata(os(path)) {
        Ok(data) => Ok(Some(attr_of(&data))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        // The command could not look there either: for it nothing was there that it could have used. It is told apart from
        // "absent" where it matters: a directory on the way is a fact of its own.
        Err(error) => Err(error),
    }
}

fn attr_of(data: &std::fs::Metadata) -> Attr {
    let time = |seconds: i64, nanos: i64| Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
    Attr {
        kind: kind_of(data.file_type()),
        dev: data.dev(),
        ino: data.ino(),
        size: data.size(),
        blocks: data.blocks(),
        mode: data.mode() & 0o7777,
        nlink: data.nlink() as u32,
        uid: data.uid(),
        gid: data.gid(),
        rdev: data.rdev(),
        atime: time(data.atime(), data.atime_nsec()),
        mtime: time(data.mtime(), data.mtime_nsec()),
        ctime: time(data.ctime(), data.ctime_nsec()),
    }
}

fn kind_of(kind: std::fs::FileType) -> Kind {
    if kind.is_dir() {
        Kind::Dir
    } else if kind.is_symlink() {
        Kind::Link
    } else if kind.is_fifo() {
        Kind::Pipe
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        Kind::CharDevice
    } else if kind.is_block_device() {
        Kind::BlockDevice
    } else {
        Kind::File
    }
}

/// Names and kinds of a directory, unsorted.
pub fn list(path: &[u8]) -> io::Result<Vec<(Vec<u8>, Kind)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(os(path))? {
        let entry = entry?;
        names.push((entry.file_name().as_bytes().to_vec(), kind_of(entry.file_type()?)));
    }
    Ok(names)
}

/// The permission bits of a directory as a fact: of the places on the way to the workspace and the home only the owner's.
pub fn dir_mode(path: &[u8], attr: &Attr, roots: &Roots) -> u32 {
    if roots.is_on_the_way(path) { attr.mode & 0o700 } else { attr.mode }
}

/// The digest of a listing.
pub fn digest_of_names(names: Vec<(Vec<u8>, Kind)>) -> Digest {
    listing_digest(&mut letters(names))
}

/// Names of a listing with the letters that stand for their kinds.
pub fn letters(names: Vec<(Vec<u8>, Kind)>) -> Names {
    let letter = |kind| match kind {
        Kind::File => b'f',
        Kind::Dir => b'd',
        Kind::Link => b'l',
        _ => b'o',
    };
    names.into_iter().map(|(name, kind)| (name, letter(kind))).collect()
}

/// What hashing a file told.
pub struct Hashed {
    /// The digest of its bytes.
    pub digest: Digest,
    /// For each needle, whether it occurs in the bytes.
    pub found: Vec<bool>,
}

/// Hashes all of `file` and looks for `needles` in the same pass.
pub fn hash(file: &mut impl Read, needles: &[&[u8]]) -> io::Result<Hashed> {
    hash_sized(file, CHUNK, needles)
}

/// As [`hash`], for a file that is probably of this size: a large buffer costs more than hashing a small file.
pub fn hash_sized(file: &mut impl Read, size: usize, needles: &[&[u8]]) -> io::Result<Hashed> {
    let finders: Vec<Finder<'_>> = needles.iter().map(Finder::new).collect();
    let overlap = needles.iter().map(|needle| needle.len().saturating_sub(1)).max().unwrap_or(0);
    let mut found = vec![false; needles.len()];
    let mut hasher = blake3::Hasher::new();
    // One byte more than the size, so that the first read shows the end.
    let mut buffer = vec![0; size.saturating_add(1).min(CHUNK) + overlap];
    let mut kept = 0;
    loop {
        let count = match file.read(&mut buffer[kept..]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[kept..kept + count]);
        crate::progress::done(0, count as u64);
        let filled = kept + count;
        for (found, finder) in found.iter_mut().zip(&finders) {
            *found = *found || finder.find(&buffer[..filled]).is_some();
        }
        // A needle may lie across two reads: its possible beginning is kept.
        kept = overlap.min(filled);
        buffer.copy_within(filled - kept..filled, 0);
    }
    crate::progress::done(1, 0);
    Ok(Hashed { digest: hasher.finalize().into(), found })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes per read.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn needles_are_found_across_reads() {
        let bytes = b"....../work/clone/src.....";
        for step in 1..bytes.len() {
            for size in [0, 1, bytes.len(), CHUNK] {
                let hashed = hash_sized(&mut Trickle(bytes, step), size, &[b"/work/clone", b"/home/u"]).unwrap();
                assert_eq!(hashed.found, [true, false], "step {step}, size {size}");
                assert_eq!(hashed.digest, Digest::of(bytes), "step {step}, size {size}");
            }
        }
    }
}

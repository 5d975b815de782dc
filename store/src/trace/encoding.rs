//! The stored form of a trace, and the digest of a directory listing.
//!
//! ```text
//! trace   = "wT1" groups:count group*            one group per root that occurs, in the order of `Root`
//! group   = root entries:count entry*            root: 0 | 1 level | 2 | 3
//! entry   = shared:number suffix:string tag      path = first `shared` bytes of the path before + suffix
//! tag     = kind (+ 0x80 when own) payload       a: nothing · d: mode · e, f: digest mode · l: target · o: kind mode
//! mode    = number                               permission bits; of a directory see [`Observation::Dir`]
//! ```
//! Canonical: equal traces have equal bytes. The shared prefix is the longest one, paths ascend, numbers are shortest-form,
//! and the decoder refuses everything else, so that a fingerprint names exactly one trace.

use std::collections::BTreeMap;

use super::{Observation, OpaqueKind, Seen, Trace};
use crate::codec::{Budget, DecodeError, PATHS_MAX, Reader, TARGET_BYTES_MAX, Writer};
use crate::digest::Digest;
use crate::path::{Root, TreePath, is_relative};

const HEADER: &[u8] = b"wT1";
const LISTING_HEADER: &[u8] = b"wL1";
const OWN: u8 = 0x80;

/// The smallest entry: no shared byte, empty suffix, tag.
const ENTRY_BYTES_MIN: usize = 3;

/// The smallest group: a root and a count.
const GROUP_BYTES_MIN: usize = 2;

/// How many groups there can be: every level above plus the three other roots.
const GROUPS_MAX: usize = u16::MAX as usize + 3;

impl Trace {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut groups: Vec<(Root, Vec<(&TreePath, &Seen)>)> = Vec::new();
        for (path, seen) in &self.seen {
            match groups.last_mut() {
                Some((root, entries)) if *root == path.root() => entries.push((path, seen)),
                _ => groups.push((path.root(), vec![(path, seen)])),
            }
        }
        let mut out = Writer::new(HEADER);
        out.count(groups.len());
        for (root, entries) in groups {
            write_root(&mut out, root);
            out.count(entries.len());
            let mut before: &[u8] = b"";
            for (path, seen) in entries {
                let path = path.relative();
                out.path_after(before, path);
                write_seen(&mut out, seen);
                before = path;
            }
        }
        out.finish()
    }

    /// Reads canonical bytes back.
    pub fn decode(bytes: &[u8]) -> Result<Trace, DecodeError> {
        let mut walk = Walk::new(bytes)?;
        let mut seen = Vec::new();
        while let Some((root, path, one)) = walk.next()? {
            seen.push((TreePath::new(root, path).map_err(|_| DecodeError::Path)?, one));
        }
        Ok(Trace { seen: BTreeMap::from_iter(seen) })
    }

    /// The digest of the canonical bytes.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.encode())
    }
}

/// One entry of a trace: root, path below it, what was seen.
pub type Walked<'p> = (Root, &'p [u8], Seen);

/// Reads an encoded trace entry by entry, in canonical order, without building it. What it gave before an error means nothing:
/// only bytes that were read to their end are a trace.
pub struct Walk<'a> {
    input: Reader<'a>,
    budget: Budget,
    groups: usize,
    root: Option<Root>,
    /// How many entries the present group still has.
    entries: usize,
    read: usize,
    first: bool,
    path: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// Begins with the first entry of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Result<Walk<'a>, DecodeError> {
        let mut input = Reader::new(bytes, HEADER)?;
        let groups = input.count(GROUP_BYTES_MIN, GROUPS_MAX)?;
        let (budget, path) = (Budget::new(), Vec::new());
        Ok(Walk { input, budget, groups, root: None, entries: 0, read: 0, first: true, path })
    }

    /// The next entry. `None` once, at the end.
    #[allow(clippy::should_implement_trait, reason = "an entry borrows the path, which an iterator cannot express")]
    pub fn next(&mut self) -> Result<Option<Walked<'_>>, DecodeError> {
        if self.entries == 0 && !self.next_group()? {
            return Ok(None);
        }
        let Some(root) = self.root else { return Ok(None) };
        self.input.next_path(&mut self.path, self.first)?;
        self.budget.spend(self.path.len())?;
        if !is_relative(&self.path) {
            return Err(DecodeError::Path);
        }
        self.first = false;
        self.entries -= 1;
        self.read += 1;
        let seen = read_seen(&mut self.input)?;
        Ok(Some((root, &self.path, seen)))
    }

    /// Whether there is another group; begins it.
    fn next_group(&mut self) -> Result<bool, DecodeError> {
        let Some(left) = self.groups.checked_sub(1) else {
            return if self.input.is_empty() { Ok(false) } else { Err(DecodeError::Trailing) };
        };
        self.groups = left;
        let root = read_root(&mut self.input)?;
        if self.root.is_some_and(|before| before >= root) {
            return Err(DecodeError::Order);
        }
        self.root = Some(root);
        self.entries = self.input.count(ENTRY_BYTES_MIN, PATHS_MAX - self.read)?;
        if self.entries == 0 {
            return Err(DecodeError::Order);
        }
        self.first = true;
        self.path.clear();
        Ok(true)
    }
}

fn write_root(out: &mut Writer, root: Root) {
    match root {
        Root::Workspace => out.byte(0),
        Root::Above(level) => {
            out.byte(1);
            out.number(u64::from(level));
        }
        Root::Home => out.byte(2),
        Root::System => out.byte(3),
    }
}

fn read_root(input: &mut Reader<'_>) -> Result<Root, DecodeError> {
    Ok(match input.byte()? {
        0 => Root::Workspace,
        // Level 0 would be the workspace under a second name.
        1 => match u16::try_from(input.number()?) {
            Ok(level) if level > 0 => Root::Above(level),
            _ => return Err(DecodeError::Number),
        },
        2 => Root::Home,
        3 => Root::System,
        _ => return Err(DecodeError::Kind),
    })
}

fn write_seen(out: &mut Writer, seen: &Seen) {
    let own = if seen.own { OWN } else { 0 };
    match &seen.fact {
        Observation::Absent => out.byte(b'a' | own),
        Observation::Dir { mode } => {
            out.byte(b'd' | own);
            out.number(u64::from(*mode));
        }
        Observation::Listing { digest, mode } => {
            out.byte(b'e' | own);
            out.digest(digest);
            out.number(u64::from(*mode));
        }
        Observation::File { digest, mode } => {
            out.byte(b'f' | own);
            out.digest(digest);
            out.number(u64::from(*mode));
        }
        Observation::Link { target } => {
            out.byte(b'l' | own);
            out.string(target);
        }
        Observation::Opaque { kind, mode } => {
            out.byte(b'o' | own);
            out.byte(match kind {
                OpaqueKind::Unreadable => 0,
                OpaqueKind::Device => 1,
                OpaqueKind::Pipe => 2,
                OpaqueKind::Socket => 3,
            });
            out.number(u64::from(*mode));
        }
    }
}

fn read_seen(input: &mut Reader<'_>) -> Result<Seen, DecodeError> {
    let tag = input.byte()?;
    let fact = match tag & !OWN {
        b'a' => Observation::Absent,
        b'd' => Observation::Dir { mode: input.mode()? },
        b'e' => Observation::Listing { digest: input.digest()?, mode: input.mode()? },
        b'f' => Observation::File { digest: input.digest()?, mode: input.mode()? },
        b'l' => Observation::Link { target: input.string(TARGET_BYTES_MAX)?.to_vec() },
        b'o' => {
            let kind = match input.byte()? {
                0 => OpaqueKind::Unreadable,
                1 => OpaqueKind::Device,
                2 => OpaqueKind::Pipe,
                3 => OpaqueKind::Socket,
                _ => return Err(DecodeError::Kind),
            };
            Observation::Opaque { kind, mode: input.mode()? }
        }
        _ => return Err(DecodeError::Kind),
    };
    Ok(Seen { fact, own: tag & OWN != 0 })
}

/// The letter of a regular file in a listing.
pub const LISTED_FILE: u8 = b'f';
/// The letter of a directory in a listing.
pub const LISTED_DIR: u8 = b'd';
/// The letter of a symbolic link in a listing.
pub const LISTED_LINK: u8 = b'l';
/// The letter of anything else in a listing.
pub const LISTED_OTHER: u8 = b'o';

/// The digest of a directory listing: names with their kind letters, in any order, without `.` and `..`. Sorts `entries`.
pub fn listing_digest<N: AsRef<[u8]>>(entries: &mut [(N, u8)]) -> Digest {
    Digest::of(&encode_listing(entries))
}

/// The bytes whose digest [`listing_digest`] is.
pub(crate) fn encode_listing<N: AsRef<[u8]>>(entries: &mut [(N, u8)]) -> Vec<u8> {
    entries.sort_unstable_by(|(one, one_kind), (two, two_kind)| {
        one.as_ref().cmp(two.as_ref()).then(one_kind.cmp(two_kind))
    });
    let mut out = Writer::new(LISTING_HEADER);
    for (name, kind) in entries {
        out.string(name.as_ref());
        out.byte(*kind);
    }
    out.finish()
}

/// Reads such bytes back.
pub(crate) fn decode_listing(bytes: &[u8]) -> Result<Vec<(Vec<u8>, u8)>, DecodeError> {
    let mut input = Reader::new(bytes, LISTING_HEADER)?;
    let mut names = Vec::new();
    while !input.is_empty() {
        names.push((input.string(bytes.len())?.to_vec(), input.byte()?));
    }
    Ok(names)
}

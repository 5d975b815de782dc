//! The small binary language of traces, manifest nodes, captured output, packs and layers.
//!
//! Numbers are variable-length (seven bits per byte, low bits first, shortest form only), byte strings carry their length.
//! Invariants of the reader: it never panics, never reads past its input, and never reserves more memory than the rest of the
//! input could fill: a count is checked against the bytes that are left before anything is allocated for it.
//! There is one encoding for every value, so that equal values have equal digests; a longer spelling is refused.

use crate::digest::Digest;
use crate::path::is_relative;

/// The longest stored path in bytes. Linux takes 4096 in one call; a walk by descriptors can go deeper, and 64 KiB is far
/// beyond any tree that tools survive.
pub const PATH_BYTES_MAX: usize = 64 * 1024;

/// The longest stored link target: that of a path, since a symbolic prefix may be longer than the one it stands for.
pub const TARGET_BYTES_MAX: usize = PATH_BYTES_MAX;

/// How many bytes of paths one trace or one manifest may expand to. Prefix compression and shared subtrees let a few bytes
/// stand for many; a million paths of 256 bytes fit.
pub const EXPANDED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How many paths one trace or one manifest may hold: ten times the largest monorepo we know of.
pub const PATHS_MAX: usize = 4 * 1024 * 1024;

/// The permission bits that exist.
pub(crate) const MODE_MASK: u32 = 0o7777;

/// Why bytes are not what they should be. Every case means damage or a foreign writer, never a mistake of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Something follows the end.
    #[error("something follows its end")]
    Trailing,
    /// A number in a longer form than needed, or too large for its place.
    #[error("a number is out of range")]
    Number,
    /// It does not begin as this kind of data does, or is of a version that this program does not know.
    #[error("it is of another kind or version")]
    Header,
    /// A letter that stands for nothing.
    #[error("a kind is unknown")]
    Kind,
    /// A path or name that could lead outside its root.
    #[error("a path is not made of plain names")]
    Path,
    /// Paths out of order, or one path twice.
    #[error("paths are out of order or repeated")]
    Order,
    /// Something lies below a path that cannot hold anything.
    #[error("something lies below a path that is no directory")]
    Shape,
    /// More or longer entries than the limits allow.
    #[error("it is larger than the limits allow")]
    TooLarge,
    /// The bytes do not have the digest they are stored under.
    #[error("its bytes do not match its name")]
    Digest,
}

/// Collects an encoding.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts with the bytes that name kind and version.
    pub fn new(header: &[u8]) -> Writer {
        Writer { bytes: header.to_vec() }
    }

    /// One byte as it is.
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// A number.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A length or count.
    pub fn count(&mut self, value: usize) {
        self.number(value as u64);
    }

    /// A byte string with its length.
    pub fn string(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// A byte string that may be missing.
    pub fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.byte(0),
            Some(bytes) => {
                self.byte(1);
                self.string(bytes);
            }
        }
    }

    /// A path of a sorted list, without the bytes that it shares with the path `before` it.
    pub fn path_after(&mut self, before: &[u8], path: &[u8]) {
        let shared = before.iter().zip(path).take_while(|(old, new)| old == new).count();
        self.count(shared);
        self.string(&path[shared..]);
    }

    /// A digest.
    pub fn digest(&mut self, digest: &Digest) {
        self.bytes.extend_from_slice(&digest.0);
    }

    /// The encoding.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads an encoding; see the invariants above.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which must begin with `header`.
    pub fn new(bytes: &'a [u8], header: &[u8]) -> Result<Reader<'a>, DecodeError> {
        bytes.strip_prefix(header).map(|rest| Reader { rest }).ok_or(DecodeError::Header)
    }

    /// Exactly `length` bytes.
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    /// A number in its shortest form.
    pub fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if bits == 0 && shift > 0 { Err(DecodeError::Number) } else { Ok(value) };
            }
        }
        Err(DecodeError::Number)
    }

    /// A length no greater than `limit`.
    pub fn length(&mut self, limit: usize) -> Result<usize, DecodeError> {
        let value = usize::try_from(self.number()?).map_err(|_| DecodeError::TooLarge)?;
        if value > limit { Err(DecodeError::TooLarge) } else { Ok(value) }
    }

    /// How many things follow, each at least `each_min` bytes long: refused when the rest could not hold them.
    pub fn count(&mut self, each_min: usize, limit: usize) -> Result<usize, DecodeError> {
        let count = self.length(limit)?;
        if count > self.rest.len() / each_min.max(1) { Err(DecodeError::Truncated) } else { Ok(count) }
    }

    /// A byte string no longer than `limit`.
    pub fn string(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.length(limit)?;
        self.take(length)
    }

    /// Turns `path` into the path that follows it in a sorted list; only the first one may be empty.
    pub fn next_path(&mut self, path: &mut Vec<u8>, first: bool) -> Result<(), DecodeError> {
        let shared = self.length(path.len())?;
        let suffix = self.string(PATH_BYTES_MAX - shared)?;
        // Ascending, and no byte spelled out that could have been shared: one spelling per list of paths.
        let ascends = match (path.get(shared), suffix.first()) {
            (Some(old), Some(new)) => new > old,
            (None, Some(_)) => true,
            (_, None) => first,
        };
        if !ascends {
            return Err(DecodeError::Order);
        }
        path.truncate(shared);
        path.extend_from_slice(suffix);
        Ok(())
    }

    /// A digest.
    pub fn digest(&mut self) -> Result<Digest, DecodeError> {
        let bytes = self.take(32)?;
        bytes.try_into().map(Digest).map_err(|_| DecodeError::Truncated)
    }

    /// Permission bits.
    pub fn mode(&mut self) -> Result<u32, DecodeError> {
        let mode = u32::try_from(self.number()?).map_err(|_| DecodeError::Number)?;
        if mode & !MODE_MASK != 0 { Err(DecodeError::Number) } else { Ok(mode) }
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything must have been read.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// Checks one name of a directory entry: a relative path of one component.
pub(crate) fn check_name(name: &[u8]) -> Result<(), DecodeError> {
    if !name.is_empty() && is_relative(name) && !name.contains(&b'/') { Ok(()) } else { Err(DecodeError::Path) }
}

/// Counts the bytes that an encoding expands to.
pub(crate) struct Budget {
    left: usize,
}

impl Budget {
    /// The whole allowance.
    pub fn new() -> Budget {
        Budget { left: EXPANDED_BYTES_MAX }
    }

    /// Takes `bytes` from it.
    pub fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(bytes).ok_or(DecodeError::TooLarge)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut writer = Writer::new(b"");
            writer.number(value);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes, b"").unwrap();
            assert_eq!(reader.number(), Ok(value));
            reader.finish().unwrap();
        }
        let refused = |bytes: &[u8]| Reader::new(bytes, b"").unwrap().number().unwrap_err();
        assert_eq!(refused(&[0x80, 0x00]), DecodeError::Number, "zero in two bytes");
        assert_eq!(refused(&[0xff; 10]), DecodeError::Number, "more than 64 bits");
        assert_eq!(refused(&[0x80]), DecodeError::Truncated);
    }

    #[test]
    fn counts_larger_than_the_input_are_refused_before_allocating() {
        let mut writer = Writer::new(b"");
        writer.number(1_000_000);
        writer.byte(0);
        let bytes = writer.finish();
        assert_eq!(Reader::new(&bytes, b"").unwrap().count(1, PATHS_MAX), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&bytes, b"").unwrap().count(1, 10), Err(DecodeError::TooLarge));
    }

    #[test]
    fn names_are_plain() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert_eq!(check_name(bad), Err(DecodeError::Path), "{bad:?}");
        }
        check_name(b"...").unwrap();
    }
}

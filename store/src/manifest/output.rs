//! One output: how it is spelled, in manifest nodes, packs and layers alike, and what every list of outputs must be.

use std::cmp::Ordering;

use super::Output;
use crate::codec::{DecodeError, MODE_MASK, PATH_BYTES_MAX, PATHS_MAX, Reader, TARGET_BYTES_MAX, Writer};
use crate::path::is_relative;

/// The deepest path: a name per two bytes of the longest path would be 32,768; no real tree is near 4,096.
pub const DEPTH_MAX: usize = 4096;

impl Output {
    /// The letter that stands for its kind.
    pub(crate) fn letter(&self) -> u8 {
        match self {
            Output::File { .. } => b'f',
            Output::Link { .. } => b'l',
            Output::Dir { .. } => b'd',
            Output::Removed => b'r',
        }
    }

    /// Writes what follows the letter.
    pub(crate) fn write(&self, out: &mut Writer) {
        match self {
            Output::File { digest, size, mode } => {
                out.digest(digest);
                out.number(*size);
                out.number(u64::from(*mode));
            }
            Output::Link { target } => out.string(target),
            Output::Dir { mode } => out.number(u64::from(*mode)),
            Output::Removed => {}
        }
    }

    /// Reads what follows `letter`.
    pub(crate) fn read(input: &mut Reader<'_>, letter: u8) -> Result<Output, DecodeError> {
        Ok(match letter {
            b'f' => Output::File { digest: input.digest()?, size: input.number()?, mode: input.mode()? },
            b'l' => Output::Link { target: input.string(TARGET_BYTES_MAX)?.to_vec() },
            b'd' => Output::Dir { mode: input.mode()? },
            b'r' => Output::Removed,
            _ => return Err(DecodeError::Kind),
        })
    }

    /// Whether any system could have made it: possible permission bits, a possible link target.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        match self {
            Output::File { mode, .. } | Output::Dir { mode } if mode & !MODE_MASK != 0 => Err(DecodeError::Number),
            Output::Link { target } if target.len() > TARGET_BYTES_MAX => Err(DecodeError::TooLarge),
            Output::Link { target } if target.is_empty() || target.contains(&0) => Err(DecodeError::Path),
            _ => Ok(()),
        }
    }
}

/// Whether something can be at `path`: a plain relative path that is not empty, within the limits.
pub(crate) fn check_path(path: &[u8]) -> Result<(), DecodeError> {
    if path.is_empty() || !is_relative(path) {
        return Err(DecodeError::Path);
    }
    if path.len() > PATH_BYTES_MAX || path.iter().filter(|&&byte| byte == b'/').count() >= DEPTH_MAX {
        return Err(DecodeError::TooLarge);
    }
    Ok(())
}

/// Whether a list is sorted by path, each path once, every one possible, with nothing below a file or a link and nothing but
/// removals below a removal.
pub(crate) fn check_list<'a>(list: impl Iterator<Item = (&'a [u8], &'a Output)>) -> Result<(), DecodeError> {
    let mut list: Vec<_> = list.collect();
    if list.len() > PATHS_MAX {
        return Err(DecodeError::TooLarge);
    }
    if list.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(DecodeError::Order);
    }
    for (path, output) in &list {
        check_path(path)?;
        output.check()?;
    }
    // In tree order everything below a path follows it at once, so one open non-directory is enough to remember.
    list.sort_by(|(one, _), (two, _)| tree_order(one, two));
    let mut closed: Option<(&[u8], &Output)> = None;
    for (path, output) in list {
        match closed.filter(|(above, _)| is_below(path, above)) {
            Some((_, Output::Removed)) if *output == Output::Removed => continue,
            Some(_) => return Err(DecodeError::Shape),
            None => closed = (!matches!(output, Output::Dir { .. })).then_some((path, output)),
        }
    }
    Ok(())
}

/// The order of a walk: a directory, then what is in it, then its next sibling.
pub(super) fn tree_order(one: &[u8], two: &[u8]) -> Ordering {
    one.split(|&byte| byte == b'/').cmp(two.split(|&byte| byte == b'/'))
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}

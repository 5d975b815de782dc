//! The operations of `fixtures/operations.py`: their names, and what each finds in its directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Tree, tools};

/// Functions of the script that are no operations.
const HELPERS: [&str; 5] = ["read", "write", "refused", "rename2", "fallocate"];

/// The script.
pub fn script() -> PathBuf {
    tools::tests().join("fixtures/operations.py")
}

/// Every operation, in the order of the script.
pub fn names() -> Vec<String> {
    let script = fs::read_to_string(script()).unwrap();
    let functions = script.lines().filter_map(|line| line.strip_prefix("def ")?.split('(').next());
    let names: Vec<String> = functions.filter(|name| !HELPERS.contains(name)).map(str::to_owned).collect();
    assert!(names.len() > 30, "{names:?}");
    names
}

/// Puts into a directory what an operation finds.
pub fn prepare(dir: &Path, operation: &str) {
    let write = |path: &OsStr, bytes: &[u8]| fs::write(dir.join("lower").join(path), bytes).unwrap();
    for made in ["lower/deep/er", "lower/other", "lower/crowd"] {
        fs::create_dir_all(dir.join(made)).unwrap();
    }
    write("a.txt".as_ref(), b"alpha\n");
    write("b.txt".as_ref(), b"beta beta beta\n");
    write("big.bin".as_ref(), &(0..300_000u32).map(|n| (n * 31 % 241) as u8 | 1).collect::<Vec<_>>());
    write("deep/x.txt".as_ref(), b"x\n");
    write("deep/er/leaf.txt".as_ref(), b"leaf\n");
    write("other/o.txt".as_ref(), b"other\n");
    // Many files cost time in every copy, and concern one operation.
    for number in 0..if operation == "readdir_deleting" { 300 } else { 20 } {
        write(format!("crowd/{number}").as_ref(), b"");
    }
    if operation == "large_files" {
        let script =
            b"#!/bin/sh\nexit 0\n".iter().copied().chain(std::iter::repeat_n(b'#', 3 << 20)).collect::<Vec<u8>>();
        fs::create_dir(dir.join("large")).unwrap();
        for name in ["tool", "data"] {
            fs::write(dir.join("large").join(name), &script).unwrap();
        }
        fs::set_permissions(dir.join("large/tool"), PermissionsExt::from_mode(0o755)).unwrap();
    }
    write(OsStr::from_bytes(b"odd-\xff"), b"odd\n");
    symlink("deep/x.txt", dir.join("lower/link")).unwrap();
}

/// FIFOs and sockets work inside a view and are never outputs.
pub fn without_special(mut tree: Tree) -> Tree {
    tree.retain(|_, entry| entry.kind != "fifo" && entry.kind != "socket");
    tree
}

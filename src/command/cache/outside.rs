//! What pruning has to know of the world outside of the cache.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use wink_fs::zone::join;
use wink_platform::unix::priority;
use wink_store::{Output, World};

use crate::engine::tree::os;
use crate::progress;

/// See [`World`].
pub struct Outside {
    _doing: progress::Doing,
}

impl Outside {
    /// Shows progress on a terminal.
    pub fn new() -> Outside {
        Outside { _doing: progress::doing("looking at the cache", None) }
    }
}

impl World for Outside {
    fn is_gone(&self, path: &[u8]) -> bool {
        // No permission, a dead mount, a disk with errors: not gone.
        let look = std::fs::symlink_metadata(os(path));
        look.is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
    }

    fn stands(&self, workspace: &[u8], path: &[u8], output: &Output) -> bool {
        let path = join(workspace, path);
        let found = match std::fs::symlink_metadata(os(&path)) {
            Ok(found) => found,
            Err(error) => return !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        };
        match output {
            // Not hashed: what looks like it may be it.
            Output::File { size, mode, .. } => {
                found.is_file() && (found.len(), found.mode() & 0o7777) == (*size, *mode)
            }
            Output::Link { .. } => found.is_symlink(),
            Output::Dir { .. } => found.is_dir(),
            Output::Removed => false,
        }
    }

    fn step_back(&self) {
        priority::lower_thread();
    }

    fn progress(&self, what: &'static str, done: u64, all: u64) {
        progress::at(what, done, all);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_looks_like_an_output_may_be_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().as_os_str().as_bytes();
        std::fs::write(dir.path().join("file"), "bytes").unwrap();
        std::fs::set_permissions(dir.path().join("file"), std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let file = |size, mode| Output::File { digest: wink_store::Digest::of(b"whatever"), size, mode };
        let (world, link) = (Outside::new(), Output::Link { target: b"elsewhere".to_vec() });
        assert!(world.stands(root, b"file", &file(5, 0o640)));
        assert!(world.stands(root, b"link", &link));
        for (path, output) in [
            (&b"file"[..], file(6, 0o640)),
            (b"file", file(5, 0o600)),
            (b"file", link.clone()),
            (b"link", file(5, 0o640)),
            (b"gone", file(5, 0o640)),
            (b"file/below", file(5, 0o640)),
        ] {
            assert!(!world.stands(root, path, &output), "{output:?}");
        }
        assert!(
            !world.is_gone(root) && world.is_gone(&join(root, b"gone")) && world.is_gone(&join(root, b"file/below"))
        );
    }
}

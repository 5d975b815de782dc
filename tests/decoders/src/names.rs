//! Names and paths: what comes from the kernel as a name, from the store as a path, from people as a digest.

use wink_fs::name::{NAME_BYTES_MAX, Name};
use wink_store::path::is_relative;
use wink_store::{Digest, Root, TreePath};

use crate::assert_stays_inside;

pub fn names(bytes: &[u8]) -> bool {
    // Said again from the words of the interface, not of the code.
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0) && !name.contains(&b'/');
    let name = Name::new(bytes);
    assert_eq!(name.is_ok(), plain(bytes) && bytes.len() <= NAME_BYTES_MAX);
    if let Ok(name) = &name {
        assert_eq!(name.as_bytes(), bytes);
    }
    let relative = bytes.is_empty() || bytes.split(|byte| *byte == b'/').all(plain);
    assert_eq!(is_relative(bytes), relative);
    let path = TreePath::new(Root::Workspace, bytes);
    assert_eq!(path.is_ok(), relative);
    if let Ok(path) = &path {
        assert_eq!(path.relative(), bytes);
        assert_stays_inside(bytes);
    }
    path.is_ok()
}

pub fn names_seeds() -> Vec<Vec<u8>> {
    let plain: [&[u8]; 8] = [b"a", b"a/b", b"...", b".a/..b/c.", b"a\xff", b"../a", b"a/./b", b"/a"];
    plain.iter().map(|name| name.to_vec()).chain([vec![b'n'; 255], vec![b'n'; 256]]).collect()
}

pub fn digest(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(digest) = text.parse::<Digest>() else { return false };
    assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    assert_eq!(digest.short(), digest.to_string()[..8]);
    true
}

pub fn digest_seeds() -> Vec<Vec<u8>> {
    let text = Digest::of(b"a").to_string();
    vec![text.clone().into(), text.to_uppercase().into(), text[..8].into()]
}

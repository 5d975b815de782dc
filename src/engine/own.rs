//! Own outputs: which paths of the workspace hold what an earlier run of the same task left there.
//!
//! A path is *own* if some run of the task made it (not: changed somebody else's file) and it still holds exactly what some run of the task
//! left. A directory is own if a run made it and nothing but own outputs is in it. Everything else is somebody else's, for ever
//! (`docs/SEMANTICS.md`, "Own outputs").

use std::collections::{BTreeMap, HashSet};
use std::io;

use wink_fs::attr::Kind;
use wink_fs::zone::join;
use wink_store::OwnKey;
use wink_store::Store;
use wink_store::StoreError;
use wink_store::{Manifest, Output};

use super::tree::Tree;

/// Own outputs that stand in the workspace now.
#[derive(Debug, Default)]
pub struct Standing {
    /// By path relative to the workspace: what stands there.
    pub outputs: BTreeMap<Vec<u8>, Output>,
    /// The same paths, absolute.
    pub paths: HashSet<Vec<u8>>,
}

impl Standing {
    /// Whether the absolute path holds an own output.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }
}

/// What runs of a task left, path by path: each state that some run left there.
pub type Left = BTreeMap<Vec<u8>, Vec<Output>>;

/// Everything that runs of the task have left anywhere.
pub fn left(store: &Store, key: &OwnKey) -> Result<Left, StoreError> {
    let mut left = Left::new();
    let mut manifests = HashSet::new();
    for head in store.heads_of_owner(key)? {
        if !manifests.insert(head.manifest) {
            continue;
        }
        match store.manifest(&head.manifest) {
            Ok(manifest) => collect(&mut left, &manifest),
            // What it left is then no longer known as own: it becomes somebody else's, which is the safe side.
            Err(error) if error.is_damage() => store.drop_record(&head.id)?,
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

/// Directories in which version control keeps what must outlive every run: an object that a run happened to write first may be
/// part of somebody's commit by now. Nothing in them is ever own, so nothing in them is ever hidden or removed.
const HISTORY: [&[u8]; 6] = [b".git", b".hg", b".svn", b".jj", b".bzr", b"_darcs"];

/// Whether a path lies in such a directory.
pub fn is_history(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| HISTORY.contains(&name))
}

fn collect(left: &mut Left, manifest: &Manifest) {
    for entry in &manifest.entries {
        if !entry.modified && entry.output != Output::Removed && !is_history(&entry.path) {
            let states = left.entry(entry.path.clone()).or_default();
            if !states.contains(&entry.output) {
                states.push(entry.output.clone());
            }
        }
    }
}

/// Whether a path holds a file whose bytes are in the store: then some run made it, or read and changed it, and nobody's edit is lost with it.
pub fn is_stored(store: &Store, path: &[u8], tree: &mut Tree<'_>) -> bool {
    match tree.attr(path) {
        Ok(Some(attr)) if attr.kind == Kind::File => {
            tree.digest(path, &attr).is_ok_and(|digest| store.blob_path(&digest).exists())
        }
        _ => false,
    }
}

/// Whether what stands in the place of an own output can be had again from the store: of files their bytes, of links and directories what the
/// manifest says of them. Pruning takes blobs and leaves what is known of the files.
pub fn is_kept(store: &Store, output: &Output) -> bool {
    match output {
        Output::File { digest, .. } => store.blob_path(digest).exists(),
        Output::Link { .. } | Output::Dir { .. } | Output::Removed => true,
    }
}

/// Makes these files somebody else's: what is left of the records that tell of them goes. Their blobs are gone, so none of these can be of use.
pub fn disown(store: &Store, key: &OwnKey, files: &BTreeMap<Vec<u8>, Output>) -> Result<(), StoreError> {
    for head in store.heads_of_owner(key)? {
        let tells = match store.manifest(&head.manifest) {
            Ok(manifest) => manifest.entries.iter().any(|entry| files.get(&entry.path) == Some(&entry.output)),
            Err(error) if error.is_damage() => true,
            Err(error) => return Err(error),
        };
        if tells {
            store.drop_record(&head.id)?;
        }
    }
    Ok(())
}

/// Which of these stand untouched in the workspace.
pub fn standing(left: &Left, workspace: &[u8], tree: &mut Tree<'_>) -> io::Result<Standing> {
    let mut standing = Standing::default();
    tree.expect(left.keys().map(|path| join(workspace, path)));
    // From the longest path down, so that a directory comes after all that is in it.
    for (path, states) in left.iter().rev() {
        let absolute = join(workspace, path);
        if let Some(output) = present(&absolute, states, &standing, tree)? {
            standing.outputs.insert(path.clone(), output);
            standing.paths.insert(absolute);
        }
    }
    Ok(standing)
}

fn present(path: &[u8], states: &[Output], inside: &Standing, tree: &mut Tree<'_>) -> io::Result<Option<Output>> {
    let Some(attr) = tree.attr(path)? else { return Ok(None) };
    let candidates = |kind: Kind| {
        states.iter().filter(move |state| match state {
            Output::File { size, mode, .. } => kind == Kind::File && (*size, *mode) == (attr.size, attr.mode),
            Output::Link { .. } => kind == Kind::Link,
            Output::Dir { .. } => kind == Kind::Dir,
            Output::Removed => false,
        })
    };
    match attr.kind {
        Kind::File if candidates(Kind::File).next().is_some() => {
            let present = match tree.digest(path, &attr) {
                Ok(digest) => digest,
                // Not to be read, just being written, or a view of what the store has lost: nobody can say that it is as it was left.
                Err(error) => match error.kind() {
                    io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy => {
                        return Ok(None);
                    }
                    _ => return Err(error),
                },
            };
            Ok(candidates(Kind::File)
                .find(|state| matches!(state, Output::File { digest, .. } if *digest == present))
                .cloned())
        }
        Kind::Link if candidates(Kind::Link).next().is_some() => {
            let target = tree.ground().read_link(path)?;
            let same = |state: &&Output| matches!(state, Output::Link { target: left } if *left == target);
            Ok(candidates(Kind::Link).find(same).cloned())
        }
        Kind::Dir if candidates(Kind::Dir).next().is_some() => {
            let foreign = tree.ground().list(path)?.iter().any(|(name, _)| !inside.contains(&join(path, name)));
            Ok((!foreign).then_some(Output::Dir { mode: attr.mode }))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use std::sync::Arc;

    use wink_store::Digest;
    use wink_store::Entry;

    use super::*;

    fn file(bytes: &[u8]) -> Output {
        Output::File { digest: Digest::of(bytes), size: bytes.len() as u64, mode: 0o644 }
    }

    fn names(standing: &Standing) -> Vec<String> {
        standing.outputs.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    #[test]
    fn own_is_what_stands_as_left() {
        let dir = tempfile::tempdir().unwrap();
        let (root, store) = (dir.path().join("ws"), Arc::new(Store::open(&dir.path().join("store")).unwrap()));
        std::fs::create_dir_all(root.join("dist/sub")).unwrap();
        let write = |path: &str, bytes: &[u8]| {
            std::fs::write(root.join(path), bytes).unwrap();
            std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(0o644)).unwrap();
        };
        write("dist/a", b"one");
        write("dist/sub/b", b"two");
        write("source", b"formatted");
        let entry = |path: &str, output, modified| Entry { path: path.into(), output, modified };
        let mut left = Left::new();
        collect(
            &mut left,
            &Manifest {
                entries: vec![
                    entry("dist", Output::Dir { mode: 0o755 }, false),
                    entry("dist/a", file(b"one"), false),
                    entry("dist/gone", file(b"gone"), false),
                    entry("dist/sub", Output::Dir { mode: 0o755 }, false),
                    entry("dist/sub/b", file(b"two"), false),
                    entry("source", file(b"formatted"), true),
                ],
            },
        );
        let look = || standing(&left, root.as_os_str().as_bytes(), &mut Tree::new(&store, None).unwrap()).unwrap();
        assert_eq!(names(&look()), ["dist", "dist/a", "dist/sub", "dist/sub/b"], "a modified file is never own");
        write("dist/sub/theirs", b"x");
        assert_eq!(names(&look()), ["dist/a", "dist/sub/b"], "a directory with somebody else's file is theirs too");
        std::fs::remove_file(root.join("dist/sub/theirs")).unwrap();
        write("dist/a", b"six");
        assert_eq!(names(&look()), ["dist/sub", "dist/sub/b"], "an edited output is somebody else's");
    }
}

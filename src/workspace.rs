//! Which directory tree a task belongs to.
//!
//! The nearest ancestor with `wink.toml` or `wink.json`, else the nearest with `.git` (git itself is not run), else the current
//! directory. `.git` in `/` or in the home directory is passed over unless that is the current directory: people keep their
//! dotfiles in git, and nobody means the whole home.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Names of a workspace's configuration file.
pub const CONFIG_NAMES: [&str; 2] = ["wink.toml", "wink.json"];

/// A workspace and why it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its canonical absolute path.
    pub root: PathBuf,
    /// What made it the workspace.
    pub because: Because,
}

/// What made a directory the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It holds `wink.toml` or `wink.json`.
    Config,
    /// It is the top level of a git checkout.
    Git,
    /// Nothing marks a workspace: it is the current directory.
    CurrentDirectory,
}

/// Finds the workspace of a directory.
pub fn find(cwd: &Path, home: Option<&Path>) -> anyhow::Result<Workspace> {
    let cwd = cwd
        .canonicalize()
        .with_context(|| format!("cannot enter {}; check that the directory exists", cwd.display()))?;
    anyhow::ensure!(cwd.is_dir(), "{} is not a directory", cwd.display());
    let home = home.and_then(|home| home.canonicalize().ok());
    let marked = |dir: &&Path| CONFIG_NAMES.iter().any(|name| dir.join(name).is_file());
    if let Some(root) = cwd.ancestors().find(marked) {
        return Ok(Workspace { root: root.to_owned(), because: Because::Config });
    }
    let too_wide = |dir: &Path| dir != cwd && (dir.parent().is_none() || home.as_deref() == Some(dir));
    // `.git` is a directory in a clone and a file in a linked worktree or submodule.
    if let Some(root) = cwd.ancestors().find(|dir| !too_wide(dir) && dir.join(".git").exists()) {
        return Ok(Workspace { root: root.to_owned(), because: Because::Git });
    }
    Ok(Workspace { root: cwd, because: Because::CurrentDirectory })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A fresh tree with these directories, canonical.
    fn tree(dirs: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for dir in dirs {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        (temp, root)
    }

    #[test]
    fn nearest_config_wins_over_git() {
        let (_temp, root) = tree(&["a/b/c/.git", "a/b/c/d"]);
        fs::write(root.join("a/wink.json"), "{}").unwrap();
        let found = find(&root.join("a/b/c/d"), None).unwrap();
        assert_eq!(found, Workspace { root: root.join("a"), because: Because::Config });
        fs::write(root.join("a/b/wink.toml"), "").unwrap();
        assert_eq!(find(&root.join("a/b/c/d"), None).unwrap().root, root.join("a/b"));
    }

    #[test]
    fn git_directory_or_file() {
        let (_temp, root) = tree(&["a/.git", "a/b/c"]);
        assert_eq!(find(&root.join("a/b/c"), None).unwrap().root, root.join("a"));
        fs::write(root.join("a/b/.git"), "gitdir: elsewhere").unwrap();
        let found = find(&root.join("a/b/c"), None).unwrap();
        assert_eq!(found, Workspace { root: root.join("a/b"), because: Because::Git });
    }

    #[test]
    fn the_home_is_a_workspace_only_on_request() {
        let (_temp, home) = tree(&[".git", "x/y"]);
        assert_eq!(find(&home.join("x/y"), Some(&home)).unwrap().root, home.join("x/y"));
        assert_eq!(find(&home, Some(&home)).unwrap().root, home);
        fs::write(home.join("wink.toml"), "").unwrap();
        assert_eq!(find(&home.join("x/y"), Some(&home)).unwrap().root, home);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_resolved() {
        let (_temp, root) = tree(&["real/.git", "real/sub"]);
        std::os::unix::fs::symlink(root.join("real/sub"), root.join("link")).unwrap();
        assert_eq!(find(&root.join("link"), None).unwrap().root, root.join("real"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let (_temp, root) = tree(&[]);
        let error = find(&root.join("gone"), None).unwrap_err();
        assert!(error.to_string().contains("gone"));
    }
}

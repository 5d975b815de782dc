//! `wink cache …`: what the cache holds, what it brought, and taking care of it. One file per subcommand.

mod clean;
mod layers;
mod ls;
mod outside;
pub mod prune;
mod rerun;
mod stats;
mod verify;

use std::path::{Path, PathBuf};

use wink_platform::unix::identity;
use wink_store::Store;

use crate::config::{Config, Size};
use crate::engine::now_ms;
use crate::report::ago;

/// `wink cache …`.
#[derive(Debug, clap::Subcommand)]
pub enum CacheCommand {
    /// Say what the cache holds, how often it was hit and what that saved
    Stats(stats::StatsArgs),
    /// List the entries, last used first
    Ls(ls::LsArgs),
    /// Remove what is too old or too much, least recently used first
    Prune(prune::PruneArgs),
    /// Remove everything
    Clean(clean::CleanArgs),
    /// Read everything and say what is damaged
    Verify(verify::VerifyArgs),
    /// Be the process that prunes in the background
    #[command(hide = true)]
    Tend(prune::TendArgs),
    /// Print the directory of the cache
    Dir {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand; returns what it has to say, and the exit code.
pub fn run(command: &CacheCommand, config: impl Fn() -> anyhow::Result<Config>) -> anyhow::Result<(String, i32)> {
    let text = match command {
        CacheCommand::Prune(args) => return prune::run(args, &config()?),
        CacheCommand::Clean(args) => return clean::run(args, &config()?),
        CacheCommand::Verify(args) => return verify::run(args, &config()?),
        CacheCommand::Tend(args) => prune::tend(args)?,
        CacheCommand::Stats(args) => stats::run(args, &config()?)?,
        CacheCommand::Ls(args) => ls::run(args, &config()?)?,
        CacheCommand::Dir { json } => {
            let config = config()?;
            let dir = config.store_dir()?.to_string_lossy();
            if *json { format!("{}\n", serde_json::json!({ "path": dir })) } else { format!("{dir}\n") }
        }
    };
    Ok((text, 0))
}

/// A limit in bytes; a share is one of the disk on which the cache is, or would be.
fn bytes(size: Option<Size>, dir: &Path) -> Option<u64> {
    let size = size?;
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(dir);
    match (size, identity::disk_bytes(there)) {
        (Size::Bytes(bytes), _) => Some(bytes),
        (share, Some(disk)) => Some(share.on(disk)),
        // Nobody knows how large it is: no limit is better than a wrong one.
        (Size::Share(_), None) => None,
    }
}

/// The store, if there is one: looking at a cache makes none.
fn present(config: &Config) -> anyhow::Result<Option<Store>> {
    let dir = config.store_dir()?;
    if !wink_store::exists(dir) {
        return Ok(None);
    }
    let store = Store::open(dir)?;
    if let Some(notice) = store.notice() {
        crate::complain(&notice);
    }
    Ok(Some(store))
}

/// The workspace that the current directory lies in.
fn workspace() -> anyhow::Result<PathBuf> {
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    Ok(crate::workspace::find(&std::env::current_dir()?.canonicalize()?, home.as_deref())?.root)
}

/// How long ago a time is.
fn since(at_ms: u64) -> String {
    ago(now_ms().saturating_sub(at_ms))
}

/// A path for people and for JSON; the empty one stands for workspaces that are gone.
fn shown(path: &[u8]) -> String {
    let path: &Path = crate::engine::tree::os(path);
    path.to_string_lossy().into_owned()
}

//! `wink cache …`: what the cache holds, what it brought, and taking care of it. One file per subcommand.

mod ls;
mod stats;

use std::path::{Path, PathBuf};

use wink_store::Store;

use crate::config::Config;
use crate::engine::now_ms;
use crate::report::ago;

/// `wink cache …`.
#[derive(Debug, clap::Subcommand)]
pub enum CacheCommand {
    /// Say what the cache holds, how often it was hit and what that saved
    Stats(stats::StatsArgs),
    /// List the entries, last used first
    Ls(ls::LsArgs),
    /// Print the directory of the cache
    Dir {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand; returns what it has to say.
pub fn run(command: &CacheCommand, config: impl Fn() -> anyhow::Result<Config>) -> anyhow::Result<String> {
    match command {
        CacheCommand::Stats(args) => stats::run(args, &config()?),
        CacheCommand::Ls(args) => ls::run(args, &config()?),
        CacheCommand::Dir { json } => {
            let config = config()?;
            let dir = config.store_dir()?.to_string_lossy();
            Ok(if *json { format!("{}\n", serde_json::json!({ "path": dir })) } else { format!("{dir}\n") })
        }
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

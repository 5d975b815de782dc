//! `wink daemon start|stop|status`, and `serve`, which is the daemon itself.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::config::Config;
use crate::daemon::client::{Client, Ended};
use crate::daemon::protocol::{Request, Status};
use crate::daemon::serve;

/// `wink daemon …`.
#[derive(Debug, clap::Subcommand)]
pub enum DaemonCommand {
    /// Start the daemon, unless it runs
    Start {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop the daemon, unless something is mounted
    Stop {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether the daemon runs, and what it serves
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Be the daemon
    #[command(hide = true)]
    Serve {
        /// The directory of the cache
        #[arg(long)]
        store: PathBuf,
    },
}

/// Runs the subcommand; returns what it has to say.
pub fn run(command: &DaemonCommand, config: impl Fn() -> anyhow::Result<Config>) -> anyhow::Result<String> {
    let store = || -> anyhow::Result<PathBuf> { Ok(config()?.store_dir()?.to_owned()) };
    match command {
        DaemonCommand::Serve { store } => serve::run(store).map(|()| String::new()),
        DaemonCommand::Start { json } => {
            let store = store()?;
            std::fs::create_dir_all(&store).with_context(|| format!("cannot make the cache {}", store.display()))?;
            Client::start(&store)?;
            status(&store, *json)
        }
        DaemonCommand::Status { json } => status(&store()?, *json),
        DaemonCommand::Stop { json } => {
            let stopped = match Client::running(&store()?)? {
                Some(client) => match client.do_it(&Request::Stop, &[]) {
                    Err(error) if !error.is::<Ended>() => return Err(error),
                    _ => true,
                },
                None => false,
            };
            Ok(match (json, stopped) {
                (true, _) => format!("{}\n", serde_json::json!({ "stopped": stopped })),
                (false, true) => "the daemon has stopped\n".to_owned(),
                (false, false) => "the daemon was not running\n".to_owned(),
            })
        }
    }
}

fn status(store: &Path, json: bool) -> anyhow::Result<String> {
    let status = super::mount::daemon_status(store)?;
    Ok(match (status, json) {
        (Some(Status { pid, uptime_ms, mounts, version }), true) => {
            let said = serde_json::json!({
                "running": true, "pid": pid, "mounts": mounts, "uptime_ms": uptime_ms, "version": version
            });
            format!("{said}\n")
        }
        (None, true) => {
            let said = serde_json::json!({ "running": false, "pid": null, "mounts": [], "uptime_ms": null });
            format!("{said}\n")
        }
        (Some(Status { pid, uptime_ms, mounts, .. }), false) => {
            let mounts = match mounts.len() {
                0 => "nothing is mounted".to_owned(),
                1 => format!("{} is mounted", mounts[0].dir),
                count => format!("{count} directories are mounted"),
            };
            format!("the daemon runs: process {pid}, for {}, {mounts}\n", crate::report::human_ms(uptime_ms))
        }
        (None, false) => "the daemon is not running\n".to_owned(),
    })
}

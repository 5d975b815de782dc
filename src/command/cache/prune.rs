//! `wink cache prune`: what is too old, too much, or needed by nobody goes; and the same in the background.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use wink_platform::unix::detach::spawn_detached;
use wink_store::{Limits, Pruned, Store, StoreError};

use super::outside::Outside;
use super::{layers, present};
use crate::config::{Config, Size, size};
use crate::report::{human_bytes, thousands};

/// `wink cache prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// How large the cache may stay: 5GB, 500MiB, 10% (of the disk), none [default: max_size]
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    size: Option<Wanted>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `wink cache tend`: what a run starts when it is time, with the limits of its configuration.
#[derive(Debug, clap::Args)]
pub struct TendArgs {
    /// The directory of the cache
    #[arg(long)]
    store: PathBuf,
    /// Its largest size, in bytes
    #[arg(long)]
    max_size: Option<u64>,
    /// How long an entry may be unused, in seconds
    #[arg(long)]
    max_age: Option<u64>,
}

/// A size that was asked for; none is no limit.
#[derive(Clone, Copy, Debug)]
struct Wanted(Option<Size>);

fn parse_size(text: &str) -> Result<Wanted, String> {
    size(text).map(Wanted)
}

/// Once the cache is too large it is made so much smaller that not each run has to do it again.
const AIM_PERCENT: u64 = 90;

/// Runs the subcommand; returns what it has to say, and the exit code.
pub fn run(args: &PruneArgs, config: &Config) -> anyhow::Result<(String, i32)> {
    let wanted = args.size.map_or(config.max_size.value, |wanted| wanted.0);
    let limits = Limits {
        max_bytes: super::bytes(wanted, config.store_dir()?),
        max_age_ms: config.max_age.value.map(in_ms),
        ..Limits::default()
    };
    let pruned = match present(config)? {
        Some(store) => prune(&Arc::new(store), &limits, args.dry_run)?,
        None => Pruned::default(),
    };
    let code = if pruned.gave_up { crate::cli::EXIT_FAILURE } else { 0 };
    Ok((if args.json { object(&pruned, args.dry_run) } else { line(&pruned, &limits, args.dry_run) }, code))
}

/// Prunes in the background. Whatever goes wrong is no reason to bother anybody: the next time it is tried again.
pub fn tend(args: &TendArgs) -> anyhow::Result<String> {
    let limits = Limits {
        max_bytes: args.max_size,
        aim_bytes: args.max_size.map(|bytes| bytes / 100 * AIM_PERCENT),
        max_age_ms: args.max_age.map(|seconds| seconds * 1000),
        unhurried: true,
        ..Limits::default()
    };
    let store = Arc::new(Store::open(&args.store)?);
    match prune(&store, &limits, false) {
        // Another process is at it.
        Err(error) if matches!(error.downcast_ref(), Some(StoreError::PrunedElsewhere { .. })) => Ok(String::new()),
        pruned => pruned.map(|_| String::new()),
    }
}

/// Prunes, after every layer has said what it still shows.
pub fn prune(store: &Arc<Store>, limits: &Limits, dry_run: bool) -> anyhow::Result<Pruned> {
    layers::settle(store)?;
    if store.has_lost_packs()? && !layers::showing(store)?.is_empty() {
        crate::complain("not all that mounted trees show can be listed; `wink cache verify --repair` mends that");
    }
    Ok(store.prune(limits, &Outside::new(), dry_run)?)
}

fn in_ms(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

fn object(pruned: &Pruned, dry_run: bool) -> String {
    let object = serde_json::json!({
        "dry_run": dry_run,
        "freed_entries": pruned.entries,
        "freed_bytes": pruned.bytes,
        "total_entries": pruned.entries_left,
        "total_size": pruned.bytes_left,
        "shown_bytes": pruned.bytes_shown,
        "complete": !pruned.gave_up,
    });
    format!("{object:#}\n")
}

fn line(pruned: &Pruned, limits: &Limits, dry_run: bool) -> String {
    let entries =
        |number: u64| if number == 1 { "1 entry".to_owned() } else { format!("{} entries", thousands(number)) };
    let freed = if dry_run { "would free" } else { "freed" };
    let left = if dry_run { "would be left" } else { "are left" };
    let mut line = format!(
        "{freed} {} and {}; {} in {} {left}",
        entries(pruned.entries),
        human_bytes(pruned.bytes),
        human_bytes(pruned.bytes_left),
        entries(pruned.entries_left)
    );
    if limits.max_bytes.is_some_and(|max| pruned.bytes_left > max) && pruned.bytes_shown > 0 {
        line += &format!("; {} of them show in mounted or waiting trees and stay", human_bytes(pruned.bytes_shown));
    }
    if pruned.gave_up {
        line += "; others used the cache all the time, so this is not all: try again";
    }
    line + "\n"
}

/// The limits of a configuration: size and age.
type Configured = (Option<Size>, Option<Duration>);

/// Whether it is time to prune in the background, and nobody is at it.
pub fn is_tending_due(store: &Store, (max_size, _): Configured) -> anyhow::Result<bool> {
    let max_bytes = super::bytes(max_size, store.dir());
    Ok(store.should_prune(max_bytes, crate::engine::now_ms())? && !store.is_being_pruned())
}

/// Starts a process that prunes, and does not wait for it.
pub fn start_tending(store: &Store, (max_size, max_age): Configured) -> anyhow::Result<()> {
    let mut words: Vec<OsString> =
        vec!["cache".into(), "tend".into(), "--store".into(), store.dir().as_os_str().to_owned()];
    if let Some(bytes) = super::bytes(max_size, store.dir()) {
        words.extend(["--max-size".into(), bytes.to_string().into()]);
    }
    if let Some(age) = max_age {
        words.extend(["--max-age".into(), age.as_secs().to_string().into()]);
    }
    let log = store.open_log_file(Path::new("prune.log"))?;
    let program = std::env::current_exe().context("nobody knows where wink itself lies")?;
    Ok(spawn_detached(&program, words, log)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_stays_and_why() {
        let pruned = Pruned { entries: 1, bytes: 2_500, entries_left: 2, bytes_left: 1_000, ..Pruned::default() };
        let limits = Limits { max_bytes: Some(900), ..Limits::default() };
        assert_eq!(line(&pruned, &limits, false), "freed 1 entry and 2.5 kB; 1.0 kB in 2 entries are left\n");
        let shown = Pruned { bytes_shown: 1_000, gave_up: true, ..pruned };
        assert_eq!(
            line(&shown, &limits, true),
            "would free 1 entry and 2.5 kB; 1.0 kB in 2 entries would be left; 1.0 kB of them show in mounted or waiting \
             trees and stay; others used the cache all the time, so this is not all: try again\n"
        );
    }
}

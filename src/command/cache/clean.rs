//! `wink cache clean`: everything goes that is not shown, after a question.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use anyhow::{bail, ensure};
use wink_store::{Limits, Pruned, Store};

use super::prune::prune;
use super::{layers, present};
use crate::config::Config;
use crate::report::{count, human_bytes, thousands};

/// `wink cache clean`.
#[derive(Debug, clap::Args)]
pub struct CleanArgs {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// First make real what mounted or waiting trees show of the cache
    #[arg(long)]
    materialize: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand; returns what it has to say, and the exit code.
pub fn run(args: &CleanArgs, config: &Config) -> anyhow::Result<(String, i32)> {
    let Some(store) = present(config)?.map(Arc::new) else {
        return Ok((said(args, &Pruned::default(), 0), 0));
    };
    let showing = layers::showing(&store)?;
    if let [(root, files), more @ ..] = showing.as_slice()
        && !args.materialize
    {
        let others =
            if more.is_empty() { String::new() } else { format!(" (and {} more trees show some)", more.len()) };
        bail!(
            "{} in {} {} of the cache{others}; `wink cache clean --materialize` makes them real files first",
            count(*files, "file"),
            root.display(),
            if *files == 1 { "is a view" } else { "are views" }
        );
    }
    if !args.yes {
        confirm(&store)?;
    }
    let mut made_real = 0;
    for (root, _) in &showing {
        made_real += layers::make_all_real(&store, root)?;
    }
    let pruned = prune(&store, &Limits { everything: true, ..Limits::default() }, false)?;
    let code = if pruned.gave_up { crate::cli::EXIT_FAILURE } else { 0 };
    Ok((said(args, &pruned, made_real), code))
}

fn confirm(store: &Store) -> anyhow::Result<()> {
    let asking = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    ensure!(asking, "this removes everything in {}; add --yes if that is meant", store.dir().display());
    let sizes = store.sizes()?;
    let entries = if sizes.entries == 1 {
        "the one entry".to_owned()
    } else {
        format!("all {} entries", thousands(sizes.entries))
    };
    let question = format!("Remove {entries} ({}) of {}? [y/N] ", human_bytes(sizes.total()), store.dir().display());
    write!(std::io::stderr(), "{question}")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    ensure!(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"), "nothing was removed");
    Ok(())
}

fn said(args: &CleanArgs, pruned: &Pruned, made_real: u64) -> String {
    if args.json {
        let object = serde_json::json!({
            "freed_entries": pruned.entries,
            "freed_bytes": pruned.bytes,
            "total_entries": pruned.entries_left,
            "total_size": pruned.bytes_left,
            "materialized": made_real,
            "complete": !pruned.gave_up,
        });
        return format!("{object:#}\n");
    }
    let entries =
        if pruned.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", thousands(pruned.entries)) };
    let mut line = format!("removed {entries}, {}", human_bytes(pruned.bytes));
    if made_real > 0 {
        line += &format!("; {} made real", count(made_real, "view"));
    }
    if pruned.bytes_left > 0 {
        line += &format!("; {} are left", human_bytes(pruned.bytes_left));
    }
    if pruned.gave_up {
        line += "; others used the cache all the time, so this is not all: try again";
    }
    line + "\n"
}

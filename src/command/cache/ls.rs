//! `wink cache ls`: the entries.

use std::fmt::Write as _;

use serde_json::{Value, json};
use wink_store::Listed;

use super::{present, shown, since};
use crate::config::Config;
use crate::report::{human_bytes, human_ms, one_line, thousands};

/// `wink cache ls`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Also list what is kept only to know what runs left
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How many digits of a record's name are shown.
const SHORT: usize = 8;

/// Runs the subcommand; returns what it has to say.
pub fn run(args: &LsArgs, config: &Config) -> anyhow::Result<String> {
    let mut entries = match present(config)? {
        Some(store) => store.listed()?,
        None => Vec::new(),
    };
    entries.retain(|entry| args.all || entry.head.usable);
    if args.json {
        let entries: Vec<Value> = entries.iter().map(object).collect();
        return Ok(format!("{:#}\n", json!({ "entries": entries })));
    }
    Ok(table(&entries))
}

fn words(entry: &Listed) -> Option<Vec<String>> {
    let argv = entry.argv.as_ref()?;
    Some(argv.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

fn object(entry: &Listed) -> Value {
    let head = &entry.head;
    json!({
        "record": head.id.0.to_string(),
        "command": words(entry),
        "workspaces": entry.workspaces.iter().map(|path| shown(path)).collect::<Vec<_>>(),
        "created": head.created_ms,
        "used": entry.used_ms,
        "hits": entry.hits,
        "size": head.output_bytes,
        "command_ms": head.command_ms,
        "exit_code": head.exit_code,
        "usable": head.usable,
        "bound_to": head.bound_workspace.as_deref().map(shown),
    })
}

fn table(entries: &[Listed]) -> String {
    if entries.is_empty() {
        return "the cache has no entries\n".to_owned();
    }
    let header = ["RECORD", "USED", "HITS", "SIZE", "TOOK", "COMMAND"].map(str::to_owned);
    let rows = entries.iter().map(|entry| {
        let name = entry.head.id.0.to_string();
        let command = words(entry).map_or("?".to_owned(), |words| words.join(" "));
        let place = match entry.workspaces.as_slice() {
            [] => String::new(),
            [one] => format!("  ({})", shown(one)),
            [one, more @ ..] => format!("  ({} and {} more)", shown(one), more.len()),
        };
        let kept = if entry.head.usable { "" } else { "  not usable" };
        [
            name.get(..SHORT).unwrap_or(&name).to_owned(),
            since(entry.used_ms),
            thousands(entry.hits),
            human_bytes(entry.head.output_bytes),
            human_ms(entry.head.command_ms),
            one_line(&format!("{command}{place}{kept}")),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    let widths: Vec<usize> =
        (0..5).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "{cell:width$}  ");
        }
        let _ = writeln!(out, "{}", row[5]);
    }
    out
}

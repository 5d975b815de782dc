//! `wink cache verify`: whether everything in the cache still is what it was when it was stored.

use std::fmt::Write as _;
use std::sync::Arc;

use wink_store::{Flaw, Part, Store, Verified};

use super::layers::Lost;
use super::rerun::{EXIT_NOT_REPRODUCIBLE, Interrupted, Reruns, rerun};
use super::{layers, present};
use crate::config::Config;
use crate::progress;
use crate::report::{count, human_bytes, one_line, thousands};

/// `wink cache verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Put what is damaged out of the way, so that it becomes a miss
    #[arg(long)]
    repair: bool,
    /// Also run N recorded tasks of this workspace again, last used first, and compare; nothing of these runs is kept. Exit code 3 if one is
    /// not reproducible
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rerun: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Damaged things that people are shown; programs get all.
const SHOWN_MAX: usize = 20;

/// Runs the subcommand; returns what it has to say, and the exit code: 1 while damage is left, else 3 if a task that was run again is not
/// reproducible.
pub fn run(args: &VerifyArgs, config: &Config) -> anyhow::Result<(String, i32)> {
    let verified = match present(config)? {
        Some(store) => {
            let store = Arc::new(store);
            let doing = progress::doing("reading the cache", None);
            let hashed = |done, all| progress::at("reading the cache", done, all);
            let mut verified = store.verify(args.repair, &hashed)?;
            let is_layer = |flaw: &Flaw| flaw.part == Part::Layer;
            if args.repair && verified.flaws.iter().any(is_layer) {
                // A daemon that still knows what a layer showed stores it again.
                layers::settle(&store)?;
                let left = store.verify_layers()?.flaws;
                for flaw in verified.flaws.iter_mut().filter(|flaw| is_layer(flaw)) {
                    flaw.repaired = !left.iter().any(|left| left.name == flaw.name);
                }
            }
            // Lists that could be stored again tell more by now.
            let damaged = verified.flaws.iter().filter(|flaw| flaw.part == Part::Blob);
            let damaged = damaged.filter_map(|flaw| flaw.name.parse().ok()).collect();
            let lost = layers::lost(&store, &damaged)?;
            for lost in &lost {
                verified.flaws.push(shown_and_lost(&store, lost, args.repair)?);
            }
            verified.flaws.sort_by(|one, other| (one.part, &one.name).cmp(&(other.part, &other.name)));
            drop(doing);
            let is_index_damaged = verified.flaws.iter().any(|flaw| flaw.part == Part::Index);
            if args.repair && is_index_damaged {
                // Opening is what sets a damaged index aside.
                let dir = store.dir().to_owned();
                drop(store);
                if let Some(notice) = Store::open(&dir)?.notice() {
                    crate::complain(&notice);
                }
            }
            verified
        }
        None => Verified::default(),
    };
    // A store of its own: the one above may have been set aside.
    let reruns = match (args.rerun, present(config)?) {
        (Some(number), Some(store)) => match rerun(store, config, number)? {
            Ok(reruns) => Some(reruns),
            Err(Interrupted(signal)) => {
                crate::complain(&format!("interrupted by signal {signal}"));
                return Ok((String::new(), 128 + signal));
            }
        },
        _ => None,
    };
    let code = match &reruns {
        _ if verified.unrepaired() > 0 => crate::cli::EXIT_FAILURE,
        Some(reruns) if reruns.any_unlike() => EXIT_NOT_REPRODUCIBLE,
        _ => 0,
    };
    if args.json {
        return Ok((object(&verified, reruns.as_ref()), code));
    }
    Ok((lines(&verified, args.repair) + &reruns.map(|reruns| reruns.lines()).unwrap_or_default(), code))
}

/// What a tree shows and has lost.
fn shown_and_lost(store: &Arc<Store>, lost: &Lost, repair: bool) -> anyhow::Result<Flaw> {
    let files: Vec<Vec<u8>> = lost.files.iter().map(|(path, _)| path.clone()).collect();
    let of = |files: &[Vec<u8>]| {
        let first = files.first().map(|path| String::from_utf8_lossy(path).into_owned()).unwrap_or_default();
        let more = match files.len() {
            0 | 1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        format!("{first}{more}")
    };
    let left = if repair { layers::drop_lost(store, lost)? } else { files.clone() };
    let detail = match left.as_slice() {
        [] => format!(
            "the bytes of {} are lost; nothing is shown there any more, and its command makes it again",
            of(&files)
        ),
        _ if repair => format!(
            "the bytes of {} are lost, and no command is known to have made that there; remove it, or store the same bytes again",
            of(&left)
        ),
        _ => format!("the bytes of {} are lost; its command makes it again", of(&left)),
    };
    let name = String::from_utf8_lossy(&lost.root).into_owned();
    Ok(Flaw { part: Part::Layer, name, detail, repaired: left.is_empty(), files })
}

fn kind(part: Part) -> &'static str {
    match part {
        Part::Index => "index",
        Part::Record => "record",
        Part::Blob => "blob",
        Part::Layer => "layer",
    }
}

fn object(verified: &Verified, reruns: Option<&Reruns>) -> String {
    let damage: Vec<_> = verified
        .flaws
        .iter()
        .map(|Flaw { part, name, detail, repaired, files }| {
            let files: Vec<_> = files.iter().map(|path| String::from_utf8_lossy(path)).collect();
            serde_json::json!({
                "kind": kind(*part), "name": name, "detail": detail, "repaired": repaired, "files": files
            })
        })
        .collect();
    let object = serde_json::json!({
        "blobs": verified.blobs,
        "bytes": verified.bytes,
        "records": verified.records,
        "layers": verified.layers,
        "damage": damage,
        "unrepaired": verified.unrepaired(),
        "rerun": reruns.map(Reruns::object),
    });
    format!("{object:#}\n")
}

fn lines(verified: &Verified, repair: bool) -> String {
    let mut out = format!(
        "read {} ({}), {} and {}: ",
        count(verified.blobs, "file"),
        human_bytes(verified.bytes),
        count(verified.records, "record"),
        count(verified.layers, "mounted tree")
    );
    let (all, left) = (verified.flaws.len(), verified.unrepaired());
    let _ = match (all, left) {
        (0, _) => writeln!(out, "nothing is damaged"),
        (_, 0) => {
            writeln!(out, "{} damaged, and out of the way now: what needs them runs again", thousands(all as u64))
        }
        _ if repair => writeln!(out, "{} damaged, {} of them still", thousands(all as u64), thousands(left as u64)),
        _ => writeln!(out, "{} damaged; `wink cache verify --repair` puts that out of the way", thousands(all as u64)),
    };
    for Flaw { part, name, detail, repaired, .. } in verified.flaws.iter().take(SHOWN_MAX) {
        let name = if matches!(part, Part::Blob | Part::Record) { name.get(..16).unwrap_or(name) } else { name };
        let mended = if *repaired { " (repaired)" } else { "" };
        let _ = writeln!(out, "  {} {}: {}{mended}", kind(*part), one_line(name), one_line(detail));
    }
    if let Some(more) = all.checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        let _ = writeln!(out, "  and {more} more; --json lists all");
    }
    out
}

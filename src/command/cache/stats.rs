//! `wink cache stats`: what the cache holds, how often it was hit, why not, and what that saved.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};
use wink_store::{Outcome, Runs, Sizes};

use super::{present, shown, since, workspace};
use crate::config::Config;
use crate::report::{count, human_bytes, human_ms, thousands};

/// `wink cache stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Count only the runs in the workspace that the current directory lies in
    #[arg(long)]
    workspace: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Begin counting anew, after this
    #[arg(long)]
    reset: bool,
}

/// How statistics are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// One object.
    Json,
    /// The text format that Prometheus reads.
    Prometheus,
}

/// Sums over runs.
#[derive(Clone, Debug, Default)]
struct Sums {
    hits: u64,
    misses: u64,
    uncached: u64,
    lookup_us: u64,
    restore_us: u64,
    store_us: u64,
    saved_us: u64,
    last_ms: u64,
    /// How many misses and uncached runs had which reason.
    missed: BTreeMap<String, u64>,
    not_cached: BTreeMap<String, u64>,
}

impl Sums {
    fn add(&mut self, runs: &Runs) {
        self.lookup_us += runs.lookup_us;
        self.saved_us += runs.saved_us;
        self.last_ms = self.last_ms.max(runs.last_ms);
        match runs.outcome {
            Outcome::Hit => {
                self.hits += runs.runs;
                self.restore_us += runs.work_us;
            }
            Outcome::Miss => {
                self.misses += runs.runs;
                self.store_us += runs.work_us;
                *self.missed.entry(runs.reason.clone()).or_default() += runs.runs;
            }
            Outcome::Uncached => {
                self.uncached += runs.runs;
                *self.not_cached.entry(runs.reason.clone()).or_default() += runs.runs;
            }
        }
    }

    fn runs(&self) -> u64 {
        self.hits + self.misses + self.uncached
    }

    fn average_ms(sum_us: u64, count: u64) -> u64 {
        // Rounded; nothing on average of nothing.
        (sum_us + count * 500).checked_div(count * 1000).unwrap_or(0)
    }

    fn restore_ms(&self) -> u64 {
        Sums::average_ms(self.restore_us, self.hits)
    }

    fn store_ms(&self) -> u64 {
        Sums::average_ms(self.store_us, self.misses)
    }

    fn json(&self) -> Value {
        json!({
            "hit_count": self.hits,
            "miss_count": self.misses,
            "uncached_count": self.uncached,
            "avg_lookup_ms": Sums::average_ms(self.lookup_us, self.hits + self.misses),
            "avg_restore_ms": self.restore_ms(),
            "avg_store_ms": self.store_ms(),
            "time_saved_ms": self.saved_us / 1000,
            "by_reason": { "miss": self.missed, "uncached": self.not_cached },
        })
    }
}

/// Everything there is to say.
struct Statistics {
    dir: String,
    sizes: Sizes,
    max_size: Option<u64>,
    last_pruned: Option<u64>,
    all: Sums,
    workspaces: Vec<(Vec<u8>, Sums)>,
}

/// Runs the subcommand; returns what it has to say.
pub fn run(args: &StatsArgs, config: &Config) -> anyhow::Result<String> {
    let here = if args.workspace { Some(workspace()?.as_os_str().as_bytes().to_vec()) } else { None };
    let mut statistics = Statistics {
        dir: config.store_dir()?.to_string_lossy().into_owned(),
        sizes: Sizes::default(),
        max_size: super::bytes(config.max_size.value, config.store_dir()?),
        last_pruned: None,
        all: Sums::default(),
        workspaces: Vec::new(),
    };
    if let Some(store) = present(config)? {
        statistics.sizes = store.sizes()?;
        statistics.last_pruned = store.last_pruned()?;
        let mut workspaces = BTreeMap::<Vec<u8>, Sums>::new();
        for runs in store.counted()? {
            if here.as_ref().is_none_or(|here| *here == runs.workspace) {
                statistics.all.add(&runs);
                workspaces.entry(runs.workspace.clone()).or_default().add(&runs);
            }
        }
        statistics.workspaces = workspaces.into_iter().collect();
        statistics.workspaces.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.last_ms));
        if args.reset {
            store.reset_counts(here.as_deref())?;
        }
    }
    Ok(match args.format {
        _ if args.json => format!("{:#}\n", statistics.json()),
        Format::Json => format!("{:#}\n", statistics.json()),
        Format::Prometheus => statistics.prometheus(),
        Format::Table => statistics.table(),
    })
}

impl Statistics {
    fn json(&self) -> Value {
        let mut object = self.all.json();
        let workspace = |(path, sums): &(Vec<u8>, Sums)| {
            let mut object = sums.json();
            object["workspace"] = json!(shown(path));
            object["last_run"] = json!(sums.last_ms);
            object
        };
        let more = json!({
            "cache_dir": self.dir,
            "total_entries": self.sizes.entries,
            "total_size": self.sizes.total(),
            "disk_size": self.sizes.disk(),
            "index_size": self.sizes.index_disk_bytes,
            "quarantine_size": self.sizes.quarantine_disk_bytes,
            "max_size": self.max_size,
            "last_pruned": self.last_pruned,
            "workspaces": self.workspaces.iter().map(workspace).collect::<Vec<_>>(),
        });
        if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    }

    fn table(&self) -> String {
        let (sizes, all) = (&self.sizes, &self.all);
        let limit = self.max_size.map(|size| format!(" of {}", human_bytes(size))).unwrap_or_default();
        let mut rows = vec![
            ("cache", self.dir.clone()),
            ("entries", thousands(sizes.entries)),
            (
                "size",
                format!(
                    "{}{limit} ({} on the disk, {} of it the index)",
                    human_bytes(sizes.total()),
                    human_bytes(sizes.disk()),
                    human_bytes(sizes.index_disk_bytes)
                ),
            ),
        ];
        if sizes.quarantine_disk_bytes > 0 {
            rows.push(("quarantine", human_bytes(sizes.quarantine_disk_bytes)));
        }
        let percent = |part: u64| (part * 100).checked_div(all.runs()).map(|part| format!(" ({part} %)"));
        rows.push(("runs", thousands(all.runs())));
        rows.push(("hits", format!("{}{}", thousands(all.hits), percent(all.hits).unwrap_or_default())));
        rows.push(("misses", with_reasons(all.misses, &all.missed)));
        rows.push(("not cached", with_reasons(all.uncached, &all.not_cached)));
        if all.hits > 0 {
            rows.push(("time saved", human_ms(all.saved_us / 1000)));
            rows.push(("restoring", format!("{} on average", human_ms(all.restore_ms()))));
        }
        if all.misses > 0 {
            rows.push(("storing", format!("{} on average", human_ms(all.store_ms()))));
        }
        rows.push(("last pruned", self.last_pruned.map_or("never".to_owned(), since)));
        let mut out = String::new();
        for (name, value) in rows {
            let _ = writeln!(out, "{name:<12} {value}");
        }
        if self.workspaces.len() > 1 {
            out.push('\n');
            for (path, sums) in &self.workspaces {
                let place = if path.is_empty() { "workspaces that are gone".to_owned() } else { shown(path) };
                let _ = writeln!(
                    out,
                    "{place}: {}, {}, {} not cached, {} saved",
                    count(sums.hits, "hit"),
                    misses(sums.misses),
                    thousands(sums.uncached),
                    human_ms(sums.saved_us / 1000)
                );
            }
        }
        out
    }

    fn prometheus(&self) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, String)]| {
            let _ = writeln!(out, "# HELP wink_{name} {help}\n# TYPE wink_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "wink_{name}{labels} {value}");
            }
        };
        let one = |value: u64| [(String::new(), value.to_string())];
        metric("cache_entries", "gauge", "Usable entries.", &one(self.sizes.entries));
        metric("cache_bytes", "gauge", "What limits are held against.", &one(self.sizes.total()));
        metric("cache_disk_bytes", "gauge", "What the cache takes on the disk.", &one(self.sizes.disk()));
        if let Some(size) = self.max_size {
            metric("cache_max_bytes", "gauge", "The limit.", &one(size));
        }
        let each = |value: fn(&Sums) -> String| -> Vec<(String, String)> {
            let line = |(path, sums): &(Vec<u8>, Sums)| (format!("{{workspace=\"{}\"}}", label(path)), value(sums));
            self.workspaces.iter().map(line).collect()
        };
        metric("hits_total", "counter", "Runs that were hits.", &each(|sums| sums.hits.to_string()));
        let reasons = |pick: fn(&Sums) -> &BTreeMap<String, u64>| -> Vec<(String, String)> {
            let lines = |(path, sums): &(Vec<u8>, Sums)| -> Vec<(String, String)> {
                let line = |(reason, runs): (&String, &u64)| {
                    (format!("{{workspace=\"{}\",reason=\"{reason}\"}}", label(path)), runs.to_string())
                };
                pick(sums).iter().map(line).collect()
            };
            self.workspaces.iter().flat_map(lines).collect()
        };
        metric("misses_total", "counter", "Runs that made an entry, by reason.", &reasons(|sums| &sums.missed));
        metric("uncached_total", "counter", "Runs that made none, by reason.", &reasons(|sums| &sums.not_cached));
        metric(
            "saved_seconds_total",
            "counter",
            "How much less hits took than their commands.",
            &each(|s| in_seconds(s.saved_us)),
        );
        metric("lookup_seconds_total", "counter", "Looking up, hits and misses.", &each(|s| in_seconds(s.lookup_us)));
        metric("restore_seconds_total", "counter", "Restoring, hits.", &each(|s| in_seconds(s.restore_us)));
        metric("store_seconds_total", "counter", "Storing, misses.", &each(|s| in_seconds(s.store_us)));
        if let Some(at) = self.last_pruned {
            metric("last_pruned_timestamp_seconds", "gauge", "When it was pruned last.", &one(at / 1000));
        }
        out
    }
}

fn in_seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// A label's value: what the format would misread is escaped.
fn label(path: &[u8]) -> String {
    shown(path).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn misses(number: u64) -> String {
    if number == 1 { "1 miss".to_owned() } else { format!("{} misses", thousands(number)) }
}

/// `231: 120 input changed, 111 no record`, most frequent first.
fn with_reasons(total: u64, reasons: &BTreeMap<String, u64>) -> String {
    let mut reasons: Vec<(&String, &u64)> = reasons.iter().collect();
    reasons.sort_by_key(|(_, runs)| std::cmp::Reverse(**runs));
    let reasons: Vec<String> =
        reasons.iter().map(|(reason, runs)| format!("{} {}", thousands(**runs), reason.replace('_', " "))).collect();
    match reasons.is_empty() {
        true => thousands(total),
        false => format!("{}: {}", thousands(total), reasons.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(outcome: Outcome, reason: &str, runs: u64, work_us: u64) -> Runs {
        let (workspace, reason) = (b"/w".to_vec(), reason.to_owned());
        Runs { workspace, outcome, reason, runs, lookup_us: 1000, work_us, command_ms: 0, saved_us: 1500, last_ms: 7 }
    }

    #[test]
    fn averages_are_of_what_they_are_named_after() {
        let mut sums = Sums::default();
        assert_eq!((sums.restore_ms(), sums.store_ms()), (0, 0));
        sums.add(&runs(Outcome::Hit, "", 4, 10_000));
        sums.add(&runs(Outcome::Miss, "no_record", 2, 30_000));
        sums.add(&runs(Outcome::Uncached, "failed", 9, 900_000));
        assert_eq!((sums.restore_ms(), sums.store_ms()), (3, 15));
        let json = sums.json();
        assert_eq!(
            (&json["hit_count"], &json["miss_count"], &json["uncached_count"]),
            (&json!(4), &json!(2), &json!(9))
        );
        assert_eq!(json["time_saved_ms"], 4);
        assert_eq!(json["by_reason"], json!({ "miss": { "no_record": 2 }, "uncached": { "failed": 9 } }));
    }

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(label(b"/a\"b\\c\nd"), r#"/a\"b\\c\nd"#);
        assert_eq!(in_seconds(1_234_567), "1.234567");
    }

    #[test]
    fn reasons_come_by_number() {
        let reasons = [("a_b".to_owned(), 1), ("c".to_owned(), 2)].into();
        assert_eq!(with_reasons(3, &reasons), "3: 2 c, 1 a b");
        assert_eq!(with_reasons(0, &BTreeMap::new()), "0");
    }
}

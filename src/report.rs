//! What a run tells: one line for people on standard error, one JSON object for programs.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// How a run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A record held; nothing was run.
    Hit,
    /// The command ran, and a record was made.
    Miss,
    /// The command ran or failed to start, and no record was made.
    #[default]
    Uncached,
}

/// The kinds of reasons for which a run is no hit, as they are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// It is a hit.
    #[default]
    None,
    /// No record has this task key, nor was there one for such a command here.
    FirstRun,
    /// The environment, a setting or a declared input is another one than in earlier runs of the command here.
    KeyChanged,
    /// A recorded fact does not hold.
    InputChanged,
    /// The record holds at another place only.
    Elsewhere,
    /// `--force`, or the cache is not to be read.
    NotAsked,
    /// What was stored is damaged.
    Damaged,
    /// A file to be restored has other names.
    HardLinks,
    /// The outputs could not be put in place.
    NotRestored,
    /// The command failed.
    Failed,
    /// It was interrupted or killed.
    Interrupted,
    /// Processes outlived it.
    Survivors,
    /// It wrote outside the workspace.
    OutsideWrite,
    /// What it saw may not be all, or has changed meanwhile.
    Doubt,
    /// Not all that it left could be published.
    NotPublished,
    /// Its result could not be stored, or is not to be.
    NotStored,
    /// It ran inside another task.
    Nested,
    /// Its package is not to be cached.
    Excluded,
    /// It could not be watched: no view, a descriptor that was handed to it, a workspace that is read-only or everything.
    NotWatched,
    /// The cache could not be used.
    NoCache,
}

impl Class {
    /// As it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Class::None => "",
            Class::FirstRun => "first_run",
            Class::KeyChanged => "key_changed",
            Class::InputChanged => "input_changed",
            Class::Elsewhere => "elsewhere",
            Class::NotAsked => "not_asked",
            Class::Damaged => "damaged",
            Class::HardLinks => "hard_links",
            Class::NotRestored => "not_restored",
            Class::Failed => "failed",
            Class::Interrupted => "interrupted",
            Class::Survivors => "survivors",
            Class::OutsideWrite => "outside_write",
            Class::Doubt => "doubt",
            Class::NotPublished => "not_published",
            Class::NotStored => "not_stored",
            Class::Nested => "nested",
            Class::Excluded => "excluded",
            Class::NotWatched => "not_watched",
            Class::NoCache => "no_cache",
        }
    }
}

/// How restored files came into the workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RestoredAs {
    /// As entries of a mounted workspace.
    Views,
    /// As files that share their blocks with the store.
    Reflinks,
    /// As copies.
    Copies,
    /// Nothing had to be restored.
    #[default]
    None,
}

/// The first observation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The absolute path.
    pub path: String,
    /// What the record saw.
    pub recorded: String,
    /// What is there.
    pub present: String,
}

/// Everything that is said about one run. The serialised fields and their names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How it went.
    pub status: Status,
    /// Why it was not a hit; null for a hit.
    pub reason: Option<String>,
    /// Which kind of reason that is.
    #[serde(skip)]
    pub class: Class,
    /// The task key, hexadecimal; null if wink failed before it was known.
    pub task_key: Option<String>,
    /// The record that was used or made, hexadecimal.
    pub record: Option<String>,
    /// The exit code of the command; wink's own if the command did not run.
    pub exit_code: i32,
    /// How long the command ran; for a hit, how long it ran when the record was made.
    pub command_ms: u64,
    /// How long the lookup took.
    pub lookup_ms: u64,
    /// How long restoring took.
    pub restore_ms: u64,
    /// How long storing took.
    pub store_ms: u64,
    /// How long everything took.
    pub total_ms: u64,
    /// How many observations the record has.
    pub observations: u64,
    /// How many outputs the record has.
    pub outputs: u64,
    /// Their size.
    pub output_bytes: u64,
    /// How they were restored.
    pub restored_as: RestoredAs,
    /// The record holds only in a workspace at this absolute path.
    pub bound_to_root: bool,
    /// What differed from the nearest record.
    pub first_difference: Option<Difference>,
    /// Nothing was done: the line says what would be.
    #[serde(skip)]
    pub dry_run: bool,
}

/// How many digits of a record's name the line shows.
const SHORT: usize = 8;

impl Report {
    /// The report of a run that wink could not start.
    pub fn failed(reason: impl Into<String>, exit_code: i32) -> Report {
        Report { reason: Some(reason.into()), exit_code, ..Report::default() }
    }

    /// The line for people, without a line end and without colours.
    #[cfg(test)]
    pub fn line(&self) -> String {
        self.line_in(false)
    }

    fn line_in(&self, colours: bool) -> String {
        let paint = |code: &str, text: &str| match colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let record = self.record.as_deref().map(|record| format!(" {}", record.get(..SHORT).unwrap_or(record)));
        let record = record.unwrap_or_default();
        let reason = one_line(self.reason.as_deref().unwrap_or("the reason is not known"));
        let would = if self.dry_run { "would be a " } else { "" };
        let mut parts = Vec::new();
        match self.status {
            Status::Hit => {
                parts.push(format!("wink: {would}{}{record}", paint("32", "hit")));
                parts.push(count(self.observations, "input"));
                parts.push(self.restored());
                let saved = self.command_ms.saturating_sub(self.total_ms);
                let saved =
                    if saved > 0 && !self.dry_run { format!(" (saved {})", human_ms(saved)) } else { String::new() };
                parts.push(format!("{}{saved}", human_ms(self.total_ms)));
            }
            Status::Miss => {
                parts.push(format!("wink: {would}{}{record} ({reason})", paint("33", "miss")));
                if !self.dry_run {
                    parts.push(count(self.observations, "input"));
                    parts.push(format!("{} stored", count(self.outputs, "output")));
                    parts.push(human_ms(self.total_ms));
                }
            }
            Status::Uncached => {
                let not_cached = if self.dry_run { "would not be cached" } else { "not cached" };
                parts.push(format!("wink: {}: {reason}", paint("33", not_cached)));
                if self.total_ms > 0 && !self.dry_run {
                    parts.push(human_ms(self.total_ms));
                }
            }
        }
        parts.join(" · ")
    }

    fn restored(&self) -> String {
        let outputs = count(self.outputs, "output");
        match self.restored_as {
            _ if self.outputs == 0 => "no outputs".to_owned(),
            _ if self.dry_run => outputs,
            RestoredAs::Views => format!("{outputs} restored as views"),
            RestoredAs::Reflinks => format!("{outputs} restored as reflinks"),
            RestoredAs::Copies => format!("{outputs} restored as copies"),
            RestoredAs::None => format!("{outputs} already in place"),
        }
    }

    /// Says everything: the line on standard error unless `quiet`, and the object to `json`. Only the latter can fail.
    pub fn deliver(&self, quiet: bool, json: Option<&Path>) -> anyhow::Result<()> {
        if !quiet {
            crate::progress::clear();
            say(&self.line_in(colours()));
        }
        match json {
            Some(path) => self.write_json(path),
            None => Ok(()),
        }
    }

    /// Writes the object, whole or not at all. What is not a regular file (a pipe, `/dev/null`) is written to, not replaced.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the report cannot be written as JSON")?;
        text.push('\n');
        let failed = || {
            format!("cannot write the report to {}; check that the directory exists and is writable", path.display())
        };
        match fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                let file = fs::OpenOptions::new().write(true).open(path);
                file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(failed)
            }
            // Through a link, the file it leads to is replaced, not the link.
            Ok(_) => replace(&path.canonicalize().with_context(failed)?, text.as_bytes()).with_context(failed),
            Err(_) => replace(path, text.as_bytes()).with_context(failed),
        }
    }
}

/// Says wink's own line. Inside another task it goes past what that captures: it tells of this one time, and is not to be replayed.
fn say(line: &str) {
    if !crate::outer::say(line) {
        // Nobody may be listening any more, and the run went as it went.
        // In one piece, so that the lines of several runs at once do not mix.
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

/// Writes a file beside `path` and renames it there.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside: PathBuf = path.with_file_name(beside);
    let written = fs::OpenOptions::new().write(true).create_new(true).open(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        fs::rename(&beside, path)
    });
    if written.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::AlreadyExists) {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Whether standard error takes colours.
fn colours() -> bool {
    colours_for(&std::io::stderr())
}

/// Whether a stream takes colours: it is a terminal, and `NO_COLOR` is not set to anything.
pub fn colours_for(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `text` as one line that cannot steer a terminal: it may hold a path of anybody's making.
pub fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// `4 ms`, `5.1 s`, `2 min 5 s`, `1 h 3 min`.
pub fn human_ms(ms: u64) -> String {
    // Rounded first and then divided, so that 59,999 does not become "60.0 s".
    let (tenths, seconds) = (ms.saturating_add(50) / 100, ms.saturating_add(500) / 1000);
    match (ms, tenths, seconds) {
        (..1000, ..) => format!("{ms} ms"),
        (_, ..600, _) => format!("{}.{} s", tenths / 10, tenths % 10),
        (.., ..3600) => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", thousands(seconds / 3600), seconds / 60 % 60),
    }
}

/// `just now`, `5 min ago`, `3 h ago`, `2 days ago`: how long since something happened.
pub fn ago(ms: u64) -> String {
    match ms / 60_000 {
        0 => "just now".to_owned(),
        minutes @ 1..60 => format!("{minutes} min ago"),
        minutes @ 60..2880 => format!("{} h ago", minutes / 60),
        minutes => format!("{} days ago", thousands(minutes / 1440)),
    }
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `0 bytes`, `12.3 kB`, `1.0 GB`, in powers of 1000.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return count(bytes, "byte");
    }
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `1 input`, `1,234 inputs`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit() -> Report {
        Report {
            status: Status::Hit,
            record: Some("3f2a91c0ffffffff".into()),
            command_ms: 5104,
            total_ms: 4,
            observations: 412,
            outputs: 1753,
            restored_as: RestoredAs::Views,
            ..Report::default()
        }
    }

    #[test]
    fn the_line() {
        let line = "wink: hit 3f2a91c0 · 412 inputs · 1,753 outputs restored as views · 4 ms (saved 5.1 s)";
        assert_eq!(hit().line(), line);
        let none = Report { outputs: 0, command_ms: 3, ..hit() };
        assert_eq!(none.line(), "wink: hit 3f2a91c0 · 412 inputs · no outputs · 4 ms");
        let miss = Report {
            status: Status::Miss,
            reason: Some("src/a.c changed".into()),
            total_ms: 5200,
            outputs: 1,
            ..hit()
        };
        assert_eq!(miss.line(), "wink: miss 3f2a91c0 (src/a.c changed) · 412 inputs · 1 output stored · 5.2 s");
        let failed = Report::failed("cannot\x1b[2J\nsee", 125);
        assert_eq!(failed.line(), "wink: not cached: cannot\u{fffd}[2J\u{fffd}see");
        assert!(Report { dry_run: true, ..hit() }.line().starts_with("wink: would be a hit"));
    }

    #[test]
    fn the_object_has_exactly_these_fields() {
        let value = serde_json::to_value(hit()).unwrap();
        let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut wanted = [
            "status",
            "reason",
            "task_key",
            "record",
            "exit_code",
            "command_ms",
            "lookup_ms",
            "restore_ms",
            "store_ms",
            "total_ms",
            "observations",
            "outputs",
            "output_bytes",
            "restored_as",
            "bound_to_root",
            "first_difference",
        ];
        wanted.sort_unstable();
        assert_eq!(names, wanted);
        assert_eq!((&value["status"], &value["restored_as"]), (&"hit".into(), &"views".into()));
        assert!(value["first_difference"].is_null());
    }

    #[test]
    fn numbers_for_people() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (5149, "5.1 s"),
            (59_999, "1 min 0 s"),
            (60_000, "1 min 0 s"),
            (125_000, "2 min 5 s"),
            (3_780_000, "1 h 3 min"),
        ] {
            assert_eq!(human_ms(ms), text);
        }
        for (ms, text) in [
            (59_999, "just now"),
            (60_000, "1 min ago"),
            (3_600_000, "1 h ago"),
            (47 * 3_600_000, "47 h ago"),
            (48 * 3_600_000, "2 days ago"),
        ] {
            assert_eq!(ago(ms), text);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!((thousands(0).as_str(), thousands(999).as_str(), thousands(1000).as_str()), ("0", "999", "1,000"));
        for (bytes, text) in
            [(1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (12_345, "12.3 kB"), (1_000_000_000, "1.0 GB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
        human_bytes(u64::MAX);
        human_ms(u64::MAX);
    }

    #[test]
    fn the_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("-");
        fs::write(&path, "old and much longer than nothing").unwrap();
        hit().write_json(&path).unwrap();
        let value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(value["outputs"], 1753);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = hit().write_json(&dir.path().join("no/such/file")).unwrap_err();
        assert!(error.to_string().contains("no/such/file"));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_devices_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        hit().write_json(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&target).unwrap().contains("\"hit\""));
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        hit().write_json(&null).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}

//! `wink doctor`: what this machine, this cache and this configuration allow; of each lack what it costs and how to mend it.
//!
//! It only looks: what is tried out (a mount, shared blocks) is tried in namespaces and files that nobody else sees. A cache that does not exist
//! yet is not made.

mod checks;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Config;
use crate::report::{colours_for, one_line};
use crate::workspace::{self, Because};

/// `wink doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Something is missing; runs are cached all the same.
    Lack,
    /// Runs cannot be cached.
    Fail,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at; does not change between versions.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What a lack costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<String>,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, outcome: Outcome::Ok, found: found.into(), costs: None, mend: None }
    }

    fn lack(name: &'static str, found: impl Into<String>, costs: &str, mend: &str) -> Check {
        let (costs, mend) = (Some(costs.to_owned()), Some(mend.to_owned()).filter(|mend| !mend.is_empty()));
        Check { name, outcome: Outcome::Lack, found: found.into(), costs, mend }
    }

    fn fail(name: &'static str, found: impl Into<String>, mend: &str) -> Check {
        let costs = Some("commands run uncached".to_owned());
        let mend = Some(mend.to_owned()).filter(|mend| !mend.is_empty());
        Check { name, outcome: Outcome::Fail, found: found.into(), costs, mend }
    }
}

/// The object of `--json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    /// Whether runs can be cached here.
    ok: bool,
    version: &'static str,
    workspace: String,
    cache_dir: Option<String>,
    checks: &'a [Check],
}

/// Runs the subcommand; returns what it has to say, and the exit code.
pub fn run(args: &DoctorArgs) -> anyhow::Result<(String, i32)> {
    let revived = super::mount::revive(Path::new("."));
    let here = Here::find();
    let mut checks = Vec::new();
    if let Err(error) = revived {
        checks.push(Check::fail("mount", crate::explain(&error), "wink unmount leaves the real directory"));
    }
    checks.extend(checks::all(&here));
    let ok = checks.iter().all(|check| check.outcome != Outcome::Fail);
    let text = if args.json {
        let cache_dir = here.store.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let workspace = here.workspace.to_string_lossy().into_owned();
        let document = Document { ok, version: env!("CARGO_PKG_VERSION"), workspace, cache_dir, checks: &checks };
        format!("{}\n", serde_json::to_string_pretty(&document)?)
    } else {
        people(&checks, ok, colours_for(&std::io::stdout()))
    };
    Ok((text, if ok { 0 } else { crate::cli::EXIT_FAILURE }))
}

/// Where the doctor was called.
pub struct Here {
    /// The workspace of the current directory.
    pub workspace: PathBuf,
    /// What made it one.
    pub because: Because,
    /// Its configuration, or why there is none.
    pub config: anyhow::Result<Config>,
    /// Where the cache is, if that is known.
    pub store: Option<PathBuf>,
}

impl Here {
    fn find() -> Here {
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let found = workspace::find(&cwd, std::env::home_dir().as_deref());
        let found = found.unwrap_or(workspace::Workspace { root: cwd, because: Because::CurrentDirectory });
        let config = Config::load(&found.root, std::env::vars_os());
        let store = config.as_ref().ok().and_then(|config| config.store_dir().ok()).map(Path::to_owned);
        Here { workspace: found.root, because: found.because, config, store }
    }
}

/// The form for people: one line a check, and below it what a lack costs and how to mend it.
fn people(checks: &[Check], ok: bool, colours: bool) -> String {
    let paint = |code: &str, text: &str| match colours {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let mark = match check.outcome {
            Outcome::Ok => paint("32", "ok  "),
            Outcome::Lack => paint("33", "lack"),
            Outcome::Fail => paint("31", "FAIL"),
        };
        let _ = writeln!(out, "{mark}  {:width$}  {}", check.name, one_line(&check.found));
        for (what, text) in [("costs", &check.costs), ("mend", &check.mend)] {
            if let Some(text) = text {
                let _ = writeln!(out, "      {:width$}  {what}: {}", "", one_line(text));
            }
        }
    }
    let verdict = if ok { paint("32", "runs can be cached here") } else { paint("31", "runs cannot be cached here") };
    let _ = writeln!(out, "\n{verdict}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_costs_and_remedies_below_each_lack() {
        let checks = [
            Check::ok("kernel", "Linux 6.18.0"),
            Check::lack("reflink", "refused\x1b[2J", "hits copy", "another disk"),
            Check::fail("fuse", "no device", ""),
        ];
        let wanted = "ok    kernel   Linux 6.18.0\n\
                      lack  reflink  refused\u{fffd}[2J\n               costs: hits copy\n               mend: another disk\n\
                      FAIL  fuse     no device\n               costs: commands run uncached\n\
                      \nruns cannot be cached here\n";
        assert_eq!(people(&checks, false, false), wanted);
        assert!(people(&checks, false, true).contains("\x1b[31mFAIL\x1b[0m"));
    }
}

//! `wink cache verify --rerun N`: recorded tasks of this workspace once more, to see which are reproducible.
//!
//! Each runs in a process of its own, as runs do: what serves a view ends with it. What came of it is handed over through a pipe.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wink_platform::unix::front::{self, Ending};
use wink_store::{RecordId, Store};

use crate::command::run::again::again;
use crate::command::run::decide::{barred, own_outputs};
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::again::{Again, Unlike, What};
use crate::engine::tree::Tree;
use crate::key::KeyParts;
use crate::report::{count, one_line, thousands};
use crate::{outer, progress};

/// Exit code if nothing is damaged, but a task is not reproducible.
pub const EXIT_NOT_REPRODUCIBLE: i32 = 3;
/// How much of what differs is handed over: less than a pipe takes without a reader.
const MESSAGE_BYTES_MAX: usize = 48 << 10;
/// How many digits of a record's name are shown.
const SHORT: usize = 8;

/// The signal that ended it.
pub struct Interrupted(pub i32);

/// What running tasks again came to.
pub struct Reruns {
    workspace: PathBuf,
    tasks: Vec<Rerun>,
}

/// One task.
#[derive(Debug, Serialize, Deserialize)]
struct Rerun {
    record: String,
    command: Vec<String>,
    again: Again,
    /// Differences that were too many to hand over.
    more: u64,
}

/// Runs the tasks of records in this workspace again, last used first, until `number` could be compared. A signal that
/// ended one of them ends it all.
pub fn rerun(store: Store, config: &Config, number: u32) -> anyhow::Result<Result<Reruns, Interrupted>> {
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok()).filter(|home| home.parent().is_some());
    let workspace = super::workspace()?;
    ensure!(
        outer::of_run(&workspace).is_none(),
        "recorded tasks cannot be run again inside another task; ask outside of it"
    );
    crate::command::mount::revive(&workspace)?;
    let ids = store.last_runs(workspace.as_os_str().as_bytes())?;
    let mut records = Vec::new();
    for id in ids {
        if store.head(&id)?.is_some_and(|head| head.usable) {
            records.push(id);
        }
    }
    // A database connection must not cross a fork.
    let dir = store.dir().to_owned();
    drop(store);
    let _doing = progress::doing("running recorded tasks again", None);
    let mut tasks = Vec::new();
    let mut compared = 0;
    for id in records {
        if compared == number {
            break;
        }
        progress::at("running recorded tasks again", 0, 0);
        let rerun = apart(&dir, &workspace, home.as_deref(), config, &id)?;
        if let Again::Interrupted(signal) = rerun.again {
            return Ok(Err(Interrupted(signal)));
        }
        compared += u32::from(matches!(rerun.again, Again::Compared(_)));
        tasks.push(rerun);
    }
    Ok(Ok(Reruns { workspace, tasks }))
}

/// One of them, in a process of its own.
fn apart(dir: &Path, workspace: &Path, home: Option<&Path>, config: &Config, id: &RecordId) -> anyhow::Result<Rerun> {
    let (mut reader, mut writer) = std::io::pipe().context("no pipe is to be had")?;
    let ending = front::split(|announcer| {
        let bytes = message(one(dir, workspace, home, config, id));
        let _ = writer.write_all(&bytes);
        announcer.ended(0);
    });
    drop(writer);
    let mut bytes = Vec::new();
    if ending.context("the task cannot be started")? == Ending::Code(0) {
        reader.read_to_end(&mut bytes)?;
    }
    let lost =
        |_| skipped(id, Vec::new(), "the part of wink that serves the command was killed; is there enough memory?");
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(lost))
}

fn skipped(id: &RecordId, command: Vec<String>, reason: &str) -> Rerun {
    Rerun { record: id.0.to_string(), command, again: Again::Skipped(reason.to_owned()), more: 0 }
}

/// As many bytes as a pipe takes.
fn message(mut rerun: Rerun) -> Vec<u8> {
    loop {
        let bytes = serde_json::to_vec(&rerun).unwrap_or_default();
        match &mut rerun.again {
            Again::Compared(unlike) if bytes.len() > MESSAGE_BYTES_MAX && unlike.len() > 1 => {
                let kept = unlike.len() / 2;
                rerun.more += (unlike.len() - kept) as u64;
                unlike.truncate(kept);
            }
            _ if bytes.len() > MESSAGE_BYTES_MAX && !rerun.command.is_empty() => rerun.command.clear(),
            _ => return bytes,
        }
    }
}

fn one(dir: &Path, workspace: &Path, home: Option<&Path>, config: &Config, id: &RecordId) -> Rerun {
    let mut command = Vec::new();
    let mut tried = || -> anyhow::Result<Again> {
        let store = Arc::new(Store::open(dir)?);
        let head = store.head(id)?.context("it has been removed meanwhile")?;
        let argv: Vec<OsString> = store.argv(id)?.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
        command = argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let here = store.key_parts_in(workspace.as_os_str().as_bytes(), &head.task_key)?;
        let parts = match here {
            Some(parts) => Some(parts),
            None => store.key_parts(&head.task_key)?,
        };
        let Some(parts) = parts.and_then(|parts| serde_json::from_slice::<KeyParts>(&parts).ok()) else {
            return Ok(Again::Skipped("what its key was made of is not kept any more".to_owned()));
        };
        let mut task = match again(&head, &parts, argv, (workspace, home), config) {
            Ok(task) => task,
            Err(reason) => return Ok(Again::Skipped(reason)),
        };
        if let Some((_, reason)) = barred(&task) {
            return Ok(Again::Skipped(reason));
        }
        task.mount = crate::command::mount::find(dir, workspace)?;
        let engine = Engine { store: &store, task: &task, unheld: false };
        let mut tree = Tree::new(&store, task.mount.as_ref())?;
        let standing = {
            let _hold = store.hold()?;
            let standing = own_outputs(&engine, &mut tree)?;
            if let Err(miss) = engine.judge(&head, &mut tree, &standing) {
                return Ok(Again::Skipped(miss.reason));
            }
            standing
        };
        engine.run_again(&head, &standing, &mut tree)
    };
    let again = tried().unwrap_or_else(|error| Again::Skipped(crate::explain(&error)));
    Rerun { record: id.0.to_string(), command, again, more: 0 }
}

impl Rerun {
    /// What is not as recorded; `None` if it was not compared.
    fn unlike(&self) -> Option<&[Unlike]> {
        match &self.again {
            Again::Compared(unlike) => Some(unlike),
            Again::Skipped(_) | Again::Interrupted(_) => None,
        }
    }
}

impl Reruns {
    fn numbers(&self) -> (u64, u64, u64) {
        let of = |is: fn(&Rerun) -> bool| self.tasks.iter().filter(|task| is(task)).count() as u64;
        (
            of(|task| task.unlike().is_some_and(<[Unlike]>::is_empty)),
            of(|task| task.unlike().is_some_and(|unlike| !unlike.is_empty())),
            of(|task| task.unlike().is_none()),
        )
    }

    /// Whether some task is not reproducible.
    pub fn any_unlike(&self) -> bool {
        self.numbers().1 > 0
    }

    /// The object of `--json`.
    pub fn object(&self) -> Value {
        let (same, different, skipped) = self.numbers();
        let task = |task: &Rerun| {
            let (outcome, reason) = match &task.again {
                Again::Compared(unlike) if unlike.is_empty() => ("same", None),
                Again::Compared(_) => ("different", None),
                Again::Skipped(reason) => ("skipped", Some(reason)),
                Again::Interrupted(_) => ("skipped", None),
            };
            json!({
                "record": task.record,
                "command": task.command,
                "outcome": outcome,
                "reason": reason,
                "differences": task.unlike().unwrap_or_default(),
                "more_differences": task.more,
            })
        };
        json!({
            "workspace": self.workspace.to_string_lossy(),
            "same": same,
            "different": different,
            "skipped": skipped,
            "tasks": self.tasks.iter().map(task).collect::<Vec<_>>(),
        })
    }

    /// The lines for people.
    pub fn lines(&self) -> String {
        let (same, different, skipped) = self.numbers();
        if self.tasks.is_empty() {
            return format!("no recorded task of {} can be run again\n", self.workspace.display());
        }
        let mut out = format!("ran {} again: ", count(same + different, "recorded task"));
        out += &match (same, different) {
            (_, 0) => "each gave what was recorded".to_owned(),
            (0, _) => format!("{} not reproducible", are(different)),
            _ => format!("{} not reproducible, {} gave what was recorded", are(different), thousands(same)),
        };
        if same + different == 0 {
            out = "ran no recorded task again".to_owned();
        }
        if skipped > 0 {
            let _ = write!(out, "; {} passed over", thousands(skipped));
        }
        out.push('\n');
        for task in &self.tasks {
            let name = task.record.get(..SHORT).unwrap_or(&task.record);
            let command = one_line(&task.command.join(" "));
            let _ = match &task.again {
                Again::Compared(unlike) => match unlike.as_slice() {
                    [] => writeln!(out, "  {name}  same  {command}"),
                    [first, rest @ ..] => {
                        let more = match rest.len() as u64 + task.more {
                            0 => String::new(),
                            1 => ", and 1 more difference".to_owned(),
                            more => format!(", and {} more differences", thousands(more)),
                        };
                        writeln!(out, "  {name}  not reproducible  {command}\n    {}{more}", one_line(&said(first)))
                    }
                },
                Again::Skipped(reason) => {
                    writeln!(out, "  {name}  passed over  {command}\n    {}", one_line(reason))
                }
                Again::Interrupted(_) => Ok(()),
            };
        }
        out
    }
}

fn are(number: u64) -> String {
    if number == 1 { "1 is".to_owned() } else { format!("{} are", thousands(number)) }
}

fn said(unlike: &Unlike) -> String {
    let Unlike { name, what, recorded, present, offset } = unlike;
    let at = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
    match what {
        What::Bytes | What::Printed => format!("{name} differs{at} (recorded {recorded}, now {present})"),
        What::Mode => format!("{name} has the mode {present}, recorded {recorded}"),
        What::Target => format!("{name} points to {present}, recorded {recorded}"),
        What::Kind => format!("{name} is {present}, recorded {recorded}"),
        What::Missing if recorded == "removed" => format!("only the recorded run removed {name}"),
        What::Missing => format!("only the recorded run wrote {name}"),
        What::Appeared if present == "removed" => format!("only this run removed {name}"),
        What::Appeared => format!("only this run wrote {name}"),
        What::ExitCode => format!("exit code {present}, recorded {recorded}"),
    }
}

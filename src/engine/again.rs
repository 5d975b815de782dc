//! A recorded task run once more, only to be compared: is its result a function of what it read?
//!
//! Like any run it takes place in a view, as from clean: what stands of earlier runs is hidden. Nothing of it is published, stored or counted, nor of
//! runs inside it. What it left is told by the same code that makes records ([`Engine::capture`]), so that both are compared by one measure.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read};

use serde::{Deserialize, Serialize};
use wink_fs::delta::{Change, Source};
use wink_fs::zone::join;
use wink_platform::unix::backing::RealBacking;
use wink_platform::unix::task::Spawn;
use wink_store::{Captured, Manifest, Output, RecordHead, Stream};

use super::Engine;
use super::capture::Yield;
use super::own::Standing;
use super::session::{Outcome, Ran};
use super::tree::Tree;
use crate::environment::INSIDE;

/// Bytes that are compared at once.
const CHUNK: usize = 64 << 10;

/// What running a record's task again came to.
#[derive(Debug, Serialize, Deserialize)]
pub enum Again {
    /// Whatever differs from the record; nothing if it is reproducible.
    Compared(Vec<Unlike>),
    /// It could not be compared, for this reason.
    Skipped(String),
    /// A signal ended it: whoever sent it wants no more of this.
    Interrupted(i32),
}

/// One thing that is not as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlike {
    /// A path in the workspace, `stdout`, `stderr` or `exit code`.
    pub name: String,
    /// Which kind of difference it is.
    pub what: What,
    /// What was recorded.
    pub recorded: String,
    /// What came of it now.
    pub present: String,
    /// The first byte that differs, counted from 0.
    pub offset: Option<u64>,
}

/// Kinds of differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The bytes of a file.
    Bytes,
    /// The permission bits.
    Mode,
    /// Where a link points to.
    Target,
    /// A file, a link, a directory, or nothing.
    Kind,
    /// Only the recorded run left it.
    Missing,
    /// Only this run left it.
    Appeared,
    /// What was printed.
    Printed,
    /// The exit code.
    ExitCode,
}

impl<'s> Engine<'s> {
    /// Runs the task once more and compares with the record. `standing` is hidden.
    pub fn run_again(&self, head: &RecordHead, standing: &Standing, tree: &mut Tree<'s>) -> anyhow::Result<Again> {
        let task = self.task;
        let mut env: Vec<(OsString, OsString)> =
            task.environment.iter().map(|(name, value)| (name.clone(), task.shown(value))).collect();
        let argv: Vec<OsString> = task.argv.iter().map(|word| task.shown(word)).collect();
        env.push((INSIDE.into(), "1".into()));
        let terminals = task.keys.parts.terminals;
        let spawn = Spawn {
            argv: &argv,
            env,
            cwd: None,
            umask: Some(task.keys.parts.umask),
            quiet: true,
            piped: [!terminals.0, !terminals.1],
            ..task.spawn()
        };
        let mut ran = match self.run_in_view(standing.paths.clone(), None, spawn)? {
            Outcome::Ran(ran) => ran,
            Outcome::NoView(reason) => return Ok(Again::Skipped(reason)),
        };
        if let Some(signal) = ran.finished.interrupted {
            return Ok(Again::Interrupted(signal));
        }
        if let Some(survivor) = ran.finished.survivors.first() {
            let reason = format!("processes outlived the command: {} ({})", survivor.name, survivor.pid);
            return Ok(Again::Skipped(reason));
        }
        if !ran.finished.complete {
            return Ok(Again::Skipped("not all of its output could be captured".to_owned()));
        }
        let again = self.compare(head, standing, tree, &mut ran)?;
        if matches!(&again, Again::Compared(unlike) if !unlike.is_empty()) {
            // Perhaps it saw something else, which somebody saved before it looked.
            tree.start_over()?;
            if let Err(miss) = self.judge(head, tree, standing) {
                return Ok(Again::Skipped(format!("{} while it ran", miss.reason)));
            }
        }
        Ok(again)
    }

    fn compare(
        &self,
        head: &RecordHead,
        standing: &Standing,
        tree: &mut Tree<'s>,
        ran: &mut Ran,
    ) -> anyhow::Result<Again> {
        let view = ran.view.inner();
        let delta = view.delta().map_err(|status| anyhow::anyhow!("cannot tell what the command changed: {status}"))?;
        let sources: HashMap<Vec<u8>, Source> = delta
            .changes
            .iter()
            .filter_map(|changed| match &changed.change {
                Change::File { source, .. } => Some((changed.path.clone(), source.clone())),
                _ => None,
            })
            .collect();
        let printed = Captured { pieces: std::mem::take(&mut ran.finished.pieces) };
        let run = Yield {
            delta,
            sights: ran.view.recorder().take(),
            notes: view.notes(),
            printed: printed.clone(),
            carried: None,
            hidden: standing,
            zones: &ran.zones,
            unnoted: &ran.unnoted,
            backing: view.backing().real(),
            live: false,
            in_place: false,
        };
        let harvest = self.capture(run, tree);
        // Somebody works here meanwhile, or it did what no recorded run may: then nobody can say what is whose.
        if let Some(doubt) = ran.doubt.take().or(harvest.lost).or_else(|| harvest.doubts.into_iter().next()) {
            return Ok(Again::Skipped(doubt));
        }
        let mut unlike = Vec::new();
        let code = ran.finished.outcome.exit_code();
        if code != head.exit_code {
            unlike.push(Unlike {
                name: "exit code".to_owned(),
                what: What::ExitCode,
                recorded: head.exit_code.to_string(),
                present: code.to_string(),
                offset: None,
            });
        }
        let recorded = self.store.manifest(&head.manifest)?;
        let mut files = Files { engine: self, backing: view.backing().real(), sources, tree };
        compare_outputs(&recorded, &harvest.manifest, &mut unlike, |path, digest| {
            files.first_difference(path, digest)
        })?;
        compare_printed(&self.store.captured(&head.id)?, &printed, &mut unlike);
        Ok(Again::Compared(unlike))
    }
}

/// Where the bytes of both runs are.
struct Files<'a, 's> {
    engine: &'a Engine<'s>,
    backing: &'a RealBacking,
    sources: HashMap<Vec<u8>, Source>,
    tree: &'a mut Tree<'s>,
}

impl Files<'_, '_> {
    fn first_difference(&mut self, path: &[u8], recorded: &wink_store::Digest) -> anyhow::Result<Option<u64>> {
        let now = match self.sources.get(&join(self.engine.workspace(), path)) {
            Some(Source::Staged(staged)) => File::open(self.backing.staged_path(*staged)?)?,
            Some(Source::Beneath(from)) => self.tree.ground().open(from)?,
            None => return Ok(None),
        };
        Ok(first_difference(self.engine.store.open_blob(recorded)?, now)?)
    }
}

/// The first byte in which two streams differ; the end of the shorter one counts.
fn first_difference(one: impl Read, other: impl Read) -> io::Result<Option<u64>> {
    let (mut one, mut other) = (BufReader::with_capacity(CHUNK, one), BufReader::with_capacity(CHUNK, other));
    let mut at = 0;
    loop {
        let (left, right) = (io::BufRead::fill_buf(&mut one)?, io::BufRead::fill_buf(&mut other)?);
        if left.is_empty() && right.is_empty() {
            return Ok(None);
        }
        let common = left.len().min(right.len());
        if let Some(differs) = left.iter().zip(right).position(|(left, right)| left != right) {
            return Ok(Some(at + differs as u64));
        }
        if common == 0 {
            return Ok(Some(at));
        }
        at += common as u64;
        io::BufRead::consume(&mut one, common);
        io::BufRead::consume(&mut other, common);
    }
}

/// What two runs left, path by path.
fn compare_outputs(
    recorded: &Manifest,
    present: &Manifest,
    unlike: &mut Vec<Unlike>,
    mut first: impl FnMut(&[u8], &wink_store::Digest) -> anyhow::Result<Option<u64>>,
) -> anyhow::Result<()> {
    let outputs = |manifest: &Manifest| -> std::collections::BTreeMap<Vec<u8>, Output> {
        manifest.entries.iter().map(|entry| (entry.path.clone(), entry.output.clone())).collect()
    };
    let (then, mut now) = (outputs(recorded), outputs(present));
    let mut found = Vec::new();
    let mut note = |path: &[u8], what, recorded: String, present: String, offset| {
        let name = String::from_utf8_lossy(path).into_owned();
        found.push((path.to_vec(), Unlike { name, what, recorded, present, offset }));
    };
    for (path, left) in then {
        let Some(present) = now.remove(&path) else {
            note(&path, What::Missing, describe(&left), "nothing".to_owned(), None);
            continue;
        };
        match (&left, &present) {
            (
                Output::File { digest, size, mode },
                Output::File { digest: digest_now, size: size_now, mode: mode_now },
            ) => {
                if digest != digest_now {
                    let offset = first(&path, digest)?;
                    note(&path, What::Bytes, bytes(*size), bytes(*size_now), offset);
                } else if mode != mode_now {
                    note(&path, What::Mode, format!("{mode:04o}"), format!("{mode_now:04o}"), None);
                }
            }
            (Output::Dir { mode }, Output::Dir { mode: mode_now }) if mode != mode_now => {
                note(&path, What::Mode, format!("{mode:04o}"), format!("{mode_now:04o}"), None);
            }
            (Output::Link { target }, Output::Link { target: target_now }) if target != target_now => {
                let shown = |target: &[u8]| String::from_utf8_lossy(target).into_owned();
                note(&path, What::Target, shown(target), shown(target_now), None);
            }
            _ if std::mem::discriminant(&left) != std::mem::discriminant(&present) => {
                note(&path, What::Kind, describe(&left), describe(&present), None);
            }
            _ => {}
        }
    }
    for (path, output) in now {
        note(&path, What::Appeared, "nothing".to_owned(), describe(&output), None);
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    unlike.extend(found.into_iter().map(|(_, unlike)| unlike));
    Ok(())
}

/// Each stream for itself: how the two are interleaved is a matter of timing.
fn compare_printed(recorded: &Captured, present: &Captured, unlike: &mut Vec<Unlike>) {
    let of = |captured: &Captured, wanted| -> Vec<u8> {
        let pieces = captured.pieces.iter().filter(|(stream, _)| *stream == wanted);
        pieces.flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    };
    for (stream, name) in [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")] {
        let (then, now) = (of(recorded, stream), of(present, stream));
        if let Ok(Some(offset)) = first_difference(then.as_slice(), now.as_slice()) {
            unlike.push(Unlike {
                name: name.to_owned(),
                what: What::Printed,
                recorded: bytes(then.len() as u64),
                present: bytes(now.len() as u64),
                offset: Some(offset),
            });
        }
    }
}

fn bytes(number: u64) -> String {
    if number == 1 { "1 byte".to_owned() } else { format!("{number} bytes") }
}

fn describe(output: &Output) -> String {
    match output {
        Output::File { .. } => "a file",
        Output::Link { .. } => "a link",
        Output::Dir { .. } => "a directory",
        Output::Removed => "removed",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use wink_store::{Digest, Entry};

    use super::*;

    #[test]
    fn the_first_byte_that_differs() {
        let long = vec![7; CHUNK * 2 + 5];
        let mut other = long.clone();
        other[CHUNK + 3] = 8;
        for (one, two, wanted) in [
            (&b""[..], &b""[..], None),
            (b"abc", b"abc", None),
            (b"abc", b"abd", Some(2)),
            (b"abc", b"ab", Some(2)),
            (b"", b"x", Some(0)),
            (&long, &other, Some(CHUNK as u64 + 3)),
            (&long, &long[..CHUNK], Some(CHUNK as u64)),
        ] {
            assert_eq!(first_difference(one, two).unwrap(), wanted);
        }
    }

    #[test]
    fn outputs_are_compared_by_path() {
        let entry = |path: &str, output| Entry { path: path.into(), output, modified: false };
        let file = |bytes: &[u8], mode| Output::File { digest: Digest::of(bytes), size: bytes.len() as u64, mode };
        let link = |target: &[u8]| Output::Link { target: target.to_vec() };
        let then = Manifest {
            entries: vec![
                entry("a", file(b"1", 0o644)),
                entry("b", file(b"1", 0o644)),
                entry("c", link(b"x")),
                entry("d", Output::Dir { mode: 0o755 }),
                entry("e", file(b"1", 0o644)),
                entry("f", Output::Removed),
            ],
        };
        let now = Manifest {
            entries: vec![
                entry("a", file(b"22", 0o755)),
                entry("aa", file(b"", 0o644)),
                entry("b", file(b"1", 0o755)),
                entry("c", link(b"y")),
                entry("d", file(b"", 0o644)),
                entry("e", file(b"1", 0o644)),
            ],
        };
        let mut unlike = Vec::new();
        compare_outputs(&then, &now, &mut unlike, |_, _| Ok(Some(0))).unwrap();
        let told: Vec<_> = unlike.iter().map(|one| (one.name.as_str(), one.what, one.offset)).collect();
        let wanted = [
            ("a", What::Bytes, Some(0)),
            ("aa", What::Appeared, None),
            ("b", What::Mode, None),
            ("c", What::Target, None),
            ("d", What::Kind, None),
            ("f", What::Missing, None),
        ];
        assert_eq!(told, wanted);
    }
}

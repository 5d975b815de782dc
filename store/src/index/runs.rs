//! Counting runs: how they went, where, and why they were no hits.
//!
//! A row per workspace, outcome and kind of reason, so that counting a run changes one row. The reasons are the caller's; they must be
//! of few kinds, since each is a row for ever.

use rusqlite::{Connection, params};

use crate::Store;
use crate::error::StoreError;

/// How a run went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// A record held.
    Hit,
    /// The command ran, and a record was made.
    Miss,
    /// The command ran, and no record was made.
    Uncached,
}

/// One run, to be counted.
#[derive(Clone, Copy, Debug)]
pub struct RunCounted<'a> {
    /// Where, by its absolute path.
    pub workspace: &'a [u8],
    /// How it went.
    pub outcome: Outcome,
    /// Which kind of reason it had; empty for a hit.
    pub reason: &'a str,
    /// How long the lookup took, microseconds.
    pub lookup_us: u64,
    /// How long restoring (of a hit) or storing took, microseconds.
    pub work_us: u64,
    /// How long the command ran, or would have.
    pub command_ms: u64,
    /// How much less than the command the hit took, microseconds.
    pub saved_us: u64,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

/// What was counted of one kind in one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Where; empty for workspaces that are gone.
    pub workspace: Vec<u8>,
    /// How they went.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// How many.
    pub runs: u64,
    /// Sum of [`RunCounted::lookup_us`].
    pub lookup_us: u64,
    /// Sum of [`RunCounted::work_us`].
    pub work_us: u64,
    /// Sum of [`RunCounted::command_ms`].
    pub command_ms: u64,
    /// Sum of [`RunCounted::saved_us`].
    pub saved_us: u64,
    /// When the last one was.
    pub last_ms: u64,
}

const OUTCOMES: [Outcome; 3] = [Outcome::Hit, Outcome::Miss, Outcome::Uncached];

impl Store {
    /// Counts a run that was no hit; of a hit more is to be remembered ([`Store::hit`]).
    pub fn count(&self, run: &RunCounted<'_>) -> Result<(), StoreError> {
        self.change(|change| count(change, run))
    }

    /// All that was counted.
    pub fn counted(&self) -> Result<Vec<Runs>, StoreError> {
        let index = self.index()?;
        let read = || -> Result<Vec<Runs>, rusqlite::Error> {
            let mut query = index.prepare_cached(
                "SELECT workspace, outcome, reason, runs, lookup_us, work_us, command_ms, saved_us, last_ms FROM runs",
            )?;
            let rows = query.query_map([], |row| {
                let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
                // An outcome of a later version is nothing that could be added up here.
                let outcome = usize::try_from(row.get::<_, i64>(1)?).ok().and_then(|at| OUTCOMES.get(at).copied());
                let Some(outcome) = outcome else { return Ok(None) };
                Ok(Some(Runs {
                    workspace: row.get(0)?,
                    outcome,
                    reason: row.get(2)?,
                    runs: number(3)?,
                    lookup_us: number(4)?,
                    work_us: number(5)?,
                    command_ms: number(6)?,
                    saved_us: number(7)?,
                    last_ms: number(8)?,
                }))
            })?;
            rows.filter_map(Result::transpose).collect()
        };
        read().map_err(|error| self.index_error(error))
    }

    /// Begins counting anew, in one workspace or everywhere.
    pub fn reset_counts(&self, workspace: Option<&[u8]>) -> Result<(), StoreError> {
        self.change(|change| {
            change.execute("DELETE FROM runs WHERE ?1 IS NULL OR workspace = ?1", params![workspace]).map(drop)
        })
    }
}

pub(super) fn count(change: &Connection, run: &RunCounted<'_>) -> Result<(), rusqlite::Error> {
    change
        .prepare_cached(
            "INSERT INTO runs (workspace, outcome, reason, runs, lookup_us, work_us, command_ms, saved_us, last_ms) \
             VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8) \
             ON CONFLICT (workspace, outcome, reason) DO UPDATE SET runs = runs + 1, lookup_us = lookup_us + excluded.lookup_us, \
             work_us = work_us + excluded.work_us, command_ms = command_ms + excluded.command_ms, \
             saved_us = saved_us + excluded.saved_us, last_ms = max(last_ms, excluded.last_ms)",
        )?
        .execute(params![
            run.workspace,
            run.outcome as i64,
            run.reason,
            run.lookup_us as i64,
            run.work_us as i64,
            run.command_ms as i64,
            run.saved_us as i64,
            run.at_ms as i64,
        ])
        .map(drop)
}

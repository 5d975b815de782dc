//! How the inputs and the outputs of a run are found: the seam behind which the strategies stand.
//!
//! | strategy | inputs | outputs |
//! |---|---|---|
//! | [`tracing`] | what the command asked for, in a view | what it wrote there |
//! | [`snapshot`] | all that lies in the workspace | what is new in the workspace afterwards |
//! | [`snapshot`], by globs | what `--input` names | what is new and `--output` names |
//!
//! Invariant: which strategy made a record is in its task key and in its own key, so a record that was made by a weaker one is never
//! handed to who asked for a stronger one, and what a weaker one takes for an output is no output to a stronger one.

pub mod snapshot;
pub mod tracing;

use wink_platform::unix::task::Finished;

use super::Engine;
use super::capture::Harvest;
use super::own::Standing;
use super::tree::Tree;
use super::turn::Turn;

/// One way of finding out what a command reads and writes.
pub trait Detect: Send + Sync {
    /// Runs the command beside the earlier outputs that stand. An error means that nothing was run.
    fn run<'s>(&self, engine: &Engine<'s>, standing: &Standing, tree: &mut Tree<'s>) -> anyhow::Result<Attempt>;
}

/// What became of an attempt to run the command.
pub enum Attempt {
    /// It ran.
    Ran(Box<dyn Ended>),
    /// There is no view to be had, for this reason; nothing was run.
    NoView(String),
}

/// A command that has ended, and all that is known of it.
pub trait Ended {
    /// How it ended, and what it printed.
    fn finished(&mut self) -> &mut Finished;

    /// What it saw and left. Whatever is in doubt is noted there.
    fn harvest<'s>(&mut self, engine: &Engine<'s>, tree: &mut Tree<'s>) -> anyhow::Result<Harvest>;

    /// Brings the workspace into the state that the run leaves; what cannot be brought there is the error. `turn` is the workspace's, if it was to
    /// be had.
    fn publish<'s>(
        &mut self,
        engine: &Engine<'s>,
        harvest: &mut Harvest,
        tree: &mut Tree<'s>,
        turn: Option<&Turn>,
    ) -> anyhow::Result<()>;

    /// Processes outlived the command: stays with them until the last has gone.
    fn stay(self: Box<Self>, engine: &Engine<'_>);
}

//! The configuration: a user file, a workspace file and environment variables, in that order of rising strength; the command line,
//! which is stronger still, is applied by its owner (`RunArgs::apply`).
//!
//! - [`keys`]: what keys there are, and what they come to for one task
//! - [`load`]: finding and reading the files and variables, and telling people about mistakes
//! - [`document`]: TOML and JSON as one kind of tree, with line numbers
//! - [`show`]: what `wink config show` prints
//! - [`schema`]: the same keys as a JSON Schema, for editors
//! - [`units`], [`pattern`], [`suggest`]: sizes and durations, globs over strings, "did you mean"

mod document;
mod keys;
mod load;
pub mod pattern;
pub mod schema;
mod show;
mod suggest;
mod units;

pub use keys::{Config, Detect, EnvMode, EnvSettings, Own, Scope, Settings, Transport};
pub use load::is_variable;
pub use pattern::matches_glob;
pub use units::{Size, size};

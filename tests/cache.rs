//! `wink cache`: what it says and what it does.

mod common;

#[path = "cache/statistics.rs"]
mod statistics;

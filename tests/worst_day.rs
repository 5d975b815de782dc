//! The worst days of a cache, through the command line, in plain and in mounted trees: kills at any moment, damage to every kind of stored
//! byte, scarcity, crowds, strangers at the daemon's door.
//!
//! Whatever is drawn is drawn from a seed (`WINK_WORST_SEED`, printed when a test fails); `WINK_WORST_ROUNDS` makes the random ones longer.

mod common;

#[path = "worst_day/build.rs"]
mod build;
#[path = "worst_day/crowds.rs"]
mod crowds;
#[path = "worst_day/damage.rs"]
mod damage;
#[path = "worst_day/damage_views.rs"]
mod damage_views;
#[cfg(debug_assertions)]
#[path = "worst_day/every.rs"]
mod every;
#[path = "worst_day/hostile.rs"]
mod hostile;
#[path = "worst_day/kills.rs"]
mod kills;
#[path = "worst_day/planted.rs"]
mod planted;
#[path = "worst_day/scarcity.rs"]
mod scarcity;

/// What could make the program fail on purpose is not in what people install.
#[cfg(not(debug_assertions))]
#[test]
fn no_seam_is_released() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_wink")).unwrap();
    assert!(!common::contains(&program, b"WINKFS_FAULTS") && !common::contains(&program, b".fired"));
}

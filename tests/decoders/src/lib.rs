//! Every decoder as one function that takes hostile bytes and panics if a promise is broken: one set for libFuzzer (`fuzz/`) and for the
//! everyday tests (`tests/hostile_bytes.rs` beside this).
//!
//! The promises: no bytes make a decoder panic, overflow its stack or take memory without measure; what is accepted is written again as
//! the very same bytes, so that a digest names one thing; nothing that was decoded names a place outside of its root.
#![forbid(unsafe_code)]

mod bytes;
mod kernel;
mod layers;
mod names;
mod program;
mod stored;
mod world;

/// One decoder.
pub struct Target {
    /// Its name: a directory of `fuzz/corpus`, a program of `fuzz/targets`.
    pub name: &'static str,
    /// Decodes; panics if a promise is broken. Whether the bytes were accepted.
    pub run: fn(&[u8]) -> bool,
    /// Real encodings to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "argv", run: stored::argv, seeds: stored::argv_seeds },
    Target { name: "captured", run: stored::captured, seeds: stored::captured_seeds },
    Target { name: "config_json", run: program::config_json, seeds: program::config_json_seeds },
    Target { name: "config_toml", run: program::config_toml, seeds: program::config_toml_seeds },
    Target { name: "control", run: world::control, seeds: world::control_seeds },
    Target { name: "digest", run: names::digest, seeds: names::digest_seeds },
    Target { name: "format", run: stored::format, seeds: stored::format_seeds },
    Target { name: "glob", run: program::glob, seeds: program::glob_seeds },
    Target { name: "key_parts", run: program::key_parts, seeds: program::key_parts_seeds },
    Target { name: "layer", run: layers::layer, seeds: layers::layer_seeds },
    Target { name: "layer_log", run: layers::log, seeds: layers::log_seeds },
    Target { name: "layer_steps", run: layers::steps, seeds: layers::steps_seeds },
    Target { name: "manifest", run: stored::manifest, seeds: stored::manifest_seeds },
    Target { name: "maps", run: world::maps, seeds: world::maps_seeds },
    Target { name: "mounts", run: world::mounts, seeds: world::mounts_seeds },
    Target { name: "names", run: names::names, seeds: names::names_seeds },
    Target { name: "pack", run: layers::pack, seeds: layers::pack_seeds },
    Target { name: "places", run: program::places, seeds: program::places_seeds },
    Target { name: "protocol", run: program::protocol, seeds: program::protocol_seeds },
    Target { name: "request", run: kernel::request, seeds: kernel::request_seeds },
    Target { name: "row", run: stored::row, seeds: stored::row_seeds },
    Target { name: "stat", run: world::stat, seeds: world::stat_seeds },
    Target { name: "tasks", run: program::tasks, seeds: program::tasks_seeds },
    Target { name: "times", run: stored::times, seeds: stored::times_seeds },
    Target { name: "trace", run: stored::trace, seeds: stored::trace_seeds },
    Target { name: "units", run: program::units, seeds: program::units_seeds },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// For the programs of `fuzz/`: decodes `bytes` by the target of that name.
pub fn run(name: &str, bytes: &[u8]) {
    match target(name) {
        Some(target) => drop((target.run)(bytes)),
        None => panic!("there is no target {name}"),
    }
}

/// Whether a decoded path stays below its root: said here in other words than the code says it.
fn assert_stays_inside(path: &[u8]) {
    assert!(!path.contains(&0), "NUL in {path:?}");
    let path = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    assert!(plain, "{} is not made of plain names", path.display());
}

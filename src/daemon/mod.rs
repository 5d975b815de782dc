//! The daemon: one per user and store. It owns the mounts of `wink mount`, and their layers; everything else asks it over a socket.
//!
//! ```text
//! protocol   what is said          client   the client's end
//! served     one mount             serve    the daemon's life: socket, mounts, idle exit
//! ```
//! A thread a connection, and fuser's threads a mount. Commands run, and their views are served, in the processes of `wink run`: the daemon
//! never runs anything, so that its death costs a mount and not a build (ADR 0009).

pub mod client;
pub mod protocol;
pub mod serve;
mod served;

/// The control socket in the store's directory.
pub const SOCKET: &str = "daemon.sock";
/// Held while a daemon lives.
const LOCK: &str = "daemon.lock";
/// Where a daemon says what nobody is there to hear.
pub const LOG: &str = "daemon.log";

//! What the daemon and its clients say to each other: one JSON object a message, descriptors beside it.
//!
//! Both ends are the same program, and a daemon of another version is recognised by its first answer, so the form may change freely.

use serde::{Deserialize, Serialize};

use crate::config::Transport;

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// What is going on.
    Status,
    /// Serve a directory. With it come the FUSE device, mounted over the directory, and the real directory beneath.
    Mount {
        /// Absolute path of the directory.
        #[serde(with = "text")]
        root: Vec<u8>,
        /// Mounted in a namespace of its own.
        private: bool,
        /// How requests are to come.
        transport: Transport,
    },
    /// The mount is there: this is its device number.
    Mounted {
        /// Absolute path of the directory.
        #[serde(with = "text")]
        root: Vec<u8>,
        /// `st_dev` of everything in it.
        dev: u64,
    },
    /// Which mount a directory lies in. The answer comes with the real directory beneath the mount.
    Find {
        /// `st_dev` of the directory.
        dev: u64,
    },
    /// Change what a mount shows.
    Attach {
        /// Absolute path of the mount.
        #[serde(with = "text")]
        root: Vec<u8>,
        /// What goes first, deepest first; relative to the mount.
        remove: Vec<Text>,
        /// What appears then.
        pack: Option<Attached>,
    },
    /// Have the log of a mount name nothing that does not show any more.
    Settle {
        /// Absolute path of the mount.
        #[serde(with = "text")]
        root: Vec<u8>,
    },
    /// Store again what a mount needs of the store and still knows, and log what it shows.
    Mend {
        /// Absolute path of the mount.
        #[serde(with = "text")]
        root: Vec<u8>,
    },
    /// Show no more of these views those whose bytes the store has lost. What is real stays.
    DropLost {
        /// Absolute path of the mount.
        #[serde(with = "text")]
        root: Vec<u8>,
        /// Relative to the mount.
        paths: Vec<Text>,
    },
    /// Make views real.
    Materialize {
        /// Absolute path of the mount.
        #[serde(with = "text")]
        root: Vec<u8>,
        /// Relative to the mount; the empty path is all of it.
        #[serde(with = "text")]
        path: Vec<u8>,
    },
    /// End, if nothing is mounted.
    Stop,
}

/// A pack to be attached.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attached {
    /// Directory below which it appears, relative to the mount.
    #[serde(with = "text")]
    pub at: Vec<u8>,
    /// The pack's digest, in hexadecimal digits.
    pub pack: String,
    /// Time of rank 0, nanoseconds since the epoch.
    pub first_ns: i64,
    /// Nanoseconds from one rank to the next.
    pub step_ns: i64,
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Find`]: the mount's absolute path.
    Found {
        /// Absolute path of the mount.
        #[serde(with = "text")]
        root: Vec<u8>,
    },
    /// To [`Request::Find`]: the directory lies in no mount of this daemon.
    NotMounted,
    /// It is done; what that means as a number: files made real, entries shown.
    Done(u64),
    /// It could not be done, for this reason.
    Failed(String),
    /// The daemon is about to end and takes nothing on; another one has to be started.
    Ending,
}

/// A daemon's state.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// How long it has been running.
    pub uptime_ms: u64,
    /// What it serves.
    pub mounts: Vec<MountStatus>,
}

/// One mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Absolute path.
    pub dir: String,
    /// Mounted in a namespace of its own.
    pub private: bool,
    /// `st_dev` of everything in it; 0 until the client told.
    pub dev: u64,
    /// Files that are views.
    pub view_files: u64,
    /// Their bytes.
    pub view_bytes: u64,
    /// Nodes the kernel knows.
    pub nodes: u64,
    /// Files that somebody has open.
    pub open_files: u64,
    /// Of these, files that the kernel reads by itself.
    pub lent_files: u64,
}

/// Bytes as a JSON string, each byte one character: paths are mostly ASCII and need not be UTF-8.
#[derive(Debug, Serialize, Deserialize)]
pub struct Text(#[serde(with = "text")] pub Vec<u8>);

mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.chars().map(|char| u8::try_from(u32::from(char)).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let path: Vec<u8> = (0..=255).collect();
        let sent = serde_json::to_vec(&Request::Materialize { root: path.clone(), path: path.clone() }).unwrap();
        let Request::Materialize { root, .. } = serde_json::from_slice(&sent).unwrap() else { panic!("another kind") };
        assert_eq!(root, path);
    }
}

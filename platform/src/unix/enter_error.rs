//! Why a view could not be entered, in plain words and with what to do about it.

use std::fmt;

use rustix::io::Errno;

/// One step of entering a view. The numbers travel over a socket between a process and its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is explained by `Stage::name`")]
pub enum Stage {
    MountNamespace = 1,
    UserNamespace = 2,
    IdentityMap = 3,
    PrivateMounts = 4,
    OpenSource = 5,
    OpenDevice = 6,
    MountView = 7,
    SendDevice = 8,
    OpenView = 9,
    Pivot = 10,
    Bind = 11,
    DetachOld = 12,
    Chdir = 13,
}

impl Stage {
    const ALL: [Stage; 13] = [
        Stage::MountNamespace,
        Stage::UserNamespace,
        Stage::IdentityMap,
        Stage::PrivateMounts,
        Stage::OpenSource,
        Stage::OpenDevice,
        Stage::MountView,
        Stage::SendDevice,
        Stage::OpenView,
        Stage::Pivot,
        Stage::Bind,
        Stage::DetachOld,
        Stage::Chdir,
    ];

    pub(crate) fn from_number(number: u8) -> Option<Stage> {
        Stage::ALL.into_iter().find(|&stage| stage as u8 == number)
    }

    /// What was being done.
    pub fn name(self) -> &'static str {
        match self {
            Stage::MountNamespace => "making a mount namespace",
            Stage::UserNamespace => "making a user namespace",
            Stage::IdentityMap => "keeping the user and group in the new user namespace",
            Stage::PrivateMounts => "making the mounts of the new namespace private",
            Stage::OpenSource => "opening a directory that is bound into the view",
            Stage::OpenDevice => "opening /dev/fuse",
            Stage::MountView => "mounting the view",
            Stage::SendDevice => "handing the mounted view over to its server",
            Stage::OpenView => "opening the mounted view",
            Stage::Pivot => "making the view the root directory",
            Stage::Bind => "binding a directory into the view",
            Stage::DetachOld => "detaching the old root directory",
            Stage::Chdir => "changing to the working directory inside the view",
        }
    }

    fn remedy(self, errno: i32) -> &'static str {
        match (self, errno) {
            (Stage::OpenDevice, libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                "load the fuse module (modprobe fuse), or start the container with --device /dev/fuse"
            }
            (Stage::OpenDevice, _) => {
                "let this user read and write /dev/fuse (mode 0666), or start the container with --device /dev/fuse"
            }
            (Stage::MountNamespace | Stage::UserNamespace | Stage::IdentityMap, libc::ENOSPC | libc::EUSERS) => {
                "raise the sysctls user.max_user_namespaces and user.max_mnt_namespaces: they are 0 or used up"
            }
            (Stage::MountNamespace | Stage::UserNamespace | Stage::IdentityMap, _) => {
                "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
                 kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0), \
                 or start the container with --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
            }
            (Stage::PrivateMounts | Stage::Pivot, libc::EINVAL) => {
                "the root directory of this process is no mount point (a chroot): use --scope workspace, or run outside of it"
            }
            (Stage::MountView | Stage::PrivateMounts | Stage::Bind | Stage::Pivot, libc::EPERM | libc::EACCES) => {
                "a security policy forbids mounting: start the container with --cap-add SYS_ADMIN \
                 --security-opt apparmor=unconfined"
            }
            (Stage::MountView, libc::ENODEV) => "load the fuse module (modprobe fuse)",
            (Stage::OpenView | Stage::Pivot | Stage::Bind | Stage::Chdir, libc::ENOTCONN | libc::ECONNABORTED) => {
                "the server of the view ended; its own message says why"
            }
            (Stage::Chdir, _) => "start in a directory that exists and may be entered",
            _ => "docs/TROUBLESHOOTING.md says what a view needs of a machine",
        }
    }
}

/// Why a view could not be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnterError {
    /// A step failed.
    Failed {
        /// Which.
        stage: Stage,
        /// How.
        errno: i32,
        /// The path it was about, where there is one.
        path: Option<String>,
    },
    /// The process that should enter ended without saying why (it was killed).
    Died,
    /// Nothing was heard of it in time.
    TimedOut,
    /// The socket to it failed.
    Socket(i32),
}

impl fmt::Display for EnterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnterError::Failed { stage, errno, path } => {
                write!(out, "{} failed", stage.name())?;
                if let Some(path) = path {
                    write!(out, " ({path})")?;
                }
                write!(out, ": {}; {}", std::io::Error::from(Errno::from_raw_os_error(*errno)), stage.remedy(*errno))
            }
            EnterError::Died => out.write_str("the command's process was killed before it had entered the view; run it again"),
            EnterError::TimedOut => out.write_str(
                "the command's process did not mount its view in time; see whether the machine is overloaded or /dev/fuse hangs",
            ),
            EnterError::Socket(errno) => write!(
                out,
                "the socket to the command's process failed: {}; run it again",
                std::io::Error::from(Errno::from_raw_os_error(*errno))
            ),
        }
    }
}

impl std::error::Error for EnterError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_survive_the_wire() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_number(stage as u8), Some(stage));
        }
        assert_eq!(Stage::from_number(0), None);
    }

    #[test]
    fn messages_say_what_to_do() {
        let error = EnterError::Failed { stage: Stage::OpenDevice, errno: libc::ENOENT, path: None };
        let text = error.to_string();
        assert!(text.contains("/dev/fuse") && text.contains("--device") && text.contains("modprobe"), "{text}");
        let error = EnterError::Failed { stage: Stage::UserNamespace, errno: libc::EPERM, path: None };
        assert!(error.to_string().contains("unprivileged_userns_clone"));
    }
}

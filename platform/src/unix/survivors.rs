//! Descendants of a command that are still there when it has ended.
//!
//! This process is a "subreaper": orphaned descendants become its children instead of init's. So a child of this process that
//! was not there before the command started, and is no command itself, is an orphan of the command. (While commands run, the
//! rest of the program should not start children of its own, or they may be named as survivors. Their exit status is safe:
//! only zombies that nobody has asked for in a second are reaped.)

use std::collections::BTreeSet;
use std::fs;
use std::io;

use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions};

/// A process that outlived the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its number.
    pub pid: i32,
    /// Its name, as the kernel knows it (15 bytes at most).
    pub name: String,
}

/// A process that exits while its parent's list is read can hide a child; looking again finds it.
const RESCANS_MAX: usize = 5;

/// Commands of this process that are running: no orphans.
static COMMANDS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// The descendants of one command.
pub(crate) struct Kin {
    before: BTreeSet<i32>,
    command: Option<i32>,
    /// Zombies seen by the scan before.
    stale: BTreeSet<i32>,
}

impl Kin {
    /// To be made before the command is started.
    pub(crate) fn new() -> Kin {
        // Refused by kernels before 3.4 only: orphans then go to init, and are not seen.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        Kin { before: children(own_pid()).into_iter().collect(), command: None, stale: BTreeSet::new() }
    }

    /// The command has this number.
    pub(crate) fn started(&mut self, command: i32) {
        COMMANDS.lock().insert(command);
        self.command = Some(command);
    }

    /// The command has been reaped: its number may be used again.
    pub(crate) fn ended(&mut self) {
        if let Some(command) = self.command.take() {
            COMMANDS.lock().remove(&command);
        }
    }

    /// Orphans of the command that are alive, and all their descendants.
    pub(crate) fn living(&self) -> Vec<i32> {
        for _ in 0..RESCANS_MAX {
            let mut found = Vec::new();
            let mut changed = false;
            let mut open = self.orphans();
            let zombies_before: Vec<_> = open.iter().copied().filter(|&pid| state(pid) == Some('Z')).collect();
            while let Some(pid) = open.pop() {
                match state(pid) {
                    Some('Z' | 'X') => changed |= !zombies_before.contains(&pid),
                    None => changed = true,
                    Some(_) => {
                        open.extend(children(pid));
                        found.push(pid);
                    }
                }
            }
            // An orphan may have died, and left its children to us, after the list was read and before it was asked.
            let now = self.orphans();
            changed |= now.iter().any(|pid| !found.contains(pid) && state(*pid).is_some_and(|state| state != 'Z'));
            if !changed || !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    /// Names of those.
    pub(crate) fn survivors(&self) -> Vec<Survivor> {
        let mut survivors: Vec<_> = self.living().into_iter().map(|pid| Survivor { pid, name: name(pid) }).collect();
        survivors.sort_by_key(|survivor| survivor.pid);
        survivors
    }

    /// Reaps orphans that were zombies at the call before already; whether any are left for the next call.
    pub(crate) fn reap_stale(&mut self) -> bool {
        let zombies: BTreeSet<i32> = self.orphans().into_iter().filter(|&pid| state(pid) == Some('Z')).collect();
        for &pid in zombies.intersection(&self.stale) {
            let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
        }
        self.stale = zombies.difference(&self.stale).copied().collect();
        !self.stale.is_empty()
    }

    fn orphans(&self) -> Vec<i32> {
        let commands = COMMANDS.lock().clone();
        children(own_pid())
            .into_iter()
            .filter(|pid| !self.before.contains(pid) && !commands.contains(pid) && self.command != Some(*pid))
            .collect()
    }
}

impl Drop for Kin {
    fn drop(&mut self) {
        self.ended();
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Children of a process, of all its threads.
fn children(pid: i32) -> Vec<i32> {
    match children_by_thread(pid) {
        Ok(found) => found,
        Err(_) => children_by_parent(pid),
    }
}

fn children_by_thread(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let mut supported = false;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(text) => {
                supported = true;
                found.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
            }
            Err(_) => continue, // The thread ended, or the kernel has no such file.
        }
    }
    if supported { Ok(found) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// The same without `CONFIG_PROC_CHILDREN`, by asking everybody.
fn children_by_parent(pid: i32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&other| stat_field(other, 1).and_then(|text| text.parse().ok()) == Some(pid))
        .collect()
}

/// The letter of its state; `None` if there is no such process.
fn state(pid: i32) -> Option<char> {
    stat_field(pid, 0)?.chars().next()
}

/// A field of `/proc/PID/stat`, counted behind the name (which may hold anything, also parentheses).
fn stat_field(pid: i32, number: usize) -> Option<String> {
    field_of(&fs::read(format!("/proc/{pid}/stat")).ok()?, number)
}

pub(super) fn field_of(stat: &[u8], number: usize) -> Option<String> {
    let text = String::from_utf8_lossy(stat);
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split_ascii_whitespace().nth(number).map(str::to_owned)
}

pub(crate) fn name(pid: i32) -> String {
    match fs::read(format!("/proc/{pid}/comm")) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Err(_) => String::from("?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_finding_children_agree() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(children_by_parent(own_pid()).contains(&pid));
        if let Ok(found) = children_by_thread(own_pid()) {
            assert!(found.contains(&pid));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(state(pid), None);
    }
}

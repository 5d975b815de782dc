//! Which mounts of wink there are, and whether one is still served.
//!
//! A mounted working tree and the view of a task have one file system type. They are told apart by what the table calls their source: a view
//! names the socket at which the process that serves it can be asked (`wink-task:/path`).

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

/// The file system type of everything that wink mounts.
pub(crate) const TYPE: &str = "fuse.wink";
/// How long a mount may take to say that it is alive.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the table of mounts calls the source of a working tree; that of a task's view follows it up with [`TASK`] and a socket.
pub(crate) const SOURCE: &CStr = c"wink";
/// Between the two.
const TASK: &[u8] = b"wink-task:";

/// One mounted working tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub dir: PathBuf,
    /// The device number of what is in it, as `stat` tells it.
    pub dev: u64,
    /// The user who mounted it.
    pub user: u32,
}

/// The view of a task that this process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// The device number of what is in it.
    pub dev: u64,
    /// Where it is mounted: at `/`, and wherever else it shows the task's workspace.
    pub dirs: Vec<PathBuf>,
    /// Where the process that serves it can be asked.
    pub socket: PathBuf,
}

/// The working trees mounted in this process' mount namespace, in the order they were made (a later one may cover an earlier one).
pub fn mounts() -> io::Result<Vec<Mounted>> {
    let trees = own_table()?.into_iter().filter(|line| line.task.is_none());
    Ok(trees.filter_map(|line| Some(Mounted { dir: line.dir, dev: line.dev, user: line.wink? })).collect())
}

/// The views of tasks in this process' mount namespace, each once, in the order they were made.
pub fn task_views() -> io::Result<Vec<TaskView>> {
    let mut views: Vec<TaskView> = Vec::new();
    for Line { dev, dir, task, .. } in own_table()? {
        let Some(socket) = task else { continue };
        match views.iter_mut().find(|view| view.dev == dev) {
            Some(view) => view.dirs.push(dir),
            None => views.push(TaskView { dev, dirs: vec![dir], socket }),
        }
    }
    Ok(views)
}

/// Whether file systems of a device number may have no disk of their own, so that the number is given out again when they have gone.
pub fn is_diskless(dev: u64) -> bool {
    rustix::fs::major(dev) == 0
}

/// What the table of mounts is to call the source of a view whose server can be asked at `socket`.
pub(crate) fn task_source(socket: &Path) -> io::Result<CString> {
    Ok(CString::new([TASK, socket.as_os_str().as_bytes()].concat())?)
}

fn own_table() -> io::Result<Vec<Line>> {
    Ok(lines(&std::fs::read("/proc/self/mountinfo")?))
}

/// What a table of mounts says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The device number of what is in it.
    pub dev: u64,
    /// Which directory of the file system it shows.
    pub root: PathBuf,
    /// Where.
    pub dir: PathBuf,
    /// If it is wink's: the user who mounted it.
    pub wink: Option<u32>,
    /// If it is a task's view: where to ask its server.
    pub task: Option<PathBuf>,
}

/// A table as in `/proc/PID/mountinfo`.
pub(crate) fn lines(table: &[u8]) -> Vec<Line> {
    table.split(|&byte| byte == b'\n').filter_map(parse).collect()
}

/// One line: `ID PARENT MAJOR:MINOR ROOT DIR OPTIONS [FIELDS…] - TYPE SOURCE OPTIONS`.
fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (major, minor) = text(fields.nth(2)?)?.split_once(':')?;
    let dev = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let mut path = || Some(PathBuf::from(OsString::from_vec(unescaped(fields.next()?))));
    let (root, dir) = (path()?, path()?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let is_wink = fields.next()? == TYPE.as_bytes();
    let user =
        |options: &[u8]| text(options)?.split(',').find_map(|option| option.strip_prefix("user_id="))?.parse().ok();
    if !is_wink {
        return Some(Line { dev, root, dir, wink: None, task: None });
    }
    let source = unescaped(fields.next()?);
    let task = source.strip_prefix(TASK).map(|socket| PathBuf::from(OsString::from_vec(socket.to_vec())));
    Some(Line { dev, root, dir, wink: Some(user(fields.next()?)?), task })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(text);
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

/// Whether `dir` is a mount whose server has gone. One that does not answer for two seconds counts as alive; a thread waits on.
pub fn is_dead(dir: &Path) -> bool {
    let (sender, receiver) = mpsc::channel();
    let dir = dir.to_owned();
    // statfs, not stat: attributes may be answered from the kernel's cache.
    let asked = std::thread::Builder::new().name("wink-is-dead".into()).spawn(move || {
        let _ = sender.send(rustix::fs::statfs(&dir).map(drop)); // Nobody may be waiting any more.
    });
    asked.is_ok() && matches!(receiver.recv_timeout(PATIENCE), Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_are_understood() {
        let line = br"40 28 0:44 / /home/a\040b\134c\0 rw,nosuid shared:1 master:2 - fuse.wink wink rw,user_id=1000,group_id=7";
        let dev = rustix::fs::makedev(0, 44);
        let ours = Line { dev, root: "/".into(), dir: r"/home/a b\c\0".into(), wink: Some(1000), task: None };
        assert_eq!(parse(line), Some(ours));
        let disk =
            Line { dev: rustix::fs::makedev(8, 1), root: "/sub".into(), dir: "/".into(), wink: None, task: None };
        assert_eq!(parse(br"40 28 8:1 /sub / rw - ext4 /dev/sda1 rw,user_id=1"), Some(disk));
        let view = br"40 28 0:45 / / rw,relatime - fuse.wink wink-task:/cache/a\040b/ask rw,user_id=0,group_id=0";
        assert_eq!(parse(view).and_then(|line| line.task), Some("/cache/a b/ask".into()));
        assert_eq!(task_source(Path::new("/cache/a b/ask")).unwrap(), c"wink-task:/cache/a b/ask".to_owned());
        assert_eq!(parse(b""), None);
        assert!(mounts().unwrap().iter().all(|mounted| mounted.dir.is_absolute()));
    }

    #[test]
    fn an_ordinary_directory_is_not_dead() {
        assert!(!is_dead(Path::new("/")) && !is_dead(Path::new("/no/such/directory")));
    }
}

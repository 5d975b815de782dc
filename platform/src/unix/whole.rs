//! Files that appear whole or not at all: made nameless (or under a temporary name) beside their place, filled, and then given their name.
//!
//! What takes the place of something else has a temporary name for a moment: only a rename replaces at once. A process that is killed just then
//! leaves it behind; [`sweep`] removes such names.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use wink_fs::attr::Time;
use wink_store::seam::{self, Place, Step, gate};

use super::attr::{mode_bits, owner as owner_of, timestamps};
use super::copy;
use super::place::Placed;
use super::real_file::magic_link;

/// A name already taken by a leftover of another process is passed over; so many in a row mean something else is wrong.
pub(crate) const TEMPORARY_NAMES_TRIED: u32 = 100;

/// What temporary names begin with; the process and a number follow.
const TEMPORARY: &str = ".wink-";

static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// Makes such files on one file system, and remembers what that cannot do.
#[derive(Default)]
pub(crate) struct WholeFiles {
    /// The file system said that it cannot share blocks: not to be asked ten thousand times.
    no_reflink: AtomicBool,
    /// The file system has no nameless files.
    pub(crate) no_nameless: AtomicBool,
}

/// Whether a name is one under which wink makes what is to get another name.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    maker(name).is_some()
}

/// The process that made a temporary name; `None` for all other names.
fn maker(name: &[u8]) -> Option<Pid> {
    let numbers = std::str::from_utf8(name.strip_prefix(TEMPORARY.as_bytes())?).ok()?;
    let (pid, number) = numbers.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    Pid::from_raw(pid.parse().ok().filter(|_| is_number(pid) && is_number(number))?)
}

/// A temporary name that goes away unless it was renamed into place.
pub(crate) struct Temporary<'a> {
    parent: &'a OwnedFd,
    name: CString,
    placed: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.placed && gate(Place::Tree, Step::Unlink).is_ok() {
            let _ = rustix::fs::unlinkat(self.parent, &*self.name, AtFlags::empty());
        }
    }
}

impl<'a> Temporary<'a> {
    /// Makes something under a temporary name in `parent`.
    pub(crate) fn make<T>(
        parent: &'a OwnedFd,
        make: impl Fn(&CStr) -> rustix::io::Result<T>,
    ) -> io::Result<(T, Temporary<'a>)> {
        for _ in 0..TEMPORARY_NAMES_TRIED {
            let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
            let name = CString::new(format!("{TEMPORARY}{}-{number}", std::process::id()))?;
            match make(&name) {
                Ok(made) => return Ok((made, Temporary { parent, name, placed: false })),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// Gives it its name, over anything but a directory.
    pub(crate) fn replace(self, parent: &OwnedFd, name: &CStr) -> io::Result<()> {
        self.rename(parent, name, RenameFlags::empty())
    }

    fn rename(mut self, parent: &OwnedFd, name: &CStr, flags: RenameFlags) -> io::Result<()> {
        gate(Place::Tree, Step::Rename)?;
        rustix::fs::renameat_with(self.parent, &*self.name, parent, name, flags)?;
        // Renaming one name of a file over another name of the same file does nothing and leaves both; a file just made has
        // no other name, so the temporary one is gone.
        self.placed = true;
        Ok(())
    }
}

/// A file that is complete but for its name.
pub(crate) struct Unnamed<'a> {
    file: File,
    parent: &'a OwnedFd,
    temporary: Option<Temporary<'a>>,
    /// How it got its bytes.
    pub(crate) placed: Placed,
}

impl Unnamed<'_> {
    /// Gives it its name, in place of any file or link that has it.
    pub(crate) fn replace(self, name: &CStr) -> io::Result<()> {
        gate(Place::Tree, Step::Rename)?;
        let temporary = match self.temporary {
            Some(temporary) => temporary,
            None => match link_nameless(&self.file, self.parent, name) {
                Err(Errno::EXIST) => {
                    gate(Place::Tree, Step::Rename)?;
                    Temporary::make(self.parent, |name| link_nameless(&self.file, self.parent, name))?.1
                }
                linked => return Ok(linked?),
            },
        };
        temporary.replace(self.parent, name)
    }

    /// Gives it its name, which must be free.
    pub(crate) fn take(self, name: &CStr) -> io::Result<()> {
        match self.temporary {
            Some(temporary) => temporary.rename(self.parent, name, RenameFlags::NOREPLACE)?,
            None => {
                gate(Place::Tree, Step::Rename)?;
                link_nameless(&self.file, self.parent, name)?;
            }
        }
        Ok(())
    }
}

impl WholeFiles {
    /// A file for a name in `parent`, with all the bytes of `source`.
    pub(crate) fn make<'a>(
        &self,
        parent: &'a OwnedFd,
        source: &File,
        mode: u32,
        mtime: Time,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Unnamed<'a>> {
        let (file, temporary) = self.empty(parent)?;
        let placed = self.fill(source, &file)?;
        if let Some((uid, gid)) = owner {
            let (uid, gid) = owner_of(Some(uid), Some(gid))?;
            gate(Place::Tree, Step::SetMode)?;
            rustix::fs::fchown(&file, uid, gid)?;
        }
        gate(Place::Tree, Step::SetMode)?;
        rustix::fs::fchmod(&file, mode_bits(mode))?;
        gate(Place::Tree, Step::SetMode)?;
        rustix::fs::futimens(&file, &timestamps(None, Some(mtime)))?;
        Ok(Unnamed { file, parent, temporary, placed })
    }

    /// A new file beside its final place: nameless where that is possible.
    fn empty<'a>(&self, parent: &'a OwnedFd) -> io::Result<(File, Option<Temporary<'a>>)> {
        let mode = Mode::RUSR | Mode::WUSR;
        gate(Place::Tree, Step::Create)?;
        if !self.no_nameless.load(Ordering::Relaxed) {
            match rustix::fs::openat(parent, c".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
                Ok(file) => return Ok((file.into(), None)),
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                    self.no_nameless.store(true, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, temporary) = Temporary::make(parent, |name| rustix::fs::openat(parent, name, flags, mode))?;
        Ok((file.into(), Some(temporary)))
    }

    fn fill(&self, source: &File, file: &File) -> io::Result<Placed> {
        if seam::is_next(Place::Tree, Step::Write) {
            copy::copy_range(source.as_fd(), 0, file.as_fd(), 0, source.metadata()?.len() / 2)?;
        }
        gate(Place::Tree, Step::Write)?;
        if !self.no_reflink.load(Ordering::Relaxed) {
            if copy::reflink(source, file)? {
                return Ok(Placed::Reflink);
            }
            self.no_reflink.store(true, Ordering::Relaxed);
        }
        copy::copy_sparse(source, file)?;
        Ok(Placed::Copy)
    }
}

/// Removes the temporary names of dead processes from a directory, and this process' own: nothing may be placed there meanwhile.
pub(crate) fn sweep(dir: &OwnedFd) -> io::Result<()> {
    let own = rustix::process::getpid();
    let is_dead = |pid| pid == own || rustix::process::test_kill_process(pid) == Err(Errno::SRCH);
    let open = rustix::fs::openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in rustix::fs::Dir::new(open)? {
        let entry = entry?;
        if maker(entry.file_name().to_bytes()).is_some_and(is_dead) {
            gate(Place::Tree, Step::Unlink)?;
            rustix::fs::unlinkat(dir, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Gives a nameless file its name. By descriptor where the kernel lets us, else by the magic link of `/proc`.
fn link_nameless(file: &File, parent: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::linkat(file, c"", parent, name, AtFlags::EMPTY_PATH) {
        // ENOENT is how kernels before 6.10 say that a capability is missing.
        Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
            rustix::fs::linkat(rustix::fs::CWD, magic_link(file), parent, name, AtFlags::SYMLINK_FOLLOW)
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_left_alone_with_and_without_nameless_files() {
        for nameless in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let parent = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
            let source = tempfile::tempfile().unwrap();
            let files = WholeFiles::default();
            files.no_nameless.store(!nameless, Ordering::Relaxed);
            let make = || files.make(&parent, &source, 0o640, Time(7), None).unwrap();
            make().take(c"name").unwrap();
            assert_eq!(make().take(c"name").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            drop(make());
            let names: Vec<_> =
                std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["name"]);
        }
    }

    #[test]
    fn temporary_names_are_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let parent = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let made = Temporary::make(&parent, |name| rustix::fs::symlinkat(c"x", &parent, name)).unwrap().1;
        assert!(is_temporary(made.name().to_bytes()));
        for other in [&b".wink-"[..], b".wink-1", b".wink-1-", b".wink-a-1", b".wink-1-2-3", b"wink-1-2", b""] {
            assert!(!is_temporary(other), "{other:?}");
        }
    }

    #[test]
    fn names_of_dead_processes_are_swept() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let living = format!(".wink-{}-0", std::os::unix::process::parent_id());
        let theirs = [".wink-saved", ".wink-1x-2", "file", ".wink-7", &living];
        let swept = [format!(".wink-{dead}-12"), format!(".wink-{}-5", std::process::id())];
        for name in theirs.iter().copied().chain(swept.iter().map(String::as_str)) {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", dir.path().join(format!(".wink-{dead}-13"))).unwrap();
        sweep(&rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut kept = theirs.map(str::to_owned);
        kept.sort();
        assert_eq!(left, kept);
    }
}

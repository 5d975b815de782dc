//! Entering a view: a mount namespace of its own, the FUSE device mounted in it, the real trees bound over it, `pivot_root`.
//!
//! [`prepare`] runs in the parent and allocates everything. [`Inside::enter`] runs in the child between `fork` and `exec`
//! and makes nothing but raw system calls: no allocation, no locks, no panics. The two talk over a socket: the child sends
//! the device's descriptor as soon as the view is mounted; every step after that asks the view and so waits in the kernel
//! until the parent serves it. [`Door`] is the parent's end.
//!
//! Binding comes after `pivot_root` and before the old root is detached: then the mountpoint is no longer covered inside
//! the trees that are bound (a mountpoint below `/tmp` would show the view a second time), absolute targets are looked up
//! inside the view, and the sources are still attached, as the kernel demands. A source is entered by its descriptor and
//! bound as `.`, which needs no `/proc`.

use std::ffi::{CStr, CString};
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::thread::UnshareFlags;

pub use super::enter_error::{EnterError, Stage};
use super::mounts::{SOURCE, task_source};

/// The kernel takes one page of mount options.
const OPTIONS_BYTES_MAX: usize = 4096;
/// Directories bound in either direction. Their descriptors live on the child's stack.
const BINDS_MAX: usize = 64;
/// No path is named by a failure.
const NO_PATH: u8 = u8::MAX;

const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What to mount, and where.
#[derive(Clone, Debug)]
pub struct View {
    /// An existing empty directory, private to the run; unused with [`Scope::Workspace`].
    pub mountpoint: PathBuf,
    /// How much of the tree the view covers.
    pub scope: Scope,
    /// Working directory inside the view.
    pub cwd: PathBuf,
    /// More FUSE mount options, separated by commas: `default_permissions`, `max_read=131072`.
    pub options: String,
    /// If it is a task's view: where the process that serves it can be asked. The table of mounts tells it to whoever is inside.
    pub asked_at: Option<PathBuf>,
}

/// How much of the tree a view covers.
#[derive(Clone, Debug)]
pub enum Scope {
    /// The FUSE tree becomes `/`.
    System {
        /// Real directories bound over it with everything mounted in them, in this order; missing ones are skipped.
        bind: Vec<PathBuf>,
        /// Directories of the FUSE tree bound back over what those covered (a workspace below `/tmp`).
        from_view: Vec<(PathBuf, PathBuf)>,
    },
    /// The FUSE tree is mounted over this directory and is that directory; everything else stays.
    Workspace(PathBuf),
}

/// The child's side. Drop the parent's copy once the child has been started, or [`Door`] cannot notice its death.
#[derive(Debug)]
pub struct Inside {
    socket: OwnedFd,
    source: CString,
    mountpoint: CString,
    pivot: bool,
    bind: Vec<CString>,
    from_view: Vec<(CString, CString)>,
    cwd: CString,
    /// The options behind `fd=N`, with and without `allow_other`.
    options_as_root: CString,
    options_as_user: CString,
    is_root: bool,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
}

/// The parent's side.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    bind: Vec<PathBuf>,
    from_view: Vec<(PathBuf, PathBuf)>,
}

/// One message from the child: what, which stage, which path of the stage's list, errno. A kind of its own for each event.
const MOUNTED: u8 = 1;
const ENTERED: u8 = 2;
const FAILED: u8 = 3;
const MESSAGE_BYTES: usize = 8;

/// Prepares both sides of an entrance.
pub fn prepare(view: &View) -> io::Result<(Inside, Door)> {
    let (mountpoint, pivot, bind, from_view) = match &view.scope {
        Scope::System { bind, from_view } => (&view.mountpoint, true, bind.clone(), from_view.clone()),
        Scope::Workspace(directory) => (directory, false, Vec::new(), Vec::new()),
    };
    if bind.len() > BINDS_MAX || from_view.len() > BINDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {BINDS_MAX} directories to bind")));
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = |allow_other: bool| {
        let mut text = format!(",rootmode=40000,user_id={uid},group_id={gid}");
        if allow_other {
            text.push_str(",allow_other");
        }
        if !view.options.is_empty() {
            text.push(',');
            text.push_str(&view.options);
        }
        // Room for `fd=` and the number, which only the child knows.
        if text.len() + 16 > OPTIONS_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the mount options do not fit into one page"));
        }
        Ok(CString::new(text)?)
    };
    let (mine, childs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let inside = Inside {
        socket: childs,
        source: view.asked_at.as_deref().map_or(Ok(SOURCE.to_owned()), task_source)?,
        mountpoint: c_path(mountpoint)?,
        pivot,
        bind: bind.iter().map(|path| c_path(path)).collect::<io::Result<_>>()?,
        from_view: from_view.iter().map(|(from, to)| Ok((c_path(from)?, c_path(to)?))).collect::<io::Result<_>>()?,
        cwd: c_path(&view.cwd)?,
        options_as_root: options(true)?,
        options_as_user: options(false)?,
        is_root: uid == 0,
        uid_map: format!("{uid} {uid} 1\n").into_bytes(),
        gid_map: format!("{gid} {gid} 1\n").into_bytes(),
    };
    Ok((inside, Door { socket: mine, bind, from_view }))
}

/// Runs a command inside, with this process' own streams, to its end; returns its exit code. Interrupts from the terminal are the command's.
pub fn run_inside(inside: Inside, mut command: Command) -> io::Result<i32> {
    // SAFETY: `enter` makes only raw system calls, in a child that `Command` has just forked, and is called once.
    unsafe { command.pre_exec(move || inside.enter()) };
    let child = command.spawn();
    // With it goes the parent's copy of the socket.
    drop(command);
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: ignoring a signal installs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let status = child?.wait()?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A failed step of the child.
struct Failure {
    stage: Stage,
    path: u8,
    errno: Errno,
}

fn at(stage: Stage) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { stage, path: NO_PATH, errno }
}

fn at_path(stage: Stage, path: usize) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { stage, path: path as u8, errno }
}

impl Inside {
    /// Moves the calling process into the view. The parent must be serving [`Door::receive`]'s descriptor meanwhile.
    ///
    /// # Safety
    /// To be called at most once, in a child process between `fork` and `exec`, while it has a single thread: it changes the
    /// namespaces and the root of the whole process, and leaves it half-way inside if it fails.
    pub unsafe fn enter(&self) -> io::Result<()> {
        // SAFETY: the caller keeps this function's own promise.
        let done = unsafe { self.enter_quietly() };
        let done = done.and_then(|()| self.open_root());
        let message = match &done {
            Ok(_) => [ENTERED, 0, 0, 0, 0, 0, 0, 0],
            Err(Failure { stage, path, errno }) => {
                let [a, b, c, d] = errno.raw_os_error().to_le_bytes();
                [FAILED, *stage as u8, *path, 0, a, b, c, d]
            }
        };
        // If the parent is gone, nobody is left to be told.
        let _ = send(&self.socket, &message, done.as_ref().ok());
        // From a bare number: no allocation.
        done.map(drop).map_err(|failure| io::Error::from_raw_os_error(failure.errno.raw_os_error()))
    }

    /// The view's top directory: whoever holds it keeps the view mounted.
    fn open_root(&self) -> Result<OwnedFd, Failure> {
        let path: &CStr = if self.pivot { c"/" } else { &self.mountpoint };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(at(Stage::OpenView))
    }

    /// # Safety
    /// As [`Inside::enter`].
    unsafe fn enter_quietly(&self) -> Result<(), Failure> {
        // SAFETY: the caller promises a single-threaded child, whose namespaces nothing else relies on.
        let as_root = unsafe { self.unshare() }?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change(c"/", private)
            .or_else(|_| rustix::mount::mount_change(c"/", slave))
            .map_err(at(Stage::PrivateMounts))?;

        let mut sources = [const { None }; BINDS_MAX];
        for (number, path) in self.bind.iter().enumerate() {
            match rustix::fs::open(&**path, PLACE, Mode::empty()) {
                Ok(source) => sources[number] = Some(source),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(at_path(Stage::OpenSource, number)(errno)),
            }
        }
        self.mount(as_root)?;
        if self.pivot {
            self.pivot(&sources)?;
        }
        rustix::process::chdir(&*self.cwd).map_err(at(Stage::Chdir))
    }

    /// New namespaces; whether that went without a user namespace.
    ///
    /// # Safety
    /// As [`Inside::enter`].
    unsafe fn unshare(&self) -> Result<bool, Failure> {
        // SAFETY: a single-threaded child shares its namespaces with nobody who runs in this process.
        if self.is_root && unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.is_ok() {
            return Ok(true);
        }
        // SAFETY: as above.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
            .map_err(at(Stage::UserNamespace))?;
        // Without this, an ordinary user may not map its group. The file is missing before Linux 3.19, which needs no `deny`.
        match write_file(c"/proc/self/setgroups", b"deny") {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(at(Stage::IdentityMap)(errno)),
        }
        write_file(c"/proc/self/uid_map", &self.uid_map).map_err(at(Stage::IdentityMap))?;
        write_file(c"/proc/self/gid_map", &self.gid_map).map_err(at(Stage::IdentityMap))?;
        Ok(false)
    }

    /// Mounts the view and hands its device over. The child's own descriptor is closed on return: if the parent goes away,
    /// the kernel must see that nobody serves the view, and fail its requests instead of letting them wait.
    fn mount(&self, as_root: bool) -> Result<(), Failure> {
        // Opened after `unshare`: the kernel wants device and mount to belong to the same user namespace.
        let device = rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(at(Stage::OpenDevice))?;
        let (flags, tail) = if as_root {
            (MountFlags::empty(), &self.options_as_root)
        } else {
            (MountFlags::NOSUID | MountFlags::NODEV, &self.options_as_user)
        };
        let mut buffer = [0; OPTIONS_BYTES_MAX];
        let options = device_option(&mut buffer, device.as_raw_fd(), tail).ok_or(at(Stage::MountView)(Errno::INVAL))?;
        rustix::mount::mount(&*self.source, &*self.mountpoint, c"fuse.wink", flags, options)
            .map_err(at(Stage::MountView))?;
        send(&self.socket, &[MOUNTED, 0, 0, 0, 0, 0, 0, 0], Some(&device)).map_err(at(Stage::SendDevice))
    }

    fn pivot(&self, sources: &[Option<OwnedFd>; BINDS_MAX]) -> Result<(), Failure> {
        let old = rustix::fs::open(c"/", PLACE, Mode::empty()).map_err(at(Stage::Pivot))?;
        rustix::process::chdir(&*self.mountpoint).map_err(at(Stage::OpenView))?;
        let pivoted = match rustix::process::pivot_root(c".", c".") {
            Ok(()) => true,
            // The root is no mount point (a chroot) or the initial ramfs: a chroot is all there can be. What it costs, that
            // nobody inside may make user namespaces, is so already.
            Err(Errno::INVAL) => {
                rustix::process::chroot(c".").map_err(|_| at(Stage::Pivot)(Errno::INVAL))?;
                false
            }
            Err(errno) => return Err(at(Stage::Pivot)(errno)),
        };
        // The root of this process is now the view, with the old root (if pivoted) lying over it, unseen by absolute paths.
        let mut back = [const { None }; BINDS_MAX];
        for (number, (path, _)) in self.from_view.iter().enumerate() {
            let open = rustix::fs::open(&**path, PLACE, Mode::empty()).map_err(at_path(Stage::OpenView, number))?;
            back[number] = Some(open);
        }
        for (number, path) in self.bind.iter().enumerate() {
            if let Some(source) = &sources[number] {
                bind(source, path).map_err(at_path(Stage::Bind, number))?;
            }
        }
        for (number, (_, path)) in self.from_view.iter().enumerate() {
            if let Some(source) = &back[number] {
                bind(source, path).map_err(at_path(Stage::Bind, BINDS_MAX + number))?;
            }
        }
        if pivoted {
            rustix::process::fchdir(&old).map_err(at(Stage::DetachOld))?;
            rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(at(Stage::DetachOld))?;
        }
        rustix::process::chdir(c"/").map_err(at(Stage::DetachOld))
    }
}

/// Binds an open directory, with everything mounted in it, over `target`.
fn bind(source: &OwnedFd, target: &CStr) -> Result<(), Errno> {
    rustix::process::fchdir(source)?;
    rustix::mount::mount_bind_recursive(c".", target)
}

fn write_file(path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::io::write(&file, bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// `fd=N` and `tail` as a C string in `buffer`.
fn device_option<'a>(buffer: &'a mut [u8; OPTIONS_BYTES_MAX], device: i32, tail: &CStr) -> Option<&'a CStr> {
    let mut digits = [0; 10];
    let mut first = digits.len();
    let mut rest = u32::try_from(device).ok()?;
    loop {
        first -= 1;
        *digits.get_mut(first)? = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut length = 0;
    for part in [b"fd=".as_slice(), digits.get(first..)?, tail.to_bytes_with_nul()] {
        buffer.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    CStr::from_bytes_with_nul(buffer.get(..length)?).ok()
}

fn send(socket: &OwnedFd, message: &[u8; MESSAGE_BYTES], device: Option<&OwnedFd>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [device.map_or(socket.as_fd(), |device| device.as_fd())];
    if device.is_some() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::INVAL);
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop),
        }
    }
}

impl Door {
    /// Waits for the FUSE device of the view. Serve it at once: the child waits in the kernel until its requests are
    /// answered. If it is dropped instead, the child fails.
    pub fn receive(&self, timeout: Duration) -> Result<OwnedFd, EnterError> {
        match self.message(Some(timeout))? {
            Some(device) => Ok(device),
            None => Err(EnterError::Socket(libc::EPROTO)),
        }
    }

    /// Waits until the child is inside, or for what kept it from getting there. Call it after [`Door::receive`]. What it returns
    /// is the top of the view: the view stays mounted as long as that is open, even when the last process in it has gone.
    pub fn entered(&self) -> Result<OwnedFd, EnterError> {
        self.message(None)?.ok_or(EnterError::Socket(libc::EPROTO))
    }

    fn message(&self, timeout: Option<Duration>) -> Result<Option<OwnedFd>, EnterError> {
        let failed = |errno: Errno| EnterError::Socket(errno.raw_os_error());
        self.wait(timeout)?;
        let mut message = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let into = &mut [IoSliceMut::new(&mut message)];
            match rustix::net::recvmsg(&self.socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                received => break received.map_err(failed)?,
            }
        };
        let device = ancillary.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let [kind, stage, path, _, errno @ ..] = message;
        match (received.bytes, kind) {
            (0, _) => Err(EnterError::Died),
            (MESSAGE_BYTES, MOUNTED) if device.is_some() => Ok(device),
            (MESSAGE_BYTES, ENTERED) if device.is_some() => Ok(device),
            (MESSAGE_BYTES, FAILED) => match Stage::from_number(stage) {
                Some(stage) => Err(EnterError::Failed {
                    stage,
                    errno: i32::from_le_bytes(errno),
                    path: self.path(stage, path).map(|path| path.display().to_string()),
                }),
                None => Err(EnterError::Socket(libc::EPROTO)),
            },
            _ => Err(EnterError::Socket(libc::EPROTO)),
        }
    }

    fn path(&self, stage: Stage, number: u8) -> Option<&PathBuf> {
        let number = usize::from(number);
        match stage {
            Stage::OpenView => self.from_view.get(number).map(|(from, _)| from),
            _ if number >= BINDS_MAX => self.from_view.get(number - BINDS_MAX).map(|(_, to)| to),
            _ => self.bind.get(number),
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<(), EnterError> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left =
                end.map(|end| Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default());
            match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Err(EnterError::TimedOut),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(EnterError::Socket(errno.raw_os_error())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_option_is_formatted_by_hand() {
        let mut buffer = [0; OPTIONS_BYTES_MAX];
        for device in [0, 7, 10, 4095, i32::MAX] {
            let text = device_option(&mut buffer, device, c",rootmode=40000").unwrap();
            assert_eq!(text.to_str().unwrap(), format!("fd={device},rootmode=40000"));
        }
        assert!(device_option(&mut buffer, -1, c"").is_none());
    }

    #[test]
    fn a_child_that_vanishes_is_noticed() {
        let view = View {
            mountpoint: "/".into(),
            scope: Scope::Workspace("/".into()),
            cwd: "/".into(),
            options: String::new(),
            asked_at: None,
        };
        let (inside, door) = prepare(&view).unwrap();
        assert_eq!(door.receive(Duration::from_millis(10)).unwrap_err(), EnterError::TimedOut);
        drop(inside);
        assert_eq!(door.receive(Duration::from_secs(5)).unwrap_err(), EnterError::Died);
    }
}

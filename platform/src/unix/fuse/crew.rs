//! The threads that serve one mount, and how they end.
//!
//! They end one by one when the kernel drops the mount. If one of them fails or panics, the others are called off: a queue that nobody
//! serves would let programs wait for ever, and a mount without a server answers with errors at once. A thread that waits in the kernel for
//! requests is woken by a signal, which is sent until it has gone: it may come just before the thread begins to wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::device::Device;

/// How long to wait before a thread is called again.
const CALL_AGAIN: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Crew {
    device: Arc<Device>,
    stopping: AtomicBool,
    /// Thread numbers of those who serve. Lock order: a leaf.
    serving: Mutex<Vec<libc::pid_t>>,
}

impl Crew {
    /// Nobody yet.
    pub fn new(device: Arc<Device>) -> Arc<Crew> {
        Arc::new(Crew { device, stopping: AtomicBool::new(false), serving: Mutex::default() })
    }

    /// The mount's device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Whether to stop waiting for requests.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Ends the mount: all stop, as soon as they are done with what they are doing.
    pub fn end(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.device.close();
        self.call_off();
    }

    /// Starts a thread that runs `serve` with a device of its own.
    pub fn start(
        self: &Arc<Self>,
        name: &str,
        serve: impl FnOnce(&Crew, &OwnedFd) -> io::Result<()> + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        let (crew, device) = (self.clone(), self.device.another()?);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || crew.enlist(|| serve(&crew, &device)))
    }

    /// Runs `serve` on the calling thread, as one of the crew.
    pub fn enlist(&self, serve: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        handle_calls();
        let mut post = Post::take(self);
        let served = serve();
        post.is_quiet = served.is_ok() && !self.is_stopping();
        served
    }
}

/// A thread's membership.
struct Post<'c> {
    crew: &'c Crew,
    thread: libc::pid_t,
    /// It ends because the mount does.
    is_quiet: bool,
}

impl Post<'_> {
    fn take(crew: &Crew) -> Post<'_> {
        // SAFETY: it only asks.
        let thread = unsafe { libc::gettid() };
        crew.serving.lock().push(thread);
        Post { crew, thread, is_quiet: false }
    }
}

impl Drop for Post<'_> {
    fn drop(&mut self) {
        let mut serving = self.crew.serving.lock();
        serving.retain(|thread| *thread != self.thread);
        if serving.is_empty() {
            self.crew.device.close();
        }
        drop(serving);
        if !self.is_quiet {
            self.crew.end();
        }
    }
}

impl Crew {
    /// Calls all who still serve until they have gone.
    fn call_off(&self) {
        loop {
            let serving = self.serving.lock();
            if serving.is_empty() {
                return;
            }
            for thread in &*serving {
                // SAFETY: the thread is there: it must take the lock to leave. The signal has a handler that does nothing.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), *thread, call()) };
            }
            drop(serving);
            std::thread::sleep(CALL_AGAIN);
        }
    }
}

/// One of the signals that nobody else in this program uses.
fn call() -> libc::c_int {
    libc::SIGRTMIN() + 6
}

extern "C" fn heard(_signal: libc::c_int) {}

/// A call must end a wait, and nothing more.
fn handle_calls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: zeroed is a valid sigaction, and the handler does nothing. Without SA_RESTART, so that system calls end.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = heard as *const () as usize;
            libc::sigaction(call(), &action, std::ptr::null_mut());
        }
    });
}

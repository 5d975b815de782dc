//! The seam: every call to the disk that storing, publishing or restoring makes passes [`gate`] first, in this crate and in the ones
//! above it. There a test makes the n-th call fail, or ends the process as `kill -9` does.
//!
//! It is there in debug builds alone (`cfg(debug_assertions)`), and watches nothing until [`watch`] is called: what people install has neither
//! the code nor the name of a variable that could switch it on, and nobody has to build the tests with other features than the program.
//!
//! A *plan* is a file in the watched directory, named after the role of the process: `NUMBER WHAT HOW WHERE`. `WHAT` is `kill`, or an error
//! number, which meets only the calls that can end so; `HOW` is `once`, or `on` for all further calls as long as the file stays; `WHERE` is
//! `store`, `tree` or `all`. Calls are counted from the moment at which the file is there, in a forked child on from where its parent was. The first
//! call that the plan meets is noted in `ROLE.fired`; a plan that was carried out `once` is removed. `ROLE.calls` has a byte for each call that
//! the plan might have met and did not.

/// On which disk a call works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The cache.
    Store,
    /// The user's tree.
    Tree,
}

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a directory.
    MakeDir,
    /// Opens what is there.
    Open,
    /// Makes a file.
    Create,
    /// Reads bytes or names.
    Read,
    /// Writes bytes.
    Write,
    /// Asks for attributes.
    Stat,
    /// Changes permission bits, times or owners.
    SetMode,
    /// Gives a file its name, or another one.
    Rename,
    /// Removes a name.
    Unlink,
    /// Waits until data is on the disk.
    Sync,
    /// Takes a lock.
    Lock,
    /// Asks the index or changes it.
    Index,
}

/// Passed before every call.
#[cfg(not(any(test, debug_assertions)))]
#[inline(always)]
pub fn gate(_place: Place, _step: Step) -> std::io::Result<()> {
    Ok(())
}

/// Whether the next call would fail: then half of the bytes are written before it does, as on a disk that fills up.
#[cfg(not(any(test, debug_assertions)))]
#[inline(always)]
pub fn is_next(_place: Place, _step: Step) -> bool {
    false
}

#[cfg(any(test, debug_assertions))]
pub use on::{gate, is_next, watch};

#[cfg(test)]
pub(crate) use on::after;

#[cfg(any(test, debug_assertions))]
mod on {
    use super::{Place, Step};
    use std::io::{self, Write};
    use std::panic::Location;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// Where plans appear.
    struct Watched {
        plan: PathBuf,
        fired: PathBuf,
        calls: PathBuf,
    }

    struct Plan {
        text: String,
        /// Calls that go well first.
        left: u64,
        /// `None`: the process ends.
        errno: Option<i32>,
        lasting: bool,
        place: Option<Place>,
        fired: bool,
    }

    impl Plan {
        fn meets(&self, place: Place, step: Step) -> bool {
            self.place.is_none_or(|wanted| wanted == place) && self.errno.is_none_or(|errno| can_end(step, errno))
        }
    }

    /// Whether a call can end so: reading never fills a disk, and only what opens something runs out of descriptors.
    fn can_end(step: Step, errno: i32) -> bool {
        use rustix::io::Errno;
        match Errno::from_raw_os_error(errno) {
            Errno::NOSPC | Errno::DQUOT => {
                matches!(step, Step::MakeDir | Step::Create | Step::Write | Step::Rename | Step::Index)
            }
            Errno::MFILE => matches!(step, Step::Create | Step::Open | Step::Lock | Step::Index),
            _ => true,
        }
    }

    static WATCHED: OnceLock<Watched> = OnceLock::new();
    static PLAN: Mutex<Option<Plan>> = Mutex::new(None);

    /// Looks for plans of `role` in `dir` from now on.
    pub fn watch(dir: &Path, role: &str) {
        let beside = |what: &str| dir.join(format!("{role}.{what}"));
        let _ = WATCHED.set(Watched { plan: dir.join(role), fired: beside("fired"), calls: beside("calls") });
    }

    fn parse(text: String) -> Option<Plan> {
        let [number, what, how, place] = text.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
        let place = match place {
            "store" => Some(Place::Store),
            "tree" => Some(Place::Tree),
            _ => None,
        };
        let (left, errno, lasting) = (number.parse().ok()?, what.parse().ok(), how == "on");
        Some(Plan { text, left, errno, lasting, place, fired: false })
    }

    fn note(path: &Path, text: &str) {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
    }

    /// Passed before every call.
    #[track_caller]
    pub fn gate(place: Place, step: Step) -> io::Result<()> {
        let caller = Location::caller();
        #[cfg(test)]
        local::gate()?;
        let Some(watched) = WATCHED.get() else { return Ok(()) };
        let mut present = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::fs::read_to_string(&watched.plan).unwrap_or_default();
        if present.as_ref().is_none_or(|plan| plan.text != text) {
            *present = parse(text);
        }
        let Some(plan) = present.as_mut().filter(|plan| plan.meets(place, step)) else { return Ok(()) };
        if plan.left > 0 {
            plan.left -= 1;
            note(&watched.calls, ".");
            return Ok(());
        }
        if !plan.fired {
            plan.fired = true;
            note(&watched.fired, &format!("{place:?} {step:?} {caller}\n"));
        }
        let errno = plan.errno;
        if !plan.lasting {
            let _ = std::fs::remove_file(&watched.plan);
            *present = None;
        }
        let Some(errno) = errno else {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::process::abort();
        };
        Err(io::Error::from_raw_os_error(errno))
    }

    /// Whether the next call would fail: then half of the bytes are written before it does, as on a disk that fills up.
    pub fn is_next(place: Place, step: Step) -> bool {
        #[cfg(test)]
        if local::is_next() {
            return true;
        }
        let plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        plan.as_ref().is_some_and(|plan| plan.left == 0 && plan.meets(place, step))
    }

    #[cfg(test)]
    pub(crate) use local::after;

    /// For tests inside this crate: the current thread alone.
    #[cfg(test)]
    mod local {
        use std::cell::Cell;
        use std::io;

        thread_local! {
            static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        }

        pub(super) fn is_next() -> bool {
            LEFT.get() == Some(0)
        }

        pub(super) fn gate() -> io::Result<()> {
            LEFT.with(|left| match left.get() {
                Some(0) => Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())),
                Some(count) => {
                    left.set(Some(count - 1));
                    Ok(())
                }
                None => Ok(()),
            })
        }

        /// Runs `work` so that every call after the first `count` fails; also says whether any did.
        pub(crate) fn after<T>(count: usize, work: impl FnOnce() -> T) -> (T, bool) {
            LEFT.with(|left| left.set(Some(count)));
            let result = work();
            let failed = LEFT.with(|left| left.replace(None)) == Some(0);
            (result, failed)
        }
    }
}

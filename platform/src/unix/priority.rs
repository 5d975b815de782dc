//! Work that may take as long as it likes.

/// Gives the calling thread the lowest priority for the processor and for the disk, for good. Best effort: it only costs others time.
///
/// To be called by a thread that holds no lock somebody waits for.
pub fn lower_thread() {
    // On Linux a priority belongs to a thread, and 0 is the calling one.
    let _ = rustix::process::setpriority_process(None, LOWEST);
    // SAFETY: takes three numbers; the C library has no wrapper.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT) };
}

const LOWEST: i32 = 19;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_thread_that_steps_back() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let there = std::thread::spawn(move || {
            lower_thread();
            nice()
        });
        assert_eq!(there.join().unwrap(), LOWEST);
        assert_eq!(nice(), before);
    }
}

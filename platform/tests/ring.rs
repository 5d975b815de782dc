//! Serving over io_uring: that everything works through it, on each processor; that a thread which breaks leaves nobody waiting; and what
//! happens where it is not to be had.
//!
//! The kernel offers it where the module parameter `enable_uring` of `fuse` is on. As root the tests switch it on for themselves, and back.

mod mounted;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mounted::inside::{INSIDE, covered, dies, inside, is_of_the_dead, mounted_over};
use mounted::{BROKEN, OneFile};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use wink_fs::vfs::TOP;
use wink_platform::unix::fuse::Transport;
use wink_platform::unix::mount::unmount;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// The parameter, as a test wants it; it is put back. Tests that change it take turns, in all processes.
struct Parameter {
    file: File,
    before: String,
}

impl Parameter {
    fn set(wanted: &str) -> Option<Parameter> {
        let mut file = match File::options().read(true).write(true).open(PARAMETER) {
            Ok(file) => file,
            Err(error) => {
                println!("skipped: {PARAMETER}: {error}");
                return None;
            }
        };
        file.lock().unwrap();
        let mut before = String::new();
        file.read_to_string(&mut before).unwrap();
        file.write_all(wanted.as_bytes()).unwrap();
        Some(Parameter { file, before })
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        self.file.write_all(self.before.as_bytes()).unwrap();
    }
}

/// [`inside`], with the parameter as wanted.
fn inside_with(parameter: &str, name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let Some(_set) = Parameter::set(parameter) else { return false };
    inside(name)
}

/// The processors that this process may run on.
fn processors() -> Vec<usize> {
    let all = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)).collect()
}

/// Stays on these.
fn stay_on(processors: &[usize]) {
    let mut set = CpuSet::new();
    processors.iter().for_each(|processor| set.set(*processor));
    sched_setaffinity(None, &set).unwrap();
}

fn errno(result: std::io::Result<impl std::fmt::Debug>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn requests_of_every_size_come_on_every_processor() {
    if !inside_with("Y", "requests_of_every_size_come_on_every_processor") {
        return;
    }
    let (_dir, top, _lower) = covered();
    let tree = Arc::new(OneFile::new());
    let serving = mounted_over(&top, &tree, Transport::Uring).unwrap();
    let (file, forgetter) = (top.join("file"), serving.forgetter());
    for processor in processors() {
        stay_on(&[processor]);
        for size in [0, 1, 4095, 4096, 131_073, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000] {
            let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + processor) as u8).collect();
            tree.bytes.lock().unwrap().clear();
            forgetter.invalidate_node(mounted::FILE).unwrap();
            File::options().write(true).open(&file).unwrap().write_all(&bytes).unwrap();
            assert!(*tree.bytes.lock().unwrap() == bytes, "written: {size}");
            forgetter.invalidate_node(mounted::FILE).unwrap();
            assert!(fs::read(&file).unwrap() == bytes, "read: {size}");
        }
        let names: Vec<_> = fs::read_dir(&top).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        let long = "n".repeat(255);
        assert_eq!(errno(fs::metadata(top.join(&long))), libc::ENOENT);
        rustix::fs::setxattr(&file, "user.key", &[7; 60_000], rustix::fs::XattrFlags::empty()).unwrap();
        let mut value = vec![0; 65_536];
        assert_eq!(rustix::fs::getxattr(&file, "user.key", &mut value[..]), Ok(60_000));
        assert!(value[..60_000] == [7; 60_000]);
    }
    // What is forgotten comes through the device.
    let before = tree.forgotten.load(Ordering::Relaxed);
    forgetter.invalidate(TOP, b"file").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while tree.forgotten.load(Ordering::Relaxed) == before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(tree.forgotten.load(Ordering::Relaxed) > before);
    unmount(&top, false).unwrap();
    serving.wait().unwrap();
}

#[test]
fn a_thread_that_breaks_ends_the_mount_on_every_processor() {
    if !inside_with("Y", "a_thread_that_breaks_ends_the_mount_on_every_processor") {
        return;
    }
    let all = processors();
    for processor in &all {
        let (_dir, top, _lower) = covered();
        let serving = mounted_over(&top, &Arc::new(OneFile::new()), Transport::Uring).unwrap();
        let broken = top.join(std::str::from_utf8(BROKEN).unwrap());
        stay_on(&[*processor]);
        assert_eq!(errno(fs::metadata(broken)), libc::EIO);
        assert!(serving.wait().is_err());
        for processor in &all {
            stay_on(&[*processor]);
            for name in ["file", "other"] {
                assert!(is_of_the_dead(&fs::metadata(top.join(name)).unwrap_err()));
            }
        }
        // What serves the next mount may run anywhere.
        stay_on(&all);
        dies(&top);
        unmount(&top, false).unwrap();
    }
}

#[test]
fn where_it_is_not_to_be_had_the_device_serves() {
    if !inside_with("N", "where_it_is_not_to_be_had_the_device_serves") {
        return;
    }
    let (_dir, top, _lower) = covered();
    let tree = Arc::new(OneFile::new());
    let serving = mounted_over(&top, &tree, Transport::Auto).unwrap();
    assert_eq!(serving.transport(), Transport::Classic);
    assert_eq!(fs::read(top.join("file")).unwrap(), b"bytes");
    unmount(&top, false).unwrap();
    serving.wait().unwrap();
    let refused = mounted_over(&top, &tree, Transport::Uring).unwrap_err();
    assert!(refused.to_string().contains("enable_uring"), "{refused}");
    dies(&top);
    unmount(&top, false).unwrap();
}

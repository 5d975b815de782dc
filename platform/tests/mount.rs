//! Mounting over a directory, as root, through `fusermount3`, and in a user namespace; with a tree of one file.
//!
//! Every test runs this test program again in a mount namespace of its own, so that no mount is left behind whatever happens.

mod mounted;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mounted::inside::{AS_USER, INSIDE, covered, dies, inside, is_of_the_dead, mounted_over, works};
use mounted::{BROKEN, FILE, OneFile};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use wink_fs::vfs::TOP;
use wink_platform::unix::fuse::{Serving, Transport};
use wink_platform::unix::mount::{MountError, UnmountError, mount_over, unmount};
use wink_platform::unix::mount_users::{standing_beneath, users};
use wink_platform::unix::mounts::{Mounted, is_dead, mounts};

/// Mounts a tree and serves it: over the transport that the variable names, as for the program.
fn mounted(top: &Path, tree: &Arc<OneFile>) -> Serving {
    let transport = std::env::var("WINK_TRANSPORT").map_or(Transport::Auto, |word| word.parse().unwrap());
    mounted_over(top, tree, transport).unwrap()
}

/// What is listed of one directory: others may have mounted theirs on this machine.
fn listed_at(top: &Path) -> Vec<Mounted> {
    mounts().unwrap().into_iter().filter(|mounted| mounted.dir == top).collect()
}

#[test]
fn a_tree_is_mounted_used_and_unmounted() {
    if !inside("a_tree_is_mounted_used_and_unmounted") {
        return;
    }
    let (_dir, top, lower) = covered();
    let mut stander = Command::new("cat").current_dir(&top).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let tree = Arc::new(OneFile::new());
    let serving = mounted(&top, &tree);
    let dev = fs::metadata(&top).unwrap().dev();
    let uid = rustix::process::geteuid().as_raw();
    let listed: Vec<_> = listed_at(&top).into_iter().map(|mounted| (mounted.dir, mounted.dev, mounted.user)).collect();
    assert_eq!(listed, [(top.clone(), dev, uid)]);
    assert!(!top.join("real").exists());
    let standing: Vec<_> = standing_beneath(&top, &lower).into_iter().map(|process| process.pid).collect();
    assert_eq!(standing, [stander.id().cast_signed()]);
    assert_eq!(users(dev), []);
    drop(stander.stdin.take());
    stander.wait().unwrap();

    let mut file = File::open(top.join("file")).unwrap();
    assert!(users(dev).iter().any(|process| process.pid == std::process::id().cast_signed()));
    assert!(standing_beneath(&top, &lower).is_empty());
    assert!(matches!(unmount(&top, false), Err(UnmountError::Busy(_))));
    unmount(&top, true).unwrap();
    assert!(top.join("real").exists() && listed_at(&top).is_empty());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bytes");
    assert!(!serving.is_ended());
    drop(file);
    serving.wait().unwrap();
    assert!(matches!(unmount(&top, false), Err(UnmountError::NotMounted(_))));

    let serving = mounted(&top, &tree);
    assert!(!serving.is_ended() && !is_dead(&top));
    unmount(&top, false).unwrap();
    serving.wait().unwrap();
}

#[test]
fn a_mount_without_a_server_is_dead() {
    if !inside("a_mount_without_a_server_is_dead") {
        return;
    }
    let (_dir, top, lower) = covered();
    let device = mount_over(&top).unwrap();
    assert!(!is_dead(&top), "its server is only late");
    drop(device);
    assert!(is_dead(&top));
    let dev = listed_at(&top)[0].dev;
    assert_eq!((users(dev), standing_beneath(&top, &lower)), (vec![], vec![]));
    unmount(&top, true).unwrap();
    assert!(top.join("real").exists() && !is_dead(&top));
}

#[test]
fn extended_attributes_and_syncing_reach_the_tree() {
    if !inside("extended_attributes_and_syncing_reach_the_tree") {
        return;
    }
    let (_dir, top, _lower) = covered();
    let tree = Arc::new(OneFile::new());
    let serving = mounted(&top, &tree);
    let file = top.join("file");
    let get = |key: &str, room: usize| {
        let mut value = vec![0; room];
        rustix::fs::getxattr(&file, key, &mut value[..]).map(|length| value[..length].to_vec())
    };
    let set = |key: &str, value: &[u8], flags| rustix::fs::setxattr(&file, key, value, flags);
    // One kind that the tree does not have must not be the end of all others.
    assert_eq!(get("strange.key", 10), Err(Errno::OPNOTSUPP));
    assert_eq!(set("strange.key", b"", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
    assert_eq!(get("user.key", 10), Err(Errno::NODATA));
    assert_eq!(set("user.key", b"value", XattrFlags::REPLACE), Err(Errno::NODATA));
    set("user.key", b"value", XattrFlags::CREATE).unwrap();
    assert_eq!(set("user.key", b"value", XattrFlags::CREATE), Err(Errno::EXIST));
    set("user.other", b"", XattrFlags::empty()).unwrap();
    assert_eq!(get("user.key", 5).unwrap(), b"value");
    assert_eq!(get("user.key", 4), Err(Errno::RANGE));
    assert_eq!(rustix::fs::getxattr_query(&file, "user.key"), Ok(5));
    let mut list = [0; 64];
    let length = rustix::fs::listxattr(&file, &mut list[..]).unwrap();
    assert_eq!(&list[..length], b"user.key\0user.other\0");
    assert_eq!(rustix::fs::listxattr_query(&file), Ok(length));
    rustix::fs::removexattr(&file, "user.key").unwrap();
    assert_eq!(rustix::fs::removexattr(&file, "user.key"), Err(Errno::NODATA));

    File::open(&top).unwrap().sync_all().unwrap();
    assert_eq!(tree.synced.load(Ordering::Relaxed), 1);
    unmount(&top, false).unwrap();
    serving.wait().unwrap();
}

#[test]
fn writes_take_privilege_bits_away_and_ask_for_nothing() {
    if !inside("writes_take_privilege_bits_away_and_ask_for_nothing") {
        return;
    }
    let (_dir, top, _lower) = covered();
    fs::set_permissions(top.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let tree = Arc::new(OneFile::new());
    let serving = mounted(&top, &tree);
    let mut file = File::options().append(true).open(top.join("file")).unwrap();
    file.write_all(b"1").unwrap();
    let before = tree.asked.load(Ordering::Relaxed);
    for _ in 0..100 {
        file.write_all(b"1").unwrap();
    }
    let asked = tree.asked.load(Ordering::Relaxed) - before;
    assert_eq!(asked, 0, "attributes asked for by 100 writes");
    let dropped = tree.dropped.load(Ordering::Relaxed);
    let who = std::env::var(INSIDE).unwrap();
    if who == "root" {
        assert_eq!(dropped, 0, "root keeps them");
        let append = format!("echo 2 >> '{}'", top.join("file").display());
        assert!(works(&[&AS_USER[..], &["sh", "-c", &append]].concat()));
        assert_eq!(tree.dropped.load(Ordering::Relaxed), 1);
    } else {
        assert_eq!(dropped, 101);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1).unwrap();
        // The root of a user namespace keeps them there, as on other file systems.
        assert_eq!(tree.dropped.load(Ordering::Relaxed), if who == "user" { 102 } else { 101 });
    }
    drop(file);
    unmount(&top, false).unwrap();
    serving.wait().unwrap();
}

#[test]
fn the_kernel_forgets_what_it_is_told_to() {
    if !inside("the_kernel_forgets_what_it_is_told_to") {
        return;
    }
    let (_dir, top, _lower) = covered();
    let tree = Arc::new(OneFile::new());
    let serving = mounted(&top, &tree);
    let forgetter = serving.forgetter();
    forgetter.invalidate(TOP, b"file").unwrap();
    forgetter.invalidate_node(FILE).unwrap();
    let exists = || top.join("file").exists();
    let size = || fs::metadata(top.join("file")).unwrap().size();
    assert!(exists());
    tree.bytes.lock().unwrap().extend_from_slice(b" and more");
    assert_eq!(size(), 5, "answered from the kernel's cache");
    forgetter.invalidate_node(FILE).unwrap();
    assert_eq!(size(), 14);
    tree.hidden.store(true, Ordering::Relaxed);
    assert!(exists());
    forgetter.invalidate(TOP, b"file").unwrap();
    assert!(!exists());
    tree.hidden.store(false, Ordering::Relaxed);
    assert!(!exists());
    std::thread::spawn(move || forgetter.invalidate(TOP, b"file")).join().unwrap().unwrap();
    assert!(exists());
    unmount(&top, false).unwrap();
    serving.wait().unwrap();
}

#[test]
fn a_server_that_breaks_ends_the_mount_and_nobody_hangs() {
    if !inside("a_server_that_breaks_ends_the_mount_and_nobody_hangs") {
        return;
    }
    let (_dir, top, _lower) = covered();
    let tree = Arc::new(OneFile::new());
    let serving = mounted(&top, &tree);
    let forgetter = serving.forgetter();
    let mut file = File::open(top.join("file")).unwrap();
    let broken = top.join(std::str::from_utf8(BROKEN).unwrap());
    assert_eq!(fs::metadata(broken).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(serving.wait().is_err());
    for name in ["file", "other"] {
        assert!(is_of_the_dead(&fs::metadata(top.join(name)).unwrap_err()));
    }
    dies(&top);
    assert!(file.read(&mut [0]).is_err());
    assert!(forgetter.invalidate(TOP, b"file").is_err(), "there is nobody to be told");
    drop(file);
    unmount(&top, false).unwrap();
    assert!(top.join("real").exists());
}

#[test]
fn failures_say_what_to_do() {
    if !inside("failures_say_what_to_do") {
        return;
    }
    let missing = mount_over(Path::new("/no/such/directory")).unwrap_err();
    let (_dir, top, _lower) = covered();
    if std::env::var(INSIDE).unwrap() != "user" {
        assert!(matches!(&missing, MountError::Failed { .. }), "{missing:?}");
        return;
    }
    assert!(missing.to_string().contains("/no/such/directory"), "{missing}");
    assert!(matches!(unmount(&top, false), Err(UnmountError::NotMounted(_))));
    // SAFETY: the only thread of this program that looks at the environment.
    unsafe { std::env::set_var("PATH", OsString::from("/no/such/directory")) };
    let error = mount_over(&top).unwrap_err();
    assert!(matches!(error, MountError::NoFusermount(_)), "{error:?}");
    assert!(error.to_string().contains("fuse3") && error.to_string().contains("--private"), "{error}");
    assert!(matches!(unmount(&top, false), Err(UnmountError::NoFusermount(_))));
}

#[test]
fn a_working_tree_is_listed_once_until_the_kernel_is_told_to_forget() {
    if !inside("a_working_tree_is_listed_once_until_the_kernel_is_told_to_forget") {
        return;
    }
    let (_dir, top, _lower) = covered();
    let tree = Arc::new(OneFile::new());
    let serving = mounted(&top, &tree);
    let forgetter = serving.forgetter();
    let names = || fs::read_dir(&top).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let listed = || tree.listed.load(Ordering::Relaxed);
    assert_eq!((names(), names()), (vec!["file".into()], vec!["file".into()]));
    assert_eq!(listed(), 1);
    tree.hidden.store(true, Ordering::Relaxed);
    assert_eq!(names(), ["file"], "from the kernel's cache");
    forgetter.invalidate_node(TOP).unwrap();
    assert!(names().is_empty());
    assert_eq!(listed(), 2);

    // A name that it was told is not there, if this kernel can forget such.
    assert!(!top.join("file").exists());
    tree.hidden.store(false, Ordering::Relaxed);
    assert!(!top.join("file").exists());
    match forgetter.forget_names() {
        Ok(()) => assert!(top.join("file").exists()),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
    }
    unmount(&top, false).unwrap();
    serving.wait().unwrap();
}

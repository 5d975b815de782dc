//! Runs a test again in a mount namespace of its own, so that no mount is left behind whatever happens: as root, as an ordinary user, and in
//! a user namespace.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use wink_platform::unix::fuse::{Serve, Serving, Transport, serve};
use wink_platform::unix::mount::mount_over;
use wink_platform::unix::mounts::is_dead;

use super::OneFile;

/// Tells the program that it runs in a namespace of its own, and as whom.
pub const INSIDE: &str = "WINK_MOUNT_TEST";
pub const AS_USER: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// Whether a command succeeds.
pub fn works(argv: &[&str]) -> bool {
    Command::new(argv[0]).args(&argv[1..]).output().is_ok_and(|output| output.status.success())
}

/// Runs the test `name` inside namespaces of all kinds that this machine has; `true` inside, for the test to go on.
pub fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Err(problem) = wink_platform::unix::probe::fuse_available() {
        println!("skipped: {problem}");
        return false;
    }
    if !works(&["unshare", "-m", "true"]) || !works(&[&AS_USER[..], &["true"]].concat()) {
        println!("skipped: not root, or no unshare or setpriv");
        return false;
    }
    // A copy: the build directory may be closed to others.
    let dir = tempfile::Builder::new().prefix("wink-mount-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("mount");
    assert!(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap().success());
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    again(&program, name, "root", &[]);
    if works(&["fusermount3", "--version"]) {
        again(&program, name, "user", &AS_USER);
    } else {
        println!("skipped: as an ordinary user: no fusermount3");
    }
    if works(&[&AS_USER[..], &["unshare", "-Umr", "true"]].concat()) {
        again(&program, name, "namespace", &[&AS_USER[..], &["unshare", "-Umr"]].concat());
    } else {
        println!("skipped: in a user namespace: ordinary users may not make them");
    }
    false
}

fn again(program: &Path, name: &str, who: &str, through: &[&str]) {
    // Where the device is root's alone, the program sees one that is everybody's.
    let script = "set -e; mount --make-rprivate /; mount -t tmpfs none /mnt; mknod -m 666 /mnt/fuse c 10 229; \
                  mount --bind /mnt/fuse /dev/fuse; umount -l /mnt; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args(through)
        .arg(program)
        .args(["--exact", name, "--show-output", "--test-threads=1"])
        .env(INSIDE, who)
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "as {who}: {text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "as {who}: {text}");
}

/// A directory with a real file in it, to mount over.
pub fn covered() -> (tempfile::TempDir, PathBuf, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("a tree");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("real"), "real").unwrap();
    let lower = rustix::fs::open(&top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    (dir, top, lower)
}

/// Mounts a tree and serves it over a transport.
pub fn mounted_over(top: &Path, tree: &Arc<OneFile>, transport: Transport) -> std::io::Result<Serving> {
    let serving = serve(tree.clone(), mount_over(top).unwrap(), Serve { transport, threads: 2, working_tree: true })?;
    assert!(transport == Transport::Auto || serving.transport() == transport);
    Ok(serving)
}

/// Whether a mount without a server answers so. A ring is taken down in a moment of its own, in which requests are called off.
pub fn is_of_the_dead(error: &std::io::Error) -> bool {
    [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED].map(Some).contains(&error.raw_os_error())
}

/// Waits until a mount is dead.
pub fn dies(top: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_dead(top) {
        assert!(Instant::now() < end, "it lives on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

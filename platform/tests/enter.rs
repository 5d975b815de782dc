//! Entering a view, as root and as an ordinary user, with a FUSE tree that never changes.
//!
//! Each test that needs another user runs this test program again through `setpriv`.

mod fixed;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fixed::{Fixed, Holds};
use wink_platform::unix::enter::{Door, EnterError, Scope, Stage, View, prepare};
use wink_platform::unix::fuse::{Serve, Serving, Transport, serve};
use wink_platform::unix::task::{Finished, Outcome, Spawn, Stdin, Stream, run};

const BOUND: [&str; 7] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/usr", "/no-such-directory"];

/// A tree with everything that the real root directory has, empty, and `hello`.
fn tree(workspace: &Path) -> Fixed {
    let mut tree = Fixed::new();
    for entry in std::fs::read_dir("/").unwrap() {
        let path = entry.unwrap().path();
        match std::fs::read_link(&path) {
            Ok(target) => tree.add(&path, Holds::Link(target.as_os_str().as_bytes().to_vec())),
            Err(_) => tree.add(&path, Holds::Dir),
        }
    }
    tree.add(Path::new("/hello/file"), Holds::File(b"from the view\n".to_vec()));
    tree.add(&workspace.join("virtual"), Holds::File(b"virtual\n".to_vec()));
    tree
}

struct Place {
    _dir: tempfile::TempDir,
    mountpoint: PathBuf,
    workspace: PathBuf,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("wink-enter-").tempdir_in("/tmp").unwrap();
        let (mountpoint, workspace) = (dir.path().join("mountpoint"), dir.path().join("workspace"));
        std::fs::create_dir(&mountpoint).unwrap();
        std::fs::create_dir(&workspace).unwrap();
        std::fs::write(workspace.join("real"), "real\n").unwrap();
        Place { _dir: dir, mountpoint, workspace }
    }

    fn system(&self) -> View {
        View {
            mountpoint: self.mountpoint.clone(),
            scope: Scope::System {
                bind: BOUND.iter().map(PathBuf::from).collect(),
                from_view: vec![(self.workspace.clone(), self.workspace.clone())],
            },
            cwd: self.workspace.clone(),
            options: "max_read=131072".into(),
            asked_at: None,
        }
    }
}

/// Runs a command in a view of `tree`; the server's end is part of the test: it comes when nobody is inside any more.
fn inside(view: &View, tree: Fixed, argv: &[&str]) -> (std::io::Result<Finished>, Result<(), EnterError>) {
    let (inside, door) = prepare(view).unwrap();
    let serve = move |door: &Door| -> Result<Serving, EnterError> {
        let device = door.receive(Duration::from_secs(20))?;
        Ok(serve(Arc::new(tree), device, Serve { transport: Transport::Auto, threads: 1, working_tree: false })
            .unwrap())
    };
    let server = std::thread::spawn(move || {
        let serving = serve(&door)?;
        // The top directory goes at once: it would keep the view mounted.
        let entered = door.entered().map(drop);
        serving.wait().unwrap();
        entered
    });
    let argv: Vec<_> = argv.iter().map(OsString::from).collect();
    let spawn = Spawn {
        argv: &argv,
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: None,
        stdin: Stdin::Null,
        inside: Some(inside),
        umask: None,
        quiet: true,
        piped: [false; 2],
    };
    let finished = run(spawn, |_| {});
    (finished, server.join().unwrap())
}

fn skipped() -> bool {
    let problem = wink_platform::unix::probe::fuse_available().and(wink_platform::unix::probe::namespaces_available());
    if let Err(problem) = &problem {
        println!("skipped: {problem}");
    }
    problem.is_err()
}

fn output(finished: &Finished, wanted: Stream) -> String {
    let bytes: Vec<u8> =
        finished.pieces.iter().filter(|(stream, _)| *stream == wanted).flat_map(|(_, bytes)| bytes.clone()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[track_caller]
fn check(view: &View, tree: Fixed, script: &str, wanted: &str) {
    let (finished, entered) = inside(view, tree, &["sh", "-c", script]);
    let finished = finished.unwrap();
    assert_eq!(entered, Ok(()));
    assert_eq!(finished.outcome, Outcome::Exited(0), "{}", output(&finished, Stream::Stderr));
    assert_eq!(output(&finished, Stream::Stdout), wanted, "{}", output(&finished, Stream::Stderr));
}

fn no_mounts_left(place: &Place) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Others may well have mounted something of wink's on this machine.
    assert!([&place.mountpoint, &place.workspace].iter().all(|dir| !mounts.contains(&*dir.to_string_lossy())));
}

#[test]
fn the_view_is_the_root_directory() {
    if skipped() {
        return;
    }
    let place = Place::new();
    let script = format!(
        "cat /hello/file; ls; pwd; ls {mountpoint}; id -u; test -c /dev/null && test -d /proc/self && echo bound; \
         ls / | grep -c no-such; stat -f -c %T {workspace} /; test -e {workspace}/real || echo hidden",
        mountpoint = place.mountpoint.display(),
        workspace = place.workspace.display()
    );
    let uid = rustix::process::geteuid().as_raw();
    let wanted =
        format!("from the view\nvirtual\n{}\n{uid}\nbound\n0\nfuseblk\nfuseblk\nhidden\n", place.workspace.display());
    // `stat -f` names both kinds of FUSE alike; older versions print the plain one.
    let wanted = if stat_says_fuseblk() { wanted } else { wanted.replace("fuseblk", "fuse") };
    check(&place.system(), tree(&place.workspace), &script, &wanted);
    no_mounts_left(&place);
}

fn stat_says_fuseblk() -> bool {
    let version = Command::new("stat").arg("--version").output().unwrap();
    String::from_utf8_lossy(&version.stdout).contains("GNU coreutils")
}

#[test]
fn user_namespaces_can_be_made_inside() {
    if skipped() || Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| !status.success()) {
        return;
    }
    let place = Place::new();
    check(&place.system(), tree(&place.workspace), "unshare -Ur id -u", "0\n");
}

#[test]
fn a_workspace_alone_is_covered() {
    if skipped() {
        return;
    }
    let place = Place::new();
    let mut tree = Fixed::new();
    tree.add(Path::new("/virtual"), Holds::File(b"virtual\n".to_vec()));
    let view = View { scope: Scope::Workspace(place.workspace.clone()), ..place.system() };
    check(
        &view,
        tree,
        "cat virtual; ls; test -d /etc && ls /hello 2>/dev/null || echo native",
        "virtual\nvirtual\nnative\n",
    );
    no_mounts_left(&place);
}

#[test]
fn failures_say_where() {
    if skipped() {
        return;
    }
    let place = Place::new();
    let failed = |view: &View| {
        let (finished, entered) = inside(view, tree(&place.workspace), &["true"]);
        assert!(finished.is_err());
        match entered {
            Err(EnterError::Failed { stage, errno, path }) => (stage, errno, path),
            other => panic!("{other:?}"),
        }
    };
    let view = View { cwd: "/no/such/directory".into(), ..place.system() };
    assert_eq!(failed(&view), (Stage::Chdir, libc::ENOENT, None));
    let view = View { mountpoint: "/no/such/mountpoint".into(), ..place.system() };
    assert_eq!(failed(&view), (Stage::MountView, libc::ENOENT, None));
    let view = View { options: "no_such_option".into(), ..place.system() };
    assert_eq!(failed(&view), (Stage::MountView, libc::EINVAL, None));
    let missing = place.workspace.join("missing");
    let scope = Scope::System { bind: vec!["/usr".into()], from_view: vec![(missing.clone(), missing.clone())] };
    let view = View { scope, ..place.system() };
    assert_eq!(failed(&view), (Stage::OpenView, libc::ENOENT, Some(missing.display().to_string())));
}

#[test]
fn a_view_that_nobody_serves_fails_instead_of_hanging() {
    if skipped() {
        return;
    }
    let place = Place::new();
    let (inside, door) = prepare(&place.system()).unwrap();
    let dropped = std::thread::spawn(move || {
        drop(door.receive(Duration::from_secs(20)).unwrap());
        door.entered().map(drop)
    });
    let argv = [OsString::from("true")];
    let spawn = Spawn {
        argv: &argv,
        env: Vec::new(),
        cwd: None,
        stdin: Stdin::Null,
        inside: Some(inside),
        umask: None,
        quiet: true,
        piped: [false; 2],
    };
    assert!(run(spawn, |_| {}).is_err());
    assert!(matches!(
        dropped.join().unwrap(),
        Err(EnterError::Failed { errno: libc::ENOTCONN | libc::ECONNABORTED, .. })
    ));
}

#[test]
fn commands_are_looked_for_in_the_view() {
    if skipped() {
        return;
    }
    let place = Place::new();
    let (finished, entered) = inside(&place.system(), tree(&place.workspace), &["no-such-command"]);
    assert_eq!((finished.unwrap().outcome, entered), (Outcome::NotFound, Ok(())));
    let (finished, entered) = inside(&place.system(), tree(&place.workspace), &["./virtual"]);
    assert_eq!((finished.unwrap().outcome, entered), (Outcome::NotExecutable(libc::EACCES), Ok(())));
}

#[test]
fn all_of_it_works_for_an_ordinary_user() {
    static AGAIN: AtomicBool = AtomicBool::new(false);
    if skipped() || !rustix::process::geteuid().is_root() || AGAIN.swap(true, Ordering::Relaxed) {
        return;
    }
    // A copy: the build directory may be closed to others. Made by another process, so that no child of this one, forked
    // by a test on another thread, holds it open for writing.
    let dir = tempfile::Builder::new().prefix("wink-enter-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("enter");
    assert!(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap().success());
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let allowed = Command::new("setpriv").args(user).args(["unshare", "-Um", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("skipped: no user namespaces for ordinary users, or no setpriv");
        return;
    }
    // Where the device is root's alone, the program sees one that is everybody's, in a mount namespace of the test's own.
    let script = "set -e; mount --make-rprivate /; dir=$1; shift; \
                  if ! setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'exec 3<>/dev/fuse' 2>/dev/null; then \
                    mount -t tmpfs none $dir; mknod -m 666 $dir/fuse c 10 229; mount --bind $dir/fuse /dev/fuse; umount -l $dir; \
                  fi; exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
    let device = dir.path().join("device");
    std::fs::create_dir(&device).unwrap();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([&device, &program])
        .args(["--show-output", "--test-threads=1"])
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // The test that starts over as another user is the only one with nothing to do there.
    assert!(!text.contains("skipped:"), "{text}");
}

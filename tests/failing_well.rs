//! Failing well: on any doubt the command runs normally, with its true exit code, and one line says why nothing was cached.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::{Call, Run, World, assert_same, simple, strs, tools, wait_for};

const NOBODY: u32 = 65534;

/// `sh -c line` below `unshare flags`.
fn inside<'a>(flags: &[&'a str], line: &'a str) -> Vec<&'a str> {
    [&["unshare"], flags, &["/bin/sh", "-ec", line, "sh"]].concat()
}

/// The command ran once, natively in effect, uncached, and one line said why.
#[track_caller]
fn ran_uncached(world: &World, run: &Run) {
    run.uncached().exits(0);
    assert_eq!(world.count(), 1, "ran exactly once: {run:?}");
    assert_eq!(run.lines().len(), 1, "one line: {run:?}");
    assert_eq!(run.out(), "printed\n");
    assert_eq!(world.text("out"), "text\n");
}

#[test]
fn no_dev_fuse() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let hide = "d=$(mktemp -d); mount -t tmpfs none $d; mkdir $d/pts $d/shm
        for n in null zero full random urandom tty; do : > $d/$n; mount --bind /dev/$n $d/$n; done
        mount --move $d /dev; rmdir $d; [ ! -e /dev/fuse ]; exec \"$@\"";
    let useless = "mount --bind /dev/null /dev/fuse; exec \"$@\"";
    for (name, line) in [("no-fuse", hide), ("null-fuse", useless)] {
        let (world, command) = simple(name);
        let run = world.call().under(&inside(&["-m"], line)).run(&strs(&command));
        ran_uncached(&world, &run);
        assert!(run.reason().contains("fuse") || run.reason().contains("view"), "names what is missing: {run:?}");
        // What was recorded elsewhere is still there to hit: a hit needs no view.
        let recorded = world.run(&strs(&command));
        recorded.exits(0);
        if recorded.status() == "miss" {
            world.call().under(&inside(&["-m"], line)).run(&strs(&command)).hit();
        }
    }
}

#[test]
fn no_namespaces() {
    need!(tools::unshare(&["-U", "-r"]));
    let (world, command) = simple("no-ns");
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_mnt_namespaces
        ! unshare -m true 2> /dev/null; exec \"$@\"";
    let run = world.call().under(&inside(&["-U", "-r"], forbid)).run(&strs(&command));
    ran_uncached(&world, &run);
}

#[test]
fn store_that_cannot_be_used() {
    let (world, command) = simple("store-file");
    fs::write(&world.store, "a file where the store should be").unwrap();
    let run = world.run(&strs(&command));
    ran_uncached(&world, &run);
    assert!(run.reason().contains(world.store.to_str().unwrap()), "names the store: {run:?}");
    assert_eq!(fs::read(&world.store).unwrap(), b"a file where the store should be");
}

#[test]
fn store_of_somebody_else_is_refused() {
    need!(tools::root());
    let (world, command) = simple("store-owner");
    fs::create_dir(&world.store).unwrap();
    std::os::unix::fs::chown(&world.store, Some(NOBODY), Some(NOBODY)).unwrap();
    let run = world.run(&strs(&command));
    ran_uncached(&world, &run);
    assert!(run.reason().contains(world.store.to_str().unwrap()), "names the store: {run:?}");
    assert_eq!(fs::read_dir(&world.store).unwrap().count(), 0, "and nothing was written into it");
    assert_eq!(fs::metadata(&world.store).unwrap().uid(), NOBODY);

    // Somebody else's directory with a valid-looking store in it must never give a hit.
    let (world, command) = simple("store-given");
    world.run(&strs(&command)).miss();
    std::os::unix::fs::chown(&world.store, Some(NOBODY), Some(NOBODY)).unwrap();
    world.run(&strs(&command)).uncached().exits(0);
    assert_eq!(world.count(), 2);
}

#[test]
fn full_disk() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let world = World::new("full");
    let command = world.counted("head -c 8000000 /dev/zero | tr '\\0' x > big; echo printed");
    fs::create_dir(&world.store).unwrap();
    let line = format!("mount -t tmpfs -o size=1m,mode=700 none {}; exec \"$@\"", world.store.display());
    let run = world.call().under(&inside(&["-m"], &line)).run(&strs(&command));
    run.uncached().exits(0);
    assert_eq!(world.count(), 1, "the command runs once: {run:?}");
    assert_eq!(run.out(), "printed\n");
    let big = world.read("big");
    assert!(big.len() == 8_000_000 && big.iter().all(|&byte| byte == b'x'), "{} bytes", big.len());
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let tree = common::snapshot(dir);
    tree.iter().filter(|(_, entry)| entry.kind == "file").map(|(path, _)| dir.join(path)).collect()
}

/// A way to spoil a file, by name.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path));

/// Damages the blob whose bytes are `bytes`.
fn damage_blob(world: &World, bytes: &[u8], damage: &dyn Fn(&Path)) {
    let blobs = files_below(&world.store.join("blobs"));
    let same: Vec<_> = blobs.iter().filter(|path| fs::read(path).unwrap() == bytes).collect();
    assert!(!same.is_empty(), "no blob with those bytes among {blobs:?}");
    for path in same {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        damage(path);
    }
}

#[test]
fn damaged_blobs_never_become_outputs() {
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
    let damages: [Damage; 4] = [
        ("truncated", &|path| fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap()),
        ("emptied", &|path| fs::write(path, "").unwrap()),
        ("deleted", &|path| fs::remove_file(path).unwrap()),
        ("flipped", &|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[12_345] ^= 0x40;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let world = World::new("blob");
        world.write("source.bin", &content);
        let command = world.counted("head -c 250000 source.bin > out.bin; echo printed");
        world.run(&strs(&command)).miss();
        let built = world.tree();
        world.remove("out.bin");
        damage_blob(&world, &content[..250_000], damage);
        let run = world.run(&strs(&command));
        run.exits(0);
        assert_ne!(run.status(), "hit", "{name}: {run:?}");
        assert_eq!(world.count(), 2, "{name}: ran again");
        assert_same(&built, &world.tree(), name);
        // And it heals.
        world.remove("out.bin");
        world.run(&strs(&command)).hit();
        assert_same(&built, &world.tree(), name);
    }
}

#[test]
fn a_damaged_index_loses_hits_never_files() {
    let damages: [Damage; 4] = [
        ("garbage", &|path| fs::write(path, vec![0xa5; 9000]).unwrap()),
        ("emptied", &|path| fs::write(path, "").unwrap()),
        ("halved", &|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("scribbled", &|path| {
            let mut bytes = fs::read(path).unwrap();
            let start = bytes.len().min(4096) / 2;
            bytes[start..].iter_mut().step_by(97).for_each(|byte| *byte ^= 0xff);
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let (world, command) = simple("index");
        world.run(&strs(&command)).miss();
        let built = world.tree();
        let index: Vec<_> = files_below(&world.store)
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("index.sqlite"))
            .collect();
        assert!(!index.is_empty(), "no index.sqlite in the store");
        index.iter().for_each(|path| damage(path));
        world.remove("out");
        let run = world.run(&strs(&command));
        run.exits(0);
        assert_eq!(run.out(), "printed\n", "{name}");
        assert_same(&built, &world.tree(), name);
        let again = world.run(&strs(&command));
        again.exits(0);
        assert_same(&built, &world.tree(), name);
    }
}

#[test]
fn workspace_that_is_not_writable() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    let (world, command) = simple("readonly");
    let line = format!("mount --bind {0} {0}; mount -o remount,bind,ro {0}; cd {0}; exec \"$@\"", world.ws.display());
    let before = world.tree();
    let reading = ["/bin/cat", "source.txt"];
    let run = world.call().under(&inside(&["-m"], &line)).run(&reading);
    run.exits(0);
    assert_eq!(run.out(), "text\n");
    for _ in 0..2 {
        let run = world.call().under(&inside(&["-m"], &line)).run(&strs(&command));
        assert_ne!(run.code, 0, "the outputs could not be written: {run:?}");
        assert_ne!(run.status(), "hit", "{run:?}");
        assert!(!run.err().is_empty(), "says so");
    }
    assert_same(&before, &world.tree(), "nothing was lost");
    world.run(&strs(&command)).exits(0);
    assert_eq!(world.text("out"), "text\n");
}

#[test]
fn writes_outside_the_workspace_go_through_uncached() {
    let world = World::tracked("outside");
    let target = world.root.join("elsewhere.txt");
    let command = world.counted(&format!("echo escaped > {}; echo printed", target.display()));
    for turn in 1..=2 {
        let run = world.run(&strs(&command));
        run.uncached().exits(0);
        assert!(run.reason().contains(target.to_str().unwrap()), "names the path: {run:?}");
        assert_eq!(world.count(), turn);
        assert_eq!(fs::read_to_string(&target).unwrap(), "escaped\n");
    }
    // A known tool cache is scratch: neither observed nor an output.
    let command = world.counted("mkdir -p ~/.cache/tool; date +%N >> ~/.cache/tool/log; wc -l < /dev/null; echo fine");
    world.run(&strs(&command)).miss();
    world.run(&strs(&command)).hit();
    let removed = world.write(world.home.join("keep.txt"), "keep\n");
    world.run(&["/bin/rm", removed.to_str().unwrap()]).uncached().exits(0);
    assert!(!removed.exists());
}

#[test]
fn a_survivor_is_named_uncached_and_keeps_its_view() {
    let python = need!(tools::python());
    let world = World::new("survivor");
    let proof = world.untracked.join("proof");
    world.write("source.txt", "still here\n");
    world.write("late.txt", "never read before\n");
    let script = "import os, sys, time\n\
        if os.fork(): os._exit(0)\n\
        os.setsid()\n\
        null = os.open('/dev/null', os.O_RDWR)\n\
        for fd in (0, 1, 2): os.dup2(null, fd)\n\
        time.sleep(2)\n\
        text = open('source.txt').read() + open('late.txt').read() + str(os.path.exists('none'))\n\
        open(sys.argv[1] + '.new', 'w').write(text); os.rename(sys.argv[1] + '.new', sys.argv[1])\n";
    world.write("daemon.py", script);
    let command = [python.as_str(), "daemon.py", proof.to_str().unwrap()];
    let run = world.run(&command);
    run.uncached().exits(0);
    assert!(run.reason().contains("python"), "names the process: {run:?}");
    wait_for(&proof);
    assert_eq!(fs::read_to_string(&proof).unwrap(), "still here\nnever read before\nFalse");
    fs::remove_file(&proof).unwrap();
    let again = world.run(&command);
    assert_ne!(again.status(), "hit");
    wait_for(&proof);
}

/// As an ordinary user, with and without the right to open /dev/fuse.
#[test]
fn unprivileged() {
    need!(tools::root().and(tools::unshare(&["-m"])));
    for allowed in [true, false] {
        let (world, command) = simple("nobody");
        fs::set_permissions(&world.untracked, fs::Permissions::from_mode(0o777)).unwrap();
        let program = world.root.join("wink");
        fs::copy(env!("CARGO_BIN_EXE_wink"), &program).unwrap();
        fs::create_dir(&world.store).unwrap();
        fs::set_permissions(&world.store, fs::Permissions::from_mode(0o700)).unwrap();
        for path in
            [&world.root, &world.ws, &world.home, &world.store, &world.root.join("json"), &world.ws.join("source.txt")]
        {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let device = world.untracked.join("fuse");
        let mode = if allowed { "666" } else { "600" };
        let line = format!(
            "mknod -m {mode} {0} c 10 229; chmod {mode} {0}; mount --bind {0} /dev/fuse; \
             exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups \"$@\"",
            device.display()
        );
        let call = || -> Call { world.call().program(&program).under(&inside(&["-m"], &line)) };
        let can_open = call().native(&["/bin/sh", "-c", ": <> /dev/fuse"]).code == 0;
        fs::remove_file(&device).unwrap();
        if can_open != allowed {
            tools::skip("a bind-mounted /dev/fuse does not behave here");
            continue;
        }
        let first = call().run(&strs(&command));
        let _ = fs::remove_file(&device);
        first.exits(0);
        assert_eq!(first.out(), "printed\n");
        assert_eq!(fs::metadata(world.ws.join("out")).unwrap().uid(), NOBODY);
        if !allowed {
            ran_uncached(&world, &first);
            continue;
        }
        first.miss();
        world.remove("out");
        let second = call().run(&strs(&command));
        second.hit();
        assert_eq!(world.count(), 1);
        assert_eq!(world.text("out"), "text\n");
    }
}

#[test]
fn unreadable_store_of_an_ordinary_user() {
    need!(tools::root());
    let (world, command) = simple("unreadable");
    fs::set_permissions(&world.untracked, fs::Permissions::from_mode(0o777)).unwrap();
    let program = world.root.join("wink");
    fs::copy(env!("CARGO_BIN_EXE_wink"), &program).unwrap();
    fs::create_dir(&world.store).unwrap();
    for path in [&world.root, &world.ws, &world.home, &world.store, &world.root.join("json")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(&world.store, fs::Permissions::from_mode(0o000)).unwrap();
    let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    let under = ["setpriv", &ids[0], &ids[1], "--clear-groups"];
    let run = world.call().program(&program).under(&under).run(&strs(&command));
    ran_uncached(&world, &run);
}

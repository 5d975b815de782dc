//! Strangers and nonsense at the daemon's door.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::build::{build, built, ready};
use crate::common::mounted::unmount;
use crate::common::{World, assert_same, figure, snapshot, tools};
use crate::need;

/// Far above what an answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn message(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

fn pid(world: &World) -> serde_json::Value {
    let status = world.call().dir("/").wink(&["daemon", "status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    status["pid"].clone()
}

/// Sends, and returns what comes back until the other end has nothing more to say.
fn say(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(world.store.join("daemon.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The daemon may hang up before it has all of it.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn nonsense_at_the_socket_harms_nobody() {
    let world = ready("hostile", true);
    let daemon = pid(&world);
    assert!(daemon.is_u64());
    let outside = world.root.join("outside");
    fs::write(&outside, "outside").unwrap();
    let root = world.ws.to_str().unwrap();
    let noise: Vec<u8> = (0..100_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let digest = blake3::hash(b"no pack").to_hex().to_string();
    let attach = |remove: &str, at: &str, pack: &str| {
        format!(
            r#"{{"Attach":{{"root":"{root}","remove":{remove},"pack":{{"at":"{at}","pack":"{pack}","first_ns":0,"step_ns":1}}}}}}"#
        )
    };
    let texts = [
        "[".repeat(1_000_000),
        "\"Unheard\"".into(),
        "{}".into(),
        String::new(),
        format!(r#"{{"Mount":{{"root":"{root}","private":false}}}}"#),
        r#"{"Mounted":{"root":"/","dev":1}}"#.into(),
        r#"{"Find":{"dev":18446744073709551615}}"#.into(),
        r#"{"Mend":{"root":"/nowhere"}}"#.into(),
        format!(r#"{{"Materialize":{{"root":"{root}","path":"../outside"}}}}"#),
        format!(r#"{{"Materialize":{{"root":"{root}","path":"/etc"}}}}"#),
        format!(r#"{{"Materialize":{{"root":"{root}","path":"a\u0000b"}}}}"#),
        format!(r#"{{"Materialize":{{"root":"{root}","path":"\u1234"}}}}"#),
        format!(r#"{{"Attach":{{"root":"{root}","remove":["../outside"],"pack":null}}}}"#),
        format!(r#"{{"Attach":{{"root":"{root}","remove":["/etc/passwd","","a\u0000b","."],"pack":null}}}}"#),
        attach("[]", "../..", &digest),
        attach("[]", "", &digest),
        attach("[]", "/etc", "not a digest"),
    ];
    // Kept open meanwhile: one that says nothing, one that stops in a length, one in a message.
    let open: Vec<UnixStream> = [&b""[..], &[1], &[200, 0, 0, 0, b'{']]
        .map(|bytes| {
            let mut stream = UnixStream::connect(world.store.join("daemon.sock")).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        })
        .into();
    let raw: [&[u8]; 6] = [&noise, &[0xff; 4], &[0, 0, 0, 4], &[9, 0, 0, 0, b'x'], b"GET / HTTP/1.0\r\n\r\n", &[0; 64]];
    raw.iter().for_each(|bytes| drop(say(&world, bytes)));
    for text in &texts {
        let answer = say(&world, &message(text.as_bytes()));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let clip = &text[..text.len().min(200)];
        assert!(!answer.is_empty(), "the daemon said nothing to {clip}");
        // Nothing that is there has such a name: nothing was made real.
        let is_refused = ["Failed", "NotMounted", "\"Done\":0"].iter().any(|what| answer.contains(what));
        assert!(is_refused || text.contains("remove"), "{clip}: {answer}");
    }
    assert_eq!(pid(&world), daemon, "the daemon lives");
    assert_eq!(fs::read(&outside).unwrap(), b"outside");
    assert_same(&built(1), &snapshot(&world.ws), "nothing was changed");
    build(&world, &world.ws, 1, "afterwards").hit();
    drop(open);
    unmount(&world);
}

#[test]
fn another_user_is_not_heard() {
    let python = need!(tools::python());
    need!(tools::root().and(tools::which("setpriv").map(drop)));
    let world = ready("stranger", true);
    let socket = world.store.join("daemon.sock");
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        try:\n    s.connect(sys.argv[1])\n    s.sendall(b'\\x08\\0\\0\\0\"Status\"')\n    print('heard', s.recv(1000))\n\
        except OSError as error: print('refused')";
    let ask = |user: &str| {
        let ids = [format!("--reuid={user}"), format!("--regid={user}")];
        let words = ["setpriv", &ids[0], &ids[1], "--clear-groups", &python, "-c", script, socket.to_str().unwrap()];
        world.call().dir("/").native(&words).out()
    };
    assert!(ask("0").contains("version"), "{}", ask("0"));
    assert_eq!(ask("65534"), "refused\n");
    // Even if somebody opens the door for them.
    fs::set_permissions(&world.store, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let answer = ask("65534");
    assert!(answer == "refused\n" || answer == "heard b''\n", "{answer}");
    build(&world, &world.ws, 1, "afterwards").hit();
    unmount(&world);
}

fn descriptors(daemon: &serde_json::Value) -> usize {
    fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count()
}

/// More than it speaks with at once, all of them in the middle of a message that claims to be as long as one may be.
#[test]
fn a_crowd_at_the_door_keeps_nobody_out_for_long() {
    let world = ready("flood", true);
    let daemon = pid(&world);
    let before = descriptors(&daemon);
    let mut crowd = Vec::new();
    for _ in 0..700 {
        // It may have hung up already.
        let Ok(mut stream) = UnixStream::connect(world.store.join("daemon.sock")) else { continue };
        let _ = stream.write_all(&(64_u32 << 20).to_le_bytes());
        let _ = stream.write_all(b"{");
        crowd.push(stream);
    }
    // The tree is served all the while.
    assert_same(&built(1), &snapshot(&world.ws), "beside a crowd");
    let memory = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(resident < 500_000, "{resident} kB for what nobody has sent");
    figure("connections at once to one daemon", crowd.len());
    drop(crowd);
    let began = std::time::Instant::now();
    while descriptors(&daemon) > before {
        assert!(began.elapsed() < PATIENCE, "{} descriptors, {before} before", descriptors(&daemon));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(pid(&world), daemon, "the daemon lives");
    build(&world, &world.ws, 1, "afterwards").hit();
    unmount(&world);
}

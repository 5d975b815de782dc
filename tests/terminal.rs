//! A terminal stays a terminal for the command, colours survive, and what is replayed is what was shown.

mod common;

use std::fs;
use std::path::Path;

use common::{World, tools};

/// Runs a program under a new pseudo-terminal and copies everything it shows to stdout; exits with its code.
const PTY: &str = r#"
import os, pty, sys, fcntl, termios, struct
pid, master = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 77, 0, 0))
while True:
    try:
        data = os.read(master, 65536)
    except OSError:
        break
    if not data:
        break
    os.write(1, data)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.exit(code if code >= 0 else 128 - code)
"#;

const COMMAND: &str = r#"
sleep 0.2
for fd in 0 1 2; do if [ -t $fd ]; then echo "$fd is a terminal"; else echo "$fd is none"; fi; done
if [ -t 1 ]; then printf '\033[32mgreen\033[0m\n'; else echo plain; fi
printf 'progress 1\rprogress 2\r\n'; sleep 0.1; printf '\033[31mwarned\033[0m\n' >&2; sleep 0.1; echo last; stty size < /dev/tty 2>&1 || :
"#;

fn shown(world: &World, command: &[&str], pty: &Path) -> Result<(String, i32), String> {
    let python = tools::python()?;
    let run = world.call().native(&[&[python.as_str(), pty.to_str().unwrap()], command].concat());
    Ok((run.out(), run.code))
}

fn without_winks_line(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.contains("wink:")).collect()
}

#[test]
fn the_command_sees_a_terminal_and_replay_shows_the_same_bytes() {
    let world = World::new("tty");
    let pty = world.root.join("under_tty.py");
    fs::write(&pty, PTY).unwrap();
    world.write("show.sh", COMMAND);
    let native = need!(shown(&world, &["/bin/sh", "show.sh"], &pty));
    assert!(native.0.contains("1 is a terminal") && native.0.contains("\x1b[32mgreen"), "{native:?}");

    let wink = env!("CARGO_BIN_EXE_wink");
    let json = world.root.join("json/tty");
    let command = [wink, "run", "--json", json.to_str().unwrap(), "--", "/bin/sh", "show.sh"];
    let status = || {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        json["status"].as_str().unwrap().to_owned()
    };
    let first = need!(shown(&world, &command, &pty));
    assert_eq!(status(), "miss");
    assert_eq!(first.1, 0);
    let second = need!(shown(&world, &command, &pty));
    assert_eq!(status(), "hit");
    for (when, text) in [("live", &first.0), ("replayed", &second.0)] {
        let text = without_winks_line(text);
        for fd in [1, 2] {
            assert!(text.contains(&format!("{fd} is a terminal")), "{when}: {text:?}");
        }
        assert!(text.contains("\x1b[32mgreen\x1b[0m\r\n"), "{when}: {text:?}");
        assert!(text.contains("\x1b[31mwarned\x1b[0m\r\n"), "{when}: {text:?}");
        assert!(text.contains("progress 1\rprogress 2\r"), "{when}: {text:?}");
    }
    assert_eq!(without_winks_line(&first.0), without_winks_line(&second.0), "replay shows what was shown");
    let order = |text: &str| ["green", "progress", "warned", "last"].map(|word| text.find(word));
    assert!(order(&second.0).is_sorted(), "{:?}", second.0);
}

/// With and without a terminal the command prints different things: one must never be replayed for the other.
#[test]
fn a_terminal_and_a_pipe_are_different_tasks() {
    let world = World::new("tty-pipe");
    let pty = world.root.join("under_tty.py");
    fs::write(&pty, PTY).unwrap();
    world.write("show.sh", COMMAND);
    let wink = env!("CARGO_BIN_EXE_wink");
    let command = [wink, "run", "--", "/bin/sh", "show.sh"];
    for turn in ["first", "second"] {
        let terminal = need!(shown(&world, &command, &pty)).0;
        assert!(terminal.contains("\x1b[32mgreen"), "{turn}: {terminal:?}");
        let piped = world.run(&["/bin/sh", "show.sh"]);
        assert!(piped.out().contains("plain\n") && !piped.out().contains("green"), "{turn}: {piped:?}");
    }
    let piped = world.run(&["/bin/sh", "show.sh"]);
    piped.hit();
    assert!(piped.out().contains("plain\n"), "{piped:?}");
}

#[test]
fn the_exit_code_comes_through_a_terminal() {
    let world = World::new("tty-code");
    let pty = world.root.join("under_tty.py");
    fs::write(&pty, PTY).unwrap();
    let wink = env!("CARGO_BIN_EXE_wink");
    let (text, code) = need!(shown(&world, &[wink, "run", "--", "/bin/sh", "-c", "echo bye; exit 9"], &pty));
    assert_eq!(code, 9, "{text:?}");
    assert!(text.contains("bye\r\n"), "{text:?}");
}

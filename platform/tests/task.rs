//! Running commands: what is captured, how they end, who outlives them, which signals reach them.

use std::ffi::OsString;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use wink_platform::unix::task::{Finished, Outcome, Spawn, Stdin, Stream, run};

/// Children of this process are what the tests are about: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn spawn<'a>(argv: &'a [OsString]) -> Spawn<'a> {
    Spawn {
        argv,
        env: std::env::vars_os().collect(),
        cwd: None,
        stdin: Stdin::Null,
        inside: None,
        umask: None,
        quiet: true,
        piped: [false; 2],
    }
}

fn shell(script: &str) -> Finished {
    run(spawn(&words(&["sh", "-c", script])), |_| {}).unwrap()
}

fn text(finished: &Finished, wanted: Stream) -> String {
    let bytes: Vec<u8> =
        finished.pieces.iter().filter(|(stream, _)| *stream == wanted).flat_map(|(_, bytes)| bytes.clone()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn the_order_of_both_streams_is_kept() {
    let _alone = alone();
    for _ in 0..20 {
        let finished = shell("for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; echo p$i; done");
        let order: String =
            finished.pieces.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect();
        let wanted: String = (1..=9).map(|i| format!("o{i}\ne{i}\np{i}\n")).collect();
        assert_eq!(order, wanted);
        assert!(finished.complete && finished.survivors.is_empty() && finished.rest.is_none());
    }
}

#[test]
fn ten_megabytes_arrive_whole() {
    let _alone = alone();
    let start = Instant::now();
    let finished = shell("head -c 10485760 /dev/zero | tr '\\0' x; printf end; echo tail >&2");
    assert_eq!(finished.outcome, Outcome::Exited(0));
    let out = text(&finished, Stream::Stdout);
    assert_eq!(out.len(), 10_485_763);
    assert!(out.ends_with("xend"));
    assert_eq!(text(&finished, Stream::Stderr), "tail\n");
    assert!(start.elapsed() < Duration::from_secs(20));
    eprintln!("10 MB in {:?}", finished.wall);
}

#[test]
fn endings_are_told_apart() {
    let _alone = alone();
    assert_eq!(shell("exit 7").outcome, Outcome::Exited(7));
    assert_eq!(shell("kill -TERM $$").outcome, Outcome::Signalled(15));
    assert_eq!(shell("kill -KILL $$").outcome.exit_code(), 137);
    let ending = |argv: &[&str]| {
        let mut started = false;
        let outcome = run(spawn(&words(argv)), |_| started = true).unwrap().outcome;
        assert!(!started || !matches!(outcome, Outcome::NotFound | Outcome::NotExecutable(_)));
        outcome
    };
    assert_eq!(ending(&["no-such-command-anywhere"]), Outcome::NotFound);
    assert_eq!(ending(&["/no/such/command"]), Outcome::NotFound);
    assert_eq!(ending(&["/etc/passwd"]), Outcome::NotExecutable(libc::EACCES));
    assert_eq!(ending(&["/"]), Outcome::NotExecutable(libc::EACCES));
    assert_eq!(ending(&[""]), Outcome::NotFound);
    assert!(run(spawn(&[]), |_| {}).is_err());
}

#[test]
fn a_script_without_interpreter_line_is_run_by_the_shell() {
    use std::os::unix::fs::PermissionsExt;
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "echo \"$0 $1\"\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let argv = words(&["script", "word"]);
    let mut spawn = spawn(&argv);
    spawn.env = vec![("PATH".into(), dir.path().into())];
    let finished = run(spawn, |_| {}).unwrap();
    assert_eq!(finished.outcome, Outcome::Exited(0));
    assert_eq!(text(&finished, Stream::Stdout), format!("{} word\n", script.display()));
}

#[test]
fn input_environment_directory_and_umask_are_given() {
    let _alone = alone();
    let argv = words(&["/bin/sh", "-c", "cat; pwd; umask; echo $GREETING; test -z \"$HOME\" || echo home"]);
    let mut spawn = spawn(&argv);
    let big = vec![b'i'; 300_000];
    spawn.stdin = Stdin::Bytes(big.clone());
    spawn.cwd = Some("/usr".into());
    spawn.umask = Some(0o27);
    spawn.env = vec![("GREETING".into(), "hello".into()), ("PATH".into(), "/bin:/usr/bin".into())];
    let out = text(&run(spawn, |_| {}).unwrap(), Stream::Stdout);
    assert_eq!(out.as_bytes()[..big.len()], big);
    assert_eq!(&out[big.len()..], "/usr\n0027\nhello\n");
}

#[test]
fn input_that_nobody_reads_is_no_failure() {
    let _alone = alone();
    let argv = words(&["true"]);
    let mut spawn = spawn(&argv);
    spawn.stdin = Stdin::Bytes(vec![0; 1 << 20]);
    assert_eq!(run(spawn, |_| {}).unwrap().outcome, Outcome::Exited(0));
}

#[test]
fn a_missing_directory_is_an_error_of_its_own() {
    let _alone = alone();
    let argv = words(&["true"]);
    let mut spawn = spawn(&argv);
    spawn.cwd = Some("/no/such/directory".into());
    assert_eq!(run(spawn, |_| {}).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn survivors_are_named_and_do_not_hold_up_the_end() {
    let _alone = alone();
    let start = Instant::now();
    let finished = shell("sleep 47 & (setsid sh -c 'sleep 48; true' &) ; echo started");
    assert!(start.elapsed() < Duration::from_secs(10));
    let mut names: Vec<_> = finished.survivors.iter().map(|survivor| survivor.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["sh", "sleep", "sleep"]);
    assert_eq!(text(&finished, Stream::Stdout), "started\n");
    assert!(!finished.complete && finished.rest.is_some());
    for survivor in &finished.survivors {
        // SAFETY: a signal to a process that this test has started.
        unsafe { libc::kill(survivor.pid, libc::SIGKILL) };
    }
    finished.rest.unwrap().pass_on();
}

#[test]
fn processes_that_follow_at_once_are_no_survivors() {
    let _alone = alone();
    let finished = shell("(sleep 0.01; echo late) & echo early");
    assert_eq!(text(&finished, Stream::Stdout), "early\nlate\n");
    assert!(finished.survivors.is_empty() && finished.complete);
}

#[test]
fn a_signal_sent_by_a_process_is_forwarded() {
    let _alone = alone();
    let finished = run(
        spawn(&words(&["sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"])),
        |_| {
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                // SAFETY: this process handles the signal while a command runs.
                unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
            });
        },
    )
    .unwrap();
    assert_eq!(finished.outcome, Outcome::Exited(3));
    assert_eq!(finished.interrupted, Some(libc::SIGTERM));
    assert_eq!(text(&finished, Stream::Stdout), "ready\ngot\n");
}

#[test]
fn the_command_starts_with_default_signals_and_original_limits() {
    let _alone = alone();
    let soft = || shell("ulimit -Sn").pieces;
    let before = soft();
    wink_platform::unix::raise_descriptor_limit();
    assert_eq!(soft(), before);
    let finished = shell("exec cat /proc/self/status");
    for line in
        text(&finished, Stream::Stdout).lines().filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ"))
    {
        let (_, set) = line.split_once(":\t").unwrap();
        // The real-time signals are the C library's, or whoever started the tests ignored some.
        assert_eq!(u64::from_str_radix(set, 16).unwrap() & 0x7fff_ffff, 0, "{line}");
    }
}

#[test]
fn dispositions_return_afterwards() {
    let _alone = alone();
    shell("true");
    let caught = std::fs::read_to_string("/proc/self/status").unwrap();
    let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap().to_owned();
    let caught = u64::from_str_radix(&caught, 16).unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD] {
        assert_eq!(caught >> (signal - 1) & 1, 0, "signal {signal}");
    }
}

/// The helper process of the tests below, which need a standard output of their own.
#[test]
#[ignore = "run by other tests in a process of its own"]
fn helper() {
    let Ok(script) = std::env::var("WINK_TEST_SCRIPT") else { return };
    let argv = words(&["sh", "-c", &script]);
    let mut spawn = spawn(&argv);
    spawn.quiet = false;
    let finished = run(spawn, |_| {}).unwrap();
    if let Ok(path) = std::env::var("WINK_TEST_REPORT") {
        std::fs::write(path, format!("{finished:?}")).unwrap();
    }
}

fn helper_command(script: &str, report: &std::path::Path) -> String {
    format!(
        "WINK_TEST_SCRIPT='{script}' WINK_TEST_REPORT='{}' '{}' --ignored --exact helper --nocapture --test-threads=1",
        report.display(),
        std::env::current_exe().unwrap().display()
    )
}

#[test]
fn a_terminal_stays_one_and_its_streams_apart() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let script = "test -t 1 && test -t 2 && echo both; sleep 0.2; echo err >&2; sleep 0.2; stty size <&1";
    let shown = std::process::Command::new("script")
        .args(["-qec", &format!("stty rows 41 cols 99; {}", helper_command(script, &report)), "/dev/null"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let report = std::fs::read_to_string(&report).unwrap();
    // Between two terminals the order is not guaranteed: give them time.
    for piece in [("Stdout", "both\n"), ("Stderr", "err\n"), ("Stdout", "41 99\n")] {
        assert!(report.contains(&format!("({}, {:?})", piece.0, piece.1.as_bytes().to_vec())), "{report}");
    }
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    // The real terminal turned line ends into two characters, once.
    assert!(shown.contains("both\r\n") && !shown.contains("\r\r\n"), "{shown:?}");
}

#[test]
fn a_closed_reader_ends_the_command_as_natively() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let start = Instant::now();
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("{} | head -c 1000 >/dev/null", helper_command("exec yes", &report))])
        .status()
        .unwrap();
    assert!(status.success() && start.elapsed() < Duration::from_secs(10));
    let report = std::fs::read_to_string(&report).unwrap();
    assert!(report.contains("Signalled(13)") && report.contains("complete: false"), "{}", &report[..200]);
}

#[test]
fn a_killed_wink_leaves_no_command() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut helper = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("exec env {}", helper_command("echo; echo $$; exec sleep 49", &dir.path().join("report"))),
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(helper.stdout.take().unwrap()));
    let pid: i32 = lines.find_map(|line| line.unwrap().trim().parse().ok()).unwrap();
    helper.kill().unwrap();
    helper.wait().unwrap();
    // Other tests have made this process a subreaper: the command may have become its zombie.
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    assert!(gone);
}

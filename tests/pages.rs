//! What packagers install beside the program: manual pages and completion scripts.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{World, simple, strs, tools};

#[test]
fn a_manual_page_for_each_subcommand() {
    let world = World::new("man");
    let dir = world.root.join("man");
    let run = world.call().wink(&["man", dir.to_str().unwrap()]);
    assert_eq!((run.code, run.out().as_str()), (0, ""), "{run:?}");
    let mut names: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let help = world.call().wink(&["--help"]).out();
    let commands = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    assert!(commands.contains(&"run") && commands.contains(&"doctor"), "{help}");
    // What wraps begins with more blanks and is no name.
    for command in commands.iter().filter(|command| **command != "help" && help.contains(&format!("\n  {command} "))) {
        assert!(names.contains(&format!("wink-{command}.1")), "no page for {command}: {names:?}");
    }
    assert!(names.contains(&"wink.1".to_owned()) && names.contains(&"wink-config-schema.1".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("serve")), "what is hidden has no page: {names:?}");

    let main = fs::read_to_string(dir.join("wink.1")).unwrap();
    assert_eq!(main, world.call().wink(&["man"]).out(), "the page alone is the same");
    for section in [".SH NAME", ".SH SUBCOMMANDS", ".SH \"EXIT STATUS\"", ".SH FILES", ".SH ENVIRONMENT"] {
        assert!(main.contains(section), "{section}");
    }
    let run = fs::read_to_string(dir.join("wink-run.1")).unwrap();
    assert!(run.contains("\\-\\-dry\\-run") && run.contains("wink run"), "{run}");
    if let Ok(groff) = tools::which("groff") {
        for name in &names {
            let done =
                Command::new(&groff).args(["-k", "-man", "-Tutf8", "-ww", "-z"]).arg(dir.join(name)).output().unwrap();
            assert!(
                done.status.success() && done.stderr.is_empty(),
                "{name}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
    }
}

/// What bash offers for a line, by the script that `wink completions bash` prints.
fn offered(world: &World, line: &[&str]) -> Vec<String> {
    let script: PathBuf = world.root.join("completion.bash");
    if !script.exists() {
        let run = world.call().wink(&["completions", "bash"]);
        assert_eq!(run.code, 0, "{run:?}");
        fs::write(&script, run.stdout).unwrap();
    }
    let words: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    let last = line.len() - 1;
    let ask = format!(
        "PATH={wink}:$PATH; source {script}; function=$(complete -p wink | sed 's/.*-F \\([^ ]*\\).*/\\1/')
         COMP_WORDS=({words}); COMP_CWORD={last}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
         \"$function\" wink '{current}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        wink = PathBuf::from(env!("CARGO_BIN_EXE_wink")).parent().unwrap().display(),
        script = script.display(),
        words = words.join(" "),
        line = line.join(" "),
        current = line[last],
        before = line[last - 1],
    );
    let run = world.call().native(&["/bin/bash", "--norc", "-c", &ask]);
    assert_eq!(run.code, 0, "{run:?}");
    run.out().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_subcommands_flags_values_and_records() {
    let (world, command) = simple("complete");
    let has = |line: &[&str], wanted: &[&str]| {
        let offered = offered(&world, line);
        for word in wanted {
            assert!(offered.iter().any(|one| one == word), "{word} for {line:?}: {offered:?}");
        }
    };
    has(&["wink", "ex"], &["explain"]);
    has(&["wink", "run", "--o"], &["--own", "--output"]);
    has(&["wink", "run", "--own", ""], &["carry", "hide", "observe"]);
    has(&["wink", "explain", "--scope", ""], &["system", "workspace"]);
    has(&["wink", "config", ""], &["show", "schema"]);
    has(&["wink", "completions", ""], &["bash", "zsh", "fish"]);
    assert_eq!(offered(&world, &["wink", "trace", ""]), Vec::<String>::new(), "no record yet");
    let record = world.run(&strs(&command)).json["record"].as_str().unwrap()[..8].to_owned();
    has(&["wink", "trace", ""], &[&record]);
    has(&["wink", "trace", &record[..3]], &[&record]);
    has(&["wink", "trace", "--"], &["--html", "--json"]);
    assert!(!offered(&world, &["wink", "trace", "--"]).iter().any(|flag| flag == "--names"), "what is hidden stays so");
}

#[test]
fn other_shells_have_scripts_too() {
    let world = World::new("complete-others");
    for (shell, part) in [
        ("zsh", "#compdef wink"),
        ("fish", "complete -c wink"),
        ("elvish", "set edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let run = world.call().wink(&["completions", shell]);
        assert!(run.code == 0 && run.out().contains(part), "{run:?}");
        // The shell itself, where it is, takes the script as it stands.
        if let (Ok(program), true) = (tools::which(shell), ["zsh", "fish"].contains(&shell)) {
            let script = world.write("script", run.stdout);
            let checked = Command::new(program).arg("-n").arg(script).output().unwrap();
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
}

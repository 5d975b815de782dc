//! What packagers install beside the program: manual pages (`wink man`) and completion scripts (`wink completions`), both made from the
//! definition of the command line.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

/// Sections of wink(1) that the definition of the command line does not hold.
const MORE: &str = r#".SH "EXIT STATUS"
.TP
the command's own
\fBwink run\fR ran it, or replayed a record of it.
.TP
125
\fBwink run\fR failed before the command could run, or the command succeeded and not all its files could be published.
.TP
126, 127
The command cannot be executed; there is no such command.
.TP
128 + N
The command was killed by signal N.
.PP
Other subcommands: 0; 1 if they failed (\fBwink doctor\fR: if runs cannot be cached); 2 for a mistake on the command line; 3 if
nothing is damaged and a task that \fBwink cache verify \-\-rerun\fR ran again is not reproducible.
.SH FILES
.TP
\fBwink.toml\fR, \fBwink.json\fR
Configuration of a workspace; the directory that holds it is the workspace.
.TP
\fB$XDG_CONFIG_HOME/wink/config.toml\fR, \fBconfig.json\fR
Configuration of the user.
.TP
\fB$XDG_CACHE_HOME/wink\fR
The cache.
.SH ENVIRONMENT
.TP
\fBWINK_CACHE_DIR\fR
Moves the cache.
.TP
\fBWINK_CONFIG\fR
The user's configuration file.
.TP
\fBNO_COLOR\fR
Set to anything: no colours.
.PP
Each key of the configuration has a variable: \fBwink config show\fR.
"#;

/// Completion of records for `wink trace`, which only a running wink knows. It is put around what `clap_complete` makes.
const BASH_RECORDS: &str = r#"
_wink_with_records() {
    if [[ "${COMP_WORDS[1]}" == trace && "${COMP_WORDS[COMP_CWORD]}" != -* && "${COMP_WORDS[COMP_CWORD-1]}" != --html ]]; then
        COMPREPLY=( $(compgen -W "$(wink trace --names 2>/dev/null | cut -f1)" -- "${COMP_WORDS[COMP_CWORD]}") )
    else
        _wink "$@"
    fi
}
complete -F _wink_with_records -o nosort -o bashdefault -o default wink
"#;

const ZSH_RECORDS: &str = r#"
_wink_with_records() {
    if [[ "${words[2]}" == trace && "${words[CURRENT]}" != -* && "${words[CURRENT-1]}" != --html ]]; then
        local -a records
        records=( ${(f)"$(wink trace --names 2>/dev/null | tr '\t' ':')"} )
        _describe record records
    else
        _wink "$@"
    fi
}
if [ "$funcstack[1]" != "_wink" ]; then
    compdef _wink_with_records wink
fi
"#;

const FISH_RECORDS: &str = r#"
complete -c wink -n "__fish_seen_subcommand_from trace" -f -a "(wink trace --names 2>/dev/null)"
"#;

/// The completion script for a shell.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "wink", &mut script);
    let more = match shell {
        Shell::Bash => BASH_RECORDS,
        Shell::Zsh => ZSH_RECORDS,
        Shell::Fish => FISH_RECORDS,
        _ => "",
    };
    let script = String::from_utf8_lossy(&script);
    // Hidden flags are offered to bash all the same.
    let script = if shell == Shell::Bash { script.replace(" --names ", " ") } else { script.into_owned() };
    script + more
}

/// wink(1), or with a directory all pages written there: `wink.1`, `wink-run.1`, `wink-cache-stats.1`, ….
pub fn man(dir: Option<&Path>) -> anyhow::Result<String> {
    // `help` is no subcommand that wants a page.
    let command = Cli::command().disable_help_subcommand(true);
    let Some(dir) = dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return Ok(String::from_utf8(page)? + MORE);
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let written = || -> std::io::Result<()> {
        clap_mangen::generate_to(command, dir)?;
        OpenOptions::new().append(true).open(dir.join("wink.1"))?.write_all(MORE.as_bytes())
    };
    written().with_context(|| format!("cannot write the pages to {}", dir.display()))?;
    Ok(String::new())
}

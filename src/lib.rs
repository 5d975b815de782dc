//! The command `wink`: parse, dispatch, exit code.
//!
//! This crate alone knows of terminals, of its own environment and of `anyhow`; what it does lies in the crates below it.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod daemon;
mod engine;
mod environment;
mod key;
mod mounted;
mod outer;
mod package;
mod progress;
mod report;
mod roots;
mod shelf;
mod workspace;

/// Doors to what is read, for those who feed it hostile bytes (`fuzz/`). No part of the interface.
#[doc(hidden)]
pub mod decoders {
    pub use crate::config::pattern::{matches, matches_glob};
    pub use crate::config::{Config, Transport};
    pub use crate::daemon::protocol::{Attached, MountStatus, Reply, Request, Status, Text};
    pub use crate::key::KeyParts;
    pub use crate::roots::Roots;
}

/// The subcommands, one file each.
mod command {
    pub mod cache;
    pub mod daemon;
    pub mod doctor;
    pub mod explain;
    pub mod mount;
    pub mod pages;
    pub mod run;
    pub mod sh;
    pub mod trace;
}

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;

use cli::{Cli, Command, ConfigCommand, EXIT_FAILURE, EXIT_OWN_FAILURE, RunArgs};
use config::Config;
use report::{Report, one_line};

/// All of the command: reads the arguments and the environment of this process.
pub fn main() -> ExitCode {
    #[cfg(debug_assertions)]
    watch_for_faults();
    let code = match cli::parse(std::env::args_os()) {
        Ok(Cli { command: Command::Run(args) }) => run(*args),
        Ok(Cli { command: Command::Sh { args } }) => command::sh::sh(args),
        Ok(Cli { command: Command::Mount(args) }) => mount(&args),
        // It answers and fails at once: what is missing is its answer.
        Ok(Cli { command: Command::Doctor(args) }) => match command::doctor::run(&args) {
            Ok((text, code)) => print(Ok(text)).max(code),
            Err(error) => print(Err(error)),
        },
        Ok(Cli { command: Command::Cache(command) }) => {
            progress::allow();
            match revive().and_then(|()| command::cache::run(&command, here)) {
                Ok((text, code)) => print(Ok(text)).max(code),
                Err(error) => print(Err(error)),
            }
        }
        Ok(Cli { command }) => {
            progress::allow();
            print(revive().and_then(|()| answer(command)))
        }
        Err(refusal) if refusal.exit_code == 0 => print(Ok(refusal.text)),
        Err(refusal) => {
            let _ = std::io::stderr().write_all(refusal.text.as_bytes());
            refusal.exit_code
        }
    };
    // The system keeps the lowest eight bits of an exit code.
    ExitCode::from((code & 0xff) as u8)
}

/// For tests alone, and not in what is released: see `wink_store::seam`. The role is the subcommand.
#[cfg(debug_assertions)]
fn watch_for_faults() {
    if let (Some(dir), Some(role)) = (std::env::var_os("WINKFS_FAULTS"), std::env::args().nth(1)) {
        wink_store::seam::watch(std::path::Path::new(&dir), &role);
    }
}

/// `wink run`: whatever goes wrong on wink's side is one line, a report where one was asked for, and exit code 125.
fn run(args: RunArgs) -> i32 {
    if !args.quiet {
        progress::allow();
    }
    if let Some(notice) = args.notice().filter(|_| !args.quiet) {
        complain(notice);
    }
    let json = args.json.clone();
    match command::run::run(args) {
        Ok(code) => code,
        Err(error) => {
            // An error is said even with --quiet: nothing else explains the exit code.
            let reason = explain(&error);
            complain(&reason);
            if let Some(path) = json
                && let Err(error) = Report::failed(reason, EXIT_OWN_FAILURE).write_json(&path)
            {
                complain(&explain(&error));
            }
            EXIT_OWN_FAILURE
        }
    }
}

/// `wink mount`: the exit code is that of the command, if there is one.
fn mount(args: &command::mount::MountArgs) -> i32 {
    command::mount::mount(args).unwrap_or_else(|error| {
        complain(&explain(&error));
        EXIT_FAILURE
    })
}

/// Whatever is asked for: a mount that the current directory lies in and whose daemon has died is brought back.
fn revive() -> anyhow::Result<()> {
    command::mount::revive(std::path::Path::new("."))
}

/// What a subcommand that only prints has to say.
fn answer(command: Command) -> anyhow::Result<String> {
    match command {
        Command::Explain(args) => command::explain::run(&args),
        Command::Trace(args) => command::trace::run(&args),
        Command::Config(ConfigCommand::Schema) => Ok(format!(
            "{:#}
",
            config::schema::schema()
        )),
        Command::Config(ConfigCommand::Show { json: true }) => Ok(format!("{:#}\n", here()?.show_json())),
        Command::Config(ConfigCommand::Show { json: false }) => Ok(here()?.show()),
        Command::Completions { shell } => Ok(command::pages::completions(shell)),
        Command::Man { dir } => command::pages::man(dir.as_deref()),
        Command::Unmount(args) => command::mount::unmount(&args),
        Command::Materialize(args) => command::mount::materialize(&args),
        Command::Status { json } => command::mount::status(json),
        Command::Daemon(command) => command::daemon::run(&command, here),
        Command::Run(_) | Command::Sh { .. } | Command::Mount(_) | Command::Doctor(_) | Command::Cache(_) => {
            Ok(String::new())
        }
    }
}

/// The configuration of the current directory's workspace.
fn here() -> anyhow::Result<Config> {
    let cwd = std::env::current_dir().context("the current directory cannot be read; does it still exist?")?;
    let workspace = workspace::find(&cwd, std::env::home_dir().as_deref())?;
    let config = Config::load(&workspace.root, std::env::vars_os())?;
    config.notices.iter().for_each(|notice| complain(notice));
    Ok(config)
}

/// Prints an answer, or why there is none.
fn print(answer: anyhow::Result<String>) -> i32 {
    match answer {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads may stop early (`wink trace | head`).
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                complain(&format!("cannot write to standard output: {error}"));
                EXIT_FAILURE
            }
            _ => 0,
        },
        Err(error) => {
            complain(&explain(&error));
            EXIT_FAILURE
        }
    }
}

/// An error and its causes in one line.
fn explain(error: &anyhow::Error) -> String {
    one_line(&format!("{error:#}"))
}

/// One line on standard error; nobody may be listening.
fn complain(line: &str) {
    progress::clear();
    let _ = writeln!(std::io::stderr(), "wink: {line}");
}

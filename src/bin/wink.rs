//! The command `wink`: all of it is in the library beside it, so that tests and fuzzers reach what it reads.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    winkfs::main()
}

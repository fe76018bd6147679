//! `koncli`: the command line for people and scripts.

use std::process::ExitCode;

fn main() -> ExitCode {
    konductor::cli::run(std::env::args_os())
}

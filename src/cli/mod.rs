//! `koncli`: the command line for people and scripts. This version has `inject`, which shows without a cluster what admission makes of a manifest.

mod inject;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "koncli", version, about = "Coordination for Kubernetes Jobs, CronJobs and Pods")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints manifests as konductor admits them, or says what is wrong with them. Needs no cluster.
    Inject(inject::InjectArgs),
}

/// Runs `koncli`. Exit codes: 0 well, 1 a mistake in the input, 2 a mistake on the command line.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Cli { command } = Cli::parse_from(arguments);
    let outcome = match command {
        Command::Inject(args) => inject::inject(&args, &mut io::stdout().lock(), &mut io::stderr().lock()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "koncli: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! `konductor`: the servers, and what is injected into Pods. Under its second name, `koncli`, the command line for people: one file in the image.

use std::{env, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};
use konductor::{
    agent, cli, process,
    serve::{ServeArgs, serve},
    uninstall::{UninstallArgs, uninstall},
};

/// Coordination for Kubernetes Jobs, CronJobs and Pods.
#[derive(Parser)]
#[command(name = "konductor", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logging: process::Logging,
}

#[derive(Subcommand)]
enum Command {
    /// Runs webhook, coordinator and controller.
    Serve(Box<ServeArgs>),
    /// Runs inside users' Pods; konductor injects it.
    #[command(subcommand)]
    Agent(agent::Step),
    /// Stops the servers and removes their finalizers; the Helm chart runs it before it deletes its objects.
    Uninstall(UninstallArgs),
}

fn main() -> ExitCode {
    // An error means that a provider is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "koncli") {
        return cli::run(env::args_os());
    }
    let Cli { command, logging } = Cli::parse();
    match command {
        Command::Agent(step) => agent::run(step),
        Command::Serve(args) => process::run(logging, async |client, clock, stop| serve(client, clock, *args, stop).await),
        Command::Uninstall(args) => process::run(logging, async |client, _, _| uninstall(client, args).await),
    }
}

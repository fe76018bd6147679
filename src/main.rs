//! `konductor`: the servers, and what is injected into Pods. Under its second name, `koncli`, the command line for people: one file in the image.

use std::{env, path::Path, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use konductor::{
    agent, cli,
    connect::connect,
    controller::clock::ServerClock,
    serve::{ServeArgs, serve},
    uninstall::{UninstallArgs, uninstall},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Coordination for Kubernetes Jobs, CronJobs and Pods.
#[derive(Parser)]
#[command(name = "konductor", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Form of the log lines.
    #[arg(long, global = true, env = "KONDUCTOR_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also per module.
    #[arg(long, global = true, env = "KONDUCTOR_LOG", default_value = "info")]
    log_level: String,
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

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    // An error means that a provider is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "koncli") {
        return cli::run(env::args_os());
    }
    let cli = Cli::parse();
    match cli.command {
        Command::Agent(step) => agent::run(step),
        Command::Serve(args) => {
            servers(cli.log_format, &cli.log_level, async |client, clock, stop| serve(client, clock, *args, stop).await)
        }
        Command::Uninstall(args) => servers(cli.log_format, &cli.log_level, async |client, _, _| uninstall(client, args).await),
    }
}

/// Runs a command that speaks to the API server, until it ends or the second signal comes.
fn servers<F>(format: LogFormat, level: &str, command: F) -> ExitCode
where
    F: AsyncFnOnce(kube::Client, ServerClock, CancellationToken) -> anyhow::Result<()>,
{
    let filter = EnvFilter::new(level);
    match format {
        LogFormat::Text => tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init(),
        LogFormat::Json => tracing_subscriber::fmt().with_env_filter(filter).json().init(),
    }
    let run = async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        let clock = ServerClock::default();
        command(connect(&clock).await?, clock, stop).await
    };
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

/// The first SIGTERM or SIGINT asks for an orderly end, the second ends at once.
async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else { return };
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    stop.cancel();
    next().await;
    std::process::exit(130);
}

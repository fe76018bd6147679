//! The process around a command that speaks to the API server: its log, its runtime, and the signals that end it.

use std::process::ExitCode;

use clap::ValueEnum;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{connect::connect, controller::clock::ServerClock};

/// What is logged, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Logging {
    /// Form of the log lines.
    #[arg(long = "log-format", global = true, env = "KONDUCTOR_LOG_FORMAT", default_value = "text")]
    format: Format,
    /// What is logged: error, warn, info, debug or trace, also per module.
    #[arg(long = "log-level", global = true, env = "KONDUCTOR_LOG", default_value = "info")]
    level: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Logging {
    fn start(self) {
        // A log that cannot be written is left out: to say so would end whatever wanted to log.
        let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(self.level)).log_internal_errors(false);
        match self.format {
            Format::Text => log.with_ansi(false).init(),
            Format::Json => log.json().flatten_event(true).init(),
        }
    }
}

/// Runs a command to its end. The token that it gets is cancelled at the first SIGTERM or SIGINT; the second one ends the process.
pub fn run<F>(logging: Logging, command: F) -> ExitCode
where
    F: AsyncFnOnce(Client, ServerClock, CancellationToken) -> anyhow::Result<()>,
{
    logging.start();
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

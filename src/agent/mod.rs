//! What runs inside users' Pods: `konductor agent acquire` (init container) and `konductor agent hold` (sidecar)
//! or `konductor agent verify`; or `konductor agent install` (init container) and `konductor agent wrap` (around a command of the user's).
//!
//! Thousands of these wait at the same time on other people's nodes, so there is one thread, one connection, no polling of the server, and
//! no Kubernetes client. All that they know comes from their environment and their projected token.
//!
//! - [`settings`] parses the environment, all mistakes at once. Pure.
//! - [`coordinator`] is the connection: TLS, token, one method a request.
//! - [`backoff`] spaces attempts.
//! - [`acquire`] and [`hold`] are the two commands, [`wrap`] is both around a [`child`] process.
//! - [`voice`] is what people read in `kubectl logs`.

pub mod acquire;
pub mod backoff;
pub mod child;
pub mod coordinator;
pub mod hold;
pub mod settings;
pub mod voice;
pub mod wrap;

#[cfg(test)]
mod tests;

use std::{env, future::pending, process::ExitCode};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use self::{coordinator::Coordinator, settings::Settings, voice::Voice};

/// How an agent ends. The numbers are the exit codes that users may rely on (in a `podFailurePolicy`, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The Pod holds all it asked for; or, for the sidecar, it has ended in order.
    Granted,
    /// The request's own `timeout` is over.
    TimedOut,
    /// There is nothing to do for a wrapped command.
    Skipped,
    /// The Pod may not hold this.
    Denied,
    /// The machine did not let the step start: no runtime, or no hold of SIGTERM.
    CannotStart,
    /// The environment is not what injection writes.
    BadConfiguration,
    /// SIGTERM came first. Not 0: the app must not start.
    Terminated,
}

impl Outcome {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Granted | Self::Skipped => 0,
            Self::TimedOut => 3,
            Self::Denied => 4,
            Self::CannotStart => 5,
            Self::BadConfiguration => 78,
            Self::Terminated => 128 + 15,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        outcome.code().into()
    }
}

/// The words after `konductor agent`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Step {
    /// Waits until the Pod holds all that its annotations say (init container).
    Acquire,
    /// Verifies the hold and reports its end (sidecar).
    Hold,
    /// Verifies the hold (init container, where there is no sidecar and the app wants its fencing token).
    Verify,
    /// Puts what wraps a command beside it (init container).
    Install(wrap::Install),
    /// Runs a command for as long as the Pod holds all that its annotations say (the user's container).
    Wrap(wrap::Wrap),
}

/// Runs a step to its end. Call it before anything slow: it takes SIGTERM over, which a container's first process otherwise ignores.
pub fn run(step: Step) -> ExitCode {
    let mut voice = Voice::stdout();
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            voice.say(&format!("starting failed: {error}"));
            return Outcome::CannotStart.into();
        }
    };
    match step {
        Step::Wrap(wrap) => runtime.block_on(wrap::run(wrap)).into(),
        step => runtime.block_on(take(step, &mut voice)).into(),
    }
}

async fn take(step: Step, voice: &mut Voice) -> Outcome {
    if let Step::Install(install) = &step {
        return wrap::install(install, voice);
    }
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            voice.say(&format!("taking over SIGTERM failed: {error}"));
            return Outcome::CannotStart;
        }
    };
    let terminated = async move {
        // `None` cannot come while the runtime lives; waiting for ever is then right.
        if terminate.recv().await.is_none() {
            pending::<()>().await;
        }
    };
    let prepared = Settings::from_environment(|name| env::var(name).ok());
    let (coordinator, settings) = match prepared.and_then(|settings| Ok((Coordinator::new(&settings)?, settings))) {
        Ok(prepared) => prepared,
        Err(mistakes) => {
            voice.say(&mistakes.to_string());
            return Outcome::BadConfiguration;
        }
    };
    match step {
        Step::Acquire => {
            let outcome = tokio::select! {
                outcome = acquire::run(&coordinator, &settings, voice) => outcome,
                () = terminated => Outcome::Terminated,
            };
            if outcome == Outcome::Terminated {
                voice.say("stopped by SIGTERM: the app does not start");
            }
            outcome
        }
        Step::Hold => hold::run(&coordinator, &settings, voice, terminated).await,
        Step::Verify | Step::Install(_) | Step::Wrap(_) => tokio::select! {
            () = hold::verify(&coordinator, &settings, voice) => Outcome::Granted,
            () = terminated => Outcome::Terminated,
        },
    }
}

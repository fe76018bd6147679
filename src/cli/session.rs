//! A command's way to the cluster: which cluster, which namespace, in whose name, and what ends it early.

use std::{env, fs, path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::Signal;
use tokio::{
    sync::{Mutex, MutexGuard, OnceCell},
    time::Instant,
};

use super::{
    Globals,
    output::{Code, Failure, Format, tell},
    signals::{Signals, interrupted},
};
use crate::client;

/// A terminal that closes may hang up more than once, and what ends a process may tell its group, too.
const ONE_GESTURE: Duration = Duration::from_secs(1);

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What a command works with.
pub struct Session {
    /// kube's client, for what is no Claim.
    pub kube: Client,
    /// The SDK's.
    pub claims: client::Client,
    /// The namespace that is meant.
    pub namespace: String,
    /// How results are printed.
    pub format: Format,
    signals: OnceCell<Mutex<Signals>>,
}

impl Session {
    /// Connects as the flags and the environment say.
    ///
    /// # Errors
    /// If there is no cluster to connect to, or no such context.
    pub async fn open(globals: &Globals) -> Result<Self, Failure> {
        let Globals { namespace, kubeconfig, context, output, log_level: _ } = globals;
        let mut config = config(kubeconfig.clone(), context.clone()).await?;
        // A command that repeats by itself would outlast its own timeout.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_WITHIN);
        let pod = || env::var("POD_NAMESPACE").ok().filter(|name| !name.is_empty());
        let namespace = namespace.clone().or_else(pod).unwrap_or_else(|| config.default_namespace.clone());
        let kube = Client::try_from(config).map_err(|error| Failure::new(Code::Unavailable, format!("could not connect: {error}")))?;
        Ok(Self { claims: client::Client::new(kube.clone(), &namespace), kube, namespace, format: *output, signals: OnceCell::new() })
    }

    /// Waits for an operation until Ctrl-C, SIGTERM or SIGHUP. What it waits for is withdrawn then; what it began to release or to report is done to its end.
    ///
    /// # Errors
    /// If it was interrupted.
    pub async fn unless_interrupted<T>(&self, operation: impl Future<Output = T>) -> Result<T, Failure> {
        // They are heard before anything is asked for: one that comes earlier ends the process.
        let mut signals = self.signals().await?;
        tokio::select! {
            // Whoever is interrupted already does not begin.
            biased;
            signal = signals.next() => Err(interrupted(signal)),
            outcome = operation => Ok(outcome),
        }
    }

    /// The signals, which are heard from now on.
    ///
    /// # Errors
    /// If they cannot be heard.
    pub async fn signals(&self) -> Result<MutexGuard<'_, Signals>, Failure> {
        let signals = self.signals.get_or_try_init(async || Signals::new().map(Mutex::new)).await?;
        Ok(signals.lock().await)
    }

    /// Waits until nothing is left of what was given up. A further SIGINT or SIGTERM, later than that of the same gesture, ends that.
    pub async fn settled(&self) {
        let Ok(mut signals) = self.signals().await else { return self.claims.settled().await };
        let began = Instant::now();
        let hurried = async { while signals.next().await == Signal::HUP || began.elapsed() < ONE_GESTURE {} };
        tokio::select! {
            biased;
            () = self.claims.settled() => {}
            () = hurried => tell("interrupted; a Claim may be left behind"),
        }
    }
}

async fn config(kubeconfig: Option<PathBuf>, context: Option<String>) -> Result<Config, Failure> {
    let no_cluster = |error: &dyn std::fmt::Display| Failure::new(Code::Unavailable, format!("there is no cluster to connect to: {error}"));
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    match kubeconfig {
        None if options.context.is_none() => Config::infer().await.map_err(|error| no_cluster(&error)),
        None => Config::from_kubeconfig(&options).await.map_err(|error| no_cluster(&error)),
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| no_cluster(&error))?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| no_cluster(&error))
        }
    }
}

/// Who asks where nobody says so: this machine, or this Pod.
pub fn this_machine() -> String {
    let of_file = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).or_else(of_file).unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}

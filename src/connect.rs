//! The client through which the servers speak to the API server.

use std::time::Duration;

use kube::{Client, Config, client::ClientBuilder};
use tower::timeout::TimeoutLayer;

use crate::controller::clock::ServerClock;

/// How long the API server may take to begin an answer. A write without an answer has no known outcome, and is looked for afterwards.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long an answer that has begun may be silent: a watch, which ends after 290 s, may have nothing to say until then.
const SILENT_FOR: Duration = Duration::from_secs(295);

/// Connects as the environment says: inside a cluster as the Pod's service account, outside by kubeconfig. The clock learns the time from every answer.
///
/// The client does not retry: a retry would hide whether a status write was done, and its backoff outlasts a leadership.
pub async fn connect(clock: &ServerClock) -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.read_timeout = Some(SILENT_FOR);
    Ok(ClientBuilder::try_from(config)?.with_layer(clock).with_layer(&TimeoutLayer::new(ANSWER_WITHIN)).build())
}

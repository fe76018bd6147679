//! Leader election on a coordination.k8s.io Lease, after the algorithm that Kubernetes' own client library publishes: a candidate takes the record
//! when it has not changed for the lease duration by the candidate's own monotonic clock; every write carries the resource version; a leader stops
//! before its record can lapse. It only avoids wasted work: the safety of holds rests on compare-and-swap alone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Pulse;

/// How long a record that does not change is respected.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on without a successful renewal.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the record is looked at.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// A candidate.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    pulse: Pulse,
}

/// The record as last seen.
#[derive(Default)]
struct Seen {
    lease: Option<Lease>,
    changed_at: Option<Instant>,
}

impl Election {
    /// A candidate of this identity for the record `name`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, pulse: Pulse) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity: identity.to_owned(), pulse }
    }

    /// Stands for election until `shutdown`. While leading, a task made by `lead` runs; its token is cancelled when the leadership ends.
    pub async fn run<F, T>(&self, lead: F, shutdown: CancellationToken)
    where
        F: Fn(CancellationToken) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let mut seen = Seen::default();
        while !shutdown.is_cancelled() {
            self.pulse.beat();
            let asked_at = Instant::now();
            match timeout(RENEW_DEADLINE, self.try_to_hold(&mut seen)).await {
                Ok(Ok(true)) => {
                    info!(identity = self.identity, "leading");
                    let token = shutdown.child_token();
                    let task = tokio::spawn(lead(token.clone()));
                    self.keep(&mut seen, asked_at, task, token, &shutdown).await;
                    info!(identity = self.identity, "not leading any more");
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => warn!(%error, "could not look at the leader's record"),
                Err(_) => warn!("looking at the leader's record took too long"),
            }
            let _ = shutdown.run_until_cancelled(sleep(RETRY_PERIOD)).await;
        }
        self.pulse.rest();
    }

    /// Renews until that fails for too long, somebody else leads, the task ends, or `shutdown`; then stops the task and gives the record back.
    async fn keep(
        &self,
        seen: &mut Seen,
        since: Instant,
        mut task: JoinHandle<()>,
        token: CancellationToken,
        shutdown: &CancellationToken,
    ) {
        let mut renewed = since;
        loop {
            tokio::select! {
                biased; // in this order, so that a simulated run can be repeated
                () = shutdown.cancelled() => break,
                _ = &mut task => {
                    warn!("the leader's work ended by itself");
                    token.cancel();
                    return;
                }
                () = sleep(RETRY_PERIOD) => {}
            }
            self.pulse.beat();
            let asked_at = Instant::now();
            let left = (renewed + RENEW_DEADLINE).saturating_duration_since(asked_at);
            match timeout(left, self.try_to_hold(seen)).await {
                Ok(Ok(true)) => renewed = asked_at,
                Ok(Ok(false)) => break,
                Ok(Err(error)) => warn!(%error, "could not renew the leader's record"),
                Err(_) => break,
            }
        }
        token.cancel();
        let _ = task.await;
        if shutdown.is_cancelled()
            && let Err(error) = timeout(RETRY_PERIOD, self.give_back(seen)).await.unwrap_or(Ok(()))
        {
            warn!(%error, "could not give the leader's record back");
        }
    }

    /// Takes or renews the record where that is allowed; says whether we hold it now.
    async fn try_to_hold(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.record(None)) };
            return accept(self.api.create(&PostParams::default(), &lease).await, seen);
        };
        let now = Instant::now();
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        if seen.lease.as_ref().and_then(version) != version(&lease) {
            seen.changed_at = Some(now);
        }
        seen.lease = Some(lease.clone());
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let lapsed = seen.changed_at.is_none_or(|changed| now >= changed + LEASE_DURATION);
        if holder != self.identity && !holder.is_empty() && !lapsed {
            return Ok(false);
        }
        let renewed = Lease { metadata: lease.metadata, spec: Some(self.record(Some(&spec))) };
        accept(self.api.replace(&self.name, &PostParams::default(), &renewed).await, seen)
    }

    async fn give_back(&self, seen: &mut Seen) -> Result<(), kube::Error> {
        let Some(mut lease) = seen.lease.take() else { return Ok(()) };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        self.api.replace(&self.name, &PostParams::default(), &lease).await.map(|_| ())
    }

    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let same = before.filter(|before| before.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: same.map_or_else(|| now.clone(), |same| same.acquire_time.clone()),
            renew_time: now.clone(),
            lease_transitions: Some(if same.is_some() { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

/// A write that conflicts means that somebody else was faster.
fn accept(written: Result<Lease, kube::Error>, seen: &mut Seen) -> Result<bool, kube::Error> {
    match written {
        Ok(lease) => {
            *seen = Seen { lease: Some(lease), changed_at: Some(Instant::now()) };
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

//! Reads, decides, writes: the loop that keeps the Secret and the webhook configurations as they should be.
//!
//! Every replica runs it. A pass reads the configurations first and the Secret after them, and every write carries the resourceVersion of
//! what was read. So a configuration is only ever written from a Secret at least as new as the one behind its present bundle,
//! and replicas cannot take turns in undoing each other's work.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{PartialObjectMeta, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    configurations::{Configuration, patch_for},
    contents::{AdvanceError, Contents, Data, Flaw},
    resolver::Certificates,
    rotation::{Policy, Step, next_step},
};

/// On a Secret that this crate made: the value is [`Settings::manager`]. A Secret without it is never overwritten.
pub const MANAGER_ANNOTATION: &str = "webhook-certs.konductor.io/manager";

/// Watches may fail silently for long; nothing here is later than this.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// One call to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// Steps in one pass: the longest honest sequence is shorter, so more means that somebody undoes what we write.
const MOST_STEPS: usize = 8;

/// What to keep, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the Secret.
    pub namespace: String,
    /// The Secret's name.
    pub secret: String,
    /// MutatingWebhookConfigurations that get the bundle.
    pub mutating: Vec<String>,
    /// ValidatingWebhookConfigurations that get the bundle.
    pub validating: Vec<String>,
    /// What the leaf is for.
    pub dns_names: Vec<String>,
    /// Who keeps it: in the certificates' names, in [`MANAGER_ANNOTATION`] and as field manager.
    pub manager: String,
    /// Labels of a Secret that is made.
    pub labels: BTreeMap<String, String>,
    /// Somebody else (cert-manager) makes and renews the Secret: read it, never write it. The bundle in `ca.crt` is still written into the
    /// configurations named here.
    pub managed_elsewhere: bool,
    /// Lifetimes.
    pub policy: Policy,
}

/// Why a pass could not be finished. It is logged and tried again.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("reading {kind} {name} failed: {}", Words(source))]
    Read { kind: &'static str, name: String, source: Box<kube::Error> },
    #[error("writing {kind} {name} failed: {}", Words(source))]
    Write { kind: &'static str, name: String, source: Box<kube::Error> },
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// Not an error of anybody: read again.
    #[error("{kind} {name} is being changed by somebody else")]
    Conflict { kind: &'static str, name: String },
    #[error(
        "Secret {0} was not made by this installation (annotation {MANAGER_ANNOTATION} is missing or names another): it is left alone; delete it or choose another name"
    )]
    Foreign(String),
    #[error("Secret {0}, which is managed elsewhere, does not exist yet")]
    Absent(String),
    #[error("Secret {0}, which is managed elsewhere, cannot be used: {1}")]
    Unusable(String, Flaw),
    #[error(transparent)]
    Advance(#[from] AdvanceError),
    #[error("Secret {0} does not settle: a step led to the same step again")]
    Unsettled(String),
}

/// The API server's message without the debug text around it.
struct Words<'a>(&'a kube::Error);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kube::Error::Api(status) => write!(f, "{} ({})", status.message, status.code),
            other => other.fmt(f),
        }
    }
}

/// Keeps `certificates` and the cluster up to date until `shutdown`. Errors are logged, once a situation, and tried again for ever; whether
/// there is something to serve is [`Certificates::is_ready`].
pub async fn run(client: Client, settings: Settings, certificates: Certificates, shutdown: CancellationToken) {
    let mut events = events(&client, &settings);
    let mut keeper = Keeper::new(client, settings, certificates);
    let mut backoff = FIRST_BACKOFF;
    let mut last_complaint = String::new();
    loop {
        let pass = tokio::select! {
            pass = keeper.pass() => pass,
            () = shutdown.cancelled() => return,
        };
        let pause = match pass {
            Ok(until) => {
                if !last_complaint.is_empty() {
                    info!("certificates are kept again");
                }
                last_complaint.clear();
                backoff = FIRST_BACKOFF;
                Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default().min(LOOK_AGAIN)
            }
            Err(error) => {
                let complaint = error.to_string();
                // A conflict resolves itself; only one that stays is worth a line.
                if complaint != last_complaint && !matches!(error, KeepError::Conflict { .. } if backoff == FIRST_BACKOFF) {
                    warn!(secret = %keeper.settings.secret, "keeping the certificates: {complaint}");
                    last_complaint = complaint;
                }
                let pause = jittered(backoff);
                backoff = (backoff * 2).min(LAST_BACKOFF);
                pause
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(pause) => {}
            Some(()) = events.next() => {}
        }
    }
}

/// Between half of `most` and all of it, so that replicas do not move in step.
fn jittered(most: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(u32::MAX);
    most.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// One item for each change of anything we keep. Only metadata is watched: a pass reads the objects live.
fn events(client: &Client, settings: &Settings) -> impl Stream<Item = ()> + Send + Unpin + use<> {
    let mut all = stream::SelectAll::new();
    all.push(watch_one(Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), &settings.namespace), &settings.secret));
    for name in &settings.mutating {
        all.push(watch_one(Api::<PartialObjectMeta<MutatingWebhookConfiguration>>::all(client.clone()), name));
    }
    for name in &settings.validating {
        all.push(watch_one(Api::<PartialObjectMeta<ValidatingWebhookConfiguration>>::all(client.clone()), name));
    }
    all
}

fn watch_one<K>(api: Api<K>, name: &str) -> stream::BoxStream<'static, ()>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}")))
        .default_backoff()
        .filter_map(async |event| match event {
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(()),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
            Err(error) => {
                // The pass that reads the same object reports what is wrong with it in words of ours.
                tracing::debug!("watching failed: {error}");
                None
            }
        })
        .boxed()
}

struct Keeper {
    secrets: Api<Secret>,
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
    settings: Settings,
    certificates: Certificates,
    /// What the Secret last held when nothing of it was missing: should it be deleted, its CA goes on.
    kept: Option<Data>,
    /// The bundle that every configuration was last seen to carry, and since when they do.
    published: Option<(String, Timestamp)>,
}

impl Keeper {
    fn new(client: Client, settings: Settings, certificates: Certificates) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), &settings.namespace),
            mutating: Api::all(client.clone()),
            validating: Api::all(client),
            settings,
            certificates,
            kept: None,
            published: None,
        }
    }

    /// Brings everything up to date and says when something is due next.
    async fn pass(&mut self) -> Result<Timestamp, KeepError> {
        let mut last_step = None;
        for _ in 0..MOST_STEPS {
            let configurations = self.read_configurations().await;
            let secret = self.read_secret().await?;
            let mut data = secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
            let mut contents = Contents::read(&data);
            self.check(secret.as_ref(), &contents)?;
            if contents.is_whole() {
                self.kept = Some(data.clone());
            }

            self.certificates.adopt(&contents);
            let published = self.publish(configurations, &contents.bundle_pem()).await;
            if published.is_ok() {
                self.certificates.set_ready();
            }
            if self.settings.managed_elsewhere {
                return published.map(|()| Timestamp::MAX);
            }

            let now = Timestamp::now();
            let published_since = self.published.as_ref().map(|(_, since)| *since);
            let step_for =
                |contents: &Contents| next_step(&contents.facts(&self.settings.dns_names), published_since, now, &self.settings.policy);
            let mut step = step_for(&contents);
            if step == Step::CreateAll
                && let Some(kept) = &self.kept
            {
                // Somebody deleted the Secret, or emptied it. Clients know its CA and no other, some of them for as long as they live: a new
                // leaf is what that can mean at most. (A new CA comes to whoever deletes the Secret while no replica runs.)
                let kept_contents = Contents::read(kept);
                if step_for(&kept_contents) != Step::CreateAll {
                    (data, contents, step) = (kept.clone(), kept_contents, Step::RenewLeaf);
                }
            }
            if let Step::Wait { until } = step {
                // Only now: a configuration that cannot be written must not keep a leaf from being renewed.
                return published.map(|()| until);
            }
            if last_step == Some(step) {
                return Err(KeepError::Unsettled(self.settings.secret.clone()));
            }
            let Settings { manager, dns_names, policy, .. } = &self.settings;
            let data = contents.advance(&data, step, manager, dns_names, now, policy)?;
            if self.write_secret(secret, data).await? {
                info!(secret = %self.settings.secret, "{}", step.words());
                last_step = Some(step);
            }
        }
        Err(KeepError::Conflict { kind: "Secret", name: self.settings.secret.clone() })
    }

    /// Whether this Secret may be used at all.
    fn check(&self, secret: Option<&Secret>, contents: &Contents) -> Result<(), KeepError> {
        let name = || self.settings.secret.clone();
        if self.settings.managed_elsewhere {
            if secret.is_none() {
                return Err(KeepError::Absent(name()));
            }
            if let Err(flaw) = &contents.leaf {
                return Err(KeepError::Unusable(name(), flaw.clone()));
            }
            if contents.bundle.is_empty() {
                return Err(KeepError::Unusable(name(), Flaw::Missing(crate::contents::BUNDLE)));
            }
            return Ok(());
        }
        let Some(secret) = secret else { return Ok(()) };
        let manager = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MANAGER_ANNOTATION));
        if manager != Some(&self.settings.manager) {
            return Err(KeepError::Foreign(name()));
        }
        Ok(())
    }

    async fn read_secret(&self) -> Result<Option<Secret>, KeepError> {
        read(&self.secrets, "Secret", &self.settings.secret).await
    }

    /// True if written, false if somebody else was first.
    async fn write_secret(&self, present: Option<Secret>, data: Data) -> Result<bool, KeepError> {
        let Settings { secret: name, manager, labels, .. } = &self.settings;
        let params = PostParams { field_manager: Some(manager.clone()), ..PostParams::default() };
        let written = match present {
            // With the resourceVersion that was read: whoever writes first wins, and the other reads again.
            Some(present) => call(self.secrets.replace(name, &params, &Secret { data: Some(data), ..present })).await?,
            None => {
                let metadata = ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(labels.clone()),
                    annotations: Some(BTreeMap::from([(MANAGER_ANNOTATION.to_owned(), manager.clone())])),
                    ..ObjectMeta::default()
                };
                let secret = Secret { metadata, data: Some(data), type_: Some("kubernetes.io/tls".to_owned()), ..Secret::default() };
                call(self.secrets.create(&params, &secret)).await?
            }
        };
        match written {
            Ok(_) => Ok(true),
            // 409 for both AlreadyExists and Conflict; 404: deleted in between.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(source) => Err(KeepError::Write { kind: "Secret", name: name.clone(), source: Box::new(source) }),
        }
    }

    async fn read_configurations(&self) -> Configurations {
        let mut found = Configurations { mutating: Vec::new(), validating: Vec::new() };
        for name in &self.settings.mutating {
            found.mutating.push(read(&self.mutating, MutatingWebhookConfiguration::KIND, name).await);
        }
        for name in &self.settings.validating {
            found.validating.push(read(&self.validating, ValidatingWebhookConfiguration::KIND, name).await);
        }
        found
    }

    /// Writes the bundle where it differs. All are tried; the first error is returned.
    async fn publish(&mut self, configurations: Configurations, bundle: &str) -> Result<(), KeepError> {
        let Configurations { mutating, validating } = configurations;
        if bundle.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        for configuration in mutating {
            result = result.and(self.publish_one(&self.mutating, configuration, bundle).await);
        }
        for configuration in validating {
            result = result.and(self.publish_one(&self.validating, configuration, bundle).await);
        }
        match &result {
            Err(_) => self.published = None,
            Ok(()) if self.published.as_ref().is_some_and(|(known, _)| known == bundle) => {}
            Ok(()) => self.published = Some((bundle.to_owned(), Timestamp::now())),
        }
        result
    }

    /// One that does not exist has no callers: nothing is missing.
    async fn publish_one<C>(&self, api: &Api<C>, configuration: Result<Option<C>, KeepError>, bundle: &str) -> Result<(), KeepError>
    where
        C: Configuration + Resource + Clone + DeserializeOwned + fmt::Debug,
    {
        let Some(configuration) = configuration? else { return Ok(()) };
        let ObjectMeta { name: Some(name), resource_version: Some(version), .. } = configuration.meta() else { return Ok(()) };
        let Some(patch) = patch_for(&configuration, version, bundle) else { return Ok(()) };
        let written = match serde_json::from_value(patch) {
            Ok(patch) => {
                let params = PatchParams { field_manager: Some(self.settings.manager.clone()), ..PatchParams::default() };
                call(api.patch(name, &params, &Patch::<()>::Json(patch))).await?
            }
            Err(error) => Err(kube::Error::SerdeError(error)),
        };
        match written {
            Ok(_) => {
                info!(kind = C::KIND, name, "wrote the CA bundle");
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                Err(KeepError::Conflict { kind: C::KIND, name: name.clone() })
            }
            Err(source) => Err(KeepError::Write { kind: C::KIND, name: name.clone(), source: Box::new(source) }),
        }
    }
}

struct Configurations {
    mutating: Vec<Result<Option<MutatingWebhookConfiguration>, KeepError>>,
    validating: Vec<Result<Option<ValidatingWebhookConfiguration>, KeepError>>,
}

async fn read<K>(api: &Api<K>, kind: &'static str, name: &str) -> Result<Option<K>, KeepError>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    call(api.get_opt(name)).await?.map_err(|source| KeepError::Read { kind, name: name.to_owned(), source: Box::new(source) })
}

async fn call<T>(request: impl Future<Output = T>) -> Result<T, KeepError> {
    timeout(CALL_TIMEOUT, request).await.map_err(|_| KeepError::Timeout)
}

//! `konductor serve`: certificates, webhook, coordinator and, on the leader, the controller. Each is a task; this file only puts them together.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use webhook_certs::Certificates;

use crate::{
    api::names,
    controller::{Context, clock::ServerClock, leader::Election},
    coordinator::{identity::Identities, server::Coordinator},
    health::{self, Health, Pulse},
    inject::{Resources, Settings},
    metrics::{Metrics, Sight},
    plan::Release,
    tls, webhook,
};

/// A loop of this process that stands still for this long will not go on by itself.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How often a leader makes sure that it is the one that agents find.
const LABEL_EVERY: Duration = Duration::from_secs(60);

/// Where this replica runs and what it injects. The chart fills all of it in.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Namespace of this replica.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of this replica's Pod; its identity in the election.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// Image of the steps that are injected into Pods: this very image.
    #[arg(long, env = "KONDUCTOR_IMAGE")]
    pub image: String,
    /// When the injected steps pull it.
    #[arg(long, env = "KONDUCTOR_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Who reports the end of a holder where its annotations do not say: `hook` (a sidecar) or `controller` (nobody; the API server is watched).
    #[arg(long, env = "KONDUCTOR_DEFAULT_RELEASE", default_value = "hook", value_parser = ["hook", "controller"])]
    pub default_release: String,
    /// Processor time that each injected container requests, and its limit.
    #[arg(long, env = "KONDUCTOR_AGENT_CPU", default_value = "20m")]
    pub agent_cpu: String,
    /// Memory that each injected container requests, and its limit.
    #[arg(long, env = "KONDUCTOR_AGENT_MEMORY", default_value = "32Mi")]
    pub agent_memory: String,
    /// Service of the webhook.
    #[arg(long, default_value = "konductor-webhook")]
    pub webhook_service: String,
    /// Service of the leader's coordinator.
    #[arg(long, default_value = "konductor-coordinator")]
    pub coordinator_service: String,
    /// Secret with the certificates.
    #[arg(long, default_value = "konductor-certs")]
    pub certs_secret: String,
    /// The Secret is made and renewed by somebody else, such as cert-manager.
    #[arg(long)]
    pub certs_managed_elsewhere: bool,
    /// MutatingWebhookConfiguration that gets the CA.
    #[arg(long, default_value = "konductor")]
    pub mutating_webhook: String,
    /// ValidatingWebhookConfiguration that gets the CA.
    #[arg(long, default_value = "konductor")]
    pub validating_webhook: String,
    /// Record of the election (a coordination.k8s.io Lease).
    #[arg(long, default_value = "konductor-leader")]
    pub leader_lease: String,
    /// Where the webhook listens.
    #[arg(long, default_value = "[::]:9443")]
    pub webhook_listen: SocketAddr,
    /// Where the coordinator listens.
    #[arg(long, default_value = "[::]:9444")]
    pub coordinator_listen: SocketAddr,
    /// Where liveness and readiness are answered, without TLS.
    #[arg(long, default_value = "[::]:8080")]
    pub health_listen: SocketAddr,
}

/// Runs until `shutdown`, then stops in order: the leadership at once, the servers some seconds later, when requests go to other replicas.
pub async fn serve(client: Client, clock: ServerClock, args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let certificates = Certificates::new();
    let (settings, injecting) = watch::channel(None);
    let coordinator = Coordinator::new(Identities::new(client.clone()));
    let metrics: Arc<Metrics> = Arc::default();
    let drained = CancellationToken::new();
    let tls_config = tls::server_config(certificates.resolver());

    let mut servers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let webhook_listener = TcpListener::bind(args.webhook_listen).await.context("could not listen for the webhook")?;
    let coordinator_listener = TcpListener::bind(args.coordinator_listen).await.context("could not listen for the coordinator")?;
    let webhook = tls::serve(webhook_listener, tls_config.clone(), webhook::router(injecting.clone(), metrics.clone()), drained.clone());
    servers.spawn(async move { webhook.await.context("the webhook ended") });
    let answers = tls::serve(coordinator_listener, tls_config, coordinator.clone().router(), drained.clone());
    servers.spawn(async move { answers.await.context("the coordinator ended") });
    let (election_pulse, controller_pulse) = (Pulse::default(), Pulse::default());
    let health = health(&certificates, injecting, &shutdown)
        .live("election", {
            let pulse = election_pulse.clone();
            move || pulse.within(STANDSTILL)
        })
        .live("controller", {
            let pulse = controller_pulse.clone();
            move || pulse.within(STANDSTILL)
        })
        .router()
        .merge(metrics.router(sight(&certificates, coordinator.clone())));
    let health = health::serve(health, args.health_listen, drained.clone());
    servers.spawn(async move { health.await.context("the health endpoint ended") });

    let certs = webhook_certs::run(client.clone(), cert_settings(&args), certificates.clone(), drained.clone());
    servers.spawn(async move {
        certs.await;
        Ok(())
    });
    let keep_settings = keep_settings(client.clone(), args.clone(), certificates, settings);
    servers.spawn({
        let drained = drained.clone();
        async move {
            drained.run_until_cancelled(keep_settings).await;
            Ok(())
        }
    });
    let election = Election::new(client.clone(), &args.namespace, &args.leader_lease, &args.pod_name, election_pulse);
    servers.spawn({
        let shutdown = shutdown.clone();
        async move {
            let lead = |until| {
                let context = Context::new(client.clone(), clock.clone(), controller_pulse.clone(), metrics.clone(), &args.pod_name, until);
                lead(client.clone(), args.clone(), coordinator.clone(), context)
            };
            election.run(lead, shutdown).await;
            Ok(())
        }
    });

    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = servers.join_next() => ended.context("a task ended abnormally").flatten(),
    };
    shutdown.cancel();
    info!("stopping");
    drained.cancel();
    while servers.join_next().await.is_some() {}
    outcome
}

fn health(certificates: &Certificates, injecting: watch::Receiver<Option<Arc<Settings>>>, shutdown: &CancellationToken) -> Health {
    let (certificates, shutdown) = (certificates.clone(), shutdown.clone());
    let ok_or = |ok: bool, why: &str| if ok { Ok(()) } else { Err(why.to_owned()) };
    Health::default()
        .ready("certificates", move || ok_or(certificates.is_ready(), "not served, or not known to the API server yet"))
        .ready("coordinator address", move || ok_or(injecting.borrow().is_some(), "the coordinator Service has no ClusterIP yet"))
        .ready("staying", move || ok_or(!shutdown.is_cancelled(), "this replica is stopping"))
}

fn sight(certificates: &Certificates, coordinator: Arc<Coordinator>) -> Sight {
    let certificates = certificates.clone();
    Sight {
        census: Box::new(move || coordinator.leading.load().as_ref().map(|context| context.census())),
        certificate_expires: Box::new(move || certificates.expires()),
    }
}

fn cert_settings(args: &ServeArgs) -> webhook_certs::Settings {
    let name = |service: &str| format!("{service}.{}.svc", args.namespace);
    webhook_certs::Settings {
        namespace: args.namespace.clone(),
        secret: args.certs_secret.clone(),
        mutating: vec![args.mutating_webhook.clone()],
        validating: vec![args.validating_webhook.clone()],
        dns_names: vec![name(&args.webhook_service), name(&args.coordinator_service)],
        manager: "konductor".to_owned(),
        labels: [("app.kubernetes.io/name".to_owned(), "konductor".to_owned())].into(),
        managed_elsewhere: args.certs_managed_elsewhere,
        policy: webhook_certs::Policy::default(),
    }
}

/// Keeps what is injected up to date: the coordinator's address and the CA. Pods get both written in, because some have no DNS.
async fn keep_settings(client: Client, args: ServeArgs, certificates: Certificates, settings: watch::Sender<Option<Arc<Settings>>>) {
    let services = Api::<Service>::namespaced(client, &args.namespace);
    let service = watcher::watch_object(services, &args.coordinator_service).default_backoff();
    let mut bundle = certificates.ca_bundle();
    let mut address: Option<String> = None;
    pin_mut!(service);
    loop {
        tokio::select! {
            seen = service.next() => match seen {
                Some(Ok(service)) => {
                    let ip = service.and_then(|service| service.spec?.cluster_ip).filter(|ip| !ip.is_empty() && ip != "None");
                    address = ip.map(|ip| if ip.contains(':') { format!("[{ip}]:443") } else { format!("{ip}:443") });
                }
                Some(Err(error)) => warn!(%error, service = args.coordinator_service, "could not look at the coordinator Service"),
                None => return,
            },
            changed = bundle.changed() => if changed.is_err() { return },
        }
        let ca_pem = bundle.borrow_and_update().to_string();
        let next = address.clone().filter(|_| !ca_pem.is_empty()).map(|server_address| {
            Arc::new(Settings {
                image: args.image.clone(),
                image_pull_policy: args.image_pull_policy.clone(),
                server_name: format!("{}.{}.svc", args.coordinator_service, args.namespace),
                server_address,
                ca_pem,
                default_release: if args.default_release == "controller" { Release::Controller } else { Release::Hook },
                resources: Resources { cpu: args.agent_cpu.clone(), memory: args.agent_memory.clone() },
            })
        });
        if next.is_some() {
            settings.send_replace(next);
        }
    }
}

/// What a leader does: controller on, coordinator open, label on this replica's Pod.
async fn lead(client: Client, args: ServeArgs, coordinator: Arc<Coordinator>, context: Arc<Context>) {
    let until = context.until().clone();
    let label = until.run_until_cancelled(keep_label(client, &args));
    let work = context.clone().run(|| coordinator.leading.store(Some(context.clone())));
    tokio::join!(label, work);
    coordinator.leading.store(None);
}

/// Makes the coordinator Service select this replica and no other. Only speed depends on it: agents that reach another replica are sent away.
async fn keep_label(client: Client, args: &ServeArgs) {
    let pods = Api::<Pod>::namespaced(client, &args.namespace);
    let label = |pod: String, value: Option<&'static str>| {
        let (pods, patch) = (pods.clone(), json!({ "metadata": { "labels": { names::LEADER_LABEL: value } } }));
        async move { pods.patch(&pod, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()) }
    };
    let take = async || {
        label(args.pod_name.clone(), Some("true")).await?;
        for other in pods.list(&ListParams::default().labels(names::LEADER_LABEL)).await? {
            if other.name_any() != args.pod_name {
                label(other.name_any(), None).await?;
            }
        }
        Ok::<(), kube::Error>(())
    };
    loop {
        let again = match take().await {
            // A request of an earlier leader may arrive late and put its label back.
            Ok(()) => LABEL_EVERY,
            Err(error) => {
                warn!(%error, "could not label the leader's Pod yet");
                Duration::from_secs(1)
            }
        };
        sleep(again).await;
    }
}

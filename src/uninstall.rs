//! `konductor uninstall`: leaves nothing behind that could block anything. The Helm chart runs it before it deletes its objects.
//!
//! The Deployment is scaled to zero first: a running controller would put finalizers back. What waits behind a scheduling gate, or in a Job that konductor
//! suspended, stays there: it must not run without its lock, and a person can let it go.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::{
    api::{Claim, names},
    controller::object::of_kind,
    plan::Kind,
};

const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long servers get to end. One on a node that does not answer would take for ever, and can do no harm: its writes are compare-and-swap.
const SERVERS_END_WITHIN: Duration = Duration::from_secs(60);
const PAGE: u32 = 500;

/// Which installation is taken away.
#[derive(Clone, Debug, clap::Args)]
pub struct UninstallArgs {
    /// Namespace of the installation.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Deployment of the servers.
    #[arg(long, default_value = "konductor")]
    pub deployment: String,
    /// Label selector of the servers' Pods.
    #[arg(long, default_value = "app.kubernetes.io/name=konductor,app.kubernetes.io/component=server")]
    pub selector: String,
}

/// Stops the servers and removes the finalizers from all primitives, Claims, Jobs and Pods.
pub async fn uninstall(client: Client, args: UninstallArgs) -> anyhow::Result<()> {
    let UninstallArgs { namespace, deployment, selector } = args;
    let deployments = Api::<Deployment>::namespaced(client.clone(), &namespace);
    let none = json!({ "spec": { "replicas": 0 } });
    match deployments.patch_scale(&deployment, &PatchParams::default(), &Patch::Merge(none)).await {
        Ok(_) => info!(deployment, "scaled to zero"),
        Err(kube::Error::Api(status)) if status.code == 404 => info!(deployment, "there is no such Deployment"),
        Err(error) => return Err(error.into()),
    }
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let until = Instant::now() + SERVERS_END_WITHIN;
    loop {
        // An evicted Pod stays when its Deployment is scaled to zero.
        let active = pods.list(&ListParams::default().labels(&selector)).await?.items.into_iter().filter(active).count();
        if active == 0 {
            break;
        }
        if Instant::now() >= until {
            warn!(active, "servers have not ended; going on without them");
            break;
        }
        info!(active, "waiting for the servers to end");
        sleep(LOOK_AGAIN).await;
    }
    // Nobody holds a Barrier or a Gate.
    for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Barrier | Kind::Gate)) {
        of_kind!(kind, K => free::<K>(&client, names::HELD_FINALIZER, ListParams::default()).await)?;
    }
    let injected = ListParams::default().labels(&format!("{}=true", names::INJECTED_LABEL));
    free::<Job>(&client, names::OUTCOME_FINALIZER, injected.clone()).await?;
    free::<Pod>(&client, names::OUTCOME_FINALIZER, injected).await?;
    free::<Claim>(&client, names::OUTCOME_FINALIZER, ListParams::default()).await
}

fn active(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Removes a finalizer of ours from every object of a kind. One that cannot be freed is named, and stops none of the others.
async fn free<K>(client: &Client, ours: &str, which: ListParams) -> anyhow::Result<()>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut page = which.limit(PAGE);
    let mut failed = 0;
    loop {
        let list = match Api::<K>::all(client.clone()).list(&page).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                info!(kind = %K::kind(&()), "there are none: the kind is gone");
                return Ok(());
            }
            list => list?,
        };
        for object in &list.items {
            if !object.finalizers().iter().any(|finalizer| finalizer == ours) {
                continue;
            }
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            let kept: Vec<&String> = object.finalizers().iter().filter(|finalizer| *finalizer != ours).collect();
            let patch = json!({ "metadata": { "resourceVersion": object.resource_version(), "finalizers": kept } });
            let api = Api::<K>::namespaced(client.clone(), &namespace);
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => info!(kind = %K::kind(&()), namespace, name, "freed"),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    failed += 1;
                    warn!(kind = %K::kind(&()), namespace, name, %error, "could not be freed");
                }
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    anyhow::ensure!(failed == 0, "{failed} objects of kind {} still carry the finalizer {ours}; run this again", K::kind(&()));
    Ok(())
}

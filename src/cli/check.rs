//! `koncli check`: whether konductor is installed and well, and if not, what to do. It only reads, and says what it may not see.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apps::v1::Deployment,
    coordination::v1::Lease,
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{DynamicObject, ListParams},
    core::{ApiResource, GroupVersionKind},
};
use serde::Serialize;

use super::{
    output::{Code, Failure, table},
    session::Session,
};
use crate::{
    api::{self, names},
    client::Error,
};

/// A leader that has not renewed for this long is none: it takes turns of 15 s, and clocks differ.
const LEADER_SILENT_FOR: SignedDuration = SignedDuration::from_secs(60);
/// A primitive that is older than this and has no status is served by nobody.
const UNSERVED_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Where konductor runs.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exits with 0 if all is well, else with 5; with 4 if something of it may not be seen.\n\nExample:\n  koncli check")]
pub struct CheckArgs {
    /// Namespace of the installation.
    #[arg(long, value_name = "NAMESPACE", default_value = "konductor-system")]
    operator_namespace: String,
}

/// One thing that must be so.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    /// `ok`, `failed` or `unknown`.
    result: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, result: "ok", message: message.into(), advice: None }
    }

    fn failed(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, result: "failed", message: message.into(), advice: Some(advice.into()) }
    }

    /// What could not be looked at.
    fn unseen(check: &'static str, error: &kube::Error) -> Self {
        match Error::of(error, check) {
            Error::Forbidden(message) => Self { check, result: "unknown", message, advice: Some("ask somebody who may look".to_owned()) },
            error => Self::failed(check, error.to_string(), "see whether the cluster itself is well"),
        }
    }
}

/// Looks at everything.
///
/// # Errors
/// If the API server does not answer at all.
pub async fn check(session: &Session, args: &CheckArgs) -> Result<u8, Failure> {
    let version = session.kube.apiserver_version().await.map_err(|error| Error::of(&error, "reaching the API server"))?;
    let namespace = &args.operator_namespace;
    let mut findings = vec![Finding::ok("cluster", format!("Kubernetes {} answers", version.git_version))];
    findings.extend(kinds(session).await);
    findings.push(servers(session, namespace).await);
    findings.push(leader(session, namespace).await);
    for (check, service) in [("webhook", "konductor-webhook"), ("coordinator", "konductor-coordinator")] {
        findings.push(endpoints(session, namespace, check, service).await);
    }
    findings.push(admission(session).await);

    let any = |result: &str| findings.iter().any(|finding| finding.result == result);
    let code = match (any("failed"), any("unknown")) {
        (true, _) => Code::Unavailable as u8,
        // What may not be looked at is not well.
        (false, true) => Code::Forbidden as u8,
        (false, false) => 0,
    };
    let rows: Vec<Vec<String>> =
        findings.iter().map(|finding| vec![finding.result.to_owned(), finding.check.to_owned(), finding.message.clone()]).collect();
    let mut text = table(&["RESULT".to_owned(), "CHECK".to_owned(), "FOUND".to_owned()], &rows);
    for (finding, advice) in findings.iter().filter_map(|finding| Some((finding, finding.advice.as_deref()?))) {
        text.push_str(&format!("\n{}: {advice}", finding.check));
    }
    session.format.print(&text, &serde_json::json!({ "healthy": code == 0, "checks": findings }))?;
    Ok(code)
}

/// Whether the kinds are there, and somebody serves them.
async fn kinds(session: &Session) -> Vec<Finding> {
    let (mut missing, mut unserved, mut count) = (Vec::new(), Vec::new(), 0);
    for crd in api::crds() {
        let (kind, plural) = (&crd.spec.names.kind, &crd.spec.names.plural);
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(names::GROUP, names::VERSION, kind), plural);
        let found = match Api::<DynamicObject>::all_with(session.kube.clone(), &resource).list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                Api::namespaced_with(session.kube.clone(), &session.namespace, &resource).list(&ListParams::default()).await
            }
            found => found,
        };
        match found {
            Err(kube::Error::Api(status)) if status.code == 404 => missing.push(plural.clone()),
            Err(error) => return vec![Finding::unseen("kinds", &error)],
            Ok(list) => {
                count += list.items.len();
                let old = |object: &&DynamicObject| {
                    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
                    Timestamp::now().duration_since(created) > UNSERVED_AFTER
                };
                let silent = |object: &&DynamicObject| object.data.get("status").is_none_or(serde_json::Value::is_null);
                unserved.extend(list.items.iter().filter(old).filter(silent).map(|object| {
                    let meta = &object.metadata;
                    format!(
                        "{}/{}/{}",
                        kind.to_lowercase(),
                        meta.namespace.as_deref().unwrap_or_default(),
                        meta.name.as_deref().unwrap_or_default()
                    )
                }));
            }
        }
    }
    let installed = if missing.is_empty() {
        Finding::ok("kinds", "all are installed")
    } else {
        Finding::failed(
            "kinds",
            format!("missing: {}", missing.join(", ")),
            "install konductor: helm install konductor charts/konductor --namespace konductor-system --create-namespace",
        )
    };
    let served = match unserved.as_slice() {
        [] => Finding::ok("served", format!("{count} objects, each with a status")),
        [first, rest @ ..] => Finding::failed(
            "served",
            format!("{first} and {} more have no status", rest.len()),
            "no leader looks at them: see the logs of the Pods of konductor, and whether its ClusterRole is that of this version",
        ),
    };
    vec![installed, served]
}

async fn servers(session: &Session, namespace: &str) -> Finding {
    match Api::<Deployment>::namespaced(session.kube.clone(), namespace).get_opt("konductor").await {
        Err(error) => Finding::unseen("servers", &error),
        Ok(None) => Finding::failed(
            "servers",
            format!("there is no Deployment konductor in namespace {namespace}"),
            "if it is installed in another namespace, say --operator-namespace; otherwise install it",
        ),
        Ok(Some(deployment)) => {
            let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
            let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or_default();
            let found = format!("{ready} of {wanted} are ready");
            if ready > 0 && ready >= wanted {
                Finding::ok("servers", found)
            } else if wanted == 0 {
                Finding::failed("servers", "scaled to zero", format!("kubectl -n {namespace} scale deployment konductor --replicas 2"))
            } else {
                Finding::failed(
                    "servers",
                    found,
                    format!("kubectl -n {namespace} describe pods; kubectl -n {namespace} logs deployment/konductor"),
                )
            }
        }
    }
}

async fn leader(session: &Session, namespace: &str) -> Finding {
    match Api::<Lease>::namespaced(session.kube.clone(), namespace).get_opt("konductor-leader").await {
        Err(error) => Finding::unseen("leader", &error),
        Ok(lease) => {
            let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
            let silent = spec.renew_time.map(|time| Timestamp::now().duration_since(time.0));
            match (spec.holder_identity.filter(|holder| !holder.is_empty()), silent) {
                (Some(holder), Some(silent)) if silent < LEADER_SILENT_FOR => Finding::ok("leader", format!("{holder} leads")),
                (Some(holder), Some(silent)) => Finding::failed(
                    "leader",
                    format!("{holder} has not renewed for {}s", silent.as_secs()),
                    "nobody grants anything now; see `servers`, and whether this machine's clock is right",
                ),
                _ => Finding::failed(
                    "leader",
                    "nobody leads",
                    format!("nobody grants anything now; kubectl -n {namespace} logs deployment/konductor"),
                ),
            }
        }
    }
}

async fn endpoints(session: &Session, namespace: &str, check: &'static str, service: &str) -> Finding {
    let selector = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    match Api::<EndpointSlice>::namespaced(session.kube.clone(), namespace).list(&selector).await {
        Err(error) => Finding::unseen(check, &error),
        Ok(slices) => {
            let ready = |slice: &EndpointSlice| {
                slice.endpoints.iter().filter(|endpoint| endpoint.conditions.as_ref().and_then(|seen| seen.ready).unwrap_or(true)).count()
            };
            match slices.items.iter().map(ready).sum::<usize>() {
                0 => Finding::failed(
                    check,
                    format!("Service {service} leads to nobody"),
                    if check == "webhook" {
                        "annotated Pods and Jobs are refused until a server is ready"
                    } else {
                        "Pods that wait are not answered until somebody leads"
                    },
                ),
                count => Finding::ok(check, format!("Service {service} leads to {count}")),
            }
        }
    }
}

async fn admission(session: &Session) -> Finding {
    let check = "admission";
    let mutating = Api::<MutatingWebhookConfiguration>::all(session.kube.clone()).get_opt("konductor").await;
    let validating = Api::<ValidatingWebhookConfiguration>::all(session.kube.clone()).get_opt("konductor").await;
    let (mutating, validating) = match (mutating, validating) {
        (Err(error), _) | (_, Err(error)) => return Finding::unseen(check, &error),
        (Ok(mutating), Ok(validating)) => (mutating, validating),
    };
    let bundles: Vec<bool> = mutating
        .iter()
        .flat_map(|found| found.webhooks.iter().flatten())
        .map(|webhook| webhook.client_config.ca_bundle.is_some())
        .chain(validating.iter().flat_map(|found| found.webhooks.iter().flatten()).map(|webhook| webhook.client_config.ca_bundle.is_some()))
        .collect();
    if mutating.is_none() || validating.is_none() {
        Finding::failed(
            check,
            "the webhooks are not registered",
            "annotations do nothing: Pods run without their locks; install konductor again (helm upgrade)",
        )
    } else if bundles.contains(&false) {
        Finding::failed(check, "the webhooks have no CA yet", "annotated objects are refused until a leader publishes it; see `leader`")
    } else {
        Finding::ok(check, format!("{} webhooks are registered, with their CA", bundles.len()))
    }
}

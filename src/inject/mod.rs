//! What admission makes of an object: a pure function from JSON to JSON Patch. The webhook and `koncli inject` call the same one.
//!
//! ```text
//! CronJob  annotations are copied to the jobTemplate         status.konductor.io/copied-from: CronJob
//! Job      annotations are copied to the pod template        status.konductor.io/copied-from: Job       label konductor.io/injected
//!          strategy=suspend: spec.suspend                    status.konductor.io/suspended: "true"
//! Pod      [mesh proxies] konductor-acquire konductor-hold [the user's init containers] [the app]       label konductor.io/injected
//!          strategy=gate: spec.schedulingGates               konductor.io/wait
//!          strategy=wrap: [mesh proxies] konductor-install   one container's command is wrapped
//! ```
//!
//! The holder (the Job, or a Pod that holds for itself) carries the finalizer `konductor.io/outcome` where somebody counts how it ends. A Pod that
//! only arrives when it has succeeded gets no containers.
//!
//! - Objects stay raw JSON, so that fields which this version does not know survive.
//! - Other people's containers are never removed or reordered.
//! - A second pass changes nothing: what an earlier one wrote is brought to exactly what this one would write.
//! - What only konductor may write (`status.konductor.io/*`, the label) is taken out of what a user sends.

mod copy;
mod edit;
mod pod;
mod read;
mod refusal;
mod shape;
mod steps;
mod suspend;
mod warn;
mod workload;
mod wrap;

use json_patch::Patch;
use serde_json::Value;

use crate::plan::Release;

pub use refusal::{Refusal, brief};
pub use workload::validate;

/// What the injected containers need to know of this installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the injected containers.
    pub image: String,
    /// Their `imagePullPolicy`.
    pub image_pull_policy: String,
    /// Name of the coordinator's Service, as it stands in its certificate.
    pub server_name: String,
    /// Address and port of the coordinator's Service: there are Pods without DNS.
    pub server_address: String,
    /// The CA certificates that vouch for the coordinator, PEM.
    pub ca_pem: String,
    /// How holds end where the annotations do not say.
    pub default_release: Release,
    /// What each injected container requests, and its limit.
    pub resources: Resources,
}

impl Settings {
    /// Those of an installation about which nothing is known. Its address is one that leads nowhere (RFC 5737).
    pub fn anywhere() -> Self {
        Self {
            image: "konductor".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            server_name: "konductor-coordinator.konductor-system.svc".to_owned(),
            server_address: "192.0.2.1:443".to_owned(),
            ca_pem: String::new(),
            default_release: Release::Hook,
            resources: Resources::default(),
        }
    }
}

/// Requests and limits of each injected container. They are equal, so that a Guaranteed Pod stays Guaranteed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Processor time, as a Kubernetes quantity.
    pub cpu: String,
    /// Memory, as a Kubernetes quantity.
    pub memory: String,
}

/// 20m is 2 ms in each 100 ms: a start with its TLS handshake takes a few of these, and the answer to SIGTERM one or two.
impl Default for Resources {
    fn default() -> Self {
        Self { cpu: "20m".to_owned(), memory: "32Mi".to_owned() }
    }
}

/// An object on its way into the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The namespace it goes to; the object itself may leave it out.
    pub namespace: &'a str,
    /// The object.
    pub object: &'a Value,
    /// On an update, the object as it is now.
    pub old: Option<&'a Value>,
}

/// What becomes of an object that is let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The changes; empty for an object that is none of konductor's business.
    pub patch: Patch,
    /// The object with the changes.
    pub object: Value,
    /// What will hurt, for the person who applies the object.
    pub warnings: Vec<String>,
}

/// What konductor makes of an object: injects into a Pod, copies the annotations of a Job or CronJob down. Other kinds are left as they are.
///
/// # Errors
/// Every mistake in the object, with the words to put it right.
pub fn inject(settings: &Settings, request: &Request<'_>) -> Result<Outcome, Refusal> {
    let Request { namespace: _, object, old: _ } = request;
    let kind = shape::text(object, &["kind"]).unwrap_or_default();
    let group = shape::group(object);
    match (group, kind) {
        ("", "Pod") => pod::inject(settings, request),
        ("batch", "Job") => copy::job(settings, request),
        ("batch", "CronJob") => copy::cron_job(settings, request),
        _ => Ok(Outcome { patch: Patch::default(), object: (*object).clone(), warnings: Vec::new() }),
    }
}

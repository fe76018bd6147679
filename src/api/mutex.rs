//! Mutex: one holder at a time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, CommonStatus, Duration, promises};

/// Mutual exclusion: at most one Pod or Job holds a Mutex at any time.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "Mutex", plural = "mutexes", shortname = "mtx", category = "konductor", namespaced,
    status = "MutexStatus", derive = "PartialEq", derive = "Default",
    doc = "Mutex lets at most one Pod or Job run at a time. Annotate a Pod, Job or CronJob with konductor.io/mutex: NAME.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Holder", type_ = "string", json_path = ".status.holder"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.lockedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = promises::one_holder("a Mutex has at most one holder"),
    validation = promises::tokens_grow(),
)]
#[x_kube(validation = promises::ttl_lasts())]
#[serde(rename_all = "camelCase")]
pub struct MutexSpec {
    /// How long the node of a holder may be unreachable before the hold is taken from it, and how long a Claim holds after its last renewal; 5m if it
    /// is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Other namespaces whose Pods and Jobs may hold this Mutex; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Whether a Mutex is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum MutexPhase {
    /// Nobody holds it.
    #[default]
    Unlocked,
    /// Somebody holds it.
    Locked,
}

/// State of a Mutex; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutexStatus {
    /// The part that every primitive has.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Whether it is held.
    #[serde(default)]
    pub phase: MutexPhase,
    /// Who holds it, as `job/NAME` or `pod/NAME` (`job/NAMESPACE/NAME` where it is another namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Since when it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub locked_at: Option<Time>,
    /// When the hold ends unless it is renewed; only for a Claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub expires_at: Option<Time>,
}

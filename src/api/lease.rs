//! Lease: one holder at a time, by priority, with renewals.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, CommonStatus, Duration, promises};

/// Singleton execution: at most one Pod, Job or Claim holds a Lease at any time.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "Lease", plural = "leases", shortname = "kls", category = "konductor", namespaced,
    status = "LeaseStatus", derive = "PartialEq", derive = "Default",
    doc = "Lease lets at most one Pod or Job run at a time; a Claim that holds it must renew it. Its kind is also one of Kubernetes' own: kubectl get kls. Annotate a Pod, Job or CronJob with konductor.io/lease: NAME. The condition Held is True while somebody holds it.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Holder", type_ = "string", json_path = ".status.holder"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.acquiredAt"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = promises::one_holder("a Lease has at most one holder"),
    validation = promises::tokens_grow(),
)]
#[x_kube(validation = promises::ttl_lasts())]
#[serde(rename_all = "camelCase")]
pub struct LeaseSpec {
    /// How long the node of a holder may be unreachable before the Lease is taken from it, and how long a Claim holds after its last renewal; 5m if it
    /// is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// The priority of those that ask without stating one; larger goes first, then age. 0 if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Other namespaces whose Pods and Jobs may hold this Lease; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Whether a Lease is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum LeasePhase {
    /// Nobody holds it.
    #[default]
    Available,
    /// Somebody holds it.
    Held,
    /// Nobody holds it: it was taken from the last holder, which did not renew it, or whose node could not be reached.
    Expired,
}

/// State of a Lease; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// The part that every primitive has.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Whether it is held.
    #[serde(default)]
    pub phase: LeasePhase,
    /// Who holds it, as `job/NAME`, `pod/NAME` or `claim/NAME` (`job/NAMESPACE/NAME` where it is another namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Since when it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub acquired_at: Option<Time>,
    /// When the hold ends unless it is renewed; only for a Claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub expires_at: Option<Time>,
    /// How often its present holder has renewed it.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub renew_count: i64,
}

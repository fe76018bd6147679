//! Semaphore: a number of permits, shared by weight.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, CommonStatus, Duration, promises};

/// A limit: the permits of all holders together never exceed `permits`.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "Semaphore", plural = "semaphores", shortname = "sem", category = "konductor", namespaced,
    status = "SemaphoreStatus", derive = "PartialEq", derive = "Default",
    doc = "Semaphore lets as many Pods or Jobs run at a time as it has permits. Annotate a Pod, Job or CronJob with konductor.io/semaphore: NAME.",
    printcolumn(name = "Permits", type_ = "integer", json_path = ".spec.permits"),
    printcolumn(name = "In Use", type_ = "integer", json_path = ".status.inUse"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Held By", type_ = "string", json_path = ".status.heldBy"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(self.status) || !has(self.status.holders) || self.status.holders.map(h, h.permits).sum() <= self.spec.permits || (has(oldSelf.status) && has(oldSelf.status.lastToken) && self.status.holders.all(h, h.token <= oldSelf.status.lastToken))")
        .message("the holders' permits exceed spec.permits"),
    validation = promises::tokens_grow(),
)]
#[x_kube(validation = promises::ttl_lasts())]
#[serde(rename_all = "camelCase")]
pub struct SemaphoreSpec {
    /// How many permits there are; 0 pauses the Semaphore. Lowering it takes nothing from those that hold.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub permits: i32,
    /// How long the node of a holder may be unreachable before the hold is taken from it, and how long a Claim holds after its last renewal; 5m if it
    /// is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Other namespaces whose Pods and Jobs may use this Semaphore; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Whether a Semaphore has permits left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum SemaphorePhase {
    /// At least one permit is free.
    #[default]
    Ready,
    /// No permit is free.
    Full,
}

/// State of a Semaphore; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SemaphoreStatus {
    /// The part that every primitive has.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Whether a permit is free.
    #[serde(default)]
    pub phase: SemaphorePhase,
    /// Permits that are held.
    #[serde(default)]
    pub in_use: i32,
    /// Permits that are free; 0 while more are held than `spec.permits` allows, after it was lowered.
    #[serde(default)]
    pub available: i32,
    /// The first holders by name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

//! Barrier: opens when enough participants have arrived.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, Arrival, CommonStatus, Duration, RoundStatus, promises};

/// A point that those who wait pass when enough others have arrived. A participant counts once, however often it is retried.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "Barrier", plural = "barriers", shortname = "bar", category = "konductor", namespaced,
    status = "BarrierStatus", derive = "PartialEq", derive = "Default",
    doc = "Barrier opens when enough of the Pods and Jobs that are annotated with konductor.io/arrive: barrier/NAME have succeeded. Those annotated with konductor.io/barrier: NAME wait for it. It stays open. The condition Open is True then.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Arrived", type_ = "integer", json_path = ".status.arrived"),
    printcolumn(name = "Expected", type_ = "integer", json_path = ".spec.expected"),
    printcolumn(name = "Quorum", type_ = "integer", json_path = ".spec.quorum", priority = 1),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Opened", type_ = "date", json_path = ".status.openedAt"),
    printcolumn(name = "Round", type_ = "integer", json_path = ".status.round", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = promises::rounds_grow(),
    validation = promises::latched(),
    validation = promises::within_a_round("self.status.?arrivals.orValue([]).size() >= oldSelf.status.?arrivals.orValue([]).size()", "who has arrived stays counted in this round"),
    validation = Rule::new("!has(self.status) || self.status.?arrived.orValue(0) == self.status.?arrivals.orValue([]).size()")
        .message("status.arrived is the number of arrivals"),
    validation = Rule::new("!has(self.status) || self.status.?phase.orValue('') != 'Open' || oldSelf.?status.?phase.orValue('') == 'Open' || self.status.?arrivals.orValue([]).size() >= (has(self.spec.quorum) ? self.spec.quorum : self.spec.expected)")
        .message("a Barrier opens when spec.quorum participants have arrived"),
)]
#[x_kube(
    validation = Rule::new("!has(self.quorum) || self.quorum <= self.expected").message("quorum is not larger than expected")
)]
#[serde(rename_all = "camelCase")]
pub struct BarrierSpec {
    /// How many participants there are.
    #[schemars(range(min = 1, max = 1024))]
    pub expected: i32,
    /// How many of them must arrive to open it; all if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub quorum: Option<i32>,
    /// How long it waits for them, from its creation (or from a reset). Then it has failed, and those who wait for it end with an error. For ever if it
    /// is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Other namespaces whose Pods and Jobs may arrive here, or wait; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Whether a Barrier is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum BarrierPhase {
    /// Too few have arrived.
    #[default]
    Waiting,
    /// Enough have arrived. It stays open.
    Open,
    /// Its timeout was over before enough had arrived. It does not open any more.
    Failed,
}

/// State of a Barrier; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BarrierStatus {
    /// The part that every primitive has; nobody holds a Barrier.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// The part of the kinds that have rounds.
    #[serde(flatten)]
    pub rounds: RoundStatus,
    /// Whether it is open.
    #[serde(default)]
    pub phase: BarrierPhase,
    /// How many have arrived.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub arrived: i32,
    /// Who has arrived, in the order in which they were counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["uid"]))]
    pub arrivals: Vec<Arrival>,
    /// When it opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub opened_at: Option<Time>,
    /// When it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub failed_at: Option<Time>,
}

//! WaitGroup: done when all of its members are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, CommonStatus, Duration, RoundStatus, promises};

/// A count of members: those that run, and what was added by hand and not yet done. It is done when the count comes down to zero, and stays so.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "WaitGroup", plural = "waitgroups", shortname = "wg", category = "konductor", namespaced,
    status = "WaitGroupStatus", derive = "PartialEq", derive = "Default",
    doc = "WaitGroup counts the Pods and Jobs that are annotated with konductor.io/done: waitgroup/NAME, each from its start to its end. Those annotated with konductor.io/waitgroup: NAME wait until the count comes down to zero. The condition Done is True from then on.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Counter", type_ = "integer", json_path = ".status.counter"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.members"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Done", type_ = "date", json_path = ".status.doneAt"),
    printcolumn(name = "Round", type_ = "integer", json_path = ".status.round", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(self.status) || self.status.?counter.orValue(0) == self.status.?added.orValue(0) + self.status.?holders.orValue([]).size()")
        .message("status.counter is the number of members"),
    validation = Rule::new("!has(self.status) || !has(self.status.doneAt) || (has(oldSelf.status) && has(oldSelf.status.doneAt)) || self.status.?counter.orValue(0) == 0")
        .message("a WaitGroup is done when its counter is zero"),
    validation = promises::tokens_grow(),
    validation = promises::rounds_grow(),
    validation = promises::within_a_round("!has(oldSelf.status.doneAt) || has(self.status.doneAt)", "what is done stays so in this round"),
)]
#[serde(rename_all = "camelCase")]
pub struct WaitGroupSpec {
    /// How long after it is done konductor deletes this object; never if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Other namespaces whose Pods and Jobs may be members, or wait for it; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Whether a WaitGroup is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum WaitGroupPhase {
    /// It has members, or has not had any yet.
    #[default]
    Waiting,
    /// It had members, and all of them were done.
    Done,
}

/// State of a WaitGroup; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitGroupStatus {
    /// The part that every primitive has; `holders` are the members that run.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// The part of the kinds that have rounds.
    #[serde(flatten)]
    pub rounds: RoundStatus,
    /// Whether it is done.
    #[serde(default)]
    pub phase: WaitGroupPhase,
    /// How many members are not done: those in `holders`, and `added`.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub counter: i64,
    /// What Claims have added and not yet done.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub added: i64,
    /// The first members by name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<String>,
    /// When the counter came down to zero. Members that come later are counted, but nobody waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub done_at: Option<Time>,
}

//! Once: executed by one of all who would.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, CommonStatus, Duration, Executor, RoundStatus, promises};

/// One execution: one Pod, Job or Claim executes at a time, until one has succeeded. All others are then skipped, for ever.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "Once", plural = "onces", shortname = "onc", category = "konductor", namespaced,
    status = "OnceStatus", derive = "PartialEq", derive = "Default",
    doc = "Once lets one of all its Jobs run to success, and skips the others. A failure gives the turn to the next. Annotate a Job or CronJob with konductor.io/once: NAME. The condition Executed is True when one has succeeded.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Executor", type_ = "string", json_path = ".status.executor"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Executed", type_ = "date", json_path = ".status.executedAt"),
    printcolumn(name = "Round", type_ = "integer", json_path = ".status.round", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = promises::one_holder("one executes at a time"),
    validation = Rule::new("!has(self.status) || !self.status.?executed.orValue(false) || self.status.?holders.orValue([]).size() == 0")
        .message("nobody executes what is executed"),
    validation = promises::tokens_grow(),
    validation = promises::rounds_grow(),
    validation = promises::within_a_round("!oldSelf.status.?executed.orValue(false) || self.status.?executed.orValue(false)", "what is executed stays so in this round"),
)]
#[serde(rename_all = "camelCase")]
pub struct OnceSpec {
    /// How long after its success konductor deletes this object, so that it can be executed again when somebody makes it again; never if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Other namespaces whose Jobs may execute it, or wait for it; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// How far a Once is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum OncePhase {
    /// Nobody has executed it, nor does so now.
    #[default]
    Pending,
    /// Somebody executes it.
    Running,
    /// Somebody has executed it with success.
    Executed,
}

/// State of a Once; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnceStatus {
    /// The part that every primitive has; `holders` is the one that executes now.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// The part of the kinds that have rounds.
    #[serde(flatten)]
    pub rounds: RoundStatus,
    /// How far it is.
    #[serde(default)]
    pub phase: OncePhase,
    /// Whether somebody has executed it with success.
    #[serde(default)]
    pub executed: bool,
    /// Who executes it, or has executed it, as `job/NAME` (`job/NAMESPACE/NAME` where it is another namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// Who has executed it with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed_by: Option<Executor>,
    /// When the success was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub executed_at: Option<Time>,
}

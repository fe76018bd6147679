//! RWMutex: many readers, or one writer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, CommonStatus, Duration, promises};

/// Readers and writers: any number of readers hold it together, or one writer alone. A writer that waits stops new readers.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "RWMutex", plural = "rwmutexes", shortname = "rwm", category = "konductor", namespaced,
    status = "RWMutexStatus", derive = "PartialEq", derive = "Default",
    doc = "RWMutex lets many readers run at a time, or one writer alone. Annotate a Pod, Job or CronJob with konductor.io/rwmutex: \"NAME;mode=read\" or NAME (to write). The condition Held is True while anybody holds it.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Writer", type_ = "string", json_path = ".status.writeHolder"),
    printcolumn(name = "Readers", type_ = "integer", json_path = ".status.readers"),
    printcolumn(name = "Read By", type_ = "string", json_path = ".status.readBy"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.lockedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(self.status) || !has(self.status.holders) || self.status.holders.size() <= 1 || self.status.holders.all(h, has(h.mode) && h.mode == 'Read')")
        .message("a writer of an RWMutex holds it alone"),
    validation = promises::tokens_grow(),
)]
#[x_kube(validation = promises::ttl_lasts())]
#[serde(rename_all = "camelCase")]
pub struct RWMutexSpec {
    /// How long the node of a holder may be unreachable before the hold is taken from it, and how long a Claim holds after its last renewal; 5m if it
    /// is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Other namespaces whose Pods and Jobs may hold this RWMutex; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// How an RWMutex is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum RWMutexPhase {
    /// Nobody holds it.
    #[default]
    Unlocked,
    /// Readers hold it.
    ReadLocked,
    /// A writer holds it.
    WriteLocked,
}

/// State of an RWMutex; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RWMutexStatus {
    /// The part that every primitive has.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// How it is held.
    #[serde(default)]
    pub phase: RWMutexPhase,
    /// Who writes, as `job/NAME` or `pod/NAME` (`job/NAMESPACE/NAME` where it is another namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_holder: Option<String>,
    /// Who reads, likewise; the first 32 of them. All are in `holders`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub read_holders: Vec<String>,
    /// How many read.
    #[serde(default)]
    pub readers: i32,
    /// The first readers by name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_by: Option<String>,
    /// Since when it is held, by the one that has held it longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub locked_at: Option<Time>,
    /// When the first of the holds ends unless it is renewed; only where a Claim holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub expires_at: Option<Time>,
}

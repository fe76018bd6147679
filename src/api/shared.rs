//! What every primitive's status shares: who holds, which token came last, how many wait, and the conditions that `kubectl wait` reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most holders that one object carries; above it an object would grow past what the API server stores and compares quickly.
pub const MAX_HOLDERS: usize = 1024;

/// What kind of object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HolderKind {
    /// A Pod that acquires in its first init container.
    Pod,
    /// A Job that holds once, across its Pods and retries.
    Job,
    /// A Claim: somebody who is not an injected Pod, such as koncli.
    Claim,
}

impl HolderKind {
    /// The word for it in messages: `pod`, `job`, `claim`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Job => "job",
            Self::Claim => "claim",
        }
    }
}

/// How an RWMutex is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Beside other readers.
    Read,
    /// Alone.
    #[default]
    Write,
}

/// A Pod that acts under a Job's hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Admitted {
    /// UID of the Pod.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Name of the Pod.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Fencing token of this Pod: the first one has that of the hold, each later one a larger one than any before it.
    #[schemars(range(min = 0))]
    pub token: i64,
}

/// One that holds the primitive now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// UID of the object that holds.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Kind of the object that holds.
    pub kind: HolderKind,
    /// Namespace of the object that holds.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the object that holds.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Fencing token of the hold: larger than that of every earlier hold of this primitive's name.
    #[schemars(range(min = 0))]
    pub token: i64,
    /// Permits that the hold takes of a Semaphore; 1 for the other kinds.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub permits: i32,
    /// How an RWMutex is held; other kinds do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// When the hold was granted.
    #[schemars(schema_with = "super::schema::time")]
    pub since: Time,
    /// Under a Job's hold: the Pods that were let in, each with a token of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub pods: Vec<Admitted>,
    /// How often the hold was renewed; only a Claim is renewed.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub renewals: i64,
    /// When the hold ends unless it is renewed; only a Claim's does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub expires_at: Option<Time>,
}

const fn one() -> i32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The part of the status that every primitive has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommonStatus {
    /// The `metadata.generation` that this status was decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready` (accepted and served) and one per kind for `kubectl wait`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Who holds, oldest grant first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub holders: Vec<Holder>,
    /// The largest fencing token that was ever handed out.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub last_token: i64,
    /// How many wait; written along with other changes, else every ten seconds.
    #[serde(default)]
    pub waiting: i32,
}

/// One that has executed a Once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Executor {
    /// UID of the object.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Kind of the object.
    pub kind: HolderKind,
    /// Namespace of the object.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the object.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// One that has arrived at a Barrier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arrival {
    /// UID of the object.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Kind of the object.
    pub kind: HolderKind,
    /// Namespace of the object.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the object; of a Claim, its `holder`.
    #[schemars(length(max = 253))]
    pub name: String,
    /// When it arrived: the end of a Pod or Job, the creation of a Claim.
    #[schemars(schema_with = "super::schema::time")]
    pub at: Time,
}

/// What every primitive's spec has.
pub type AllowedNamespaces = Vec<String>;

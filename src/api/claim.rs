//! Claim: how those use a primitive who are not an annotated Pod, Job or CronJob.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Mode, promises};

/// One operation on one primitive of the same namespace, for koncli, the SDK and kubectl. What is asked for does not change; a Claim that holds is renewed,
/// and ends what it holds by being deleted.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "Claim", plural = "claims", shortname = "clm", category = "konductor", namespaced,
    status = "ClaimStatus", derive = "PartialEq",
    doc = "Claim uses a primitive of its namespace for somebody who is not an annotated Pod: it holds, waits, arrives, adds, opens. Renew it by counting spec.renewals up before spec.ttl is over; release it by deleting it. The condition Granted is True when it holds, or when its operation was done.",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.name"),
    printcolumn(name = "Operation", type_ = "string", json_path = ".spec.operation"),
    printcolumn(name = "Holder", type_ = "string", json_path = ".spec.holder"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Token", type_ = "integer", json_path = ".status.token", priority = 1),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(oldSelf.status) || !(oldSelf.status.?phase.orValue('') in ['Denied', 'Expired', 'Released']) || self.?status.?phase.orValue('') == oldSelf.status.phase")
        .message("a Claim that is over stays so; make a new one"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.token) || (has(self.status) && has(self.status.token) && self.status.token == oldSelf.status.token)")
        .message("the token of a Claim does not change"),
)]
#[x_kube(
    validation = ClaimKind::operations_rule(),
    validation = promises::ttl_lasts(),
    validation = Rule::new("has(self.delta) ? self.operation == 'Add' : true").message("delta goes with the operation Add"),
    validation = Rule::new("has(self.permits) ? self.kind == 'Semaphore' : true").message("permits are those of a Semaphore"),
    validation = Rule::new("has(self.mode) ? self.kind == 'RWMutex' : true").message("mode is how an RWMutex is held"),
    validation = Rule::new("has(self.succeeded) ? self.kind == 'Once' : true").message("succeeded is how the execution of a Once came out"),
    validation = promises::unchanged(&["kind", "name", "operation", "holder", "delta", "permits", "mode", "priority", "ttl", "timeout"])
        .message("what a Claim asks for does not change; only renewals and succeeded do"),
    validation = Rule::new("self.renewals >= oldSelf.renewals").message("renewals only grow"),
    validation = Rule::new("!has(oldSelf.succeeded) || (has(self.succeeded) && self.succeeded == oldSelf.succeeded)").message("succeeded is said once"),
)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// Kind of the primitive.
    pub kind: ClaimKind,
    /// Name of the primitive, in the Claim's namespace. It need not exist yet.
    #[schemars(schema_with = "super::schema::name")]
    pub name: String,
    /// Who claims, for people, and to tell participants of a Barrier apart; the Claim's own name if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub holder: Option<String>,
    /// What is done. Acquire: hold a Mutex, an RWMutex, a Lease or a Semaphore, or execute a Once. Wait: for a Barrier or a Gate to open, a WaitGroup to be
    /// done, a Once to be executed. Arrive: at a Barrier. Add, Done: count a WaitGroup up by `delta`, or down by one. Open, Close: a Gate, by hand. Reset: a
    /// new round of a Barrier, a Gate, a Once or a WaitGroup.
    #[serde(default)]
    pub operation: Operation,
    /// How much Add adds; 1 if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub delta: Option<i64>,
    /// How many permits of a Semaphore; 1 if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub permits: Option<i32>,
    /// How an RWMutex is held; Write if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Larger goes first, then age; the Lease's own priority, or 0, if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// How long it holds after its last renewal; the primitive's `ttl` if it is not set, and 5m if that is not set either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// How long it waits, from its creation; `0s` does not wait; for ever if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Counted up to renew what it holds.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub renewals: i64,
    /// How the execution of a Once came out; set before the Claim is deleted. Unless it is true, the turn passes to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeded: Option<bool>,
}

/// Kinds of primitives that can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "each is the kind of that name")]
pub enum ClaimKind {
    Mutex,
    RWMutex,
    Lease,
    Semaphore,
    Once,
    WaitGroup,
    Barrier,
    Gate,
}

/// What a Claim does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Operation {
    /// Holds, or executes a Once.
    #[default]
    Acquire,
    /// Waits until it is open, done or executed.
    Wait,
    /// Arrives at a Barrier.
    Arrive,
    /// Counts a WaitGroup up.
    Add,
    /// Counts a WaitGroup down.
    Done,
    /// Opens a Gate by hand.
    Open,
    /// Closes a Gate by hand.
    Close,
    /// Starts a new round.
    Reset,
}

impl ClaimKind {
    /// All of them, in canonical order.
    pub const ALL: [Self; 8] =
        [Self::Mutex, Self::RWMutex, Self::Lease, Self::Semaphore, Self::Once, Self::WaitGroup, Self::Barrier, Self::Gate];

    /// What can be done with a primitive of this kind.
    pub const fn operations(self) -> &'static [Operation] {
        use Operation::{Acquire, Add, Arrive, Close, Done, Open, Reset, Wait};
        match self {
            Self::Mutex | Self::RWMutex | Self::Lease | Self::Semaphore => &[Acquire],
            Self::Once => &[Acquire, Wait, Reset],
            Self::WaitGroup => &[Wait, Add, Done, Reset],
            Self::Barrier => &[Wait, Arrive, Reset],
            Self::Gate => &[Wait, Open, Close, Reset],
        }
    }

    fn operations_rule() -> Rule {
        promises::one_of_its_kind("kind", "operation", Self::ALL.iter().map(|kind| (kind, kind.operations())))
    }
}

/// How far a Claim is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClaimPhase {
    /// It waits.
    #[default]
    Pending,
    /// It holds; or what it asked for was done.
    Granted,
    /// It will not be granted; `message` says why.
    Denied,
    /// It held, and was not renewed in time.
    Expired,
    /// It held, and does not any more.
    Released,
}

/// Reasons of the condition `Granted` of a Claim that was denied, by which programs tell them apart.
pub mod denied {
    /// Its timeout was over.
    pub const TIMED_OUT: &str = "TimedOut";
    /// It asked not to wait, and there was something to wait for.
    pub const NOT_FREE: &str = "NotFree";
    /// The Barrier or the Gate that it waited for has failed.
    pub const FAILED: &str = "Failed";
    /// The Once has been executed by somebody else.
    pub const EXECUTED: &str = "Executed";
    /// It came after the Barrier was open, or before this round.
    pub const LATE: &str = "Late";
    /// For another reason; the message says for which.
    pub const DENIED: &str = "Denied";
}

/// State of a Claim; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimStatus {
    /// The `metadata.generation` that this status was decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Granted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// How far it is.
    #[serde(default)]
    pub phase: ClaimPhase,
    /// Fencing token of the hold: larger than that of every earlier hold of this primitive's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub token: Option<i64>,
    /// When it was granted, or done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub granted_at: Option<Time>,
    /// When the hold ends unless it is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub expires_at: Option<Time>,
    /// For what it waits and behind whom, or why it was denied, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

//! Gate: closed until all its conditions are met.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    CustomResource, KubeSchema,
    core::{Message, Rule},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, CommonStatus, Duration, RoundStatus, promises};

/// Conditions that must all be met before those who wait may go on. Without any it is opened by hand.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "konductor.io", version = "v1", kind = "Gate", plural = "gates", shortname = "gt", category = "konductor", namespaced,
    status = "GateStatus", derive = "PartialEq", derive = "Default",
    doc = "Gate opens when all its conditions are met at once, and stays open. Pods and Jobs annotated with konductor.io/gate: NAME wait for it. The condition Open is True then; Ready is False while it can never open, because it waits for itself.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Met", type_ = "string", json_path = ".status.met"),
    printcolumn(name = "Waits For", type_ = "string", json_path = ".status.waitsFor"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Opened", type_ = "date", json_path = ".status.openedAt"),
    printcolumn(name = "Round", type_ = "integer", json_path = ".status.round", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = promises::rounds_grow(),
    validation = promises::latched(),
    validation = Rule::new("!has(self.status) || self.status.?phase.orValue('') != 'Open' || oldSelf.?status.?phase.orValue('') == 'Open' || self.status.?byHand.?open.orValue(false) || (self.status.?conditionStatuses.orValue([]).size() > 0 && self.status.conditionStatuses.all(c, c.met))")
        .message("a Gate opens when all its conditions are met, or by hand"),
)]
#[serde(rename_all = "camelCase")]
pub struct GateSpec {
    /// What must be met, all of it at once. A condition that a finished object met stays met when that object is gone; a new one of the same name
    /// counts anew. Without conditions it is opened by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub conditions: Vec<GateCondition>,
    /// How long it waits for them, from its creation (or from a reset). Then it has failed, and those who wait for it end with an error. For ever if it
    /// is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Other namespaces whose Pods, Jobs and Gates may wait for it; `*` stands for all. Nobody else by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::namespaces")]
    pub allowed_namespaces: AllowedNamespaces,
}

/// One thing that a Gate waits for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = GateType::states_rule(),
    validation = GateType::value_rule(),
)]
#[serde(rename_all = "camelCase")]
pub struct GateCondition {
    /// Kind of the object.
    #[serde(rename = "type")]
    pub on: GateType,
    /// Name of the object. It need not exist yet.
    #[schemars(schema_with = "super::schema::name")]
    pub name: String,
    /// Namespace of the object; the Gate's own if it is not set. A primitive of another namespace must list the Gate's in its `allowedNamespaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_namespace")]
    pub namespace: Option<String>,
    /// The state that the object must be in. Job: Complete (the Job's condition; one succeeded Pod is not enough), Failed, Active (Pods run). Mutex,
    /// RWMutex, Lease: Unlocked or Available (nobody holds it), Locked or Acquired. Semaphore: Available, Acquired. Barrier, Gate: Open, Closed (not
    /// open), Pending, Failed. Once: Done (executed), Active (being executed), Pending. WaitGroup: Done (all members are done), Pending, Zero, NonZero.
    /// If neither `state` nor `value` is set: Complete, Unlocked, Available, Open or Done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<GateState>,
    /// How many there must be at least: of a Job's succeeded Pods, of a Semaphore's free permits (of held ones with `state: Acquired`), of a Barrier's
    /// arrivals, of a WaitGroup's members. Other kinds have nothing to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub value: Option<i64>,
}

/// Whether a Gate is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GatePhase {
    /// Not all conditions are met.
    #[default]
    Waiting,
    /// All were met, or it was opened by hand. It stays open.
    Open,
    /// Closed by hand, whatever the conditions say, until it is opened or reset by hand.
    Closed,
    /// Its timeout was over before all conditions were met.
    Failed,
}

/// State of a Gate; konductor writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// The part that every primitive has; nobody holds a Gate.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// The part of the kinds that have rounds.
    #[serde(flatten)]
    pub rounds: RoundStatus,
    /// Whether it is open.
    #[serde(default)]
    pub phase: GatePhase,
    /// How each condition stands; as it stood when the Gate opened, once it is open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub condition_statuses: Vec<GateConditionStatus>,
    /// How many of the conditions are met, for people: `2 of 3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<String>,
    /// The first conditions that are not met, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Who opened or closed it by hand. That goes before the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<GateByHand>,
    /// The Gates that wait for each other in a circle, this one first: none of them can ever open by its conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub cycle: Vec<String>,
    /// When it opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub opened_at: Option<Time>,
    /// When it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub failed_at: Option<Time>,
}

/// How a condition of a Gate stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateConditionStatus {
    /// The condition.
    #[serde(flatten)]
    pub condition: GateCondition,
    /// Whether it is met.
    #[serde(default)]
    pub met: bool,
    /// UID of the object that was seen; of the one that met it, once that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
    /// Since when it is met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub since: Option<Time>,
    /// What was seen of the object.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// What somebody did to a Gate by hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateByHand {
    /// Whether it was opened; otherwise it was closed.
    pub open: bool,
    /// Who did it: the `holder` of a Claim, or its name.
    #[schemars(length(max = 253))]
    pub by: String,
    /// When.
    #[schemars(schema_with = "super::schema::time")]
    pub at: Time,
}

/// Kinds of objects that a condition of a Gate can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "each is the kind of that name")]
pub enum GateType {
    Job,
    Mutex,
    RWMutex,
    Semaphore,
    Lease,
    Barrier,
    Gate,
    Once,
    WaitGroup,
}

/// States that a condition of a Gate can ask for. Which of them an object can be in depends on its kind: [`GateType::states`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GateState {
    /// The Job has its Complete condition: one succeeded Pod is not enough, nor is a Job that konductor skipped.
    Complete,
    /// The Job has its Failed condition; or the time of the Barrier or Gate was over before it opened.
    Failed,
    /// Pods of the Job are running; or somebody executes the Once.
    Active,
    /// The Barrier or Gate is open.
    Open,
    /// The Barrier or Gate is not open.
    Closed,
    /// Somebody holds it; of a Semaphore, at least one permit, or `value` permits, are held.
    Acquired,
    /// Nobody holds it; of a Semaphore, at least one permit, or `value` permits, are free.
    Available,
    /// Somebody holds it.
    Locked,
    /// Nobody holds it.
    Unlocked,
    /// The Once was executed; or the WaitGroup had members, and all of them are done.
    Done,
    /// The Barrier or Gate waits; or nobody has executed the Once, nor does so now; or the WaitGroup is not done.
    Pending,
    /// The counter of the WaitGroup is zero.
    Zero,
    /// The counter of the WaitGroup is above zero.
    NonZero,
}

impl GateType {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 9] =
        [Self::Job, Self::Mutex, Self::RWMutex, Self::Semaphore, Self::Lease, Self::Barrier, Self::Gate, Self::Once, Self::WaitGroup];

    /// The states that such an object can be in. The first one is what a condition asks for that states neither a state nor a value.
    pub const fn states(self) -> &'static [GateState] {
        use GateState::{Acquired, Active, Available, Closed, Complete, Done, Failed, Locked, NonZero, Open, Pending, Unlocked, Zero};
        match self {
            Self::Job => &[Complete, Failed, Active],
            Self::Mutex | Self::RWMutex => &[Unlocked, Locked, Available, Acquired],
            Self::Semaphore => &[Available, Acquired],
            Self::Lease => &[Available, Acquired, Unlocked, Locked],
            Self::Barrier | Self::Gate => &[Open, Closed, Pending, Failed],
            Self::Once => &[Done, Pending, Active],
            Self::WaitGroup => &[Done, Pending, Zero, NonZero],
        }
    }

    /// What a condition's `value` counts of such an object; `None` where there is nothing to count.
    pub const fn counts(self) -> Option<&'static str> {
        match self {
            Self::Job => Some("succeeded Pods"),
            Self::Semaphore => Some("permits"),
            Self::Barrier => Some("arrivals"),
            Self::WaitGroup => Some("members"),
            Self::Mutex | Self::RWMutex | Self::Lease | Self::Gate | Self::Once => None,
        }
    }

    /// A condition's state is one that its kind of object can be in.
    fn states_rule() -> Rule {
        promises::one_of_its_kind("type", "state", Self::ALL.iter().map(|kind| (kind, kind.states())))
    }

    /// A condition has a value only where there is something to count.
    fn value_rule() -> Rule {
        let counted: Vec<String> = Self::ALL.iter().filter(|kind| kind.counts().is_some()).map(|kind| format!("'{kind:?}'")).collect();
        Rule::new(format!("!has(self.value) || self.type in [{}]", counted.join(", ")))
            .message(Message::Expression("'of a ' + self.type + ' there is nothing to count: it has no value'".into()))
    }

    /// The word for it in messages and annotations: `job`, `rwmutex`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Mutex => "mutex",
            Self::RWMutex => "rwmutex",
            Self::Semaphore => "semaphore",
            Self::Lease => "lease",
            Self::Barrier => "barrier",
            Self::Gate => "gate",
            Self::Once => "once",
            Self::WaitGroup => "waitgroup",
        }
    }
}

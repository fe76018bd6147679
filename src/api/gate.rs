//! Gate: closed until all its conditions are met.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

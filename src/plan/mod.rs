//! Annotations: text in, a typed [`Plan`] out, or every mistake at once.
//!
//! ```text
//! konductor.io/wait: "gate/data-ready;timeout=2h, barrier/stage-1"          # before the first container
//! konductor.io/acquire: "mutex/db-migrate, semaphore/api-limit;permits=2"   # held while it runs
//! konductor.io/arrive: "barrier/extract-complete"                           # when it succeeds
//! konductor.io/done: "waitgroup/workers"                                    # counted from its start to its end
//! konductor.io/once: "db-migrate"                                           # run only if nobody has
//! konductor.io/mutex: db-migrate                                            # short form of one item
//!
//! item = kind/[namespace/]name[;key=value]*                                 # items are separated by commas
//! ```
//!
//! The words that are valid stand in one table, [`table`]; the parser reads it, the suggestions come from it, and so does the documentation.
//! Nothing behind this door sees text again.

mod assemble;
mod choice;
mod distance;
mod mistake;
mod parse;
mod print;
#[cfg(test)]
mod properties;
mod reference;
pub mod table;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::api::Duration;

pub use choice::{Mode, On, OnConflict, OnLost, OnTimeout, Release, Strategy};
pub use distance::nearest;
pub use mistake::{Mistake, Mistakes, shortened};
pub use parse::{MAX_ITEMS, MAX_VALUE, is_ours, lookalike, parse};
pub use reference::tables;
pub use target::{NAME, is_subdomain};

/// Kinds of primitives, in the order in which a Pod acquires them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One holder at a time.
    Mutex,
    /// One writer, or any number of readers.
    RwMutex,
    /// One holder at a time, by priority.
    Lease,
    /// As many permits at a time as it has.
    Semaphore,
    /// Done by one of all who would.
    Once,
    /// Those that are not done yet are counted.
    WaitGroup,
    /// Opens when enough have arrived.
    Barrier,
    /// Opens when its conditions are met.
    Gate,
}

/// The primitive that is meant. Its order is the canonical order of acquiring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Kind of the primitive.
    pub kind: Kind,
    /// Its namespace; `None` is the holder's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// What the annotated object has to do with one primitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The primitive.
    pub target: Target,
    /// What is done with it.
    pub role: Role,
    /// How long to wait for it, from the creation of the holder; `None` waits for ever.
    pub timeout: Option<Duration>,
}

/// What is done with a primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waits before the first container until it is open: a Barrier or a Gate, a WaitGroup at zero, a Once that was executed.
    Wait {
        /// What happens when the time is over.
        on_timeout: OnTimeout,
        /// It also arrives there when it begins to wait: a Barrier as a meeting point.
        arrive: bool,
    },
    /// Holds a Mutex, an RWMutex, a Lease or a Semaphore while it runs.
    Hold {
        /// How many permits; 1 for everything but a Semaphore.
        permits: i32,
        /// How an RWMutex is held; [`Mode::Write`] for everything else.
        mode: Mode,
        /// Larger goes first.
        priority: i32,
        /// Whether a missing Mutex is made.
        create: bool,
    },
    /// Runs only if nobody has: a Once.
    Execute {
        /// Larger goes first.
        priority: i32,
    },
    /// Is counted by a WaitGroup from its start to its end.
    Join,
    /// Arrives at a Barrier.
    Arrive {
        /// When.
        on: On,
    },
}

/// What the annotations of one object ask for. There is at least one item in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First the waits as they were written; then what is held, executed or joined, in canonical order, so that two holders never wait for each
    /// other in a circle; then the arrivals. That order counts only among Plans whose namespaces are filled in: see [`Plan::in_namespace`].
    pub items: Vec<Item>,
    /// Who reports the end; `None` is the installation's default.
    pub release: Option<Release>,
    /// Whether the fencing tokens are shown to the app's containers.
    pub fencing: bool,
    /// Where the waiting happens; `None` is [`Strategy::Init`].
    pub strategy: Option<Strategy>,
    /// With [`Strategy::Wrap`]: the container whose command is wrapped; `None` is the only one that there is.
    pub container: Option<String>,
    /// What happens when somebody else holds.
    pub on_conflict: OnConflict,
    /// What happens to a Pod whose hold was taken.
    pub on_lost: OnLost,
    /// How long it may hold; then it is deleted.
    pub max_hold: Option<Duration>,
    /// How long it may hold without having started; then it is deleted.
    pub start_timeout: Option<Duration>,
}

/// The object that carries the annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A Pod: it is the holder.
    Pod,
    /// A Pod whose annotations were copied from its Job: the Job is the holder.
    PodOfJob,
    /// The template of a Deployment, of a Job and the like: each Pod holds.
    PodTemplate,
    /// A Job: it holds once, across its Pods.
    Job,
    /// A CronJob: each Job that it makes holds.
    CronJob,
}

impl Kind {
    /// All kinds, in canonical order.
    pub const ALL: [Self; 8] =
        [Self::Mutex, Self::RwMutex, Self::Lease, Self::Semaphore, Self::Once, Self::WaitGroup, Self::Barrier, Self::Gate];

    /// The word for it in annotations.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::RwMutex => "rwmutex",
            Self::Lease => "lease",
            Self::Semaphore => "semaphore",
            Self::Once => "once",
            Self::WaitGroup => "waitgroup",
            Self::Barrier => "barrier",
            Self::Gate => "gate",
        }
    }
}

impl Role {
    /// Whether it lasts as long as the annotated object runs, and has an end.
    pub const fn lasts(self) -> bool {
        matches!(self, Self::Hold { .. } | Self::Execute { .. } | Self::Join)
    }

    /// Whether it is granted to few at a time, each with a fencing token.
    pub const fn has_token(self) -> bool {
        matches!(self, Self::Hold { .. } | Self::Execute { .. })
    }

    /// Whether it is done before the first container starts.
    pub const fn is_step(self) -> bool {
        !matches!(self, Self::Arrive { on: On::Success })
    }

    /// Permits that it takes of the primitive.
    pub const fn permits(self) -> i32 {
        match self {
            Self::Hold { permits, .. } => permits,
            _ => 1,
        }
    }

    /// Larger goes first.
    pub const fn priority(self) -> i32 {
        match self {
            Self::Hold { priority, .. } | Self::Execute { priority } => priority,
            _ => 0,
        }
    }

    /// Where its items stand in a plan.
    const fn place(self) -> u8 {
        match self {
            Self::Wait { .. } => 0,
            Self::Hold { .. } | Self::Execute { .. } | Self::Join => 1,
            Self::Arrive { .. } => 2,
        }
    }
}

impl Plan {
    /// What is done before the first container starts, one after the other.
    pub fn steps(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.role.is_step())
    }

    /// What lasts while the object runs, and so has an end: what is held, executed and joined.
    pub fn holds(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.role.lasts())
    }

    /// What has a fencing token; the tokens are numbered in this order.
    pub fn tokens(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.role.has_token())
    }

    /// Whether it concerns the command of one container, and not the Pod as a whole.
    pub fn wraps(&self) -> bool {
        self.strategy == Some(Strategy::Wrap)
    }

    /// Whether somebody counts how the holder ends. It then carries [`OUTCOME_FINALIZER`](crate::api::names::OUTCOME_FINALIZER) until that is
    /// recorded.
    pub fn owes_outcome(&self) -> bool {
        self.items.iter().any(|item| matches!(item.role, Role::Arrive { on: On::Success } | Role::Execute { .. } | Role::Join))
    }

    /// The same plan with every namespace written out, in the order in which `holder_namespace`'s Pods acquire.
    ///
    /// Without this, a Pod of `a` that holds `mutex/x, mutex/b/y` and one of `b` that holds `mutex/y, mutex/a/x` would take the two in
    /// opposite order and could wait for each other for ever. Fencing tokens are numbered in this order.
    #[must_use]
    pub fn in_namespace(mut self, holder_namespace: &str) -> Self {
        for item in &mut self.items {
            item.target.namespace.get_or_insert_with(|| holder_namespace.to_owned());
        }
        self.arrange();
        self
    }

    /// A primitive that is named twice once the holder's namespace is known: `mutex/db` and `mutex/shop/db` are one in namespace `shop`.
    /// Such a holder would wait for itself.
    pub fn twice_in(&self, holder_namespace: &str) -> Option<Item> {
        let mut seen = BTreeSet::new();
        self.clone().in_namespace(holder_namespace).items.into_iter().find(|item| !seen.insert(item.target.clone()))
    }

    /// Brings the items into their order. Waits keep theirs: they take nothing from anybody.
    fn arrange(&mut self) {
        self.items.sort_by(|a, b| match (a.role.place(), b.role.place()) {
            (0, 0) => std::cmp::Ordering::Equal,
            (a_place, b_place) => a_place.cmp(&b_place).then_with(|| a.target.cmp(&b.target)),
        });
    }
}

impl Subject {
    /// The word for it in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pod | Self::PodOfJob => "Pod",
            Self::PodTemplate => "pod template",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }
}

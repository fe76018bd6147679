//! A Gate's conditions: what each of them asks for, and whether an object that was seen meets it.

use jiff::Timestamp;

use super::Latch;
use crate::api::{GateState, GateType};

/// One thing that a Gate waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condition {
    /// Kind of the object.
    pub on: GateType,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The state that it must be in; the usual one of its kind if neither this nor `value` is set.
    pub state: Option<GateState>,
    /// How much must be counted of it, at least. See [`GateType::counts`].
    pub value: Option<i64>,
}

/// How a condition stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is met.
    pub met: bool,
    /// UID of the object that was seen; of the one that met it, once that is gone.
    pub uid: Option<String>,
    /// Since when it is met.
    pub since: Option<Timestamp>,
    /// What was seen, for people.
    pub message: String,
}

/// An object that a condition names. What does not exist is not given.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Kind of the object.
    pub on: GateType,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What was seen of it.
    pub sight: Sight,
}

/// What a Gate sees of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// Nothing: it is another namespace's, which does not allow it.
    NotAllowed,
    /// It is there.
    There {
        /// Its UID.
        uid: String,
        /// How it is.
        seen: Seen,
    },
}

/// How an object is, as far as conditions ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A Job.
    Job {
        /// Whether it has its Complete condition, and was not skipped by konductor.
        complete: bool,
        /// Whether it has its Failed condition.
        failed: bool,
        /// How many of its Pods run.
        active: i64,
        /// How many of its Pods succeeded.
        succeeded: i64,
    },
    /// A Mutex, an RWMutex, a Lease or a Semaphore.
    Grants {
        /// Permits that are held; of an RWMutex, how many hold it.
        held: i64,
        /// Permits that are free.
        free: i64,
    },
    /// A Barrier.
    Barrier {
        /// Whether it is open.
        state: Latch,
        /// How many have arrived.
        arrived: i64,
    },
    /// A Gate.
    Gate {
        /// Whether it is open.
        state: Latch,
        /// Whether it was closed by hand.
        closed: bool,
    },
    /// A Once.
    Once {
        /// Whether somebody has executed it.
        executed: bool,
        /// Whether somebody does.
        running: bool,
    },
    /// A WaitGroup.
    WaitGroup {
        /// Whether it is done.
        done: bool,
        /// How many members it has now.
        counter: i64,
    },
}

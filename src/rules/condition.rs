//! A Gate's conditions: what each of them asks for, and whether an object that was seen meets it.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use jiff::Timestamp;

use super::{Latch, Primitive, Record};
use crate::{
    api::{GateState, GateType},
    planted,
};

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

impl Condition {
    /// The state that it asks for; `None` where the `value` says it all.
    pub fn state(&self) -> Option<GateState> {
        self.state.or_else(|| self.value.is_none().then(|| self.on.states().first().copied()).flatten())
    }

    /// Whether it stays met when the object that met it is gone. What an object can leave again (a Mutex its lock, a Job its running) must hold now.
    pub fn stays(&self) -> bool {
        match self.state() {
            Some(GateState::Complete | GateState::Failed | GateState::Open | GateState::Done) => true,
            Some(_) => false,
            None => matches!(self.on, GateType::Job | GateType::Barrier),
        }
    }

    /// What people of this namespace call the object: `job/build`, or `job/other/build`.
    pub fn seen_from(&self, namespace: &str) -> String {
        let Self { on, namespace: own, name, .. } = self;
        if own == namespace { format!("{}/{name}", on.word()) } else { format!("{}/{own}/{name}", on.word()) }
    }

    /// How it stands after this look; `gate` is the namespace of the Gate.
    pub(super) fn look(&self, before: &Standing, observed: &[Observed], gate: &str, now: Timestamp) -> Standing {
        let Self { on, namespace, name, .. } = self;
        let sight = observed.iter().find(|object| (&object.on, &object.namespace, &object.name) == (on, namespace, name));
        let called = self.seen_from(gate);
        let gone = match sight.map(|object| &object.sight) {
            Some(Sight::There { uid, seen }) => {
                let same = before.met && before.uid.as_ref() == Some(uid);
                // A Job that is finished stays so, whatever an older picture of it says. (A primitive may be in its next round.)
                let finished = same && self.on == GateType::Job && self.stays();
                let met = finished || self.met_by(*seen);
                let since = met.then(|| before.since.filter(|_| same).unwrap_or(now));
                return Standing { met, uid: Some(uid.clone()), since, message: format!("{called} {seen}") };
            }
            Some(Sight::NotAllowed) => format!("{called} is another namespace's, which does not allow it"),
            None => format!("there is no {called}"),
        };
        if before.met && self.stays() && !planted::bug("gate-forgets-what-is-gone") {
            return Standing { message: format!("met by a {called} that is gone"), ..before.clone() };
        }
        Standing { message: gone, ..Standing::default() }
    }

    fn met_by(&self, seen: Seen) -> bool {
        let state = self.state();
        let enough = |value| self.on.counts().is_some() && seen.number(state).is_some_and(|number| number >= value);
        state.is_none_or(|state| self.on.states().contains(&state) && seen.is(state)) && self.value.is_none_or(enough)
    }
}

impl Seen {
    /// What a Gate sees of a primitive of this kind; `None` of one that does not exist.
    pub fn of(on: GateType, primitive: &Primitive) -> Option<Self> {
        let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
        Some(match &primitive.record {
            Record::Missing => return None,
            Record::Grants if on == GateType::RWMutex => {
                let held = count(primitive.holders.len());
                Self::Grants { held, free: i64::from(held == 0) }
            }
            Record::Grants => {
                let held = primitive.holders.iter().map(|holder| i64::from(holder.permits)).sum();
                Self::Grants { held, free: (i64::from(primitive.capacity) - held).max(0) }
            }
            Record::Barrier(barrier) => Self::Barrier { state: barrier.state, arrived: count(barrier.arrivals.len()) },
            Record::Gate(gate) => Self::Gate { state: gate.state, closed: gate.by_hand.as_ref().is_some_and(|hand| !hand.open) },
            Record::Once(once) => Self::Once { executed: once.executed.is_some(), running: !primitive.holders.is_empty() },
            Record::WaitGroup(group) => {
                Self::WaitGroup { done: group.done_at.is_some(), counter: group.added.saturating_add(count(primitive.holders.len())) }
            }
        })
    }

    /// Whether it is in this state.
    pub fn is(self, state: GateState) -> bool {
        use GateState::{Acquired, Active, Available, Closed, Complete, Done, Failed, Locked, NonZero, Open, Pending, Unlocked, Zero};
        match (self, state) {
            (Self::Job { complete, .. }, Complete) => complete,
            (Self::Job { failed, .. }, Failed) => failed,
            (Self::Job { complete, failed, active, .. }, Active) => active > 0 && !complete && !failed,
            (Self::Grants { held, .. }, Locked | Acquired) => held > 0,
            (Self::Grants { held, .. }, Unlocked) => held == 0,
            (Self::Grants { free, .. }, Available) => free > 0,
            (Self::Barrier { state, .. } | Self::Gate { state, .. }, Open) => state == Latch::Open,
            (Self::Barrier { state, .. } | Self::Gate { state, .. }, Closed) => state != Latch::Open,
            (Self::Barrier { state, .. } | Self::Gate { state, .. }, Failed) => state == Latch::Failed,
            (Self::Barrier { state, .. }, Pending) => state == Latch::Shut,
            (Self::Gate { state, closed }, Pending) => state == Latch::Shut && !closed,
            (Self::Once { executed, .. }, Done) => executed,
            (Self::Once { executed, running }, Pending) => !executed && !running,
            (Self::Once { executed, running }, Active) => running && !executed,
            (Self::WaitGroup { done, .. }, Done) => done,
            (Self::WaitGroup { done, .. }, Pending) => !done,
            (Self::WaitGroup { counter, .. }, Zero) => counter == 0,
            (Self::WaitGroup { counter, .. }, NonZero) => counter > 0,
            _ => false,
        }
    }

    /// What a condition's `value` is compared with, given the state that the condition asks for.
    fn number(self, state: Option<GateState>) -> Option<i64> {
        match self {
            Self::Job { succeeded, .. } => Some(succeeded),
            Self::Grants { held, .. } if state == Some(GateState::Acquired) => Some(held),
            Self::Grants { free, .. } => Some(free),
            Self::Barrier { arrived, .. } => Some(arrived),
            Self::WaitGroup { counter, .. } => Some(counter),
            Self::Gate { .. } | Self::Once { .. } => None,
        }
    }
}

/// Follows the object's name: `is complete`.
impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latch = |state| match state {
            Latch::Shut => "waits",
            Latch::Open => "is open",
            Latch::Failed => "has failed",
        };
        match *self {
            Self::Job { complete: true, .. } => out.write_str("is complete"),
            Self::Job { failed: true, .. } => out.write_str("has failed"),
            Self::Job { active, succeeded, .. } => write!(out, "has {active} active and {succeeded} succeeded Pods"),
            Self::Grants { held: 0, .. } => out.write_str("is free"),
            Self::Grants { held, free: 0 } => write!(out, "is held: {held} permits, none is free"),
            Self::Grants { held, free } => write!(out, "is held: {held} permits, {free} are free"),
            Self::Barrier { state, arrived } => write!(out, "{}, {arrived} arrived", latch(state)),
            Self::Gate { state: Latch::Shut, closed: true } => out.write_str("is closed by hand"),
            Self::Gate { state, .. } => out.write_str(latch(state)),
            Self::Once { executed: true, .. } => out.write_str("is executed"),
            Self::Once { running: true, .. } => out.write_str("is being executed"),
            Self::Once { .. } => out.write_str("is not executed"),
            Self::WaitGroup { done: true, .. } => out.write_str("is done"),
            Self::WaitGroup { counter, .. } => write!(out, "has {counter} members"),
        }
    }
}

/// The shortest circle in which `start` waits for itself, `start` first; empty if there is none. `waits_for` names what one waits for directly.
///
/// ```
/// use konductor::rules::cycle;
///
/// let waits_for = |gate: &&'static str| match *gate {
///     "a" => vec!["b", "c"],
///     "c" => vec!["a"],
///     _ => vec![],
/// };
/// assert_eq!(cycle(&"a", waits_for), ["a", "c"]);
/// assert!(cycle(&"b", waits_for).is_empty());
/// ```
pub fn cycle<T: Clone + Ord>(start: &T, waits_for: impl Fn(&T) -> Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut paths = VecDeque::from([vec![start.clone()]]);
    while let Some(path) = paths.pop_front() {
        for next in path.last().map(&waits_for).unwrap_or_default() {
            if next == *start {
                return path;
            }
            if seen.insert(next.clone()) {
                paths.push_back(path.iter().cloned().chain([next]).collect());
            }
        }
    }
    Vec::new()
}

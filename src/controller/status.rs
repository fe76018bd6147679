//! What each kind of primitive has of its own: what it records for the rules, and the status that people read. Pure.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Resource;

use super::object::{called, summary};
use crate::{
    api::{
        Arrival, Barrier, BarrierPhase, BarrierStatus, CommonStatus, Duration, Executor, Holder, Lease, LeasePhase, LeaseStatus, Mode,
        Mutex, MutexPhase, MutexStatus, Once, OncePhase, OnceStatus, RWMutex, RWMutexPhase, RWMutexStatus, RoundStatus, Semaphore,
        SemaphorePhase, SemaphoreStatus, WaitGroup, WaitGroupPhase, WaitGroupStatus,
    },
    plan::Kind,
    rules::{self, Executed, Latch, Participant, Record, WHOLE, Who},
};

/// Readers that an RWMutex names one by one.
const READERS_SHOWN: usize = 32;

/// A kind of primitive.
pub trait Served: Resource<DynamicType = ()> + Clone + Debug {
    /// Which one.
    const KIND: Kind;

    /// Which one.
    fn kind_of(&self) -> Kind {
        Self::KIND
    }

    /// Its name in the API.
    fn word(&self) -> String {
        Self::kind(&()).into_owned()
    }

    /// Other namespaces that may use it.
    fn allowed_namespaces(&self) -> &[String];

    /// The part of its status that all kinds share.
    fn common(&self) -> Option<&CommonStatus>;

    /// The part of its status that has to do with rounds, if it has rounds.
    fn rounds(&self) -> Option<&RoundStatus> {
        None
    }

    /// How long a holder's node may be unreachable, if it says so.
    fn ttl(&self) -> Option<Duration> {
        None
    }

    /// Permits in all.
    fn capacity(&self) -> i32 {
        1
    }

    /// What it records beside its holders.
    fn record(&self) -> Record {
        Record::Grants
    }

    /// Whether those who wait for it may go on.
    fn latch(&self) -> Latch {
        Latch::Shut
    }

    /// The same object with this status.
    fn with(&self, draft: Draft) -> Self;
}

/// A status in the making: the parts that the kinds have in common.
#[derive(Debug)]
pub struct Draft {
    /// The part that all share.
    pub common: CommonStatus,
    /// The part of those that have rounds.
    pub rounds: RoundStatus,
    /// What was decided beside the holders.
    pub record: Record,
    /// The first holders by name.
    pub summary: Option<String>,
    /// Since when it is held.
    pub since: Option<Time>,
    /// Whether the last hold that ended was taken from its holder; `None` if none ended.
    pub taken: Option<bool>,
    /// Now.
    pub now: Timestamp,
}

impl Draft {
    /// Sets a condition; its time changes only with its truth.
    pub fn set(&mut self, kind: &str, truth: bool, reason: &str, message: impl Into<String>) {
        let generation = self.common.observed_generation;
        set_condition(&mut self.common.conditions, self.now, generation, kind, (truth, reason), message.into());
    }

    /// The condition of what is held.
    fn held(&mut self, reason: &str, otherwise: &str) {
        let message = self.summary.clone().unwrap_or_else(|| "nobody holds it".to_owned());
        let held = self.summary.is_some();
        self.set("Held", held, if held { reason } else { otherwise }, message);
    }

    /// When the first hold ends unless it is renewed.
    fn expires_at(&self) -> Option<Time> {
        self.common.holders.iter().filter_map(|holder| holder.expires_at.as_ref()).min_by_key(|time| time.0).cloned()
    }
}

/// Sets a condition among others; its time changes only with its truth.
pub(super) fn set_condition(
    all: &mut Vec<Condition>,
    now: Timestamp,
    generation: Option<i64>,
    kind: &str,
    (truth, reason): (bool, &str),
    message: String,
) {
    let status = if truth { "True" } else { "False" };
    let before = all.iter().position(|condition| condition.type_ == kind).map(|index| all.remove(index));
    let last_transition_time = match before {
        Some(before) if before.status == status => before.last_transition_time,
        _ => Time(now),
    };
    all.push(Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time,
    });
}

/// The number, as wide as a status shows it.
pub(super) fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// What is the same for all kinds but for the types.
macro_rules! alike {
    () => {
        fn allowed_namespaces(&self) -> &[String] {
            &self.spec.allowed_namespaces
        }

        fn common(&self) -> Option<&CommonStatus> {
            self.status.as_ref().map(|status| &status.common)
        }
    };
    (held) => {
        alike!();

        fn ttl(&self) -> Option<Duration> {
            self.spec.ttl
        }
    };
    (rounds) => {
        alike!();

        fn rounds(&self) -> Option<&RoundStatus> {
            self.status.as_ref().map(|status| &status.rounds)
        }
    };
}
pub(super) use alike;

/// Since when something has been open, or has failed.
pub(super) fn since(latch: Latch, opened_at: &Option<Time>, failed_at: &Option<Time>) -> Option<Timestamp> {
    let since = match latch {
        Latch::Shut => return None,
        Latch::Open => opened_at,
        Latch::Failed => failed_at,
    };
    since.as_ref().map(|time| time.0)
}

impl Served for Mutex {
    const KIND: Kind = Kind::Mutex;
    alike!(held);

    fn with(&self, mut draft: Draft) -> Self {
        draft.held("Locked", "Unlocked");
        let phase = if draft.summary.is_some() { MutexPhase::Locked } else { MutexPhase::Unlocked };
        let expires_at = draft.expires_at();
        let status = MutexStatus { common: draft.common, phase, holder: draft.summary, locked_at: draft.since, expires_at };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Served for RWMutex {
    const KIND: Kind = Kind::RwMutex;
    alike!(held);

    fn capacity(&self) -> i32 {
        WHOLE
    }

    fn with(&self, mut draft: Draft) -> Self {
        let namespace = self.metadata.namespace.clone().unwrap_or_default();
        let (readers, writers): (Vec<&Holder>, Vec<&Holder>) =
            draft.common.holders.iter().partition(|holder| holder.mode == Some(Mode::Read));
        let write_holder = summary(writers, &namespace);
        let shown = readers.iter().take(READERS_SHOWN);
        let read_holders = shown.map(|holder| called(holder.kind, &holder.namespace, &holder.name, &namespace)).collect();
        let (count, read_by) = (count(readers.len()), summary(readers, &namespace));
        let phase = match (&write_holder, count) {
            (Some(_), _) => RWMutexPhase::WriteLocked,
            (None, 0) => RWMutexPhase::Unlocked,
            (None, _) => RWMutexPhase::ReadLocked,
        };
        draft.held(&format!("{phase:?}"), "Unlocked");
        let (expires_at, locked_at) = (draft.expires_at(), draft.since);
        let status =
            RWMutexStatus { common: draft.common, phase, write_holder, read_holders, readers: count, read_by, locked_at, expires_at };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Served for Lease {
    const KIND: Kind = Kind::Lease;
    alike!(held);

    fn with(&self, mut draft: Draft) -> Self {
        let was_expired = self.status.as_ref().is_some_and(|status| status.phase == LeasePhase::Expired);
        let phase = match (&draft.summary, draft.taken) {
            (Some(_), _) => LeasePhase::Held,
            (None, Some(true)) => LeasePhase::Expired,
            (None, None) if was_expired => LeasePhase::Expired,
            (None, _) => LeasePhase::Available,
        };
        draft.held("Held", &format!("{phase:?}"));
        let renew_count = draft.common.holders.first().map_or(0, |holder| holder.renewals);
        let expires_at = draft.expires_at();
        let status = LeaseStatus { common: draft.common, phase, holder: draft.summary, acquired_at: draft.since, expires_at, renew_count };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Served for Semaphore {
    const KIND: Kind = Kind::Semaphore;
    alike!(held);

    fn capacity(&self) -> i32 {
        self.spec.permits
    }

    fn with(&self, mut draft: Draft) -> Self {
        let permits = self.spec.permits;
        let held: i64 = draft.common.holders.iter().map(|holder| i64::from(holder.permits)).sum();
        let available = i64::from(permits) - held;
        let full = available <= 0;
        draft.set("Full", full, if full { "NoPermitFree" } else { "PermitsFree" }, format!("{held} of {permits} permits are held"));
        let status = SemaphoreStatus {
            common: draft.common,
            phase: if full { SemaphorePhase::Full } else { SemaphorePhase::Ready },
            in_use: i32::try_from(held).unwrap_or(i32::MAX),
            available: i32::try_from(available.max(0)).unwrap_or(i32::MAX),
            held_by: draft.summary,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Served for Once {
    const KIND: Kind = Kind::Once;
    alike!(rounds);

    fn record(&self) -> Record {
        let executed = self.status.as_ref().and_then(|status| {
            let Executor { uid, kind, namespace, name } = status.executed_by.clone().filter(|_| status.executed)?;
            Some(Executed {
                by: Who { kind, namespace, name, uid },
                at: status.executed_at.as_ref().map(|time| time.0).unwrap_or_default(),
            })
        });
        Record::Once(rules::Once { executed })
    }

    fn latch(&self) -> Latch {
        let executed = self.status.as_ref().is_some_and(|status| status.executed && status.executed_by.is_some());
        if executed { Latch::Open } else { Latch::Shut }
    }

    fn with(&self, mut draft: Draft) -> Self {
        let executed = if let Record::Once(once) = &draft.record { once.executed.clone() } else { None };
        let namespace = self.metadata.namespace.clone().unwrap_or_default();
        let (phase, executor) = match &executed {
            Some(Executed { by, .. }) => (OncePhase::Executed, Some(called(by.kind, &by.namespace, &by.name, &namespace))),
            None if draft.summary.is_some() => (OncePhase::Running, draft.summary.clone()),
            None => (OncePhase::Pending, None),
        };
        let message = match (phase, &executor) {
            (OncePhase::Executed, Some(executor)) => format!("{executor} has executed it"),
            (OncePhase::Running, Some(executor)) => format!("{executor} executes it"),
            _ => "nobody has executed it".to_owned(),
        };
        draft.set("Executed", executed.is_some(), &format!("{phase:?}"), message);
        let executed_at = executed.as_ref().map(|executed| Time(executed.at));
        let executed_by = executed.map(|Executed { by: Who { kind, namespace, name, uid }, .. }| Executor { uid, kind, namespace, name });
        let Draft { common, rounds, .. } = draft;
        let status = OnceStatus { common, rounds, phase, executed: executed_by.is_some(), executor, executed_by, executed_at };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Served for WaitGroup {
    const KIND: Kind = Kind::WaitGroup;
    alike!(rounds);

    fn record(&self) -> Record {
        let done_at = |status: &WaitGroupStatus| status.done_at.as_ref().map(|time| time.0);
        let read = |status: &WaitGroupStatus| rules::WaitGroup { added: status.added, done_at: done_at(status) };
        Record::WaitGroup(self.status.as_ref().map(read).unwrap_or_default())
    }

    fn latch(&self) -> Latch {
        let done = self.status.as_ref().is_some_and(|status| status.done_at.is_some());
        if done { Latch::Open } else { Latch::Shut }
    }

    fn with(&self, mut draft: Draft) -> Self {
        let group = if let Record::WaitGroup(group) = &draft.record { group.clone() } else { rules::WaitGroup::default() };
        let counter = group.added.saturating_add(count(draft.common.holders.len()).into());
        let done = group.done_at.is_some();
        let message = match (done, counter) {
            (true, _) => "all members were done".to_owned(),
            (false, 0) => "there has been no member yet".to_owned(),
            (false, _) => {
                let by_hand = (group.added > 0).then(|| format!("{} added by hand", group.added));
                draft.summary.iter().cloned().chain(by_hand).collect::<Vec<_>>().join(", ")
            }
        };
        draft.set("Done", done, if done { "CounterZero" } else { "Waiting" }, message);
        let Draft { common, rounds, summary: members, .. } = draft;
        let phase = if done { WaitGroupPhase::Done } else { WaitGroupPhase::Waiting };
        let status = WaitGroupStatus { common, rounds, phase, counter, added: group.added, members, done_at: group.done_at.map(Time) };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Served for Barrier {
    const KIND: Kind = Kind::Barrier;
    alike!(rounds);

    fn record(&self) -> Record {
        let mut barrier = rules::Barrier {
            quorum: self.spec.quorum.unwrap_or(self.spec.expected),
            timeout: self.spec.timeout.map(Duration::as_std),
            ..rules::Barrier::default()
        };
        if let Some(status) = &self.status {
            let arrival =
                |Arrival { uid, kind, namespace, name, at }: Arrival| Participant { who: Who { kind, namespace, name, uid }, at: at.0 };
            barrier.arrivals = status.arrivals.iter().cloned().map(arrival).collect();
            barrier.state = self.latch();
            barrier.since = since(barrier.state, &status.opened_at, &status.failed_at);
        }
        Record::Barrier(barrier)
    }

    fn latch(&self) -> Latch {
        match self.status.as_ref().map(|status| status.phase) {
            None | Some(BarrierPhase::Waiting) => Latch::Shut,
            Some(BarrierPhase::Open) => Latch::Open,
            Some(BarrierPhase::Failed) => Latch::Failed,
        }
    }

    fn with(&self, mut draft: Draft) -> Self {
        let rules::Barrier { quorum, arrivals, state, since, .. } =
            if let Record::Barrier(barrier) = &draft.record { barrier.clone() } else { rules::Barrier::default() };
        let arrived = count(arrivals.len());
        let phase = match state {
            Latch::Shut => BarrierPhase::Waiting,
            Latch::Open => BarrierPhase::Open,
            Latch::Failed => BarrierPhase::Failed,
        };
        let reason = if state == Latch::Failed { "TimedOut".to_owned() } else { format!("{phase:?}") };
        draft.set("Open", state == Latch::Open, &reason, format!("{arrived} of {quorum} have arrived"));
        let when = |latch: Latch| since.filter(|_| state == latch).map(Time);
        let arrival =
            |Participant { who: Who { kind, namespace, name, uid }, at }: Participant| Arrival { uid, kind, namespace, name, at: Time(at) };
        let Draft { common, rounds, .. } = draft;
        let (opened_at, failed_at) = (when(Latch::Open), when(Latch::Failed));
        let arrivals = arrivals.into_iter().map(arrival).collect();
        let status = BarrierStatus { common, rounds, phase, arrived, arrivals, opened_at, failed_at };
        Self { status: Some(status), ..self.clone() }
    }
}

#[cfg(test)]
mod tests;

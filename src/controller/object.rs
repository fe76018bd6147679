//! One type for all kinds of primitives: what the rules need of it, and what it looks like after a decision. Pure; no client.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::Resource;
use std::fmt;

use crate::{
    api::{CommonStatus, Duration, Holder, Mutex, MutexPhase, MutexStatus, Semaphore, SemaphorePhase, SemaphoreStatus, names},
    plan::Kind,
    rules::{Primitive, Record, Round},
};

/// How long a holder's node may be unreachable where the primitive does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

/// Which primitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// What people of this namespace call it: `mutex/db`, or `mutex/shop/db` where it is another one's.
    pub fn seen_from(&self, namespace: &str) -> String {
        let Self { kind, namespace: own, name } = self;
        if own == namespace { format!("{kind}/{name}") } else { format!("{kind}/{own}/{name}") }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// A primitive of any kind, as the API server has it.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Mutex.
    Mutex(Box<Mutex>),
    /// A Semaphore.
    Semaphore(Box<Semaphore>),
}

/// What a decision wants written.
#[derive(Clone, Debug)]
pub struct NextStatus {
    /// Who holds.
    pub holders: Vec<Holder>,
    /// The token counter.
    pub last_token: i64,
    /// How many wait.
    pub waiting: i32,
}

impl Object {
    /// Which primitive it is.
    pub fn key(&self) -> Key {
        let kind = match self {
            Self::Mutex(_) => Kind::Mutex,
            Self::Semaphore(_) => Kind::Semaphore,
        };
        Key { kind, namespace: self.meta().namespace.clone().unwrap_or_default(), name: self.meta().name.clone().unwrap_or_default() }
    }

    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Mutex(mutex) => mutex.meta(),
            Self::Semaphore(semaphore) => semaphore.meta(),
        }
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    /// The revision that it was read at. Larger is later for one object, which Kubernetes guarantees since 1.35 and etcd always did.
    pub fn revision(&self) -> u64 {
        self.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
    }

    /// Whether it carries the finalizer that keeps it from vanishing while it is held.
    pub fn has_finalizer(&self) -> bool {
        self.meta().finalizers.iter().flatten().any(|finalizer| finalizer == names::HELD_FINALIZER)
    }

    /// Whether it is being deleted.
    pub fn deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }

    /// The part of its status that all kinds share, if it has a status yet.
    pub fn common(&self) -> Option<&CommonStatus> {
        match self {
            Self::Mutex(mutex) => mutex.status.as_ref().map(|status| &status.common),
            Self::Semaphore(semaphore) => semaphore.status.as_ref().map(|status| &status.common),
        }
    }

    /// Who holds it.
    pub fn holders(&self) -> &[Holder] {
        self.common().map(|common| common.holders.as_slice()).unwrap_or_default()
    }

    /// How long a holder's node may be unreachable before the hold is taken from it.
    pub fn ttl(&self) -> std::time::Duration {
        let ttl = match self {
            Self::Mutex(mutex) => mutex.spec.ttl,
            Self::Semaphore(semaphore) => semaphore.spec.ttl,
        };
        ttl.unwrap_or(DEFAULT_TTL).as_std()
    }

    /// Permits in all.
    pub fn capacity(&self) -> i32 {
        match self {
            Self::Mutex(_) => 1,
            Self::Semaphore(semaphore) => semaphore.spec.permits,
        }
    }

    /// Whether Pods and Jobs of this namespace may use it.
    pub fn allows(&self, namespace: &str) -> bool {
        self.meta().namespace.as_deref() == Some(namespace)
            || self.allowed_namespaces().iter().any(|allowed| allowed == "*" || allowed == namespace)
    }

    fn allowed_namespaces(&self) -> &[String] {
        match self {
            Self::Mutex(mutex) => &mutex.spec.allowed_namespaces,
            Self::Semaphore(semaphore) => &semaphore.spec.allowed_namespaces,
        }
    }

    /// What the rules see of it.
    pub fn primitive(&self) -> Primitive {
        Primitive {
            namespace: self.meta().namespace.clone().unwrap_or_default(),
            allowed_namespaces: self.allowed_namespaces().to_vec(),
            capacity: self.capacity(),
            created: self.created(),
            deleting: self.deleting(),
            holders: self.holders().to_vec(),
            last_token: self.common().map_or(0, |common| common.last_token),
            round: Round { began: self.created(), ..Round::default() },
            record: Record::Grants,
        }
    }

    fn created(&self) -> Timestamp {
        self.meta().creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default()
    }

    /// Whether the status says anything about the present spec.
    pub fn observed(&self) -> bool {
        self.common().is_some_and(|common| common.observed_generation == self.meta().generation)
    }

    /// The same object with the status that follows from a decision.
    #[must_use]
    pub fn with(&self, next: NextStatus, now: Timestamp) -> Self {
        let NextStatus { holders, last_token, waiting } = next;
        let since = holders.iter().map(|holder| holder.since.0).min().map(Time);
        let held: i64 = holders.iter().map(|holder| i64::from(holder.permits)).sum();
        let summary = summary(&holders, &self.meta().namespace.clone().unwrap_or_default());
        let mut common = CommonStatus {
            observed_generation: self.meta().generation,
            conditions: self.common().map(|common| common.conditions.clone()).unwrap_or_default(),
            holders,
            last_token,
            waiting,
        };
        let mut set = |kind: &str, truth: bool, reason: &str, message: String| {
            set_condition(&mut common.conditions, kind, truth, reason, message, self.meta().generation, now);
        };
        match self {
            Self::Mutex(mutex) => {
                set("Ready", true, "Served", "konductor serves this Mutex".into());
                let locked = summary.is_some();
                set(
                    "Held",
                    locked,
                    if locked { "Locked" } else { "Unlocked" },
                    summary.clone().unwrap_or_else(|| "nobody holds it".into()),
                );
                let phase = if locked { MutexPhase::Locked } else { MutexPhase::Unlocked };
                let status = MutexStatus { common, phase, holder: summary, locked_at: since, expires_at: None };
                Self::Mutex(Box::new(Mutex { status: Some(status), ..(**mutex).clone() }))
            }
            Self::Semaphore(semaphore) => {
                let permits = semaphore.spec.permits;
                let available = i64::from(permits) - held;
                set("Ready", true, "Served", "konductor serves this Semaphore".into());
                let full = available <= 0;
                set("Full", full, if full { "NoPermitFree" } else { "PermitsFree" }, format!("{held} of {permits} permits are held"));
                let status = SemaphoreStatus {
                    common,
                    phase: if full { SemaphorePhase::Full } else { SemaphorePhase::Ready },
                    in_use: i32::try_from(held).unwrap_or(i32::MAX),
                    available: i32::try_from(available.max(0)).unwrap_or(i32::MAX),
                    held_by: summary,
                };
                Self::Semaphore(Box::new(Semaphore { status: Some(status), ..(**semaphore).clone() }))
            }
        }
    }
}

/// The first holders by name, for people: `job/a, pod/b and 3 more`; `None` if there are none.
pub fn summary(holders: &[Holder], namespace: &str) -> Option<String> {
    const SHOWN: usize = 3;
    let names: Vec<String> = holders.iter().take(SHOWN).map(|holder| holder_name(holder, namespace)).collect();
    match holders.len() {
        0 => None,
        all if all > SHOWN => Some(format!("{} and {} more", names.join(", "), all - SHOWN)),
        _ => Some(names.join(", ")),
    }
}

/// A holder's name as people write it: `job/NAME`, or `job/NAMESPACE/NAME` from another namespace.
fn holder_name(holder: &Holder, namespace: &str) -> String {
    let kind = holder.kind.word();
    if holder.namespace == namespace { format!("{kind}/{}", holder.name) } else { format!("{kind}/{}/{}", holder.namespace, holder.name) }
}

fn set_condition(
    all: &mut Vec<Condition>,
    kind: &str,
    truth: bool,
    reason: &str,
    message: String,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = if truth { "True" } else { "False" };
    let before = all.iter().position(|condition| condition.type_ == kind).map(|index| all.remove(index));
    let last_transition_time = match before {
        Some(before) if before.status == status => before.last_transition_time,
        _ => Time(now),
    };
    let condition = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time,
    };
    all.push(condition);
}

impl From<Mutex> for Object {
    fn from(mutex: Mutex) -> Self {
        Self::Mutex(Box::new(mutex))
    }
}

impl From<Semaphore> for Object {
    fn from(semaphore: Semaphore) -> Self {
        Self::Semaphore(Box::new(semaphore))
    }
}

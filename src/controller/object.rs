//! One type for all kinds of primitives: what the rules need of it, and what it looks like after a decision. Pure; no client.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;

use super::{
    gate,
    status::{Draft, Served},
};
use crate::{
    api::{
        Arrival, Barrier, CommonStatus, Duration, Gate, Holder, HolderKind, Lease, Mutex, Once, RWMutex, RoundStatus, Semaphore, WaitGroup,
        names,
    },
    plan::Kind,
    rules::{Decision, Latch, Primitive, Record, Round},
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
#[allow(missing_docs, reason = "each is the kind of that name")]
pub enum Object {
    Mutex(Box<Mutex>),
    RwMutex(Box<RWMutex>),
    Lease(Box<Lease>),
    Semaphore(Box<Semaphore>),
    Once(Box<Once>),
    WaitGroup(Box<WaitGroup>),
    Barrier(Box<Barrier>),
    Gate(Box<Gate>),
}

/// The same expression for the object of whatever kind.
macro_rules! each {
    ($self:expr, $object:ident => $body:expr) => {
        match $self {
            $crate::controller::object::Object::Mutex($object) => $body,
            $crate::controller::object::Object::RwMutex($object) => $body,
            $crate::controller::object::Object::Lease($object) => $body,
            $crate::controller::object::Object::Semaphore($object) => $body,
            $crate::controller::object::Object::Once($object) => $body,
            $crate::controller::object::Object::WaitGroup($object) => $body,
            $crate::controller::object::Object::Barrier($object) => $body,
            $crate::controller::object::Object::Gate($object) => $body,
        }
    };
}

/// The same expression for the type of whatever [`Kind`].
macro_rules! of_kind {
    ($kind:expr, $type:ident => $body:expr) => {
        match $kind {
            $crate::plan::Kind::Mutex => of_kind!(@ $crate::api::Mutex, $type => $body),
            $crate::plan::Kind::RwMutex => of_kind!(@ $crate::api::RWMutex, $type => $body),
            $crate::plan::Kind::Lease => of_kind!(@ $crate::api::Lease, $type => $body),
            $crate::plan::Kind::Semaphore => of_kind!(@ $crate::api::Semaphore, $type => $body),
            $crate::plan::Kind::Once => of_kind!(@ $crate::api::Once, $type => $body),
            $crate::plan::Kind::WaitGroup => of_kind!(@ $crate::api::WaitGroup, $type => $body),
            $crate::plan::Kind::Barrier => of_kind!(@ $crate::api::Barrier, $type => $body),
            $crate::plan::Kind::Gate => of_kind!(@ $crate::api::Gate, $type => $body),
        }
    };
    (@ $real:ty, $type:ident => $body:expr) => {{
        type $type = $real;
        $body
    }};
}
pub(crate) use {each, of_kind};

/// What a decision wants written.
#[derive(Clone, Debug)]
pub struct NextStatus {
    /// Who holds.
    pub holders: Vec<Holder>,
    /// The token counter.
    pub last_token: i64,
    /// The round.
    pub round: Round,
    /// What the kind records beside that.
    pub record: Record,
    /// How many wait.
    pub waiting: i32,
    /// Whether the last hold that ended was taken from its holder; `None` if none ended.
    pub taken: Option<bool>,
}

impl From<&Decision> for NextStatus {
    fn from(decision: &Decision) -> Self {
        Self {
            holders: decision.holders.clone(),
            last_token: decision.last_token,
            round: decision.round.clone(),
            record: decision.record.clone(),
            waiting: i32::try_from(decision.queue.len()).unwrap_or(i32::MAX),
            taken: decision.released.last().map(|release| release.lost),
        }
    }
}

impl Object {
    /// Which primitive it is.
    pub fn key(&self) -> Key {
        Key {
            kind: each!(self, object => object.kind_of()),
            namespace: self.namespace().to_owned(),
            name: self.meta().name.clone().unwrap_or_default(),
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        each!(self, object => object.meta())
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
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

    /// Whether the write of which this came back was its last one: nothing keeps it any more.
    pub fn is_gone(&self) -> bool {
        self.deleting() && self.meta().finalizers.iter().flatten().next().is_none()
    }

    /// Whether it is being deleted.
    pub fn deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }

    /// The part of its status that all kinds share, if it has a status yet.
    pub fn common(&self) -> Option<&CommonStatus> {
        each!(self, object => object.common())
    }

    /// Who holds it.
    pub fn holders(&self) -> &[Holder] {
        self.common().map(|common| common.holders.as_slice()).unwrap_or_default()
    }

    /// How long a holder's node may be unreachable before the hold is taken from it.
    pub fn ttl(&self) -> std::time::Duration {
        each!(self, object => object.ttl()).unwrap_or(DEFAULT_TTL).as_std()
    }

    /// The priority of those that ask without stating one.
    pub fn default_priority(&self) -> i32 {
        if let Self::Lease(lease) = self { lease.spec.priority.unwrap_or_default() } else { 0 }
    }

    /// When it has served its purpose and is to be deleted, by the API server's clock: `ttl` after a Once was executed or a WaitGroup was done.
    pub fn spent_at(&self) -> Option<Timestamp> {
        let (finished, ttl) = match self {
            Self::Once(once) => (once.status.as_ref()?.executed_at.as_ref()?, once.spec.ttl?),
            Self::WaitGroup(group) => (group.status.as_ref()?.done_at.as_ref()?, group.spec.ttl?),
            _ => return None,
        };
        finished.0.checked_add(ttl.as_std()).ok()
    }

    /// Permits in all, where there are permits.
    pub fn capacity(&self) -> i32 {
        each!(self, object => object.capacity())
    }

    /// Whether Pods and Jobs of this namespace may use it.
    pub fn allows(&self, namespace: &str) -> bool {
        self.namespace() == namespace || self.allowed_namespaces().iter().any(|allowed| allowed == "*" || allowed == namespace)
    }

    fn allowed_namespaces(&self) -> &[String] {
        each!(self, object => object.allowed_namespaces())
    }

    /// What its kind records beside its holders.
    pub fn record(&self) -> Record {
        each!(self, object => object.record())
    }

    /// Whether those who wait for it may go on.
    pub fn latch(&self) -> Latch {
        each!(self, object => object.latch())
    }

    /// Who has arrived, at a Barrier.
    pub fn arrivals(&self) -> &[Arrival] {
        if let Self::Barrier(barrier) = self { barrier.status.as_ref().map_or(&[], |status| &status.arrivals) } else { &[] }
    }

    /// UIDs of the Claims whose steps were applied, as far as it remembers them.
    pub fn applied(&self) -> &[String] {
        each!(self, object => object.rounds()).map(|rounds| rounds.applied.as_slice()).unwrap_or_default()
    }

    /// What the rules see of it.
    pub fn primitive(&self) -> Primitive {
        Primitive {
            namespace: self.namespace().to_owned(),
            allowed_namespaces: self.allowed_namespaces().to_vec(),
            capacity: self.capacity(),
            created: self.created(),
            deleting: self.deleting(),
            holders: self.holders().to_vec(),
            last_token: self.common().map_or(0, |common| common.last_token),
            round: self.round(),
            record: self.record(),
        }
    }

    fn round(&self) -> Round {
        let RoundStatus { round, round_began, applied } = each!(self, object => object.rounds()).cloned().unwrap_or_default();
        Round { number: round, began: round_began.map_or_else(|| self.created(), |began| began.0), applied }
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
        let NextStatus { holders, last_token, round, record, waiting, taken } = next;
        let since = holders.iter().map(|holder| holder.since.0).min().map(Time);
        let summary = summary(&holders, self.namespace());
        let common = CommonStatus {
            observed_generation: self.meta().generation,
            conditions: self.common().map(|common| common.conditions.clone()).unwrap_or_default(),
            holders,
            last_token,
            waiting,
        };
        let began = (round.number > 0).then_some(Time(round.began));
        let rounds = RoundStatus { round: round.number, round_began: began, applied: round.applied };
        let mut draft = Draft { common, rounds, record, summary, since, taken, now };
        match gate::circle(&draft.record) {
            None => draft.set("Ready", true, "Served", format!("konductor serves this {}", each!(self, object => object.word()))),
            Some(circle) => draft.set("Ready", false, "WaitsForItself", circle),
        }
        each!(self, object => object.with(draft).into())
    }
}

/// The first holders by name, for people: `job/a, pod/b and 3 more`; `None` if there are none.
pub fn summary<'a>(holders: impl IntoIterator<Item = &'a Holder>, namespace: &str) -> Option<String> {
    first(holders.into_iter().map(|holder| called(holder.kind, &holder.namespace, &holder.name, namespace)))
}

/// The first of these names, and how many more there are; `None` if there are none.
pub fn first(names: impl Iterator<Item = String>) -> Option<String> {
    const SHOWN: usize = 3;
    let mut names = names.peekable();
    names.peek()?;
    let shown = names.by_ref().take(SHOWN).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => Some(shown),
        more => Some(format!("{shown} and {more} more")),
    }
}

/// A name as people write it: `job/NAME`, or `job/NAMESPACE/NAME` from another namespace.
pub fn called(kind: HolderKind, own: &str, name: &str, namespace: &str) -> String {
    let kind = kind.word();
    if own == namespace { format!("{kind}/{name}") } else { format!("{kind}/{own}/{name}") }
}

macro_rules! from {
    ($($kind:ident($type:ty)),+) => {$(
        impl From<$type> for Object {
            fn from(mut object: $type) -> Self {
                // People may write 256 KiB of them, and all primitives are kept. A write of the status changes nothing there.
                (object.metadata.annotations, object.metadata.managed_fields) = (None, None);
                Self::$kind(Box::new(object))
            }
        }
    )+};
}
from!(Mutex(Mutex), RwMutex(RWMutex), Lease(Lease), Semaphore(Semaphore), Once(Once), WaitGroup(WaitGroup), Barrier(Barrier), Gate(Gate));

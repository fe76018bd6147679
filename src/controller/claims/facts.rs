//! What konductor keeps of a Claim, and what follows from it alone. Pure.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Resource;

use crate::{
    api::{Claim, ClaimKind, ClaimPhase, HolderKind, Operation, names},
    controller::object::Key,
    plan::Kind,
    rules::{Adjustment, ClaimEnd, Participant, Patience, Presence, Request, Step, Waiter, Who},
};

/// A Claim at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimFacts {
    /// The Claim itself, by its own name: holders are looked for by the name under which they are recorded, and a name that people chose would find
    /// nobody, which would look like the end of the hold.
    pub who: Arc<Who>,
    /// The primitive that it names, in its own namespace.
    pub key: Key,
    /// All of it: its status is written back as a whole.
    pub claim: Claim,
}

impl ClaimFacts {
    /// Reads a Claim.
    pub fn of(mut claim: Claim) -> Self {
        // People may write 256 KiB of annotations. A write of the status changes nothing there.
        (claim.metadata.annotations, claim.metadata.managed_fields) = (None, None);
        let meta = claim.meta();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let (name, uid) = (meta.name.clone().unwrap_or_default(), meta.uid.clone().unwrap_or_default());
        let key = Key { kind: kind_of(claim.spec.kind), namespace: namespace.clone(), name: claim.spec.name.clone() };
        Self { who: Arc::new(Who { kind: HolderKind::Claim, namespace, name, uid }), key, claim }
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.who.uid
    }

    /// Its revision; larger is later.
    pub fn revision(&self) -> u64 {
        self.claim.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
    }

    /// Its age.
    pub fn created(&self) -> Timestamp {
        self.claim.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default()
    }

    /// Whether it is being deleted: that is how it gives back what it holds.
    pub fn deleting(&self) -> bool {
        self.claim.metadata.deletion_timestamp.is_some()
    }

    /// How far it is.
    pub fn phase(&self) -> ClaimPhase {
        self.claim.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }

    /// The token that it was told.
    pub fn token(&self) -> Option<i64> {
        self.claim.status.as_ref().and_then(|status| status.token)
    }

    /// How long it holds after its last renewal, if it says so.
    pub fn ttl(&self) -> Option<Duration> {
        self.claim.spec.ttl.map(crate::api::Duration::as_std)
    }

    /// Whether it still waits for its answer.
    pub fn pending(&self) -> bool {
        self.phase() == ClaimPhase::Pending && !self.deleting()
    }

    /// Whether it was told that it holds.
    pub fn holds(&self) -> bool {
        self.claim.spec.operation == Operation::Acquire && self.phase() == ClaimPhase::Granted
    }

    /// Whether nothing more will come of it.
    pub fn settled(&self) -> bool {
        match self.phase() {
            ClaimPhase::Pending => false,
            ClaimPhase::Granted => self.claim.spec.operation != Operation::Acquire,
            ClaimPhase::Denied | ClaimPhase::Expired | ClaimPhase::Released => true,
        }
    }

    /// Whether it is done once, and must not be done again: it is looked at live before.
    pub fn is_step(&self) -> bool {
        !matches!(self.claim.spec.operation, Operation::Acquire | Operation::Wait)
    }

    /// Whether it stays until the outcome of its execution is on record.
    pub fn owes(&self) -> bool {
        self.claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == names::OUTCOME_FINALIZER)
    }

    /// How its hold with this token has ended, as far as the Claim itself says. What it says is never unsaid.
    pub fn end_of(&self, token: i64) -> Option<ClaimEnd> {
        let other = self.phase() == ClaimPhase::Granted && self.token() != Some(token);
        match self.phase() {
            ClaimPhase::Expired => Some(ClaimEnd::Expired),
            ClaimPhase::Denied | ClaimPhase::Released => Some(ClaimEnd::Released),
            // It was told another token, whose hold is over: this one came of an old picture of it.
            _ if other || self.deleting() || self.claim.spec.succeeded.is_some() => Some(ClaimEnd::Released),
            ClaimPhase::Pending | ClaimPhase::Granted => None,
        }
    }

    /// How long it waits.
    pub fn patience(&self) -> Patience {
        match self.claim.spec.timeout {
            None => Patience::Forever,
            Some(timeout) if timeout.is_zero() => Patience::Now,
            Some(timeout) => self.created().checked_add(timeout.as_std()).map_or(Patience::Forever, Patience::Until),
        }
    }

    /// Its wish to hold. `priority` is that of those who state none.
    pub fn request(&self, priority: i32) -> Request {
        let spec = &self.claim.spec;
        Request {
            who: self.who.clone(),
            pod: None,
            permits: spec.permits.unwrap_or(1),
            mode: (spec.kind == ClaimKind::RWMutex).then(|| spec.mode.unwrap_or_default()),
            priority: spec.priority.unwrap_or(priority),
            created: self.created(),
            presence: Presence::Here,
            patience: self.patience(),
            shared: false,
        }
    }

    /// Its wish to pass.
    pub fn waiter(&self) -> Waiter {
        let (asker, namespace) = (self.who.uid.clone(), self.who.namespace.clone());
        Waiter { asker, namespace, patience: self.patience(), proceeds: false }
    }

    /// Its arrival at a Barrier, under the name of its holder: the same one may arrive again through another Claim.
    pub fn participant(&self) -> Participant {
        let name = self.claim.spec.holder.clone().unwrap_or_else(|| self.who.name.clone());
        Participant { who: Who { name, ..(*self.who).clone() }, at: self.created() }
    }

    /// What it does by hand, if that is its operation.
    pub fn adjustment(&self) -> Option<Adjustment> {
        let spec = &self.claim.spec;
        let step = match spec.operation {
            Operation::Acquire | Operation::Wait | Operation::Arrive => return None,
            Operation::Add => Step::Add(spec.delta.unwrap_or(1)),
            Operation::Done => Step::Add(-1),
            Operation::Open => Step::Open,
            Operation::Close => Step::Close,
            Operation::Reset => Step::Reset,
        };
        let Who { uid, namespace, .. } = (*self.who).clone();
        let by = spec.holder.clone().unwrap_or_else(|| self.who.to_string());
        Some(Adjustment { uid, namespace, by, at: self.created(), step })
    }
}

const fn kind_of(kind: ClaimKind) -> Kind {
    match kind {
        ClaimKind::Mutex => Kind::Mutex,
        ClaimKind::RWMutex => Kind::RwMutex,
        ClaimKind::Lease => Kind::Lease,
        ClaimKind::Semaphore => Kind::Semaphore,
        ClaimKind::Once => Kind::Once,
        ClaimKind::WaitGroup => Kind::WaitGroup,
        ClaimKind::Barrier => Kind::Barrier,
        ClaimKind::Gate => Kind::Gate,
    }
}

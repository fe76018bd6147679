//! What goes into a decision: who asks for how much, how patiently, and what is known about those that hold.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use super::Observed;
use crate::api::{HolderKind, Mode};

/// The object that asks and then holds: the one a person annotated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    /// Pod, Job or Claim.
    pub kind: HolderKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; the only thing that identifies it.
    pub uid: String,
}

impl Who {
    /// With its namespace, as the log names it: `job/shop/migrate`.
    pub fn in_full(&self) -> String {
        format!("{}/{}/{}", self.kind.word(), self.namespace, self.name)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.kind.word(), self.name)
    }
}

/// A Pod under a Job's hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
}

/// Whether somebody is there to take a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its acquire step has an open session: a grant reaches it at once.
    Here,
    /// Its acquire step runs but has no session now, as after a change of leader: it keeps its place, and those behind it wait for it.
    Expected,
    /// It did not come back in time (its network may be closed): it keeps its age but is passed over, so that it stops nobody.
    Away,
}

/// How long a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For ever.
    Forever,
    /// Until this time of the API server's clock.
    Until(Timestamp),
    /// Not at all: granted now or refused.
    Now,
}

/// All that a decision is made on, beside the primitive itself and the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Who wants to hold a Mutex, an RWMutex, a Lease or a Semaphore, to execute a Once, or to join a WaitGroup.
    pub requests: Vec<Request>,
    /// Who waits for a Barrier, a Gate, a WaitGroup or a Once.
    pub waiters: Vec<Waiter>,
    /// Whose arrival at a Barrier is proven.
    pub arrivals: Vec<Participant>,
    /// What is proven about holders and Claims.
    pub evidence: Vec<Evidence>,
    /// What a Gate's conditions name, as far as it exists.
    pub conditions: Vec<Observed>,
    /// The Gates that wait for each other, this one first; empty if it is in no such circle. See [`cycle`](super::cycle).
    pub cycle: Vec<String>,
    /// What was done by hand.
    pub steps: Vec<Adjustment>,
}

/// A wish to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who will hold.
    pub who: Arc<Who>,
    /// Under a Job's hold: the Pod that wants to be let in.
    pub pod: Option<PodRef>,
    /// Permits wanted, at least 1; 1 for every kind but a Semaphore.
    pub permits: i32,
    /// How an RWMutex will be held; `None` for the other kinds.
    pub mode: Option<Mode>,
    /// Larger goes first.
    pub priority: i32,
    /// When the holder was created: among equal priorities the oldest goes first.
    pub created: Timestamp,
    /// Whether it can take a grant now.
    pub presence: Presence,
    /// How long it waits.
    pub patience: Patience,
    /// Whether several Pods of the Job may be in at once (its parallelism is above 1). Otherwise a Pod is let in after its predecessor is out.
    pub shared: bool,
}

impl Request {
    /// The UID of the Pod whose acquire step asks.
    pub fn asker(&self) -> &str {
        self.pod.as_ref().map_or(&self.who.uid, |pod| &pod.uid)
    }
}

/// A wish to pass once a Barrier or a Gate is open, a WaitGroup is done or a Once is executed. It needs no place in line, and takes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The UID of the Pod or Claim that waits.
    pub asker: String,
    /// Its namespace.
    pub namespace: String,
    /// How long it waits.
    pub patience: Patience,
    /// Whether it goes on when its time is over, instead of being refused.
    pub proceeds: bool,
}

/// Somebody whose arrival at a Barrier is proven. It is counted once, however often it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    /// Who arrived. Claims of one name are one participant: `koncli barrier arrive` may be repeated.
    pub who: Who,
    /// When it arrived, by the clock of those who saw it: the end of a Job or a Pod, the creation of a Claim.
    pub at: Timestamp,
}

/// Something done by hand, through a Claim. It is applied once, by the Claim's UID.
///
/// Give it only while a live read, made after that of the primitive, shows its Claim as undecided: the record of what was applied is shortened
/// when a Claim is over, and an older picture of that Claim must not be applied again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// UID of the Claim.
    pub uid: String,
    /// Namespace of the Claim.
    pub namespace: String,
    /// Who did it, for people.
    pub by: String,
    /// When the Claim was created; the oldest goes first.
    pub at: Timestamp,
    /// What was done.
    pub step: Step,
}

/// What can be done by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Adds to the counter of a WaitGroup, or takes from it what was added.
    Add(i64),
    /// Opens a Gate, whatever its conditions say.
    Open,
    /// Closes a Gate until it is opened or reset by hand.
    Close,
    /// Starts a new round of a Barrier, a Gate, a Once or a WaitGroup.
    Reset,
}

/// What is proven about a holder. None of it ever becomes untrue, so it may be older than the resource version it is used with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// No app container of this Pod can run any more, or the hold was taken from it.
    PodOut {
        /// UID of the Pod.
        uid: String,
        /// How that is known.
        how: Out,
    },
    /// The Job is terminal, suspended or gone, and a live list of its Pods showed none that can still run.
    JobOver {
        /// UID of the Job.
        uid: String,
    },
    /// The Claim does not hold any more.
    ClaimOver {
        /// UID of the Claim.
        uid: String,
        /// How that is known.
        how: ClaimEnd,
    },
    /// How the work of an executor came out. It counts together with the evidence of its end.
    Outcome {
        /// UID of the Pod, Job or Claim that executed.
        uid: String,
        /// Whether it succeeded; `None` if nobody will ever know.
        succeeded: Option<bool>,
    },
    /// A Claim was renewed.
    Renewed {
        /// UID of the Claim.
        uid: String,
        /// How often, in all.
        renewals: i64,
        /// When it ends unless it is renewed again, for people: what ends it is [`ClaimOver`](Evidence::ClaimOver).
        expires_at: Timestamp,
    },
}

/// How a Claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEnd {
    /// It was released, or decided for good.
    Released,
    /// A live read showed that there is no Claim of this UID.
    Gone,
    /// It was not renewed for longer than its `ttl`; the next token fences it off.
    Expired,
}

/// How a Pod went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Its statuses show every app container terminated for good.
    Ended,
    /// A live read showed that there is no Pod of this UID.
    Gone,
    /// Its node has been unreachable for longer than the primitive's `ttl`; the next token fences it off.
    Lost,
}

/// Why a request will not be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its time is over.
    TimedOut,
    /// It asked not to wait, and the primitive was not free.
    NotFree,
    /// The primitive is another namespace's, which does not allow it.
    NotAllowed,
    /// It holds as a reader and asks to write: it would wait for itself.
    Upgrade,
    /// What it waits for has failed.
    Failed,
    /// This kind cannot be held, or cannot be waited for.
    Unsuitable,
}

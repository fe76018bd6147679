//! What goes into a decision: who asks for how much, how patiently, and what is known about those that hold.

use std::fmt;

use jiff::Timestamp;

use crate::api::HolderKind;

/// The object that asks and then holds: the one a person annotated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    /// Pod or Job.
    pub kind: HolderKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; the only thing that identifies it.
    pub uid: String,
}

impl fmt::Display for Who {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            HolderKind::Pod => "pod",
            HolderKind::Job => "job",
        };
        write!(out, "{kind}/{}", self.name)
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

/// A wish to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who will hold.
    pub who: Who,
    /// Under a Job's hold: the Pod that wants to be let in.
    pub pod: Option<PodRef>,
    /// Permits wanted, at least 1.
    pub permits: i32,
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
}

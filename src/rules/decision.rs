//! What comes out of a decision: what to write, and what to tell whom once it is written.

use jiff::Timestamp;

use super::{Primitive, Record, Refused, Round, Who};
use crate::api::Holder;

/// What comes out: the next status, and what happened on the way there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The holders to write.
    pub holders: Vec<Holder>,
    /// The token counter to write.
    pub last_token: i64,
    /// The round to write.
    pub round: Round,
    /// The rest of the record to write.
    pub record: Record,
    /// Whether anything changed that must be written. (A Pod that is out under a Job that goes on is forgotten with the next write.)
    pub changed: bool,
    /// Whether something changed that people read, but that nobody's answer rests on: it may be written now or later.
    pub drifted: bool,
    /// Requests that hold once this is written; those that held already are among them.
    pub granted: Vec<Grant>,
    /// Requests and waiters that are refused.
    pub refused: Vec<Refusal>,
    /// Askers whose Once somebody else has executed: there is nothing left for them to do.
    pub skipped: Vec<String>,
    /// Waiters that may go on.
    pub passed: Vec<Passed>,
    /// Arrivals and steps by hand of which nothing more will come once this is written; the others wait.
    pub settled: Vec<Settled>,
    /// Holds that ended.
    pub released: Vec<Release>,
    /// Requests and waiters that wait, first in line first.
    pub queue: Vec<Queued>,
    /// When the same facts may give another decision, by the API server's clock.
    pub again_at: Option<Timestamp>,
}

impl Decision {
    /// One that changes nothing.
    pub(super) fn unchanged(primitive: &Primitive) -> Self {
        Self {
            holders: primitive.holders.clone(),
            last_token: primitive.last_token,
            round: primitive.round.clone(),
            record: primitive.record.clone(),
            ..Self::default()
        }
    }
}

/// A hold, as answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The UID of the Pod or Claim that asked.
    pub asker: String,
    /// Who holds.
    pub who: Who,
    /// Its fencing token.
    pub token: i64,
    /// Whether it was granted by this decision; otherwise it was held already.
    pub new: bool,
}

/// A request that will not be granted, or a waiter that will not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The UID of the Pod or Claim that asked.
    pub asker: String,
    /// Why.
    pub why: Refused,
}

/// A waiter that may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The UID of the Pod or Claim that waited.
    pub asker: String,
    /// Why it may.
    pub how: Pass,
}

/// Why a waiter may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// What it waited for has come.
    Open,
    /// Its time is over, and it said that it goes on then.
    Proceeded,
}

/// What became of an arrival or a step by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The UID of the participant or the Claim.
    pub uid: String,
    /// What became of it.
    pub how: Settlement,
}

/// What became of an arrival or a step by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is in the record.
    Counted,
    /// It came after the Barrier opened or failed, before this round began, or after its Claim was over.
    Late,
    /// The primitive is another namespace's, which does not allow it.
    NotAllowed,
    /// The counter would fall below zero.
    BelowZero,
    /// This kind has no such step.
    Unsuitable,
}

/// A hold that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// The hold as it was.
    pub holder: Holder,
    /// Whether it was taken from a holder that may still run.
    pub lost: bool,
    /// Of an executor: whether it succeeded, if that is known. Otherwise the turn passes to the next one.
    pub outcome: Option<bool>,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The UID of the Pod or Claim that asked.
    pub asker: String,
    /// Why it has to wait.
    pub why: Why,
}

/// Why a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Too few permits are free, or somebody is in front of it.
    InLine,
    /// It wants more permits than there are; it is passed over until there are more.
    TooWide,
    /// Its Job holds, and another Pod of that Job can still run.
    Predecessor,
    /// The primitive is being deleted.
    Deleting,
    /// It has no session; it is passed over until it comes back.
    Away,
    /// The primitive was created within this very second: a predecessor of its name may have handed out tokens of this second.
    TooYoung,
    /// What it waits for has not come yet.
    Shut,
}

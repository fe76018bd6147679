//! A primitive as one resource version showed it: who holds it, and what its kind records beside that.

use std::time::Duration;

use jiff::Timestamp;

use super::{Condition, Participant, Standing, Who};
use crate::api::Holder;

/// Permits of an RWMutex: a reader takes one, a writer all of them.
pub const WHOLE: i32 = 1_000_000;

/// A primitive as the API server showed it at one resource version.
#[derive(Clone, Debug, PartialEq)]
pub struct Primitive {
    /// Its namespace.
    pub namespace: String,
    /// Other namespaces that may use it; `*` stands for all.
    pub allowed_namespaces: Vec<String>,
    /// Permits in all: 1 for a Mutex, a Lease and a Once, [`WHOLE`] for an RWMutex, without meaning for the others.
    pub capacity: i32,
    /// When it was created, to the second.
    pub created: Timestamp,
    /// Whether it is being deleted: nobody new gets in, and it goes when the last holder has ended.
    pub deleting: bool,
    /// Who holds, executes, or is a member.
    pub holders: Vec<Holder>,
    /// The largest token handed out; 0 if there was none yet.
    pub last_token: i64,
    /// Which round it is in; the first one for the kinds without rounds.
    pub round: Round,
    /// What its kind records beside the holders.
    pub record: Record,
}

impl Primitive {
    /// Stands for one that does not exist: nobody gets in, and who is not patient is refused as ever.
    pub fn missing(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            allowed_namespaces: vec!["*".to_owned()],
            capacity: i32::MAX,
            created: Timestamp::UNIX_EPOCH,
            deleting: true,
            holders: Vec::new(),
            last_token: 0,
            round: Round::default(),
            record: Record::Missing,
        }
    }

    /// Whether somebody of this namespace may use it.
    pub fn allows(&self, namespace: &str) -> bool {
        namespace == self.namespace || self.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
    }
}

impl Barrier {
    /// When it fails unless it has opened by then.
    pub fn deadline(&self, round: &Round) -> Option<Timestamp> {
        deadline(round, self.timeout)
    }
}

impl Gate {
    /// When it fails unless it has opened by then. One that was closed by hand is left to whoever did that.
    pub fn deadline(&self, round: &Round) -> Option<Timestamp> {
        deadline(round, self.timeout.filter(|_| self.by_hand.is_none()))
    }
}

fn deadline(round: &Round, timeout: Option<Duration>) -> Option<Timestamp> {
    round.began.checked_add(timeout?).ok()
}

/// What is finished stays finished within a round; somebody starts a new one by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// How many rounds were before this one.
    pub number: i64,
    /// When it began: at the creation, or by hand. Timeouts count from here.
    pub began: Timestamp,
    /// UIDs of the Claims whose steps were applied, until these are known to be over.
    pub applied: Vec<String>,
}

/// What a kind records beside its holders.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Record {
    /// There is no such object.
    Missing,
    /// Nothing: Mutex, RWMutex, Lease, Semaphore.
    #[default]
    Grants,
    /// A Once.
    Once(Once),
    /// A WaitGroup.
    WaitGroup(WaitGroup),
    /// A Barrier.
    Barrier(Barrier),
    /// A Gate.
    Gate(Gate),
}

/// Who did it. Whoever executes now is a holder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Once {
    /// The one that succeeded. It stays.
    pub executed: Option<Executed>,
}

/// A success.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// Whose.
    pub by: Who,
    /// When it was recorded.
    pub at: Timestamp,
}

/// A count of members. Those that run are holders.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WaitGroup {
    /// What was added by hand and not yet done.
    pub added: i64,
    /// When the count came down to zero. It stays.
    pub done_at: Option<Timestamp>,
}

/// Who has arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Barrier {
    /// How many must arrive.
    pub quorum: i32,
    /// How long it waits for them, from the beginning of the round.
    pub timeout: Option<Duration>,
    /// Who has arrived in this round, in the order in which they were counted.
    pub arrivals: Vec<Participant>,
    /// Whether it is open.
    pub state: Latch,
    /// When it opened or failed.
    pub since: Option<Timestamp>,
}

/// What a Gate waits for, and how far that is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gate {
    /// Its conditions; without any it is opened by hand.
    pub conditions: Vec<Condition>,
    /// How each of the conditions stands, in the same order.
    pub standings: Vec<Standing>,
    /// How long it waits for them, from the beginning of the round.
    pub timeout: Option<Duration>,
    /// Whether somebody opened or closed it by hand in this round.
    pub by_hand: Option<ByHand>,
    /// Whether it is open.
    pub state: Latch,
    /// When it opened or failed.
    pub since: Option<Timestamp>,
    /// The Gates that wait for each other, this one first.
    pub cycle: Vec<String>,
}

/// An override of a Gate's conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// Whether it was opened; otherwise closed.
    pub open: bool,
    /// Who did it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// Whether something is open. Within a round, what is open or has failed stays so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latch {
    /// It waits.
    #[default]
    Shut,
    /// It is open.
    Open,
    /// Its time was over before it opened.
    Failed,
}

//! Who holds what, who may go on, and when: pure functions. No client, no clock, no async; time comes in as a fact.
//!
//! [`decide`] takes a primitive as one resource version showed it and the [`Facts`] about it, and says what the next status is. The caller writes
//! that status with the same resource version, in one compare-and-swap: a grant exists when that write has succeeded, and not before. Simulator,
//! property tests and the real controller call the same function.
//!
//! One file a family: `grant` for what is held (Mutex, RWMutex, Lease, Semaphore, the turn of a Once, the places of a WaitGroup), `arrival` for what is
//! counted (Barrier, WaitGroup), `latch` for what happens once (Gate, Once), `wait` for those who only wait, `by_hand` for what people do themselves.

mod arrival;
mod by_hand;
mod condition;
mod decision;
pub mod evidence;
mod grant;
mod latch;
#[cfg(test)]
mod properties;
mod record;
mod request;
mod wait;
pub mod wrapped;

use jiff::Timestamp;

pub use condition::{Condition, Observed, Seen, Sight, Standing, cycle};
pub use decision::{Decision, Grant, Pass, Passed, Queued, Refusal, Release, Settled, Settlement, Why};
pub use record::{Barrier, ByHand, Executed, Gate, Latch, Once, Primitive, Record, Round, WHOLE, WaitGroup};
pub use request::{
    Adjustment, ClaimEnd, Evidence, Facts, Out, Participant, Patience, PodRef, Presence, Refused, Request, Step, Waiter, Who,
};

/// Decides what the next status of a primitive is. Total and deterministic: the same facts give the same decision.
///
/// Asking again is harmless: a request that holds already is answered with its own grant, what was counted is not counted again.
pub fn decide(primitive: &Primitive, facts: &Facts, now: Timestamp) -> Decision {
    let mut turn = Turn { primitive, facts, now, decision: Decision::unchanged(primitive) };
    let had_members = by_hand::apply(&mut turn);
    grant::release(&mut turn);
    arrival::count(&mut turn);
    latch::look(&mut turn);
    latch::execute(&mut turn);
    grant::grant(&mut turn);
    arrival::tally(&mut turn, had_members);
    wait::answer(&mut turn);
    turn.decision
}

/// One decision in the making.
struct Turn<'a> {
    primitive: &'a Primitive,
    facts: &'a Facts,
    now: Timestamp,
    decision: Decision,
}

impl Turn<'_> {
    fn refuse(&mut self, asker: &str, why: Refused) {
        self.decision.refused.push(Refusal { asker: asker.to_owned(), why });
    }

    fn queue(&mut self, asker: &str, why: Why) {
        self.decision.queue.push(Queued { asker: asker.to_owned(), why });
    }

    /// The same facts may give another decision at this time.
    fn again(&mut self, at: Timestamp) {
        let earlier = self.decision.again_at.unwrap_or(at);
        self.decision.again_at = Some(earlier.min(at));
    }
}

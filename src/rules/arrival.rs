//! What is counted: arrivals at a Barrier, members of a WaitGroup. Each participant counts once, however often it retries.

use super::{Barrier, Latch, Participant, Record, Settled, Settlement, Turn};
use crate::{api::HolderKind, planted};

/// Counts who arrived at a Barrier, opens it when they are enough, and fails it when its time is over before that.
///
/// When somebody arrived decides whether that was in time, not when we come to know it: konductor may have been away.
pub(super) fn count(turn: &mut Turn<'_>) {
    let Record::Barrier(barrier) = &mut turn.decision.record else { return };
    let deadline = barrier.deadline(&turn.decision.round);
    // Kubernetes tells times of Jobs and Pods to the second.
    let in_time = |arrival: &Participant| {
        // People apply files in any order: the first round counts who was done before the Barrier was made.
        let this_round = turn.decision.round.number == 0 || arrival.at.as_second() >= turn.decision.round.began.as_second();
        this_round && deadline.is_none_or(|deadline| arrival.at <= deadline)
    };
    let before = (barrier.arrivals.len(), barrier.state);
    let mut arrivals: Vec<&Participant> = turn.facts.arrivals.iter().collect();
    arrivals.sort_by(|a, b| (a.at, &a.who).cmp(&(b.at, &b.who)));
    open_if_enough(barrier, turn.now);
    for arrival in arrivals {
        let how = if barrier.arrivals.iter().any(|known| same(known, arrival)) {
            Settlement::Counted
        } else if turn.primitive.deleting {
            continue;
        } else if !turn.primitive.allows(&arrival.who.namespace) {
            Settlement::NotAllowed
        } else if barrier.state != Latch::Shut || !in_time(arrival) {
            Settlement::Late
        } else {
            barrier.arrivals.push(arrival.clone());
            open_if_enough(barrier, turn.now);
            Settlement::Counted
        };
        turn.decision.settled.push(Settled { uid: arrival.who.uid.clone(), how });
    }
    let pending = deadline.filter(|_| barrier.state == Latch::Shut);
    if pending.is_some_and(|deadline| turn.now >= deadline) {
        (barrier.state, barrier.since) = (Latch::Failed, Some(turn.now));
    }
    turn.decision.changed |= before != (barrier.arrivals.len(), barrier.state);
    if let Some(deadline) = pending.filter(|deadline| turn.now < *deadline) {
        turn.again(deadline);
    }
}

fn open_if_enough(barrier: &mut Barrier, now: jiff::Timestamp) {
    let enough = i64::try_from(barrier.arrivals.len()).is_ok_and(|arrived| arrived >= i64::from(barrier.quorum));
    if enough && barrier.state == Latch::Shut {
        (barrier.state, barrier.since) = (Latch::Open, Some(now));
    }
}

/// Whether these are one participant. A Claim may have been made anew by the same person, under the same name.
fn same(a: &Participant, b: &Participant) -> bool {
    let claims = a.who.kind == HolderKind::Claim && b.who.kind == HolderKind::Claim && !planted::bug("holder-arrives-twice");
    a.who.uid == b.who.uid || (claims && (&a.who.namespace, &a.who.name) == (&b.who.namespace, &b.who.name))
}

/// Sees whether the last member of a WaitGroup is done. Before the first one there is nothing to be done.
pub(super) fn tally(turn: &mut Turn<'_>, had_members: bool) {
    let early = planted::bug("done-while-a-member-runs") && !turn.decision.released.is_empty();
    let joined = !turn.decision.holders.is_empty() && !early;
    let Record::WaitGroup(group) = &mut turn.decision.record else { return };
    if group.done_at.is_none() && group.added == 0 && !joined && had_members {
        group.done_at = Some(turn.now);
        turn.decision.changed = true;
    }
}

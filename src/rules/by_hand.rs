//! What people do themselves, through Claims: each step is applied once, and the UID of its Claim is recorded in the same write.

use std::collections::HashSet;

use super::{Adjustment, Barrier, ByHand, Evidence, Gate, Latch, Once, Record, Settled, Settlement, Step, Turn, WaitGroup};
use crate::{api::MAX_HOLDERS, planted};

/// Applies every step, the oldest first. Says whether a WaitGroup has had members in its present round.
pub(super) fn apply(turn: &mut Turn<'_>) -> bool {
    let over: HashSet<&str> = turn
        .facts
        .evidence
        .iter()
        .filter_map(|fact| if let Evidence::ClaimOver { uid, .. } = fact { Some(uid.as_str()) } else { None })
        .collect();
    let applied = &mut turn.decision.round.applied;
    applied.retain(|uid| !over.contains(uid.as_str()));
    turn.decision.drifted |= turn.decision.round.applied.len() != turn.primitive.round.applied.len();

    let mut had_members = match &turn.primitive.record {
        Record::WaitGroup(group) => group.added > 0 || !turn.primitive.holders.is_empty(),
        _ => false,
    };
    let mut steps: Vec<&Adjustment> = turn.facts.steps.iter().collect();
    steps.sort_by(|a, b| (a.at, &a.uid).cmp(&(b.at, &b.uid)));
    // People apply files in any order: a `done` that finds nothing to be done of is looked at again after the `add`s behind it.
    let mut too_early = Vec::new();
    loop {
        let before = turn.decision.round.applied.len();
        for step in std::mem::take(&mut steps) {
            match settle(turn, step, &over, &mut had_members) {
                Some(Settlement::BelowZero) => too_early.push(step),
                Some(how) => turn.decision.settled.push(Settled { uid: step.uid.clone(), how }),
                None => {}
            }
        }
        if too_early.is_empty() || turn.decision.round.applied.len() == before {
            break;
        }
        steps = std::mem::take(&mut too_early);
    }
    turn.decision.settled.extend(too_early.into_iter().map(|step| Settled { uid: step.uid.clone(), how: Settlement::BelowZero }));
    had_members
}

/// What becomes of a step; `None` if it waits.
fn settle(turn: &mut Turn<'_>, step: &Adjustment, over: &HashSet<&str>, had_members: &mut bool) -> Option<Settlement> {
    let Adjustment { uid, namespace, step: what, .. } = step;
    if over.contains(uid.as_str()) {
        return Some(Settlement::Late);
    }
    if turn.decision.round.applied.contains(uid) && !planted::bug("step-applied-again") {
        return Some(Settlement::Counted);
    }
    if turn.primitive.deleting {
        return None;
    }
    if !turn.primitive.allows(namespace) {
        return Some(Settlement::NotAllowed);
    }
    if turn.decision.round.applied.len() >= MAX_HOLDERS {
        return None;
    }
    let how = take(turn, step);
    if how == Settlement::Counted {
        turn.decision.round.applied.push(uid.clone());
        turn.decision.changed = true;
        *had_members = match what {
            Step::Reset => !turn.primitive.holders.is_empty(),
            Step::Add(more) => *had_members || *more > 0,
            Step::Open | Step::Close => *had_members,
        };
    }
    Some(how)
}

fn take(turn: &mut Turn<'_>, step: &Adjustment) -> Settlement {
    let round = &mut turn.decision.round;
    let now = turn.now;
    let mut next_round = || {
        round.number = round.number.saturating_add(1); // somebody may have written the last one
        round.began = now;
    };
    match (step.step, &mut turn.decision.record) {
        (Step::Add(delta), Record::WaitGroup(group)) => match group.added.checked_add(delta).filter(|added| *added >= 0) {
            Some(added) => group.added = added,
            None => return Settlement::BelowZero,
        },
        (Step::Open | Step::Close, Record::Gate(gate)) => {
            let open = step.step == Step::Open;
            let by_hand = Some(ByHand { open, by: step.by.clone(), at: step.at });
            match (open, gate.state) {
                // What is finished changes only with its round.
                (false, Latch::Open | Latch::Failed) | (true, Latch::Failed) => {
                    next_round();
                    begin_again(gate);
                }
                (true, Latch::Open) | (_, Latch::Shut) => {}
            }
            gate.by_hand = by_hand;
            if open && gate.state == Latch::Shut {
                gate.state = Latch::Open;
                gate.since = Some(now);
            }
        }
        (Step::Reset, record) => {
            match record {
                Record::Once(once) => *once = Once::default(),
                Record::WaitGroup(group) => *group = WaitGroup::default(),
                Record::Barrier(Barrier { arrivals, state, since, .. }) => {
                    arrivals.clear();
                    (*state, *since) = (Latch::Shut, None);
                }
                Record::Gate(gate) => begin_again(gate),
                Record::Missing | Record::Grants => return Settlement::Unsuitable,
            }
            next_round();
        }
        _ => return Settlement::Unsuitable,
    }
    Settlement::Counted
}

fn begin_again(gate: &mut Gate) {
    gate.standings.clear();
    (gate.by_hand, gate.state, gate.since) = (None, Latch::Shut, None);
}

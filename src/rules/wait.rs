//! Those who only wait: until a Barrier or a Gate is open, a WaitGroup is done, a Once is executed.

use super::{Latch, Pass, Passed, Patience, Record, Refused, Turn, Waiter, Why};

/// Answers every waiter.
pub(super) fn answer(turn: &mut Turn<'_>) {
    let latch = |finished: bool| if finished { Latch::Open } else { Latch::Shut };
    let state = match &turn.decision.record {
        Record::Missing => Some(Latch::Shut),
        Record::Grants => None,
        Record::Barrier(barrier) => Some(barrier.state),
        Record::Gate(gate) => Some(gate.state),
        Record::WaitGroup(group) => Some(latch(group.done_at.is_some())),
        Record::Once(once) => Some(latch(once.executed.is_some())),
    };
    for waiter in &turn.facts.waiters {
        let asker = &waiter.asker;
        match state {
            None => turn.refuse(asker, Refused::Unsuitable),
            Some(_) if !turn.primitive.allows(&waiter.namespace) => turn.refuse(asker, Refused::NotAllowed),
            Some(Latch::Open) => pass(turn, waiter, Pass::Open),
            Some(Latch::Failed) => give_up(turn, waiter, Refused::Failed),
            Some(Latch::Shut) => match waiter.patience {
                Patience::Now => give_up(turn, waiter, Refused::NotFree),
                Patience::Until(deadline) if turn.now >= deadline => give_up(turn, waiter, Refused::TimedOut),
                Patience::Until(deadline) => {
                    turn.again(deadline);
                    stay(turn, waiter);
                }
                Patience::Forever => stay(turn, waiter),
            },
        }
    }
}

fn stay(turn: &mut Turn<'_>, waiter: &Waiter) {
    turn.queue(&waiter.asker, if turn.primitive.deleting { Why::Deleting } else { Why::Shut });
}

/// Its time is over, or that of what it waits for.
fn give_up(turn: &mut Turn<'_>, waiter: &Waiter, why: Refused) {
    if waiter.proceeds { pass(turn, waiter, Pass::Proceeded) } else { turn.refuse(&waiter.asker, why) }
}

fn pass(turn: &mut Turn<'_>, waiter: &Waiter, how: Pass) {
    turn.decision.passed.push(Passed { asker: waiter.asker.clone(), how });
}

//! What happens once: a Gate opens, a Once is executed. Neither is undone but by hand, in a new round.

use super::{ByHand, Condition, Executed, Latch, Record, Standing, Turn, Who};
use crate::{api::Holder, planted};

/// Looks at a Gate's conditions, opens it when all are met, and fails it when its time is over before that. What somebody did by hand goes first.
pub(super) fn look(turn: &mut Turn<'_>) {
    let Record::Gate(gate) = &mut turn.decision.record else { return };
    if gate.cycle != turn.facts.cycle {
        gate.cycle.clone_from(&turn.facts.cycle);
        turn.decision.drifted = true;
    }
    if gate.state != Latch::Shut {
        return;
    }
    let look = |(index, condition): (usize, &Condition)| {
        let before = gate.standings.get(index).cloned().unwrap_or_default();
        condition.look(&before, &turn.facts.conditions, &turn.primitive.namespace, turn.now)
    };
    let standings: Vec<Standing> = gate.conditions.iter().enumerate().map(look).collect();
    if standings != gate.standings {
        // What stays met must be written before the object that met it is gone; the rest is for people.
        let kept = |(condition, standing): (&Condition, &Standing)| (condition.stays() && standing.met).then(|| standing.uid.clone());
        let before: Vec<_> = gate.conditions.iter().zip(&gate.standings).filter_map(kept).collect();
        let after: Vec<_> = gate.conditions.iter().zip(&standings).filter_map(kept).collect();
        turn.decision.changed |= before != after;
        turn.decision.drifted = true;
        gate.standings = standings;
    }
    if matches!(gate.by_hand, Some(ByHand { open: false, .. })) {
        return;
    }
    let deadline = gate.deadline(&turn.decision.round);
    let state = if !gate.conditions.is_empty() && gate.standings.iter().all(|standing| standing.met) {
        Latch::Open
    } else if deadline.is_some_and(|deadline| turn.now >= deadline) {
        Latch::Failed
    } else {
        if let Some(deadline) = deadline {
            turn.again(deadline);
        }
        return;
    };
    (gate.state, gate.since) = (state, Some(turn.now));
    turn.decision.changed = true;
}

/// Latches a Once whose executor ended well. Any other end passes the turn.
pub(super) fn execute(turn: &mut Turn<'_>) {
    let Record::Once(once) = &mut turn.decision.record else { return };
    let began = turn.decision.round.began.as_second();
    let success = turn.decision.released.iter().find(|release| {
        // One that began in an earlier round did that round's work.
        let well = release.outcome == Some(true) || (release.outcome == Some(false) && planted::bug("once-takes-failure-for-success"));
        well && release.holder.since.0.as_second() >= began && !planted::bug("once-forgets-success")
    });
    if let (None, Some(release)) = (&once.executed, success) {
        let Holder { kind, namespace, name, uid, .. } = release.holder.clone();
        once.executed = Some(Executed { by: Who { kind, namespace, name, uid }, at: turn.now });
    }
}

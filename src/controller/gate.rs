//! A Gate between its API form and the rules: its conditions and how they stand, and the status that people read. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    object::first,
    status::{Draft, Served, alike, since},
};
use crate::{
    api::{CommonStatus, Duration, Gate, GateByHand, GateCondition, GateConditionStatus, GatePhase, GateStatus, RoundStatus},
    plan::Kind,
    rules::{self, ByHand, Condition, Latch, Record, Standing},
};

impl Served for Gate {
    const KIND: Kind = Kind::Gate;
    alike!(rounds);

    fn record(&self) -> Record {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let conditions: Vec<Condition> = self.spec.conditions.iter().map(|condition| asked(condition, namespace)).collect();
        let mut gate = rules::Gate { timeout: self.spec.timeout.map(Duration::as_std), ..rules::Gate::default() };
        if let Some(status) = &self.status {
            // A condition keeps its standing when others are added or removed around it.
            let known = |condition: &GateCondition| status.condition_statuses.iter().find(|known| known.condition == *condition);
            if !status.condition_statuses.is_empty() {
                gate.standings = self.spec.conditions.iter().map(|condition| known(condition).map(standing).unwrap_or_default()).collect();
            }
            gate.by_hand = status.by_hand.clone().map(|GateByHand { open, by, at }| ByHand { open, by, at: at.0 });
            gate.state = self.latch();
            gate.since = since(gate.state, &status.opened_at, &status.failed_at);
            gate.cycle.clone_from(&status.cycle);
        }
        Record::Gate(rules::Gate { conditions, ..gate })
    }

    fn latch(&self) -> Latch {
        match self.status.as_ref().map(|status| status.phase) {
            None | Some(GatePhase::Waiting | GatePhase::Closed) => Latch::Shut,
            Some(GatePhase::Open) => Latch::Open,
            Some(GatePhase::Failed) => Latch::Failed,
        }
    }

    fn with(&self, mut draft: Draft) -> Self {
        let rules::Gate { conditions, standings, by_hand, state, since, cycle, .. } =
            if let Record::Gate(gate) = &draft.record { gate.clone() } else { rules::Gate::default() };
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let phase = match (state, &by_hand) {
            (Latch::Open, _) => GatePhase::Open,
            (Latch::Failed, _) => GatePhase::Failed,
            (Latch::Shut, Some(ByHand { open: false, .. })) => GatePhase::Closed,
            (Latch::Shut, _) => GatePhase::Waiting,
        };
        let met = standings.iter().filter(|standing| standing.met).count();
        let met = (!conditions.is_empty()).then(|| format!("{met} of {}", conditions.len()));
        let missing = conditions.iter().enumerate().filter(|(index, _)| !standings.get(*index).is_some_and(|standing| standing.met));
        let waits_for = first(missing.map(|(_, condition)| condition.seen_from(namespace))).filter(|_| phase == GatePhase::Waiting);
        let (reason, message) = match (phase, &by_hand, &waits_for) {
            (GatePhase::Open | GatePhase::Closed, Some(ByHand { by, .. }), _) => ("ByHand", format!("{} by {by}", word(phase))),
            (GatePhase::Open, None, _) => ("ConditionsMet", "all conditions were met".to_owned()),
            (GatePhase::Failed, ..) => ("TimedOut", format!("{} conditions were met in time", met.as_deref().unwrap_or("no"))),
            (_, _, Some(waits_for)) => ("Waiting", format!("waits for {waits_for}")),
            (_, _, None) => ("Waiting", "has no conditions: it is opened by hand".to_owned()),
        };
        draft.set("Open", state == Latch::Open, reason, message);
        let shown = |(index, condition): (usize, &GateCondition)| {
            let Standing { met, uid, since, message } = standings.get(index).cloned().unwrap_or_default();
            GateConditionStatus { condition: condition.clone(), met, uid, since: since.map(Time), message }
        };
        let when = |latch: Latch| since.filter(|_| state == latch).map(Time);
        let (opened_at, failed_at) = (when(Latch::Open), when(Latch::Failed));
        let by_hand = by_hand.map(|ByHand { open, by, at }| GateByHand { open, by, at: Time(at) });
        let condition_statuses =
            if standings.is_empty() { Vec::new() } else { self.spec.conditions.iter().enumerate().map(shown).collect() };
        let Draft { common, rounds, .. } = draft;
        let status = GateStatus { common, rounds, phase, condition_statuses, met, waits_for, by_hand, cycle, opened_at, failed_at };
        Self { status: Some(status), ..self.clone() }
    }
}

/// Why a Gate can never open by its conditions: it waits for itself.
pub(super) fn circle(record: &Record) -> Option<String> {
    let Record::Gate(rules::Gate { cycle, state: Latch::Shut, by_hand: None, .. }) = record else { return None };
    cycle.first()?;
    let circle = cycle.iter().chain(cycle.first()).map(String::as_str).collect::<Vec<_>>().join(" waits for ");
    Some(format!("can never open by its conditions: {circle}"))
}

const fn word(phase: GatePhase) -> &'static str {
    match phase {
        GatePhase::Open => "opened",
        GatePhase::Waiting | GatePhase::Closed | GatePhase::Failed => "closed",
    }
}

/// A condition, with the namespace that it means.
fn asked(condition: &GateCondition, namespace: &str) -> Condition {
    let GateCondition { on, name, namespace: own, state, value } = condition.clone();
    Condition { on, namespace: own.unwrap_or_else(|| namespace.to_owned()), name, state, value }
}

fn standing(status: &GateConditionStatus) -> Standing {
    let GateConditionStatus { met, uid, since, message, .. } = status.clone();
    Standing { met, uid, since: since.map(|time| time.0), message }
}

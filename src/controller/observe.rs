//! What a Gate sees of the objects that its conditions name, as far as the picture has them. Synchronous.

use super::{
    object::{Key, Object},
    world::State,
};
use crate::{
    api::GateType,
    plan::Kind,
    rules::{self, Condition, Facts, Observed, Record, Seen, Sight},
};

/// Adds to the facts what this Gate sees, and with which other Gates it waits in a circle. Of a Job, a condition asks only in the Gate's own namespace: a Job
/// has no way to allow more.
pub fn gate(state: &State, object: &Object, facts: &mut Facts) {
    let conditions = conditions(object);
    facts.conditions.extend(conditions.iter().filter_map(|condition| {
        let Condition { on, namespace, name, .. } = condition.clone();
        Some(Observed { on, namespace, name, sight: sight(state, object, condition)? })
    }));
    let start = object.key();
    let waits_for = |gate: &Key| state.objects.get(gate).map(self::conditions).unwrap_or_default().iter().filter_map(gate_of).collect();
    let names = |key: Key| key.seen_from(&start.namespace);
    facts.cycle = rules::cycle(&start, waits_for).into_iter().map(names).collect();
}

/// Whether a Job that this Gate names was not looked for yet, as after a change of leader: it may have met its condition long ago.
pub fn blind(state: &State, gate: &Object) -> bool {
    let unknown = |condition: &Condition| {
        key_of(condition).is_none() && !state.named_jobs.contains_key(&(condition.namespace.clone(), condition.name.clone()))
    };
    conditions(gate).iter().any(unknown)
}

/// What a Gate waits for; nothing, once it has opened or failed, or for other kinds.
pub fn conditions(object: &Object) -> Vec<Condition> {
    match object.record() {
        Record::Gate(gate) if gate.state == rules::Latch::Shut => gate.conditions,
        _ => Vec::new(),
    }
}

fn gate_of(condition: &Condition) -> Option<Key> {
    key_of(condition).filter(|key| key.kind == Kind::Gate)
}

fn sight(state: &State, gate: &Object, condition: &Condition) -> Option<Sight> {
    let own = gate.namespace() == condition.namespace;
    let Some(key) = key_of(condition) else {
        let job = state.named_jobs.get(&(condition.namespace.clone(), condition.name.clone()))?.as_ref()?;
        return Some(if own { Sight::There { uid: job.uid.clone(), seen: job.seen } } else { Sight::NotAllowed });
    };
    let seen = state.objects.get(&key)?;
    if !seen.allows(gate.namespace()) {
        return Some(Sight::NotAllowed);
    }
    Some(Sight::There { uid: seen.uid().to_owned(), seen: Seen::of(condition.on, &seen.primitive())? })
}

/// The primitive that a condition names; `None` for a Job.
pub fn key_of(condition: &Condition) -> Option<Key> {
    let kind = match condition.on {
        GateType::Job => return None,
        GateType::Mutex => Kind::Mutex,
        GateType::RWMutex => Kind::RwMutex,
        GateType::Semaphore => Kind::Semaphore,
        GateType::Lease => Kind::Lease,
        GateType::Barrier => Kind::Barrier,
        GateType::Gate => Kind::Gate,
        GateType::Once => Kind::Once,
        GateType::WaitGroup => Kind::WaitGroup,
    };
    Some(Key { kind, namespace: condition.namespace.clone(), name: condition.name.clone() })
}

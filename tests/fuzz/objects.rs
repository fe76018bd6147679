//! Custom resources, with the status that a tenant with too many rights may have written, and Pods: whatever the API server lets through is read or
//! refused, decided about, and what would be written is readable again.

use jiff::Timestamp;
use konductor::{
    api::{Barrier, Claim, Duration, Gate, Lease, Mutex, Once, RWMutex, Semaphore, WaitGroup},
    controller::{
        At, ClaimFacts, PodFacts, gather,
        object::{NextStatus, Object},
        world::State,
    },
    rules,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Target, corpus, mutate, tape::Tape};

pub const TARGET: Target = Target { name: "objects", inputs: 30_000, make, check, memory: 8 << 20 };

thread_local! {
    static CASES: Vec<Value> = corpus("objects").into_iter().map(|(name, text)| serde_json::from_slice(&text).expect(&name)).collect();
}

/// A list of objects: they meet in one picture.
fn make(tape: &[u8]) -> Vec<u8> {
    CASES.with(|cases| mutate::json(cases, &mut Tape(tape)))
}

fn check(input: &[u8]) -> usize {
    let Ok(Value::Array(objects)) = serde_json::from_slice(input) else { return 0 };
    let mut state = State::default();
    for object in objects {
        durations(&object);
        put(&mut state, object);
    }
    let keys: Vec<_> = state.dirty.iter().cloned().collect();
    let at = At { now: Instant::now(), time: "2026-06-01T00:00:00Z".parse().unwrap() };
    let mut largest = 0;
    for key in keys {
        let Some(object) = state.objects.get(&key).cloned() else { continue };
        let gathered = gather(&mut state, &key, Some(&object), at);
        let decision = rules::decide(&object.primitive(), &gathered.facts, at.time);
        let capacity = i64::from(object.capacity());
        let taken = |holders: &[konductor::api::Holder]| holders.iter().map(|holder| i64::from(holder.permits.max(1))).sum::<i64>();
        if !decision.granted.is_empty() && object.holders().is_empty() {
            assert!(taken(&decision.holders) <= capacity.max(0), "{} of {capacity} are given", taken(&decision.holders));
        }
        assert!(decision.last_token >= object.common().map_or(i64::MIN, |common| common.last_token), "tokens only grow");
        let next = object.with(NextStatus::from(&decision), at.time);
        largest = largest.max(reads_back(&next));
    }
    largest
}

/// Anything that is read is one of these kinds.
fn put(state: &mut State, object: Value) {
    fn read<T: DeserializeOwned>(object: Value) -> Option<T> {
        serde_json::from_value(object).ok()
    }
    match object["kind"].as_str().unwrap_or_default() {
        "Mutex" => read::<Mutex>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "RWMutex" => read::<RWMutex>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "Lease" => read::<Lease>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "Semaphore" => read::<Semaphore>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "Once" => read::<Once>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "WaitGroup" => read::<WaitGroup>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "Barrier" => read::<Barrier>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "Gate" => read::<Gate>(object).into_iter().for_each(|object| state.put_object(object.into())),
        "Claim" => read::<Claim>(object).into_iter().for_each(|claim| state.put_claim(ClaimFacts::of(claim))),
        _ => read(object).into_iter().for_each(|pod| state.put_pod(PodFacts::of(&pod))),
    }
}

/// What is written is read again, and is the same.
fn reads_back(object: &Object) -> usize {
    fn same<T: DeserializeOwned + serde::Serialize>(object: &T) -> usize {
        let text = serde_json::to_vec(object).unwrap();
        let again: T = serde_json::from_slice(&text).unwrap();
        assert_eq!(serde_json::to_value(again).unwrap(), serde_json::from_slice::<Value>(&text).unwrap());
        text.len()
    }
    match object {
        Object::Mutex(object) => same(object),
        Object::RwMutex(object) => same(object),
        Object::Lease(object) => same(object),
        Object::Semaphore(object) => same(object),
        Object::Once(object) => same(object),
        Object::WaitGroup(object) => same(object),
        Object::Barrier(object) => same(object),
        Object::Gate(object) => same(object),
    }
}

/// Every text in there, as a duration: refused, or read again as it prints.
fn durations(value: &Value) {
    match value {
        Value::Array(list) => list.iter().for_each(durations),
        Value::Object(map) => map.values().for_each(durations),
        Value::String(text) => {
            if let Ok(duration) = serde_json::from_value::<Duration>(json!(text)) {
                assert_eq!(serde_json::from_value::<Duration>(json!(duration)).unwrap(), duration, "{text} prints as {duration}");
                let _ = Timestamp::UNIX_EPOCH.checked_add(duration.as_std());
            }
        }
        _ => {}
    }
}

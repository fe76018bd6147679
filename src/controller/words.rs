//! What a waiting Pod is told, in words for people: for what it waits and behind whom, or why it will not hold. Names are those of the Pod's own
//! namespace. Pure.

use std::collections::HashMap;

use super::{
    facts::PodFacts,
    object::{self, Key, Object},
    runs,
};
use crate::{
    api::Gate,
    coordinator::{
        protocol::Reason,
        session::{Place, Waits},
    },
    rules::{Refused, Why},
};

const PAUSED: &str = "it is paused, with no permits";

/// The words for those who wait for one primitive. What many of them have in common is worked out once.
pub struct InCommon<'a> {
    key: &'a Key,
    object: Option<&'a Object>,
    all: usize,
    said: HashMap<Why, HashMap<String, Waits>>,
}

impl<'a> InCommon<'a> {
    /// Of so many, for this primitive, if it exists.
    pub fn of(key: &'a Key, object: Option<&'a Object>, all: usize) -> Self {
        Self { key, object, all, said: HashMap::new() }
    }

    /// For somebody of `namespace` whose place has this number.
    pub fn at(&mut self, number: usize, why: Why, namespace: &str) -> Waits {
        let known = self.said.get(&why).and_then(|said| said.get(namespace)).cloned();
        let mut waits = known.unwrap_or_else(|| {
            let waits = self.first(why, namespace);
            self.said.entry(why).or_default().insert(namespace.to_owned(), waits.clone());
            waits
        });
        if let Waits::InLine { place, .. } = &mut waits {
            *place = number;
        }
        waits
    }

    /// For whoever of `namespace` would be the first.
    fn first(&self, why: Why, namespace: &str) -> Waits {
        let name = self.key.seen_from(namespace);
        let Some(object) = self.object else { return Waits::For(format!("waiting for {name}, which does not exist yet").into()) };
        let held = || match object::summary(object.holders(), namespace) {
            Some(holders) => format!("held by {holders}"),
            None => "nobody holds it".to_owned(),
        };
        let for_what = match why {
            Why::InLine | Why::TooYoung | Why::Away => {
                let (before, after) = (format!("waiting for {name}: "), format!(" of {} in line, {}", self.all, held()));
                return Waits::InLine { before: before.into(), place: 1, after: after.into() };
            }
            Why::TooWide if object.capacity() == 0 => PAUSED.to_owned(),
            Why::TooWide => format!("asks for more than its {} permits; others go first until there are more", object.capacity()),
            Why::Predecessor => "its Job holds it, and another Pod of the Job can still run".to_owned(),
            Why::Shut => stands(object, namespace),
            Why::Deleting => format!("it is being deleted ({}); a new one of that name will do", held()),
        };
        Waits::For(format!("waiting for {name}: {for_what}").into())
    }
}

/// Where somebody of `namespace` stands in line; `place` is its number and that of all.
pub fn waiting(key: &Key, object: Option<&Object>, why: Why, place: (usize, usize), namespace: &str) -> String {
    InCommon::of(key, object, place.1).at(place.0, why, namespace).to_string()
}

/// For what a Claim waits, and `first`: that it is the next in line; `None` if that is not worth a word. Only the next in line is told who holds: what
/// is the same for all who wait would else have to be written on each of them whenever somebody comes or goes.
pub fn claim_waits(key: &Key, object: Option<&Object>, why: Option<Why>, first: bool) -> Option<String> {
    let namespace = &key.namespace;
    let name = key.seen_from(namespace);
    let Some(object) = object else { return Some(format!("waiting for {name}, which does not exist yet")) };
    Some(match why {
        Some(Why::TooYoung) => return None,
        _ if object.deleting() => format!("waiting for {name}: it is being deleted; a new one of that name will do"),
        Some(Why::InLine) if first => {
            let held = object::summary(object.holders(), namespace).map_or(String::new(), |holders| format!(", held by {holders}"));
            format!("next in line for {name}{held}")
        }
        Some(Why::InLine) => format!("in line for {name}"),
        Some(why @ Why::TooWide) => waiting(key, Some(object), why, (1, 1), namespace),
        _ => format!("waiting for {name}"),
    })
}

/// Why an arrival is not counted.
pub fn late(key: &Key, object: Option<&Object>, namespace: &str) -> String {
    let how = object.map_or(String::new(), |object| format!("; {}", stands(object, namespace)));
    format!("denied: too late for {}{how}", key.seen_from(namespace))
}

/// Why somebody of `namespace` will not hold.
pub fn refused(key: &Key, object: Option<&Object>, why: Refused, namespace: &str) -> Place {
    let (reason, message) = refusal(key, object, why, namespace);
    Place::Refused { reason, message }
}

/// The same, for those who have no session.
pub fn refusal(key: &Key, object: Option<&Object>, why: Refused, namespace: &str) -> (Reason, String) {
    let name = key.seen_from(namespace);
    let how = match object {
        None => ", which does not exist".to_owned(),
        Some(object) => format!("; {}", stands(object, namespace)),
    };
    match why {
        Refused::TimedOut => (Reason::TimedOut, format!("timed out waiting for {name}{how}")),
        Refused::NotFree if object.is_none() => (Reason::TimedOut, format!("{name} does not exist, and this one does not wait")),
        Refused::NotFree => (Reason::TimedOut, format!("not now, and this one does not wait for {name}{how}")),
        Refused::NotAllowed => {
            (Reason::Denied, format!("denied: {name} does not list this Pod's namespace, {namespace}, in spec.allowedNamespaces"))
        }
        Refused::Upgrade => (Reason::Denied, format!("denied: it reads {name} already, and would wait for itself to write it")),
        Refused::Failed => (Reason::TimedOut, format!("{name} has failed, its timeout is over{how}")),
        Refused::Unsuitable => (Reason::Denied, format!("denied: {name} is of a kind that cannot be used like this")),
    }
}

/// What a Pod is told that asked for this and was refused; `None` where that is no answer for it.
pub fn answer(key: &Key, object: Option<&Object>, why: Refused, pod: &PodFacts) -> Option<Place> {
    let place = refused(key, object, why, &pod.who.namespace);
    let held = pod.items().any(|(named, item)| named == key && item.role.has_token());
    let skips = held && runs::skips(pod);
    match place {
        Place::Refused { message, .. } if skips && why == Refused::NotFree => {
            // Nobody has it, and still it is not free, as when it is paused: that is no reason to leave a run out.
            object.is_some_and(|object| !object.holders().is_empty()).then_some(Place::Skipped(message))
        }
        place => Some(place),
    }
}

/// How a primitive stands, for those who wait for it.
fn stands(object: &Object, namespace: &str) -> String {
    let holders = || object::summary(object.holders(), namespace);
    if object.deleting() {
        return "it is being deleted".to_owned();
    }
    match object {
        Object::Barrier(barrier) => {
            let spec = &barrier.spec;
            let arrivals = barrier.status.iter().flat_map(|status| &status.arrivals);
            let arrived = arrivals.clone().count();
            let names = object::first(arrivals.map(|arrival| object::called(arrival.kind, &arrival.namespace, &arrival.name, namespace)));
            let who = names.map_or(String::new(), |names| format!(": {names}"));
            format!("{arrived} of {} have arrived{who}", spec.quorum.unwrap_or(spec.expected))
        }
        Object::Gate(gate) => match gate.status.as_ref().map(|status| (&status.by_hand, &status.waits_for, &status.met)) {
            Some((Some(by_hand), ..)) if !by_hand.open => format!("closed by {}", by_hand.by),
            Some((_, Some(waits_for), _)) => {
                unmet(gate).map_or_else(|| format!("it waits for {waits_for}"), |unmet| format!("not met: {unmet}"))
            }
            Some((_, None, Some(met))) => {
                format!("{met} conditions were met{}", unmet(gate).map_or(String::new(), |unmet| format!(": {unmet}")))
            }
            _ => "it is not open".to_owned(),
        },
        Object::WaitGroup(group) => match group.status.as_ref().map_or(0, |status| status.counter) {
            0 => "it has had no member yet".to_owned(),
            counter => format!("{counter} are not done{}", holders().map_or(String::new(), |names| format!(": {names}"))),
        },
        Object::Once(_) => holders().map_or("nobody has executed it".to_owned(), |executor| format!("{executor} executes it")),
        Object::Semaphore(semaphore) => {
            let held = semaphore.status.as_ref().map_or(0, |status| status.in_use);
            let by = holders().map_or(String::new(), |holders| format!(", by {holders}"));
            match semaphore.spec.permits {
                0 => PAUSED.to_owned(),
                permits => format!("{held} of {permits} permits are held{by}"),
            }
        }
        Object::Mutex(_) | Object::RwMutex(_) | Object::Lease(_) => {
            holders().map_or("nobody holds it".to_owned(), |holders| format!("held by {holders}"))
        }
    }
}

/// What was seen of the objects whose conditions are not met, by the names that the Gate calls them; `None` before the first look. Long names may be too
/// much for an Event.
fn unmet(gate: &Gate) -> Option<String> {
    const LONGEST: usize = 512;
    let statuses = gate.status.iter().flat_map(|status| &status.condition_statuses).filter(|condition| !condition.met);
    let unmet = object::first(statuses.map(|condition| condition.message.clone()).filter(|message| !message.is_empty()));
    unmet.map(|unmet| unmet.chars().take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Barrier, CommonStatus, Holder, HolderKind, Mutex, MutexStatus, Semaphore},
        plan::Kind,
    };
    use serde_json::{Value, json};

    fn key() -> Key {
        Key { kind: Kind::Mutex, namespace: "shop".into(), name: "db".into() }
    }

    fn held_by(name: &str) -> Object {
        let holder = Holder {
            uid: "u".into(),
            kind: HolderKind::Job,
            namespace: "shop".into(),
            name: name.into(),
            token: 1,
            permits: 1,
            since: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
            mode: None,
            pods: Vec::new(),
            renewals: 0,
            expires_at: None,
        };
        let mut mutex = Mutex::new("db", Default::default());
        mutex.metadata.namespace = Some("shop".into());
        mutex.status = Some(MutexStatus { common: CommonStatus { holders: vec![holder], ..Default::default() }, ..Default::default() });
        mutex.into()
    }

    #[test]
    fn names_are_those_of_the_readers_namespace() {
        let object = held_by("a");
        let line = |object: Option<&Object>, namespace: &str| waiting(&key(), object, Why::InLine, (1, 2), namespace);
        assert_eq!(line(Some(&object), "shop"), "waiting for mutex/db: 1 of 2 in line, held by job/a");
        assert_eq!(line(Some(&object), "bank"), "waiting for mutex/shop/db: 1 of 2 in line, held by job/shop/a");
        assert_eq!(line(None, "shop"), "waiting for mutex/db, which does not exist yet");
    }

    #[test]
    fn a_refusal_says_what_and_because_of_whom() {
        let object = held_by("a");
        let message = |object: Option<&Object>, why, namespace: &str| match refused(&key(), object, why, namespace) {
            Place::Refused { message, .. } => message,
            place => panic!("{place:?}"),
        };
        assert_eq!(message(Some(&object), Refused::TimedOut, "shop"), "timed out waiting for mutex/db; held by job/a");
        assert_eq!(message(None, Refused::NotFree, "shop"), "mutex/db does not exist, and this one does not wait");
        assert_eq!(message(Some(&object), Refused::NotFree, "shop"), "not now, and this one does not wait for mutex/db; held by job/a");
        assert!(message(Some(&object), Refused::NotAllowed, "bank").contains("mutex/shop/db does not list this Pod's namespace, bank"));
    }

    fn read<K: serde::de::DeserializeOwned + Into<Object>>(kind: &str, spec: Value, status: Value) -> (Key, Object) {
        let object = json!({
            "apiVersion": "konductor.io/v1", "kind": kind, "metadata": {"name": "x", "namespace": "shop"}, "spec": spec, "status": status,
        });
        let object: Object = serde_json::from_value::<K>(object).unwrap().into();
        (object.key(), object)
    }

    #[test]
    fn what_is_no_lock_is_not_called_free() {
        let (key, barrier) = read::<Barrier>("Barrier", json!({"expected": 2}), json!({}));
        let (_, message) = refusal(&key, Some(&barrier), Refused::NotFree, "shop");
        assert_eq!(message, "not now, and this one does not wait for barrier/x; 0 of 2 have arrived");
    }

    #[test]
    fn a_semaphore_says_how_many_permits_it_has() {
        let (key, semaphore) = read::<Semaphore>("Semaphore", json!({"permits": 2}), json!({}));
        let (_, message) = refusal(&key, Some(&semaphore), Refused::TimedOut, "shop");
        assert_eq!(message, "timed out waiting for semaphore/x; 0 of 2 permits are held");
        let (key, paused) = read::<Semaphore>("Semaphore", json!({"permits": 0}), json!({}));
        let line = waiting(&key, Some(&paused), Why::TooWide, (1, 1), "shop");
        assert_eq!(line, "waiting for semaphore/x: it is paused, with no permits");
        assert_eq!(claim_waits(&key, Some(&paused), Some(Why::TooWide), true).as_deref(), Some(line.as_str()));
    }

    #[test]
    fn a_gate_says_what_keeps_it_shut() {
        let conditions = json!([{"type": "Job", "name": "a"}, {"type": "Job", "name": "b"}]);
        let statuses = json!([
            {"type": "Job", "name": "a", "met": true, "message": "job/a is complete"},
            {"type": "Job", "name": "b", "met": false, "message": "job/b has failed"},
        ]);
        let mut status = json!({"phase": "Waiting", "waitsFor": "job/b", "met": "1 of 2", "conditionStatuses": statuses});
        let (key, gate) = read::<Gate>("Gate", json!({ "conditions": conditions }), status.clone());
        let line = waiting(&key, Some(&gate), Why::Shut, (1, 1), "shop");
        assert_eq!(line, "waiting for gate/x: not met: job/b has failed");
        (status["phase"], status["waitsFor"]) = ("Failed".into(), Value::Null);
        let (key, gate) = read::<Gate>("Gate", json!({ "conditions": conditions }), status);
        let (_, message) = refusal(&key, Some(&gate), Refused::Failed, "shop");
        assert_eq!(message, "gate/x has failed, its timeout is over; 1 of 2 conditions were met: job/b has failed");
    }

    #[test]
    fn a_failed_barrier_says_who_has_arrived() {
        let arrivals = json!([{"uid": "a", "kind": "Job", "namespace": "shop", "name": "a", "at": "2026-01-01T00:00:00Z"}]);
        let status = json!({"phase": "Failed", "arrived": 1, "arrivals": arrivals});
        let (key, object) = read::<Barrier>("Barrier", json!({"expected": 3}), status);
        let Place::Refused { message, .. } = refused(&key, Some(&object), Refused::Failed, "shop") else { panic!() };
        assert_eq!(message, "barrier/x has failed, its timeout is over; 1 of 3 have arrived: job/a");
        let line = waiting(&key, Some(&object), Why::Shut, (1, 1), "shop");
        assert_eq!(line, "waiting for barrier/x: 1 of 3 have arrived: job/a");
    }
}

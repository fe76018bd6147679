//! From the picture to the facts of one decision: who asks for a primitive, what is proven about its holders, and what needs a live look first.
//! Synchronous; it reads the picture and the clock it is given.

use std::{collections::HashSet, sync::Arc};

use tokio::time::Instant;

use super::{
    ask::{self, At},
    claims::{self, ClaimFacts},
    examine::{self, Overdue, Suspect},
    facts::{JobFacts, Outcome, PodFacts},
    object::{Key, Object},
    observe,
    roll::{Names, Roll},
    world::{State, under},
};
use crate::{
    plan::{Item, Kind, On, Role},
    planted,
    rules::{Facts, Participant, Who, evidence::AcquireStep},
};

/// The facts of one decision.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Who asks, and what the picture itself proves: containers that it shows as ended stay ended.
    pub facts: Facts,
    /// What only a live read can prove.
    pub suspects: Vec<Suspect>,
    /// Pods whose acquire step has passed, but which do not hold: taken from them, unless a live read says otherwise.
    pub strays: Vec<Arc<PodFacts>>,
    /// Jobs that we have not seen, under whose hold a Pod asks.
    pub unknown_jobs: Vec<Unknown>,
    /// Claims of this primitive of which something may come yet.
    pub claims: Vec<Arc<ClaimFacts>>,
    /// UIDs of Claims that the primitive remembers and that we have not seen.
    pub unknown_claims: Vec<String>,
    /// Sessions that ask in the name of a Job that does not ask for the same.
    pub impostors: Vec<String>,
    /// Pods and Jobs that have gone through all their steps without a session: they may start.
    pub ready: Vec<Arc<Who>>,
    /// Those who arrive as they start, by the UID under which they are answered.
    pub arriving: Vec<(String, String)>,
    /// Whether somebody wants a missing Mutex to be made.
    pub create: bool,
    /// Holders whose time is over: they are to be deleted.
    pub overdue: Vec<Overdue>,
    /// Holders that have not started for long: people are told.
    pub slow: Vec<Who>,
    /// Whether nothing can be decided yet: something was not looked for.
    pub blind: bool,
    /// When the passing of time alone may change these facts.
    pub again: Option<Instant>,
}

/// A Job to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Gathers the facts for a decision about `object`; without one, who asks for it.
pub fn gather(state: &mut State, key: &Key, object: Option<&Object>, at: At) -> Gathered {
    let mut gathered = Gathered::default();
    let roll = Roll::of(object);
    let pods: Vec<Arc<PodFacts>> = under(&state.pods_of, key).cloned().collect();
    let started = pods.iter().filter(|pod| pod.started).filter_map(|pod| pod.job.as_ref());
    let started: HashSet<&str> = started.map(|job| job.uid.as_str()).collect();
    for (object, holder) in object.into_iter().flat_map(|object| object.holders().iter().map(move |holder| (object, holder))) {
        examine::examine(state, object, holder, &started, at, &mut gathered);
    }
    let jobs: Vec<Arc<JobFacts>> = under(&state.jobs_of, key).cloned().collect();
    for job in &jobs {
        ask::job(state, key, &roll, job, at, &mut gathered);
        arrival(key, &job.who, job.items(), job.outcome, job.owes, &mut gathered);
    }
    if let Some(gate) = object.filter(|object| object.key().kind == Kind::Gate) {
        gathered.blind = observe::blind(state, gate);
        observe::gate(state, gate, &mut gathered.facts);
    }
    for pod in &pods {
        if pod.job.is_none() {
            arrival(key, &pod.who, pod.items(), pod.outcome, pod.owes, &mut gathered);
        } else if planted::bug("barrier-counts-arrivals") {
            arrival(key, &pod.who, pod.items(), pod.outcome, true, &mut gathered);
        }
        if !ask::pod(state, key, object, &roll, pod, at, &mut gathered) && object.is_some() && strayed(state, key, &roll, pod) {
            gathered.strays.push(pod.clone());
        }
    }
    claims::ask(state, key, object, &mut gathered);
    if let Some(object) = object.filter(|_| !gathered.facts.requests.is_empty()) {
        examine::look_again(state, object, at.now, &mut gathered);
    }
    gathered
}

/// Who ended well arrives. It counts only while it owes its end: what was recorded, perhaps in an earlier round, is not recorded again.
fn arrival<'a>(
    key: &Key,
    who: &Who,
    mut items: impl Iterator<Item = (&'a Key, &'a Item)>,
    outcome: Option<Outcome>,
    owes: bool,
    gathered: &mut Gathered,
) {
    let names = |(named, item): (&Key, &Item)| named == key && item.role == Role::Arrive { on: On::Success };
    if let Some(Outcome { succeeded: true, at }) = outcome.filter(|_| owes)
        && items.any(names)
    {
        gathered.facts.arrivals.push(Participant { who: who.clone(), at });
    }
}

/// Whether a Pod went past its acquire step and does not hold this primitive.
fn strayed(state: &State, key: &Key, roll: &Roll<'_>, pod: &PodFacts) -> bool {
    pod.holds().any(|(named, _)| named == key)
        && pod.step == AcquireStep::Passed
        && !pod.ended
        && !pod.deleting
        && !state.sessions.contains_key(pod.uid())
        && roll.token_of(pod.uid()).is_none()
}

/// Brings a moment forward.
pub fn sooner(slot: &mut Option<Instant>, at: Instant) {
    *slot = Some(slot.map_or(at, |earlier| earlier.min(at)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Mutex, names},
        coordinator::session::{Place, Session},
    };
    use crate::{controller::world::EXPECTED_FOR, rules::Presence};
    use jiff::Timestamp;
    use serde_json::json;

    fn waiting_pod(name: &str) -> PodFacts {
        let pod = json!({
            "metadata": {
                "name": name, "namespace": "ns", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": { names::INJECTED_LABEL: "true" }, "annotations": { "konductor.io/mutex": "db" },
            },
            "status": { "initContainerStatuses": [{
                "name": names::ACQUIRE_CONTAINER, "state": { "running": {} }, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            }] },
        });
        PodFacts::of(&serde_json::from_value(pod).unwrap())
    }

    fn mutex() -> Mutex {
        let mut mutex = Mutex::new("db", Default::default());
        mutex.metadata.namespace = Some("ns".to_owned());
        mutex
    }

    /// After a change of leader nobody has a session, perhaps for long: the oldest must not lose its place to whoever happens to come back first.
    #[tokio::test(start_paused = true)]
    async fn those_without_a_session_keep_their_place_until_others_have_had_time_to_come_back_too() {
        let (oldest, quick) = (waiting_pod("oldest"), waiting_pod("quick"));
        let object = Object::from(mutex());
        let key = object.key();
        let mut state = State::default();
        state.put_object(object.clone());
        state.put_pod(oldest.clone());
        state.put_pod(quick.clone());
        let presence = |state: &mut State| -> Vec<Presence> {
            gather(state, &key, Some(&object), At { now: Instant::now(), time: Timestamp::UNIX_EPOCH })
                .facts
                .requests
                .iter()
                .map(|request| request.presence)
                .collect()
        };
        assert_eq!(presence(&mut state), [Presence::Expected, Presence::Expected]);
        tokio::time::advance(EXPECTED_FOR * 4).await;
        assert_eq!(presence(&mut state), [Presence::Expected, Presence::Expected], "nobody could come yet");
        let mut alone = State::default();
        alone.put_object(object.clone());
        alone.put_pod(oldest.clone());
        assert_eq!(presence(&mut alone), [Presence::Expected]);
        tokio::time::advance(EXPECTED_FOR * 8).await;
        assert_eq!(presence(&mut alone), [Presence::Away], "those who need no session are not held up for ever");
        state.open_session(&quick, Session::open().0);
        assert_eq!(presence(&mut state), [Presence::Expected, Presence::Here]);
        tokio::time::advance(EXPECTED_FOR).await;
        assert_eq!(presence(&mut state), [Presence::Away, Presence::Here], "others could, this one does not");
    }

    /// A crowd that is let in leaves one by one: to look each time is to look through the whole crowd each time.
    #[tokio::test(start_paused = true)]
    async fn whoever_was_let_in_asks_no_more_and_its_leaving_is_no_reason_to_look() {
        let pod = waiting_pod("a");
        let object = Object::from(mutex());
        let key = object.key();
        let mut state = State::default();
        state.put_object(object.clone());
        state.put_pod(pod.clone());
        let at = At { now: Instant::now(), time: Timestamp::UNIX_EPOCH };
        let asks = |state: &mut State| gather(state, &key, Some(&object), at).facts.requests.len();
        let leaves = |state: &mut State, id, let_in| {
            state.dirty.clear();
            state.close_session("a", id, let_in);
            !state.dirty.is_empty()
        };
        let open = |state: &mut State| {
            let (session, _) = Session::open();
            let id = session.id;
            state.open_session(&pod, session);
            id
        };
        let waits = open(&mut state);
        assert_eq!(asks(&mut state), 1);
        assert!(leaves(&mut state, waits, false));
        let let_in = open(&mut state);
        state.tell("a", Place::Granted(Vec::new()));
        assert_eq!(asks(&mut state), 0);
        assert!(!leaves(&mut state, let_in, true));
        let never_heard_of_it = open(&mut state);
        state.tell("a", Place::Granted(Vec::new()));
        assert!(leaves(&mut state, never_heard_of_it, false));
        // Its kubelet was faster than its connection: nobody else would say that it is to be looked at.
        let late = open(&mut state);
        state.tell("a", Place::Granted(Vec::new()));
        state.put_pod(PodFacts { step: AcquireStep::Passed, ..pod.clone() });
        assert!(leaves(&mut state, late, true));
    }

    /// It may wait for an image that nobody can pull, and everybody else waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_holder_that_does_not_start_is_told_of_after_ten_minutes() {
        let holder = waiting_pod("holder");
        let mut mutex = mutex();
        let holds = json!({ "holders": [{
            "uid": "holder", "kind": "Pod", "namespace": "ns", "name": "holder", "token": 1, "permits": 1, "since": "2026-01-01T00:00:00Z",
        }], "lastToken": 1, "phase": "Locked" });
        mutex.status = Some(serde_json::from_value(holds).unwrap());
        let object = Object::from(mutex);
        let mut state = State::default();
        state.put_object(object.clone());
        state.put_pod(holder.clone());
        let mut slow = |started: bool, time: &str| {
            let pod = PodFacts { started, ..holder.clone() };
            state.put_pod(pod);
            let gathered = gather(&mut state, &object.key(), Some(&object), At { now: Instant::now(), time: time.parse().unwrap() });
            (gathered.slow.len(), gathered.again.is_some())
        };
        assert_eq!(slow(false, "2026-01-01T00:09:59Z"), (0, true), "it is looked at again in time");
        assert_eq!(slow(false, "2026-01-01T00:10:00Z").0, 1);
        assert_eq!(slow(true, "2026-01-01T00:10:00Z").0, 0);
    }
}

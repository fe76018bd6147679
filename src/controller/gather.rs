//! From the picture to the facts of one decision: who asks for a primitive, what is proven about its holders, and what needs a live look first.
//! Synchronous; it reads the picture and the clock it is given.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    facts::{JobFacts, Outage, PodFacts},
    object::{Key, Object},
    world::{EXPECTED_FOR, State},
};
use crate::{
    api::{Admitted, Holder, HolderKind, Mode},
    plan::{self, Kind, OnTimeout, Role},
    planted,
    rules::{Evidence, Facts, Out, Patience, Presence, Request, Waiter, Who, evidence::AcquireStep},
};

/// How often holders are looked at without a reason.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// The facts of one decision.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Who asks, and what the picture itself proves: containers that it shows as ended stay ended.
    pub facts: Facts,
    /// What only a live read can prove.
    pub suspects: Vec<Suspect>,
    /// Pods whose acquire step has passed, but which do not hold: taken from them, unless a live read says otherwise.
    pub strays: Vec<PodFacts>,
    /// Jobs that we have not seen, under whose hold a Pod asks.
    pub unknown_jobs: Vec<Unknown>,
    /// Sessions that ask in the name of a Job that does not ask for the same.
    pub impostors: Vec<String>,
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

/// A holder whose end must be proven by a live read.
#[derive(Clone, Debug)]
pub enum Suspect {
    /// A Pod that is not seen any more, said that it ended, or whose node is unreachable.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// Its node and that one's outage, if it has lasted for longer than the primitive's `ttl`.
        lost_node: Option<(String, Outage)>,
    },
    /// A Job that is terminal, suspended, or not seen any more.
    Job {
        /// The hold.
        holder: Holder,
        /// The outages that have lasted for longer than the primitive's `ttl`, by node.
        lost_nodes: HashMap<String, Outage>,
    },
}

/// Gathers the facts for a decision about `object`; without one, who asks for it.
pub fn gather(state: &mut State, key: &Key, object: Option<&Object>, now: Instant) -> Gathered {
    let mut gathered = Gathered::default();
    for (object, holder) in object.into_iter().flat_map(|object| object.holders().iter().map(move |holder| (object, holder))) {
        examine(state, object, holder, now, &mut gathered);
    }
    let pods: Vec<PodFacts> = state.pods_of.get(key).into_iter().flatten().filter_map(|uid| state.pods.get(uid)).cloned().collect();
    for pod in &pods {
        if let Some(request) = request(state, key, object, pod, now, &mut gathered) {
            gathered.facts.requests.push(request);
        } else if object.is_some_and(|object| strayed(state, object, pod)) {
            gathered.strays.push(pod.clone());
        }
    }
    if let Some(object) = object.filter(|_| !gathered.facts.requests.is_empty()) {
        look_again(state, object, now, &mut gathered);
    }
    gathered
}

/// Where somebody waits, every holder is looked at now and then although nothing points to its end: an event that was lost must not hold them up for ever.
fn look_again(state: &mut State, object: &Object, now: Instant, gathered: &mut Gathered) {
    let looked = state.quiet.entry(object.key()).or_default().looked.get_or_insert(now);
    let due = *looked + LOOK_AGAIN;
    if now < due {
        sooner(&mut gathered.again, due);
        return;
    }
    *looked = now;
    for holder in object.holders() {
        let Holder { namespace, name, uid, .. } = holder.clone();
        gathered.suspects.push(match holder.kind {
            HolderKind::Pod => Suspect::Pod { namespace, name, uid, lost_node: None },
            HolderKind::Job => Suspect::Job { holder: holder.clone(), lost_nodes: lost_nodes(state, object, now) },
            HolderKind::Claim => continue,
        });
    }
}

/// What is known about a holder's end.
fn examine(state: &mut State, object: &Object, holder: &Holder, now: Instant, gathered: &mut Gathered) {
    match holder.kind {
        HolderKind::Pod => {
            let itself = Admitted { uid: holder.uid.clone(), name: holder.name.clone(), token: holder.token };
            examine_pod(state, object, holder, &itself, now, gathered);
        }
        HolderKind::Job => {
            for pod in &holder.pods {
                examine_pod(state, object, holder, pod, now, gathered);
            }
            let lost_nodes = lost_nodes(state, object, now);
            let running = |pod: &Admitted| {
                let lost = |seen: &PodFacts| seen.node.as_ref().is_some_and(|node| lost_nodes.contains_key(node));
                state.pods.get(&pod.uid).is_some_and(|seen| !seen.ended && !lost(seen))
            };
            let over = state.jobs.get(&holder.uid).is_none_or(JobFacts::rests);
            if over && (!holder.pods.iter().any(running) || planted::bug("job-over-without-its-pods")) {
                gathered.suspects.push(Suspect::Job { holder: holder.clone(), lost_nodes });
            }
        }
        // What ends a Claim's hold is the Claim.
        HolderKind::Claim => {}
    }
}

fn examine_pod(state: &mut State, object: &Object, holder: &Holder, pod: &Admitted, now: Instant, gathered: &mut Gathered) {
    if state.gone.contains(&pod.uid) {
        gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Gone });
        return;
    }
    let suspect = |lost_node| Suspect::Pod { namespace: holder.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone(), lost_node };
    let Some(seen) = state.pods.get(&pod.uid) else {
        if planted::bug("released-when-unseen") {
            gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Gone });
        }
        gathered.suspects.push(suspect(None));
        return;
    };
    if seen.ended || (seen.deleting && planted::bug("released-by-deletion")) {
        gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Ended });
        return;
    }
    if let Some(node) = seen.node.clone().filter(|node| !state.nodes.contains_key(node)) {
        // It was removed before we began to look, or while we did not.
        state.put_node(&node, Some(Outage::Removed));
    }
    let Some(seen) = state.pods.get(&pod.uid) else { return };
    if let Some((node, (outage, since))) = seen.node.as_ref().and_then(|node| Some((node, *state.unreachable.get(node)?))) {
        let lost_at = since + object.ttl();
        if now >= lost_at {
            gathered.suspects.push(suspect(Some((node.clone(), outage))));
            return;
        }
        sooner(&mut gathered.again, lost_at);
    }
    if state.hinted.remove(&(pod.uid.clone(), object.key())) {
        if planted::bug("released-by-hint") {
            gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Ended });
        }
        gathered.suspects.push(suspect(None));
    }
}

fn lost_nodes(state: &State, object: &Object, now: Instant) -> HashMap<String, Outage> {
    state
        .unreachable
        .iter()
        .filter(|(_, (_, since))| now >= *since + object.ttl())
        .map(|(node, (outage, _))| (node.clone(), *outage))
        .collect()
}

/// The request of a Pod for this primitive, if it is its turn to ask for it.
fn request(
    state: &mut State,
    key: &Key,
    object: Option<&Object>,
    pod: &PodFacts,
    now: Instant,
    gathered: &mut Gathered,
) -> Option<Request> {
    if pod.deleting || pod.ended {
        return None;
    }
    let session = state.sessions.get(pod.uid());
    let cut_off = pod.node.as_ref().is_some_and(|node| state.unreachable.contains_key(node));
    let presence = match session {
        // Its kubelet may start what comes next at any time, or never.
        Some(_) if cut_off => Presence::Away,
        Some(_) => Presence::Here,
        None if pod.step != AcquireStep::Running => return None,
        None => {
            let since = *state.without_session.entry(pod.uid().to_owned()).or_insert(now);
            // Before the first agent has come, the way to us may be closed for all of them, and nobody waits for this one in vain.
            let until = state.first_session.map(|first| since.max(first) + EXPECTED_FOR);
            if until.is_some_and(|until| now >= until) {
                Presence::Away
            } else {
                until.into_iter().for_each(|until| sooner(&mut gathered.again, until));
                Presence::Expected
            }
        }
    };
    let has = |key: &Key| match session {
        Some(session) => session.confirmed.contains_key(key),
        None => state.objects.get(key).is_some_and(|object| token_of(object, pod).is_some()),
    };
    // Holds are taken one after the other: the first that it does not have yet is the one that it asks for. But one that it will not get comes before all, so
    // that it takes nothing from others for nothing.
    let forbidden = |key: &Key| state.objects.get(key).is_some_and(|object| !object.allows(&pod.who.namespace));
    let missing = || pod.holds().filter(|(key, _)| !has(key));
    let (next, item) = missing().find(|(key, _)| forbidden(key)).or_else(|| missing().next())?;
    if next != *key {
        return None;
    }
    let (who, created, waits_from, shared) = match (&pod.job, object.and_then(|object| admitted_under(object, pod))) {
        // It asks again for what it was granted.
        (_, Some(job)) => (job, pod.created, pod.created, false),
        (None, None) => (pod.who.clone(), pod.created, pod.created, false),
        (Some(owner), None) => match state.jobs.get(&owner.uid) {
            None => {
                let namespace = pod.who.namespace.clone();
                gathered.unknown_jobs.push(Unknown { namespace, name: owner.name.clone(), uid: owner.uid.clone() });
                return None;
            }
            Some(job) if job.terminal || job.who.namespace != pod.who.namespace || job.plan != pod.plan => {
                gathered.impostors.push(pod.uid().to_owned());
                return None;
            }
            Some(job) => (job.who.clone(), job.created, job.started, job.shared),
        },
    };
    let patience = match item.timeout {
        None => Patience::Forever,
        Some(timeout) if timeout.is_zero() => Patience::Now,
        Some(timeout) => waits_from.checked_add(timeout.as_std()).map_or(Patience::Forever, Patience::Until),
    };
    if let Role::Wait { on_timeout, .. } = item.role {
        let (asker, namespace) = (pod.uid().to_owned(), pod.who.namespace.clone());
        gathered.facts.waiters.push(Waiter { asker, namespace, patience, proceeds: on_timeout == OnTimeout::Proceed });
    }
    if !item.role.lasts() {
        return None;
    }
    let under_job = (who.kind == HolderKind::Job).then(|| pod.as_ref());
    let permits = item.role.permits();
    let mode = match item.role {
        Role::Hold { mode, .. } if key.kind == Kind::RwMutex => Some(match mode {
            plan::Mode::Read => Mode::Read,
            plan::Mode::Write => Mode::Write,
        }),
        _ => None,
    };
    let priority = match item.role.priority() {
        0 => object.map_or(0, Object::default_priority),
        stated => stated,
    };
    Some(Request { who, pod: under_job, permits, mode, priority, created, presence, patience, shared })
}

/// Whether a Pod went past its acquire step and does not hold this primitive.
fn strayed(state: &State, object: &Object, pod: &PodFacts) -> bool {
    pod.step == AcquireStep::Passed
        && pod.holds().any(|(key, item)| key == object.key() && item.role.lasts())
        && !pod.ended
        && !pod.deleting
        && !state.sessions.contains_key(pod.uid())
        && token_of(object, pod).is_none()
}

/// The token that the object shows for a Pod: its own, or the one that it was let in with under a Job's hold.
pub fn token_of(object: &Object, pod: &PodFacts) -> Option<i64> {
    object.holders().iter().find_map(|holder| match holder.kind {
        HolderKind::Pod | HolderKind::Claim => (holder.uid == pod.uid()).then_some(holder.token),
        HolderKind::Job => holder.pods.iter().find(|admitted| admitted.uid == pod.uid()).map(|admitted| admitted.token),
    })
}

/// The Job under whose hold a Pod was let in. The Pod itself may not say it any more: `kubectl delete job --cascade=orphan` takes its owner away.
fn admitted_under(object: &Object, pod: &PodFacts) -> Option<Who> {
    let holder = object.holders().iter().find(|holder| holder.pods.iter().any(|admitted| admitted.uid == pod.uid()))?;
    let Holder { kind, namespace, name, uid, .. } = holder.clone();
    Some(Who { kind, namespace, name, uid })
}

fn sooner(slot: &mut Option<Instant>, at: Instant) {
    *slot = Some(slot.map_or(at, |earlier| earlier.min(at)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Mutex, names},
        coordinator::session::Session,
    };
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

    /// After a change of leader nobody has a session, perhaps for long: the oldest must not lose its place to whoever happens to come back first.
    #[tokio::test(start_paused = true)]
    async fn those_without_a_session_keep_their_place_until_others_have_had_time_to_come_back_too() {
        let (oldest, quick) = (waiting_pod("oldest"), waiting_pod("quick"));
        let mut mutex = Mutex::new("db", Default::default());
        mutex.metadata.namespace = Some("ns".to_owned());
        let object = Object::from(mutex);
        let key = object.key();
        let mut state = State::default();
        state.put_object(object.clone());
        state.put_pod(oldest.clone());
        state.put_pod(quick.clone());
        let presence = |state: &mut State| -> Vec<Presence> {
            gather(state, &key, Some(&object), Instant::now()).facts.requests.iter().map(|request| request.presence).collect()
        };
        assert_eq!(presence(&mut state), [Presence::Expected, Presence::Expected]);
        tokio::time::advance(EXPECTED_FOR * 4).await;
        assert_eq!(presence(&mut state), [Presence::Expected, Presence::Expected], "nobody could come yet");
        state.open_session(&quick, Session::open().0);
        assert_eq!(presence(&mut state), [Presence::Expected, Presence::Here]);
        tokio::time::advance(EXPECTED_FOR).await;
        assert_eq!(presence(&mut state), [Presence::Away, Presence::Here], "others could, this one does not");
    }
}

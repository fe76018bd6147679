//! What the picture says about the end of holders: what it proves by itself, and whom a live look must examine. Synchronous; it reads the picture and the
//! clock it is given.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    ask::At,
    facts::{Outage, PodFacts, key_of},
    gather::{Gathered, sooner},
    object::{Key, Object},
    world::State,
};
use crate::{
    api::{Admitted, Holder, HolderKind},
    plan::Item,
    planted,
    rules::{Evidence, Out, Who},
};

/// How often holders are looked at without a reason.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

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
        /// What it holds.
        key: Key,
    },
}

/// A holder whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Who holds.
    pub who: Who,
    /// Whether it never started; otherwise it ran for longer than it may.
    pub never_started: bool,
}

/// How long a holder may hold, by its own annotations.
fn limits(state: &State, object: &Object, holder: &Holder, at: At, gathered: &mut Gathered) {
    let Holder { kind, namespace, name, uid, since, .. } = holder;
    let (plan, started) = match kind {
        HolderKind::Pod => {
            let pod = state.pods.get(uid);
            (pod.and_then(|pod| pod.plan.as_ref()), pod.is_some_and(|pod| pod.started))
        }
        HolderKind::Job => {
            let job = state.jobs.get(uid).and_then(|job| job.plan.as_ref());
            (job, state.pods.values().any(|pod| pod.started && pod.job.as_ref().is_some_and(|job| job.uid == *uid)))
        }
        HolderKind::Claim => return,
    };
    let Some(plan) = plan else { return };
    let names = |item: &&Item| key_of(item, namespace) == object.key() && item.role.lasts();
    if !plan.holds().any(|item| names(&item)) {
        return;
    }
    let starts_within = plan.start_timeout.filter(|_| !started);
    for (limit, never_started) in [(plan.max_hold, false), (starts_within, true)] {
        let Some(end) = limit.and_then(|limit| since.0.checked_add(limit.as_std()).ok()) else { continue };
        if at.time >= end {
            let who = Who { kind: *kind, namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
            gathered.overdue.push(Overdue { who, never_started });
            return;
        }
        sooner(&mut gathered.again, at.moment(end));
    }
}

/// Where somebody waits, every holder is looked at now and then although nothing points to its end: an event that was lost must not hold them up for ever.
pub fn look_again(state: &mut State, object: &Object, now: Instant, gathered: &mut Gathered) {
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
            HolderKind::Job => Suspect::Job { holder: holder.clone(), lost_nodes: lost_nodes(state, object, now), key: object.key() },
            HolderKind::Claim => continue,
        });
    }
}

/// What is known about a holder's end.
pub fn examine(state: &mut State, object: &Object, holder: &Holder, at: At, gathered: &mut Gathered) {
    let now = at.now;
    limits(state, object, holder, at, gathered);
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
            let key = object.key();
            let over = state.jobs.get(&holder.uid).is_none_or(|job| job.lets_go(&key));
            if over && (!holder.pods.iter().any(running) || planted::bug("job-over-without-its-pods")) {
                gathered.suspects.push(Suspect::Job { holder: holder.clone(), lost_nodes, key });
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
        let succeeded = seen.outcome.map(|outcome| outcome.succeeded);
        gathered.facts.evidence.push(Evidence::Outcome { uid: pod.uid.clone(), succeeded });
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

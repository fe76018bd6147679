//! What the picture says about the end of holders: what it proves by itself, and whom a live look must examine. Synchronous; it reads the picture and the
//! clock it is given.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ask::At,
    claims,
    facts::{Outage, PodFacts},
    gather::{Gathered, sooner},
    object::{Key, Object},
    runs::{self, Said},
    world::State,
};
use crate::{
    api::{Admitted, Holder, HolderKind},
    planted,
    rules::{Evidence, Out, Who},
};

/// Who holds and has not started for this long may never do so: an image that cannot be pulled, a cluster that is full.
const STARTS_WITHIN: Duration = Duration::from_secs(600);

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
        /// What it holds.
        key: Key,
        /// The token that it holds it with.
        token: i64,
        /// Whether its wrapped command has ended: only how is asked.
        over: bool,
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
    /// A Claim that is not seen any more, says that its hold is over, or was not renewed in time.
    Claim {
        /// The hold.
        holder: Holder,
        /// How often it had been renewed when its time began that has passed, if it has.
        unrenewed: Option<i64>,
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
fn limits(state: &State, object: &Object, holder: &Holder, started: &HashSet<&str>, at: At, gathered: &mut Gathered) {
    let Holder { kind, namespace, name, uid, since, .. } = holder;
    let (asks, started) = match kind {
        HolderKind::Pod => {
            let pod = state.pods.get(uid);
            (pod.and_then(|pod| pod.asks.as_ref()), pod.is_some_and(|pod| pod.started))
        }
        HolderKind::Job => {
            let job = state.jobs.get(uid).and_then(|job| job.asks.as_ref());
            (job, started.contains(uid.as_str()))
        }
        HolderKind::Claim => return,
    };
    let Some(asks) = asks else { return };
    let (plan, key) = (&asks.plan, object.key());
    if !asks.items().any(|(named, item)| *named == key && item.role.lasts()) {
        return;
    }
    let who = || Who { kind: *kind, namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
    let mut over = |limit: Duration| {
        let end = since.0.checked_add(limit).ok()?;
        if at.time < end {
            sooner(&mut gathered.again, at.moment(end));
        }
        (at.time >= end).then_some(())
    };
    if plan.max_hold.and_then(|limit| over(limit.as_std())).is_some() {
        gathered.overdue.push(Overdue { who: who(), never_started: false });
    } else if !started {
        match plan.start_timeout {
            Some(limit) => gathered.overdue.extend(over(limit.as_std()).map(|()| Overdue { who: who(), never_started: true })),
            None => gathered.slow.extend(over(STARTS_WITHIN).map(|()| who())),
        }
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
        let Holder { namespace, name, uid, token, .. } = holder.clone();
        gathered.suspects.push(match holder.kind {
            HolderKind::Pod => Suspect::Pod { namespace, name, uid, key: object.key(), token, over: false, lost_node: None },
            HolderKind::Job => Suspect::Job { holder: holder.clone(), lost_nodes: lost_nodes(state, object, now), key: object.key() },
            HolderKind::Claim => Suspect::Claim { holder: holder.clone(), unrenewed: None },
        });
    }
}

/// What is known about a holder's end. `started` are the Jobs of which a Pod has started.
pub fn examine(state: &mut State, object: &Object, holder: &Holder, started: &HashSet<&str>, at: At, gathered: &mut Gathered) {
    let now = at.now;
    limits(state, object, holder, started, at, gathered);
    match holder.kind {
        HolderKind::Pod => {
            let itself = Admitted { uid: holder.uid.clone(), name: holder.name.clone(), token: holder.token };
            examine_pod(state, object, holder, &itself, at, gathered);
        }
        HolderKind::Job => {
            for pod in &holder.pods {
                examine_pod(state, object, holder, pod, at, gathered);
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
        HolderKind::Claim => claims::examine(state, object, holder, at, gathered),
    }
}

fn examine_pod(state: &mut State, object: &Object, holder: &Holder, pod: &Admitted, at: At, gathered: &mut Gathered) {
    let now = at.now;
    if state.gone.contains(&pod.uid) {
        gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Gone });
        return;
    }
    let (key, token) = (object.key(), pod.token);
    let suspect = |over, lost_node| {
        let Admitted { uid, name, .. } = pod.clone();
        Suspect::Pod { namespace: holder.namespace.clone(), name, uid, key: key.clone(), token, over, lost_node }
    };
    let Some(seen) = state.pods.get(&pod.uid) else {
        if planted::bug("released-when-unseen") {
            gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Gone });
        }
        gathered.suspects.push(suspect(false, None));
        return;
    };
    if seen.is_out(&key, token) || (seen.deleting && planted::bug("released-by-deletion")) {
        gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Ended });
        gathered.facts.evidence.push(Evidence::Outcome { uid: pod.uid.clone(), succeeded: seen.came_out(&key, token) });
        return;
    }
    if seen.wrapped.is_some() {
        match runs::said(state, object, pod, at, gathered) {
            Said::Nothing => {}
            Said::Look => return gathered.suspects.push(suspect(true, None)),
            Said::Over(succeeded) => {
                gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Ended });
                gathered.facts.evidence.push(Evidence::Outcome { uid: pod.uid.clone(), succeeded });
                return;
            }
        }
    }
    if let Some(node) = seen.node.clone().filter(|node| !state.nodes.contains_key(node)) {
        // It was removed before we began to look, or while we did not.
        state.put_node(&node, Some(Outage::Removed));
    }
    let Some(seen) = state.pods.get(&pod.uid) else { return };
    if let Some((node, (outage, since))) = seen.node.as_ref().and_then(|node| Some((node, *state.unreachable.get(node)?))) {
        let lost_at = since + object.ttl();
        if now >= lost_at {
            gathered.suspects.push(suspect(false, Some((node.clone(), outage))));
            return;
        }
        sooner(&mut gathered.again, lost_at);
    }
    if state.hinted.remove(&(pod.uid.clone(), object.key())) {
        if planted::bug("released-by-hint") {
            gathered.facts.evidence.push(Evidence::PodOut { uid: pod.uid.clone(), how: Out::Ended });
        }
        gathered.suspects.push(suspect(false, None));
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

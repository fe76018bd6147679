//! From the Claims in the picture to the facts of one decision: what they ask, and what is known about those that hold. Synchronous.

use std::collections::HashSet;

use jiff::Timestamp;

use super::ClaimFacts;
use crate::{
    api::{ClaimPhase, Holder, Operation},
    controller::{
        ask::At,
        examine::Suspect,
        gather::{Gathered, sooner},
        object::{Key, Object},
        world::{State, under},
    },
    planted,
    rules::{ClaimEnd, Decision, Evidence, Patience, Refusal, Refused},
};

/// Adds to the facts what Claims ask of this primitive, and which of those that it remembers it may forget.
pub fn ask(state: &State, key: &Key, object: Option<&Object>, gathered: &mut Gathered) {
    let priority = object.map_or(0, Object::default_priority);
    for claim in under(&state.claims_of, key) {
        let again = claim.phase() == ClaimPhase::Expired && planted::bug("claim-let-in-again");
        if claim.settled() && !claim.owes() && !again {
            continue;
        }
        gathered.claims.push(claim.clone());
        match claim.claim.spec.operation {
            _ if !claim.pending() && !again => {}
            Operation::Acquire => gathered.facts.requests.push(claim.request(priority)),
            Operation::Wait => gathered.facts.waiters.push(claim.waiter()),
            // Those are looked at live first.
            _ => {}
        }
    }
    for uid in object.map(Object::applied).unwrap_or_default() {
        match state.claims.get(uid) {
            Some(claim) if claim.settled() => gathered.facts.evidence.push(over(uid, ClaimEnd::Released)),
            Some(_) => {}
            None if state.gone.contains(uid) => gathered.facts.evidence.push(over(uid, ClaimEnd::Gone)),
            None => gathered.unknown_claims.push(uid.clone()),
        }
    }
}

/// The evidence that a Claim is over.
pub(super) fn over(uid: &str, how: ClaimEnd) -> Evidence {
    Evidence::ClaimOver { uid: uid.to_owned(), how }
}

/// What is known about a Claim that holds: whether it should be looked at, and until when it has time.
pub fn examine(state: &mut State, object: &Object, holder: &Holder, at: At, gathered: &mut Gathered) {
    if state.gone.contains(&holder.uid) {
        gathered.facts.evidence.extend(prove(holder, None));
        return;
    }
    let suspect = |unrenewed| Suspect::Claim { holder: holder.clone(), unrenewed };
    let Some(claim) = state.claims.get(&holder.uid).cloned().filter(|claim| claim.end_of(holder.token).is_none()) else {
        if !state.claims.contains_key(&holder.uid) && planted::bug("claim-released-when-unseen") {
            gathered.facts.evidence.extend(prove(holder, None));
        }
        gathered.suspects.push(suspect(None));
        return;
    };
    if claim.pending() {
        // Nobody knows yet that it holds: its time begins when it is told.
        state.renewed.remove(claim.uid());
        return;
    }
    let ttl = claim.ttl().unwrap_or_else(|| object.ttl());
    let renewed = state.renewed(claim.uid(), claim.claim.spec.renewals, at);
    if let Ok(expires_at) = renewed.time.checked_add(ttl) {
        let (uid, renewals) = (holder.uid.clone(), renewed.renewals);
        gathered.facts.evidence.push(Evidence::Renewed { uid, renewals, expires_at });
    }
    let ends = renewed.since + ttl;
    if planted::bug("claim-expires-unseen") && at.now >= ends {
        gathered.facts.evidence.push(over(&holder.uid, ClaimEnd::Expired));
    }
    let remote = planted::bug("claim-expires-by-remote-time") && holder.expires_at.as_ref().is_some_and(|end| at.time >= end.0);
    if at.now >= ends || remote {
        gathered.suspects.push(suspect(Some(renewed.renewals)));
    } else {
        sooner(&mut gathered.again, ends);
    }
}

/// What a Claim that holds proves by a live look; nothing, if it still holds.
pub fn prove(holder: &Holder, live: Option<&ClaimFacts>) -> Vec<Evidence> {
    let how = live.map_or(Some(ClaimEnd::Gone), |claim| claim.end_of(holder.token));
    let Some(how) = how else { return Vec::new() };
    let uid = holder.uid.clone();
    let succeeded = live.and_then(|claim| claim.claim.spec.succeeded);
    vec![over(&uid, how), Evidence::Outcome { uid, succeeded }]
}

/// Claims that do something by hand have the same patience as those that wait: where they cannot be answered yet, they are refused when it is over.
pub fn give_up(decision: &mut Decision, gathered: &Gathered, now: Timestamp) {
    let settled: HashSet<&str> = decision.settled.iter().map(|settled| settled.uid.as_str()).collect();
    for claim in gathered.claims.iter().filter(|claim| claim.pending() && claim.is_step() && !settled.contains(claim.uid())) {
        let why = match claim.patience() {
            Patience::Forever => continue,
            Patience::Now => Refused::NotFree,
            Patience::Until(deadline) if now >= deadline => Refused::TimedOut,
            Patience::Until(deadline) => {
                decision.again_at = Some(decision.again_at.map_or(deadline, |earlier| earlier.min(deadline)));
                continue;
            }
        };
        decision.refused.push(Refusal { asker: claim.uid().to_owned(), why });
    }
}

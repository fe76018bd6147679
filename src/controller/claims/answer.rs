//! What a Claim is answered, and the status that says it. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::ClaimFacts;
use crate::{
    api::{ClaimPhase, ClaimStatus, Holder},
    controller::{
        object::{Key, Object},
        status::set_condition,
        words,
    },
    coordinator::protocol::Reason,
    rules::{Decision, Refused, Settlement},
};

/// Longest message, in characters, as the schema has it.
const LONGEST: usize = 1024;

/// How a Claim stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It waits; this is for what.
    Waits(String),
    /// It holds.
    Holds {
        /// Its fencing token.
        token: i64,
        /// Since when.
        since: Timestamp,
        /// When that ends unless it is renewed, by the API server's clock.
        expires_at: Option<Timestamp>,
    },
    /// What it asked for was done.
    Done,
    /// It will not be granted.
    Denied {
        /// A word for it.
        reason: &'static str,
        /// Why.
        text: String,
    },
    /// Its hold was taken from it.
    Expired(String),
    /// Its hold is over.
    Released(String),
}

/// What follows from a decision for a Claim that was gathered for it; `None` if that is nothing, or must be looked up. `after` is the primitive with that
/// decision written, if there is one; `expires_at` when the Claim's hold ends unless it is renewed.
pub fn answer(claim: &ClaimFacts, key: &Key, after: Option<&Object>, decision: &Decision, expires_at: Option<Timestamp>) -> Option<Answer> {
    let (uid, namespace) = (claim.uid(), claim.who.namespace.as_str());
    let name = key.seen_from(namespace);
    let holder = after.into_iter().flat_map(Object::holders).find(|holder| holder.uid == uid);
    if claim.deleting() {
        return None;
    }
    if claim.holds() {
        return match holder.filter(|holder| claim.token() == Some(holder.token)) {
            Some(holder) => Some(held(holder, expires_at)),
            None => {
                let release = decision.released.iter().find(|release| release.holder.uid == uid)?;
                Some(match (release.lost, release.outcome) {
                    (true, _) => Answer::Expired(format!("{name} was taken from it: it was not renewed for longer than its ttl")),
                    (false, Some(true)) => Answer::Released(format!("has executed {name}")),
                    (false, Some(false)) => Answer::Released(format!("failed to execute {name}: the turn passes to the next")),
                    (false, None) => Answer::Released(format!("{name} was given back")),
                })
            }
        };
    }
    if !claim.pending() {
        return None;
    }
    if decision.granted.iter().any(|grant| grant.asker == uid) {
        return holder.map(|holder| held(holder, expires_at));
    }
    if decision.passed.iter().any(|passed| passed.asker == uid) {
        return Some(Answer::Done);
    }
    if decision.skipped.iter().any(|skipped| skipped == uid) {
        return Some(Answer::Denied { reason: "Executed", text: format!("{name} has been executed: there is nothing left to do") });
    }
    if let Some(refusal) = decision.refused.iter().find(|refusal| refusal.asker == uid) {
        return Some(denied(key, after, refusal.why, namespace));
    }
    if let Some(settled) = decision.settled.iter().find(|settled| settled.uid == uid) {
        let denied = |text| Some(Answer::Denied { reason: "Denied", text });
        return match settled.how {
            Settlement::Counted => Some(Answer::Done),
            Settlement::BelowZero => {
                denied(format!("denied: the counter of {name} would fall below zero, counting only what was added by hand"))
            }
            Settlement::Late => Some(Answer::Denied { reason: "Late", text: words::late(key, after, namespace) }),
            Settlement::NotAllowed => Some(self::denied(key, after, Refused::NotAllowed, namespace)),
            Settlement::Unsuitable => Some(self::denied(key, after, Refused::Unsuitable, namespace)),
        };
    }
    let place = decision.queue.iter().position(|queued| queued.asker == uid);
    let why = place.and_then(|place| decision.queue.get(place)).map(|queued| queued.why);
    words::claim_waits(key, after, why, place == Some(0), namespace).map(Answer::Waits)
}

fn held(holder: &Holder, expires_at: Option<Timestamp>) -> Answer {
    Answer::Holds { token: holder.token, since: holder.since.0, expires_at }
}

fn denied(key: &Key, object: Option<&Object>, why: Refused, namespace: &str) -> Answer {
    let (reason, text) = words::refusal(key, object, why, namespace);
    let reason = match reason {
        _ if why == Refused::Failed => "Failed",
        Reason::TimedOut => "TimedOut",
        _ => "Denied",
    };
    Answer::Denied { reason, text }
}

/// The status with this answer.
pub fn status(claim: &ClaimFacts, answer: &Answer, now: Timestamp) -> ClaimStatus {
    let before = claim.claim.status.clone().unwrap_or_default();
    let name = claim.key.seen_from(&claim.who.namespace);
    let (phase, reason, text) = match answer {
        Answer::Waits(text) => (ClaimPhase::Pending, "Waiting", text.clone()),
        Answer::Holds { token, .. } => (ClaimPhase::Granted, "Acquired", format!("holds {name} with token {token}")),
        Answer::Done => (ClaimPhase::Granted, "Done", "done".to_owned()),
        Answer::Denied { reason, text } => (ClaimPhase::Denied, *reason, text.clone()),
        Answer::Expired(text) => (ClaimPhase::Expired, "Expired", text.clone()),
        Answer::Released(text) => (ClaimPhase::Released, "Released", text.clone()),
    };
    let text: String = text.chars().take(LONGEST).collect();
    let generation = claim.claim.metadata.generation;
    let mut conditions = before.conditions.clone();
    set_condition(&mut conditions, now, generation, "Granted", (phase == ClaimPhase::Granted, reason), text.clone());
    let (token, granted_at) = match answer {
        Answer::Holds { token, since, .. } => (Some(*token), before.granted_at.or(Some(Time(*since)))),
        Answer::Done => (None, before.granted_at.or(Some(whole(now)))),
        _ => (before.token, before.granted_at),
    };
    let expires_at = match answer {
        // What people were shown stands until it is renewed, or is over: after a change of leader not every Claim is written anew.
        Answer::Holds { expires_at, .. } => {
            let shown = before.expires_at.filter(|shown| before.observed_generation == generation && shown.0 > now);
            shown.or(expires_at.map(whole))
        }
        _ => None,
    };
    let message = (phase != ClaimPhase::Granted).then_some(text);
    ClaimStatus { observed_generation: generation, conditions, phase, token, granted_at, expires_at, message }
}

/// As it will be read again: to the second.
fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// When a hold ends that was last renewed at this time.
pub fn ends(time: Timestamp, ttl: Duration) -> Option<Timestamp> {
    time.checked_add(ttl).ok()
}

//! What a Claim is answered, and the status that says it. Pure.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::ClaimFacts;
use crate::{
    api::{ClaimPhase, ClaimStatus, Holder, denied as reasons},
    controller::{
        object::{Key, Object},
        status::set_condition,
        words,
    },
    coordinator::protocol::Reason,
    rules::{Decision, Once, Queued, Record, Refused, Release, Settlement, Why},
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

/// What a decision means for those who asked, by their UIDs: a long line is answered in one pass.
pub struct Answers<'a> {
    key: &'a Key,
    after: Option<&'a Object>,
    fates: HashMap<&'a str, Fate>,
    holders: HashMap<&'a str, &'a Holder>,
    released: HashMap<&'a str, &'a Release>,
    /// What nearly all who wait are told.
    in_line: Option<String>,
}

/// What became of a request, a wait, an arrival or a step by hand.
#[derive(Clone, Copy)]
enum Fate {
    Queued { why: Why, first: bool },
    Settled(Settlement),
    Refused(Refused),
    Skipped,
    Passed,
    Granted,
}

impl<'a> Answers<'a> {
    /// From a decision and the primitive with that decision written, if there is one.
    pub fn of(key: &'a Key, after: Option<&'a Object>, decision: &'a Decision) -> Self {
        let queued = decision.queue.iter().enumerate().map(|(place, queued)| {
            let Queued { asker, why } = queued;
            (asker, Fate::Queued { why: *why, first: place == 0 })
        });
        let fates = queued
            .chain(decision.settled.iter().map(|settled| (&settled.uid, Fate::Settled(settled.how))))
            .chain(decision.refused.iter().map(|refusal| (&refusal.asker, Fate::Refused(refusal.why))))
            .chain(decision.skipped.iter().map(|asker| (asker, Fate::Skipped)))
            .chain(decision.passed.iter().map(|passed| (&passed.asker, Fate::Passed)))
            .chain(decision.granted.iter().map(|grant| (&grant.asker, Fate::Granted)));
        Self {
            key,
            after,
            fates: fates.map(|(uid, fate)| (uid.as_str(), fate)).collect(),
            holders: after.into_iter().flat_map(Object::holders).map(|holder| (holder.uid.as_str(), holder)).collect(),
            released: decision.released.iter().map(|release| (release.holder.uid.as_str(), release)).collect(),
            in_line: words::claim_waits(key, after, Some(Why::InLine), false),
        }
    }

    /// What a Claim that was gathered for the decision is answered; `None` if that is nothing, or must be looked up. `expires_at` is when its hold ends
    /// unless it is renewed.
    pub fn to(&self, claim: &ClaimFacts, expires_at: Option<Timestamp>) -> Option<Answer> {
        let holder = self.holders.get(claim.uid());
        let held = |holder: &&Holder| Answer::Holds { token: holder.token, expires_at };
        if claim.deleting() {
            None
        } else if claim.holds() {
            let ended = || self.released.get(claim.uid()).filter(|release| claim.token() == Some(release.holder.token));
            let holder = holder.filter(|holder| claim.token() == Some(holder.token));
            holder.map(held).or_else(|| ended().map(|release| self.ended(release)))
        } else if claim.pending() {
            let fate = self.fates.get(claim.uid()).copied();
            if matches!(fate, Some(Fate::Granted)) { holder.map(held) } else { self.not_held(fate) }
        } else {
            None
        }
    }

    fn not_held(&self, fate: Option<Fate>) -> Option<Answer> {
        let Self { key, after, .. } = *self;
        let name = key.seen_from(&key.namespace);
        let denied = |reason, text| Some(Answer::Denied { reason, text });
        match fate {
            Some(Fate::Granted) => None,
            Some(Fate::Passed | Fate::Settled(Settlement::Counted)) => Some(Answer::Done),
            Some(Fate::Skipped) => denied(reasons::EXECUTED, format!("{name} has been executed: there is nothing left to do")),
            Some(Fate::Refused(why)) => Some(self.refused(why)),
            Some(Fate::Settled(Settlement::NotAllowed)) => Some(self.refused(Refused::NotAllowed)),
            Some(Fate::Settled(Settlement::Unsuitable)) => Some(self.refused(Refused::Unsuitable)),
            Some(Fate::Settled(Settlement::Late)) => denied(reasons::LATE, words::late(key, after, &key.namespace)),
            Some(Fate::Settled(Settlement::BelowZero)) => denied(
                reasons::DENIED,
                format!("denied: the counter of {name} would fall below zero, counting only what was added by hand"),
            ),
            Some(Fate::Queued { why: Why::InLine, first: false }) => self.in_line.clone().map(Answer::Waits),
            Some(Fate::Queued { why, first }) => words::claim_waits(key, after, Some(why), first).map(Answer::Waits),
            None => words::claim_waits(key, after, None, false).map(Answer::Waits),
        }
    }

    fn refused(&self, why: Refused) -> Answer {
        let (reason, text) = words::refusal(self.key, self.after, why, &self.key.namespace);
        let reason = match (why, reason) {
            (Refused::Failed, _) => reasons::FAILED,
            (Refused::NotFree, _) => reasons::NOT_FREE,
            (_, Reason::TimedOut) => reasons::TIMED_OUT,
            _ => reasons::DENIED,
        };
        Answer::Denied { reason, text }
    }

    fn ended(&self, release: &Release) -> Answer {
        if release.lost { Answer::Expired(expired(self.key)) } else { released(self.key, release.outcome) }
    }
}

/// What a Claim is told that holds no more, by a leader that did not see how that came; `live` is the primitive as it is now. Who ended the hold may have
/// been lost before it could say so. An execution of an earlier round is not on record any more: it counts as lost, which is the cautious answer.
pub fn holds_no_more(key: &Key, live: Option<&Object>, claim: &ClaimFacts) -> Answer {
    let executed = match live.map(Object::record) {
        Some(Record::Once(Once { executed: Some(executed) })) => executed.by.uid == claim.uid(),
        _ => false,
    };
    match claim.claim.spec.succeeded {
        _ if executed => released(key, Some(true)),
        Some(false) => released(key, Some(false)),
        _ => Answer::Expired(format!("no longer holds {}", key.seen_from(&key.namespace))),
    }
}

/// What a Claim is told that has given back what it held, having executed a Once or not.
fn released(key: &Key, outcome: Option<bool>) -> Answer {
    let name = key.seen_from(&key.namespace);
    Answer::Released(match outcome {
        Some(true) => format!("has executed {name}"),
        Some(false) => format!("failed to execute {name}: the turn passes to the next"),
        None => format!("{name} was given back"),
    })
}

/// What a Claim is told whose time has passed.
pub fn expired(key: &Key) -> String {
    format!("{} was taken from it: it was not renewed for longer than its ttl", key.seen_from(&key.namespace))
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
    let text: String = cut(&text).collect();
    let generation = claim.claim.metadata.generation;
    let mut conditions = before.conditions.clone();
    set_condition(&mut conditions, now, generation, "Granted", (phase == ClaimPhase::Granted, reason), text.clone());
    let (token, granted_at) = match answer {
        // What its holder works out its `ttl` from: both ends are those of the telling.
        Answer::Holds { token, .. } => (Some(*token), before.granted_at.or(Some(whole(now)))),
        Answer::Done => (None, before.granted_at.or(Some(whole(now)))),
        _ => (before.token, before.granted_at),
    };
    let expires_at = match answer {
        // What people were shown stands until it is renewed, or is over: after a change of leader not every Claim is written anew. Before the first renewal
        // it stands even then, or its holder would work out a `ttl` that was never so.
        Answer::Holds { expires_at, .. } => {
            let stands = |shown: &Time| shown.0 > now || claim.claim.spec.renewals == 0;
            let shown = before.expires_at.filter(|shown| before.observed_generation == generation && stands(shown));
            shown.or(expires_at.map(whole))
        }
        _ => None,
    };
    let message = (phase != ClaimPhase::Granted).then_some(text);
    ClaimStatus { observed_generation: generation, conditions, phase, token, granted_at, expires_at, message }
}

/// As much of a message as the schema takes.
fn cut(text: &str) -> impl Iterator<Item = char> {
    text.chars().take(LONGEST)
}

/// Whether a status says already that its Claim waits for this.
pub fn says(status: &ClaimStatus, text: &str) -> bool {
    status.message.as_ref().is_some_and(|message| message.chars().eq(cut(text)))
}

/// As it will be read again: to the second.
fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// When a hold ends that was last renewed at this time.
pub fn ends(time: Timestamp, ttl: Duration) -> Option<Timestamp> {
    time.checked_add(ttl).ok()
}

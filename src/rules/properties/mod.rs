//! Properties of [`decide`], one file a family: small worlds in which anything may happen in any order. [`decided`] checks at every step what holds for
//! all kinds; each file adds what its own promise.

mod arrivals;
mod conditions;
mod executions;
mod gates;
mod grants;
mod readers;

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::*;
use crate::api::{HolderKind, Mode};

const EPOCH: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(EPOCH + second).unwrap()
}

fn primitive(capacity: i32, record: Record) -> Primitive {
    Primitive {
        namespace: "ns".into(),
        allowed_namespaces: vec![],
        capacity,
        created: at(0),
        deleting: false,
        holders: vec![],
        last_token: 0,
        round: Round { began: at(0), ..Round::default() },
        record,
    }
}

fn who(kind: HolderKind, uid: &str) -> Who {
    Who { kind, namespace: "ns".into(), name: uid.into(), uid: uid.into() }
}

fn request(who: Who, age: i64) -> Request {
    Request {
        who: who.into(),
        pod: None,
        permits: 1,
        mode: None,
        priority: 0,
        created: at(-age),
        presence: Presence::Here,
        patience: Patience::Forever,
        shared: false,
    }
}

fn waiter(asker: &str, patience: u8) -> Waiter {
    Waiter { asker: asker.into(), namespace: "ns".into(), patience: patience_of(patience), proceeds: patience % 2 == 1 }
}

fn patience_of(number: u8) -> Patience {
    match number % 4 {
        0 => Patience::Now,
        1 => Patience::Until(at(4)),
        _ => Patience::Forever,
    }
}

fn step(uid: &str, second: i64, step: Step) -> Adjustment {
    Adjustment { uid: uid.into(), namespace: "ns".into(), by: "ann".into(), at: at(second), step }
}

fn ended(uid: &str) -> Evidence {
    Evidence::PodOut { uid: uid.into(), how: Out::Ended }
}

fn after(primitive: &Primitive, decision: &Decision) -> Primitive {
    let Decision { holders, last_token, round, record, .. } = decision.clone();
    Primitive { holders, last_token, round, record, ..primitive.clone() }
}

fn granted(decision: &Decision) -> Vec<&str> {
    decision.granted.iter().map(|grant| grant.asker.as_str()).collect()
}

fn passed(decision: &Decision) -> Vec<&str> {
    decision.passed.iter().map(|passed| passed.asker.as_str()).collect()
}

fn settled(decision: &Decision) -> Vec<Settlement> {
    decision.settled.iter().map(|settled| settled.how).collect()
}

/// Decides, and checks what holds for every kind.
fn decided(before: &Primitive, facts: &Facts, now: Timestamp) -> Decision {
    let decision = decide(before, facts, now);
    every_asker_has_one_answer(facts, &decision);
    nothing_goes_back(before, facts, &decision);

    let written = after(before, &decision);
    let again = decide(&written, facts, now);
    assert!(!again.changed && !again.drifted && again.released.is_empty(), "the same facts again change nothing: {again:?}");
    assert_eq!(after(&written, &again), written, "nor do they without saying so");
    assert_eq!((&again.passed, &again.refused, &again.queue), (&decision.passed, &decision.refused, &decision.queue));
    for grant in &decision.granted {
        let repeated = Grant { new: false, ..grant.clone() };
        assert!(again.granted.contains(&repeated), "a repeat is answered with its own grant: {grant:?}");
    }

    let mut reversed = facts.clone();
    reversed.requests.reverse();
    reversed.arrivals.reverse();
    reversed.steps.reverse();
    reversed.evidence.reverse();
    assert_eq!(after(before, &decide(before, &reversed, now)), written, "the order in which facts are listed decides nothing");
    decision
}

fn every_asker_has_one_answer(facts: &Facts, decision: &Decision) {
    let mut answers: Vec<&str> = decision.granted.iter().map(|grant| grant.asker.as_str()).collect();
    answers.extend(decision.refused.iter().map(|refusal| refusal.asker.as_str()));
    answers.extend(decision.queue.iter().map(|queued| queued.asker.as_str()));
    answers.extend(decision.passed.iter().map(|passed| passed.asker.as_str()));
    answers.extend(decision.skipped.iter().map(String::as_str));
    let mut askers: Vec<&str> = facts.requests.iter().map(Request::asker).collect();
    askers.extend(facts.waiters.iter().map(|waiter| waiter.asker.as_str()));
    answers.sort_unstable();
    askers.sort_unstable();
    assert_eq!(answers, askers);
    assert!(decision.settled.len() <= facts.arrivals.len() + facts.steps.len());
}

/// Tokens grow; within a round, what is finished stays finished, and whoever was counted stays counted.
fn nothing_goes_back(before: &Primitive, facts: &Facts, decision: &Decision) {
    let tokens: BTreeSet<i64> = decision.holders.iter().map(|holder| holder.token).collect();
    assert_eq!(tokens.len(), decision.holders.len(), "every hold has a token of its own");
    assert!(decision.last_token >= before.last_token.max(tokens.last().copied().unwrap_or_default()));
    for grant in decision.granted.iter().filter(|grant| grant.new) {
        assert!(grant.token > before.last_token && grant.token >= (EPOCH + 1) * 1000);
    }
    assert!(decision.round.number >= before.round.number);
    if decision.round.number > before.round.number {
        assert!(facts.steps.iter().any(|step| !before.round.applied.contains(&step.uid) && !matches!(step.step, Step::Add(_))));
        assert!(decision.changed);
        return;
    }
    assert_eq!(decision.round.began, before.round.began);
    match (&before.record, &decision.record) {
        (Record::Barrier(before), Record::Barrier(after)) => {
            assert!(before.state == Latch::Shut || before == after);
            assert!(after.arrivals.starts_with(&before.arrivals));
        }
        (Record::Gate(before), Record::Gate(after)) => {
            assert!(before.state == Latch::Shut || (before.state, before.since) == (after.state, after.since));
        }
        (Record::Once(before), Record::Once(after)) => assert!(before.executed.is_none() || before == after),
        (Record::WaitGroup(before), Record::WaitGroup(after)) => {
            assert!(before.done_at.is_none() || before.done_at == after.done_at);
            assert!(after.added >= 0);
        }
        (before, after) => assert_eq!(before, after),
    }
}

//! The exhaustive walk of a Barrier: three participants that succeed or fail, owe their end until it is recorded, and vanish then; one that waits; a
//! deadline that passes at any moment; two controllers whose picture is as old as it likes, whose writes are compare-and-swaps, and who die anywhere.

use std::time::Duration;

use jiff::Timestamp;
use konductor::{
    api::HolderKind,
    rules::{self, Barrier, Facts, Latch, Participant, Patience, Primitive, Record, Round, Waiter, Who},
};

use crate::{
    explore::{Walked, explore},
    walk::CREATED,
};

const PEOPLE: usize = 3;

/// How far a participant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Runs,
    Failed,
    /// It has succeeded, and is kept for that.
    Owes,
    /// It was let go.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wait {
    Waits,
    Passed,
    Refused,
}

/// What a Barrier records.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Recorded {
    arrived: Vec<usize>,
    open: bool,
    failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Controller {
    Idle,
    /// Its write is under way. `fresh`: nobody else has written since it was decided.
    Writes {
        next: Recorded,
        fresh: bool,
    },
    /// Its write succeeded, and it goes on to tell and to free.
    Wrote,
    /// It has read that this one's end is on record, and is about to let it go.
    Frees(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    people: [Stage; PEOPLE],
    succeeded: [bool; PEOPLE],
    waiter: Wait,
    late: bool,
    barrier: Recorded,
    controllers: [Controller; 2],
}

/// Visits every reachable state of a Barrier with this quorum.
pub fn walk(quorum: i32, timeout: bool) -> Walked {
    let barrier = Recorded { arrived: vec![], open: false, failed: false };
    let idle = [Controller::Idle, Controller::Idle];
    let first =
        State { people: [Stage::Runs; PEOPLE], succeeded: [false; PEOPLE], waiter: Wait::Waits, late: false, barrier, controllers: idle };
    explore(first, |state| {
        let mut next = world(state, timeout);
        let own = next.len();
        for controller in 0..2 {
            steps(state, controller, (quorum, timeout), &mut next);
        }
        let progress = next[own..].iter().any(|after| after != state);
        next.retain(|after| after != state);
        next.iter().try_for_each(|after| check(state, after, quorum))?;
        let idle = state.controllers.iter().all(|controller| *controller == Controller::Idle);
        let waits = state.people.contains(&Stage::Owes) || (state.waiter == Wait::Waits && (state.barrier.open || state.barrier.failed));
        if idle && waits && !progress {
            return Err("somebody waits, and nobody does anything".to_owned());
        }
        Ok(next)
    })
}

/// What happens by itself.
fn world(state: &State, timeout: bool) -> Vec<State> {
    let mut next = Vec::new();
    for person in (0..PEOPLE).filter(|person| state.people[*person] == Stage::Runs) {
        for well in [true, false] {
            let mut after = state.clone();
            (after.people[person], after.succeeded[person]) = (if well { Stage::Owes } else { Stage::Failed }, well);
            next.push(after);
        }
    }
    if timeout && !state.late {
        next.push(State { late: true, ..state.clone() });
    }
    next
}

fn steps(state: &State, controller: usize, scene: (i32, bool), next: &mut Vec<State>) {
    let with = |stage: Controller| {
        let mut after = state.clone();
        after.controllers[controller] = stage;
        after
    };
    match &state.controllers[controller] {
        Controller::Idle => {
            // Whoever was let go may still be in its picture.
            for old in [false, true] {
                let decided = decide(state, scene, old);
                if decided == state.barrier {
                    next.push(told(state, with(Controller::Idle)));
                } else {
                    next.push(with(Controller::Writes { next: decided, fresh: true }));
                }
            }
            for person in 0..PEOPLE {
                let recorded = state.barrier.arrived.contains(&person) || state.barrier.open || state.barrier.failed;
                if state.people[person] == Stage::Owes && recorded {
                    next.push(with(Controller::Frees(person)));
                }
            }
        }
        Controller::Writes { next: decided, fresh: true } => {
            let mut after = with(Controller::Wrote);
            after.barrier.clone_from(decided);
            for other in &mut after.controllers {
                if let Controller::Writes { fresh, .. } = other {
                    *fresh = false;
                }
            }
            // It goes on, or dies with the answer under way.
            let mut dead = after.clone();
            dead.controllers[controller] = Controller::Idle;
            next.extend([after, dead]);
        }
        Controller::Writes { fresh: false, .. } => next.push(with(Controller::Idle)),
        Controller::Wrote => next.push(told(state, with(Controller::Idle))),
        Controller::Frees(person) => {
            let mut after = with(Controller::Idle);
            after.people[*person] = Stage::Gone;
            next.extend([after, with(Controller::Idle)]);
        }
    }
}

/// Who waits hears what the Barrier says now.
fn told(state: &State, mut after: State) -> State {
    if state.waiter == Wait::Waits && state.barrier.open {
        after.waiter = Wait::Passed;
    }
    if state.waiter == Wait::Waits && state.barrier.failed {
        after.waiter = Wait::Refused;
    }
    after
}

fn who(person: usize) -> Who {
    Who { kind: HolderKind::Job, namespace: "ns".into(), name: String::new(), uid: person.to_string() }
}

fn decide(state: &State, (quorum, timeout): (i32, bool), old: bool) -> Recorded {
    let created = Timestamp::from_second(CREATED).unwrap_or_default();
    let now = Timestamp::from_second(CREATED + if state.late { 100 } else { 10 }).unwrap_or_default();
    let at = Timestamp::from_second(CREATED + 5).unwrap_or_default();
    let arrival = |person: &usize| Participant { who: who(*person), at };
    let latch = match (state.barrier.open, state.barrier.failed) {
        (true, _) => Latch::Open,
        (_, true) => Latch::Failed,
        _ => Latch::Shut,
    };
    let timeout = timeout.then_some(Duration::from_secs(60));
    let arrivals = state.barrier.arrived.iter().map(arrival).collect();
    let primitive = Primitive {
        namespace: "ns".into(),
        allowed_namespaces: vec![],
        capacity: 1,
        created,
        deleting: false,
        holders: vec![],
        last_token: 0,
        round: Round { began: created, ..Round::default() },
        record: Record::Barrier(Barrier { quorum, timeout, arrivals, state: latch, since: None }),
    };
    let shows = |person: &usize| state.people[*person] == Stage::Owes || (old && state.people[*person] == Stage::Gone);
    let facts = Facts {
        arrivals: (0..PEOPLE).filter(shows).map(|person| arrival(&person)).collect(),
        waiters: vec![Waiter { asker: "waiter".into(), namespace: "ns".into(), patience: Patience::Forever, proceeds: false }],
        ..Facts::default()
    };
    let Record::Barrier(barrier) = rules::decide(&primitive, &facts, now).record else { return state.barrier.clone() };
    Recorded {
        arrived: barrier.arrivals.iter().filter_map(|arrival| arrival.who.uid.parse().ok()).collect(),
        open: barrier.state == Latch::Open,
        failed: barrier.state == Latch::Failed,
    }
}

fn check(before: &State, after: &State, quorum: i32) -> Result<(), String> {
    let Recorded { arrived, open, failed } = &after.barrier;
    let distinct = (0..PEOPLE).filter(|person| arrived.contains(person)).count();
    if distinct != arrived.len() || arrived.iter().any(|person| !after.succeeded[*person]) {
        return Err(format!("{arrived:?} have arrived, somebody twice or without having succeeded"));
    }
    if *open && i32::try_from(distinct).unwrap_or(0) < quorum {
        return Err(format!("open with {distinct} of {quorum}"));
    }
    if (before.barrier.open && !open) || (before.barrier.failed && !failed) || !arrived.starts_with(&before.barrier.arrived) {
        return Err("what was recorded does not stay so".to_owned());
    }
    if *failed && !after.late {
        return Err("failed before its time".to_owned());
    }
    if (after.waiter == Wait::Passed) && !open {
        return Err("somebody passed a Barrier that is shut".to_owned());
    }
    let lost = |person: &usize| after.people[*person] == Stage::Gone && !arrived.contains(person) && !open && !failed;
    (0..PEOPLE).find(lost).map_or(Ok(()), |person| Err(format!("the arrival of {person} is lost")))
}

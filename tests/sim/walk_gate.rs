//! The exhaustive walk of a Gate: two Jobs that complete, fail, are deleted and made again under the same name; one that waits; two controllers, each with
//! a picture of the Jobs that lags behind by as much as it likes.

use jiff::Timestamp;
use konductor::{
    api::GateType,
    rules::{self, Condition, Facts, Gate, Latch, Observed, Patience, Primitive, Record, Round, Seen, Sight, Standing, Waiter},
};

use crate::{
    explore::{Walked, explore},
    walk::CREATED,
};

/// A Job of a name: which one it is, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    Runs(u8),
    Complete(u8),
    Failed(u8),
    /// The so-manieth is deleted.
    Gone(u8),
}

/// Which Job met each condition, and whether the Gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Recorded {
    met: [Option<u8>; 2],
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Controller {
    Idle,
    Writes { next: Recorded, fresh: bool },
    Wrote,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    jobs: [Job; 2],
    /// Which Jobs have really completed.
    completed: [[bool; 2]; 2],
    pictures: [[Job; 2]; 2],
    gate: Recorded,
    passed: bool,
    controllers: [Controller; 2],
}

/// Visits every reachable state. The first Job may be made a second time.
pub fn walk() -> Walked {
    let jobs = [Job::Runs(0); 2];
    let gate = Recorded { met: [None, None], open: false };
    let first = State { jobs, completed: [[false; 2]; 2], pictures: [jobs; 2], gate, passed: false, controllers: [Controller::Idle; 2] };
    explore(first, |state| {
        let mut next = Vec::new();
        for job in 0..2 {
            next.extend(becomes(state.jobs[job], job == 0).into_iter().map(|now| {
                let mut after = state.clone();
                after.jobs[job] = now;
                if let Job::Complete(which) = now {
                    after.completed[job][usize::from(which)] = true;
                }
                after
            }));
        }
        let own = next.len();
        for controller in 0..2 {
            steps(state, controller, &mut next);
        }
        let progress = next[own..].iter().any(|after| after != state);
        next.retain(|after| after != state);
        next.iter().try_for_each(|after| check(state, after))?;
        let met = (0..2).all(|job| matches!(state.jobs[job], Job::Complete(_)));
        if !progress && (met && !state.gate.open || state.gate.open && !state.passed) {
            return Err("all conditions are met, and nobody does anything".to_owned());
        }
        Ok(next)
    })
}

/// What can become of a Job. A controller that looks at it late may have missed all of it.
fn becomes(job: Job, again: bool) -> Vec<Job> {
    match job {
        Job::Runs(which) => vec![Job::Complete(which), Job::Failed(which), Job::Gone(which)],
        Job::Complete(which) | Job::Failed(which) => vec![Job::Gone(which)],
        Job::Gone(0) if again => vec![Job::Runs(1)],
        Job::Gone(_) => vec![],
    }
}

fn steps(state: &State, controller: usize, next: &mut Vec<State>) {
    let with = |stage: Controller| {
        let mut after = state.clone();
        after.controllers[controller] = stage;
        after
    };
    match state.controllers[controller] {
        Controller::Idle => {
            for job in 0..2 {
                let mut after = state.clone();
                after.pictures[controller][job] = state.jobs[job];
                next.push(after);
            }
            let decided = decide(state, controller);
            if decided == state.gate {
                let mut after = with(Controller::Idle);
                after.passed |= state.gate.open;
                next.push(after);
            } else {
                next.push(with(Controller::Writes { next: decided, fresh: true }));
            }
        }
        Controller::Writes { next: decided, fresh: true } => {
            let mut after = with(Controller::Wrote);
            after.gate = decided;
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
        Controller::Wrote => {
            let mut after = with(Controller::Idle);
            after.passed |= state.gate.open;
            next.push(after);
        }
    }
}

fn decide(state: &State, controller: usize) -> Recorded {
    let created = Timestamp::from_second(CREATED).unwrap_or_default();
    let name = |job: usize| format!("job-{job}");
    let condition = |job: usize| Condition { on: GateType::Job, namespace: "ns".into(), name: name(job), state: None, value: None };
    let standing = |met: Option<u8>| Standing { met: met.is_some(), uid: met.map(|which| which.to_string()), ..Standing::default() };
    let latch = if state.gate.open { Latch::Open } else { Latch::Shut };
    let gate = Gate {
        conditions: (0..2).map(condition).collect(),
        standings: state.gate.met.into_iter().map(standing).collect(),
        state: latch,
        ..Gate::default()
    };
    let primitive = Primitive {
        namespace: "ns".into(),
        allowed_namespaces: vec![],
        capacity: 1,
        created,
        deleting: false,
        holders: vec![],
        last_token: 0,
        round: Round { began: created, ..Round::default() },
        record: Record::Gate(gate),
    };
    let seen = |(job, picture): (usize, &Job)| {
        let (which, complete, failed) = match picture {
            Job::Runs(which) => (which, false, false),
            Job::Complete(which) => (which, true, false),
            Job::Failed(which) => (which, false, true),
            Job::Gone(_) => return None,
        };
        let seen = Seen::Job { complete, failed, active: 0, succeeded: 0 };
        Some(Observed { on: GateType::Job, namespace: "ns".into(), name: name(job), sight: Sight::There { uid: which.to_string(), seen } })
    };
    let facts = Facts {
        conditions: state.pictures[controller].iter().enumerate().filter_map(seen).collect(),
        waiters: vec![Waiter { asker: "waiter".into(), namespace: "ns".into(), patience: Patience::Forever, proceeds: false }],
        ..Facts::default()
    };
    let Record::Gate(gate) = rules::decide(&primitive, &facts, created).record else { return state.gate };
    let met = |index: usize| {
        let standing: Option<&Standing> = gate.standings.get(index).filter(|standing| standing.met);
        standing.and_then(|standing| standing.uid.as_ref()?.parse().ok())
    };
    Recorded { met: [met(0), met(1)], open: gate.state == Latch::Open }
}

fn check(before: &State, after: &State) -> Result<(), String> {
    for (job, met) in after.gate.met.iter().enumerate() {
        if met.is_some_and(|which| !after.completed[job][usize::from(which)]) {
            return Err(format!("job {job} counts as complete, and is not"));
        }
    }
    if after.gate.open && after.gate.met.contains(&None) {
        return Err("open without its conditions".to_owned());
    }
    if before.gate.open && !after.gate.open {
        return Err("it was open".to_owned());
    }
    if after.passed && !after.gate.open {
        return Err("somebody passed a Gate that is shut".to_owned());
    }
    // The second Job has no successor: nothing can take the place of what it met.
    if before.gate.met[1].is_some() && after.gate.met[1].is_none() {
        return Err("what was met is forgotten".to_owned());
    }
    Ok(())
}

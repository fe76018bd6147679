//! The exhaustive walk: every order in which two controllers and three participants can act, on the real rules. What a controller knows may be as old as
//! it likes; a write succeeds only on the revision that it was decided on; answers get lost; controllers die between any two steps.

use std::collections::{HashSet, VecDeque};

use jiff::Timestamp;
use konductor::{
    api::{Holder, HolderKind},
    rules::{self, Evidence, Facts, Out, Patience, PodRef, Presence, Primitive, Record, Request, Round, Who},
};

const CREATED: i64 = 1_000_000;

/// One that wants to hold: a Pod, or a Job whose first Pod may be replaced by a second one, even while the first still runs.
#[derive(Clone, Copy, Debug)]
pub struct Participant {
    pub job: bool,
    pub permits: i32,
    pub priority: i32,
}

/// How far a Pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Absent,
    Waits,
    Told,
    Runs,
    /// Over, but the API does not show it yet.
    Ended,
    Shown,
}

/// A write on its way, with the decision behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    holders: Vec<Held>,
    last_token: i64,
    /// Pods that will be told when it has succeeded.
    granted: Vec<usize>,
    /// Nobody else has written since it was decided.
    fresh: bool,
}

/// A holder, as far as the walk distinguishes it: participant, token, Pods that were let in.
type Held = (usize, i64, Vec<(usize, i64)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Controller {
    Idle,
    /// Its write is under way.
    Writes,
    /// Its write succeeded; it has not told anybody.
    Wrote,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    holders: Vec<Held>,
    last_token: i64,
    /// Two Pods a participant: number 2p and 2p + 1.
    pods: Vec<Stage>,
    over: Vec<bool>,
    controllers: [(Controller, Option<Pending>); 2],
}

/// What the walk found.
#[derive(Debug, Default)]
pub struct Walked {
    pub states: usize,
    pub problem: Option<String>,
}

struct Walk<'a> {
    participants: &'a [Participant],
    capacity: i32,
}

/// Visits every reachable state.
pub fn walk(participants: &[Participant], capacity: i32) -> Walked {
    let walk = Walk { participants, capacity };
    let pods = participants.iter().flat_map(|_| [Stage::Waits, Stage::Absent]).collect();
    let idle = (Controller::Idle, None);
    let first = State { holders: vec![], last_token: 0, pods, over: vec![false; participants.len()], controllers: [idle.clone(), idle] };
    let mut seen = HashSet::from([first.clone()]);
    let mut front = VecDeque::from([first]);
    while let Some(state) = front.pop_front() {
        let mut next = Vec::new();
        if let Err(problem) = walk.steps(&state, &mut next) {
            return Walked { states: seen.len(), problem: Some(format!("{problem}, after {state:?}")) };
        }
        if let Some(problem) = walk.stuck(&state, &next) {
            return Walked { states: seen.len(), problem: Some(format!("{problem}: {state:?}")) };
        }
        for state in next {
            if seen.insert(state.clone()) {
                front.push_back(state);
            }
        }
    }
    Walked { states: seen.len(), problem: None }
}

impl Walk<'_> {
    fn name(pod: usize) -> String {
        format!("pod-{pod}")
    }

    fn uid(&self, participant: usize) -> String {
        if self.participants[participant].job { format!("job-{participant}") } else { Self::name(2 * participant) }
    }

    fn primitive(&self, state: &State) -> Primitive {
        let holder = |(participant, token, pods): &Held| {
            let Participant { job, permits, .. } = self.participants[*participant];
            Holder {
                uid: self.uid(*participant),
                kind: if job { HolderKind::Job } else { HolderKind::Pod },
                namespace: "ns".into(),
                name: String::new(),
                token: *token,
                permits,
                mode: None,
                since: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
                pods: pods
                    .iter()
                    .map(|(pod, token)| konductor::api::Admitted { uid: Self::name(*pod), name: String::new(), token: *token })
                    .collect(),
                renewals: 0,
                expires_at: None,
            }
        };
        let created = Timestamp::from_second(CREATED).unwrap_or_default();
        Primitive {
            namespace: "ns".into(),
            allowed_namespaces: vec![],
            capacity: self.capacity,
            created,
            deleting: false,
            holders: state.holders.iter().map(holder).collect(),
            last_token: state.last_token,
            round: Round { began: created, ..Round::default() },
            record: Record::Grants,
        }
    }

    fn requests(&self, state: &State) -> Vec<Request> {
        let wants = |pod: &usize| {
            let participant = pod / 2;
            let Participant { job, permits, priority } = self.participants[participant];
            let kind = if job { HolderKind::Job } else { HolderKind::Pod };
            Request {
                who: Who { kind, namespace: "ns".into(), name: String::new(), uid: self.uid(participant) },
                pod: job.then(|| PodRef { uid: Self::name(*pod), name: String::new() }),
                permits,
                mode: None,
                priority,
                created: Timestamp::from_second(CREATED - 100 + i64::try_from(participant).unwrap_or(0)).unwrap_or_default(),
                presence: Presence::Here,
                patience: Patience::Forever,
                shared: false,
            }
        };
        (0..state.pods.len()).filter(|pod| state.pods[*pod] == Stage::Waits).map(|pod| wants(&pod)).collect()
    }

    /// What can be known. It never becomes untrue, so knowing less is covered by acting earlier.
    fn evidence(&self, state: &State) -> Vec<Evidence> {
        let out = (0..state.pods.len()).filter(|pod| state.pods[*pod] == Stage::Shown);
        let over = (0..self.participants.len()).filter(|participant| state.over[*participant] && self.none_runs(state, *participant));
        out.map(|pod| Evidence::PodOut { uid: Self::name(pod), how: Out::Ended })
            .chain(over.map(|participant| Evidence::JobOver { uid: self.uid(participant) }))
            .collect()
    }

    fn none_runs(&self, state: &State, participant: usize) -> bool {
        [2 * participant, 2 * participant + 1].iter().all(|pod| matches!(state.pods[*pod], Stage::Absent | Stage::Shown))
    }

    fn steps(&self, state: &State, next: &mut Vec<State>) -> Result<(), String> {
        for pod in 0..state.pods.len() {
            self.pod_steps(state, pod, next);
        }
        for controller in 0..2 {
            self.controller_steps(state, controller, next)?;
        }
        next.retain(|after| after != state);
        next.iter().try_for_each(|after| self.check(after))
    }

    /// Controllers that have nothing to do leave nobody behind.
    fn stuck(&self, state: &State, next: &[State]) -> Option<&'static str> {
        let pods_only = |after: &State| after.controllers == state.controllers && after.holders == state.holders;
        let told = |after: &State| (0..state.pods.len()).any(|pod| after.pods[pod] == Stage::Told && state.pods[pod] == Stage::Waits);
        if state.controllers.iter().any(|(stage, _)| *stage != Controller::Idle)
            || next.iter().any(|after| !pods_only(after) || told(after))
        {
            return None;
        }
        let ended = |(participant, ..): &Held| {
            self.none_runs(state, *participant) && (!self.participants[*participant].job || state.over[*participant])
        };
        if state.holders.iter().any(ended) {
            return Some("a hold stays after its holder's end");
        }
        (state.holders.is_empty() && state.pods.contains(&Stage::Waits)).then_some("somebody waits for nobody")
    }

    fn pod_steps(&self, state: &State, pod: usize, next: &mut Vec<State>) {
        let participant = pod / 2;
        let job = self.participants[participant].job;
        let mut to = |stage: Stage| {
            let mut after = state.clone();
            after.pods[pod] = stage;
            next.push(after);
        };
        match state.pods[pod] {
            Stage::Waits => to(Stage::Shown), // deleted while it waits
            Stage::Told => to(Stage::Runs),
            Stage::Runs => to(Stage::Ended),
            Stage::Ended => to(Stage::Shown),
            // The Job's controller makes the second Pod as soon as it likes.
            Stage::Absent if job && !state.over[participant] => to(Stage::Waits),
            Stage::Absent | Stage::Shown => {}
        }
        let settled = |pod: usize| matches!(state.pods[pod], Stage::Absent | Stage::Shown);
        if job && !state.over[participant] && settled(2 * participant) && settled(2 * participant + 1) {
            let mut after = state.clone();
            after.over[participant] = true;
            next.push(after);
        }
    }

    fn controller_steps(&self, state: &State, controller: usize, next: &mut Vec<State>) -> Result<(), String> {
        let (stage, pending) = &state.controllers[controller];
        match (stage, pending) {
            (Controller::Idle, _) => self.decide(state, controller, next)?,
            (Controller::Writes, Some(write)) => {
                let mut after = state.clone();
                if write.fresh {
                    after.holders.clone_from(&write.holders);
                    after.last_token = write.last_token;
                    for (_, other) in &mut after.controllers {
                        if let Some(other) = other {
                            other.fresh = false;
                        }
                    }
                    // It goes on, or dies with the answer under way.
                    let mut dead = after.clone();
                    dead.controllers[controller] = (Controller::Idle, None);
                    next.push(dead);
                    after.controllers[controller].0 = Controller::Wrote;
                } else {
                    after.controllers[controller] = (Controller::Idle, None);
                }
                next.push(after);
            }
            (Controller::Wrote, Some(write)) => {
                let mut after = state.clone();
                for pod in &write.granted {
                    if after.pods[*pod] == Stage::Waits {
                        after.pods[*pod] = Stage::Told;
                    }
                }
                after.controllers[controller] = (Controller::Idle, None);
                next.push(after);
            }
            (Controller::Writes | Controller::Wrote, None) => return Err("a write without a decision".into()),
        }
        Ok(())
    }

    fn decide(&self, state: &State, controller: usize, next: &mut Vec<State>) -> Result<(), String> {
        let now = Timestamp::from_second(CREATED + 10).unwrap_or_default();
        let facts = Facts { requests: self.requests(state), evidence: self.evidence(state), ..Facts::default() };
        let decision = rules::decide(&self.primitive(state), &facts, now);
        let pod_of = |uid: &str| uid.strip_prefix("pod-").and_then(|number| number.parse::<usize>().ok());
        let participant_of = |uid: &str| (0..self.participants.len()).find(|participant| self.uid(*participant) == uid);
        let mut holders = Vec::new();
        for holder in &decision.holders {
            let pods = holder.pods.iter().filter_map(|pod| Some((pod_of(&pod.uid)?, pod.token))).collect();
            holders.push((participant_of(&holder.uid).ok_or("an unknown holder")?, holder.token, pods));
        }
        let granted: Vec<usize> = decision.granted.iter().filter_map(|grant| pod_of(&grant.asker)).collect();
        let mut after = state.clone();
        if decision.changed {
            let pending = Pending { holders, last_token: decision.last_token, granted, fresh: true };
            after.controllers[controller] = (Controller::Writes, Some(pending));
        } else {
            // Nothing to write; this was a live read, so those that hold already are told.
            for pod in granted {
                after.pods[pod] = Stage::Told;
            }
        }
        next.push(after);
        Ok(())
    }

    fn check(&self, state: &State) -> Result<(), String> {
        let permits: i32 = state.holders.iter().map(|(participant, ..)| self.participants[*participant].permits).sum();
        if permits > self.capacity {
            return Err(format!("{permits} of {} permits are held", self.capacity));
        }
        let mut running = 0;
        for (participant, which) in self.participants.iter().enumerate() {
            let active = |pod: &usize| matches!(state.pods[*pod], Stage::Told | Stage::Runs);
            let pods: Vec<usize> = [2 * participant, 2 * participant + 1].into_iter().filter(active).collect();
            if pods.len() > 1 {
                return Err(format!("two Pods of job-{participant} run at once"));
            }
            let Some(pod) = pods.first() else { continue };
            running += which.permits;
            let holds = state
                .holders
                .iter()
                .any(|(holder, _, pods)| *holder == participant && (!which.job || pods.iter().any(|(admitted, _)| admitted == pod)));
            if !holds {
                return Err(format!("pod-{pod} runs and does not hold"));
            }
        }
        if running > self.capacity {
            return Err(format!("{running} of {} permits are used at once", self.capacity));
        }
        let mut tokens: Vec<i64> = state.holders.iter().map(|(_, token, _)| *token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        if tokens.len() != state.holders.len() || tokens.last().is_some_and(|token| *token > state.last_token) {
            return Err("tokens are not distinct, or larger than the counter".into());
        }
        Ok(())
    }
}

//! The exhaustive walk: every order in which two controllers and three participants can act, on the real rules. What a controller knows may be as old as
//! it likes; a write succeeds only on the revision that it was decided on; answers get lost; controllers die between any two steps.

use jiff::Timestamp;
use konductor::{
    api::{Holder, HolderKind, Mode},
    rules::{
        self, Evidence, Executed, Facts, Once, Out, Patience, PodRef, Presence, Primitive, Record, Request, Round, WHOLE, WaitGroup, Who,
    },
};

use crate::explore::{Walked, explore};

pub const CREATED: i64 = 1_000_000;

/// One that wants to hold: a Pod, or a Job whose first Pod may be replaced by a second one, even while the first still runs.
#[derive(Clone, Copy, Debug)]
pub struct Participant {
    pub job: bool,
    pub permits: i32,
    pub priority: i32,
    /// How it holds an RWMutex.
    pub mode: Option<Mode>,
}

/// What they hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Held {
    /// A Mutex, a Lease, a Semaphore or an RWMutex of so many permits.
    Grants(i32),
    Once,
    WaitGroup,
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
    holders: Vec<Hold>,
    last_token: i64,
    latch: Latch,
    /// Pods that will be told that there is nothing left to do.
    skipped: Vec<usize>,
    /// Pods that will be told when it has succeeded.
    granted: Vec<usize>,
    /// Nobody else has written since it was decided.
    fresh: bool,
}

/// A holder, as far as the walk distinguishes it: participant, token, Pods that were let in.
type Hold = (usize, i64, Vec<(usize, i64)>);

/// What is recorded for good: who executed the Once, whether the WaitGroup is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Latch {
    executed: Option<usize>,
    done: bool,
}

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
    holders: Vec<Hold>,
    last_token: i64,
    /// Two Pods a participant: number 2p and 2p + 1.
    pods: Vec<Stage>,
    over: Vec<bool>,
    /// How the last Pod of each ended.
    well: Vec<bool>,
    latch: Latch,
    controllers: [(Controller, Option<Pending>); 2],
}

struct Walk<'a> {
    participants: &'a [Participant],
    held: Held,
}

/// Visits every reachable state.
pub fn walk(participants: &[Participant], held: Held) -> Walked {
    let walk = Walk { participants, held };
    let pods = participants.iter().flat_map(|_| [Stage::Waits, Stage::Absent]).collect();
    let idle = (Controller::Idle, None);
    let none = vec![false; participants.len()];
    let controllers = [idle.clone(), idle];
    let first = State { holders: vec![], last_token: 0, pods, over: none.clone(), well: none, latch: Latch::default(), controllers };
    explore(first, |state| {
        let mut next = Vec::new();
        walk.steps(state, &mut next)?;
        walk.stuck(state, &next).map_or(Ok(next), |problem| Err(problem.to_owned()))
    })
}

impl Walk<'_> {
    fn name(pod: usize) -> String {
        format!("pod-{pod}")
    }

    fn uid(&self, participant: usize) -> String {
        if self.participants[participant].job { format!("job-{participant}") } else { Self::name(2 * participant) }
    }

    fn primitive(&self, state: &State) -> Primitive {
        let holder = |(participant, token, pods): &Hold| {
            let Participant { job, permits, mode, .. } = self.participants[*participant];
            Holder {
                uid: self.uid(*participant),
                kind: if job { HolderKind::Job } else { HolderKind::Pod },
                namespace: "ns".into(),
                name: String::new(),
                token: *token,
                permits,
                mode,
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
            capacity: self.capacity(),
            created,
            deleting: false,
            holders: state.holders.iter().map(holder).collect(),
            last_token: state.last_token,
            round: Round { began: created, ..Round::default() },
            record: match self.held {
                Held::Grants(_) => Record::Grants,
                Held::Once => {
                    let by = |participant| Who {
                        kind: HolderKind::Pod,
                        namespace: "ns".into(),
                        name: String::new(),
                        uid: self.uid(participant),
                    };
                    Record::Once(Once { executed: state.latch.executed.map(|participant| Executed { by: by(participant), at: created }) })
                }
                Held::WaitGroup => Record::WaitGroup(WaitGroup { added: 0, done_at: state.latch.done.then_some(created) }),
            },
        }
    }

    fn capacity(&self) -> i32 {
        match self.held {
            Held::Grants(capacity) => capacity,
            Held::Once | Held::WaitGroup => 1,
        }
    }

    fn weight(&self, participant: usize) -> i32 {
        let Participant { permits, mode, .. } = self.participants[participant];
        if mode == Some(Mode::Write) { WHOLE } else { permits }
    }

    fn requests(&self, state: &State) -> Vec<Request> {
        let wants = |pod: &usize| {
            let participant = pod / 2;
            let Participant { job, permits, priority, mode } = self.participants[participant];
            let kind = if job { HolderKind::Job } else { HolderKind::Pod };
            Request {
                who: Who { kind, namespace: "ns".into(), name: String::new(), uid: self.uid(participant) }.into(),
                pod: job.then(|| PodRef { uid: Self::name(*pod), name: String::new() }),
                permits,
                mode,
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
        let outcome = |participant: usize| {
            let ended =
                if self.participants[participant].job { state.over[participant] } else { state.pods[2 * participant] == Stage::Shown };
            ended.then(|| Evidence::Outcome { uid: self.uid(participant), succeeded: Some(state.well[participant]) })
        };
        out.map(|pod| Evidence::PodOut { uid: Self::name(pod), how: Out::Ended })
            .chain(over.map(|participant| Evidence::JobOver { uid: self.uid(participant) }))
            .chain((0..self.participants.len()).filter_map(outcome))
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
        next.iter().try_for_each(|after| self.check(after).and_then(|()| self.stays(state, after)))
    }

    /// Controllers that have nothing to do leave nobody behind.
    fn stuck(&self, state: &State, next: &[State]) -> Option<&'static str> {
        let pods_only = |after: &State| after.controllers == state.controllers && after.holders == state.holders;
        let told = |after: &State| {
            after.latch != state.latch || (0..state.pods.len()).any(|pod| after.pods[pod] == Stage::Told && state.pods[pod] == Stage::Waits)
        };
        if state.controllers.iter().any(|(stage, _)| *stage != Controller::Idle)
            || next.iter().any(|after| !pods_only(after) || told(after))
        {
            return None;
        }
        let ended = |(participant, ..): &Hold| {
            self.none_runs(state, *participant) && (!self.participants[*participant].job || state.over[*participant])
        };
        if state.holders.iter().any(ended) {
            return Some("a hold stays after its holder's end");
        }
        if self.held == Held::WaitGroup
            && state.holders.is_empty()
            && !state.latch.done
            && state.pods.contains(&Stage::Shown)
            && state.last_token > 0
        {
            return Some("all members are done, and the WaitGroup is not");
        }
        // Where there is something to be skipped, a turn that changes nothing tells them; that is no state of its own to wait in.
        let alone = state.holders.is_empty() || self.held == Held::WaitGroup;
        (alone && state.pods.contains(&Stage::Waits) && !next.iter().any(|after| self.refuses(state, after)))
            .then_some("somebody waits for nobody")
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
            Stage::Runs => {
                for well in [true, false] {
                    let mut after = state.clone();
                    after.pods[pod] = Stage::Ended;
                    after.well[participant] = well && self.held == Held::Once;
                    next.push(after);
                }
            }
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
                    after.latch = write.latch;
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
                for pod in &write.skipped {
                    if after.pods[*pod] == Stage::Waits {
                        after.pods[*pod] = Stage::Shown;
                    }
                }
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
        let latch = match &decision.record {
            Record::Once(once) => {
                Latch { executed: once.executed.as_ref().and_then(|executed| participant_of(&executed.by.uid)), done: false }
            }
            Record::WaitGroup(group) => Latch { executed: None, done: group.done_at.is_some() },
            _ => Latch::default(),
        };
        let skipped: Vec<usize> = decision.skipped.iter().filter_map(|asker| pod_of(asker)).collect();
        let mut after = state.clone();
        if decision.changed {
            let pending = Pending { holders, last_token: decision.last_token, latch, skipped, granted, fresh: true };
            after.controllers[controller] = (Controller::Writes, Some(pending));
        } else {
            // Nothing to write; this was a live read, so those that hold already are told.
            for pod in granted {
                after.pods[pod] = Stage::Told;
            }
            for pod in skipped {
                after.pods[pod] = Stage::Shown;
            }
        }
        next.push(after);
        Ok(())
    }

    /// Whether somebody who waits is told that there is nothing left to do.
    fn refuses(&self, state: &State, after: &State) -> bool {
        state.latch.executed.is_some()
            && state.pods.iter().zip(&after.pods).any(|(before, after)| (before, after) == (&Stage::Waits, &Stage::Shown))
    }

    /// What is recorded for good stays; a WaitGroup is not done while it has members.
    fn stays(&self, state: &State, after: &State) -> Result<(), String> {
        if state.latch != Latch::default() && after.latch != state.latch {
            return Err("what is finished does not stay so".to_owned());
        }
        if after.latch.done && !state.latch.done && !after.holders.is_empty() {
            return Err("a WaitGroup is done that has members".to_owned());
        }
        Ok(())
    }

    fn check(&self, state: &State) -> Result<(), String> {
        let members = self.held == Held::WaitGroup;
        let permits: i32 = state.holders.iter().map(|(participant, ..)| self.weight(*participant)).sum();
        if permits > self.capacity() && !members {
            return Err(format!("{permits} of {} permits are held", self.capacity()));
        }
        if state.latch.executed.is_some_and(|participant| !state.well[participant] || !state.holders.is_empty()) {
            return Err("a Once is executed that nobody executed, or somebody executes it again".to_owned());
        }
        let mut running = 0;
        for (participant, which) in self.participants.iter().enumerate() {
            let active = |pod: &usize| matches!(state.pods[*pod], Stage::Told | Stage::Runs);
            let pods: Vec<usize> = [2 * participant, 2 * participant + 1].into_iter().filter(active).collect();
            if pods.len() > 1 && !members {
                return Err(format!("two Pods of job-{participant} run at once"));
            }
            let Some(pod) = pods.first() else { continue };
            running += self.weight(participant);
            let holds = state
                .holders
                .iter()
                .any(|(holder, _, pods)| *holder == participant && (!which.job || pods.iter().any(|(admitted, _)| admitted == pod)));
            if !holds {
                return Err(format!("pod-{pod} runs and does not hold"));
            }
        }
        if running > self.capacity() && !members {
            return Err(format!("{running} of {} permits are used at once", self.capacity()));
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

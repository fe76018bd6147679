//! The judge of what primitives record beside their holders: who has arrived, who has executed, whether all are done, which conditions were met. What
//! they say must be so in truth, and what is finished stays so.

use jiff::Timestamp;
use konductor::{
    api::{GateState, GateType, Holder, HolderKind},
    controller::object::{Key, Object},
    rules::{Barrier, Gate, Latch, Once, Participant, Record, Round, WaitGroup},
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cluster::{condition, text},
    core::Core,
    judge::latch,
    people::skipped,
    pod::Step,
    request::{Place, What, Writer},
    truth::NAMESPACE,
};

impl Core {
    /// What a Job or a primitive has come to, for those Gates that wait for it.
    pub fn finished(&mut self, place: &Place, after: Option<&Value>) {
        let Some(object) = after.filter(|_| place.0 == What::Jobs) else { return };
        let uid = text(&object["metadata"]["uid"]);
        // A Job without annotations of its own has nothing to do with konductor.
        let truly = self.truth.people.get(&uid).is_none_or(|person| person.succeeded);
        if condition(object, "Complete") && !skipped(object) && truly {
            self.judge.finished.insert((uid.clone(), "Complete"));
        }
        if condition(object, "Failed") {
            self.judge.finished.insert((uid, "Failed"));
        }
    }

    /// A primitive changed.
    pub fn judge_record(&mut self, writer: Writer, old: Option<&Object>, new: Option<&Object>) {
        let Some(new) = new else { return };
        let key = new.key();
        let old = old.filter(|old| old.uid() == new.uid());
        if latch(new) == Latch::Open {
            self.judge.finished.insert((new.uid().to_owned(), "Open"));
        }
        let same = old.is_none_or(|old| old.primitive().round.number == new.primitive().round.number);
        if let Some(old) = old {
            self.judge_by_hand(old, new);
        }
        if let Some(old) = old.filter(|old| same && latch(old) != Latch::Shut && latch(old) != latch(new)) {
            self.violation("7 (latch)", format!("{key} was {:?} and is {:?}", latch(old), latch(new)));
        }
        let before = old.map(Object::record);
        let round = new.primitive().round;
        let before = before.map(|before| (before, same));
        match (before, new.record()) {
            (Some((Record::Barrier(before), same)), Record::Barrier(now)) => self.judge_barrier(&key, (&before, same), &now, &round),
            (Some((Record::Gate(before), same)), Record::Gate(now)) => self.judge_gate(&key, (&before, same), &now, &round),
            (Some((Record::Once(before), same)), Record::Once(now)) => self.judge_once(writer, (&before, same), &now, old, new),
            (Some((Record::WaitGroup(before), _)), Record::WaitGroup(now)) => self.judge_group(&key, &before, &now, new),
            _ => {}
        }
    }

    /// Promise 7: each participant is counted once, and only if it has really arrived.
    fn judge_barrier(&mut self, key: &Key, (before, same): (&Barrier, bool), now: &Barrier, round: &Round) {
        for arrival in &now.arrivals {
            let uid = &arrival.who.uid;
            if before.arrivals.iter().any(|known| known.who.uid == *uid) {
                continue;
            }
            let person = self.truth.people.get(uid);
            let as_it_should = person.is_some_and(|person| {
                person.wants.iter().filter(|want| want.key == *key).any(|want| {
                    let ended = want.arrives_at_end() && person.succeeded && person.job.is_none();
                    ended || want.arrives_at_start() && self.has_started(uid)
                })
            });
            let early = round.number > 0 && person.is_some_and(|person| person.created.as_second() < round.began.as_second());
            if !as_it_should {
                self.violation("7 (arrivals)", format!("{uid} is counted at {key}, where it has not arrived"));
            }
            if arrival.who.kind == HolderKind::Claim {
                let alike = |other: &&Participant| other.who.kind == HolderKind::Claim && other.who.name == arrival.who.name;
                if early || now.arrivals.iter().filter(alike).count() > 1 {
                    let words = format!("{uid} is counted at {key} as {}, {}", arrival.who.name, if early { "too early" } else { "again" });
                    self.violation("7 (arrivals)", words);
                }
                self.judge.arrived_as.insert((key.clone(), arrival.who.name.clone()));
            }
            self.stats.arrivals += 1;
            self.judge.arrived.insert((key.clone(), uid.clone()));
        }
        if same && before.arrivals.iter().any(|known| !now.arrivals.iter().any(|arrival| arrival.who.uid == known.who.uid)) {
            self.violation("7 (arrivals)", format!("somebody who had arrived at {key} is forgotten"));
        }
        if (before.state, now.state) == (Latch::Shut, Latch::Open) {
            self.stats.opened += 1;
            let arrived = now.arrivals.len();
            if i64::try_from(arrived).unwrap_or(0) < i64::from(now.quorum) {
                self.violation("7 (quorum)", format!("{key} opened with {arrived} of {}", now.quorum));
            }
        }
        self.judge_failed(key, (before.state, now.state), now.timeout, round.began);
    }

    /// A Pod whose acquire step has run, one that waits for a node, or a Job that waits: they have come as far as they can by themselves.
    fn has_started(&self, uid: &str) -> bool {
        let mut pods = self.truth.pods.values().filter(|pod| pod.uid == uid || pod.job.as_deref() == Some(uid)).peekable();
        pods.peek().is_none() || pods.any(|pod| pod.runs > 0 || pod.step == Step::Unbound || pod.over())
    }

    /// It fails when its time is over, not before.
    fn judge_failed(&mut self, key: &Key, change: (Latch, Latch), timeout: Option<std::time::Duration>, began: Timestamp) {
        if change != (Latch::Shut, Latch::Failed) {
            return;
        }
        let over = timeout.is_some_and(|timeout| began.checked_add(timeout).is_ok_and(|end| self.server_time() >= end));
        if !over {
            self.violation("7 (timeout)", format!("{key} failed before its time was over"));
        }
        self.last_event = Instant::now();
    }

    /// A Gate's conditions are met by what has really happened, and stay met.
    fn judge_gate(&mut self, key: &Key, (before, same): (&Gate, bool), now: &Gate, round: &Round) {
        for (condition, standing) in now.conditions.iter().zip(&now.standings).filter(|(_, standing)| standing.met) {
            let state = match (condition.on, condition.state()) {
                (GateType::Job, Some(GateState::Failed)) => "Failed",
                (GateType::Job, _) => "Complete",
                _ => "Open",
            };
            let uid = standing.uid.clone().unwrap_or_default();
            if !self.judge.finished.contains(&(uid.clone(), state)) {
                self.violation("7 (gate)", format!("{key} takes {} ({uid}) for {state}", condition.name));
            }
        }
        // Only another object of the name can take its place.
        let forgotten = now.conditions.iter().zip(before.standings.iter().zip(&now.standings)).any(|(condition, (before, now))| {
            let same = condition.on == GateType::Job && now.uid == before.uid;
            before.met && !now.met && (now.uid.is_none() || same)
        });
        if forgotten && same {
            self.violation("7 (gate)", format!("{key} has forgotten what was met"));
        }
        if (before.state, now.state) == (Latch::Shut, Latch::Open) {
            self.stats.gates += 1;
            let by_hand = now.by_hand.as_ref().is_some_and(|hand| hand.open);
            let met = !now.conditions.is_empty() && now.standings.len() == now.conditions.len() && now.standings.iter().all(|one| one.met);
            if !met && !by_hand {
                self.violation("7 (gate)", format!("{key} opened although not all of its conditions are met"));
            }
        }
        self.judge_failed(key, (before.state, now.state), now.timeout, round.began);
    }

    /// A Once is executed by one that held it and has really succeeded; and a success that could be known is not forgotten.
    fn judge_once(&mut self, writer: Writer, (before, same): (&Once, bool), now: &Once, old: Option<&Object>, new: &Object) {
        let key = &new.key();
        let held =
            |object: Option<&Object>, uid: &str| object.is_some_and(|object| object.holders().iter().any(|holder| holder.uid == uid));
        match (&before.executed, &now.executed) {
            (None, Some(executed)) => {
                self.stats.executions += 1;
                let uid = &executed.by.uid;
                let holder = old.and_then(|old| old.holders().iter().find(|holder| holder.uid == *uid));
                if !holder.is_some_and(|holder| self.has_executed(key, holder)) {
                    self.violation("7 (executed)", format!("{key} is recorded as executed by {uid}, which has not succeeded"));
                }
            }
            (Some(before), Some(now)) if same && before.by.uid != now.by.uid => {
                self.violation("7 (executed)", format!("{key} was executed by {} and is by {}", before.by.uid, now.by.uid));
            }
            _ => {}
        }
        let released = old.into_iter().flat_map(|old| old.holders().to_vec()).filter(|holder| !held(Some(new), &holder.uid));
        // One that began in an earlier round did that round's work.
        let began = new.primitive().round.began.as_second();
        for holder in released.filter(|holder| now.executed.is_none() && holder.since.0.as_second() >= began) {
            if self.shows_success(writer, key, &holder) {
                self.violation("7 (executed)", format!("{} has executed {key}, and the turn passed to the next", holder.uid));
            }
        }
    }

    /// Whether somebody has really succeeded under this hold; where a command is wrapped: whether that very run has.
    fn has_executed(&self, key: &Key, holder: &Holder) -> bool {
        let Some(person) = self.truth.people.get(&holder.uid) else { return false };
        if person.wraps { self.truth.well.contains(&(key.seen_from(NAMESPACE), holder.token)) } else { person.succeeded }
    }

    /// Whether that could be known to whoever writes now. How a run came out stands in its Pod's status for as long as no later one takes its place there; it
    /// is looked up when somebody says that the run is over, and long after.
    fn shows_success(&self, writer: Writer, key: &Key, holder: &Holder) -> bool {
        let Some(person) = self.truth.people.get(&holder.uid) else { return false };
        let Writer::Process { sent, .. } = writer else { return false };
        if person.wraps {
            let shown = self.truth.well_shown.get(&(key.seen_from(NAMESPACE), holder.token));
            return shown.is_some_and(|(_, at)| *at + self.margin() <= sent);
        }
        // What it did before there was this object, or before it held it once more, was done for another.
        let since = self.judge.held.get(&(key.clone(), holder.uid.clone()));
        person.shown.is_some_and(|shown| since.is_none_or(|since| *since <= shown))
    }

    /// A WaitGroup is done when its last member is.
    fn judge_group(&mut self, key: &Key, before: &WaitGroup, now: &WaitGroup, new: &Object) {
        if before.done_at.is_none() && now.done_at.is_some() {
            self.stats.done += 1;
            if let Some(member) = new.holders().first() {
                self.violation("7 (done)", format!("{key} is done although {} is a member", member.uid));
            }
            if now.added != 0 {
                self.violation("7 (done)", format!("{key} is done although {} were added and are not", now.added));
            }
        }
    }

    /// When nothing has gone wrong for a minute: what could finish has finished.
    pub fn judge_latches(&mut self) {
        let now = self.server_time();
        let objects: Vec<Object> =
            self.cast.clone().into_iter().filter_map(|(what, name)| self.primitive(&crate::cast::key(what, name))).collect();
        for object in objects.into_iter().filter(|object| !object.deleting() && latch(object) == Latch::Shut) {
            let (key, round) = (object.key(), object.primitive().round);
            let over = |deadline: Option<Timestamp>| deadline.is_some_and(|deadline| now.duration_since(deadline).as_secs() > 5);
            let late = match object.record() {
                Record::Barrier(barrier) => {
                    let enough = i64::try_from(barrier.arrivals.len()).unwrap_or(0) >= i64::from(barrier.quorum);
                    enough || over(barrier.deadline(&round))
                }
                Record::Gate(gate) => {
                    let met = |standing: &konductor::rules::Standing| standing.met;
                    let all = gate.standings.len() == gate.conditions.len() && gate.standings.iter().all(met);
                    let met = all || gate.conditions.iter().all(|condition| self.is_met(condition));
                    let closed = gate.by_hand.as_ref().is_some_and(|hand| !hand.open);
                    over(gate.deadline(&round)) || !closed && !gate.conditions.is_empty() && met
                }
                _ => false,
            };
            if late {
                self.violation("liveness", format!("{key} should have opened or failed"));
            }
        }
    }

    /// Whether the object that a condition names meets it now.
    fn is_met(&self, asked: &konductor::rules::Condition) -> bool {
        let kind = match asked.on {
            GateType::Job => {
                let job = self.get(What::Jobs, &asked.namespace, &asked.name);
                let failed = asked.state() == Some(GateState::Failed);
                return job.is_some_and(|job| if failed { condition(job, "Failed") } else { condition(job, "Complete") && !skipped(job) });
            }
            GateType::Barrier => konductor::plan::Kind::Barrier,
            GateType::Once => konductor::plan::Kind::Once,
            GateType::WaitGroup => konductor::plan::Kind::WaitGroup,
            _ => return false,
        };
        let key = Key { kind, namespace: asked.namespace.clone(), name: asked.name.clone() };
        self.primitive(&key).is_some_and(|object| latch(&object) == Latch::Open)
    }

    /// Whether a name was not taken at any moment from then on.
    pub fn was_absent(&self, key: &Key, from: Instant) -> bool {
        self.judge.absent.after(key, from)
    }
}

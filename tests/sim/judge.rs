//! The judge: looks at every committed revision of a primitive, and compares it with the truth and the promises. What else is judged: `latches` (what
//! primitives record), `line` (who comes first), `told` (what agents are told and do), `debts` (what konductor does to Pods and Jobs), `rest` (the end).

use std::collections::{BTreeMap, BTreeSet};

use konductor::{
    api::{Holder, HolderKind, Mode},
    controller::object::{Key, Object},
    plan::Kind,
    rules::{Latch, Record, WHOLE},
};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::{
    api::{deleting, primitive},
    cast::what_of,
    cluster::{condition, suspended},
    core::Core,
    people::held_back,
    pod::{Pod, Step},
    request::{Place, What, Writer},
    truth::NAMESPACE,
};

/// What was sent may arrive this much later.
pub const LATE: Duration = Duration::from_secs(60);

/// When something was last so, name by name.
#[derive(Default)]
pub struct Spans(BTreeMap<Key, (Instant, Option<Instant>)>);

impl Spans {
    fn set(&mut self, key: &Key, is: bool) {
        let now = Instant::now();
        match (self.0.get_mut(key), is) {
            (Some((_, None)), true) | (None, false) => {}
            (Some((_, until)), false) => drop(until.get_or_insert(now)),
            (_, true) => drop(self.0.insert(key.clone(), (now, None))),
        }
    }

    /// Since when it is so; `None` if it is not.
    pub fn since(&self, key: &Key) -> Option<Instant> {
        self.0.get(key).filter(|(_, until)| until.is_none()).map(|(since, _)| *since)
    }

    /// Whether it was so at any moment from then on.
    pub fn after(&self, key: &Key, from: Instant) -> bool {
        self.0.get(key).is_some_and(|(_, until)| until.is_none_or(|until| until >= from))
    }
}

/// What the judge remembers.
#[derive(Default)]
pub struct Judge {
    pub violations: Vec<String>,
    /// The largest token that was ever handed out under a name.
    tokens: BTreeMap<Key, i64>,
    /// The largest capacity that a name ever had.
    pub capacity: BTreeMap<Key, i64>,
    /// Since when a Pod has held.
    pub held: BTreeMap<(Key, String), Instant>,
    /// Barriers and Gates that are open, WaitGroups that are done, Onces that are executed.
    pub open: Spans,
    /// Barriers and Gates that have failed.
    pub failed: Spans,
    /// What somebody holds.
    pub busy: Spans,
    /// What does not exist.
    pub absent: Spans,
    /// Who was ever on record as arrived, by Barrier.
    pub arrived: BTreeSet<(Key, String)>,
    /// Under which names Claims have ever arrived, by Barrier.
    pub arrived_as: BTreeSet<(Key, String)>,
    /// Claims whose step by hand was ever applied, with the UID of the primitive: one that is made anew knows nothing of what was done to the one before.
    pub applied: BTreeMap<String, String>,
    /// When a round was last begun by hand.
    pub began: BTreeMap<Key, Instant>,
    /// Whose hold or membership has ever ended.
    pub ended: BTreeSet<(Key, String)>,
    /// What finished for good, by UID: `Complete`, `Failed`, `Open`, `Done`.
    pub finished: BTreeSet<(String, &'static str)>,
    /// Since when nothing has gone wrong any more.
    pub calm_since: Option<Instant>,
}

/// What stands in the trace about a primitive.
pub fn summary(value: &Value) -> String {
    let holders: Vec<String> = value["status"]["holders"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|holder| {
            let pods: Vec<String> = holder["pods"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|pod| format!("{}#{}", pod["uid"].as_str().unwrap_or("?"), pod["token"]))
                .collect();
            let pods = if pods.is_empty() { String::new() } else { format!("({})", pods.join(" ")) };
            format!("{}#{}{pods}", holder["uid"].as_str().unwrap_or("?"), holder["token"])
        })
        .collect();
    let meta = &value["metadata"];
    let going = if deleting(value) { " deleting" } else { "" };
    let arrivals: Vec<&str> =
        value["status"]["arrivals"].as_array().into_iter().flatten().filter_map(|arrival| arrival["uid"].as_str()).collect();
    let phase = value["status"]["phase"].as_str().unwrap_or_default();
    let arrivals = if arrivals.is_empty() { String::new() } else { format!(" arrived {}", arrivals.join(" ")) };
    let kept = if meta["finalizers"].as_array().is_none_or(Vec::is_empty) { "" } else { " kept" };
    format!(" v{} {phase} [{}]{arrivals}{kept}{going}", meta["resourceVersion"].as_str().unwrap_or("?"), holders.join(", "))
}

/// The hold that lets a Pod run: its own, or that of the Job under which it was let in.
pub fn hold_of<'a>(object: &'a Object, pod: &Pod) -> Option<(&'a Holder, i64)> {
    object.holders().iter().find_map(|holder| match holder.kind {
        HolderKind::Pod | HolderKind::Claim => (holder.uid == pod.uid).then_some((holder, holder.token)),
        HolderKind::Job => holder.pods.iter().find(|admitted| admitted.uid == pod.uid).map(|admitted| (holder, admitted.token)),
    })
}

/// What a hold takes of the capacity.
pub fn weight(holder: &Holder) -> i64 {
    i64::from(if holder.mode == Some(Mode::Write) { WHOLE } else { holder.permits })
}

/// Whether those who wait for it may go on.
pub fn latch(object: &Object) -> Latch {
    let open = |open: bool| if open { Latch::Open } else { Latch::Shut };
    match object.record() {
        Record::Barrier(barrier) => barrier.state,
        Record::Gate(gate) => gate.state,
        Record::Once(once) => open(once.executed.is_some()),
        Record::WaitGroup(group) => open(group.done_at.is_some()),
        Record::Missing | Record::Grants => Latch::Shut,
    }
}

/// Whether a Job's fate is decided: it makes no Pods any more.
pub fn decided(job: &Value) -> bool {
    ["SuccessCriteriaMet", "Complete", "FailureTarget", "Failed"].into_iter().any(|kind| condition(job, kind))
}

/// The token that an object shows for a Pod.
pub fn token_of(object: &Object, pod: &Pod) -> Option<i64> {
    hold_of(object, pod).map(|(_, token)| token)
}

/// The UIDs of the Pods that a hold lets run.
pub fn pods_of(holder: &Holder) -> Vec<String> {
    match holder.kind {
        HolderKind::Pod | HolderKind::Claim => vec![holder.uid.clone()],
        HolderKind::Job => holder.pods.iter().map(|pod| pod.uid.clone()).collect(),
    }
}

impl Core {
    pub fn violation(&mut self, promise: &str, words: String) {
        self.note((99, 0), |_| format!("VIOLATION of {promise}: {words}"));
        self.judge.violations.push(format!("{promise}: {words}"));
    }

    /// A primitive as it is in the API now.
    pub fn primitive(&self, key: &Key) -> Option<Object> {
        let what = what_of(key.kind);
        primitive(what, self.get(what, &key.namespace, &key.name)?)
    }

    pub fn judge_revision(&mut self, writer: Writer, place: &Place, before: Option<&Value>, after: Option<&Value>) {
        let old = before.and_then(|before| primitive(place.0, before));
        let new = after.and_then(|after| primitive(place.0, after));
        let Some(some) = new.as_ref().or(old.as_ref()) else { return self.violation("schema", format!("{place:?} cannot be read")) };
        let key = some.key();
        let members = key.kind == Kind::WaitGroup;
        let capacity = if members { i64::MAX } else { i64::from(some.capacity()) };
        let most = self.judge.capacity.entry(key.clone()).or_insert(capacity);
        *most = capacity.max(*most);
        let none: &[Holder] = &[];
        let old_holders = old.as_ref().map_or(none, |object| object.holders()).to_vec();
        let new_holders = new.as_ref().map_or(none, |object| object.holders()).to_vec();
        let ttl = some.ttl();
        self.judge_tokens(&key, &old_holders, &new_holders);
        let granted: Vec<&Holder> =
            new_holders.iter().filter(|holder| !old_holders.iter().any(|old| old.uid == holder.uid && old.token == holder.token)).collect();
        let held: i64 = new_holders.iter().map(weight).sum();
        if !granted.is_empty() && held > capacity {
            self.violation("1 (capacity)", format!("{key} has {held} of {capacity} permits held, and somebody new among the holders"));
        }
        self.stats.grants += granted.len() as u64;
        for holder in granted.iter().filter(|holder| holder.kind == HolderKind::Claim) {
            self.judge_claim_in(&key, holder);
        }
        self.judge.absent.set(&key, new.is_none());
        self.judge.busy.set(&key, !new_holders.is_empty());
        let latch = new.as_ref().map(latch);
        self.judge.open.set(&key, latch == Some(Latch::Open));
        self.judge.failed.set(&key, latch == Some(Latch::Failed));
        self.judge_record(writer, old.as_ref(), new.as_ref());
        for holder in &old_holders {
            match new_holders.iter().find(|new| new.uid == holder.uid && new.token == holder.token) {
                None => {
                    self.stats.releases += 1;
                    self.judge.ended.insert((key.clone(), holder.uid.clone()));
                    match holder.kind {
                        HolderKind::Claim => self.judge_claim_out(writer, &key, holder, ttl),
                        HolderKind::Pod | HolderKind::Job => self.judge_release(&key, holder, ttl),
                    }
                }
                Some(still) => {
                    let out: Vec<String> = pods_of(holder).into_iter().filter(|uid| !pods_of(still).contains(uid)).collect();
                    for uid in out {
                        self.judge_out(&key, &uid, still.token, ttl);
                    }
                }
            }
        }
        for uid in new_holders.iter().flat_map(|holder| pods_of(holder).into_iter().chain([holder.uid.clone()])) {
            self.judge.held.entry((key.clone(), uid)).or_insert_with(Instant::now);
        }
        if let (Writer::Process { process, sent }, Some(object), false) = (writer, &new, members) {
            for holder in granted {
                self.judge_order(process, sent, object, &new_holders, holder);
            }
        }
    }

    /// Promise 2: every token is larger than every earlier one of the name.
    fn judge_tokens(&mut self, key: &Key, old: &[Holder], new: &[Holder]) {
        let all = |holders: &[Holder]| -> Vec<(String, i64)> {
            let each = |holder: &Holder| {
                let own = (holder.uid.clone(), holder.token);
                std::iter::once(own).chain(holder.pods.iter().map(|pod| (pod.uid.clone(), pod.token))).collect::<Vec<_>>()
            };
            holders.iter().flat_map(each).collect()
        };
        let known = all(old);
        let most = self.judge.tokens.get(key).copied().unwrap_or(0);
        let mut largest = most;
        for (uid, token) in all(new).into_iter().filter(|entry| !known.contains(entry)) {
            if token <= most {
                self.violation("2 (tokens)", format!("{uid} got token {token} of {key}, which had handed out {most} before"));
            }
            largest = largest.max(token);
        }
        self.judge.tokens.insert(key.clone(), largest);
    }

    /// Promise 3: a hold ends on evidence only.
    fn judge_release(&mut self, key: &Key, holder: &Holder, ttl: Duration) {
        self.judge.held.remove(&(key.clone(), holder.uid.clone()));
        if holder.kind == HolderKind::Job {
            // One that is resumed while the release is under way makes Pods that ask anew. But a member that is suspended is not done.
            let members = key.kind == Kind::WaitGroup;
            let suspended = !members && self.truth.suspended.get(&holder.uid).is_some_and(|at| at.elapsed() < LATE);
            let goes_on = if members { self.job_goes_on(&holder.uid) } else { self.job_runs(&holder.uid) || self.job_waits(&holder.uid) };
            if !suspended && goes_on {
                self.violation("3 (evidence)", format!("{key} was taken from job {} which goes on", holder.uid));
            }
        }
        let alive = self.truth.pods.values().filter(|pod| pod.holder_uid() == holder.uid && pod.alive()).map(|pod| pod.uid.clone());
        let mut uids: Vec<String> = alive.chain(pods_of(holder)).collect();
        uids.sort();
        uids.dedup();
        for uid in uids {
            self.judge_out(key, &uid, holder.token, ttl);
        }
    }

    /// A Pod is out of a hold: it must be over, removed, or on a node that has been unreachable for the `ttl`; or it has wrapped a command, and that does not
    /// run under this very hold, whatever its runs had before.
    fn judge_out(&mut self, key: &Key, uid: &str, token: i64, ttl: Duration) {
        self.judge.held.remove(&(key.clone(), uid.to_owned()));
        let Some(pod) = self.truth.pods.get(uid) else { return };
        if pod.over() || pod.removed || pod.excused.is_some() {
            return;
        }
        let away = self.unreachable_for(&format!("node-{}", pod.node));
        // One that has not been told yet that it holds may still be told, by whoever has not heard that it does not.
        let may_run = pod.relies(key, token) || matches!(pod.step, Step::Acquiring(_)) && away >= ttl;
        if !may_run {
            return;
        }
        if away < ttl {
            let words = format!(
                "{key} was taken from {uid} ({:?}), whose node was unreachable for {}s of {}s",
                pod.step,
                away.as_secs(),
                ttl.as_secs()
            );
            return self.violation("3 (evidence)", words);
        }
        self.stats.losses += 1;
        if let Some(pod) = self.truth.pods.get_mut(uid) {
            (pod.excused, pod.taken) = (Some(Instant::now()), Some(Instant::now()));
            let node = pod.node;
            self.returns_at_a_bad_moment(node);
        }
    }

    /// Whether the API shows nothing that keeps this Pod from asking.
    pub fn may_ask(&self, pod: &Pod) -> bool {
        let object = self.get(What::Pods, NAMESPACE, &pod.name).filter(|object| object["metadata"]["uid"] == pod.uid.as_str());
        if object.is_none_or(deleting) {
            return false;
        }
        pod.orphaned || pod.job.as_ref().is_none_or(|uid| self.job_goes_on(uid))
    }

    pub fn job_goes_on(&self, uid: &str) -> bool {
        self.all(What::Jobs).find(|job| job["metadata"]["uid"] == uid).is_some_and(|job| !decided(job))
    }

    /// Whether a Job waits, suspended by konductor.
    pub fn job_waits(&self, uid: &str) -> bool {
        self.all(What::Jobs).find(|job| job["metadata"]["uid"] == uid).is_some_and(|job| !decided(job) && held_back(job))
    }

    /// Whether a Job goes on and may have Pods.
    pub fn job_runs(&self, uid: &str) -> bool {
        self.all(What::Jobs).find(|job| job["metadata"]["uid"] == uid).is_some_and(|job| !decided(job) && !suspended(job))
    }
}

//! The judge: looks at every committed revision of a primitive and at every start of an app, and compares them with the truth and the promises.

use std::collections::BTreeMap;

use konductor::{
    api::{Holder, HolderKind},
    controller::object::{Key, Object},
    coordinator::protocol::Reason,
};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::{
    api::{deleting, primitive},
    cluster::{condition, suspended},
    core::Core,
    pod::{Pod, Step},
    request::{Place, What, Writer},
    truth::NAMESPACE,
};

/// What was sent may arrive this much later.
const LATE: Duration = Duration::from_secs(60);

/// What the judge remembers.
#[derive(Default)]
pub struct Judge {
    pub violations: Vec<String>,
    /// The largest token that was ever handed out under a name.
    tokens: BTreeMap<Key, i64>,
    /// The largest capacity that a name ever had.
    capacity: BTreeMap<Key, i64>,
    /// Since when a Pod has held.
    held: BTreeMap<(Key, String), Instant>,
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
    let kept = if meta["finalizers"].as_array().is_none_or(Vec::is_empty) { "" } else { " kept" };
    format!(" v{} [{}]{kept}{going}", meta["resourceVersion"].as_str().unwrap_or("?"), holders.join(", "))
}

/// The hold that lets a Pod run: its own, or that of the Job under which it was let in.
fn hold_of<'a>(object: &'a Object, pod: &Pod) -> Option<(&'a Holder, i64)> {
    object.holders().iter().find_map(|holder| match holder.kind {
        HolderKind::Pod | HolderKind::Claim => (holder.uid == pod.uid).then_some((holder, holder.token)),
        HolderKind::Job => holder.pods.iter().find(|admitted| admitted.uid == pod.uid).map(|admitted| (holder, admitted.token)),
    })
}

/// Whether a Job's fate is decided: it makes no Pods any more.
fn decided(job: &Value) -> bool {
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
        let what = match key.kind {
            konductor::plan::Kind::Mutex => What::Mutexes,
            konductor::plan::Kind::Semaphore => What::Semaphores,
            kind => unreachable!("the simulator has no {kind}"),
        };
        primitive(what, self.get(what, &key.namespace, &key.name)?)
    }

    pub fn judge_revision(&mut self, writer: Writer, place: &Place, before: Option<&Value>, after: Option<&Value>) {
        let old = before.and_then(|before| primitive(place.0, before));
        let new = after.and_then(|after| primitive(place.0, after));
        let Some(some) = new.as_ref().or(old.as_ref()) else { return self.violation("schema", format!("{place:?} cannot be read")) };
        let key = some.key();
        let capacity = i64::from(some.capacity());
        let most = self.judge.capacity.entry(key.clone()).or_insert(capacity);
        *most = capacity.max(*most);
        let none: &[Holder] = &[];
        let old_holders = old.as_ref().map_or(none, |object| object.holders()).to_vec();
        let new_holders = new.as_ref().map_or(none, |object| object.holders()).to_vec();
        let ttl = some.ttl();
        self.judge_tokens(&key, &old_holders, &new_holders);
        let granted: Vec<&Holder> =
            new_holders.iter().filter(|holder| !old_holders.iter().any(|old| old.uid == holder.uid && old.token == holder.token)).collect();
        let held: i64 = new_holders.iter().map(|holder| i64::from(holder.permits)).sum();
        if !granted.is_empty() && held > capacity {
            self.violation("1 (capacity)", format!("{key} has {held} of {capacity} permits held, and somebody new among the holders"));
        }
        self.stats.grants += granted.len() as u64;
        for holder in &old_holders {
            match new_holders.iter().find(|new| new.uid == holder.uid && new.token == holder.token) {
                None => {
                    self.stats.releases += 1;
                    self.judge_release(&key, holder, ttl);
                }
                Some(still) => {
                    let out: Vec<String> = pods_of(holder).into_iter().filter(|uid| !pods_of(still).contains(uid)).collect();
                    for uid in out {
                        self.judge_out(&key, &uid, ttl);
                    }
                }
            }
        }
        for uid in new_holders.iter().flat_map(|holder| pods_of(holder).into_iter().chain([holder.uid.clone()])) {
            self.judge.held.entry((key.clone(), uid)).or_insert_with(Instant::now);
        }
        if let (Writer::Process { process, sent }, Some(object)) = (writer, &new) {
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
            // One that is resumed while the release is under way makes Pods that ask anew.
            let suspended = self.truth.suspended.get(&holder.uid).is_some_and(|at| at.elapsed() < LATE);
            if !suspended && self.job_runs(&holder.uid) {
                self.violation("3 (evidence)", format!("{key} was taken from job {} which goes on", holder.uid));
            }
        }
        let alive = self.truth.pods.values().filter(|pod| pod.holder_uid() == holder.uid && pod.alive()).map(|pod| pod.uid.clone());
        let mut uids: Vec<String> = alive.chain(pods_of(holder)).collect();
        uids.sort();
        uids.dedup();
        for uid in uids {
            self.judge_out(key, &uid, ttl);
        }
    }

    /// A Pod is out of a hold: it must be over, removed, or on a node that has been unreachable for the `ttl`.
    fn judge_out(&mut self, key: &Key, uid: &str, ttl: Duration) {
        self.judge.held.remove(&(key.clone(), uid.to_owned()));
        let Some(pod) = self.truth.pods.get(uid) else { return };
        if pod.over() || pod.removed || pod.excused.is_some() {
            return;
        }
        let away = self.unreachable_for(&format!("node-{}", pod.node));
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

    /// Promise 6: nobody is let in past somebody who is there, waits for the same and comes first.
    fn judge_order(&mut self, process: usize, sent: Instant, object: &Object, holders: &[Holder], granted: &Holder) {
        let key = object.key();
        let margin = self.margin();
        // Those who slept through it have yet to hear of everything.
        if self.jumped.is_some_and(|at| at.elapsed() < LATE) {
            return;
        }
        let Some(first) = self.truth.pods.values().find(|pod| pods_of(granted).contains(&pod.uid)) else { return };
        let rank = |pod: &Pod| {
            let want = pod.wants.iter().find(|want| want.key == key)?;
            Some((std::cmp::Reverse(want.priority), pod.created.clone(), pod.holder_uid().to_owned(), pod.uid.clone()))
        };
        let Some(granted_rank) = rank(first) else { return };
        let passed: Option<String> = self
            .truth
            .pods
            .values()
            .filter(|pod| {
                matches!(pod.step, Step::Acquiring(_)) && pod.ending.is_none() && self.may_ask(pod) && self.reachable(pod, margin)
            })
            .filter(|pod| !self.sees_an_old_outage(process, pod, margin))
            .filter(|pod| pod.session.is_some_and(|session| session.process == process && session.since + margin <= sent))
            .filter(|pod| holders.iter().all(|holder| holder.uid != pod.holder_uid() && !pods_of(holder).contains(&pod.uid)))
            .filter(|pod| {
                let settled =
                    |want: &Key| self.judge.held.get(&(want.clone(), pod.uid.clone())).is_some_and(|since| *since + margin <= sent);
                let next = pod.wants.iter().find(|want| !settled(&want.key));
                next.is_some_and(|want| want.key == key && want.timeout.is_none() && want.permits <= object.capacity())
            })
            .find(|pod| rank(pod).is_some_and(|rank| rank < granted_rank))
            .map(|pod| pod.uid.clone());
        if let Some(passed) = passed {
            self.violation("6 (order)", format!("{key} went to {} past {passed}, which was first in line", granted.uid));
        }
    }

    /// Promise 6, too: a Job that holds has waited; its next Pod is not turned away for being late.
    pub fn judge_refused(&mut self, uid: &str, reason: Reason) {
        let margin = self.margin();
        let Some(pod) = self.truth.pods.get(uid).filter(|pod| !pod.orphaned).cloned() else { return };
        let Some(job) = pod.job.as_ref().filter(|job| reason == Reason::TimedOut && self.job_goes_on(job)) else { return };
        let shown = |want: &Key| self.primitive(want).and_then(|object| token_of(&object, &pod)).is_some();
        let Some(next) = pod.wants.iter().find(|want| !shown(&want.key)) else { return };
        if self.judge.held.get(&(next.key.clone(), job.clone())).is_some_and(|since| since.elapsed() > margin) {
            self.violation("6 (refused)", format!("{uid} was refused for its Job's deadline, though {job} holds {}", next.key));
        }
    }

    /// Whether nothing has been the matter with a Pod's node for a while.
    fn reachable(&self, pod: &Pod, margin: Duration) -> bool {
        let name = format!("node-{}", pod.node);
        self.truth.nodes.get(pod.node).is_none_or(|node| node.silent.is_none())
            && !self.unreachable.contains_key(&name)
            && self.outages.get(&name).is_none_or(|(ended, _)| ended.elapsed() > margin)
    }

    /// Whether a controller whose watch of nodes stalls, or did a moment ago, may still take this Pod's node for unreachable.
    fn sees_an_old_outage(&self, process: usize, pod: &Pod, margin: Duration) -> bool {
        let stalled = self.processes.get(process).and_then(|process| process.stalled.get(&What::Nodes));
        stalled.is_some_and(|until| *until + margin > Instant::now()) && self.outages.contains_key(&format!("node-{}", pod.node))
    }

    /// How long a fact may take to reach a decision.
    fn margin(&self) -> Duration {
        let faults = &self.faults;
        let calm = self.judge.calm_since.is_some_and(|since| since.elapsed() > Duration::from_secs(30));
        let quick = faults.slow + faults.lost_on_the_way + faults.lost_after + faults.refused + faults.cut + faults.watch_slow == 0;
        if calm || quick { Duration::from_secs(3) } else { Duration::from_secs(45) }
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

    /// Whether a Job goes on and may have Pods.
    pub fn job_runs(&self, uid: &str) -> bool {
        self.all(What::Jobs).find(|job| job["metadata"]["uid"] == uid).is_some_and(|job| !decided(job) && !suspended(job))
    }

    /// An agent was told that its Pod holds: it must be so now, or have been lost since it asked.
    /// Says whether it holds all that it asked for.
    pub fn judge_told(&mut self, pod: &Pod, since: Instant) -> bool {
        let mut all = true;
        for want in &pod.wants {
            let shown = self.primitive(&want.key).and_then(|object| token_of(&object, pod));
            let name = format!("{}/{}", want.key.kind, want.key.name);
            let told = pod.told.iter().find(|token| token.target.ends_with(&want.key.name)).map(|token| token.token);
            let lost_since = pod.removed || pod.excused.is_some_and(|at| at >= since);
            all &= shown.is_some();
            if (shown.is_none() || shown != told) && !lost_since {
                self.violation("1 (told)", format!("{} was told token {told:?} of {name}, which shows {shown:?} for it", pod.uid));
            }
        }
        all
    }

    /// An app starts: it must hold, and nobody may run that excludes it.
    pub fn judge_app_start(&mut self, pod: &Pod) {
        if pod.removed || pod.excused.is_some() {
            return;
        }
        for want in &pod.wants {
            if self.primitive(&want.key).and_then(|object| token_of(&object, pod)).is_none() {
                self.violation("3 (holds)", format!("the app of {} starts without {}", pod.uid, want.key));
            }
            let object = self.primitive(&want.key);
            let under = |pod: &Pod| {
                let hold = object.as_ref().and_then(|object| hold_of(object, pod));
                hold.map_or_else(|| pod.holder_uid().to_owned(), |(holder, _)| holder.uid.clone())
            };
            let mut running: BTreeMap<String, i64> = BTreeMap::from([(under(pod), i64::from(want.permits))]);
            let runs = |pod: &&Pod| matches!(pod.step, Step::Running(_)) && !pod.removed && pod.excused.is_none();
            for other in self.truth.pods.values().filter(runs) {
                if let Some(same) = other.wants.iter().find(|other| other.key == want.key) {
                    running.insert(under(other), i64::from(same.permits));
                }
            }
            let capacity = self.judge.capacity.get(&want.key).copied().unwrap_or(0);
            let sum: i64 = running.values().sum();
            if sum > capacity {
                let words = format!("apps with {sum} of {capacity} permits of {} run at once: {running:?}", want.key);
                self.violation("1 (capacity)", words);
            }
            let twin = self
                .truth
                .pods
                .values()
                .filter(runs)
                .find(|other| other.uid != pod.uid && other.job.is_some() && other.job == pod.job && !pod.orphaned);
            if let Some(twin) = twin.filter(|_| !pod.shared) {
                let words = format!("{} of a Job that holds starts while its predecessor {} runs", pod.uid, twin.uid);
                self.violation("3 (predecessor)", words);
            }
        }
    }

    /// konductor deletes a Pod: only one that runs without the hold that was taken from it.
    pub fn judge_kill(&mut self, object: Option<&Value>) {
        let uid = object.and_then(|object| object["metadata"]["uid"].as_str()).unwrap_or_default();
        let Some(pod) = self.truth.pods.get(uid).cloned() else { return };
        let holds = |key: &Key| self.primitive(key).is_some_and(|object| token_of(&object, &pod).is_some());
        // What was decided when its hold was taken may arrive when it has got another one.
        let taken = pod.taken.is_some_and(|at| at.elapsed() < LATE);
        if !taken && pod.excused.is_none() && pod.alive() && pod.wants.iter().all(|want| holds(&want.key)) {
            self.violation("3 (kill)", format!("{uid} was deleted although it holds all that it asked for"));
        }
    }

    /// A sidecar was told that its Pod holds: that must be so now, or have been lost since it asked.
    pub fn judge_verified(&mut self, uid: &str, since: Instant) {
        let Some(pod) = self.truth.pods.get(uid).cloned() else { return };
        let lost = pod.removed || pod.over() || pod.excused.is_some_and(|at| at >= since);
        for want in &pod.wants {
            if self.primitive(&want.key).and_then(|object| token_of(&object, &pod)).is_none() && !lost {
                self.violation("1 (verified)", format!("{uid} was told that it holds {}, which is not so", want.key));
            }
        }
    }
}

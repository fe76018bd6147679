//! What agents are told, and what they then do: an app that starts must hold what it asked for, beside nobody whom that excludes; and konductor ends only
//! those who have no right to go on.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use konductor::{
    controller::object::{Key, Object},
    coordinator::protocol::Reason,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    core::Core,
    judge::{LATE, decided, hold_of, token_of},
    people::Want,
    pod::{Pod, Step},
    request::What,
};

/// The UID of the holder under whose hold a Pod acts.
fn acts_under(object: Option<&Object>, pod: &Pod) -> String {
    let hold = object.and_then(|object| hold_of(object, pod));
    hold.map_or_else(|| pod.holder_uid().to_owned(), |(holder, _)| holder.uid.clone())
}

fn runs_rightly(pod: &&Pod) -> bool {
    matches!(pod.step, Step::Running(_)) && !pod.removed && pod.excused.is_none()
}

impl Core {
    /// Promise 6, too: a Job that holds has waited; its next Pod is not turned away for being late.
    pub fn judge_refused(&mut self, uid: &str, reason: Reason) {
        let margin = self.margin();
        let Some(pod) = self.truth.pods.get(uid).filter(|pod| !pod.orphaned).cloned() else { return };
        let Some(job) = pod.job.as_ref().filter(|job| reason == Reason::TimedOut && self.job_goes_on(job)) else { return };
        let shown = |want: &Key| self.primitive(want).and_then(|object| token_of(&object, &pod)).is_some();
        let Some(next) = pod.steps().find(|want| !want.role.lasts() || !shown(&want.key)).filter(|want| want.role.lasts()) else { return };
        if self.judge.held.get(&(next.key.clone(), job.clone())).is_some_and(|since| since.elapsed() > margin) {
            self.violation("6 (refused)", format!("{uid} was refused for its Job's deadline, though {job} holds {}", next.key));
        }
    }

    /// What wraps a command was refused: for a reason.
    pub fn judge_run_refused(&mut self, uid: &str) {
        let wrapped = self.truth.people.get(uid).filter(|person| person.wraps).cloned();
        if let Some(person) = wrapped.filter(|person| !self.refusable(person)) {
            self.violation("6 (refused)", format!("{uid} was refused for no reason: {:?}", person.wants));
        }
    }

    /// A wrapped command is left out: for a reason.
    pub fn judge_skipped(&mut self, uid: &str, message: &str) {
        self.note((17, 0), |_| format!("agent  {uid} is to leave its command out: {message}"));
        self.stats.left_out += 1;
        let Some(person) = self.truth.people.get(uid).cloned() else { return };
        let began = self.truth.pods.get(uid).and_then(|pod| pod.wrap.as_ref()).map(|wrap| wrap.began);
        let from = began.and_then(|began| began.checked_sub(self.margin())).unwrap_or(person.born).max(person.born);
        if !person.wraps || !self.is_left_out_rightly(&person, from) {
            self.violation("3 (skipped)", format!("the command of {uid} was left out for no reason"));
        }
    }

    /// An agent was told that its Pod holds: it must be so now, or have been lost since it asked.
    /// Says whether it holds all that it asked for.
    pub fn judge_told(&mut self, pod: &Pod, since: Instant) -> bool {
        let mut all = self.judge_passed(pod);
        for want in pod.holds() {
            let shown = self.primitive(&want.key).and_then(|object| token_of(&object, pod));
            let name = format!("{}/{}", want.key.kind, want.key.name);
            let told = pod.told.iter().find(|token| token.target.ends_with(&want.key.name)).map(|token| token.token);
            let lost_since = pod.removed || pod.excused.is_some_and(|at| at >= since);
            all &= shown.is_some();
            if (shown.is_none() || (shown != told && (want.exclusive() || pod.wrap.is_some()))) && !lost_since {
                self.violation("1 (told)", format!("{} was told token {told:?} of {name}, which shows {shown:?} for it", pod.uid));
            }
        }
        all
    }

    /// What a Pod had to wait for has come, and it has arrived where it arrives at its start.
    fn judge_passed(&mut self, pod: &Pod) -> bool {
        let Some(person) = self.truth.people.get(&pod.uid).cloned() else { return true };
        let missing = person.steps().find(|want| !want.role.lasts() && !self.was_behind(&person, pod.holder_uid(), want));
        if let Some(want) = missing.filter(|_| !pod.removed) {
            self.violation("8 (waits)", format!("{} was told to go on, but not for the sake of {}", pod.uid, want.key));
        }
        true
    }

    /// An app starts: it must hold, and nobody may run that excludes it.
    pub fn judge_app_start(&mut self, pod: &Pod) {
        if pod.removed || pod.excused.is_some() {
            return;
        }
        self.judge_passed(pod);
        for want in pod.holds() {
            let shown = self.primitive(&want.key).and_then(|object| token_of(&object, pod));
            if shown.is_none() || pod.wrap.is_some() && shown != pod.token_for(&want.key) {
                self.violation("3 (holds)", format!("the app of {} starts without {}", pod.uid, want.key));
            }
            if !want.exclusive() {
                continue;
            }
            let object = self.primitive(&want.key);
            self.judge_crowd(&want.key, BTreeMap::from([(acts_under(object.as_ref(), pod), want.weight())]));
            let twin = self
                .truth
                .pods
                .values()
                .filter(runs_rightly)
                .find(|other| other.uid != pod.uid && other.job.is_some() && other.job == pod.job && !pod.orphaned);
            if let Some(twin) = twin.filter(|_| !pod.shared) {
                let words = format!("{} of a Job that holds starts while its predecessor {} runs", pod.uid, twin.uid);
                self.violation("3 (predecessor)", words);
            }
        }
    }

    /// Somebody begins: it and all who run or rely on their hold must fit together.
    pub fn judge_crowd(&mut self, key: &Key, mut running: BTreeMap<String, i64>) {
        let object = self.primitive(key);
        for other in self.truth.pods.values().filter(runs_rightly) {
            if let Some(same) = other.holds().find(|want| want.key == *key) {
                running.insert(acts_under(object.as_ref(), other), same.weight());
            }
        }
        running.extend(self.relying(key));
        let capacity = self.judge.capacity.get(key).copied().unwrap_or(0);
        let sum: i64 = running.values().sum();
        if sum > capacity {
            self.violation("1 (capacity)", format!("{sum} of {capacity} permits of {key} are in use at once: {running:?}"));
        }
    }

    /// Whether somebody has held for longer than it may.
    fn overdue(&self, uid: &str) -> bool {
        let Some(person) = self.truth.people.get(uid) else { return false };
        let now = self.server_time();
        let over = |limit: Option<SignedDuration>, since: Timestamp| limit.is_some_and(|limit| now.duration_since(since) >= limit);
        let since = |want: &Want| {
            let object = self.primitive(&want.key)?;
            object.holders().iter().find(|holder| holder.uid == uid).map(|holder| holder.since.0)
        };
        // Whether it has started is known to konductor later than to us.
        person.holds().filter_map(since).any(|since| over(person.max_hold, since) || over(person.start_timeout, since))
    }

    /// konductor deletes a Job: only one that holds for longer than it may.
    pub fn judge_job_killed(&mut self, object: Option<&Value>) {
        let uid = object.and_then(|object| object["metadata"]["uid"].as_str()).unwrap_or_default();
        let decided = self.all(What::Jobs).find(|job| job["metadata"]["uid"] == uid).is_none_or(decided);
        let suspended = self.truth.suspended.get(uid).is_some_and(|at| at.elapsed() < LATE);
        if !self.overdue(uid) && !decided && !suspended {
            self.violation("3 (kill)", format!("job {uid} was deleted although it held for no longer than it may"));
        }
    }

    /// konductor deletes a Pod: only one that runs without the hold that was taken from it.
    pub fn judge_kill(&mut self, object: Option<&Value>) {
        let uid = object.and_then(|object| object["metadata"]["uid"].as_str()).unwrap_or_default();
        let Some(pod) = self.truth.pods.get(uid).cloned() else { return };
        let holds = |key: &Key| self.primitive(key).is_some_and(|object| token_of(&object, &pod).is_some());
        // What was decided when its hold was taken may arrive when it has got another one.
        let taken = pod.taken.is_some_and(|at| at.elapsed() < LATE);
        let overdue = self.overdue(uid) || pod.job.as_ref().is_some_and(|job| self.overdue(job));
        // A wrapped command is ended before its hold is taken.
        let away = self.unreachable_for(&format!("node-{}", pod.node));
        let lost = |want: &Want| self.primitive(&want.key).is_some_and(|object| away >= object.ttl());
        if pod.wrap.is_some() && pod.holds().any(lost) {
            return;
        }
        if !taken && !overdue && pod.excused.is_none() && pod.alive() && pod.holds().all(|want| holds(&want.key)) {
            self.violation("3 (kill)", format!("{uid} was deleted although it holds all that it asked for"));
        }
    }

    /// A sidecar was told that its Pod holds: that must be so now, or have been lost since it asked.
    pub fn judge_verified(&mut self, uid: &str, since: Instant) {
        let Some(pod) = self.truth.pods.get(uid).cloned() else { return };
        let lost = pod.removed || pod.over() || pod.excused.is_some_and(|at| at >= since);
        for want in pod.holds() {
            if self.primitive(&want.key).and_then(|object| token_of(&object, &pod)).is_none() && !lost {
                self.violation("1 (verified)", format!("{uid} was told that it holds {}, which is not so", want.key));
            }
        }
    }
}

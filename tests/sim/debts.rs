//! The judge of what konductor does to Pods and Jobs: it lifts finalizers and gates, resumes Jobs, ends those that will not start, deletes. None of it
//! before its time.

use konductor::{api::names, plan::Role};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    api::deleting,
    cluster::{condition, suspended, text},
    core::Core,
    judge::token_of,
    people::{Person, Want, owes, skipped},
    request::What,
    truth::NAMESPACE,
};

fn gated(pod: &Value) -> bool {
    pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| gates.iter().any(|gate| gate["name"] == names::SCHEDULING_GATE))
}

impl Core {
    /// konductor has written a Pod or a Job.
    pub fn judge_deed(&mut self, what: What, before: Option<&Value>, after: Option<&Value>) {
        let Some(before) = before else { return };
        let Some(person) = self.truth.people.get(&text(&before["metadata"]["uid"])).cloned() else { return };
        if owes(before) && !after.is_some_and(owes) {
            self.judge_freed(&person, before);
        } else if after.is_none_or(deleting) && !deleting(before) {
            match what {
                What::Pods => self.judge_kill(Some(before)),
                What::Jobs => self.judge_job_killed(Some(before)),
                _ => self.violation("3 (kill)", format!("the claim {} was deleted by konductor", person.uid)),
            }
        }
        let Some(after) = after else { return };
        if what == What::Pods && gated(before) && !gated(after) {
            self.stats.ungated += 1;
            self.judge_ungated(&person);
        }
        if what == What::Jobs && suspended(before) && !suspended(after) {
            self.stats.resumed += 1;
            self.judge_resumed(&person);
        }
        let ended = |job: &Value| condition(job, "Complete") || condition(job, "Failed");
        if what == What::Jobs && !ended(before) && ended(after) {
            self.judge_left_out(&person, after);
        }
    }

    /// Promise 7: whoever owes its end may vanish once that is on record, where it is counted.
    fn judge_freed(&mut self, person: &Person, before: &Value) {
        let uid = &person.uid;
        // Its Pod may live on for long when its part is done, and is kept no longer. But that part may run again, when its sandbox is made anew.
        let goes_on = self.truth.pods.get(uid).is_some_and(|pod| person.wraps && !pod.over() && !pod.removed);
        let unexecuted = |want: &&Want| {
            matches!(want.role, Role::Execute { .. })
                && !self.judge.open.after(&want.key, person.born)
                && !self.was_absent(&want.key, person.born)
        };
        if let Some(want) = person.holds().find(|want| goes_on && unexecuted(want)) {
            self.violation("7 (lost)", format!("{uid} may vanish, and may still execute {}", want.key));
        }
        let executed = |want: &&Want| {
            let object = self.primitive(&want.key).filter(|_| person.wraps && matches!(want.role, Role::Execute { .. }));
            let holder = object.and_then(|object| object.holders().iter().find(|holder| holder.uid == *uid).cloned());
            holder.is_some_and(|holder| self.truth.well.contains(&(want.key.seen_from(NAMESPACE), holder.token)))
        };
        if let Some(want) = person.holds().find(executed) {
            self.violation("7 (lost)", format!("{uid} may vanish, but {} has not recorded its end", want.key));
        }
        let Some(shown) = person.shown else { return };
        for want in person.wants.iter().filter(|want| want.arrives_at_end()) {
            let key = &want.key;
            let counted = self.judge.arrived.contains(&(key.clone(), uid.clone()));
            let too_late = self.judge.open.after(key, shown)
                || self.judge.failed.after(key, shown)
                || self.began_after(key, person.ended.unwrap_or(person.born));
            let nowhere = deleting(before) && self.was_absent(key, shown);
            if !counted && !too_late && !nowhere {
                self.violation("7 (lost)", format!("{uid} has succeeded and may vanish, but {key} has not counted it"));
            }
        }
        // A leader that still sees it wait may let it in once more: that a member's end is on record needs no second time, and it has no outcome.
        let on_record = |want: &&Want| want.role == Role::Join && self.judge.ended.contains(&(want.key.clone(), uid.clone()));
        let owed: Vec<&Want> =
            person.holds().filter(|want| matches!(want.role, Role::Execute { .. } | Role::Join) && !on_record(want)).collect();
        for want in owed {
            if self.primitive(&want.key).is_some_and(|object| object.holders().iter().any(|holder| holder.uid == *uid)) {
                self.violation("7 (lost)", format!("{uid} may vanish, but {} has not recorded its end", want.key));
            }
        }
    }

    /// Whether there is a reason to refuse somebody.
    pub fn refusable(&self, person: &Person) -> bool {
        person.wants.iter().any(|want| {
            let hopeless = matches!(want.role, Role::Wait { .. }) && self.judge.failed.after(&want.key, person.born);
            hopeless || self.late(person, want)
        })
    }

    /// A Pod may get a node: it holds all that it asks for, or will be refused.
    fn judge_ungated(&mut self, person: &Person) {
        let Some(pod) = self.truth.pods.get(&person.uid).cloned() else { return };
        let impostor = person.job.as_ref().is_some_and(|job| !self.job_goes_on(job)) || pod.orphaned;
        if impostor || self.refusable(person) {
            return;
        }
        let missing = person.steps().find(|want| match want.role.lasts() {
            true => self.primitive(&want.key).and_then(|object| token_of(&object, &pod)).is_none(),
            false => !self.was_behind(person, pod.holder_uid(), want),
        });
        if let Some(want) = missing {
            self.violation("3 (gated)", format!("{} may get a node without {}", person.uid, want.key));
        }
    }

    /// A Job may make Pods: it holds all that it asks for.
    fn judge_resumed(&mut self, person: &Person) {
        let uid = &person.uid;
        let missing = person.steps().find(|want| match want.role.lasts() {
            true => !self.primitive(&want.key).is_some_and(|object| object.holders().iter().any(|holder| holder.uid == *uid)),
            false => !self.was_behind(person, uid, want),
        });
        if let Some(want) = missing {
            self.violation("3 (suspended)", format!("{uid} is resumed without {}", want.key));
        }
    }

    /// Whether, at any moment from then on, there was nothing to do for somebody, or somebody else held what it does not wait for.
    pub fn is_left_out_rightly(&self, person: &Person, from: Instant) -> bool {
        person.wants.iter().any(|want| match want.role {
            Role::Execute { .. } if self.judge.open.after(&want.key, from) => true,
            Role::Hold { .. } | Role::Execute { .. } => person.skips && self.judge.busy.after(&want.key, from),
            _ => false,
        })
    }

    /// A Job is finished without having run: for a reason, and it never made a Pod.
    fn judge_left_out(&mut self, person: &Person, after: &Value) {
        let Person { uid, born, .. } = person;
        if self.truth.people.values().any(|other| other.job.as_ref() == Some(uid)) {
            self.violation("3 (skipped)", format!("{uid} was ended by konductor although it has run"));
        }
        let justified = if skipped(after) {
            self.stats.skips += 1;
            self.is_left_out_rightly(person, *born)
        } else {
            self.refusable(person)
        };
        if !justified {
            self.violation("3 (skipped)", format!("{uid} was ended by konductor for no reason"));
        }
    }

    /// At the end, everybody's end is on record.
    pub fn judge_debts(&mut self) {
        for uid in self.owing() {
            self.violation("7 (debts)", format!("{uid} has ended and is still kept for its end"));
        }
    }
}

//! The judge when nothing goes wrong any more: nobody waits who could hold, nobody holds who has ended, and at the end everything is at rest.

use konductor::{
    api::HolderKind,
    controller::object::{Key, Object},
};
use serde_json::Value;

use crate::{
    api::primitive,
    core::Core,
    judge::{pods_of, summary, token_of},
    pod::{Pod, Step},
    request::What,
};

impl Core {
    /// Promise 4 and the liveness of all others: looked at when nothing has gone wrong for a minute.
    pub fn judge_liveness(&mut self) {
        let primitives: Vec<Object> = [What::Mutexes, What::Semaphores]
            .into_iter()
            .flat_map(|what| self.all(what).filter_map(move |value| primitive(what, value)))
            .collect();
        for object in primitives {
            let key = object.key();
            for holder in object.holders() {
                let live = match holder.kind {
                    HolderKind::Pod | HolderKind::Claim => self.truth.pods.get(&holder.uid).is_some_and(|pod| !pod.over()),
                    HolderKind::Job => {
                        self.job_runs(&holder.uid)
                            || pods_of(holder).iter().any(|uid| self.truth.pods.get(uid).is_some_and(|pod| !pod.over()))
                    }
                };
                if !live {
                    self.violation("4 (release)", format!("{key} is still held by {}, which has ended", holder.uid));
                }
            }
            let held: i64 = object.holders().iter().map(|holder| i64::from(holder.permits)).sum();
            let mut line: Vec<&Pod> = self
                .truth
                .pods
                .values()
                .filter(|pod| matches!(pod.step, Step::Acquiring(_)) && pod.ending.is_none() && self.may_ask(pod))
                .filter(|pod| {
                    let has = |key: &Key| self.primitive(key).is_some_and(|object| token_of(&object, pod).is_some());
                    pod.wants.iter().find(|want| !has(&want.key)).is_some_and(|want| want.key == key)
                })
                .collect();
            let rank = |pod: &Pod| {
                pod.wants
                    .iter()
                    .find(|want| want.key == key)
                    .map(|want| (std::cmp::Reverse(want.priority), pod.created.clone(), pod.holder_uid().to_owned()))
            };
            line.sort_by_key(|pod| rank(pod));
            let mut stuck = None;
            for pod in line {
                let permits = pod.wants.iter().find(|want| want.key == key).map_or(1, |want| want.permits);
                if let Some(holder) = object.holders().iter().find(|holder| holder.uid == pod.holder_uid()) {
                    let alone = holder.pods.iter().all(|other| self.truth.pods.get(&other.uid).is_none_or(Pod::over));
                    if alone || pod.shared {
                        stuck = Some(pod.uid.clone());
                    }
                } else if !object.deleting() && permits <= object.capacity() {
                    if held + i64::from(permits) <= i64::from(object.capacity()) {
                        stuck = Some(pod.uid.clone());
                    }
                    break;
                }
            }
            if let Some(stuck) = stuck {
                self.violation("liveness", format!("{stuck} could hold {key} and still waits"));
            }
        }
        let holding: Vec<String> = self
            .truth
            .pods
            .values()
            .filter(|pod| matches!(pod.step, Step::Acquiring(_)) && pod.ending.is_none() && self.may_ask(pod))
            .filter(|pod| pod.wants.iter().all(|want| self.primitive(&want.key).is_some_and(|object| token_of(&object, pod).is_some())))
            .map(|pod| pod.uid.clone())
            .collect();
        if let Some(uid) = holding.first() {
            self.violation("liveness", format!("{uid} holds all that it asks for and was not told"));
        }
        let strays: Vec<String> = self
            .truth
            .pods
            .values()
            .filter(|pod| pod.excused.is_some() && pod.alive() && !pod.removed && pod.ending.is_none())
            .map(|pod| pod.uid.clone())
            .collect();
        if let Some(uid) = strays.first() {
            self.violation("3 (lost)", format!("{uid} runs on without the hold that was taken from it"));
        }
    }

    /// Whoever still has something to come, when no user does anything any more.
    pub fn left(&self) -> Vec<String> {
        // A Pod that its Job left behind before it held anything is refused again and again.
        let left_behind =
            |pod: &Pod| !pod.orphaned && pod.job.as_ref().is_some_and(|job| !self.job_goes_on(job)) && !pod.alive() && pod.ending.is_none();
        let pods = self.truth.pods.values().filter(|pod| !pod.over() && !left_behind(pod)).map(|pod| pod.uid.clone());
        let jobs =
            self.all(What::Jobs).filter_map(|job| job["metadata"]["uid"].as_str()).filter(|uid| self.job_goes_on(uid)).map(str::to_owned);
        pods.chain(jobs).collect()
    }

    /// When all have ended: nobody holds, and nothing keeps the primitives from being deleted.
    pub fn judge_rest(&mut self) {
        for (what, kind) in [(What::Mutexes, "mutex"), (What::Semaphores, "semaphore")] {
            let all: Vec<Value> = self.all(what).cloned().collect();
            for value in &all {
                let name = value["metadata"]["name"].as_str().unwrap_or_default();
                let text = summary(value);
                if !text.contains("[]") || text.contains("kept") || value["status"]["waiting"].as_i64().unwrap_or(0) != 0 {
                    self.violation("4 (rest)", format!("{kind}/{name} is not at rest:{text}, {} wait", value["status"]["waiting"]));
                }
            }
        }
    }
}

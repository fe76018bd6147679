//! The judge when nothing goes wrong any more: nobody waits who could hold, nobody holds who has ended, and at the end everything is at rest.

use konductor::{api::HolderKind, controller::object::Object, plan::Kind};

use crate::{
    cast,
    claims::{Stage, settled},
    core::Core,
    judge::{pods_of, summary},
    pod::{Pod, Step},
    request::What,
    truth::NAMESPACE,
};

impl Core {
    /// Promise 4 and the liveness of all others: looked at when nothing has gone wrong for a minute.
    pub fn judge_liveness(&mut self) {
        let primitives: Vec<Object> =
            self.cast.clone().into_iter().filter_map(|(what, name)| self.primitive(&cast::key(what, name))).collect();
        for object in primitives {
            let key = object.key();
            for holder in object.holders() {
                let live = match holder.kind {
                    HolderKind::Claim => !self.claim_has_ended(&holder.uid),
                    HolderKind::Pod => {
                        let holds = |pod: &Pod| !pod.has_ended() && !matches!(pod.step, Step::After(_));
                        self.truth.pods.get(&holder.uid).is_some_and(holds)
                    }
                    HolderKind::Job => {
                        self.job_runs(&holder.uid)
                            || self.job_waits(&holder.uid)
                            || (key.kind == Kind::WaitGroup && self.job_goes_on(&holder.uid))
                            || pods_of(holder).iter().any(|uid| self.truth.pods.get(uid).is_some_and(|pod| !pod.has_ended()))
                    }
                };
                if !live {
                    self.violation("4 (release)", format!("{key} is still held by {}, which has ended", holder.uid));
                }
            }
        }
        self.judge_lines();
        self.judge_latches();
        self.judge_claims();
        self.judge_debts();
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
        // A Claim whose owner has died still holds until it expires.
        let claims = self.truth.claimants.values().filter(|one| match one.stage {
            Stage::Over => false,
            Stage::Dead => self.all(What::Claims).any(|claim| claim["metadata"]["uid"] == one.uid.as_str() && !settled(claim)),
            _ => true,
        });
        pods.chain(jobs).chain(claims.map(|one| one.uid.clone())).collect()
    }

    /// When all have ended: nobody holds, and nothing keeps the primitives from being deleted.
    pub fn judge_rest(&mut self) {
        for (what, name) in self.cast.clone() {
            let Some(value) = self.get(what, NAMESPACE, name) else { continue };
            let (text, waiting) = (summary(value), value["status"]["waiting"].as_i64().unwrap_or(0));
            if !text.contains("[]") || text.contains("kept") || waiting != 0 {
                self.violation("4 (rest)", format!("{name} is not at rest:{text}, {waiting} wait"));
            }
        }
        self.judge_debts();
    }
}

//! The judge of Claims: what they are told is so, what they rely on is not taken from them, and what is done by hand is done once.

use std::collections::BTreeMap;

use konductor::{
    api::{Holder, Operation, denied},
    controller::object::{Key, Object},
    plan::Kind,
    rules::{Once, Record},
};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::{
    api::deleting,
    claims::{Claimant, is_over, phase},
    cluster::text,
    core::Core,
    people::{Person, owes},
    request::{What, Writer},
};

impl Core {
    /// Who relies on a hold by a Claim now, with what it takes of the capacity.
    pub fn relying(&self, key: &Key) -> BTreeMap<String, i64> {
        let time = self.server_time();
        let all = self.truth.claimants.values().filter(|one| one.key == *key && one.relies(time));
        all.filter_map(|one| Some((one.uid.clone(), self.truth.people.get(&one.uid)?.wants.first()?.weight()))).collect()
    }

    /// Somebody begins to rely on its hold: it must have it.
    pub fn judge_claim_starts(&mut self, claimant: &Claimant) {
        if !claimant.relies(self.server_time()) {
            return;
        }
        let Claimant { uid, key, .. } = claimant;
        let object = self.primitive(key);
        if !object.as_ref().is_some_and(|object| object.holders().iter().any(|holder| holder.uid == *uid)) {
            self.violation("1 (claims)", format!("{uid} relies on {key} and does not hold it"));
        }
        let weight = self.truth.people.get(uid).and_then(|person| person.wants.first()).map_or(1, |want| want.weight());
        self.judge_crowd(key, BTreeMap::from([(uid.clone(), weight)]));
    }

    /// Promise 3, and 8: the hold of a Claim ends when its Claim says so, or when it was not renewed for longer than its `ttl`, as seen by one leader all the
    /// while. Nobody relies on it any more.
    pub fn judge_claim_out(&mut self, writer: Writer, key: &Key, holder: &Holder, ttl: Duration) {
        self.judge.held.remove(&(key.clone(), holder.uid.clone()));
        let Some(claimant) = self.truth.claimants.get(&holder.uid).cloned() else { return };
        let uid = &claimant.uid;
        if claimant.relies(self.server_time()) {
            return self.violation("3 (claims)", format!("{key} was taken from {uid}, which may still rely on it"));
        }
        let claim = self.all(What::Claims).find(|claim| claim["metadata"]["uid"] == uid.as_str());
        let other = |claim: &Value| phase(claim) == "Granted" && claim["status"]["token"] != holder.token;
        if claim.is_none_or(|claim| deleting(claim) || is_over(claim) || other(claim) || claim["spec"]["succeeded"].is_boolean()) {
            return;
        }
        self.judge_expiry(writer, key, &claimant, ttl);
    }

    /// A hold was not renewed: whoever ends it has seen so for the whole `ttl`.
    fn judge_expiry(&mut self, writer: Writer, key: &Key, claimant: &Claimant, ttl: Duration) {
        self.stats.expiries += 1;
        self.last_event = Instant::now();
        let uid = &claimant.uid;
        let ttl = claimant.spec.ttl.map_or(ttl, |ttl| ttl.as_std());
        let Writer::Process { process, sent } = writer else { return };
        if let Some(led) = self.processes[process].led.filter(|led| *led <= sent && sent - *led < ttl) {
            let words = format!("{key} was taken from {uid} by a leader that had seen it for {:?} of {ttl:?}", sent - led);
            self.violation("8 (claims)", words);
        }
    }

    /// Somebody new is among the holders: a Claim that was told that it is over is not let in again, but by whoever cannot know it yet.
    pub fn judge_claim_in(&mut self, key: &Key, holder: &Holder) {
        let late = self.truth.claims_over.get(&holder.uid).is_some_and(|over| over.elapsed() > self.margin());
        if late {
            self.violation("1 (claims)", format!("{} was told that it is over, and holds {key} again", holder.uid));
        }
    }

    /// A Claim was written by konductor.
    pub fn judge_answer(&mut self, writer: Writer, before: Option<&Value>, after: Option<&Value>) {
        let Some((before, after)) = before.zip(after).filter(|(before, after)| phase(before) != phase(after)) else { return };
        let uid = text(&after["metadata"]["uid"]);
        let Some(claimant) = self.truth.claimants.get(&uid).cloned() else { return };
        let Some(person) = self.truth.people.get(&uid).cloned() else { return };
        if is_over(after) {
            self.truth.claims_over.insert(uid.clone(), Instant::now());
        }
        let key = &claimant.key;
        let object = self.primitive(key);
        let holder = object.iter().flat_map(Object::holders).find(|holder| holder.uid == uid);
        let record = object.as_ref().map(Object::record);
        let executed = matches!(&record, Some(Record::Once(Once { executed: Some(executed) })) if executed.by.uid == uid);
        match phase(after) {
            "Granted" if claimant.spec.operation == Operation::Acquire => {
                if holder.is_none_or(|holder| after["status"]["token"] != holder.token) {
                    self.violation("1 (claims)", format!("{uid} was told that it holds {key}, which is not so"));
                }
                if key.kind == Kind::Once && !owes(after) {
                    self.violation("7 (claims)", format!("{uid} executes {key} and may vanish"));
                }
            }
            "Granted" => {
                let done = match claimant.spec.operation {
                    Operation::Wait => self.judge.open.after(key, person.born),
                    Operation::Arrive => self.judge.arrived_as.contains(&(key.clone(), claimant.arrives_as().to_owned())),
                    _ => self.judge.applied.contains_key(&uid),
                };
                if !done {
                    self.violation("7 (claims)", format!("{uid} was told that it is done: {:?} of {key}", claimant.spec.operation));
                }
            }
            // It is told before anything is taken from it. One that does not hold any more was judged when it was taken.
            "Expired" => {
                if executed {
                    self.violation("7 (claims)", format!("{uid} has executed {key}, and was told that it was taken from it"));
                }
                let Some(ttl) = object.as_ref().filter(|_| holder.is_some()).map(Object::ttl) else { return };
                if claimant.relies(self.server_time()) {
                    self.violation("3 (claims)", format!("{uid} was told that {key} is taken from it, and may still rely on it"));
                }
                self.judge_expiry(writer, key, &claimant, ttl);
            }
            "Released" => {
                let said = after["status"]["message"].as_str().is_some_and(|message| message.starts_with("has executed"));
                if said && !executed && !self.began_after(key, person.born) {
                    self.violation("7 (claims)", format!("{uid} was told that it has executed {key}, which is not on record"));
                }
            }
            "Denied" => self.judge_denied(&claimant, &person, before, after),
            _ => {}
        }
    }

    /// It was denied: for a reason.
    fn judge_denied(&mut self, claimant: &Claimant, person: &Person, before: &Value, after: &Value) {
        let Claimant { uid, key, spec, .. } = claimant;
        let reason = after["status"]["conditions"][0]["reason"].as_str().unwrap_or_default();
        let judge = &self.judge;
        let late = || person.created + spec.timeout.map(|timeout| timeout.as_std()).unwrap_or_default() <= self.server_time();
        let right = match reason {
            denied::NOT_FREE => spec.timeout.is_some_and(|timeout| timeout.is_zero()),
            denied::TIMED_OUT => spec.timeout.is_some() && late(),
            denied::EXECUTED => judge.open.after(key, person.born),
            denied::FAILED => judge.failed.after(key, person.born),
            denied::LATE => judge.open.after(key, person.born) || judge.failed.after(key, person.born) || judge.began.contains_key(key),
            denied::DENIED => spec.operation == Operation::Done,
            _ => false,
        };
        self.last_event = Instant::now();
        if !right || phase(before) != "Pending" {
            self.violation("6 (claims)", format!("{uid} was denied {key} without a reason: {reason}"));
        }
    }

    /// Promise 7: what is done by hand is in the record, once.
    pub fn judge_by_hand(&mut self, old: &Object, new: &Object) {
        let key = new.key();
        let before = old.applied();
        let steps: Vec<Claimant> = new
            .applied()
            .iter()
            .filter(|uid| !before.contains(uid))
            .filter_map(|uid| self.truth.claimants.get(uid).filter(|one| one.key == key && one.is_step()).cloned())
            .collect();
        if steps.len() + before.iter().filter(|uid| new.applied().contains(uid)).count() != new.applied().len() {
            self.violation("7 (by hand)", format!("{key} has applied what nobody asked for, or twice: {:?}", new.applied()));
        }
        for step in &steps {
            self.stats.by_hand += 1;
            if self.judge.applied.insert(step.uid.clone(), new.uid().to_owned()).as_deref() == Some(new.uid()) {
                self.violation("7 (by hand)", format!("{} was applied to {key} twice", step.uid));
            }
        }
        let rounds = new.primitive().round.number - old.primitive().round.number;
        let resets = steps.iter().filter(|step| step.spec.operation == Operation::Reset).count();
        let others = steps.iter().filter(|step| matches!(step.spec.operation, Operation::Open | Operation::Close)).count();
        if usize::try_from(rounds).is_ok_and(|rounds| (resets..=resets + others).contains(&rounds)) {
            if rounds > 0 {
                self.judge.began.insert(key.clone(), Instant::now());
            }
        } else {
            self.violation("7 (by hand)", format!("{key} began {rounds} rounds for {resets} resets"));
        }
        if let (Record::WaitGroup(old), Record::WaitGroup(new), 0) = (old.record(), new.record(), rounds) {
            let delta = |step: &Claimant| if step.spec.operation == Operation::Done { -1 } else { step.spec.delta.unwrap_or(1) };
            let sum: i64 = steps.iter().map(delta).sum();
            if new.added != old.added + sum || new.added < 0 {
                self.violation("7 (by hand)", format!("{} were added to {key}, {} are, and {sum} were asked for", old.added, new.added));
            }
        }
    }

    /// When nothing has gone wrong for a minute: what can be done by hand is done.
    pub fn judge_claims(&mut self) {
        let stuck = self.truth.claimants.values().filter(|one| one.is_step()).find(|one| {
            let claim = self.all(What::Claims).find(|claim| claim["metadata"]["uid"] == one.uid.as_str());
            let pending = claim.is_some_and(|claim| phase(claim) == "Pending" && !deleting(claim));
            pending && self.primitive(&one.key).is_some_and(|object| !object.deleting())
        });
        if let Some(words) = stuck.map(|one| format!("{} still waits to do something with {}", one.uid, one.key)) {
            self.violation("liveness", words);
        }
    }

    /// Whether somebody could have come before the present round of something began.
    pub fn began_after(&self, key: &Key, from: Instant) -> bool {
        self.judge.began.get(key).is_some_and(|began| *began >= from)
    }

    /// A Claim changed: perhaps it says now that it does not hold any more.
    pub fn claim_seen(&mut self, before: Option<&Value>, after: Option<&Value>) {
        let ended = after.is_none_or(|claim| deleting(claim) || is_over(claim) || claim["spec"]["succeeded"].is_boolean());
        if let Some(claim) = before.filter(|_| ended) {
            self.truth.claims_ended.entry(text(&claim["metadata"]["uid"])).or_insert_with(Instant::now);
        }
    }

    /// Whether a Claim has said for some time that it does not hold any more.
    pub fn claim_has_ended(&self, uid: &str) -> bool {
        self.truth.claims_ended.get(uid).is_some_and(|ended| ended.elapsed() > Duration::from_secs(3))
    }
}

//! Who asks for what now, as far as the API shows it, and whether those who come first get it first.

use std::cmp::Reverse;

use konductor::{
    api::{Holder, HolderKind},
    controller::object::{Key, Object},
    plan::{OnTimeout, Role},
    rules::Latch,
};
use tokio::time::{Duration, Instant};

use crate::{
    api::deleting,
    claims::phase,
    cluster::text,
    core::Core,
    judge::{LATE, decided, latch, pods_of, token_of},
    people::{Person, Want, held_back},
    pod::{Pod, Step},
    request::What,
};

/// Somebody who waits to be let go on.
#[derive(Clone, Debug)]
pub struct Asking {
    pub what: What,
    /// Under which it is answered.
    pub uid: String,
    /// Who will hold.
    pub holder: String,
    pub created: String,
    /// The Pod whose acquire step asks; `None` for those who wait before it.
    pub session: Option<Pod>,
    /// Several Pods of its Job may run at once.
    pub shared: bool,
    pub person: Person,
    /// What it asks for; `None` if it has all.
    pub next: Option<Want>,
}

/// A Claim that holds is told so within this time when nothing goes wrong.
const TELLS_WITHIN: Duration = Duration::from_secs(3);

/// Where somebody stands in the line for a primitive: the smallest comes first.
pub type Rank = (Reverse<i32>, String, String, String);

impl Asking {
    pub fn rank(&self, object: &Object) -> Option<Rank> {
        let want = self.person.holds().find(|want| want.key == object.key())?;
        Some(rank(want, object, (&self.created, &self.holder, &self.uid)))
    }
}

fn rank(want: &Want, object: &Object, (created, holder, uid): (&str, &str, &str)) -> Rank {
    let stated = want.role.priority();
    let priority = if stated == 0 { object.default_priority() } else { stated };
    (Reverse(priority), created.to_owned(), holder.to_owned(), uid.to_owned())
}

impl Core {
    /// All who ask now.
    pub fn asking(&self) -> Vec<Asking> {
        let here = |pod: &&Pod| matches!(pod.step, Step::Acquiring(_)) || (pod.step == Step::Unbound && self.gated(pod));
        let pods = self.truth.pods.values().filter(|pod| here(pod) && pod.ending.is_none() && self.may_ask(pod)).filter_map(|pod| {
            let person = self.truth.people.get(&pod.uid)?.clone();
            let has = |want: &Want| match want.role.lasts() {
                true => self.primitive(&want.key).is_some_and(|object| token_of(&object, pod).is_some()),
                false => self.is_behind(&person, pod.holder_uid(), want),
            };
            let next = person.steps().find(|want| !has(want)).cloned();
            let session = matches!(pod.step, Step::Acquiring(_)).then(|| pod.clone());
            let (uid, holder, created) = (pod.uid.clone(), pod.holder_uid().to_owned(), pod.created.clone());
            Some(Asking { what: What::Pods, uid, holder, created, session, shared: pod.shared, person, next })
        });
        let waits = |job: &&serde_json::Value| held_back(job) && !decided(job) && !deleting(job);
        let jobs = self.all(What::Jobs).filter(waits).filter_map(|job| {
            let uid = text(&job["metadata"]["uid"]);
            let person = self.truth.people.get(&uid)?.clone();
            let has = |want: &Want| match want.role.lasts() {
                true => self.primitive(&want.key).is_some_and(|object| object.holders().iter().any(|holder| holder.uid == uid)),
                false => self.is_behind(&person, &uid, want),
            };
            let next = person.steps().find(|want| !has(want)).cloned();
            let created = text(&job["metadata"]["creationTimestamp"]);
            Some(Asking { what: What::Jobs, uid: uid.clone(), holder: uid, created, session: None, shared: true, person, next })
        });
        let asks = |claim: &&serde_json::Value| phase(claim) == "Pending" && !deleting(claim);
        let claims = self.all(What::Claims).filter(asks).filter_map(|claim| {
            let uid = text(&claim["metadata"]["uid"]);
            let person = self.truth.people.get(&uid).filter(|person| !person.wants.is_empty())?.clone();
            let has = |want: &Want| match want.role.lasts() {
                true => self.primitive(&want.key).is_some_and(|object| object.holders().iter().any(|holder| holder.uid == uid)),
                false => self.is_behind(&person, &uid, want),
            };
            let next = person.steps().find(|want| !has(want)).cloned();
            let created = text(&claim["metadata"]["creationTimestamp"]);
            Some(Asking { what: What::Claims, uid: uid.clone(), holder: uid, created, session: None, shared: true, person, next })
        });
        pods.chain(jobs).chain(claims).collect()
    }

    /// Whether konductor keeps this Pod from being scheduled.
    fn gated(&self, pod: &Pod) -> bool {
        let object = self.get(What::Pods, crate::truth::NAMESPACE, &pod.name);
        object.is_some_and(|object| object["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()))
    }

    /// Whether the API shows that this wait or arrival is behind somebody.
    fn is_behind(&self, person: &Person, holder: &str, want: &Want) -> bool {
        let Some(object) = self.primitive(&want.key) else { return false };
        match want.role {
            Role::Wait { on_timeout, .. } => {
                let late = want.timeout.is_some_and(|timeout| self.server_time().duration_since(person.created) >= timeout);
                let gave_up = on_timeout == OnTimeout::Proceed && (latch(&object) == Latch::Failed || late);
                latch(&object) == Latch::Open || gave_up
            }
            _ => latch(&object) != Latch::Shut || self.judge.arrived.contains(&(want.key.clone(), holder.to_owned())),
        }
    }

    /// Whether it has ever been, since there is this Pod or Job.
    pub fn was_behind(&self, person: &Person, holder: &str, want: &Want) -> bool {
        let Person { born, uid, .. } = person;
        let judge = &self.judge;
        match want.role {
            Role::Wait { on_timeout, .. } => {
                let gave_up = on_timeout == OnTimeout::Proceed && (judge.failed.after(&want.key, *born) || self.late(person, want));
                judge.open.after(&want.key, *born) || gave_up
            }
            _ => {
                let names = [holder, uid, person.job.as_deref().unwrap_or(uid)];
                let arrived = names.into_iter().any(|name| judge.arrived.contains(&(want.key.clone(), name.to_owned())));
                arrived || judge.open.after(&want.key, *born) || judge.failed.after(&want.key, *born)
            }
        }
    }

    /// Whether somebody's patience for something may be over: that of a Job's Pod counts from its own creation, or from its Job's.
    pub fn late(&self, person: &Person, want: &Want) -> bool {
        let job = person.job.as_ref().and_then(|job| self.truth.people.get(job));
        let created = job.map_or(person.created, |job| job.created);
        want.timeout.is_some_and(|timeout| self.server_time().duration_since(created) >= timeout)
    }

    /// Who waits for what does not come by itself.
    pub fn waiting(&self) -> Vec<String> {
        let shut = |want: &Want| {
            matches!(want.role, Role::Wait { .. }) && self.primitive(&want.key).is_none_or(|object| latch(&object) != Latch::Open)
        };
        self.asking()
            .into_iter()
            .filter(|asking| asking.next.as_ref().is_some_and(shut))
            .flat_map(|asking| {
                let maker = asking.session.and_then(|pod| pod.owner);
                [asking.uid, asking.holder].into_iter().chain(maker)
            })
            .collect()
    }

    /// Promise 6: nobody is let in past somebody who is there, waits for the same and comes first.
    pub fn judge_order(&mut self, process: usize, sent: Instant, object: &Object, holders: &[Holder], granted: &Holder) {
        let key = object.key();
        let margin = self.margin();
        // Those who slept through it have yet to hear of everything.
        if self.jumped.is_some_and(|at| at.elapsed() < LATE) {
            return;
        }
        let first = match granted.kind {
            HolderKind::Claim | HolderKind::Job if granted.pods.is_empty() => {
                let created = self.truth.people.get(&granted.uid).map(|person| (self.date_of(person.created), granted.uid.clone()));
                created.map(|(created, uid)| (uid.clone(), created, uid.clone(), uid))
            }
            _ => {
                let pod = self.truth.pods.values().find(|pod| pods_of(granted).contains(&pod.uid));
                pod.map(|pod| (pod.uid.clone(), pod.created.clone(), pod.holder_uid().to_owned(), pod.uid.clone()))
            }
        };
        let Some((person, created, holder, uid)) = first else { return };
        let Some(want) = self.truth.people.get(&person).and_then(|person| person.holds().find(|want| want.key == key)) else { return };
        let granted_rank = rank(want, object, (&created, &holder, &uid));
        let old = |since: Instant| since + margin <= sent;
        let led = self.processes[process].led.is_some_and(old);
        let noticed = |asking: &Asking| match &asking.session {
            Some(pod) => {
                self.reachable(pod, margin)
                    && !self.sees_an_old_outage(process, pod, margin)
                    && pod.session.is_some_and(|session| session.process == process && old(session.since))
            }
            None => led && old(asking.person.born) && !self.is_blind(process, asking.what),
        };
        let passed: Option<String> = self
            .asking()
            .into_iter()
            .filter(|asking| noticed(asking) && !asking.person.skips)
            .filter(|asking| holders.iter().all(|holder| holder.uid != asking.holder && !pods_of(holder).contains(&asking.uid)))
            .filter(|asking| {
                let settled = |want: &Want| match want.role.lasts() {
                    true => self.judge.held.get(&(want.key.clone(), asking.uid.clone())).is_some_and(|since| old(*since)),
                    false => self.judge.open.since(&want.key).is_some_and(old),
                };
                let next = asking.person.steps().find(|want| !settled(want));
                next.is_some_and(|want| want.key == key && want.timeout.is_none() && want.weight() <= i64::from(object.capacity()))
            })
            .find(|asking| asking.rank(object).is_some_and(|rank| rank < granted_rank))
            .map(|asking| asking.uid);
        if let Some(passed) = passed {
            self.violation("6 (order)", format!("{key} went to {} past {passed}, which was first in line", granted.uid));
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

    /// Whether a controller's watch of these stalls or is not open, or a moment ago: also where nothing else is slow, a node may come back to those that do
    /// not see it, and one that was cut off lists everything anew before it watches again.
    fn is_blind(&self, process: usize, what: What) -> bool {
        let Some(process) = self.processes.get(process) else { return false };
        let just_now = |at: Instant| at + Duration::from_secs(3) > Instant::now();
        let watches = process.watches.get(&what).is_some_and(|(watch, since)| watch.strong_count() > 0 && !just_now(*since));
        !watches || process.stalled.get(&what).is_some_and(|until| just_now(*until))
    }

    /// How long a fact may take to reach a decision.
    pub fn margin(&self) -> Duration {
        let faults = &self.faults;
        let calm = self.judge.calm_since.is_some_and(|since| since.elapsed() > Duration::from_secs(30));
        let quick = faults.slow + faults.lost_on_the_way + faults.lost_after + faults.refused + faults.cut + faults.watch_slow == 0;
        if calm || quick { Duration::from_secs(3) } else { Duration::from_secs(45) }
    }

    /// Promise 6 and liveness, when nothing has gone wrong for a minute: nobody waits who could go on.
    pub fn judge_lines(&mut self) {
        let mut asking = self.asking();
        let mut stuck: Vec<String> = Vec::new();
        for one in &asking {
            let Some(want) = &one.next else {
                let just_now = |want: &Want| {
                    self.judge.held.get(&(want.key.clone(), one.uid.clone())).is_some_and(|since| since.elapsed() < TELLS_WITHIN)
                };
                if one.what == What::Claims && one.person.holds().any(just_now) {
                    continue;
                }
                stuck.push(format!("{} holds all that it asks for and was not let go on", one.uid));
                continue;
            };
            let Some(object) = self.primitive(&want.key).filter(|object| !object.deleting()) else { continue };
            let key = &want.key;
            let inside = object.holders().iter().any(|holder| holder.uid == one.holder);
            let ended = latch(&object) != Latch::Shut;
            let late = one.person.job.is_none() && !inside && self.late(&one.person, want);
            match want.role {
                // A session remembers what was open, and is somewhere else by now.
                Role::Wait { .. } if self.judge.open.after(key, one.person.born) => {}
                Role::Wait { .. } if ended || late => stuck.push(format!("{} still waits for {key}", one.uid)),
                Role::Arrive { .. } | Role::Join => stuck.push(format!("{} could pass {key} and still waits", one.uid)),
                Role::Execute { .. } if ended => stuck.push(format!("{} waits to execute {key}, which is executed", one.uid)),
                Role::Hold { .. } | Role::Execute { .. } if late => {
                    stuck.push(format!("{} waits for {key} though its time is over", one.uid))
                }
                Role::Hold { .. } | Role::Execute { .. } if one.person.skips && (one.session.is_none() || one.person.wraps) => {
                    let held: i64 = object.holders().iter().map(crate::judge::weight).sum();
                    if held > 0 && !inside && held + want.weight() > i64::from(object.capacity()) {
                        stuck.push(format!("{} should be left out: {key} is not free", one.uid));
                    }
                }
                _ => {}
            }
        }
        asking.retain(|one| one.next.as_ref().is_some_and(Want::exclusive));
        let mut keys: Vec<Key> = asking.iter().filter_map(|one| one.next.as_ref().map(|want| want.key.clone())).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let Some(object) = self.primitive(&key).filter(|object| latch(object) == Latch::Shut) else { continue };
            let held: i64 = object.holders().iter().map(crate::judge::weight).sum();
            let mut line: Vec<&Asking> = asking.iter().filter(|one| one.next.as_ref().is_some_and(|want| want.key == key)).collect();
            line.sort_by_key(|one| one.rank(&object));
            for one in line {
                let weight = one.next.as_ref().map_or(1, Want::weight);
                if let Some(holder) = object.holders().iter().find(|holder| holder.uid == one.holder) {
                    let alone = holder.pods.iter().all(|other| self.truth.pods.get(&other.uid).is_none_or(Pod::over));
                    if alone || one.shared {
                        stuck.push(format!("{} could hold {key} and still waits", one.uid));
                    }
                } else if !object.deleting() && weight <= i64::from(object.capacity()) {
                    if held + weight <= i64::from(object.capacity()) {
                        stuck.push(format!("{} could hold {key} and still waits", one.uid));
                    }
                    break;
                }
            }
        }
        if let Some(words) = stuck.into_iter().next() {
            self.violation("liveness", words);
        }
    }
}

//! What really happens on the nodes, kept apart from what the API shows: the simulated kubelets. Their statuses reach the API late; a silent node runs on
//! without a word; a dead one loses everything that ran on it.

use std::collections::{BTreeMap, BTreeSet};

use konductor::{
    api::names,
    coordinator::protocol::{Ended, Reason, Token},
};
use serde_json::Value;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    api::deleting,
    claims::Claimant,
    cluster::NODES,
    core::Core,
    people::Person,
    pod::{Face, Pod, Step, step_name},
    request::{Place, What, Writer},
    wrapped::Wrap,
};

pub const NAMESPACE: &str = "team";

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Since when it has not spoken to anybody.
    pub silent: Option<Instant>,
    /// It lost power, too: nothing runs on it.
    pub dead: bool,
    pub returns: Option<Instant>,
    /// It is back, but its kubelet has not heard from the API server yet.
    pub deaf: Option<Instant>,
    pub evicts: Option<Instant>,
    pub marks: Option<Instant>,
}

#[derive(Default)]
pub struct Truth {
    /// All who ever carried annotations, by UID.
    pub people: BTreeMap<String, Person>,
    pub pods: BTreeMap<String, Pod>,
    /// All who ever had a Claim, by its UID.
    pub claimants: BTreeMap<String, Claimant>,
    /// When Claims were told that they are over.
    pub claims_over: BTreeMap<String, Instant>,
    /// When Claims ceased to hold, as far as they themselves say it.
    pub claims_ended: BTreeMap<String, Instant>,
    pub nodes: Vec<Node>,
    /// Agents to start: Pod and run, with the token that ends them.
    pub to_start: Vec<Errand>,
    /// Nodes that are back, and will soon fall silent again.
    pub relapses: Vec<(usize, Instant)>,
    /// When Jobs were last seen suspended, by UID.
    pub suspended: BTreeMap<String, Instant>,
    /// Under which holds wrapped commands ran that ended well, by target and token.
    pub well: BTreeSet<(String, i64)>,
    /// Those of them that a Pod's status shows, with its UID, and since when.
    pub well_shown: BTreeMap<(String, i64), (String, Instant)>,
    /// Apps do not end by themselves for now.
    pub apps_run_on: bool,
    /// Nor does the work for which Claims hold.
    pub claims_run_on: bool,
    /// Everybody is to come to an end: there are permits for all.
    pub at_last: bool,
    /// Since when the same have been left.
    pub hopeless: Option<(Instant, Vec<String>)>,
}

/// Something that an agent does.
#[derive(Clone, Debug)]
pub enum Errand {
    Acquire {
        uid: String,
        run: u64,
        until: CancellationToken,
    },
    Verify {
        uid: String,
    },
    Release {
        uid: String,
    },
    /// What wraps a command says that it has ended.
    Report {
        uid: String,
        bearer: String,
        ended: Ended,
    },
    /// What wraps a command gives back what it has got so far.
    GiveBack {
        uid: String,
        until: CancellationToken,
    },
}

impl Core {
    /// A Pod appeared in the API.
    fn pod_created(&mut self, object: &Value) {
        let meta = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let inits = object["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        let ends = |container: &Value| container["name"] == names::ACQUIRE_CONTAINER || container["restartPolicy"] == "Always";
        let maker = meta["ownerReferences"][0]["uid"].as_str().map(str::to_owned);
        let copied = meta["annotations"][names::COPIED_FROM] == names::COPIED_FROM_JOB;
        let job = maker.clone().filter(|_| copied);
        let owner = job.as_ref().and_then(|uid| self.all(What::Jobs).find(|job| job["metadata"]["uid"] == uid.as_str())).cloned();
        let wants = self.person_created(What::Pods, object, job.clone());
        let bound = object["spec"]["nodeName"].is_string();
        let starts = Instant::now() + if self.chaos { self.chance.millis(20, 1500) } else { self.chance.millis(20, 200) };
        let pod = Pod {
            uid: text(&meta["uid"]),
            name: text(&meta["name"]),
            node: if bound { meta["labels"]["node"].as_str().and_then(|node| node.parse().ok()).unwrap_or(0) } else { NODES },
            shared: owner.as_ref().is_some_and(|job| job["spec"]["parallelism"].as_i64().unwrap_or(1) > 1),
            created: text(&owner.as_ref().unwrap_or(object)["metadata"]["creationTimestamp"]),
            job,
            orphaned: false,
            owner: maker,
            wrap: Wrap::of(object),
            restarts: object["spec"]["restartPolicy"] == "OnFailure",
            hook: inits.iter().any(|container| container["name"] == names::HOLD_CONTAINER),
            blocked: !inits.iter().all(ends),
            asks: inits.iter().any(|container| container["name"] == names::ACQUIRE_CONTAINER),
            wants,
            step: if bound { Step::Starting(starts) } else { Step::Unbound },
            told: Vec::new(),
            excused: None,
            taken: None,
            ending: None,
            session: None,
            over_since: None,
            removed: false,
            runs: 0,
            agent: CancellationToken::new(),
            report_at: None,
            reported: Face::default(),
            phase_at: None,
            finished: None,
        };
        self.truth.pods.insert(pod.uid.clone(), pod);
    }

    /// One look of all kubelets at everything on their nodes.
    pub fn kubelets(&mut self) {
        let uids: Vec<String> = self.truth.pods.keys().cloned().collect();
        for uid in uids {
            let Some(mut pod) = self.truth.pods.remove(&uid) else { continue };
            self.kubelet(&mut pod);
            self.truth.pods.insert(uid, pod);
        }
    }

    fn kubelet(&mut self, pod: &mut Pod) {
        let now = Instant::now();
        let (silent, dead) = self.truth.nodes.get(pod.node).map_or((false, false), |node| (node.silent.is_some(), node.dead));
        if dead || pod.step == Step::Unbound {
            return;
        }
        if !silent {
            self.heed(pod, now);
        }
        let before = pod.step;
        self.advance(pod, now, silent);
        if pod.step != before {
            let (uid, step) = (pod.uid.clone(), pod.step);
            self.note((3, uid.len() as u64), |_| format!("node-{}  {uid}: {}", pod.node, step_name(step)));
        }
        if !silent {
            self.report(pod, now);
        }
    }

    /// The kubelet sees what became of the Pod's object.
    fn heed(&mut self, pod: &mut Pod, now: Instant) {
        let deaf = self.truth.nodes.get(pod.node).and_then(|node| node.deaf).is_some_and(|until| now < until);
        if deaf || pod.ending.is_some() || (pod.over() && pod.removed) {
            return;
        }
        let object = self.get(What::Pods, NAMESPACE, &pod.name).filter(|object| object["metadata"]["uid"] == pod.uid.as_str());
        let grace = match object {
            Some(object) if !deleting(object) => return,
            Some(object) => object["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(5),
            None => 3,
        };
        // It may take the whole grace, after the time that it takes to see the deletion.
        let patient = if self.chaos { 2000 } else { 100 };
        pod.ending = Some(now + self.chance.millis(10, patient) + self.chance.millis(0, grace * 1000));
    }

    fn advance(&mut self, pod: &mut Pod, now: Instant, silent: bool) {
        if pod.wrap.is_some() {
            return self.advance_wrapped(pod, now, silent);
        }
        if pod.ending.is_some_and(|at| now >= at) && !pod.over() {
            pod.agent.cancel();
            pod.session = None;
            let acquired = pod.alive();
            pod.step = Step::Over { code: 137, acquired };
            pod.phase_at = Some(now + self.chance.millis(0, 3000));
            return;
        }
        match pod.step {
            Step::Starting(at) if now >= at && pod.ending.is_none() && !silent => {
                pod.runs += 1;
                if !pod.asks {
                    pod.step = Step::Passed(now + self.chance.millis(1, 100));
                    return;
                }
                pod.agent = CancellationToken::new();
                pod.step = Step::Acquiring(pod.runs);
                self.truth.to_start.push(Errand::Acquire { uid: pod.uid.clone(), run: pod.runs, until: pod.agent.clone() });
            }
            Step::Acquiring(_) if self.strikes(self.faults.agent / 10) => {
                // The acquire container is killed, by the OOM killer say.
                pod.agent.cancel();
                pod.session = None;
                pod.step = if pod.restarts {
                    Step::Starting(now + self.chance.millis(100, 3000))
                } else {
                    pod.phase_at = Some(now + self.chance.millis(0, 3000));
                    Step::Over { code: 137, acquired: false }
                };
            }
            Step::Passed(at) if now >= at && pod.ending.is_none() && !pod.blocked => self.start_app(pod, now),
            Step::Restarting(at) if now >= at && pod.ending.is_none() => self.start_app(pod, now),
            Step::Running(until) if now >= until && !self.truth.apps_run_on => self.end_app(pod, now),
            // The sidecar is stopped, by a change of its image say, and says what it says at the end.
            Step::Running(_) if pod.hook && self.strikes(self.faults.agent / 8) => {
                self.truth.to_start.push(Errand::Release { uid: pod.uid.clone() });
            }
            _ => {}
        }
    }

    pub fn start_app(&mut self, pod: &mut Pod, now: Instant) {
        self.stats.wrapped += u64::from(pod.wrap.is_some());
        let long = if self.chance.permille(100) { 40_000 } else { 4000 };
        pod.step = Step::Running(now + if self.chaos { self.chance.millis(0, long) } else { self.chance.millis(0, 1500) });
        self.judge_app_start(pod);
    }

    fn end_app(&mut self, pod: &mut Pod, now: Instant) {
        let failed = self.chance.permille(if self.chaos { 250 } else { 0 });
        if failed && pod.restarts {
            pod.step = Step::Restarting(now + self.chance.millis(100, 3000));
            return;
        }
        pod.step = Step::Over { code: i32::from(failed), acquired: true };
        pod.finished = Some(self.date_of(self.server_time()));
        if let Some(person) = self.truth.people.get_mut(&pod.uid).filter(|_| !failed) {
            person.succeeds();
        }
        pod.phase_at = Some(now + self.chance.millis(0, 3000));
        if pod.hook {
            self.truth.to_start.push(Errand::Release { uid: pod.uid.clone() });
        }
    }

    /// Statuses reach the API some time after they became true.
    fn report(&mut self, pod: &mut Pod, now: Instant) {
        if pod.removed {
            if pod.over() {
                pod.over_since.get_or_insert(now);
            }
            return;
        }
        let face = pod.face();
        if face != pod.reported && pod.report_at.is_none() {
            let late = if self.chaos { 1500 } else { 100 };
            pod.report_at = Some(now + self.chance.millis(5, late));
        }
        let place = (What::Pods, NAMESPACE.to_owned(), pod.name.clone());
        if pod.report_at.is_some_and(|at| now >= at) {
            pod.report_at = None;
            pod.reported = face;
            if pod.over() && pod.finished.is_none() {
                pod.finished = Some(self.date_of(self.server_time()));
            }
            let status = pod.status();
            self.stats.operations += 1;
            self.runs_shown(pod);
            self.change(&place, |object| object["status"] = status);
        }
        let all_said = pod.reported == face && pod.phase_at.is_none_or(|at| at <= now);
        if pod.over() && all_said {
            pod.over_since.get_or_insert(now);
            if self.objects.get(&place).is_some_and(deleting) {
                self.delete(Writer::World, &place, Some(0));
                pod.removed = true;
            }
        }
    }

    /// A node loses power: everything on it stops at once.
    pub fn power_cut(&mut self, node: usize) {
        let now = Instant::now();
        let back = now + Duration::from_secs(1);
        for pod in self.truth.pods.values_mut().filter(|pod| pod.node == node && !pod.over()) {
            pod.loses_power(back);
        }
    }

    /// The agent of a Pod was told that it holds.
    pub fn told(&mut self, uid: &str, run: u64, tokens: Vec<Token>, since: Instant) {
        let Some(mut pod) = self.truth.pods.remove(uid) else { return };
        if pod.step == Step::Acquiring(run) {
            pod.told = tokens;
            pod.session = None;
            pod.step = Step::Passed(Instant::now() + self.chance.millis(1, if self.chaos { 1500 } else { 100 }));
            self.note((4, run), |_| {
                format!("agent  {uid} was told {:?}", pod.told.iter().map(|told| (&*told.target, told.token)).collect::<Vec<_>>())
            });
            if self.judge_told(&pod, since) {
                pod.excused = None;
            }
            if pod.hook {
                self.truth.to_start.push(Errand::Verify { uid: uid.to_owned() });
            }
        }
        self.truth.pods.insert(uid.to_owned(), pod);
    }

    /// The agent of a Pod was told that it will not hold.
    pub fn refused(&mut self, uid: &str, run: u64, reason: Reason) {
        let now = Instant::now();
        self.judge_refused(uid, reason);
        self.judge_run_refused(uid);
        let again = now + self.chance.millis(500, 5000);
        let Some(pod) = self.truth.pods.get_mut(uid).filter(|pod| pod.step == Step::Acquiring(run) && pod.wrap.is_none()) else { return };
        let code = exit_code(reason);
        pod.session = None;
        pod.step = if pod.restarts { Step::Starting(again) } else { Step::Over { code, acquired: false } };
        self.note((5, run), |_| format!("agent  {uid} was refused: {reason:?}"));
    }
}

/// With which an agent ends that was refused.
pub fn exit_code(reason: Reason) -> i32 {
    if reason == Reason::TimedOut { 3 } else { 4 }
}

impl Truth {
    /// The API changed.
    pub fn seen_by_api(&mut self, place: &Place, before: Option<&Value>, after: Option<&Value>) {
        if place.0 != What::Pods {
            return;
        }
        if let Some(after) = after {
            let pod = after["metadata"]["uid"].as_str().and_then(|uid| self.pods.get_mut(uid));
            let owned = after["metadata"]["ownerReferences"].is_array();
            let Some(pod) = pod else { return };
            if pod.job.is_some() && !pod.orphaned && !owned {
                pod.orphaned = true;
                pod.shared = false;
                pod.created = after["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
            }
            // It would be gone, but for what it owes.
            if after["metadata"]["deletionGracePeriodSeconds"] == 0 {
                pod.remove();
            }
            return;
        }
        let uid = before.and_then(|before| before["metadata"]["uid"].as_str()).unwrap_or_default();
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.remove();
        }
    }
}

impl Core {
    /// Makes a Pod, in the API and on its node.
    pub fn make_pod(&mut self, name: &str, object: Value) {
        let object = self.admitted(What::Pods, object);
        let made = self.create(Writer::World, What::Pods, NAMESPACE, name, object);
        self.pod_created(&made);
    }
}

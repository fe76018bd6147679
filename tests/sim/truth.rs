//! What really happens on the nodes, kept apart from what the API shows: the simulated kubelets. Their statuses reach the API late; a silent node runs on
//! without a word; a dead one loses everything that ran on it.

use std::collections::BTreeMap;

use konductor::{
    api::names,
    controller::object::Key,
    coordinator::protocol::{Reason, Token},
    plan::{self, Subject},
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Place, What, Writer, deleting},
    core::Core,
};

pub const NAMESPACE: &str = "team";

/// One primitive that a Pod wants to hold.
#[derive(Clone, Debug)]
pub struct Want {
    pub key: Key,
    pub permits: i32,
    pub priority: i32,
    /// After this many milliseconds from the holder's creation.
    pub timeout: Option<u64>,
}

/// How far a Pod really is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Its acquire step starts at this time.
    Starting(Instant),
    /// The acquire step runs, for the so-manieth time.
    Acquiring(u64),
    /// The acquire step passed; the app starts at this time.
    Passed(Instant),
    /// The app runs until then.
    Running(Instant),
    /// The app failed and is started again at this time.
    Restarting(Instant),
    /// All is over.
    Over { code: i32, acquired: bool },
}

/// An open session as the agent sees it.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub process: usize,
    pub since: Instant,
}

/// A Pod on its node.
#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: String,
    pub name: String,
    pub node: usize,
    /// UID of the Job under whose hold it acts.
    pub job: Option<String>,
    /// Its Job was deleted without it. What it held under the Job's hold it still does; what it has yet to ask for it asks for itself.
    pub orphaned: bool,
    pub shared: bool,
    pub restarts: bool,
    pub hook: bool,
    pub wants: Vec<Want>,
    /// Creation of the one that holds, in whole seconds.
    pub created: String,
    pub step: Step,
    /// Tokens it was told.
    pub told: Vec<Token>,
    /// Since when its hold has been rightly taken from it.
    pub excused: Option<Instant>,
    /// Its kubelet has seen the deletion and ends it at this time.
    pub ending: Option<Instant>,
    pub session: Option<Connected>,
    /// Since when it has been over in the API's eyes or truly, whichever was later.
    pub over_since: Option<Instant>,
    /// The object is gone from the API. While the app runs that is an act of force, against which only fencing protects.
    pub removed: bool,
    runs: u64,
    agent: CancellationToken,
    report_at: Option<Instant>,
    reported: Value,
    phase_at: Option<Instant>,
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Since when it has not spoken to anybody.
    pub silent: Option<Instant>,
    /// It lost power, too: nothing runs on it.
    pub dead: bool,
    pub returns: Option<Instant>,
    pub evicts: Option<Instant>,
    pub marks: Option<Instant>,
}

#[derive(Default)]
pub struct Truth {
    pub pods: BTreeMap<String, Pod>,
    pub nodes: Vec<Node>,
    /// Agents to start: Pod and run, with the token that ends them.
    pub to_start: Vec<Errand>,
    /// Apps do not end by themselves for now.
    pub apps_run_on: bool,
}

/// Something that an agent does.
#[derive(Clone, Debug)]
pub enum Errand {
    Acquire { uid: String, run: u64, until: CancellationToken },
    Verify { uid: String },
    Release { uid: String },
}

impl Pod {
    /// Whether its app runs or will without asking anybody.
    pub fn alive(&self) -> bool {
        matches!(self.step, Step::Passed(_) | Step::Running(_) | Step::Restarting(_))
    }

    pub fn over(&self) -> bool {
        matches!(self.step, Step::Over { .. })
    }

    pub fn holder_uid(&self) -> &str {
        self.job.as_deref().filter(|_| !self.orphaned).unwrap_or(&self.uid)
    }

    /// The token that its agent shows.
    pub fn bearer(&self) -> String {
        format!("Bearer {NAMESPACE}/{}/{}", self.name, self.uid)
    }

    /// What its kubelet would report.
    fn status(&self) -> Value {
        let state = |name: &str, state: Value| json!({"name": name, "state": state, "image": "i", "imageID": "i", "ready": false, "restartCount": 0});
        let (acquire, app) = match self.step {
            Step::Starting(_) if self.runs == 0 => return Value::Null,
            Step::Starting(_) => (json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"waiting": {}})),
            Step::Acquiring(_) => (json!({"running": {}}), json!({"waiting": {}})),
            Step::Passed(_) => (json!({"terminated": {"exitCode": 0}}), json!({"waiting": {}})),
            Step::Running(_) => (json!({"terminated": {"exitCode": 0}}), json!({"running": {}})),
            Step::Restarting(_) => (json!({"terminated": {"exitCode": 0}}), json!({"terminated": {"exitCode": 1}})),
            Step::Over { code, acquired: true } => (json!({"terminated": {"exitCode": 0}}), json!({"terminated": {"exitCode": code}})),
            Step::Over { code, acquired: false } => (json!({"terminated": {"exitCode": code}}), json!({"waiting": {}})),
        };
        let mut status = json!({"phase": if self.alive() { "Running" } else { "Pending" },
            "initContainerStatuses": [state(names::ACQUIRE_CONTAINER, acquire)], "containerStatuses": [state("app", app)]});
        // The phase comes later than the containers' end.
        if let Step::Over { code, .. } = self.step {
            let late = self.phase_at.is_some_and(|at| at > Instant::now());
            status["phase"] = if late {
                "Running".into()
            } else if code == 0 {
                "Succeeded".into()
            } else {
                "Failed".into()
            };
        }
        status
    }
}

impl Core {
    /// A Pod appeared in the API.
    fn pod_created(&mut self, object: &Value) {
        let meta = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let annotations: BTreeMap<String, String> = serde_json::from_value(meta["annotations"].clone()).unwrap_or_default();
        let plan = plan::parse(&annotations, Subject::Pod).ok().flatten().map(|plan| plan.in_namespace(NAMESPACE));
        let job = meta["ownerReferences"][0]["uid"].as_str().map(str::to_owned);
        let owner = job.as_ref().and_then(|uid| self.all(What::Jobs).find(|job| job["metadata"]["uid"] == uid.as_str())).cloned();
        let wants = plan.iter().flat_map(|plan| &plan.holds).map(|hold| Want {
            key: Key {
                kind: hold.target.kind,
                namespace: hold.target.namespace.clone().unwrap_or_default(),
                name: hold.target.name.clone(),
            },
            permits: hold.permits,
            priority: hold.priority,
            timeout: hold.timeout.map(|timeout| u64::try_from(timeout.as_std().as_millis()).unwrap_or(u64::MAX)),
        });
        let starts = Instant::now() + if self.chaos { self.chance.millis(20, 1500) } else { self.chance.millis(20, 200) };
        let pod = Pod {
            uid: text(&meta["uid"]),
            name: text(&meta["name"]),
            node: meta["labels"]["node"].as_str().and_then(|node| node.parse().ok()).unwrap_or(0),
            shared: owner.as_ref().is_some_and(|job| job["spec"]["parallelism"].as_i64().unwrap_or(1) > 1),
            created: text(&owner.as_ref().unwrap_or(object)["metadata"]["creationTimestamp"]),
            job,
            orphaned: false,
            restarts: object["spec"]["restartPolicy"] == "OnFailure",
            hook: self.chance.coin(),
            wants: wants.collect(),
            step: Step::Starting(starts),
            told: Vec::new(),
            excused: None,
            ending: None,
            session: None,
            over_since: None,
            removed: false,
            runs: 0,
            agent: CancellationToken::new(),
            report_at: None,
            reported: Value::Null,
            phase_at: None,
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
        if dead {
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
        if pod.ending.is_some() || (pod.over() && pod.removed) {
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
            Step::Passed(at) if now >= at && pod.ending.is_none() => self.start_app(pod, now),
            Step::Restarting(at) if now >= at && pod.ending.is_none() => self.start_app(pod, now),
            Step::Running(until) if now >= until && !self.truth.apps_run_on => self.end_app(pod, now),
            // The sidecar is stopped, by a change of its image say, and says what it says at the end.
            Step::Running(_) if pod.hook && self.strikes(self.faults.agent / 8) => {
                self.truth.to_start.push(Errand::Release { uid: pod.uid.clone() });
            }
            _ => {}
        }
    }

    fn start_app(&mut self, pod: &mut Pod, now: Instant) {
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
        let status = pod.status();
        if status != pod.reported && pod.report_at.is_none() {
            let late = if self.chaos { 1500 } else { 100 };
            pod.report_at = Some(now + self.chance.millis(5, late));
        }
        let place = (What::Pods, NAMESPACE.to_owned(), pod.name.clone());
        if pod.report_at.is_some_and(|at| now >= at) {
            pod.report_at = None;
            pod.reported = status.clone();
            self.stats.operations += 1;
            self.change(&place, |object| object["status"] = status.clone());
        }
        let all_said = pod.reported == status && pod.phase_at.is_none_or(|at| at <= now);
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
            pod.agent.cancel();
            pod.session = None;
            // After a reboot the init containers run again, or, where nothing may be restarted, the Pod has failed.
            pod.step = if pod.restarts { Step::Starting(back) } else { Step::Over { code: 137, acquired: pod.alive() } };
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
        let again = now + self.chance.millis(500, 5000);
        let Some(pod) = self.truth.pods.get_mut(uid).filter(|pod| pod.step == Step::Acquiring(run)) else { return };
        let code = if reason == Reason::TimedOut { 3 } else { 4 };
        pod.session = None;
        pod.step = if pod.restarts { Step::Starting(again) } else { Step::Over { code, acquired: false } };
        self.note((5, run), |_| format!("agent  {uid} was refused: {reason:?}"));
    }
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
            if let Some(pod) = pod.filter(|pod| pod.job.is_some() && !pod.orphaned && !owned) {
                pod.orphaned = true;
                pod.shared = false;
                pod.created = after["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
            }
            return;
        }
        let uid = before.and_then(|before| before["metadata"]["uid"].as_str()).unwrap_or_default();
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.removed = true;
        }
    }
}

impl Core {
    /// Makes a Pod, in the API and on its node.
    pub fn make_pod(&mut self, name: &str, object: Value) {
        let made = self.create(Writer::World, What::Pods, NAMESPACE, name, object);
        self.pod_created(&made);
    }
}

fn step_name(step: Step) -> String {
    match step {
        Step::Starting(_) => "starting".to_owned(),
        Step::Acquiring(run) => format!("acquire step runs ({run})"),
        Step::Passed(_) => "acquire step passed".to_owned(),
        Step::Running(_) => "app runs".to_owned(),
        Step::Restarting(_) => "app failed, will be restarted".to_owned(),
        Step::Over { code, .. } => format!("over, exit code {code}"),
    }
}

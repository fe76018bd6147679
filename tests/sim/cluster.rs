//! The rest of the cluster: users, the Job controller, the node controller, and everything that goes wrong with nodes.

use std::sync::Arc;

use konductor::api::names;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    api::{Place, What, Writer, deleting},
    core::{Core, Sim},
    truth::{NAMESPACE, Node},
};

pub const NODES: usize = 3;
/// How many Pods may be about at once.
const CROWD: usize = 9;
/// The primitives that users use.
const PRIMITIVES: [(What, &str); 4] = [(What::Mutexes, "m0"), (What::Mutexes, "m1"), (What::Semaphores, "s0"), (What::Semaphores, "s1")];

fn place(what: What, name: &str) -> Place {
    (what, NAMESPACE.to_owned(), name.to_owned())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn condition(job: &Value, kind: &str) -> bool {
    job["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn add_condition(job: &mut Value, kind: &str) {
    let mut all = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.push(json!({"type": kind, "status": "True"}));
    job["status"]["conditions"] = all.into();
}

impl Core {
    pub fn set_up(&mut self) {
        for node in 0..NODES {
            self.truth.nodes.push(Node::default());
            let ready =
                json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            self.create(Writer::World, What::Nodes, "", &format!("node-{node}"), ready);
        }
        for (what, name) in PRIMITIVES {
            self.make_primitive(what, name);
        }
    }

    fn make_primitive(&mut self, what: What, name: &str) {
        let ttl = format!("{}s", self.chance.between(6, 20));
        let spec = if what == What::Mutexes { json!({"ttl": ttl}) } else { json!({"ttl": ttl, "permits": self.chance.between(1, 4)}) };
        self.create(Writer::World, what, NAMESPACE, name, json!({"spec": spec}));
        self.note((20, 0), |_| format!("user  creates {name}"));
    }

    /// What a person writes into the annotation.
    fn wish(&mut self) -> String {
        let mut items: Vec<String> = Vec::new();
        for (what, name) in PRIMITIVES {
            if self.chance.permille(if items.is_empty() { 450 } else { 200 }) {
                items.push(self.item(what, name));
            }
        }
        if items.is_empty() {
            let (what, name) = self.chance.pick(&PRIMITIVES).copied().unwrap_or(PRIMITIVES[0]);
            items.push(self.item(what, name));
        }
        items.join(", ")
    }

    fn item(&mut self, what: What, name: &str) -> String {
        let kind = if what == What::Mutexes { "mutex" } else { "semaphore" };
        let namespace = if self.chance.permille(300) { format!("{NAMESPACE}/") } else { String::new() };
        let mut item = format!("{kind}/{namespace}{name}");
        if what == What::Semaphores {
            item.push_str(&format!(";permits={}", self.chance.between(1, 3)));
        }
        if self.chance.permille(250) {
            item.push_str(&format!(";priority={}", self.chance.between(0, 5)));
        }
        if self.chance.permille(150) {
            item.push_str(&format!(";timeout={}s", self.chance.between(0, 30)));
        }
        item
    }

    fn pod_object(&mut self, wish: &str, restarts: bool) -> Value {
        let silent = |node: &Node| node.silent.is_some();
        let up: Vec<usize> = (0..NODES).filter(|node| !self.truth.nodes.get(*node).is_some_and(silent)).collect();
        let node = self.chance.pick(&up).copied().unwrap_or(0);
        json!({
            "metadata": {"labels": {names::INJECTED_LABEL: "true", "node": node.to_string()}, "annotations": {"konductor.io/acquire": wish}},
            "spec": {"nodeName": format!("node-{node}"), "restartPolicy": if restarts { "OnFailure" } else { "Never" },
                "terminationGracePeriodSeconds": self.chance.between(0, 8),
                "initContainers": [{"name": names::ACQUIRE_CONTAINER}], "containers": [{"name": "app"}]},
        })
    }

    /// Users create: a Pod or a Job of one of few names, so that names come back.
    fn user_creates(&mut self) {
        if self.all(What::Pods).count() >= CROWD {
            return;
        }
        let number = self.chance.below(6);
        let wish = self.wish();
        if self.chance.permille(550) {
            let name = format!("p{number}");
            if self.get(What::Pods, NAMESPACE, &name).is_none() {
                // A Pod that is restarted for ever after its time is over would never come to an end.
                let restarts = self.chance.permille(350) && !wish.contains("timeout");
                let object = self.pod_object(&wish, restarts);
                self.make_pod(&name, object);
                self.note((21, number), |_| format!("user  creates pod {name}: {wish}"));
            }
        } else {
            let name = format!("j{number}");
            if self.get(What::Jobs, NAMESPACE, &name).is_none() {
                let wide = if self.chance.permille(250) { 2 } else { 1 };
                let object = json!({
                    "metadata": {"labels": {names::INJECTED_LABEL: "true"}, "annotations": {"konductor.io/acquire": wish}},
                    "spec": {"parallelism": wide, "completions": wide, "backoffLimit": self.chance.between(0, 3), "template": {"spec": {"containers": []}}},
                });
                self.create(Writer::World, What::Jobs, NAMESPACE, &name, object);
                self.note((22, number), |_| format!("user  creates job {name} ({wide} at a time): {wish}"));
            }
        }
    }

    /// The Job controller looks at its Jobs; not at all of them at once.
    pub fn job_controller(&mut self) {
        let jobs: Vec<Value> = self.all(What::Jobs).cloned().collect();
        for job in jobs {
            if self.chance.permille(if self.chaos { 150 } else { 600 }) {
                self.tend(&job);
            }
        }
        self.collect_garbage();
    }

    fn tend(&mut self, job: &Value) {
        let (name, uid) = (text(&job["metadata"]["name"]), text(&job["metadata"]["uid"]));
        let pods: Vec<Value> =
            self.all(What::Pods).filter(|pod| pod["metadata"]["labels"][names::JOB_UID_LABEL] == uid.as_str()).cloned().collect();
        let active: Vec<&Value> = pods.iter().filter(|pod| !terminal(pod) && !deleting(pod)).collect();
        let running = pods.iter().any(|pod| !terminal(pod));
        let count = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count() as u64;
        // Pods that users removed count too, as the real controller's bookkeeping does.
        let failed = count("Failed") + pods.iter().filter(|pod| deleting(pod) && !terminal(pod)).count() as u64;
        let wanted = job["spec"]["completions"].as_u64().unwrap_or(1);
        let at = place(What::Jobs, &name);
        if condition(job, "Complete") || condition(job, "Failed") {
            return;
        }
        for (early, late) in [("SuccessCriteriaMet", "Complete"), ("FailureTarget", "Failed")] {
            if condition(job, early) {
                for pod in active {
                    let pod = place(What::Pods, &text(&pod["metadata"]["name"]));
                    self.delete(Writer::World, &pod, None);
                }
                if !running {
                    self.change(&at, |job| add_condition(job, late));
                }
                return;
            }
        }
        if count("Succeeded") >= wanted {
            return self.change(&at, |job| add_condition(job, "SuccessCriteriaMet"));
        }
        if failed > job["spec"]["backoffLimit"].as_u64().unwrap_or(0) {
            return self.change(&at, |job| add_condition(job, "FailureTarget"));
        }
        let parallelism = job["spec"]["parallelism"].as_u64().unwrap_or(1);
        let want = parallelism.min(wanted - count("Succeeded"));
        if (active.len() as u64) < want {
            self.uids += 1;
            let pod_name = format!("{name}-{}", self.uids);
            let wish = text(&job["metadata"]["annotations"]["konductor.io/acquire"]);
            let restarts = self.chance.permille(200) && !wish.contains("timeout");
            let mut object = self.pod_object(&wish, restarts);
            object["metadata"]["annotations"][names::COPIED_FROM] = names::COPIED_FROM_JOB.into();
            object["metadata"]["labels"][names::JOB_UID_LABEL] = uid.as_str().into();
            object["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true}]);
            self.make_pod(&pod_name, object);
        }
    }

    /// Pods of Jobs that are gone are deleted, gracefully.
    fn collect_garbage(&mut self) {
        let owned: Vec<(String, String)> = self
            .all(What::Pods)
            .filter(|pod| !deleting(pod))
            .filter_map(|pod| Some((text(&pod["metadata"]["name"]), pod["metadata"]["ownerReferences"][0]["uid"].as_str()?.to_owned())))
            .collect();
        for (pod, owner) in owned {
            if !self.all(What::Jobs).any(|job| job["metadata"]["uid"] == owner.as_str()) && self.chance.permille(300) {
                self.delete(Writer::World, &place(What::Pods, &pod), None);
            }
        }
    }

    /// Nodes that are silent are called unreachable after a while; their Pods are evicted later; they come back when their time has come.
    pub fn node_controller(&mut self) {
        let now = Instant::now();
        for index in 0..self.truth.nodes.len() {
            let Some(node) = self.truth.nodes.get_mut(index) else { continue };
            if node.returns.is_some_and(|at| now >= at) {
                *node = Node { marks: Some(now), ..Node::default() };
                self.note((30, index as u64), |_| format!("node-{index}  is back"));
            }
            let Some(node) = self.truth.nodes.get(index) else { continue };
            let (silent, due) = (node.silent.is_some(), node.marks.is_some_and(|at| now >= at));
            let evict = silent && node.evicts.is_some_and(|at| now >= at);
            let at: Place = (What::Nodes, String::new(), format!("node-{index}"));
            if due {
                let ready = if silent { "Unknown" } else { "True" };
                let since = self.server_time().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                self.change(&at, |node| {
                    let condition = &mut node["status"]["conditions"][0];
                    if condition["status"] != ready {
                        condition["status"] = ready.into();
                        condition["lastTransitionTime"] = since.into();
                    }
                });
                self.truth.nodes[index].marks = None;
                self.note((31, index as u64), |_| format!("node controller  node-{index} ready: {ready}"));
            }
            if evict {
                self.truth.nodes[index].evicts = None;
                let name = format!("node-{index}");
                let pods: Vec<String> = self
                    .all(What::Pods)
                    .filter(|pod| pod["spec"]["nodeName"] == name.as_str())
                    .map(|pod| text(&pod["metadata"]["name"]))
                    .collect();
                for pod in pods {
                    self.delete(Writer::World, &place(What::Pods, &pod), None);
                }
            }
        }
    }

    fn node_falls_silent(&mut self) {
        let now = Instant::now();
        let index = self.chance.below(NODES as u64) as usize;
        let dead = self.chance.permille(450);
        let long = if self.chance.permille(400) { 90_000 } else { 20_000 };
        let (marks, evicts, returns) =
            (now + self.chance.millis(1000, 5000), now + self.chance.millis(10_000, 60_000), now + self.chance.millis(500, long));
        let Some(node) = self.truth.nodes.get_mut(index).filter(|node| node.silent.is_none()) else { return };
        *node = Node { silent: Some(now), dead, returns: Some(returns), evicts: Some(evicts), marks: Some(marks) };
        if dead {
            self.power_cut(index);
        }
        self.note((32, index as u64), |_| format!("node-{index}  {}", if dead { "loses power" } else { "falls silent, its Pods run on" }));
    }

    fn user_deletes(&mut self) {
        let pods: Vec<String> = self.all(What::Pods).map(|pod| text(&pod["metadata"]["name"])).collect();
        let Some(name) = self.chance.pick(&pods).cloned() else { return };
        let force = self.chance.permille(200);
        self.note((23, u64::from(force)), |_| format!("user  deletes pod {name}{}", if force { " by force" } else { "" }));
        self.delete(Writer::World, &place(What::Pods, &name), if force { Some(0) } else { None });
    }

    fn user_deletes_job(&mut self) {
        let jobs: Vec<(String, String)> =
            self.all(What::Jobs).map(|job| (text(&job["metadata"]["name"]), text(&job["metadata"]["uid"]))).collect();
        let Some((name, uid)) = self.chance.pick(&jobs).cloned() else { return };
        let orphan = self.chance.permille(300);
        self.note((24, u64::from(orphan)), |_| format!("user  deletes job {name}{}", if orphan { ", its Pods stay" } else { "" }));
        if orphan {
            let pods: Vec<String> = self
                .all(What::Pods)
                .filter(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == uid.as_str())
                .map(|pod| text(&pod["metadata"]["name"]))
                .collect();
            for pod in pods {
                self.change(&place(What::Pods, &pod), |pod| {
                    drop(pod["metadata"].as_object_mut().and_then(|meta| meta.remove("ownerReferences")))
                });
            }
        }
        self.delete(Writer::World, &place(What::Jobs, &name), None);
    }

    /// Finished Pods and Jobs are tidied away, so that their names come back.
    fn tidy(&mut self) {
        let jobs: Vec<String> = self
            .all(What::Jobs)
            .filter(|job| condition(job, "Complete") || condition(job, "Failed"))
            .map(|job| text(&job["metadata"]["name"]))
            .collect();
        for name in jobs {
            if self.chance.permille(100) {
                self.delete(Writer::World, &place(What::Jobs, &name), None);
            }
        }
        let pods: Vec<String> = self
            .all(What::Pods)
            .filter(|pod| terminal(pod) && pod["metadata"]["ownerReferences"][0]["uid"].is_null())
            .map(|pod| text(&pod["metadata"]["name"]))
            .collect();
        for name in pods {
            if self.chance.permille(100) {
                self.delete(Writer::World, &place(What::Pods, &name), None);
            }
        }
    }

    fn user_meddles(&mut self) {
        let (what, name) = self.chance.pick(&PRIMITIVES).copied().unwrap_or(PRIMITIVES[0]);
        let at = place(what, name);
        match self.chance.below(10) {
            0..4 => self.poke(&at),
            4..7 if what == What::Semaphores => {
                let permits = self.chance.between(0, 4);
                self.set_permits(name, permits);
            }
            _ => {
                self.note((26, 0), |_| format!("user  deletes {name}"));
                self.delete(Writer::World, &at, None);
            }
        }
    }

    fn set_permits(&mut self, name: &str, permits: u64) {
        self.change(&place(What::Semaphores, name), |object| {
            if object["spec"]["permits"] != permits {
                object["spec"]["permits"] = permits.into();
                object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
            }
        });
        self.note((25, permits), |_| format!("user  sets {name} to {permits} permits"));
    }

    /// Enough permits for everybody, so that everybody can come to an end.
    pub fn widen(&mut self) {
        for (_, name) in PRIMITIVES.into_iter().filter(|(what, _)| *what == What::Semaphores) {
            self.set_permits(name, 4);
        }
    }

    /// Primitives that are gone are made again, sooner or later.
    fn remake(&mut self) {
        for (what, name) in PRIMITIVES {
            if self.get(what, NAMESPACE, name).is_none() && (!self.chaos || self.chance.permille(80)) {
                self.make_primitive(what, name);
            }
        }
    }

    /// One moment of the world. `busy`: users are still at work.
    pub fn moment(&mut self, busy: bool) {
        self.node_controller();
        self.kubelets();
        self.job_controller();
        self.remake();
        if busy {
            if self.chance.permille(120) {
                self.user_creates();
            }
            self.tidy();
            if self.strikes(self.faults.users / 2) {
                self.user_deletes();
            }
            if self.strikes(self.faults.users / 4) {
                self.user_deletes_job();
            }
            if self.strikes(self.faults.users / 4) {
                self.user_meddles();
            }
            self.trouble();
        }
        self.truth.pods.retain(|_, pod| !(pod.removed && pod.over()));
    }

    fn trouble(&mut self) {
        let now = Instant::now();
        let faults = self.faults.clone();
        if self.strikes(faults.node) {
            self.node_falls_silent();
        }
        if self.strikes(faults.clock) {
            self.skew += self.chance.millis(100, 5000);
        }
        let process = self.chance.below(self.processes.len() as u64) as usize;
        if self.strikes(faults.cut) {
            let until = now + self.chance.millis(500, 25_000);
            self.processes[process].cut_until = Some(until);
            self.note((10, process as u64), |_| format!("konductor-{process}  is cut off from the API server"));
        }
        if self.strikes(faults.crash) && self.processes[process].starts.is_none() {
            self.crash(process);
        }
        if self.strikes(faults.watch_slow / 4) {
            let what =
                self.chance.pick(&[What::Pods, What::Jobs, What::Nodes, What::Mutexes, What::Semaphores]).copied().unwrap_or(What::Pods);
            let until = now + self.chance.millis(500, 40_000);
            self.processes[process].stalled.insert(what, until);
            self.note((11, process as u64), |_| format!("konductor-{process}  its watch of {} stalls", what.plural()));
        }
        if self.strikes(faults.gone) {
            self.compact();
            self.processes[process].watches_broken += 1;
            self.note((12, process as u64), |_| format!("konductor-{process}  its watches break, history is compacted"));
        }
    }

    /// A process dies and comes back some time later.
    pub fn crash(&mut self, process: usize) {
        let again =
            Instant::now() + if self.chance.permille(300) { self.chance.millis(5000, 30_000) } else { self.chance.millis(100, 3000) };
        self.stats.crashes += 1;
        self.note((9, process as u64), |_| format!("konductor-{process}  dies"));
        self.processes[process].crash(again);
    }

    /// Everything that was broken is repaired; nothing new breaks.
    pub fn heal(&mut self) {
        let now = Instant::now();
        self.chaos = false;
        self.judge.calm_since = Some(now);
        for process in &mut self.processes {
            process.cut_until = None;
            process.stalled.clear();
            process.starts = process.starts.map(|_| now);
        }
        for node in self.truth.nodes.iter_mut().filter(|node| node.silent.is_some()) {
            node.returns = Some(now + Duration::from_secs(1));
        }
        self.note((13, 0), |_| "everything is repaired".to_owned());
    }
}

/// Starts processes whose time has come.
pub fn start_processes(sim: &Arc<Sim>, elected: bool) {
    let now = Instant::now();
    let due: Vec<usize> = {
        let core = sim.lock();
        (0..core.processes.len()).filter(|index| core.processes[*index].starts.is_some_and(|at| now >= at)).collect()
    };
    for process in due {
        crate::process::start(sim, process, elected);
    }
}

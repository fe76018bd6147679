//! The rest of the cluster: users, the Job controller, the node controller, and everything that goes wrong with nodes.

use std::sync::Arc;

use konductor::api::names;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    api::deleting,
    core::{Core, Sim},
    request::{Place, What, Writer},
    truth::{NAMESPACE, Node},
};

pub const NODES: usize = 3;
/// How many Pods may be about at once.
const CROWD: usize = 9;
/// The primitives that users use.
const PRIMITIVES: [(What, &str); 4] = [(What::Mutexes, "m0"), (What::Mutexes, "m1"), (What::Semaphores, "s0"), (What::Semaphores, "s1")];

pub fn place(what: What, name: &str) -> Place {
    (what, NAMESPACE.to_owned(), name.to_owned())
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

pub fn condition(job: &Value, kind: &str) -> bool {
    job["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

pub fn suspended(job: &Value) -> bool {
    job["spec"]["suspend"] == true
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
            self.make_node(node);
        }
        for (what, name) in PRIMITIVES {
            self.make_primitive(what, name);
        }
    }

    fn make_primitive(&mut self, what: What, name: &str) {
        let ttl = format!("{}s", self.chance.between(4, 15));
        let spec = if what == What::Mutexes {
            json!({"ttl": ttl})
        } else {
            json!({"ttl": ttl, "permits": if self.truth.at_last { 4 } else { self.chance.between(1, 4) }})
        };
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
            "metadata": {"labels": {"node": node.to_string()}, "annotations": {"konductor.io/acquire": wish}},
            "spec": {"nodeName": format!("node-{node}"), "restartPolicy": if restarts { "OnFailure" } else { "Never" },
                "terminationGracePeriodSeconds": self.chance.between(0, 8), "containers": [{"name": "app"}]},
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
                let restarts = self.chance.permille(500) && !wish.contains("timeout");
                let object = self.pod_object(&wish, restarts);
                self.make_pod(&name, object);
                self.note((21, number), |_| format!("user  creates pod {name}: {wish}"));
            }
        } else {
            let name = format!("j{number}");
            if self.get(What::Jobs, NAMESPACE, &name).is_none() {
                let wide = if self.chance.permille(250) { 2 } else { 1 };
                let object = json!({
                    "metadata": {"annotations": {"konductor.io/acquire": wish}},
                    "spec": {"parallelism": wide, "completions": wide, "backoffLimit": self.chance.between(0, 3),
                        "template": {"spec": {"containers": [{"name": "app"}]}}},
                });
                let object = self.admitted(What::Jobs, object);
                self.create(Writer::World, What::Jobs, NAMESPACE, &name, object);
                self.note((22, number), |_| format!("user  creates job {name} ({wide} at a time): {wish}"));
            }
        }
    }

    /// The Job controller looks at its Jobs; not at all of them at once.
    pub fn job_controller(&mut self) {
        let over = |job: &Value| condition(job, "Complete") || condition(job, "Failed");
        let jobs: Vec<String> = self.all(What::Jobs).filter(|job| !over(job)).map(|job| text(&job["metadata"]["name"])).collect();
        for job in jobs {
            if self.chance.permille(if self.chaos { 150 } else { 600 })
                && let Some(job) = self.objects.get(&place(What::Jobs, &job)).cloned()
            {
                self.tend(&job);
            }
        }
        self.collect_garbage();
    }

    fn tend(&mut self, job: &Value) {
        let (name, uid) = (text(&job["metadata"]["name"]), text(&job["metadata"]["uid"]));
        let pods: Vec<&Value> =
            self.all(What::Pods).filter(|pod| pod["metadata"]["labels"][names::JOB_UID_LABEL] == uid.as_str()).collect();
        let active: Vec<String> =
            pods.iter().filter(|pod| !terminal(pod) && !deleting(pod)).map(|pod| text(&pod["metadata"]["name"])).collect();
        let running = pods.iter().any(|pod| !terminal(pod));
        let count = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count() as u64;
        let succeeded = count("Succeeded");
        // Pods that users removed count too, as the real controller's bookkeeping does.
        let failed = count("Failed") + pods.iter().filter(|pod| deleting(pod) && !terminal(pod)).count() as u64;
        let wanted = job["spec"]["completions"].as_u64().unwrap_or(1);
        let at = place(What::Jobs, &name);
        if suspended(job) {
            for pod in active {
                self.delete(Writer::World, &place(What::Pods, &pod), None);
            }
            return;
        }
        for (early, late) in [("SuccessCriteriaMet", "Complete"), ("FailureTarget", "Failed")] {
            if condition(job, early) {
                for pod in active {
                    self.delete(Writer::World, &place(What::Pods, &pod), None);
                }
                if !running {
                    self.change(&at, |job| add_condition(job, late));
                }
                return;
            }
        }
        if succeeded >= wanted {
            return self.change(&at, |job| add_condition(job, "SuccessCriteriaMet"));
        }
        if failed > job["spec"]["backoffLimit"].as_u64().unwrap_or(0) {
            return self.change(&at, |job| add_condition(job, "FailureTarget"));
        }
        let parallelism = job["spec"]["parallelism"].as_u64().unwrap_or(1);
        let want = parallelism.min(wanted - succeeded);
        if (active.len() as u64) < want {
            self.uids += 1;
            let pod_name = format!("{name}-{}", self.uids);
            let wish = text(&job["metadata"]["annotations"]["konductor.io/acquire"]);
            let restarts = self.chance.permille(200) && !wish.contains("timeout");
            let mut object = self.pod_object(&wish, restarts);
            object["metadata"]["annotations"] = job["spec"]["template"]["metadata"]["annotations"].clone();
            object["metadata"]["labels"][names::JOB_UID_LABEL] = uid.as_str().into();
            object["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true}]);
            self.make_pod(&pod_name, object);
        }
    }

    /// Pods of Jobs that are gone are deleted, gracefully.
    fn collect_garbage(&mut self) {
        let orphan = |pod: &&Value| {
            let owner = &pod["metadata"]["ownerReferences"][0]["uid"];
            !deleting(pod) && owner.is_string() && !self.all(What::Jobs).any(|job| job["metadata"]["uid"] == *owner)
        };
        let orphans: Vec<String> = self.all(What::Pods).filter(orphan).map(|pod| text(&pod["metadata"]["name"])).collect();
        for pod in orphans {
            if self.chance.permille(300) {
                self.delete(Writer::World, &place(What::Pods, &pod), None);
            }
        }
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

    /// A Job is suspended, or goes on.
    fn user_suspends(&mut self) {
        let over = |job: &&Value| condition(job, "Complete") || condition(job, "Failed");
        let jobs: Vec<String> = self.all(What::Jobs).filter(|job| !over(job)).map(|job| text(&job["metadata"]["name"])).collect();
        if let Some(name) = self.chance.pick(&jobs).cloned() {
            self.set_suspended(&name, None);
        }
    }

    fn set_suspended(&mut self, name: &str, wanted: Option<bool>) {
        let at = place(What::Jobs, name);
        let Some(job) = self.objects.get(&at) else { return };
        let (uid, was) = (text(&job["metadata"]["uid"]), suspended(job));
        let wanted = wanted.unwrap_or(!was);
        let now = self.server_time().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if was != wanted {
            self.change(&at, |job| {
                job["spec"]["suspend"] = wanted.into();
                job["status"]["startTime"] = if wanted { Value::Null } else { now.into() };
            });
            self.truth.suspended.insert(uid, Instant::now());
            self.note((27, u64::from(wanted)), |_| format!("user  {} job {name}", if wanted { "suspends" } else { "resumes" }));
        }
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
        self.truth.at_last = true;
        let jobs: Vec<String> = self.all(What::Jobs).map(|job| text(&job["metadata"]["name"])).collect();
        for job in jobs {
            self.set_suspended(&job, Some(false));
        }
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
            if self.strikes(self.faults.users / 4) {
                self.user_suspends();
            }
            self.trouble();
        }
        self.truth.pods.retain(|_, pod| !(pod.removed && pod.over()));
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

//! The Job controller, the controller that deletes finished Jobs, the scheduler, and the garbage collector.

use konductor::api::names;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    api::deleting,
    cluster::{NODES, condition, place, suspended, terminal, text},
    core::Core,
    people::owes,
    pod::Step,
    request::{What, Writer},
    truth::Node,
};

fn add_condition(job: &mut Value, kind: &str, now: &str) {
    let mut all = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.push(json!({"type": kind, "status": "True", "lastTransitionTime": now}));
    job["status"]["conditions"] = all.into();
}

/// The containers of a Pod whose annotations say this.
pub fn pod_spec(annotations: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "app", "command": ["serve"]}]});
    if annotations.to_string().contains("container=first") {
        spec["initContainers"] = json!([{"name": "first", "command": ["prepare"]}]);
    }
    spec
}

fn over(job: &Value) -> bool {
    condition(job, "Complete") || condition(job, "Failed")
}

impl Core {
    /// The Job controller looks at its Jobs; not at all of them at once.
    pub fn job_controller(&mut self) {
        let name = |job: &Value| text(&job["metadata"]["name"]);
        let jobs: Vec<String> = self.all(What::Jobs).filter(|job| !over(job)).map(name).collect();
        for job in jobs {
            if self.chance.permille(if self.chaos { 150 } else { 600 })
                && let Some(job) = self.objects.get(&place(What::Jobs, &job)).cloned()
            {
                self.tend(&job);
            }
        }
        let spent = |job: &&Value| over(job) && !deleting(job) && job["spec"]["ttlSecondsAfterFinished"] == 0;
        let jobs: Vec<String> = self.all(What::Jobs).filter(spent).map(name).collect();
        for job in jobs {
            if self.chance.permille(700) {
                self.note((28, 0), |_| format!("ttl controller  deletes job {job}"));
                self.delete(Writer::World, &place(What::Jobs, &job), None);
            }
        }
        self.collect_garbage();
    }

    fn tend(&mut self, job: &Value) {
        let (name, uid) = (text(&job["metadata"]["name"]), text(&job["metadata"]["uid"]));
        let now = self.date_of(self.server_time());
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
        for (early, late) in [("SuccessCriteriaMet", "Complete"), ("FailureTarget", "Failed")] {
            if condition(job, early) {
                for pod in active {
                    self.delete(Writer::World, &place(What::Pods, &pod), None);
                }
                if !running {
                    self.change(&at, |job| add_condition(job, late, &now));
                }
                return;
            }
        }
        // One that is suspended or deleted can still succeed or fail.
        if succeeded >= wanted {
            if let Some(person) = self.truth.people.get_mut(&uid) {
                person.succeeds();
            }
            return self.change(&at, |job| add_condition(job, "SuccessCriteriaMet", &now));
        }
        if failed > job["spec"]["backoffLimit"].as_u64().unwrap_or(0) {
            return self.change(&at, |job| add_condition(job, "FailureTarget", &now));
        }
        if suspended(job) {
            for pod in active {
                self.delete(Writer::World, &place(What::Pods, &pod), None);
            }
            return;
        }
        if deleting(job) {
            return;
        }
        if job["status"]["startTime"].is_null() {
            self.change(&at, |job| job["status"]["startTime"] = now.into());
        }
        let parallelism = job["spec"]["parallelism"].as_u64().unwrap_or(1);
        let want = parallelism.min(wanted - succeeded);
        if (active.len() as u64) < want {
            self.uids += 1;
            let pod_name = format!("{name}-{}", self.uids);
            let template = &job["spec"]["template"]["metadata"]["annotations"];
            let words = template.to_string();
            let restarts = job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure";
            let mut object = self.pod_object(template.clone(), words.contains("strategy=gate"), restarts);
            object["metadata"]["labels"][names::JOB_UID_LABEL] = uid.as_str().into();
            object["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true}]);
            self.make_pod(&pod_name, object);
        }
    }

    fn node_for_a_pod(&mut self) -> usize {
        let silent = |node: &Node| node.silent.is_some();
        let up: Vec<usize> = (0..NODES).filter(|node| !self.truth.nodes.get(*node).is_some_and(silent)).collect();
        self.chance.pick(&up).copied().unwrap_or(0)
    }

    pub fn pod_object(&mut self, annotations: Value, gated: bool, restarts: bool) -> Value {
        let node = self.node_for_a_pod();
        let mut spec = pod_spec(&annotations);
        spec["nodeName"] = format!("node-{node}").into();
        spec["restartPolicy"] = if restarts { "OnFailure" } else { "Never" }.into();
        spec["terminationGracePeriodSeconds"] = self.chance.between(0, 8).into();
        let mut object = json!({"metadata": {"labels": {"node": node.to_string()}, "annotations": annotations}, "spec": spec});
        if gated {
            drop(object["spec"].as_object_mut().and_then(|spec| spec.remove("nodeName")));
        }
        object
    }

    /// Pods without a node get one, once nothing holds them back.
    pub fn scheduler(&mut self) {
        let free = |pod: &&Value| {
            let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
            !gated && !deleting(pod) && !pod["spec"]["nodeName"].is_string()
        };
        let pods: Vec<(String, String)> =
            self.all(What::Pods).filter(free).map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect();
        for (name, uid) in pods {
            if !self.chance.permille(if self.chaos { 300 } else { 800 }) {
                continue;
            }
            let node = self.node_for_a_pod();
            let starts = Instant::now() + if self.chaos { self.chance.millis(20, 1500) } else { self.chance.millis(20, 200) };
            self.change(&place(What::Pods, &name), |pod| pod["spec"]["nodeName"] = format!("node-{node}").into());
            if let Some(pod) = self.truth.pods.get_mut(&uid) {
                (pod.node, pod.step) = (node, Step::Starting(starts));
            }
            self.note((34, node as u64), |_| format!("scheduler  puts {uid} on node-{node}"));
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

    /// Whether anybody's end is still to be recorded.
    pub fn owing(&self) -> Vec<String> {
        let all = self.all(What::Pods).chain(self.all(What::Jobs));
        let ended = |object: &&Value| owes(object) && (deleting(object) || terminal(object) || over(object));
        let claims = self
            .all(What::Claims)
            .filter(|claim| owes(claim) && self.claim_has_ended(claim["metadata"]["uid"].as_str().unwrap_or_default()));
        all.filter(ended).chain(claims).map(|object| text(&object["metadata"]["uid"])).collect()
    }
}

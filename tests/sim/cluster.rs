//! The cluster as a whole: what it begins with, and one moment of it.

use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    core::{Core, Sim},
    request::{Place, What},
    truth::{NAMESPACE, Node},
};

pub const NODES: usize = 3;

pub fn place(what: What, name: &str) -> Place {
    (what, NAMESPACE.to_owned(), name.to_owned())
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

pub fn condition(job: &Value, kind: &str) -> bool {
    job["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

pub fn suspended(job: &Value) -> bool {
    job["spec"]["suspend"] == true
}

impl Core {
    pub fn set_up(&mut self) {
        for node in 0..NODES {
            self.truth.nodes.push(Node::default());
            self.make_node(node);
        }
        for named in self.cast.clone() {
            self.make_primitive(named);
        }
    }

    /// One moment of the world. `busy`: users are still at work.
    pub fn moment(&mut self, busy: bool) {
        self.node_controller();
        self.kubelets();
        self.claimants();
        self.job_controller();
        self.scheduler();
        self.users(busy);
        if busy {
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

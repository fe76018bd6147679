//! What goes wrong with nodes and processes, the node controller that notices some of it, and the repair of everything.

use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::{
    cluster::{NODES, place, text},
    core::Core,
    request::{Place, What, Writer},
    truth::Node,
};

impl Core {
    /// Nodes that are silent are called unreachable after a while; their Pods are evicted later; they come back when their time has come.
    pub fn node_controller(&mut self) {
        let now = Instant::now();
        let due = |(_, at): &mut (usize, Instant)| now >= *at;
        for (index, _) in self.truth.relapses.extract_if(.., due).collect::<Vec<_>>() {
            if self.chaos {
                self.node_falls_silent(index);
            }
        }
        for index in 0..self.truth.nodes.len() {
            let Some(node) = self.truth.nodes.get_mut(index) else { continue };
            if node.returns.is_some_and(|at| now >= at) {
                let deaf = self.chaos.then(|| now + self.chance.millis(0, 10_000));
                *node = Node { marks: Some(now), deaf, ..Node::default() };
                if self.chaos && self.chance.permille(350) {
                    // For a moment only; one of the leaders sees one long outage.
                    self.truth.relapses.push((index, now + self.chance.millis(500, 3000)));
                    let process = self.chance.below(self.processes.len() as u64) as usize;
                    self.processes[process].stalled.insert(What::Nodes, now + self.chance.millis(10_000, 25_000));
                }
                self.note((30, index as u64), |_| format!("node-{index}  is back"));
            }
            let Some(node) = self.truth.nodes.get(index) else { continue };
            let (silent, due) = (node.silent.is_some(), node.marks.is_some_and(|at| now >= at));
            let evict = silent && node.evicts.is_some_and(|at| now >= at);
            let at: Place = (What::Nodes, String::new(), format!("node-{index}"));
            if due {
                let ready = if silent { "Unknown" } else { "True" };
                let since = self.server_time().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                if !silent && !self.objects.contains_key(&at) {
                    self.make_node(index);
                }
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
                // Where a cloud says that there is no such machine any more, its node is removed, and its Pods by force.
                let removed = self.chance.permille(200);
                if removed {
                    self.delete(Writer::World, &at, None);
                    self.note((33, index as u64), |_| format!("node-{index}  is removed"));
                }
                for pod in pods {
                    self.delete(Writer::World, &place(What::Pods, &pod), removed.then_some(0));
                }
            }
        }
    }

    pub fn make_node(&mut self, index: usize) {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        self.create(Writer::World, What::Nodes, "", &format!("node-{index}"), ready);
    }

    pub fn node_falls_silent(&mut self, index: usize) {
        let now = Instant::now();
        let dead = self.chance.permille(450);
        let (short, long) = if self.chance.permille(600) { (15_000, 90_000) } else { (500, 20_000) };
        let (marks, evicts, returns) =
            (now + self.chance.millis(1000, 5000), now + self.chance.millis(10_000, 60_000), now + self.chance.millis(short, long));
        // One of the leaders does not hear of it.
        let unaware = self.chance.permille(400).then(|| self.chance.below(self.processes.len() as u64) as usize);
        let Some(node) = self.truth.nodes.get_mut(index).filter(|node| node.silent.is_none()) else { return };
        *node = Node { silent: Some(now), dead, returns: Some(returns), deaf: None, evicts: Some(evicts), marks: Some(marks) };
        if let Some(process) = unaware {
            self.processes[process].stalled.insert(What::Nodes, returns + self.chance.millis(0, 5000));
        }
        if dead {
            self.power_cut(index);
        }
        self.note((32, index as u64), |_| format!("node-{index}  {}", if dead { "loses power" } else { "falls silent, its Pods run on" }));
    }

    /// A hold was taken because of this node: now it comes back, to a leader that has not seen it.
    pub fn returns_at_a_bad_moment(&mut self, node: usize) {
        let now = Instant::now();
        if !self.chaos || self.chance.permille(300) {
            return;
        }
        let (back, seen) = (now + self.chance.millis(50, 3000), now + self.chance.millis(1000, 20_000));
        if let Some(node) = self.truth.nodes.get_mut(node).filter(|node| node.silent.is_some()) {
            node.returns = Some(back);
            for process in &mut self.processes {
                process.stalled.extend(self.cast.iter().map(|(what, _)| (*what, seen)));
                process.stalled.insert(What::Pods, seen);
            }
        }
    }

    pub fn trouble(&mut self) {
        let now = Instant::now();
        let faults = self.faults.clone();
        if self.strikes(faults.node) {
            let index = self.chance.below(NODES as u64) as usize;
            self.node_falls_silent(index);
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
            let mut kinds: Vec<What> = self.cast.iter().map(|(what, _)| *what).collect();
            kinds.dedup();
            kinds.extend([What::Pods, What::Jobs, What::Nodes, What::Claims]);
            let what = self.chance.pick(&kinds).copied().unwrap_or(What::Pods);
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

    /// A process dies and does not come back.
    pub fn crash_for_good(&mut self, process: usize) {
        self.note((9, process as u64), |_| format!("konductor-{process}  dies for good"));
        self.processes[process].crash(Instant::now());
        self.processes[process].starts = None;
        for other in &mut self.processes {
            other.starts = other.starts.map(|_| Instant::now());
        }
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

    /// For how long the API has called the node unreachable, without interruption. An outage that is just over counts: what was proven by a live
    /// read stays proven until its write arrives.
    pub fn unreachable_for(&self, node: &str) -> Duration {
        let now = self.unreachable.get(node).map(Instant::elapsed).unwrap_or_default();
        let before = self.outages.get(node).filter(|(ended, _)| ended.elapsed() < Duration::from_secs(45)).map(|(_, lasted)| *lasted);
        now.max(before.unwrap_or_default())
    }
}

//! The agents inside Pods: they speak to the real coordinator over its real routes, in memory, and lose their connections in every way.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, Response};
use http_body_util::BodyExt;
use konductor::coordinator::protocol::{Progress, Verified};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    core::{Core, Sim},
    pod::Connected,
    reports,
    truth::{Errand, exit_code},
};

/// Starts what the kubelets asked for.
pub fn start(sim: &Arc<Sim>) {
    let errands = std::mem::take(&mut sim.lock().truth.to_start);
    for errand in errands {
        let sim = sim.clone();
        match errand {
            Errand::Acquire { uid, run, until } => {
                tokio::spawn(until.run_until_cancelled_owned(async move { acquire(&sim, &uid, run).await }));
            }
            Errand::Report { uid, bearer, ended } => drop(reports::say(&sim, &uid, bearer, ended)),
            Errand::GiveBack { uid, until } => {
                tokio::spawn(until.run_until_cancelled_owned(async move { reports::give_back(&sim, &uid).await }));
            }
            Errand::Verify { uid } => {
                tokio::spawn(async move { verify(&sim, &uid).await });
            }
            Errand::Release { uid } => {
                tokio::spawn(async move { drop(ask(&sim, &uid, "/v1/release").await) });
            }
        }
    }
}

/// A way to a process, for a Pod.
struct Route {
    way: Way,
    bearer: String,
}

/// A way to a process.
pub struct Way {
    process: usize,
    router: Router,
    life: CancellationToken,
}

/// What an agent does next that was told how it ends.
enum Verdict {
    Runs,
    Leaves(i32),
}

impl Core {
    fn route(&mut self, uid: &str) -> Option<Route> {
        let bearer = self.truth.pods.get(uid)?.bearer();
        if self.is_cut_off(uid) {
            return None;
        }
        Some(Route { way: self.way()?, bearer })
    }

    /// Whether nothing comes through to or from a Pod's node.
    pub fn is_cut_off(&self, uid: &str) -> bool {
        let node = self.truth.pods.get(uid).and_then(|pod| self.truth.nodes.get(pod.node));
        node.is_some_and(|node| node.silent.is_some())
    }

    /// The Service leads to the leader, or, while its endpoints are out of date, to anybody.
    pub fn way(&mut self) -> Option<Way> {
        let leading: Vec<usize> = (0..self.processes.len()).filter(|index| self.processes[*index].leading).collect();
        let any: Vec<usize> = (0..self.processes.len()).collect();
        let stray = self.chaos && self.chance.permille(50);
        let process = *self.chance.pick(if stray || leading.is_empty() { &any } else { &leading })?;
        let found = self.processes.get(process)?;
        Some(Way { process, router: found.router.clone()?, life: found.life.clone() })
    }
}

async fn post(route: &Route, path: &str) -> Option<Response<Body>> {
    let request = Request::post(path).header("authorization", &route.bearer).body(Body::empty()).ok()?;
    send(&route.way, request).await
}

pub async fn send(way: &Way, request: Request<Body>) -> Option<Response<Body>> {
    let answer = way.life.run_until_cancelled(timeout(Duration::from_secs(10), way.router.clone().oneshot(request))).await?;
    answer.ok()?.ok()
}

/// Connects again and again until it is told how it ends.
async fn acquire(sim: &Arc<Sim>, uid: &str, run: u64) {
    let wrapped = sim.lock().truth.pods.get(uid).is_some_and(|pod| pod.wrap.is_some());
    if wrapped {
        reports::until_nothing_is_left(sim, uid, None).await;
    }
    loop {
        let pause = {
            let core = &mut *sim.lock();
            core.chance.millis(100, if core.chaos { 4000 } else { 500 })
        };
        let ended = session(sim, uid, run).await;
        if let Some(pod) = sim.lock().truth.pods.get_mut(uid) {
            pod.session = None;
        }
        match ended {
            Some(Verdict::Leaves(code)) if wrapped => {
                match code {
                    0 => reports::until_nothing_is_left(sim, uid, Some(false)).await,
                    _ => reports::give_back(sim, uid).await,
                }
                return sim.lock().leaves_out(uid, run, code);
            }
            Some(_) => return,
            None => {}
        }
        sleep(pause).await;
    }
}

/// One session; `None` if it ended without a verdict.
async fn session(sim: &Arc<Sim>, uid: &str, run: u64) -> Option<Verdict> {
    let asked_at = Instant::now();
    let route = sim.lock().route(uid)?;
    let response = post(&route, "/v1/acquire").await?;
    if response.status() != 200 {
        return None;
    }
    let (breaks_after, half_open) = {
        let core = &mut *sim.lock();
        let since = Instant::now();
        core.truth.pods.get_mut(uid)?.session = Some(Connected { process: route.way.process, since });
        core.note((8, route.way.process as u64), |_| format!("agent  {uid} has a session with konductor-{}", route.way.process));
        core.stats.waits += 1;
        let breaks = core.strikes_agent(4).then(|| core.chance.millis(10, 10_000));
        (breaks, core.chance.coin())
    };
    let mut body = response.into_body();
    let deadline = breaks_after.map(|after| Instant::now() + after);
    loop {
        let patience = deadline.map_or(Duration::from_secs(16), |at| at.saturating_duration_since(Instant::now()));
        let frame = route.way.life.run_until_cancelled(timeout(patience, body.frame())).await?;
        // The node may have fallen silent, or the connection broke: the coordinator may not notice for a while.
        let silent = sim.lock().is_cut_off(uid);
        let Ok(frame) = frame else {
            linger(body, half_open);
            return None;
        };
        if silent {
            linger(body, half_open);
            return None;
        }
        let data = frame?.ok()?.into_data().ok()?;
        let delay = {
            let core = &mut *sim.lock();
            let slow = core.faults.slow;
            if core.strikes(slow) { core.chance.millis(1, 500) } else { core.chance.millis(0, 3) }
        };
        sleep(delay).await;
        for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line).ok()? {
                Progress::Granted { tokens } => {
                    if sim.lock().agent_misses(uid) {
                        linger(body, half_open);
                        return None;
                    }
                    sim.lock().told(uid, run, tokens, asked_at);
                    return Some(Verdict::Runs);
                }
                Progress::Refused { reason, message: _ } => {
                    sim.lock().refused(uid, run, reason);
                    return Some(Verdict::Leaves(exit_code(reason)));
                }
                Progress::Skipped { message } => {
                    sim.lock().judge_skipped(uid, &message);
                    return Some(Verdict::Leaves(0));
                }
                Progress::Waiting { .. } | Progress::Heartbeat => {}
            }
        }
    }
}

impl Core {
    pub fn strikes_agent(&mut self, times: u64) -> bool {
        let frequency = self.faults.agent * times;
        self.strikes(frequency)
    }

    /// The line that says "granted" is lost with the connection.
    fn agent_misses(&mut self, uid: &str) -> bool {
        let misses = self.strikes_agent(3);
        let node = self.truth.pods.get(uid).map(|pod| pod.node);
        // Perhaps because its node has fallen silent, with a hold that nobody knows of there.
        if let Some(node) = node.filter(|_| misses && self.faults.node > 0 && self.chance.permille(600)) {
            self.node_falls_silent(node);
        }
        misses
    }
}

/// A connection whose other end does not know yet that this end is gone.
fn linger(body: Body, half_open: bool) {
    if half_open {
        tokio::spawn(async move {
            sleep(Duration::from_secs(12)).await;
            drop(body);
        });
    }
}

pub async fn ask(sim: &Arc<Sim>, uid: &str, path: &str) -> Option<Vec<u8>> {
    let route = sim.lock().route(uid)?;
    let response = post(&route, path).await?;
    if response.status() != 200 {
        return None;
    }
    Some(response.into_body().collect().await.ok()?.to_bytes().to_vec())
}

async fn verify(sim: &Arc<Sim>, uid: &str) {
    for _ in 0..5 {
        let since = Instant::now();
        if let Some(answer) = ask(sim, uid, "/v1/verify").await {
            if serde_json::from_slice::<Verified>(&answer).is_ok_and(|verified| verified.held) {
                sim.lock().judge_verified(uid, since);
            }
            return;
        }
        let pause = sim.lock().chance.millis(100, 2000);
        sleep(pause).await;
    }
}

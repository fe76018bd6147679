//! A konductor process: the real controller, coordinator and election on a simulated wire. It can die at any await and is started again as a new one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use axum::Router;
use konductor::{
    controller::{Context, clock::ServerClock, leader::Election},
    coordinator::{identity::Identities, server::Coordinator},
    health::Pulse,
};
use kube::client::ClientBuilder;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::timeout::TimeoutLayer;

use crate::{core::Sim, request::What, wire::Wire};

/// As in production.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const STANDS_AGAIN: Duration = Duration::from_secs(2);

/// What the run knows of a process.
#[derive(Default)]
pub struct Process {
    /// Where agents reach it, while it lives.
    pub router: Option<Router>,
    /// The present life.
    pub life: CancellationToken,
    /// Whether its picture is complete and it believes that it leads.
    pub leading: bool,
    /// Since when.
    pub led: Option<Instant>,
    /// Nothing comes through to or from the API server until then.
    pub cut_until: Option<Instant>,
    /// Watches of these kinds are silent until then.
    pub stalled: BTreeMap<What, Instant>,
    /// Its newest watch of all objects of a kind, which it may have let go, and since when it is open.
    pub watches: BTreeMap<What, (Weak<()>, Instant)>,
    /// How often all its watches were broken off.
    pub watches_broken: u64,
    /// When it is started again.
    pub starts: Option<Instant>,
    /// When it asked the API server for something, for a while back.
    pub asked: VecDeque<Instant>,
    tasks: Vec<AbortHandle>,
}

impl Process {
    /// It dies at whatever await it is at. What is under way on the wire stays under way.
    pub fn crash(&mut self, again: Instant) {
        self.life.cancel();
        self.tasks.drain(..).for_each(|task| task.abort());
        self.router = None;
        self.leading = false;
        self.watches.clear();
        self.asked.clear();
        self.starts = Some(again);
    }
}

/// Starts a process; with election, or convinced that it leads.
pub fn start(sim: &Arc<Sim>, process: usize, elected: bool) {
    let life = CancellationToken::new();
    let clock = ServerClock::default();
    let wire = Wire { sim: sim.clone(), process, life: life.clone() };
    let client = ClientBuilder::new(wire, "konductor-system").with_layer(&clock).with_layer(&TimeoutLayer::new(ANSWER_WITHIN)).build();
    let coordinator = Coordinator::new(Identities::new(client.clone()));
    let router = coordinator.clone().router();
    let name = format!("konductor-{process}");
    let lead = {
        let (sim, client, name, life) = (sim.clone(), client.clone(), name.clone(), life.clone());
        move |until: CancellationToken| {
            let (sim, client, clock, coordinator, name) = (sim.clone(), client.clone(), clock.clone(), coordinator.clone(), name.clone());
            let mine = life.clone();
            async move {
                let context = Context::new(client, clock, Pulse::default(), Arc::default(), &name, until);
                let work = context.clone().run(|| {
                    coordinator.leading.store(Some(context.clone()));
                    let mut core = sim.lock();
                    core.stats.takeovers += 1;
                    (core.processes[process].leading, core.processes[process].led) = (true, Some(Instant::now()));
                    core.note((6, process as u64), |_| format!("{name}  leads"));
                });
                work.await;
                coordinator.leading.store(None);
                if !mine.is_cancelled() {
                    sim.lock().processes[process].leading = false;
                }
            }
        }
    };
    let task = if elected {
        let shutdown = life.clone();
        tokio::spawn(async move {
            let election = Election::new(client, "konductor-system", "konductor-leader", &name, Pulse::default());
            election.run(lead, shutdown).await;
        })
    } else {
        let life = life.clone();
        tokio::spawn(async move {
            // A leader that has not seen everything in time gives up; it stands again, as the election would have it.
            loop {
                lead(life.clone()).await;
                sleep(STANDS_AGAIN).await;
            }
        })
    };
    let mut core = sim.lock();
    core.note((7, process as u64), |_| format!("konductor-{process}  starts"));
    let state = &mut core.processes[process];
    (state.router, state.life, state.leading, state.starts) = (Some(router), life, false, None);
    state.tasks.push(task.abort_handle());
}

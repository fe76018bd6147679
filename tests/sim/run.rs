//! One run: a seed, from an empty cluster through chaos to rest.

use std::{sync::Arc, time::Duration};

use konductor::planted;
use tokio::time::{Instant, sleep};

use crate::{
    agent,
    cluster::start_processes,
    core::{Core, Sim, Stats},
    process::Process,
};

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub operations: u64,
    pub traced: bool,
    /// The planted bug that is switched on.
    pub bug: Option<&'static str>,
}

/// What came out.
pub struct Outcome {
    pub stats: Stats,
    pub violations: Vec<String>,
    pub digest: u64,
    pub trace: Vec<String>,
}

/// Runs a seed; the same seed gives the same run.
pub fn run(plan: Plan) -> Outcome {
    planted::choose(plan.bug);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(story(plan)),
        Err(error) => Outcome { stats: Stats::default(), violations: vec![error.to_string()], digest: 0, trace: Vec::new() },
    };
    planted::choose(None);
    outcome
}

async fn story(plan: Plan) -> Outcome {
    let sim = Sim::new(Core::new(plan.seed, plan.traced));
    let elected = {
        let mut core = sim.lock();
        core.set_up();
        core.processes = vec![Process::default(), Process::default()];
        core.processes.iter_mut().for_each(|process| process.starts = Some(Instant::now()));
        core.chaos = true;
        core.chance.permille(400)
    };
    let teller = Teller { sim: sim.clone(), elected };
    // Chaos, until enough has happened.
    let latest = Instant::now() + Duration::from_secs(900);
    while !teller.failed() && Instant::now() < latest && sim.lock().stats.operations < plan.operations {
        teller.moment(true).await;
    }
    // Repaired: within a minute everybody who can hold does, and then nothing is written any more.
    {
        let mut core = sim.lock();
        core.heal();
        if !elected {
            // Two who both believe that they lead would correct each other's count of those who wait for ever.
            let loser = usize::from(core.chance.coin());
            core.crash_for_good(loser);
        }
        core.truth.apps_run_on = true;
        core.truth.claims_run_on = true;
    }
    teller.pass(60).await;
    teller.check(|core| core.judge_liveness());
    // Those who renew their Claims would never be quiet.
    sim.lock().truth.claims_run_on = false;
    teller.quiet("with holders and waiters").await;
    // The apps end: everybody gets a turn, and at the end everything is at rest.
    {
        let mut core = sim.lock();
        core.truth.apps_run_on = false;
        core.widen();
    }
    teller.drain().await;
    teller.pass(20).await;
    teller.check(|core| core.judge_rest());
    teller.quiet("at rest").await;
    let mut core = sim.lock();
    for process in 0..core.processes.len() {
        core.processes[process].crash(Instant::now() + Duration::from_secs(1_000_000));
    }
    Outcome {
        stats: core.stats,
        violations: core.judge.violations.clone(),
        digest: core.trace.digest(),
        trace: std::mem::take(&mut core.trace.lines),
    }
}

struct Teller {
    sim: Arc<Sim>,
    elected: bool,
}

impl Teller {
    fn failed(&self) -> bool {
        !self.sim.lock().judge.violations.is_empty()
    }

    async fn moment(&self, busy: bool) {
        start_processes(&self.sim, self.elected);
        let pause = {
            let mut core = self.sim.lock();
            core.moment(busy);
            if busy { core.chance.millis(10, 190) } else { core.chance.millis(50, 450) }
        };
        agent::start(&self.sim);
        sleep(pause).await;
        let jump = {
            let mut core = self.sim.lock();
            let often = core.faults.clock / 4;
            core.strikes(often).then(|| core.chance.millis(1000, 20_000))
        };
        if let Some(jump) = jump {
            // The machine under all of them slept.
            tokio::time::advance(jump).await;
            let mut core = self.sim.lock();
            core.jumped = Some(Instant::now());
            core.note((14, 0), |_| format!("everybody sleeps for {jump:?}"));
        }
    }

    async fn pass(&self, seconds: u64) {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until && !self.failed() {
            self.moment(false).await;
        }
    }

    fn check(&self, judge: impl FnOnce(&mut Core)) {
        if !self.failed() {
            judge(&mut self.sim.lock());
        }
    }

    /// Promise 5: while nothing happens, nothing is written.
    async fn quiet(&self, when: &str) {
        // Kubelets and the Job controller may still have had something to do.
        let latest = Instant::now() + Duration::from_secs(600);
        while Instant::now() < latest && !self.failed() && self.sim.lock().world_was_quiet_for() < Duration::from_secs(110) {
            self.pass(1).await;
        }
        self.check(|core| {
            let quiet = core.world_was_quiet_for();
            if let Some(at) = core.last_write.filter(|at| at.elapsed() < Duration::from_secs(60)) {
                let words = format!("something was written {:?} ago, though nothing has happened for {quiet:?}, {when}", at.elapsed());
                core.violation("5 (quiet)", words);
            }
        });
    }

    /// Until nobody runs or waits any more; whoever waits that long is stuck.
    async fn drain(&self) {
        let until = Instant::now() + Duration::from_secs(900);
        loop {
            let left = self.sim.lock().left();
            if left.is_empty() || self.failed() {
                return;
            }
            if Instant::now() > until {
                return self.check(|core| core.violation("liveness", format!("these never came to an end: {left:?}")));
            }
            self.pass(2).await;
        }
    }
}

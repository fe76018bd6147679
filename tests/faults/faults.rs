//! The faults, one after the other. After each one, all who waited when it ended must be served; after each kind there is a calm, in which everybody is.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    cluster::{
        allow_more_leaders, by_way_of, certificate, cluster, cut_webhook, describe, free_webhook, kill_and_start, kubectl, leader,
        redeploy, run, signal, signal_leader, until, until_serving,
    },
    history::now,
    load,
    load::Load,
    pods,
    pods::{HOME, Pods, VICTIMS, VICTIMS_TTL},
    proxy::{Hold, PORTS, Proxy, Watches},
    waiters::{PATIENCE, Waiters},
    watch::Observer,
};

/// The node that is cut off and killed.
const AWAY: &str = "node-2";

/// What a fault needs, and what has come of those before.
pub struct Stage {
    pub client: kube::Client,
    /// Of the API server, and of the proxy.
    pub address: String,
    pub observer: Arc<Observer>,
    pub waiters: Waiters,
    pub load: Arc<Load>,
    pub pods: Arc<Pods>,
    pub proxy: Arc<Proxy>,
    pub quick: bool,
    pub rows: Vec<Row>,
}

/// A line of the table.
pub struct Row {
    pub fault: &'static str,
    pub wanted: usize,
    pub times: usize,
    /// Who waited when it ended, all times together.
    pub waited: usize,
    pub longest: Duration,
    pub from: f64,
    pub to: f64,
    /// What shows that it was a fault at all, and whether it was enough.
    pub proof: Option<(String, bool)>,
}

impl Row {
    pub fn new(fault: &'static str) -> Self {
        Self { fault, wanted: 0, times: 0, waited: 0, longest: Duration::ZERO, from: now(), to: 0.0, proof: None }
    }
}

pub const ALL: [&str; 15] = [
    "leader killed",
    "leader stopped",
    "two leaders",
    "API server killed",
    "etcd killed",
    "answers dropped",
    "watches stalled",
    "watches too old",
    "clock an hour off",
    "webhook hung",
    "webhook down",
    "certificate renewed",
    "holder deleted by force",
    "holder cut off",
    "node killed",
];

impl Stage {
    /// One kind of fault, as often as it should be.
    pub async fn fault(&mut self, fault: &'static str) {
        eprintln!("{fault}");
        let began = Instant::now();
        let mut row = Row { wanted: self.times(fault), ..Row::new(fault) };
        match fault {
            "leader killed" => self.leader_killed(&mut row).await,
            "leader stopped" => self.leader_stopped(&mut row).await,
            "two leaders" => self.two_leaders(&mut row).await,
            "API server killed" => self.component_killed(&mut row, "kube-apiserver").await,
            "etcd killed" => self.component_killed(&mut row, "etcd").await,
            "answers dropped" => self.answers_dropped(&mut row).await,
            "watches stalled" => self.watches_stalled(&mut row).await,
            "watches too old" => self.watches_too_old(&mut row).await,
            "clock an hour off" => self.clock_off(&mut row).await,
            "webhook hung" => self.webhook_cut(&mut row, "drop").await,
            "webhook down" => self.webhook_cut(&mut row, "reject with tcp reset").await,
            "certificate renewed" => self.certificate_renewed(&mut row).await,
            "holder deleted by force" => self.holder_deleted_by_force(&mut row).await,
            "holder cut off" => self.holder_lost(&mut row, "pause", "resume").await,
            _ => self.holder_lost(&mut row, "kill", "start").await,
        }
        self.calm(&mut row).await;
        row.to = now();
        let violations = self.observer.judge.lock().unwrap().violations.len();
        let (times, took, longest) = (row.times, began.elapsed().as_secs(), row.longest.as_secs_f64());
        eprintln!("  {times} times in {took} s, recovered within {longest:.1} s; {violations} violations until now");
        self.rows.push(row);
    }

    /// How often: a tenth when it has to be quick, and once at least.
    fn times(&self, fault: &str) -> usize {
        let all = match fault {
            "leader killed" => 200,
            "leader stopped" | "API server killed" => 50,
            "answers dropped" => 1000,
            "two leaders" => 3,
            "webhook hung" | "webhook down" | "holder cut off" | "node killed" => 10,
            _ => 20,
        };
        if self.quick { (all / 10).max(1) } else { all }
    }

    /// It has ended now: waits until all are served who wait for a Claim's sake.
    async fn recovers(&self, row: &mut Row) {
        self.served(row, &[], |lane| !pods::LANES.iter().any(|pods| pods.key == lane)).await;
    }

    /// Waits until everybody is served who waits now, and each lane has served somebody. Pods need a cluster: a fault has not ended before Kubernetes runs Jobs
    /// that konductor has nothing to do with. After several outages of its API server that may last for a minute longer, in which it takes nodes for lost, or
    /// its parts pause before they try again.
    pub async fn calm(&self, row: &mut Row) {
        let began = Instant::now();
        tokio::join!(self.pods.until_plain_job_runs(HOME), self.pods.until_plain_job_runs(AWAY));
        eprintln!("  Kubernetes runs Jobs again, after {:.1} s", began.elapsed().as_secs_f64());
        let lanes = load::LANES.iter().map(load::Lane::key).chain(pods::LANES.iter().map(|lane| lane.key.to_owned()));
        let rounds = load::ROUNDS.iter().map(|kind| format!("{}/rounds", crate::judge::plural(kind)));
        self.served(row, &lanes.chain(rounds).collect::<Vec<_>>(), |_| true).await;
    }

    async fn served(&self, row: &mut Row, lanes: &[String], counts: impl Fn(&str) -> bool) {
        let looked_at = async {
            sleep(PATIENCE).await;
            describe().await;
            pending().await
        };
        let recovery = tokio::select! {
            recovery = self.waiters.until_served(lanes, counts) => recovery,
            recovery = looked_at => recovery,
        };
        if lanes.is_empty() {
            row.waited += recovery.waited;
        }
        row.longest = row.longest.max(recovery.longest);
        if !recovery.starved.is_empty() {
            self.observer.broken("starved", format!("after {}: {}", row.fault, recovery.starved.join(", ")));
        }
    }

    // --- konductor itself -------------------------------------------------------------------------------------------------

    async fn leader_killed(&self, row: &mut Row) {
        for turn in 0..row.wanted {
            // Somewhere else in its work each time.
            sleep(Duration::from_millis(turn as u64 * 37 % 500)).await;
            let (name, _) = signal_leader(&self.client, "-KILL").await;
            // Mostly its container is started anew and it leads again; sometimes it never comes back, and the other one has to find out.
            if turn % 5 == 4 {
                kubectl(&["delete", "pod", &name, "--force", "--grace-period=0", "--wait=false"]).await;
            }
            row.times += 1;
            self.recovers(row).await;
        }
        until_serving(&self.client).await;
    }

    async fn leader_stopped(&self, row: &mut Row) {
        let (mut in_flight, mut refused) = (0, 0);
        for turn in 0..row.wanted {
            let caught = match turn % 3 {
                0 => Some(Hold::Request),
                1 => Some(Hold::Answer),
                _ => None,
            };
            let held = match caught {
                Some(there) => timeout(Duration::from_secs(20), self.proxy.catch(there)).await.ok().and_then(Result::ok),
                None => None,
            };
            let (first, processes) = signal_leader(&self.client, "-STOP").await;
            until("another replica leads", async || leader(&self.client).await.filter(|leader| *leader != first)).await;
            self.recovers(row).await;
            // Now the other one has granted what it liked. The write of the first arrives, or is answered, and then it wakes up and believes that it leads.
            if let Some(held) = held {
                in_flight += 1;
                let _ = held.release.send(());
                let answered = timeout(Duration::from_secs(10), held.answered).await.ok().and_then(Result::ok);
                refused += usize::from(answered.is_some_and(|status| !status.is_success()));
            }
            signal("-CONT", &processes).await;
            row.times += 1;
            self.recovers(row).await;
            until_serving(&self.client).await;
        }
        let enough = in_flight * 5 >= row.wanted * 2;
        row.proof = Some((format!("{in_flight} with a grant in flight, {refused} refused when it came late"), enough));
    }

    /// Each replica stands for an election of its own, and wins it.
    async fn two_leaders(&self, row: &mut Row) {
        let before = self.proxy.conflicts.load(Ordering::Relaxed);
        allow_more_leaders().await;
        for _ in 0..row.wanted {
            redeploy(&self.client, json!({ "args": ["serve", "--leader-lease=$(POD_NAME)"] })).await;
            sleep(Duration::from_secs(20)).await;
            self.recovers(row).await;
            redeploy(&self.client, json!({ "args": ["serve"] })).await;
            until_serving(&self.client).await;
            row.times += 1;
            self.recovers(row).await;
        }
        let conflicts = self.proxy.conflicts.load(Ordering::Relaxed) - before;
        row.proof = Some((format!("{conflicts} writes in conflict"), conflicts >= 10 * row.wanted));
    }

    // --- what konductor lives on ------------------------------------------------------------------------------------------

    async fn component_killed(&self, row: &mut Row, component: &str) {
        for turn in 0..row.wanted {
            sleep(Duration::from_millis(turn as u64 * 91 % 700)).await;
            kill_and_start(component).await;
            row.times += 1;
            self.recovers(row).await;
        }
        until_serving(&self.client).await;
    }

    async fn answers_dropped(&self, row: &mut Row) {
        const AT_ONCE: usize = 10;
        let dropped = || self.proxy.dropped.load(Ordering::Relaxed);
        let before = dropped();
        while dropped() - before < row.wanted {
            self.proxy.to_drop.store(AT_ONCE.min(row.wanted - (dropped() - before)), Ordering::Relaxed);
            let began = Instant::now();
            while self.proxy.to_drop.load(Ordering::Relaxed) > 0 && began.elapsed() < Duration::from_secs(120) {
                sleep(Duration::from_millis(20)).await;
            }
            if self.proxy.to_drop.swap(0, Ordering::Relaxed) > 0 {
                break;
            }
            self.recovers(row).await;
        }
        row.times = dropped() - before;
    }

    async fn watches_stalled(&self, row: &mut Row) {
        let before = self.proxy.late.load(Ordering::Relaxed);
        for _ in 0..row.wanted {
            self.proxy.let_watches(Watches::Stalled);
            sleep(Duration::from_secs(8)).await;
            self.proxy.let_watches(Watches::Pass);
            row.times += 1;
            self.recovers(row).await;
        }
        let late = self.proxy.late.load(Ordering::Relaxed) - before;
        row.proof = Some((format!("{late} times events came late"), late >= row.wanted));
    }

    async fn watches_too_old(&self, row: &mut Row) {
        let said = || (self.proxy.too_old.load(Ordering::Relaxed), self.proxy.said_too_old.load(Ordering::Relaxed));
        let before = said();
        for turn in 0..row.wanted {
            if turn % 2 == 0 {
                // All watches end, and what was missed is gone from etcd and from the API server's memory.
                self.proxy.let_watches(Watches::Cut);
                sleep(Duration::from_secs(3)).await;
                self.observer.until_seen().await;
                let revision = self.observer.revision().to_string();
                run("etcdctl", &["compaction", &revision]).await;
                kill_and_start("kube-apiserver").await;
            } else {
                self.proxy.let_watches(Watches::TooOld);
                sleep(Duration::from_secs(3)).await;
            }
            self.proxy.let_watches(Watches::Pass);
            row.times += 1;
            self.recovers(row).await;
        }
        let (by_server, by_proxy) = (said().0 - before.0, said().1 - before.1);
        let enough = by_server >= row.wanted.div_ceil(2) && by_proxy >= row.wanted / 2;
        row.proof = Some((format!("watches that were too old: {by_server} by the API server, {by_proxy} by the proxy"), enough));
    }

    async fn clock_off(&self, row: &mut Row) {
        let go_through = async |port: u16| {
            let _still = self.load.no_rebirth().await;
            redeploy(&self.client, by_way_of(&self.address, port)).await;
            until_serving(&self.client).await;
            self.load.new_era().await;
        };
        for turn in 0..row.wanted {
            go_through(PORTS[1 + turn % 2].0).await;
            sleep(Duration::from_secs(10)).await;
            row.times += 1;
            self.recovers(row).await;
        }
        go_through(PORTS[0].0).await;
    }

    async fn webhook_cut(&self, row: &mut Row, verdict: &str) {
        let (mut packets, mut least) = (0, u64::MAX);
        for _ in 0..row.wanted {
            cut_webhook(verdict).await;
            sleep(Duration::from_secs(10)).await;
            let cut = free_webhook().await;
            (packets, least) = (packets + cut, least.min(cut));
            row.times += 1;
            self.recovers(row).await;
        }
        row.proof = Some((format!("{packets} packets of the API server did not arrive"), least > 0));
    }

    async fn certificate_renewed(&self, row: &mut Row) {
        for _ in 0..row.wanted {
            let old = certificate(&self.client).await;
            kubectl(&["patch", "secret", "konductor-certs", "--patch", r#"{"data": {"tls.crt": "", "tls.key": ""}}"#]).await;
            until("there is another certificate", async || {
                Some(certificate(&self.client).await).filter(|now| !now.is_empty() && *now != old)
            })
            .await;
            row.times += 1;
            self.recovers(row).await;
        }
    }

    // --- holders ----------------------------------------------------------------------------------------------------------

    /// A Pod on this node that holds the victims' Mutex for longer than it will have, and one that waits for it at home.
    async fn victim(&self, node: &str) -> (String, String) {
        self.pods.until_plain_job_runs(node).await;
        let victim = self.pods.start(VICTIMS, "konductor.io/mutex", false, node, 1800).await;
        self.pods.until_began(VICTIMS, &victim).await;
        let next = self.pods.start(VICTIMS, "konductor.io/mutex", false, HOME, 8).await;
        let (pods, waits) = (self.pods.clone(), next.clone());
        tokio::task::spawn_local(async move { pods.until_began(VICTIMS, &waits).await });
        // Long enough to be in line.
        sleep(Duration::from_secs(3)).await;
        (victim, next)
    }

    /// Waits until a Pod is gone and has said nothing for two seconds.
    async fn until_silent(&self, pod: &str) {
        let began = Instant::now();
        while self.pods.exists(pod).await || self.pods.last_beat(pod).is_some_and(|beat| now() - beat < 2.0) {
            if began.elapsed() > PATIENCE {
                self.observer.broken("starved", format!("pods/{pod} has lost its hold and is not ended"));
                self.pods.force_delete(pod).await;
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.pods.ended(pod);
    }

    async fn holder_deleted_by_force(&self, row: &mut Row) {
        for _ in 0..row.wanted {
            let (victim, next) = self.victim(HOME).await;
            self.pods.forfeits(&victim, now());
            self.pods.force_delete(&victim).await;
            row.times += 1;
            self.recovers(row).await;
            self.until_silent(&victim).await;
            self.pods.delete(false, &next).await;
        }
    }

    /// Its node is cut off, or loses power, for longer than the Mutex's `ttl`.
    async fn holder_lost(&self, row: &mut Row, fault: &str, repair: &str) {
        let mut fenced = 0;
        for _ in 0..row.wanted {
            let (victim, next) = self.victim(AWAY).await;
            self.pods.forfeits(&victim, now() + f64::from(VICTIMS_TTL));
            cluster(&["node", fault, AWAY]).await;
            let began = now();
            row.times += 1;
            self.recovers(row).await;
            sleep(Duration::from_secs(1)).await;
            fenced += usize::from(self.pods.last_beat(&victim).is_some_and(|beat| beat > began + 10.0));
            cluster(&["node", repair, AWAY]).await;
            self.pods.until_plain_job_runs(AWAY).await;
            // Of one that was cut off, konductor ends what runs without its hold; one whose power was off does not run.
            if fault == "kill" {
                self.pods.delete(false, &victim).await;
            }
            self.until_silent(&victim).await;
            self.pods.delete(false, &next).await;
        }
        row.proof = Some(match fault {
            "pause" => (format!("{fenced} ran on beside the next, with a smaller token"), fenced > 0),
            _ => (format!("{fenced} ran on"), fenced == 0),
        });
    }
}

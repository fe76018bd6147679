//! The load: Claims that hold, and rounds of what opens, all the time and at a bounded rate. Whoever holds notes when it ran, and with which token.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex as Turn, MutexGuard, watch},
    task::spawn_local,
    time::{sleep, timeout},
};

use crate::{
    history::{Run, now},
    judge::plural,
    waiters::Waiters,
    watch::Observer,
};

/// The API server is asked again after this long without an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub struct Load {
    pub client: Client,
    pub namespace: String,
    pub observer: Arc<Observer>,
    pub waiters: Waiters,
    number: AtomicU64,
    claims: Mutex<HashMap<String, Told>>,
    change: watch::Sender<u64>,
    being_reborn: Turn<()>,
    era: AtomicU64,
    /// Claims that expired while their holder was asleep: fencing is all that protects there.
    pub expired: AtomicUsize,
}

/// What a Claim is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub phase: String,
    pub token: i64,
    pub reason: String,
}

/// How a lane of Claims is used.
#[derive(Clone, Copy)]
pub struct Lane {
    pub kind: &'static str,
    pub name: &'static str,
    /// Claims at the same time.
    pub workers: usize,
    /// How long each holds, in hundredths of a second.
    pub holds: u64,
}

/// The lanes of Claims. The last number of a Semaphore's name is that of its permits.
pub const LANES: [Lane; 5] = [
    Lane { kind: "Mutex", name: "m", workers: 4, holds: 20 },
    Lane { kind: "Semaphore", name: "s-3", workers: 6, holds: 50 },
    Lane { kind: "RWMutex", name: "r", workers: 5, holds: 40 },
    Lane { kind: "Lease", name: "l", workers: 3, holds: 30 },
    Lane { kind: "Mutex", name: "reborn", workers: 2, holds: 30 },
];
/// The kinds that are played in rounds, each round with objects of its own.
pub const ROUNDS: [&str; 4] = ["Barrier", "Once", "WaitGroup", "Gate"];

impl Lane {
    pub fn key(&self) -> String {
        format!("{}/{}", plural(self.kind), self.name)
    }
}

impl Load {
    pub fn new(client: Client, namespace: &str, observer: Arc<Observer>, waiters: Waiters) -> Arc<Self> {
        Arc::new(Self {
            client,
            namespace: namespace.to_owned(),
            observer,
            waiters,
            number: AtomicU64::new(0),
            claims: Mutex::default(),
            change: watch::Sender::new(0),
            being_reborn: Turn::default(),
            era: AtomicU64::new(0),
            expired: AtomicUsize::new(0),
        })
    }

    /// Makes the primitives, and keeps everybody at work for ever.
    pub async fn work(self: Arc<Self>) {
        for lane in LANES {
            let spec = if lane.kind == "Semaphore" { json!({ "permits": 3 }) } else { json!({}) };
            let name = if lane.name == "reborn" { self.reborn() } else { lane.name.to_owned() };
            self.create(lane.kind, &name, spec).await;
        }
        let mut tasks = vec![spawn_local(self.clone().listen()), spawn_local(self.clone().rebirths())];
        for lane in LANES {
            tasks.extend((0..lane.workers).map(|worker| spawn_local(self.clone().hold_again_and_again(lane, worker))));
        }
        tasks.push(spawn_local(self.clone().renew_again_and_again()));
        tasks.extend(ROUNDS.map(|kind| spawn_local(self.clone().rounds(kind))));
        for ended in join_all(tasks).await {
            self.observer.broken("load", format!("a part of the load ended: {ended:?}"));
        }
    }

    // --- the API server ---------------------------------------------------------------------------------------------------

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("konductor.io", "v1", kind), &plural(kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Makes an object, however long that takes.
    pub async fn create(&self, kind: &str, name: &str, spec: Value) {
        let object: DynamicObject =
            serde_json::from_value(json!({ "apiVersion": "konductor.io/v1", "kind": kind, "metadata": { "name": name }, "spec": spec }))
                .expect("an object");
        let api = self.api(kind);
        insist(async || match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            answer => answer.map(|_| ()),
        })
        .await;
    }

    pub async fn delete(&self, kind: &str, name: &str) {
        let api = self.api(kind);
        insist(async || match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(|_| ()),
        })
        .await;
    }

    async fn patch(&self, kind: &str, name: &str, patch: Value) {
        let api = self.api(kind);
        insist(async || api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(|_| ())).await;
    }

    /// Keeps what all Claims are told.
    async fn listen(self: Arc<Self>) {
        // Its own patience, always the same: kube's would grow with each fault, and be taken for konductor's.
        let mut events = watcher(self.api("Claim"), watcher::Config::default()).boxed();
        while let Some(event) = events.next().await {
            if event.is_err() {
                sleep(Duration::from_millis(300)).await;
            }
            let mut claims = self.claims.lock().unwrap();
            match event {
                Ok(watcher::Event::Apply(claim) | watcher::Event::InitApply(claim)) => {
                    let status = &claim.data["status"];
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
                    let reason = conditions.iter().find(|one| one["type"] == "Granted").map(|one| text(&one["reason"])).unwrap_or_default();
                    let told = Told { phase: text(&status["phase"]), token: status["token"].as_i64().unwrap_or(0), reason };
                    claims.insert(claim.metadata.name.unwrap_or_default(), told);
                }
                Ok(watcher::Event::Delete(claim)) => {
                    claims.remove(&claim.metadata.name.unwrap_or_default());
                }
                Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
            }
            drop(claims);
            self.change.send_modify(|changes| *changes += 1);
        }
    }

    /// Waits until a Claim is told something like that.
    async fn told(&self, name: &str, so: impl Fn(&Told) -> bool) -> Told {
        let mut change = self.change.subscribe();
        loop {
            let found = self.claims.lock().unwrap().get(name).filter(|told| so(told)).cloned();
            if let Some(told) = found {
                return told;
            }
            let _ = change.changed().await;
        }
    }

    // --- Claims that hold -------------------------------------------------------------------------------------------------

    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.number.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a Claim and waits until it is granted; anything else is a violation, and gives nothing.
    async fn granted(&self, key: &str, name: &str, spec: Value) -> Option<Told> {
        self.create("Claim", name, spec).await;
        let waiting = self.waiters.begin(key, name);
        let told = self.told(name, |told| !["", "Pending"].contains(&told.phase.as_str())).await;
        waiting.served();
        if told.phase != "Granted" {
            self.observer.broken("told", format!("claims/{name} waits for ever, and was told {told:?}"));
            return None;
        }
        Some(told)
    }

    async fn hold_again_and_again(self: Arc<Self>, lane: Lane, worker: usize) {
        for turn in 0.. {
            let name = self.name(lane.name);
            let primitive = if lane.name == "reborn" { self.reborn() } else { lane.name.to_owned() };
            let mut spec = json!({ "kind": lane.kind, "name": primitive, "ttl": "5m", "timeout": "20m" });
            let permits = if lane.kind == "Semaphore" && worker == 0 { 2 } else { 1 };
            let reads = lane.kind == "RWMutex" && worker != 0;
            match lane.kind {
                "Semaphore" => spec["permits"] = permits.into(),
                "RWMutex" if reads => spec["mode"] = "Read".into(),
                "Lease" => spec["priority"] = (turn % 3).into(),
                _ => {}
            }
            if let Some(told) = self.granted(&lane.key(), &name, spec).await {
                let from = now();
                sleep(Duration::from_millis(lane.holds * 10)).await;
                let (lane, by, to) = (format!("{}/{primitive}", plural(lane.kind)), name.clone(), now());
                self.observer.ran(Run { lane, by, token: told.token, permits, reads, from, to, forfeit: None });
            }
            self.delete("Claim", &name).await;
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A Lease that is held for longer than its `ttl`, by renewals. Who cannot renew for that long stops at once when it is told.
    async fn renew_again_and_again(self: Arc<Self>) {
        const KEY: &str = "leases/renewed";
        self.create("Lease", "renewed", json!({})).await;
        loop {
            let name = self.name("renewed");
            let spec = json!({ "kind": "Lease", "name": "renewed", "ttl": "10s", "timeout": "20m" });
            if let Some(told) = self.granted(KEY, &name, spec).await {
                let (from, began) = (now(), Instant::now());
                let mut to = from;
                let mut renewals = 0;
                while began.elapsed() < Duration::from_secs(13) {
                    if self.claims.lock().unwrap().get(&name).is_none_or(|told| told.phase != "Granted") {
                        self.expired.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    to = now();
                    renewals += 1;
                    self.patch("Claim", &name, json!({ "spec": { "renewals": renewals } })).await;
                    sleep(Duration::from_secs(2)).await;
                }
                let (lane, by) = (KEY.to_owned(), name.clone());
                self.observer.ran(Run { lane, by, token: told.token, permits: 1, reads: false, from, to, forfeit: None });
            }
            self.delete("Claim", &name).await;
        }
    }

    /// A Mutex that is deleted, often while it is held, and made anew.
    async fn rebirths(self: Arc<Self>) {
        loop {
            sleep(Duration::from_secs(4)).await;
            let _alone = self.being_reborn.lock().await;
            let name = self.reborn();
            self.delete("Mutex", &name).await;
            let api = self.api("Mutex");
            insist(async || match api.get(&name).await {
                Ok(mutex) if mutex.metadata.deletion_timestamp.is_some() => Err(None),
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(Some(error)),
            })
            .await;
            self.create("Mutex", &name, json!({})).await;
        }
    }

    /// The name of that Mutex.
    fn reborn(&self) -> String {
        format!("reborn-{}", self.era.load(Ordering::Relaxed))
    }

    /// Nothing is made anew while this is kept.
    pub async fn no_rebirth(&self) -> MutexGuard<'_, ()> {
        self.being_reborn.lock().await
    }

    /// From now on that Mutex has another name: whoever sees every timestamp moved takes its first token from another time. Of the old name there may be
    /// tokens that are hours ahead, and konductor would not let it go before its time.
    pub async fn new_era(&self) {
        let next = self.era.load(Ordering::Relaxed) + 1;
        self.create("Mutex", &format!("reborn-{next}"), json!({})).await;
        self.era.store(next, Ordering::Relaxed);
    }

    // --- rounds -----------------------------------------------------------------------------------------------------------

    async fn rounds(self: Arc<Self>, kind: &'static str) {
        loop {
            let name = self.name(&kind.to_lowercase());
            match kind {
                "Barrier" => self.round(kind, &name, json!({ "expected": 2 }), &["Arrive", "Arrive"]).await,
                "WaitGroup" => self.round(kind, &name, json!({}), &["Add", "Done"]).await,
                "Gate" => self.round(kind, &name, json!({}), &["Open"]).await,
                _ => self.execution(&name).await,
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// One object, a Claim that waits for it, and Claims that take these steps, one after the other.
    async fn round(&self, kind: &str, name: &str, spec: Value, steps: &[&str]) {
        self.create(kind, name, spec).await;
        let key = format!("{}/rounds", plural(kind));
        let claims: Vec<String> = (0..=steps.len()).map(|step| format!("{name}-{step}")).collect();
        let ask = |operation: &str| json!({ "kind": kind, "name": name, "operation": operation, "timeout": "20m" });
        let stepping = async {
            for (claim, operation) in claims[1..].iter().zip(steps) {
                self.granted(&key, claim, ask(operation)).await;
            }
        };
        tokio::join!(self.granted(&key, &claims[0], ask("Wait")), stepping);
        for claim in &claims {
            self.delete("Claim", claim).await;
        }
        self.delete(kind, name).await;
    }

    /// A Once: the first fails, the second succeeds, the third is told that it was done.
    async fn execution(&self, once: &str) {
        self.create("Once", once, json!({})).await;
        let tries = AtomicUsize::new(0);
        let claims = ["a", "b", "c"].map(|claim| format!("{once}-{claim}"));
        tokio::join!(
            self.executes(once, &claims[0], &tries),
            self.executes(once, &claims[1], &tries),
            self.executes(once, &claims[2], &tries)
        );
        if tries.load(Ordering::Relaxed) != 2 {
            self.observer.broken("counted", format!("onces/{once} was executed {tries:?} times: a failure and a success are two"));
        }
        for claim in &claims {
            self.delete("Claim", claim).await;
        }
        self.delete("Once", once).await;
    }

    async fn executes(&self, once: &str, claim: &str, tries: &AtomicUsize) {
        const KEY: &str = "onces/rounds";
        self.create("Claim", claim, json!({ "kind": "Once", "name": once, "ttl": "5m", "timeout": "20m" })).await;
        let waiting = self.waiters.begin(KEY, claim);
        let told = self.told(claim, |told| !["", "Pending"].contains(&told.phase.as_str())).await;
        waiting.served();
        match (told.phase.as_str(), told.reason.as_str()) {
            ("Granted", _) => {
                let succeeds = tries.fetch_add(1, Ordering::Relaxed) > 0;
                let from = now();
                sleep(Duration::from_millis(100)).await;
                let (lane, by, to) = (format!("onces/{once}"), claim.to_owned(), now());
                self.observer.ran(Run { lane, by, token: told.token, permits: 1, reads: false, from, to, forfeit: None });
                self.patch("Claim", claim, json!({ "spec": { "succeeded": succeeds } })).await;
                let released = self.waiters.begin(KEY, claim);
                self.told(claim, |told| told.phase == "Released").await;
                released.served();
            }
            ("Denied", "Executed") => {}
            _ => self.observer.broken("told", format!("claims/{claim} of a Once was told {told:?}")),
        }
    }
}

/// Asks until the answer is good. An answer that does not come is asked for again.
pub async fn insist<E: Debug>(mut ask: impl AsyncFnMut() -> Result<(), E>) {
    while !matches!(timeout(ANSWER_WITHIN, ask()).await, Ok(Ok(()))) {
        sleep(Duration::from_millis(300)).await;
    }
}

//! konductor's own Pods, as these tests need them: who leads, when both serve, taking them away and bringing them back, and who applies all the time meanwhile.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::Pod,
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    https::{COORDINATOR, WEBHOOK, connect},
    scene::{SYSTEM, Scene},
};

/// Holds the Mutex that most of these tests are about.
pub const HOLDS: &str = "konductor.io/mutex: db";

/// The Pods of `konductor serve`.
pub async fn servers(scene: &Scene) -> Vec<Pod> {
    labelled(scene, "app.kubernetes.io/component=server").await
}

pub async fn leader(scene: &Scene) -> Option<Pod> {
    labelled(scene, "konductor.io/leader=true").await.pop()
}

async fn labelled(scene: &Scene, labels: &str) -> Vec<Pod> {
    Api::namespaced(scene.client.clone(), SYSTEM).list(&ListParams::default().labels(labels)).await.unwrap().items
}

/// Waits until both replicas serve, those before them are gone with their open sessions, somebody leads, and the Services lead there: after an outage of the
/// API server that is known to a Deployment long before.
pub async fn until_serving(scene: &Scene) {
    scene.run_in_system(&["rollout", "status", "deployment/konductor", "--timeout=180s"]);
    scene
        .until("two replicas are there, one leads, and the Services lead to them", async || {
            let there = servers(scene).await.len() == 2 && leader(scene).await.is_some();
            let endpoints = (endpoints(scene, WEBHOOK).await, endpoints(scene, COORDINATOR).await);
            there && endpoints == (2, 1) && connect(scene, WEBHOOK).await.is_ok() && connect(scene, COORDINATOR).await.is_ok()
        })
        .await;
}

/// How many Pods a Service leads to.
async fn endpoints(scene: &Scene, service: &str) -> usize {
    let slices = Api::<EndpointSlice>::namespaced(scene.client.clone(), SYSTEM);
    let slices = slices.list(&ListParams::default().labels(&format!("kubernetes.io/service-name={service}"))).await.unwrap();
    let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true);
    slices.items.into_iter().flat_map(|slice| slice.endpoints).filter(ready).count()
}

/// The processes of `konductor serve` in this Pod, found on the machine: the image has no shell to do it from inside.
pub fn processes(pod: &Pod) -> Vec<String> {
    let uid = pod.metadata.uid.as_deref().unwrap();
    let is_it = |pid: &String| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cgroup").replace('_', "-").contains(uid) && read("cmdline").contains("serve")
    };
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|name| name.bytes().all(|c| c.is_ascii_digit())).filter(is_it).collect()
}

pub fn signal(pod: &Pod, signal: &str) {
    let processes = processes(pod);
    assert!(!processes.is_empty(), "the tests run on the machine of the cluster, as root");
    let sent = Command::new("kill").arg(signal).args(&processes).status().unwrap();
    assert!(sent.success());
}

/// How often the containers of konductor have been started anew.
pub async fn restarts(scene: &Scene) -> i32 {
    let statuses = servers(scene).await.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
    statuses.map(|status| status.restart_count).sum()
}

/// konductor is taken away; it is back when this is dropped, so that other tests find it.
pub struct Away<'a>(&'a Scene);

impl<'a> Away<'a> {
    pub async fn take(scene: &'a Scene) -> Self {
        scene.run_in_system(&["scale", "deployment/konductor", "--replicas=0"]);
        let away = Self(scene);
        scene.until("konductor is gone", async || servers(scene).await.is_empty()).await;
        away
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.kubectl(&["-n", SYSTEM, "scale", "deployment/konductor", "--replicas=2"], None);
        self.0.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/konductor", "--timeout=180s"], None);
    }
}

/// Somebody who creates annotated Pods all the time. They go through all of admission, but none is stored, so that this can be done at a high rate.
pub struct Applying {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Applying {
    pub fn start(scene: &Scene) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (pods, stopped) = (scene.pods(), stop.clone());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "never-stored", "annotations": {"konductor.io/mutex": "db"}},
            "spec": {"containers": [{"name": "app", "image": "konductor.local/busybox:1"}]},
        }))
        .unwrap();
        let task = tokio::spawn(async move {
            let (mut created, mut failed) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                match pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await {
                    Ok(pod) if pod.spec.as_ref().unwrap().init_containers.iter().flatten().any(|c| c.name == "konductor-acquire") => {
                        created += 1
                    }
                    Ok(_) => failed.push("a Pod was let in without its acquire step".to_owned()),
                    Err(error) => failed.push(format!("after {:?}: {error}", began.elapsed())),
                }
                sleep(Duration::from_millis(20)).await;
            }
            (created, failed)
        });
        Self { stop, task }
    }

    /// Ends it; every request must have succeeded, and there must have been many.
    pub async fn must_have_succeeded(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (created, failed) = self.task.await.unwrap();
        assert!(failed.is_empty(), "{} of {} requests failed: {failed:#?}", failed.len(), created + failed.len());
        assert!(created > 100, "{created} requests are too few to prove anything");
    }
}

/// This many Pods that wait in line; returns their names, first come first.
pub async fn line_up(scene: &Scene, annotations: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("waiter-{n}")).collect();
    scene.line_up(&names.iter().map(|name| (name.as_str(), annotations)).collect::<Vec<_>>()).await;
    names
}

/// Whether these ran one after the other, in this order.
pub fn must_have_run_in_order(scene: &Scene, names: &[String]) {
    let ran: Vec<(f64, f64)> = names.iter().map(|name| scene.ran(name).unwrap_or_else(|| panic!("{name} never ran"))).collect();
    for (pair, name) in ran.windows(2).zip(&names[1..]) {
        assert!(pair[0].1 < pair[1].0, "{name} ran before its time: {:?}", names.iter().zip(&ran).collect::<Vec<_>>());
    }
}

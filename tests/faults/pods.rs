//! The load of Pods and Jobs. Each writes the time, its token and its name into a file on the node, when it begins, ten times a second, and when it ends.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    cluster::until,
    history::Run,
    load::{Load, insist},
};

/// The node on which everybody runs who is not there to be lost.
pub const HOME: &str = "node-1";
/// How long an app runs, in tenths of a second.
const RUNS: u32 = 8;

/// A lane of Pods or Jobs.
#[derive(Clone, Copy)]
pub struct PodLane {
    pub key: &'static str,
    annotation: &'static str,
    job: bool,
    workers: usize,
}

pub const LANES: [PodLane; 4] = [
    PodLane { key: "mutexes/pods", annotation: "konductor.io/mutex", job: false, workers: 2 },
    PodLane { key: "semaphores/jobs-2", annotation: "konductor.io/semaphore", job: true, workers: 3 },
    PodLane { key: "rwmutexes/gated", annotation: "konductor.io/rwmutex", job: false, workers: 1 },
    PodLane { key: "leases/nightly", annotation: "konductor.io/lease", job: true, workers: 1 },
];
/// The Mutex of those that are deleted by force, cut off, or lose their node.
pub const VICTIMS: &str = "mutexes/victims";
/// For how many seconds its holders may be out of reach.
pub const VICTIMS_TTL: u32 = 15;

pub struct Pods {
    load: Arc<Load>,
    folder: PathBuf,
    number: AtomicU64,
    /// Runs by Pod, as far as they are written; and how far each file was read.
    runs: Mutex<HashMap<String, Run>>,
    /// Pods that have begun, also those that have ended since.
    began: Mutex<BTreeSet<String>>,
    read: Mutex<HashMap<PathBuf, u64>>,
    forfeit: Mutex<HashMap<String, f64>>,
}

impl Pods {
    pub fn new(load: Arc<Load>, folder: &Path) -> Arc<Self> {
        let (runs, began, read, forfeit) = (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { load, folder: folder.to_owned(), number: AtomicU64::new(0), runs, began, read, forfeit })
    }

    /// Makes the primitives, and keeps everybody at work for ever.
    pub async fn work(self: Arc<Self>) {
        for (kind, name, spec) in [
            ("Mutex", "pods", json!({})),
            ("Semaphore", "jobs-2", json!({ "permits": 2 })),
            ("RWMutex", "gated", json!({})),
            ("Lease", "nightly", json!({})),
            ("Mutex", "victims", json!({ "ttl": format!("{VICTIMS_TTL}s") })),
        ] {
            self.load.create(kind, name, spec).await;
        }
        let mut tasks = Vec::new();
        for lane in LANES {
            for _ in 0..lane.workers {
                let pods = self.clone();
                tasks.push(tokio::task::spawn_local(async move {
                    loop {
                        let name = pods.start(lane.key, lane.annotation, lane.job, HOME, RUNS).await;
                        pods.until_run(lane.key, &name).await;
                        pods.delete(lane.job, &name).await;
                    }
                }));
            }
        }
        loop {
            self.look();
            sleep(Duration::from_millis(100)).await;
        }
    }

    // --- Pods and Jobs ----------------------------------------------------------------------------------------------------

    /// Makes a Pod or a Job that runs for this many tenths of a second once it holds; gives its name.
    pub async fn start(&self, key: &str, annotation: &str, job: bool, node: &str, tenths: u32) -> String {
        let (plural, lane) = key.split_once('/').expect("a lane has a plural and a name");
        let name = format!("{lane}-{}", self.number.fetch_add(1, Ordering::Relaxed));
        let keys = if plural == "rwmutexes" { ";mode=write;strategy=gate;fencing=true" } else { ";fencing=true" };
        let metadata = json!({ "name": name, "annotations": { annotation: format!("{lane}{keys}") } });
        let script = format!(
            "file=/beats/{plural}.{lane}; say() {{ read now idle < /proc/uptime; echo \"$1 $now $KONDUCTOR_FENCING_TOKEN $HOSTNAME\" >> $file; }}
             say began; left={tenths}; while [ $left -gt 0 ]; do usleep 100000; say beats; left=$(( left - 1 )); done; say ended"
        );
        let spec = json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "nodeSelector": { "kubernetes.io/hostname": node },
            "containers": [{
                "name": "app", "image": "konductor.local/busybox:1", "command": ["sh", "-c", script],
                "volumeMounts": [{ "name": "beats", "mountPath": "/beats" }],
            }],
            "volumes": [{ "name": "beats", "hostPath": { "path": self.folder } }],
        });
        let (resource, object) = if job {
            let spec = json!({ "backoffLimit": 0, "template": { "spec": spec } });
            (resource("batch", "Job"), json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec }))
        } else {
            (resource("", "Pod"), json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }))
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.load.client.clone(), &self.load.namespace, &resource);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let mut unlocked = false;
        insist(async || match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Ok(made) => {
                unlocked = !job && !has_acquire_step(&made.data);
                Ok(())
            }
            Err(error) => Err(error),
        })
        .await;
        if unlocked {
            self.load.observer.broken("unlocked", format!("pods/{name} was let in without its acquire step"));
        }
        name
    }

    /// Waits until it runs; it is one who waits until then. And then until it has ended.
    async fn until_run(&self, key: &str, name: &str) {
        self.until_began(key, name).await;
        while self.runs_now(name) {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until it runs.
    pub async fn until_began(&self, key: &str, name: &str) {
        let waiting = self.load.waiters.begin(key, name);
        while !self.has_begun(name) {
            sleep(Duration::from_millis(50)).await;
        }
        waiting.served();
    }

    pub async fn delete(&self, job: bool, name: &str) {
        let (client, namespace) = (self.load.client.clone(), &self.load.namespace);
        let resource = if job { resource("batch", "Job") } else { resource("", "Pod") };
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
        insist(async || match api.delete(name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(|_| ()),
        })
        .await;
    }

    /// Deletes a Pod by force: the API server forgets it at once.
    pub async fn force_delete(&self, name: &str) {
        let api: Api<Pod> = Api::namespaced(self.load.client.clone(), &self.load.namespace);
        insist(async || match api.delete(name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(|_| ()),
        })
        .await;
    }

    pub async fn exists(&self, name: &str) -> bool {
        let api: Api<Pod> = Api::namespaced(self.load.client.clone(), &self.load.namespace);
        !matches!(api.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await, Ok(list) if list.items.is_empty())
    }

    /// Waits until Kubernetes has run a Job on this node that konductor has nothing to do with.
    pub async fn until_plain_job_runs(&self, node: &str) {
        let name = format!("plain-{}", self.number.fetch_add(1, Ordering::Relaxed));
        let app = json!({ "name": "app", "image": "konductor.local/busybox:1", "command": ["true"] });
        let spec = json!({ "restartPolicy": "Never", "nodeSelector": { "kubernetes.io/hostname": node }, "containers": [app] });
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "backoffLimit": 100, "template": { "spec": spec } },
        });
        let job: Job = serde_json::from_value(job).expect("a Job");
        let api: Api<Job> = Api::namespaced(self.load.client.clone(), &self.load.namespace);
        insist(async || match api.create(&PostParams::default(), &job).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            answer => answer.map(|_| ()),
        })
        .await;
        until(&format!("Kubernetes runs a plain Job on {node}"), async || api.get(&name).await.ok()?.status?.succeeded).await;
        self.delete(true, &name).await;
    }

    // --- what really ran --------------------------------------------------------------------------------------------------

    /// From this moment on the hold of this Pod may be given to the next, whether it still runs or not.
    pub fn forfeits(&self, pod: &str, from: f64) {
        self.forfeit.lock().unwrap().insert(pod.to_owned(), from);
    }

    /// Whether this Pod, or a Pod of this Job, has begun.
    fn has_begun(&self, name: &str) -> bool {
        let of_job = format!("{name}-");
        let began = self.began.lock().unwrap();
        began.contains(name) || began.range(of_job.clone()..).next().is_some_and(|next| next.starts_with(&of_job))
    }

    /// Whether this Pod, or a Pod of this Job, has begun and not ended.
    fn runs_now(&self, name: &str) -> bool {
        let runs = self.runs.lock().unwrap();
        runs.keys().any(|pod| pod.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
    }

    /// The last time that this Pod wrote something, if it runs.
    pub fn last_beat(&self, pod: &str) -> Option<f64> {
        self.runs.lock().unwrap().get(pod).map(|run| run.to)
    }

    /// The run of this Pod is over, though it could not say so.
    pub fn ended(&self, pod: &str) {
        self.look();
        if let Some(run) = self.runs.lock().unwrap().remove(pod) {
            self.over(run);
        }
    }

    /// All that still run are noted with what they have said so far.
    pub fn all_ended(&self) {
        self.look();
        for (_, run) in self.runs.lock().unwrap().drain() {
            self.over(run);
        }
    }

    fn over(&self, mut run: Run) {
        run.forfeit = self.forfeit.lock().unwrap().get(&run.by).copied();
        self.load.observer.ran(run);
    }

    /// Reads what was written since the last look.
    fn look(&self) {
        let files = fs::read_dir(&self.folder).expect("the folder of the Pods").filter_map(|entry| Some(entry.ok()?.path()));
        for path in files {
            let from = self.read.lock().unwrap().get(&path).copied().unwrap_or(0);
            let mut text = Vec::new();
            let mut file = fs::File::open(&path).expect("what the Pods wrote");
            file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut text)).expect("what the Pods wrote");
            // A line that is being written is read the next time.
            text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
            let new = String::from_utf8_lossy(&text).into_owned();
            self.read.lock().unwrap().insert(path.clone(), from + text.len() as u64);
            let lane = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().replacen('.', "/", 1);
            new.lines().for_each(|line| self.said(&lane, line));
        }
    }

    fn said(&self, lane: &str, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, at, token, pod] = words[..] else {
            return self.load.observer.broken("load", format!("{lane}: what does this say? {line}"));
        };
        let (at, token) = (at.parse().unwrap_or(0.0), token.parse().unwrap_or(0));
        self.began.lock().unwrap().insert(pod.to_owned());
        let mut runs = self.runs.lock().unwrap();
        let run = runs.entry(pod.to_owned()).or_insert_with(|| Run {
            lane: lane.to_owned(),
            by: pod.to_owned(),
            token,
            permits: 1,
            reads: false,
            from: at,
            to: at,
            forfeit: None,
        });
        run.to = at;
        if what == "ended"
            && let Some(run) = runs.remove(pod)
        {
            drop(runs);
            self.over(run);
        }
    }
}

fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

fn has_acquire_step(pod: &Value) -> bool {
    pod["spec"]["initContainers"].as_array().into_iter().flatten().any(|container| container["name"] == "konductor-acquire")
}

//! A scene: a namespace of its own for one test, what people do in it (`kubectl`), and what really ran in it.
//!
//! Nothing here trusts konductor's word for who ran when. Workloads made by [`Scene::app`] write a line every few hundredths of a second into a
//! folder of the node, stamped with the machine's monotonic clock; the test reads that folder.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, Pod, ServiceAccount},
};
use konductor::api::{Mutex, Semaphore};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::app::{self, App, Run};

/// After this long a condition that should come true by itself is taken for one that never will.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Ages have whole seconds, and two of the same age have no order: whoever is to be younger comes this much later.
pub const ONE_AGE: Duration = Duration::from_secs(1);

/// Scenes that this process has opened.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Tests that break konductor itself, or a node, are alone in the cluster; all others share it.
static CLUSTER: RwLock<()> = RwLock::const_new(());

/// A test's part in the cluster, kept as long as its scene.
#[expect(dead_code, reason = "held, never read")]
enum Share {
    Shared(RwLockReadGuard<'static, ()>),
    Whole(RwLockWriteGuard<'static, ()>),
}

/// Where konductor itself runs.
pub const SYSTEM: &str = "konductor-system";

pub struct Scene {
    pub client: Client,
    pub namespace: String,
    beats: PathBuf,
    share: Arc<Share>,
}

impl Scene {
    /// Opens an empty namespace whose name begins with that of the test.
    pub async fn open(test: &str) -> Self {
        Self::open_with_labels(test, &[]).await
    }

    pub async fn open_with_labels(test: &str, labels: &[(&str, &str)]) -> Self {
        Self::open_in(Arc::new(Share::Shared(CLUSTER.read().await)), test, labels).await
    }

    /// The same for a test that breaks what the others rely on: no other test of this process runs beside it.
    pub async fn open_alone(test: &str) -> Self {
        Self::open_in(Arc::new(Share::Whole(CLUSTER.write().await)), test, &[]).await
    }

    /// Opens one more namespace for the same test, with the part that it has: asking for another one would wait behind whoever waits for this test to end.
    pub async fn open_beside(&self, test: &str) -> Self {
        Self::open_in(self.share.clone(), test, &[]).await
    }

    async fn open_in(share: Arc<Share>, test: &str, labels: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster with konductor (make cluster)");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() % 100_000;
        let namespace = format!("e2e-{}-{unique}-{count}", test.replace('_', "-").chars().take(40).collect::<String>());
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace.clone());
        object.metadata.labels = Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace for the test");
        let beats = std::env::temp_dir().join("konductor-e2e").join(&namespace);
        fs::create_dir_all(&beats).unwrap();
        fs::set_permissions(&beats, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let scene = Self { client, namespace, beats, share };
        // Without it no Pod is let in.
        let accounts = Api::<ServiceAccount>::namespaced(scene.client.clone(), &scene.namespace);
        scene.until("the namespace has its service account", async || accounts.get_opt("default").await.unwrap().is_some()).await;
        scene
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn mutexes(&self) -> Api<Mutex> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn semaphores(&self) -> Api<Semaphore> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Runs kubectl in the scene's namespace.
    pub fn kubectl(&self, arguments: &[&str], input: Option<&str>) -> Output {
        self.start_kubectl(arguments, input).wait_with_output().unwrap()
    }

    /// Starts kubectl in the scene's namespace.
    pub fn start_kubectl(&self, arguments: &[&str], input: Option<&str>) -> Child {
        let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut child = Command::new(kubectl)
            .args(["-n", &self.namespace])
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        if let Some(input) = input {
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        }
        child
    }

    /// Runs kubectl, which must succeed; gives what it prints.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments, None);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs kubectl in konductor's own namespace; it must succeed.
    pub fn run_in_system(&self, arguments: &[&str]) -> String {
        self.run(&[&["-n", SYSTEM], arguments].concat())
    }

    /// Runs kubectl, which must be refused; gives the words.
    pub fn run_refused(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments, None);
        assert!(!output.status.success(), "was accepted: kubectl {arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// `kubectl apply`, which must succeed; gives what it prints, warnings included.
    pub fn apply(&self, yaml: &str) -> String {
        let output = self.kubectl(&["apply", "-f", "-"], Some(yaml));
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl apply:\n{said}\n{yaml}");
        said
    }

    /// `kubectl apply`, which must be refused; gives the words.
    pub fn refused(&self, yaml: &str) -> String {
        let output = self.kubectl(&["apply", "-f", "-"], Some(yaml));
        assert!(!output.status.success(), "was accepted:\n{yaml}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn create_mutex(&self, name: &str) {
        self.apply(&format!("apiVersion: konductor.io/v1\nkind: Mutex\nmetadata: {{name: {name}}}\n"));
    }

    /// An app that beats; see [`App`].
    pub fn app(&self, name: &str) -> App {
        App::new(name, &self.beats)
    }

    pub fn create_semaphore(&self, name: &str, permits: u32) {
        self.apply(&format!("apiVersion: konductor.io/v1\nkind: Semaphore\nmetadata: {{name: {name}}}\nspec: {{permits: {permits}}}\n"));
    }

    /// Makes a workload that beats end now, on its own, and each later run of it.
    pub fn tell_to_end(&self, name: &str) {
        self.end(name, "");
    }

    /// Makes the present run of a workload that beats end now with this exit code, or by eating all its memory (`oom`).
    pub fn end(&self, name: &str, code: &str) {
        let written = self.beats.join(format!("{name}.written"));
        fs::write(&written, format!("{code}\n")).unwrap();
        fs::rename(written, self.beats.join(format!("{name}.end"))).unwrap();
    }

    /// All beats of a workload, in seconds of the machine's monotonic clock.
    pub fn beats(&self, name: &str) -> Vec<f64> {
        app::parse(&self.written(name)).iter().map(|beat| beat.at).collect()
    }

    /// Each start of a workload's container, first started first.
    pub fn runs(&self, name: &str) -> Vec<Run> {
        app::runs(&app::parse(&self.written(name)))
    }

    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.beats.join(name)).unwrap_or_default()
    }

    /// When a workload ran: first and last beat.
    pub fn ran(&self, name: &str) -> Option<(f64, f64)> {
        let beats = self.beats(name);
        Some((*beats.first()?, *beats.last()?))
    }

    /// The largest number of these workloads that beat at the same time.
    pub fn most_at_once(&self, names: &[String]) -> usize {
        let mut edges: Vec<(f64, i32)> =
            names.iter().filter_map(|name| self.ran(name)).flat_map(|(from, to)| [(from, 1), (to, -1)]).collect();
        // Of edges at the same time the ends come first: a beat is a point, not an overlap.
        edges.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let (mut now, mut most) = (0, 0);
        for (_, step) in edges {
            now += step;
            most = most.max(now);
        }
        usize::try_from(most).unwrap()
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, mut so: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !so().await {
            assert!(began.elapsed() < PATIENCE, "never came true: {what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub async fn until_beating(&self, name: &str) {
        self.until(&format!("{name} runs"), async || !self.beats(name).is_empty()).await;
    }

    /// Waits until a workload has gone on beating for some two seconds more.
    pub async fn until_beats_on(&self, name: &str) {
        let before = self.beats(name).len();
        self.until(&format!("{name} beats on"), async || self.beats(name).len() > before + 35).await;
    }

    /// Waits until the acquire step of a Pod runs.
    pub async fn until_waiting(&self, pod: &str) {
        self.until(&format!("{pod} waits"), async || self.is_waiting(pod).await).await;
    }

    /// Pods that wait in line, named and annotated like this: each begins to wait after the one before, and is younger.
    pub async fn line_up(&self, waiting: &[(&str, &str)]) {
        for (name, annotations) in waiting {
            self.apply(&self.app(name).seconds(1).as_pod(annotations));
            tokio::join!(tokio::time::sleep(ONE_AGE), self.until_waiting(name));
        }
    }

    /// Waits until a Pod has ended well.
    pub async fn until_succeeded(&self, pod: &str) {
        self.until(&format!("{pod} succeeds"), async || self.phase(pod).await.as_deref() == Some("Succeeded")).await;
    }

    pub async fn phase(&self, pod: &str) -> Option<String> {
        self.pods().get_opt(pod).await.unwrap()?.status?.phase
    }

    pub async fn until_jobs_complete(&self, count: usize) {
        self.until(&format!("{count} Jobs are complete"), async || self.jobs_with("Complete").await == count).await;
    }

    pub async fn jobs_with(&self, condition: &str) -> usize {
        let jobs = self.jobs().list(&ListParams::default()).await.unwrap();
        let has = |job: &Job| {
            let conditions = job.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|found| found.type_ == condition && found.status == "True")
        };
        jobs.items.iter().filter(|job| has(job)).count()
    }

    /// The names of a Mutex's holders.
    pub async fn mutex_holders(&self, name: &str) -> Vec<String> {
        let mutex = self.mutexes().get_opt(name).await.unwrap();
        let holders = mutex.and_then(|mutex| mutex.status).map(|status| status.common.holders).unwrap_or_default();
        holders.into_iter().map(|holder| holder.name).collect()
    }

    pub async fn until_mutex_held_by(&self, name: &str, holder: &str) {
        self.until(&format!("mutex/{name} is held by {holder}"), async || self.mutex_holders(name).await == [holder]).await;
    }

    pub async fn until_mutex_free(&self, name: &str) {
        self.until(&format!("mutex/{name} is free"), async || self.mutex_holders(name).await.is_empty()).await;
    }

    pub async fn mutex_token(&self, name: &str) -> i64 {
        self.mutexes().get(name).await.unwrap().status.map_or(0, |status| status.common.last_token)
    }

    /// Whether the acquire step of a Pod runs.
    pub async fn is_waiting(&self, pod: &str) -> bool {
        let pod = self.pods().get_opt(pod).await.unwrap();
        pod.is_some_and(|pod| konductor::rules::evidence::acquire_step(&pod) == konductor::rules::evidence::AcquireStep::Running)
    }

    /// Events about an object, as `reason: note`.
    pub fn events(&self, about: &str) -> Vec<String> {
        let format = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        let selector = format!("involvedObject.name={about}");
        self.run(&["get", "events", "--field-selector", &selector, "-o", format]).lines().map(str::to_owned).collect()
    }

    /// Waits until an Event about an object begins like this. Events follow what they tell, and burst by burst.
    pub async fn until_told(&self, about: &str, start: &str) {
        self.until(&format!("an Event tells {start} about {about}"), async || {
            self.events(about).iter().any(|event| event.starts_with(start))
        })
        .await;
    }

    /// What a person would look at when this test failed.
    fn explain(&self) {
        for arguments in [
            &["get", "konductor,jobs,pods", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["get", "konductor", "-o", "yaml"],
            &["describe", "pods"],
        ] {
            let output = self.kubectl(arguments, None);
            eprintln!(
                "--- kubectl {}\n{}{}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let pods = self.kubectl(&["get", "pods", "-o", "name"], None);
        for pod in String::from_utf8_lossy(&pods.stdout).lines() {
            let logs = self.kubectl(&["logs", pod, "--all-containers", "--prefix", "--tail=30"], None);
            eprintln!("--- logs of {pod}\n{}", String::from_utf8_lossy(&logs.stdout));
        }
        let server = self.kubectl(&["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=konductor", "--prefix", "--tail=60"], None);
        eprintln!("--- konductor\n{}", String::from_utf8_lossy(&server.stdout));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.explain();
        }
        self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"], None);
        let _ = fs::remove_dir_all(&self.beats);
    }
}

/// When the app of each Pod in the namespace ran, by the Pod's name: from the first start to the last end of its containers, as the kubelet reported them
/// (whole seconds). Pods of which none has ended are left out.
pub async fn kubelet_times(pods: &Api<Pod>) -> BTreeMap<String, (i64, i64)> {
    let mut times: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        for end in statuses.into_iter().filter_map(|status| status.state.and_then(|state| state.terminated)) {
            if let (Some(from), Some(to)) = (end.started_at, end.finished_at) {
                let (from, to) = (from.0.as_second(), to.0.as_second());
                let app = times.entry(pod.metadata.name.clone().unwrap()).or_insert((from, to));
                *app = (app.0.min(from), app.1.max(to));
            }
        }
    }
    times
}

pub fn delete_now() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }
}

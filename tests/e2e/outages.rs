//! konductor itself fails, goes away, or changes under load: nobody runs who should not, nobody is forgotten, and what is none of its business goes on.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    https,
    nodes::{cluster, must_be_ours},
    scene::{SYSTEM, Scene},
};

const HOLDS: &str = "konductor.io/mutex: db";

fn servers(scene: &Scene) -> Api<Pod> {
    Api::namespaced(scene.client.clone(), SYSTEM)
}

async fn leader(scene: &Scene) -> Option<Pod> {
    servers(scene).list(&ListParams::default().labels("konductor.io/leader=true")).await.unwrap().items.pop()
}

fn all_servers() -> ListParams {
    ListParams::default().labels("app.kubernetes.io/component=server")
}

/// Waits until both replicas serve, those before them are gone with their open sessions, and somebody leads.
pub async fn until_serving(scene: &Scene) {
    scene.run_in_system(&["rollout", "status", "deployment/konductor", "--timeout=180s"]);
    scene
        .until("two replicas are there, and one leads", async || {
            servers(scene).list(&all_servers()).await.unwrap().items.len() == 2 && leader(scene).await.is_some()
        })
        .await;
}

/// The processes of `konductor serve` in this Pod, found on the machine: the image has no shell to do it from inside.
fn processes(pod: &Pod) -> Vec<String> {
    let uid = pod.metadata.uid.as_deref().unwrap();
    let is_it = |pid: &String| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cgroup").replace('_', "-").contains(uid) && read("cmdline").contains("serve")
    };
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|name| name.bytes().all(|c| c.is_ascii_digit())).filter(is_it).collect()
}

fn signal(pod: &Pod, signal: &str) {
    let processes = processes(pod);
    assert!(!processes.is_empty(), "the tests run on the machine of the cluster, as root");
    let sent = Command::new("kill").arg(signal).args(&processes).status().unwrap();
    assert!(sent.success());
}

/// How often the containers of konductor have been started anew.
async fn restarts(scene: &Scene) -> i32 {
    let pods = servers(scene).list(&all_servers()).await.unwrap();
    let statuses = pods.items.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
    statuses.map(|status| status.restart_count).sum()
}

/// konductor is taken away; it is back when this is dropped, so that other tests find it.
pub struct Away<'a>(&'a Scene);

impl<'a> Away<'a> {
    pub async fn take(scene: &'a Scene) -> Self {
        scene.run_in_system(&["scale", "deployment/konductor", "--replicas=0"]);
        let away = Self(scene);
        scene.until("konductor is gone", async || servers(scene).list(&all_servers()).await.unwrap().items.is_empty()).await;
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
struct Applying {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Applying {
    fn start(scene: &Scene) -> Self {
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
    async fn must_have_succeeded(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (created, failed) = self.task.await.unwrap();
        assert!(failed.is_empty(), "{} of {} requests failed: {failed:#?}", failed.len(), created + failed.len());
        assert!(created > 100, "{created} requests are too few to prove anything");
    }
}

/// This many Pods that wait in line; returns their names, first come first.
async fn line_up(scene: &Scene, annotations: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("waiter-{n}")).collect();
    scene.line_up(&names.iter().map(|name| (name.as_str(), annotations)).collect::<Vec<_>>()).await;
    names
}

/// Whether these ran one after the other, in this order.
fn must_have_run_in_order(scene: &Scene, names: &[String]) {
    let ran: Vec<(f64, f64)> = names.iter().map(|name| scene.ran(name).unwrap_or_else(|| panic!("{name} never ran"))).collect();
    for (pair, name) in ran.windows(2).zip(&names[1..]) {
        assert!(pair[0].1 < pair[1].0, "{name} ran before its time: {:?}", names.iter().zip(&ran).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_no_hold_and_no_place_in_line() {
    let scene = Scene::open_alone("killed_leader").await;
    until_serving(&scene).await;
    scene.create_semaphore("slots", 2);
    let holds = "konductor.io/semaphore: slots";
    for name in ["stays", "ends"] {
        scene.apply(&scene.app(name).as_pod(holds));
        scene.until_beating(name).await;
    }
    let line = line_up(&scene, holds, 10).await;

    let restarted = restarts(&scene).await;
    signal(&leader(&scene).await.unwrap(), "-9");
    // The end comes while nobody leads. One permit then goes through the line, so that its order shows.
    scene.tell_to_end("ends");
    for name in &line {
        scene.until_succeeded(name).await;
    }
    assert!(restarts(&scene).await > restarted, "it was killed");
    must_have_run_in_order(&scene, &[&["ends".to_owned()], line.as_slice()].concat());
    scene.tell_to_end("stays");
    for name in ["stays", "ends"] {
        scene.until_succeeded(name).await;
    }
    let everybody = [&["stays".to_owned(), "ends".to_owned()], line.as_slice()].concat();
    assert_eq!(scene.most_at_once(&everybody), 2);
    scene.until("all permits are back", async || scene.semaphores().get("slots").await.unwrap().status.unwrap().in_use == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_for_a_while_grants_nothing_twice() {
    let scene = Scene::open_alone("paused_leader").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    let line = line_up(&scene, HOLDS, 4).await;

    let first = leader(&scene).await.unwrap();
    signal(&first, "-STOP");
    scene
        .until("the other replica leads", async || leader(&scene).await.is_some_and(|leader| leader.metadata.name != first.metadata.name))
        .await;
    scene.tell_to_end("holder");
    scene.until_beating("waiter-0").await;
    // It wakes up in the belief that it leads, unless its kubelet has lost patience before.
    let woken = processes(&first);
    let _ = Command::new("kill").arg("-CONT").args(&woken).status();
    for name in &line {
        scene.until_succeeded(name).await;
    }
    must_have_run_in_order(&scene, &[&["holder".to_owned()], line.as_slice()].concat());
    until_serving(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_konductor_the_rest_of_the_cluster_goes_on() {
    let scene = Scene::open_alone("away").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.create_mutex("jobs");
    scene.create_semaphore("many", 5);
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("waiter").seconds(1).as_pod(HOLDS));
    scene.until_waiting("waiter").await;
    scene.apply(&scene.app("lasting").as_job("konductor.io/mutex: jobs"));
    scene.apply(&scene.app("passing").job_field("ttlSecondsAfterFinished", json!(1)).as_job("konductor.io/semaphore: many"));
    scene.apply(&scene.app("lean").as_job("konductor.io/semaphore: 'many;release=controller'"));
    for name in ["lasting", "passing", "lean"] {
        scene.until_beating(name).await;
    }
    // Another namespace, with a Mutex that was held once.
    let other = format!("{}-other", scene.namespace);
    scene.run(&["create", "namespace", &other]);
    let mutex = "{apiVersion: konductor.io/v1, kind: Mutex, metadata: {name: used}}";
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: past, annotations: {konductor.io/mutex: used}}, spec: {restartPolicy: Never, \
               containers: [{name: app, image: 'konductor.local/busybox:1', command: ['true']}]}}";
    let output = scene.kubectl(&["-n", &other, "apply", "-f", "-"], Some(&format!("{mutex}\n---\n{pod}\n")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene
        .until("the Mutex was held and is free to go", async || {
            let fields = "jsonpath={.status.lastToken}/{.status.holders}/{.metadata.finalizers}";
            let state = scene.run(&["-n", &other, "get", "mutex", "used", "-o", fields]);
            let mut parts = state.split('/');
            parts.next().is_some_and(|token| token.len() > 1) && parts.all(|part| part.is_empty() || part == "[]")
        })
        .await;

    let away = Away::take(&scene).await;
    let tokens = (scene.mutex_token("db").await, scene.mutex_token("jobs").await);
    // Whoever has no annotations does not notice, nor whoever switched konductor off.
    scene.apply(&scene.app("plain").seconds(1).as_pod(""));
    scene.apply(&scene.app("switched-off").seconds(1).as_pod(&format!("{HOLDS}, konductor.io/inject: 'false'")));
    scene.apply(&scene.app("plain-job").seconds(1).as_job(""));
    scene.until_succeeded("plain").await;
    scene.until_succeeded("switched-off").await;
    // Whoever has some is refused, and told by whom.
    for (name, file) in [("pod", scene.app("late").seconds(1).as_pod(HOLDS)), ("job", scene.app("late").seconds(1).as_job(HOLDS))] {
        let said = scene.refused(&file);
        assert!(said.contains("konductor.io") && said.contains("konductor-webhook"), "{name}: {said}");
    }
    // Those who hold finish as ever.
    for name in ["holder", "lasting", "passing", "lean"] {
        scene.tell_to_end(name);
    }
    scene.until_succeeded("holder").await;
    for job in ["job/lasting", "job/lean"] {
        scene.run(&["wait", "--for=condition=Complete", job, "--timeout=120s"]);
    }
    scene.until("the Job with a time to live is gone", async || scene.jobs().get_opt("passing").await.unwrap().is_none()).await;
    scene.run(&["delete", "job", "lean", "--wait", "--timeout=60s"]);
    scene.run(&["delete", "namespace", &other, "--wait=false"]);
    let namespaces = Api::<Namespace>::all(scene.client.clone());
    scene.until("the other namespace is gone", async || namespaces.get_opt(&other).await.unwrap().is_none()).await;
    // Nothing expired, and nobody was let in.
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
    assert_eq!(scene.mutex_holders("jobs").await, ["lasting"]);
    assert!(scene.beats("waiter").is_empty());

    drop(away);
    scene.until_succeeded("waiter").await;
    scene.until_mutex_free("db").await;
    scene.until_mutex_free("jobs").await;
    scene.until("all permits are back", async || scene.semaphores().get("many").await.unwrap().status.unwrap().in_use == 0).await;
    assert!(scene.most_at_once(&["holder".into(), "waiter".into()]) <= 1);
    assert_eq!(
        (scene.mutex_token("db").await, scene.mutex_token("jobs").await),
        (tokens.0 + 1, tokens.1),
        "one more hold of db, and no other"
    );
}

/// Waits until every new connection to both Services is served with what the Secret has, and it is not this one.
async fn until_served_anew(scene: &Scene, old: &[u8]) {
    for service in ["konductor-webhook", "konductor-coordinator"] {
        let what = format!("{service} serves a new certificate");
        scene
            .until(&what, async || {
                let Some(secret) = https::certificates(scene).await else { return false };
                let new = https::leaf(&secret);
                // Several connections, so that every replica gets its turn.
                let mut so = !new.is_empty() && new != old;
                for _ in 0..8 {
                    so = so && https::presented(scene, service).await.is_ok_and(|presented| presented == new);
                }
                so
            })
            .await;
    }
}

async fn certificate(scene: &Scene) -> Vec<u8> {
    https::leaf(&https::certificates(scene).await.expect("konductor has its Secret"))
}

/// What must hold whenever certificates change: nobody's request fails, who waits goes on waiting and gets its turn, also over a new connection.
async fn changing_certificates_disturbs_nobody(scene: &Scene, change: impl FnOnce()) {
    until_serving(scene).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("waiter").seconds(1).as_pod(HOLDS));
    scene.until_waiting("waiter").await;
    let applying = Applying::start(scene);
    let old = certificate(scene).await;
    change();
    until_served_anew(scene, &old).await;
    // The agent in `waiter` was born with the earlier CA: it must come back to whoever leads now.
    scene.run_in_system(&["rollout", "restart", "deployment/konductor"]);
    until_serving(scene).await;
    scene.apply(&scene.app("younger").seconds(1).as_pod(HOLDS));
    scene.until_waiting("younger").await;
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
    scene.tell_to_end("holder");
    scene.until_succeeded("waiter").await;
    scene.until_succeeded("younger").await;
    applying.must_have_succeeded().await;
    must_have_run_in_order(scene, &["holder", "waiter", "younger"].map(String::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_the_certificate_is_renewed() {
    let scene = Scene::open_alone("renewed_leaf").await;
    // A Secret without a leaf gets a new one from its CA, which is what also happens when the old one comes to its end.
    let without = r#"{"data": {"tls.crt": "", "tls.key": ""}}"#;
    changing_certificates_disturbs_nobody(&scene, || drop(scene.run_in_system(&["patch", "secret", "konductor-certs", "-p", without])))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_the_secret_is_deleted() {
    let scene = Scene::open_alone("deleted_secret").await;
    changing_certificates_disturbs_nobody(&scene, || drop(scene.run_in_system(&["delete", "secret", "konductor-certs"]))).await;
}

/// Each of them vanishes as soon as it may.
#[tokio::test(flavor = "multi_thread")]
async fn what_succeeds_while_konductor_is_away_is_counted() {
    let scene = Scene::open_alone("ends_while_away").await;
    until_serving(&scene).await;
    let kinds = [("Barrier", "{expected: 1}", "arrive: barrier"), ("Once", "{}", "once: "), ("WaitGroup", "{}", "done: waitgroup")];
    for (kind, spec, annotation) in kinds {
        let name = kind.to_lowercase();
        scene.apply(&format!("apiVersion: konductor.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
        let annotation = format!("konductor.io/{}{}{name}", annotation, if annotation.ends_with(' ') { "" } else { "/" });
        scene.apply(&scene.app(&name).job_field("ttlSecondsAfterFinished", json!(0)).as_job(&annotation));
        scene.until_beating(&name).await;
    }
    let away = Away::take(&scene).await;
    for (kind, _, _) in kinds {
        scene.end(&kind.to_lowercase(), "0");
    }
    scene.until_jobs_complete(3).await;
    drop(away);
    for (object, path, value) in [
        ("barrier/barrier", "{.status.phase}", "Open"),
        ("once/once", "{.status.phase}", "Executed"),
        ("waitgroup/waitgroup", "{.status.phase}", "Done"),
    ] {
        scene
            .until(&format!("{object} is {value}"), async || scene.run(&["get", object, "-o", &format!("jsonpath={path}")]) == value)
            .await;
    }
    scene.until("the Jobs are gone", async || scene.jobs().list(&Default::default()).await.unwrap().items.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_under_load_keeps_every_hold_and_loses_nobody() {
    let scene = Scene::open_alone("rollout").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.create_semaphore("slots", 2);
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    let line = line_up(&scene, HOLDS, 3).await;
    let holder = scene.mutexes().get("db").await.unwrap().status.unwrap().common.holders;
    let applying = Applying::start(&scene);
    let jobs: Vec<String> = (0..12).map(|n| format!("job-{n}")).collect();
    scene.apply(&jobs[..6].iter().map(|name| scene.app(name).seconds(2).as_job("konductor.io/semaphore: slots")).collect::<String>());
    scene.run_in_system(&["rollout", "restart", "deployment/konductor"]);
    for name in &jobs[6..] {
        scene.apply(&scene.app(name).seconds(2).as_job("konductor.io/semaphore: slots"));
    }
    until_serving(&scene).await;
    scene.until_jobs_complete(12).await;
    assert_eq!(scene.jobs_with("Failed").await, 0);
    assert!(scene.most_at_once(&jobs) <= 2, "{} at once", scene.most_at_once(&jobs));
    assert_eq!(scene.mutexes().get("db").await.unwrap().status.unwrap().common.holders, holder, "the very same hold");
    assert!(line.iter().all(|name| scene.beats(name).is_empty()));
    scene.tell_to_end("holder");
    for name in &line {
        scene.until_succeeded(name).await;
    }
    applying.must_have_succeeded().await;
    must_have_run_in_order(&scene, &[&["holder".to_owned()], line.as_slice()].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ca_is_no_harm_to_holders_and_those_who_wait_say_what_to_do() {
    let scene = Scene::open_alone("new_ca").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("old").seconds(1).as_pod(HOLDS));
    scene.until_waiting("old").await;
    let away = Away::take(&scene).await;
    scene.run_in_system(&["delete", "secret", "konductor-certs"]);
    drop(away);
    until_serving(&scene).await;
    let log = |pod: &str| scene.run(&["logs", pod, "-c", "konductor-acquire"]);
    scene.until("the waiting Pod says that it must be made anew", async || log("old").contains("make the Pod anew")).await;
    scene.apply(&scene.app("new").seconds(1).as_pod(HOLDS));
    scene.until_waiting("new").await;
    scene.tell_to_end("holder");
    // The older one cannot be reached; nobody waits for it for ever.
    scene.until_succeeded("new").await;
    scene.run(&["delete", "pod", "old", "--wait"]);
    scene.apply(&scene.app("old").seconds(1).as_pod(HOLDS));
    scene.until_succeeded("old").await;
    must_have_run_in_order(&scene, &["holder", "new", "old"].map(String::from));
}

/// The API server is gone; it is back when this is dropped.
struct NoApiServer;

impl NoApiServer {
    fn kill() -> Self {
        must_be_ours();
        cluster(&["component", "kill", "kube-apiserver"]);
        Self
    }
}

impl Drop for NoApiServer {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(|| cluster(&["component", "start", "kube-apiserver"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_away_changes_nothing() {
    let scene = Scene::open_alone("no_api_server").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    let line = line_up(&scene, HOLDS, 3).await;
    let away = NoApiServer::kill();
    scene.tell_to_end("holder");
    // Longer than a leader goes on without its record, and longer than agents wait for a sign of life.
    sleep(Duration::from_secs(25)).await;
    assert!(line.iter().all(|name| scene.beats(name).is_empty()), "nobody can be granted anything now");
    drop(away);
    scene.until("the API server answers", async || scene.kubectl(&["get", "--raw", "/readyz"], None).status.success()).await;
    for name in &line {
        scene.until_succeeded(name).await;
    }
    must_have_run_in_order(&scene, &[&["holder".to_owned()], line.as_slice()].concat());
    scene.until_mutex_free("db").await;
    until_serving(&scene).await;
}

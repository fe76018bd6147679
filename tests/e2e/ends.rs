//! How holds end: as soon as none of the holder's containers can run any more, and not before. In each test an app holds a Mutex and another waits
//! for it; the proof is what the apps themselves wrote: the last beat of the first comes before the first beat of the second.

use std::fmt;

use konductor::api::HolderKind;
use kube::api::EvictParams;
use serde_json::json;

use crate::{
    app::{App, Run},
    scene::{Scene, kubelet_times},
};

/// Who holds, and how its end becomes known.
#[derive(Clone, Copy)]
pub struct Case(HolderKind, &'static str);

const BY_HOOK: Case = Case(HolderKind::Pod, "hook");
const BY_CONTROLLER: Case = Case(HolderKind::Pod, "controller");
pub const JOB_BY_HOOK: Case = Case(HolderKind::Job, "hook");
const JOB_BY_CONTROLLER: Case = Case(HolderKind::Job, "controller");

pub const PODS: &[Case] = &[BY_HOOK, BY_CONTROLLER];
pub const JOBS: &[Case] = &[JOB_BY_HOOK, JOB_BY_CONTROLLER];
const ALL: &[Case] = &[BY_HOOK, BY_CONTROLLER, JOB_BY_HOOK, JOB_BY_CONTROLLER];

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kind, release) = self;
        write!(out, "{}-by-{release}", format!("{kind:?}").to_lowercase())
    }
}

impl Case {
    pub fn mutex(self) -> String {
        self.to_string()
    }

    pub fn holder(self) -> String {
        format!("{self}-holder")
    }

    pub fn next(self) -> String {
        format!("{self}-next")
    }

    fn annotations(self) -> String {
        format!("konductor.io/mutex: '{};release={};fencing=true'", self.mutex(), self.1)
    }
}

/// For each case a Mutex, an app that holds it and runs, and one that waits for it.
pub async fn queues(scene: &Scene, cases: &[Case], shape: impl Fn(App) -> App) {
    queues_for(scene, cases, "5m", shape, |app| app).await;
}

/// The same with a `ttl` and a shape of those that wait.
pub async fn queues_for(scene: &Scene, cases: &[Case], ttl: &str, shape: impl Fn(App) -> App, shape_next: impl Fn(App) -> App) {
    for case in cases {
        scene.apply(&format!("{}spec: {{ttl: {ttl}}}\n", mutex(&case.mutex())));
        let holder = shape(scene.app(&case.holder()));
        scene.apply(&match case.0 {
            HolderKind::Pod | HolderKind::Claim => holder.as_pod(&case.annotations()),
            HolderKind::Job => holder.as_job(&case.annotations()),
        });
    }
    for case in cases {
        scene.until_beating(&case.holder()).await;
        scene.until_mutex_held_by(&case.mutex(), &case.holder()).await;
        scene.apply(&shape_next(scene.app(&case.next())).as_pod(&case.annotations()));
    }
    for case in cases {
        scene.until_waiting(&case.next()).await;
    }
}

/// The holder goes on running, and nobody else gets in.
pub async fn still_held(scene: &Scene, case: Case) {
    scene.until_beats_on(&case.holder()).await;
    assert!(scene.beats(&case.next()).is_empty(), "{case}: the next one runs beside the holder");
    assert_eq!(scene.mutex_holders(&case.mutex()).await, [case.holder()], "{case}");
}

/// The next one gets in, after the last beat of the holder and with a larger token; when it ends too, the Mutex is free.
pub async fn handed_over(scene: &Scene, case: Case) {
    let next = next_runs(scene, case).await;
    for run in scene.runs(&case.holder()) {
        assert!(run.to <= next.from, "{case}: the holder ran until {}, the next one from {}", run.to, next.from);
    }
}

/// The next one gets in, with a larger token; when it ends too, the Mutex is free.
async fn next_runs(scene: &Scene, case: Case) -> Run {
    let next = next_starts(scene, case).await;
    scene.end(&case.next(), "0");
    scene.until_mutex_free(&case.mutex()).await;
    next
}

/// The next one gets in, with a larger token.
pub async fn next_starts(scene: &Scene, case: Case) -> Run {
    scene.until_beats_on(&case.next()).await;
    scene.until_mutex_held_by(&case.mutex(), &case.next()).await;
    let next = scene.runs(&case.next()).remove(0);
    let holders = scene.runs(&case.holder());
    assert!(!holders.is_empty() && holders.iter().all(|run| 0 < run.token && run.token < next.token), "{case}: {holders:?}, then {next:?}");
    eprintln!("{case}: {:.2} s from the holder's last beat to the first of the next", next.from - holders[holders.len() - 1].to);
    next
}

/// By the kubelet's times too (whole seconds) the first ended before the second started.
async fn kubelet_agrees(scene: &Scene, case: Case) {
    let times = kubelet_times(&scene.pods()).await;
    let of = |app: &str| times.iter().find(|(pod, _)| pod.starts_with(app)).map(|(_, times)| *times).unwrap();
    let ((_, ended), (started, _)) = (of(&case.holder()), of(&case.next()));
    assert!(ended <= started, "{case}: ended at {ended}, next started at {started}");
}

async fn ends_by_itself(test: &str, how: &str, shape: impl Fn(App) -> App) {
    let scene = Scene::open(test).await;
    queues(&scene, ALL, shape).await;
    for case in ALL {
        still_held(&scene, *case).await;
        scene.end(&case.holder(), how);
    }
    for case in ALL {
        handed_over(&scene, *case).await;
        kubelet_agrees(&scene, *case).await;
    }
    if how == "oom" {
        let reasons = "jsonpath={range .items[*]}{.status.containerStatuses[*].state.terminated.reason}{\"\\n\"}{end}";
        let reasons = scene.run(&["get", "pods", "-o", reasons]);
        assert_eq!(reasons.lines().filter(|reason| *reason == "OOMKilled").count(), ALL.len(), "{reasons}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_when_the_app_succeeds() {
    ends_by_itself("app_succeeds", "0", |app| app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_when_the_app_fails() {
    ends_by_itself("app_fails", "1", |app| app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_when_the_app_is_killed_for_its_memory() {
    ends_by_itself("app_is_oom_killed", "oom", |app| app.limit("memory", "24Mi")).await;
}

/// An app whose init container fails: it never starts, and never will.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_when_the_app_can_not_start() {
    let scene = Scene::open("never_starts").await;
    for case in PODS {
        scene.create_mutex(&case.mutex());
        let wait_to_fail = format!("while [ ! -e /beats/{}.end ]; do usleep 50000; done; exit 1", case.holder());
        let init = json!([{
            "name": "prepare", "image": "konductor.local/busybox:1", "command": ["sh", "-c", wait_to_fail],
            "volumeMounts": [{ "name": "beats", "mountPath": "/beats" }],
        }]);
        scene.apply(&scene.app(&case.holder()).pod_field("initContainers", init).as_pod(&case.annotations()));
        scene.until_mutex_held_by(&case.mutex(), &case.holder()).await;
        scene.apply(&scene.app(&case.next()).as_pod(&case.annotations()));
    }
    for case in PODS {
        scene.until_waiting(&case.next()).await;
        assert_eq!(scene.mutex_holders(&case.mutex()).await, [case.holder()], "{case}");
        scene.end(&case.holder(), "");
    }
    for case in PODS {
        scene.until_beating(&case.next()).await;
        assert!(scene.beats(&case.holder()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_holds_until_its_grace_period_is_used() {
    deleted("grace_period", "Never").await;
}

/// As the Pods of a Deployment: an ended container would be started again, if it were not for the deletion.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_that_restarts_for_ever_holds_until_its_grace_period_is_used() {
    deleted("grace_period_always", "Always").await;
}

async fn deleted(test: &str, restart: &'static str) {
    let scene = Scene::open(test).await;
    queues(&scene, PODS, |app| app.grace(55).restart(restart)).await;
    for case in PODS {
        scene.run(&["delete", "pod", &case.holder(), "--wait=false"]);
        still_held(&scene, *case).await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
    }
    for case in PODS {
        handed_over(&scene, *case).await;
    }
}

/// An app that ignores SIGTERM is killed when the grace period is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_that_does_not_end_holds_until_it_is_killed() {
    let scene = Scene::open("killed_after_grace").await;
    queues(&scene, PODS, |app| app.grace(300)).await;
    for case in PODS {
        scene.run(&["delete", "pod", &case.holder(), "--wait=false", "--grace-period=30"]);
        still_held(&scene, *case).await;
    }
    for case in PODS {
        handed_over(&scene, *case).await;
    }
}

/// Whoever deletes by force says that it knows that the Pod does not run any more. Kubernetes forgets the Pod at once, whether it is true or not; its
/// kubelet ends the containers afterwards (here within two seconds, on a lost node never), and nothing in the API says when. So the two may run
/// beside each other for a while: only the fencing token tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_by_force_is_fenced_off() {
    let scene = Scene::open("deleted_by_force").await;
    queues(&scene, PODS, |app| app.grace(10)).await;
    for case in PODS {
        scene.run(&["delete", "pod", &case.holder(), "--force", "--grace-period=0"]);
    }
    for case in PODS {
        next_runs(&scene, *case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_holds_until_it_has_ended() {
    let scene = Scene::open("evicted").await;
    queues(&scene, PODS, |app| app.grace(55)).await;
    for case in PODS {
        scene.pods().evict(&case.holder(), &EvictParams::default()).await.unwrap();
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "1");
    }
    for case in PODS {
        handed_over(&scene, *case).await;
    }
}

/// The kubelet ends the Pod, and gives it its grace period.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_past_its_deadline_holds_until_it_has_ended() {
    let scene = Scene::open("pod_deadline").await;
    queues(&scene, PODS, |app| app.grace(55)).await;
    for case in PODS {
        scene.run(&["patch", "pod", &case.holder(), "-p", r#"{"spec": {"activeDeadlineSeconds": 1}}"#]);
        scene.until_told(&case.holder(), "DeadlineExceeded").await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
    }
    for case in PODS {
        handed_over(&scene, *case).await;
    }
}

/// The kubelet ends a Pod that fills its disk at once, with no grace.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_its_node_evicts_holds_until_it_has_ended() {
    let scene = Scene::open("evicted_by_node").await;
    queues(&scene, PODS, |app| app.grace(55).limit("ephemeral-storage", "1Mi")).await;
    for case in PODS {
        scene.run(&["exec", &case.holder(), "-c", "app", "--", "dd", "if=/dev/zero", "of=/tmp/full", "bs=1M", "count=8"]);
    }
    for case in PODS {
        handed_over(&scene, *case).await;
        assert_eq!(scene.run(&["get", "pod", &case.holder(), "-o", "jsonpath={.status.reason}"]), "Evicted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_with_the_last_of_several_containers() {
    let scene = Scene::open("two_containers").await;
    queues(&scene, PODS, |app| {
        let brief = app.clone().named(format!("{}-brief", app.name));
        app.beside(brief)
    })
    .await;
    for case in PODS {
        let brief = format!("{}-brief", case.holder());
        scene.until_beating(&brief).await;
        scene.end(&brief, "0");
        scene.until(&format!("{brief} has ended"), async || terminated(&scene, &case.holder()).await == [brief.clone()]).await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
    }
    for case in PODS {
        handed_over(&scene, *case).await;
    }
}

async fn terminated(scene: &Scene, pod: &str) -> Vec<String> {
    let statuses = scene.pods().get(pod).await.unwrap().status.and_then(|status| status.container_statuses).unwrap_or_default();
    statuses.into_iter().filter(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some())).map(|s| s.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_restarted_goes_on_holding() {
    let scene = Scene::open("restarted").await;
    queues(&scene, PODS, |app| app.restart("OnFailure")).await;
    for case in PODS {
        scene.end(&case.holder(), "1");
    }
    for case in PODS {
        scene.until(&format!("{case}: the app runs again"), async || scene.runs(&case.holder()).len() == 2).await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
    }
    for case in PODS {
        handed_over(&scene, *case).await;
        let tokens: Vec<i64> = scene.runs(&case.holder()).iter().map(|run| run.token).collect();
        assert_eq!(tokens[0], tokens[1], "one hold, one token");
    }
}

/// A change of its image ends the sidecar with SIGTERM, as the end of the app does.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_sidecar_ends_no_hold() {
    let scene = Scene::open("sidecar_changed").await;
    queues(&scene, &[BY_HOOK], |app| app).await;
    let pod = BY_HOOK.holder();
    let sidecar = async || {
        let statuses = scene.pods().get(&pod).await.unwrap().status.and_then(|status| status.init_container_statuses).unwrap_or_default();
        statuses.into_iter().find(|status| status.name == "konductor-hold").and_then(|status| status.container_id)
    };
    let first = sidecar().await;
    scene.run(&["set", "image", &format!("pod/{pod}"), "konductor-hold=konductor.local/busybox:1"]);
    scene.until("the sidecar was ended and started anew", async || sidecar().await != first).await;
    still_held(&scene, BY_HOOK).await;
    scene.end(&pod, "0");
    handed_over(&scene, BY_HOOK).await;
}

fn mutex(name: &str) -> String {
    format!("apiVersion: konductor.io/v1\nkind: Mutex\nmetadata: {{name: {name}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_mutex_lets_nobody_in_before_its_holder_has_ended() {
    let scene = Scene::open("mutex_deleted").await;
    queues(&scene, ALL, |app| app).await;
    for case in ALL {
        scene.run(&["delete", "mutex", &case.mutex(), "--wait=false"]);
    }
    for case in ALL {
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
        scene.until("the Mutex is gone", async || scene.mutexes().get_opt(&case.mutex()).await.unwrap().is_none()).await;
        assert!(scene.beats(&case.next()).is_empty(), "{case}: there is no Mutex, so nobody can hold it");
        scene.create_mutex(&case.mutex());
        handed_over(&scene, *case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_mutex_lets_nobody_in_before_its_holder_has_ended() {
    let scene = Scene::open("mutex_replaced").await;
    queues(&scene, ALL, |app| app).await;
    let uid = async |case: Case| scene.mutexes().get_opt(&case.mutex()).await.unwrap().and_then(|mutex| mutex.metadata.uid);
    for case in ALL {
        let first = uid(*case).await;
        // It deletes, waits until the object is gone, and makes it anew.
        let mut replacing = scene.start_kubectl(&["replace", "--force", "-f", "-"], Some(&mutex(&case.mutex())));
        let is_deleted = async || scene.mutexes().get(&case.mutex()).await.unwrap().metadata.deletion_timestamp.is_some();
        scene.until("the Mutex is being deleted", is_deleted).await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
        scene.until("kubectl replace has ended", async || replacing.try_wait().unwrap().is_some()).await;
        assert!(replacing.wait().unwrap().success());
        assert_ne!(uid(*case).await, first);
        handed_over(&scene, *case).await;
    }
}

//! Where the waiting happens, and what comes of it: behind a scheduling gate, in a suspended Job, not at all; and for how long a hold may last.

use std::time::Duration;

use k8s_openapi::api::{batch::v1::JobCondition, core::v1::Pod};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{app::App, scene::Scene};

/// A Mutex that somebody holds.
async fn taken(name: &str) -> Scene {
    let scene = Scene::open(name).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
    scene.until_beating("holder").await;
    scene
}

async fn pods_of(scene: &Scene, job: &str) -> Vec<Pod> {
    scene.pods().list(&ListParams::default().labels(&format!("job-name={job}"))).await.unwrap().items
}

async fn condition(scene: &Scene, job: &str, kind: &str) -> Option<JobCondition> {
    let status = scene.jobs().get_opt(job).await.unwrap()?.status?;
    status.conditions?.into_iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

async fn until_line_is(scene: &Scene, count: i32) {
    let waiting = async || scene.mutexes().get("db").await.unwrap().status.map_or(0, |status| status.common.waiting);
    scene.until(&format!("{count} wait"), async || waiting().await == count).await;
}

fn one_after_the_other(scene: &Scene, names: &[&str]) {
    for pair in names.windows(2) {
        let (first, second) = (scene.ran(pair[0]).unwrap(), scene.ran(pair[1]).unwrap());
        assert!(first.1 <= second.0, "{} ran until {}, {} from {}", pair[0], first.1, pair[1], second.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gated_pod_has_no_node_while_it_waits() {
    let scene = taken("gated").await;
    scene.apply(&scene.app("pod").seconds(2).as_pod("konductor.io/mutex: db;strategy=gate;priority=1"));
    scene.apply(&scene.app("job").seconds(2).as_job("konductor.io/mutex: db;strategy=gate"));
    until_line_is(&scene, 2).await;
    for pod in scene.pods().list(&ListParams::default()).await.unwrap().items.iter().filter(|pod| pod.name_any() != "holder") {
        assert_eq!(pod.spec.as_ref().unwrap().node_name, None, "{}", pod.name_any());
    }
    scene.end("holder", "0");
    scene.until_succeeded("pod").await;
    scene.until_jobs_complete(1).await;
    one_after_the_other(&scene, &["holder", "pod", "job"]);
    scene.until_mutex_free("db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_has_no_pod_while_it_waits() {
    let scene = taken("suspend").await;
    scene.apply(&scene.app("first").seconds(2).as_job("konductor.io/mutex: db;strategy=suspend"));
    scene.apply(&scene.app("second").seconds(2).as_job("konductor.io/mutex: db;strategy=suspend;priority=-1"));
    until_line_is(&scene, 2).await;
    assert!(pods_of(&scene, "first").await.is_empty() && pods_of(&scene, "second").await.is_empty());
    scene.end("holder", "0");
    scene.until_jobs_complete(2).await;
    one_after_the_other(&scene, &["holder", "first", "second"]);
    scene.until_mutex_free("db").await;
}

/// Whoever may edit a Job can resume it before its turn: the acquire step of its Pods is the guard.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_that_is_resumed_by_hand_waits_in_its_pods() {
    let scene = taken("resumed_by_hand").await;
    scene.apply(&scene.app("job").seconds(2).as_job("konductor.io/mutex: db;strategy=suspend"));
    until_line_is(&scene, 1).await;
    scene.run(&["patch", "job", "job", "-p", r#"{"spec": {"suspend": false}}"#]);
    scene
        .until("its Pod waits", async || match pods_of(&scene, "job").await.first() {
            Some(pod) => scene.is_waiting(&pod.name_any()).await,
            None => false,
        })
        .await;
    scene.end("holder", "0");
    scene.until_jobs_complete(1).await;
    one_after_the_other(&scene, &["holder", "job"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_suspended_jobs_no_more_pods_exist_than_permits() {
    let scene = Scene::open("suspend_many").await;
    scene.create_semaphore("slots", 3);
    let jobs: Vec<String> = (0..12).map(|n| format!("job-{n}")).collect();
    let files: Vec<String> =
        jobs.iter().map(|name| scene.app(name).seconds(1).as_job("konductor.io/semaphore: slots;strategy=suspend")).collect();
    scene.apply(&files.concat());
    let unfinished = |pod: &&Pod| !konductor::rules::evidence::pod_ended(pod);
    let mut most = 0;
    scene
        .until("all Jobs are complete", async || {
            most = most.max(scene.pods().list(&ListParams::default()).await.unwrap().items.iter().filter(unfinished).count());
            scene.jobs_with("Complete").await == jobs.len()
        })
        .await;
    assert!(most <= 3, "{most} Pods at once");
    assert!(scene.most_at_once(&jobs) <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_skips_is_complete_without_a_pod() {
    let scene = taken("skip").await;
    scene.apply(&scene.app("job").seconds(1).as_job("konductor.io/mutex: db;on-conflict=skip"));
    scene.until("it is complete", async || condition(&scene, "job", "Complete").await.is_some()).await;
    let complete = condition(&scene, "job", "Complete").await.unwrap();
    assert_eq!(complete.reason.as_deref(), Some("KonductorSkipped"));
    assert!(complete.message.unwrap_or_default().contains("mutex/db"), "it says why");
    assert!(pods_of(&scene, "job").await.is_empty() && scene.beats("job").is_empty());
    scene.run(&["wait", "--for=condition=Complete", "job/job", "--timeout=60s"]);
    scene.until_told("job", "Skipped").await;
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
    scene.end("holder", "0");
    scene.until_mutex_free("db").await;
    scene.apply(&scene.app("lucky").seconds(1).as_job("konductor.io/mutex: db;on-conflict=skip"));
    scene.until("it has run", async || condition(&scene, "lucky", "Complete").await.is_some()).await;
    assert!(!scene.beats("lucky").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_without_a_session_ends_when_its_time_is_over() {
    let scene = taken("wait_over").await;
    scene.apply(&scene.app("gated").as_pod("konductor.io/mutex: db;strategy=gate;timeout=3s"));
    scene.apply(&scene.app("held-back").as_job("konductor.io/mutex: db;strategy=suspend;timeout=3s"));
    scene.until("the Pod has failed", async || scene.phase("gated").await.as_deref() == Some("Failed")).await;
    scene.until("the Job has failed", async || condition(&scene, "held-back", "Failed").await.is_some()).await;
    let failed = condition(&scene, "held-back", "Failed").await.unwrap();
    assert_eq!(failed.reason.as_deref(), Some("KonductorWaitFailed"));
    assert!(failed.message.unwrap_or_default().contains("mutex/db"), "it says why");
    assert!(pods_of(&scene, "held-back").await.is_empty() && scene.beats("gated").is_empty());
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_for_longer_than_it_may_is_deleted_and_then_released() {
    let scene = Scene::open("max_hold").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("pod").as_pod("konductor.io/mutex: db;max-hold=20s"));
    scene.until_beating("pod").await;
    scene.apply(&scene.app("job").as_job("konductor.io/mutex: db;max-hold=20s"));
    scene.until_beating("job").await;
    scene.until_told("pod", "MaxHold").await;
    scene.apply(&scene.app("next").seconds(1).as_pod("konductor.io/mutex: db"));
    scene.until_succeeded("next").await;
    assert!(scene.jobs().get_opt("job").await.unwrap().is_none());
    one_after_the_other(&scene, &["pod", "job", "next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_and_cannot_start_is_deleted_when_its_time_is_over() {
    let scene = Scene::open("start_timeout").await;
    scene.create_mutex("db");
    let nowhere = |app: App| app.pod_field("nodeSelector", json!({ "there-is": "no-such-node" }));
    scene.apply(&nowhere(scene.app("stuck")).as_job("konductor.io/mutex: db;strategy=suspend;start-timeout=4s"));
    scene.until_mutex_held_by("db", "stuck").await;
    scene.apply(&scene.app("next").as_job("konductor.io/mutex: db;strategy=suspend;start-timeout=60s"));
    scene.until_beating("next").await;
    scene.until_told("stuck", "StartTimeout").await;
    // Its start-timeout is over then; nothing tells.
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(scene.mutex_holders("db").await, ["next"], "it has started in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_mutex_is_made_where_somebody_says_so() {
    let scene = Scene::open("create").await;
    scene.apply(&scene.app("pod").seconds(1).as_pod("konductor.io/mutex: new;create=true"));
    scene.until_succeeded("pod").await;
    scene.until_mutex_free("new").await;
}

/// Nothing wakes them but what they wait for: each step must lead to the next.
#[tokio::test(flavor = "multi_thread")]
async fn those_without_a_session_go_through_all_their_steps() {
    let scene = taken("many_steps").await;
    scene.create_mutex("ahead");
    scene.apply("apiVersion: konductor.io/v1\nkind: Barrier\nmetadata: {name: ready}\nspec: {expected: 1}\n");
    let steps = "konductor.io/wait: barrier/ready, konductor.io/acquire: 'mutex/ahead, mutex/db;strategy=";
    scene.apply(&scene.app("job").seconds(1).as_job(&format!("{steps}suspend'")));
    scene.apply(&scene.app("pod").seconds(1).as_pod(&format!("{steps}gate'")));
    let waiting = async || scene.run(&["get", "barrier", "ready", "-o", "jsonpath={.status.waiting}"]);
    scene.until("both wait for the Barrier", async || waiting().await == "2").await;
    scene.apply(&scene.app("opener").seconds(1).as_job("konductor.io/arrive: barrier/ready"));
    scene.until("one of them has taken its next step", async || scene.mutex_holders("ahead").await.len() == 1).await;
    until_line_is(&scene, 1).await;
    scene.end("holder", "0");
    scene.until_jobs_complete(2).await;
    scene.until_succeeded("pod").await;
    // They are of one age: either may be the first of the two.
    let mut order = ["job", "pod"];
    order.sort_by(|a, b| scene.ran(a).unwrap().0.total_cmp(&scene.ran(b).unwrap().0));
    one_after_the_other(&scene, &["holder", order[0], order[1]]);
    scene.until_mutex_free("ahead").await;
    scene.until_mutex_free("db").await;
}

/// What was taken for the old annotations must not be kept for the new ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_edited_while_it_is_held_back_gives_back_what_it_does_not_ask_for_any_more() {
    let scene = taken("edited").await;
    scene.create_mutex("ahead");
    let with = |ahead: &str| scene.app("job").seconds(1).as_job(&format!("konductor.io/acquire: '{ahead}mutex/db;strategy=suspend'"));
    scene.apply(&with("mutex/ahead, "));
    scene.until_mutex_held_by("ahead", "job").await;
    scene.apply(&with(""));
    scene.until_mutex_free("ahead").await;
    scene.end("holder", "0");
    scene.until_jobs_complete(1).await;
    one_after_the_other(&scene, &["holder", "job"]);
}

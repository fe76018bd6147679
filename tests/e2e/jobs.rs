//! A Job holds once, across its Pods and retries: its hold begins with its first Pod and ends when the Job is over and none of its Pods can run.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::json;

use crate::{
    app::Run,
    ends::{Case, JOBS, handed_over, next_starts, queues, still_held},
    scene::Scene,
};

async fn pods_of(scene: &Scene, job: &str) -> Vec<Pod> {
    scene.pods().list(&ListParams::default().labels(&format!("job-name={job}"))).await.unwrap().items
}

/// Runs of a Job's app come one after the other, each in a Pod of its own and with a token larger than those before.
fn one_after_the_other(runs: &[Run]) {
    for pair in runs.windows(2) {
        assert!(pair[0].to <= pair[1].from && pair[0].pod != pair[1].pod && pair[0].token < pair[1].token, "{runs:?}");
    }
}

/// The Pod of the Job that waits to be let in under its Job's hold.
pub async fn until_replacement_waits(scene: &Scene, case: Case) {
    let waiting = |pod: &Pod| konductor::rules::evidence::acquire_step(pod) == konductor::rules::evidence::AcquireStep::Running;
    scene.until(&format!("{case}: a replacement waits"), async || pods_of(scene, &case.holder()).await.iter().any(waiting)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_keeps_its_hold_across_retries() {
    let scene = Scene::open("retries").await;
    queues(&scene, JOBS, |app| app.job_field("backoffLimit", json!(2))).await;
    for case in JOBS {
        scene.end(&case.holder(), "1");
    }
    for case in JOBS {
        scene.until(&format!("{case}: a second try runs"), async || scene.runs(&case.holder()).len() == 2).await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
    }
    for case in JOBS {
        handed_over(&scene, *case).await;
        one_after_the_other(&scene.runs(&case.holder()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_for_good_ends_its_hold() {
    let scene = Scene::open("fails_for_good").await;
    queues(&scene, JOBS, |app| app.job_field("backoffLimit", json!(1))).await;
    for case in JOBS {
        scene.end(&case.holder(), "1");
    }
    for case in JOBS {
        scene.until(&format!("{case}: a second try runs"), async || scene.runs(&case.holder()).len() == 2).await;
        scene.end(&case.holder(), "1");
    }
    for case in JOBS {
        handed_over(&scene, *case).await;
        assert_eq!(scene.runs(&case.holder()).len(), 2);
    }
    assert_eq!(scene.jobs_with("Failed").await, JOBS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replacement_of_a_deleted_pod_starts_after_it_has_ended() {
    let scene = Scene::open("replacement").await;
    queues(&scene, JOBS, |app| app.grace(55).job_field("backoffLimit", json!(3))).await;
    for case in JOBS {
        scene.run(&["delete", "pods", "-l", &format!("job-name={}", case.holder()), "--wait=false"]);
        until_replacement_waits(&scene, *case).await;
        still_held(&scene, *case).await;
        assert_eq!(scene.runs(&case.holder()).len(), 1, "{case}: the replacement waits for its predecessor");
        scene.end(&case.holder(), "1");
    }
    for case in JOBS {
        scene.until(&format!("{case}: the replacement runs"), async || scene.runs(&case.holder()).len() == 2).await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
        handed_over(&scene, *case).await;
        one_after_the_other(&scene.runs(&case.holder()));
    }
    assert_eq!(scene.jobs_with("Complete").await, JOBS.len());
}

async fn deleted(test: &str, cascade: &str) {
    let scene = Scene::open(test).await;
    queues(&scene, JOBS, |app| app.grace(55)).await;
    for case in JOBS {
        let job = case.holder();
        scene.run(&["delete", "job", &job, &format!("--cascade={cascade}"), "--wait=false"]);
        match cascade {
            // The Job stays until its Pods are gone.
            "foreground" => {}
            _ => scene.until("the Job is gone", async || scene.jobs().get_opt(&job).await.unwrap().is_none()).await,
        }
        let told_to_go = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        match cascade {
            "orphan" => assert!(!pods_of(&scene, &job).await.iter().any(told_to_go)),
            _ => scene.until("its Pod is told to go", async || pods_of(&scene, &job).await.iter().all(told_to_go)).await,
        }
    }
    for case in JOBS {
        still_held(&scene, *case).await;
        still_held(&scene, *case).await;
        assert!(!scene.events(&case.holder()).iter().any(|event| event.starts_with("HoldLost")));
        scene.end(&case.holder(), "0");
    }
    for case in JOBS {
        handed_over(&scene, *case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_job_holds_until_its_pod_has_used_its_grace_period() {
    deleted("job_deleted", "background").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_deleted_after_its_pods_holds_as_long() {
    deleted("job_deleted_last", "foreground").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_outlives_its_job_goes_on_holding() {
    deleted("job_orphans", "orphan").await;
}

/// A suspended Job runs nothing, perhaps for days; whoever suspended it may be waiting for the very Mutex. Resumed, it stands in line as a newcomer.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_gives_its_hold_back_when_its_pods_have_ended() {
    let scene = Scene::open("suspended").await;
    queues(&scene, JOBS, |app| app.grace(55)).await;
    let suspend =
        |case: &Case, yes: bool| scene.run(&["patch", "job", &case.holder(), "-p", &format!(r#"{{"spec": {{"suspend": {yes}}}}}"#)]);
    for case in JOBS {
        suspend(case, true);
        let told_to_go = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        scene.until("its Pod is told to go", async || pods_of(&scene, &case.holder()).await.iter().all(told_to_go)).await;
    }
    for case in JOBS {
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
        next_starts(&scene, *case).await;
        suspend(case, false);
        until_replacement_waits(&scene, *case).await;
        scene.end(&case.next(), "0");
    }
    for case in JOBS {
        scene.until(&format!("{case}: it runs again"), async || scene.runs(&case.holder()).len() == 2).await;
        let (runs, next) = (scene.runs(&case.holder()), scene.runs(&case.next()));
        assert!(runs[0].to <= next[0].from && next[0].to <= runs[1].from && next[0].token < runs[1].token, "{runs:?} {next:?}");
        scene.end(&case.holder(), "0");
        scene.until_mutex_free(&case.mutex()).await;
    }
}

/// The Job has failed, as its conditions say, while its Pod still uses its grace period.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_past_its_deadline_holds_until_its_pod_has_ended() {
    let scene = Scene::open("job_deadline").await;
    queues(&scene, JOBS, |app| app.grace(55)).await;
    for case in JOBS {
        scene.run(&["patch", "job", &case.holder(), "-p", r#"{"spec": {"activeDeadlineSeconds": 1}}"#]);
    }
    scene.until("the Jobs are about to fail", async || scene.jobs_with("FailureTarget").await == JOBS.len()).await;
    for case in JOBS {
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
    }
    for case in JOBS {
        handed_over(&scene, *case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_parallel_job_share_its_hold() {
    let scene = Scene::open("parallel").await;
    queues(&scene, JOBS, |app| app.job_field("parallelism", json!(2)).job_field("completions", json!(2))).await;
    for case in JOBS {
        scene.until(&format!("{case}: both Pods run"), async || scene.runs(&case.holder()).len() == 2).await;
        let runs = scene.runs(&case.holder());
        assert!(runs[0].token != runs[1].token, "each has a token of its own: {runs:?}");
        // One of the two takes it.
        scene.end(&case.holder(), "0");
        scene
            .until(&format!("{case}: one has succeeded"), async || {
                scene.jobs().get(&case.holder()).await.unwrap().status.and_then(|status| status.succeeded) == Some(1)
            })
            .await;
        still_held(&scene, *case).await;
        scene.end(&case.holder(), "0");
    }
    for case in JOBS {
        handed_over(&scene, *case).await;
    }
}

/// The Job holds already; a Mutex that is being deleted keeps out newcomers only.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_retries_under_a_mutex_that_is_being_deleted() {
    let scene = Scene::open("retry_while_deleting").await;
    queues(&scene, JOBS, |app| app.job_field("backoffLimit", json!(2))).await;
    for case in JOBS {
        scene.run(&["delete", "mutex", &case.mutex(), "--wait=false"]);
        scene.end(&case.holder(), "1");
    }
    for case in JOBS {
        scene.until(&format!("{case}: a second try runs"), async || scene.runs(&case.holder()).len() == 2).await;
        still_held(&scene, *case).await;
        one_after_the_other(&scene.runs(&case.holder()));
        scene.end(&case.holder(), "0");
        scene.until("the Mutex is gone", async || scene.mutexes().get_opt(&case.mutex()).await.unwrap().is_none()).await;
        assert!(scene.beats(&case.next()).is_empty());
    }
}

/// The replacement starts when the first one's containers have ended or Kubernetes has forgotten them; see
/// `a_pod_that_is_deleted_by_force_is_fenced_off`.
#[tokio::test(flavor = "multi_thread")]
async fn the_replacement_of_a_pod_that_is_deleted_by_force_has_a_larger_token() {
    let scene = Scene::open("replacement_forced").await;
    queues(&scene, JOBS, |app| app.job_field("backoffLimit", json!(3))).await;
    for case in JOBS {
        scene.run(&["delete", "pods", "-l", &format!("job-name={}", case.holder()), "--force", "--grace-period=0"]);
    }
    for case in JOBS {
        scene.until(&format!("{case}: the replacement runs"), async || scene.runs(&case.holder()).len() == 2).await;
        still_held(&scene, *case).await;
        let runs = scene.runs(&case.holder());
        assert!(runs[0].token < runs[1].token, "{runs:?}");
        scene.end(&case.holder(), "0");
        handed_over(&scene, *case).await;
    }
}

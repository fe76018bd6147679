//! The folders of `examples/`: each is applied as it is, does what its comments say, and comes to its end.

use kube::{ResourceExt, api::ListParams};

use crate::scene::{Scene, kubelet_times};

/// Applies a folder in a namespace of its own.
fn applied(scene: &Scene, folder: &str) {
    scene.run(&["apply", "-f", &format!("{}/examples/{folder}", env!("CARGO_MANIFEST_DIR"))]);
}

/// Waits until all Jobs, of which there are so many, are Complete.
async fn until_all_complete(scene: &Scene, count: usize) {
    scene.until_jobs_complete(count).await;
    assert_eq!(scene.jobs().list(&ListParams::default()).await.unwrap().items.len(), count);
}

/// By the kubelet's times: no app of Pods whose names begin with `then` started before the last of those that begin with `first` had ended.
async fn one_after_the_other(scene: &Scene, first: &[&str], then: &str) {
    let times = kubelet_times(&scene.pods()).await;
    let of = |prefix: &str| times.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, times)| *times).collect::<Vec<_>>();
    let end = first.iter().flat_map(|prefix| of(prefix)).map(|(_, to)| to).max().expect("they ran");
    let start = of(then).into_iter().map(|(from, _)| from).min().expect("they ran");
    assert!(end <= start, "{first:?} ended at {end}, {then} began at {start}: {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn extract_transform() {
    let scene = Scene::open("extract_transform").await;
    applied(&scene, "extract-transform");
    until_all_complete(&scene, 15).await;
    one_after_the_other(&scene, &["extract-"], "transform-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_overlap() {
    let scene = Scene::open("no_overlap").await;
    applied(&scene, "no-overlap");
    scene.run(&["patch", "cronjob", "report", "-p", r#"{"spec": {"suspend": true}}"#]);
    // A run of the schedule may have begun in between; then both of these are left out. If not, one of them is: they are of one age, either may be it.
    for run in ["first", "second"] {
        scene.run(&["create", "job", "--from=cronjob/report", run]);
    }
    let skipped = |job: &str| scene.events(job).iter().any(|event| event.starts_with("Skipped"));
    scene.until("one of them is skipped", async || skipped("first") || skipped("second")).await;
    scene.until_told("report", "Skipped").await;
    let jobs = scene.jobs().list(&ListParams::default()).await.unwrap().items;
    scene.until("all are complete", async || scene.jobs_with("Complete").await == jobs.len()).await;
    let times = kubelet_times(&scene.pods()).await;
    let left_out = jobs.iter().filter(|job| skipped(&job.name_any())).count();
    assert_eq!((times.len(), left_out), (1, jobs.len() - 1), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gate() {
    let scene = Scene::open("example_gate").await;
    applied(&scene, "gate");
    until_all_complete(&scene, 3).await;
    one_after_the_other(&scene, &["validation-", "cleanup-"], "processing-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_limit() {
    let scene = Scene::open("batch_limit").await;
    applied(&scene, "batch-limit");
    let mut most = 0;
    scene
        .until("all are complete", async || {
            let pods = scene.pods().list(&ListParams::default()).await.unwrap();
            most = most.max(pods.items.iter().filter(|pod| !konductor::rules::evidence::pod_ended(pod)).count());
            scene.jobs_with("Complete").await == 30
        })
        .await;
    assert!(most <= 10, "{most} Pods at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn migration() {
    let scene = Scene::open("migration").await;
    applied(&scene, "migration");
    scene.run(&["rollout", "status", "deployment/app", "--timeout=180s"]);
    let logs = scene.run(&["logs", "-l", "app=app", "-c", "migrate"]);
    assert_eq!(logs.lines().filter(|line| *line == "migrating to 42").count(), 1, "{logs}");
    scene.run(&["wait", "--for=condition=Executed", "once/schema-42", "--timeout=60s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_by_jobs() {
    let scene = Scene::open("migration_by_jobs").await;
    applied(&scene, "migration-by-jobs");
    until_all_complete(&scene, 3).await;
    assert_eq!(kubelet_times(&scene.pods()).await.len(), 1, "one of the three did it");
    scene.run(&["rollout", "status", "deployment/app", "--timeout=120s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache() {
    let scene = Scene::open("cache").await;
    applied(&scene, "cache");
    until_all_complete(&scene, 5).await;
    let times = kubelet_times(&scene.pods()).await;
    let (writer, readers): (Vec<_>, Vec<_>) = times.iter().partition(|(name, _)| name.starts_with("writer"));
    let (_, (from, to)) = writer[0];
    assert!(readers.iter().all(|(_, (start, end))| end <= from || to <= start), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers() {
    let scene = Scene::open("workers").await;
    applied(&scene, "workers");
    until_all_complete(&scene, 5).await;
    one_after_the_other(&scene, &["feeder-", "worker-"], "report-").await;
}

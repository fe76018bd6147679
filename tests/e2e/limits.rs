//! The main job: never more at once than the primitive allows, everybody gets through, each with a token of its own.

use crate::scene::{Scene, kubelet_times};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_jobs_run_at_most_four_at_once() {
    let scene = Scene::open("twenty_jobs").await;
    scene.create_semaphore("batch", 4);
    let names: Vec<String> = (0..20).map(|n| format!("job-{n}")).collect();
    let jobs: Vec<String> =
        names.iter().map(|name| scene.app(name).seconds(2).as_job("konductor.io/semaphore: 'batch;fencing=true'")).collect();
    scene.apply(&jobs.concat());
    scene.until_jobs_complete(20).await;

    assert!(scene.most_at_once(&names) <= 4, "{} at once", scene.most_at_once(&names));
    let times = kubelet_times(&scene.pods()).await;
    assert_eq!(times.len(), 20);
    let most = times.values().map(|(at, _)| times.values().filter(|(from, to)| from <= at && at < to).count()).max();
    assert!(most <= Some(4), "{most:?} at once by the kubelet's times: {times:?}");

    let pods = scene.pods().list(&Default::default()).await.unwrap();
    let mut tokens: Vec<String> =
        pods.items.iter().map(|pod| pod.metadata.annotations.as_ref().unwrap()["status.konductor.io/token-0"].clone()).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 20, "each holder has a token of its own");
    scene.until("all permits are back", async || scene.semaphores().get("batch").await.unwrap().status.unwrap().in_use == 0).await;
}

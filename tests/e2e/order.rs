//! Who goes next: priority, then age; a wide request is not starved by narrow ones; and how long a request waits.

use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerStateTerminated;

use crate::scene::Scene;

const FIRST: &str = "first";

/// The apps in the order in which they started; one ended before the next started.
async fn took_turns(scene: &Scene, names: &[&str]) -> Vec<String> {
    scene.until("all have run", async || finished(scene).await == names.len()).await;
    let mut runs: Vec<(String, f64, f64)> =
        names.iter().map(|name| scene.ran(name).map(|(from, to)| ((*name).to_owned(), from, to)).unwrap()).collect();
    runs.sort_by(|a, b| a.1.total_cmp(&b.1));
    for pair in runs.windows(2) {
        assert!(pair[0].2 <= pair[1].1, "{pair:?}");
    }
    runs.into_iter().map(|(name, ..)| name).collect()
}

async fn finished(scene: &Scene) -> usize {
    let pods = scene.pods().list(&Default::default()).await.unwrap();
    pods.items.iter().filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_goes_first() {
    let scene = Scene::open("by_age").await;
    scene.create_mutex("turn");
    let lock = "konductor.io/mutex: turn";
    scene.apply(&scene.app(FIRST).as_pod(lock));
    scene.until_beating(FIRST).await;
    // Neither by name nor the other way round.
    scene.line_up(&[("c", lock), ("a", lock), ("d", lock), ("b", lock)]).await;
    scene.end(FIRST, "0");
    assert_eq!(took_turns(&scene, &[FIRST, "a", "b", "c", "d"]).await, [FIRST, "c", "a", "d", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_priority_goes_before_age() {
    let scene = Scene::open("by_priority").await;
    scene.create_mutex("turn");
    let lock = "konductor.io/mutex: turn";
    scene.apply(&scene.app(FIRST).as_pod(lock));
    scene.until_beating(FIRST).await;
    let (low, high) = ("konductor.io/mutex: turn;priority=-1", "konductor.io/mutex: turn;priority=10");
    scene.line_up(&[("low", low), ("normal", lock), ("high", high), ("high-2", high)]).await;
    scene.end(FIRST, "0");
    assert_eq!(took_turns(&scene, &[FIRST, "low", "normal", "high", "high-2"]).await, [FIRST, "high", "high-2", "normal", "low"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_request_is_not_starved_by_narrow_ones() {
    let scene = Scene::open("wide_request").await;
    scene.create_semaphore("room", 3);
    let narrow = "konductor.io/semaphore: room";
    scene.apply(&scene.app(FIRST).as_pod(narrow));
    scene.until_beating(FIRST).await;
    scene.line_up(&[("wide", "konductor.io/semaphore: room;permits=3"), ("narrow", narrow), ("narrow-2", narrow)]).await;
    // Two permits are free, but somebody older needs them too.
    scene.until_beats_on(FIRST).await;
    assert!(scene.beats("narrow").is_empty() && scene.beats("narrow-2").is_empty());
    scene.end(FIRST, "0");
    scene.until("all have run", async || finished(&scene).await == 4).await;
    let [first, wide, narrow, narrow_2] = [FIRST, "wide", "narrow", "narrow-2"].map(|name| scene.ran(name).unwrap());
    assert!(first.1 <= wide.0 && wide.1 <= narrow.0 && wide.1 <= narrow_2.0, "{first:?} {wide:?} {narrow:?} {narrow_2:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_gives_up_waiting_holds_nobody_up() {
    let scene = Scene::open("gives_up").await;
    scene.create_mutex("turn");
    let lock = "konductor.io/mutex: turn";
    scene.apply(&scene.app(FIRST).as_pod(lock));
    scene.until_beating(FIRST).await;
    scene.line_up(&[("gives-up", lock), ("second", lock)]).await;
    scene.run(&["delete", "pod", "gives-up", "--wait=false"]);
    scene.end(FIRST, "0");
    assert_eq!(took_turns(&scene, &[FIRST, "second"]).await, [FIRST, "second"]);
    scene.until("it is gone", async || scene.pods().get_opt("gives-up").await.unwrap().is_none()).await;
    assert!(scene.beats("gives-up").is_empty());
    scene.until_mutex_free("turn").await;
}

/// Each Pod names the same two in another order.
#[tokio::test(flavor = "multi_thread")]
async fn holds_of_several_are_taken_in_one_order_and_all_end() {
    let scene = Scene::open("several_holds").await;
    scene.create_mutex("left");
    scene.create_semaphore("right", 1);
    let names: Vec<String> = (0..8).map(|n| format!("pod-{n}")).collect();
    let orders = ["mutex/left, semaphore/right", "semaphore/right, mutex/left"];
    let pods: Vec<String> = names
        .iter()
        .zip(orders.iter().cycle())
        .map(|(name, order)| scene.app(name).seconds(1).as_pod(&format!("konductor.io/acquire: '{order}'")))
        .collect();
    scene.apply(&pods.concat());
    scene.until("all have run", async || finished(&scene).await == names.len()).await;
    assert_eq!(scene.most_at_once(&names), 1);
    scene.until_mutex_free("left").await;
    scene.until("the permit is back", async || scene.semaphores().get("right").await.unwrap().status.unwrap().in_use == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_that_are_added_let_the_next_ones_in_and_permits_that_are_taken_throw_nobody_out() {
    let scene = Scene::open("permits_change").await;
    scene.create_semaphore("room", 0);
    let permits = |permits: i32| {
        scene.run(&["patch", "semaphore", "room", "--type=merge", "-p", &format!("{{\"spec\": {{\"permits\": {permits}}}}}")])
    };
    for name in ["a", "b", "c"] {
        scene.apply(&scene.app(name).as_pod("konductor.io/semaphore: room"));
        // Each is at least a second younger: two of the same age have no order.
        tokio::join!(tokio::time::sleep(Duration::from_secs(1)), scene.until_waiting(name));
    }
    permits(2);
    scene.until_beating("a").await;
    scene.until_beating("b").await;
    assert!(scene.beats("c").is_empty());
    permits(1);
    scene.end("a", "0");
    scene.until("one has left", async || scene.semaphores().get("room").await.unwrap().status.unwrap().in_use == 1).await;
    scene.until_beats_on("b").await;
    assert!(scene.beats("c").is_empty(), "one of one is still held");
    scene.end("b", "0");
    scene.until_beating("c").await;
    assert!(scene.ran("b").unwrap().1 <= scene.ran("c").unwrap().0);
}

/// The end of a Pod's acquire step, once the Pod has failed.
async fn failed_to_acquire(scene: &Scene, name: &str) -> ContainerStateTerminated {
    let status = async || scene.pods().get(name).await.unwrap().status.unwrap_or_default();
    scene.until(&format!("{name} has failed"), async || status().await.phase.as_deref() == Some("Failed")).await;
    assert!(scene.beats(name).is_empty(), "{name} never ran");
    let steps = status().await.init_container_statuses.unwrap();
    steps.into_iter().find(|step| step.name == "konductor-acquire").and_then(|step| step.state?.terminated).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_timeout_ends_when_it_is_over() {
    let scene = Scene::open("timeouts").await;
    scene.create_mutex("taken");
    scene.create_mutex("free");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: taken"));
    scene.until_beating("holder").await;

    let at_once = "konductor.io/mutex: taken;timeout=0s";
    let after_a_while = "konductor.io/mutex: taken;timeout=10s";
    scene.apply(&scene.app("at-once").as_pod(at_once));
    scene.apply(&scene.app("after-a-while").as_pod(after_a_while));
    scene.apply(&scene.app("job").as_job(after_a_while));
    scene.apply(&scene.app("lucky").as_pod("konductor.io/mutex: free;timeout=0s"));

    let refused = failed_to_acquire(&scene, "at-once").await;
    assert_eq!(refused.exit_code, 3, "{refused:?}");
    let late = failed_to_acquire(&scene, "after-a-while").await;
    assert_eq!(late.exit_code, 3, "{late:?}");
    let created = scene.pods().get("after-a-while").await.unwrap().metadata.creation_timestamp.unwrap().0;
    let waited = late.finished_at.unwrap().0.duration_since(created).as_secs();
    assert!(waited >= 10, "it waits for its time: {waited} s");
    assert!(late.message.unwrap_or_default().contains("timed out"), "the reason shows in kubectl describe");
    scene.until("the Job has failed", async || scene.jobs_with("Failed").await == 1).await;
    assert!(scene.beats("job").is_empty());
    scene.until_beating("lucky").await;
    assert_eq!(scene.mutex_holders("taken").await, ["holder"]);
}

/// The first is granted, the second never: the Pod would start its acquire step again for ever, and nobody else would ever hold the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_refused_its_second_hold_does_not_keep_the_first() {
    let scene = Scene::open("second_refused").await;
    scene.create_mutex("free");
    scene.create_mutex("taken");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: taken"));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("both").as_deployment("konductor.io/acquire: 'mutex/free, mutex/taken;timeout=5s'"));
    scene.until("it holds the first", async || !scene.mutex_holders("free").await.is_empty()).await;
    let first = scene.mutex_holders("free").await;
    scene.apply(&scene.app("next").seconds(1).as_pod("konductor.io/mutex: free;priority=1"));
    scene.until_succeeded("next").await;
    scene.until_told(&first[0], "Refused").await;
    assert_eq!(scene.mutex_holders("taken").await, ["holder"]);
    assert!(scene.beats("both").is_empty());
}

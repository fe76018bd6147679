//! The leader is killed, paused or replaced: nobody runs who should not, and nobody loses the hold or the place in line.

use std::process::Command;

use kube::ResourceExt;

use super::system::{Applying, HOLDS, leader, line_up, must_have_run_in_order, processes, restarts, signal, until_serving};
use crate::scene::Scene;

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
async fn a_wrapped_command_waits_through_a_change_of_leader() {
    let scene = Scene::open_alone("wrap_leader").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    let holds = "konductor.io/mutex: 'db;strategy=wrap;container=app'";
    scene.apply(&scene.app("holds").beside(scene.app("serves")).as_pod(holds));
    scene.until_beating("holds").await;
    scene.apply(&scene.app("waits").as_pod(holds));
    scene.until("it waits", async || scene.run(&["logs", "waits", "--ignore-errors"]).contains("waiting for mutex/db")).await;
    let before = leader(&scene).await.unwrap().name_any();
    scene.run_in_system(&["delete", "pod", &before, "--wait=false"]);
    scene.until("another one leads", async || leader(&scene).await.is_some_and(|leader| leader.name_any() != before)).await;
    scene.until_beats_on("holds").await;
    assert_eq!(scene.mutex_holders("db").await, ["holds"]);
    scene.end("holds", "0");
    scene.until_beating("waits").await;
    scene.until_beats_on("serves").await;
    // Now it ends while nobody leads.
    scene.run_in_system(&["scale", "deployment/konductor", "--replicas=0"]);
    scene
        .until("nobody serves", async || {
            scene.run_in_system(&["get", "pods", "-l", "app.kubernetes.io/component=server", "-o", "name"]).is_empty()
        })
        .await;
    scene.end("waits", "0");
    scene.until_succeeded("waits").await;
    scene.run_in_system(&["scale", "deployment/konductor", "--replicas=2"]);
    until_serving(&scene).await;
    scene.until_mutex_free("db").await;
    assert_eq!(scene.most_at_once(&["holds".to_owned(), "waits".to_owned()]), 1);
}

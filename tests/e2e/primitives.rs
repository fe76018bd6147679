//! The kinds beside Mutex and Semaphore, each in what its users would notice first if it were wrong.

use serde_json::json;

use crate::scene::Scene;

/// A primitive of this kind and spec.
pub fn make(scene: &Scene, kind: &str, name: &str, spec: &str) {
    scene.apply(&format!("apiVersion: konductor.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
}

/// A field of an object, as kubectl prints it; nothing if there is no such object.
pub fn field(scene: &Scene, object: &str, path: &str) -> String {
    let output = scene.kubectl(&["get", object, "--ignore-not-found", "-o", &format!("jsonpath={{{path}}}")], None);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub async fn until_field(scene: &Scene, object: &str, path: &str, value: &str) {
    scene.until(&format!("{path} of {object} is {value}"), async || field(scene, object, path) == value).await;
}

fn names(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

/// The latest end of some runs, and the earliest start of others.
fn in_order(scene: &Scene, first: &[String], then: &[String]) {
    let end = first.iter().map(|name| scene.ran(name).unwrap().1).fold(0.0, f64::max);
    let start = then.iter().map(|name| scene.ran(name).unwrap().0).fold(f64::MAX, f64::min);
    assert!(end <= start, "{first:?} ran until {end}, {then:?} from {start}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_share_a_writer_is_alone_and_goes_before_later_readers() {
    let scene = Scene::open("rwmutex").await;
    make(&scene, "RWMutex", "cache", "{}");
    for name in ["reader-0", "reader-1"] {
        scene.apply(&scene.app(name).as_pod("konductor.io/rwmutex: cache;mode=read"));
        scene.until_beating(name).await;
    }
    until_field(&scene, "rwm/cache", ".status.phase", "ReadLocked").await;
    scene.apply(&scene.app("writer").as_job("konductor.io/rwmutex: cache"));
    until_field(&scene, "rwm/cache", ".status.waiting", "1").await;
    // A second later, so that it is younger than the writer by Kubernetes' clock too.
    scene.until("a second has passed", async || scene.beats("reader-0").len() > 60).await;
    scene.apply(&scene.app("late").seconds(1).as_pod("konductor.io/rwmutex: cache;mode=read"));
    until_field(&scene, "rwm/cache", ".status.waiting", "2").await;
    scene.until_beats_on("reader-0").await;
    assert!(scene.beats("late").is_empty() && scene.beats("writer").is_empty());
    scene.end("reader-0", "0");
    scene.until_beats_on("reader-1").await;
    assert!(scene.beats("writer").is_empty(), "a reader is left");
    scene.end("reader-1", "0");
    scene.until_beating("writer").await;
    until_field(&scene, "rwm/cache", ".status.phase", "WriteLocked").await;
    scene.until_beats_on("writer").await;
    assert!(scene.beats("late").is_empty());
    scene.end("writer", "0");
    scene.until_succeeded("late").await;
    in_order(&scene, &["writer".to_owned()], &["late".to_owned()]);
    until_field(&scene, "rwm/cache", ".status.phase", "Unlocked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_to_the_highest_priority() {
    let scene = Scene::open("lease").await;
    make(&scene, "Lease", "main", "{}");
    scene.apply(&scene.app("holder").as_pod("konductor.io/lease: main"));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("low").seconds(1).as_pod("konductor.io/lease: main"));
    scene.until_waiting("low").await;
    scene.apply(&scene.app("high").seconds(1).as_pod("konductor.io/lease: main;priority=5"));
    scene.until_waiting("high").await;
    until_field(&scene, "kls/main", ".status.holder", "pod/holder").await;
    scene.end("holder", "0");
    scene.until_succeeded("low").await;
    in_order(&scene, &["holder".to_owned()], &["high".to_owned()]);
    in_order(&scene, &["high".to_owned()], &["low".to_owned()]);
    until_field(&scene, "kls/main", ".status.phase", "Available").await;
}

/// One of them needs a second try, and all vanish as soon as they have succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_opens_when_all_have_succeeded_each_counted_once() {
    let scene = Scene::open("barrier").await;
    make(&scene, "Barrier", "extracted", "{expected: 3}");
    let (extract, transform) = (names("extract", 3), names("transform", 2));
    for name in &transform {
        scene.apply(&scene.app(name).seconds(1).as_job("konductor.io/wait: barrier/extracted"));
    }
    for name in &extract {
        let app = scene.app(name).job_field("backoffLimit", json!(3)).job_field("ttlSecondsAfterFinished", json!(0));
        scene.apply(&app.as_job("konductor.io/arrive: barrier/extracted"));
        scene.until_beating(name).await;
    }
    scene.end("extract-0", "1");
    scene.until("it is tried again", async || scene.runs("extract-0").len() == 2).await;
    scene.end("extract-0", "0");
    until_field(&scene, "bar/extracted", ".status.arrived", "1").await;
    scene.end("extract-1", "0");
    until_field(&scene, "bar/extracted", ".status.arrived", "2").await;
    assert_eq!(field(&scene, "bar/extracted", ".status.phase"), "Waiting");
    assert!(transform.iter().all(|name| scene.beats(name).is_empty()));
    scene.end("extract-2", "0");
    scene.run(&["wait", "--for=condition=Complete", "job/transform-0", "job/transform-1", "--timeout=180s"]);
    scene.run(&["wait", "--for=condition=Open", "barrier/extracted", "--timeout=10s"]);
    in_order(&scene, &extract, &transform);
    scene
        .until("the first three are gone", async || {
            extract.iter().all(|name| field(&scene, &format!("job/{name}"), ".metadata.name").is_empty())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_meet_at_a_barrier_and_go_on_together() {
    let scene = Scene::open("meeting").await;
    make(&scene, "Barrier", "start", "{expected: 3}");
    let meeting = "konductor.io/wait: barrier/start, konductor.io/arrive: barrier/start;on=start";
    for name in ["a", "b"] {
        scene.apply(&scene.app(name).as_pod(meeting));
        scene.until_waiting(name).await;
    }
    until_field(&scene, "bar/start", ".status.arrived", "2").await;
    assert!(scene.beats("a").is_empty() && scene.beats("b").is_empty());
    scene.apply(&scene.app("c").as_pod(meeting));
    for name in ["a", "b", "c"] {
        scene.until_beating(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_barrier_that_failed_is_told_who_arrived() {
    let scene = Scene::open("barrier_failed").await;
    // Who ended well before the Barrier was made has arrived.
    scene.apply(&scene.app("punctual").seconds(1).as_job("konductor.io/arrive: barrier/late"));
    scene.until_jobs_complete(1).await;
    make(&scene, "Barrier", "late", "{expected: 2, timeout: 30s}");
    scene.apply(&scene.app("waiter").as_pod("konductor.io/barrier: late"));
    scene.apply(&scene.app("patient").seconds(1).as_pod("konductor.io/barrier: late;timeout=2s;on-timeout=proceed"));
    until_field(&scene, "bar/late", ".status.arrived", "1").await;
    scene.until_succeeded("patient").await;
    scene.until("the waiter has failed", async || scene.phase("waiter").await.as_deref() == Some("Failed")).await;
    assert_eq!(field(&scene, "bar/late", ".status.phase"), "Failed");
    let log = scene.run(&["logs", "waiter", "-c", "konductor-acquire"]);
    assert!(log.contains("barrier/late") && log.contains("punctual"), "{log}");
    assert!(scene.beats("waiter").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_group_is_done_when_its_last_member_is() {
    let scene = Scene::open("waitgroup").await;
    make(&scene, "WaitGroup", "workers", "{}");
    for name in ["one", "two"] {
        scene.apply(&scene.app(name).as_job("konductor.io/done: waitgroup/workers"));
        scene.until_beating(name).await;
    }
    until_field(&scene, "wg/workers", ".status.counter", "2").await;
    scene.apply(&scene.app("after").seconds(1).as_job("konductor.io/waitgroup: workers"));
    scene.end("one", "0");
    until_field(&scene, "wg/workers", ".status.counter", "1").await;
    scene.until_beats_on("two").await;
    assert!(scene.beats("after").is_empty());
    // However it ends, it is done.
    scene.run(&["delete", "job", "two", "--wait=false"]);
    scene.until("the last one has run", async || !scene.beats("after").is_empty()).await;
    until_field(&scene, "wg/workers", ".status.phase", "Done").await;
    in_order(&scene, &["one".to_owned(), "two".to_owned()], &["after".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_once_is_executed_by_one_and_the_others_are_skipped() {
    let scene = Scene::open("once").await;
    make(&scene, "Once", "migrate", "{}");
    scene.apply(&scene.app("first").job_field("backoffLimit", json!(0)).as_job("konductor.io/once: migrate"));
    scene.until_beating("first").await;
    for name in ["second", "third"] {
        scene.apply(&scene.app(name).as_job("konductor.io/once: migrate"));
    }
    scene.apply(&scene.app("after").seconds(1).as_pod("konductor.io/wait: once/migrate"));
    until_field(&scene, "onc/migrate", ".status.phase", "Running").await;
    // A failure gives the turn to the next.
    scene.end("first", "1");
    scene.until("one of the others runs", async || ["second", "third"].iter().any(|name| !scene.beats(name).is_empty())).await;
    let (runs, skips) = if scene.beats("second").is_empty() { ("third", "second") } else { ("second", "third") };
    scene.until_beats_on(runs).await;
    assert!(scene.beats(skips).is_empty() && scene.beats("after").is_empty());
    scene.end(runs, "0");
    scene.until_jobs_complete(2).await;
    scene.until_succeeded("after").await;
    assert!(scene.beats(skips).is_empty(), "it was skipped");
    let executor = field(&scene, "onc/migrate", ".status.executor");
    assert!(executor.contains(runs), "{executor}");
    scene.run(&["wait", "--for=condition=Executed", "once/migrate", "--timeout=10s"]);
}

/// The Gate is there first, the Jobs come later, and one of them vanishes as soon as it is complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_opens_when_the_jobs_that_it_names_are_complete() {
    let scene = Scene::open("gate").await;
    let conditions = "{conditions: [{type: Job, name: validate, state: Complete}, {type: Job, name: clean, state: Complete}]}";
    make(&scene, "Gate", "ready", conditions);
    scene.apply(&scene.app("process").seconds(1).as_job("konductor.io/gate: ready"));
    scene.until("its Pod waits", async || field(&scene, "gt/ready", ".status.waiting") == "1").await;
    scene.apply(&scene.app("validate").job_field("completions", json!(2)).as_job(""));
    scene.apply(&scene.app("clean").job_field("ttlSecondsAfterFinished", json!(0)).as_job(""));
    for name in ["validate", "clean"] {
        scene.until_beating(name).await;
    }
    scene.end("clean", "0");
    scene.until("that Job is gone", async || field(&scene, "job/clean", ".metadata.name").is_empty()).await;
    until_field(&scene, "gt/ready", ".status.met", "1 of 2").await;
    // One succeeded Pod does not complete a Job of two.
    scene.end("validate", "0");
    scene.until("its second Pod runs", async || scene.runs("validate").len() == 2).await;
    assert_eq!(field(&scene, "gt/ready", ".status.phase"), "Waiting");
    assert!(scene.beats("process").is_empty());
    scene.end("validate", "0");
    scene.until("it has run", async || !scene.beats("process").is_empty()).await;
    in_order(&scene, &["validate".to_owned(), "clean".to_owned()], &["process".to_owned()]);
    // It stays open, whatever becomes of what it named.
    scene.run(&["delete", "job", "validate", "--wait=false"]);
    scene.run(&["wait", "--for=condition=Open", "gate/ready", "--timeout=10s"]);
    scene.apply(&scene.app("later").seconds(1).as_pod("konductor.io/wait: gate/ready;timeout=0s"));
    scene.until_succeeded("later").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_follows_primitives_and_says_when_it_waits_for_itself() {
    let scene = Scene::open("gate_primitives").await;
    scene.create_mutex("db");
    scene.create_semaphore("slots", 2);
    scene.apply(&scene.app("holder").as_pod("konductor.io/acquire: 'mutex/db, semaphore/slots'"));
    scene.until_beating("holder").await;
    make(&scene, "Gate", "free", "{conditions: [{type: Mutex, name: db, state: Unlocked}, {type: Semaphore, name: slots, value: 2}]}");
    make(&scene, "Gate", "behind", "{conditions: [{type: Gate, name: free, state: Open}]}");
    make(&scene, "Gate", "one", "{conditions: [{type: Gate, name: two}]}");
    make(&scene, "Gate", "two", "{conditions: [{type: Gate, name: one}]}");
    until_field(&scene, "gt/free", ".status.met", "0 of 2").await;
    let ready = |gate: &str| field(&scene, gate, ".status.conditions[?(@.type==\"Ready\")].message");
    scene.until("the circle is told", async || ready("gt/one").contains("gate/two") && ready("gt/two").contains("gate/one")).await;
    scene.end("holder", "0");
    until_field(&scene, "gt/free", ".status.phase", "Open").await;
    until_field(&scene, "gt/behind", ".status.phase", "Open").await;
    assert_eq!(field(&scene, "gt/one", ".status.phase"), "Waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_sees_another_namespace_only_by_consent() {
    let scene = Scene::open("gate_far").await;
    let other = scene.open_beside("gate_far_elsewhere").await;
    let (here, there) = (&scene.namespace, &other.namespace);
    make(&other, "Barrier", "shared", &format!("{{expected: 1, allowedNamespaces: [{here}]}}"));
    make(&other, "Barrier", "private", "{expected: 1}");
    for (gate, barrier) in [("may-see", "shared"), ("may-not", "private")] {
        make(&scene, "Gate", gate, &format!("{{conditions: [{{type: Barrier, namespace: {there}, name: {barrier}}}]}}"));
        other.apply(&other.app(barrier).seconds(1).as_job(&format!("konductor.io/arrive: barrier/{barrier}")));
    }
    until_field(&other, "bar/private", ".status.phase", "Open").await;
    until_field(&scene, "gt/may-see", ".status.phase", "Open").await;
    assert_eq!(field(&scene, "gt/may-not", ".status.phase"), "Waiting");
    let said = field(&scene, "gt/may-not", ".status.conditionStatuses[0].message");
    assert!(said.contains("does not allow it"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_a_priority_for_those_that_state_none_and_a_barrier_a_quorum() {
    let scene = Scene::open("priority_and_quorum").await;
    make(&scene, "Lease", "main", "{priority: 3}");
    scene.apply(&scene.app("holder").as_pod("konductor.io/lease: main"));
    scene.until_beating("holder").await;
    for (name, priority) in [("stated", ";priority=1"), ("unstated", "")] {
        scene.apply(&scene.app(name).seconds(1).as_pod(&format!("konductor.io/lease: main{priority}")));
        scene.until_waiting(name).await;
    }
    scene.end("holder", "0");
    scene.until_succeeded("stated").await;
    in_order(&scene, &["unstated".to_owned()], &["stated".to_owned()]);
    make(&scene, "Barrier", "most", "{expected: 3, quorum: 2}");
    for name in ["a", "b"] {
        scene.apply(&scene.app(name).seconds(1).as_job("konductor.io/arrive: barrier/most"));
    }
    until_field(&scene, "bar/most", ".status.phase", "Open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_cleaned_up_after_its_ttl() {
    let scene = Scene::open("ends_with_ttl").await;
    make(&scene, "Once", "now-and-then", "{ttl: 5s}");
    make(&scene, "WaitGroup", "workers", "{ttl: 5s}");
    scene.apply(&scene.app("executor").seconds(1).as_job("konductor.io/once: now-and-then"));
    scene.apply(&scene.app("worker").seconds(1).as_job("konductor.io/done: waitgroup/workers"));
    scene.until_jobs_complete(2).await;
    for object in ["onc/now-and-then", "wg/workers"] {
        scene.until(&format!("{object} is deleted"), async || field(&scene, object, ".metadata.name").is_empty()).await;
    }
}

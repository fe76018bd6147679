//! What people see: who holds, who waits for what and behind whom, in the words of kubectl.

use konductor::api::names;

use crate::scene::{SYSTEM, Scene};

const HOLDS: &str = "konductor.io/mutex: db";

/// The fields of an object's line in `kubectl get`.
fn columns(table: &str, object: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(object)).unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_get_shows_who_holds_and_how_many_wait() {
    let scene = Scene::open("get_shows").await;
    scene.create_mutex("db");
    scene.create_semaphore("api", 2);
    scene.apply(&scene.app("migrate").as_job(HOLDS));
    scene.apply(&scene.app("caller").as_pod("konductor.io/semaphore: api"));
    scene.until_beating("migrate").await;
    scene.until_beating("caller").await;
    scene.run(&["wait", "--for=condition=Held", "mutex/db", "--timeout=60s"]);
    for name in ["second", "third"] {
        scene.apply(&scene.app(name).seconds(1).as_job(HOLDS));
    }
    scene
        .until("the table shows the holder and two that wait", async || {
            let table = scene.run(&["get", "mutex,sem", "--no-headers"]);
            let (mutex, semaphore) = (columns(&table, "mutex.konductor.io/db"), columns(&table, "semaphore.konductor.io/api"));
            mutex.starts_with(&["mutex.konductor.io/db", "Locked", "job/migrate", "2"].map(String::from))
                && semaphore.iter().any(|field| field == "Ready")
                && semaphore.iter().any(|field| field == "pod/caller")
        })
        .await;
    let head = scene.run(&["get", "sem"]);
    for column in ["PERMITS", "USE", "WAITING", "AGE"] {
        assert!(head.contains(column), "{head}");
    }
    let everything = scene.run(&["get", "konductor"]);
    assert!(everything.contains("mutex.konductor.io/db") && everything.contains("semaphore.konductor.io/api"), "{everything}");
    assert!(scene.run(&["get", "mtx", "db"]).contains("job/migrate"));

    scene.tell_to_end("migrate");
    scene.tell_to_end("caller");
    scene.until_jobs_complete(3).await;
    scene.run(&["wait", "--for=condition=Held=false", "mutex/db", "--timeout=60s"]);
    scene
        .until("the table shows that it is free", async || {
            columns(&scene.run(&["get", "mutex", "db", "--no-headers"]), "db").get(1).map(String::as_str) == Some("Unlocked")
        })
        .await;
}

/// What a person asks of each of the other six: who has it, how far it is, how many wait.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_get_answers_for_every_kind() {
    let scene = Scene::open("get_answers").await;
    for (kind, name, spec) in [
        ("Lease", "leader", "{}"),
        ("RWMutex", "cache", "{}"),
        ("Once", "work", "{}"),
        ("WaitGroup", "workers", "{}"),
        ("Barrier", "stage", "{expected: 2}"),
        ("Gate", "ready", "{conditions: [{type: Barrier, name: stage, state: Open}, {type: Mutex, name: none, state: Unlocked}]}"),
    ] {
        scene.apply(&format!("apiVersion: konductor.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
    }
    let holds = "konductor.io/acquire: 'lease/leader, rwmutex/cache;mode=read', konductor.io/done: waitgroup/workers, konductor.io/arrive: barrier/stage";
    scene.apply(&scene.app("first").as_pod(holds));
    scene.until_beating("first").await;
    scene.apply(&scene.app("once").as_job("konductor.io/once: work"));
    scene.until_beating("once").await;
    scene.apply(&scene.app("leads").seconds(1).as_pod("konductor.io/lease: leader"));
    scene.apply(&scene.app("writes").seconds(1).as_pod("konductor.io/rwmutex: cache"));
    scene.apply(&scene.app("goes-on").seconds(1).as_pod("konductor.io/wait: 'gate/ready;timeout=1h'"));

    let shows = async |object: &str, fields: &[&str]| {
        let line = || columns(&scene.run(&["get", object, "--no-headers"]), object.split_once('/').unwrap().1);
        scene
            .until(&format!("{object} shows {fields:?}"), async || {
                line().iter().skip(1).zip(fields).all(|(a, b)| a == b) && line().len() > fields.len()
            })
            .await;
    };
    shows("kls/leader", &["Held", "pod/first", "1"]).await;
    shows("rwm/cache", &["ReadLocked", "1"]).await;
    shows("onc/work", &["Running", "job/once", "0"]).await;
    shows("wg/workers", &["Waiting", "1", "pod/first"]).await;
    shows("bar/stage", &["Waiting", "0", "2", "0"]).await;
    shows("gt/ready", &["Waiting", "0", "of", "2"]).await;
    scene.tell_to_end("first");
    scene.tell_to_end("once");
    shows("bar/stage", &["Waiting", "1", "2", "0"]).await;
    shows("onc/work", &["Executed", "job/once", "0"]).await;
    shows("wg/workers", &["Done", "0"]).await;
    scene.until_succeeded("leads").await;
    scene.until_succeeded("writes").await;
    shows("kls/leader", &["Available"]).await;
    shows("rwm/cache", &["Unlocked"]).await;
    let everything = scene.run(&["get", "konductor"]);
    for object in ["lease", "rwmutex", "once", "waitgroup", "barrier", "gate"] {
        assert!(everything.contains(&format!("{object}.konductor.io/")), "{everything}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pod_says_for_what_and_behind_whom() {
    let scene = Scene::open("waiting_says").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("waiter").seconds(1).as_pod(HOLDS));
    scene.until_waiting("waiter").await;
    let says = |text: &str| text.contains("waiting for mutex/db") && text.contains("held by pod/holder");
    scene.until("kubectl describe pod says so", async || says(&scene.run(&["describe", "pod", "waiter"]))).await;
    scene.until("its log says so", async || says(&scene.run(&["logs", "waiter", "-c", "konductor-acquire"]))).await;

    scene.tell_to_end("holder");
    scene.until_succeeded("waiter").await;
    let log = scene.run(&["logs", "waiter", "-c", "konductor-acquire"]);
    assert!(log.contains("holds mutex/db,") && log.contains(&scene.mutex_token("db").await.to_string()), "it says that it got it: {log}");
    scene
        .until("kubectl describe mutex tells the story", async || {
            let story = scene.run(&["describe", "mutex", "db"]);
            ["Granted", "granted to pod", "Released", "released by pod/holder"].iter().all(|word| story.contains(word))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_several_says_which_one_is_missing_now() {
    let scene = Scene::open("waiting_for_both").await;
    scene.create_mutex("first");
    scene.create_mutex("second");
    for name in ["first", "second"] {
        scene.apply(&scene.app(&format!("holds-{name}")).as_pod(&format!("konductor.io/mutex: {name}")));
        scene.until_beating(&format!("holds-{name}")).await;
    }
    scene.apply(&scene.app("both").seconds(1).as_pod("konductor.io/acquire: 'mutex/second, mutex/first'"));
    let event = |mutex: &str| {
        let said = format!("waiting for mutex/{mutex}");
        scene.events("both").iter().any(|event| event.contains(&said) && event.contains(&format!("pod/holds-{mutex}")))
    };
    scene.until("it says that it waits for the first", async || event("first")).await;
    scene.tell_to_end("holds-first");
    scene.until("it says that it waits for the second", async || event("second")).await;
    assert_eq!(scene.mutex_holders("first").await, ["both"], "it keeps what it has meanwhile");
    scene.tell_to_end("holds-second");
    scene.until_succeeded("both").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_a_mutex_that_does_not_exist_yet() {
    let scene = Scene::open("missing_mutex").await;
    scene.apply(&scene.app("early").seconds(1).as_pod("konductor.io/mutex: later"));
    scene.until_waiting("early").await;
    let says = |text: &str| text.contains("mutex/later") && text.contains("does not exist");
    scene.until("its log says so", async || says(&scene.run(&["logs", "early", "-c", "konductor-acquire"]))).await;
    scene.until("kubectl describe pod says so", async || says(&scene.run(&["describe", "pod", "early"]))).await;
    assert!(scene.beats("early").is_empty());
    scene.create_mutex("later");
    scene.until_succeeded("early").await;
    assert!(!scene.beats("early").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ran_out_says_so() {
    let scene = Scene::open("timed_out").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("hasty").seconds(1).as_pod("konductor.io/mutex: db;timeout=0s"));
    scene.apply(&scene.app("patient").seconds(1).as_pod("konductor.io/mutex: db;timeout=5s"));
    for name in ["hasty", "patient"] {
        scene.until(&format!("{name} fails"), async || scene.phase(name).await.as_deref() == Some("Failed")).await;
        let log = scene.run(&["logs", name, "-c", "konductor-acquire"]);
        assert!(log.contains("mutex/db") && log.contains("held by pod/holder"), "{name}: {log}");
        let pod = scene.pods().get(name).await.unwrap();
        let steps = pod.status.unwrap().init_container_statuses.unwrap();
        assert_eq!(steps[0].state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3, "{name}");
        assert!(scene.beats(name).is_empty());
    }
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_what_does_not_exist_runs_out_too() {
    let scene = Scene::open("timed_out_missing").await;
    scene.apply(&scene.app("hasty").seconds(1).as_pod("konductor.io/mutex: later;timeout=0s"));
    scene.apply(&scene.app("patient").seconds(1).as_pod("konductor.io/mutex: later;timeout=8s"));
    scene.apply(&scene.app("job").seconds(1).as_job("konductor.io/mutex: later;timeout=8s"));
    for name in ["hasty", "patient"] {
        scene.until(&format!("{name} fails"), async || scene.phase(name).await.as_deref() == Some("Failed")).await;
        let log = scene.run(&["logs", name, "-c", "konductor-acquire"]);
        assert!(log.contains("mutex/later") && log.contains("does not exist"), "{name}: {log}");
    }
    scene.until("the Job fails", async || scene.jobs_with("Failed").await == 1).await;
}

/// What the leader's `/metrics` says of this series; 0 before it began.
fn metric(scene: &Scene, series: &str) -> f64 {
    let leader = scene.run_in_system(&["get", "pods", "-l", names::LEADER_LABEL, "-o", "jsonpath={.items[0].metadata.name}"]);
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{leader}:8080/proxy/metrics");
    let text = scene.run(&["get", "--raw", &path]);
    assert!(text.ends_with("# EOF\n") && text.contains("\nkonductor_leader 1\n"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_happened() {
    let scene = Scene::open("metrics").await;
    scene.create_mutex("db");
    const SERIES: [&str; 3] = [
        "konductor_grants_total{kind=\"mutex\"}",
        "konductor_skipped_jobs_total",
        "konductor_refusals_total{kind=\"mutex\",reason=\"not-free\"}",
    ];
    let before = SERIES.map(|series| metric(&scene, series));
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("skips").as_job("konductor.io/mutex: db;on-conflict=skip"));
    scene.apply(&scene.app("hasty").as_pod("konductor.io/mutex: db;timeout=0s"));
    scene.until_jobs_complete(1).await;
    scene.until("the hasty one fails", async || scene.phase("hasty").await.as_deref() == Some("Failed")).await;
    let after = SERIES.map(|series| metric(&scene, series));
    assert!(before.iter().zip(&after).all(|(before, after)| after > before), "{SERIES:?}: {before:?}, {after:?}");
    assert!(metric(&scene, "konductor_holders{kind=\"mutex\"}") >= 1.0);
    let expires = metric(&scene, "konductor_certificate_expiry_timestamp_seconds");
    assert!(expires > 1_700_000_000.0, "{expires}");
}

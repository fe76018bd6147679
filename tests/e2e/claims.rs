//! Claims: everything that can be done with kubectl alone, by those who are not annotated Pods.

use std::time::{Duration, Instant};

use crate::{
    primitives::{field, make, until_field},
    scene::{ONE_AGE, Scene},
};

/// A Claim of this name; `spec` is what stands between the braces.
pub fn claim(scene: &Scene, name: &str, spec: &str) {
    scene.apply(&claim_yaml(name, spec));
}

fn claim_yaml(name: &str, spec: &str) -> String {
    format!("apiVersion: konductor.io/v1\nkind: Claim\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

pub async fn until_phase(scene: &Scene, name: &str, phase: &str) {
    until_field(scene, &format!("clm/{name}"), ".status.phase", phase).await;
}

async fn until_gone(scene: &Scene, object: &str) {
    scene.until(&format!("{object} is gone"), async || field(scene, object, ".metadata.name").is_empty()).await;
}

pub fn token(scene: &Scene, name: &str) -> i64 {
    field(scene, &format!("clm/{name}"), ".status.token").parse().unwrap()
}

fn message(scene: &Scene, name: &str) -> String {
    field(scene, &format!("clm/{name}"), ".status.message")
}

fn reason(scene: &Scene, name: &str) -> String {
    field(scene, &format!("clm/{name}"), ".status.conditions[?(@.type==\"Granted\")].reason")
}

fn patch(scene: &Scene, name: &str, spec: &str) {
    scene.run(&["patch", "clm", name, "--type=merge", "-p", &format!("{{\"spec\": {{{spec}}}}}")]);
}

fn delete(scene: &Scene, name: &str) {
    scene.run(&["delete", "clm", name, "--wait=false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutex_goes_from_a_claim_to_a_pod_and_back() {
    let scene = Scene::open("claim_mutex").await;
    scene.create_mutex("db");
    claim(&scene, "by-hand", "kind: Mutex, name: db, holder: ann");
    scene.run(&["wait", "--for=condition=Granted", "clm/by-hand", "--timeout=60s"]);
    until_field(&scene, "mtx/db", ".status.holder", "claim/by-hand").await;
    assert!(!field(&scene, "mtx/db", ".status.expiresAt").is_empty() && !field(&scene, "clm/by-hand", ".status.expiresAt").is_empty());
    scene.apply(&scene.app("behind").as_pod("konductor.io/mutex: db"));
    tokio::join!(tokio::time::sleep(ONE_AGE), scene.until_waiting("behind"));
    claim(&scene, "last", "kind: Mutex, name: db");
    until_phase(&scene, "last", "Pending").await;
    until_field(&scene, "mtx/db", ".status.waiting", "2").await;
    assert!(scene.beats("behind").is_empty());
    let first = token(&scene, "by-hand");
    delete(&scene, "by-hand");
    scene.until_beating("behind").await;
    until_field(&scene, "clm/last", ".status.message", "next in line for mutex/db, held by pod/behind").await;
    scene.end("behind", "0");
    until_phase(&scene, "last", "Granted").await;
    let ran = scene.beats("behind").len();
    assert!(token(&scene, "last") > first + 1, "the Pod had a token in between");
    delete(&scene, "last");
    scene.until_mutex_free("db").await;
    assert_eq!(scene.beats("behind").len(), ran);
}

/// What stands in the documentation, word for word.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_documentation_is_granted() {
    let scene = Scene::open("claim_docs").await;
    let page = include_str!("../../docs/claim.md");
    scene.apply(page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap());
    scene.run(&["wait", "--for=condition=Granted", "clm/migration-by-hand", "--timeout=60s"]);
    let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("    kubectl ")).collect();
    assert_eq!(commands.len(), 4);
    for command in commands {
        let words = command.split(" # ").next().unwrap().split_whitespace().map(|word| word.trim_matches('\'')).collect::<Vec<_>>();
        scene.run(&words);
    }
    scene.until_mutex_free("db-migrate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_kept_by_renewals_and_expires_without_them() {
    let scene = Scene::open("claim_lease").await;
    make(&scene, "Lease", "main", "{ttl: 15s}");
    claim(&scene, "first", "kind: Lease, name: main");
    until_phase(&scene, "first", "Granted").await;
    claim(&scene, "second", "kind: Lease, name: main, ttl: 1h");
    until_phase(&scene, "second", "Pending").await;
    let (shown, held) = (field(&scene, "clm/first", ".status.expiresAt"), token(&scene, "first"));
    // Twice as long as it would last without.
    let began = Instant::now();
    for renewals in 1.. {
        patch(&scene, "first", &format!("\"renewals\": {renewals}"));
        if began.elapsed() > Duration::from_secs(30) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((field(&scene, "clm/first", ".status.phase"), token(&scene, "first")), ("Granted".to_owned(), held));
    assert_ne!(field(&scene, "clm/first", ".status.expiresAt"), shown);
    assert!(field(&scene, "kls/main", ".status.renewCount").parse::<i64>().unwrap() > 0);
    until_phase(&scene, "first", "Expired").await;
    until_phase(&scene, "second", "Granted").await;
    assert_eq!((reason(&scene, "first"), token(&scene, "first")), ("Expired".to_owned(), held));
    assert!(token(&scene, "second") > held);
    scene.until_told("first", "Expired: ").await;
    // What is over stays so, however often it is renewed.
    patch(&scene, "first", "\"renewals\": 1000");
    delete(&scene, "second");
    until_field(&scene, "kls/main", ".status.phase", "Available").await;
    assert_eq!(field(&scene, "clm/first", ".status.phase"), "Expired");
    claim(&scene, "third", "kind: Lease, name: main, ttl: 1s");
    until_phase(&scene, "third", "Expired").await;
    until_field(&scene, "kls/main", ".status.phase", "Expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_and_readers_are_counted_and_nobody_passes_the_next_in_line() {
    let scene = Scene::open("claim_semaphore").await;
    scene.create_semaphore("slots", 3);
    make(&scene, "RWMutex", "cache", "{}");
    for (name, permits) in [("a", 2), ("b", 2), ("c", 1)] {
        claim(&scene, name, &format!("kind: Semaphore, name: slots, permits: {permits}"));
        // In whole seconds one is older than the next.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    until_phase(&scene, "a", "Granted").await;
    until_field(&scene, "clm/b", ".status.message", "next in line for semaphore/slots, held by claim/a").await;
    until_field(&scene, "clm/c", ".status.message", "in line for semaphore/slots").await;
    until_field(&scene, "sem/slots", ".status.inUse", "2").await;
    delete(&scene, "a");
    until_phase(&scene, "b", "Granted").await;
    until_phase(&scene, "c", "Granted").await;
    until_field(&scene, "sem/slots", ".status.phase", "Full").await;
    for name in ["reader-1", "reader-2"] {
        claim(&scene, name, "kind: RWMutex, name: cache, mode: Read");
        until_phase(&scene, name, "Granted").await;
    }
    claim(&scene, "writer", "kind: RWMutex, name: cache");
    until_phase(&scene, "writer", "Pending").await;
    until_field(&scene, "rwm/cache", ".status.readers", "2").await;
    delete(&scene, "reader-1");
    until_field(&scene, "rwm/cache", ".status.readers", "1").await;
    assert_eq!(field(&scene, "clm/writer", ".status.phase"), "Pending");
    delete(&scene, "reader-2");
    until_phase(&scene, "writer", "Granted").await;
    until_field(&scene, "rwm/cache", ".status.writeHolder", "claim/writer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_once_loses_no_outcome_of_a_claim() {
    let scene = Scene::open("claim_once").await;
    make(&scene, "Once", "migrate", "{}");
    let executes = "kind: Once, name: migrate";
    claim(&scene, "waits", "kind: Once, name: migrate, operation: Wait");
    claim(&scene, "fails", executes);
    until_phase(&scene, "fails", "Granted").await;
    assert!(field(&scene, "clm/fails", ".metadata.finalizers").contains("konductor.io/outcome"));
    patch(&scene, "fails", "\"succeeded\": false");
    until_phase(&scene, "fails", "Released").await;
    until_field(&scene, "clm/fails", ".metadata.finalizers", "").await;
    // Deleted before it says how it came out: nobody will ever know.
    claim(&scene, "vanishes", executes);
    until_phase(&scene, "vanishes", "Granted").await;
    delete(&scene, "vanishes");
    until_gone(&scene, "clm/vanishes").await;
    scene.until_told("migrate", "OutcomeUnknown: ").await;
    assert_eq!(
        (field(&scene, "onc/migrate", ".status.phase"), field(&scene, "clm/waits", ".status.phase")),
        ("Pending".into(), "Pending".into())
    );
    // Deleted in the moment in which it says that it succeeded.
    claim(&scene, "succeeds", executes);
    until_phase(&scene, "succeeds", "Granted").await;
    patch(&scene, "succeeds", "\"succeeded\": true");
    delete(&scene, "succeeds");
    until_gone(&scene, "clm/succeeds").await;
    until_field(&scene, "onc/migrate", ".status.executor", "claim/succeeds").await;
    until_phase(&scene, "waits", "Granted").await;
    claim(&scene, "too-late", executes);
    until_phase(&scene, "too-late", "Denied").await;
    assert_eq!(reason(&scene, "too-late"), "Executed");
    claim(&scene, "again", "kind: Once, name: migrate, operation: Reset");
    until_phase(&scene, "again", "Granted").await;
    until_field(&scene, "onc/migrate", ".status.phase", "Pending").await;
    assert_eq!(field(&scene, "onc/migrate", ".status.round"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_group_counts_every_claim_once_and_never_falls_below_zero() {
    let scene = Scene::open("claim_waitgroup").await;
    // In the wrong order, and before there is anything to count.
    claim(&scene, "early", "kind: WaitGroup, name: workers, operation: Done");
    claim(&scene, "added", "kind: WaitGroup, name: workers, operation: Add, delta: 3");
    claim(&scene, "waits", "kind: WaitGroup, name: workers, operation: Wait");
    until_field(&scene, "clm/early", ".status.message", "waiting for waitgroup/workers, which does not exist yet").await;
    make(&scene, "WaitGroup", "workers", "{}");
    until_field(&scene, "wg/workers", ".status.counter", "2").await;
    for name in ["early", "added"] {
        until_phase(&scene, name, "Granted").await;
    }
    until_field(&scene, "wg/workers", ".status.applied", "").await;
    assert_eq!(field(&scene, "wg/workers", ".status.counter"), "2", "what is remembered no more is not counted again");
    claim(&scene, "second", "kind: WaitGroup, name: workers, operation: Done");
    until_field(&scene, "wg/workers", ".status.counter", "1").await;
    assert_eq!(field(&scene, "clm/waits", ".status.phase"), "Pending");
    claim(&scene, "third", "kind: WaitGroup, name: workers, operation: Done");
    until_phase(&scene, "waits", "Granted").await;
    until_field(&scene, "wg/workers", ".status.phase", "Done").await;
    claim(&scene, "fourth", "kind: WaitGroup, name: workers, operation: Done");
    until_phase(&scene, "fourth", "Denied").await;
    assert!(message(&scene, "fourth").contains("would fall below zero"), "{}", message(&scene, "fourth"));
    claim(&scene, "again", "kind: WaitGroup, name: workers, operation: Reset");
    until_field(&scene, "wg/workers", ".status.phase", "Waiting").await;
    assert_eq!(field(&scene, "wg/workers", ".status.round"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_counts_each_holder_once_and_a_reset_begins_anew() {
    let scene = Scene::open("claim_barrier").await;
    make(&scene, "Barrier", "ready", "{expected: 2}");
    claim(&scene, "waits", "kind: Barrier, name: ready, operation: Wait");
    let arrives =
        |name: &str, holder: &str| claim(&scene, name, &format!("kind: Barrier, name: ready, operation: Arrive, holder: {holder}"));
    for name in ["ann-1", "ann-2"] {
        arrives(name, "ann");
        until_phase(&scene, name, "Granted").await;
    }
    until_field(&scene, "bar/ready", ".status.arrived", "1").await;
    assert_eq!(field(&scene, "clm/waits", ".status.phase"), "Pending");
    arrives("bob-1", "bob");
    until_field(&scene, "bar/ready", ".status.phase", "Open").await;
    until_phase(&scene, "waits", "Granted").await;
    arrives("cid-1", "cid");
    until_phase(&scene, "cid-1", "Denied").await;
    assert!(reason(&scene, "cid-1") == "Late" && message(&scene, "cid-1").contains("2 of 2 have arrived"), "{}", message(&scene, "cid-1"));
    claim(&scene, "again", "kind: Barrier, name: ready, operation: Reset");
    until_phase(&scene, "again", "Granted").await;
    until_field(&scene, "bar/ready", ".status.phase", "Waiting").await;
    assert_eq!((field(&scene, "bar/ready", ".status.round"), field(&scene, "bar/ready", ".status.arrived")), ("1".into(), "0".into()));
    arrives("ann-3", "ann");
    until_field(&scene, "bar/ready", ".status.arrived", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_is_opened_closed_and_reset_by_hand() {
    let scene = Scene::open("claim_gate").await;
    make(&scene, "Gate", "go", "{}");
    claim(&scene, "waits", "kind: Gate, name: go, operation: Wait");
    until_phase(&scene, "waits", "Pending").await;
    claim(&scene, "close", "kind: Gate, name: go, operation: Close, holder: ann");
    until_field(&scene, "gt/go", ".status.phase", "Closed").await;
    assert_eq!(field(&scene, "gt/go", ".status.byHand.by"), "ann");
    claim(&scene, "open", "kind: Gate, name: go, operation: Open, holder: bob");
    scene.run(&["wait", "--for=condition=Open", "gt/go", "--timeout=60s"]);
    assert_eq!(field(&scene, "gt/go", ".status.byHand.by"), "bob");
    until_phase(&scene, "waits", "Granted").await;
    claim(&scene, "again", "kind: Gate, name: go, operation: Reset");
    until_field(&scene, "gt/go", ".status.phase", "Waiting").await;
    assert_eq!((field(&scene, "gt/go", ".status.round"), field(&scene, "gt/go", ".status.byHand")), ("1".into(), String::new()));
    for name in ["close", "open", "again"] {
        until_phase(&scene, name, "Granted").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_is_denied_and_who_waits_for_what_is_not_there_says_so() {
    let scene = Scene::open("claim_patience").await;
    claim(&scene, "at-once", "kind: Mutex, name: db, timeout: 0s");
    until_phase(&scene, "at-once", "Denied").await;
    assert_eq!(message(&scene, "at-once"), "mutex/db does not exist, and this one does not wait");
    claim(&scene, "holder", "kind: Mutex, name: db");
    until_field(&scene, "clm/holder", ".status.message", "waiting for mutex/db, which does not exist yet").await;
    scene.create_mutex("db");
    until_phase(&scene, "holder", "Granted").await;
    claim(&scene, "not-free", "kind: Mutex, name: db, timeout: 0s");
    claim(&scene, "runs-out", "kind: Mutex, name: db, timeout: 2s");
    claim(&scene, "gives-up", "kind: Barrier, name: none, operation: Arrive, timeout: 2s");
    until_phase(&scene, "not-free", "Denied").await;
    assert_eq!(reason(&scene, "not-free"), "NotFree");
    for name in ["runs-out", "gives-up"] {
        until_phase(&scene, name, "Denied").await;
        assert_eq!(reason(&scene, name), "TimedOut");
        scene.until_told(name, "Denied: ").await;
    }
    assert_eq!(message(&scene, "runs-out"), "timed out waiting for mutex/db; held by claim/holder");
    // One that is held stays until it is given back.
    scene.run(&["delete", "mutex", "db", "--wait=false"]);
    claim(&scene, "next", "kind: Mutex, name: db");
    until_phase(&scene, "next", "Pending").await;
    scene.until_mutex_held_by("db", "holder").await;
    delete(&scene, "holder");
    until_gone(&scene, "mtx/db").await;
    scene.create_mutex("db");
    until_phase(&scene, "next", "Granted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_reaches_nothing_of_another_namespace() {
    let scene = Scene::open("claim_own").await;
    let other = scene.open_beside("claim_other").await;
    make(&other, "Mutex", "db", "{allowedNamespaces: ['*']}");
    claim(&scene, "a", "kind: Mutex, name: db");
    let words = scene.refused(&claim_yaml("b", &format!("kind: Mutex, name: {}/db", other.namespace)));
    assert!(words.contains("spec.name"), "{words}");
    claim(&other, "c", "kind: Mutex, name: db");
    until_phase(&other, "c", "Granted").await;
    until_field(&scene, "clm/a", ".status.message", "waiting for mutex/db, which does not exist yet").await;
    assert_eq!(other.mutex_holders("db").await, ["c"]);
}

/// A Claim that is lost to its own status is none that holds: nobody lets it in again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_asks_for_and_its_token_cannot_be_changed() {
    let scene = Scene::open("claim_fixed").await;
    scene.create_mutex("db");
    claim(&scene, "a", "kind: Mutex, name: db");
    until_phase(&scene, "a", "Granted").await;
    let words = scene.run_refused(&["patch", "clm", "a", "--type=merge", "-p", "{\"spec\": {\"name\": \"other\"}}"]);
    assert!(words.contains("what a Claim asks for does not change"), "{words}");
    let words = scene.run_refused(&["patch", "clm", "a", "--subresource=status", "--type=merge", "-p", "{\"status\": {\"token\": 1}}"]);
    assert!(words.contains("the token of a Claim does not change"), "{words}");
    let words = scene.refused(&claim_yaml("wrong", "kind: Mutex, name: db, operation: Arrive"));
    assert!(words.contains("does not go with Mutex"), "{words}");
    // Somebody takes the hold away by force: it is told so, and is not let in again with another token.
    let held = token(&scene, "a");
    scene.run(&["patch", "mtx", "db", "--subresource=status", "--type=merge", "-p", "{\"status\": {\"holders\": null}}"]);
    until_phase(&scene, "a", "Expired").await;
    assert_eq!((token(&scene, "a"), message(&scene, "a")), (held, "no longer holds mutex/db".to_owned()));
    assert!(scene.mutex_holders("db").await.is_empty());
}

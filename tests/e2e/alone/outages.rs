//! konductor or the API server is away for a while: nobody runs who should not, nothing expires, nothing is forgotten, and what is none of konductor's
//! business goes on.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde_json::json;
use tokio::time::sleep;

use super::{
    nodes::{cluster, must_be_ours},
    system::{Away, HOLDS, line_up, must_have_run_in_order, until_serving},
};
use crate::{
    claims::{claim, token, until_phase},
    primitives::field,
    scene::Scene,
};

#[tokio::test(flavor = "multi_thread")]
async fn without_konductor_the_rest_of_the_cluster_goes_on() {
    let scene = Scene::open_alone("away").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.create_mutex("jobs");
    scene.create_semaphore("many", 5);
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("waiter").seconds(1).as_pod(HOLDS));
    scene.until_waiting("waiter").await;
    scene.apply(&scene.app("lasting").as_job("konductor.io/mutex: jobs"));
    scene.apply(&scene.app("passing").job_field("ttlSecondsAfterFinished", json!(1)).as_job("konductor.io/semaphore: many"));
    scene.apply(&scene.app("lean").as_job("konductor.io/semaphore: 'many;release=controller'"));
    for name in ["lasting", "passing", "lean"] {
        scene.until_beating(name).await;
    }
    // Another namespace, with a Mutex that was held once.
    let other = format!("{}-other", scene.namespace);
    scene.run(&["create", "namespace", &other]);
    let mutex = "{apiVersion: konductor.io/v1, kind: Mutex, metadata: {name: used}}";
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: past, annotations: {konductor.io/mutex: used}}, spec: {restartPolicy: Never, \
               containers: [{name: app, image: 'konductor.local/busybox:1', command: ['true']}]}}";
    let output = scene.kubectl(&["-n", &other, "apply", "-f", "-"], Some(&format!("{mutex}\n---\n{pod}\n")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene
        .until("the Mutex was held and is free to go", async || {
            let fields = "jsonpath={.status.lastToken}/{.status.holders}/{.metadata.finalizers}";
            let state = scene.run(&["-n", &other, "get", "mutex", "used", "-o", fields]);
            let mut parts = state.split('/');
            parts.next().is_some_and(|token| token.len() > 1) && parts.all(|part| part.is_empty() || part == "[]")
        })
        .await;

    let away = Away::take(&scene).await;
    let tokens = (scene.mutex_token("db").await, scene.mutex_token("jobs").await);
    // Whoever has no annotations does not notice, nor whoever switched konductor off.
    scene.apply(&scene.app("plain").seconds(1).as_pod(""));
    scene.apply(&scene.app("switched-off").seconds(1).as_pod(&format!("{HOLDS}, konductor.io/inject: 'false'")));
    scene.apply(&scene.app("plain-job").seconds(1).as_job(""));
    scene.until_succeeded("plain").await;
    scene.until_succeeded("switched-off").await;
    // Whoever has some is refused, and told by whom.
    for (name, file) in [("pod", scene.app("late").seconds(1).as_pod(HOLDS)), ("job", scene.app("late").seconds(1).as_job(HOLDS))] {
        let said = scene.refused(&file);
        assert!(said.contains("konductor.io") && said.contains("konductor-webhook"), "{name}: {said}");
    }
    // Those who hold finish as ever.
    for name in ["holder", "lasting", "passing", "lean"] {
        scene.tell_to_end(name);
    }
    scene.until_succeeded("holder").await;
    for job in ["job/lasting", "job/lean"] {
        scene.run(&["wait", "--for=condition=Complete", job, "--timeout=120s"]);
    }
    scene.until("the Job with a time to live is gone", async || scene.jobs().get_opt("passing").await.unwrap().is_none()).await;
    scene.run(&["delete", "job", "lean", "--wait", "--timeout=60s"]);
    scene.run(&["delete", "namespace", &other, "--wait=false"]);
    let namespaces = Api::<Namespace>::all(scene.client.clone());
    scene.until("the other namespace is gone", async || namespaces.get_opt(&other).await.unwrap().is_none()).await;
    // Nothing expired, and nobody was let in.
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
    assert_eq!(scene.mutex_holders("jobs").await, ["lasting"]);
    assert!(scene.beats("waiter").is_empty());

    drop(away);
    scene.until_succeeded("waiter").await;
    scene.until_mutex_free("db").await;
    scene.until_mutex_free("jobs").await;
    scene.until("all permits are back", async || scene.semaphores().get("many").await.unwrap().status.unwrap().in_use == 0).await;
    assert!(scene.most_at_once(&["holder".into(), "waiter".into()]) <= 1);
    assert_eq!(
        (scene.mutex_token("db").await, scene.mutex_token("jobs").await),
        (tokens.0 + 1, tokens.1),
        "one more hold of db, and no other"
    );
}

/// Each of them vanishes as soon as it may.
#[tokio::test(flavor = "multi_thread")]
async fn what_succeeds_while_konductor_is_away_is_counted() {
    let scene = Scene::open_alone("ends_while_away").await;
    until_serving(&scene).await;
    let kinds = [("Barrier", "{expected: 1}", "arrive: barrier"), ("Once", "{}", "once: "), ("WaitGroup", "{}", "done: waitgroup")];
    for (kind, spec, annotation) in kinds {
        let name = kind.to_lowercase();
        scene.apply(&format!("apiVersion: konductor.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
        let annotation = format!("konductor.io/{}{}{name}", annotation, if annotation.ends_with(' ') { "" } else { "/" });
        scene.apply(&scene.app(&name).job_field("ttlSecondsAfterFinished", json!(0)).as_job(&annotation));
        scene.until_beating(&name).await;
    }
    let away = Away::take(&scene).await;
    for (kind, _, _) in kinds {
        scene.end(&kind.to_lowercase(), "0");
    }
    scene.until_jobs_complete(3).await;
    drop(away);
    for (object, path, value) in [
        ("barrier/barrier", "{.status.phase}", "Open"),
        ("once/once", "{.status.phase}", "Executed"),
        ("waitgroup/waitgroup", "{.status.phase}", "Done"),
    ] {
        scene
            .until(&format!("{object} is {value}"), async || scene.run(&["get", object, "-o", &format!("jsonpath={path}")]) == value)
            .await;
    }
    scene.until("the Jobs are gone", async || scene.jobs().list(&Default::default()).await.unwrap().items.is_empty()).await;
}

/// The API server is gone; it is back when this is dropped.
struct NoApiServer;

impl NoApiServer {
    fn kill() -> Self {
        must_be_ours();
        cluster(&["component", "kill", "kube-apiserver"]);
        Self
    }
}

impl Drop for NoApiServer {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(|| cluster(&["component", "start", "kube-apiserver"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_away_changes_nothing() {
    let scene = Scene::open_alone("no_api_server").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    let line = line_up(&scene, HOLDS, 3).await;
    let away = NoApiServer::kill();
    scene.tell_to_end("holder");
    // Longer than a leader goes on without its record, and longer than agents wait for a sign of life.
    sleep(Duration::from_secs(25)).await;
    assert!(line.iter().all(|name| scene.beats(name).is_empty()), "nobody can be granted anything now");
    drop(away);
    scene.until("the API server answers", async || scene.kubectl(&["get", "--raw", "/readyz"], None).status.success()).await;
    for name in &line {
        scene.until_succeeded(name).await;
    }
    must_have_run_in_order(&scene, &[&["holder".to_owned()], line.as_slice()].concat());
    scene.until_mutex_free("db").await;
    until_serving(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_does_not_expire_because_konductor_was_away() {
    let scene = Scene::open_alone("claim_away").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.create_mutex("other");
    claim(&scene, "a", "kind: Mutex, name: db, ttl: 20s");
    until_phase(&scene, "a", "Granted").await;
    let held = token(&scene, "a");
    let away = Away::take(&scene).await;
    // Longer than it holds without a renewal; and nobody renews it.
    sleep(Duration::from_secs(21)).await;
    claim(&scene, "b", "kind: Mutex, name: db");
    claim(&scene, "probe", "kind: Mutex, name: other");
    scene.run_in_system(&["scale", "deployment/konductor", "--replicas=2"]);
    until_phase(&scene, "probe", "Granted").await;
    assert_eq!((field(&scene, "clm/a", ".status.phase"), token(&scene, "a")), ("Granted".to_owned(), held));
    assert_eq!(scene.mutex_holders("db").await, ["a"]);
    drop(away);
    // Then it does.
    until_phase(&scene, "a", "Expired").await;
    until_phase(&scene, "b", "Granted").await;
    assert!(token(&scene, "b") > held);
}

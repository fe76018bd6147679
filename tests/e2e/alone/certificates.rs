//! Certificates change under load: no request fails, and who waits goes on waiting.

use super::system::{Applying, Away, HOLDS, must_have_run_in_order, until_serving};
use crate::{
    https::{self, COORDINATOR, WEBHOOK},
    scene::Scene,
};

/// Waits until every new connection to both Services is served with what the Secret has, and it is not this one.
async fn until_served_anew(scene: &Scene, old: &[u8]) {
    for service in [WEBHOOK, COORDINATOR] {
        let what = format!("{service} serves a new certificate");
        scene
            .until(&what, async || {
                let Some(secret) = https::certificates(scene).await else { return false };
                let new = https::leaf(&secret);
                // Several connections, so that every replica gets its turn.
                let mut so = !new.is_empty() && new != old;
                for _ in 0..8 {
                    so = so && https::presented(scene, service).await.is_ok_and(|presented| presented == new);
                }
                so
            })
            .await;
    }
}

async fn certificate(scene: &Scene) -> Vec<u8> {
    https::leaf(&https::certificates(scene).await.expect("konductor has its Secret"))
}

/// What must hold whenever certificates change: nobody's request fails, who waits goes on waiting and gets its turn, also over a new connection.
async fn changing_certificates_disturbs_nobody(scene: &Scene, change: impl FnOnce()) {
    until_serving(scene).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("waiter").seconds(1).as_pod(HOLDS));
    scene.until_waiting("waiter").await;
    let applying = Applying::start(scene);
    let old = certificate(scene).await;
    change();
    until_served_anew(scene, &old).await;
    // The agent in `waiter` was born with the earlier CA: it must come back to whoever leads now.
    scene.run_in_system(&["rollout", "restart", "deployment/konductor"]);
    until_serving(scene).await;
    scene.apply(&scene.app("younger").seconds(1).as_pod(HOLDS));
    scene.until_waiting("younger").await;
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);
    scene.tell_to_end("holder");
    scene.until_succeeded("waiter").await;
    scene.until_succeeded("younger").await;
    applying.must_have_succeeded().await;
    must_have_run_in_order(scene, &["holder", "waiter", "younger"].map(String::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_the_certificate_is_renewed() {
    let scene = Scene::open_alone("renewed_leaf").await;
    // A Secret without a leaf gets a new one from its CA, which is what also happens when the old one comes to its end.
    let without = r#"{"data": {"tls.crt": "", "tls.key": ""}}"#;
    changing_certificates_disturbs_nobody(&scene, || drop(scene.run_in_system(&["patch", "secret", "konductor-certs", "-p", without])))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_the_secret_is_deleted() {
    let scene = Scene::open_alone("deleted_secret").await;
    changing_certificates_disturbs_nobody(&scene, || drop(scene.run_in_system(&["delete", "secret", "konductor-certs"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ca_is_no_harm_to_holders_and_those_who_wait_say_what_to_do() {
    let scene = Scene::open_alone("new_ca").await;
    until_serving(&scene).await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod(HOLDS));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("old").seconds(1).as_pod(HOLDS));
    scene.until_waiting("old").await;
    let away = Away::take(&scene).await;
    scene.run_in_system(&["delete", "secret", "konductor-certs"]);
    drop(away);
    until_serving(&scene).await;
    let log = |pod: &str| scene.run(&["logs", pod, "-c", "konductor-acquire"]);
    scene.until("the waiting Pod says that it must be made anew", async || log("old").contains("make the Pod anew")).await;
    scene.apply(&scene.app("new").seconds(1).as_pod(HOLDS));
    scene.until_waiting("new").await;
    scene.tell_to_end("holder");
    // The older one cannot be reached; nobody waits for it for ever.
    scene.until_succeeded("new").await;
    scene.run(&["delete", "pod", "old", "--wait"]);
    scene.apply(&scene.app("old").seconds(1).as_pod(HOLDS));
    scene.until_succeeded("old").await;
    must_have_run_in_order(&scene, &["holder", "new", "old"].map(String::from));
}

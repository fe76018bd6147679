//! Who may act on what: a Pod on what its own annotations say, and nobody on anything else.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use k8s_openapi::ByteString;
use serde_json::Value;

use crate::{
    alone::nodes::must_be_ours,
    https::{Answer, ask},
    scene::{Scene, delete_now},
};

/// A token of the default service account; `arguments` say for whom and what.
fn token(scene: &Scene, arguments: &[&str]) -> String {
    scene.run(&[&["create", "token", "default"], arguments].concat()).trim().to_owned()
}

/// A token like the one that the kubelet puts into this Pod.
pub async fn token_of_pod(scene: &Scene, pod: &str) -> String {
    let uid = scene.pods().get(pod).await.unwrap().metadata.uid.unwrap();
    let bound_to = format!("--bound-object-uid={uid}");
    token(scene, &["--audience=konductor.io", "--bound-object-kind=Pod", "--bound-object-name", pod, &bound_to])
}

/// Sends the request until the leader answers it: another test may just have ended the one before.
pub async fn answer(scene: &Scene, path: &str, token: Option<&str>) -> Answer {
    let mut last = ask(scene, path, token).await;
    scene
        .until("the coordinator answers", async || {
            last = ask(scene, path, token).await;
            last.status != 503
        })
        .await;
    last
}

/// A Pod that holds nothing of its own and runs until it is told to end.
fn plain_pod(scene: &Scene, name: &str) {
    scene.apply(&scene.app(name).as_pod(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_a_pods_own_is_refused() {
    let scene = Scene::open("bad_tokens").await;
    plain_pod(&scene, "somebody");
    let of_the_api = token(&scene, &[]);
    let of_another_audience = token(&scene, &["--audience=vault"]);
    let bound_to_no_pod = token(&scene, &["--audience=konductor.io"]);
    let forged = format!("{}x", token_of_pod(&scene, "somebody").await);
    let too_long = "a".repeat(7000);
    for (what, token) in [
        ("no token", None),
        ("an empty token", Some("")),
        ("garbage", Some("let-me-in")),
        ("far too long a token", Some(too_long.as_str())),
        ("a token of the API server's audience", Some(of_the_api.as_str())),
        ("a token of another audience", Some(of_another_audience.as_str())),
        ("a token that is bound to no Pod", Some(bound_to_no_pod.as_str())),
        ("a token with a broken signature", Some(forged.as_str())),
    ] {
        for path in ["/v1/acquire", "/v1/verify", "/v1/release"] {
            let Answer { status, body } = answer(&scene, path, token).await;
            assert_eq!(status, 401, "{path} with {what}: {body}");
            assert!(body.contains("token refused"), "{path} with {what} says why: {body}");
        }
    }
    scene.tell_to_end("somebody");
}

/// A token made again with times that lie this many seconds back. Kubernetes issues none for less than ten minutes, so it is signed here, with the key of
/// the test cluster.
fn aged(token: &str, seconds: i64) -> String {
    must_be_ours();
    let kubeconfig = PathBuf::from(std::env::var("KUBECONFIG").unwrap());
    let key = kubeconfig.with_file_name("pki").join("service-accounts.key");
    let (header, rest) = token.split_once('.').unwrap();
    let (claims, _) = rest.split_once('.').unwrap();
    let mut claims: Value = serde_json::from_slice(&from_base64url(claims)).unwrap();
    for time in ["exp", "iat", "nbf"] {
        claims[time] = (claims[time].as_i64().unwrap() - seconds).into();
    }
    let signed = format!("{header}.{}", to_base64url(claims.to_string().as_bytes()));
    let mut openssl =
        Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    openssl.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
    let signature = openssl.wait_with_output().unwrap().stdout;
    format!("{signed}.{}", to_base64url(&raw_signature(&signature)))
}

/// A P-256 signature as a token has it, two numbers of 32 bytes, from what openssl makes: a sequence of two integers, each with its length.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let (number, after) = rest[2..].split_at(rest[1].into());
        let number = &number[number.len().saturating_sub(32)..];
        raw.extend(std::iter::repeat_n(0, 32 - number.len()).chain(number.iter().copied()));
        rest = after;
    }
    raw
}

fn to_base64url(bytes: &[u8]) -> String {
    let text = serde_json::to_value(ByteString(bytes.to_vec())).unwrap();
    text.as_str().unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_")
}

fn from_base64url(text: &str) -> Vec<u8> {
    let padded = format!("{}{}", text.replace('-', "+").replace('_', "/"), "=".repeat((4 - text.len() % 4) % 4));
    serde_json::from_value::<ByteString>(padded.into()).unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused() {
    let scene = Scene::open("expired_token").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
    scene.until_beating("holder").await;
    let token = token_of_pod(&scene, "holder").await;
    assert_eq!(answer(&scene, "/v1/verify", Some(&aged(&token, 0))).await.status, 200, "it is well made");
    let expired = aged(&token, 7200);
    for path in ["/v1/acquire", "/v1/verify", "/v1/release"] {
        let Answer { status, body } = answer(&scene, path, Some(&expired)).await;
        assert_eq!(status, 401, "{path}: {body}");
        assert!(body.contains("expired"), "{path} says why: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_deleted_pod_is_refused() {
    let scene = Scene::open("deleted_pods_token").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("gone").as_pod("konductor.io/mutex: db"));
    scene.until_beating("gone").await;
    let token = token_of_pod(&scene, "gone").await;
    assert_eq!(answer(&scene, "/v1/verify", Some(&token)).await.status, 200);

    let before = scene.mutex_token("db").await;
    scene.tell_to_end("gone");
    scene.pods().delete("gone", &delete_now()).await.unwrap();
    scene
        .until("its token is refused", async || {
            let verify = ask(&scene, "/v1/verify", Some(&token)).await;
            // 401 once the API server is asked about the token again, 403 before.
            matches!(verify.status, 401 | 403) && matches!(ask(&scene, "/v1/acquire", Some(&token)).await.status, 401 | 403)
        })
        .await;

    // A new Pod of the same name is another Pod.
    scene.apply(&scene.app("gone").as_pod("konductor.io/mutex: db"));
    assert!(matches!(ask(&scene, "/v1/verify", Some(&token)).await.status, 401 | 403));
    scene.until("the new one is granted it", async || scene.mutex_token("db").await > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_gives_only_what_its_own_pod_may() {
    let scene = Scene::open("stolen_token").await;
    scene.create_mutex("mine");
    scene.create_mutex("theirs");
    scene.apply(&scene.app("me").as_pod("konductor.io/mutex: mine"));
    scene.apply(&scene.app("they").as_pod("konductor.io/mutex: theirs"));
    plain_pod(&scene, "stranger");
    scene.until_beating("me").await;
    scene.until_beating("they").await;
    let mine = token_of_pod(&scene, "me").await;

    let verified = answer(&scene, "/v1/verify", Some(&mine)).await;
    assert_eq!(verified.status, 200);
    assert!(verified.body.contains("mutex/mine") && !verified.body.contains("theirs"), "{verified:?}");
    let acquired = answer(&scene, "/v1/acquire", Some(&mine)).await;
    assert!(acquired.body.contains("granted") && acquired.body.contains("mutex/mine") && !acquired.body.contains("theirs"), "{acquired:?}");

    // Saying that the Pod ended is a reason to look; it runs, so nothing happens.
    assert_eq!(answer(&scene, "/v1/release", Some(&mine)).await.status, 200);
    scene.apply(&scene.app("behind-me").seconds(1).as_pod("konductor.io/mutex: mine"));
    scene.until_waiting("behind-me").await;
    assert_eq!(scene.mutex_holders("mine").await, ["me"]);
    assert_eq!(scene.mutex_holders("theirs").await, ["they"]);

    // A Pod whose annotations ask for nothing gets nothing.
    let nothing = token_of_pod(&scene, "stranger").await;
    for path in ["/v1/acquire", "/v1/verify"] {
        let Answer { status, body } = answer(&scene, path, Some(&nothing)).await;
        assert_eq!(status, 422, "{path}: {body}");
    }

    scene.tell_to_end("me");
    scene.until_succeeded("behind-me").await;
    assert!(scene.most_at_once(&["me".into(), "behind-me".into()]) <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primitive_of_another_namespace_must_allow_it() {
    let owner = Scene::open("allowed_owner").await;
    let guest = owner.open_beside("allowed_guest").await;
    owner.create_mutex("closed");
    owner.apply(&format!(
        "apiVersion: konductor.io/v1\nkind: Mutex\nmetadata: {{name: shared}}\nspec: {{allowedNamespaces: [{}]}}\n",
        guest.namespace
    ));
    guest.apply(&guest.app("denied").seconds(1).as_pod(&format!("konductor.io/mutex: {}/closed", owner.namespace)));
    guest.apply(&guest.app("allowed").seconds(1).as_pod(&format!("konductor.io/mutex: {}/shared", owner.namespace)));

    guest.until_succeeded("allowed").await;
    guest.until("the other Pod fails", async || guest.phase("denied").await.as_deref() == Some("Failed")).await;
    let pod = guest.pods().get("denied").await.unwrap();
    let step = pod.status.unwrap().init_container_statuses.unwrap().into_iter().find(|step| step.name == "konductor-acquire").unwrap();
    let end = step.state.unwrap().terminated.unwrap();
    assert_eq!(end.exit_code, 4);
    let log = guest.run(&["logs", "denied", "-c", "konductor-acquire"]);
    let closed = format!("mutex/{}/closed", owner.namespace);
    for said in [log, end.message.unwrap_or_default()] {
        assert!(said.contains(&closed) && said.contains("allowedNamespaces"), "says why: {said}");
    }
    assert!(guest.beats("denied").is_empty(), "its app never ran");
    assert_eq!(owner.mutex_token("closed").await, 0, "it was never granted");
    assert!(owner.mutex_token("shared").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_their_pods_get_no_rights() {
    let scene = Scene::open("no_rights").await;
    let user = format!("--as=system:serviceaccount:{}:default", scene.namespace);
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
        for what in ["mutexes.konductor.io", "semaphores.konductor.io", "mutexes.konductor.io/status", "pods", "jobs.batch", "secrets"] {
            let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
            let subresource = format!("--subresource={subresource}");
            let answer = scene.kubectl(&["auth", "can-i", verb, resource, &subresource, &user], None);
            assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "no", "{verb} {what}");
        }
    }
}

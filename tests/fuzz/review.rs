//! Admission: whatever body comes, the webhook answers; and whatever review of an API server it is, with an AdmissionReview.

use std::{cell::OnceCell, fs, path::Path, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use k8s_openapi::ByteString;
use konductor::{inject::Settings, webhook};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::watch};
use tower::ServiceExt;

use crate::{LARGEST_ANSWER, Target, corpus, mutate, tape::Tape};

pub const TARGET: Target = Target { name: "review", inputs: 20_000, make, check, memory: 8 << 20 };

struct Webhook {
    runtime: Runtime,
    router: Router,
    cases: Vec<Value>,
}

thread_local! {
    static WEBHOOK: OnceCell<Webhook> = const { OnceCell::new() };
}

fn with<T>(run: impl FnOnce(&Webhook) -> T) -> T {
    WEBHOOK.with(|webhook| run(webhook.get_or_init(start)))
}

fn start() -> Webhook {
    let (_, receiver) = watch::channel(Some(Arc::new(Settings::anywhere())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    Webhook { runtime, router: webhook::router(receiver, Arc::default()), cases: cases() }
}

/// The golden cases, as an API server would ask about them, and what was found before.
fn cases() -> Vec<Value> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let mut folders: Vec<_> = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let read = |folder: &Path, name: &str| -> Option<Value> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        Some(serde_saphyr::from_str(&text).unwrap())
    };
    let case = |folder: &Path| {
        let (object, old) = (read(folder, "input.yaml")?, read(folder, "old.yaml"));
        let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
        let request = json!({ "uid": "u-1", "operation": operation, "namespace": "shop", "object": object, "oldObject": old });
        Some(json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request }))
    };
    let golden = folders.iter().filter_map(|folder| case(folder));
    let found = corpus("review").into_iter().filter_map(|(_, text)| serde_json::from_slice(&text).ok());
    golden.chain(found).collect()
}

fn make(tape: &[u8]) -> Vec<u8> {
    with(|webhook| mutate::json(&webhook.cases, &mut Tape(tape)))
}

fn check(input: &[u8]) -> usize {
    with(|webhook| ["/v1/mutate", "/v1/validate"].into_iter().map(|path| check_one(webhook, path, input)).max().unwrap())
}

fn check_one(webhook: &Webhook, path: &str, input: &[u8]) -> usize {
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(input.to_vec())).unwrap();
    let (status, body) = webhook.runtime.block_on(async {
        let response = webhook.router.clone().oneshot(request).await.unwrap();
        (response.status(), to_bytes(response.into_body(), 16 * LARGEST_ANSWER).await.unwrap())
    });
    let said = || String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned();
    match status {
        StatusCode::OK => is_answer(&body, input, path),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
            assert!(
                !is_review(input) || status == StatusCode::PAYLOAD_TOO_LARGE,
                "a review of an API server is answered {status}: {}",
                said()
            );
        }
        _ => panic!("{path} answers {status}: {}", said()),
    }
    body.len()
}

/// Whether an API server could have sent this.
fn is_review(input: &[u8]) -> bool {
    let Ok(review) = serde_json::from_slice::<Value>(input) else { return false };
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let is_object = |pointer: &str| review.pointer(pointer).is_some_and(Value::is_object);
    text("/apiVersion") == "admission.k8s.io/v1"
        && text("/kind") == "AdmissionReview"
        && (1..=36).contains(&text("/request/uid").len())
        && !text("/request/namespace").is_empty()
        && is_object("/request/object")
}

fn is_answer(answer: &[u8], input: &[u8], path: &str) {
    let (asked, answer): (Value, Value) = (serde_json::from_slice(input).unwrap(), serde_json::from_slice(answer).unwrap());
    let response = &answer["response"];
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    assert_eq!(response["uid"], asked["request"]["uid"]);
    let warnings = response["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(warnings.iter().all(|warning| warning.as_str().is_some_and(|warning| !warning.is_empty())), "{response}");
    match response["allowed"].as_bool() {
        None => panic!("neither yes nor no: {response}"),
        Some(false) => {
            let status = &response["status"];
            assert!(status["message"].as_str().is_some_and(|message| message.starts_with("konductor: ")), "{response}");
            assert!(status["code"] == 422 || status["code"] == 403, "{response}");
            assert!(response.get("patch").is_none());
        }
        Some(true) => {
            let mut object = asked["request"]["object"].clone();
            if let Some(patch) = response.get("patch") {
                assert_eq!((path, &response["patchType"]), ("/v1/mutate", &json!("JSONPatch")));
                let patch: ByteString = serde_json::from_value(patch.clone()).unwrap();
                let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
                json_patch::patch(&mut object, &patch).unwrap_or_else(|error| panic!("the patch does not apply: {error}"));
            }
            assert!(path != "/v1/mutate" || !must_wait(&asked["request"]) || waits(&object), "let in without its lock: {object}");
        }
    }
}

/// Whether this is a new Pod that is to hold a Mutex; not if it says that nothing is to be injected, nor a kubelet's copy of a static one.
fn must_wait(request: &Value) -> bool {
    let object = &request["object"];
    let annotations = &object["metadata"]["annotations"];
    request["operation"] == "CREATE"
        && request["subResource"].as_str().is_none_or(str::is_empty)
        && !request["oldObject"].is_object()
        && object["apiVersion"] == "v1"
        && object["kind"] == "Pod"
        && annotations["konductor.io/mutex"].is_string()
        && ["konductor.io/inject", "kubernetes.io/config.mirror"].iter().all(|key| annotations.get(*key).is_none())
}

fn waits(pod: &Value) -> bool {
    let image = Settings::anywhere().image;
    let mut steps = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    steps.any(|step| (step["name"] == "konductor-acquire" || step["name"] == "konductor-install") && step["image"] == image)
}

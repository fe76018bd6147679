//! The HTTP around the reviews: limits, content type, readiness, and a panic that stays in its request.

use std::{
    net::{IpAddr, Ipv4Addr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{debug, error, info};

use super::review::{self, BadReview};
use crate::{
    crowd::{Crowd, Place},
    inject::Settings,
    metrics::Metrics,
    tls::Guest,
};

/// The settings as they are now; `None` until the CA and the coordinator's address are known.
pub type SettingsReceiver = watch::Receiver<Option<Arc<Settings>>>;

/// An update carries the object twice, and one may have 1.5 MiB.
const LARGEST_BODY: usize = 4 * 1024 * 1024;
/// A body that is larger needs a place among the large ones, and they are reviewed one after the other: the memory of a review is many times that of its
/// text.
const LARGE_BODY: usize = 64 * 1024;
/// Most large bodies that are read at once.
const LARGE_AT_ONCE: usize = 16;
/// Most values in a body, whatever its size: a short one may be nothing but the beginnings of objects. A Pod of a hundred containers has some thousand.
const MOST_VALUES: usize = 100_000;
/// How long a client may take to send it; the API server itself gives up after 5 s.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The webhook's routes.
pub fn router(settings: SettingsReceiver, metrics: Arc<Metrics>) -> Router {
    let webhook = Webhook { settings, metrics, large: Crowd::new(LARGE_AT_ONCE), large_review: Arc::new(Semaphore::new(1)) };
    Router::new().route("/v1/mutate", post(mutate)).route("/v1/validate", post(validate)).with_state(webhook)
}

#[derive(Clone)]
struct Webhook {
    settings: SettingsReceiver,
    metrics: Arc<Metrics>,
    large: Arc<Crowd>,
    large_review: Arc<Semaphore>,
}

/// Who sends the request, if it came by a network.
type Sender = Option<Extension<Guest>>;

async fn mutate(State(webhook): State<Webhook>, sender: Sender, headers: HeaderMap, body: Body) -> Response {
    let current = webhook.settings.borrow().clone();
    let Some(current) = current else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "konductor is starting: its CA and the coordinator's address are not known yet");
    };
    webhook.answer("mutate", sender, &headers, body, |review| review::mutate(&current, review)).await
}

async fn validate(State(webhook): State<Webhook>, sender: Sender, headers: HeaderMap, body: Body) -> Response {
    webhook.answer("validate", sender, &headers, body, review::validate).await
}

impl Webhook {
    /// Reads the whole body, if it is not too large and does not take too long, since strangers reach this port as well; then answers.
    async fn answer(
        &self,
        webhook: &'static str,
        sender: Sender,
        headers: &HeaderMap,
        body: Body,
        answer: impl FnOnce(&Value) -> Result<Value, BadReview>,
    ) -> Response {
        let peer = sender.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Extension(guest)| guest.peer());
        let pushed_out = || plain(StatusCode::SERVICE_UNAVAILABLE, "too many large bodies at once from this address");
        let mut place = None;
        let body = match timeout(BODY_WITHIN, self.read(peer, body, &mut place)).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return pushed_out(),
            Ok(Err(refused)) => return refused,
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        };
        let _alone = match &place {
            None => None,
            Some(place) => tokio::select! {
                alone = self.large_review.acquire() => alone.ok(),
                () = place.pushed_out() => return pushed_out(),
            },
        };
        respond(webhook, &self.metrics, headers, &body, answer)
    }

    /// The whole body; `None` if it is large and others need the place.
    async fn read(&self, peer: IpAddr, mut body: Body, place: &mut Option<Place>) -> Result<Option<Vec<u8>>, Response> {
        let mut read = Vec::new();
        loop {
            let frame = match place.as_ref() {
                None => body.frame().await,
                Some(place) => tokio::select! {
                    frame = body.frame() => frame,
                    () = place.pushed_out() => return Ok(None),
                },
            };
            let Some(frame) = frame else { return Ok(Some(read)) };
            let frame = frame.map_err(|error| plain(StatusCode::BAD_REQUEST, &format!("the body ended early: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            if read.len() + data.len() > LARGEST_BODY {
                return Err(plain(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {LARGEST_BODY} bytes")));
            }
            if place.is_none() && read.len() + data.len() > LARGE_BODY {
                *place = Some(self.large.enter(peer));
            }
            read.extend_from_slice(data);
        }
    }
}

fn respond(
    webhook: &'static str,
    metrics: &Metrics,
    headers: &HeaderMap,
    body: &[u8],
    answer: impl FnOnce(&Value) -> Result<Value, BadReview>,
) -> Response {
    let began = Instant::now();
    let content = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content.split(';').next().is_some_and(|content| content.trim().eq_ignore_ascii_case("application/json")) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/json");
    }
    if values(body) > MOST_VALUES {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {MOST_VALUES} values"));
    }
    let review: Value = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("the body is not JSON: {error}")),
    };
    // One object must not take the connection, and with it the questions beside it, down.
    match catch_unwind(AssertUnwindSafe(|| answer(&review))) {
        Ok(Ok(answer)) => {
            metrics.reviewed(webhook, report(&review, &answer), began.elapsed());
            axum::Json(answer).into_response()
        }
        Ok(Err(bad)) => plain(StatusCode::BAD_REQUEST, &bad.to_string()),
        Err(_) => {
            error!("a review made konductor panic");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "konductor: internal error; its log says more")
        }
    }
}

/// At least as many as there are values in this JSON, without making any of them.
fn values(body: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (1, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' | b',' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

/// Logs an answer, and to whom it was given; says whether it allows.
fn report(review: &Value, answer: &Value) -> bool {
    let at = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let allowed = answer.pointer("/response/allowed") == Some(&Value::Bool(true));
    let [kind, namespace, user] = ["kind/kind", "namespace", "userInfo/username"].map(|field| at(review, &format!("/request/{field}")));
    // What a controller makes has no name yet.
    let named = ["name", "generateName"].map(|field| at(review, &format!("/request/object/metadata/{field}")));
    let name = named.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    if allowed {
        let patched = !at(answer, "/response/patch").is_empty();
        debug!(kind, namespace, name, user, patched, "admitted");
    } else {
        let message = at(answer, "/response/status/message");
        info!(kind, namespace, name, user, why = message, "refused");
    }
    allowed
}

fn plain(status: StatusCode, words: &str) -> Response {
    (status, words.to_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Bytes, to_bytes},
        http::Request,
    };
    use futures::StreamExt;
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;

    fn review(object: &Value) -> Value {
        let request = json!({ "uid": "u-1", "operation": "CREATE", "namespace": "shop", "object": object });
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request })
    }

    fn pod(mutex: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "app", "annotations": { "konductor.io/mutex": mutex } },
            "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
        })
    }

    async fn send(request: Request<Body>, known: Option<Settings>) -> (StatusCode, String) {
        let (_keep, receiver) = watch::channel(known.map(Arc::new));
        let response = router(receiver, Arc::default()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn ask(path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
        send(request, Some(Settings::anywhere())).await
    }

    async fn answer(path: &str, review: &Value) -> Value {
        let (status, body) = ask(path, review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&answer["kind"], &answer["response"]["uid"]), (&json!("AdmissionReview"), &json!("u-1")));
        answer["response"].clone()
    }

    #[tokio::test]
    async fn an_annotated_pod_is_patched() {
        let response = answer("/v1/mutate", &review(&pod("db"))).await;
        assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
        let patch: k8s_openapi::ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
        let mut patched = pod("db");
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched["spec"]["initContainers"][0]["name"], "konductor-acquire");
    }

    #[tokio::test]
    async fn a_mistake_is_refused_with_words() {
        let response = answer("/v1/mutate", &review(&pod("db;permits=2"))).await;
        assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("konductor: Pod shop/app: konductor.io/mutex: `permits=2` does not fit a mutex"), "{message}");
    }

    #[tokio::test]
    async fn a_template_is_validated() {
        let mut workload =
            json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "web" }, "spec": { "template": pod("db") } });
        let response = answer("/v1/validate", &review(&workload)).await;
        assert_eq!(response, json!({ "uid": "u-1", "allowed": true }));
        workload["spec"]["template"]["metadata"]["annotations"] = json!({ "konductor.io/mutx": "db" });
        workload["metadata"]["annotations"] = json!({ "konductor.io/mutex": "db" });
        let response = answer("/v1/validate", &review(&workload)).await;
        assert!(response["status"]["message"].as_str().unwrap().contains("did you mean `konductor.io/mutex`?"), "{response}");
    }

    #[tokio::test]
    async fn warnings_reach_the_person_who_applies() {
        let mut object = pod("db");
        object["spec"]["activeDeadlineSeconds"] = 5.into();
        let response = answer("/v1/mutate", &review(&object)).await;
        assert!(response["warnings"][0].as_str().unwrap().contains("activeDeadlineSeconds"), "{response}");
    }

    #[tokio::test]
    async fn deletions_and_subresources_pass() {
        for (field, value) in [("operation", "DELETE"), ("subResource", "status")] {
            let mut review = review(&pod("DB"));
            review["request"][field] = value.into();
            assert_eq!(answer("/v1/mutate", &review).await, json!({ "uid": "u-1", "allowed": true }));
        }
    }

    #[tokio::test]
    async fn what_is_no_review_is_a_bad_request() {
        let without = |pointer: &str| {
            let mut review = review(&pod("db"));
            *review.pointer_mut(pointer).unwrap() = Value::Null;
            review.to_string()
        };
        for (body, says) in [
            ("{".to_owned(), "not JSON"),
            ("[]".to_owned(), "expected an AdmissionReview"),
            (without("/kind"), "expected an AdmissionReview"),
            (without("/request"), "`request`"),
            (without("/request/uid"), "`request.uid`"),
            (without("/request/object"), "`request.object`"),
            (without("/request/namespace"), "`request.namespace`"),
            ("[".repeat(1000), "not JSON"),
        ] {
            let (status, words) = ask("/v1/mutate", body.clone()).await;
            assert!(status == StatusCode::BAD_REQUEST && words.contains(says), "{body:.60}: {status} {words}");
        }
    }

    #[tokio::test]
    async fn limits_and_types_are_checked() {
        assert_eq!(ask("/v1/mutate", vec![b' '; LARGEST_BODY + 1]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(ask("/v1/other", "{}").await.0, StatusCode::NOT_FOUND);
        let plain = Request::post("/v1/mutate").header("content-type", "text/plain").body(Body::from("{}")).unwrap();
        assert_eq!(send(plain, Some(Settings::anywhere())).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let get = Request::get("/v1/mutate").body(Body::empty()).unwrap();
        assert_eq!(send(get, Some(Settings::anywhere())).await.0, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn before_the_settings_are_known_only_mutation_waits() {
        let request = |path: &str| {
            let body = Body::from(review(&pod("db")).to_string());
            Request::post(path).header("content-type", "application/json; charset=utf-8").body(body).unwrap()
        };
        assert_eq!(send(request("/v1/mutate"), None).await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(send(request("/v1/validate"), None).await.0, StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let request = Request::post("/v1/mutate").header("content-type", "application/json").body(endless).unwrap();
        assert_eq!(send(request, Some(Settings::anywhere())).await.0, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn what_would_take_far_more_memory_than_it_has_bytes_is_refused() {
        let mut review = review(&pod("db"));
        let text = r#"[{"":0},{"":0}]"#;
        review["request"]["object"]["spec"]["text"] = text.repeat(10_000).into();
        assert_eq!(ask("/v1/mutate", review.to_string()).await.0, StatusCode::OK, "a text is one value");
        review["request"]["object"]["spec"]["text"] = vec![json!({ "": 0 }); MOST_VALUES / 2].into();
        let (status, words) = ask("/v1/mutate", review.to_string()).await;
        assert!(status == StatusCode::PAYLOAD_TOO_LARGE && words.contains("values"), "{status} {words}");
        assert_eq!(values(br#"{"a\\\"[{,": [1, 2, {"b": "]"}], "c": "\\"}"#), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_that_do_not_come_to_an_end_make_room_for_others() {
        let (_keep, receiver) = watch::channel(Some(Arc::new(Settings::anywhere())));
        let webhook = router(receiver, Arc::default());
        let crowd = Crowd::new(1000);
        let send = |peer: &str, body: Body| {
            let guest: Guest = Arc::new(crowd.enter(peer.parse().unwrap()));
            let request = Request::post("/v1/mutate").header("content-type", "application/json").extension(guest).body(body).unwrap();
            tokio::spawn(webhook.clone().oneshot(request))
        };
        let part = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; LARGE_BODY + 1]));
        let unfinished = || Body::from_stream(futures::stream::iter([part()]).chain(futures::stream::pending()));
        let stuck: Vec<_> = (0..2 * LARGE_AT_ONCE).map(|_| send("10.0.0.9", unfinished())).collect();
        tokio::task::yield_now().await;
        let text = format!("{}{}", " ".repeat(LARGE_BODY), review(&pod("db")));
        let answer = send("10.0.0.1", Body::from(text)).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let mut statuses = Vec::new();
        for stuck in stuck {
            statuses.push(stuck.await.unwrap().unwrap().status());
        }
        let (pushed_out, gave_up) = statuses.split_at(LARGE_AT_ONCE + 1);
        assert!(pushed_out.iter().all(|status| *status == StatusCode::SERVICE_UNAVAILABLE), "{statuses:?}");
        assert!(gave_up.iter().all(|status| *status == StatusCode::REQUEST_TIMEOUT), "{statuses:?}");
    }

    #[tokio::test]
    async fn whatever_is_wrong_is_said_in_few_words() {
        let mut long = pod("db");
        long["metadata"]["name"] = "x".repeat(500_000).into();
        for number in 0..10_000 {
            long["metadata"]["annotations"][format!("konductor.io/wrong-{number}")] = "x".into();
        }
        let response = answer("/v1/mutate", &review(&long)).await;
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains("wrong-0") && message.contains(" more"), "{message}");
        assert!(message.len() < 20_000, "{} bytes", message.len());
        let mut unknown = review(&pod("db"));
        unknown["request"]["uid"] = "u".repeat(500_000).into();
        assert_eq!(ask("/v1/mutate", unknown.to_string()).await.0, StatusCode::BAD_REQUEST);
        let mut other = review(&pod("db"));
        other["kind"] = "x".repeat(500_000).into();
        let (status, words) = ask("/v1/mutate", other.to_string()).await;
        assert!(status == StatusCode::BAD_REQUEST && words.len() < 1000, "{words}");
    }

    #[tokio::test]
    async fn an_answer_that_would_be_too_large_is_a_refusal() {
        let mut object = pod("db;fencing=true");
        let container = json!({ "name": "app", "image": "app:1", "env": [] });
        object["spec"]["containers"] = vec![container; 8_000].into();
        let response = answer("/v1/mutate", &review(&object)).await;
        assert!(response["status"]["message"].as_str().unwrap().contains("an answer has room for"), "{response:.300}");
    }

    #[test]
    fn a_panic_stays_in_its_request() {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, "application/json".parse().unwrap())]);
        let response = respond("mutate", &Metrics::default(), &headers, b"{}", |_| panic!("planted"));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

//! The SDK against a small API server of Claims in memory, on paused time: what is withdrawn, what is renewed, and when a hold counts as lost.

#![cfg(feature = "server")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep, timeout},
};

use super::{Client, Error, Options};

/// An API server that knows nothing but Claims of one namespace.
#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<(u64, &'static str, Value)>,
}

#[derive(Default)]
struct State {
    claims: BTreeMap<String, Value>,
    revision: u64,
    /// Requests that change something get no answer.
    silent: bool,
    /// What every new Claim is answered.
    answer: Option<Value>,
}

impl Server {
    fn new() -> Self {
        Self { state: Arc::default(), changes: broadcast::channel(100).0 }
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(kube::Client::new(service, "shop"), "shop")
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims(&self) -> Vec<Value> {
        self.state().claims.values().cloned().collect()
    }

    /// Grants every Claim at once, for this long.
    fn grants(self, ttl: Duration) -> Self {
        let granted = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        self.state().answer = Some(json!({
            "phase": "Granted", "token": 7, "grantedAt": granted.to_string(), "expiresAt": (granted + ttl).to_string(),
        }));
        self
    }

    /// Writes the status of every Claim that there is.
    fn say(&self, status: &Value) {
        let names: Vec<String> = self.state().claims.keys().cloned().collect();
        for name in names {
            self.change(&name, |claim| claim["status"] = status.clone());
        }
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut state = self.state();
        state.revision += 1;
        let revision = state.revision;
        let claim = state.claims.get_mut(name)?;
        change(claim);
        claim["metadata"]["resourceVersion"] = revision.to_string().into();
        let claim = claim.clone();
        drop(state);
        let _ = self.changes.send((revision, "MODIFIED", claim.clone()));
        Some(claim)
    }

    fn delete(&self, name: &str) -> Option<Value> {
        let mut state = self.state();
        state.revision += 1;
        let (revision, claim) = (state.revision, state.claims.remove(name)?);
        drop(state);
        let _ = self.changes.send((revision, "DELETED", claim.clone()));
        Some(claim)
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if parts.method != Method::GET && self.state().silent {
            return std::future::pending().await;
        }
        let name = parts.uri.path().rsplit('/').next().filter(|last| *last != "claims").unwrap_or_default().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        match (parts.method, name.as_str()) {
            (Method::POST, _) => {
                let mut claim: Value = serde_json::from_slice(&body).unwrap();
                let name = claim["metadata"]["name"].as_str().unwrap().to_owned();
                let mut state = self.state();
                if state.claims.contains_key(&name) {
                    return refusal(StatusCode::CONFLICT, "AlreadyExists");
                }
                state.revision += 1;
                claim["metadata"]["uid"] = format!("uid-{}", state.revision).into();
                claim["metadata"]["resourceVersion"] = state.revision.to_string().into();
                state.claims.insert(name.clone(), claim.clone());
                let (revision, answer) = (state.revision, state.answer.clone());
                drop(state);
                let _ = self.changes.send((revision, "ADDED", claim.clone()));
                if let Some(answer) = answer {
                    self.change(&name, |claim| claim["status"] = answer);
                }
                json_body(&claim)
            }
            (Method::GET, "") if query.contains("watch=true") => self.watch(&query),
            (Method::GET, "") => {
                let state = self.state();
                let items: Vec<&Value> = state
                    .claims
                    .iter()
                    .filter(|(name, _)| query.ends_with(name.as_str()) || query.contains(&format!("{name}&")))
                    .map(|(_, claim)| claim)
                    .collect();
                json_body(
                    &json!({ "apiVersion": "konductor.io/v1", "kind": "ClaimList", "metadata": { "resourceVersion": state.revision.to_string() }, "items": items }),
                )
            }
            (Method::GET, name) => self.state().claims.get(name).map_or_else(|| refusal(StatusCode::NOT_FOUND, "NotFound"), json_body),
            (Method::PATCH, name) => {
                let patch: json_patch::Patch = serde_json::from_slice(&body).unwrap();
                let Some(mut claim) = self.state().claims.get(name).cloned() else { return refusal(StatusCode::NOT_FOUND, "NotFound") };
                if json_patch::patch(&mut claim, &patch).is_err() {
                    return refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
                }
                json_body(&self.change(name, |old| *old = claim).unwrap())
            }
            (Method::DELETE, name) => {
                let options: Value = serde_json::from_slice(&body).unwrap_or_default();
                let Some(uid) = self.state().claims.get(name).map(|claim| claim["metadata"]["uid"].clone()) else {
                    return refusal(StatusCode::NOT_FOUND, "NotFound");
                };
                let wanted = options.pointer("/preconditions/uid").cloned();
                if wanted.is_some_and(|wanted| wanted != uid) {
                    return refusal(StatusCode::CONFLICT, "Conflict");
                }
                json_body(&self.delete(name).unwrap())
            }
            (method, path) => panic!("{method} {path}"),
        }
    }

    fn watch(&self, query: &str) -> Response<Body> {
        let changes = self.changes.subscribe();
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (query, missed) = (query.to_owned(), self.state().revision > from);
        let first = if missed { self.claims() } else { Vec::new() };
        let about = move |claim: &Value| claim["metadata"]["name"].as_str().is_some_and(|name| query.contains(name));
        let first: Vec<_> = first.into_iter().filter(&about).map(|claim| line("MODIFIED", &claim)).collect();
        let later = futures::stream::unfold((changes, about), |(mut changes, about)| async move {
            loop {
                let (_, kind, claim) = changes.recv().await.ok()?;
                if about(&claim) {
                    return Some((line(kind, &claim), (changes, about)));
                }
            }
        });
        let lines = futures::StreamExt::chain(futures::stream::iter(first), later);
        Response::new(Body::from_stream(futures::StreamExt::map(lines, Ok::<_, Infallible>)))
    }
}

fn line(kind: &str, claim: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": claim }))
}

fn json_body(value: &Value) -> Response<Body> {
    Response::new(Body::from(value.to_string()))
}

fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
    let status =
        json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason });
    Response::builder().status(code).body(Body::from(status.to_string())).unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_renewed_and_released() {
    let server = Server::new().grants(secs(31));
    let client = server.client();
    let guard = client.mutex("db").lock(Options::default()).await.unwrap();
    assert_eq!(guard.token(), 7);
    sleep(secs(300)).await;
    assert!(guard.remaining() > Duration::ZERO);
    let renewals = server.claims()[0]["spec"]["renewals"].as_i64().unwrap();
    assert!((25..=31).contains(&renewals), "every third of the ttl: {renewals}");
    guard.release().await.unwrap();
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_cannot_be_renewed_is_lost_before_anybody_else_can_hold() {
    let server = Server::new().grants(secs(600));
    let options = Options::default().ttl(secs(30));
    let guard = server.client().mutex("db").lock(options).await.unwrap();
    sleep(secs(95)).await;
    let last = server.claims()[0]["spec"]["renewals"].clone();
    // As late as konductor could have seen the last renewal, it is not over yet.
    let began = Instant::now();
    server.state().silent = true;
    let why = timeout(secs(31), guard.lost()).await.expect("it is lost within its ttl");
    assert!(began.elapsed() < secs(25), "{why}");
    assert!(why.contains("could not be renewed"), "{why}");
    assert_eq!(guard.remaining(), Duration::ZERO);
    assert_eq!(server.claims()[0]["spec"]["renewals"], last);
}

#[tokio::test(start_paused = true)]
async fn a_short_silence_is_outlasted() {
    let server = Server::new().grants(secs(600));
    let guard = server.client().mutex("db").lock(Options::default().ttl(secs(60))).await.unwrap();
    sleep(secs(19)).await;
    server.state().silent = true;
    sleep(secs(20)).await;
    server.state().silent = false;
    assert!(timeout(secs(600), guard.lost()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_counts_is_not_overwritten() {
    let server = Server::new().grants(secs(600));
    let guard = server.client().mutex("db").lock(Options::default().ttl(secs(30))).await.unwrap();
    let name = server.claims()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    server.change(&name, |claim| claim["spec"]["renewals"] = 41.into());
    sleep(secs(11)).await;
    assert_eq!(server.claims()[0]["spec"]["renewals"], 42);
    assert!(guard.remaining() > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_claim_learns_of_it_at_once() {
    let server = Server::new().grants(secs(600));
    let client = server.client();
    for loss in ["deleted", "expired"] {
        let guard = client.mutex("db").lock(Options::default()).await.unwrap();
        let name = server.claims()[0]["metadata"]["name"].as_str().unwrap().to_owned();
        let began = Instant::now();
        let lost = guard.lost();
        if loss == "deleted" {
            server.delete(&name);
        } else {
            server.change(&name, |claim| claim["status"] = json!({ "phase": "Expired", "message": "not renewed" }));
        }
        lost.await;
        assert!(began.elapsed() < secs(1), "{loss}");
        assert!(matches!(guard.release().await, Err(Error::Lost(_))), "{loss}");
        assert!(server.claims().is_empty(), "{loss}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_withdrawn() {
    let server = Server::new();
    let client = server.client();
    assert!(timeout(secs(5), client.mutex("db").lock(Options::default())).await.is_err());
    client.settled().await;
    assert!(server.claims().is_empty(), "it waited");
    let server = server.grants(secs(60));
    drop(client.mutex("db").lock(Options::default()).await.unwrap());
    sleep(secs(1)).await;
    client.settled().await;
    assert!(server.claims().is_empty(), "it held");
}

#[tokio::test(start_paused = true)]
async fn the_same_holder_gets_its_hold_back_and_only_one_of_a_process_may_have_it() {
    let server = Server::new().grants(secs(600));
    let first = server.client().holder("worker-0");
    let guard = first.mutex("db").lock(Options::default()).await.unwrap();
    assert!(!guard.resumed());
    assert!(matches!(first.mutex("db").lock(Options::default()).await, Err(Error::Denied(_))));
    // Another process of that name: the first has died without a word.
    let again = server.client().holder("worker-0").mutex("db").lock(Options::default()).await.unwrap();
    assert!(again.resumed() && again.token() == guard.token());
    assert_eq!(server.claims().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_for_what_and_why_not() {
    let server = Server::new();
    let (client, heard) = (server.client(), Arc::new(Mutex::new(Vec::new())));
    let told = heard.clone();
    let options = Options::default().timeout(secs(60)).on_wait(move |message| told.lock().unwrap().push(message.to_owned()));
    let waiting = tokio::spawn(async move { client.mutex("db").lock(options).await.map(|_| ()) });
    sleep(secs(1)).await;
    server.say(&json!({ "phase": "Pending", "message": "next in line for mutex/db" }));
    sleep(secs(1)).await;
    let granted =
        json!({ "type": "Granted", "status": "False", "reason": "TimedOut", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    server.say(&json!({ "phase": "Denied", "message": "timed out waiting for mutex/db", "conditions": [granted] }));
    assert_eq!(waiting.await.unwrap(), Err(Error::Timeout("timed out waiting for mutex/db".to_owned())));
    assert_eq!(*heard.lock().unwrap(), ["next in line for mutex/db"]);
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_konductor_a_timeout_ends_all_the_same() {
    let server = Server::new();
    let outcome = server.client().gate("ready").wait(Options::default().timeout(secs(10))).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    assert!(server.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_execution_is_on_record_before_its_claim_goes() {
    let server = Server::new().grants(secs(600));
    let execution = server.client().once("migrate").execute(Options::default()).await.unwrap().expect("nobody has");
    let finishing = tokio::spawn(execution.finish(true));
    sleep(secs(5)).await;
    assert_eq!(server.claims()[0]["spec"]["succeeded"], true, "said, and not gone");
    server.say(&json!({ "phase": "Released" }));
    finishing.await.unwrap().unwrap();
    assert!(server.claims().is_empty());
}

//! A small API server of Claims in memory, behind kube's client.

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
use tokio::sync::broadcast;

use crate::client::Client;

/// An API server that knows nothing but Claims of one namespace.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    pub changes: broadcast::Sender<(u64, &'static str, Value)>,
}

#[derive(Default)]
pub struct State {
    claims: BTreeMap<String, Value>,
    revision: u64,
    /// Requests that change something get no answer.
    pub silent: bool,
    /// What changes something is done, but nobody hears of it.
    pub mute: bool,
    /// What every new Claim is answered.
    answer: Option<Value>,
}

impl Server {
    pub fn new() -> Self {
        Self { state: Arc::default(), changes: broadcast::channel(100).0 }
    }

    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let changes = request.method() != Method::GET;
                let answer = server.answer(request).await;
                let kept = changes && server.state().mute;
                Ok::<_, Infallible>(if kept { std::future::pending().await } else { answer })
            }
        });
        Client::new(kube::Client::new(service, "shop"), "shop")
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn claims(&self) -> Vec<Value> {
        self.state().claims.values().cloned().collect()
    }

    /// Grants every Claim at once, for this long.
    pub fn grants(self, ttl: Duration) -> Self {
        let granted = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        self.state().answer = Some(json!({
            "phase": "Granted", "token": 7, "grantedAt": granted.to_string(), "expiresAt": (granted + ttl).to_string(),
        }));
        self
    }

    /// Writes the status of every Claim that there is.
    pub fn say(&self, status: &Value) {
        let names: Vec<String> = self.state().claims.keys().cloned().collect();
        for name in names {
            self.change(&name, |claim| claim["status"] = status.clone());
        }
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut Value)) -> Option<Value> {
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

    pub fn delete(&self, name: &str) -> Option<Value> {
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
                let revision = self.state().claims.get(name).map(|claim| claim["metadata"]["resourceVersion"].clone()).unwrap_or_default();
                for (precondition, is) in [("uid", uid), ("resourceVersion", revision)] {
                    if options["preconditions"][precondition].as_str().is_some_and(|wanted| is != wanted) {
                        return refusal(StatusCode::CONFLICT, "Conflict");
                    }
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

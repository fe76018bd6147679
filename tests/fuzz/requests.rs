//! The coordinator: whatever bytes come over a connection, it answers as HTTP does or ends it, and a Pod that was recognized gets nothing that is not its
//! own. The API server beside it knows one Pod, whose command is wrapped, and accepts one token.

use std::{cell::OnceCell, convert::Infallible, future::pending, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use konductor::{
    api::names,
    controller::{Context, clock::ServerClock},
    coordinator::{identity::Identities, server::Coordinator},
    health::Pulse,
    tls::{Limits, http},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::Runtime,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use crate::{
    Target, corpus,
    mutate::{self, WORDS},
    tape::Tape,
};

pub const TARGET: Target = Target { name: "requests", inputs: 20_000, make, check, memory: 2 << 20 };

/// Enough of a stream that never ends.
const ENOUGH: usize = 64 * 1024;

struct Server {
    runtime: Runtime,
    router: Router,
}

thread_local! {
    static SERVER: OnceCell<Server> = const { OnceCell::new() };
    static CASES: Vec<Vec<u8>> = corpus("requests").into_iter().map(|(_, text)| with_line_ends(&text)).collect();
}

/// HTTP ends its lines with two characters, which editors lose.
fn with_line_ends(text: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(text).replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()
}

fn start() -> Server {
    // Its time is virtual: a client that says nothing for ten seconds costs none.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let router = runtime.block_on(async {
        let api_server = service_fn(|request| {
            let answer = api_server(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let client = kube::Client::new(api_server, "konductor-system");
        let coordinator = Coordinator::new(Identities::new(client.clone()));
        let until = CancellationToken::new();
        let context = Context::new(client, ServerClock::default(), Pulse::default(), Default::default(), "konductor-0", until);
        coordinator.leading.store(Some(context));
        coordinator.router()
    });
    Server { runtime, router }
}

fn api_server(request: &Request<kube::client::Body>) -> Response<Body> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => {
            // Which token it is does not reach this far; what is malformed is refused before.
            let extra = json!({ "authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["u"] });
            let user = json!({ "username": "system:serviceaccount:team:default", "extra": extra });
            let status = json!({ "authenticated": true, "audiences": [names::TOKEN_AUDIENCE], "user": user });
            (StatusCode::CREATED, json!({ "metadata": {}, "spec": { "token": "" }, "status": status }))
        }
        (&Method::GET, "/api/v1/namespaces/team/pods/p") => (StatusCode::OK, pod()),
        _ => (StatusCode::NOT_FOUND, json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404 })),
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).unwrap()
}

fn pod() -> serde_json::Value {
    json!({
        "metadata": {
            "name": "p", "namespace": "team", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { names::INJECTED_LABEL: "true" }, "annotations": { "konductor.io/mutex": "db;strategy=wrap" },
        },
        "spec": { "containers": [{ "name": "app", "command": [names::WRAPPER, "agent", "wrap", "--", "work"] }] },
        "status": { "containerStatuses": [
            { "name": "app", "state": { "running": {} }, "image": "", "imageID": "", "ready": false, "restartCount": 0 },
        ] },
    })
}

fn make(tape: &[u8]) -> Vec<u8> {
    CASES.with(|cases| {
        let tape = &mut Tape(tape);
        let mut text = tape.pick(cases).clone();
        for _ in 0..tape.below(4) {
            let at = tape.below(text.len() + 1);
            let word = *tape.pick(&[
                "\r\n",
                "\r\n\r\n",
                ": ",
                "Transfer-Encoding: chunked\r\n",
                "Content-Length: 9999999\r\n",
                "{",
                "[",
                "\"",
                "0\r\n\r\n",
            ]);
            let word = if tape.rarely(3) { *tape.pick(&WORDS) } else { word };
            let times = if tape.rarely(8) { tape.number() % 8000 } else { 1 };
            text.splice(at..at, word.as_bytes().repeat(times));
        }
        if tape.rarely(3) {
            mutate::bytes(&mut text, tape);
        }
        text
    })
}

fn check(input: &[u8]) -> usize {
    SERVER.with(|server| {
        let Server { runtime, router } = server.get_or_init(start);
        runtime.block_on(async {
            // Nobody else's pace: each input has a minute of its own.
            tokio::time::advance(Duration::from_secs(60)).await;
            let (mut ours, theirs) = duplex(4096);
            let connection =
                http(Limits::COORDINATOR).serve_connection(TokioIo::new(theirs), TowerToHyperService::new(router.clone())).with_upgrades();
            let connection = tokio::spawn(connection);
            let mut answer = Vec::new();
            let (mut read, mut write) = tokio::io::split(&mut ours);
            // It may end the connection, or wait for somebody to read its answers, before it has read everything.
            let writing = async {
                _ = write.write_all(input).await;
                pending::<()>().await;
            };
            let reading = async {
                while answer.len() < ENOUGH && matches!(timeout(Duration::from_secs(60), read.read_buf(&mut answer)).await, Ok(Ok(1..))) {}
            };
            tokio::select! {
                () = reading => {}
                () = writing => {}
            }
            drop(ours);
            if let Err(error) = connection.await {
                assert!(!error.is_panic(), "the connection panicked");
            }
            judge(&answer);
            answer.len()
        })
    })
}

fn judge(answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    if text.is_empty() {
        return;
    }
    let rest = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "));
    let status = rest.and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP: {text:.200}"));
    assert!(matches!(status, 200 | 400 | 401 | 404 | 405 | 408 | 411 | 413 | 414 | 415 | 422 | 429 | 431 | 501 | 503 | 505), "{text:.500}");
    assert!(!text.contains("\"granted\""), "nobody wrote a grant: {text:.500}");
}

//! As much of an API server as the keeper talks to: create, get, compare-and-swap, JSON Patch with `test`, list and watch.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

#[derive(Clone, Default)]
pub struct Cluster(Arc<State>);

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    /// Version, path, event.
    events: Vec<(u64, String, Value)>,
    requests: Vec<String>,
    down: bool,
}

impl Cluster {
    pub fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request| {
            let cluster = cluster.clone();
            async move { Ok::<_, Infallible>(cluster.answer(request).await) }
        });
        Client::new(service, "konductor-system")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.inner.lock().unwrap().objects.get(path).cloned()
    }

    /// Writes as somebody else would.
    pub fn put(&self, path: &str, object: Value) {
        self.store(path, object, "MODIFIED");
    }

    /// Deletes as somebody else would.
    pub fn delete(&self, path: &str) {
        let version = *self.0.version.borrow() + 1;
        let mut inner = self.0.inner.lock().unwrap();
        let object = inner.objects.remove(path).unwrap();
        inner.events.push((version, path.to_owned(), json!({"type": "DELETED", "object": object})));
        drop(inner);
        self.0.version.send_replace(version);
    }

    pub fn requests(&self, method: &str) -> usize {
        self.0.inner.lock().unwrap().requests.iter().filter(|request| request.starts_with(method)).count()
    }

    pub fn set_down(&self, down: bool) {
        self.0.inner.lock().unwrap().down = down;
    }

    /// Resolves after a write that makes `condition` true.
    pub async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let mut versions = self.0.version.subscribe();
        let wait = async {
            while !condition(self) {
                versions.changed().await.unwrap()
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("the cluster does not get there");
    }

    fn store(&self, path: &str, mut object: Value, kind: &str) -> Value {
        let version = *self.0.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let mut inner = self.0.inner.lock().unwrap();
        inner.objects.insert(path.to_owned(), object.clone());
        inner.events.push((version, path.to_owned(), json!({"type": kind, "object": object})));
        drop(inner);
        self.0.version.send_replace(version);
        object
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<_, _> = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let down = {
            let mut inner = self.0.inner.lock().unwrap();
            inner.requests.push(format!("{} {path}", parts.method));
            inner.down
        };
        if down {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "etcd is away");
        }
        // One request at a time reads and writes: there is no await in between.
        let present = self.get(&path);
        match parts.method {
            Method::GET if query.contains_key("fieldSelector") => {
                let name = query["fieldSelector"].rsplit("%3D").next().unwrap();
                let path = format!("{path}/{name}");
                match query.get("watch") {
                    Some(_) => self.watch(path, query["resourceVersion"].parse().unwrap()),
                    None => {
                        let items: Vec<_> = self.get(&path).into_iter().collect();
                        let version = self.0.version.borrow().to_string();
                        ok(&json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}))
                    }
                }
            }
            Method::GET => present.map_or_else(|| error(StatusCode::NOT_FOUND, "not found"), |object| ok(&object)),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                match self.get(&path) {
                    Some(_) => error(StatusCode::CONFLICT, "already exists"),
                    None => ok(&self.store(&path, body, "ADDED")),
                }
            }
            Method::PUT => match present {
                None => error(StatusCode::NOT_FOUND, "not found"),
                Some(present) if present["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                    error(StatusCode::CONFLICT, "the object has been modified")
                }
                Some(_) => ok(&self.store(&path, body, "MODIFIED")),
            },
            Method::PATCH => {
                let Some(mut object) = present else { return error(StatusCode::NOT_FOUND, "not found") };
                let patch: json_patch::Patch = serde_json::from_value(body).unwrap();
                match json_patch::patch(&mut object, &patch) {
                    Ok(()) => ok(&self.store(&path, object, "MODIFIED")),
                    Err(_) => error(StatusCode::UNPROCESSABLE_ENTITY, "the server rejected our request due to an error in our request"),
                }
            }
            method => panic!("{method} {path}"),
        }
    }

    fn watch(&self, path: String, since: u64) -> Answer {
        let (state, versions) = (Arc::clone(&self.0), self.0.version.subscribe());
        let lines = stream::unfold((state, versions, since), move |(state, mut versions, since)| {
            let path = path.clone();
            async move {
                loop {
                    let found = {
                        let inner = state.inner.lock().unwrap();
                        inner.events.iter().find(|(version, of, _)| *version > since && *of == path).cloned()
                    };
                    if let Some((version, _, event)) = found {
                        return Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), (state, versions, version)));
                    }
                    versions.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(lines.boxed()))
    }
}

fn ok(object: &Value) -> Answer {
    Response::new(StreamBody::new(stream::iter([Ok(Frame::data(Bytes::from(object.to_string())))]).boxed()))
}

fn error(code: StatusCode, message: &str) -> Answer {
    // Clients tell errors apart by the reason, too.
    let reason = match code {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::UNPROCESSABLE_ENTITY => "Invalid",
        StatusCode::CONFLICT => "Conflict",
        _ => "InternalError",
    };
    let mut answer = ok(&json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code.as_u16(),
    }));
    *answer.status_mut() = code;
    answer
}

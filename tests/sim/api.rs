//! The simulated API server: objects, resource versions, preconditions, finalizers, graceful deletion, and the limits that our CRDs' validation rules
//! set. Synchronous; delays and faults are the wire's business.

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Bytes;
use konductor::{
    api::{Mutex, Semaphore},
    controller::object::Object,
};
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant};

use crate::core::Core;

/// The kinds of objects that the simulated cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Mutexes,
    Semaphores,
    Pods,
    Jobs,
    Nodes,
    Leases,
    Reviews,
    Events,
}

impl What {
    fn of(plural: &str) -> Option<Self> {
        Some(match plural {
            "mutexes" => Self::Mutexes,
            "semaphores" => Self::Semaphores,
            "pods" => Self::Pods,
            "jobs" => Self::Jobs,
            "nodes" => Self::Nodes,
            "leases" => Self::Leases,
            "tokenreviews" => Self::Reviews,
            "events" => Self::Events,
            _ => return None,
        })
    }

    pub fn plural(self) -> &'static str {
        match self {
            Self::Mutexes => "mutexes",
            Self::Semaphores => "semaphores",
            Self::Pods => "pods",
            Self::Jobs => "jobs",
            Self::Nodes => "nodes",
            Self::Leases => "leases",
            Self::Reviews => "tokenreviews",
            Self::Events => "events",
        }
    }

    /// `apiVersion` and `kind`.
    fn types(self) -> (&'static str, &'static str) {
        match self {
            Self::Mutexes => ("konductor.io/v1", "Mutex"),
            Self::Semaphores => ("konductor.io/v1", "Semaphore"),
            Self::Pods => ("v1", "Pod"),
            Self::Jobs => ("batch/v1", "Job"),
            Self::Nodes => ("v1", "Node"),
            Self::Leases => ("coordination.k8s.io/v1", "Lease"),
            Self::Reviews => ("authentication.k8s.io/v1", "TokenReview"),
            Self::Events => ("events.k8s.io/v1", "Event"),
        }
    }

    pub fn is_primitive(self) -> bool {
        matches!(self, Self::Mutexes | Self::Semaphores)
    }
}

/// Where an object lives.
pub type Place = (What, String, String);

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Writer {
    /// A konductor process, by a request that it sent then.
    Process { process: usize, sent: Instant },
    /// Kubelets, the Job controller, users.
    World,
}

/// A committed revision, as watches see it.
pub struct Change {
    pub revision: u64,
    pub at: Instant,
    pub what: What,
    pub object: Arc<Value>,
    pub line: Bytes,
}

/// A request, taken apart.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: http::Method,
    pub what: What,
    pub namespace: String,
    pub name: String,
    pub sub: String,
    pub query: BTreeMap<String, String>,
    pub body: Value,
}

/// An answer: status code and body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Answer {
    fn ok(body: Value) -> Self {
        Self { code: 200, body }
    }

    pub fn problem(code: u16, reason: &str, message: &str) -> Self {
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code});
        Self { code, body }
    }

    fn conflict(message: &str) -> Self {
        Self::problem(409, "Conflict", message)
    }

    fn missing() -> Self {
        Self::problem(404, "NotFound", "not found")
    }
}

impl Asked {
    pub fn of(method: http::Method, uri: &http::Uri, body: &[u8]) -> Option<Self> {
        let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        let skip = if parts.first() == Some(&"api") { 2 } else { 3 };
        parts.drain(..skip.min(parts.len()));
        let mut namespace = String::new();
        if parts.first() == Some(&"namespaces") && parts.len() > 2 {
            namespace = parts[1].to_owned();
            parts.drain(..2);
        }
        let at = |index: usize| parts.get(index).map(|part| (*part).to_owned()).unwrap_or_default();
        let query =
            uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), decoded(v)));
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        Some(Self { method, what: What::of(&at(0))?, namespace, name: at(1), sub: at(2), query: query.collect(), body })
    }

    pub fn watches(&self) -> bool {
        self.query.get("watch").is_some_and(|watch| watch == "true" || watch == "1")
    }

    pub fn writes(&self) -> bool {
        self.method != http::Method::GET && !matches!(self.what, What::Reviews | What::Events)
    }

    fn place(&self) -> Place {
        (self.what, self.namespace.clone(), self.name.clone())
    }

    /// Whether an object of this place and these labels is meant by a list or watch.
    pub fn selects(&self, what: What, object: &Value) -> bool {
        let Self { what: wanted, namespace, query, .. } = self;
        let labels = &object["metadata"]["labels"];
        what == *wanted
            && (namespace.is_empty() || object["metadata"]["namespace"] == namespace.as_str())
            && query.get("labelSelector").is_none_or(|selector| {
                selector.split(',').filter(|pair| !pair.is_empty()).all(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    labels[key] == value
                })
            })
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
            out.push(u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?'));
        } else {
            out.push(if byte == b'+' { b' ' } else { byte });
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A primitive as the controller's own types read it.
pub fn primitive(what: What, value: &Value) -> Option<Object> {
    match what {
        What::Mutexes => serde_json::from_value::<Mutex>(value.clone()).ok().map(Object::from),
        What::Semaphores => serde_json::from_value::<Semaphore>(value.clone()).ok().map(Object::from),
        _ => None,
    }
}

/// The validation rules of our CRDs, as far as they compare numbers.
fn limits(what: What, before: &Value, after: &Value) -> Result<(), String> {
    let holders = |object: &Value| object["status"]["holders"].as_array().cloned().unwrap_or_default();
    let before_token = before["status"]["lastToken"].as_i64();
    let new = holders(after);
    if before_token.is_some_and(|token| after["status"]["lastToken"].as_i64().is_none_or(|next| next < token)) {
        return Err("status.lastToken never goes back".into());
    }
    if what == What::Mutexes && new.len() > 1 {
        return Err("a Mutex has at most one holder".into());
    }
    if what == What::Semaphores {
        let sum: i64 = new.iter().map(|holder| holder["permits"].as_i64().unwrap_or(1)).sum();
        let all_old = before_token.is_some_and(|token| new.iter().all(|holder| holder["token"].as_i64().is_some_and(|own| own <= token)));
        if sum > after["spec"]["permits"].as_i64().unwrap_or(0) && !all_old {
            return Err("the holders' permits exceed spec.permits".into());
        }
    }
    Ok(())
}

pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn finalized(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}

pub fn deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

impl Core {
    pub fn get(&self, what: What, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(what, namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a kind, in the order of their names.
    pub fn all(&self, what: What) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |((kind, ..), _)| *kind == what).map(|(_, object)| object)
    }

    /// The one place where anything changes. Gives back the object as it is now, or was last.
    pub fn commit(&mut self, writer: Writer, place: &Place, after: Option<Value>) -> Value {
        let before = self.objects.get(place).cloned();
        self.revision += 1;
        let (what, event) = (
            place.0,
            if after.is_none() {
                "DELETED"
            } else if before.is_none() {
                "ADDED"
            } else {
                "MODIFIED"
            },
        );
        let mut object = after.clone().or_else(|| before.clone()).unwrap_or(Value::Null);
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        match after {
            Some(_) => self.objects.insert(place.clone(), object.clone()),
            None => self.objects.remove(place),
        };
        let line = format!("{}\n", json!({"type": event, "object": object}));
        let shared = Arc::new(object.clone());
        self.history.push(Change { revision: self.revision, at: Instant::now(), what, object: shared, line: line.into() });
        self.committed(writer, place, before.as_ref(), self.objects.get(place).cloned().as_ref());
        self.pulse.notify_waiters();
        object
    }

    /// A write by the world, which sees everything as it is.
    pub fn change(&mut self, place: &Place, change: impl FnOnce(&mut Value)) {
        let Some(mut object) = self.objects.get(place).cloned() else { return };
        let before = object.clone();
        change(&mut object);
        if object != before {
            self.commit(Writer::World, place, Some(object));
        }
    }

    pub fn create(&mut self, writer: Writer, what: What, namespace: &str, name: &str, mut object: Value) -> Value {
        let (api_version, kind) = what.types();
        self.uids += 1;
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        let created = self.server_time();
        merge(
            &mut object,
            &json!({"metadata": {"name": name, "uid": format!("{}-{}", name, self.uids), "generation": 1,
                "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}}),
        );
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.commit(writer, &(what, namespace.to_owned(), name.to_owned()), Some(object))
    }

    /// Deletion as the API server does it: finalizers keep the object, a Pod on a node keeps its grace unless that is 0.
    pub fn delete(&mut self, writer: Writer, place: &Place, grace: Option<u64>) {
        let Some(mut object) = self.objects.get(place).cloned() else { return };
        let bound = place.0 == What::Pods && object["spec"]["nodeName"].is_string() && grace != Some(0);
        if finalized(&object) && !bound {
            self.commit(writer, place, None);
        } else if !deleting(&object) {
            object["metadata"]["deletionTimestamp"] = self.server_time().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
            self.commit(writer, place, Some(object));
        }
    }

    /// Executes a request that has arrived.
    pub fn execute(&mut self, writer: Writer, asked: &Asked) -> Answer {
        let place = asked.place();
        match (asked.what, asked.method.as_str()) {
            (What::Events, _) => Answer { code: 201, body: asked.body.clone() },
            (What::Reviews, _) => self.review(asked),
            (what, "GET") if asked.name.is_empty() => {
                let items: Vec<Value> = self.all(what).filter(|object| asked.selects(what, object)).cloned().collect();
                let (api_version, kind) = what.types();
                Answer::ok(json!({"apiVersion": api_version, "kind": format!("{kind}List"),
                    "metadata": {"resourceVersion": self.revision.to_string()}, "items": items}))
            }
            (_, "GET") => self.objects.get(&place).map_or_else(Answer::missing, |object| Answer::ok(object.clone())),
            (_, "POST") => self.post(writer, asked),
            (_, "PUT") => self.put(writer, &place, asked),
            (_, "PATCH") => self.patch(writer, &place, asked),
            (_, "DELETE") => self.remove(writer, &place, asked),
            (_, method) => Answer::problem(405, "MethodNotAllowed", method),
        }
    }

    fn post(&mut self, writer: Writer, asked: &Asked) -> Answer {
        let name = asked.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.get(asked.what, &asked.namespace, &name).is_some() {
            return Answer::problem(409, "AlreadyExists", "already exists");
        }
        let made = self.create(writer, asked.what, &asked.namespace, &name, asked.body.clone());
        Answer { code: 201, body: made }
    }

    /// What may stand in the way of a write: another revision, another object of the name.
    fn precondition(before: &Value, meta: &Value) -> Option<Answer> {
        let differs = |field: &str| meta[field].as_str().is_some_and(|wanted| before["metadata"][field] != wanted);
        if differs("uid") {
            return Some(Answer::conflict("Precondition failed: UID in precondition"));
        }
        differs("resourceVersion").then(|| Answer::conflict("the object has been modified"))
    }

    fn put(&mut self, writer: Writer, place: &Place, asked: &Asked) -> Answer {
        let Some(before) = self.objects.get(place).cloned() else { return Answer::missing() };
        let meta = &asked.body["metadata"];
        if meta["resourceVersion"].as_str().unwrap_or_default().is_empty() {
            return Answer::problem(422, "Invalid", "metadata.resourceVersion: must be specified for an update");
        }
        if let Some(problem) = Self::precondition(&before, meta) {
            return problem;
        }
        let mut after = before.clone();
        let part = if asked.sub == "status" { "status" } else { "spec" };
        after[part] = asked.body[part].clone();
        self.store(writer, place, &before, after)
    }

    fn patch(&mut self, writer: Writer, place: &Place, asked: &Asked) -> Answer {
        let Some(before) = self.objects.get(place).cloned() else { return Answer::missing() };
        if let Some(problem) = Self::precondition(&before, &asked.body["metadata"]) {
            return problem;
        }
        let mut after = before.clone();
        merge(&mut after, &asked.body);
        if asked.sub == "status" {
            after["metadata"] = before["metadata"].clone();
            after["spec"] = before["spec"].clone();
        } else {
            match (before.get("status"), after.as_object_mut()) {
                (Some(status), _) => after["status"] = status.clone(),
                (None, Some(fields)) => drop(fields.remove("status")),
                (None, None) => {}
            }
        }
        for field in ["uid", "resourceVersion", "creationTimestamp"] {
            after["metadata"][field] = before["metadata"][field].clone();
        }
        if deleting(&after) && finalized(&after) && place.0.is_primitive() {
            after["metadata"]["resourceVersion"] = self.revision.to_string().into();
            self.commit(writer, place, None);
            return Answer::ok(after);
        }
        self.store(writer, place, &before, after)
    }

    fn store(&mut self, writer: Writer, place: &Place, before: &Value, after: Value) -> Answer {
        if place.0.is_primitive()
            && let Err(words) = limits(place.0, before, &after)
        {
            return Answer::problem(422, "Invalid", &words);
        }
        // What changes nothing makes no revision.
        if *before == after {
            return Answer::ok(after);
        }
        Answer::ok(self.commit(writer, place, Some(after)))
    }

    fn remove(&mut self, writer: Writer, place: &Place, asked: &Asked) -> Answer {
        let Some(before) = self.objects.get(place).cloned() else { return Answer::missing() };
        if let Some(problem) = Self::precondition(&before, &asked.body["preconditions"]) {
            return problem;
        }
        self.delete(writer, place, asked.body["gracePeriodSeconds"].as_u64());
        Answer::ok(before)
    }

    /// Tokens of the simulated kubelet are `NAMESPACE/NAME/UID`, good for as long as the Pod is there.
    fn review(&self, asked: &Asked) -> Answer {
        let token = asked.body["spec"]["token"].as_str().unwrap_or_default();
        let mut parts = token.split('/');
        let (namespace, name, uid) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let there = self.get(What::Pods, namespace, name).is_some_and(|pod| pod["metadata"]["uid"] == uid);
        let status = if there {
            json!({"authenticated": true, "audiences": ["konductor.io"], "user": {
                "username": format!("system:serviceaccount:{namespace}:default"),
                "extra": {"authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/pod-uid": [uid]}}})
        } else {
            json!({"authenticated": false, "error": "the Pod is gone"})
        };
        let mut body = asked.body.clone();
        body["status"] = status;
        Answer { code: 201, body }
    }

    /// A bookmark: nothing of this kind changed up to here.
    pub fn bookmark(&self, what: What) -> Bytes {
        let (api_version, kind) = what.types();
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"resourceVersion": self.revision.to_string()}});
        format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
    }

    /// Forgets history: watches that were not up to date must list again.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// For how long the API has called the node unreachable, without interruption. An outage that is just over counts: what was proven by a live
    /// read stays proven until its write arrives.
    pub fn unreachable_for(&self, node: &str) -> Duration {
        let now = self.unreachable.get(node).map(Instant::elapsed).unwrap_or_default();
        let before = self.outages.get(node).filter(|(ended, _)| ended.elapsed() < Duration::from_secs(45)).map(|(_, lasted)| *lasted);
        now.max(before.unwrap_or_default())
    }
}

//! What is asked of the simulated API server and what it answers: kinds, places, requests taken apart.

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Bytes;
use konductor::api::names;
use serde_json::{Value, json};
use tokio::time::Instant;

/// The kinds of objects that the simulated cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Mutexes,
    RwMutexes,
    OurLeases,
    Semaphores,
    Onces,
    WaitGroups,
    Barriers,
    Gates,
    Pods,
    Jobs,
    Nodes,
    Leases,
    Reviews,
    Events,
}

impl What {
    fn of(group: &str, plural: &str) -> Option<Self> {
        Some(match plural {
            "mutexes" => Self::Mutexes,
            "rwmutexes" => Self::RwMutexes,
            "leases" if group == names::GROUP => Self::OurLeases,
            "semaphores" => Self::Semaphores,
            "onces" => Self::Onces,
            "waitgroups" => Self::WaitGroups,
            "barriers" => Self::Barriers,
            "gates" => Self::Gates,
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
            Self::RwMutexes => "rwmutexes",
            Self::Semaphores => "semaphores",
            Self::Onces => "onces",
            Self::WaitGroups => "waitgroups",
            Self::Barriers => "barriers",
            Self::Gates => "gates",
            Self::Pods => "pods",
            Self::Jobs => "jobs",
            Self::Nodes => "nodes",
            Self::Leases | Self::OurLeases => "leases",
            Self::Reviews => "tokenreviews",
            Self::Events => "events",
        }
    }

    /// `apiVersion` and `kind`.
    pub fn types(self) -> (&'static str, &'static str) {
        match self {
            Self::Mutexes => ("konductor.io/v1", "Mutex"),
            Self::RwMutexes => ("konductor.io/v1", "RWMutex"),
            Self::OurLeases => ("konductor.io/v1", "Lease"),
            Self::Semaphores => ("konductor.io/v1", "Semaphore"),
            Self::Onces => ("konductor.io/v1", "Once"),
            Self::WaitGroups => ("konductor.io/v1", "WaitGroup"),
            Self::Barriers => ("konductor.io/v1", "Barrier"),
            Self::Gates => ("konductor.io/v1", "Gate"),
            Self::Pods => ("v1", "Pod"),
            Self::Jobs => ("batch/v1", "Job"),
            Self::Nodes => ("v1", "Node"),
            Self::Leases => ("coordination.k8s.io/v1", "Lease"),
            Self::Reviews => ("authentication.k8s.io/v1", "TokenReview"),
            Self::Events => ("events.k8s.io/v1", "Event"),
        }
    }

    pub fn is_primitive(self) -> bool {
        self <= Self::Gates
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
    /// It was removed; this is how it was last.
    pub gone: bool,
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
    pub fn ok(body: Value) -> Self {
        Self { code: 200, body }
    }

    pub fn problem(code: u16, reason: &str, message: &str) -> Self {
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code});
        Self { code, body }
    }

    pub fn conflict(message: &str) -> Self {
        Self::problem(409, "Conflict", message)
    }

    pub fn missing() -> Self {
        Self::problem(404, "NotFound", "not found")
    }
}

impl Asked {
    pub fn of(method: http::Method, uri: &http::Uri, body: &[u8]) -> Option<Self> {
        let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        let (skip, group) = if parts.first() == Some(&"api") { (2, "") } else { (3, parts.get(1).copied().unwrap_or_default()) };
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
        Some(Self { method, what: What::of(group, &at(0))?, namespace, name: at(1), sub: at(2), query: query.collect(), body })
    }

    pub fn watches(&self) -> bool {
        self.query.get("watch").is_some_and(|watch| watch == "true" || watch == "1")
    }

    pub fn writes(&self) -> bool {
        self.method != http::Method::GET && !matches!(self.what, What::Reviews | What::Events)
    }

    pub fn place(&self) -> Place {
        (self.what, self.namespace.clone(), self.name.clone())
    }

    /// Whether an object of this place and these labels is meant by a list or watch.
    pub fn selects(&self, what: What, object: &Value) -> bool {
        let Self { what: wanted, namespace, query, .. } = self;
        let labels = &object["metadata"]["labels"];
        what == *wanted
            && (namespace.is_empty() || object["metadata"]["namespace"] == namespace.as_str())
            && query
                .get("fieldSelector")
                .is_none_or(|selector| selector.strip_prefix("metadata.name=").is_some_and(|name| object["metadata"]["name"] == name))
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

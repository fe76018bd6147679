//! The simulated API server: objects, resource versions, preconditions, finalizers, graceful deletion, and the limits that our CRDs' validation rules
//! set. Synchronous; delays and faults are the wire's business.

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Bytes;
use konductor::{
    api::{Barrier, Gate, Lease, Mutex, Once, RWMutex, Semaphore, WaitGroup},
    controller::object::Object,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    core::Core,
    limits,
    request::{Answer, Asked, Change, Place, What, Writer},
};

/// A primitive as the controller's own types read it.
pub fn primitive(what: What, value: &Value) -> Option<Object> {
    fn read<K: DeserializeOwned + Into<Object>>(value: &Value) -> Option<Object> {
        serde_json::from_value::<K>(value.clone()).ok().map(Into::into)
    }
    match what {
        What::Mutexes => read::<Mutex>(value),
        What::RwMutexes => read::<RWMutex>(value),
        What::OurLeases => read::<Lease>(value),
        What::Semaphores => read::<Semaphore>(value),
        What::Onces => read::<Once>(value),
        What::WaitGroups => read::<WaitGroup>(value),
        What::Barriers => read::<Barrier>(value),
        What::Gates => read::<Gate>(value),
        What::Claims | What::Pods | What::Jobs | What::Nodes | What::Leases | What::Reviews | What::Events => None,
    }
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
        self.objects
            .range((what, String::new(), String::new())..)
            .take_while(move |((kind, ..), _)| *kind == what)
            .map(|(_, object)| object)
    }

    /// All objects of a kind as a cache shows them: as they are, or as they were some time ago.
    fn cached(&mut self, what: What) -> Vec<Value> {
        let old = if self.chaos { self.chance.millis(0, 20_000) } else { Duration::ZERO };
        let until = self.history.partition_point(|change| change.at.elapsed() > old);
        let mut objects: BTreeMap<String, &Change> = BTreeMap::new();
        for change in self.history[..until].iter().filter(|change| change.what == what) {
            objects.insert(change.object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), change);
        }
        objects.into_values().filter(|change| !change.gone).map(|change| (*change.object).clone()).collect()
    }

    /// The one place where anything changes. Gives back the object as it is now, or was last.
    pub fn commit(&mut self, writer: Writer, place: &Place, after: Option<Value>) -> Value {
        let before = self.objects.get(place).cloned();
        self.revision += 1;
        let (what, gone) = (place.0, after.is_none());
        let event = match (gone, &before) {
            (true, _) => "DELETED",
            (false, None) => "ADDED",
            (false, Some(_)) => "MODIFIED",
        };
        let mut object = after.or_else(|| before.clone()).unwrap_or(Value::Null);
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        if gone {
            self.objects.remove(place);
        } else {
            self.objects.insert(place.clone(), object.clone());
        }
        let line = format!("{}\n", json!({"type": event, "object": object}));
        let shared = Arc::new(object.clone());
        self.history.push(Change { revision: self.revision, at: Instant::now(), what, gone, object: shared.clone(), line: line.into() });
        self.committed(writer, place, before.as_ref(), (!gone).then_some(&*shared));
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
            return;
        }
        let before = object.clone();
        if !deleting(&object) {
            object["metadata"]["deletionTimestamp"] = self.date_of(self.server_time()).into();
            object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
        }
        if place.0 == What::Pods && !bound {
            object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        }
        if object != before {
            self.commit(writer, place, Some(object));
        }
    }

    /// A moment as objects show it: to the second.
    pub fn date_of(&self, time: jiff::Timestamp) -> String {
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Executes a request that has arrived.
    pub fn execute(&mut self, writer: Writer, asked: &Asked) -> Answer {
        let place = asked.place();
        match (asked.what, asked.method.as_str()) {
            (What::Events, _) => Answer { code: 201, body: asked.body.clone() },
            (What::Reviews, _) => self.review(asked),
            (what, "GET") if asked.name.is_empty() => {
                // Without a revision the latest state is meant, with "0" any will do.
                let cached = asked.query.get("resourceVersion").is_some_and(|revision| revision == "0");
                let all = if cached { self.cached(what) } else { self.all(what).cloned().collect() };
                let items: Vec<Value> = all.into_iter().filter(|object| asked.selects(what, object)).collect();
                let (api_version, kind) = what.types();
                Answer::ok(json!({"apiVersion": api_version, "kind": format!("{kind}List"),
                    "metadata": {"resourceVersion": self.revision.to_string()}, "items": items}))
            }
            (what, "GET") if asked.query.get("resourceVersion").is_some_and(|revision| revision == "0") => {
                let found = self.cached(what).into_iter().find(|object| object["metadata"]["name"] == asked.name.as_str());
                found.map_or_else(Answer::missing, Answer::ok)
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
        if place.0 == What::Jobs && after["spec"]["suspend"] != before["spec"]["suspend"] {
            after = self.readmitted(&before, after);
        }
        // The last finalizer was what kept it. (A Pod goes when its kubelet has seen to it, too.)
        let lingers = place.0 == What::Pods && after["metadata"]["deletionGracePeriodSeconds"] != 0;
        if deleting(&after) && finalized(&after) && !finalized(&before) && !lingers {
            if let Err(words) = limits::check(place.0, &before, &after) {
                return Answer::problem(422, "Invalid", &words);
            }
            after["metadata"]["resourceVersion"] = self.revision.to_string().into();
            self.commit(writer, place, None);
            return Answer::ok(after);
        }
        self.store(writer, place, &before, after)
    }

    fn store(&mut self, writer: Writer, place: &Place, before: &Value, after: Value) -> Answer {
        if let Err(words) = limits::check(place.0, before, &after) {
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
}

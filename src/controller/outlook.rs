//! What the controller would tell somebody, worked out from lists of objects: for `koncli why` and `koncli top`. The same facts, rules and words, and no client.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    ask::At,
    claims::ClaimFacts,
    facts::{JobFacts, PodFacts},
    gather::gather,
    object::{Key, Object},
    roll::Names,
    words,
    world::State,
};
use crate::{
    api::Claim,
    coordinator::session::Place,
    plan::Item,
    rules::{self, Who, Why},
};

/// A picture of the cluster at one moment.
#[derive(Default)]
pub struct Picture {
    state: State,
}

/// How somebody stands to one primitive of its plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits; for what and behind whom.
    Waits(String),
    /// It will not hold, or not pass; why.
    Refused(String),
    /// It is its turn: konductor grants it now, if it runs.
    ItsTurn,
    /// It holds.
    Holds {
        /// Its fencing token.
        token: i64,
        /// Whether the primitive is being deleted.
        deleting: bool,
    },
    /// It has passed, or has not come that far.
    NotNow,
}

/// One who waits for a primitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who.
    pub who: Who,
    /// Its age, by which it has its place in line.
    pub since: Timestamp,
    /// Why it waits; `None` if it is its turn.
    pub why: Option<Why>,
}

impl Picture {
    /// Adds a primitive.
    pub fn put_object(&mut self, object: Object) {
        self.state.put_object(object);
    }

    /// Adds a Pod.
    pub fn put_pod(&mut self, pod: &Pod) {
        let facts = PodFacts::of(pod);
        // No nodes are read for a picture: that of a Pod is taken to be there, or everybody on it would count as cut off.
        if let Some(node) = &facts.node {
            self.state.nodes.entry(node.clone()).or_default();
        }
        self.state.put_pod(facts);
    }

    /// Adds a Job, which Gates may wait for too.
    pub fn put_job(&mut self, job: &Job) {
        let named = super::facts::named_job(job);
        self.state.put_named_job(&job.namespace().unwrap_or_default(), &job.name_any(), Some(named));
        self.state.put_job(JobFacts::of(job));
    }

    /// Adds a Claim.
    pub fn put_claim(&mut self, claim: Claim) {
        self.state.put_claim(ClaimFacts::of(claim));
    }

    /// Every primitive that there is, or that somebody names, in the order of namespaces, kinds and names.
    pub fn keys(&self) -> Vec<Key> {
        let State { objects, pods_of, jobs_of, claims_of, .. } = &self.state;
        let keys: BTreeSet<&Key> = objects.keys().chain(pods_of.keys()).chain(jobs_of.keys()).chain(claims_of.keys()).collect();
        let mut keys: Vec<Key> = keys.into_iter().cloned().collect();
        keys.sort_by(|a, b| (&a.namespace, a).cmp(&(&b.namespace, b)));
        keys
    }

    /// The primitive, if there is one.
    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.state.objects.get(key)
    }

    /// Who waits for a primitive: those whose turn it is, and then the line, its first one first.
    pub fn waiting(&mut self, key: &Key, time: Timestamp) -> Vec<Waiting> {
        let object = self.state.objects.get(key).cloned();
        let facts = gather(&mut self.state, key, object.as_ref(), At { now: Instant::now(), time }).facts;
        let asked: Vec<(String, Option<Why>)> = match object {
            None => {
                let requests = facts.requests.iter().map(|request| request.asker().to_owned());
                requests.chain(facts.waiters.iter().map(|waiter| waiter.asker.clone())).map(|asker| (asker, Some(Why::Shut))).collect()
            }
            Some(object) => {
                let decision = rules::decide(&object.primitive(), &facts, time);
                let granted = decision.granted.into_iter().filter(|grant| grant.new).map(|grant| grant.asker);
                let turn = granted.chain(decision.passed.into_iter().map(|passed| passed.asker)).map(|asker| (asker, None));
                turn.chain(decision.queue.into_iter().map(|queued| (queued.asker, Some(queued.why)))).collect()
            }
        };
        let State { pods, jobs, claims, .. } = &self.state;
        let waiting = |(uid, why): (String, Option<Why>)| {
            let (who, since) = match (pods.get(&uid), jobs.get(&uid), claims.get(&uid)) {
                (Some(pod), ..) => ((*pod.who).clone(), pod.created),
                (None, Some(job), _) => ((*job.who).clone(), job.created),
                (None, None, Some(claim)) => ((*claim.who).clone(), claim.created()),
                (None, None, None) => return None,
            };
            Some(Waiting { who, since, why })
        };
        asked.into_iter().filter_map(waiting).collect()
    }

    /// How a Pod, a Job or a Claim of this UID stands to each primitive that it names, in its order; nothing if it names none.
    pub fn standings(&mut self, uid: &str, time: Timestamp) -> Vec<(Key, Standing)> {
        let key = |(key, _): (&Key, &Item)| key.clone();
        let State { pods, jobs, claims, .. } = &self.state;
        let (namespace, keys): (String, Vec<Key>) = match (pods.get(uid), jobs.get(uid), claims.get(uid)) {
            (Some(pod), ..) => (pod.who.namespace.clone(), pod.steps().map(key).collect()),
            (None, Some(job), _) => (job.who.namespace.clone(), job.steps().map(key).collect()),
            (None, None, Some(claim)) => (claim.who.namespace.clone(), vec![claim.key.clone()]),
            (None, None, None) => return Vec::new(),
        };
        keys.into_iter().map(|key| (key.clone(), self.standing(uid, &key, &namespace, time))).collect()
    }

    fn standing(&mut self, uid: &str, key: &Key, namespace: &str, time: Timestamp) -> Standing {
        let object = self.state.objects.get(key).cloned();
        let facts = gather(&mut self.state, key, object.as_ref(), At { now: Instant::now(), time }).facts;
        let Some(object) = object else {
            let asks =
                facts.requests.iter().any(|request| request.asker() == uid) || facts.waiters.iter().any(|waiter| waiter.asker == uid);
            let message = words::waiting(key, None, Why::Shut, (1, 1), namespace);
            return if asks { Standing::Waits(message) } else { Standing::NotNow };
        };
        let decision = rules::decide(&object.primitive(), &facts, time);
        if let Some((index, queued)) = decision.queue.iter().enumerate().find(|(_, queued)| queued.asker == uid) {
            let place = (index + 1, decision.queue.len());
            return Standing::Waits(words::waiting(key, Some(&object), queued.why, place, namespace));
        }
        if let Some(refusal) = decision.refused.iter().find(|refusal| refusal.asker == uid)
            && let Place::Refused { message, .. } = words::refused(key, Some(&object), refusal.why, namespace)
        {
            return Standing::Refused(message);
        }
        if decision.granted.iter().any(|grant| grant.asker == uid && grant.new) || decision.passed.iter().any(|passed| passed.asker == uid)
        {
            return Standing::ItsTurn;
        }
        let token = object.token_of(uid).or_else(|| object.holders().iter().find(|holder| holder.uid == uid).map(|holder| holder.token));
        token.map_or(Standing::NotNow, |token| Standing::Holds { token, deleting: object.deleting() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Mutex, names};
    use serde_json::json;

    fn waiting(name: &str, created: &str) -> Pod {
        let pod = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": name, "creationTimestamp": created,
                "labels": { names::INJECTED_LABEL: "true" }, "annotations": { "konductor.io/mutex": "db" },
            },
            "status": { "initContainerStatuses": [{
                "name": names::ACQUIRE_CONTAINER, "state": { "running": {} }, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            }] },
        });
        serde_json::from_value(pod).unwrap()
    }

    fn mutex(revision: &str, status: serde_json::Value) -> Object {
        let mutex: Mutex = serde_json::from_value(json!({
            "apiVersion": "konductor.io/v1", "kind": "Mutex", "spec": {}, "status": status,
            "metadata": { "name": "db", "namespace": "shop", "uid": "m", "resourceVersion": revision, "creationTimestamp": "2026-01-01T00:00:00Z" },
        }))
        .unwrap();
        mutex.into()
    }

    #[test]
    fn it_is_said_behind_whom_as_the_controller_says_it() {
        let time = "2026-01-01T01:00:00Z".parse().unwrap();
        let mut picture = Picture::default();
        for (name, created) in [("second", "2026-01-01T00:10:00Z"), ("first", "2026-01-01T00:05:00Z")] {
            picture.put_pod(&waiting(name, created));
        }
        let said = |picture: &mut Picture| picture.standings("second", time).into_iter().map(|(_, standing)| standing).collect::<Vec<_>>();
        assert_eq!(said(&mut picture), [Standing::Waits("waiting for mutex/db, which does not exist yet".to_owned())]);
        let holder = json!({ "uid": "h", "kind": "Job", "namespace": "shop", "name": "a", "token": 4, "since": "2026-01-01T00:00:00Z" });
        picture.put_object(mutex("1", json!({ "holders": [holder], "lastToken": 4 })));
        assert_eq!(said(&mut picture), [Standing::Waits("waiting for mutex/db: 2 of 2 in line, held by job/a".to_owned())]);
        let holder =
            json!({ "uid": "second", "kind": "Pod", "namespace": "shop", "name": "second", "token": 5, "since": "2026-01-01T00:00:00Z" });
        picture.put_object(mutex("2", json!({ "holders": [holder], "lastToken": 5 })));
        assert_eq!(said(&mut picture), [Standing::Holds { token: 5, deleting: false }]);
    }

    /// koncli sees neither nodes nor sessions: that is no reason to take anybody for away.
    #[test]
    fn what_keeps_it_from_holding_is_said_before_who_holds() {
        let time = "2026-01-01T01:00:00Z".parse().unwrap();
        let mut picture = Picture::default();
        for name in ["second", "h"] {
            let mut pod = waiting(name, "2026-01-01T00:10:00Z");
            pod.spec = serde_json::from_value(json!({ "nodeName": "node-1", "containers": [{ "name": "app" }] })).unwrap();
            picture.put_pod(&pod);
        }
        let holder = json!({ "uid": "h", "kind": "Pod", "namespace": "shop", "name": "h", "token": 4, "since": "2026-01-01T00:00:00Z" });
        let Object::Mutex(mut mutex) = mutex("1", json!({ "holders": [holder], "lastToken": 4 })) else { panic!() };
        mutex.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
        picture.put_object(Object::Mutex(mutex));
        let said = picture.standings("second", time).into_iter().map(|(_, standing)| standing).collect::<Vec<_>>();
        let right = "waiting for mutex/db: it is being deleted (held by pod/h); a new one of that name will do";
        assert_eq!(said, [Standing::Waits(right.to_owned())]);
    }

    #[test]
    fn the_line_is_that_of_the_controller() {
        let time = "2026-01-01T01:00:00Z".parse().unwrap();
        let mut picture = Picture::default();
        for (name, created) in [("second", "2026-01-01T00:10:00Z"), ("first", "2026-01-01T00:05:00Z")] {
            picture.put_pod(&waiting(name, created));
        }
        let keys = picture.keys();
        let [key] = keys.as_slice() else { panic!("{keys:?}") };
        let line = |picture: &mut Picture| {
            let waiting = picture.waiting(key, time).into_iter();
            waiting.map(|waiting| (waiting.who.name, waiting.why)).collect::<Vec<_>>()
        };
        assert_eq!(line(&mut picture).len(), 2, "they wait for what does not exist yet");
        picture.put_object(mutex("1", json!({ "holders": [], "lastToken": 3 })));
        assert_eq!(line(&mut picture), [("first".to_owned(), Some(Why::InLine)), ("second".to_owned(), Some(Why::InLine))]);
        let holder =
            json!({ "uid": "first", "kind": "Pod", "namespace": "shop", "name": "first", "token": 4, "since": "2026-01-01T00:00:00Z" });
        picture.put_object(mutex("2", json!({ "holders": [holder], "lastToken": 4 })));
        assert_eq!(line(&mut picture), [("second".to_owned(), Some(Why::InLine))]);
    }
}

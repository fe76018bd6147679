//! Those who carry annotations, Pods and Jobs, as the truth knows them, also after they are gone: what they want, and how they really ended.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use konductor::{
    api::names,
    controller::object::Key,
    plan::{self, Item, Kind, Mode, On, OnConflict, Plan, Role, Subject},
    rules::WHOLE,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cluster::{condition, text},
    core::Core,
    request::{Place, What},
    truth::NAMESPACE,
};

/// One thing that somebody's annotations say about a primitive.
#[derive(Clone, Debug)]
pub struct Want {
    pub key: Key,
    pub role: Role,
    pub timeout: Option<SignedDuration>,
}

impl Want {
    fn of(item: &Item) -> Self {
        let target = &item.target;
        let key = Key { kind: target.kind, namespace: target.namespace.clone().unwrap_or_default(), name: target.name.clone() };
        let timeout = item.timeout.map(|timeout| SignedDuration::try_from(timeout.as_std()).unwrap_or(SignedDuration::MAX));
        Self { key, role: item.role, timeout }
    }

    /// What it takes of the capacity.
    pub fn weight(&self) -> i64 {
        match self.role {
            Role::Hold { mode: Mode::Write, .. } if self.key.kind == Kind::RwMutex => i64::from(WHOLE),
            role => i64::from(role.permits()),
        }
    }

    /// Whether it is something that few can have at a time.
    pub fn exclusive(&self) -> bool {
        self.role.has_token()
    }

    pub fn arrives_at_start(&self) -> bool {
        matches!(self.role, Role::Wait { arrive: true, .. } | Role::Arrive { on: On::Start })
    }

    pub fn arrives_at_end(&self) -> bool {
        matches!(self.role, Role::Arrive { on: On::Success })
    }
}

/// A Pod or a Job.
#[derive(Clone, Debug)]
pub struct Person {
    pub uid: String,
    /// UID of the Job under whose hold a Pod acts.
    pub job: Option<String>,
    pub wants: Vec<Want>,
    /// It is left out rather than waits.
    pub skips: bool,
    /// Its command is wrapped: each run is for itself.
    pub wraps: bool,
    pub max_hold: Option<SignedDuration>,
    pub start_timeout: Option<SignedDuration>,
    pub created: Timestamp,
    pub born: Instant,
    /// It really ended well.
    pub succeeded: bool,
    /// When, if it did.
    pub ended: Option<Instant>,
    /// Since when the API has shown that, while its end was owed.
    pub shown: Option<Instant>,
}

impl Person {
    /// It came to a good end just now.
    pub fn succeeds(&mut self) {
        self.succeeded = true;
        self.ended.get_or_insert_with(Instant::now);
    }

    /// What is done before the first container starts.
    pub fn steps(&self) -> impl Iterator<Item = &Want> {
        self.wants.iter().filter(|want| want.role.is_step())
    }

    /// What lasts while it runs.
    pub fn holds(&self) -> impl Iterator<Item = &Want> {
        self.wants.iter().filter(|want| want.role.lasts())
    }
}

/// What an object's annotations say.
pub fn plan_of(object: &Value, subject: Subject) -> Option<Plan> {
    let annotations: BTreeMap<String, String> = serde_json::from_value(object["metadata"]["annotations"].clone()).unwrap_or_default();
    plan::parse(&annotations, subject).ok().flatten().map(|plan| plan.in_namespace(NAMESPACE))
}

/// Whether this object's end has to be recorded before it may vanish.
pub fn owes(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|name| name == names::OUTCOME_FINALIZER))
}

/// Whether konductor suspended this Job and has not resumed it.
pub fn held_back(job: &Value) -> bool {
    job["spec"]["suspend"] == true && job["metadata"]["annotations"][names::SUSPENDED].is_string()
}

/// Whether a Job was left out by konductor.
pub fn skipped(job: &Value) -> bool {
    let all = job["status"]["conditions"].as_array();
    all.is_some_and(|all| all.iter().any(|condition| condition["type"] == "Complete" && condition["reason"] == names::SKIPPED))
}

impl Core {
    /// Somebody with annotations appeared in the API.
    pub fn person_created(&mut self, what: What, object: &Value, job: Option<String>) -> Vec<Want> {
        let copied = object["metadata"]["annotations"][names::COPIED_FROM] == names::COPIED_FROM_JOB;
        let subject = match what {
            What::Jobs => Subject::Job,
            _ if copied => Subject::PodOfJob,
            _ => Subject::Pod,
        };
        let Some(plan) = plan_of(object, subject) else { return Vec::new() };
        let long = |limit: Option<konductor::api::Duration>| limit.and_then(|limit| SignedDuration::try_from(limit.as_std()).ok());
        let wants: Vec<Want> = plan.items.iter().map(Want::of).collect();
        let uid = text(&object["metadata"]["uid"]);
        let person = Person {
            uid: uid.clone(),
            job,
            wants: wants.clone(),
            skips: plan.on_conflict == OnConflict::Skip,
            wraps: plan.wraps(),
            max_hold: long(plan.max_hold),
            start_timeout: long(plan.start_timeout),
            created: text(&object["metadata"]["creationTimestamp"]).parse().unwrap_or_default(),
            born: Instant::now(),
            succeeded: false,
            ended: None,
            shown: None,
        };
        self.truth.people.insert(uid, person);
        wants
    }

    /// The API shows how somebody ended.
    pub fn end_shown(&mut self, place: &Place, after: Option<&Value>) {
        let Some(object) = after.filter(|object| matches!(place.0, What::Pods | What::Jobs | What::Claims) && owes(object)) else { return };
        let well = match place.0 {
            What::Jobs => condition(object, "SuccessCriteriaMet") && !skipped(object),
            What::Claims => object["spec"]["succeeded"] == true,
            _ => object["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0,
        };
        if let Some(person) = self.truth.people.get_mut(object["metadata"]["uid"].as_str().unwrap_or_default()).filter(|_| well) {
            person.shown.get_or_insert_with(Instant::now);
        }
    }
}

//! What konductor keeps of a Pod, a Job and a Node: the few facts that decisions need, read once when the object arrives. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::{object::Key, world::NamedJob};
use crate::{
    api::{HolderKind, names},
    plan::{self, Item, Kind, Plan, Subject},
    planted,
    rules::{
        PodRef, Seen, Who,
        evidence::{self, AcquireStep},
        wrapped::Wrapped,
    },
};

/// A Pod with injected steps.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// The Pod itself.
    pub who: Arc<Who>,
    /// Its age.
    pub created: Timestamp,
    /// The node that it was bound to.
    pub node: Option<String>,
    /// What its annotations ask for; `None` if that is nothing, or it was not injected.
    pub asks: Option<Arc<Asks>>,
    /// The Job under whose hold it acts.
    pub job: Option<PodRef>,
    /// How far its acquire step is. Of a wrapped command: whether its container runs.
    pub step: AcquireStep,
    /// Its wrapped command, which then is all of it that holds.
    pub wrapped: Option<Wrapped>,
    /// Whether no app container of it can run any more.
    pub ended: bool,
    /// Once it has ended: whether it succeeded, if that is known, and when.
    pub outcome: Option<Outcome>,
    /// Whether its end has to be recorded before it may vanish.
    pub owes: bool,
    /// Whether it waits before it gets a node.
    pub gated: bool,
    /// Whether an app container of it has ever started, or its wrapped command runs.
    pub started: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its kubelet starts a failed acquire step again, and its controller makes another Pod if this one is deleted.
    pub replaceable: bool,
}

/// A Job that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFacts {
    /// The Job itself.
    pub who: Arc<Who>,
    /// Its age, which is the age of its Pods' requests.
    pub created: Timestamp,
    /// When it was started, or last resumed; its patience counts from then.
    pub started: Timestamp,
    /// What its annotations ask for.
    pub asks: Option<Arc<Asks>>,
    /// Whether several of its Pods may run at once.
    pub shared: bool,
    /// Whether it is Complete or Failed.
    pub terminal: bool,
    /// Whether somebody suspended it: its Pods are deleted, and no others are made.
    pub suspended: bool,
    /// Whether konductor suspended it when it was made, and has not resumed it yet.
    pub held_back: bool,
    /// Once its fate is decided: how it came out.
    pub outcome: Option<Outcome>,
    /// Whether its end has to be recorded before it may vanish.
    pub owes: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// What the annotations of a Pod or a Job ask for, and of which primitives.
#[derive(Debug, PartialEq, Eq)]
pub struct Asks {
    /// What they say, with the namespaces filled in.
    pub plan: Plan,
    /// The primitives that its items name, in the same order.
    keys: Vec<Key>,
}

impl Asks {
    fn of(meta: &ObjectMeta, subject: Subject) -> Option<Arc<Self>> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let plan = plan::parse(meta.annotations.as_ref().unwrap_or(&NONE), subject).ok().flatten()?;
        // With the namespaces filled in: the order of acquiring, and the numbers of the tokens, are those of the written-out names.
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let plan = plan.in_namespace(namespace);
        let keys = plan.items.iter().map(|item| key_of(item, namespace)).collect();
        Some(Arc::new(Self { plan, keys }))
    }

    /// All that they say, with the primitives that they name.
    pub fn items(&self) -> impl Iterator<Item = (&Key, &Item)> {
        self.keys.iter().zip(&self.plan.items)
    }
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it succeeded.
    pub succeeded: bool,
    /// When it ended.
    pub at: Timestamp,
}

impl PodFacts {
    /// Reads a Pod.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let asks = injected(meta).then(|| Asks::of(meta, if copied(meta) { Subject::PodOfJob } else { Subject::Pod })).flatten();
        let wrapped = asks.as_ref().filter(|asks| asks.plan.wraps()).and_then(|_| Wrapped::of(pod));
        Self {
            who: Arc::new(who(HolderKind::Pod, meta)),
            created: created(meta),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            asks,
            job: job_of(meta),
            step: match &wrapped {
                Some(wrapped) if wrapped.running => AcquireStep::Running,
                Some(_) => AcquireStep::Pending,
                None => evidence::acquire_step(pod),
            },
            ended: evidence::pod_ended(pod) || vanishes(meta),
            outcome: evidence::pod_outcome(pod).map(|(succeeded, at)| Outcome { succeeded, at }),
            owes: owes(meta),
            gated: pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten()).any(|gate| gate.name == names::SCHEDULING_GATE),
            started: evidence::pod_started(pod) || wrapped.as_ref().is_some_and(|wrapped| wrapped.running),
            wrapped,
            deleting: meta.deletion_timestamp.is_some(),
            replaceable: meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true))
                && pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("Never"),
        }
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.who.uid
    }

    /// What its annotations say.
    pub fn plan(&self) -> Option<&Plan> {
        self.asks.as_ref().map(|asks| &asks.plan)
    }

    /// All that its annotations say, with the primitives that they name.
    pub fn items(&self) -> impl Iterator<Item = (&Key, &Item)> {
        self.asks.iter().flat_map(|asks| asks.items())
    }

    /// The primitives that they name.
    pub fn keys(&self) -> &[Key] {
        self.asks.as_ref().map_or(&[], |asks| &asks.keys)
    }

    /// What its acquire step goes through.
    pub fn steps(&self) -> impl Iterator<Item = (&Key, &Item)> {
        self.items().filter(|(_, item)| item.role.is_step())
    }

    /// What lasts while it runs.
    pub fn holds(&self) -> impl Iterator<Item = (&Key, &Item)> {
        self.items().filter(|(_, item)| item.role.lasts())
    }

    /// Whether it can run no more under the hold of this primitive that has this token.
    pub fn is_out(&self, key: &Key, token: i64) -> bool {
        let any = |wrapped: &Wrapped| wrapped.last.is_some() && planted::bug("end-of-any-run-counts");
        self.ended
            || self.wrapped.as_ref().is_some_and(|wrapped| wrapped.over || self.run_ended(wrapped, key, token).is_some() || any(wrapped))
    }

    /// Whether it succeeded under that hold, if that is known.
    pub fn came_out(&self, key: &Key, token: i64) -> Option<bool> {
        match &self.wrapped {
            None => self.outcome.map(|outcome| outcome.succeeded),
            Some(wrapped) => {
                let last = || wrapped.last.filter(|_| self.ended || wrapped.over);
                self.run_ended(wrapped, key, token).or_else(last)
            }
        }
    }

    fn run_ended(&self, wrapped: &Wrapped, key: &Key, token: i64) -> Option<bool> {
        wrapped.end_of(&key.seen_from(&self.who.namespace), token)
    }

    /// Shares what it asks for with another one that asks for the same: a crowd of Pods is made from one template.
    pub fn share(&mut self, other: &Self) {
        if self.asks == other.asks {
            self.asks.clone_from(&other.asks);
        }
    }

    /// Under a Job's hold: how the Pod is named there.
    pub fn as_ref(&self) -> PodRef {
        PodRef { uid: self.who.uid.clone(), name: self.who.name.clone() }
    }
}

impl JobFacts {
    /// Reads a Job.
    pub fn of(job: &Job) -> Self {
        let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false);
        let held_back = suspended && job.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::SUSPENDED));
        Self {
            who: Arc::new(who(HolderKind::Job, &job.metadata)),
            created: created(&job.metadata),
            asks: Asks::of(&job.metadata, Subject::Job),
            started: started(job).max(created(&job.metadata)),
            shared: job.spec.as_ref().and_then(|spec| spec.parallelism).unwrap_or(1) > 1,
            terminal: evidence::job_terminal(job),
            suspended: suspended && !held_back,
            held_back,
            outcome: evidence::job_outcome(job).map(|(succeeded, at)| Outcome { succeeded, at }),
            owes: owes(&job.metadata),
            deleting: job.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Whether it makes no Pods, now or ever, though it once did.
    pub fn rests(&self) -> bool {
        self.terminal || self.suspended
    }

    /// Whether its hold of this primitive ends when none of its Pods can run any more. A member of a WaitGroup is not done while it is merely suspended; one
    /// that never started may have been edited since, and ask for something else now.
    pub fn lets_go(&self, key: &Key) -> bool {
        let edited = self.held_back && !self.keys().contains(key);
        edited || if key.kind == Kind::WaitGroup { self.terminal } else { self.rests() }
    }

    /// What its annotations say.
    pub fn plan(&self) -> Option<&Plan> {
        self.asks.as_ref().map(|asks| &asks.plan)
    }

    /// All that its annotations say, with the primitives that they name.
    pub fn items(&self) -> impl Iterator<Item = (&Key, &Item)> {
        self.asks.iter().flat_map(|asks| asks.items())
    }

    /// The primitives that they name.
    pub fn keys(&self) -> &[Key] {
        self.asks.as_ref().map_or(&[], |asks| &asks.keys)
    }

    /// What it goes through before it starts.
    pub fn steps(&self) -> impl Iterator<Item = (&Key, &Item)> {
        self.items().filter(|(_, item)| item.role.is_step())
    }
}

/// What a Gate sees of a Job.
pub fn named_job(job: &Job) -> NamedJob {
    let status = job.status.clone().unwrap_or_default();
    let outcome = evidence::job_outcome(job).map(|(succeeded, _)| succeeded);
    let has = |kind: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True");
    NamedJob {
        uid: job.metadata.uid.clone().unwrap_or_default(),
        seen: Seen::Job {
            complete: has("Complete") && outcome == Some(true) || has("Failed") && planted::bug("gate-takes-failed-for-complete"),
            failed: has("Failed"),
            active: status.active.unwrap_or_default().into(),
            succeeded: status.succeeded.unwrap_or_default().into(),
        },
    }
}

/// One uninterrupted time in which a node is unreachable. Two that are equal are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The control plane has not known since then whether the node is ready. (A node that itself says "not ready" is there.)
    Since(Timestamp),
    /// There is no such node any more.
    Removed,
}

/// The outage that a node is in, if it has stopped reporting.
pub fn outage(node: &Node) -> Option<Outage> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let unknown = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "Unknown")?;
    Some(Outage::Since(unknown.last_transition_time.as_ref().map(|time| time.0).unwrap_or_default()))
}

/// The primitive that an item of an object in `namespace` names.
fn key_of(item: &Item, namespace: &str) -> Key {
    let target = &item.target;
    Key { kind: target.kind, namespace: target.namespace.clone().unwrap_or_else(|| namespace.to_owned()), name: target.name.clone() }
}

/// Whether the end of this object has to be recorded before it may vanish.
fn owes(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == names::OUTCOME_FINALIZER)
}

/// Whether a Pod would be gone already, but for what it owes: it was deleted with no grace left, by its kubelet at the end or by somebody's force.
fn vanishes(meta: &ObjectMeta) -> bool {
    owes(meta) && meta.deletion_timestamp.is_some() && meta.deletion_grace_period_seconds == Some(0)
}

/// Whether konductor's own label is there: only such Pods are watched.
fn injected(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().and_then(|labels| labels.get(names::INJECTED_LABEL)).is_some_and(|value| value == "true")
}

/// Whether a Pod's annotations are its Job's. The webhook has taken this mark from everybody else, and nobody can change it later.
fn copied(meta: &ObjectMeta) -> bool {
    meta.annotations.as_ref().and_then(|all| all.get(names::COPIED_FROM)).is_some_and(|from| from == names::COPIED_FROM_JOB)
}

/// The controlling Job, where the webhook marked the annotations as copied from it.
fn job_of(meta: &ObjectMeta) -> Option<PodRef> {
    if !copied(meta) {
        return None;
    }
    let owner = meta
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true) && owner.kind == "Job" && owner.api_version.starts_with("batch/"))?;
    Some(PodRef { uid: owner.uid.clone(), name: owner.name.clone() })
}

fn who(kind: HolderKind, meta: &ObjectMeta) -> Who {
    Who {
        kind,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map(|Time(time)| *time).unwrap_or_default()
}

fn started(job: &Job) -> Timestamp {
    job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|Time(time)| *time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Two Pods of two namespaces that take the same two Mutexes: in one order, or they could wait for each other for ever.
    #[test]
    fn pods_of_different_namespaces_acquire_in_one_order() {
        let order = |namespace: &str, acquire: &str| -> Vec<Key> {
            let pod = json!({ "metadata": {
                "name": "app", "namespace": namespace, "uid": "1", "labels": { names::INJECTED_LABEL: "true" },
                "annotations": { "konductor.io/acquire": acquire },
            } });
            PodFacts::of(&serde_json::from_value(pod).unwrap()).holds().map(|(key, _)| key.clone()).collect()
        };
        assert_eq!(order("a", "mutex/x, mutex/b/y"), order("b", "mutex/y, mutex/a/x"));
    }
}

//! How Jobs and Pods end is counted even if they vanish at once: those whose end somebody counts carry the finalizer `konductor.io/outcome` until it is on
//! record. This takes it away.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::debug;

use super::{
    Context,
    facts::{JobFacts, Outcome, PodFacts},
    object::{Key, Object},
    roll::Names,
    starting::{here, written},
    world::under,
};
use crate::{
    api::{HolderKind, names},
    plan::{On, Role},
    planted,
    rules::{Latch, Who},
};

/// Somebody who has ended and still carries the finalizer.
struct Debtor {
    who: Arc<Who>,
    outcome: Option<Outcome>,
    /// Whether it is being deleted.
    deleting: bool,
    /// Whether it can have no outcome any more: a Job that is deleted before it is over would keep its Pods running for as long as it stays.
    void: bool,
    /// Whether it may live on, and its wrapped command may run again: an init container does when the Pod's sandbox is made anew.
    lives: bool,
    owed: Vec<(Key, Role)>,
}

/// Frees those who name this primitive, have ended, and owe nothing any more.
pub async fn free(context: &Context, key: &Key) -> Result<(), kube::Error> {
    for debtor in debtors(context, key) {
        // Where it is recorded, it is freed: others need not look again at each of their turns.
        let concerns = debtor.void || debtor.owed.is_empty() || debtor.owed.iter().any(|(owed, _)| owed == key);
        if !concerns || !debtor.void && !paid(context, &debtor).await? {
            continue;
        }
        debug!(who = debtor.who.in_full(), "its end is on record");
        match debtor.who.kind {
            HolderKind::Pod => lift(context, &debtor.who, |pod: &Pod| !debtor.void || !PodFacts::of(pod).ended).await?,
            HolderKind::Job => lift(context, &debtor.who, |job: &Job| !debtor.void || !JobFacts::of(job).terminal).await?,
            HolderKind::Claim => {}
        }
    }
    Ok(())
}

fn debtors(context: &Context, key: &Key) -> Vec<Debtor> {
    let state = context.world.lock();
    let owed = |items: &mut dyn Iterator<Item = (Key, Role)>| -> Vec<(Key, Role)> {
        items.filter(|(_, role)| matches!(role, Role::Arrive { on: On::Success } | Role::Execute { .. } | Role::Join)).collect()
    };
    let jobs = under(&state.jobs_of, key).filter(|job| job.owes && (job.terminal || job.deleting)).map(|job| Debtor {
        who: job.who.clone(),
        outcome: job.outcome,
        deleting: job.deleting,
        void: !job.terminal,
        lives: false,
        owed: owed(&mut job.items().map(|(key, item)| (key.clone(), item.role))),
    });
    let stillborn = |pod: &PodFacts| !pod.ended && pod.deleting && pod.node.is_none();
    let pods = under(&state.pods_of, key).filter(|pod| pod.owes && (pod.ended || stillborn(pod) || ended_early(pod))).map(|pod| Debtor {
        who: pod.who.clone(),
        outcome: pod.outcome,
        deleting: pod.deleting,
        void: stillborn(pod),
        lives: !pod.ended && !stillborn(pod) && !planted::bug("freed-though-it-may-run-again"),
        owed: owed(&mut pod.items().map(|(key, item)| (key.clone(), item.role))),
    });
    jobs.chain(pods).collect()
}

/// Whether a wrapped command has done its part, and its Pod owes nothing beyond that: it may live on for long.
fn ended_early(pod: &PodFacts) -> bool {
    let arrives = pod.items().any(|(_, item)| matches!(item.role, Role::Arrive { on: On::Success }));
    pod.wrapped.as_ref().is_some_and(|wrapped| wrapped.rests) && !arrives
}

/// Whether all that it owes is on record, by live reads.
async fn paid(context: &Context, debtor: &Debtor) -> Result<bool, kube::Error> {
    if planted::bug("freed-before-recorded") {
        return Ok(true);
    }
    for (key, role) in &debtor.owed {
        let settled = context.world.lock().settled.contains(&(debtor.who.uid.clone(), key.clone()));
        if !settled && !on_record(debtor, *role, context.store.get(key).await?.as_ref()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn on_record(debtor: &Debtor, role: Role, object: Option<&Object>) -> bool {
    let Who { uid, namespace, .. } = &*debtor.who;
    match (role, object) {
        (Role::Arrive { .. }, _) if !debtor.outcome.is_some_and(|outcome| outcome.succeeded) => true,
        // It may still be made; but who is deleted does not wait for that.
        (Role::Arrive { .. }, None) => debtor.deleting,
        (Role::Arrive { .. }, Some(object)) => object.has_arrived(uid) || !object.allows(namespace),
        // It leaves its command out from then on. Whoever was left out for another reason may yet execute it.
        (Role::Execute { .. }, object) if debtor.lives => object.is_some_and(|object| executed(object) && !object.holds(uid)),
        (_, object) => !object.is_some_and(|object| object.holds(uid)),
    }
}

fn executed(object: &Object) -> bool {
    matches!(object, Object::Once(_)) && object.latch() == Latch::Open
}

/// Frees it as it is now, if that is still right: what was to have no outcome may have come to one in the last moment.
pub async fn lift<K>(context: &Context, who: &Who, right: impl Fn(&K) -> bool) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let api = Api::<K>::namespaced(context.client.clone(), &who.namespace);
    let this_one = |live: &K| live.meta().uid.as_deref() == Some(&who.uid) && right(live);
    let Some(live) = api.get_opt(&who.name).await?.filter(this_one) else { return Ok(()) };
    let meta = live.meta();
    let others: Vec<&String> = meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != names::OUTCOME_FINALIZER).collect();
    let metadata = here(meta, Some(("finalizers", json!(others))));
    written(api.patch(&who.name, &PatchParams::default(), &Patch::Merge(json!({ "metadata": metadata }))).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Once;

    /// Its finalizer would be gone when its sandbox is made anew, and with the Pod the success of the run that follows.
    #[test]
    fn whoever_may_still_execute_a_once_owes_its_end() {
        let who = Arc::new(Who { kind: HolderKind::Pod, namespace: "ns".to_owned(), name: "p".to_owned(), uid: "p".to_owned() });
        let debtor = |lives| Debtor { who: who.clone(), outcome: None, deleting: false, void: false, lives, owed: Vec::new() };
        let once = |executed: bool| {
            let by = json!({ "uid": "o", "kind": "Pod", "namespace": "ns", "name": "other" });
            let status = json!({ "executed": true, "executedBy": by, "executedAt": "2026-01-01T00:00:00Z" });
            let mut once = Once::new("x", Default::default());
            once.status = executed.then(|| serde_json::from_value(status).unwrap());
            Object::from(once)
        };
        let role = Role::Execute { priority: 0 };
        assert!(!on_record(&debtor(true), role, Some(&once(false))));
        assert!(!on_record(&debtor(true), role, None), "it may be made anew");
        assert!(on_record(&debtor(true), role, Some(&once(true))));
        assert!(on_record(&debtor(false), role, Some(&once(false))), "it has ended");
    }
}

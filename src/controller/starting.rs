//! Those who wait without a session: Pods behind a scheduling gate, and Jobs that konductor suspended. What a session would be told is done to them here: let
//! them start, skip them, or end them. Each write rests on a live read of the same object, and the acquire step of their Pods asks once more.

use std::sync::Arc;

use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};
use tracing::info;

use super::{
    Context, ask,
    events::Note,
    facts::{JobFacts, PodFacts},
    gather::Gathered,
    object::{Key, Object},
    words,
};
use crate::{
    api::{HolderKind, names},
    coordinator::session::Place,
    plan::{Item, Kind, OnConflict},
    planted,
    rules::{Decision, Refusal, Refused, Who},
};

/// Reason of the conditions of a Job that never started because its wait failed.
const WAIT_FAILED: &str = "KonductorWaitFailed";

/// Starts who has gone through all steps, and skips or ends who will not.
pub async fn go(
    context: &Context,
    key: &Key,
    object: Option<&Object>,
    decision: &Decision,
    gathered: &Gathered,
) -> Result<(), kube::Error> {
    // One that somebody's policy keeps from starting keeps no other.
    let mut done = Vec::new();
    for who in &gathered.ready {
        done.push(start(context, who).await);
    }
    for uid in &decision.skipped {
        if let Some(job) = held_back(context, uid) {
            let text = format!("{} has been executed: there is nothing left to do", key.seen_from(&job.who.namespace));
            done.push(finish(context, &job, None, &text).await);
        }
    }
    for Refusal { asker, why } in &decision.refused {
        if let Some(job) = held_back(context, asker) {
            let skips = job.plan().is_some_and(|plan| plan.on_conflict == OnConflict::Skip);
            let held = job.items().any(|(named, item)| named == key && item.role.has_token());
            let skip = *why == Refused::NotFree && skips && held;
            // Nobody has it, and still it is not free, as when it is paused: that is no reason to leave a run out.
            if skip && object.is_none_or(|object| object.holders().is_empty()) {
                continue;
            }
            let Place::Refused { message, .. } = words::refused(key, object, *why, &job.who.namespace) else { continue };
            done.push(finish(context, &job, (!skip).then_some((key.kind, *why)), &message).await);
        }
    }
    let refused = decision.refused.iter().map(|refusal| &refusal.asker);
    for uid in refused.chain(&gathered.impostors) {
        let gated = context.world.lock().pods.get(uid).filter(|pod| pod.gated && !pod.deleting).cloned();
        if let Some(pod) = gated {
            // Its acquire step asks again, is refused likewise, and so the Pod fails as every other one does.
            done.push(lift_gate(context, &pod).await);
        }
    }
    done.into_iter().collect()
}

fn held_back(context: &Context, uid: &str) -> Option<Arc<JobFacts>> {
    context.world.lock().jobs.get(uid).filter(|job| job.held_back && !job.terminal).cloned()
}

/// Lets somebody start who has gone through all steps, if live reads say so too.
async fn start(context: &Context, who: &Who) -> Result<(), kube::Error> {
    let time = context.clock.now();
    match who.kind {
        HolderKind::Pod => {
            let found = {
                let state = context.world.lock();
                state.pods.get(&who.uid).map(|pod| (pod.clone(), ask::pod_waits_from(&state, pod)))
            };
            let Some((pod, waits_from)) = found else { return Ok(()) };
            let past = |object: Option<&Object>, item: &Item| ask::pod_is_past(object, item, &pod, waits_from, time);
            if past_all(context, pod.steps(), past).await? || planted::bug("gate-lifted-before-it-holds") {
                lift_gate(context, &pod).await?;
            }
        }
        HolderKind::Job => {
            let Some(job) = held_back(context, &who.uid) else { return Ok(()) };
            let past = |object: Option<&Object>, item: &Item| ask::job_is_past(object, item, &job, time);
            if past_all(context, job.steps(), past).await? || planted::bug("resumed-before-it-holds") {
                resume(context, &job).await?;
            }
        }
        HolderKind::Claim => {}
    }
    Ok(())
}

/// Whether somebody has gone through all these steps, by live reads: what the picture shows may have been deleted and made anew.
async fn past_all<'a>(
    context: &Context,
    steps: impl Iterator<Item = (&'a Key, &'a Item)>,
    past: impl Fn(Option<&Object>, &Item) -> bool,
) -> Result<bool, kube::Error> {
    for (key, item) in steps {
        let live = context.live(key).await?;
        if !past(live.as_ref(), item) {
            context.seen_live(key, live);
            return Ok(false);
        }
    }
    Ok(true)
}

async fn lift_gate(context: &Context, pod: &PodFacts) -> Result<(), kube::Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), &pod.who.namespace);
    let Some(live) = api.get_opt(&pod.who.name).await?.filter(|live| live.metadata.uid.as_deref() == Some(pod.uid())) else {
        return Ok(());
    };
    let gates: Vec<_> = live
        .spec
        .iter()
        .flat_map(|spec| spec.scheduling_gates.iter().flatten())
        .filter(|gate| gate.name != names::SCHEDULING_GATE)
        .collect();
    let patch = json!({ "metadata": here(&live.metadata, None), "spec": { "schedulingGates": gates } });
    info!(pod = pod.who.in_full(), "may be scheduled");
    written(api.patch(&pod.who.name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

async fn resume(context: &Context, job: &JobFacts) -> Result<(), kube::Error> {
    let Some(live) = live(context, job).await? else { return Ok(()) };
    let metadata = here(&live.metadata, Some(("annotations", json!({ names::SUSPENDED: null }))));
    let patch = json!({ "metadata": metadata, "spec": { "suspend": false } });
    info!(job = job.who.in_full(), "may start");
    let api = Api::<Job>::namespaced(context.client.clone(), &job.who.namespace);
    written(api.patch(&job.who.name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// Ends a Job that never started: as Failed where it was refused, else as Complete, since nothing is left to do. It makes no Pod, and `kubectl wait` sees it.
async fn finish(context: &Context, job: &JobFacts, refused: Option<(Kind, Refused)>, text: &str) -> Result<(), kube::Error> {
    let complete = refused.is_none();
    let Some(live) = live(context, job).await? else { return Ok(()) };
    let now = context.clock.now().to_string();
    let (reason, types) =
        if complete { (names::SKIPPED, ["SuccessCriteriaMet", "Complete"]) } else { (WAIT_FAILED, ["FailureTarget", "Failed"]) };
    let mut conditions: Vec<Value> = live
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter_map(|condition| serde_json::to_value(condition).ok())
        .collect();
    conditions.extend(types.map(|kind| {
        json!({ "type": kind, "status": "True", "reason": reason, "message": text, "lastTransitionTime": now, "lastProbeTime": now })
    }));
    let status = json!({ "conditions": conditions, "startTime": now, "completionTime": complete.then_some(&now) });
    let patch = json!({ "metadata": here(&live.metadata, None), "status": status });
    info!(job = job.who.in_full(), reason, text, "will not start");
    let note = if complete { Note::normal("Skipped", text.to_owned()) } else { Note::warning("WaitFailed", text.to_owned()) };
    let api = Api::<Job>::namespaced(context.client.clone(), &job.who.namespace);
    written(api.patch_status(&job.who.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
    match refused {
        None => context.metrics.skipped_job(),
        Some((kind, why)) => context.metrics.refused(kind, why),
    }
    context.events.publish_who(&job.who, note.clone());
    let cron_job =
        live.metadata.owner_references.into_iter().flatten().find(|owner| owner.controller == Some(true) && owner.kind == "CronJob");
    if let Some(owner) = cron_job {
        context.events.publish_owner(&job.who, &owner, note);
    }
    Ok(())
}

/// The Job as it is now, if konductor still holds it back.
async fn live(context: &Context, job: &JobFacts) -> Result<Option<Job>, kube::Error> {
    let api = Api::<Job>::namespaced(context.client.clone(), &job.who.namespace);
    let live = api.get_opt(&job.who.name).await?.filter(|live| live.metadata.uid.as_deref() == Some(&job.who.uid));
    Ok(live.filter(|live| {
        let facts = JobFacts::of(live);
        facts.held_back && !facts.terminal && !facts.deleting
    }))
}

/// The metadata of a patch that applies to this revision of this object, and no other.
pub fn here(meta: &ObjectMeta, changed: Option<(&str, Value)>) -> Value {
    let same = [("uid", json!(meta.uid)), ("resourceVersion", json!(meta.resource_version))];
    same.into_iter().chain(changed).map(|(field, value)| (field.to_owned(), value)).collect::<Map<_, _>>().into()
}

/// What is gone by now, or is not what was meant, needs nothing more.
pub fn tolerate<T>(written: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

/// A conflict is an error: what was written in between may be nothing that brings another turn about.
pub fn written<T>(written: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

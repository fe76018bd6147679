//! Pods that konductor itself ends: those that would run, or wait for ever, against what the primitives say. Each is deleted with its UID, and an Event says why.

use std::sync::Arc;

use tracing::warn;

use super::{
    Context,
    events::Note,
    examine::Overdue,
    facts::PodFacts,
    object::{Key, Object},
    roll::Names,
    turn::TurnError,
    world::State,
};
use crate::{
    plan::OnLost,
    rules::{Decision, Evidence, Out, Refusal, evidence::AcquireStep},
};

/// Ends Pods whose hold was taken, however far they are: a kubelet that comes back must find them deleted, and start nothing more of them. Those that
/// this misses are found as strays.
pub async fn lost(context: &Context, key: &Key, written: &Object, evidence: &[Evidence]) {
    for fact in evidence {
        let Evidence::PodOut { uid, how: Out::Lost } = fact else { continue };
        let Some(pod) = context.world.lock().pods.get(uid).filter(|pod| !pod.deleting).cloned() else { continue };
        if written.token_of(pod.uid()).is_some() || goes_on(&pod) {
            continue;
        }
        if let Err(error) = end_pod(context, key, &pod).await {
            warn!(pod = pod.who.in_full(), %error, "could not delete a Pod whose hold was taken");
        }
    }
}

/// Ends wrapped Pods from which a hold is about to be taken. Afterwards nothing would tell one whose command runs on from one that waits again, or has
/// ended, should this process die in between.
pub async fn wrapped(context: &Context, key: &Key, evidence: &[Evidence]) -> Result<(), kube::Error> {
    for fact in evidence {
        let Evidence::PodOut { uid, how: Out::Lost } = fact else { continue };
        let found = context.world.lock().pods.get(uid).filter(|pod| pod.wrapped.is_some() && !pod.deleting && !goes_on(pod)).cloned();
        if let Some(pod) = found {
            end_pod(context, key, &pod).await?;
        }
    }
    Ok(())
}

/// Whether a Pod runs on without its hold, as its annotations say. One that has not started yet does not.
fn goes_on(pod: &PodFacts) -> bool {
    pod.started && pod.plan().is_some_and(|plan| plan.on_lost == OnLost::Ignore)
}

/// Deletes those who have held for longer than they may; their end releases the hold. Who has just been released has come to its end by itself.
pub async fn overdue(context: &Context, key: &Key, written: &Object, overdue: &[Overdue]) -> Result<(), kube::Error> {
    for Overdue { who, never_started } in overdue.iter().filter(|overdue| written.holds(&overdue.who.uid)) {
        let name = key.seen_from(&who.namespace);
        let (reason, text) = if *never_started {
            ("StartTimeout", format!("has held {name} for longer than its start-timeout without having started: it is deleted"))
        } else {
            ("MaxHold", format!("has held {name} for longer than its max-hold: it is deleted"))
        };
        warn!(%key, who = who.in_full(), reason, "deleting it");
        context.events.publish_who(who, Note::warning(reason, text));
        context.delete(who).await?;
    }
    Ok(())
}

/// Deletes a Pod that does not hold any more, and says so.
async fn end_pod(context: &Context, key: &Key, pod: &PodFacts) -> Result<(), kube::Error> {
    warn!(%key, pod = pod.who.in_full(), "without its hold: deleting it");
    let text = format!("no longer holds {}: the Pod is deleted", key.seen_from(&pod.who.namespace));
    context.events.publish_who(&pod.who, Note::warning("HoldLost", text));
    context.delete(&pod.who).await
}

/// Ends Pods that were refused one hold, keep another, and would ask again for ever: what they hold would be lost to all. Their controller makes new ones.
/// (What wraps a command gives back what it has got.)
pub async fn refused(context: &Context, key: &Key, decision: &Decision) {
    for Refusal { asker, .. } in &decision.refused {
        let keeps = |state: &State, pod: &PodFacts| {
            pod.holds()
                .any(|(other, _)| other != key && state.objects.get(other).is_some_and(|object| object.token_of(pod.uid()).is_some()))
        };
        let found = {
            let state = context.world.lock();
            state
                .pods
                .get(asker)
                .filter(|pod| pod.replaceable && pod.wrapped.is_none() && !pod.deleting && pod.job.is_none() && keeps(&state, pod))
                .cloned()
        };
        let Some(pod) = found else { continue };
        warn!(%key, pod = pod.who.in_full(), "refused while it holds others: deleting it");
        let text =
            format!("was refused {}: the Pod is deleted, so that it keeps nothing else from others", key.seen_from(&pod.who.namespace));
        context.events.publish_who(&pod.who, Note::warning("Refused", text));
        if let Err(error) = context.delete(&pod.who).await {
            warn!(pod = pod.who.in_full(), %error, "could not delete a Pod that was refused");
        }
    }
}

/// Ends Pods that run without the hold that they once had: it was taken from them while their node was away. The order matters: first a Pod that
/// has passed its acquire step, then the primitive, which must have named it by then.
pub async fn strays(context: &Context, name: &Key, object: &Object, strays: &[Arc<PodFacts>]) -> Result<(), TurnError> {
    for stray in strays.iter().filter(|stray| object.token_of(stray.uid()).is_none()) {
        let Some(pod) = context.eye.pod(&stray.who.namespace, &stray.who.name, stray.uid()).await? else { continue };
        if pod.ended || pod.deleting || goes_on(&pod) || pod.step != AcquireStep::Passed {
            continue;
        }
        if context.store.get(name).await?.is_some_and(|object| object.token_of(pod.uid()).is_some()) {
            continue;
        }
        end_pod(context, name, &pod).await?;
    }
    Ok(())
}

//! One turn of one primitive: read, decide, write once, tell. The only asynchronous code between the facts and the rules.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use tokio::{
    task::yield_now,
    time::{Duration, Instant},
};
use tracing::{debug, warn};

use super::{
    Context,
    ask::At,
    claims, ending,
    events::Note,
    examine::Suspect,
    facts::PodFacts,
    gather::{self, Gathered},
    object::{Key, NextStatus, Object},
    outcomes,
    roll::{Names, Roll},
    runs, starting,
    store::WriteError,
    tell,
    world::{State, under},
};
use crate::{
    planted,
    rules::{self, Decision, Evidence, Out, Passed, Primitive, Refusal, Refused, Settled, Settlement},
};

/// A changed number of waiters is written along with other changes, else this long after the last write.
const WAITING_EVERY: Duration = Duration::from_secs(10);
/// The finalizer stays this long after the last hold, so that a busy primitive does not pay for it at every hold.
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// A holder that points to its end, but has not reached it, is looked at again this much later, should nobody say so before.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Conflicts in a row after which a turn lets others go first.
const MOST_ATTEMPTS: usize = 8;

/// Why a turn ended early; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// A read failed, or the write of something else than the status.
    #[error("a request to the API server failed: {0}")]
    Request(#[from] kube::Error),
    /// The write was refused.
    #[error("could not write the status: {0}")]
    Write(#[from] WriteError),
    /// It took longer than an answer can take.
    #[error("did not end in time")]
    Stalled,
    /// Others kept writing in between.
    #[error("gave way to other writers {MOST_ATTEMPTS} times")]
    GaveWay,
}

/// Looks at a primitive and does all that can be done for it now.
pub async fn turn(context: &Context, key: &Key) -> Result<(), TurnError> {
    let known = context.world.lock().objects.get(key).cloned();
    let Some(mut object) = known else { return missing(context, key).await };
    // When the present `object` was asked for, if it is not from the picture.
    let mut read_at: Option<Instant> = None;
    for _ in 0..MOST_ATTEMPTS {
        let now = context.clock.now();
        let mut gathered = gather(context, key, Some(&object), now).await?;
        if gathered.blind {
            // What is looked for brings the next turn about.
            return Ok(());
        }
        prove(context, key, &mut gathered, now).await?;
        claims::look(context, key, &mut gathered).await?;
        let mut decision = rules::decide(&object.primitive(), &gathered.facts, now);
        refuse_arrivals(&mut decision, &gathered);
        claims::give_up(&mut decision, &gathered, now);
        claims::expiring(&mut decision, &gathered, &object, now);
        if unsure(&context.world.lock(), &decision, read_at) && !planted::bug("granted-from-cache") {
            read_at = Some(Instant::now());
            object = match context.live(key).await? {
                Some(object) => object,
                None => return Ok(()), // whoever waits for it waits for a new one
            };
            continue;
        }
        if planted::bug("granted-before-written") {
            context.world.update(|state| decision.granted.iter().for_each(|grant| tell::confirm(state, key, &grant.asker, grant.token)));
        }
        ending::wrapped(context, key, &gathered.facts.evidence).await?;
        match write(context, key, &object, &decision, now).await {
            Ok(written) => {
                ending::lost(context, key, &written, &gathered.facts.evidence).await;
                // Whoever is owed an answer is told first: what is done to others below may be refused by somebody's policy, again and again. Mere words come last.
                let free = settle(context, key, &object, &written, &decision, &gathered, now).await;
                let (told, words) = claims::tell(context, key, Some(&written), &decision, &gathered, now).await;
                tell::events(context, &written, &decision);
                context.metrics.decided(key.kind, &decision, &gathered.facts.requests, now);
                if planted::bug("reacts-to-itself") {
                    let live = context.live(key).await?;
                    context.seen_live(key, live);
                }
                // A Claim that was not told would find nothing that says how it ended.
                let spent = if told.is_ok() { clean_up(context, key, &written, now).await } else { Ok(()) };
                ending::refused(context, key, &decision).await;
                let done = [
                    told,
                    ending::strays(context, key, &written, &gathered.strays).await,
                    ending::overdue(context, key, &written, &gathered.overdue).await.map_err(TurnError::from),
                    starting::go(context, key, Some(&written), &decision, &gathered).await.map_err(TurnError::from),
                    outcomes::free(context, key).await.map_err(TurnError::from),
                    spent,
                    if free { lift_finalizer(context, &written).await } else { Ok(()) },
                    claims::say(context, key, words, now).await,
                ];
                return done.into_iter().collect();
            }
            Err(WriteError::Unknown(_)) if planted::bug("no-answer-is-success") => {
                settle(context, key, &object, &object, &decision, &gathered, now).await;
                return Ok(());
            }
            Err(WriteError::Refused(error)) => return Err(WriteError::Refused(error).into()),
            Err(error) => {
                // Perhaps our own write was done, perhaps somebody else's: what the object says now is the truth.
                context.metrics.wrote_not(key.kind);
                debug!(%key, %error, "reading again");
                read_at = Some(Instant::now());
                object = match context.live(key).await? {
                    Some(object) => object,
                    None => return Ok(()),
                };
            }
        }
    }
    Err(TurnError::GaveWay)
}

/// What was held when we read it may be over since: "yours" is said only if it was read after the Pod asked. And "never" only if it was read at all.
fn unsure(state: &State, decision: &Decision, read_at: Option<Instant>) -> bool {
    let never = decision.refused.iter().any(|refusal| refusal.why == Refused::NotAllowed);
    let lost = decision.settled.iter().any(|settled| settled.how != Settlement::Counted);
    // A Job that is skipped or failed stays so, and so does a Claim that is answered, and a command that is left out.
    let left_out = |uid: &String| state.pods.get(uid).is_some_and(|pod| runs::skips(pod));
    let stays = |uid: &String| state.jobs.contains_key(uid) || state.claims.contains_key(uid) || left_out(uid);
    let answered = decision.refused.iter().any(|refusal| stays(&refusal.asker));
    // What is counted with this write needs no reading; what was counted before may have been in an earlier round.
    let counted = !decision.changed && decision.settled.iter().any(|settled| state.claims.contains_key(&settled.uid));
    if read_at.is_none() && (never || lost || answered || counted || !decision.passed.is_empty() || !decision.skipped.is_empty()) {
        return true;
    }
    let asked_before = |asker: &str, read: Instant| state.sessions.get(asker).is_none_or(|session| session.opened < read);
    decision.granted.iter().any(|grant| !grant.new && !read_at.is_some_and(|read| asked_before(&grant.asker, read)))
}

/// Who may not arrive is told so, as those are who may not wait.
fn refuse_arrivals(decision: &mut Decision, gathered: &Gathered) {
    for (asker, uid) in &gathered.arriving {
        if decision.settled.iter().any(|settled| settled.uid == *uid && settled.how == Settlement::NotAllowed) {
            decision.refused.push(Refusal { asker: asker.clone(), why: Refused::NotAllowed });
        }
    }
}

/// The facts, after looking for the Jobs that were missing from the picture.
async fn gather(context: &Context, key: &Key, object: Option<&Object>, time: Timestamp) -> Result<Gathered, TurnError> {
    let gather = |state: &mut State| {
        #[cfg(feature = "planted-bugs")]
        planted::trust_remote_time(state, context.clock.now());
        gather::gather(state, key, object, At { now: Instant::now(), time })
    };
    let gathered = gather(&mut context.world.lock());
    if gathered.unknown_jobs.is_empty() {
        return Ok(gathered);
    }
    let mut gone = Vec::new();
    for unknown in &gathered.unknown_jobs {
        match context.eye.job(unknown).await? {
            Some(job) => context.world.lock().meet_job(job),
            None => gone.push(unknown.uid.clone()),
        }
    }
    let mut state = context.world.lock();
    let orphan = |pod: &&Arc<PodFacts>| pod.job.as_ref().is_some_and(|job| gone.contains(&job.uid));
    let orphans: Vec<String> = under(&state.pods_of, key).filter(orphan).map(|pod| pod.uid().to_owned()).collect();
    let mut gathered = gather(&mut state);
    gathered.impostors.extend(orphans);
    Ok(gathered)
}

/// Adds the evidence of live looks at whatever is suspect.
async fn prove(context: &Context, key: &Key, gathered: &mut Gathered, now: Timestamp) -> Result<(), TurnError> {
    for suspect in &gathered.suspects {
        let mut nodes = Vec::new();
        let proven = match suspect {
            Suspect::Claim { holder, unrenewed: Some(renewals) } => {
                // It is answered here; if it was not, the next turn does it.
                gathered.claims.retain(|claim| claim.uid() != holder.uid);
                claims::expire(context, key, holder, *renewals, now).await?
            }
            _ => context.eye.prove(suspect, &mut nodes).await?,
        };
        if proven.is_empty() {
            let at = Instant::now() + LOOK_AGAIN;
            gathered.again = Some(gathered.again.map_or(at, |earlier| earlier.min(at)));
        }
        let mut state = context.world.lock();
        for (node, outage) in nodes {
            // The watch has not said so yet.
            state.put_node(&node, outage);
        }
        for fact in &proven {
            // The picture may have been filled from a look that was older than the news of the end.
            match fact {
                Evidence::PodOut { uid, how: Out::Gone } => {
                    state.remove_pod(uid);
                    state.remember_gone(uid);
                }
                Evidence::JobOver { uid } => {
                    let Suspect::Job { key, .. } = suspect else { continue };
                    if state.jobs.get(uid).is_some_and(|job| !job.lets_go(key)) {
                        state.remove_job(uid);
                    }
                }
                _ => {}
            }
        }
        gathered.facts.evidence.extend(proven);
    }
    Ok(())
}

/// Writes what the decision says, if there is anything to write: first the finalizer, so that a holder's primitive cannot vanish, then the status.
async fn write(context: &Context, key: &Key, object: &Object, decision: &Decision, now: Timestamp) -> Result<Object, WriteError> {
    if !decision.changed && !status_due(context, key, object, decision) {
        return Ok(object.clone());
    }
    let guarded = if decision.holders.is_empty() || object.has_finalizer() || object.deleting() || planted::bug("finalizer-not-set") {
        object.clone()
    } else {
        let guarded = context.store.set_finalizer(object, true).await?;
        context.world.lock().put_object(guarded.clone());
        guarded
    };
    let next = NextStatus::from(decision);
    let written = match context.store.replace_status(&guarded, next.clone(), now).await {
        Err(WriteError::Conflict) if planted::bug("blind-retry-after-conflict") => {
            let live = context.store.get(key).await.ok().flatten().ok_or(WriteError::Conflict)?;
            context.store.replace_status(&live, next, now).await?
        }
        other => other?,
    };
    context.metrics.wrote(key.kind);
    context.world.update(|state| {
        state.put_object(written.clone());
        state.quiet.entry(key.clone()).or_default().written = Some(Instant::now());
    });
    Ok(written)
}

/// Whether the status should be written although no holder changed.
fn status_due(context: &Context, key: &Key, object: &Object, decision: &Decision) -> bool {
    let waiting = object.common().map(|common| usize::try_from(common.waiting).unwrap_or_default());
    if !object.observed() {
        return true;
    }
    if waiting == Some(decision.queue.len()) && !decision.drifted {
        return false;
    }
    let mut state = context.world.lock();
    let due = state.quiet.get(key).and_then(|quiet| quiet.written).map(|written| written + WAITING_EVERY);
    match due {
        Some(due) if Instant::now() < due => {
            state.alarm(key, due);
            false
        }
        _ => true,
    }
}

/// Tells everybody what the turn means for them, and sets the alarms for the next one. Says whether the finalizer may go now.
async fn settle(
    context: &Context,
    key: &Key,
    before: &Object,
    after: &Object,
    decision: &Decision,
    gathered: &Gathered,
    now: Timestamp,
) -> bool {
    context.world.update(|state| {
        for grant in &decision.granted {
            tell::confirm(state, key, &grant.asker, grant.token);
        }
        for Passed { asker, .. } in &decision.passed {
            tell::confirm(state, key, asker, 0);
        }
        for Settled { uid, .. } in &decision.settled {
            // A Claim says itself what became of it.
            if !state.claims.contains_key(uid) {
                state.settled.insert((uid.clone(), key.clone()));
            }
        }
        if !gathered.arriving.is_empty() {
            let roll = Roll::of(Some(after));
            let arrived = gathered.arriving.iter().filter(|(_, uid)| roll.has_arrived(uid));
            arrived.for_each(|(asker, _)| tell::confirm(state, key, asker, 0));
        }
    });
    tell::log(key, before, after, decision);
    if !decision.granted.is_empty() || !decision.passed.is_empty() {
        // Who was let in may run on this very thread, and would else hear of it after all the words to those who wait.
        yield_now().await;
    }
    context.world.update(|state| {
        for who in gathered.slow.iter().filter(|who| state.slow.insert((who.uid.clone(), key.clone()))) {
            let text = format!("has held {} for ten minutes and has not started", key.seen_from(&who.namespace));
            context.events.publish_who(who, Note::warning("NotStarted", text).about_primitive(key));
        }
        tell::those_who_wait(context, state, key, Some(after), decision, &gathered.impostors);
        set_alarms(state, key, decision, gathered, now);
        watch_finalizer(state, key, after, decision, now);
        forget_gone(state, before, after);
        idle(state, key, after, decision, now)
    })
}

/// There is no such primitive: whoever asks for it waits until there is one, or as long as its patience lasts.
async fn missing(context: &Context, key: &Key) -> Result<(), TurnError> {
    let now = context.clock.now();
    let gathered = gather(context, key, None, now).await?;
    if gathered.create
        && let Err(error) = context.store.create(key).await
    {
        warn!(%key, %error, "could not be made");
        context.world.lock().alarm(key, Instant::now() + WAITING_EVERY);
    }
    let mut decision = rules::decide(&Primitive::missing(&key.namespace), &gathered.facts, now);
    claims::give_up(&mut decision, &gathered, now);
    if !decision.refused.is_empty()
        && let Some(object) = context.store.get(key).await?
    {
        // It was made just now.
        context.world.update(|state| state.put_object(object));
        return Ok(());
    }
    context.world.update(|state| {
        for Passed { asker, .. } in &decision.passed {
            tell::confirm(state, key, asker, 0);
        }
        tell::those_who_wait(context, state, key, None, &decision, &gathered.impostors);
        set_alarms(state, key, &decision, &gathered, now);
    });
    let (told, words) = claims::tell(context, key, None, &decision, &gathered, now).await;
    let started = starting::go(context, key, None, &decision, &gathered).await;
    outcomes::free(context, key).await?;
    started?;
    told?;
    claims::say(context, key, words, now).await
}

/// When the same primitive needs a turn although nothing happens to it.
fn set_alarms(state: &mut State, key: &Key, decision: &Decision, gathered: &Gathered, now: Timestamp) {
    if let Some(at) = decision.again_at {
        state.alarm(key, from_now(at, now));
    }
    if let Some(at) = gathered.again {
        state.alarm(key, at);
    }
}

/// Deletes what has served its purpose for as long as its `ttl` says.
async fn clean_up(context: &Context, key: &Key, object: &Object, now: Timestamp) -> Result<(), TurnError> {
    match object.spent_at().filter(|_| !object.deleting()) {
        Some(at) if now >= at => Ok(context.store.delete(object).await?),
        Some(at) => {
            context.world.lock().alarm(key, from_now(at, now));
            Ok(())
        }
        None => Ok(()),
    }
}

/// A finalizer that nobody needs is looked at again.
fn watch_finalizer(state: &mut State, key: &Key, after: &Object, decision: &Decision, now: Timestamp) {
    if after.holders().is_empty() && after.has_finalizer() {
        let ahead = Timestamp::from_millisecond(decision.last_token).unwrap_or(now);
        let at = if after.deleting() { from_now(ahead.max(now), now) } else { Instant::now() + IDLE_AFTER };
        state.alarm(key, at);
    }
}

/// A moment of the API server's clock on ours; a little later, since that one is a lower bound.
fn from_now(at: Timestamp, now: Timestamp) -> Instant {
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
    Instant::now() + wait + Duration::from_millis(20)
}

/// Whether the finalizer may go now: nobody holds or waits, for a while unless the object is being deleted; and its tokens are not ahead of the
/// clock, so that a successor of the same name starts above them.
fn idle(state: &mut State, key: &Key, after: &Object, decision: &Decision, now: Timestamp) -> bool {
    let quiet = state.quiet.entry(key.clone()).or_default();
    let free = after.holders().is_empty() && (after.deleting() || decision.queue.is_empty());
    if !free || !after.has_finalizer() {
        quiet.idle = None;
        return false;
    }
    let since = *quiet.idle.get_or_insert_with(Instant::now);
    let behind_the_clock = decision.last_token <= now.as_millisecond();
    behind_the_clock && (after.deleting() || Instant::now() >= since + IDLE_AFTER)
}

/// Lets a primitive that nobody holds be deleted without us.
async fn lift_finalizer(context: &Context, object: &Object) -> Result<(), TurnError> {
    let key = object.key();
    match context.store.set_finalizer(object, false).await {
        Ok(free) if free.is_gone() => context.world.update(|state| state.remove_object(&key, free.uid())),
        Ok(free) => context.world.lock().put_object(free),
        // Somebody wrote in between; or it is gone, and the picture has not seen that yet, nor another one of its name.
        Err(WriteError::Conflict) => {
            let live = context.live(&key).await?;
            context.seen_live(&key, live);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Forgets the proofs about Pods and Claims that this primitive does not name any more.
fn forget_gone(state: &mut State, before: &Object, after: &Object) {
    fn names(object: &Object) -> HashSet<&str> {
        let held = object.holders().iter().flat_map(|holder| std::iter::once(&holder.uid).chain(holder.pods.iter().map(|pod| &pod.uid)));
        held.chain(object.applied()).map(String::as_str).collect()
    }
    let key = after.key();
    for uid in names(before).difference(&names(after)) {
        state.gone.remove(*uid);
        runs::forget(state, &key, uid);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::names;

    /// A Pod with a wrapped command that says this.
    fn pod(annotation: &str) -> PodFacts {
        let pod = json!({
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "p", "labels": { names::INJECTED_LABEL: "true" },
                "annotations": { "konductor.io/mutex": annotation },
            },
            "spec": { "containers": [{ "name": "app", "command": [names::WRAPPER, "agent", "wrap", "--", "work"] }] },
        });
        PodFacts::of(&serde_json::from_value(pod).unwrap())
    }

    /// Its container ends well and is not started again: what a stalled watch still shows as held is no reason for that.
    #[test]
    fn a_command_is_left_out_only_if_a_live_read_says_that_somebody_holds() {
        let refused = Decision { refused: vec![Refusal { asker: "p".to_owned(), why: Refused::NotFree }], ..Decision::default() };
        for (annotation, unsure_at_first) in [("db;strategy=wrap;on-conflict=skip", true), ("db;strategy=wrap;timeout=0s", false)] {
            let mut state = State::default();
            state.put_pod(pod(annotation));
            assert_eq!(unsure(&state, &refused, None), unsure_at_first, "{annotation}");
            assert!(!unsure(&state, &refused, Some(Instant::now())), "{annotation}");
        }
    }
}

//! Writes the answers of a turn on Claims, once the primitive says the same. Each write rests on the revision that was seen; whatever comes in between
//! is told by the next turn.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::{Duration, Instant};
use tracing::info;

use super::{
    ClaimFacts,
    answer::{Answer, Answers, ends, expired, holds_no_more, says, status},
    ask::prove,
    look::AT_ONCE,
};
use crate::{
    api::{Claim, Holder, HolderKind, denied},
    controller::{
        Context,
        events::Note,
        gather::Gathered,
        object::{Key, Object},
        outcomes,
        roll::Names,
        store::WriteError,
        turn::TurnError,
        world::State,
    },
    plan::Kind,
    planted,
    rules::{Decision, Evidence, Who},
};

/// Most Claims that are told for what they wait in one turn; the next turn tells more.
const MOST_WORDS: usize = 64;

/// What a Claim waits for is written when it begins to wait, and then at most this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The Claims that are let in by this decision, by their UIDs.
fn new<'a>(decision: &Decision, gathered: &'a Gathered) -> HashMap<&'a str, &'a ClaimFacts> {
    let granted: HashSet<&str> = decision.granted.iter().filter(|grant| grant.new).map(|grant| grant.asker.as_str()).collect();
    gathered.claims.iter().map(|claim| (claim.uid(), claim.as_ref())).filter(|(uid, _)| granted.contains(uid)).collect()
}

/// Writes on a Claim that its time has passed, before anything is taken from it: one that is renewed at the same moment is either told so by the answer, or
/// keeps what it holds. Gives what this, or whatever else the live look shows, proves.
pub async fn expire(context: &Context, key: &Key, holder: &Holder, unrenewed: i64, now: Timestamp) -> Result<Vec<Evidence>, TurnError> {
    let Holder { namespace, name, uid, .. } = holder.clone();
    let live = context.eye.claim(&Who { kind: HolderKind::Claim, namespace, name, uid }).await?;
    let unrenewed = |claim: &&ClaimFacts| claim.claim.spec.renewals == unrenewed && claim.end_of(holder.token).is_none();
    let Some(due) = live.as_ref().filter(unrenewed) else { return Ok(prove(holder, live.as_ref())) };
    let told = write(context, key, due, &Answer::Expired(expired(key)), now).await?;
    Ok(told.map(|told| prove(holder, Some(&told))).unwrap_or_default())
}

/// Adds to new holds of Claims when they end unless they are renewed.
pub fn expiring(decision: &mut Decision, gathered: &Gathered, object: &Object, now: Timestamp) {
    let new = new(decision, gathered);
    for holder in &mut decision.holders {
        let Some(claim) = new.get(holder.uid.as_str()) else { continue };
        holder.renewals = claim.claim.spec.renewals;
        holder.expires_at = ends(now, claim.ttl().unwrap_or_else(|| object.ttl())).map(Time);
    }
}

/// What is left to say once everybody has an answer who is owed one: for what the others wait. It is only a word.
#[must_use]
pub struct Words(Vec<(Arc<ClaimFacts>, Answer)>);

/// What there is to tell.
#[derive(Default)]
struct Telling {
    answers: Vec<(Arc<ClaimFacts>, Answer)>,
    /// Claims that say that they hold, or owe their end, and of which the primitive says nothing.
    lost: Vec<Arc<ClaimFacts>>,
    words: Vec<(Arc<ClaimFacts>, Answer)>,
}

fn telling(state: &mut State, key: &Key, after: Option<&Object>, decision: &Decision, gathered: &Gathered, now: Timestamp) -> Telling {
    let mut telling = Telling::default();
    let found = Answers::of(key, after, decision);
    for claim in &gathered.claims {
        let ttl = claim.ttl().or_else(|| after.map(Object::ttl));
        // A hold has its whole time from when it is told.
        let since = if claim.pending() { Some(now) } else { state.renewed.get(claim.uid()).map(|renewed| renewed.time) };
        let expires_at = since.zip(ttl).and_then(|(since, ttl)| ends(since, ttl));
        match found.to(claim, expires_at) {
            Some(Answer::Waits(text)) if !is_to_be_said(state, key, claim, &text) => {}
            // The next turn says more: a crowd that comes at once does not keep the primitive from it.
            Some(Answer::Waits(_)) if telling.words.len() >= MOST_WORDS => drop(state.dirty.insert(key.clone())),
            Some(word @ Answer::Waits(_)) => {
                state.said.insert(claim.uid().to_owned(), Instant::now());
                telling.words.push((claim.clone(), word));
            }
            Some(answer) if claim.claim.status.as_ref() == Some(&status(claim, &answer, now)) => {}
            Some(answer) => telling.answers.push((claim.clone(), answer)),
            None if claim.deleting() && !claim.owes() => {}
            None if claim.holds() || claim.owes() && (claim.settled() || claim.deleting()) => telling.lost.push(claim.clone()),
            None => {}
        }
    }
    telling
}

/// Tells every Claim that is owed an answer what the turn means for it. `after` is the primitive as it was written, or would have been.
pub async fn tell(
    context: &Context,
    key: &Key,
    after: Option<&Object>,
    decision: &Decision,
    gathered: &Gathered,
    now: Timestamp,
) -> (Result<(), TurnError>, Words) {
    let Telling { mut answers, lost, words } = telling(&mut context.world.lock(), key, after, decision, gathered, now);
    let mut done = Vec::new();
    if !lost.is_empty() {
        // What we saw of the primitive may be older than what we saw of these Claims.
        let live = match context.store.get(key).await {
            Ok(live) => live,
            Err(error) => return (Err(error.into()), Words(words)),
        };
        for claim in lost {
            let held = live.as_ref().is_some_and(|object| object.holds(claim.uid()));
            if held {
                context.world.update(|state| live.iter().for_each(|live| state.put_object(live.clone())));
            } else if claim.holds() && !claim.deleting() {
                let answer = holds_no_more(key, live.as_ref(), &claim);
                answers.push((claim, answer));
            } else if claim.owes() {
                done.push(outcomes::lift(context, &claim.who, |_: &Claim| true).await.map_err(TurnError::from));
            }
        }
    }
    done.push(write_all(context, key, answers, now).await);
    (done.into_iter().collect(), Words(words))
}

/// Says what is left to say.
pub async fn say(context: &Context, key: &Key, Words(words): Words, now: Timestamp) -> Result<(), TurnError> {
    write_all(context, key, words, now).await
}

async fn write_all(context: &Context, key: &Key, all: Vec<(Arc<ClaimFacts>, Answer)>, now: Timestamp) -> Result<(), TurnError> {
    let writes = all.into_iter().map(async |(claim, answer)| write(context, key, &claim, &answer, now).await.map(|_| ()));
    let done: Vec<_> = stream::iter(writes).buffered(AT_ONCE).collect().await;
    done.into_iter().collect()
}

/// Whether it is to be written for what a Claim waits: it is new, and nobody is told so again and again.
fn is_to_be_said(state: &mut State, key: &Key, claim: &ClaimFacts, text: &str) -> bool {
    let said = claim.claim.status.as_ref().filter(|said| said.observed_generation == claim.claim.metadata.generation);
    if said.is_some_and(|said| says(said, text)) {
        return false;
    }
    let said = state.said.get(claim.uid()).map(|said| *said + SAY_EVERY);
    if let Some(due) = said.filter(|due| Instant::now() < *due) {
        state.alarm(key, due);
        return false;
    }
    true
}

/// Writes an answer on a Claim, unless somebody wrote on it in between. Gives the Claim as it was written.
async fn write(context: &Context, key: &Key, claim: &ClaimFacts, answer: &Answer, now: Timestamp) -> Result<Option<ClaimFacts>, TurnError> {
    let told = match written(context, key, claim, answer, now).await {
        Ok(told) => told,
        // Somebody wrote in between, or it is gone: the next turn sees what it is now.
        Err(WriteError::Conflict) => {
            let live = context.eye.claim(&claim.who).await?;
            context.world.update(|state| {
                state.said.remove(claim.uid());
                match live {
                    Some(live) => state.refresh_claim(live),
                    None => state.remove_claim(claim.uid()),
                }
            });
            return Ok(None);
        }
        Err(error) => {
            context.world.lock().said.remove(claim.uid());
            return Err(error.into());
        }
    };
    context.world.update(|state| state.refresh_claim(told.clone()));
    let (reason, text) = match answer {
        // These are answers like any other: a script may ask every second.
        Answer::Denied { reason: denied::NOT_FREE | denied::EXECUTED, .. } => return Ok(Some(told)),
        Answer::Denied { text, .. } => ("Denied", text),
        Answer::Expired(text) => ("Expired", text),
        Answer::Waits(_) | Answer::Holds { .. } | Answer::Done | Answer::Released(_) => return Ok(Some(told)),
    };
    info!(%key, claim = claim.who.in_full(), reason, text, "told");
    context.events.publish_who(&claim.who, Note::warning(reason, text.clone()).about_primitive(key));
    Ok(Some(told))
}

async fn written(context: &Context, key: &Key, claim: &ClaimFacts, answer: &Answer, now: Timestamp) -> Result<ClaimFacts, WriteError> {
    let mut next = claim.claim.clone();
    // Whoever executes must not vanish before it is known how that came out.
    if key.kind == Kind::Once && matches!(answer, Answer::Holds { .. }) && !claim.owes() && !planted::bug("claim-vanishes-unrecorded") {
        if claim.deleting() {
            return Err(WriteError::Conflict);
        }
        next = context.store.set_outcome_finalizer(&next).await?;
    }
    next.status = Some(status(claim, answer, now));
    Ok(ClaimFacts::of(context.store.put_claim(&next).await?))
}

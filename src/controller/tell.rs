//! What a decision means for everybody, once it is written: for the sessions of those who wait, in Events, and in the log.

use tracing::info;

use super::{
    Context,
    events::Note,
    object::{Key, Object},
    words,
    world::State,
};
use crate::{
    api::{Holder, HolderKind},
    coordinator::{
        protocol::{Reason, Token},
        session::Place,
    },
    plan::Kind,
    rules::{Decision, Queued, Refusal, Release, Who, Why},
};

/// Says in Events who was let in and whose hold has ended. Whoever waits for an answer should have it by then: an Event is a write like any other, and
/// takes its share of the API server.
pub fn events(context: &Context, after: &Object, decision: &Decision) {
    let once = after.key().kind == Kind::Once;
    for release in &decision.released {
        let holder = holder_text(&release.holder);
        let unknown = once && release.outcome.is_none();
        let claim = release.holder.kind == HolderKind::Claim;
        let note = if claim && release.lost {
            Note::warning("HoldLost", format!("taken from {holder}: it was not renewed for longer than its ttl"))
        } else if unknown && !release.lost {
            Note::warning("OutcomeUnknown", format!("{holder} has ended and nobody knows how: the turn passes to the next"))
        } else if release.lost {
            Note::warning("HoldLost", format!("taken from {holder}: its node has been unreachable for longer than the ttl"))
        } else {
            Note::normal("Released", format!("released by {holder}"))
        };
        context.events.publish(after, note.about(&who_of(&release.holder)));
    }
    for grant in decision.granted.iter().filter(|grant| grant.new) {
        context
            .events
            .publish(after, Note::normal("Granted", format!("granted to {} with token {}", grant.who, grant.token)).about(&grant.who));
    }
}

/// Tells those who wait where they stand, and those who will not hold why.
pub fn those_who_wait(context: &Context, state: &mut State, key: &Key, object: Option<&Object>, decision: &Decision, impostors: &[String]) {
    let State { pods, sessions, .. } = state;
    for Refusal { asker, why } in &decision.refused {
        if let (Some(pod), Some(session)) = (pods.get(asker), sessions.get(asker)) {
            let Some(place) = words::answer(key, object, *why, pod) else { continue };
            match &place {
                Place::Skipped(message) => {
                    context.events.publish_who(&pod.who, Note::normal("Skipped", message.clone()).about_primitive(key))
                }
                Place::Refused { message, .. } if !session.is_refused() => {
                    context.metrics.refused(key.kind, *why);
                    info!(%key, pod = pod.who.in_full(), why = message, "refused");
                    context.events.publish_who(&pod.who, Note::warning("Refused", message.clone()).about_primitive(key));
                }
                _ => {}
            }
            session.tell(place);
        }
    }
    for impostor in impostors {
        let message = "denied: the Job of this Pod is over, or its annotations differ from the Pod's".to_owned();
        state.tell(impostor, Place::Refused { reason: Reason::Denied, message });
    }
    for asker in &decision.skipped {
        let message = format!("{}/{} has been executed: there is nothing left to do", key.kind, key.name);
        let State { pods, sessions, .. } = state;
        let (Some(pod), Some(session)) = (pods.get(asker), sessions.get(asker)) else { continue };
        if pod.wrapped.is_none() {
            session.tell(Place::Refused { reason: Reason::Denied, message });
            continue;
        }
        context.events.publish_who(&pod.who, Note::normal("Skipped", message.clone()).about_primitive(key));
        session.tell(Place::Skipped(message));
    }
    let State { pods, jobs, sessions, announced, .. } = state;
    let mut words = words::InCommon::of(key, object, decision.queue.len());
    for (index, Queued { asker, why }) in decision.queue.iter().enumerate() {
        let Some(who) = pods.get(asker).map(|pod| &pod.who).or_else(|| jobs.get(asker).map(|job| &job.who)) else { continue };
        let waits = words.at(index + 1, *why, &who.namespace);
        let news = match sessions.get_mut(asker) {
            Some(session) => {
                session.tell(Place::Waiting(waits.clone()));
                session.is_news(key, object.is_some())
            }
            // Its agent is about to come, or come back, and asks then.
            None if pods.get(asker).is_some_and(|pod| !pod.gated) => false,
            None => {
                let now = (key.clone(), object.is_some());
                announced.insert(asker.clone(), now.clone()) != Some(now)
            }
        };
        if news {
            let (text, calm) = (waits.to_string(), object.is_some() && *why != Why::TooWide);
            let note = if calm { Note::normal("Waiting", text) } else { Note::warning("Waiting", text) };
            context.events.publish_who(who, note.about_primitive(key));
        }
    }
}

/// Adds a confirmed hold to a session; when it has all that its Pod asks for, the Pod may go.
pub fn confirm(state: &mut State, key: &Key, asker: &str, token: i64) {
    let Some(pod) = state.pods.get(asker).cloned() else { return };
    let Some(session) = state.sessions.get_mut(asker) else { return };
    session.confirmed.insert(key.clone(), token);
    if pod.steps().any(|(key, _)| !session.confirmed.contains_key(key)) {
        state.dirty.extend(pod.steps().map(|(key, _)| key.clone()));
        return;
    }
    let held = pod.holds().filter(|(_, item)| item.role.has_token() || pod.wrapped.is_some());
    let token = |key: &Key| session.confirmed.get(key).copied().unwrap_or_default();
    session.tell(Place::Granted(held.map(|(key, _)| Token { target: key.seen_from(&pod.who.namespace), token: token(key) }).collect()));
}

/// One line a decision that changed anything for anybody: what was decided on, who is in and who is out, each with its token, and how it stands now. Who is
/// refused has a line of its own, with the reason.
pub fn log(key: &Key, before: &Object, after: &Object, decision: &Decision) {
    let granted: Vec<String> =
        decision.granted.iter().filter(|grant| grant.new).map(|grant| format!("{} (token {})", grant.who.in_full(), grant.token)).collect();
    let released: Vec<String> = decision
        .released
        .iter()
        .map(|release| format!("{} (token {}{})", who_of(&release.holder).in_full(), release.holder.token, ended(key, release)))
        .collect();
    let (was, stands) = (latch(before), latch(after));
    if !granted.is_empty() || !released.is_empty() || was != stands {
        let (granted, released) = (granted.join(", "), released.join(", "));
        info!(%key, granted, released, stands, waiting = decision.queue.len(), "decided");
    }
}

fn who_of(holder: &Holder) -> Who {
    Who { kind: holder.kind, namespace: holder.namespace.clone(), name: holder.name.clone(), uid: holder.uid.clone() }
}

fn holder_text(holder: &Holder) -> String {
    format!("{} (token {})", who_of(holder), holder.token)
}

/// How a hold ended, where that is not its holder's plain end.
fn ended(key: &Key, release: &Release) -> &'static str {
    match (key.kind, release.lost, release.outcome) {
        (_, true, _) if release.holder.kind == HolderKind::Claim => ", taken: not renewed",
        (_, true, _) => ", taken: node unreachable",
        (Kind::Once, false, Some(true)) => ", succeeded",
        (Kind::Once, false, Some(false)) => ", failed",
        (Kind::Once, false, None) => ", ended nobody knows how",
        _ => "",
    }
}

/// How one that opens, or comes to its end, stands.
fn latch(object: &Object) -> Option<String> {
    let conditions = &object.common()?.conditions;
    let condition = conditions.iter().find(|condition| ["Open", "Done", "Executed"].contains(&condition.type_.as_str()))?;
    Some(format!("{}: {}", condition.reason, condition.message))
}

//! Weighted grants: Mutex and Lease (capacity 1), Semaphore, RWMutex (a writer takes all there is), the one executor of a Once. The order is strict: by
//! priority, then age; the first that does not fit makes all behind it wait, so that a wide request is not starved by narrow ones, nor a writer by
//! readers. The members of a WaitGroup are holders too, but there is room for all of them, and so no order.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{ClaimEnd, Evidence, Grant, Out, Patience, Presence, Primitive, Record, Refused, Release, Request, Turn, WHOLE, Who, Why};
use crate::{
    api::{Admitted, Holder, HolderKind, MAX_HOLDERS, Mode},
    planted,
};

/// What the evidence says, by UID.
#[derive(Default)]
struct Proven<'a> {
    /// Pods and Claims that are out.
    out: HashSet<&'a str>,
    /// Those of them that may still run.
    lost: HashSet<&'a str>,
    /// Jobs that are over.
    over: HashSet<&'a str>,
    outcomes: HashMap<&'a str, Option<bool>>,
    renewed: HashMap<&'a str, (i64, Timestamp)>,
}

impl<'a> Proven<'a> {
    fn by(evidence: &'a [Evidence]) -> Self {
        let mut proven = Self::default();
        for fact in evidence {
            match fact {
                Evidence::PodOut { uid, how } => {
                    proven.out.insert(uid);
                    if *how == Out::Lost {
                        proven.lost.insert(uid);
                    }
                }
                Evidence::ClaimOver { uid, how } => {
                    proven.out.insert(uid);
                    if *how == ClaimEnd::Expired {
                        proven.lost.insert(uid);
                    }
                }
                Evidence::JobOver { uid } => {
                    proven.over.insert(uid);
                }
                Evidence::Outcome { uid, succeeded } => {
                    // Who knows that it succeeded or failed knows more than who does not know.
                    let known = proven.outcomes.entry(uid).or_default();
                    *known = known.or(*succeeded);
                }
                Evidence::Renewed { uid, renewals, expires_at } => {
                    let latest = proven.renewed.entry(uid).or_insert((*renewals, *expires_at));
                    *latest = (*latest).max((*renewals, *expires_at));
                }
            }
        }
        proven
    }
}

/// Ends the holds whose end is proven, and notes renewals.
pub(super) fn release(turn: &mut Turn<'_>) {
    let proven = Proven::by(&turn.facts.evidence);
    for mut holder in std::mem::take(&mut turn.decision.holders) {
        let (ended, fenced) = match holder.kind {
            HolderKind::Pod | HolderKind::Claim => (proven.out.contains(holder.uid.as_str()), proven.lost.contains(holder.uid.as_str())),
            HolderKind::Job => {
                let fenced = holder.pods.iter().any(|pod| proven.lost.contains(pod.uid.as_str()));
                holder.pods.retain(|pod| !proven.out.contains(pod.uid.as_str()));
                let empty = holder.pods.is_empty() || planted::bug("job-over-without-its-pods");
                (empty && proven.over.contains(holder.uid.as_str()), fenced)
            }
        };
        if ended {
            turn.decision.changed = true;
            let executor = matches!(turn.primitive.record, Record::Once(_));
            let outcome = proven.outcomes.get(holder.uid.as_str()).copied().flatten().filter(|_| executor);
            turn.decision.released.push(Release { holder, lost: fenced, outcome });
            continue;
        }
        if let Some((renewals, expires_at)) = proven.renewed.get(holder.uid.as_str()).filter(|(renewals, _)| *renewals >= holder.renewals) {
            // As it will be read again: to the second.
            let expires_at = Timestamp::from_second(expires_at.as_second()).ok().map(Time);
            turn.decision.drifted |= (holder.renewals, &holder.expires_at) != (*renewals, &expires_at);
            (holder.renewals, holder.expires_at) = (*renewals, expires_at);
        }
        turn.decision.holders.push(holder);
    }
}

/// Answers every request.
pub(super) fn grant(turn: &mut Turn<'_>) {
    let requests = in_order(&turn.facts.requests);
    let mut room = Room::of(turn);
    for request in requests {
        room.consider(turn, request);
    }
}

/// The first token of a primitive lies in the second after its creation, and nothing is granted before that second has come: a predecessor of the
/// same name was deleted before, so its tokens, which grow by less than one a millisecond, are smaller. (The controller keeps a primitive
/// whose tokens run ahead of the clock from vanishing.)
fn first_token(primitive: &Primitive) -> i64 {
    opens_at(primitive).as_millisecond()
}

fn opens_at(primitive: &Primitive) -> Timestamp {
    primitive.created.checked_add(SignedDuration::from_secs(1)).unwrap_or(primitive.created)
}

/// Priority, then age, then UID: the same order for every controller.
fn in_order(requests: &[Request]) -> Vec<&Request> {
    let mut ordered: Vec<&Request> = requests.iter().collect();
    ordered.sort_by(|a, b| {
        b.priority.cmp(&a.priority).then_with(|| (a.created, &a.who.uid, a.asker()).cmp(&(b.created, &b.who.uid, b.asker())))
    });
    ordered
}

/// What a hold takes of the capacity.
fn weight(mode: Option<Mode>, permits: i32) -> i64 {
    i64::from(if mode == Some(Mode::Write) { WHOLE } else { permits })
}

/// What is left of a primitive while requests are answered.
struct Room {
    free: i64,
    entries: usize,
    /// Somebody who could hold but for room is in front: nobody behind it takes permits.
    blocked: bool,
    /// There is room for all, and so no line.
    members: bool,
    /// The place of each holder in the decision, by UID: many who hold and many who wait do not make a search of each.
    places: HashMap<String, usize>,
}

impl Room {
    fn of(turn: &Turn<'_>) -> Self {
        let members = matches!(turn.primitive.record, Record::WaitGroup(_));
        let held = |holder: &Holder| weight(holder.mode, holder.permits);
        let capacity = if members { i64::MAX } else { i64::from(turn.primitive.capacity) };
        let mut free = capacity.saturating_sub(turn.decision.holders.iter().map(held).sum());
        if planted::bug("released-twice") {
            free = free.saturating_add(turn.decision.released.iter().map(|release| held(&release.holder)).sum());
        }
        let entries = turn.decision.holders.iter().map(|holder| 1 + holder.pods.len()).sum();
        let places = turn.decision.holders.iter().enumerate().map(|(place, holder)| (holder.uid.clone(), place)).collect();
        Self { free, entries, blocked: false, members, places }
    }

    /// The hold that a request would be part of.
    fn holder<'a>(&self, turn: &'a Turn<'_>, request: &Request) -> Option<&'a Holder> {
        turn.decision.holders.get(*self.places.get(&request.who.uid)?)
    }

    fn consider(&mut self, turn: &mut Turn<'_>, request: &Request) {
        let asker = request.asker();
        let holder = self.holder(turn, request);
        // One that holds has waited and has been let in: its next Pod is late for nothing, and asks nobody's leave.
        let inside = holder.is_some();
        if holder.is_some_and(|holder| holder.mode == Some(Mode::Read) && request.mode == Some(Mode::Write)) {
            return turn.refuse(asker, Refused::Upgrade);
        }
        if let Some(token) = holder.and_then(|holder| token_of(holder, request)) {
            return granted(turn, request, token, false);
        }
        if !inside && !turn.primitive.allows(&request.who.namespace) {
            return turn.refuse(asker, Refused::NotAllowed);
        }
        if !inside && executed(turn) {
            turn.decision.skipped.push(asker.to_owned());
            return;
        }
        if matches!(turn.primitive.record, Record::Barrier(_) | Record::Gate(_)) {
            return turn.refuse(asker, Refused::Unsuitable);
        }
        let patience = if inside && !planted::bug("deadline-counts-inside") { Patience::Forever } else { request.patience };
        let over = matches!(patience, Patience::Until(deadline) if turn.now >= deadline);
        if let Patience::Until(deadline) = patience
            && !over
        {
            turn.again(deadline);
        }
        let blocked_before = self.blocked;
        match self.obstacle(turn, request) {
            // Who need not wait is let in, however long it was on its way here.
            None => self.let_in(turn, request),
            Some(_) if over => {
                self.blocked = blocked_before;
                turn.refuse(asker, Refused::TimedOut);
            }
            Some(why) if patience == Patience::Now && request.presence == Presence::Here && why != Why::TooYoung => {
                self.blocked = blocked_before;
                turn.refuse(asker, Refused::NotFree);
            }
            Some(why) => turn.queue(asker, why),
        }
    }

    /// What keeps this request from holding now; `None` if nothing does.
    fn obstacle(&mut self, turn: &mut Turn<'_>, request: &Request) -> Option<Why> {
        if request.presence == Presence::Away {
            return Some(Why::Away);
        }
        if let Some(job) = self.holder(turn, request) {
            // Its Job holds: it takes no permits, so it passes those that wait for some.
            let alone = job.pods.is_empty() || request.shared || self.members || planted::bug("predecessor-ignored");
            return match request.presence {
                Presence::Here if alone && self.entries < MAX_HOLDERS => None,
                Presence::Here | Presence::Expected | Presence::Away => Some(Why::Predecessor),
            };
        }
        if turn.primitive.deleting {
            return Some(Why::Deleting);
        }
        let wanted = weight(request.mode, request.permits);
        if !self.members && wanted > i64::from(turn.primitive.capacity) {
            return Some(Why::TooWide);
        }
        let opens_at = opens_at(turn.primitive);
        if turn.now < opens_at {
            turn.again(opens_at);
            self.blocked = true;
            return Some(Why::TooYoung);
        }
        let entries = 1 + usize::from(request.pod.is_some());
        let fits = wanted <= self.free && self.entries + entries <= MAX_HOLDERS;
        let passes = planted::bug("reader-passes-writer") && request.mode == Some(Mode::Read);
        if (self.blocked && !passes) || !fits || request.presence == Presence::Expected {
            self.blocked = !self.members && !planted::bug("narrow-passes-wide");
            return Some(Why::InLine);
        }
        None
    }

    fn let_in(&mut self, turn: &mut Turn<'_>, request: &Request) {
        let first = if planted::bug("tokens-start-again") { 1 } else { first_token(turn.primitive) };
        let token = turn.decision.last_token.saturating_add(1).max(first);
        turn.decision.last_token = token;
        turn.decision.changed = true;
        let admitted = request.pod.iter().map(|pod| Admitted { uid: pod.uid.clone(), name: pod.name.clone(), token });
        self.entries += admitted.len();
        let place = self.places.get(&request.who.uid);
        if let Some(job) = place.and_then(|place| turn.decision.holders.get_mut(*place)) {
            job.pods.extend(admitted);
        } else {
            self.free -= weight(request.mode, request.permits);
            self.entries += 1;
            let Who { kind, namespace, name, uid } = (*request.who).clone();
            let (permits, mode, pods, since) = (request.permits, request.mode, admitted.collect(), Time(turn.now));
            let holder = Holder { uid, kind, namespace, name, token, permits, mode, since, pods, renewals: 0, expires_at: None };
            self.places.insert(holder.uid.clone(), turn.decision.holders.len());
            turn.decision.holders.push(holder);
        }
        granted(turn, request, token, true);
    }
}

/// Whether nobody needs to execute any more.
fn executed(turn: &Turn<'_>) -> bool {
    matches!(&turn.decision.record, Record::Once(once) if once.executed.is_some())
}

fn granted(turn: &mut Turn<'_>, request: &Request, token: i64, new: bool) {
    turn.decision.granted.push(Grant { asker: request.asker().to_owned(), who: (*request.who).clone(), token, new });
}

/// The token of a request whose holder holds already, if it was let in itself.
fn token_of(holder: &Holder, request: &Request) -> Option<i64> {
    match &request.pod {
        None => Some(holder.token),
        Some(pod) => holder.pods.iter().find(|admitted| admitted.uid == pod.uid).map(|admitted| admitted.token),
    }
}

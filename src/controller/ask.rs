//! What somebody asks for now: of all the steps of its plan, the first that it has not gone through yet. Those who ask are Pods whose acquire step runs, Pods
//! that wait for a node, and Jobs that konductor suspended. Synchronous; it reads the picture and the clocks it is given.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    facts::{JobFacts, PodFacts},
    gather::{Gathered, Unknown, sooner},
    object::{Key, Object},
    roll::{Names, Roll},
    runs,
    world::{EXPECTED_FOR, State},
};
use crate::{
    api::{Holder, HolderKind},
    coordinator::session::Session,
    plan::{Item, Kind, On, OnConflict, OnTimeout, Plan, Role, Strategy},
    planted,
    rules::{Latch, Participant, Patience, PodRef, Presence, Request, Waiter, Who, evidence::AcquireStep},
};

/// How long Pods whose acquire step runs keep others waiting when no agent has come at all.
const FIRST_WITHIN: Duration = Duration::from_secs(120);

/// Who asks, and on whose behalf.
struct Asker<'a> {
    /// Its own UID, under which it is answered.
    uid: &'a str,
    plan: &'a Plan,
    /// Who will hold.
    who: Arc<Who>,
    /// Under a Job's hold: the Pod that wants to be let in.
    pod: Option<PodRef>,
    created: Timestamp,
    /// From when its patience for what it holds counts, and that for what it only waits for.
    patient_from: (Timestamp, Timestamp),
    /// Whether there is what it asks for.
    exists: bool,
    presence: Presence,
    shared: bool,
    /// Of a request that states none.
    default_priority: i32,
}

/// Adds to the facts what a Pod asks of this primitive, if it is its turn to ask for it; says whether it is.
pub fn pod(
    state: &mut State,
    key: &Key,
    object: Option<&Object>,
    roll: &Roll<'_>,
    pod: &PodFacts,
    at: At,
    gathered: &mut Gathered,
) -> bool {
    let Some(plan) = pod.plan().filter(|_| !pod.deleting && !pod.ended) else { return false };
    let session = state.sessions.get(pod.uid());
    // It has been let in, and asks no more. (Behind a gate nobody hears that; its gate is to be lifted.)
    if session.is_some_and(Session::is_granted) && !pod.gated {
        return false;
    }
    let session = session.map(|session| session.confirmed.clone());
    let cut_off = pod.node.as_ref().is_some_and(|node| state.unreachable.contains_key(node));
    let presence = match session {
        // Its kubelet may start what comes next at any time, or never.
        Some(_) if cut_off => Presence::Away,
        Some(_) => Presence::Here,
        None if pod.gated => Presence::Here,
        None if pod.step != AcquireStep::Running || runs::is_silent(state, key, roll, pod) => return false,
        None if cut_off => Presence::Away,
        None => without_session(state, pod, at.now, gathered),
    };
    let waits_from = pod_waits_from(state, pod);
    let found = {
        let state = &*state;
        let gone_through = |named: &Key, item: &Item| match &session {
            Some(confirmed) => confirmed.contains_key(named),
            None if named == key => pod_is_past(Some(roll), item, pod, waits_from, at.time),
            None => pod_is_past(state.objects.get(named), item, pod, waits_from, at.time),
        };
        next_step(state, key, object, pod.steps(), &pod.who.namespace, gone_through)
    };
    let Some((next, item)) = found else {
        if pod.gated {
            gathered.ready.push(pod.who.clone());
        }
        return false;
    };
    if session.is_none() {
        moved_on(state, pod.uid(), next, key);
    }
    if pod.gated && planted::bug("gate-lifted-before-it-holds") {
        gathered.ready.push(pod.who.clone());
    }
    if next != key {
        return false;
    }
    let (who, created, patient_from, shared) = match (&pod.job, admitted_under(roll, pod)) {
        // It asks again for what it was granted.
        (_, Some(job)) => (Arc::new(job), pod.created, (pod.created, pod.created), false),
        (None, None) => (pod.who.clone(), pod.created, (pod.created, pod.created), false),
        (Some(owner), None) => match state.jobs.get(&owner.uid) {
            None => {
                let namespace = pod.who.namespace.clone();
                gathered.unknown_jobs.push(Unknown { namespace, name: owner.name.clone(), uid: owner.uid.clone() });
                return false;
            }
            Some(job) if job.terminal || job.who.namespace != pod.who.namespace || !same_items(job.plan(), plan) => {
                gathered.impostors.push(pod.uid().to_owned());
                return false;
            }
            Some(job) => (job.who.clone(), job.created, (job.started, waits_from), job.shared),
        },
    };
    let under_job = (who.kind == HolderKind::Job).then(|| pod.as_ref());
    let default_priority = object.map_or(0, Object::default_priority);
    let exists = object.is_some();
    let asker = Asker { uid: pod.uid(), plan, who, pod: under_job, created, patient_from, exists, presence, shared, default_priority };
    asker.ask(item, at.time, gathered);
    true
}

/// From when a Pod's patience counts for what it only waits for.
pub fn pod_waits_from(state: &State, pod: &PodFacts) -> Timestamp {
    let job = pod.job.as_ref().and_then(|owner| state.jobs.get(&owner.uid));
    job.zip(pod.plan()).map_or(pod.created, |(job, plan)| waits_from(job, plan))
}

/// The same of a Job's Pods. One that konductor suspended has waited as a whole already.
fn waits_from(job: &JobFacts, plan: &Plan) -> Timestamp {
    if plan.strategy == Some(Strategy::Suspend) { job.created } else { job.started }
}

/// Adds to the facts what a Job that konductor suspended asks of this primitive, if it is its turn to ask for it.
pub fn job(state: &mut State, key: &Key, roll: &Roll<'_>, job: &JobFacts, at: At, gathered: &mut Gathered) {
    let Some(plan) = job.plan().filter(|_| job.held_back && !job.terminal && !job.deleting) else { return };
    let found = {
        let state = &*state;
        let gone_through = |named: &Key, item: &Item| {
            if named == key {
                job_is_past(Some(roll), item, job, at.time)
            } else {
                job_is_past(state.objects.get(named), item, job, at.time)
            }
        };
        next_step(state, key, state.objects.get(key), job.steps(), &job.who.namespace, gone_through)
    };
    if let Some((next, _)) = &found {
        moved_on(state, &job.who.uid, next, key);
    }
    match found {
        Some((next, item)) if planted::bug("resumed-before-it-holds") && next == key && item.role.lasts() => {
            gathered.ready.push(job.who.clone())
        }
        None => gathered.ready.push(job.who.clone()),
        Some((next, item)) if next == key => {
            let asker = Asker {
                uid: &job.who.uid,
                plan,
                who: job.who.clone(),
                pod: None,
                created: job.created,
                patient_from: (job.created, job.created),
                exists: state.objects.contains_key(key),
                presence: Presence::Here,
                shared: job.shared,
                default_priority: state.objects.get(key).map_or(0, Object::default_priority),
            };
            asker.ask(item, at.time, gathered);
        }
        Some(_) => {}
    }
}

/// The two clocks, at one moment: ours, which measures intervals, and the API server's.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Ours.
    pub now: Instant,
    /// The API server's.
    pub time: Timestamp,
}

impl At {
    /// A moment of the API server's clock on ours; a little later, since that one is a lower bound.
    pub fn moment(self, time: Timestamp) -> Instant {
        let wait = Duration::try_from(time.duration_since(self.time)).unwrap_or_default();
        self.now + wait + Duration::from_millis(20)
    }
}

impl Asker<'_> {
    fn ask(self, item: &Item, time: Timestamp, gathered: &mut Gathered) {
        let Self { uid, plan, who, pod, created, patient_from, exists, presence, shared, default_priority } = self;
        let from = if item.role.lasts() { patient_from.0 } else { patient_from.1 };
        let patience = match item.timeout {
            // What does not exist yet is not taken: skipping on a mistyped name would look like success.
            _ if item.role.has_token() && plan.on_conflict == OnConflict::Skip => {
                if exists {
                    Patience::Now
                } else {
                    Patience::Forever
                }
            }
            None => Patience::Forever,
            Some(timeout) if timeout.is_zero() => Patience::Now,
            Some(timeout) => from.checked_add(timeout.as_std()).map_or(Patience::Forever, Patience::Until),
        };
        match item.role {
            Role::Hold { .. } | Role::Execute { .. } | Role::Join => {
                let mode = match item.role {
                    Role::Hold { mode, .. } if item.target.kind == Kind::RwMutex => Some(mode),
                    _ => None,
                };
                gathered.create |= matches!(item.role, Role::Hold { create: true, .. });
                let permits = item.role.permits();
                let priority = if item.role.priority() == 0 { default_priority } else { item.role.priority() };
                gathered.facts.requests.push(Request { who, pod, permits, mode, priority, created, presence, patience, shared });
            }
            Role::Wait { on_timeout, arrive } => {
                let (asker, namespace) = (uid.to_owned(), who.namespace.clone());
                gathered.facts.waiters.push(Waiter { asker, namespace, patience, proceeds: on_timeout == OnTimeout::Proceed });
                if arrive && presence == Presence::Here {
                    gathered.facts.arrivals.push(Participant { who: (*who).clone(), at: time });
                }
            }
            Role::Arrive { on: On::Start } if presence == Presence::Here => {
                gathered.arriving.push((uid.to_owned(), who.uid.clone()));
                gathered.facts.arrivals.push(Participant { who: (*who).clone(), at: time });
            }
            Role::Arrive { .. } => {}
        }
    }
}

/// The first step that is not gone through. But one that will never be allowed comes before all, so that nothing is taken from others for nothing. `object` is
/// the primitive `here` as this turn read it, which may be newer than the picture.
fn next_step<'a>(
    state: &State,
    here: &Key,
    object: Option<&Object>,
    steps: impl Iterator<Item = (&'a Key, &'a Item)>,
    namespace: &str,
    gone_through: impl Fn(&Key, &Item) -> bool,
) -> Option<(&'a Key, &'a Item)> {
    let named = |key: &Key| if key == here { object } else { state.objects.get(key) };
    let forbidden = |key: &Key| named(key).is_some_and(|object| !object.allows(namespace));
    let mut first = None;
    for (key, item) in steps.filter(|(key, item)| !gone_through(key, item)) {
        if forbidden(key) {
            return Some((key, item));
        }
        first.get_or_insert((key, item));
    }
    first
}

/// Whoever has no session is noticed only where it asks: where that is has a turn when it changes, and only then, or two who ask in turns would keep each
/// other's going for ever.
fn moved_on(state: &mut State, uid: &str, next: &Key, here: &Key) {
    if state.asks_now.insert(uid.to_owned(), next.clone()).as_ref() != Some(next) && next != here {
        state.dirty.insert(next.clone());
    }
}

/// Whether what is asked for is the same: a Pod's own plan may leave out what only its Job can do.
fn same_items(job: Option<&Plan>, pod: &Plan) -> bool {
    job.is_some_and(|job| job.items == pod.items)
}

/// A Pod whose acquire step runs and has no session.
fn without_session(state: &mut State, pod: &PodFacts, now: Instant, gathered: &mut Gathered) -> Presence {
    let since = *state.without_session.entry(pod.uid().to_owned()).or_insert(now);
    // Before the first agent has come, the way to us may be closed for all of them; but those who need no session do not wait for that for ever.
    let until = state.first_session.map_or(since + FIRST_WITHIN, |first| since.max(first) + EXPECTED_FOR);
    if now >= until {
        return Presence::Away;
    }
    sooner(&mut gathered.again, until);
    Presence::Expected
}

/// Whether a Pod without a session has gone through this step, by what the primitive says.
pub fn pod_is_past(named: Option<&impl Names>, item: &Item, pod: &PodFacts, waits_from: Timestamp, time: Timestamp) -> bool {
    match item.role {
        Role::Arrive { .. } => named.is_some_and(|named| named.has_arrived(pod.job.as_ref().map_or(pod.uid(), |job| &job.uid))),
        Role::Wait { .. } => passed(named, item, waits_from, time),
        _ => named.is_some_and(|named| named.token_of(pod.uid()).is_some()),
    }
}

/// Whether a Job that konductor suspended has.
pub fn job_is_past(named: Option<&impl Names>, item: &Item, job: &JobFacts, time: Timestamp) -> bool {
    match item.role {
        Role::Arrive { .. } => named.is_some_and(|named| named.has_arrived(&job.who.uid)),
        Role::Wait { .. } => passed(named, item, job.created, time),
        _ => named.is_some_and(|named| named.holds(&job.who.uid)),
    }
}

/// Whether somebody who waits for this may go on.
fn passed(named: Option<&impl Names>, item: &Item, created: Timestamp, time: Timestamp) -> bool {
    let Role::Wait { on_timeout, .. } = item.role else { return false };
    let over = || item.timeout.and_then(|timeout| created.checked_add(timeout.as_std()).ok()).is_some_and(|end| time >= end);
    let latch = named.map(Names::latch).unwrap_or_default();
    latch == Latch::Open || on_timeout == OnTimeout::Proceed && (latch == Latch::Failed || over())
}

/// The Job under whose hold a Pod was let in. The Pod itself may not say it any more: `kubectl delete job --cascade=orphan` takes its owner away.
fn admitted_under(roll: &Roll<'_>, pod: &PodFacts) -> Option<Who> {
    let Holder { kind, namespace, name, uid, .. } = roll.job_of(pod.uid())?.clone();
    Some(Who { kind, namespace, name, uid })
}

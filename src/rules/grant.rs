//! Weighted grants: Mutex (capacity 1) and Semaphore. The order is strict: by priority, then age; the first that does not fit makes all behind
//! it wait, so that a wide request is not starved by narrow ones.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Evidence, Out, Patience, Presence, Refused, Request, Who};
use crate::{
    api::{Admitted, Holder, HolderKind, MAX_HOLDERS},
    planted,
};

/// A primitive as the API server showed it at one resource version.
#[derive(Clone, Debug, PartialEq)]
pub struct Primitive {
    /// Its namespace.
    pub namespace: String,
    /// Other namespaces that may use it; `*` stands for all.
    pub allowed_namespaces: Vec<String>,
    /// Permits in all; 1 for a Mutex.
    pub capacity: i32,
    /// When it was created, to the second.
    pub created: Timestamp,
    /// Whether it is being deleted: nobody new gets in, and it goes when the last holder has ended.
    pub deleting: bool,
    /// Who holds.
    pub holders: Vec<Holder>,
    /// The largest token handed out; 0 if there was none yet.
    pub last_token: i64,
}

impl Primitive {
    /// Stands for one that does not exist: nobody gets in, and who is not patient is refused as ever.
    pub fn missing(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            allowed_namespaces: vec!["*".to_owned()],
            capacity: i32::MAX,
            created: Timestamp::UNIX_EPOCH,
            deleting: true,
            holders: Vec::new(),
            last_token: 0,
        }
    }
}

/// What comes out: the next holders and token counter, and what happened on the way there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The holders to write.
    pub holders: Vec<Holder>,
    /// The token counter to write.
    pub last_token: i64,
    /// Whether holders changed in a way that must be written. (A Pod that is out under a Job that goes on is forgotten with the next write.)
    pub changed: bool,
    /// Requests that hold once this is written; those that held already are among them.
    pub granted: Vec<Grant>,
    /// Requests that are refused.
    pub refused: Vec<Refusal>,
    /// Holds that ended.
    pub released: Vec<Release>,
    /// Requests that wait, first in line first.
    pub queue: Vec<Queued>,
    /// When the same facts may give another decision, by the API server's clock.
    pub again_at: Option<Timestamp>,
}

/// A hold, as answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The UID of the Pod whose acquire step asked.
    pub asker: String,
    /// Who holds.
    pub who: Who,
    /// Its fencing token.
    pub token: i64,
    /// Whether it was granted by this decision; otherwise it was held already.
    pub new: bool,
}

/// A request that will not be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The UID of the Pod whose acquire step asked.
    pub asker: String,
    /// Why.
    pub why: Refused,
}

/// A hold that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// The hold as it was.
    pub holder: Holder,
    /// Whether it was taken from a holder that may still run.
    pub lost: bool,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The UID of the Pod whose acquire step asked.
    pub asker: String,
    /// Why it does not hold yet.
    pub why: Why,
}

/// Why a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Too few permits are free, or somebody is in front of it.
    InLine,
    /// It wants more permits than there are; it is passed over until there are more.
    TooWide,
    /// Its Job holds, and another Pod of that Job can still run.
    Predecessor,
    /// The primitive is being deleted.
    Deleting,
    /// It has no session; it is passed over until it comes back.
    Away,
    /// The primitive was created within this very second; see [`first_token`].
    TooYoung,
}

/// Decides what the next status of a primitive is. Total and deterministic: the same facts give the same decision.
///
/// Asking again is harmless: a request that holds already is answered with its own grant.
pub fn decide(primitive: &Primitive, requests: &[Request], evidence: &[Evidence], now: Timestamp) -> Decision {
    let mut state = State::new(primitive, now);
    state.release(evidence);
    for request in in_order(requests) {
        state.consider(request);
    }
    state.decision
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

struct State<'a> {
    primitive: &'a Primitive,
    now: Timestamp,
    free: i64,
    entries: usize,
    /// Somebody who could hold but for room is in front: nobody behind it takes permits.
    blocked: bool,
    decision: Decision,
}

impl<'a> State<'a> {
    fn new(primitive: &'a Primitive, now: Timestamp) -> Self {
        let decision = Decision { holders: primitive.holders.clone(), last_token: primitive.last_token, ..Decision::default() };
        Self { primitive, now, free: 0, entries: 0, blocked: false, decision }
    }

    fn release(&mut self, evidence: &[Evidence]) {
        let mut lost = HashSet::new();
        let mut out = HashSet::new();
        let mut over = HashSet::new();
        for fact in evidence {
            match fact {
                Evidence::PodOut { uid, how } => {
                    out.insert(uid.as_str());
                    if *how == Out::Lost {
                        lost.insert(uid.as_str());
                    }
                }
                Evidence::JobOver { uid } => {
                    over.insert(uid.as_str());
                }
            }
        }
        for mut holder in std::mem::take(&mut self.decision.holders) {
            let (ended, fenced) = match holder.kind {
                HolderKind::Pod => (out.contains(holder.uid.as_str()), lost.contains(holder.uid.as_str())),
                HolderKind::Job => {
                    let fenced = holder.pods.iter().any(|pod| lost.contains(pod.uid.as_str()));
                    holder.pods.retain(|pod| !out.contains(pod.uid.as_str()));
                    ((holder.pods.is_empty() || planted::bug("job-over-without-its-pods")) && over.contains(holder.uid.as_str()), fenced)
                }
            };
            if ended {
                self.decision.changed = true;
                self.decision.released.push(Release { holder, lost: fenced });
            } else {
                self.decision.holders.push(holder);
            }
        }
        let held: i64 = self.decision.holders.iter().map(|holder| i64::from(holder.permits)).sum();
        self.free = i64::from(self.primitive.capacity) - held;
        if planted::bug("released-twice") {
            self.free += self.decision.released.iter().map(|release| i64::from(release.holder.permits)).sum::<i64>();
        }
        self.entries = self.decision.holders.iter().map(|holder| 1 + holder.pods.len()).sum();
    }

    fn consider(&mut self, request: &Request) {
        if let Some(token) = self.token_of(request) {
            return self.grant(request, token, false);
        }
        // A Job that holds has waited and has been let in: its next Pod is late for nothing, and asks nobody's leave.
        let inside = self.decision.holders.iter().any(|holder| holder.uid == request.who.uid);
        let patience = if inside && !planted::bug("deadline-counts-inside") { Patience::Forever } else { request.patience };
        if let Patience::Until(deadline) = patience {
            if self.now >= deadline {
                return self.refuse(request, Refused::TimedOut);
            }
            self.again(deadline);
        }
        if !inside && !self.allows(&request.who.namespace) {
            return self.refuse(request, Refused::NotAllowed);
        }
        let blocked_before = self.blocked;
        match self.obstacle(request) {
            None => self.let_in(request),
            Some(why) if patience == Patience::Now && request.presence == Presence::Here && why != Why::TooYoung => {
                self.blocked = blocked_before;
                self.refuse(request, Refused::NotFree);
            }
            Some(why) => self.decision.queue.push(Queued { asker: request.asker().to_owned(), why }),
        }
    }

    /// The token of a request that holds already.
    fn token_of(&self, request: &Request) -> Option<i64> {
        let holder = self.decision.holders.iter().find(|holder| holder.uid == request.who.uid)?;
        match &request.pod {
            None => Some(holder.token),
            Some(pod) => holder.pods.iter().find(|admitted| admitted.uid == pod.uid).map(|admitted| admitted.token),
        }
    }

    /// What keeps this request from holding now; `None` if nothing does.
    fn obstacle(&mut self, request: &Request) -> Option<Why> {
        if request.presence == Presence::Away {
            return Some(Why::Away);
        }
        if let Some(job) = self.decision.holders.iter().find(|holder| holder.uid == request.who.uid) {
            // Its Job holds: it takes no permits, so it passes those that wait for some.
            let alone = job.pods.is_empty() || request.shared || planted::bug("predecessor-ignored");
            return match request.presence {
                Presence::Here if alone && self.entries < MAX_HOLDERS => None,
                Presence::Here | Presence::Expected | Presence::Away => Some(Why::Predecessor),
            };
        }
        if self.primitive.deleting {
            return Some(Why::Deleting);
        }
        if request.permits > self.primitive.capacity {
            return Some(Why::TooWide);
        }
        if self.now < opens_at(self.primitive) {
            self.again(opens_at(self.primitive));
            self.blocked = true;
            return Some(Why::TooYoung);
        }
        let entries = 1 + usize::from(request.pod.is_some());
        let fits = i64::from(request.permits) <= self.free && self.entries + entries <= MAX_HOLDERS;
        if self.blocked || !fits || request.presence == Presence::Expected {
            self.blocked = !planted::bug("narrow-passes-wide");
            return Some(Why::InLine);
        }
        None
    }

    fn let_in(&mut self, request: &Request) {
        let first = if planted::bug("tokens-start-again") { 1 } else { first_token(self.primitive) };
        let token = self.decision.last_token.saturating_add(1).max(first);
        self.decision.last_token = token;
        self.decision.changed = true;
        let admitted = request.pod.iter().map(|pod| Admitted { uid: pod.uid.clone(), name: pod.name.clone(), token });
        self.entries += admitted.len();
        if let Some(job) = self.decision.holders.iter_mut().find(|holder| holder.uid == request.who.uid) {
            job.pods.extend(admitted);
        } else {
            self.free -= i64::from(request.permits);
            self.entries += 1;
            let Who { kind, namespace, name, uid } = request.who.clone();
            let pods = admitted.collect();
            self.decision.holders.push(Holder { uid, kind, namespace, name, token, permits: request.permits, since: Time(self.now), pods });
        }
        self.grant(request, token, true);
    }

    fn grant(&mut self, request: &Request, token: i64, new: bool) {
        self.decision.granted.push(Grant { asker: request.asker().to_owned(), who: request.who.clone(), token, new });
    }

    fn refuse(&mut self, request: &Request, why: Refused) {
        self.decision.refused.push(Refusal { asker: request.asker().to_owned(), why });
    }

    fn allows(&self, namespace: &str) -> bool {
        namespace == self.primitive.namespace
            || self.primitive.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
    }

    fn again(&mut self, at: Timestamp) {
        self.decision.again_at = Some(self.decision.again_at.map_or(at, |earlier| earlier.min(at)));
    }
}

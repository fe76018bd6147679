//! The controller: what the leader does.
//!
//! ```text
//!  sources (watches) --> world (the picture) --> gather --> rules::decide --> store (one write) --> tell sessions, Events
//!                            ^                     ^
//!                        sessions             look (live reads)
//! ```
//!
//! Synchronous parts: [`object`], `facts`, [`world`], `gather`. Parts that need the API server: `sources`, `look`, `store`, `turn`, `events`, [`leader`].

mod alarms;
mod ask;
mod claims;
pub mod clock;
mod ending;
mod events;
mod examine;
mod facts;
mod gate;
mod gather;
pub mod leader;
mod look;
pub mod object;
mod observe;
mod outcomes;
pub mod outlook;
mod roll;
mod runs;
mod sources;
mod starting;
mod status;
mod store;
mod tell;
mod turn;
mod words;
pub mod world;

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{clock::ServerClock, events::Events, look::Eye, roll::Names, sources::Sources, store::Store, world::World};
use crate::{
    api::{HolderKind, names},
    coordinator::{
        protocol::{Ended, Token, Verified},
        session::{Place, Session},
    },
    health::Pulse,
    metrics::{Census, Metrics},
    plan::Kind,
    rules::Who,
};

pub use ask::At;
pub use claims::ClaimFacts;
pub use facts::{JobFacts, Outage, PodFacts};
pub use gather::{Gathered, gather};
pub use object::Key;

/// Turns that run at the same time, each of another primitive.
const TURNS_AT_ONCE: usize = 64;
/// A turn that takes longer waits for an answer that does not come.
const TURN_WITHIN: Duration = Duration::from_secs(60);
/// A leader that has not seen everything by then gives up, so that another one can try.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);
/// After an error a primitive gets its next turn this much later.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often the controller makes sure that it was not paused.
const PULSE: Duration = Duration::from_secs(1);
/// A pulse that comes this late means that it was.
const PAUSED: Duration = Duration::from_secs(5);

/// All that the leader works with. It lives as long as the leadership.
pub struct Context {
    client: Client,
    world: Arc<World>,
    store: Store,
    eye: Eye,
    clock: ServerClock,
    events: Events,
    pulse: Pulse,
    metrics: Arc<Metrics>,
    until: CancellationToken,
}

impl Context {
    /// For a leadership that lasts until the token is cancelled. The client must not retry by itself.
    pub fn new(
        client: Client,
        clock: ServerClock,
        pulse: Pulse,
        metrics: Arc<Metrics>,
        instance: &str,
        until: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::new(World::default()),
            store: Store::new(client.clone()),
            eye: Eye::new(client.clone()),
            clock,
            events: Events::start(client.clone(), instance.to_owned(), until.clone()),
            client,
            pulse,
            metrics,
            until,
        })
    }

    /// Runs sources and turns until the leadership ends; calls `ready` once, when the picture is complete.
    pub async fn run(self: Arc<Self>, ready: impl FnOnce()) {
        let Sources { mut tasks, count, mut synced } = sources::start(&self.client, &self.world);
        let complete = async { synced.wait_for(|seen| *seen == count).await.is_ok() };
        if self.until.run_until_cancelled(timeout(COMPLETE_WITHIN, complete)).await != Some(Ok(true)) {
            warn!("the picture is not complete: another replica may lead");
            return;
        }
        let (objects, pods, claims) = {
            let state = self.world.lock();
            (state.objects.len(), state.pods.len(), state.claims.len())
        };
        info!(objects, pods, claims, "the picture is complete");
        ready();
        tokio::select! {
            biased; // in this order, so that a simulated run can be repeated
            () = self.take_turns() => {}
            _ = tasks.join_next() => warn!("a watch ended: another replica may lead"),
        }
        self.pulse.rest();
    }

    /// Gives every primitive that needs it a turn, each at most one at a time.
    async fn take_turns(self: &Arc<Self>) {
        let mut running: JoinSet<Result<(), turn::TurnError>> = JoinSet::new();
        let mut keys: HashMap<Id, Key> = HashMap::new();
        let mut busy: HashSet<Key> = HashSet::new();
        let mut last: Option<Key> = None;
        let mut pulse = Instant::now();
        loop {
            self.pulse.beat();
            let next_alarm = {
                let mut state = self.world.lock();
                let now = Instant::now();
                if now.saturating_duration_since(pulse) > PAUSED {
                    warn!("this process was paused");
                    state.forget_how_long();
                }
                pulse = now;
                let next = state.ring(now);
                let room = TURNS_AT_ONCE.saturating_sub(busy.len());
                // Round and round, so that a name late in the alphabet has its turn too.
                let behind = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let round = state.dirty.range((behind, Bound::Unbounded)).chain(last.iter().flat_map(|last| state.dirty.range(..=last)));
                let ready: Vec<Key> = round.filter(|key| !busy.contains(*key)).take(room).cloned().collect();
                for key in ready {
                    last = Some(key.clone());
                    state.dirty.remove(&key);
                    busy.insert(key.clone());
                    let (context, of) = (self.clone(), key.clone());
                    let task = running.spawn(async move {
                        timeout(TURN_WITHIN, turn::turn(&context, &of)).await.unwrap_or(Err(turn::TurnError::Stalled))
                    });
                    keys.insert(task.id(), key);
                }
                next
            };
            let wake = next_alarm.map_or(pulse + PULSE, |alarm| alarm.min(pulse + PULSE));
            tokio::select! {
                biased; // in this order, so that a simulated run can be repeated
                () = self.until.cancelled() => return,
                Some(done) = running.join_next_with_id(), if !running.is_empty() => self.finish(done, &mut keys, &mut busy),
                () = self.world.changed.notified() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn finish(
        &self,
        done: Result<(Id, Result<(), turn::TurnError>), tokio::task::JoinError>,
        keys: &mut HashMap<Id, Key>,
        busy: &mut HashSet<Key>,
    ) {
        let (id, problem) = match done {
            Ok((id, Ok(()))) => (id, None),
            Ok((id, Err(error))) => (id, Some(error.to_string())),
            Err(error) => (error.id(), Some(format!("a turn ended abnormally: {error}"))),
        };
        let Some(key) = keys.remove(&id) else { return };
        busy.remove(&key);
        if let Some(problem) = problem {
            warn!(%key, problem, "will be tried again");
            self.world.lock().alarm(&key, Instant::now() + RETRY_AFTER);
        }
    }

    /// How many primitives of each kind there are, who hold them and who wait.
    pub fn census(&self) -> Vec<(Kind, Census)> {
        let state = self.world.lock();
        let count = |kind: &Kind| {
            let of_kind = state.objects.values().filter(|object| object.key().kind == *kind);
            of_kind.fold(Census::default(), |Census { objects, holders, waiting }, object| Census {
                objects: objects + 1,
                holders: holders + object.holders().len(),
                waiting: waiting + object.common().map_or(0, |common| usize::try_from(common.waiting).unwrap_or_default()),
            })
        };
        Kind::ALL.iter().map(|kind| (*kind, count(kind))).collect()
    }

    /// Cancelled when the leadership ends.
    pub fn until(&self) -> &CancellationToken {
        &self.until
    }

    /// A Pod by its full identity: from the picture, or else from a live look.
    pub async fn find_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<Arc<PodFacts>>, kube::Error> {
        if let Some(pod) = self.world.lock().pods.get(uid) {
            return Ok(Some(pod.clone()));
        }
        let pod = self.eye.pod(namespace, name, uid).await?.map(Arc::new);
        if let Some(pod) = pod.as_ref().filter(|pod| pod.asks.is_some()) {
            self.world.update(|state| state.meet_pod(pod.clone()));
        }
        Ok(pod)
    }

    /// Opens a session for a waiting Pod; it ends when the guard is dropped.
    pub fn open_session(self: &Arc<Self>, pod: &PodFacts) -> (SessionGuard, tokio::sync::watch::Receiver<Place>) {
        let (session, place) = Session::open();
        let guard = SessionGuard { context: self.clone(), pod_uid: pod.uid().to_owned(), id: session.id, let_in: false };
        self.world.update(|state| state.open_session(pod, session));
        (guard, place)
    }

    /// Whether a Pod holds all that its annotations say, by live reads.
    pub async fn verify(&self, pod: &PodFacts) -> Result<Verified, kube::Error> {
        let mut tokens = Vec::new();
        for (key, _) in pod.holds() {
            let object = self.live(key).await?;
            match object.as_ref().and_then(|object| object.token_of(pod.uid())) {
                Some(token) => tokens.push(Token { target: key.seen_from(&pod.who.namespace), token }),
                None => {
                    let message = Some(format!("this Pod does not hold {}", key.seen_from(&pod.who.namespace)));
                    self.seen_live(key, object);
                    return Ok(Verified { held: false, tokens: Vec::new(), message });
                }
            }
        }
        Ok(Verified { held: true, tokens, message: None })
    }

    /// What a Pod holds of all that its annotations say, by live reads.
    pub async fn held(&self, pod: &PodFacts) -> Result<Vec<Token>, kube::Error> {
        let mut holds = Vec::new();
        for (key, _) in pod.holds() {
            let token = self.store.get(key).await?.and_then(|object| object.token_of(pod.uid()));
            holds.extend(token.map(|token| Token { target: key.seen_from(&pod.who.namespace), token }));
        }
        Ok(holds)
    }

    /// A wrapped command does not run under these holds any more.
    pub fn run_ended(&self, pod: &PodFacts, ended: &Ended) {
        self.world.update(|state| state.run_ended(pod, ended));
    }

    /// A primitive by a live read. The picture follows: two turns that look at the same primitive, one as it is and one as it was, could keep each other going.
    /// What is gone leaves it, unless it has seen another one of that name meanwhile; what has left it does not come back by a read that began before.
    pub async fn live(&self, key: &Key) -> Result<Option<object::Object>, kube::Error> {
        let known = self.world.lock().objects.get(key).map(|known| known.uid().to_owned());
        let live = self.store.get(key).await?;
        self.world.update(|state| match (&live, &known) {
            (Some(live), _) if state.objects.contains_key(key) => state.put_object(live.clone()),
            (None, Some(uid)) => state.remove_object(key, uid),
            _ => {}
        });
        Ok(live)
    }

    /// A live read says something else than the picture: the picture follows, or it would be asked again at once, and again.
    fn seen_live(&self, key: &Key, live: Option<object::Object>) {
        self.world.update(|state| {
            live.into_iter().for_each(|live| state.put_object(live));
            state.dirty.insert(key.clone());
        });
    }

    /// A Pod says that it ended; that is a reason to look, and no more.
    pub fn hint_ended(&self, pod: &PodFacts) {
        self.world.update(|state| state.hint_ended(pod));
    }

    /// Writes the fencing tokens on the Pod, where its kubelet finds them.
    pub async fn publish_tokens(&self, pod: &PodFacts, tokens: &[Token]) -> Result<(), kube::Error> {
        let annotations: serde_json::Map<_, _> = tokens
            .iter()
            .enumerate()
            .map(|(index, token)| (format!("{}{index}", names::TOKEN_ANNOTATION_PREFIX), token.token.to_string().into()))
            .chain([(names::TOKENS_WRITTEN.to_owned(), self.clock.now().to_string().into())])
            .collect();
        let patch = json!({ "metadata": { "uid": pod.uid(), "annotations": annotations } });
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.who.namespace);
        api.patch(&pod.who.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
    }

    /// Deletes this very Pod or Job, with its Pods; none that has taken its name since.
    async fn delete(&self, who: &Who) -> Result<(), kube::Error> {
        let Who { kind, namespace, name, uid } = who;
        let this_one = Preconditions { uid: Some(uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(this_one), ..DeleteParams::background() };
        let deleted = match kind {
            HolderKind::Pod => Api::<Pod>::namespaced(self.client.clone(), namespace).delete(name, &params).await.map(drop),
            HolderKind::Job => Api::<Job>::namespaced(self.client.clone(), namespace).delete(name, &params).await.map(drop),
            HolderKind::Claim => Ok(()),
        };
        starting::tolerate(deleted)
    }
}

/// Keeps a session open; dropping it ends the session.
pub struct SessionGuard {
    context: Arc<Context>,
    pod_uid: String,
    id: u64,
    /// Whether its last word was that the Pod may go on.
    pub let_in: bool,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.context.world.update(|state| state.close_session(&self.pod_uid, self.id, self.let_in));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use kube::client::Body;
    use tower::service_fn;

    use super::*;
    use crate::api::Mutex;

    /// Two turns that look at the same primitive, one as it is and one as it was, would keep each other going for as long as its watch is silent.
    #[tokio::test]
    async fn the_picture_follows_a_live_read_and_gets_nothing_back_that_has_left_it() {
        let mutex = |revision: &str| -> Mutex {
            serde_json::from_value(json!({
                "apiVersion": "konductor.io/v1", "kind": "Mutex", "spec": {},
                "metadata": { "name": "db", "namespace": "ns", "uid": "m", "resourceVersion": revision },
            }))
            .unwrap()
        };
        let answer = serde_json::to_vec(&mutex("2")).unwrap();
        let service = service_fn(move |_: http::Request<Body>| {
            let answer = Response::new(Body::from(answer.clone()));
            async move { Ok::<_, Infallible>(answer) }
        });
        let client = Client::new(service, "ns");
        let context = Context::new(client, ServerClock::default(), Pulse::default(), Arc::default(), "k-1", CancellationToken::new());
        let before = object::Object::from(mutex("1"));
        let key = before.key();
        assert!(context.live(&key).await.unwrap().is_some());
        assert!(context.world.lock().objects.is_empty(), "it may have been deleted since");
        context.world.lock().put_object(before);
        assert!(context.live(&key).await.unwrap().is_some());
        assert_eq!(context.world.lock().objects[&key].revision(), 2);
    }
}

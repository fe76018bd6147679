//! The leader's picture of the cluster: primitives, Pods, Jobs, Claims, nodes and open sessions, and which primitives need a look. Synchronous: watches
//! and sessions put facts in, turns read them. The picture may propose; only what is read live, or written, or reported as deleted, disposes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    alarms::Alarms,
    claims::{ClaimFacts, Renewed},
    facts::{JobFacts, Outage, PodFacts},
    object::{Key, Object},
    observe, runs,
};
use crate::{
    coordinator::session::{Place, Session},
    plan::Kind,
    rules::{Condition, Seen, evidence::AcquireStep},
};

/// How long a Pod whose acquire step runs without a session keeps those behind it waiting: longer than an agent takes to come back.
pub const EXPECTED_FOR: Duration = Duration::from_secs(15);

/// Proofs that are kept to save reading again.
const MOST_GONE: usize = 10_000;

/// The picture, shared by watches, sessions and turns.
#[derive(Debug, Default)]
pub struct World {
    state: Mutex<State>,
    /// Wakes whoever starts turns.
    pub changed: Notify,
    /// Wakes whoever follows the Jobs that Gates wait for.
    pub gates_changed: Notify,
}

/// What is known. Times are local and monotonic: they measure how long *we* have seen something.
#[derive(Debug, Default)]
pub struct State {
    /// Primitives, at the latest revision that was seen or written.
    pub objects: HashMap<Key, Object>,
    /// Pods with injected steps, by UID.
    pub pods: HashMap<String, Arc<PodFacts>>,
    /// Jobs that hold, by UID.
    pub jobs: HashMap<String, Arc<JobFacts>>,
    /// Claims, by UID.
    pub claims: HashMap<String, Arc<ClaimFacts>>,
    /// Claims by the primitives that they name, and by UID.
    pub claims_of: HashMap<Key, BTreeMap<String, Arc<ClaimFacts>>>,
    /// Since when the Claims that hold have not been renewed.
    pub renewed: HashMap<String, Renewed>,
    /// When Claims that wait were last told for what.
    pub said: HashMap<String, Instant>,
    /// UIDs of the nodes that there are, by name.
    pub nodes: HashMap<String, String>,
    /// The outages of the nodes that are unreachable, and since when we have seen them, uninterrupted.
    pub unreachable: HashMap<String, (Outage, Instant)>,
    /// Open sessions, by the UID of their Pod.
    pub sessions: HashMap<String, Session>,
    /// When the first session was opened: from then on agents can reach us.
    pub first_session: Option<Instant>,
    /// Since when a Pod's acquire step has been without a session.
    pub without_session: HashMap<String, Instant>,
    /// Pods that said that they ended, until a turn of that primitive has looked.
    pub hinted: HashSet<(String, Key)>,
    /// What wrapped commands' parents said about their holds.
    pub reports: HashMap<(String, Key), runs::Report>,
    /// Wrapped Pods whose command has ended, until their container is seen to have ended too, or asks again.
    pub between_runs: HashSet<String>,
    /// Pods of holders, and Claims, that are proven to be gone: saves reading again.
    pub gone: HashSet<String>,
    /// What those who wait without a session were last said to wait for, in an Event, and whether that existed.
    pub announced: HashMap<String, (Key, bool)>,
    /// Holders of which people were told that they have not started for long.
    pub slow: HashSet<(String, Key)>,
    /// What those who wait without a session ask for now.
    pub asks_now: HashMap<String, Key>,
    /// Ends and arrivals of which a primitive wants to hear no more.
    pub settled: HashSet<(String, Key)>,
    /// Pods by the primitives that they name, and by UID.
    pub pods_of: HashMap<Key, BTreeMap<String, Arc<PodFacts>>>,
    /// The Jobs that Gates wait for, by namespace and name, as far as they were looked for; `None` where there is none.
    pub named_jobs: HashMap<(String, String), Option<NamedJob>>,
    /// Gates that wait, by the primitives and the Jobs that their conditions name.
    pub gates_on: HashMap<Named, BTreeSet<Key>>,
    /// Jobs by the primitives that they name, and by UID.
    pub jobs_of: HashMap<Key, BTreeMap<String, Arc<JobFacts>>>,
    /// Whether Gates have begun or ceased to wait for something.
    pub gates_moved: bool,
    /// Primitives that need a turn.
    pub dirty: BTreeSet<Key>,
    /// When primitives need a turn again even if nothing happens.
    pub alarms: Alarms,
    /// When the status of a primitive was last written by us, and since when nobody has held it.
    pub quiet: HashMap<Key, Quiet>,
}

/// How long nothing has happened to a primitive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet {
    /// When we last wrote its status.
    pub written: Option<Instant>,
    /// Since when nobody has held it or waited for it.
    pub idle: Option<Instant>,
    /// When its holders were last looked at without a reason, or first seen.
    pub looked: Option<Instant>,
}

/// What a condition of a Gate can name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    /// A primitive.
    Primitive(Key),
    /// A Job, by namespace and name.
    Job(String, String),
}

/// A Job that a Gate waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedJob {
    /// Its UID.
    pub uid: String,
    /// What conditions see of it.
    pub seen: Seen,
}

impl World {
    /// Looks at the picture, and perhaps changes it.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the picture and starts the turns that follow from the change.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let wake = !state.dirty.is_empty();
        let gates = std::mem::take(&mut state.gates_moved);
        drop(state);
        if gates {
            self.gates_changed.notify_one();
        }
        if wake {
            self.changed.notify_one();
        }
        result
    }
}

impl State {
    /// A primitive was seen or written. What is older than what we have is ignored.
    pub fn put_object(&mut self, object: Object) {
        let key = object.key();
        let stale = self.objects.get(&key).is_some_and(|known| known.revision() >= object.revision());
        if !stale {
            self.watch_for_gates(&key, Some(&object));
            self.objects.insert(key.clone(), object);
            self.dirty.insert(key);
        }
    }

    /// A primitive is gone.
    pub fn remove_object(&mut self, key: &Key, uid: &str) {
        if self.objects.get(key).is_some_and(|known| known.uid() == uid) {
            self.watch_for_gates(key, None);
            self.objects.remove(key);
            self.alarms.remove(key);
            self.quiet.remove(key);
            self.dirty.insert(key.clone());
        }
    }

    /// A primitive changes to this, or goes: the Gates that name it look again; and if it is a Gate itself, it may wait for something else from now on.
    fn watch_for_gates(&mut self, key: &Key, next: Option<&Object>) {
        let gates = self.gates_on.get(&Named::Primitive(key.clone())).into_iter().flatten().cloned();
        self.dirty.extend(gates);
        if key.kind != Kind::Gate {
            return;
        }
        let names = |object: Option<&Object>| -> HashSet<Named> {
            let conditions = object.map(observe::conditions).unwrap_or_default();
            let named = |condition: Condition| match observe::key_of(&condition) {
                Some(key) => Named::Primitive(key),
                None => Named::Job(condition.namespace, condition.name),
            };
            conditions.into_iter().map(named).collect()
        };
        let (before, after) = (names(self.objects.get(key)), names(next));
        for gone in before.difference(&after) {
            if let Some(gates) = self.gates_on.get_mut(gone) {
                gates.remove(key);
                if gates.is_empty() {
                    self.gates_on.remove(gone);
                }
            }
        }
        for new in after.difference(&before) {
            self.gates_on.entry(new.clone()).or_default().insert(key.clone());
        }
        self.gates_moved |= before != after;
    }

    /// A Job that Gates wait for was seen, or there is none of that name.
    pub fn put_named_job(&mut self, namespace: &str, name: &str, job: Option<NamedJob>) {
        let key = (namespace.to_owned(), name.to_owned());
        self.named_jobs.insert(key, job);
        let gates = self.gates_on.get(&Named::Job(namespace.to_owned(), name.to_owned())).into_iter().flatten().cloned();
        self.dirty.extend(gates);
    }

    /// A Pod was seen.
    pub fn put_pod(&mut self, pod: impl Into<Arc<PodFacts>>) {
        let mut pod = pod.into();
        if self.pods.get(pod.uid()) == Some(&pod) {
            return;
        }
        let alike = pod.keys().first().and_then(|key| self.pods_of.get(key)?.values().next().cloned());
        if let (Some(alike), Some(pod)) = (alike, Arc::get_mut(&mut pod)) {
            pod.share(&alike);
        }
        if pod.step != AcquireStep::Running {
            self.between_runs.remove(pod.uid());
        }
        let known = self.pods.insert(pod.uid().to_owned(), pod.clone());
        // Its annotations are frozen; but if they are not, it is not to be found under what they said before.
        let left = known.iter().flat_map(|known| known.keys());
        refile(&mut self.pods_of, &mut self.dirty, pod.uid(), left, pod.keys(), &pod);
    }

    /// A Pod is not seen any more. That proves nothing yet: turns look for themselves.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        for key in pod.keys() {
            forget(&mut self.pods_of, key, uid);
            let of = (uid.to_owned(), key.clone());
            self.settled.remove(&of);
            self.slow.remove(&of);
            self.hinted.remove(&of);
            self.reports.remove(&of);
            self.dirty.insert(of.1);
        }
        self.between_runs.remove(uid);
        self.without_session.remove(uid);
        self.announced.remove(uid);
        self.asks_now.remove(uid);
        let node = pod.node.as_ref().filter(|node| self.unreachable.get(*node).is_some_and(|(outage, _)| *outage == Outage::Removed));
        if let Some(node) = node.filter(|node| !self.pods.values().any(|pod| pod.node.as_ref() == Some(node))) {
            self.unreachable.remove(node);
        }
    }

    /// It is proven that there is no Pod or Claim of this UID any more.
    pub fn remember_gone(&mut self, uid: &str) {
        if self.gone.len() >= MOST_GONE {
            self.gone.clear();
        }
        self.gone.insert(uid.to_owned());
    }

    /// A Job was seen.
    pub fn put_job(&mut self, job: impl Into<Arc<JobFacts>>) {
        let job = job.into();
        if self.jobs.get(&job.who.uid) == Some(&job) {
            return;
        }
        let known = self.jobs.insert(job.who.uid.clone(), job.clone());
        // One that has not started may be edited.
        let left = known.iter().flat_map(|known| known.keys());
        refile(&mut self.jobs_of, &mut self.dirty, &job.who.uid, left, job.keys(), &job);
    }

    /// A Job was read because it was not in the picture. What a watch has brought since then may be newer than the read, and nothing would bring it again.
    pub fn meet_job(&mut self, job: impl Into<Arc<JobFacts>>) {
        let job = job.into();
        if !self.jobs.contains_key(&job.who.uid) {
            self.put_job(job);
        }
    }

    /// The same of a Pod.
    pub fn meet_pod(&mut self, pod: impl Into<Arc<PodFacts>>) {
        let pod = pod.into();
        if !self.pods.contains_key(pod.uid()) {
            self.put_pod(pod);
        }
    }

    /// A Job is not seen any more.
    pub fn remove_job(&mut self, uid: &str) {
        let Some(job) = self.jobs.remove(uid) else { return };
        self.announced.remove(uid);
        self.asks_now.remove(uid);
        for key in job.keys() {
            forget(&mut self.jobs_of, key, uid);
            let of = (uid.to_owned(), key.clone());
            self.settled.remove(&of);
            self.slow.remove(&of);
            self.dirty.insert(of.1);
        }
    }

    /// A node was seen, or is gone (which makes it no easier to reach).
    pub fn put_node(&mut self, name: &str, outage: Option<Outage>) {
        let known = self.unreachable.get(name).copied();
        if known.map(|(known, _)| known) == outage {
            return;
        }
        match (outage, known) {
            (None, _) => drop(self.unreachable.remove(name)),
            // Its removal interrupts no outage; a new outage means that it was back in between, even if we did not see that.
            (Some(Outage::Removed), Some((_, since))) => drop(self.unreachable.insert(name.to_owned(), (Outage::Removed, since))),
            (Some(outage), _) => drop(self.unreachable.insert(name.to_owned(), (outage, Instant::now()))),
        }
        let on_it = self.pods.values().filter(|pod| pod.node.as_deref() == Some(name));
        self.dirty.extend(on_it.flat_map(|pod| pod.keys()).cloned());
    }

    /// A node is not seen any more. That matters as long as there are Pods on it.
    pub fn remove_node(&mut self, name: &str, uid: &str) {
        if self.nodes.get(name).is_none_or(|known| known != uid) {
            return;
        }
        self.nodes.remove(name);
        if self.pods.values().any(|pod| pod.node.as_deref() == Some(name)) {
            self.put_node(name, Some(Outage::Removed));
        } else {
            self.unreachable.remove(name);
        }
    }

    /// This process was paused, and perhaps all others too: how long nodes have been unreachable, and Claims not renewed, must be counted anew.
    pub fn forget_how_long(&mut self) {
        let now = Instant::now();
        self.unreachable.values_mut().for_each(|(_, since)| *since = now);
        self.forget_renewals();
    }

    /// We did not look for a while: a node that was removed may have been back in between. (An outage says itself when it began.)
    pub fn forget_removals(&mut self) {
        let now = Instant::now();
        self.unreachable.values_mut().filter(|(outage, _)| *outage == Outage::Removed).for_each(|(_, since)| *since = now);
    }

    /// An agent opened a session; an older one of the same Pod ends.
    pub fn open_session(&mut self, pod: &PodFacts, session: Session) {
        self.first_session.get_or_insert_with(Instant::now);
        self.without_session.remove(pod.uid());
        self.between_runs.remove(pod.uid());
        self.sessions.insert(pod.uid().to_owned(), session);
        self.dirty.extend(pod.keys().iter().cloned());
    }

    /// A session ended; `let_in` says that its last word was that the Pod may go on.
    pub fn close_session(&mut self, pod_uid: &str, session_id: u64, let_in: bool) {
        if self.sessions.get(pod_uid).is_none_or(|session| session.id != session_id) {
            return;
        }
        self.sessions.remove(pod_uid);
        let Some(pod) = self.pods.get(pod_uid) else { return };
        self.without_session.insert(pod_uid.to_owned(), Instant::now());
        // A crowd that is let in leaves one by one, and none of them leaves a place to anybody. But whoever was seen to have gone on already was spared a look for
        // the sake of its session.
        if !let_in || pod.step == AcquireStep::Passed {
            self.dirty.extend(pod.keys().iter().cloned());
        }
    }

    /// A Pod said that it ended: its primitives get a look.
    pub fn hint_ended(&mut self, pod: &PodFacts) {
        if !self.pods.contains_key(pod.uid()) {
            return;
        }
        for key in pod.keys() {
            self.hinted.insert((pod.uid().to_owned(), key.clone()));
            self.dirty.insert(key.clone());
        }
    }

    /// Tells a waiting Pod, if it is there.
    pub fn tell(&mut self, pod_uid: &str, place: Place) {
        if let Some(session) = self.sessions.get(pod_uid) {
            session.tell(place);
        }
    }

    /// A turn is wanted at this time even if nothing happens before.
    pub fn alarm(&mut self, key: &Key, at: Instant) {
        self.alarms.set(key, at);
    }

    /// Moves the primitives whose time has come to those that need a turn; says when the next one's comes.
    pub fn ring(&mut self, now: Instant) -> Option<Instant> {
        self.dirty.extend(self.alarms.due(now));
        self.alarms.next()
    }
}

/// Files something under the primitives that it names, no more under those that it named before, and gives all of them a turn.
fn refile<'a, T>(
    index: &mut HashMap<Key, BTreeMap<String, Arc<T>>>,
    dirty: &mut BTreeSet<Key>,
    uid: &str,
    before: impl Iterator<Item = &'a Key>,
    now: &[Key],
    it: &Arc<T>,
) {
    for key in before {
        forget(index, key, uid);
        dirty.insert(key.clone());
    }
    for key in now {
        index.entry(key.clone()).or_default().insert(uid.to_owned(), it.clone());
        dirty.insert(key.clone());
    }
}

/// Takes a UID out of an index by primitive.
pub fn forget<T>(index: &mut HashMap<Key, BTreeMap<String, T>>, key: &Key, uid: &str) {
    if let Some(uids) = index.get_mut(key) {
        uids.remove(uid);
        if uids.is_empty() {
            index.remove(key);
        }
    }
}

/// All that an index has under a primitive, in the order of their UIDs.
pub fn under<'a, T>(index: &'a HashMap<Key, BTreeMap<String, Arc<T>>>, key: &Key) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
    index.get(key).into_iter().flat_map(BTreeMap::values)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// An answer that comes late would leave a Job's hold with it for ever.
    #[test]
    fn what_a_watch_has_brought_is_not_overwritten_by_a_read_that_began_before() {
        let job = |suspended: bool| {
            let job = serde_json::json!({ "metadata": { "name": "j", "namespace": "ns", "uid": "j" }, "spec": { "suspend": suspended } });
            JobFacts::of(&serde_json::from_value(job).unwrap())
        };
        let mut state = State::default();
        state.meet_job(job(false));
        assert!(!state.jobs["j"].suspended);
        state.put_job(job(true));
        state.meet_job(job(false));
        assert!(state.jobs["j"].suspended);
        let pod = |node: &str| {
            let pod = serde_json::json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "p" }, "spec": { "nodeName": node, "containers": [] } });
            PodFacts::of(&serde_json::from_value(pod).unwrap())
        };
        state.put_pod(pod("new"));
        state.meet_pod(pod("old"));
        assert_eq!(state.pods["p"].node.as_deref(), Some("new"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_back_in_between_is_counted_anew() {
        let outage = |second| Some(Outage::Since(Timestamp::from_second(second).unwrap()));
        let mut state = State::default();
        let seen = |state: &State| state.unreachable["n"].1;
        state.put_node("n", outage(1));
        let first = seen(&state);
        tokio::time::advance(Duration::from_secs(9)).await;
        state.put_node("n", outage(1));
        assert_eq!(seen(&state), first);
        state.put_node("n", outage(8));
        assert_eq!(seen(&state), Instant::now(), "it was ready in between");
        tokio::time::advance(Duration::from_secs(9)).await;
        state.put_node("n", Some(Outage::Removed));
        assert_eq!(seen(&state), Instant::now() - Duration::from_secs(9));
        state.put_node("n", None);
        assert!(state.unreachable.is_empty());
    }
}

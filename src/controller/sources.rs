//! Watches: what the API server says about primitives, Claims, Pods, Jobs and nodes goes into the picture.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{
    claims::ClaimFacts,
    facts::{self, JobFacts, PodFacts},
    object::{Object, of_kind},
    world::{Named, State, World},
};
use crate::{
    api::{Claim, names},
    plan::Kind,
};

/// What a watch says, in the terms of the picture.
enum Seen<K> {
    /// It is there, in this form.
    There(K),
    /// It is gone: deleted or, of those that are chosen by a label, without that label now.
    Gone(K),
    /// These UIDs are all that there are.
    Only(HashSet<String>),
    /// Something may have been missed.
    Gap,
}

/// The watches. They end when this is dropped, and one that ends earlier leaves the picture blind.
pub struct Sources {
    /// Each runs for ever.
    pub tasks: JoinSet<()>,
    /// How many must have seen everything once before the picture is complete.
    pub count: usize,
    /// How many have.
    pub synced: watch::Receiver<usize>,
}

/// Starts all watches.
pub fn start(client: &Client, world: &Arc<World>) -> Sources {
    let (synced, receiver) = watch::channel(0);
    let ours = watcher::Config::default().labels(&format!("{}=true", names::INJECTED_LABEL));
    let mut watches = Watches { client: client.clone(), world: world.clone(), synced, tasks: JoinSet::new() };
    for kind in Kind::ALL {
        of_kind!(kind, K => watches.primitives::<K>(kind));
    }
    watches.follow::<DeserializeGuard<Claim>>(watcher::Config::default(), |state, seen| match seen {
        Seen::There(DeserializeGuard(Ok(claim))) => state.put_claim(ClaimFacts::of(claim)),
        Seen::There(DeserializeGuard(Err(invalid))) => {
            warn!(name = invalid.metadata.name, namespace = invalid.metadata.namespace, error = invalid.error, "a Claim cannot be read");
        }
        Seen::Gone(DeserializeGuard(Ok(claim))) => {
            let ClaimFacts { key, who, .. } = ClaimFacts::of(claim);
            state.deleted_claim(&key, &who.uid);
        }
        Seen::Gone(claim) => state.remove_claim(&claim.uid().unwrap_or_default()),
        Seen::Only(uids) => {
            for uid in missing(state.claims.keys(), &uids) {
                state.remove_claim(&uid);
            }
        }
        Seen::Gap => state.forget_renewals(),
    });
    watches.follow::<Pod>(ours.clone(), |state, seen| match seen {
        Seen::There(pod) => state.put_pod(PodFacts::of(&pod)),
        Seen::Gone(pod) => state.remove_pod(&pod.uid().unwrap_or_default()),
        Seen::Only(uids) => {
            for uid in missing(state.pods.keys(), &uids) {
                state.remove_pod(&uid);
            }
        }
        Seen::Gap => {}
    });
    watches.follow::<Job>(ours, |state, seen| match seen {
        Seen::There(job) => state.put_job(JobFacts::of(&job)),
        Seen::Gone(job) => state.remove_job(&job.uid().unwrap_or_default()),
        Seen::Only(uids) => {
            for uid in missing(state.jobs.keys(), &uids) {
                state.remove_job(&uid);
            }
        }
        Seen::Gap => {}
    });
    watches.follow::<Node>(watcher::Config::default(), |state, seen| match seen {
        Seen::There(node) => {
            state.nodes.insert(node.name_any(), node.uid().unwrap_or_default());
            state.put_node(&node.name_any(), facts::outage(&node));
        }
        Seen::Gone(node) => state.remove_node(&node.name_any(), &node.uid().unwrap_or_default()),
        Seen::Only(uids) => {
            let gone: Vec<_> =
                state.nodes.iter().filter(|(_, uid)| !uids.contains(*uid)).map(|(name, uid)| (name.clone(), uid.clone())).collect();
            for (name, uid) in gone {
                state.remove_node(&name, &uid);
            }
        }
        Seen::Gap => state.forget_removals(),
    });
    let count = watches.tasks.len();
    watches.tasks.spawn(named_jobs(client.clone(), world.clone()));
    Sources { count, tasks: watches.tasks, synced: receiver }
}

/// Follows each Job that a Gate waits for, for as long as one does: any Job can be named, and there may be very many others.
async fn named_jobs(client: Client, world: Arc<World>) {
    // In the order of their names, so that a simulated run can be repeated.
    let mut followed: BTreeMap<(String, String), AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let wanted: BTreeSet<(String, String)> = {
            let state = world.lock();
            let job = |named: &Named| match named {
                Named::Job(namespace, name) => Some((namespace.clone(), name.clone())),
                Named::Primitive(_) => None,
            };
            state.gates_on.keys().filter_map(job).collect()
        };
        followed.retain(|job, _| {
            let keep = wanted.contains(job);
            if !keep {
                world.lock().named_jobs.remove(job);
            }
            keep
        });
        for (namespace, name) in wanted {
            followed
                .entry((namespace.clone(), name.clone()))
                .or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(follow_job(client.clone(), world.clone(), namespace, name))));
        }
        world.gates_changed.notified().await;
    }
}

async fn follow_job(client: Client, world: Arc<World>, namespace: String, name: String) {
    let stream = watcher::watch_object(Api::<Job>::namespaced(client, &namespace), &name).backoff(Again::default());
    pin_mut!(stream);
    while let Some(seen) = stream.next().await {
        match seen {
            Ok(job) => world.update(|state| state.put_named_job(&namespace, &name, job.as_ref().map(facts::named_job))),
            Err(error) => debug!(%error, namespace, name, "watch of a Job interrupted"),
        }
    }
}

fn missing<'a>(known: impl Iterator<Item = &'a String>, listed: &HashSet<String>) -> Vec<String> {
    known.filter(|uid| !listed.contains(*uid)).cloned().collect()
}

/// Pauses between the attempts of one watch. A leader that sees nothing releases nothing, so it does not wait for half a minute as caches elsewhere may;
/// and there is one leader with a handful of watches, whose attempts nobody needs to spread.
#[derive(Default)]
struct Again(Duration);

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = self.0.saturating_mul(2).clamp(Duration::from_millis(500), Duration::from_secs(8));
        Some(self.0)
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        self.0 = Duration::ZERO;
    }
}

struct Watches {
    client: Client,
    world: Arc<World>,
    synced: watch::Sender<usize>,
    tasks: JoinSet<()>,
}

impl Watches {
    fn primitives<K>(&mut self, kind: Kind)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        Object: From<K>,
    {
        self.follow::<DeserializeGuard<K>>(watcher::Config::default(), move |state, seen| match seen {
            Seen::There(DeserializeGuard(Ok(object))) => state.put_object(object.into()),
            Seen::There(DeserializeGuard(Err(invalid))) => {
                warn!(?kind, name = invalid.metadata.name, namespace = invalid.metadata.namespace, error = invalid.error, "cannot be read");
            }
            Seen::Gone(DeserializeGuard(Ok(object))) => {
                let object = Object::from(object);
                state.remove_object(&object.key(), object.uid());
            }
            Seen::Gone(_) | Seen::Gap => {}
            Seen::Only(uids) => {
                let gone: Vec<_> = state
                    .objects
                    .values()
                    .filter(|object| object.key().kind == kind && !uids.contains(object.uid()))
                    .map(|object| (object.key(), object.uid().to_owned()))
                    .collect();
                for (key, uid) in gone {
                    state.remove_object(&key, &uid);
                }
            }
        });
    }

    fn follow<K>(&mut self, config: watcher::Config, apply: impl Fn(&mut State, Seen<K>) + Send + Sync + 'static)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let stream = watcher(Api::<K>::all(self.client.clone()), config);
        let (world, synced) = (self.world.clone(), self.synced.clone());
        self.tasks.spawn(async move {
            let mut listed = HashSet::new();
            let mut first = true;
            let gap = |error: watcher::Error| {
                debug!(%error, kind = %K::kind(&()), "watch interrupted");
                world.update(|state| apply(state, Seen::Gap));
            };
            let stream = stream.inspect_err(|_| ()).backoff(Again::default());
            pin_mut!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Err(error) => gap(error),
                    Ok(Event::Init) => {
                        listed.clear();
                        world.update(|state| apply(state, Seen::Gap));
                    }
                    Ok(Event::InitApply(object)) => {
                        listed.insert(object.uid().unwrap_or_default());
                        world.update(|state| apply(state, Seen::There(object)));
                    }
                    Ok(Event::InitDone) => {
                        world.update(|state| apply(state, Seen::Only(std::mem::take(&mut listed))));
                        if std::mem::take(&mut first) {
                            synced.send_modify(|count| *count += 1);
                        }
                    }
                    Ok(Event::Apply(object)) => world.update(|state| apply(state, Seen::There(object))),
                    Ok(Event::Delete(object)) => world.update(|state| apply(state, Seen::Gone(object))),
                }
            }
        });
    }
}

//! Kubernetes Events: what `kubectl describe` shows to people. They are told and forgotten: when there are too many, some are left out, and no decision
//! waits for them. They do not flood. Of what is as it should be, each object tells no more than [`OF_ONE`], and all primitives together no more than [`OF_ALL`],
//! though each of them [`AT_LEAST`]; whoever left something out says how much when it tells again.
//! What a person should know is always told.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::object::{Key, Object};
use crate::{
    api::{HolderKind, names},
    pace::Pace,
    plan::Kind,
    rules::Who,
};

/// Who tells.
const REPORTER: &str = "konductor";
/// Events that may be on their way at once.
const PENDING: usize = 1024;
/// What an object may tell: so many at once, and then one this often.
const OF_ONE: (u32, Duration) = (30, Duration::from_secs(10));
/// What a primitive may tell whatever the others tell: a handoff a minute.
const AT_LEAST: (u32, Duration) = (2, Duration::from_secs(30));
/// What all primitives together may tell beyond that: an Event costs the API server as much as a hold does.
const OF_ALL: (u32, Duration) = (300, Duration::from_millis(50));
/// Objects of which is known how much they left out; if there are more, it is forgotten.
const KNOWN: usize = 10_000;

/// What happened.
#[derive(Clone, Debug)]
pub struct Note {
    kind: EventType,
    reason: &'static str,
    text: String,
    related: Option<ObjectReference>,
}

impl Note {
    /// Something that is as it should be.
    pub fn normal(reason: &'static str, text: String) -> Self {
        Self { kind: EventType::Normal, reason, text, related: None }
    }

    /// Something that a person should know.
    pub fn warning(reason: &'static str, text: String) -> Self {
        Self { kind: EventType::Warning, reason, text, related: None }
    }

    /// The same, about somebody else too. Events of one reason are counted together unless they relate to different objects.
    #[must_use]
    pub fn about(mut self, who: &Who) -> Self {
        self.related = Some(reference_of(who));
        self
    }

    /// The same, for a primitive that may not exist.
    #[must_use]
    pub fn about_primitive(mut self, key: &Key) -> Self {
        self.related = Some(primitive(key, None));
        self
    }
}

/// A note on its way.
struct Sent {
    about: ObjectReference,
    /// Whether that is a primitive, which may have much to tell.
    of_primitive: bool,
    note: Note,
}

/// Where Events are handed in.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Sent>);

impl Events {
    /// Starts the task that publishes; it ends with `until`.
    pub fn start(client: Client, instance: String, until: CancellationToken) -> Self {
        let (sender, mut receiver) = mpsc::channel(PENDING);
        let recorder = Recorder::new(client, Reporter { controller: REPORTER.to_owned(), instance: Some(instance) });
        tokio::spawn(until.run_until_cancelled_owned(async move {
            let mut budgets = Budgets::new();
            while let Some(Sent { about, of_primitive, note }) = receiver.recv().await {
                let Note { kind, reason, mut text, related } = note;
                if matches!(kind, EventType::Normal) {
                    match budgets.spend(about.uid.as_deref().unwrap_or_default(), of_primitive) {
                        Some(0) => {}
                        Some(left_out) => text = format!("{text} ({left_out} Events before this one were left out)"),
                        None => continue,
                    }
                }
                let event =
                    Event { type_: kind, reason: reason.to_owned(), note: Some(text), action: reason.to_owned(), secondary: related };
                if let Err(error) = recorder.publish(&event, &about).await {
                    debug!(%error, reason, "event left out");
                }
            }
        }));
        Self(sender)
    }

    /// Tells something about a primitive.
    pub fn publish(&self, object: &Object, note: Note) {
        let about = primitive(&object.key(), object.meta().uid.clone());
        self.send(Sent { about, of_primitive: true, note });
    }

    /// Tells something about a Pod, a Job or a Claim.
    pub fn publish_who(&self, who: &Who, note: Note) {
        self.send(Sent { about: reference_of(who), of_primitive: false, note });
    }

    /// Tells the owner of somebody something.
    pub fn publish_owner(&self, who: &Who, owner: &OwnerReference, note: Note) {
        let OwnerReference { api_version, kind, name, uid, .. } = owner.clone();
        let namespace = Some(who.namespace.clone());
        let (api_version, kind, name, uid) = (Some(api_version), Some(kind), Some(name), Some(uid));
        let about = ObjectReference { api_version, kind, namespace, name, uid, ..ObjectReference::default() };
        self.send(Sent { about, of_primitive: false, note: note.about(who) });
    }

    fn send(&self, sent: Sent) {
        if self.0.try_send(sent).is_err() {
            debug!("event left out: too many at once");
        }
    }
}

/// How much each object may still tell, and how much it left out since it last told something.
struct Budgets {
    of_one: Pace<String>,
    at_least: Pace<String>,
    of_all: Pace<()>,
    left_out: HashMap<String, u32>,
}

impl Budgets {
    fn new() -> Self {
        let [of_one, at_least] = [OF_ONE, AT_LEAST].map(|(at_once, every)| Pace::new(at_once, every));
        Self { of_one, at_least, of_all: Pace::new(OF_ALL.0, OF_ALL.1), left_out: HashMap::new() }
    }

    /// Whether this object may tell something now, and if so, how much it left out before.
    fn spend(&mut self, uid: &str, of_primitive: bool) -> Option<u32> {
        let shares = of_primitive && self.at_least.is_spent(uid);
        if self.of_one.is_spent(uid) || shares && self.of_all.is_spent(&()) {
            if self.left_out.len() >= KNOWN {
                self.left_out.clear();
            }
            *self.left_out.entry(uid.to_owned()).or_default() += 1;
            return None;
        }
        self.of_one.count(uid.to_owned());
        if shares {
            self.of_all.count(());
        } else if of_primitive {
            self.at_least.count(uid.to_owned());
        }
        Some(self.left_out.remove(uid).unwrap_or_default())
    }
}

const fn kind_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Mutex => "Mutex",
        Kind::RwMutex => "RWMutex",
        Kind::Lease => "Lease",
        Kind::Semaphore => "Semaphore",
        Kind::Once => "Once",
        Kind::WaitGroup => "WaitGroup",
        Kind::Barrier => "Barrier",
        Kind::Gate => "Gate",
    }
}

fn primitive(key: &Key, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
        kind: Some(kind_of(key.kind).to_owned()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid,
        ..ObjectReference::default()
    }
}

fn reference_of(who: &Who) -> ObjectReference {
    let (version, kind) = match who.kind {
        HolderKind::Pod => ("v1", "Pod"),
        HolderKind::Job => ("batch/v1", "Job"),
        HolderKind::Claim => ("konductor.io/v1", "Claim"),
    };
    ObjectReference {
        api_version: Some(version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(who.namespace.clone()),
        name: Some(who.name.clone()),
        uid: Some(who.uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_object_that_has_much_to_tell_leaves_some_out_and_says_how_much() {
        let mut budgets = Budgets::new();
        for _ in 0..OF_ONE.0 {
            assert_eq!(budgets.spend("busy", false), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(budgets.spend("busy", false), None);
        }
        assert_eq!(budgets.spend("calm", false), Some(0), "another object is not concerned");
        advance(OF_ONE.1).await;
        assert_eq!(budgets.spend("busy", false), Some(7));
        assert_eq!(budgets.spend("busy", false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_primitives_together_leave_some_out_too() {
        let mut budgets = Budgets::new();
        let (handoff, more) = (AT_LEAST.0, 10);
        for primitive in 0..OF_ALL.0 / more {
            for _ in 0..handoff + more {
                assert_eq!(budgets.spend(&primitive.to_string(), true), Some(0));
            }
        }
        for _ in 0..handoff {
            assert_eq!(budgets.spend("one more", true), Some(0), "a handoff of its own is always told");
        }
        assert_eq!(budgets.spend("one more", true), None);
        assert_eq!(budgets.spend("a Pod", false), Some(0), "what it waits for is told once, and to its own people");
        advance(OF_ALL.1).await;
        assert_eq!(budgets.spend("one more", true), Some(1));
        assert_eq!(budgets.spend("one more", true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_many_objects_is_forgotten() {
        let mut budgets = Budgets::new();
        for object in 0..=KNOWN {
            for _ in 0..=OF_ONE.0 {
                let _ = budgets.spend(&object.to_string(), false);
            }
        }
        assert_eq!(budgets.left_out.len(), 1);
    }
}

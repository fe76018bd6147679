//! Kubernetes Events: what `kubectl describe` shows to people. They are told and forgotten: when there are too many, some are left out, and no decision
//! waits for them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{facts::PodFacts, object::Object};
use crate::api::names;

/// Events that may be on their way at once.
const PENDING: usize = 1024;

/// What happened.
#[derive(Clone, Debug)]
pub struct Note {
    kind: EventType,
    reason: &'static str,
    text: String,
}

impl Note {
    /// Something that is as it should be.
    pub fn normal(reason: &'static str, text: String) -> Self {
        Self { kind: EventType::Normal, reason, text }
    }

    /// Something that a person should know.
    pub fn warning(reason: &'static str, text: String) -> Self {
        Self { kind: EventType::Warning, reason, text }
    }
}

/// Where Events are handed in.
#[derive(Clone)]
pub struct Events(mpsc::Sender<(ObjectReference, Note)>);

impl Events {
    /// Starts the task that publishes; it ends with `until`.
    pub fn start(client: Client, instance: String, until: CancellationToken) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(ObjectReference, Note)>(PENDING);
        let recorder = Recorder::new(client, Reporter { controller: names::GROUP.to_owned(), instance: Some(instance) });
        tokio::spawn(until.run_until_cancelled_owned(async move {
            while let Some((about, note)) = receiver.recv().await {
                let Note { kind, reason, text } = note;
                let event = Event { type_: kind, reason: reason.to_owned(), note: Some(text), action: reason.to_owned(), secondary: None };
                if let Err(error) = recorder.publish(&event, &about).await {
                    debug!(%error, reason, "event left out");
                }
            }
        }));
        Self(sender)
    }

    /// Tells something about a primitive.
    pub fn publish(&self, object: &Object, note: Note) {
        let meta = object.meta();
        let kind = match object {
            Object::Mutex(_) => "Mutex",
            Object::Semaphore(_) => "Semaphore",
        };
        self.send(
            ObjectReference {
                api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
                kind: Some(kind.to_owned()),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                ..ObjectReference::default()
            },
            note,
        );
    }

    /// Tells something about a Pod.
    pub fn publish_pod(&self, pod: &PodFacts, note: Note) {
        self.send(
            ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.who.namespace.clone()),
                name: Some(pod.who.name.clone()),
                uid: Some(pod.who.uid.clone()),
                ..ObjectReference::default()
            },
            note,
        );
    }

    fn send(&self, about: ObjectReference, note: Note) {
        if self.0.try_send((about, note)).is_err() {
            debug!("event left out: too many at once");
        }
    }
}

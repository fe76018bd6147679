//! All that takes part, read once or followed by watches: primitives, injected Pods, Jobs and Claims, for those commands that work out who waits behind whom.

use std::fmt::Debug;

use futures::{
    StreamExt, TryStreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::Pod},
};
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, reflector, reflector::store, watcher},
};
use serde::de::DeserializeOwned;

use super::{
    output::{Failure, tell},
    session::Session,
};
use crate::{
    api::{Claim, names},
    client::Error,
    controller::{object::of_kind, outlook::Picture},
    plan::Kind,
};

/// Reads everything once. Who may not see all namespaces sees the own one; whether that was so comes with it.
///
/// # Errors
/// If the API server does not answer, or nothing may be seen at all.
pub async fn read(session: &Session) -> Result<(Picture, bool), Failure> {
    let mut picture = Picture::default();
    let mut partial = false;
    for kind in Kind::ALL {
        of_kind!(kind, K => for object in all::<K>(session, ListParams::default(), &mut partial).await? { picture.put_object(object.into()); });
    }
    for pod in all::<Pod>(session, ListParams::default().labels(&injected()), &mut partial).await? {
        picture.put_pod(&pod);
    }
    for job in all::<Job>(session, ListParams::default(), &mut partial).await? {
        picture.put_job(&job);
    }
    for claim in all::<Claim>(session, ListParams::default(), &mut partial).await? {
        picture.put_claim(claim);
    }
    if partial {
        tell(format!("you may not see all namespaces: those who wait in other ones than {} are left out", session.namespace));
    }
    Ok((picture, partial))
}

fn injected() -> String {
    format!("{}=true", names::INJECTED_LABEL)
}

async fn all<K>(session: &Session, which: ListParams, partial: &mut bool) -> Result<Vec<K>, Failure>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let doing = format!("listing {}", K::plural(&()));
    match Api::<K>::all(session.kube.clone()).list(&which).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            *partial = true;
            let api = Api::<K>::namespaced(session.kube.clone(), &session.namespace);
            Ok(api.list(&which).await.map_err(|error| Error::of(&error, &doing))?.items)
        }
        found => Ok(found.map_err(|error| Error::of(&error, &doing))?.items),
    }
}

/// Everything, followed. It asks for nothing by itself: each watch goes on when [`changed`](Self::changed) is awaited.
pub struct Followed {
    /// Each item is a change; `true` comes once of each watch, when it knows everything for the first time.
    changes: SelectAll<BoxStream<'static, watcher::Result<bool>>>,
    /// How many watches do not know everything yet.
    missing: usize,
    stores: Vec<Box<dyn Fn(&mut Picture) + Send>>,
}

impl Followed {
    /// Begins to follow all namespaces, or only the session's own.
    pub fn begin(session: &Session, only_own: bool) -> Self {
        let mut followed = Self { changes: SelectAll::new(), missing: 0, stores: Vec::new() };
        for kind in Kind::ALL {
            of_kind!(kind, K => followed.follow::<K>(session, only_own, watcher::Config::default(), |picture, object| picture.put_object(object.into())));
        }
        let ours = watcher::Config::default().labels(&injected());
        followed.follow::<Pod>(session, only_own, ours, |picture, pod| picture.put_pod(&pod));
        followed.follow::<Job>(session, only_own, watcher::Config::default(), |picture, job| picture.put_job(&job));
        followed.follow::<Claim>(session, only_own, watcher::Config::default(), Picture::put_claim);
        followed
    }

    fn follow<K>(&mut self, session: &Session, only_own: bool, which: watcher::Config, put: fn(&mut Picture, K))
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let client = session.kube.clone();
        // What cannot be read is left out, and keeps nothing else from being seen.
        let api = if only_own { Api::<DeserializeGuard<K>>::namespaced(client, &session.namespace) } else { Api::all(client) };
        let (store, writer) = store::<DeserializeGuard<K>>();
        let events = reflector(writer, watcher(api, which).modify(|object: &mut DeserializeGuard<K>| object.managed_fields_mut().clear()));
        let mut first = true;
        let change =
            move |event: watcher::Event<DeserializeGuard<K>>| matches!(event, watcher::Event::InitDone) && std::mem::take(&mut first);
        self.changes.push(events.default_backoff().map_ok(change).boxed());
        self.missing += 1;
        self.stores.push(Box::new(move |picture| {
            store.state().iter().filter_map(|object| object.0.as_ref().ok()).for_each(|object| put(picture, object.clone()));
        }));
    }

    /// Resolves when something has changed, or a watch was interrupted, which it tells; it is taken up again by itself.
    pub async fn changed(&mut self) -> Result<(), watcher::Error> {
        match self.changes.next().await {
            Some(Ok(complete)) => {
                self.missing -= usize::from(complete);
                Ok(())
            }
            Some(Err(error)) => Err(error),
            // Watches never end.
            None => std::future::pending().await,
        }
    }

    /// What is known now; nothing before everything has been seen once.
    pub fn picture(&self) -> Option<Picture> {
        let mut picture = Picture::default();
        self.stores.iter().for_each(|fill| fill(&mut picture));
        (self.missing == 0).then_some(picture)
    }
}

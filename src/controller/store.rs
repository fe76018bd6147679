//! Reading and writing primitives through the API server: the only place that writes their status and that of Claims, and always on one resource version.

use std::fmt::Debug;

use jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    object::{Key, NextStatus, Object, each, of_kind},
    starting,
};
use crate::{
    api::{Claim, Mutex, MutexSpec, names},
    planted,
};

/// Why a write was not done, or may not have been done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else wrote in between, or the object is gone: nothing was written.
    #[error("write conflicts with another one")]
    Conflict,
    /// The API server refused it: nothing was written.
    #[error("write refused: {0}")]
    Refused(#[source] Box<kube::Error>),
    /// No answer came, or one that leaves open whether it was written.
    #[error("write has no known outcome: {0}")]
    Unknown(#[source] Box<kube::Error>),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Conflict,
            // 4xx are refusals; 429 is one too: the request was not executed. 5xx may come after the commit.
            kube::Error::Api(status) if (400..500).contains(&status.code) => Self::Refused(Box::new(error)),
            _ => Self::Unknown(Box::new(error)),
        }
    }
}

/// The primitives of the cluster.
#[derive(Clone)]
pub struct Store {
    client: Client,
}

impl Store {
    /// On a client whose retries are off: a retry would hide whether a write was done.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A live read: what the API server has now, `None` if there is no such object.
    pub async fn get(&self, key: &Key) -> Result<Option<Object>, kube::Error> {
        of_kind!(key.kind, K => Ok(self.api::<K>(&key.namespace).get_opt(&key.name).await?.map(Object::from)))
    }

    /// Makes a Mutex that somebody asked for, unless it is there by now.
    pub async fn create(&self, key: &Key) -> Result<(), kube::Error> {
        let made = self.api::<Mutex>(&key.namespace).create(&PostParams::default(), &Mutex::new(&key.name, MutexSpec::default())).await;
        match made {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes this very object, unless something happened to it since.
    pub async fn delete(&self, object: &Object) -> Result<(), kube::Error> {
        let meta = object.meta();
        let preconditions = Some(Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let key = object.key();
        starting::tolerate(of_kind!(key.kind, K => self.api::<K>(&key.namespace).delete(&key.name, &params).await.map(drop)))
    }

    /// The one write: replaces the status if the object is still at the revision that `object` was read at.
    pub async fn replace_status(&self, object: &Object, next: NextStatus, now: Timestamp) -> Result<Object, WriteError> {
        each!(object.with(next, now), object => self.put_status(&*object).await.map(Object::from))
    }

    /// Adds or removes the finalizer of held primitives, on the same condition.
    pub async fn set_finalizer(&self, object: &Object, present: bool) -> Result<Object, WriteError> {
        each!(object, object => self.patch_finalizer(&**object, names::HELD_FINALIZER, present).await.map(Object::from))
    }

    /// Adds the finalizer of those whose outcome is counted, on the same condition.
    pub async fn set_outcome_finalizer(&self, claim: &Claim) -> Result<Claim, WriteError> {
        self.patch_finalizer(claim, names::OUTCOME_FINALIZER, true).await
    }

    /// Replaces the status of a Claim, on the same condition.
    pub async fn put_claim(&self, claim: &Claim) -> Result<Claim, WriteError> {
        self.put_status(claim).await
    }

    async fn put_status<K>(&self, object: &K) -> Result<K, WriteError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let meta = object.meta();
        let api = self.api::<K>(meta.namespace.as_deref().unwrap_or_default());
        #[cfg(feature = "planted-bugs")]
        if planted::bug("status-without-version") {
            return Ok(planted::overwrite_status(&api, object).await?);
        }
        Ok(api.replace_status(meta.name.as_deref().unwrap_or_default(), &PostParams::default(), object).await?)
    }

    async fn patch_finalizer<K>(&self, object: &K, ours: &str, present: bool) -> Result<K, WriteError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let meta = object.meta();
        let mut finalizers: Vec<&str> =
            meta.finalizers.iter().flatten().map(String::as_str).filter(|finalizer| *finalizer != ours).collect();
        if present {
            finalizers.push(ours);
        }
        let version = meta.resource_version.as_ref().filter(|_| !planted::bug("finalizer-without-version"));
        let patch = json!({ "metadata": { "uid": meta.uid, "resourceVersion": version, "finalizers": finalizers } });
        let api = self.api::<K>(meta.namespace.as_deref().unwrap_or_default());
        Ok(api.patch(meta.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

//! Who is speaking: the Pod-bound token of an agent, checked by the API server.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::api::names;

/// How long an answer is believed: as long as a kubelet believes one. A token is bound to its Pod: once that is gone the token is worthless, and whoever
/// asks for a Pod that is gone gets nothing in any case, because the Pod itself is looked up at every request.
const BELIEVED_FOR: Duration = Duration::from_secs(120);
/// Most answers that are kept.
const MOST_KEPT: usize = 20_000;
/// Longest token that is looked at.
const LONGEST_TOKEN: usize = 16 * 1024;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The Pod that a token was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Why a token says nothing about who is speaking.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It is missing, malformed, expired, of another audience, or bound to no Pod.
    #[error("token refused: {0}")]
    Refused(String),
    /// The API server could not be asked.
    #[error("token could not be checked: {0}")]
    Unavailable(#[source] Box<kube::Error>),
}

/// Asks the API server, and remembers its answers for a while.
pub struct Identities {
    client: Client,
    known: Mutex<HashMap<[u8; 32], (Identity, Instant)>>,
}

impl Identities {
    /// Asks through this client.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The Pod that this token was made for, by what the API server says now.
    pub async fn of(&self, token: &str) -> Result<Identity, IdentityError> {
        if token.is_empty() || token.len() > LONGEST_TOKEN {
            return Err(IdentityError::Refused("it is empty or far too long".to_owned()));
        }
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![names::TOKEN_AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviewed = Api::<TokenReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| IdentityError::Unavailable(Box::new(error)))?;
        let identity = identity(reviewed.status.unwrap_or_default())?;
        self.remember(token, identity.clone());
        Ok(identity)
    }

    /// The Pod that this token was made for, if the API server said so not long ago.
    pub fn recall(&self, token: &str) -> Option<Identity> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&digest(token)).filter(|(_, until)| Instant::now() < *until).map(|(identity, _)| identity.clone())
    }

    fn remember(&self, token: &str, identity: Identity) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if known.len() >= MOST_KEPT {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < MOST_KEPT {
            known.insert(digest(token), (identity, now + BELIEVED_FOR));
        }
    }
}

/// Tokens are kept by digest: memory of ours is no place for other people's credentials.
fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Reads the API server's verdict.
fn identity(status: TokenReviewStatus) -> Result<Identity, IdentityError> {
    let refuse = |why: &str| Err(IdentityError::Refused(why.to_owned()));
    if status.authenticated != Some(true) {
        return refuse(status.error.as_deref().unwrap_or("the API server does not accept it"));
    }
    if !status.audiences.iter().flatten().any(|audience| audience == names::TOKEN_AUDIENCE) {
        return refuse("it was made for another audience");
    }
    let user = status.user.unwrap_or_default();
    let extra = |key: &str| match user.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice) {
        Some([one]) => Some(one.clone()),
        _ => None,
    };
    let namespace =
        user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:")?.split_once(':')).map(|(ns, _)| ns);
    match (namespace, extra(POD_NAME), extra(POD_UID)) {
        (Some(namespace), Some(name), Some(uid)) => Ok(Identity { namespace: namespace.to_owned(), name, uid }),
        _ => refuse("it is not bound to a Pod"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(status: Value) -> Result<Identity, String> {
        identity(serde_json::from_value(status).unwrap()).map_err(|error| error.to_string())
    }

    fn good() -> Value {
        json!({"authenticated": true, "audiences": ["konductor.io"], "user": {
            "username": "system:serviceaccount:team:default",
            "extra": {POD_NAME: ["p"], POD_UID: ["u"]},
        }})
    }

    #[test]
    fn a_token_bound_to_a_pod_names_it() {
        assert_eq!(verdict(good()).unwrap(), Identity { namespace: "team".into(), name: "p".into(), uid: "u".into() });
    }

    #[test]
    fn everything_else_is_refused() {
        let without = |path: &str, value: Value| {
            let mut status = good();
            *status.pointer_mut(path).unwrap() = value;
            verdict(status).unwrap_err()
        };
        assert!(without("/authenticated", json!(false)).contains("does not accept"));
        assert!(without("/audiences", json!(["https://kubernetes.default.svc"])).contains("another audience"));
        assert!(without("/audiences", json!([])).contains("another audience"));
        assert!(without("/user/extra", json!({})).contains("not bound to a Pod"));
        assert!(without("/user/extra/authentication.kubernetes.io~1pod-uid", json!(["a", "b"])).contains("not bound to a Pod"));
        assert!(without("/user/username", json!("system:node:a")).contains("not bound to a Pod"));
    }
}

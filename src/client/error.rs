//! What can go wrong, in words for people; each kind of failure asks for something else of the program that meets it.

use kube::{core::Status, runtime::watcher};

/// Why an operation did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such object, namespace or hold.
    #[error("{0}")]
    NotFound(String),
    /// The timeout was over first, or what was asked for was not free and the timeout is zero; or a Barrier or Gate has failed.
    #[error("{0}")]
    Timeout(String),
    /// Somebody has executed the Once.
    #[error("{0}")]
    Executed(String),
    /// konductor or the API server refused it; asking again changes nothing.
    #[error("{0}")]
    Denied(String),
    /// The hold was lost: it was not renewed in time, or somebody deleted its Claim.
    #[error("{0}")]
    Lost(String),
    /// The service account or user lacks a right; the message says which.
    #[error("{0}")]
    Forbidden(String),
    /// The API server or konductor did not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    /// What the API server's answer to an operation on an object means.
    pub(crate) fn of(error: &kube::Error, doing: &str) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status, doing),
            kube::Error::Auth(error) => Self::Forbidden(format!("{doing}: the credentials could not be used: {error}")),
            error => Self::Unavailable(format!("{doing}: {}", with_causes(error))),
        }
    }

    /// The same of a watch; `None` if it mends itself.
    pub(crate) fn of_watch(error: &watcher::Error, doing: &str) -> Option<Self> {
        let error = match error {
            watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                Self::of(error, doing)
            }
            watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => return None,
        };
        matches!(error, Self::Forbidden(_) | Self::NotFound(_)).then_some(error)
    }

    fn of_status(status: &Status, doing: &str) -> Self {
        let said = status.message.trim();
        match (status.code, status.reason.as_str()) {
            (403, _) if said.contains("is being terminated") => Self::Denied(format!("{doing}: {said}")),
            (401, _) => Self::Forbidden(format!("{doing}: the API server does not know who asks: {said}")),
            // Its message names user, verb, resource and namespace: the rule that is missing.
            (403, _) => Self::Forbidden(format!("{doing}: {said}")),
            // What has no name in the answer is the kind itself.
            (404, _) if said.is_empty() || said.contains("could not find the requested resource") || said.contains("page not found") => {
                Self::Unavailable(format!("{doing}: the cluster has no such kind; is konductor installed?"))
            }
            (404, _) => Self::NotFound(format!("{doing}: {said}")),
            (429 | 500..=599, _) => Self::Unavailable(format!("{doing}: {said}")),
            _ => Self::Denied(format!("{doing}: {said}")),
        }
    }
}

/// An error and what caused it; kube's own words name only the outermost.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, reason: &str, message: &str) -> Error {
        Error::of(&kube::Error::Api(Status::failure(message, reason).with_code(code).boxed()), "asking for mutex/db")
    }

    #[test]
    fn a_missing_right_is_named() {
        let said = "claims.konductor.io is forbidden: User \"x\" cannot create resource \"claims\" in API group \"konductor.io\" in the namespace \"shop\"";
        assert_eq!(of(403, "Forbidden", said), Error::Forbidden(format!("asking for mutex/db: {said}")));
    }

    #[test]
    fn each_answer_means_something_else() {
        assert!(
            matches!(of(404, "NotFound", "the server could not find the requested resource"), Error::Unavailable(text) if text.contains("installed"))
        );
        assert!(matches!(of(404, "NotFound", "mutexes.konductor.io \"db\" not found"), Error::NotFound(_)));
        assert!(matches!(of(422, "Invalid", "spec.permits: Invalid value"), Error::Denied(_)));
        assert!(matches!(of(503, "ServiceUnavailable", "etcd is away"), Error::Unavailable(_)));
        assert!(matches!(of(401, "Unauthorized", "Unauthorized"), Error::Forbidden(_)));
        assert!(matches!(of(403, "Forbidden", "unable to create: namespace shop is being terminated"), Error::Denied(_)));
    }
}

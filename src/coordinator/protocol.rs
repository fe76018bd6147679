//! What the agent and the coordinator say to each other: JSON over HTTPS, the Pod-bound token as bearer.
//!
//! `POST /v1/acquire` answers with one [`Progress`] a line until it is granted or refused; `POST /v1/verify` with [`Verified`];
//! `POST /v1/release` with an empty object. Errors are an HTTP status and a [`Problem`]. Requests have no body: what a Pod may ask stands in
//! its annotations.

use serde::{Deserialize, Serialize};

/// A line of the stream that answers `POST /v1/acquire`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Progress {
    /// The Pod waits.
    Waiting {
        /// For what and behind whom, for people.
        message: String,
    },
    /// The session is alive; comes every five seconds.
    Heartbeat,
    /// The Pod holds all that it asked for. The last line.
    Granted {
        /// One fencing token a hold, in canonical order.
        tokens: Vec<Token>,
    },
    /// The Pod will not hold. The last line.
    Refused {
        /// Why, for the exit code.
        reason: Reason,
        /// Why, for people.
        message: String,
    },
}

/// The fencing token of one hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What is held, like `mutex/db`.
    pub target: String,
    /// Larger than the token of every earlier hold of the same primitive.
    pub token: i64,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Its `timeout` is over.
    TimedOut,
    /// It may not hold at all.
    Denied,
}

/// The answer to `POST /v1/verify`: whether the Pod holds all that its annotations say, by a live read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether it holds.
    pub held: bool,
    /// One fencing token a hold, if it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
    /// What is missing, for people, if it does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What went wrong, for people.
    pub error: String,
}

//! What the agent and the coordinator say to each other: JSON over HTTPS, the Pod-bound token as bearer.
//!
//! `POST /v1/acquire` answers with one [`Progress`] a line until it is granted or refused; `POST /v1/verify` with [`Verified`];
//! `POST /v1/release` with an empty object. What wraps a command also asks `POST /v1/held`, which answers with [`Held`], and says [`Ended`] to
//! `POST /v1/ended`, which answers with an empty object; no other request has a body: what a Pod may ask stands in its annotations. Errors are an HTTP status and
//! a [`Problem`]; 429 asks to come back later. Each connection carries one request. An agent may ask to upgrade an acquire session to [`LINES`]: the same lines,
//! without HTTP around them.

use serde::{Deserialize, Serialize};

/// What an acquire session may be upgraded to: its lines, without HTTP. A session lasts long, and all the while an HTTP server would keep buffers for requests that
/// never come.
pub const LINES: &str = "konductor-lines";

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
        /// One fencing token a hold, in canonical order. What wraps a command is told those of the WaitGroups that it joined too.
        tokens: Vec<Token>,
    },
    /// There is nothing to do for a wrapped command: somebody has done it, or does it and the Pod does not wait for that. The last line.
    Skipped {
        /// Why, for people.
        message: String,
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

/// The answer to `POST /v1/held`: what the Pod holds of all that its annotations say, by live reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// One token a hold.
    pub holds: Vec<Token>,
}

/// What wraps a command says: it does not run under these holds any more, and never will again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The holds, each by its token: a later hold of the same primitive has another one.
    pub holds: Vec<Token>,
    /// Whether the command succeeded under them; `None` where an earlier run of the container had them.
    pub succeeded: Option<bool>,
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What went wrong, for people.
    pub error: String,
}

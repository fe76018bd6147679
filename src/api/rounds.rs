//! Rounds: what is finished stays finished until somebody starts a new round by hand, visibly.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The part of the status of those kinds that can be finished: Barrier, Gate, Once and WaitGroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoundStatus {
    /// How many times it was reset. What is finished stays finished within a round.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub round: i64,
    /// When this round began, if it is not the first one. Timeouts count from here; what happened before does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::optional_time")]
    pub round_began: Option<Time>,
    /// UIDs of the Claims whose operation was applied, as long as these exist: so each is applied once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::uids")]
    pub applied: Vec<String>,
}

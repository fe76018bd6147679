//! What was seen: each revision of konductor's objects in etcd, and what really ran. A history is lines of JSON in a file, so that it can be judged again.

use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of a history.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "saw", rename_all = "lowercase")]
pub enum Line {
    Revision(Revision),
    Run(Run),
}

/// What a revision of etcd made of one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revision {
    /// When it was seen, which is later than when it was: seconds of the machine's monotonic clock.
    pub at: f64,
    pub revision: i64,
    /// Plural and name of the object, such as `mutexes/db`.
    pub key: String,
    /// How many times the key was written since it was created; 0 of a deletion.
    pub version: i64,
    /// The object; nothing if it was deleted.
    pub value: Option<Value>,
}

/// A time in which somebody used what a primitive guards, by their own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What guarded it, such as `mutexes/db`.
    pub lane: String,
    /// Who: the name of a Claim or of a Pod.
    pub by: String,
    pub token: i64,
    #[serde(default = "one")]
    pub permits: i64,
    #[serde(default)]
    pub reads: bool,
    pub from: f64,
    pub to: f64,
    /// It was cut off, or deleted by force: from then on its hold may be given to the next although it still runs, and nothing but its smaller token keeps it away
    /// from what the lane guards.
    #[serde(default)]
    pub forfeit: Option<f64>,
}

impl Run {
    /// Whether its hold may be another's at this time, although it runs.
    pub fn has_forfeited(&self, at: f64) -> bool {
        self.forfeit.is_some_and(|from| at >= from)
    }
}

const fn one() -> i64 {
    1
}

/// Seconds of the machine's monotonic clock; Pods read the same one.
pub fn now() -> f64 {
    let text = fs::read_to_string("/proc/uptime").expect("this runs on Linux");
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).expect("seconds")
}

/// Reads a history from a file.
pub fn read(path: &str) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {error}: {line}"))).collect()
}

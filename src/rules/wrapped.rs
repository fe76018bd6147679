//! What a Pod's statuses prove about a wrapped command. Its container may run again, so that an end belongs to one run, and a run is known by what it held:
//! when it succeeded, what wraps the command has written its tokens into the container's termination message, beside which the kubelet puts the exit code.

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod};

use super::evidence::stays_down;
use crate::api::names::WRAPPER;

/// What stands before the tokens in a termination message.
const MARK: &str = "konductor: ended ";

/// A wrapped command, as its Pod's statuses show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrapped {
    /// Whether its container runs: the command, or what wraps it and waits.
    pub running: bool,
    /// Whether its container has ended and no other run of it follows. Once true it stays true. Never of an init container: a Pod whose sandbox is made anew
    /// runs those again.
    pub over: bool,
    /// Whether its container has ended, and is not started again as long as all goes well.
    pub rests: bool,
    /// Whether the last run succeeded; `None` while one goes on.
    pub last: Option<bool>,
    /// What the runs held that left their last words, as far as they are still shown.
    ends: Vec<End>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    succeeded: bool,
    holds: Vec<(String, i64)>,
}

impl Wrapped {
    /// Reads a Pod; `None` if no command of it is wrapped.
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let is_wrapped = |container: &&Container| container.command.iter().flatten().next().is_some_and(|word| word == WRAPPER);
        let app = spec.containers.iter().find(is_wrapped);
        let container = app.or_else(|| spec.init_containers.iter().flatten().find(is_wrapped))?;
        let status = pod.status.as_ref();
        let statuses = match app {
            Some(_) => status.and_then(|status| status.container_statuses.as_deref()),
            None => status.and_then(|status| status.init_container_statuses.as_deref()),
        };
        let Some(shown) = statuses.unwrap_or_default().iter().find(|status| status.name == container.name) else {
            return Some(Self::default());
        };
        let ContainerStatus { state, last_state, .. } = shown;
        let now = state.as_ref().and_then(|state| state.terminated.as_ref());
        let before = last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let policy = spec.restart_policy.as_deref().unwrap_or("Always");
        let over = app.is_some() && now.is_some_and(|end| stays_down(container, policy, end.exit_code));
        Some(Self {
            running: state.as_ref().is_some_and(|state| state.running.is_some()),
            over,
            rests: over || app.is_none() && now.is_some_and(|end| end.exit_code == 0),
            last: now.map(|end| end.exit_code == 0),
            ends: now.into_iter().chain(before).filter_map(end).collect(),
        })
    }

    /// Whether the run that held this target with this token has ended, and how; `None` if the statuses do not say that it has.
    pub fn end_of(&self, target: &str, token: i64) -> Option<bool> {
        let of_it = |end: &&End| end.holds.iter().any(|(held, its_token)| held == target && *its_token == token);
        self.ends.iter().find(of_it).map(|end| end.succeeded)
    }
}

/// What a run writes that has ended well and had these holds.
pub fn last_words<'a>(holds: impl Iterator<Item = (&'a str, i64)>) -> String {
    let holds: Vec<String> = holds.map(|(target, token)| format!("{target}={token}")).collect();
    format!("{MARK}{}", holds.join(" "))
}

fn end(terminated: &ContainerStateTerminated) -> Option<End> {
    let words = terminated.message.as_deref()?.lines().rev().find_map(|line| line.strip_prefix(MARK))?;
    let hold = |word: &str| word.rsplit_once('=').and_then(|(target, token)| Some((target.to_owned(), token.parse().ok()?)));
    Some(End { succeeded: terminated.exit_code == 0, holds: words.split(' ').filter_map(hold).collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A Pod whose init container or app container `work` is wrapped, with this status of it.
    fn pod(init: bool, policy: &str, status: &Value) -> Option<Wrapped> {
        let wrapped = json!([{ "name": "work", "command": [WRAPPER, "agent", "wrap", "--", "migrate"] }]);
        let plain = json!([{ "name": "app", "command": ["serve"] }]);
        let mut status = status.clone();
        for (field, value) in
            [("name", json!("work")), ("image", json!("")), ("imageID", json!("")), ("ready", json!(false)), ("restartCount", json!(0))]
        {
            status[field] = value;
        }
        let (containers, inits, at) =
            if init { (plain, wrapped, "initContainerStatuses") } else { (wrapped, json!([]), "containerStatuses") };
        let pod = json!({
            "metadata": { "name": "p" },
            "spec": { "restartPolicy": policy, "containers": containers, "initContainers": inits },
            "status": { at: [status] },
        });
        Wrapped::of(&serde_json::from_value(pod).unwrap())
    }

    fn ended(code: i32, message: &str) -> Value {
        json!({ "terminated": { "exitCode": code, "message": message } })
    }

    #[test]
    fn a_run_is_known_by_what_it_held() {
        let words = format!("two rows written\n{}", last_words([("mutex/db", 7), ("once/shop/x", 8)].into_iter()));
        for status in [
            json!({ "state": ended(0, &words) }),
            json!({ "state": { "running": {} }, "lastState": ended(0, &words) }),
            json!({ "state": { "waiting": {} }, "lastState": ended(0, &format!("{words}\n")) }),
        ] {
            let seen = pod(true, "Always", &status).unwrap();
            assert_eq!(seen.end_of("mutex/db", 7), Some(true), "{status}");
            assert_eq!(seen.end_of("once/shop/x", 8), Some(true));
            // Tokens of two primitives may be the same number.
            assert_eq!(seen.end_of("mutex/db", 8), None);
            assert_eq!(seen.end_of("mutex/d", 7), None);
        }
        let failed = pod(true, "Always", &json!({ "state": ended(137, &words) })).unwrap();
        assert_eq!(failed.end_of("mutex/db", 7), Some(false), "killed between its last words and its end");
    }

    #[test]
    fn an_end_without_last_words_is_no_runs_unless_none_follows() {
        for (policy, code, over) in
            [("Never", 0, true), ("Never", 1, true), ("OnFailure", 0, true), ("OnFailure", 1, false), ("Always", 0, false)]
        {
            let seen = pod(false, policy, &json!({ "state": ended(code, "bye") })).unwrap();
            assert_eq!((seen.over, seen.rests, seen.end_of("mutex/db", 7)), (over, over, None), "{policy} {code}");
            // A Pod whose sandbox is made anew runs its init containers again.
            let init = pod(true, policy, &json!({ "state": ended(code, "bye") })).unwrap();
            assert_eq!((init.over, init.rests, init.last), (false, code == 0, Some(code == 0)), "{policy} {code}");
        }
    }

    #[test]
    fn a_pod_without_a_wrapped_command_has_none() {
        let pod: Pod =
            serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [{ "name": "app", "args": [WRAPPER] }] } })).unwrap();
        assert_eq!(Wrapped::of(&pod), None);
        assert!(Wrapped::default().end_of("mutex/db", 7).is_none());
    }

    #[test]
    fn words_that_only_look_like_its_own_prove_nothing() {
        for words in ["konductor: ended", "konductor: ended mutex/db", "konductor: ended mutex/db=x", "says konductor: ended mutex/db=7"] {
            assert_eq!(pod(true, "Never", &json!({ "state": ended(0, words) })).unwrap().end_of("mutex/db", 7), None, "{words}");
        }
    }
}

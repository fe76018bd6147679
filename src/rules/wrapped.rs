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

//! What the objects of the API prove: whether a Pod's app containers can still run, how far its acquire step is, whether a Job is over.
//!
//! Phase alone proves nothing here: it comes seconds after the containers ended, and garbage collection writes it for Pods whose node is silent.
//! A SIGTERM to the sidecar proves nothing either. What counts are the container statuses, which only the node's kubelet writes.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, ContainerState, ContainerStatus, Pod},
};

use crate::api::names;

/// How far the acquire step of a Pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireStep {
    /// Not started, or between two attempts.
    Pending,
    /// Running: the Pod waits.
    Running,
    /// Ended well: the containers behind it may start.
    Passed,
    /// Ended badly.
    Failed,
}

/// Reads the state of the acquire step from the Pod's init container statuses.
pub fn acquire_step(pod: &Pod) -> AcquireStep {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    match state_of(statuses, names::ACQUIRE_CONTAINER) {
        Some(ContainerState { running: Some(_), .. }) => AcquireStep::Running,
        Some(ContainerState { terminated: Some(end), .. }) if end.exit_code == 0 => AcquireStep::Passed,
        Some(ContainerState { terminated: Some(_), .. }) => AcquireStep::Failed,
        _ => AcquireStep::Pending,
    }
}

/// Whether no app container of this Pod can run any more. Once true it stays true.
///
/// An app container is done when its status says terminated and nothing will start it again: the restart policy forbids it, or the
/// Pod's phase is terminal. A container that never started is done only with a terminal phase.
pub fn pod_ended(pod: &Pod) -> bool {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return false };
    let terminal = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let apps_done = spec.containers.iter().all(|container| match state_of(statuses, &container.name) {
        Some(ContainerState { terminated: Some(end), .. }) => terminal || stays_down(container, policy, end.exit_code),
        Some(ContainerState { running: Some(_), .. }) => false,
        Some(ContainerState { waiting: _, .. }) | None => terminal,
    });
    // A terminal phase with an init container still running was not written by the kubelet.
    let inits = status.init_container_statuses.as_deref().unwrap_or_default();
    let mut ordinary_inits =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() != Some("Always"));
    apps_done && !ordinary_inits.any(|container| matches!(state_of(inits, &container.name), Some(ContainerState { running: Some(_), .. })))
}

/// Whether a container that ended with this code stays down. A container with restart rules of its own is left to the phase.
pub(super) fn stays_down(container: &Container, pod_policy: &str, exit_code: i32) -> bool {
    if container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
        return false;
    }
    match container.restart_policy.as_deref().unwrap_or(pod_policy) {
        "Never" => true,
        "OnFailure" => exit_code == 0,
        _ => false,
    }
}

/// Whether the fate of a Job is decided: it is Complete or Failed, or will be as soon as its Pods have ended. It makes no Pods any more.
pub fn job_terminal(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "SuccessCriteriaMet" | "Failed" | "FailureTarget") && condition.status == "True"
    })
}

/// How a Pod that has ended came out, and when: well if every app container exited with 0. `None` while one can still run, or where nobody will ever know.
pub fn pod_outcome(pod: &Pod) -> Option<(bool, Timestamp)> {
    if !pod_ended(pod) {
        return None;
    }
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    let ends: Vec<_> = spec.containers.iter().filter_map(|container| state_of(statuses, &container.name)?.terminated.as_ref()).collect();
    let at = ends.iter().filter_map(|end| end.finished_at.as_ref()).map(|time| time.0).max().unwrap_or_default();
    if ends.len() < spec.containers.len() {
        return (status.phase.as_deref() == Some("Failed")).then_some((false, at));
    }
    Some((ends.iter().all(|end| end.exit_code == 0), at))
}

/// Whether an app container of this Pod has ever started.
pub fn pod_started(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().any(|status| {
        let state = status.state.as_ref();
        status.restart_count > 0 || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

/// How a Job came out whose fate is decided, and when. One that konductor skipped has not succeeded at anything, nor failed.
pub fn job_outcome(job: &Job) -> Option<(bool, Timestamp)> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let decided =
        |types: [&str; 2]| conditions.iter().find(|condition| condition.status == "True" && types.contains(&condition.type_.as_str()));
    let (succeeded, condition) = match (decided(["Complete", "SuccessCriteriaMet"]), decided(["Failed", "FailureTarget"])) {
        (Some(condition), _) => (true, condition),
        (None, Some(condition)) => (false, condition),
        (None, None) => return None,
    };
    let at = condition.last_transition_time.as_ref().map(|time| time.0).unwrap_or_default();
    (condition.reason.as_deref() != Some(names::SKIPPED)).then_some((succeeded, at))
}

fn state_of<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerState> {
    statuses.iter().find(|status| status.name == name)?.state.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(policy: &str, phase: &str, containers: &Value) -> Pod {
        let names: Vec<Value> = containers.as_array().unwrap().iter().map(|status| json!({"name": status["name"]})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"restartPolicy": policy, "containers": names, "initContainers": [{"name": "konductor-acquire"}]},
            "status": {"phase": phase, "containerStatuses": containers, "initContainerStatuses": []},
        }))
        .unwrap()
    }

    fn state(name: &str, state: &Value) -> Value {
        json!({"name": name, "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0})
    }

    fn ended(name: &str, code: i32) -> Value {
        state(name, &json!({"terminated": {"exitCode": code}}))
    }

    fn running(name: &str) -> Value {
        state(name, &json!({"running": {}}))
    }

    fn waiting(name: &str) -> Value {
        state(name, &json!({"waiting": {}}))
    }

    #[test]
    fn all_app_containers_must_have_ended() {
        assert!(pod_ended(&pod("Never", "Running", &json!([ended("a", 0), ended("b", 1)]))));
        assert!(!pod_ended(&pod("Never", "Running", &json!([ended("a", 0), running("b")]))));
        assert!(!pod_ended(&pod("Never", "Pending", &json!([waiting("a")]))));
    }

    #[test]
    fn a_container_that_will_be_restarted_has_not_ended() {
        assert!(pod_ended(&pod("OnFailure", "Running", &json!([ended("a", 0)]))));
        assert!(!pod_ended(&pod("OnFailure", "Running", &json!([ended("a", 1)]))));
        assert!(!pod_ended(&pod("Always", "Running", &json!([ended("a", 0)]))));
        assert!(pod_ended(&pod("Always", "Succeeded", &json!([ended("a", 0)]))));
    }

    #[test]
    fn deletion_alone_ends_nothing() {
        let mut deleted = pod("OnFailure", "Running", &json!([ended("a", 1)]));
        deleted.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap()));
        assert!(!pod_ended(&deleted), "its kubelet may have restarted the container before it saw the deletion");
    }

    #[test]
    fn a_terminal_phase_over_running_containers_was_not_written_by_the_kubelet() {
        assert!(!pod_ended(&pod("Never", "Failed", &json!([running("a")]))));
        assert!(pod_ended(&pod("Never", "Failed", &json!([waiting("a")]))));
        assert!(pod_ended(&pod("Never", "Failed", &json!([]))));
    }

    #[test]
    fn a_container_with_a_policy_of_its_own_follows_it() {
        let mut own = pod("Always", "Running", &json!([ended("a", 0)]));
        own.spec.as_mut().unwrap().containers[0].restart_policy = Some("Never".into());
        assert!(pod_ended(&own));
        own.spec.as_mut().unwrap().containers[0].restart_policy_rules =
            Some(vec![serde_json::from_value(json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [0]}})).unwrap()]);
        assert!(!pod_ended(&own));
    }

    #[test]
    fn the_acquire_step_is_read_from_its_status() {
        let mut waiting = pod("Never", "Pending", &json!([waiting("a")]));
        assert_eq!(acquire_step(&waiting), AcquireStep::Pending);
        for (value, step) in [
            (running("konductor-acquire"), AcquireStep::Running),
            (ended("konductor-acquire", 0), AcquireStep::Passed),
            (ended("konductor-acquire", 3), AcquireStep::Failed),
        ] {
            waiting.status.as_mut().unwrap().init_container_statuses = Some(vec![serde_json::from_value(value).unwrap()]);
            assert_eq!(acquire_step(&waiting), step);
        }
    }
}

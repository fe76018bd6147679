//! What is allowed but will hurt.

use serde_json::Value;

use super::{
    pod::never_ends,
    shape::{at, list, text},
    suspend::suspends,
    wrap,
};
use crate::plan::{Item, Kind, Mode, OnLost, Plan, Role, Strategy, Subject};

/// How `konductor-acquire` ends when it does not get the hold: timed out, denied, unavailable, bad configuration.
const ACQUIRE_CODES: [i64; 4] = [3, 4, 5, 78];

/// Warnings about the Pod that holds, or a template of such Pods.
pub(super) fn pod(pod: &Value, plan: &Plan, subject: Subject) -> Vec<String> {
    let mut warnings = Vec::new();
    // Its clock starts with the Pod on its node: behind a gate, or in a suspended Job, it stands still.
    let waits = plan.steps().next().is_some();
    let in_pod = waits && plan.strategy.unwrap_or(Strategy::Init) == Strategy::Init;
    if plan.wraps() {
        warnings.extend(wrap::warnings(pod, plan));
    }
    if waits && (in_pod || plan.wraps()) && at(pod, &["spec", "activeDeadlineSeconds"]).is_some() {
        warnings
            .push("konductor: activeDeadlineSeconds of the Pod also ticks while it waits; `;timeout=` limits the waiting alone".to_owned());
    }
    // One whose controller makes another is deleted, and so gives back what it has.
    let bare = subject == Subject::Pod && list(pod, &["metadata", "ownerReferences"]).is_empty();
    let impatient = bare && plan.holds().any(|item| item.timeout.is_some());
    if in_pod && plan.holds().count() > 1 && impatient && text(pod, &["spec", "restartPolicy"]) != Some("Never") {
        warnings.push(
            "konductor: a Pod that times out on one of several holds keeps those it has for as long as its init containers are restarted; set restartPolicy: Never"
                .to_owned(),
        );
    }
    if plan.on_lost == OnLost::Ignore && !plan.fencing && plan.tokens().next().is_some() {
        warnings.push(
            "konductor: with on-lost=ignore a Pod whose hold was taken goes on beside the next holder; only a fencing token, checked by what it writes to, \
             protects that: add fencing=true"
                .to_owned(),
        );
    }
    let each = matches!(subject, Subject::Pod | Subject::PodTemplate);
    let joined = plan.items.iter().find(|item| item.role == Role::Join);
    if let Some(item) = joined.filter(|_| each && !plan.wraps() && at(pod, &["spec"]).is_some_and(never_ends)) {
        warnings.push(format!(
            "konductor: the containers of this Pod are always started again, so that {}/{} counts it until it is deleted",
            item.target.kind, item.target.name
        ));
    }
    warnings
}

/// Warnings about a Job that holds. `spec` is the Job's.
pub(super) fn job(spec: &Value, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    let waits = plan.steps().next().is_some();
    // The clock of a suspended Job stands still, and starts anew when it is resumed.
    if waits && !suspends(plan) && at(spec, &["activeDeadlineSeconds"]).is_some() {
        warnings
            .push("konductor: activeDeadlineSeconds of the Job also ticks while it waits; `;timeout=` limits the waiting alone".to_owned());
    }
    let parallelism = at(spec, &["parallelism"]).and_then(Value::as_i64).filter(|parallelism| *parallelism > 1);
    if let Some(parallelism) = parallelism.filter(|_| plan.holds().next().is_some()) {
        warnings.push(format!(
            "konductor: the Job holds once, so its {parallelism} parallel Pods share the hold; to let each Pod hold, annotate spec.template instead"
        ));
    }
    warnings.extend(failure_policy(spec, plan).filter(|_| waits));
    warnings
}

/// Warnings about a Job whose Pods hold, each for itself. `spec` is the Job's.
pub(super) fn job_of_holders(spec: &Value, plan: &Plan) -> Vec<String> {
    if plan.steps().next().is_none() {
        return Vec::new();
    }
    let mut warnings: Vec<String> = failure_policy(spec, plan).into_iter().collect();
    if at(spec, &["activeDeadlineSeconds"]).is_some() {
        warnings.push(
            "konductor: activeDeadlineSeconds of the Job also ticks while its Pods wait; `;timeout=` limits the waiting alone".to_owned(),
        );
    }
    warnings
}

/// A `podFailurePolicy` looks at init containers too: a rule without a container's name takes a wait that timed out for a failure of the app. Where the command
/// is wrapped, every rule about its container does.
fn failure_policy(spec: &Value, plan: &Plan) -> Option<String> {
    let rules = list(spec, &["podFailurePolicy", "rules"]);
    let matching = rules.iter().enumerate().find(|(_, rule)| {
        let Some(codes) = at(rule, &["onExitCodes"]) else { return false };
        let listed = |code: i64| list(codes, &["values"]).iter().any(|value| value.as_i64() == Some(code));
        let hit = |code| if text(codes, &["operator"]) == Some("NotIn") { !listed(code) } else { listed(code) };
        let every = text(codes, &["containerName"])
            .is_none_or(|named| plan.wraps() && plan.container.as_deref().is_none_or(|wrapped| wrapped == named));
        every && ACQUIRE_CODES.into_iter().any(hit)
    });
    matching.map(|(index, _)| {
        let (whose, right) = match plan.wraps() {
            true => ("a wrapped command that may not run", "leave them out of its values"),
            false => ("konductor-acquire", "give it a containerName"),
        };
        format!("konductor: podFailurePolicy rule {index} also matches exit codes of {whose} (3, 4, 5, 78); {right}")
    })
}

/// What only one holds at a time.
fn held_alone(plan: &Plan) -> Option<&Item> {
    plan.holds().find(|item| match item.role {
        Role::Hold { mode, .. } => item.target.kind != Kind::Semaphore && mode == Mode::Write,
        _ => false,
    })
}

/// More replicas than can run at the same time.
pub(super) fn replicas(spec: &Value, plan: &Plan) -> Option<String> {
    let count = at(spec, &["replicas"]).and_then(Value::as_i64).filter(|count| *count > 1)?;
    let held = held_alone(plan)?;
    Some(format!("konductor: {count} replicas share {}, which one holds at a time: the others wait until it ends", held.target))
}

/// A rolling update that starts the new Pod before it ends the old one: the new one waits for what the old one holds alone.
pub(super) fn rolling_update(kind: &str, spec: &Value, plan: &Plan) -> Option<String> {
    let held = held_alone(plan)?;
    let field = if kind == "Deployment" { "strategy" } else { "updateStrategy" };
    if !["Deployment", "DaemonSet"].contains(&kind) || [Some("Recreate"), Some("OnDelete")].contains(&text(spec, &[field, "type"])) {
        return None;
    }
    // Left out means 25% for a Deployment, rounded up, and nothing for a DaemonSet.
    let surges = match at(spec, &[field, "rollingUpdate", "maxSurge"]) {
        None => kind == "Deployment",
        Some(surge) => surge.as_i64().is_some_and(|count| count > 0) || surge.as_str().is_some_and(|text| !["0", "0%"].contains(&text)),
    };
    let right = if kind == "Deployment" { "strategy.type: Recreate" } else { "updateStrategy.rollingUpdate.maxSurge: 0" };
    surges.then(|| {
        format!("konductor: a rolling update waits for ever: the new Pod waits for {}, which the old one holds until the new one is ready; set {right}", held.target)
    })
}

/// A StatefulSet that makes its next Pod when the last one is ready: the first waits at the meeting point for those that are not made.
pub(super) fn one_after_the_other(kind: &str, spec: &Value, plan: &Plan) -> Option<String> {
    let meeting = plan.items.iter().find(|item| matches!(item.role, Role::Wait { arrive: true, .. }))?;
    let ordered = kind == "StatefulSet" && text(spec, &["podManagementPolicy"]) != Some("Parallel");
    ordered.then(|| {
        format!(
            "konductor: the Pods of a StatefulSet are made one after the other, so that the first waits at {} for others that do not come; \
             set podManagementPolicy: Parallel",
            meeting.target
        )
    })
}

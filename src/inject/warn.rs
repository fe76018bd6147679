//! What is allowed but will hurt.

use serde_json::Value;

use super::shape::{at, list, text};
use crate::plan::{Kind, Plan};

/// How `konductor-acquire` ends when it does not get the hold: timed out, denied, unavailable, bad configuration.
const ACQUIRE_CODES: [i64; 4] = [3, 4, 5, 78];

/// Warnings about the Pod that holds, or a template of such Pods.
pub(super) fn pod(pod: &Value, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    if at(pod, &["spec", "activeDeadlineSeconds"]).is_some() {
        warnings
            .push("konductor: activeDeadlineSeconds of the Pod also ticks while it waits; `;timeout=` limits the waiting alone".to_owned());
    }
    let impatient = plan.steps().any(|item| item.timeout.is_some());
    if plan.steps().count() > 1 && impatient && text(pod, &["spec", "restartPolicy"]) != Some("Never") {
        warnings.push(
            "konductor: a Pod that times out on one of several holds keeps those it has for as long as its init containers are restarted; set restartPolicy: Never"
                .to_owned(),
        );
    }
    warnings
}

/// Warnings about a Job that holds. `spec` is the Job's.
pub(super) fn job(spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if at(spec, &["activeDeadlineSeconds"]).is_some() {
        warnings
            .push("konductor: activeDeadlineSeconds of the Job also ticks while it waits; `;timeout=` limits the waiting alone".to_owned());
    }
    if let Some(parallelism) = at(spec, &["parallelism"]).and_then(Value::as_i64).filter(|parallelism| *parallelism > 1) {
        warnings.push(format!(
            "konductor: the Job holds once, so its {parallelism} parallel Pods share the hold; to let each Pod hold, annotate spec.template instead"
        ));
    }
    warnings.extend(failure_policy(spec));
    warnings
}

/// A `podFailurePolicy` looks at init containers too: a rule without a container's name takes a wait that timed out for a failure of the app.
pub(super) fn failure_policy(spec: &Value) -> Option<String> {
    let rules = list(spec, &["podFailurePolicy", "rules"]);
    let matching = rules.iter().enumerate().find(|(_, rule)| {
        let Some(codes) = at(rule, &["onExitCodes"]) else { return false };
        let listed = |code: i64| list(codes, &["values"]).iter().any(|value| value.as_i64() == Some(code));
        let hit = |code| if text(codes, &["operator"]) == Some("NotIn") { !listed(code) } else { listed(code) };
        at(codes, &["containerName"]).is_none() && ACQUIRE_CODES.into_iter().any(hit)
    });
    matching.map(|(index, _)| {
        format!(
            "konductor: podFailurePolicy rule {index} also matches exit codes of konductor-acquire (3, 4, 5, 78); give it a containerName"
        )
    })
}

/// A rolling update that starts the new Pod before it ends the old one: the new one waits for the mutex that the old one holds.
pub(super) fn rolling_update(kind: &str, spec: &Value, plan: &Plan) -> Option<String> {
    let mutex = plan.holds().find(|item| item.target.kind == Kind::Mutex)?;
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
        format!("konductor: a rolling update waits for ever: the new Pod waits for {}, which the old one holds until the new one is ready; set {right}", mutex.target)
    })
}

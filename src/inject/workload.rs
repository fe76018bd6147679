//! Templates of workloads: nothing is changed there, but a mistake shows when the workload is applied and not as Pods that never come.

use serde_json::Value;

use super::{
    Refusal, Request, copy, pod,
    refusal::Reasons,
    shape::{self, Path, at, text, texts},
    warn,
};
use crate::plan::{Subject, is_ours, parse};

/// Checks the pod template of a workload; returns the warnings.
///
/// # Errors
/// Every mistake in the template's annotations, and what would keep its Pods from being injected.
pub fn validate(request: &Request<'_>) -> Result<Vec<String>, Refusal> {
    let Request { namespace, object, old: _ } = *request;
    let kind = text(object, &["kind"]).unwrap_or_default();
    let path: &Path<'_> = if kind == "CronJob" { &["spec", "jobTemplate", "spec", "template"] } else { &["spec", "template"] };
    let mut reasons = Reasons::default();
    for wrong in shape::wrong_types(object, path) {
        reasons.mistake(wrong);
    }
    reasons.check(object, namespace)?;

    let mut warnings = Vec::new();
    let batch = shape::group(object) == "batch";
    if !batch && let Some(key) = texts(object, &["metadata", "annotations"]).keys().find(|key| is_ours(key)) {
        warnings.push(format!("konductor: {key} on a {kind} itself does nothing; put it on spec.template.metadata.annotations"));
    }
    let Some(template) = at(object, path) else { return Ok(warnings) };
    if kind == "Job" && copy::is_copy(object) {
        return Ok(warnings);
    }
    let mut reasons = Reasons::default();
    match parse(&texts(template, &["metadata", "annotations"]), Subject::PodTemplate) {
        Err(mistakes) => reasons.mistakes(&mistakes),
        Ok(None) => {}
        Ok(Some(plan)) => {
            if let Some(target) = plan.twice_in(namespace) {
                reasons.mistake(format!("konductor.io/acquire: {target} is named twice, with its namespace and without"));
            }
            reasons.all(pod::check_template(template, &plan, namespace).under(&format!("{}.", path.join("."))));
            warnings.extend(warn::pod(template, &plan));
            let spec = at(object, &["spec"]).unwrap_or(&Value::Null);
            warnings.extend(warn::rolling_update(kind, spec, &plan));
            let job = if kind == "CronJob" { at(spec, &["jobTemplate", "spec"]) } else { Some(spec).filter(|_| batch) };
            warnings.extend(job.and_then(warn::failure_policy));
            if let Some(job) = job
                && at(job, &["activeDeadlineSeconds"]).is_some()
            {
                warnings.push(
                    "konductor: activeDeadlineSeconds of the Job also ticks while its Pods wait; `;timeout=` limits the waiting alone"
                        .to_owned(),
                );
            }
        }
    }
    reasons.check(object, namespace)?;
    Ok(warnings)
}

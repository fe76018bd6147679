//! Templates of workloads: nothing is changed there, but a mistake shows when the workload is applied and not as Pods that never come.

use serde_json::Value;

use super::{
    Refusal, Request, copy, pod, read,
    refusal::Reasons,
    shape::{self, Path, at, text, texts},
    warn, wrap,
};
use crate::plan::{Subject, is_ours};

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
    let subject = Subject::PodTemplate;
    if let Some(plan) = read::plan(&texts(template, &["metadata", "annotations"]), subject, namespace, &mut reasons) {
        reasons.all(pod::check_template(template, &plan, subject, namespace).under(&format!("{}.", path.join("."))));
        warnings.extend(warn::pod(template, &plan, subject));
        let spec = at(object, &["spec"]).unwrap_or(&Value::Null);
        if !wrap::ends_before_the_app(template, &plan) {
            warnings.extend(warn::rolling_update(kind, spec, &plan));
            warnings.extend(warn::replicas(spec, &plan));
        }
        warnings.extend(warn::one_after_the_other(kind, spec, &plan));
        let job = if kind == "CronJob" { at(spec, &["jobTemplate", "spec"]) } else { Some(spec).filter(|_| batch) };
        warnings.extend(job.map(|job| warn::job_of_holders(job, &plan)).unwrap_or_default());
    }
    reasons.check(object, namespace)?;
    Ok(warnings)
}

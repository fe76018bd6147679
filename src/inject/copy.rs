//! Jobs and CronJobs: their annotations are copied one level down, so that each Pod carries what it acts on.
//!
//! The copies are marked, which tells them from annotations that the user wrote on the template: those mean that each Pod (or Job) holds for
//! itself, and on both levels at once they would contradict each other.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Outcome, Refusal, Request, Settings,
    edit::Edit,
    pod, read,
    refusal::Reasons,
    shape::{self, Path, at, controlled_by, flag, list, text, texts},
    suspend, warn,
};
use crate::{
    api::names::{COPIED_FROM, COPIED_FROM_CRON_JOB, COPIED_FROM_JOB, INJECTED_LABEL, SUSPENDED},
    plan::{Plan, Subject},
};

type Keys = BTreeMap<String, String>;

const OWN: &Path<'_> = &["metadata", "annotations"];
const POD_TEMPLATE: &Path<'_> = &["spec", "template", "metadata", "annotations"];
const JOB_TEMPLATE: &Path<'_> = &["spec", "jobTemplate", "metadata", "annotations"];
const CRON_POD_TEMPLATE: &Path<'_> = &["spec", "jobTemplate", "spec", "template", "metadata", "annotations"];

/// A Job: what it asks for is settled when it starts.
pub(super) fn job(settings: &Settings, request: &Request<'_>) -> Result<Outcome, Refusal> {
    let Request { namespace, object: job, old } = *request;
    well_formed(job, namespace, &["spec", "template"])?;
    match old {
        Some(old) if settled(old) => frozen(job, old, namespace),
        _ => open_job(settings, request),
    }
}

/// Whether a Job may have started, or is over without having started: one that was skipped.
fn settled(job: &Value) -> bool {
    let over = |condition: &Value| {
        [Some("Complete"), Some("Failed")].contains(&text(condition, &["type"])) && text(condition, &["status"]) == Some("True")
    };
    !flag(job, &["spec", "suspend"]) || at(job, &["status", "startTime"]).is_some() || list(job, &["status", "conditions"]).iter().any(over)
}

/// A Job that is being created, or that never started: its template can still change.
fn open_job(_: &Settings, request: &Request<'_>) -> Result<Outcome, Refusal> {
    let Request { namespace, object: job, old } = *request;
    let mut edit = Edit::new(job);
    let mut reasons = Reasons::default();
    let level = Level { from: OWN, to: POD_TEMPLATE, mark: COPIED_FROM_JOB, holder: Subject::Job, each: "Pod" };
    let plan = level.copy(&mut edit, job, old, namespace, &mut reasons);
    let own_status = shape::status_keys(&texts(job, OWN));
    let made_by_cron_job = controlled_by(job, COPIED_FROM_CRON_JOB);
    for (key, value) in &own_status {
        if key != SUSPENDED && !(key == COPIED_FROM && value == COPIED_FROM_CRON_JOB && made_by_cron_job) {
            edit.remove(&["metadata", "annotations", key]);
        }
    }
    let mut warnings = Vec::new();
    match &plan {
        Some(plan) => {
            edit.set(&["metadata", "labels", INJECTED_LABEL], "true".into());
            if let Some(template) = at(job, &["spec", "template"]) {
                reasons.all(pod::check_template(template, plan, Subject::Job, namespace).under("spec.template."));
                warnings.extend(warn::pod(template, plan, Subject::Job));
            }
            warnings.extend(at(job, &["spec"]).map(|spec| warn::job(spec, plan)).unwrap_or_default());
        }
        None => edit.remove(&["metadata", "labels", INJECTED_LABEL]),
    }
    suspend::job(&mut edit, job, old, plan.as_ref(), &mut reasons);
    let owes = plan.is_some_and(|plan| plan.owes_outcome());
    if !owes || may_be_kept(job, old) {
        pod::finalizer(&mut edit, owes);
    }
    reasons.check(job, namespace)?;
    Ok(edit.finish(warnings))
}

/// A Job that may have started: its holder is on record. A changed annotation would mean something else than what is held, so it is
/// refused; what only konductor writes, and the copies on the immutable template, are put back to what they were.
fn frozen(job: &Value, old: &Value, namespace: &str) -> Result<Outcome, Refusal> {
    let mut edit = Edit::new(job);
    let mut reasons = Reasons::default();
    let (now, before) = (texts(job, OWN), texts(old, OWN));
    let right = "what a Job holds is settled when it starts; delete the Job and create it anew";
    for (key, what) in differences(&shape::user_keys(&now), &shape::user_keys(&before)) {
        reasons.forbid(format!("{key}: cannot be {what}: {right}"));
    }
    let mut marks = shape::status_keys(&before);
    if !flag(old, &["spec", "suspend"]) {
        marks.remove(SUSPENDED);
    }
    restore(&mut edit, OWN, &shape::status_keys(&now), &marks);
    let label = &["metadata", "labels", INJECTED_LABEL];
    match at(old, label) {
        Some(value) => edit.set(label, value.clone()),
        None => edit.remove(label),
    }
    if pod::has_finalizer(old) && may_be_kept(job, Some(old)) {
        pod::finalizer(&mut edit, true);
    }
    // `kubectl replace` with the original manifest takes the copies away.
    let (template, template_before) = (texts(job, POD_TEMPLATE), texts(old, POD_TEMPLATE));
    restore(&mut edit, POD_TEMPLATE, &shape::status_keys(&template), &shape::status_keys(&template_before));
    for (key, value) in shape::user_keys(&template_before) {
        if !template.contains_key(&key) {
            edit.set(&[POD_TEMPLATE, &[&key]].concat(), value.into());
        }
    }
    for (key, what) in differences(&shape::user_keys(&template), &shape::user_keys(&template_before)) {
        if what != Difference::Removed {
            reasons.forbid(format!("{key}: cannot be {what} on the pod template: {right}"));
        }
    }
    reasons.check(job, namespace)?;
    Ok(edit.finish(Vec::new()))
}

/// Whether a Job that owes its outcome may be kept for it: not where somebody has just let it go, nor anew when it is being deleted already.
fn may_be_kept(job: &Value, old: Option<&Value>) -> bool {
    old.is_none_or(|old| match pod::has_finalizer(old) {
        true => pod::has_finalizer(job) || is_replaced(job, old),
        false => at(old, &["metadata", "deletionTimestamp"]).is_none(),
    })
}

/// Whether an update is `kubectl replace` with the original manifest: it takes away all that konductor wrote, and nobody means it.
pub(super) fn is_replaced(job: &Value, old: &Value) -> bool {
    let label = &["metadata", "labels", INJECTED_LABEL];
    at(old, label).is_some() && at(job, label).is_none()
}

/// A CronJob: each Job that it makes takes the copies of that time.
pub(super) fn cron_job(_: &Settings, request: &Request<'_>) -> Result<Outcome, Refusal> {
    let Request { namespace, object: cron_job, old } = *request;
    well_formed(cron_job, namespace, &["spec", "jobTemplate", "spec", "template"])?;
    let mut edit = Edit::new(cron_job);
    let mut reasons = Reasons::default();
    let level = Level { from: OWN, to: JOB_TEMPLATE, mark: COPIED_FROM_CRON_JOB, holder: Subject::CronJob, each: "Job" };
    let mut plan = level.copy(&mut edit, cron_job, old, namespace, &mut reasons);
    for key in shape::status_keys(&texts(cron_job, OWN)).keys() {
        edit.remove(&["metadata", "annotations", key]);
    }
    for key in shape::status_keys(&texts(cron_job, CRON_POD_TEMPLATE)).keys() {
        edit.remove(&[CRON_POD_TEMPLATE, &[key]].concat());
    }
    // Without annotations of its own, the jobTemplate's count: each Job holds.
    if plan.is_none() {
        plan = read::plan(&texts(edit.object(), JOB_TEMPLATE), Subject::Job, namespace, &mut reasons);
    }
    let mut warnings = Vec::new();
    if let Some(plan) = &plan {
        for key in shape::user_keys(&texts(cron_job, CRON_POD_TEMPLATE)).keys() {
            reasons.mistake(both(key, Subject::CronJob, "spec.jobTemplate.spec.template", "Pod"));
        }
        if let Some(job) = at(cron_job, &["spec", "jobTemplate"]) {
            suspend::template(job, plan, &mut reasons);
            if let Some(template) = at(job, &["spec", "template"]) {
                reasons.all(pod::check_template(template, plan, Subject::CronJob, namespace).under("spec.jobTemplate.spec.template."));
                warnings.extend(warn::pod(template, plan, Subject::CronJob));
            }
            warnings.extend(at(job, &["spec"]).map(|spec| warn::job(spec, plan)).unwrap_or_default());
        }
    }
    reasons.check(cron_job, namespace)?;
    Ok(edit.finish(warnings))
}

/// One step down: from an object to the template of what it makes.
struct Level {
    from: &'static Path<'static>,
    to: &'static Path<'static>,
    mark: &'static str,
    holder: Subject,
    each: &'static str,
}

impl Level {
    /// Copies the annotations down and marks them, or takes earlier copies back. Returns what the object itself asks for.
    fn copy(&self, edit: &mut Edit, object: &Value, old: Option<&Value>, namespace: &str, reasons: &mut Reasons) -> Option<Plan> {
        let Self { from, to, mark, holder, each } = *self;
        let own = texts(object, from);
        let below = texts(object, to);
        let plan = read::plan(&own, holder, namespace, reasons);
        let wanted = if plan.is_some() { shape::user_keys(&own) } else { Keys::new() };
        let marked = |annotations: &Keys| annotations.get(COPIED_FROM).is_some_and(|value| value == mark);
        let copied_before = old.map(|old| texts(old, to)).filter(marked).map(|below| shape::user_keys(&below)).unwrap_or_default();
        let present = shape::user_keys(&below);
        for (key, value) in &present {
            let copy = copied_before.get(key) == Some(value);
            let same = wanted.get(key) == Some(value) && (marked(&below) || !copied_before.is_empty());
            if !wanted.is_empty() && !copy && !same {
                let template = to.split_last().and_then(|(_, path)| path.split_last()).map(|(_, path)| path.join(".")).unwrap_or_default();
                reasons.mistake(both(key, holder, &template, each));
            }
            // Only copies go: what the user wrote on the template stays, and means what it means there. A mark that no earlier object bears
            // out proves nothing, and dropping a lock because of it would be silent.
            if !wanted.contains_key(key) && copy {
                edit.remove(&[to, &[key]].concat());
            }
        }
        for (key, value) in &wanted {
            edit.set(&[to, &[key]].concat(), value.clone().into());
        }
        for key in shape::status_keys(&below).keys().filter(|key| *key != COPIED_FROM || wanted.is_empty()) {
            edit.remove(&[to, &[key]].concat());
        }
        if !wanted.is_empty() {
            edit.set(&[to, &[COPIED_FROM]].concat(), mark.into());
        }
        plan
    }
}

fn both(key: &str, holder: Subject, template: &str, each: &str) -> String {
    format!(
        "{key}: is on {template}, while the {holder} has annotations of konductor too; those of the {holder} hold once for each run, \
         those of {template} once for each {each}: keep one of them"
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    Added,
    Changed,
    Removed,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

fn differences(now: &Keys, before: &Keys) -> Vec<(String, Difference)> {
    let removed = before.keys().filter(|key| !now.contains_key(*key)).map(|key| (key.clone(), Difference::Removed));
    let differs = |(key, value): (&String, &String)| match before.get(key) {
        None => Some((key.clone(), Difference::Added)),
        Some(other) => (other != value).then(|| (key.clone(), Difference::Changed)),
    };
    now.iter().filter_map(differs).chain(removed).collect()
}

/// Makes these annotations what they were.
fn restore(edit: &mut Edit, path: &Path<'_>, now: &Keys, before: &Keys) {
    for key in now.keys().filter(|key| !before.contains_key(*key)) {
        edit.remove(&[path, &[key]].concat());
    }
    for (key, value) in before {
        edit.set(&[path, &[key]].concat(), value.clone().into());
    }
}

fn well_formed(object: &Value, namespace: &str, pod: &Path<'_>) -> Result<(), Refusal> {
    let mut reasons = Reasons::default();
    for wrong in shape::wrong_types(object, pod) {
        reasons.mistake(wrong);
    }
    reasons.check(object, namespace)
}

/// Whether a Job's template carries copies of the Job's own annotations.
pub(super) fn is_copy(job: &Value) -> bool {
    text(job, &["spec", "template", "metadata", "annotations", COPIED_FROM]) == Some(COPIED_FROM_JOB)
        && !shape::user_keys(&texts(job, OWN)).is_empty()
}

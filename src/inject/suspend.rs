//! `strategy=suspend`: a Job is suspended when it is made, and marked as suspended by konductor, which resumes it when it is its turn. A person
//! may resume it before; its Pods then wait by themselves. The mark is gone as soon as the Job runs, so that konductor never resumes what a person suspended.

use serde_json::Value;

use super::{
    copy::is_replaced,
    edit::Edit,
    refusal::Reasons,
    shape::{Path, at, flag, text, texts},
};
use crate::{
    api::names::SUSPENDED,
    plan::{Plan, Strategy, Subject, parse},
};

/// Kueue suspends and resumes Jobs that carry this label.
const KUEUE: &str = "kueue.x-k8s.io/queue-name";

const SUSPEND: &Path<'_> = &["spec", "suspend"];
const MARK: &Path<'_> = &["metadata", "annotations", SUSPENDED];

/// Suspends a Job that never started, if its plan says so, or takes back what an earlier plan said.
pub(super) fn job(edit: &mut Edit, job: &Value, old: Option<&Value>, plan: Option<&Plan>, reasons: &mut Reasons) {
    let wanted = plan.is_some_and(suspends);
    let ours = |job: &Value| flag(job, SUSPEND) && text(job, MARK) == Some("true");
    // A new Job may bring the mark: it was exported, or this is the second pass.
    let (before, suspended) = (ours(old.unwrap_or(job)), flag(job, SUSPEND));
    if wanted {
        obstacles(job, "", reasons);
    }
    match (wanted, old) {
        (true, None) if suspended && !before => reasons.mistake(resumed_for_him("")),
        (true, None) => {
            edit.set(SUSPEND, true.into());
            edit.set(MARK, "true".into());
        }
        (true, Some(old)) if before && (suspended || is_replaced(job, old)) => {
            edit.set(SUSPEND, true.into());
            edit.set(MARK, "true".into());
        }
        (true, Some(old)) => {
            edit.remove(MARK);
            if suspended && !asked(old) {
                reasons.mistake(resumed_for_him(""));
            }
        }
        (false, _) => {
            edit.remove(MARK);
            if old.is_some() && before && suspended {
                edit.set(SUSPEND, false.into());
            }
        }
    }
}

/// What keeps the Jobs of a CronJob from being suspended.
pub(super) fn template(template: &Value, plan: &Plan, reasons: &mut Reasons) {
    if suspends(plan) {
        let place = "spec.jobTemplate.";
        obstacles(template, place, reasons);
        if flag(template, SUSPEND) {
            reasons.mistake(resumed_for_him(place));
        }
    }
}

/// Whether this plan keeps Jobs suspended until it is their turn.
pub(super) fn suspends(plan: &Plan) -> bool {
    plan.strategy == Some(Strategy::Suspend)
}

fn obstacles(job: &Value, place: &str, reasons: &mut Reasons) {
    if at(job, &["metadata", "labels", KUEUE]).is_some() {
        reasons.mistake(format!(
            "{place}metadata.labels: {KUEUE} lets Kueue suspend and resume the Job, and strategy=suspend konductor: they would resume what the other one suspends; \
             leave one of them out"
        ));
    }
}

fn resumed_for_him(place: &str) -> String {
    format!(
        "{place}spec.suspend: is true, but with strategy=suspend konductor suspends the Job and resumes it when it is its turn; leave suspend out"
    )
}

/// Whether this Job asked for it before.
fn asked(job: &Value) -> bool {
    parse(&texts(job, &["metadata", "annotations"]), Subject::Job).is_ok_and(|plan| plan.as_ref().is_some_and(suspends))
}

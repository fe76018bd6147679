//! From an object's annotations to its plan, with what the annotations alone do not show: the namespace that they are in.

use std::collections::BTreeMap;

use super::refusal::Reasons;
use crate::{
    api::names::USER_PREFIX,
    plan::{Item, Plan, Role, Subject, parse},
};

/// The plan of an object of this namespace; `None` where it asks for nothing, or makes mistakes.
pub(super) fn plan(annotations: &BTreeMap<String, String>, subject: Subject, namespace: &str, reasons: &mut Reasons) -> Option<Plan> {
    let plan = match parse(annotations, subject) {
        Ok(plan) => plan?,
        Err(mistakes) => {
            reasons.mistakes(&mistakes);
            return None;
        }
    };
    let twice = plan.twice_in(namespace);
    if let Some(item) = &twice {
        reasons.mistake(format!("{USER_PREFIX}{}: {} is named twice, with its namespace and without", item.role.word(), item.target));
    }
    let foreign = |item: &&Item| item.target.namespace.as_deref().is_some_and(|other| other != namespace);
    let created = plan.holds().filter(foreign).find(|item| matches!(item.role, Role::Hold { create: true, .. }));
    if let Some(item) = created {
        let word = item.role.word();
        reasons.mistake(format!(
            "{USER_PREFIX}{word}: {} is of another namespace; create=true makes only what is missing in its own",
            item.target
        ));
    }
    (twice.is_none() && created.is_none()).then_some(plan)
}

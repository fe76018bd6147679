//! Why an object is not let in.

use std::fmt;

use serde_json::Value;

use super::shape;
use crate::plan::Mistakes;

/// An object that is not let in, with every reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// HTTP status code of the answer: 422 for mistakes in the object, 403 for a change that is not allowed.
    pub code: u16,
    /// What was refused: kind, namespace and name.
    pub what: String,
    /// The reasons, one a line. Each begins with the annotation or field that it concerns.
    pub reasons: Vec<String>,
}

/// The message that a person reads.
impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code: _, what, reasons } = self;
        match reasons.as_slice() {
            [reason] => write!(out, "konductor: {what}: {reason}"),
            reasons => {
                write!(out, "konductor: {what}: {} mistakes:", reasons.len())?;
                reasons.iter().try_for_each(|reason| write!(out, "\n  {reason}"))
            }
        }
    }
}

/// Collects reasons.
#[derive(Default)]
pub(super) struct Reasons {
    mistakes: Vec<String>,
    forbidden: Vec<String>,
}

impl Reasons {
    pub(super) fn mistake(&mut self, reason: impl Into<String>) {
        self.mistakes.push(reason.into());
    }

    pub(super) fn forbid(&mut self, reason: impl Into<String>) {
        self.forbidden.push(reason.into());
    }

    pub(super) fn mistakes(&mut self, mistakes: &Mistakes) {
        self.mistakes.extend(mistakes.list.iter().map(ToString::to_string));
    }

    pub(super) fn all(&mut self, reasons: Self) {
        self.mistakes.extend(reasons.mistakes);
        self.forbidden.extend(reasons.forbidden);
    }

    /// The same reasons, with the place of the template in front of the fields that they name.
    pub(super) fn under(self, prefix: &str) -> Self {
        let place = |reason: String| if reason.starts_with("spec.") { format!("{prefix}{reason}") } else { reason };
        Self { mistakes: self.mistakes.into_iter().map(place).collect(), forbidden: self.forbidden }
    }

    /// An error if there is any reason.
    pub(super) fn check(self, object: &Value, namespace: &str) -> Result<(), Refusal> {
        let Self { mut mistakes, forbidden } = self;
        if mistakes.is_empty() && forbidden.is_empty() {
            return Ok(());
        }
        let code = if forbidden.is_empty() { 422 } else { 403 };
        mistakes.extend(forbidden);
        mistakes.dedup();
        Err(Refusal { code, what: what(object, namespace), reasons: mistakes })
    }
}

/// `Job shop/nightly`; objects that the API server will name yet are shown as `nightly-*`.
fn what(object: &Value, namespace: &str) -> String {
    let kind = shape::text(object, &["kind"]).unwrap_or("object");
    match (shape::text(object, &["metadata", "name"]), shape::text(object, &["metadata", "generateName"])) {
        (Some(name), _) => format!("{kind} {namespace}/{name}"),
        (None, Some(prefix)) => format!("{kind} {namespace}/{prefix}*"),
        (None, None) => format!("{kind} in {namespace}"),
    }
}

//! Why an object is not let in.

use std::fmt;

use serde_json::Value;

use super::{Request, shape};
use crate::plan::{Mistakes, shortened};

/// So many reasons are read; how many more there are is said.
const SHOWN: usize = 20;
/// So much of each is read, in characters: more than the longest of konductor's own words, which may quote somebody's.
const LONGEST: usize = 1000;

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

impl Refusal {
    /// The refusal of this object, as a mistake, for one reason.
    pub fn of(request: &Request<'_>, reason: String) -> Self {
        Self { code: 422, what: what(request.object, request.namespace), reasons: vec![reason] }
    }
}

/// The message that a person reads.
impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code: _, what, reasons } = self;
        match reasons.as_slice() {
            [reason] => write!(out, "konductor: {what}: {}", brief(reason)),
            reasons => {
                write!(out, "konductor: {what}: {} mistakes:", reasons.len())?;
                reasons.iter().take(SHOWN).try_for_each(|reason| write!(out, "\n  {}", brief(reason)))?;
                match reasons.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(out, "\n  and {more} more"),
                }
            }
        }
    }
}

/// A reason or a warning, as far as somebody reads it, on one line: names that it quotes have not been validated yet, and it stands in logs too.
pub fn brief(text: &str) -> String {
    text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect()
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
    let shown = |path| shape::text(object, path).map(shortened);
    let (kind, namespace) = (shown(&["kind"]).unwrap_or_else(|| "object".to_owned()), shortened(namespace));
    match (shown(&["metadata", "name"]), shown(&["metadata", "generateName"])) {
        (Some(name), _) => format!("{kind} {namespace}/{name}"),
        (None, Some(prefix)) => format!("{kind} {namespace}/{prefix}*"),
        (None, None) => format!("{kind} in {namespace}"),
    }
}

//! What is wrong with annotations, in words that say how to put it right.

use std::fmt;

use super::Subject;

/// Longest piece of someone's text that a message repeats.
const SHOWN: usize = 80;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The annotation's key, as it was written.
    pub annotation: String,
    /// The offending text, shortened where it is long.
    pub text: String,
    /// What is wrong and what would be right.
    pub problem: String,
    /// The valid word that was probably meant.
    pub nearest: Option<String>,
}

/// Every mistake of one object's annotations; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    /// The object whose annotations they are.
    pub subject: Subject,
    /// The mistakes, in the order of the annotations' keys.
    pub list: Vec<Mistake>,
}

impl Mistake {
    pub(super) fn new(annotation: &str, text: &str, problem: impl Into<String>) -> Self {
        Self { annotation: shortened(annotation), text: shortened(text), problem: on_one_line(&problem.into()), nearest: None }
    }

    /// What was meant, most likely; no valid word has control characters.
    pub(super) fn near(mut self, nearest: Option<impl Into<String>>) -> Self {
        self.nearest = nearest.map(Into::into).filter(|nearest| !nearest.contains(char::is_control));
        self
    }
}

/// The text without line breaks and other control characters, so that a message stays one line, and not longer than people read.
pub fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN).collect();
    if shown.len() == text.len() { on_one_line(text) } else { on_one_line(&shown) + "..." }
}

/// Names stand in messages as they were written.
fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { annotation, text, problem, nearest } = self;
        if text.is_empty() || text == annotation {
            write!(out, "{annotation}: {problem}")?;
        } else {
            write!(out, "{annotation}: `{text}` {problem}")?;
        }
        match nearest {
            Some(nearest) => write!(out, "; did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, list } = self;
        match list.len() {
            1 => write!(out, "1 mistake in the annotations of the {subject}:")?,
            count => write!(out, "{count} mistakes in the annotations of the {subject}:")?,
        }
        list.iter().try_for_each(|mistake| write!(out, "\n  {mistake}"))
    }
}

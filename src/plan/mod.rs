//! Annotations: text in, a typed [`Plan`] out, or every mistake at once.
//!
//! ```text
//! konductor.io/acquire: "mutex/db-migrate, semaphore/api-limit;permits=2"
//! konductor.io/mutex: db-migrate                  # short form of one item
//!
//! item = kind/[namespace/]name[;key=value]*       # items are separated by commas
//! ```
//!
//! The words that are valid stand in one table, [`table`]; the parser reads it, the suggestions come from it, and so does the documentation.
//! Nothing behind this door sees text again.

mod distance;
mod mistake;
mod parse;
pub mod table;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt};

use crate::api::Duration;

pub use mistake::{Mistake, Mistakes};
pub use parse::{MAX_HOLDS, MAX_VALUE, is_ours, lookalike, parse};

/// Kinds of primitives that can be held, in the order in which a Pod acquires them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One holder at a time.
    Mutex,
    /// As many permits at a time as it has.
    Semaphore,
}

/// The primitive that is meant. Its order is the canonical order of acquiring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Kind of the primitive.
    pub kind: Kind,
    /// Its namespace; `None` is the holder's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// One primitive that is held while the annotated object runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What is held.
    pub target: Target,
    /// How many permits; 1 for everything but a Semaphore.
    pub permits: i32,
    /// Larger goes first.
    pub priority: i32,
    /// How long to wait, from the creation of the holder; `None` waits for ever.
    pub timeout: Option<Duration>,
}

/// Who reports that the holder ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The sidecar `konductor-hold`, which also verifies the hold whenever it starts.
    Hook,
    /// Nobody in the Pod: the controller reads it from the API.
    Controller,
}

/// What the annotations of one object ask for. There is at least one hold in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The holds in canonical order, so that two holders never wait for each other in a circle. That order counts only among Plans whose
    /// namespaces are filled in: see [`Plan::in_namespace`].
    pub holds: Vec<Hold>,
    /// Who reports the end; `None` is the installation's default.
    pub release: Option<Release>,
    /// Whether the fencing tokens are shown to the app's containers.
    pub fencing: bool,
}

/// The object that carries the annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A Pod: it is the holder.
    Pod,
    /// The template of a Deployment, of a Job and the like: each Pod holds.
    PodTemplate,
    /// A Job: it holds once, across its Pods.
    Job,
    /// A CronJob: each Job that it makes holds.
    CronJob,
}

impl Kind {
    /// The word for it in annotations.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::Semaphore => "semaphore",
        }
    }
}

impl Release {
    /// The word for it in annotations and settings.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hook => "hook",
            Self::Controller => "controller",
        }
    }
}

impl Plan {
    /// The same plan with every namespace written out, in the order in which `holder_namespace`'s Pods acquire.
    ///
    /// Without this, a Pod of `a` that holds `mutex/x, mutex/b/y` and one of `b` that holds `mutex/y, mutex/a/x` would take the two in
    /// opposite order and could wait for each other for ever. Fencing tokens are numbered in this order.
    #[must_use]
    pub fn in_namespace(mut self, holder_namespace: &str) -> Self {
        for hold in &mut self.holds {
            hold.target.namespace.get_or_insert_with(|| holder_namespace.to_owned());
        }
        self.holds.sort_by(|a, b| a.target.cmp(&b.target));
        self
    }

    /// A primitive that is named twice once the holder's namespace is known: `mutex/db` and `mutex/shop/db` are one in namespace `shop`.
    /// Such a holder would wait for itself.
    pub fn twice_in(&self, holder_namespace: &str) -> Option<Target> {
        let mut seen = BTreeSet::new();
        self.clone().in_namespace(holder_namespace).holds.into_iter().map(|hold| hold.target).find(|target| !seen.insert(target.clone()))
    }
}

impl Subject {
    /// The word for it in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::PodTemplate => "pod template",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// `mutex/db`, or `mutex/shop/db` with a namespace.
impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match namespace {
            Some(namespace) => write!(out, "{kind}/{namespace}/{name}"),
            None => write!(out, "{kind}/{name}"),
        }
    }
}

/// One item of `konductor.io/acquire`.
impl fmt::Display for Hold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, permits, priority, timeout } = self;
        write!(out, "{target}")?;
        if *permits != 1 {
            write!(out, ";permits={permits}")?;
        }
        if *priority != 0 {
            write!(out, ";priority={priority}")?;
        }
        match timeout {
            Some(timeout) => write!(out, ";timeout={timeout}"),
            None => Ok(()),
        }
    }
}

/// The value of `konductor.io/acquire` that means this plan.
impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holds, release, fencing } = self;
        for (index, hold) in holds.iter().enumerate() {
            if index > 0 {
                out.write_str(", ")?;
            }
            write!(out, "{hold}")?;
            // These two are the whole plan's; an item has to carry them.
            if index == 0 {
                if let Some(release) = release {
                    write!(out, ";release={release}")?;
                }
                if *fencing {
                    out.write_str(";fencing=true")?;
                }
            }
        }
        Ok(())
    }
}

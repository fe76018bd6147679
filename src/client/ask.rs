//! What is asked for: one operation on one primitive, and how long, how urgently and in whose name.

use std::{fmt, sync::Arc, time::Duration};

use crate::api::{ClaimKind, ClaimSpec, Mode, Operation};

type Told = Arc<dyn Fn(&str) + Send + Sync>;

/// How long to wait, how urgently, and how long a hold outlives its last renewal. The default waits for ever.
///
/// ```
/// use std::time::Duration;
/// use konductor::client::Options;
///
/// let patient = Options::default().timeout(Duration::from_secs(600)).on_wait(|message| eprintln!("{message}"));
/// ```
#[derive(Clone, Default)]
pub struct Options {
    pub(crate) timeout: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) priority: Option<i32>,
    pub(crate) told: Option<Told>,
}

impl Options {
    /// Waits no longer than this, from now; zero does not wait.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long it holds after its last renewal; the primitive's own `ttl` otherwise, and 5 min if that has none. A shorter one lets others on sooner after a
    /// crash; a longer one outlasts longer outages of the API server. At least a second.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl.max(Duration::from_secs(1)));
        self
    }

    /// Larger goes first, then age; 0 otherwise, or a Lease's own priority.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Is told for what it waits and behind whom, whenever that changes.
    #[must_use]
    pub fn on_wait(mut self, told: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.told = Some(Arc::new(told));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeout, ttl, priority, told: _ } = self;
        out.debug_struct("Options").field("timeout", timeout).field("ttl", ttl).field("priority", priority).finish_non_exhaustive()
    }
}

/// One operation on one primitive, for those who build something of their own on Claims; the handles of [`Client`](super::Client) make these.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Kind of the primitive.
    pub kind: ClaimKind,
    /// Its name.
    pub name: String,
    /// What is done with it.
    pub operation: Operation,
    /// In whose name.
    pub holder: Option<String>,
    /// Whether the Claim is called after the holder: then another process finds it again, asking again returns the same grant, and at most one process at a time
    /// should use the holder's name. Otherwise this asks anew, whoever else has the name.
    pub lasting: bool,
    /// How an RWMutex is held.
    pub mode: Option<Mode>,
    /// How many permits of a Semaphore.
    pub permits: Option<i32>,
    /// How much is added to a WaitGroup.
    pub delta: Option<i64>,
    /// How long, and how urgently.
    pub options: Options,
}

impl Ask {
    /// This operation, with everything else left to its default.
    pub fn new(kind: ClaimKind, name: impl Into<String>, operation: Operation) -> Self {
        Self {
            kind,
            name: name.into(),
            operation,
            holder: None,
            lasting: false,
            mode: None,
            permits: None,
            delta: None,
            options: Options::default(),
        }
    }

    /// What people call the primitive: `mutex/db`.
    pub fn target(&self) -> String {
        format!("{}/{}", word(self.kind), self.name)
    }

    /// The name by which another process finds the Claim; `None` if none is to find it.
    pub(crate) fn lasting_name(&self) -> Option<String> {
        let holder = self.holder.as_deref().filter(|_| self.lasting)?;
        Some(super::name::lasting(self.kind, &self.name, self.operation, holder))
    }

    pub(crate) fn spec(&self) -> ClaimSpec {
        let Self { kind, name, operation, holder, lasting: _, mode, permits, delta, options } = self;
        let Options { timeout, ttl, priority, told: _ } = options;
        ClaimSpec {
            kind: *kind,
            name: name.clone(),
            holder: holder.clone(),
            operation: *operation,
            delta: *delta,
            permits: *permits,
            mode: *mode,
            priority: *priority,
            ttl: ttl.map(Into::into),
            timeout: timeout.map(Into::into),
            renewals: 0,
            succeeded: None,
        }
    }

    /// Why a Claim of the name that this one would have is for something else; `None` if it is for the same.
    pub(crate) fn differs(&self, found: &ClaimSpec) -> Option<String> {
        let ClaimSpec {
            kind,
            name,
            holder,
            operation,
            mode,
            permits,
            delta: _,
            priority: _,
            ttl: _,
            timeout: _,
            renewals: _,
            succeeded: _,
        } = found;
        if (*kind, name, *operation, holder) != (self.kind, &self.name, self.operation, &self.holder) {
            return Some("a Claim of that name is for something else".to_owned());
        }
        let holder = holder.as_deref().unwrap_or_default();
        if mode.unwrap_or_default() != self.mode.unwrap_or_default() {
            return Some(match mode.unwrap_or_default() {
                Mode::Read => format!("{holder} reads it already, and would wait for itself to write it; unlock it first"),
                Mode::Write => format!("{holder} writes it already; unlock it first"),
            });
        }
        let (held, asked) = (permits.unwrap_or(1), self.permits.unwrap_or(1));
        (held != asked).then(|| format!("{holder} asked for {held} of its permits already; release them before asking for {asked}"))
    }
}

/// The word for a kind in commands and messages.
pub(crate) const fn word(kind: ClaimKind) -> &'static str {
    match kind {
        ClaimKind::Mutex => "mutex",
        ClaimKind::RWMutex => "rwmutex",
        ClaimKind::Lease => "lease",
        ClaimKind::Semaphore => "semaphore",
        ClaimKind::Once => "once",
        ClaimKind::WaitGroup => "waitgroup",
        ClaimKind::Barrier => "barrier",
        ClaimKind::Gate => "gate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: ClaimKind) -> Ask {
        Ask { holder: Some("a".to_owned()), lasting: true, ..Ask::new(kind, "x", Operation::Acquire) }
    }

    #[test]
    fn the_same_holder_asks_for_the_same_however_long_it_waits() {
        let first = ask(ClaimKind::Mutex);
        let again = Ask { options: Options::default().timeout(Duration::ZERO), ..first.clone() };
        assert_eq!(first.differs(&again.spec()), None);
        assert_eq!(first.lasting_name(), again.lasting_name());
        assert!(first.lasting_name().is_some());
    }

    #[test]
    fn who_holds_otherwise_already_is_told_how() {
        let (read, write) = (Ask { mode: Some(Mode::Read), ..ask(ClaimKind::RWMutex) }, ask(ClaimKind::RWMutex));
        assert!(write.differs(&read.spec()).unwrap().contains("reads it already"));
        let two = Ask { permits: Some(2), ..ask(ClaimKind::Semaphore) };
        assert!(ask(ClaimKind::Semaphore).differs(&two.spec()).unwrap().contains("2 of its permits"));
    }
}

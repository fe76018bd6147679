//! A waiting Pod as the leader sees it: one open connection, what was confirmed to it, and where it stands in line.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};

use super::protocol::{Reason, Token};
use crate::controller::Key;

/// For what a Pod waits. What is the same for many is there once.
#[derive(Clone, Debug, PartialEq)]
pub enum Waits {
    /// In line, at a place that is its own.
    InLine {
        /// What comes before the place.
        before: Arc<str>,
        /// The place.
        place: usize,
        /// What comes after it.
        after: Arc<str>,
    },
    /// For something to happen.
    For(Arc<str>),
}

impl fmt::Display for Waits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InLine { before, place, after } => write!(out, "{before}{place}{after}"),
            Self::For(what) => out.write_str(what),
        }
    }
}

/// Where a waiting Pod stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Place {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// It waits: for what, and behind whom.
    Waiting(Waits),
    /// It holds all that it asked for.
    Granted(Vec<Token>),
    /// There is nothing to do for its wrapped command.
    Skipped(String),
    /// It will not hold.
    Refused {
        /// Why, for the exit code.
        reason: Reason,
        /// Why, for people.
        message: String,
    },
}

/// An open session. Dropping it ends the connection.
#[derive(Debug)]
pub struct Session {
    /// Distinguishes it from earlier and later ones of the same Pod.
    pub id: u64,
    /// When it was opened.
    pub opened: Instant,
    /// Holds that were confirmed to this session, by our own write or a live read since it opened.
    pub confirmed: BTreeMap<Key, i64>,
    /// What its Pod was last said to wait for, in an Event, and whether that existed.
    announced: Option<(Key, bool)>,
    place: watch::Sender<Place>,
}

impl Session {
    /// Opens a session; the receiver learns where the Pod stands.
    pub fn open() -> (Self, watch::Receiver<Place>) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (place, receiver) = watch::channel(Place::default());
        (
            Self { id: NEXT.fetch_add(1, Ordering::Relaxed), opened: Instant::now(), confirmed: BTreeMap::new(), announced: None, place },
            receiver,
        )
    }

    /// Whether it is news that the Pod waits for this primitive, which exists or does not. Its place in line is none.
    pub fn is_news(&mut self, key: &Key, exists: bool) -> bool {
        if self.announced.as_ref().is_some_and(|(known, existed)| known == key && *existed == exists) {
            return false;
        }
        self.announced = Some((key.clone(), exists));
        true
    }

    /// Whether the Pod holds all that it asked for, and is told so. It asks no more; if the answer does not reach it, it comes back.
    pub fn is_granted(&self) -> bool {
        matches!(&*self.place.borrow(), Place::Granted(_))
    }

    /// Whether the Pod was told that it will never hold.
    pub fn is_refused(&self) -> bool {
        matches!(&*self.place.borrow(), Place::Refused { .. })
    }

    /// Says where the Pod stands. A place in line that merely moved is not pushed: the next heartbeat carries it, so that a long queue that moves
    /// up costs nothing.
    pub fn tell(&self, next: Place) {
        self.place.send_if_modified(|place| {
            let push = !matches!((&*place, &next), (Place::Waiting(_), Place::Waiting(_)));
            *place = next;
            push
        });
    }
}

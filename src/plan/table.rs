//! Every word that is valid in konductor's annotations. What the design has and this version does not is listed too, so that it can be
//! refused for what it is and not as a typing mistake.

use super::{Kind, Release};
use crate::api::Duration;

/// Most permits that one hold may ask for: as many as a Semaphore can have.
pub const MAX_PERMITS: i32 = 1_000_000;

/// An annotation; its key is `konductor.io/` and the word.
#[derive(Debug)]
pub struct Annotation {
    /// The word behind the prefix.
    pub word: &'static str,
    /// What it means.
    pub meaning: Meaning,
    /// One sentence for people.
    pub about: &'static str,
}

/// What an annotation means.
#[derive(Debug)]
pub enum Meaning {
    /// A list of items that are held.
    Acquire,
    /// One item of this kind that is held.
    AcquireOne(Kind),
    /// Switches konductor off.
    Inject,
    /// Not in this version.
    Later,
}

/// A word for a kind of primitive in an item.
#[derive(Debug)]
pub struct KindWord {
    /// The word.
    pub word: &'static str,
    /// The kind, where this version can hold it.
    pub kind: Option<Kind>,
}

/// A key behind an item: `;key=value`.
#[derive(Debug)]
pub struct Key {
    /// The word before the `=`.
    pub word: &'static str,
    /// What a value has to look like.
    pub values: &'static str,
    /// The values, where they are few words.
    pub choices: &'static [&'static str],
    /// Kinds that it fits; empty for all.
    pub kinds: &'static [Kind],
    /// Reads a value.
    pub read: Read,
    /// One sentence for people.
    pub about: &'static str,
}

/// How the value of a key is read.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// Into the options of an item; `None` where the value is not right.
    Now(fn(&mut Options, &str) -> Option<()>),
    /// Not in this version.
    Later,
}

/// What the keys of one item say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `permits`.
    pub permits: Option<i32>,
    /// `priority`.
    pub priority: Option<i32>,
    /// `release`.
    pub release: Option<Release>,
    /// `fencing`.
    pub fencing: Option<bool>,
}

/// The annotations.
pub const ANNOTATIONS: &[Annotation] = &[
    Annotation { word: "acquire", meaning: Meaning::Acquire, about: "What is held while the object runs: a list of items." },
    Annotation { word: "mutex", meaning: Meaning::AcquireOne(Kind::Mutex), about: "Short form for one Mutex." },
    Annotation { word: "semaphore", meaning: Meaning::AcquireOne(Kind::Semaphore), about: "Short form for one Semaphore." },
    Annotation { word: "inject", meaning: Meaning::Inject, about: "`false` switches konductor off for this object." },
    Annotation { word: "wait", meaning: Meaning::Later, about: "What has to be open before the first container starts." },
    Annotation { word: "arrive", meaning: Meaning::Later, about: "The Barrier that is arrived at when the object succeeds." },
    Annotation { word: "done", meaning: Meaning::Later, about: "The WaitGroup that is counted down when the object ends." },
    Annotation { word: "once", meaning: Meaning::Later, about: "Runs only if nobody has." },
    Annotation { word: "lease", meaning: Meaning::Later, about: "Short form for one Lease." },
    Annotation { word: "rwmutex", meaning: Meaning::Later, about: "Short form for one RWMutex." },
    Annotation { word: "barrier", meaning: Meaning::Later, about: "Short form for waiting for one Barrier." },
    Annotation { word: "gate", meaning: Meaning::Later, about: "Short form for waiting for one Gate." },
    Annotation { word: "waitgroup", meaning: Meaning::Later, about: "Short form for waiting for one WaitGroup." },
];

/// The kinds.
pub const KINDS: &[KindWord] = &[
    KindWord { word: "mutex", kind: Some(Kind::Mutex) },
    KindWord { word: "semaphore", kind: Some(Kind::Semaphore) },
    KindWord { word: "rwmutex", kind: None },
    KindWord { word: "lease", kind: None },
    KindWord { word: "barrier", kind: None },
    KindWord { word: "gate", kind: None },
    KindWord { word: "once", kind: None },
    KindWord { word: "waitgroup", kind: None },
];

/// The keys.
pub const KEYS: &[Key] = &[
    Key {
        word: "timeout",
        values: "a duration like 90s, 10m or 1h30m (0s does not wait)",
        choices: &[],
        kinds: &[],
        read: Read::Now(|options, text| text.parse().ok().map(|timeout| options.timeout = Some(timeout))),
        about: "How long to wait, from the creation of the holder. For ever by default.",
    },
    Key {
        word: "permits",
        values: "a whole number from 1 to 1000000",
        choices: &[],
        kinds: &[Kind::Semaphore],
        read: Read::Now(|options, text| {
            whole(text).filter(|permits| (1..=MAX_PERMITS).contains(permits)).map(|permits| options.permits = Some(permits))
        }),
        about: "How many permits are held. 1 by default.",
    },
    Key {
        word: "priority",
        values: "a whole number from -2147483648 to 2147483647",
        choices: &[],
        kinds: &[],
        read: Read::Now(|options, text| whole(text).map(|priority| options.priority = Some(priority))),
        about: "Larger goes first. 0 by default.",
    },
    Key {
        word: "release",
        values: "hook or controller",
        choices: &["hook", "controller"],
        kinds: &[],
        read: Read::Now(|options, text| {
            options.release = Some(Release::of(text)?);
            Some(())
        }),
        about: "Who reports the end: the sidecar, or the controller from the API alone.",
    },
    Key {
        word: "fencing",
        values: "true or false",
        choices: &["true", "false"],
        kinds: &[],
        read: Read::Now(|options, text| text.parse().ok().map(|fencing| options.fencing = Some(fencing))),
        about: "Shows the fencing token to the app's containers, as a file and an environment variable. false by default.",
    },
    Key {
        word: "on-timeout",
        values: "fail or proceed",
        choices: &[],
        kinds: &[],
        read: Read::Later,
        about: "What a wait does when it ran out of time.",
    },
    Key {
        word: "on-conflict",
        values: "queue or skip",
        choices: &[],
        kinds: &[],
        read: Read::Later,
        about: "What to do when somebody else holds.",
    },
    Key { word: "mode", values: "read or write", choices: &[], kinds: &[], read: Read::Later, about: "How an RWMutex is held." },
    Key {
        word: "strategy",
        values: "init, gate, suspend or wrap",
        choices: &[],
        kinds: &[],
        read: Read::Later,
        about: "Where the waiting happens.",
    },
    Key { word: "max-hold", values: "a duration", choices: &[], kinds: &[], read: Read::Later, about: "How long it may be held." },
    Key {
        word: "start-timeout",
        values: "a duration",
        choices: &[],
        kinds: &[],
        read: Read::Later,
        about: "How long it may be held without having started.",
    },
    Key { word: "create", values: "true or false", choices: &[], kinds: &[], read: Read::Later, about: "Makes a missing Mutex." },
    Key {
        word: "on-lost",
        values: "kill or ignore",
        choices: &[],
        kinds: &[],
        read: Read::Later,
        about: "What happens to a holder that lost its hold.",
    },
    Key { word: "on", values: "start or success", choices: &[], kinds: &[], read: Read::Later, about: "When to arrive." },
];

/// A whole number without the `+` and the leading zeros that Rust would take.
fn whole(text: &str) -> Option<i32> {
    text.parse::<i32>().ok().filter(|number| number.to_string() == text)
}

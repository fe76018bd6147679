//! Every word that is valid in konductor's annotations, and what goes with what.

use super::{Kind, Mode, On, OnConflict, OnLost, OnTimeout, Release, Strategy, target};
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
    /// A list of items, each with its kind.
    List(Verb),
    /// One item of this kind.
    One(Verb, Kind),
    /// Switches konductor off.
    Inject,
}

/// What an item asks for, as the annotation says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Waits until it is open.
    Wait,
    /// Holds it.
    Acquire,
    /// Arrives at it.
    Arrive,
    /// Is counted by it.
    Done,
    /// Runs only if nobody has.
    Once,
}

/// A kind of primitive in an item.
#[derive(Debug)]
pub struct KindWord {
    /// The kind; [`Kind::word`] is the word.
    pub kind: Kind,
    /// What can be done with it.
    pub verbs: &'static [Verb],
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
    /// What is so without it.
    pub default: &'static str,
    /// Where it fits.
    pub fits: Fits,
    /// Reads a value into the options of an item; `None` where it is not right.
    pub read: fn(&mut Options, &str) -> Option<()>,
    /// One sentence for people.
    pub about: &'static str,
}

/// Where a key fits.
#[derive(Clone, Copy, Debug)]
pub enum Fits {
    /// Items of these verbs.
    Verbs(&'static [Verb]),
    /// Items that acquire one of these kinds.
    Kinds(&'static [Kind]),
    /// It concerns the object as a whole and stands behind any item, if there is one of these verbs.
    Whole(&'static [Verb]),
}

/// What the keys of one item say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `on-timeout`.
    pub on_timeout: Option<OnTimeout>,
    /// `permits`.
    pub permits: Option<i32>,
    /// `mode`.
    pub mode: Option<Mode>,
    /// `priority`.
    pub priority: Option<i32>,
    /// `create`.
    pub create: Option<bool>,
    /// `on`.
    pub on: Option<On>,
    /// `release`.
    pub release: Option<Release>,
    /// `fencing`.
    pub fencing: Option<bool>,
    /// `strategy`.
    pub strategy: Option<Strategy>,
    /// `container`.
    pub container: Option<String>,
    /// `on-conflict`.
    pub on_conflict: Option<OnConflict>,
    /// `on-lost`.
    pub on_lost: Option<OnLost>,
    /// `max-hold`.
    pub max_hold: Option<Duration>,
    /// `start-timeout`.
    pub start_timeout: Option<Duration>,
}

const LASTING: &[Verb] = &[Verb::Acquire, Verb::Done, Verb::Once];
const EXCLUSIVE: &[Verb] = &[Verb::Acquire, Verb::Once];
const EARLY: &[Verb] = &[Verb::Wait, Verb::Acquire, Verb::Done, Verb::Once];

const WAIT_TIME: &str = "a duration like 90s, 10m or 1h30m (0s does not wait)";
const SPAN: &str = "a duration like 90s, 10m or 1h30m, longer than 0s";
const TRUTH: &str = "true or false";
const NUMBER: &str = "a whole number from -2147483648 to 2147483647";

/// The annotations.
pub const ANNOTATIONS: &[Annotation] = &[
    Annotation {
        word: "wait",
        meaning: Meaning::List(Verb::Wait),
        about: "What has to be open before the first container starts: a list of items.",
    },
    Annotation { word: "acquire", meaning: Meaning::List(Verb::Acquire), about: "What is held while the object runs: a list of items." },
    Annotation {
        word: "arrive",
        meaning: Meaning::List(Verb::Arrive),
        about: "The Barriers that are arrived at when the object succeeds: a list of items.",
    },
    Annotation {
        word: "done",
        meaning: Meaning::List(Verb::Done),
        about: "The WaitGroups that count the object from its start to its end: a list of items.",
    },
    Annotation {
        word: "once",
        meaning: Meaning::One(Verb::Once, Kind::Once),
        about: "Runs only if nobody has; on a Pod with `strategy=wrap`.",
    },
    Annotation { word: "mutex", meaning: Meaning::One(Verb::Acquire, Kind::Mutex), about: "Short form for holding one Mutex." },
    Annotation { word: "rwmutex", meaning: Meaning::One(Verb::Acquire, Kind::RwMutex), about: "Short form for holding one RWMutex." },
    Annotation { word: "lease", meaning: Meaning::One(Verb::Acquire, Kind::Lease), about: "Short form for holding one Lease." },
    Annotation { word: "semaphore", meaning: Meaning::One(Verb::Acquire, Kind::Semaphore), about: "Short form for holding one Semaphore." },
    Annotation {
        word: "waitgroup",
        meaning: Meaning::One(Verb::Wait, Kind::WaitGroup),
        about: "Short form for waiting for one WaitGroup.",
    },
    Annotation { word: "barrier", meaning: Meaning::One(Verb::Wait, Kind::Barrier), about: "Short form for waiting for one Barrier." },
    Annotation { word: "gate", meaning: Meaning::One(Verb::Wait, Kind::Gate), about: "Short form for waiting for one Gate." },
    Annotation { word: "inject", meaning: Meaning::Inject, about: "`false` switches konductor off for this object." },
];

/// The kinds, in canonical order.
pub const KINDS: &[KindWord] = &[
    KindWord { kind: Kind::Mutex, verbs: &[Verb::Acquire] },
    KindWord { kind: Kind::RwMutex, verbs: &[Verb::Acquire] },
    KindWord { kind: Kind::Lease, verbs: &[Verb::Acquire] },
    KindWord { kind: Kind::Semaphore, verbs: &[Verb::Acquire] },
    KindWord { kind: Kind::Once, verbs: &[Verb::Once, Verb::Wait] },
    KindWord { kind: Kind::WaitGroup, verbs: &[Verb::Wait, Verb::Done] },
    KindWord { kind: Kind::Barrier, verbs: &[Verb::Wait, Verb::Arrive] },
    KindWord { kind: Kind::Gate, verbs: &[Verb::Wait] },
];

/// The keys.
pub const KEYS: &[Key] = &[
    Key {
        word: "timeout",
        values: WAIT_TIME,
        choices: &[],
        default: "wait for ever",
        fits: Fits::Verbs(EARLY),
        read: |options, text| text.parse().ok().map(|timeout| options.timeout = Some(timeout)),
        about: "How long to wait, from the creation of the holder.",
    },
    Key {
        word: "on-timeout",
        values: "fail or proceed",
        choices: OnTimeout::WORDS,
        default: "fail",
        fits: Fits::Verbs(&[Verb::Wait]),
        read: |options, text| OnTimeout::of(text).map(|on_timeout| options.on_timeout = Some(on_timeout)),
        about: "With a `timeout`: what a wait does when that is over.",
    },
    Key {
        word: "permits",
        values: "a whole number from 1 to 1000000",
        choices: &[],
        default: "1",
        fits: Fits::Kinds(&[Kind::Semaphore]),
        read: |options, text| {
            whole(text).filter(|permits| (1..=MAX_PERMITS).contains(permits)).map(|permits| options.permits = Some(permits))
        },
        about: "How many permits are held.",
    },
    Key {
        word: "mode",
        values: "read or write",
        choices: Mode::WORDS,
        default: "write",
        fits: Fits::Kinds(&[Kind::RwMutex]),
        read: |options, text| Mode::of(text).map(|mode| options.mode = Some(mode)),
        about: "Whether an RWMutex is held beside other readers or alone.",
    },
    Key {
        word: "priority",
        values: NUMBER,
        choices: &[],
        default: "0",
        fits: Fits::Verbs(EXCLUSIVE),
        read: |options, text| whole(text).map(|priority| options.priority = Some(priority)),
        about: "Larger goes first.",
    },
    Key {
        word: "create",
        values: TRUTH,
        choices: &["true", "false"],
        default: "false",
        fits: Fits::Kinds(&[Kind::Mutex]),
        read: |options, text| text.parse().ok().map(|create| options.create = Some(create)),
        about: "Makes the Mutex if there is none.",
    },
    Key {
        word: "on",
        values: "success or start",
        choices: On::WORDS,
        default: "success",
        fits: Fits::Verbs(&[Verb::Arrive]),
        read: |options, text| On::of(text).map(|on| options.on = Some(on)),
        about: "When to arrive: when it has succeeded, or before its first container starts.",
    },
    Key {
        word: "strategy",
        values: "init, gate, suspend or wrap",
        choices: Strategy::WORDS,
        default: "`init`; `suspend` for `once` on a Job, and with `on-conflict=skip`",
        fits: Fits::Whole(EARLY),
        read: |options, text| Strategy::of(text).map(|strategy| options.strategy = Some(strategy)),
        about: "Where the waiting happens: in an init container, before the Pod is given to a node, before the Job makes Pods, or around the command of one container.",
    },
    Key {
        word: "container",
        values: "the name of a container",
        choices: &[],
        default: "the only app container",
        fits: Fits::Whole(EARLY),
        read: |options, text| target::is_label(text).then(|| options.container = Some(text.to_owned())),
        about: "With `strategy=wrap`: the container whose command is wrapped.",
    },
    Key {
        word: "on-conflict",
        values: "queue or skip",
        choices: OnConflict::WORDS,
        default: "queue",
        fits: Fits::Whole(EXCLUSIVE),
        read: |options, text| OnConflict::of(text).map(|on_conflict| options.on_conflict = Some(on_conflict)),
        about: "What happens when somebody else holds: the Job waits, or it is marked Complete without having run; with `strategy=wrap`, the command is left out.",
    },
    Key {
        word: "release",
        values: "hook or controller",
        choices: Release::WORDS,
        default: "`hook`; the chart can set another",
        fits: Fits::Whole(LASTING),
        read: |options, text| Release::of(text).map(|release| options.release = Some(release)),
        about: "Who reports the end: the sidecar, or the controller from the API alone.",
    },
    Key {
        word: "max-hold",
        values: SPAN,
        choices: &[],
        default: "no limit",
        fits: Fits::Whole(LASTING),
        read: |options, text| span(text).map(|max_hold| options.max_hold = Some(max_hold)),
        about: "How long it may hold; then it is deleted, and released.",
    },
    Key {
        word: "start-timeout",
        values: SPAN,
        choices: &[],
        default: "no limit",
        fits: Fits::Whole(LASTING),
        read: |options, text| span(text).map(|start_timeout| options.start_timeout = Some(start_timeout)),
        about: "How long it may hold without having started; then it is deleted, and released.",
    },
    Key {
        word: "on-lost",
        values: "kill or ignore",
        choices: OnLost::WORDS,
        default: "kill",
        fits: Fits::Whole(LASTING),
        read: |options, text| OnLost::of(text).map(|on_lost| options.on_lost = Some(on_lost)),
        about: "What happens to a Pod whose hold was taken while its node could not be reached.",
    },
    Key {
        word: "fencing",
        values: TRUTH,
        choices: &["true", "false"],
        default: "false",
        fits: Fits::Whole(EXCLUSIVE),
        read: |options, text| text.parse().ok().map(|fencing| options.fencing = Some(fencing)),
        about: "Shows the fencing token to the app's containers, as a file and an environment variable.",
    },
];

impl Verb {
    /// The annotation that says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Acquire => "acquire",
            Self::Arrive => "arrive",
            Self::Done => "done",
            Self::Once => "once",
        }
    }

    /// The kind that it is said of most often, and a name for one.
    pub const fn example(self) -> (Kind, &'static str) {
        match self {
            Self::Wait => (Kind::Gate, "data-ready"),
            Self::Acquire => (Kind::Mutex, "db-migrate"),
            Self::Arrive => (Kind::Barrier, "stage-1"),
            Self::Done => (Kind::WaitGroup, "workers"),
            Self::Once => (Kind::Once, "db-migrate"),
        }
    }

    /// The kinds that it can be said of.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        KINDS.iter().filter(move |entry| entry.verbs.contains(&self)).map(|entry| entry.kind)
    }
}

impl Fits {
    /// Whether it can stand behind an item of this verb and kind.
    pub fn takes(self, verb: Verb, kind: Kind) -> bool {
        match self {
            Self::Verbs(verbs) => verbs.contains(&verb),
            Self::Kinds(kinds) => verb == Verb::Acquire && kinds.contains(&kind),
            Self::Whole(_) => true,
        }
    }
}

impl Kind {
    /// The word with its article.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Mutex => "a mutex",
            Self::RwMutex => "an rwmutex",
            Self::Lease => "a lease",
            Self::Semaphore => "a semaphore",
            Self::Once => "a once",
            Self::WaitGroup => "a waitgroup",
            Self::Barrier => "a barrier",
            Self::Gate => "a gate",
        }
    }

    /// What can be done with it.
    pub fn verbs(self) -> &'static [Verb] {
        KINDS.iter().find(|entry| entry.kind == self).map_or(&[], |entry| entry.verbs)
    }
}

/// A whole number without the `+` and the leading zeros that Rust would take.
fn whole(text: &str) -> Option<i32> {
    text.parse::<i32>().ok().filter(|number| number.to_string() == text)
}

/// A duration that is longer than nothing.
fn span(text: &str) -> Option<Duration> {
    text.parse().ok().filter(|duration: &Duration| !duration.is_zero())
}

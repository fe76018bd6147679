//! The grammar. It collects mistakes and goes on, so that a person learns of all of them at once.

use std::collections::BTreeMap;

use super::{
    Kind, Mistake, Mistakes, Plan, Subject, Target, assemble,
    distance::{distance, nearest},
    table::{ANNOTATIONS, Annotation, Fits, KEYS, Key, Meaning, Options, Verb},
    target::{self, clip, listed},
};
use crate::api::names::{STATUS_PREFIX, USER_PREFIX};

/// Most items of one object: each costs a round trip before the first container starts.
pub const MAX_ITEMS: usize = 16;
/// Longest value of an annotation, in bytes: room for [`MAX_ITEMS`] items of the longest names.
pub const MAX_VALUE: usize = 16 * 1024;
/// After so many items or mistakes nobody reads on, and nothing more is collected: the API server shows a webhook up to 3 MiB of annotations.
const ENOUGH: usize = 100;

/// Reads an object's annotations: `None` where nothing of konductor's is asked for (no annotation, or `konductor.io/inject: "false"`).
/// Annotations under `status.konductor.io/` are konductor's own and are not read here.
///
/// ```
/// use std::collections::BTreeMap;
/// use konductor::plan::{Subject, parse};
///
/// let annotations = BTreeMap::from([("konductor.io/mutex".to_owned(), "db-migrate".to_owned())]);
/// let plan = parse(&annotations, Subject::Job)?.expect("the annotations name a Mutex");
/// assert_eq!(plan.to_string(), "konductor.io/acquire: mutex/db-migrate");
///
/// let mistyped = BTreeMap::from([("konductor.io/mutx".to_owned(), "db-migrate".to_owned())]);
/// assert!(parse(&mistyped, Subject::Job).unwrap_err().to_string().contains("did you mean `konductor.io/mutex`?"));
/// # Ok::<(), konductor::plan::Mistakes>(())
/// ```
///
/// # Errors
/// All mistakes of all annotations, at once.
pub fn parse(annotations: &BTreeMap<String, String>, subject: Subject) -> Result<Option<Plan>, Mistakes> {
    let mut found = Found::default();
    for (key, value) in annotations {
        if key.starts_with(STATUS_PREFIX) {
            continue;
        }
        if found.is_enough() {
            break;
        }
        match key.strip_prefix(USER_PREFIX) {
            Some(word) => found.annotation(key, word, value),
            None => found.mistakes.extend(lookalike(key)),
        }
    }
    let Found { items, off, mistakes } = found;
    let plan = assemble::plan(&items, subject, mistakes)?;
    Ok(plan.filter(|_| !off))
}

/// Whether an annotation is under one of konductor's prefixes.
pub fn is_ours(key: &str) -> bool {
    key.starts_with(USER_PREFIX) || key.starts_with(STATUS_PREFIX)
}

/// The mistake of a key that was probably meant to be one of konductor's: `konducter.io/mutex`, `Konductor.io/mutex`, `conductor.io/mutex`,
/// `konductor/mutex`, `konductor.mutex`. A key that could as well be somebody else's is none: `conductor.io/task`.
pub fn lookalike(key: &str) -> Option<Mistake> {
    const NAME: &str = "konductor";
    if is_ours(key) {
        return None;
    }
    let lower = key.to_lowercase();
    let (prefix, word) = match lower.split_once('/') {
        Some((prefix, word)) => (prefix, word),
        None => (
            "",
            lower
                .strip_prefix(NAME)
                .filter(|rest| rest.is_empty() || rest.starts_with(['.', '-', '_']))?
                .trim_start_matches(['.', '-', '_']),
        ),
    };
    let (label, domain) = prefix.split_once('.').unwrap_or((prefix, ""));
    let valid = ANNOTATIONS.iter().any(|annotation| annotation.word == word);
    let near = |text: &str| text.len() <= 4 * NAME.len() && distance(text, NAME) <= 2;
    let meant = prefix.is_empty()
        || near(label) && (valid || label.starts_with('k') && (domain.is_empty() || domain == "io"))
        || prefix.starts_with('k') && prefix.len() <= 4 * NAME.len() && distance(prefix, "konductor.io") <= 2
        || prefix == "io.konductor" && valid;
    let right = nearest(word, words()).map_or_else(|| USER_PREFIX.to_owned(), |word| format!("{USER_PREFIX}{word}"));
    meant.then(|| {
        Mistake::new(key, key, format!("is not an annotation of konductor; its annotations begin with {USER_PREFIX}")).near(Some(right))
    })
}

fn words() -> impl Iterator<Item = &'static str> {
    ANNOTATIONS.iter().map(|annotation| annotation.word)
}

/// What has been read so far.
#[derive(Default)]
struct Found {
    items: Vec<Written>,
    off: bool,
    mistakes: Vec<Mistake>,
}

/// An item as it was written.
pub(super) struct Written {
    /// The annotation's key.
    pub(super) key: String,
    /// The whole item.
    pub(super) text: String,
    /// What it asks for.
    pub(super) verb: Verb,
    /// The primitive; `None` where it is a mistake.
    pub(super) target: Option<Target>,
    /// What its keys say.
    pub(super) options: Options,
    /// Its keys, each with the text that gives it.
    pub(super) given: Vec<(&'static Key, String)>,
}

impl Found {
    fn is_enough(&self) -> bool {
        self.items.len().max(self.mistakes.len()) >= ENOUGH
    }

    fn annotation(&mut self, key: &str, word: &str, value: &str) {
        if value.len() > MAX_VALUE {
            let problem = format!("is {} bytes long; {MAX_VALUE} are allowed", value.len());
            self.mistakes.push(Mistake::new(key, value, problem));
            return;
        }
        let Some(Annotation { meaning, .. }) = ANNOTATIONS.iter().find(|annotation| annotation.word == word) else {
            self.mistakes.push(unknown_annotation(key, word, value));
            return;
        };
        match meaning {
            Meaning::List(verb) if value.trim().is_empty() => {
                let (kind, name) = verb.example();
                self.mistakes.push(Mistake::new(key, value, format!("is empty; write items like {kind}/{name}")));
            }
            Meaning::List(verb) => {
                for item in value.split(',') {
                    if self.is_enough() {
                        break;
                    }
                    self.item(key, item, *verb, None);
                }
            }
            Meaning::One(verb, kind) => self.one(key, value, *verb, *kind),
            Meaning::Inject => match value {
                "false" => self.off = true,
                "true" => {}
                _ => self.mistakes.push(Mistake::new(key, value, "is neither true nor false").near(nearest(value, ["true", "false"]))),
            },
        }
    }

    /// A short form: one item whose kind the annotation names.
    fn one(&mut self, key: &str, value: &str, verb: Verb, kind: Kind) {
        if !value.contains(',') {
            return self.item(key, value, verb, Some(kind));
        }
        // `api,permits=2`: what stands behind the comma belongs behind the item.
        let options = value.split(',').skip(1).all(|part| KEYS.iter().any(|entry| part.trim().starts_with(&format!("{}=", entry.word))));
        if options {
            let right = value.split(',').map(str::trim).collect::<Vec<_>>().join(";");
            let right = (right.len() <= 200).then_some(right);
            self.mistakes.push(Mistake::new(key, value, "separates a key from its item by a comma").near(right));
            return;
        }
        let items: Vec<String> = value.split(',').map(|item| format!("{kind}/{}", item.trim())).collect();
        let list = ANNOTATIONS.iter().any(|annotation| matches!(annotation.meaning, Meaning::List(other) if other == verb));
        let right = format!("{USER_PREFIX}{}: {}", verb.word(), items.join(", "));
        let problem = format!("is more than one item; {key} takes one");
        self.mistakes.push(Mistake::new(key, value, problem).near((list && right.len() <= 200).then_some(right)));
    }

    fn item(&mut self, key: &str, item: &str, verb: Verb, known: Option<Kind>) {
        let mut parts = item.split(';').map(str::trim);
        let text = parts.next().unwrap_or_default();
        let read = self.noted(target::kind(key, text, verb, known));
        let kind = read.map(|(kind, _)| kind).or(known);
        let target = read.and_then(|(kind, path)| self.noted(target::target(key, text, kind, path)));
        let mut options = Options::default();
        let mut given = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for part in parts {
            if self.is_enough() {
                break;
            }
            if part.split_once('/').is_some_and(|(word, _)| Kind::ALL.iter().any(|kind| kind.word() == word)) {
                // Its own keys come next: they are no mistakes of this item.
                self.mistakes.push(Mistake::new(key, part, "is an item of its own; items are separated by commas"));
                break;
            }
            let (word, value) = part.split_once('=').map_or((part, None), |(word, value)| (word.trim(), Some(value.trim())));
            if seen.contains(&word) && !word.is_empty() {
                self.mistakes.push(Mistake::new(key, part, format!("gives {word} a second time")));
                continue;
            }
            seen.push(word);
            let read = option(key, part, word, value, verb, kind, &mut options);
            given.extend(self.noted(read).map(|entry| (entry, part.to_owned())));
        }
        self.items.push(Written { key: key.to_owned(), text: item.trim().to_owned(), verb, target, options, given });
    }

    /// What was read; a mistake is noted down.
    fn noted<T>(&mut self, read: Result<T, Box<Mistake>>) -> Option<T> {
        read.map_err(|mistake| self.mistakes.push(*mistake)).ok()
    }
}

/// Reads one `key=value` into the options. Without a kind, the item is wrong already, and only its values are looked at.
fn option(
    key: &str,
    part: &str,
    word: &str,
    value: Option<&str>,
    verb: Verb,
    kind: Option<Kind>,
    options: &mut Options,
) -> Result<&'static Key, Box<Mistake>> {
    let refuse = |problem: String| Err(Box::new(Mistake::new(key, part, problem)));
    if word.is_empty() {
        return refuse("has a `;` with nothing behind it".to_owned());
    }
    let Some(entry) = KEYS.iter().find(|entry| entry.word == word) else {
        let right = nearest(word, KEYS.iter().map(|entry| entry.word)).map(|near| match value {
            Some(value) => format!("{near}={value}"),
            None => near.to_owned(),
        });
        let here = |entry: &&Key| kind.is_none_or(|kind| entry.fits.takes(verb, kind));
        let keys = listed(KEYS.iter().filter(here).map(|entry| entry.word));
        return Err(Box::new(Mistake::new(key, part, format!("has an unknown key; it could be {keys}")).near(right)));
    };
    if let Some(kind) = kind
        && !entry.fits.takes(verb, kind)
    {
        return refuse(match entry.fits {
            Fits::Kinds(kinds) => format!("does not fit {}: {word} is for {}", kind.noun(), listed(kinds.iter().map(|kind| kind.noun()))),
            Fits::Verbs(verbs) | Fits::Whole(verbs) => {
                format!("does not fit {}: {word} is for {}", verb.word(), listed(verbs.iter().map(|verb| verb.word())))
            }
        });
    }
    let Some(value) = value else {
        return refuse(format!("has no value; write {word}= and {}", entry.values));
    };
    match (entry.read)(options, value) {
        Some(()) => Ok(entry),
        None => {
            let right = nearest(value, entry.choices.iter().copied()).map(|value| format!("{word}={value}"));
            Err(Box::new(Mistake::new(key, part, format!("has a wrong value; {word} takes {}", entry.values)).near(right)))
        }
    }
}

fn unknown_annotation(key: &str, word: &str, value: &str) -> Mistake {
    if let Some(entry) = KEYS.iter().find(|entry| entry.word == word) {
        let item = match entry.fits {
            Fits::Kinds([kind, ..]) => format!("{}: {kind}/x", kind.verbs().first().map_or("acquire", |verb| verb.word())),
            Fits::Verbs([verb]) => format!("{}: {}/x", verb.word(), verb.example().0),
            Fits::Kinds(_) | Fits::Verbs(_) | Fits::Whole(_) => "acquire: mutex/x".to_owned(),
        };
        let problem =
            format!("is no annotation but the key of an item; write it behind the item, like {USER_PREFIX}{item};{word}={}", clip(value));
        return Mistake::new(key, key, problem);
    }
    let problem = format!("is no annotation of konductor; there are {}", words().collect::<Vec<_>>().join(", "));
    Mistake::new(key, key, problem).near(nearest(word, words()).map(|word| format!("{USER_PREFIX}{word}")))
}

//! The grammar. It collects mistakes and goes on, so that a person learns of all of them at once.

use std::collections::BTreeMap;

use super::{
    Item, Kind, Mistake, Mistakes, Mode, OnConflict, OnLost, Plan, Role, Subject, Target,
    distance::{distance, nearest},
    table::{ANNOTATIONS, Annotation, KEYS, KINDS, Meaning, Options, Read},
};
use crate::api::names::{STATUS_PREFIX, USER_PREFIX};

/// Most items of one object: each costs a round trip before the first container starts.
pub const MAX_ITEMS: usize = 16;
/// Longest value of an annotation, in bytes: room for [`MAX_ITEMS`] items of the longest names.
pub const MAX_VALUE: usize = 16 * 1024;

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

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
        match key.strip_prefix(USER_PREFIX) {
            Some(word) => found.annotation(key, word, value),
            None => found.mistakes.extend(lookalike(key)),
        }
    }
    found.finish(subject)
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
    let near = |text: &str| distance(text, NAME) <= 2;
    let meant = prefix.is_empty()
        || near(label) && (valid || label.starts_with('k') && (domain.is_empty() || domain == "io"))
        || distance(prefix, "konductor.io") <= 2 && prefix.starts_with('k')
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
    items: Vec<(String, Item)>,
    options: Vec<(String, String, Options)>,
    off: bool,
    mistakes: Vec<Mistake>,
}

impl Found {
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
            Meaning::Acquire if value.trim().is_empty() => {
                self.mistakes.push(Mistake::new(key, value, "is empty; write items like mutex/db-migrate"))
            }
            Meaning::Acquire => value.split(',').for_each(|item| self.item(key, item, None)),
            Meaning::AcquireOne(kind) => self.one(key, value, *kind),
            Meaning::Inject => match value {
                "false" => self.off = true,
                "true" => {}
                _ => self.mistakes.push(Mistake::new(key, value, "is neither true nor false").near(nearest(value, ["true", "false"]))),
            },
            Meaning::Later => self.mistakes.push(Mistake::new(key, word, "is not supported by this version yet")),
        }
    }

    /// A short form: one item whose kind the annotation names.
    fn one(&mut self, key: &str, value: &str, kind: Kind) {
        if value.contains(',') {
            let items: Vec<String> = value.split(',').map(|item| format!("{kind}/{}", item.trim())).collect();
            let problem = format!("is more than one item; {key} takes one");
            let right = format!("{USER_PREFIX}acquire: {}", items.join(", "));
            self.mistakes.push(Mistake::new(key, value, problem).near((right.len() <= 200).then_some(right)));
        } else {
            self.item(key, value, Some(kind));
        }
    }

    fn item(&mut self, key: &str, item: &str, kind: Option<Kind>) {
        let mut parts = item.split(';').map(str::trim);
        let target = self.target(key, parts.next().unwrap_or_default(), kind);
        let mut options = Options::default();
        let mut seen: Vec<&str> = Vec::new();
        for part in parts {
            let (word, value) = part.split_once('=').map_or((part, None), |(word, value)| (word.trim(), Some(value.trim())));
            if seen.contains(&word) && !word.is_empty() {
                self.mistakes.push(Mistake::new(key, part, format!("gives {word} a second time")));
                continue;
            }
            seen.push(word);
            if let Err(mistake) = option(key, part, word, value, target.as_ref().map(|target| target.kind).or(kind), &mut options) {
                self.mistakes.push(*mistake);
            }
        }
        if options.release.is_some() || options.fencing.is_some() {
            self.options.push((key.to_owned(), item.trim().to_owned(), options.clone()));
        }
        let Options { timeout, permits, priority, release: _, fencing: _ } = options;
        if let Some(target) = target {
            if let Some((first, _)) = self.items.iter().find(|(_, item)| item.target == target) {
                let problem = if first == key { "is named twice".to_owned() } else { format!("is named twice, here and in {first}") };
                self.mistakes.push(Mistake::new(
                    key,
                    &target.to_string(),
                    format!("{problem}; an object is held once, with `permits` for more of a Semaphore"),
                ));
            }
            let role = Role::Hold { permits: permits.unwrap_or(1), mode: Mode::default(), priority: priority.unwrap_or(0), create: false };
            self.items.push((key.to_owned(), Item { target, role, timeout }));
        }
    }

    /// `[namespace/]name` of a known kind, or `kind/[namespace/]name`.
    fn target(&mut self, key: &str, text: &str, known: Option<Kind>) -> Option<Target> {
        let mut refuse = |problem: String, right: Option<String>| {
            self.mistakes.push(Mistake::new(key, text, problem).near(right));
            None
        };
        if text.is_empty() {
            let example = known.map_or("mutex/db-migrate", |_| "db-migrate");
            return refuse(format!("is an empty item; write one like {example}"), None);
        }
        let (kind, path) = match (known, text.split_once('/')) {
            // `konductor.io/mutex: mutex/db` would name the namespace `mutex`: far more often it is the kind, written twice.
            (Some(kind), Some((word, rest))) if KINDS.iter().any(|entry| entry.word == word) => {
                return refuse(format!("names a kind, but {key} names it already ({kind})"), Some(rest.to_owned()));
            }
            (Some(kind), _) => (kind, text),
            (None, None) => {
                let right = KINDS.iter().find(|entry| entry.word == text).is_none().then(|| format!("mutex/{text}"));
                return refuse("has no kind; write kind/name or kind/namespace/name".to_owned(), right);
            }
            (None, Some((word, rest))) => match KINDS.iter().find(|entry| entry.word == word) {
                Some(entry) => match entry.kind {
                    Some(kind) => (kind, rest),
                    None => return refuse(format!("is not supported by this version yet: it can hold {}", kinds_now()), None),
                },
                None => {
                    let right = nearest(word, KINDS.iter().map(|entry| entry.word)).map(|kind| format!("{kind}/{rest}"));
                    return refuse(format!("begins with an unknown kind; the kinds are {}", kinds_now()), right);
                }
            },
        };
        let (namespace, name) = match path.split_once('/') {
            Some((_, name)) if name.contains('/') => {
                return refuse("has too many slashes; write kind/name or kind/namespace/name".to_owned(), None);
            }
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, path),
        };
        if let Some(namespace) = namespace
            && !is_label(namespace)
        {
            let problem = format!(
                "names the namespace `{}`, which is no name of a namespace: small letters, digits and `-`, at most {MAX_LABEL}",
                clip(namespace)
            );
            return refuse(problem, likely(namespace, is_label).map(|namespace| text.replacen(path, &format!("{namespace}/{name}"), 1)));
        }
        if !is_subdomain(name) {
            let problem =
                format!("names `{}`, which is no name of a {kind}: small letters, digits, `-` and `.`, at most {MAX_NAME}", clip(name));
            return refuse(problem, likely(name, is_subdomain).map(|right| text.replacen(name, &right, 1)));
        }
        Some(Target { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }

    fn finish(self, subject: Subject) -> Result<Option<Plan>, Mistakes> {
        let Self { items, options, off, mistakes: mut list } = self;
        if items.len() > MAX_ITEMS
            && let Some((key, _)) = items.first()
        {
            list.push(Mistake::new(key, &format!("{} items", items.len()), format!("are too many; {MAX_ITEMS} are allowed")));
        }
        let release = agreed(&options, "release", |options| options.release, &mut list);
        let fencing = agreed(&options, "fencing", |options| options.fencing, &mut list).unwrap_or(false);
        if !list.is_empty() {
            return Err(Mistakes { subject, list });
        }
        if off || items.is_empty() {
            return Ok(None);
        }
        let items = items.into_iter().map(|(_, item)| item).collect();
        let mut plan = Plan {
            items,
            release,
            fencing,
            strategy: None,
            on_conflict: OnConflict::default(),
            on_lost: OnLost::default(),
            max_hold: None,
            start_timeout: None,
        };
        plan.arrange();
        Ok(Some(plan))
    }
}

/// The value that the items agree on: these keys concern the Pod as a whole.
fn agreed<T: PartialEq + Copy>(
    options: &[(String, String, Options)],
    word: &str,
    read: fn(&Options) -> Option<T>,
    mistakes: &mut Vec<Mistake>,
) -> Option<T> {
    let mut given = options.iter().filter_map(|(key, item, options)| read(options).map(|value| (key, item, value)));
    let (_, first, value) = given.next()?;
    if let Some((key, item, _)) = given.find(|(_, _, other)| *other != value) {
        mistakes.push(Mistake::new(
            key,
            item,
            format!("contradicts `{}`: {word} concerns the whole Pod and can have one value only", clip(first)),
        ));
    }
    Some(value)
}

/// Reads one `key=value` into the options.
fn option(key: &str, part: &str, word: &str, value: Option<&str>, kind: Option<Kind>, options: &mut Options) -> Result<(), Box<Mistake>> {
    let refuse = |problem: String| Box::new(Mistake::new(key, part, problem));
    if word.is_empty() {
        return Err(refuse("is no key=value".to_owned()));
    }
    let Some(entry) = KEYS.iter().find(|entry| entry.word == word) else {
        let right = nearest(word, KEYS.iter().map(|entry| entry.word)).map(|near| match value {
            Some(value) => format!("{near}={value}"),
            None => near.to_owned(),
        });
        return Err(Box::new(Mistake::new(key, part, format!("has an unknown key; the keys are {}", keys_now())).near(right)));
    };
    let Read::Now(read) = entry.read else {
        return Err(refuse(format!("is not supported by this version yet; the keys are {}", keys_now())));
    };
    if let Some(kind) = kind
        && !entry.kinds.is_empty()
        && !entry.kinds.contains(&kind)
    {
        let fits: Vec<&str> = entry.kinds.iter().map(|kind| kind.word()).collect();
        return Err(refuse(format!("does not fit a {kind}: {word} is for a {}", fits.join(", "))));
    }
    let Some(value) = value else {
        return Err(refuse(format!("has no value; write {word}= and {}", entry.values)));
    };
    read(options, value).ok_or_else(|| {
        let right = nearest(value, entry.choices.iter().copied()).map(|value| format!("{word}={value}"));
        Box::new(Mistake::new(key, part, format!("has a wrong value; {word} takes {}", entry.values)).near(right))
    })
}

fn unknown_annotation(key: &str, word: &str, value: &str) -> Mistake {
    if KEYS.iter().any(|entry| entry.word == word) {
        let problem = format!(
            "is no annotation but the key of an item; write it behind the item, like {USER_PREFIX}semaphore: api;{word}={}",
            clip(value)
        );
        return Mistake::new(key, key, problem);
    }
    let problem = format!(
        "is no annotation of konductor; there are {}",
        ANNOTATIONS.iter().filter(|entry| !matches!(entry.meaning, Meaning::Later)).map(|entry| entry.word).collect::<Vec<_>>().join(", ")
    );
    Mistake::new(key, key, problem).near(nearest(word, words()).map(|word| format!("{USER_PREFIX}{word}")))
}

fn kinds_now() -> String {
    KINDS.iter().filter(|entry| entry.kind.is_some()).map(|entry| entry.word).collect::<Vec<_>>().join(", ")
}

fn keys_now() -> String {
    KEYS.iter().filter(|entry| matches!(entry.read, Read::Now(_))).map(|entry| entry.word).collect::<Vec<_>>().join(", ")
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The name that was probably meant: small letters, `-` for what Kubernetes does not take.
fn likely(text: &str, valid: fn(&str) -> bool) -> Option<String> {
    let right: String = text.to_lowercase().chars().map(|c| if c == '_' || c.is_whitespace() { '-' } else { c }).collect();
    valid(&right).then_some(right)
}

/// A DNS label, as Kubernetes wants for namespaces.
fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty() && text.len() <= MAX_LABEL && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS subdomain, as Kubernetes wants for names.
fn is_subdomain(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= MAX_NAME
        && text.split('.').all(|part| !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-'))
}

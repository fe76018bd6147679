//! What an item names: `kind/[namespace/]name`, or `[namespace/]name` where the annotation names the kind.

use super::{
    Kind, Mistake, Target,
    distance::nearest,
    table::{KINDS, Verb},
};
use crate::api::names::USER_PREFIX;

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// What a name of an object is made of.
pub const NAME: &str = "small letters, digits, `-` and `.`, at most 253";

/// The kind of an item, and the rest of its text.
pub(super) fn kind<'a>(key: &str, text: &'a str, verb: Verb, known: Option<Kind>) -> Result<(Kind, &'a str), Box<Mistake>> {
    let refuse = |problem: String, right: Option<String>| Err(Box::new(Mistake::new(key, text, problem).near(right)));
    let (example, name) = verb.example();
    if text.is_empty() {
        let example = if known.is_some() { name.to_owned() } else { format!("{example}/{name}") };
        return refuse(format!("is an empty item; write one like {example}"), None);
    }
    let split = text.split_once('/').map(|(word, rest)| (word, of(word), rest));
    let (kind, rest) = match (known, split) {
        // `konductor.io/mutex: mutex/db` would name the namespace `mutex`: far more often it is the kind, written twice.
        (Some(kind), Some((_, Some(_), rest))) => {
            return refuse(format!("names a kind, but {key} names it already ({kind})"), Some(rest.to_owned()));
        }
        (Some(kind), _) => (kind, text),
        (None, None) => {
            let right = match text.split_once(':').map(|(word, name)| (of(word.trim()), name.trim())) {
                Some((Some(kind), name)) => Some(right(kind, name, verb)),
                Some((None, _)) => None,
                None => of(text).is_none().then(|| format!("{example}/{text}")),
            };
            return refuse("has no kind; write kind/name or kind/namespace/name".to_owned(), right);
        }
        (None, Some((_, Some(kind), rest))) => (kind, rest),
        (None, Some((word, None, rest))) => {
            let right = nearest(word, KINDS.iter().map(|entry| entry.kind.word())).and_then(of).map(|kind| right(kind, rest, verb));
            return refuse(format!("begins with an unknown kind; {} takes {}", verb.word(), listed(verb.kinds().map(Kind::word))), right);
        }
    };
    if kind.verbs().contains(&verb) {
        return Ok((kind, rest));
    }
    let problem = format!(
        "cannot stand here: {} takes {}, and {} goes with {}",
        verb.word(),
        listed(verb.kinds().map(Kind::word)),
        kind.noun(),
        listed(kind.verbs().iter().map(|verb| verb.word()))
    );
    refuse(problem, (kind.verbs().len() == 1).then(|| right(kind, rest, verb)))
}

/// Where an item of this kind belongs, if not behind this verb.
fn right(kind: Kind, rest: &str, verb: Verb) -> String {
    match kind.verbs().first() {
        Some(other) if !kind.verbs().contains(&verb) && *other == Verb::Once => format!("{USER_PREFIX}once: {rest}"),
        Some(other) if !kind.verbs().contains(&verb) => format!("{USER_PREFIX}{}: {kind}/{rest}", other.word()),
        _ => format!("{kind}/{rest}"),
    }
}

/// `[namespace/]name`; `text` is the whole item, for messages.
pub(super) fn target(key: &str, text: &str, kind: Kind, path: &str) -> Result<Target, Box<Mistake>> {
    let refuse = |problem: String, right: Option<String>| Err(Box::new(Mistake::new(key, text, problem).near(right)));
    let (namespace, name) = match path.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            let form = if path == text { "name or namespace/name" } else { "kind/name or kind/namespace/name" };
            return refuse(format!("has too many slashes; write {form}"), None);
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
        let problem = format!("names `{}`, which is no name of {}: {NAME}", clip(name), kind.noun());
        return refuse(problem, likely(name, is_subdomain).map(|right| text.replacen(name, &right, 1)));
    }
    Ok(Target { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() })
}

fn of(word: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.word() == word)
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.collect();
    match words.split_last() {
        Some((last, front)) if !front.is_empty() => format!("{} or {last}", front.join(", ")),
        _ => words.concat(),
    }
}

pub(super) fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The name that was probably meant: small letters, `-` for what Kubernetes does not take.
fn likely(text: &str, valid: fn(&str) -> bool) -> Option<String> {
    let right: String = text.to_lowercase().chars().map(|c| if c == '_' || c.is_whitespace() { '-' } else { c }).collect();
    valid(&right).then_some(right)
}

/// A DNS label, as Kubernetes wants for namespaces.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty() && text.len() <= MAX_LABEL && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS subdomain, as Kubernetes wants for names.
pub fn is_subdomain(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= MAX_NAME
        && text.split('.').all(|part| !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-'))
}

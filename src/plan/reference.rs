//! The tables of `docs/annotations.md`, as Markdown: made from the same table that the parser reads.

use super::{
    Kind,
    table::{ANNOTATIONS, Annotation, Fits, KEYS, Key, Meaning, Verb},
};

/// Each table with its name.
pub fn tables() -> [(&'static str, String); 3] {
    let whole = |key: &&Key| matches!(key.fits, Fits::Whole(_));
    [
        ("annotations", table(&["annotation", "value", "kinds", "means"], ANNOTATIONS.iter().map(annotation))),
        ("keys", table(&["key", "values", "default", "behind", "means"], KEYS.iter().filter(|key| !whole(key)).map(key))),
        ("whole", table(&["key", "values", "default", "if there is a", "means"], KEYS.iter().filter(whole).map(key))),
    ]
}

fn table<const N: usize>(head: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head = line(&head.map(str::to_owned)) + "|" + &"---|".repeat(N) + "\n";
    rows.fold(head, |text, row| text + &line(&row))
}

fn annotation(annotation: &Annotation) -> [String; 4] {
    let Annotation { word, meaning, about } = annotation;
    let (value, kinds) = match meaning {
        Meaning::List(verb) => ("list".to_owned(), kinds(verb.kinds())),
        Meaning::One(_, kind) => ("one".to_owned(), kinds([*kind])),
        Meaning::Inject => (code(&["true", "false"]), String::new()),
    };
    [format!("`konductor.io/{word}`"), value, kinds, sentence(about)]
}

fn key(key: &Key) -> [String; 5] {
    let Key { word, values, choices, default, fits, read: _, about } = key;
    let default = if choices.contains(default) { code(&[*default]) } else { (*default).to_owned() };
    let values = if choices.is_empty() { (*values).to_owned() } else { code(choices) };
    let fits = match fits {
        Fits::Verbs(verbs) | Fits::Whole(verbs) => words(verbs.iter().map(|verb| verb.word())),
        Fits::Kinds(kinds) => format!("{} of {}", Verb::Acquire.word(), words(kinds.iter().map(|kind| kind.noun()))),
    };
    [format!("`{word}`"), values, default, fits, sentence(about)]
}

fn kinds(kinds: impl IntoIterator<Item = Kind>) -> String {
    words(kinds.into_iter().map(Kind::word))
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A cell of a table ends without a full stop.
fn sentence(text: &str) -> String {
    text.trim_end_matches('.').to_owned()
}

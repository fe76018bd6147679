//! The nearest valid word to one that is not.

/// The candidate that `text` was probably meant to be: few edits away, or begun by it (`sem`, `perm`).
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text: String = text.chars().take(64).flat_map(char::to_lowercase).collect();
    let allowed = 1 + text.chars().count() / 4;
    candidates
        .into_iter()
        .filter_map(|word| {
            let edits = if text.len() >= 3 && word.starts_with(&text) { 1 } else { distance(&text, word) };
            (edits <= allowed && edits < word.len()).then_some((edits, word))
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, word)| word)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (optimal string alignment).
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut left: Option<char> = None;
    let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
    for (row, here) in a.chars().enumerate() {
        let mut current = vec![row + 1];
        let mut above: Option<char> = None;
        for (column, &there) in b.iter().enumerate() {
            let mut cost = (at(&last, column + 1) + 1).min(at(&current, column) + 1).min(at(&last, column) + usize::from(here != there));
            if left == Some(there) && above == Some(here) && column > 0 {
                cost = cost.min(at(&before, column - 1) + 1);
            }
            current.push(cost);
            above = Some(there);
        }
        before = std::mem::replace(&mut last, current);
        left = Some(here);
    }
    at(&last, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in
            [("", "", 0), ("", "abc", 3), ("mutex", "mutex", 0), ("mutx", "mutex", 1), ("muetx", "mutex", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let words = ["mutex", "semaphore", "permits"];
        for (text, word) in
            [("Mutex", Some("mutex")), ("sem", Some("semaphore")), ("permit", Some("permits")), ("banana", None), ("x", None), ("", None)]
        {
            assert_eq!(nearest(text, words), word, "{text}");
        }
    }
}

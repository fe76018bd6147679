//! Timestamps in JSON, moved: to whoever sees a world whose every timestamp is an hour ahead, its own clock is an hour behind.

use k8s_openapi::jiff::{SignedDuration, Timestamp, fmt::rfc2822};

/// `2026-11-28T14:00:00`: what every timestamp of Kubernetes begins with; fractions and `Z` stay as they are.
const LENGTH: usize = 19;

/// Moves every timestamp in this text.
pub fn shift(text: &[u8], by: SignedDuration) -> Vec<u8> {
    let mut moved = text.to_vec();
    let mut at = 0;
    while at + LENGTH < text.len() {
        match timestamp(&text[at..at + LENGTH], text[at + LENGTH]) {
            Some(time) => {
                let later = time.checked_add(by).unwrap_or(time).to_string();
                moved[at..at + LENGTH].copy_from_slice(&later.as_bytes()[..LENGTH]);
                at += LENGTH;
            }
            None => at += 1,
        }
    }
    moved
}

fn timestamp(text: &[u8], next: u8) -> Option<Timestamp> {
    if text[4] != b'-' || text[10] != b'T' || text[13] != b':' || ![b'Z', b'.'].contains(&next) {
        return None;
    }
    format!("{}Z", std::str::from_utf8(text).ok()?).parse().ok()
}

/// A `Date` header, moved.
pub fn date(text: &str, by: SignedDuration) -> Option<String> {
    let moved = rfc2822::parse(text).ok()?.timestamp().checked_add(by).ok()?;
    rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&moved).ok()
}

//! The test of the observer itself.

pub fn all_are_seen() -> bool {
    true
}

//! Names of Claims: found again by kind, name, operation and holder where a later command must find them, and unique elsewhere. What is found again has one
//! user at a time in this process.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::{ClaimKind, Operation};

/// Longest part of a name that is there for people.
const READABLE: usize = 60;

/// The name of the Claim by which this holder does this. It is the same in every version: a later command finds what an earlier one made.
pub(crate) fn lasting(kind: ClaimKind, name: &str, operation: Operation, holder: &str) -> String {
    let whole = format!("{kind:?}/{name}/{operation:?}/{holder}");
    format!("{}-{}-{:016x}", readable(&format!("{kind:?}-{name}")), readable(holder), digest(&whole))
}

/// A name that no other Claim has.
pub(crate) fn unique(kind: ClaimKind, name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // The state is random for each process and call.
    let random = RandomState::new().hash_one((std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    format!("{}-{random:016x}", readable(&format!("{kind:?}-{name}")))
}

/// As much of a text as a name of an object can show.
fn readable(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().take(READABLE).map(allowed).collect();
    match name.trim_matches('-') {
        "" => "x".to_owned(),
        name => name.to_owned(),
    }
}

/// FNV-1a: the standard library's hashes may differ from version to version. Who finds a Claim by its name looks whether it is the one that was meant.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The names that this process uses.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<String, Use>>);

struct Use {
    /// Nobody wants it any more; its Claim may still be there.
    ending: CancellationToken,
    /// Nothing is left of it.
    over: CancellationToken,
}

impl Names {
    /// Takes a name until what is returned is dropped. Waits for one that is [ending](Use::ending); `None` if somebody else uses it.
    pub(crate) async fn take(&self, name: &str, ending: &CancellationToken) -> Option<DropGuard> {
        loop {
            let over = {
                let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                names.retain(|_, other| !other.over.is_cancelled());
                match names.get(name) {
                    Some(other) if other.ending.is_cancelled() => other.over.clone(),
                    Some(_) => return None,
                    None => {
                        let over = CancellationToken::new();
                        names.insert(name.to_owned(), Use { ending: ending.clone(), over: over.clone() });
                        return Some(over.drop_guard());
                    }
                }
            };
            over.cancelled().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_a_name(name: &str) -> bool {
        name.len() <= 253
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !name.starts_with('-')
            && !name.ends_with('-')
    }

    #[test]
    fn a_later_command_of_any_version_finds_it() {
        assert_eq!(lasting(ClaimKind::Mutex, "db", Operation::Acquire, "a"), "mutex-db-a-303eac50089bb608");
    }

    #[test]
    fn what_reads_alike_is_told_apart() {
        let name = |primitive, holder| lasting(ClaimKind::Mutex, primitive, Operation::Acquire, holder);
        assert_ne!(name("a-b", "c"), name("a", "b-c"));
        assert_ne!(name("a", "B"), name("a", "b"));
        assert_ne!(unique(ClaimKind::Mutex, "db"), unique(ClaimKind::Mutex, "db"));
    }

    proptest! {
        #[test]
        fn every_holder_gives_a_name_that_kubernetes_takes(name in "[a-z]([-.a-z0-9]{0,250}[a-z0-9])?", holder in "\\PC{1,300}") {
            prop_assert!(is_a_name(&lasting(ClaimKind::WaitGroup, &name, Operation::Acquire, &holder)));
            prop_assert!(is_a_name(&unique(ClaimKind::WaitGroup, &name)));
        }
    }
}

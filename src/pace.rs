//! How fast somebody may ask: so many at once, then one in each interval. Synchronous.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Most askers that are remembered; if there are more, all are forgotten.
const MOST_KEPT: usize = 100_000;

/// The pace of each asker, kept as one moment: when all that it has asked so far would have been asked one by one.
pub struct Pace<K> {
    every: Duration,
    ahead: Duration,
    until: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Pace<K> {
    /// `at_once`, and then one `every` so often.
    pub fn new(at_once: u32, every: Duration) -> Self {
        Self { every, ahead: every.saturating_mul(at_once.saturating_sub(1)), until: Mutex::default() }
    }

    /// Whether this one has asked too much already.
    pub fn is_spent<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.lock().get(key).is_some_and(|until| *until > Instant::now() + self.ahead)
    }

    /// It asked once more.
    pub fn count(&self, key: K) {
        let now = Instant::now();
        let mut until = self.lock();
        if until.len() >= MOST_KEPT {
            until.retain(|_, until| *until > now);
            if until.len() >= MOST_KEPT {
                until.clear();
            }
        }
        let until = until.entry(key).or_insert(now);
        *until = (*until).max(now) + self.every;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_then_one_in_each_interval_for_each_asker() {
        let pace = Pace::new(3, Duration::from_secs(1));
        let ask = |key| {
            let may = !pace.is_spent(&key);
            if may {
                pace.count(key);
            }
            may
        };
        assert_eq!([ask('a'), ask('a'), ask('a'), ask('a'), ask('b')], [true, true, true, false, true]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([ask('a'), ask('a')], [true, false], "one has come back");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!([ask('a'), ask('a'), ask('a'), ask('a')], [true, true, true, false], "no more than the first number comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_been_silent_is_forgotten() {
        let pace = Pace::new(3, Duration::from_secs(1));
        for asker in 0..MOST_KEPT {
            pace.count(asker);
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        pace.count(MOST_KEPT);
        assert_eq!(pace.lock().len(), 1);
    }
}

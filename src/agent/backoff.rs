//! Pauses between attempts: exponential, with full jitter, so that ten thousand agents that lose one server do not come back as one.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure: anything from nothing to 100 ms, 200 ms, ... 5 s.
    pub fn pause(&mut self) -> Duration {
        let most = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        random_within(Duration::ZERO, most)
    }

    /// It went well for a while.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Evenly distributed. The hasher's keys are random, which is enough for spreading load.
pub fn random_within(least: Duration, most: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(u32::MAX);
    least + most.saturating_sub(least).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds_and_differ() {
        let mut seen = Vec::new();
        for (failures, most) in [(0, 100), (1, 200), (2, 400), (5, 3200), (6, 5000), (4_000_000_000, 5000)] {
            for _ in 0..50 {
                let pause = Backoff { failures }.pause();
                assert!(pause <= Duration::from_millis(most), "{pause:?} after {failures}");
                seen.push(pause);
            }
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert!(seen.len() > all / 2);
        assert!(seen.last() > Some(&Duration::from_secs(3)));
    }
}

//! Backoff between tries, exponential with full jitter.

use rand::Rng;
use std::time::Duration;

/// Counts failed tries and says how long to wait before the next.
///
/// Bounds: a wait is at least a tenth of `first` and at most `longest`; the number of tries is the caller's.
/// Source: "Exponential Backoff And Jitter", the full-jitter variant; it keeps replicas from retrying in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts with no failure.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Forgets all failures, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how many tries failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and returns the wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let floor = (self.first / 10).min(ceiling);
        rand::rng().random_range(floor..=ceiling)
    }
}

impl Default for Backoff {
    /// From 200 ms up to 10 s: short enough that a restarted dependency is found at once, long enough not to flood it.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_never_pass_it() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for failure in 0..100_u32 {
            let wait = backoff.next_wait();
            assert!(
                wait >= Duration::from_millis(10) && wait <= Duration::from_secs(5),
                "{failure}: {wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}

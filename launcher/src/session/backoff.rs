//! How long to wait before the next attempt.

use std::time::Duration;

/// A session that held for so long was no kick. Shorter than a server's usual life between two
/// restarts, or a server that is restarted a few times would be waited for as long as a lease holds.
const STEADY: Duration = Duration::from_secs(15);

/// Waits that double with every failure, each drawn evenly between nothing and its bound, so that ten
/// thousand launchers do not come back at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// No failure yet. The bound of the first wait is `first`, that of none is above `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts a failure and says how long to wait. `fraction` is random, between 0 and 1.
    #[must_use]
    pub fn failed(&mut self, fraction: f64) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(fraction.clamp(0.0, 1.0))
    }

    /// Counts a session that was open for `held`. Only one that held for [`STEADY`] is a success: to be
    /// thrown out right after each connect is a failure like any other.
    pub fn opened_for(&mut self, held: Duration) {
        if held >= STEADY {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bounds(backoff: &mut Backoff, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.failed(1.0).as_secs()).collect()
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::new(SECOND, 60 * SECOND);
        assert_eq!(bounds(&mut backoff, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.failed(0.0), Duration::ZERO);
        assert_eq!(backoff.failed(0.5), 30 * SECOND);
        for _ in 0..100 {
            assert!(backoff.failed(1.0) <= 60 * SECOND);
        }
    }

    #[test]
    fn a_kick_right_after_a_connect_counts_as_a_failure() {
        let mut backoff = Backoff::new(SECOND, 60 * SECOND);
        assert_eq!(bounds(&mut backoff, 3), [1, 2, 4]);
        backoff.opened_for(5 * SECOND);
        assert_eq!(bounds(&mut backoff, 1), [8]);
        backoff.opened_for(15 * SECOND);
        assert_eq!(bounds(&mut backoff, 1), [1]);
    }
}

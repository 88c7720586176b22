//! Repeated measurements and what is told of them.

use std::time::Duration;

use serde_json::{Value, json};

/// Times of one thing, measured repeatedly.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a measurement.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The value below which the given part (0 to 1 in hundredths) of the measurements lies: nearest rank.
    pub fn percentile(&self, hundredths: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * hundredths).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// Median and 95th percentile in milliseconds.
    pub fn to_json(&self) -> Value {
        json!({ "runs": self.0.len(), "median_ms": ms(self.percentile(50)), "p95_ms": ms(self.percentile(95)) })
    }
}

/// Milliseconds with two decimals.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

/// How many times `ours` is `baseline`, with three decimals.
pub fn ratio(ours: Duration, baseline: Duration) -> f64 {
    (ours.as_secs_f64() / baseline.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements_that_happened() {
        let mut samples = Samples::default();
        for ms in (1..=30).rev() {
            samples.add(Duration::from_millis(ms));
        }
        assert_eq!(samples.percentile(50), Duration::from_millis(15));
        assert_eq!(samples.percentile(95), Duration::from_millis(29));
        assert_eq!(samples.percentile(100), Duration::from_millis(30));
        assert_eq!(Samples::default().percentile(50), Duration::ZERO);
    }
}

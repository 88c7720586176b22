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

/// Milliseconds since 1970 of a time such as `2026-11-21T12:30:00.123Z`.
pub fn rfc3339_ms(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fraction = text.get(19..)?.strip_suffix('Z')?.strip_prefix('.').unwrap_or("0");
    let thousandths = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    // Days since 1970 in a calendar whose years begin in March, so that the leap day is the last one.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + thousandths)
}

/// Milliseconds since 1970 that a ULID begins with.
pub fn ulid_ms(ulid: &str) -> Option<i64> {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    ulid.get(..10)?
        .chars()
        .try_fold(0_i64, |time, digit| Some(time * 32 + i64::try_from(DIGITS.find(digit)?).ok()?))
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

    #[test]
    fn times_are_read_to_the_millisecond() {
        assert_eq!(rfc3339_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339_ms("2024-02-29T23:59:59.5Z"), Some(1_709_251_199_500));
        assert_eq!(rfc3339_ms("2026-11-21T12:30:00.123456Z"), Some(1_795_264_200_123));
        assert_eq!(rfc3339_ms("2026-11-21"), None);
        assert_eq!(rfc3339_ms("yesterday"), None);
    }

    #[test]
    fn a_ulid_begins_with_its_time() {
        assert_eq!(ulid_ms("01ARZ3NDEKTSV4RRFFQ69G5FAV"), Some(1_469_922_850_259));
        assert_eq!(ulid_ms("01ARZ3NDE"), None);
        assert_eq!(ulid_ms("01ARZ3NDEU"), None);
    }
}

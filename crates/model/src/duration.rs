//! Durations as Go spells them, which is how Spacelift's variables are documented.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest duration that is taken.
pub const LONGEST: Duration = Duration::from_hours(30 * 24);
/// The longest text that is looked at.
const MAX_TEXT: usize = 64;

/// A duration of a text such as `1h10m`, `90s` or `1.5h`: more than none, and at most 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(Duration);

/// A text that is no such duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not Go's spelling.
    #[error("is not a duration: write hours, minutes and seconds as in 70m, 90s or 1h10m")]
    Spelling,
    /// A number without unit.
    #[error("has a number without a unit: write h, m, s or ms behind each, as in 70m or 1h10m")]
    Unit,
    /// More decimals than a duration keeps.
    #[error("has more decimals than can be kept: use a smaller unit")]
    Precision,
    /// Zero.
    #[error("is zero: give more than 0")]
    Zero,
    /// Below zero.
    #[error("is negative: give more than 0")]
    Negative,
    /// Above [`LONGEST`].
    #[error("is too long: give at most 720h, which is 30 days")]
    TooLong,
}

impl GoDuration {
    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<Duration> for GoDuration {
    type Error = InvalidDuration;

    fn try_from(duration: Duration) -> Result<Self, InvalidDuration> {
        if duration.is_zero() {
            Err(InvalidDuration::Zero)
        } else if duration > LONGEST {
            Err(InvalidDuration::TooLong)
        } else {
            Ok(Self(duration))
        }
    }
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        if text.len() > MAX_TEXT {
            return Err(InvalidDuration::Spelling);
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let normal = if unsigned == "0" { "0s".to_owned() } else { normalise(unsigned)? };
        // Checked above: what it would read beyond Go's grammar (days, months, spaces) never gets here.
        let duration = humantime::parse_duration(&normal).map_err(|error| match error {
            humantime::DurationError::NumberOverflow if normal.contains('.') => {
                InvalidDuration::Precision
            }
            humantime::DurationError::NumberOverflow => InvalidDuration::TooLong,
            humantime::DurationError::InvalidCharacter(_)
            | humantime::DurationError::NumberExpected(_)
            | humantime::DurationError::UnknownUnit { .. }
            | humantime::DurationError::Empty => InvalidDuration::Spelling,
        })?;
        if text.starts_with('-') && !duration.is_zero() {
            return Err(InvalidDuration::Negative);
        }
        Self::try_from(duration)
    }
}

/// Checks Go's grammar, `(digits[.digits] | .digits) unit`, once or more, and gives the same in the
/// spelling that humantime takes: no bare point, micro as `us`.
fn normalise(text: &str) -> Result<String, InvalidDuration> {
    let mut normal = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(InvalidDuration::Spelling);
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ns" | "us" | "ms" | "s" | "m" | "h" => unit,
            "\u{b5}s" | "\u{3bc}s" => "us",
            "" => return Err(InvalidDuration::Unit),
            _ => return Err(InvalidDuration::Spelling),
        };
        normal.push_str(if whole.is_empty() { "0" } else { whole });
        let fraction = fraction.trim_end_matches('0');
        if !fraction.is_empty() {
            normal.push('.');
            normal.push_str(fraction);
        }
        normal.push_str(unit);
        rest = after;
    }
    if normal.is_empty() { Err(InvalidDuration::Spelling) } else { Ok(normal) }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// As Go prints it: `1h10m0s`, `1.5s`, `250ms`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        if self.0.as_secs() == 0 {
            return match nanos {
                0..1_000 => write!(f, "{nanos}ns"),
                1_000..1_000_000 => write!(f, "{}µs", Decimal(nanos / 1_000, nanos % 1_000, 3)),
                _ => write!(f, "{}ms", Decimal(nanos / 1_000_000, nanos % 1_000_000, 6)),
            };
        }
        let (hours, minutes) = (self.0.as_secs() / 3_600, self.0.as_secs() / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        let seconds = u32::try_from(self.0.as_secs() % 60).expect("a rest below 60");
        write!(f, "{}s", Decimal(seconds, nanos, 9))
    }
}

/// A whole part and a fraction of so many digits, without the zeros at its end.
struct Decimal(u32, u32, usize);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(whole, fraction, width) = *self;
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:0width$}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Duration, InvalidDuration> {
        text.parse().map(GoDuration::get)
    }

    #[test]
    fn what_go_reads_is_read_alike() {
        for (text, millis) in [
            ("7m", 420_000),
            ("70m", 4_200_000),
            ("1h10m", 4_200_000),
            ("1000s", 1_000_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("2h45m30.5s", 9_930_500),
            (".5s", 500),
            ("+5m", 300_000),
            ("5.s", 5_000),
            ("1m1m", 120_000),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
            ("1000\u{3bc}s", 1),
            ("1.000000000s", 1_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        use InvalidDuration::{Negative, Precision, Spelling, TooLong, Unit, Zero};
        for (text, why) in [
            ("", Spelling),
            ("+", Spelling),
            ("1d", Spelling),
            ("10M", Spelling),
            ("1h 10m", Spelling),
            (" 1h", Spelling),
            ("1min", Spelling),
            ("1.2.3s", Unit),
            (".s", Spelling),
            ("h", Spelling),
            ("100", Unit),
            ("1h10", Unit),
            ("0", Zero),
            ("0s", Zero),
            ("-0s", Zero),
            ("-5m", Negative),
            ("721h", TooLong),
            ("99999999999999999999s", TooLong),
            ("0.5ns", Precision),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        assert_eq!(parse(&"1s".repeat(100)), Err(Spelling));
    }

    proptest! {
        #[test]
        fn a_printed_duration_is_read_back(nanos in 1u64..=LONGEST.as_secs() * 1_000_000_000) {
            let duration = GoDuration::try_from(Duration::from_nanos(nanos)).unwrap();
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn parts_add_up(h in 0u64..300, m in 0u64..1000, s in 0u64..10_000, ms in 1u64..100_000) {
            let text = format!("{h}h{m}m{s}s{ms}ms");
            let sum = Duration::from_secs(h * 3600 + m * 60 + s) + Duration::from_millis(ms);
            prop_assert_eq!(parse(&text), Ok(sum));
        }

        #[test]
        fn no_text_is_too_much(text in "\\PC{0,80}") {
            if let Ok(duration) = text.parse::<GoDuration>() {
                prop_assert!(!duration.get().is_zero() && duration.get() <= LONGEST);
            }
        }
    }
}

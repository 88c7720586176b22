//! Time zones for the policy engine, in the place of the crate of this name.
//!
//! The engine asks one thing of it: how far from UTC a named zone is at an instant. That crate keeps its
//! tables as 28,000 pointers. A program that may be loaded anywhere writes each anew when it starts, so they
//! cost every launcher 1.7 MB of memory, though few policies name a zone. Here the same tables
//! are bytes, and nothing is read before a zone is named.

use std::str::FromStr;
use std::sync::LazyLock;

use chrono::{DateTime, FixedOffset};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// No zone has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone of that name: use one of the IANA database, such as Europe/Berlin")]
pub struct ParseError;

/// A zone of the IANA database, named as it is there, upper and lower case included.
#[derive(Debug, Clone)]
pub struct Tz(TimeZone);

impl FromStr for Tz {
    type Err = ParseError;

    fn from_str(name: &str) -> Result<Self, ParseError> {
        let zone = ZONES.get(name).map_err(|_| ParseError)?;
        if zone.iana_name() == Some(name) { Ok(Self(zone)) } else { Err(ParseError) }
    }
}

impl Tz {
    /// The instant so many nanoseconds after 1970 began in UTC, as clocks of the zone show it.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it cannot: see what is expected")]
    pub fn timestamp_nanos(&self, nanoseconds: i64) -> DateTime<FixedOffset> {
        let instant = Timestamp::from_nanosecond(nanoseconds.into())
            .expect("64 bits of nanoseconds are 292 years, and a Timestamp holds thousands");
        let offset = FixedOffset::east_opt(self.0.to_offset(instant).seconds())
            .expect("no zone is a day or more away from UTC");
        DateTime::from_timestamp_nanos(nanoseconds).with_timezone(&offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(zone: &str, nanoseconds: i64) -> String {
        zone.parse::<Tz>().unwrap().timestamp_nanos(nanoseconds).format("%FT%T%:z").to_string()
    }

    #[test]
    fn a_zone_has_its_offset_of_the_instant() {
        const SECOND: i64 = 1_000_000_000;
        for (zone, seconds, expected) in [
            ("Europe/Berlin", 1_800_000_000, "2027-01-15T09:00:00+01:00"),
            ("Europe/Berlin", 1_783_000_000, "2026-07-02T15:46:40+02:00"),
            // The hour that is there twice.
            ("America/New_York", 1_793_509_200, "2026-11-01T01:00:00-04:00"),
            ("America/New_York", 1_793_512_800, "2026-11-01T01:00:00-05:00"),
            ("Asia/Kathmandu", 1_800_000_000, "2027-01-15T13:45:00+05:45"),
            // By the rule that holds from now on.
            ("Europe/Berlin", 4_000_000_000, "2096-10-02T09:06:40+02:00"),
            ("Etc/GMT-14", 1_800_000_000, "2027-01-15T22:00:00+14:00"),
            ("UTC", 1_800_000_000, "2027-01-15T08:00:00+00:00"),
        ] {
            assert_eq!(shown(zone, seconds * SECOND), expected, "{zone}");
        }
    }

    #[test]
    fn every_instant_that_a_policy_can_write_is_one() {
        for zone in ["Europe/Berlin", "Pacific/Kiritimati", "America/Adak", "Asia/Manila"] {
            assert!(shown(zone, i64::MIN).starts_with("1677-09-2"), "{zone}");
            assert!(shown(zone, i64::MAX).starts_with("2262-04-1"), "{zone}");
        }
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for name in ["", "Mars/Olympus", "europe/berlin", "+02:00", "../UTC"] {
            assert_eq!(name.parse::<Tz>().unwrap_err(), ParseError, "{name}");
        }
    }
}

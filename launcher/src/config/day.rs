//! Days, for people.

use std::fmt;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A day of the Gregorian calendar, in UTC; as text `21 November 2026`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    year: i64,
    /// From 0.
    month: usize,
    /// From 1.
    of_month: i64,
}

impl Day {
    /// The day on which this second since 1970 lies.
    ///
    /// # Panics
    /// Never: every second lies in a month.
    #[must_use]
    pub fn of(unix: i64) -> Self {
        // Years begin in March here, so that a leap day is the last one; 400 years have 146,097 days.
        let days = unix.div_euclid(86_400) + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = usize::try_from((month_from_march + 2) % 12).expect("a month is below 12");
        Self { year: era * 400 + year_of_era + i64::from(month < 2), month, of_month }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.of_month, MONTHS[self.month], self.year)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_days_of_the_calendar() {
        for (unix, day) in [
            (0, "1 January 1970"),
            (-1, "31 December 1969"),
            (951_782_400, "29 February 2000"),
            (951_868_800, "1 March 2000"),
            (1_795_219_200, "21 November 2026"),
            (4_107_542_399, "28 February 2100"),
            (4_107_542_400, "1 March 2100"),
            (4_102_444_800, "1 January 2100"),
        ] {
            assert_eq!(Day::of(unix).to_string(), day);
        }
    }
}

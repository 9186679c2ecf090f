//! How long raw readings are kept. Pure: no clock, no I/O.
//!
//! The unique key recognises a redelivered reading only while its first row is there. So a reading past
//! retention is refused, and a day is dropped one day after that: clocks of instances need not agree.

use schema::Timestamp;
use time::{Date, Duration, OffsetDateTime};

/// Fewest days: beyond Kafka's week of redelivery and the week whose hours TimescaleDB refreshes often.
pub const DAYS_MIN: u32 = 8;
/// Fewest days that a closed episode is kept: beyond the month of `iot-alerts`, out of which it would come
/// back.
pub const EPISODE_DAYS_MIN: u32 = 31;
/// Most days: a century, so that no date overflows.
pub const DAYS_MAX: u32 = 36_500;
/// Time from the first refusal of readings of a day to the drop of that day.
const DROP_DELAY: Duration = Duration::DAY;

/// Says for how many UTC days before today raw readings are kept; none means for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention(Option<u32>);

impl Retention {
    /// Keeps raw readings for ever.
    pub const FOR_EVER: Self = Self(None);

    /// Keeps the days before today, and today.
    pub const fn days(days: u32) -> Self {
        Self(Some(if days > DAYS_MAX { DAYS_MAX } else { days }))
    }

    /// Returns the instant before which a reading is refused, and why, in the words of its dead letter.
    pub fn refuses_before(self, now: OffsetDateTime) -> Option<(Timestamp, String)> {
        let days = self.0?;
        let first = first_kept(now.date(), days)?;
        let reason = format!("reading is past retention: it is older than {days} days");
        Some((first.midnight().assume_utc().into(), reason))
    }

    /// Returns the day before which every day is dropped.
    pub fn drops_before(self, today: Date) -> Option<Date> {
        first_kept(today, self.0?)?.checked_sub(DROP_DELAY)
    }
}

fn first_kept(today: Date, days: u32) -> Option<Date> {
    today.checked_sub(Duration::days(days.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::{date, datetime};

    #[test]
    fn whole_days_are_kept_and_dropped_a_day_after_they_are_refused() {
        let retention = Retention::days(8);
        let (refused, reason) = retention.refuses_before(datetime!(2026-03-30 23:59:59 UTC)).unwrap();
        assert_eq!(refused.to_string(), "2026-03-22T00:00:00.000000Z");
        assert!(reason.contains("8 days"));
        assert_eq!(retention.drops_before(date!(2026 - 03 - 30)), Some(date!(2026 - 03 - 21)));
    }

    #[test]
    fn without_a_limit_nothing_is_refused_or_dropped() {
        assert!(Retention::FOR_EVER.refuses_before(datetime!(2026-03-30 0:00 UTC)).is_none());
        assert!(Retention::FOR_EVER.drops_before(date!(2026 - 03 - 30)).is_none());
    }

    #[test]
    fn at_the_beginning_of_time_nothing_overflows() {
        let first = Date::MIN;
        assert_eq!(Retention::days(u32::MAX).drops_before(first), None);
        assert!(Retention::days(u32::MAX).refuses_before(first.midnight().assume_utc()).is_none());
    }
}

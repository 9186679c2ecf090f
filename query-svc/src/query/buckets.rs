//! Buckets of a range: where each begins, in whatever time zone. Pure.
//!
//! A bucket belongs to the range that its first instant lies in, and is never cut. Days, weeks and months are
//! those of the calendar of the zone, so a day has 23 or 25 hours when clocks change, and six hours are from
//! 0, 6, 12 and 18 o'clock. Hours are those of UTC, and minutes count from 1970.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _};
use schema::Timestamp;

const MINUTE_MICROS: i64 = 60_000_000;
const HOUR_MICROS: i64 = 60 * MINUTE_MICROS;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;
/// Longest range of hours and what is made of them: ten years are 87,672 hours a metric, which one index scan
/// still reads within a statement's time.
const RANGE_MICROS_MAX: i64 = 3_653 * DAY_MICROS;

/// Names a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Width {
    /// Minutes: 1, 5 or 15.
    Minutes(i64),
    /// An hour of UTC.
    Hour,
    /// Six hours of the zone's clock.
    SixHours,
    /// A day of the zone's calendar.
    Day,
    /// A week from Monday.
    Week,
    /// A month of the zone's calendar.
    Month,
}

/// Words for widths.
pub(crate) const WIDTHS: [(&str, Width); 8] = [
    ("1m", Width::Minutes(1)),
    ("5m", Width::Minutes(5)),
    ("15m", Width::Minutes(15)),
    ("1h", Width::Hour),
    ("6h", Width::SixHours),
    ("1d", Width::Day),
    ("7d", Width::Week),
    ("1mo", Width::Month),
];

impl Width {
    /// Says whether the buckets are made of raw readings, because hours are too wide for them.
    pub(crate) const fn is_of_raw_readings(self) -> bool {
        matches!(self, Self::Minutes(_))
    }

    /// Returns the longest range and its name: of raw readings as many buckets as a chart shows.
    pub(crate) const fn range_max(self) -> (i64, &'static str) {
        match self {
            Self::Minutes(1) => (2 * DAY_MICROS, "two days"),
            Self::Minutes(5) => (7 * DAY_MICROS, "7 days"),
            Self::Minutes(_) => (31 * DAY_MICROS, "31 days"),
            _ => (RANGE_MICROS_MAX, "ten years"),
        }
    }

    /// Returns the micros of a bucket that is always as wide.
    const fn fixed(self) -> Option<i64> {
        match self {
            Self::Minutes(minutes) => Some(minutes * MINUTE_MICROS),
            Self::Hour => Some(HOUR_MICROS),
            _ => None,
        }
    }
}

/// The buckets of a range, in order and without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Buckets {
    starts: Starts,
    /// The instant after the last bucket.
    end: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Starts {
    Every { first: i64, micros: i64 },
    At(Vec<i64>),
}

impl Buckets {
    /// Returns the buckets that begin within `from..to`, a range that is not longer than
    /// [`Width::range_max`].
    pub(crate) fn within(width: Width, zone: &TimeZone, from: Timestamp, to: Timestamp) -> Self {
        let (from, to) = (from.as_micros(), to.as_micros());
        if let Some(micros) = width.fixed() {
            let ceil = |instant: i64| instant + (-instant).rem_euclid(micros);
            return Self { starts: Starts::Every { first: ceil(from), micros }, end: ceil(to) };
        }
        let mut starts = Vec::new();
        for start in calendar(width, zone, from) {
            // Where the clock leaps over a start, its instant is that of the next one.
            if start >= from && starts.last().is_none_or(|last| *last < start) {
                starts.push(start);
            }
            if start >= to {
                break;
            }
        }
        // The calendar ends with the year 9999.
        let end = starts.pop_if(|last| *last >= to).unwrap_or(to);
        Self { starts: Starts::At(starts), end }
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        match &self.starts {
            Starts::Every { first, micros } => usize::try_from((self.end - first) / micros).unwrap_or(0),
            Starts::At(starts) => starts.len(),
        }
    }

    /// Returns the first instant of a bucket; of the one after the last, the end of the range.
    pub(crate) fn start(&self, index: usize) -> Timestamp {
        let start = match &self.starts {
            _ if index >= self.len() => self.end,
            Starts::Every { first, micros } => first + i64::try_from(index).unwrap_or(0) * micros,
            Starts::At(starts) => starts[index],
        };
        instant(start)
    }

    /// Returns the number of buckets that begin at or before an instant.
    pub(crate) fn begun_by(&self, at: Timestamp) -> usize {
        match &self.starts {
            Starts::Every { first, micros } => {
                let begun = (at.as_micros() - first).div_euclid(*micros) + 1;
                usize::try_from(begun).unwrap_or(0).min(self.len())
            }
            Starts::At(starts) => starts.partition_point(|start| *start <= at.as_micros()),
        }
    }

    /// Returns the instant after the last one.
    pub(crate) fn end(&self) -> Timestamp {
        instant(self.end)
    }

    /// Says whether hours of UTC are never split between two of them.
    pub(crate) fn are_of_whole_hours(&self) -> bool {
        let is_hour = |micros: &i64| micros % HOUR_MICROS == 0;
        match &self.starts {
            Starts::Every { .. } => true,
            Starts::At(starts) => starts.iter().all(is_hour) && is_hour(&self.end),
        }
    }
}

/// Returns an instant within the years that a range may have.
fn instant(micros: i64) -> Timestamp {
    let last = || Timestamp::parse("9999-12-31T23:59:59.999999Z").expect("a constant");
    Timestamp::from_micros(micros).unwrap_or_else(|_| last())
}

/// Walks over the starts of a calendar, from the last one that is not after `from` on.
fn calendar(width: Width, zone: &TimeZone, from: i64) -> impl Iterator<Item = i64> {
    let day = day_of(from, zone);
    let (first, step): (Date, Span) = match width {
        Width::Week => (monday(day), 7.days()),
        Width::Month => (day.first_of_month(), 1.month()),
        _ => (day, 1.day()),
    };
    let hours: &[i8] = if width == Width::SixHours { &[0, 6, 12, 18] } else { &[0] };
    let days = std::iter::successors(Some(first), move |day| day.checked_add(step).ok());
    let clock = days
        .flat_map(move |day| hours.iter().map(move |hour| day.to_datetime(Time::constant(*hour, 0, 0, 0))));
    let zone = zone.clone();
    clock.map_while(move |at| micros_of(at, &zone))
}

fn day_of(micros: i64, zone: &TimeZone) -> Date {
    let instant = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MIN);
    zone.to_datetime(instant).date()
}

fn monday(day: Date) -> Date {
    let since = day.weekday().to_monday_zero_offset();
    day.checked_sub(since.days()).unwrap_or(day)
}

/// Returns the instant at which the clock of the zone first shows that time, or a later one when it leaps
/// over it.
fn micros_of(at: DateTime, zone: &TimeZone) -> Option<i64> {
    Some(zone.to_ambiguous_zoned(at).compatible().ok()?.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn within(width: &str, zone: &str, from: &str, to: &str) -> Buckets {
        let (_, width) = WIDTHS.iter().find(|(word, _)| *word == width).unwrap();
        Buckets::within(*width, &TimeZone::get(zone).unwrap(), at(from), at(to))
    }

    /// Writes the starts and the end, in hours and minutes after the first.
    fn written(buckets: &Buckets) -> Vec<String> {
        let first = buckets.start(0).as_micros();
        let since = |index| (buckets.start(index).as_micros() - first) / MINUTE_MICROS;
        let text = |minutes: i64| format!("{}:{:02}", minutes / 60, minutes % 60);
        (0..=buckets.len()).map(|index| text(since(index))).collect()
    }

    #[test]
    fn a_bucket_belongs_to_the_range_in_which_it_begins() {
        for (width, from, to, first, end, len) in [
            (
                "1h",
                "2026-01-02T00:00:01Z",
                "2026-01-02T02:00:01Z",
                "2026-01-02T01:00:00Z",
                "2026-01-02T03:00:00Z",
                2,
            ),
            (
                "15m",
                "2026-01-02T00:01:00Z",
                "2026-01-02T00:30:00Z",
                "2026-01-02T00:15:00Z",
                "2026-01-02T00:30:00Z",
                1,
            ),
            (
                "1d",
                "2026-01-02T00:00:00Z",
                "2026-01-03T12:00:00Z",
                "2026-01-02T00:00:00Z",
                "2026-01-04T00:00:00Z",
                2,
            ),
            (
                "7d",
                "2026-01-01T00:00:00Z",
                "2026-01-12T00:00:00Z",
                "2026-01-05T00:00:00Z",
                "2026-01-12T00:00:00Z",
                1,
            ),
            (
                "1mo",
                "2026-01-31T00:00:00Z",
                "2026-03-01T00:00:01Z",
                "2026-02-01T00:00:00Z",
                "2026-04-01T00:00:00Z",
                2,
            ),
            (
                "1d",
                "2026-01-02T00:00:01Z",
                "2026-01-02T00:00:02Z",
                "2026-01-03T00:00:00Z",
                "2026-01-03T00:00:00Z",
                0,
            ),
            (
                "1m",
                "1969-12-31T23:58:30Z",
                "1970-01-01T00:00:00Z",
                "1969-12-31T23:59:00Z",
                "1970-01-01T00:00:00Z",
                1,
            ),
        ] {
            let buckets = within(width, "UTC", from, to);
            let shape = (buckets.start(0), buckets.end(), buckets.len());
            assert_eq!(shape, (at(first), at(end), len), "{width} {from}");
        }
    }

    #[test]
    fn days_have_23_or_25_hours_when_clocks_change_and_six_hours_five_or_seven() {
        let spring = within("1d", "Europe/Berlin", "2026-03-27T23:00:00Z", "2026-03-30T22:00:00Z");
        assert_eq!(written(&spring), ["0:00", "24:00", "47:00", "71:00"]);
        let autumn = within("1d", "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-26T23:00:00Z");
        assert_eq!(written(&autumn), ["0:00", "25:00", "49:00"]);
        let spring = within("6h", "Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        assert_eq!(written(&spring), ["0:00", "5:00", "11:00", "17:00", "23:00"]);
        let autumn = within("6h", "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        assert_eq!(written(&autumn), ["0:00", "7:00", "13:00", "19:00", "25:00"]);
        let month = within("1mo", "Europe/Berlin", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z");
        assert_eq!(written(&month), ["0:00", "743:00"]);
        // Clocks go from 0:00 to 1:00, and at the end of summer from 0:00 back to 23:00.
        let spring = within("1d", "Africa/Cairo", "2026-04-22T22:00:00Z", "2026-04-24T21:00:00Z");
        assert_eq!(written(&spring), ["0:00", "24:00", "47:00"]);
        let autumn = within("1d", "Africa/Cairo", "2026-10-28T21:00:00Z", "2026-10-30T22:00:00Z");
        assert_eq!(written(&autumn), ["0:00", "25:00", "49:00"]);
        // A whole day that never was.
        let samoa = within("1d", "Pacific/Apia", "2011-12-29T10:00:00Z", "2011-12-31T10:00:00Z");
        assert_eq!(written(&samoa), ["0:00", "24:00", "48:00"]);
    }

    #[test]
    fn zones_of_half_hours_split_hours_of_utc() {
        let days = |zone| within("1d", zone, "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z");
        for (zone, are_whole) in
            [("UTC", true), ("Europe/Berlin", true), ("Asia/Kolkata", false), ("Asia/Kathmandu", false)]
        {
            assert_eq!(days(zone).are_of_whole_hours(), are_whole, "{zone}");
        }
        // Half an hour of summer time.
        let day = |from, to| within("1d", "Australia/Lord_Howe", from, to).are_of_whole_hours();
        assert!(day("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"));
        assert!(!day("2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z"));
        assert!(
            within("1h", "Asia/Kolkata", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z").are_of_whole_hours()
        );
    }

    #[test]
    fn an_instant_is_found_in_its_bucket() {
        for (width, zone) in [("1h", "UTC"), ("1d", "Europe/Berlin"), ("6h", "America/Havana")] {
            let buckets = within(width, zone, "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z");
            for index in 0..buckets.len() {
                let (start, next) = (buckets.start(index), buckets.start(index + 1));
                let last = Timestamp::from_micros(next.as_micros() - 1).unwrap();
                assert_eq!((buckets.begun_by(start), buckets.begun_by(last)), (index + 1, index + 1));
            }
            assert_eq!(buckets.begun_by(at("2025-01-01T00:00:00Z")), 0);
            assert_eq!(buckets.begun_by(at("2027-01-01T00:00:00Z")), buckets.len());
        }
    }

    #[test]
    fn the_ends_of_the_calendar_are_no_trouble() {
        for zone in ["UTC", "Pacific/Apia", "America/Los_Angeles"] {
            for (from, to) in [
                ("0001-01-01T00:00:00Z", "0001-01-02T00:00:00Z"),
                ("9999-12-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"),
            ] {
                for (width, _) in WIDTHS {
                    let buckets = within(width, zone, from, to);
                    assert!(buckets.start(0) >= at(from) && buckets.start(buckets.len()) == buckets.end());
                }
            }
        }
    }
}

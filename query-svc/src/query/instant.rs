//! Instants as people write them. Pure.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use schema::Timestamp;

/// Longest span behind `now-`, in its own unit: a century of days.
const SPAN_MAX: i64 = 36_525;

/// Reads an instant: RFC 3339, a day (its first instant in the time zone), `now`, or `now-24h` with a span of
/// `s`, `m`, `h` or `d` (24 hours).
///
/// # Errors
/// What it must be.
pub(crate) fn parse_instant(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    if let Some(span) = text.strip_prefix("now") {
        let instant = before(now, span).ok_or("must be now, or now less a span, such as now-24h")?;
        return Ok(instant);
    }
    if let Some(day) = day(text) {
        let first = day.to_zoned(zone.clone()).map_err(|_| "must be a day of the years 1 to 9999")?;
        return Timestamp::from_micros(first.timestamp().as_microsecond()).map_err(|error| error.to_string());
    }
    // In a query string + is a space, the commonest reason for an instant that cannot be read.
    Timestamp::parse(text).map_err(|error| {
        format!("{error}: write 2026-01-02T03:00:00Z, 2026-01-02 or now-24h; write + as %2B")
    })
}

/// Reads `2026-01-02` and no other spelling of a day.
fn day(text: &str) -> Option<Date> {
    let is_day = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let day: Date = is_day.then(|| text.parse().ok())??;
    (day.year() >= 1).then_some(day)
}

fn before(now: Timestamp, span: &str) -> Option<Timestamp> {
    if span.is_empty() {
        return Some(now);
    }
    let span = span.strip_prefix('-')?;
    let (digits, unit) = span.split_at_checked(span.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = is_number.then(|| digits.parse().ok())??;
    let bounded = (number <= SPAN_MAX * 86_400 / seconds).then_some(number)?;
    Timestamp::from_micros(now.as_micros() - bounded * seconds * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, zone: &str) -> Option<String> {
        let now = Timestamp::parse("2026-03-29T12:30:15.5Z").unwrap();
        let zone = TimeZone::get(zone).unwrap();
        parse_instant(text, now, &zone).ok().map(|instant| instant.to_string().replace(".000000", ""))
    }

    #[test]
    fn instants_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2026-01-02T03:00:00Z", "2026-01-02T03:00:00Z"),
            ("2026-01-02T03:00:00+01:00", "2026-01-02T02:00:00Z"),
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("now", "2026-03-29T12:30:15.500000Z"),
            ("now-15s", "2026-03-29T12:30:00.500000Z"),
            ("now-90m", "2026-03-29T11:00:15.500000Z"),
            ("now-24h", "2026-03-28T12:30:15.500000Z"),
            ("now-7d", "2026-03-22T12:30:15.500000Z"),
            ("now-0h", "2026-03-29T12:30:15.500000Z"),
        ] {
            assert_eq!(read(text, "UTC").as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "now-",
            "now-h",
            "now+1h",
            "now-1w",
            "now--1h",
            "now-1.5h",
            "now-ü",
            "now-99999999d",
            "nowadays",
            "2026-13-01",
            "2026-1-2",
            "20260102",
            "0000-01-01",
            "1767312000",
            "yesterday",
            "2026-01-02T03:00:00",
        ] {
            assert_eq!(read(text, "UTC"), None, "{text}");
        }
    }

    #[test]
    fn a_day_begins_where_it_begins_in_its_zone() {
        for (day, zone, expected) in [
            ("2026-03-29", "Europe/Berlin", "2026-03-28T23:00:00Z"),
            ("2026-03-30", "Europe/Berlin", "2026-03-29T22:00:00Z"),
            ("2026-01-02", "Asia/Kolkata", "2026-01-01T18:30:00Z"),
            // Midnight does not exist: clocks go from 0:00 to 1:00.
            ("2026-04-24", "Africa/Cairo", "2026-04-23T22:00:00Z"),
            // Midnight comes twice: clocks go from 1:00 to 0:00.
            ("2025-11-02", "America/Havana", "2025-11-02T04:00:00Z"),
        ] {
            assert_eq!(read(day, zone).as_deref(), Some(expected), "{day} {zone}");
        }
    }
}

//! One instant type for every event and row: UTC microseconds.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Holds an instant as microseconds since 1970-01-01T00:00:00Z.
///
/// Shape: in JSON an RFC 3339 string in UTC with exactly six fractional digits; any RFC 3339 offset is read.
/// Units: microseconds, which is what PostgreSQL's `timestamptz` keeps, so nothing is rounded on the way.
/// Bounds: years 0001 to 9999, so every value has an RFC 3339 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Says why a number or a text is no [`Timestamp`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// Outside the years 0001 to 9999.
    #[error("timestamp outside the years 0001 to 9999")]
    OutOfRange,
    /// Not RFC 3339.
    #[error("timestamp is not RFC 3339")]
    NotRfc3339,
}

const MICROS_MIN: i64 = -62_135_596_800_000_000; // 0001-01-01T00:00:00Z
const MICROS_MAX: i64 = 253_402_300_799_999_999; // 9999-12-31T23:59:59.999999Z

impl Timestamp {
    /// Makes an instant from microseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`TimestampError::OutOfRange`] outside the years 0001 to 9999.
    pub const fn from_micros(micros: i64) -> Result<Self, TimestampError> {
        if micros < MICROS_MIN || micros > MICROS_MAX {
            Err(TimestampError::OutOfRange)
        } else {
            Ok(Self(micros))
        }
    }

    /// Returns microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Reads the system clock.
    pub fn now() -> Self {
        OffsetDateTime::now_utc().into()
    }

    /// Reads RFC 3339 with any offset; digits beyond microseconds are cut.
    ///
    /// # Errors
    /// [`TimestampError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        if let Some(own) = parse_own(text.as_bytes()) {
            return Ok(own);
        }
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError::NotRfc3339)?;
        Self::from_micros(parsed.unix_timestamp() * 1_000_000 + i64::from(parsed.microsecond()))
    }

    /// Returns the start of the UTC hour that contains this instant.
    pub const fn hour(self) -> Self {
        const HOUR_MICROS: i64 = 3_600_000_000;
        Self(self.0 - self.0.rem_euclid(HOUR_MICROS))
    }
}

/// Reads the one form in which we write instants, `2026-01-02T03:04:05.000006Z`: readers of our own events
/// meet no other, and very many of it. None for everything else, also for what is wrong with it: the general
/// way says what.
fn parse_own(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 27] = text.try_into().ok()?;
    for (place, mark) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')] {
        if text[place] != mark {
            return None;
        }
    }
    let number = |places: std::ops::Range<usize>| {
        text[places].iter().try_fold(0_i64, |number, byte| {
            byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
        })
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // The 29th to 31st are left to the general way where a month may lack them; a leap second, too.
    let days_sure = if month == 2 { 28 } else { 30 };
    let is_sure = year >= 1
        && (1..=12).contains(&month)
        && (1..=days_sure).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let seconds = ((days_from_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    is_sure.then_some(Timestamp(seconds * 1_000_000 + number(20..26)?))
}

/// Counts the days from 1970-01-01 to a date of the years from 1 on. Years are counted from March, so that
/// the day that not every year has is the last.
const fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    // 153 days in each five months from March on; 719,468 from 0000-03-01 to 1970-01-01.
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

impl From<OffsetDateTime> for Timestamp {
    fn from(instant: OffsetDateTime) -> Self {
        // `OffsetDateTime` reaches only the years -9999 to 9999, so the product fits an i64.
        let micros = instant.unix_timestamp() * 1_000_000 + i64::from(instant.microsecond());
        Self(micros.clamp(MICROS_MIN, MICROS_MAX))
    }
}

impl From<Timestamp> for OffsetDateTime {
    fn from(timestamp: Timestamp) -> Self {
        Self::from_unix_timestamp_nanos(i128::from(timestamp.0) * 1_000)
            .expect("a Timestamp lies within the years 0001 to 9999")
    }
}

impl Timestamp {
    /// Writes the text into an array: it is in every event twice, and a formatter takes several times as
    /// long.
    fn text(self) -> [u8; 27] {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let (days, micros) = (self.0.div_euclid(DAY_MICROS), self.0.rem_euclid(DAY_MICROS));
        let (year, month, day) = civil(days);
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        put(&mut text[0..4], year);
        put(&mut text[5..7], month);
        put(&mut text[8..10], day);
        put(&mut text[11..13], seconds / 3_600);
        put(&mut text[14..16], seconds / 60 % 60);
        put(&mut text[17..19], seconds % 60);
        put(&mut text[20..26], micros);
        text
    }
}

const DAY_MICROS: i64 = 86_400_000_000;

/// Returns year, month and day of a day since 1970-01-01, for years from 0.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years begin in
/// March there.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + (month <= 2) as i64, month, day)
}

/// Fills `digits` with a number that is not negative and not longer.
fn put(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).expect("digits are ASCII"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.text()).expect("digits are ASCII"))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 timestamp")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_utc_with_six_digits_whatever_offset_was_read() {
        let read = Timestamp::parse("2026-03-29T03:30:00.1234567+02:00").unwrap();
        assert_eq!(read.to_string(), "2026-03-29T01:30:00.123456Z");
        assert_eq!(read.hour().to_string(), "2026-03-29T01:00:00.000000Z");
    }

    #[test]
    fn instants_before_1970_belong_to_the_hour_that_began_before_them() {
        let read = Timestamp::parse("1969-12-31T23:59:59.999999Z").unwrap();
        assert_eq!(read.hour().to_string(), "1969-12-31T23:00:00.000000Z");
    }

    proptest! {
        #[test]
        fn any_instant_survives_its_text(micros in MICROS_MIN..=MICROS_MAX) {
            let timestamp = Timestamp::from_micros(micros).unwrap();
            prop_assert_eq!(Timestamp::parse(&timestamp.to_string()), Ok(timestamp));
        }

        #[test]
        fn the_short_way_reads_what_the_general_way_reads(
            micros in MICROS_MIN..=MICROS_MAX, place in 0..27_usize, byte in "[0-9T:.Z-]",
        ) {
            let mut text = Timestamp::from_micros(micros).unwrap().to_string();
            prop_assert!(parse_own(text.as_bytes()).is_none_or(|read| read.as_micros() == micros));
            text.replace_range(place..=place, &byte);
            if let Some(read) = parse_own(text.as_bytes()) {
                let general = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
                prop_assert_eq!(Timestamp::from(general), read);
            }
        }
    }
}

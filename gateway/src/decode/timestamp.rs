//! A device's clock, in whatever unit it speaks, and how far it may be off.

use super::Undecodable;
use schema::Timestamp;
use std::time::Duration;

/// Numbers below this are seconds; as seconds it is the year 5138, as milliseconds March 1973.
const SECONDS_END: f64 = 1e11;
/// Numbers from there to this are milliseconds, with the same reach.
const MILLISECONDS_END: f64 = 1e14;
/// Numbers from there to this are microseconds.
const MICROSECONDS_END: f64 = 1e17;

/// How far a device's clock may be from the gateway's.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The oldest reading that is taken.
    pub age_max: Duration,
    /// The most a reading may lie ahead.
    pub future_max: Duration,
}

impl Bounds {
    /// Passes an instant that is near enough to its arrival.
    pub(super) fn check(
        &self,
        reading_at: Timestamp,
        received_at: Timestamp,
    ) -> Result<Timestamp, Undecodable> {
        let ahead_micros = i128::from(reading_at.as_micros()) - i128::from(received_at.as_micros());
        let micros = |duration: Duration| i128::try_from(duration.as_micros()).unwrap_or(i128::MAX);
        let is_near = ahead_micros <= micros(self.future_max) && -ahead_micros <= micros(self.age_max);
        if is_near { Ok(reading_at) } else { Err(Undecodable::TimestampOutOfBounds) }
    }
}

/// Reads an epoch in seconds, milliseconds or microseconds, told apart by magnitude.
#[expect(clippy::cast_possible_truncation, reason = "the magnitude is checked first")]
pub(super) fn from_epoch(epoch: f64) -> Result<Timestamp, Undecodable> {
    let magnitude = epoch.abs();
    let micros = if magnitude < SECONDS_END {
        epoch * 1e6
    } else if magnitude < MILLISECONDS_END {
        epoch * 1e3
    } else if magnitude < MICROSECONDS_END {
        epoch
    } else {
        return Err(Undecodable::TimestampOutOfBounds);
    };
    Timestamp::from_micros(micros.round() as i64).map_err(|_| Undecodable::TimestampOutOfBounds)
}

/// Reads RFC 3339.
pub(super) fn from_text(text: &str) -> Result<Timestamp, Undecodable> {
    Timestamp::parse(text).map_err(|_| Undecodable::Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unit_of_an_epoch_is_told_by_its_magnitude() {
        for epoch in [1_767_323_045.5, 1_767_323_045_500.0, 1_767_323_045_500_000.0] {
            assert_eq!(from_epoch(epoch).unwrap().to_string(), "2026-01-02T03:04:05.500000Z", "{epoch}");
        }
        assert_eq!(from_epoch(1e18), Err(Undecodable::TimestampOutOfBounds));
        assert_eq!(from_epoch(f64::NAN), Err(Undecodable::TimestampOutOfBounds));
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let bounds = Bounds { age_max: Duration::from_secs(10), future_max: Duration::from_secs(1) };
        let now = at(1_000_000_000);
        assert!(bounds.check(at(990_000_000), now).is_ok());
        assert!(bounds.check(at(989_999_999), now).is_err());
        assert!(bounds.check(at(1_001_000_000), now).is_ok());
        assert!(bounds.check(at(1_001_000_001), now).is_err());
    }

    proptest! {
        #[test]
        fn any_number_never_panics(epoch: f64) {
            let _ = from_epoch(epoch);
        }
    }
}

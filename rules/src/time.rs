//! Instants that stay within what a [`Timestamp`] holds. Pure.

use schema::Timestamp;

/// The last instant: the end of the year 9999.
const LAST_MICROS: i64 = 253_402_300_799_999_999;
/// The first instant: the beginning of the year 1.
const FIRST_MICROS: i64 = -62_135_596_800_000_000;

/// Returns an instant behind every version of a threshold.
pub(crate) fn latest() -> Timestamp {
    clamped(i128::from(LAST_MICROS))
}

/// Adds seconds; ends at the last instant.
pub(crate) fn plus(instant: Timestamp, seconds: u32) -> Timestamp {
    clamped(i128::from(instant.as_micros()) + i128::from(seconds) * 1_000_000)
}

/// Moves an instant by the time from `from` to `to`, and on by `micros`.
pub(crate) fn shifted(instant: Timestamp, from: Timestamp, to: Timestamp, micros: i64) -> Timestamp {
    let moved = i128::from(to.as_micros()) - i128::from(from.as_micros());
    clamped(i128::from(instant.as_micros()) + moved + i128::from(micros))
}

fn clamped(micros: i128) -> Timestamp {
    let micros = micros.clamp(i128::from(FIRST_MICROS), i128::from(LAST_MICROS));
    let micros = i64::try_from(micros).expect("clamped to what a timestamp holds");
    Timestamp::from_micros(micros).expect("clamped to what a timestamp holds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_stay_within_their_bounds() {
        let first = Timestamp::from_micros(FIRST_MICROS).unwrap();
        assert_eq!(plus(latest(), u32::MAX), latest());
        assert_eq!(shifted(first, latest(), first, -1), first);
        assert_eq!(shifted(latest(), first, latest(), 1), latest());
        assert_eq!(shifted(first, first, plus(first, 5), 3).as_micros(), FIRST_MICROS + 5_000_003);
    }
}

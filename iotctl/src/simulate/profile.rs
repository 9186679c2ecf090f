//! What simulated devices measure: a daily curve, noise, and now and then an excursion. Pure.

use clap::ValueEnum;
use std::f64::consts::TAU;
use time::OffsetDateTime;

/// Readings from one excursion out of the usual range to the next.
const EXCURSION_EVERY: u64 = 300;
/// Reading at which the first excursion begins, so that a new installation shows an alert soon.
const EXCURSION_FROM: u64 = 3;
/// Readings of an excursion.
const EXCURSION_READINGS: u64 = 10;

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Room temperature and humidity.
    Thermostat,
    /// A worn heart rate meter.
    HeartRate,
    /// Fuel and speed of a car that commutes.
    CarFuel,
}

/// Every profile, in the order in which a mixed simulation takes them.
pub const PROFILES: [Profile; 3] = [Profile::Thermostat, Profile::HeartRate, Profile::CarFuel];

impl Profile {
    /// Returns the first part of its devices' names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Thermostat => "thermostat",
            Self::HeartRate => "heart-rate",
            Self::CarFuel => "car-fuel",
        }
    }

    /// Returns the type under which its devices are registered.
    #[must_use]
    pub fn device_type(self) -> &'static str {
        match self {
            Self::Thermostat => "THERMOSTAT",
            Self::HeartRate => "HEART_RATE_METER",
            Self::CarFuel => "CAR_FUEL",
        }
    }

    /// Returns the zone in which its devices stand.
    #[must_use]
    pub fn zone_id(self) -> &'static str {
        match self {
            Self::Thermostat => "hall",
            Self::HeartRate => "ward",
            Self::CarFuel => "garage",
        }
    }

    /// Measures: the `nth` reading of the device at `place`, taken at `at`.
    #[must_use]
    pub fn sample(self, at: OffsetDateTime, place: u16, nth: u64) -> [(&'static str, f64); 2] {
        let time = at.time();
        let hour =
            f64::from(time.hour()) + f64::from(time.minute()) / 60.0 + f64::from(time.second()) / 3600.0;
        // One at 15 h, minus one at 3 h.
        let day = ((hour - 9.0) / 24.0 * TAU).sin();
        let away = (EXCURSION_FROM..EXCURSION_FROM + EXCURSION_READINGS).contains(&(nth % EXCURSION_EVERY));
        let excursion = if away { 1.0 } else { 0.0 };
        let noise = |salt| noise(place, nth, salt);
        let [(first, one), (second, two)] = match self {
            Self::Thermostat => [
                ("temperature", 20.5 + 1.5 * day + 0.2 * noise(1) + 14.0 * excursion),
                ("humidity", 45.0 - 6.0 * day + 0.8 * noise(2)),
            ],
            Self::HeartRate => [
                ("heart_rate", 68.0 + 9.0 * day + 3.0 * noise(1) + 100.0 * excursion),
                ("oxygen_saturation", 97.5 + 0.4 * noise(2)),
            ],
            Self::CarFuel => {
                let drives = (7.0..9.0).contains(&hour) || (16.5..18.5).contains(&hour);
                let speed = if drives { 45.0 + 30.0 * noise(1) } else { 0.0 };
                // A tank lasts five days; each car is at its own point of it.
                let days = f64::from(u16::try_from(at.to_julian_day().rem_euclid(5)).unwrap_or(0));
                let used = (days + hour / 24.0 + f64::from(place % 5)) % 5.0 / 5.0;
                [("fuel_level", 98.0 - 88.0 * used - 0.9 * excursion), ("speed", speed)]
            }
        };
        [(first, round(one)), (second, round(two))]
    }
}

/// Rounds to two decimals, which is what such sensors resolve.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Returns a value between -1 and 1 that depends on its arguments alone (the finaliser of `SplitMix64`).
fn noise(place: u16, nth: u64, salt: u64) -> f64 {
    let mut bits = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(place) << 32) ^ (salt << 56);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let byte_pair = u16::try_from((bits >> 40) & 0xffff).unwrap_or_default();
    f64::from(byte_pair) / 32_767.5 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_a_week_are_plausible_and_leave_their_range_only_in_excursions() {
        let begin = OffsetDateTime::from_unix_timestamp(1_760_000_000).unwrap();
        for minute in 0..7 * 24 * 60 {
            let at = begin + time::Duration::minutes(minute);
            let nth = u64::try_from(minute).unwrap();
            let away = (3..13).contains(&(nth % 300));
            let [(_, temperature), (_, humidity)] = Profile::Thermostat.sample(at, 0, nth);
            assert_eq!(temperature > 30.0, away, "{temperature} at {nth}");
            assert!((10.0..40.0).contains(&temperature) && (30.0..60.0).contains(&humidity));
            let [(_, heart_rate), _] = Profile::HeartRate.sample(at, 1, nth);
            assert_eq!(heart_rate > 150.0, away, "{heart_rate} at {nth}");
            assert!(heart_rate > 50.0);
            let [(_, fuel), (_, speed)] = Profile::CarFuel.sample(at, 2, nth);
            assert!((5.0..=100.0).contains(&fuel) && (0.0..=80.0).contains(&speed), "{fuel} {speed}");
        }
    }
}

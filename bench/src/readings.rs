//! Synthetic readings that follow from a seed: row `n` is the same in every run and for every contender.
//! Pure.

use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher};
use uuid::Uuid;

/// What every sensor measures; one value in each reading, so that a record is a row for every contender.
pub const METRIC: &str = "temperature";
/// The type of every sensor.
pub const DEVICE_TYPE: &str = "THERMOSTAT";
/// How often a sensor speaks, in the readings' own time.
const INTERVAL_MICROS: i64 = 60_000_000;
/// When row 0 was read: 2026-03-02T12:00:00Z. Rows below 0 were read before it, the last twelve hours on the
/// same day.
const START_MICROS: i64 = 1_772_452_800_000_000;
/// Zones that the sensors are spread over.
const ZONES: u32 = 50;
/// Coprime to any count of sensors that it does not divide: scatters the order in which sensors speak.
const STRIDE: u64 = 7_919;

/// Sensors that speak in turn, each once in an interval.
#[derive(Debug)]
pub struct Workload {
    sensors: Vec<Sensor>,
    seed: u64,
}

/// A sensor as registered.
#[derive(Debug)]
pub struct Sensor {
    /// Its id and Kafka key.
    pub sensor_id: String,
    /// Where it is.
    pub zone_id: String,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Which sensor, counted from 0.
    pub sensor_number: usize,
    /// The sensor that measured.
    pub sensor: &'a Sensor,
    /// The device's clock.
    pub reading_at: Timestamp,
    /// The gateway's clock.
    pub received_at: Timestamp,
    /// What was measured.
    pub value: f64,
    /// Of the record.
    pub event_id: Uuid,
}

impl Workload {
    /// Names the sensors.
    pub fn new(sensors: u32, seed: u64) -> Self {
        let sensor = |number: u32| Sensor {
            sensor_id: format!("thermostat-{number:05}"),
            zone_id: format!("zone-{:02}", number % ZONES),
        };
        Self { sensors: (0..sensors).map(sensor).collect(), seed }
    }

    /// Returns every sensor.
    pub fn sensors(&self) -> &[Sensor] {
        &self.sensors
    }

    /// Makes a row.
    ///
    /// Shape: each sensor once in every run of as many rows as there are sensors; time grows with the number.
    pub fn row(&self, number: i64) -> Row<'_> {
        let count = self.sensors.len() as i64;
        let (interval, slot) = (number.div_euclid(count), number.rem_euclid(count));
        let sensor_number = scatter(slot.unsigned_abs(), self.sensors.len());
        let noise = mix(self.seed ^ number.cast_unsigned());
        // Within its slot, so that no two rows change places.
        let jitter = (noise % 1_000) as i64 * INTERVAL_MICROS / count / 1_000;
        let at = START_MICROS + interval * INTERVAL_MICROS + slot * INTERVAL_MICROS / count + jitter;
        let sensor = &self.sensors[sensor_number];
        Row {
            sensor_number,
            sensor,
            reading_at: instant(at),
            received_at: instant(at + 20_000 + (noise >> 32) as i64 % 80_000),
            value: 15.0 + (noise >> 40) as f64 / 1e6,
            event_id: event_id_from_publisher(&sensor.sensor_id, &number.to_string()),
        }
    }
}

impl Row<'_> {
    /// Makes the event that carries it.
    pub fn event(&self) -> ReadingCreatedEvent {
        ReadingCreatedEvent {
            event_id: self.event_id,
            sensor_id: self.sensor.sensor_id.clone(),
            device_type: DEVICE_TYPE.to_owned(),
            zone_id: self.sensor.zone_id.clone(),
            values: [(METRIC.to_owned(), self.value)].into(),
            attributes: serde_json::Map::new(),
            reading_at: self.reading_at,
            received_at: self.received_at,
        }
    }
}

/// Returns the instant of the first row.
pub fn start() -> Timestamp {
    instant(START_MICROS)
}

/// Makes an instant of this workload.
///
/// # Panics
/// It is thousands of years away, which no count of rows reaches.
pub fn instant(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("the workload lies within the years 0001 to 9999")
}

/// Maps slots to sensors one to one.
fn scatter(slot: u64, count: usize) -> usize {
    let count = count as u64;
    let stride = if count.is_multiple_of(STRIDE) { 1 } else { STRIDE };
    usize::try_from(slot * stride % count).expect("it is below the count of sensors")
}

/// SplitMix64's finalizer. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// 2014.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn row_zero_is_read_at_noon() {
        assert_eq!(start().to_string(), "2026-03-02T12:00:00.000000Z");
    }

    proptest! {
        #[test]
        fn each_sensor_speaks_once_in_an_interval(sensors in 1..300_u32, interval in -3..3_i64, seed: u64) {
            let workload = Workload::new(sensors, seed);
            let first = interval * i64::from(sensors);
            let spoke: BTreeSet<_> = (first..first + i64::from(sensors)).map(|n| workload.row(n).sensor_number).collect();
            prop_assert_eq!(spoke.len(), sensors as usize);
        }

        #[test]
        fn the_same_seed_makes_the_same_rows_in_order(number in -1_000_000..1_000_000_i64, seed: u64) {
            let (one, other) = (Workload::new(100, seed), Workload::new(100, seed));
            prop_assert_eq!(one.row(number).event(), other.row(number).event());
            prop_assert!(one.row(number).reading_at < one.row(number + 1).reading_at);
        }
    }
}

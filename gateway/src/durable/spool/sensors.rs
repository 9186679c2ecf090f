//! Which sensors have records in the spool. Pure.
//!
//! A sensor's last number is enough: it has records as long as that is not removed. So a removal need not
//! know whose records it removes, and memory grows with sensors, not with records.

use super::Seq;
use std::collections::HashMap;
use std::sync::Arc;

/// Each sensor's last record, stored or waiting.
#[derive(Debug, Default)]
pub(super) struct Sensors {
    last: HashMap<Arc<str>, Seq>,
    removed_through: Seq,
    /// When `last` was last swept of sensors that have no records any more.
    swept_through: Seq,
}

impl Sensors {
    /// Takes down that a sensor has a record with this number.
    pub(super) fn note(&mut self, sensor_id: Arc<str>, seq: Seq) {
        let last = self.last.entry(sensor_id).or_default();
        *last = seq.max(*last);
    }

    /// Takes down that the records up to this one are removed.
    pub(super) fn remove_through(&mut self, seq: Seq) {
        self.removed_through = self.removed_through.max(seq);
        // A sweep looks at every sensor, so it waits for as many removals as there are sensors.
        if self.removed_through - self.swept_through >= self.last.len() as u64 {
            self.last.retain(|_, last| *last > self.removed_through);
            self.swept_through = self.removed_through;
        }
    }

    /// Says whether a sensor has records that are not removed.
    pub(super) fn holds(&self, sensor_id: &str) -> bool {
        self.last.get(sensor_id).is_some_and(|last| *last > self.removed_through)
    }

    /// Returns the last record that is removed.
    pub(super) fn removed_through(&self) -> Seq {
        self.removed_through
    }

    /// Forgets all sensors: nothing is stored and nothing waits. Numbers of appends that failed go this way
    /// too.
    pub(super) fn clear(&mut self) {
        self.last = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_sensor_is_held_while_one_of_its_records_is_not_removed(
            sensor_of in proptest::collection::vec(0..9u8, 1..60),
            removals in proptest::collection::vec(0..70u64, 0..9),
        ) {
            let mut sensors = Sensors::default();
            for (seq, sensor) in (1..).zip(&sensor_of) {
                sensors.note(sensor.to_string().into(), seq);
            }
            let mut through = 0;
            for removal in removals {
                sensors.remove_through(removal);
                through = through.max(removal);
                for sensor in 0..9u8 {
                    let is_left = (1..).zip(&sensor_of).any(|(seq, of)| *of == sensor && seq > through);
                    prop_assert_eq!(sensors.holds(&sensor.to_string()), is_left);
                }
            }
        }
    }
}

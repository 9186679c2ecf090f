//! The thresholds as a table, kept by the records of `iot-threshold-updates`. Pure.

use schema::{Change, ChangeError, Order, ThresholdRow, Verdict};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// Most unreadable keys that are remembered: enough to see that something is wrong, whatever is written
/// there.
const UNREADABLE_MAX: usize = 1_000;

/// Holds every threshold by the sensor that it watches.
///
/// Shape: the thresholds of a sensor come in the order of their ids, so that a reading always yields the same alerts in
/// the same order.
#[derive(Debug, Default)]
pub struct Rules {
    by_sensor: HashMap<String, BTreeMap<Uuid, ThresholdRow>>,
    sensor_of: HashMap<Uuid, String>,
    /// Keys whose last change cannot be read.
    unreadable: BTreeSet<Vec<u8>>,
    /// How new the change is that is in force.
    order: Order<Uuid>,
}

impl Rules {
    /// Applies one record; no value is a tombstone. A change that is older than the one in force changes nothing.
    ///
    /// # Errors
    /// [`ChangeError`] when the record cannot be read; the threshold stays as it was (ADR 0014), and its key counts as
    /// unreadable until a change that can be read, or a tombstone.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ChangeError> {
        let applied = self.apply_readable(key, value);
        match &applied {
            // It says nothing about the change that is in force.
            Ok(Verdict::Stale) => {}
            Err(_) if value.is_some() => {
                if self.unreadable.len() < UNREADABLE_MAX {
                    self.unreadable.insert(key.to_vec());
                }
            }
            Ok(_) | Err(_) => _ = self.unreadable.remove(key),
        }
        applied.map(drop)
    }

    fn apply_readable(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Verdict, ChangeError> {
        let id = Change::<ThresholdRow>::decode_key(key)?.threshold_id;
        let verdict = self.order.check(&id, value)?;
        match (verdict, value) {
            (Verdict::Stale, _) => {}
            (Verdict::Row, Some(value)) => {
                let row = Change::<ThresholdRow>::decode(value)?.after;
                self.remove(id);
                if let Some(row) = row {
                    self.sensor_of.insert(id, row.sensor_id.clone());
                    self.by_sensor.entry(row.sensor_id.clone()).or_default().insert(id, row);
                }
            }
            (Verdict::Row | Verdict::Deleted, _) => self.remove(id),
        }
        Ok(verdict)
    }

    fn remove(&mut self, id: Uuid) {
        let Some(sensor) = self.sensor_of.remove(&id) else { return };
        if let Some(of_sensor) = self.by_sensor.get_mut(&sensor) {
            of_sensor.remove(&id);
            if of_sensor.is_empty() {
                self.by_sensor.remove(&sensor);
            }
        }
    }

    /// Returns the thresholds of a sensor.
    pub fn of(&self, sensor_id: &str) -> impl Iterator<Item = &ThresholdRow> {
        self.by_sensor.get(sensor_id).into_iter().flat_map(BTreeMap::values)
    }

    /// Counts the keys whose last change cannot be read, up to 1,000.
    pub fn unreadable_count(&self) -> usize {
        self.unreadable.len()
    }

    /// Counts the thresholds.
    pub fn count(&self) -> usize {
        self.sensor_of.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn key(id: u128) -> Vec<u8> {
        json!({"threshold_id": Uuid::from_u128(id)}).to_string().into_bytes()
    }

    fn value(op: &str, id: u128, sensor: &str, version: i64) -> Vec<u8> {
        let row = json!({
            "threshold_id": Uuid::from_u128(id), "sensor_id": sensor, "metric": "m", "min_value": null,
            "max_value": 1.0, "severity": "info", "enabled": true, "description": "", "version": version,
            "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
        });
        let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
        json!({"op": op, "before": before, "after": after, "ts_ms": 0}).to_string().into_bytes()
    }

    fn versions(rules: &Rules, sensor: &str) -> Vec<(u128, i64)> {
        rules.of(sensor).map(|row| (row.threshold_id.as_u128(), row.version)).collect()
    }

    #[test]
    fn last_change_of_a_threshold_is_in_force() {
        let mut rules = Rules::default();
        rules.apply(&key(2), Some(&value("r", 2, "a", 1))).unwrap();
        rules.apply(&key(1), Some(&value("c", 1, "a", 1))).unwrap();
        rules.apply(&key(2), Some(&value("u", 2, "a", 2))).unwrap();
        assert_eq!(versions(&rules, "a"), [(1, 1), (2, 2)]);
        rules.apply(&key(2), Some(&value("u", 2, "b", 3))).unwrap();
        assert_eq!((versions(&rules, "a"), versions(&rules, "b")), (vec![(1, 1)], vec![(2, 3)]));
        rules.apply(&key(1), Some(&value("d", 1, "a", 1))).unwrap();
        rules.apply(&key(2), None).unwrap();
        assert_eq!((rules.count(), rules.by_sensor.len()), (0, 0));
    }

    #[test]
    fn replayed_change_does_not_put_an_older_row_in_force() {
        let mut rules = Rules::default();
        let changes = [value("c", 1, "a", 1), value("u", 1, "a", 2), value("u", 1, "a", 3)];
        for change in &changes {
            rules.apply(&key(1), Some(change)).unwrap();
        }
        // A capturer sends again what it had not confirmed, and may stop anywhere in it.
        for change in &changes[..2] {
            rules.apply(&key(1), Some(change)).unwrap();
            assert_eq!(versions(&rules, "a"), [(1, 3)]);
        }
        // Nor does it bring back what was deleted, or say anything about a change that cannot be read.
        assert!(rules.apply(&key(1), Some(br#"{"op":"u","after":{"version":4}}"#)).is_err());
        rules.apply(&key(1), Some(&changes[1])).unwrap();
        assert_eq!((rules.unreadable_count(), versions(&rules, "a")), (1, vec![(1, 3)]));
        rules.apply(&key(1), Some(&value("d", 1, "a", 4))).unwrap();
        rules.apply(&key(1), None).unwrap();
        rules.apply(&key(1), Some(&changes[2])).unwrap();
        assert_eq!((rules.unreadable_count(), rules.count()), (0, 0));
    }

    #[test]
    fn record_that_cannot_be_read_changes_nothing() {
        let mut rules = Rules::default();
        rules.apply(&key(1), Some(&value("c", 1, "a", 1))).unwrap();
        assert!(rules.apply(&key(1), Some(b"{}")).is_err());
        assert!(rules.apply(b"1", None).is_err());
        assert_eq!(versions(&rules, "a"), [(1, 1)]);
    }

    #[test]
    fn key_is_unreadable_until_a_change_that_can_be_read_or_a_tombstone() {
        let mut rules = Rules::default();
        for bad in [key(1), key(2), b"1".to_vec()] {
            assert!(rules.apply(&bad, Some(b"{}")).is_err());
        }
        assert_eq!(rules.unreadable_count(), 3);
        rules.apply(&key(1), Some(&value("u", 1, "a", 2))).unwrap();
        rules.apply(&key(2), None).unwrap();
        assert!(rules.apply(b"1", None).is_err());
        assert_eq!((rules.unreadable_count(), versions(&rules, "a")), (0, vec![(1, 2)]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_applied_or_refused_without_a_panic(key: Vec<u8>, value: Option<Vec<u8>>) {
            let _ = Rules::default().apply(&key, value.as_deref());
        }
    }
}

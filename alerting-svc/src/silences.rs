//! Which silence covers an alert, by the records of `iot-silence-updates`. Pure.

use schema::{Alert, Change, ChangeError, Order, SilenceRow, Timestamp, Verdict};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// Holds the silences that are not over, by what an alert is asked for: a thousand of single sensors cost the
/// alerts of the others nothing.
///
/// Units: memory grows with those that are not over, and by what [`Order`] keeps of every one that has a row.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    by_id: BTreeMap<Uuid, SilenceRow>,
    /// Those of one sensor.
    of_sensor: HashMap<String, BTreeSet<Uuid>>,
    /// Those of a zone, a type, a metric or a severity.
    of_many: BTreeSet<Uuid>,
    by_end: BTreeSet<(Timestamp, Uuid)>,
    order: Order<Uuid>,
}

impl Silences {
    /// Applies one record; no value is a tombstone. A change that is older than the one in force changes
    /// nothing. Silences that are over at `now` are forgotten.
    ///
    /// # Errors
    /// [`ChangeError`] when the record cannot be read; the silence stays as it was. The alerts of one that is
    /// not known are told: nothing is dropped.
    pub(crate) fn apply(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<(), ChangeError> {
        let id = Change::<SilenceRow>::decode_key(key)?.silence_id;
        match (self.order.check(&id, value)?, value) {
            (Verdict::Stale, _) => {}
            (Verdict::Row, Some(value)) => {
                let row = Change::<SilenceRow>::decode(value)?.after;
                self.remove(id);
                if let Some(row) = row {
                    // A row is held by its own key, whatever its columns say.
                    self.put(SilenceRow { silence_id: id, ..row });
                }
            }
            (Verdict::Row | Verdict::Deleted, _) => self.remove(id),
        }
        while let Some((end, id)) = self.by_end.first().copied()
            && end <= now
        {
            self.remove(id);
        }
        Ok(())
    }

    fn put(&mut self, row: SilenceRow) {
        let id = row.silence_id;
        match &row.sensor_id {
            Some(sensor_id) => self.of_sensor.entry(sensor_id.clone()).or_default().insert(id),
            None => self.of_many.insert(id),
        };
        self.by_end.insert((row.ends_at, id));
        self.by_id.insert(id, row);
    }

    fn remove(&mut self, id: Uuid) {
        let Some(row) = self.by_id.remove(&id) else { return };
        self.by_end.remove(&(row.ends_at, id));
        self.of_many.remove(&id);
        if let Some(sensor_id) = row.sensor_id
            && let Some(of_sensor) = self.of_sensor.get_mut(&sensor_id)
        {
            of_sensor.remove(&id);
            if of_sensor.is_empty() {
                self.of_sensor.remove(&sensor_id);
            }
        }
    }

    /// Returns the silence that covers an alert; of several the one that ends last.
    pub(crate) fn covering(&self, alert: &Alert) -> Option<Uuid> {
        let of_sensor = self.of_sensor.get(&alert.sensor_id).into_iter().flatten();
        let asked = of_sensor.chain(&self.of_many).filter_map(|id| self.by_id.get(id));
        let covering = asked.filter(|silence| silence.covers(alert));
        covering.max_by_key(|silence| (silence.ends_at, silence.silence_id)).map(|silence| silence.silence_id)
    }

    /// Counts the silences.
    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn apply(silences: &mut Silences, id: u128, op: &str, ends: &str, version: i64) {
        apply_of(silences, None, id, op, ends, version);
    }

    fn apply_of(
        silences: &mut Silences,
        sensor_id: Option<&str>,
        id: u128,
        op: &str,
        ends: &str,
        version: i64,
    ) {
        let id = Uuid::from_u128(id);
        let row = json!({
            "silence_id": id, "sensor_id": sensor_id, "device_type": null, "zone_id": null, "metric": "temperature",
            "severity": null, "starts_at": "2026-01-01T00:00:00Z", "ends_at": ends, "comment": "",
            "created_by": "", "version": version,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        });
        let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
        let change = json!({"op": op, "before": before, "after": after, "ts_ms": 0}).to_string();
        let key = json!({"silence_id": id}).to_string();
        let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        silences.apply(key.as_bytes(), Some(change.as_bytes()), now).unwrap();
    }

    #[test]
    fn of_several_silences_the_one_that_ends_last_covers_an_alert() {
        let alert: Alert =
            serde_json::from_str(include_str!("../../schema/tests/golden/alert.1.json")).unwrap();
        let mut silences = Silences::default();
        assert_eq!(silences.covering(&alert), None);
        apply(&mut silences, 1, "c", "2027-02-01T00:00:00Z", 1);
        apply(&mut silences, 2, "c", "2027-01-01T00:00:00Z", 2);
        assert_eq!(silences.covering(&alert), Some(Uuid::from_u128(1)));
        // It is ended early, and then the other deleted.
        apply(&mut silences, 1, "u", "2026-01-01T00:00:01Z", 3);
        assert_eq!(silences.covering(&alert), Some(Uuid::from_u128(2)));
        apply(&mut silences, 2, "d", "2027-01-01T00:00:00Z", 2);
        assert_eq!((silences.covering(&alert), silences.count()), (None, 1));
    }

    #[test]
    fn silence_of_a_sensor_covers_its_alerts_alone_and_moves_with_its_row() {
        let alert: Alert =
            serde_json::from_str(include_str!("../../schema/tests/golden/alert.1.json")).unwrap();
        let other = Alert { sensor_id: "other".to_owned(), ..alert.clone() };
        let (mut silences, one) = (Silences::default(), Some(Uuid::from_u128(1)));
        apply_of(&mut silences, Some(&alert.sensor_id), 1, "c", "2027-02-01T00:00:00Z", 1);
        assert_eq!((silences.covering(&alert), silences.covering(&other)), (one, None));
        apply_of(&mut silences, Some("other"), 1, "u", "2027-02-01T00:00:00Z", 2);
        assert_eq!((silences.covering(&alert), silences.covering(&other)), (None, one));
        apply(&mut silences, 1, "u", "2027-02-01T00:00:00Z", 3);
        assert_eq!((silences.covering(&alert), silences.covering(&other)), (one, one));
        assert!(silences.of_sensor.is_empty());
    }

    #[test]
    fn silence_that_is_over_is_forgotten_and_does_not_come_back() {
        let mut silences = Silences::default();
        apply(&mut silences, 1, "c", "2026-01-01T00:00:00Z", 2);
        assert_eq!(silences.count(), 0);
        // A capturer sends the row again as it was before it was ended early.
        apply(&mut silences, 1, "u", "2027-01-01T00:00:00Z", 1);
        assert_eq!(silences.count(), 0);
        apply(&mut silences, 1, "u", "2027-01-01T00:00:00Z", 3);
        assert_eq!((silences.count(), silences.by_end.len()), (1, 1));
    }
}

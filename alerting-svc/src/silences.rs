//! Which silence covers an alert, by the records of `iot-silence-updates`. Pure.

use schema::{Alert, Change, ChangeError, Order, SilenceRow, Verdict};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Holds every silence, those that are over too.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    by_id: BTreeMap<Uuid, SilenceRow>,
    order: Order<Uuid>,
}

impl Silences {
    /// Applies one record; no value is a tombstone. A change that is older than the one in force changes
    /// nothing.
    ///
    /// # Errors
    /// [`ChangeError`] when the record cannot be read; the silence stays as it was. The alerts of one that is
    /// not known are told: nothing is dropped.
    pub(crate) fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ChangeError> {
        let id = Change::<SilenceRow>::decode_key(key)?.silence_id;
        match (self.order.check(&id, value)?, value) {
            (Verdict::Stale, _) => {}
            (Verdict::Row, Some(value)) => match Change::<SilenceRow>::decode(value)?.after {
                Some(row) => drop(self.by_id.insert(id, row)),
                None => drop(self.by_id.remove(&id)),
            },
            (Verdict::Row | Verdict::Deleted, _) => drop(self.by_id.remove(&id)),
        }
        Ok(())
    }

    /// Returns the silence that covers an alert; of several the one that ends last.
    pub(crate) fn covering(&self, alert: &Alert) -> Option<Uuid> {
        let covering = self.by_id.values().filter(|silence| silence.covers(alert));
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
        let id = Uuid::from_u128(id);
        let row = json!({
            "silence_id": id, "sensor_id": null, "device_type": null, "zone_id": null, "metric": "temperature",
            "severity": null, "starts_at": "2026-01-01T00:00:00Z", "ends_at": ends, "comment": "",
            "created_by": "", "version": version,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        });
        let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
        let change = json!({"op": op, "before": before, "after": after, "ts_ms": 0}).to_string();
        let key = json!({"silence_id": id}).to_string();
        silences.apply(key.as_bytes(), Some(change.as_bytes())).unwrap();
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
}

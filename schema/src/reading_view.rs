//! A reading whose texts stay where they were read, for consumers of very many.

use crate::{ReadingCreatedEvent, Timestamp};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// Reads the same JSON as [`ReadingCreatedEvent`], field by field, without a copy of any text that has no
/// escapes in it.
///
/// Shape: as there; `values` is ordered by metric, and of a metric that comes twice the last value counts, as
/// there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadingView<'a> {
    /// See [`ReadingCreatedEvent::event_id`].
    pub event_id: Uuid,
    /// See [`ReadingCreatedEvent::sensor_id`].
    #[serde(borrow)]
    pub sensor_id: Cow<'a, str>,
    /// See [`ReadingCreatedEvent::device_type`].
    #[serde(borrow)]
    pub device_type: Cow<'a, str>,
    /// See [`ReadingCreatedEvent::zone_id`].
    #[serde(borrow)]
    pub zone_id: Cow<'a, str>,
    /// See [`ReadingCreatedEvent::values`].
    #[serde(borrow, deserialize_with = "values")]
    pub values: Vec<(Cow<'a, str>, f64)>,
    /// See [`ReadingCreatedEvent::attributes`].
    #[serde(default)]
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// See [`ReadingCreatedEvent::reading_at`].
    pub reading_at: Timestamp,
    /// See [`ReadingCreatedEvent::received_at`].
    pub received_at: Timestamp,
}

/// Bytes of the longest unit: every alert repeats it.
const UNIT_BYTES_MAX: usize = 32;

impl ReadingView<'_> {
    /// Returns the unit of a metric: codecs that know units have all of them in the attribute `units`, and in
    /// JSON a field of a nested object is a dotted one. One that is too long or no plain text is none.
    #[must_use]
    pub fn unit(&self, metric: &str) -> Option<&str> {
        if self.attributes.is_empty() {
            return None;
        }
        let units = self.attributes.get("units");
        let unit =
            units.map_or_else(|| self.attributes.get(&format!("units.{metric}")), |all| all.get(metric));
        let is_plain =
            |unit: &&str| (1..=UNIT_BYTES_MAX).contains(&unit.len()) && !unit.contains(char::is_control);
        unit.and_then(serde_json::Value::as_str).filter(is_plain)
    }
}

impl From<ReadingView<'_>> for ReadingCreatedEvent {
    fn from(view: ReadingView<'_>) -> Self {
        Self {
            event_id: view.event_id,
            sensor_id: view.sensor_id.into_owned(),
            device_type: view.device_type.into_owned(),
            zone_id: view.zone_id.into_owned(),
            values: view.values.into_iter().map(|(metric, value)| (metric.into_owned(), value)).collect(),
            attributes: view.attributes,
            reading_at: view.reading_at,
            received_at: view.received_at,
        }
    }
}

/// A text of its own type, because serde borrows a [`Cow`] only in a field.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Cow<'de, str>, f64)>, D::Error> {
    struct Values;
    impl<'de> Visitor<'de> for Values {
        type Value = Vec<(Cow<'de, str>, f64)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of numbers")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut values: Self::Value = Vec::with_capacity(1);
            while let Some((Text(metric), value)) = map.next_entry::<Text<'de>, f64>()? {
                values.push((metric, value));
            }
            if values.len() > 1 {
                // Stable, so that of equal metrics the last to come is the last here.
                values.sort_by(|(one, _), (other, _)| one.cmp(other));
                values.dedup_by(|(next, value), (kept, kept_value)| {
                    let is_same = next == kept;
                    if is_same {
                        *kept_value = *value;
                    }
                    is_same
                });
            }
            Ok(values)
        }
    }
    deserializer.deserialize_map(Values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const WHOLE: &str = r#"{"eventId":"7cdc6127-a2ee-5db8-a48c-86e7d4561d3c","sensorId":"s","deviceType":"T\u00e9",
        "zoneId":"z","values":{"b":1,"a":-2.5e-3,"b":3,"\u0061":4},"unknown":[{}],"attributes":{"text":"x","list":[1]},
        "readingAt":"2026-01-02T03:04:05+02:00","receivedAt":"2026-01-02T03:04:05.000006Z"}"#;

    /// Says whether both read it, and the same from it.
    fn agree(bytes: &[u8]) -> bool {
        let whole = serde_json::from_slice::<ReadingCreatedEvent>(bytes).ok();
        let view = serde_json::from_slice::<ReadingView<'_>>(bytes).ok();
        whole == view.map(ReadingCreatedEvent::from)
    }

    #[test]
    fn a_view_reads_what_the_whole_event_reads() {
        let view: ReadingView<'_> = serde_json::from_str(WHOLE).unwrap();
        assert_eq!(view.values, [("a".into(), 4.0), ("b".into(), 3.0)]);
        assert!(matches!(view.sensor_id, Cow::Borrowed("s")));
        assert!(agree(WHOLE.as_bytes()));
    }

    #[test]
    fn a_view_refuses_what_the_whole_event_refuses() {
        let whole: serde_json::Value = serde_json::from_str(WHOLE).unwrap();
        for field in
            ["eventId", "sensorId", "deviceType", "zoneId", "values", "attributes", "readingAt", "receivedAt"]
        {
            for value in
                [None, Some(json!(null)), Some(json!(1)), Some(json!("1")), Some(json!([])), Some(json!({}))]
            {
                let mut broken = whole.clone();
                match value {
                    Some(value) => broken[field] = value,
                    None => drop(broken.as_object_mut().unwrap().remove(field)),
                }
                assert!(agree(broken.to_string().as_bytes()), "{broken}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_damage_is_seen_by_both_or_by_none(at in 0..WHOLE.len(), byte: u8, cut in 0..WHOLE.len()) {
            let mut bytes = WHOLE.as_bytes().to_vec();
            bytes[at] = byte;
            prop_assert!(agree(&bytes));
            prop_assert!(agree(&bytes[..cut]));
        }
    }
}

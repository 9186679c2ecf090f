//! A reading whose texts stay where they were read, for consumers of very many.

mod own;

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

impl<'a> ReadingView<'a> {
    /// Reads a record's value.
    ///
    /// # Errors
    /// It is not JSON or no reading (dead letter).
    pub fn decode(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        own::read(bytes).map_or_else(|| serde_json::from_slice(bytes), Ok)
    }

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

    /// Says whether all read it, and the same from it.
    fn agree(bytes: &[u8]) -> bool {
        let whole = serde_json::from_slice::<ReadingCreatedEvent>(bytes).ok();
        let view = serde_json::from_slice::<ReadingView<'_>>(bytes).ok().map(ReadingCreatedEvent::from);
        let decoded = ReadingView::decode(bytes).ok().map(ReadingCreatedEvent::from);
        whole == view && view == decoded
    }

    /// A reading as the gateway writes it.
    fn written(values: &str) -> String {
        format!(
            r#"{{"eventId":"7cdc6127-a2ee-5db8-a48c-86e7d4561d3c","sensorId":"s","deviceType":"Té","zoneId":"",
            "values":{values},"readingAt":"2026-01-02T03:04:05.000000Z","receivedAt":"2026-01-02T03:04:05.000006Z"}}"#
        )
        .replace("\n            ", "")
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

    #[test]
    fn readings_as_the_gateway_writes_them_take_the_short_way() {
        for values in [r#"{"a":-2.5e-3,"b":1}"#, r#"{"é":0}"#, r#"{"a":1e16}"#, r#"{"a":-0.0}"#] {
            let text = written(values);
            assert!(own::read(text.as_bytes()).is_some() && agree(text.as_bytes()), "{text}");
            let event: ReadingCreatedEvent = serde_json::from_str(&text).unwrap();
            let again = serde_json::to_vec(&event).unwrap();
            assert!(own::read(&again).is_some_and(|view| ReadingCreatedEvent::from(view) == event));
        }
    }

    #[test]
    fn what_only_one_of_the_two_ways_could_read_takes_the_general_way() {
        for number in
            ["+1", ".5", "1.", "1.e5", "01", "-", "-.5", "inf", "NaN", "1e999", "1_0", "", " 1", "1e"]
        {
            let text = written(&format!(r#"{{"a":{number}}}"#));
            assert!(own::read(text.as_bytes()).is_none() && agree(text.as_bytes()), "{text}");
        }
        for values in
            [r#"{"b":1,"a":2}"#, r#"{"a":1,"a":2}"#, "{}", r#"{"a\n":1}"#, "{\"a\n\":1}", r#"{"a":1,}"#]
        {
            let text = written(values);
            assert!(own::read(text.as_bytes()).is_none() && agree(text.as_bytes()), "{text}");
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

        #[test]
        fn any_damage_to_what_the_gateway_writes_is_seen_by_all_or_by_none(
            at in 0..500_usize, byte in prop_oneof![any::<u8>(), prop::sample::select(&b"0-+.eE\"\\,:{}"[..])],
            cut in 0..500_usize, value: f64,
        ) {
            prop_assume!(value.is_finite());
            let mut bytes = written(&json!({"a": value, "b": 12.5}).to_string()).into_bytes();
            prop_assert!(own::read(&bytes).is_some() && agree(&bytes));
            let length = bytes.len();
            bytes[at % length] = byte;
            prop_assert!(agree(&bytes));
            prop_assert!(agree(&bytes[..cut % length]));
        }
    }
}

//! Codec `json`: one object, flat or nearly so.
//!
//! Numbers are metrics, under their dotted path when nested; texts, booleans, nulls and arrays are attributes. At the top,
//! `timestamp` is the device's clock and `eventId` its own id of the event. The payload is walked once, without a tree.

use std::collections::BTreeMap;
use std::fmt;

use schema::{ReadingCreatedEvent, Timestamp};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, DEPTH_MAX, EVENT_ID_BYTES_MAX, METRICS_MAX, Message,
    TimestampBounds, Undecodable, timestamp,
};

pub(super) fn decode(
    message: &Message<'_>,
    bounds: &TimestampBounds,
) -> Result<ReadingCreatedEvent, Undecodable> {
    let mut fields = Fields::default();
    fields.read(message.payload)?;
    if fields.values.is_empty() {
        return Err(Undecodable::NoMetric);
    }
    let reading_at = match fields.reading_at {
        Some(reading_at) => bounds.check(reading_at, message.received_at)?,
        None => message.received_at,
    };
    let event_id = match message.event_id.or(fields.event_id.as_deref()) {
        Some(event_id) => schema::event_id_from_publisher(message.sensor_id, event_id),
        None => schema::event_id_from_payload(message.sensor_id, reading_at, message.payload),
    };
    Ok(ReadingCreatedEvent {
        event_id,
        sensor_id: message.sensor_id.to_owned(),
        device_type: message.device_type.to_owned(),
        zone_id: message.zone_id.to_owned(),
        values: fields.values,
        attributes: fields.attributes,
        reading_at,
        received_at: message.received_at,
    })
}

/// What a walk has found so far, and what stopped it.
#[derive(Default)]
struct Fields {
    values: BTreeMap<String, f64>,
    attributes: Map<String, Value>,
    reading_at: Option<Timestamp>,
    event_id: Option<String>,
    path: String,
    depth: usize,
    stopped: Option<Undecodable>,
}

impl Fields {
    fn read(&mut self, payload: &[u8]) -> Result<(), Undecodable> {
        let mut json = serde_json::Deserializer::from_slice(payload);
        let walked = Walk(self).deserialize(&mut json).and_then(|()| json.end());
        match (walked, self.stopped.take()) {
            (Err(_), Some(stopped)) => Err(stopped),
            (Err(error), None) => Err(refuse(&error)),
            (Ok(()), _) => Ok(()),
        }
    }

    /// Keeps what stops the walk: serde's own error would only carry its text.
    fn stop<E: serde::de::Error>(&mut self, undecodable: Undecodable) -> E {
        let error = E::custom(&undecodable);
        self.stopped = Some(undecodable);
        error
    }

    fn number(&mut self, number: f64) -> Result<(), Undecodable> {
        match (self.depth, self.path.as_str()) {
            (0, _) => return Err(Undecodable::NotObject),
            (1, "timestamp") => return set_once(&mut self.reading_at, timestamp::from_epoch(number)?),
            (1, "eventId") => return Err(Undecodable::EventId),
            _ => {}
        }
        if !number.is_finite() {
            return Err(Undecodable::NotFinite);
        }
        schema::check_metric(&self.path).map_err(|_| Undecodable::MetricName)?;
        self.check_new()?;
        if self.values.len() == METRICS_MAX {
            return Err(Undecodable::TooManyMetrics);
        }
        self.values.insert(self.path.clone(), number);
        Ok(())
    }

    /// A whole number may also be an event id, and keeps all its digits as one.
    fn whole(&mut self, digits: impl fmt::Display, number: f64) -> Result<(), Undecodable> {
        if self.depth == 1 && self.path == "eventId" {
            return set_once(&mut self.event_id, digits.to_string());
        }
        self.number(number)
    }

    fn text(&mut self, text: &str) -> Result<(), Undecodable> {
        match (self.depth, self.path.as_str()) {
            (1, "timestamp") => set_once(&mut self.reading_at, timestamp::from_text(text)?),
            (1, "eventId") if (1..=EVENT_ID_BYTES_MAX).contains(&text.len()) => {
                set_once(&mut self.event_id, text.to_owned())
            }
            _ => self.attribute(Value::String(text.to_owned())),
        }
    }

    fn attribute(&mut self, value: Value) -> Result<(), Undecodable> {
        match (self.depth, self.path.as_str()) {
            (0, _) => return Err(Undecodable::NotObject),
            (1, "timestamp") => return Err(Undecodable::Timestamp),
            (1, "eventId") => return Err(Undecodable::EventId),
            _ => {}
        }
        if self.path.len() > ATTRIBUTE_BYTES_MAX {
            return Err(Undecodable::AttributeName);
        }
        self.check_new()?;
        if self.attributes.len() == ATTRIBUTES_MAX {
            return Err(Undecodable::TooManyAttributes);
        }
        self.attributes.insert(self.path.clone(), value);
        Ok(())
    }

    fn check_new(&self) -> Result<(), Undecodable> {
        let is_known = self.values.contains_key(&self.path) || self.attributes.contains_key(&self.path);
        if is_known { Err(Undecodable::DuplicateField) } else { Ok(()) }
    }
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), Undecodable> {
    match place.replace(value) {
        Some(_) => Err(Undecodable::DuplicateField),
        None => Ok(()),
    }
}

/// A number too large for a double is the one complaint of the parser that is about a value, not about syntax, and only its
/// text tells it apart.
fn refuse(error: &serde_json::Error) -> Undecodable {
    if error.to_string().starts_with("number out of range") {
        Undecodable::NotFinite
    } else {
        Undecodable::NotJson { line: error.line(), column: error.column() }
    }
}

/// Walks one value at the current path.
struct Walk<'a>(&'a mut Fields);

impl Walk<'_> {
    fn done<E: serde::de::Error>(self, result: Result<(), Undecodable>) -> Result<(), E> {
        result.map_err(|undecodable| self.0.stop(undecodable))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a metric is a double; larger whole numbers are rounded like any JSON number"
)]
impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        let result = self.0.number(number);
        self.done(result)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        let result = self.0.whole(number, number as f64);
        self.done(result)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        let result = self.0.whole(number, number as f64);
        self.done(result)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let result = self.0.text(text);
        self.done(result)
    }

    fn visit_bool<E: serde::de::Error>(self, bool: bool) -> Result<(), E> {
        let result = self.0.attribute(Value::Bool(bool));
        self.done(result)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        let result = self.0.attribute(Value::Null);
        self.done(result)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.0.depth == 0 {
            return Err(self.0.stop(Undecodable::NotObject));
        }
        let mut array = Vec::new();
        while let Some(element) = seq.next_element::<Value>()? {
            array.push(element);
        }
        let result = self.0.attribute(Value::Array(array));
        self.done(result)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.0;
        if fields.depth == DEPTH_MAX {
            return Err(fields.stop(Undecodable::TooDeep));
        }
        match (fields.depth, fields.path.as_str()) {
            (1, "timestamp") => return Err(fields.stop(Undecodable::Timestamp)),
            (1, "eventId") => return Err(fields.stop(Undecodable::EventId)),
            _ => {}
        }
        fields.depth += 1;
        let parent_len = fields.path.len();
        while let Some(name) = map.next_key::<String>()? {
            if parent_len > 0 {
                fields.path.push('.');
            }
            fields.path.push_str(&name);
            map.next_value_seed(Walk(fields))?;
            fields.path.truncate(parent_len);
        }
        fields.depth -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BOUNDS, Message, decode as dispatch};
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn message(payload: &[u8]) -> Message<'_> {
        Message {
            sensor_id: "t-1",
            device_type: "THERMOSTAT",
            zone_id: "zone-1",
            event_id: None,
            received_at: Timestamp::parse("2026-01-02T03:04:05.678901Z").unwrap(),
            payload,
        }
    }

    fn reading(payload: &str) -> Result<ReadingCreatedEvent, Undecodable> {
        let mut readings = dispatch("json", &message(payload.as_bytes()), &BOUNDS)?;
        assert_eq!(readings.len(), 1);
        Ok(readings.remove(0))
    }

    #[test]
    fn numbers_are_metrics_and_the_rest_are_attributes() {
        let reading = reading(
            r#"{"temperature":21.5,"n":-3,"engine":{"rpm":900,"oil":{"bar":2},"state":"on"},
                "ok":true,"none":null,"list":[1,{"a":2}],"timestamp":1767323045,"fw":"1.2"}"#,
        )
        .unwrap();
        let values: Vec<_> = reading.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(
            values,
            [("engine.oil.bar", 2.0), ("engine.rpm", 900.0), ("n", -3.0), ("temperature", 21.5)]
        );
        let attributes = json!({
            "engine.state": "on", "ok": true, "none": null, "list": [1, {"a": 2}], "fw": "1.2"
        });
        assert_eq!(Value::Object(reading.attributes), attributes);
        assert_eq!(reading.reading_at.to_string(), "2026-01-02T03:04:05.000000Z");
        assert_eq!(reading.received_at.to_string(), "2026-01-02T03:04:05.678901Z");
        assert_eq!((reading.device_type.as_str(), reading.zone_id.as_str()), ("THERMOSTAT", "zone-1"));
    }

    #[test]
    fn payload_without_timestamp_is_dated_by_its_arrival() {
        let reading = reading(r#"{"t":1}"#).unwrap();
        assert_eq!(reading.reading_at, reading.received_at);
    }

    #[test]
    fn publishers_event_id_names_the_event() {
        let of = schema::event_id_from_publisher;
        assert_eq!(reading(r#"{"t":1,"eventId":"e-7"}"#).unwrap().event_id, of("t-1", "e-7"));
        assert_eq!(
            reading(r#"{"t":1,"eventId":18446744073709551615}"#).unwrap().event_id,
            of("t-1", "18446744073709551615")
        );
        let beside = Message { event_id: Some("p"), ..message(br#"{"t":1,"eventId":"e-7"}"#) };
        assert_eq!(decode(&beside, &BOUNDS).unwrap().event_id, of("t-1", "p"));
    }

    #[test]
    fn resend_with_a_timestamp_is_the_same_event() {
        let payload = r#"{"t":1,"timestamp":"2026-01-02T03:04:05Z"}"#;
        assert_eq!(reading(payload).unwrap().event_id, reading(payload).unwrap().event_id);
        let other = r#"{"t":2,"timestamp":"2026-01-02T03:04:05Z"}"#;
        assert_ne!(reading(payload).unwrap().event_id, reading(other).unwrap().event_id);
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let many = |count: usize, value: &str| {
            let fields: Vec<String> = (0..count).map(|n| format!("\"m{n}\":{value}")).collect();
            format!("{{\"t\":1,{}}}", fields.join(","))
        };
        let deep = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let table: &[(&str, &str)] = &[
            ("", "not-json"),
            ("{", "not-json"),
            (r#"{"t":1}x"#, "not-json"),
            (r#"{"t":NaN}"#, "not-json"),
            ("{\"t\":1,\"a\":\"\u{1}\"}", "not-json"),
            ("17", "not-object"),
            ("-1.5", "not-object"),
            ("[1]", "not-object"),
            ("\"t\"", "not-object"),
            ("null", "not-object"),
            ("{}", "no-metric"),
            (r#"{"a":"b","timestamp":1767323045}"#, "no-metric"),
            (r#"{"t":1e999}"#, "not-finite"),
            (r#"{"t-1":1}"#, "metric-name"),
            (r#"{"":1}"#, "metric-name"),
            (r#"{"1":1}"#, "metric-name"),
            (r#"{"a":{"":1}, "b c":2}"#, "metric-name"),
            (&format!("{{\"{}\":1}}", "m".repeat(65)), "metric-name"),
            (&format!("{{\"t\":1,\"{}\":\"x\"}}", "a".repeat(129)), "attribute-name"),
            (r#"{"t":1,"t":1}"#, "duplicate-field"),
            (r#"{"t":1,"t":"x"}"#, "duplicate-field"),
            (r#"{"a.b":1,"a":{"b":1}}"#, "duplicate-field"),
            (r#"{"t":1,"timestamp":1767323045,"timestamp":1767323045}"#, "duplicate-field"),
            (r#"{"t":1,"eventId":"a","eventId":"b"}"#, "duplicate-field"),
            (&many(METRICS_MAX, "1"), "too-many-metrics"),
            (&many(ATTRIBUTES_MAX + 1, "true"), "too-many-attributes"),
            (&deep(DEPTH_MAX + 1), "too-deep"),
            (&deep(100_000), "too-deep"),
            (&format!("{{\"t\":1,\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000)), "not-json"),
            (r#"{"t":1,"timestamp":"yesterday"}"#, "timestamp"),
            (r#"{"t":1,"timestamp":true}"#, "timestamp"),
            (r#"{"t":1,"timestamp":null}"#, "timestamp"),
            (r#"{"t":1,"timestamp":{"s":1}}"#, "timestamp"),
            (r#"{"t":1,"timestamp":[1]}"#, "timestamp"),
            (r#"{"t":1,"timestamp":0}"#, "timestamp-out-of-bounds"),
            (r#"{"t":1,"timestamp":1e300}"#, "timestamp-out-of-bounds"),
            (r#"{"t":1,"timestamp":"2024-12-31T00:00:00Z"}"#, "timestamp-out-of-bounds"),
            (r#"{"t":1,"timestamp":"2026-01-04T00:00:00Z"}"#, "timestamp-out-of-bounds"),
            (r#"{"t":1,"eventId":""}"#, "event-id"),
            (r#"{"t":1,"eventId":1.5}"#, "event-id"),
            (r#"{"t":1,"eventId":{"a":"b"}}"#, "event-id"),
            (&format!("{{\"t\":1,\"eventId\":\"{}\"}}", "e".repeat(257)), "event-id"),
        ];
        for (payload, reason) in table {
            let refused = reading(payload).expect_err(payload);
            assert_eq!(refused.reason(), *reason, "{}", &payload[..payload.len().min(80)]);
        }
        assert!(reading(&many(METRICS_MAX - 1, "1")).is_ok() && reading(&deep(DEPTH_MAX)).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(payload: Vec<u8>) {
            let _ = decode(&message(&payload), &BOUNDS);
        }

        #[test]
        fn any_json_like_text_never_panics(payload in r#"[\{\}\[\]",:a.0-9eE+\-tfn ]{0,60}"#) {
            let _ = reading(&payload);
        }

        #[test]
        fn any_flat_object_of_numbers_is_read_back(
            values in proptest::collection::btree_map(
                "m[a-z0-9_]{0,12}", any::<f64>().prop_filter("finite", |number| number.is_finite()), 1..20
            )
        ) {
            let read = reading(&serde_json::to_string(&values).unwrap()).unwrap();
            prop_assert_eq!(read.values, values);
        }
    }
}

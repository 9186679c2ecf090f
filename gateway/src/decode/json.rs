//! Codec `json`: one object, flat or nearly so, by the rules of [`super::fields`]. The payload is walked
//! once, without a tree.

use super::fields::Fields;
use super::undecodable::Name;
use super::{Message, TimestampBounds, Undecodable};
use schema::ReadingCreatedEvent;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

pub(super) fn decode(
    message: &Message<'_>,
    bounds: &TimestampBounds,
) -> Result<ReadingCreatedEvent, Undecodable> {
    let mut walked = Walked::default();
    let mut json = serde_json::Deserializer::from_slice(message.payload);
    let end = Walk(&mut walked).deserialize(&mut json).and_then(|()| json.end());
    match (end, walked.stopped) {
        (Err(_), Some(stopped)) => Err(stopped),
        (Err(error), None) => Err(walked.fields.named(refuse(&error))),
        (Ok(()), _) => walked.fields.finish(message, bounds),
    }
}

/// What a walk has found so far, and what stopped it: serde's own error would only carry its text.
#[derive(Default)]
struct Walked {
    fields: Fields,
    stopped: Option<Undecodable>,
}

/// A number too large for a double is the one complaint of the parser that is about a value, not about
/// syntax, and only its text tells it apart.
pub(super) fn refuse(error: &serde_json::Error) -> Undecodable {
    if error.to_string().starts_with("number out of range") {
        Undecodable::NotFinite(Name::unknown())
    } else {
        Undecodable::NotJson { line: error.line(), column: error.column() }
    }
}

/// Walks one value at the current path.
struct Walk<'a>(&'a mut Walked);

impl Walk<'_> {
    fn done<E: serde::de::Error>(&mut self, result: Result<(), Undecodable>) -> Result<(), E> {
        result.map_err(|undecodable| {
            let error = E::custom(&undecodable);
            self.0.stopped = Some(undecodable);
            error
        })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Steps to the field that a key names; gives what [`Fields::parent`] steps back with.
struct Step<'a>(&'a mut Fields);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = usize;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Step<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<usize, E> {
        Ok(self.0.child(name))
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

    fn visit_f64<E: serde::de::Error>(mut self, number: f64) -> Result<(), E> {
        let result = self.0.fields.number(number);
        self.done(result)
    }

    fn visit_i64<E: serde::de::Error>(mut self, number: i64) -> Result<(), E> {
        let result = self.0.fields.whole(number, number as f64);
        self.done(result)
    }

    fn visit_u64<E: serde::de::Error>(mut self, number: u64) -> Result<(), E> {
        let result = self.0.fields.whole(number, number as f64);
        self.done(result)
    }

    fn visit_str<E: serde::de::Error>(mut self, text: &str) -> Result<(), E> {
        let result = self.0.fields.text(text);
        self.done(result)
    }

    fn visit_bool<E: serde::de::Error>(mut self, bool: bool) -> Result<(), E> {
        let result = self.0.fields.attribute(Value::Bool(bool));
        self.done(result)
    }

    fn visit_unit<E: serde::de::Error>(mut self) -> Result<(), E> {
        let result = self.0.fields.attribute(Value::Null);
        self.done(result)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let result = self.0.fields.check_plain();
        self.done(result)?;
        let mut array = Vec::new();
        while let Some(element) = seq.next_element::<Value>()? {
            array.push(element);
        }
        let result = self.0.fields.attribute(Value::Array(array));
        self.done(result)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let result = self.0.fields.enter();
        self.done(result)?;
        while let Some(parent) = map.next_key_seed(Step(&mut self.0.fields))? {
            map.next_value_seed(Walk(self.0))?;
            self.0.fields.parent(parent);
        }
        self.0.fields.leave();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOUNDS, message, one};
    use super::super::{ATTRIBUTES_MAX, DEPTH_MAX, Format, METRICS_MAX};
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn reading(payload: &str) -> Result<ReadingCreatedEvent, Undecodable> {
        one(&Format::Json, payload.as_bytes())
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
    fn detail_of_a_refusal_names_the_field() {
        for (payload, detail) in [
            (
                r#"{"good":1,"engine":{"rpm":1e300}}"#,
                r#"metric "engine.rpm" is 1e300: a value lies between -1e290 and 1e290"#,
            ),
            (r#"{"good":1,"engine":{"rpm":1e999}}"#, r#""engine.rpm" is not a finite number"#),
            (
                r#"{"good":1,"b c\n":2}"#,
                r#"metric "b c\n": its name breaks the rule [A-Za-z][A-Za-z0-9_.]{0,63}"#,
            ),
            (r#"{"good":1,"good":1}"#, r#""good" comes twice"#),
            (r#"{"good":1,"s":["\u0000"]}"#, r#"attribute "s" holds the character U+0000"#),
        ] {
            assert_eq!(reading(payload).unwrap_err().to_string(), detail);
        }
        let long = format!("{{\"{}\":1}}", "é".repeat(10_000));
        assert!(reading(&long).unwrap_err().to_string().len() < 256, "a dead letter's header stays short");
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
            (r#"{"t":1e290}"#, "value-out-of-range"),
            (r#"{"t":-1e300,"good":1}"#, "value-out-of-range"),
            (r#"{"t":1,"s":"\u0000"}"#, "nul"),
            (r#"{"t":1,"s":[{"deep":["a\u0000b"]}]}"#, "nul"),
            (r#"{"t":1,"\u0000":true}"#, "nul"),
            (
                &format!("{{\"t\":1,\"s\":\"{}\"}}", "x".repeat(schema::ATTRIBUTES_BYTES_MAX)),
                "attributes-too-large",
            ),
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
                "m[a-z0-9_]{0,12}", any::<f64>().prop_filter("can be stored", |number| number.abs() < schema::VALUE_MAX), 1..20
            )
        ) {
            let read = reading(&serde_json::to_string(&values).unwrap()).unwrap();
            prop_assert_eq!(read.values, values);
        }
    }
}

//! The body of a request → encoded events, or every reason why not.
//!
//! Pure. The rules of a reading are those of codec `json` and are written there alone: a field that breaks
//! one is found by decoding it by itself.

use crate::decode::{Births, Format, TimestampBounds, Undecodable};
use crate::ingest::{Encoded, Payload, Sender};
use chassis::http::FieldError;
use chassis::problem::Problem;
use hyper::StatusCode;
use schema::ReadingCreatedEvent;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::fmt;

/// Readings of the largest request: a quarter of an hour, one a second, with room. Each becomes an event of
/// its own.
const READINGS_MAX: usize = 1_024;
/// What a body with more of them is told.
const TOO_MANY: &str = "the array holds more than 1024 readings";
/// Most bad fields that a problem names; a body with more of them has one mistake in each reading.
const ERRORS_MAX: usize = 256;

/// Decodes a body, whole or not at all.
///
/// Shape: at least one event, in the order of the body.
pub(super) fn decode(body: &[u8], sender: &Sender<'_>, bounds: &TimestampBounds) -> Result<Encoded, Problem> {
    let readings = readings(body)?;
    let is_array = body.trim_ascii_start().first() == Some(&b'[');
    let mut all = Encoded { records: VecDeque::with_capacity(readings.len()), row_bytes: 0 };
    let mut errors = Vec::new();
    for (index, reading) in readings.iter().enumerate() {
        let one = decode_one(reading.get().as_bytes(), sender, bounds);
        match one.and_then(|one| Encoded::of(&[one])) {
            Ok(Encoded { records, row_bytes }) => {
                all.records.extend(records);
                all.row_bytes += row_bytes;
            }
            Err(undecodable) => {
                let place = if is_array { format!("[{index}]") } else { String::new() };
                explain(reading.get(), &undecodable, sender, bounds, &place, &mut errors);
            }
        }
        if errors.len() >= ERRORS_MAX {
            errors.truncate(ERRORS_MAX);
            let detail = format!("{ERRORS_MAX} fields are bad, and there may be more; nothing was stored");
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail).with_errors(errors));
        }
    }
    if errors.is_empty() {
        return Ok(all);
    }
    let detail = format!("{} of the body cannot be read; nothing was stored", errors.len());
    Err(Problem::new(StatusCode::BAD_REQUEST, detail).with_errors(errors))
}

/// Cuts the body into its readings, each with its own bytes: the event id of a reading without one is made of
/// them. It stops at the first reading that is too many, so that a body of nothing but commas costs no
/// memory.
fn readings(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let not_json = |error: serde_json::Error| {
        bad(format!("the body is not JSON: line {}, column {}", error.line(), error.column()))
    };
    let readings = match body.trim_ascii_start().first() {
        Some(b'[') => match serde_json::from_slice::<Few<'_>>(body) {
            Ok(Few(readings)) => readings,
            // The one complaint of our own: what came so far is JSON.
            Err(error) if error.is_data() && error.to_string().starts_with(TOO_MANY) => {
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_MANY));
            }
            Err(error) => return Err(not_json(error)),
        },
        Some(b'{') => vec![serde_json::from_slice(body).map_err(not_json)?],
        _ => return Err(bad("the body must be a JSON object or an array of them".to_owned())),
    };
    if readings.is_empty() { Err(bad("the array holds no reading".to_owned())) } else { Ok(readings) }
}

/// The readings of an array, up to [`READINGS_MAX`].
struct Few<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Few<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Few<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut readings = Vec::new();
                while let Some(reading) = seq.next_element()? {
                    if readings.len() == READINGS_MAX {
                        return Err(serde::de::Error::custom(TOO_MANY));
                    }
                    readings.push(reading);
                }
                Ok(Few(readings))
            }
        }
        deserializer.deserialize_seq(Walk)
    }
}

fn decode_one(
    payload: &[u8],
    sender: &Sender<'_>,
    bounds: &TimestampBounds,
) -> Result<ReadingCreatedEvent, Undecodable> {
    // Over HTTP a reading is JSON, whatever codec the device has over MQTT; births belong to connections.
    let payload = Payload { format: &Format::Json, subtopic: "", event_id: None, bytes: payload };
    sender.decode(&payload, &mut Births::default(), bounds)?.pop().ok_or(Undecodable::NoMetric)
}

/// Names every field that breaks a rule by itself; when none does, the reading as a whole.
fn explain(
    reading: &str,
    whole: &Undecodable,
    sender: &Sender<'_>,
    bounds: &TimestampBounds,
    place: &str,
    errors: &mut Vec<FieldError>,
) {
    let before = errors.len();
    let fields = serde_json::from_str::<Pairs<'_>>(reading).map(|pairs| pairs.0).unwrap_or_default();
    for (name, value) in fields {
        // Beside a good metric, so that a field which is none can be good, too.
        let beside = if name == "a" { "b" } else { "a" };
        let alone = format!("{{\"{beside}\":0,{}:{value}}}", serde_json::Value::from(name.as_str()));
        if let Err(undecodable) = decode_one(alone.as_bytes(), sender, bounds) {
            let dot = if place.is_empty() { "" } else { "." };
            errors.push(FieldError { field: format!("{place}{dot}{name}"), detail: undecodable.to_string() });
        }
    }
    if errors.len() == before {
        let field = if place.is_empty() { "body" } else { place };
        errors.push(FieldError { field: field.to_owned(), detail: whole.to_string() });
    }
}

/// The fields of an object in their order, a name that comes twice included.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Walk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::registry::{Device, Table};
    use crate::durable::record::Record;
    use proptest::prelude::*;
    use schema::{DeviceRow, DeviceStatus, Timestamp};
    use std::sync::Arc;
    use std::time::Duration;

    const BOUNDS: TimestampBounds = TimestampBounds {
        age_max: Duration::from_secs(366 * 86_400),
        future_max: Duration::from_secs(86_400),
    };

    fn device() -> Arc<Device> {
        let epoch = Timestamp::from_micros(0).unwrap();
        let mut table = Table::default();
        let row = DeviceRow {
            sensor_id: "s".to_owned(),
            display_name: String::new(),
            device_type: "THERMOSTAT".to_owned(),
            zone_id: "zone-1".to_owned(),
            codec: "json".to_owned(),
            codec_layout: None,
            status: DeviceStatus::Active,
            fingerprints: Vec::new(),
            version: 1,
            created_at: epoch,
            updated_at: epoch,
        };
        table.apply("s", Some(row));
        table.active("s").unwrap()
    }

    fn decoded(body: &[u8]) -> Result<Vec<ReadingCreatedEvent>, Problem> {
        let sender = Sender { sensor_id: "s", device: &device(), received_at: Timestamp::now() };
        let encoded = decode(body, &sender, &BOUNDS)?;
        let event = |record| match record {
            Record::Reading(event) => serde_json::from_slice(&event).unwrap(),
            Record::DeadLetter(..) => unreachable!("a body is refused instead"),
        };
        Ok(encoded.records.into_iter().map(event).collect())
    }

    fn bad_fields(body: &str) -> Vec<String> {
        decoded(body.as_bytes()).unwrap_err().errors.iter().map(|error| error.field.clone()).collect()
    }

    #[test]
    fn one_object_and_an_array_become_events_in_order() {
        let one = decoded(br#" {"t":1,"unit":"C"} "#).unwrap();
        assert_eq!((one.len(), one[0].values["t"], one[0].zone_id.as_str()), (1, 1.0, "zone-1"));
        let array = decoded(br#"[{"t":1,"unit":"C"}, {"t":2}]"#).unwrap();
        assert_eq!(array.iter().map(|event| event.values["t"]).collect::<Vec<_>>(), [1.0, 2.0]);
    }

    #[test]
    fn every_bad_field_of_every_reading_is_named() {
        let body = r#"[{"t":1},{"t":"x","9":1,"timestamp":"noon","ok":2,"eventId":1.5},7,{"t":1,"t":2},{"a":1e999},{}]"#;
        assert_eq!(bad_fields(body), ["[1].9", "[1].timestamp", "[1].eventId", "[2]", "[3]", "[4].a", "[5]"]);
        assert_eq!(bad_fields(r#"{"9":1,"timestamp":[]}"#), ["9", "timestamp"]);
        assert_eq!(bad_fields(r#"{"text":"only"}"#), ["body"]);
    }

    #[test]
    fn no_more_errors_are_told_than_help() {
        let body = format!("[{}]", vec![r#"{"9":1}"#; READINGS_MAX].join(","));
        assert_eq!(bad_fields(&body).len(), ERRORS_MAX);
    }

    #[test]
    fn bodies_without_readings_are_refused() {
        for body in ["", "[]", "7", "null", "\"x\"", "{", "[{\"t\":1}", "{\"t\":1} x", "\u{feff}{}"] {
            assert!(decoded(body.as_bytes()).is_err(), "{body}");
        }
        let body_of = |count: usize| format!("[{}]", vec![r#"{"t":1}"#; count].join(","));
        assert!(decoded(body_of(READINGS_MAX).as_bytes()).is_ok());
        let too_many = decoded(body_of(READINGS_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(too_many.status(), StatusCode::PAYLOAD_TOO_LARGE.as_u16());
        assert!(TOO_MANY.contains(&READINGS_MAX.to_string()));
        // Readings after the last that fits are not looked at: there is no end to this array.
        let endless = format!("[{}", "0,".repeat(READINGS_MAX + 1));
        assert_eq!(decoded(endless.as_bytes()).unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE.as_u16());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(body: Vec<u8>) {
            let _ = decoded(&body);
        }

        #[test]
        fn any_nearly_good_text_never_panics(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec!["[", "]", "{", "}", "\"a\"", "\"\\u0000\"", ":", ",", "1", "1e999", "null", " "]),
                0..24,
            ),
        ) {
            let _ = decoded(pieces.concat().as_bytes());
        }
    }
}

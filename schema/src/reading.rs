//! `iot-reading-topic`: what one device said at one moment.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Carries one device message after authentication and decoding.
///
/// Shape: one per MQTT PUBLISH or HTTP array element, or one per instant where the codec carries several;
/// `values` has 1 or more metrics.
/// Duplicates: a retransmission has the same `event_id`; consumers drop it by that.
/// Order: per `sensor_id` as published, because `sensor_id` is the Kafka key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadingCreatedEvent {
    /// Deterministic: see [`event_id_from_publisher`] and [`event_id_from_payload`].
    pub event_id: Uuid,
    /// The certificate's subject CN.
    pub sensor_id: String,
    /// As registered when the message arrived.
    pub device_type: String,
    /// As registered when the message arrived.
    pub zone_id: String,
    /// Metric name to finite value, in the unit that the device uses.
    pub values: BTreeMap<String, f64>,
    /// What the payload carried beyond numbers.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// The device's clock; the gateway's when the payload has none.
    pub reading_at: Timestamp,
    /// The gateway's clock.
    pub received_at: Timestamp,
}

impl ReadingCreatedEvent {
    /// Value of the Kafka header `schema`.
    pub const SCHEMA: &'static str = "reading-created/1";
}

/// Namespace of event ids; fixed for ever, or a redelivery across releases would be a new event.
const EVENT_NAMESPACE: Uuid = Uuid::from_u128(0x8f1d_3c52_6b0a_5e4e_9d27_54c1_70ab_f3e9);

/// Derives the event id from the publisher's own event id (MQTT 5 user property `event-id`, or `eventId` in
/// the payload).
///
/// Guarantee: equal for equal inputs, on every gateway and release; the sensor id keeps two devices apart
/// that count alike.
pub fn event_id_from_publisher(sensor_id: &str, publisher_event_id: &str) -> Uuid {
    derive(sensor_id, b'e', &[publisher_event_id.as_bytes()])
}

/// Derives the event ids of several readings that one message carries under one id of its publisher: the
/// first is the event itself, each later one a part of it.
///
/// Guarantee: as [`event_id_from_publisher`]; no part has the id of another part or of any event.
pub fn event_id_from_publisher_part(sensor_id: &str, publisher_event_id: &str, part: u32) -> Uuid {
    match part {
        0 => event_id_from_publisher(sensor_id, publisher_event_id),
        // The part has a fixed width and stands first, so no publisher's id can imitate it.
        _ => derive(sensor_id, b'i', &[&part.to_be_bytes(), publisher_event_id.as_bytes()]),
    }
}

/// Derives the event id from the device's timestamp and the payload bytes.
///
/// Guarantee: a byte-for-byte retransmission is the same event; two different values in one instant are two
/// events. A payload without a timestamp is dated by its arrival, so its retransmission cannot be recognised.
pub fn event_id_from_payload(sensor_id: &str, reading_at: Timestamp, payload: &[u8]) -> Uuid {
    derive(sensor_id, b'p', &[&reading_at.as_micros().to_be_bytes(), payload])
}

/// Derives a UUIDv5 of `sensor_id`, a kind byte and the parts. A sensor id holds no NUL, so the separator is
/// unambiguous.
fn derive(sensor_id: &str, kind: u8, parts: &[&[u8]]) -> Uuid {
    // Hashed here and not by `uuid`, whose SHA-1 knows nothing of the processor's own.
    let mut name = Sha1::new_with_prefix(EVENT_NAMESPACE.as_bytes());
    name.update(sensor_id.as_bytes());
    name.update([0, kind]);
    for part in parts {
        name.update(part);
    }
    let digest: [u8; 20] = name.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    uuid::Builder::from_sha1_bytes(id).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_fixed_for_ever() {
        // Expected values computed independently with Python's hashlib.
        let at = Timestamp::parse("2026-01-02T03:04:05.000006Z").unwrap();
        assert_eq!(
            event_id_from_payload("thermostat-1", at, br#"{"temperature":21.5}"#).to_string(),
            "7cdc6127-a2ee-5db8-a48c-86e7d4561d3c"
        );
        assert_eq!(
            event_id_from_publisher("thermostat-1", "42").to_string(),
            "74675cab-e07c-5de2-a9bb-42167725af32"
        );
        assert_eq!(
            event_id_from_publisher_part("thermostat-1", "42", 1).to_string(),
            "96efa9b4-ac10-5fca-b2cd-d0006c1ff608"
        );
    }

    #[test]
    fn two_values_in_one_instant_are_two_events_and_a_resend_is_one() {
        let at = Timestamp::parse("2026-01-02T03:04:05Z").unwrap();
        assert_ne!(event_id_from_payload("s", at, b"1"), event_id_from_payload("s", at, b"2"));
        assert_eq!(event_id_from_payload("s", at, b"1"), event_id_from_payload("s", at, b"1"));
        assert_ne!(event_id_from_publisher("s", "1"), event_id_from_publisher("t", "1"));
    }

    #[test]
    fn parts_of_one_event_have_ids_of_their_own() {
        let part = event_id_from_publisher_part;
        assert_eq!(part("s", "1", 0), event_id_from_publisher("s", "1"));
        let ids =
            [part("s", "1", 0), part("s", "1", 1), part("s", "1", 2), part("s", "11", 1), part("t", "1", 1)];
        for (n, id) in ids.iter().enumerate() {
            assert!(!ids[..n].contains(id), "{n}");
        }
    }
}

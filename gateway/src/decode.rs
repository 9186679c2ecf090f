//! A device's payload → readings, by the codec the device is registered with.
//!
//! Pure: no clock, no I/O. A codec is one file and one line in [`decode`]. A payload that cannot be decoded
//! becomes a dead letter: the device would only send the same again.

mod binary;
mod builder;
mod cbor;
mod fields;
#[cfg(test)]
mod fuzz;
mod items;
mod json;
mod senml;
mod sparkplug;
mod timestamp;
mod undecodable;

use schema::{Codec, Layout, ReadingCreatedEvent, Timestamp};

pub use sparkplug::{BORN_MAX, Births};
pub use timestamp::Bounds as TimestampBounds;
pub use undecodable::{Name, Undecodable};

/// Metrics of the largest reading. A reading is one moment of one device; more than this is a batch in
/// disguise, and each metric becomes a row.
pub const METRICS_MAX: usize = 256;
/// Attributes of the largest reading: they travel with every row it becomes.
pub const ATTRIBUTES_MAX: usize = 64;
/// Bytes of the longest attribute name, its path included.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 128;
/// How deep objects may be nested; sensors' payloads are flat or nearly so.
pub const DEPTH_MAX: usize = 8;
/// Readings of the largest message: a quarter of an hour, one a second, with room. Each is an event of its
/// own.
pub const READINGS_MAX: usize = 1_024;
/// Bytes of the longest event id that a publisher may choose; a UUID has 36.
pub const EVENT_ID_BYTES_MAX: usize = 256;

/// How the payloads of one device are read: its codec, with what the registry adds to it. Made once per
/// registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Codec `json`.
    Json,
    /// Codec `senml+json`.
    SenmlJson,
    /// Codec `senml+cbor`.
    SenmlCbor,
    /// Codec `cbor`.
    Cbor,
    /// Codec `sparkplug-b`.
    SparkplugB,
    /// Codec `binary`.
    Binary(Layout),
    /// A registration that no payload can be decoded by; every payload is refused with this.
    Unusable(Undecodable),
}

impl Format {
    /// Reads the columns `codec` and `codec_layout` of a device. Columns that cannot be used
    /// give [`Format::Unusable`], so that a wrong registration costs its own device's readings a dead letter
    /// each, and nobody anything else.
    pub fn of(codec: &str, layout: Option<&str>) -> Self {
        match Codec::from_name(codec) {
            Some(Codec::Json) => Self::Json,
            Some(Codec::SenmlJson) => Self::SenmlJson,
            Some(Codec::SenmlCbor) => Self::SenmlCbor,
            Some(Codec::Cbor) => Self::Cbor,
            Some(Codec::SparkplugB) => Self::SparkplugB,
            Some(Codec::Binary) => match layout.map(Layout::parse) {
                Some(Ok(layout)) => Self::Binary(layout),
                Some(Err(problems)) => {
                    Self::Unusable(Undecodable::Layout(problems.into_iter().next().unwrap_or_default()))
                }
                None => Self::Unusable(Undecodable::Layout("there is none".to_owned())),
            },
            None => Self::Unusable(Undecodable::CodecUnknown),
        }
    }
}

/// One message of one device, with what the registry says about it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The sender.
    pub sensor_id: &'a str,
    /// As registered now.
    pub device_type: &'a str,
    /// As registered now.
    pub zone_id: &'a str,
    /// What its topic says below `devices/{sensor_id}/readings/`; empty when it says no more.
    pub subtopic: &'a str,
    /// The publisher's own event id, if it came beside the payload.
    pub event_id: Option<&'a str>,
    /// When the gateway read it.
    pub received_at: Timestamp,
    /// What it says.
    pub payload: &'a [u8],
}

/// Decodes a payload. `births` is what earlier messages of the same connection have declared; only
/// `sparkplug-b` uses it.
///
/// Shape: readings in the order of time, no two of one instant. None at all is a message that was understood
/// and measures nothing, as a Sparkplug birth or death may: it needs no record, only its acknowledgement.
///
/// # Errors
/// [`Undecodable`] (dead letter).
pub fn decode(
    format: &Format,
    message: &Message<'_>,
    births: &mut Births,
    bounds: &TimestampBounds,
) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
    match format {
        Format::Json => json::decode(message, bounds).map(|reading| vec![reading]),
        Format::SenmlJson => senml::json::decode(message, bounds),
        Format::SenmlCbor => senml::cbor::decode(message, bounds),
        Format::Cbor => cbor::decode(message, bounds).map(|reading| vec![reading]),
        Format::SparkplugB => sparkplug::decode(message, bounds, births),
        Format::Binary(layout) => binary::decode(layout, message, bounds),
        Format::Unusable(undecodable) => Err(undecodable.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A year back, a day ahead.
    pub(super) const BOUNDS: TimestampBounds = TimestampBounds {
        age_max: Duration::from_secs(366 * 86_400),
        future_max: Duration::from_secs(86_400),
    };

    pub(super) fn message(payload: &[u8]) -> Message<'_> {
        Message {
            sensor_id: "t-1",
            device_type: "THERMOSTAT",
            zone_id: "zone-1",
            subtopic: "",
            event_id: None,
            received_at: Timestamp::parse("2026-01-02T03:04:05.678901Z").unwrap(),
            payload,
        }
    }

    /// The one reading of a payload.
    pub(super) fn one(format: &Format, payload: &[u8]) -> Result<ReadingCreatedEvent, Undecodable> {
        let mut readings = decode(format, &message(payload), &mut Births::default(), &BOUNDS)?;
        assert_eq!(readings.len(), 1);
        Ok(readings.remove(0))
    }

    #[test]
    fn value_that_nobody_can_store_is_refused_by_name_whatever_the_codec() {
        let poison = 1e300_f64.to_be_bytes();
        let binary =
            Format::of("binary", Some(r#"{"length":8,"fields":[{"metric":"t","at":0,"type":"f64be"}]}"#));
        for (format, payload) in [
            (Format::Json, br#"{"t":1e300}"#.to_vec()),
            (Format::Cbor, [b"\xa1\x61t\xfb".as_slice(), &poison].concat()),
            (Format::SenmlJson, br#"[{"n":"t","v":1e300}]"#.to_vec()),
            (Format::SenmlCbor, [b"\x81\xa2\x00\x61t\x02\xfb".as_slice(), &poison].concat()),
            (binary, poison.to_vec()),
        ] {
            let refused = one(&format, &payload).unwrap_err();
            assert_eq!(refused.reason(), "value-out-of-range", "{format:?}");
            assert!(refused.to_string().starts_with(r#"metric "t" is 1e300"#), "{refused}");
        }
    }

    #[test]
    fn unknown_codec_is_for_the_dead_letter() {
        let morse = Format::of("morse", None);
        assert_eq!(one(&morse, b"{}"), Err(Undecodable::CodecUnknown));
    }
}

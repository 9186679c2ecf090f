//! A device's payload → readings, by the codec the device is registered with.
//!
//! Pure: no clock, no I/O. A codec is one file and one line in [`decode`]. What cannot be decoded is for the dead letter:
//! the device would only send the same again.

mod json;
mod timestamp;

#[cfg(test)]
use std::time::Duration;

use schema::{ReadingCreatedEvent, Timestamp};

pub use timestamp::Bounds as TimestampBounds;

/// Metrics of the largest reading. A reading is one moment of one device; more than this is a batch in disguise, and
/// each metric becomes a row.
pub const METRICS_MAX: usize = 256;
/// Attributes of the largest reading: they travel with every row it becomes.
pub const ATTRIBUTES_MAX: usize = 64;
/// Bytes of the longest attribute name, its path included.
pub const ATTRIBUTE_BYTES_MAX: usize = 128;
/// How deep objects may be nested; sensors' payloads are flat or nearly so.
pub const DEPTH_MAX: usize = 8;

/// One message of one device, with what the registry says about it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Who sent it.
    pub sensor_id: &'a str,
    /// As registered now.
    pub device_type: &'a str,
    /// As registered now.
    pub zone_id: &'a str,
    /// The publisher's own event id, if it came beside the payload.
    pub event_id: Option<&'a str>,
    /// When the gateway read it.
    pub received_at: Timestamp,
    /// What it says.
    pub payload: &'a [u8],
}

/// Says why a payload is no reading. [`Undecodable::reason`] is the short name that dead letters and metrics carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// The registry names a codec that this gateway does not have.
    #[error("codec is not known")]
    CodecUnknown,
    /// Not JSON.
    #[error("payload is not JSON: line {line}, column {column}")]
    NotJson {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("payload is not a JSON object")]
    NotObject,
    /// Nothing measured.
    #[error("payload has no metric")]
    NoMetric,
    /// More than [`METRICS_MAX`].
    #[error("payload has more than {METRICS_MAX} metrics")]
    TooManyMetrics,
    /// More than [`ATTRIBUTES_MAX`].
    #[error("payload has more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes,
    /// A number under a name that no metric may have.
    #[error("metric name breaks the rule [A-Za-z][A-Za-z0-9_.]{{0,63}}")]
    MetricName,
    /// An attribute name longer than [`ATTRIBUTE_BYTES_MAX`].
    #[error("attribute name is longer than {ATTRIBUTE_BYTES_MAX} bytes")]
    AttributeName,
    /// The same name twice.
    #[error("a field comes twice")]
    DuplicateField,
    /// Objects nested deeper than [`DEPTH_MAX`].
    #[error("objects are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// A number beyond what a double holds.
    #[error("a number is not finite")]
    NotFinite,
    /// The timestamp is neither a number nor RFC 3339.
    #[error("timestamp is neither a number nor RFC 3339")]
    Timestamp,
    /// The timestamp is too long ago or ahead.
    #[error("timestamp is too far from the time of arrival")]
    TimestampOutOfBounds,
    /// The event id is neither a short text nor a whole number.
    #[error("eventId is neither a text of 1 to {EVENT_ID_BYTES_MAX} bytes nor a whole number")]
    EventId,
    /// The event would not fit into Kafka.
    #[error("event is larger than Kafka accepts")]
    EventTooLarge,
}

/// Bytes of the longest event id that a publisher may choose; a UUID has 36.
pub const EVENT_ID_BYTES_MAX: usize = 256;

impl Undecodable {
    /// The short name, fixed for ever: dead letters are grouped by it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CodecUnknown => "codec-unknown",
            Self::NotJson { .. } => "not-json",
            Self::NotObject => "not-object",
            Self::NoMetric => "no-metric",
            Self::TooManyMetrics => "too-many-metrics",
            Self::TooManyAttributes => "too-many-attributes",
            Self::MetricName => "metric-name",
            Self::AttributeName => "attribute-name",
            Self::DuplicateField => "duplicate-field",
            Self::TooDeep => "too-deep",
            Self::NotFinite => "not-finite",
            Self::Timestamp => "timestamp",
            Self::TimestampOutOfBounds => "timestamp-out-of-bounds",
            Self::EventId => "event-id",
            Self::EventTooLarge => "event-too-large",
        }
    }
}

/// Decodes a payload by the name of its codec.
///
/// Shape: at least one reading, in the order of the payload.
///
/// # Errors
/// [`Undecodable`] (dead letter).
pub fn decode(
    codec: &str,
    message: &Message<'_>,
    bounds: &TimestampBounds,
) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
    match codec {
        "json" => json::decode(message, bounds).map(|reading| vec![reading]),
        _ => Err(Undecodable::CodecUnknown),
    }
}

/// Bounds for tests: a year back, a day ahead.
#[cfg(test)]
const BOUNDS: TimestampBounds =
    TimestampBounds { age_max: Duration::from_secs(366 * 86_400), future_max: Duration::from_secs(86_400) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codec_is_for_the_dead_letter() {
        let message = Message {
            sensor_id: "s",
            device_type: "t",
            zone_id: "z",
            event_id: None,
            received_at: Timestamp::from_micros(0).unwrap(),
            payload: b"{}",
        };
        assert_eq!(decode("morse", &message, &BOUNDS), Err(Undecodable::CodecUnknown));
    }
}

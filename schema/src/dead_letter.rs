//! Dead letters: the original bytes as value, and headers that say why and from where.
//!
//! One form for [`topics::PRODUCER_DLQ`](crate::topics::PRODUCER_DLQ),
//! [`topics::READING_DLQ`](crate::topics::READING_DLQ), [`topics::NOTIFY_DLQ`](crate::topics::NOTIFY_DLQ)
//! and the files of records that Kafka refuses ([`RefusedFile`]). All of them are written and read here and
//! nowhere else, so that a replay may trust what it reads.
//!
//! # Headers
//!
//! The letter's own come first, in the order of this table. `source-headers` ends them and counts the
//! record's own headers, which follow unchanged. The count keeps a record whose headers have the same names
//! apart from its letter.
//!
//! | name | value | present |
//! |---|---|---|
//! | `schema` | `dead-letter/1` | always |
//! | `reason` | short name in kebab case | always |
//! | `detail` | the same in words | when there is more to say |
//! | `source-topic` | the topic that the record was in, or was to go to | when the letter stands for a record |
//! | `source-partition`, `source-offset` | its place there | when Kafka has had it |
//! | `codec` | the codec that the device is registered with | when the letter stands for a payload |
//! | `mqtt-topic` | the topic that it was published to | when the letter stands for an MQTT payload |
//! | `received-at` | when the gateway received it, RFC 3339 | when the letter stands for a payload |
//! | `event-id` | the reading's id | when the value is a reading |
//! | `tries` | attempts that failed | when it was tried |
//! | `truncated-from-bytes` | bytes of the whole value | when the value is only its beginning |
//! | `source-headers` | number of headers that follow | always |

use crate::Timestamp;
use std::str::FromStr;
use uuid::Uuid;

mod refused_file;

pub use refused_file::{NotARefusedFile, Refused, RefusedFile};

/// Bytes of the longest `detail`; the rest is cut off, so that a letter stays about as large as its record.
pub const DETAIL_BYTES_MAX: usize = 1_024;

const SCHEMA: &str = "schema";
const REASON: &str = "reason";
const DETAIL: &str = "detail";
const SOURCE_TOPIC: &str = "source-topic";
const SOURCE_PARTITION: &str = "source-partition";
const SOURCE_OFFSET: &str = "source-offset";
const CODEC: &str = "codec";
const MQTT_TOPIC: &str = "mqtt-topic";
const RECEIVED_AT: &str = "received-at";
const EVENT_ID: &str = "event-id";
const TRIES: &str = "tries";
const TRUNCATED_FROM_BYTES: &str = "truncated-from-bytes";
const SOURCE_HEADERS: &str = "source-headers";

/// A Kafka header: name and value, which may be null.
pub type Header = (String, Option<Vec<u8>>);

/// Says where a record stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The topic, with its prefix.
    pub topic: String,
    /// Partition and offset; none when Kafka has never had the record.
    pub place: Option<(i32, i64)>,
}

/// Says why a record or a payload could not be used, and where it came from. The value of the letter is its
/// bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetter {
    /// Short name in kebab case, fit for a label.
    pub reason: String,
    /// The same in words.
    pub detail: Option<String>,
    /// The record that the letter stands for.
    pub origin: Option<Origin>,
    /// The codec that the device is registered with.
    pub codec: Option<String>,
    /// The MQTT topic that a payload was published to.
    pub mqtt_topic: Option<String>,
    /// The gateway's clock when it had the payload.
    pub received_at: Option<Timestamp>,
    /// The id of the reading that the value is.
    pub event_id: Option<Uuid>,
    /// Attempts that failed.
    pub tries: Option<u32>,
    /// Bytes of the whole value, when the letter has only its beginning.
    pub truncated_from_bytes: Option<u64>,
    /// The record's own headers, in their order.
    pub source_headers: Vec<Header>,
}

/// Says why headers are not those of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotADeadLetter {
    /// A header that every letter has.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header with a value that it cannot have, or one that comes twice.
    #[error("header {0} cannot be read")]
    Malformed(&'static str),
}

impl DeadLetter {
    /// Value of the header `schema`.
    pub const SCHEMA: &'static str = "dead-letter/1";

    /// Makes a letter that says why; callers fill in the rest.
    ///
    /// Shape: a detail beyond [`DETAIL_BYTES_MAX`] is cut off at a character.
    pub fn new(reason: &str, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        let detail = Some(detail).filter(|detail| !detail.is_empty());
        Self { reason: reason.to_owned(), detail, ..Self::default() }
    }

    /// Returns every header of the letter: its own, then the record's.
    pub fn headers(&self) -> Vec<Header> {
        let mut headers = self.own_headers();
        headers.extend(self.source_headers.iter().cloned());
        headers
    }

    fn own_headers(&self) -> Vec<Header> {
        fn text(value: &impl ToString) -> Option<String> {
            Some(value.to_string())
        }
        let origin = self.origin.as_ref();
        let place = origin.and_then(|origin| origin.place.as_ref());
        let own = [
            (SCHEMA, text(&Self::SCHEMA)),
            (REASON, text(&self.reason)),
            (DETAIL, self.detail.clone()),
            (SOURCE_TOPIC, origin.map(|origin| origin.topic.clone())),
            (SOURCE_PARTITION, place.and_then(|(partition, _)| text(partition))),
            (SOURCE_OFFSET, place.and_then(|(_, offset)| text(offset))),
            (CODEC, self.codec.clone()),
            (MQTT_TOPIC, self.mqtt_topic.clone()),
            (RECEIVED_AT, self.received_at.as_ref().and_then(text)),
            (EVENT_ID, self.event_id.as_ref().and_then(text)),
            (TRIES, self.tries.as_ref().and_then(text)),
            (TRUNCATED_FROM_BYTES, self.truncated_from_bytes.as_ref().and_then(text)),
            (SOURCE_HEADERS, text(&self.source_headers.len())),
        ];
        let present = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        present.map(|(name, value)| (name, Some(value.into_bytes()))).collect()
    }

    /// Reads what [`DeadLetter::headers`] wrote. Own headers of unknown names are passed over, and so is what
    /// somebody has added behind the record's.
    ///
    /// # Errors
    /// [`NotADeadLetter`]: the record was not written by this module.
    pub fn read<'a>(
        headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<Self, NotADeadLetter> {
        let mut headers = headers.into_iter();
        let mut own = Vec::new();
        let count: usize = loop {
            let (name, value) = headers.next().ok_or(NotADeadLetter::Missing(SOURCE_HEADERS))?;
            if name == SOURCE_HEADERS {
                let text = value.and_then(|value| str::from_utf8(value).ok());
                break parse(SOURCE_HEADERS, text)?.ok_or(NotADeadLetter::Malformed(SOURCE_HEADERS))?;
            }
            own.push((name, value));
        };
        let source_headers: Vec<Header> =
            headers.take(count).map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
        if source_headers.len() < count {
            return Err(NotADeadLetter::Malformed(SOURCE_HEADERS));
        }
        Ok(Self { source_headers, ..read_own(&own)? })
    }
}

fn read_own(own: &[(&str, Option<&[u8]>)]) -> Result<DeadLetter, NotADeadLetter> {
    let text = |name: &'static str| {
        let mut named = own.iter().filter(|(found, _)| *found == name);
        match (named.next(), named.next()) {
            (None, _) => Ok(None),
            (Some((_, Some(value))), None) => {
                str::from_utf8(value).map(Some).map_err(|_| NotADeadLetter::Malformed(name))
            }
            _ => Err(NotADeadLetter::Malformed(name)),
        }
    };
    let required = |name: &'static str| text(name)?.ok_or(NotADeadLetter::Missing(name));
    if required(SCHEMA)? != DeadLetter::SCHEMA {
        return Err(NotADeadLetter::Malformed(SCHEMA));
    }
    let place = match (
        parse(SOURCE_PARTITION, text(SOURCE_PARTITION)?)?,
        parse(SOURCE_OFFSET, text(SOURCE_OFFSET)?)?,
    ) {
        (Some(partition), Some(offset)) => Some((partition, offset)),
        (None, None) => None,
        (Some(_), None) => return Err(NotADeadLetter::Missing(SOURCE_OFFSET)),
        (None, Some(_)) => return Err(NotADeadLetter::Missing(SOURCE_PARTITION)),
    };
    let origin = match text(SOURCE_TOPIC)? {
        Some(topic) => Some(Origin { topic: topic.to_owned(), place }),
        None if place.is_some() => return Err(NotADeadLetter::Missing(SOURCE_TOPIC)),
        None => None,
    };
    Ok(DeadLetter {
        reason: required(REASON)?.to_owned(),
        detail: text(DETAIL)?.map(str::to_owned),
        origin,
        codec: text(CODEC)?.map(str::to_owned),
        mqtt_topic: text(MQTT_TOPIC)?.map(str::to_owned),
        received_at: text(RECEIVED_AT)?
            .map(|text| Timestamp::parse(text).map_err(|_| NotADeadLetter::Malformed(RECEIVED_AT)))
            .transpose()?,
        event_id: parse(EVENT_ID, text(EVENT_ID)?)?,
        tries: parse(TRIES, text(TRIES)?)?,
        truncated_from_bytes: parse(TRUNCATED_FROM_BYTES, text(TRUNCATED_FROM_BYTES)?)?,
        source_headers: Vec::new(),
    })
}

fn parse<T: FromStr>(name: &'static str, text: Option<&str>) -> Result<Option<T>, NotADeadLetter> {
    text.map(|text| text.parse().map_err(|_| NotADeadLetter::Malformed(name))).transpose()
}

#[cfg(test)]
mod tests;

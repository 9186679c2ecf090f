//! Codec `sparkplug-b`: Eclipse Sparkplug B payloads, version 3.0.0.
//!
//! The certificate holder is the edge node, and the topic below its readings carries Sparkplug's own levels:
//! `devices/{id}/readings/NBIRTH`, `…/NDATA`, `…/NDEATH` for the node, `…/DBIRTH/{device}`, `…/DDATA/{device}`,
//! `…/DDEATH/{device}` for a device behind it, whose name then stands before its metrics; without a `{device}` the metrics
//! are the node's own.
//!
//! * Names: `/` becomes `.`, and every other character that no metric may have `_`: `Temperature/Zone 1` is
//!   `Temperature.Zone_1`. A name that starts with no letter gets `m_` before it. Two names that become one are refused.
//! * A birth declares names, aliases and datatypes for its connection ([`Births`]), and is read as the state of its own time,
//!   the payload's, whenever its values last changed. Its declarations count even when its values are refused.
//! * Data are dated metric by metric. An alias, or a whole number without a datatype, that no birth has declared makes the
//!   message undecodable: the node has to be told to be born again (`Node Control/Rebirth`), or to reconnect.
//! * Integers are signed or not by their datatype, sign-extended or not to the width that they are transmitted in. Texts and
//!   booleans are attributes, a date and time is one in RFC 3339. What is null or transient is passed over, and so are
//!   `bdSeq`, bytes, data sets, templates and arrays. What is historical has the time to say so.
//! * A birth that measures nothing, and a death, are no reading and no fault. Data without any number are undecodable here as
//!   in every codec: a reading has a metric.

mod births;
mod payload;

use prost::Message as _;
use prost::bytes::Bytes;
use schema::{ReadingCreatedEvent, Timestamp};

use super::moment::Moments;
use super::{Message, TimestampBounds, Undecodable};
use payload::{Metric, Payload, Value};

pub use births::{BORN_MAX, Births};

/// The name of the scope that is no device.
const NODE: &str = "";
/// Sparkplug's own count of sessions; no measurement.
const SESSION_COUNT: &str = "bdSeq";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Birth,
    Data,
    Death,
}

/// Reads the levels that Sparkplug's topic has after the group.
fn kind(subtopic: &str) -> Result<(Kind, &str), Undecodable> {
    let (kind, device) = subtopic.split_once('/').unwrap_or((subtopic, NODE));
    let (of_node, kind) = match kind {
        "NBIRTH" => (true, Kind::Birth),
        "NDATA" => (true, Kind::Data),
        "NDEATH" => (true, Kind::Death),
        "DBIRTH" => (false, Kind::Birth),
        "DDATA" => (false, Kind::Data),
        "DDEATH" => (false, Kind::Death),
        _ => return Err(Undecodable::SparkplugKind),
    };
    let is_wrong = device.contains('/') || (of_node && !device.is_empty());
    if is_wrong { Err(Undecodable::SparkplugKind) } else { Ok((kind, device)) }
}

/// Decodes a message, and learns from it when it is a birth.
///
/// Shape: no reading at all for a death, and for a birth that measures nothing.
pub(super) fn decode(
    message: &Message<'_>,
    bounds: &TimestampBounds,
    births: &mut Births,
) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
    let (kind, device) = kind(message.subtopic)?;
    if kind != Kind::Data {
        births.forget(device);
    }
    if kind == Kind::Death {
        return Ok(Vec::new());
    }
    let payload =
        Payload::decode(Bytes::copy_from_slice(message.payload)).map_err(|_| Undecodable::NotProtobuf)?;
    if payload.metrics.len() > BORN_MAX {
        return Err(Undecodable::TooManyBorn);
    }
    let metrics = payload.metrics.into_iter().map(Metric::decode).collect::<Result<Vec<_>, _>>();
    let metrics = metrics.map_err(|_| Undecodable::NotProtobuf)?;
    if kind == Kind::Birth {
        births.declare(device, &metrics)?;
    }

    let sent_at = match payload.timestamp {
        Some(millis) => bounds.check(from_millis(millis)?, message.received_at)?,
        None => message.received_at,
    };
    let mut moments = Moments::default();
    for metric in metrics {
        let at = match metric.timestamp {
            Some(millis) if kind == Kind::Data => bounds.check(from_millis(millis)?, message.received_at)?,
            _ => sent_at,
        };
        read(metric, device, births, at, &mut moments)?;
    }
    match moments.finish(message) {
        Err(Undecodable::NoMetric) if kind == Kind::Birth => Ok(Vec::new()),
        finished => finished,
    }
}

/// Takes the value of one metric.
fn read(
    metric: Metric,
    device: &str,
    births: &Births,
    at: Timestamp,
    moments: &mut Moments,
) -> Result<(), Undecodable> {
    let name = match (metric.name, metric.alias) {
        (Some(given), _) => name(device, &given)?,
        (None, Some(alias)) => births.by_alias(device, alias).ok_or(Undecodable::BirthUnknown)?.to_owned(),
        (None, None) => return Err(Undecodable::BirthUnknown),
    };
    if name == SESSION_COUNT || metric.is_null == Some(true) || metric.is_transient == Some(true) {
        return Ok(());
    }
    let Some(value) = metric.value else { return Ok(()) };
    let moment = moments.at(at)?;
    let (whole, width_bits) = match value {
        Value::Float(number) => return moment.number(&name, number.into()),
        Value::Double(number) => return moment.number(&name, number),
        Value::Boolean(bool) => return moment.attribute(&name, bool.into()),
        Value::Text(text) => return moment.attribute(&name, text.into()),
        Value::Int(whole) => (u64::from(whole), 32),
        Value::Long(whole) => (whole, 64),
    };
    let datatype = metric.datatype.or_else(|| births.datatype(device, &name));
    match datatype.ok_or(Undecodable::BirthUnknown)? {
        payload::DATE_TIME => moment.attribute(&name, from_millis(whole)?.to_string().into()),
        payload::BOOLEAN if whole <= 1 => moment.attribute(&name, (whole == 1).into()),
        datatype => moment.number(&name, integer(whole, width_bits, datatype)?),
    }
}

/// Reads an integer by its datatype. Encoders write a negative one either in its own width or sign-extended to that of the
/// field; any other bit beyond its width is an error.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a metric is a double, and a signed integer is transmitted as its two's complement"
)]
fn integer(whole: u64, width_bits: u32, datatype: u32) -> Result<f64, Undecodable> {
    let (bits, is_signed) = match datatype {
        payload::INT8 => (8, true),
        payload::INT16 => (16, true),
        payload::INT32 => (32, true),
        payload::INT64 => (64, true),
        payload::UINT8 => (8, false),
        payload::UINT16 => (16, false),
        payload::UINT32 => (32, false),
        payload::UINT64 => (64, false),
        _ => return Err(Undecodable::Datatype),
    };
    let unused = 64 - bits;
    let narrow = (whole << unused) >> unused;
    let extended = ((whole << unused) as i64) >> unused;
    let as_transmitted = (extended as u64) & (u64::MAX >> (64 - width_bits));
    match is_signed {
        _ if !is_signed && whole == narrow => Ok(narrow as f64),
        true if whole == narrow || whole == as_transmitted => Ok(extended as f64),
        _ => Err(Undecodable::Datatype),
    }
}

fn from_millis(millis: u64) -> Result<Timestamp, Undecodable> {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_micros(millis.checked_mul(1_000)?).ok())
        .ok_or(Undecodable::TimestampOutOfBounds)
}

/// The metric that a name of Sparkplug becomes.
fn name(device: &str, given: &str) -> Result<String, Undecodable> {
    // One byte a character, and no metric is longer than this.
    if device.len() + given.len() > 4 * super::ATTRIBUTE_BYTES_MAX {
        return Err(Undecodable::MetricName);
    }
    let to_ours = |character| match character {
        '/' => '.',
        _ if char::is_ascii_alphanumeric(&character) || character == '.' => character,
        _ => '_',
    };
    let separator = if device.is_empty() { "" } else { "." };
    let name: String = device
        .chars()
        .map(|c| if c == '.' { '_' } else { to_ours(c) })
        .chain(separator.chars())
        .chain(given.chars().map(to_ours))
        .collect();
    if name.is_empty() {
        return Err(Undecodable::MetricName);
    }
    let is_letter_first = name.starts_with(|first: char| first.is_ascii_alphabetic());
    Ok(if is_letter_first { name } else { format!("m_{name}") })
}

#[cfg(test)]
mod tests;

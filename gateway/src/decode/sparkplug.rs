//! Codec `sparkplug-b`: Eclipse Sparkplug B payloads, version 3.0.0.
//!
//! The certificate holder is the edge node, and the topic below its readings carries Sparkplug's own levels:
//! `devices/{id}/readings/NBIRTH`, `…/NDATA`, `…/NDEATH` for the node, `…/DBIRTH/{device}`,
//! `…/DDATA/{device}`, `…/DDEATH/{device}` for a device behind it, whose name then stands before its metrics;
//! without a `{device}` the metrics are the node's own.
//!
//! * Names: `/` becomes `.`, and every other character that no metric may have `_`: `Temperature/Zone 1` is
//!   `Temperature.Zone_1`. A name that starts with no letter gets `m_` before it. Two names that become one
//!   are refused.
//! * A birth declares names, aliases and datatypes for its connection ([`Births`]), and is read as the state
//!   of its own time, the payload's, whenever its values last changed. Its declarations count even when its
//!   values are refused.
//! * Data are dated metric by metric, and so is in a birth what is historical. An alias, or a whole number
//!   without a datatype, that no birth has declared makes the message undecodable: the node has to be told to
//!   be born again (`Node Control/Rebirth`), or to reconnect.
//! * Integers are signed or not by their datatype, sign-extended or not to the width that they are
//!   transmitted in. **A boolean is a metric, 0 or 1:** a door or a pump is then counted, averaged over an
//!   hour to the share of it that it was open or ran, and met by thresholds, none of which an attribute can
//!   be. Texts are attributes, a date and time is one in RFC 3339.
//! * A value whose property `Quality` is not good (192) is an attribute with its quality, not a metric: an
//!   average should not hold what its own device does not believe.
//! * Passed over is what is null or transient, `bdSeq`, what a host sets below `Node Control/` and `Device
//!   Control/`, and bytes, data sets, templates and arrays.
//! * A birth that measures nothing, a death, and data that are all passed over are no reading and no fault.
//!   Data that say something and measure nothing are undecodable here as in every codec: a reading has a
//!   metric.

mod births;
mod payload;

use super::builder::{ReadingBuilder, ReadingsByTime};
use super::undecodable::Name;
use super::{Message, TimestampBounds, Undecodable};
use payload::{Metric, Payload, Value};
use prost::Message as _;
use prost::bytes::Bytes;
use schema::{ReadingCreatedEvent, Timestamp};
use serde_json::json;

pub use births::{BORN_MAX, Births};

/// The name of the scope that is no device.
const NODE: &str = "";
/// Sparkplug's own count of sessions; no measurement.
const SESSION_COUNT: &str = "bdSeq";
/// The folders of what a host writes: commands and settings, of the node and of a device. No measurements.
const CONTROLS: [&str; 2] = ["Node Control/", "Device Control/"];

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
/// Shape: no reading at all for a death, for a birth that measures nothing, and for data that are all passed
/// over.
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
    let mut by_time = ReadingsByTime::default();
    let (is_empty, control) = (metrics.is_empty(), control(device)?);
    for metric in metrics {
        let at = match metric.timestamp {
            Some(millis) if kind == Kind::Data || metric.is_historical == Some(true) => {
                bounds.check(from_millis(millis)?, message.received_at)?
            }
            _ => sent_at,
        };
        let name = resolve(&metric, device, births)?;
        if name != SESSION_COUNT && !name.starts_with(&control) {
            read(metric, name, device, births, at, &mut by_time)?;
        }
    }
    let is_passed_over = by_time.is_empty() && !is_empty;
    match by_time.finish(message) {
        Err(Undecodable::NoMetric) if kind == Kind::Birth || is_passed_over => Ok(Vec::new()),
        finished => finished,
    }
}

/// Returns the beginning of the names that a host sets.
fn control(device: &str) -> Result<String, Undecodable> {
    name(device, CONTROLS[usize::from(device != NODE)])
}

/// Finds the metric, by its name or its alias.
fn resolve(metric: &Metric, device: &str, births: &Births) -> Result<String, Undecodable> {
    match (&metric.name, metric.alias) {
        (Some(given), _) => name(device, given),
        (None, Some(alias)) => {
            births.by_alias(device, alias).map(str::to_owned).ok_or(Undecodable::BirthUnknown)
        }
        (None, None) => Err(Undecodable::BirthUnknown),
    }
}

/// Takes the value of one metric.
fn read(
    metric: Metric,
    name: String,
    device: &str,
    births: &Births,
    at: Timestamp,
    by_time: &mut ReadingsByTime,
) -> Result<(), Undecodable> {
    if metric.is_null == Some(true) || metric.is_transient == Some(true) {
        return Ok(());
    }
    let bad_quality = metric.bad_quality();
    let datatype = metric.datatype.or_else(|| births.datatype(device, &name));
    let Some(value) = metric.value else { return Ok(()) };
    let number = match value {
        Value::Float(number) => f64::from(number),
        Value::Double(number) => number,
        Value::Boolean(bool) => f64::from(u8::from(bool)),
        Value::Text(text) => return by_time.at(at)?.attribute(&name, text.into()),
        Value::Int(whole) if datatype == Some(payload::DATE_TIME) => {
            return date(whole.into(), &name, by_time.at(at)?);
        }
        Value::Long(whole) if datatype == Some(payload::DATE_TIME) => {
            return date(whole, &name, by_time.at(at)?);
        }
        Value::Int(whole) => integer(whole.into(), 32, datatype.ok_or(Undecodable::BirthUnknown)?, &name)?,
        Value::Long(whole) => integer(whole, 64, datatype.ok_or(Undecodable::BirthUnknown)?, &name)?,
    };
    let builder = by_time.at(at)?;
    match bad_quality {
        Some(quality) => builder.attribute(&name, json!({"value": number, "quality": quality})),
        None => builder.number(&name, number),
    }
}

/// Takes a date and time, in milliseconds.
fn date(millis: u64, name: &str, builder: &mut ReadingBuilder) -> Result<(), Undecodable> {
    builder.attribute(name, from_millis(millis)?.to_string().into())
}

/// Reads an integer by its datatype. Encoders write a negative one either in its own width or sign-extended
/// to that of the field; any other bit beyond its width is an error.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a metric is a double, and a signed integer is transmitted as its two's complement"
)]
fn integer(whole: u64, width_bits: u32, datatype: u32, name: &str) -> Result<f64, Undecodable> {
    let (bits, is_signed) = match datatype {
        payload::INT8 => (8, true),
        payload::INT16 => (16, true),
        payload::INT32 => (32, true),
        payload::INT64 => (64, true),
        payload::UINT8 => (8, false),
        payload::UINT16 => (16, false),
        payload::UINT32 => (32, false),
        payload::UINT64 => (64, false),
        payload::BOOLEAN if whole <= 1 => (1, false),
        _ => return Err(Undecodable::Datatype(Name::of(name))),
    };
    let unused = 64 - bits;
    let narrow = (whole << unused) >> unused;
    let extended = ((whole << unused) as i64) >> unused;
    let as_transmitted = (extended as u64) & (u64::MAX >> (64 - width_bits));
    match is_signed {
        _ if !is_signed && whole == narrow => Ok(narrow as f64),
        true if whole == narrow || whole == as_transmitted => Ok(extended as f64),
        _ => Err(Undecodable::Datatype(Name::of(name))),
    }
}

fn from_millis(millis: u64) -> Result<Timestamp, Undecodable> {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_micros(millis.checked_mul(1_000)?).ok())
        .ok_or(Undecodable::TimestampOutOfBounds)
}

/// Makes our metric of a name of Sparkplug.
fn name(device: &str, given: &str) -> Result<String, Undecodable> {
    // One byte a character, and no metric is longer than this.
    if device.len() + given.len() > 4 * super::ATTRIBUTE_NAME_BYTES_MAX {
        return Err(Undecodable::MetricName(Name::of(given)));
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
        return Err(Undecodable::MetricName(Name::of(given)));
    }
    let is_letter_first = name.starts_with(|first: char| first.is_ascii_alphabetic());
    Ok(if is_letter_first { name } else { format!("m_{name}") })
}

#[cfg(test)]
mod tests;

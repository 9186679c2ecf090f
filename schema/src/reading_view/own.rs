//! The one form in which the gateway writes readings, read without a look at anything else. Pure.
//!
//! Consumers of our own events meet no other, and very many of it. None stands for everything else, also for
//! what is wrong with it: the general way reads it, or says what is wrong.

use super::ReadingView;
use crate::Timestamp;
use std::borrow::Cow;
use uuid::Uuid;

/// Reads the fields in their order, without a space between them, without attributes, and without an escape
/// in any text.
pub(super) fn read(bytes: &[u8]) -> Option<ReadingView<'_>> {
    let rest = std::str::from_utf8(bytes).ok()?;
    let (event_id, rest) = text(rest.strip_prefix(r#"{"eventId":"#)?)?;
    let (sensor_id, rest) = text(rest.strip_prefix(r#","sensorId":"#)?)?;
    let (device_type, rest) = text(rest.strip_prefix(r#","deviceType":"#)?)?;
    let (zone_id, rest) = text(rest.strip_prefix(r#","zoneId":"#)?)?;
    let (values, rest) = values(rest.strip_prefix(r#","values":{"#)?)?;
    let (reading_at, rest) = text(rest.strip_prefix(r#","readingAt":"#)?)?;
    let (received_at, rest) = text(rest.strip_prefix(r#","receivedAt":"#)?)?;
    if rest != "}" {
        return None;
    }
    Some(ReadingView {
        event_id: Uuid::try_parse(event_id).ok()?,
        sensor_id: Cow::Borrowed(sensor_id),
        device_type: Cow::Borrowed(device_type),
        zone_id: Cow::Borrowed(zone_id),
        values,
        attributes: serde_json::Map::new(),
        reading_at: Timestamp::parse(reading_at).ok()?,
        received_at: Timestamp::parse(received_at).ok()?,
    })
}

/// Reads a text between quotes, and returns what follows it.
fn text(rest: &str) -> Option<(&str, &str)> {
    let (text, rest) = rest.strip_prefix('"')?.split_once('"')?;
    let is_plain = text.bytes().all(|byte| byte != b'\\' && byte >= b' ');
    is_plain.then_some((text, rest))
}

type Values<'a> = Vec<(Cow<'a, str>, f64)>;

/// Reads metrics in ascending order, each once, and the end of their object.
fn values(rest: &str) -> Option<(Values<'_>, &str)> {
    let (mut values, mut rest): (Values<'_>, _) = (Vec::with_capacity(1), rest);
    loop {
        let (metric, after) = text(rest)?;
        let after = after.strip_prefix(':')?;
        let end = after.bytes().position(|byte| byte == b',' || byte == b'}')?;
        let (digits, after) = after.split_at(end);
        if values.last().is_some_and(|(last, _)| &**last >= metric) {
            return None;
        }
        values.push((Cow::Borrowed(metric), number(digits)?));
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Some((values, after.strip_prefix('}')?)),
        }
    }
}

/// Reads a number of JSON. Of what only Rust takes for one: a plus, a word and a point in front have no digit
/// first; then there are zeros in front, and a point without a digit behind it.
fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let is_begun = match digits {
        [b'0', second, ..] => !second.is_ascii_digit(),
        [first, ..] => first.is_ascii_digit(),
        [] => false,
    };
    let is_whole = digits
        .iter()
        .position(|byte| *byte == b'.')
        .is_none_or(|point| digits.get(point + 1).is_some_and(u8::is_ascii_digit));
    let number: f64 = (is_begun && is_whole).then(|| text.parse().ok())??;
    number.is_finite().then_some(number)
}

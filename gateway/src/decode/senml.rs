//! Codecs `senml+json` and `senml+cbor`: a pack of records, RFC 8428.
//!
//! * A record's metric is the last part of its full name, after the last `/` or `:`. A name that ends in no
//!   quantity, because it is the device's own (`urn:dev:ow:10e2073a01080063`), a number (`/3303/0/5700`) or
//!   empty, leaves it to the unit: `lon`, `Cel`, `RH` for `%RH`, and `value` when the unit is no name either.
//!   The certificate says which device measured, not the name: a pack with one quantity of two devices is
//!   refused as a field that comes twice.
//! * A sum is the metric `<name>.sum`. Texts, booleans and data (as base64) are attributes. The units are one
//!   attribute, `units`: metric to unit.
//! * Records of one instant are one reading. Times below 2^28 are relative to the arrival, so a resend of
//!   them cannot be recognised without an event id beside the payload.
//! * Unknown fields are passed over, unless their name ends in `_`.
//!
//! The two encodings fill one [`Record`] after the other; this module resolves them.

pub(super) mod cbor;
pub(super) mod json;

use super::builder::ReadingsByTime;
use super::{ATTRIBUTE_NAME_BYTES_MAX, Message, TimestampBounds, Undecodable};
use schema::{ReadingCreatedEvent, Timestamp};
use serde_json::Value;

/// The version that RFC 8428 defines; smaller ones were drafts of it.
const VERSION: u64 = 10;
/// Seconds below this are relative to now (section 4.5.3).
const RELATIVE_END_SECONDS: f64 = 268_435_456.0;
/// Bytes of the longest full name. It is joined anew for every record, so it must not grow with the payload.
const NAME_BYTES_MAX: usize = 2 * ATTRIBUTE_NAME_BYTES_MAX;
/// Bytes of the longest unit; the registry of units has none beyond eight. It is repeated in every reading.
const UNIT_BYTES_MAX: usize = 32;

/// One record as it came; section 4.3 names the fields.
#[derive(Debug, Default)]
struct Record {
    bver: Option<u64>,
    bn: Option<String>,
    bt: Option<f64>,
    bu: Option<String>,
    bv: Option<f64>,
    bs: Option<f64>,
    n: Option<String>,
    u: Option<String>,
    v: Option<f64>,
    vs: Option<String>,
    vb: Option<bool>,
    /// In base64.
    vd: Option<String>,
    s: Option<f64>,
    t: Option<f64>,
}

/// Where a field goes, by the type that it must have.
enum Target<'a> {
    Number(&'a mut Option<f64>),
    Text(&'a mut Option<String>),
    Bool(&'a mut Option<bool>),
    Data(&'a mut Option<String>),
    Version(&'a mut Option<u64>),
    /// Update time, which no reading needs, and what later specifications add.
    Ignored,
}

impl Record {
    fn target(&mut self, label: &str) -> Result<Target<'_>, Undecodable> {
        Ok(match label {
            "bver" => Target::Version(&mut self.bver),
            "bn" => Target::Text(&mut self.bn),
            "bt" => Target::Number(&mut self.bt),
            "bu" => Target::Text(&mut self.bu),
            "bv" => Target::Number(&mut self.bv),
            "bs" => Target::Number(&mut self.bs),
            "n" => Target::Text(&mut self.n),
            "u" => Target::Text(&mut self.u),
            "v" => Target::Number(&mut self.v),
            "vs" => Target::Text(&mut self.vs),
            "vb" => Target::Bool(&mut self.vb),
            "vd" => Target::Data(&mut self.vd),
            "s" => Target::Number(&mut self.s),
            "t" => Target::Number(&mut self.t),
            _ if label.ends_with('_') => return Err(Undecodable::MandatoryField),
            _ => Target::Ignored,
        })
    }

    /// Tells whether it holds base fields alone, and so measures nothing itself.
    fn is_base_only(&self) -> bool {
        let has_value = self.v.is_some() || self.vs.is_some() || self.vb.is_some() || self.vd.is_some();
        !has_value && self.s.is_none() && self.n.is_none() && self.u.is_none() && self.t.is_none()
    }
}

/// Resolves records in the order of the pack (section 4.6).
struct Pack<'a> {
    message: &'a Message<'a>,
    bounds: &'a TimestampBounds,
    name: String,
    time_seconds: f64,
    unit: Option<String>,
    value: Option<f64>,
    sum: Option<f64>,
    by_time: ReadingsByTime,
}

impl<'a> Pack<'a> {
    fn new(message: &'a Message<'a>, bounds: &'a TimestampBounds) -> Self {
        Self {
            message,
            bounds,
            name: String::new(),
            time_seconds: 0.0,
            unit: None,
            value: None,
            sum: None,
            by_time: ReadingsByTime::default(),
        }
    }

    fn add(&mut self, record: Record) -> Result<(), Undecodable> {
        if record.bver.is_some_and(|version| version > VERSION) {
            return Err(Undecodable::SenmlVersion);
        }
        let is_base_only = record.is_base_only();
        if let Some(name) = record.bn {
            self.name = name;
        }
        self.time_seconds = record.bt.unwrap_or(self.time_seconds);
        self.unit = record.bu.or(self.unit.take());
        self.value = record.bv.or(self.value);
        self.sum = record.bs.or(self.sum);
        if is_base_only {
            return Ok(());
        }
        let said = [record.vs.map(Value::String), record.vb.map(Value::Bool), record.vd.map(Value::String)];
        let said_count = said.iter().flatten().count();
        let value = match (record.v, self.value) {
            (Some(value), base) => Some(value + base.unwrap_or(0.0)),
            (None, Some(base)) if said_count == 0 && record.s.is_none() => Some(base),
            (None, _) => None,
        };
        let sum = match (record.s, self.sum) {
            (None, base) => base.filter(|_| value.is_some()),
            (Some(sum), base) => Some(sum + base.unwrap_or(0.0)),
        };
        if said_count + usize::from(record.v.is_some()) > 1 {
            return Err(Undecodable::NotSenml("a record has more than one value"));
        }
        if said_count == 0 && value.is_none() && sum.is_none() {
            return Err(Undecodable::NotSenml("a record has no value"));
        }

        let unit = record.u.as_ref().or(self.unit.as_ref()).map_or("", String::as_str);
        if unit.len() > UNIT_BYTES_MAX {
            return Err(Undecodable::NotSenml("a unit is too long"));
        }
        let name = record.n.unwrap_or_default();
        if self.name.len() + name.len() > NAME_BYTES_MAX {
            return Err(Undecodable::NotSenml("a name is too long"));
        }
        let name = [self.name.as_str(), &name].concat();
        let name = quantity(&name, unit);
        let instant = instant(self.time_seconds + record.t.unwrap_or(0.0), self.message.received_at)?;
        let instant = self.bounds.check(instant, self.message.received_at)?;
        let builder = self.by_time.at(instant)?;
        if let Some(value) = value {
            builder.number(name, value)?;
            builder.unit(name, unit);
        }
        if let Some(sum) = sum {
            builder.number(&format!("{name}.sum"), sum)?;
        }
        said.into_iter().flatten().try_for_each(|value| builder.attribute(name, value))
    }

    fn finish(self) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
        self.by_time.finish(self.message)
    }
}

/// Names what a record measures, by its full name and its unit.
fn quantity<'a>(name: &'a str, unit: &'a str) -> &'a str {
    // RFC 9039: urn:dev:<type>:<device>, with nothing behind it.
    let is_device = name.strip_prefix("urn:dev:").is_some_and(|device| device.split([':', '/']).count() <= 2);
    let last = name.rsplit([':', '/']).next().unwrap_or_default();
    let is_quantity = last.starts_with(|first: char| !first.is_ascii_digit());
    if is_quantity && !is_device {
        return last;
    }
    let unit = unit.strip_prefix('%').unwrap_or(unit);
    if schema::check_metric(unit).is_ok() { unit } else { "value" }
}

/// Turns the sum of base time and time into an instant.
#[expect(clippy::cast_possible_truncation, reason = "the float is bounded first")]
fn instant(seconds: f64, received_at: Timestamp) -> Result<Timestamp, Undecodable> {
    /// Far beyond the years that a timestamp has.
    const SECONDS_END: f64 = 1e12;
    if !(-SECONDS_END..SECONDS_END).contains(&seconds) {
        return Err(Undecodable::TimestampOutOfBounds);
    }
    let micros = (seconds * 1e6).round() as i64;
    let since_micros = if seconds < RELATIVE_END_SECONDS { received_at.as_micros() } else { 0 };
    Timestamp::from_micros(since_micros + micros).map_err(|_| Undecodable::TimestampOutOfBounds)
}

#[cfg(test)]
mod tests;

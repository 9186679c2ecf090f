//! Column `devices.codec_layout`: where each metric lies in the payloads of codec `binary`.
//!
//! ```json
//! {
//!   "length": 12,
//!   "fields": [
//!     {"metric": "temperature", "at": 0, "type": "i16be", "scale": 0.01},
//!     {"metric": "battery.low", "at": 2, "type": "u8", "bits": [7, 1]}
//!   ],
//!   "timestamp": {"at": 8, "type": "u32be", "unit": "s"}
//! }
//! ```
//!
//! `length` and `at` count bytes. A metric is `number × scale + offset`; `scale` is 1 and `offset` 0 unless
//! given. `bits` is `[first, count]` of an integer, counted from its least significant bit; of a signed type
//! the bits are signed too.

use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Bytes of the longest layout, as text. It is held in memory for every device.
pub const LAYOUT_BYTES_MAX: usize = 65_536;
/// Fields of the largest layout; each is a metric, and so a row per message.
pub const LAYOUT_FIELDS_MAX: usize = 256;
/// Bytes of the longest payload that a layout may describe.
pub const LAYOUT_LENGTH_MAX: usize = 65_536;

/// Describes a payload of fixed fields at fixed places. Only [`Layout::parse`] makes one, so it always holds
/// together: every field lies within `length`, names are valid and distinct, factors are finite.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Layout {
    /// Bytes of every payload.
    pub length: usize,
    /// One per metric, 1 to [`LAYOUT_FIELDS_MAX`].
    pub fields: Vec<LayoutField>,
    /// The device's clock, if the payload carries it.
    pub timestamp: Option<LayoutClock>,
}

/// Says where one metric lies.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayoutField {
    /// Its name.
    pub metric: String,
    /// The number in the payload.
    pub number: LayoutNumber,
    /// The first of the number's bits and how many, from the least significant; all of them if none.
    pub bits: Option<(u32, u32)>,
    /// What the number is multiplied by.
    pub scale: f64,
    /// What is then added.
    pub offset: f64,
}

/// Says where the device's clock lies: an unsigned number since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayoutClock {
    /// The number in the payload.
    pub number: LayoutNumber,
    /// Microseconds in one of its units.
    pub unit_micros: u32,
}

/// Says where and how a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayoutNumber {
    /// Its first byte.
    pub at: usize,
    /// Its bytes: 1, 2, 3, 4 or 8.
    pub bytes: usize,
    /// What they mean.
    pub kind: LayoutKind,
    /// Whether the most significant byte comes first.
    pub is_big_endian: bool,
}

/// Says what the bytes of a number mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutKind {
    /// An unsigned integer.
    Unsigned,
    /// A signed integer, as two's complement.
    Signed,
    /// IEEE 754.
    Float,
}

/// No factor is NaN, so that a layout is equal to itself.
impl Eq for LayoutField {}
impl Eq for Layout {}

impl Layout {
    /// Reads a layout.
    ///
    /// # Errors
    /// Every problem, in the order of the text, each a sentence that begins with its place, such as
    /// `fields[2].type`.
    pub fn parse(json: &str) -> Result<Self, Vec<String>> {
        if json.len() > LAYOUT_BYTES_MAX {
            return Err(vec![format!("layout: longer than {LAYOUT_BYTES_MAX} bytes")]);
        }
        let value: Value =
            serde_json::from_str(json).map_err(|error| vec![format!("layout: not JSON: {error}")])?;
        let mut problems = Vec::new();
        let layout = layout(&value, &mut problems);
        match layout {
            Some(layout) if problems.is_empty() => Ok(layout),
            _ => Err(problems),
        }
    }
}

fn layout(value: &Value, problems: &mut Vec<String>) -> Option<Layout> {
    let mut at = Place { path: "layout".to_owned(), problems };
    let layout = at.object(value, &["length", "fields", "timestamp"])?;
    let length = Place { path: "length".to_owned(), problems: at.problems }.whole(
        layout.get("length"),
        1,
        LAYOUT_LENGTH_MAX,
    );
    // Without a length, nothing lies beyond it: one mistake is one problem.
    let within = length.unwrap_or(LAYOUT_LENGTH_MAX);
    let mut names = BTreeSet::new();
    let fields = match layout.get("fields").and_then(Value::as_array) {
        Some(fields) if (1..=LAYOUT_FIELDS_MAX).contains(&fields.len()) => fields
            .iter()
            .enumerate()
            .filter_map(|(n, value)| {
                let place = Place { path: format!("fields[{n}]"), problems: at.problems };
                field(place, value, within, &mut names)
            })
            .collect(),
        _ => {
            at.problems.push(format!("fields: must be an array of 1 to {LAYOUT_FIELDS_MAX} fields"));
            Vec::new()
        }
    };
    let clock = layout
        .get("timestamp")
        .map(|value| clock(Place { path: "timestamp".to_owned(), problems: at.problems }, value, within));
    Some(Layout { length: length?, fields, timestamp: clock.flatten() })
}

fn field<'v>(
    mut place: Place<'_>,
    value: &'v Value,
    within: usize,
    names: &mut BTreeSet<&'v str>,
) -> Option<LayoutField> {
    let field = place.object(value, &["metric", "at", "type", "scale", "offset", "bits"])?;
    let metric = field.get("metric").and_then(Value::as_str);
    match metric {
        Some(metric) if crate::check_metric(metric).is_err() => {
            place.problem("metric", "must match [A-Za-z][A-Za-z0-9_.]{0,63}");
        }
        Some(metric) if !names.insert(metric) => {
            place.problem("metric", "names a metric that an earlier field has");
        }
        Some(_) => {}
        None => place.problem("metric", "must be a text"),
    }
    let number = place.number(field, within);
    let scale = place.factor(field, "scale", 1.0);
    if scale == Some(0.0) {
        place.problem("scale", "must not be 0");
    }
    let offset = place.factor(field, "offset", 0.0);
    let bits = match (field.get("bits"), number) {
        (None, _) | (Some(_), None) => None,
        (Some(bits), Some(number)) => place.bits(bits, number),
    };
    Some(LayoutField { metric: metric?.to_owned(), number: number?, bits, scale: scale?, offset: offset? })
}

fn clock(mut place: Place<'_>, value: &Value, within: usize) -> Option<LayoutClock> {
    let clock = place.object(value, &["at", "type", "unit"])?;
    let number = place.number(clock, within);
    if number.is_some_and(|number| number.kind != LayoutKind::Unsigned || number.bytes < 4) {
        place.problem("type", "must be u32le, u32be, u64le or u64be");
    }
    let unit_micros = match clock.get("unit").and_then(Value::as_str) {
        Some("s") => 1_000_000,
        Some("ms") => 1_000,
        Some("us") => 1,
        _ => {
            place.problem("unit", "must be s, ms or us");
            return None;
        }
    };
    Some(LayoutClock { number: number?, unit_micros })
}

/// A place in the layout, where problems are found.
struct Place<'p> {
    path: String,
    problems: &'p mut Vec<String>,
}

impl Place<'_> {
    fn problem(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{}.{name}: {what}", self.path));
    }

    /// Passes an object that has no other fields than `names`.
    fn object<'v>(&mut self, value: &'v Value, names: &[&str]) -> Option<&'v Map<String, Value>> {
        let Some(object) = value.as_object() else {
            self.problems.push(format!("{}: must be an object", self.path));
            return None;
        };
        if object.keys().any(|name| !names.contains(&name.as_str())) {
            self.problems.push(format!("{}: may only have {}", self.path, names.join(", ")));
        }
        Some(object)
    }

    fn whole(&mut self, value: Option<&Value>, min: usize, max: usize) -> Option<usize> {
        let whole = value.and_then(Value::as_u64).and_then(|whole| usize::try_from(whole).ok());
        let whole = whole.filter(|whole| (min..=max).contains(whole));
        if whole.is_none() {
            self.problems.push(format!("{}: must be a whole number from {min} to {max}", self.path));
        }
        whole
    }

    fn factor(&mut self, object: &Map<String, Value>, name: &str, default: f64) -> Option<f64> {
        let factor = object.get(name).map_or(Some(default), Value::as_f64);
        if factor.is_none() {
            self.problem(name, "must be a number");
        }
        factor
    }

    /// Reads `at` and `type`.
    fn number(&mut self, object: &Map<String, Value>, within: usize) -> Option<LayoutNumber> {
        let kind = object.get("type").and_then(Value::as_str).and_then(number_type);
        if kind.is_none() {
            self.problem(
                "type",
                "must be u8, i8, or one of u16 i16 u24 i24 u32 i32 u64 i64 f32 f64 followed by le or be",
            );
        }
        let path = format!("{}.at", self.path);
        let at = Place { path, problems: self.problems }.whole(object.get("at"), 0, LAYOUT_LENGTH_MAX);
        let number = LayoutNumber { at: at?, ..kind? };
        if number.at + number.bytes > within {
            self.problem("at", "reaches beyond the length");
            return None;
        }
        Some(number)
    }

    fn bits(&mut self, value: &Value, number: LayoutNumber) -> Option<(u32, u32)> {
        let width = u64::try_from(number.bytes).ok()? * 8;
        let pair = value.as_array().and_then(|pair| match pair.as_slice() {
            [first, count] => Some((first.as_u64()?, count.as_u64()?)),
            _ => None,
        });
        let pair = pair.filter(|(first, count)| {
            *count >= 1 && first.checked_add(*count).is_some_and(|end| end <= width)
        });
        if pair.is_none() || number.kind == LayoutKind::Float {
            self.problem("bits", "must be [first, count] within an integer's bits");
        }
        let (first, count) = pair?;
        Some((u32::try_from(first).ok()?, u32::try_from(count).ok()?))
    }
}

/// Reads the name of a type, such as `i16be`, at no place yet.
fn number_type(name: &str) -> Option<LayoutNumber> {
    let kind = match name.as_bytes().first()? {
        b'u' => LayoutKind::Unsigned,
        b'i' => LayoutKind::Signed,
        b'f' => LayoutKind::Float,
        _ => return None,
    };
    let (bytes, is_big_endian) = match &name[1..] {
        "8" => (1, true),
        "16be" => (2, true),
        "16le" => (2, false),
        "24be" => (3, true),
        "24le" => (3, false),
        "32be" => (4, true),
        "32le" => (4, false),
        "64be" => (8, true),
        "64le" => (8, false),
        _ => return None,
    };
    let is_known = kind != LayoutKind::Float || bytes >= 4;
    is_known.then_some(LayoutNumber { at: 0, bytes, kind, is_big_endian })
}

#[cfg(test)]
mod tests;

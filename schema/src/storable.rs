//! What every dialect of the storage can hold. Pure.
//!
//! The gateway refuses the rest by name, before it is acknowledged as a reading; command-svc checks again
//! before the database does, because a row that only the database refuses costs its whole batch.

use serde_json::{Map, Value};
use std::io;

/// Magnitude that a value stays below, because the sum of an hour must never overflow: it takes more
/// readings than an hour can have (`value_can_be_summed`).
pub const VALUE_MAX: f64 = 1e290;
/// Bytes of the largest attributes of a reading, as JSON. They are stored with every metric of the reading,
/// so that they are multiplied by up to 256; 64 attributes of 256 bytes, or the units of 256 metrics, fit.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;
/// Characters of a name that an error repeats.
const NAME_CHARS_MAX: usize = 64;

/// Says what of a reading no dialect can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstorable {
    /// A value of [`VALUE_MAX`] or more, or none at all, such as NaN.
    #[error("metric {metric:?} is {value}: a value lies between -1e290 and 1e290")]
    Value {
        /// Its metric, cut after 64 characters.
        metric: String,
        /// What it is.
        value: String,
    },
    /// The character U+0000 in the name of an attribute or in a text, however deeply nested.
    #[error("attribute {attribute:?} holds the character U+0000")]
    Nul {
        /// The attribute at the top, cut after 64 characters.
        attribute: String,
    },
    /// More than [`ATTRIBUTES_BYTES_MAX`].
    #[error("the attributes have {bytes} bytes: {ATTRIBUTES_BYTES_MAX} is the most")]
    Attributes {
        /// How many they have.
        bytes: usize,
    },
}

impl Unstorable {
    /// Returns the short name, fixed for ever: dead letters are grouped by it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Value { .. } => "value-out-of-range",
            Self::Nul { .. } => "nul",
            Self::Attributes { .. } => "attributes-too-large",
        }
    }
}

/// Checks one value of a metric.
///
/// # Errors
/// [`Unstorable::Value`] (dead letter).
pub fn check_value(metric: &str, value: f64) -> Result<(), Unstorable> {
    // Written so that NaN is refused, too.
    if value.abs() < VALUE_MAX {
        return Ok(());
    }
    Err(Unstorable::Value { metric: cut(metric), value: format!("{value:e}") })
}

/// Checks the attributes of a reading.
///
/// # Errors
/// [`Unstorable::Nul`] or [`Unstorable::Attributes`] (dead letter).
pub fn check_attributes(attributes: &Map<String, Value>) -> Result<(), Unstorable> {
    if attributes.is_empty() {
        return Ok(());
    }
    if let Some((name, _)) = attributes.iter().find(|(name, value)| name.contains('\0') || has_nul(value)) {
        return Err(Unstorable::Nul { attribute: cut(name) });
    }
    let bytes = attributes_bytes(attributes);
    if bytes <= ATTRIBUTES_BYTES_MAX { Ok(()) } else { Err(Unstorable::Attributes { bytes }) }
}

/// Counts the bytes that attributes have as JSON without spaces, which is how every row of their reading
/// holds them; none at all have none.
pub fn attributes_bytes(attributes: &Map<String, Value>) -> usize {
    let mut count = Count(0);
    // Plain data under text keys always encodes, and counting cannot fail.
    match serde_json::to_writer(&mut count, attributes) {
        Ok(()) if !attributes.is_empty() => count.0,
        _ => 0,
    }
}

/// Serde's own bound of 128 levels bounds the recursion of whatever was decoded.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(array) => array.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn cut(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// Counts what is written.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn attributes(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => unreachable!("a test gives an object"),
        }
    }

    #[test]
    fn values_that_could_overflow_a_sum_are_refused_by_name() {
        for good in [0.0, -9.99e289, 9.99e289, f64::MIN_POSITIVE] {
            assert_eq!(check_value("t", good), Ok(()), "{good}");
        }
        for bad in [1e290, -1e290, 1e300, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let refused = check_value("t", bad).unwrap_err();
            assert_eq!(refused.reason(), "value-out-of-range");
            assert!(refused.to_string().starts_with("metric \"t\" is "), "{refused}");
        }
    }

    #[test]
    fn nul_is_found_at_every_depth_and_its_attribute_named() {
        for bad in
            [json!({"ok": 1, "s": "a\0b"}), json!({"s": ["x", ["\0"]]}), json!({"s": {"deep": [{"\0": 1}]}})]
        {
            let refused = check_attributes(&attributes(bad)).unwrap_err();
            assert_eq!(refused, Unstorable::Nul { attribute: "s".to_owned() });
        }
        let refused = check_attributes(&attributes(json!({"n\0": 1}))).unwrap_err();
        assert_eq!(refused.to_string(), r#"attribute "n\0" holds the character U+0000"#);
        assert_eq!(check_attributes(&attributes(json!({"s": "\\u0000", "t": ["0"]}))), Ok(()));
    }

    #[test]
    fn attributes_are_bounded_as_a_whole() {
        assert_eq!(check_attributes(&Map::new()), Ok(()));
        assert_eq!(attributes_bytes(&Map::new()), 0);
        // `{"a":"…"}` is eight bytes and the text.
        let fits = attributes(json!({"a": "x".repeat(ATTRIBUTES_BYTES_MAX - 8)}));
        assert_eq!(check_attributes(&fits), Ok(()));
        let large = attributes(json!({"a": "x".repeat(ATTRIBUTES_BYTES_MAX - 7)}));
        let bytes = ATTRIBUTES_BYTES_MAX + 1;
        assert_eq!(check_attributes(&large), Err(Unstorable::Attributes { bytes }));
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_json(texts in proptest::collection::btree_map(".{0,8}", ".{0,20}", 1..8)) {
            let map: Map<_, _> = texts.into_iter().map(|(name, text)| (name, text.into())).collect();
            prop_assert_eq!(attributes_bytes(&map), serde_json::to_string(&map).unwrap().len());
        }
    }
}

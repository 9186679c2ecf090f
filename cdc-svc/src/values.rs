//! Turns PostgreSQL's text format into the JSON that Debezium writes. Pure.
//!
//! Sessions pin `TimeZone=UTC` and `DateStyle=ISO` (see `slot`), so an instant always looks the same here.

use schema::Timestamp;
use serde_json::{Number, Value};

// Object ids of built-in types are fixed for ever: src/include/catalog/pg_type.dat.
const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const TEXT_ARRAY: u32 = 1009;
const VARCHAR_ARRAY: u32 = 1015;
const TIMESTAMPTZ: u32 = 1184;

/// Says which text does not fit its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text of a {0} column is not one")]
pub struct ValueError(&'static str);

/// Turns the text of a column into JSON.
///
/// Shape: bool, numbers and `text[]` become what they are; `timestamptz` becomes RFC 3339 in UTC with six
/// digits; NaN and the infinities become strings, because JSON has no such numbers (Debezium writes the same
/// strings); an instant that RFC 3339 cannot write (`infinity`, BC, year 10000) and every other type stay the
/// text that PostgreSQL writes.
///
/// # Errors
/// [`ValueError`] (stop).
pub fn json(type_oid: u32, text: &str) -> Result<Value, ValueError> {
    match type_oid {
        BOOL => match text {
            "t" => Ok(Value::Bool(true)),
            "f" => Ok(Value::Bool(false)),
            _ => Err(ValueError("boolean")),
        },
        INT2 | INT4 | INT8 => text.parse::<i64>().map(Value::from).map_err(|_| ValueError("whole number")),
        FLOAT4 | FLOAT8 => {
            let number = text.parse::<f64>().map_err(|_| ValueError("number"))?;
            Ok(Number::from_f64(number).map_or_else(|| Value::from(text), Value::Number))
        }
        TIMESTAMPTZ => Ok(instant(text).map_or_else(|| Value::from(text), Value::from)),
        TEXT_ARRAY | VARCHAR_ARRAY => array(text).ok_or(ValueError("text array")),
        _ => Ok(Value::from(text)),
    }
}

/// Rewrites `2026-01-02 03:04:05.6+00` as `2026-01-02T03:04:05.600000Z`.
fn instant(text: &str) -> Option<String> {
    let (date, time) = text.split_once(' ')?;
    let sign = time.find(['+', '-'])?;
    let (time, offset) = time.split_at_checked(sign)?;
    let minutes = if offset.len() == 3 { ":00" } else { "" };
    Timestamp::parse(&format!("{date}T{time}{offset}{minutes}")).ok().map(|instant| instant.to_string())
}

/// Reads a one-dimensional array such as `{a,"b \"c\"",NULL}`.
///
/// Source: PostgreSQL manual, "Array Input and Output Syntax".
fn array(text: &str) -> Option<Value> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut elements = Vec::new();
    let mut rest = inner;
    while !rest.is_empty() {
        let (element, tail) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (element, tail) = quoted_element(quoted)?;
                (Value::from(element), tail)
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (element, tail) = rest.split_at_checked(end)?;
                if element.is_empty() || element.contains(['{', '}', '"', '\\']) {
                    return None;
                }
                (if element == "NULL" { Value::Null } else { Value::from(element) }, tail)
            }
        };
        elements.push(element);
        rest = match tail.strip_prefix(',') {
            Some("") => return None,
            Some(next) => next,
            None if tail.is_empty() => tail,
            None => return None,
        };
    }
    Some(Value::Array(elements))
}

/// Reads up to the closing quote; returns the element and what follows the quote.
fn quoted_element(quoted: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((element, quoted.get(at + 1..)?)),
            '\\' => element.push(chars.next()?.1),
            other => element.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json as j;

    #[test]
    fn every_type_of_our_tables_becomes_its_json() {
        for (type_oid, text, expected) in [
            (BOOL, "t", j!(true)),
            (INT8, "9007199254740993", j!(9_007_199_254_740_993_i64)),
            (FLOAT8, "30", j!(30.0)),
            (FLOAT8, "1.0000000000000002", j!(1.000_000_000_000_000_2)),
            (FLOAT8, "NaN", j!("NaN")),
            (FLOAT8, "-Infinity", j!("-Infinity")),
            (TIMESTAMPTZ, "2026-01-02 03:04:05.000006+00", j!("2026-01-02T03:04:05.000006Z")),
            (TIMESTAMPTZ, "2026-01-02 03:04:05+00", j!("2026-01-02T03:04:05.000000Z")),
            (TIMESTAMPTZ, "2026-01-02 03:04:05.5+05:30", j!("2026-01-01T21:34:05.500000Z")),
            (TIMESTAMPTZ, "infinity", j!("infinity")),
            (TIMESTAMPTZ, "0044-03-15 12:00:00+00 BC", j!("0044-03-15 12:00:00+00 BC")),
            (TEXT_ARRAY, "{}", j!([])),
            (
                TEXT_ARRAY,
                r#"{ab,"c d","e\"f\\",NULL,"NULL",""}"#,
                j!(["ab", "c d", "e\"f\\", null, "NULL", ""]),
            ),
            (2950, "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b", j!("4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b")),
            (25, "häuser", j!("häuser")),
        ] {
            assert_eq!(json(type_oid, text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn text_that_is_not_of_its_type_is_refused() {
        for (type_oid, text) in [
            (BOOL, "yes"),
            (INT8, "1.5"),
            (FLOAT8, ""),
            (TEXT_ARRAY, "{a,}"),
            (TEXT_ARRAY, "{{a}}"),
            (TEXT_ARRAY, "{\"a}"),
            (TEXT_ARRAY, "[0:1]={a,b}"),
        ] {
            assert!(json(type_oid, text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_array_survives_its_text(elements: Vec<String>) {
            let quoted: Vec<_> = elements
                .iter()
                .map(|element| format!("\"{}\"", element.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            prop_assert_eq!(json(TEXT_ARRAY, &format!("{{{}}}", quoted.join(","))), Ok(j!(elements)));
        }

        #[test]
        fn any_text_of_any_type_never_panics(text: String) {
            for type_oid in [BOOL, INT8, FLOAT8, TIMESTAMPTZ, TEXT_ARRAY, 25] {
                let _ = json(type_oid, &text);
            }
        }
    }
}

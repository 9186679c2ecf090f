//! Codec `cbor`: one map, read by the rules of [`super::fields`] like the object of codec `json`.
//!
//! Names are text, or whole numbers, which are named by their digits. Bytes are an attribute, in base64;
//! `undefined` is `null`; tags change nothing, except that a decimal fraction is a number. Arrays and what is
//! in them count as depth too.

use super::fields::Fields;
use super::items::{Item, Items, Left, bytes_to_text, whole_to_double, whole_to_value};
use super::{DEPTH_MAX, Message, TimestampBounds, Undecodable};
use schema::ReadingCreatedEvent;
use serde_json::{Map, Number, Value};

pub(super) fn decode(
    message: &Message<'_>,
    bounds: &TimestampBounds,
) -> Result<ReadingCreatedEvent, Undecodable> {
    let mut items = Items::new(message.payload);
    let mut fields = Fields::default();
    walk(&mut items, &mut fields, 0)?;
    items.end()?;
    fields.finish(message, bounds)
}

/// Walks one item at the current path. Recurses at most [`DEPTH_MAX`] times.
fn walk(items: &mut Items<'_>, fields: &mut Fields, depth: usize) -> Result<(), Undecodable> {
    match items.next().map_err(|undecodable| fields.named(undecodable))? {
        Item::Whole(number) => fields.whole(number, whole_to_double(number)),
        Item::Float(number) => fields.number(number),
        Item::Text(text) => fields.text(&text),
        Item::Map(left) => walk_map(items, fields, left, depth),
        item => {
            fields.check_plain()?;
            let value = tree(items, item, depth)?;
            fields.attribute(value)
        }
    }
}

fn walk_map(
    items: &mut Items<'_>,
    fields: &mut Fields,
    mut left: Left,
    depth: usize,
) -> Result<(), Undecodable> {
    fields.enter()?;
    while items.more(&mut left)? {
        let parent = fields.child(&items.name()?);
        walk(items, fields, depth + 1)?;
        fields.parent(parent);
    }
    fields.leave();
    Ok(())
}

/// Makes the value of an item that stands at `depth`. Recurses at most [`DEPTH_MAX`] times.
fn tree(items: &mut Items<'_>, item: Item<'_>, depth: usize) -> Result<Value, Undecodable> {
    let is_nested = matches!(item, Item::Array(_) | Item::Map(_));
    if is_nested && depth >= DEPTH_MAX {
        return Err(Undecodable::TooDeep);
    }
    Ok(match item {
        Item::Whole(number) => whole_to_value(number),
        Item::Float(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        Item::Text(text) => Value::String(text.into_owned()),
        Item::Bytes(bytes) => Value::String(bytes_to_text(&bytes)),
        Item::Bool(bool) => Value::Bool(bool),
        Item::Null => Value::Null,
        Item::Array(mut left) => {
            let mut array = Vec::new();
            while items.more(&mut left)? {
                let element = items.next()?;
                array.push(tree(items, element, depth + 1)?);
            }
            Value::Array(array)
        }
        Item::Map(mut left) => {
            let mut map = Map::new();
            while items.more(&mut left)? {
                let name = items.name()?.into_owned();
                let element = items.next()?;
                map.insert(name, tree(items, element, depth + 1)?);
            }
            Value::Object(map)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::one;
    use super::super::{ATTRIBUTES_MAX, Format, METRICS_MAX};
    use super::*;
    use minicbor::Encoder;
    use proptest::prelude::*;
    use serde_json::json;

    fn reading(payload: &[u8]) -> Result<ReadingCreatedEvent, Undecodable> {
        one(&Format::Cbor, payload)
    }

    /// Encodes what JSON can say.
    fn encode(value: &Value) -> Vec<u8> {
        fn put(e: &mut Encoder<Vec<u8>>, value: &Value) {
            match value {
                Value::Null => e.null().map(|_| ()),
                Value::Bool(bool) => e.bool(*bool).map(|_| ()),
                Value::String(text) => e.str(text).map(|_| ()),
                Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                    (Some(number), ..) => e.u64(number).map(|_| ()),
                    (_, Some(number), _) => e.i64(number).map(|_| ()),
                    (_, _, number) => e.f64(number.unwrap()).map(|_| ()),
                },
                Value::Array(array) => {
                    e.array(array.len() as u64).unwrap();
                    array.iter().for_each(|element| put(e, element));
                    Ok(())
                }
                Value::Object(map) => {
                    e.map(map.len() as u64).unwrap();
                    for (name, element) in map {
                        e.str(name).unwrap();
                        put(e, element);
                    }
                    Ok(())
                }
            }
            .unwrap();
        }
        let mut encoder = Encoder::new(Vec::new());
        put(&mut encoder, value);
        encoder.into_writer()
    }

    #[test]
    fn map_is_read_like_the_same_object_in_json() {
        for object in [
            json!({"temperature": 21.5, "n": -3, "engine": {"rpm": 900, "oil": {"bar": 2}, "state": "on"},
                   "ok": true, "none": null, "list": [1, {"a": 2}], "timestamp": 1_767_323_045, "fw": "1.2"}),
            json!({"t": 1, "timestamp": "2026-01-02T03:04:05.5Z", "eventId": "e-7"}),
            json!({"t": 1, "eventId": u64::MAX}),
        ] {
            let mut read = reading(&encode(&object)).unwrap();
            let mut same = one(&Format::Json, object.to_string().as_bytes()).unwrap();
            if object.get("eventId").is_none() {
                assert_ne!(read.event_id, same.event_id, "the id of a payload is that of its bytes");
                (read.event_id, same.event_id) = Default::default();
            }
            assert_eq!(read, same);
        }
    }

    #[test]
    fn what_json_cannot_say_has_its_place() {
        let payload = hex::decode(concat!(
            "d9d9f7",               // self-described CBOR
            "bf",                   // a map without a length
            "6168f93e00",           // h: half float 1.5
            "6173fa42280000",       // s: single float 42
            "6164c48221196ab3",     // d: decimal fraction 273.15
            "7f61656166ff3863",     // "ef", in two parts: -100
            "6162420102",           // b: bytes
            "6175f7",               // u: undefined
            "616ca10102",           // l: {1: 2}
            "6974696d657374616d70", // timestamp
            "c11a695735a5",         // tagged as an epoch
            "ff",
        ))
        .unwrap();
        let read = reading(&payload).unwrap();
        let values: Vec<_> = read.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let expected = [("d", 273.15), ("ef", -100.0), ("h", 1.5), ("l.1", 2.0), ("s", 42.0)];
        assert_eq!(values, expected);
        assert_eq!(Value::Object(read.attributes), json!({"b": "AQI", "u": null}));
        assert_eq!(read.reading_at.to_string(), "2026-01-02T03:04:05.000000Z");
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let table: &[(&str, &str)] = &[
            ("", "not-cbor"),
            ("a1", "not-cbor"),
            ("a1617401ff", "not-cbor"),
            ("a161741c", "not-cbor"),
            ("a16174ff", "not-cbor"),
            ("a16174f8ff", "not-cbor"),
            ("a162c32801", "not-cbor"),
            ("a16174c4820102f6", "not-cbor"),
            ("a16174c4830102", "not-cbor"),
            ("a16174c48261310a", "not-cbor"),
            ("bf617401", "not-cbor"),
            ("bbffffffffffffffff617401", "not-cbor"),
            ("a161617bffffffffffffffff", "not-cbor"),
            ("a161615bffffffffffffffff", "not-cbor"),
            ("a161619bffffffffffffffff", "not-cbor"),
            ("a161617f7f6161ffff", "not-cbor"),
            ("17", "not-object"),
            ("f6", "not-object"),
            ("6174", "not-object"),
            ("8101", "not-object"),
            ("a0", "no-metric"),
            ("a1616141ff", "no-metric"),
            ("a1f601", "field-name"),
            ("a1810101", "field-name"),
            ("a1616181a1f601", "field-name"),
            ("a10102", "metric-name"),
            ("a2617401617402", "duplicate-field"),
            ("a16174f97e00", "not-finite"),
            ("a16174fb7ff0000000000000", "not-finite"),
            ("a16174c4821b7fffffffffffffff01", "not-finite"),
            ("a26174016974696d657374616d7040", "timestamp"),
            ("a26174016974696d657374616d7080", "timestamp"),
            ("a2617401676576656e744964f90000", "event-id"),
        ];
        for (payload, reason) in table {
            let refused = reading(&hex::decode(payload).unwrap()).expect_err(payload);
            assert_eq!(refused.reason(), *reason, "{payload}");
        }
    }

    #[test]
    fn what_no_reading_can_hold_is_refused_with_its_reason() {
        let many = |count: usize, value: &Value| {
            let fields = (0..count).map(|n| (format!("m{n}"), value.clone()));
            Value::Object(fields.chain([("t".to_owned(), json!(1))]).collect())
        };
        let named = |name: String, value: Value| json!({"t": 1, name: value});
        let table = [
            (json!({"t": 1, "timestamp": 0}), "timestamp-out-of-bounds"),
            (json!({"t": 1, "timestamp": 1e300}), "timestamp-out-of-bounds"),
            (json!({"t": 1, "timestamp": u64::MAX}), "timestamp-out-of-bounds"),
            (json!({"t": 1, "timestamp": "2026-01-04T00:00:00Z"}), "timestamp-out-of-bounds"),
            (json!({"t": 1, "timestamp": "yesterday"}), "timestamp"),
            (json!({"t": 1, "eventId": "e".repeat(257)}), "event-id"),
            (many(METRICS_MAX, &json!(1)), "too-many-metrics"),
            (many(ATTRIBUTES_MAX + 1, &json!("x")), "too-many-attributes"),
            (named("m".repeat(65), json!(1)), "metric-name"),
            (named("a".repeat(129), json!("x")), "attribute-name"),
        ];
        for (payload, reason) in table {
            assert_eq!(reading(&encode(&payload)).unwrap_err().reason(), reason);
        }
        assert!(reading(&encode(&many(METRICS_MAX - 1, &json!(1)))).is_ok());
    }

    #[test]
    fn nesting_is_refused_before_it_costs_anything() {
        let deep =
            |head: &[u8], count: usize| [&b"\xa2\x61t\x01\x61a"[..], &head.repeat(count), b"\xf6"].concat();
        for head in [&b"\x81"[..], b"\x9f", b"\xa1\x61a", b"\xbf\x61a", b"\x81\xa1\x61a"] {
            let refused = reading(&deep(head, 100_000)).unwrap_err();
            assert_eq!(refused.reason(), "too-deep", "{head:x?}");
        }
        assert!(reading(&deep(b"\x81", DEPTH_MAX - 1)).is_ok());
        assert_eq!(reading(&deep(b"\x81", DEPTH_MAX)), Err(Undecodable::TooDeep));
        assert!(reading(&deep(b"\xc6", 1_000_000)).is_ok(), "tags are passed over without recursion");
        assert_eq!(reading(&deep(b"\xc4", 1_000_000)).unwrap_err().reason(), "not-cbor");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(payload: Vec<u8>) {
            let _ = reading(&payload);
        }

        #[test]
        fn any_flat_map_of_numbers_is_read_back(
            values in proptest::collection::btree_map(
                "m[a-z0-9_]{0,12}", any::<f64>().prop_filter("can be stored", |number| number.abs() < schema::VALUE_MAX), 1..20
            )
        ) {
            let mut encoder = Encoder::new(Vec::new());
            encoder.map(values.len() as u64).unwrap();
            for (name, value) in &values {
                encoder.str(name).unwrap().f64(*value).unwrap();
            }
            prop_assert_eq!(reading(&encoder.into_writer()).unwrap().values, values);
        }
    }
}

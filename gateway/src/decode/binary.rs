//! Codec `binary`: fixed fields at fixed places, as the registry's [`Layout`] says.

use super::builder::ReadingsByTime;
use super::{METRICS_MAX, Message, TimestampBounds, Undecodable};
use schema::{Layout, LayoutField, LayoutKind, LayoutNumber, ReadingCreatedEvent, Timestamp};

const _: () = assert!(schema::LAYOUT_FIELDS_MAX <= METRICS_MAX);

pub(super) fn decode(
    layout: &Layout,
    message: &Message<'_>,
    bounds: &TimestampBounds,
) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
    let payload = message.payload;
    if payload.len() != layout.length {
        return Err(Undecodable::PayloadLength { is_bytes: payload.len(), must_bytes: layout.length });
    }
    let reading_at = match layout.timestamp {
        Some(clock) => {
            let micros = i128::from(raw(clock.number, payload)?) * i128::from(clock.unit_micros);
            let reading_at =
                i64::try_from(micros).ok().and_then(|micros| Timestamp::from_micros(micros).ok());
            bounds.check(reading_at.ok_or(Undecodable::TimestampOutOfBounds)?, message.received_at)?
        }
        None => message.received_at,
    };
    let mut by_time = ReadingsByTime::default();
    let builder = by_time.at(reading_at)?;
    for field in &layout.fields {
        let number = number(field, payload)?;
        builder.number(&field.metric, number * field.scale + field.offset)?;
    }
    by_time.finish(message)
}

/// Reads the bits of a number, whatever they mean.
fn raw(number: LayoutNumber, payload: &[u8]) -> Result<u64, Undecodable> {
    let bytes = payload.get(number.at..number.at + number.bytes);
    // A layout ends within its length, and the payload has that length.
    let bytes = bytes.ok_or(Undecodable::PayloadLength { is_bytes: payload.len(), must_bytes: number.at })?;
    let push = |raw: u64, byte: &u8| (raw << 8) | u64::from(*byte);
    Ok(if number.is_big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) })
}

/// Reads one field, neither scaled nor offset.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "a metric is a double, a signed integer is written as its two's complement, and a float of four bytes has no more"
)]
fn number(field: &LayoutField, payload: &[u8]) -> Result<f64, Undecodable> {
    let raw = raw(field.number, payload)?;
    let width = field.number.bytes as u32 * 8;
    let (first, count) = field.bits.unwrap_or((0, width));
    // The wanted bits at the top, so that shifting them down fills from their sign or with zeros.
    let top = raw << (64 - first - count);
    Ok(match field.number.kind {
        LayoutKind::Unsigned => (top >> (64 - count)) as f64,
        LayoutKind::Signed => ((top as i64) >> (64 - count)) as f64,
        LayoutKind::Float if width == 32 => f32::from_bits(raw as u32).into(),
        LayoutKind::Float => f64::from_bits(raw),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::one;
    use super::super::{Format, METRICS_MAX};
    use proptest::prelude::*;

    fn format(layout: &str) -> Format {
        Format::of("binary", Some(layout))
    }

    #[test]
    fn each_field_is_read_at_its_place() {
        let table = [
            ("u8", "ff", 255.0),
            ("i8", "ff", -1.0),
            ("u16be", "0102", 258.0),
            ("u16le", "0102", 513.0),
            ("i16be", "fffe", -2.0),
            ("i16le", "feff", -2.0),
            ("u24be", "010203", 66_051.0),
            ("i24le", "ffffff", -1.0),
            ("i24be", "800000", -8_388_608.0),
            ("u32be", "ffffffff", 4_294_967_295.0),
            ("i32le", "00000080", -2_147_483_648.0),
            ("u64le", "ffffffffffffffff", 18_446_744_073_709_551_615.0),
            ("i64be", "ffffffffffffffff", -1.0),
            ("f32be", "41480000", 12.5),
            ("f32le", "00004841", 12.5),
            ("f64be", "4029000000000000", 12.5),
            ("f64le", "0000000000002940", 12.5),
        ];
        for (name, bytes, expected) in table {
            let payload = hex::decode(format!("aa{bytes}bb")).unwrap();
            let fields = format!(r#"[{{"metric":"m","at":1,"type":"{name}"}}]"#);
            let format = format(&format!(r#"{{"length":{},"fields":{fields}}}"#, payload.len()));
            assert_eq!(one(&format, &payload).unwrap().values["m"], expected, "{name}");
        }
    }

    #[test]
    fn bits_scale_offset_and_clock_are_applied() {
        let format = format(
            r#"{"length":12,"fields":[
                {"metric":"temperature","at":0,"type":"i16be","scale":0.01},
                {"metric":"low","at":2,"type":"u8","bits":[7,1]},
                {"metric":"level","at":2,"type":"u8","bits":[0,7],"offset":-100},
                {"metric":"trend","at":2,"type":"i8","bits":[4,3]},
                {"metric":"high","at":3,"type":"u32le","bits":[31,1]},
                {"metric":"wide","at":3,"type":"i32le","bits":[0,32]}],
               "timestamp":{"at":8,"type":"u32be","unit":"s"}}"#,
        );
        let read = one(&format, &hex::decode("0866f30000008055695735a5").unwrap()).unwrap();
        let values: Vec<_> = read.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let expected = [
            ("high", 1.0),
            ("level", 15.0),
            ("low", 1.0),
            ("temperature", 21.5),
            ("trend", -1.0),
            ("wide", -2_147_483_648.0),
        ];
        assert_eq!(values, expected);
        assert_eq!(read.reading_at.to_string(), "2026-01-02T03:04:05.000000Z");
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let layout = r#"{"length":12,"fields":[{"metric":"m","at":0,"type":"f32be"}],
            "timestamp":{"at":4,"type":"u64be","unit":"ms"}}"#;
        let format = format(layout);
        let millis = 1_767_323_045_000_u64.to_be_bytes();
        let payload = |m: f32, millis: [u8; 8]| [&m.to_be_bytes()[..], &millis].concat();
        assert!(one(&format, &payload(1.5, millis)).is_ok());
        let table = [
            (Vec::new(), "payload-length"),
            (vec![0; 11], "payload-length"),
            (vec![0; 13], "payload-length"),
            (payload(f32::NAN, millis), "not-finite"),
            (payload(f32::INFINITY, millis), "not-finite"),
            (payload(1.0, [0; 8]), "timestamp-out-of-bounds"),
            (payload(1.0, [0xff; 8]), "timestamp-out-of-bounds"),
        ];
        for (payload, reason) in table {
            assert_eq!(one(&format, &payload).unwrap_err().reason(), reason, "{payload:x?}");
        }
        let scaled = r#"{"length":8,"fields":[{"metric":"m","at":0,"type":"f64be","scale":10}]}"#;
        let beyond = one(&self::format(scaled), &f64::MAX.to_be_bytes()).unwrap_err();
        assert_eq!(beyond.reason(), "not-finite", "by its scale");
        let field = |name: &str| format!(r#"{{"metric":"{name}","at":0,"type":"u8"}}"#);
        let layout = |fields: &[String]| format!(r#"{{"length":1,"fields":[{}]}}"#, fields.join(","));
        let long = layout(&[field(&"m".repeat(65))]);
        let many: Vec<_> = (0..=METRICS_MAX).map(|n| field(&format!("m{n}"))).collect();
        let many = layout(&many);
        for layout in
            [None, Some(""), Some("{}"), Some(&long), Some(&many), Some(r#"{"length":1,"fields":[]}"#)]
        {
            let refused = one(&Format::of("binary", layout), b"1").unwrap_err();
            assert_eq!(refused.reason(), "layout", "{layout:?}");
        }
    }

    proptest! {
        #[test]
        fn any_numbers_are_read_back(numbers in proptest::collection::vec(any::<i32>(), 1..60), is_big: bool) {
            let order = if is_big { "be" } else { "le" };
            let fields: Vec<_> = (0..numbers.len())
                .map(|n| format!(r#"{{"metric":"m{n}","at":{},"type":"i32{order}"}}"#, 4 * n))
                .collect();
            let layout = format!(r#"{{"length":{},"fields":[{}]}}"#, 4 * numbers.len(), fields.join(","));
            let bytes = |number: &i32| if is_big { number.to_be_bytes() } else { number.to_le_bytes() };
            let payload: Vec<u8> = numbers.iter().flat_map(bytes).collect();
            let read = one(&format(&layout), &payload).unwrap();
            for (n, number) in numbers.iter().enumerate() {
                prop_assert_eq!(read.values[&format!("m{n}")], f64::from(*number));
            }
        }

        #[test]
        fn any_bits_are_those_of_the_number(raw: u64, first in 0..64_u32, count in 1..64_u32) {
            let count = count.min(64 - first);
            let layout = format!(
                r#"{{"length":8,"fields":[{{"metric":"m","at":0,"type":"u64be","bits":[{first},{count}]}}]}}"#
            );
            let read = one(&format(&layout), &raw.to_be_bytes()).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "so is a metric")]
            let expected = ((raw >> first) & (u64::MAX >> (64 - count))) as f64;
            prop_assert_eq!(read.values["m"], expected);
        }
    }
}

//! The examples of RFC 8428 and what it forbids, in both encodings.

use super::super::tests::{BOUNDS, message};
use super::super::{Births, Format, METRICS_MAX, READINGS_MAX, decode};
use super::*;
use minicbor::Encoder;
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

/// The examples are of 2010 and 2011.
const LONG_AGO: TimestampBounds =
    TimestampBounds { age_max: Duration::from_secs(20 * 366 * 86_400), ..BOUNDS };

fn read(format: &Format, payload: &[u8]) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
    decode(format, &message(payload), &mut Births::default(), &LONG_AGO)
}

/// Instant, values and attributes of each reading; an instant of now is empty.
fn told(format: &Format, payload: &[u8]) -> Result<Value, Undecodable> {
    let readings = read(format, payload)?;
    let tell = |reading: &ReadingCreatedEvent| {
        let at = match reading.reading_at {
            at if at == reading.received_at => String::new(),
            at => at.to_string().replace(".000000Z", "Z"),
        };
        json!([at, reading.values, reading.attributes])
    };
    Ok(readings.iter().map(tell).collect())
}

/// Writes the same pack as CBOR.
fn to_cbor(pack: &str) -> Vec<u8> {
    let pack: Vec<serde_json::Map<String, Value>> = serde_json::from_str(pack).unwrap();
    let mut e = Encoder::new(Vec::new());
    e.array(pack.len() as u64).unwrap();
    for record in &pack {
        e.map(record.len() as u64).unwrap();
        for (label, value) in record {
            match (-6..=8).find(|number| cbor::label(*number) == label) {
                Some(number) => e.i64(number.try_into().unwrap()).unwrap(),
                None => e.str(label).unwrap(),
            };
            match value {
                Value::String(data) if label == "vd" => {
                    use base64::Engine;
                    e.bytes(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(data).unwrap()).unwrap()
                }
                Value::String(text) => e.str(text).unwrap(),
                Value::Bool(bool) => e.bool(*bool).unwrap(),
                Value::Number(number) if number.is_i64() => e.i64(number.as_i64().unwrap()).unwrap(),
                Value::Number(number) => e.f64(number.as_f64().unwrap()).unwrap(),
                _ => e.null().unwrap(),
            };
        }
    }
    e.into_writer()
}

/// Holds a pack against what it says, in both encodings.
fn check(pack: &str, expected: &Result<Value, &str>) {
    let reasons = |told: Result<Value, Undecodable>| told.map_err(|undecodable| undecodable.reason());
    assert_eq!(&reasons(told(&Format::SenmlJson, pack.as_bytes())), expected, "{pack}");
    assert_eq!(&reasons(told(&Format::SenmlCbor, &to_cbor(pack))), expected, "{pack}, in CBOR");
}

#[test]
fn examples_of_the_rfc_are_read() {
    let table = [
        // 5.1.1
        (
            r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#,
            json!([["", {"Cel": 23.1}, {"units": {"Cel": "Cel"}}]]),
        ),
        // 5.1.2
        (
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},
             {"n":"current","u":"A","v":1.2}]"#,
            json!([["", {"voltage": 120.1, "current": 1.2}, {"units": {"voltage": "V", "current": "A"}}]]),
        ),
        // 5.1.2, with SensML's end
        (
            r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":21.2},
             {"t":10,"v":21.3},{"t":20,"v":21.4}]"#,
            json!([["2011-10-31T13:24:24Z", {"RH": 21.2}, {"units": {"RH": "%RH"}}],
                ["2011-10-31T13:24:34Z", {"RH": 21.3}, {"units": {"RH": "%RH"}}],
                ["2011-10-31T13:24:44Z", {"RH": 21.4}, {"units": {"RH": "%RH"}}]]),
        ),
        // 5.1.3
        (
            r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},
             {"u":"lon","v":24.30621},{"u":"lat","v":60.07965},{"t":60,"v":20.3},
             {"u":"lon","t":60,"v":24.30622},{"u":"lat","t":60,"v":60.07965},{"u":"%EL","t":150,"v":98}]"#,
            json!([["2011-10-31T13:24:24Z", {"RH": 20.0, "lon": 24.30621, "lat": 60.07965},
                 {"units": {"RH": "%RH", "lon": "lon", "lat": "lat"}}],
                ["2011-10-31T13:25:24Z", {"RH": 20.3, "lon": 24.30622, "lat": 60.07965},
                 {"units": {"RH": "%RH", "lon": "lon", "lat": "lat"}}],
                ["2011-10-31T13:26:54Z", {"EL": 98.0}, {"units": {"EL": "%EL"}}]]),
        ),
        // 5.1.4
        (
            r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067464e+09,"v":20},
             {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067464e+09,"v":24.30621}]"#,
            json!([["2011-10-31T13:24:24Z", {"RH": 20.0, "lon": 24.30621}, {"units": {"RH": "%RH", "lon": "lon"}}]]),
        ),
        // 5.1.5
        (
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},
             {"n":"label","vs":"Machine Room"},{"n":"open","vb":false},{"n":"nfv-reader","vd":"aGkgCg"}]"#,
            json!([["", {"temp": 23.1}, {"label": "Machine Room", "open": false, "nfv-reader": "aGkgCg",
                 "units": {"temp": "Cel"}}]]),
        ),
        // 5.1.7
        (
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:"},{"n":"temp","u":"Cel","v":23.1},
             {"n":"heat","u":"/","v":1},{"n":"fan","u":"/","v":0}]"#,
            json!([["", {"temp": 23.1, "heat": 1.0, "fan": 0.0},
                 {"units": {"temp": "Cel", "heat": "/", "fan": "/"}}]]),
        ),
    ];
    for (pack, expected) in table {
        check(pack, &Ok(expected));
    }
    // 5.1.6 and 5.1.7: one quantity of two devices.
    for pack in [
        r#"[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},
            {"n":"humidity","u":"%RH","v":30},{"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3}]"#,
        r#"[{"bt":1.320078429e+09,"bu":"/","n":"2001:db8::3","v":1},{"n":"2001:db8::4","v":1}]"#,
    ] {
        check(pack, &Err("duplicate-field"));
    }
}

#[test]
fn dump_of_section_6_is_read_like_its_json() {
    let dump = hex::decode(
        "87a721781b75726e3a6465763a6f773a\
         3130653230373361303130383030363a\
         22fb41d303a15b001062236141200500\
         67766f6c7461676501615602fb405e06\
         6666666666a3006763757272656e7406\
         2402fb3ff3333333333333a300676375\
         7272656e74062302fb3ff4cccccccccc\
         cda3006763757272656e74062202fb3f\
         f6666666666666a3006763757272656e\
         74062102f93e00a3006763757272656e\
         74062002fb3ff999999999999aa30067\
         63757272656e74060002fb3ffb333333\
         333333",
    )
    .unwrap();
    let pack = br#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,
        "n":"voltage","u":"V","v":120.1},{"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},
        {"n":"current","t":-3,"v":1.4},{"n":"current","t":-2,"v":1.5},{"n":"current","t":-1,"v":1.6},
        {"n":"current","v":1.7}]"#;
    let units = json!({"units": {"current": "A"}});
    let expected = json!([
        ["2010-06-08T18:01:11.001000Z", {"current": 1.2}, units],
        ["2010-06-08T18:01:12.001000Z", {"current": 1.3}, units],
        ["2010-06-08T18:01:13.001000Z", {"current": 1.4}, units],
        ["2010-06-08T18:01:14.001000Z", {"current": 1.5}, units],
        ["2010-06-08T18:01:15.001000Z", {"current": 1.6}, units],
        ["2010-06-08T18:01:16.001000Z", {"current": 1.7, "voltage": 120.1},
         {"units": {"current": "A", "voltage": "V"}}],
    ]);
    assert_eq!(told(&Format::SenmlCbor, &dump).unwrap(), expected);
    assert_eq!(told(&Format::SenmlJson, pack).unwrap(), expected);
}

#[test]
fn base_fields_hold_until_the_next_of_their_kind() {
    let table = [
        (
            r#"[{"bn":"a/","bv":100,"n":"x","v":1},{"n":"y","v":2},{"bv":0,"n":"z","v":3},{"bn":"b:","n":"w","v":4}]"#,
            json!([["", {"x": 101.0, "y": 102.0, "z": 3.0, "w": 4.0}, {}]]),
        ),
        (
            r#"[{"bv":7,"n":"x"},{"bs":5,"n":"e","s":1},{"n":"p","v":2},{"n":"text","vs":"t"}]"#,
            json!([["", {"x": 7.0, "e.sum": 6.0, "p": 9.0, "p.sum": 5.0}, {"text": "t"}]]),
        ),
        (
            r#"[{"bt":1320067464,"bver":10},{"n":"x","v":1,"t":-0.5},{"bt":0,"n":"x","v":2}]"#,
            json!([["2011-10-31T13:24:23.500000Z", {"x": 1.0}, {}], ["", {"x": 2.0}, {}]]),
        ),
        (
            r#"[{"n":"x","v":1,"t":-60},{"n":"x","v":2,"t":60}]"#,
            json!([["2026-01-02T03:03:05.678901Z", {"x": 1.0}, {}], ["2026-01-02T03:05:05.678901Z", {"x": 2.0}, {}]]),
        ),
    ];
    for (pack, expected) in table {
        check(pack, &Ok(expected));
    }
}

#[test]
fn name_that_tells_no_quantity_leaves_it_to_the_unit() {
    let table = [
        ("temperature", "Cel", "temperature"),
        ("urn:dev:mac:0024befffe804ff1:temp", "Cel", "temp"),
        ("urn:dev:mac:b827eb000001/temp", "Cel", "temp"),
        ("urn:dev:mac:b827eb000001", "Cel", "Cel"),
        ("https://example.com/a/b", "", "b"),
        ("/3303/0/5700", "%RH", "RH"),
        ("/3303/0/5700", "/", "value"),
        ("", "", "value"),
        ("room/", "1/min", "value"),
    ];
    for (name, unit, metric) in table {
        assert_eq!(quantity(name, unit), metric, "{name} {unit}");
    }
}

#[test]
fn what_is_said_of_an_instant_without_a_metric_goes_with_its_neighbour() {
    let pack = r#"[{"n":"door","vb":true,"t":-9},{"n":"x","v":1,"t":-8},{"n":"x","v":2},{"n":"lamp","vb":false,"t":5}]"#;
    check(
        pack,
        &Ok(json!([["2026-01-02T03:03:57.678901Z", {"x": 1.0}, {"door": true}],
                           ["", {"x": 2.0}, {"lamp": false}]])),
    );
}

#[test]
fn every_refusal_has_its_reason() {
    let long = |bytes: usize| "n".repeat(bytes);
    let many = |count: usize, record: &dyn Fn(usize) -> String| {
        format!("[{}]", (0..count).map(record).collect::<Vec<_>>().join(","))
    };
    let table: &[(&str, &str)] = &[
        ("[]", "no-metric"),
        (r#"[{}]"#, "no-metric"),
        (r#"[{"bn":"x"}]"#, "no-metric"),
        (r#"[{"n":"x","vs":"text"}]"#, "no-metric"),
        (r#"[{"n":"x"}]"#, "not-senml"),
        (r#"[{"n":"x","v":1,"vs":"y"}]"#, "not-senml"),
        (r#"[{"n":"x","vb":true,"vs":"y"}]"#, "not-senml"),
        (r#"[{"n":"x","v":"1"}]"#, "not-senml"),
        (r#"[{"n":1,"v":1}]"#, "not-senml"),
        (r#"[{"n":"x","v":null}]"#, "not-senml"),
        (r#"[{"n":"x","v":1,"bver":-1}]"#, "not-senml"),
        (r#"[{"n":"x","v":1,"bver":11}]"#, "senml-version"),
        (r#"[{"n":"x","v":1,"must_":1}]"#, "mandatory-field"),
        (r#"[{"n":"x","v":1},{"n":"x","v":1}]"#, "duplicate-field"),
        (r#"[{"n":"x-y","v":1}]"#, "metric-name"),
        (&format!(r#"[{{"n":"{}","v":1}}]"#, long(65)), "metric-name"),
        (&format!(r#"[{{"n":"{}","s":1}}]"#, long(61)), "metric-name"),
        (&format!(r#"[{{"n":"{}","v":1}}]"#, long(257)), "not-senml"),
        (&format!(r#"[{{"bn":"{}","n":"x","v":1}}]"#, long(256)), "not-senml"),
        (&format!(r#"[{{"bu":"{}","n":"x","v":1}}]"#, long(33)), "not-senml"),
        (&format!(r#"[{{"n":"x","v":1}},{{"n":"{}","vs":""}}]"#, long(129)), "attribute-name"),
        (r#"[{"n":"x","v":1,"t":1e300}]"#, "timestamp-out-of-bounds"),
        (r#"[{"n":"x","v":1,"t":268435456}]"#, "timestamp-out-of-bounds"),
        (r#"[{"n":"x","v":1,"t":268435455}]"#, "timestamp-out-of-bounds"),
        (r#"[{"bv":1e308,"n":"x","v":1e308}]"#, "not-finite"),
        (r#"[{"n":"units","vs":"mine"},{"n":"x","u":"m","v":1}]"#, "duplicate-field"),
        (&many(READINGS_MAX + 1, &|n| format!(r#"{{"n":"x","v":1,"t":{n}}}"#)), "too-many-readings"),
        (&many(METRICS_MAX + 1, &|n| format!(r#"{{"n":"x{n}","v":1}}"#)), "too-many-metrics"),
    ];
    for (pack, reason) in table {
        check(pack, &Err(reason));
    }
    for (pack, reason) in [
        ("", "not-json"),
        ("[", "not-json"),
        (r#"[{"n":"x","v":1}]x"#, "not-json"),
        ("{}", "not-senml"),
        ("[1]", "not-senml"),
        (r#"[{"n":"x","v":1e999}]"#, "not-finite"),
        (r#"[{"n":"x","n":"y","v":1}]"#, "duplicate-field"),
    ] {
        assert_eq!(read(&Format::SenmlJson, pack.as_bytes()).unwrap_err().reason(), reason, "{pack}");
    }
    for (pack, reason) in [
        ("", "not-cbor"),
        ("81a1", "not-cbor"),
        ("9f", "not-cbor"),
        ("81a2006178020100", "not-cbor"),
        ("81bf00617802", "not-cbor"),
        ("9bffffffffffffffff", "not-cbor"),
        ("a0", "not-senml"),
        ("8101", "not-senml"),
        ("81a2006178024101", "not-senml"),
        ("81a1f601", "field-name"),
        ("81a300617802010202", "duplicate-field"),
        ("81a20061780900", "not-senml"),
        ("81a200617809", "not-cbor"),
        ("81a200617802f97c00", "not-finite"),
    ] {
        let payload = hex::decode(pack).unwrap();
        assert_eq!(read(&Format::SenmlCbor, &payload).unwrap_err().reason(), reason, "{pack}");
    }
}

#[test]
fn readings_of_one_pack_have_ids_of_their_own_and_a_resend_has_the_same() {
    let pack = br#"[{"bt":1320067464,"n":"x","v":1},{"n":"x","v":1,"t":1},{"n":"x","v":1,"t":0.000001}]"#;
    for event_id in [None, Some("e-7")] {
        let sent = Message { event_id, ..message(pack) };
        let later = Timestamp::parse("2026-01-02T03:05:00Z").unwrap();
        let ids = |message| -> Vec<_> {
            let readings = decode(&Format::SenmlJson, &message, &mut Births::default(), &LONG_AGO).unwrap();
            readings.iter().map(|reading| reading.event_id).collect()
        };
        let first = ids(sent);
        assert_eq!(first, ids(Message { received_at: later, ..sent }));
        assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
    }
    let named = Message { event_id: Some("e-7"), ..message(pack) };
    let first = decode(&Format::SenmlJson, &named, &mut Births::default(), &LONG_AGO);
    assert_eq!(first.unwrap()[0].event_id, schema::event_id_from_publisher("t-1", "e-7"));
}

proptest! {
    #[test]
    fn any_bytes_never_panic(payload: Vec<u8>) {
        let _ = read(&Format::SenmlJson, &payload);
        let _ = read(&Format::SenmlCbor, &payload);
    }

    #[test]
    fn any_measurements_are_read_back_from_both_encodings(
        measured in proptest::collection::btree_map(
            (0..400_000_000_i64, "m[a-z0-9_]{0,12}"),
            any::<f64>().prop_filter("can be stored", |number| number.abs() < schema::VALUE_MAX),
            1..40,
        )
    ) {
        let base_seconds = 1_320_000_000;
        let records: Vec<Value> = measured
            .iter()
            .map(|((time, name), value)| json!({"bn": "urn:dev:ow:1:", "bt": base_seconds, "n": name, "v": value, "t": time}))
            .collect();
        let pack = Value::from(records).to_string();
        for (format, payload) in [(Format::SenmlJson, pack.clone().into_bytes()), (Format::SenmlCbor, to_cbor(&pack))] {
            let read = read(&format, &payload).unwrap();
            let values: Vec<_> = read
                .iter()
                .flat_map(|reading| reading.values.iter().map(|(name, value)| {
                    ((reading.reading_at.as_micros() / 1_000_000 - base_seconds, name.clone()), *value)
                }))
                .collect();
            prop_assert_eq!(values, measured.clone().into_iter().collect::<Vec<_>>());
        }
    }
}

//! The examples of Sparkplug 3.0.0 (section 6.4), what may follow what, and what is refused.

use super::super::tests::{BOUNDS, message};
use super::super::{ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTES_MAX, METRICS_MAX, READINGS_MAX};
use super::super::{Format, decode as dispatch};
use super::payload::{Properties, Property};
use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

/// The examples are of February 2017, to the millisecond.
const SENT_MILLIS: u64 = 1_486_144_502_122;
const LONG_AGO: TimestampBounds =
    TimestampBounds { age_max: Duration::from_secs(20 * 366 * 86_400), ..BOUNDS };

/// One connection.
#[derive(Default)]
struct Node(Births);

impl Node {
    fn send(&mut self, subtopic: &str, payload: &[u8]) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
        let message = Message { subtopic, ..message(payload) };
        dispatch(&Format::SparkplugB, &message, &mut self.0, &LONG_AGO)
    }

    /// Values and attributes of each reading, or the reason.
    fn told(&mut self, subtopic: &str, metrics: &[Metric]) -> Result<serde_json::Value, &'static str> {
        let payload = Payload {
            timestamp: Some(SENT_MILLIS),
            metrics: metrics.iter().map(|metric| metric.encode_to_vec().into()).collect(),
        };
        let readings = self.send(subtopic, &payload.encode_to_vec());
        let readings = readings.map_err(|undecodable| undecodable.reason())?;
        Ok(readings.iter().map(|reading| json!([reading.values, reading.attributes])).collect())
    }
}

fn metric(name: &str, datatype: u32, value: Value) -> Metric {
    Metric {
        name: Some(name.to_owned()),
        timestamp: Some(SENT_MILLIS),
        datatype: Some(datatype),
        value: Some(value),
        ..Metric::default()
    }
}

fn with_alias(alias: u64, metric: Metric) -> Metric {
    Metric { alias: Some(alias), ..metric }
}

fn by_alias(alias: u64, value: Value) -> Metric {
    Metric { alias: Some(alias), timestamp: Some(SENT_MILLIS), value: Some(value), ..Metric::default() }
}

fn text(name: &str, text: &str) -> Metric {
    metric(name, 12, Value::Text(text.to_owned()))
}

fn bool(name: &str, bool: bool) -> Metric {
    metric(name, 11, Value::Boolean(bool))
}

#[test]
fn examples_of_the_specification_are_read() {
    let mut node = Node::default();
    let birth = [
        metric("bdSeq", 4, Value::Long(0)),
        bool("Node Control/Reboot", false),
        bool("Node Control/Rebirth", false),
        bool("Node Control/Next Server", false),
        metric("Node Control/Scan Rate", 4, Value::Long(3000)),
        text("Properties/Hardware Make", "Raspberry Pi"),
        text("Properties/OS Version", "Jessie with PIXEL/11.01.2017"),
        metric("Supply Voltage", 9, Value::Float(12.5)),
    ];
    let expected = json!([[
        {"Supply_Voltage": 12.5},
        {"Properties.Hardware_Make": "Raspberry Pi", "Properties.OS_Version": "Jessie with PIXEL/11.01.2017"}
    ]]);
    assert_eq!(node.told("NBIRTH", &birth), Ok(expected));
    let device_birth = [
        bool("Inputs/A", false),
        bool("Outputs/LEDs/Green", false),
        text("Properties/Hardware Make", "Pibrella"),
    ];
    let expected = json!([[
        {"Pibrella.Inputs.A": 0.0, "Pibrella.Outputs.LEDs.Green": 0.0},
        {"Pibrella.Properties.Hardware_Make": "Pibrella"}
    ]]);
    assert_eq!(node.told("DBIRTH/Pibrella", &device_birth), Ok(expected));
    let data = [metric("Supply Voltage", 9, Value::Float(12.25))];
    assert_eq!(node.told("NDATA", &data), Ok(json!([[{"Supply_Voltage": 12.25}, {}]])));
    let opened = node.told("DDATA/Pibrella", &[bool("Inputs/A", true)]);
    assert_eq!(opened, Ok(json!([[{"Pibrella.Inputs.A": 1.0}, {}]])));
    assert_eq!(node.told("NDEATH", &[metric("bdSeq", 4, Value::Long(0))]), Ok(json!([])));
    assert_eq!(node.0, Births::default());
}

#[test]
fn bytes_that_another_encoder_wrote_are_read() {
    let mut node = Node::default();
    let data =
        concat!("08eaf2f5a8a02b121e0a0e537570706c7920566f6c7461676518eaf2f5a8a02b", "200965cdcc44411802");
    let read = node.send("NDATA", &hex::decode(data).unwrap()).unwrap();
    assert_eq!(read[0].values["Supply_Voltage"].to_bits(), f64::from(12.3_f32).to_bits());
    assert_eq!(read[0].reading_at.to_string(), "2017-02-03T17:55:02.122000Z");
    // With an alias, metadata, properties, a data set, a payload's uuid and body, and -23 as Int8,
    // sign-extended.
    let birth = concat!(
        "08eaf2f5a8a02b121f0a0454656d70100718eaf2f5a8a02b20012801420208014a0050e9ffffff0f",
        "12150a03536574100818eaf2f5a8a02b20108a0102080212140a054c6576656c1009200a69000000",
        "000000e03f18002201752a0100"
    );
    let read = node.send("NBIRTH", &hex::decode(birth).unwrap()).unwrap();
    assert_eq!(json!(read[0].values), json!({"Temp": -23.0, "Level": 0.5}));
    let data = [by_alias(7, Value::Int(0xff)), by_alias(9, Value::Double(1.5))];
    assert_eq!(node.told("NDATA", &data), Ok(json!([[{"Temp": -1.0, "Level": 1.5}, {}]])));
}

#[test]
fn alias_stands_for_what_the_birth_of_its_own_device_declared() {
    let mut node = Node::default();
    let level = |alias| with_alias(alias, metric("Level", 2, Value::Int(1)));
    let data = |alias| [by_alias(alias, Value::Int(0xfffe))];
    assert_eq!(node.told("NDATA", &data(1)), Err("birth-unknown"));
    assert!(node.told("NBIRTH", &[level(1)]).is_ok());
    assert!(node.told("DBIRTH/pump 1", &[level(2)]).is_ok());
    assert_eq!(node.told("NDATA", &data(1)), Ok(json!([[{"Level": -2.0}, {}]])));
    assert_eq!(node.told("DDATA/pump 1", &data(2)), Ok(json!([[{"pump_1.Level": -2.0}, {}]])));
    assert_eq!(node.told("DDATA/pump 1", &data(1)), Err("birth-unknown"));
    assert_eq!(node.told("DDATA/pump 2", &data(2)), Err("birth-unknown"));
    // A name without a datatype leans on the birth as well.
    let named = Metric { datatype: None, ..metric("Level", 0, Value::Int(0xfffd)) };
    assert_eq!(node.told("NDATA", std::slice::from_ref(&named)), Ok(json!([[{"Level": -3.0}, {}]])));
    assert_eq!(node.told("DDATA/pump 1", &[named]), Ok(json!([[{"pump_1.Level": -3.0}, {}]])));

    assert!(node.told("DBIRTH/pump 1", &[level(3)]).is_ok());
    assert_eq!(node.told("DDATA/pump 1", &data(2)), Err("birth-unknown"), "the later birth counts");
    assert!(node.told("DDEATH/pump 1", &[]).is_ok());
    assert_eq!(node.told("DDATA/pump 1", &data(3)), Err("birth-unknown"));
    assert!(node.told("NDATA", &data(1)).is_ok());
    assert!(node.told("DBIRTH/pump 1", &[level(3)]).is_ok());
    assert!(node.told("NBIRTH", &[level(4)]).is_ok());
    assert_eq!(node.told("DDATA/pump 1", &data(3)), Err("birth-unknown"), "a node's birth begins anew");
}

#[test]
fn refused_birth_leaves_nothing_to_guess_by_but_refused_values_leave_the_names() {
    let mut node = Node::default();
    let level = with_alias(1, metric("Level", 9, Value::Float(1.0)));
    assert!(node.told("NBIRTH", std::slice::from_ref(&level)).is_ok());
    assert_eq!(node.send("NBIRTH", b"\xff"), Err(Undecodable::NotProtobuf));
    assert_eq!(node.told("NDATA", &[by_alias(1, Value::Float(1.0))]), Err("birth-unknown"));
    let broken = with_alias(1, metric("Level", 9, Value::Float(f32::NAN)));
    assert_eq!(node.told("NBIRTH", &[broken]), Err("not-finite"));
    assert!(node.told("NDATA", &[by_alias(1, Value::Float(1.0))]).is_ok());
}

#[test]
fn data_are_dated_one_by_one_and_a_birth_by_its_payload() {
    let at = |millis, metric| Metric { timestamp: Some(SENT_MILLIS + millis), ..metric };
    let metrics = [
        at(2, metric("a", 9, Value::Float(2.0))),
        at(0, metric("a", 9, Value::Float(0.5))),
        at(1, bool("open", true)),
        at(2, metric("b", 9, Value::Float(3.0))),
    ];
    let mut node = Node::default();
    let expected = json!([[{"a": 0.5}, {}], [{"open": 1.0}, {}], [{"a": 2.0, "b": 3.0}, {}]]);
    assert_eq!(node.told("NDATA", &metrics), Ok(expected));
    let aged = Metric { timestamp: Some(1), ..metric("a", 9, Value::Float(2.0)) };
    assert_eq!(node.told("NBIRTH", std::slice::from_ref(&aged)), Ok(json!([[{"a": 2.0}, {}]])));
    let historical = Metric { is_historical: Some(true), ..at(1, metric("a", 9, Value::Float(1.0))) };
    let birth = [historical, metric("b", 9, Value::Float(2.0))];
    assert_eq!(node.told("NBIRTH", &birth), Ok(json!([[{"b": 2.0}, {}], [{"a": 1.0}, {}]])));
    assert_eq!(node.told("NDATA", &[aged]), Err("timestamp-out-of-bounds"));
}

#[test]
fn integers_are_read_by_their_datatype() {
    let table: &[(u32, Value, Result<f64, &str>)] = &[
        (1, Value::Int(0x7f), Ok(127.0)),
        (1, Value::Int(0x80), Ok(-128.0)),
        (1, Value::Int(0xffff_ff80), Ok(-128.0)),
        (1, Value::Int(0x100), Err("datatype")),
        (1, Value::Int(0xffff_fe80), Err("datatype")),
        (2, Value::Int(0x8000), Ok(-32768.0)),
        (3, Value::Int(0xffff_ffff), Ok(-1.0)),
        (3, Value::Long(u64::MAX), Ok(-1.0)),
        (3, Value::Long(0xffff_ffff), Ok(-1.0)),
        (4, Value::Long(u64::MAX), Ok(-1.0)),
        (4, Value::Long(1 << 63), Ok(-9_223_372_036_854_775_808.0)),
        (5, Value::Int(0xff), Ok(255.0)),
        (5, Value::Int(0x100), Err("datatype")),
        (6, Value::Int(0xffff), Ok(65535.0)),
        (7, Value::Long(0xffff_ffff), Ok(4_294_967_295.0)),
        (7, Value::Long(1 << 32), Err("datatype")),
        (8, Value::Long(u64::MAX), Ok(18_446_744_073_709_551_615.0)),
        (9, Value::Int(1), Err("datatype")),
        (0, Value::Int(1), Err("datatype")),
        (99, Value::Int(1), Err("datatype")),
        (11, Value::Int(2), Err("datatype")),
        (13, Value::Long(u64::MAX), Err("timestamp-out-of-bounds")),
    ];
    for (datatype, value, expected) in table {
        let expected = expected.map(|number| json!([[{"m": number}, {}]]));
        let read = Node::default().told("NDATA", &[metric("m", *datatype, value.clone())]);
        assert_eq!(read, expected, "{datatype} {value:?}");
    }
    let others = [
        metric("m", 10, Value::Double(1.0)),
        metric("on", 11, Value::Int(1)),
        metric("since", 13, Value::Long(SENT_MILLIS)),
        Metric { is_null: Some(true), ..metric("null", 9, Value::Float(f32::NAN)) },
        Metric { is_transient: Some(true), ..metric("transient", 9, Value::Float(1.0)) },
        Metric { value: None, ..metric("bytes", 17, Value::Int(0)) },
    ];
    let expected = json!([[{"m": 1.0, "on": 1.0}, {"since": "2017-02-03T17:55:02.122000Z"}]]);
    assert_eq!(Node::default().told("NDATA", &others), Ok(expected));
}

#[test]
fn data_that_are_all_passed_over_are_no_fault() {
    let null = Metric { is_null: Some(true), value: None, ..metric("level", 9, Value::Float(0.0)) };
    let transient = Metric { is_transient: Some(true), ..metric("progress", 9, Value::Float(0.5)) };
    let bytes = Metric { value: None, ..metric("picture", 17, Value::Int(0)) };
    for metrics in [&[null][..], &[transient, bytes], &[bool("Node Control/Rebirth", false)]] {
        assert_eq!(Node::default().told("NDATA", metrics), Ok(json!([])));
    }
    let control = [bool("Device Control/Reboot", false)];
    assert_eq!(Node::default().told("DDATA/pump 1", &control), Ok(json!([])));
    for metrics in [&[][..], &[text("state", "on")]] {
        assert_eq!(Node::default().told("NDATA", metrics), Err("no-metric"), "it says something else");
    }
}

#[test]
fn value_that_its_own_device_does_not_believe_is_an_attribute() {
    let of_quality = |quality| {
        let properties = Properties {
            keys: vec!["Units".to_owned(), "Quality".to_owned()],
            values: vec![Property { int_value: None }, Property { int_value: Some(quality) }],
        };
        Metric { properties: Some(properties), ..metric("level", 10, Value::Double(7.5)) }
    };
    let other = || metric("m", 10, Value::Double(1.0));
    let good = Node::default().told("NDATA", &[of_quality(192), other()]);
    assert_eq!(good, Ok(json!([[{"level": 7.5, "m": 1.0}, {}]])));
    for quality in [0, 500] {
        let told = Node::default().told("NDATA", &[of_quality(quality), other()]);
        let expected = json!([[{"m": 1.0}, {"level": {"value": 7.5, "quality": quality}}]]);
        assert_eq!(told, Ok(expected));
    }
}

#[test]
fn what_no_reading_can_hold_is_refused_with_its_reason() {
    let number = |n: usize| metric(&format!("m{n}"), 10, Value::Double(1.0));
    let many = |count, make: &dyn Fn(usize) -> Metric| (0..count).map(make).collect::<Vec<_>>();
    let at =
        |n: usize| Metric { timestamp: Some(SENT_MILLIS + n as u64), ..metric("m", 10, Value::Double(1.0)) };
    let dated = |millis| Metric { timestamp: Some(millis), ..number(0) };
    let table: &[(Vec<Metric>, &str)] = &[
        (vec![metric("m", 9, Value::Float(f32::INFINITY))], "not-finite"),
        (vec![metric("m", 10, Value::Double(f64::NAN))], "not-finite"),
        (vec![dated(0)], "timestamp-out-of-bounds"),
        (vec![dated(u64::MAX)], "timestamp-out-of-bounds"),
        (vec![dated(4_000_000_000_000)], "timestamp-out-of-bounds"),
        (many(METRICS_MAX + 1, &number), "too-many-metrics"),
        (many(READINGS_MAX + 1, &at), "too-many-readings"),
        (many(ATTRIBUTES_MAX + 1, &|n| text(&format!("a{n}"), "x")), "too-many-attributes"),
        (vec![number(0), text(&"a".repeat(ATTRIBUTE_NAME_BYTES_MAX + 1), "x")], "attribute-name"),
        (vec![metric(&"m".repeat(65), 10, Value::Double(1.0))], "metric-name"),
    ];
    for (metrics, reason) in table {
        assert_eq!(Node::default().told("NDATA", metrics), Err(*reason));
    }
    assert!(Node::default().told("NDATA", &many(METRICS_MAX, &number)).is_ok());
    assert!(Node::default().told("NDATA", &many(READINGS_MAX, &at)).is_ok());
}

#[test]
fn names_become_metric_names_or_are_refused() {
    let table = [
        ("", "Temperature/Zone 1", Ok("Temperature.Zone_1")),
        ("", "Node Control/Rebirth", Ok("Node_Control.Rebirth")),
        ("", "1st floor", Ok("m_1st_floor")),
        ("", "/a", Ok("m_.a")),
        ("", "größe°", Ok("gr__e_")),
        ("pump.1", "a.b", Ok("pump_1.a.b")),
        ("", "", Err(Undecodable::MetricName(Name::of("")))),
    ];
    for (device, given, expected) in table {
        assert_eq!(name(device, given), expected.map(str::to_owned), "{device} {given}");
    }
    let level = |name: &str| metric(name, 9, Value::Float(1.0));
    let table: &[(&[Metric], &str)] = &[
        (&[level("a b"), level("a/b"), level("a_b")], "name-collision"),
        (&[with_alias(1, level("a")), with_alias(1, level("b"))], "name-collision"),
        (&[Metric { name: None, ..with_alias(1, level("a")) }], "birth-incomplete"),
        (&[Metric { datatype: None, ..level("a") }], "birth-incomplete"),
        (&[level(&"m".repeat(65))], "metric-name"),
        (&[level(&"m".repeat(600))], "metric-name"),
        (&[level("")], "metric-name"),
    ];
    for (metrics, reason) in table {
        assert_eq!(Node::default().told("NBIRTH", metrics), Err(*reason));
    }
    let mut node = Node::default();
    assert!(node.told("NBIRTH", &[level("pump/level")]).is_ok());
    assert_eq!(node.told("DBIRTH/pump", &[level("level")]), Err("name-collision"));
    let twice = [level("a b"), level("a_b")];
    assert_eq!(node.told("NDATA", &twice), Err("duplicate-field"));
}

#[test]
fn topic_says_what_kind_of_message_it_is() {
    let metrics = [metric("m", 9, Value::Float(1.0))];
    for subtopic in ["NBIRTH", "NDATA", "DBIRTH", "DBIRTH/d", "DDATA/d", "NDEATH", "DDEATH/d"] {
        assert!(Node::default().told(subtopic, &metrics).is_ok(), "{subtopic}");
    }
    for subtopic in ["", "ndata", "NCMD", "STATE", "NDATA/d", "DDATA/d/e", "x/NDATA"] {
        assert_eq!(Node::default().told(subtopic, &metrics), Err("sparkplug-kind"), "{subtopic}");
    }
}

#[test]
fn births_of_a_connection_are_bounded() {
    let births = |count: usize, device: &str| -> Vec<Metric> {
        (0..count).map(|n| text(&format!("{device}{n}"), "")).collect()
    };
    let mut node = Node::default();
    assert_eq!(node.told("NBIRTH", &births(BORN_MAX + 1, "m")), Err("too-many-born"));
    assert_eq!(node.told("NBIRTH", &births(BORN_MAX, "m")), Err("too-many-attributes"));
    assert_eq!(node.0.len(), BORN_MAX);
    assert_eq!(node.told("DBIRTH/d", &births(1, "m")), Err("too-many-born"));
    let flood = [0x12, 0x00].repeat(100_000);
    assert_eq!(node.send("NDATA", &flood), Err(Undecodable::TooManyBorn));
}

proptest! {
    #[test]
    fn any_bytes_never_panic(payload: Vec<u8>, subtopic in "[ND](BIRTH|DATA)(/d)?") {
        let _ = Node::default().send(&subtopic, &payload);
    }

    #[test]
    fn any_integer_is_read_back_in_both_of_its_forms(number: i64, bits in prop::sample::select(vec![8_u32, 16, 32, 64])) {
        let number = number >> (64 - bits);
        let datatype = bits.ilog2() - 2;
        let own_width = u64::from_le_bytes(number.to_le_bytes()) & (u64::MAX >> (64 - bits));
        #[expect(clippy::cast_precision_loss, reason = "so is a metric")]
        let expected = number as f64;
        prop_assert_eq!(integer(own_width, 64, datatype, "n"), Ok(expected));
        prop_assert_eq!(integer(u64::from_le_bytes(number.to_le_bytes()), 64, datatype, "n"), Ok(expected));
    }

    #[test]
    fn any_data_are_read_back(
        values in proptest::collection::btree_map(
            "m[a-z0-9_]{0,12}", any::<f64>().prop_filter("can be stored", |number| number.abs() < schema::VALUE_MAX), 1..20
        )
    ) {
        let metrics: Vec<_> = values.iter().map(|(name, value)| metric(name, 10, Value::Double(*value))).collect();
        prop_assert_eq!(Node::default().told("NDATA", &metrics), Ok(json!([[values, {}]])));
    }
}

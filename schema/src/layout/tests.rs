use super::*;
use proptest::prelude::*;

fn problems(json: &str) -> Vec<String> {
    Layout::parse(json).unwrap_err()
}

#[test]
fn layout_says_where_each_metric_lies() {
    let layout = Layout::parse(
        r#"{"length":12,
            "fields":[{"metric":"temperature","at":0,"type":"i16be","scale":0.01,"offset":-40},
                      {"metric":"battery.low","at":2,"type":"u8","bits":[7,1]},
                      {"metric":"flow","at":4,"type":"f32le"}],
            "timestamp":{"at":8,"type":"u32be","unit":"ms"}}"#,
    )
    .unwrap();
    let number = |at, bytes, kind, is_big_endian| LayoutNumber { at, bytes, kind, is_big_endian };
    assert_eq!(layout.length, 12);
    assert_eq!(layout.fields[0].metric, "temperature");
    assert_eq!(layout.fields[0].number, number(0, 2, LayoutKind::Signed, true));
    assert_eq!((layout.fields[0].scale, layout.fields[0].offset), (0.01, -40.0));
    assert_eq!(layout.fields[1].bits, Some((7, 1)));
    assert_eq!((layout.fields[1].scale, layout.fields[1].offset), (1.0, 0.0));
    assert_eq!(layout.fields[2].number, number(4, 4, LayoutKind::Float, false));
    let clock = LayoutClock { number: number(8, 4, LayoutKind::Unsigned, true), unit_micros: 1_000 };
    assert_eq!(layout.timestamp, Some(clock));
}

#[test]
fn every_type_is_known_and_no_other() {
    for (name, bytes) in [("u8", 1), ("i8", 1)] {
        assert_eq!(number_type(name).unwrap().bytes, bytes);
    }
    for kind in ["u", "i", "f"] {
        for (bits, bytes) in [("16", 2), ("24", 3), ("32", 4), ("64", 8)] {
            for order in ["le", "be"] {
                let number = number_type(&format!("{kind}{bits}{order}"));
                let expected = (kind != "f" || bytes >= 4).then_some((bytes, order == "be"));
                assert_eq!(number.map(|number| (number.bytes, number.is_big_endian)), expected);
            }
        }
    }
    for name in ["", "u", "u16", "u8le", "U8", "f16le", "u128le", "é8", "u7"] {
        assert_eq!(number_type(name), None, "{name}");
    }
}

#[test]
fn every_problem_is_listed_at_its_place() {
    let found = problems(
        r#"{"length":4,"colour":1,
            "fields":[{"metric":"1","at":3,"type":"u16le"},
                      {"metric":"a","at":0,"type":"u17","scale":0,"offset":"x"},
                      {"metric":"a","at":-1,"type":"u8","name":"b"},
                      {"metric":"b","at":0,"type":"u8","bits":[7,2]},
                      {"metric":"c","at":0,"type":"f32le","bits":[0,1]},
                      7],
            "timestamp":{"at":0,"type":"u16le","unit":"h"}}"#,
    );
    let places: Vec<_> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "layout",
            "fields[0].metric",
            "fields[0].at",
            "fields[1].type",
            "fields[1].scale",
            "fields[1].offset",
            "fields[2]",
            "fields[2].metric",
            "fields[2].at",
            "fields[3].bits",
            "fields[4].bits",
            "fields[5]",
            "timestamp.type",
            "timestamp.unit",
        ]
    );
}

#[test]
fn what_is_no_layout_is_one_problem() {
    let field = r#"{"metric":"a","at":0,"type":"u8"}"#;
    let many = vec![field; LAYOUT_FIELDS_MAX + 1].join(",");
    for json in [
        "",
        "[]",
        "null",
        r#"{"length":1,"fields":[]}"#,
        r#"{"length":1}"#,
        &format!(r#"{{"fields":[{field}]}}"#),
        &format!(r#"{{"length":0,"fields":[{field}]}}"#),
        &format!(r#"{{"length":65537,"fields":[{field}]}}"#),
        &format!(r#"{{"length":1.5,"fields":[{field}]}}"#),
        &format!(r#"{{"length":1,"fields":[{many}]}}"#),
        &format!(r#"{{"length":1,"fields":[{field}],"timestamp":null}}"#),
        &" ".repeat(LAYOUT_BYTES_MAX + 1),
    ] {
        assert_eq!(problems(json).len(), 1, "{}: {:?}", &json[..json.len().min(60)], problems(json));
    }
    assert!(Layout::parse(&format!(r#"{{"length":1,"fields":[{field}]}}"#)).is_ok());
}

proptest! {
    #[test]
    fn any_text_is_a_layout_or_has_a_problem(
        json in r#"\{"length":[0-9]{1,3},"fields":\[(\{"metric":"[a-z]{1,2}","at":-?[0-9]{1,2},"type":"[uif](8|16le|32be|64le)"(,"bits":\[[0-9],[0-9]\])?\},?){0,3}\]\}"#
    ) {
        match Layout::parse(&json) {
            Ok(layout) => for field in &layout.fields {
                prop_assert!(field.number.at + field.number.bytes <= layout.length);
            },
            Err(problems) => prop_assert!(!problems.is_empty()),
        }
    }
}

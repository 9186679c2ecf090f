use super::*;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use proptest::prelude::*;
use schema::{Timestamp, event_id_from_publisher};
use serde_json::json;

fn reading(sensor_id: &str, number: i64, at: &str, values: &[(&str, f64)]) -> ReadingCreatedEvent {
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(sensor_id, &number.to_string()),
        sensor_id: sensor_id.into(),
        device_type: "THERMOSTAT".into(),
        zone_id: "kitchen".into(),
        values: values.iter().map(|(metric, value)| ((*metric).into(), *value)).collect(),
        attributes: serde_json::Map::new(),
        reading_at: Timestamp::parse(at).unwrap(),
        received_at: Timestamp::parse("2026-11-21T10:00:00Z").unwrap(),
    }
}

fn record(offset: i64, reading: &ReadingCreatedEvent) -> Record {
    Record { offset, value: Some(serde_json::to_vec(reading).unwrap()) }
}

/// Returns every row as its fields' texts, joined by a bar.
fn rows(content: &Bytes) -> Vec<String> {
    let reader = SerializedFileReader::new(content.clone()).unwrap();
    let text = |field: &Field| match field {
        Field::Str(text) => text.clone(),
        Field::TimestampMicros(micros) => Timestamp::from_micros(*micros).unwrap().to_string(),
        other => other.to_string(),
    };
    let row =
        |row: parquet::record::Row| row.get_column_iter().map(|(_, field)| text(field)).collect::<Vec<_>>();
    reader.get_row_iter(None).unwrap().map(|read| row(read.unwrap()).join("|")).collect()
}

#[test]
fn each_day_of_reading_has_its_file_and_each_metric_value_its_row() {
    let mut late = reading("b", 2, "2026-11-20T23:59:59.999999Z", &[("temperature", 20.5)]);
    late.attributes = json!({"firmware": "1.2"}).as_object().unwrap().clone();
    let readings = [
        record(10, &reading("b", 1, "2026-11-21T00:00:00Z", &[("temperature", 21.5), ("humidity", 40.0)])),
        record(11, &late),
        record(12, &reading("a", 3, "2026-11-21T00:00:01Z", &[("temperature", -1.0)])),
    ];
    let cut = Cut { partition: 3, first: 10, last: 12 };
    let Files { manifest, files } = files_of(cut, &readings).unwrap();
    assert_eq!((manifest.records, manifest.undecodable), (3, 0));
    assert_eq!(manifest.rows, BTreeMap::from([("2026-11-20".into(), 1), ("2026-11-21".into(), 3)]));
    let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    let range = "part=3/00000000000000000010-00000000000000000012.parquet";
    let path = |day| format!("readings/day={day}/{range}");
    assert_eq!(paths, [path("2026-11-20"), path("2026-11-21")]);
    let id = event_id_from_publisher("b", "2");
    let yesterday = format!(
        "b|temperature|2026-11-20T23:59:59.999999Z|20.5|{id}|2026-11-21T10:00:00.000000Z|THERMOSTAT|kitchen|{{\"firmware\":\"1.2\"}}|3|11"
    );
    assert_eq!(rows(&files[0].1), [yesterday]);
    let today = rows(&files[1].1);
    assert!(today[0].starts_with("a|temperature|") && today[0].ends_with("|null|3|12"), "{today:?}");
    assert!(today[1].starts_with("b|humidity|") && today[2].starts_with("b|temperature|"), "{today:?}");
}

#[test]
fn what_is_no_reading_is_counted_and_left_out() {
    let mut nameless = reading("a", 1, "2026-11-21T00:00:00Z", &[("m", 1.0)]);
    nameless.sensor_id = "a/b".into();
    let records = [
        Record { offset: 0, value: None },
        Record { offset: 1, value: Some(b"no reading".to_vec()) },
        record(2, &nameless),
        record(3, &reading("a", 1, "2026-11-21T00:00:00Z", &[])),
        record(4, &reading("a", 1, "2026-11-21T00:00:00Z", &[("m", 1.0)])),
    ];
    let files = files_of(Cut { partition: 0, first: 0, last: 4 }, &records).unwrap();
    assert_eq!((files.manifest.records, files.manifest.undecodable, files.files.len()), (5, 4, 1));
    let none = files_of(Cut { partition: 0, first: 0, last: 3 }, &records[..4]).unwrap();
    assert!(none.files.is_empty() && none.manifest.rows.is_empty());
}

#[test]
fn more_rows_than_are_laid_out_at_once_are_all_there() {
    let metrics: Vec<String> = (0..1_000).map(|number| format!("m{number}")).collect();
    let values: Vec<(&str, f64)> = metrics.iter().map(|metric| (metric.as_str(), 1.0)).collect();
    let one = reading("a", 1, "2026-11-21T00:00:00Z", &values);
    let records: Vec<_> = (0..300).map(|offset| record(offset, &one)).collect();
    let files = files_of(Cut { partition: 0, first: 0, last: 299 }, &records).unwrap();
    let reader = SerializedFileReader::new(files.files[0].1.clone()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 300_000);
    assert_eq!(reader.num_row_groups(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Two instances that write one cut write the same bytes, and no value is lost on the way.
    #[test]
    fn any_records_give_the_same_files_twice_and_all_their_values(
        values in prop::collection::vec((0..3_u8, 0..4_u8, any::<f64>().prop_filter("finite", |value| value.is_finite())), 1..60)
    ) {
        let records: Vec<_> = values.iter().zip(0..).map(|((sensor, day, value), offset)| {
            let at = format!("2026-01-0{}T00:00:00Z", day + 1);
            record(offset, &reading(&format!("s{sensor}"), offset, &at, &[("m", *value)]))
        }).collect();
        let cut = Cut { partition: 0, first: 0, last: 99 };
        let (one, two) = (files_of(cut, &records).unwrap(), files_of(cut, &records).unwrap());
        prop_assert_eq!(&one.files, &two.files);
        let mut found: Vec<u64> = Vec::new();
        for (_, content) in &one.files {
            let reader = SerializedFileReader::new(content.clone()).unwrap();
            for row in reader.get_row_iter(None).unwrap() {
                let row = row.unwrap();
                let (_, Field::Double(value)) = row.get_column_iter().nth(3).unwrap() else { panic!("no double") };
                found.push(value.to_bits());
            }
        }
        let mut expected: Vec<u64> = values.iter().map(|(_, _, value)| value.to_bits()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_decode_or_are_left_out(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let files = files_of(Cut { partition: 0, first: 0, last: 0 }, &[Record { offset: 0, value: Some(bytes) }]);
        prop_assert!(files.is_ok());
    }
}

//! The lake as a stranger reads it: DuckDB and the lines of docs/lake.md.

use crate::python;
use crate::support::{Stage, reading};
use serde_json::{Value, json};

const DOCUMENT: &str = include_str!("../../docs/lake.md");

/// Runs SQL and returns the rows of its last statement.
async fn duckdb(sql: &str) -> Value {
    let script = "import duckdb, json, sys\n\
                  print(json.dumps(duckdb.connect().execute(sys.argv[1]).fetchall(), default=str))";
    serde_json::from_str(&python::run(script, &[sql]).await).unwrap()
}

/// The document's SQL, for another folder.
fn documented_sql(folder: &str) -> Vec<String> {
    let blocks = DOCUMENT.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.map(|block| block.replace("/var/lib/lake", folder)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_reads_every_event_once_by_the_lines_of_the_document() {
    let stage = Stage::set().await;
    let mut all = vec![
        reading(0, "2026-11-21T10:00:00.000001Z"),
        reading(13, "2026-11-21T10:59:59Z"), // the same sensor
        reading(1, "2026-11-21T10:30:00Z"),
        reading(2, "2026-11-20T23:59:59.999999Z"),
    ];
    all[1].attributes = json!({"firmware": "1.2", "note": "süß"}).as_object().unwrap().clone();
    let again = all[1].clone(); // retransmitted: another record, the same event
    stage.publish(&all).await;
    stage.publish(&[again]).await;
    let process = stage.spawn(&[]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));

    let folder = stage.folder.path().to_str().unwrap();
    let [view, of_a_day, audit] = documented_sql(folder).try_into().unwrap();
    let rows =
        duckdb(&format!("{view}; SELECT count(*), count(DISTINCT event_id), sum(value) FROM readings")).await;
    assert_eq!(rows, json!([[8, 4, 0.0]]), "the retransmission counts once");
    let types = duckdb(&format!("{view}; SELECT column_name, column_type FROM (DESCRIBE readings)")).await;
    for (name, expected) in [
        ("reading_at", "TIMESTAMP WITH TIME ZONE"),
        ("received_at", "TIMESTAMP WITH TIME ZONE"),
        ("value", "DOUBLE"),
        ("day", "DATE"),
        ("kafka_partition", "INTEGER"),
        ("kafka_offset", "BIGINT"),
    ] {
        assert!(types.as_array().unwrap().contains(&json!([name, expected])), "{name}: {types}");
    }
    let instants = "SELECT sensor_id, epoch_us(reading_at), attributes FROM readings WHERE metric = 'humidity' ORDER BY ALL";
    let rows = duckdb(&format!("{view}; {instants}")).await;
    assert_eq!(rows[0], json!(["s0", 1_795_255_200_000_001_i64, null]));
    let attributes: Value = serde_json::from_str(rows[1][2].as_str().unwrap()).unwrap();
    assert_eq!(attributes, json!({"firmware": "1.2", "note": "süß"}));

    let hours = duckdb(&format!("{view}; {of_a_day}")).await;
    assert_eq!(hours[0], json!(["s0", "temperature", "2026-11-21 10:00:00", 2, 6.5]), "{hours}");
    assert_eq!(hours.as_array().unwrap().len(), 2, "a day is a day of readings: {hours}");
    assert_eq!(duckdb(&audit).await, json!([[10, 0]]), "records in files, and origins that stand twice");
}

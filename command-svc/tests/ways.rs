//! The two ways into the table leave the same rows and the same read models.

use crate::support::{batch, reading};
use command_svc::store::Store;
use schema::ReadingCreatedEvent;
use schema::migrations::Dialect;
use serde_json::json;
use testkit::postgres::{Database, dialects};

const TABLES: [&str; 3] = [
    "SELECT md5(string_agg(r::text, '|' ORDER BY sensor_id, metric, reading_at, event_id)) FROM readings_ingestion r",
    "SELECT md5(string_agg(r::text, '|' ORDER BY sensor_id, metric)) FROM sensor_latest r",
    "SELECT md5(string_agg(row(bucket, sensor_id, metric, device_type, zone_id, avg, min, max, count, sum)::text, '|' \
     ORDER BY sensor_id, metric, bucket, device_type, zone_id)) FROM sensor_reading_hourly_aggregates",
];

fn readings(count: u32) -> Vec<ReadingCreatedEvent> {
    (0..count)
        .map(|number| {
            let at = format!("2026-01-{:02}T{:02}:59:59.5Z", 1 + number % 3, number * 7 % 24);
            let mut reading = reading(&format!("s{}", number % 11), number, &at, f64::from(number % 17));
            reading.values.insert("humidity".into(), f64::from(number % 5));
            if number % 4 == 0 {
                reading.attributes =
                    json!({"firmware": "1.2", "nested": [1, null]}).as_object().unwrap().clone();
            }
            if number % 100 == 99 {
                reading.zone_id = "moved".into();
            }
            reading
        })
        .collect()
}

pub(crate) async fn fingerprint(database: &Database) -> Vec<String> {
    let client = database.client().await;
    let mut found = Vec::new();
    for sql in TABLES {
        found.push(client.query_one(sql, &[]).await.unwrap().get(0));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_small_ones_and_redelivered_ones_leave_the_same_tables() {
    for dialect in dialects().await {
        every_way_leaves_the_same_tables(dialect).await;
    }
}

async fn every_way_leaves_the_same_tables(dialect: Dialect) {
    let readings = readings(2_000);
    let stores = async |batches: Vec<&[ReadingCreatedEvent]>| {
        let database = Database::create_with(dialect).await;
        let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
        let mut inserted = 0;
        for part in batches {
            inserted += store.write(batch(part).readings()).await.unwrap();
        }
        database.refresh_hours().await;
        (inserted, fingerprint(&database).await)
    };
    let (copied, by_copy) = stores(vec![&readings]).await;
    let (stated, by_statement) = stores(readings.chunks(100).collect()).await;
    // The second batch overlaps the first: its COPY meets a duplicate and the statement takes over.
    let (overlapping, by_both) = stores(vec![&readings[..1_200], &readings[600..], &readings]).await;
    assert_eq!((copied, stated, overlapping), (4_000, 4_000, 4_000));
    assert_eq!(by_copy, by_statement);
    assert_eq!(by_copy, by_both);
}
